//! `box::`: what a plugin does to boxes, by the gateway's catalog. It acts as `script:<plugin>`.

use std::sync::Arc;

use rhai::{Dynamic, EvalAltResult, Map, Module};
use serde_json::{Value, json};

use super::add;
use super::json::{from_json, to_json};
use super::list::List;
use crate::call::{count_deed, host, may_wait, scene};
use crate::catalog::{Deed, Verb, allows};
use crate::error::refusal;
use crate::event::MAX_DEPTH;
use crate::facts::Blob;

type Answer<T> = Result<T, Box<EvalAltResult>>;

pub(super) fn module() -> Module {
    let mut module = Module::new();
    let m = &mut module;
    let doc = "The boxes of an organization that the grant names, as a list: box, is_public, created_at, updated_at.";
    add(m, "list", (doc, ""), list);
    let doc = "A box, or (): organization, box, is_public, description, created_at, updated_at, versions.";
    add(m, "lookup", (doc, ""), |organization: &str, name: &str| {
        look_up(organization, name)
    });
    let doc = "A version of a box, or (): organization, box, version, status, created_at, and its files as blobs.";
    add(m, "lookup", (doc, ""), lookup);
    let doc =
        "A box's versions as a list, the newest first: version, status, created_at, size, files.";
    add(
        m,
        "versions",
        (doc, ""),
        |organization: &str, name: &str| {
            granted(Verb::Versions, &[organization, name], Value::Null).map(listed)
        },
    );
    let doc = "Lists a version to Vagrant; false when it was so already.";
    add(
        m,
        "release",
        (doc, ""),
        |organization: &str, name: &str, version: &str| {
            perform(Verb::Release, &[organization, name, version], Value::Null)
        },
    );
    let doc = "Lists a version to Vagrant no more; false when it was so already.";
    add(
        m,
        "revoke",
        (doc, ""),
        |organization: &str, name: &str, version: &str| {
            perform(Verb::Revoke, &[organization, name, version], Value::Null)
        },
    );
    let doc = "Deletes a version with its files; false when it is gone already.";
    add(
        m,
        "delete",
        (doc, ""),
        |organization: &str, name: &str, version: &str| {
            perform(Verb::Delete, &[organization, name, version], Value::Null)
        },
    );
    let doc = "Lets anyone read a box, or members only; false when it was so already.";
    add(
        m,
        "set_public",
        (doc, ""),
        |organization: &str, name: &str, public: bool| {
            perform(Verb::SetPublic, &[organization, name], json!(public))
        },
    );
    let doc = "Writes labels on the bytes of a blob that has a name.";
    add(m, "label", (doc, ""), label);
    module
}

fn list(organization: &str) -> Answer<Dynamic> {
    let patterns = host()?.manifest.catalog.allow.clone();
    let all = perform_any(Verb::List, &[organization, ""], Value::Null)?;
    let Value::Array(boxes) = all else {
        return Ok(from_json(&all));
    };
    let granted = boxes.into_iter().filter(|one| {
        let name = one.get("box").and_then(Value::as_str).unwrap_or_default();
        allows(&patterns, Verb::List, organization, name)
    });
    Ok(Dynamic::from(List::of(granted.collect())))
}

/// An array as a list: there may be more rows than an array of the interpreter's holds, each with members of its own.
fn listed(value: Value) -> Dynamic {
    match value {
        Value::Array(rows) => Dynamic::from(List::of(rows)),
        other => from_json(&other),
    }
}

/// A box, with its versions as a list.
fn look_up(organization: &str, name: &str) -> Answer<Dynamic> {
    let mut found = granted(Verb::Lookup, &[organization, name], Value::Null)?;
    let versions = found
        .as_object_mut()
        .and_then(|found| found.remove("versions"));
    let told = from_json(&found);
    let Some(versions) = versions else {
        return Ok(told);
    };
    let mut told = told.cast::<Map>();
    told.insert("versions".into(), listed(versions));
    Ok(told.into())
}

/// A version with its files, as what other verbs and hooks know: blobs.
fn lookup(organization: &str, name: &str, version: &str) -> Answer<Dynamic> {
    let path = [organization, name, version];
    let mut found = granted(Verb::Lookup, &path, Value::Null)?;
    let files = found
        .as_object_mut()
        .and_then(|found| found.remove("files"));
    let told = from_json(&found);
    let Some(files) = files else { return Ok(told) };
    let files: Vec<Blob> =
        serde_json::from_value(files).map_err(|e| refusal(format!("box::lookup: files: {e}")))?;
    let files: rhai::Array = files
        .into_iter()
        .map(|file| Dynamic::from(Arc::new(file)))
        .collect();
    let mut told = told.cast::<Map>();
    told.insert("files".into(), files.into());
    Ok(told.into())
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the interpreter hands values over"
)]
fn label(blob: Arc<Blob>, labels: Map) -> Answer<Dynamic> {
    let labels =
        to_json(&Dynamic::from_map(labels)).map_err(|e| refusal(format!("labels: {e}")))?;
    let texts = labels
        .as_object()
        .is_some_and(|all| all.values().all(Value::is_string));
    if !texts {
        return Err(refusal("box::label: labels are texts"));
    }
    if blob.name.is_empty() {
        return Err(refusal("box::label: the blob has no name"));
    }
    let path = [
        &blob.organization,
        &blob.name,
        &blob.version,
        &blob.provider,
        &blob.architecture,
    ];
    perform(
        Verb::Label,
        &path.map(rhai::ImmutableString::as_str),
        labels,
    )
}

fn perform(verb: Verb, path: &[&str], value: Value) -> Answer<Dynamic> {
    granted(verb, path, value).map(|done| from_json(&done))
}

fn granted(verb: Verb, path: &[&str], value: Value) -> Answer<Value> {
    let patterns = &host()?.manifest.catalog.allow;
    let (organization, name) = (path[0], path[1]);
    if !allows(patterns, verb, organization, name) {
        let verb = verb.name();
        return Err(refusal(format!(
            "box::{verb}: plugin.toml does not ask for it; add: [catalog] allow = [\"{verb}:{organization}/{name}\"]"
        )));
    }
    perform_any(verb, path, value)
}

fn perform_any(verb: Verb, path: &[&str], value: Value) -> Answer<Value> {
    let word = verb.name();
    let host = host()?;
    let (depth, causes) = count_deed()?;
    if depth > MAX_DEPTH && !verb.reads() {
        return Err(refusal(format!(
            "box::{word}: {depth} events led to this, and {MAX_DEPTH} may: {}",
            causes.join(" -> ")
        )));
    }
    let deed = Deed {
        plugin: host.manifest.name.clone(),
        verb,
        organization: path[0].to_owned(),
        name: path[1].to_owned(),
        below: path[2..].iter().map(|part| (*part).to_owned()).collect(),
        value,
        depth,
        causes,
    };
    if let Some(scene) = scene() {
        return scene.perform(&deed).map_err(refusal);
    }
    if !may_wait() {
        return Err(refusal(format!(
            "box::{word}: only hooks of the work lane may do that"
        )));
    }
    let catalog = host.catalog.as_ref();
    let catalog =
        catalog.ok_or_else(|| refusal(format!("box::{word}: there is no catalog here")))?;
    catalog
        .perform(&deed)
        .map_err(|e| refusal(format!("box::{word}: {e}")))
}
