//! Every event that endpoints may be told of: its name, the members of its `data`, and an example.
//!
//! Names and spelling are fixed for good, members may be added. Events of plugins (`x.<plugin>.<name>`) are theirs.

use boxgate_scripting::hook::nearest;
use serde_json::{Map, Value, json};

/// What a member of `data` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// Text.
    Text,
    /// Text or null.
    MaybeText,
    /// A whole number.
    Number,
    /// True or false.
    Truth,
    /// A list of texts.
    Texts,
    /// A point in time, RFC 3339 to the millisecond, UTC.
    Time,
    /// Who did it: a type and a name; null where nobody did.
    Actor,
    /// Anything.
    Any,
}

impl Holds {
    fn schema(self) -> Value {
        match self {
            Self::Text => json!({"type": "string"}),
            Self::MaybeText => json!({"type": ["string", "null"]}),
            Self::Number => json!({"type": "integer", "minimum": 0}),
            Self::Truth => json!({"type": "boolean"}),
            Self::Texts => json!({"type": "array", "items": {"type": "string"}}),
            Self::Time => json!({"type": "string", "format": "date-time"}),
            Self::Actor => json!({
                "type": ["object", "null"], "required": ["type", "name"],
                "properties": {"type": {"enum": ["account", "script"]}, "name": {"type": "string"}},
            }),
            Self::Any => json!({}),
        }
    }
}

/// One event.
#[derive(Debug)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// What it tells, in one line.
    pub doc: &'static str,
    /// Members that are always there.
    pub always: &'static [(&'static str, Holds)],
    /// Members that may be left out.
    pub perhaps: &'static [(&'static str, Holds)],
}

use Holds::{Any, MaybeText, Number, Text, Texts, Time};

const COMMON: &[(&str, Holds)] = &[("occurred_at", Time), ("actor", Holds::Actor)];
const BOX: &[(&str, Holds)] = &[
    ("organization", Text),
    ("box", Text),
    ("old_digest", MaybeText),
    ("new_digest", MaybeText),
    ("tags", Texts),
];
const PLACE: &[(&str, Holds)] = &[
    ("version", Text),
    ("provider", Text),
    ("architecture", Text),
];
const VERSION: &[(&str, Holds)] = &[
    ("organization", Text),
    ("box", Text),
    ("version", Text),
    ("old_digest", MaybeText),
    ("new_digest", MaybeText),
    ("tags", Texts),
];
const FILE: &[(&str, Holds)] = &[
    ("organization", Text),
    ("box", Text),
    ("version", Text),
    ("provider", Text),
    ("architecture", Text),
    ("size", Number),
    ("checksum", Text),
    ("checksumType", Text),
    ("url", Text),
    ("old_digest", MaybeText),
    ("new_digest", MaybeText),
    ("tags", Texts),
];
const QUARANTINED: &[(&str, Holds)] = &[
    ("organization", Text),
    ("box", Text),
    ("version", Text),
    ("provider", Text),
    ("architecture", Text),
    ("reason", Text),
    ("plugin", MaybeText),
    ("old_digest", MaybeText),
    ("new_digest", MaybeText),
    ("tags", Texts),
];
const IMAGE: &[(&str, Holds)] = &[
    ("runtime", Text),
    ("deploy_id", Text),
    ("size", Number),
    ("checksum", Text),
    ("status", Text),
];
const SERVER: &[(&str, Holds)] = &[
    ("provider", Text),
    ("server_id", Text),
    ("name", Text),
    ("region", MaybeText),
    ("size", MaybeText),
];

/// The event by which an endpoint is tried.
pub const TEST: &str = "webhook.test";

