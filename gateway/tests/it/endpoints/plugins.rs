//! What plugins say of a delivery.

use std::sync::Arc;
use std::time::Duration;

use boxgate_storage::metadata::accounts::PlatformRole;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{OPEN, Platform, Receiver, SECRET, status};
use crate::harness::Running;

#[tokio::test]
async fn a_plugin_says_what_an_endpoint_is_sent_and_what_it_fails_at_waits() {
    const MANIFEST: &str = "";
    let main = |text: &str| {
        format!(
            "fn transform(e, ep) {{
                 if e.data.box == \"quiet\" {{ return drop(); }}
                 {text}
             }}"
        )
    };
    let good = main(
        "#{ data: #{ text: `${e.data.box} ${e.data.version} for ${ep.description}`, by_number: #{ \"7\": 1.5 } }, \
             headers: #{ \"x-team\": \"boxes\" } }",
    );
    let directory = tempfile::tempdir().unwrap();
    crate::scripts::write_plugin(directory.path(), "chat", MANIFEST, &good);
    std::fs::write(
        directory.path().join("boxgate.toml"),
        "[scripts]\ncheck_every = \"0s\"\ntest = false\n",
    )
    .unwrap();
    let platform = Platform::of(Running::start_in(directory, &[OPEN]).await).await;
    let receiver = Receiver::ok().await;
    let missing = json!({"url": receiver.url, "events": ["*"], "transform": "chat2"});
    let missing = platform.call("POST", "", missing).await;
    assert_eq!(missing.status, 422);
    let id = platform
        .endpoint(
            &receiver.url,
            json!({"events": ["box.uploaded"], "transform": "chat", "description": "CI"}),
        )
        .await;
    platform.upload("quiet", "1.0").await;
    platform.upload("web", "1.0").await;
    let got = receiver.has(1).await.remove(0);
    assert!(got.is_signed(SECRET));
    let data = got.json()["data"].clone();
    assert_eq!(data["text"], "web 1.0 for CI");
    assert_eq!(data["by_number"], json!([{"key": "7", "value": "1.5"}]));
    assert!(data["occurred_at"].is_string());
    assert_eq!(got.header("x-team"), "boxes");
    // It breaks: nothing goes out unchanged.
    let plugin = platform.running.data_dir().parent().unwrap().to_owned();
    let reload = async |text: &str| {
        crate::scripts::write_plugin(&plugin, "chat", MANIFEST, text);
        let scripts = &platform.running.gateway.scripts;
        let metadata = &platform.running.gateway.metadata;
        let reports = boxgate::hooks::reload(scripts, metadata, false)
            .await
            .unwrap();
        assert_eq!(reports[0].result, "loaded", "{reports:?}");
    };
    reload(&main("throw \"no\";")).await;
    platform.upload("stays", "1.0").await;
    platform.upload("web", "1.1").await;
    let blocked = async || {
        let listed = platform
            .get(&format!("/{id}/deliveries?status=blocked"))
            .await;
        listed["data"].as_array().unwrap().clone()
    };
    while blocked().await.len() < 2 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let one = blocked().await.remove(0);
    assert!(one["reason"].as_str().unwrap().contains("chat"), "{one}");
    let delivery = one["delivery_id"].as_str().unwrap().to_owned();
    let refused = platform
        .call(
            "POST",
            &format!("/deliveries/{delivery}/redeliver"),
            json!({}),
        )
        .await;
    assert_eq!(refused.status, 409);
    assert_eq!(receiver.got().len(), 1);
    // One that goes on failing holds up its own box, and no other.
    let heals = good.replace(
        "#{ data:",
        "if e.data.box == \"stays\" { throw \"no\"; } #{ data:",
    );
    assert_ne!(heals, good);
    reload(&heals).await;
    let got = receiver.has(2).await.remove(1);
    assert_eq!(got.json()["data"]["text"], "web 1.1 for CI");
    assert_eq!(blocked().await.len(), 1);
    reload(&good).await;
    let got = receiver.has(3).await.remove(2);
    assert_eq!(got.json()["data"]["text"], "stays 1.0 for CI");
    platform.until(&id, |told| told["queued"] == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_is_asked_once_more_holds_up_neither_others_nor_a_stop() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().to_owned();
    let write = |text: &str| {
        let source = format!("fn transform(e, ep) {{ {text} }}");
        crate::scripts::write_plugin(&place, "chat", "", &source);
    };
    write("throw \"no\";");
    let manifest = format!(
        "[http]\nallow = [\"http://127.0.0.1:{port}/\"]\n[schedule]\ncron = \"0 3 1 1 *\"\n"
    );
    let waits = format!(
        "fn on_schedule(tick) {{
             for n in 0..6 {{ try {{ http::get(\"http://127.0.0.1:{port}/\"); }} catch {{ }} }}
         }}"
    );
    crate::scripts::write_plugin(&place, "waits", &manifest, &waits);
    let variables = [
        OPEN,
        ("BOXGATE_SCRIPTS__CHECK_EVERY", "0s"),
        ("BOXGATE_SCRIPTS__TRUST_LOCAL", "true"),
        ("BOXGATE_SCRIPTS__ALLOW_NETWORKS", "127.0.0.0/8"),
        ("BOXGATE_SCRIPTS__WORKERS", "1"),
    ];
    let platform = Platform::of(Running::start_in(directory, &variables).await).await;
    let (asked, other) = (Receiver::ok().await, Receiver::ok().await);
    let id = platform
        .endpoint(
            &asked.url,
            json!({"events": ["box.uploaded"], "transform": "chat"}),
        )
        .await;
    platform
        .endpoint(&other.url, json!({"events": ["user.created"]}))
        .await;
    platform.upload("web", "1.0").await;
    platform.until(&id, |told| told["blocked"] == 1).await;
    // The only worker waits for a server that says nothing, and the plugin waits for the worker.
    let gateway = Arc::clone(&platform.running.gateway);
    let held = tokio::spawn({
        let scripts = Arc::clone(&gateway.scripts);
        async move { scripts.on_schedule("waits", &Arc::default()).await }
    });
    let _unanswered = silent.accept().await.unwrap();
    write("#{ data: #{ said: e.data.box } }");
    let reports = boxgate::hooks::reload(&gateway.scripts, &gateway.metadata, false).await;
    let reports = reports.unwrap();
    let is_loaded = |name: &str| {
        reports
            .iter()
            .any(|one| one.plugin == name && one.result == "loaded")
    };
    assert!(is_loaded("chat"), "{reports:?}");
    let is_asked = || {
        gateway.scripts.counted().iter().any(|calls| {
            (calls.plugin.as_str(), calls.hook.name()) == ("chat", "transform")
                && calls.in_flight == 1
        })
    };
    let until_asked = async {
        while !is_asked() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let soon = Duration::from_secs(30);
    tokio::time::timeout(soon, until_asked).await.unwrap();
    platform.running.account("bob", PlatformRole::User).await;
    let told = other.has(1).await.remove(0);
    assert_eq!(told.json()["data"]["username"], "bob");
    assert!(!held.is_finished() && is_asked());
    platform.running.stop().await;
    assert!(!held.is_finished());
    assert!(asked.got().is_empty());
    held.abort();
}

#[tokio::test]
async fn what_a_plugin_said_nothing_of_is_never_sent_as_it_is_unless_that_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let plugin = directory.path().to_owned();
    let write = |text: &str| {
        let source = format!("fn transform(e, ep) {{ {text} }}");
        crate::scripts::write_plugin(&plugin, "chat", "", &source);
    };
    write("throw \"not now\";");
    std::fs::write(
        directory.path().join("boxgate.toml"),
        "[scripts]\ncheck_every = \"0s\"\ntest = false\n",
    )
    .unwrap();
    let platform = Platform::of(Running::start_in(directory, &[OPEN]).await).await;
    // The first answer disables the endpoint.
    let receiver = Receiver::with(|n, _| status(if n == 1 { 410 } else { 200 })).await;
    let id = platform
        .endpoint(
            &receiver.url,
            json!({"events": ["box.uploaded"], "transform": "chat"}),
        )
        .await;
    let listed = async |state: &str, count: usize| {
        loop {
            let place = format!("/{id}/deliveries?status={state}");
            let found = platform.get(&place).await["data"]
                .as_array()
                .unwrap()
                .clone();
            if found.len() == count {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let redeliver = async |delivery: &Value, how: Value| {
        let delivery = delivery["delivery_id"].as_str().unwrap();
        let place = format!("/deliveries/{delivery}/redeliver");
        platform.call("POST", &place, how).await
    };
    platform.upload("first", "1.0").await;
    let first = listed("blocked", 1).await.remove(0);
    let stands = platform.get(&format!("/{id}")).await;
    assert_eq!(
        (&stands["state"], &stands["blocked"]),
        (&json!("blocked"), &json!(1))
    );
    let metrics = platform.running.get("/metrics", "").await;
    let line = format!(r#"boxgate_webhook_endpoint_state{{endpoint="{id}",state="blocked"}} 1"#);
    assert!(String::from_utf8_lossy(&metrics.body).contains(&line));
    let refused = redeliver(&first, json!({})).await;
    let why = String::from_utf8_lossy(&refused.body).into_owned();
    assert!(refused.status == 409 && why.contains("not now"), "{why}");
    assert_eq!(redeliver(&first, json!({"raw": true})).await.status, 202);
    let got = receiver.has(1).await.remove(0);
    assert_eq!(got.json()["data"]["box"], "first");
    platform
        .until(&id, |told| told["state"] == "disabled")
        .await;
    platform.upload("second", "1.0").await;
    platform.upload("third", "1.0").await;
    let skipped = listed("skipped", 2).await;
    write("#{ data: #{ said: e.data.box } }");
    let (scripts, metadata) = (
        &platform.running.gateway.scripts,
        &platform.running.gateway.metadata,
    );
    let reports = boxgate::hooks::reload(scripts, metadata, false).await;
    assert_eq!(reports.unwrap()[0].result, "loaded");
    let enabled = platform
        .call("POST", &format!("/{id}/enable"), json!({}))
        .await;
    assert_eq!(enabled.status, 200);
    assert_eq!(redeliver(&skipped[0], json!({})).await.status, 202);
    assert_eq!(receiver.has(2).await[1].json()["data"]["said"], "third");
    let recover = platform
        .call(
            "POST",
            &format!("/{id}/recover"),
            json!({"since": "2000-01-01T00:00:00Z", "status": "skipped"}),
        )
        .await;
    assert_eq!(recover.json()["queued"], 1);
    assert_eq!(receiver.has(3).await[2].json()["data"]["said"], "second");
    let deleted = platform.call("DELETE", &format!("/{id}"), json!({})).await;
    assert_eq!(deleted.status, 204);
    let refused = redeliver(&skipped[0], json!({})).await;
    let why = String::from_utf8_lossy(&refused.body).into_owned();
    assert!(
        refused.status == 410 && why.contains("was deleted"),
        "{why}"
    );
}

#[tokio::test]
async fn plugins_and_endpoints_are_told_a_sha256_that_was_put_off() {
    let main = r#"
        fn on_event(e) {
            if e.name == "box.updated" {
                let data = e.data;
                let heard = #{ changed: data.changed, checksum: data.checksum, checksumType: data.checksumType };
                kv::set("heard", heard, 3600);
            }
        }
        fn route(req) { if req.path == "/heard" { respond(200, kv::get("heard")) } }
    "#;
    let directory = tempfile::tempdir().unwrap();
    crate::scripts::write_plugin(directory.path(), "hears", "", main);
    let deferred = ("BOXGATE_DIGESTS__SHA256", "deferred");
    let platform = Platform::of(Running::start_in(directory, &[OPEN, deferred]).await).await;
    let receiver = Receiver::ok().await;
    platform
        .endpoint(&receiver.url, json!({"events": ["box.updated"]}))
        .await;
    platform.upload("web", "1.0").await;
    let data = receiver.has(1).await.remove(0).json()["data"].clone();
    let sha256 = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(b"box"));
    let expected = json!({"changed": ["sha256"], "checksum": sha256, "checksumType": "SHA256"});
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&data[name], value, "{name}");
    }
    // Plugins are told before anything is kept for endpoints.
    let heard = platform.running.get("/heard", "").await;
    assert_eq!((heard.status, heard.json()), (200, expected));
    platform.running.stop().await;
}
