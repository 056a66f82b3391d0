//! `on_upload_complete`: asked once an upload's bytes and digests are durable, before anybody sees them.
//!
//! The engine knows plugins as a gate; how often it asks, and what stands meanwhile in the rows, is its business.

use std::sync::Arc;

use async_trait::async_trait;
use boxgate_scripting::Scripts;
use boxgate_scripting::facts;
use boxgate_scripting::hook::Hook;
use boxgate_scripting::verdict::CompleteVerdict;
use boxgate_storage::error::chain;
use boxgate_storage::metadata::Metadata;
use boxgate_storage::upload::{Answer, Gate, Silence, Whole};
use tokio::time::{Duration, sleep};

use super::of_digests;
use crate::gateway::Gateway;

/// How often it is looked for uploads that are to be asked about again.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Plugins, as what stands between uploads that are whole and their names.
#[derive(Debug)]
pub struct UploadGate {
    scripts: Arc<Scripts>,
    metadata: Metadata,
}

impl UploadGate {
    /// The gate that these plugins keep.
    pub fn new(scripts: Arc<Scripts>, metadata: Metadata) -> Self {
        Self { scripts, metadata }
    }

    async fn facts(&self, whole: &Whole) -> Result<facts::Blob, String> {
        let row = &whole.row;
        let found = self.metadata.organization_by_id(row.organization).await;
        let organization = found.map_err(|e| chain(&e))?;
        let organization = organization.ok_or("its organization is gone")?;
        let (blake3, sha256) = row.digests.ok_or("its digests are not known")?;
        let mut blob = facts::Blob {
            organization: organization.name.to_string().into(),
            id: row.key.to_string().into(),
            size: row.offset,
            created_ms: row.updated.0,
            store: row.store.as_str().into(),
            is_new: whole.is_new,
            ..of_digests(blake3, sha256)
        };
        if let Some(target) = &row.target {
            blob.name = target.box_name.as_str().into();
            blob.version = target.version.as_str().into();
            blob.provider = target.provider.as_str().into();
            blob.architecture = target.architecture.as_str().into();
            blob.labels.clone_from(&target.labels);
        }
        Ok(blob)
    }
}

#[async_trait]
impl Gate for UploadGate {
    fn is_kept(&self) -> bool {
        self.scripts.defines(Hook::OnUploadComplete)
    }

    async fn ask(&self, whole: &Whole) -> Result<Answer, Silence> {
        let blob = Arc::new(self.facts(whole).await?);
        let asked = self.scripts.on_upload_complete(&blob).await;
        let mut decision = asked.map_err(|unavailable| Silence {
            why: unavailable.to_string(),
            by: Some(unavailable.plugin.clone()),
        })?;
        Ok(match decision.verdict {
            CompleteVerdict::Publish(labels) => Answer::Publish(labels),
            CompleteVerdict::Quarantine(why) => Answer::Quarantine {
                why,
                // The first to refuse is the last that was asked.
                by: decision.by.pop(),
            },
            CompleteVerdict::Reject(denial) => Answer::Reject {
                why: denial.reason,
                code: Some(denial.status),
            },
        })
    }
}

/// Has held uploads asked about again when they are due, until the gateway drains.
pub async fn ask_again(gateway: Arc<Gateway>) {
    let ending = gateway.upkeep.ending();
    loop {
        tokio::select! {
            () = ending.cancelled() => return,
            () = sleep(LOOK_EVERY) => {}
        }
        // Without the hook the sweep publishes what is left.
        if !gateway.scripts.defines(Hook::OnUploadComplete) {
            continue;
        }
        if let Err(error) = gateway.engine.publish_waiting().await {
            tracing::warn!(error = chain(&error), "held uploads wait");
        }
    }
}
