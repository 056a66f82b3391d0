//! ISO images at BoxVault's door: what comes in comes out, to those who may have it, and their bytes are counted.

use std::time::Duration;

use boxgate_storage::check::{Subject, Told};
use boxgate_storage::metadata::accounts::{OrganizationRole, PlatformRole};
use boxgate_storage::metadata::tokens::TokenKind;
use serde_json::{Value, json};
use sha2::Digest as _;

use crate::harness::{Reply, Request, Running};
use crate::uploads::noise;

const ISOS: &str = "/api/organization/acme/iso";

fn post(name: &str, token: &str) -> Request {
    Request::new("POST", ISOS)
        .header("x-access-token", token)
        .header("x-file-name", name)
}

/// Uploads an ISO image that only members may read, and returns its id.
pub(crate) async fn uploaded(running: &Running, name: &str, bytes: &[u8]) -> i64 {
    let reply = running.send(post(name, &running.owner).body(bytes)).await;
    assert_eq!(reply.status, 201, "{}", text(&reply));
    reply.json()["id"].as_i64().unwrap()
}

fn text(reply: &Reply) -> String {
    String::from_utf8_lossy(&reply.body).into_owned()
}

async fn named(running: &Running, name: &str) -> Value {
    let rows = running.get(ISOS, &running.owner).await.json();
    let mut rows = rows.as_array().unwrap().iter();
    rows.find(|row| row["name"] == name).cloned().unwrap()
}

async fn downloaded(running: &Running, id: i64) -> Vec<u8> {
    let path = format!("{ISOS}/{id}/download");
    let reply = running.get(&path, &running.owner).await;
    assert_eq!(reply.status, 200, "{}", reply.head);
    assert!(reply.is_whole());
    reply.body
}

#[tokio::test]
async fn an_image_comes_out_as_it_went_in_and_tells_its_digest() {
    let running = Running::start().await;
    let bytes = noise(3_000_001, 1);
    let sha256 = hex::encode(sha2::Sha256::digest(&bytes));
    let request = post("debian-12.iso", &running.owner).header("x-is-public", "true");
    let reply = running.send(request.body(&bytes)).await;
    assert_eq!(reply.status, 201, "{}", text(&reply));
    let row = reply.json();
    for (field, value) in [
        ("name", json!("debian-12.iso")),
        ("filename", json!("debian-12.iso")),
        ("size", json!(bytes.len())),
        ("checksum", json!(sha256)),
        ("checksumType", json!("sha256")),
        ("storagePath", json!(format!("{sha256}.iso"))),
        ("organizationId", json!(running.organization.0)),
        ("isPublic", json!(true)),
    ] {
        assert_eq!(row[field], value, "{field}");
    }
    assert!(row["createdAt"].as_str().unwrap().ends_with('Z'));
    assert_eq!(row.get("description"), None, "what is unset is left out");
    let id = row["id"].as_i64().unwrap();
    let shown = running.get(&format!("{ISOS}/{id}"), &running.owner).await;
    assert_eq!(shown.json()["description"], Value::Null);

    // Anyone has it, by id and by name, whole and in part.
    for path in [
        format!("{ISOS}/{id}/download"),
        format!("{ISOS}/name/Debian-12.iso/download"),
    ] {
        let reply = running.get(&path, "").await;
        assert_eq!(reply.status, 200, "{path}");
        assert!(reply.body == bytes, "{path}");
        let name = "attachment; filename=\"debian-12.iso\"";
        assert_eq!(reply.header("content-disposition"), Some(name));
        let etag = reply.header("etag").unwrap().to_owned();
        let part = Request::new("GET", &path).header("Range", "bytes=1000000-1999999");
        let part = running.send(part.header("If-Range", &etag)).await;
        assert_eq!(part.status, 206);
        assert!(part.body == bytes[1_000_000..2_000_000]);
        let same = Request::new("GET", &path).header("If-None-Match", &etag);
        assert_eq!(running.send(same).await.status, 304);
        let past = Request::new("GET", &path).header("Range", "bytes=9000000-");
        assert_eq!(running.send(past).await.status, 416);
        assert_eq!(running.send(Request::new("HEAD", &path)).await.status, 200);
    }
    running.stop().await;
}

