//! Uploads in pieces, byte for byte: parts with a number each, and BoxVault's chunks.

use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boxgate_storage::blob::UploadId;
use boxgate_storage::digest::PieceHasher;
use boxgate_storage::metadata::accounts::OrganizationRole;
use boxgate_storage::metadata::tokens::TokenKind;
use boxgate_storage::metadata::uploads::{Fence, Ledger as _, Piece};
use sha2::Digest as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::harness::{Reply, Request, Running, file_path, read_reply};
use crate::resumable::{TUS_BYTES, at_rest, tus};
use crate::uploads::{downloaded, noise};

pub(crate) const MIB: usize = 1 << 20;
pub(crate) const PART: usize = 8 * MIB;

fn create(running: &Running, version: &str, length: usize) -> Request {
    let path = format!("/files?target=acme/demo/{version}/virtualbox/amd64");
    Request::new("POST", &path)
        .token(&running.owner)
        .header("Upload-Length", &length.to_string())
}

/// Begins an upload in parts; returns its path.
pub(crate) async fn begin(running: &Running, version: &str, length: usize) -> String {
    let reply = running.send(create(running, version, length)).await;
    assert_eq!(reply.status, 201, "{}", reply.head);
    assert_eq!(reply.header("upload-part-size"), Some("8388608"));
    assert_eq!(reply.header("upload-offset"), Some("0"));
    reply.header("location").unwrap().to_owned()
}

pub(crate) fn put(running: &Running, path: &str, k: usize, part: &[u8]) -> Request {
    Request::new("PUT", &format!("{path}/parts/{k}"))
        .token(&running.owner)
        .body(part)
}

pub(crate) fn part(bytes: &[u8], k: usize) -> &[u8] {
    &bytes[k * PART..bytes.len().min((k + 1) * PART)]
}

async fn held(running: &Running, path: &str) -> serde_json::Value {
    let reply = running.get(path, &running.owner).await;
    assert_eq!(reply.status, 200, "{}", reply.head);
    reply.json()["parts"]["held"].clone()
}

