//! `[provider]`: plugins that serve Nanobox's adapter API, and what their `meta()` must say of them.
//!
//! `meta()` is called once, when the plugin is loaded: an adapter that promises what it has no function for is refused
//! before anybody stores its address.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::hook::Hook;

/// How an operator's key comes onto a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyMethod {
    /// It is kept once by `POST /keys`, and orders name it.
    Reference,
    /// Orders carry its text.
    Object,
    /// It is put onto a server that is there, by `PATCH /servers/{id}/keys`.
    Password,
}

/// What an adapter says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Meta {
    /// Its name in URLs, for good.
    pub id: String,
    /// The keys of the credentials that it needs.
    pub credentials: Vec<String>,
    /// How keys come onto servers.
    pub keys: KeyMethod,
    /// All of it, as `GET /meta` tells it.
    pub document: Value,
}

/// An adapter that requests may be for.
#[derive(Debug, Clone)]
pub struct Provider {
    /// Its plugin.
    pub plugin: String,
    /// The version of the plugin.
    pub hash: String,
    /// What it says of itself.
    pub meta: Arc<Meta>,
    /// The functions that it has.
    pub functions: Vec<Hook>,
}

impl Provider {
    /// Whether it has that function.
    pub fn can(&self, function: Hook) -> bool {
        self.functions.contains(&function)
    }
}

/// What every provider defines.
const NEEDED: [Hook; 6] = [
    Hook::Meta,
    Hook::Catalog,
    Hook::Verify,
    Hook::CreateServer,
    Hook::GetServer,
    Hook::CancelServer,
];

/// The functions that a provider must have and this one has not, in words.
pub(crate) fn missing(functions: &[Hook]) -> Vec<String> {
    let missing = NEEDED.iter().filter(|hook| !functions.contains(hook));
    let told = missing.map(|hook| {
        let signature = hook.row().signature();
        format!("[provider] needs {signature}, which the plugin does not define")
    });
    told.collect()
}

/// Texts that `meta()` must have. `external_iface` may be null: a server with one interface has none.
const TEXTS: [&str; 11] = [
    "id",
    "name",
    "server_nick_name",
    "default_region",
    "default_size",
    "default_plan",
    "internal_iface",
    "ssh_user",
    "ssh_auth_method",
    "bootstrap_script",
    "instructions",
];

impl Meta {
    /// Reads what `meta()` returned, and holds it against the functions that there are.
    pub(crate) fn read(document: Value, functions: &[Hook]) -> Result<Self, Vec<String>> {
        let Value::Object(map) = &document else {
            return Err(vec!["meta() must return a map".into()]);
        };
        let mut wrong = Vec::new();
        for name in TEXTS {
            if text(map, name).is_none_or(str::is_empty) {
                wrong.push(format!("meta().{name} must be a text"));
            }
        }
        if !matches!(
            map.get("external_iface"),
            Some(Value::String(_) | Value::Null)
        ) {
            wrong.push("meta().external_iface must be a text, or () where there is none".into());
        }
        let id = text(map, "id").unwrap_or_default().to_owned();
        if !crate::bundle::valid_name(&id) {
            wrong.push(format!(
                "meta().id {id:?} is part of a URL: 1 to 64 of a-z, 0-9, - and _, a letter first"
            ));
        }
        let keys = key_method(map).unwrap_or_else(|text| {
            wrong.push(text);
            KeyMethod::Object
        });
        let credentials = credentials(map).unwrap_or_else(|text| {
            wrong.push(text);
            Vec::new()
        });
        wrong.extend(broken_promises(map, keys, functions));
        if !wrong.is_empty() {
            return Err(wrong);
        }
        Ok(Self {
            id,
            credentials,
            keys,
            document,
        })
    }
}

fn text<'a>(map: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    map.get(name).and_then(Value::as_str)
}

fn key_method(map: &Map<String, Value>) -> Result<KeyMethod, String> {
    let methods = (text(map, "ssh_auth_method"), text(map, "ssh_key_method"));
    match methods {
        (Some("password"), _) => Ok(KeyMethod::Password),
        (Some("key"), Some("reference")) => Ok(KeyMethod::Reference),
        (Some("key"), Some("object")) => Ok(KeyMethod::Object),
        (Some("key"), _) => {
            Err("meta().ssh_key_method must be \"reference\" or \"object\"".to_owned())
        }
        _ => Err("meta().ssh_auth_method must be \"key\" or \"password\"".to_owned()),
    }
}

