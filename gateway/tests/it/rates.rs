//! How often each may ask: who is counted for what, what a refusal says at each door, and what is never refused.

use boxgate_storage::metadata::accounts::OrganizationRole;
use boxgate_storage::metadata::tokens::TokenKind;

use crate::harness::{Reply, Request, Running, file_path};
use crate::resumable::{located, metadata, patch, tus};
use crate::scripts::write_plugin;

/// Next to nothing comes back while a test runs, however slowly: one in a second.
const SLOW: &[(&str, &str)] = &[
    ("BOXGATE_TRUSTED_PROXIES", "127.0.0.1"),
    ("BOXGATE_LIMITS__RATE_EXEMPT", ""),
    ("BOXGATE_RATES__ADDRESS__REQUESTS", "1"),
    ("BOXGATE_RATES__PRINCIPAL__REQUESTS", "1"),
    ("BOXGATE_RATES__ORGANIZATION__REQUESTS", "1"),
];

async fn start(more: &[(&str, &str)]) -> Running {
    Running::start_with(&[SLOW, more].concat()).await
}

/// A request that comes by a proxy for a client at `address`.
fn from(address: &str, method: &str, path: &str) -> Request {
    Request::new(method, path).header("X-Forwarded-For", address)
}

/// Asks until there is a refusal; what came before, and that.
async fn until_refused(running: &Running, ask: impl Fn() -> Request) -> (u32, Reply) {
    for answered in 0..1_000 {
        let reply = running.send(ask()).await;
        if matches!(reply.status, 429 | 503) {
            return (answered, reply);
        }
    }
    panic!("never refused");
}

fn header<'r>(reply: &'r Reply, name: &str) -> &'r str {
    reply
        .header(name)
        .unwrap_or_else(|| panic!("{name} is missing in {}", reply.head))
}

#[tokio::test]
async fn an_address_is_refused_in_each_doors_own_shape_and_another_is_not() {
    let running = start(&[("BOXGATE_RATES__ADDRESS__BURST", "3")]).await;
    let ask = |path: &'static str| move || from("198.51.100.1", "GET", path);
    let first = running.send(ask("/api/health/nothing")()).await;
    assert_eq!(header(&first, "ratelimit-policy"), "\"address\";q=3;w=3");
    assert!(
        header(&first, "ratelimit").starts_with("\"address\";r="),
        "{}",
        first.head
    );
    let mut shapes = Vec::new();
    for path in [
        "/api/discover",
        "/acme/demo",
        "/api/v1/search",
        "/files/0123456789abcdef0123456789abcdef",
        "/blobs/b3/00",
        "/providers/none/meta",
        "/nothing/at/all",
        "/api/admin/users",
    ] {
        let (answered, refused) = until_refused(&running, ask(path)).await;
        assert!(answered < 60, "{path}: {answered}");
        assert_eq!(refused.status, 429, "{path}");
        let wait: u64 = header(&refused, "retry-after").parse().unwrap();
        assert!((1..=3).contains(&wait), "{path}: {wait}");
        assert_eq!(
            header(&refused, "ratelimit"),
            format!("\"address\";r=0;t={wait}")
        );
        assert!(header(&refused, "cache-control").contains("no-store"));
        let body = String::from_utf8(refused.body.clone()).unwrap();
        assert!(body.contains("rates.address"), "{path}: {body}");
        shapes.push(body);
    }
    let shape = |at: usize, key: &str| {
        let json: serde_json::Value = serde_json::from_str(&shapes[at]).unwrap();
        json.get(key).is_some()
    };
    assert!(shape(0, "message") && shape(0, "error"), "{}", shapes[0]);
    assert!(shape(1, "errors"), "{}", shapes[1]);
    assert!(shape(2, "errors") && shape(2, "success"), "{}", shapes[2]);
    assert!(shape(3, "type") && shape(4, "type"), "{}", shapes[3]);
    assert!(shape(5, "errors"), "{}", shapes[5]);
    // The whole /64 is one, and nobody else is refused for it.
    let (_, refused) =
        until_refused(&running, || from("2001:db8::1", "GET", "/api/discover")).await;
    assert_eq!(refused.status, 429);
    let (answered, _) =
        until_refused(&running, || from("2001:db8::2:2", "GET", "/api/discover")).await;
    assert!(answered < 3, "{answered}");
    let other = running
        .send(from("2001:db8:0:1::1", "GET", "/api/discover"))
        .await;
    assert_eq!(other.status, 200);
    // Probes are counted for nobody, nor is the proxy itself.
    for _ in 0..20 {
        let probe = running.send(from("198.51.100.1", "GET", "/livez")).await;
        assert_eq!((probe.status, probe.header("ratelimit")), (200, None));
        let proxy = running.send(Request::new("GET", "/api/discover")).await;
        assert_eq!(proxy.status, 200);
    }
    let metrics = running.gateway.metrics_text().await;
    assert!(
        metrics.contains("boxgate_requests_refused_total{limit=\"address\"}"),
        "{metrics}"
    );
    assert!(
        metrics.contains("boxgate_rate_keys{policy=\"address\"}"),
        "{metrics}"
    );
    running.stop().await;
}

