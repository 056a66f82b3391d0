//! Reloading: one swap, last good, rollback, restart, unit tests as a gate.

use crate::support::{Folder, request};
use std::path::Path;

use boxgate_scripting::bundle::Bundle;
use boxgate_scripting::set::State;
use boxgate_scripting::verdict::{AuthorizeVerdict, RouteVerdict};
use boxgate_scripting::{Options, Scripts, Startup};

fn version(n: u32) -> String {
    format!("fn route(req) {{ #{{ set: #{{ v: \"{n}\" }} }} }}")
}

async fn seen(scripts: &Scripts) -> Option<String> {
    let get = request("GET", "h", "/");
    match scripts.route(&get).await.unwrap().verdict {
        RouteVerdict::Continue(routing) => routing.headers.set.get("v").cloned(),
        _ => None,
    }
}

#[tokio::test]
async fn broken_save_keeps_the_last_good_version_also_over_a_restart() {
    let folder = Folder::with("acme", &version(1));
    folder.write("other.rhai", "fn on_response(req, res) {}");
    let scripts = folder.open();
    assert_eq!(seen(&scripts).await.as_deref(), Some("1"));

    folder.write("acme.rhai", "fn route(req) { #{ set: }");
    let reports = scripts.reload(false).unwrap();
    assert_eq!(reports[0].result, "failed");
    assert_eq!(reports[1].result, "unchanged");
    assert!(
        reports[0].findings[0].to_string().contains("acme.rhai:1:"),
        "{:?}",
        reports[0].findings
    );
    assert_eq!(seen(&scripts).await.as_deref(), Some("1"));
    let status = scripts.status().remove(0);
    assert_eq!(status.state, State::Stale);
    assert!(status.error.unwrap().contains('^'));

    // The broken file is not compiled again while it stays as it is.
    let generation = scripts.generation();
    scripts.reload(false).unwrap();
    assert_eq!(scripts.generation(), generation);
    drop(scripts);

    let scripts = folder.open();
    assert_eq!(seen(&scripts).await.as_deref(), Some("1"));
    assert_eq!(scripts.status()[0].state, State::Stale);
    folder.write("acme.rhai", &version(2));
    assert_eq!(scripts.reload(false).unwrap()[0].result, "loaded");
    assert_eq!(seen(&scripts).await.as_deref(), Some("2"));
    assert_eq!(scripts.status()[0].state, State::Ok);
}

#[tokio::test]
async fn strict_refuses_to_start_and_without_answers_by_the_failure_rule() {
    let folder = Folder::with("acme", "fn authorize(req, p) { nothing }");
    let mut options = folder.options();
    options.startup = Startup::Strict;
    let error = Scripts::open(options.clone()).unwrap_err().to_string();
    assert!(
        error.contains("nothing") && error.contains("acme"),
        "{error}"
    );

    options.startup = Startup::Without;
    let scripts = Scripts::open(options.clone()).unwrap();
    let get = request("GET", "h", "/");
    assert!(
        scripts
            .authorize(&get, &crate::support::service("acme"))
            .await
            .is_err()
    );

    // Nothing is known to fall back on.
    options.startup = Startup::LastGood;
    let scripts = Scripts::open(options).unwrap();
    assert_eq!(scripts.status()[0].state, State::Failed);
    let service = crate::support::service("acme");
    assert!(scripts.authorize(&get, &service).await.is_err());
}

