//! Plugins as they last worked, kept by hash: what a broken file or a restart falls back on.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::bundle::{Bundle, valid_name};

/// The plugins that stood in each directory when it was last seen.
pub type Places = BTreeMap<PathBuf, BTreeSet<String>>;

/// Versions of one plugin that are kept.
pub const KEPT: usize = 5;

/// A directory with one folder a plugin.
#[derive(Debug, Clone)]
pub struct Archive(PathBuf);

/// What is known of one plugin.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Hashes of versions that worked, the one that was taken last first.
    pub hashes: Vec<String>,
    /// The one that was gone back to, where one was.
    #[serde(default)]
    pub gone_back_to: Option<String>,
    /// The version in the plugin's directory that was rolled back from, until another stands there.
    pub held_back: Option<String>,
}

impl History {
    /// The version in force, as far as this is known here.
    pub fn in_force(&self) -> Option<&String> {
        self.gone_back_to.as_ref().or(self.hashes.first())
    }

    /// The version that was taken before `hash`, or before all where that is not known.
    pub fn before(&self, hash: Option<&str>) -> Option<&String> {
        let at = self.hashes.iter().position(|h| Some(h.as_str()) == hash);
        self.hashes.get(at.map_or(0, |index| index + 1))
    }
}

impl Archive {
    /// In a directory, which is made when something is kept.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    fn folder(&self, plugin: &str) -> PathBuf {
        self.0.join(plugin)
    }

    /// What is known of a plugin.
    pub fn history(&self, plugin: &str) -> History {
        if !valid_name(plugin) {
            return History::default();
        }
        let text = std::fs::read_to_string(self.folder(plugin).join("history.json"));
        let text = text.unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// The sources of a version; `None` when they are not there or not whole.
    pub fn get(&self, plugin: &str, hash: &str) -> Option<Bundle> {
        if !valid_name(plugin) || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let path = self.folder(plugin).join(format!("{hash}.json"));
        let bundle: Bundle = serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()?;
        (bundle.hash() == hash).then_some(bundle)
    }

    /// Where plugins stood, as it was last kept.
    pub fn places(&self) -> Places {
        let text = std::fs::read_to_string(self.0.join(PLACES)).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Keeps where plugins stand.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep_places(&self, places: &Places) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.0)?;
        let text = serde_json::to_string(places).map_err(std::io::Error::other)?;
        write(&self.0.join(PLACES), &text)
    }

    /// Notes that a version was gone back to, from the one in the plugin's directory, until another stands there.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn go_back(&self, plugin: &str, hash: &str, held_back: &str) -> std::io::Result<()> {
        let history = History {
            gone_back_to: Some(hash.to_owned()),
            held_back: Some(held_back.to_owned()),
            ..self.history(plugin)
        };
        let text = serde_json::to_string(&history).map_err(std::io::Error::other)?;
        write(&self.folder(plugin).join("history.json"), &text)
    }

    /// Keeps a version as the one in force.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(&self, bundle: &Bundle) -> std::io::Result<()> {
        let folder = self.folder(&bundle.name);
        std::fs::create_dir_all(&folder)?;
        let hash = bundle.hash();
        let mut history = self.history(&bundle.name);
        let text = serde_json::to_string(bundle).map_err(std::io::Error::other)?;
        write(&folder.join(format!("{hash}.json")), &text)?;
        history.hashes.retain(|known| *known != hash);
        history.hashes.insert(0, hash);
        history.held_back = None;
        history.gone_back_to = None;
        let gone = history.hashes.split_off(history.hashes.len().min(KEPT));
        let text = serde_json::to_string(&history).map_err(std::io::Error::other)?;
        write(&folder.join("history.json"), &text)?;
        for hash in gone {
            // What stays behind is only space.
            drop(std::fs::remove_file(folder.join(format!("{hash}.json"))));
        }
        Ok(())
    }
}

/// Names of plugins begin with a letter.
const PLACES: &str = ".places.json";

/// Whole or not at all: a new file takes the place of the old one.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = std::fs::File::create(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_versions_are_kept_the_one_in_force_first() {
        let dir = tempfile::tempdir().unwrap();
        let archive = Archive::new(dir.path().join("last-good"));
        let bundles: Vec<_> = (0..7)
            .map(|n| Bundle::of_source("acme", format!("// {n}")))
            .collect();
        for bundle in &bundles {
            archive.keep(bundle).unwrap();
        }
        let history = archive.history("acme");
        assert_eq!(history.hashes.len(), KEPT);
        assert_eq!(history.hashes[0], bundles[6].hash());
        assert_eq!(
            archive.get("acme", &bundles[6].hash()),
            Some(bundles[6].clone())
        );
        assert_eq!(archive.get("acme", &bundles[0].hash()), None);
        archive
            .go_back("acme", &bundles[4].hash(), &bundles[6].hash())
            .unwrap();
        let history = archive.history("acme");
        assert_eq!(history.in_force(), Some(&bundles[4].hash()));
        assert_eq!(
            history.before(Some(&bundles[4].hash())),
            Some(&bundles[3].hash())
        );
        assert_eq!(history.before(Some(&bundles[2].hash())), None);
        assert_eq!(history.held_back, Some(bundles[6].hash()));
    }

    #[test]
    fn what_was_changed_in_the_archive_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let archive = Archive::new(dir.path());
        let bundle = Bundle::of_source("acme", "// good");
        archive.keep(&bundle).unwrap();
        let path = dir
            .path()
            .join("acme")
            .join(format!("{}.json", bundle.hash()));
        let text = std::fs::read_to_string(&path)
            .unwrap()
            .replace("good", "evil");
        std::fs::write(&path, text).unwrap();
        assert_eq!(archive.get("acme", &bundle.hash()), None);
        assert_eq!(archive.get("../acme", &bundle.hash()), None);
    }
}
