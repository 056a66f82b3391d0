//! Loads a running boxgate over HTTP, as a stranger would, and holds it to its limits.
//!
//! `load-tests run NAME` starts a gateway of its own in an empty directory, plays the scenario,
//! checks what must hold, and prints a table. It names no crate of ours, so that nothing it knows
//! can be wrong in the same way as the program under test.

#![forbid(unsafe_code)]

mod arms;
mod baseline;
mod boxitory;
mod clouds;
mod compare;
mod content;
mod error;
mod gateway;
mod http;
mod invariants;
mod latency;
mod machine;
mod play;
mod process;
mod report;
mod scenario;
mod server;
mod survival;
mod variants;
mod webhooks;
mod worker;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::boxitory::Measured;
use crate::clouds::Costs;
use crate::compare::serve::Plain;
use crate::compare::{Comparison, Size};
use crate::error::{Failure, Result};
use crate::gateway::Deployed;
use crate::play::Options;
use crate::scenario::Scenario;
use crate::server::Server;
use crate::survival::forget::Forget;
use crate::survival::full::Full;
use crate::survival::kill::Kill;
use crate::survival::power::Power;
use crate::survival::series::{Disaster, Series};
use crate::variants::Variant;
use crate::webhooks::Plan;

/// Loads a running boxgate over HTTP and holds it to its limits.
#[derive(Debug, Parser)]
#[command(name = "load-tests")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// The program under test.
    #[arg(long, global = true, default_value = "target/release/boxgate")]
    gateway: PathBuf,
    /// Where data and baselines are written: the file system that is measured.
    #[arg(long, global = true, default_value = "target/load-tests")]
    dir: PathBuf,
    /// Lengths by 16, one round, figures of time 20 times looser: shows that all is there and right,
    /// not how fast it is.
    #[arg(long, global = true)]
    quick: bool,
    /// Adds the result to the record of results.
    #[arg(long, global = true, conflicts_with = "quick")]
    record: bool,
    /// The record of results.
    #[arg(long, global = true, default_value = "docs/BENCHMARKS.md")]
    record_to: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Names the scenarios and the question each answers.
    List,
    /// Runs one scenario: a name from the list, or a file.
    Run {
        /// Its name.
        name: String,
        /// Beside the build of that commit or branch, which is made first: each round by both.
        #[arg(long, value_name = "GITREF", conflicts_with = "url")]
        against: Option<String>,
        #[command(flatten)]
        elsewhere: Elsewhere,
    },
    /// Runs all scenarios, one after the other.
    All,
    /// Runs one scenario with a gateway for each combination of settings.
    Sweep {
        /// Its name.
        name: String,
        /// A key of the configuration and its values; several make all combinations.
        #[arg(long = "set", value_name = "KEY=A,B,C", required = true)]
        sets: Vec<String>,
    },
    /// Measures boxgate beside others and writes the page of results.
    Compare {
        /// Only rows whose names begin so.
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// How often each arm is measured [default: 5, 3 in a quick run].
        #[arg(long)]
        rounds: Option<usize>,
        /// A few MiB and one round: shows that all is there and right.
        #[arg(long, conflicts_with = "quick")]
        smoke: bool,
        /// Where programs of others are kept [default: ~/.cache/boxgate].
        #[arg(long, env = "BOXGATE_TOOLS")]
        tools: Option<PathBuf>,
    },
    /// What `compare` measures boxgate beside, for a process of its own.
    #[command(hide = true)]
    Serve {
        /// Which.
        #[arg(value_enum)]
        plain: Plain,
        /// Bytes that it sends.
        #[arg(long)]
        length: u64,
    },
    /// Kills the gateway over and over while clients upload, and holds it to all that it told.
    Kill {
        /// How many times.
        #[arg(long, default_value_t = 200)]
        cycles: u64,
        #[command(flatten)]
        run: SeriesArgs,
    },
    /// Cuts the power over and over: only what the device holds is left (needs root).
    Power {
        /// How many times.
        #[arg(long, default_value_t = 50)]
        cuts: u64,
        #[command(flatten)]
        run: SeriesArgs,
        /// Makes these calls to flush do nothing: the run then succeeds when it finds a violation.
        #[arg(long)]
        forget: Option<Forget>,
    },
    /// Lets the disk run full over and over while clients upload (needs root).
    Full {
        /// How many times.
        #[arg(long, default_value_t = 40)]
        times: u64,
        #[command(flatten)]
        run: SeriesArgs,
        /// How many seconds after there is room again a write must succeed.
        #[arg(long, default_value_t = 5)]
        recovers: u64,
    },
    /// Measures what an adapter to a cloud costs beside the cloud.
    Clouds {
        /// How many seconds each part takes.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// Measures what serving and importing a tree of boxes costs.
    Boxitory {
        /// How many seconds each part takes.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
    },
    /// Has endpoints be told of what happens: what that costs those who change something, and how fast it goes.
    Webhooks {
        #[command(flatten)]
        plan: Box<Plan>,
    },
    /// Shows what `cargo bench` found, beside the build that `--gateway` names.
    Benches,
}

