//! What is told of all plugins: how they stand, what they are called by, what was counted.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::{Entry, Scripts, now};
use crate::hook::Hook;
use crate::inbound::{Addressed, Inbound};
use crate::metric::Sample;
use crate::provider::Provider;
use crate::schedule::Schedule;
use crate::signals::Counted;

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

impl Scripts {
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
}
