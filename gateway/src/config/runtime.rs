//! `[runtimes.<name>]`: what stands in for Sanbox runtimes, in our words or in those of a `runtime.json`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::Cidr;
use super::file::{RuntimeFile, RuntimesFile};
use super::settings::{Judge, Secret, variable};
use crate::runtime::backup::Frequency;
use crate::runtime::key::{SAMPLE, SHORTEST};
use crate::runtime::push::{Target, document};

/// The runtime at `/runtime/image`.
pub const DEFAULT: &str = "default";
/// Holds what would stand in `runtime.json`; where it does, no such file is read.
const VARIABLE: &str = "SANBOX_RUNTIME_CONFIG";
/// Longest `runtime.json`, in bytes.
const LONGEST: usize = 1 << 20;

/// One runtime.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of the file")]
pub struct Runtime {
    /// Its key.
    pub api_key: Secret,
    /// Whether its image may be read, replaced and pushed.
    pub allow_deployments: bool,
    /// The image.
    pub image: PathBuf,
    /// When copies are made, if at all.
    pub backups: Option<Frequency>,
    /// Copies that are kept; 0 keeps all.
    pub backups_kept: usize,
    /// Where.
    pub backup_directory: PathBuf,
    /// Whether the image before is copied there at each deployment.
    pub backup_before_deploy: bool,
    /// Whether every failure of a deployment or push is 500.
    pub strict_statuses: bool,
    /// What makes the runtime take a new image.
    pub reload: Reload,
    /// Whether the image before is put back where that fails.
    pub rollback: bool,
    /// Hosts that the image may be pushed to; empty is any that pushes reach.
    pub allow_targets: Vec<String>,
    /// Networks that pushes reach beside public and private ones.
    pub allow_networks: Vec<Cidr>,
}

/// What makes a runtime take a new image.
#[derive(Debug, Clone)]
pub enum Reload {
    /// Somebody else; webhooks are told of each image in any case.
    None,
    /// A program, its arguments, and how long it may take.
    Command(Vec<String>, Duration),
    /// The image goes to the runtime itself.
    Push(Target),
}

#[derive(Clone, Copy)]
enum ReloadKind {
    None,
    Command,
    Push,
}

impl Judge<'_> {
    pub(super) fn runtimes(&mut self, files: &RuntimesFile) -> BTreeMap<String, Runtime> {
        let mut runtimes = BTreeMap::new();
        for (name, file) in &files.0 {
            let good = (1..=32).contains(&name.len())
                && name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b));
            if !good {
                self.wrong(
                    format!("runtimes.{name}"),
                    "the name of a runtime is 1 to 32 of a-z, 0-9, '-' and '_'",
                );
            }
            let file = self.imported(name, file.clone());
            if file.enabled {
                runtimes.insert(name.clone(), self.runtime(name, &file));
            }
        }
        let mut images = BTreeMap::new();
        for (name, runtime) in &runtimes {
            if let Some(other) = images.insert(&runtime.image, name) {
                self.wrong(
                    format!("runtimes.{name}.image_file_path"),
                    format!("runtimes.{other} has the same image"),
                );
            }
        }
        runtimes
    }

    fn runtime(&mut self, name: &str, file: &RuntimeFile) -> Runtime {
        let key = |key: &str| format!("runtimes.{name}.{key}");
        let api_key = self.secret(&key("api_key"), &file.api_key, &file.api_key_file);
        if api_key == SAMPLE || api_key.chars().count() < SHORTEST {
            self.wrong(
                key("api_key"),
                format!(
                    "expected at least {SHORTEST} characters that nobody can guess, such as \
                     `openssl rand -hex 32` prints"
                ),
            );
        }
        let backups = Frequency::parse(&file.backup_frequency, &file.backup_time_zone);
        if let Err(why) = &backups {
            self.wrong(key("backup_frequency"), why);
        }
        let backups_kept = usize::try_from(file.backup_retention_count);
        if backups_kept.is_err() {
            self.wrong(
                key("backup_retention_count"),
                "must not be negative; 0 keeps all",
            );
        }
        let image = self.not_empty(&key("image_file_path"), &file.image_file_path);
        if image.ends_with('/') {
            self.wrong(key("image_file_path"), "must be the path of a file");
        }
        Runtime {
            api_key: Secret::new(api_key),
            allow_deployments: file.allow_deployments,
            image: PathBuf::from(image),
            backups: backups.ok().filter(|_| file.do_backups),
            backups_kept: backups_kept.unwrap_or_default(),
            backup_directory: PathBuf::from(
                self.not_empty(&key("backup_directory"), &file.backup_directory),
            ),
            backup_before_deploy: file.backup_before_deploy,
            strict_statuses: file.strict_statuses,
            reload: self.reload(name, file),
            rollback: file.rollback_on_reload_failure,
            allow_targets: file
                .allow_targets
                .iter()
                .map(|host| host.to_ascii_lowercase())
                .collect(),
            allow_networks: self.blocks(&key("allow_networks"), &file.allow_networks),
        }
    }

    fn reload(&mut self, name: &str, file: &RuntimeFile) -> Reload {
        let key = |key: &str| format!("runtimes.{name}.{key}");
        // An event is recorded and webhooks are told in any case.
        let kinds = [
            ("none", ReloadKind::None),
            ("webhook", ReloadKind::None),
            ("command", ReloadKind::Command),
            ("push", ReloadKind::Push),
        ];
        let rule = "expected \"none\", \"webhook\", \"command\" or \"push\"";
        match self.choice(&key("reload"), &file.reload, &kinds, rule) {
            Some(ReloadKind::Command) => {
                if file.reload_command.first().is_none_or(String::is_empty) {
                    self.wrong(
                        key("reload_command"),
                        "reload = \"command\" needs it: [\"/path/of/program\", \"argument\"]",
                    );
                }
                let time = self.time(&key("reload_timeout"), file.reload_timeout);
                Reload::Command(file.reload_command.clone(), time)
            }
            Some(ReloadKind::Push) => {
                let secret = self.secret(
                    &key("reload_target_api_key"),
                    &file.reload_target_api_key,
                    &file.reload_target_api_key_file,
                );
                match Target::parse(&file.reload_target_url, Secret::new(secret)) {
                    Ok(target) => Reload::Push(target),
                    Err(why) => {
                        self.wrong(key("reload_target_url"), why);
                        Reload::None
                    }
                }
            }
            Some(ReloadKind::None) | None => Reload::None,
        }
    }

    /// The keys with what `import` names in their places.
    fn imported(&mut self, name: &str, mut file: RuntimeFile) -> RuntimeFile {
        if file.import.is_empty() {
            return file;
        }
        let key = format!("runtimes.{name}.import");
        let (said_in, text) = match variable(VARIABLE).filter(|text| !text.is_empty()) {
            Some(text) => (VARIABLE.to_owned(), text),
            None => match std::fs::read_to_string(&file.import) {
                Ok(text) => (file.import.clone(), text),
                Err(e) => {
                    self.wrong(key, format!("cannot read {}: {e}", file.import));
                    return file;
                }
            },
        };
        if let Err(why) = import(&mut file, &text) {
            self.wrong(key, format!("{said_in}: {why}"));
        }
        file
    }
}

