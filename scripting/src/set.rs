//! All plugins behind one atomic pointer: loading, reloading, falling back, rolling back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use serde::Serialize;
use serde_json::Value;

use crate::archive::{Archive, Places};
use crate::bundle::{Bundle, Glimpse, plugins_in, read_regular, valid_name};
use crate::catalog::Catalog;
use crate::error::Finding;
use crate::event::Outbox;
use crate::guard::LiveBytes;
use crate::hook::{HOOKS, Hook, OnFailure};
use crate::http::HttpClient;
use crate::inbound::{Addressed, Inbound};
use crate::limits::MAX_FILE_BYTES;
use crate::links::Links;
use crate::manifest::{Grant, Manifest};
use crate::metric::Sample;
use crate::plugin::{Lasting, NO_HOOK, Plugin, Surroundings, load};
use crate::provider::Provider;
use crate::runner::{Share, Workers};
use crate::schedule::Schedule;
use crate::signals::{Counted, Counters};
use crate::unit;

/// What a broken plugin means at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Startup {
    /// The version that last worked is taken; where none is known, as [`Startup::Without`].
    LastGood,
    /// The gateway does not start.
    Strict,
    /// The plugin's hooks answer by their failure rule.
    Without,
}

/// How plugins are loaded and run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where plugins stand; of two with one name the first counts.
    pub dirs: Vec<PathBuf>,
    /// Where versions that worked are kept.
    pub last_good: PathBuf,
    /// Where what plugins remember is written down; `None` is nowhere.
    pub memory: Option<PathBuf>,
    /// What a broken plugin means at the start.
    pub startup: Startup,
    /// Whether a plugin's own tests must pass before it is taken.
    pub test: bool,
    /// Grants by plugin.
    pub grants: BTreeMap<String, Grant>,
    /// Grants everything that the plugins in `dirs` ask for.
    pub trust_local: bool,
    /// Settings by plugin.
    pub settings: BTreeMap<String, BTreeMap<String, Value>>,
    /// Values of secrets.
    pub secrets: BTreeMap<String, String>,
    /// Secrets that cannot be read, and why: plugins that name one do not work.
    pub unreadable_secrets: BTreeMap<String, String>,
    /// Values of environment variables.
    pub env: BTreeMap<String, String>,
    /// Calls of the work lane at once.
    pub workers: usize,
    /// Calls beside them that ask a cloud.
    pub clouds: usize,
    /// How long a client's call waits for one of them.
    pub queue: Duration,
    /// The client that leaves the machine.
    pub http: Option<Arc<dyn HttpClient>>,
    /// Where events of scripts go.
    pub outbox: Option<Arc<dyn Outbox>>,
    /// The boxes that scripts may do something to.
    pub catalog: Option<Arc<dyn Catalog>>,
    /// Addresses of blobs for whoever has no credential.
    pub links: Option<Arc<dyn Links>>,
    /// Bytes that the calling thread holds.
    pub live: LiveBytes,
    /// The hooks that the server calls.
    pub calls: Vec<Hook>,
    /// The stores that scripts may name; `None` is any.
    pub stores: Option<BTreeSet<String>>,
    /// Plugins that stand in no directory, by name; they count before those that do.
    pub pushed: BTreeMap<String, Bundle>,
}

impl Options {
    /// Everything at its default, with plugins in one directory.
    pub fn in_directory(dir: impl Into<PathBuf>, last_good: impl Into<PathBuf>) -> Self {
        Self {
            dirs: vec![dir.into()],
            last_good: last_good.into(),
            memory: None,
            startup: Startup::LastGood,
            test: true,
            grants: BTreeMap::new(),
            trust_local: false,
            settings: BTreeMap::new(),
            secrets: BTreeMap::new(),
            unreadable_secrets: BTreeMap::new(),
            env: BTreeMap::new(),
            workers: 16,
            clouds: 16,
            queue: Duration::from_millis(250),
            http: None,
            outbox: None,
            catalog: None,
            links: None,
            live: || 0,
            calls: Surroundings::default().calls,
            stores: None,
            pushed: BTreeMap::new(),
        }
    }

    /// What one plugin is given.
    pub fn surroundings(&self, plugin: &str) -> Surroundings {
        Surroundings {
            grant: self.grants.get(plugin).cloned().unwrap_or_default(),
            grant_all: self.trust_local,
            settings: self.settings.get(plugin).cloned().unwrap_or_default(),
            secrets: self.secrets.clone(),
            unreadable_secrets: self.unreadable_secrets.clone(),
            env: self.env.clone(),
            http: self.http.clone(),
            outbox: self.outbox.clone(),
            catalog: self.catalog.clone(),
            links: self.links.clone(),
            live: self.live,
            calls: self.calls.clone(),
            ..Surroundings::default()
        }
    }
}

