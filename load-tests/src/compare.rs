//! boxgate beside others, on one machine, in turns: `load-tests compare`.
//!
//! What is compared stands in `compare.toml`. All servers of a row are started together in directories of their own,
//! measured round by round in changing order, and what arrived is compared in the same run. The page of results is
//! written between its marks, with plots beside it.

mod files;
mod load;
mod page;
mod peer;
mod plan;
mod plot;
pub(crate) mod serve;
mod tools;
mod way;
mod work;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use self::peer::{Certificate, Garage, Ground, Peer, fresh};
use serde::{Deserialize, Serialize};

pub(crate) use self::plan::Size;
use self::plan::{Arm, Figure, Plan, Row, Server, Work};
use self::tools::Tools;
use self::work::{Figures, Turn};
use crate::content::Block;
use crate::error::{Failure, Result};
use crate::machine::Machine;

/// What is compared, and where the page is.
#[derive(Debug)]
pub(crate) struct Comparison {
    /// The program under test.
    pub(crate) program: PathBuf,
    /// On the file system that is measured.
    pub(crate) directory: PathBuf,
    /// The page of results.
    pub(crate) page: PathBuf,
    /// How much of it.
    pub(crate) size: Size,
    /// Instead of the size's own.
    pub(crate) rounds: Option<usize>,
    /// Rows whose names begin so; all without one.
    pub(crate) only: Vec<String>,
    /// Where programs of others are kept.
    pub(crate) tools: Option<PathBuf>,
}

impl Comparison {
    /// As it is repeated, and with which build.
    fn command(&self) -> String {
        let size = match self.size {
            Size::Whole => "",
            Size::Quick => " --quick",
            Size::Smoke => " --smoke",
        };
        let only = match self.only.as_slice() {
            [] => String::new(),
            only => format!(" --only {}", only.join(",")),
        };
        let rounds = self.rounds.map(|rounds| format!(" --rounds {rounds}"));
        let build = match self.program.parent().and_then(Path::file_name) {
            Some(name) if name == "release" => ", release build",
            Some(name) if name == "debug" => ", development build",
            _ => "",
        };
        let rounds = rounds.unwrap_or_default();
        format!("`load-tests compare{size}{only}{rounds}`{build}")
    }
}

/// What rows found in this and earlier runs, by their names; kept beside the page.
type Kept = BTreeMap<String, Found>;

/// What a row found.
#[derive(Debug, Serialize, Deserialize)]
struct Found {
    /// When, by which commit and on which machine.
    how: String,
    /// Rounds by arm.
    arms: Vec<(String, Vec<Figures>)>,
    /// Arms whose program is not there.
    absent: Vec<String>,
    /// What was not measured, or not right.
    wrong: Vec<String>,
}

impl Found {
    fn values(&self, arm: &str, figure: Figure) -> Vec<f64> {
        let rounds = self.arms.iter().find(|(name, _)| name == arm);
        let rounds = rounds
            .map(|(_, rounds)| rounds.as_slice())
            .unwrap_or_default();
        let mut values: Vec<f64> = rounds
            .iter()
            .filter_map(|round| round.get(&figure).copied())
            .collect();
        values.sort_by(f64::total_cmp);
        values
    }

    fn median(&self, arm: &str, figure: Figure) -> Option<f64> {
        let values = self.values(arm, figure);
        let middle = values.len() / 2;
        match values.len() {
            0 => None,
            n if n % 2 == 1 => Some(values[middle]),
            _ => Some(f64::midpoint(values[middle - 1], values[middle])),
        }
    }

    /// The least and the most.
    fn spread(&self, arm: &str, figure: Figure) -> (f64, f64) {
        let values = self.values(arm, figure);
        let least = values.first().copied().unwrap_or_default();
        (least, values.last().copied().unwrap_or_default())
    }
}

/// Plays all rows and writes the page; whether all that was sent arrived and no server failed.
///
/// # Errors
/// When nothing can be measured: the program is missing, a row is unknown.
pub(crate) async fn play(comparison: &Comparison, say: impl Fn(&str)) -> Result<bool> {
    tools::needed(&comparison.program)?;
    let plan = Plan::shipped(comparison.size, &comparison.only)?;
    let tools = Tools::at(comparison.tools.as_deref());
    // A minute is none to build other people's programs in.
    let missing = match comparison.size {
        Size::Smoke => Vec::new(),
        Size::Whole | Size::Quick => tools.install(),
    };
    for what in &missing {
        say(what);
    }
    std::fs::create_dir_all(&comparison.directory)
        .map_err(|e| Failure::file(&comparison.directory, e))?;
    let name = format!("compare-{}", std::process::id());
    let ground = Ground {
        program: comparison.program.clone(),
        directory: fresh(&comparison.directory, &name)?,
        tools,
    };
    let versions = ground.tools.versions();
    let mut wrong = Vec::new();
    for row in plan.rows {
        let machine = Machine::look(&comparison.directory)?;
        let how = page::how(&comparison.command(), &machine, &versions);
        let mut found = Box::pin(one(&row, comparison, &ground)).await?;
        found.how = how;
        say(&page::text(&row, &found));
        let what = found
            .wrong
            .iter()
            .map(|what| format!("{}: {what}", row.name));
        wrong.extend(what);
        // At once, so that a run that is cut loses one row at most.
        publish(&comparison.page, Kept::from([(row.name, found)]))?;
    }
    crate::gateway::remove(&ground.directory)?;
    for what in &wrong {
        say(&format!("- **violation**: {what}"));
    }
    Ok(wrong.is_empty())
}

