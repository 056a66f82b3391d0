//! One scenario played by several gateways in turns: two builds, or one build with several settings.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::apply::Apply;
use crate::error::{Failure, Result};
use crate::gateway;
use crate::play::{self, Options, Outcome};
use crate::scenario::{Figure, Scenario};

/// What is told of each step.
const FIGURES: [Figure; 4] = [
    Figure::GbPerS,
    Figure::CpuSPerGb,
    Figure::PeakRssMib,
    Figure::P99Ms,
];

/// A gateway among several.
#[derive(Debug, Clone)]
pub(crate) struct Variant {
    /// Names it in the table.
    pub(crate) name: String,
    /// Keys of the configuration, beside the scenario's own.
    pub(crate) settings: BTreeMap<String, String>,
    /// These as lines of a configuration.
    pub(crate) lines: String,
    /// The program, and where it works.
    pub(crate) options: Options,
}

/// Plays all rounds, each variant in each of them, the first one first in every second round. A gateway elsewhere is
/// told by `apply` before each turn.
///
/// # Errors
/// When there is no result.
pub(crate) async fn in_turns(
    scenario: &Scenario,
    variants: &[Variant],
    mut apply: Option<&mut Apply>,
) -> Result<Vec<Outcome>> {
    let mut outcomes: Vec<Option<Outcome>> = variants.iter().map(|_| None).collect();
    for round in 0..scenario.rounds {
        let mut order: Vec<usize> = (0..variants.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let variant = &variants[index];
            let mut once = scenario.clone();
            once.rounds = 1;
            once.gateway.extend(variant.settings.clone());
            if let (Some(apply), Some(deployed)) = (&mut apply, &variant.options.deployed) {
                apply.apply(variant, deployed).await?;
            }
            let played = Box::pin(play::play(&once, &variant.options)).await?;
            match &mut outcomes[index] {
                Some(outcome) => outcome.add(played),
                empty => *empty = Some(played),
            }
        }
    }
    Ok(outcomes.into_iter().flatten().collect())
}

/// Each step of two builds and the share of one in the other.
pub(crate) fn beside(names: [&str; 2], outcomes: &[Outcome]) -> String {
    let mut text = format!(
        "| step | what | {} | {} | share |\n|---|---|---|---|---|\n",
        names[0], names[1]
    );
    let [ours, theirs] = outcomes else {
        return text;
    };
    for (our, their) in ours.steps.iter().zip(&theirs.steps) {
        for figure in FIGURES {
            if let Some((a, b)) = our.figure(figure).zip(their.figure(figure)) {
                let (step, label) = (&our.name, figure.label());
                let _ = writeln!(
                    text,
                    "| {step} | {label} | {a:.3} | {b:.3} | {:.3} |",
                    a / b
                );
            }
        }
    }
    text + &wrong(names.iter().copied().zip(outcomes))
}

/// Each step of each combination, and the lines of the fastest.
pub(crate) fn table(variants: &[Variant], outcomes: &[Outcome]) -> String {
    let head = FIGURES
        .map(|figure| format!(" {} |", figure.label()))
        .concat();
    let mut text = format!(
        "| settings | step |{head}\n|---|---|{}\n",
        "---|".repeat(FIGURES.len())
    );
    for (variant, outcome) in variants.iter().zip(outcomes) {
        for step in &outcome.steps {
            let cells = FIGURES.map(|figure| match step.figure(figure) {
                Some(value) => format!(" {value:.3} |"),
                None => " |".to_owned(),
            });
            let _ = writeln!(
                text,
                "| {} | {} |{}",
                variant.name,
                step.name,
                cells.concat()
            );
        }
    }
    let names = variants.iter().map(|variant| variant.name.as_str());
    text += &wrong(names.zip(outcomes));
    let best = |figure: Figure, most: bool| {
        let each = variants
            .iter()
            .zip(outcomes)
            .filter_map(|(variant, outcome)| Some((variant, outcome.mean(figure)?)));
        each.max_by(|(_, a), (_, b)| if most { a.total_cmp(b) } else { b.total_cmp(a) })
    };
    if let Some((variant, _)) = best(Figure::CpuSPerGb, false) {
        let _ = writeln!(text, "\nLeast CPU: {}.", variant.name);
    }
    if let Some((variant, _)) = best(Figure::GbPerS, true) {
        let _ = writeln!(
            text,
            "Fastest, over all steps:\n\n```toml\n{}```",
            variant.lines
        );
    }
    text
}

fn wrong<'a>(outcomes: impl Iterator<Item = (&'a str, &'a Outcome)>) -> String {
    let each = outcomes.flat_map(|(name, outcome)| {
        outcome
            .wrong
            .iter()
            .map(move |what| format!("- **broken**: {name}: {what}\n"))
    });
    each.collect()
}

/// `KEY=A,B,C` each: all combinations.
///
/// # Errors
/// When one is not of that form.
pub(crate) fn combinations(sets: &[String], options: &Options) -> Result<Vec<Variant>> {
    let mut all = vec![BTreeMap::new()];
    for set in sets {
        let (key, values) = set
            .split_once('=')
            .filter(|(key, values)| !key.is_empty() && !values.is_empty())
            .ok_or_else(|| Failure::said(format!("--set {set:?} is not KEY=VALUE,VALUE")))?;
        all = all
            .iter()
            .flat_map(|settings: &BTreeMap<String, String>| {
                values.split(',').map(|value| {
                    let mut settings = settings.clone();
                    settings.insert(key.to_owned(), value.to_owned());
                    settings
                })
            })
            .collect();
    }
    let variants = all.into_iter().map(|settings| Variant {
        name: settings
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect::<Vec<_>>()
            .join(" "),
        settings,
        lines: String::new(),
        options: options.clone(),
    });
    Ok(variants.collect())
}

