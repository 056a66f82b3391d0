//! Flag over variable over file over default, and every mistake with the key it stands at.
//!
//! Each leaf is tried on its own against [`ConfigFile`], so that one bad value does not hide the
//! next; the good ones make the file that the settings are checked from.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;

use serde::Deserialize;
use toml::{Table, Value};

use super::file::ConfigFile;
use super::settings::Secret;
use super::{Flags, Mistake, Warning};

/// Variables that are no keys of the file.
const OTHER_VARIABLES: [&str; 11] = [
    "BOXGATE_CONFIG",
    "BOXGATE_LISTEN",
    "BOXGATE_MASTER_KEY",
    "BOXGATE_MASTER_KEY_FILE",
    "BOXGATE_BOOTSTRAP_PASSWORD_FILE",
    // What `push`, `pull` and `admin` read.
    "BOXGATE_URL",
    "BOXGATE_TOKEN",
    "BOXGATE_CLIENT_ID",
    "BOXGATE_CLIENT_SECRET",
    "BOXGATE_CACERT",
    // Where the tests keep their tools.
    "BOXGATE_TOOLS",
];

/// What the environment says besides keys.
#[derive(Debug, Default)]
pub(super) struct Environment {
    pub(super) config: Option<String>,
    pub(super) listen: Option<String>,
    pub(super) master_key: Option<Secret>,
    pub(super) bootstrap_password: Option<Secret>,
    /// Variables that may be properties of Boxitory.
    pub(super) boxitory: Vec<(String, String)>,
}

/// One value and where it was said.
struct Leaf {
    path: Vec<String>,
    said_in: String,
    value: Value,
}

/// All that was said, strongest last.
#[derive(Default)]
pub(super) struct Layers {
    file: Vec<Leaf>,
    environment: Vec<Leaf>,
    flags: Vec<Leaf>,
    mistakes: Vec<Mistake>,
    warnings: Vec<Warning>,
}

impl Layers {
    pub(super) fn take_environment(
        &mut self,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Environment {
        let schema = schema();
        let mut found = Environment::default();
        let mut master_key_file = None;
        let mut variables: Vec<_> = variables
            .into_iter()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .collect();
        variables.sort();
        for (name, value) in variables {
            if !name.starts_with("BOXGATE_") {
                let text = value.into_string().ok().filter(|_| may_be_property(&name));
                found.boxitory.extend(text.map(|text| (name, text)));
                continue;
            }
            let Ok(value) = value.into_string() else {
                self.mistake(&name, "the value is not valid UTF-8");
                continue;
            };
            match name.as_str() {
                "BOXGATE_CONFIG" => found.config = Some(value),
                "BOXGATE_LISTEN" => found.listen = Some(value),
                "BOXGATE_MASTER_KEY" => found.master_key = Some(Secret::new(value)),
                "BOXGATE_MASTER_KEY_FILE" => master_key_file = self.secret_file(&name, &value),
                "BOXGATE_BOOTSTRAP_PASSWORD_FILE" => {
                    found.bootstrap_password = self.secret_file(&name, &value);
                }
                other if OTHER_VARIABLES.contains(&other) => {}
                _ => self.take_variable(&schema, &name, &value),
            }
        }
        if found.master_key.is_some() && master_key_file.is_some() {
            self.mistake(
                "BOXGATE_MASTER_KEY",
                "BOXGATE_MASTER_KEY_FILE is set too; set one of them",
            );
        }
        found.master_key = found.master_key.or(master_key_file);
        found
    }

    /// A variable that names a scalar key or a list of texts.
    fn take_variable(&mut self, schema: &Table, name: &str, value: &str) {
        let path: Vec<String> = name["BOXGATE_".len()..]
            .split("__")
            .map(str::to_ascii_lowercase)
            .collect();
        let parsed = match lookup(schema, &path).or_else(|| lookup_named(schema, &path)) {
            Some(Value::String(_)) => Value::String(value.to_owned()),
            Some(Value::Integer(_)) => match value.trim().parse() {
                Ok(number) => Value::Integer(number),
                Err(_) => return self.mistake(name, "expected a whole number"),
            },
            Some(Value::Boolean(_)) => match value.trim() {
                "true" => Value::Boolean(true),
                "false" => Value::Boolean(false),
                _ => return self.mistake(name, "expected true or false"),
            },
            Some(Value::Array(items)) if !items.iter().any(Value::is_table) => Value::Array(
                value
                    .split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty())
                    .map(|item| Value::String(item.to_owned()))
                    .collect(),
            ),
            _ => {
                let text = format!("the variable {name} names no key; it is ignored");
                return self.warnings.push(Warning(text));
            }
        };
        self.environment.push(Leaf {
            said_in: format!("{} (from {name})", path.join(".")),
            path,
            value: parsed,
        });
    }

