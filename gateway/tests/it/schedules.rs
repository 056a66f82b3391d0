//! Plugins that are called by the clock, and what they do to boxes.

use std::time::Duration;

use boxgate_storage::clock::UnixMillis;
use boxgate_storage::metadata::upkeep::UpkeepRow;
use serde_json::{Value, json};

use crate::harness::{Request, Running, file_path};
use crate::scripts::write_plugin;

const KEEPER: &str = r#"
    fn on_schedule(tick) {
        let ticks = kv::get("ticks") ?? [];
        ticks.push(tick.time);
        kv::set("ticks", ticks, 3600);
        let boxes = [];
        for one in box::list("acme") { boxes.push(`${one.box} ${one.is_public}`); }
        kv::set("boxes", boxes, 3600);
        let versions = [];
        for version in box::versions("acme", "demo") { versions.push(`${version.version} ${version.status} ${version.size}`); }
        kv::set("versions", versions, 3600);
        let found = box::lookup("acme", "demo", "v1.0.0");
        let file = found.files[0];
        let labelled = box::label(file, #{ seen: "yes" });
        kv::set("found", [found.status, found.files.len(), file.size, file.architecture, labelled,
            box::lookup("acme", "demo", "1.0.0").files[0].labels.seen, box::lookup("acme", "demo").versions.len(),
            box::lookup("acme", "absent"), box::lookup("acme", "demo", "7"), box::lookup("nobody", "x")], 3600);
        let done = [
            box::revoke("acme", "demo", "v1.0.0"), box::revoke("acme", "demo", "1.0.0"),
            box::delete("acme", "demo", "2.0.0"), box::delete("acme", "demo", "2.0.0"),
            box::set_public("acme", "demo", true), box::set_public("acme", "demo", true)
        ];
        kv::set("done", done, 3600);
        try { box::delete("acme", "other", "1.0.0"); } catch (e) { kv::set("refused", `${e}`, 3600); }
        kv::incr("ran", 1, 3600);
    }
    fn on_event(event) {
        if event.name == "box.updated" && event.causes("keeper") { kv::set("actor", event.data.actor.name, 3600); }
        if event.name == "box.deleted" { kv::set("deleted", event.data.version, 3600); }
    }
    fn route(req) {
        if req.path == "/told" {
            respond(200, #{ ticks: kv::get("ticks") ?? [], ran: kv::get("ran") ?? 0, boxes: kv::get("boxes"),
                versions: kv::get("versions"), found: kv::get("found"), done: kv::get("done"), refused: kv::get("refused"),
                actor: kv::get("actor"), deleted: kv::get("deleted") })
        }
    }
"#;

const MANIFEST: &str = r#"
    [schedule]
    cron = "0 3 1 1 *"
    [catalog]
    allow = ["lookup:acme/*", "lookup:nobody/*", "label:acme/demo", "list:acme/d*", "versions:acme/*", "revoke:acme/demo", "delete:acme/demo", "set_public:acme/demo"]
"#;

async fn until(running: &Running, what: fn(&Value) -> bool) -> Value {
    let told = async {
        loop {
            let told = running.get("/told", "").await.json();
            if what(&told) {
                return told;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), told)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_tick_that_was_missed_is_made_up_for_once_and_does_what_it_is_granted() {
    let directory = tempfile::tempdir().unwrap();
    write_plugin(directory.path(), "keeper", MANIFEST, KEEPER);
    let variables = [
        ("BOXGATE_SCRIPTS__CHECK_EVERY", "0s"),
        ("BOXGATE_SCRIPTS__TRUST_LOCAL", "true"),
    ];
    let running = Running::start_in(directory, &variables).await;
    for status in running.gateway.scripts.status() {
        assert_eq!(status.error, None, "{}", status.plugin);
    }
    for (name, version) in [("demo", "1.0.0"), ("demo", "2.0.0"), ("other", "1.0.0")] {
        assert_eq!(running.upload(name, version, b"box").await.status, 200);
    }
    // New to this database, nothing is due for it: history is no tick of its own.
    let metadata = running.gateway.metadata.clone();
    let row = "schedule keeper";
    let noted = async {
        while metadata.upkeep(row).await.unwrap().is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), noted)
        .await
        .unwrap();
    assert_eq!(running.get("/told", "").await.json()["ran"], 0);

    // As if the database had been without a node for years.
    let directory = running.stop().await;
    let running = Running::start_in(directory, &variables).await;
    drop(metadata);
    let long_ago = UpkeepRow {
        ended: UnixMillis(1_500_000_000_000),
        state: None,
    };
    running
        .gateway
        .metadata
        .keep_upkeep(row, long_ago)
        .await
        .unwrap();
    let directory = running.stop().await;
    let running = Running::start_in(directory, &variables).await;
    let told = until(&running, |told| {
        told["ran"] == 1 && !told["deleted"].is_null()
    })
    .await;
    let ticks = told["ticks"].as_array().unwrap();
    let last = ticks[0].as_i64().unwrap();
    let year = 366 * 86_400_000;
    let now = running.gateway.clock.now().0;
    assert!(
        (1, true) == (ticks.len(), last <= now && now - last <= year),
        "{told}"
    );
    assert_eq!(told["boxes"], json!(["demo false"]));
    assert_eq!(
        told["versions"],
        json!(["2.0.0 active 3", "1.0.0 active 3"])
    );
    let found = json!(["active", 1, 3, "amd64", true, "yes", 2, null, null, null]);
    assert_eq!(told["found"], found);
    assert_eq!(told["done"], json!([true, false, true, false, true, false]));
    let refused = told["refused"].as_str().unwrap();
    assert!(
        refused.contains(r#"allow = ["delete:acme/other"]"#),
        "{refused}"
    );
    assert_eq!(
        (&told["actor"], &told["deleted"]),
        (&json!("keeper"), &json!("2.0.0"))
    );
    let info = |version: &str| format!("{}/info", file_path("demo", version));
    assert_eq!(
        running.get(&info("2.0.0"), &running.owner).await.status,
        404
    );
    for (path, status, why) in [
        ("/api/organization/acme/box/demo", 200, "it is public now"),
        (&info("1.0.0"), 404, "but for what it revoked"),
    ] {
        assert_eq!(running.get(path, "").await.status, status, "{why}");
    }
    let other = Request::new("GET", &format!("{}/info", file_path("other", "1.0.0")));
    assert_eq!(running.send(other.token(&running.owner)).await.status, 200);

    // It is done, for every node that comes after.
    let done = running.gateway.metadata.upkeep(row).await.unwrap().unwrap();
    assert!(done.ended.0 >= last);
    let directory = running.stop().await;
    let running = Running::start_in(directory, &variables).await;
    let told = running.get("/told", "").await.json();
    assert_eq!(told["ran"], 1, "as it is remembered, and no more");
    running.stop().await;
}
