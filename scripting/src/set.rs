//! All plugins behind one atomic pointer: loading, reloading, falling back, rolling back.

mod adapters;
mod look;
mod options;
mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use serde::Serialize;

use crate::archive::{Archive, Places};
use crate::bundle::{Bundle, valid_name};
use crate::error::Finding;
use crate::hook::{HOOKS, Hook};
use crate::manifest::Manifest;
use crate::plugin::{Lasting, NO_HOOK, Plugin, load};
use crate::runner::{Share, Workers};
use crate::signals::Counters;
use crate::unit;
pub use look::{DISABLED_FILE, disabled};
use look::{Unreadable, gates};
pub use options::{Options, Startup};
pub use status::{HookStatus, State, Status};

/// One plugin within a set.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) plugin: Option<Arc<Plugin>>,
    pub(crate) state: State,
    pub(crate) findings: Vec<Finding>,
    /// Hash of what stands in its directory.
    on_disk: String,
    held_back: bool,
    generation: u64,
    pub(crate) share: Share,
    pub(crate) counters: Arc<BTreeMap<Hook, Counters>>,
    /// Hooks of a plugin that is not loaded, which answer by their failure rule.
    pub(crate) missing: Vec<Hook>,
    /// What such a plugin says of itself, where that can be read.
    said: Manifest,
    /// The id of an adapter that stands in its directory, and that another plugin has.
    clash: Option<String>,
}

impl Entry {
    /// The id of the adapter that it is.
    fn adapter(&self) -> Option<&str> {
        let meta = self.plugin.as_ref()?.provider.as_ref()?;
        Some(&meta.id)
    }

    /// What the plugin says of itself.
    pub(crate) fn manifest(&self) -> &Manifest {
        self.plugin.as_ref().map_or(&self.said, |p| p.manifest())
    }
}

/// All plugins at one time; immutable.
#[derive(Debug, Default)]
pub struct ScriptSet {
    pub(crate) entries: Vec<Arc<Entry>>,
    by_hook: BTreeMap<Hook, Vec<Arc<Entry>>>,
    hooks: u32,
    overrides: bool,
    generation: u64,
}

impl ScriptSet {
    fn new(mut entries: Vec<Arc<Entry>>, generation: u64) -> Self {
        entries.sort_by(|a, b| {
            let key = |e: &Entry| e.manifest().priority;
            (key(a), &a.name).cmp(&(key(b), &b.name))
        });
        let mut by_hook: BTreeMap<Hook, Vec<Arc<Entry>>> = BTreeMap::new();
        let mut hooks = 0;
        for entry in &entries {
            let defined = entry.plugin.as_ref().map_or(&[][..], |p| p.hooks());
            for hook in defined.iter().chain(&entry.missing) {
                by_hook.entry(*hook).or_default().push(Arc::clone(entry));
                hooks |= bit(*hook);
            }
        }
        let mut plugins = entries.iter().filter_map(|entry| entry.plugin.as_ref());
        let overrides = plugins.any(|plugin| plugin.manifest().overrides());
        Self {
            entries,
            by_hook,
            hooks,
            overrides,
            generation,
        }
    }

    /// Whether any plugin defines a hook.
    pub fn defines(&self, hook: Hook) -> bool {
        self.hooks & bit(hook) != 0
    }

    /// Whether a plugin's `allow()` grants what the gateway refuses.
    pub fn overrides(&self) -> bool {
        self.overrides
    }

    /// Whether no plugin defines any hook.
    pub fn is_idle(&self) -> bool {
        self.hooks == 0
    }

    pub(crate) fn of(&self, hook: Hook) -> &[Arc<Entry>] {
        self.by_hook.get(&hook).map_or(&[], Vec::as_slice)
    }
}

fn bit(hook: Hook) -> u32 {
    1 << (hook as u32)
}

/// What became of one plugin at a reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reloaded {
    /// The plugin.
    pub plugin: String,
    /// `loaded`, `unchanged`, `failed`, `removed`, `disabled` or `held_back`.
    pub result: &'static str,
    /// The version in force.
    pub hash: Option<String>,
    /// What is wrong or odd.
    pub findings: Vec<Finding>,
}

/// Why scripts did not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// With `strict`, a plugin does not work.
    #[error("plugin {plugin} does not work (scripts.startup is strict): {finding}")]
    Broken {
        /// Which.
        plugin: String,
        /// What is wrong.
        finding: Box<Finding>,
    },
    /// A directory cannot be read.
    #[error("cannot read plugins in {0} (scripts.dirs)")]
    Directory(PathBuf, #[source] std::io::Error),
}

