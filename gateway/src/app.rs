//! The composition root: settings to stores, rows, engine, listeners and drain. The one module that
//! names every part.

mod clock;
mod data_dir;
mod error;
mod rows;
mod stores;
mod work;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use boxgate_scripting::Scripts;
use boxgate_storage::buffer::BufferPool;
use boxgate_storage::check::Stock;
use boxgate_storage::clock::{Clock, SharedClock, SystemClock};
use boxgate_storage::layer::cache::BlockCache;
use boxgate_storage::layer::files::FileReads;
use boxgate_storage::metadata::Metadata;
use boxgate_storage::metadata::recent::Recent;
use boxgate_storage::store::Store;
use boxgate_storage::upload::{EngineOptions, Gatekeeping, Passage, UploadEngine, UploadLimits};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use data_dir::DataDir;
pub use error::StartError;
pub use rows::{migrate, open_metadata};

use clock::{agree, keep_time};
use data_dir::settle_ballast;
use rows::{accounts_key, compare_addresses, observe_commits};
use stores::open_stores;
use work::{Work, sweep};

use crate::admission::Admission;
use crate::auth::link_keys::{self, LinkKeys};
use crate::ballast::Ballast;
use crate::boxitory::Boxitory;
use crate::config::Settings;
use crate::config::settings::{Database, Listener, Speaks, StoreSettings};
use crate::door::page::Watch;
use crate::door::page::organization::Lines;
use crate::door::vagrant::Document;
use crate::events::stragglers::PassedOver;
use crate::events::{self, ScriptOutbox};
use crate::gateway::{
    DOCUMENTS_BYTES, Documents, Gateway, LISTINGS_BYTES, Lifecycle, Listings, Phase,
};
use crate::hooks::{self, Outside, ScriptCatalog, ScriptLinks, UploadGate};
use crate::joiner::Joiner;
use crate::outbound::Outbound;
use crate::provider::Desk;
use crate::route::{Door, DoorSet, Router};
use crate::runtime::Runtimes;
use crate::server::{Certificate, Drain, Ports, Remains, Respond, Server, Sockets};
use crate::shortcut::Shortcut;
use crate::telemetry::Telemetry;
use crate::telemetry::metrics::Images;
use crate::telemetry::otlp::{self, Exporter};
use crate::upkeep::Upkeep;
use crate::webhook::inbox::Inbox;
use crate::webhook::outlet::Outlet;

/// How long work behind answers is waited for when another process comes in the place of this one.
const LAST_WORK: Duration = Duration::from_secs(5);

/// Has spans taken and, once it runs, sent to the collector that is named, if one is.
fn open_exporter(
    settings: &Settings,
    outbound: &Outbound,
    telemetry: &Telemetry,
) -> Result<Option<Exporter>, StartError> {
    let Some(otlp) = &settings.otlp else {
        return Ok(None);
    };
    let metrics = &telemetry.metrics;
    let counted = (&metrics.spans_exported, &metrics.spans_lost);
    let (spans, exporter) = otlp::open(otlp, outbound, counted)?;
    telemetry.record(spans.clone());
    outbound.record(spans);
    Ok(Some(exporter))
}

/// Opens the images of all runtimes, and warns where their keys travel in the open.
fn open_runtimes(
    settings: &Settings,
    outbound: &Outbound,
    metrics: &Images,
) -> Result<Runtimes, StartError> {
    let in_the_open = settings.doors.runtime.enabled
        && settings.listeners.iter().any(|l| {
            let is_open = l.speaks == Speaks::Plain && !l.address.ip().is_loopback();
            is_open && l.doors.contains(Door::Runtime)
        });
    if in_the_open && settings.runtimes.values().any(|runtime| runtime.enabled) {
        tracing::warn!(
            "runtimes are reached by plain http, which shows their keys to the network: set tls = true for \
             listeners that are not on loopback, or let a proxy in front speak TLS"
        );
    }
    Runtimes::open(settings, outbound, metrics)
        .map_err(|(key, source)| StartError::Runtime { key, source })
}

