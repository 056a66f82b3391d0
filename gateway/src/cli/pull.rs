//! `boxgate pull`: one box file from a gateway.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use boxgate_storage::catalog::NameError;
use clap::Args;
use indicatif::HumanBytes;

use super::connect::ConnectArgs;
use super::screen::rate;
use super::transfer::PaceArgs;
use super::{Failure, say};
use crate::client::progress::Progress;
use crate::client::pull::choice::Wanted;
use crate::client::pull::{Notice, Order, PullError, Pulled, pull as fetch};

#[derive(Debug, Args)]
pub(super) struct PullArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Organization and box, and a version if it is not to be the newest: `acme/web`, `acme/web@1.0.0`.
    #[arg(value_name = "ORG/BOX[@VERSION]")]
    name: String,
    /// Provider: `virtualbox`. May be left out where there is only one.
    provider: Option<String>,
    /// Architecture: `amd64`. May be left out where there is only one, or a default one.
    #[arg(value_name = "ARCH")]
    architecture: Option<String>,
    /// Where to; a file that is there is replaced once all of the new one is here and right
    /// [default: BOX-VERSION-PROVIDER-ARCH.box].
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    pace: PaceArgs,
}

pub(super) fn pull(args: &PullArgs) -> Result<(), Failure> {
    let order = order(args)?;
    let client = args.connect.client_of_anyone()?;
    let progress = Arc::new(Progress::default());
    let (pulled, took) = args.pace.run(&progress, async |screen| {
        let tell = |notice: Notice| screen.tell(&notice, notice.why());
        fetch(&client, &order, &progress, &tell).await
    })?;
    say(&told(&order, &pulled?, took));
    Ok(())
}

fn order(args: &PullArgs) -> Result<Order, Failure> {
    let (name, version) = match args.name.split_once('@') {
        Some((name, version)) => (name, Some(version.to_owned())),
        None => (args.name.as_str(), None),
    };
    let Some((organization, name)) = name.split_once('/') else {
        return Err(Failure::Usage(format!(
            "{:?} names no box: it looks like ORGANIZATION/BOX or ORGANIZATION/BOX@VERSION",
            args.name
        )));
    };
    let wrong = |e: NameError| Failure::Usage(e.to_string());
    Ok(Order {
        organization: organization.parse().map_err(wrong)?,
        name: name.parse().map_err(wrong)?,
        wanted: Wanted {
            version,
            provider: args.provider.clone(),
            architecture: args.architecture.clone(),
        },
        output: args.output.clone(),
        streams: args.pace.streams(),
        tries: args.pace.tries,
    })
}

fn told(order: &Order, pulled: &Pulled, took: Duration) -> String {
    let Order {
        organization, name, ..
    } = order;
    let chosen = &pulled.chosen;
    let fetched = chosen.length - pulled.held_before;
    format!(
        "{organization}/{name} {} for {} on {} is in {}: {}, {} fetched in {:.1} s ({})
sha256  {}
blake3  {}",
        chosen.version,
        chosen.provider,
        chosen.architecture,
        pulled.path.display(),
        HumanBytes(chosen.length),
        HumanBytes(fetched),
        took.as_secs_f64(),
        rate(fetched, took),
        pulled.sha256.to_hex(),
        chosen.blake3.to_hex(),
    )
}

impl From<PullError> for Failure {
    fn from(error: PullError) -> Self {
        let text = error.to_string();
        match error {
            PullError::Running(_) | PullError::GivenUp { .. } => Self::Again(text),
            PullError::Refused(error) => error.into(),
            PullError::Choice { .. }
            | PullError::Disk { .. }
            | PullError::WrongTree { .. }
            | PullError::Lies { .. }
            | PullError::BadDisk(_)
            | PullError::Gone { .. } => Self::Failed(text),
        }
    }
}
