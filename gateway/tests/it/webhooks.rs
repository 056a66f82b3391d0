//! Webhooks that come in for plugins: who is believed, what is run once, and what outlives a stop.

use std::time::Duration;

use ring::hmac;
use serde_json::{Value, json};

use crate::harness::{Reply, Request, Running};
use crate::scripts::write_plugin;

const MANIFEST: &str = r#"
    [webhook_in.ci]
    verify = "github"
    secret = "CI"
    [webhook_in.later]
    verify = "github"
    secret = "CI"
    mode = "async"
    [webhook_in.signed]
    verify = "standard"
    secret = "SIGNED"
    [webhook_in.open]
    verify = "none"
    [webhook_in.lost]
    verify = "token"
    secret = "LOST"
"#;

const MAIN: &str = r#"
    fn webhook_in(req) {
        kv::incr("runs", 1, 3600);
        switch req.json()["do"] {
            "nothing" => (),
            "map" => #{ hook: req.hook, id: req.delivery_id, verified: req.verified, kind: req.header("x-github-event"),
                deep: req.pick("/a/b/1"), bytes: req.body.len, text: req.body.text() == req.text(),
                sum: hash::sha256(req.body) == hash::sha256(req.text()) },
            "respond" => respond(418, "no", #{ "x-tea": "yes" }),
            "fail" => { throw "oops"; }
            "once" => { if kv::incr("tried", 1, 3600) == 1 { throw "not yet"; } kv::set("told", req.header("x-github-event"), 3600); }
            _ => ()
        }
    }
    fn route(req) {
        if req.path == "/told" { respond(200, #{ runs: kv::get("runs") ?? 0, tried: kv::get("tried") ?? 0, told: kv::get("told") }) }
    }
"#;

async fn with_hooks(directory: tempfile::TempDir, variables: &[(&str, &str)]) -> Running {
    write_plugin(directory.path(), "acme", MANIFEST, MAIN);
    let secret = |name: &str, value: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, value).unwrap();
        path.display().to_string()
    };
    let secrets = format!(
        "[scripts]\ncheck_every = \"0s\"\n[scripts.grants.acme]\nsecrets = [\"CI\", \"SIGNED\", \"LOST\"]\n\
         unverified = [\"open\"]\n[scripts.secrets]\nCI = {:?}\nSIGNED = {:?}\n",
        secret("ci", "s3cret"),
        secret("signed", "plain"),
    );
    std::fs::write(directory.path().join("boxgate.toml"), secrets).unwrap();
    let running = Running::start_in(directory, variables).await;
    for status in running.gateway.scripts.status() {
        assert_eq!(status.error, None, "{}", status.plugin);
    }
    running
}

async fn running() -> Running {
    with_hooks(tempfile::tempdir().unwrap(), &[]).await
}

fn tag(secret: &str, bytes: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    hmac::sign(&key, bytes).as_ref().to_vec()
}

fn post(hook: &str) -> Request {
    Request::new("POST", &format!("/hooks/acme/{hook}")).header("Content-Type", "application/json")
}

/// As GitHub sends it.
fn github(hook: &str, id: &str, body: &[u8]) -> Request {
    let signature = format!("sha256={}", hex::encode(tag("s3cret", body)));
    post(hook)
        .header("X-GitHub-Event", "release")
        .header("X-GitHub-Delivery", id)
        .header("X-Hub-Signature-256", &signature)
        .body(body)
}

async fn told(running: &Running) -> Value {
    running.get("/told", "").await.json()
}

fn is_problem(reply: &Reply, status: u16, text: &str) {
    let body = String::from_utf8_lossy(&reply.body).into_owned();
    assert_eq!(reply.status, status, "{body}");
    assert!(body.contains(text), "{text:?} is not in {body}");
    let kind = reply.header("content-type");
    assert_eq!(kind, Some("application/problem+json"), "{body}");
}

