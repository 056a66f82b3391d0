use std::time::Duration;

use http::HeaderMap;
use proptest::prelude::*;
use serde_json::json;

use super::*;

const PARTIAL: (&str, &str) = ("content-type", MEDIA_TYPE);
const TARGET: &str = "target=acme%2Fdemo/1.0/virtualbox/amd64";
const LIMITS: Limits = Limits {
    max_size: 1000,
    max_append_size: Some(500),
};

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    lines
        .iter()
        .map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            (name, HeaderValue::from_bytes(value.as_bytes()).unwrap())
        })
        .collect()
}

fn parsed(method: &Method, lines: &[(&str, &str)]) -> Result<UploadCommand, Refusal> {
    let headers = headers(lines);
    parse(&RequestHead {
        method,
        headers: &headers,
        query: Some(TARGET),
    })
}

fn created(lines: &[(&str, &str)]) -> Result<Create, Refusal> {
    parsed(&Method::POST, lines).map(|command| match command {
        UploadCommand::Create(create) => *create,
        other => panic!("{other:?}"),
    })
}

fn appended(lines: &[(&str, &str)]) -> Result<Append, Refusal> {
    parsed(&Method::PATCH, lines).map(|command| match command {
        UploadCommand::Append(append) => append,
        other => panic!("{other:?}"),
    })
}

#[test]
fn a_creation_says_whether_it_is_all_and_where_it_goes() {
    let all = created(&[("upload-complete", "?1"), ("content-length", "10")]).unwrap();
    assert_eq!(
        (all.ends, all.length, all.has_body),
        (Ends::Here, Some(10), true)
    );
    assert!(matches!(&all.owner, Owner::Target(t) if t.name.to_string() == "demo"));
    let streamed = created(&[("upload-complete", "?1"), ("transfer-encoding", "chunked")]).unwrap();
    assert_eq!((streamed.length, streamed.has_body), (None, true));
    let careful = created(&[("upload-complete", "?0"), ("content-length", "0")]).unwrap();
    assert_eq!(
        (careful.ends, careful.length, careful.has_body),
        (Ends::Later, None, false)
    );
    let known = created(&[("upload-complete", "?0"), ("upload-length", "100")]).unwrap();
    assert_eq!((known.length, known.has_body), (Some(100), false));
    let empty = created(&[("upload-complete", "?1")]).unwrap();
    assert_eq!((empty.length, empty.has_body), (Some(0), false));
}

#[test]
fn lengths_of_one_request_must_agree() {
    // Upload-Complete, Upload-Length, Content-Length, Upload-Offset of an append, whether they agree.
    let table = [
        ("?1", "10", Some("10"), "0", true),
        ("?1", "10", Some("9"), "0", false),
        ("?1", "10", Some("11"), "0", false),
        ("?1", "10", None, "0", true),
        ("?0", "10", Some("10"), "0", true),
        ("?0", "10", Some("5"), "0", true),
        ("?0", "10", Some("11"), "0", false),
        ("?0", "10", None, "0", true),
        ("?1", "10", Some("4"), "6", true),
        ("?1", "10", Some("3"), "6", false),
        ("?0", "10", Some("5"), "6", false),
    ];
    for (complete, length, body, offset, agree) in table {
        let mut lines = vec![("upload-complete", complete), ("upload-length", length)];
        lines.push(body.map_or(("transfer-encoding", "chunked"), |b| ("content-length", b)));
        let refused = if offset == "0" {
            created(&lines).err()
        } else {
            lines.extend([PARTIAL, ("upload-offset", offset)]);
            appended(&lines).err()
        };
        assert_eq!(refused.is_none(), agree, "{lines:?}");
        if let Some(refused) = refused {
            assert_eq!(refused.status, 400);
            assert_eq!(refused.problem, Some(ProblemType::InconsistentUploadLength));
        }
    }
}

#[test]
fn a_field_of_the_wrong_type_is_as_good_as_not_sent() {
    for wrong in ["1", "true", "?1, ?1", "\"?1\"", "?2"] {
        let refused = created(&[("upload-complete", wrong)]).unwrap_err();
        assert_eq!(refused.status, 400, "{wrong}");
    }
    for ignored in ["-1", "1.5", "abc", "\"10\"", "1000000000000000"] {
        let lines = [("upload-complete", "?0"), ("upload-length", ignored)];
        assert_eq!(created(&lines).unwrap().length, None, "{ignored}");
        let lines = [
            PARTIAL,
            ("upload-complete", "?0"),
            ("upload-offset", ignored),
        ];
        assert_eq!(appended(&lines).unwrap_err().status, 400, "{ignored}");
    }
}

#[test]
fn an_append_needs_offset_completeness_and_media_type() {
    let lines = [
        PARTIAL,
        ("upload-offset", "70"),
        ("upload-complete", "?1"),
        ("content-length", "30"),
    ];
    let append = appended(&lines).unwrap();
    assert_eq!(
        (append.offset, append.ends, append.length),
        (70, Ends::Here, Some(100))
    );
    let empty = [PARTIAL, ("upload-offset", "100"), ("upload-complete", "?1")];
    assert_eq!(appended(&empty).unwrap().length, Some(100));
    let table: [(&[(&str, &str)], u16); 4] = [
        (&lines[1..], 415),
        (
            &[
                ("content-type", "application/octet-stream"),
                lines[1],
                lines[2],
            ],
            415,
        ),
        (&[PARTIAL, lines[2]], 400),
        (&[PARTIAL, lines[1]], 400),
    ];
    for (lines, status) in table {
        let refused = appended(lines).unwrap_err();
        assert_eq!(refused.status.as_u16(), status, "{lines:?}");
        if status == 415 {
            assert_eq!(refused.headers["accept-patch"], MEDIA_TYPE);
        }
    }
}

