//! Plugins, the clouds and senders that they speak for, and publishing as to Vagrant Cloud.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use boxgate_scripting::limits::{MAX_RAISE, MAX_RAISE_TEXT};
use boxgate_scripting::manifest::Grant;
use boxgate_scripting::set::Startup;

use super::judge::Judge;
use super::{Secret, variable};
use crate::config::cidr::Cidr;
use crate::config::file;
use crate::config::units::ByteSize;

/// Settings of plugins.
#[derive(Debug, Clone)]
pub struct Scripts {
    /// Where plugins stand.
    pub dirs: Vec<PathBuf>,
    /// What a broken plugin means at the start.
    pub startup: Startup,
    /// Whether a plugin's own tests must pass before it is taken.
    pub test: bool,
    /// How often plugins are looked at; `None` is only when asked to.
    pub check_every: Option<Duration>,
    /// Calls of the work lane at once.
    pub workers: usize,
    /// How long a call that a client waits for queues for one of them.
    pub queue_wait: Duration,
    /// Whether plugins get all that they ask for.
    pub trust_local: bool,
    /// Networks that plugins reach beside public addresses.
    pub allow_networks: Vec<Cidr>,
    /// What each plugin is granted.
    pub grants: BTreeMap<String, Grant>,
    /// Settings of each plugin.
    pub settings: BTreeMap<String, BTreeMap<String, serde_json::Value>>,
    /// The secrets of plugins.
    pub secrets: BTreeMap<String, Secret>,
    /// Those that cannot be read, and why: what wants one does not work, and all else does.
    pub unreadable_secrets: BTreeMap<String, String>,
    /// The environment variables that plugins are granted.
    pub env: BTreeMap<String, String>,
}

/// Settings of webhooks that come in for plugins.
#[derive(Debug, Clone)]
pub struct Hooks {
    /// Longest body.
    pub body_bytes: usize,
    /// How long one may take to arrive.
    pub body_timeout: Duration,
    /// Bodies that are held at once.
    pub at_once: usize,
    /// How far the time that a sender signed may be from now.
    pub tolerance: Duration,
    /// How long the id of a delivery is known.
    pub ids_kept: Duration,
    /// Deliveries that may wait to be run.
    pub queue: u32,
    /// Pauses between runs of one that fails.
    pub pauses: Vec<Duration>,
}

/// Settings of adapters to clouds.
#[derive(Debug, Clone)]
pub struct Providers {
    /// How long a catalogue is served before its cloud is asked again.
    pub catalog_ttl: Duration,
    /// Catalogues that are remembered.
    pub catalogs: u64,
    /// How long an order is remembered.
    pub orders_kept: Duration,
    /// How long a server that was ordered is told of, though its cloud does not list it.
    pub ordering_for: Duration,
    /// How long an order whose outcome nobody knows is not made again, where its adapter cannot list servers.
    pub unknown_for: Duration,
    /// How long it is known what was ordered, for what is told of its end.
    pub order_log_kept: Duration,
    /// Calls that wait for clouds at once, half of them for one adapter.
    pub at_once: usize,
    /// How long credentials that a cloud refused are refused without asking it.
    pub refused_for: Duration,
    /// Networks that adapters reach beside those of all and of plugins.
    pub allow_networks: Vec<Cidr>,
}

/// Publishing as to Vagrant Cloud.
#[derive(Debug, Clone)]
pub struct VagrantCloud {
    /// Whether an upload may replace the box of a released version.
    pub republish: bool,
    /// Life of the URL of an upload.
    pub upload_ttl: Duration,
    /// Life of a token that signing in makes.
    pub token_ttl: Duration,
    /// Such tokens of one person.
    pub tokens: usize,
    /// Most boxes on one page of a search.
    pub search_limit: u32,
    /// What becomes of a box that is not for its provider.
    pub inspect: Inspect,
    /// Most inflated bytes of a box that are looked through.
    pub inspect_bytes: u64,
}

/// What becomes of a box that is not for its provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inspect {
    /// It is published, and its sender told.
    Warn,
    /// It is not published.
    Refuse,
    /// Nobody looks.
    Never,
}

