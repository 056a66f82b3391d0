//! What stands in for Sanbox runtimes: each has an image that is served, replaced whole, copied by the clock, and pushed to
//! others.
//!
//! It is a plain file that belongs to this machine and to no store, since another program reads it where it is; or it is in
//! a store, and no program but the gateway reads it.

pub mod arriving;
pub mod backup;
pub mod conditions;
pub mod date;
pub mod image;
pub mod key;
pub mod push;
mod reload;
pub mod stored;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use boxgate_storage::clock::UnixMillis;
use boxgate_storage::digest::Blake3;
use boxgate_storage::error::chain;
use boxgate_storage::metadata::Metadata;
use boxgate_storage::metadata::catalog::Iso;
use boxgate_storage::{Error, durable};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::config::runtime as settings;
use crate::gateway::Gateway;
use crate::outbound::{Caller, Outbound};
use crate::telemetry::metrics::Images;
use arriving::{Arrivals, Held};
use conditions::Conditions;
use image::{Image, Snapshot, Staged, Staging, done};
use key::Key;
use push::Target;
use stored::{Blocking, Sending, Sent, Stored};

/// Backups are looked at so often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Where what comes over several requests waits for its store, in the data directory.
const ARRIVING: &str = "runtimes";
/// Uploads that nobody goes on with are looked for so often.
const SWEEP_EVERY: Duration = Duration::from_mins(1);
/// All runtimes of a gateway.
#[derive(Debug, Default)]
pub struct Runtimes {
    named: BTreeMap<String, Arc<Runtime>>,
    over: CancellationToken,
}

/// One runtime.
#[derive(Debug)]
pub struct Runtime {
    /// Its name.
    pub name: String,
    /// Its settings.
    pub settings: settings::Runtime,
    /// Its key.
    pub key: Key,
    /// Its image.
    pub image: Kept,
    /// Images that come over several requests.
    pub arrivals: Arrivals,
    caller: Caller,
    metrics: Images,
    /// Held while the image in place changes.
    swap: tokio::sync::Mutex<()>,
    standing: Mutex<Standing>,
    /// That an image waits to be taken.
    waiting: Notify,
}

/// Where a runtime's image is.
#[derive(Debug)]
pub enum Kept {
    /// In a file that another program reads.
    File(Image),
    /// In a store.
    Stored(Stored),
}

/// An image as it is at one moment.
#[derive(Debug)]
pub enum Current {
    /// Of a file.
    File(Snapshot),
    /// Of a store.
    Stored(Box<Iso>),
}

/// An image on its way in.
#[derive(Debug)]
pub enum Incoming {
    /// Into a file.
    File(Staging),
    /// Into a store.
    Stored(Sending),
}

/// An image of which all bytes came, and that is not in its place yet.
#[derive(Debug)]
pub enum Whole {
    /// Beside a file.
    File(Staged),
    /// In a store.
    Stored(Sent),
}

/// Why an image was not put in place.
#[derive(Debug)]
pub enum NotDeployed {
    /// The one in place is none that is expected.
    Unexpected,
    /// A step failed.
    Failed(io::Error),
    /// The store, or the rows, did not do it.
    Refused(Error),
}

impl Kept {
    /// The name under which it is sent.
    pub fn file_name(&self) -> String {
        match self {
            Self::File(image) => image.file_name(),
            Self::Stored(stored) => stored.name.to_string(),
        }
    }

    /// Where it is, for people.
    fn place(&self) -> String {
        match self {
            Self::File(image) => image.path().display().to_string(),
            Self::Stored(stored) => format!("{}/iso/{}", stored.organization, stored.name),
        }
    }

