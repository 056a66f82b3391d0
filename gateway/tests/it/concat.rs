//! tus concatenation: pieces sent by themselves, and uploads that are joined of them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boxgate::auth::credential;
use boxgate_storage::blob::UploadId;
use boxgate_storage::metadata::accounts::OrganizationRole;
use boxgate_storage::metadata::tokens::TokenKind;
use boxgate_storage::metadata::uploads::UploadState;
use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::harness::{Reply, Request, Running, read_reply};
use crate::resumable::{
    TUS_BYTES, at_rest, head, located, metadata, offset, patch, text, tus, tus_by,
};
use crate::uploads::{downloaded, noise};

const PATH_OF_BOX: &str = "/api/organization/acme/box/demo";

fn piece_of(running: &Running, length: usize) -> Request {
    tus(running, "POST", "/files")
        .header("Upload-Concat", "partial")
        .header("Upload-Length", &length.to_string())
}

/// Begins a piece; returns its path.
async fn open(running: &Running, length: usize) -> String {
    located(&running.send(piece_of(running, length)).await)
}

/// Sends a piece that is whole; returns its path.
async fn whole(running: &Running, bytes: &[u8]) -> String {
    let request = piece_of(running, bytes.len()).header("Content-Type", TUS_BYTES);
    let reply = running.send(request.body(bytes)).await;
    assert_eq!(
        reply.header("upload-offset").unwrap(),
        bytes.len().to_string()
    );
    located(&reply)
}

fn joined(running: &Running, list: &str, version: &str) -> Request {
    tus(running, "POST", "/files")
        .header("Upload-Concat", &format!("final;{list}"))
        .header("Upload-Metadata", &metadata(version))
}

