use boxgate_storage::digest::Algorithm;
use http::HeaderMap;
use proptest::prelude::*;

use super::*;

const BYTES: (&str, &str) = ("content-type", MEDIA_TYPE);
const CHUNKED: (&str, &str) = ("transfer-encoding", "chunked");

fn parsed(method: &Method, lines: &[(&str, &str)]) -> Result<UploadCommand, Refusal> {
    let headers = headers(lines);
    parse(&RequestHead {
        method,
        headers: &headers,
        query: Some("target=acme/by-query/1/virtualbox/amd64"),
    })
}

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    lines
        .iter()
        .map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            (name, HeaderValue::from_bytes(value.as_bytes()).unwrap())
        })
        .collect()
}

fn tus(method: &Method, lines: &[(&str, &str)]) -> Result<UploadCommand, Refusal> {
    parsed(method, &[&[("tus-resumable", "1.0.0")], lines].concat())
}

fn created(lines: &[(&str, &str)]) -> Create {
    match tus(&Method::POST, lines).unwrap() {
        UploadCommand::Create(create) => *create,
        other => panic!("{other:?}"),
    }
}

fn status(method: &Method, lines: &[(&str, &str)]) -> u16 {
    tus(method, lines).unwrap_err().status.as_u16()
}

#[test]
fn another_version_or_none_is_412_with_those_spoken() {
    for lines in [
        &[][..],
        &[("tus-resumable", "0.2.2")],
        &[("tus-resumable", "1.0.1")],
        &[("tus-resumable", "")],
    ] {
        for method in [Method::POST, Method::HEAD, Method::PATCH, Method::DELETE] {
            let refused = parsed(&method, lines).unwrap_err();
            assert_eq!(refused.status, 412, "{method} {lines:?}");
            assert_eq!(refused.headers[TUS_VERSION], "1.0.0");
        }
        let options = parsed(&Method::OPTIONS, lines).unwrap();
        assert_eq!(options, UploadCommand::Discover);
    }
}

#[test]
fn an_upload_has_a_length_or_defers_it_and_never_both() {
    assert_eq!(created(&[("upload-length", "100")]).length, Some(100));
    assert_eq!(created(&[("upload-length", "0")]).length, Some(0));
    assert_eq!(created(&[("upload-defer-length", "1")]).length, None);
    for wrong in [
        &[][..],
        &[("upload-length", "1"), ("upload-defer-length", "1")],
        &[("upload-defer-length", "0")],
        &[("upload-defer-length", "2")],
        &[("upload-defer-length", "")],
        &[("upload-length", "-1")],
        &[("upload-length", "+1")],
        &[("upload-length", "1.0")],
        &[("upload-length", "0x10")],
        &[("upload-length", "")],
        &[("upload-length", "1, 1")],
        &[("upload-length", "1"), ("upload-length", "1")],
    ] {
        assert_eq!(status(&Method::POST, wrong), 400, "{wrong:?}");
    }
    // More than 64 bits hold: the limit of the server refuses it.
    let huge = created(&[("upload-length", "99999999999999999999999")]);
    assert_eq!(huge.length, Some(u64::MAX));
}

#[test]
fn first_bytes_need_their_media_type_and_must_fit() {
    let length = ("upload-length", "10");
    assert!(!created(&[length]).has_body);
    assert!(!created(&[length, ("content-length", "0")]).has_body);
    assert!(created(&[length, BYTES, ("content-length", "10")]).has_body);
    assert!(created(&[length, BYTES, ("transfer-encoding", "chunked")]).has_body);
    let without_type = [length, ("content-length", "10")];
    assert_eq!(status(&Method::POST, &without_type), 415);
    let json = [
        length,
        ("content-length", "1"),
        ("content-type", "application/json"),
    ];
    assert_eq!(status(&Method::POST, &json), 415);
    let too_many = [length, BYTES, ("content-length", "11")];
    assert_eq!(status(&Method::POST, &too_many), 413);
}

