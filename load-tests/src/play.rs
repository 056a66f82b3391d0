//! Plays a scenario: gateways come and go, steps are timed, and what was wrong is collected.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::baseline;
use crate::content::{Block, Content, Digests};
use crate::deployed::{Deployed, Looking, Spent};
use crate::error::{Failure, Result};
use crate::gateway::{self, Gateway};
use crate::latency::Latency;
use crate::process::{Cpu, Memory, Watch};
use crate::scenario::{Figure, Kind, Scenario, Step};
use crate::server::Server;
use crate::worker::{self, Done, Job};

/// Where things are.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The program under test.
    pub(crate) gateway: PathBuf,
    /// The file system that is measured.
    pub(crate) directory: PathBuf,
    /// A gateway that runs elsewhere, instead of the program.
    pub(crate) deployed: Option<Deployed>,
}

/// What came of a scenario.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// In the order of the steps.
    pub(crate) steps: Vec<Played>,
    /// What was not right, in words.
    pub(crate) wrong: Vec<String>,
    /// Why a gateway elsewhere tells neither CPU nor memory.
    pub(crate) hidden: Option<String>,
    /// Whether the gateway was somebody else's, which has a history and settings of its own.
    pub(crate) is_elsewhere: bool,
}

impl Outcome {
    /// Adds further rounds of the same scenario.
    pub(crate) fn add(&mut self, other: Self) {
        for (step, more) in self.steps.iter_mut().zip(other.steps) {
            step.rounds.extend(more.rounds);
            step.latency.add(&more.latency);
        }
        self.wrong.extend(other.wrong);
        self.hidden = self.hidden.take().or(other.hidden);
    }

    /// The geometric mean of a figure over all steps that have it.
    pub(crate) fn mean(&self, figure: Figure) -> Option<f64> {
        let logarithms: Vec<f64> = self
            .steps
            .iter()
            .filter(|step| step.is_served())
            .filter_map(|step| Some(step.figure(figure)?.ln()))
            .collect();
        #[expect(clippy::cast_precision_loss, reason = "steps of a scenario")]
        let count = logarithms.len() as f64;
        (count > 0.0).then(|| (logarithms.iter().sum::<f64>() / count).exp())
    }
}

/// What came of a step.
#[derive(Debug)]
pub(crate) struct Played {
    /// Its name.
    pub(crate) name: String,
    /// How many of what length, for people.
    pub(crate) size: String,
    /// Bytes of all its uploads or downloads in one round.
    pub(crate) bytes: u64,
    /// One per round.
    pub(crate) rounds: Vec<Round>,
    /// Over all rounds.
    pub(crate) latency: Latency,
}

/// One step in one round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Round {
    /// From the first intended start to the last answer.
    pub(crate) wall: Duration,
    /// CPU time of the gateway; absent where none is involved, or one does not tell.
    pub(crate) cpu: Option<Cpu>,
    /// Memory of the gateway.
    pub(crate) memory: Option<Memory>,
    /// Transfers that failed, whose bytes nobody may count as moved.
    pub(crate) failed: usize,
}

/// An upload that downloads may fetch.
#[derive(Debug, Clone)]
struct Uploaded {
    path: String,
    content: Content,
    digests: Digests,
}

/// What is loaded.
#[derive(Debug)]
enum Served {
    /// A gateway of our own.
    Own(Box<Gateway>),
    /// One that runs elsewhere, and stays.
    Elsewhere(Deployed),
}

impl Served {
    fn server(&self) -> Server {
        match self {
            Self::Own(gateway) => gateway.address().into(),
            Self::Elsewhere(deployed) => deployed.server.clone(),
        }
    }

    fn key(&self) -> &str {
        match self {
            Self::Own(gateway) => gateway.key(),
            Self::Elsewhere(deployed) => &deployed.token,
        }
    }

    fn organization(&self) -> &str {
        match self {
            Self::Own(gateway) => gateway.organization(),
            Self::Elsewhere(deployed) => &deployed.organization,
        }
    }

    /// Its name of a box.
    fn box_name(&self, short: &str) -> String {
        match self {
            Self::Own(_) => format!("load-{short}"),
            Self::Elsewhere(deployed) => deployed.give(short),
        }
    }

