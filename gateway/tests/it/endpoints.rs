//! Webhooks that go out: who may be told of what, how it is signed and sent, and what becomes of it when it is not taken.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use boxgate_storage::clock::{ManualClock, UnixMillis};
use boxgate_storage::metadata::accounts::PlatformRole;
use boxgate_storage::metadata::tokens::TokenKind;
use ring::hmac;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::harness::{Reply, Request, Running};

const SECRET: &str = "webhook-secret-of-some-length";
const OPEN: (&str, &str) = ("BOXGATE_WEBHOOKS__ALLOW_NETWORKS", "127.0.0.0/8");

/// One request that a receiver got.
#[derive(Debug, Clone)]
pub(crate) struct Got {
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

impl Got {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// Whether its signatures are those of this secret.
    fn is_signed(&self, secret: &str) -> bool {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let legacy = format!(
            "sha256={}",
            hex::encode(hmac::sign(&key, self.body.as_bytes()))
        );
        let (id, time) = (self.header("webhook-id"), self.header("webhook-timestamp"));
        let tag = hmac::sign(&key, format!("{id}.{time}.{}", self.body).as_bytes());
        use base64::Engine as _;
        let tag = base64::engine::general_purpose::STANDARD.encode(tag);
        self.header("x-boxvault-signature") == legacy
            && self
                .header("webhook-signature")
                .split(' ')
                .any(|one| one == format!("v1,{tag}"))
    }
}

type Answers = Arc<dyn Fn(usize, &Got) -> String + Send + Sync>;

/// A server that notes what it gets and answers as it is told.
pub(crate) struct Receiver {
    pub(crate) url: String,
    got: Arc<Mutex<Vec<Got>>>,
    news: Arc<Notify>,
}

impl Receiver {
    /// One that answers with what `answers` says of the number of the request, and of the request.
    pub(crate) async fn with(
        answers: impl Fn(usize, &Got) -> String + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/in?x=1", listener.local_addr().unwrap());
        let (got, news) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Notify::new()));
        let answers: Answers = Arc::new(answers);
        let (noted, told) = (Arc::clone(&got), Arc::clone(&news));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = (Arc::clone(&noted), Arc::clone(&told), Arc::clone(&answers));
                tokio::spawn(serve(stream, shared));
            }
        });
        Self { url, got, news }
    }

    pub(crate) async fn ok() -> Self {
        Self::with(|_, _| status(200)).await
    }

    pub(crate) fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    /// Waits until it got so many.
    pub(crate) async fn has(&self, count: usize) -> Vec<Got> {
        loop {
            let news = self.news.notified();
            let got = self.got();
            if got.len() >= count {
                return got;
            }
            tokio::time::timeout(Duration::from_mins(1), news)
                .await
                .unwrap_or_else(|_late| panic!("{} came, {count} were to: {got:?}", got.len()));
        }
    }
}

pub(crate) fn status(status: u16) -> String {
    format!("HTTP/1.1 {status} x\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno")
}

async fn serve(mut stream: TcpStream, shared: (Arc<Mutex<Vec<Got>>>, Arc<Notify>, Answers)) {
    let (noted, told, answers) = shared;
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
    };
    let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
    let mut lines = text.lines();
    let path = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length: usize = headers["content-length"].parse().unwrap();
    while bytes.len() < head + 4 + length {
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let body = String::from_utf8(bytes[head + 4..].to_vec()).unwrap();
    let got = Got {
        path,
        headers,
        body,
    };
    let number = {
        let mut noted = noted.lock().unwrap();
        noted.push(got.clone());
        noted.len()
    };
    let answer = answers(number, &got);
    // Whoever waits for this one may have gone.
    drop(stream.write_all(answer.as_bytes()).await);
    told.notify_waiters();
    told.notify_one();
}

/// A gateway with an administrator of the platform.
struct Platform {
    running: Running,
    admin: String,
}