/// Why a rollback did not happen.
#[derive(Debug, thiserror::Error)]
pub enum RollbackError {
    /// There is no such plugin.
    #[error("there is no plugin {0}")]
    NoPlugin(String),
    /// There is no such version.
    #[error("there is no version {0} to go back to")]
    NoVersion(String),
    /// The version does not work any more.
    #[error("the version {0} does not work any more: {1}")]
    Broken(String, Box<Finding>),
    /// It cannot be written down.
    #[error("the rollback cannot be kept")]
    Kept(#[source] std::io::Error),
}

/// What is kept of a plugin over its reloads.
type Kept = (Lasting, Arc<BTreeMap<Hook, Counters>>);

/// The scripts of a gateway.
#[derive(Debug)]
pub struct Scripts {
    current: ArcSwap<ScriptSet>,
    options: Options,
    archive: Archive,
    pub(crate) workers: Workers,
    lasting: Mutex<BTreeMap<String, Kept>>,
    // One reload at a time; calls never wait for it.
    reloading: Mutex<()>,
    pushed: Mutex<BTreeMap<String, Bundle>>,
    places: Mutex<Places>,
    reloads: Mutex<BTreeMap<(String, &'static str), u64>>,
}

#[expect(
    clippy::disallowed_methods,
    reason = "counts what passed between calls, which run on no clock of tokio's"
)]
pub(crate) fn now() -> Instant {
    Instant::now()
}

