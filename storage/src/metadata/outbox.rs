//! Events, written in the transaction of the change they tell of; delivery comes later.

use super::Metadata;
use crate::clock::UnixMillis;
use crate::error::Result;

/// One event as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Order of commit.
    pub seq: i64,
    /// Random id, the same however often it is delivered.
    pub id: String,
    /// Name, such as `box.uploaded`.
    pub name: String,
    /// JSON object.
    pub data: String,
    /// When it happened.
    pub occurred: UnixMillis,
}

impl Metadata {
    /// Up to `limit` events after `after`, in order.
    pub async fn events(&self, after: i64, limit: u32) -> Result<Vec<Event>> {
        let _ = (after, limit);
        todo!()
    }
}
