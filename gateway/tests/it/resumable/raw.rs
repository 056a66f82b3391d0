//! The rest of a cut raw upload, by `Content-Range`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boxgate_storage::metadata::accounts::OrganizationRole;
use boxgate_storage::metadata::tokens::TokenKind;
use sha2::Digest as _;
use tokio::io::AsyncWriteExt as _;

use super::{
    TUS_BYTES, at_rest, begin, committed, half, head, located, metadata, offset, patch, query,
    text, tus,
};
use crate::harness::{Request, Running, file_path, read_reply};
use crate::uploads::{downloaded, noise};

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
