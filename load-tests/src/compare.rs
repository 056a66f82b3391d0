//! boxgate beside others, on one machine, in turns: `load-tests compare`.
//!
//! What is compared stands in `compare.toml`. All servers of a row are started together in directories of their own,
//! measured round by round in changing order, and what arrived is compared in the same run. The page of results is
//! written between its marks, with plots beside it.

mod files;
mod load;
mod make;
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
use crate::deployed::Deployed;
use crate::error::{Failure, Result};
use crate::machine::Machine;

/// What is compared, and where the page is.
#[derive(Debug)]
pub(crate) struct Comparison {
    /// The program under test.
    pub(crate) program: PathBuf,
    /// On the file system that is measured.
    pub(crate) directory: PathBuf,
    /// The page of results, where one is written.
    pub(crate) page: Option<PathBuf>,
    /// How much of it.
    pub(crate) size: Size,
    /// Instead of the size's own.
    pub(crate) rounds: Option<u32>,
    /// Rows whose names begin so; all without one.
    pub(crate) only: Vec<String>,
    /// Where programs of others are kept.
    pub(crate) tools: Option<PathBuf>,
    /// What boxgate is, instead of the program.
    pub(crate) deployed: Option<Deployed>,
    /// Tells a person what was found, and what takes long.
    pub(crate) say: fn(&str),
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
            _ if self.deployed.is_some() => "",
            Some(name) if name == "release" => ", release build",
            Some(name) if name == "debug" => ", development build",
            _ => "",
        };
        let rounds = rounds.unwrap_or_default();
        let elsewhere = self
            .deployed
            .as_ref()
            .map(|_| " --url URL --organization ORG");
        let elsewhere = elsewhere.unwrap_or_default();
        format!("`load-tests compare{size}{only}{rounds}{elsewhere}`{build}")
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
    /// Why no target is held against it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unjudged: Option<String>,
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
pub(crate) async fn play(comparison: &Comparison) -> Result<bool> {
    let say = comparison.say;
    if comparison.deployed.is_none() {
        tools::needed(&comparison.program)?;
    }
    let plan = Plan::shipped(comparison.size, &comparison.only)?;
    if let Some(page) = &comparison.page {
        // As it is: a page that cannot be written is known before anything is measured.
        publish(page, Kept::new())?;
    }
    let tools = Tools::at(comparison.tools.as_deref());
    // A minute is none to build other people's programs in.
    let missing = match comparison.size {
        Size::Smoke => Vec::new(),
        Size::Whole | Size::Quick => tools.install(&plan.servers()),
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
        deployed: comparison.deployed.clone(),
    };
    let versions = ground.tools.versions();
    let elsewhere = match &comparison.deployed {
        Some(deployed) => Some(page::elsewhere(deployed.version().await.as_deref())),
        None => None,
    };
    let mut wrong = Vec::new();
    for row in plan.rows {
        let machine = Machine::look(&comparison.directory)?;
        let how = page::how(&comparison.command(), &machine, &versions);
        let mut found = Box::pin(one(&row, comparison, &ground)).await?;
        found.how = how;
        if let (Some(deployed), Some(elsewhere)) = (&comparison.deployed, &elsewhere) {
            found.how.push_str(elsewhere);
            found.wrong.extend(deployed.leave().await);
        }
        say(&page::text(&row, &found));
        let what = found
            .wrong
            .iter()
            .map(|what| format!("{}: {what}", row.name));
        wrong.extend(what);
        // At once, so that a run that is cut loses one row at most.
        if let Some(page) = &comparison.page {
            publish(page, Kept::from([(row.name, found)]))?;
        }
    }
    crate::gateway::remove(&ground.directory)?;
    for what in &wrong {
        say(&format!("- **violation**: {what}"));
    }
    Ok(wrong.is_empty())
}

