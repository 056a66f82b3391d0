//! What is compared with what: rows of `compare.toml`, one for each path that has a target.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Failure, Result};
use crate::scenario::Length;

const TEXT: &str = include_str!("../../compare.toml");

/// How much there is of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    /// All of it.
    Whole,
    /// A quarter of an hour.
    Quick,
    /// A minute: shows that all is there and right, not how fast it is.
    Smoke,
}

impl Size {
    /// How often each arm is measured.
    pub(super) fn rounds(self) -> usize {
        match self {
            Self::Whole => 5,
            Self::Quick => 3,
            Self::Smoke => 1,
        }
    }

    /// How long requests are counted.
    pub(super) fn seconds(self) -> u32 {
        match self {
            Self::Whole => 5,
            Self::Quick => 2,
            Self::Smoke => 1,
        }
    }
}

/// All rows.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plan {
    /// In the order in which they are played.
    #[serde(rename = "row")]
    pub(super) rows: Vec<Row>,
}

/// One path, and who goes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    /// Names it on the command line.
    pub(super) name: String,
    /// Its heading.
    pub(super) title: String,
    /// What is done.
    pub(super) work: Work,
    /// Bytes of one file.
    pub(super) length: Length,
    /// The same in a quick run.
    quick: Option<Length>,
    /// Bytes of a range.
    pub(super) range: Option<Length>,
    /// How many ask at once.
    #[serde(default = "one")]
    pub(super) clients: u32,
    /// What a reader must know of the servers.
    pub(super) note: Option<String>,
    /// Who does it.
    pub(super) arms: Vec<Arm>,
    /// What is aimed at.
    pub(super) targets: Vec<Target>,
    /// What a smoke run has less of than names and titles say.
    #[serde(skip)]
    pub(super) smaller: Vec<String>,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Work {
    /// Files go in, one request each.
    Upload,
    /// A file goes in by tus.
    Tus,
    /// A file comes out.
    Download,
    /// Aligned ranges of a file come out.
    Ranges,
    /// Metadata of one box.
    Metadata,
    /// Metadata of many boxes in turn.
    Lookups,
    /// A file goes in over TLS.
    TlsUpload,
    /// A file comes out over TLS.
    TlsDownload,
}

/// One server's part.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Arm {
    /// Names it in the table.
    pub(super) name: String,
    /// What serves.
    pub(super) server: Server,
    /// Whether boxes are kept in Garage.
    #[serde(default)]
    pub(super) garage: bool,
    /// Keys of boxgate's configuration.
    #[serde(default)]
    pub(super) settings: BTreeMap<String, String>,
    /// Files at once.
    #[serde(default = "one")]
    pub(super) count: u32,
    /// Files one after the other.
    #[serde(default = "one")]
    pub(super) turns: u32,
    /// How many times as long as the row's files.
    #[serde(default = "one")]
    pub(super) times: u32,
    /// How many boxes there are.
    #[serde(default)]
    pub(super) boxes: u32,
    /// What it costs to begin, with next to nothing to do, is taken off: of a command that starts anew each time.
    #[serde(default)]
    pub(super) without_start: bool,
    /// Too much for a quick run, and for more than one round.
    #[serde(default)]
    pub(super) whole: bool,
}

/// What serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Server {
    /// The program under test.
    Boxgate,
    /// Receives, hashes by BLAKE3, writes past the page cache, flushes.
    LoopBlake3,
    /// The same with SHA-256 beside it.
    LoopBoth,
    /// The same, and the file and a row of it stay whatever happens.
    LoopDurable,
    /// Writes, flushes, then reads and hashes.
    WriteThenHash,
    /// hyper, which drops what it receives.
    Sink,
    /// hyper, which sends from memory.
    Source,
    /// Debian's nginx: files by sendfile, PUT by its dav module.
    Nginx,
    /// The same behind its own cache of slices.
    NginxCache,
    /// A tus server in Rust.
    Rustus,
    /// `aws s3 cp`, straight to Garage.
    Aws,
}