#[tokio::test]
async fn lists_show_members_all_and_everybody_what_is_public() {
    let running = Running::start().await;
    let reader = running.member("reader", OrganizationRole::Member).await;
    let reader = running.token(reader, TokenKind::Personal, None).await;
    let outsider = running.account("outsider", PlatformRole::User).await;
    let service = running
        .token(outsider, TokenKind::Service, Some(running.organization))
        .await;
    let outsider = running.token(outsider, TokenKind::Personal, None).await;
    let hidden = uploaded(&running, "hidden.iso", b"hidden").await;
    let request = post("open.iso", &running.owner).header("x-is-public", "true");
    assert_eq!(running.send(request.body(b"open")).await.status, 201);
    let names = |reply: &Reply| -> Vec<String> {
        let rows = reply.json();
        let rows = rows.as_array().unwrap().iter();
        let names = rows.map(|row| row["name"].as_str().unwrap().to_owned());
        names.collect()
    };
    let all = running.get(ISOS, &reader).await;
    assert_eq!(names(&all), ["open.iso", "hidden.iso"], "the newest first");
    for (token, status) in [("", 403), (&*outsider, 403), (&*service, 403)] {
        assert_eq!(running.get(ISOS, token).await.status, status);
    }
    for path in ["/api/organization/acme/public-isos", "/api/isos/discover"] {
        for token in ["", &reader, &outsider] {
            let reply = running.get(path, token).await;
            assert_eq!(names(&reply), ["open.iso"], "{path}");
            assert_eq!(reply.json()[0]["organization"]["name"], "acme");
        }
    }
    let nowhere = running
        .get("/api/organization/nowhere/public-isos", "")
        .await;
    assert_eq!(nowhere.status, 404);
    let path = format!("{ISOS}/{hidden}/download");
    for (token, status) in [("", 404), (&*outsider, 404), (&*reader, 200)] {
        assert_eq!(running.get(&path, token).await.status, status, "{token}");
    }
    // No member makes or changes one.
    assert_eq!(
        running.send(post("x.iso", &reader).body(b"x")).await.status,
        403
    );
    running.stop().await;
}

#[tokio::test]
async fn a_link_is_good_for_its_image_and_as_long_as_its_maker_may_read_it() {
    let running = Running::start().await;
    let reader = running.member("reader", OrganizationRole::Member).await;
    let token = running.token(reader, TokenKind::Personal, None).await;
    let (one, other) = (
        uploaded(&running, "one.iso", b"one").await,
        uploaded(&running, "other.iso", b"other").await,
    );
    let path = format!("{ISOS}/{one}/download-link");
    let made = running
        .send(Request::new("POST", &path).token(&token).body(b""))
        .await;
    assert_eq!(made.status, 200, "{}", text(&made));
    let url = made.json()["downloadUrl"].as_str().unwrap().to_owned();
    assert!(
        url.starts_with(&format!("{ISOS}/{one}/download?token=")),
        "{url}"
    );
    let reply = running.get(&url, "").await;
    assert_eq!((reply.status, reply.body.as_slice()), (200, &b"one"[..]));
    let by_name = url.replace(&format!("/iso/{one}/"), "/iso/name/ONE.iso/");
    assert_eq!(running.get(&by_name, "").await.body, b"one");
    let elsewhere = by_name.replace("ONE.iso", "other.iso");
    assert_eq!(running.get(&elsewhere, "").await.status, 403);
    let elsewhere = url.replace(&format!("/iso/{one}/"), &format!("/iso/{other}/"));
    assert_eq!(running.get(&elsewhere, "").await.status, 403);
    let forged = running.get(&format!("{url}x"), "").await;
    assert_eq!(forged.status, 403);
    let metadata = &running.gateway.metadata;
    let removed = metadata.remove_membership(reader, running.organization);
    assert!(removed.await.unwrap());
    assert_ne!(running.get(&url, "").await.status, 200);
    running.stop().await;
}

#[tokio::test]
async fn an_image_may_be_called_as_files_are() {
    let running = Running::start().await;
    let long = format!("-{}.iso", "x".repeat(250));
    for (name, bytes) in [
        (long.as_str(), "long"),
        (".hidden", "hidden"),
        ("a..b", "dots"),
    ] {
        let id = uploaded(&running, name, bytes.as_bytes()).await;
        assert_eq!(downloaded(&running, id).await, bytes.as_bytes());
        let path = format!("{ISOS}/name/{name}/download");
        assert_eq!(
            running.get(&path, &running.owner).await.body,
            bytes.as_bytes()
        );
    }
    running.stop().await;
}

