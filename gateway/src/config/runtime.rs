//! `[runtimes.<name>]`: what stands in for Sanbox runtimes, in our words or in those of a `runtime.json`.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::file::{ConfigFile, ListenerFile, RuntimeFile, RuntimesFile, StoresFile, TlsFile};
use super::settings::{Judge, Secret, variable};
use super::{Cidr, Mistake};
use crate::runtime::backup::Frequency;
use crate::runtime::key::{SAMPLE, SHORTEST};
use crate::runtime::push::{Target, document};
use crate::runtime::stored::Stored;

/// The runtime at `/runtime/image`.
pub const DEFAULT: &str = "default";
/// Holds what would stand in `runtime.json`; where it does, no such file is read.
const VARIABLE: &str = "SANBOX_RUNTIME_CONFIG";
/// Longest `runtime.json`, in bytes.
const LONGEST: usize = 1 << 20;
/// The one directory in the data directory that may hold images: a service may have no other that it writes to.
const IMAGES: &str = "images";
/// Longest name of an image's file, in bytes: what stands beside it has longer ones.
const LONGEST_FILE_NAME: usize = 200;

/// One runtime.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of the file")]
pub struct Runtime {
    /// Whether it answers; else its image is copied by the clock and nothing else.
    pub enabled: bool,
    /// Its key.
    pub api_key: Secret,
    /// The key before, which is still good; empty is none.
    pub previous_api_key: Secret,
    /// Whether its image may be read, replaced and pushed.
    pub allow_deployments: bool,
    /// The image.
    pub image: PathBuf,
    /// Where in a store it is kept instead.
    pub stored: Option<Stored>,
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
    /// Plugins with `on_image_deployed`.
    Script,
}

#[derive(Clone, Copy)]
enum ReloadKind {
    None,
    Command,
    Push,
    Script,
}