#[tokio::test]
async fn a_verified_webhook_is_run_and_its_answer_is_the_scripts() {
    let running = running().await;
    let send = async |id: &str, body: Value| {
        let body = body.to_string();
        running.send(github("ci", id, body.as_bytes())).await
    };
    let nothing = send("1", json!({"do": "nothing"})).await;
    assert_eq!((nothing.status, nothing.body.len()), (204, 0));
    let body = json!({"do": "map", "a": {"b": [1, "x"]}});
    let bytes = body.to_string().len();
    let map = send("2", body).await;
    assert_eq!(map.status, 200);
    let expected = json!({"hook": "ci", "id": "2", "verified": true, "kind": "release", "deep": "x",
        "bytes": bytes, "text": true, "sum": true});
    assert_eq!(map.json(), expected);
    let respond = send("3", json!({"do": "respond"})).await;
    assert_eq!(
        (respond.status, respond.header("x-tea")),
        (418, Some("yes"))
    );
    let failed = send("4", json!({"do": "fail"})).await;
    is_problem(&failed, 500, "The plugin failed");
    assert!(!String::from_utf8_lossy(&failed.body).contains("oops"));
    // GitHub's other kind of body.
    let form = format!(
        "payload={}",
        percent_encoding::utf8_percent_encode(
            r#"{"do":"map"}"#,
            percent_encoding::NON_ALPHANUMERIC
        )
    );
    let signature = format!("sha256={}", hex::encode(tag("s3cret", form.as_bytes())));
    let form = Request::new("POST", "/hooks/acme/ci")
        .header("Content-Type", "application/x-www-form-urlencoded")
        .header("X-GitHub-Delivery", "5")
        .header("X-Hub-Signature-256", &signature)
        .body(form.as_bytes());
    assert_eq!(running.send(form).await.json()["id"], "5");
    let open = running.send(post("open").body(br#"{"do":"map"}"#)).await;
    assert_eq!(open.json()["verified"], false);
    let metrics = running.get("/metrics", "").await;
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    let line = r#"boxgate_webhook_in_total{plugin="acme",hook="ci",result="done"} 3"#;
    assert!(text.contains(line), "{line} is not in\n{text}");
}

#[tokio::test]
async fn who_does_not_know_the_secret_is_refused_before_the_script() {
    let running = running().await;
    let body = br#"{"do":"map"}"#;
    let nobody = running.send(github("cd", "1", body)).await;
    is_problem(&nobody, 404, "[webhook_in.cd]");
    let other = Request::new("POST", "/hooks/other/ci").body(body);
    is_problem(&running.send(other).await, 404, "a plugin 'other'");
    let get = running.get("/hooks/acme/ci", "").await;
    is_problem(&get, 405, "answers POST only");
    assert_eq!(get.header("allow"), Some("POST"));
    let unsigned = running.send(post("ci").body(body)).await;
    is_problem(&unsigned, 401, "x-hub-signature-256");
    let forged = github("ci", "1", body)
        .without("Content-Length")
        .body(br#"{"do":"nap"}"#);
    is_problem(&running.send(forged).await, 403, "secret");
    let image = github("ci", "1", body)
        .without("Content-Type")
        .header("Content-Type", "image/png");
    is_problem(&running.send(image).await, 415, "application/json");
    let packed = github("ci", "1", body).header("Content-Encoding", "gzip");
    let packed = running.send(packed).await;
    is_problem(&packed, 415, "content coding");
    assert_eq!(packed.header("accept-encoding"), Some("identity"));
    let large = github("ci", "1", &vec![b' '; (1 << 20) + 1]);
    is_problem(&running.send(large).await, 413, "hooks.body");
    let whole = github(
        "ci",
        "1",
        &[
            br#"{"do":"nothing"}"#.as_slice(),
            &vec![b' '; (1 << 20) - 16],
        ]
        .concat(),
    );
    // As long as it may be, and longer than what a script may have as one text.
    is_problem(&running.send(whole).await, 500, "The plugin failed");
    let lost = post("lost").header("Authorization", "Bearer x").body(body);
    is_problem(&running.send(lost).await, 503, "no secret");

    let now = running.gateway.clock.now().0.div_euclid(1000);
    let standard = |time: i64| {
        let signed = [format!("m-1.{time}.").as_bytes(), body].concat();
        let signature = format!("v1,{}", base64(&tag("plain", &signed)));
        post("signed")
            .header("webhook-id", "m-1")
            .header("webhook-timestamp", &time.to_string())
            .header("webhook-signature", &signature)
            .body(body)
    };
    let stale = running.send(standard(now - 400)).await;
    is_problem(&stale, 403, "hooks.tolerance");
    assert_eq!(told(&running).await["runs"], 1);
    assert_eq!(running.send(standard(now)).await.json()["id"], "m-1");
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[tokio::test]
async fn a_repeat_is_not_run_also_after_a_restart_and_a_failure_may_come_again() {
    let running = running().await;
    let body = br#"{"do":"nothing"}"#;
    assert_eq!(running.send(github("ci", "1", body)).await.status, 204);
    let again = running.send(github("ci", "1", body)).await;
    assert_eq!(
        (again.status, &again.json()["status"]),
        (200, &json!("repeat"))
    );
    // An id is known by its hook alone.
    assert_eq!(running.send(github("later", "1", body)).await.status, 202);
    let once = br#"{"do":"once"}"#;
    assert_eq!(running.send(github("ci", "2", once)).await.status, 500);
    assert_eq!(running.send(github("ci", "2", once)).await.status, 204);
    assert_eq!(running.send(github("ci", "2", once)).await.status, 200);
    let teapot = br#"{"do":"respond"}"#;
    for _ in 0..2 {
        assert_eq!(running.send(github("ci", "3", teapot)).await.status, 418);
    }
    let directory = running.stop().await;
    let running = with_hooks(directory, &[]).await;
    let after = running.send(github("ci", "1", body)).await;
    assert_eq!(
        (after.status, &after.json()["delivery"]),
        (200, &json!("1"))
    );
}

async fn until(running: &Running, what: fn(&Value) -> bool) -> Value {
    let asking = async {
        loop {
            let told = told(running).await;
            if what(&told) {
                return told;
            }
            tokio::task::yield_now().await;
        }
    };
    let asked = tokio::time::timeout(Duration::from_mins(1), asking).await;
    asked.unwrap()
}

#[tokio::test]
async fn what_is_run_later_is_kept_and_run_until_it_succeeds() {
    let soon = [("BOXGATE_HOOKS__PAUSES", "10ms")];
    let running = with_hooks(tempfile::tempdir().unwrap(), &soon).await;
    let once = br#"{"do":"once"}"#;
    let queued = running.send(github("later", "1", once)).await;
    assert_eq!(queued.status, 202);
    assert_eq!(queued.json(), json!({"status": "queued", "delivery": "1"}));
    let told = until(&running, |told| !told["told"].is_null()).await;
    assert_eq!(
        (&told["tried"], &told["told"]),
        (&json!(2), &json!("release"))
    );
    let again = running.send(github("later", "1", once)).await;
    assert_eq!(
        (again.status, &again.json()["status"]),
        (200, &json!("repeat"))
    );
    // One that never succeeds is given up after its last pause, and taken when it is sent once more.
    let fail = br#"{"do":"fail"}"#;
    assert_eq!(running.send(github("later", "2", fail)).await.status, 202);
    until(&running, |told| told["runs"] == 4).await;
    let given_up = async {
        while running.send(github("later", "2", fail)).await.status != 202 {
            tokio::task::yield_now().await;
        }
    };
    let given_up = tokio::time::timeout(Duration::from_mins(1), given_up);
    given_up.await.unwrap();
}

#[tokio::test]
async fn what_waits_is_bounded_and_outlives_a_stop() {
    let most = [
        ("BOXGATE_HOOKS__QUEUE", "1"),
        ("BOXGATE_HOOKS__PAUSES", "1h"),
    ];
    let running = with_hooks(tempfile::tempdir().unwrap(), &most).await;
    let once = br#"{"do":"once"}"#;
    assert_eq!(running.send(github("later", "1", once)).await.status, 202);
    until(&running, |told| told["tried"] == 1).await;
    let full = running.send(github("later", "2", once)).await;
    is_problem(&full, 503, "hooks.queue");
    assert_eq!(full.header("retry-after"), Some("60"));
    let directory = running.stop().await;
    // It is due in an hour; that another process comes changes nothing, and it is still known.
    let running = with_hooks(directory, &most).await;
    let again = running.send(github("later", "1", once)).await;
    assert_eq!(again.json()["status"], "repeat");
    let next = running.gateway.metadata.next_delivery().await.unwrap();
    assert!(next.is_some());
}
