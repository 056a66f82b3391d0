//! How far a push or a pull is, and what is told of it; read by whoever shows it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde_json::Value;

use super::ClientError;

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

/// Something that is told of a push or a pull on its way, as text or to a program.
pub trait Told: fmt::Display {
    /// Why a call is made again, if that is what it says.
    fn why(&self) -> Option<&ClientError>;

    /// Its word and its facts.
    fn event(&self) -> (&'static str, Value);

    /// Whether it is news for people, too, who see a bar or a line now and then.
    fn is_for_people(&self) -> bool;
}
