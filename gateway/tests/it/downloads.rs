//! Bytes out: ranges, validators, links, and damage that is never served.

use boxgate_storage::digest::TreeHasher;
use boxgate_storage::digest::outboard::outboard;
use boxgate_storage::metadata::accounts::PlatformRole;
use boxgate_storage::metadata::tokens::TokenKind;
use sha2::Digest as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Reply, Request, Running, file_path};
use crate::uploads::with_box;

const PATH: &str = "/acme/boxes/demo/versions/1.0/providers/virtualbox/amd64/vagrant.box";

/// What keeps the kernel from sending files: all comes through the cache.
const ALWAYS: (&str, &str) = ("BOXGATE_VERIFY__LOCAL", "always");

async fn get(running: &Running, headers: &[(&str, &str)]) -> Reply {
    let mut request = Request::new("GET", PATH).token(&running.owner);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    running.send(request).await
}

#[tokio::test]
async fn ranges_are_exact_and_one_past_the_end_means_the_whole_box() {
    let (running, bytes) = with_box(3 << 20, &[]).await;
    let length = bytes.len();
    for (range, start, end) in [
        ("bytes=0-0", 0, 1),
        ("bytes=100-", 100, length),
        ("bytes=-5", length - 5, length),
        ("bytes=1048575-1048577", 1_048_575, 1_048_578),
        ("bytes=5-99999999999", 5, length),
    ] {
        let reply = get(&running, &[("Range", range)]).await;
        assert_eq!(reply.status, 206, "{range}");
        assert_eq!(
            reply.header("content-range"),
            Some(format!("bytes {start}-{}/{length}", end - 1).as_str())
        );
        assert!(reply.body == bytes[start..end], "{range}");
    }
    let past = format!("bytes={length}-");
    for range in [past.as_str(), "bytes=9-5", "bytes=0-1,4-5", "lines=1-2"] {
        let reply = get(&running, &[("Range", range)]).await;
        assert_eq!(reply.status, 200, "{range}");
        assert!(reply.body == bytes, "{range}");
    }
    running.stop().await;
}

#[tokio::test]
async fn validators_are_strong_and_decide() {
    let (running, bytes) = with_box(1000, &[]).await;
    let whole = get(&running, &[]).await;
    let etag = format!("\"{}\"", blake3::hash(&bytes).to_hex());
    assert_eq!(whole.header("etag"), Some(etag.as_str()));
    assert_eq!(get(&running, &[("If-None-Match", &etag)]).await.status, 304);
    assert_eq!(
        get(&running, &[("If-Match", "\"other\"")]).await.status,
        412
    );
    let resumed = [("Range", "bytes=10-"), ("If-Range", etag.as_str())];
    assert_eq!(get(&running, &resumed).await.status, 206);
    assert_eq!(
        get(
            &running,
            &[("Range", "bytes=10-"), ("If-Range", "\"other\"")]
        )
        .await
        .status,
        200
    );
    let date = whole.header("last-modified").unwrap().to_owned();
    assert_eq!(
        get(&running, &[("If-Modified-Since", &date)]).await.status,
        304
    );
    let head = running
        .send(Request::new("HEAD", PATH).token(&running.owner))
        .await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), Some("1000"));
    assert_eq!(head.header("accept-ranges"), Some("bytes"));
    running.stop().await;
}

#[tokio::test]
async fn what_may_be_cached_follows_visibility_and_url() {
    let (running, bytes) = with_box(1000, &[]).await;
    let pinned = format!("{PATH}?b3={}", blake3::hash(&bytes).to_hex());
    let private = get(&running, &[]).await;
    assert_eq!(
        private.header("cache-control"),
        Some("private, no-cache, no-transform")
    );
    running.set_public("demo", true).await;
    let bare = running.get(PATH, "").await;
    assert_eq!(
        bare.header("cache-control"),
        Some("public, max-age=60, no-transform")
    );
    assert_eq!(bare.header("content-location"), Some(pinned.as_str()));
    let immutable = running.get(&pinned, "").await;
    assert_eq!(
        immutable.header("cache-control"),
        Some("public, max-age=31536000, immutable, no-transform")
    );
    running.stop().await;
}

