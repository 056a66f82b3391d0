//! boxgate: a streaming gateway for very large immutable files.

pub mod config;
pub mod http;
pub mod multipart;
pub mod request;
pub mod server;
pub mod telemetry;
