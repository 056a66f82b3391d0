//! Plugins on the real request path: what each hook changes, what a broken one costs, how they are reloaded and
//! rolled back.

use boxgate_storage::metadata::accounts::PlatformRole;
use boxgate_storage::metadata::tokens::TokenKind;
use serde_json::json;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Request, Running, file_path, read_reply};
use crate::resumable::half;

/// A gateway with plugins of one file each.
async fn with_plugins(plugins: &[(&str, &str)]) -> Running {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("data/plugins");
    std::fs::create_dir_all(&place).unwrap();
    for (name, source) in plugins {
        std::fs::write(place.join(format!("{name}.rhai")), source).unwrap();
    }
    let running = Running::start_in(directory, &[("BOXGATE_SCRIPTS__CHECK_EVERY", "0s")]).await;
    for status in running.gateway.scripts.status() {
        assert_eq!(status.error, None, "{}", status.plugin);
    }
    running
}

/// A plugin in a folder.
pub(crate) fn write_plugin(directory: &std::path::Path, name: &str, manifest: &str, main: &str) {
    let place = directory.join("data/plugins").join(name);
    std::fs::create_dir_all(&place).unwrap();
    std::fs::write(place.join("plugin.toml"), manifest).unwrap();
    std::fs::write(place.join("main.rhai"), main).unwrap();
}

/// A server outside that answers each request with its head, and those to `/away` with a redirect.
pub(crate) async fn outside() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut seen = Vec::new();
                let mut byte = [0];
                while !seen.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).await.is_ok() {
                    seen.push(byte[0]);
                }
                let first = String::from_utf8_lossy(&seen).into_owned();
                let path = first.split(' ').nth(1).unwrap_or_default();
                let head = match path.rsplit_once("/away-to/") {
                    Some((_, place)) => format!("HTTP/1.1 302 Found\r\nlocation: /{place}\r\n"),
                    None => "HTTP/1.1 200 OK\r\n".to_owned(),
                };
                let length = seen.len();
                let answer =
                    format!("{head}connection: close\r\ncontent-length: {length}\r\n\r\n{first}");
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    port
}

/// The token of an administrator of the platform.
async fn platform(running: &Running) -> String {
    let root = running.account("root", PlatformRole::Admin).await;
    running.token(root, TokenKind::Personal, None).await
}

fn upload(running: &Running, name: &str) -> Request {
    Request::new("POST", &file_path(name, "1.0.0")).token(&running.owner)
}