/// The file in a directory of plugins that names those that are off, one a line.
pub const DISABLED_FILE: &str = ".disabled";

/// How a plugin stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// What stands in its directory is in force.
    Ok,
    /// What stands in its directory does not work; an older version is in force.
    Stale,
    /// What stands in its directory does not work, and nothing older is known.
    Failed,
    /// It is in force, and one of its hooks rests after too many failures.
    Tripped,
    /// It is off.
    Disabled,
}

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

/// How one plugin stands.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// Its name.
    pub plugin: String,
    /// Its version.
    pub version: String,
    /// The hash of the version in force.
    pub hash: Option<String>,
    /// The set in which it was last changed.
    pub generation: u64,
    /// How it stands.
    pub state: State,
    /// Whether it was rolled back.
    pub rolled_back: bool,
    /// What is wrong with what stands in its directory.
    pub error: Option<String>,
    /// Its hooks with their lanes, deadlines and failure rules.
    pub hooks: Vec<HookStatus>,
    /// What it asks for and is granted.
    pub grants: Value,
    /// Versions that may be rolled back to.
    pub versions: Vec<String>,
}

/// How one hook stands.
#[derive(Debug, Clone, Serialize)]
pub struct HookStatus {
    /// Its name.
    pub hook: &'static str,
    /// Its lane.
    pub lane: &'static str,
    /// Its deadline.
    pub deadline_ms: u64,
    /// What is answered when it fails.
    pub on_failure: &'static str,
    /// Whether it rests after too many failures.
    pub tripped: bool,
    /// Its calls by outcome.
    pub calls: BTreeMap<&'static str, u64>,
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

/// Sources that cannot be taken: why, and what can be seen of them.
#[derive(Debug)]
struct Unreadable {
    finding: Finding,
    glimpse: Glimpse,
}

/// What stands in the directories: each plugin's sources, and whether it is off.
type Found = BTreeMap<String, (Result<Bundle, Unreadable>, bool)>;

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
        let (found, places) = self.look(&before)?;
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

