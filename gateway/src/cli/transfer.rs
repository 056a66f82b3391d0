//! What `push` and `pull` have in common: how much at once, how patiently, a screen that shows how far it is,
//! and what several files come to.

use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::time::Instant;

use super::screen::{Audience, Screen};
use super::{Failure, say, say_error};
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

    /// Does the work of all files.
    pub(super) fn run<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        Ok(runtime(self.streams())?.block_on(work))
    }
}

/// Does the work of one file while its progress is shown; returns how long it took, too.
pub(super) async fn shown<T>(
    audience: Audience,
    progress: &Progress,
    work: impl AsyncFnOnce(&Screen) -> T,
) -> (T, Duration) {
    let screen = Screen::new(audience);
    let began = Instant::now();
    let done = tokio::select! {
        done = work(&screen) => done,
        never = screen.follow(progress) => match never {},
    };
    screen.leave();
    (done, began.elapsed())
}

/// What became of several files: each was told by itself, the worst decides how it ends.
#[derive(Debug, Default)]
pub(super) struct Tally {
    good: usize,
    bad: usize,
    worst: u8,
}

impl Tally {
    pub(super) fn good(&mut self) {
        self.good += 1;
    }

    /// Tells of a file that failed.
    pub(super) fn bad(&mut self, audience: &Audience, failure: Failure) {
        self.bad += 1;
        self.worse(audience, failure);
    }

    /// Tells of what else failed. What was called wrongly is worse than what failed, and that than what may go on.
    pub(super) fn worse(&mut self, audience: &Audience, failure: Failure) {
        let (text, code) = failure.told();
        match audience {
            Audience::People => say_error(&format!("boxgate: {text}")),
            Audience::Program(_) => {
                audience.event("failed", json!({ "error": text, "exit_code": code }));
            }
        }
        let rank = |code| [0, 75, 1, 2].iter().position(|known| *known == code);
        if rank(code) > rank(self.worst) {
            self.worst = code;
        }
    }

    /// How the command ends; people read how many of several went well.
    pub(super) fn end(self, what: &str, is_for_people: bool) -> Result<(), Failure> {
        let Self { good, bad, worst } = self;
        if is_for_people && good + bad > 1 {
            say(&format!("{good} of {} {what}", good + bad));
        }
        match worst {
            0 => Ok(()),
            code => Err(Failure::Told(code)),
        }
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
