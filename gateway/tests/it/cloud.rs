//! Publishing as to Vagrant Cloud: what its clients send, byte for byte, and what must not happen to what was published.

use std::sync::Arc;
use std::time::Duration;

use boxgate_storage::clock::{Clock as _, ManualClock, SystemClock};
use boxgate_storage::metadata::accounts::{OrganizationRole, PlatformRole};
use boxgate_storage::metadata::tokens::TokenKind;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::harness::{Reply, Request, Running, read_reply};
use crate::uploads::noise;

const BOX: &str = "/api/v1/box/acme/demo";
const PROVIDER: &str = "/api/v1/box/acme/demo/version/1.0.0/provider/virtualbox";

async fn call(running: &Running, method: &str, path: &str, body: Value) -> Reply {
    let request = Request::new(method, path).token(&running.owner);
    running.send(request.json(&body)).await
}

/// The same without a body, which must work.
async fn done(running: &Running, method: &str, path: &str) -> Value {
    let request = Request::new(method, path).token(&running.owner);
    let reply = running.send(request.header("Content-Length", "0")).await;
    assert_eq!(reply.status, 200, "{method} {path}: {}", text(&reply));
    reply.json()
}

fn text(reply: &Reply) -> String {
    String::from_utf8_lossy(&reply.body).into_owned()
}

fn path_of(url: &Value) -> String {
    let url = url.as_str().unwrap();
    url.split_once("://")
        .unwrap()
        .1
        .split_once('/')
        .map(|(_, path)| format!("/{path}"))
        .unwrap()
}

/// Box `acme/demo`, version 1.0.0, provider virtualbox, told of with this more; the path of its upload URL.
async fn announced(running: &Running, more: Value) -> String {
    let made = call(
        running,
        "POST",
        "/api/v1/boxes",
        json!({"username": "acme", "name": "demo"}),
    )
    .await;
    assert_eq!(made.status, 200, "{}", text(&made));
    let version = json!({"version": {"version": "1.0.0", "description": "first"}});
    let made = call(running, "POST", &format!("{BOX}/versions"), version).await;
    assert_eq!(made.json()["status"], "unreleased");
    let mut provider = json!({"name": "virtualbox"});
    provider
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    let path = format!("{BOX}/version/1.0.0/providers");
    let made = call(running, "POST", &path, json!({"provider": provider})).await;
    assert_eq!(made.status, 200, "{}", text(&made));
    path_of(&done(running, "GET", &format!("{PROVIDER}/upload")).await["upload_path"])
}

async fn put(running: &Running, path: &str, bytes: &[u8]) -> Reply {
    running.send(Request::new("PUT", path).body(bytes)).await
}

/// What Vagrant would be told and would fetch, if anything.
async fn fetched(running: &Running) -> Option<Vec<u8>> {
    let metadata = running.get("/acme/demo", &running.owner).await.json();
    let provider = metadata["versions"].as_array().unwrap().first()?["providers"][0].clone();
    let reply = running
        .get(&path_of(&provider["url"]), &running.owner)
        .await;
    assert_eq!(reply.status, 200);
    assert_eq!(
        provider["checksum"],
        hex::encode(Sha256::digest(&reply.body))
    );
    Some(reply.body)
}

