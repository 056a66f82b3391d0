//! `boxgate pull`: box files from a gateway.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use boxgate_storage::catalog::{BoxName, NameError, OrganizationName};
use clap::Args;
use indicatif::HumanBytes;
use serde_json::{Map, Value, json};

use super::connect::ConnectArgs;
use super::screen::{Audience, rate};
use super::transfer::{PaceArgs, Tally, shown};
use super::{Failure, say};
use crate::client::Client;
use crate::client::progress::Progress;
use crate::client::pull::choice::Wanted;
use crate::client::pull::{Notice, Order, PullError, Pulled, pull as fetch};

#[derive(Debug, Args)]
#[command(override_usage = "boxgate pull [OPTIONS] ORG/BOX[@VERSION]... [PROVIDER [ARCH]]")]
pub(super) struct PullArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Organization and box, and a version if it is not to be the newest: `acme/web`, `acme/web@1.0.0`; several, if
    /// wanted. Behind them provider and architecture, which may be left out where there is only one, or a default one.
    #[arg(required = true, value_name = "WORD")]
    words: Vec<String>,
    /// Where to; a file that is there is replaced once all of the new one is here and right
    /// [default: BOX-VERSION-PROVIDER-ARCH.box].
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Tell what happens as JSON on standard output, a document a line.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pace: PaceArgs,
}

pub(super) fn pull(args: &PullArgs) -> Result<(), Failure> {
    let orders = args.orders()?;
    let client = args.connect.client_of_anyone()?;
    args.pace.run(async {
        let mut tally = Tally::default();
        for (name, order) in &orders {
            let audience = if args.json {
                let names = [("box".to_owned(), name.as_str().into())];
                Audience::Program(Map::from_iter(names))
            } else {
                Audience::People
            };
            match one(&client, order, &audience).await {
                Ok(()) => tally.good(),
                Err(failure) => tally.bad(&audience, failure),
            }
        }
        tally.end("boxes are here", !args.json)
    })?
}

async fn one(client: &Client, order: &Order, audience: &Audience) -> Result<(), Failure> {
    audience.event("started", json!({ "gateway": client.base() }));
    let progress = Arc::new(Progress::default());
    let (pulled, took) = shown(audience.clone(), &progress, async |screen| {
        let tell = |notice: Notice| screen.tell(&notice);
        fetch(client, order, &progress, &tell).await
    })
    .await;
    let pulled = pulled?;
    match audience {
        Audience::People => say(&told(order, &pulled, took)),
        Audience::Program(_) => audience.event("finished", facts(&pulled, took)),
    }
    Ok(())
}

impl PullArgs {
    /// Each box as it was named, and what to fetch.
    fn orders(&self) -> Result<Vec<(String, Order)>, Failure> {
        let names: Vec<&String> = self.words.iter().take_while(|w| w.contains('/')).collect();
        let rest = &self.words[names.len()..];
        if names.is_empty() || rest.iter().any(|word| word.contains('/')) {
            return Err(Failure::Usage(format!(
                "{:?} names no box: it looks like ORGANIZATION/BOX or ORGANIZATION/BOX@VERSION",
                self.words
                    .iter()
                    .find(|w| !w.contains('/'))
                    .unwrap_or(&self.words[0])
            )));
        }
        let (provider, architecture) = match rest {
            [] => (None, None),
            [provider] => (Some(provider), None),
            [provider, architecture] => (Some(provider), Some(architecture)),
            [_, _, more, ..] => {
                return Err(Failure::Usage(format!(
                    "{more:?} is one word too many behind provider and architecture"
                )));
            }
        };
        if names.len() > 1 && self.output.is_some() {
            let text = "--output names one file, and several boxes are wanted: leave it out";
            return Err(Failure::Usage(text.into()));
        }
        if self
            .output
            .as_deref()
            .is_some_and(|path| path == Path::new("-"))
        {
            let text = "--output - is no file, and blocks come in any order: name one, or ./-";
            return Err(Failure::Usage(text.into()));
        }
        let order = |name: &&String| {
            let (organization, box_name, version) = named(name)?;
            let order = Order {
                organization,
                name: box_name,
                wanted: Wanted {
                    version,
                    provider: provider.cloned(),
                    architecture: architecture.cloned(),
                },
                output: self.output.clone(),
                streams: self.pace.streams(),
                tries: self.pace.tries,
            };
            Ok(((*name).clone(), order))
        };
        names.iter().map(order).collect()
    }
}

fn named(text: &str) -> Result<(OrganizationName, BoxName, Option<String>), Failure> {
    let (name, version) = match text.split_once('@') {
        Some((name, version)) => (name, Some(version.to_owned())),
        None => (text, None),
    };
    let (organization, name) = name.split_once('/').unwrap_or((name, ""));
    let wrong = |e: NameError| Failure::Usage(e.to_string());
    Ok((
        organization.parse().map_err(wrong)?,
        name.parse().map_err(wrong)?,
        version,
    ))
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

/// The same for a program.
fn facts(pulled: &Pulled, took: Duration) -> Value {
    let chosen = &pulled.chosen;
    json!({
        "file": pulled.path.to_string_lossy(),
        "version": chosen.version,
        "provider": chosen.provider,
        "architecture": chosen.architecture,
        "length": chosen.length,
        "fetched": chosen.length - pulled.held_before,
        "seconds": took.as_secs_f64(),
        "sha256": pulled.sha256.to_hex(),
        "blake3": chosen.blake3.to_hex(),
    })
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
