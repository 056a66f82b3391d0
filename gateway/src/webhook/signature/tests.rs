use http::{HeaderName, HeaderValue};

use super::*;

const NOW: UnixMillis = UnixMillis(1_700_000_000_500);
const TOLERANCE: Duration = Duration::from_mins(5);
const BODY: &[u8] = br#"{"action":"published"}"#;

fn terms(text: &str) -> InboundTerms {
    toml::from_str(text).unwrap()
}

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let value = HeaderValue::from_str(value).unwrap();
        headers.append(HeaderName::from_static(name), value);
    }
    headers
}

/// What a request of these fields comes to.
fn sent(
    terms: &InboundTerms,
    secret: &str,
    fields: &[(&'static str, &str)],
    body: &[u8],
) -> Result<Option<String>, Doubt> {
    let headers = headers(fields);
    let sender = Sender::of_head(terms, secret, &headers, (NOW, TOLERANCE))?;
    sender.with_body(body)
}

fn tag(secret: &[u8], bytes: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    hmac::sign(&key, bytes).as_ref().to_vec()
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "what is compared with is a result"
)]
fn id(text: &str) -> Result<Option<String>, Doubt> {
    Ok(Some(text.to_owned()))
}

#[test]
fn github_signs_the_body_as_its_documentation_has_it() {
    // The example of "Validating webhook deliveries" in GitHub's documentation.
    let (secret, body) = ("It's a Secret to Everybody", b"Hello, World!");
    let signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    let terms = terms("verify = \"github\"");
    let delivery = ("x-github-delivery", "72d3162e");
    let with = |signature: &str, body: &[u8]| {
        let fields = [("x-hub-signature-256", signature), delivery];
        sent(&terms, secret, &fields, body)
    };
    assert_eq!(with(signature, body), id("72d3162e"));
    let wrong = Err(Doubt::Wrong("x-hub-signature-256".to_owned()));
    assert_eq!(with(signature, b"Hello, World?"), wrong);
    assert_eq!(with(&signature.replace("757", "758"), body), wrong);
    assert_eq!(with(&signature[..signature.len() - 2], body), wrong);
    assert!(matches!(
        with(&signature[7..], body),
        Err(Doubt::Malformed(..))
    ));
    assert!(matches!(with("sha256=xy", body), Err(Doubt::Malformed(..))));
    assert_eq!(
        sent(&terms, secret, &[delivery], body),
        Err(Doubt::Missing("x-hub-signature-256".to_owned()))
    );
    assert_eq!(
        sent(&terms, secret, &[("x-hub-signature-256", signature)], body),
        Err(Doubt::Missing("x-github-delivery".to_owned()))
    );
    let twice = [
        ("x-hub-signature-256", signature),
        ("x-hub-signature-256", signature),
        delivery,
    ];
    assert!(matches!(
        sent(&terms, secret, &twice, body),
        Err(Doubt::Malformed(..))
    ));
}

#[test]
fn gitlab_sends_the_secret_and_names_its_deliveries() {
    let terms = terms("verify = \"gitlab\"");
    let with = |token: &str, more: (&'static str, &str)| {
        sent(&terms, "s3cret", &[("x-gitlab-token", token), more], BODY)
    };
    assert_eq!(with("s3cret", ("idempotency-key", "a-1")), id("a-1"));
    let old = with("s3cret", ("x-gitlab-event-uuid", "e-1"))
        .unwrap()
        .unwrap();
    let digest = hex::encode(Sha256::digest(BODY));
    assert_eq!(old, format!("e-1 {digest}"));
    assert_eq!(with("s3cret", ("x-other", "")), Ok(None));
    for token in ["s3cre", "s3cret2", "S3CRET"] {
        assert_eq!(
            with(token, ("idempotency-key", "a-1")),
            Err(Doubt::Wrong("x-gitlab-token".to_owned()))
        );
    }
}

#[test]
fn standard_webhooks_sign_id_time_and_body_within_the_tolerance() {
    let terms = terms("verify = \"standard\"");
    // The secret of the specification's example.
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let key = STANDARD.decode(&secret[6..]).unwrap();
    let sign = |key: &[u8], time: i64| {
        let bytes = [format!("msg_1.{time}.").as_bytes(), BODY].concat();
        format!("v1,{}", STANDARD.encode(tag(key, &bytes)))
    };
    let with = |secret: &str, time: i64, signature: &str| {
        let fields = [
            ("webhook-id", "msg_1"),
            ("webhook-timestamp", &time.to_string()),
            ("webhook-signature", signature),
        ];
        sent(&terms, secret, &fields, BODY)
    };
    let now = 1_700_000_000;
    let good = sign(&key, now);
    assert_eq!(with(secret, now, &good), id("msg_1"));
    // Beside those of a key before and of versions to come.
    let several = format!("v1a,xxxx {} {good}", sign(b"old", now));
    assert_eq!(with(secret, now, &several), id("msg_1"));
    assert_eq!(with("plain", now, &sign(b"plain", now)), id("msg_1"));
    for off in [-300, 300] {
        let time = now + off;
        assert_eq!(with(secret, time, &sign(&key, time)), id("msg_1"));
        let time = now + off + off.signum();
        let stale = Doubt::Stale {
            off_s: 301,
            tolerance_s: 300,
        };
        assert_eq!(with(secret, time, &sign(&key, time)), Err(stale));
    }
    // The time that was signed is the one that counts.
    let wrong = Err(Doubt::Wrong("webhook-signature".to_owned()));
    assert_eq!(with(secret, now + 1, &good), wrong);
    assert_eq!(with(secret, now, &sign(b"other", now)), wrong);
    assert!(matches!(
        with(secret, now, "v2,abc"),
        Err(Doubt::Malformed(..))
    ));
    assert_eq!(with("whsec_!", now, &good), Err(Doubt::Secret));
}

#[test]
fn other_senders_sign_the_body_or_send_a_token_in_the_fields_that_the_manifest_names() {
    let signature = hex::encode(tag(b"key", BODY));
    let plain = terms("verify = \"hmac\"");
    let digest = hex::encode(Sha256::digest(BODY));
    assert_eq!(
        sent(&plain, "key", &[("x-signature-256", &signature)], BODY),
        id(&format!("sha256 {digest}"))
    );
    let own =
        terms("verify = \"hmac\"\nheader = \"x-boxvault-signature\"\nid_header = \"webhook-id\"");
    let prefixed = format!("sha256={signature}");
    let fields = [
        ("x-boxvault-signature", prefixed.as_str()),
        ("webhook-id", "m-1"),
    ];
    assert_eq!(sent(&own, "key", &fields, BODY), id("m-1"));
    assert_eq!(
        sent(&own, "other", &fields, BODY),
        Err(Doubt::Wrong("x-boxvault-signature".to_owned()))
    );

    let token = terms("verify = \"token\"");
    for given in ["Bearer key", "bearer key", "key"] {
        assert_eq!(
            sent(&token, "key", &[("authorization", given)], BODY),
            Ok(None)
        );
    }
    let named = [("x-webhook-token", "key"), ("x-delivery-id", "7")];
    assert_eq!(sent(&token, "key", &named, BODY), id("7"));
    assert_eq!(
        sent(&token, "key", &[("authorization", "Bearer other")], BODY),
        Err(Doubt::Wrong("authorization".to_owned()))
    );
    assert_eq!(
        sent(&token, "key", &[], BODY),
        Err(Doubt::Missing("authorization".to_owned()))
    );
    let open = terms("verify = \"none\"");
    assert_eq!(sent(&open, "", &[("x-delivery-id", "8")], BODY), id("8"));
    let long = "x".repeat(257);
    assert!(matches!(
        sent(&open, "", &[("x-delivery-id", &long)], BODY),
        Err(Doubt::Malformed(..))
    ));
}
