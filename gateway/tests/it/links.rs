//! Links of plugins to the bytes of a blob: good without a credential, before anybody sees the upload and after, and
//! for those bytes alone.

use boxgate_storage::metadata::accounts::PlatformRole;
use boxgate_storage::metadata::tokens::TokenKind;

use crate::harness::{Reply, Request, Running, file_path};
use crate::withheld::says;

/// Holds, quarantines or publishes as `/verdict/WORD` said last, and tells the link it made at `/link`.
const PLUGIN: &str = r#"
    fn route(req) {
        if req.path_like("/verdict/*") { kv::set("verdict", req.seg(1), 3600); return respond(204); }
        if req.path == "/link" { return respond(200, kv::get("link")); }
    }
    fn on_upload_complete(blob) {
        if blob.presigned_url(60) != () { throw "a directory has no URLs"; }
        kv::set("link", blob.signed_url(3600), 3600);
        switch kv::get("verdict") {
            "hold" => { throw "not yet"; }
            "quarantine" => quarantine("a known worm"),
            _ => ()
        }
    }
    fn on_download(req, blob) {
        let set = #{};
        try { set["x-link"] = blob.signed_url(60); } catch (e) { set["x-link"] = `${e}`; }
        try { blob.signed_url(700000); } catch (e) { set["x-too-long"] = "refused"; }
        #{ set: set }
    }
"#;

const BASE: &str = "https://boxes.example.org";

async fn start() -> Running {
    start_with_door("true").await
}

async fn start_with_door(blobs: &str) -> Running {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("data/plugins");
    std::fs::create_dir_all(&place).unwrap();
    std::fs::write(place.join("linker.rhai"), PLUGIN).unwrap();
    let variables = [
        ("BOXGATE_SCRIPTS__CHECK_EVERY", "0s"),
        ("BOXGATE_UPLOADS__HELD_PAUSES", "1d"),
        ("BOXGATE_UPLOADS__HELD_WAIT", "1ms"),
        ("BOXGATE_PUBLIC_URL", BASE),
        ("BOXGATE_DOORS__BLOBS__ENABLED", blobs),
    ];
    let running = Running::start_in(directory, &variables).await;
    for status in running.gateway.scripts.status() {
        assert_eq!(status.error, None, "{}", status.plugin);
    }
    running
}

/// The path of the link that was made last.
async fn link(running: &Running) -> String {
    let url = running.get("/link", "").await.body;
    let url = String::from_utf8(url).unwrap();
    url.strip_prefix(BASE).unwrap().to_owned()
}

/// What somebody without a credential gets.
async fn fetch(running: &Running, path: &str) -> Reply {
    running.send(Request::new("GET", path)).await
}

async fn release(running: &Running, upload: &Reply) {
    let root = running.account("root", PlatformRole::Admin).await;
    let root = running.token(root, TokenKind::Personal, None).await;
    let path = upload.header("location").unwrap();
    let id = path.rsplit('/').next().unwrap();
    let release = Request::new("POST", &format!("/api/admin/uploads/{id}/release")).token(&root);
    assert_eq!(running.send(release).await.status, 200);
}

#[tokio::test]
async fn a_link_leads_to_a_held_upload_and_to_what_it_becomes() {
    let running = start().await;
    says(&running, "hold").await;
    let held = running.upload("demo", "1.0.0", b"a held box").await;
    assert_eq!(held.status, 503);
    let path = link(&running).await;
    let got = fetch(&running, &path).await;
    assert_eq!((got.status, got.body.as_slice()), (200, &b"a held box"[..]));
    assert_eq!(got.header("referrer-policy"), Some("no-referrer"));
    let kept = got.header("cache-control").unwrap();
    assert!(kept.contains("private"), "{kept}");
    let part = Request::new("GET", &path).header("Range", "bytes=2-5");
    let part = running.send(part).await;
    assert_eq!((part.status, part.body.as_slice()), (206, &b"held"[..]));
    // Without it there is nothing, and no other serves.
    let bare = path.split_once('?').unwrap().0;
    assert_eq!(fetch(&running, bare).await.status, 404);
    assert_eq!(running.get(bare, &running.owner).await.status, 404);
    let flipped = if path.ends_with('A') { "B" } else { "A" };
    let forged = format!("{}{flipped}", &path[..path.len() - 1]);
    assert_eq!(fetch(&running, &forged).await.status, 403);
    let other = path.replace("/b3/", "/b3/0").replacen('?', "", 1);
    assert_eq!(fetch(&running, &other).await.status, 404);

    release(&running, &held).await;
    assert_eq!(fetch(&running, &path).await.body, b"a held box");
    let token = &running.owner;
    let gone = Request::new("DELETE", "/api/organization/acme/box/demo").token(token);
    assert_eq!(running.send(gone).await.status, 200);
    assert_eq!(fetch(&running, &path).await.status, 404);
    running.stop().await;
}

#[tokio::test]
async fn a_link_to_equal_bytes_leads_to_those_that_stay() {
    let running = start().await;
    says(&running, "pass").await;
    assert_eq!(running.upload("first", "1.0.0", b"twin").await.status, 200);
    assert_eq!(running.upload("second", "1.0.0", b"twin").await.status, 200);
    assert_eq!(running.stored_files().len(), 1);
    let path = link(&running).await;
    assert_eq!(fetch(&running, &path).await.body, b"twin");
    running.stop().await;
}

#[tokio::test]
async fn what_is_quarantined_is_read_by_nobody() {
    let running = start().await;
    says(&running, "quarantine").await;
    assert_eq!(running.upload("demo", "1.0.0", b"worm").await.status, 422);
    let path = link(&running).await;
    assert_eq!(fetch(&running, &path).await.status, 404);
    running.stop().await;
}

#[tokio::test]
async fn hooks_that_must_not_wait_make_links_too() {
    let running = start().await;
    says(&running, "pass").await;
    assert_eq!(running.upload("demo", "1.0.0", b"box").await.status, 200);
    let path = format!("{}/download", file_path("demo", "1.0.0"));
    let got = running.get(&path, &running.owner).await;
    assert_eq!(got.header("x-too-long"), Some("refused"));
    let path = got.header("x-link").unwrap().strip_prefix(BASE).unwrap();
    assert_eq!(fetch(&running, path).await.body, b"box");
    running.stop().await;
}

#[tokio::test]
async fn without_the_door_of_blobs_it_is_said_what_is_missing() {
    let running = start_with_door("false").await;
    let held = running.upload("demo", "1.0.0", b"box").await;
    assert_eq!(held.status, 503, "the hook fails, and so it is held");
    release(&running, &held).await;
    let path = format!("{}/download", file_path("demo", "1.0.0"));
    let got = running.get(&path, &running.owner).await;
    let told = got.header("x-link").unwrap();
    assert!(told.contains("doors.blobs.enabled"), "{told}");
    running.stop().await;
}