    /// The image as it is now; `None` where there is none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn current(&self, metadata: &Metadata) -> io::Result<Option<Current>> {
        Ok(match self {
            Self::File(image) => image.snapshot().await?.map(Current::File),
            Self::Stored(stored) => {
                let found = stored.find(metadata).await?;
                found.map(|iso| Current::Stored(Box::new(iso)))
            }
        })
    }

    fn file(&self) -> Option<&Image> {
        match self {
            Self::File(image) => Some(image),
            Self::Stored(_) => None,
        }
    }

    /// Whether the image in place was not proved, since a crash came between.
    fn is_unproved(&self) -> bool {
        self.file().is_some_and(Image::is_unproved)
    }

    /// That the image in place stays. Blocking.
    fn proved(&self) -> io::Result<()> {
        self.file().map_or(Ok(()), Image::proved)
    }

    /// Puts the image before back in place; whether there was one. Blocking.
    fn put_back(&self) -> io::Result<bool> {
        self.file().map_or(Ok(false), Image::put_back)
    }
}

impl Current {
    /// Bytes.
    pub fn length(&self) -> u64 {
        match self {
            Self::File(image) => image.length,
            Self::Stored(iso) => iso.blob.length,
        }
    }

    /// Their digest.
    pub fn blake3(&self) -> Blake3 {
        match self {
            Self::File(image) => image.blake3,
            Self::Stored(iso) => iso.blob.blake3,
        }
    }

    /// When they were written.
    pub fn modified(&self) -> SystemTime {
        match self {
            Self::File(image) => image.modified,
            Self::Stored(iso) => UNIX_EPOCH + Duration::from_millis(iso.updated.0.unsigned_abs()),
        }
    }

    /// The bytes, from the first.
    ///
    /// # Errors
    /// When the store does not have them.
    pub async fn read(
        self,
        gateway: &Gateway,
    ) -> io::Result<BoxStream<'static, io::Result<Bytes>>> {
        match self {
            Self::File(image) => Ok(image.read()),
            Self::Stored(iso) => stored::read(gateway, &iso).await,
        }
    }
}

impl Incoming {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// When the disk or the store failed, or is full.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), NotDeployed> {
        match self {
            Self::File(staging) => Ok(staging.write(bytes).await?),
            Self::Stored(sending) => sending.write(bytes).await.map_err(NotDeployed::Refused),
        }
    }

    /// Has all of them.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn finish(self) -> Result<Whole, NotDeployed> {
        match self {
            Self::File(staging) => Ok(Whole::File(staging.finish().await?)),
            Self::Stored(sending) => Ok(Whole::Stored(sending.finish())),
        }
    }
}

impl Whole {
    /// How many bytes.
    pub fn length(&self) -> u64 {
        match self {
            Self::File(staged) => staged.length,
            Self::Stored(sent) => sent.length,
        }
    }

    /// Their digest.
    pub fn blake3(&self) -> Blake3 {
        match self {
            Self::File(staged) => staged.blake3,
            Self::Stored(sent) => sent.blake3,
        }
    }
}

/// An image that is in place and that its runtime was not told of: it is when this is dropped, which is when the answer is
/// out of hand or nobody waits for it any more.
#[derive(Debug)]
pub struct Untold(Arc<Runtime>);

impl Drop for Untold {
    fn drop(&mut self) {
        self.0.waiting.notify_one();
    }
}

impl From<io::Error> for NotDeployed {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// What was deployed last, and how the runtime took it.
#[derive(Debug, Clone, Default)]
struct Standing {
    deployed: Option<Deployed>,
    reload: ReloadState,
}

/// One deployment.
#[derive(Debug, Clone)]
pub struct Deployed {
    /// Its name in events and for the command that reloads.
    pub id: String,
    /// Bytes.
    pub length: u64,
    /// Their digest.
    pub blake3: Blake3,
    /// When.
    pub at: UnixMillis,
    /// Through how many gateways it came by pushes.
    hops: u32,
    /// Whether the runtime has taken these bytes already, as the image before.
    is_known: bool,
    /// The trace of the request that it came by.
    trace: Option<Arc<str>>,
}

/// How a runtime took the image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum ReloadState {
    /// Nothing was deployed since the start.
    #[default]
    None,
    /// It is just being told.
    Running,
    /// It did.
    Ok,
    /// It did not.
    Failed(String),
    /// It did not, and has the image before.
    RolledBack(String),
    /// It was not told.
    Skipped(String),
}