#[tokio::test]
async fn digests_are_of_the_whole_and_of_this_answer() {
    use base64::Engine as _;
    let of = |bytes: &[u8]| {
        let encode = |digest: &[u8]| base64::engine::general_purpose::STANDARD.encode(digest);
        let sha256 = encode(&sha2::Sha256::digest(bytes));
        let blake3 = encode(blake3::hash(bytes).as_bytes());
        (format!("sha-256=:{sha256}:"), format!("blake3=:{blake3}:"))
    };
    let (running, bytes) = with_box(3 << 20, &[]).await;
    let (sha256, blake3) = of(&bytes);
    let both = format!("{sha256}, {blake3}");
    let whole = get(&running, &[]).await;
    assert_eq!(whole.header("repr-digest"), Some(both.as_str()));
    assert_eq!(whole.header("content-digest"), None);
    let part = [
        ("Range", "bytes=10-19"),
        ("Want-Repr-Digest", "sha-256=3, blake3=0"),
        ("Want-Content-Digest", "blake3=1"),
    ];
    let part = get(&running, &part).await;
    assert_eq!(part.header("repr-digest"), Some(sha256.as_str()));
    assert_eq!(
        part.header("content-digest"),
        Some(of(&bytes[10..20]).1.as_str())
    );
    let wants = ("Want-Content-Digest", "sha-256=1");
    assert_eq!(
        get(&running, &[wants]).await.header("content-digest"),
        Some(sha256.as_str())
    );
    // Over a block's edge it would have to be read twice.
    let across = [("Range", "bytes=1048570-1048580"), wants];
    assert_eq!(get(&running, &across).await.header("content-digest"), None);
    let refused = get(&running, &[("Want-Repr-Digest", "sha-256=0, blake3=0")]).await;
    assert_eq!((refused.status, refused.header("repr-digest")), (200, None));
    running.stop().await;
}

#[tokio::test]
async fn what_answers_a_requests_own_fields_is_nobodys_to_keep() {
    let (running, bytes) = with_box(1000, &[]).await;
    running.set_public("demo", true).await;
    let pinned = format!("{PATH}?b3={}", blake3::hash(&bytes).to_hex());
    let blob = format!("/blobs/b3/{}", blake3::hash(&bytes).to_hex());
    for (path, header, status) in [
        (pinned.as_str(), ("If-Match", "\"other\""), 412),
        (blob.as_str(), ("If-Match", "\"other\""), 412),
        (blob.as_str(), ("Range", "bytes=1000-"), 416),
        ("/acme/demo", ("If-Match", "\"other\""), 412),
    ] {
        let request = Request::new("GET", path).header(header.0, header.1);
        let reply = running.send(request).await;
        assert_eq!(reply.status, status, "{path}");
        let kept = reply.header("cache-control");
        assert_eq!(kept, Some("private, no-store, no-transform"), "{path}");
        assert_eq!(reply.header("cdn-cache-control"), None, "{path}");
        assert_eq!(reply.header("surrogate-key"), None, "{path}");
    }
    let etag = format!("\"{}\"", blake3::hash(&bytes).to_hex());
    let request = Request::new("GET", PATH).header("If-None-Match", &etag);
    let unchanged = running.send(request).await;
    assert_eq!(unchanged.status, 304);
    for name in [
        "etag",
        "cache-control",
        "content-location",
        "cdn-cache-control",
    ] {
        assert!(unchanged.header(name).is_some(), "{name}");
    }
    running.stop().await;
}

