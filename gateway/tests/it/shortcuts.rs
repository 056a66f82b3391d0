//! Answers by the shortest way: they are those of the usual one, to those who may have them, and no change is missed.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use boxgate_storage::catalog::BoxRef;
use boxgate_storage::clock::SystemClock;
use boxgate_storage::conformance::database;
use boxgate_storage::metadata::accounts::PlatformRole;
use boxgate_storage::metadata::catalog::BoxFields;
use boxgate_storage::metadata::{Metadata, MetadataOptions};
use tokio::time::Instant;

use crate::harness::{Reply, Request, Running};
use crate::uploads::with_box;

const BOX: &str = "/acme/demo";
const FILE: &str = "/acme/boxes/demo/versions/1.0/providers/virtualbox/amd64/vagrant.box";
const TAKEN: Duration = Duration::from_mins(1);

/// A gateway with a public box of that many bytes.
async fn with_public_box(length: usize, variables: &[(&str, &str)]) -> (Running, Vec<u8>) {
    let (running, bytes) = with_box(length, variables).await;
    running.set_public("demo", true).await;
    (running, bytes)
}

fn at_once(running: &Running) -> u64 {
    running.gateway.telemetry.metrics.answers_at_once.get()
}

fn ask(path: &str, headers: &[(&str, &str)]) -> Request {
    let request = Request::new("GET", path);
    headers.iter().fold(request, |request, (name, value)| {
        request.header(name, value)
    })
}

/// Asks until it was answered by the shortest way; what is kept is kept for a moment only.
async fn by_shortcut(running: &Running, ask: impl Fn() -> Request + Send + Sync) -> Reply {
    let asking = async {
        loop {
            let before = at_once(running);
            let reply = running.send(ask()).await;
            if at_once(running) > before {
                break reply;
            }
        }
    };
    tokio::time::timeout(TAKEN, asking).await.unwrap()
}

/// Forgets all that is kept.
async fn change_something(running: &Running, name: &str) {
    running.account(name, PlatformRole::User).await;
}

/// An answer without what is of its second, or of its request.
fn told(reply: &Reply) -> (Vec<&str>, &[u8]) {
    let own = ["date:", "x-request-id:", "x-trace-id:"];
    let is_own = |line: &&str| own.iter().any(|name| line.starts_with(name));
    let lines = reply.head.lines();
    let mut lines: Vec<_> = lines.filter(|line| !is_own(line)).collect();
    lines.sort_unstable();
    (lines, &reply.body)
}

#[tokio::test]
async fn answers_are_those_of_the_usual_way() {
    let (running, bytes) = with_public_box(3 << 20, &[]).await;
    let tag = |reply: &Reply| reply.header("etag").unwrap().to_owned();
    let (of_box, of_file) = (
        tag(&running.get(BOX, "").await),
        tag(&running.get(FILE, "").await),
    );
    let (of_box, of_file) = (of_box.as_str(), of_file.as_str());
    let pinned = format!("{FILE}?b3={}", blake3::hash(&bytes).to_hex());
    let past = format!("bytes={}-", bytes.len());
    let (pinned, past) = (pinned.as_str(), past.as_str());
    let mut asked: Vec<(&str, Vec<(&str, &str)>)> = vec![
        (FILE, vec![]),
        (pinned, vec![]),
        (FILE, vec![("Range", "bytes=0-65535")]),
        (pinned, vec![("Range", "bytes=1000-70000")]),
        (FILE, vec![("Range", "bytes=-20000")]),
        (FILE, vec![("Range", "bytes=1048000-1100000")]),
        (FILE, vec![("Range", past)]),
        (
            FILE,
            vec![("Range", "bytes=9-99999"), ("If-Range", of_file)],
        ),
        (
            FILE,
            vec![("Range", "bytes=9-99999"), ("If-Range", "\"x\"")],
        ),
        (FILE, vec![("If-Match", of_file)]),
    ];
    // Another node's new version must be told at once, so that where others write nothing of this is kept.
    if !running.gateway.metadata.is_shared() {
        asked.extend([
            (BOX, vec![]),
            (BOX, vec![("Accept", "application/json")]),
            (BOX, vec![("If-None-Match", of_box)]),
            (BOX, vec![("If-Match", "\"other\"")]),
            (BOX, vec![("Range", "bytes=1-2")]),
        ]);
    }
    for (turn, (path, headers)) in asked.iter().enumerate() {
        change_something(&running, &format!("one-{turn}")).await;
        let before = at_once(&running);
        let usual = running.send(ask(path, headers)).await;
        assert_eq!(at_once(&running), before, "{path} {headers:?}");
        let short = by_shortcut(&running, || ask(path, headers)).await;
        assert_eq!(told(&usual), told(&short), "{path} {headers:?}");
    }
    running.stop().await;
}

