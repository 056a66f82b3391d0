//! What a plugin reads of its surroundings and leaves behind: log, settings, secrets, memory, metrics.

use std::collections::BTreeMap;
use std::time::Duration;

use rhai::{Dynamic, EvalAltResult, Map, Module};

use super::add;
use super::json::{from_json, to_json};
use super::types::Secret;
use crate::call::{self, Level, LogLine, host};
use crate::error::refusal;
use crate::hook::Lane;
use crate::metric::Kind;

type Answer<T> = Result<T, Box<EvalAltResult>>;

pub(super) fn log() -> Module {
    let mut module = Module::new();
    let levels = [
        ("debug", Level::Debug, "log::debug(\"seen\") == ()"),
        ("info", Level::Info, "log::info(\"seen\") == ()"),
        ("warn", Level::Warn, "log::warn(\"odd\") == ()"),
        ("error", Level::Error, "log::error(\"bad\") == ()"),
    ];
    for (name, level, example) in levels {
        add(
            &mut module,
            name,
            ("Writes a line.", example),
            move |message: &str| {
                call::log(LogLine {
                    level,
                    message: message.to_owned(),
                    fields: None,
                });
            },
        );
        add(
            &mut module,
            name,
            ("Writes a line with fields.", ""),
            move |message: &str, fields: Map| -> Answer<()> {
                let fields = Dynamic::from_map(fields);
                call::log(LogLine {
                    level,
                    message: message.to_owned(),
                    fields: Some(
                        to_json(&fields).map_err(|e| refusal(format!("log: a field {e}")))?,
                    ),
                });
                Ok(())
            },
        );
    }
    module
}

pub(super) fn env() -> Module {
    let mut module = Module::new();
    add(
        &mut module,
        "get",
        (
            "An environment variable that the manifest names, or ().",
            "",
        ),
        |name: &str| -> Answer<Dynamic> {
            let host = host()?;
            if !host.manifest.env.names.iter().any(|n| n == name) {
                return Err(refusal(format!(
                    "env::get: plugin.toml does not name {name:?}; add: [env] names = [{name:?}]"
                )));
            }
            Ok(host.env.get(name).map_or(Dynamic::UNIT, Into::into))
        },
    );
    module
}

pub(super) fn secret() -> Module {
    let mut module = Module::new();
    add(
        &mut module,
        "get",
        ("A secret that the manifest names.", ""),
        |name: &str| -> Answer<Secret> {
            let host = host()?;
            let known = host.secrets.get(name).cloned();
            known.map(Secret::new).ok_or_else(|| {
                refusal(if host.manifest.secrets.names.iter().any(|n| n == name) {
                    format!("secret::get: {name:?} is granted and has no value")
                } else {
                    format!("secret::get: plugin.toml does not name {name:?}; add: [secrets] names = [{name:?}]")
                })
            })
        },
    );
    module
}

pub(super) fn config() -> Module {
    let mut module = Module::new();
    add(
        &mut module,
        "get",
        (
            "A setting of the plugin: the manifest's [settings], or what the operator set.",
            "",
        ),
        |name: &str| -> Answer<Dynamic> {
            let host = host()?;
            let set = call::scene().and_then(|scene| scene.setting(name));
            let value = set.or_else(|| host.settings.get(name).cloned());
            let value = value.as_ref().map(from_json);
            value.ok_or_else(|| {
                refusal(format!("config::get: plugin.toml has no [settings] {name}"))
            })
        },
    );
    module
}

