//! The crate as a server uses it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod adapters;
mod examples;
mod fuzz;
mod hostile;
mod limits;
mod literals;
mod panics;
mod plugins;
mod reference;
mod reload;
mod shipped;
mod snapshots;
mod support;
mod webhooks;
