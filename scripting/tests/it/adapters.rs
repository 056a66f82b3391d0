//! Plugins that are adapters, and of which two say that they are the same one.

use boxgate_scripting::Scripts;
use boxgate_scripting::set::{Reloaded, State};

use crate::support::Folder;

fn adapter(id: &str) -> String {
    format!(
        r#"fn meta() {{
            #{{ id: "{id}", name: "N", server_nick_name: "S", default_region: "r", default_size: "s", default_plan: "p",
                can_reboot: false, can_rename: false, internal_iface: "e", external_iface: (), ssh_user: "root",
                ssh_auth_method: "key", ssh_key_method: "object", bootstrap_script: "https://a/", credential_fields: [],
                instructions: "I" }}
        }}
        fn catalog(ctx) {{ [] }}
        fn verify(ctx) {{ }}
        fn create_server(ctx, order) {{ 1 }}
        fn get_server(ctx, id) {{ }}
        fn cancel_server(ctx, id) {{ }}"#
    )
}

fn put(folder: &Folder, plugin: &str, id: &str) {
    folder.write(
        &format!("{plugin}/plugin.toml"),
        &format!("name = \"{plugin}\"\nversion = \"1.0.0\"\napi = 1\n[provider]\n"),
    );
    folder.write(&format!("{plugin}/main.rhai"), &adapter(id));
}

fn reload(scripts: &Scripts) -> Vec<(String, &'static str)> {
    let reports = scripts.reload(false).unwrap().into_iter();
    let told = |report: Reloaded| (report.plugin, report.result);
    reports.map(told).collect()
}

fn owner(scripts: &Scripts, id: &str) -> Option<String> {
    scripts.provider(id).map(|provider| provider.plugin)
}

fn told(plugin: &str, result: &'static str) -> (String, &'static str) {
    (plugin.to_owned(), result)
}

#[test]
fn of_two_with_one_id_the_later_stays_off_until_the_id_is_free() {
    let folder = Folder::with("other", "fn on_response(req, res) {}");
    put(&folder, "beta", "do");
    let scripts = folder.open();
    assert_eq!(owner(&scripts, "do").as_deref(), Some("beta"));
    // It is not the name that counts, but who was there.
    put(&folder, "alpha", "do");
    let reports = scripts.reload(false).unwrap();
    assert_eq!(
        (reports[0].plugin.as_str(), reports[0].result),
        ("alpha", "failed")
    );
    let why = reports[0].findings[0].to_string();
    for word in ["alpha", "beta", "\"do\"", "/providers/do"] {
        assert!(why.contains(word), "{why}");
    }
    assert_eq!(owner(&scripts, "do").as_deref(), Some("beta"));
    assert_eq!(scripts.status()[0].state, State::Failed);
    // Nothing changed, and nothing is told once more.
    let generation = scripts.generation();
    assert_eq!(reload(&scripts)[0], told("alpha", "unchanged"));
    assert_eq!(scripts.generation(), generation);
    // Once the other is gone, or is another adapter, it is loaded as it stands.
    put(&folder, "beta", "elsewhere");
    let reports = reload(&scripts);
    assert_eq!(
        reports[..2],
        [told("alpha", "loaded"), told("beta", "loaded")]
    );
    assert_eq!(owner(&scripts, "do").as_deref(), Some("alpha"));
    assert_eq!(owner(&scripts, "elsewhere").as_deref(), Some("beta"));
    assert_eq!(scripts.status()[0].state, State::Ok);
}

#[test]
fn one_that_takes_anothers_id_keeps_its_last_good_version_and_two_may_swap() {
    let folder = Folder::with("other", "fn on_response(req, res) {}");
    put(&folder, "one", "a");
    put(&folder, "two", "b");
    let scripts = folder.open();
    put(&folder, "one", "b");
    let reports = reload(&scripts);
    assert_eq!(reports[0], told("one", "failed"));
    assert_eq!(scripts.status()[0].state, State::Stale);
    assert_eq!(owner(&scripts, "a").as_deref(), Some("one"));
    assert_eq!(owner(&scripts, "b").as_deref(), Some("two"));
    put(&folder, "two", "a");
    // Both at once: each is as it stands.
    let reports = reload(&scripts);
    assert!(
        reports.iter().all(|(_, result)| *result != "removed"),
        "{reports:?}"
    );
    scripts.reload(false).unwrap();
    let owners = ["a", "b"].map(|id| owner(&scripts, id));
    let all_have_one = owners.iter().all(Option::is_some) && owners[0] != owners[1];
    assert!(all_have_one, "{owners:?}");
}

#[test]
fn at_a_start_the_first_by_name_is_in_force() {
    let folder = Folder::with("other", "fn on_response(req, res) {}");
    put(&folder, "beta", "do");
    put(&folder, "alpha", "do");
    let scripts = folder.open();
    assert_eq!(owner(&scripts, "do").as_deref(), Some("alpha"));
    let status = scripts.status();
    let beta = status
        .iter()
        .find(|status| status.plugin == "beta")
        .unwrap();
    assert_eq!(beta.state, State::Failed);
    assert!(beta.error.as_ref().unwrap().contains("alpha already"));
}