impl ReloadState {
    fn word(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Running => "running",
            Self::Ok => "ok",
            Self::Failed(_) => "failed",
            Self::RolledBack(_) => "rolled_back",
            Self::Skipped(_) => "skipped",
        }
    }

    fn error(&self) -> Option<&str> {
        match self {
            Self::Failed(why) | Self::RolledBack(why) | Self::Skipped(why) => Some(why),
            Self::None | Self::Running | Self::Ok => None,
        }
    }
}

impl Runtimes {
    /// Opens the images of all runtimes. Blocking.
    ///
    /// # Errors
    /// The name of the setting, and what is wrong.
    pub fn open(
        settings: &Settings,
        outbound: &Outbound,
        metrics: &Images,
    ) -> Result<Self, (String, io::Error)> {
        let mut runtimes = BTreeMap::new();
        for (name, of) in &settings.runtimes {
            let unopened = |e| (format!("runtimes.{name}.image_file_path"), e);
            let (image, arrivals) = match &of.stored {
                None => {
                    let image = Image::open(&of.image).map_err(unopened)?;
                    let arrivals = Arrivals::open(image.directory(), &image.file_name());
                    (Kept::File(image), arrivals)
                }
                Some(stored) => {
                    let directory = settings.data_dir.join(ARRIVING).join(name);
                    durable::make_directory(&directory, 0o700).map_err(unopened)?;
                    let arrivals = Arrivals::open(&directory, stored.name.as_str());
                    (Kept::Stored(stored.clone()), arrivals)
                }
            };
            let arrivals = arrivals.map_err(unopened)?;
            let key = "runtimes.<name>.allow_networks";
            let caller = outbound.caller(key, &of.allow_networks, push::CONNECT_TIME);
            metrics.begin(name);
            let runtime = Runtime {
                name: name.clone(),
                key: Key::new(of.api_key.expose(), of.previous_api_key.expose()),
                settings: of.clone(),
                image,
                arrivals,
                caller: caller.privately(),
                metrics: metrics.clone(),
                swap: tokio::sync::Mutex::new(()),
                standing: Mutex::default(),
                waiting: Notify::new(),
            };
            runtimes.insert(name.clone(), Arc::new(runtime));
        }
        Ok(Self {
            named: runtimes,
            over: CancellationToken::new(),
        })
    }

    /// The runtime of that name, if it answers.
    pub fn get(&self, name: &str) -> Option<&Arc<Runtime>> {
        self.named
            .get(name)
            .filter(|runtime| runtime.settings.enabled)
    }

    /// All of them, also those whose image is copied and that answer nothing.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Runtime>> {
        self.named.values()
    }

    /// That no request comes any more: what waits is done, and then nobody looks after them.
    pub fn end(&self) {
        self.over.cancel();
    }
}

impl Runtime {
    fn standing(&self) -> std::sync::MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it stands, for operators.
    pub fn status(&self) -> Value {
        let standing = self.standing().clone();
        let deployed = standing.deployed.map(|deployed| {
            json!({
                "id": deployed.id, "size": deployed.length, "blake3": deployed.blake3.to_hex(),
                "at": crate::door::boxvault::shape::time(deployed.at),
            })
        });
        json!({
            "name": self.name, "image": self.image.place(), "enabled": self.settings.enabled,
            "allowDeployments": self.settings.allow_deployments, "lastDeploy": deployed,
            "reload": standing.reload.word(), "reloadError": standing.reload.error(),
        })
    }

