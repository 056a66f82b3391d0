//! The composition root: settings to stores, rows, engine, listeners and drain. The one file that
//! names every part.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use boxgate_storage::backend::local;
use boxgate_storage::buffer::BufferPool;
use boxgate_storage::clock::{Clock, SystemClock};
use boxgate_storage::metadata::{Metadata, MetadataOptions};
use boxgate_storage::upload::{EngineOptions, UploadEngine, UploadLimits};
use tokio_util::task::TaskTracker;

use crate::admission::Admission;
use crate::auth::link::LinkSigner;
use crate::auth::master_key::{MasterKey, MasterKeyError};
use crate::config::settings::Settings;
use crate::gateway::{Gateway, Lifecycle, Phase};
use crate::route::Router;
use crate::server::{Drain, Respond, Server};
use crate::telemetry::Telemetry;

/// How long a replaced or deleted blob stays readable: the longest download plus the life of a link.
const DOOMED_FOR: Duration = Duration::from_hours(24);
/// How often leftovers are looked for.
const SWEEP_EVERY: Duration = Duration::from_mins(1);
/// The name of the one store.
const MAIN_STORE: &str = "main";

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be made or is in use.
    #[error("cannot use the data directory {path}: {reason} (data_dir)")]
    DataDir {
        /// Which.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A part of the storage does not work.
    #[error(transparent)]
    Storage(#[from] boxgate_storage::Error),
    /// The master key.
    #[error(transparent)]
    MasterKey(#[from] MasterKeyError),
    /// Two routes are in each other's way.
    #[error("the doors' prefixes are in each other's way: {0}")]
    Routes(String),
    /// A listener cannot be bound.
    #[error("a listener does not work (listeners.address or --listen)")]
    Listen(#[source] std::io::Error),
}

/// The data directory, held by this process alone until it ends.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: std::fs::File,
}

impl DataDir {
    /// Makes the directory if missing and locks it.
    ///
    /// # Errors
    /// [`StartError::DataDir`], also when another process holds it.
    pub fn open(path: &std::path::Path) -> Result<Self, StartError> {
        use std::os::unix::fs::DirBuilderExt as _;
        let failed = |reason: String| StartError::DataDir {
            path: path.to_owned(),
            reason,
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(path)
            .map_err(|e| failed(e.to_string()))?;
        let lock = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"))
            .map_err(|e| failed(e.to_string()))?;
        // The kernel frees the lock with its holder, however it ends.
        lock.try_lock().map_err(|_held| {
            failed("another boxgate runs on it; stop that one or choose another directory".into())
        })?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }
}

/// Opens the rows of a data directory.
///
/// # Errors
/// When the database cannot be opened or another master key made it.
pub async fn open_metadata(
    settings: &Settings,
    clock: Arc<dyn Clock>,
) -> Result<(Metadata, MasterKey), StartError> {
    let configured = settings
        .master_key
        .as_ref()
        .map(super::config::settings::Secret::expose);
    let master_key = MasterKey::load(configured, &settings.data_dir)?;
    let options = MetadataOptions {
        clock,
        doomed_for: DOOMED_FOR,
    };
    let metadata = Metadata::open_sqlite(&settings.data_dir.join("boxgate.db"), options).await?;
    master_key.prove(&metadata).await?;
    Ok((metadata, master_key))
}

/// A gateway that has been put together and listens, but does not serve yet.
#[derive(Debug)]
pub struct App {
    gateway: Arc<Gateway>,
    server: Server,
    drain: Drain,
    _data_dir: DataDir,
}

impl App {
    /// Opens everything, binds the listeners.
    ///
    /// # Errors
    /// [`StartError`] names the part and the setting.
    pub async fn start(settings: Settings, telemetry: Arc<Telemetry>) -> Result<Self, StartError> {
        let data_dir = DataDir::open(&settings.data_dir)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (metadata, master_key) = open_metadata(&settings, Arc::clone(&clock)).await?;
        let metrics = Arc::clone(&telemetry);
        metadata.on_commit(Arc::new(move |took| {
            metrics
                .metrics
                .metadata_commit_seconds
                .observe(took.as_secs_f64());
        }));
        let (key, secret) = master_key.key_for(&metadata, "download-link").await?;
        let store = local::open(&settings.stores.main.path).await?;
        let stores = BTreeMap::from([(MAIN_STORE.to_owned(), store)]);
        let engine = UploadEngine::new(EngineOptions {
            ledger: metadata.ledger(),
            stores: stores.clone(),
            default_store: MAIN_STORE.to_owned(),
            pool: BufferPool::new(settings.uploads.part_budget_bytes),
            clock: Arc::clone(&clock),
            max_length_bytes: settings.uploads.max_length_bytes,
            min_free_bytes: settings.limits.min_free_bytes,
            parts_in_flight: settings.uploads.parts_in_flight,
            limits: UploadLimits {
                idle: settings.uploads.idle_timeout,
                age: settings.uploads.max_age,
                untargeted_ttl: settings.uploads.untargeted_ttl,
                open_per_account: settings.uploads.open_per_principal,
                open_per_organization: settings.uploads.open_per_organization,
            },
        });
        let router = Router::try_new(&settings.doors).map_err(StartError::Routes)?;
        let gateway = Arc::new(Gateway {
            admission: Admission::new(&settings),
            links: LinkSigner::new(key.id, &secret),
            settings,
            metadata,
            engine,
            stores,
            router,
            telemetry,
            clock,
            background: TaskTracker::new(),
            lifecycle: Lifecycle::default(),
        });
        let server = Server::bind(&gateway.settings, Arc::clone(&gateway.telemetry))
            .await
            .map_err(StartError::Listen)?;
        let drain = Drain::new(&gateway.settings.server);
        Ok(Self {
            gateway,
            server,
            drain,
            _data_dir: data_dir,
        })
    }

    /// What requests will reach.
    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// The addresses that are bound.
    pub fn addresses(&self) -> &[SocketAddr] {
        self.server.addresses()
    }

    /// Finishes or gives up what a former process left. Requests get 503 until [`Self::serve`].
    ///
    /// # Errors
    /// When the database or the store does not answer.
    pub async fn recover(&self) -> Result<(), StartError> {
        let recovered = self.gateway.engine.recover().await?;
        let swept = self.gateway.engine.sweep().await?;
        tracing::info!(
            finished = recovered.finished,
            aborted = recovered.aborted,
            swept,
            "recovered what was left"
        );
        Ok(())
    }

    /// What stops it.
    pub fn drain(&self) -> Drain {
        self.drain.clone()
    }

    /// Serves until [`Self::drain`] is signalled and gone through.
    pub async fn serve(self) {
        let gateway = Arc::clone(&self.gateway);
        gateway.enter(Phase::Serving);
        let sweeper = tokio::spawn(sweep(Arc::clone(&gateway)));
        let (draining, begun) = (Arc::clone(&gateway), self.drain.begun());
        let watcher = tokio::spawn(async move {
            begun.cancelled().await;
            draining.enter(Phase::Draining);
        });
        let responder: Arc<dyn Respond> = Arc::clone(&gateway) as _;
        self.server.serve(responder, self.drain).await;
        sweeper.abort();
        watcher.abort();
        gateway.engine.settled().await;
        gateway.background.close();
        gateway.background.wait().await;
        gateway.metadata.close().await;
    }
}

async fn sweep(gateway: Arc<Gateway>) {
    let mut every = tokio::time::interval(SWEEP_EVERY);
    loop {
        every.tick().await;
        if let Err(error) = gateway.engine.sweep().await {
            tracing::warn!(error = %boxgate_storage::error::chain(&error), "sweep failed");
        }
        if let Err(error) = gateway.metadata.purge_expired_tokens().await {
            tracing::warn!(error = %boxgate_storage::error::chain(&error), "expired tokens not purged");
        }
    }
}
