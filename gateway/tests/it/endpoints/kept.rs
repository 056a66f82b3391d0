//! How endpoints are made and changed.

use serde_json::{Value, json};

use super::{Platform, Receiver, SECRET};
use crate::harness::Request;

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