#[tokio::test]
async fn a_gate_that_never_worked_stays_shut_until_it_works() {
    let folder = Folder::with("other", &version(1));
    let rule = "[hooks.on_delete]\non_failure = \"open\"\n";
    folder.write("gate/plugin.toml", rule);
    let broken =
        "fn  authorize (req, p) { nothing }\nfn on_delete(req, blob) { nothing }\nfn route(req) {}";
    folder.write("gate/main.rhai", broken);
    let scripts = folder.open();
    let get = request("GET", "h", "/");
    let service = crate::support::service("acme");
    let failed = scripts.authorize(&get, &service).await.unwrap_err();
    assert_eq!(
        (failed.plugin.as_str(), failed.hook.name()),
        ("gate", "authorize")
    );
    let put = request("PUT", "h", "/");
    assert!(scripts.route(&put).await.is_err(), "writes stay out");
    assert_eq!(seen(&scripts).await.as_deref(), Some("1"), "reads go on");
    let rules = scripts.status()[0]
        .hooks
        .iter()
        .map(|h| (h.hook, h.on_failure))
        .collect::<Vec<_>>();
    assert!(rules.contains(&("on_delete", "open")), "{rules:?}");

    // Another save that does not work opens nothing, and forgets no gate.
    folder.write("gate/main.rhai", "fn on_delete(req, blob) { nothing }");
    assert_eq!(scripts.reload(false).unwrap()[0].result, "failed");
    assert!(scripts.authorize(&get, &service).await.is_err());
    folder.write("gate/main.rhai", "fn authorize(req, p) {}");
    assert_eq!(scripts.reload(false).unwrap()[0].result, "loaded");
    assert!(scripts.authorize(&get, &service).await.is_ok());
    assert!(scripts.route(&put).await.is_ok());

    // What is new while others are asked changes nothing until it works.
    folder.write("late.rhai", "fn authorize(req, p) { nothing }");
    scripts.reload(false).unwrap();
    assert!(scripts.authorize(&get, &service).await.is_ok());
}

#[tokio::test]
async fn what_cannot_be_read_at_a_start_may_be_any_gate() {
    let folder = Folder::with("other", &version(1));
    folder.write("gate/main.rhai", "fn authorize(req, p) {}");
    let source = folder.plugins().join("gate/main.rhai");
    std::fs::write(&source, [0xff, 0xfe]).unwrap();
    let scripts = folder.open();
    let (get, put) = (request("GET", "h", "/"), request("PUT", "h", "/"));
    let service = crate::support::service("acme");
    let failed = scripts.authorize(&get, &service).await.unwrap_err();
    assert_eq!(failed.plugin, "gate");
    assert!(scripts.route(&put).await.is_err(), "writes stay out");
    assert_eq!(seen(&scripts).await.as_deref(), Some("1"), "reads go on");
    folder.write("gate/main.rhai", "fn authorize(req, p) {}");
    assert_eq!(scripts.reload(false).unwrap()[0].result, "loaded");
    assert!(scripts.authorize(&get, &service).await.is_ok());
    assert!(scripts.route(&put).await.is_ok());
    // What cannot be read any more while the gateway runs changes nothing.
    std::fs::write(&source, [0xff, 0xfe]).unwrap();
    assert_eq!(scripts.reload(false).unwrap()[0].result, "failed");
    assert!(scripts.authorize(&get, &service).await.is_ok());
}

#[tokio::test]
async fn rollback_holds_until_another_version_stands_there() {
    let folder = Folder::with("acme", &version(1));
    let scripts = folder.open();
    let first = scripts.status()[0].hash.clone().unwrap();
    folder.write("acme.rhai", &version(2));
    scripts.reload(false).unwrap();
    assert_eq!(seen(&scripts).await.as_deref(), Some("2"));

    assert_eq!(scripts.rollback("acme", None).unwrap(), first);
    assert_eq!(seen(&scripts).await.as_deref(), Some("1"));
    assert!(scripts.status()[0].rolled_back);
    assert_eq!(scripts.reload(false).unwrap()[0].result, "unchanged");
    drop(scripts);
    let scripts = folder.open();
    assert_eq!(seen(&scripts).await.as_deref(), Some("1"));

    folder.write("acme.rhai", &version(3));
    scripts.reload(false).unwrap();
    assert_eq!(seen(&scripts).await.as_deref(), Some("3"));
    // What was held back may be used again.
    folder.write("acme.rhai", &version(2));
    scripts.reload(false).unwrap();
    assert_eq!(seen(&scripts).await.as_deref(), Some("2"));
    // Each time one version further back, and never forward again.
    for wanted in ["3", "1"] {
        scripts.rollback("acme", None).unwrap();
        assert_eq!(seen(&scripts).await.as_deref(), Some(wanted));
    }
    assert!(scripts.rollback("acme", None).is_err());
    assert_eq!(scripts.status()[0].versions.len(), 3);
    assert!(scripts.rollback("acme", Some("ffffffff")).is_err());
    assert!(scripts.rollback("nobody", None).is_err());
}

