//! Hostile scripts, each over and over in both lanes: every call is cut at a limit, none hangs or crashes. Memory is
//! not counted here, so that every other limit has to hold by itself.

use std::sync::Arc;
use std::time::Duration;

use boxgate_scripting::error::Fault;
use boxgate_scripting::facts::Request;
use boxgate_scripting::{Options, Scripts};

/// Calls of each script in the fast lane, where each ends within 5 ms; below what trips the hook.
const FAST_TURNS: usize = 20;
/// Calls in the work lane, where each may take its whole deadline.
const WORK_TURNS: usize = 4;
/// Only catches a hang: a call of the work lane ends within its deadline of 100 ms.
const HANG: Duration = Duration::from_mins(1);

/// Bodies of `route(req)` that never end well, with functions beside them.
pub(crate) const CORPUS: &[(&str, &str, &str)] = &[
    ("an endless loop", "loop {}", ""),
    ("an endless while", "while true { }", ""),
    ("recursion", "f(1)", "fn f(n) { f(n + 1) }"),
    (
        "mutual recursion",
        "a(1)",
        "fn a(n) { b(n) } fn b(n) { a(n) }",
    ),
    (
        "recursion through deep expressions",
        "f(1)",
        "fn f(n) { [[[[[[[[f(n + 1)]]]]]]]] }",
    ),
    ("a text that doubles", "let s = \"x\"; loop { s += s; }", ""),
    ("an array that doubles", "let a = [1]; loop { a += a; }", ""),
    (
        "an array that is pushed to",
        "let a = []; loop { a.push(1); }",
        "",
    ),
    (
        "a map that grows",
        "let m = #{}; let n = 0; loop { n += 1; m[`k${n}`] = n; }",
        "",
    ),
    ("nested arrays", "let a = []; loop { a = [a, a]; }", ""),
    ("deep nesting", "let a = []; loop { a = [a]; }", ""),
    (
        "nested maps",
        "let m = #{}; loop { m = #{ a: m, b: m }; }",
        "",
    ),
    (
        "many texts",
        "let a = []; loop { let s = \"\"; s.pad(60000, \"x\"); a.push(s); }",
        "",
    ),
    (
        "many variables' worth",
        "let a = \"\"; a.pad(60000, \"x\"); let m = []; loop { m.push(a.to_upper()); }",
        "",
    ),
    (
        "a replace bomb",
        "let s = \"\"; s.pad(60000, \"a\"); loop { s.replace(\"a\", \"aaaaaaaaaaaaaaaaaaaa\"); }",
        "",
    ),
    (
        "a split bomb",
        "let s = \"\"; s.pad(60000, \",\"); loop { s.split(\",\"); }",
        "",
    ),
    (
        "characters",
        "let s = \"\"; s.pad(60000, \"x\"); loop { s.chars(); }",
        "",
    ),
    (
        "padding",
        "let s = \"\"; loop { s.pad(1000000000, \"x\"); }",
        "",
    ),
    (
        "an array that is padded",
        "let a = []; loop { a.pad(1000000000, 0); }",
        "",
    ),
    (
        "a blob",
        "let b = blob(1000000000, 0); loop { b += b; }",
        "",
    ),
    (
        "a long range",
        "let n = 0; for i in 0..1000000000000 { n += i; }",
        "",
    ),
    (
        "a parse bomb",
        "let s = \"[\"; s.pad(60000, \"[\"); loop { try { json::parse(s); } catch { } }",
        "",
    ),
    (
        "a wide parse bomb",
        "let s = \"[\"; s.pad(59999, \"0,\"); s += \"0]\"; loop { json::parse(s); }",
        "",
    ),
    (
        "hashing for ever",
        "let s = \"\"; s.pad(60000, \"x\"); loop { hash::sha256(s); }",
        "",
    ),
    (
        "patterns for ever",
        "let s = \"\"; s.pad(60000, \"a\"); loop { re::is_match(\"(a+)+$\", s + \"b\"); }",
        "",
    ),
    (
        "a new pattern each time",
        "let n = 0; loop { n += 1; re::is_match(`a{${n}}`, \"a\"); }",
        "",
    ),
    (
        "sorting",
        "let a = []; for i in 0..900 { a.push(900 - i); } loop { a.sort(|x, y| x - y); }",
        "",
    ),
    (
        "limits that are caught",
        "loop { try { loop { } } catch { } }",
        "",
    ),
    (
        "memory behind a catch",
        "let a = []; loop { try { a.push(a); } catch { a = []; } }",
        "",
    ),
    (
        "closures in a loop",
        "let f = |x| x + 1; let n = 0; loop { n = f.call(n) % 7; }",
        "",
    ),
    (
        "a closure that calls itself",
        "let f = |g, n| g.call(g, n + 1); f.call(f, 0)",
        "",
    ),
    (
        "memory between calls",
        "let n = 0; loop { n += 1; kv::set(`k${n}`, n, 60); }",
        "",
    ),
    ("a sea of lines", "loop { log::info(\"line\"); }", ""),
    (
        "metrics that were never declared",
        "let name = \"n\"; loop { metric::count(name, 1); }",
        "",
    ),
    ("numbers that overflow", "let n = 1; loop { n *= 3; }", ""),
];

