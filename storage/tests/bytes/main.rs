//! Bytes from the engine down to the disk: the contract of stores, uploads as a whole, and an upload
//! that fails at each of its steps.

mod fail_points;
mod ledger;
mod store;
mod upload;
mod verify;
