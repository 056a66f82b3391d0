//! Plugins pushed to one node run on all of them, and one that does not work on none.

use std::time::Duration;

use boxgate_storage::conformance::database;
use boxgate_storage::metadata::accounts::PlatformRole;
use boxgate_storage::metadata::tokens::TokenKind;
use serde_json::{Value, json};

use crate::harness::{Reply, Request, Running};
use crate::s3::reference::Reference;

const QUIET: (&str, &str) = ("BOXGATE_SCRIPTS__CHECK_EVERY", "0s");

/// A plugin that answers `/acme` with a word, and its test.
fn acme(word: &str) -> Value {
    let main =
        format!("fn route(req) {{ if req.path == \"/acme\" {{ respond(200, \"{word}\") }} }}");
    let test = format!(
        "fn test_it() {{ t::eq(t::hook(\"route\", t::req(#{{ path: \"/acme\" }})).body, \"{word}\"); }}"
    );
    json!({
        "name": "acme", "manifest": "version = \"1.0.0\"", "main": "main.rhai",
        "files": { "main.rhai": main, "tests/main.rhai": test },
    })
}

async fn administrator(running: &Running) -> String {
    let metadata = &running.gateway.metadata;
    let root = match metadata.account_by_username("root").await.unwrap() {
        Some(account) => account.id,
        None => running.account("root", PlatformRole::Admin).await,
    };
    running.token(root, TokenKind::Personal, None).await
}

async fn push(running: &Running, token: &str, bundle: &Value) -> Reply {
    let put = Request::new("PUT", "/api/admin/plugins/acme").token(token);
    running.send(put.json(bundle)).await
}

async fn answer(running: &Running) -> String {
    let got = running.get("/acme", "").await;
    match got.status {
        200 => String::from_utf8(got.body).unwrap(),
        404 => "nothing".into(),
        status => panic!("{status}"),
    }
}

/// Asks until a node answers so: it follows by itself.
async fn until(running: &Running, word: &str) {
    let asking = async {
        while answer(running).await != word {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), asking)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_pushed_plugin_is_live_at_once_and_after_a_restart_and_goes_back() {
    let mut running = Running::start_with(&[QUIET]).await;
    let root = administrator(&running).await;
    let pushed = push(&running, &root, &acme("one")).await;
    assert_eq!(
        pushed.status,
        200,
        "{}",
        String::from_utf8_lossy(&pushed.body)
    );
    let first = pushed.json()["hash"].clone();
    assert_eq!(answer(&running).await, "one");
    assert_eq!(push(&running, &root, &acme("two")).await.status, 200);
    assert_eq!(answer(&running).await, "two");
    let listed = running.get("/api/admin/plugins", &root).await.json();
    assert_eq!(listed[0]["plugin"], "acme");
    assert_eq!(listed[0]["pushedBy"], "root");
    assert_eq!(listed[0]["versions"].as_array().unwrap().len(), 2);
    assert_eq!(listed[0]["versions"][1], first);

    let directory = running.stop().await;
    running = Running::start_in(directory, &[QUIET]).await;
    assert_eq!(answer(&running).await, "two");
    let back = Request::new("POST", "/api/admin/scripts/acme/rollback").token(&root);
    let back = running.send(back).await;
    assert_eq!((back.status, &back.json()["hash"]), (200, &first));
    assert_eq!(answer(&running).await, "one");
    // Nothing stands before that, and it never goes forward again.
    let further = Request::new("POST", "/api/admin/scripts/acme/rollback").token(&root);
    assert_eq!(running.send(further).await.status, 404);
    assert_eq!(answer(&running).await, "one");

    let gone = || Request::new("DELETE", "/api/admin/plugins/acme").token(&root);
    assert_eq!(running.send(gone()).await.status, 204);
    assert_eq!(answer(&running).await, "nothing");
    assert_eq!(running.send(gone()).await.status, 404);
    running.stop().await;
}

#[tokio::test]
async fn what_does_not_work_is_refused_with_what_is_wrong_and_changes_nothing() {
    let running = Running::start_with(&[QUIET]).await;
    let root = administrator(&running).await;
    assert_eq!(push(&running, &root, &acme("good")).await.status, 200);
    let mut broken = acme("x");
    broken["files"]["main.rhai"] = json!("fn route(req) { reqq }");
    let mut failing = acme("other");
    failing["files"]["tests/main.rhai"] = json!("fn test_it() { t::ok(false, \"never\"); }");
    let mut greedy = acme("x");
    greedy["manifest"] = json!("[secrets]\nnames = [\"KEY\"]");
    let mut odd = acme("x");
    odd["files"]["../../etc/x.rhai"] = json!("");
    for (bundle, told) in [
        (&broken, "main.rhai:1:17: there is no variable reqq"),
        (&failing, "test_it: never"),
        (&greedy, "[scripts.grants.acme]\nsecrets = [\"KEY\"]"),
        (&odd, "is no file of a plugin"),
    ] {
        let refused = push(&running, &root, bundle).await;
        let text = String::from_utf8_lossy(&refused.body).into_owned();
        assert_eq!(refused.status, 422, "{text}");
        let text = refused.json()["detail"].as_str().unwrap().to_owned();
        assert!(text.contains(told), "{told}: {text}");
        assert_eq!(answer(&running).await, "good");
    }
    let mut other = acme("x");
    other["name"] = json!("other");
    assert_eq!(push(&running, &root, &other).await.status, 400);
    assert_eq!(push(&running, &running.owner, &acme("x")).await.status, 403);
    assert_eq!(push(&running, "", &acme("x")).await.status, 403);
    assert_eq!(answer(&running).await, "good");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_follow_one() {
    let directory = tempfile::tempdir().unwrap();
    // One process alone holds an embedded database.
    let Some(url) = database::url(directory.path()).await else {
        return;
    };
    let bucket = Reference::start(5 << 20).await;
    let options = bucket.options();
    let shared = [
        QUIET,
        ("BOXGATE_METADATA__URL", url.as_str()),
        ("BOXGATE_STORES__MAIN__KIND", "s3"),
        ("BOXGATE_STORES__MAIN__ENDPOINT", &options.endpoint),
        ("BOXGATE_STORES__MAIN__REGION", &options.region),
        ("BOXGATE_STORES__MAIN__BUCKET", &options.bucket),
        (
            "BOXGATE_STORES__MAIN__ACCESS_KEY_ID",
            &options.access_key_id,
        ),
        (
            "BOXGATE_STORES__MAIN__SECRET_ACCESS_KEY",
            &options.secret_access_key,
        ),
    ];
    let one = Running::start_in(directory, &shared).await;
    let two = Running::start_in(tempfile::tempdir().unwrap(), &shared).await;
    let root = administrator(&one).await;
    for word in ["first", "second"] {
        assert_eq!(push(&one, &root, &acme(word)).await.status, 200);
        let begun = tokio::time::Instant::now();
        until(&two, word).await;
        eprintln!("{word} is at the other node after {:?}", begun.elapsed());
    }
    let mut broken = acme("x");
    broken["files"]["main.rhai"] = json!("fn route(req) {");
    assert_eq!(push(&two, &root, &broken).await.status, 422);
    let back = Request::new("POST", "/api/admin/scripts/acme/rollback").token(&root);
    assert_eq!(two.send(back).await.status, 200);
    until(&one, "first").await;
    assert_eq!(answer(&two).await, "first");
    let gone = Request::new("DELETE", "/api/admin/plugins/acme").token(&root);
    assert_eq!(one.send(gone).await.status, 204);
    until(&two, "nothing").await;
    one.stop().await;
    two.stop().await;
}