fn credentials(map: &Map<String, Value>) -> Result<Vec<String>, String> {
    const RULE: &str = "meta().credential_fields must be an array of #{key, label}; a key is letters, digits, - and _, and \
                        does not begin with Auth-";
    let fields = map.get("credential_fields").and_then(Value::as_array);
    let mut keys = Vec::new();
    for field in fields.ok_or(RULE)? {
        let key = field.get("key").and_then(Value::as_str).ok_or(RULE)?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        let prefixed = key
            .get(..5)
            .is_some_and(|start| start.eq_ignore_ascii_case("auth-"));
        let labelled = field.get("label").is_some_and(Value::is_string);
        if key.is_empty() || !key.bytes().all(plain) || prefixed || !labelled {
            return Err(RULE.to_owned());
        }
        keys.push(key.to_owned());
    }
    Ok(keys)
}

/// What is promised without a function for it, or the other way about.
fn broken_promises(map: &Map<String, Value>, keys: KeyMethod, functions: &[Hook]) -> Vec<String> {
    let mut wrong = Vec::new();
    let has = |hook: Hook| functions.contains(&hook);
    for (name, hook) in [
        ("can_reboot", Hook::RebootServer),
        ("can_rename", Hook::RenameServer),
    ] {
        match map.get(name) {
            Some(Value::Bool(promised)) if *promised == has(hook) => {}
            Some(Value::Bool(true)) => {
                let signature = hook.row().signature();
                wrong.push(format!(
                    "meta().{name} is true, and there is no {signature}"
                ));
            }
            Some(Value::Bool(false)) => {
                wrong.push(format!(
                    "meta().{name} is false, and there is a {}",
                    hook.name()
                ));
            }
            _ => wrong.push(format!("meta().{name} must be true or false")),
        }
    }
    let needed: &[Hook] = match keys {
        KeyMethod::Reference => &[Hook::CreateKey, Hook::GetKey, Hook::DeleteKey],
        KeyMethod::Object => &[],
        KeyMethod::Password => &[Hook::InstallKey],
    };
    for hook in needed.iter().filter(|hook| !has(**hook)) {
        let signature = hook.row().signature();
        wrong.push(format!(
            "meta() says how keys come onto servers, and there is no {signature} for that"
        ));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn meta(change: impl FnOnce(&mut Value)) -> Value {
        let mut meta = json!({
            "id": "do", "name": "Digital Ocean", "server_nick_name": "Droplet", "default_region": "sfo1",
            "default_size": "512mb", "default_plan": "standard", "can_reboot": true, "can_rename": false,
            "internal_iface": "eth1", "external_iface": "eth0", "ssh_user": "root", "ssh_auth_method": "key",
            "ssh_key_method": "object", "bootstrap_script": "https://a/", "instructions": "Make a token.",
            "credential_fields": [{ "key": "access-token", "label": "Access Token" }],
        });
        change(&mut meta);
        meta
    }

    #[test]
    fn a_provider_that_says_all_is_read() {
        let read = Meta::read(meta(|_| {}), &[Hook::RebootServer]).unwrap();
        assert_eq!((read.id.as_str(), read.keys), ("do", KeyMethod::Object));
        assert_eq!(read.credentials, ["access-token"]);
        let single = meta(|meta| meta["external_iface"] = Value::Null);
        assert!(Meta::read(single, &[Hook::RebootServer]).is_ok());
        assert!(missing(&NEEDED).is_empty());
        assert_eq!(missing(&NEEDED[1..]).len(), 1);
    }

    #[test]
    fn what_it_promises_it_must_have_a_function_for() {
        let wrong = |change: fn(&mut Value), functions: &[Hook]| {
            Meta::read(meta(change), functions).unwrap_err().join("\n")
        };
        assert!(wrong(|_| {}, &[]).contains("can_reboot is true"));
        let both = [Hook::RebootServer, Hook::RenameServer];
        assert!(wrong(|_| {}, &both).contains("can_rename is false"));
        let reboot = [Hook::RebootServer];
        for (change, told) in [
            (
                (|m| m["ssh_key_method"] = "reference".into()) as fn(&mut Value),
                "create_key(ctx, key)",
            ),
            (
                |m| m["ssh_auth_method"] = "password".into(),
                "install_key(ctx, id, key)",
            ),
            (|m| m["ssh_key_method"] = "both".into(), "\"reference\" or"),
            (|m| m["id"] = "a/b".into(), "part of a URL"),
            (|m| m["name"] = 3.into(), "meta().name must be a text"),
            (
                |m| m["credential_fields"][0]["key"] = "Auth-Token".into(),
                "does not begin with Auth-",
            ),
            (
                |m| m["credential_fields"] = "token".into(),
                "must be an array",
            ),
        ] {
            let wrong = wrong(change, &reboot);
            assert!(wrong.contains(told), "{told}: {wrong}");
        }
    }
}