/// Every event, in the order of its subject.
pub const EVENTS: &[Row] = &[
    Row {
        name: "box.uploaded",
        doc: "A box was published",
        always: FILE,
        perhaps: &[],
    },
    Row {
        name: "box.updated",
        doc: "What is told of a box changed, but no bytes did",
        always: BOX,
        perhaps: &[
            ("version", Text),
            ("provider", Text),
            ("architecture", Text),
            ("changed", Texts),
            ("checksum", Text),
            ("checksumType", Text),
        ],
    },
    Row {
        name: "box.deleted",
        doc: "A box was deleted, or what is under a version, provider or architecture of it",
        always: BOX,
        perhaps: PLACE,
    },
    Row {
        name: "box.released",
        doc: "A version is listed to Vagrant from now on",
        always: VERSION,
        perhaps: &[],
    },
    Row {
        name: "box.revoked",
        doc: "A version is listed to Vagrant no more",
        always: VERSION,
        perhaps: &[],
    },
    Row {
        name: "box.quarantined",
        doc: "An upload is whole and kept out of sight",
        always: QUARANTINED,
        perhaps: &[],
    },
    Row {
        name: "user.created",
        doc: "An account was made",
        always: &[
            ("username", Text),
            ("email_verified", Holds::Truth),
            ("organizations", Texts),
        ],
        perhaps: &[],
    },
    Row {
        name: "user.deleted",
        doc: "An account was removed",
        always: &[("username", Text)],
        perhaps: &[],
    },
    Row {
        name: "iso.uploaded",
        doc: "An ISO was published",
        always: &[
            ("organization", Text),
            ("name", Text),
            ("size", Number),
            ("checksum", MaybeText),
        ],
        perhaps: &[],
    },
    Row {
        name: "iso.deleted",
        doc: "An ISO was deleted",
        always: &[("organization", Text), ("name", Text)],
        perhaps: &[],
    },
    Row {
        name: "image.deployed",
        doc: "A runtime runs an image",
        always: IMAGE,
        perhaps: &[],
    },
    Row {
        name: "image.reload_failed",
        doc: "A runtime did not take an image",
        always: IMAGE,
        perhaps: &[("error", Text)],
    },
    Row {
        name: "image.backup_failed",
        doc: "The image before was not kept",
        always: &[("runtime", Text), ("error", Text)],
        perhaps: &[],
    },
    Row {
        name: "image.pushed",
        doc: "An image was pushed to another host",
        always: &[
            ("runtime", Text),
            ("target_host", Text),
            ("checksum", Text),
            ("status", Text),
        ],
        perhaps: &[],
    },
    Row {
        name: "provider.server.ordered",
        doc: "A server was ordered",
        always: SERVER,
        perhaps: &[],
    },
    Row {
        name: "provider.server.ready",
        doc: "A server that was ordered is there",
        always: SERVER,
        perhaps: &[],
    },
    Row {
        name: "provider.server.cancelled",
        doc: "A server was given back",
        always: SERVER,
        perhaps: &[],
    },
    Row {
        name: "script.reload_failed",
        doc: "What stands in a plugin's directory does not work; the version before goes on",
        always: &[
            ("plugin", Text),
            ("error", Text),
            ("file", MaybeText),
            ("line", Any),
        ],
        perhaps: &[],
    },
    Row {
        name: "script.recovered",
        doc: "A plugin works again as it stands",
        always: &[("plugin", Text), ("generation", Number)],
        perhaps: &[],
    },
    Row {
        name: "cache.purge",
        doc: "A plugin had caches forget something",
        always: &[],
        perhaps: &[
            ("tags", Texts),
            ("paths", Texts),
            ("prefixes", Texts),
            ("digests", Texts),
            ("all", Holds::Truth),
        ],
    },
    Row {
        name: "webhook.disabled",
        doc: "Another endpoint did not answer for too long and is told nothing any more",
        always: &[
            ("endpoint_id", Text),
            ("url_host", Text),
            ("reason", Text),
            ("failing_since", Time),
        ],
        perhaps: &[],
    },
    Row {
        name: TEST,
        doc: "An endpoint is tried; sent by the test call only",
        always: &[("message", Text), ("endpoint_id", Text)],
        perhaps: &[],
    },
];

/// Whether an endpoint may ask for that name, for all under it (`box.*`), or for all (`*`).
///
/// # Errors
/// The known name that is nearest, where one is near.
pub fn check(pattern: &str) -> Result<(), Option<&'static str>> {
    let known = match pattern.strip_suffix('*') {
        Some("") => true,
        Some(prefix) => {
            prefix.ends_with('.')
                && (EVENTS.iter().any(|row| row.name.starts_with(prefix)) || is_of_plugin(prefix))
        }
        None => EVENTS.iter().any(|row| row.name == pattern) || is_of_plugin(pattern),
    };
    if known {
        return Ok(());
    }
    Err(nearest(pattern, EVENTS.iter().map(|row| row.name)))
}

fn is_of_plugin(name: &str) -> bool {
    let word =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-' | b'.');
    name.strip_prefix("x.")
        .is_some_and(|rest| rest.len() <= 128 && rest.bytes().all(word))
}

/// Whether a pattern means an event of that name.
pub fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => pattern == name,
    }
}

/// The row of an event that is no plugin's.
pub fn row(name: &str) -> Option<&'static Row> {
    EVENTS.iter().find(|row| row.name == name)
}

