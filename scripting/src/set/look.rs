//! What stands in the directories of plugins, and what stood there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::PoisonError;

use super::{OpenError, Scripts};
use crate::archive::Places;
use crate::bundle::{Bundle, Glimpse, plugins_in, read_regular};
use crate::error::Finding;
use crate::hook::{HOOKS, Hook, OnFailure};
use crate::limits::MAX_FILE_BYTES;

/// The file in a directory of plugins that names those that are off, one a line.
pub const DISABLED_FILE: &str = ".disabled";

/// Sources that cannot be taken: why, and what can be seen of them.
#[derive(Debug)]
pub(super) struct Unreadable {
    pub(super) finding: Finding,
    pub(super) glimpse: Glimpse,
}

/// What stands in the directories: each plugin's sources, and whether it is off.
pub(super) type Found = BTreeMap<String, (Result<Bundle, Unreadable>, bool)>;

impl Scripts {
    /// The sources in all directories, and which plugin stands where.
    pub(super) fn look(&self) -> Result<(Found, Places), OpenError> {
        let mut off = BTreeSet::new();
        for dir in &self.options.dirs {
            off.append(&mut disabled(dir));
        }
        let mut found: Found = BTreeMap::new();
        for (name, bundle) in self.locked_pushed().iter() {
            let checked = bundle.clone().received().map_err(|finding| Unreadable {
                finding,
                glimpse: Glimpse {
                    main: Some(bundle.text(&bundle.main).to_owned()),
                    manifest: bundle.manifest.clone(),
                },
            });
            found.insert(name.clone(), (checked, off.contains(name)));
        }
        let mut places = Places::new();
        for dir in &self.options.dirs {
            let mut here = BTreeSet::new();
            let is_there = dir.exists();
            let paths = plugins_in(dir).map_err(|e| OpenError::Directory(dir.clone(), e))?;
            let off_here = disabled(dir);
            for path in &paths {
                let name = path.file_stem().and_then(|s| s.to_str());
                let name = name.unwrap_or_default();
                let off = off_here.contains(name);
                if !off {
                    here.insert(name.to_owned());
                }
                let read = || {
                    Bundle::read(path).map_err(|finding| Unreadable {
                        finding,
                        glimpse: Glimpse::of(path),
                    })
                };
                let found = found.entry(name.to_owned());
                found.or_insert_with(|| (read(), off));
            }
            let stood = self.locked_places().get(dir).cloned().unwrap_or_default();
            for name in stood.difference(&off) {
                let why = if !is_there {
                    format!("the directory {} is not there", dir.display())
                } else if paths.is_empty() {
                    format!("the directory {} holds no plugin any more", dir.display())
                } else if dir.join(name).is_dir() && !here.contains(name) {
                    format!("the folder {} is empty", dir.join(name).display())
                } else {
                    continue;
                };
                let gone = || (Err(self.gone(name, why)), false);
                found.entry(name.clone()).or_insert_with(gone);
                here.insert(name.clone());
            }
            if is_there || !here.is_empty() {
                places.insert(dir.clone(), here);
            }
        }
        Ok((found, places))
    }

    /// A plugin that nobody took away by itself: what held it is gone, as a mount may be.
    fn gone(&self, name: &str, why: String) -> Unreadable {
        let history = self.archive.history(name);
        let kept = history.in_force();
        let kept = kept.and_then(|hash| self.archive.get(name, hash));
        let hint = format!(
            "the version that last worked stays in force; one that is to go is switched off: boxgate script disable {name}"
        );
        Unreadable {
            finding: Finding::of_file(name, why).hint(hint),
            glimpse: Glimpse {
                main: kept.as_ref().map(|b| b.text(&b.main).to_owned()),
                manifest: kept.map(|bundle| bundle.manifest).unwrap_or_default(),
            },
        }
    }

    fn locked_places(&self) -> std::sync::MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps which plugin stands where, for a start without the directory.
    pub(super) fn note_places(&self, fresh: Places) {
        let mut places = self.locked_places();
        let is_empty = |places: &Places| places.values().all(BTreeSet::is_empty);
        if *places == fresh || (is_empty(&places) && is_empty(&fresh)) {
            return;
        }
        if let Err(error) = self.archive.keep_places(&fresh) {
            tracing::warn!(%error, "where plugins stand could not be kept for a restart");
        }
        *places = fresh;
    }
}

/// The plugins of a directory that are off.
pub fn disabled(dir: &Path) -> BTreeSet<String> {
    let bytes = read_regular(&dir.join(DISABLED_FILE), MAX_FILE_BYTES).unwrap_or_default();
    String::from_utf8_lossy(&bytes)
        .lines()
        .map(|line| line.trim().to_owned())
        .filter(|l| !l.is_empty())
        .collect()
}

/// The hooks that let something through, or not: those that can be made out in a text, or else all that there are.
pub(super) fn gates(text: Option<&str>) -> Vec<Hook> {
    let seen = text.map(written).unwrap_or_default();
    if !seen.is_empty() {
        return seen;
    }
    let rows = HOOKS.iter();
    // The last two are asked of by the plugin's name.
    rows.filter(|row| row.called && !row.of_provider && row.on_failure != OnFailure::Open)
        .map(|row| row.hook)
        .filter(|hook| !matches!(hook, Hook::Transform | Hook::WebhookIn))
        .collect()
}

/// The hooks that a source seems to define, where it cannot be compiled.
fn written(text: &str) -> Vec<Hook> {
    let mut words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
    let mut names = BTreeSet::new();
    while let Some(word) = words.next() {
        if word == "fn" {
            names.extend(words.by_ref().find(|word| !word.is_empty()));
        }
    }
    HOOKS
        .iter()
        .filter(|row| row.called && names.contains(row.name))
        .map(|row| row.hook)
        .collect()
}
