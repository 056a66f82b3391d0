//! The sources of one plugin, read whole and hashed before anything looks at them.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use serde::{Deserialize, Serialize};

use crate::error::Finding;
use crate::limits::{MAX_FILE_BYTES, MAX_MODULES, MAX_PLUGIN_BYTES};

/// The sources of one plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// The plugin's name.
    pub name: String,
    /// `plugin.toml`; empty for a plugin of one file.
    pub manifest: String,
    /// The file with the hooks.
    pub main: String,
    /// Texts by their path below the plugin's directory: `main.rhai`, `lib/x.rhai`, `tests/x.rhai`.
    pub files: BTreeMap<String, String>,
}

impl Bundle {
    /// What identifies these sources: the first 16 hexadecimal digits of a BLAKE3.
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut part = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        part(&self.name);
        part(&self.manifest);
        part(&self.main);
        for (path, text) in &self.files {
            part(path);
            part(text);
        }
        hasher.finalize().to_hex().as_str()[..16].to_owned()
    }

    /// A plugin of one file, which may not ask for anything.
    pub fn of_source(name: &str, source: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            manifest: String::new(),
            main: "main.rhai".into(),
            files: BTreeMap::from([("main.rhai".to_owned(), source.into())]),
        }
    }

    /// Reads `acme/` (with `main.rhai`) or `acme.rhai`.
    ///
    /// # Errors
    /// What cannot be read or is too large.
    pub fn read(path: &Path) -> Result<Self, Finding> {
        let name = path
            .file_stem()
            .and_then(|s| s.to_str())
            .unwrap_or_default();
        if !valid_name(name) {
            return Err(Finding::of_file(
                &path.display().to_string(),
                "a plugin's name has 1 to 64 of a-z, 0-9, - and _, and begins with a letter",
            ));
        }
        if path.extension().is_some_and(|e| e == "rhai") && !path.is_dir() {
            let text = read_text(path, &format!("{name}.rhai"))?;
            let mut bundle = Self::of_source(name, "");
            bundle.main = format!("{name}.rhai");
            bundle.files = BTreeMap::from([(bundle.main.clone(), text)]);
            return Ok(bundle);
        }
        let root = path
            .canonicalize()
            .map_err(|e| Finding::of_file(name, e.to_string()))?;
        let mut bundle = Self {
            name: name.to_owned(),
            manifest: String::new(),
            main: "main.rhai".into(),
            files: BTreeMap::new(),
        };
        if root.join("plugin.toml").exists() {
            bundle.manifest = read_text(&confined(&root, "plugin.toml")?, "plugin.toml")?;
        }
        if !root.join("main.rhai").exists() {
            return Err(Finding::of_file(
                "main.rhai",
                format!("{name} has no main.rhai, in which its hooks stand"),
            ));
        }
        let mut found = Vec::from(["main.rhai".to_owned()]);
        for folder in ["lib", "tests"] {
            list(&root, folder, &mut found, 0)?;
        }
        if root.join(SNAPSHOTS).exists() {
            found.push(SNAPSHOTS.to_owned());
        }
        let mut total = 0;
        for file in found {
            let text = read_text(&confined(&root, &file)?, &file)?;
            if !file.starts_with("tests/") {
                total += text.len();
            }
            bundle.files.insert(file, text);
        }
        let modules = bundle
            .files
            .keys()
            .filter(|f| f.starts_with("lib/"))
            .count();
        if modules > MAX_MODULES {
            return Err(Finding::of_file(
                "lib",
                format!("{modules} modules, a plugin has at most {MAX_MODULES}"),
            ));
        }
        if total > MAX_PLUGIN_BYTES {
            return Err(Finding::of_file(
                name,
                format!("{total} bytes of source, a plugin has at most {MAX_PLUGIN_BYTES}"),
            ));
        }
        Ok(bundle)
    }

    /// The same as if it had been read from a folder: what came from elsewhere may name or hold anything.
    ///
    /// # Errors
    /// What no folder would hold.
    pub fn received(self) -> Result<Self, Finding> {
        let wrong = |file: &str, text: String| Err(Finding::of_file(file, text));
        if !valid_name(&self.name) {
            return wrong(&self.name, "is no name of a plugin".into());
        }
        let own = format!("{}.rhai", self.name);
        if !(self.main == "main.rhai" || self.main == own) || !self.files.contains_key(&self.main) {
            return wrong(&self.main, "is no main file of this plugin".into());
        }
        if self.files.len() > MAX_FILES {
            return wrong(
                &self.name,
                format!("a plugin has at most {MAX_FILES} files"),
            );
        }
        let (mut total, mut modules) = (0, 0);
        for (file, text) in &self.files {
            let plain = file
                .split('/')
                .all(|part| !part.starts_with('.') && valid_part(part));
            let placed =
                *file == self.main || file.starts_with("lib/") || file.starts_with("tests/");
            let script =
                file == SNAPSHOTS || Path::new(file).extension().is_some_and(|e| e == "rhai");
            if !plain || !placed || !script {
                return wrong(file, "is no file of a plugin".into());
            }
            if text.len() > MAX_FILE_BYTES {
                return wrong(file, format!("is larger than {MAX_FILE_BYTES} bytes"));
            }
            modules += usize::from(file.starts_with("lib/"));
            total += if file.starts_with("tests/") {
                0
            } else {
                text.len()
            };
        }
        if self.manifest.len() > MAX_FILE_BYTES {
            return wrong(
                "plugin.toml",
                format!("is larger than {MAX_FILE_BYTES} bytes"),
            );
        }
        if modules > MAX_MODULES || total > MAX_PLUGIN_BYTES {
            let text = format!(
                "{modules} modules and {total} bytes of source, a plugin has at most {MAX_MODULES} and {MAX_PLUGIN_BYTES}"
            );
            return wrong(&self.name, text);
        }
        Ok(self)
    }

    /// The text of a file.
    pub fn text(&self, file: &str) -> &str {
        self.files.get(file).map_or("", String::as_str)
    }

    /// The files with unit tests.
    pub fn tests(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files
            .iter()
            .filter(|(path, _)| path.starts_with("tests/") && *path != SNAPSHOTS)
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }
}

