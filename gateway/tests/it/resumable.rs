//! Uploads over several requests, byte for byte: tus, the IETF's protocol, and the rest of a cut upload.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boxgate_storage::blob::UploadId;
use boxgate_storage::metadata::accounts::{OrganizationRole, PlatformRole};
use boxgate_storage::metadata::tokens::TokenKind;
use boxgate_storage::upload::UploadRow;
use sha2::Digest as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::harness::{Reply, Request, Running, file_path, read_reply};
use crate::uploads::{downloaded, noise};

pub(crate) const TUS_BYTES: &str = "application/offset+octet-stream";
const PARTIAL: &str = "application/partial-upload";

/// A request that speaks tus, by the organization's owner.
pub(crate) fn tus(running: &Running, method: &str, path: &str) -> Request {
    tus_by(&running.owner, method, path)
}

pub(crate) fn tus_by(token: &str, method: &str, path: &str) -> Request {
    Request::new(method, path)
        .token(token)
        .header("Tus-Resumable", "1.0.0")
}

pub(crate) fn patch(running: &Running, path: &str, offset: usize, body: &[u8]) -> Request {
    tus(running, "PATCH", path)
        .header("Content-Type", TUS_BYTES)
        .header("Upload-Offset", &offset.to_string())
        .body(body)
}

/// An append by the IETF's protocol.
pub(crate) fn append(
    running: &Running,
    path: &str,
    offset: usize,
    complete: bool,
    body: &[u8],
) -> Request {
    Request::new("PATCH", path)
        .token(&running.owner)
        .header("Content-Type", PARTIAL)
        .header("Upload-Offset", &offset.to_string())
        .header("Upload-Complete", if complete { "?1" } else { "?0" })
        .body(body)
}

pub(crate) fn metadata(version: &str) -> String {
    let target = format!("acme/demo/{version}/virtualbox/amd64");
    format!(
        "filename {},target {}",
        STANDARD.encode("x.box"),
        STANDARD.encode(target)
    )
}

pub(crate) fn query(version: &str) -> String {
    format!("/files?target=acme/demo/{version}/virtualbox/amd64")
}

/// Begins a tus upload of the box demo; returns its path.
async fn begin(running: &Running, version: &str, length: usize) -> String {
    let request = tus(running, "POST", "/files")
        .header("Upload-Length", &length.to_string())
        .header("Upload-Metadata", &metadata(version));
    located(&running.send(request).await)
}

pub(crate) fn located(reply: &Reply) -> String {
    assert_eq!(reply.status, 201, "{} {}", reply.head, text(reply));
    let location = reply.header("location").unwrap().to_owned();
    assert!(location.starts_with("/files/"), "{location}");
    location
}

pub(crate) async fn head(running: &Running, path: &str) -> Reply {
    running.send(tus(running, "HEAD", path)).await
}

pub(crate) async fn offset(running: &Running, path: &str) -> usize {
    let reply = head(running, path).await;
    assert_eq!(reply.status, 200, "{}", reply.head);
    reply.header("upload-offset").unwrap().parse().unwrap()
}

pub(crate) fn text(reply: &Reply) -> String {
    String::from_utf8_lossy(&reply.body).into_owned()
}