/// A gateway that runs already.
#[derive(Debug, clap::Args)]
struct Elsewhere {
    /// Loads the gateway there (http:// or https://) instead of starting one; what it was given is taken away at the end.
    #[arg(long, requires = "token", requires = "organization")]
    url: Option<String>,
    /// A credential for it.
    #[arg(long, env = "BOXGATE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Where boxes are put.
    #[arg(long)]
    organization: Option<String>,
}

impl Elsewhere {
    async fn find(&self) -> Result<Option<Deployed>> {
        match (&self.url, &self.token, &self.organization) {
            (Some(url), Some(token), Some(organization)) => Ok(Some(Deployed {
                server: Server::find(url).await?,
                token: token.clone(),
                organization: organization.clone(),
            })),
            _ => Ok(None),
        }
    }
}

/// What all disasters are told.
#[derive(Debug, clap::Args)]
struct SeriesArgs {
    /// Behind every random choice; printed, and drawn when it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// The longest upload, in MiB [default: 32 for kills, 8 for the others].
    #[arg(long)]
    longest: Option<u64>,
    /// None begins later than that many seconds after the first (20 kills, or 5 of the others, are played in
    /// any case).
    #[arg(long)]
    within: Option<u64>,
}

impl SeriesArgs {
    fn series<D: Disaster>(&self, times: u64, arguments: &Arguments) -> Series {
        Series {
            times,
            seed: self.seed.unwrap_or_else(drawn),
            longest: self.longest.map_or(D::LONGEST, |mib| mib << 20),
            within: self.within.map(Duration::from_secs),
            gateway: arguments.gateway.clone(),
            directory: arguments.dir.clone(),
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            let _closed = writeln!(std::io::stderr(), "load-tests: {failure}");
            ExitCode::from(2)
        }
    }
}

/// Whether everything that must hold held.
async fn run(arguments: Arguments) -> Result<bool> {
    let scenarios = match &arguments.command {
        Command::List => {
            for scenario in scenario::shipped()? {
                say(&format!("{:<12} {}", scenario.name, scenario.question));
            }
            return Ok(true);
        }
        Command::Benches => {
            let machine = machine::Machine::look(&arguments.dir)?;
            let table = report::table(&arms::all(&arguments.gateway));
            say(&table);
            record(
                &arguments,
                "benches",
                &machine,
                "cargo bench -p boxgate-benches",
                &table,
            )?;
            return Ok(true);
        }
        Command::Clouds { seconds } => return clouds(&arguments, *seconds).await,
        Command::Boxitory { seconds } => return tree(&arguments, *seconds).await,
        Command::Kill { cycles, run } => {
            let series = run.series::<Kill>(*cycles, &arguments);
            let wrong = survived(&arguments, &series, Kill::default()).await?;
            return Ok(wrong.is_empty());
        }
        Command::Power { cuts, run, forget } => {
            let series = run.series::<Power>(*cuts, &arguments);
            let wrong = survived(&arguments, &series, Power::forgetting(*forget)).await?;
            if forget.is_some() && wrong.is_empty() {
                say("- **violation**: calls to flush did nothing, and nobody noticed");
            }
            return Ok(wrong.is_empty() != forget.is_some());
        }
        Command::Full {
            times,
            run,
            recovers,
        } => {
            let series = run.series::<Full>(*times, &arguments);
            let full = Full::new(series.seed, Duration::from_secs(*recovers));
            return Ok(survived(&arguments, &series, full).await?.is_empty());
        }
        Command::Webhooks { plan } => return told(&arguments, plan).await,
        Command::Serve { plain, length } => {
            compare::serve::serve(*plain, arguments.dir.clone(), *length).await?;
            return Ok(true);
        }
        Command::Compare {
            only,
            rounds,
            smoke,
            tools,
        } => {
            let size = match (smoke, arguments.quick) {
                (true, _) => Size::Smoke,
                (false, true) => Size::Quick,
                (false, false) => Size::Whole,
            };
            let comparison = Comparison {
                program: arguments.gateway.clone(),
                directory: arguments.dir.clone(),
                page: arguments.record_to.clone(),
                size,
                rounds: *rounds,
                only: only.clone(),
                tools: tools.clone(),
            };
            return Box::pin(compare::play(&comparison, say)).await;
        }
        Command::Sweep { name, sets } => return sweep(&arguments, name, sets).await,
        Command::Run {
            name,
            against: Some(reference),
            ..
        } => return against(&arguments, name, reference).await,
        Command::Run {
            name, elsewhere, ..
        } => {
            let deployed = elsewhere.find().await?;
            return one(&arguments, scenario::find(name)?, deployed).await;
        }
        Command::All => scenario::shipped()?,
    };
    let mut all_held = true;
    for scenario in scenarios {
        all_held &= one(&arguments, scenario, None).await?;
    }
    Ok(all_held)
}