impl Judge<'_> {
    pub(super) fn runtimes(
        &mut self,
        files: &RuntimesFile,
        stores: &StoresFile,
        data_dir: &Path,
    ) -> BTreeMap<String, Runtime> {
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
            let backups = self.frequency(name, &file);
            if file.enabled || file.do_backups {
                self.assert_store(name, &file, stores);
                let runtime = self.runtime(name, &file, backups.filter(|_| file.do_backups));
                runtimes.insert(name.clone(), runtime);
            }
        }
        let data_dir = resolved(data_dir);
        let mut images = BTreeMap::new();
        for (name, runtime) in &runtimes {
            let place = match &runtime.stored {
                Some(stored) => PathBuf::from(format!(
                    "{}/{}",
                    stored.organization.folded(),
                    stored.name.folded()
                )),
                None => resolved(&runtime.image),
            };
            // That of one whose store is wrong is told of elsewhere.
            let is_file = files.0.get(name).is_some_and(|f| f.store.is_empty());
            let is_among_ours =
                place.starts_with(&data_dir) && !place.starts_with(data_dir.join(IMAGES));
            if is_file && is_among_ours {
                self.wrong(
                    format!("runtimes.{name}.image_file_path"),
                    "it would be in data_dir, among the gateway's own files: name one elsewhere, or in images there",
                );
            }
            if is_file
                && place
                    .file_name()
                    .is_some_and(|n| n.len() > LONGEST_FILE_NAME)
            {
                self.wrong(
                    format!("runtimes.{name}.image_file_path"),
                    format!("the name of the file has at most {LONGEST_FILE_NAME} bytes"),
                );
            }
            let place = (runtime.stored.is_some(), place);
            if let Some(other) = images.insert(place, name) {
                self.wrong(
                    format!("runtimes.{name}.image_file_path"),
                    format!("runtimes.{other} has the same image"),
                );
            }
        }
        runtimes
    }

    /// When copies are to be made; looked at also where none are made yet.
    fn frequency(&mut self, name: &str, file: &RuntimeFile) -> Option<Frequency> {
        match Frequency::parse(&file.backup_frequency, &file.backup_time_zone) {
            Ok(frequency) => Some(frequency),
            Err(why) => {
                self.wrong(format!("runtimes.{name}.backup_frequency"), why);
                None
            }
        }
    }

    fn runtime(&mut self, name: &str, file: &RuntimeFile, backups: Option<Frequency>) -> Runtime {
        let key = |key: &str| format!("runtimes.{name}.{key}");
        let api_key = self.secret(&key("api_key"), &file.api_key, &file.api_key_file);
        if file.enabled {
            self.assert_key(key("api_key"), &api_key);
        }
        let before = (&file.previous_api_key, &file.previous_api_key_file);
        let previous = self.secret(&key("previous_api_key"), before.0, before.1);
        if !previous.is_empty() {
            self.assert_key(key("previous_api_key"), &previous);
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
            enabled: file.enabled,
            api_key: Secret::new(api_key),
            previous_api_key: Secret::new(previous),
            allow_deployments: file.allow_deployments,
            stored: self.stored(name, file, image),
            image: PathBuf::from(image),
            backups,
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

    fn assert_store(&mut self, name: &str, file: &RuntimeFile, stores: &StoresFile) {
        let key = |key: &str| format!("runtimes.{name}.{key}");
        if !file.store.is_empty() && !stores.0.contains_key(&file.store) {
            let named: Vec<_> = stores.0.keys().map(String::as_str).collect();
            let text = format!(
                "no store is named {:?}; there is {}",
                file.store,
                named.join(", ")
            );
            self.wrong(key("store"), text);
        }
    }

    /// The name of an image that is kept in a store: the last part of its path.
    fn stored(&mut self, name: &str, file: &RuntimeFile, image: &str) -> Option<Stored> {
        let key = |key: &str| format!("runtimes.{name}.{key}");
        if file.store.is_empty() {
            return None;
        }
        if file.rollback_on_reload_failure {
            let text = "only an image in a file is put back: leave store empty, or this false";
            self.wrong(key("rollback_on_reload_failure"), text);
        }
        let organization = file.organization.parse();
        if let Err(why) = &organization {
            let text = format!("an image in a store is an organization's: {why}");
            self.wrong(key("organization"), text);
        }
        let of_store = image.rsplit('/').next().unwrap_or_default().parse();
        if let Err(why) = &of_store {
            self.wrong(key("image_file_path"), why);
        }
        Some(Stored {
            store: file.store.clone(),
            organization: organization.ok()?,
            name: of_store.ok()?,
        })
    }

    fn assert_key(&mut self, key: String, text: &str) {
        if text == SAMPLE || text.chars().count() < SHORTEST {
            self.wrong(
                key,
                format!(
                    "expected at least {SHORTEST} characters that nobody can guess, such as \
                     `openssl rand -hex 32` prints"
                ),
            );
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
            ("script", ReloadKind::Script),
        ];
        let rule = "expected \"none\", \"webhook\", \"command\", \"push\" or \"script\"";
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
            Some(ReloadKind::Script) => Reload::Script,
            Some(ReloadKind::None) | None => Reload::None,
        }
    }

    /// The keys with what `import` names in their places.
    fn imported(&mut self, name: &str, mut file: RuntimeFile) -> RuntimeFile {
        if file.import.is_empty() {
            return file;
        }
        let imported = read(&file.import).and_then(|(said_in, document)| {
            import(&mut file, &document).map_err(|why| format!("{said_in}: {why}"))
        });
        if let Err(why) = imported {
            self.wrong(format!("runtimes.{name}.import"), why);
        }
        file
    }
}

/// The path without links, as far as it is there, and without steps back.
fn resolved(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_e| path.to_owned());
    let mut resolved = PathBuf::new();
    for part in absolute.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                resolved.pop();
            }
            part => {
                resolved.push(part);
                resolved = std::fs::canonicalize(&resolved).unwrap_or(resolved);
            }
        }
    }
    resolved
}

/// What `import` names, and where it was found.
fn read(path: &str) -> Result<(String, Value), String> {
    let (said_in, text) = match variable(VARIABLE).filter(|text| !text.is_empty()) {
        Some(text) => (VARIABLE.to_owned(), text),
        None => match std::fs::read_to_string(path) {
            Ok(text) => (path.to_owned(), text),
            Err(e) => return Err(format!("cannot read {path}: {e}")),
        },
    };
    let document = parse(&text).map_err(|why| format!("{said_in}: {why}"))?;
    Ok((said_in, document))
}

fn parse(text: &str) -> Result<Value, String> {
    if text.len() > LONGEST {
        return Err(format!("longer than {LONGEST} bytes"));
    }
    let text = text.trim_start_matches('\u{feff}');
    document(text).map_err(|e| format!("no JSON: {e}"))
}

/// A member by its path, whose names are read in any case; `null` is none.
fn member<'a>(document: &'a Value, path: &[&str]) -> Option<&'a Value> {
    let found = path.iter().try_fold(document, |of, name| {
        let members = of.as_object()?;
        let found = members.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value)
    });
    found.filter(|value| !value.is_null())
}