#[tokio::test]
async fn an_image_is_had_by_its_digest_by_those_who_may_read_it() {
    let running = Running::start().await;
    let outsider = running.account("outsider", PlatformRole::User).await;
    let outsider = running.token(outsider, TokenKind::Personal, None).await;
    let id = uploaded(&running, "one.iso", b"one").await;
    let sha256 = hex::encode(sha2::Sha256::digest(b"one"));
    let paths = [
        format!("/blobs/sha256/{sha256}"),
        format!("/blobs/b3/{}", blake3::hash(b"one").to_hex()),
    ];
    let statuses = async |token: &str| {
        let mut found = Vec::new();
        for path in &paths {
            let reply = running.get(path, token).await;
            assert!(reply.status != 200 || reply.body == b"one");
            let kept = reply.header("cache-control").unwrap_or_default();
            assert!(reply.status != 200 || kept.contains("private"), "{kept}");
            found.push(reply.status);
        }
        found
    };
    assert_eq!(statuses(&running.owner).await, [200, 200]);
    assert_eq!(statuses(&outsider).await, [404, 404]);
    assert_eq!(statuses("").await, [404, 404]);
    let put = async |public: bool| {
        let request = Request::new("PUT", &format!("{ISOS}/{id}")).token(&running.owner);
        let reply = running
            .send(request.json(&json!({"isPublic": public})))
            .await;
        assert_eq!(reply.status, 200);
    };
    put(true).await;
    assert_eq!(statuses("").await, [200, 200]);
    put(false).await;
    assert_eq!(statuses("").await, [404, 404]);
    put(true).await;
    assert_eq!(statuses("").await, [200, 200]);
    let request = Request::new("DELETE", &format!("{ISOS}/{id}")).token(&running.owner);
    assert_eq!(running.send(request).await.status, 200);
    assert_eq!(statuses("").await, [404, 404]);
    assert_eq!(statuses(&running.owner).await, [404, 404]);
    running.stop().await;
}

#[tokio::test]
async fn an_image_is_renamed_published_and_deleted_and_its_name_is_one() {
    let running = Running::start().await;
    let id = uploaded(&running, "one.iso", b"one").await;
    uploaded(&running, "two.iso", b"two").await;
    let put = async |body: Value| {
        let request = Request::new("PUT", &format!("{ISOS}/{id}")).token(&running.owner);
        running.send(request.json(&body)).await
    };
    let changed = put(json!({"name": "uno.iso", "isPublic": true, "description": "first"})).await;
    assert_eq!(changed.status, 200, "{}", text(&changed));
    let row = changed.json();
    assert_eq!(
        (&row["name"], &row["isPublic"], &row["description"]),
        (&json!("uno.iso"), &json!(true), &json!("first"))
    );
    let unset = put(json!({"description": null})).await.json();
    assert_eq!(unset["description"], Value::Null);
    assert_eq!(unset["isPublic"], true, "what is not told stays");
    assert_eq!(put(json!({"name": "TWO.iso"})).await.status, 400);
    assert_eq!(put(json!({"name": "../x"})).await.status, 400);
    for bad in ["a b.iso", "..", "a/b.iso", &"x".repeat(256)] {
        let reply = running.send(post(bad, &running.owner).body(b"x")).await;
        assert_eq!(reply.status, 400, "{bad}");
    }
    let nameless = Request::new("POST", ISOS).token(&running.owner).body(b"x");
    assert_eq!(running.send(nameless).await.status, 400);
    let delete = async || {
        let request = Request::new("DELETE", &format!("{ISOS}/{id}")).token(&running.owner);
        running.send(request).await.status
    };
    assert_eq!((delete().await, delete().await), (200, 404));
    let path = format!("{ISOS}/{id}/download");
    assert_eq!(running.get(&path, &running.owner).await.status, 404);
    let events = running.gateway.metadata.events(0, 100).await.unwrap();
    let told: Vec<_> = events
        .iter()
        .filter(|event| event.name.starts_with("iso."))
        .map(|event| {
            let data: Value = serde_json::from_str(&event.data).unwrap();
            format!("{} {}", event.name, data["name"].as_str().unwrap())
        })
        .collect();
    assert_eq!(
        told,
        [
            "iso.uploaded one.iso",
            "iso.uploaded two.iso",
            "iso.deleted uno.iso"
        ]
    );
    running.stop().await;
}

