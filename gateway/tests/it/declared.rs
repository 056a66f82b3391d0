//! Digests that a request declares by RFC 9530's fields, on every way in.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use crate::harness::{Reply, Request, Running, file_path};
use crate::resumable::{TUS_BYTES, append, located, metadata, offset, patch, query, tus};
use crate::uploads::{downloaded, noise};

fn sha256(bytes: &[u8]) -> String {
    format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(bytes)))
}

fn raw(running: &Running, version: &str) -> Request {
    Request::new("POST", &file_path("demo", version)).token(&running.owner)
}

fn told(reply: &Reply) -> String {
    String::from_utf8_lossy(&reply.body).into_owned()
}

#[tokio::test]
async fn a_raw_upload_is_the_file_that_its_digest_fields_tell() {
    let running = Running::start().await;
    let (bytes, other) = (noise(2 << 20, 1), noise(2 << 20, 2));
    for field in ["Repr-Digest", "Content-Digest"] {
        let request = raw(&running, "1.0")
            .header(field, &sha256(&other))
            .body(&bytes);
        let reply = running.send(request).await;
        assert_eq!(reply.status, 422, "{field}: {}", told(&reply));
        assert_eq!(reply.json()["error"], "CHECKSUM_MISMATCH");
    }
    // Each must hold, whatever the others say.
    let hex = hex::encode(Sha256::digest(&bytes));
    let both = |version| {
        raw(&running, version)
            .header("x-checksum", &hex)
            .body(&bytes)
    };
    let wrong = both("1.0").header("Repr-Digest", &sha256(&other));
    assert_eq!(running.send(wrong).await.status, 422);
    let path = format!("{}/download", file_path("demo", "1.0"));
    assert_eq!(running.get(&path, &running.owner).await.status, 404);
    let right = both("1.0").header("Repr-Digest", &sha256(&bytes));
    let right = right.header("Content-Digest", &sha256(&bytes));
    let reply = running.send(right).await;
    assert_eq!(reply.status, 200, "{}", told(&reply));
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    let malformed = raw(&running, "2.0").header("Repr-Digest", "sha-256=:AAAA:");
    assert_eq!(running.send(malformed.body(&bytes)).await.status, 400);
    running.stop().await;
}

#[tokio::test]
async fn a_piece_with_a_wrong_digest_counts_nothing_whichever_way_it_comes() {
    let running = Running::start().await;
    let bytes = noise(2 << 20, 3);
    let (first, second) = bytes.split_at(1 << 20);

    // A range of the file.
    let ranged = |from: usize, part: &[u8]| {
        let to = from + part.len() - 1;
        raw(&running, "1.0")
            .header("Content-Range", &format!("bytes {from}-{to}/{}", 2 << 20))
            .body(part)
    };
    let wrong = ranged(0, first).header("Content-Digest", &sha256(second));
    let reply = running.send(wrong).await;
    assert_eq!(reply.status, 400, "{}", told(&reply));
    assert_eq!(reply.header("upload-offset"), Some("0"));
    let right = ranged(0, first).header("Content-Digest", &sha256(first));
    assert_eq!(running.send(right).await.status, 200);
    let wrong = ranged(1 << 20, second).header("Content-Digest", &sha256(first));
    let reply = running.send(wrong).await;
    assert_eq!(
        reply.header("upload-offset"),
        Some("1048576"),
        "{}",
        told(&reply)
    );
    let right = ranged(1 << 20, second).header("Content-Digest", &sha256(second));
    assert_eq!(running.send(right).await.status, 200);
    assert!(downloaded(&running, "demo", "1.0").await == bytes);

    // A chunk.
    let chunk = |i: usize, part: &[u8]| {
        Request::new("PUT", &format!("{}/upload", file_path("demo", "2.0")))
            .token(&running.owner)
            .header("x-chunk-index", &i.to_string())
            .header("x-total-chunks", "2")
            .body(part)
    };
    let wrong = chunk(0, first).header("Content-Digest", &sha256(second));
    let reply = running.send(wrong).await;
    assert_eq!(reply.status, 400, "{}", told(&reply));
    let right = chunk(0, first).header("Content-Digest", &sha256(first));
    assert_eq!(
        running.send(right).await.json()["details"]["chunksReceived"],
        1
    );
    assert_eq!(running.send(chunk(1, second)).await.status, 200);
    assert!(downloaded(&running, "demo", "2.0").await == bytes);

    // An append by tus, which has a field of its own for it and a status.
    let request = tus(&running, "POST", "/files")
        .header("Upload-Length", &bytes.len().to_string())
        .header("Upload-Metadata", &metadata("3.0"));
    let path = crate::resumable::located(&running.send(request).await);
    let append = |from: usize, part: &[u8]| {
        tus(&running, "PATCH", &path)
            .header("Content-Type", TUS_BYTES)
            .header("Upload-Offset", &from.to_string())
            .body(part)
    };
    let wrong = append(0, first).header("Content-Digest", &sha256(second));
    assert_eq!(running.send(wrong).await.status, 460);
    assert_eq!(offset(&running, &path).await, 0);
    let right = append(0, first).header("Content-Digest", &sha256(first));
    assert_eq!(running.send(right).await.status, 204);
    assert_eq!(running.send(append(1 << 20, second)).await.status, 204);
    assert!(downloaded(&running, "demo", "3.0").await == bytes);
    running.stop().await;
}

