//! Plugins whose `allow()` lets in whom the gateway refuses: to the boxes that they name, with the operator's grant, and
//! no further; a refusal that is not lifted tells nobody more than it did before.

use boxgate_storage::metadata::accounts::PlatformRole;
use boxgate_storage::metadata::tokens::TokenKind;

use crate::harness::{Reply, Request, Running, file_path};
use crate::scripts::write_plugin;

/// Allows what `x-partner` asks for, fails where `x-partner` is `fail`, and refuses the rest that names a partner.
const PARTNER: &str = r#"
    fn authorize(req, p) {
        switch req.header("x-partner") {
            () => (),
            "fail" => { throw "no opinion"; }
            "deny" => deny(451, "not for partners"),
            _ => allow()
        }
    }
"#;

/// Refuses what `x-banned` marks.
const GUARD: &str = r#"
    fn authorize(req, p) { if req.header("x-banned") != () { deny(429, "banned") } else { allow() } }
"#;

const OVERRIDE: &str = "[grants]\nauthorize = \"override\"\n";

async fn start(partner: &str) -> Running {
    let directory = tempfile::tempdir().unwrap();
    write_plugin(directory.path(), "partner", partner, PARTNER);
    write_plugin(directory.path(), "guard", "", GUARD);
    let variables = [
        ("BOXGATE_SCRIPTS__CHECK_EVERY", "0s"),
        ("BOXGATE_SCRIPTS__TRUST_LOCAL", "true"),
    ];
    let running = Running::start_in(directory, &variables).await;
    for status in running.gateway.scripts.status() {
        assert_eq!(status.error, None, "{}", status.plugin);
    }
    assert_eq!(running.upload("demo", "1.0.0", b"box").await.status, 200);
    running
}

async fn outsider(running: &Running) -> String {
    let stranger = running.account("stranger", PlatformRole::User).await;
    running.token(stranger, TokenKind::Personal, None).await
}

async fn ask(running: &Running, request: Request, partner: &str) -> Reply {
    let request = match partner {
        "" => request,
        partner => request.header("X-Partner", partner),
    };
    running.send(request).await
}

fn download(token: &str) -> Request {
    let path = format!("{}/download", file_path("demo", "1.0.0"));
    match token {
        "" => Request::new("GET", &path),
        token => Request::new("GET", &path).token(token),
    }
}

#[tokio::test]
async fn who_is_refused_is_let_in_to_boxes_by_a_plugin_that_may() {
    let running = start(OVERRIDE).await;
    let stranger = outsider(&running).await;
    for token in ["", stranger.as_str()] {
        assert_eq!(ask(&running, download(token), "").await.status, 404);
        let got = ask(&running, download(token), "yes").await;
        assert_eq!((got.status, got.body.as_slice()), (200, &b"box"[..]));
        let kept = got.header("cache-control").unwrap();
        assert!(kept.contains("private"), "{kept}");
    }
    let by_name = Request::new("GET", "/acme/demo").token(&stranger);
    assert_eq!(ask(&running, by_name, "yes").await.status, 200);
    // It changes and publishes, too, and the right is asked for again when the bytes are there.
    let change = || {
        let request = Request::new("PUT", "/api/organization/acme/box/demo").token(&stranger);
        request.json(&serde_json::json!({ "description": "changed" }))
    };
    assert_eq!(ask(&running, change(), "").await.status, 404);
    assert_eq!(ask(&running, change(), "yes").await.status, 200);
    let publish = |name| Request::new("POST", &file_path(name, "2.0.0")).token(&stranger);
    for name in ["demo", "fresh"] {
        let refused = ask(&running, publish(name).body(b"new"), "").await;
        assert_eq!(refused.status, 404, "{name}");
        let taken = ask(&running, publish(name).body(b"new"), "yes").await;
        assert_eq!(taken.status, 200, "{name}: {}", taken.head);
    }
    running.stop().await;
}

#[tokio::test]
async fn nothing_else_is_let_in() {
    let running = start(OVERRIDE).await;
    let stranger = outsider(&running).await;
    // People, the platform and credentials are the gateway's alone; so is what needs somebody.
    let mut refused = vec![
        (
            Request::new("GET", "/api/admin/users").token(&stranger),
            403,
        ),
        (
            Request::new("GET", "/api/organization/acme/users").token(&stranger),
            403,
        ),
        (
            Request::new("DELETE", "/api/organization/acme").token(&stranger),
            403,
        ),
        (Request::new("GET", "/api/user"), 403),
        (download("not-a-token"), 401),
        (
            Request::new("DELETE", "/api/organization/acme/box/demo"),
            403,
        ),
        (
            Request::new("POST", &file_path("demo", "2.0.0")).body(b"new"),
            403,
        ),
    ];
    // What is not there stays so.
    for path in [
        "/api/organization/acme/box/none",
        "/api/organization/none/box/demo",
    ] {
        refused.push((Request::new("GET", path).token(&stranger), 404));
    }
    let blob = format!("/blobs/b3/{}", blake3::hash(b"box").to_hex());
    refused.push((Request::new("GET", &blob).token(&stranger), 404));
    for (request, status) in refused {
        let bytes = request.to_bytes();
        let line = String::from_utf8_lossy(&bytes)
            .lines()
            .next()
            .unwrap()
            .to_owned();
        let got = ask(&running, request, "yes").await;
        assert_eq!(got.status, status, "{line}");
    }
    assert_eq!(running.stored_files().len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn a_refusal_that_stands_is_the_gateways_own() {
    let running = start(OVERRIDE).await;
    let stranger = outsider(&running).await;
    let absent = |name: &str| {
        let path = format!("/api/organization/acme/box/{name}");
        Request::new("GET", &path).token(&stranger)
    };
    // A plugin that refuses or fails says nothing of whether there is such a box, nor does one that bans.
    for partner in ["", "deny", "fail"] {
        for name in ["demo", "none"] {
            let got = ask(&running, absent(name), partner).await;
            assert_eq!(got.status, 404, "{name} {partner}");
            let text = String::from_utf8_lossy(&got.body).replace(name, "NAME");
            assert!(
                text.contains("acme/NAME") && !text.contains("partners"),
                "{text}"
            );
        }
    }
    // All must agree.
    let banned = download(&stranger).header("X-Banned", "1");
    assert_eq!(ask(&running, banned, "yes").await.status, 404);
    // Who may anyhow is refused as ever.
    let owner = download(&running.owner).header("X-Banned", "1");
    assert_eq!(ask(&running, owner, "yes").await.status, 429);
    assert_eq!(
        ask(&running, download(&running.owner), "deny").await.status,
        451
    );
    running.stop().await;
}

#[tokio::test]
async fn without_the_grant_allow_lets_nobody_in() {
    let running = start("").await;
    let stranger = outsider(&running).await;
    for request in [
        download(""),
        download(&stranger),
        Request::new("GET", "/acme/demo").token(&stranger),
        Request::new("POST", &file_path("demo", "2.0.0"))
            .token(&stranger)
            .body(b"new"),
    ] {
        assert_eq!(ask(&running, request, "yes").await.status, 404);
    }
    running.stop().await;

    // A plugin that asks for it, and is not granted it, is not loaded.
    let directory = tempfile::tempdir().unwrap();
    write_plugin(directory.path(), "partner", OVERRIDE, PARTNER);
    let running = Running::start_in(directory, &[]).await;
    let status = running.gateway.scripts.status().remove(0);
    let error = status.error.unwrap();
    assert!(error.contains("authorize = \"override\""), "{error}");
    running.stop().await;
}