/// Writes the page and its plots from these rows and from those that earlier runs left.
fn publish(page: &Path, rows: Kept) -> Result<()> {
    let path = page.with_file_name("compare.json");
    let failed = |e: std::io::Error| Failure::file(&path, e);
    let mut kept: Kept = match std::fs::read(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Kept::new(),
        other => serde_json::from_slice(&other.map_err(failed)?).map_err(|e| failed(e.into()))?,
    };
    kept.extend(rows);
    let text = serde_json::to_string_pretty(&kept).map_err(|e| failed(e.into()))?;
    std::fs::write(&path, text + "\n").map_err(failed)?;
    let plan = Plan::shipped(Size::Whole, &[])?;
    let known = plan.rows.iter();
    let rows: Vec<(&Row, &Found)> = known
        .filter_map(|row| Some((row, kept.get(&row.name)?)))
        .collect();
    let plots = draw(page, &rows)?;
    let tables: Vec<String> = rows
        .iter()
        .map(|(row, found)| page::text(row, found))
        .collect();
    let text = format!("{}\n{plots}{}", page::HEAD, tables.join("\n"));
    page::write(page, &text).map_err(|e| Failure::file(page, e))
}

/// One row: servers up, rounds, servers down.
async fn one(row: &Row, comparison: &Comparison, ground: &Ground) -> Result<Found> {
    let mut found = Found {
        how: String::new(),
        arms: row
            .arms
            .iter()
            .map(|arm| (arm.name.clone(), Vec::new()))
            .collect(),
        absent: Vec::new(),
        wrong: Vec::new(),
    };
    let in_garage = |arm: &Arm| arm.garage || arm.server == Server::Aws;
    let garage = match row.arms.iter().any(in_garage) {
        false => None,
        true if ground.tools.lacks(Server::Aws).is_some() => {
            found
                .absent
                .push("all of it, for want of garage or aws".to_owned());
            return Ok(found);
        }
        true => match Garage::start(ground).await {
            Ok(garage) => Some(garage),
            Err(failure) => {
                found.wrong.push(failure.to_string());
                return Ok(found);
            }
        },
    };
    let certificate = match row.work {
        Work::TlsUpload | Work::TlsDownload => Some(Certificate::make(ground)?),
        _ => None,
    };
    let mut peers = Vec::new();
    for (index, arm) in row.arms.iter().enumerate() {
        if let Some(program) = ground.tools.lacks(arm.server) {
            found.absent.push(format!("{} (no {program})", arm.name));
            continue;
        }
        let garage = garage.as_ref().filter(|_| in_garage(arm));
        let name = format!("{}-{index}", row.name);
        let length = arm.length(row);
        let started = Peer::start(arm, &name, ground, garage, certificate.as_ref(), length);
        match Box::pin(started).await {
            Ok(peer) => peers.push((index, peer)),
            Err(failure) => found.wrong.push(format!("{}: {failure}", arm.name)),
        }
    }
    Box::pin(rounds(&mut found, row, &peers, comparison, ground)).await;
    for (index, peer) in peers {
        if let Peer::Boxgate(gateway, _) = peer
            && !gateway.stop().await?
        {
            let name = &row.arms[index].name;
            found.wrong.push(format!(
                "{name}: did not end well within a minute of SIGTERM"
            ));
        }
        crate::gateway::remove(&ground.directory.join(format!("{}-{index}", row.name)))?;
    }
    drop(garage);
    crate::gateway::remove(&ground.directory.join("garage"))?;
    Ok(found)
}

