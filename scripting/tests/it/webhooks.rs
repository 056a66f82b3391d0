//! Webhooks that come in: what a manifest promises, what the script sees and answers, and what it remembers.

use std::sync::Arc;

use boxgate_scripting::facts::{Bytes, Request};
use boxgate_scripting::inbound::{Addressed, Mode};
use boxgate_scripting::set::State;
use boxgate_scripting::tool::{Skeleton, skeleton};
use boxgate_scripting::verdict::WebhookVerdict;
use boxgate_scripting::{Options, Scripts};
use serde_json::{Value, json};

use crate::support::Folder;

const MANIFEST: &str = "[webhook_in.ci]\nverify = \"github\"\nsecret = \"CI\"\nmode = \"async\"\n";

fn webhook(hook: &str, body: &str) -> Arc<Request> {
    Arc::new(Request {
        hook: hook.into(),
        verified: true,
        delivery_id: Some("d-1".into()),
        body: Bytes(Arc::from(body.as_bytes())),
        headers: vec![("content-type".into(), "application/json".into())],
        id: "r1".into(),
        ..Request::default()
    })
}

fn options(folder: &Folder) -> Options {
    Options {
        trust_local: true,
        ..folder.options()
    }
}

#[tokio::test]
async fn the_plugin_that_is_meant_is_called_and_answers() {
    let folder = Folder::new();
    for name in ["acme", "other"] {
        folder.write(&format!("{name}/plugin.toml"), MANIFEST);
        let source = format!(
            "fn webhook_in(req) {{
                switch req.json().answer {{
                    \"map\" => #{{ by: \"{name}\", hook: req.hook, id: req.delivery_id, verified: req.verified,
                        two: req.pick(\"/list/1\"), none: req.body.pick(\"/x\") == (), slice: req.body.slice(0, 2).text(),
                        len: req.body.len, hash: hash::sha256(req.body) == hash::sha256(req.text()) }},
                    \"respond\" => respond(202, \"later\"),
                    \"deny\" => deny(\"no\"),
                    \"large\" => {{ let s = \"x\"; while s.len < 70000 {{ s += s; }} #{{ a: s }} }}
                    _ => ()
                }}
            }}"
        );
        folder.write(&format!("{name}/main.rhai"), &source);
    }
    let scripts = Scripts::open(options(&folder)).unwrap();
    let ask = async |body: Value| {
        let request = webhook("ci", &body.to_string());
        scripts.webhook_in("acme", &request, true).await
    };
    let body = json!({"answer": "map", "list": [1, 2]});
    let decision = ask(body.clone()).await.unwrap();
    assert_eq!(decision.by, ["acme"]);
    let WebhookVerdict::Reply(reply) = decision.verdict else {
        panic!("a map is an answer");
    };
    assert_eq!(reply.status, 200);
    let told: Value = serde_json::from_slice(&reply.body).unwrap();
    let expected = json!({"by": "acme", "hook": "ci", "id": "d-1", "verified": true, "two": 2, "none": true,
        "slice": "{\"", "len": body.to_string().len(), "hash": true});
    assert_eq!(told, expected);
    let nothing = ask(json!({"answer": ""})).await.unwrap();
    assert_eq!(
        (nothing.verdict, nothing.by.len()),
        (WebhookVerdict::Done, 0)
    );
    let respond = ask(json!({"answer": "respond"})).await.unwrap().verdict;
    assert!(matches!(respond, WebhookVerdict::Reply(r) if r.status == 202));
    for (answer, why) in [("deny", "deny(..) is no answer"), ("large", "longer than")] {
        let failed = ask(json!({ "answer": answer })).await.unwrap_err();
        assert!(failed.to_string().contains(why), "{failed}");
    }
}

