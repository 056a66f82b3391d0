//! `boxgate admin import`: what another kind of server serves, brought into the catalog by the gateway that runs, or from
//! here while none does.

use std::path::{Path, PathBuf};

use boxgate_storage::catalog::{ArchitectureName, OrganizationName};
use clap::{Args, Subcommand};
use http::Method;
use indicatif::HumanBytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::connect::ConnectArgs;
use super::upkeep::{Printer, cannot_look, path, to_be_asked};
use super::{ConfigArgs, Failure, load, runtime};
use crate::app::{App, StartError};
use crate::client::upkeep::Lines;
use crate::config::Settings;
use crate::config::settings::{Database, Listener, Speaks};
use crate::gateway::Phase;
use crate::import::boxitory::Tree;
use crate::import::boxvault::{Database as Foreign, Vault};
use crate::import::{Import, Imported};
use crate::route::{DoorSet, Router};
use crate::telemetry::Telemetry;
use crate::upkeep::line::Line;
use crate::upkeep::{self, Chore, Job};

#[derive(Debug, Subcommand)]
pub(super) enum ImportCommand {
    /// Take a tree of boxes, as Boxitory serves it, into the catalog.
    #[command(after_help = "Examples:
  boxgate admin import boxitory /srv/boxes --organization acme --data-dir /srv/boxgate
  boxgate admin import boxitory /srv/boxes --organization acme --url http://127.0.0.1:3000 --token TOKEN

Works beside a running gateway as `boxgate fsck` does; the tree is then one of the gateway's machine. Each file becomes
ORG/box/version/provider/ARCHITECTURE, with the description that stands in descriptions.csv, verified by the checksums that
stand beside it. What the catalog has already stays, and is not brought again: the same command goes on after a cut. The tree
is left as it is.
Exit codes: 0 all of it is there, 1 something was not brought (each is named, with the reason), 2 could not be done.")]
    Boxitory(BoxitoryArgs),
    /// Take what a BoxVault holds into the catalog: people, organizations, keys, boxes and ISO images.
    #[command(after_help = "Examples:
  boxgate admin import boxvault --files /var/lib/boxvault/boxes --database mysql://boxvault:PASSWORD@localhost/boxvault
  boxgate admin import boxvault --files ./boxes --database ./boxvault.sqlite --data-dir /srv/boxgate
  boxgate admin import boxvault --files ./boxes --isos ./isos --database ./boxvault.sqlite --again
  boxgate admin import boxvault --files ./boxes

Works on a data directory that no gateway runs on (with PostgreSQL and a bucket beside running ones). Stop the BoxVault, or
let nobody publish meanwhile; nothing of it is changed. `--database @FILE` reads the address from a file, so that nobody
sees its password. Passwords and the keys of service accounts stay good. Each file is compared with its length and
checksum in the database. Without a database only files are brought, to organizations that are there.
Whoever and whatever is here by a name already stays as it is, and is taken for the same: the same command goes on after a
cut, and brings what came meanwhile. What it brought once and somebody deleted, renamed or revoked here since is remembered
and not brought again, unless `--again` is given. ISO images are brought from the directory that `--isos` names.
Exit codes: 0 all of it is there, 1 something was not brought (each is named, with the reason), 2 could not be done.")]
    Boxvault(BoxvaultArgs),
}

#[derive(Debug, Args)]
pub(super) struct BoxitoryArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    connect: ConnectArgs,
    /// The directory of boxes.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// The organization that the boxes become part of; it must exist.
    #[arg(long, value_name = "NAME")]
    organization: String,
    /// The architecture that they are for, which a tree does not tell.
    #[arg(long, value_name = "NAME", default_value = "amd64")]
    architecture: String,
    /// Print JSON, one document a line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct BoxvaultArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The directory of its boxes (`box_storage_directory`).
    #[arg(long, value_name = "DIR")]
    files: PathBuf,
    /// The directory of its ISO images (`iso_storage_directory`).
    #[arg(long, value_name = "DIR", requires = "database")]
    isos: Option<PathBuf>,
    /// Bring again what an earlier import brought and somebody deleted or revoked here since.
    #[arg(long)]
    again: bool,
    /// Its database: `mysql://USER:PASSWORD@HOST/DATABASE`, or the path of a SQLite file; @FILE holds either.
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// Print JSON, one document a line.
    #[arg(long)]
    json: bool,
}

pub(super) fn import(command: &ImportCommand) -> Result<(), Failure> {
    let outcome = match command {
        ImportCommand::Boxitory(args) => boxitory(args)?,
        ImportCommand::Boxvault(args) => boxvault(args)?,
    };
    match outcome {
        Line::Imported(imported) if imported.left == 0 => Ok(()),
        Line::Failed(why) => Err(Failure::CannotLook(why)),
        _ => Err(Failure::Found),
    }
}

fn absolute(dir: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(dir).map_err(|e| Failure::Usage(format!("{}: {e}", dir.display())))
}

