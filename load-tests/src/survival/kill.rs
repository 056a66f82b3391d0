//! SIGKILL: after each the gateway is started again and held to what it told.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::sleep;

use super::chance::Chance;
use super::round::{Round, Sum};
use super::series::Disaster;
use crate::error::Result;

/// SIGKILL.
#[derive(Debug, Default)]
pub(crate) struct Kill {
    /// How many times the gateway was killed while clients were at work.
    at_work: u64,
    /// And while it was starting.
    at_start: u64,
}

/// One cycle in so many ends while the gateway starts.
const AT_START: u64 = 8;
/// How long clients work before the kill, in milliseconds.
const WORK_MS: (u64, u64) = (10, 1500);
/// How long after its start a gateway is killed that did not come to work, in milliseconds.
const START_MS: (u64, u64) = (1, 100);

impl Disaster for Kill {
    const NAME: &'static str = "kill";
    const FLAG: &'static str = "--cycles";
    const TITLE: &'static str = "kill -9";
    const LONGEST: u64 = 32 << 20;
    const LEAST: u64 = 20;
    const ROUND_TIMES: u64 = 50;
    // Replaced boxes are kept for a day.
    const ROUND_BYTES: u64 = 3 << 30;
    type Ground = ();

    fn ground(&self, _directory: &Path) -> Result<()> {
        Ok(())
    }

    fn data(_ground: &(), directory: &Path) -> PathBuf {
        directory.join("data")
    }

    async fn strike(
        &mut self,
        round: Round,
        _ground: (),
        chance: &mut Chance,
        sum: &mut Sum,
    ) -> Result<(Round, ())> {
        Ok((self.cycle(round, chance, sum).await?, ()))
    }

    fn clear(_ground: ()) -> Result<()> {
        Ok(())
    }

    fn times(&self) -> u64 {
        self.at_work + self.at_start
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let Self { at_work, at_start } = self;
        let cycles = format!("{} ({at_work} / {at_start})", self.times());
        vec![("cycles (killed at work / while starting)", cycles)]
    }
}

impl Kill {
    /// Start, look, work, kill.
    async fn cycle(
        &mut self,
        mut round: Round,
        chance: &mut Chance,
        sum: &mut Sum,
    ) -> Result<Round> {
        if chance.one_in(AT_START) {
            let starting = round.site.start()?;
            let after = chance.octaves(START_MS.0, START_MS.1);
            // The one thing that waits for time to pass: the moment of the kill is the experiment.
            sleep(Duration::from_millis(after)).await;
            starting.kill().await?;
            self.at_start += 1;
            return Ok(round);
        }
        let (resumed, gateway, wire) = round.resume(sum).await?;
        round = resumed;
        let busy = round.crew.run(&wire);
        let after = chance.octaves(WORK_MS.0, WORK_MS.1);
        sleep(Duration::from_millis(after)).await;
        wire.doom();
        gateway.kill().await?;
        round.crew = busy.ended().await;
        self.at_work += 1;
        round.count(sum);
        Ok(round)
    }
}
