//! Webhooks, in and out.
//!
//! Those that come in are for plugins: how a sender is known (`signature`), and how what it sent is run once.
//! `door::hooks` speaks HTTP for them. A delivery is a row (`metadata::inbound`) before its script runs, so that a
//! repeat is known at every node and after a restart; one that nobody waits for is kept whole and run by `work`.
//!
//! Those that go out tell endpoints of events. What an owner chose is read by `terms`; `spread` makes rows of events
//! (`metadata::webhooks`), laid out by `body`; `sender` sends what is due, a `lane` for each endpoint, by the rules of
//! `plan`; `attempt` is one request, signed by `secret`. `asking` has plugins say later what they failed to say
//! of a delivery. `door::webhooks` is how they are looked after.

pub mod asking;
pub mod attempt;
pub mod body;
pub mod catalogue;
pub mod inbox;
mod lane;
pub mod outlet;
pub mod plan;
pub mod secret;
pub mod sender;
pub mod signals;
pub mod signature;
pub mod spread;
pub mod terms;
pub mod work;

use boxgate_scripting::verdict::WebhookVerdict;
use boxgate_scripting::{Decision, Unavailable};
use boxgate_storage::Result;

use crate::gateway::Gateway;

/// Deliveries forgotten in one change of the rows: others write between them.
const PRUNED_AT_ONCE: u32 = 1000;

/// Forgets what ended longer ago than the settings keep it: ids of what came in, the log of what went out.
///
/// # Errors
/// When the rows do not answer.
pub async fn prune(gateway: &Gateway) -> Result<()> {
    let until = gateway.clock.now().minus(gateway.settings.hooks.ids_kept);
    let metadata = &gateway.metadata;
    while metadata.prune_deliveries(until, PRUNED_AT_ONCE).await? == u64::from(PRUNED_AT_ONCE) {}
    let (now, settings) = (gateway.clock.now(), &gateway.settings.webhooks);
    let until = (
        now.minus(settings.log_kept),
        now.minus(settings.bodies_kept),
    );
    while metadata
        .prune_webhooks(until, settings.log_rows, PRUNED_AT_ONCE)
        .await?
        >= u64::from(PRUNED_AT_ONCE)
    {}
    Ok(())
}

/// What a call came to: `Err` is why it counts as failed.
///
/// A script that answers with an error asks its sender to come again, and so do we.
fn outcome(
    called: std::result::Result<Decision<WebhookVerdict>, Unavailable>,
) -> std::result::Result<(), String> {
    match called {
        Err(error) => Err(error.to_string()),
        Ok(decision) => match decision.verdict {
            WebhookVerdict::Reply(reply) if reply.status >= 400 => {
                Err(format!("the script answered with {}", reply.status))
            }
            WebhookVerdict::Reply(_) | WebhookVerdict::Done => Ok(()),
        },
    }
}