/// What can be seen of a plugin whose sources cannot be taken: enough to tell which gates it has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Glimpse {
    /// The beginning of its main file, whatever bytes that has; `None` where nothing of it can be read.
    pub(crate) main: Option<String>,
    /// Its manifest, where that can be read.
    pub(crate) manifest: String,
}

impl Glimpse {
    /// Of `acme/` or `acme.rhai`.
    pub(crate) fn of(path: &Path) -> Self {
        let whole = |path: &Path| {
            let bytes = read_regular(path, MAX_PLUGIN_BYTES).ok()?;
            // What is longer may have its gates behind that.
            (bytes.len() <= MAX_PLUGIN_BYTES).then(|| String::from_utf8_lossy(&bytes).into_owned())
        };
        if path.extension().is_some_and(|e| e == "rhai") && !path.is_dir() {
            return Self {
                main: whole(path),
                manifest: String::new(),
            };
        }
        Self {
            main: whole(&path.join("main.rhai")),
            manifest: whole(&path.join("plugin.toml")).unwrap_or_default(),
        }
    }
}

/// What `t::snapshot` saw when it was right.
pub const SNAPSHOTS: &str = "tests/snapshots.json";
/// Most files that a folder of a plugin may hold: tests may be more than modules.
const MAX_FILES: usize = 256;
/// Deepest folder within `lib` or `tests`.
const MAX_FOLDERS: usize = 4;

fn list(root: &Path, folder: &str, found: &mut Vec<String>, depth: usize) -> Result<(), Finding> {
    let Ok(entries) = std::fs::read_dir(root.join(folder)) else {
        return Ok(());
    };
    let mut names: Vec<_> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    for name in names {
        let path = format!("{folder}/{name}");
        if root.join(&path).is_dir() {
            if depth < MAX_FOLDERS {
                list(root, &path, found, depth + 1)?;
            }
        } else if Path::new(&name).extension().is_some_and(|e| e == "rhai") {
            found.push(path);
        }
        if found.len() > MAX_FILES {
            return Err(Finding::of_file(
                folder,
                format!("a plugin has at most {MAX_FILES} files"),
            ));
        }
    }
    Ok(())
}

