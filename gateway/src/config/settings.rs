//! What the program uses: checked, typed, computed where the file left it open.
//!
//! Field names mirror the tables of the file, with their unit where the type has none. Nothing
//! here can be wrong any more; [`Settings::check`] is the one place that judges. What a table says stands
//! beside how it is judged, a file of each concern.

mod ceiling;
mod judge;
mod limits;
mod listeners;
mod outward;
mod plugins;
mod stores;
mod uploads;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use boxgate_storage::layer::cache::CacheOptions;
use serde::{Deserialize, Serialize};

pub use ceiling::Ceiling;
pub use limits::{Auth, Limits};
pub use listeners::{ClientIp, Door, Doors, Listener, Server, Speaks, Tls};
pub use outward::{Log, Operations, Otlp, Outbound, Webhooks};
pub use plugins::{Hooks, Inspect, Providers, Scripts, VagrantCloud};
pub use stores::{Database, Digests, Gc, LocalStore, Scrub, StoreSettings, Verify};
pub use uploads::{CorsOrigins, DecodeBase64, Files, Uploads};

pub(super) use judge::Judge;

use super::Mistake;
use super::boxitory::Boxitory;
use super::cidr::Blocks;
use super::file::ConfigFile;
use super::layers::{self, Environment};
use super::machine::Machine;
use super::rates::Rate;
use super::runtime::Runtime;
use super::units::ByteSize;
use crate::http::freshness::Ages;

/// A text that must not be shown; its `Debug` is `***`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` from being shown.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself; the name makes each use easy to find.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The checked configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where everything that boxgate keeps stands.
    pub data_dir: PathBuf,
    /// Where rows are kept.
    pub metadata: Database,
    /// How long events are kept that all were told of.
    pub events_kept: Duration,
    /// The addresses that clients use, best first, without a slash at the end.
    pub public_url: Vec<String>,
    /// Whose forwarding headers are believed.
    pub trusted_proxies: Blocks,
    /// Where to listen; at least one.
    pub listeners: Vec<Listener>,
    /// Which public APIs are served, and where.
    pub doors: Doors,
    /// Where bytes are kept.
    pub stores: BTreeMap<String, StoreSettings>,
    /// Boxes.
    pub catalog: Catalog,
    /// Connections.
    pub server: Server,
    /// The certificate, where a listener needs one.
    pub tls: Option<Tls>,
    /// Uploads.
    pub uploads: Uploads,
    /// Uploads by tus and the IETF's protocol.
    pub files: Files,
    /// The cache of verified blocks.
    pub cache: CacheOptions,
    /// Memory for answers that anybody may have.
    pub answers_bytes: u64,
    /// When stored bytes are proved.
    pub verify: Verify,
    /// When digests are computed.
    pub digests: Digests,
    /// How long what is downloaded may be kept.
    pub downloads: Ages,
    /// Outboards on their way at once.
    pub max_outboards: usize,
    /// Bytes that nobody holds.
    pub gc: Gc,
    /// Bits that rot.
    pub scrub: Scrub,
    /// Tokens.
    pub auth: Auth,
    /// Limits.
    pub limits: Limits,
    /// How many requests each may make in a second.
    pub rates: Vec<Rate>,
    /// Requests to outside.
    pub outbound: Outbound,
    /// Plugins.
    pub scripts: Scripts,
    /// Webhooks that come in for plugins.
    pub hooks: Hooks,
    /// Webhooks that go out.
    pub webhooks: Webhooks,
    /// Adapters to clouds.
    pub providers: Providers,
    /// Publishing as to Vagrant Cloud.
    pub vagrant_cloud: VagrantCloud,
    /// What stands in for Sanbox runtimes, by name; those that are switched off are not there.
    pub runtimes: BTreeMap<String, Runtime>,
    /// The tree of boxes that is served where it is, if any.
    pub boxitory: Option<Boxitory>,
    /// Metrics and status.
    pub operations: Operations,
    /// The log.
    pub log: Log,
    /// The collector that spans go to, if any.
    pub otlp: Option<Otlp>,
    /// From `BOXGATE_MASTER_KEY` or the file that `BOXGATE_MASTER_KEY_FILE` names.
    pub master_key: Option<Secret>,
    /// From the file that `BOXGATE_BOOTSTRAP_PASSWORD_FILE` names.
    pub bootstrap_password: Option<Secret>,
    file: ConfigFile,
}

/// Settings of boxes.
#[derive(Debug, Clone)]
pub struct Catalog {
    /// Whether everybody may read a box that an upload made.
    pub new_box_public: bool,
}

impl Settings {
    /// The file that says what these settings are, computed values filled in.
    pub(super) fn to_file(&self) -> ConfigFile {
        let mut file = self.file.clone();
        file.metadata.url = without_password(&file.metadata.url);
        for (name, store) in &mut file.stores.0 {
            if let Some(StoreSettings::Local(local)) = self.stores.get(name) {
                store.path = local.path.display().to_string();
            }
            store.secret_access_key = Secret::default();
        }
        file.server.origin_secret = Secret::default();
        for runtime in file.runtimes.0.values_mut() {
            runtime.api_key = Secret::default();
            runtime.reload_target_api_key = Secret::default();
        }
        file.uploads.part_budget = ByteSize(self.uploads.part_budget_bytes);
        file.cache.size = ByteSize(self.cache.size_bytes);
        file.limits.connections = self.limits.connections;
        file.scripts.workers = self.scripts.workers;
        file
    }

