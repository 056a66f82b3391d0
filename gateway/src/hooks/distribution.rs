//! Plugins that were pushed: rows say which version every node is to run, and each node looks at them once a second, and
//! sooner where another tells that something changed. Sources come from the rows, everything else as from a directory:
//! what does not work keeps its last good version.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use boxgate_scripting::Scripts;
use boxgate_scripting::bundle::Bundle;
use boxgate_storage::error::chain;
use boxgate_storage::metadata::Metadata;
use tokio::time::sleep;

use crate::gateway::Gateway;

/// How often the rows are looked at: two of these are the longest that a push may take.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What other nodes tell comes in bursts, and most of it is about boxes.
const BURST: Duration = Duration::from_millis(100);

/// The sources of all plugins that were pushed, as the rows have them.
///
/// # Errors
/// When the database does not answer.
pub async fn pushed(metadata: &Metadata) -> boxgate_storage::Result<BTreeMap<String, Bundle>> {
    let mut pushed = BTreeMap::new();
    for row in metadata.plugins().await? {
        // Somebody may have removed it between the two reads.
        let Some(text) = metadata.plugin_bundle(&row.name, &row.hash).await? else {
            continue;
        };
        match serde_json::from_str::<Bundle>(&text) {
            Ok(bundle) if bundle.name == row.name && bundle.hash() == row.hash => {
                pushed.insert(row.name, bundle);
            }
            Ok(_) | Err(_) => {
                tracing::error!(
                    plugin = row.name,
                    hash = row.hash,
                    "a pushed plugin is damaged"
                );
            }
        }
    }
    Ok(pushed)
}

/// Brings this node to what the rows say; true when anything was another.
///
/// # Errors
/// Why it could not look, in words.
pub async fn follow_once(scripts: &Arc<Scripts>, metadata: &Metadata) -> Result<bool, String> {
    let rows = metadata.plugins().await.map_err(|e| chain(&e))?;
    let wanted = rows.into_iter().map(|row| (row.name, row.hash));
    if scripts.pushed() == wanted.collect::<BTreeMap<_, _>>() {
        return Ok(false);
    }
    let pushed = pushed(metadata).await.map_err(|e| chain(&e))?;
    scripts.set_pushed(pushed);
    super::reload(scripts, metadata, false)
        .await
        .map(|_reports| true)
}

/// Follows the rows until the gateway drains.
pub async fn follow(gateway: Arc<Gateway>) {
    let ending = gateway.upkeep.ending();
    while !ending.is_cancelled() {
        if let Err(error) = follow_once(&gateway.scripts, &gateway.metadata).await {
            tracing::warn!(error, "pushed plugins stay as they were");
        }
        tokio::select! {
            () = ending.cancelled() => return,
            () = sleep(LOOK_EVERY) => {}
            () = gateway.metadata.told() => sleep(BURST).await,
        }
    }
}
