//! What the forms of a page change.

use boxgate_storage::metadata::accounts::{OrganizationRole, PlatformRole};
use boxgate_storage::metadata::tokens::TokenKind;
use serde_json::json;

use super::{Browser, for_all, publish, text};
use crate::harness::{Request, Running};
use crate::scripts::write_plugin;

#[tokio::test]
async fn boxes_are_made_changed_and_deleted() {
    let running = Running::start().await;
    running.member("ann", OrganizationRole::Member).await;
    let mut ann = Browser::of(&running, "ann").await;
    let long = "x".repeat(256);
    let fields = [
        ("name", "mine"),
        ("about", long.as_str()),
        ("description", "kept *text*"),
        ("published", "1"),
    ];
    let refused = ann
        .submit("/-/new-box/acme", "/-/new-box/acme", &fields)
        .await;
    assert_eq!(refused.status, 400);
    let page = text(&refused);
    let (before, after) = page.split_once("at most 255 characters").unwrap();
    assert!(
        before.contains(&long) && before.contains("f-about") && after.contains("kept *text*"),
        "{page}"
    );
    let fields = [
        ("name", "mine"),
        ("about", "Short"),
        ("description", "kept *text*"),
        ("published", "1"),
    ];
    let made = ann
        .submit("/-/new-box/acme", "/-/new-box/acme", &fields)
        .await;
    assert_eq!(
        (made.status, made.header("location")),
        (303, Some("/acme/mine")),
        "{}",
        text(&made)
    );
    assert!(ann.page("/acme/mine").await.contains("kept <em>text</em>"));
    let twice = ann
        .submit("/-/new-box/acme", "/-/new-box/acme", &fields)
        .await;
    assert_eq!(twice.status, 400, "{}", text(&twice));
    assert!(text(&twice).contains("already exists"));
    let public = [
        ("name", "mine"),
        ("about", "Short"),
        ("public", "1"),
        ("published", "1"),
    ];
    assert_eq!(
        ann.submit("/-/edit/acme/mine", "/-/edit/acme/mine", &public)
            .await
            .status,
        303
    );
    let mut visitor = Browser::new(&running);
    assert!(visitor.page("/acme/mine").await.contains("Short"));

    let kept = ann
        .submit(
            "/-/edit/acme/mine",
            "/-/delete/acme/mine",
            &[("confirm", "other")],
        )
        .await;
    assert_eq!(kept.status, 422);
    assert_eq!(
        ann.submit(
            "/-/edit/acme/mine",
            "/-/delete/acme/mine",
            &[("confirm", "mine")]
        )
        .await
        .status,
        303
    );
    assert_eq!(ann.get("/acme/mine").await.status, 404);
    // Boxes of others are not hers to change.
    publish(&running, "theirs", for_all()).await;
    assert_eq!(ann.get("/-/edit/acme/theirs").await.status, 403);
    assert!(!ann.page("/acme/theirs").await.contains("/-/edit/"));
    running.stop().await;
}

#[tokio::test]
async fn versions_are_made_changed_released_revoked_and_deleted() {
    let running = Running::start().await;
    running.member("ann", OrganizationRole::Member).await;
    let mut ann = Browser::of(&running, "ann").await;
    let fields = [("name", "mine"), ("public", "1"), ("published", "1")];
    let new_box = "/-/new-box/acme";
    assert_eq!(ann.submit(new_box, new_box, &fields).await.status, 303);
    let mut visitor = Browser::new(&running);
    let new = "/-/new-version/acme/mine";
    assert_eq!(
        ann.submit(new, new, &[("name", "not one/")]).await.status,
        400
    );
    assert_eq!(
        ann.submit(new, new, &[("name", "1.0.0"), ("description", "first")])
            .await
            .status,
        303
    );
    assert!(
        !visitor.page("/acme/mine").await.contains("1.0.0"),
        "it is not released yet"
    );
    let edit = "/-/edit/acme/mine/1.0.0";
    assert_eq!(
        ann.submit(edit, "/-/release/acme/mine/1.0.0", &[])
            .await
            .status,
        303
    );
    assert!(visitor.page("/acme/mine").await.contains("1.0.0"));
    let change = [
        ("description", "first"),
        ("notes", "Notes **here**"),
        ("deprecated", "1"),
        ("reason", "old"),
    ];
    assert_eq!(ann.submit(edit, edit, &change).await.status, 303);
    let shown = visitor.page("/acme/mine").await;
    assert!(
        shown.contains("<strong>here</strong>") && shown.contains("deprecated"),
        "{shown}"
    );
    assert_eq!(
        ann.submit(edit, "/-/revoke/acme/mine/1.0.0", &[])
            .await
            .status,
        303
    );
    assert!(!visitor.page("/acme/mine").await.contains("1.0.0"));
    assert_eq!(
        ann.submit(edit, "/-/delete/acme/mine/1.0.0", &[])
            .await
            .status,
        303
    );
    running.stop().await;
}

