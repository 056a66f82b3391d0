use proptest::prelude::*;

use super::*;
use crate::multipart::head::Encoding;

/// The parts of a body as (name, content), fed in chunks of `size`.
fn parts_in(body: &[u8], boundary: &str, size: usize) -> Result<Vec<(String, Vec<u8>)>, ReadError> {
    let chunks = body.chunks(size.max(1)).map(Bytes::copy_from_slice);
    parts_of(chunks, boundary)
}

fn parts_of(
    mut chunks: impl Iterator<Item = Bytes>,
    boundary: &str,
) -> Result<Vec<(String, Vec<u8>)>, ReadError> {
    let mut reader = MultipartReader::new(boundary, 16, 16 << 10).unwrap();
    let mut parts = Vec::new();
    let mut open: Option<(String, Vec<u8>)> = None;
    loop {
        match reader.next()? {
            Event::NeedMore => match chunks.next() {
                Some(chunk) => reader.push(chunk),
                None => reader.finish(),
            },
            Event::PartHead(head) => {
                assert!(open.is_none());
                open = Some((head.name, Vec::new()));
            }
            Event::Data(data) => {
                assert!(!data.is_empty());
                open.as_mut().unwrap().1.extend_from_slice(&data);
            }
            Event::PartEnd => parts.push(open.take().unwrap()),
            Event::End => {
                assert!(open.is_none());
                return Ok(parts);
            }
        }
        assert!(reader.input.len() <= 3);
    }
}

fn part(name: &str, content: &[u8]) -> Vec<u8> {
    let mut bytes = format!("Content-Disposition: form-data; name=\"{name}\"\r\n\r\n").into_bytes();
    bytes.extend_from_slice(content);
    bytes
}

fn body(boundary: &str, parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, content) in parts {
        bytes.extend_from_slice(format!("--{boundary}\r\n").as_bytes());
        bytes.extend_from_slice(&part(name, content));
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    bytes
}

fn owned(parts: &[(&str, &[u8])]) -> Vec<(String, Vec<u8>)> {
    parts
        .iter()
        .map(|(name, content)| ((*name).to_owned(), content.to_vec()))
        .collect()
}

#[test]
fn bodies_are_read_alike_however_they_are_cut() {
    let contents: [&[(&str, &[u8])]; 6] = [
        &[],
        &[("file", b"")],
        &[("file", b"hello"), ("checksum", b"abc")],
        &[("a", b"\r\n"), ("b", b"\r\r\n--"), ("c", b"\r\n--X")],
        &[("file", b"\r\n--XyZ\r\n--XyzA\r\n--Xyz-\r\n--Xyz--A\r\n--Xy")],
        &[("file", b"--Xyz\r\n\r\n--Xyz \t x\r\r\n--Xyz\r")],
    ];
    for parts in contents {
        let body = body("Xyz", parts);
        for size in 1..=body.len() {
            assert_eq!(parts_in(&body, "Xyz", size), Ok(owned(parts)), "by {size}");
        }
        for cut in 0..=body.len() {
            let (a, b) = body.split_at(cut);
            let chunks = [Bytes::copy_from_slice(a), Bytes::copy_from_slice(b)];
            assert_eq!(
                parts_of(chunks.into_iter(), "Xyz"),
                Ok(owned(parts)),
                "at {cut}"
            );
        }
    }
}

#[test]
fn preamble_padding_and_epilogue_mean_nothing() {
    let bodies: [&[u8]; 4] = [
        b"--B\r\nContent-Disposition: form-data; name=f\r\n\r\nx\r\n--B--",
        b"hello\r\n--B \t \r\nContent-Disposition: form-data; name=f\r\n\r\nx\r\n--B-- \r\nbye",
        b"\r\n--B\r\nContent-Disposition: form-data; name=f\r\n\r\nx\r\n--B--\r\n--B\r\n",
        b"--Bno\r\n--B\r\nContent-Disposition: form-data; name=f\r\n\r\nx\r\n--B--\r\n",
    ];
    for body in bodies {
        for size in 1..=body.len() {
            assert_eq!(
                parts_in(body, "B", size),
                Ok(owned(&[("f", b"x")])),
                "{body:?} by {size}"
            );
        }
    }
}

#[test]
fn every_cut_of_a_body_is_told() {
    let whole = body("Xyz", &[("file", b"hello"), ("b", b"")]);
    // Without its line end the last boundary still is one.
    let enough = whole.len() - 2;
    for end in 0..enough {
        let got = parts_in(&whole[..end], "Xyz", 7);
        let want = if end < 5 {
            ReadError::NoBoundary
        } else {
            ReadError::Truncated
        };
        assert_eq!(got, Err(want), "cut at {end}");
    }
}

