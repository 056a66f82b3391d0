//! The stores: opened once it is sure that they are those that the rows tell of.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use boxgate_storage::backend::local::{self, LocalOptions};
use boxgate_storage::backend::s3::{self, S3Options};
use boxgate_storage::durable;
use boxgate_storage::metadata::Metadata;
use boxgate_storage::store::Store;

use super::{DataDir, StartError};
use crate::config::Settings;
use crate::config::settings::StoreSettings;

/// Opens all stores of the settings.
pub(super) async fn open_stores(
    metadata: &Metadata,
    settings: &Settings,
    data_dir: &mut DataDir,
) -> Result<BTreeMap<String, Store>, StartError> {
    let mut stores = BTreeMap::new();
    for (name, store) in &settings.stores {
        let opened = match store {
            StoreSettings::Local(store) => {
                data_dir.lock_store(name, &store.path)?;
                let open_files = settings.verify.open_files;
                open_store(metadata, name, &store.path, LocalOptions { open_files }).await?
            }
            StoreSettings::S3(options) => {
                open_bucket(metadata, name, options, settings.uploads.max_age).await?
            }
        };
        stores.insert(name.clone(), opened);
    }
    for name in metadata.stores_in_use().await? {
        if !stores.contains_key(&name) {
            tracing::error!(
                store = name,
                "boxes are in a store that is not configured: they cannot be read"
            );
        }
    }
    Ok(stores)
}

/// Opens the bucket, once it is sure to be the one that the rows tell of.
async fn open_bucket(
    metadata: &Metadata,
    name: &str,
    options: &S3Options,
    max_age: Duration,
) -> Result<Store, StartError> {
    let bucket = format!("s3 {}/{}", options.bucket, options.prefix);
    let purpose = purpose_of(name);
    if let Some(known) = metadata.keys(&purpose).await?.into_iter().next()
        && known.secret != bucket.as_bytes()
    {
        let known = String::from_utf8(known.secret);
        let known = known.ok().filter(|known| known.starts_with("s3 "));
        let known = known.unwrap_or_else(|| "a directory".to_owned());
        return Err(StartError::Bucket {
            name: name.to_owned(),
            bucket,
            known,
        });
    }
    // A call of the SDK is a large future.
    let opened = Box::pin(s3::open(options.clone())).await;
    let (store, found) = opened.map_err(|source| StartError::OpenBucket {
        name: name.to_owned(),
        source,
    })?;
    tracing::info!(
        store = name,
        bucket = options.bucket,
        checksum = found.checksum.name(),
        conditional_writes = found.conditional_writes,
        "bucket opened"
    );
    let days = found.rules.unfinished_after_days;
    if days.is_some_and(|days| Duration::from_hours(24 * u64::from(days)) < max_age + SPARE_AGE) {
        tracing::warn!(
            bucket = options.bucket,
            days,
            "a rule of the bucket removes unfinished uploads before uploads.max_age and two days are over: \
             uploads that rest will be lost"
        );
    }
    if found.rules.objects {
        tracing::warn!(
            bucket = options.bucket,
            "a rule of the bucket removes objects below stores.{name}.prefix: boxes will be lost"
        );
    }
    metadata.first_key(&purpose, bucket.as_bytes()).await?;
    Ok(store)
}

/// What a bucket's rule must leave beside the life of an upload: a part may be on its way at its end.
const SPARE_AGE: Duration = Duration::from_hours(48);

/// Under which the rows keep what tells the store of that name from any other.
fn purpose_of(name: &str) -> String {
    format!("store.{name}")
}

/// Opens the store, once it is sure to be the one that the rows tell of: a volume that is not mounted
/// looks like an empty directory, and must not become a second store.
async fn open_store(
    metadata: &Metadata,
    name: &str,
    path: &Path,
    options: LocalOptions,
) -> Result<Store, StartError> {
    let marker = path.join("store-id");
    let failed = |reason: String| StartError::Store {
        name: name.to_owned(),
        path: path.to_owned(),
        reason,
    };
    let purpose = purpose_of(name);
    let known = metadata.keys(&purpose).await?.into_iter().next();
    let found = std::fs::read(&marker).ok();
    match (&known, &found) {
        (Some(known), Some(found)) if known.secret == *found => {}
        (Some(_), Some(_)) => return Err(failed("its store-id is another one".into())),
        (Some(_), None) => return Err(failed("its file store-id is missing".into())),
        (None, _) => {
            let id = found.unwrap_or_else(|| crate::auth::credential::fresh().into_bytes());
            // Before its row: a row whose file was lost with the power would shut the store for good.
            durable::make_directory(path, 0o700)
                .and_then(|()| durable::write_file(&marker, &id, 0o600))
                .map_err(|e| failed(e.to_string()))?;
            metadata.first_key(&purpose, &id).await?;
        }
    }
    Ok(local::open_with(path, options).await?)
}
