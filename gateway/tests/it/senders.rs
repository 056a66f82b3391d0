//! Whose an upload is: a person's, or one service account's of theirs. What two of them send never mixes.

use boxgate::auth::credential;
use boxgate_storage::metadata::accounts::{AccountId, OrganizationRole};
use boxgate_storage::metadata::tokens::TokenKind;
use serde_json::json;

use crate::harness::{Reply, Request, Running, file_path};
use crate::resumable::{TUS_BYTES, located, metadata, tus_by};
use crate::uploads::{downloaded, noise};

/// A person with two service accounts, and a key of each of the three.
struct Senders {
    running: Running,
    person: AccountId,
    keys: [String; 3],
}

impl Senders {
    async fn set() -> Self {
        let running = Running::start().await;
        let person = running.member("ann", OrganizationRole::Admin).await;
        let acme = Some(running.organization);
        let keys = [
            running.token(person, TokenKind::Personal, None).await,
            running.token(person, TokenKind::Service, acme).await,
            running.token(person, TokenKind::Service, acme).await,
        ];
        Self {
            running,
            person,
            keys,
        }
    }

    async fn send(&self, request: Request) -> Reply {
        self.running.send(request).await
    }

    /// A tus upload of ten bytes, by a key.
    async fn begin(&self, key: &str) -> String {
        let request = tus_by(key, "POST", "/files")
            .header("Upload-Length", "10")
            .header("Upload-Metadata", &metadata("1.0"));
        located(&self.send(request).await)
    }
}

fn any(key: &str, method: &str, path: &str) -> Request {
    tus_by(key, method, path)
        .header("Content-Type", TUS_BYTES)
        .header("Upload-Offset", "0")
        .body(b"0123456789")
}

fn range(key: &str, range: &str, bytes: &[u8]) -> Request {
    Request::new("POST", &file_path("demo", "1.0"))
        .token(key)
        .header("Content-Range", range)
        .body(bytes)
}

#[tokio::test]
async fn nobody_but_its_sender_goes_on_with_an_upload() {
    let senders = Senders::set().await;
    for owner in &senders.keys {
        let path = senders.begin(owner).await;
        for other in senders.keys.iter().filter(|key| *key != owner) {
            for method in ["HEAD", "GET", "PATCH", "DELETE"] {
                let reply = senders.send(any(other, method, &path)).await;
                assert_eq!(reply.status, 404, "{method}");
            }
            let joined = tus_by(other, "POST", "/files")
                .header("Upload-Concat", &format!("final;{path}"))
                .header("Upload-Metadata", &metadata("2.0"));
            assert_eq!(senders.send(joined).await.status, 404);
        }
        assert_eq!(senders.send(any(owner, "DELETE", &path)).await.status, 204);
    }
    senders.running.stop().await;
}

#[tokio::test]
async fn ranges_of_two_senders_do_not_become_one_box() {
    let senders = Senders::set().await;
    let bytes = noise(20, 61);
    let [person, one, two] = &senders.keys;
    let first = senders.send(range(one, "bytes 0-9/20", &bytes[..10])).await;
    assert_eq!(first.status, 200);
    for other in [person, two] {
        let rest = senders
            .send(range(other, "bytes 10-19/20", &[b'x'; 10]))
            .await;
        assert_eq!(
            (rest.status, rest.header("upload-offset")),
            (409, Some("0"))
        );
        // A whole upload of theirs ends only what they left open themselves.
        let whole = Request::new("POST", &file_path("demo", "1.0")).token(other);
        assert_eq!(senders.send(whole.body(b"theirs")).await.status, 200);
    }
    let rest = senders
        .send(range(one, "bytes 10-19/20", &bytes[10..]))
        .await;
    assert_eq!(rest.json()["details"]["isComplete"], true);
    assert!(downloaded(&senders.running, "demo", "1.0").await == bytes);
    senders.running.stop().await;
}

#[tokio::test]
async fn chunks_of_two_senders_do_not_become_one_box() {
    let senders = Senders::set().await;
    let path = format!("{}/upload", file_path("demo", "1.0"));
    let chunk = |key: &str, i: u8, bytes: &[u8]| {
        Request::new("POST", &path)
            .token(key)
            .header("x-chunk-index", &i.to_string())
            .header("x-total-chunks", "3")
            .body(bytes)
    };
    let [person, one, two] = &senders.keys;
    for (i, key) in [(0, one), (1, two), (1, person)] {
        let held = senders.send(chunk(key, i, &[i; 10])).await;
        assert_eq!(held.status, 200);
        assert_eq!(held.json()["details"]["isComplete"], false, "{i}");
    }
    for (key, held) in [(one, json!([0])), (two, json!([1])), (person, json!([1]))] {
        let listed = senders.running.get(&path, key).await.json();
        assert_eq!(listed["uploads"].as_array().unwrap().len(), 1);
        assert_eq!(listed["uploads"][0]["chunks"], held);
    }
    for (i, bytes) in [(1, b"0123456789"), (2, b"abcdefghij")] {
        let held = senders.send(chunk(one, i, bytes)).await;
        assert_eq!(held.json()["details"]["isComplete"], i == 2);
    }
    let expected = [&[0; 10][..], b"0123456789abcdefghij"].concat();
    assert!(downloaded(&senders.running, "demo", "1.0").await == expected);
    senders.running.stop().await;
}

#[tokio::test]
async fn every_credential_of_a_sender_goes_on_with_its_uploads() {
    let senders = Senders::set().await;
    let running = &senders.running;
    let rows = &running.gateway.metadata;
    let [person, key, _] = &senders.keys;
    let upload = senders.begin(person).await;
    let session = running
        .token(senders.person, TokenKind::Session, None)
        .await;
    assert_eq!(
        senders.send(tus_by(&session, "HEAD", &upload)).await.status,
        200
    );

    let upload = senders.begin(key).await;
    let accounts = rows
        .tokens(senders.person, TokenKind::Service)
        .await
        .unwrap();
    let name = accounts[0].name.clone().unwrap();
    let login = json!({ "clientId": name, "clientSecret": key });
    let login = Request::new("POST", "/api/auth/service-account").json(&login);
    let session = senders.send(login).await.json()["accessToken"].clone();
    let session = session.as_str().unwrap();
    assert_eq!(
        senders.send(tus_by(session, "HEAD", &upload)).await.status,
        200
    );

    let path = format!("/api/service-accounts/{}/rotate", accounts[0].id.0);
    let rotate = Request::new("POST", &path).token(person);
    let rotated = senders.send(rotate.json(&json!({ "overlap_s": 60 }))).await;
    let rotated = rotated.json()["token"].clone();
    for credential in [key, session, rotated.as_str().unwrap()] {
        assert_eq!(
            senders
                .send(tus_by(credential, "HEAD", &upload))
                .await
                .status,
            200
        );
    }
    assert!(
        rows.token_by_hash(&credential::hash(key))
            .await
            .unwrap()
            .is_some()
    );
    let sent = senders
        .send(any(rotated.as_str().unwrap(), "PATCH", &upload))
        .await;
    assert_eq!(sent.status, 204);
    assert!(downloaded(running, "demo", "1.0").await == b"0123456789");
    senders.running.stop().await;
}
