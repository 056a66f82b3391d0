//! Images of runtimes that are kept in a store.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::harness::{Reply, Request, Running};

const KEY: &str = "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk";
const IMAGE: &str = "/runtime/image";

async fn start(organization: &str) -> Running {
    Running::start_with(&[
        ("BOXGATE_RUNTIMES__DEFAULT__ENABLED", "true"),
        ("BOXGATE_RUNTIMES__DEFAULT__ALLOW_DEPLOYMENTS", "true"),
        ("BOXGATE_RUNTIMES__DEFAULT__API_KEY", KEY),
        ("BOXGATE_RUNTIMES__DEFAULT__STORE", "main"),
        ("BOXGATE_RUNTIMES__DEFAULT__ORGANIZATION", organization),
    ])
    .await
}

fn ask(method: &str, path: &str) -> Request {
    Request::new(method, path).token(KEY)
}

fn text(reply: &Reply) -> String {
    String::from_utf8_lossy(&reply.body).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_raw_image_with_another_digest_is_not_deployed() {
    let running = start("acme").await;
    let digest = format!(
        "blake3=:{}:",
        STANDARD.encode(blake3::hash(b"one").as_bytes())
    );
    for field in ["Repr-Digest", "Content-Digest"] {
        let request = ask("POST", IMAGE).header(field, &digest).body(b"another");
        let reply = running.send(request).await;
        assert_eq!(reply.status, 422, "{}", text(&reply));
        assert!(text(&reply).contains("Nothing was deployed"));
    }
    let reply = running.send(ask("GET", IMAGE)).await;
    assert_eq!(reply.status, 500, "{}", text(&reply));
    for field in ["Repr-Digest", "Content-Digest"] {
        let request = ask("POST", IMAGE).header(field, &digest).body(b"one");
        let reply = running.send(request).await;
        assert_eq!(reply.status, 202, "{}", text(&reply));
    }
    assert_eq!(running.send(ask("GET", IMAGE)).await.body, b"one");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_became_an_image_is_not_placed_again_over_a_newer_one() {
    let running = start("acme").await;
    let tus = |method, path: &str| ask(method, path).header("Tus-Resumable", "1.0.0");
    let begins = tus("POST", IMAGE).header("Upload-Length", "3").body(b"");
    let begun = running.send(begins).await;
    assert_eq!(begun.status, 201, "{}", text(&begun));
    let upload = begun.header("Location").unwrap().to_owned();
    let goes_on = tus("PATCH", &upload)
        .header("Upload-Offset", "0")
        .header("Content-Type", "application/offset+octet-stream")
        .body(b"one");
    let reply = running.send(goes_on).await;
    assert_eq!(reply.status, 204, "{}", text(&reply));
    assert_eq!(running.send(ask("GET", IMAGE)).await.body, b"one");
    let reply = running.send(ask("POST", IMAGE).body(b"newer")).await;
    assert_eq!(reply.status, 202, "{}", text(&reply));
    let looked = running.send(tus("HEAD", &upload)).await;
    assert_eq!(looked.header("Upload-Offset"), Some("3"));
    assert_eq!(running.send(ask("GET", IMAGE)).await.body, b"newer");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_organization_that_is_not_there_is_named_by_all_requests() {
    let running = start("nobody-here").await;
    for request in [ask("GET", IMAGE), ask("POST", IMAGE).body(b"one")] {
        let reply = running.send(request).await;
        assert_eq!(reply.status, 500);
        let told = text(&reply);
        assert!(told.contains("no organization nobody-here"), "{told}");
    }
    running.stop().await;
}
