//! Plugins from a folder to verdicts: what hooks answer, what is refused at load, what a failure means.

use std::sync::Arc;
use std::time::Duration;

use crate::support::{Folder, blob, request, service, upload};
use boxgate_scripting::Scripts;
use boxgate_scripting::error::Fault;
use boxgate_scripting::facts::{Event, Image, Push};
use boxgate_scripting::hook::Hook;
use boxgate_scripting::manifest::Grant;
use boxgate_scripting::set::State;
use boxgate_scripting::verdict::{
    AccessTerms, AuthorizeVerdict, Caching, CompleteVerdict, DeleteVerdict, DownloadVerdict,
    ImageVerdict, PushVerdict, RouteVerdict, Routing, UploadVerdict,
};

/// The errors of a plugin of one file.
fn refused(source: &str) -> String {
    let scripts = Folder::with("acme", source).open();
    let status = scripts.status().remove(0);
    status
        .error
        .unwrap_or_else(|| panic!("this should be refused: {source}"))
}

async fn routed(scripts: &Scripts, host: &str, path: &str) -> RouteVerdict {
    scripts
        .route(&request("GET", host, path))
        .await
        .unwrap()
        .verdict
}

#[tokio::test]
async fn examples_of_the_reference_do_what_they_say() {
    let folder = Folder::new();
    folder.write(
        "tenants.rhai",
        r#"const T = table([["eu.example.org", "/acme/**", "eu-store"], ["*", "/public/**", "edge"]]);
           fn route(req) { let hit = T.find(req); if hit == () { return; } #{ backend: hit, tags: #{ tenant: req.seg(0) } } }"#,
    );
    folder.write(
        "network.rhai",
        r#"fn authorize(req, p) {
               if p.kind == "service" && req.method in ["PUT", "POST"] && !net::contains("10.20.0.0/16", req.client_ip) { deny("outside build network") }
           }"#,
    );
    folder.write(
        "policy.rhai",
        r#"fn on_upload_start(u) { if u.size > 20 * 1024 * 1024 * 1024 { reject(413, "over 20 GiB") } else { #{ require_checksum: "sha256" } } }
           fn on_upload_complete(b) { if b.size > 5 { #{ labels: #{ big: "yes" } } } }
           fn on_download(req, blob) { if req.header("user-agent") == "curl" { redirect("https://mirror.example.org/" + blob.box, 307) } }
           fn on_delete(req, blob) { if blob.version == "1.0.0" { deny(409, "in use") } }
           fn on_response(req, res) { #{ set: #{ "X-Seen": req.query("b") } , remove: ["Server"] } }"#,
    );
    let scripts = folder.open();
    for status in scripts.status() {
        assert_eq!(status.error, None, "{}", status.plugin);
    }

    let RouteVerdict::Continue(routing) = routed(&scripts, "eu.example.org", "/acme/box").await
    else {
        panic!("it should go on");
    };
    assert_eq!(routing.backend.as_deref(), Some("eu-store"));
    assert_eq!(routing.tags["tenant"], "acme");
    assert_eq!(
        routed(&scripts, "us.example.org", "/acme/box").await,
        RouteVerdict::Continue(Routing::default())
    );

    let put = request("PUT", "h", "/x");
    let denied = scripts.authorize(&put, &service("acme")).await.unwrap();
    assert!(
        matches!(&denied.verdict, AuthorizeVerdict::Deny(d) if d.status == 403 && d.reason == "outside build network")
    );
    assert_eq!(denied.by, ["network"]);
    let get = request("GET", "h", "/x");
    assert_eq!(
        scripts
            .authorize(&get, &service("acme"))
            .await
            .unwrap()
            .verdict,
        AuthorizeVerdict::Proceed(AccessTerms::default())
    );

    let large = scripts
        .on_upload_start(&upload(21 << 30))
        .await
        .unwrap()
        .verdict;
    assert!(matches!(large, UploadVerdict::Reject(d) if d.status == 413));
    let small = scripts.on_upload_start(&upload(1)).await.unwrap().verdict;
    assert!(
        matches!(small, UploadVerdict::Accept(t) if t.require_checksum.as_deref() == Some("sha256"))
    );
    let complete = scripts.on_upload_complete(&blob()).await.unwrap().verdict;
    assert!(matches!(complete, CompleteVerdict::Publish(labels) if labels["big"] == "yes"));
    let download = scripts.on_download(&get, &blob()).await.unwrap().verdict;
    assert!(
        matches!(download, DownloadVerdict::Redirect(r) if r.status == 307 && r.url == "https://mirror.example.org/demo")
    );
    let delete = scripts
        .on_delete(&request("DELETE", "h", "/x"), &blob())
        .await
        .unwrap()
        .verdict;
    assert!(matches!(delete, DeleteVerdict::Deny(d) if d.status == 409));
    let response = scripts
        .on_response(&get, &Arc::default())
        .await
        .unwrap()
        .verdict;
    assert_eq!(response.set["x-seen"], "x y");
    assert_eq!(response.remove, ["server"]);
}

#[tokio::test]
async fn images_are_deployed_and_pushed_as_all_plugins_agree() {
    let folder = Folder::new();
    folder.write(
        "a-limit.rhai",
        r#"fn on_image_deploy(req, image) { if image.size > 5 { reject("too large for " + image.runtime) } }
           fn on_image_push(req, push) { if push.target_host == "bad.example" { deny("never") } }"#,
    );
    folder.write(
        "b-elsewhere.rhai",
        r#"fn on_image_push(req, push) { if push.image.checksum == "c0" { #{ target: push.target + "/b" } } }
           fn on_image_deployed(event) { if event.data.size > 5 { throw "no" } }"#,
    );
    folder.write(
        "c-late.rhai",
        r#"fn on_image_push(req, push) { #{ target: "https://late.example" } }"#,
    );
    let scripts = folder.open();
    for status in scripts.status() {
        assert_eq!(status.error, None, "{}", status.plugin);
    }
    let post = request("POST", "h", "/runtime/image");
    let image = |size| {
        Arc::new(Image {
            size,
            checksum: "c0".into(),
            runtime: "default".into(),
            ..Image::default()
        })
    };
    let asked = scripts.on_image_deploy(&post, &image(6)).await.unwrap();
    assert!(
        matches!(asked.verdict, ImageVerdict::Reject(d) if d.status == 422 && d.reason == "too large for default")
    );
    let asked = scripts.on_image_deploy(&post, &image(5)).await.unwrap();
    assert_eq!(asked.verdict, ImageVerdict::Proceed);

    let push = |host: &str, image| {
        Arc::new(Push {
            target_host: host.into(),
            target: format!("https://{host}").into(),
            image,
        })
    };
    for (host, image, expected) in [
        ("a.example", image(1), "https://a.example/b"),
        ("a.example", Arc::default(), "https://late.example"),
    ] {
        let asked = scripts.on_image_push(&post, &push(host, image)).await;
        let first = PushVerdict::Send(Some(expected.to_owned()));
        assert_eq!(asked.unwrap().verdict, first);
    }
    let refused = scripts
        .on_image_push(&post, &push("bad.example", image(1)))
        .await;
    assert!(matches!(refused.unwrap().verdict, PushVerdict::Deny(d) if d.reason == "never"));

    let told = |size: u64| {
        Arc::new(Event {
            data: serde_json::json!({ "size": size }),
            ..Event::default()
        })
    };
    assert!(scripts.on_image_deployed(&told(5)).await.is_ok());
    assert!(scripts.on_image_deployed(&told(6)).await.is_err());
}

#[test]
fn mistakes_are_refused_at_load_with_their_place_and_a_hint() {
    // Source, what the error says, what the hint says.
    let table = [
        ("fn route(req) {\n  let x = ;\n}", "acme.rhai:2:11", "^"),
        (
            "fn route(req) { reqq.path }",
            "there is no variable reqq",
            "did you mean req?",
        ),
        (
            "fn on_uplod_start(u) {}",
            "there is no hook on_uplod_start",
            "did you mean on_upload_start?",
        ),
        (
            "fn authorize(req) {}",
            "authorize takes 2 parameters, this one 1",
            "fn authorize(req, principal)",
        ),
        (
            "fn route(req) { json::prase(\"1\") }",
            "no function json::prase",
            "did you mean json::parse?",
        ),
        (
            "fn route(req) { jsn::parse(\"1\") }",
            "no module jsn",
            "did you mean json?",
        ),
        (
            "fn route(req) { json::parse() }",
            "takes 1 parameters, 0 are given",
            "",
        ),
        (
            "fn route(req) { splat(1) }",
            "there is no function splat",
            "",
        ),
        (
            "fn route(req) { sleep(1) }",
            "sleep is not there",
            "cannot wait",
        ),
        ("fn route(req) { eval(\"1\") }", "eval", ""),
        ("fn route(req) { let f = Fn(\"x\"); }", "Fn", "by its name"),
        (
            "fn route(req) { let y = 1; [1].map(|x| x + y) }",
            "there is no variable y",
            "parameter",
        ),
        (
            "let y = 1; fn route(req) { y }",
            "there is no variable y",
            "const y",
        ),
        (
            "fn route(req) { import \"lib/x\" as x; }",
            "import stands at the top",
            "",
        ),
        ("import \"../x\" as x;", "leads out of the plugin", ""),
        (
            "import \"/etc/passwd\" as x;",
            "leads out of the plugin",
            "",
        ),
        ("import \"lib/none\" as x;", "there is no lib/none.rhai", ""),
        ("const X = 1 / 0;", "Division by zero", "^"),
        (
            "const X = [] ; fn a() { loop {} } const Y = a();",
            "more",
            "",
        ),
        (
            "fn f() { http::get(\"https://a/\") }\nfn route(req) { f() }",
            "route -> f -> http::get at acme.rhai:1",
            "[hooks.route] lane = \"work\"",
        ),
        (
            "fn route(req) { [1].map(|x| http::get(\"https://a/\")) }",
            "which may wait",
            "",
        ),
    ];
    for (source, says, hints) in table {
        let error = refused(source);
        assert!(error.contains(says), "{source}\n{error}");
        assert!(error.contains(hints), "{source}\n{error}");
    }
}

#[test]
fn names_that_are_there_are_not_refused() {
    let source = r#"
        const LIMIT = 3;
        const WORDS = ["a", "b"];
        fn twice(f, x) { f.call(f.call(x)) }
        fn add(x) { x + LIMIT }
        fn double() { this * 2 }
        fn route(req) {
            let n = twice(add, 1);
            let m = twice(|x| x + 1, n);
            for (word, index) in WORDS { m += index; }
            for i in 0..3 { if i in [1, 2] { continue; } }
            try { throw "no"; } catch (e) { m += e.len(); }
            switch m { 1 => "one", 2..5 => "few", _ => "many" }
            let o = #{ f: |x| x, g: 1 };
            o.g = o.f(2) ?? 3;
            let k = 4; k.double();
            let text = `${m} of ${WORDS.len}`;
            text += req.path.to_upper().split("/").filter(|s| s != "").len();
            while m > 0 { m -= 100; }
            do { m += 1; } until m > 0;
            return;
        }
    "#;
    let status = Folder::with("acme", source).open().status().remove(0);
    assert_eq!(status.error, None);
}

#[tokio::test]
async fn modules_and_their_constants_are_reached_by_alias() {
    let folder = Folder::new();
    folder.write(
        "acme/lib/names.rhai",
        "const PREFIX = \"area-\"; fn area(s) { PREFIX + inner(s) } fn inner(s) { s.to_upper() }",
    );
    folder.write("acme/lib/more.rhai", "import \"lib/names\" as names; fn wrap(s) { \"<\" + names::area(s) + names::PREFIX + \">\" }");
    folder.write(
        "acme/main.rhai",
        "import \"lib/more\" as more; import \"lib/names\" as names; const FIRST = names::area(\"x\");
         fn route(req) { help(req) } fn help(req) { #{ set: #{ a: more::wrap(req.seg(0)), b: FIRST } } }",
    );
    folder.write("circle/lib/a.rhai", "import \"lib/b\" as b;");
    folder.write("circle/lib/b.rhai", "import \"lib/a\" as a;");
    folder.write("circle/main.rhai", "import \"lib/a\" as a;");
    let scripts = folder.open();
    let status = scripts.status();
    assert_eq!(status[0].error, None);
    assert!(status[1].error.as_ref().unwrap().contains("in a circle"));
    let RouteVerdict::Continue(routing) = routed(&scripts, "h", "/box").await else {
        panic!("it should go on");
    };
    assert_eq!(routing.headers.set["a"], "<area-BOXarea->");
    assert_eq!(routing.headers.set["b"], "area-X");
}

#[tokio::test]
async fn answers_with_other_keys_or_types_fail_and_name_them() {
    let table = [
        ("#{ bakend: \"x\" }", "`bakend`"),
        ("42", "type i64"),
        ("allow()", "allow() is no answer"),
        ("#{ set: #{ \"content-length\": 1 } }", "content-length"),
        ("#{ set: #{ a: \"x\\r\\ny: z\" } }", "line break"),
        ("#{ cache: \"forever\" }", "`cache`"),
        ("#{ rewrite: \"x\" }", "`rewrite`"),
        ("respond(90 + 9)", "status 99"),
        ("redirect(\"//evil\" + req.path)", "must be absolute"),
    ];
    for (answer, says) in table {
        let folder = Folder::with(
            "acme",
            &format!("fn route(req) {{ let seen = {answer}; seen }}"),
        );
        let scripts = folder.open();
        let write = request("PUT", "h", "/x");
        let unavailable = scripts.route(&write).await.unwrap_err();
        assert_eq!(unavailable.failure.fault, Fault::Error);
        assert!(
            unavailable.to_string().contains(says),
            "{answer}: {unavailable}"
        );
        // Reads go on as if the plugin were absent.
        assert_eq!(
            routed(&scripts, "h", "/x").await,
            RouteVerdict::Continue(Routing::default())
        );
    }
}

#[tokio::test]
async fn failures_are_answered_by_the_rule_of_their_hook() {
    let folder = Folder::with(
        "acme",
        "fn authorize(req, p) { throw \"no\" } fn on_download(req, b) { throw #{ code: 7 } }
         fn on_delete(req, b) { let x = [1]; x[9] } fn on_response(req, res) { loop {} }",
    );
    let scripts = folder.open();
    let get = request("GET", "h", "/x");
    let failed = scripts.authorize(&get, &service("acme")).await.unwrap_err();
    assert_eq!(
        (failed.hook, failed.failure.fault),
        (Hook::Authorize, Fault::Error)
    );
    assert!(
        failed.failure.to_string().contains("acme.rhai:1:"),
        "{}",
        failed.failure
    );
    let passed = scripts.on_download(&get, &blob()).await.unwrap();
    assert_eq!(passed.by, Vec::<String>::new());
    assert!(scripts.on_delete(&get, &blob()).await.is_err());
    assert!(scripts.on_response(&get, &Arc::default()).await.is_ok());
    let counted = scripts.counted();
    let of = |hook: Hook| counted.iter().find(|c| c.hook == hook).unwrap();
    assert_eq!(of(Hook::OnDownload).outcomes["error"], 1);
    let stopped = &of(Hook::OnResponse).outcomes;
    assert_eq!(stopped["limit"] + stopped["deadline"], 1);
}

#[tokio::test]
async fn manifest_closes_what_is_open_and_moves_a_hook_to_the_work_lane() {
    let folder = Folder::new();
    folder.write(
        "acme/plugin.toml",
        "[hooks.on_download]\non_failure = \"closed\"\nlane = \"work\"\ndeadline_ms = 1000",
    );
    folder.write("acme/main.rhai", "fn on_download(req, b) { if req.path == \"/bad\" { throw \"no\" } #{ cache: \"bypass\" } }");
    let scripts = folder.open();
    let bad = request("GET", "h", "/bad");
    assert!(scripts.on_download(&bad, &blob()).await.is_err());
    let good = scripts
        .on_download(&request("GET", "h", "/good"), &blob())
        .await
        .unwrap();
    assert!(matches!(good.verdict, DownloadVerdict::Serve(t) if t.cache == Some(Caching::Bypass)));
}

#[tokio::test]
async fn plugins_run_by_priority_and_the_first_answer_or_refusal_wins() {
    let folder = Folder::new();
    for (name, priority) in [("one", 10), ("two", 5), ("three", 20)] {
        folder.write(
            &format!("{name}/plugin.toml"),
            &format!("priority = {priority}"),
        );
        folder.write(
            &format!("{name}/main.rhai"),
            &format!(
                "fn route(req) {{ #{{ set: #{{ by: \"{name}\" }} }} }}
                 fn on_download(req, b) {{ #{{ set: #{{ by: \"{name}\", {name}: 1 }} }} }}"
            ),
        );
    }
    let scripts = folder.open();
    let RouteVerdict::Continue(routing) = routed(&scripts, "h", "/").await else {
        panic!("it should go on");
    };
    assert_eq!(routing.headers.set["by"], "two");
    let merged = scripts
        .on_download(&request("GET", "h", "/"), &blob())
        .await
        .unwrap();
    assert_eq!(merged.by, ["two", "one", "three"]);
    let DownloadVerdict::Serve(terms) = merged.verdict else {
        panic!("it should go on");
    };
    assert_eq!(terms.headers.set.len(), 4);
    assert_eq!(terms.headers.set["by"], "two");
}

#[tokio::test]
async fn asking_without_a_grant_is_refused_with_the_line_to_add() {
    let folder = Folder::new();
    folder.write(
        "acme/plugin.toml",
        "[http]\nallow = [\"https://a.example.org/\"]\n[secrets]\nnames = [\"KEY\"]\n[settings]\nlimit = 3",
    );
    folder.write(
        "acme/main.rhai",
        "fn route(req) { let s = secret::get(\"KEY\"); #{ tags: #{ a: `${s}`, b: config::get(\"limit\"), c: s == \"hush\" } } }",
    );
    let error = folder.open().status().remove(0).error.unwrap();
    assert!(
        error.contains(
            "[scripts.grants.acme]\nhttp = [\"https://a.example.org/\"]\nsecrets = [\"KEY\"]"
        ),
        "{error}"
    );
    let mut options = folder.options();
    let grant = Grant {
        http: vec!["https://a.example.org/".into()],
        secrets: vec!["KEY".into()],
        ..Grant::default()
    };
    options.grants.insert("acme".into(), grant);
    options.secrets.insert("KEY".into(), "hush".into());
    let own = serde_json::json!({"limit": 4});
    options
        .settings
        .insert("acme".into(), serde_json::from_value(own).unwrap());
    let scripts = Scripts::open(options).unwrap();
    let RouteVerdict::Continue(routing) = routed(&scripts, "h", "/").await else {
        panic!("it should go on");
    };
    // A secret has no text.
    assert_eq!(routing.tags["a"], "***");
    assert_eq!(routing.tags["b"], "4");
    assert_eq!(routing.tags["c"], "true");
}

#[tokio::test]
async fn the_first_plugin_that_names_a_rate_says_by_which_a_request_is_counted() {
    let folder = Folder::with("none", "fn authorize(req, p) { allow() }");
    for (name, text) in [
        (
            "one.rhai",
            "fn authorize(req, p) { #{ rate: `of-${p.kind}` } }",
        ),
        ("two.rhai", "fn authorize(req, p) { #{ rate: \"other\" } }"),
    ] {
        folder.write(name, text);
    }
    let scripts = folder.open();
    let (get, who) = (request("GET", "h", "/x"), service("acme"));
    let asked = scripts.authorize(&get, &who).await.unwrap();
    let terms = AccessTerms {
        allow: false,
        rate: Some("of-service".to_owned()),
    };
    assert_eq!(asked.verdict, AuthorizeVerdict::Proceed(terms));
}

#[tokio::test]
async fn allow_grants_nothing_and_another_plugin_may_still_refuse() {
    let folder = Folder::with("one", "fn authorize(req, p) { allow() }");
    folder.write(
        "two.rhai",
        "fn authorize(req, p) { if req.path == \"/no\" { deny(404, \"no\") } }",
    );
    let scripts = folder.open();
    let get = request("GET", "h", "/x");
    let who = service("acme");
    let asked = scripts.authorize(&get, &who).await.unwrap();
    let proceed = AuthorizeVerdict::Proceed(AccessTerms::default());
    assert_eq!(asked.verdict, proceed);
    let denied = scripts
        .authorize(&request("GET", "h", "/no"), &who)
        .await
        .unwrap();
    assert!(matches!(denied.verdict, AuthorizeVerdict::Deny(d) if d.status == 404));
}

#[tokio::test]
async fn calls_that_find_no_worker_fail_and_fast_hooks_go_on() {
    let folder = Folder::new();
    folder.write(
        "slow/main.rhai",
        "fn on_upload_complete(b) { let n = 0; while n < 400000 { n += 1; } }",
    );
    folder.write("fast.rhai", "fn route(req) { #{ set: #{ a: 1 } } }");
    let mut options = folder.options();
    options.workers = 1;
    options.queue = Duration::ZERO;
    let scripts = Scripts::open(options).unwrap();
    let blob = blob();
    let get = request("GET", "h", "/");
    let (first, second, route) = tokio::join!(
        scripts.on_upload_complete(&blob),
        scripts.on_upload_complete(&blob),
        scripts.route(&get),
    );
    assert!(first.is_ok(), "{first:?}");
    assert_eq!(second.unwrap_err().failure.fault, Fault::Queue);
    let counted = scripts.counted();
    let of = |hook: Hook| counted.iter().find(|c| c.hook == hook).unwrap();
    assert_eq!(of(Hook::OnUploadComplete).queued.count, 2);
    let seconds = &of(Hook::OnUploadComplete).seconds;
    assert_eq!((seconds.count, seconds.buckets.last().unwrap().1), (2, 2));
    assert!(seconds.buckets.is_sorted() && seconds.units > 0);
    assert_eq!(of(Hook::Route).queued.count, 0);
    assert_eq!(route.unwrap().by, ["fast"]);
}

#[tokio::test]
async fn hook_that_mostly_fails_rests() {
    let folder = Folder::with("acme", "fn authorize(req, p) { throw \"no\" }");
    let scripts = folder.open();
    let get = request("GET", "h", "/");
    let who = service("acme");
    for _ in 0..100 {
        assert_eq!(
            scripts
                .authorize(&get, &who)
                .await
                .unwrap_err()
                .failure
                .fault,
            Fault::Error
        );
    }
    assert_eq!(
        scripts
            .authorize(&get, &who)
            .await
            .unwrap_err()
            .failure
            .fault,
        Fault::Tripped
    );
    let status = scripts.status().remove(0);
    assert!(status.hooks[0].tripped);
    assert_eq!(status.state, State::Tripped);

    // What is mended is asked at once.
    folder.write("acme.rhai", "fn authorize(req, p) { }");
    scripts.reload(false).unwrap();
    assert!(scripts.authorize(&get, &who).await.is_ok());
    assert_eq!(scripts.status()[0].state, State::Ok);
    let reloads = scripts.reloads();
    assert_eq!(reloads[&("acme".to_owned(), "loaded")], 2);
}

#[tokio::test]
async fn a_sea_of_log_lines_is_cut() {
    let folder = Folder::with(
        "acme",
        "fn on_response(req, res) { for i in 0..100 { log::info(\"line\"); } }",
    );
    let scripts = folder.open();
    let get = request("GET", "h", "/");
    assert!(scripts.on_response(&get, &Arc::default()).await.is_ok());
    assert_eq!(scripts.counted()[0].outcomes["ok"], 1);
}

#[test]
fn plugins_of_the_documentation_load() {
    let page = include_str!("../../../docs/HOOKS.md");
    let block = page
        .split("```rust")
        .nth(1)
        .and_then(|rest| rest.split("```").next());
    let scripts = Folder::with("docs", block.unwrap()).open();
    let status = scripts.status().remove(0);
    assert_eq!(status.error, None);
    assert_eq!(status.hooks.len(), 4);
}