/// The routes of all doors, and those of each listener that has not all of them.
fn compile_routes(settings: &Settings) -> Result<(Router, Vec<Option<Router>>), String> {
    let doors = &settings.doors;
    let of_listener = |listener: &Listener| {
        let apart = listener.doors != DoorSet::ALL;
        apart.then(|| Router::of(doors, listener.doors)).transpose()
    };
    let apart: Result<_, String> = settings.listeners.iter().map(of_listener).collect();
    Ok((Router::try_new(doors)?, apart?))
}

/// Binds the listeners, or takes the sockets that listen already.
async fn listen(sockets: Sockets, gateway: &Gateway) -> Result<Server, StartError> {
    let telemetry = Arc::clone(&gateway.telemetry);
    let certificate = gateway.certificate.clone();
    let bound = Server::bind_with(sockets, &gateway.settings, telemetry, certificate).await;
    bound.map_err(StartError::Listen)
}

/// Made of rows, and kept until they change.
fn kept_lists(metadata: &Metadata) -> (Documents, Listings) {
    let documents = Recent::lists(metadata, DOCUMENTS_BYTES, |document: &Arc<Document>| {
        document.weight()
    });
    let listings = Recent::lists(metadata, LISTINGS_BYTES, |lines: &Arc<Lines>| {
        lines.weight()
    });
    (documents, listings)
}

fn joiner(
    settings: &Settings,
    metadata: &Metadata,
    engine: &UploadEngine,
    stores: &BTreeMap<String, Store>,
) -> Joiner {
    Joiner::new(
        metadata.clone(),
        engine.clone(),
        stores.clone(),
        settings.uploads.joins_in_progress,
        settings.uploads.joins_waiting,
    )
}

fn engine(
    settings: &Settings,
    metadata: &Metadata,
    stores: BTreeMap<String, Store>,
    (clock, passage): (Arc<dyn Clock>, Passage),
) -> UploadEngine {
    UploadEngine::new(EngineOptions {
        ledger: metadata.ledger(),
        stores,
        default_store: settings.uploads.store.clone(),
        shared: matches!(settings.metadata, Database::Postgres(_)),
        pool: BufferPool::new(settings.uploads.part_budget_bytes),
        clock,
        max_length_bytes: settings.uploads.max_length_bytes,
        min_free_bytes: settings.limits.min_free_bytes,
        parts_in_flight: settings.uploads.parts_in_flight,
        limits: UploadLimits {
            idle: settings.uploads.idle_timeout,
            age: settings.uploads.max_age,
            untargeted_ttl: settings.uploads.untargeted_ttl,
            quarantine: settings.uploads.quarantine_ttl,
            tail_commit: settings.uploads.tail_commit,
            commit_bytes: settings.uploads.commit_bytes,
            commit_within: settings.uploads.commit_within,
            lanes: settings.digests.lanes,
            open_per_account: settings.uploads.open_per_principal,
            open_per_organization: settings.uploads.open_per_organization,
        },
        sha256: settings.digests.sha256,
        passage,
    })
}

/// Plugins are asked about what is whole.
fn passage(settings: &Settings, scripts: &Arc<Scripts>, metadata: &Metadata) -> Passage {
    Passage::Gate(Gatekeeping {
        gate: Arc::new(UploadGate::new(Arc::clone(scripts), metadata.clone())),
        pauses: settings.uploads.held_pauses.clone(),
        patience: settings.uploads.held_wait,
    })
}

/// Loads the plugins, off the reactor.
async fn open_scripts(
    settings: &Settings,
    (outside, links): (Arc<Outside>, Arc<ScriptLinks>),
    metadata: &Metadata,
) -> Result<Arc<Scripts>, StartError> {
    let mut options = hooks::options(settings);
    options.http = Some(outside);
    options.links = Some(links);
    options.pushed = hooks::pushed(metadata).await?;
    options.memory = Some(settings.data_dir.join("kv"));
    let handle = Handle::current();
    options.outbox = Some(Arc::new(ScriptOutbox::new(
        metadata.clone(),
        handle.clone(),
    )));
    options.catalog = Some(Arc::new(ScriptCatalog::new(metadata.clone(), handle)));
    for dir in &options.dirs {
        tracing::info!(dir = %dir.display(), "plugins are read from here");
    }
    let opened = tokio::task::spawn_blocking(move || Scripts::open(options)).await;
    let scripts =
        opened.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))?;
    for status in scripts.status() {
        let (plugin, hash) = (status.plugin, status.hash.unwrap_or_default());
        match status.error {
            None => tracing::info!(plugin, hash, "plugin loaded"),
            Some(error) => tracing::error!(
                plugin,
                in_force = hash,
                error,
                "a plugin does not work as it stands"
            ),
        }
    }
    Ok(Arc::new(scripts))
}

