//! `cache::purge`: one plugin has caches forget something, the others are told in order.

use serde_json::{Value, json};

use crate::harness::Running;

/// Purges what a published box names; keeps what others are told.
const EDITOR: &str = r#"
    fn on_event(event) {
        if event.name != "box.uploaded" { return; }
        cache::purge(#{ path: `/${event.data.organization}/${event.data.box}` });
        cache::purge(#{ prefix: "/pages/" });
        cache::purge(#{ tag: "front-page" });
        try { cache::purge(#{ url: "x" }); } catch (e) { log::info(`${e}`); }
    }
"#;

const EDGE: &str = r#"
    fn on_event(event) {
        if event.name != "cache.purge" { return; }
        let told = kv::get("told") ?? [];
        let data = event.data;
        told.push([data.paths, data.prefixes, data.tags, event.depth, event.causes("editor"), data.actor.name]);
        kv::set("told", told, 3600);
    }
    fn route(req) { if req.path == "/told" { respond(200, #{ told: kv::get("told") ?? [] }) } }
"#;

#[tokio::test]
async fn a_purge_is_told_to_every_plugin_with_what_led_to_it() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("data/plugins");
    std::fs::create_dir_all(&place).unwrap();
    std::fs::write(place.join("editor.rhai"), EDITOR).unwrap();
    std::fs::write(place.join("edge.rhai"), EDGE).unwrap();
    let running = Running::start_in(directory, &[("BOXGATE_SCRIPTS__CHECK_EVERY", "0s")]).await;
    for status in running.gateway.scripts.status() {
        assert_eq!(status.error, None, "{}", status.plugin);
    }
    assert_eq!(running.upload("demo", "1.0.0", b"box").await.status, 200);
    let told = async {
        loop {
            let told = running.get("/told", "").await.json()["told"].clone();
            if told.as_array().is_some_and(|told| told.len() >= 3) {
                return told;
            }
            tokio::task::yield_now().await;
        }
    };
    let told: Value = tokio::time::timeout(std::time::Duration::from_mins(1), told)
        .await
        .unwrap();
    let wanted = json!([
        [["/acme/demo"], [], [], 1, true, "editor"],
        [[], ["/pages/"], [], 1, true, "editor"],
        [[], [], ["front-page"], 1, true, "editor"],
    ]);
    assert_eq!(told, wanted);
    running.stop().await;
}
