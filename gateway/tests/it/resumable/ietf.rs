//! The IETF's protocol alone.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{PARTIAL, append, located, query, text};
use crate::harness::{Request, Running, file_path};
use crate::uploads::{downloaded, noise};

#[tokio::test]
async fn an_upload_by_the_ietf_protocol_is_created_continued_and_completed() {
    let running = Running::start().await;
    let bytes = noise(20_000_001, 13);
    // Careful creation: the URL first, nothing at risk.
    let careful = Request::new("POST", &query("1.0"))
        .token(&running.owner)
        .header("Upload-Complete", "?0")
        .header("Upload-Length", "20000001")
        .body(b"");
    let reply = running.send(careful).await;
    assert_eq!(reply.header("upload-complete"), Some("?0"));
    assert!(
        reply
            .header("upload-limit")
            .unwrap()
            .starts_with("max-size=137438953472, max-age=")
    );
    let path = located(&reply);
    let mut at = 0;
    for piece in [9_000_000, 1, 5_000_000] {
        let reply = running
            .send(append(&running, &path, at, false, &bytes[at..at + piece]))
            .await;
        at += piece;
        assert_eq!(reply.status, 204, "{}", text(&reply));
        assert_eq!(reply.header("upload-complete"), Some("?0"));
        assert_eq!(reply.header("upload-offset").unwrap(), at.to_string());
        assert_eq!(reply.header("location"), None);
    }
    let standing = running
        .send(Request::new("HEAD", &path).token(&running.owner))
        .await;
    assert_eq!(standing.status, 204);
    assert_eq!(standing.header("upload-offset").unwrap(), at.to_string());
    assert_eq!(standing.header("upload-length"), Some("20000001"));
    assert_eq!(standing.header("upload-complete"), Some("?0"));
    assert_eq!(standing.header("cache-control"), Some("no-store"));
    // All bytes are there, and yet it is not complete before the client says so.
    let rest = running
        .send(append(&running, &path, at, false, &bytes[at..]))
        .await;
    assert_eq!(rest.status, 204, "{}", text(&rest));
    let standing = running
        .send(Request::new("HEAD", &path).token(&running.owner))
        .await;
    assert_eq!(standing.header("upload-complete"), Some("?0"));
    let last = running
        .send(append(&running, &path, bytes.len(), true, b""))
        .await;
    assert_eq!(last.status, 200, "{}", text(&last));
    assert_eq!(last.header("upload-complete"), Some("?1"));
    assert_eq!(last.json()["details"]["fileSize"], 20_000_001);
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    // The answer was lost: it comes once more. More bytes do not fit any more.
    let again = running
        .send(append(&running, &path, bytes.len(), true, b""))
        .await;
    assert_eq!((again.status, again.body), (200, last.body));
    let more = running
        .send(append(&running, &path, bytes.len(), true, b"x"))
        .await;
    assert_eq!(more.status, 400);
    assert!(
        more.json()["type"]
            .as_str()
            .unwrap()
            .ends_with("#completed-upload"),
        "{}",
        text(&more)
    );
    running.stop().await;
}

