//! What stands in for Sanbox runtimes: each has an image, a plain file that is served, replaced whole, copied by the
//! clock, and pushed to others.
//!
//! The image belongs to this machine and to no store: another program reads it where it is.

pub mod backup;
pub mod conditions;
pub mod date;
pub mod image;
pub mod key;
pub mod push;
mod reload;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use boxgate_storage::clock::UnixMillis;
use boxgate_storage::digest::Blake3;
use boxgate_storage::error::chain;
use boxgate_storage::metadata::Metadata;
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
use conditions::Conditions;
use image::{Image, Snapshot, Staged, done};
use key::Key;
use push::Target;

/// Backups are looked at so often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
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
    pub image: Image,
    caller: Caller,
    metrics: Images,
    /// Held while the image in place changes.
    swap: tokio::sync::Mutex<()>,
    standing: Mutex<Standing>,
    /// That an image waits to be taken.
    waiting: Notify,
}

/// Why an image was not put in place.
#[derive(Debug)]
pub enum NotDeployed {
    /// The one in place is none that is expected.
    Unexpected,
    /// A step failed.
    Failed(io::Error),
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
}

impl ReloadState {
    fn word(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Running => "running",
            Self::Ok => "ok",
            Self::Failed(_) => "failed",
            Self::RolledBack(_) => "rolled_back",
        }
    }

    fn error(&self) -> Option<&str> {
        match self {
            Self::Failed(why) | Self::RolledBack(why) => Some(why),
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
            let image = Image::open(&of.image)
                .map_err(|e| (format!("runtimes.{name}.image_file_path"), e))?;
            let key = "runtimes.<name>.allow_networks";
            let caller = outbound.caller(key, &of.allow_networks, push::CONNECT_TIME);
            metrics.begin(name);
            let runtime = Runtime {
                name: name.clone(),
                key: Key::new(of.api_key.expose(), of.previous_api_key.expose()),
                settings: of.clone(),
                image,
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
            "name": self.name, "image": self.image.path().display().to_string(), "enabled": self.settings.enabled,
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
        staged: Staged,
        expected: Conditions,
    ) -> Result<(), NotDeployed> {
        let (this, metadata, now) = (
            Arc::clone(self),
            gateway.metadata.clone(),
            gateway.clock.now(),
        );
        let placing = gateway.background.spawn(async move {
            let _alone = this.swap.lock().await;
            // No other image comes between this look and the swap.
            if !expected.hold(&this.image).await? {
                return Err(NotDeployed::Unexpected);
            }
            if this.settings.backup_before_deploy {
                this.back_up(&metadata, now).await;
            }
            let deployed = Deployed {
                id: hex::encode(fastrand::u128(..).to_be_bytes()),
                length: staged.length,
                blake3: staged.blake3,
                at: now,
            };
            let (placed, keep) = (Arc::clone(&this), this.settings.rollback);
            done(spawn_blocking(move || placed.image.put_in_place(staged, keep)).await)?;
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
            Ok(())
        });
        placing
            .await
            .unwrap_or_else(|panicked| Err(io::Error::other(panicked).into()))
    }

    /// That the answer to a deployment went out: now the runtime may be told.
    pub fn reload(&self) {
        self.waiting.notify_one();
    }

    /// Goes on with an image that the runtime was not told of, since a crash came between.
    async fn take_up(&self, now: UnixMillis) {
        if !self.settings.rollback || !self.image.is_unproved() {
            return;
        }
        let Ok(image) = self.snapshot().await else {
            return;
        };
        tracing::warn!(
            runtime = self.name,
            "a runtime may not know its image yet; it is told"
        );
        *self.standing() = Standing {
            deployed: Some(Deployed {
                id: hex::encode(fastrand::u128(..).to_be_bytes()),
                length: image.length,
                blake3: image.blake3,
                at: now,
            }),
            reload: ReloadState::Running,
        };
        self.reload();
    }

    /// Pushes an image to another runtime.
    ///
    /// # Errors
    /// What went wrong, for whoever asked.
    pub async fn push(
        &self,
        gateway: &Gateway,
        target: &Target,
        image: Snapshot,
    ) -> Result<(), String> {
        let host = target.to.host().to_ascii_lowercase();
        let allowed = &self.settings.allow_targets;
        if !allowed.is_empty() && !allowed.contains(&host) {
            return Err(format!(
                "{host} is none of the hosts that images may be pushed to (runtimes.{}.allow_targets)",
                self.name
            ));
        }
        let checksum = image.blake3.to_hex();
        let pushed = push::push(&self.caller, target, image, gateway.clock.now()).await;
        let status = if pushed.is_ok() { "accepted" } else { "failed" };
        let told = json!({ "runtime": self.name, "target_host": host, "checksum": checksum, "status": status });
        self.tell(&gateway.metadata, "image.pushed", told).await;
        pushed
    }

    /// The image as it is now.
    ///
    /// # Errors
    /// What is wrong, for whoever asked; also where there is none.
    pub async fn snapshot(&self) -> Result<Snapshot, String> {
        match self.image.snapshot().await {
            Ok(Some(image)) => Ok(image),
            Ok(None) => Err("no image deployed".to_owned()),
            Err(e) => {
                tracing::error!(runtime = self.name, error = %e, "an image cannot be read");
                Err(format!("the image cannot be read: {e}"))
            }
        }
    }

    /// Copies the image; a copy that fails stops nothing else.
    async fn back_up(self: &Arc<Self>, metadata: &Metadata, now: UnixMillis) {
        let this = Arc::clone(self);
        let copying = spawn_blocking(move || {
            let of = &this.settings;
            backup::copy(&this.image, &of.backup_directory, of.backups_kept, now)
        });
        let copied = done(copying.await);
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
        runtime.take_up(gateway.clock.now()).await;
    }
    let looking = gateway.runtimes.all().flat_map(|runtime| {
        let backups = tokio::spawn(backups(Arc::clone(&gateway), Arc::clone(runtime)));
        let reloads = tokio::spawn(reload::run(Arc::clone(&gateway), Arc::clone(runtime)));
        [backups, reloads]
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
        runtime.back_up(&gateway.metadata, due).await;
    }
}