/// The file's real place, which must lie below the plugin's own directory.
fn confined(root: &Path, file: &str) -> Result<PathBuf, Finding> {
    let path = root
        .join(file)
        .canonicalize()
        .map_err(|e| Finding::of_file(file, e.to_string()))?;
    if path.starts_with(root) {
        Ok(path)
    } else {
        Err(Finding::of_file(
            file,
            "leads out of the plugin's directory by a symbolic link",
        ))
    }
}

fn read_text(path: &Path, shown: &str) -> Result<String, Finding> {
    let bytes = read_regular(path, MAX_FILE_BYTES)
        .map_err(|error| Finding::of_file(shown, error.to_string()))?;
    if bytes.len() > MAX_FILE_BYTES {
        return Err(Finding::of_file(
            shown,
            format!("is larger than {MAX_FILE_BYTES} bytes"),
        ));
    }
    let text =
        String::from_utf8(bytes).map_err(|_binary| Finding::of_file(shown, "is not UTF-8"))?;
    if text.starts_with('\u{feff}') {
        let finding = Finding::of_file(shown, "begins with a byte order mark");
        return Err(finding.hint("save it as UTF-8 without one"));
    }
    Ok(text)
}

/// At most one byte more than `most` of a regular file. Whoever may write there may put a pipe in its place, at which a
/// reader would wait for ever.
///
/// # Errors
/// When it is no regular file, or cannot be read.
pub(crate) fn read_regular(path: &Path, most: usize) -> std::io::Result<Vec<u8>> {
    let no_file = || std::io::Error::other("is no regular file");
    // To open some things does something to them.
    if !std::fs::metadata(path)?.is_file() {
        return Err(no_file());
    }
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file = std::fs::File::options()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(no_file());
    }
    let mut bytes = Vec::new();
    file.take(most as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether that may be one part of a file's path.
fn valid_part(part: &str) -> bool {
    !part.is_empty() && part.len() <= 255 && !part.contains(|c: char| c.is_control() || c == '\\')
}

/// Whether a plugin may be called so: names become paths, metrics and settings.
pub fn valid_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_')
}

/// Whether a folder is meant to be a plugin: it has anything that only plugins have. One that lost its `main.rhai` is
/// broken, and not gone.
pub fn is_plugin(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).exists();
    ["main.rhai", "plugin.toml", "tests"].into_iter().any(has)
}

/// The plugin that a person means by a path: `main.rhai` of a plugin's folder stands for the folder.
pub fn meant(path: &Path) -> PathBuf {
    let main = path.file_name().is_some_and(|name| name == "main.rhai");
    let Some(folder) = path.canonicalize().ok().filter(|_| main) else {
        return path.to_owned();
    };
    folder
        .parent()
        .map_or_else(|| path.to_owned(), Path::to_owned)
}