    /// Puts an image in place. What is begun is done, whoever stops waiting.
    ///
    /// # Errors
    /// When that fails, or the one in place is none that is expected; the image before then stays.
    pub async fn deploy(
        self: &Arc<Self>,
        gateway: &Gateway,
        whole: Whole,
        expected: Conditions,
        hops: u32,
    ) -> Result<Untold, NotDeployed> {
        if self.settings.backup_before_deploy && self.image.file().is_none() {
            // What the store has is never replaced in place.
            self.back_up(gateway, gateway.clock.now()).await;
        }
        let (this, metadata, now) = (
            Arc::clone(self),
            gateway.metadata.clone(),
            gateway.clock.now(),
        );
        let trace = boxgate_storage::trace::current();
        let placing = gateway.background.spawn(async move {
            let _alone = this.swap.lock().await;
            // No other image comes between this look and the swap.
            if !this.is_expected(&metadata, &expected).await? {
                return Err(NotDeployed::Unexpected);
            }
            let deployed = Deployed {
                id: hex::encode(fastrand::u128(..).to_be_bytes()),
                length: whole.length(),
                blake3: whole.blake3(),
                at: now,
                hops,
                is_known: this.is_known(&metadata, whole.blake3(), hops).await,
                trace,
            };
            match whole {
                Whole::Stored(sent) => {
                    let Kept::Stored(stored) = &this.image else {
                        return Err(io::Error::other("the image is in a file").into());
                    };
                    sent.put_in_place(stored, &metadata).await?;
                }
                Whole::File(staged) => {
                    if this.settings.backup_before_deploy {
                        let copied = this.copy_file(now).await;
                        this.backed_up(&metadata, copied).await;
                    }
                    this.put_in_place(staged).await?;
                }
            }
            *this.standing() = Standing {
                deployed: Some(deployed.clone()),
                reload: ReloadState::Running,
            };
            tracing::info!(
                runtime = this.name,
                deploy = deployed.id,
                length = deployed.length,
                blake3 = deployed.blake3.to_hex(),
                "image deployed"
            );
            this.tell(
                &metadata,
                "image.deployed",
                this.told(&deployed, "staged", None),
            )
            .await;
            Ok(Untold(Arc::clone(&this)))
        });
        placing
            .await
            .unwrap_or_else(|panicked| Err(io::Error::other(panicked).into()))
    }

    /// Whether bytes that another gateway pushed are in place already, and the runtime has taken them.
    async fn is_known(&self, metadata: &Metadata, blake3: Blake3, hops: u32) -> bool {
        if hops == 0 || !matches!(self.settings.reload, settings::Reload::Push(_)) {
            return false;
        }
        let is_settled = match self.standing().reload {
            ReloadState::None | ReloadState::Ok | ReloadState::Skipped(_) => true,
            ReloadState::Running | ReloadState::Failed(_) | ReloadState::RolledBack(_) => false,
        };
        let current = self.image.current(metadata).await;
        is_settled && current.is_ok_and(|image| image.is_some_and(|i| i.blake3() == blake3))
    }

    /// Finds out whether an upload became the image, where that was cut.
    ///
    /// # Errors
    /// When what is in place cannot be read, or the record not written.
    pub async fn settle(&self, metadata: &Metadata, mut upload: Held) -> io::Result<Held> {
        let now = match &self.image {
            Kept::Stored(stored) => stored.seen(metadata).await?,
            // Its start knew.
            Kept::File(_) => return Ok(upload),
        };
        done(spawn_blocking(move || upload.settle(&now).map(|()| upload)).await)
    }

    async fn put_in_place(self: &Arc<Self>, staged: Staged) -> io::Result<()> {
        let this = Arc::clone(self);
        let placing = spawn_blocking(move || match this.image.file() {
            Some(image) => image.put_in_place(staged, this.settings.rollback),
            None => Err(io::Error::other("the image is in a store")),
        });
        done(placing.await)
    }

