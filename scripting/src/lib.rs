//! Rhai plugins: they are told facts, never bytes, and answer with verdicts.
//!
//! Knows the interpreter, no HTTP server and no store: a mail server could be built on it. Every call has a budget of
//! operations, time and memory, and a defined answer when it fails; a script that loops, recurses, allocates, sleeps
//! or panics costs that call and nothing else.
//!
//! [`Scripts`] is the whole of it for a server: plugins behind one atomic pointer, asked by one method a hook.

#![forbid(unsafe_code)]
#![expect(
    clippy::unnecessary_box_returns,
    reason = "the interpreter takes its errors boxed"
)]

mod api;
pub mod archive;
mod body;
mod breaker;
pub mod bundle;
mod call;
pub mod catalog;
mod compose;
pub mod docs;
mod engine;
pub mod error;
pub mod event;
pub mod facts;
pub mod guard;
pub mod hook;
pub mod http;
pub mod inbound;
pub mod kv;
pub mod limits;
pub mod links;
mod literal;
pub mod manifest;
mod mask;
pub mod metric;
pub mod panics;
pub mod plugin;
pub mod provider;
mod runner;
pub mod schedule;
pub mod set;
pub mod signals;
mod threads;
pub mod tool;
pub mod unit;
pub mod verdict;
mod walk;

pub use call::{Level, LogLine};
pub use compose::{Decision, Told, Unavailable};
pub use set::{Options, Scripts, Startup};