#[tokio::test]
async fn dry_run_tells_and_changes_nothing() {
    let folder = Folder::with("acme", &version(1));
    folder.write("other.rhai", "fn on_response(req, res) {}");
    let scripts = folder.open();
    folder.write("acme.rhai", &version(2));
    assert_eq!(scripts.reload(true).unwrap()[0].result, "loaded");
    assert_eq!(seen(&scripts).await.as_deref(), Some("1"));
    std::fs::remove_file(folder.plugins().join("acme.rhai")).unwrap();
    let reports = scripts.reload(false).unwrap();
    let removed = reports.iter().find(|report| report.plugin == "acme");
    assert_eq!(removed.unwrap().result, "removed");
    assert_eq!(seen(&scripts).await, None);
}

#[tokio::test]
async fn disabled_plugin_is_not_asked() {
    let folder = Folder::with("acme", &version(1));
    folder.write(".disabled", "acme\n");
    let scripts = folder.open();
    assert_eq!(seen(&scripts).await, None);
    assert_eq!(scripts.status()[0].state, State::Disabled);
    folder.write(".disabled", "");
    scripts.reload(false).unwrap();
    assert_eq!(seen(&scripts).await.as_deref(), Some("1"));
}

#[tokio::test]
async fn memory_between_calls_outlives_a_reload() {
    let counting = "fn route(req) { #{ set: #{ v: `${kv::incr(\"n\", 1, 60)}` } } }";
    let folder = Folder::with("acme", counting);
    let scripts = folder.open();
    assert_eq!(seen(&scripts).await.as_deref(), Some("1"));
    folder.write("acme.rhai", &format!("{counting}\n// changed"));
    assert_eq!(scripts.reload(false).unwrap()[0].result, "loaded");
    assert_eq!(seen(&scripts).await.as_deref(), Some("2"));
}

