//! Bytes out: ranges, validators, links, and damage that is never served.

use crate::harness::{Reply, Request, Running, file_path};

const PATH: &str = "/acme/boxes/demo/versions/1.0/providers/virtualbox/amd64/vagrant.box";

async fn with_box(length: usize) -> (Running, Vec<u8>) {
    let running = Running::start().await;
    let mut bytes = vec![0; length];
    blake3::Hasher::new_keyed(&[42; 32]).finalize_xof().fill(&mut bytes);
    assert_eq!(running.upload("demo", "1.0", &bytes).await.status, 200);
    (running, bytes)
}

async fn get(running: &Running, headers: &[(&str, &str)]) -> Reply {
    let mut request = Request::new("GET", PATH).token(&running.owner);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    running.send(request).await
}

#[tokio::test]
async fn ranges_are_exact_and_one_past_the_end_means_the_whole_box() {
    let (running, bytes) = with_box(3 << 20).await;
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
        assert_eq!(reply.header("content-range"), Some(format!("bytes {start}-{}/{length}", end - 1).as_str()));
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
    let (running, bytes) = with_box(1000).await;
    let whole = get(&running, &[]).await;
    let etag = format!("\"{}\"", blake3::hash(&bytes).to_hex());
    assert_eq!(whole.header("etag"), Some(etag.as_str()));
    assert_eq!(get(&running, &[("If-None-Match", &etag)]).await.status, 304);
    assert_eq!(get(&running, &[("If-Match", "\"other\"")]).await.status, 412);
    let resumed = [("Range", "bytes=10-"), ("If-Range", etag.as_str())];
    assert_eq!(get(&running, &resumed).await.status, 206);
    assert_eq!(get(&running, &[("Range", "bytes=10-"), ("If-Range", "\"other\"")]).await.status, 200);
    let date = whole.header("last-modified").unwrap().to_owned();
    assert_eq!(get(&running, &[("If-Modified-Since", &date)]).await.status, 304);
    let head = running.send(Request::new("HEAD", PATH).token(&running.owner)).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), Some("1000"));
    assert_eq!(head.header("accept-ranges"), Some("bytes"));
    running.stop().await;
}

#[tokio::test]
async fn what_may_be_cached_follows_visibility_and_url() {
    let (running, bytes) = with_box(1000).await;
    let pinned = format!("{PATH}?b3={}", blake3::hash(&bytes).to_hex());
    let private = get(&running, &[]).await;
    assert_eq!(private.header("cache-control"), Some("private, no-cache, no-transform"));
    let publish = Request::new("PUT", "/api/organization/acme/box/demo")
        .token(&running.owner)
        .json(&serde_json::json!({ "isPublic": true }));
    assert_eq!(running.send(publish).await.status, 200);
    let bare = running.get(PATH, "").await;
    assert_eq!(bare.header("cache-control"), Some("public, max-age=60, no-transform"));
    assert_eq!(bare.header("content-location"), Some(pinned.as_str()));
    let immutable = running.get(&pinned, "").await;
    assert_eq!(
        immutable.header("cache-control"),
        Some("public, max-age=31536000, immutable, no-transform")
    );
    running.stop().await;
}

#[tokio::test]
async fn a_link_downloads_without_a_credential_and_counts_once() {
    let (running, bytes) = with_box(1000).await;
    let info = running.get(&format!("{}/info", file_path("demo", "1.0")), &running.owner).await.json();
    let url = info["downloadUrl"].as_str().unwrap().to_owned();
    let path = &url["http://gateway".len()..];
    assert!(running.get(path, "").await.body == bytes);
    let forged = path.replace("/1.0/", "/2.0/");
    assert_eq!(running.get(&forged, "").await.status, 403);
    get(&running, &[("Range", "bytes=5-")]).await;
    running.send(Request::new("HEAD", PATH).token(&running.owner)).await;
    running.gateway.background.close();
    running.gateway.background.wait().await;
    running.gateway.background.reopen();
    let info = running.get(&format!("{}/info", file_path("demo", "1.0")), &running.owner).await.json();
    assert_eq!(info["downloadCount"], 1);
    running.stop().await;
}

#[tokio::test]
async fn a_changed_byte_on_disk_is_never_served() {
    let (running, bytes) = with_box(5 << 20).await;
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
