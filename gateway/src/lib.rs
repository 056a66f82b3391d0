//! boxgate: a streaming gateway for very large immutable files.

pub mod admission;
pub mod app;
pub mod auth;
pub mod ballast;
pub mod call;
pub mod cli;
pub mod client;
pub mod config;
pub mod dispatch;
pub mod door;
pub mod egress;
pub mod gateway;
pub mod handler;
pub mod hooks;
pub mod http;
pub mod ingest;
pub mod joiner;
pub mod multipart;
pub mod refusal;
pub mod request;
pub mod resumable;
pub mod route;
pub mod server;
pub mod sys;
pub mod telemetry;
pub mod upkeep;
