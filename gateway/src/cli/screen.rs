//! What a push or a pull shows while it runs: a bar for people, plain lines for logs, JSON for programs.

use std::io::IsTerminal as _;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{say, say_error};
use crate::client::progress::{Progress, Told};

/// How often a bar is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(100);
/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// How often a program hears how far it is.
const EVENT_EVERY: Duration = Duration::from_secs(1);

/// As people read it.
pub(super) fn rate(bytes: u64, took: Duration) -> String {
    let millis = took.as_millis().max(1);
    let rate = u128::from(bytes) * 1000 / millis;
    format!("{}/s", HumanBytes(u64::try_from(rate).unwrap_or(u64::MAX)))
}

fn millis(count: u128) -> Duration {
    Duration::from_millis(u64::try_from(count).unwrap_or(u64::MAX))
}

/// Nothing is ever this.
pub(super) enum Never {}

/// Who is told.
#[derive(Debug, Clone)]
pub(super) enum Audience {
    /// A person, or a log.
    People,
    /// A program, which reads one JSON document a line; these names stand in each.
    Program(Map<String, Value>),
}

impl Audience {
    /// Tells a program of what happened; people are told otherwise.
    pub(super) fn event(&self, word: &str, facts: Value) {
        let Self::Program(names) = self else { return };
        let mut document = Map::from_iter([("event".to_owned(), word.into())]);
        document.extend(names.clone());
        if let Value::Object(facts) = facts {
            document.extend(facts);
        }
        say(&Value::from(document).to_string());
    }
}

/// What a person, a log or a program sees of it.
pub(super) struct Screen {
    audience: Audience,
    /// Where standard error is a terminal.
    bar: Option<ProgressBar>,
    /// Why calls fail at this time; each reason is told once, until something moves again.
    why: Mutex<Option<String>>,
}

impl Screen {
    pub(super) fn new(audience: Audience) -> Self {
        let is_seen = matches!(audience, Audience::People) && std::io::stderr().is_terminal();
        let bar = is_seen.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let template = "{bar:30} {percent:>3}%  {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left  {msg}";
            // The template is right, or the default is as good.
            bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_odd| {
                ProgressStyle::default_bar()
            }))
        });
        Self {
            audience,
            bar,
            why: Mutex::default(),
        }
    }

    /// Says something. All streams fail for one reason, and go on failing for it: one line says so, a number the rest.
    pub(super) fn tell(&self, notice: &impl Told) {
        if let Audience::Program(_) = self.audience {
            let (word, facts) = notice.event();
            self.audience.event(word, facts);
            return;
        }
        if !notice.is_for_people() {
            return;
        }
        if let Some(again) = notice.again() {
            let why = again.why.to_string();
            let mut last = self.why();
            if last.as_ref() == Some(&why) {
                return;
            }
            *last = Some(why);
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

    pub(super) fn leave(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Shows how far it is, for as long as it is polled.
    pub(super) async fn follow(&self, progress: &Progress) -> Never {
        let every = match (&self.audience, &self.bar) {
            (Audience::Program(_), _) => EVENT_EVERY,
            (Audience::People, Some(_)) => DRAW_EVERY,
            (Audience::People, None) => LINE_EVERY,
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
                (None, first) if matches!(self.audience, Audience::Program(_)) => {
                    let facts = now.facts(first.unwrap_or(now.sent), began.elapsed());
                    self.audience.event("progress", facts);
                }
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

/// How far it is, at one moment.
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

    /// The same for a program; `first` bytes were there at the beginning.
    fn facts(&self, first: u64, took: Duration) -> Value {
        let new = u128::from(self.sent.saturating_sub(first));
        let rate = new * 1000 / took.as_millis().max(1);
        json!({
            "bytes": self.sent,
            "held": self.held,
            "hashed": self.hashed,
            "length": self.length,
            "bytes_per_second": u64::try_from(rate).unwrap_or(u64::MAX),
            "retries": self.retries,
        })
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
    fn the_readme_tells_how_often_a_line_comes() {
        let told = format!("A line every {} seconds", LINE_EVERY.as_secs());
        assert!(include_str!("../../../README.md").contains(&told));
    }

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