fn ttl(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

fn encode(value: &Dynamic) -> Answer<String> {
    let json = to_json(value).map_err(|e| refusal(format!("kv: {e}")))?;
    Ok(json.to_string())
}

fn decode(json: Option<&str>) -> Dynamic {
    json.and_then(|json| serde_json::from_str(json).ok())
        .map_or(Dynamic::UNIT, |value| from_json(&value))
}

pub(super) fn kv(lane: Lane) -> Module {
    let mut module = Module::new();
    let failed = |e: String| refusal(format!("kv: {e}"));
    add(
        &mut module,
        "get",
        (
            "The value of a key, or (); on this node.",
            "kv::get(\"nothing\") == ()",
        ),
        |key: &str| -> Answer<Dynamic> { Ok(decode(host()?.kv.get(key).as_deref())) },
    );
    add(
        &mut module,
        "set",
        (
            "Keeps a value for so many seconds.",
            "kv::set(\"k\", [1], 60); kv::get(\"k\") == [1]",
        ),
        move |key: &str, value: Dynamic, ttl_s: i64| -> Answer<()> {
            let json = encode(&value)?;
            let set = host()?.kv.update(key, ttl(ttl_s), |_| Ok(Some(json)));
            set.map(drop).map_err(failed)
        },
    );
    if lane == Lane::Work {
        add(
            &mut module,
            "durable_set",
            (
                "Keeps a value for so many seconds, on this node's disk once it returns.",
                "kv::durable_set(\"d\", 1, 60); kv::get(\"d\") == 1",
            ),
            move |key: &str, value: Dynamic, ttl_s: i64| -> Answer<()> {
                let json = encode(&value)?;
                let kv = &host()?.kv;
                let set = kv.update(key, ttl(ttl_s), |_| Ok(Some(json)));
                set.map_err(failed)?;
                kv.write_down_one(key)
                    .map_err(|e| failed(format!("it cannot be written down: {e}")))
            },
        );
    }
    add(
        &mut module,
        "del",
        (
            "Forgets a key.",
            "kv::set(\"k\", 1, 60); kv::del(\"k\"); kv::get(\"k\") == ()",
        ),
        |key: &str| -> Answer<()> {
            host()?.kv.remove(key);
            Ok(())
        },
    );
    add(
        &mut module,
        "incr",
        (
            "Adds to a number, from 0, and returns the sum.",
            "kv::incr(\"n\", 2, 60); kv::incr(\"n\", 3, 60) == 5",
        ),
        move |key: &str, by: i64, ttl_s: i64| -> Answer<i64> {
            let add = |present: Option<&str>| {
                let present = present.map_or(Ok(0), str::parse::<i64>);
                let present =
                    present.map_err(|_odd| "what stands there is no whole number".to_owned())?;
                let sum = present.checked_add(by).ok_or("the sum is too large")?;
                Ok(Some(sum.to_string()))
            };
            let set = host()?.kv.update(key, ttl(ttl_s), add).map_err(failed)?;
            Ok(set.and_then(|json| json.parse().ok()).unwrap_or(by))
        },
    );
    add(
        &mut module,
        "cas",
        (
            "Sets a value if another is there now, () for none; tells whether it did.",
            "kv::cas(\"c\", (), 1, 60) && !kv::cas(\"c\", 2, 3, 60)",
        ),
        move |key: &str, expected: Dynamic, value: Dynamic, ttl_s: i64| -> Answer<bool> {
            let expected = if expected.is_unit() {
                None
            } else {
                Some(encode(&expected)?)
            };
            let json = encode(&value)?;
            let mut swapped = false;
            let swap = |present: Option<&str>| {
                swapped = present == expected.as_deref();
                Ok(swapped.then_some(json))
            };
            host()?.kv.update(key, ttl(ttl_s), swap).map_err(failed)?;
            Ok(swapped)
        },
    );
    module
}

fn observe(kind: Kind, name: &str, value: f64, labels: &Map) -> Answer<()> {
    let host = host()?;
    let labels: BTreeMap<_, _> = labels
        .iter()
        .map(|(label, value)| (label.to_string(), value.to_string()))
        .collect();
    host.metrics
        .add(&host.manifest.metrics, (name, kind), value, &labels)
        .map_err(refusal)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a count beyond 2^53 is no count of a script's"
)]
pub(super) fn metric() -> Module {
    let mut module = Module::new();
    let count = "Adds to a counter of the manifest.";
    add(&mut module, "count", (count, ""), |name: &str, n: i64| {
        observe(Kind::Counter, name, n as f64, &Map::new())
    });
    add(
        &mut module,
        "count",
        (count, ""),
        |name: &str, n: i64, labels: Map| observe(Kind::Counter, name, n as f64, &labels),
    );
    let seen = "Adds an observation to a summary of the manifest.";
    add(
        &mut module,
        "observe",
        (seen, ""),
        |name: &str, value: f64| observe(Kind::Summary, name, value, &Map::new()),
    );
    add(
        &mut module,
        "observe",
        (seen, ""),
        |name: &str, value: f64, labels: Map| observe(Kind::Summary, name, value, &labels),
    );
    add(
        &mut module,
        "observe",
        (seen, ""),
        |name: &str, value: i64| observe(Kind::Summary, name, value as f64, &Map::new()),
    );
    module
}