#[tokio::test]
async fn people_service_accounts_and_organizations_have_rates_of_their_own() {
    let bursts = [
        ("BOXGATE_RATES__PRINCIPAL__BURST", "5"),
        ("BOXGATE_RATES__ORGANIZATION__BURST", "9"),
    ];
    let running = start(&bursts).await;
    let ann = running.member("ann", OrganizationRole::Member).await;
    let of_ann = running.token(ann, TokenKind::Personal, None).await;
    let more_of_ann = running.token(ann, TokenKind::Personal, None).await;
    let service = running
        .token(ann, TokenKind::Service, Some(running.organization))
        .await;
    let stranger = running
        .account(
            "eve",
            boxgate_storage::metadata::accounts::PlatformRole::User,
        )
        .await;
    let of_eve = running.token(stranger, TokenKind::Personal, None).await;
    let asked =
        |token: &str, path: &str, n: u8| from(&format!("203.0.113.{n}"), "GET", path).token(token);
    // Wherever a person asks from, and by whichever token.
    let (answered, refused) = until_refused(&running, || asked(&of_ann, "/api/user", 1)).await;
    assert!((5..60).contains(&answered), "{answered}");
    assert!(String::from_utf8_lossy(&refused.body).contains("rates.principal"));
    let (answered, _) = until_refused(&running, || asked(&more_of_ann, "/api/user", 2)).await;
    assert!(answered < 3, "{answered}");
    // A service account is not the person for whom it acts. What it asks counts for its organization.
    let (_, refused) = until_refused(&running, || asked(&service, "/api/user", 3)).await;
    assert!(String::from_utf8_lossy(&refused.body).contains("rates.principal"));
    // Strangers use up nothing of what members may ask.
    let path = "/api/organization/acme/box";
    for _ in 0..3 {
        running.send(asked(&of_eve, path, 4)).await;
    }
    let (answered, refused) = until_refused(&running, || asked(&running.owner, path, 5)).await;
    let why = String::from_utf8_lossy(&refused.body).into_owned();
    // The owner has five requests, the organization had nine less those of the service account.
    assert!(
        why.contains("rates.organization") || why.contains("rates.principal"),
        "{why}"
    );
    assert!((3..60).contains(&answered), "{answered}");
    running.stop().await;
}