#[tokio::test]
async fn bad_ranges_and_validators_mean_the_whole_box_and_no_more_than_it() {
    let (running, bytes) = with_box(1000, &[]).await;
    let etag = format!("\"{}\"", blake3::hash(&bytes).to_hex());
    let weak = format!("W/{etag}");
    let many = (0..1000).fold(String::from("bytes="), |set, i| format!("{set}{i}-{i},"));
    let empties = format!("bytes={}", ",".repeat(4000));
    for range in [
        many.as_str(),
        &empties,
        "bytes=99999999999999999999999999-",
        "bytes=18446744073709551615-18446744073709551615",
        "bytes=900-100",
        "bytes=-0",
        "bytes=--5",
        "bytes=+1-5",
        "bytes=0x1-5",
        "bytes=1-5 6",
        "bytes",
        "=",
    ] {
        let reply = get(&running, &[("Range", range)]).await;
        assert_eq!((reply.status, reply.body.len()), (200, 1000), "{range}");
    }
    let resumed = [("Range", "bytes=10-"), ("If-Range", weak.as_str())];
    assert_eq!(get(&running, &resumed).await.status, 200);
    let twice = [("Range", "bytes=0-1"), ("Range", "bytes=4-5")];
    assert_eq!(get(&running, &twice).await.status, 200);
    let flood: Vec<_> = (0..200).map(|_| ("Range", "bytes=0-1")).collect();
    assert_eq!(get(&running, &flood).await.status, 431);
    running.stop().await;
}

#[tokio::test]
async fn a_blob_is_read_by_its_digests_by_whoever_may_read_a_holder() {
    let (running, bytes) = with_box(3 << 20, &[]).await;
    let paths = [
        format!("/blobs/b3/{}", blake3::hash(&bytes).to_hex()),
        format!(
            "/blobs/sha256/{}",
            hex::encode(sha2::Sha256::digest(&bytes))
        ),
    ];
    let outsider = running.account("outsider", PlatformRole::User).await;
    let outsider = running.token(outsider, TokenKind::Personal, None).await;
    for path in &paths {
        let absent = running
            .get(&format!("/blobs/b3/{}", "ab".repeat(32)), "")
            .await;
        assert_eq!(absent.status, 404);
        let malformed = format!("{path}0");
        for (path, token) in [(path, ""), (path, &outsider), (&malformed, &running.owner)] {
            let refused = running.get(path, token).await;
            assert_eq!(
                (refused.status, &refused.body),
                (404, &absent.body),
                "{path}"
            );
        }
        let private = running.get(path, &running.owner).await;
        assert!(private.body == bytes, "{path}");
        assert_eq!(
            private.header("cache-control"),
            Some("private, no-cache, no-transform")
        );
        assert_eq!(private.header("surrogate-key"), None);
    }
    running.set_public("demo", true).await;
    for path in &paths {
        let public = running.get(path, "").await;
        assert!(public.body == bytes, "{path}");
        assert_eq!(
            public.header("cache-control"),
            Some("public, max-age=31536000, immutable, no-transform")
        );
        let tags = format!(
            "b3/{},org/acme,box/acme/demo",
            blake3::hash(&bytes).to_hex()
        );
        assert_eq!(public.header("cache-tag"), Some(tags.as_str()));
        let request = Request::new("GET", path).header("Range", "bytes=5-9");
        let part = running.send(request).await;
        assert_eq!((part.status, &part.body[..]), (206, &bytes[5..10]));
    }
    let delete = Request::new("DELETE", "/api/organization/acme/box/demo").token(&running.owner);
    assert_eq!(running.send(delete).await.status, 200);
    for path in &paths {
        assert_eq!(running.get(path, &running.owner).await.status, 404);
    }
    running.stop().await;
}

