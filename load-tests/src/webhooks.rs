//! What it costs those who change something that endpoints are told of it, and how fast those are told.
//!
//! Changes come by schedule and are timed from their intended start. A slow receiver of ours would be measured along with
//! the gateway, so it does nothing but count.

mod receiver;
mod stage;

use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use self::receiver::SILENT;
use self::stage::{Loaded, Stage};
use crate::error::{Failure, Result};
use crate::invariants::{Ruling, Verdict, mib};
use crate::latency::Latency;
use crate::play::Options;
use crate::process::{Watch, status_bytes};

/// How much is played.
#[derive(Debug, Clone, Args)]
pub(crate) struct Plan {
    /// Events of one run beside endpoints; there are as many runs without.
    #[arg(long, default_value_t = 2_000)]
    events: u32,
    /// Endpoints that are told of all of them.
    #[arg(long, default_value_t = 20)]
    endpoints: u32,
    /// Events in a second.
    #[arg(long, default_value_t = 50)]
    per_s: u32,
    /// How often each comparison is made.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Deliveries that wait for one fast receiver.
    #[arg(long, default_value_t = 10_000)]
    waiting: u32,
    /// Deliveries that wait when memory is looked at, in all.
    #[arg(long, default_value_t = 100_000)]
    queued: u32,
    /// How long a silent endpoint is waited for, in seconds.
    #[arg(long, default_value_t = 10)]
    silence_s: u32,
    /// What is played: changes, silence, speed, memory. All of it unless some are named.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// A server of PostgreSQL, on which a database of its own is made by `psql`; SQLite otherwise.
    #[arg(long)]
    postgres: Option<String>,
}

/// One question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// How much slower changes and uploads are beside deliveries.
    Changes,
    /// How much slower one endpoint is told beside one that never answers.
    Silence,
    /// How fast one receiver is told.
    Speed,
    /// What waits in memory.
    Memory,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Names and figures.
    pub(crate) rows: Vec<(String, String)>,
    /// What held and what did not.
    pub(crate) verdicts: Vec<Verdict>,
}

impl Plan {
    /// The same, over quickly.
    pub(crate) fn quick(mut self) -> Self {
        self.rounds = 1;
        for count in [&mut self.events, &mut self.waiting, &mut self.queued] {
            *count = (*count / 16).max(self.endpoints);
        }
        self.silence_s = 1;
        self
    }

    /// The flags that say the same.
    pub(crate) fn flags(&self) -> String {
        let Self {
            events,
            endpoints,
            per_s,
            rounds,
            waiting,
            queued,
            silence_s,
            only: _,
            postgres,
        } = self;
        let server = postgres.as_ref().map_or("", |_| " --postgres URL");
        format!(
            "--events {events} --endpoints {endpoints} --per-s {per_s} --rounds {rounds} --waiting {waiting} \
             --queued {queued} --silence-s {silence_s}{server}"
        )
    }

