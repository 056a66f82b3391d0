//! What is wrong with a plugin as it is written out is told when it is loaded, with its place and what to do.

use boxgate_scripting::bundle::Bundle;
use boxgate_scripting::error::Finding;
use boxgate_scripting::plugin::{Lasting, Surroundings, load};

const MANIFEST: &str = "[secrets]\nnames = [\"SCAN_KEY\"]\n[env]\nnames = [\"REGION\"]\n[events]\nnames = [\"x.acme.seen\"]\n\
    [http]\nallow = [\"https://api.example.net/v2/\", \"https://*.cdn.example.org/\"]\n\
    [catalog]\nallow = [\"release:acme/*\", \"list:acme/*\"]\n[settings]\nlimit = 1\n\
    [metrics]\nbuilds = { type = \"counter\", labels = [\"result\"] }\ntook = { type = \"summary\" }\n\
    [hooks.route]\nlane = \"work\"";

fn loaded(main: &str) -> Result<(), Vec<Finding>> {
    let mut bundle = Bundle::of_source("acme", main);
    bundle.manifest = MANIFEST.into();
    let around = Surroundings {
        grant_all: true,
        stores: Some(["main".to_owned(), "edge".to_owned()].into()),
        secrets: [("SCAN_KEY".to_owned(), "s".to_owned())].into(),
        ..Surroundings::default()
    };
    load(bundle, around, Lasting::default()).map(drop)
}

/// A hook's body in which something is wrong at the mark, and what is said of it.
const CALLS: &[(&str, &str)] = &[
    (
        "let k = @secret::get(\"SCAN_KY\");",
        "does not name \"SCAN_KY\" in [secrets]|did you mean \"SCAN_KEY\"?",
    ),
    (
        "let k = @secret::get(\"OTHER\");",
        "add to plugin.toml: [secrets] names = [\"OTHER\"], and to boxgate.toml: [scripts.grants.acme] secrets = [\"OTHER\"]",
    ),
    (
        "let k = @env::get(\"HOME\");",
        "[scripts.grants.acme] env = [\"HOME\"]",
    ),
    (
        "@event::emit(\"x.acme.sen\", #{});",
        "did you mean \"x.acme.seen\"?",
    ),
    (
        "let k = @config::get(\"limits\");",
        "no [settings] limits|did you mean \"limit\"?",
    ),
    (
        "@metric::count(\"bilds\", 1, #{ result: \"a\" });",
        "did you mean \"builds\"?",
    ),
    ("@metric::observe(\"builds\", 1.0);", "and not as a summary"),
    (
        "@metric::count(\"builds\", 1);",
        "needs the label \"result\"",
    ),
    (
        "@metric::count(\"builds\", 1, #{ result: \"a\", by: req.id });",
        "has no label \"by\"",
    ),
    (
        "@http::get(\"https://api.example.net/v1/a\");",
        "is not within [http] allow|[scripts.grants.acme] http = [\"https://api.example.net/\"]",
    ),
    (
        "@http::get(\"https://other.example.net/\" + req.path);",
        "http = [\"https://other.example.net/\"]",
    ),
    (
        "@http::post(`https://other.example.net/${req.id}`, #{});",
        "http = [\"https://other.example.net/\"]",
    ),
    ("@http::get(API + \"/x\");", "https://api.example.net/v1/x"),
    ("@http::get(\"no url\");", "is no URL"),
    (
        "@box::release(\"other\", \"web\", \"1\");",
        "catalog = [\"release:other/web\"]",
    ),
    (
        "@box::delete(req.id, \"web\", \"1\");",
        "catalog = [\"delete:*/*\"]",
    ),
    ("@re::is_match(\"(\", req.path);", "re: "),
    (
        "@net::contains(\"10.0.0.0/33\", req.client_ip);",
        "is no network",
    ),
    ("@kv::set(\"k\", 1, 0);", "from 1 to 2592000"),
    ("if req.tls { return @respond(99); }", "status 99"),
    (
        "if req.tls { return @redirect(\"elsewhere\"); }",
        "must be absolute",
    ),
    (
        "if req.tls { return @redirect(req.path, 200); }",
        "status 200",
    ),
];

