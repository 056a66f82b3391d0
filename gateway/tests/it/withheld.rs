//! Uploads that plugins are asked about before they become visible: at every way in, and with every answer.

use std::time::Duration;

use boxgate_storage::metadata::accounts::{OrganizationRole, PlatformRole};
use boxgate_storage::metadata::tokens::TokenKind;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Reply, Request, Running, file_path};
use crate::resumable::{TUS_BYTES, located, tus};

/// Does what `/verdict/WORD` said last, and tells what it was asked at `/asked`.
const SCANNER: &str = r#"
    fn route(req) {
        if req.path_like("/verdict/*") { kv::set("verdict", req.seg(1), 3600); return respond(204); }
        if req.path == "/asked" { return respond(200, #{ asked: kv::get("asked") ?? [] }); }
    }
    fn on_upload_complete(blob) {
        let asked = kv::get("asked") ?? [];
        asked.push(`${blob.organization}/${blob.box}/${blob.version} ${blob.size} ${blob.checksum_type} ${blob.is_new}`);
        kv::set("asked", asked, 3600);
        switch kv::get("verdict") {
            "fail" => { throw "the scanner is away"; }
            "quarantine" => { return quarantine("a known worm"); }
            "reject" => { return reject(451, "not in this country"); }
            "label" => { return #{ labels: #{ scanned: "yes", engine: 7 } }; }
            _ => {}
        }
    }
    fn on_download(req, blob) {
        #{ set: #{ "x-scanned": blob.labels.scanned ?? "no" } }
    }
"#;

/// Twenty tries, a second apart.
const TRIES: &str = "1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s,1s";

fn scene() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("data/plugins");
    std::fs::create_dir_all(&place).unwrap();
    std::fs::write(place.join("scanner.rhai"), SCANNER).unwrap();
    directory
}

/// A gateway whose clients do not wait for a second try.
async fn start(directory: TempDir, pauses: &str) -> Running {
    let variables = [
        ("BOXGATE_SCRIPTS__CHECK_EVERY", "0s"),
        ("BOXGATE_UPLOADS__HELD_PAUSES", pauses),
        ("BOXGATE_UPLOADS__HELD_WAIT", "1ms"),
    ];
    let running = Running::start_in(directory, &variables).await;
    for status in running.gateway.scripts.status() {
        assert_eq!(status.error, None, "{}", status.plugin);
    }
    running
}

/// Has the plugin under test answer so from now on.
pub(crate) async fn says(running: &Running, verdict: &str) {
    let said = running.get(&format!("/verdict/{verdict}"), "").await;
    assert_eq!(said.status, 204);
}

async fn asked(running: &Running) -> Vec<String> {
    let asked = running.get("/asked", "").await.json();
    serde_json::from_value(asked["asked"].clone()).unwrap()
}

async fn is_visible(running: &Running, name: &str) -> bool {
    is_there(running, (name, "1.0.0")).await
}

async fn is_there(running: &Running, (name, version): (&str, &str)) -> bool {
    let path = format!("{}/info", file_path(name, version));
    match running.get(&path, &running.owner).await.status {
        200 => true,
        404 => false,
        status => panic!("{status}"),
    }
}

fn text(reply: &Reply) -> String {
    String::from_utf8_lossy(&reply.body).into_owned()
}

/// Asks until the upload is in that state.
async fn until(running: &Running, path: &str, state: &str) -> Value {
    let asking = async {
        loop {
            let told = running.get(path, &running.owner).await;
            if told.status == 200 && told.json()["state"] == state {
                return told.json();
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), asking)
        .await
        .unwrap()
}

/// Sends `bytes` to a name of its own by each way in; the last answer of each.
async fn every_way(running: &Running, version: &str, bytes: &[u8]) -> Vec<(&'static str, Reply)> {
    let mut replies = Vec::new();
    let to = |name: &str| format!("/files?target=acme/{name}/{version}/virtualbox/amd64");
    let raw = Request::new("POST", &file_path("raw", version)).token(&running.owner);
    replies.push(("raw", running.send(raw.body(bytes)).await));

    let mut form =
        b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\n".to_vec();
    form.extend_from_slice(bytes);
    form.extend_from_slice(b"\r\n--b--\r\n");
    let request = Request::new("POST", &file_path("form", version))
        .token(&running.owner)
        .header("Content-Type", "multipart/form-data; boundary=b");
    replies.push(("form", running.send(request.body(&form)).await));

    let length = bytes.len().to_string();
    let made = tus(running, "POST", &to("tus")).header("Upload-Length", &length);
    let path = located(&running.send(made).await);
    let patch = tus(running, "PATCH", &path)
        .header("Content-Type", TUS_BYTES)
        .header("Upload-Offset", "0");
    replies.push(("tus", running.send(patch.body(bytes)).await));

    let ietf = Request::new("POST", &to("ietf"))
        .token(&running.owner)
        .header("Upload-Complete", "?1");
    replies.push(("ietf", running.send(ietf.body(bytes)).await));

    let parts = Request::new("POST", &to("parts"))
        .token(&running.owner)
        .header("Upload-Length", &length);
    let path = located(&running.send(parts).await);
    let part = Request::new("PUT", &format!("{path}/parts/0")).token(&running.owner);
    replies.push(("parts", running.send(part.body(bytes)).await));

    let chunk = Request::new("POST", &format!("{}/upload", file_path("chunk", version)))
        .token(&running.owner)
        .header("x-chunk-index", "0")
        .header("x-total-chunks", "1");
    replies.push(("chunk", running.send(chunk.body(bytes)).await));
    replies
}

#[tokio::test]
async fn no_way_in_leads_past_the_hook() {
    let running = start(scene(), "1d").await;
    for (version, verdict, status, code) in [
        ("1.0.0", "quarantine", 422, "UPLOAD_QUARANTINED"),
        ("1.0.0", "reject", 451, "DENIED_BY_SCRIPT"),
        ("2.0.0", "fail", 503, "UPLOAD_HELD"),
    ] {
        says(&running, verdict).await;
        let before = asked(&running).await.len();
        let bytes = format!("a box that is {verdict}");
        let replies = every_way(&running, version, bytes.as_bytes()).await;
        for (way, reply) in replies {
            let told = text(&reply);
            assert_eq!(reply.status, status, "{way} {verdict}: {told}");
            assert!(!is_there(&running, (way, version)).await, "{way} {verdict}");
            assert!(told.contains(code), "{way} {verdict}: {told}");
            if verdict == "fail" {
                assert_eq!(reply.header("retry-after"), Some("30"), "{way}");
            }
        }
        assert_eq!(asked(&running).await.len(), before + 6, "{verdict}");
    }
    // What was refused before is asked about anew, and passes.
    says(&running, "pass").await;
    let replies = every_way(&running, "1.0.0", b"a good box").await;
    for (way, reply) in replies {
        assert!(reply.status < 300, "{way}: {}", text(&reply));
        assert!(is_visible(&running, way).await, "{way}");
    }
    let asked = asked(&running).await;
    assert!(asked.contains(&"acme/raw/1.0.0 10 sha256 true".to_owned()));
    // All later ones hold the bytes of the first, and were asked about all the same.
    assert!(
        asked.contains(&"acme/chunk/1.0.0 10 sha256 false".to_owned()),
        "{asked:?}"
    );
    running.stop().await;
}

#[tokio::test]
async fn a_held_upload_can_be_asked_for_and_is_published_once_the_hook_answers() {
    let mut running = start(scene(), TRIES).await;
    says(&running, "fail").await;
    let held = running.upload("demo", "1.0.0", b"box").await;
    assert_eq!(held.status, 503, "{}", text(&held));
    let path = held.header("location").unwrap().to_owned();
    let told = until(&running, &path, "held").await;
    assert_eq!(
        told["reason"],
        Value::Null,
        "a failure's text is no client's business"
    );
    assert_eq!(told["offset"], 3);
    let head = running.send(tus(&running, "HEAD", &path)).await;
    assert_eq!((head.status, head.header("retry-after")), (503, Some("30")));
    // Others see nothing of it.
    let member = running.member("member", OrganizationRole::Member).await;
    let member = running.token(member, TokenKind::Personal, None).await;
    assert_eq!(running.get(&path, &member).await.status, 404);

    // A stop and a start later it is asked about again. The plugin remembers what it says, until it is told another.
    let directory = running.stop().await;
    running = start(directory, TRIES).await;
    says(&running, "pass").await;
    let done = until(&running, &path, "done").await;
    assert_eq!(done["details"]["status"], "complete");
    assert!(is_visible(&running, "demo").await);
    let head = running.send(tus(&running, "HEAD", &path)).await;
    assert_eq!(
        (head.status, head.header("upload-offset")),
        (200, Some("3"))
    );
    running.stop().await;
}

#[tokio::test]
async fn a_quarantined_upload_is_let_through_by_an_administrator_of_the_platform() {
    let running = start(scene(), "1d").await;
    says(&running, "quarantine").await;
    let refused = running.upload("demo", "1.0.0", b"box").await;
    assert_eq!(refused.status, 422);
    assert!(
        text(&refused).contains("a known worm"),
        "{}",
        text(&refused)
    );
    let events = running.gateway.metadata.events(0, 100).await.unwrap();
    let told = events.iter().find(|e| e.name == "box.quarantined").unwrap();
    let told: Value = serde_json::from_str(&told.data).unwrap();
    assert_eq!(
        json!([told["plugin"], told["reason"]]),
        json!(["scanner", "a known worm"])
    );
    let root = running.account("root", PlatformRole::Admin).await;
    let root = running.token(root, TokenKind::Personal, None).await;
    let listed = running
        .get("/api/admin/uploads?state=withheld", &root)
        .await;
    let listed = listed.json();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(listed[0]["state"], "quarantined");
    assert_eq!(listed[0]["reason"], "a known worm");
    let id = listed[0]["id"].as_str().unwrap().to_owned();
    let own = running
        .get(&format!("/files/{id}"), &running.owner)
        .await
        .json();
    assert_eq!(
        json!([own["state"], own["reason"]]),
        json!(["quarantined", "a known worm"])
    );
    // The same bytes once more change nothing, and take no room.
    let again = running.upload("demo", "1.0.0", b"box").await;
    assert_eq!(again.status, 422);
    assert!(text(&again).contains("a known worm"), "{}", text(&again));
    assert_eq!(
        (asked(&running).await.len(), running.stored_files().len()),
        (1, 1)
    );

    let release = |token: &str| {
        Request::new("POST", &format!("/api/admin/uploads/{id}/release")).token(token)
    };
    assert_eq!(running.send(release(&running.owner)).await.status, 403);
    assert!(!is_visible(&running, "demo").await);
    let released = running.send(release(&root)).await;
    assert_eq!(released.status, 200, "{}", text(&released));
    assert_eq!(released.json()["state"], "done");
    assert!(is_visible(&running, "demo").await);
    assert_eq!(running.send(release(&root)).await.status, 409);
    let none = Request::new("POST", "/api/admin/uploads/nothing/release").token(&root);
    assert_eq!(running.send(none).await.status, 404);

    // Another is dropped with its bytes.
    let refused = running.upload("other", "1.0.0", b"another box").await;
    let path = refused.header("location").unwrap().to_owned();
    let id = path.rsplit('/').next().unwrap();
    let drop = Request::new("DELETE", &format!("/api/admin/uploads/{id}")).token(&root);
    assert_eq!(running.send(drop).await.status, 204);
    assert_eq!(running.stored_files().len(), 1);
    assert_eq!(running.get(&path, &running.owner).await.status, 410);
    running.stop().await;
}

#[tokio::test]
async fn a_rejected_upload_leaves_nothing_but_why() {
    let running = start(scene(), "1d").await;
    says(&running, "reject").await;
    let refused = running.upload("demo", "1.0.0", b"box").await;
    assert_eq!(refused.status, 451);
    assert!(text(&refused).contains("not in this country"));
    assert!(running.stored_files().is_empty());
    let path = refused.header("location").unwrap().to_owned();
    let later = running.get(&path, &running.owner).await;
    assert_eq!(later.status, 451, "{}", text(&later));
    assert!(text(&later).contains("not in this country"));
    running.stop().await;
}

#[tokio::test]
async fn labels_are_read_by_people_and_by_plugins() {
    let running = start(scene(), "1d").await;
    let download = |name: &str| format!("{}/download", file_path(name, "1.0.0"));
    assert_eq!(running.upload("plain", "1.0.0", b"plain").await.status, 200);
    says(&running, "label").await;
    assert_eq!(running.upload("demo", "1.0.0", b"box").await.status, 200);
    let info = |name: &str| format!("{}/info", file_path(name, "1.0.0"));
    let told = running.get(&info("demo"), &running.owner).await.json();
    assert_eq!(told["labels"], json!({ "scanned": "yes", "engine": "7" }));
    let told = running.get(&info("plain"), &running.owner).await.json();
    assert_eq!(told.get("labels"), None);
    for (name, scanned) in [("demo", "yes"), ("plain", "no")] {
        let got = running.get(&download(name), &running.owner).await;
        assert_eq!((got.status, got.header("x-scanned")), (200, Some(scanned)));
    }
    // Equal bytes get them, too, though they were there before.
    assert_eq!(running.upload("twin", "1.0.0", b"plain").await.status, 200);
    let got = running.get(&download("plain"), &running.owner).await;
    assert_eq!(got.header("x-scanned"), Some("yes"));
    running.stop().await;
}