#[tokio::test]
async fn a_box_is_nobodys_to_see_until_it_is_released_and_no_more_once_it_is_revoked() {
    let running = Running::start().await;
    let bytes = noise(3 << 20, 1);
    let upload = announced(&running, json!({})).await;
    done(&running, "GET", BOX).await;
    let public = json!({"box": {"is_private": false}});
    assert_eq!(
        call(&running, "PUT", BOX, public).await.json()["private"],
        false
    );
    let sent = put(&running, &upload, &bytes).await;
    assert_eq!(sent.status, 200, "{}", text(&sent));
    assert_eq!(fetched(&running).await, None, "not released yet");
    let file = "/acme/boxes/demo/versions/1.0.0/providers/virtualbox.box";
    let pinned = format!(
        "/acme/boxes/demo/versions/1.0.0/providers/virtualbox/unknown/vagrant.box?b3={}",
        blake3::hash(&bytes).to_hex()
    );
    let vault = "/api/organization/acme/box/demo/version/1.0.0";
    let below = format!("{vault}/provider/virtualbox/architecture/unknown/file");
    let by_digest = format!("/blobs/b3/{}", blake3::hash(&bytes).to_hex());
    let (download, info) = (format!("{below}/download"), format!("{below}/info"));
    for path in [vault, &info, &download, &by_digest] {
        assert_eq!(running.get(path, "").await.status, 404, "{path}");
        assert_eq!(
            running.get(path, &running.owner).await.status,
            200,
            "{path}"
        );
    }
    let listed = running.get("/api/discover", "").await.json();
    assert_eq!(listed[0]["versions"], json!([]), "{listed}");
    let early = format!("{BOX}/version/1.0.0/revoke");
    let early = call(&running, "PUT", &early, json!({})).await;
    assert_eq!(early.status, 422, "nothing to revoke");
    for path in [file, &pinned] {
        assert_eq!(
            running.get(path, "").await.status,
            404,
            "a stranger guesses {path}"
        );
        let own = running.get(path, &running.owner).await;
        assert!(own.body == bytes);
        assert!(
            own.header("cache-control").unwrap().starts_with("private"),
            "{}",
            own.head
        );
    }
    let strangers = |reply: Reply| reply.json()["versions"].as_array().unwrap().len();
    assert_eq!(strangers(running.get(BOX, "").await), 0);
    assert_eq!(strangers(running.get(BOX, &running.owner).await), 1);
    let version = format!("{BOX}/version/1.0.0");
    assert_eq!(running.get(&version, "").await.status, 404);
    assert_eq!(
        running.get("/api/v1/search?q=demo", "").await.json()["boxes"],
        json!([])
    );

    for _twice in 0..2 {
        assert_eq!(
            done(&running, "PUT", &format!("{version}/release")).await["status"],
            "active"
        );
    }
    assert!(fetched(&running).await.unwrap() == bytes);
    assert!(running.get(file, "").await.body == bytes);
    assert!(running.get(&download, "").await.body == bytes);
    assert!(running.get(&by_digest, "").await.body == bytes);
    let found = running
        .get("/api/v2/search?q=ACME/dem&provider=virtualbox", "")
        .await
        .json();
    assert_eq!(found["boxes"][0]["current_version"]["version"], "1.0.0");
    assert_eq!(strangers(running.get(BOX, "").await), 1);

    assert_eq!(
        done(&running, "PUT", &format!("{version}/revoke")).await["status"],
        "revoked"
    );
    assert_eq!(fetched(&running).await, None);
    assert_eq!(
        running.get("/api/v1/search?q=demo", "").await.json()["boxes"],
        json!([])
    );
    for path in [file, &pinned, &download, &info, &by_digest] {
        assert_eq!(running.get(path, "").await.status, 404, "{path}");
        let own = running.get(path, &running.owner).await;
        assert_eq!(own.status, 200, "{path}");
    }
    let events = running.gateway.metadata.events(0, 1000).await.unwrap();
    let named = |name: &str| events.iter().filter(|event| event.name == name).count();
    assert_eq!(
        (
            named("box.uploaded"),
            named("box.released"),
            named("box.revoked")
        ),
        (1, 1, 1)
    );
    running.stop().await;
}

