//! Bytes that come with a checksum, of an append or of the whole.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::Digest as _;

use super::{
    TUS_BYTES, at_rest, begin, half, head, located, metadata, offset, patch, query, text, tus,
};
use crate::harness::{Request, Running};
use crate::uploads::{downloaded, noise};

#[tokio::test]
async fn bytes_with_a_checksum_count_only_once_it_was_compared() {
    let running = Running::start().await;
    let bytes = noise(18 << 20, 9);
    let path = begin(&running, "1.0", bytes.len()).await;
    let half_way = 9 << 20;
    let (first, second) = bytes.split_at(half_way);
    let sha256 = |bytes: &[u8]| format!("sha256 {}", STANDARD.encode(sha2::Sha256::digest(bytes)));
    let blake3 =
        |bytes: &[u8]| format!("blake3 {}", STANDARD.encode(blake3::hash(bytes).as_bytes()));
    let wrong = patch(&running, &path, 0, first).header("Upload-Checksum", &sha256(second));
    let reply = running.send(wrong).await;
    assert_eq!(reply.status, 460, "{}", text(&reply));
    assert!(
        reply.head.starts_with("HTTP/1.1 460 Checksum Mismatch"),
        "{}",
        reply.head
    );
    assert_eq!(reply.header("upload-offset"), Some("0"));
    assert_eq!(offset(&running, &path).await, 0);
    // A cut body cannot be compared, so nothing of it counts.
    let request = tus(&running, "PATCH", &path)
        .header("Content-Type", TUS_BYTES)
        .header("Upload-Offset", "0")
        .header("Upload-Checksum", &sha256(first));
    drop(half(&running, request, first.len(), &first[..(9 << 20) - 1]).await);
    at_rest(&running).await;
    assert_eq!(offset(&running, &path).await, 0);
    let crc32 = STANDARD.encode([0xcb, 0xf4, 0x39, 0x26]);
    let wrong =
        patch(&running, &path, 0, first).header("Upload-Checksum", &format!("crc32 {crc32}"));
    assert_eq!(running.send(wrong).await.status, 460);
    let right = patch(&running, &path, 0, first).header("Upload-Checksum", &blake3(first));
    assert_eq!(running.send(right).await.status, 204);
    let wrong = patch(&running, &path, half_way, second)
        .header("Upload-Checksum", "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=");
    assert_eq!(running.send(wrong).await.status, 460);
    assert_eq!(offset(&running, &path).await, half_way);
    let right = patch(&running, &path, half_way, second).header("Upload-Checksum", &sha256(second));
    assert_eq!(running.send(right).await.status, 204);
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.stop().await;
}

