//! What callers of adapters are told, and what one of them cannot do to the others.

use serde_json::json;

use crate::adapters::{CLOUD, ask, cloud, errors};
use crate::harness::Request;
use crate::scripts::write_plugin;

#[tokio::test]
async fn no_credential_is_in_an_answer_of_any_kind() {
    let running = cloud(&[]).await;
    let there = running.send(ask("GET", "/servers/eu%2f7", "shy")).await;
    let wanted = json!({ "id": "eu/7", "status": "off", "name": "*** or ***", "external_ip": null, "internal_ip": "***" });
    assert_eq!((there.status, there.json()), (201, wanted));
    // A way out of an id is none.
    for path in ["/servers/eu%2f..%2f..%2fx", "/servers/%2e%2e%2faccount"] {
        assert_eq!(
            running.send(ask("GET", path, "good")).await.status,
            400,
            "{path}"
        );
    }
    running.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_told_as_what_it_is() {
    let running = cloud(&[]).await;
    // It cannot be done at all, whatever is or is not in the body.
    for body in [&b""[..], b"{", br#"{"id":"n","key":"k"}"#] {
        let request = ask("PATCH", "/servers/1/keys", "good").body(body);
        assert_eq!(running.send(request).await.status, 501);
    }
    for (body, told) in [
        (r#"{"id": 7, "key": {}}"#, "No text in the body: key."),
        (
            r#"{"id": true}"#,
            "Missing in the body: key. No text in the body: id.",
        ),
        (
            r#"{"id": "n", "key": "ssh-rsa AAAA\nssh-rsa BBBB"}"#,
            "key has more than one line, and a public key has one.",
        ),
    ] {
        let reply = running
            .send(ask("POST", "/keys", "good").body(body.as_bytes()))
            .await;
        assert_eq!(
            (reply.status, errors(&reply)),
            (400, json!([told])),
            "{body}"
        );
    }
    let request = Request::new("POST", "/providers/cloud/verify").header("Auth-Mood", "schön");
    let reply = running.send(request.header("Auth-Api-Key", "k")).await;
    let told = json!(["Credentials are no text in ASCII: Auth-Mood."]);
    assert_eq!((reply.status, errors(&reply)), (401, told));
    running.stop().await;
}

#[tokio::test]
async fn nonsense_of_one_callers_cloud_holds_no_other_back() {
    let running = cloud(&[]).await;
    for _ in 0..150 {
        let broken = running.send(ask("POST", "/verify", "broken")).await;
        assert_eq!(broken.status, 502);
    }
    let good = running.send(ask("POST", "/verify", "good")).await;
    assert_eq!(good.status, 200);
    let metrics = running.get("/metrics", "").await;
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    let counted = |outcome: &str, n: u32| {
        format!(
            "boxgate_provider_requests_total{{operation=\"verify\",outcome=\"{outcome}\",provider=\"cloud\"}} {n}"
        )
    };
    for line in [
        counted("failed", 150),
        counted("ok", 1),
        "boxgate_provider_request_seconds_count{operation=\"verify\",provider=\"cloud\"} 151"
            .to_owned(),
    ] {
        assert!(text.contains(&line), "{line}\n{text}");
    }
    running.stop().await;
}

#[tokio::test]
async fn an_old_catalogue_outlives_the_version_of_the_plugin_that_made_it() {
    let running = cloud(&[]).await;
    let first = running.send(ask("GET", "/catalog", "good")).await;
    assert_eq!(first.status, 200);
    // The new version is asked, and its cloud is away.
    write_plugin(
        running.data_dir().parent().unwrap(),
        "sky",
        "[provider]",
        &format!("{CLOUD}\n// Another version."),
    );
    running.gateway.scripts.reload(false).unwrap();
    let old = running.send(ask("GET", "/catalog", "good")).await;
    assert_eq!((old.status, old.body), (200, first.body));
    assert_eq!(running.get("/told", "").await.json()["catalogs"], 2);
    running.stop().await;
}
