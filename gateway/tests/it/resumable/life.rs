//! What holds for an upload by either protocol: whose it is, how long it is there, and where it is told of.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boxgate_storage::metadata::accounts::{OrganizationRole, PlatformRole};
use boxgate_storage::metadata::tokens::TokenKind;
use tokio::io::AsyncWriteExt as _;

use super::{
    PARTIAL, TUS_BYTES, begin, half, head, located, metadata, offset, patch, text, tus, tus_by,
};
use crate::harness::{Request, Running, file_path, read_reply};
use crate::uploads::{downloaded, noise};

#[tokio::test]
async fn an_upload_is_its_makers_alone() {
    let running = Running::start().await;
    let path = begin(&running, "1.0", 10).await;
    let colleague = running.member("colleague", OrganizationRole::Admin).await;
    let colleague = running.token(colleague, TokenKind::Personal, None).await;
    let root = running.account("root", PlatformRole::Admin).await;
    let root = running.token(root, TokenKind::Personal, None).await;
    let unknown = format!("/files/{}", "cd".repeat(16));
    for token in [&colleague, &root] {
        for method in ["HEAD", "GET", "PATCH", "DELETE"] {
            let request = |path: &str| {
                tus_by(token, method, path)
                    .header("Content-Type", TUS_BYTES)
                    .header("Upload-Offset", "0")
                    .body(b"0123456789")
            };
            let reply = running.send(request(&path)).await;
            assert_eq!(reply.status, 404, "{method}");
            assert_eq!(reply.header("upload-offset"), None, "{method}");
            // Not to be told from one that was never there, but for the id of the request.
            let absent = running.send(request(&unknown)).await;
            assert_eq!(
                (absent.status, text(&absent)),
                (404, text(&reply)),
                "{method}"
            );
        }
    }
    assert_eq!(offset(&running, &path).await, 0);
    running.stop().await;
}

#[tokio::test]
async fn a_right_lost_on_the_way_publishes_nothing_and_keeps_the_bytes() {
    let running = Running::start().await;
    let bytes = noise(1000, 11);
    let member = running.member("leaver", OrganizationRole::Member).await;
    let token = running.token(member, TokenKind::Personal, None).await;
    let request = tus_by(&token, "POST", "/files")
        .header("Upload-Length", "1000")
        .header("Upload-Metadata", &metadata("1.0"));
    let path = located(&running.send(request).await);
    let request = tus_by(&token, "PATCH", &path)
        .header("Content-Type", TUS_BYTES)
        .header("Upload-Offset", "0");
    let mut stream = half(&running, request, 1000, &bytes[..500]).await;
    while running.gateway.engine.in_progress() == 0 {
        tokio::task::yield_now().await;
    }
    let gateway = &running.gateway;
    let (row, _) = gateway
        .metadata
        .token_by_hash(&boxgate::auth::credential::hash(&token))
        .await
        .unwrap()
        .unwrap();
    gateway.metadata.delete_token(row.id, member).await.unwrap();
    stream.write_all(&bytes[500..]).await.unwrap();
    let reply = read_reply(&mut stream).await;
    assert_eq!(reply.status, 401, "{}", text(&reply));
    assert_eq!(reply.header("upload-offset"), Some("1000"));
    let path_of_box = "/api/organization/acme/box/demo";
    assert_eq!(running.get(path_of_box, &running.owner).await.status, 404);
    // With another credential of the same account it is still there, and HEAD brings it to its end.
    let token = running.token(member, TokenKind::Personal, None).await;
    let reply = running.send(tus_by(&token, "HEAD", &path)).await;
    assert_eq!(reply.status, 200, "{}", reply.head);
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.stop().await;
}

#[tokio::test]
async fn an_empty_upload_is_complete_at_once_and_is_no_box() {
    let running = Running::start().await;
    let empty = running
        .send(tus(&running, "POST", "/files").header("Upload-Length", "0"))
        .await;
    let path = located(&empty);
    assert_eq!(empty.header("upload-offset"), Some("0"));
    let status = running.get(&path, &running.owner).await.json();
    assert_eq!(status["state"], "done");
    assert_eq!(offset(&running, &path).await, 0);
    // Nor does one that told its length late become a box.
    let late = tus(&running, "POST", "/files")
        .header("Upload-Defer-Length", "1")
        .header("Upload-Metadata", &metadata("1.0"));
    let path = located(&running.send(late).await);
    let end = patch(&running, &path, 0, b"").header("Upload-Length", "0");
    assert_eq!(running.send(end).await.status, 400);
    let rests = head(&running, &path).await;
    assert_eq!(rests.header("upload-defer-length"), Some("1"));
    let path_of_box = "/api/organization/acme/box/demo";
    assert_eq!(running.get(path_of_box, &running.owner).await.status, 404);
    running.stop().await;
}

