//! How a script comes by addresses of a blob that need no credential: by links that the gateway hands in.

use std::fmt::Debug;
use std::time::Duration;

use crate::facts::Blob;

/// The longest life of a link: what stores sign ends there as well.
pub const MAX_LIFE: Duration = Duration::from_hours(7 * 24);

/// Addresses of blobs. Called on threads that must not wait.
pub trait Links: Debug + Send + Sync {
    /// The gateway's own address of a blob.
    ///
    /// # Errors
    /// Why there is none, in words.
    fn signed_url(&self, blob: &Blob, life: Duration) -> Result<String, String>;

    /// The address of a blob at the store that holds it; `None` where it has none.
    ///
    /// # Errors
    /// Why none could be made, in words.
    fn presigned_url(&self, blob: &Blob, life: Duration) -> Result<Option<String>, String>;
}