#[tokio::test]
async fn the_cache_says_what_it_did() {
    let (running, bytes) = with_box(3 << 20, &[ALWAYS]).await;
    for (range, status) in [
        ("bytes=0-9", "boxgate; fwd=miss"),
        ("bytes=5-20", "boxgate; hit"),
        ("bytes=3145720-", "boxgate; fwd=miss"),
    ] {
        let reply = get(&running, &[("Range", range)]).await;
        assert_eq!(reply.header("cache-status"), Some(status), "{range}");
    }
    // What is in memory needs no store, under whichever name it is asked for.
    let whole = get(&running, &[]).await;
    assert!(whole.body == bytes);
    std::fs::remove_file(running.stored_files().pop().unwrap()).unwrap();
    let blob = format!("/blobs/b3/{}", blake3::hash(&bytes).to_hex());
    assert!(running.get(&blob, &running.owner).await.body == bytes);
    let metrics = running.get("/metrics", "").await;
    let metrics = String::from_utf8(metrics.body).unwrap();
    for line in [
        "boxgate_cache_blocks_total{event=\"fill\"} 3",
        "boxgate_cache_blocks_total{event=\"miss\"} 3",
        "boxgate_cache_blocks_total{event=\"hit\"} 6",
        "boxgate_cache_held_bytes 3145728",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    running.stop().await;
}

/// More clients than the cache has blocks ask for the whole box, each from another place, and read nothing.
#[tokio::test]
async fn clients_that_stop_reading_harm_nobody_and_leave_nothing_behind() {
    const MIB: usize = 1 << 20;
    let running = Running::start_with(&[
        ALWAYS,
        ("BOXGATE_CACHE__SIZE", "8MiB"),
        ("BOXGATE_SERVER__SLOWEST_RATE", "1MiB"),
        ("BOXGATE_SERVER__SLOWEST_RATE_WINDOW", "3s"),
    ])
    .await;
    let mut bytes = vec![0; 40 * MIB];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    assert_eq!(running.upload("demo", "1.0", &bytes).await.status, 200);
    let mut stalled = Vec::new();
    for client in 0..12 {
        let range = format!("bytes={}-", client * MIB);
        let request = Request::new("GET", PATH).token(&running.owner);
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        let head = request.header("Range", &range).to_bytes();
        stream.write_all(&head).await.unwrap();
        // Its answer has begun, so it holds what it was handed.
        assert!(stream.readable().await.is_ok());
        stalled.push((stream, bytes.len() - client * MIB));
    }
    let whole = get(&running, &[]).await;
    assert!(
        whole.body == bytes,
        "an honest client gets the box meanwhile"
    );
    // The slowest rate ends them.
    let mut looks = tokio::time::interval(std::time::Duration::from_millis(20));
    loop {
        let stats = running.gateway.cache.stats();
        let connections = running.gateway.telemetry.metrics.connections.get();
        if connections == 0 && stats.lent_bytes == 0 && stats.held_bytes <= 4 * MIB as u64 {
            break;
        }
        looks.tick().await;
    }
    for (mut stream, wanted) in stalled {
        // What was on its way, then the end or a reset.
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer).await;
        assert!(answer.len() < wanted, "{} bytes of {wanted}", answer.len());
    }
    running.stop().await;
}

#[tokio::test]
async fn an_outboard_proves_the_blob_and_gives_its_permit_back() {
    let one = [("BOXGATE_DOWNLOADS__MAX_OUTBOARDS", "1")];
    let running = Running::start_with(&one).await;
    let bytes: Vec<u8> = (0..(3 << 20) + 7_u32).map(|i| i.to_le_bytes()[0]).collect();
    assert_eq!(running.upload("demo", "1.0", &bytes).await.status, 200);
    assert_eq!(
        running.upload("small", "1.0", b"one block").await.status,
        200
    );
    let mut hasher = TreeHasher::new();
    hasher.update(&bytes);
    hasher.finish();
    let want = outboard(&hasher.take_values());
    assert_eq!(want.len(), 3 * 64);
    let path = format!("/blobs/b3/{}/outboard", blake3::hash(&bytes).to_hex());
    for (range, status, part) in [
        ("", 200, &want[..]),
        ("bytes=64-127", 206, &want[64..128]),
        ("bytes=192-", 416, &[]),
    ] {
        let request = Request::new("GET", &path).token(&running.owner);
        let reply = running.send(request.header("Range", range)).await;
        assert_eq!((reply.status, &reply.body[..]), (status, part), "{range}");
    }
    // One permit is all there is: each answer gave it back.
    let etag = format!("\"{}\"", blake3::hash(&want).to_hex());
    let request = Request::new("GET", &path).token(&running.owner);
    let unchanged = running.send(request.header("If-None-Match", &etag)).await;
    assert_eq!(unchanged.status, 304);
    assert_eq!(
        unchanged.header("cache-control"),
        Some("private, no-cache, no-transform")
    );
    let held = running.gateway.admission.outboard().unwrap();
    assert_eq!(running.get(&path, &running.owner).await.status, 503);
    drop(held);
    assert_eq!(running.get(&path, "").await.status, 404);
    let small = format!("/blobs/b3/{}/outboard", blake3::hash(b"one block").to_hex());
    let reply = running.get(&small, &running.owner).await;
    assert_eq!((reply.status, reply.body.len()), (200, 0));
    running.stop().await;
}

