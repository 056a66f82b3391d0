//! `boxgate admin migrate`: the rows of an installation, from its data directory into PostgreSQL.

use clap::{Args, ValueEnum};

use super::{ConfigArgs, Failure, load, runtime, say};
use crate::app::{self, StartError};
use crate::auth::master_key::MasterKeyError;
use crate::config::settings::Database;

#[derive(Debug, Args)]
pub(super) struct MigrateArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Where the rows are: in the data directory.
    #[arg(long, value_name = "DATABASE")]
    from: Source,
    /// Where they go: the database of metadata.url, which must be empty.
    #[arg(long, value_name = "DATABASE")]
    to: Target,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Source {
    /// The embedded database.
    Sqlite,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Target {
    /// The database of metadata.url.
    Postgres,
}

pub(super) fn migrate(args: &MigrateArgs) -> Result<(), Failure> {
    let (Source::Sqlite, Target::Postgres) = (args.from, args.to);
    let settings = load(&args.config)?;
    let Database::Postgres(url) = &settings.metadata else {
        let text = "metadata.url must name the PostgreSQL database that the rows go to \
                    (or BOXGATE_METADATA__URL)";
        return Err(Failure::Usage(text.into()));
    };
    let database = settings.data_dir.join("boxgate.db");
    if !database.exists() {
        let path = database.display();
        return Err(Failure::Usage(format!(
            "there are no rows at {path} (data_dir)"
        )));
    }
    let mut rows = 0;
    let moving = app::migrate(&settings, &database, url.expose(), |table| {
        rows += table.rows;
        if table.rows > 0 {
            say(&format!("{:>12} {}", table.rows, table.name));
        }
    });
    let moved = runtime()?.block_on(moving);
    moved.map_err(|error| match error {
        StartError::MasterKey(MasterKeyError::Other) => Failure::Usage(format!(
            "BOXGATE_MASTER_KEY must be the key that the rows were sealed with: {} holds it",
            settings.data_dir.join("master.key").display()
        )),
        error => Failure::failed(&error),
    })?;
    say(&format!(
        "{rows} rows are in PostgreSQL, and read back as they were. {} is not read any more; keep it until the first \
         backup of the new database.",
        database.display()
    ));
    Ok(())
}
