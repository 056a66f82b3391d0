//! The plugins of `plugins/`: each loads as it stands, passes its own tests, and does what its settings say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use boxgate_scripting::bundle::plugins_in;
use boxgate_scripting::facts::{Blob, Request};
use boxgate_scripting::plugin::Surroundings;
use boxgate_scripting::set::State;
use boxgate_scripting::tool::{self, Skeleton};
use boxgate_scripting::verdict::{DownloadVerdict, RouteVerdict};
use boxgate_scripting::{Options, Scripts};
use serde_json::json;

use crate::support::{Folder, request};

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins")
}

fn open(settings: serde_json::Value) -> (Scripts, tempfile::TempDir) {
    let kept = tempfile::tempdir().unwrap();
    let mut options = Options::in_directory(shipped(), kept.path());
    options.trust_local = true;
    options.settings = serde_json::from_value(settings).unwrap();
    (Scripts::open(options).unwrap(), kept)
}

/// Errors by plugin. The published page's own adapter has the id of a real one, so that of the two one is off.
fn errors(scripts: &Scripts) -> Vec<(String, String)> {
    let status = scripts.status().into_iter();
    let errors = status.filter_map(|status| Some((status.plugin, status.error?)));
    let (clash, other): (Vec<_>, Vec<_>) = errors.partition(|(plugin, _)| plugin == "example");
    assert!(clash[0].1.contains("digitalocean already"), "{clash:?}");
    other
}

#[test]
fn the_adapter_to_no_cloud_loads_where_it_has_its_id_for_itself() {
    let place = tempfile::tempdir().unwrap();
    let own = place.path().join("plugins/example");
    std::fs::create_dir_all(own.join("tests")).unwrap();
    for file in ["plugin.toml", "main.rhai", "tests/main.rhai"] {
        std::fs::copy(shipped().join("example").join(file), own.join(file)).unwrap();
    }
    let folder = place.path().join("plugins");
    let options = Options::in_directory(folder, place.path().join("kept"));
    let status = Scripts::open(options).unwrap().status();
    assert_eq!((status[0].state, &status[0].error), (State::Ok, &None));
}

#[test]
fn every_plugin_loads_passes_its_tests_and_says_how_to_use_it() {
    let (scripts, _kept) = open(json!({}));
    let status = scripts.status();
    let known: Vec<&str> = status.iter().map(|s| s.plugin.as_str()).collect();
    assert_eq!(
        status.len(),
        plugins_in(&shipped()).unwrap().len(),
        "{known:?}"
    );
    assert_eq!(errors(&scripts), []);
    for plugin in &status {
        let place = shipped().join(&plugin.plugin);
        assert!(place.join("tests/main.rhai").exists(), "{}", plugin.plugin);
        let readme = std::fs::read_to_string(place.join("README.md")).unwrap();
        assert!(
            readme.contains(&format!(".{}]", plugin.plugin)),
            "{}",
            plugin.plugin
        );
    }
}

#[test]
fn a_providers_failure_is_told_when_it_is_run_by_hand() {
    let around = |_: &str| Surroundings {
        grant_all: true,
        ..Surroundings::default()
    };
    let plugin = Arc::new(tool::check(&shipped().join("example"), around).unwrap());
    let caller = json!({ "ctx": { "access-token": "invalid" } });
    let ran = tool::run(&plugin, "verify", &caller).unwrap();
    let wanted = json!({ "kind": "fail", "status": 401, "reason": "Invalid Access Token" });
    assert_eq!(ran.answer.unwrap(), wanted);
}

#[tokio::test]
async fn settings_of_operators_do_not_fail_a_plugins_tests() {
    let settings = json!({
        "tenant-routing": {"rows": [["eu.example.org", "/**", "eu"]], "only_known": true},
        "mirror-by-network": {"mirrors": [["10.1.0.0/16", "https://eu.example.org"]]},
        "upload-policy": {"most_gib": 1, "checksum": ""},
        "build-network": {"networks": ["192.0.2.0/24"]},
        "purge-fastly": {"service": "abc"},
        "purge-cloudflare": {"zone": "abc"},
        "purge-cloudfront": {"distribution": "E2", "tags": true},
        "digitalocean": {"api_base": "http://127.0.0.1:1", "image": "ubuntu-24-04-x64"},
        "hetzner": {"network": 456, "dollars_per_euro": 2.0},
        "ci-github": {"boxes": [["other/*", "other", "x"]], "prefix": "x-", "prereleases": true},
    });
    let (scripts, _kept) = open(settings);
    assert_eq!(errors(&scripts), []);
    let asked = async |host: &str| {
        let decision = scripts.route(&request("PUT", host, "/acme/box")).await;
        decision.unwrap().verdict
    };
    let RouteVerdict::Continue(routing) = asked("eu.example.org").await else {
        panic!("a known tenant goes on");
    };
    assert_eq!(routing.backend.as_deref(), Some("eu"));
    assert!(
        matches!(asked("other.example.org").await, RouteVerdict::Respond(r) if r.status == 404)
    );
    let near = Arc::new(Request {
        client_ip: Some([10, 1, 2, 3].into()),
        ..Request::default()
    });
    let blob = Arc::new(Blob {
        size: 1 << 30,
        blake3: "b3".into(),
        labels: BTreeMap::new(),
        ..Blob::default()
    });
    let DownloadVerdict::Redirect(redirect) =
        scripts.on_download(&near, &blob).await.unwrap().verdict
    else {
        panic!("a near mirror is used");
    };
    assert_eq!(redirect.url, "https://eu.example.org/blobs/b3/b3");
}

