//! Signing in, the cookie and the token of its forms.

use base64::Engine as _;
use boxgate::route::{Door, Policy, ROUTES};
use boxgate_storage::metadata::accounts::{OrganizationRole, PlatformRole};
use serde_json::json;

use super::{Browser, publish, text, token_in};
use crate::harness::{Request, Running};

#[tokio::test]
async fn a_session_begins_anew_with_each_sign_in_and_ends_for_good() {
    let running = Running::start().await;
    running.member("ann", OrganizationRole::Member).await;
    let planted = "ab".repeat(32);
    let mut browser = Browser::new(&running);
    browser
        .cookies
        .insert("boxgate".to_owned(), planted.clone());
    let answer = browser.sign_in("ann", "secret").await;
    assert_eq!(answer.status, 303);
    let line = answer
        .head
        .lines()
        .find(|line| line.contains("boxgate=") && !line.contains("form"))
        .unwrap();
    assert!(line.contains("Path=/; HttpOnly; SameSite=Strict"), "{line}");
    let first = browser.cookies["boxgate"].clone();
    assert_ne!(first, planted);
    assert!(browser.page("/").await.contains("ann"));
    // Whoever signs in once more leaves nothing of the session before.
    assert_eq!(browser.sign_in("ann", "secret").await.status, 303);
    let second = browser.cookies["boxgate"].clone();
    assert_ne!(second, first);
    let mut former = Browser::new(&running);
    for dead in [&planted, &first] {
        former.cookies.insert("boxgate".to_owned(), dead.clone());
        assert_eq!(former.get("/-/session").await.status, 401);
        assert!(!former.page("/").await.contains("Sign out"));
    }
    assert_eq!(
        browser.submit("/-/keys", "/-/sign-out", &[]).await.status,
        303
    );
    assert!(!browser.cookies.contains_key("boxgate"));
    former.cookies.insert("boxgate".to_owned(), second);
    assert_eq!(former.get("/-/session").await.status, 401);
    // Other credentials are no sessions, wherever they are put.
    former
        .cookies
        .insert("boxgate".to_owned(), running.owner.clone());
    assert_eq!(former.get("/-/session").await.status, 401);
    running.stop().await;
}

#[tokio::test]
async fn failed_tries_are_told_beside_the_field_and_counted() {
    let running = Running::start_with(&[("BOXGATE_AUTH__LOGIN_FAILURES_PER_MINUTE", "2")]).await;
    running.member("ann", OrganizationRole::Member).await;
    let mut browser = Browser::new(&running);
    for _ in 0..2 {
        let wrong = browser.sign_in("ann", "guess").await;
        assert_eq!(wrong.status, 422);
        let page = text(&wrong);
        assert!(
            page.contains("do not belong together") && page.contains("value=\"ann\""),
            "{page}"
        );
        assert!(!page.contains("guess"), "{page}");
    }
    let late = browser.sign_in("ann", "secret").await;
    assert_eq!(late.status, 429);
    assert!(text(&late).contains("Too many failed tries"));
    // A form that no cookie came with signs nobody in: another site may have written it.
    let mut stranger = Browser::new(&running);
    let bare = stranger
        .post("/-/sign-in", &[("username", "ann"), ("password", "secret")])
        .await;
    assert_eq!(bare.status, 400);
    assert!(!stranger.cookies.contains_key("boxgate"));
    running.stop().await;
}

#[tokio::test]
async fn no_other_door_takes_the_cookie() {
    let running = Running::start_with(&[("BOXGATE_BOXITORY__HOME", "/nonexistent")]).await;
    let root = running.account("root", PlatformRole::Admin).await;
    running
        .gateway
        .metadata
        .set_membership(root, running.organization, OrganizationRole::Owner)
        .await
        .unwrap();
    publish(&running, "inner", json!({ "isPublic": false })).await;
    let browser = Browser::of(&running, "root").await;
    let mut looked_at = 0;
    for row in ROUTES {
        let is_open = matches!(
            row.policy,
            Policy::Public | Policy::Optional | Policy::OptionalStrict | Policy::Operations
        );
        if row.door == Door::Page || is_open {
            continue;
        }
        let path = row
            .path
            .replace("{org}", "acme")
            .replace("{box}", "inner")
            .replace(['{', '}'], "");
        let request = Request::new(row.method.as_str(), &path).header("Cookie", &browser.cookie());
        let reply = running
            .send(request.header("Sec-Fetch-Site", "same-origin").body(b""))
            .await;
        let body = text(&reply);
        let refused = matches!(reply.status, 401 | 403) || body.contains("or you may not");
        assert!(refused, "{} {path}: {} {body}", row.method, reply.status);
        looked_at += 1;
    }
    assert!(looked_at > 100, "{looked_at}");
    running.stop().await;
}

