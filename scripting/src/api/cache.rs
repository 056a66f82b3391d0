//! `cache::purge`: has everybody forget what they keep of this gateway's answers. It is an event, `cache.purge`, in the
//! outbox: recorded at once, told to plugins afterwards, which tell a CDN.

use rhai::{EvalAltResult, Map, Module};
use serde_json::{Value, json};

use super::add;
use super::event::tell;
use crate::call::count_purge;
use crate::error::refusal;
use crate::event::PURGE;

type Answer<T> = Result<T, Box<EvalAltResult>>;

/// Longest path or prefix.
const MAX_PATH: usize = 2048;
/// Longest tag, as answers carry them.
const MAX_TAG: usize = 128;

pub(super) fn module() -> Module {
    let mut module = Module::new();
    add(
        &mut module,
        "purge",
        (
            "Has caches forget a `path`, all below a `prefix`, or what carries a `tag`: one of them in a map.",
            "",
        ),
        purge,
    );
    module
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the interpreter hands values over"
)]
fn purge(what: Map) -> Answer<()> {
    let data = data(&what).map_err(|e| refusal(format!("cache::purge: {e}")))?;
    let chain = count_purge()?;
    let Value::Object(data) = data else {
        return Err(refusal("cache::purge: nothing to purge"));
    };
    tell(("cache::purge", "purge"), PURGE, data, chain)
}

/// What the event tells: always the same members, so that whoever reads it asks for none.
fn data(what: &Map) -> Result<Value, String> {
    let mut members = what.iter();
    let (Some((name, value)), None) = (members.next(), members.next()) else {
        return Err("it takes a map with one of path, prefix and tag".into());
    };
    let text = value.read_lock::<rhai::ImmutableString>();
    let text = text.ok_or_else(|| format!("`{name}` must be a text"))?;
    let text = text.as_str();
    let (paths, prefixes, tags) = match name.as_str() {
        "path" => (vec![path(name, text)?], vec![], vec![]),
        "prefix" => (vec![], vec![path(name, text)?], vec![]),
        "tag" => {
            let plain = text.bytes().all(|b| b.is_ascii_graphic() && b != b',');
            if text.is_empty() || text.len() > MAX_TAG || !plain {
                return Err(format!(
                    "`tag` has 1 to {MAX_TAG} visible characters without commas, as in Cache-Tag"
                ));
            }
            (vec![], vec![], vec![text])
        }
        other => return Err(format!("unknown `{other}`; it takes path, prefix or tag")),
    };
    Ok(json!({ "paths": paths, "prefixes": prefixes, "tags": tags }))
}

fn path<'t>(name: &str, text: &'t str) -> Result<&'t str, String> {
    let plain = !text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '*');
    if !text.starts_with('/') || text.len() > MAX_PATH || !plain {
        return Err(format!(
            "`{name}` begins with a slash and has at most {MAX_PATH} bytes, no space and no *"
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use rhai::Dynamic;

    use super::*;

    fn read(name: &str, value: impl Into<Dynamic>) -> Result<Value, String> {
        data(&Map::from([(name.into(), value.into())]))
    }

    #[test]
    fn one_thing_is_purged_and_told_in_its_member() {
        let told = |paths: &[&str], prefixes: &[&str], tags: &[&str]| {
            Ok(json!({ "paths": paths, "prefixes": prefixes, "tags": tags }))
        };
        assert_eq!(
            read("path", "/acme/web?b3=0"),
            told(&["/acme/web?b3=0"], &[], &[])
        );
        assert_eq!(read("prefix", "/acme/"), told(&[], &["/acme/"], &[]));
        assert_eq!(
            read("tag", "box/acme/web"),
            told(&[], &[], &["box/acme/web"])
        );
    }

    #[test]
    fn what_no_cache_would_understand_is_refused() {
        for (name, text) in [
            ("path", "acme/web"),
            ("path", "/acme/*"),
            ("prefix", "/a b"),
            ("tag", ""),
            ("tag", "a,b"),
            ("url", "/"),
        ] {
            assert!(
                read(name, text).unwrap_err().contains(name),
                "{name} {text}"
            );
        }
        assert!(read("path", 7_i64).unwrap_err().contains("text"));
        assert!(data(&Map::new()).is_err());
        let two = Map::from([("path".into(), "/a".into()), ("tag".into(), "b".into())]);
        assert!(data(&two).is_err());
    }
}
