//! boxgate: a streaming gateway for very large immutable files.

pub mod config;
