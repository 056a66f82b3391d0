//! What a script cannot get past: errors that are swallowed on the way, work within closures and host functions.

use std::sync::Arc;

use boxgate_scripting::Scripts;
use boxgate_scripting::error::{Failure, Fault};
use boxgate_scripting::facts::Request;
use boxgate_scripting::verdict::RouteVerdict;

use crate::support::{Folder, request};

const WORK: &str = "[hooks.route]\nlane = \"work\"\ndeadline_ms = 5000";

/// What `route` comes to.
async fn ran(manifest: &str, body: &str) -> Result<RouteVerdict, Failure> {
    let folder = Folder::new();
    folder.write("acme/plugin.toml", manifest);
    folder.write("acme/main.rhai", &format!("fn route(req) {{ {body} }}"));
    let scripts = folder.open();
    assert_eq!(scripts.status()[0].error, None, "{body}");
    let asked = scripts.route(&request("PUT", "h", "/")).await;
    asked
        .map(|decision| decision.verdict)
        .map_err(|unavailable| unavailable.failure)
}

#[tokio::test]
async fn limits_hold_within_closures_whatever_becomes_of_the_error() {
    let numbers = "let a = []; for i in 0..300 { a.push(300 - i); }";
    for closure in [
        "a.sort(|x, y| { loop {} })",
        "a.sort_by(|x, y| { loop {} })",
        "let b = a.order(|x, y| { loop {} })",
        "a.dedup(|x, y| { loop {} })",
        "try { a.map(|x| { loop {} }) } catch {}",
        "a.map(|x| { for i in 0..500 {} })",
    ] {
        let failure = ran("", &format!("{numbers} {closure}; ()"))
            .await
            .unwrap_err();
        let cut = matches!(failure.fault, Fault::Limit | Fault::Deadline);
        assert!(cut, "{closure}: {failure}");
    }
    let failure = ran(
        WORK,
        &format!("{numbers} a.map(|x| {{ for i in 0..20000 {{}} }}); ()"),
    )
    .await
    .unwrap_err();
    assert_eq!(failure.fault, Fault::Limit, "{failure}");
    let thrown = ran("", "[2, 1].sort(|x, y| { throw \"no order\" });")
        .await
        .unwrap_err();
    assert!(thrown.to_string().contains("no order"), "{thrown}");
}

#[tokio::test]
async fn operations_of_closures_are_counted() {
    let folder = Folder::with(
        "acme",
        "fn route(req) { let a = []; a.pad(100, 0); a.map(|x| { for i in 0..50 {} }); () }",
    );
    let scripts = folder.open();
    scripts.route(&request("GET", "h", "/")).await.unwrap();
    assert!(scripts.counted()[0].operations.units > 100 * 50);
}

#[tokio::test]
async fn an_order_that_contradicts_itself_sorts_somehow() {
    let shuffled = "let a = []; for i in 0..500 { a.push(rand(1000)); } a.sort(|x, y| rand(3) - 1); \
                    let b = [parse_float(\"NaN\")]; for i in 0..50 { b.push(parse_float(`${50 - i}`)); } b.sort(); \
                    let c = [3, 1, 2]; c.sort(); let d = [#{ n: 2 }, #{ n: 1 }].order(|x, y| x.n - y.n); \
                    #{ tags: #{ len: a.len() + b.len(), first: c[0], by: d[0].n } }";
    let RouteVerdict::Continue(routing) = ran(WORK, shuffled).await.unwrap() else {
        panic!("it should go on");
    };
    assert_eq!(
        ["len", "first", "by"].map(|tag| routing.tags[tag].as_str()),
        ["551", "1", "1"]
    );
    let odd = ran("", "[1, \"a\"].sort();").await.unwrap_err();
    assert!(odd.to_string().contains("have no order"), "{odd}");
}

