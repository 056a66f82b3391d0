//! JSON, and how script values and JSON values become each other.

use rhai::{Array, Dynamic, EvalAltResult, Map, Module};
use serde_json::Value;

use super::add;
use super::list::List;
use crate::call::charge;
use crate::error::refusal;

/// Deepest value that becomes JSON.
const MAX_DEPTH: usize = 64;

/// A script's value as JSON; members come sorted by name.
pub(crate) fn to_json(value: &Dynamic) -> Result<Value, String> {
    convert(value, MAX_DEPTH)
}

fn convert(value: &Dynamic, depth: usize) -> Result<Value, String> {
    if depth == 0 {
        return Err(format!("nests deeper than {MAX_DEPTH}"));
    }
    if value.is_unit() {
        return Ok(Value::Null);
    }
    if let Ok(b) = value.as_bool() {
        return Ok(Value::Bool(b));
    }
    if let Ok(n) = value.as_int() {
        return Ok(n.into());
    }
    if let Ok(n) = value.as_float() {
        let number = serde_json::Number::from_f64(n);
        return number
            .map(Value::Number)
            .ok_or_else(|| "a number that is not finite has no JSON".into());
    }
    if let Ok(c) = value.as_char() {
        return Ok(Value::String(c.to_string()));
    }
    if let Some(text) = value.read_lock::<rhai::ImmutableString>() {
        return Ok(Value::String(text.to_string()));
    }
    if let Some(array) = value.read_lock::<Array>() {
        let items: Result<_, _> = array.iter().map(|item| convert(item, depth - 1)).collect();
        return items.map(Value::Array);
    }
    if let Some(map) = value.read_lock::<Map>() {
        let members: Result<serde_json::Map<_, _>, String> = map
            .iter()
            .map(|(name, item)| Ok((name.to_string(), convert(item, depth - 1)?)))
            .collect();
        return members.map(Value::Object);
    }
    if let Some(list) = value.read_lock::<List>() {
        return Ok(list.to_json());
    }
    Err(format!("a {} has no JSON", crate::error::kind_of(value)))
}

/// A JSON value for a script.
pub(crate) fn from_json(value: &Value) -> Dynamic {
    match value {
        Value::Null => Dynamic::UNIT,
        Value::Bool(b) => (*b).into(),
        Value::Number(n) => match n.as_i64() {
            Some(int) => int.into(),
            None => n.as_f64().unwrap_or(f64::NAN).into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => Dynamic::from_array(items.iter().map(from_json).collect()),
        Value::Object(members) => Dynamic::from_map(
            members
                .iter()
                .map(|(name, item)| (name.as_str().into(), from_json(item)))
                .collect(),
        ),
    }
}

/// Reads a JSON text.
pub(crate) fn parse(text: &str) -> Result<Dynamic, Box<EvalAltResult>> {
    charge(text.len())?;
    let value: Value =
        serde_json::from_str(text).map_err(|e| refusal(format!("json::parse: {e}")))?;
    Ok(from_json(&value))
}

pub(super) fn module() -> Module {
    let mut module = Module::new();
    add(
        &mut module,
        "parse",
        (
            "Reads a JSON text.",
            "json::parse(`{\"a\":[1,null]}`).a[0] == 1",
        ),
        parse,
    );
    add(
        &mut module,
        "text",
        (
            "The JSON text of a value, members sorted by name.",
            "json::text(#{ b: 1, a: [true, ()] }) == `{\"a\":[true,null],\"b\":1}`",
        ),
        |value: Dynamic| -> Result<String, Box<EvalAltResult>> {
            let json = to_json(&value).map_err(|e| refusal(format!("json::text: {e}")))?;
            Ok(json.to_string())
        },
    );
    module
}