#[tokio::test]
async fn an_upload_that_is_under_way_goes_on_whatever_else_is_refused() {
    let bursts = [
        ("BOXGATE_RATES__ADDRESS__BURST", "4"),
        ("BOXGATE_RATES__PRINCIPAL__BURST", "4"),
        ("BOXGATE_RATES__ORGANIZATION__BURST", "4"),
    ];
    let running = start(&bursts).await;
    let by = |request: Request| request.header("X-Forwarded-For", "198.51.100.1");
    let begin = tus(&running, "POST", "/files")
        .header("Upload-Length", "40")
        .header("Upload-Metadata", &metadata("1.0.0"));
    let upload = located(&running.send(by(begin)).await);
    let path = format!("{}/upload", file_path("demo", "2.0.0"));
    let ranged = || {
        let whole = Request::new("PUT", &path).header("Content-Range", "bytes 0-9/10");
        by(whole.token(&running.owner).body(&[7; 10]))
    };
    assert_eq!(running.send(ranged()).await.status, 200);
    // Its sender, from its address, has nothing left.
    until_refused(&running, || {
        by(Request::new("GET", "/api/user").token(&running.owner))
    })
    .await;
    let bytes: Vec<u8> = (0..40).collect();
    for at in 0..20 {
        let offset = running.send(by(tus(&running, "HEAD", &upload))).await;
        assert_eq!(
            offset.header("upload-offset"),
            Some((2 * at).to_string().as_str())
        );
        let sent = patch(&running, &upload, 2 * at, &bytes[2 * at..2 * at + 2]);
        let status = running.send(by(sent)).await.status;
        assert!(matches!(status, 200 | 201 | 204), "{at}: {status}");
    }
    // Who is wrong about it is counted as everybody.
    let nowhere = "/files/0123456789abcdef0123456789abcdef";
    let (answered, _) = until_refused(&running, || by(tus(&running, "HEAD", nowhere))).await;
    assert!(answered < 60, "{answered}");
    // Nor does it help to say that a whole upload is a part of one.
    let (answered, _) = until_refused(&running, ranged).await;
    assert!(answered < 60, "{answered}");
    running.stop().await;
}

#[tokio::test]
async fn what_is_public_tells_others_nothing_of_one_client() {
    let running = start(&[]).await;
    assert_eq!(
        running
            .upload("demo", "1.0.0", b"bytes of a box")
            .await
            .status,
        200
    );
    let private = from(
        "198.51.100.1",
        "GET",
        &format!("{}/info", file_path("demo", "1.0.0")),
    );
    let private = running.send(private.token(&running.owner)).await;
    assert!(private.header("ratelimit").is_some(), "{}", private.head);
    let change = serde_json::json!({ "isPublic": true, "published": true });
    let change = Request::new("PUT", "/api/organization/acme/box/demo").json(&change);
    assert_eq!(running.send(change.token(&running.owner)).await.status, 200);
    let path = "/acme/boxes/demo/versions/1.0.0/providers/virtualbox/amd64/vagrant.box";
    let public = running.send(from("198.51.100.1", "GET", path)).await;
    assert_eq!(public.status, 200);
    assert!(header(&public, "cache-control").contains("public"));
    assert_eq!(public.header("ratelimit"), None, "{}", public.head);
    running.stop().await;
}

#[tokio::test]
async fn who_has_had_its_bytes_waits_and_loses_none() {
    const RATE: usize = 200_000;
    let rates = [
        ("BOXGATE_LIMITS__RATE_EXEMPT", ""),
        ("BOXGATE_RATES__PRINCIPAL__BYTES_IN", "200000B"),
        ("BOXGATE_RATES__ADDRESS__BYTES_OUT", "200000B"),
    ];
    let running = Running::start_with(&rates).await;
    let bytes = crate::uploads::noise(3 * RATE, 1);
    let begun = tokio::time::Instant::now();
    assert_eq!(running.upload("demo", "1.0.0", &bytes).await.status, 200);
    // The first tenth of a second was saved up, the last frame is not waited for; a slow machine only takes longer.
    assert!(begun.elapsed().as_millis() > 1_000, "{:?}", begun.elapsed());
    let begun = tokio::time::Instant::now();
    let path = format!("{}/download", file_path("demo", "1.0.0"));
    let reply = running.get(&path, &running.owner).await;
    assert_eq!((reply.status, reply.body == bytes), (200, true));
    assert!(begun.elapsed().as_millis() > 2_500, "{:?}", begun.elapsed());
    let metrics = running.gateway.metrics_text().await;
    for direction in ["in", "out"] {
        let line = format!("boxgate_shaper_waits_total{{direction=\"{direction}\"}}");
        assert!(metrics.contains(&line), "{metrics}");
    }
    running.stop().await;
}

