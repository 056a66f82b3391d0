//! What people do with plugins on the command line: check, run a hook once, begin a new one.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rhai::Dynamic;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::json::{from_json, to_json};
use crate::archive::Archive;
use crate::bundle::Bundle;
use crate::call::LogLine;
use crate::error::Finding;
use crate::facts::{
    Blob, Context, Endpoint, Event, Image, Principal, Push, Request, Response, Tick, Upload,
};
use crate::hook::{HOOKS, Hook};
use crate::limits::STACK_BYTES;
use crate::plugin::{Lasting, Plugin, Surroundings, load};
use crate::runner;
use crate::unit::{check_answer, shown};

/// Loads a plugin without serving it.
///
/// # Errors
/// Everything that is wrong with it.
pub fn check(
    path: &Path,
    around: impl FnOnce(&str) -> Surroundings,
) -> Result<Plugin, Vec<Finding>> {
    let bundle = Bundle::read(path).map_err(|finding| vec![finding])?;
    let around = around(&bundle.name);
    load(bundle, around, Lasting::default())
}

/// What is in force of a plugin that stands at `path`, where that is another version: one that was gone back to, or the
/// last that worked.
pub fn in_force(archive: &Archive, path: &Path, works: bool) -> Option<Bundle> {
    let name = path.file_stem()?.to_str()?;
    let history = archive.history(name);
    let on_disk = Bundle::read(path).ok().map(|bundle| bundle.hash());
    if works && (on_disk.is_none() || history.held_back != on_disk) {
        return None;
    }
    archive.get(name, history.in_force()?)
}

/// Loads one that was kept.
///
/// # Errors
/// Everything that is wrong with it.
pub fn check_kept(bundle: Bundle, around: Surroundings) -> Result<Plugin, Vec<Finding>> {
    load(bundle, around, Lasting::default())
}

/// What a hook did when it was run by hand.
#[derive(Debug, Clone)]
pub struct Ran {
    /// Its answer, checked as the gateway checks it.
    pub answer: Result<Value, Finding>,
    /// Operations.
    pub operations: u64,
    /// Elapsed time.
    pub elapsed: Duration,
    /// The most memory that it held.
    pub peak_bytes: usize,
    /// What it logged.
    pub log: Vec<LogLine>,
}

fn fact<T: DeserializeOwned + Default + Send + Sync + 'static>(
    value: &Value,
) -> Result<Dynamic, String>
where
    Arc<T>: Clone,
{
    serde_json::from_value::<T>(value.clone())
        .map(|fact| Dynamic::from(Arc::new(fact)))
        .map_err(|e| e.to_string())
}

/// The facts of a hook, read of an object with a member for each parameter.
///
/// # Errors
/// The parameter that cannot be read, and why.
pub fn facts(hook: Hook, arguments: &Value) -> Result<Vec<Dynamic>, String> {
    let none = Value::Object(serde_json::Map::new());
    let parameters = hook.row().parameters;
    if let Some(unknown) = arguments.as_object().and_then(|object| {
        object
            .keys()
            .find(|key| !parameters.contains(&key.as_str()))
    }) {
        return Err(format!(
            "{unknown:?} is no parameter of {}",
            hook.row().signature()
        ));
    }
    parameters
        .iter()
        .map(|parameter| {
            let value = arguments.get(*parameter).unwrap_or(&none);
            let fact = match *parameter {
                "req" => fact::<Request>(value),
                "principal" => fact::<Principal>(value),
                "upload" => fact::<Upload>(value),
                "blob" => fact::<Blob>(value),
                "res" => fact::<Response>(value),
                "event" => fact::<Event>(value),
                "endpoint" => fact::<Endpoint>(value),
                "tick" => fact::<Tick>(value),
                "image" => fact::<Image>(value),
                "push" => fact::<Push>(value),
                "ctx" => fact::<Context>(value),
                _ if hook.row().of_provider => Ok(from_json(value)),
                _ => Err("this hook cannot be run by hand yet".into()),
            };
            fact.map_err(|e| format!("{parameter}: {e}"))
        })
        .collect()
}

/// Runs a hook of a plugin by hand, within its limits.
///
/// # Errors
/// When the plugin does not define the hook, or the facts cannot be read.
pub fn run(plugin: &Arc<Plugin>, hook: &str, arguments: &Value) -> Result<Ran, String> {
    let Some(hook) = Hook::by_name(hook) else {
        let near = crate::hook::nearest(hook, HOOKS.iter().map(|row| row.name));
        let near = near
            .map(|n| format!("; did you mean {n}?"))
            .unwrap_or_default();
        return Err(format!("there is no hook {hook}{near}"));
    };
    if !plugin.hooks().contains(&hook) {
        return Err(format!("the plugin defines no {}", hook.row().signature()));
    }
    let facts = facts(hook, arguments)?;
    let own = Arc::clone(plugin);
    let terms = (
        plugin.manifest().lane(hook),
        plugin.manifest().deadline(hook),
    );
    let thread = std::thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(move || {
            let called = runner::call(&own, hook.name(), facts, terms, None);
            let answer = called
                .answer
                .map_err(|failure| failure.finding)
                .and_then(|value| {
                    check_answer(hook, &value)
                        .map_err(|wrong| Finding::of_file(&own.host.main, wrong))?;
                    let value = shown(value);
                    to_json(&value).map_err(|wrong| Finding::of_file(&own.host.main, wrong))
                });
            Ran {
                answer,
                operations: called.usage.operations,
                elapsed: called.usage.elapsed,
                peak_bytes: called.usage.peak_bytes,
                log: called.log,
            }
        })
        .map_err(|e| e.to_string())?;
    thread
        .join()
        .map_err(|_panic| "the thread ended".to_owned())
}