#[tokio::test]
async fn an_upload_that_nobody_goes_on_with_is_gone_as_it_was_told() {
    let running = Running::start_with(&[("BOXGATE_UPLOADS__IDLE_TIMEOUT", "1ms")]).await;
    let request = tus(&running, "POST", "/files")
        .header("Upload-Concat", "partial")
        .header("Upload-Length", "10");
    let created = running.send(request).await;
    assert!(created.header("upload-expires").unwrap().ends_with(" GMT"));
    let path = located(&created);
    while running.get(&path, &running.owner).await.status != 410 {
        tokio::task::yield_now().await;
    }
    // As it was told, though the sweep did not come by yet.
    let id = path["/files/".len()..].parse().unwrap();
    let row = running.gateway.engine.peek(id).await.unwrap().unwrap();
    assert_eq!(
        row.state,
        boxgate_storage::metadata::uploads::UploadState::Open
    );
    for request in [
        tus(&running, "HEAD", &path),
        patch(&running, &path, 0, b"0123456789"),
        tus(&running, "DELETE", &path),
        tus(&running, "POST", "/files").header("Upload-Concat", &format!("final;{path}")),
    ] {
        let gone = running.send(request).await;
        let told = (gone.header("tus-resumable"), gone.header("upload-offset"));
        assert_eq!(
            (gone.status, told),
            (410, (Some("1.0.0"), None)),
            "{}",
            gone.head
        );
    }
    running.stop().await;
}

#[tokio::test]
async fn options_tell_both_protocols_and_browsers_without_a_credential() {
    let running = Running::start_with(&[
        ("BOXGATE_FILES__CORS_ORIGINS", "https://app.example.com"),
        ("BOXGATE_UPLOADS__MAX_APPEND_SIZE", "100MiB"),
    ])
    .await;
    for path in [
        "/files",
        "/files/x",
        &file_path("demo", "1.0"),
        &format!("{}/upload", file_path("demo", "1.0")),
    ] {
        let reply = running.send(Request::new("OPTIONS", path)).await;
        assert_eq!(reply.status, 204, "{path}");
        assert_eq!(reply.header("tus-version"), Some("1.0.0"));
        assert_eq!(
            reply.header("tus-max-size").unwrap(),
            (128u64 << 30).to_string()
        );
        assert!(
            reply
                .header("tus-extension")
                .unwrap()
                .contains("creation-defer-length")
        );
        assert!(
            reply
                .header("tus-checksum-algorithm")
                .unwrap()
                .contains("sha1")
        );
        assert_eq!(
            reply.header("upload-limit"),
            Some("max-size=137438953472, max-append-size=104857600")
        );
        assert_eq!(reply.header("accept-patch"), Some(PARTIAL));
        assert_eq!(reply.header("access-control-allow-origin"), None);
    }
    // A method that has no row here is answered like any other request of these protocols.
    for path in ["/files", "/files/x"] {
        let odd = tus(&running, "REPORT", path).header("Origin", "https://app.example.com");
        let reply = running.send(odd).await;
        assert_eq!(reply.status, 405);
        assert!(reply.header("allow").unwrap().contains("POST"));
        assert_eq!(reply.header("tus-resumable"), Some("1.0.0"));
        assert_eq!(
            reply.header("access-control-allow-origin"),
            Some("https://app.example.com")
        );
        let problem = reply.header("content-type");
        assert_eq!(problem, Some("application/problem+json"));
    }
    let preflight = Request::new("OPTIONS", "/files")
        .header("Origin", "https://app.example.com")
        .header("Access-Control-Request-Method", "POST")
        .header(
            "Access-Control-Request-Headers",
            "authorization,tus-resumable,upload-length",
        );
    let reply = running.send(preflight).await;
    assert_eq!(
        reply.header("access-control-allow-origin"),
        Some("https://app.example.com")
    );
    assert!(
        reply
            .header("access-control-allow-headers")
            .unwrap()
            .contains("Authorization")
    );
    let refused = Request::new("HEAD", "/files/x").header("Origin", "https://app.example.com");
    let reply = running.send(refused).await;
    assert_eq!(reply.status, 401);
    assert!(
        reply
            .header("www-authenticate")
            .unwrap()
            .starts_with("Bearer")
    );
    assert!(
        reply
            .header("access-control-expose-headers")
            .unwrap()
            .contains("Upload-Offset")
    );
    let too_long = tus(&running, "POST", "/files")
        .header("Upload-Length", "300000000")
        .header("Upload-Metadata", &metadata("1.0"))
        .header("Content-Type", TUS_BYTES)
        .header("Content-Length", "200000000");
    assert_eq!(running.send(too_long).await.status, 413);
    running.stop().await;
}