/// Sends the head of a request and the first bytes of its body, and leaves the connection open.
pub(crate) async fn half(
    running: &Running,
    request: Request,
    length: usize,
    bytes: &[u8],
) -> TcpStream {
    let request = request.header("Content-Length", &length.to_string());
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.write_all(&request.to_bytes()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// Waits until an upload has committed bytes up to `offset`, disturbing nobody.
pub(crate) async fn committed(running: &Running, path: &str, offset: u64) {
    loop {
        let status = running.get(path, &running.owner).await.json();
        if status["offset"].as_u64() >= Some(offset) {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Waits until no request writes any more.
pub(crate) async fn at_rest(running: &Running) {
    while running.gateway.engine.in_progress() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_tus_upload_in_pieces_becomes_the_box_that_its_metadata_names() {
    let running = Running::start().await;
    let bytes = noise(20_000_001, 1);
    let path = begin(&running, "1.0", bytes.len()).await;
    let first = head(&running, &path).await;
    assert_eq!(first.header("upload-offset"), Some("0"));
    assert_eq!(first.header("upload-length"), Some("20000001"));
    assert_eq!(first.header("cache-control"), Some("no-store"));
    assert_eq!(first.header("tus-resumable"), Some("1.0.0"));
    assert_eq!(first.header("upload-metadata").unwrap(), metadata("1.0"));
    assert!(first.header("upload-expires").unwrap().ends_with(" GMT"));
    let mut at = 0;
    for piece in [1, 7_000_000, 3_000_000, 9_000_000] {
        let reply = running
            .send(patch(&running, &path, at, &bytes[at..at + piece]))
            .await;
        at += piece;
        assert_eq!(reply.status, 204, "{} {}", reply.head, text(&reply));
        assert_eq!(reply.header("upload-offset").unwrap(), at.to_string());
        assert!(reply.header("upload-expires").is_some());
        assert_eq!(offset(&running, &path).await, at);
        assert_eq!(
            running
                .get(
                    &format!("{}/download", file_path("demo", "1.0")),
                    &running.owner
                )
                .await
                .status,
            404
        );
    }
    let reply = running.send(patch(&running, &path, at, &bytes[at..])).await;
    assert_eq!(reply.status, 204, "{} {}", reply.head, text(&reply));
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    // A client that lost the answer asks again, by HEAD or by an empty PATCH.
    assert_eq!(offset(&running, &path).await, bytes.len());
    let again = running.send(patch(&running, &path, bytes.len(), b"")).await;
    assert_eq!(again.status, 204);
    let status = running.get(&path, &running.owner).await.json();
    assert_eq!(status["state"], "done");
    assert_eq!(status["target"]["version"], "1.0");
    assert_eq!(
        status["details"]["blake3"],
        blake3::hash(&bytes).to_hex().to_string()
    );
    running.stop().await;
}

#[tokio::test]
async fn a_tus_upload_may_come_with_its_creation_or_learn_its_length_late() {
    let running = Running::start().await;
    let bytes = noise(100_000, 2);
    let creation = |length: &str, value: &str| {
        tus(&running, "POST", "/files")
            .header(length, value)
            .header("Upload-Metadata", &metadata("1.0"))
            .header("Content-Type", TUS_BYTES)
    };
    let whole = running
        .send(creation("Upload-Length", "100000").body(&bytes))
        .await;
    assert_eq!(whole.status, 201, "{}", text(&whole));
    assert_eq!(whole.header("upload-offset"), Some("100000"));
    assert_eq!(whole.json()["details"]["isComplete"], true);
    assert!(downloaded(&running, "demo", "1.0").await == bytes);

    let bytes = noise(100_000, 3);
    let late = running
        .send(creation("Upload-Defer-Length", "1").body(&bytes[..40_000]))
        .await;
    assert_eq!(late.header("upload-offset"), Some("40000"));
    let path = located(&late);
    let standing = head(&running, &path).await;
    assert_eq!(standing.header("upload-defer-length"), Some("1"));
    assert_eq!(standing.header("upload-length"), None);
    // At another offset the length is not fixed.
    let wrong = patch(&running, &path, 5, &bytes[5..50]).header("Upload-Length", "50");
    assert_eq!(running.send(wrong).await.status, 409);
    let last = patch(&running, &path, 40_000, &bytes[40_000..]).header("Upload-Length", "100000");
    assert_eq!(running.send(last).await.status, 204);
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.stop().await;
}

#[tokio::test]
async fn a_cut_append_goes_on_where_it_was_committed() {
    let running = Running::start().await;
    let bytes = noise(30 << 20, 4);
    let path = begin(&running, "1.0", bytes.len()).await;
    let request = tus(&running, "PATCH", &path)
        .header("Content-Type", TUS_BYTES)
        .header("Upload-Offset", "0");
    let stream = half(
        &running,
        request,
        bytes.len(),
        &bytes[..(20 << 20) + 12_345],
    )
    .await;
    committed(&running, &path, 16 << 20).await;
    drop(stream);
    at_rest(&running).await;
    let at = offset(&running, &path).await;
    assert!((16 << 20..=(20 << 20) + 12_345).contains(&at), "{at}");
    let rest = running.send(patch(&running, &path, at, &bytes[at..])).await;
    assert_eq!(rest.status, 204, "{}", text(&rest));
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.stop().await;
}

#[tokio::test]
async fn a_newer_request_takes_an_upload_over_from_one_that_stalls() {
    let running = Running::start().await;
    let bytes = noise(20 << 20, 5);
    let path = begin(&running, "1.0", bytes.len()).await;
    let request = tus(&running, "PATCH", &path)
        .header("Content-Type", TUS_BYTES)
        .header("Upload-Offset", "0");
    let mut stalled = half(&running, request, bytes.len(), &bytes[..17 << 20]).await;
    committed(&running, &path, 16 << 20).await;
    // It still holds its connection, and would for a while.
    let at = offset(&running, &path).await;
    let rest = running.send(patch(&running, &path, at, &bytes[at..])).await;
    assert_eq!(rest.status, 204, "{}", text(&rest));
    // It has its answer; without this the gateway would wait some seconds for the rest of its body.
    stalled.shutdown().await.unwrap();
    let replaced = read_reply(&mut stalled).await;
    assert_eq!(replaced.status, 409, "{}", text(&replaced));
    assert_eq!(replaced.json()["code"], "UPLOAD_TAKEN_OVER");
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.stop().await;
}

#[tokio::test]
async fn whoever_sends_to_an_upload_that_is_given_up_is_told_that_it_is_gone() {
    let running = Running::start().await;
    let bytes = noise(20 << 20, 34);
    let path = begin(&running, "1.0", bytes.len()).await;
    let append = tus(&running, "PATCH", &path)
        .header("Content-Type", TUS_BYTES)
        .header("Upload-Offset", "0");
    let creation = Request::new("POST", &query("2.0"))
        .token(&running.owner)
        .header("Upload-Complete", "?1");
    for (version, request) in [("1.0", append), ("2.0", creation)] {
        let mut sender = half(&running, request, bytes.len(), &bytes[..17 << 20]).await;
        let id = begun(&running, version).await;
        committed(&running, &format!("/files/{id}"), 16 << 20).await;
        let engine = &running.gateway.engine;
        assert!(engine.abort_by(id, "root").await.unwrap(), "{version}");
        sender.shutdown().await.unwrap();
        let told = read_reply(&mut sender).await;
        assert_eq!(told.status, 410, "{version}: {}", text(&told));
    }
    running.stop().await;
}

/// Waits for the open upload of a version, which nobody told of yet.
async fn begun(running: &Running, version: &str) -> UploadId {
    loop {
        let open = running.gateway.engine.open_uploads(None, None, 10).await;
        let of = |row: &UploadRow| row.target.as_ref().is_some_and(|t| t.version == version);
        if let Some(row) = open.unwrap().into_iter().find(of) {
            return row.id;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one table")]
async fn what_is_wrong_with_a_tus_request_is_said_and_changes_nothing() {
    let running = Running::start_with(&[("BOXGATE_UPLOADS__MAX_LENGTH", "1MiB")]).await;
    let bytes = noise(1000, 6);
    let path = begin(&running, "1.0", 1000).await;
    running.send(patch(&running, &path, 0, &bytes[..100])).await;
    let unknown = format!("/files/{}", "ab".repeat(16));
    let body = &bytes[100..200];
    let raw = |offset: &str, kind: &str| {
        tus(&running, "PATCH", &path)
            .header("Upload-Offset", offset)
            .header("Content-Type", kind)
            .body(body)
    };
    let create = |lines: &[(&str, &str)]| {
        lines
            .iter()
            .fold(tus(&running, "POST", "/files"), |r, (n, v)| r.header(n, v))
    };
    let checksum = |value: &str| patch(&running, &path, 100, body).header("Upload-Checksum", value);
    let many = (0..40)
        .map(|k| format!("k{k} YQ=="))
        .collect::<Vec<_>>()
        .join(",");
    let huge = format!("a {}", "A".repeat(5000));
    let meta = metadata("1.0");
    let foreign = STANDARD.encode("nobody/demo/1.0/virtualbox/amd64");
    let cases = [
        ("offset", patch(&running, &path, 99, body), 409),
        (
            "offset past the end",
            patch(&running, &path, 2000, body),
            409,
        ),
        ("no number", raw("x", TUS_BYTES), 400),
        ("media type", raw("100", "application/octet-stream"), 415),
        (
            "past the length",
            patch(&running, &path, 100, &noise(901, 7)),
            413,
        ),
        (
            "another length",
            patch(&running, &path, 100, body).header("Upload-Length", "999"),
            400,
        ),
        (
            "version",
            Request::new("PATCH", &path)
                .token(&running.owner)
                .header("Tus-Resumable", "0.2.2")
                .header("Content-Type", TUS_BYTES)
                .header("Upload-Offset", "100")
                .body(body),
            412,
        ),
        (
            "no version",
            Request::new("PATCH", &path)
                .token(&running.owner)
                .header("Content-Type", TUS_BYTES)
                .header("Upload-Offset", "100")
                .body(body),
            412,
        ),
        (
            "checksum",
            checksum("sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0="),
            460,
        ),
        ("unknown algorithm", checksum("whirlpool AAAA"), 400),
        ("checksum that is none", checksum("sha1 AAAA"), 400),
        ("unknown upload", patch(&running, &unknown, 0, body), 404),
        (
            "no upload's name",
            patch(&running, "/files/x", 0, body),
            404,
        ),
        (
            "too long",
            create(&[("Upload-Length", "1048577"), ("Upload-Metadata", &meta)]),
            413,
        ),
        (
            "endless",
            create(&[
                ("Upload-Length", "99999999999999999999999"),
                ("Upload-Metadata", &meta),
            ]),
            413,
        ),
        (
            "both lengths",
            create(&[("Upload-Length", "1"), ("Upload-Defer-Length", "1")]),
            400,
        ),
        ("no length", create(&[("Upload-Metadata", &meta)]), 400),
        ("deferred 2", create(&[("Upload-Defer-Length", "2")]), 400),
        (
            "many keys",
            create(&[("Upload-Length", "1"), ("Upload-Metadata", &many)]),
            400,
        ),
        (
            "long metadata",
            create(&[("Upload-Length", "1"), ("Upload-Metadata", &huge)]),
            400,
        ),
        (
            "empty box",
            create(&[("Upload-Length", "0"), ("Upload-Metadata", &meta)]),
            400,
        ),
        (
            "foreign target",
            create(&[
                ("Upload-Length", "1"),
                ("Upload-Metadata", &format!("target {foreign}")),
            ]),
            404,
        ),
        ("no credential", tus_by("", "PATCH", &path), 401),
        (
            "bad credential",
            tus_by(&"ab".repeat(32), "HEAD", &path),
            401,
        ),
    ];
    for (what, request, status) in cases {
        let reply = running.send(request).await;
        assert_eq!(reply.status, status, "{what}: {}", text(&reply));
        assert_eq!(reply.header("tus-resumable"), Some("1.0.0"), "{what}");
        if status == 409 {
            assert_eq!(reply.header("upload-offset"), Some("100"), "{what}");
            assert_eq!(reply.json()["expected-offset"], 100, "{what}");
        }
        if status == 412 {
            assert_eq!(reply.header("tus-version"), Some("1.0.0"), "{what}");
        }
        assert_eq!(offset(&running, &path).await, 100, "{what}");
    }
    // Bytes past the length that no Content-Length told of.
    let mut chunked = format!("{:x}\r\n", 2000).into_bytes();
    chunked.extend_from_slice(&noise(2000, 8));
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    let request = tus(&running, "PATCH", &path)
        .header("Content-Type", TUS_BYTES)
        .header("Upload-Offset", "100")
        .header("Transfer-Encoding", "chunked")
        .raw_body(&chunked);
    assert_eq!(running.send(request).await.status, 413);
    assert_eq!(offset(&running, &path).await, 100);
    // After all of this the upload still comes to its end.
    let reply = running
        .send(patch(&running, &path, 100, &bytes[100..]))
        .await;
    assert_eq!(reply.status, 204, "{}", text(&reply));
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    let more = running.send(patch(&running, &path, 1000, b"x")).await;
    assert_eq!(more.status, 413, "{}", text(&more));
    let before = running.send(patch(&running, &path, 0, b"x")).await;
    assert_eq!(before.status, 409);
    assert_eq!(before.header("upload-offset"), Some("1000"));
    running.stop().await;
}

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

#[tokio::test]
async fn an_upload_is_its_makers_alone() {
    let running = Running::start().await;
    let path = begin(&running, "1.0", 10).await;
    let colleague = running.member("colleague", OrganizationRole::Admin).await;
    let colleague = running.token(colleague, TokenKind::Personal, None).await;
    let root = running.account("root", PlatformRole::Admin).await;
    let root = running.token(root, TokenKind::Personal, None).await;
    let unknown = format!("/files/{}", "cd".repeat(16));
    for token in [&colleague, &root] {
        for method in ["HEAD", "GET", "PATCH", "DELETE"] {
            let request = |path: &str| {
                tus_by(token, method, path)
                    .header("Content-Type", TUS_BYTES)
                    .header("Upload-Offset", "0")
                    .body(b"0123456789")
            };
            let reply = running.send(request(&path)).await;
            assert_eq!(reply.status, 404, "{method}");
            assert_eq!(reply.header("upload-offset"), None, "{method}");
            // Not to be told from one that was never there, but for the id of the request.
            let absent = running.send(request(&unknown)).await;
            assert_eq!(
                (absent.status, text(&absent)),
                (404, text(&reply)),
                "{method}"
            );
        }
    }
    assert_eq!(offset(&running, &path).await, 0);
    running.stop().await;
}

#[tokio::test]
async fn a_right_lost_on_the_way_publishes_nothing_and_keeps_the_bytes() {
    let running = Running::start().await;
    let bytes = noise(1000, 11);
    let member = running.member("leaver", OrganizationRole::Member).await;
    let token = running.token(member, TokenKind::Personal, None).await;
    let request = tus_by(&token, "POST", "/files")
        .header("Upload-Length", "1000")
        .header("Upload-Metadata", &metadata("1.0"));
    let path = located(&running.send(request).await);
    let request = tus_by(&token, "PATCH", &path)
        .header("Content-Type", TUS_BYTES)
        .header("Upload-Offset", "0");
    let mut stream = half(&running, request, 1000, &bytes[..500]).await;
    while running.gateway.engine.in_progress() == 0 {
        tokio::task::yield_now().await;
    }
    let gateway = &running.gateway;
    let (row, _) = gateway
        .metadata
        .token_by_hash(&boxgate::auth::credential::hash(&token))
        .await
        .unwrap()
        .unwrap();
    gateway.metadata.delete_token(row.id, member).await.unwrap();
    stream.write_all(&bytes[500..]).await.unwrap();
    let reply = read_reply(&mut stream).await;
    assert_eq!(reply.status, 401, "{}", text(&reply));
    assert_eq!(reply.header("upload-offset"), Some("1000"));
    let path_of_box = "/api/organization/acme/box/demo";
    assert_eq!(running.get(path_of_box, &running.owner).await.status, 404);
    // With another credential of the same account it is still there, and HEAD brings it to its end.
    let token = running.token(member, TokenKind::Personal, None).await;
    let reply = running.send(tus_by(&token, "HEAD", &path)).await;
    assert_eq!(reply.status, 200, "{}", reply.head);
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.stop().await;
}

#[tokio::test]
async fn a_terminated_upload_is_gone_with_its_bytes_and_its_writer() {
    let running = Running::start().await;
    let bytes = noise(18 << 20, 12);
    let path = begin(&running, "1.0", bytes.len()).await;
    let request = tus(&running, "PATCH", &path)
        .header("Content-Type", TUS_BYTES)
        .header("Upload-Offset", "0");
    let mut stream = half(&running, request, bytes.len(), &bytes[..17 << 20]).await;
    committed(&running, &path, 16 << 20).await;
    let reply = running.send(tus(&running, "DELETE", &path)).await;
    assert_eq!(reply.status, 204, "{}", text(&reply));
    stream.shutdown().await.unwrap();
    assert_eq!(read_reply(&mut stream).await.status, 410);
    for method in ["HEAD", "DELETE"] {
        let gone = running.send(tus(&running, method, &path)).await;
        assert_eq!(gone.status, 410, "{method}");
        assert_eq!(gone.header("upload-offset"), None);
    }
    running.gateway.engine.settled().await;
    running.gateway.engine.sweep().await.unwrap();
    assert_eq!(running.stored_files().len(), 0);
    running.stop().await;
}

#[tokio::test]
async fn a_finished_upload_is_terminated_and_its_box_stays() {
    let running = Running::start().await;
    let bytes = noise(1000, 31);
    let path = begin(&running, "1.0", 1000).await;
    assert_eq!(
        running.send(patch(&running, &path, 0, &bytes)).await.status,
        204
    );
    assert_eq!(offset(&running, &path).await, 1000);
    assert_eq!(
        running.send(tus(&running, "DELETE", &path)).await.status,
        204
    );
    for method in ["HEAD", "GET", "DELETE"] {
        let gone = running.send(tus(&running, method, &path)).await;
        assert_eq!(
            (gone.status, gone.header("upload-offset")),
            (410, None),
            "{method}"
        );
    }
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.stop().await;
}

#[tokio::test]
async fn an_empty_upload_is_complete_at_once_and_is_no_box() {
    let running = Running::start().await;
    let empty = running
        .send(tus(&running, "POST", "/files").header("Upload-Length", "0"))
        .await;
    let path = located(&empty);
    assert_eq!(empty.header("upload-offset"), Some("0"));
    let status = running.get(&path, &running.owner).await.json();
    assert_eq!(status["state"], "done");
    assert_eq!(offset(&running, &path).await, 0);
    // Nor does one that told its length late become a box.
    let late = tus(&running, "POST", "/files")
        .header("Upload-Defer-Length", "1")
        .header("Upload-Metadata", &metadata("1.0"));
    let path = located(&running.send(late).await);
    let end = patch(&running, &path, 0, b"").header("Upload-Length", "0");
    assert_eq!(running.send(end).await.status, 400);
    let rests = head(&running, &path).await;
    assert_eq!(rests.header("upload-defer-length"), Some("1"));
    let path_of_box = "/api/organization/acme/box/demo";
    assert_eq!(running.get(path_of_box, &running.owner).await.status, 404);
    running.stop().await;
}

#[tokio::test]
async fn an_upload_that_nobody_goes_on_with_is_gone_as_it_was_told() {
    let running = Running::start_with(&[("BOXGATE_UPLOADS__IDLE_TIMEOUT", "1ms")]).await;
    let request = tus(&running, "POST", "/files")
        .header("Upload-Concat", "partial")
        .header("Upload-Length", "10");
    let created = running.send(request).await;
    assert!(created.header("upload-expires").unwrap().ends_with(" GMT"));
    let path = located(&created);
    while running.get(&path, &running.owner).await.status != 410 {
        tokio::task::yield_now().await;
    }
    // As it was told, though the sweep did not come by yet.
    let id = path["/files/".len()..].parse().unwrap();
    let row = running.gateway.engine.peek(id).await.unwrap().unwrap();
    assert_eq!(
        row.state,
        boxgate_storage::metadata::uploads::UploadState::Open
    );
    for request in [
        tus(&running, "HEAD", &path),
        patch(&running, &path, 0, b"0123456789"),
        tus(&running, "DELETE", &path),
        tus(&running, "POST", "/files").header("Upload-Concat", &format!("final;{path}")),
    ] {
        let gone = running.send(request).await;
        let told = (gone.header("tus-resumable"), gone.header("upload-offset"));
        assert_eq!(
            (gone.status, told),
            (410, (Some("1.0.0"), None)),
            "{}",
            gone.head
        );
    }
    running.stop().await;
}

#[tokio::test]
async fn a_client_that_lacks_patch_overrides_the_method() {
    let running = Running::start().await;
    let path = begin(&running, "1.0", 10).await;
    let post = |method: &str| tus(&running, "POST", &path).header("X-HTTP-Method-Override", method);
    let bytes = post("PATCH")
        .header("Content-Type", TUS_BYTES)
        .header("Upload-Offset", "0")
        .body(b"01234");
    assert_eq!(running.send(bytes).await.status, 204);
    let reply = running.send(post("HEAD").body(b"")).await;
    assert_eq!(reply.header("upload-offset"), Some("5"));
    let plain = tus(&running, "POST", &path)
        .header("Upload-Length", "1")
        .body(b"");
    assert_eq!(running.send(plain).await.status, 405);
    assert_eq!(running.send(post("DELETE").body(b"")).await.status, 204);
    assert_eq!(head(&running, &path).await.status, 410);
    running.stop().await;
}

#[tokio::test]
async fn options_tell_both_protocols_and_browsers_without_a_credential() {
    let running = Running::start_with(&[
        ("BOXGATE_FILES__CORS_ORIGINS", "https://app.example.com"),
        ("BOXGATE_UPLOADS__MAX_APPEND_SIZE", "100MiB"),
    ])
    .await;
    for path in [
        "/files",
        "/files/x",
        &file_path("demo", "1.0"),
        &format!("{}/upload", file_path("demo", "1.0")),
    ] {
        let reply = running.send(Request::new("OPTIONS", path)).await;
        assert_eq!(reply.status, 204, "{path}");
        assert_eq!(reply.header("tus-version"), Some("1.0.0"));
        assert_eq!(
            reply.header("tus-max-size").unwrap(),
            (128u64 << 30).to_string()
        );
        assert!(
            reply
                .header("tus-extension")
                .unwrap()
                .contains("creation-defer-length")
        );
        assert!(
            reply
                .header("tus-checksum-algorithm")
                .unwrap()
                .contains("sha1")
        );
        assert_eq!(
            reply.header("upload-limit"),
            Some("max-size=137438953472, max-append-size=104857600")
        );
        assert_eq!(reply.header("accept-patch"), Some(PARTIAL));
        assert_eq!(reply.header("access-control-allow-origin"), None);
    }
    // A method that has no row here is answered like any other request of these protocols.
    for path in ["/files", "/files/x"] {
        let odd = tus(&running, "REPORT", path).header("Origin", "https://app.example.com");
        let reply = running.send(odd).await;
        assert_eq!(reply.status, 405);
        assert!(reply.header("allow").unwrap().contains("POST"));
        assert_eq!(reply.header("tus-resumable"), Some("1.0.0"));
        assert_eq!(
            reply.header("access-control-allow-origin"),
            Some("https://app.example.com")
        );
        let problem = reply.header("content-type");
        assert_eq!(problem, Some("application/problem+json"));
    }
    let preflight = Request::new("OPTIONS", "/files")
        .header("Origin", "https://app.example.com")
        .header("Access-Control-Request-Method", "POST")
        .header(
            "Access-Control-Request-Headers",
            "authorization,tus-resumable,upload-length",
        );
    let reply = running.send(preflight).await;
    assert_eq!(
        reply.header("access-control-allow-origin"),
        Some("https://app.example.com")
    );
    assert!(
        reply
            .header("access-control-allow-headers")
            .unwrap()
            .contains("Authorization")
    );
    let refused = Request::new("HEAD", "/files/x").header("Origin", "https://app.example.com");
    let reply = running.send(refused).await;
    assert_eq!(reply.status, 401);
    assert!(
        reply
            .header("www-authenticate")
            .unwrap()
            .starts_with("Bearer")
    );
    assert!(
        reply
            .header("access-control-expose-headers")
            .unwrap()
            .contains("Upload-Offset")
    );
    let too_long = tus(&running, "POST", "/files")
        .header("Upload-Length", "300000000")
        .header("Upload-Metadata", &metadata("1.0"))
        .header("Content-Type", TUS_BYTES)
        .header("Content-Length", "200000000");
    assert_eq!(running.send(too_long).await.status, 413);
    running.stop().await;
}

#[tokio::test]
async fn an_upload_by_the_ietf_protocol_is_created_continued_and_completed() {
    let running = Running::start().await;
    let bytes = noise(20_000_001, 13);
    // Careful creation: the URL first, nothing at risk.
    let careful = Request::new("POST", &query("1.0"))
        .token(&running.owner)
        .header("Upload-Complete", "?0")
        .header("Upload-Length", "20000001")
        .body(b"");
    let reply = running.send(careful).await;
    assert_eq!(reply.header("upload-complete"), Some("?0"));
    assert!(
        reply
            .header("upload-limit")
            .unwrap()
            .starts_with("max-size=137438953472, max-age=")
    );
    let path = located(&reply);
    let mut at = 0;
    for piece in [9_000_000, 1, 5_000_000] {
        let reply = running
            .send(append(&running, &path, at, false, &bytes[at..at + piece]))
            .await;
        at += piece;
        assert_eq!(reply.status, 204, "{}", text(&reply));
        assert_eq!(reply.header("upload-complete"), Some("?0"));
        assert_eq!(reply.header("upload-offset").unwrap(), at.to_string());
        assert_eq!(reply.header("location"), None);
    }
    let standing = running
        .send(Request::new("HEAD", &path).token(&running.owner))
        .await;
    assert_eq!(standing.status, 204);
    assert_eq!(standing.header("upload-offset").unwrap(), at.to_string());
    assert_eq!(standing.header("upload-length"), Some("20000001"));
    assert_eq!(standing.header("upload-complete"), Some("?0"));
    assert_eq!(standing.header("cache-control"), Some("no-store"));
    // All bytes are there, and yet it is not complete before the client says so.
    let rest = running
        .send(append(&running, &path, at, false, &bytes[at..]))
        .await;
    assert_eq!(rest.status, 204, "{}", text(&rest));
    let standing = running
        .send(Request::new("HEAD", &path).token(&running.owner))
        .await;
    assert_eq!(standing.header("upload-complete"), Some("?0"));
    let last = running
        .send(append(&running, &path, bytes.len(), true, b""))
        .await;
    assert_eq!(last.status, 200, "{}", text(&last));
    assert_eq!(last.header("upload-complete"), Some("?1"));
    assert_eq!(last.json()["details"]["fileSize"], 20_000_001);
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    // The answer was lost: it comes once more. More bytes do not fit any more.
    let again = running
        .send(append(&running, &path, bytes.len(), true, b""))
        .await;
    assert_eq!((again.status, again.body), (200, last.body));
    let more = running
        .send(append(&running, &path, bytes.len(), true, b"x"))
        .await;
    assert_eq!(more.status, 400);
    assert!(
        more.json()["type"]
            .as_str()
            .unwrap()
            .ends_with("#completed-upload"),
        "{}",
        text(&more)
    );
    running.stop().await;
}

#[tokio::test]
async fn an_ietf_upload_of_unknown_length_ends_when_its_client_says_so() {
    let running = Running::start().await;
    let bytes = noise(100_000, 14);
    let first = Request::new("POST", &query("1.0"))
        .token(&running.owner)
        .header("Upload-Complete", "?0")
        .body(&bytes[..30_000]);
    let path = located(&running.send(first).await);
    let mut chunked = format!("{:x}\r\n", 30_000).into_bytes();
    chunked.extend_from_slice(&bytes[30_000..60_000]);
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    let second = Request::new("PATCH", &path)
        .token(&running.owner)
        .header("Content-Type", PARTIAL)
        .header("Upload-Offset", "30000")
        .header("Upload-Complete", "?0")
        .header("Transfer-Encoding", "chunked")
        .raw_body(&chunked);
    let reply = running.send(second).await;
    assert_eq!(
        reply.header("upload-offset"),
        Some("60000"),
        "{}",
        text(&reply)
    );
    let last = running
        .send(append(&running, &path, 60_000, true, &bytes[60_000..]))
        .await;
    assert_eq!(last.status, 200, "{}", text(&last));
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.stop().await;
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one table")]
async fn what_is_wrong_with_an_ietf_request_is_named_and_changes_nothing() {
    let running = Running::start().await;
    let bytes = noise(1000, 15);
    let first = Request::new("POST", &query("1.0"))
        .token(&running.owner)
        .header("Upload-Complete", "?0")
        .header("Upload-Length", "1000")
        .body(&bytes[..100]);
    let path = located(&running.send(first).await);
    let body = &bytes[100..200];
    let raw = |kind: &str, offset: &str, complete: &str| {
        Request::new("PATCH", &path)
            .token(&running.owner)
            .header("Content-Type", kind)
            .header("Upload-Offset", offset)
            .header("Upload-Complete", complete)
            .body(body)
    };
    let create = |lines: &[(&str, &str)], body: &[u8]| {
        let request = Request::new("POST", &query("1.0")).token(&running.owner);
        lines
            .iter()
            .fold(request, |r, (n, v)| r.header(n, v))
            .body(body)
    };
    let digest = format!("sha-256=:{}:", STANDARD.encode([1; 32]));
    let cases = [
        (
            "offset",
            raw(PARTIAL, "99", "?0"),
            409,
            "mismatching-upload-offset",
        ),
        (
            "media type",
            raw("application/octet-stream", "100", "?0"),
            415,
            "",
        ),
        ("no completeness", raw(PARTIAL, "100", "yes"), 400, ""),
        ("no offset", raw(PARTIAL, "a", "?0"), 400, ""),
        (
            "short end",
            raw(PARTIAL, "100", "?1"),
            400,
            "inconsistent-upload-length",
        ),
        (
            "past the end",
            append(&running, &path, 100, false, &noise(901, 1)),
            400,
            "inconsistent-upload-length",
        ),
        (
            "another length",
            raw(PARTIAL, "100", "?0").header("Upload-Length", "999"),
            400,
            "inconsistent-upload-length",
        ),
        (
            "content digest",
            raw(PARTIAL, "100", "?0").header("Content-Digest", &digest),
            400,
            "digest-mismatching-values",
        ),
        (
            "short digest",
            raw(PARTIAL, "100", "?0").header("Content-Digest", "sha-256=:AAAA:"),
            400,
            "digest-invalid-values",
        ),
        (
            "lengths",
            create(
                &[("Upload-Complete", "?1"), ("Upload-Length", "100")],
                b"12345",
            ),
            400,
            "inconsistent-upload-length",
        ),
        (
            "too long",
            create(
                &[
                    ("Upload-Complete", "?0"),
                    ("Upload-Length", "999999999999999"),
                ],
                b"",
            ),
            413,
            "",
        ),
        (
            "form",
            create(
                &[
                    ("Upload-Complete", "?1"),
                    ("Content-Type", "multipart/form-data; boundary=b"),
                ],
                b"x",
            ),
            415,
            "",
        ),
        (
            "empty box",
            create(&[("Upload-Complete", "?1")], b""),
            400,
            "",
        ),
        (
            "neither protocol",
            create(&[("Upload-Length", "10")], b"x"),
            400,
            "",
        ),
    ];
    for (what, request, status, kind) in cases {
        let reply = running.send(request).await;
        assert_eq!(reply.status, status, "{what}: {}", text(&reply));
        let problem = reply.json();
        assert_eq!(
            reply.header("content-type"),
            Some("application/problem+json"),
            "{what}"
        );
        if !kind.is_empty() {
            let expected = format!("https://iana.org/assignments/http-problem-types#{kind}");
            assert_eq!(problem["type"], expected, "{what}");
        }
        if what != "neither protocol" {
            assert_eq!(reply.header("upload-complete"), Some("?0"), "{what}");
        }
        if status == 409 {
            assert_eq!(
                (&problem["expected-offset"], &problem["provided-offset"]),
                (&100.into(), &99.into())
            );
            assert_eq!(reply.header("upload-offset"), Some("100"));
        }
        if status == 413 {
            assert!(reply.header("upload-limit").is_some(), "{what}");
        }
        let standing = running
            .send(Request::new("HEAD", &path).token(&running.owner))
            .await;
        assert_eq!(standing.header("upload-offset"), Some("100"), "{what}");
    }
    let unknown = format!("/files/{}", "ef".repeat(16));
    assert_eq!(
        running
            .send(append(&running, &unknown, 0, true, b"x"))
            .await
            .status,
        404
    );
    let cancel = running
        .send(Request::new("DELETE", &path).token(&running.owner))
        .await;
    assert_eq!(cancel.status, 204);
    assert_eq!(
        running
            .send(append(&running, &path, 100, true, &bytes[100..]))
            .await
            .status,
        410
    );
    running.stop().await;
}

#[tokio::test]
async fn the_boxvault_upload_route_speaks_the_ietf_protocol_too() {
    let running = Running::start().await;
    let bytes = noise(100_000, 16);
    let create = |version: &str, complete: &str, body: &[u8]| {
        Request::new("PUT", &format!("{}/upload", file_path("demo", version)))
            .token(&running.owner)
            .header("Upload-Complete", complete)
            .body(body)
    };
    let whole = running.send(create("1.0", "?1", &bytes)).await;
    assert_eq!(whole.status, 200, "{}", text(&whole));
    assert_eq!(whole.header("upload-complete"), Some("?1"));
    assert_eq!(whole.json()["message"], "File updated successfully");
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    let part = running.send(create("2.0", "?0", &bytes[..60_000])).await;
    assert_eq!(part.header("upload-offset"), Some("60000"));
    let path = located(&part);
    let last = running
        .send(append(&running, &path, 60_000, true, &bytes[60_000..]))
        .await;
    assert_eq!(last.status, 200, "{}", text(&last));
    assert!(downloaded(&running, "demo", "2.0").await == bytes);
    let refused = running.send(create("3.0", "maybe", &bytes)).await;
    assert_eq!(refused.status, 400);
    assert_eq!(refused.header("upload-complete"), Some("?0"));
    running.stop().await;
}

#[tokio::test]
async fn a_cut_raw_upload_goes_on_by_content_range() {
    let running = Running::start().await;
    let bytes = noise(20 << 20, 17);
    let total = bytes.len();
    let path = file_path("demo", "1.0");
    let post = || Request::new("POST", &path).token(&running.owner);
    let ranged = |from: usize, to: usize| {
        post()
            .header("Content-Range", &format!("bytes {from}-{}/{total}", to - 1))
            .body(&bytes[from..to])
    };
    let none = running.send(ranged(5, total)).await;
    assert_eq!(
        (none.status, none.header("upload-offset")),
        (409, Some("0"))
    );
    let both = serde_json::json!({ "expected-offset": 0, "provided-offset": 5 });
    assert_eq!(none.json()["details"], both);
    let stream = half(&running, post(), total, &bytes[..17 << 20]).await;
    while running.gateway.engine.in_progress() == 0 {
        tokio::task::yield_now().await;
    }
    drop(stream);
    at_rest(&running).await;
    let asked = running.send(ranged(1, total)).await;
    assert_eq!(asked.status, 409, "{}", text(&asked));
    let at: usize = asked.header("upload-offset").unwrap().parse().unwrap();
    assert!(at <= 17 << 20, "{at}");
    // Another principal has none of that name.
    let other = running.member("other", OrganizationRole::Admin).await;
    let other = running.token(other, TokenKind::Personal, None).await;
    let request = Request::new("POST", &path)
        .token(&other)
        .header(
            "Content-Range",
            &format!("bytes {at}-{}/{total}", total - 1),
        )
        .body(&bytes[at..]);
    assert_eq!(
        running.send(request).await.header("upload-offset"),
        Some("0")
    );
    let done = running.send(ranged(at, total)).await;
    assert_eq!(done.status, 200, "{}", text(&done));
    assert_eq!(done.json()["details"]["isComplete"], true);
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.stop().await;
}

#[tokio::test]
async fn whoever_cut_a_raw_upload_short_is_told_what_is_kept_and_where() {
    let running = Running::start().await;
    let bytes = noise(3 << 20, 18);
    let path = file_path("demo", "1.0");
    let post = Request::new("POST", &path).token(&running.owner);
    let mut stream = half(&running, post, bytes.len(), &bytes[..2 << 20]).await;
    // It reads on, and has no more to send.
    stream.shutdown().await.unwrap();
    let reply = read_reply(&mut stream).await;
    assert_eq!(reply.status, 400);
    let document = reply.json();
    assert_eq!(document["error"], "UPLOAD_INCOMPLETE");
    let message = document["message"].as_str().unwrap();
    assert!(
        message.contains("The first 2097152 bytes are kept"),
        "{message}"
    );
    assert_eq!(reply.header("upload-offset"), Some("2097152"));
    let location = reply.header("location").unwrap();
    assert_eq!(offset(&running, location).await, 2 << 20);
    let rest = Request::new("POST", &path)
        .token(&running.owner)
        .header(
            "Content-Range",
            &format!("bytes {}-{}/{}", 2 << 20, (3 << 20) - 1, 3 << 20),
        )
        .body(&bytes[2 << 20..]);
    assert_eq!(running.send(rest).await.status, 200);
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.stop().await;
}

#[tokio::test]
async fn what_calls_itself_a_piece_is_not_published_as_the_whole() {
    let running = Running::start().await;
    let path = file_path("demo", "1.0");
    let post = || Request::new("POST", &path).token(&running.owner);
    let good = noise(5000, 51);
    assert_eq!(running.send(post().body(&good)).await.status, 200);
    let media = ("Content-Type", "application/offset+octet-stream");
    for fields in [
        &[("Tus-Resumable", "1.0.0"), ("Upload-Length", "100"), media][..],
        &[("Tus-Resumable", "1.0.0"), ("Upload-Concat", "partial")],
        &[("Upload-Metadata", "target YWNtZQ==")],
        &[media],
        &[("Content-Type", "application/partial-upload")],
        &[("Upload-Length", "100")],
        &[("Upload-Length", "5"), ("Upload-Offset", "50")],
        &[("Upload-Offset", "x")],
        &[("Upload-Complete", "?1"), ("Content-Range", "bytes 0-4/10")],
        &[
            ("x-chunk-index", "0"),
            ("x-total-chunks", "1"),
            ("Upload-Complete", "?0"),
        ],
    ] {
        let request = fields
            .iter()
            .fold(post(), |request, (name, value)| request.header(name, value));
        let reply = running.send(request.body(b"hello")).await;
        assert_eq!(reply.status, 400, "{fields:?}: {}", text(&reply));
        assert!(
            downloaded(&running, "demo", "1.0").await == good,
            "{fields:?}"
        );
    }
    let whole = [("Upload-Length", "5"), ("Upload-Offset", "0")];
    let whole = whole
        .iter()
        .fold(post(), |request, (name, value)| request.header(name, value));
    assert_eq!(running.send(whole.body(b"hello")).await.status, 200);
    running.stop().await;
}

#[tokio::test]
async fn a_first_range_opens_an_upload_and_a_new_whole_one_ends_it() {
    let running = Running::start().await;
    let bytes = noise(3000, 18);
    let path = file_path("demo", "1.0");
    let ranged = |from: usize, to: usize| {
        Request::new("PUT", &format!("{path}/upload"))
            .token(&running.owner)
            .header("Content-Range", &format!("bytes {from}-{}/3000", to - 1))
            .body(&bytes[from..to])
    };
    for (from, to) in [(0, 1000), (1000, 2000)] {
        let reply = running.send(ranged(from, to)).await;
        assert_eq!(reply.status, 200, "{}", text(&reply));
        assert_eq!(reply.json()["details"]["isComplete"], false);
        assert_eq!(reply.header("upload-offset").unwrap(), to.to_string());
    }
    assert_eq!(running.send(ranged(2000, 3000)).await.status, 200);
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    // Opened, and given up by a whole one.
    let open = running.send(ranged(0, 1000)).await;
    let location = open.header("location").unwrap().to_owned();
    assert_eq!(offset(&running, &location).await, 1000);
    running.upload("demo", "1.0", &bytes).await;
    assert_eq!(head(&running, &location).await.status, 410);
    assert_eq!(
        running
            .send(ranged(1000, 2000))
            .await
            .header("upload-offset"),
        Some("0")
    );
    running.gateway.engine.settled().await;
    running.gateway.engine.sweep().await.unwrap();
    assert_eq!(running.stored_files().len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn a_refused_creation_tells_of_the_upload_that_it_leaves() {
    let running = Running::start().await;
    let digits = b"123456789";
    let checksum = |text: &str| {
        tus(&running, "POST", "/files")
            .header("Upload-Length", "9")
            .header("Upload-Metadata", &metadata("1.0"))
            .header("Content-Type", TUS_BYTES)
            .header("Upload-Checksum", text)
            .body(digits)
    };
    let wrong = running.send(checksum("crc32 AAAAAA==")).await;
    assert_eq!(wrong.status, 460, "{}", text(&wrong));
    assert_eq!(wrong.header("upload-offset"), Some("0"));
    let path = wrong.header("location").unwrap().to_owned();
    // Big-endian, as it is written in hexadecimal: cbf43926.
    let right = patch(&running, &path, 0, digits).header("Upload-Checksum", "crc32 y/Q5Jg==");
    assert_eq!(running.send(right).await.status, 204);
    assert!(downloaded(&running, "demo", "1.0").await == digits);

    let request = Request::new("POST", &query("2.0"))
        .token(&running.owner)
        .header("Upload-Complete", "?1")
        .header(
            "Content-Digest",
            &format!("sha-256=:{}:", STANDARD.encode([1; 32])),
        )
        .body(digits);
    let wrong = running.send(request).await;
    assert_eq!(wrong.status, 400, "{}", text(&wrong));
    let path = wrong.header("location").unwrap().to_owned();
    assert_eq!(offset(&running, &path).await, 0);
    // What is over for good is named by nothing.
    let request = Request::new("POST", &query("3.0"))
        .token(&running.owner)
        .header("Upload-Complete", "?1")
        .header(
            "Repr-Digest",
            &format!("sha-256=:{}:", STANDARD.encode([1; 32])),
        )
        .body(digits);
    let wrong = running.send(request).await;
    assert_eq!((wrong.status, wrong.header("location")), (422, None));
    running.stop().await;
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_and_named() {
    let running = Running::start().await;
    let target = "target=acme/demo/1.0/virtualbox/amd64";
    let create = |query: &str| {
        Request::new("POST", &format!("/files?{query}"))
            .token(&running.owner)
            .header("Upload-Length", "5")
    };
    let ietf = |query: &str| create(query).header("Upload-Complete", "?0");
    let by_tus = |name: &str, value: &str| {
        tus(&running, "POST", "/files")
            .header("Upload-Length", "5")
            .header(name, value)
    };
    let box_path = file_path("demo", "1.0");
    let coded = |request: Request| request.header("Content-Encoding", "gzip").body(b"12345");
    let begun = begin(&running, "1.0", 5).await;
    let cases = [
        (
            create("tarbet=acme/demo/1.0/virtualbox/amd64"),
            400,
            "tarbet",
        ),
        (ietf("tarbet=acme/demo/1.0/virtualbox/amd64"), 400, "tarbet"),
        (create(&format!("{target}&{target}")), 400, "twice"),
        (
            by_tus("Upload-Metadata", "target !"),
            400,
            "target is not base64.",
        ),
        (
            by_tus("Upload-Metadata", "checksum eHg="),
            400,
            "checksum is not a hexadecimal digest",
        ),
        (
            tus(&running, "PATCH", &begun)
                .header("Content-Type", TUS_BYTES)
                .header("Upload-Offset", "99999999999999999999999")
                .body(b"12345"),
            400,
            "larger than any upload",
        ),
        (coded(ietf(target)), 415, "Content-Encoding"),
        (
            coded(Request::new("POST", &box_path).token(&running.owner)),
            415,
            "Content-Encoding",
        ),
    ];
    for (request, status, named) in cases {
        let reply = running.send(request).await;
        assert_eq!(reply.status, status, "{named}: {}", text(&reply));
        assert!(text(&reply).contains(named), "{named}: {}", text(&reply));
    }
    running.stop().await;
}

#[tokio::test]
async fn what_is_sent_to_a_name_alone_leaves_uploads_by_id_as_they_are() {
    let running = Running::start().await;
    let bytes = noise(3000, 23);
    let tus = begin(&running, "1.0", 3000).await;
    running.send(patch(&running, &tus, 0, &bytes[..2000])).await;
    let request = Request::new("POST", &query("1.0"))
        .token(&running.owner)
        .header("Upload-Length", "3000")
        .header("Upload-Complete", "?0")
        .body(&bytes[..2000]);
    let ietf = located(&running.send(request).await);
    let parts = Request::new("POST", &query("1.0"))
        .token(&running.owner)
        .header("Upload-Length", "3000");
    let parts = located(&running.send(parts).await);
    let path = file_path("demo", "1.0");
    let post = || Request::new("POST", &path).token(&running.owner);
    let wrong = "00".repeat(32);
    let of_others = [
        (post().body(b"hello"), 200),
        (post().header("x-checksum", &wrong).body(b"hello"), 422),
        // Of another file that is as long: nothing of that name is open here.
        (
            post()
                .header("Content-Range", "bytes 2000-2999/3000")
                .body(&[b'x'; 1000]),
            409,
        ),
        (
            post()
                .header("Content-Range", "bytes 0-4/10")
                .body(b"hello"),
            200,
        ),
    ];
    for (request, status) in of_others {
        let reply = running.send(request).await;
        assert_eq!(reply.status, status, "{}", text(&reply));
        for (path, kept) in [(&tus, 2000), (&ietf, 2000), (&parts, 0)] {
            assert_eq!(offset(&running, path).await, kept);
        }
    }
    let reply = running
        .send(patch(&running, &tus, 2000, &bytes[2000..]))
        .await;
    assert_eq!(reply.status, 204);
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.stop().await;
}

#[tokio::test]
async fn bytes_of_a_client_that_fell_silent_are_kept_when_it_comes_again() {
    let running = Running::start().await;
    let bytes = noise(9 << 20, 24);
    let path = begin(&running, "1.0", bytes.len()).await;
    let request = tus(&running, "PATCH", &path)
        .header("Content-Type", TUS_BYTES)
        .header("Upload-Offset", "0");
    // Less than a part, and then nothing: its connection is not closed, but gone all the same.
    let sent = 7 << 20;
    let _silent = half(&running, request, bytes.len(), &bytes[..sent]).await;
    committed(&running, &path, sent as u64).await;
    assert_eq!(offset(&running, &path).await, sent);
    let rest = running
        .send(patch(&running, &path, sent, &bytes[sent..]))
        .await;
    assert_eq!(rest.status, 204, "{}", text(&rest));
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.stop().await;
}

#[tokio::test]
async fn whoever_asks_for_a_full_upload_is_never_told_of_a_conflict() {
    let running = Running::start().await;
    let bytes = noise(70_000, 22);
    for round in 0..20 {
        let version = format!("1.{round}");
        let request = Request::new("POST", &query(&version))
            .token(&running.owner)
            .header("Upload-Length", "70000")
            .header("Upload-Complete", "?0")
            .body(&bytes);
        let path = located(&running.send(request).await);
        // Each HEAD of a tus client ends it, and the newest one takes it from the others. A client
        // that is told 409 believes that its upload is no more.
        let asked = futures_util::future::join_all((0..8).map(|_| head(&running, &path))).await;
        for reply in &asked {
            let again = reply.header("retry-after").is_some();
            assert!(
                reply.status == 200 || (reply.status == 503 && again),
                "{}",
                reply.head
            );
        }
        assert_eq!(offset(&running, &path).await, 70_000);
        assert!(downloaded(&running, "demo", &version).await == bytes);
    }
    running.stop().await;
}

#[tokio::test]
async fn a_raw_upload_that_lost_its_last_answer_is_ended_by_whoever_asks() {
    let running = Running::start().await;
    let bytes = noise(3000, 21);
    let path = file_path("demo", "1.0");
    // All bytes are there and nobody ended it, as after a kill between the last byte and the end.
    let ask_all = |from: usize, to: usize| {
        Request::new("PUT", &format!("{path}/upload"))
            .token(&running.owner)
            .header("Content-Range", &format!("bytes {from}-{}/3000", to - 1))
            .body(&bytes[from..to])
    };
    let opened = running.send(ask_all(0, 1000)).await;
    let id = opened.header("location").unwrap()["/files/".len()..].parse();
    let engine = &running.gateway.engine;
    let mut writer = engine.resume(id.unwrap(), 1000).await.unwrap();
    let rest = bytes::Bytes::copy_from_slice(&bytes[1000..]);
    writer.write(rest).await.unwrap();
    assert_eq!(writer.pause().await.unwrap(), 3000);
    let ask = |range: &str, bytes: &[u8]| {
        Request::new("PUT", &format!("{path}/upload"))
            .token(&running.owner)
            .header("Content-Range", range)
            .body(bytes)
    };
    // A piece from the middle does not claim that the file ends with it.
    let middle = ask("bytes 1000-1999/3000", &bytes[1000..2000]);
    let middle = running.send(middle).await;
    let told = middle.header("upload-offset");
    assert_eq!((middle.status, told), (409, Some("3000")));
    let last = running
        .send(ask("bytes 2999-2999/3000", &bytes[2999..]))
        .await;
    assert_eq!(last.status, 200, "{}", text(&last));
    assert_eq!(last.json()["details"]["isComplete"], true);
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.stop().await;
}

#[tokio::test]
async fn the_last_range_of_a_file_is_answered_again_when_its_answer_was_lost() {
    let running = Running::start().await;
    let bytes = noise((1 << 20) + 3000, 33);
    let total = bytes.len();
    let path = file_path("demo", "1.0");
    let ask = |from: usize, to: usize, body: &[u8]| {
        Request::new("PUT", &format!("{path}/upload"))
            .token(&running.owner)
            .header("Content-Range", &format!("bytes {from}-{}/{total}", to - 1))
            .body(body)
    };
    let cut = 700_001;
    assert_eq!(running.send(ask(0, cut, &bytes[..cut])).await.status, 200);
    let first = running.send(ask(cut, total, &bytes[cut..])).await;
    assert_eq!(first.json()["details"]["isComplete"], true);
    let again = running.send(ask(cut, total, &bytes[cut..])).await;
    assert_eq!((again.status, again.json()), (200, first.json()));
    // From another offset, too: what the client keeps of it may be older.
    let again = running.send(ask(9, total, &bytes[9..])).await;
    assert_eq!((again.status, again.json()), (200, first.json()));
    // Other bytes, another length, another checksum, another piece than the last, another sender: none of it is told.
    let mut other = bytes.clone();
    other[total - 1] ^= 1;
    let wrong = |request: Request| async {
        let reply = running.send(request).await;
        let told = reply.header("upload-offset").map(str::to_owned);
        assert_eq!((reply.status, told.as_deref()), (409, Some("0")));
    };
    wrong(ask(cut, total, &other[cut..])).await;
    wrong(ask(cut, total - 1, &bytes[cut..total - 1])).await;
    let checksum = ask(cut, total, &bytes[cut..]);
    wrong(
        checksum
            .header("x-checksum", &"0".repeat(64))
            .header("x-checksum-type", "sha256"),
    )
    .await;
    let shorter = Request::new("PUT", &format!("{path}/upload"))
        .token(&running.owner)
        .header(
            "Content-Range",
            &format!("bytes {cut}-{}/{}", total - 2, total - 1),
        )
        .body(&bytes[cut..total - 1]);
    wrong(shorter).await;
    // Another file of that length may have the same last bytes: one by chance, and many zeros.
    wrong(ask(total - 1, total, &bytes[total - 1..])).await;
    let digest = hex::encode(sha2::Sha256::digest(&bytes));
    let told = ask(total - 1, total, &bytes[total - 1..])
        .header("x-checksum", &digest)
        .header("x-checksum-type", "sha256");
    let again = running.send(told).await;
    assert_eq!((again.status, again.json()), (200, first.json()));
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    // What the name leads to is another file now.
    let whole = Request::new("PUT", &format!("{path}/upload"))
        .token(&running.owner)
        .body(&other);
    assert_eq!(running.send(whole).await.status, 200);
    wrong(ask(cut, total, &bytes[cut..])).await;
    other[cut..].fill(0);
    let whole = Request::new("PUT", &format!("{path}/upload"))
        .token(&running.owner)
        .body(&other);
    assert_eq!(running.send(whole).await.status, 200);
    wrong(ask(cut, total, &other[cut..])).await;
    running.stop().await;
}

#[tokio::test]
async fn an_upload_without_a_target_is_a_blob_until_it_is_deleted() {
    let running = Running::start().await;
    let bytes = noise(5000, 19);
    // One organization is enough to know whose it is.
    let request = tus(&running, "POST", "/files")
        .header("Upload-Length", "5000")
        .header("Content-Type", TUS_BYTES)
        .body(&bytes);
    let reply = running.send(request).await;
    assert_eq!(
        reply.json()["details"]["blake3"],
        blake3::hash(&bytes).to_hex().to_string()
    );
    assert!(reply.header("upload-expires").is_some() || reply.status == 201);
    let path = located(&reply);
    let status = running.get(&path, &running.owner).await.json();
    assert_eq!(status["state"], "done");
    assert!(status["expiresAt"].is_string());
    assert_eq!(running.stored_files().len(), 1);
    assert_eq!(
        running.send(tus(&running, "DELETE", &path)).await.status,
        204
    );
    assert_eq!(head(&running, &path).await.status, 410);
    // In several organizations nobody can guess.
    let owner = running
        .gateway
        .metadata
        .account_by_username("owner")
        .await
        .unwrap()
        .unwrap();
    running
        .gateway
        .metadata
        .create_organization(&"second".parse().unwrap(), None, owner.id)
        .await
        .unwrap();
    let create = |meta: &str| {
        tus(&running, "POST", "/files")
            .header("Upload-Length", "1")
            .header("Upload-Metadata", meta)
    };
    assert_eq!(running.send(create("filename eA==")).await.status, 400);
    let named = format!("organization {}", STANDARD.encode("second"));
    assert_eq!(running.send(create(&named)).await.status, 201);
    let foreign = format!("organization {}", STANDARD.encode("nobody"));
    assert_eq!(running.send(create(&foreign)).await.status, 404);
    running.stop().await;
}

#[tokio::test]
async fn as_many_uploads_are_open_as_one_account_may_have() {
    let running = Running::start_with(&[("BOXGATE_UPLOADS__OPEN_PER_PRINCIPAL", "2")]).await;
    let first = begin(&running, "1.0", 10).await;
    begin(&running, "2.0", 10).await;
    let create = || {
        tus(&running, "POST", "/files")
            .header("Upload-Length", "10")
            .header("Upload-Metadata", &metadata("3.0"))
    };
    let reply = running.send(create()).await;
    assert_eq!(reply.status, 429, "{}", text(&reply));
    assert!(text(&reply).contains("uploads.open_per_principal"));
    assert_eq!(
        running.send(tus(&running, "DELETE", &first)).await.status,
        204
    );
    assert_eq!(running.send(create()).await.status, 201);
    running.stop().await;
}

#[tokio::test]
async fn an_upload_goes_on_after_the_gateway_was_started_again() {
    let running = Running::start().await;
    let bytes = noise(12_000_000, 20);
    let path = begin(&running, "1.0", bytes.len()).await;
    running
        .send(patch(&running, &path, 0, &bytes[..9_500_000]))
        .await;
    let directory = running.stop().await;
    let running = Running::start_in(directory, &[]).await;
    assert_eq!(offset(&running, &path).await, 9_500_000);
    let rest = running
        .send(patch(&running, &path, 9_500_000, &bytes[9_500_000..]))
        .await;
    assert_eq!(rest.status, 204, "{}", text(&rest));
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.stop().await;
}

#[tokio::test]
async fn a_door_for_uploads_can_stand_elsewhere_or_be_shut() {
    let running = Running::start_with(&[
        ("BOXGATE_DOORS__FILES__PREFIX", "/up"),
        ("BOXGATE_UPLOADS__PUBLIC_URL", "https://bytes.example.com/"),
    ])
    .await;
    let request = tus(&running, "POST", "/up/files")
        .header("Upload-Length", "10")
        .header("Upload-Metadata", &metadata("1.0"));
    let reply = running.send(request).await;
    let location = reply.header("location").unwrap();
    assert!(
        location.starts_with("https://bytes.example.com/up/files/"),
        "{location}"
    );
    assert_eq!(
        running.send(Request::new("OPTIONS", "/files")).await.status,
        404
    );
    running.stop().await;
    let running = Running::start_with(&[("BOXGATE_DOORS__FILES__ENABLED", "false")]).await;
    assert_eq!(
        running.send(tus(&running, "POST", "/files")).await.status,
        404
    );
    let request = Request::new("POST", &file_path("demo", "1.0"))
        .token(&running.owner)
        .header("Upload-Complete", "?0")
        .body(b"x");
    assert_eq!(running.send(request).await.status, 400);
    running.stop().await;
}

#[tokio::test]
async fn the_server_in_general_tells_what_uploads_may_be() {
    let running = Running::start().await;
    // RFC 9110 §9.3.7, and the draft, "Upload-Limit".
    for path in ["*", "/files"] {
        let reply = running.send(Request::new("OPTIONS", path)).await;
        assert_eq!(reply.status, 204, "{path}: {}", reply.head);
        assert!(reply.header("upload-limit").is_some(), "{}", reply.head);
    }
    let reply = running.send(Request::new("GET", "*")).await;
    assert_eq!(reply.status, 400, "{}", reply.head);
    running.stop().await;
}
