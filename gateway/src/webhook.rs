//! Webhooks that come in for plugins: how a sender is known, and how what it sent is run once.
//!
//! `door::hooks` speaks HTTP for them. A delivery is a row (`metadata::inbound`) before its script runs, so that a
//! repeat is known at every node and after a restart; one that nobody waits for is kept whole and run by `work`.

pub mod inbox;
pub mod signature;
pub mod work;

use boxgate_scripting::verdict::WebhookVerdict;
use boxgate_scripting::{Decision, Unavailable};
use boxgate_storage::Result;

use crate::gateway::Gateway;

/// Deliveries forgotten in one change of the rows: others write between them.
const PRUNED_AT_ONCE: u32 = 1000;

/// Forgets the ids of deliveries that ended longer ago than the settings keep them.
///
/// # Errors
/// When the rows do not answer.
pub async fn prune(gateway: &Gateway) -> Result<()> {
    let until = gateway.clock.now().minus(gateway.settings.hooks.ids_kept);
    let metadata = &gateway.metadata;
    while metadata.prune_deliveries(until, PRUNED_AT_ONCE).await? == u64::from(PRUNED_AT_ONCE) {}
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
