//! One file per blob in a local directory: `<dir>/<2 hex>/<key>`.

use std::path::Path;

use crate::error::Result;
use crate::store::Store;

/// Opens (and makes, if missing) the directory as a store.
///
/// # Errors
/// When the directory cannot be made or written to.
pub async fn open(directory: &Path) -> Result<Store> {
    let _ = directory;
    todo!()
}
