//! `boxgate push`: files to a gateway.

mod job;

use std::path::PathBuf;
use std::time::Duration;

use boxgate_storage::catalog::BoxRef;
use clap::Args;
use indicatif::HumanBytes;
use serde_json::{Map, Value, json};

use super::connect::ConnectArgs;
use super::screen::{Audience, rate};
use super::transfer::{PaceArgs, Tally, shown};
use super::{Failure, say};
use crate::client::catalog::{Texts, is_closed};
use crate::client::push::{Notice, Order, Progress, PushError, Pushed, push as send};
use crate::client::{Client, ClientError};
use job::{About, Job, Words};

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
#[command(
    override_usage = "boxgate push [OPTIONS] FILE ORG/BOX VERSION [PROVIDER [ARCH]]
       boxgate push [OPTIONS] --to ORG/BOX/VERSION[/PROVIDER[/ARCH]] FILE..."
)]
pub(super) struct PushArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// The file, and what it becomes: `acme/web`, `1.0.0`, `virtualbox`, `amd64`. Provider and architecture may be left
    /// out where the box says them itself. With --to files alone; with a document that names box and version files alone,
    /// too, or a file and words that say it otherwise.
    #[arg(required = true, value_name = "WORD")]
    words: Vec<String>,
    /// What each file becomes; {stem} is its name without its ending, {provider} and {architecture} what it says itself.
    #[arg(long, value_name = "ORG/BOX/VERSION[/PROVIDER[/ARCH]]")]
    to: Option<String>,
    /// A JSON document with any of `name` (ORG/BOX), `version`, `provider`, `architecture`, which say what was left out, and
    /// `short_description`, `description`, `version_description`, which are shown with the box.
    #[arg(long, value_name = "FILE")]
    box_metadata: Option<PathBuf>,
    /// Release the version once its files are there, if it was made unreleased or was revoked.
    #[arg(long)]
    release: bool,
    /// Read the file for its digest first, and send nothing where the organization holds those bytes already.
    #[arg(long)]
    digest_first: bool,
    /// Tell what happens as JSON on standard output, a document a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pace: PaceArgs,
    /// Give up what an earlier push of this file began, and begin anew.
    #[arg(long)]
    afresh: bool,
}

pub(super) fn push(args: &PushArgs) -> Result<(), Failure> {
    let about = match &args.box_metadata {
        Some(path) => About::read(path)?,
        None => About::default(),
    };
    let words = Words {
        said: &args.words,
        to: args.to.as_deref(),
        about: &about,
    };
    let jobs = words.jobs()?;
    let client = args.connect.client()?;
    args.pace.run(async {
        let mut tally = Tally::default();
        let mut whole = Vec::new();
        for job in &jobs {
            let audience = args.audience(&job.target, Some(job));
            match args.one(&client, job, &audience).await {
                Ok(()) => {
                    whole.push(&job.target);
                    tally.good();
                }
                Err(failure) => tally.bad(&audience, failure),
            }
        }
        let all = whole.len() == jobs.len();
        for file in firsts_of_versions(&whole) {
            let audience = args.audience(file, None);
            if let Err(failure) = args.dress(&client, file, &about.texts(), all).await {
                tally.worse(&audience, failure);
            }
        }
        tally.end("files are published", !args.json)
    })?
}

impl PushArgs {
    fn audience(&self, target: &BoxRef, job: Option<&Job>) -> Audience {
        if !self.json {
            return Audience::People;
        }
        let mut names = Map::new();
        if let Some(job) = job {
            names.insert("file".into(), job.file.to_string_lossy().into());
        }
        names.insert("target".into(), target.to_string().into());
        Audience::Program(names)
    }

    async fn one(&self, client: &Client, job: &Job, audience: &Audience) -> Result<(), Failure> {
        let order = Order {
            file: job.file.clone(),
            target: job.target.clone(),
            streams: self.pace.streams(),
            tries: self.pace.tries,
            afresh: self.afresh,
            digest_first: self.digest_first,
        };
        audience.event("started", json!({ "gateway": client.base() }));
        let progress = Progress::default();
        let (pushed, took) = shown(audience.clone(), &progress, async |screen| {
            let tell = |notice: Notice| screen.tell(&notice);
            send(client, &order, &progress, &tell).await
        })
        .await;
        let pushed = pushed?;
        match audience {
            Audience::People => say(&told(&order.target, client.base(), &pushed, took)),
            Audience::Program(_) => {
                let facts = facts(&order.target, client.base(), &pushed, took);
                audience.event("finished", facts);
            }
        }
        Ok(())
    }

