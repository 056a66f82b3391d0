//! SIGKILL, over and over: after each the gateway is started again and held to what it told.
//!
//! A run is made of rounds, each with an empty data directory that ends before it fills the disk.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::chance::Chance;
use super::client::Style;
use super::round::{Round, Sum};
use crate::content::Block;
use crate::error::{Failure, Result};
use crate::gateway;

/// What is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// How many times the gateway is killed.
    pub(crate) cycles: u64,
    /// Behind every choice.
    pub(crate) seed: u64,
    /// The longest upload in bytes.
    pub(crate) longest: u64,
    /// No cycle begins later than this.
    pub(crate) within: Option<Duration>,
    /// The program under test.
    pub(crate) gateway: PathBuf,
    /// The file system that is written to.
    pub(crate) directory: PathBuf,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// How many times the gateway was killed while clients were at work.
    at_work: u64,
    /// And while it was starting.
    at_start: u64,
    /// All else.
    pub(crate) sum: Sum,
}

/// Cycles of a round, at most.
const ROUND_CYCLES: u64 = 50;
/// Finished bytes of a round after which it ends: replaced boxes are kept for a day.
const ROUND_BYTES: u64 = 3 << 30;
/// One cycle in so many ends while the gateway starts.
const AT_START: u64 = 8;
/// How long clients work before the kill, in milliseconds.
const WORK_MS: (u64, u64) = (10, 1500);
/// How long after its start a gateway is killed that did not come to work, in milliseconds.
const START_MS: (u64, u64) = (1, 100);
/// Cycles that are played however late it is.
const LEAST_CYCLES: u64 = 20;
/// A stream of chance beside those of the clients.
const CYCLES: u64 = u64::MAX;

/// Plays it. What is wrong is in the outcome; the data directory is then kept.
///
/// # Errors
/// When there is no result: the program is missing.
pub(crate) async fn play(options: &Options) -> Result<Outcome> {
    std::fs::metadata(&options.gateway).map_err(|e| Failure::file(&options.gateway, e))?;
    let begun = Instant::now();
    let goes_on = |outcome: &Outcome| {
        let late = options
            .within
            .is_some_and(|within| begun.elapsed() > within);
        let cycles = outcome.cycles();
        cycles < options.cycles && !(late && cycles >= LEAST_CYCLES)
    };
    let mut outcome = Outcome::default();
    let directory = options
        .directory
        .join(format!("kill-{}", std::process::id()));
    while goes_on(&outcome) {
        gateway::remove(&directory)?;
        std::fs::create_dir_all(&directory).map_err(|e| Failure::file(&directory, e))?;
        let number = outcome.sum.rounds;
        let style = Style {
            seed: options.seed,
            round: number,
            longest: options.longest,
            block: Block::seeded(options.seed),
        };
        let (data, log) = (directory.join("data"), directory.join("log"));
        let mut round = Round::begin(&options.gateway, data, log, &style);
        let mut chance = Chance::new(options.seed, &[number, CYCLES]);
        let until = outcome.cycles() + ROUND_CYCLES;
        while goes_on(&outcome) && outcome.cycles() < until && round.bytes < ROUND_BYTES {
            round = match cycle(round, &mut chance, &mut outcome).await {
                Ok(round) if outcome.sum.is_clean() => round,
                other => {
                    outcome.sum.note(other.err());
                    return Ok(outcome);
                }
            };
        }
        let ended = round.end(&mut outcome.sum).await;
        outcome.sum.note(ended.err());
        if !outcome.sum.is_clean() {
            return Ok(outcome);
        }
    }
    gateway::remove(&directory)?;
    Ok(outcome)
}

/// Start, look, work, kill.
async fn cycle(mut round: Round, chance: &mut Chance, outcome: &mut Outcome) -> Result<Round> {
    if chance.one_in(AT_START) {
        let starting = round.site.start()?;
        let after = chance.octaves(START_MS.0, START_MS.1);
        // The one thing that waits for time to pass: the moment of the kill is the experiment.
        sleep(Duration::from_millis(after)).await;
        starting.kill().await?;
        outcome.at_start += 1;
        return Ok(round);
    }
    let (resumed, gateway, wire) = round.resume(&mut outcome.sum).await?;
    round = resumed;
    let busy = round.crew.run(&wire);
    let after = chance.octaves(WORK_MS.0, WORK_MS.1);
    sleep(Duration::from_millis(after)).await;
    wire.doom();
    gateway.kill().await?;
    round.crew = busy.ended().await;
    outcome.at_work += 1;
    round.count(&mut outcome.sum);
    Ok(round)
}

impl Outcome {
    /// How many times the gateway was killed.
    fn cycles(&self) -> u64 {
        self.at_work + self.at_start
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let Self {
            at_work,
            at_start,
            sum,
        } = self;
        let cycles = format!("{} ({at_work} / {at_start})", self.cycles());
        sum.text(&[("cycles (killed at work / while starting)", cycles)])
    }
}