/// Rows and stores of a data directory that no gateway runs on, for commands that look after them.
#[derive(Debug)]
pub struct Premises {
    metadata: Metadata,
    engine: UploadEngine,
    _data_dir: DataDir,
}

impl Premises {
    /// Opens what a gateway made, and makes nothing; but for a database in the place of a `lost` one.
    ///
    /// # Errors
    /// [`StartError`]; [`StartError::InUse`] while a gateway runs on it.
    pub async fn open(settings: &Settings, lost: bool) -> Result<Self, StartError> {
        let database = settings.data_dir.join("boxgate.db");
        let is_there = database.exists() || lost && settings.data_dir.exists();
        if matches!(settings.metadata, Database::Embedded) && !is_there {
            return Err(StartError::DataDir {
                path: settings.data_dir.clone(),
                reason: "no gateway ever ran on it".into(),
            });
        }
        let mut data_dir = DataDir::open(&settings.data_dir)?;
        settle_ballast(&data_dir)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (metadata, _key) = open_metadata(settings, Arc::clone(&clock)).await?;
        let stores = open_stores(&metadata, settings, &mut data_dir).await?;
        // No plugin is here, and nothing may become visible past those that the gateway asks.
        let engine = engine(settings, &metadata, stores, (clock, Passage::Shut));
        Ok(Self {
            metadata,
            engine,
            _data_dir: data_dir,
        })
    }

    /// What is kept here.
    pub fn stock(&self) -> Stock {
        Stock::new(self.metadata.clone(), self.engine.clone()).at_rest()
    }

    /// Lets go of it.
    pub async fn close(self) {
        self.engine.settled().await;
        self.metadata.close().await;
    }
}

/// A gateway that has been put together and listens, but does not serve yet.
#[derive(Debug)]
pub struct App {
    gateway: Arc<Gateway>,
    server: Server,
    ports: Ports,
    drain: Drain,
    ballast: Arc<Ballast>,
    exporter: Option<Exporter>,
    /// What former processes claimed work under, too.
    node: String,
    _data_dir: DataDir,
}

impl App {
    /// Opens everything, binds the listeners.
    ///
    /// # Errors
    /// [`StartError`] names the part and the setting.
    pub async fn start(settings: Settings, telemetry: Arc<Telemetry>) -> Result<Self, StartError> {
        Box::pin(Self::start_with(Sockets::default(), settings, telemetry)).await
    }

