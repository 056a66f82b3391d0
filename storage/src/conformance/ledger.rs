//! What every ledger must do: the steps of the commit protocol, their fences, and the life of a blob.
//!
//! Each function is one promise and runs on a fresh [`Rig`]; [`model`] runs random schedules.

mod gate;
mod joins;
mod kept;
pub mod model;
mod names;
mod pieces;
mod steps;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::blob::{BlobKey, BlobMeta};
use crate::clock::{ManualClock, UnixMillis};
use crate::metadata::Ledger;
use crate::metadata::accounts::OrganizationId;
use crate::metadata::outbox::Event;
use crate::metadata::uploads::{Target, Trash};

pub use gate::*;
pub use joins::*;
pub use kept::*;
pub use names::*;
pub use pieces::*;
pub use steps::*;
pub use upload::{BLOCK, PART, Sent, new_upload, target};

/// How long a rig's ledger keeps a blob without a reference.
pub const DOOMED_FOR: Duration = Duration::from_hours(1);

/// Bytes of the one store that all uploads of a rig go to.
fn gone(key: BlobKey) -> Trash {
    let store = "main".to_owned();
    Trash { key, store }
}

/// When a rig's clock starts.
pub const START: UnixMillis = UnixMillis(1_700_000_000_000);

/// A ledger, and what a test must be able to do around it. Fresh and empty for each test.
#[async_trait]
pub trait Rig: Send + Sync {
    /// The ledger under test; its clock is [`Self::clock`], its `doomed_for` is [`DOOMED_FOR`].
    fn ledger(&self) -> Arc<dyn Ledger>;
    /// The clock, standing at [`START`] at first.
    fn clock(&self) -> &ManualClock;
    /// Makes an organization.
    async fn add_organization(&self, name: &str) -> OrganizationId;
    /// Removes an organization with all its files.
    async fn remove_organization(&self, id: OrganizationId);
    /// Takes the file from its name; false when there was none.
    async fn delete_file(&self, organization: OrganizationId, target: &Target) -> bool;
    /// The blob that the name holds.
    async fn file(&self, organization: OrganizationId, target: &Target) -> Option<BlobMeta>;
    /// Marks a blob as damaged.
    async fn quarantine(&self, key: &BlobKey);
    /// The subtree values of a blob; `None` when its row is gone.
    async fn blob_tree(&self, blob: &BlobMeta) -> Option<Vec<[u8; 32]>>;
    /// All events, in order.
    async fn events(&self) -> Vec<Event>;
}
