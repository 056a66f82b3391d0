//! What requests do, whichever door they came through: typed input in, outcome out. No header is
//! parsed here and no status is chosen.

pub mod download;
pub mod found;
mod join;
pub mod known;
pub mod outboard;
pub mod pieces;
pub mod repeat;
pub mod resumable;
pub mod upload;
