//! Bytes in: whole boxes or nothing, whatever the client does.

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::harness::{Request, Running, file_path, read_reply};

pub(crate) fn noise(length: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new_keyed(&[seed; 32])
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// A gateway with a box of that many bytes.
pub(crate) async fn with_box(length: usize, variables: &[(&str, &str)]) -> (Running, Vec<u8>) {
    let running = Running::start_with(variables).await;
    let bytes = noise(length, 7);
    assert_eq!(running.upload("demo", "1.0", &bytes).await.status, 200);
    (running, bytes)
}

pub(crate) async fn downloaded(running: &Running, box_name: &str, version: &str) -> Vec<u8> {
    let path = format!("{}/download", file_path(box_name, version));
    let reply = running.get(&path, &running.owner).await;
    assert_eq!(reply.status, 200, "{}", reply.head);
    assert!(reply.is_whole());
    reply.body
}

#[tokio::test]
async fn a_raw_upload_comes_out_as_it_went_in_and_makes_its_parents() {
    let running = Running::start().await;
    for (version, length) in [
        ("1.0", 1),
        ("1.1", 1 << 20),
        ("1.2", (8 << 20) + 1),
        ("1.3", 20_000_001),
    ] {
        let bytes = noise(length, 1);
        let reply = running.upload("demo", version, &bytes).await;
        assert_eq!(
            reply.status,
            200,
            "{}",
            String::from_utf8_lossy(&reply.body)
        );
        let details = &reply.json()["details"];
        assert_eq!(details["fileSize"], length);
        assert_eq!(details["blake3"], blake3::hash(&bytes).to_hex().to_string());
        assert!(
            downloaded(&running, "demo", version).await == bytes,
            "{length} bytes"
        );
    }
    let listed = running
        .get("/api/organization/acme/box", &running.owner)
        .await
        .json();
    assert_eq!(listed[0]["isPublic"], false);
    assert_eq!(listed[0]["published"], true);
    running.stop().await;
}

#[tokio::test]
async fn a_form_in_any_order_and_framing_is_one_box() {
    let running = Running::start().await;
    let bytes = noise(3_000_000, 2);
    let sha256 = {
        use sha2::Digest as _;
        hex::encode(sha2::Sha256::digest(&bytes))
    };
    let part = |name: &str, extra: &str, value: &[u8]| {
        let mut part =
            format!("--b o\r\nContent-Disposition: form-data; name=\"{name}\"{extra}\r\n\r\n")
                .into_bytes();
        part.extend_from_slice(value);
        part.extend_from_slice(b"\r\n");
        part
    };
    let file = part("file", "; filename=\"x.box\"", &bytes);
    let checksum = part("checksum", "", sha256.as_bytes());
    let kind = part("checksumType", "", b"sha256");
    let end = b"--b o--\r\n".to_vec();
    for (version, order) in [
        ("1", vec![&file, &end]),
        ("2", vec![&checksum, &kind, &file, &end]),
        ("3", vec![&file, &checksum, &kind, &end]),
    ] {
        let body: Vec<u8> = order.into_iter().flatten().copied().collect();
        let request = Request::new("POST", &file_path("form", version))
            .token(&running.owner)
            .header("Content-Type", "multipart/form-data; boundary=\"b o\"");
        // Once with a length, once in chunks of the transfer coding.
        let request = if version == "2" {
            let mut chunked = format!("{:x}\r\n", body.len()).into_bytes();
            chunked.extend_from_slice(&body);
            chunked.extend_from_slice(b"\r\n0\r\n\r\n");
            request
                .header("Transfer-Encoding", "chunked")
                .raw_body(&chunked)
        } else {
            request.body(&body)
        };
        let reply = running.send(request).await;
        assert_eq!(
            reply.status,
            200,
            "{}",
            String::from_utf8_lossy(&reply.body)
        );
        assert_eq!(reply.json()["details"]["sha256"], sha256.as_str());
        assert!(downloaded(&running, "form", version).await == bytes);
    }
    running.stop().await;
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one table")]
async fn what_is_wrong_with_an_upload_is_said_and_the_old_box_stays() {
    let running = Running::start_with(&[("BOXGATE_UPLOADS__MAX_LENGTH", "1MiB")]).await;
    let old = noise(1000, 3);
    running.upload("demo", "1.0", &old).await;
    let path = file_path("demo", "1.0");
    let post = |path: &str| Request::new("POST", path).token(&running.owner);
    let wrong = "ab".repeat(32);
    let form = |body: &str| {
        post(&path)
            .header("Content-Type", "multipart/form-data; boundary=b")
            .body(body.as_bytes())
    };
    let huge_head = format!("--b\r\nX: {}\r\n\r\n\r\n--b--", "x".repeat(20_000));
    let cases: Vec<(&str, Request, u16, &str)> = vec![
        (
            "checksum",
            post(&path)
                .header("x-checksum", &wrong)
                .header("x-checksum-type", "SHA256")
                .body(b"x"),
            422,
            "CHECKSUM_MISMATCH",
        ),
        (
            "unknown type",
            post(&path)
                .header("x-checksum", "abcd")
                .header("x-checksum-type", "crc32")
                .body(b"x"),
            400,
            "INVALID_REQUEST",
        ),
        ("empty", post(&path).body(b""), 400, "INVALID_REQUEST"),
        (
            "too large",
            post(&path).header("Content-Length", "1048577"),
            413,
            "FILE_TOO_LARGE",
        ),
        (
            "range",
            post(&path)
                .header("Content-Range", "bytes 5-9/10")
                .body(b"55555"),
            409,
            "OFFSET_MISMATCH",
        ),
        (
            "chunk",
            post(&path)
                .header("x-chunk-index", "2")
                .header("x-total-chunks", "2")
                .body(b"x"),
            400,
            "INVALID_REQUEST",
        ),
        (
            "no file part",
            form("--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--b--"),
            400,
            "INVALID_REQUEST",
        ),
        (
            "truncated form",
            form("--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nabc"),
            400,
            "INVALID_REQUEST",
        ),
        ("huge part head", form(&huge_head), 400, "INVALID_REQUEST"),
        (
            "bad name",
            post(&file_path("demo", "-1")).body(b"x"),
            400,
            "INVALID_REQUEST",
        ),
        (
            "unknown organization",
            post(&path.replace("acme", "nobody")).body(b"x"),
            404,
            "NOT_FOUND",
        ),
        (
            "traversal",
            post("/api/organization/acme/box/../box").body(b"x"),
            400,
            "INVALID_REQUEST",
        ),
        (
            "encoded slash",
            post(&path.replace("demo", "a%2fb")).body(b"x"),
            400,
            "INVALID_REQUEST",
        ),
        (
            "encoded nul",
            post(&path.replace("demo", "a%00b")).body(b"x"),
            400,
            "INVALID_REQUEST",
        ),
    ];
    for (what, request, status, code) in cases {
        let reply = running.send(request).await;
        assert_eq!(
            reply.status,
            status,
            "{what}: {}",
            String::from_utf8_lossy(&reply.body)
        );
        assert_eq!(reply.json()["error"], code, "{what}");
        assert!(downloaded(&running, "demo", "1.0").await == old, "{what}");
    }
    running.gateway.engine.settled().await;
    running.gateway.engine.sweep().await.unwrap();
    assert_eq!(
        running.stored_files().len(),
        1,
        "{:?}",
        running.stored_files()
    );
    running.stop().await;
}

#[tokio::test]
async fn a_body_past_the_limit_without_a_length_is_cut_off() {
    let running = Running::start_with(&[("BOXGATE_UPLOADS__MAX_LENGTH", "1MiB")]).await;
    let body = noise((1 << 20) + 1, 4);
    let mut chunked = format!("{:x}\r\n", body.len()).into_bytes();
    chunked.extend_from_slice(&body);
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    let request = Request::new("POST", &file_path("demo", "1.0"))
        .token(&running.owner)
        .header("Transfer-Encoding", "chunked")
        .raw_body(&chunked);
    assert_eq!(running.send(request).await.status, 413);
    running.stop().await;
}

#[tokio::test]
async fn a_cut_upload_without_a_length_publishes_nothing_and_leaves_nothing() {
    let running = Running::start().await;
    let old = noise(1000, 5);
    running.upload("demo", "1.0", &old).await;
    let body = noise(20 << 20, 6);
    // Without a length there is nothing that a later request could go on with.
    let request = Request::new("POST", &file_path("demo", "1.0"))
        .token(&running.owner)
        .header("Transfer-Encoding", "chunked");
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.write_all(&request.to_bytes()).await.unwrap();
    let chunk = format!("{:x}\r\n", body.len());
    stream.write_all(chunk.as_bytes()).await.unwrap();
    stream.write_all(&body[..12 << 20]).await.unwrap();
    // The server has taken bytes of this upload by the time it counts it.
    while running.gateway.engine.in_progress() == 0 {
        tokio::task::yield_now().await;
    }
    drop(stream);
    while running.gateway.engine.in_progress() > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    running.gateway.engine.settled().await;
    running.gateway.engine.sweep().await.unwrap();
    assert!(downloaded(&running, "demo", "1.0").await == old);
    assert_eq!(running.stored_files().len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn of_two_uploads_to_one_name_one_wins_whole() {
    let running = Running::start().await;
    let (a, b) = (noise(9 << 20, 7), noise(9 << 20, 8));
    let (first, second) = tokio::join!(
        running.upload("demo", "1.0", &a),
        running.upload("demo", "1.0", &b)
    );
    assert_eq!((first.status, second.status), (200, 200));
    let kept = downloaded(&running, "demo", "1.0").await;
    assert!(kept == a || kept == b);
    running.stop().await;
}

#[tokio::test]
async fn the_name_of_a_replaced_box_leads_to_the_new_bytes_and_its_digest_to_the_old() {
    let running = Running::start().await;
    let (old, new) = (noise(100, 9), noise(200, 10));
    running.upload("demo", "v1.0", &old).await;
    running.upload("demo", "1.0", &new).await;
    let path = "/acme/boxes/demo/versions/1.0/providers/virtualbox/amd64/vagrant.box";
    assert!(running.get(path, &running.owner).await.body == new);
    let pinned = format!("{path}?b3={}", blake3::hash(&old).to_hex());
    assert!(running.get(&pinned, &running.owner).await.body == old);
    let unknown = format!("{path}?b3={}", "00".repeat(32));
    assert_eq!(running.get(&unknown, &running.owner).await.status, 404);
    running.stop().await;
}

#[tokio::test]
async fn expect_100_continue_is_answered_only_when_the_body_is_wanted() {
    let running = Running::start().await;
    for (token, status, continued) in [(running.owner.as_str(), 200, true), ("", 403, false)] {
        let request = Request::new("POST", &file_path("demo", "1.0"))
            .token(token)
            .header("Expect", "100-continue")
            .header("Content-Length", "3");
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        stream.write_all(&request.to_bytes()).await.unwrap();
        let mut first = [0; 12];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut first)
            .await
            .unwrap();
        assert_eq!(
            first.ends_with(b"100"),
            continued,
            "{}",
            String::from_utf8_lossy(&first)
        );
        if continued {
            let mut rest = [0; 13];
            tokio::io::AsyncReadExt::read_exact(&mut stream, &mut rest)
                .await
                .unwrap();
            stream.write_all(b"box").await.unwrap();
            assert_eq!(read_reply(&mut stream).await.status, status);
        } else {
            assert!(first.ends_with(status.to_string().as_bytes()));
        }
    }
    running.stop().await;
}
