//! How plugins are loaded and run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::bundle::Bundle;
use crate::catalog::Catalog;
use crate::event::Outbox;
use crate::guard::LiveBytes;
use crate::hook::Hook;
use crate::http::HttpClient;
use crate::links::Links;
use crate::manifest::Grant;
use crate::plugin::Surroundings;

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
