//! `boxgate push`: one file to a gateway, with a bar for people and plain lines for logs.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use boxgate_storage::catalog::BoxRef;
use clap::Args;
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::runtime::Runtime;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::connect::ConnectArgs;
use super::{Failure, say, say_error};
use crate::client::push::{Notice, Order, Progress, PushError, Pushed, push as send};

/// One stream does not fill a path with latency, for TCP's window and for the commit that each part
/// waits for; four do on most, and their loss of one another's work after a cut stays small. More than
/// the gateway's window of parts have nothing to send.
const STREAMS: u64 = 4;
const MOST_STREAMS: u64 = 16;
/// With waits that double up to 30 s this is some four minutes without any progress.
const TRIES: u32 = 12;
/// How often a bar is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(100);
/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct PushArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// The file.
    file: PathBuf,
    /// Organization and box: `acme/web`.
    #[arg(value_name = "ORG/BOX")]
    name: String,
    /// Version: `1.0.0`.
    version: String,
    /// Provider: `virtualbox`.
    provider: String,
    /// Architecture: `amd64`.
    #[arg(value_name = "ARCH")]
    architecture: String,
    /// Parts sent at once.
    #[arg(long, value_name = "N", default_value_t = STREAMS,
        value_parser = clap::value_parser!(u64).range(1..=MOST_STREAMS))]
    streams: u64,
    /// Tries that may fail one after the other before it is given up for now.
    #[arg(long, value_name = "N", default_value_t = TRIES,
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    tries: u32,
    /// Give up what an earlier push of this file began, and begin anew.
    #[arg(long)]
    afresh: bool,
}

pub(super) fn push(args: &PushArgs) -> Result<(), Failure> {
    let target = target(args)?;
    let client = args.connect.client()?;
    let order = Order {
        file: args.file.clone(),
        target,
        streams: usize::try_from(args.streams).unwrap_or(1),
        tries: args.tries,
        afresh: args.afresh,
    };
    runtime(order.streams)?.block_on(async {
        let progress = Progress::default();
        let screen = Screen::new();
        let began = Instant::now();
        let tell = |notice: Notice| screen.tell(&notice);
        let pushed = tokio::select! {
            pushed = send(&client, &order, &progress, &tell) => pushed,
            never = screen.follow(&progress) => match never {},
        };
        screen.leave();
        let pushed = pushed?;
        say(&told(
            &order.target,
            client.base(),
            &pushed,
            began.elapsed(),
        ));
        Ok(())
    })
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

fn target(args: &PushArgs) -> Result<BoxRef, Failure> {
    let Some((organization, name)) = args.name.split_once('/') else {
        return Err(Failure::Usage(format!(
            "{:?} names no box: it looks like ORGANIZATION/BOX",
            args.name
        )));
    };
    let names = || {
        Ok(BoxRef {
            organization: organization.parse()?,
            name: name.parse()?,
            version: args.version.parse()?,
            provider: args.provider.parse()?,
            architecture: args.architecture.parse()?,
        })
    };
    names().map_err(|e: boxgate_storage::catalog::NameError| Failure::Usage(e.to_string()))
}

fn told(target: &BoxRef, base: &str, pushed: &Pushed, took: Duration) -> String {
    let BoxRef {
        organization,
        name,
        version,
        provider,
        architecture,
    } = target;
    let outcome = &pushed.outcome;
    let sent = outcome.length - pushed.held_before;
    let rate = rate(sent, took);
    let mut text = format!(
        "{organization}/{name} {version} for {provider} on {architecture} is published: {}, {} sent in {:.1} s ({})
sha256  {}
blake3  {}
url     {base}/{organization}/boxes/{name}/versions/{version}/providers/{provider}/{architecture}/vagrant.box?b3={}",
        HumanBytes(outcome.length),
        HumanBytes(sent),
        took.as_secs_f64(),
        rate,
        outcome.sha256,
        outcome.blake3,
        outcome.blake3,
    );
    for warning in &outcome.warnings {
        text.extend(["\nwarning ", warning]);
    }
    text
}

fn rate(bytes: u64, took: Duration) -> String {
    let millis = took.as_millis().max(1);
    let rate = u128::from(bytes) * 1000 / millis;
    format!("{}/s", HumanBytes(u64::try_from(rate).unwrap_or(u64::MAX)))
}

impl From<PushError> for Failure {
    fn from(error: PushError) -> Self {
        let text = error.to_string();
        match error {
            PushError::Unreadable { .. } | PushError::Empty(_) => Self::Usage(text),
            PushError::Running(_) | PushError::GivenUp { .. } => Self::Again(text),
            PushError::Refused(error) if error.status() == Some(507) => {
                let text = format!("{error} The same command goes on once there is room");
                Self::Again(text)
            }
            PushError::Refused(error) => error.into(),
            PushError::Changed(_)
            | PushError::Elsewhere { .. }
            | PushError::State { .. }
            | PushError::Gone
            | PushError::TakenOver
            | PushError::Differs { .. }
            | PushError::WrongDigest { .. } => Self::Failed(text),
        }
    }
}

fn millis(count: u128) -> Duration {
    Duration::from_millis(u64::try_from(count).unwrap_or(u64::MAX))
}

/// Nothing is ever this.
enum Never {}

/// What a person, or a log, sees of a push.
struct Screen {
    /// Where standard error is a terminal.
    bar: Option<ProgressBar>,
    /// Why calls fail at this time; each reason is told once, until something moves again.
    why: Mutex<Option<String>>,
}

impl Screen {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let template = "{bar:30} {percent:>3}%  {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left  {msg}";
            // The template is right, or the default is as good.
            bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_odd| {
                ProgressStyle::default_bar()
            }))
        });
        Self {
            bar,
            why: Mutex::default(),
        }
    }

    /// All streams fail for one reason, and go on failing for it: one line says so, a number the rest.
    fn tell(&self, notice: &Notice) {
        if let Notice::Again { why, .. } = notice {
            let why = Some(why.to_string());
            if std::mem::replace(&mut *self.why(), why.clone()) == why {
                return;
            }
        }
        self.say(&notice.to_string());
    }

    fn why(&self) -> MutexGuard<'_, Option<String>> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say_error(text)),
            None => say_error(&format!("boxgate: {text}")),
        }
    }

    fn leave(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Shows how far it is, for as long as it is polled.
    async fn follow(&self, progress: &Progress) -> Never {
        let every = if self.bar.is_some() {
            DRAW_EVERY
        } else {
            LINE_EVERY
        };
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let began = Instant::now();
        let mut before: Option<u64> = None;
        let mut held = 0;
        loop {
            ticks.tick().await;
            let now = Look::at(progress);
            if now.length == 0 {
                continue;
            }
            match (&self.bar, before) {
                (Some(bar), _) => {
                    if before.is_none() {
                        bar.set_length(now.length);
                        bar.set_position(now.sent);
                        // What was there before is no sign of how fast the rest goes.
                        bar.reset_eta();
                    }
                    bar.set_position(now.sent);
                    bar.set_message(now.words());
                }
                (None, Some(first)) => say_error(&now.line(first, began.elapsed())),
                (None, None) => {}
            }
            if now.held > held {
                *self.why() = None;
            }
            held = now.held;
            before = before.or(Some(now.sent));
        }
    }
}

