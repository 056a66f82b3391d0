//! Bytes from the engine down to the disk: the contract of stores, uploads as a whole, and an upload
//! that fails at each of its steps.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests are tests, too: a failure is a panic"
)]

mod adopt;
mod apart;
mod bench;
mod cache;
mod check;
mod copy;
mod deferred;
mod fail_points;
mod files;
mod full;
mod gated;
mod histories;
mod house;
mod lanes;
mod ledger;
mod pieces;
mod resume;
#[allow(
    unreachable_pub,
    reason = "shared with the ledger's own suite, where nothing reaches it from outside either"
)]
#[path = "../ledger/rigs.rs"]
mod rigs;
mod s3;
mod scrub;
mod store;
mod takeover;
mod together;
mod upload;
mod verify;
mod withheld;
