//! The rows: opened, taken over from one database to another, and compared with what other nodes say.

use std::sync::Arc;
use std::time::Duration;

use boxgate_storage::clock::{Clock, SystemClock};
use boxgate_storage::metadata::{Metadata, MetadataOptions, transfer};

use super::{DataDir, StartError};
use crate::auth::master_key::MasterKey;
use crate::config::settings::Database;
use crate::config::{Secret, Settings};
use crate::provider;
use crate::telemetry::Telemetry;

/// How long a replaced or deleted blob stays readable: the longest download plus the life of a link.
const DOOMED_FOR: Duration = Duration::from_hours(24);

/// Opens the rows of a data directory.
///
/// # Errors
/// When the database cannot be opened or another master key made it.
pub async fn open_metadata(
    settings: &Settings,
    clock: Arc<dyn Clock>,
) -> Result<(Metadata, MasterKey), StartError> {
    let configured = settings.master_key.as_ref().map(Secret::expose);
    let database = settings.data_dir.join("boxgate.db");
    let master_key = MasterKey::load(configured, &settings.data_dir, database.exists())?;
    let options = MetadataOptions {
        clock,
        doomed_for: DOOMED_FOR,
    };
    let metadata = match &settings.metadata {
        Database::Embedded => open_embedded(&database, options).await?,
        Database::Postgres(url) => Metadata::open_postgres(url.expose(), options)
            .await
            .map_err(StartError::Database)?,
    };
    master_key.prove(&metadata).await?;
    Ok((metadata, master_key))
}

/// Takes the rows of the embedded `database` over into the PostgreSQL database of `url`; tells each table.
///
/// # Errors
/// [`StartError::InUse`] while a gateway runs on the data directory; when the master key is not theirs; those of
/// [`transfer::transfer`]. Nothing was taken over then.
pub async fn migrate(
    settings: &Settings,
    database: &std::path::Path,
    url: &str,
    tell: impl FnMut(&transfer::Table) + Send,
) -> Result<(), StartError> {
    let _data_dir = DataDir::open(&settings.data_dir)?;
    let configured = settings.master_key.as_ref().map(Secret::expose);
    let master_key = MasterKey::load(configured, &settings.data_dir, true)?;
    let options = MetadataOptions {
        clock: Arc::new(SystemClock),
        doomed_for: DOOMED_FOR,
    };
    let rows = open_embedded(database, options).await?;
    let proved = master_key.prove(&rows).await;
    rows.close().await;
    proved?;
    let transferred = transfer::transfer(database, url, tell).await;
    transferred.map_err(StartError::Transfer)
}

async fn open_embedded(
    database: &std::path::Path,
    options: MetadataOptions,
) -> Result<Metadata, StartError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    // Made here, so that it and what SQLite keeps beside it are private.
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(database)
        .map_err(|e| StartError::DataDir {
            path: database.to_owned(),
            reason: e.to_string(),
        })?;
    Ok(Metadata::open_sqlite(database, options).await?)
}

/// Has each commit of rows counted.
pub(super) fn observe_commits(metadata: &Metadata, telemetry: &Arc<Telemetry>) {
    let telemetry = Arc::clone(telemetry);
    metadata.on_commit(Arc::new(move |took| {
        let seconds = &telemetry.metrics.metadata_commit_seconds;
        seconds.observe(took.as_secs_f64());
    }));
}

/// The key under which accounts at clouds are hashed, the same at all nodes.
pub(super) async fn accounts_key(
    master_key: &MasterKey,
    metadata: &Metadata,
) -> Result<[u8; 32], StartError> {
    let (_, key) = master_key.key_for(metadata, provider::PURPOSE).await?;
    Ok(*blake3::hash(&key).as_bytes())
}

/// Warns where another node of the same database was started with other public addresses: all of them make links. The last
/// one that was started is believed, so that an address may change, node by node.
pub(super) async fn compare_addresses(
    settings: &Settings,
    metadata: &Metadata,
) -> Result<(), StartError> {
    const PURPOSE: &str = "public-url";
    if !matches!(settings.metadata, Database::Postgres(_)) {
        return Ok(());
    }
    let ours = settings.public_url.join(" ");
    let noted = metadata.note(PURPOSE, ours.as_bytes()).await?;
    if let Some(theirs) = noted.filter(|theirs| theirs != ours.as_bytes()) {
        tracing::warn!(
            ours,
            theirs = %String::from_utf8_lossy(&theirs),
            "public_url differs from that of the node that was started before; it must be the same on each"
        );
    }
    Ok(())
}