/// As a configuration has them, each in the form of its value that is given.
fn toml_lines(settings: &BTreeMap<String, String>, value: impl Fn(&str, &str) -> String) -> String {
    let mut text = String::new();
    let mut section = "";
    for (key, given) in settings {
        let (of, name) = key.rsplit_once('.').unwrap_or(("", key));
        if of != section {
            let _ = writeln!(text, "[{of}]");
            section = of;
        }
        let _ = writeln!(text, "{name} = {}", value(key, given));
    }
    text
}

/// The lines of a configuration, after the program took each: a variable that it does not know it passes over, and a
/// sweep over nothing would have a winner, too. Without a program here, for a gateway elsewhere, nobody looks at them.
///
/// # Errors
/// What the program says of a key or its value.
pub(crate) fn lines(settings: &BTreeMap<String, String>, options: &Options) -> Result<String> {
    if options.deployed.is_some() && !options.gateway.exists() {
        return Ok(toml_lines(settings, |_, given| form(given)));
    }
    let mut values = BTreeMap::new();
    for (key, given) in settings {
        let alone = BTreeMap::from([(key.clone(), given.clone())]);
        let mut said = String::new();
        // Numbers, truths and lists stand for themselves; all else is text.
        let forms = [given.clone(), format!("{given:?}")];
        let taken = forms.into_iter().find(|form| {
            said = against(&toml_lines(&alone, |_, _| form.clone()), options);
            said.is_empty()
        });
        let taken = taken.ok_or_else(|| Failure::said(said.trim()))?;
        values.insert(key.clone(), taken);
    }
    Ok(toml_lines(settings, |key, _| values[key].clone()))
}

/// A value as it stands where it is a number, a truth or a list; all else is text.
fn form(given: &str) -> String {
    let value = toml::from_str::<toml::Table>(&format!("value = {given}"));
    let is_plain = value.is_ok_and(|table| {
        let value = table.get("value");
        value.is_some_and(|value| !value.is_datetime()) && table.len() == 1
    });
    if is_plain {
        given.to_owned()
    } else {
        format!("{given:?}")
    }
}

/// What the program says against a configuration; nothing where it takes it.
fn against(text: &str, options: &Options) -> String {
    let file = options.directory.join("sweep.toml");
    let written = std::fs::create_dir_all(&options.directory);
    if let Err(e) = written.and_then(|()| std::fs::write(&file, text)) {
        return e.to_string();
    }
    let mut command = Command::new(&options.gateway);
    command.args(["config", "check", "--config"]).arg(&file);
    match command.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => String::new(),
        Ok(output) => format!(
            "{}{}",
            String::from_utf8_lossy(&output.stderr),
            output.status
        ),
        Err(e) => e.to_string(),
    }
}

/// Builds another state of the tree beside this one, as `program` was built; its program.
///
/// # Errors
/// When git does not know it or it does not build.
pub(crate) fn build(reference: &str, program: &Path, directory: &Path) -> Result<PathBuf> {
    let directory = std::path::absolute(directory).map_err(|e| Failure::file(directory, e))?;
    let tree = directory.join("against-tree");
    let target = directory.join("against-target");
    std::fs::create_dir_all(&directory).map_err(|e| Failure::file(&directory, e))?;
    gateway::remove(&tree)?;
    run(Command::new("git").args(["worktree", "prune"]))?;
    run(Command::new("git")
        .args(["worktree", "add", "--detach", "--force"])
        .arg(&tree)
        .arg(reference))?;
    let is_dev = program
        .parent()
        .is_some_and(|parent| parent.ends_with("debug"));
    let mut cargo = Command::new("cargo");
    cargo
        .args(["build", "-p", "boxgate"])
        .current_dir(&tree)
        .env("CARGO_TARGET_DIR", &target);
    if !is_dev {
        cargo.arg("--release");
    }
    let built = run(&mut cargo);
    run(Command::new("git")
        .args(["worktree", "remove", "--force"])
        .arg(&tree))?;
    built?;
    Ok(target
        .join(if is_dev { "debug" } else { "release" })
        .join("boxgate"))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status();
    let status = status.map_err(|e| Failure::file(Path::new(command.get_program()), e))?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::said(format!("{command:?}: {status}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            gateway: PathBuf::from("boxgate"),
            directory: PathBuf::from("."),
            deployed: None,
        }
    }

    #[test]
    fn every_combination_is_played_and_told_in_its_section() {
        let sets = ["cache.size=1GiB,2GiB", "uploads.parts_in_flight=2,4,8"];
        let variants = combinations(&sets.map(str::to_owned), &options()).unwrap();
        assert_eq!(variants.len(), 6);
        assert_eq!(
            variants[5].name,
            "cache.size=2GiB uploads.parts_in_flight=8"
        );
        assert_eq!(
            toml_lines(&variants[5].settings, |_, value| value.to_owned()),
            "[cache]\nsize = 2GiB\n[uploads]\nparts_in_flight = 8\n"
        );
        for wrong in ["", "a", "a=", "=1"] {
            assert!(
                combinations(&[wrong.to_owned()], &options()).is_err(),
                "{wrong}"
            );
        }
    }
    #[test]
    fn a_value_that_nobody_here_can_judge_is_text_unless_it_is_plainly_none() {
        for (given, wanted) in [
            ("4", "4"),
            ("true", "true"),
            ("[1]", "[1]"),
            ("\"deferred\"", "\"deferred\""),
            ("1GiB", "\"1GiB\""),
            ("deferred", "\"deferred\""),
            ("1\nother = 2", "\"1\\nother = 2\""),
        ] {
            assert_eq!(form(given), wanted, "{given}");
        }
    }
}