/// A figure that is aimed at.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Target {
    /// Which.
    pub(super) figure: Figure,
    /// Of which arm.
    #[serde(default = "boxgate")]
    pub(super) arm: String,
    /// As a share of which other.
    pub(super) of: Option<String>,
    /// Without either it is only told.
    pub(super) at_most: Option<f64>,
    /// Not less than this.
    pub(super) at_least: Option<f64>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Figure {
    /// 10^9 bytes in a second.
    GbPerS,
    /// CPU seconds of the server for 10^9 bytes.
    CpuSPerGb,
    /// Requests in a second.
    RequestsPerS,
    /// Requests in a CPU second of the server.
    RequestsPerCpuS,
    /// The slowest of a hundred.
    P99Ms,
    /// Most resident memory of the server's processes.
    PeakMib,
    /// That as a share of what the server printed as its ceiling.
    PeakOfCeiling,
}

impl Figure {
    /// With its unit.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::GbPerS => "GB/s",
            Self::CpuSPerGb => "CPU s/GB",
            Self::RequestsPerS => "requests/s",
            Self::RequestsPerCpuS => "requests per CPU s",
            Self::P99Ms => "p99 ms",
            Self::PeakMib => "peak RSS MiB",
            Self::PeakOfCeiling => "peak RSS of the printed ceiling",
        }
    }
}

fn one() -> u32 {
    1
}

fn boxgate() -> String {
    "boxgate".to_owned()
}

impl Plan {
    /// The shipped one, cut down to that size and to the rows whose names begin with one of `only` (all without one).
    ///
    /// # Errors
    /// When a name begins no row's.
    pub(super) fn shipped(size: Size, only: &[String]) -> Result<Self> {
        let mut plan = Self::parse(TEXT)?;
        for wanted in only {
            if !plan.rows.iter().any(|row| row.name.starts_with(wanted)) {
                let known: Vec<&str> = plan.rows.iter().map(|row| row.name.as_str()).collect();
                return Err(Failure::said(format!(
                    "no row is named {wanted:?}; there are {}",
                    known.join(", ")
                )));
            }
        }
        plan.rows.retain(|row| {
            only.is_empty() || only.iter().any(|wanted| row.name.starts_with(wanted))
        });
        for row in &mut plan.rows {
            row.shrink(size);
        }
        Ok(plan)
    }

    /// All that serve in it; who keeps boxes in Garage needs what `aws` needs.
    pub(super) fn servers(&self) -> Vec<Server> {
        let arms = self.rows.iter().flat_map(|row| &row.arms);
        arms.flat_map(|arm| [Some(arm.server), arm.garage.then_some(Server::Aws)])
            .flatten()
            .collect()
    }

    fn parse(text: &str) -> Result<Self> {
        let plan: Self = toml::from_str(text).map_err(|e| Failure::said(e.to_string()))?;
        for row in &plan.rows {
            let known = |name: &String| row.arms.iter().any(|arm| arm.name == *name);
            for target in &row.targets {
                if !known(&target.arm) || !target.of.as_ref().is_none_or(known) {
                    return Err(Failure::said(format!(
                        "{}: a target names an arm that is not there",
                        row.name
                    )));
                }
            }
            let starts = |arm: &Arm| arm.server == Server::Aws;
            if row.arms.iter().any(|arm| arm.without_start && !starts(arm)) {
                return Err(Failure::said(format!("{}: without_start?", row.name)));
            }
            if (row.work == Work::Ranges) != row.range.is_some() {
                return Err(Failure::said(format!("{}: range?", row.name)));
            }
        }
        Ok(plan)
    }
}

impl Row {
    fn shrink(&mut self, size: Size) {
        match size {
            Size::Whole => return,
            Size::Quick => self.length = self.quick.unwrap_or(self.length),
            Size::Smoke => {
                let at_least = self.range.map_or(1 << 20, |range| 2 * range.0);
                self.length.0 = (self.length.0 / 128).clamp(at_least, 8 << 20);
                let mut smaller = vec![format!("files of {} MiB", self.length.0 >> 20)];
                smaller.extend(less("clients", &mut self.clients, 32));
                for arm in self.arms.iter_mut().filter(|arm| !arm.whole) {
                    let name = &arm.name;
                    for (what, count, most) in [
                        ("times the length", &mut arm.times, 4),
                        ("files in turn", &mut arm.turns, 4),
                        ("files at once", &mut arm.count, 8),
                        ("boxes", &mut arm.boxes, 50),
                    ] {
                        let less = less(what, count, most);
                        smaller.extend(less.map(|less| format!("{name} with {less}")));
                    }
                }
                self.smaller = smaller;
            }
        }
        self.arms.retain(|arm| !arm.whole);
        let arms = &self.arms;
        self.targets
            .retain(|target| arms.iter().any(|arm| arm.name == target.arm));
    }
}

