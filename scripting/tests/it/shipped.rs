//! The plugins of `plugins/`: each loads as it stands, passes its own tests, and does what its settings say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use boxgate_scripting::bundle::plugins_in;
use boxgate_scripting::facts::{Blob, Request};
use boxgate_scripting::plugin::Surroundings;
use boxgate_scripting::set::State;
use boxgate_scripting::tool;
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
    for plugin in &status {
        assert_eq!(
            (plugin.state, &plugin.error),
            (State::Ok, &None),
            "{}",
            plugin.plugin
        );
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
        "ci-github": {"boxes": [["other/*", "other", "x"]], "prefix": "x-", "prereleases": true},
    });
    let (scripts, _kept) = open(settings);
    for plugin in scripts.status() {
        assert_eq!(plugin.error, None, "{}", plugin.plugin);
    }
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

#[test]
fn recipes_of_the_cookbook_load() {
    let page = include_str!("../../../docs/COOKBOOK.md");
    let manifest = "[http]\nallow = [\"https://api.fastly.com/service/\", \"https://scanner.example.org/v1/\"]\n[secrets]\nnames = [\"FASTLY_KEY\"]\n\
                    [settings]\nrows = []\nnetworks = [\"10.0.0.0/8\"]\n";
    let recipes: Vec<&str> = page.split("```rust").skip(1).collect();
    assert!(!recipes.is_empty());
    for recipe in recipes {
        let recipe = recipe.split("```").next().unwrap();
        let folder = Folder::new();
        let clock = if recipe.contains("fn on_schedule(") {
            "[schedule]\ncron = \"30 3 * * *\"\n\
             [catalog]\nallow = [\"list:acme/*\", \"versions:acme/*\", \"delete:acme/*\"]\n"
        } else {
            ""
        };
        let hook = if recipe.contains("fn webhook_in(") {
            "[webhook_in.release]\nverify = \"github\"\nsecret = \"CI_SECRET\"\n\
             [catalog]\nallow = [\"release:acme/*\"]\n"
        } else {
            ""
        };
        folder.write("recipe/plugin.toml", &format!("{manifest}{clock}{hook}"));
        folder.write("recipe/main.rhai", recipe);
        let mut options = folder.options();
        options.trust_local = true;
        let status = Scripts::open(options).unwrap().status().remove(0);
        assert_eq!(status.error, None, "{recipe}");
        assert!(!status.hooks.is_empty(), "{recipe}");
    }
}
