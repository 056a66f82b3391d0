//! The contracts of this crate as callable tests.

pub mod database;
pub mod ledger;
pub mod store;
