//! The gateway as a whole, in process, on real sockets, a real database and a real directory.

mod authorization;
mod downloads;
mod harness;
mod recovery;
mod resumable;
mod uploads;