#[tokio::test]
async fn patterns_are_bounded_by_their_program_their_text_and_the_clock() {
    let text = "let s = \"\"; s.pad(60000, \"a\");";
    // Each match is found only once the whole rest was searched.
    let square = format!("{text} re::replace(\".*[^A-Za-z]|[A-Za-z]\", s, \"\"); ()");
    let failure = ran("", &square).await.unwrap_err();
    assert!(
        matches!(failure.fault, Fault::Deadline | Fault::Limit),
        "{failure}"
    );
    // What a text may be times what a pattern may be.
    let dear = format!("{text} re::is_match(\"(a|b)*a(a|b){{200}}c\", s); ()");
    let failure = ran("", &dear).await.unwrap_err();
    assert!(
        matches!(failure.fault, Fault::Deadline | Fault::Limit),
        "{failure}"
    );
    let large = ran("", "let p = \"a{5000}b{5000}\"; re::is_match(p, \"a\"); ()")
        .await
        .unwrap_err();
    assert!(large.to_string().contains("as a program"), "{large}");
    assert_eq!(large.fault, Fault::Error);
    // What is usual is far from all that.
    let usual = "let s = \"\"; s.pad(1500, \"path/\"); re::is_match(`^\\w+/`, s) && re::replace(\"/\", s, \"-\").len > 0; ()";
    ran("", usual).await.unwrap();
    // The work lane has more time.
    ran(
        WORK,
        "let s = \"\"; s.pad(60000, \"a/\"); re::is_match(\"^[a/]+b$\", s); ()",
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn an_overrun_within_a_host_function_is_a_deadline() {
    let path = "a".repeat(8_000);
    let folder = Folder::with(
        "acme",
        "fn route(req) { for i in 0..3 { try { re::replace(\".*[^A-Za-z]|[A-Za-z]\", req.path, \"\"); } catch {} } () }",
    );
    let scripts = folder.open();
    let asked = Arc::new(Request {
        method: "PUT".into(),
        path: path.into(),
        ..Request::default()
    });
    let failure = scripts.route(&asked).await.unwrap_err().failure;
    assert_eq!(failure.fault, Fault::Deadline, "{failure}");
    assert_eq!(counted(&scripts, "deadline"), 1);
}

#[tokio::test]
async fn what_was_cut_is_known_by_the_statement_of_the_hook() {
    // Each stands in line 3, and what is meant begins where the mark is.
    let few = "operations = 2000";
    for (limit, line, says) in [
        (few, "    for i in 0..1000000 @{}", "operations"),
        (few, "    let n = 0; loop { @n += 1; }", "operations"),
        (few, "    let x = 1; @spin();", "operations"),
        (few, "    [2, 1].@map(|x| { loop {} });", "operations"),
        (few, "    try { @spin() } catch {} req.path;", "operations"),
        ("", "    let x = @deep(1);", "nest deeper"),
        (
            "",
            "    let a = [1]; loop { a @+= a; }",
            "more than it may be",
        ),
        (
            "",
            "    let s = \"x\"; loop { s @+= s; }",
            "more than it may be",
        ),
        (
            "",
            "    let s = \"\"; s.@pad(1000000, \"x\");",
            "more than it may be",
        ),
        (
            "variables = 3",
            "    let a = 1; let b = 2; @let c = 3;",
            "more variables",
        ),
        ("cpu_ms = 1", "    @spin();", "processor time"),
    ] {
        let text = line.replace('@', "");
        let folder = Folder::new();
        folder.write("acme/plugin.toml", &format!("{WORK}\n[limits]\n{limit}"));
        let main = format!(
            "fn spin() {{ loop {{}} }} fn deep(n) {{ deep(n + 1) }}\nfn route(req) {{\n{text}\n    ()\n}}\n"
        );
        folder.write("acme/main.rhai", &main);
        let scripts = folder.open();
        let asked = scripts.route(&request("PUT", "h", "/")).await;
        let finding = asked.unwrap_err().failure.finding;
        assert!(finding.message.contains(says), "{line}: {finding}");
        assert_eq!(
            (finding.file.as_str(), finding.line),
            ("main.rhai", 3),
            "{finding}"
        );
        assert_eq!(Some(finding.column - 1), line.find('@'), "{finding}");
    }
    // Where the interpreter does not tell at all, it is the hook that is named.
    let failure = ran("", "let a = [1]; loop { a[0]; }").await.unwrap_err();
    assert!(
        failure.finding.line == 1 && failure.finding.column > 0,
        "{failure}"
    );
}

#[tokio::test]
async fn calls_nest_as_deep_as_they_may_the_hook_among_them() {
    let scripts = |depth: usize| {
        let folder = Folder::with(
            "acme",
            &format!("fn f(n) {{ if n > 1 {{ f(n - 1) }} }} fn route(req) {{ f({depth}); () }}"),
        );
        (folder.open(), folder)
    };
    let most = 15;
    let put = request("PUT", "h", "/");
    assert!(scripts(most).0.route(&put).await.is_ok());
    let failure = scripts(most + 1).0.route(&put).await.unwrap_err().failure;
    assert_eq!(failure.fault, Fault::Limit, "{failure}");
}

fn counted(scripts: &Scripts, outcome: &str) -> u64 {
    scripts.counted()[0].outcomes[outcome]
}

#[test]
fn what_a_box_has_many_of_is_a_list() {
    let folder = Folder::new();
    folder.write(
        "acme/plugin.toml",
        "[schedule]\ncron = \"0 0 * * *\"\n[catalog]\nallow = [\"list:acme/*\", \"versions:acme/*\", \"lookup:acme/*\", \"delete:acme/*\"]",
    );
    folder.write(
        "acme/main.rhai",
        "fn on_schedule(tick) {
             for one in box::list(\"acme\") {
                 let versions = box::versions(\"acme\", one.box);
                 let old = versions.filter(|v| v.created_at < 3);
                 for i in 0..old.len() { box::delete(\"acme\", one.box, old[i].version); }
                 log::info(`${versions.len} ${versions[-1].version} ${box::lookup(\"acme\", one.box).versions.len()}`);
                 log::info(`${versions.map(|v| v.created_at)[2]} ${versions.is_empty}`);
             }
         }",
    );
    folder.write(
        "acme/tests/main.rhai",
        "fn rows(n) { let all = list(); for i in 0..n { all.push(#{ version: `${i}`, created_at: i, status: \"active\", size: 1, files: 1 }); } all }
         fn test_many() {
             t::boxes(\"list\", \"acme\", [#{ box: \"web\" }]);
             t::boxes(\"versions\", \"acme/web\", rows(2000));
             t::boxes(\"lookup\", \"acme/web\", #{ box: \"web\", versions: rows(2000) });
             t::hook(\"on_schedule\", t::tick(#{ time: 1 }));
             t::eq(t::logs(), [\"2000 1999 2000\", \"2 false\"]);
             t::eq(t::deeds().len(), 3);
         }",
    );
    let mut options = folder.options();
    options.trust_local = true;
    let status = Scripts::open(options).unwrap().status().remove(0);
    assert_eq!(status.error, None);
}

#[tokio::test]
async fn a_manifest_lowers_what_its_calls_may() {
    let body = "for i in 0..100 {} ()";
    ran("", body).await.unwrap();
    let failure = ran("[limits]\noperations = 50", body).await.unwrap_err();
    assert_eq!(failure.fault, Fault::Limit);
    let failure = ran(
        "[limits]\narray = 2",
        "let a = [1]; a.push(2); a.push(3); ()",
    )
    .await
    .unwrap_err();
    assert_eq!(failure.fault, Fault::Limit);
}

#[tokio::test]
async fn a_store_that_is_not_there_fails_the_call_and_no_read() {
    let folder = Folder::with(
        "acme",
        "fn route(req) { #{ backend: \"mian\", set: #{ a: \"1\" } } } fn on_upload_start(u) { #{ store: \"nowhere\" } }",
    );
    let mut options = folder.options();
    options.stores = Some(["main".to_owned()].into());
    let scripts = Scripts::open(options).unwrap();
    let read = scripts
        .route(&request("GET", "h", "/"))
        .await
        .unwrap()
        .verdict;
    let RouteVerdict::Continue(routing) = read else {
        panic!("a read goes on");
    };
    assert_eq!(
        (routing.backend, routing.headers.set["a"].as_str()),
        (None, "1")
    );
    let refused = scripts.route(&request("PUT", "h", "/")).await.unwrap_err();
    let told = refused.failure.to_string();
    assert!(
        told.contains("\"mian\"") && told.contains("did you mean main?"),
        "{told}"
    );
    assert_eq!(counted(&scripts, "error"), 2);
    let refused = scripts.on_upload_start(&crate::support::upload(1)).await;
    assert!(refused.unwrap_err().to_string().contains("nowhere"));

    let folder = Folder::new();
    folder.write("acme/plugin.toml", "[hooks.route]\non_failure = \"closed\"");
    folder.write("acme/main.rhai", "fn route(req) { \"nowhere\" }");
    let mut options = folder.options();
    options.stores = Some(["main".to_owned()].into());
    let scripts = Scripts::open(options).unwrap();
    assert!(scripts.route(&request("HEAD", "h", "/")).await.is_ok());
    assert!(scripts.route(&request("PUT", "h", "/")).await.is_err());
}

#[tokio::test]
async fn a_checksum_that_nobody_has_is_no_term() {
    let folder = Folder::with(
        "acme",
        "fn on_upload_start(u) { #{ require_checksum: if u.size > 1 { \"md99\" } else { \"SHA-256\" } } }",
    );
    let scripts = folder.open();
    assert!(
        scripts
            .on_upload_start(&crate::support::upload(1))
            .await
            .is_ok()
    );
    let refused = scripts.on_upload_start(&crate::support::upload(2)).await;
    assert!(refused.unwrap_err().to_string().contains("md99"));
}