#[tokio::test]
async fn an_ietf_upload_of_unknown_length_ends_when_its_client_says_so() {
    let running = Running::start().await;
    let bytes = noise(100_000, 14);
    let first = Request::new("POST", &query("1.0"))
        .token(&running.owner)
        .header("Upload-Complete", "?0")
        .body(&bytes[..30_000]);
    let path = located(&running.send(first).await);
    let mut chunked = format!("{:x}\r\n", 30_000).into_bytes();
    chunked.extend_from_slice(&bytes[30_000..60_000]);
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    let second = Request::new("PATCH", &path)
        .token(&running.owner)
        .header("Content-Type", PARTIAL)
        .header("Upload-Offset", "30000")
        .header("Upload-Complete", "?0")
        .header("Transfer-Encoding", "chunked")
        .raw_body(&chunked);
    let reply = running.send(second).await;
    assert_eq!(
        reply.header("upload-offset"),
        Some("60000"),
        "{}",
        text(&reply)
    );
    let last = running
        .send(append(&running, &path, 60_000, true, &bytes[60_000..]))
        .await;
    assert_eq!(last.status, 200, "{}", text(&last));
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.stop().await;
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one table")]
async fn what_is_wrong_with_an_ietf_request_is_named_and_changes_nothing() {
    let running = Running::start().await;
    let bytes = noise(1000, 15);
    let first = Request::new("POST", &query("1.0"))
        .token(&running.owner)
        .header("Upload-Complete", "?0")
        .header("Upload-Length", "1000")
        .body(&bytes[..100]);
    let path = located(&running.send(first).await);
    let body = &bytes[100..200];
    let raw = |kind: &str, offset: &str, complete: &str| {
        Request::new("PATCH", &path)
            .token(&running.owner)
            .header("Content-Type", kind)
            .header("Upload-Offset", offset)
            .header("Upload-Complete", complete)
            .body(body)
    };
    let create = |lines: &[(&str, &str)], body: &[u8]| {
        let request = Request::new("POST", &query("1.0")).token(&running.owner);
        lines
            .iter()
            .fold(request, |r, (n, v)| r.header(n, v))
            .body(body)
    };
    let digest = format!("sha-256=:{}:", STANDARD.encode([1; 32]));
    let cases = [
        (
            "offset",
            raw(PARTIAL, "99", "?0"),
            409,
            "mismatching-upload-offset",
        ),
        (
            "media type",
            raw("application/octet-stream", "100", "?0"),
            415,
            "",
        ),
        ("no completeness", raw(PARTIAL, "100", "yes"), 400, ""),
        ("no offset", raw(PARTIAL, "a", "?0"), 400, ""),
        (
            "short end",
            raw(PARTIAL, "100", "?1"),
            400,
            "inconsistent-upload-length",
        ),
        (
            "past the end",
            append(&running, &path, 100, false, &noise(901, 1)),
            400,
            "inconsistent-upload-length",
        ),
        (
            "another length",
            raw(PARTIAL, "100", "?0").header("Upload-Length", "999"),
            400,
            "inconsistent-upload-length",
        ),
        (
            "content digest",
            raw(PARTIAL, "100", "?0").header("Content-Digest", &digest),
            400,
            "digest-mismatching-values",
        ),
        (
            "short digest",
            raw(PARTIAL, "100", "?0").header("Content-Digest", "sha-256=:AAAA:"),
            400,
            "digest-invalid-values",
        ),
        (
            "lengths",
            create(
                &[("Upload-Complete", "?1"), ("Upload-Length", "100")],
                b"12345",
            ),
            400,
            "inconsistent-upload-length",
        ),
        (
            "too long",
            create(
                &[
                    ("Upload-Complete", "?0"),
                    ("Upload-Length", "999999999999999"),
                ],
                b"",
            ),
            413,
            "",
        ),
        (
            "form",
            create(
                &[
                    ("Upload-Complete", "?1"),
                    ("Content-Type", "multipart/form-data; boundary=b"),
                ],
                b"x",
            ),
            415,
            "",
        ),
        (
            "empty box",
            create(&[("Upload-Complete", "?1")], b""),
            400,
            "",
        ),
        (
            "neither protocol",
            create(&[("Upload-Length", "10")], b"x"),
            400,
            "",
        ),
    ];
    for (what, request, status, kind) in cases {
        let reply = running.send(request).await;
        assert_eq!(reply.status, status, "{what}: {}", text(&reply));
        let problem = reply.json();
        assert_eq!(
            reply.header("content-type"),
            Some("application/problem+json"),
            "{what}"
        );
        if !kind.is_empty() {
            let expected = format!("https://iana.org/assignments/http-problem-types#{kind}");
            assert_eq!(problem["type"], expected, "{what}");
        }
        if what != "neither protocol" {
            assert_eq!(reply.header("upload-complete"), Some("?0"), "{what}");
        }
        if status == 409 {
            assert_eq!(
                (&problem["expected-offset"], &problem["provided-offset"]),
                (&100.into(), &99.into())
            );
            assert_eq!(reply.header("upload-offset"), Some("100"));
        }
        if status == 413 {
            assert!(reply.header("upload-limit").is_some(), "{what}");
        }
        let standing = running
            .send(Request::new("HEAD", &path).token(&running.owner))
            .await;
        assert_eq!(standing.header("upload-offset"), Some("100"), "{what}");
    }
    let unknown = format!("/files/{}", "ef".repeat(16));
    assert_eq!(
        running
            .send(append(&running, &unknown, 0, true, b"x"))
            .await
            .status,
        404
    );
    let cancel = running
        .send(Request::new("DELETE", &path).token(&running.owner))
        .await;
    assert_eq!(cancel.status, 204);
    assert_eq!(
        running
            .send(append(&running, &path, 100, true, &bytes[100..]))
            .await
            .status,
        410
    );
    running.stop().await;
}

#[tokio::test]
async fn the_boxvault_upload_route_speaks_the_ietf_protocol_too() {
    let running = Running::start().await;
    let bytes = noise(100_000, 16);
    let create = |version: &str, complete: &str, body: &[u8]| {
        Request::new("PUT", &format!("{}/upload", file_path("demo", version)))
            .token(&running.owner)
            .header("Upload-Complete", complete)
            .body(body)
    };
    let whole = running.send(create("1.0", "?1", &bytes)).await;
    assert_eq!(whole.status, 200, "{}", text(&whole));
    assert_eq!(whole.header("upload-complete"), Some("?1"));
    assert_eq!(whole.json()["message"], "File updated successfully");
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    let part = running.send(create("2.0", "?0", &bytes[..60_000])).await;
    assert_eq!(part.header("upload-offset"), Some("60000"));
    let path = located(&part);
    let last = running
        .send(append(&running, &path, 60_000, true, &bytes[60_000..]))
        .await;
    assert_eq!(last.status, 200, "{}", text(&last));
    assert!(downloaded(&running, "demo", "2.0").await == bytes);
    let refused = running.send(create("3.0", "maybe", &bytes)).await;
    assert_eq!(refused.status, 400);
    assert_eq!(refused.header("upload-complete"), Some("?0"));
    running.stop().await;
}