fn boxvault(args: &BoxvaultArgs) -> Result<Line, Failure> {
    let database = args.database.as_deref().map(|text| {
        let Some(path) = text.strip_prefix('@') else {
            return Foreign::named(text);
        };
        let read = std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
        Foreign::named(read.trim())
    });
    let database = database
        .transpose()
        .map_err(|e| Failure::Usage(format!("--database: {e}")))?;
    let settings = load(&args.config)?;
    let router = Router::try_new(&settings.doors).map_err(Failure::Usage)?;
    let import = Import::BoxVault(Vault {
        files: absolute(&args.files)?,
        isos: args.isos.as_deref().map(absolute).transpose()?,
        database,
        again: args.again,
        reserved: router.reserved().iter().cloned().collect(),
        new_box_public: false,
        actor: "import".to_owned(),
    });
    runtime()?.block_on(async {
        had_rows(&settings)?;
        let begun = Box::pin(here(settings, import)).await;
        let source = begun.map_err(|error| match error {
            StartError::InUse { path } | StartError::StoreInUse { path, .. } => {
                Failure::CannotLook(format!(
                    "a gateway runs on {}, and nothing was brought: stop it, run this once more, and start it again",
                    path.display()
                ))
            }
            error => Failure::CannotLook(boxgate_storage::error::chain(&error)),
        })?;
        listen(source, args.json).await
    })
}

fn boxitory(args: &BoxitoryArgs) -> Result<Line, Failure> {
    let usage = |e: boxgate_storage::catalog::NameError| Failure::Usage(e.to_string());
    let organization: OrganizationName = args.organization.parse().map_err(usage)?;
    let architecture: ArchitectureName = args.architecture.parse().map_err(usage)?;
    let home = absolute(&args.dir)?;
    let Some(dir) = home.to_str() else {
        return Err(Failure::Usage("the path is not valid UTF-8".into()));
    };
    let query = [
        ("dir", dir.to_owned()),
        ("organization", organization.to_string()),
        ("architecture", architecture.to_string()),
    ];
    let place = path("import/boxitory", &query, None);
    let import = Import::Boxitory(Tree {
        home,
        organization,
        architecture,
        new_box_public: false,
        actor: "import".to_owned(),
    });
    runtime()?.block_on(async {
        let source = args.source(place, import).await?;
        listen(source, args.json).await
    })
}

/// Where the lines come from.
enum Source {
    Gateway(Box<Lines>),
    Here(Box<App>, mpsc::Receiver<Line>),
}

/// Prints what is told, and returns the outcome.
async fn listen(mut source: Source, json: bool) -> Result<Line, Failure> {
    let mut printer = Printer::new(json);
    let last = loop {
        let line = match &mut source {
            Source::Gateway(lines) => lines.next().await.map_err(cannot_look)?,
            Source::Here(_, told) => {
                let ended = || Failure::CannotLook("a defect ended it".into());
                told.recv().await.ok_or_else(ended)?
            }
        };
        printer.print(&line);
        if line.is_last() {
            break line;
        }
    };
    if let Source::Here(app, _) = source {
        app.close().await;
    }
    Ok(last)
}

/// Nothing is made where nobody expects it.
fn had_rows(settings: &Settings) -> Result<(), Failure> {
    if matches!(settings.metadata, Database::Embedded)
        && !settings.data_dir.join("boxgate.db").exists()
    {
        let data_dir = settings.data_dir.display();
        return Err(Failure::CannotLook(format!(
            "no gateway ever ran on {data_dir} (data_dir)"
        )));
    }
    Ok(())
}

impl BoxitoryArgs {
    async fn source(&self, place: String, import: Import) -> Result<Source, Failure> {
        if self.connect.names_gateway() {
            return self.gateway(place).await;
        }
        let settings = load(&self.config)?;
        had_rows(&settings)?;
        match Box::pin(here(settings, import)).await {
            Ok(source) => Ok(source),
            Err(StartError::InUse { path }) => {
                let asked = self.gateway(place).await;
                asked.map_err(|failure| to_be_asked(&path, failure))
            }
            Err(error) => Err(Failure::CannotLook(boxgate_storage::error::chain(&error))),
        }
    }

    async fn gateway(&self, place: String) -> Result<Source, Failure> {
        let lines = self.connect.client()?.lines(Method::POST, &place).await;
        Ok(Source::Gateway(Box::new(lines.map_err(cannot_look)?)))
    }
}

/// Does it with all that a gateway has, plugins too, but for its doors.
async fn here(mut settings: Settings, mut import: Import) -> Result<Source, StartError> {
    settings.listeners = vec![Listener {
        name: String::new(),
        address: ([127, 0, 0, 1], 0).into(),
        speaks: Speaks::Plain,
        doors: DoorSet::ALL,
    }];
    settings.tls = None;
    settings.boxitory = None;
    settings.doors.boxitory.enabled = false;
    import.set_new_box_public(settings.catalog.new_box_public);
    let app = Box::pin(App::start(settings, Telemetry::silent())).await?;
    app.recover().await?;
    let gateway = app.gateway();
    gateway.enter(Phase::Serving);
    let job = Job {
        stock: gateway.stock(),
        chore: Chore::Import(import),
        turn: None,
        ending: CancellationToken::new(),
        telemetry: None,
    };
    let told = upkeep::tell(job, &gateway.background);
    Ok(Source::Here(Box::new(app), told))
}

/// What was brought, what was there, and what is neither.
pub(super) fn brought(imported: &Imported) -> String {
    let Imported {
        rows,
        files,
        bytes,
        there,
        gone,
        left,
        ..
    } = *imported;
    let left = match left {
        0 => String::new(),
        _ => format!(" {left} were not brought."),
    };
    let rows = match rows {
        0 => String::new(),
        _ => format!("{rows} people, organizations, keys, boxes and their versions made. "),
    };
    let gone = match gone {
        0 => String::new(),
        _ => format!(
            " {gone} that an earlier import brought are gone here since, and stay so (--again brings them)."
        ),
    };
    format!(
        "{rows}{files} files brought, {}; {there} were there.{gone}{left}",
        HumanBytes(bytes)
    )
}