impl Judge<'_> {
    pub(super) fn providers(&mut self, file: &file::ProvidersFile) -> Providers {
        Providers {
            catalog_ttl: self.time("providers.catalog_ttl", file.catalog_ttl),
            catalogs: self.few("providers.catalogs", file.catalogs, 1).into(),
            orders_kept: self.time("providers.orders_kept", file.orders_kept),
            ordering_for: self.time("providers.ordering_for", file.ordering_for),
            unknown_for: self.time("providers.unknown_for", file.unknown_for),
            order_log_kept: self.order_log_kept(file),
            at_once: self.count("providers.at_once", file.at_once),
            refused_for: self.time("providers.refused_for", file.refused_for),
            allow_networks: self.blocks("providers.allow_networks", &file.allow_networks),
        }
    }

    pub(super) fn vagrant_cloud(&mut self, file: &file::VagrantCloudFile) -> VagrantCloud {
        const GIB: ByteSize = ByteSize(1 << 30);
        let republish = self.choice(
            "vagrant_cloud.republish",
            &file.republish,
            &[("replace", true), ("refuse", false)],
            "expected \"replace\" or \"refuse\"",
        );
        let inspect = self.choice(
            "vagrant_cloud.inspect",
            &file.inspect,
            &[
                ("warn", Inspect::Warn),
                ("refuse", Inspect::Refuse),
                ("never", Inspect::Never),
            ],
            "expected \"warn\", \"refuse\" or \"never\"",
        );
        let size = self.size(
            "vagrant_cloud.inspect_size",
            file.inspect_size,
            ByteSize::kib(64),
            GIB,
        );
        VagrantCloud {
            republish: republish.unwrap_or(true),
            upload_ttl: self.time("vagrant_cloud.upload_ttl", file.upload_ttl),
            token_ttl: self.time("vagrant_cloud.token_ttl", file.token_ttl),
            tokens: self.count("vagrant_cloud.tokens", file.tokens),
            search_limit: self.few("vagrant_cloud.search_limit", file.search_limit, 1),
            inspect: inspect.unwrap_or(Inspect::Warn),
            inspect_bytes: size as u64,
        }
    }

    fn order_log_kept(&mut self, file: &file::ProvidersFile) -> Duration {
        let kept = self.time("providers.order_log_kept", file.order_log_kept);
        let least = file.orders_kept.max(file.ordering_for);
        if file.order_log_kept < least.max(file.unknown_for) {
            self.wrong(
                "providers.order_log_kept",
                "must be at least providers.orders_kept, ordering_for and unknown_for",
            );
        }
        kept
    }

    pub(super) fn hooks(&mut self, file: &file::HooksFile) -> Hooks {
        const MIB: ByteSize = ByteSize(1 << 20);
        Hooks {
            body_bytes: self.size("hooks.body", file.body, ByteSize(1 << 10), MIB),
            body_timeout: self.time("hooks.body_timeout", file.body_timeout),
            at_once: self.count("hooks.at_once", file.at_once),
            tolerance: self.time("hooks.tolerance", file.tolerance),
            ids_kept: self.time("hooks.ids_kept", file.ids_kept),
            queue: self.few("hooks.queue", file.queue, 1),
            pauses: self.pauses("hooks.pauses", &file.pauses),
        }
    }

    pub(super) fn scripts(&mut self, file: &file::ScriptsFile, data_dir: &Path) -> Scripts {
        const MOST_WORKERS: usize = 1_024;
        let startup = self.choice(
            "scripts.startup",
            &file.startup,
            &[
                ("last_good", Startup::LastGood),
                ("strict", Startup::Strict),
                ("without", Startup::Without),
            ],
            "expected \"last_good\", \"strict\" or \"without\"",
        );
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        if file.workers > MOST_WORKERS {
            self.wrong("scripts.workers", format!("must be at most {MOST_WORKERS}"));
        }
        let (mut secrets, mut unreadable_secrets) = (BTreeMap::new(), BTreeMap::new());
        for (name, path) in &file.secrets {
            match std::fs::read_to_string(path) {
                Ok(text) => {
                    secrets.insert(name.clone(), Secret::new(text.trim()));
                }
                Err(e) => {
                    unreadable_secrets.insert(name.clone(), format!("cannot read {path}: {e}"));
                }
            }
        }
        for (plugin, grant) in &file.grants {
            for (key, set, most) in [
                ("raise", grant.raise, MAX_RAISE),
                ("raise_text", grant.raise_text, MAX_RAISE_TEXT),
            ] {
                if set.is_some_and(|times| !(1..=most).contains(&times)) {
                    let key = format!("scripts.grants.{plugin}.{key}");
                    self.wrong(key, format!("must be from 1 to {most}"));
                }
            }
        }
        let granted = file.grants.values().flat_map(|grant| &grant.env);
        let env = granted
            .filter_map(|name| Some((name.clone(), variable(name)?)))
            .collect();
        Scripts {
            env,
            dirs: if file.dirs.is_empty() {
                vec![data_dir.join("plugins")]
            } else {
                file.dirs.iter().map(PathBuf::from).collect()
            },
            startup: startup.unwrap_or(Startup::LastGood),
            test: file.test,
            check_every: self.time_or_never("scripts.check_every", file.check_every),
            workers: match file.workers {
                0 => (cores * 4).clamp(16, 64),
                set => set.min(MOST_WORKERS),
            },
            queue_wait: self.time_or_none("scripts.queue_wait", file.queue_wait),
            trust_local: file.trust_local,
            allow_networks: self.blocks("scripts.allow_networks", &file.allow_networks),
            grants: file.grants.clone(),
            settings: file.settings.clone(),
            secrets,
            unreadable_secrets,
        }
    }
}