/// All rounds of a row's servers.
async fn rounds(
    found: &mut Found,
    row: &Row,
    peers: &[(usize, Peer)],
    comparison: &Comparison,
    ground: &Ground,
) {
    let block = Block::random();
    let turn = |index: usize, peer, salt| Turn {
        row,
        arm: &row.arms[index],
        peer,
        size: comparison.size,
        directory: &ground.directory,
        salt,
        block: &block,
    };
    for (index, peer) in peers {
        if let Err(failure) = Box::pin(turn(*index, peer, 0).prepare()).await {
            found
                .wrong
                .push(format!("{}: {failure}", row.arms[*index].name));
        }
    }
    let rounds = comparison
        .rounds
        .unwrap_or_else(|| comparison.size.rounds());
    for round in 0..rounds {
        let mut order: Vec<&(usize, Peer)> = peers.iter().collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for (index, peer) in order {
            if row.arms[*index].whole && round > 0 {
                continue;
            }
            let salt = (round * row.arms.len() + index + 1) as u64;
            match Box::pin(turn(*index, peer, salt).play()).await {
                Ok(figures) => found.arms[*index].1.push(figures),
                Err(failure) => found
                    .wrong
                    .push(format!("{}: {failure}", row.arms[*index].name)),
            }
        }
    }
}

/// Writes the plots beside the page; the lines that show them.
fn draw(page: &Path, rows: &[(&Row, &Found)]) -> Result<String> {
    let mut lines = String::new();
    for (file, figure) in [
        ("compare-throughput.svg", Figure::GbPerS),
        ("compare-cpu.svg", Figure::CpuSPerGb),
        ("compare-requests.svg", Figure::RequestsPerCpuS),
    ] {
        let Some(svg) = plot::bars(rows, figure) else {
            continue;
        };
        let directory = page.with_file_name("images");
        let path = directory.join(file);
        let written = std::fs::create_dir_all(&directory).and_then(|()| std::fs::write(&path, svg));
        written.map_err(|e| Failure::file(&path, e))?;
        let _ = write!(lines, "![{}](images/{file})\n\n", figure.label());
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        let plan = Plan::shipped(Size::Smoke, &["download".to_owned()]).unwrap();
        plan.rows[0].clone()
    }

    fn found() -> Found {
        let rounds = |values: &[f64]| {
            let round = |value: &f64| {
                Figures::from([(Figure::GbPerS, *value), (Figure::CpuSPerGb, 1.0 / value)])
            };
            values.iter().map(round).collect::<Vec<_>>()
        };
        Found {
            arms: vec![
                ("boxgate".into(), rounds(&[1.0, 9.0, 2.0])),
                ("nginx sendfile".into(), rounds(&[4.0, 4.0])),
            ],
            how: "Nobody <knows> & nobody tells.".to_owned(),
            absent: Vec::new(),
            wrong: vec!["hyper source: <gone>".into()],
        }
    }

    #[test]
    fn medians_and_shares_are_told_and_what_is_missed_is_said() {
        let text = page::text(&row(), &found());
        assert!(
            text.contains("| boxgate | 2.00 (1.00 to 9.00) | 0.500 (0.111 to 1.00) |"),
            "{text}"
        );
        assert!(
            text.contains(
                "**missed**: GB/s of boxgate as a share of nginx sendfile, at least 0.95: **0.500**"
            ),
            "{text}"
        );
        assert!(text.contains("**missed**: CPU s/GB"), "{text}");
        assert!(
            text.contains("- **not measured**: hyper source: <gone>"),
            "{text}"
        );
    }

    #[test]
    fn a_plot_has_a_bar_for_each_arm_that_was_measured() {
        let (row, found) = (row(), found());
        let rows = [(&row, &found)];
        let svg = plot::bars(&rows, Figure::GbPerS).unwrap();
        assert_eq!(svg.matches("<rect x=").count(), 2);
        assert!(
            svg.contains("width=\"200.0\"") && svg.contains("width=\"400.0\""),
            "{svg}"
        );
        assert!(svg.contains("Nobody &lt;knows&gt; &amp; nobody tells."));
        assert!(plot::bars(&rows, Figure::RequestsPerS).is_none());
    }

    #[test]
    fn rows_of_an_earlier_run_stay_until_they_are_measured_again() {
        let directory = std::env::temp_dir().join(format!("compare-kept-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let page = directory.join("page.md");
        let kept = |name: &str| Kept::from([(name.to_owned(), found())]);
        publish(&page, kept("download")).unwrap();
        publish(&page, kept("metadata")).unwrap();
        let mut other = kept("metadata");
        for found in other.values_mut() {
            "Again.".clone_into(&mut found.how);
        }
        publish(&page, other).unwrap();
        let text = std::fs::read_to_string(&page).unwrap();
        assert_eq!(text.matches("#### ").count(), 2, "{text}");
        assert_eq!(
            (
                text.matches("Again.").count(),
                text.matches("<knows>").count()
            ),
            (1, 1)
        );
        assert!(directory.join("images/compare-cpu.svg").exists());
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