#[tokio::test]
async fn what_fails_leaves_what_was_published_whole() {
    let running = Running::start().await;
    let (bytes, other) = (noise(2 << 20, 2), noise(2 << 20, 3));
    let hex = hex::encode(Sha256::digest(&bytes));
    let upload = announced(
        &running,
        json!({"checksum": hex, "checksum_type": "SHA256"}),
    )
    .await;
    let wrong = put(&running, &upload, &other).await;
    assert_eq!(wrong.status, 422);
    assert_eq!(wrong.json()["success"], false);
    assert!(
        wrong.json()["errors"][0]
            .as_str()
            .unwrap()
            .contains("checksum")
    );
    let callback = format!("{PROVIDER}/upload/complete");
    let none = call(&running, "PUT", &callback, json!({})).await;
    assert_eq!(none.status, 422, "{}", text(&none));
    assert_eq!(put(&running, &upload, &bytes).await.status, 200);
    for _twice in 0..2 {
        done(&running, "PUT", &callback).await;
    }
    done(&running, "PUT", &format!("{BOX}/version/1.0.0/release")).await;
    assert!(fetched(&running).await.unwrap() == bytes);

    // Other bytes than were told of, a body that is cut, one without a byte, pieces, codings.
    assert_eq!(put(&running, &upload, &other).await.status, 422);
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let head = format!(
        "PUT {upload} HTTP/1.1\r\nHost: gateway\r\nContent-Length: {}\r\n\r\n",
        other.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&other[..other.len() / 2]).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(read_reply(&mut stream).await.status, 422);
    assert_eq!(put(&running, &upload, b"").await.status, 422);
    for (name, value, status) in [
        ("Content-Range", "bytes 0-1/2097152", 422),
        ("Content-Encoding", "gzip", 415),
    ] {
        let request = Request::new("PUT", &upload)
            .header(name, value)
            .body(&bytes);
        assert_eq!(running.send(request).await.status, status, "{name}");
    }
    assert!(fetched(&running).await.unwrap() == bytes);

    // Once another checksum is told of, the same URL takes the bytes that have it, in one swap.
    let told = json!({"provider": {"checksum": hex::encode(Sha256::digest(&other)), "checksum_type": "sha256"}});
    assert_eq!(call(&running, "PUT", PROVIDER, told).await.status, 200);
    assert!(
        fetched(&running).await.unwrap() == bytes,
        "a checksum alone changes nothing"
    );
    assert_eq!(put(&running, &upload, &bytes).await.status, 422);
    assert_eq!(put(&running, &upload, &other).await.status, 200);
    assert!(fetched(&running).await.unwrap() == other);
    running.stop().await;
}

#[tokio::test]
async fn a_released_box_is_not_replaced_where_that_is_refused() {
    let running = Running::start_with(&[("BOXGATE_VAGRANT_CLOUD__REPUBLISH", "refuse")]).await;
    let (bytes, other) = (noise(1 << 20, 4), noise(1 << 20, 5));
    let upload = announced(&running, json!({})).await;
    assert_eq!(put(&running, &upload, &other).await.status, 200);
    assert_eq!(
        put(&running, &upload, &bytes).await.status,
        200,
        "nobody has it yet"
    );
    done(&running, "PUT", &format!("{BOX}/version/1.0.0/release")).await;
    assert_eq!(put(&running, &upload, &other).await.status, 422);
    for way in ["upload", "upload/direct"] {
        let asked = running
            .get(&format!("{PROVIDER}/{way}"), &running.owner)
            .await;
        assert_eq!(asked.status, 422, "{way}");
    }
    assert!(fetched(&running).await.unwrap() == bytes);
    running.stop().await;
}