/// What an adapter costs; figures of a quick run are only shown.
async fn clouds(arguments: &Arguments, seconds: u64) -> Result<bool> {
    let seconds = if arguments.quick { 1 } else { seconds };
    let machine = machine::Machine::look(&arguments.dir)?;
    let each = Duration::from_secs(seconds);
    let costs = Costs::measure(&arguments.gateway, &arguments.dir, each).await?;
    let (text, wrong) = (costs.text(), costs.wrong());
    say(&text);
    let command = format!("load-tests clouds --seconds {seconds}");
    if arguments.quick {
        return Ok(true);
    }
    for what in &wrong {
        say(&format!("- **missed**: {what}"));
    }
    let title = "clouds: what does an adapter cost?";
    record(arguments, title, &machine, &command, &text)?;
    Ok(wrong.is_empty())
}

/// What a tree of boxes costs; figures of a quick run are only shown.
async fn tree(arguments: &Arguments, seconds: u64) -> Result<bool> {
    let seconds = if arguments.quick { 1 } else { seconds };
    let machine = machine::Machine::look(&arguments.dir)?;
    let each = Duration::from_secs(seconds);
    let quick = arguments.quick;
    let measured = Measured::measure(&arguments.gateway, &arguments.dir, each, quick).await?;
    say(&measured.text());
    if quick {
        return Ok(true);
    }
    let wrong = measured.wrong();
    for what in &wrong {
        say(&format!("- **missed**: {what}"));
    }
    let command = format!("load-tests boxitory --seconds {seconds}");
    let title = "boxitory: what does a tree of boxes cost?";
    record(arguments, title, &machine, &command, &measured.text())?;
    Ok(wrong.is_empty())
}

/// Has endpoints be told, and tells of it; whether all held that must.
async fn told(arguments: &Arguments, plan: &Plan) -> Result<bool> {
    let machine = machine::Machine::look(&arguments.dir)?;
    let plan = if arguments.quick {
        plan.clone().quick()
    } else {
        plan.clone()
    };
    let command = format!("load-tests webhooks {}", plan.flags());
    say(&format!("# {command}"));
    let options = Options {
        gateway: arguments.gateway.clone(),
        directory: arguments.dir.clone(),
        deployed: None,
    };
    let outcome = Box::pin(webhooks::play(&options, &plan, arguments.quick)).await?;
    let text = report::rows(&outcome.rows, &outcome.verdicts);
    say(&text);
    let title =
        "webhooks: what do deliveries cost those who change something, and how fast are they?";
    record(arguments, title, &machine, &command, &text)?;
    let mut rulings = outcome.verdicts.iter().map(|verdict| verdict.ruling);
    Ok(rulings.all(|ruling| ruling != invariants::Ruling::Broken))
}

/// A fresh seed, short enough to be typed.
fn drawn() -> u64 {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).expect("Linux always has random bytes to give");
    u32::from_le_bytes(bytes).into()
}

/// Plays disasters and tells of them; returns what was wrong.
async fn survived<D: Disaster>(
    arguments: &Arguments,
    series: &Series,
    mut disaster: D,
) -> Result<Vec<String>> {
    let machine = machine::Machine::look(&arguments.dir)?;
    let command = format!(
        "load-tests {} {} {} --longest {} --seed {}{}",
        D::NAME,
        D::FLAG,
        series.times,
        series.longest >> 20,
        series.seed,
        disaster.flags()
    );
    say(&format!("# {command}"));
    let sum = series.play(&mut disaster).await?;
    let text = sum.text(&disaster.rows());
    say(&text);
    let wrong = sum.tally.wrong;
    say_wrong(&wrong, &command);
    let title = format!("{}: does anything acknowledged get lost?", D::TITLE);
    record(arguments, &title, &machine, &command, &text)?;
    Ok(wrong)
}

