//! The examples by which plugins were designed, word for word, each with a test of its own that must pass before it is
//! taken. Those of other hooks stand with those hooks.

use boxgate_scripting::Scripts;

use crate::support::Folder;

/// Name, manifest, source, tests.
const EXAMPLES: &[(&str, &str, &str, &str)] = &[
    (
        "tenants",
        "",
        r#"
// 1 tenant routing, table built once
const T = table([["eu.example.org", "/acme/**", "eu-store"], ["*", "/public/**", "edge"]]);
fn route(req) { let hit = T.find(req); if hit == () { return; } #{ backend: hit, tags: #{ tenant: req.seg(0) } } }
"#,
        r#"
fn asked(host, path) { t::hook("route", t::req(#{ host: host, path: path })) }
fn test_a_tenant_has_its_store() {
    t::eq(asked("eu.example.org", "/acme/web"), #{ backend: "eu-store", tags: #{ tenant: "acme" } });
    t::eq(asked("us.example.org", "/public/web").backend, "edge");
    t::eq(asked("us.example.org", "/acme/web"), ());
    t::ops_below(100);
}
"#,
    ),
    (
        "network",
        "",
        r#"
// 2 narrow access: service accounts publish only from the build network
fn authorize(req, p) {
    if p.kind == "service" && req.method in ["PUT", "POST"] && !net::contains("10.20.0.0/16", req.client_ip) { deny("outside build network") }
}
"#,
        r#"
fn asked(kind, ip) {
    t::hook("authorize", t::req(#{ method: "PUT", client_ip: ip }), t::principal(#{ kind: kind }))
}
fn test_services_publish_from_inside_alone() {
    t::eq(asked("service", "192.0.2.1").reason, "outside build network");
    t::eq(asked("service", "10.20.1.1"), ());
    t::eq(asked("user", "192.0.2.1"), ());
}
"#,
    ),
    (
        "scan",
        "[http]\nallow = [\"https://scan.example.net/v1/\"]\n[secrets]\nnames = [\"SCAN\"]\n",
        r#"
// 3 gate an upload, then label it (grants: http, secret)
fn on_upload_start(u) { if u.size > 20 * 1024 * 1024 * 1024 { reject(413, "over 20 GiB") } else { #{ require_checksum: "sha256" } } }
fn on_upload_complete(b) {
    let r = http::post("https://scan.example.net/v1/check", #{ sha256: b.sha256 }, #{ headers: #{ authorization: secret::get("SCAN") } });
    if !r.ok { throw "scanner " + r.status }          // held and retried
    if r.json().verdict == "bad" { quarantine("scanner") } else { #{ labels: #{ scanned: "yes" } } }
}
"#,
        r#"
fn complete() { t::hook("on_upload_complete", t::blob(#{ sha256: "ab" })) }
fn test_what_is_too_long_is_rejected() {
    t::eq(t::hook("on_upload_start", t::upload(#{ size: 30000000000 })).status, 413);
    t::eq(t::hook("on_upload_start", t::upload(#{ size: 3 })), #{ require_checksum: "sha256" });
}
fn test_the_scanner_decides() {
    t::http("POST", "*/check", #{ json: #{ verdict: "good" } });
    t::eq(complete(), #{ labels: #{ scanned: "yes" } });
    t::eq(t::calls()[0].headers["authorization"], "test-SCAN");
    t::http("POST", "*/check", #{ json: #{ verdict: "bad" } });
    t::eq(complete().kind, "quarantine");
    t::http("POST", "*/check", #{ status: 500 });
    t::throws(|| complete(), "scanner 500");
}
"#,
    ),
    (
        "ci",
        "[webhook_in.github]\nverify = \"github\"\nsecret = \"GITHUB\"\nmode = \"async\"\n\
         [events]\nnames = [\"x.ci.release\"]\n\
         [metrics]\nbuilds = { type = \"counter\", labels = [\"result\"] }\n",
        r#"
// 4 GitHub release -> x.ci.release (already verified and de-duplicated)
fn webhook_in(req) {
    let m = req.json();
    if req.header("x-github-event") != "release" || m.action != "published" { return #{ ignored: true }; }
    metric::count("builds", 1, #{ result: "release" });
    event::emit("x.ci.release", #{ repo: m.repository.full_name, tag: m.release.tag_name });
}
"#,
        r#"
fn told(name, action) {
    let body = #{ action: action, repository: #{ full_name: "acme/web" }, release: #{ tag_name: "v1" } };
    t::hook("webhook_in", t::req(#{ hook: "github", headers: #{ "x-github-event": name }, body: body }))
}
fn test_a_release_is_told_on() {
    t::eq(told("push", "published"), #{ ignored: true });
    t::eq(told("release", "created"), #{ ignored: true });
    t::eq(t::emitted(), []);
    t::eq(told("release", "published"), ());
    t::eq(t::emitted(), [#{ name: "x.ci.release", data: #{ repo: "acme/web", tag: "v1" }, depth: 0 }]);
}
"#,
    ),
];

#[test]
fn each_example_loads_word_for_word_and_passes_its_test() {
    for (name, manifest, source, tests) in EXAMPLES {
        let folder = Folder::new();
        folder.write(&format!("{name}/plugin.toml"), manifest);
        folder.write(&format!("{name}/main.rhai"), source);
        folder.write(&format!("{name}/tests/main.rhai"), tests);
        let mut options = folder.options();
        options.trust_local = true;
        let status = Scripts::open(options).unwrap().status().remove(0);
        assert_eq!(status.error, None, "{name}");
        assert!(!status.hooks.is_empty(), "{name}");
    }
}
