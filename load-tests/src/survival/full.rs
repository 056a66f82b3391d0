//! A full disk: clients upload while the volume runs full, and are held to what they were
//! told while it is; then room comes back, and all must come to its end.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;
use tokio::time::{Instant, sleep};

use super::chance::Chance;
use super::round::{Round, Sum};
use super::series::Disaster;
use super::volume::Volume;
use super::wire::{Body, Heard, Wire};
use crate::content::{Block, Content};
use crate::error::{Failure, Result};
use crate::gateway::Gateway;
use crate::latency::Latency;

/// A disk without room.
#[derive(Debug)]
pub(crate) struct Full {
    /// What is tried to be written.
    probe: Content,
    /// How soon a write must succeed once there is room.
    recovers: Duration,
    times: u64,
    /// From the moment that there is room to the first write that succeeds.
    writable: Latency,
    /// The least room that there was for the gateway alone.
    least_room: u64,
}

/// Bytes of the volume: many times what a round leaves there, with all pieces and all that was left alone, so that
/// only the filler takes the room away.
const VOLUME_BYTES: u64 = 2 << 30;
/// How long clients work before and behind the moment when the disk is full, in milliseconds.
const WORK_MS: (u64, u64) = (10, 700);
/// How long there is room, or none, where that changes while they work, in milliseconds.
const TURN_MS: (u64, u64) = (5, 200);
/// How often room comes back and goes while they work, at most.
const MOST_TURNS: u64 = 4;

impl Full {
    /// One after which a write must succeed so soon.
    pub(crate) fn new(seed: u64, recovers: Duration) -> Self {
        Self {
            probe: Content::new(&Block::seeded(seed), u64::MAX, 2 << 20),
            recovers,
            times: 0,
            writable: Latency::default(),
            least_room: u64::MAX,
        }
    }

    /// Gives the room back, and brings everything to its end.
    async fn room(
        &mut self,
        mut round: Round,
        (gateway, wire): (Gateway, Wire),
        filler: &Path,
        sum: &mut Sum,
    ) -> Result<Round> {
        empty(filler)?;
        let begun = Instant::now();
        let wrong = loop {
            match written(&wire, &self.probe).await {
                Ok(()) => break None,
                Err(why) if begun.elapsed() > self.recovers => break Some(why),
                // The one that waits between two tries is a client as it should be.
                Err(_full) => sleep(Duration::from_millis(20)).await,
            }
        };
        self.writable.record(begun.elapsed());
        if let Some(why) = wrong {
            let text = format!("there is room, and nothing can be written: {why}");
            sum.tally.wrong(text);
        }
        round.crew = round.crew.complete(&wire).await;
        self.least_room = self.least_room.min(free_bytes(filler)?);
        round.crew = round.crew.check(&wire).await;
        wire.doom();
        gateway.kill().await?;
        self.times += 1;
        round.count(sum);
        Ok(round)
    }
}

impl Disaster for Full {
    const NAME: &'static str = "full";
    const FLAG: &'static str = "--times";
    const TITLE: &'static str = "a full disk";
    const LONGEST: u64 = 8 << 20;
    const LEAST: u64 = 5;
    const ROUND_BYTES: u64 = 160 << 20;
    type Ground = Volume;

    fn ground(&self, directory: &Path) -> Result<Volume> {
        Volume::ext4(directory, VOLUME_BYTES)
    }

    fn data(volume: &Volume, _directory: &Path) -> PathBuf {
        volume.at().join("data")
    }

    /// Work, no room, at times some and none again, a look at all that was told, room for good, work.
    async fn strike(
        &mut self,
        round: Round,
        volume: Volume,
        chance: &mut Chance,
        sum: &mut Sum,
    ) -> Result<(Round, Volume)> {
        let (mut round, mut gateway, wire) = round.resume(sum).await?;
        let busy = round.crew.run(&wire);
        let (before, behind) = (
            chance.octaves(WORK_MS.0, WORK_MS.1),
            chance.octaves(WORK_MS.0, WORK_MS.1),
        );
        let filler = volume.at().join("filler");
        // What is written when the room ends is the experiment.
        sleep(Duration::from_millis(before)).await;
        fill(&filler)?;
        for _ in 0..chance.below(MOST_TURNS) {
            sleep(Duration::from_millis(chance.octaves(TURN_MS.0, TURN_MS.1))).await;
            empty(&filler)?;
            sleep(Duration::from_millis(chance.octaves(TURN_MS.0, TURN_MS.1))).await;
            fill(&filler)?;
        }
        sleep(Duration::from_millis(behind)).await;
        wire.doom();
        round.crew = busy.ended().await;
        // Nobody writes: what was told holds, and what is finished is served, with no room at all.
        let mut wire = Wire::to_crowded(&gateway);
        round.crew = round.crew.check(&wire).await;
        if chance.one_in(3) {
            // A start finds no room either.
            wire.doom();
            gateway.kill().await?;
            (round, gateway, wire) = round.resume_crowded(sum).await?;
        }
        Ok((
            self.room(round, (gateway, wire), &filler, sum).await?,
            volume,
        ))
    }

    fn clear(volume: Volume) -> Result<()> {
        volume.remove()
    }

    fn judge(&self, sum: &mut Sum) {
        let mut answers = sum.tally.answers.keys();
        if !answers.any(|answer| answer.ends_with(" 507")) {
            sum.tally.wrong("nobody was told that the disk is full");
        }
    }

    fn times(&self) -> u64 {
        self.times
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        vec![
            ("times that the disk was full", self.times.to_string()),
            (
                "room to first write, ms: median / 99 % / longest",
                self.writable.text_ms(),
            ),
            (
                "least room without the filler, MiB",
                (self.least_room >> 20).to_string(),
            ),
        ]
    }
}

/// Begins an upload with a MiB, and gives it up: so nothing stays of it.
async fn written(wire: &Wire, content: &Content) -> std::result::Result<(), String> {
    let body = Body {
        content,
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

/// Bytes that are free around the filler.
fn free_bytes(filler: &Path) -> Result<u64> {
    let at = filler.parent().unwrap_or(filler);
    let free = statvfs(at).map_err(|e| Failure::file(at, e.into()))?;
    Ok(free.f_bavail.saturating_mul(free.f_frsize))
}

/// Gives the room back.
fn empty(at: &Path) -> Result<()> {
    std::fs::remove_file(at).map_err(|e| Failure::file(at, e))
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
