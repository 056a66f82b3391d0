//! The table for people, and the record of results.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use crate::arms::Arm;
use crate::invariants::{Ruling, Verdict, mib};
use crate::machine::Machine;
use crate::play::{Outcome, Played};
use crate::scenario::Figure;

/// Results are put behind this line, newest first.
const BEGIN: &str = "<!-- results begin -->";
/// And before this one.
const END: &str = "<!-- results end -->";

/// Everything that was found, in Markdown.
pub(crate) fn text(outcome: &Outcome, verdicts: &[Verdict], arms: &[Arm]) -> String {
    let mut text = String::from(
        "| step | GB/s (each round) | CPU s/GB (user + system) | peak RSS MiB (anonymous) | p50 / p99 ms |\n\
         |---|---|---|---|---|\n",
    );
    for step in &outcome.steps {
        text += &row(step, outcome.is_elsewhere);
    }
    if !arms.is_empty() {
        text.push('\n');
        text += &table(arms);
    }
    text.push('\n');
    text + &judged(verdicts)
}

/// Names and figures, and what held.
pub(crate) fn rows(rows: &[(String, String)], verdicts: &[Verdict]) -> String {
    let rows = rows
        .iter()
        .map(|(name, figure)| format!("| {name} | {figure} |\n"));
    format!(
        "| what | found |\n|---|---|\n{}\n{}",
        rows.collect::<String>(),
        judged(verdicts)
    )
}

fn judged(verdicts: &[Verdict]) -> String {
    let mut text = String::new();
    for verdict in verdicts {
        let word = match verdict.ruling {
            Ruling::Held => "held",
            Ruling::Broken => "**broken**",
            Ruling::Missed => "**missed**",
            Ruling::Told => "told",
            Ruling::NotJudged => "not judged",
        };
        let _infallible = writeln!(text, "- {word}: {}", verdict.text);
    }
    text
}

/// Arms of benches.
pub(crate) fn table(arms: &[Arm]) -> String {
    let rows = arms
        .iter()
        .map(|arm| format!("| {}: {} | {} |\n", arm.group, arm.name, arm.figure()));
    format!(
        "| arm of a bench | median |\n|---|---|\n{}",
        rows.collect::<String>()
    )
}

/// A gateway elsewhere tells of its CPU and memory in one figure each.
fn row(step: &Played, is_elsewhere: bool) -> String {
    if step.failed() > 0 {
        return format!(
            "| {} | {} transfers failed | | | |\n",
            step.name,
            step.failed()
        );
    }
    let rounds: Vec<String> = step
        .rounds
        .iter()
        .map(|round| format!("{:.2}", step.gb() / round.wall.as_secs_f64()))
        .collect();
    let throughput = match step.figure(Figure::GbPerS) {
        Some(throughput) => format!("{throughput:.2} ({})", rounds.join(" ")),
        None => String::new(),
    };
    let user = step.median(|round| Some(round.cpu?.user_s / step.gb()));
    let system = step.median(|round| Some(round.cpu?.system_s / step.gb()));
    let cpu = match (step.figure(Figure::CpuSPerGb), user, system) {
        (Some(all), _, _) if is_elsewhere => format!("{all:.2}"),
        (Some(all), Some(user), Some(system)) => format!("{all:.2} ({user:.2} + {system:.2})"),
        _ => String::new(),
    };
    let anonymous = step
        .rounds
        .iter()
        .filter_map(|r| Some(r.memory?.anonymous_bytes))
        .max();
    let memory = match (step.figure(Figure::PeakRssMib), anonymous) {
        (Some(peak), _) if is_elsewhere => format!("{peak:.1}"),
        (Some(peak), Some(anonymous)) => format!("{peak:.1} ({:.1})", mib(anonymous)),
        _ => String::new(),
    };
    let latency = match step.figure(Figure::P99Ms) {
        Some(p99) => format!("{:.0} / {p99:.0}", step.latency.percentile_ms(50.0)),
        None => String::new(),
    };
    format!(
        "| {} | {throughput} | {cpu} | {memory} | {latency} |\n",
        step.name
    )
}

/// The text with what it belongs to.
pub(crate) fn entry(title: &str, machine: &Machine, command: &str, text: &str) -> String {
    let date = jiff::Zoned::now().strftime("%Y-%m-%d").to_string();
    format!(
        "### {date} {title}\n\n`{command}`, commit {}, {}, load before {}\n\n{text}\n",
        machine.commit, machine.line, machine.load
    )
}

/// Puts an entry before all others.
pub(crate) fn record(path: &Path, entry: &str) -> io::Result<()> {
    let text = std::fs::read_to_string(path)?;
    std::fs::write(path, recorded(&text, entry)?)
}

fn recorded(text: &str, entry: &str) -> io::Result<String> {
    match text.split_once(BEGIN) {
        Some((before, behind)) if behind.contains(END) => {
            Ok(format!("{before}{BEGIN}\n\n{}\n{}", entry.trim(), behind))
        }
        _ => Err(io::Error::other(format!(
            "there is no {BEGIN} with {END} behind it"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::latency::Latency;
    use crate::play::Round;
    use crate::process::{Cpu, Memory};

    #[test]
    fn the_newest_entry_comes_first_and_the_rest_stays() {
        let empty = format!("# Head\n\n{BEGIN}\n{END}\ntail\n");
        let one = recorded(&empty, "### one\n").unwrap();
        let two = recorded(&one, "### two\n").unwrap();
        assert_eq!(
            two,
            format!("# Head\n\n{BEGIN}\n\n### two\n\n\n### one\n\n{END}\ntail\n")
        );
        assert!(recorded("no markers", "x").is_err());
    }

    #[test]
    fn a_row_tells_only_what_is_known() {
        let mut step = Played {
            name: "a".into(),
            size: "1 x 1 GB".into(),
            bytes: 1_000_000_000,
            rounds: vec![Round {
                wall: Duration::from_secs(2),
                cpu: Some(Cpu {
                    user_s: 1.0,
                    system_s: 0.0,
                }),
                memory: Some(Memory {
                    peak_bytes: 5 << 20,
                    anonymous_bytes: 0,
                }),
                failed: 0,
            }],
            latency: Latency::default(),
        };
        assert_eq!(
            row(&step, false),
            "| a | 0.50 (0.50) | 1.00 (1.00 + 0.00) | 5.0 (0.0) |  |\n"
        );
        assert_eq!(row(&step, true), "| a | 0.50 (0.50) | 1.00 | 5.0 |  |\n");
        step.rounds[0].failed = 2;
        assert_eq!(row(&step, true), "| a | 2 transfers failed | | | |\n");
    }
}