    fn plays(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    /// Deliveries in a second that are wanted.
    fn wanted_per_s(&self) -> f64 {
        if self.postgres.is_some() {
            2_000.0
        } else {
            1_000.0
        }
    }
}

/// Plays it; `quick` holds no figure of time.
///
/// # Errors
/// When there is no result.
pub(crate) async fn play(options: &Options, plan: &Plan, quick: bool) -> Result<Outcome> {
    let mut stage = Stage::open(options, plan.postgres.as_deref()).await?;
    let mut outcome = Outcome {
        rows: Vec::new(),
        verdicts: Vec::new(),
    };
    // Thrown away: the first of everything costs more.
    stage.load(plan.events.min(200), every(plan.per_s)).await?;
    if plan.plays(Part::Changes) {
        changes(&mut stage, plan, &mut outcome).await?;
    }
    if plan.plays(Part::Silence) {
        silence(&mut stage, plan, &mut outcome).await?;
    }
    if plan.plays(Part::Speed) {
        speed(&mut stage, plan, &mut outcome).await?;
    }
    if plan.plays(Part::Memory) {
        memory(&mut stage, plan, &mut outcome).await?;
    }
    let wrong = stage.close().await?;
    let always = Verdict {
        text: wrong.first().map_or_else(
            || "every answer right, every delivery signed and none left out".into(),
            |first| format!("{} things were wrong; the first: {first}", wrong.len()),
        ),
        ruling: if wrong.is_empty() {
            Ruling::Held
        } else {
            Ruling::Broken
        },
    };
    outcome.verdicts.insert(0, always);
    if quick {
        for verdict in &mut outcome.verdicts {
            if verdict.ruling == Ruling::Missed {
                verdict.ruling = Ruling::Told;
            }
        }
    }
    Ok(outcome)
}

/// Changes and uploads without endpoints and beside them, in turns.
async fn changes(stage: &mut Stage, plan: &Plan, outcome: &mut Outcome) -> Result<()> {
    let (mut without, mut beside, mut drains) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..plan.rounds {
        for arm in 0..2 {
            if (round + arm) % 2 == 0 {
                without.push(stage.load(plan.events, every(plan.per_s)).await?);
                continue;
            }
            let paths: Vec<String> = (0..plan.endpoints).map(|n| format!("/all/{n}")).collect();
            let mut ids = Vec::new();
            for path in &paths {
                ids.push(stage.endpoint(path, &[]).await?);
            }
            let begun = Instant::now();
            let loaded = stage.load(plan.events, every(plan.per_s)).await?;
            stage.told(&paths, loaded.events).await?;
            drains.push(begun.elapsed().as_secs_f64());
            beside.push(loaded);
            stage.remove(&ids).await?;
        }
    }
    let rate = f64::from(plan.events * plan.endpoints) / median(&drains);
    outcome.rows.push((
        format!(
            "{} x {} events at {}/s, {} endpoints: all were told after, s (deliveries/s)",
            plan.rounds, plan.events, plan.per_s, plan.endpoints
        ),
        format!("{:.1} ({rate:.0})", median(&drains)),
    ));
    for (what, of) in [
        ("change", Loaded::changes as fn(&Loaded) -> &Latency),
        ("upload of 16 KiB", Loaded::uploads),
    ] {
        let p99 = |runs: &[Loaded]| -> Vec<f64> {
            runs.iter().map(|run| of(run).percentile_ms(99.0)).collect()
        };
        let (alone, busy) = (p99(&without), p99(&beside));
        outcome.rows.push((
            format!("{what}, p99 ms without endpoints / beside them (each round)"),
            format!(
                "{:.1} ({}) / {:.1} ({})",
                median(&alone),
                each(&alone),
                median(&busy),
                each(&busy)
            ),
        ));
        let share = median(&busy) / median(&alone);
        outcome.verdicts.push(wanted(
            share <= 1.1,
            format!(
                "p99 of a {what} beside deliveries as a share of without: {share:.2}, at most 1.1"
            ),
        ));
    }
    Ok(())
}

/// One endpoint alone, and beside one that is waited for in vain, in turns.
async fn silence(stage: &mut Stage, plan: &Plan, outcome: &mut Outcome) -> Result<()> {
    const PER_S: u32 = 20;
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for round in 0..plan.rounds {
        for arm in 0..2 {
            let path = "/one".to_owned();
            let mut ids = vec![stage.endpoint(&path, &[]).await?];
            let with_silent = (round + arm) % 2 == 1;
            if with_silent {
                let timeout = ("timeout_ms", (u64::from(plan.silence_s) * 1_000).into());
                ids.push(stage.endpoint(SILENT, &[timeout]).await?);
            }
            let loaded = stage.load(plan.silence_s * PER_S, every(PER_S)).await?;
            let told = stage.told(&[path], loaded.events).await?;
            let runs = if with_silent { &mut beside } else { &mut alone };
            runs.extend(told.iter().map(|told| told.after.percentile_ms(99.0)));
            stage.remove(&ids).await?;
        }
    }
    outcome.rows.push((
        format!(
            "from event to receiver, p99 ms alone / beside one silent for {} s (each round)",
            plan.silence_s
        ),
        format!(
            "{:.0} ({}) / {:.0} ({})",
            median(&alone),
            each(&alone),
            median(&beside),
            each(&beside)
        ),
    ));
    let share = median(&beside) / median(&alone);
    outcome.verdicts.push(wanted(
        share < 1.1,
        format!(
            "p99 of an endpoint beside a silent one as a share of alone: {share:.2}, less than 1.1"
        ),
    ));
    Ok(())
}

/// What waits for one receiver that is asked as often as may be.
async fn speed(stage: &mut Stage, plan: &Plan, outcome: &mut Outcome) -> Result<()> {
    let path = "/fast".to_owned();
    let fast = [("rate_per_s", 10_000.into()), ("max_in_flight", 64.into())];
    let id = stage.endpoint(&path, &fast).await?;
    let begun = jiff::Timestamp::now();
    let events = stage.burst(plan.waiting).await?;
    stage.told(std::slice::from_ref(&path), events).await?;
    let mut rates = Vec::new();
    for _ in 0..plan.rounds {
        // What was taken last is written down a moment later.
        stage.waits(std::slice::from_ref(&id), 0).await?;
        stage.receiver.forget();
        stage.recover(&id, begun).await?;
        let told = stage.told(std::slice::from_ref(&path), events).await?;
        let span = told.first().and_then(|told| told.span);
        let (first, last) =
            span.ok_or_else(|| Failure::said("nothing came at a receiver that was told all"))?;
        rates.push(f64::from(events) / last.duration_since(first).as_secs_f64());
    }
    stage.remove(&[id]).await?;
    let (rate, least) = (median(&rates), plan.wanted_per_s());
    outcome.rows.push((
        format!("{events} deliveries that wait for one fast receiver, in a second (each round)"),
        format!("{rate:.0} ({})", each(&rates)),
    ));
    outcome.verdicts.push(wanted(
        rate >= least,
        format!("deliveries in a second to one fast receiver: {rate:.0}, at least {least:.0}"),
    ));
    Ok(())
}

/// Memory while a tenth waits, and while all of it does: for endpoints that never answer.
async fn memory(stage: &mut Stage, plan: &Plan, outcome: &mut Outcome) -> Result<()> {
    let mut ids = Vec::new();
    for n in 0..plan.endpoints {
        ids.push(stage.endpoint(&format!("{SILENT}{n}"), &[]).await?);
    }
    let events = (plan.queued / plan.endpoints).max(10);
    let pid = stage.gateway.pid();
    let mut seen = Vec::new();
    let mut waiting = 0;
    for count in [events / 10, events - events / 10] {
        let watch = Watch::start(pid)?;
        waiting += stage.burst(count).await?;
        stage.waits(&ids, waiting).await?;
        let now = status_bytes(pid, "VmRSS")?;
        seen.push((
            waiting * plan.endpoints,
            watch.stop().await?.peak_bytes,
            now,
        ));
    }
    stage.remove(&ids).await?;
    for (waiting, peak, now) in &seen {
        outcome.rows.push((
            format!("memory while {waiting} wait, MiB: peak / then"),
            format!("{:.1} / {:.1}", mib(*peak), mib(*now)),
        ));
    }
    if let [(_, some, _), (waiting, all, _)] = seen[..] {
        let share = mib(all) / mib(some);
        outcome.verdicts.push(wanted(
            share <= 1.2,
            format!("peak memory with {waiting} waiting as a share of a tenth of them: {share:.2}, at most 1.2"),
        ));
    }
    Ok(())
}

fn wanted(reached: bool, text: String) -> Verdict {
    let ruling = if reached {
        Ruling::Held
    } else {
        Ruling::Missed
    };
    Verdict { text, ruling }
}

fn every(per_s: u32) -> Duration {
    Duration::from_secs(1) / per_s.max(1)
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn each(figures: &[f64]) -> String {
    let texts = figures.iter().map(|figure| format!("{figure:.0}"));
    texts.collect::<Vec<_>>().join(" ")
}