/// Refuses a document that has something else where its sections are: passing them over would take defaults for what
/// somebody wrote.
fn has_sections(document: &Value, sections: &[&[&str]]) -> Result<(), String> {
    if !document.is_object() {
        return Err("it is no object with sections".to_owned());
    }
    let is_wrong = |path: &&&[&str]| member(document, path).is_some_and(|s| !s.is_object());
    match sections.iter().find(is_wrong) {
        Some(wrong) => Err(format!("{} is no section with keys", wrong.join("."))),
        None => Ok(()),
    }
}

/// Adds the listeners of each web server that is to be imported, for its runtime alone, and takes over its certificate
/// where none is named.
pub(super) fn take_web_servers(file: &mut ConfigFile, mistakes: &mut Vec<Mistake>) {
    for (name, runtime) in &file.runtimes.0 {
        if !runtime.import_web_server {
            continue;
        }
        let taken = match read(&runtime.import) {
            Ok((_, document)) => web_server(&document, &mut file.tls),
            // What cannot be read is told of by `import`.
            Err(_) if !runtime.import.is_empty() => continue,
            Err(_) => Err("import names no file".to_owned()),
        };
        match taken {
            Ok(listeners) => file.listeners.extend(listeners),
            Err(text) => mistakes.push(Mistake {
                key: format!("runtimes.{name}.import_web_server"),
                text,
            }),
        }
    }
}

/// The listeners of a runtime's web server.
fn web_server(document: &Value, tls: &mut TlsFile) -> Result<Vec<ListenerFile>, String> {
    has_sections(
        document,
        &[
            &["HttpWebServer"],
            &["HttpWebServer", "Http"],
            &["HttpWebServer", "Https"],
        ],
    )?;
    let find = |path: &[&str]| member(document, &[&["HttpWebServer"], path].concat());
    let port = |section: &str, otherwise: u16| match find(&[section, "Port"]) {
        None => Ok(otherwise),
        Some(port) => {
            let port = port.as_u64().and_then(|port| u16::try_from(port).ok());
            let port = port.filter(|port| *port > 0);
            port.ok_or_else(|| format!("HttpWebServer.{section}.Port is no port"))
        }
    };
    let truth = |name: &str, otherwise: bool| match find(&["Https", name]) {
        None => Ok(otherwise),
        Some(value) => value
            .as_bool()
            .ok_or_else(|| format!("HttpWebServer.Https.{name} is neither true nor false")),
    };
    let listener = |port: u16, tls: bool| ListenerFile {
        address: format!("0.0.0.0:{port}"),
        tls,
        doors: vec!["runtime".to_owned()],
        ..ListenerFile::default()
    };
    if !truth("UseHttps", false)? {
        return Ok(vec![listener(port("Http", 80)?, false)]);
    }
    if tls.certificate.is_empty() {
        let path = find(&["Https", "CertPath"])
            .and_then(Value::as_str)
            .unwrap_or_default();
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if !text.contains("BEGIN CERTIFICATE") || !text.contains("PRIVATE KEY") {
            return Err(format!(
                "HttpWebServer.Https.CertPath ({path:?}) is no PEM file with a certificate and its key: make one \
                 (`openssl pkcs12 -in FILE.pfx -nodes -out FILE.pem`) and name it by tls.certificate and tls.key"
            ));
        }
        path.clone_into(&mut tls.certificate);
        path.clone_into(&mut tls.key);
    }
    let mut listeners = vec![listener(port("Https", 443)?, true)];
    // It would lead to the other port, which keys must not wait for.
    if !truth("RedirectToHttps", true)? {
        listeners.push(listener(port("Http", 80)?, false));
    }
    Ok(listeners)
}