    fn secret_file(&mut self, name: &str, path: &str) -> Option<Secret> {
        match std::fs::read_to_string(path) {
            // Editors and `echo` end a file with a line feed that is no part of the secret.
            Ok(text) if !text.trim().is_empty() => Some(Secret::new(text.trim().to_owned())),
            Ok(_) => {
                self.mistake(name, &format!("{path} is empty"));
                None
            }
            Err(error) => {
                self.mistake(name, &format!("cannot read {path}: {error}"));
                None
            }
        }
    }

    /// Gives its text, too; none where it is not there, or cannot be read.
    pub(super) fn read_file(&mut self, path: &Path, required: bool) -> String {
        let shown = path.display().to_string();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                if required || error.kind() != std::io::ErrorKind::NotFound {
                    self.mistake(&shown, &format!("cannot read it: {error}"));
                }
                return String::new();
            }
        };
        self.read_text(&shown, &text);
        text
    }

    pub(super) fn read_text(&mut self, shown: &str, text: &str) {
        match text.parse::<Table>() {
            Ok(table) => collect(&table, &mut Vec::new(), &mut self.file),
            Err(error) => {
                let line = error
                    .span()
                    .map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1)
                    .map_or_else(String::new, |line| format!("line {line}: "));
                self.mistake(shown, &format!("{line}{}", error.message()));
            }
        }
    }

    pub(super) fn take_flags(&mut self, flags: &Flags, listen_variable: Option<&str>) {
        if let Some(path) = &flags.data_dir {
            match path.to_str() {
                Some(text) => self.flags.push(Leaf {
                    path: vec!["data_dir".into()],
                    said_in: "data_dir (from --data-dir)".into(),
                    value: Value::String(text.to_owned()),
                }),
                None => self.mistake("--data-dir", "the path is not valid UTF-8"),
            }
        }
        for (path, key, flag) in [
            (&flags.boxitory, "home", "--boxitory"),
            (
                &flags.boxitory_properties,
                "properties",
                "--boxitory-properties",
            ),
        ] {
            match path.as_deref().map(Path::to_str) {
                None => {}
                Some(Some(text)) => self.flags.push(Leaf {
                    path: vec!["boxitory".into(), key.into()],
                    said_in: format!("boxitory.{key} (from {flag})"),
                    value: Value::String(text.to_owned()),
                }),
                Some(None) => self.mistake(flag, "the path is not valid UTF-8"),
            }
        }
        if !flags.plugins.is_empty() {
            let dirs = flags.plugins.iter();
            let dirs = dirs.map(|dir| dir.to_str().map(|text| Value::String(text.to_owned())));
            match dirs.collect::<Option<Vec<_>>>() {
                Some(dirs) => self.flags.push(Leaf {
                    path: vec!["scripts".into(), "dirs".into()],
                    said_in: "scripts.dirs (from --plugins)".into(),
                    value: Value::Array(dirs),
                }),
                None => self.mistake("--plugins", "the path is not valid UTF-8"),
            }
        }
        let said = flags
            .listen
            .as_deref()
            .map(|text| (text, "--listen"))
            .or(listen_variable.map(|text| (text, "BOXGATE_LISTEN")));
        let Some((address, said_in)) = said else {
            return;
        };
        // Only the first listener's address is set; further ones stay as the file has them.
        let mut listeners = self
            .file
            .iter()
            .find(|leaf| leaf.path == ["listeners"])
            .and_then(|leaf| leaf.value.as_array().cloned())
            .unwrap_or_default();
        if listeners.is_empty() {
            listeners.push(Value::Table(Table::new()));
        }
        if let Some(first) = listeners[0].as_table_mut() {
            first.insert("address".into(), Value::String(address.to_owned()));
        }
        self.flags.push(Leaf {
            path: vec!["listeners".into()],
            said_in: format!("listeners (from {said_in})"),
            value: Value::Array(listeners),
        });
    }

    /// Whether anybody said something below that key.
    pub(super) fn say(&self, key: &str) -> bool {
        let said = [&self.file, &self.environment, &self.flags];
        let mut leaves = said.into_iter().flatten();
        leaves.any(|leaf| leaf.path.first().is_some_and(|first| first == key))
    }

    /// The file that all layers together make, with what was wrong on the way.
    pub(super) fn resolve(mut self) -> (ConfigFile, Vec<Mistake>, Vec<Warning>) {
        let mut good = Table::new();
        let leaves = self
            .file
            .into_iter()
            .chain(self.environment)
            .chain(self.flags);
        for leaf in leaves {
            let mut alone = Table::new();
            put(&mut alone, &leaf.path, leaf.value.clone());
            match ConfigFile::deserialize(Value::Table(alone)) {
                Ok(_) => put(&mut good, &leaf.path, leaf.value),
                Err(error) => self.mistakes.push(Mistake {
                    key: leaf.said_in,
                    text: error.message().to_owned(),
                }),
            }
        }
        let file = ConfigFile::deserialize(Value::Table(good)).unwrap_or_else(|error| {
            self.mistakes.push(Mistake {
                key: "configuration".into(),
                text: error.message().to_owned(),
            });
            ConfigFile::default()
        });
        (file, self.mistakes, self.warnings)
    }

    fn mistake(&mut self, key: &str, text: &str) {
        self.mistakes.push(Mistake {
            key: key.to_owned(),
            text: text.to_owned(),
        });
    }
}