/// Writes the page and its plots from these rows and from those that earlier runs left.
fn publish(page: &Path, rows: Kept) -> Result<()> {
    let path = page.with_extension("compare.json");
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
        unjudged: unjudged(row, ground.is_over_tls()),
    };
    let playable = reached(row, ground, &mut found).await;
    let Some(row) = playable.as_ref() else {
        return Ok(found);
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
    let takes = matches!(row.work, Work::Upload | Work::Tus | Work::TlsUpload);
    let deployed = ground.deployed.as_ref();
    if takes && deployed.is_some_and(Deployed::defers) {
        let what =
            "SHA-256 in what the deployed gateway does for an upload: it computes that afterwards";
        found.absent.push(what.to_owned());
    }
    if let Some(why) = deployed.and_then(Deployed::saw_several) {
        let what = format!("CPU and memory of the deployed gateway in some rounds: {why}");
        found.absent.push(what);
    }
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

/// Why no target of a row is held against what is found.
fn unjudged(row: &Row, over_tls: bool) -> Option<String> {
    let mut why = Vec::new();
    if !row.smaller.is_empty() {
        let smaller = row.smaller.join(", ");
        why.push(format!(
            "a minute's run judges nothing, and plays less than the names say ({smaller})"
        ));
    }
    let is_plain = !matches!(row.work, Work::TlsUpload | Work::TlsDownload);
    let others = row.arms.iter().any(|arm| arm.server != Server::Boxgate);
    if is_plain && others && over_tls {
        why.push("boxgate was spoken to over TLS, and the others in plain HTTP".to_owned());
    }
    (!why.is_empty()).then(|| why.join("; "))
}

/// The row with the arms that can be played. Where boxgate is elsewhere, those are left out that it cannot be told to
/// be; `None` where none is left of it.
async fn reached(row: &Row, ground: &Ground, found: &mut Found) -> Option<Row> {
    let mut row = row.clone();
    let Some(deployed) = &ground.deployed else {
        return Some(row);
    };
    row.arms.retain(|arm| {
        let why = cannot_be(arm, row.work, deployed.server.is_tls());
        let why = why.map(|why| format!("{} ({why})", arm.name));
        let stays = why.is_none();
        found.absent.extend(why);
        stays
    });
    found
        .arms
        .retain(|(name, _)| row.arms.iter().any(|arm| arm.name == *name));
    if !row.arms.iter().any(|arm| arm.server == Server::Boxgate) {
        found.arms.clear();
        found
            .absent
            .push("all others, for nothing of boxgate is left to stand beside them".to_owned());
        return None;
    }
    if let Err(failure) = deployed.spent().await {
        let what =
            format!("CPU and memory of the deployed gateway, which it does not tell ({failure})");
        found.absent.push(what);
        // It is said.
        let _said = deployed.saw_several();
    }
    Some(row)
}

/// Why an arm cannot be played at a gateway that somebody else started.
fn cannot_be(arm: &Arm, work: Work, is_tls: bool) -> Option<String> {
    if arm.server != Server::Boxgate {
        return None;
    }
    if arm.garage {
        return Some(
            "a deployed gateway keeps boxes where it was told to, not in this Garage".to_owned(),
        );
    }
    if !arm.settings.is_empty() {
        let settings = arm.settings.iter();
        let settings = settings.map(|(key, value)| format!("{key} = {value}"));
        let settings = settings.collect::<Vec<_>>().join(", ");
        return Some(format!(
            "a deployed gateway is not given settings: {settings}"
        ));
    }
    match work {
        Work::Lookups => {
            Some("a deployed gateway has one catalog, with the boxes that are in it".to_owned())
        }
        Work::TlsUpload | Work::TlsDownload if !is_tls => {
            Some("the deployed gateway was named by http://".to_owned())
        }
        _ => None,
    }
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
        say: comparison.say,
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
        .and_then(|rounds| usize::try_from(rounds).ok())
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
    let stem = page.file_stem().unwrap_or_default().to_string_lossy();
    for (what, figure) in [
        ("throughput", Figure::GbPerS),
        ("cpu", Figure::CpuSPerGb),
        ("requests", Figure::RequestsPerCpuS),
    ] {
        let Some(svg) = plot::bars(rows, figure) else {
            continue;
        };
        let directory = page.with_file_name("images");
        let file = format!("{stem}-{what}.svg");
        let path = directory.join(&file);
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
        sized("download", Size::Quick)
    }

    fn sized(name: &str, size: Size) -> Row {
        let plan = Plan::shipped(size, &[name.to_owned()]).unwrap();
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
            unjudged: None,
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
        assert!(directory.join("images/page-cpu.svg").exists());
        // Another page beside it has rows of its own.
        let other = directory.join("other.md");
        publish(&other, Kept::new()).unwrap();
        let text = std::fs::read_to_string(&other).unwrap();
        assert!(!text.contains("#### "), "{text}");
        assert!(
            std::fs::read_to_string(&page)
                .unwrap()
                .contains("images/page-cpu.svg")
        );
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_minute_judges_nothing_and_says_how_much_less_it_played() {
        let row = sized("growth-count", Size::Smoke);
        let mut found = Found {
            unjudged: unjudged(&row, false),
            ..found()
        };
        let text = page::text(&row, &found);
        for wrong in ["reached:", "missed", "not measured: CPU"] {
            assert!(!text.contains(wrong), "{text}");
        }
        assert!(
            text.contains("- nothing is judged: a minute's run")
                && text.contains("500 at once with 8 files at once of 500"),
            "{text}"
        );
        found.unjudged = unjudged(&sized("growth-count", Size::Quick), false);
        assert_eq!(found.unjudged, None);
        assert!(page::text(&row, &found).contains("CPU s/GB of 50 at once"));
    }

    #[test]
    fn boxgate_over_tls_is_not_judged_beside_others_in_plain_http() {
        let why = |name, over_tls| unjudged(&sized(name, Size::Whole), over_tls);
        let said = why("upload-both", true).unwrap_or_default();
        assert!(said.contains("over TLS"), "{said}");
        assert_eq!(why("upload-both", false), None);
        // TLS on both sides, and boxgate beside itself.
        for same in ["tls-upload", "uploads-at-once"] {
            assert_eq!(why(same, true), None, "{same}");
        }
    }

    #[test]
    fn what_a_deployed_gateway_cannot_be_told_to_be_is_left_out_by_name_and_reason() {
        let plan = Plan::shipped(Size::Whole, &[]).unwrap();
        let reason = |row: &str, arm: &str, is_tls| {
            let row = plan.rows.iter().find(|known| known.name == row).unwrap();
            let arm = row.arms.iter().find(|known| known.name == arm).unwrap();
            cannot_be(arm, row.work, is_tls).unwrap_or_default()
        };
        for (row, arm, is_tls, why) in [
            ("upload-both", "boxgate", false, ""),
            ("upload-both", "loop, both", false, ""),
            (
                "upload-blake3",
                "boxgate",
                false,
                "digests.rate = 1MiB, digests.sha256 = deferred",
            ),
            ("upload-garage", "boxgate", true, "not in this Garage"),
            ("growth-boxes", "10,000 boxes", true, "one catalog"),
            ("tls-upload", "boxgate", false, "http://"),
            ("tls-upload", "boxgate", true, ""),
            ("tls-upload", "nginx", false, ""),
        ] {
            let found = reason(row, arm, is_tls);
            assert_eq!(found.is_empty(), why.is_empty(), "{row}: {arm}: {found}");
            assert!(found.contains(why), "{row}: {arm}: {found}");
        }
    }

    #[test]
    fn a_page_tells_that_the_gateway_was_elsewhere_and_not_where() {
        let told = page::elsewhere(Some("0.1.0"));
        assert!(
            told.contains("a deployed gateway of version 0.1.0"),
            "{told}"
        );
        assert!(
            told.contains("both machines and the line between them"),
            "{told}"
        );
        assert!(page::elsewhere(None).contains("a deployed gateway,"));
    }
}
