//! Loss of power, over and over: what the device holds at one moment is all that is left.
//!
//! The data directory is on an ext4 image on a loop device whose journal waits for minutes. The gateway
//! is stopped in its tracks, the image's file is copied (what was never flushed is not in it), and the
//! copy is mounted in its place.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, interval, sleep};

use super::chance::Chance;
use super::client::Style;
use super::forget::Forget;
use super::round::{Round, Sum};
use super::volume::Volume;
use crate::content::Block;
use crate::error::{Failure, Result};
use crate::gateway;

/// What is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// How many times the power is cut.
    pub(crate) cuts: u64,
    /// Behind every choice.
    pub(crate) seed: u64,
    /// The longest upload in bytes.
    pub(crate) longest: u64,
    /// No cut is begun later than this.
    pub(crate) within: Option<Duration>,
    /// Calls that do nothing: then something must be found wrong.
    pub(crate) forget: Option<Forget>,
    /// The program under test.
    pub(crate) gateway: PathBuf,
    /// Where images are.
    pub(crate) directory: PathBuf,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    cuts: u64,
    /// All else.
    pub(crate) sum: Sum,
}

/// Bytes of an image, of which only those are on the disk that were written.
const IMAGE_BYTES: u64 = 1 << 30;
/// Finished bytes after which a fresh image is taken.
const ROUND_BYTES: u64 = 300 << 20;
/// How long clients work before the cut, in milliseconds.
const WORK_MS: (u64, u64) = (10, 1500);
/// Cuts that are made however late it is.
const LEAST_CUTS: u64 = 5;
/// A stream of chance beside those of the clients.
const CUTS: u64 = u64::MAX;
/// How long the kernel may take to stop all threads of a process.
const PATIENCE: Duration = Duration::from_mins(1);

/// Plays it. What is wrong is in the outcome; the image is then kept.
///
/// # Errors
/// When there is no result: the program is missing, or nothing can be mounted.
pub(crate) async fn play(options: &Options) -> Result<Outcome> {
    std::fs::metadata(&options.gateway).map_err(|e| Failure::file(&options.gateway, e))?;
    let begun = Instant::now();
    let goes_on = |outcome: &Outcome| {
        let late = options
            .within
            .is_some_and(|within| begun.elapsed() > within);
        outcome.cuts < options.cuts && !(late && outcome.cuts >= LEAST_CUTS)
    };
    let mut outcome = Outcome::default();
    let directory = options
        .directory
        .join(format!("power-{}", std::process::id()));
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
        let forget = options.forget.map(|forget| forget.build(&directory));
        let (image, at) = (directory.join("image"), directory.join("volume"));
        let mut volume = Volume::ext4(&image, &at, IMAGE_BYTES)?;
        let (data, log) = (at.join("data"), directory.join("log"));
        let mut round = Round::begin(&options.gateway, data, log, &style).with(forget.transpose()?);
        let mut chance = Chance::new(options.seed, &[number, CUTS]);
        while goes_on(&outcome) && round.bytes < ROUND_BYTES {
            let cut = cut(round, volume, &directory, &mut chance, &mut outcome).await;
            (round, volume) = match cut {
                Ok(goes_on) if outcome.sum.is_clean() => goes_on,
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
        volume.remove()?;
    }
    gateway::remove(&directory)?;
    Ok(outcome)
}

/// Start, look, work, cut.
async fn cut(
    round: Round,
    volume: Volume,
    directory: &Path,
    chance: &mut Chance,
    outcome: &mut Outcome,
) -> Result<(Round, Volume)> {
    let (mut round, gateway, wire) = round.resume(&mut outcome.sum).await?;
    let busy = round.crew.run(&wire);
    let after = chance.octaves(WORK_MS.0, WORK_MS.1);
    // The one thing that waits for time to pass: the moment of the cut is the experiment.
    sleep(Duration::from_millis(after)).await;
    wire.doom();
    gateway.freeze()?;
    stopped(gateway.pid()).await?;
    let (image, copy) = (directory.join("image"), directory.join("copy"));
    volume.copy_device(&copy)?;
    gateway.kill().await?;
    round.crew = busy.ended().await;
    outcome.cuts += 1;
    round.count(&mut outcome.sum);
    let at = volume.at().to_owned();
    volume.remove()?;
    std::fs::rename(&copy, &image).map_err(|e| Failure::file(&copy, e))?;
    Ok((round, Volume::mounted(&image, &at)?))
}

/// Waits until no thread of the process runs any more: one within a call ends that first.
async fn stopped(pid: u32) -> Result<()> {
    let tasks = PathBuf::from(format!("/proc/{pid}/task"));
    let late = Instant::now() + PATIENCE;
    let mut tick = interval(Duration::from_millis(1));
    loop {
        tick.tick().await;
        let mut all = true;
        for task in std::fs::read_dir(&tasks).map_err(|e| Failure::file(&tasks, e))? {
            let stat = task
                .map_err(|e| Failure::file(&tasks, e))?
                .path()
                .join("stat");
            // A thread that ended meanwhile does nothing any more.
            let text = std::fs::read_to_string(&stat).unwrap_or_default();
            let state = text
                .rsplit_once(") ")
                .and_then(|(_, rest)| rest.chars().next());
            all &= state.is_none_or(|state| matches!(state, 'T' | 'Z' | 'X'));
        }
        if all {
            return Ok(());
        }
        if Instant::now() > late {
            return Err(Failure::said(format!("process {pid} does not stop")));
        }
    }
}

impl Outcome {
    /// For people.
    pub(crate) fn text(&self) -> String {
        self.sum.text(&[("power cuts", self.cuts.to_string())])
    }
}