/// What a new plugin begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Skeleton {
    /// Routing by host and path.
    Route,
    /// An upload policy.
    Upload,
    /// A webhook that comes in.
    Webhook,
    /// An adapter to a cloud.
    Provider,
}

/// The files of a new plugin: path and text.
pub fn skeleton(name: &str, kind: Skeleton) -> Vec<(&'static str, String)> {
    let mut manifest = format!("name = \"{name}\"\nversion = \"0.1.0\"\napi = 1\n");
    if kind == Skeleton::Provider {
        manifest = include_str!("tool/provider.toml").replace("NAME", name);
    }
    if kind == Skeleton::Webhook {
        let secret = name.to_uppercase().replace('-', "_");
        // A String takes every write.
        let _ = write!(
            manifest,
            "\n# POST /hooks/{name}/ci\n[webhook_in.ci]\nverify = \"github\"\nsecret = \"{secret}_CI\"\n\n\
             [events]\nnames = [\"x.{name}.release\"]\n"
        );
    }
    let (main, test) = match kind {
        Skeleton::Route => (
            "// Hooks: route. Facts: host, path. Verdicts: header fields of the answer.\n\n\
             const RULES = table([\n    [\"*\", \"/public/**\", \"public\"],\n]);\n\n\
             fn route(req) {\n    let hit = RULES.find(req);\n    if hit == () { return; }\n    \
             #{ set: #{ \"x-area\": hit } }\n}\n",
            "fn test_public_paths_are_marked() {\n    \
             let answer = t::hook(\"route\", t::req(#{ method: \"GET\", path: \"/public/box\" }));\n    \
             t::eq(answer.set[\"x-area\"], \"public\");\n}\n\n\
             fn test_other_paths_are_left_alone() {\n    \
             t::eq(t::hook(\"route\", t::req(#{ method: \"GET\", path: \"/acme/box\" })), ());\n}\n",
        ),
        Skeleton::Upload => (
            "// Hooks: on_upload_start. Facts: size. Verdicts: reject.\n\n\
             const MOST = 20 * 1024 * 1024 * 1024;\n\n\
             fn on_upload_start(upload) {\n    if upload.size != () && upload.size > MOST {\n        \
             return reject(413, \"over 20 GiB\");\n    }\n}\n",
            "fn test_large_uploads_are_refused() {\n    \
             let answer = t::hook(\"on_upload_start\", t::upload(#{ size: 30 * 1024 * 1024 * 1024 }));\n    \
             t::eq(answer.status, 413);\n}\n\n\
             fn test_others_may_come() {\n    \
             t::eq(t::hook(\"on_upload_start\", t::upload(#{ size: 1 })), ());\n}\n",
        ),
        Skeleton::Webhook => (
            "// Hooks: webhook_in. Facts: header, json. Verdicts: a map, which the sender reads as JSON.\n\n\
             fn webhook_in(req) {\n    if req.header(\"x-github-event\") != \"release\" { return #{ ignored: true }; }\n    \
             let told = req.json();\n    if told.action != \"published\" { return #{ ignored: true }; }\n    \
             let tag = told.release.tag_name;\n    \
             event::emit(\"x.NAME.release\", #{ repository: told.repository.full_name, tag: tag });\n    \
             #{ told: tag }\n}\n",
            "fn release(action) {\n    t::req(#{\n        hook: \"ci\", verified: true, headers: #{ \"x-github-event\": \"release\" },\n        \
             body: #{ action: action, release: #{ tag_name: \"v1.0.0\" }, repository: #{ full_name: \"acme/web\" } }\n    })\n}\n\n\
             fn test_a_release_is_told() {\n    \
             t::eq(t::hook(\"webhook_in\", release(\"published\")), #{ told: \"v1.0.0\" });\n    \
             t::eq(t::emitted()[0].data, #{ repository: \"acme/web\", tag: \"v1.0.0\" });\n}\n\n\
             fn test_anything_else_is_let_go() {\n    \
             t::eq(t::hook(\"webhook_in\", release(\"deleted\")), #{ ignored: true });\n    \
             t::eq(t::emitted(), []);\n}\n",
        ),
        Skeleton::Provider => (
            include_str!("tool/provider.rhai"),
            include_str!("tool/provider_tests.rhai"),
        ),
    };
    vec![
        ("plugin.toml", manifest),
        ("main.rhai", main.replace("NAME", name)),
        ("tests/main.rhai", test.to_owned()),
    ]
}