fn options(dir: &std::path::Path) -> Options {
    let mut options = Options::in_directory(dir.join("plugins"), dir.join("last-good"));
    options.workers = 2;
    options
}

fn request() -> Arc<Request> {
    Arc::new(Request {
        method: "PUT".into(),
        path: "/".into(),
        ..Request::default()
    })
}

async fn is_cut(what: &str, (body, more): (&str, &str), manifest: &str, turns: usize) {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("plugins/hostile");
    std::fs::create_dir_all(&place).unwrap();
    std::fs::write(place.join("plugin.toml"), manifest).unwrap();
    std::fs::write(
        place.join("main.rhai"),
        format!("fn route(req) {{ {body} }}\n{more}"),
    )
    .unwrap();
    let scripts = Scripts::open(options(dir.path())).unwrap();
    assert_eq!(scripts.status()[0].error, None, "{what}");
    let request = request();
    for turn in 0..turns {
        let called = tokio::time::timeout(HANG, scripts.route(&request)).await;
        let failed = called.unwrap_or_else(|_elapsed| panic!("{what} hangs"));
        let failure = failed.expect_err(what).failure;
        let cut = matches!(
            failure.fault,
            Fault::Error | Fault::Limit | Fault::Deadline | Fault::Memory
        );
        assert!(cut, "{what}, turn {turn}: {failure}");
    }
}

#[tokio::test]
async fn hostile_scripts_are_cut_in_the_fast_lane() {
    for (what, body, more) in CORPUS {
        is_cut(what, (body, more), "", FAST_TURNS).await;
    }
}

#[tokio::test]
async fn hostile_scripts_are_cut_in_the_work_lane() {
    const MOVED: &str = "[hooks.route]\nlane = \"work\"\ndeadline_ms = 100";
    for (what, body, more) in CORPUS {
        is_cut(what, (body, more), MOVED, WORK_TURNS).await;
    }
}

#[tokio::test]
#[ignore = "takes half an hour; .ci/long hostile runs it"]
async fn each_hostile_script_is_cut_a_thousand_times_in_both_lanes() {
    const MOVED: &str = "[hooks.route]\nlane = \"work\"\ndeadline_ms = 20";
    for (what, body, more) in CORPUS {
        // A hook that fails a hundred times in a row rests, and a fresh one does not.
        for _ in 0..1000 / FAST_TURNS {
            is_cut(what, (body, more), "", FAST_TURNS).await;
            is_cut(what, (body, more), MOVED, FAST_TURNS).await;
        }
    }
}
