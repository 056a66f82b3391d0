//! Webhooks whose senders were told 202: run from the rows, each by one node at a time, until its script succeeds.
//!
//! A delivery is claimed for a minute and the claim renewed while it runs, so that one whose node is killed is run by
//! another, or by the same after its restart. It may thus be run twice, and never not at all: what a script does must
//! bear that. Several run at once, and one that fails waits while others go on.

use std::sync::Arc;
use std::time::Duration;

use boxgate_scripting::facts::{Bytes, Request};
use boxgate_scripting::inbound::Addressed;
use boxgate_storage::Result;
use boxgate_storage::error::chain;
use boxgate_storage::metadata::inbound::{Claimed, End};
use tokio::sync::Semaphore;
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::inbox::Became;
use super::outcome;
use crate::gateway::Gateway;

/// Deliveries that one node runs at once.
const AT_ONCE: usize = 8;
/// How long a claim lasts unless it is renewed.
const CLAIM: Duration = Duration::from_mins(1);
/// How often the rows are looked at: another node may have kept something.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After a failure of the rows.
const LATER: Duration = Duration::from_secs(5);
/// How long a stop waits for what runs.
const GRACE: Duration = Duration::from_secs(3);

/// Runs what is kept until the gateway drains.
pub async fn run(gateway: Arc<Gateway>) {
    let ending = gateway.upkeep.ending();
    let under_way = TaskTracker::new();
    let room = Arc::new(Semaphore::new(AT_ONCE));
    while !ending.is_cancelled() {
        let wait = match round(&gateway, &ending, &under_way, &room).await {
            Ok(true) => continue,
            Ok(false) => LOOK_EVERY,
            Err(error) => {
                tracing::warn!(error = chain(&error), "webhooks wait to be run");
                LATER
            }
        };
        tokio::select! {
            () = ending.cancelled() => {}
            () = gateway.inbox.news.notified() => {}
            () = sleep(wait) => {}
        }
    }
    under_way.close();
    under_way.wait().await;
}

/// Begins what is due, as far as there is room; true when there may be more.
async fn round(
    gateway: &Arc<Gateway>,
    ending: &CancellationToken,
    under_way: &TaskTracker,
    room: &Arc<Semaphore>,
) -> Result<bool> {
    // Looked at without a claim first: where nothing is due, nothing is written.
    let next = gateway.metadata.next_delivery().await?;
    if next.is_none_or(|due| due > gateway.clock.now()) {
        return Ok(false);
    }
    let first = tokio::select! {
        () = ending.cancelled() => return Ok(false),
        permit = Arc::clone(room).acquire_owned() => permit,
    };
    let mut permits: Vec<_> = first.into_iter().collect();
    while let Ok(permit) = Arc::clone(room).try_acquire_owned() {
        permits.push(permit);
    }
    let limit = u32::try_from(permits.len()).unwrap_or(1);
    let owner = gateway.upkeep.owner();
    let claimed = gateway
        .metadata
        .claim_deliveries(owner, CLAIM, limit)
        .await?;
    let any = !claimed.is_empty();
    for (one, permit) in claimed.into_iter().zip(permits) {
        let (gateway, ending) = (Arc::clone(gateway), ending.clone());
        under_way.spawn(async move {
            settle(&gateway, &ending, one).await;
            drop(permit);
        });
    }
    Ok(any)
}

/// Runs one and notes how that ended.
async fn settle(gateway: &Gateway, ending: &CancellationToken, claimed: Claimed) {
    let (seq, owner) = (claimed.seq, gateway.upkeep.owner());
    let (plugin, hook) = (
        claimed.delivery.plugin.clone(),
        claimed.delivery.hook.clone(),
    );
    let cut = async {
        ending.cancelled().await;
        sleep(GRACE).await;
    };
    let end = tokio::select! {
        () = cut => End::Cut,
        () = lost(gateway, seq) => return,
        end = attempt(gateway, claimed) => end,
    };
    let became = match &end {
        End::Done => Some(Became::Done),
        End::Again(..) => Some(Became::Failed),
        End::Failed(_) => Some(Became::GivenUp),
        End::Cut | End::Forgotten => None,
    };
    if let Some(became) = became {
        gateway.inbox.count(&plugin, &hook, became);
    }
    let noted = timeout(CLAIM, gateway.metadata.end_delivery(seq, owner, end)).await;
    match noted {
        Ok(Ok(_ours)) => {}
        Ok(Err(error)) => {
            let error = chain(&error);
            tracing::warn!(plugin, hook, error, "a webhook may be run once more");
        }
        Err(_elapsed) => tracing::warn!(plugin, hook, "a webhook may be run once more"),
    }
}

/// Renews the claim; ends when it is another's.
async fn lost(gateway: &Gateway, seq: i64) {
    let mut renewal = interval(CLAIM / 3);
    // The first tick is at once, and the claim is fresh.
    renewal.tick().await;
    loop {
        renewal.tick().await;
        let owner = gateway.upkeep.owner();
        match gateway.metadata.renew_delivery(seq, owner, CLAIM).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => tracing::warn!(error = chain(&error), "a claim is not renewed"),
        }
    }
}

/// One call of the script.
async fn attempt(gateway: &Gateway, claimed: Claimed) -> End {
    let Claimed {
        delivery,
        head,
        body,
        tries,
        ..
    } = claimed;
    let mut request: Request = match serde_json::from_str(&head) {
        Ok(request) => request,
        // Kept by a version that wrote it otherwise.
        Err(error) => return End::Failed(format!("its head cannot be read: {error}")),
    };
    request.body = Bytes(body.into());
    let (plugin, hook) = (delivery.plugin.as_str(), delivery.hook.as_str());
    let done = match gateway.scripts.inbound(plugin, hook) {
        Addressed::Hook(_) => {
            let request = Arc::new(request);
            outcome(gateway.scripts.webhook_in(plugin, &request, true).await)
        }
        Addressed::Nobody | Addressed::Broken => Err("there is no such hook now".to_owned()),
    };
    let Err(why) = done else { return End::Done };
    let pauses = &gateway.settings.hooks.pauses;
    let pause = pauses.get(tries.saturating_sub(1) as usize);
    let id = delivery.id.as_str();
    let Some(pause) = pause else {
        tracing::error!(plugin, hook, id, tries, why, "a webhook is given up");
        return End::Failed(why);
    };
    tracing::warn!(
        plugin,
        hook,
        id,
        tries,
        why,
        "a webhook failed, and is run again"
    );
    // Those that failed together do not come again together.
    let pause = pause.mul_f64(0.8 + 0.4 * fastrand::f64());
    End::Again(gateway.clock.now().plus(pause), why)
}
