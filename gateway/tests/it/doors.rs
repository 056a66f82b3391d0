//! All doors at one listener: which names nothing can have, and that whoever chooses one is told why.

use serde_json::json;

use crate::harness::{Request, Running};

#[tokio::test]
async fn no_organization_is_named_like_the_first_word_of_a_route() {
    let running = Running::start().await;
    let reserved = running.gateway.router.reserved().to_vec();
    assert!(reserved.len() > 20, "{reserved:?}");
    for word in reserved {
        let make = |name: &str| {
            let request = Request::new("POST", "/api/organization").token(&running.owner);
            let body = json!({ "organization": name });
            running.send(request.json(&body))
        };
        let refused = make(&word).await;
        assert_eq!(refused.status, 400, "{word}");
        // Some are no names for other reasons.
        let text = refused.json()["message"].to_string();
        assert!(
            text.contains("reserved") || text.contains("must"),
            "{word}: {text}"
        );
        let renamed = Request::new("PUT", "/api/organization/acme").token(&running.owner);
        let body = json!({ "organization": word });
        let refused = running.send(renamed.json(&body)).await;
        assert_eq!(refused.status, 400, "{word}");
    }
    running.stop().await;
}

#[tokio::test]
async fn no_box_is_named_like_the_second_word_of_a_route_whichever_way_it_would_come() {
    let running = Running::start().await;
    let target = "acme/latestVersion/1.0.0/virtualbox/amd64";
    let file = "/api/organization/acme/box/latestVersion/version/1.0.0/provider/virtualbox/architecture/amd64/file";
    let post = |path: &str| Request::new("POST", path).token(&running.owner);
    for request in [
        post("/api/organization/acme/box").json(&json!({ "name": "latestVersion" })),
        post("/api/v2/boxes")
            .json(&json!({ "box": { "username": "acme", "name": "LatestVersion" } })),
        post(file).body(b"some bytes"),
        post(&format!("{file}/upload")).body(b"some bytes"),
        post(&format!("/files?target={target}")).header("Upload-Length", "10"),
    ] {
        let what = format!("{request:?}");
        let reply = running.send(request).await;
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        assert!(
            matches!(reply.status, 400 | 422),
            "{what}: {}",
            reply.status
        );
        assert!(text.contains("reserved"), "{what}: {text}");
    }
    assert_eq!(
        running.upload("demo", "1.0.0", b"some bytes").await.status,
        200
    );
    let renamed = Request::new("PUT", "/api/organization/acme/box/demo").token(&running.owner);
    let renamed = running
        .send(renamed.json(&json!({ "name": "latestVersion" })))
        .await;
    assert_eq!(renamed.status, 400);
    running.stop().await;
}