#[tokio::test]
async fn failing_unit_tests_keep_the_new_version_out() {
    let folder = Folder::new();
    folder.write("acme/main.rhai", &version(1));
    folder.write(
        "acme/tests/main.rhai",
        "const R = #{ method: \"GET\" };
         fn test_version() { t::eq(t::hook(\"route\", t::req(R)).set.v, \"1\"); t::ops_below(1000); }
         fn test_clock_and_memory() { t::clock(5); t::eq(time::now(), 5); t::eq(kv::get(\"n\"), ()); kv::set(\"n\", 1, 9); }
         fn test_throws() { t::throws(|| t::hook(\"on_delete\", 1, 2), \"defines no hook\"); }",
    );
    let scripts = folder.open();
    assert_eq!(scripts.status()[0].error, None);
    folder.write("acme/main.rhai", &version(2));
    let report = scripts.reload(false).unwrap().remove(0);
    assert_eq!(report.result, "failed");
    let told = report.findings[0].to_string();
    assert!(
        told.contains("tests/main.rhai:2:") && told.contains("test_version"),
        "{told}"
    );
    assert!(
        told.contains("this is \"2\", and should be \"1\""),
        "{told}"
    );
    assert_eq!(seen(&scripts).await.as_deref(), Some("1"));
}

#[tokio::test]
async fn requests_are_mocked_in_tests_and_one_that_is_not_fails() {
    let folder = Folder::new();
    folder.write(
        "acme/plugin.toml",
        "[http]\nallow = [\"https://scan.example.net/v1/\"]\n[secrets]\nnames = [\"SCAN\"]",
    );
    folder.write(
        "acme/main.rhai",
        r#"fn on_upload_complete(b) {
               let r = http::post("https://scan.example.net/v1/check", #{ sha256: b.sha256 }, #{ headers: #{ authorization: secret::get("SCAN") } });
               if !r.ok { throw "scanner " + r.status }
               if r.json().verdict == "bad" { quarantine("scanner") } else { #{ labels: #{ scanned: "yes" } } }
           }"#,
    );
    folder.write(
        "acme/tests/scan.rhai",
        r#"fn test_bad() {
               t::http("POST", "*/check", #{ json: #{ verdict: "bad" } });
               t::eq(t::hook("on_upload_complete", t::blob(#{ sha256: "ab" })).kind, "quarantine");
               t::eq(t::calls()[0].headers.authorization, "test-SCAN");
               t::eq(json::parse(t::calls()[0].body).sha256, "ab");
           }
           fn test_down() {
               t::http("POST", "*/check", #{ status: 502 });
               t::throws(|| t::hook("on_upload_complete", t::blob(#{})), "scanner 502");
           }
           fn test_unheard() { t::throws(|| t::hook("on_upload_complete", t::blob(#{})), "the test answers no POST"); }"#,
    );
    let mut options = folder.options();
    options.trust_local = true;
    let scripts = Scripts::open(options).unwrap();
    assert_eq!(scripts.status()[0].error, None);
}

#[tokio::test]
async fn events_are_emitted_within_names_depth_and_kind() {
    let folder = Folder::new();
    folder.write(
        "acme/plugin.toml",
        "[events]\nnames = [\"x.acme.seen\"]\n[settings]\nshare = 1",
    );
    folder.write(
        "acme/main.rhai",
        r#"fn on_event(e) {
               switch e.name {
                   "float" => event::emit("x.acme.seen", #{ share: 0.5 }),
                   "other" => event::emit("x.acme." + e.name, #{}),
                   "many" => { for i in 0..17 { event::emit("x.acme.seen", #{ i: i }); } },
                   "answer" => e.name,
                   _ => event::emit("x.acme.seen", #{ of: e.name, share: config::get("share") }),
               }
           }"#,
    );
    folder.write(
        "acme/tests/events.rhai",
        r#"fn told(name, depth) { t::hook("on_event", t::event(#{ name: name, depth: depth })) }
           fn test_emitted() {
               t::setting("share", 2);
               told("box.uploaded", 2);
               t::eq(t::emitted(), [#{ name: "x.acme.seen", data: #{ of: "box.uploaded", share: 2 }, depth: 3 }]);
           }
           fn test_refused() {
               t::throws(|| told("box.uploaded", 3), "4 events led to this one, and 3 may");
               t::throws(|| told("float", 0), "no floats");
               t::throws(|| told("other", 0), "[events] names");
               t::throws(|| told("many", 0), "may emit 16 events");
               t::throws(|| told("answer", 0), "string");
               t::throws(|| t::setting("nothing", 1), "no [settings] nothing");
               t::throws(|| t::setting("share", "a"), "another type");
           }"#,
    );
    let options = folder.options();
    let refused = Scripts::open(options.clone())
        .unwrap()
        .status()
        .remove(0)
        .error
        .unwrap();
    assert!(refused.contains(r#"events = ["x.acme.seen"]"#), "{refused}");
    let options = Options {
        trust_local: true,
        ..options
    };
    let status = Scripts::open(options).unwrap().status().remove(0);
    assert_eq!(status.error, None);
}

#[tokio::test]
async fn unit_tests_see_made_up_secrets_and_tell_none() {
    let folder = Folder::new();
    let manifest = "[http]\nallow = [\"https://scan.example.net/\"]\n[secrets]\nnames = [\"SCAN\"]\n\
                    [webhook_in.ci]\nverify = \"github\"\nsecret = \"CI\"";
    folder.write("acme/plugin.toml", manifest);
    let asks = "const KEY = secret::get(\"SCAN\");\n\
                fn webhook_in(req) { http::get(\"https://scan.example.net/\", #{ headers: #{ authorization: KEY } }); return; }";
    folder.write("acme/main.rhai", asks);
    let test = |wanted: &str| {
        let told = "t::http(\"GET\", \"*\", #{ status: 200 }); t::hook(\"webhook_in\", t::req(#{ hook: \"ci\" }));";
        format!(
            "fn test_it() {{ {told} t::eq(t::calls()[0].headers.authorization, \"{wanted}\"); }}"
        )
    };
    folder.write("acme/tests/main.rhai", &test("test-SCAN"));
    let mut options = folder.options();
    options.trust_local = true;
    options.secrets = [("SCAN", "hunter2-hunter2"), ("CI", "swordfish")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let scripts = Scripts::open(options).unwrap();
    assert_eq!(scripts.status()[0].error, None);

    folder.write("acme/tests/main.rhai", &test("something else"));
    scripts.reload(false).unwrap();
    let told = scripts.status().remove(0).error.unwrap();
    assert!(
        told.contains("\"test-SCAN\"") && !told.contains("hunter2"),
        "{told}"
    );
    // What a source holds by mistake is not told on either.
    folder.write(
        "acme/tests/main.rhai",
        "fn test_it() { throw \"hunter2-hunter2\"; }",
    );
    let report = scripts.reload(false).unwrap().remove(0);
    assert_eq!(report.findings[0].message, "test_it: ***");
}

#[tokio::test]
async fn a_save_that_lost_its_text_takes_no_gate_away() {
    let folder = Folder::with("gate", "fn authorize(req, p) { deny(\"never\") }");
    let scripts = folder.open();
    let (get, service) = (request("GET", "h", "/"), crate::support::service("acme"));
    for lost in ["", "// fn authorize(req, p)\n", "fn other() {}"] {
        folder.write("gate.rhai", lost);
        let report = scripts.reload(false).unwrap().remove(0);
        assert_eq!(report.result, "failed", "{lost}");
        assert!(report.findings[0].message.contains("defines no hook"));
        let verdict = scripts.authorize(&get, &service).await.unwrap().verdict;
        assert!(matches!(verdict, AuthorizeVerdict::Deny(_)), "{lost}");
    }
}

#[tokio::test]
async fn a_gate_that_cannot_be_read_and_never_worked_stays_shut() {
    let (get, service) = (request("GET", "h", "/"), crate::support::service("acme"));
    let gate = "fn authorize(req, p) {}";
    let utf16: Vec<u8> = gate.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let in_latin = b"// caf\xe9\nfn authorize(req, p) {}".to_vec();
    let long = format!("{}\n{gate}", "/".repeat(300 << 10)).into_bytes();
    let put = |bytes: Vec<u8>| move |main: &Path| std::fs::write(main, bytes).unwrap();
    type Make = Box<dyn FnOnce(&Path)>;
    let ways: [(&str, Make); 6] = [
        ("UTF-16", Box::new(put(utf16))),
        ("Latin-1", Box::new(put(in_latin))),
        ("long", Box::new(put(long))),
        (
            "a folder",
            Box::new(|main| std::fs::create_dir(main).unwrap()),
        ),
        ("nothing", Box::new(|_| {})),
        (
            "a link to nothing",
            Box::new(|main| std::os::unix::fs::symlink("nowhere", main).unwrap()),
        ),
    ];
    for (what, make) in ways {
        let folder = Folder::new();
        folder.write("gate/plugin.toml", "");
        let main = folder.plugins().join("gate/main.rhai");
        make(&main);
        let scripts = folder.open();
        assert_eq!(scripts.status()[0].state, State::Failed, "{what}");
        assert!(scripts.authorize(&get, &service).await.is_err(), "{what}");
        // It opens once it works.
        if main.is_dir() {
            std::fs::remove_dir(&main).unwrap();
        } else {
            std::fs::remove_file(&main).ok();
        }
        folder.write("gate/main.rhai", gate);
        scripts.reload(false).unwrap();
        assert!(scripts.authorize(&get, &service).await.is_ok(), "{what}");
    }
}

#[tokio::test]
async fn plugins_whose_directory_is_gone_stay_in_force() {
    let folder = Folder::with("acme", &version(1));
    folder
        .write("off.rhai", &version(2))
        .write(".disabled", "off\n");
    let scripts = folder.open();
    let away = folder.plugins().with_extension("away");
    std::fs::rename(folder.plugins(), &away).unwrap();
    let reports = scripts.reload(false).unwrap();
    let failed: Vec<_> = reports.iter().filter(|r| r.result == "failed").collect();
    assert_eq!((failed.len(), failed[0].plugin.as_str()), (1, "acme"));
    assert!(failed[0].findings[0].message.contains("is not there"));
    assert_eq!(scripts.status()[0].state, State::Stale);
    assert_eq!(seen(&scripts).await.as_deref(), Some("1"));
    // It is said once.
    assert!(
        scripts
            .reload(false)
            .unwrap()
            .iter()
            .all(|r| r.result == "unchanged" || r.result == "removed")
    );
    drop(scripts);

    let scripts = folder.open();
    assert_eq!(seen(&scripts).await.as_deref(), Some("1"), "over a start");
    let mut without = folder.options();
    without.startup = Startup::Without;
    let without = Scripts::open(without).unwrap();
    assert!(without.route(&request("PUT", "h", "/")).await.is_err());
    std::fs::rename(&away, folder.plugins()).unwrap();
    scripts.reload(false).unwrap();
    assert_eq!(scripts.status()[0].state, State::Ok);
    // What is taken away by itself is removed.
    std::fs::remove_file(folder.plugins().join("acme.rhai")).unwrap();
    scripts.reload(false).unwrap();
    assert_eq!(seen(&scripts).await, None);
    std::fs::rename(folder.plugins(), &away).unwrap();
    drop(scripts);
    assert_eq!(seen(&folder.open()).await, None);
}

#[tokio::test]
async fn a_directory_or_folder_that_was_emptied_takes_no_plugin_away() {
    let folder = Folder::new();
    for name in ["gate", "other"] {
        folder.write(
            &format!("{name}/main.rhai"),
            "fn authorize(req, p) { deny(\"never\") }",
        );
    }
    let (get, service) = (request("GET", "h", "/"), crate::support::service("acme"));
    let scripts = folder.open();
    let states = |scripts: &Scripts| -> Vec<(String, State)> {
        let all = scripts.status().into_iter();
        all.map(|status| (status.plugin, status.state)).collect()
    };
    // One folder's files are gone, as of a mount of its own.
    std::fs::remove_file(folder.plugins().join("gate/main.rhai")).unwrap();
    assert_eq!(scripts.reload(false).unwrap()[0].result, "failed");
    assert_eq!(states(&scripts)[0], ("gate".to_owned(), State::Stale));
    let error = scripts.status()[0].error.clone().unwrap();
    assert!(
        error.contains("gate is empty") && error.contains("boxgate script disable gate"),
        "{error}"
    );
    // All are gone, over a restart too.
    std::fs::remove_dir_all(folder.plugins()).unwrap();
    std::fs::create_dir(folder.plugins()).unwrap();
    scripts.reload(false).unwrap();
    drop(scripts);
    let scripts = folder.open();
    for status in scripts.status() {
        assert_eq!(status.state, State::Stale);
        let error = status.error.unwrap();
        assert!(error.contains("holds no plugin any more"), "{error}");
    }
    let verdict = scripts.authorize(&get, &service).await.unwrap().verdict;
    assert!(matches!(verdict, AuthorizeVerdict::Deny(_)));
    // What is to go is named.
    folder.write(".disabled", "gate\n");
    scripts.reload(false).unwrap();
    assert_eq!(states(&scripts), [("other".to_owned(), State::Stale)]);
    folder.write(".disabled", "gate\nother\n");
    scripts.reload(false).unwrap();
    assert!(scripts.set().is_idle());
    // And it does not come back.
    folder.write(".disabled", "");
    scripts.reload(false).unwrap();
    drop(scripts);
    assert!(folder.open().set().is_idle());
}

#[test]
fn what_was_pushed_is_not_trusted_as_what_stands_here() {
    let folder = Folder::new();
    let asks = |name: &str| {
        let mut bundle = Bundle::of_source(name, version(1));
        bundle.manifest = "[secrets]\nnames = [\"KEY\"]".into();
        bundle
    };
    folder.write("own/plugin.toml", &asks("own").manifest);
    folder.write("own/main.rhai", &version(1));
    let mut options = folder.options();
    options.trust_local = true;
    options.pushed = [("sent".to_owned(), asks("sent"))].into();
    let scripts = Scripts::open(options).unwrap();
    let states: Vec<_> = scripts
        .status()
        .into_iter()
        .map(|s| (s.plugin, s.state))
        .collect();
    let wanted = [
        ("own".to_owned(), State::Ok),
        ("sent".to_owned(), State::Failed),
    ];
    assert_eq!(states, wanted);
    assert!(scripts.check(&asks("another")).is_err());
}

#[test]
fn a_secret_that_cannot_be_read_fails_the_plugins_that_want_it() {
    let folder = Folder::new();
    for (name, secret) in [("one", "LOST"), ("two", "KEPT")] {
        folder.write(
            &format!("{name}/plugin.toml"),
            &format!("[secrets]\nnames = [\"{secret}\"]"),
        );
        folder.write(&format!("{name}/main.rhai"), &version(1));
    }
    let mut options = folder.options();
    options.trust_local = true;
    options.unreadable_secrets = [("LOST".to_owned(), "cannot read /a: gone".to_owned())].into();
    let status = Scripts::open(options).unwrap().status();
    let lost = status[0].error.as_deref().unwrap();
    assert!(
        lost.contains("scripts.secrets.LOST: cannot read /a: gone"),
        "{lost}"
    );
    assert_eq!(status[1].error, None);
}
