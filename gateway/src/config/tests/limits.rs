//! What docs/limits.md says of each limit: that there is such a key, its default, and the test that holds it.

use std::collections::BTreeSet;
use std::path::Path;

const PAGE: &str = include_str!("../../../../docs/limits.md");
const FILE: &str = include_str!("../../../../docs/boxgate.toml");
const STEPS: &str = include_str!("../../../../.ci/test");

/// The cells of each row of a table whose second cell is a key.
fn rows() -> Vec<Vec<&'static str>> {
    let cells = |line: &'static str| -> Vec<&'static str> {
        let line = line.trim().trim_matches('|');
        line.split('|').map(str::trim).collect()
    };
    let every = PAGE.split_once("\n## Every limit\n").unwrap().1;
    let every = every.split("\n## ").next().unwrap();
    let rows = every.lines().filter(|line| line.starts_with('|'));
    let rows = rows.map(cells).filter(|row| row[1].starts_with('`'));
    rows.collect()
}

fn unquoted(cell: &str) -> &str {
    cell.trim_matches('`')
}

/// The default of a key, as docs/boxgate.toml writes it without its quotes.
fn default_of(file: &toml::Table, key: &str) -> Option<String> {
    let mut levels = key.split('.');
    let first = file.get(levels.next()?)?;
    let value = levels.try_fold(first, |value, level| value.get(level))?;
    Some(match value {
        toml::Value::String(text) => text.clone(),
        other => other.to_string(),
    })
}

/// Whether there is that test: `file.rs: function`, `suite: words of a
/// check`, or `load-tests WHAT`, as in .ci/promises.
fn exists(test: &str) -> bool {
    if let Some(what) = test.strip_prefix("load-tests ") {
        return STEPS.contains(&format!(" {what} --"));
    }
    let Some((file, name)) = test.split_once(": ") else {
        return false;
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let Ok(text) = std::fs::read_to_string(root.join(file)) else {
        return false;
    };
    if Path::new(file).extension().is_none_or(|kind| kind != "rs") {
        let suite = file.rsplit('/').next().unwrap();
        return STEPS.contains(&format!("{suite}:")) && text.contains(name);
    }
    let Some((before, _)) = text.split_once(&format!("fn {name}(")) else {
        // One of those that are held for each kind of rows.
        return text
            .lines()
            .any(|line| line.trim().trim_end_matches(',') == name);
    };
    let mut attributes = before.lines().rev().take(4);
    attributes.any(|line| line.contains("#[test]") || line.contains("#[tokio::test"))
}

#[test]
fn the_page_of_limits_tells_keys_defaults_and_tests_that_there_are() {
    let file: toml::Table = FILE.parse().unwrap();
    let rows = rows();
    for row in &rows {
        let [what, key, default, _, test] = row[..] else {
            panic!("{row:?} has other cells");
        };
        let (key, test) = (unquoted(key), unquoted(test));
        let is = default_of(&file, key);
        assert_eq!(is.as_deref(), Some(default), "{key}, {what}");
        assert!(exists(test), "{key} is held by no test: {test}");
    }
    let named: BTreeSet<&str> = rows.iter().map(|row| unquoted(row[1])).collect();
    // Who is exempt is no limit.
    let limits = file["limits"].as_table().unwrap().keys();
    for key in limits.filter(|key| *key != "rate_exempt") {
        assert!(named.contains(&*format!("limits.{key}")), "limits.{key}");
    }
}

#[test]
fn the_page_of_limits_tells_the_rates_that_there_are() {
    let file: toml::Table = FILE.parse().unwrap();
    for policy in file["rates"].as_table().unwrap().keys() {
        let begin = format!("| `rates.{policy}` |");
        let row = PAGE.lines().find(|line| line.starts_with(&begin));
        let row = row.unwrap_or_else(|| panic!("no row begins with {begin}"));
        let told: Vec<String> = row.split('|').map(|c| c.trim().replace(',', "")).collect();
        for (cell, key) in [(3, "requests"), (4, "burst")] {
            let is = default_of(&file, &format!("rates.{policy}.{key}"));
            assert_eq!(is.as_ref(), told.get(cell), "rates.{policy}.{key}");
        }
    }
}

#[test]
fn the_page_of_security_names_keys_that_there_are() {
    let page = include_str!("../../../../docs/SECURITY.md");
    let file: toml::Table = FILE.parse().unwrap();
    let table = page.split_once("\n## What stops what\n").unwrap().1;
    let table = table.split("\n## ").next().unwrap();
    let keys = table.lines().filter_map(|line| line.split('|').nth(3));
    let keys = keys.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let mut count = 0;
    for key in keys {
        assert!(default_of(&file, key).is_some(), "there is no {key}");
        count += 1;
    }
    assert!(count > 30, "{count} keys");
}