    /// The keys in which another configuration differs from this one.
    pub fn differs_in(&self, other: &Self) -> Vec<String> {
        layers::differences(&self.file, &other.file)
    }

    /// Judges every value; what is wrong is added to `mistakes`.
    pub(super) fn check(
        file: ConfigFile,
        machine: Machine,
        environment: &Environment,
        mistakes: &mut Vec<Mistake>,
    ) -> Self {
        let mut judge = Judge { mistakes };
        let data_dir = PathBuf::from(judge.not_empty("data_dir", &file.data_dir));
        let metadata = judge.metadata(&file, environment.master_key.is_some());
        let doors = Doors {
            boxvault: judge.door("doors.boxvault.prefix", &file.doors.boxvault),
            vagrant: judge.door("doors.vagrant.prefix", &file.doors.vagrant),
            vagrant_cloud: judge.door("doors.vagrant_cloud.prefix", &file.doors.vagrant_cloud),
            files: judge.door("doors.files.prefix", &file.doors.files),
            blobs: judge.door("doors.blobs.prefix", &file.doors.blobs),
            hooks: judge.door("doors.hooks.prefix", &file.doors.hooks),
            providers: judge.door("doors.providers.prefix", &file.doors.providers),
            runtime: judge.door("doors.runtime.prefix", &file.doors.runtime),
            boxitory: judge.boxitory_door(&file),
            operations: judge.door("doors.operations.prefix", &file.doors.operations),
            page: judge.door("doors.page.prefix", &file.doors.page),
        };
        judge.spoken_for(&file);
        let limits = judge.limits(&file.limits, machine);
        let listeners = judge.listeners(&file.listeners);
        let tls = judge.tls(&file.tls, &listeners);
        Self {
            metadata,
            events_kept: judge.time("metadata.events_kept", file.metadata.events_kept),
            public_url: judge.public_urls("public_url", &file.public_url),
            trusted_proxies: judge
                .blocks("trusted_proxies", &file.trusted_proxies)
                .into(),
            listeners,
            tls,
            doors,
            stores: judge.stores(&file, &data_dir),
            catalog: Catalog {
                new_box_public: judge
                    .choice(
                        "catalog.new_box_visibility",
                        &file.catalog.new_box_visibility,
                        &[("private", false), ("public", true)],
                        "expected \"private\" or \"public\"",
                    )
                    .unwrap_or(false),
            },
            server: judge.server(&file.server),
            uploads: judge.uploads(&file.uploads, machine),
            files: Files {
                cors_origins: judge.origins(&file.files.cors_origins),
            },
            cache: judge.cache(&file.cache, machine),
            answers_bytes: file.cache.answers.0,
            verify: judge.verify(&file.verify),
            digests: judge.digests(&file.digests),
            downloads: judge.downloads(&file.downloads),
            max_outboards: judge.count("downloads.max_outboards", file.downloads.max_outboards),
            gc: judge.gc(&file.gc),
            scrub: Scrub {
                every: judge.time_or_never("scrub.every", file.scrub.every),
                rate_bytes: file.scrub.rate.0,
            },
            auth: judge.auth(&file.auth),
            limits,
            rates: judge.rates(&file.rates),
            outbound: judge.outbound(&file.outbound),
            scripts: judge.scripts(&file.scripts, &data_dir),
            hooks: judge.hooks(&file.hooks),
            webhooks: judge.webhooks(&file.webhooks),
            providers: judge.providers(&file.providers),
            vagrant_cloud: judge.vagrant_cloud(&file.vagrant_cloud),
            runtimes: judge.runtimes(&file.runtimes, &file.stores, &data_dir),
            boxitory: judge.boxitory(&file.boxitory, &data_dir),
            operations: Operations {
                allow: judge
                    .blocks("operations.allow", &file.operations.allow)
                    .into(),
            },
            log: judge.log(&file.log),
            otlp: judge.otlp(&file.telemetry.otlp),
            master_key: environment.master_key.clone(),
            bootstrap_password: environment.bootstrap_password.clone(),
            data_dir,
            file,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the configuration")]
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A URL as it may be shown.
fn without_password(url: &str) -> String {
    let hidden = || {
        let (scheme, rest) = url.split_once("://")?;
        let (user_info, place) = rest.rsplit_once('@')?;
        let (user, _password) = user_info.split_once(':')?;
        Some(format!("{scheme}://{user}:***@{place}"))
    };
    hidden().unwrap_or_else(|| url.to_owned())
}

/// What the part budget and the cache are by default: an eighth of the memory, within bounds.
fn share_of_memory(machine: Machine) -> u64 {
    const LEAST: u64 = 128 << 20;
    const MOST: u64 = 1 << 30;
    (machine.memory_bytes / 8).clamp(LEAST, MOST)
}
