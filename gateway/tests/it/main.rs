//! The gateway as a whole, in process, on real sockets, a real database and a real directory.

#![expect(
    clippy::unwrap_used,
    reason = "a test whose scene does not stand cannot go on"
)]

mod adapters;
mod admin;
mod authority;
mod authorization;
mod boxitory;
mod callers;
mod cloud;
mod concat;
mod declared;
mod deeds;
mod deferred;
mod distribution;
mod doors;
mod downloads;
mod drain;
mod endpoints;
mod files;
mod found;
mod harness;
mod imports;
mod interim;
mod isos;
mod links;
mod orders;
mod page;
mod pieces;
mod purges;
mod push;
mod rates;
mod recovery;
mod resumable;
mod runtimes;
mod s3;
mod schedules;
mod scripts;
mod senders;
mod shortcuts;
mod stores;
mod stragglers;
mod upkeep;
mod uploads;
mod webhooks;
mod withheld;

// Scripts are held to a budget of memory, which the allocator counts.
#[global_allocator]
static ALLOCATOR: boxgate::sys::alloc::Counting = boxgate::sys::alloc::Counting;
