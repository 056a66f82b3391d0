//! The reference, made from the engines themselves, so that it cannot say other than what is there.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rhai::Engine;
use serde_json::{Value, json};

use crate::api::REMOVED;
use crate::engine::engine;
use crate::hook::{HOOKS, Lane};
use crate::limits::Limits;

/// One function.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Function {
    /// Its namespace; empty for none.
    pub space: String,
    /// Its name; a property begins with a dot.
    pub name: String,
    /// As it is written.
    pub signature: String,
    /// Its text.
    pub doc: String,
    /// Its example, which is true.
    pub example: String,
    /// Whether it is in the fast lane as well.
    pub fast: bool,
}

/// Functions that only unit tests have.
const TESTS: &str = "t";

/// The engine of a lane; that of the work lane has what unit tests have.
fn described(lane: Lane) -> Engine {
    let mut engine = engine(lane, &Limits::of(lane));
    if lane == Lane::Work {
        engine.register_static_module(TESTS, crate::unit::module());
    }
    engine
}

/// All functions of ours, by namespace and name.
pub fn functions() -> Vec<Function> {
    let list = |lane: Lane| {
        described(lane).collect_fn_metadata(
            None,
            |info| {
                let meta = info.metadata;
                let comments: Vec<&str> = meta
                    .comments
                    .iter()
                    .flat_map(|c| c.lines())
                    .map(|line| line.trim_start_matches("///").trim())
                    .collect();
                let text = comments.join("\n");
                let mut parts = text.split("```");
                let doc = parts.next().unwrap_or_default().trim().to_owned();
                let example = parts.next().unwrap_or_default().trim().to_owned();
                let raw = meta.name.as_str();
                let name = raw
                    .strip_prefix("get$")
                    .map_or(raw.to_owned(), |n| format!(".{n}"));
                let types: Vec<&str> = meta
                    .params_info
                    .iter()
                    .map(|p| p.trim_start_matches("_: "))
                    .collect();
                let result = meta.return_type.as_str();
                let space = info.namespace.to_string();
                let full = if space.is_empty() {
                    name.clone()
                } else {
                    format!("{space}::{name}")
                };
                let signature = match name.strip_prefix('.') {
                    Some(field) => {
                        format!(
                            "{}.{field}: {result}",
                            types.first().copied().unwrap_or_default()
                        )
                    }
                    None => format!("{full}({}) -> {result}", types.join(", ")),
                };
                (!doc.is_empty()).then_some((space, name, signature, doc, example))
            },
            false,
        )
    };
    let fast = list(Lane::Fast);
    let mut found: BTreeMap<(String, String, String), Function> = BTreeMap::new();
    for row in list(Lane::Work) {
        let both = fast.contains(&row);
        let (space, name, signature, doc, example) = row;
        let key = (space.clone(), name.clone(), signature.clone());
        found.entry(key).or_insert(Function {
            space,
            name,
            signature,
            doc,
            example,
            fast: both,
        });
    }
    found.into_values().collect()
}

/// The reference as Markdown.
pub fn markdown() -> String {
    let mut out = String::from(
        "# Script reference\n\nMade by `boxgate script docs` from the engine itself.\n\n## Hooks\n\n\
         | hook | lane, deadline | may return | on failure |\n| --- | --- | --- | --- |\n",
    );
    for row in HOOKS {
        let later = if row.called {
            ""
        } else {
            " *(not called yet)*"
        };
        let (lane, ms) = (row.lane.name(), row.deadline.as_millis());
        let (signature, answers, failure) = (row.signature(), row.answers, row.on_failure.name());
        // A String takes every write.
        let _ = writeln!(
            out,
            "| `{signature}`{later} | {lane} {ms} ms | {answers} | {failure} |"
        );
    }
    let mut space = None;
    for function in functions() {
        if space.as_ref() != Some(&function.space) {
            let title = match function.space.as_str() {
                "" => "Without a namespace".to_owned(),
                TESTS => format!("`{TESTS}::`, in unit tests only"),
                name => format!("`{name}::`"),
            };
            let _ = writeln!(out, "\n## {title}\n");
            space = Some(function.space.clone());
        }
        let lane = if function.fast || function.space == TESTS {
            ""
        } else {
            " *work lane only*"
        };
        let _ = writeln!(out, "- `{}`{lane}: {}", function.signature, function.doc);
        if !function.example.is_empty() {
            let _ = writeln!(out, "  `{}`", function.example.replace('\n', " "));
        }
    }
    out.push_str("\n## Not there\n\n");
    for (name, instead) in REMOVED {
        let _ = writeln!(out, "- `{name}`: {instead}");
    }
    out
}

/// The same as JSON.
pub fn metadata() -> Value {
    let hooks: Vec<Value> = HOOKS
        .iter()
        .map(|row| {
            json!({
                "name": row.name, "parameters": row.parameters, "lane": row.lane.name(),
                "deadline_ms": row.deadline.as_millis(), "on_failure": row.on_failure.name(),
                "answers": row.answers, "doc": row.doc, "called": row.called,
            })
        })
        .collect();
    let functions: Vec<Value> = functions()
        .iter()
        .map(|f| {
            json!({
                "space": f.space, "name": f.name, "signature": f.signature, "doc": f.doc,
                "example": f.example, "lanes": lanes(f),
            })
        })
        .collect();
    json!({"api": crate::manifest::API, "hooks": hooks, "functions": functions})
}

/// Where a function may be called; unit tests are no lane of a plugin.
fn lanes(function: &Function) -> &'static [&'static str] {
    match (function.fast, function.space.as_str()) {
        (true, _) => &["fast", "work"],
        (false, TESTS) => &["test"],
        (false, _) => &["work"],
    }
}

/// Definitions for editors, by file name.
pub fn definitions(lane: Lane) -> BTreeMap<String, String> {
    described(lane).definitions().iter_files().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::bundle::Bundle;
    use crate::call::Entered;
    use crate::plugin::{Lasting, Surroundings, load};

    #[test]
    fn every_example_is_true_in_its_lane() {
        let plugin = load(
            Bundle::of_source("docs", "fn route(req) {}"),
            Surroundings::default(),
            Lasting::default(),
        )
        .unwrap();
        let mut run = 0;
        for function in functions() {
            if function.example.is_empty() {
                continue;
            }
            let lane = if function.fast {
                Lane::Fast
            } else {
                Lane::Work
            };
            let _entered = Entered::new(&Arc::clone(&plugin.host), None, false);
            let engine = engine(lane, &Limits::of(lane));
            let answer = engine.eval::<bool>(&function.example);
            assert_eq!(
                answer.map_err(|e| e.to_string()),
                Ok(true),
                "{}: {}",
                function.signature,
                function.example
            );
            run += 1;
        }
        assert!(run > 30, "{run} examples");
    }

    #[test]
    fn reference_holds_every_hook_and_tells_the_lanes_apart() {
        let text = markdown();
        for row in HOOKS {
            assert!(
                text.contains(&format!("`{}`", row.signature())),
                "{}",
                row.name
            );
        }
        let get = functions()
            .into_iter()
            .find(|f| f.space == "http" && f.name == "get");
        assert!(get.is_some_and(|f| !f.fast));
        assert!(text.contains("`Request.method: text`"), "{text}");
        assert!(
            text.contains("- `t::hook(text, any) -> any`: Calls a hook"),
            "{text}"
        );
        assert!(
            definitions(Lane::Fast)
                .keys()
                .any(|name| name.starts_with("json"))
        );
        assert!(
            !definitions(Lane::Fast)
                .keys()
                .any(|name| name.starts_with("http"))
        );
    }
}
