//! Uploads in parts that their client lost track of: found again, compared, and bound to one file.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boxgate_storage::digest::PieceHasher;
use boxgate_storage::digest::outboard::subtree_value;
use boxgate_storage::metadata::accounts::OrganizationRole;
use boxgate_storage::metadata::tokens::TokenKind;
use sha2::Digest as _;

use crate::harness::{Request, Running, file_path};
use crate::pieces::{MIB, PART, begin, part, put};
use crate::uploads::noise;

#[tokio::test]
async fn who_lost_track_of_an_upload_in_parts_finds_it_and_binds_it_to_one_file() {
    let running = Running::start().await;
    let bytes = noise(2 * PART + 3 * MIB + 7, 12);
    let path = begin(&running, "1.0", bytes.len()).await;
    for k in [0, 2] {
        let reply = running.send(put(&running, &path, k, part(&bytes, k))).await;
        assert_eq!(reply.status, 204, "{}", reply.head);
    }
    let list = async |query: &str, token: &str| running.get(&format!("/files{query}"), token).await;
    let target = "?target=acme/demo/1.0/virtualbox/amd64";
    let found = list(target, &running.owner).await;
    assert_eq!(found.status, 200, "{}", found.head);
    let found = &found.json()["uploads"];
    assert_eq!(found.as_array().unwrap().len(), 1);
    let found = &found[0];
    assert!(found["url"].as_str().unwrap().ends_with(&path), "{found}");
    assert_eq!(found["length"], bytes.len());
    assert_eq!(found["parts"]["size"], PART);
    for (query, status) in [
        ("?target=acme/demo/2.0/virtualbox/amd64", 200),
        ("", 400),
        ("?organization=acme", 400),
        ("?target=acme/demo", 400),
        ("?target=nowhere/demo/1.0/virtualbox/amd64", 404),
    ] {
        let reply = list(query, &running.owner).await;
        assert_eq!(reply.status, status, "{query}");
        assert!(reply.status != 200 || reply.json()["uploads"] == serde_json::json!([]));
    }

    // Each part that is held, by the value that its bytes have in the tree of the whole.
    let parts = running.get(&format!("{path}/parts"), &running.owner).await;
    assert_eq!(parts.status, 200, "{}", parts.head);
    let parts = parts.json();
    let value = |k: usize| {
        let mut hasher = PieceHasher::new((k * PART) as u64);
        hasher.update(part(&bytes, k));
        hex::encode(subtree_value(&hasher.finish()).unwrap())
    };
    let held = |ks: &[usize]| -> serde_json::Value {
        ks.iter()
            .map(|k| serde_json::json!({ "part": k, "blake3": value(*k) }))
            .collect()
    };
    assert_eq!(parts["parts"], held(&[0, 2]));
    assert_eq!(
        (&parts["total"], &parts["next"]),
        (&3.into(), &serde_json::Value::Null)
    );
    let rest = running
        .get(&format!("{path}/parts?from=1"), &running.owner)
        .await;
    assert_eq!(rest.json()["parts"], held(&[2]));
    let odd = running
        .get(&format!("{path}/parts?from=x"), &running.owner)
        .await;
    assert_eq!(odd.status, 400);

    // What is declared holds for what comes later, by whoever knew nothing of it, too.
    let declare = async |digest: &str, token: &str| {
        let request = Request::new("PUT", &format!("{path}/digest")).token(token);
        running.send(request.header("Repr-Digest", digest)).await
    };
    let sha256 =
        |bytes: &[u8]| format!("sha-256=:{}:", STANDARD.encode(sha2::Sha256::digest(bytes)));
    let of_another = sha256(&bytes[1..]);
    for (digest, status) in [
        ("unixsum=:AA==:", 400),
        ("md5=:AAAAAAAAAAAAAAAAAAAAAA==:", 400),
        (&*of_another, 204),
        (&*of_another, 204),
        (&*sha256(&bytes), 409),
    ] {
        let reply = declare(digest, &running.owner).await;
        assert_eq!(reply.status, status, "{digest}: {}", reply.head);
    }
    let last = running.send(put(&running, &path, 1, part(&bytes, 1))).await;
    assert!((400..500).contains(&last.status), "{}", last.head);
    let info = format!("{}/info", file_path("demo", "1.0"));
    let gone = running.get(&info, &running.owner).await;
    assert_eq!(gone.status, 404);
    running.stop().await;
}

#[tokio::test]
async fn what_is_found_is_the_callers_own() {
    let running = Running::start().await;
    let bytes = noise(PART + 9, 13);
    let path = begin(&running, "1.0", bytes.len()).await;
    let reply = running.send(put(&running, &path, 0, part(&bytes, 0))).await;
    assert_eq!(reply.status, 204, "{}", reply.head);
    let colleague = running.member("colleague", OrganizationRole::Admin).await;
    let colleague = running.token(colleague, TokenKind::Personal, None).await;
    let target = "/files?target=acme/demo/1.0/virtualbox/amd64";
    let found = running.get(target, &colleague).await;
    assert_eq!(
        (found.status, &found.json()["uploads"]),
        (200, &serde_json::json!([]))
    );
    let parts = running.get(&format!("{path}/parts"), &colleague).await;
    assert_eq!(parts.status, 404);
    let declare = Request::new("PUT", &format!("{path}/digest"))
        .token(&colleague)
        .header(
            "Repr-Digest",
            &format!("sha-256=:{}:", STANDARD.encode([0; 32])),
        );
    assert_eq!(running.send(declare).await.status, 404);
    let last = running.send(put(&running, &path, 1, part(&bytes, 1))).await;
    assert_eq!(last.status, 201, "{}", last.head);
    running.stop().await;
}