#[tokio::test]
async fn uploads_take_the_cookie_with_the_token_of_its_session_alone() {
    let running = Running::start().await;
    running.member("ann", OrganizationRole::Member).await;
    running.member("bob", OrganizationRole::Member).await;
    let mut ann = Browser::of(&running, "ann").await;
    let mut bob = Browser::of(&running, "bob").await;
    let tokens = [
        ann.get("/-/session").await.json(),
        bob.get("/-/session").await.json(),
    ];
    let [mine, theirs] = tokens.map(|session| session["token"].as_str().unwrap().to_owned());
    let target =
        base64::engine::general_purpose::STANDARD.encode("acme/sent/1.0.0/virtualbox/amd64");
    let create = |token: &str| {
        let request = Request::new("POST", "/files")
            .header("Tus-Resumable", "1.0.0")
            .header("Upload-Length", "9")
            .header("Upload-Metadata", &format!("target {target}"));
        if token.is_empty() {
            request
        } else {
            request.header("X-CSRF-Token", token)
        }
    };
    for wrong in ["", theirs.as_str(), "00"] {
        assert_eq!(ann.send(create(wrong)).await.status, 401, "{wrong}");
    }
    let foreign = create(&mine).header("Sec-Fetch-Site", "cross-site");
    assert_eq!(ann.send(foreign).await.status, 401);
    let made = ann.send(create(&mine)).await;
    assert_eq!(made.status, 201, "{}", text(&made));
    let place = made.header("location").unwrap().to_owned();
    let piece = |from: usize, body: &[u8]| {
        Request::new("PATCH", &place)
            .header("Tus-Resumable", "1.0.0")
            .header("Upload-Offset", &from.to_string())
            .header("Content-Type", "application/offset+octet-stream")
            .body(body)
    };
    assert_eq!(
        ann.send(piece(0, b"some ").header("X-CSRF-Token", &mine))
            .await
            .status,
        204
    );
    // The session ends in the middle; another one of the same person goes on.
    assert_eq!(ann.submit("/-/keys", "/-/sign-out", &[]).await.status, 303);
    assert_eq!(
        ann.send(piece(5, b"more").header("X-CSRF-Token", &mine))
            .await
            .status,
        401
    );
    let mut ann = Browser::of(&running, "ann").await;
    let fresh = ann.get("/-/session").await.json()["token"]
        .as_str()
        .unwrap()
        .to_owned();
    let whole = ann
        .send(piece(5, b"more").header("X-CSRF-Token", &fresh))
        .await;
    assert_eq!(whole.status, 204, "{}", text(&whole));
    assert!(ann.page("/acme/sent").await.contains("9 B"));
    running.stop().await;
}

#[tokio::test]
async fn a_form_without_the_token_of_its_session_changes_nothing() {
    let running = Running::start().await;
    running.member("ann", OrganizationRole::Member).await;
    running.member("bob", OrganizationRole::Member).await;
    let mut ann = Browser::of(&running, "ann").await;
    let mut bob = Browser::of(&running, "bob").await;
    let stolen = token_in(&bob.page("/-/new-box/acme").await);
    for token in ["", "00", &stolen] {
        let refused = ann
            .post(
                "/-/new-box/acme",
                &[("name", "forged"), ("form_token", token)],
            )
            .await;
        assert_eq!(refused.status, 403, "{token}");
        let refused = ann
            .post("/-/keys", &[("organization", "1"), ("form_token", token)])
            .await;
        assert_eq!(refused.status, 403, "{token}");
    }
    let own = token_in(&ann.page("/-/new-box/acme").await);
    let body = format!("name=forged&form_token={own}");
    let cross = Request::new("POST", "/-/new-box/acme")
        .header("Sec-Fetch-Site", "cross-site")
        .body(body.as_bytes());
    assert_eq!(ann.send(cross).await.status, 401);
    assert_eq!(ann.get("/acme/forged").await.status, 404);
    // What a page may do is what may be done by its forms: GET changes nothing.
    for row in ROUTES
        .iter()
        .filter(|row| row.door == Door::Page && row.policy != Policy::Public)
    {
        if row.method == http::Method::POST {
            let path = row.path.replace("{org}", "acme").replace(['{', '}'], "");
            assert!(
                matches!(ann.get(&path).await.status, 200 | 404 | 403 | 405),
                "{path}"
            );
        }
    }
    running.stop().await;
}