/// Takes over the members of `Image` and `RuntimeAPI`, whose names are read in any case; other sections are the runtime's.
fn import(file: &mut RuntimeFile, text: &str) -> Result<(), String> {
    if text.len() > LONGEST {
        return Err(format!("longer than {LONGEST} bytes"));
    }
    let text = text.trim_start_matches('\u{feff}');
    let document = document(text).map_err(|e| format!("no JSON: {e}"))?;
    let member = |section: &str, name: &str| {
        let find = |of: &Value, name: &str| {
            let members = of.as_object()?;
            let found = members.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.clone())
        };
        find(&find(&document, section)?, name).filter(|value| !value.is_null())
    };
    let texts = [
        ("Image", "ImageFilePath", &mut file.image_file_path),
        ("Image", "BackupFrequency", &mut file.backup_frequency),
        ("Image", "BackupDirectory", &mut file.backup_directory),
    ];
    for (section, name, place) in texts {
        if let Some(value) = member(section, name) {
            let text = value.as_str();
            text.ok_or_else(|| format!("{section}.{name} is no text"))?
                .clone_into(place);
        }
    }
    let truths = [
        ("Image", "DoBackups", &mut file.do_backups),
        ("Image", "AllowDeployments", &mut file.allow_deployments),
        ("RuntimeAPI", "Enabled", &mut file.enabled),
    ];
    for (section, name, place) in truths {
        if let Some(value) = member(section, name) {
            *place = value
                .as_bool()
                .ok_or_else(|| format!("{section}.{name} is neither true nor false"))?;
        }
    }
    if let Some(value) = member("Image", "BackupRetentionCount") {
        file.backup_retention_count = value
            .as_i64()
            .ok_or("Image.BackupRetentionCount is no whole number")?;
    }
    if let Some(value) = member("RuntimeAPI", "APIKey") {
        let text = value.as_str().ok_or("RuntimeAPI.APIKey is no text")?;
        file.api_key = Secret::new(text);
        file.api_key_file.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sections_are_taken_over_and_others_left_alone() {
        let mut file = RuntimeFile::default();
        let text = r#"{
            "image": {"IMAGEFILEPATH": "a.sbimg", "DoBackups": true, "BackupRetentionCount": 3, "AllowDeployments": true},
            "RuntimeAPI": {"Enabled": true, "apikey": "a key of the runtime", "Later": [1]},
            "HttpWebServer": {"GlobalHeaders": {"X-Frame-Options": "DENY"}},
        }"#;
        import(&mut file, text).unwrap();
        let expected = RuntimeFile {
            image_file_path: "a.sbimg".to_owned(),
            do_backups: true,
            backup_retention_count: 3,
            allow_deployments: true,
            enabled: true,
            api_key: Secret::new("a key of the runtime"),
            ..RuntimeFile::default()
        };
        assert_eq!(file, expected);
    }

    #[test]
    fn what_is_of_another_kind_is_named_and_never_shown() {
        for (text, said) in [
            ("{", "no JSON"),
            (r#"{"Image": {"DoBackups": "yes"}}"#, "Image.DoBackups"),
            (r#"{"Image": {"ImageFilePath": 1}}"#, "Image.ImageFilePath"),
            (r#"{"RuntimeAPI": {"APIKey": 123456}}"#, "RuntimeAPI.APIKey"),
        ] {
            let why = import(&mut RuntimeFile::default(), text).unwrap_err();
            assert!(
                why.contains(said) && !why.contains("123456"),
                "{text}: {why}"
            );
        }
    }
}