    /// Begins to measure. Where it does not tell, why.
    async fn meter(&self) -> Result<std::result::Result<Meter, String>> {
        match self {
            Self::Own(gateway) => {
                let pid = gateway.pid();
                let (watch, before) = (Watch::start(pid)?, Cpu::of(pid)?);
                Ok(Ok(Meter::Kernel(pid, watch, before)))
            }
            Self::Elsewhere(deployed) => Ok(match deployed.spent().await {
                Ok(before) => Ok(Meter::Told(deployed.clone(), deployed.look(), before)),
                Err(failure) => Err(failure.to_string()),
            }),
        }
    }
}

/// What tells CPU and memory: the kernel, or what the gateway says of itself.
enum Meter {
    Kernel(u32, Watch, Cpu),
    Told(Deployed, Looking, Spent),
}

impl Meter {
    /// What was found; where it is not told, why.
    async fn stop(self) -> Result<std::result::Result<(Cpu, Option<Memory>), String>> {
        match self {
            Self::Kernel(pid, watch, before) => {
                let cpu = Cpu::of(pid)?.since(before);
                Ok(Ok((cpu, Some(watch.stop().await?))))
            }
            Self::Told(deployed, looking, before) => {
                let spent = match (deployed.cpu_since(before).await, looking.why()) {
                    (_, Some(why)) => return Ok(Err(why.to_owned())),
                    (Err(failure), None) => return Ok(Err(failure.to_string())),
                    (Ok(spent), None) => spent,
                };
                // It tells one sum, which stands for both.
                let cpu = Cpu {
                    user_s: spent,
                    system_s: 0.0,
                };
                let memory = looking.stop().map(|peak_bytes| Memory {
                    peak_bytes,
                    anonymous_bytes: 0,
                });
                Ok(Ok((cpu, memory)))
            }
        }
    }
}

struct Player<'a> {
    scenario: &'a Scenario,
    options: &'a Options,
    block: Block,
    gateway: Option<Served>,
    /// Uploads of a step in the gateway that runs now.
    uploaded: BTreeMap<String, Vec<Uploaded>>,
    dd_source: Option<PathBuf>,
    salt: u64,
    played: Vec<Played>,
    wrong: Vec<String>,
    hidden: Option<String>,
    /// Paths of uploads that were refused in this step.
    refused: BTreeSet<String>,
    /// Boxes that were made, or may have been.
    made: BTreeSet<String>,
}

/// Plays all steps in all rounds.
///
/// # Errors
/// When there is no result: a program is missing, a gateway does not start.
pub(crate) async fn play(scenario: &Scenario, options: &Options) -> Result<Outcome> {
    std::fs::create_dir_all(&options.directory)
        .map_err(|e| Failure::file(&options.directory, e))?;
    let played = scenario.steps.iter().map(|step| Played {
        name: step.name.clone(),
        size: step.size(),
        bytes: step.length.0 * u64::from(step.count),
        rounds: Vec::new(),
        latency: Latency::default(),
    });
    let mut player = Player {
        scenario,
        options,
        block: Block::random(),
        gateway: None,
        uploaded: BTreeMap::new(),
        dd_source: None,
        salt: 0,
        played: played.collect(),
        wrong: Vec::new(),
        hidden: None,
        refused: BTreeSet::new(),
        made: BTreeSet::new(),
    };
    for round in 0..scenario.rounds {
        for (index, step) in scenario.steps.iter().enumerate() {
            player.step(index, step, round).await?;
        }
    }
    player.stop_gateway().await?;
    if let Some(source) = player.dd_source {
        std::fs::remove_file(&source).map_err(|e| Failure::file(&source, e))?;
    }
    Ok(Outcome {
        steps: player.played,
        wrong: player.wrong,
        hidden: player.hidden,
        is_elsewhere: options.deployed.is_some(),
    })
}

