//! One scenario played by several gateways in turns: two builds, or one build with several settings.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{File, TryLockError};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::time::interval;

use crate::apply::Apply;
use crate::error::{Failure, Result};
use crate::gateway;
use crate::invariants::{self, Ruling};
use crate::play::{self, Options, Outcome, Played};
use crate::scenario::{Figure, Scenario};

/// How often a command or a lock is looked at.
const LOOKED_AT_EVERY: Duration = Duration::from_millis(50);

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

/// What was played.
#[derive(Debug)]
pub(crate) struct Turns {
    /// Of the first variants, as far as it came; of all of them once each had its turn.
    pub(crate) outcomes: Vec<Outcome>,
    /// Why that is not all.
    pub(crate) failed: Option<Failure>,
}

impl Turns {
    /// All of it.
    ///
    /// # Errors
    /// Why it is not all.
    pub(crate) fn whole(self) -> Result<Vec<Outcome>> {
        self.failed.map_or(Ok(self.outcomes), Err)
    }
}

/// Plays all rounds, each variant in each of them, the first one first in every second round. A gateway elsewhere is
/// told by `apply` before each turn.
pub(crate) async fn in_turns(
    scenario: &Scenario,
    variants: &[Variant],
    apply: Option<&mut Apply>,
) -> Turns {
    let mut outcomes: Vec<Option<Outcome>> = variants.iter().map(|_| None).collect();
    let played = all_turns(scenario, variants, apply, &mut outcomes).await;
    Turns {
        outcomes: outcomes.into_iter().flatten().collect(),
        failed: played.err(),
    }
}

async fn all_turns(
    scenario: &Scenario,
    variants: &[Variant],
    mut apply: Option<&mut Apply>,
    outcomes: &mut [Option<Outcome>],
) -> Result<()> {
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
    Ok(())
}

/// Each step of two builds and the share of one in the other.
pub(crate) fn beside(names: [&str; 2], outcomes: &[Outcome]) -> String {
    let mut text = format!(
        "| step | what | {0} | {1} | share | size | rounds | {0}, least to most | {1}, least to most |\n{2}\n",
        names[0],
        names[1],
        "|---".repeat(9) + "|"
    );
    let [ours, theirs] = outcomes else {
        return text;
    };
    for (our, their) in ours.steps.iter().zip(&theirs.steps) {
        for figure in FIGURES {
            if let Some((a, b)) = our.figure(figure).zip(their.figure(figure)) {
                let _ = writeln!(
                    text,
                    "| {} | {} | {a:.3} | {b:.3} | {:.3} | {} | {} | {} | {} |",
                    our.name,
                    figure.label(),
                    a / b,
                    our.size,
                    our.rounds.len(),
                    spread(our, figure),
                    spread(their, figure)
                );
            }
        }
    }
    text + &wrong(names.iter().copied().zip(outcomes))
}

/// The least and the most of all rounds.
fn spread(step: &Played, figure: Figure) -> String {
    step.spread(figure)
        .map_or_else(String::new, |(least, most)| {
            format!("{least:.3} to {most:.3}")
        })
}

/// Each step of each combination in which all went well, the others by their first reason, and the lines of the fastest:
/// of those that went well, without those that may never have been in force.
pub(crate) fn table(
    scenario: &Scenario,
    variants: &[Variant],
    outcomes: &[Outcome],
    doubtful: &[String],
) -> String {
    let head = FIGURES
        .map(|figure| format!(" {} |", figure.label()))
        .concat();
    let mut text = format!(
        "| settings | step |{head} size | rounds | GB/s, least to most |\n{}\n",
        "|---".repeat(FIGURES.len() + 5) + "|"
    );
    let mut reasons = String::new();
    let mut sound = Vec::new();
    for (variant, outcome) in variants.iter().zip(outcomes) {
        if let Some(broken) = broken(scenario, outcome) {
            let _ = writeln!(reasons, "- **failed**: {}: {broken}", variant.name);
            continue;
        }
        sound.push((variant, outcome));
        for step in &outcome.steps {
            let cells = FIGURES.map(|figure| match step.figure(figure) {
                Some(value) => format!(" {value:.3} |"),
                None => " |".to_owned(),
            });
            let _ = writeln!(
                text,
                "| {} | {} |{} {} | {} | {} |",
                variant.name,
                step.name,
                cells.concat(),
                step.size,
                step.rounds.len(),
                spread(step, Figure::GbPerS)
            );
        }
    }
    text.push('\n');
    text += &reasons;
    if let Some(why) = outcomes.iter().find_map(|outcome| outcome.hidden.as_ref()) {
        let _ = writeln!(
            text,
            "- told: CPU and memory are missing, for the gateway does not tell them: {why}"
        );
    }
    text + &winners(&sound, doubtful)
}