#[test]
fn the_metadata_names_the_target_and_is_kept_as_it_came() {
    // acme/demo/1.0/virtualbox/amd64
    let text = "filename eC5ib3g=,target YWNtZS9kZW1vLzEuMC92aXJ0dWFsYm94L2FtZDY0";
    let create = created(&[("upload-length", "1"), ("upload-metadata", text)]);
    assert_eq!(create.note.as_deref(), Some(text));
    assert!(matches!(create.owner, Owner::Target(t) if t.name.to_string() == "demo"));
    // Without a word of it there, the query counts.
    let create = created(&[("upload-length", "1"), ("upload-metadata", "filename eA==")]);
    assert!(matches!(create.owner, Owner::Target(t) if t.name.to_string() == "by-query"));
    // "organization acme" keeps the upload without a target.
    let create = created(&[
        ("upload-length", "1"),
        ("upload-metadata", "organization YWNtZQ=="),
    ]);
    assert_eq!(
        create.owner,
        Owner::Organization(Some("acme".parse().unwrap()))
    );
    let create = created(&[("upload-length", "1"), ("upload-metadata", "")]);
    assert_eq!(create.note, None);
    for wrong in [
        "target YQ==",
        "target /w==",
        "a b c",
        "box ZGVtbw==",
        "a YQ==,a YQ==",
    ] {
        let lines = [("upload-length", "1"), ("upload-metadata", wrong)];
        assert_eq!(status(&Method::POST, &lines), 400, "{wrong}");
    }
}

#[test]
fn a_checksum_in_the_metadata_is_that_of_the_whole() {
    let hex = "ab".repeat(32);
    let text = format!(
        "checksum {},checksumType {}",
        STANDARD.encode(&hex),
        STANDARD.encode("SHA256")
    );
    let create = created(&[("upload-length", "1"), ("upload-metadata", &text)]);
    assert_eq!(create.expected[0].to_hex(), hex);
    assert_eq!(create.checksum, None);
    let wrong = format!("checksum {}", STANDARD.encode("xyz"));
    let lines = [("upload-length", "1"), ("upload-metadata", wrong.as_str())];
    assert_eq!(status(&Method::POST, &lines), 400);
}

#[test]
fn bytes_are_appended_at_an_offset_with_their_media_type() {
    let append = |lines: &[(&str, &str)]| match tus(&Method::PATCH, lines).unwrap() {
        UploadCommand::Append(append) => append,
        other => panic!("{other:?}"),
    };
    let plain = append(&[BYTES, ("upload-offset", "70"), ("content-length", "30")]);
    assert_eq!(
        plain,
        Append {
            offset: 70,
            ends: Ends::WhenFull,
            length: None,
            expected: Vec::new(),
            checksum: None,
            body_length: Some(30)
        }
    );
    let late = append(&[BYTES, ("upload-offset", "5"), ("upload-length", "9")]);
    assert_eq!(late.length, Some(9));
    let streamed = append(&[
        BYTES,
        ("upload-offset", "0"),
        ("transfer-encoding", "chunked"),
    ]);
    assert_eq!(streamed.body_length, None);
    let table: [(&[(&str, &str)], u16); 6] = [
        (&[("upload-offset", "0")], 415),
        (
            &[
                ("upload-offset", "0"),
                ("content-type", "application/octet-stream"),
            ],
            415,
        ),
        (
            &[
                ("upload-offset", "0"),
                ("content-type", "application/partial-upload"),
            ],
            415,
        ),
        (&[BYTES], 400),
        (&[BYTES, ("upload-offset", "-1")], 400),
        (
            &[BYTES, ("upload-offset", "9"), ("upload-length", "5")],
            400,
        ),
    ];
    for (lines, expected) in table {
        assert_eq!(status(&Method::PATCH, lines), expected, "{lines:?}");
    }
}

#[test]
fn a_checksum_is_an_algorithm_and_base64_of_its_digest() {
    let checksum = |text: &str| {
        let lines = [BYTES, ("upload-offset", "0"), ("upload-checksum", text)];
        tus(&Method::PATCH, &lines).map(|command| match command {
            UploadCommand::Append(append) => append.checksum.unwrap(),
            other => panic!("{other:?}"),
        })
    };
    let checksum = |text: &str| {
        checksum(text).map(|checksum| match checksum {
            Checksum::Told(digest) => digest,
            Checksum::Trailer => panic!("{text} stands in the head"),
        })
    };
    let read = checksum("sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=").unwrap();
    assert_eq!(read.algorithm(), Algorithm::Sha1);
    assert_eq!(read.to_hex(), "2aae6c35c94fcfb415dbe95f408b9ce91ee846ed");
    for algorithm in CHECKSUMS {
        let value = STANDARD.encode(vec![1; algorithm.digest_bytes()]);
        assert!(checksum(&format!("{} {value}", algorithm.name())).is_ok());
    }
    for wrong in [
        "",
        "sha1",
        "sha1 ",
        "sha1 !!!",
        "sha1 AAAA",
        "SHA1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
        "sha-1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
        "whirlpool AAAA",
        "Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
    ] {
        assert_eq!(checksum(wrong).unwrap_err().status, 400, "{wrong}");
    }
}