#[tokio::test]
async fn a_key_is_shown_once_and_works_until_it_is_deleted() {
    let running = Running::start().await;
    running.member("ann", OrganizationRole::Member).await;
    let mut ann = Browser::of(&running, "ann").await;
    let organization = running.organization.0.to_string();
    let wrong = [
        ("organization", organization.as_str()),
        ("description", "for CI"),
        ("days", "soon"),
    ];
    let refused = ann.submit("/-/keys", "/-/keys", &wrong).await;
    assert_eq!(refused.status, 422);
    assert!(text(&refused).contains("value=\"for CI\"") && text(&refused).contains("whole number"));
    let fields = [
        ("organization", organization.as_str()),
        ("description", "for CI"),
        ("days", ""),
    ];
    let made = text(&ann.submit("/-/keys", "/-/keys", &fields).await);
    let key = made
        .split_once("id=\"key\">")
        .unwrap()
        .1
        .split('<')
        .next()
        .unwrap()
        .to_owned();
    assert_eq!(
        running.get("/api/user", &key).await.json()["isServiceAccount"],
        true
    );
    let page = ann.page("/-/keys").await;
    assert!(page.contains("for CI") && !page.contains(&key), "{page}");
    let id = page
        .split_once("/-/keys/")
        .unwrap()
        .1
        .split('/')
        .next()
        .unwrap()
        .to_owned();
    let rotated = text(
        &ann.submit("/-/keys", &format!("/-/keys/{id}/rotate"), &[])
            .await,
    );
    let next = rotated
        .split_once("id=\"key\">")
        .unwrap()
        .1
        .split('<')
        .next()
        .unwrap()
        .to_owned();
    assert_eq!(running.get("/api/user", &key).await.status, 401);
    assert_eq!(running.get("/api/user", &next).await.status, 200);
    assert_eq!(
        ann.submit("/-/keys", &format!("/-/keys/{id}/delete"), &[])
            .await
            .status,
        303
    );
    assert_eq!(running.get("/api/user", &next).await.status, 401);
    running.stop().await;
}

#[tokio::test]
async fn what_was_written_outlives_the_session_it_was_written_in() {
    let running = Running::start().await;
    publish(&running, "demo", json!({ "isPublic": true })).await;
    let mut browser = Browser::of(&running, "owner").await;
    let edit = "/-/edit/acme/demo";
    let token = token_in(&browser.page(edit).await);
    // Another tab signs out.
    let mut tab = Browser::new(&running);
    tab.cookies.clone_from(&browser.cookies);
    assert_eq!(tab.submit(edit, "/-/sign-out", &[]).await.status, 303);
    let written = [
        ("name", "demo"),
        ("about", "A <long> story"),
        ("description", "line\r\nline"),
        ("public", "on"),
    ];
    let with = |token: &str| {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(written).append_pair("form_token", token);
        form.finish()
    };
    let send = async |browser: &mut Browser<'_>, form: String, site: &str| {
        let request = Request::new("POST", edit)
            .header("Content-Type", "application/x-www-form-urlencoded")
            .header("Sec-Fetch-Site", site);
        browser.send(request.body(form.as_bytes())).await
    };
    let kept = send(&mut browser, with(&token), "same-origin").await;
    assert_eq!(kept.status, 401);
    let shown = text(&kept);
    assert!(
        shown.contains("value=\"A &#60;long&#62; story\""),
        "{shown}"
    );
    assert!(
        shown.contains("Go on") && !shown.contains(&token),
        "{shown}"
    );
    // What another site sent is nobody's words.
    for site in ["cross-site", "none"] {
        let lost = text(&send(&mut browser, with(&token), site).await);
        assert!(!lost.contains("story"), "{lost}");
    }
    assert_eq!(browser.sign_in("owner", "secret").await.status, 303);
    let again = send(&mut browser, with(""), "same-origin").await;
    assert_eq!(again.status, 403);
    let shown = text(&again);
    assert!(shown.contains("Send it"), "{shown}");
    let saved = send(&mut browser, with(&token_in(&shown)), "same-origin").await;
    assert_eq!(saved.status, 303, "{}", text(&saved));
    assert!(
        browser
            .page("/acme/demo")
            .await
            .contains("A &#60;long&#62; story")
    );
    running.stop().await;
}