    /// Whether the image in place is one that is expected.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn is_expected(
        &self,
        metadata: &Metadata,
        expected: &Conditions,
    ) -> io::Result<bool> {
        if expected.are_none() {
            return Ok(true);
        }
        let current = self.image.current(metadata).await?;
        Ok(expected.hold(current.as_ref()))
    }

    /// Goes on with an image that the runtime was not told of, since a crash came between.
    async fn take_up(&self, metadata: &Metadata, now: UnixMillis) {
        if !self.settings.rollback || !self.image.is_unproved() {
            return;
        }
        let Ok(image) = self.snapshot(metadata).await else {
            return;
        };
        tracing::warn!(
            runtime = self.name,
            "a runtime may not know its image yet; it is told"
        );
        *self.standing() = Standing {
            deployed: Some(Deployed {
                id: hex::encode(fastrand::u128(..).to_be_bytes()),
                length: image.length(),
                blake3: image.blake3(),
                at: now,
                hops: 0,
                is_known: false,
                trace: None,
            }),
            reload: ReloadState::Running,
        };
        self.waiting.notify_one();
    }

    /// Pushes an image to another runtime.
    ///
    /// # Errors
    /// What went wrong, for whoever asked.
    pub async fn push(
        &self,
        gateway: &Gateway,
        target: &Target,
        image: Current,
    ) -> Result<(), String> {
        let host = target.to.host().to_ascii_lowercase();
        let allowed = &self.settings.allow_targets;
        if !allowed.is_empty() && !allowed.contains(&host) {
            return Err(format!(
                "{host} is none of the hosts that images may be pushed to (runtimes.{}.allow_targets)",
                self.name
            ));
        }
        let checksum = image.blake3().to_hex();
        let pushed = push::push(&self.caller, target, image, 0, gateway).await;
        let status = if pushed.is_ok() { "accepted" } else { "failed" };
        let told = json!({ "runtime": self.name, "target_host": host, "checksum": checksum, "status": status });
        self.tell(&gateway.metadata, "image.pushed", told).await;
        pushed
    }

    /// The image as it is now.
    ///
    /// # Errors
    /// What is wrong, for whoever asked; also where there is none.
    pub async fn snapshot(&self, metadata: &Metadata) -> Result<Current, String> {
        match self.image.current(metadata).await {
            Ok(Some(image)) => Ok(image),
            Ok(None) => {
                let homeless = self.homeless(metadata).await;
                Err(homeless.unwrap_or_else(|| "no image deployed".to_owned()))
            }
            Err(e) => {
                tracing::error!(runtime = self.name, error = %e, "an image cannot be read");
                Err(format!("the image cannot be read: {e}"))
            }
        }
    }

    /// What is wrong where the organization whose image it is is gone, or has another name.
    pub async fn homeless(&self, metadata: &Metadata) -> Option<String> {
        let Kept::Stored(stored) = &self.image else {
            return None;
        };
        let found = metadata.organization(&stored.organization).await;
        matches!(found, Ok(None)).then(|| stored.homeless(&self.name))
    }

    /// Copies the image; a copy that fails stops nothing else.
    async fn back_up(self: &Arc<Self>, gateway: &Gateway, now: UnixMillis) {
        let copied = match &self.image {
            Kept::File(_) => self.copy_file(now).await,
            Kept::Stored(stored) => self.copy_stored(gateway, stored, now).await,
        };
        self.backed_up(&gateway.metadata, copied).await;
    }

    async fn copy_file(self: &Arc<Self>, now: UnixMillis) -> io::Result<Option<PathBuf>> {
        let this = Arc::clone(self);
        let copying = spawn_blocking(move || {
            let of = &this.settings;
            match this.image.file() {
                Some(image) => backup::copy(image, &of.backup_directory, of.backups_kept, now),
                None => Ok(None),
            }
        });
        done(copying.await)
    }

    async fn copy_stored(
        self: &Arc<Self>,
        gateway: &Gateway,
        stored: &Stored,
        now: UnixMillis,
    ) -> io::Result<Option<PathBuf>> {
        let Some(iso) = stored.find(&gateway.metadata).await? else {
            return Ok(None);
        };
        let (name, length) = (stored.name.to_string(), iso.blob.length);
        let mut read = Blocking::of(stored::read(gateway, &iso).await?);
        let this = Arc::clone(self);
        let copying = spawn_blocking(move || {
            let of = &this.settings;
            let source = (name.as_str(), length);
            backup::copy_from(
                &mut read,
                source,
                &of.backup_directory,
                of.backups_kept,
                now,
            )
        });
        done(copying.await).map(Some)
    }

    /// Tells of a copy, or that there is none.
    async fn backed_up(&self, metadata: &Metadata, copied: io::Result<Option<PathBuf>>) {
        if let Some(outcome) = match &copied {
            Ok(Some(_)) => Some("ok"),
            Ok(None) => None,
            Err(_) => Some("failed"),
        } {
            self.metrics
                .backups
                .with_label_values(&[&self.name, outcome])
                .inc();
        }
        match copied {
            Ok(Some(path)) => {
                tracing::info!(runtime = self.name, path = %path.display(), "image backed up");
            }
            Ok(None) => {}
            Err(e) => {
                tracing::error!(runtime = self.name, error = %e, "an image was not backed up");
                let told = json!({ "runtime": self.name, "error": e.to_string() });
                self.tell(metadata, "image.backup_failed", told).await;
            }
        }
    }

    fn told(&self, deployed: &Deployed, status: &str, error: Option<&str>) -> Value {
        let mut told = json!({
            "runtime": self.name, "deploy_id": deployed.id, "size": deployed.length,
            "checksum": deployed.blake3.to_hex(), "status": status,
        });
        if let Some(error) = error {
            told["error"] = error.into();
        }
        told
    }

    async fn tell(&self, metadata: &Metadata, name: &'static str, told: Value) {
        if let Err(error) = metadata.tell(name, told).await {
            tracing::warn!(
                runtime = self.name,
                event = name,
                error = chain(&error),
                "nobody is told of an image"
            );
        }
    }
}