    /// The same, at `sockets` that listen already.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_with(
        sockets: Sockets,
        settings: Settings,
        telemetry: Arc<Telemetry>,
    ) -> Result<Self, StartError> {
        let clock: Arc<dyn Clock> = match &settings.metadata {
            Database::Embedded => Arc::new(SystemClock),
            Database::Postgres(_) => Arc::new(SharedClock::default()),
        };
        Box::pin(Self::assemble(sockets, settings, telemetry, clock)).await
    }

    /// Finds out what can be found out before the data directory is free: whether certificate and routes are good, and whether the
    /// directories are there or can be made. Gives sockets for all listeners: `sockets`, and those that were missing.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn rehearse(sockets: Sockets, settings: &Settings) -> Result<Sockets, StartError> {
        let certificate = settings.tls.as_ref().map(Certificate::load).transpose()?;
        compile_routes(settings).map_err(StartError::Routes)?;
        // Their locks are another's still.
        DataDir::make(&settings.data_dir)?;
        for (name, store) in &settings.stores {
            if let StoreSettings::Local(store) = store {
                DataDir::make_store(name, &store.path)?;
            }
        }
        let all = Server::rehearse(sockets, settings, certificate.as_ref());
        all.map_err(StartError::Listen)
    }

    /// The same, by another clock.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_at(
        settings: Settings,
        telemetry: Arc<Telemetry>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        Box::pin(Self::assemble(
            Sockets::default(),
            settings,
            telemetry,
            clock,
        ))
        .await
    }

    async fn assemble(
        sockets: Sockets,
        settings: Settings,
        telemetry: Arc<Telemetry>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        let certificate = settings.tls.as_ref().map(Certificate::load).transpose()?;
        let mut data_dir = DataDir::open(&settings.data_dir)?;
        let node = data_dir.node();
        let ballast = settle_ballast(&data_dir)?;
        let (metadata, master_key) = open_metadata(&settings, Arc::clone(&clock)).await?;
        agree(&*clock, &metadata).await?;
        observe_commits(&metadata, &telemetry);
        compare_addresses(&settings, &metadata).await?;
        master_key.key_for(&metadata, link_keys::PURPOSE).await?;
        let accounts_key = accounts_key(&master_key, &metadata).await?;
        let opened = LinkKeys::open(master_key.clone(), &metadata, clock.now()).await?;
        let link_keys = Arc::new(opened);
        let stores = open_stores(&metadata, &settings, &mut data_dir).await?;
        let outbound = Outbound::new(&settings.outbound);
        let exporter = open_exporter(&settings, &outbound, &telemetry)?;
        let outside = Arc::new(Outside::new(&outbound, &settings, Handle::current()));
        events::begin(&metadata, clock.now()).await?;
        let links = ScriptLinks {
            base: ScriptLinks::base(&settings),
            stores: stores.clone(),
            keys: Arc::clone(&link_keys),
            metadata: metadata.clone(),
            clock: Arc::clone(&clock),
            handle: Handle::current(),
        };
        let reach = (Arc::clone(&outside), Arc::new(links));
        let scripts = open_scripts(&settings, reach, &metadata).await?;
        let passage = passage(&settings, &scripts, &metadata);
        let engine = engine(
            &settings,
            &metadata,
            stores.clone(),
            (Arc::clone(&clock), passage),
        );
        let background = TaskTracker::new();
        let cache = BlockCache::new(settings.cache, background.clone());
        let files = settings.verify.local_max_age.map(FileReads::new);
        let (documents, listings) = kept_lists(&metadata);
        let shortcuts = Recent::answers(&metadata, settings.answers_bytes, Shortcut::weight);
        let (router, routers) = compile_routes(&settings).map_err(StartError::Routes)?;
        let drain = Drain::new(&settings.server);
        let joiner = joiner(&settings, &metadata, &engine, &stores);
        let runtimes = open_runtimes(&settings, &outbound, &telemetry.metrics.images)?;
        let boxitory = Boxitory::open(settings.boxitory.as_ref()).await;
        let rows = metadata.clone();
        let providers = Desk::new(&settings.providers, accounts_key, rows, &background);
        let gateway = Arc::new(Gateway {
            watch: Watch::default(),
            scripts,
            outside,
            upkeep: Upkeep::new(drain.begun(), &node),
            inbox: Inbox::new(settings.hooks.at_once),
            outlet: Outlet::new(&outbound, &settings.webhooks, master_key),
            passed_over: PassedOver::default(),
            providers,
            runtimes,
            admission: Admission::new(&settings),
            link_keys,
            settings,
            metadata,
            engine,
            joiner,
            chunk_sessions: tokio::sync::Mutex::default(),
            stores,
            router,
            routers,
            boxitory,
            telemetry,
            clock,
            background,
            home: Handle::current(),
            cache,
            files,
            documents,
            listings,
            shortcuts,
            lifecycle: Lifecycle::default(),
            certificate,
        });
        let mut server = listen(sockets, &gateway).await?;
        outbound.listens_at(server.addresses().to_vec());
        Ok(Self {
            gateway,
            ports: server.take_ports(),
            server,
            drain,
            ballast: Arc::new(ballast),
            exporter,
            node,
            _data_dir: data_dir,
        })
    }

    /// What requests will reach.
    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// Its sockets, for a process that comes in the place of this one; given out once.
    pub fn take_ports(&mut self) -> Ports {
        std::mem::take(&mut self.ports)
    }

    /// The addresses that are bound.
    pub fn addresses(&self) -> &[SocketAddr] {
        self.server.addresses()
    }

    /// Where clients reach each of them.
    pub fn urls(&self) -> Vec<String> {
        let speaks = self.gateway.settings.listeners.iter().map(|l| l.speaks);
        self.addresses()
            .iter()
            .zip(speaks)
            .map(|(address, speaks)| format!("{}://{address}", speaks.scheme()))
            .collect()
    }

    /// Finishes or gives up what a former process left. Requests get 503 until [`Self::serve`].
    ///
    /// # Errors
    /// When the database or the store does not answer.
    pub async fn recover(&self) -> Result<(), StartError> {
        let recovered = self.gateway.engine.recover().await?;
        let swept = self.gateway.engine.sweep().await?;
        self.gateway.metadata.release_former(&self.node).await?;
        tracing::info!(
            finished = recovered.finished,
            aborted = recovered.aborted,
            swept = swept.removed,
            "recovered what was left"
        );
        Ok(())
    }

    /// What stops it.
    pub fn drain(&self) -> Drain {
        self.drain.clone()
    }

    /// Lets go of all that it holds, without having served.
    pub async fn close(self) {
        let gateway = self.gateway;
        gateway.engine.settled().await;
        gateway.background.close();
        gateway.background.wait().await;
        gateway.metadata.close().await;
    }

    /// Serves until [`Self::drain`] is signalled and gone through.
    pub async fn serve(self) {
        Box::pin(self.run()).await.finish().await;
    }

    /// Serves until all is over but, when another process comes in the place of this one, the answers that are on their
    /// way. The data directory is free from then on.
    pub async fn run(self) -> Remains {
        let gateway = Arc::clone(&self.gateway);
        gateway.enter(Phase::Serving);
        let sweeper = tokio::spawn(sweep(Arc::clone(&gateway), self.ballast));
        let timekeeper = tokio::spawn(keep_time(Arc::clone(&gateway)));
        let (draining, begun) = (Arc::clone(&gateway), self.drain.begun());
        let leaving = self.drain.handing_over();
        let plugins = tokio::spawn(hooks::watch(Arc::clone(&gateway)));
        let following = tokio::spawn(hooks::follow(Arc::clone(&gateway)));
        let work = Work::begin(&gateway);
        let following_tree = gateway
            .boxitory
            .clone()
            .map(|tree| tokio::spawn(tree.follow()));
        let remembering = tokio::spawn(hooks::remember(Arc::clone(&gateway)));
        let ended = CancellationToken::new();
        let exporting = self
            .exporter
            .map(|exporter| tokio::spawn(exporter.run(ended.clone())));
        let watcher = tokio::spawn(async move {
            begun.cancelled().await;
            // Who looks whether this node is there shall not look elsewhere: it stays.
            if !leaving.is_cancelled() {
                draining.enter(Phase::Draining);
            }
            draining.joiner.halt();
        });
        let responder: Arc<dyn Respond> = Arc::clone(&gateway) as _;
        let handing_over = self.drain.handing_over();
        let remains = self.server.run(responder, self.drain).await;
        sweeper.abort();
        timekeeper.abort();
        watcher.abort();
        plugins.abort();
        following.abort();
        gateway.runtimes.end();
        if let (Some(tree), Some(following)) = (&gateway.boxitory, following_tree) {
            tree.end();
            following.abort();
        }
        let over = async {
            gateway.joiner.stop().await;
            work.over().await;
            gateway.engine.settled().await;
        };
        if handing_over.is_cancelled() {
            // Nobody is served until it is over. What is cut is found as after a kill.
            if tokio::time::timeout(LAST_WORK, over).await.is_err() {
                tracing::warn!("handing over: work behind answers is cut");
            }
        } else {
            over.await;
        }
        remembering.abort();
        gateway.background.close();
        if handing_over.is_cancelled() {
            // Answers that go on may begin more of it all the time.
            let _cut = tokio::time::timeout(LAST_WORK, gateway.background.wait()).await;
            hooks::write_down(&gateway).await;
            let _cut = tokio::time::timeout(LAST_WORK, gateway.metadata.close()).await;
        } else {
            gateway.background.wait().await;
            hooks::write_down(&gateway).await;
            gateway.metadata.close().await;
        }
        // The last answers are told of, too; who comes in the place of this one does not wait for that.
        match exporting {
            Some(exporting) => remains.told_by(exporting, ended),
            None => remains,
        }
    }
}