#[test]
fn a_form_cannot_be_continued() {
    let lines = [
        ("upload-complete", "?0"),
        ("content-type", "multipart/form-data; boundary=b"),
    ];
    assert_eq!(created(&lines).unwrap_err().status, 415);
}

#[test]
fn digests_of_the_whole_and_of_the_body_are_kept_apart() {
    let sha256 = format!("sha-256={}", fields::from_bytes(&[1; 32]));
    let md5 = format!("md5={}", fields::from_bytes(&[2; 16]));
    let lines = [
        ("upload-complete", "?0"),
        ("repr-digest", sha256.as_str()),
        ("content-digest", md5.as_str()),
    ];
    let create = created(&lines).unwrap();
    assert_eq!(create.expected[0].algorithm().name(), "sha256");
    let checksum = create.checksum.unwrap();
    assert!(matches!(checksum, Checksum::Told(digest) if digest.algorithm().name() == "md5"));
    let short = [("upload-complete", "?0"), ("repr-digest", "sha-256=:AAAA:")];
    assert_eq!(
        created(&short).unwrap_err().problem,
        Some(ProblemType::InvalidDigest)
    );
}

#[test]
fn every_answer_has_the_fields_that_the_protocol_asks_for() {
    let open = Standing {
        offset: 70,
        length: Some(100),
        left: Some(Duration::from_millis(59_999)),
        ..Standing::default()
    };
    let done = Standing {
        complete: true,
        offset: 100,
        ..open.clone()
    };
    let text = |reply: &Reply, name: &str| {
        reply
            .headers
            .get(name)
            .map(|v| v.to_str().unwrap().to_owned())
    };
    let limit = "max-size=1000, max-append-size=500, max-age=59";

    let head = reply(Answer::Standing(&open), &LIMITS);
    assert_eq!(head.status, 204);
    assert_eq!(text(&head, "upload-offset").unwrap(), "70");
    assert_eq!(text(&head, "upload-complete").unwrap(), "?0");
    assert_eq!(text(&head, "upload-length").unwrap(), "100");
    assert_eq!(text(&head, "upload-limit").unwrap(), limit);
    assert_eq!(text(&head, "cache-control").unwrap(), "no-store");
    assert_eq!(text(&head, "location"), None);

    let created = reply(
        Answer::Created {
            location: "/files/1",
            standing: &open,
            has_body: true,
            outcome: None,
        },
        &LIMITS,
    );
    assert_eq!(created.status, 201);
    assert_eq!(text(&created, "location").unwrap(), "/files/1");
    assert_eq!(text(&created, "upload-limit").unwrap(), limit);
    assert_eq!(text(&created, "upload-complete").unwrap(), "?0");

    let more = reply(
        Answer::Appended {
            standing: &open,
            outcome: None,
        },
        &LIMITS,
    );
    assert_eq!(more.status, 204);
    assert_eq!(text(&more, "upload-complete").unwrap(), "?0");
    assert_eq!(text(&more, "location"), None);

    let outcome = json!({ "size": 100 });
    let last = reply(
        Answer::Appended {
            standing: &done,
            outcome: Some(&outcome),
        },
        &LIMITS,
    );
    assert_eq!(last.status, 200);
    assert_eq!(text(&last, "upload-complete").unwrap(), "?1");
    assert_eq!(last.body, Some(outcome));

    assert_eq!(reply(Answer::Cancelled, &LIMITS).status, 204);

    let options = discovery(Reply::new(StatusCode::NO_CONTENT), &LIMITS);
    assert_eq!(
        text(&options, "upload-limit").unwrap(),
        "max-size=1000, max-append-size=500"
    );
    assert_eq!(text(&options, "accept-patch").unwrap(), MEDIA_TYPE);
    let no_append_limit = Limits {
        max_append_size: None,
        ..LIMITS
    };
    assert_eq!(upload_limit(&no_append_limit, None), "max-size=1000");
}

#[test]
fn a_wrong_digest_of_a_body_says_which() {
    let digest = Digest::try_new(boxgate_storage::digest::Algorithm::Sha256, vec![0; 32]).unwrap();
    let refused = digest_mismatch(&digest, 7);
    assert_eq!(refused.status, 400);
    assert_eq!(refused.headers[UPLOAD_OFFSET], "7");
    let details = refused.details.unwrap();
    assert_eq!(details["mismatching-digests"][0]["algorithm"], "sha-256");
    assert_eq!(
        details["mismatching-digests"][0]["header"],
        "Content-Digest"
    );
}

proptest! {
    #[test]
    fn an_append_ends_where_its_body_does(offset in 0..1u64 << 40, body in 0..1u64 << 40) {
        let (o, b) = (offset.to_string(), body.to_string());
        let lines =
            [PARTIAL, ("upload-offset", o.as_str()), ("upload-complete", "?1"), ("content-length", b.as_str())];
        let append = appended(&lines).unwrap();
        prop_assert_eq!(append.length, Some(offset + body));
        prop_assert_eq!(append.body_length, Some(body));
    }

    #[test]
    fn no_header_breaks_the_reader(
        name in prop::sample::select(vec![
            "upload-complete", "upload-length", "upload-offset", "repr-digest", "content-digest",
            "content-type",
        ]),
        value in "[ -~]{0,60}",
    ) {
        for method in [Method::POST, Method::PATCH] {
            match parsed(&method, &[(name, &value)]) {
                Ok(_) => {}
                Err(refused) => prop_assert!(refused.status.is_client_error()),
            }
        }
    }
}
