//! `event::`: what a plugin tells others, by the gateway's outbox.

use rhai::{Dynamic, EvalAltResult, Map, Module};
use serde_json::Value;

use super::add;
use super::json::to_json;
use crate::call::{count_event, host, may_wait, scene};
use crate::error::{refusal, too_large};
use crate::event::{Emitted, MAX_DEPTH, MAX_EVENT_BYTES};

type Answer<T> = Result<T, Box<EvalAltResult>>;

pub(super) fn module() -> Module {
    let mut module = Module::new();
    add(
        &mut module,
        "emit",
        (
            "Tells that something happened: `x.<plugin>.<name>`, of [events] names, and a map.",
            "",
        ),
        emit,
    );
    module
}

fn emit(name: &str, data: Map) -> Answer<()> {
    let host = host()?;
    if !host.manifest.events.names.iter().any(|known| known == name) {
        return Err(refusal(format!(
            "event::emit: plugin.toml does not name {name:?}; add: [events] names = [{name:?}]"
        )));
    }
    let data = to_json(&Dynamic::from_map(data)).map_err(|e| refusal(format!("event: {e}")))?;
    if has_float(&data) {
        return Err(refusal("event::emit: an event's data has no floats"));
    }
    if data.to_string().len() > MAX_EVENT_BYTES {
        return Err(too_large("Data of an event"));
    }
    let chain = count_event()?;
    let Value::Object(data) = data else {
        return Err(refusal("event::emit: the data is a map"));
    };
    tell(("event::emit", "emit"), name, data, chain)
}

/// Hands an event of the calling plugin's to the outbox, or to a test's scene: `call` by its full name and its verb, and
/// the events that led to this one.
pub(super) fn tell(
    (call, verb): (&str, &str),
    name: &str,
    data: serde_json::Map<String, Value>,
    (depth, causes): (u32, Vec<String>),
) -> Answer<()> {
    if depth > MAX_DEPTH {
        return Err(refusal(format!(
            "{call}: {depth} events led to this one, and {MAX_DEPTH} may: {}",
            causes.join(" -> ")
        )));
    }
    let host = host()?;
    let event = Emitted {
        plugin: host.manifest.name.clone(),
        name: name.to_owned(),
        data,
        depth,
        causes,
    };
    if let Some(scene) = scene() {
        scene.emit(&event);
        return Ok(());
    }
    if !may_wait() {
        return Err(refusal(format!(
            "{call}: only hooks of the work lane may {verb}"
        )));
    }
    let outbox = host.outbox.as_ref();
    let outbox = outbox.ok_or_else(|| refusal(format!("{call}: there is no outbox here")))?;
    outbox
        .emit(event)
        .map_err(|e| refusal(format!("{call}: {e}")))
}

fn has_float(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(values) => values.iter().any(has_float),
        Value::Object(members) => members.values().any(has_float),
        _ => false,
    }
}