/// The blocks of a language in a text.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    let ended = |rest: &'a str| rest.split("```").next().unwrap();
    text.split(fence.as_str()).skip(1).map(ended).collect()
}

#[test]
fn recipes_of_the_cookbook_work_as_they_are_printed() {
    let page = include_str!("../../../docs/COOKBOOK.md");
    let (mut recipes, mut tested) = (0, 0);
    for section in page.split("\n## ").skip(1) {
        let title = section.lines().next().unwrap();
        let (tests, main): (Vec<&str>, Vec<&str>) = blocks(section, "rust")
            .into_iter()
            .partition(|block| block.contains("fn test_"));
        if main.is_empty() {
            continue;
        }
        let folder = Folder::new();
        folder.write("recipe/plugin.toml", &blocks(section, "toml").concat());
        folder.write("recipe/main.rhai", &main.concat());
        folder.write("recipe/tests/main.rhai", &tests.concat());
        let mut options = folder.options();
        options.trust_local = true;
        let status = Scripts::open(options).unwrap().status().remove(0);
        assert_eq!(status.error, None, "{title}");
        recipes += 1;
        tested += tests.len();
    }
    assert_eq!((recipes, tested), (6, 6));
}

/// What is wrong with a provider that begins as new ones do and is changed a little.
fn wrong_with(change: impl Fn(&str, String) -> String) -> Option<String> {
    let folder = Folder::new();
    for (file, text) in tool::skeleton("my-cloud", Skeleton::Provider) {
        folder.write(&format!("my-cloud/{file}"), &change(file, text));
    }
    let mut options = folder.options();
    options.trust_local = true;
    let scripts = Scripts::open(options).unwrap();
    scripts.status().remove(0).error
}

#[test]
fn a_provider_that_begins_passes_its_tests() {
    assert_eq!(wrong_with(|_, text| text), None);
}

#[test]
fn what_a_provider_returns_without_meaning_it_is_no_good_credential() {
    let changed = |from: &'static str, to: &'static str| {
        let wrong = wrong_with(move |file, text| {
            assert!(file != "main.rhai" || text.contains(from), "{from}");
            text.replace(from, to)
        });
        wrong.unwrap_or_default()
    };
    let wrong = changed(
        "asked(ctx, \"/account\");\n    ()",
        "asked(ctx, \"/account\").ok",
    );
    assert!(wrong.contains("verify(ctx) returns ()"), "{wrong}");
    // A failure is one from however deep within; anything else that is thrown is none.
    let wrong = changed("{ throw fail(500, why); }", "{ throw why; }");
    assert!(wrong.contains("The cloud answers 503."), "{wrong}");
}

#[test]
fn an_origin_that_an_operator_sets_is_granted_and_no_other() {
    let asked = |settings: serde_json::Value| {
        let folder = Folder::new();
        let manifest = "[http]\nallow = [\"https://api.example.com/v1/\"]\n\
                        [schedule]\ncron = \"* * * * *\"\n[settings]\napi_base = \"https://api.example.com/v1\"\nat = \"\"";
        folder.write("acme/plugin.toml", manifest);
        let main = "fn on_schedule(tick) { http::get(config::get(\"at\")); }";
        folder.write("acme/main.rhai", main);
        let around = |_: &str| Surroundings {
            grant_all: true,
            settings: serde_json::from_value(settings.clone()).unwrap(),
            ..Surroundings::default()
        };
        let plugin = Arc::new(tool::check(&folder.plugins().join("acme"), around).unwrap());
        let ran = tool::run(&plugin, "on_schedule", &json!({})).unwrap();
        ran.answer.unwrap_err().to_string()
    };
    let here = "http://127.0.0.1:8080/x";
    // What is granted gets as far as the client, which is none here.
    for (settings, told) in [
        (
            json!({ "at": "https://api.example.com/v1/x" }),
            "http.unavailable",
        ),
        (json!({ "at": here }), "http.not_granted"),
        (
            json!({ "at": here, "api_base": "http://127.0.0.1:8080/v9" }),
            "http.unavailable",
        ),
        (
            json!({ "at": here, "api_base": "http://127.0.0.1:8081" }),
            "http.not_granted",
        ),
    ] {
        let wrong = asked(settings);
        assert!(wrong.contains(told), "{told}: {wrong}");
    }
}