/// How far a push is, at one moment.
struct Look {
    length: u64,
    held: u64,
    sent: u64,
    hashed: u64,
    retries: u64,
}

impl Look {
    fn at(progress: &Progress) -> Self {
        let read = |number: &std::sync::atomic::AtomicU64| number.load(Ordering::Relaxed);
        let (length, held) = (read(&progress.length), read(&progress.held));
        Self {
            length,
            held,
            // A part may be counted as held and as flying for a moment.
            sent: (held + read(&progress.flying)).min(length),
            hashed: read(&progress.hashed),
            retries: read(&progress.retries),
        }
    }

    /// What the bar does not say by itself.
    fn words(&self) -> String {
        let mut words = Vec::new();
        if self.retries > 0 {
            words.push(format!("{} retries", self.retries));
        }
        if self.sent == self.length && self.hashed < self.length {
            words.push(format!(
                "hashing, {} to go",
                HumanBytes(self.length - self.hashed)
            ));
        }
        words.join(", ")
    }

    /// The same for a log; `first` bytes were there at the beginning.
    fn line(&self, first: u64, took: Duration) -> String {
        let percent = u128::from(self.sent) * 100 / u128::from(self.length);
        let new = self.sent.saturating_sub(first);
        let left = u128::from(self.length - self.sent) * took.as_millis() / u128::from(new.max(1));
        let left = match new {
            0 => "unknown time".to_owned(),
            _ => HumanDuration(millis(left)).to_string(),
        };
        let words = self.words();
        let gap = if words.is_empty() { "" } else { ", " };
        format!(
            "boxgate: {percent}%, {} of {}, {}, {left} left{gap}{words}",
            HumanBytes(self.sent),
            HumanBytes(self.length),
            rate(new, took),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_what_this_run_did_and_what_is_left() {
        let look = Look {
            length: 4 << 30,
            held: 0,
            sent: 3 << 30,
            hashed: 0,
            retries: 2,
        };
        assert_eq!(
            look.line(1 << 30, Duration::from_secs(8)),
            "boxgate: 75%, 3.00 GiB of 4.00 GiB, 256.00 MiB/s, 4 seconds left, 2 retries"
        );
        let stuck = Look {
            sent: 1 << 30,
            retries: 0,
            ..look
        };
        let line = stuck.line(1 << 30, Duration::from_secs(8));
        assert_eq!(
            line,
            "boxgate: 25%, 1.00 GiB of 4.00 GiB, 0 B/s, unknown time left"
        );
        let sent = Look {
            sent: 4 << 30,
            hashed: 3 << 30,
            ..stuck
        };
        assert_eq!(sent.words(), "hashing, 1.00 GiB to go");
    }
}