#[tokio::test]
async fn an_untargeted_upload_is_read_by_its_organization_alone() {
    let running = Running::start().await;
    let upload = Request::new("POST", "/files?organization=acme")
        .token(&running.owner)
        .header("Upload-Draft-Interop-Version", "8")
        .header("Upload-Complete", "?1")
        .body(b"loose bytes");
    let reply = running.send(upload).await;
    assert!(matches!(reply.status, 200 | 201), "{}", reply.head);
    let path = format!("/blobs/b3/{}", blake3::hash(b"loose bytes").to_hex());
    assert_eq!(
        running.get(&path, &running.owner).await.body,
        b"loose bytes"
    );
    let outsider = running.account("outsider", PlatformRole::User).await;
    let elsewhere = running
        .gateway
        .metadata
        .create_organization(&"elsewhere".parse().unwrap(), None, outsider)
        .await
        .unwrap();
    let outsider = running.token(outsider, TokenKind::Personal, None).await;
    assert_eq!(running.get(&path, &outsider).await.status, 404);
    assert_eq!(running.get(&path, "").await.status, 404);
    // A credential that is bound to another organization does not reach it either.
    let (_, owner) = running
        .gateway
        .metadata
        .token_by_hash(&boxgate::auth::credential::hash(&running.owner))
        .await
        .unwrap()
        .unwrap();
    let bound = running
        .token(owner.id, TokenKind::Personal, Some(elsewhere.id))
        .await;
    assert_eq!(running.get(&path, &bound).await.status, 404);
    running.stop().await;
}

#[tokio::test]
async fn a_replaced_files_digest_still_leads_to_its_bytes() {
    let (running, bytes) = with_box(1000, &[]).await;
    let former = format!("{PATH}?b3={}", blake3::hash(&bytes).to_hex());
    assert_eq!(running.upload("demo", "1.0", b"other").await.status, 200);
    running.set_public("demo", true).await;
    let reply = running.get(&former, "").await;
    assert!(reply.body == bytes);
    assert_eq!(reply.header("content-location"), None);
    assert_eq!(running.get(PATH, "").await.body, b"other");
    // No box holds it any more: neither the bytes nor the tree above them are there without the name.
    let blob = format!("/blobs/b3/{}", blake3::hash(&bytes).to_hex());
    for place in [format!("{blob}/outboard"), blob] {
        let reply = running.get(&place, &running.owner).await;
        assert_eq!(reply.status, 404, "{place}");
    }
    let delete = Request::new("DELETE", "/api/organization/acme/box/demo").token(&running.owner);
    assert_eq!(running.send(delete).await.status, 200);
    assert_eq!(running.get(&former, &running.owner).await.status, 404);
    running.stop().await;
}

#[tokio::test]
async fn a_link_downloads_without_a_credential_and_counts_once() {
    let (running, bytes) = with_box(1000, &[]).await;
    let info = running
        .get(
            &format!("{}/info", file_path("demo", "1.0")),
            &running.owner,
        )
        .await
        .json();
    let url = info["downloadUrl"].as_str().unwrap().to_owned();
    let path = &url["http://gateway".len()..];
    let by_link = running.get(path, "").await;
    assert!(by_link.body == bytes);
    assert_eq!(by_link.header("referrer-policy"), Some("no-referrer"));
    assert_eq!(
        by_link.header("cache-control"),
        Some("private, no-cache, no-transform")
    );
    let forged = path.replace("/1.0/", "/2.0/");
    assert_eq!(running.get(&forged, "").await.status, 403);
    get(&running, &[("Range", "bytes=5-")]).await;
    running
        .send(Request::new("HEAD", PATH).token(&running.owner))
        .await;
    running.gateway.background.close();
    running.gateway.background.wait().await;
    running.gateway.background.reopen();
    let info = running
        .get(
            &format!("{}/info", file_path("demo", "1.0")),
            &running.owner,
        )
        .await
        .json();
    assert_eq!(info["downloadCount"], 1);
    running.stop().await;
}

