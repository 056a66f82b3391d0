//! What `push` and `pull` have in common: how much at once, how patiently, and a screen that shows how far
//! it is.

use std::time::Duration;

use clap::Args;
use tokio::runtime::Runtime;
use tokio::time::Instant;

use super::Failure;
use super::screen::Screen;
use crate::client::progress::Progress;

/// One stream does not fill a path with latency, for TCP's window and for the commit that each part
/// waits for; four do on most, and their loss of one another's work after a cut stays small. More than
/// the gateway's window of parts have nothing to send.
const STREAMS: u64 = 4;
const MOST_STREAMS: u64 = 16;
/// With waits that double up to 30 s this is some four minutes without any progress.
const TRIES: u32 = 12;

/// How it goes about it.
#[derive(Debug, Args)]
pub(super) struct PaceArgs {
    /// Requests with bytes of the file that are under way at once.
    #[arg(long, value_name = "N", default_value_t = STREAMS,
        value_parser = clap::value_parser!(u64).range(1..=MOST_STREAMS))]
    streams: u64,
    /// Tries that may fail one after the other before it is given up for now.
    #[arg(long, value_name = "N", default_value_t = TRIES,
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) tries: u32,
}

impl PaceArgs {
    pub(super) fn streams(&self) -> usize {
        usize::try_from(self.streams).unwrap_or(1)
    }

    /// Does the work while its progress is shown; returns how long it took, too.
    pub(super) fn run<T>(
        &self,
        progress: &Progress,
        work: impl AsyncFnOnce(&Screen) -> T,
    ) -> Result<(T, Duration), Failure> {
        runtime(self.streams())?.block_on(async {
            let screen = Screen::new();
            let began = Instant::now();
            let done = tokio::select! {
                done = work(&screen) => done,
                never = screen.follow(progress) => match never {},
            };
            screen.leave();
            Ok((done, began.elapsed()))
        })
    }
}

/// Threads that read the file are as few as can be busy at once: one for each stream, one that hashes, one
/// that looks up the host. tokio's own limit is 512, and each keeps some MiB of buffers once it ran.
fn runtime(streams: usize) -> Result<Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(streams + 2)
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(&e))
}
