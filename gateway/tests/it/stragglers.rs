//! Plugins that must miss no event and fail: they are told later, and nobody waits for them.

use std::sync::Arc;
use std::time::Duration;

use boxgate_storage::clock::{ManualClock, UnixMillis};
use boxgate_storage::metadata::accounts::PlatformRole;
use boxgate_storage::metadata::tokens::TokenKind;
use serde_json::{Value, json};

use crate::endpoints::Receiver;
use crate::harness::{Request, Running};
use crate::scripts::write_plugin;

const MUST_HEAR: &str = "[hooks.on_event]\non_failure = \"closed\"\n";
/// Fails while it is not told that the way is open, or that all of that name are wrong.
const CDN: &str = r#"
    fn on_event(e) {
        if e.data.tags == () { return; }
        if kv::get("open") != true || kv::get("wrong") == e.data.box { throw "the CDN is away"; }
        let heard = kv::get("heard") ?? [];
        heard.push(e.data.box);
        kv::set("heard", heard, 3600);
        let to = kv::get("to");
        if to != () { [deliver(to, #{ purged: e.data.box })] }
    }
    fn route(req) {
        switch req.path {
            "/open" => { kv::set("open", true, 3600); respond(204) }
            "/wrong" => { kv::set("wrong", req.query("box"), 3600); respond(204) }
            "/to" => { kv::set("to", req.query("id"), 3600); respond(204) }
            "/cdn" => respond(200, #{ heard: kv::get("heard") ?? [] }),
            _ => ()
        }
    }
"#;
const OTHER: &str = r#"
    fn on_event(e) {
        if e.data.tags == () { return; }
        let heard = kv::get("heard") ?? [];
        heard.push(e.data.box);
        kv::set("heard", heard, 3600);
    }
    fn route(req) { if req.path == "/other" { respond(200, #{ heard: kv::get("heard") ?? [] }) } }
"#;

struct Scene {
    running: Running,
    admin: String,
    clock: Arc<ManualClock>,
}

impl Scene {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        write_plugin(directory.path(), "cdn", MUST_HEAR, CDN);
        write_plugin(directory.path(), "other", MUST_HEAR, OTHER);
        let clock = Arc::new(ManualClock::new(UnixMillis(1_700_000_000_000)));
        Self::at(directory, clock).await
    }

    async fn at(directory: tempfile::TempDir, clock: Arc<ManualClock>) -> Self {
        let variables = [
            ("BOXGATE_WEBHOOKS__ALLOW_NETWORKS", "127.0.0.0/8"),
            ("BOXGATE_SCRIPTS__CHECK_EVERY", "0s"),
        ];
        let own = Arc::clone(&clock) as Arc<_>;
        let running = Running::start_at(directory, &variables, own).await;
        let metadata = &running.gateway.metadata;
        let admin = match metadata.account_by_username("root").await.unwrap() {
            Some(account) => account.id,
            None => running.account("root", PlatformRole::Admin).await,
        };
        let admin = running.token(admin, TokenKind::Personal, None).await;
        Self {
            running,
            admin,
            clock,
        }
    }

    async fn get(&self, path: &str) -> Value {
        self.running.get(path, &self.admin).await.json()
    }

    async fn set(&self, path: &str) {
        assert_eq!(self.running.get(path, "").await.status, 204);
    }

    /// How a plugin is behind, as administrators are told.
    async fn behind(&self, plugin: &str) -> Value {
        let all = self.get("/api/admin/scripts").await;
        let all = all.as_array().unwrap().iter();
        let found = all.clone().find(|one| one["plugin"] == plugin);
        found.unwrap()["behind"].clone()
    }

    /// Waits until what is told at a path fits.
    async fn until(&self, path: &str, fits: impl Fn(&Value) -> bool + Send + Sync) -> Value {
        let waiting = async {
            loop {
                let told = self.get(path).await;
                if fits(&told) {
                    return told;
                }
                tokio::task::yield_now().await;
            }
        };
        let told = tokio::time::timeout(Duration::from_mins(1), waiting).await;
        told.unwrap_or_else(|_late| panic!("{path} never fits"))
    }

    /// Waits until it is written down that one failed so often at an event.
    async fn until_tried(&self, plugin: &str, tries: u32) {
        let tried = |told: &Value| {
            let mut all = told.as_array().unwrap().iter();
            all.any(|one| one["plugin"] == plugin && one["behind"]["tries"] == tries)
        };
        self.until("/api/admin/scripts", tried).await;
    }

    async fn metric(&self, line: &str) -> bool {
        let text = self.running.get("/metrics", &self.admin).await.body;
        String::from_utf8(text).unwrap().lines().any(|l| l == line)
    }

    async fn upload(&self, name: &str) {
        let reply = self.running.upload(name, "1.0.0", name.as_bytes()).await;
        assert_eq!(reply.status, 200);
    }
}

#[tokio::test]
async fn a_plugin_that_is_away_for_hours_misses_nothing_and_holds_nobody_up() {
    let receiver = Receiver::ok().await;
    let scene = Scene::start().await;
    let wish = json!({"url": receiver.url, "events": ["box.uploaded"], "secret": "webhook-secret-of-some-length"});
    let make = Request::new("POST", "/api/admin/webhooks").token(&scene.admin);
    let made = scene.running.send(make.json(&wish)).await.json();
    scene
        .set(&format!("/to?id={}", made["id"].as_str().unwrap()))
        .await;

    scene.upload("one").await;
    scene.upload("two").await;
    // Endpoints and other plugins are told at once.
    receiver.has(2).await;
    let all = json!(["one", "two"]);
    scene.until("/other", |told| told["heard"] == all).await;
    scene.until_tried("cdn", 1).await;
    let behind = scene.behind("cdn").await;
    assert_eq!(
        (&behind["events"], &behind["tries"]),
        (&json!(2), &json!(1))
    );
    let error = behind["error"].as_str().unwrap();
    assert!(error.contains("the CDN is away"), "{error}");
    assert_eq!(scene.behind("other").await, Value::Null);
    assert!(
        scene
            .metric("boxgate_script_events_behind{plugin=\"cdn\"} 2")
            .await
    );

    // Along the schedule it is tried again, and a stop changes nothing.
    for (pause, tries) in [(6, 2), (72, 3), (360, 4)] {
        scene.clock.advance(Duration::from_secs(pause));
        scene.until_tried("cdn", tries).await;
    }
    let Scene { running, clock, .. } = scene;
    let scene = Scene::at(running.stop().await, clock).await;
    scene.upload("three").await;
    receiver.has(3).await;
    scene.clock.advance(Duration::from_hours(5));
    scene.until_tried("cdn", 5).await;
    assert_eq!(scene.behind("cdn").await["events"], 3);

    scene.set("/open").await;
    scene.clock.advance(Duration::from_mins(20));
    let all = json!(["one", "two", "three"]);
    scene.until("/cdn", |told| told["heard"] == all).await;
    scene
        .until("/api/admin/scripts", |told| {
            told.as_array()
                .unwrap()
                .iter()
                .all(|p| p["behind"].is_null())
        })
        .await;
    // What it sends to one endpoint comes late, and comes.
    let got = receiver.has(6).await;
    let late: Vec<Value> = got
        .iter()
        .map(|got| got.json()["data"]["purged"].clone())
        .collect();
    let late: Vec<&Value> = late.iter().filter(|one| !one.is_null()).collect();
    assert_eq!(late.len(), 3, "{late:?}");
    // From now on it is told with all others, once.
    scene.upload("four").await;
    let all = json!(["one", "two", "three", "four"]);
    scene.until("/cdn", |told| told["heard"] == all).await;
    scene.until("/other", |told| told["heard"] == all).await;
    scene.running.stop().await;
}

#[tokio::test]
async fn an_event_that_a_plugin_never_takes_is_passed_over_after_its_schedule() {
    let scene = Scene::start().await;
    scene.set("/open").await;
    scene.set("/wrong?box=bad").await;
    scene.upload("bad").await;
    scene.upload("good").await;
    scene.until_tried("cdn", 1).await;
    // Eleven tries and 52 hours: neither alone is enough.
    for tries in 2..14 {
        scene.clock.advance(Duration::from_mins(20));
        scene.until_tried("cdn", tries).await;
    }
    assert_eq!(scene.behind("cdn").await["events"], 2);
    scene.clock.advance(Duration::from_hours(53));
    scene
        .until("/cdn", |told| told["heard"] == json!(["good"]))
        .await;
    let counted = "boxgate_script_events_passed_over_total{plugin=\"cdn\"} 1";
    assert!(scene.metric(counted).await);
    scene.running.stop().await;
}
