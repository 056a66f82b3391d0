//! What a gateway does by itself, beside the requests.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use crate::admission::shares;
use crate::ballast::Ballast;
use crate::events::{self, stragglers};
use crate::gateway::Gateway;
use crate::upkeep::{ENDED_UPLOADS_KEPT, background};
use crate::{hooks, provider, runtime, schedule, webhook};

/// How often leftovers are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// What goes on by itself, and ends by itself once stopping begins, each at the next step where it may.
pub(super) struct Work(Vec<(&'static str, AbortOnDropHandle<()>)>);

impl Work {
    pub(super) fn begin(gateway: &Arc<Gateway>) -> Self {
        let mut all = Self(Vec::new());
        let gateway = || Arc::clone(gateway);
        all.add("looking after runtimes", runtime::run(gateway()));
        all.add("upkeep", background::run(gateway()));
        all.add("telling events", events::run(gateway()));
        all.add(
            "telling plugins that are behind",
            stragglers::run(gateway()),
        );
        all.add("schedules", schedule::run(gateway()));
        all.add("sharing rates", shares::run(gateway()));
        all.add("running webhooks", webhook::work::run(gateway()));
        all.add("sending webhooks", webhook::sender::run(gateway()));
        all.add(
            "asking about blocked webhooks",
            webhook::asking::run(gateway()),
        );
        all.add("asking about held uploads", hooks::ask_again(gateway()));
        all
    }

    fn add(&mut self, what: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let task = AbortOnDropHandle::new(tokio::spawn(work));
        self.0.push((what, task));
    }

    /// Waits until all of it has ended. What has not is cut where this is dropped.
    pub(super) async fn over(self) {
        for (what, task) in self.0 {
            if let Err(panicked) = task.await {
                tracing::error!(error = %panicked, what, "what went on by itself broke");
            }
        }
    }
}

pub(super) async fn sweep(gateway: Arc<Gateway>, ballast: Arc<Ballast>) {
    let told = |what: &str, error: &boxgate_storage::Error| {
        tracing::warn!(error = %boxgate_storage::error::chain(error), "{what} failed");
    };
    let mut every = tokio::time::interval(SWEEP_EVERY);
    loop {
        every.tick().await;
        let settling = Arc::clone(&ballast);
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || settling.settle()).await {
            tracing::warn!(%error, "ballast not settled");
        }
        if let Err(error) = gateway.engine.sweep().await {
            told("removing what is due", &error);
        }
        if let Err(error) = gateway.joiner.start_ready().await {
            told("joining what is ready", &error);
        }
        if let Err(error) = events::prune(&gateway).await {
            told("forgetting events", &error);
        }
        if let Err(error) = webhook::prune(&gateway).await {
            told("forgetting webhooks", &error);
        }
        if let Err(error) = provider::prune(&gateway).await {
            told("forgetting orders", &error);
        }
        if let Err(error) = gateway.metadata.purge_expired_tokens().await {
            told("forgetting expired tokens", &error);
        }
        let ended = gateway.clock.now().minus(ENDED_UPLOADS_KEPT);
        if let Err(error) = gateway.metadata.purge_uploads(ended).await {
            told("forgetting ended uploads", &error);
        }
    }
}