#[test]
fn a_checksum_may_be_announced_to_stand_behind_the_body() {
    let append = |lines: &[(&str, &str)]| {
        let lines = [&[BYTES, ("upload-offset", "0")], lines].concat();
        tus(&Method::PATCH, &lines).map(|command| match command {
            UploadCommand::Append(append) => append.checksum,
            other => panic!("{other:?}"),
        })
    };
    for announced in ["Upload-Checksum", "X-Other, upload-checksum"] {
        let checksum = append(&[("trailer", announced)]).unwrap();
        assert_eq!(checksum, Some(Checksum::Trailer), "{announced}");
    }
    let line = ("upload-length", "9");
    let lines = [line, BYTES, ("trailer", "upload-checksum"), CHUNKED];
    assert_eq!(created(&lines).checksum, Some(Checksum::Trailer));
    assert_eq!(append(&[("trailer", "X-Other")]).unwrap(), None);
    let sha1 = "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=";
    let both = [("trailer", "upload-checksum"), ("upload-checksum", sha1)];
    assert_eq!(append(&both).unwrap_err().status, 400);

    let told = |lines: &[(&str, &str)]| trailing_checksum(Some(&headers(lines)));
    let digest = told(&[("upload-checksum", sha1)]).unwrap();
    assert_eq!(digest.algorithm(), Algorithm::Sha1);
    for wrong in [
        &[][..],
        &[("x-other", sha1)],
        &[("upload-checksum", "sha1 AAAA")],
        &[("upload-checksum", "whirlpool AAAA")],
        &[("upload-checksum", "")],
        &[("upload-checksum", sha1), ("upload-checksum", sha1)],
    ] {
        assert_eq!(told(wrong).unwrap_err().status, 400, "{wrong:?}");
    }
    assert_eq!(trailing_checksum(None).unwrap_err().status, 400);
}

#[test]
fn a_piece_has_a_length_and_what_is_joined_of_pieces_has_none() {
    let partial = ("upload-concat", "partial");
    let create = created(&[partial, ("upload-length", "5")]);
    assert_eq!((create.concat, create.length), (Concat::Partial, Some(5)));
    assert_eq!(create.note.as_deref(), Some("\npartial"));
    let create = created(&[
        partial,
        ("upload-defer-length", "1"),
        ("upload-metadata", "a"),
    ]);
    assert_eq!(create.note.as_deref(), Some("a\npartial"));
    assert_eq!(status(&Method::POST, &[partial]), 400);

    let joined = ("upload-concat", "final;/files/a /files/b");
    let create = created(&[joined, ("upload-metadata", "filename eA==")]);
    let urls = ["/files/a", "/files/b"].map(str::to_owned);
    assert_eq!(create.concat, Concat::Final(urls.to_vec()));
    assert_eq!((create.length, create.has_body), (None, false));
    assert_eq!(
        create.note.as_deref(),
        Some("filename eA==\nfinal;/files/a /files/b")
    );
    for wrong in [
        &[joined, ("upload-length", "10")][..],
        &[joined, ("upload-defer-length", "1")],
        &[joined, BYTES, ("content-length", "10")],
        &[joined, partial],
        &[("upload-concat", "final;")],
        &[("upload-concat", "final")],
        &[("upload-concat", "other"), ("upload-length", "1")],
        &[("upload-concat", ""), ("upload-length", "1")],
    ] {
        assert_eq!(status(&Method::POST, wrong), 400, "{wrong:?}");
    }
}

#[test]
fn what_is_joined_has_an_offset_only_once_it_is() {
    let told = |standing: &Standing| {
        let reply = reply(Answer::Standing(standing));
        let text = |name: &str| {
            reply
                .headers
                .get(name)
                .map(|v| v.to_str().unwrap().to_owned())
        };
        [
            "upload-offset",
            "upload-length",
            "upload-concat",
            "upload-defer-length",
        ]
        .map(text)
    };
    let text = |text: &str| Some(text.to_owned());
    let list = "final;/files/a /files/b";
    let mut standing = Standing {
        note: Some(format!("a\n{list}")),
        offset: 3,
        ..Standing::default()
    };
    assert_eq!(told(&standing), [None, None, text(list), None]);
    standing.length = Some(9);
    assert_eq!(told(&standing), [None, text("9"), text(list), None]);
    (standing.complete, standing.offset) = (true, 9);
    assert_eq!(told(&standing), [text("9"), text("9"), text(list), None]);
    let piece = Standing {
        note: text("\npartial"),
        offset: 3,
        ..Standing::default()
    };
    assert_eq!(told(&piece), [text("3"), None, text("partial"), text("1")]);
}

