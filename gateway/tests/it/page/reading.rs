//! What a browser is shown.

use std::collections::BTreeMap;
use std::time::Duration;

use boxgate::admission::request::may_pass;
use boxgate::auth::credential;
use boxgate::request::RequestFacts;
use boxgate_storage::metadata::accounts::{OrganizationRole, PlatformRole};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Browser, for_all, publish, text};
use crate::harness::{Request, Running, read_reply};

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