#[tokio::test]
async fn what_is_not_plain_goes_the_usual_way() {
    let (running, bytes) = with_public_box(100_000, &[]).await;
    by_shortcut(&running, || ask(FILE, &[])).await;
    let of_file = format!("\"{}\"", blake3::hash(&bytes).to_hex());
    let before = at_once(&running);
    for (method, path, headers, status) in [
        ("HEAD", FILE, vec![], 200),
        ("GET", FILE, vec![("Range", "bytes=0-99")], 206),
        ("GET", FILE, vec![("If-None-Match", of_file.as_str())], 304),
        ("GET", FILE, vec![("If-Match", "\"other\"")], 412),
        ("GET", FILE, vec![("Want-Repr-Digest", "blake3=1")], 200),
        ("GET", FILE, vec![("Authorization", "Bearer none")], 401),
        ("GET", FILE, vec![("x-access-token", "none")], 401),
        ("GET", FILE, vec![("X-Atlas-Token", "none")], 401),
        ("GET", BOX, vec![("Accept", "text/html")], 200),
    ] {
        let request = headers
            .iter()
            .fold(Request::new(method, path), |request, (name, value)| {
                request.header(name, value)
            });
        let reply = running.send(request).await;
        assert_eq!(reply.status, status, "{method} {path} {headers:?}");
        if path == BOX {
            let kind = reply.header("content-type").unwrap();
            assert!(kind.starts_with("text/html"), "{kind}");
        }
    }
    let token = format!("{FILE}?access_token={}", running.owner);
    for _ in 0..3 {
        assert_eq!(running.get(&token, "").await.status, 200);
        assert_eq!(running.get(FILE, &running.owner).await.status, 200);
    }
    assert_eq!(at_once(&running), before);
    running.stop().await;
}

#[tokio::test]
async fn a_private_box_is_kept_for_nobody() {
    let (running, _) = with_public_box(100_000, &[]).await;
    running.set_public("demo", false).await;
    for _ in 0..3 {
        assert_eq!(running.get(FILE, &running.owner).await.status, 200);
        assert_eq!(running.get(BOX, &running.owner).await.status, 200);
        assert_eq!(running.get(FILE, "").await.status, 404);
        assert_eq!(running.get(BOX, "").await.status, 404);
    }
    assert_eq!(at_once(&running), 0);
    running.stop().await;
}

#[tokio::test]
async fn the_next_request_sees_a_change() {
    let (running, _) = with_public_box(100_000, &[]).await;
    let version = "/api/v1/box/acme/demo/version/1.0";
    let change = async |method: &str, path: String| {
        let request = Request::new(method, &path).token(&running.owner);
        assert_eq!(running.send(request).await.status, 200, "{method} {path}");
    };
    by_shortcut(&running, || ask(FILE, &[])).await;
    change("PUT", format!("{version}/revoke")).await;
    assert_eq!(running.get(FILE, "").await.status, 404, "revoked");
    change("PUT", format!("{version}/release")).await;
    by_shortcut(&running, || ask(FILE, &[])).await;
    let other = vec![9; 100_000];
    assert_eq!(running.upload("demo", "1.0", &other).await.status, 200);
    assert!(running.get(FILE, "").await.body == other, "replaced");
    by_shortcut(&running, || ask(FILE, &[])).await;
    running.set_public("demo", false).await;
    assert_eq!(running.get(FILE, "").await.status, 404, "hidden");
    running.set_public("demo", true).await;
    by_shortcut(&running, || ask(FILE, &[])).await;
    let there = "/api/organization/acme/box/demo/version/1.0";
    change("DELETE", there.to_owned()).await;
    assert_eq!(running.get(FILE, "").await.status, 404, "deleted");
    running.stop().await;
}

#[tokio::test]
async fn metadata_tells_of_a_new_version_and_of_no_box_that_is_gone() {
    let (running, _) = with_public_box(100_000, &[]).await;
    let versions = |reply: &Reply| reply.json()["versions"].as_array().unwrap().len();
    let is_shared = running.gateway.metadata.is_shared();
    let asked = async || {
        if is_shared {
            return running.get(BOX, "").await;
        }
        by_shortcut(&running, || ask(BOX, &[])).await
    };
    assert_eq!(versions(&asked().await), 1);
    assert_eq!(running.upload("demo", "2.0", b"two").await.status, 200);
    assert_eq!(versions(&running.get(BOX, "").await), 2);
    assert_eq!(versions(&asked().await), 2);
    let delete = Request::new("DELETE", "/api/organization/acme/box/demo").token(&running.owner);
    assert_eq!(running.send(delete).await.status, 200);
    assert_eq!(running.get(BOX, "").await.status, 404);
    running.stop().await;
}