#[tokio::test]
async fn the_url_of_an_upload_ends_with_its_time_its_token_its_rights_and_its_provider() {
    let clock = Arc::new(ManualClock::new(SystemClock.now()));
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start_at(directory, &[], Arc::clone(&clock) as _).await;
    let bytes = noise(1 << 20, 6);
    let upload = announced(&running, json!({})).await;
    let metadata = &running.gateway.metadata;

    for forged in [
        upload.replace("/uploads/", "/uploads/9"),
        format!("{}x", &upload[..upload.len() - 1]),
        "/uploads/nonsense".to_owned(),
    ] {
        let reply = put(&running, &forged, &bytes).await;
        assert_eq!(
            (reply.status, reply.json()["success"].clone()),
            (404, json!(false)),
            "{forged}"
        );
    }
    assert_eq!(running.get(&upload, &running.owner).await.status, 405);

    // Somebody who is no member any more, and somebody whose token ended.
    let helper = running.member("helper", OrganizationRole::Admin).await;
    let token = running.token(helper, TokenKind::Personal, None).await;
    let asked = running
        .get(&format!("{PROVIDER}/upload/direct"), &token)
        .await
        .json();
    let theirs = path_of(&asked["upload_path"]);
    assert_eq!(put(&running, &theirs, &bytes).await.status, 200);
    metadata
        .set_membership(helper, running.organization, OrganizationRole::Member)
        .await
        .unwrap();
    assert_eq!(
        put(&running, &theirs, &bytes).await.status,
        403,
        "a box of another member"
    );
    metadata
        .set_membership(helper, running.organization, OrganizationRole::Admin)
        .await
        .unwrap();
    assert_eq!(put(&running, &theirs, &bytes).await.status, 200);
    let signed_out = Request::new("DELETE", "/api/v1/authenticate").token(&token);
    assert_eq!(running.send(signed_out).await.status, 204);
    assert_eq!(put(&running, &theirs, &bytes).await.status, 404);
    assert_eq!(
        put(&running, &upload, &bytes).await.status,
        200,
        "another's goes on"
    );

    // A day later.
    clock.advance(Duration::from_hours(24));
    assert_eq!(put(&running, &upload, &bytes).await.status, 200);
    clock.advance(Duration::from_millis(1));
    assert_eq!(put(&running, &upload, &bytes).await.status, 404);

    // A new provider of the same name is another.
    let upload =
        path_of(&done(&running, "GET", &format!("{PROVIDER}/upload")).await["upload_path"]);
    done(&running, "DELETE", PROVIDER).await;
    assert_eq!(put(&running, &upload, &bytes).await.status, 404);
    let again = json!({"provider": {"name": "virtualbox"}});
    let path = format!("{BOX}/version/1.0.0/providers");
    assert_eq!(call(&running, "POST", &path, again).await.status, 200);
    assert_eq!(put(&running, &upload, &bytes).await.status, 404);
    running.stop().await;
}

#[tokio::test]
async fn what_is_deleted_while_its_bytes_come_stays_deleted() {
    let running = Running::start().await;
    let bytes = noise(2 << 20, 7);
    let upload = announced(&running, json!({})).await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let head = format!(
        "PUT {upload} HTTP/1.1\r\nHost: gateway\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        bytes.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&bytes[..1 << 20]).await.unwrap();
    // It is under way once its bytes have a row.
    let count = || running.gateway.engine.in_progress();
    let begun = async {
        while count() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), begun)
        .await
        .unwrap();
    done(&running, "DELETE", &format!("{BOX}/version/1.0.0")).await;
    stream.write_all(&bytes[1 << 20..]).await.unwrap();
    let reply = read_reply(&mut stream).await;
    assert_eq!(reply.status, 410, "{}", text(&reply));
    assert_eq!(done(&running, "GET", BOX).await["versions"], json!([]));
    assert_eq!(count(), 0);
    assert!(running.stored_files().is_empty());
    running.stop().await;
}