impl Platform {
    async fn start(variables: &[(&str, &str)]) -> Self {
        Self::of(Running::start_with(&[&[OPEN], variables].concat()).await).await
    }

    /// With a clock that moves when it is told to.
    async fn at(clock: &Arc<ManualClock>, variables: &[(&str, &str)]) -> Self {
        let variables = [&[OPEN], variables].concat();
        let clock = Arc::clone(clock) as Arc<_>;
        Self::of(Running::start_at(tempfile::tempdir().unwrap(), &variables, clock).await).await
    }

    async fn of(running: Running) -> Self {
        let admin = running.account("root", PlatformRole::Admin).await;
        let admin = running.token(admin, TokenKind::Personal, None).await;
        Self { running, admin }
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> Reply {
        let path = format!("/api/admin/webhooks{path}");
        let request = Request::new(method, &path).token(&self.admin);
        self.running.send(request.json(&body)).await
    }

    async fn get(&self, path: &str) -> Value {
        let reply = self.call("GET", path, json!({})).await;
        assert_eq!(
            reply.status,
            200,
            "{}",
            String::from_utf8_lossy(&reply.body)
        );
        reply.json()
    }

    /// Makes an endpoint; its id.
    async fn endpoint(&self, url: &str, more: Value) -> String {
        let mut body = json!({"url": url, "events": ["*"], "secret": SECRET});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        let reply = self.call("POST", "", body).await;
        assert_eq!(
            reply.status,
            201,
            "{}",
            String::from_utf8_lossy(&reply.body)
        );
        reply.json()["id"].as_str().unwrap().to_owned()
    }

    async fn upload(&self, name: &str, version: &str) {
        let reply = self.running.upload(name, version, b"box").await;
        assert!(
            reply.status < 300,
            "{}",
            String::from_utf8_lossy(&reply.body)
        );
    }

    /// What is in the log of an endpoint, the newest first.
    async fn log(&self, id: &str) -> Vec<Value> {
        self.get(&format!("/{id}/deliveries?limit=200")).await["data"]
            .as_array()
            .unwrap()
            .clone()
    }

    /// How many attempts are in the log of an endpoint.
    async fn attempts(&self, id: &str) -> usize {
        let log = self.log(id).await;
        let attempts = log
            .iter()
            .map(|one| one["attempts"].as_array().unwrap().len());
        attempts.sum()
    }

    /// Waits until an endpoint's document fits.
    async fn until(&self, id: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let mut told = Value::Null;
        for _ in 0..600 {
            told = self.get(&format!("/{id}")).await;
            if fits(&told) {
                return told;
            }
            self.running.gateway.outlet.tell();
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("it stays as it is: {told}");
    }
}

#[tokio::test]
async fn what_the_guide_makes_is_told_of_a_box_as_the_guide_expects() {
    let platform = Platform::start(&[]).await;
    let receiver = Receiver::ok().await;
    let request = Request::new("POST", "/api/admin/webhooks")
        .header("x-access-token", &platform.admin)
        .json(&json!({
            "url": receiver.url, "events": ["box.uploaded", "box.deleted", "user.created"], "secret": "webhook-secret",
        }));
    let made = platform.running.send(request).await;
    assert_eq!(made.status, 201);
    let made = made.json();
    assert_eq!(
        (&made["warnings"], &made["secret"]),
        (&json!(["weak_secret"]), &json!("webhook-secret"))
    );
    assert_eq!(
        (&made["state"], &made["format"], &made["enabled"]),
        (&json!("ok"), &json!("compat"), &json!(true))
    );
    platform.upload("web", "1.0").await;
    let got = receiver.has(1).await.remove(0);
    assert!(got.is_signed("webhook-secret"), "{got:?}");
    assert_eq!(got.path, "/in?x=1");
    let body = got.json();
    let members: Vec<_> = body.as_object().unwrap().keys().collect();
    assert_eq!(members, ["event", "data"]);
    assert_eq!(
        (&body["event"], &body["data"]["box"]),
        (&json!("box.uploaded"), &json!("web"))
    );
    assert!(got.header("webhook-id").starts_with("msg_"));
    assert!(got.header("user-agent").ends_with("(webhook)"), "{got:?}");
    for (name, value) in [
        ("content-type", "application/json"),
        ("x-boxvault-event", "box.uploaded"),
        ("x-boxgate-attempt", "1"),
        ("x-boxgate-sequence", "1"),
    ] {
        assert_eq!(got.header(name), value);
    }
    let id = made["id"].as_str().unwrap();
    let told = platform
        .until(id, |told| told["last_success_at"].is_string())
        .await;
    assert!(told.get("secret").is_none(), "a secret is shown once");
    let log = platform.log(id).await;
    assert_eq!(
        (&log[0]["status"], &log[0]["attempts"][0]["status"]),
        (&json!("delivered"), &json!(200))
    );
    let metrics = platform.running.get("/metrics", "").await;
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    let line = format!(
        r#"boxgate_webhook_attempts_total{{endpoint="{id}",event="box.uploaded",result="ok"}} 1"#
    );
    assert!(text.contains(&line), "{line} is not in\n{text}");
    assert!(text.contains("boxgate_webhook_attempt_seconds_count 1"));
    let bob = json!({"username": "bob", "password": "secret", "organization": "acme"});
    let bob = Request::new("POST", "/api/admin/users")
        .token(&platform.admin)
        .json(&bob);
    assert_eq!(platform.running.send(bob).await.status, 201);
    let told = receiver.has(2).await.remove(1).json();
    assert_eq!(
        (&told["event"], &told["data"]["organizations"]),
        (&json!("user.created"), &json!(["acme"]))
    );
    assert_eq!(told["data"]["actor"]["type"], "account", "{told}");
}

#[tokio::test]
async fn bad_wishes_are_refused_with_the_rule() {
    let platform = Platform::start(&[("BOXGATE_WEBHOOKS__DENY_HOSTS", "*.denied.example")]).await;
    let wish = async |name: &str, value: Value| {
        let mut body = json!({"url": "https://127.0.0.1:4443/", "events": ["*"], "secret": SECRET});
        body[name] = value;
        let reply = platform.call("POST", "", body).await;
        (
            reply.status,
            String::from_utf8_lossy(&reply.body).into_owned(),
        )
    };
    for (name, value, rule) in [
        ("events", json!(["box.upload"]), "box.uploaded"),
        ("events", json!([]), "1 to 64"),
        ("url", json!("ftp://a.example/"), "scheme"),
        ("url", json!("https://u:p@a.example/"), "no user"),
        ("url", json!("https://2130706433/"), "usual form"),
        ("url", json!("https://10.0.0.1/"), "webhooks.allow_networks"),
        ("url", json!("http://93.184.215.14/"), "plain http"),
        (
            "url",
            json!("https://169.254.169.254/"),
            "webhooks.allow_networks",
        ),
        (
            "url",
            json!("https://x.denied.example/"),
            "webhooks.deny_hosts",
        ),
        (
            "url",
            json!("https://b\u{fc}cher.denied.example/"),
            "xn--bcher-kva.denied.example is denied",
        ),
        ("secret", json!("short"), "8 to 256"),
        ("secret", json!("p\u{e4}ssw\u{f6}rter"), "of ASCII"),
        ("headers", json!({"host": "x"}), "not yours"),
        ("surprise", json!(1), "surprise"),
        (
            "rate_per_s",
            json!("many"),
            "'rate_per_s': invalid type: text \\\"many\\\", expected a whole number",
        ),
        (
            "headers",
            json!([1]),
            "'headers': invalid type: a list, expected an object",
        ),
    ] {
        let (status, text) = wish(name, value).await;
        assert_eq!(status, 422, "{text}");
        assert!(text.contains(rule), "{rule:?} is not in {text}");
    }
    let (status, text) = wish("secret", json!("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")).await;
    assert_eq!(status, 201, "{text}");
    for limit in ["0", "-1", "x"] {
        let place = format!("/api/admin/webhooks?limit={limit}");
        let refused = platform.running.get(&place, &platform.admin).await;
        assert_eq!(refused.status, 400, "{limit}");
    }
    let member = Request::new("GET", "/api/admin/webhooks").token(&platform.running.owner);
    assert_eq!(platform.running.send(member).await.status, 403);
    let events = platform.get("/events").await;
    let first = &events["data"][0];
    assert_eq!(
        (&first["event"], &first["schema"]["type"]),
        (&json!("box.uploaded"), &json!("object"))
    );
}

#[tokio::test]
async fn an_endpoint_is_changed_by_revision_and_made_once_by_name() {
    let platform = Platform::start(&[]).await;
    let receiver = Receiver::ok().await;
    let make = async |key: &str, url: &str| {
        let request = Request::new("POST", "/api/admin/webhooks")
            .token(&platform.admin)
            .header("Idempotency-Key", key)
            .json(&json!({"url": url, "events": ["*"]}));
        platform.running.send(request).await
    };
    let first = make("one", &receiver.url).await;
    let again = make("one", &receiver.url).await;
    assert_eq!(
        (first.status, again.status, first.json()),
        (201, 201, again.json())
    );
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(make("one", "https://127.0.0.1/").await.status, 422);
    assert_eq!(platform.get("").await["data"].as_array().unwrap().len(), 1);
    let secret = first.json()["secret"].as_str().unwrap().to_owned();
    assert!(
        secret.starts_with("whsec_") && secret.len() == 50,
        "{secret}"
    );
    let id = first.json()["id"].as_str().unwrap().to_owned();
    let path = format!("/api/admin/webhooks/{id}");
    let patch = async |tag: &str, body: Value| {
        let request = Request::new("PATCH", &path)
            .token(&platform.admin)
            .header("If-Match", tag);
        platform.running.send(request.json(&body)).await
    };
    let changed = patch("\"1\"", json!({"description": "CI", "rate_per_s": 7})).await;
    assert_eq!(
        (changed.status, changed.header("etag")),
        (200, Some("\"2\""))
    );
    let stale = patch("\"1\"", json!({"description": "other"})).await;
    assert_eq!(stale.status, 412);
    assert_eq!(
        patch("*", json!({"secret": "another-secret"})).await.status,
        422
    );
    let told = platform.get(&format!("/{id}")).await;
    assert_eq!(
        (&told["description"], &told["rate_per_s"], &told["events"]),
        (&json!("CI"), &json!(7), &json!(["*"]))
    );
    // What was read can be sent back.
    let put = platform.call("PUT", &format!("/{id}"), told).await;
    assert_eq!(put.status, 200, "{}", String::from_utf8_lossy(&put.body));
    let put = platform
        .call(
            "PUT",
            &format!("/{id}"),
            json!({"url": receiver.url, "events": ["box.*"]}),
        )
        .await;
    assert_eq!(
        (&put.json()["rate_per_s"], &put.json()["events"]),
        (&json!(50), &json!(["box.*"]))
    );
    assert_eq!(
        platform
            .call("DELETE", &format!("/{id}"), json!({}))
            .await
            .status,
        204
    );
    assert_eq!(
        platform
            .call("GET", &format!("/{id}"), json!({}))
            .await
            .status,
        404
    );
}

#[tokio::test]
async fn a_secret_is_replaced_while_both_count() {
    let platform = Platform::start(&[]).await;
    let receiver = Receiver::ok().await;
    let id = platform.endpoint(&receiver.url, json!({})).await;
    let rotate = json!({"secret": "the-new-secret-of-this-one"});
    let rotated = platform
        .call("POST", &format!("/{id}/rotate-secret"), rotate.clone())
        .await;
    assert_eq!(
        (rotated.status, &rotated.json()["secret"]),
        (200, &rotate["secret"])
    );
    let third = platform
        .call("POST", &format!("/{id}/rotate-secret"), json!({}))
        .await;
    assert_eq!(third.status, 409);
    platform.upload("web", "1.0").await;
    let during = receiver.has(1).await.remove(0);
    assert!(
        during.is_signed(SECRET),
        "the one field stays with the secret before: {during:?}"
    );
    assert_eq!(during.header("webhook-signature").split(' ').count(), 2);
    let finished = platform
        .call("POST", &format!("/{id}/rotate-secret/finish"), json!({}))
        .await;
    assert_eq!(finished.status, 200);
    platform.upload("web", "1.1").await;
    let after = receiver.has(2).await.remove(1);
    assert!(
        after.is_signed("the-new-secret-of-this-one") && !after.is_signed(SECRET),
        "{after:?}"
    );
}

#[tokio::test]
async fn an_endpoint_that_fails_for_ten_minutes_gets_everything_once_it_is_back() {
    let clock = Arc::new(ManualClock::new(UnixMillis(1_700_000_000_000)));
    let platform = Platform::at(&clock, &[]).await;
    let back = clock_at(&clock, 600);
    let failing = Receiver::with({
        let clock = Arc::clone(&clock);
        move |_, _| status(if now(&clock) < back { 500 } else { 200 })
    })
    .await;
    let good = Receiver::ok().await;
    let id = platform
        .endpoint(&failing.url, json!({"rate_per_s": 10_000}))
        .await;
    platform.endpoint(&good.url, json!({})).await;
    for n in 0..12 {
        platform.upload("web", &format!("1.{n}")).await;
    }
    // Whoever answers is not held up by who does not.
    assert!(
        good.has(12)
            .await
            .iter()
            .all(|got| got.header("x-boxgate-attempt") == "1")
    );
    let is_paused = |told: &Value| told["state"] == "paused" && told["queued"] == 12;
    let paused = platform.until(&id, is_paused).await;
    assert_eq!(
        (&paused["last_error"], &paused["queued"]),
        (&json!("it answered 500"), &json!(12))
    );
    let status = platform
        .running
        .get("/api/status", &platform.admin)
        .await
        .json();
    assert_eq!(status["webhooks_not_ok"][0]["id"], id.as_str());
    let mut probes = failing.got().len();
    while now(&clock) < back {
        clock.advance(Duration::from_secs(30));
        platform.until(&id, |told| told["state"] == "paused").await;
        let sent = failing.got().len();
        assert!(
            sent <= probes + 1,
            "a rest ends with one request: {probes} {sent}"
        );
        probes = sent;
    }
    // Two minutes is the longest rest.
    let mut steps = 0;
    while platform.get(&format!("/{id}")).await["queued"] != 0 {
        steps += 1;
        assert!(steps <= 6, "it takes longer than three minutes");
        clock.advance(Duration::from_secs(30));
        for _ in 0..40 {
            platform.running.gateway.outlet.tell();
            tokio::time::sleep(Duration::from_millis(50)).await;
            if platform.get(&format!("/{id}")).await["queued"] == 0 {
                break;
            }
        }
    }
    let log = platform.log(&id).await;
    assert!(
        log.iter().all(|one| one["status"] == "delivered"),
        "{log:?}"
    );
    let mut ids: Vec<_> = log
        .iter()
        .map(|one| one["webhook_id"].to_string())
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 12);
}

fn now(clock: &ManualClock) -> i64 {
    use boxgate_storage::clock::Clock as _;
    clock.now().0
}

fn clock_at(clock: &ManualClock, seconds: i64) -> i64 {
    now(clock) + seconds * 1000
}

#[tokio::test]
async fn who_is_gone_or_silent_for_days_is_disabled_once_and_others_are_told() {
    let clock = Arc::new(ManualClock::new(UnixMillis(1_700_000_000_000)));
    let platform = Platform::at(&clock, &[]).await;
    let gone = Receiver::with(|_, _| status(410)).await;
    let silent = Receiver::with(|_, _| status(503)).await;
    let others = Receiver::ok().await;
    let told = platform
        .endpoint(&others.url, json!({"events": ["webhook.*"]}))
        .await;
    let gone_id = platform.endpoint(&gone.url, json!({})).await;
    let silent_id = platform
        .endpoint(&silent.url, json!({"events": ["box.*"]}))
        .await;
    // A test that fails counts for nothing.
    for _ in 0..3 {
        let tried = platform
            .call("POST", &format!("/{gone_id}/test"), json!({}))
            .await
            .json();
        assert_eq!(
            (&tried["status"], &tried["error"]),
            (&json!(410), &json!("it answered 410"))
        );
    }
    assert_eq!(platform.get(&format!("/{gone_id}")).await["state"], "ok");
    platform.upload("web", "1.0").await;
    let off = platform
        .until(&gone_id, |told| told["state"] == "disabled")
        .await;
    assert!(off["disabled_reason"].as_str().unwrap().contains("410"));
    let event = others.has(1).await.remove(0).json();
    assert_eq!(
        (&event["event"], &event["data"]["endpoint_id"]),
        (&json!("webhook.disabled"), &json!(gone_id))
    );
    assert_eq!(event["data"]["actor"], Value::Null);
    for n in 0..4 {
        platform.upload("web", &format!("2.{n}")).await;
    }
    let mut days = 0;
    while platform.get(&format!("/{silent_id}")).await["state"] != "disabled" {
        assert!(days < 60, "it is told for ever");
        days += 1;
        clock.advance(Duration::from_hours(6));
        // What comes of it is written down before the clock moves on.
        let before = platform.attempts(&silent_id).await;
        while platform.attempts(&silent_id).await == before {
            platform.running.gateway.outlet.tell();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let off = platform.get(&format!("/{silent_id}")).await;
    assert_eq!(off["disabled_reason"], "no success for 5 days");
    others.has(2).await;
    // What happens meanwhile can be had later.
    platform.upload("late", "1.0").await;
    platform.until(&told, |told| told["queued"] == 0).await;
    let skipped = async || {
        let listed = platform
            .get(&format!("/{silent_id}/deliveries?status=skipped"))
            .await;
        listed["data"].as_array().unwrap().len()
    };
    while skipped().await == 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let enabled = platform
        .call("POST", &format!("/{silent_id}/enable"), json!({}))
        .await
        .json();
    assert_eq!(
        (&enabled["state"], &enabled["failing_since"]),
        (&json!("ok"), &Value::Null)
    );
    let since = json!({"since": "2020-01-01T00:00:00Z", "status": "skipped"});
    let recovered = platform
        .call("POST", &format!("/{silent_id}/recover"), since)
        .await;
    assert_eq!(recovered.status, 202);
    assert!(recovered.json()["queued"].as_u64().unwrap() >= 1);
    assert_eq!(others.got().len(), 2, "each is told once");
}

#[tokio::test]
async fn what_is_ordered_by_box_does_not_overlap_and_other_boxes_go_on() {
    let platform = Platform::start(&[]).await;
    let under_way: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    let receiver = {
        let under_way = Arc::clone(&under_way);
        Receiver::with(move |_, got| {
            let name = got.json()["data"]["box"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            let version = got.json()["data"]["version"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            let mut seen = under_way.lock().unwrap();
            let tries = seen.entry(format!("{name} {version}")).or_default();
            *tries += 1;
            // The first of one box fails once, and holds the others of that box back.
            status(if name == "slow" && version == "1.0" && *tries == 1 {
                500
            } else {
                200
            })
        })
        .await
    };
    let id = platform
        .endpoint(
            &receiver.url,
            json!({"ordering": "key", "events": ["box.uploaded"], "delays_s": [0, 2, 2]}),
        )
        .await;
    for n in 0..4 {
        platform.upload("slow", &format!("1.{n}")).await;
        platform.upload("quick", &format!("1.{n}")).await;
    }
    receiver.has(9).await;
    platform.until(&id, |told| told["queued"] == 0).await;
    let of = |name: &str| -> Vec<String> {
        let all = receiver.got();
        let these = all
            .iter()
            .map(Got::json)
            .filter(|body| body["data"]["box"] == name);
        these
            .map(|body| body["data"]["version"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(of("slow"), ["1.0", "1.0", "1.1", "1.2", "1.3"]);
    assert_eq!(of("quick"), ["1.0", "1.1", "1.2", "1.3"]);
    // The quick ones did not wait for the slow one to be tried again.
    let all: Vec<Value> = receiver.got().iter().map(Got::json).collect();
    let again = all
        .iter()
        .rposition(|b| b["data"]["box"] == "slow" && b["data"]["version"] == "1.0");
    let last_quick = all.iter().rposition(|b| b["data"]["box"] == "quick");
    assert!(last_quick < again, "{last_quick:?} {again:?}");
}

#[tokio::test]
async fn an_answer_without_end_and_a_redirect_are_failures_within_bounds() {
    let platform = Platform::start(&[]).await;
    let drip = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let drip_url = format!("http://{}/", drip.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = drip.accept().await {
            tokio::spawn(async move {
                let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                drop(stream.write_all(head.as_bytes()).await);
                while stream.write_all(b"1\r\nx\r\n").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            });
        }
    });
    let flood = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let flood_url = format!("http://{}/", flood.local_addr().unwrap());
    let (flooded, mut sent) = tokio::sync::mpsc::channel(4);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = flood.accept().await {
            let flooded = flooded.clone();
            tokio::spawn(async move {
                let head = "HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n";
                drop(stream.write_all(head.as_bytes()).await);
                let mut count = 0_usize;
                while count < 1 << 30 && stream.write_all(&[b'x'; 8_192]).await.is_ok() {
                    count += 8_192;
                }
                let _ = flooded.send(count).await;
            });
        }
    });
    let trap = Receiver::ok().await;
    let trap_url = trap.url.clone();
    let redirect = Receiver::with(move |_, _| {
        format!("HTTP/1.1 302 x\r\nlocation: {trap_url}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    })
    .await;
    let wide = Receiver::with(|_, _| {
        format!(
            "HTTP/1.1 200 OK\r\nx-a: {}\r\ncontent-length: 0\r\n\r\n",
            "a".repeat(20_000)
        )
    })
    .await;
    let garbage = Receiver::with(|_, _| "\u{1}\u{2}\u{3} no HTTP at all\r\n\r\n".to_owned()).await;
    let test = async |url: &str| {
        let id = platform.endpoint(url, json!({"timeout_ms": 1_500})).await;
        platform
            .call("POST", &format!("/{id}/test"), json!({}))
            .await
            .json()
    };
    let dripped = test(&drip_url).await;
    assert!(
        dripped["error"]
            .as_str()
            .unwrap()
            .contains("no whole answer"),
        "{dripped}"
    );
    let redirected = test(&redirect.url).await;
    assert!(
        redirected["error"]
            .as_str()
            .unwrap()
            .contains("redirects are not followed"),
        "{redirected}"
    );
    assert!(trap.got().is_empty());
    let flooded = test(&flood_url).await;
    assert_eq!(
        (&flooded["status"], &flooded["error"]),
        (&json!(200), &Value::Null)
    );
    assert!(
        sent.recv().await.unwrap() < 64 << 20,
        "the rest is not read"
    );
    assert!(test(&wide.url).await["error"].is_string());
    assert!(test(&garbage.url).await["error"].is_string());
}

#[tokio::test]
async fn what_was_sent_can_be_sent_once_more_under_the_same_id() {
    let platform = Platform::start(&[]).await;
    let receiver = Receiver::with(|number, _| status(if number == 1 { 400 } else { 200 })).await;
    let id = platform
        .endpoint(
            &receiver.url,
            json!({"delays_s": [0], "format": "standard"}),
        )
        .await;
    platform.upload("web", "1.0").await;
    platform
        .until(&id, |told| {
            told["queued"] == 0 && told["last_error"].is_string()
        })
        .await;
    let stands = platform.get(&format!("/{id}")).await;
    assert_eq!(stands["state"], "failing", "nothing waits: {stands}");
    let failed = platform.log(&id).await.remove(0);
    assert_eq!(
        (&failed["status"], &failed["reason"]),
        (&json!("failed"), &json!("it answered 400"))
    );
    let delivery = failed["delivery_id"].as_str().unwrap();
    let again = platform
        .call(
            "POST",
            &format!("/deliveries/{delivery}/redeliver"),
            json!({}),
        )
        .await;
    assert_eq!(again.status, 202);
    let got = receiver.has(2).await;
    assert_eq!(got[0].header("webhook-id"), got[1].header("webhook-id"));
    assert_eq!(
        (got[0].body.as_str(), got[1].header("x-boxgate-attempt")),
        (got[1].body.as_str(), "2")
    );
    let members: Vec<String> = got[0].json().as_object().unwrap().keys().cloned().collect();
    assert_eq!(members, ["type", "timestamp", "data", "event"]);
    platform.until(&id, |told| told["queued"] == 0).await;
    let told = platform.get(&format!("/deliveries/{delivery}")).await;
    assert_eq!(
        (&told["status"], told["attempts"].as_array().unwrap().len()),
        (&json!("delivered"), 2)
    );
    let missing = platform
        .call("POST", "/deliveries/dl_nothing/redeliver", json!({}))
        .await;
    assert_eq!(missing.status, 404);
}

#[tokio::test]
async fn what_another_node_sends_is_taken_over_once_its_claim_runs_out() {
    let clock = Arc::new(ManualClock::new(UnixMillis(1_700_000_000_000)));
    let platform = Platform::at(&clock, &[]).await;
    let receiver = Receiver::with(|number, _| status(if number == 1 { 503 } else { 200 })).await;
    let id = platform
        .endpoint(&receiver.url, json!({"delays_s": [0, 3_600]}))
        .await;
    platform.upload("web", "1.0").await;
    platform
        .until(&id, |told| told["last_error"].is_string())
        .await;
    let (hour, metadata) = (Duration::from_hours(1), &platform.running.gateway.metadata);
    // Another one that will never be heard of again is quicker once the claim has run out.
    while metadata
        .claim_webhooks("another", (hour * 3, hour))
        .await
        .unwrap()
        .is_empty()
    {
        clock.advance(Duration::from_mins(2));
    }
    clock.advance(hour * 2);
    for _ in 0..20 {
        platform.running.gateway.outlet.tell();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(receiver.got().len(), 1, "it is not ours to send");
    clock.advance(hour * 2);
    platform.running.gateway.outlet.tell();
    let got = receiver.has(2).await;
    assert_eq!(got[0].header("webhook-id"), got[1].header("webhook-id"));
}

#[tokio::test]
async fn what_waits_at_a_stop_is_sent_after_it() {
    let receiver = Receiver::with(|number, _| status(if number == 1 { 503 } else { 200 })).await;
    let platform = Platform::start(&[]).await;
    platform
        .endpoint(
            &receiver.url,
            json!({"events": ["box.*"], "delays_s": [0, 1, 1]}),
        )
        .await;
    platform.upload("web", "1.0").await;
    let first = receiver.has(1).await.remove(0);
    let directory = platform.running.stop().await;
    let running = Running::start_in(directory, &[OPEN]).await;
    let second = receiver.has(2).await.remove(1);
    assert_eq!(first.header("webhook-id"), second.header("webhook-id"));
    drop(running);
}

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
