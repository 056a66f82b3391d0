//! A full disk, over and over: clients upload while the volume runs full, and are held to what they were
//! told while it is; then room comes back, and all must come to its end.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use tokio::time::{Instant, sleep};

use super::chance::Chance;
use super::client::Style;
use super::round::{Round, Sum};
use super::volume::Volume;
use super::wire::{Body, Heard, Wire};
use crate::content::{Block, Content};
use crate::error::{Failure, Result};
use crate::gateway;
use crate::latency::Latency;

/// What is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// How many times the disk runs full.
    pub(crate) times: u64,
    /// Behind every choice.
    pub(crate) seed: u64,
    /// The longest upload in bytes.
    pub(crate) longest: u64,
    /// The disk does not run full again later than this.
    pub(crate) within: Option<Duration>,
    /// How soon a write must succeed once there is room.
    pub(crate) recovers: Duration,
    /// The program under test.
    pub(crate) gateway: PathBuf,
    /// Where the image is.
    pub(crate) directory: PathBuf,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    times: u64,
    /// From the moment that there is room to the first write that succeeds.
    writable: Latency,
    /// All else.
    pub(crate) sum: Sum,
}

/// Bytes of the volume.
const VOLUME_BYTES: u64 = 512 << 20;
/// Finished bytes after which a fresh volume is taken.
const ROUND_BYTES: u64 = 160 << 20;
/// How long clients work before and behind the moment when the disk is full, in milliseconds.
const WORK_MS: (u64, u64) = (10, 700);
/// Times that are played however late it is.
const LEAST_TIMES: u64 = 5;
/// A stream of chance beside those of the clients.
const TIMES: u64 = u64::MAX;

/// Plays it. What is wrong is in the outcome; the volume is then kept.
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
        outcome.times < options.times && !(late && outcome.times >= LEAST_TIMES)
    };
    let mut outcome = Outcome::default();
    let directory = options
        .directory
        .join(format!("full-{}", std::process::id()));
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
        let (image, at) = (directory.join("image"), directory.join("volume"));
        let volume = Volume::ext4(&image, &at, VOLUME_BYTES)?;
        let (data, log) = (at.join("data"), directory.join("log"));
        let mut round = Round::begin(&options.gateway, data, log, &style);
        let mut chance = Chance::new(options.seed, &[number, TIMES]);
        while goes_on(&outcome) && round.bytes < ROUND_BYTES {
            round = match once(round, &volume, options, &mut chance, &mut outcome).await {
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
        volume.remove()?;
    }
    gateway::remove(&directory)?;
    let answers = &outcome.sum.tally.answers;
    if !answers.keys().any(|answer| answer.ends_with(" 507")) {
        outcome
            .sum
            .tally
            .wrong("nobody was told that the disk is full");
    }
    Ok(outcome)
}

/// Work, no room, a look at all that was told, room again, work.
async fn once(
    round: Round,
    volume: &Volume,
    options: &Options,
    chance: &mut Chance,
    outcome: &mut Outcome,
) -> Result<Round> {
    let (mut round, gateway, wire) = round.resume(&mut outcome.sum).await?;
    let busy = round.crew.run(&wire);
    let (before, behind) = (
        chance.octaves(WORK_MS.0, WORK_MS.1),
        chance.octaves(WORK_MS.0, WORK_MS.1),
    );
    let filler = volume.at().join("filler");
    // What is written when the room ends is the experiment.
    sleep(Duration::from_millis(before)).await;
    fill(&filler)?;
    sleep(Duration::from_millis(behind)).await;
    wire.doom();
    round.crew = busy.ended().await;
    // Nobody writes: what was told holds, and what is finished is served, with no room at all.
    let wire = Wire::to(&gateway);
    round.crew = round.crew.check(&wire).await;
    if chance.one_in(3) {
        // A start finds no room either.
        wire.doom();
        gateway.kill().await?;
        let (resumed, gateway, wire) = round.resume(&mut outcome.sum).await?;
        round = resumed;
        return room(round, (gateway, wire), &filler, options, outcome).await;
    }
    room(round, (gateway, wire), &filler, options, outcome).await
}

/// Gives the room back, and brings everything to its end.
async fn room(
    mut round: Round,
    (gateway, wire): (gateway::Gateway, Wire),
    filler: &Path,
    options: &Options,
    outcome: &mut Outcome,
) -> Result<Round> {
    std::fs::remove_file(filler).map_err(|e| Failure::file(filler, e))?;
    let begun = Instant::now();
    let wrong = loop {
        match written(&wire, options.seed).await {
            Ok(()) => break None,
            Err(why) if begun.elapsed() > options.recovers => break Some(why),
            // The one that waits between two tries is a client as it should be.
            Err(_full) => sleep(Duration::from_millis(20)).await,
        }
    };
    outcome.writable.record(begun.elapsed());
    if let Some(why) = wrong {
        let text = format!("there is room, and nothing can be written: {why}");
        outcome.sum.tally.wrong(text);
    }
    round.crew = round.crew.complete(&wire).await;
    round.crew = round.crew.check(&wire).await;
    wire.doom();
    gateway.kill().await?;
    outcome.times += 1;
    round.count(&mut outcome.sum);
    Ok(round)
}

/// Begins an upload with a MiB, and gives it up: so nothing stays of it.
async fn written(wire: &Wire, seed: u64) -> std::result::Result<(), String> {
    let content = Content::new(&Block::seeded(seed), u64::MAX, 2 << 20);
    let body = Body {
        content: &content,
        from: 0,
        to: 1 << 20,
        cut: None,
    };
    let headers = [
        ("upload-complete", "?0".to_owned()),
        ("upload-length", content.length().to_string()),
    ];
    let path = format!("/files?organization={}", wire.organization());
    let made = match wire.send("POST", &path, &headers, body, |_, _| {}).await {
        Heard::Answer(answer) if answer.status == 201 => answer,
        Heard::Answer(answer) => return Err(format!("POST: {}", answer.status)),
        other => return Err(format!("POST: {other:?}")),
    };
    let location = made.headers.get("location").unwrap_or_default();
    let path = location.find("/files/").map(|at| &location[at..]);
    match wire.ask("DELETE", path.unwrap_or_default(), &[]).await {
        Heard::Answer(answer) if answer.status == 204 => Ok(()),
        other => Err(format!("DELETE: {other:?}")),
    }
}

/// Takes all room that there is.
fn fill(at: &Path) -> Result<()> {
    let file = File::create(at).map_err(|e| Failure::file(at, e))?;
    let mut length = 0;
    for step in [16 << 20, 1 << 20, 64 << 10, 4 << 10] {
        loop {
            match fallocate(&file, FallocateFlags::empty(), length, step) {
                Ok(()) => length += step,
                Err(Errno::NOSPC) => break,
                Err(Errno::INTR) => {}
                Err(e) => return Err(Failure::file(at, e.into())),
            }
        }
    }
    Ok(())
}

impl Outcome {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let writable = [50.0, 99.0, 100.0].map(|percent| self.writable.percentile_ms(percent));
        self.sum.text(&[
            ("times that the disk was full", self.times.to_string()),
            (
                "room to first write, ms: median / 99 % / longest",
                format!(
                    "{:.0} / {:.0} / {:.0}",
                    writable[0], writable[1], writable[2]
                ),
            ),
        ])
    }
}