#[tokio::test]
async fn keys_of_links_rotate_and_end_what_they_signed() {
    const KEYS: &str = "/api/admin/link-keys";
    let (running, bytes) = with_box(1000, &[]).await;
    let root = running.account("root", PlatformRole::Admin).await;
    let root = running.token(root, TokenKind::Session, None).await;
    let link = async || {
        let path = format!("{}/info", file_path("demo", "1.0"));
        let info = running.get(&path, &running.owner).await.json();
        let url = info["downloadUrl"].as_str().unwrap().to_owned();
        url["http://gateway".len()..].to_owned()
    };
    let change = async |method: &str, path: &str, token: &str| {
        running.send(Request::new(method, path).token(token)).await
    };
    // An owner of an organization has no say over the keys of all.
    for (method, path) in [
        ("GET", KEYS),
        ("POST", KEYS),
        ("DELETE", "/api/admin/link-keys/1"),
    ] {
        assert_eq!(change(method, path, &running.owner).await.status, 403);
    }
    let first = link().await;
    let made = change("POST", KEYS, &root).await;
    assert_eq!(made.status, 201);
    let second = link().await;
    for path in [&first, &second] {
        assert!(running.get(path, "").await.body == bytes);
    }
    let listed = running.get(KEYS, &root).await.json();
    let listed = listed.as_array().unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[0]["id"], made.json()["id"]);
    let key = |n: usize| format!("{KEYS}/{}", listed[n]["id"]);
    assert_eq!(change("DELETE", &key(1), &root).await.status, 204);
    assert_eq!(running.get(&first, "").await.status, 403);
    assert!(running.get(&second, "").await.body == bytes);
    assert_eq!(change("DELETE", &key(1), &root).await.status, 404);
    assert_eq!(
        change("DELETE", &format!("{KEYS}/x"), &root).await.status,
        404
    );
    // The last one is replaced: links can be made, and none of before is good.
    assert_eq!(change("DELETE", &key(0), &root).await.status, 204);
    assert_eq!(running.get(&second, "").await.status, 403);
    assert!(running.get(&link().await, "").await.body == bytes);
    let mut made = 0;
    while change("POST", KEYS, &root).await.status == 201 {
        made += 1;
    }
    assert_eq!(made, 15, "sixteen may be in use");
    let text = String::from_utf8(running.get(KEYS, &root).await.body).unwrap();
    assert!(!text.contains("secret"), "{text}");
    running.stop().await;
}

#[tokio::test]
async fn a_changed_byte_on_disk_is_never_served() {
    let (running, bytes) = with_box(5 << 20, &[]).await;
    let stored = running.stored_files().pop().unwrap();
    let mut damaged = std::fs::read(&stored).unwrap();
    damaged[3 << 20] ^= 1;
    std::fs::write(&stored, &damaged).unwrap();
    // The blocks before it are good; the answer breaks where it is not.
    let reply = get(&running, &[]).await;
    assert!(!reply.is_whole());
    assert!(reply.body == bytes[..reply.body.len()]);
    running.gateway.background.close();
    running.gateway.background.wait().await;
    running.gateway.background.reopen();
    let reply = get(&running, &[]).await;
    assert_eq!(reply.status, 503);
    // Uploading it again heals it.
    assert_eq!(running.upload("demo", "1.0", &bytes).await.status, 200);
    assert!(get(&running, &[]).await.body == bytes);
    running.stop().await;
}