impl Player<'_> {
    async fn step(&mut self, index: usize, step: &Step, round: u32) -> Result<()> {
        let measured = match step.kind {
            Kind::Upload => self.upload(index, step, round).await?,
            Kind::Download => self.download(index, step, round).await?,
            Kind::Dd | Kind::DdDirect => {
                if self.dd_source.is_none() {
                    let content = self.fresh_content(step);
                    self.dd_source = Some(baseline::source(&self.options.directory, &content)?);
                }
                let source = self.dd_source.as_deref().expect("it was made above");
                alone(baseline::dd(source, step.kind == Kind::DdDirect).await?)
            }
            Kind::LoopbackUp => {
                let content = self.fresh_content(step);
                alone(baseline::loopback_up(&content).await?)
            }
            Kind::LoopbackDown => {
                let content = self.fresh_content(step);
                alone(baseline::loopback_down(&content).await?)
            }
        };
        self.played[index].rounds.push(measured);
        Ok(())
    }

    async fn upload(&mut self, index: usize, step: &Step, round: u32) -> Result<Round> {
        if step.fresh && self.options.deployed.is_none() {
            self.stop_gateway().await?;
        }
        let mut jobs = Vec::new();
        let mut names = Vec::new();
        for i in 0..step.count {
            let content = self.fresh_content(step);
            let gateway = self.gateway().await?;
            let name = gateway.box_name(&format!("{index}-{i}"));
            let version = format!("1.0.{round}");
            let path = gateway::file_path(gateway.organization(), &name, &version);
            names.push((path.clone(), name));
            jobs.push(Job {
                server: gateway.server(),
                key: gateway.key().to_owned(),
                path,
                begin: Instant::now(),
                content,
                digests: Digests {
                    blake3: String::new(),
                    sha256: String::new(),
                },
            });
        }
        let jobs = digested(jobs).await;
        let uploaded = jobs.iter().map(|job| Uploaded {
            path: job.path.clone(),
            content: job.content.clone(),
            digests: job.digests.clone(),
        });
        self.uploaded.insert(step.name.clone(), uploaded.collect());
        let carrier = step.carrier;
        let measured = self
            .timed(index, step, jobs, move |job| worker::upload(job, carrier))
            .await?;
        for (path, name) in names {
            let was_refused = self.refused.remove(&path);
            match &self.options.deployed {
                Some(deployed) if was_refused && !self.made.contains(&name) => {
                    deployed.never_made(&name);
                }
                _ if was_refused => {}
                _ => {
                    self.made.insert(name);
                }
            }
        }
        Ok(measured)
    }

    async fn download(&mut self, index: usize, step: &Step, round: u32) -> Result<Round> {
        let of = step
            .of
            .as_ref()
            .and_then(|of| self.uploaded.get(of))
            .cloned();
        let of = of.unwrap_or_default();
        let gateway = self.gateway().await?;
        let job = |uploaded: &Uploaded| Job {
            server: gateway.server(),
            key: gateway.key().to_owned(),
            path: uploaded.path.clone(),
            begin: Instant::now(),
            content: uploaded.content.clone(),
            digests: uploaded.digests.clone(),
        };
        let all = of
            .iter()
            .cycle()
            .take(usize::try_from(step.count).unwrap_or(usize::MAX));
        let jobs: Vec<Job> = all.map(job).collect();
        // Not timed: warms the page cache, and compares by digest.
        let compare = jobs.first().cloned();
        if !step.cold {
            self.compare(step, compare.clone()).await;
        }
        let measured = self.timed(index, step, jobs, worker::download).await?;
        if step.cold && round == 0 {
            self.compare(step, compare).await;
        }
        Ok(measured)
    }

    async fn compare(&mut self, step: &Step, job: Option<Job>) {
        if let Some(job) = job {
            let done = worker::compare(job).await;
            self.wrong
                .extend(done.wrong.map(|wrong| format!("{}: {wrong}", step.name)));
        }
    }

    /// Runs all jobs, each at its intended time, and measures the gateway meanwhile.
    async fn timed<F>(
        &mut self,
        index: usize,
        step: &Step,
        mut jobs: Vec<Job>,
        work: impl Fn(Job) -> F,
    ) -> Result<Round>
    where
        F: Future<Output = Done> + Send + 'static,
    {
        let meter = self.gateway().await?.meter().await?;
        let meter = meter.map_err(|hidden| self.hidden = Some(hidden)).ok();
        let begin = Instant::now();
        for (i, job) in (0..).zip(&mut jobs) {
            job.begin = begin + Duration::from_millis(step.every_ms) * i;
        }
        let mut workers: JoinSet<Done> = jobs.into_iter().map(work).collect();
        let mut wrong = Vec::new();
        let mut failed = 0;
        while let Some(done) = workers.join_next().await {
            let done = done.expect("a worker does not panic and is not aborted");
            // How long a failure took is no latency of a transfer.
            if done.wrong.is_none() {
                self.played[index].latency.record(done.latency);
            } else {
                failed += 1;
            }
            wrong.extend(done.wrong);
            self.refused.extend(done.refused);
        }
        let wall = begin.elapsed();
        let gateway = self.gateway().await?;
        // Elsewhere others may upload.
        if let Served::Own(gateway) = gateway {
            let left = gateway.quiet().await?;
            if left > 0.0 {
                wrong.push(format!("{left} uploads stay in progress"));
            }
        }
        let mut told = None;
        if let Some(meter) = meter {
            let stopped = meter.stop().await?;
            told = stopped.map_err(|hidden| self.hidden = Some(hidden)).ok();
        }
        let cpu = told.map(|(cpu, _)| cpu);
        let memory = told.and_then(|(_, memory)| memory);
        self.wrong.extend(
            wrong
                .into_iter()
                .map(|wrong| format!("{}: {wrong}", step.name)),
        );
        Ok(Round {
            wall,
            cpu,
            memory,
            failed,
        })
    }

    fn fresh_content(&mut self, step: &Step) -> Content {
        self.salt += 1;
        Content::new(&self.block, self.salt, step.length.0)
    }

    /// The gateway that runs; started if none does.
    async fn gateway(&mut self) -> Result<&Served> {
        if self.gateway.is_none() {
            let Options {
                gateway,
                directory,
                deployed,
            } = self.options;
            self.gateway = Some(if let Some(deployed) = deployed {
                Served::Elsewhere(deployed.clone())
            } else {
                let settings = &self.scenario.gateway;
                let started = Box::pin(Gateway::start(gateway, directory, settings)).await?;
                Served::Own(Box::new(started))
            });
        }
        Ok(self.gateway.as_ref().expect("it was started above"))
    }

    /// Stops the gateway and looks at what it says about itself.
    async fn stop_gateway(&mut self) -> Result<()> {
        let gateway = match self.gateway.take() {
            None => return Ok(()),
            Some(Served::Own(gateway)) => gateway,
            Some(Served::Elsewhere(deployed)) => {
                self.uploaded.clear();
                self.wrong.extend(deployed.leave().await);
                return Ok(());
            }
        };
        self.uploaded.clear();
        let metrics = gateway.metrics().await?;
        for (name, label, what) in [
            (
                "boxgate_http_request_seconds_count",
                "status=\"5xx\"",
                "answers of 500 and above",
            ),
            ("boxgate_http_panics_total", "", "panics"),
            ("boxgate_downloads_broken_total", "", "broken downloads"),
            (
                "boxgate_uploads_in_progress",
                "",
                "uploads still in progress",
            ),
        ] {
            match metrics.sum(name, label) {
                // A series that never moved may be absent; a metric that is renamed must not be.
                None if name == "boxgate_downloads_broken_total" => {}
                None => self.wrong.push(format!("there is no metric {name}")),
                Some(count) if count > 0.0 => self.wrong.push(format!("{count} {what}")),
                Some(_) => {}
            }
        }
        let data = gateway.site().data.clone();
        if !gateway.stop().await? {
            self.wrong
                .push("the gateway did not end well within a minute of SIGTERM".into());
        }
        gateway::remove(&data)?;
        Ok(())
    }
}