#[test]
fn hooks_are_known_by_plugin_and_name_and_their_secrets_by_the_operator() {
    let folder = Folder::new();
    folder.write("acme/plugin.toml", MANIFEST);
    folder.write("acme/main.rhai", "fn webhook_in(req) {}");
    folder.write("broken/plugin.toml", MANIFEST);
    folder.write("broken/main.rhai", "fn webhook_in(req) { nothing }");
    let known = |scripts: &Scripts, plugin: &str, hook: &str| match scripts.inbound(plugin, hook) {
        Addressed::Hook(inbound) => Some((inbound.terms.mode, inbound.secret)),
        Addressed::Nobody | Addressed::Broken => None,
    };
    let scripts = Scripts::open(options(&folder)).unwrap();
    assert_eq!(known(&scripts, "acme", "ci"), Some((Mode::Async, None)));
    assert_eq!(known(&scripts, "acme", "cd"), None);
    assert!(matches!(scripts.inbound("broken", "ci"), Addressed::Broken));
    assert!(matches!(scripts.inbound("nobody", "ci"), Addressed::Nobody));
    let mut with_secret = options(&folder);
    with_secret.secrets.insert("CI".into(), "s3cret".into());
    let scripts = Scripts::open(with_secret).unwrap();
    let secret = Some(Arc::from("s3cret"));
    assert_eq!(known(&scripts, "acme", "ci"), Some((Mode::Async, secret)));
    // Without a grant it is not loaded at all.
    let scripts = folder.open();
    let error = scripts.status().remove(0).error.unwrap();
    assert!(error.contains(r#"secrets = ["CI"]"#), "{error}");
}

#[test]
fn half_a_webhook_is_refused_with_what_to_add() {
    let error = |manifest: &str, main: &str| {
        let folder = Folder::new();
        folder.write("acme/plugin.toml", manifest);
        folder.write("acme/main.rhai", main);
        let scripts = Scripts::open(options(&folder)).unwrap();
        scripts.status().remove(0).error.unwrap_or_default()
    };
    let without = error(MANIFEST, "fn route(req) {}");
    assert!(
        without.contains("[webhook_in.ci] calls webhook_in(req)"),
        "{without}"
    );
    let unnamed = error("", "fn webhook_in(req) {}");
    assert!(unnamed.contains("[webhook_in.ci] verify"), "{unnamed}");
    let fast = format!("{MANIFEST}[hooks.webhook_in]\nlane = \"fast\"");
    let fast = error(&fast, "fn webhook_in(req) {}");
    assert!(fast.contains("cannot be made fast"), "{fast}");
}

#[test]
fn tests_of_a_plugin_call_only_hooks_that_it_names() {
    let folder = Folder::new();
    folder.write("acme/plugin.toml", MANIFEST);
    folder.write(
        "acme/main.rhai",
        "fn webhook_in(req) { #{ len: req.body.len } }",
    );
    let tests = "fn test_named() { t::eq(t::hook(\"webhook_in\", t::req(#{ hook: \"ci\", body: \"abc\" })), #{ len: 3 }); }
                 fn test_other() { t::throws(|| t::hook(\"webhook_in\", t::req(#{ hook: \"cd\" })), \"one of ci\"); }";
    folder.write("acme/tests/main.rhai", tests);
    let status = Scripts::open(options(&folder)).unwrap().status().remove(0);
    assert_eq!((status.state, status.error), (State::Ok, None));
}

#[test]
fn a_plugin_begun_with_a_webhook_passes_its_tests() {
    let folder = Folder::new();
    for (file, text) in skeleton("my-hook", Skeleton::Webhook) {
        folder.write(&format!("my-hook/{file}"), &text);
    }
    let status = Scripts::open(options(&folder)).unwrap().status().remove(0);
    assert_eq!((status.state, status.error), (State::Ok, None));
}

#[tokio::test]
async fn what_a_plugin_remembers_outlives_its_process() {
    let folder = Folder::new();
    folder.write("acme/plugin.toml", MANIFEST);
    let source = "fn webhook_in(req) {
        let before = #{ plain: kv::get(\"plain\"), durable: kv::get(\"durable\") };
        kv::set(\"plain\", req.text(), 3600);
        kv::durable_set(\"durable\", req.text(), 3600);
        before
    }";
    folder.write("acme/main.rhai", source);
    let mut options = options(&folder);
    options.memory = Some(folder.plugins().join("../kv"));
    let run = async |scripts: &Scripts, body: &str| {
        let called = scripts
            .webhook_in("acme", &webhook("ci", body), false)
            .await;
        let WebhookVerdict::Reply(reply) = called.unwrap().verdict else {
            panic!("a map is an answer");
        };
        serde_json::from_slice::<Value>(&reply.body).unwrap()
    };
    let remembered = async |body: &str, plain: Option<&str>, durable: Option<&str>| {
        let scripts = Scripts::open(options.clone()).unwrap();
        let expected = json!({ "plain": plain, "durable": durable });
        assert_eq!(run(&scripts, body).await, expected, "{body}");
        scripts
    };
    // The first time all of it is written down.
    remembered("1", None, None).await;
    remembered("2", Some("1"), Some("1")).await;
    // As after a kill: what was not written down is gone.
    let scripts = remembered("3", Some("1"), Some("2")).await;
    scripts.write_down();
    remembered("4", Some("3"), Some("3")).await;
}
