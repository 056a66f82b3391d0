//! Stores and readers that wrap a store, named for what they do.

pub mod cache;
pub mod files;
pub mod verify;
