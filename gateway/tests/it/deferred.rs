//! SHA-256 that is computed after an upload: what each door tells until it is known, and once it is.

use std::sync::Arc;
use std::time::Duration;

use boxgate_storage::clock::{ManualClock, UnixMillis};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Reply, Request, Running, file_path};
use crate::uploads::noise;

const DEFERRED: (&str, &str) = ("BOXGATE_DIGESTS__SHA256", "deferred");
/// So slowly that nothing is computed while a test goes on.
const SLOWLY: (&str, &str) = ("BOXGATE_DIGESTS__RATE", "1KiB");
const METADATA: &str = "/acme/demo";
const BY_BLAKE3: &str = "/acme/demo?by=blake3";

fn sha256(bytes: &[u8]) -> String {
    hex::encode(<sha2::Sha256 as sha2::Digest>::digest(bytes))
}

/// An upload that names the SHA-256 of `told`.
fn naming(running: &Running, version: &str, told: &[u8], bytes: &[u8]) -> Request {
    Request::new("POST", &file_path("demo", version))
        .token(&running.owner)
        .header("x-checksum", &sha256(told))
        .header("x-checksum-type", "sha256")
        .body(bytes)
}

/// A gateway whose work is claimed by another node, which does nothing.
async fn held_up(variables: &[(&str, &str)]) -> Running {
    held_up_in(tempfile::tempdir().unwrap(), variables).await
}

async fn held_up_in(directory: TempDir, variables: &[(&str, &str)]) -> Running {
    let running = Running::start_in(directory, variables).await;
    let hour = Duration::from_hours(1);
    let claimed = running.gateway.metadata.claim("sha256", "another", hour);
    assert!(claimed.await.unwrap());
    running
}

/// The other node lets go; resolves once nothing waits.
async fn let_go(running: &Running) {
    let metadata = &running.gateway.metadata;
    metadata.unclaim("sha256", "another").await.unwrap();
    let over = async {
        while metadata.waiting_for_sha256().await.unwrap().blobs > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), over)
        .await
        .unwrap();
}

fn listed(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.status, 200, "{}", reply.head);
    let document = reply.json();
    let versions = document["versions"].as_array().unwrap().iter();
    let providers = versions.flat_map(|v| v["providers"].as_array().unwrap().clone());
    providers.map(|p| p["checksum"].clone()).collect()
}

#[tokio::test]
async fn a_version_is_listed_to_vagrant_once_its_sha256_is_known() {
    let running = held_up(&[DEFERRED]).await;
    let (first, second) = (noise(3 << 20, 1), noise(70_000, 2));
    let reply = running.upload("demo", "1.0", &first).await;
    let (b3, sum) = (blake3::hash(&first).to_hex(), sha256(&first));
    let details = &reply.json()["details"];
    assert_eq!(reply.status, 200, "{details}");
    assert_eq!(
        (&details["blake3"], &details["sha256"]),
        (&json!(&*b3), &Value::Null)
    );

    // It is there, whole, under all that is known of it.
    let info = format!("{}/info", file_path("demo", "1.0"));
    let told = running.get(&info, &running.owner).await.json();
    assert_eq!(
        (&told["checksum"], &told["checksumType"]),
        (&json!(&*b3), &json!("BLAKE3"))
    );
    assert_eq!(told["sha256"], Value::Null);
    let path = format!("{}/download", file_path("demo", "1.0"));
    let reply = running.get(&path, &running.owner).await;
    assert!(reply.body == first);
    let digests = reply.header("repr-digest").unwrap();
    assert!(
        digests.starts_with("blake3=:") && !digests.contains("sha-256"),
        "{digests}"
    );
    let by = |name: &str, digest: &str| format!("/blobs/{name}/{digest}");
    assert!(running.get(&by("b3", &b3), &running.owner).await.body == first);
    let unknown = running.get(&by("sha256", &sum), &running.owner).await;
    assert_eq!(unknown.status, 404);
    // And nobody is told to compare what is not known.
    assert!(listed(&running.get(METADATA, &running.owner).await).is_empty());
    // Who compares by BLAKE3 is shown it.
    let told = running.get(BY_BLAKE3, &running.owner).await;
    assert_eq!(listed(&told), [Value::Null]);
    let provider = &told.json()["versions"][0]["providers"][0];
    assert_eq!(provider["blake3"], json!(&*b3));
    let cloud = "/api/v2/box/acme/demo";
    let told = running.get(cloud, &running.owner).await;
    assert_eq!(told.status, 200, "{}", told.head);
    assert_eq!(told.json()["current_version"], Value::Null);
    let provider = &told.json()["versions"][0]["providers"][0];
    assert_eq!(
        (&provider["checksum"], &provider["checksum_type"]),
        (&Value::Null, &Value::Null)
    );

    // Who names a digest has it compared, and is listed at once.
    let wrong = naming(&running, "2.0", &first, &second);
    assert_eq!(running.send(wrong).await.status, 422);
    let right = naming(&running, "2.0", &second, &second);
    assert_eq!(running.send(right).await.status, 200);
    let listed_now = listed(&running.get(METADATA, &running.owner).await);
    assert_eq!(listed_now, [json!(sha256(&second))]);
    // Equal bytes are equal by BLAKE3.
    running.upload("copy", "1.0", &first).await;
    assert_eq!(running.stored_files().len(), 2);

    let_go(&running).await;
    let all = listed(&running.get(METADATA, &running.owner).await);
    assert_eq!(all, [json!(sha256(&second)), json!(sum)]);
    let told = running.get(&info, &running.owner).await.json();
    assert_eq!(
        (&told["checksum"], &told["checksumType"]),
        (&json!(sum), &json!("SHA256"))
    );
    assert!(running.get(&by("sha256", &sum), &running.owner).await.body == first);
    let reply = running.get(&path, &running.owner).await;
    assert!(reply.header("repr-digest").unwrap().contains("sha-256=:"));
    let text = running.gateway.metrics_text().await;
    let read = format!("boxgate_deferred_sha256_bytes_total {}", first.len());
    assert!(text.lines().any(|line| line == read), "{text}");
    running.stop().await;
}

