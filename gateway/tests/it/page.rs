//! The page as a browser meets it: whole without scripts, signed in by a cookie that no other door takes, its forms
//! believed with their tokens alone.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use boxgate::admission::request::may_pass;
use boxgate::auth::credential;
use boxgate::request::RequestFacts;
use boxgate::route::{Door, Policy, ROUTES};
use boxgate_storage::metadata::accounts::{OrganizationRole, PlatformRole};
use boxgate_storage::metadata::tokens::TokenKind;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{Reply, Request, Running, read_reply};
use crate::scripts::write_plugin;

const HTML: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

/// A browser: what it asks for, and the cookies that it keeps.
struct Browser<'r> {
    running: &'r Running,
    cookies: BTreeMap<String, String>,
}

impl<'r> Browser<'r> {
    fn new(running: &'r Running) -> Self {
        Self {
            running,
            cookies: BTreeMap::new(),
        }
    }

    /// One where that person signed in; their password is the harness's.
    async fn of(running: &'r Running, name: &str) -> Self {
        let mut browser = Self::new(running);
        let answer = browser.sign_in(name, "secret").await;
        assert_eq!(answer.status, 303, "{}", text(&answer));
        browser
    }

    fn cookie(&self) -> String {
        let pairs = self
            .cookies
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        pairs.collect::<Vec<_>>().join("; ")
    }