/// The plugins of a directory: folders ([`is_plugin`]), and files `*.rhai`, by name.
///
/// # Errors
/// When the directory cannot be read; one that is not there holds none.
pub fn plugins_in(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .and_then(|n| n.to_str())
            .is_none_or(|n| n.starts_with('.'));
        let plugin = if path.is_dir() {
            is_plugin(&path)
        } else {
            path.extension().is_some_and(|e| e == "rhai")
        };
        if plugin && !hidden {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugin_is_read_with_its_modules_and_tests() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("acme");
        std::fs::create_dir_all(root.join("lib/deep")).unwrap();
        std::fs::create_dir_all(root.join("tests")).unwrap();
        std::fs::write(root.join("main.rhai"), "fn route(req) {}").unwrap();
        std::fs::write(root.join("lib/deep/x.rhai"), "").unwrap();
        std::fs::write(root.join("tests/t.rhai"), "").unwrap();
        let bundle = Bundle::read(&root).unwrap();
        let files: Vec<_> = bundle.files.keys().map(String::as_str).collect();
        assert_eq!(files, ["lib/deep/x.rhai", "main.rhai", "tests/t.rhai"]);
        let before = bundle.hash();
        std::fs::write(root.join("lib/deep/x.rhai"), " ").unwrap();
        assert_ne!(Bundle::read(&root).unwrap().hash(), before);
        assert_eq!(plugins_in(dir.path()).unwrap().as_slice(), [&*root]);
        std::fs::remove_file(root.join("main.rhai")).unwrap();
        assert_eq!(plugins_in(dir.path()).unwrap().as_slice(), [&*root]);
        let broken = Bundle::read(&root).unwrap_err();
        assert!(broken.message.contains("has no main.rhai"), "{broken}");
    }

    #[test]
    fn what_was_received_holds_what_a_folder_may() {
        let good = Bundle::of_source("acme", "fn route(req) {}");
        assert_eq!(good.clone().received().unwrap(), good);
        let with = |file: &str, text: &str| {
            let mut bundle = good.clone();
            bundle.files.insert(file.into(), text.into());
            bundle.received()
        };
        assert!(with("lib/a.rhai", "").is_ok() && with("tests/deep/a.rhai", "").is_ok());
        for file in [
            "../x.rhai",
            "lib/../x.rhai",
            "lib//x.rhai",
            "/etc/x.rhai",
            "lib/x.sh",
            "other.rhai",
            "lib/.x.rhai",
        ] {
            assert!(with(file, "").is_err(), "{file}");
        }
        assert!(with("lib/a.rhai", &"/".repeat(MAX_FILE_BYTES + 1)).is_err());
        for (name, main) in [
            ("../acme", "main.rhai"),
            ("acme", "lib/x.rhai"),
            ("acme", "acme.rhai"),
        ] {
            let (name, main) = (name.to_owned(), main.to_owned());
            assert!(
                Bundle {
                    name,
                    main,
                    ..good.clone()
                }
                .received()
                .is_err()
            );
        }
    }

    #[test]
    fn symbolic_links_out_of_the_plugin_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("acme");
        std::fs::create_dir_all(root.join("lib")).unwrap();
        std::fs::write(root.join("main.rhai"), "").unwrap();
        std::fs::write(dir.path().join("secret.rhai"), "").unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret.rhai"), root.join("lib/x.rhai"))
            .unwrap();
        let refused = Bundle::read(&root).unwrap_err();
        assert!(refused.message.contains("symbolic link"), "{refused}");
    }

    #[test]
    fn nobody_waits_at_a_pipe() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = |path: &Path| {
            rustix::fs::mkfifoat(rustix::fs::CWD, path, 0o600.into()).unwrap();
        };
        pipe(&dir.path().join("single.rhai"));
        let refused = Bundle::read(&dir.path().join("single.rhai")).unwrap_err();
        assert!(refused.message.contains("no regular file"), "{refused}");
        for file in ["main.rhai", "plugin.toml", "lib/a.rhai", "tests/a.rhai"] {
            let root = dir.path().join("acme");
            std::fs::create_dir_all(root.join("lib")).unwrap();
            std::fs::create_dir_all(root.join("tests")).unwrap();
            std::fs::write(root.join("main.rhai"), "fn route(req) {}").unwrap();
            std::fs::remove_file(root.join(file)).ok();
            pipe(&root.join(file));
            let refused = Bundle::read(&root).unwrap_err();
            assert_eq!(
                (refused.file.as_str(), refused.message.as_str()),
                (file, "is no regular file")
            );
            Glimpse::of(&root);
            std::fs::remove_dir_all(&root).unwrap();
        }
    }

    #[test]
    fn a_byte_order_mark_is_called_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("acme.rhai");
        std::fs::write(&path, "\u{feff}fn route(req) {}").unwrap();
        let refused = Bundle::read(&path).unwrap_err();
        assert!(refused.message.contains("byte order mark"), "{refused}");
    }

    #[test]
    fn sources_that_are_too_large_are_refused_before_they_are_compiled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("big.rhai");
        std::fs::write(&path, "/".repeat(MAX_FILE_BYTES + 1)).unwrap();
        assert!(Bundle::read(&path).unwrap_err().message.contains("larger"));
        let odd = dir.path().join("No.rhai");
        std::fs::write(&odd, "").unwrap();
        assert!(Bundle::read(&odd).is_err());
    }
}