#[tokio::test]
async fn what_is_replaced_is_shown_to_vagrant_until_its_successor_can_be_compared() {
    let running = held_up(&[DEFERRED]).await;
    let (old, new) = (noise(100_000, 5), noise(100_000, 6));
    let named = naming(&running, "1.0", &old, &old);
    assert_eq!(running.send(named).await.status, 200);
    for next in [noise(9, 7), new.clone()] {
        assert_eq!(running.upload("demo", "1.0", &next).await.status, 200);
        let reply = running.get(METADATA, &running.owner).await;
        assert_eq!(listed(&reply), [json!(sha256(&old))]);
        let provider = &reply.json()["versions"][0]["providers"][0];
        let url = provider["url"].as_str().unwrap();
        let path = &url["http://gateway".len()..];
        assert!(running.get(path, &running.owner).await.body == old);
    }
    let_go(&running).await;
    let reply = running.get(METADATA, &running.owner).await;
    assert_eq!(listed(&reply), [json!(sha256(&new))]);
    running.stop().await;
}

#[tokio::test]
async fn a_form_is_hashed_inline_since_its_checksum_may_come_behind() {
    let running = held_up(&[DEFERRED]).await;
    let bytes = noise(100_000, 3);
    let form = |sum: &str| {
        let mut body =
            b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\n"
                .to_vec();
        body.extend_from_slice(&bytes);
        let part = |name: &str, value: &str| {
            format!("\r\n--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}")
        };
        body.extend_from_slice(part("checksum", sum).as_bytes());
        body.extend_from_slice(part("checksumType", "sha256").as_bytes());
        body.extend_from_slice(b"\r\n--b--\r\n");
        Request::new("POST", &file_path("demo", "1.0"))
            .token(&running.owner)
            .header("Content-Type", "multipart/form-data; boundary=b")
            .body(&body)
    };
    assert_eq!(running.send(form(&sha256(b"else"))).await.status, 422);
    let reply = running.send(form(&sha256(&bytes))).await;
    assert_eq!(reply.status, 200, "{}", reply.json());
    assert_eq!(reply.json()["details"]["sha256"], json!(sha256(&bytes)));
    running.stop().await;
}

#[tokio::test]
async fn what_a_stop_left_is_computed_after_the_next_start_however_that_is_set() {
    let running = held_up(&[DEFERRED]).await;
    let bytes = noise(2 << 20, 4);
    running.upload("demo", "1.0", &bytes).await;
    let directory = running.stop().await;
    let running = Running::start_in(directory, &[("BOXGATE_DIGESTS__RATE", "0")]).await;
    let_go(&running).await;
    let all = listed(&running.get(METADATA, &running.owner).await);
    assert_eq!(all, [json!(sha256(&bytes))]);
    let inline = running.upload("demo", "2.0", b"inline").await;
    assert_eq!(inline.json()["details"]["sha256"], json!(sha256(b"inline")));
    running.stop().await;
}

