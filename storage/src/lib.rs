//! Blobs, uploads and names: bytes, offsets and digests.
//!
//! This crate knows no request, no status code and no script: a command-line copy tool could be
//! built on it. [`upload::UploadEngine`] takes bytes in, [`store::Store`] keeps them,
//! [`layer::verify`] proves them on the way out, and [`metadata::Metadata`] holds every row and
//! every commit point.

pub mod backend;
pub mod blob;
pub mod buffer;
pub mod catalog;
pub mod check;
pub mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod digest;
pub mod durable;
pub mod error;
pub mod layer;
pub mod metadata;
pub mod range;
pub mod sidecar;
pub mod store;
pub mod trace;
pub mod upload;

pub use error::{Error, ErrorKind, Result};