#[tokio::test]
async fn a_plugin_is_asked_about_what_a_form_deletes() {
    let directory = tempfile::tempdir().unwrap();
    let source = r#"fn on_delete(req, blob) { deny(403, blob.box + " is in use") }"#;
    write_plugin(directory.path(), "acme", "", source);
    let running = Running::start_in(directory, &[]).await;
    publish(&running, "demo", for_all()).await;
    let mut owner = Browser::of(&running, "owner").await;
    for (path, fields) in [
        ("/-/delete/acme/demo/1.0.0", vec![]),
        ("/-/delete/acme/demo", vec![("confirm", "demo")]),
    ] {
        let refused = owner.submit("/-/edit/acme/demo", path, &fields).await;
        assert_eq!(refused.status, 403, "{path}");
        assert!(
            text(&refused).contains("demo is in use"),
            "{}",
            text(&refused)
        );
    }
    assert!(owner.page("/acme/demo").await.contains("1.0.0"));
    running.stop().await;
}

#[tokio::test]
async fn a_plugin_sees_no_session_and_no_link_of_anybody() {
    let directory = tempfile::tempdir().unwrap();
    let source = r#"fn on_response(req, res) {
        #{ set: #{ "x-seen": `${req.header("cookie") ?? "none"} ${res.header("set-cookie") ?? "none"} ${res.header("location") ?? "none"}` } }
    }"#;
    write_plugin(directory.path(), "acme", "", source);
    let running = Running::start_in(directory, &[]).await;
    running.member("ann", OrganizationRole::Member).await;
    publish(
        &running,
        "inner",
        json!({ "isPublic": false, "published": true }),
    )
    .await;
    let mut ann = Browser::new(&running);
    let signed_in = ann.sign_in("ann", "secret").await;
    assert_eq!(signed_in.header("x-seen"), Some("*** *** /"));
    let led = ann
        .get("/-/download/acme/inner/1.0.0/virtualbox/amd64")
        .await;
    let seen = led.header("x-seen").unwrap();
    assert!(
        seen.starts_with("*** none http") && seen.ends_with("?token=***"),
        "{seen}"
    );
    assert!(led.header("location").unwrap().len() > seen.len());
    running.stop().await;
}

#[tokio::test]
async fn those_who_operate_see_how_it_stands_and_send_once_more() {
    let running = Running::start_with(&[("BOXGATE_WEBHOOKS__ALLOW_NETWORKS", "127.0.0.0/8")]).await;
    let url = format!("http://127.0.0.1:{}/hook", crate::scripts::outside().await);
    let root = running.account("root", PlatformRole::Admin).await;
    running.member("ann", OrganizationRole::Member).await;
    let token = running.token(root, TokenKind::Personal, None).await;
    let endpoint = json!({ "url": url, "events": ["*"], "secret": "a secret of sixteen bytes" });
    let made = running
        .send(
            Request::new("POST", "/api/admin/webhooks")
                .token(&token)
                .json(&endpoint),
        )
        .await;
    assert!(made.status < 300, "{}", text(&made));
    let id = made.json()["id"].as_str().unwrap().to_owned();
    publish(&running, "demo", for_all()).await;
    running.begin_upload(root).await;
    let mut ann = Browser::of(&running, "ann").await;
    for path in ["/-/operate", "/-/operate/now"] {
        assert_eq!(ann.get(path).await.status, 403, "{path}");
        assert_eq!(Browser::new(&running).get(path).await.status, 401, "{path}");
    }
    let mut operator = Browser::of(&running, "root").await;
    let page = operator.page("/-/operate").await;
    for part in [
        "Bytes in",
        "<svg",
        "Cache hits",
        "database",
        "store.main",
        url.as_str(),
        "0 B of 100 B",
        "Limits reached",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let part = operator.page("/-/operate/now").await;
    assert!(
        part.contains("store.main") && !part.contains("</html>"),
        "{part}"
    );
    let log = format!("/-/webhooks/{id}");
    let mut page = String::new();
    for _ in 0..600 {
        page = operator.page(&log).await;
        if page.contains("/-/redeliver/") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let (_, rest) = page
        .split_once("/-/redeliver/")
        .unwrap_or_else(|| panic!("nothing was sent: {page}"));
    let delivery = rest.split('"').next().unwrap().to_owned();
    let again = operator
        .submit(&log, &format!("/-/redeliver/{delivery}"), &[])
        .await;
    assert_eq!(
        (again.status, again.header("location")),
        (303, Some(log.as_str())),
        "{}",
        text(&again)
    );
    running.stop().await;
}