/// Every key with its default, as a table.
pub(super) fn schema() -> Table {
    Table::try_from(ConfigFile::default())
        .expect("a ConfigFile holds only what TOML can say: texts, integers, truth values, tables")
}

/// Spring reads properties from variables as well, spelled as shells can.
fn may_be_property(name: &str) -> bool {
    name.starts_with("BOX_") || matches!(name, "SERVER_PORT" | "SERVER_ADDRESS")
}

fn lookup<'a>(table: &'a Table, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let value = table.get(first)?;
    if rest.is_empty() {
        return Some(value);
    }
    lookup(value.as_table()?, rest)
}

/// A key of a store, whatever its name: all have the same keys.
fn lookup_named<'a>(table: &'a Table, path: &[String]) -> Option<&'a Value> {
    match path {
        [named, _name, key] if ["stores", "runtimes", "rates"].contains(&named.as_str()) => {
            let any = table.get(named)?.as_table()?.values().next()?;
            any.as_table()?.get(key)
        }
        _ => None,
    }
}

/// The leaves of `table`; an empty table is one, lest an unknown one go unseen.
fn collect(table: &Table, path: &mut Vec<String>, leaves: &mut Vec<Leaf>) {
    for (key, value) in table {
        path.push(key.clone());
        match value {
            Value::Table(inner) if !inner.is_empty() => collect(inner, path, leaves),
            _ => leaves.push(Leaf {
                path: path.clone(),
                said_in: path.join("."),
                value: value.clone(),
            }),
        }
        path.pop();
    }
}

fn put(table: &mut Table, path: &[String], value: Value) {
    let Some((first, rest)) = path.split_first() else {
        return;
    };
    if rest.is_empty() {
        table.insert(first.clone(), value);
        return;
    }
    let inner = table
        .entry(first.clone())
        .or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(inner) = inner {
        put(inner, rest, value);
    }
}

/// The keys in which two files differ.
pub(super) fn differences(one: &ConfigFile, other: &ConfigFile) -> Vec<String> {
    let leaves = |file: &ConfigFile| -> BTreeMap<String, Value> {
        let table = Table::try_from(file).expect(
            "a ConfigFile holds only what TOML can say: texts, integers, truth values, tables",
        );
        let mut leaves = Vec::new();
        collect(&table, &mut Vec::new(), &mut leaves);
        let said = |leaf: Leaf| (leaf.said_in, leaf.value);
        leaves.into_iter().map(said).collect()
    };
    let (one, other) = (leaves(one), leaves(other));
    let keys: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    let differ = keys
        .into_iter()
        .filter(|key| one.get(*key) != other.get(*key));
    differ.cloned().collect()
}

/// The paths of all leaves, for the test that holds file and documentation together.
#[cfg(test)]
pub(super) fn leaf_paths(table: &Table) -> Vec<String> {
    let mut leaves = Vec::new();
    collect(table, &mut Vec::new(), &mut leaves);
    let mut paths: Vec<String> = leaves.into_iter().map(|leaf| leaf.said_in).collect();
    paths.sort();
    paths
}
