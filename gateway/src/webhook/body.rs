//! What is sent: bytes that survive `JSON.stringify(JSON.parse(body))`, for receivers that verify what they parsed.
//!
//! So there is no floating number, no whole one beyond 2^53, and no member whose name reads as an array's index, which
//! JavaScript would put in front of all others.

use boxgate_storage::clock::UnixMillis;
use serde_json::{Map, Number, Value, json};

/// Longest body, in bytes: the readers of common receivers stop at 100 kB.
pub const MOST_BYTES: usize = 90 << 10;
/// Longest text that stays in a body that is cut to identifiers.
const IDENTIFIER_BYTES: usize = 256;
/// Most members of such a body.
const IDENTIFIERS: usize = 64;
const SAFE: u64 = (1 << 53) - 1;

/// How a body is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `{"event", "data"}`, as BoxVault has it.
    #[default]
    Compat,
    /// `{"type", "timestamp", "data", "event"}`, as Standard Webhooks has it.
    Standard,
}

/// The body for an event; `data` longer than receivers read shrinks to its identifiers.
pub fn render(format: Format, event: &str, occurred: UnixMillis, data: Value) -> String {
    let data = canonical(data);
    let body = lay_out(format, event, occurred, &data);
    if body.len() <= MOST_BYTES {
        return body;
    }
    lay_out(format, event, occurred, &identifiers(data))
}

fn lay_out(format: Format, event: &str, occurred: UnixMillis, data: &Value) -> String {
    match format {
        Format::Compat => json!({"event": event, "data": data}),
        Format::Standard => {
            json!({"type": event, "timestamp": stamp(occurred), "data": data, "event": event})
        }
    }
    .to_string()
}

/// RFC 3339, to the millisecond, UTC.
pub fn stamp(at: UnixMillis) -> String {
    let at = jiff::Timestamp::from_millisecond(at.0).unwrap_or_default();
    at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

/// The same, so that JavaScript reads and writes it unchanged.
pub fn canonical(value: Value) -> Value {
    match value {
        Value::Number(number) => whole(&number),
        Value::Array(items) => items.into_iter().map(canonical).collect(),
        Value::Object(members) if members.keys().any(|name| is_index(name)) => members
            .into_iter()
            .map(|(key, value)| json!({"key": key, "value": canonical(value)}))
            .collect(),
        Value::Object(members) => {
            let members = members
                .into_iter()
                .map(|(name, value)| (name, canonical(value)));
            Value::Object(members.collect())
        }
        other => other,
    }
}

/// A number that both sides write alike, else its digits as text.
fn whole(number: &Number) -> Value {
    let fits = number.as_i64().is_some_and(|n| n.unsigned_abs() <= SAFE);
    if fits {
        Value::Number(number.clone())
    } else {
        Value::String(number.to_string())
    }
}

/// ECMA-262 §6.1.7: a canonical number below 2^32 - 1 is an index, and goes before all other names.
fn is_index(name: &str) -> bool {
    let canonical = name == "0" || !name.starts_with('0');
    canonical
        && name.bytes().all(|b| b.is_ascii_digit())
        && name.parse::<u32>().is_ok_and(|n| n < u32::MAX)
}

fn identifiers(data: Value) -> Value {
    let mut kept = Map::new();
    if let Value::Object(members) = data {
        for (name, value) in members {
            let short = match &value {
                Value::String(text) => text.len() <= IDENTIFIER_BYTES,
                Value::Object(_) => name == "actor",
                Value::Array(_) => false,
                Value::Null | Value::Bool(_) | Value::Number(_) => true,
            };
            let known = matches!(name.as_str(), "occurred_at" | "actor");
            if short && name.len() <= IDENTIFIER_BYTES && (known || kept.len() < IDENTIFIERS) {
                kept.insert(name, value);
            }
        }
    }
    kept.insert("truncated".to_owned(), Value::Bool(true));
    Value::Object(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: UnixMillis = UnixMillis(1_700_000_000_045);

    #[test]
    fn the_two_layouts_have_their_members_in_order() {
        let data = || json!({"b": 1, "a": "née \u{2028} \u{1} \"/\\"});
        assert_eq!(
            render(Format::Compat, "box.uploaded", AT, data()),
            "{\"event\":\"box.uploaded\",\"data\":{\"b\":1,\"a\":\"née \u{2028} \\u0001 \\\"/\\\\\"}}"
        );
        assert_eq!(
            render(Format::Standard, "box.uploaded", AT, json!({})),
            r#"{"type":"box.uploaded","timestamp":"2023-11-14T22:13:20.045Z","data":{},"event":"box.uploaded"}"#
        );
    }

    #[test]
    fn what_javascript_would_write_otherwise_is_written_so_that_it_does_not() {
        let data = json!({
            "f": 1.5, "whole": 1.0, "max": 9_007_199_254_740_991_u64, "over": 9_007_199_254_740_992_u64,
            "min": -9_007_199_254_740_991_i64, "under": -9_007_199_254_740_992_i64, "huge": u64::MAX,
            "by": {"10": "x", "a": {"0": 1}}, "not": {"01": 1, "-1": 2, "4294967295": 3, "1.0": 4},
        });
        let expected = json!({
            "f": "1.5", "whole": "1.0", "max": 9_007_199_254_740_991_u64, "over": "9007199254740992",
            "min": -9_007_199_254_740_991_i64, "under": "-9007199254740992", "huge": "18446744073709551615",
            "by": [{"key": "10", "value": "x"}, {"key": "a", "value": [{"key": "0", "value": 1}]}],
            "not": {"01": 1, "-1": 2, "4294967295": 3, "1.0": 4},
        });
        assert_eq!(canonical(data), expected);
    }

    #[test]
    fn what_is_too_long_shrinks_to_identifiers() {
        let mut data = json!({
            "organization": "acme", "notes": "x".repeat(MOST_BYTES), "list": ["a"], "size": 7,
            "occurred_at": "2023-11-14T22:13:20.045Z", "actor": {"type": "account", "name": "ann"},
        });
        let expected = json!({
            "organization": "acme", "size": 7, "occurred_at": "2023-11-14T22:13:20.045Z",
            "actor": {"type": "account", "name": "ann"}, "truncated": true,
        });
        let body = render(Format::Compat, "x.a.b", AT, data.clone());
        assert_eq!(
            body,
            json!({"event": "x.a.b", "data": expected}).to_string()
        );
        for n in 0..10_000 {
            data[format!("m{n}")] = json!("y".repeat(250));
        }
        assert!(render(Format::Standard, "x.a.b", AT, data).len() < MOST_BYTES);
    }
}
