use super::*;

const LIMITS: FormLimits = FormLimits {
    parts: 16,
    part_head_bytes: 16 << 10,
    decode_base64: DecodeBase64::Auto,
};

/// What a form came to: the file, its fields, how it was decoded.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    file: Vec<u8>,
    filename: Option<String>,
    checksum: Option<String>,
    decoded: Option<DecodedBase64>,
}

async fn read(content_type: &str, body: Vec<u8>, limits: FormLimits) -> Result<Read, FormError> {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", content_type.parse().unwrap());
    assert!(is_form(&headers));
    let mut form = Form::open(&headers, Bytes::from(body).into(), limits)?;
    let head = form.file().await?;
    let mut file = Vec::new();
    while let Some(chunk) = form.chunk().await? {
        file.extend_from_slice(&chunk);
    }
    assert_eq!(form.chunk().await, Ok(None));
    form.finish().await?;
    Ok(Read {
        file,
        filename: head.filename,
        checksum: form.field("checksum").map(str::to_owned),
        decoded: form.decoded_base64(),
    })
}

async fn read_parts(parts: &[(&str, &[u8])]) -> Result<Read, FormError> {
    let mut body = Vec::new();
    for (head, content) in parts {
        body.extend_from_slice(
            format!("--B\r\nContent-Disposition: form-data; {head}\r\n\r\n").as_bytes(),
        );
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--B--\r\n");
    read("multipart/form-data; boundary=B", body, LIMITS).await
}

const FILE: &str = "name=\"file\"; filename=\"x.box\"";

#[tokio::test]
async fn the_file_is_found_anywhere_among_the_fields() {
    let file = (FILE, b"bytes\0".as_slice());
    let checksum = ("name=\"checksum\"", b"abc".as_slice());
    let other = ("name=\"other\"; filename=\"y\"", b"ignored".as_slice());
    for parts in [
        vec![file, checksum],
        vec![checksum, file],
        vec![other, checksum, file, other],
    ] {
        let read = read_parts(&parts).await.unwrap();
        assert_eq!(read.file, b"bytes\0");
        assert_eq!(read.filename.as_deref(), Some("x.box"));
        assert_eq!(read.checksum.as_deref(), Some("abc"));
        assert_eq!(read.decoded, None);
    }
    assert_eq!(read_parts(&[(FILE, b"")]).await.unwrap().file, b"");
}

#[tokio::test]
async fn broken_forms_name_the_rule() {
    let file = (FILE, b"bytes".as_slice());
    assert_eq!(read_parts(&[]).await, Err(FormError::NoFile));
    assert_eq!(
        read_parts(&[("name=\"f\"", b"x")]).await,
        Err(FormError::NoFile)
    );
    assert_eq!(read_parts(&[file, file]).await, Err(FormError::SecondFile));
    let long = vec![b'x'; FIELD_BYTES + 1];
    let name = "a".repeat(100);
    let head = format!("name=\"{name}\"");
    for parts in [
        [(head.as_str(), long.as_slice()), file],
        [file, (head.as_str(), long.as_slice())],
    ] {
        let error = read_parts(&parts).await.unwrap_err();
        assert_eq!(
            error,
            FormError::FieldTooLong {
                name: "a".repeat(64)
            }
        );
    }
    for content_type in ["multipart/form-data", "multipart/form-data; boundary=\"\""] {
        let error = read(content_type, Vec::new(), LIMITS).await.unwrap_err();
        assert_eq!(error, FormError::Boundary);
    }
}

#[tokio::test]
async fn a_cut_form_is_told_in_the_file_and_after_it() {
    let start = b"--B\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nbytes".to_vec();
    for more in ["", "\r\n", "\r\n--B", "\r\n--B\r\n", "\r\n--B\r\nContent-"] {
        let mut body = start.clone();
        body.extend_from_slice(more.as_bytes());
        let error = read("multipart/form-data; boundary=B", body, LIMITS).await;
        assert_eq!(
            error,
            Err(FormError::Read(ReadError::Truncated)),
            "{more:?}"
        );
    }
}

/// Base64 text in lines of 76, as mail libraries write it.
fn lines(bytes: &[u8]) -> String {
    use ::base64::Engine;
    let text = ::base64::engine::general_purpose::STANDARD.encode(bytes);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(76)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    lines.join("\r\n")
}

#[tokio::test]
async fn declared_base64_is_decoded() {
    let bytes: Vec<u8> = (0..10_000_u32).flat_map(u32::to_be_bytes).collect();
    let boundary = "===============4652132465213246==";
    let body = format!(
        "--{boundary}\r\nContent-Type: application/octet-stream\r\nMIME-Version: 1.0\r\n\
         Content-Transfer-Encoding: base64\r\n\
         Content-Disposition: form-data; name=\"file\"; filename=\"x.box\"\r\n\r\n{}\r\n\r\n--{boundary}--\r\n",
        lines(&bytes)
    );
    let content_type = format!("multipart/form-data; boundary=\"{boundary}\"");
    let read = read(&content_type, body.into_bytes(), LIMITS)
        .await
        .unwrap();
    assert_eq!(read.file, bytes);
    assert_eq!(read.decoded, Some(DecodedBase64::Declared));
}

#[tokio::test]
async fn malformed_declared_base64_is_refused() {
    for text in ["!!!!", "QUJ", "QUI=QUI="] {
        let body = format!(
            "--B\r\nContent-Transfer-Encoding: base64\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n{text}\r\n--B--\r\n"
        );
        let error = read("multipart/form-data; boundary=B", body.into_bytes(), LIMITS).await;
        assert_eq!(error, Err(FormError::Base64), "{text}");
    }
}

#[tokio::test]
async fn undeclared_base64_of_an_archive_is_decoded_only_when_wanted() {
    for length in [20, 200, 5000] {
        let mut archive = vec![0_u8; length];
        archive[..4].copy_from_slice(&[0x1f, 0x8b, 0x08, 0x00]);
        let text = lines(&archive);
        let read = read_parts(&[(FILE, text.as_bytes())]).await.unwrap();
        assert_eq!(read.file, archive);
        assert_eq!(read.decoded, Some(DecodedBase64::Detected));

        let body = format!(
            "--B\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n{text}\r\n--B--\r\n"
        );
        let never = FormLimits {
            decode_base64: DecodeBase64::Never,
            ..LIMITS
        };
        let kept = super::tests::read("multipart/form-data; boundary=B", body.into_bytes(), never)
            .await
            .unwrap();
        assert_eq!(kept.file, text.as_bytes());
        assert_eq!(kept.decoded, None);
    }
}

#[tokio::test]
async fn files_that_only_look_a_little_like_base64_stay_as_they_are() {
    for content in [
        b"H4sIAAAAAAAAA".repeat(3).as_slice(),
        b"just some text",
        &[0x1f, 0x8b, 0x08, 0x00, 0x01],
        &b"QUJD".repeat(1000),
    ] {
        let read = read_parts(&[(FILE, content)]).await.unwrap();
        if read.decoded.is_none() {
            assert_eq!(read.file, content);
        }
    }
    let read = read_parts(&[(FILE, &b"QUJD".repeat(1000))]).await.unwrap();
    assert_eq!((read.decoded, read.file.len()), (None, 4000));
}
