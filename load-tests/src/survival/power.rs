//! Loss of power: what the device holds at one moment is all that is left.
//!
//! The data directory is on an ext4 image on a loop device whose journal waits for minutes. The gateway
//! is stopped in its tracks, the image's file is copied (what was never flushed is not in it), and the
//! copy is mounted in its place.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, interval, sleep};

use super::chance::Chance;
use super::forget::Forget;
use super::round::{Round, Sum};
use super::series::Disaster;
use super::volume::Volume;
use crate::error::{Failure, Result};
use crate::gateway::Preload;

/// A loss of power.
#[derive(Debug)]
pub(crate) struct Power {
    /// Calls that do nothing: then something must be found wrong.
    forget: Option<Forget>,
    cuts: u64,
}

/// Bytes of an image, of which only those are on the disk that were written.
const IMAGE_BYTES: u64 = 1 << 30;
/// How long clients work before the cut, in milliseconds.
const WORK_MS: (u64, u64) = (10, 1500);
/// How long the kernel may take to stop all threads of a process.
const PATIENCE: Duration = Duration::from_mins(1);

impl Power {
    /// With a gateway to which these calls do nothing.
    pub(crate) fn forgetting(forget: Option<Forget>) -> Self {
        Self { forget, cuts: 0 }
    }
}

impl Disaster for Power {
    const NAME: &'static str = "power";
    const FLAG: &'static str = "--cuts";
    const TITLE: &'static str = "power cuts";
    const LONGEST: u64 = 8 << 20;
    const LEAST: u64 = 5;
    const ROUND_BYTES: u64 = 300 << 20;
    type Ground = Volume;

    fn flags(&self) -> String {
        let forgotten = self
            .forget
            .map(|forget| format!(" --forget {}", forget.word()));
        forgotten.unwrap_or_default()
    }

    fn ground(&self, directory: &Path) -> Result<Volume> {
        Volume::ext4(directory, IMAGE_BYTES)
    }

    fn data(volume: &Volume, _directory: &Path) -> PathBuf {
        volume.at().join("data")
    }

    fn preload(&self, directory: &Path) -> Result<Option<Preload>> {
        self.forget
            .map(|forget| forget.build(directory))
            .transpose()
    }

    /// Start, look, work, cut.
    async fn strike(
        &mut self,
        round: Round,
        volume: Volume,
        chance: &mut Chance,
        sum: &mut Sum,
    ) -> Result<(Round, Volume)> {
        let (mut round, gateway, wire) = round.resume(sum).await?;
        let busy = round.crew.run(&wire);
        let after = chance.octaves(WORK_MS.0, WORK_MS.1);
        // The one thing that waits for time to pass: the moment of the cut is the experiment.
        sleep(Duration::from_millis(after)).await;
        wire.doom();
        gateway.freeze()?;
        stopped(gateway.pid()).await?;
        let copy = volume.copy_device()?;
        gateway.kill().await?;
        round.crew = busy.ended().await;
        self.cuts += 1;
        round.count(sum);
        Ok((round, volume.replaced_by(&copy)?))
    }

    fn clear(volume: Volume) -> Result<()> {
        volume.remove()
    }

    fn times(&self) -> u64 {
        self.cuts
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        vec![("power cuts", self.cuts.to_string())]
    }
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