#[tokio::test]
async fn architectures_of_one_provider_come_and_go_by_themselves() {
    let running = Running::start().await;
    let upload = announced(&running, json!({"architecture": "amd64"})).await;
    let (amd, arm) = (noise(1 << 20, 8), noise(1 << 20, 9));
    assert_eq!(put(&running, &upload, &amd).await.status, 200);
    let v2 = "/api/v2/box/acme/demo/version/1.0.0";
    // Flat, as an older client of v2 sends it.
    let second = json!({"name": "virtualbox", "architecture": "arm64"});
    let made = call(&running, "POST", &format!("{v2}/providers"), second.clone()).await;
    assert_eq!(
        made.json()["default_architecture"],
        false,
        "{}",
        text(&made)
    );
    let way = format!("{v2}/provider/virtualbox/arm64");
    let asked = done(&running, "GET", &format!("{way}/upload/direct")).await;
    assert!(path_of(&asked["callback"]).starts_with("/api/v2/box/acme/demo/"));
    assert_eq!(
        put(&running, &path_of(&asked["upload_path"]), &arm)
            .await
            .status,
        200
    );
    assert_eq!(
        call(&running, "PUT", &path_of(&asked["callback"]), json!({}))
            .await
            .status,
        200
    );
    // What holds a box is not told of anew.
    let taken = call(&running, "POST", &format!("{v2}/providers"), second).await;
    assert_eq!(taken.status, 422);
    assert!(
        text(&taken).contains("already been taken"),
        "{}",
        text(&taken)
    );

    let listed = |tree: &Value| -> Vec<(String, bool)> {
        let all = tree["versions"][0]["providers"].as_array().unwrap().clone();
        let one = |p: &Value| {
            let name = p["architecture"].as_str().unwrap().to_owned();
            (name, p["default_architecture"].as_bool().unwrap())
        };
        all.iter().map(one).collect()
    };
    let tree = done(&running, "GET", BOX).await;
    assert_eq!(
        listed(&tree),
        [("amd64".to_owned(), true), ("arm64".to_owned(), false)]
    );
    let default = json!({"provider": {"default_architecture": true}});
    assert_eq!(
        call(&running, "PUT", &way, default).await.json()["default_architecture"],
        true
    );
    let tree = done(&running, "GET", BOX).await;
    assert_eq!(
        listed(&tree),
        [("arm64".to_owned(), true), ("amd64".to_owned(), false)]
    );
    // Who names none means the default; to delete one of several it must be named.
    assert_eq!(
        done(&running, "GET", PROVIDER).await["architecture"],
        "arm64"
    );
    let unnamed = call(&running, "DELETE", PROVIDER, json!({})).await;
    assert_eq!(unnamed.status, 422);
    assert!(text(&unnamed).contains("arm64"), "{}", text(&unnamed));
    let file = "/acme/boxes/demo/versions/1.0.0/providers/virtualbox.box";
    assert!(running.get(file, &running.owner).await.body == arm);
    let none = json!({"provider": {"default_architecture": false}});
    let unset = call(&running, "PUT", &way, none).await.json();
    assert_eq!(unset["default_architecture"], false);
    let tree = done(&running, "GET", BOX).await;
    assert_eq!(
        listed(&tree),
        [("amd64".to_owned(), true), ("arm64".to_owned(), false)],
        "another is the default then"
    );
    let default = json!({"provider": {"default_architecture": true}});
    call(&running, "PUT", &way, default).await;
    assert_eq!(
        done(&running, "DELETE", &way).await["architecture"],
        "arm64"
    );
    assert_eq!(
        done(&running, "GET", PROVIDER).await["default_architecture"],
        true
    );
    assert_eq!(
        done(&running, "GET", PROVIDER).await["architecture"],
        "amd64"
    );
    assert!(running.get(file, &running.owner).await.body == amd);
    done(&running, "DELETE", PROVIDER).await;
    assert_eq!(
        done(&running, "GET", BOX).await["versions"][0]["providers"],
        json!([])
    );
    running.stop().await;
}

#[tokio::test]
async fn a_stored_box_is_not_told_to_be_elsewhere_nor_by_whose_password() {
    let running = Running::start().await;
    let upload = announced(&running, json!({})).await;
    let provider = |more: Value| json!({ "provider": more });
    let secret = provider(json!({"url": "https://ann:secret@boxes.example/x.box"}));
    let refused = call(&running, "PUT", PROVIDER, secret).await;
    assert_eq!(refused.status, 422);
    assert!(!text(&refused).contains("secret"), "{}", text(&refused));
    let elsewhere = provider(json!({"url": "https://boxes.example/x.box"}));
    let told = call(&running, "PUT", PROVIDER, elsewhere.clone()).await;
    assert_eq!(
        (told.status, told.json()["hosted"].clone()),
        (200, json!(false))
    );
    let bytes = noise(1 << 20, 13);
    assert_eq!(put(&running, &upload, &bytes).await.status, 200);
    assert_eq!(done(&running, "GET", PROVIDER).await["hosted"], true);
    let again = call(&running, "PUT", PROVIDER, elsewhere).await;
    assert_eq!(again.status, 200, "it repeats what is known");
    let other = provider(json!({"url": "https://boxes.example/y.box"}));
    let refused = call(&running, "PUT", PROVIDER, other).await;
    assert_eq!(refused.status, 422);
    assert!(
        text(&refused).contains("is stored here"),
        "{}",
        text(&refused)
    );
    let sum = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
    let next = provider(json!({"checksum": sum(b"next"), "checksum_type": "sha256"}));
    let told = call(&running, "PUT", PROVIDER, next).await.json();
    assert_eq!(told["checksum"], json!(sum(&bytes)));
    assert!(
        told["warnings"][0]
            .as_str()
            .unwrap()
            .contains("next upload")
    );
    running.stop().await;
}