#[tokio::test]
async fn equal_bytes_are_kept_once_and_go_with_their_last_holder() {
    let running = Running::start().await;
    let bytes = noise(2 << 20, 7);
    assert_eq!(running.upload("demo", "1.0", &bytes).await.status, 200);
    let id = uploaded(&running, "same.iso", &bytes).await;
    uploaded(&running, "again.iso", &bytes).await;
    let findings = async || {
        let mut findings = Vec::new();
        let stock = running.gateway.stock();
        stock
            .check(|told| {
                if let Told::Finding(finding) = told
                    && finding.subject == Subject::Blob
                {
                    findings.push(finding);
                }
                std::future::ready(())
            })
            .await
            .unwrap();
        findings
    };
    assert_eq!(findings().await, [], "all holders are counted");
    let box_path = "/api/organization/acme/box/demo";
    let request = Request::new("DELETE", box_path).token(&running.owner);
    assert_eq!(running.send(request).await.status, 200);
    assert_eq!(findings().await, []);
    assert!(downloaded(&running, id).await == bytes);
    // A replaced one gives the old bytes back, keeps its id, and stays as visible as it was.
    let other = noise(1 << 20, 8);
    assert_eq!(uploaded(&running, "SAME.iso", &other).await, id);
    assert!(downloaded(&running, id).await == other);
    assert_eq!(findings().await, []);
    let metadata = &running.gateway.metadata;
    let organization = running.organization;
    metadata
        .delete_organization(organization, "test")
        .await
        .unwrap();
    assert_eq!(findings().await, []);
    running.stop().await;
}

#[tokio::test]
async fn what_is_wrong_leaves_the_image_that_was_there() {
    let running = Running::start().await;
    let bytes = noise(100_000, 3);
    let id = uploaded(&running, "one.iso", &bytes).await;
    let wrong = post("one.iso", &running.owner)
        .header("x-checksum", &"ab".repeat(32))
        .header("x-checksum-type", "sha256");
    let reply = running.send(wrong.body(b"other")).await;
    assert_eq!(reply.status, 422, "{}", text(&reply));
    assert_eq!(reply.json()["error"], "CHECKSUM_MISMATCH");
    let empty = running
        .send(post("one.iso", &running.owner).body(b""))
        .await;
    assert_eq!(empty.status, 400);
    let odd = post("one.iso", &running.owner).header("x-is-public", "perhaps");
    assert_eq!(running.send(odd.body(b"x")).await.status, 400);
    assert!(downloaded(&running, id).await == bytes);
    running.stop().await;
}

#[tokio::test]
async fn an_image_comes_in_chunks_in_any_order() {
    let running = Running::start().await;
    let bytes = noise(2_500_000, 4);
    let chunks: Vec<_> = bytes.chunks(1_000_000).collect();
    let send = async |i: usize| {
        let request = post("chunks.iso", &running.owner)
            .header("x-chunk-index", &i.to_string())
            .header("x-total-chunks", "3");
        running.send(request.body(chunks[i])).await
    };
    let first = send(1).await;
    assert_eq!(first.status, 200, "{}", text(&first));
    assert_eq!(first.json()["details"]["chunksReceived"], 1);
    let path = format!("{ISOS}/uploads?name=chunks.iso");
    let listed = running.get(&path, &running.owner).await.json();
    assert_eq!(listed["uploads"][0]["chunks"], json!([1]), "{listed}");
    assert_eq!(send(0).await.status, 200);
    let last = send(2).await;
    assert_eq!(last.status, 201, "{}", text(&last));
    assert_eq!(last.json()["size"], bytes.len());
    let id = last.json()["id"].as_i64().unwrap();
    assert!(downloaded(&running, id).await == bytes);
    // A box of that name has nothing to do with it.
    let boxes = running
        .get("/api/organization/acme/box", &running.owner)
        .await;
    assert_eq!(boxes.json(), json!([]));
    running.stop().await;
}

#[tokio::test]
async fn an_image_that_was_cut_goes_on_by_ranges_and_the_last_may_be_sent_again() {
    let running = Running::start().await;
    let bytes = noise(3_000_000, 5);
    let send = async |from: usize, to: usize| {
        let range = format!("bytes {from}-{}/{}", to - 1, bytes.len());
        let request = post("cut.iso", &running.owner).header("Content-Range", &range);
        running.send(request.body(&bytes[from..to])).await
    };
    let first = send(0, 1_200_000).await;
    assert_eq!(first.status, 200, "{}", text(&first));
    assert_eq!(first.json()["details"]["offset"], 1_200_000);
    let wrong = send(2_000_000, 3_000_000).await;
    assert_eq!(wrong.status, 409);
    assert_eq!(wrong.header("upload-offset"), Some("1200000"));
    for time in ["first", "second"] {
        let last = send(1_200_000, 3_000_000).await;
        assert_eq!(last.status, 201, "the {time} time: {}", text(&last));
        assert_eq!(last.json()["name"], "cut.iso");
    }
    let id = named(&running, "cut.iso").await["id"].as_i64().unwrap();
    assert!(downloaded(&running, id).await == bytes);
    running.stop().await;
}