/// Cuts a count down; by how much, where it was more.
fn less(what: &str, count: &mut u32, most: u32) -> Option<String> {
    let whole = *count;
    *count = whole.min(most);
    (whole > most).then(|| format!("{most} {what} of {whole}"))
}

impl Arm {
    /// Bytes of one file.
    pub(super) fn length(&self, row: &Row) -> u64 {
        row.length.0 * u64::from(self.times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_plan_is_well_formed_in_every_size() {
        for size in [Size::Whole, Size::Quick, Size::Smoke] {
            let plan = Plan::shipped(size, &[]).unwrap();
            assert!(plan.rows.len() >= 10);
            assert!(plan.rows.iter().all(|row| !row.targets.is_empty()));
        }
        let bytes = |size| {
            let plan = Plan::shipped(size, &["growth-length".to_owned()]).unwrap();
            let row = &plan.rows[0];
            row.arms.iter().map(|arm| arm.length(row)).max()
        };
        assert_eq!(bytes(Size::Whole), Some(32 << 30));
        assert_eq!(bytes(Size::Quick), Some(1 << 30));
        assert_eq!(bytes(Size::Smoke), Some(4 << 20));
    }

    #[test]
    fn the_floor_of_short_uploads_is_told_and_held_against_nothing() {
        for size in [Size::Whole, Size::Quick, Size::Smoke] {
            let plan = Plan::shipped(size, &["growth-length".to_owned()]).unwrap();
            let row = &plan.rows[0];
            let of_loops = |arm: &&Arm| arm.server == Server::LoopDurable;
            let files: Vec<_> = row.arms.iter().filter(of_loops).collect();
            let [short, long] = files[..] else {
                panic!("{files:?}");
            };
            let bytes = |arm: &Arm| arm.length(row) * u64::from(arm.turns);
            assert_eq!((short.times, long.turns), (1, 1));
            assert_eq!(bytes(short), bytes(long), "{size:?}");
            let target = row.targets.iter().find(|target| target.arm == short.name);
            let target = target.unwrap();
            assert_eq!(target.of.as_ref(), Some(&long.name));
            assert_eq!((target.at_most, target.at_least), (None, None));
        }
    }

    #[test]
    fn a_command_without_its_start_is_told_beside_and_judges_nothing() {
        let bytes = |size| {
            let plan = Plan::shipped(size, &["upload-garage".to_owned()]).unwrap();
            let row = &plan.rows[0];
            let arm = row.arms.iter().find(|arm| arm.without_start).unwrap();
            let targets = row.targets.iter();
            let of_it: Vec<_> = targets
                .filter(|target| target.of.as_ref() == Some(&arm.name))
                .collect();
            assert!(!of_it.is_empty());
            for target in of_it {
                assert_eq!((target.at_most, target.at_least), (None, None));
            }
            arm.length(row)
        };
        // So that the start is as small a part of both.
        assert_eq!(bytes(Size::Quick), bytes(Size::Whole));
        let other = TEXT.replace(
            r#"server = "aws", without_start"#,
            r#"server = "sink", without_start"#,
        );
        assert!(Plan::parse(&other).is_err());
    }

    #[test]
    fn only_what_is_played_is_installed() {
        let needs = |row: &str, server| {
            let plan = Plan::shipped(Size::Quick, &[row.to_owned()]).unwrap();
            plan.servers().contains(&server)
        };
        assert!(needs("tus", Server::Rustus) && needs("upload-garage", Server::Aws));
        assert!(!needs("growth", Server::Rustus) && !needs("growth", Server::Aws));
    }

    #[test]
    fn a_name_that_begins_no_row_is_refused() {
        assert!(Plan::shipped(Size::Quick, &["nothing".to_owned()]).is_err());
        let chosen = Plan::shipped(Size::Quick, &["ranges".to_owned()]).unwrap();
        assert_eq!(chosen.rows.len(), 4);
    }
}
