//! `boxgate push`: one file to a gateway.

use std::path::PathBuf;
use std::time::Duration;

use boxgate_storage::catalog::BoxRef;
use clap::Args;
use indicatif::HumanBytes;
use tokio::runtime::Runtime;
use tokio::time::Instant;

use super::connect::ConnectArgs;
use super::screen::{Screen, rate};
use super::{Failure, say};
use crate::client::push::{Notice, Order, Progress, PushError, Pushed, push as send};

/// One stream does not fill a path with latency, for TCP's window and for the commit that each part
/// waits for; four do on most, and their loss of one another's work after a cut stays small. More than
/// the gateway's window of parts have nothing to send.
pub(super) const STREAMS: u64 = 4;
pub(super) const MOST_STREAMS: u64 = 16;
/// With waits that double up to 30 s this is some four minutes without any progress.
pub(super) const TRIES: u32 = 12;

#[derive(Debug, Args)]
pub(super) struct PushArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// The file.
    file: PathBuf,
    /// Organization and box: `acme/web`.
    #[arg(value_name = "ORG/BOX")]
    name: String,
    /// Version: `1.0.0`.
    version: String,
    /// Provider: `virtualbox`.
    provider: String,
    /// Architecture: `amd64`.
    #[arg(value_name = "ARCH")]
    architecture: String,
    /// Parts sent at once.
    #[arg(long, value_name = "N", default_value_t = STREAMS,
        value_parser = clap::value_parser!(u64).range(1..=MOST_STREAMS))]
    streams: u64,
    /// Tries that may fail one after the other before it is given up for now.
    #[arg(long, value_name = "N", default_value_t = TRIES,
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    tries: u32,
    /// Give up what an earlier push of this file began, and begin anew.
    #[arg(long)]
    afresh: bool,
}

pub(super) fn push(args: &PushArgs) -> Result<(), Failure> {
    let target = target(args)?;
    let client = args.connect.client()?;
    let order = Order {
        file: args.file.clone(),
        target,
        streams: usize::try_from(args.streams).unwrap_or(1),
        tries: args.tries,
        afresh: args.afresh,
    };
    runtime(order.streams)?.block_on(async {
        let progress = Progress::default();
        let screen = Screen::new();
        let began = Instant::now();
        let tell = |notice: Notice| {
            let why = match &notice {
                Notice::Again { why, .. } => Some(why.to_string()),
                _ => None,
            };
            screen.tell(&notice.to_string(), why);
        };
        let pushed = tokio::select! {
            pushed = send(&client, &order, &progress, &tell) => pushed,
            never = screen.follow(&progress) => match never {},
        };
        screen.leave();
        let pushed = pushed?;
        say(&told(
            &order.target,
            client.base(),
            &pushed,
            began.elapsed(),
        ));
        Ok(())
    })
}

/// Threads that read the file are as few as can be busy at once: one for each stream, one that hashes, one
/// that looks up the host. tokio's own limit is 512, and each keeps some MiB of buffers once it ran.
pub(super) fn runtime(streams: usize) -> Result<Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(streams + 2)
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(&e))
}

fn target(args: &PushArgs) -> Result<BoxRef, Failure> {
    let Some((organization, name)) = args.name.split_once('/') else {
        return Err(Failure::Usage(format!(
            "{:?} names no box: it looks like ORGANIZATION/BOX",
            args.name
        )));
    };
    let names = || {
        Ok(BoxRef {
            organization: organization.parse()?,
            name: name.parse()?,
            version: args.version.parse()?,
            provider: args.provider.parse()?,
            architecture: args.architecture.parse()?,
        })
    };
    names().map_err(|e: boxgate_storage::catalog::NameError| Failure::Usage(e.to_string()))
}

fn told(target: &BoxRef, base: &str, pushed: &Pushed, took: Duration) -> String {
    let BoxRef {
        organization,
        name,
        version,
        provider,
        architecture,
    } = target;
    let outcome = &pushed.outcome;
    let sent = outcome.length - pushed.held_before;
    let rate = rate(sent, took);
    let mut text = format!(
        "{organization}/{name} {version} for {provider} on {architecture} is published: {}, {} sent in {:.1} s ({})
sha256  {}
blake3  {}
url     {base}/{organization}/boxes/{name}/versions/{version}/providers/{provider}/{architecture}/vagrant.box?b3={}",
        HumanBytes(outcome.length),
        HumanBytes(sent),
        took.as_secs_f64(),
        rate,
        outcome.sha256,
        outcome.blake3,
        outcome.blake3,
    );
    for warning in &outcome.warnings {
        text.extend(["\nwarning ", warning]);
    }
    text
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
            | PushError::State { .. }
            | PushError::Gone
            | PushError::TakenOver
            | PushError::Differs { .. }
            | PushError::WrongDigest { .. } => Self::Failed(text),
        }
    }
}