/// Looks after all runtimes until [`Runtimes::end`].
pub async fn run(gateway: Arc<Gateway>) {
    for runtime in gateway.runtimes.all() {
        runtime
            .take_up(&gateway.metadata, gateway.clock.now())
            .await;
    }
    let looking = gateway.runtimes.all().flat_map(|runtime| {
        let backups = tokio::spawn(backups(Arc::clone(&gateway), Arc::clone(runtime)));
        let reloads = tokio::spawn(reload::run(Arc::clone(&gateway), Arc::clone(runtime)));
        let sweeps = tokio::spawn(sweeps(Arc::clone(&gateway), Arc::clone(runtime)));
        [backups, reloads, sweeps]
    });
    for ended in futures_util::future::join_all(looking).await {
        if let Err(panicked) = ended {
            tracing::error!(error = %panicked, "nobody looks after a runtime any more");
        }
    }
}

/// Copies an image whenever that is due. What was missed is not made up for, and one copy is made at a time.
async fn backups(gateway: Arc<Gateway>, runtime: Arc<Runtime>) {
    let Some(frequency) = &runtime.settings.backups else {
        return;
    };
    let over = &gateway.runtimes.over;
    while let Some(due) = frequency.next(gateway.clock.now()) {
        while gateway.clock.now() < due {
            tokio::select! {
                () = over.cancelled() => return,
                () = sleep(LOOK_EVERY) => {}
            }
        }
        let _alone = runtime.swap.lock().await;
        runtime.back_up(&gateway, due).await;
    }
}

/// Gives up uploads of images that nobody goes on with.
async fn sweeps(gateway: Arc<Gateway>, runtime: Arc<Runtime>) {
    let uploads = &gateway.settings.uploads;
    loop {
        let arrivals = &runtime.arrivals;
        arrivals
            .sweep(gateway.clock.now(), uploads.idle_timeout, uploads.max_age)
            .await;
        tokio::select! {
            () = gateway.runtimes.over.cancelled() => return,
            () = sleep(SWEEP_EVERY) => {}
        }
    }
}