#[tokio::test]
async fn route_answers_redirects_rewrites_and_changes_heads() {
    let source = r#"
        fn route(req) {
            switch req.path {
                "/teapot" => respond(418, #{ short: true, host: req.host }, #{ "x-tea": "yes" }),
                "/elsewhere" => redirect("https://mirror.example.org/x", 307),
                "/old/list" => #{ rewrite: "/api/organization/acme/box", set: #{ "x-was": req.path } },
                "/api/auth/methods" => #{ remove: ["content-type"], cache: 60 },
                _ => ()
            }
        }
        fn on_response(req, res) {
            #{ set: #{ "x-status": `${res.status}`, "x-token": req.header("authorization") ?? "none" } }
        }
    "#;
    let running = with_plugins(&[("acme", source)]).await;
    let teapot = running.get("/teapot", "").await;
    assert_eq!((teapot.status, teapot.header("x-tea")), (418, Some("yes")));
    assert_eq!(teapot.json(), json!({"short": true, "host": "gateway"}));
    let elsewhere = running.get("/elsewhere", "").await;
    assert_eq!(elsewhere.status, 307);
    assert_eq!(
        elsewhere.header("location"),
        Some("https://mirror.example.org/x")
    );
    let list = running.get("/old/list", &running.owner).await;
    assert_eq!(
        (list.status, list.header("x-was")),
        (200, Some("/old/list"))
    );
    assert_eq!(list.header("x-status"), Some("200"));
    // Credentials are no script's business.
    assert_eq!(list.header("x-token"), Some("***"));
    let methods = running.get("/api/auth/methods", "").await;
    assert_eq!(methods.header("content-type"), None);
    // What was private stays so.
    assert_eq!(
        methods.header("cache-control"),
        Some("private, max-age=60, no-transform")
    );
}

#[tokio::test]
async fn authorize_narrows_and_never_widens() {
    let source = r#"
        fn authorize(req, p) {
            if req.method == "POST" && !net::contains("10.0.0.0/8", req.client_ip) { return deny("not from here"); }
            allow()
        }
    "#;
    let running = with_plugins(&[("network", source)]).await;
    let denied = running.upload("demo", "1.0.0", b"box").await;
    assert_eq!(denied.status, 403);
    let text = String::from_utf8_lossy(&denied.body).into_owned();
    assert!(text.contains("not from here"), "{text}");
    assert!(running.stored_files().is_empty());
    // What the gateway refuses stays refused.
    assert_eq!(running.get("/api/user", "").await.status, 403);
    assert_eq!(running.get("/api/user", &running.owner).await.status, 200);
}

#[tokio::test]
async fn upload_policy_holds_at_every_way_in() {
    let source = r#"
        fn on_upload_start(u) {
            if u.box == "" { return reject(403, "say what it becomes"); }
            if u.organization != "acme" || u.principal.name != "owner" { return reject(418, "who?"); }
            if u.box == "free" { return; }
            #{ max_size: 1000, require_checksum: "sha256" }
        }
    "#;
    let running = with_plugins(&[("policy", source)]).await;
    assert_eq!(running.upload("free", "1.0.0", b"box").await.status, 200);
    assert_eq!(running.upload("demo", "1.0.0", b"box").await.status, 400);
    let large = running.upload("demo", "1.0.0", &[7; 1001]).await;
    assert_eq!(large.status, 413);
    let sum = "ab".repeat(32);
    let wrong = upload(&running, "demo").header("x-checksum", &sum);
    let wrong = running
        .send(wrong.header("x-checksum-type", "sha256").body(b"box"))
        .await;
    // It was let in, and its bytes are not what was said.
    assert_eq!(wrong.status, 422);
    let chunked = upload(&running, "demo")
        .header("x-checksum", &sum)
        .header("Transfer-Encoding", "chunked")
        .raw_body(b"3\r\nbox\r\n0\r\n\r\n");
    assert_eq!(running.send(chunked).await.status, 411);
    let tus = |target: &str| {
        Request::new("POST", &format!("/files{target}"))
            .token(&running.owner)
            .header("Tus-Resumable", "1.0.0")
            .header("Upload-Length", "3")
            .body(b"")
    };
    let target = "?target=acme/demo/1.0.0/virtualbox/amd64";
    assert_eq!(running.send(tus(target)).await.status, 400);
    assert_eq!(running.send(tus("?organization=acme")).await.status, 403);
    let free = "?target=acme/free/2.0.0/virtualbox/amd64";
    assert_eq!(running.send(tus(free)).await.status, 201);
    let parts = Request::new("POST", &format!("/files{target}"))
        .token(&running.owner)
        .header("Upload-Length", "5000");
    assert_eq!(running.send(parts).await.status, 413);
    // A form is longer than the file in it, which alone counts.
    for (length, status) in [(1000, 422), (1001, 413), (100_000, 413)] {
        let file = "7".repeat(length);
        let form = format!(
            "--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.box\"\r\n\r\n{file}\r\n--b--\r\n"
        );
        let form = upload(&running, "demo")
            .header("Content-Type", "multipart/form-data; boundary=b")
            .header("x-checksum", &sum)
            .header("x-checksum-type", "sha256")
            .body(form.as_bytes());
        assert_eq!(running.send(form).await.status, status, "{length}");
    }
}

#[tokio::test]
async fn an_upload_begins_in_parts_and_with_labels_that_scripts_choose() {
    let first = r#"
        fn on_upload_start(u) {
            if u.size > 40_000_000 { #{ part_size: 20_000_000, labels: #{ from: u.principal.name, kind: "big" } } }
            else { #{ part_size: 1, labels: #{ kind: "small" } } }
        }
    "#;
    let second =
        r#"fn on_upload_start(u) { #{ part_size: 1 << 40, labels: #{ kind: "never", more: 1 } } }"#;
    let last = r#"
        fn on_upload_complete(blob) {
            if blob.labels.more != "1" { return reject(422, "no labels"); }
            #{ labels: #{ kind: blob.labels.kind + "!" } }
        }
        fn on_download(req, blob) { #{ set: #{ "x-labels": blob.labels.kind + " " + blob.labels.more } } }
    "#;
    let running = with_plugins(&[("a", first), ("b", second), ("c", last)]).await;
    let begun = |length: u64| {
        let target = "?target=acme/demo/1.0.0/virtualbox/amd64";
        Request::new("POST", &format!("/files{target}"))
            .token(&running.owner)
            .header("Upload-Length", &length.to_string())
    };
    for (length, part) in [(50_000_000, "33554432"), (1000, "8388608")] {
        let answer = running.send(begun(length)).await;
        assert_eq!(answer.status, 201);
        assert_eq!(answer.header("upload-part-size"), Some(part));
    }
    assert_eq!(running.upload("demo", "1.0.0", b"box").await.status, 200);
    let path = format!("{}/download", file_path("demo", "1.0.0"));
    let got = running.get(&path, &running.owner).await;
    let labels = got.header("x-labels").map(str::to_owned);
    assert_eq!(labels.as_deref(), Some("small! 1"));
}

#[tokio::test]
async fn a_store_that_a_script_makes_up_costs_uploads_and_no_reads() {
    let source = r#"fn route(req) { #{ backend: "nowhere" } }"#;
    let running = with_plugins(&[("typo", source)]).await;
    assert_eq!(running.upload("demo", "1.0.0", b"box").await.status, 503);
    let read = running
        .get("/api/organization/acme/box", &running.owner)
        .await;
    assert_eq!(read.status, 200);
    let metrics = running.get("/metrics", "").await;
    let metrics = String::from_utf8(metrics.body).unwrap();
    for wanted in [
        r#"boxgate_script_calls_total{plugin="typo",hook="route",outcome="error"} 2"#,
        r#"boxgate_script_seconds_bucket{plugin="typo",hook="route",le="+Inf"}"#,
        r#"boxgate_script_ops_count{plugin="typo",hook="route"}"#,
        r#"boxgate_script_reload_total{plugin="typo",result="loaded"} 1"#,
    ] {
        assert!(metrics.contains(wanted), "{wanted}\n{metrics}");
    }
}

#[tokio::test]
async fn downloads_are_redirected_refused_and_dressed_and_a_failure_lets_them_go_on() {
    let source = r#"
        fn on_download(req, blob) {
            switch req.query("do") {
                "mirror" => redirect("https://mirror.example.org/" + blob.blake3),
                "no" => deny(451, "not in your country"),
                "dress" => #{ set: #{ "x-size": `${blob.size}`, "x-box": blob.box }, cache: "bypass" },
                "slow" => #{ rate_bps: 400 },
                "fail" => { throw "oops"; }
                "loop" => { loop {} }
                _ => ()
            }
        }
    "#;
    let running = with_plugins(&[("edge", source)]).await;
    assert_eq!(running.upload("demo", "1.0.0", b"a box").await.status, 200);
    let path = format!("{}/download", file_path("demo", "1.0.0"));
    let get = async |what: &str| {
        running
            .get(&format!("{path}?do={what}"), &running.owner)
            .await
    };
    let mirror = get("mirror").await;
    assert_eq!(mirror.status, 302);
    let digest = blake3::hash(b"a box").to_hex().to_string();
    assert!(mirror.header("location").unwrap().ends_with(&digest));
    assert_eq!(get("no").await.status, 451);
    let dressed = get("dress").await;
    assert_eq!(
        (dressed.status, dressed.body.as_slice()),
        (200, &b"a box"[..])
    );
    assert_eq!(dressed.header("x-size"), Some("5"));
    assert_eq!(dressed.header("x-box"), Some("demo"));
    assert_eq!(
        dressed.header("cache-control"),
        Some("private, no-store, no-transform")
    );
    // 50 bytes in a second, two at once: the last goes out after four fiftieths of it, and never earlier.
    let begun = tokio::time::Instant::now();
    let slow = get("slow").await;
    assert!(begun.elapsed() >= std::time::Duration::from_millis(80));
    assert_eq!((slow.status, slow.body.as_slice()), (200, &b"a box"[..]));
    for what in ["fail", "loop", "nothing"] {
        let plain = get(what).await;
        assert_eq!(
            (plain.status, plain.body.as_slice()),
            (200, &b"a box"[..]),
            "{what}"
        );
    }
    let metrics = running.get("/metrics", "").await;
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    for line in [
        r#"boxgate_script_calls_total{plugin="edge",hook="on_download",outcome="error"} 1"#,
        r#"boxgate_script_calls_total{plugin="edge",hook="on_download",outcome="ok"} 1"#,
        r#"boxgate_script_stale{plugin="edge"} 0"#,
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn protected_file_outlives_every_way_to_delete_it() {
    let source = r#"fn on_delete(req, blob) { if blob.version == "1.0.0" { deny(409, blob.box + " is in use") } }"#;
    let running = with_plugins(&[("keep", source)]).await;
    for version in ["1.0.0", "2.0.0"] {
        assert_eq!(running.upload("demo", version, b"box").await.status, 200);
    }
    let level = |depth: usize| {
        let path = file_path("demo", "1.0.0");
        let parts: Vec<&str> = path.split('/').collect();
        parts[..parts.len() - depth].join("/")
    };
    let file = format!("{}/delete", level(0));
    // The file, its architecture, all of them, provider, providers, version, versions, box, boxes, organization.
    let ways = (1..=9).map(level).chain([file]);
    for path in ways {
        let reply = running
            .send(Request::new("DELETE", &path).token(&running.owner))
            .await;
        assert_eq!(reply.status, 409, "{path}");
    }
    let other = file_path("demo", "2.0.0").replace("/file", "");
    let reply = running
        .send(Request::new("DELETE", &other).token(&running.owner))
        .await;
    assert_eq!(reply.status, 200);
    let download = format!("{}/download", file_path("demo", "1.0.0"));
    assert_eq!(running.get(&download, &running.owner).await.status, 200);
}

#[tokio::test]
async fn plugin_that_refuses_everything_is_got_rid_of() {
    let running = with_plugins(&[("good", "fn authorize(req, p) {}")]).await;
    let root = platform(&running).await;
    let place = running.data_dir().join("plugins/good.rhai");
    std::fs::write(&place, "fn authorize(req, p) { throw \"never\" }").unwrap();
    let reload = |query: &str| {
        Request::new("POST", &format!("/api/admin/scripts/reload{query}")).token(&root)
    };
    let dry = running.send(reload("?dry_run=true")).await.json();
    assert_eq!(dry["plugins"][0]["result"], "loaded");
    assert_eq!(running.get("/api/user", &running.owner).await.status, 200);
    assert_eq!(
        running.send(reload("")).await.json()["plugins"][0]["result"],
        "loaded"
    );
    let refused = running.get("/api/user", &running.owner).await;
    assert_eq!(refused.status, 503);
    assert!(refused.header("retry-after").is_some());
    assert_eq!(running.get("/livez", "").await.status, 200);
    let rollback = Request::new("POST", "/api/admin/scripts/good/rollback").token(&root);
    assert_eq!(running.send(rollback).await.status, 200);
    assert_eq!(running.get("/api/user", &running.owner).await.status, 200);
    let listed = running.get("/api/admin/scripts", &root).await.json();
    assert_eq!(listed[0]["rolled_back"], true);
    assert_eq!(listed[0]["hooks"][0]["on_failure"], "closed");
    assert!(listed[0]["hooks"][0]["calls"]["error"].as_u64().unwrap() >= 1);

    // A broken save changes nothing but how the plugin stands.
    std::fs::write(&place, "fn authorize(req, p) { nothing }").unwrap();
    let broken = running.send(reload("")).await.json();
    assert_eq!(broken["plugins"][0]["result"], "failed");
    let told = broken["plugins"][0]["findings"][0].as_str().unwrap();
    assert!(
        told.contains("good.rhai:1:24") && told.contains('^'),
        "{told}"
    );
    assert_eq!(running.get("/api/user", &running.owner).await.status, 200);
    let gone = Request::new("POST", "/api/admin/scripts/nobody/rollback").token(&root);
    assert_eq!(running.send(gone).await.status, 404);
}

#[tokio::test]
async fn requests_to_outside_go_where_the_grant_and_the_networks_say() {
    let port = outside().await;
    let manifest = format!(
        "[hooks.on_download]\nlane = \"work\"\ndeadline_ms = 5000\n\
         [http]\nallow = [\"http://127.0.0.1:{port}/in/\"]\n"
    );
    let source = format!(
        r#"
        fn on_download(req, blob) {{
            let options = #{{ headers: #{{ "x-key": "s3cret" }}, redirects: 1 }};
            try {{
                let got = http::get("http://127.0.0.1:{port}" + req.query("path"), options);
                #{{ set: #{{ "x-got": `${{got.status}}`, "x-echo": got.text().contains("x-key: s3cret") }} }}
            }} catch (e) {{
                // What a catch block evaluates to is dropped.
                return #{{ set: #{{ "x-got": e.code }} }};
            }}
        }}
    "#
    )
    .replace("got.text().contains(\"x-key: s3cret\")", "`${got.text().contains(\"x-key: s3cret\")}`");
    let start = async |networks: &str| {
        let directory = tempfile::tempdir().unwrap();
        write_plugin(directory.path(), "caller", &manifest, &source);
        let variables = [
            ("BOXGATE_SCRIPTS__CHECK_EVERY", "0s"),
            ("BOXGATE_SCRIPTS__TRUST_LOCAL", "true"),
            ("BOXGATE_SCRIPTS__ALLOW_NETWORKS", networks),
        ];
        let running = Running::start_in(directory, &variables).await;
        assert_eq!(running.upload("demo", "1.0.0", b"box").await.status, 200);
        running
    };
    let running = start("127.0.0.0/8").await;
    let path = format!("{}/download", file_path("demo", "1.0.0"));
    let asked = async |running: &Running, place: &str| {
        let path = format!("{path}?path={place}");
        let reply = running.get(&path, &running.owner).await;
        assert_eq!((reply.status, reply.body.as_slice()), (200, &b"box"[..]));
        (
            reply.header("x-got").unwrap_or_default().to_owned(),
            reply.header("x-echo").unwrap_or_default().to_owned(),
        )
    };
    assert_eq!(
        asked(&running, "/in/x").await,
        ("200".into(), "true".into())
    );
    assert_eq!(asked(&running, "/out/x").await.0, "http.not_granted");
    assert_eq!(asked(&running, "/in/../out").await.0, "http.not_granted");
    assert_eq!(
        asked(&running, "/in/away-to/in/y").await,
        ("200".into(), "true".into())
    );
    assert_eq!(
        asked(&running, "/in/away-to/out/y").await.0,
        "http.not_granted"
    );
    let metrics = running.get("/metrics", "").await;
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    let line = r#"boxgate_script_http_total{plugin="caller",host="127.0.0.1",class="2xx"} 2"#;
    assert!(text.contains(line), "{line} is not in\n{text}");

    // The grant alone opens no network.
    let running = start("").await;
    assert_eq!(asked(&running, "/in/x").await.0, "http.blocked_destination");
}

#[tokio::test]
async fn a_request_under_way_ends_with_the_plugins_that_it_began_with() {
    let source = |version: u32| {
        format!(
            "fn route(req) {{ #{{ set: #{{ \"x-began\": \"{version}\" }} }} }}\n\
             fn on_response(req, res) {{ #{{ set: #{{ \"x-ended\": \"{version}\" }} }} }}"
        )
    };
    let running = with_plugins(&[("marks", &source(1))]).await;
    let bytes = [7; 1000];
    let post = Request::new("POST", &file_path("demo", "1.0")).token(&running.owner);
    let mut stream = half(&running, post, bytes.len(), &bytes[..999]).await;
    while running.gateway.engine.in_progress() == 0 {
        tokio::task::yield_now().await;
    }
    let place = running.data_dir().join("plugins/marks.rhai");
    std::fs::write(place, source(2)).unwrap();
    let root = running.account("root", PlatformRole::Admin).await;
    let root = running.token(root, TokenKind::Personal, None).await;
    let reload = Request::new("POST", "/api/admin/scripts/reload").token(&root);
    let reloaded = running.send(reload).await.json();
    assert_eq!(reloaded["plugins"][0]["result"], "loaded");
    let marks = |reply: &crate::harness::Reply| {
        ["x-began", "x-ended"].map(|name| reply.header(name).expect(&reply.head).to_owned())
    };
    stream.write_all(&bytes[999..]).await.unwrap();
    let reply = read_reply(&mut stream).await;
    assert_eq!(
        (reply.status, marks(&reply)),
        (200, ["1", "1"].map(str::to_owned))
    );
    let next = running.get("/nothing", "").await;
    assert_eq!(marks(&next), ["2", "2"].map(str::to_owned));
    running.stop().await;
}

/// Whether the other side still waits for an answer.
fn waits(stream: &TcpStream) -> bool {
    let mut heads = [0; 4096];
    loop {
        match stream.try_read(&mut heads) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(e) => return e.kind() == std::io::ErrorKind::WouldBlock,
        }
    }
}

#[tokio::test]
async fn while_every_worker_waits_fast_hooks_transfers_and_reloads_do_not() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let directory = tempfile::tempdir().unwrap();
    let manifest = format!(
        "[http]\nallow = [\"http://127.0.0.1:{port}/\"]\n[webhook_in.go]\nverify = \"none\"\n"
    );
    let ask = format!("fn webhook_in(req) {{ http::get(\"http://127.0.0.1:{port}/\"); }}");
    for name in ["asks-a", "asks-b", "asks-c"] {
        write_plugin(directory.path(), name, &manifest, &ask);
    }
    let mark =
        |version: u32| format!("fn route(req) {{ #{{ set: #{{ \"x-mark\": \"{version}\" }} }} }}");
    write_plugin(directory.path(), "marks", "", &mark(0));
    let variables = [
        ("BOXGATE_SCRIPTS__CHECK_EVERY", "0s"),
        ("BOXGATE_SCRIPTS__TRUST_LOCAL", "true"),
        ("BOXGATE_SCRIPTS__ALLOW_NETWORKS", "127.0.0.0/8"),
        ("BOXGATE_SCRIPTS__WORKERS", "2"),
        ("BOXGATE_SCRIPTS__QUEUE_WAIT", "50ms"),
    ];
    let running = Running::start_in(directory, &variables).await;
    for status in running.gateway.scripts.status() {
        assert_eq!(status.error, None, "{}", status.plugin);
    }
    let root = platform(&running).await;
    let go = |plugin: &str| Request::new("POST", &format!("/hooks/{plugin}/go")).body(b"{}");
    // Where the machine is so slow that their own deadline frees the workers first, once more.
    let mut all_waited = false;
    for round in 1..=5 {
        let mut asking = Vec::new();
        let mut held = Vec::new();
        for plugin in ["asks-a", "asks-b"] {
            let mut stream = TcpStream::connect(running.address).await.unwrap();
            stream.write_all(&go(plugin).to_bytes()).await.unwrap();
            asking.push(stream);
            held.push(silent.accept().await.unwrap().0);
        }
        let third = running.send(go("asks-c")).await;
        let name = format!("round-{round}");
        let sent = running.upload(&name, "1.0.0", b"box").await;
        let path = format!("{}/download", file_path(&name, "1.0.0"));
        let got = running.get(&path, &running.owner).await;
        std::fs::write(
            running.data_dir().join("plugins/marks/main.rhai"),
            mark(round),
        )
        .unwrap();
        let reload = Request::new("POST", "/api/admin/scripts/reload").token(&root);
        let reloaded = running.send(reload).await.json();
        let next = running.get("/nothing", "").await;
        all_waited = held.iter().all(waits);
        drop(held);
        for mut stream in asking {
            read_reply(&mut stream).await;
        }
        assert_eq!((sent.status, got.body.as_slice()), (200, b"box".as_slice()));
        let marks = reloaded["plugins"].as_array().unwrap().iter();
        let marks: Vec<_> = marks.filter(|p| p["plugin"] == "marks").collect();
        assert_eq!(marks[0]["result"], "loaded", "{reloaded}");
        assert_eq!(next.header("x-mark"), Some(round.to_string().as_str()));
        if all_waited {
            assert_eq!(third.status, 503, "{}", third.head);
            break;
        }
    }
    assert!(all_waited, "no round was quick enough");
    running.stop().await;
}

#[tokio::test]
async fn events_are_told_in_order_and_again_when_a_plugin_must_not_miss_them() {
    let port = outside().await;
    let directory = tempfile::tempdir().unwrap();
    let manifest = format!(
        "[hooks.on_event]\non_failure = \"closed\"\n\
         [http]\nallow = [\"http://127.0.0.1:{port}/\"]\n[events]\nnames = [\"x.crier.heard\"]\n"
    );
    let source = r#"
        fn on_event(e) {
            if e.name == "x.crier.heard" {
                if e.depth != 1 || !e.causes("crier") || e.data.actor.name != "crier" { throw "odd"; }
                kv::set("echo", e.data.of, 60);
                return;
            }
            if e.data.tags == () { return; }
            // The first try fails: the event is told again.
            if kv::incr("tries " + e.id, 1, 60) == 1 { throw "not now"; }
            if !http::get("http://127.0.0.1:PORT/" + e.name).ok { throw "nobody hears"; }
            let sofar = kv::get("heard") ?? [];
            sofar.push(`${e.name} ${e.data.box} ${e.data.tags[0]}`);
            kv::set("heard", sofar, 60);
            event::emit("x.crier.heard", #{ of: e.name });
        }
        fn route(req) {
            if req.path == "/heard" { respond(200, #{ heard: kv::get("heard") ?? [], echo: kv::get("echo") }) }
        }
    "#
    .replace("PORT", &port.to_string());
    write_plugin(directory.path(), "crier", &manifest, &source);
    let variables = [
        ("BOXGATE_SCRIPTS__CHECK_EVERY", "0s"),
        ("BOXGATE_SCRIPTS__TRUST_LOCAL", "true"),
        ("BOXGATE_SCRIPTS__ALLOW_NETWORKS", "127.0.0.0/8"),
        ("BOXGATE_WEBHOOKS__DELAYS", "0s,1s,1s,1h"),
    ];
    let running = Running::start_in(directory, &variables).await;
    for status in running.gateway.scripts.status() {
        assert_eq!(status.error, None, "{}", status.plugin);
    }
    assert_eq!(running.upload("demo", "1.0.0", b"box").await.status, 200);
    let delete = Request::new("DELETE", "/api/organization/acme/box/demo").token(&running.owner);
    assert_eq!(running.send(delete).await.status, 200);
    let wanted = json!({
        "heard": ["user.created", "box.uploaded demo box/acme/demo", "box.deleted demo box/acme/demo"],
        "echo": "box.deleted",
    });
    let heard = tokio::time::timeout(std::time::Duration::from_mins(1), async {
        loop {
            let heard = running.get("/heard", "").await.json();
            let told = heard["heard"].as_array().map_or(0, Vec::len);
            if told >= 2 && heard["echo"] == "box.deleted" {
                break heard;
            }
            tokio::task::yield_now().await;
        }
    });
    let heard = heard.await.unwrap();
    let boxes: Vec<_> = heard["heard"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|h| h.as_str().unwrap().starts_with("box."))
        .collect();
    let wanted: Vec<_> = wanted["heard"].as_array().unwrap()[1..].iter().collect();
    assert_eq!(boxes, wanted);
}
