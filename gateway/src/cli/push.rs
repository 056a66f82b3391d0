//! `boxgate push`: one file to a gateway.

use std::path::PathBuf;
use std::time::Duration;

use boxgate_storage::catalog::BoxRef;
use clap::Args;
use indicatif::HumanBytes;

use super::connect::ConnectArgs;
use super::screen::rate;
use super::transfer::PaceArgs;
use super::{Failure, say};
use crate::client::push::{Notice, Order, Progress, PushError, Pushed, push as send};

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
    #[command(flatten)]
    pace: PaceArgs,
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
        streams: args.pace.streams(),
        tries: args.pace.tries,
        afresh: args.afresh,
    };
    let progress = Progress::default();
    let (pushed, took) = args.pace.run(&progress, async |screen| {
        let tell = |notice: Notice| screen.tell(&notice, notice.why());
        send(&client, &order, &progress, &tell).await
    })?;
    say(&told(&order.target, client.base(), &pushed?, took));
    Ok(())
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