#[tokio::test]
async fn an_image_goes_on_at_its_own_url_as_administrators_may_alone() {
    let running = Running::start().await;
    let bytes = noise(2_000_000, 6);
    let begin = post("ietf.iso", &running.owner)
        .header("Upload-Complete", "?0")
        .body(&bytes[..700_000]);
    let begun = running.send(begin).await;
    assert_eq!(begun.status, 201, "{} {}", begun.head, text(&begun));
    let location = begun.header("location").unwrap();
    let path = location.split_once("/files/").unwrap().1;
    let path = format!("/files/{path}");
    let state = running.get(&path, &running.owner).await.json();
    assert_eq!(state["target"], json!({"iso": "ietf.iso"}));
    let rest = Request::new("PATCH", &path)
        .token(&running.owner)
        .header("Content-Type", "application/partial-upload")
        .header("Upload-Offset", "700000")
        .header("Upload-Complete", "?1")
        .body(&bytes[700_000..]);
    let done = running.send(rest).await;
    assert!(
        matches!(done.status, 200 | 201),
        "{} {}",
        done.head,
        text(&done)
    );
    let id = named(&running, "ietf.iso").await["id"].as_i64().unwrap();
    assert!(downloaded(&running, id).await == bytes);

    // Who administers no more publishes no more.
    let manager = running.member("manager", OrganizationRole::Admin).await;
    let token = running.token(manager, TokenKind::Personal, None).await;
    let range = |from: usize, to: usize| format!("bytes {from}-{}/{}", to - 1, bytes.len());
    let request = post("late.iso", &token).header("Content-Range", &range(0, 1_000_000));
    let first = running.send(request.body(&bytes[..1_000_000])).await;
    assert_eq!(first.status, 200);
    let metadata = &running.gateway.metadata;
    let member = OrganizationRole::Member;
    let set = metadata.set_membership(manager, running.organization, member);
    set.await.unwrap();
    let uploads = format!("{ISOS}/uploads?name=late.iso");
    let uploads = running.get(&uploads, &running.owner).await;
    assert_eq!(uploads.json()["uploads"], json!([]), "another's");
    let location = first.header("location").unwrap();
    let path = format!("/files/{}", location.split_once("/files/").unwrap().1);
    let rest = Request::new("PATCH", &path)
        .token(&token)
        .header("Content-Type", "application/partial-upload")
        .header("Upload-Offset", "1000000")
        .header("Upload-Complete", "?1")
        .body(&bytes[1_000_000..]);
    assert_eq!(running.send(rest).await.status, 403);
    running.stop().await;
}

#[tokio::test]
async fn whether_an_image_is_public_is_said_when_its_upload_begins() {
    let running = Running::start().await;
    let bytes = noise(900_000, 8);
    let part = |from: usize, to: usize| {
        let range = format!("bytes {from}-{}/{}", to - 1, bytes.len());
        let post = post("shown.iso", &running.owner).header("Content-Range", &range);
        post.body(&bytes[from..to])
    };
    let begun = part(0, 500_000).header("x-is-public", "true");
    assert_eq!(running.send(begun).await.status, 200);
    let otherwise = part(500_000, 900_000).header("x-is-public", "false");
    assert_eq!(running.send(otherwise).await.status, 409);
    let rest = running.send(part(500_000, 900_000)).await;
    assert_eq!(rest.status, 201, "{}", text(&rest));
    assert_eq!(rest.json()["isPublic"], true);
    let chunk = |index: usize| {
        post("hidden.iso", &running.owner)
            .header("x-chunk-index", &index.to_string())
            .header("x-total-chunks", "2")
            .body(&bytes[index * 450_000..(index + 1) * 450_000])
    };
    assert_eq!(running.send(chunk(0)).await.status, 200);
    let otherwise = running.send(chunk(1).header("x-is-public", "true")).await;
    assert_eq!(otherwise.status, 409, "{}", text(&otherwise));
    let rest = running.send(chunk(1)).await;
    assert_eq!(
        (rest.status, &rest.json()["isPublic"]),
        (201, &json!(false))
    );
    running.stop().await;
}

#[tokio::test]
async fn downloads_are_counted_once_from_their_first_byte() {
    let running = Running::start().await;
    let id = uploaded(&running, "one.iso", &noise(200_000, 9)).await;
    downloaded(&running, id).await;
    let path = format!("{ISOS}/{id}/download");
    let rest = Request::new("GET", &path).token(&running.owner);
    let rest = running.send(rest.header("Range", "bytes=100-")).await;
    assert_eq!(rest.status, 206);
    let counted = async {
        while named(&running, "one.iso").await["downloadCount"] != 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let counted = tokio::time::timeout(Duration::from_mins(1), counted).await;
    counted.expect("a download is counted");
    running.stop().await;
}