#[tokio::test]
async fn a_change_by_another_node_is_seen() {
    let (running, _) = with_public_box(100_000, &[]).await;
    let data = running.data_dir();
    // One process alone holds an embedded database.
    if let Some(url) = database::url(data.parent().unwrap()).await {
        by_shortcut(&running, || ask(FILE, &[])).await;
        let options = MetadataOptions {
            clock: Arc::new(SystemClock),
            doomed_for: TAKEN,
        };
        let other = Metadata::open_postgres(&url, options).await.unwrap();
        let name = "demo".parse().unwrap();
        let row = other.box_row(running.organization, &name).await;
        let row = row.unwrap().unwrap();
        let hidden = BoxFields {
            public: false,
            ..row.fields
        };
        let changed = other.update_box(row.id, None, hidden, "another").await;
        changed.unwrap();
        let seen = async {
            while running.get(FILE, "").await.status != 404 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(TAKEN, seen).await.unwrap();
        other.close().await;
    }
    running.stop().await;
}

#[tokio::test]
async fn each_download_counts_once() {
    const DOWNLOADS: u64 = 5;
    let (running, _) = with_public_box(100_000, &[]).await;
    let name = BoxRef {
        organization: "acme".parse().unwrap(),
        name: "demo".parse().unwrap(),
        version: "1.0".parse().unwrap(),
        provider: "virtualbox".parse().unwrap(),
        architecture: "amd64".parse().unwrap(),
    };
    let before = at_once(&running);
    for _ in 0..DOWNLOADS {
        assert_eq!(running.get(FILE, "").await.status, 200);
        let later = ask(FILE, &[("Range", "bytes=1-70000")]);
        assert_eq!(running.send(later).await.status, 206);
    }
    let taken = by_shortcut(&running, || ask(FILE, &[("Range", "bytes=1-70000")])).await;
    assert_eq!(taken.status, 206);
    assert!(at_once(&running) > before);
    let counting = async {
        loop {
            let found = running.gateway.metadata.read_file(&name).await.unwrap();
            let counted = found.unwrap().file.downloads;
            assert!(counted <= DOWNLOADS, "{counted}");
            if counted == DOWNLOADS {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(TAKEN, counting).await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn a_file_that_was_changed_is_not_what_is_known() {
    let (running, bytes) = with_public_box(100_000, &[]).await;
    by_shortcut(&running, || ask(FILE, &[])).await;
    let stored = running.stored_files();
    let mut damaged = bytes.clone();
    damaged[50_000] ^= 1;
    let mut file = std::fs::File::options()
        .write(true)
        .open(&stored[0])
        .unwrap();
    file.write_all(&damaged).unwrap();
    drop(file);
    let reply = running.get(FILE, "").await;
    assert_eq!(reply.status, 503, "{}", reply.head);
    running.stop().await;
}

#[tokio::test]
async fn strangers_are_counted_whichever_way_they_are_answered() {
    const BURST: u64 = 50;
    let variables = [
        ("BOXGATE_TRUSTED_PROXIES", "127.0.0.1"),
        ("BOXGATE_LIMITS__RATE_EXEMPT", ""),
        ("BOXGATE_RATES__ADDRESS__REQUESTS", "1"),
        ("BOXGATE_RATES__ADDRESS__BURST", "50"),
    ];
    let (running, _) = with_public_box(100_000, &variables).await;
    // One who is a proxy and names nobody is not counted.
    by_shortcut(&running, || ask(FILE, &[])).await;
    let (before, begun) = (at_once(&running), Instant::now());
    let from = [("X-Forwarded-For", "198.51.100.7")];
    let mut answered = 0;
    let refused = loop {
        let reply = running.send(ask(FILE, &from)).await;
        // One comes back each second, however slow this is.
        let most = BURST + begun.elapsed().as_secs() + 1;
        if reply.status != 200 {
            break reply;
        }
        answered += 1;
        assert!(answered <= most, "{answered}");
    };
    assert_eq!(refused.status, 429);
    assert!(answered >= BURST, "{answered}");
    assert!(refused.header("retry-after").is_some(), "{}", refused.head);
    let text = refused.json()["errors"][0].to_string();
    assert!(text.contains("rates.address"), "{text}");
    assert!(at_once(&running) > before);
    running.stop().await;
}

#[tokio::test]
async fn nothing_is_kept_where_nothing_shall_be() {
    let (running, _) = with_public_box(100_000, &[("BOXGATE_CACHE__ANSWERS", "0")]).await;
    for _ in 0..5 {
        assert_eq!(running.get(FILE, "").await.status, 200);
        assert_eq!(running.get(BOX, "").await.status, 200);
    }
    assert_eq!(at_once(&running), 0);
    running.stop().await;
}