#[tokio::test]
async fn an_upload_without_a_target_is_a_blob_until_it_is_deleted() {
    let running = Running::start().await;
    let bytes = noise(5000, 19);
    // One organization is enough to know whose it is.
    let request = tus(&running, "POST", "/files")
        .header("Upload-Length", "5000")
        .header("Content-Type", TUS_BYTES)
        .body(&bytes);
    let reply = running.send(request).await;
    assert_eq!(
        reply.json()["details"]["blake3"],
        blake3::hash(&bytes).to_hex().to_string()
    );
    assert!(reply.header("upload-expires").is_some() || reply.status == 201);
    let path = located(&reply);
    let status = running.get(&path, &running.owner).await.json();
    assert_eq!(status["state"], "done");
    assert!(status["expiresAt"].is_string());
    assert_eq!(running.stored_files().len(), 1);
    assert_eq!(
        running.send(tus(&running, "DELETE", &path)).await.status,
        204
    );
    assert_eq!(head(&running, &path).await.status, 410);
    // In several organizations nobody can guess.
    let owner = running
        .gateway
        .metadata
        .account_by_username("owner")
        .await
        .unwrap()
        .unwrap();
    running
        .gateway
        .metadata
        .create_organization(&"second".parse().unwrap(), None, owner.id)
        .await
        .unwrap();
    let create = |meta: &str| {
        tus(&running, "POST", "/files")
            .header("Upload-Length", "1")
            .header("Upload-Metadata", meta)
    };
    assert_eq!(running.send(create("filename eA==")).await.status, 400);
    let named = format!("organization {}", STANDARD.encode("second"));
    assert_eq!(running.send(create(&named)).await.status, 201);
    let foreign = format!("organization {}", STANDARD.encode("nobody"));
    assert_eq!(running.send(create(&foreign)).await.status, 404);
    running.stop().await;
}

#[tokio::test]
async fn as_many_uploads_are_open_as_one_account_may_have() {
    let running = Running::start_with(&[("BOXGATE_UPLOADS__OPEN_PER_PRINCIPAL", "2")]).await;
    let first = begin(&running, "1.0", 10).await;
    begin(&running, "2.0", 10).await;
    let create = || {
        tus(&running, "POST", "/files")
            .header("Upload-Length", "10")
            .header("Upload-Metadata", &metadata("3.0"))
    };
    let reply = running.send(create()).await;
    assert_eq!(reply.status, 429, "{}", text(&reply));
    assert!(text(&reply).contains("uploads.open_per_principal"));
    assert_eq!(
        running.send(tus(&running, "DELETE", &first)).await.status,
        204
    );
    assert_eq!(running.send(create()).await.status, 201);
    running.stop().await;
}

#[tokio::test]
async fn an_upload_goes_on_after_the_gateway_was_started_again() {
    let running = Running::start().await;
    let bytes = noise(12_000_000, 20);
    let path = begin(&running, "1.0", bytes.len()).await;
    running
        .send(patch(&running, &path, 0, &bytes[..9_500_000]))
        .await;
    let directory = running.stop().await;
    let running = Running::start_in(directory, &[]).await;
    assert_eq!(offset(&running, &path).await, 9_500_000);
    let rest = running
        .send(patch(&running, &path, 9_500_000, &bytes[9_500_000..]))
        .await;
    assert_eq!(rest.status, 204, "{}", text(&rest));
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.stop().await;
}

#[tokio::test]
async fn a_door_for_uploads_can_stand_elsewhere_or_be_shut() {
    let running = Running::start_with(&[
        ("BOXGATE_DOORS__FILES__PREFIX", "/up"),
        ("BOXGATE_UPLOADS__PUBLIC_URL", "https://bytes.example.com/"),
    ])
    .await;
    let request = tus(&running, "POST", "/up/files")
        .header("Upload-Length", "10")
        .header("Upload-Metadata", &metadata("1.0"));
    let reply = running.send(request).await;
    let location = reply.header("location").unwrap();
    assert!(
        location.starts_with("https://bytes.example.com/up/files/"),
        "{location}"
    );
    assert_eq!(
        running.send(Request::new("OPTIONS", "/files")).await.status,
        404
    );
    running.stop().await;
    let running = Running::start_with(&[("BOXGATE_DOORS__FILES__ENABLED", "false")]).await;
    assert_eq!(
        running.send(tus(&running, "POST", "/files")).await.status,
        404
    );
    let request = Request::new("POST", &file_path("demo", "1.0"))
        .token(&running.owner)
        .header("Upload-Complete", "?0")
        .body(b"x");
    assert_eq!(running.send(request).await.status, 400);
    running.stop().await;
}

#[tokio::test]
async fn the_server_in_general_tells_what_uploads_may_be() {
    let running = Running::start().await;
    // RFC 9110 §9.3.7, and the draft, "Upload-Limit".
    for path in ["*", "/files"] {
        let reply = running.send(Request::new("OPTIONS", path)).await;
        assert_eq!(reply.status, 204, "{path}: {}", reply.head);
        assert!(reply.header("upload-limit").is_some(), "{}", reply.head);
    }
    let reply = running.send(Request::new("GET", "*")).await;
    assert_eq!(reply.status, 400, "{}", reply.head);
    running.stop().await;
}
