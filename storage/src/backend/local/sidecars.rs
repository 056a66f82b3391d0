//! Sidecars beside blobs: `<dir>/<2 hex>/<key>.<upload>.json`.
//!
//! Each is written once. A crash leaves all of it or a name that nothing can be made of, and then its upload is not
//! published yet: whoever goes on with that writes it again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use super::{Local, blocking, failure, remove as remove_file};
use crate::blob::{BlobKey, UploadId};
use crate::error::Result;
use crate::sidecar::MOST_BYTES;
use crate::store::Sidecars;

#[async_trait]
impl Sidecars for Local {
    async fn put(&self, key: &BlobKey, id: UploadId, text: &str) -> Result<()> {
        const OP: &str = "sidecar.put";
        let (directory, path) = (self.directory_of(key), self.sidecar_of(key, id));
        let (subject, text) = (key.to_string(), text.to_owned());
        blocking(OP, subject.clone(), move || {
            write(&directory, &path, text.as_bytes()).map_err(|e| failure(OP, &path, &subject, e))
        })
        .await
    }

    async fn remove(&self, key: &BlobKey, id: UploadId) -> Result<()> {
        const OP: &str = "sidecar.delete";
        let (path, subject) = (self.sidecar_of(key, id), key.to_string());
        blocking(OP, subject.clone(), move || {
            remove_file(&path).map_err(|e| failure(OP, &path, &subject, e))
        })
        .await
    }

    async fn beside(&self, key: &BlobKey) -> Result<Vec<(UploadId, Vec<u8>)>> {
        const OP: &str = "sidecar.read";
        let (path, subject) = (self.path_of(key), key.to_string());
        blocking(OP, subject.clone(), move || {
            let all = || -> io::Result<Vec<_>> {
                let files = files(&path)?.into_iter();
                files.map(|(id, file)| Ok((id, read(&file)?))).collect()
            };
            all().map_err(|e| failure(OP, &path, &subject, e))
        })
        .await
    }
}

const ENDING: &str = ".json";

impl Local {
    fn sidecar_of(&self, key: &BlobKey, id: UploadId) -> PathBuf {
        let name = format!("{key}.{id}{ENDING}");
        self.directory_of(key).join(name)
    }
}

/// Removes all beside the blob of that path.
pub(super) fn remove(blob: &Path) -> io::Result<()> {
    for (_, file) in files(blob)? {
        remove_file(&file)?;
    }
    Ok(())
}

fn write(directory: &Path, path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text)?;
    file.sync_data()?;
    File::open(directory)?.sync_all()
}

/// As much of a file as a sidecar can be.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let most = MOST_BYTES as u64;
    io::Read::read_to_end(&mut io::Read::take(File::open(file)?, most), &mut text)?;
    Ok(text)
}

/// The sidecars of a blob by their names. The shard is read: it has a 256th of all.
fn files(blob: &Path) -> io::Result<Vec<(UploadId, PathBuf)>> {
    let (Some(directory), Some(key)) = (blob.parent(), blob.file_name()) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let id = name.to_str().zip(key.to_str()).and_then(|(name, key)| {
            let rest = name.strip_prefix(key)?.strip_prefix('.')?;
            rest.strip_suffix(ENDING)?.parse().ok()
        });
        found.extend(id.map(|id| (id, entry.path())));
    }
    Ok(found)
}
