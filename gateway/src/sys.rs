//! What needs `unsafe`, each with its reason and its bench.

pub mod alloc;
pub mod inherited;