fn id_of(path: &str) -> UploadId {
    path.rsplit('/').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn only_so_many_joins_wait_in_memory_and_the_others_are_found_later() {
    let running = Running::start_with(&[
        ("BOXGATE_UPLOADS__JOINS_IN_PROGRESS", "1"),
        ("BOXGATE_UPLOADS__JOINS_WAITING", "1"),
    ])
    .await;
    let piece = open(&running, 2 << 20).await;
    let mut finals = Vec::new();
    for number in 0..5 {
        let request = joined(&running, &piece, &format!("1.{number}.0"));
        finals.push(located(&running.send(request).await));
    }
    let whole = patch(&running, &piece, 0, &noise(2 << 20, 9));
    let reply = running.send(whole).await;
    assert_eq!(reply.status, 204);
    let joiner = &running.gateway.joiner;
    let mut most = 0;
    for path in &finals {
        while running
            .gateway
            .engine
            .peek(id_of(path))
            .await
            .unwrap()
            .unwrap()
            .state
            != UploadState::Done
        {
            joiner.start_ready().await.unwrap();
            most = most.max(joiner.in_memory());
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(most, 2);
    running.stop().await;
}

#[tokio::test]
async fn a_join_that_is_asked_for_again_once_it_is_done_makes_no_second_one() {
    let running = Running::start().await;
    let (first, second) = (noise(1 << 20, 31), noise(1 << 20, 32));
    let mut pieces = Vec::new();
    for bytes in [&first, &second] {
        let path = open(&running, 1 << 20).await;
        assert_eq!(
            running.send(patch(&running, &path, 0, bytes)).await.status,
            204
        );
        pieces.push(path);
    }
    let list = pieces.join(" ");
    let made = located(&running.send(joined(&running, &list, "1.0")).await);
    // Its pieces are not needed to tell what became of them.
    for piece in &pieces {
        assert_eq!(
            running.send(tus(&running, "DELETE", piece)).await.status,
            204
        );
    }
    let again = running.send(joined(&running, &list, "1.0")).await;
    assert_eq!(located(&again), made, "the answer was lost");
    assert_eq!(again.header("upload-offset"), Some("2097152"));
    let mut events = running.gateway.metadata.events(0, 1000).await.unwrap();
    events.retain(|event| event.name == "box.uploaded");
    assert_eq!(events.len(), 1);

    // To another name it is another join, and so it is once the name leads elsewhere.
    assert_eq!(
        running.send(joined(&running, &list, "2.0")).await.status,
        410
    );
    running.upload("demo", "1.0", &first).await;
    assert_eq!(
        running.send(joined(&running, &list, "1.0")).await.status,
        410
    );
    running.stop().await;
}

/// Waits, without asking for it, until an upload became what it should.
async fn becomes(running: &Running, path: &str, state: &str) {
    loop {
        let row = running.gateway.engine.peek(id_of(path)).await.unwrap();
        if row.unwrap().state.as_str() == state {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Writes bytes to an upload without a request.
async fn write(running: &Running, path: &str, at: u64, bytes: &[u8], end: bool) {
    let engine = &running.gateway.engine;
    let mut writer = engine.resume(id_of(path), at).await.unwrap();
    writer.write(Bytes::copy_from_slice(bytes)).await.unwrap();
    if end {
        writer.finish().await.unwrap();
    } else {
        writer.pause().await.unwrap();
    }
}

async fn open_uploads(running: &Running) -> usize {
    let open = running.gateway.engine.open_uploads(None, None, 100).await;
    open.unwrap().len()
}

#[tokio::test]
async fn pieces_are_joined_in_the_order_of_their_list() {
    let running = Running::start().await;
    let bytes = noise(23_000_001, 40);
    let (first, second) = bytes.split_at(9_437_185);
    let (a, b) = (whole(&running, first).await, whole(&running, second).await);
    let piece = head(&running, &a).await;
    assert_eq!(piece.header("upload-concat"), Some("partial"));
    assert_eq!(piece.header("upload-offset"), Some("9437185"));
    assert!(piece.header("upload-expires").is_some());

    let list = format!("{a} http://gateway{b}");
    let reply = running.send(joined(&running, &list, "1.0")).await;
    let path = located(&reply);
    assert_eq!(reply.header("upload-offset"), Some("23000001"));
    assert_eq!(reply.header("tus-resumable"), Some("1.0.0"));
    assert_eq!(
        reply.json()["details"]["blake3"],
        blake3::hash(&bytes).to_hex().to_string()
    );
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    let standing = head(&running, &path).await;
    assert_eq!(standing.status, 200);
    assert_eq!(
        standing.header("upload-concat").unwrap(),
        format!("final;{list}")
    );
    assert_eq!(standing.header("upload-offset"), Some("23000001"));
    assert_eq!(standing.header("upload-length"), Some("23000001"));
    assert_eq!(standing.header("upload-metadata").unwrap(), metadata("1.0"));
    assert_eq!(
        running
            .send(patch(&running, &path, 23_000_001, b""))
            .await
            .status,
        403
    );

    // They serve others, and one of them twice.
    let relative = b.strip_prefix('/').unwrap();
    let empty = open(&running, 0).await;
    let list = format!("{relative} {empty} {a} {b}");
    let reply = running.send(joined(&running, &list, "2.0")).await;
    assert_eq!(reply.status, 201, "{}", text(&reply));
    let expected = [second, first, second].concat();
    assert!(downloaded(&running, "demo", "2.0").await == expected);
    // Until they are deleted.
    for piece in [&a, &b] {
        assert_eq!(
            running.send(tus(&running, "DELETE", piece)).await.status,
            204
        );
        assert_eq!(head(&running, piece).await.status, 410);
    }
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.stop().await;
}

#[tokio::test]
async fn what_is_joined_before_its_pieces_are_whole_is_published_with_the_last() {
    let running = Running::start().await;
    let bytes = noise(3_000_000, 41);
    let (first, second) = bytes.split_at(1_048_577);
    let late = tus(&running, "POST", "/files")
        .header("Upload-Concat", "partial")
        .header("Upload-Defer-Length", "1");
    let (a, b) = (
        located(&running.send(late).await),
        open(&running, second.len()).await,
    );
    let reply = running
        .send(joined(&running, &format!("{a} {b}"), "1.0"))
        .await;
    let path = located(&reply);
    assert_eq!(reply.header("upload-offset"), None);
    assert!(reply.header("upload-expires").is_some());
    let lengths = async || {
        let standing = head(&running, &path).await;
        assert_eq!(standing.status, 200);
        assert_eq!(standing.header("upload-offset"), None);
        assert_eq!(standing.header("upload-defer-length"), None);
        assert_eq!(standing.header("cache-control"), Some("no-store"));
        standing.header("upload-length").map(str::to_owned)
    };
    assert_eq!(lengths().await, None);
    for (at, bytes) in [(0, &b"x"[..]), (1, b"")] {
        let refused = running.send(patch(&running, &path, at, bytes)).await;
        assert_eq!(refused.status, 403, "{}", text(&refused));
    }
    running.send(patch(&running, &b, 0, &second[..1000])).await;
    let end = patch(&running, &a, 0, first).header("Upload-Length", "1048577");
    assert_eq!(running.send(end).await.status, 204);
    assert_eq!(lengths().await.as_deref(), Some("3000000"));
    let status = running.get(&path, &running.owner).await.json();
    assert_eq!(
        status["joins"],
        serde_json::json!({ "total": 2, "whole": 1 })
    );
    assert_eq!(running.get(PATH_OF_BOX, &running.owner).await.status, 404);
    assert_eq!(
        running
            .send(patch(&running, &b, 1000, &second[1000..]))
            .await
            .status,
        204
    );
    becomes(&running, &path, "done").await;
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    assert_eq!(offset(&running, &path).await, 3_000_000);
    running.stop().await;
}

#[tokio::test]
async fn a_join_that_was_cut_goes_on_after_a_start() {
    let running = Running::start().await;
    let bytes = noise(20 << 20, 42);
    let (first, second) = bytes.split_at(9 << 20);
    let (a, b) = (
        open(&running, first.len()).await,
        open(&running, second.len()).await,
    );
    let list = format!("{a} {b}");
    let cut = located(&running.send(joined(&running, &list, "1.0")).await);
    let unbegun = located(&running.send(joined(&running, &list, "2.0")).await);
    // The last piece is whole and the process gone before anybody looked; of one the first part is joined.
    write(&running, &a, 0, first, true).await;
    write(&running, &b, 0, second, true).await;
    write(&running, &cut, 0, &bytes[..(9 << 20) + 1000], false).await;
    let directory = running.stop().await;
    let running = Running::start_in(directory, &[]).await;
    for (path, version) in [(&cut, "1.0"), (&unbegun, "2.0")] {
        becomes(&running, path, "done").await;
        assert!(
            downloaded(&running, "demo", version).await == bytes,
            "{version}"
        );
    }
    running.stop().await;
}

#[tokio::test]
async fn a_join_stops_with_the_gateway_and_goes_on_with_the_next() {
    let running = Running::start().await;
    let piece = noise(8 << 20, 51);
    let a = whole(&running, &piece).await;
    let request = joined(&running, &[&*a; 12].join(" "), "1.0");
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.write_all(&request.to_bytes()).await.unwrap();
    let id = loop {
        let open = running.gateway.engine.open_uploads(None, None, 10).await;
        if let Some(row) = open.unwrap().into_iter().find(|row| row.offset > 0) {
            break row.id;
        }
        tokio::task::yield_now().await;
    };
    // Its client, who waits, keeps nobody from stopping.
    let directory = running.stop().await;
    let reply = read_reply(&mut stream).await;
    let path = located(&reply);
    assert_eq!(id_of(&path), id);
    assert_eq!(reply.header("upload-offset"), None, "{}", reply.head);
    let running = Running::start_in(directory, &[]).await;
    becomes(&running, &path, "done").await;
    assert!(downloaded(&running, "demo", "1.0").await == piece.repeat(12));
    running.stop().await;
}

#[tokio::test]
async fn a_join_goes_on_without_its_client() {
    let running = Running::start().await;
    let bytes = noise(12 << 20, 43);
    let a = whole(&running, &bytes).await;
    let request = joined(&running, &a, "1.0");
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.write_all(&request.to_bytes()).await.unwrap();
    while open_uploads(&running).await == 0 {
        // Until it is made; it may be joined already.
        if running.get(PATH_OF_BOX, &running.owner).await.status == 200 {
            break;
        }
        tokio::task::yield_now().await;
    }
    drop(stream);
    while open_uploads(&running).await > 0 {
        tokio::task::yield_now().await;
    }
    at_rest(&running).await;
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.stop().await;
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one table")]
async fn what_cannot_be_joined_is_named_and_changes_nothing() {
    let running = Running::start_with(&[
        ("BOXGATE_UPLOADS__FINAL_PIECES", "3"),
        ("BOXGATE_UPLOADS__MAX_LENGTH", "1MiB"),
    ])
    .await;
    let bytes = noise(400_000, 44);
    let good = whole(&running, &bytes).await;
    let resting = open(&running, 1000).await;
    running
        .send(patch(&running, &resting, 0, &bytes[..100]))
        .await;
    let plain = tus(&running, "POST", "/files").header("Upload-Length", "10");
    let plain = located(&running.send(plain).await);
    let named = tus(&running, "POST", "/files")
        .header("Upload-Length", "10")
        .header("Upload-Metadata", &metadata("9.0"));
    let named = located(&running.send(named).await);
    let waiting = located(&running.send(joined(&running, &resting, "8.0")).await);
    let ended = open(&running, 10).await;
    running.send(tus(&running, "DELETE", &ended)).await;
    let empty = located(&running.send(piece_of(&running, 0)).await);
    let colleague = running.member("colleague", OrganizationRole::Admin).await;
    let colleague = running.token(colleague, TokenKind::Personal, None).await;
    let theirs = tus_by(&colleague, "POST", "/files")
        .header("Upload-Concat", "partial")
        .header("Upload-Length", "10");
    let theirs = located(&running.send(theirs).await);
    let unknown = format!("/files/{}", "ab".repeat(16));
    let abroad = format!("http://other.example{good}");
    let before = open_uploads(&running).await;

    let list = |list: &str| joined(&running, list, "1.0");
    let four = [&*good; 4].join(" ");
    let three = [&*good; 3].join(" ");
    let thousand = [&*good; 1000].join(" ");
    let checksum = format!(
        "{},checksum {}",
        metadata("1.0"),
        STANDARD.encode("ab".repeat(32))
    );
    let foreign = format!(
        "target {}",
        STANDARD.encode("nobody/demo/1.0/virtualbox/amd64")
    );
    let to = |metadata: &str| {
        tus(&running, "POST", "/files")
            .header("Upload-Concat", &format!("final;{good}"))
            .header("Upload-Metadata", metadata)
    };
    for (what, request, status, word) in [
        (
            "unknown",
            list(&format!("{good} {unknown}")),
            404,
            &*unknown,
        ),
        ("another's", list(&format!("{good} {theirs}")), 404, &theirs),
        ("another host", list(&abroad), 404, &abroad),
        ("no upload", list("/files/x"), 404, "/files/x"),
        (
            "part of one",
            list(&format!("{good}/parts/0")),
            404,
            "/parts/0",
        ),
        ("traversal", list("/files/../files/x"), 404, ".."),
        ("given up", list(&format!("{good} {ended}")), 410, &ended),
        ("no piece", list(&format!("{good} {plain}")), 400, &plain),
        ("a box on its way", list(&named), 400, &named),
        ("one that is joined itself", list(&waiting), 400, &waiting),
        ("too many", list(&four), 400, "uploads.final_pieces"),
        ("a thousand", list(&thousand), 431, ""),
        ("too long", list(&three), 413, "uploads.max_length"),
        ("empty box", list(&empty), 400, "empty"),
        (
            "length",
            list(&good).header("Upload-Length", "400000"),
            400,
            "Upload-Length",
        ),
        (
            "deferred",
            list(&good).header("Upload-Defer-Length", "1"),
            400,
            "Upload-Defer",
        ),
        (
            "body",
            list(&good).header("Content-Type", TUS_BYTES).body(b"x"),
            400,
            "no bytes",
        ),
        (
            "checksum of no bytes",
            list(&good).header("Upload-Checksum", "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0="),
            400,
            "checksumType",
        ),
        ("nothing", list(""), 400, "final;"),
        ("another's target", to(&foreign), 404, "nobody"),
        ("another digest", to(&checksum), 422, "checksum"),
        (
            "another version",
            Request::new("POST", "/files")
                .token(&running.owner)
                .header("Tus-Resumable", "0.2.2")
                .header("Upload-Concat", &format!("final;{good}")),
            412,
            "1.0.0",
        ),
    ] {
        let reply = running.send(request).await;
        assert_eq!(reply.status, status, "{what}: {}", text(&reply));
        assert!(text(&reply).contains(word), "{what}: {}", text(&reply));
        assert_eq!(open_uploads(&running).await, before, "{what}");
    }
    // Not to be told from one that is not there.
    let answer = async |path: &str| {
        let reply = running.send(list(path)).await;
        (reply.status, text(&reply).replace(path, "PIECE"))
    };
    assert_eq!(answer(&theirs).await, answer(&unknown).await);
    assert_eq!(offset(&running, &resting).await, 100);
    assert_eq!(offset(&running, &good).await, 400_000);
    assert_eq!(running.get(PATH_OF_BOX, &running.owner).await.status, 404);
    running.gateway.engine.settled().await;
    running.gateway.engine.sweep().await.unwrap();
    let reply = running.send(list(&good)).await;
    assert_eq!(reply.status, 201, "{}", text(&reply));
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.stop().await;
}

#[tokio::test]
async fn what_is_joined_ends_with_its_pieces_or_by_its_client() {
    let running = Running::start().await;
    let bytes = noise(100_000, 45);
    let (a, b) = (whole(&running, &bytes).await, open(&running, 10).await);
    let list = format!("{a} {b}");
    let mine = located(&running.send(joined(&running, &list, "1.0")).await);
    let other = located(&running.send(joined(&running, &list, "2.0")).await);
    assert_eq!(
        running.send(tus(&running, "DELETE", &mine)).await.status,
        204
    );
    let gone = head(&running, &mine).await;
    assert_eq!((gone.status, gone.header("upload-offset")), (410, None));
    assert_eq!(offset(&running, &b).await, 0, "its pieces stay");
    // A whole piece may go, and what waits keeps its bytes; without an open one nothing can be joined.
    assert_eq!(running.send(tus(&running, "DELETE", &a)).await.status, 204);
    assert_eq!(head(&running, &other).await.status, 200);
    assert_eq!(running.send(tus(&running, "DELETE", &b)).await.status, 204);
    assert_eq!(head(&running, &other).await.status, 410);
    running.gateway.engine.settled().await;
    running.gateway.engine.sweep().await.unwrap();
    assert_eq!(
        running.stored_files().len(),
        1,
        "the first piece is readable for a day"
    );
    assert_eq!(running.get(PATH_OF_BOX, &running.owner).await.status, 404);
    running.stop().await;
}

#[tokio::test]
async fn a_damaged_piece_ends_what_is_joined_of_it() {
    let running = Running::start().await;
    let bytes = noise(3 << 20, 46);
    let a = whole(&running, &bytes).await;
    let file = running.stored_files().pop().unwrap();
    let mut stored = std::fs::read(&file).unwrap();
    stored[2 << 20] ^= 1;
    std::fs::write(&file, stored).unwrap();
    let reply = running.send(joined(&running, &a, "1.0")).await;
    assert_eq!(reply.status, 503, "{}", text(&reply));
    assert_eq!(reply.json()["code"], "BLOB_DAMAGED");
    assert_eq!(open_uploads(&running).await, 0);
    let again = running.send(joined(&running, &a, "1.0")).await;
    assert_eq!(again.status, 503, "{}", text(&again));
    assert!(text(&again).contains(&a), "{}", text(&again));
    // Equal bytes that come in again heal it.
    whole(&running, &bytes).await;
    let reply = running.send(joined(&running, &a, "1.0")).await;
    assert_eq!(reply.status, 201, "{}", text(&reply));
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.stop().await;
}

#[tokio::test]
async fn nothing_is_joined_for_an_account_that_lost_its_right() {
    let running = Running::start().await;
    let bytes = noise(1000, 47);
    let leaver = running.member("leaver", OrganizationRole::Member).await;
    let token = running.token(leaver, TokenKind::Personal, None).await;
    let piece = tus_by(&token, "POST", "/files")
        .header("Upload-Concat", "partial")
        .header("Upload-Length", "1000");
    let piece = located(&running.send(piece).await);
    let request = tus_by(&token, "POST", "/files")
        .header("Upload-Concat", &format!("final;{piece}"))
        .header("Upload-Metadata", &metadata("1.0"));
    let path = located(&running.send(request).await);
    let gateway = &running.gateway;
    let metadata = &gateway.metadata;
    metadata
        .remove_membership(leaver, running.organization)
        .await
        .unwrap();
    write(&running, &piece, 0, &bytes, true).await;
    let refused = gateway.joiner.start(id_of(&path), None).await.unwrap_err();
    assert_eq!(refused.status, 404);
    assert_eq!(running.get(PATH_OF_BOX, &running.owner).await.status, 404);
    let role = OrganizationRole::Member;
    metadata
        .set_membership(leaver, running.organization, role)
        .await
        .unwrap();
    gateway.joiner.start_ready().await.unwrap();
    becomes(&running, &path, "done").await;
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.stop().await;
}

#[tokio::test]
async fn nothing_is_joined_by_a_credential_that_was_revoked_until_a_good_one_asks() {
    let running = Running::start().await;
    let bytes = noise(1000, 49);
    let builder = running.member("builder", OrganizationRole::Member).await;
    let acme = Some(running.organization);
    let key = running.token(builder, TokenKind::Service, acme).await;
    let piece = tus_by(&key, "POST", "/files")
        .header("Upload-Concat", "partial")
        .header("Upload-Length", "1000");
    let piece = located(&running.send(piece).await);
    let request = tus_by(&key, "POST", "/files")
        .header("Upload-Concat", &format!("final;{piece}"))
        .header("Upload-Metadata", &metadata("1.0"));
    let path = located(&running.send(request).await);
    let gateway = &running.gateway;
    let keys = gateway.metadata.tokens(builder, TokenKind::Service).await;
    let (id, new) = (keys.unwrap()[0].id, credential::fresh());
    let replaced = gateway.metadata.set_token_hash(id, credential::hash(&new));
    assert!(replaced.await.unwrap());
    // Its service account goes on and may publish; the key asked, and is no more.
    let end = tus_by(&new, "PATCH", &piece)
        .header("Content-Type", TUS_BYTES)
        .header("Upload-Offset", "0");
    assert_eq!(running.send(end.body(&bytes)).await.status, 204);
    let refused = gateway.joiner.start(id_of(&path), None).await.unwrap_err();
    assert_eq!(refused.status, 401);
    assert_eq!(running.get(PATH_OF_BOX, &running.owner).await.status, 404);
    let other = tus(&running, "HEAD", &path);
    assert_eq!(running.send(other).await.status, 404, "another account");
    let asked = running.send(tus_by(&new, "HEAD", &path)).await;
    assert_eq!(asked.status, 200);
    becomes(&running, &path, "done").await;
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.stop().await;
}

#[tokio::test]
async fn a_piece_publishes_nothing_and_passes_on_no_metadata() {
    let running = Running::start().await;
    let bytes = noise(5000, 48);
    let send = async |path: &str, concat: &str, meta: &str, body: &[u8]| -> Reply {
        let request = tus(&running, "POST", path)
            .header("Upload-Concat", concat)
            .header("Upload-Metadata", meta);
        if body.is_empty() {
            return running.send(request).await;
        }
        let request = request.header("Content-Type", TUS_BYTES);
        let length = body.len().to_string();
        running
            .send(request.header("Upload-Length", &length).body(body))
            .await
    };
    // The endpoint of a client names the box for all that it sends there.
    let endpoint = "/files?target=acme/demo/1.0/virtualbox/amd64";
    let a = located(&send(endpoint, "partial", "filename eA==", &bytes).await);
    let b = located(&send("/files", "partial", &metadata("2.0"), &bytes).await);
    assert_eq!(running.get(PATH_OF_BOX, &running.owner).await.status, 404);
    let list = format!("final;{a} {b}");
    let blob = send("/files", &list, "", b"").await;
    let path = located(&blob);
    assert_eq!(head(&running, &path).await.header("upload-metadata"), None);
    assert_eq!(running.get(PATH_OF_BOX, &running.owner).await.status, 404);
    located(&send(endpoint, &list, "filename eQ==", b"").await);
    assert!(downloaded(&running, "demo", "1.0").await == [&bytes[..], &bytes].concat());
    running.stop().await;
}