impl Row {
    /// The JSON Schema of `data`.
    pub fn schema(&self) -> Value {
        let members = || COMMON.iter().chain(self.always);
        let properties: Map<String, Value> = members()
            .chain(self.perhaps)
            .map(|(name, holds)| ((*name).to_owned(), holds.schema()))
            .collect();
        let required: Vec<&str> = members().map(|(name, _)| *name).collect();
        json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema", "title": self.name, "description": self.doc,
            "type": "object", "properties": properties, "required": required,
        })
    }

    /// `data` as it may be, as of a moment; `endpoint` is whom it is sent to.
    pub fn example(&self, occurred_at: &str, endpoint: &str) -> Value {
        let mut data: Map<String, Value> = self
            .always
            .iter()
            .map(|(name, holds)| {
                (
                    (*name).to_owned(),
                    example(self.name, name, *holds, endpoint),
                )
            })
            .collect();
        if self.name == "cache.purge" {
            data.insert("tags".to_owned(), json!(["box/myorg/ubuntu-server"]));
        }
        data.insert("occurred_at".to_owned(), json!(occurred_at));
        let by_somebody = !self.name.starts_with("webhook.");
        let actor = by_somebody.then(|| json!({"type": "account", "name": "admin"}));
        data.insert("actor".to_owned(), json!(actor));
        Value::Object(data)
    }
}

fn example(event: &str, member: &str, holds: Holds, endpoint: &str) -> Value {
    const DIGEST: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    match member {
        "organization" => json!("myorg"),
        "box" => json!("ubuntu-server"),
        "version" => json!("1.0.0"),
        "provider" if event.starts_with("provider.") => json!("do"),
        "provider" => json!("virtualbox"),
        "architecture" => json!("amd64"),
        "size" if event.starts_with("provider.") => json!("s-1vcpu-1gb"),
        "size" => json!(2_147_483_648_u64),
        "checksum" => json!(DIGEST),
        "checksumType" => json!("SHA256"),
        "url" => json!(
            "https://boxes.example.com/myorg/boxes/ubuntu-server/versions/1.0.0/providers/virtualbox/amd64/vagrant.box"
        ),
        "new_digest" if event == "box.uploaded" => json!(DIGEST),
        "old_digest" | "new_digest" => Value::Null,
        "tags" => json!(["box/myorg/ubuntu-server"]),
        "username" => json!("ann"),
        "organizations" => json!([]),
        "name" if event.starts_with("iso.") => json!("debian-12.iso"),
        "name" => json!("web-1"),
        "runtime" => json!("edge"),
        "deploy_id" => json!("7c9e6679"),
        "status" => json!("deployed"),
        "target_host" => json!("edge-2.example.com"),
        "server_id" => json!("3164444"),
        "region" => json!("fra1"),
        "plugin" => json!("acme"),
        "reason" if event == "webhook.disabled" => json!("no success for 5 days"),
        "reason" => json!("holds a virus"),
        "error" => json!("main.rhai:3: unknown function"),
        "file" => json!("main.rhai"),
        "line" => json!(3),
        "generation" => json!(4),
        "endpoint_id" => json!(endpoint),
        "url_host" => json!("hooks.example.com"),
        "failing_since" => json!("2026-01-02T03:04:05.678Z"),
        "message" => json!("This is a test. Nothing happened."),
        _ => match holds {
            Holds::Number => json!(1),
            Holds::Truth => json!(false),
            Holds::Texts => json!([]),
            _ => json!(member),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_families_are_known_and_what_is_nearly_one_is_told() {
        for good in [
            "*",
            "box.*",
            "box.uploaded",
            "provider.server.*",
            "webhook.test",
            "x.acme.done",
            "x.acme.*",
            "x.*",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        assert_eq!(check("box.upload"), Err(Some("box.uploaded")));
        assert_eq!(check("box.uplaoded"), Err(Some("box.uploaded")));
        for bad in [
            "",
            "boxes.*",
            "box*",
            "*.uploaded",
            "nothing at all",
            "x.a c",
            "BOX.uploaded ",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert!(matches("*", "box.uploaded") && matches("box.*", "box.uploaded"));
        assert!(!matches("box.*", "user.created") && !matches("box.uploaded", "box.uploaded2"));
    }

    #[test]
    fn each_example_has_what_its_schema_requires_and_nothing_else() {
        for row in EVENTS {
            let example = row.example("2026-01-02T03:04:05.678Z", "ep_1");
            let schema = row.schema();
            let members = example.as_object().unwrap();
            for required in schema["required"].as_array().unwrap() {
                assert!(
                    members.contains_key(required.as_str().unwrap()),
                    "{} {required}",
                    row.name
                );
            }
            for (name, value) in members {
                let wanted = &schema["properties"][name]["type"];
                let is = match value {
                    Value::String(_) => "string",
                    Value::Number(_) => "integer",
                    Value::Bool(_) => "boolean",
                    Value::Array(_) => "array",
                    Value::Object(_) => "object",
                    Value::Null => "null",
                };
                let allowed = match wanted {
                    Value::String(one) => one == is,
                    Value::Array(some) => some.iter().any(|one| one == is),
                    _ => schema["properties"].get(name).is_some(),
                };
                assert!(allowed, "{}: {name} is {is}", row.name);
            }
        }
    }
}
