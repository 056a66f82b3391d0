//! Stores of bytes, each turning its own errors into ours at its edge.

#[cfg(feature = "conformance")]
pub mod faulty;
pub mod local;
#[cfg(feature = "conformance")]
pub mod memory;
pub mod s3;