#[tokio::test]
async fn plugins_are_told_a_sha256_only_where_it_is_known() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("data/plugins");
    std::fs::create_dir_all(&place).unwrap();
    let plugin = r#"fn on_upload_complete(blob) {
        #{ labels: #{ sha256: blob.sha256 ?? "unknown", checksum_type: blob.checksum_type } }
    }"#;
    std::fs::write(place.join("tell.rhai"), plugin).unwrap();
    let running = held_up_in(directory, &[DEFERRED]).await;
    let labels = async |version: &str| {
        let info = format!("{}/info", file_path("demo", version));
        running.get(&info, &running.owner).await.json()["labels"].clone()
    };
    let bytes = noise(9, 8);
    assert_eq!(running.upload("demo", "1.0", &bytes).await.status, 200);
    assert_eq!(
        labels("1.0").await,
        json!({ "sha256": "unknown", "checksum_type": "blake3" })
    );
    let other = noise(9, 9);
    let named = naming(&running, "2.0", &other, &other);
    assert_eq!(running.send(named).await.status, 200);
    assert_eq!(
        labels("2.0").await,
        json!({ "sha256": sha256(&other), "checksum_type": "sha256" })
    );
    running.stop().await;
}

#[tokio::test]
async fn the_work_of_a_node_that_is_gone_is_taken_over_within_a_minute() {
    let clock = Arc::new(ManualClock::new(UnixMillis(1_700_000_000_000)));
    let directory = tempfile::tempdir().unwrap();
    let variables = [DEFERRED, SLOWLY];
    let running = Running::start_at(directory, &variables, Arc::clone(&clock) as _).await;
    running.upload("demo", "1.0", &noise(3 << 20, 10)).await;
    let metadata = &running.gateway.metadata;
    let takes = async || {
        let taken = metadata.claim("sha256", "another", Duration::ZERO).await;
        taken.unwrap()
    };
    let begun = async {
        while takes().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), begun)
        .await
        .unwrap();
    // It is renewed now and then, in between perhaps; never is it for so long as all of these.
    let mut taken = false;
    for _ in 0..3 {
        clock.advance(Duration::from_secs(45));
        taken = taken || takes().await;
    }
    assert!(taken);
    running.stop().await;
}

#[tokio::test]
async fn what_waits_is_counted_also_while_a_box_is_read_slowly() {
    let running = Running::start_with(&[DEFERRED, SLOWLY]).await;
    let counted = async |blobs: u8| {
        let line = format!("boxgate_deferred_sha256_blobs {blobs}");
        let counted = async {
            loop {
                let text = running.gateway.metrics_text().await;
                if text.lines().any(|told| told == line) {
                    break;
                }
                tokio::task::yield_now().await;
            }
        };
        let bound = Duration::from_mins(1);
        tokio::time::timeout(bound, counted).await.unwrap();
    };
    for boxes in 1..=2 {
        let name = format!("demo{boxes}");
        let bytes = noise(3 << 20, boxes);
        assert_eq!(running.upload(&name, "1.0", &bytes).await.status, 200);
        counted(boxes).await;
    }
    let path = "/api/organization/acme/box/demo2";
    let deleted = Request::new("DELETE", path).token(&running.owner);
    assert_eq!(running.send(deleted).await.status, 200);
    counted(1).await;
    running.stop().await;
}

#[tokio::test]
async fn the_page_names_a_version_that_vagrant_is_shown() {
    let running = held_up(&[DEFERRED]).await;
    let bytes = noise(9, 11);
    let named = naming(&running, "1.0", &bytes, &bytes);
    assert_eq!(running.send(named).await.status, 200);
    assert_eq!(
        running.upload("demo", "2.0", &noise(9, 12)).await.status,
        200
    );
    running.set_public("demo", true).await;
    let page = Request::new("GET", METADATA).header("Accept", "text/html");
    let page = String::from_utf8(running.send(page).await.body).unwrap();
    assert!(page.contains("acme/demo --box-version 1.0 "), "{page}");
    running.stop().await;
}

#[tokio::test]
async fn a_sha256_that_is_named_too_late_is_refused_and_not_ignored() {
    let running = held_up(&[DEFERRED]).await;
    let bytes = noise(2 << 20, 13);
    let (first, second) = bytes.split_at(1 << 20);
    let part = |from: usize, part: &[u8]| {
        let (to, length) = (from + part.len() - 1, bytes.len());
        Request::new("POST", &file_path("demo", "1.0"))
            .token(&running.owner)
            .header("Content-Range", &format!("bytes {from}-{to}/{length}"))
            .body(part)
    };
    assert_eq!(running.send(part(0, first)).await.status, 200);
    let late = part(first.len(), second)
        .header("x-checksum", &sha256(&bytes))
        .header("x-checksum-type", "sha256");
    let reply = running.send(late).await;
    assert_eq!(reply.status, 400, "{}", reply.head);
    let path = format!("{}/download", file_path("demo", "1.0"));
    assert_eq!(running.get(&path, &running.owner).await.status, 404);
    running.stop().await;
}