/// Takes over the members of `Image` and `RuntimeAPI`; other sections are the runtime's.
fn import(file: &mut RuntimeFile, document: &Value) -> Result<(), String> {
    has_sections(document, &[&["Image"], &["RuntimeAPI"]])?;
    let member = |section: &str, name: &str| member(document, &[section, name]);
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
    let keys = [
        ("APIKey", &mut file.api_key, &mut file.api_key_file),
        (
            "PreviousAPIKey",
            &mut file.previous_api_key,
            &mut file.previous_api_key_file,
        ),
    ];
    for (name, place, in_a_file) in keys {
        if let Some(value) = member("RuntimeAPI", name) {
            let text = value.as_str();
            *place = Secret::new(text.ok_or_else(|| format!("RuntimeAPI.{name} is no text"))?);
            in_a_file.clear();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_section_is_refused() {
        for (text, why) in [
            ("[]", "it is no object"),
            (r#"{"RuntimeAPI": true}"#, "RuntimeAPI is no section"),
            (r#"{"image": []}"#, "Image is no section"),
        ] {
            let imported = import(&mut RuntimeFile::default(), &parse(text).unwrap());
            assert!(imported.unwrap_err().starts_with(why), "{text}");
        }
        for (text, why) in [
            (r#"{"HttpWebServer": "x"}"#, "HttpWebServer is no section"),
            (
                r#"{"HttpWebServer": {"Https": 1}}"#,
                "HttpWebServer.Https is",
            ),
            (
                r#"{"HttpWebServer": {"Http": {"Port": 0}}}"#,
                "HttpWebServer.Http.Port",
            ),
        ] {
            let taken = web_server(&parse(text).unwrap(), &mut TlsFile::default());
            assert!(taken.unwrap_err().starts_with(why), "{text}");
        }
    }

    #[test]
    fn both_sections_are_taken_over_and_others_left_alone() {
        let mut file = RuntimeFile::default();
        let text = r#"{
            "image": {"IMAGEFILEPATH": "a.sbimg", "DoBackups": true, "BackupRetentionCount": 3, "AllowDeployments": true},
            "RuntimeAPI": {"Enabled": true, "apikey": "a key of the runtime", "PreviousAPIKey": "before", "Later": [1]},
            "HttpWebServer": {"GlobalHeaders": {"X-Frame-Options": "DENY"}},
        }"#;
        import(&mut file, &parse(text).unwrap()).unwrap();
        let expected = RuntimeFile {
            image_file_path: "a.sbimg".to_owned(),
            do_backups: true,
            backup_retention_count: 3,
            allow_deployments: true,
            enabled: true,
            api_key: Secret::new("a key of the runtime"),
            previous_api_key: Secret::new("before"),
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
            let imported =
                parse(text).and_then(|document| import(&mut RuntimeFile::default(), &document));
            let why = imported.unwrap_err();
            assert!(
                why.contains(said) && !why.contains("123456"),
                "{text}: {why}"
            );
        }
    }
    #[test]
    fn a_web_server_is_its_ports_for_the_runtime_alone() {
        let listens = |text: &str, tls: &mut TlsFile| {
            let listeners = web_server(&parse(text).unwrap(), tls)?;
            Ok::<_, String>(
                listeners
                    .into_iter()
                    .map(|l| {
                        assert_eq!(l.doors, ["runtime"]);
                        (l.address, l.tls)
                    })
                    .collect::<Vec<_>>(),
            )
        };
        let listens_plainly = |text: &str| listens(text, &mut TlsFile::default());
        let at = |address: &str, tls| (address.to_owned(), tls);
        assert_eq!(listens_plainly("{}").unwrap(), [at("0.0.0.0:80", false)]);
        let text = r#"{"httpwebserver": {"Http": {"Port": 8080}, "Https": {"UseHttps": false, "Port": 1}}}"#;
        assert_eq!(listens_plainly(text).unwrap(), [at("0.0.0.0:8080", false)]);

        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("both.pem");
        let https = |more: &str| {
            let path = path.display();
            format!(
                r#"{{"HttpWebServer": {{"Https": {{"UseHttps": true, "CertPath": "{path}"{more}}}}}}}"#
            )
        };
        let why = listens_plainly(&https("")).unwrap_err();
        assert!(why.contains("openssl pkcs12"), "{why}");
        std::fs::write(
            &path,
            "-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----",
        )
        .unwrap();
        let mut tls = TlsFile::default();
        let found = listens(&https(r#", "Port": 8443"#), &mut tls).unwrap();
        assert_eq!(found, [at("0.0.0.0:8443", true)]);
        let expected = path.display().to_string();
        assert_eq!((&tls.certificate, &tls.key), (&expected, &expected));
        let mut ours = TlsFile {
            certificate: "ours.pem".to_owned(),
            ..TlsFile::default()
        };
        let both = listens(&https(r#", "RedirectToHttps": false"#), &mut ours).unwrap();
        assert_eq!(both, [at("0.0.0.0:443", true), at("0.0.0.0:80", false)]);
        assert_eq!(ours.certificate, "ours.pem");
        let why = listens_plainly(r#"{"HttpWebServer": {"Http": {"Port": 70000}}}"#).unwrap_err();
        assert!(why.contains("Http.Port"), "{why}");
    }
}