#[tokio::test]
async fn a_wrong_digest_of_the_whole_publishes_nothing_whichever_way_it_was_told() {
    let running = Running::start().await;
    let bytes = noise(2 << 20, 4);
    let wrong = sha256(b"another file");
    let (first, second) = bytes.split_at(1 << 20);
    let begun = tus(&running, "POST", "/files")
        .header("Upload-Length", &bytes.len().to_string())
        .header("Upload-Metadata", &metadata("1.0"))
        .header("Repr-Digest", &wrong);
    let path = crate::resumable::located(&running.send(begun).await);
    let request = tus(&running, "PATCH", &path)
        .header("Content-Type", TUS_BYTES)
        .header("Upload-Offset", "0")
        .body(&bytes);
    assert_eq!(running.send(request).await.status, 422);

    let mut last = 0;
    for (i, part) in [first, second].into_iter().enumerate() {
        let request = Request::new("PUT", &format!("{}/upload", file_path("demo", "1.0")))
            .token(&running.owner)
            .header("Repr-Digest", &wrong)
            .header("x-chunk-index", &i.to_string())
            .header("x-total-chunks", "2")
            .body(part);
        last = running.send(request).await.status;
    }
    assert_eq!(last, 422);

    for (from, part) in [(0, first), (1 << 20, second)] {
        let to = from + part.len() - 1;
        let request = raw(&running, "1.0")
            .header("Content-Range", &format!("bytes {from}-{to}/{}", 2 << 20))
            .header("Repr-Digest", &wrong)
            .body(part);
        last = running.send(request).await.status;
    }
    assert_eq!(last, 422);
    let path = format!("{}/download", file_path("demo", "1.0"));
    assert_eq!(running.get(&path, &running.owner).await.status, 404);
    running.stop().await;
}

#[tokio::test]
async fn a_digest_of_the_whole_that_only_the_last_append_tells_is_compared() {
    let running = Running::start().await;
    let bytes = noise(2 << 20, 5);
    let (first, second) = bytes.split_at(1 << 20);
    let begin = async |is_tus: bool| {
        let request = if is_tus {
            tus(&running, "POST", "/files").header("Upload-Metadata", &metadata("1.0"))
        } else {
            Request::new("POST", &query("1.0"))
                .token(&running.owner)
                .header("Upload-Complete", "?0")
        };
        let request = request.header("Upload-Length", &bytes.len().to_string());
        located(&running.send(request).await)
    };
    for (is_tus, done) in [(true, 204), (false, 200)] {
        for (digest, status) in [(sha256(b"another file"), 422), (sha256(&bytes), done)] {
            let path = begin(is_tus).await;
            let part = |offset: usize, part: &[u8]| {
                if is_tus {
                    patch(&running, &path, offset, part)
                } else {
                    append(&running, &path, offset, offset > 0, part)
                }
            };
            assert_eq!(running.send(part(0, first)).await.status, 204);
            let last = part(first.len(), second).header("Repr-Digest", &digest);
            let reply = running.send(last).await;
            assert_eq!(reply.status, status, "tus: {is_tus}: {}", told(&reply));
        }
    }
    running.stop().await;
}