    /// What is said of a box and its version, and that it is released, where all files of it are there.
    async fn dress(
        &self,
        client: &Client,
        file: &BoxRef,
        texts: &Texts,
        all: bool,
    ) -> Result<(), Failure> {
        let said = client.describe(file, texts).await;
        said.map_err(|e| undressed(file, "its texts are not changed", e))?;
        if self.release && all {
            let released = client.release(file).await;
            released.map_err(|e| undressed(file, "its version is not released", e))?;
        }
        Ok(())
    }
}

/// A box that is there and yet not all that was wanted.
fn undressed(file: &BoxRef, what: &str, error: ClientError) -> Failure {
    let hint = if is_closed(&error) {
        " (that goes by the API of Vagrant Cloud, which this gateway has switched off or moved)"
    } else {
        ""
    };
    let text = format!("{file} is there, but {what}{hint}: {error}");
    match Failure::from(error) {
        Failure::Again(_) => Failure::Again(text),
        _ => Failure::Failed(text),
    }
}

/// One file of each version.
fn firsts_of_versions<'a>(files: &[&'a BoxRef]) -> Vec<&'a BoxRef> {
    let mut firsts: Vec<&BoxRef> = Vec::new();
    for &file in files {
        let is_same = |other: &&BoxRef| {
            (&other.organization, &other.name, &other.version)
                == (&file.organization, &file.name, &file.version)
        };
        if !firsts.iter().any(is_same) {
            firsts.push(file);
        }
    }
    firsts
}

fn url(target: &BoxRef, base: &str, pushed: &Pushed) -> String {
    let BoxRef {
        organization,
        name,
        version,
        provider,
        architecture,
    } = target;
    let digest = &pushed.outcome.blake3;
    format!(
        "{base}/{organization}/boxes/{name}/versions/{version}/providers/{provider}/{architecture}/vagrant.box?b3={digest}"
    )
}

fn told(target: &BoxRef, base: &str, pushed: &Pushed, took: Duration) -> String {
    let outcome = &pushed.outcome;
    let sent = outcome.length - pushed.held_before;
    let mut text = format!(
        "{} is published: {}, {} sent in {:.1} s ({})
sha256  {}
blake3  {}
url     {}",
        target.spoken(),
        HumanBytes(outcome.length),
        HumanBytes(sent),
        took.as_secs_f64(),
        rate(sent, took),
        outcome.sha256,
        outcome.blake3,
        url(target, base, pushed),
    );
    for warning in &outcome.warnings {
        text.extend(["\nwarning ", warning]);
    }
    text
}

/// The same for a program.
fn facts(target: &BoxRef, base: &str, pushed: &Pushed, took: Duration) -> Value {
    let outcome = &pushed.outcome;
    json!({
        "length": outcome.length,
        "sent": outcome.length - pushed.held_before,
        "was_known": pushed.was_known,
        "seconds": took.as_secs_f64(),
        "sha256": outcome.sha256,
        "blake3": outcome.blake3,
        "url": url(target, base, pushed),
        "warnings": outcome.warnings,
    })
}

impl From<PushError> for Failure {
    fn from(error: PushError) -> Self {
        let text = error.to_string();
        match error {
            PushError::Unreadable { .. } | PushError::Empty(_) => Self::Usage(text),
            PushError::Running(_) | PushError::GivenUp { .. } => Self::Again(text),
            PushError::Refused(error) if error.status() == Some(507) => {
                let text = format!("{error} The same command goes on once there is room");
                Self::Again(text)
            }
            PushError::Refused(error) => error.into(),
            PushError::Changed(_)
            | PushError::Elsewhere { .. }
            | PushError::Gone
            | PushError::TakenOver
            | PushError::Differs { .. }
            | PushError::WrongDigest { .. } => Self::Failed(text),
        }
    }
}
