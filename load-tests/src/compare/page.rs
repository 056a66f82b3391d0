//! What was found, for people: a table for each row, what was aimed at, and how it was measured.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use super::Found;
use super::plan::{Figure, Row, Target};
use crate::machine::Machine;

const BEGIN: &str = "<!-- compare begin -->";
const END: &str = "<!-- compare end -->";
/// What is true of all tables.
pub(super) const HEAD: &str = "Medians of rounds in which all arms of a table took turns, with the least and the most. CPU and memory are those of \
    the server's processes; servers and clients share the machine. All bytes were compared with what was sent. The plots show \
    shares of the longest bar of each row.\n";

/// All figures that any arm has, in the order of columns.
fn columns(found: &Found) -> Vec<Figure> {
    let mut columns: Vec<Figure> = found
        .arms
        .iter()
        .flat_map(|(_, rounds)| rounds.iter().flat_map(|round| round.keys().copied()))
        .collect();
    columns.sort_unstable();
    columns.dedup();
    columns
}

/// One row's table, targets and what was wrong.
pub(super) fn text(row: &Row, found: &Found) -> String {
    let columns = columns(found);
    let mut text = format!("#### {}\n\n", capital(&row.title));
    if let Some(note) = &row.note {
        let _ = writeln!(text, "{note}\n");
    }
    let head = columns
        .iter()
        .map(|figure| format!(" {} |", figure.label()));
    let _ = writeln!(text, "| server |{}", head.collect::<String>());
    let _ = writeln!(text, "|---|{}", "---|".repeat(columns.len()));
    for (name, rounds) in &found.arms {
        if rounds.is_empty() {
            continue;
        }
        let cells = columns.iter().map(|figure| {
            let cell = found.median(name, *figure).map(|value| {
                let (least, most) = found.spread(name, *figure);
                if rounds.len() == 1 {
                    number(value)
                } else {
                    format!("{} ({} to {})", number(value), number(least), number(most))
                }
            });
            format!(" {} |", cell.unwrap_or_default())
        });
        let _ = writeln!(text, "| {name} |{}", cells.collect::<String>());
    }
    text.push('\n');
    if let Some(why) = &found.unjudged {
        let _ = writeln!(text, "- nothing is judged: {why}");
    } else {
        for target in &row.targets {
            let _ = writeln!(text, "- {}", verdict(found, target));
        }
    }
    for absent in &found.absent {
        let _ = writeln!(text, "- not there: {absent}");
    }
    for wrong in &found.wrong {
        let _ = writeln!(text, "- **not measured**: {wrong}");
    }
    let _ = writeln!(text, "\n{}", found.how);
    text
}

/// Whether a target was reached.
pub(super) fn verdict(found: &Found, target: &Target) -> String {
    let share = target.of.as_ref().map(|of| format!(" as a share of {of}"));
    let mut what = format!(
        "{} of {}{}",
        target.figure.label(),
        target.arm,
        share.unwrap_or_default()
    );
    let mut value = found.median(&target.arm, target.figure);
    if let Some(of) = &target.of {
        value = value
            .zip(found.median(of, target.figure))
            .map(|(a, b)| a / b);
    }
    for (word, limit) in [("at most", target.at_most), ("at least", target.at_least)] {
        if let Some(limit) = limit {
            let _ = write!(what, ", {word} {limit}");
        }
    }
    // What took less than a tick of the kernel's clock has no share.
    let Some(value) = value.filter(|value| value.is_finite()) else {
        return format!("not measured: {what}");
    };
    let held = target.at_most.is_none_or(|limit| value <= limit)
        && target.at_least.is_none_or(|limit| value >= limit);
    let word = match (target.at_most, target.at_least) {
        (None, None) => "told",
        _ if held => "reached",
        _ => "**missed**",
    };
    format!("{word}: {what}: **{}**", number(value))
}

/// When and how a row was measured.
pub(super) fn how(command: &str, machine: &Machine, versions: &str) -> String {
    let date = jiff::Zoned::now().strftime("%Y-%m-%d").to_string();
    format!(
        "{command}, {date}, commit {}, {}, load before {}. {versions}.",
        machine.commit, machine.line, machine.load
    )
}

/// What a reader must know where boxgate was not started by who measured it.
pub(super) fn elsewhere(version: Option<&str>) -> String {
    let version = version.map(|version| format!(" of version {version}"));
    format!(
        " Here boxgate was a deployed gateway{}, and all others and the clients ran on the machine that is named: shares tell \
         about both machines and the line between them. Its CPU and memory are what it tells of itself (memory as it was seen \
         twice a second), with all that others had it do meanwhile, and it was read with a credential. What titles and notes say \
         of disks, caches and settings is about the others.",
        version.unwrap_or_default()
    )
}

/// Three digits, or all of a large number.
pub(super) fn number(value: f64) -> String {
    if value >= 1000.0 {
        let digits = format!("{value:.0}");
        let mut grouped = String::new();
        for (at, digit) in digits.chars().enumerate() {
            if at > 0 && (digits.len() - at).is_multiple_of(3) {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        return grouped;
    }
    match value {
        _ if value >= 100.0 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ if value >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string());
    first.unwrap_or_default() + letters.as_str()
}

/// Puts the text between the marks, in the place of what was there; a page that is not there is made.
pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    let page = match std::fs::read_to_string(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => format!("{BEGIN}\n{END}\n"),
        other => other?,
    };
    let split = page.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, behind) = rest.split_once(END)?;
        Some((before, behind))
    });
    let (before, behind) = split
        .ok_or_else(|| io::Error::other(format!("there is no {BEGIN} with {END} behind it")))?;
    std::fs::write(
        path,
        format!("{before}{BEGIN}\n\n{}\n\n{END}{behind}", text.trim()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_between_the_marks_is_replaced_and_nothing_else() {
        let directory = std::env::temp_dir().join(format!("compare-page-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("page.md");
        write(&path, "one").unwrap();
        let page = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("before\n{page}after\n")).unwrap();
        write(&path, "two\n").unwrap();
        let page = std::fs::read_to_string(&path).unwrap();
        assert_eq!(page, format!("before\n{BEGIN}\n\ntwo\n\n{END}\nafter\n"));
        std::fs::write(&path, "no marks").unwrap();
        assert!(write(&path, "three").is_err());
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn numbers_have_three_digits_or_all_of_them() {
        for (value, text) in [
            (0.1234, "0.123"),
            (1.0, "1.00"),
            (12.34, "12.3"),
            (1_234_567.0, "1,234,567"),
            (123.4, "123"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
