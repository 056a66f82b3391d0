//! How far a push or a pull is; read by whoever shows it.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Numbers that whoever works keeps up to date.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of the file; 0 until that is known.
    pub length: AtomicU64,
    /// Bytes that are held where they are to go.
    pub held: AtomicU64,
    /// Bytes on their way beside those: of parts that were handed to their connections, of blocks that are
    /// not all here.
    pub flying: Arc<AtomicU64>,
    /// Bytes that were hashed here.
    pub hashed: Arc<AtomicU64>,
    /// Calls that were made again.
    pub retries: AtomicU64,
}