    /// The sources in all directories, and which plugin stands where.
    fn look(&self, before: &ScriptSet) -> Result<(Found, Places), OpenError> {
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
            if !dir.exists() {
                self.left_behind(dir, before, &mut found, &mut places);
                continue;
            }
            let paths = plugins_in(dir).map_err(|e| OpenError::Directory(dir.clone(), e))?;
            let off = disabled(dir);
            let here = places.entry(dir.clone()).or_default();
            for path in paths {
                let name = path
                    .file_stem()
                    .and_then(|s| s.to_str())
                    .unwrap_or_default();
                let off = off.contains(name);
                if !off {
                    here.insert(name.to_owned());
                }
                let read = || {
                    Bundle::read(&path).map_err(|finding| Unreadable {
                        finding,
                        glimpse: Glimpse::of(&path),
                    })
                };
                found
                    .entry(name.to_owned())
                    .or_insert_with(|| (read(), off));
            }
        }
        Ok((found, places))
    }

    /// The plugins of a directory that is not there any more: nobody took them away one by one.
    fn left_behind(&self, dir: &Path, before: &ScriptSet, found: &mut Found, places: &mut Places) {
        let names = self.locked_places().get(dir).cloned().unwrap_or_default();
        for name in &names {
            let known = before.entries.iter().find(|entry| entry.name == *name);
            let off = known.is_some_and(|entry| entry.state == State::Disabled);
            let gone = || {
                let text = format!("the directory {} is not there", dir.display());
                let kept = self.archive.history(name);
                let kept = kept
                    .in_force()
                    .and_then(|hash| self.archive.get(name, hash));
                let finding = Finding::of_file(name, text);
                Unreadable {
                    finding: finding.hint("the version that last worked stays in force"),
                    glimpse: Glimpse {
                        main: kept.as_ref().map(|b| b.text(&b.main).to_owned()),
                        manifest: kept.map(|bundle| bundle.manifest).unwrap_or_default(),
                    },
                }
            };
            found
                .entry(name.clone())
                .or_insert_with(|| (Err(gone()), off));
        }
        if !names.is_empty() {
            places.insert(dir.to_owned(), names);
        }
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

    fn locked_places(&self) -> std::sync::MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps which plugin stands where, for a start without the directory.
    fn note_places(&self, fresh: Places) {
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

    /// Of plugins that are one adapter, one is in force: the one that was, or else the first by name. The others are as if they
    /// did not work, and are looked at again once the id is free.
    fn settle(
        &self,
        before: &ScriptSet,
        found: &Found,
        entries: &mut [Arc<Entry>],
        reports: &mut [Reloaded],
        start: bool,
    ) {
        let old_of = |name: &str| before.entries.iter().find(|old| old.name == name);
        let bundle_of = |name: &str| found.get(name).and_then(|(bundle, _)| bundle.as_ref().ok());
        let mut turns: Vec<usize> = (0..entries.len()).collect();
        turns.sort_by_key(|at| {
            let entry = &entries[*at];
            let was = old_of(&entry.name).and_then(|old| old.adapter());
            (was.is_none() || was != entry.adapter(), was.is_none())
        });
        let turns: Vec<_> = turns
            .into_iter()
            .map(|at| (at, Arc::clone(&entries[at])))
            .collect();
        let mut owners: BTreeMap<String, String> = BTreeMap::new();
        let mut put = |at: usize, entry: Entry, result: &'static str| {
            reports[at].result = result;
            reports[at].hash = entry.plugin.as_ref().map(|p| p.hash().to_owned());
            reports[at].findings.clone_from(&entry.findings);
            entries[at] = Arc::new(entry);
            Arc::clone(&entries[at])
        };
        let mut waiting = Vec::new();
        for (at, entry) in turns {
            let name = entry.name.clone();
            if entry.clash.is_some() {
                waiting.push((at, Arc::clone(&entry)));
            }
            let Some(id) = entry.adapter().map(str::to_owned) else {
                continue;
            };
            let Some(owner) = owners.get(&id) else {
                owners.insert(id, name);
                continue;
            };
            let mut off = self.entry(&name, entry.generation, entry.on_disk.clone());
            off.findings = vec![clash(&name, owner, &id)];
            off.clash = Some(id);
            let is_free = |plugin: &Plugin| {
                let meta = plugin.provider.as_ref();
                meta.is_none_or(|meta| !owners.contains_key(&meta.id))
            };
            self.fall_back(
                &mut off,
                found.get(&name).map(|(bundle, _)| bundle),
                old_of(&name),
                start,
                is_free,
            );
            let off = put(at, off, "failed");
            owners.extend(off.adapter().map(|id| (id.to_owned(), name)));
        }
        for (at, entry) in waiting {
            let is_free = entry
                .clash
                .as_ref()
                .is_some_and(|id| !owners.contains_key(id));
            let bundle = bundle_of(&entry.name).filter(|_| is_free);
            let Some(Ok(plugin)) = bundle.map(|bundle| self.load(bundle, true)) else {
                continue;
            };
            let mut on = self.entry(&entry.name, before.generation + 1, entry.on_disk.clone());
            on.findings = plugin.warnings().to_vec();
            on.plugin = Some(plugin);
            on.state = State::Ok;
            let on = put(at, on, "loaded");
            owners.extend(on.adapter().map(|id| (id.to_owned(), entry.name.clone())));
        }
    }

    /// Why a plugin cannot be in force beside the others.
    fn clash_of(set: &ScriptSet, plugin: &Plugin) -> Option<Finding> {
        let (id, name) = (&plugin.provider.as_ref()?.id, &plugin.bundle.name);
        let mut others = set.entries.iter().filter(|entry| entry.name != *name);
        let owner = others.find(|entry| entry.adapter() == Some(id))?;
        Some(clash(name, &owner.name, id))
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

    /// How every plugin stands.
    pub fn status(&self) -> Vec<Status> {
        let set = self.current.load_full();
        let now = now();
        let status = |entry: &Arc<Entry>| {
            let manifest = entry.manifest();
            let hooks = entry.plugin.as_ref().map_or(&[][..], |p| p.hooks());
            let hooks = hooks.iter().chain(&entry.missing).map(|hook| {
                let counted = entry
                    .counters
                    .get(hook)
                    .map(|c| c.read(&entry.name, *hook, now));
                HookStatus {
                    hook: hook.name(),
                    lane: manifest.lane(*hook).name(),
                    deadline_ms: u64::try_from(manifest.deadline(*hook).as_millis())
                        .unwrap_or(u64::MAX),
                    on_failure: manifest.on_failure(*hook).name(),
                    tripped: counted.as_ref().is_some_and(|c| c.tripped),
                    calls: counted.map(|c| c.outcomes).unwrap_or_default(),
                }
            });
            let hooks: Vec<_> = hooks.collect();
            let rests = entry.state == State::Ok && hooks.iter().any(|hook| hook.tripped);
            let error = entry
                .findings
                .iter()
                .filter(|f| f.fatal)
                .map(ToString::to_string);
            let error = error.collect::<Vec<_>>().join("\n");
            Status {
                plugin: entry.name.clone(),
                version: manifest.version.clone(),
                hash: entry.plugin.as_ref().map(|p| p.hash().to_owned()),
                generation: entry.generation,
                state: if rests { State::Tripped } else { entry.state },
                rolled_back: entry.held_back,
                error: (!error.is_empty()).then_some(error),
                hooks,
                grants: serde_json::json!({
                    "http": manifest.http.allow,
                    "secrets": manifest.all_secrets(),
                    "env": manifest.env.names,
                    "events": manifest.events.names,
                    "catalog": manifest.catalog.allow,
                    "authorize": manifest.grants.authorize,
                    "webhook_in": manifest.webhook_in,
                }),
                versions: self.archive.history(&entry.name).hashes,
            }
        };
        set.entries.iter().map(status).collect()
    }

    /// The plugins that are called by a schedule.
    pub fn schedules(&self) -> Vec<(String, Schedule)> {
        let set = self.current.load();
        let schedule = |entry: &Arc<Entry>| {
            let terms = entry.plugin.as_ref()?.manifest().schedule.as_ref()?;
            // It was read when the plugin was loaded.
            let schedule = Schedule::parse(&terms.cron).ok()?;
            Some((entry.name.clone(), schedule))
        };
        set.of(Hook::OnSchedule)
            .iter()
            .filter_map(schedule)
            .collect()
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

    /// The adapter of that id, by what its plugin's `meta()` says.
    pub fn provider(&self, id: &str) -> Option<Provider> {
        let set = self.current.load();
        set.entries.iter().find_map(|entry| {
            let plugin = entry.plugin.as_ref()?;
            let meta = plugin.provider.as_ref().filter(|meta| meta.id == id)?;
            Some(Provider {
                plugin: entry.name.clone(),
                hash: plugin.hash().to_owned(),
                meta: Arc::clone(meta),
                functions: plugin.hooks().to_vec(),
            })
        })
    }

    /// Whom a webhook is for that comes in for a plugin's hook.
    pub fn inbound(&self, plugin: &str, hook: &str) -> Addressed {
        let set = self.current.load();
        let Some(entry) = set.entries.iter().find(|entry| entry.name == plugin) else {
            return Addressed::Nobody;
        };
        let Some(plugin) = &entry.plugin else {
            return match entry.state {
                State::Failed => Addressed::Broken,
                _ => Addressed::Nobody,
            };
        };
        let Some(terms) = plugin.manifest().webhook_in.get(hook) else {
            return Addressed::Nobody;
        };
        let secret = terms.secret.as_ref();
        let secret = secret.and_then(|name| plugin.host.inbound_secrets.get(name));
        Addressed::Hook(Inbound {
            terms: terms.clone(),
            secret: secret.filter(|value| !value.is_empty()).cloned(),
        })
    }

    /// What was counted of all hooks that plugins define.
    pub fn counted(&self) -> Vec<Counted> {
        let set = self.current.load();
        let now = now();
        let mut counted = Vec::new();
        for entry in &set.entries {
            for hook in entry.plugin.as_ref().map_or(&[][..], |p| p.hooks()) {
                counted.extend(
                    entry
                        .counters
                        .get(hook)
                        .map(|c| c.read(&entry.name, *hook, now)),
                );
            }
        }
        counted
    }

    /// The metrics that plugins declared themselves.
    pub fn samples(&self) -> Vec<(String, Sample)> {
        let set = self.current.load();
        let mut samples = Vec::new();
        for entry in &set.entries {
            if let Some(plugin) = &entry.plugin {
                let own = plugin.host.metrics.samples().into_iter();
                samples.extend(own.map(|sample| (entry.name.clone(), sample)));
            }
        }
        samples
    }

    /// The set's number; it grows with every swap.
    pub fn generation(&self) -> u64 {
        self.current.load().generation
    }
}

fn clash(name: &str, owner: &str, id: &str) -> Finding {
    let text = format!(
        "plugin {name} stays off: the id {id:?} of its meta() is that of plugin {owner} already, and /providers/{id} is one adapter"
    );
    Finding::of_file("main.rhai", text).hint(format!(
        "change the id, or switch {owner} off: boxgate script disable {owner}"
    ))
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
fn gates(text: Option<&str>) -> Vec<Hook> {
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
