//! The crate as a server uses it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod plugins;
mod reload;
mod support;
