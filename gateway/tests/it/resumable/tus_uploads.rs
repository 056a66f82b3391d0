//! tus alone: pieces, appends that were cut or taken over, and what is wrong with a request.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boxgate_storage::blob::UploadId;
use boxgate_storage::upload::UploadRow;
use tokio::io::AsyncWriteExt as _;

use super::{
    TUS_BYTES, at_rest, begin, committed, half, head, located, metadata, offset, patch, query,
    text, tus, tus_by,
};
use crate::harness::{Request, Running, file_path, read_reply};
use crate::uploads::{downloaded, noise};

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