impl Scripts {
    /// Loads what stands in the directories.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(mut options: Options) -> Result<Self, OpenError> {
        let pushed = std::mem::take(&mut options.pushed);
        let archive = Archive::new(&options.last_good);
        let scripts = Self {
            current: ArcSwap::from_pointee(ScriptSet::default()),
            places: Mutex::new(archive.places()),
            reloads: Mutex::default(),
            archive,
            workers: Workers::new((options.workers, options.clouds), options.queue),
            options,
            lasting: Mutex::new(BTreeMap::new()),
            reloading: Mutex::new(()),
            pushed: Mutex::new(pushed),
        };
        let reports = scripts.change(false, true)?;
        if scripts.options.startup == Startup::Strict
            && let Some(broken) = reports.into_iter().find(|r| r.result == "failed")
        {
            let finding = broken.findings.into_iter().find(|f| f.fatal);
            return Err(OpenError::Broken {
                plugin: broken.plugin,
                finding: Box::new(finding.unwrap_or_else(|| Finding::of_file("", "failed"))),
            });
        }
        Ok(scripts)
    }

    /// A gateway without scripts.
    pub fn none() -> Self {
        let mut options = Options::in_directory("", "");
        options.dirs.clear();
        Self::open(options).expect("no directory is read")
    }

    /// The set of now; one atomic load.
    pub fn set(&self) -> arc_swap::Guard<Arc<ScriptSet>> {
        self.current.load()
    }

    /// Whether any plugin defines a hook.
    pub fn defines(&self, hook: Hook) -> bool {
        self.set().defines(hook)
    }

    /// Looks at the directories again and swaps once, if anything changed; `dry_run` only tells.
    ///
    /// Blocks for as long as compiling and testing take; never on a thread that serves.
    ///
    /// # Errors
    /// When a directory cannot be read; then nothing changes.
    pub fn reload(&self, dry_run: bool) -> Result<Vec<Reloaded>, OpenError> {
        self.change(dry_run, false)
    }

    fn change(&self, dry_run: bool, start: bool) -> Result<Vec<Reloaded>, OpenError> {
        let _reloading = self
            .reloading
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let before = self.current.load_full();
        let (found, places) = self.look()?;
        let generation = before.generation + 1;
        let mut reports = Vec::new();
        let mut entries = Vec::new();
        for (name, (bundle, disabled)) in &found {
            let old = before.entries.iter().find(|e| e.name == *name);
            let (entry, result) = self.one(name, bundle, *disabled, old, generation, start);
            reports.push(Reloaded {
                plugin: name.clone(),
                result,
                hash: entry.plugin.as_ref().map(|p| p.hash().to_owned()),
                findings: entry.findings.clone(),
            });
            entries.push(entry);
        }
        self.settle(&before, &found, &mut entries, &mut reports, start);
        for old in &before.entries {
            if !found.contains_key(&old.name) {
                reports.push(Reloaded {
                    plugin: old.name.clone(),
                    result: "removed",
                    hash: None,
                    findings: Vec::new(),
                });
            }
        }
        if dry_run {
            return Ok(reports);
        }
        self.note_places(places);
        for report in reports.iter().filter(|r| r.result != "unchanged") {
            self.count_reload(&report.plugin, report.result);
        }
        if reports.iter().all(|r| r.result == "unchanged") {
            return Ok(reports);
        }
        for entry in &entries {
            self.remember(entry);
        }
        let news = |entry: &&Arc<Entry>| entry.generation == generation;
        for entry in entries.iter().filter(news) {
            begin_anew(
                entry,
                before.entries.iter().find(|old| old.name == entry.name),
            );
        }
        self.current
            .store(Arc::new(ScriptSet::new(entries, generation)));
        Ok(reports)
    }

    fn count_reload(&self, plugin: &str, result: &'static str) {
        let mut reloads = self.reloads.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (plugin.to_owned(), result);
        if reloads.len() < MOST_COUNTED || reloads.contains_key(&key) {
            *reloads.entry(key).or_default() += 1;
        }
    }

    /// How often each plugin was loaded, failed to be, or else changed.
    pub fn reloads(&self) -> BTreeMap<(String, &'static str), u64> {
        let reloads = self.reloads.lock();
        reloads.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn locked_pushed(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Bundle>> {
        self.pushed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The plugins that stand in no directory, each with its hash.
    pub fn pushed(&self) -> BTreeMap<String, String> {
        let pushed = self.locked_pushed();
        let hashes = pushed.iter();
        hashes
            .map(|(name, bundle)| (name.clone(), bundle.hash()))
            .collect()
    }

    /// Replaces them; the next reload takes them.
    pub fn set_pushed(&self, pushed: BTreeMap<String, Bundle>) {
        *self.locked_pushed() = pushed;
    }

    pub(crate) fn stores(&self) -> Option<&BTreeSet<String>> {
        self.options.stores.as_ref()
    }

    /// What is odd about sources that would be taken.
    ///
    /// # Errors
    /// What is wrong with them, its tests included.
    pub fn check(&self, bundle: &Bundle) -> Result<Vec<Finding>, Vec<Finding>> {
        let bundle = bundle.clone().received().map_err(|finding| vec![finding])?;
        let masked = |findings: Vec<Finding>| -> Vec<Finding> {
            findings.into_iter().map(|f| self.masked(f)).collect()
        };
        let plugin = self.load_as(&bundle, true, true).map_err(masked)?;
        match Self::clash_of(&self.current.load(), &plugin) {
            Some(clash) => Err(vec![clash]),
            None => Ok(plugin.warnings().to_vec()),
        }
    }

    fn lasting(&self, name: &str) -> Kept {
        let mut lasting = self.lasting.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || {
            let now = now();
            let counters = HOOKS.iter().map(|row| (row.hook, Counters::new(now)));
            // A file that is no plugin may be called anything.
            let memory = self.options.memory.as_ref().filter(|_| valid_name(name));
            let remembered = match memory {
                Some(dir) => Lasting::in_file(&dir.join(format!("{name}.jsonl"))),
                None => Lasting::default(),
            };
            (remembered, Arc::new(counters.collect()))
        };
        lasting.entry(name.to_owned()).or_insert_with(fresh).clone()
    }

    fn entry(&self, name: &str, generation: u64, on_disk: String) -> Entry {
        Entry {
            name: name.to_owned(),
            plugin: None,
            state: State::Failed,
            findings: Vec::new(),
            on_disk,
            held_back: false,
            generation,
            share: self.workers.share(),
            counters: self.lasting(name).1,
            missing: Vec::new(),
            said: Manifest::default(),
            clash: None,
        }
    }

    /// What becomes of one plugin.
    fn one(
        &self,
        name: &str,
        bundle: &Result<Bundle, Unreadable>,
        disabled: bool,
        old: Option<&Arc<Entry>>,
        generation: u64,
        start: bool,
    ) -> (Arc<Entry>, &'static str) {
        // What cannot be read has no hash of its own: its error stands for it.
        let on_disk = match bundle {
            Ok(bundle) => bundle.hash(),
            Err(unreadable) => unreadable.finding.to_string(),
        };
        if let Some(old) = old
            && old.on_disk == on_disk
            && disabled == (old.state == State::Disabled)
        {
            return (Arc::clone(old), "unchanged");
        }
        let mut entry = self.entry(name, generation, on_disk.clone());
        if disabled {
            entry.state = State::Disabled;
            return (Arc::new(entry), "disabled");
        }
        let history = self.archive.history(name);
        if history.held_back.as_ref() == Some(&on_disk)
            && let Some(plugin) = self.archived(name, history.in_force())
        {
            entry.plugin = Some(plugin);
            entry.state = State::Ok;
            entry.held_back = true;
            return (Arc::new(entry), "held_back");
        }
        let loaded = match bundle {
            Ok(bundle) => self.load(bundle, true),
            Err(unreadable) => Err(vec![unreadable.finding.clone()]),
        };
        match loaded {
            Ok(plugin) => {
                entry.findings = plugin.warnings().to_vec();
                entry.plugin = Some(plugin);
                entry.state = State::Ok;
                (Arc::new(entry), "loaded")
            }
            Err(findings) => {
                entry.findings = findings;
                self.fall_back(&mut entry, Some(bundle), old, start, |_| true);
                (Arc::new(entry), "failed")
            }
        }
    }

    /// What is in force of a plugin whose new version is not: the one before, if that will do.
    fn fall_back(
        &self,
        entry: &mut Entry,
        bundle: Option<&Result<Bundle, Unreadable>>,
        old: Option<&Arc<Entry>>,
        start: bool,
        will_do: impl Fn(&Plugin) -> bool,
    ) {
        let kept = old.and_then(|old| old.plugin.clone());
        let kept = kept.or_else(|| match self.options.startup {
            Startup::LastGood if start => {
                let history = self.archive.history(&entry.name);
                self.archived(&entry.name, history.in_force())
            }
            _ => None,
        });
        entry.plugin = kept.filter(|plugin| will_do(plugin));
        if entry.plugin.is_some() {
            entry.state = State::Stale;
            return;
        }
        entry.state = State::Failed;
        // A gate that never worked stays shut. What is new while the gateway runs changes nothing until it works.
        let was_missing = old.map_or(&[][..], |old| &old.missing);
        if let Some(bundle) = bundle
            && (start || !was_missing.is_empty())
        {
            let manifest = match bundle {
                Ok(bundle) => {
                    let text = bundle.text(&bundle.main);
                    let idle = entry.findings.iter().any(|f| f.message == NO_HOOK);
                    entry.missing = if idle { Vec::new() } else { gates(Some(text)) };
                    &bundle.manifest
                }
                Err(unreadable) => {
                    entry.missing = gates(unreadable.glimpse.main.as_deref());
                    &unreadable.glimpse.manifest
                }
            };
            entry.said = Manifest::parse(manifest, &entry.name).unwrap_or_default();
        }
        for hook in was_missing {
            if !entry.missing.contains(hook) {
                entry.missing.push(*hook);
            }
        }
    }

    /// Loads a plugin; no finding tells a secret.
    fn load(&self, bundle: &Bundle, fresh: bool) -> Result<Arc<Plugin>, Vec<Finding>> {
        let pushed = self.locked_pushed().contains_key(&bundle.name);
        self.load_as(bundle, fresh, pushed)
            .map_err(|findings| findings.into_iter().map(|f| self.masked(f)).collect())
    }

    fn masked(&self, mut finding: Finding) -> Finding {
        for value in self.options.secrets.values().filter(|v| !v.is_empty()) {
            let mask = |text: &mut String| {
                if text.contains(value.as_str()) {
                    *text = text.replace(value.as_str(), "***");
                }
            };
            mask(&mut finding.message);
            finding.hint.iter_mut().for_each(mask);
        }
        finding
    }

    fn load_as(
        &self,
        bundle: &Bundle,
        fresh: bool,
        pushed: bool,
    ) -> Result<Arc<Plugin>, Vec<Finding>> {
        let mut around = self.options.surroundings(&bundle.name);
        // What stands in a directory was put there by whoever owns this machine, what was pushed was not.
        around.grant_all &= !pushed;
        let plugin = load(bundle.clone(), around.clone(), self.lasting(&bundle.name).0)?;
        if fresh && self.options.test {
            let failed: Vec<Finding> = unit::run(bundle, &around, None)?
                .into_iter()
                .filter_map(|test| test.failure)
                .collect();
            if !failed.is_empty() {
                return Err(failed);
            }
        }
        Ok(Arc::new(plugin))
    }

    fn archived(&self, name: &str, hash: Option<&String>) -> Option<Arc<Plugin>> {
        let bundle = self.archive.get(name, hash?)?;
        self.load(&bundle, false).ok()
    }

    /// Keeps what works, so that a restart finds it.
    fn remember(&self, entry: &Entry) {
        let (Some(plugin), State::Ok, false) = (&entry.plugin, entry.state, entry.held_back) else {
            return;
        };
        let history = self.archive.history(&entry.name);
        let known = history.in_force().is_some_and(|h| h == plugin.hash());
        if known && history.held_back.is_none() {
            return;
        }
        if let Err(error) = self.archive.keep(&plugin.bundle) {
            tracing::warn!(plugin = entry.name, %error, "a plugin that works could not be kept for a restart");
        }
    }

    /// Goes back to a version that worked: `to`, or the one before that in force. It stays in force until another version stands
    /// in the plugin's directory.
    ///
    /// # Errors
    /// [`RollbackError`]; then nothing changes.
    pub fn rollback(&self, name: &str, to: Option<&str>) -> Result<String, RollbackError> {
        let _reloading = self
            .reloading
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let before = self.current.load_full();
        let old = before.entries.iter().find(|e| e.name == name);
        let old = old.ok_or_else(|| RollbackError::NoPlugin(name.to_owned()))?;
        let in_force = old.plugin.as_ref().map(|p| p.hash());
        let history = self.archive.history(name);
        let hash = match to {
            Some(to) => history
                .hashes
                .iter()
                .find(|h| h.starts_with(to) && to.len() >= 4),
            None => history.before(in_force),
        };
        let hash =
            hash.ok_or_else(|| RollbackError::NoVersion(to.unwrap_or("before").to_owned()))?;
        let bundle = self.archive.get(name, hash);
        let bundle = bundle.ok_or_else(|| RollbackError::NoVersion(hash.clone()))?;
        let plugin = self.load(&bundle, false).map_err(|findings| {
            let first = findings.into_iter().next();
            let first = first.unwrap_or_else(|| Finding::of_file("", "failed"));
            RollbackError::Broken(hash.clone(), Box::new(first))
        })?;
        if let Some(clash) = Self::clash_of(&before, &plugin) {
            return Err(RollbackError::Broken(hash.clone(), Box::new(clash)));
        }
        self.archive
            .go_back(name, hash, &old.on_disk)
            .map_err(RollbackError::Kept)?;
        let generation = before.generation + 1;
        let mut entry = self.entry(name, generation, old.on_disk.clone());
        entry.plugin = Some(plugin);
        entry.state = State::Ok;
        entry.held_back = true;
        let mut entries: Vec<_> = before
            .entries
            .iter()
            .filter(|e| e.name != name)
            .cloned()
            .collect();
        begin_anew(&entry, Some(old));
        entries.push(Arc::new(entry));
        self.current
            .store(Arc::new(ScriptSet::new(entries, generation)));
        self.count_reload(name, "rolled_back");
        Ok(hash.clone())
    }

    /// Writes down what plugins remember, as far as it changed. Blocks for as long as the disk takes.
    pub fn write_down(&self) {
        let stores: Vec<_> = {
            let lasting = self.lasting.lock().unwrap_or_else(PoisonError::into_inner);
            let kv = |(name, kept): (&String, &Kept)| (name.clone(), Arc::clone(&kept.0.kv));
            lasting.iter().map(kv).collect()
        };
        for (plugin, kv) in stores {
            if let Err(error) = kv.write_down() {
                tracing::warn!(plugin, %error, "what a plugin remembers could not be written down");
            }
        }
    }

    /// The set's number; it grows with every swap.
    pub fn generation(&self) -> u64 {
        self.current.load().generation
    }
}

/// Plugins and results whose reloads are counted: names come and go.
const MOST_COUNTED: usize = 1_000;

/// What an older version failed at is none of this one's.
fn begin_anew(entry: &Entry, old: Option<&Arc<Entry>>) {
    let hash = |entry: &Entry| entry.plugin.as_ref().map(|plugin| plugin.hash.clone());
    if old.is_some_and(|old| hash(old) == hash(entry)) {
        return;
    }
    for counters in entry.counters.values() {
        counters.breaker.reset();
    }
}
