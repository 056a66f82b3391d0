//! `t::snapshot`: what is taken once is compared from then on.

use boxgate_scripting::bundle::{Bundle, SNAPSHOTS};
use boxgate_scripting::plugin::Surroundings;
use boxgate_scripting::unit;

use crate::support::Folder;

const TESTS: &str = r#"
fn test_one() { t::snapshot(t::hook("route", t::req(#{ path: "/a" }))); t::snapshot([1, "b"]); }
fn test_other() { t::snapshot(#{ a: 1 }); }
"#;

fn failures(bundle: &Bundle) -> Vec<String> {
    let tests = unit::run(bundle, &Surroundings::default(), None).unwrap();
    let failures = tests.into_iter().filter_map(|test| test.failure);
    failures.map(|finding| finding.message).collect()
}

#[test]
fn what_was_taken_is_compared_and_taken_again_when_told() {
    let folder = Folder::new();
    folder.write("acme/main.rhai", "fn route(req) { #{ cache: 5 } }");
    folder.write("acme/tests/main.rhai", TESTS);
    let place = folder.plugins().join("acme");
    let read = || Bundle::read(&place).unwrap();
    let told = failures(&read());
    assert_eq!(told.len(), 2);
    assert!(
        told[0].contains("{\"cache\":5}, and has no snapshot yet"),
        "{told:?}"
    );
    let update = |filter| {
        unit::update(&read(), &Surroundings::default(), filter)
            .unwrap()
            .1
    };
    let kept = update(None).unwrap();
    folder.write("acme/tests/snapshots.json", &kept);
    assert_eq!(failures(&read()), [""; 0]);
    assert_eq!(update(None).unwrap(), kept);
    // It belongs to the plugin, and stands in for its tests at a reload.
    assert_eq!(folder.open().status()[0].error, None);
    assert_eq!(read().received().unwrap().files[SNAPSHOTS], kept);

    folder.write("acme/main.rhai", "fn route(req) { #{ cache: 6 } }");
    let told = failures(&read());
    assert_eq!(told.len(), 1);
    assert!(
        told[0].contains("{\"cache\":6}, and its snapshot {\"cache\":5}")
            && told[0].contains("boxgate script test --update"),
        "{told:?}"
    );
    // One test's are taken alone; what a test has no more is forgotten, and others' stay.
    assert_eq!(update(Some("other")).unwrap(), kept);
    folder.write(
        "acme/tests/main.rhai",
        &TESTS.replace("t::snapshot([1, \"b\"]);", ""),
    );
    let kept = update(Some("one")).unwrap();
    assert!(
        kept.contains('6') && kept.contains("test_other 1"),
        "{kept}"
    );
    assert!(!kept.contains("test_one 2"), "{kept}");
    folder.write("acme/tests/snapshots.json", "no JSON");
    assert!(unit::run(&read(), &Surroundings::default(), None).is_err());
}
