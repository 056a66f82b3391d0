//! How far a push or a pull is, and what is told of it; read by whoever shows it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use serde_json::{Value, json};

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

/// A call that failed and is made again.
#[derive(Debug, Clone)]
pub struct Again {
    /// What failed.
    pub what: String,
    /// Why.
    pub why: ClientError,
    /// How soon.
    pub after: Duration,
}

impl Again {
    /// Its word and its facts, for a program.
    pub fn event(&self) -> (&'static str, Value) {
        let Self { what, why, after } = self;
        let after = after.as_secs_f64();
        (
            "retried",
            json!({ "what": what, "why": why.to_string(), "after_seconds": after }),
        )
    }
}

impl fmt::Display for Again {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, why, after } = self;
        let after = after.as_secs_f64();
        write!(f, "{what} failed, again in {after:.1} s: {why}")
    }
}

/// Something that is told of a push or a pull on its way, as text or to a program.
pub trait Told: fmt::Display {
    /// The call that is made again, if that is what it says.
    fn again(&self) -> Option<&Again>;

    /// Its word and its facts.
    fn event(&self) -> (&'static str, Value);

    /// Whether it is news for people, too, who see a bar or a line now and then.
    fn is_for_people(&self) -> bool;
}