#[tokio::test]
async fn a_version_is_shown_here_as_it_was_spelled_so_that_clients_find_it_again() {
    let running = Running::start().await;
    announced(&running, json!({})).await;
    let versions = format!("{BOX}/versions");
    let version = |name: &str| json!({"version": {"version": name}});
    let made = call(&running, "POST", &versions, version("v2.0.0")).await;
    assert_eq!(made.json()["version"], "v2.0.0", "{}", text(&made));
    let tree = done(&running, "GET", BOX).await;
    assert_eq!(tree["versions"][0]["version"], "v2.0.0");
    let other = call(&running, "POST", &versions, version("2.0.0")).await;
    assert_eq!(other.status, 422);
    assert!(text(&other).contains("here 'v2.0.0'"), "{}", text(&other));
    for spelling in ["v2.0.0", "2.0.0"] {
        let found = done(&running, "GET", &format!("{BOX}/version/{spelling}")).await;
        assert_eq!(found["number"], "v2.0.0");
    }
    running.stop().await;
}

#[tokio::test]
async fn what_is_no_box_is_refused_where_boxes_are_looked_into() {
    let running = Running::start_with(&[("BOXGATE_VAGRANT_CLOUD__INSPECT", "refuse")]).await;
    let upload = announced(&running, json!({})).await;
    for (bytes, why) in [
        (
            &b"<html><body>502 Bad Gateway</body></html>"[..],
            "no archive",
        ),
        (&[7; 2000], "no archive"),
        (b"PK\x03\x04 and so on", "packed by zip"),
    ] {
        let refused = put(&running, &upload, bytes).await;
        assert_eq!(refused.status, 422);
        assert!(text(&refused).contains(why), "{}", text(&refused));
    }
    assert_eq!(
        done(&running, "GET", PROVIDER).await["checksum"],
        Value::Null
    );
    running.stop().await;
}

#[tokio::test]
async fn signing_in_makes_a_token_and_the_oldest_of_too_many_ends() {
    let running = Running::start_with(&[("BOXGATE_VAGRANT_CLOUD__TOKENS", "2")]).await;
    running.account("ann", PlatformRole::User).await;
    let path = "/api/v1/authenticate";
    let sign_in = |login: &str, password: &str| {
        let body = json!({
            "user": {"login": login, "password": password}, "token": {"description": "laptop"},
            "two_factor": {"code": null}
        });
        running.send(Request::new("POST", path).json(&body))
    };
    for (login, password) in [("ann", "wrong"), ("nobody", "secret")] {
        let reply = sign_in(login, password).await;
        assert_eq!(
            (reply.status, reply.json()["success"].clone()),
            (401, json!(false))
        );
    }
    let mut tokens = Vec::new();
    for _ in 0..3 {
        let made = sign_in("ann", "secret").await;
        assert_eq!(made.status, 200, "{}", text(&made));
        assert_eq!(made.json()["description"], "laptop");
        tokens.push(made.json()["token"].as_str().unwrap().to_owned());
    }
    let mut statuses = Vec::new();
    for token in &tokens {
        statuses.push(running.get(path, token).await.status);
    }
    assert_eq!(statuses, [401, 200, 200]);
    let who = running.get("/api/v2/authenticate", &tokens[2]).await;
    assert_eq!(who.json(), json!({"user": {"username": "ann"}}));
    assert_eq!(running.get(path, "").await.status, 401);
    let out = Request::new("DELETE", path).token(&tokens[2]);
    assert_eq!(running.send(out).await.status, 204);
    assert_eq!(running.get(path, &tokens[2]).await.status, 401);
    running.stop().await;
}