#[test]
fn every_answer_has_the_headers_that_the_protocol_asks_for() {
    let open = Standing {
        offset: 70,
        length: Some(100),
        note: Some("filename eA==".into()),
        expires: Some(UnixMillis(784_111_777_000)),
        ..Standing::default()
    };
    let text = |reply: &Reply, name: &str| {
        reply
            .headers
            .get(name)
            .map(|v| v.to_str().unwrap().to_owned())
    };
    let expires = Some("Sun, 06 Nov 1994 08:49:37 GMT".to_owned());

    let head = reply(Answer::Standing(&open));
    assert_eq!(head.status, 200);
    assert_eq!(text(&head, "upload-offset").unwrap(), "70");
    assert_eq!(text(&head, "upload-length").unwrap(), "100");
    assert_eq!(text(&head, "upload-metadata").unwrap(), "filename eA==");
    assert_eq!(text(&head, "cache-control").unwrap(), "no-store");
    assert_eq!(text(&head, "upload-expires"), expires);
    assert_eq!(text(&head, "upload-defer-length"), None);

    let deferred = Standing::default();
    let head = reply(Answer::Standing(&deferred));
    assert_eq!(text(&head, "upload-offset").unwrap(), "0");
    assert_eq!(text(&head, "upload-defer-length").unwrap(), "1");
    assert_eq!(text(&head, "upload-length"), None);
    assert_eq!(text(&head, "upload-metadata"), None);

    let patch = reply(Answer::Appended {
        standing: &open,
        outcome: None,
    });
    assert_eq!(patch.status, 204);
    assert_eq!(text(&patch, "upload-offset").unwrap(), "70");
    assert_eq!(text(&patch, "upload-expires"), expires);

    let created = |has_body| {
        reply(Answer::Created {
            location: "/files/1",
            standing: &open,
            has_body,
            outcome: None,
        })
    };
    assert_eq!(created(false).status, 201);
    assert_eq!(text(&created(false), "location").unwrap(), "/files/1");
    assert_eq!(text(&created(false), "upload-offset"), None);
    assert_eq!(text(&created(true), "upload-offset").unwrap(), "70");

    assert_eq!(reply(Answer::Cancelled).status, 204);

    let limits = Limits {
        max_size: 5,
        max_append_size: None,
    };
    let options = discovery(Reply::new(StatusCode::NO_CONTENT), &limits);
    assert_eq!(text(&options, "tus-version").unwrap(), "1.0.0");
    assert_eq!(text(&options, "tus-max-size").unwrap(), "5");
    assert!(text(&options, "tus-extension").unwrap().split(',').eq([
        "creation",
        "creation-with-upload",
        "creation-defer-length",
        "expiration",
        "checksum",
        "checksum-trailer",
        "termination",
        "concatenation",
        "concatenation-unfinished",
    ]));
    let algorithms = text(&options, "tus-checksum-algorithm").unwrap();
    for name in ["sha1", "sha256", "md5", "blake3", "crc32"] {
        assert!(algorithms.split(',').any(|a| a == name), "{name}");
    }
}

#[test]
fn a_wrong_checksum_is_460_and_names_the_offset() {
    let refused = checksum_mismatch(7);
    assert_eq!(refused.status.as_u16(), 460);
    assert_eq!(refused.headers[UPLOAD_OFFSET], "7");
}

proptest! {
    #[test]
    fn plain_numbers_survive_the_wire(offset: u64, length: u64) {
        let (offset, length) = (offset.min(length), offset.max(length));
        let (o, l) = (offset.to_string(), length.to_string());
        let lines = [BYTES, ("upload-offset", o.as_str()), ("upload-length", l.as_str())];
        let append = match tus(&Method::PATCH, &lines).unwrap() {
            UploadCommand::Append(append) => append,
            other => panic!("{other:?}"),
        };
        prop_assert_eq!((append.offset, append.length), (offset, Some(length)));
    }

    #[test]
    fn no_header_breaks_the_reader(
        name in prop::sample::select(vec![
            "upload-length", "upload-offset", "upload-defer-length", "upload-metadata",
            "upload-checksum", "upload-concat", "content-type", "trailer",
        ]),
        value in "[\\x20-\\x7e\\x80-\\xff]{0,60}",
    ) {
        let Ok(_) = HeaderValue::from_bytes(value.as_bytes()) else { return Ok(()) };
        for method in [Method::POST, Method::PATCH] {
            match tus(&method, &[(name, &value)]) {
                Ok(_) => {}
                Err(refused) => prop_assert!(refused.status.is_client_error()),
            }
        }
    }
}
