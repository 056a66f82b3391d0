//! How a script tells others that something happened: by an outbox that the gateway hands in.

use std::fmt::Debug;

use serde_json::{Map, Value};

/// Events of one call.
pub const MAX_EVENTS: usize = 16;
/// Purges of one call.
pub const MAX_PURGES: usize = 100;
/// The event by which caches are told to forget something.
pub const PURGE: &str = "cache.purge";
/// Longest data of one event as JSON, in bytes.
pub const MAX_EVENT_BYTES: usize = 64 << 10;
/// Events that may lead to one another.
pub const MAX_DEPTH: u32 = 3;

/// An event that a script made.
#[derive(Debug, Clone, PartialEq)]
pub struct Emitted {
    /// The plugin.
    pub plugin: String,
    /// `x.<plugin>.<name>`, granted; or [`PURGE`].
    pub name: String,
    /// What is told; no floats.
    pub data: Map<String, Value>,
    /// How many events led to it.
    pub depth: u32,
    /// The plugins that led to it, this one last.
    pub causes: Vec<String>,
}

/// Where events go. Called on a thread that may block.
pub trait Outbox: Debug + Send + Sync {
    /// Keeps an event for good.
    ///
    /// # Errors
    /// Why it is not kept, in words.
    fn emit(&self, event: Emitted) -> Result<(), String>;
}