    async fn send(&mut self, request: Request) -> Reply {
        let request = if self.cookies.is_empty() {
            request
        } else {
            request.header("Cookie", &self.cookie())
        };
        let reply = self.running.send(request.header("Accept", HTML)).await;
        for line in reply
            .head
            .lines()
            .filter(|line| line.to_ascii_lowercase().starts_with("set-cookie:"))
        {
            let pair = line["set-cookie:".len()..].split(';').next().unwrap();
            let (name, value) = pair.trim().split_once('=').unwrap();
            if value.is_empty() {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        reply
    }

    async fn get(&mut self, path: &str) -> Reply {
        self.send(Request::new("GET", path)).await
    }

    /// The text of a page that is there.
    async fn page(&mut self, path: &str) -> String {
        let reply = self.get(path).await;
        assert_eq!(reply.status, 200, "{path}: {}", text(&reply));
        text(&reply)
    }

    async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Reply {
        let body = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(fields)
            .finish();
        let request =
            Request::new("POST", path).header("Content-Type", "application/x-www-form-urlencoded");
        self.send(request.body(body.as_bytes())).await
    }

    /// Sends a form with the token that the page at `from` holds.
    async fn submit(&mut self, from: &str, path: &str, fields: &[(&str, &str)]) -> Reply {
        let token = token_in(&self.page(from).await);
        let fields: Vec<_> = fields
            .iter()
            .copied()
            .chain([("form_token", token.as_str())])
            .collect();
        self.post(path, &fields).await
    }

    async fn sign_in(&mut self, name: &str, password: &str) -> Reply {
        let fields = [("username", name), ("password", password), ("next", "/")];
        self.submit("/-/sign-in", "/-/sign-in", &fields).await
    }
}

fn text(reply: &Reply) -> String {
    String::from_utf8_lossy(&reply.body).into_owned()
}

/// The token that the forms of a page hold: the last one, as the first ends the session.
fn token_in(page: &str) -> String {
    let (_, rest) = page
        .rsplit_once("name=\"form_token\" value=\"")
        .unwrap_or_else(|| panic!("no form in {page}"));
    rest.split('"').next().unwrap().to_owned()
}

/// What a box has that anybody may find and read.
fn for_all() -> serde_json::Value {
    json!({ "isPublic": true, "published": true })
}

async fn publish(running: &Running, name: &str, fields: serde_json::Value) {
    assert_eq!(
        running
            .upload(name, "1.0.0", b"some bytes of a box")
            .await
            .status,
        200
    );
    let path = format!("/api/organization/acme/box/{name}");
    let change = Request::new("PUT", &path)
        .token(&running.owner)
        .json(&fields);
    assert_eq!(running.send(change).await.status, 200);
}

#[tokio::test]
async fn whoever_prefers_a_page_gets_it_and_vagrant_gets_metadata() {
    let running = Running::start().await;
    publish(
        &running,
        "demo",
        json!({ "isPublic": true, "published": true, "shortDescription": "For all" }),
    )
    .await;
    publish(
        &running,
        "inner",
        json!({ "isPublic": false, "published": true }),
    )
    .await;
    let mut visitor = Browser::new(&running);
    let home = visitor.page("/").await;
    assert!(
        home.contains("href=\"/acme/demo\"") && home.contains("For all"),
        "{home}"
    );
    assert!(!home.contains("inner"), "{home}");
    let organization = visitor.page("/-/boxes/acme").await;
    assert!(
        organization.contains("demo") && !organization.contains("inner"),
        "{organization}"
    );
    let a_box = visitor.get("/acme/demo").await;
    assert_eq!(a_box.status, 200);
    assert!(a_box.header("vary").unwrap().contains("Accept"));
    let shown = text(&a_box);
    let sha256 = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(
        b"some bytes of a box",
    ));
    for part in [
        "vagrant box add acme/demo --box-version 1.0.0 --provider virtualbox",
        "VAGRANT_SERVER_URL=http://gateway",
        &sha256,
        "19 B",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(visitor.page("/-/boxes?q=dem").await.contains("acme/demo"));
    assert_eq!(visitor.get("/acme/inner").await.status, 404);
    // Neither Vagrant nor curl prefers a page.
    for accept in ["application/json", "*/*", ""] {
        let request = Request::new("GET", "/acme/demo");
        let request = if accept.is_empty() {
            request
        } else {
            request.header("Accept", accept)
        };
        let metadata = running.send(request).await;
        assert_eq!(metadata.json()["name"], "acme/demo", "{accept}");
    }
    let root = running
        .send(Request::new("GET", "/").header("Accept", "*/*"))
        .await;
    assert_eq!(root.status, 404);
    running.stop().await;
}

#[tokio::test]
async fn a_door_that_is_shut_shows_no_page() {
    let running = Running::start_with(&[("BOXGATE_DOORS__PAGE__ENABLED", "false")]).await;
    publish(&running, "demo", for_all()).await;
    let mut visitor = Browser::new(&running);
    for path in ["/", "/-/boxes", "/-/sign-in"] {
        assert_eq!(visitor.get(path).await.status, 404, "{path}");
    }
    assert_eq!(visitor.get("/acme/demo").await.json()["name"], "acme/demo");
    running.stop().await;
}

#[tokio::test]
async fn a_page_is_of_our_own_files_alone_and_small() {
    let running = Running::start().await;
    let root = running.account("root", PlatformRole::Admin).await;
    running
        .gateway
        .metadata
        .set_membership(root, running.organization, OrganizationRole::Admin)
        .await
        .unwrap();
    publish(&running, "demo", json!({ "isPublic": true, "published": true, "description": "# A\n\n![x](https://example.com/x.png)" })).await;
    let mut browser = Browser::of(&running, "root").await;
    let mut assets = BTreeMap::new();
    for path in [
        "/",
        "/-/boxes?q=demo",
        "/-/boxes/acme",
        "/acme/demo",
        "/-/others",
        "/-/new-box/acme",
        "/-/edit/acme/demo",
        "/-/new-version/acme/demo",
        "/-/edit/acme/demo/1.0.0",
        "/-/keys",
        "/-/upload/acme",
        "/-/operate",
        "/nobody/nothing",
    ] {
        let reply = browser.get(path).await;
        let policy = reply
            .header("content-security-policy")
            .unwrap_or_else(|| panic!("{path}: {}", reply.head));
        for rule in [
            "default-src 'none'",
            "script-src 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
        ] {
            assert!(policy.contains(rule), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        let page = text(&reply);
        assert!(page.contains("</html>"), "{path}: {page}");
        for script in page.split("<script").skip(1) {
            let tag = script.split('>').next().unwrap();
            assert!(tag.contains("src=\"/-/assets/"), "{path}: {tag}");
            assert!(
                script.split_once('>').unwrap().1.starts_with("</script>"),
                "{path}: inline"
            );
        }
        assert!(
            !page.contains("<style") && !page.contains(" style=") && !page.contains(" onclick="),
            "{path}"
        );
        for link in page.split("/-/assets/").skip(1) {
            let name = link.split('"').next().unwrap();
            assets.insert(name.to_owned(), 0);
        }
    }
    assert!(assets.len() >= 6, "{assets:?}");
    for (name, size) in &mut assets {
        let path = format!("/-/assets/{name}");
        let plain = browser.get(&path).await;
        assert_eq!(
            plain.header("cache-control"),
            Some("public, max-age=31536000, immutable"),
            "{name}"
        );
        let digest = blake3::hash(&plain.body).to_hex();
        assert!(name.contains(&digest[..16]), "{name}");
        let zipped = browser
            .send(Request::new("GET", &path).header("Accept-Encoding", "br, gzip"))
            .await;
        assert_eq!(zipped.header("content-encoding"), Some("gzip"), "{name}");
        let mut whole = Vec::new();
        std::io::Read::read_to_end(
            &mut flate2::read::GzDecoder::new(zipped.body.as_slice()),
            &mut whole,
        )
        .unwrap();
        assert_eq!(whole, plain.body, "{name}");
        *size = zipped.body.len();
    }
    let mut visitor = Browser::new(&running);
    let first = visitor.page("/").await;
    let needed: usize = assets
        .iter()
        .filter(|(name, _)| first.contains(*name))
        .map(|(_, size)| size)
        .sum();
    // Pages themselves go as they are.
    let total = needed + first.len();
    assert!(total < 60 << 10, "{total}: {} and {needed}", first.len());
    running.stop().await;
}

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
async fn what_people_write_is_shown_as_text() {
    let running = Running::start().await;
    let attack = "\"><script>alert(1)</script><img src=x onerror=alert(1)>";
    let markdown = format!(
        "{attack}\n\n[click](javascript:alert(1)) <b onclick=alert(1)>x</b>\n\n```\n</pre><script>alert(2)</script>\n```"
    );
    publish(
        &running,
        "demo",
        json!({ "isPublic": true, "published": true, "shortDescription": attack, "description": markdown, "readme": markdown }),
    )
    .await;
    let organization = Request::new("PUT", "/api/organization/acme").token(&running.owner);
    assert_eq!(
        running
            .send(organization.json(&json!({ "description": attack })))
            .await
            .status,
        200
    );
    let version =
        Request::new("PUT", "/api/organization/acme/box/demo/version/1.0.0").token(&running.owner);
    let told = json!({ "description": markdown, "release_notes": markdown, "deprecated": true, "deprecation_reason": attack });
    assert_eq!(running.send(version.json(&told)).await.status, 200);
    let mut owner = Browser::of(&running, "owner").await;
    let query: String = url::form_urlencoded::byte_serialize(attack.as_bytes()).collect();
    for path in [
        "/".to_owned(),
        "/-/boxes/acme".to_owned(),
        "/acme/demo".to_owned(),
        "/-/edit/acme/demo".to_owned(),
        "/-/edit/acme/demo/1.0.0".to_owned(),
        format!("/-/boxes?q={query}"),
        format!("/-/upload/acme?box={query}"),
        format!("/-/sign-in?next={query}"),
        format!("/-/boxes/{query}"),
        format!("/acme/{query}"),
    ] {
        let page = text(&owner.get(&path).await);
        assert!(
            !page.contains("<script>") && !page.contains("<img") && !page.contains("<b onclick"),
            "{path}: {page}"
        );
        assert!(!page.contains("href=\"javascript:"), "{path}: {page}");
    }
    let name = owner
        .submit("/-/new-box/acme", "/-/new-box/acme", &[("name", attack)])
        .await;
    assert_eq!(name.status, 400);
    assert!(!text(&name).contains("<script>"), "{}", text(&name));
    running.stop().await;
}

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
async fn private_boxes_are_downloaded_by_a_link_that_stands_for_the_session() {
    let running = Running::start().await;
    running.member("ann", OrganizationRole::Member).await;
    publish(
        &running,
        "inner",
        json!({ "isPublic": false, "published": true }),
    )
    .await;
    let path = "/-/download/acme/inner/1.0.0/virtualbox/amd64";
    assert_eq!(Browser::new(&running).get(path).await.status, 404);
    let mut ann = Browser::of(&running, "ann").await;
    let led = ann.get(path).await;
    assert_eq!(led.status, 303);
    let link = led
        .header("location")
        .unwrap()
        .strip_prefix("http://gateway")
        .unwrap()
        .to_owned();
    let bytes = running.get(&link, "").await;
    assert_eq!(
        (bytes.status, bytes.body.as_slice()),
        (200, b"some bytes of a box".as_slice())
    );
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

#[tokio::test]
async fn a_long_listing_comes_page_by_page() {
    let running = Running::start().await;
    let owner = credential::hash(&running.owner);
    let (_, account) = running
        .gateway
        .metadata
        .token_by_hash(&owner)
        .await
        .unwrap()
        .unwrap();
    for number in 0..120 {
        let fields = boxgate_storage::metadata::catalog::BoxFields {
            published: true,
            public: number % 2 == 0,
            ..Default::default()
        };
        let name = format!("Box-{number:03}").parse().unwrap();
        running
            .gateway
            .metadata
            .create_box(running.organization, &name, account.id, fields, "test")
            .await
            .unwrap();
    }
    let mut member = Browser::of(&running, "owner").await;
    let mut visitor = Browser::new(&running);
    for (browser, count) in [(&mut member, 120), (&mut visitor, 60)] {
        let (mut path, mut seen) = ("/-/boxes/acme".to_owned(), Vec::new());
        loop {
            let page = browser.page(&path).await;
            let names = page
                .split("href=\"/acme/")
                .skip(1)
                .map(|rest| rest.split('"').next().unwrap().to_owned());
            let names: Vec<_> = names.collect();
            assert!((1..=50).contains(&names.len()), "{}", names.len());
            seen.extend(names);
            let Some((_, next)) = page.split_once("rel=\"next\" href=\"") else {
                break;
            };
            path = next.split('"').next().unwrap().to_owned();
        }
        assert_eq!(seen.len(), count);
        assert!(seen.is_sorted());
    }
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

#[tokio::test]
async fn what_strangers_write_is_read_when_it_is_their_turn() {
    let running = Running::start_with(&[
        ("BOXGATE_LIMITS__RATE_EXEMPT", ""),
        ("BOXGATE_LIMITS__REQUESTS_AT_ONCE", "1"),
        ("BOXGATE_LIMITS__REQUESTS_WAIT", "10ms"),
        ("BOXGATE_LIMITS__JSON_TIMEOUT", "10m"),
    ])
    .await;
    let form = || {
        Request::new("POST", "/-/keys")
            .header("Content-Type", "application/x-www-form-urlencoded")
            .header("Sec-Fetch-Site", "same-origin")
            .body(b"description=long+words")
    };
    let stranger = RequestFacts::new(running.address.ip(), "gateway");
    assert!(may_pass(&running.gateway, &stranger));
    let wire = form().to_bytes();
    let (most, last) = wire.split_at(wire.len() - 1);
    let mut slow = TcpStream::connect(running.address).await.unwrap();
    slow.write_all(most).await.unwrap();
    let has_its_turn = async {
        while may_pass(&running.gateway, &stranger) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_mins(1), has_its_turn).await.unwrap();
    let refused = running.send(form()).await;
    assert_eq!(refused.status, 429, "{}", text(&refused));
    assert!(text(&refused).contains("limits.requests_at_once"));
    slow.write_all(last).await.unwrap();
    let kept = read_reply(&mut slow).await;
    assert_eq!(kept.status, 401, "{}", text(&kept));
    assert!(text(&kept).contains("long words"), "{}", text(&kept));
    running.stop().await;
}

#[tokio::test]
async fn where_nothing_is_a_browser_reads_so_on_a_page() {
    let running = Running::start().await;
    publish(&running, "demo", for_all()).await;
    let mut visitor = Browser::new(&running);
    // The first word of a box's address is its organization's.
    assert!(visitor.page("/acme").await.contains("demo"));
    for path in ["/-/nowhere", "/nobody", "/a/b/c/d", "/acme/absent"] {
        let absent = visitor.get(path).await;
        assert_eq!(absent.status, 404, "{path}");
        assert!(text(&absent).contains("<h1>Not Found</h1>"), "{path}");
        let request = Request::new("GET", path).header("Accept", "application/json");
        let absent = running.send(request).await;
        assert_eq!(absent.status, 404, "{path}");
        assert!(absent.json().is_object(), "{path}");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_page_leads_only_to_what_its_listener_has() {
    let directory = tempfile::tempdir().unwrap();
    let text = "[[listeners]]\ndoors = [\"page\"]\n";
    std::fs::write(directory.path().join("boxgate.toml"), text).unwrap();
    let running = Running::start_in(directory, &[]).await;
    let mut browser = Browser::of(&running, "owner").await;
    let made = [("name", "demo"), ("published", "on"), ("public", "on")];
    let made = browser
        .submit("/-/new-box/acme", "/-/new-box/acme", &made)
        .await;
    assert_eq!(made.header("location"), Some("/-/boxes/acme/demo"));
    let shown = browser.page("/-/boxes/acme/demo").await;
    assert!(shown.contains("New version"), "{shown}");
    assert!(!shown.contains("Upload</a>"), "{shown}");
    assert!(!browser.page("/-/boxes/acme").await.contains("Upload</a>"));
    let upload = browser.page("/-/upload/acme").await;
    assert!(
        upload.contains("No uploads are taken at this address"),
        "{upload}"
    );
    running.stop().await;
}