fn code(reply: &Reply) -> String {
    let document = reply.json();
    let code = &document["code"];
    let code = if code.is_null() {
        &document["error"]
    } else {
        code
    };
    code.as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn parts_over_many_connections_become_the_box() {
    let running = Running::start().await;
    let bytes = noise(5 * PART + 12_345, 1);
    let path = begin(&running, "1.0", bytes.len()).await;
    let sent = (0..6).map(|k| running.send(put(&running, &path, k, part(&bytes, k))));
    let replies = futures_util::future::join_all(sent).await;
    let completed: Vec<_> = replies.iter().filter(|r| r.status == 201).collect();
    assert!(!completed.is_empty());
    assert!(replies.iter().all(|r| [201, 204].contains(&r.status)));
    for reply in completed {
        let details = &reply.json()["details"];
        assert_eq!(details["fileSize"], bytes.len());
        assert_eq!(details["blake3"], blake3::hash(&bytes).to_hex().to_string());
        assert_eq!(details["sha256"], hex::encode(sha2::Sha256::digest(&bytes)));
    }
    assert!(downloaded(&running, "demo", "1.0").await == bytes);

    // The same part once more, by a client that lost the answer; and another one.
    let again = running.send(put(&running, &path, 3, part(&bytes, 3))).await;
    assert_eq!(again.status, 201);
    assert_eq!(
        again.header("upload-offset"),
        Some(&*bytes.len().to_string())
    );
    let other = running.send(put(&running, &path, 3, part(&bytes, 2))).await;
    assert_eq!((other.status, &*code(&other)), (409, "PART_DIFFERS"));
    running.stop().await;
}

#[tokio::test]
async fn parts_are_told_kept_over_a_restart_and_refused_where_they_do_not_fit() {
    let mut running = Running::start().await;
    let bytes = noise(20 * PART, 2);
    let path = begin(&running, "1.0", bytes.len()).await;
    for k in [2, 0, 5] {
        let reply = running.send(put(&running, &path, k, part(&bytes, k))).await;
        assert_eq!(reply.status, 204, "{}", reply.head);
    }
    assert_eq!(held(&running, &path).await, serde_json::json!([2, 5]));
    // (part, bytes) and what is wrong with it.
    for (k, length, status, word) in [
        (17, PART, 409, "PART_AHEAD"),
        (20, PART, 400, "INVALID_REQUEST"),
        (3, PART - 1, 400, "PART_SIZE"),
        (3, 0, 400, "PART_SIZE"),
        (3, PART + 1, 400, "PART_SIZE"),
        (2, PART, 409, "PART_DIFFERS"),
    ] {
        let reply = running
            .send(put(&running, &path, k, &noise(length, 9)))
            .await;
        assert_eq!((reply.status, &*code(&reply)), (status, word), "part {k}");
        if status == 409 {
            assert_eq!(reply.header("upload-offset"), Some("8388608"));
        }
    }
    let wrong = format!("sha-256=:{}:", STANDARD.encode([7; 32]));
    let digest = put(&running, &path, 1, part(&bytes, 1)).header("Content-Digest", &wrong);
    let reply = running.send(digest).await;
    assert_eq!(reply.status, 400, "{}", reply.head);
    assert_eq!(held(&running, &path).await, serde_json::json!([2, 5]));

    // One that is cut counts for nothing.
    let mut cut = TcpStream::connect(running.address).await.unwrap();
    let request = put(&running, &path, 1, part(&bytes, 1)).to_bytes();
    cut.write_all(&request[..request.len() - 1]).await.unwrap();
    drop(cut);
    running.gateway.engine.settled().await;
    assert_eq!(held(&running, &path).await, serde_json::json!([2, 5]));

    let token = running.owner.clone();
    running = Running::start_in(running.stop().await, &[]).await;
    running.owner = token;
    assert_eq!(held(&running, &path).await, serde_json::json!([2, 5]));
    let mut last = 0;
    for k in (0..20).filter(|k| ![0, 2, 5].contains(k)) {
        let sha = STANDARD.encode(sha2::Sha256::digest(part(&bytes, k)));
        let put = put(&running, &path, k, part(&bytes, k));
        let put = put.header("Content-Digest", &format!("sha-256=:{sha}:"));
        last = running.send(put).await.status;
    }
    assert_eq!(last, 201);
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.stop().await;
}

/// What a gateway leaves that is killed when a window of parts is held and the offset did not move yet.
async fn killed_before_the_offset_moved() -> (Running, String, Vec<u8>) {
    let mut running = Running::start().await;
    let bytes = noise(17 * PART, 44);
    let path = begin(&running, "1.0", bytes.len()).await;
    for k in 1..16 {
        running.send(put(&running, &path, k, part(&bytes, k))).await;
    }
    running = restarted(running, &[]).await;
    let [stored] = &running.stored_files()[..] else {
        panic!("one upload has one file");
    };
    let file = std::fs::File::options().write(true).open(stored).unwrap();
    file.write_all_at(part(&bytes, 0), 0).unwrap();
    let mut hasher = PieceHasher::new(0);
    hasher.update(part(&bytes, 0));
    let first = Piece {
        k: 0,
        start: 0,
        length: PART as u64,
        values: hasher.finish(),
        apart: None,
    };
    let id: UploadId = path.rsplit('/').next().unwrap().parse().unwrap();
    let metadata = &running.gateway.metadata;
    let epoch = metadata.upload(id).await.unwrap().unwrap().epoch;
    assert_eq!(
        metadata
            .hold_piece(Fence { id, epoch }, first)
            .await
            .unwrap(),
        16
    );
    (running, path, bytes)
}

#[tokio::test]
async fn an_offset_that_a_crash_left_behind_its_parts_moves_on() {
    let (running, path, bytes) = killed_before_the_offset_moved().await;
    // A client whose window is held asks, and has nothing to send.
    let moved = async {
        while running.get(&path, &running.owner).await.json()["offset"] != 16 * PART {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), moved)
        .await
        .expect("it hangs");
    let last = put(&running, &path, 16, part(&bytes, 16));
    assert_eq!(running.send(last).await.status, 201);
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.stop().await;

    // Or it sends what is next.
    let (running, path, bytes) = killed_before_the_offset_moved().await;
    let last = put(&running, &path, 16, part(&bytes, 16));
    assert_eq!(running.send(last).await.status, 201);
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.stop().await;
}

#[tokio::test]
async fn parts_of_others_and_of_other_uploads_are_refused() {
    let running = Running::start().await;
    let bytes = noise(PART + 1, 3);
    let path = begin(&running, "1.0", bytes.len()).await;
    let ann = running.member("ann", OrganizationRole::Member).await;
    let ann = running.token(ann, TokenKind::Personal, None).await;
    let request = |token: &str| {
        Request::new("PUT", &format!("{path}/parts/0"))
            .token(token)
            .body(part(&bytes, 0))
    };
    assert_eq!(running.send(request(&ann)).await.status, 404);
    assert_eq!(running.send(request("")).await.status, 401);
    // Made by another protocol, and given up.
    let tus = Request::new("POST", "/files?target=acme/demo/2.0/virtualbox/amd64")
        .token(&running.owner)
        .header("Tus-Resumable", "1.0.0")
        .header("Upload-Length", "9");
    let tus = running
        .send(tus)
        .await
        .header("location")
        .unwrap()
        .to_owned();
    let reply = running.send(put(&running, &tus, 0, b"123456789")).await;
    assert_eq!((reply.status, &*code(&reply)), (409, "NOT_IN_PARTS"));
    let cancel = Request::new("DELETE", &path).token(&running.owner);
    assert_eq!(running.send(cancel).await.status, 204);
    let reply = running.send(put(&running, &path, 0, part(&bytes, 0))).await;
    assert_eq!(reply.status, 410);
    for (length, status) in [("0", 400), ("-1", 400), ("200000000000", 413)] {
        let request = Request::new("POST", "/files?organization=acme")
            .token(&running.owner)
            .header("Upload-Length", length);
        assert_eq!(running.send(request).await.status, status, "{length}");
    }
    assert_eq!(running.stored_files().len(), 1, "that of the tus upload");
    running.stop().await;
}

#[tokio::test]
async fn whoever_asks_for_the_offset_ends_the_parts_on_their_way() {
    let running = Running::start().await;
    let bytes = noise(2 * PART, 4);
    let path = begin(&running, "1.0", bytes.len()).await;
    let mut older = TcpStream::connect(running.address).await.unwrap();
    let request = put(&running, &path, 0, part(&bytes, 0)).to_bytes();
    older.write_all(&request[..MIB]).await.unwrap();
    // One that is just being begun would come after whoever asks.
    while running.gateway.engine.stats().bytes_copied == 0 {
        tokio::task::yield_now().await;
    }
    let head = Request::new("HEAD", &path).token(&running.owner);
    let head = running.send(head).await;
    assert_eq!(
        (head.status, head.header("upload-offset")),
        (204, Some("0"))
    );
    let reply = read_reply(&mut older).await;
    assert_eq!((reply.status, &*code(&reply)), (409, "UPLOAD_TAKEN_OVER"));
    for k in [1, 0] {
        running.send(put(&running, &path, k, part(&bytes, k))).await;
    }
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.stop().await;
}

#[tokio::test]
async fn bytes_in_order_do_not_end_parts_that_were_answered() {
    let running = Running::start().await;
    let bytes = noise(2 * PART, 8);
    let path = begin(&running, "1.0", bytes.len()).await;
    let held = running.send(put(&running, &path, 1, part(&bytes, 1))).await;
    assert_eq!(held.status, 204);
    let patch = || {
        tus(&running, "PATCH", &path)
            .header("Content-Type", TUS_BYTES)
            .header("Upload-Offset", "0")
    };
    let wrong = format!("sha1 {}", STANDARD.encode([0; 20]));
    for request in [
        patch().body(b""),
        patch().body(part(&bytes, 0)),
        patch()
            .header("Upload-Checksum", &wrong)
            .body(part(&bytes, 0)),
    ] {
        let reply = running.send(request).await;
        assert_eq!((reply.status, &*code(&reply)), (409, "HOLDS_PIECES"));
        assert_eq!(reply.header("upload-offset"), Some("0"));
    }
    let last = running.send(put(&running, &path, 0, part(&bytes, 0))).await;
    assert_eq!(last.status, 201);
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.stop().await;
}

/// What BoxVault's page sends.
#[tokio::test]
async fn a_part_that_is_not_what_its_digest_says_is_refused_for_that_alone() {
    let running = Running::start().await;
    let bytes = noise(PART + MIB, 31);
    let path = begin(&running, "1.0", bytes.len()).await;
    let lying = |k: usize| {
        let digest = STANDARD.encode(sha2::Sha256::digest(b"other bytes"));
        put(&running, &path, k, part(&bytes, k))
            .header("Content-Digest", &format!("sha-256=:{digest}:"))
    };
    for k in [1, 0, 1] {
        assert_eq!(running.send(lying(k)).await.status, 400);
        assert_eq!(held(&running, &path).await, serde_json::json!([]));
    }
    for k in [0, 1] {
        running.send(put(&running, &path, k, part(&bytes, k))).await;
        // Of bytes that are held, and of an upload that is finished: what is there stays.
        assert_eq!(running.send(lying(k)).await.status, 400);
    }
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.stop().await;
}

#[tokio::test]
async fn parts_that_are_longer_than_a_request_may_be_are_refused_at_once() {
    let running = Running::start_with(&[("BOXGATE_UPLOADS__MAX_APPEND_SIZE", "7MiB")]).await;
    let reply = running.send(create(&running, "1.0", PART)).await;
    assert_eq!(
        (reply.status, code(&reply)),
        (413, "FILE_TOO_LARGE".to_owned())
    );
    let text = reply.json()["detail"].to_string();
    assert!(
        text.contains("8388608") && text.contains("uploads.max_append_size"),
        "{text}"
    );
    assert_eq!(
        running.send(create(&running, "1.0", 7 * MIB)).await.status,
        201
    );
    running.stop().await;
}

fn chunk(running: &Running, version: &str, i: usize, n: usize, bytes: &[u8]) -> Request {
    Request::new("POST", &format!("{}/upload", file_path("demo", version)))
        .header("x-access-token", &running.owner)
        .header("Content-Type", "application/octet-stream")
        .header("x-file-name", "demo.box")
        .header("x-checksum", "")
        .header("x-checksum-type", "NULL")
        .header("x-chunk-index", &i.to_string())
        .header("x-total-chunks", &n.to_string())
        .body(bytes)
}

async fn listed(running: &Running, version: &str) -> serde_json::Value {
    let path = format!("{}/upload", file_path("demo", version));
    let reply = running.get(&path, &running.owner).await;
    assert_eq!(reply.status, 200, "{}", reply.head);
    reply.json()["uploads"].clone()
}

#[tokio::test]
async fn chunks_as_the_page_of_boxvault_sends_them_become_the_box() {
    let running = Running::start().await;
    let bytes = noise(12 * MIB + 5, 5);
    let chunks: Vec<_> = bytes.chunks(5 * MIB).collect();
    for (i, bytes) in chunks.iter().enumerate().take(2) {
        let reply = running.send(chunk(&running, "1.0", i, 3, bytes)).await;
        assert_eq!(reply.status, 200, "{}", reply.head);
        let expected = serde_json::json!({
            "message": "Chunk upload completed",
            "details": {
                "isComplete": false, "status": "uploading", "chunksReceived": i + 1,
                "totalChunks": 3, "currentChunk": i,
            },
        });
        assert_eq!(reply.json(), expected);
    }
    let open = &listed(&running, "1.0").await[0];
    assert_eq!(open["chunks"], serde_json::json!([0, 1]));
    assert_eq!(
        (&open["chunkSize"], &open["totalChunks"]),
        (&(5 * MIB).into(), &3.into())
    );
    // What the gateway notes of it is no metadata of tus.
    let id = format!("/files/{}", open["id"].as_str().unwrap());
    let told = running.send(tus(&running, "HEAD", &id)).await;
    assert_eq!((told.status, told.header("upload-metadata")), (200, None));
    // Nothing is visible before the last one.
    let info = format!("{}/info", file_path("demo", "1.0"));
    assert_eq!(running.get(&info, &running.owner).await.status, 404);
    let reply = running.send(chunk(&running, "1.0", 2, 3, chunks[2])).await;
    assert_eq!(reply.json()["details"]["isComplete"], true);
    assert_eq!(reply.json()["details"]["fileSize"], bytes.len());
    assert_eq!(reply.json()["message"], "File upload completed");
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    // The last one again, by a client that lost the answer.
    let again = running.send(chunk(&running, "1.0", 2, 3, chunks[2])).await;
    assert_eq!(again.json()["details"]["isComplete"], true);
    assert_eq!(listed(&running, "1.0").await, serde_json::json!([]));
    running.stop().await;
}

#[tokio::test]
async fn chunks_in_any_order_and_at_once_of_an_odd_size_become_the_box() {
    let running = Running::start().await;
    let bytes = noise(4 * 3_000_001 + 17, 6);
    let chunks: Vec<_> = bytes.chunks(3_000_001).collect();
    // The last one first: it waits for another to tell where it belongs.
    let sent = [4, 1, 3, 0, 2].map(|i| running.send(chunk(&running, "1.0", i, 5, chunks[i])));
    let replies = futures_util::future::join_all(sent).await;
    for reply in &replies {
        assert_eq!(reply.status, 200, "{}", reply.head);
    }
    let complete = replies
        .iter()
        .filter(|r| r.json()["details"]["isComplete"] == true);
    assert!(complete.count() >= 1);
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.gateway.engine.settled().await;
    assert_eq!(running.stored_files().len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn chunks_that_do_not_fit_change_nothing_and_sessions_do_not_mix() {
    let running = Running::start().await;
    let bytes = noise(3 * MIB, 7);
    let first = &bytes[..MIB];
    assert_eq!(
        running
            .send(chunk(&running, "1.0", 0, 3, first))
            .await
            .status,
        200
    );
    // Another size, another content under a held index, and equal bytes once more.
    let size = running
        .send(chunk(&running, "1.0", 1, 3, &bytes[..MIB - 1]))
        .await;
    assert_eq!((size.status, &*code(&size)), (400, "CHUNK_SIZE"));
    let last = running
        .send(chunk(&running, "1.0", 2, 3, &noise(MIB + 1, 1)))
        .await;
    assert_eq!((last.status, &*code(&last)), (400, "CHUNK_SIZE"));
    let differs = running
        .send(chunk(&running, "1.0", 0, 3, &bytes[MIB..2 * MIB]))
        .await;
    assert_eq!((differs.status, &*code(&differs)), (409, "CHUNK_DIFFERS"));
    let equal = running.send(chunk(&running, "1.0", 0, 3, first)).await;
    assert_eq!(equal.json()["details"]["chunksReceived"], 1);

    // Another number of chunks, another checksum, another sender: each an upload of its own.
    let two = running
        .send(chunk(&running, "1.0", 0, 2, &bytes[MIB..2 * MIB]))
        .await;
    assert_eq!(two.json()["details"]["chunksReceived"], 1);
    let ann = running.member("ann", OrganizationRole::Admin).await;
    let ann = running.token(ann, TokenKind::Personal, None).await;
    let theirs = Request::new("POST", &format!("{}/upload", file_path("demo", "1.0")))
        .token(&ann)
        .header("x-chunk-index", "1")
        .header("x-total-chunks", "3")
        .body(&noise(MIB, 8));
    let theirs = running.send(theirs).await;
    assert_eq!(
        theirs.json()["details"]["chunksReceived"],
        1,
        "{}",
        theirs.head
    );
    assert_eq!(listed(&running, "1.0").await.as_array().unwrap().len(), 2);

    for (i, at) in [(1, MIB), (2, 2 * MIB)] {
        running
            .send(chunk(&running, "1.0", i, 3, &bytes[at..at + MIB]))
            .await;
    }
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.stop().await;
}

#[tokio::test]
async fn a_chunk_that_is_cut_is_not_counted_and_a_wrong_whole_publishes_nothing() {
    let running = Running::start().await;
    let bytes = noise(2 * MIB, 9);
    running
        .send(chunk(&running, "1.0", 0, 2, &bytes[..MIB]))
        .await;
    at_rest(&running).await;
    let mut cut = TcpStream::connect(running.address).await.unwrap();
    let request = chunk(&running, "1.0", 1, 2, &bytes[MIB..]).to_bytes();
    cut.write_all(&request[..request.len() - 1]).await.unwrap();
    // Were it to begin after the next one, it would take that one's place.
    while running.gateway.engine.in_progress() == 0 {
        tokio::task::yield_now().await;
    }
    drop(cut);
    running.gateway.engine.settled().await;
    assert_eq!(listed(&running, "1.0").await[0]["chunksReceived"], 1);
    let reply = running
        .send(chunk(&running, "1.0", 1, 2, &bytes[MIB..]))
        .await;
    assert_eq!(
        reply.json()["details"]["isComplete"],
        true,
        "{}",
        reply.head
    );

    let other = noise(2 * MIB, 10);
    let mut last = 0;
    for i in 0..2 {
        let request = Request::new("PUT", &format!("{}/upload", file_path("demo", "1.0")))
            .token(&running.owner)
            .header("x-checksum", &"ab".repeat(32))
            .header("x-checksum-type", "sha256")
            .header("x-chunk-index", &i.to_string())
            .header("x-total-chunks", "2")
            .body(&other[i * MIB..(i + 1) * MIB]);
        last = running.send(request).await.status;
    }
    assert_eq!(last, 422);
    assert!(
        downloaded(&running, "demo", "1.0").await == bytes,
        "the old one stays"
    );
    running.gateway.engine.settled().await;
    assert_eq!(running.stored_files().len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn what_comes_in_chunks_is_not_continued_from_an_offset() {
    let running = Running::start().await;
    let bytes = noise(3 * MIB, 35);
    let reply = running
        .send(chunk(&running, "1.0", 0, 3, &bytes[..MIB]))
        .await;
    assert_eq!(reply.status, 200);
    let id = listed(&running, "1.0").await[0]["id"].clone();
    let patch = Request::new("PATCH", &format!("/files/{}", id.as_str().unwrap()))
        .token(&running.owner)
        .header("Tus-Resumable", "1.0.0")
        .header("Content-Type", "application/offset+octet-stream")
        .header("Upload-Offset", &MIB.to_string())
        .body(&bytes[MIB..MIB + 10]);
    let reply = running.send(patch).await;
    assert_eq!((reply.status, &*code(&reply)), (409, "COMES_IN_CHUNKS"));
    for k in [2, 1] {
        let piece = &bytes[k * MIB..(k + 1) * MIB];
        let reply = running.send(chunk(&running, "1.0", k, 3, piece)).await;
        assert_eq!(reply.status, 200);
    }
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.stop().await;
}

/// Starts the gateway again, on the same data and with other settings.
async fn restarted(running: Running, variables: &[(&str, &str)]) -> Running {
    let token = running.owner.clone();
    let mut running = Running::start_in(running.stop().await, variables).await;
    running.owner = token;
    running
}

/// For a gateway that takes whatever was not written to in this millisecond for rested.
const ALL_REST: &[(&str, &str)] = &[("BOXGATE_UPLOADS__CHUNK_IDLE", "1ms")];

/// Waits until all rests there.
async fn rest(running: &Running) {
    running.gateway.engine.settled().await;
    let begun = std::time::SystemTime::now();
    while begun.elapsed().unwrap() < Duration::from_millis(5) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn after_a_rest_a_new_first_chunk_begins_afresh() {
    let mut running = Running::start_with(ALL_REST).await;
    let (old, new) = (noise(2 * MIB, 11), noise(2 * MIB, 12));
    for bytes in [&old, &new] {
        let first = chunk(&running, "1.0", 0, 2, &bytes[..MIB]);
        let reply = running.send(first).await;
        assert_eq!(reply.json()["details"]["chunksReceived"], 1);
        rest(&running).await;
    }
    running = restarted(running, &[]).await;
    let last = chunk(&running, "1.0", 1, 2, &new[MIB..]);
    assert_eq!(
        running.send(last).await.json()["details"]["isComplete"],
        true
    );
    assert!(downloaded(&running, "demo", "1.0").await == new);
    running.gateway.engine.settled().await;
    assert_eq!(running.stored_files().len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn chunks_that_rest_are_not_completed_by_those_of_another_file() {
    let mut running = Running::start().await;
    let (old, new) = (noise(3 * MIB, 41), noise(3 * MIB, 42));
    for i in [0, 1] {
        let sent = chunk(&running, "1.0", i, 3, &old[i * MIB..(i + 1) * MIB]);
        assert_eq!(running.send(sent).await.status, 200);
    }
    running = restarted(running, ALL_REST).await;
    let before = listed(&running, "1.0").await[0]["updatedAt"].clone();
    rest(&running).await;
    for (i, word) in [(2, "CHUNKS_REST"), (1, "CHUNK_DIFFERS"), (2, "CHUNKS_REST")] {
        let sent = chunk(&running, "1.0", i, 3, &new[i * MIB..(i + 1) * MIB]);
        let reply = running.send(sent).await;
        assert_eq!((reply.status, &*code(&reply)), (409, word), "chunk {i}");
    }
    assert_eq!(listed(&running, "1.0").await[0]["updatedAt"], before);
    // Whose file it is shows by a chunk that is held; then they rest no more.
    let again = chunk(&running, "1.0", 1, 3, &old[MIB..2 * MIB]);
    assert_eq!(running.send(again).await.status, 200);
    assert_ne!(listed(&running, "1.0").await[0]["updatedAt"], before);
    running = restarted(running, &[]).await;
    let last = chunk(&running, "1.0", 2, 3, &old[2 * MIB..]);
    assert_eq!(
        running.send(last).await.json()["details"]["isComplete"],
        true
    );
    assert!(downloaded(&running, "demo", "1.0").await == old);
    running.stop().await;
}

#[tokio::test]
async fn a_chunk_that_lost_the_last_answer_gets_it_again() {
    let running = Running::start().await;
    let bytes = noise(3 * MIB, 45);
    let digest = hex::encode(sha2::Sha256::digest(&bytes));
    let declared = |i: usize, of: &[u8]| {
        Request::new("PUT", &format!("{}/upload", file_path("demo", "1.0")))
            .token(&running.owner)
            .header("x-checksum", &digest)
            .header("x-checksum-type", "sha256")
            .header("x-chunk-index", &i.to_string())
            .header("x-total-chunks", "3")
            .body(&of[i * MIB..(i + 1) * MIB])
    };
    for i in [1, 2] {
        running.send(declared(i, &bytes)).await;
    }
    let done = running.send(declared(0, &bytes)).await;
    assert_eq!(done.json()["details"]["isComplete"], true);
    for i in [0, 1, 2] {
        let again = running.send(declared(i, &bytes)).await;
        assert_eq!(
            (again.status, again.json()),
            (200, done.json()),
            "chunk {i}"
        );
        let other = running.send(declared(i, &noise(3 * MIB, 46))).await;
        assert_eq!((other.status, &*code(&other)), (409, "CHUNK_DIFFERS"));
    }
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.stop().await;
}

#[tokio::test]
async fn chunks_of_what_would_be_too_long_are_refused_at_the_first_one() {
    let running = Running::start_with(&[("BOXGATE_UPLOADS__MAX_LENGTH", "8MiB")]).await;
    let sent = chunk(&running, "1.0", 5, 10, &noise(MIB, 43));
    assert_eq!(running.send(sent).await.status, 413);
    assert_eq!(listed(&running, "1.0").await, serde_json::json!([]));
    let fits = chunk(&running, "1.0", 5, 8, &noise(MIB, 43));
    assert_eq!(running.send(fits).await.status, 200);
    running.stop().await;
}
