//! Loads a running boxgate over HTTP, as a stranger would, and holds it to its limits.
//!
//! `load-tests run NAME` starts a gateway of its own in an empty directory, plays the scenario,
//! checks what must hold, and prints a table. It names no crate of ours, so that nothing it knows
//! can be wrong in the same way as the program under test.

#![forbid(unsafe_code)]

mod apply;
mod arms;
mod baseline;
mod boxitory;
mod clouds;
mod compare;
mod content;
mod deployed;
mod error;
mod gateway;
mod http;
mod invariants;
mod latency;
mod leftovers;
mod machine;
mod play;
mod preflight;
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

use crate::apply::Apply;
use crate::boxitory::Measured;
use crate::clouds::Costs;
use crate::compare::serve::Plain;
use crate::compare::{Comparison, Size};
use crate::deployed::Deployed;
use crate::error::{Failure, Result};
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
    /// The record of results, and the page of `compare` [default: docs/BENCHMARKS.md; none for `compare --url` and
    /// `compare --smoke`].
    #[arg(long, global = true)]
    record_to: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Names the scenarios and the question each answers.
    List,
    /// Runs one scenario: a name from the list, or a file.
    #[command(after_help = RUN_EXAMPLES)]
    Run {
        /// Its name.
        name: String,
        /// Beside the build of that commit or branch, which is made first: each round by both. On this machine alone.
        #[arg(long, value_name = "GITREF")]
        against: Option<String>,
        #[command(flatten)]
        elsewhere: Elsewhere,
    },
    /// Runs all scenarios, one after the other.
    All {
        #[command(flatten)]
        elsewhere: Elsewhere,
    },
    /// Runs one scenario with a gateway for each combination of settings.
    #[command(after_help = SWEEP_EXAMPLES)]
    Sweep {
        /// Its name.
        name: String,
        /// A key of the configuration and its values; several make all combinations.
        #[arg(long = "set", value_name = "KEY=A,B,C", required = true)]
        sets: Vec<String>,
        #[command(flatten)]
        elsewhere: Elsewhere,
        /// Has the gateway behind --url run by a combination, by `sh -c`: the combination stands on its standard input
        /// as lines of a configuration, and in its environment as variables (`BOXGATE_UPLOADS__PARTS_IN_FLIGHT`).
        #[arg(long, value_name = "COMMAND", requires = "url")]
        apply: Option<String>,
        /// How many seconds the command may take until /readyz answers 200.
        #[arg(
            long,
            value_name = "SECONDS",
            default_value_t = 120,
            requires = "apply"
        )]
        apply_within: u64,
    },
    /// Measures boxgate beside others and writes the page of results.
    #[command(after_help = COMPARE_EXAMPLES)]
    Compare {
        #[command(flatten)]
        chosen: Chosen,
        #[command(flatten)]
        elsewhere: Elsewhere,
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

const RUN_EXAMPLES: &str = "Examples:
  load-tests run cpu
  load-tests run cpu --against main
  BOXGATE_TOKEN=... load-tests run downloads --url https://boxes.example.com --organization acme";

const SWEEP_EXAMPLES: &str = "Examples:
  load-tests sweep throughput --set uploads.parts_in_flight=1,2,4,8
  BOXGATE_TOKEN=... load-tests sweep throughput --set uploads.parts_in_flight=2,4 \\
    --url https://boxes.example.com --organization acme \\
    --apply 'env | grep ^BOXGATE_ | ssh boxes \"cat >/etc/boxgate/sweep.env && systemctl restart boxgate\"'

There, the unit has EnvironmentFile=-/etc/boxgate/sweep.env, whose variables stand above the configuration file.";

const COMPARE_EXAMPLES: &str = "Examples:
  load-tests compare --quick --only download,tus
  BOXGATE_TOKEN=... load-tests --quick compare --url https://boxes.example.com --organization acme

By --url, boxgate is the deployed gateway and all others run on this machine. What is found is printed; a page is written
where --record-to names one.";

/// What is compared.
#[derive(Debug, clap::Args)]
struct Chosen {
    /// Only rows whose names begin so.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// How often each arm is measured [default: 5, 3 in a quick run].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// A few MiB and one round: shows that all is there and right, and judges nothing.
    #[arg(long, conflicts_with = "quick")]
    smoke: bool,
    /// Where programs of others are kept [default: ~/.cache/boxgate].
    #[arg(long, env = "BOXGATE_TOOLS")]
    tools: Option<PathBuf>,
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
    #[arg(long, requires = "url")]
    organization: Option<String>,
}

impl Elsewhere {
    /// The one that is named, nothing asked of it yet.
    async fn find(&self) -> Result<Option<Deployed>> {
        match (&self.url, &self.token, &self.organization) {
            (Some(url), Some(token), Some(organization)) => {
                // As it comes out of a file, with the end of its line.
                let token = token.trim();
                if token.is_empty() || token.contains(|c: char| !c.is_ascii_graphic()) {
                    return Err(Failure::said(
                        "the credential (--token, BOXGATE_TOKEN) is empty, or holds what is no part of one",
                    ));
                }
                let server = Server::find(url).await?;
                let there = Deployed::new(server, token.to_owned(), organization.clone());
                Ok(Some(there))
            }
            _ => Ok(None),
        }
    }

    /// The same, after it showed that it takes what it will be given.
    async fn reach(&self) -> Result<Option<Deployed>> {
        let deployed = self.find().await?;
        if let Some(deployed) = &deployed {
            deployed.during(preflight::check(deployed)).await?;
        }
        Ok(deployed)
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

impl Arguments {
    fn options(&self, deployed: Option<Deployed>) -> Options {
        Options {
            gateway: self.gateway.clone(),
            directory: self.dir.clone(),
            deployed,
        }
    }

    fn comparison(&self, chosen: &Chosen, deployed: Option<Deployed>) -> Comparison {
        // Figures of somebody's gateway, or of a minute, do not replace those of the page unasked.
        let page = if deployed.is_some() || chosen.smoke {
            self.record_to.clone()
        } else {
            Some(self.record_to())
        };
        Comparison {
            program: self.gateway.clone(),
            directory: self.dir.clone(),
            page,
            size: match (chosen.smoke, self.quick) {
                (true, _) => Size::Smoke,
                (false, true) => Size::Quick,
                (false, false) => Size::Whole,
            },
            rounds: chosen.rounds,
            only: chosen.only.clone(),
            tools: chosen.tools.clone(),
            deployed,
            say,
        }
    }

    fn record_to(&self) -> PathBuf {
        let page = self.record_to.clone();
        page.unwrap_or_else(|| PathBuf::from("docs/BENCHMARKS.md"))
    }

    /// Whether a gateway is loaded that somebody else started.
    fn is_elsewhere(&self) -> bool {
        match &self.command {
            Command::Run { elsewhere, .. }
            | Command::All { elsewhere }
            | Command::Sweep { elsewhere, .. }
            | Command::Compare { elsewhere, .. } => elsewhere.url.is_some(),
            _ => false,
        }
    }

    /// Why that cannot be done, and what can.
    fn refused(&self) -> Option<String> {
        match &self.command {
            Command::Run {
                name,
                against: Some(reference),
                elsewhere: Elsewhere { url: Some(url), .. },
            } => Some(format!(
                "--against {reference} with --url {url}: builds cannot be made and started at a gateway that runs elsewhere. \
                 Compare the builds on this machine (run {name} --against {reference}), or deploy one after the other and \
                 play `run {name} --url {url}` against each"
            )),
            Command::Sweep {
                name,
                elsewhere: Elsewhere { url: Some(url), .. },
                apply: None,
                ..
            } => Some(format!(
                "sweep --url {url} without --apply: settings are those that the gateway was started with, and nobody said how it \
                 gets others. Add --apply COMMAND, which finds the lines of each combination on its standard input and starts the \
                 gateway anew by them, or sweep a gateway of this machine (sweep {name} without --url)"
            )),
            Command::Sweep {
                apply: Some(command),
                ..
            } if command.trim().is_empty() => Some(
                "--apply is empty: it is to be a command that starts the gateway anew by the lines on its standard input"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// How long a command that was started may go on when all else ended.
const LINGERS: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(until_told(Arguments::parse()));
            runtime.shutdown_timeout(LINGERS);
            ended
        }
        Err(e) => Err(Failure::said(format!("no runtime: {e}"))),
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            let _closed = writeln!(std::io::stderr(), "load-tests: {failure}");
            ExitCode::from(2)
        }
    }
}

/// Does the work until a signal comes: with it all ends that was started here, and the directories of that go.
async fn until_told(arguments: Arguments) -> Result<bool> {
    if matches!(
        arguments.command,
        Command::List | Command::Serve { .. } | Command::Benches
    ) {
        return Box::pin(run(arguments)).await;
    }
    let directory = arguments.dir.clone();
    leftovers::remove_dead(&directory);
    let is_elsewhere = arguments.is_elsewhere();
    let work = Box::pin(run(arguments));
    let ended = if is_elsewhere {
        // It listens for signals itself, and takes away what it gave there.
        work.await
    } else {
        tokio::select! {
            biased;
            () = deployed::told_to_end() => Err(Failure::ToldToEnd),
            ended = work => ended,
        }
    };
    match &ended {
        Ok(true) => leftovers::remove_own(&directory),
        Err(Failure::ToldToEnd) => leftovers::remove_cut(&directory),
        // Logs tell why.
        Ok(false) | Err(_) => {}
    }
    ended
}

/// Does the work, and leaves nothing at a gateway elsewhere.
async fn leaving(
    deployed: Option<&Deployed>,
    work: impl Future<Output = Result<bool>>,
) -> Result<bool> {
    match deployed {
        Some(deployed) => deployed.during(work).await,
        None => work.await,
    }
}

/// Whether everything that must hold held.
async fn run(arguments: Arguments) -> Result<bool> {
    if let Some(why) = arguments.refused() {
        return Err(Failure::said(why));
    }
    match &arguments.command {
        Command::List => {
            for scenario in scenario::shipped()? {
                say(&format!("{:<12} {}", scenario.name, scenario.question));
            }
            Ok(true)
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
            Ok(true)
        }
        Command::Clouds { seconds } => clouds(&arguments, *seconds).await,
        Command::Boxitory { seconds } => tree(&arguments, *seconds).await,
        Command::Kill { cycles, run } => {
            let series = run.series::<Kill>(*cycles, &arguments);
            let wrong = survived(&arguments, &series, Kill::default()).await?;
            Ok(wrong.is_empty())
        }
        Command::Power { cuts, run, forget } => {
            let series = run.series::<Power>(*cuts, &arguments);
            let wrong = survived(&arguments, &series, Power::forgetting(*forget)).await?;
            if forget.is_some() && wrong.is_empty() {
                say("- **violation**: calls to flush did nothing, and nobody noticed");
            }
            Ok(wrong.is_empty() != forget.is_some())
        }
        Command::Full {
            times,
            run,
            recovers,
        } => {
            let series = run.series::<Full>(*times, &arguments);
            let full = Full::new(series.seed, Duration::from_secs(*recovers));
            Ok(survived(&arguments, &series, full).await?.is_empty())
        }
        Command::Webhooks { plan } => told(&arguments, plan).await,
        Command::Serve { plain, length } => {
            compare::serve::serve(*plain, arguments.dir.clone(), *length).await?;
            Ok(true)
        }
        Command::Compare { chosen, elsewhere } => {
            let deployed = elsewhere.reach().await?;
            let comparison = arguments.comparison(chosen, deployed.clone());
            let work = Box::pin(compare::play(&comparison));
            leaving(deployed.as_ref(), work).await
        }
        Command::Sweep {
            name,
            sets,
            elsewhere,
            apply,
            apply_within,
        } => {
            let deployed = elsewhere.reach().await?;
            let within = Duration::from_secs(*apply_within);
            let log = arguments
                .dir
                .join(format!("sweep-apply-{}.log", std::process::id()));
            let apply = apply.clone().map(|run| Apply::new(run, within, log));
            let work = Box::pin(sweep(&arguments, (name, sets), deployed.clone(), apply));
            leaving(deployed.as_ref(), work).await
        }
        Command::Run {
            name,
            against: Some(reference),
            ..
        } => against(&arguments, name, reference).await,
        Command::Run {
            name, elsewhere, ..
        } => {
            let deployed = elsewhere.reach().await?;
            let work = Box::pin(one(&arguments, scenario::find(name)?, deployed.clone()));
            leaving(deployed.as_ref(), work).await
        }
        Command::All { elsewhere } => {
            let deployed = elsewhere.reach().await?;
            let work = Box::pin(all(&arguments, deployed.clone()));
            leaving(deployed.as_ref(), work).await
        }
    }
}

/// All scenarios, one after the other; whether everything that must hold held.
async fn all(arguments: &Arguments, deployed: Option<Deployed>) -> Result<bool> {
    let mut all_held = true;
    for scenario in scenario::shipped()? {
        all_held &= Box::pin(one(arguments, scenario, deployed.clone())).await?;
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
    let options = arguments.options(None);
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
    let other = variants::build(reference, &arguments.gateway, &arguments.dir).await?;
    let programs = [("this", arguments.gateway.clone()), (reference, other)];
    let variants = programs.map(|(name, gateway)| Variant {
        name: name.to_owned(),
        settings: std::collections::BTreeMap::new(),
        lines: String::new(),
        options: Options {
            gateway,
            ..arguments.options(None)
        },
    });
    let played = Box::pin(variants::in_turns(&scenario, &variants, None)).await;
    let outcomes = played.whole()?;
    let text = variants::beside(["this", reference], &outcomes);
    say(&text);
    let title = format!("{name}, beside {reference}: {}", scenario.question);
    let command = format!("load-tests run {name} --against {reference}");
    record(arguments, &title, &machine, &command, &text)?;
    Ok(outcomes.iter().all(|outcome| outcome.wrong.is_empty()))
}

/// One scenario by one build with several settings.
async fn sweep(
    arguments: &Arguments,
    (name, sets): (&str, &[String]),
    deployed: Option<Deployed>,
    mut apply: Option<Apply>,
) -> Result<bool> {
    let scenario = sized(arguments, scenario::find(name)?);
    let machine = machine::Machine::look(&arguments.dir)?;
    let options = arguments.options(deployed);
    let mut variants = variants::combinations(sets, &options)?;
    for variant in &mut variants {
        variant.lines = variants::lines(&variant.settings, &options)?;
    }
    let played = Box::pin(variants::in_turns(&scenario, &variants, apply.as_mut())).await;
    let in_force = apply.as_ref().map(|apply| apply.told(&variants));
    let in_force = in_force.unwrap_or_default();
    let doubtful = apply.as_ref().map_or(&[][..], Apply::same_process);
    let text = variants::table(&scenario, &variants, &played.outcomes, doubtful) + &in_force;
    if let Some(failure) = played.failed {
        if !played.outcomes.is_empty() {
            say(&format!("What was played before it failed:\n\n{text}"));
        }
        return Err(Failure::said(format!("{failure}\n{in_force}")));
    }
    let outcomes = played.outcomes;
    say(&text);
    let sets = sets.iter().map(|set| format!(" --set {set}"));
    let where_to = elsewhere(options.deployed.as_ref(), " --apply COMMAND");
    let sets = sets.collect::<String>();
    let command = format!("load-tests sweep {name}{sets}{where_to}");
    let title = format!("{name} with several settings: {}", scenario.question);
    record(arguments, &title, &machine, &command, &text)?;
    // One of which nobody knows what was in force found nothing.
    let mut names = variants.iter().map(|variant| &variant.name);
    let is_known = names.any(|name| !doubtful.contains(name));
    let mut broken = outcomes
        .iter()
        .filter_map(|outcome| variants::broken(&scenario, outcome));
    Ok(is_known && broken.next().is_none())
}

/// How a command says that it loads a gateway elsewhere: no page tells whose.
fn elsewhere(deployed: Option<&Deployed>, more: &str) -> String {
    deployed.map_or_else(String::new, |_| {
        format!(" --url URL --organization ORG{more}")
    })
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
    let options = arguments.options(deployed);
    let outcome = Box::pin(play::play(&scenario, &options)).await?;
    let judged = invariants::judge(&scenario, &outcome);
    let arms = match scenario.arms {
        Some(ref group) => arms::of_group(&arguments.gateway, group),
        None => Vec::new(),
    };
    let text = report::text(&outcome, &judged, &arms);
    say(&text);
    let title = format!("{}: {}", scenario.name, scenario.question);
    let where_to = elsewhere(options.deployed.as_ref(), "");
    let command = format!("load-tests run {}{where_to}", scenario.name);
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
    let page = arguments.record_to();
    report::record(&page, &entry).map_err(|e| Failure::file(&page, e))
}

/// Prints one text; that nobody reads it any more is no reason to stop measuring.
fn say(text: &str) {
    let _closed = writeln!(std::io::stdout(), "{text}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    const THERE: [&str; 6] = [
        "--url",
        "http://127.0.0.1:1",
        "--organization",
        "acme",
        "--token",
        "key",
    ];

    fn parsed(words: &[&str]) -> std::result::Result<Arguments, clap::Error> {
        Arguments::try_parse_from(["load-tests"].iter().chain(words))
    }

    /// The same at a gateway elsewhere.
    fn there(words: &[&str]) -> std::result::Result<Arguments, clap::Error> {
        parsed(&[words, &THERE].concat())
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn what_cannot_be_done_elsewhere_is_refused_with_the_next_step() {
        let builds = there(&["run", "cpu", "--against", "main"]).unwrap();
        let why = builds.refused().unwrap();
        assert!(
            why.contains("run cpu --against main") && why.contains("run cpu --url"),
            "{why}"
        );
        let sweep = ["sweep", "cpu", "--set", "cache.size=1GiB,2GiB"];
        let why = there(&sweep).unwrap().refused().unwrap();
        assert!(why.contains("Add --apply COMMAND"), "{why}");
        let with = [&sweep[..], &["--apply", "true"]].concat();
        assert_eq!(there(&with).unwrap().refused(), None);
        assert_eq!(parsed(&sweep).unwrap().refused(), None);
        // A command without a gateway that it is for is a mistake.
        assert!(parsed(&with).is_err());
        let empty = [&sweep[..], &["--apply", " "]].concat();
        let why = there(&empty).unwrap().refused().unwrap();
        assert!(why.contains("--apply is empty"), "{why}");
        for words in [&["run", "cpu"][..], &["compare"], &["all"]] {
            assert!(there(words).unwrap().is_elsewhere());
            assert!(!parsed(words).unwrap().is_elsewhere());
            assert_eq!(there(words).unwrap().refused(), None);
            assert!(parsed(&[words, &THERE[..2]].concat()).is_err());
            // An organization, but no gateway that it is of.
            assert!(parsed(&[words, &THERE[2..4]].concat()).is_err());
        }
    }

    #[tokio::test]
    async fn a_credential_is_taken_without_the_end_of_its_line() {
        let found = async |token: &str| {
            let elsewhere = Elsewhere {
                url: Some("http://127.0.0.1:1".to_owned()),
                token: Some(token.to_owned()),
                organization: Some("acme".to_owned()),
            };
            elsewhere.find().await
        };
        let deployed = found(" key\n").await.unwrap().unwrap();
        assert_eq!(deployed.token, "key");
        for wrong in ["", "\n", "a\r\nb", "a b"] {
            assert!(found(wrong).await.is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_comparison_without_a_round_is_refused() {
        assert!(parsed(&["compare", "--rounds", "0"]).is_err());
        assert!(parsed(&["compare", "--rounds", "1"]).is_ok());
    }

    #[tokio::test]
    async fn a_deployed_gateway_and_a_minute_have_a_page_only_where_one_is_named() {
        let page = async |arguments: Arguments| {
            let Command::Compare { chosen, elsewhere } = &arguments.command else {
                return None;
            };
            let deployed = elsewhere.find().await.unwrap();
            arguments.comparison(chosen, deployed).page
        };
        let of = |path: &str| Some(PathBuf::from(path));
        assert_eq!(
            page(parsed(&["compare"]).unwrap()).await,
            of("docs/BENCHMARKS.md")
        );
        assert_eq!(page(there(&["compare"]).unwrap()).await, None);
        let smoke = ["compare", "--smoke"];
        assert_eq!(page(parsed(&smoke).unwrap()).await, None);
        let recorded = [&smoke[..], &["--record-to", "page.md"]].concat();
        assert_eq!(page(parsed(&recorded).unwrap()).await, of("page.md"));
        let named = ["compare", "--record-to", "page.md"];
        assert_eq!(page(parsed(&named).unwrap()).await, of("page.md"));
        assert_eq!(page(there(&named).unwrap()).await, of("page.md"));
    }
}