#[test]
fn quoted_boundaries_of_mail_libraries_are_taken() {
    let boundary = "===============4652132465213246==";
    let body = body(boundary, &[("file", b"=====\r\n--====")]);
    assert_eq!(parts_in(&body, boundary, 3).unwrap().len(), 1);
    for wrong in ["", "a\rb", "a\nb", "a\0b", "ä", "a ", &"x".repeat(201)] {
        assert!(MultipartReader::new(wrong, 16, 1024).is_none(), "{wrong:?}");
    }
}

#[test]
fn limits_are_kept_without_keeping_the_bytes() {
    let endless_head = std::iter::once(Bytes::from_static(b"--B\r\nX: "))
        .chain(std::iter::repeat(Bytes::from(vec![b'a'; 64 << 10])));
    assert_eq!(
        parts_of(endless_head, "B"),
        Err(ReadError::HeadTooLarge { limit: 16 << 10 })
    );
    let endless_preamble = std::iter::repeat(Bytes::from(vec![b'a'; 4096]));
    assert_eq!(parts_of(endless_preamble, "B"), Err(ReadError::NoBoundary));
    let many: Vec<(&str, &[u8])> = vec![("a", b"1"); 17];
    assert_eq!(
        parts_in(&body("B", &many), "B", 100),
        Err(ReadError::TooManyParts { limit: 16 })
    );
    assert!(parts_in(&body("B", &many[..16]), "B", 100).is_ok());
}

#[test]
fn a_head_of_just_the_limit_is_taken() {
    let fixed = "Content-Disposition: form-data; name=f\r\nX: ";
    for (padding, good) in [(0, true), (1, false)] {
        let head = format!("{fixed}{}", "a".repeat(16384 - 4 - fixed.len() + padding));
        let body = format!("--B\r\n{head}\r\n\r\nx\r\n--B--");
        for size in [1, 100, usize::MAX] {
            let got = parts_in(body.as_bytes(), "B", size.min(body.len()));
            assert_eq!(got.is_ok(), good, "{padding} by {size}");
        }
    }
}

#[test]
fn content_is_handed_on_as_slices_of_what_came() {
    let body = Bytes::from(body("B", &[("file", &[7; 1000])]));
    let range = body.as_ptr_range();
    let mut reader = MultipartReader::new("B", 16, 1024).unwrap();
    reader.push(body.clone());
    loop {
        match reader.next().unwrap() {
            Event::Data(data) => {
                assert_eq!(data.len(), 1000);
                assert!(range.contains(&data.as_ptr()));
                break;
            }
            Event::PartHead(head) => assert_eq!(head.encoding, Encoding::Identity),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_megabyte_of_near_boundaries_is_all_content() {
    let near: [&[u8]; 5] = [
        b"\r\n--boundar",
        b"\r\n--boundaryX",
        b"--boundary\n",
        b"\r\r\n-",
        b"\r\n--boundary-X",
    ];
    let mut content = Vec::with_capacity(1 << 20);
    while content.len() < 1 << 20 {
        content.extend_from_slice(near[content.len() % near.len()]);
    }
    let body = body("boundary", &[("file", &content)]);
    for size in [1, 2, 13, 4096, body.len()] {
        let parts = parts_in(&body, "boundary", size).unwrap();
        assert!(parts[0].1 == content, "by {size}");
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_however_it_is_cut(
        contents in proptest::collection::vec(
            proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'-'), Just(b'B'), any::<u8>()], 0..60),
            0..5,
        ),
        cuts in proptest::collection::vec(1_usize..20, 1..40),
    ) {
        let boundary = "BB-B";
        let written: Vec<(&str, &[u8])> = contents
            .iter()
            // A writer chooses a boundary that does not stand in what it sends.
            .filter(|content| memmem::find(content, b"--BB-B").is_none())
            .map(|content| ("p", content.as_slice()))
            .collect();
        let body = Bytes::from(body(boundary, &written));
        let mut rest = body;
        let mut sizes = cuts.iter().cycle();
        let chunks = std::iter::from_fn(move || {
            let size = (*sizes.next()?).min(rest.len());
            (size > 0).then(|| rest.split_to(size))
        });
        prop_assert_eq!(parts_of(chunks, boundary), Ok(owned(&written)));
    }

    #[test]
    fn no_bytes_make_the_reader_panic_or_spin(
        bytes in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'-'), Just(b'B'), Just(b':'), any::<u8>()], 0..200),
        size in 1_usize..50,
    ) {
        let _any = parts_in(&bytes, "B", size);
    }
}