/// What a hook answers with, wrong at the mark.
const ANSWERS: &[(&str, &str)] = &[
    (
        "fn route(req) { @#{ bakend: \"main\" } }",
        "the key `bakend`|did you mean `backend`?",
    ),
    (
        "fn route(req) { if req.tls { @#{ backend: \"mian\" } } else { () } }",
        "no store \"mian\"|did you mean main?",
    ),
    (
        "fn route(req) { if req.tls { return @\"nowhere\"; } () }",
        "no store \"nowhere\"",
    ),
    (
        "fn route(req) { @#{ cache: \"never\" } }",
        "`cache` must be",
    ),
    (
        "fn route(req) { @#{ set: #{ \"content-length\": req.path } } }",
        "the gateway's own",
    ),
    (
        "fn on_upload_start(u) { switch u.size { 1 => @#{ store: \"nowhere\" }, _ => () } }",
        "no store \"nowhere\"",
    ),
    (
        "fn on_upload_start(u) { try { @#{ require_checksum: \"md99\" } } catch { () } }",
        "md99",
    ),
    (
        "fn on_upload_start(u) { @deny(\"no\") }",
        "deny(..) is no answer of this hook",
    ),
    ("fn authorize(req, p) { @true }", "type bool is no answer"),
    ("fn authorize(req, p) { @deny(402, \"pay\") }", "status 402"),
    (
        "fn on_delete(req, blob) { return @reject(403, \"no\"); }",
        "reject(..) is no answer",
    ),
    (
        "fn on_response(req, res) { @#{ status: 200 } }",
        "the key `status`",
    ),
];

#[test]
fn what_is_written_out_and_cannot_be_is_refused_with_its_place() {
    let body = |text: &str| {
        format!("const API = \"https://api.example.net/v1\"; fn route(req) {{ {text} () }}")
    };
    let calls = CALLS.iter().map(|(text, says)| (body(text), says));
    let answers = ANSWERS
        .iter()
        .map(|(text, says)| ((*text).to_owned(), says));
    for (marked, says) in calls.chain(answers) {
        let column = marked.find('@').unwrap() + 1;
        let findings = loaded(&marked.replacen('@', "", 1)).expect_err(&marked);
        let [finding] = &*findings else {
            panic!("{marked}: {findings:?}");
        };
        let told = finding.to_string();
        for part in says.split('|') {
            assert!(told.contains(part), "{marked}: {told}");
        }
        let place = if finding.column == column {
            column
        } else {
            // A function of a module is known by its own name, which stands behind that of the module.
            let name = marked[column..].find("::").unwrap();
            column + name + 2
        };
        assert_eq!((finding.line, finding.column), (1, place), "{told}");
    }
}

#[test]
fn what_is_not_written_out_is_left_to_the_call() {
    loaded(
        r#"const API = "https://api.example.net/v2";
           const NAMES = ["SCAN_KEY"];
           fn deny(a) { a }
           fn which(req) { "OTHER" }
           fn route(req) {
               if req.path == "/never" {
                   secret::get(which(req)); secret::get(NAMES[0]); secret::get("SCAN_KEY"); env::get("REGION");
                   http::get(API + "/account"); http::get(`https://a.cdn.example.org/${req.id}`); http::get("https://" + req.host);
                   http::get("https://api.example.net/" + req.path); http::get(config::get("limit") + "/x");
                   metric::count("builds", 1, #{ result: req.id }); metric::observe("took", 1.5);
                   box::release("acme", req.id, "1"); box::list(req.id); event::emit("x.acme.seen", #{ a: req.id });
                   re::is_match(req.path, req.path); net::contains(req.path, "10.0.0.1"); kv::set("k", 1, req.time);
                   deny(999); redirect(API + req.path);
                   try { box::release("other", "web", "1"); } catch { secret::get("OTHER"); }
                   let API = "http://other"; http::get(API + "/");
               }
               let answer = #{ bakend: "x" };
               if req.tls { return answer; }
               #{ backend: req.host, set: #{ "x-a": req.path }, cache: 60, tags: #{ a: NAMES[0] }, remove: [req.id, "via"] }
           }
           fn on_upload_start(u) { #{ store: "edge", max_size: u.size } }"#,
    )
    .unwrap();
}