fn say_wrong(wrong: &[String], command: &str) {
    for what in wrong.iter().take(TOLD) {
        say(&format!("- **violation**: {what}"));
    }
    if !wrong.is_empty() {
        say(&format!("the same choices again: {command}"));
    }
}

/// Violations that are shown; the first one is what matters.
const TOLD: usize = 20;

/// One scenario by two builds.
async fn against(arguments: &Arguments, name: &str, reference: &str) -> Result<bool> {
    let scenario = sized(arguments, scenario::find(name)?);
    let machine = machine::Machine::look(&arguments.dir)?;
    let other = variants::build(reference, &arguments.gateway, &arguments.dir)?;
    let programs = [("this", arguments.gateway.clone()), (reference, other)];
    let variants = programs.map(|(name, gateway)| Variant {
        name: name.to_owned(),
        settings: std::collections::BTreeMap::new(),
        lines: String::new(),
        options: Options {
            gateway,
            directory: arguments.dir.clone(),
            deployed: None,
        },
    });
    let outcomes = variants::in_turns(&scenario, &variants).await?;
    let text = variants::beside(["this", reference], &outcomes);
    say(&text);
    let title = format!("{name}, beside {reference}: {}", scenario.question);
    let command = format!("load-tests run {name} --against {reference}");
    record(arguments, &title, &machine, &command, &text)?;
    Ok(outcomes.iter().all(|outcome| outcome.wrong.is_empty()))
}

/// One scenario by one build with several settings.
async fn sweep(arguments: &Arguments, name: &str, sets: &[String]) -> Result<bool> {
    let scenario = sized(arguments, scenario::find(name)?);
    let machine = machine::Machine::look(&arguments.dir)?;
    let options = Options {
        gateway: arguments.gateway.clone(),
        directory: arguments.dir.clone(),
        deployed: None,
    };
    let mut variants = variants::combinations(sets, &options)?;
    for variant in &mut variants {
        variant.lines = variants::lines(&variant.settings, &options)?;
    }
    let outcomes = variants::in_turns(&scenario, &variants).await?;
    let text = variants::table(&variants, &outcomes);
    say(&text);
    let sets = sets.iter().map(|set| format!(" --set {set}"));
    let command = format!("load-tests sweep {name}{}", sets.collect::<String>());
    let title = format!("{name} with several settings: {}", scenario.question);
    record(arguments, &title, &machine, &command, &text)?;
    Ok(outcomes.iter().all(|outcome| outcome.wrong.is_empty()))
}

fn sized(arguments: &Arguments, scenario: Scenario) -> Scenario {
    if arguments.quick {
        scenario.quick()
    } else {
        scenario
    }
}

async fn one(
    arguments: &Arguments,
    scenario: Scenario,
    deployed: Option<Deployed>,
) -> Result<bool> {
    let scenario = sized(arguments, scenario);
    let machine = machine::Machine::look(&arguments.dir)?;
    let quick = if arguments.quick {
        " (a sixteenth of every length)"
    } else {
        ""
    };
    say(&format!(
        "# {}{quick}: {}",
        scenario.name, scenario.question
    ));
    let options = Options {
        gateway: arguments.gateway.clone(),
        directory: arguments.dir.clone(),
        deployed,
    };
    let outcome = play::play(&scenario, &options).await?;
    let judged = invariants::judge(&scenario, &outcome);
    let arms = match scenario.arms {
        Some(ref group) => arms::of_group(&arguments.gateway, group),
        None => Vec::new(),
    };
    let text = report::text(&outcome, &judged, &arms);
    say(&text);
    let title = format!("{}: {}", scenario.name, scenario.question);
    let command = format!("load-tests run {}", scenario.name);
    record(arguments, &title, &machine, &command, &text)?;
    Ok(judged
        .iter()
        .all(|verdict| verdict.ruling != invariants::Ruling::Broken))
}

/// Adds a result to the record, if that was asked for.
fn record(
    arguments: &Arguments,
    title: &str,
    machine: &machine::Machine,
    command: &str,
    text: &str,
) -> Result<()> {
    if !arguments.record {
        return Ok(());
    }
    let entry = report::entry(title, machine, command, text);
    report::record(&arguments.record_to, &entry).map_err(|e| Failure::file(&arguments.record_to, e))
}

/// Prints one text; that nobody reads it any more is no reason to stop measuring.
fn say(text: &str) {
    let _closed = writeln!(std::io::stdout(), "{text}");
}