/// An append whose checksum stands behind its bytes, in the trailer section `trailers`.
fn trailing(running: &Running, path: &str, offset: usize, body: &[u8], trailers: &str) -> Request {
    let mut chunked = Vec::new();
    for chunk in body.chunks(1 << 20) {
        chunked.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        chunked.extend_from_slice(chunk);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(format!("0\r\n{trailers}\r\n").as_bytes());
    tus(running, "PATCH", path)
        .header("Content-Type", TUS_BYTES)
        .header("Upload-Offset", &offset.to_string())
        .header("Transfer-Encoding", "chunked")
        .header("Trailer", "Upload-Checksum")
        .raw_body(&chunked)
}

#[tokio::test]
async fn a_checksum_behind_the_body_decides_over_its_bytes() {
    let running = Running::start().await;
    let bytes = noise(18 << 20, 30);
    let path = begin(&running, "1.0", bytes.len()).await;
    let (first, second) = bytes.split_at(9 << 20);
    let sha256 = |bytes: &[u8]| format!("sha256 {}", STANDARD.encode(sha2::Sha256::digest(bytes)));
    let line = |checksum: &str| format!("Upload-Checksum: {checksum}\r\n");
    let many = "X-Other: 1\r\n".repeat(16);
    let large = format!("X-Other: {}\r\n", "a".repeat(8 << 10));
    let right = line(&sha256(first));
    for (what, trailers, status) in [
        ("missing", String::new(), 400),
        ("another field", "X-Other: 1\r\n".into(), 400),
        ("malformed", line("sha256 !"), 400),
        ("unknown algorithm", line("whirlpool AAAA"), 400),
        ("twice", right.repeat(2), 400),
        ("wrong", line(&sha256(second)), 460),
        ("too many fields", format!("{many}{right}"), 400),
        ("too large", format!("{large}{right}"), 400),
    ] {
        let reply = running
            .send(trailing(&running, &path, 0, first, &trailers))
            .await;
        assert_eq!(reply.status, status, "{what}: {}", text(&reply));
        assert_eq!(reply.header("tus-resumable"), Some("1.0.0"), "{what}");
        assert_eq!(offset(&running, &path).await, 0, "{what}");
    }
    // One that the head did not announce cannot be compared any more, and is not ignored.
    let unannounced = trailing(
        &running,
        &path,
        0,
        &first[..1 << 20],
        &line(&sha256(second)),
    );
    let reply = running.send(unannounced.without("Trailer")).await;
    assert_eq!(reply.status, 400, "{}", text(&reply));
    assert_eq!(reply.json()["code"], "CHECKSUM_NOT_ANNOUNCED");
    assert_eq!(reply.header("upload-offset"), Some("0"));
    assert_eq!(offset(&running, &path).await, 0);
    // In a body of known length nothing can stand behind it.
    let plain = patch(&running, &path, 0, first).header("Trailer", "Upload-Checksum");
    assert_eq!(running.send(plain).await.status, 400);
    assert_eq!(offset(&running, &path).await, 0);
    let reply = running
        .send(trailing(&running, &path, 0, first, &right))
        .await;
    assert_eq!(reply.status, 204, "{}", text(&reply));
    assert_eq!(offset(&running, &path).await, first.len());
    let sha512 = format!("sha512 {}", STANDARD.encode(sha2::Sha512::digest(second)));
    let last = trailing(&running, &path, first.len(), second, &line(&sha512));
    assert_eq!(running.send(last).await.status, 204);
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.stop().await;
}

#[tokio::test]
async fn a_digest_of_the_whole_that_is_wrong_publishes_nothing_and_ends_the_upload() {
    let running = Running::start().await;
    let bytes = noise(100_000, 10);
    let meta = format!(
        "{},checksum {},checksumType {}",
        metadata("1.0"),
        STANDARD.encode("ab".repeat(32)),
        STANDARD.encode("sha256")
    );
    let request = tus(&running, "POST", "/files")
        .header("Upload-Length", "100000")
        .header("Upload-Metadata", &meta);
    let path = located(&running.send(request).await);
    running
        .send(patch(&running, &path, 0, &bytes[..50_000]))
        .await;
    let last = running
        .send(patch(&running, &path, 50_000, &bytes[50_000..]))
        .await;
    assert_eq!(last.status, 422, "{}", text(&last));
    assert_eq!(last.json()["code"], "CHECKSUM_MISMATCH");
    assert_eq!(head(&running, &path).await.status, 410);
    let request = Request::new("POST", &query("1.0"))
        .token(&running.owner)
        .header("Upload-Complete", "?1")
        .header(
            "Repr-Digest",
            &format!("sha-256=:{}:", STANDARD.encode([1; 32])),
        )
        .body(&bytes);
    let reply = running.send(request).await;
    assert_eq!(reply.status, 422, "{}", text(&reply));
    // The transfer is over; what it became is wrong.
    assert_eq!(reply.header("upload-complete"), Some("?1"));
    running.gateway.engine.settled().await;
    running.gateway.engine.sweep().await.unwrap();
    assert_eq!(running.stored_files().len(), 0);
    running.stop().await;
}
