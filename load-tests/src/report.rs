//! The table for people, and the record of results.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use crate::arms::Arm;
use crate::invariants::{Verdict, mib};
use crate::machine::Machine;
use crate::play::{Outcome, Played};
use crate::scenario::{Figure, Scenario};

/// Results are put behind this line, newest first.
const BEGIN: &str = "<!-- results begin -->";
/// And before this one.
const END: &str = "<!-- results end -->";

/// Everything that was found, in Markdown.
pub(crate) fn text(
    scenario: &Scenario,
    outcome: &Outcome,
    verdicts: &[Verdict],
    arms: &[Arm],
) -> String {
    let mut text = String::from(
        "| step | GB/s (each round) | CPU s/GB (user + system) | peak RSS MiB (anonymous) | p50 / p99 ms |\n\
         |---|---|---|---|---|\n",
    );
    for step in &outcome.steps {
        text += &row(step);
    }
    if !arms.is_empty() {
        let group = scenario.arms.as_deref().unwrap_or_default();
        let _infallible = write!(text, "\n| arm of bench `{group}` | CPU s/GB |\n|---|---|\n");
        for arm in arms {
            let _infallible = writeln!(text, "| {} | {:.3} |", arm.name, arm.s_per_gb);
        }
    }
    text.push('\n');
    for verdict in verdicts {
        let word = match (verdict.held, verdict.binding) {
            (true, _) => "held",
            (false, true) => "**broken**",
            (false, false) => "**missed**",
        };
        let _infallible = writeln!(text, "- {word}: {}", verdict.text);
    }
    text
}

fn row(step: &Played) -> String {
    let rounds: Vec<String> = step
        .rounds
        .iter()
        .map(|round| format!("{:.2}", step.gb() / round.wall.as_secs_f64()))
        .collect();
    let throughput = step.figure(Figure::GbPerS).unwrap_or_default();
    let user = step.median(|round| Some(round.cpu?.user_s / step.gb()));
    let system = step.median(|round| Some(round.cpu?.system_s / step.gb()));
    let cpu = match (step.figure(Figure::CpuSPerGb), user, system) {
        (Some(all), Some(user), Some(system)) => format!("{all:.2} ({user:.2} + {system:.2})"),
        _ => String::new(),
    };
    let anonymous = step
        .rounds
        .iter()
        .filter_map(|r| Some(r.memory?.anonymous_bytes))
        .max();
    let memory = match (step.figure(Figure::PeakRssMib), anonymous) {
        (Some(peak), Some(anonymous)) => format!("{peak:.1} ({:.1})", mib(anonymous)),
        _ => String::new(),
    };
    let latency = match step.figure(Figure::P99Ms) {
        Some(p99) => format!("{:.0} / {p99:.0}", step.latency.percentile_ms(50.0)),
        None => String::new(),
    };
    format!(
        "| {} | {throughput:.2} ({}) | {cpu} | {memory} | {latency} |\n",
        step.name,
        rounds.join(" ")
    )
}

/// The text with what it belongs to.
pub(crate) fn entry(scenario: &Scenario, machine: &Machine, command: &str, text: &str) -> String {
    let date = jiff::Zoned::now().strftime("%Y-%m-%d").to_string();
    format!(
        "### {date} {}: {}\n\n`{command}`, commit {}, {}, load before {}\n\n{text}\n",
        scenario.name, scenario.question, machine.commit, machine.line, machine.load
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
    use super::*;

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
}