#[tokio::test]
async fn members_publish_what_is_theirs_and_strangers_learn_nothing() {
    let running = Running::start().await;
    let upload = announced(&running, json!({})).await;
    assert_eq!(
        put(&running, &upload, &noise(1 << 20, 10)).await.status,
        200
    );
    let outsider = running.account("outsider", PlatformRole::User).await;
    let outsider = running.token(outsider, TokenKind::Personal, None).await;
    let member = running.member("member", OrganizationRole::Member).await;
    let member = running.token(member, TokenKind::Personal, None).await;
    let release = format!("{BOX}/version/1.0.0/release");
    for (token, path, status) in [
        (&outsider, BOX.to_owned(), 404),
        (&outsider, "/api/v1/box/acme/absent".to_owned(), 404),
        (&member, BOX.to_owned(), 200),
    ] {
        assert_eq!(running.get(&path, token).await.status, status, "{path}");
    }
    for (token, status) in [(&outsider, 404), (&member, 403)] {
        let request = Request::new("PUT", &release)
            .token(token)
            .header("Content-Length", "0");
        assert_eq!(running.send(request).await.status, status);
        assert_eq!(
            running
                .get(&format!("{PROVIDER}/upload"), token)
                .await
                .status,
            status
        );
    }
    let create = |token: &str, name: &str| {
        let body = json!({"box": {"username": "acme", "name": name, "is_private": true}});
        running.send(
            Request::new("POST", "/api/v2/boxes")
                .token(token)
                .json(&body),
        )
    };
    assert_eq!(create(&outsider, "new").await.status, 403);
    let made = create(&member, "new").await;
    assert_eq!(
        (made.status, made.json()["private"].clone()),
        (200, json!(true)),
        "{}",
        text(&made)
    );
    assert_eq!(
        create(&member, "NEW").await.status,
        422,
        "taken, whatever its case"
    );
    let boxes = |reply: Reply| -> Vec<String> {
        let all = reply.json()["boxes"].as_array().unwrap().clone();
        all.iter()
            .map(|b| b["tag"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        boxes(running.get("/api/v1/user/acme", &member).await),
        ["acme/demo", "acme/new"]
    );
    assert!(boxes(running.get("/api/v1/user/acme", &outsider).await).is_empty());
    assert!(boxes(running.get("/api/v1/user/acme", "").await).is_empty());
    assert_eq!(
        running.get("/api/v1/user/nobody", &member).await.status,
        404
    );
    running.stop().await;
}

#[tokio::test]
async fn plugins_are_asked_about_each_upload_and_never_told_its_url() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("data/plugins");
    std::fs::create_dir_all(&place).unwrap();
    let plugin = r#"
        fn route(req) {
            if req.path == "/told" { return respond(200, kv::get("told") ?? #{}); }
        }
        fn on_upload_start(upload) {
            kv::set("told", #{ path: upload.req.path, box: upload.box, version: upload.version,
                arch: upload.architecture, who: upload.principal.name, size: upload.size }, 60);
            if upload.size > 3000000 { return reject(413, "too large for me"); }
        }
        fn on_delete(req, blob) { deny(403, "this one stays") }
    "#;
    std::fs::write(place.join("nosy.rhai"), plugin).unwrap();
    let variables = [("BOXGATE_SCRIPTS__CHECK_EVERY", "0s")];
    let running = Running::start_in(directory, &variables).await;
    for status in running.gateway.scripts.status() {
        assert_eq!(status.error, None, "{}", status.plugin);
    }
    let upload = announced(&running, json!({})).await;
    assert_eq!(
        put(&running, &upload, &noise(4 << 20, 11)).await.status,
        413
    );
    assert_eq!(
        put(&running, &upload, &noise(1 << 20, 12)).await.status,
        200
    );
    let told = running.get("/told", "").await.json();
    let expected = json!({
        "path": "/uploads/***", "box": "demo", "version": "1.0.0", "arch": "unknown", "who": "owner", "size": 1 << 20
    });
    assert_eq!(told, expected);
    for path in [PROVIDER, BOX, &format!("{BOX}/version/1.0.0")] {
        let reply = running
            .send(Request::new("DELETE", path).token(&running.owner))
            .await;
        assert_eq!(reply.status, 403, "{path}: {}", text(&reply));
    }
    running.stop().await;
}