/// A round that no gateway took part in.
fn alone(wall: Duration) -> Round {
    Round {
        wall,
        cpu: None,
        memory: None,
        failed: 0,
    }
}

/// The jobs with their digests, which takes about a second per GB and core.
async fn digested(jobs: Vec<Job>) -> Vec<Job> {
    let hashing: Vec<_> = jobs
        .into_iter()
        .map(|job| {
            tokio::task::spawn_blocking(move || Job {
                digests: job.content.digests(),
                ..job
            })
        })
        .collect();
    let mut digested = Vec::new();
    for job in hashing {
        digested.push(job.await.expect("hashing does not panic"));
    }
    digested
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::tests::serving;
    use crate::scenario;

    #[tokio::test]
    async fn a_refused_upload_gives_no_figure_and_leaves_no_box() {
        let (deployed, asked) = serving(|method| if method == "POST" { "413" } else { "403" });
        let name = format!("play-refused-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let file = directory.join("small.toml");
        let text = "question = 'q'\nrounds = 2\n\
                    [[step]]\nname = 'a'\nkind = 'upload'\nlength = '64KiB'\ncount = 2\n";
        std::fs::write(&file, text).unwrap();
        let scenario = scenario::find(file.to_str().unwrap()).unwrap();
        let options = Options {
            gateway: PathBuf::from("none"),
            directory: directory.clone(),
            deployed: Some(deployed),
        };
        let outcome = play(&scenario, &options).await.unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        let step = &outcome.steps[0];
        assert_eq!((step.failed(), step.is_served()), (4, false));
        assert_eq!(step.figure(Figure::GbPerS), None);
        assert_eq!(outcome.mean(Figure::GbPerS), None);
        assert!(outcome.wrong[0].contains("413"), "{:?}", outcome.wrong);
        assert!(!asked.lock().unwrap().contains(&"DELETE".to_owned()));
    }
}