/// What of all that must hold did not, if anything.
pub(crate) fn broken(scenario: &Scenario, outcome: &Outcome) -> Option<String> {
    let mut verdicts = invariants::judge(scenario, outcome).into_iter();
    let broken = verdicts.find(|verdict| verdict.ruling == Ruling::Broken);
    broken.map(|verdict| verdict.text)
}

fn winners(sound: &[(&Variant, &Outcome)], doubtful: &[String]) -> String {
    if sound.is_empty() {
        return "\nNo combination is left: something failed in each.\n".to_owned();
    }
    let known = sound
        .iter()
        .filter(|(variant, _)| !doubtful.contains(&variant.name));
    let known: Vec<_> = known.collect();
    if known.is_empty() {
        return "\nNone is the fastest: no combination is known to have been in force.\n"
            .to_owned();
    }
    let best = |figure: Figure, most: bool| {
        let each = known
            .iter()
            .filter_map(|(variant, outcome)| Some((variant, outcome.mean(figure)?)));
        each.max_by(|(_, a), (_, b)| if most { a.total_cmp(b) } else { b.total_cmp(a) })
    };
    let mut text = String::from("\n");
    if let Some((variant, _)) = best(Figure::CpuSPerGb, false) {
        let _ = writeln!(text, "Least CPU: {}.", variant.name);
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

/// `KEY=A,B,C` each: all combinations. A key that is given twice has the values of both.
///
/// # Errors
/// When one is not of that form.
pub(crate) fn combinations(sets: &[String], options: &Options) -> Result<Vec<Variant>> {
    let mut keys: Vec<(&str, Vec<&str>)> = Vec::new();
    for set in sets {
        let (key, values) = set
            .split_once('=')
            .map(|(key, values)| (key.trim(), values.split(',').map(str::trim)))
            .filter(|(key, values)| !key.is_empty() && values.clone().all(|one| !one.is_empty()))
            .ok_or_else(|| Failure::said(format!("--set {set:?} is not KEY=VALUE,VALUE")))?;
        let index = keys.iter().position(|(known, _)| *known == key);
        let index = index.unwrap_or_else(|| {
            keys.push((key, Vec::new()));
            keys.len() - 1
        });
        let (_, known) = &mut keys[index];
        for value in values {
            if !known.contains(&value) {
                known.push(value);
            }
        }
    }
    let mut all = vec![BTreeMap::new()];
    for (key, values) in keys {
        all = all
            .iter()
            .flat_map(|settings: &BTreeMap<String, String>| {
                values.iter().map(|value| {
                    let mut settings = settings.clone();
                    settings.insert(key.to_owned(), (*value).to_owned());
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
        // Numbers, truths and lists stand for themselves; all else is text. What is said against the form that it has
        // is what a person can use.
        let forms = [form(given), given.clone(), format!("{given:?}")];
        let mut said = Vec::new();
        let taken = forms.into_iter().find(|form| {
            let against = against(&toml_lines(&alone, |_, _| form.clone()), options);
            let is_taken = against.is_empty();
            said.push(against);
            is_taken
        });
        let taken = taken.ok_or_else(|| {
            let said = in_a_line(&said[0], key);
            Failure::said(format!("--set {key}={given}: {said}"))
        })?;
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

/// What the program says of a key, of all that it says.
fn in_a_line(said: &str, key: &str) -> String {
    let about = said.lines().find_map(|line| line.strip_prefix(key));
    match about.and_then(|line| line.strip_prefix(": ")) {
        Some(about) => about.to_owned(),
        None => said.lines().map(str::trim).collect::<Vec<_>>().join(" "),
    }
}

/// What the program says against a configuration; nothing where it takes it.
fn against(text: &str, options: &Options) -> String {
    // Another sweep may work in the same directory.
    let name = format!("sweep-{}.toml", std::process::id());
    let file = options.directory.join(name);
    let written = std::fs::create_dir_all(&options.directory);
    if let Err(e) = written.and_then(|()| std::fs::write(&file, text)) {
        return e.to_string();
    }
    let mut command = Command::new(&options.gateway);
    command.args(["config", "check", "--config"]).arg(&file);
    let output = command.stdin(Stdio::null()).output();
    let removed = std::fs::remove_file(&file);
    match output.and_then(|output| removed.map(|()| output)) {
        Ok(output) if output.status.success() => String::new(),
        Ok(output) => format!(
            "{}{}",
            String::from_utf8_lossy(&output.stderr),
            output.status
        ),
        Err(e) => e.to_string(),
    }
}

/// Builds another state of the tree beside this one, as `program` was built; its program, for this process alone.
///
/// # Errors
/// When git does not know it or it does not build.
pub(crate) async fn build(reference: &str, program: &Path, directory: &Path) -> Result<PathBuf> {
    let directory = std::path::absolute(directory).map_err(|e| Failure::file(directory, e))?;
    let ours = directory.join(format!("against-{}", std::process::id()));
    let (tree, target) = (ours.join("tree"), directory.join("against-target"));
    gateway::remove(&ours)?;
    std::fs::create_dir_all(&ours).map_err(|e| Failure::file(&ours, e))?;
    // What is built stays for the next run, which builds the less; until it is copied nobody else builds there.
    let _held = held(&directory.join("against.lock")).await?;
    run(Command::new("git").args(["worktree", "prune"])).await?;
    run(Command::new("git")
        .args(["worktree", "add", "--detach", "--force"])
        .arg(&tree)
        .arg(reference))
    .await?;
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
    let built = run(&mut cargo).await;
    run(Command::new("git")
        .args(["worktree", "remove", "--force"])
        .arg(&tree))
    .await?;
    built?;
    let built = target
        .join(if is_dev { "debug" } else { "release" })
        .join("boxgate");
    let copy = ours.join("boxgate");
    std::fs::copy(&built, &copy).map_err(|e| Failure::file(&built, e))?;
    Ok(copy)
}

/// A lock that no other process has, once that is so.
async fn held(path: &Path) -> Result<File> {
    let file = File::create(path).map_err(|e| Failure::file(path, e))?;
    let mut tick = interval(LOOKED_AT_EVERY);
    loop {
        tick.tick().await;
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(e)) => return Err(Failure::file(path, e)),
        }
    }
}

/// A command with all that it started; ended when dropped, unless it ended by itself.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let ended = self.0.try_wait();
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        if let (Ok(None), Some(pid)) = (ended, pid) {
            let _gone = kill_process_group(pid, Signal::TERM);
            let _reaped = self.0.wait();
        }
    }
}

async fn run(command: &mut Command) -> Result<()> {
    let child = command.stdin(Stdio::null()).process_group(0).spawn();
    let child = child.map_err(|e| Failure::file(Path::new(command.get_program()), e))?;
    let mut running = Running(child);
    let mut tick = interval(LOOKED_AT_EVERY);
    let status = loop {
        tick.tick().await;
        if let Some(status) = running.0.try_wait()? {
            break status;
        }
    };
    if status.success() {
        Ok(())
    } else {
        Err(Failure::said(format!("{command:?}: {status}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::Latency;
    use crate::play::Round;
    use crate::scenario::Bound;

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
        for wrong in ["", "a", "a=", "=1", "a=1,,2"] {
            assert!(
                combinations(&[wrong.to_owned()], &options()).is_err(),
                "{wrong}"
            );
        }
    }

    #[tokio::test]
    async fn two_processes_do_not_build_in_one_place() {
        let name = format!("against-{}.lock", std::process::id());
        let path = std::env::temp_dir().join(name);
        let first = held(&path).await.unwrap();
        let second = File::create(&path).unwrap();
        assert!(matches!(second.try_lock(), Err(TryLockError::WouldBlock)));
        drop(first);
        held(&path).await.unwrap();
        std::fs::remove_file(&path).unwrap();
    }

    #[tokio::test]
    async fn a_command_ends_with_who_waits_for_it() {
        let told = run(&mut Command::new("false")).await.unwrap_err();
        assert!(told.to_string().contains("exit status: 1"), "{told}");
        let running = Running(
            Command::new("sleep")
                .arg("3600")
                .process_group(0)
                .spawn()
                .unwrap(),
        );
        let pid = running.0.id();
        drop(running);
        assert!(!Path::new("/proc").join(pid.to_string()).exists());
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

    #[test]
    fn a_key_given_twice_has_the_values_of_both() {
        let sets = ["k=2,4", "other=1", "k=4,8"].map(str::to_owned);
        let variants = combinations(&sets, &options()).unwrap();
        let names: Vec<&str> = variants.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["k=2 other=1", "k=4 other=1", "k=8 other=1"]);
    }

    #[test]
    fn what_a_program_says_of_a_key_is_one_line() {
        let said = "boxgate: configuration:\na.b: invalid type\nexit status: 2";
        assert_eq!(in_a_line(said, "a.b"), "invalid type");
        assert_eq!(
            in_a_line(said, "c"),
            "boxgate: configuration: a.b: invalid type exit status: 2"
        );
    }

    /// One step of 1 GB that took so many seconds in each round.
    fn outcome(walls_s: &[u64]) -> Outcome {
        let rounds = walls_s.iter().map(|s| Round {
            wall: Duration::from_secs(*s),
            cpu: None,
            memory: None,
            failed: 0,
        });
        let mut latency = Latency::default();
        latency.record(Duration::from_secs(1));
        Outcome {
            steps: vec![Played {
                name: "a".to_owned(),
                size: "1 x 1 GB".to_owned(),
                bytes: 1_000_000_000,
                rounds: rounds.collect(),
                latency,
            }],
            wrong: Vec::new(),
            hidden: None,
            is_elsewhere: false,
        }
    }

    /// `k=1` and `k=2`, with their lines.
    fn two() -> Vec<Variant> {
        let mut variants = combinations(&["k=1,2".to_owned()], &options()).unwrap();
        for variant in &mut variants {
            variant.lines = toml_lines(&variant.settings, |_, value| value.to_owned());
        }
        variants
    }

    #[test]
    fn a_combination_in_which_something_failed_is_listed_and_does_not_win() {
        let variants = two();
        let mut outcomes = [outcome(&[4, 2]), outcome(&[1, 1])];
        let fastest = |text: &str| {
            text.split_once("Fastest")
                .map(|(_, lines)| lines.to_owned())
        };
        let text = table(&Scenario::bare(), &variants, &outcomes, &[]);
        assert!(fastest(&text).unwrap().contains("k = 2"), "{text}");
        assert!(text.contains("| 1 x 1 GB | 2 | 0.250 to 0.500 |"), "{text}");
        outcomes[1].wrong = vec!["a: 413: too long".to_owned(), "a: 404".to_owned()];
        outcomes[1].steps[0].rounds[0].failed = 2;
        let text = table(&Scenario::bare(), &variants, &outcomes, &[]);
        assert!(fastest(&text).unwrap().contains("k = 1"), "{text}");
        assert!(!text.contains("| k=2"), "{text}");
        let told = "- **failed**: k=2: 2 things were wrong; the first: a: 413: too long\n";
        assert!(text.contains(told), "{text}");
        // A bound that must hold is as good a reason.
        let mut bounded = Scenario::bare();
        bounded.must.push(Bound {
            figure: Figure::GbPerS,
            step: None,
            of: None,
            at_most: None,
            at_least: Some(5.0),
        });
        let text = table(&bounded, &variants, &outcomes, &[]);
        assert_eq!(fastest(&text), None);
        assert!(text.contains("- **failed**: k=1: GB/s of a: 0.3"), "{text}");
        outcomes[0].wrong = vec!["1 panics".to_owned()];
        let text = table(&Scenario::bare(), &variants, &outcomes, &[]);
        assert_eq!(fastest(&text), None);
        assert!(text.contains("No combination is left"), "{text}");
    }

    #[test]
    fn settings_that_may_never_have_been_in_force_do_not_win() {
        let (variants, outcomes) = (two(), [outcome(&[4]), outcome(&[1])]);
        let text = table(
            &Scenario::bare(),
            &variants,
            &outcomes,
            &[variants[1].name.clone()],
        );
        assert!(text.contains("k = 1") && !text.contains("k = 2"), "{text}");
        let names = variants.iter().map(|variant| variant.name.clone());
        let text = table(
            &Scenario::bare(),
            &variants,
            &outcomes,
            &names.collect::<Vec<_>>(),
        );
        assert!(
            !text.contains("Fastest") && text.contains("None is the fastest"),
            "{text}"
        );
    }

    #[test]
    fn two_builds_are_told_with_size_rounds_and_spread() {
        let text = beside(["this", "main"], &[outcome(&[4, 2]), outcome(&[1, 1])]);
        let row =
            "| a | GB/s | 0.375 | 1.000 | 0.375 | 1 x 1 GB | 2 | 0.250 to 0.500 | 1.000 to 1.000 |";
        assert!(text.contains(row), "{text}");
    }
}
