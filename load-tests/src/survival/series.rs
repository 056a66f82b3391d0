//! One disaster over and over: rounds, each on empty ground that ends before it is full, until there were
//! as many as were asked for or something is wrong.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::chance::Chance;
use super::client::Style;
use super::round::{Round, Sum};
use crate::content::Block;
use crate::error::{Failure, Result};
use crate::gateway::{self, Preload};

/// What is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    /// How many disasters.
    pub(crate) times: u64,
    /// Behind every choice.
    pub(crate) seed: u64,
    /// The longest upload in bytes.
    pub(crate) longest: u64,
    /// None begins later than this.
    pub(crate) within: Option<Duration>,
    /// The program under test.
    pub(crate) gateway: PathBuf,
    /// The file system that is written to.
    pub(crate) directory: PathBuf,
}

/// What happens to a gateway while clients upload; counts how often it did.
pub(crate) trait Disaster: Send + Sync {
    /// The subcommand that plays it.
    const NAME: &'static str;
    /// The flag that says how often.
    const FLAG: &'static str;
    /// What it is, for the record of results.
    const TITLE: &'static str;
    /// The longest upload in bytes, where nothing else is wanted.
    const LONGEST: u64;
    /// Disasters that are played however late it is.
    const LEAST: u64;
    /// Disasters of a round, at most.
    const ROUND_TIMES: u64 = u64::MAX;
    /// Finished bytes after which a round ends.
    const ROUND_BYTES: u64;
    /// What the data directory stands on.
    type Ground: Send;

    /// Further flags that lead to the same choices.
    fn flags(&self) -> String {
        String::new()
    }

    /// Makes the ground of a round in an empty directory.
    ///
    /// # Errors
    /// When it cannot be made.
    fn ground(&self, directory: &Path) -> Result<Self::Ground>;

    /// Where the data directory is to be.
    fn data(ground: &Self::Ground, directory: &Path) -> PathBuf;

    /// What the gateway is made to load before all else.
    ///
    /// # Errors
    /// When it cannot be built.
    fn preload(&self, _directory: &Path) -> Result<Option<Preload>> {
        Ok(None)
    }

    /// Lets it happen once.
    ///
    /// # Errors
    /// When the gateway does not do as it should, or nothing can be made of the ground.
    fn strike(
        &mut self,
        round: Round,
        ground: Self::Ground,
        chance: &mut Chance,
        sum: &mut Sum,
    ) -> impl Future<Output = Result<(Round, Self::Ground)>> + Send;

    /// Removes the ground of a round that ended well.
    ///
    /// # Errors
    /// When somebody still uses it.
    fn clear(ground: Self::Ground) -> Result<()>;

    /// Adds what is wrong with a run as a whole in which nothing else was.
    fn judge(&self, _sum: &mut Sum) {}

    /// How often it happened.
    fn times(&self) -> u64;

    /// What it counted, for people.
    fn rows(&self) -> Vec<(&'static str, String)>;
}

/// A stream of chance beside those of the clients.
const DISASTERS: u64 = u64::MAX;

impl Series {
    /// Plays it. What is wrong is in the sum; the ground is then kept.
    ///
    /// # Errors
    /// When there is no result: the program is missing, or there is no ground to be had.
    pub(crate) async fn play<D: Disaster>(&self, disaster: &mut D) -> Result<Sum> {
        std::fs::metadata(&self.gateway).map_err(|e| Failure::file(&self.gateway, e))?;
        let begun = Instant::now();
        let goes_on = |disaster: &D| {
            let late = self.within.is_some_and(|within| begun.elapsed() > within);
            let times = disaster.times();
            times < self.times && !(late && times >= D::LEAST)
        };
        let mut sum = Sum::default();
        let name = format!("{}-{}", D::NAME, std::process::id());
        let directory = self.directory.join(name);
        while goes_on(disaster) {
            gateway::remove(&directory)?;
            std::fs::create_dir_all(&directory).map_err(|e| Failure::file(&directory, e))?;
            let mut ground = disaster.ground(&directory)?;
            let preload = disaster.preload(&directory)?;
            let style = Style {
                seed: self.seed,
                round: sum.rounds,
                longest: self.longest,
                block: Block::seeded(self.seed),
            };
            let (data, log) = (D::data(&ground, &directory), directory.join("log"));
            let mut round = Round::begin(&self.gateway, data, log, &style).with(preload);
            let mut chance = Chance::new(self.seed, &[sum.rounds, DISASTERS]);
            let until = disaster.times().saturating_add(D::ROUND_TIMES);
            while goes_on(disaster) && disaster.times() < until && round.bytes < D::ROUND_BYTES {
                let struck = disaster.strike(round, ground, &mut chance, &mut sum).await;
                (round, ground) = match struck {
                    Ok(stands) if sum.is_clean() => stands,
                    other => {
                        sum.note(other.err());
                        return Ok(sum);
                    }
                };
            }
            let ended = round.end(&mut sum).await;
            sum.note(ended.err());
            if !sum.is_clean() {
                return Ok(sum);
            }
            D::clear(ground)?;
        }
        gateway::remove(&directory)?;
        disaster.judge(&mut sum);
        Ok(sum)
    }
}