/// By tenant, by what a proxy says of the client, and by a name that is none.
const PLANS: &str = r#"
    fn authorize(req, p) {
        if p.kind == "service" && p.has_role("acme", "member") { return #{ rate: "jobs" }; }
        let plan = req.header("x-plan");
        if plan != () { #{ rate: plan } }
    }
"#;

#[tokio::test]
async fn a_plugin_says_by_which_rate_a_request_is_counted() {
    const BYTES: usize = 300_000;
    let directory = tempfile::tempdir().unwrap();
    write_plugin(directory.path(), "plans", "", PLANS);
    let more = [
        ("BOXGATE_SCRIPTS__TRUST_LOCAL", "true"),
        ("BOXGATE_RATES__PRINCIPAL__BURST", "4"),
        ("BOXGATE_RATES__JOBS__BY_SCRIPTS", "true"),
        ("BOXGATE_RATES__JOBS__PER", "principal"),
        ("BOXGATE_RATES__JOBS__REQUESTS", "1"),
        ("BOXGATE_RATES__JOBS__BURST", "40"),
        ("BOXGATE_RATES__GUESTS__BY_SCRIPTS", "true"),
        ("BOXGATE_RATES__GUESTS__REQUESTS", "1"),
        ("BOXGATE_RATES__GUESTS__BURST", "2"),
        ("BOXGATE_RATES__GUESTS__BYTES_OUT", "100000B"),
    ];
    let running = Running::start_in(directory, &[SLOW, &more].concat()).await;
    for status in running.gateway.scripts.status() {
        assert_eq!(status.error, None, "{}", status.plugin);
    }
    let bytes = crate::uploads::noise(BYTES, 1);
    assert_eq!(running.upload("demo", "1.0.0", &bytes).await.status, 200);
    let ann = running.member("ann", OrganizationRole::Member).await;
    let of_ann = running.token(ann, TokenKind::Personal, None).await;
    let service = running
        .token(ann, TokenKind::Service, Some(running.organization))
        .await;
    let ask = |token: &str, n: u8, plan: &str| {
        let asked = from(&format!("203.0.113.{n}"), "GET", "/api/user").token(token);
        match plan {
            "" => asked,
            plan => asked.header("X-Plan", plan),
        }
    };
    let policy = |reply: &Reply| {
        let policy = header(reply, "ratelimit-policy").split(';').next();
        policy.unwrap_or_default().trim_matches('"').to_owned()
    };
    // In the place of the one that is for all principals.
    let (answered, refused) = until_refused(&running, || ask(&service, 1, "")).await;
    assert!((40..100).contains(&answered), "{answered}");
    assert_eq!(policy(&refused), "jobs");
    // A name that is none changes nothing, nor does one that is not for plugins to choose.
    for plan in ["none", "organization"] {
        let (answered, refused) = until_refused(&running, || ask(&running.owner, 2, plan)).await;
        assert!(answered < 40, "{answered}");
        assert_eq!(policy(&refused), "principal");
    }
    // Nobody in particular has a rate by address, and others at that address lose nothing.
    let guest = |n: u8| from(&format!("203.0.113.{n}"), "GET", "/api/discover");
    let (answered, refused) = until_refused(&running, || guest(4).header("X-Plan", "guests")).await;
    assert!(answered < 30, "{answered}");
    assert_eq!(
        (refused.status, policy(&refused)),
        (429, "guests".to_owned())
    );
    assert_eq!(running.send(guest(4)).await.status, 200);
    // What it says of bytes holds, too: what was saved up is a tenth of a second's.
    let path = format!("{}/download", file_path("demo", "1.0.0"));
    let download = from("203.0.113.5", "GET", &path).token(&of_ann);
    let begun = tokio::time::Instant::now();
    let reply = running.send(download.header("X-Plan", "guests")).await;
    assert_eq!((reply.status, reply.body == bytes), (200, true));
    assert!(begun.elapsed().as_millis() > 2_500, "{:?}", begun.elapsed());
    running.stop().await;
}
