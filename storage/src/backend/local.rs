//! One file per blob in a local directory: `<dir>/<2 hex>/<key>`, with its sidecars beside it.
//!
//! A file is made at its final path and is never renamed: the row is what publishes a blob, and a
//! rename would only add a state to crash in. Durability is fsync of the directory when a file is
//! made, then `fdatasync` per part. Full buffers bypass the page cache where the file system takes
//! that; everything runs off the reactor.

mod files;
mod read;
mod sidecars;
mod write;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use rustix::fs::OFlags;

use self::files::OpenFiles;
use self::read::ReadMemory;
use crate::blob::BlobKey;
use crate::buffer::{BUFFER_ALIGN, BUFFER_BYTES};
use crate::durable;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{DeleteBlob, FreeSpace, Intake, ListBlobs, Space, Store};

/// Opens (and makes, if missing) the directory as a store.
///
/// # Errors
/// When the directory cannot be made or written to.
pub async fn open(directory: &Path) -> Result<Store> {
    open_with(directory, LocalOptions::default()).await
}

/// What may be chosen about a local store.
#[derive(Debug, Clone, Copy)]
pub struct LocalOptions {
    /// Blobs that are open as files at once, to be sent by the kernel.
    pub open_files: usize,
}

impl Default for LocalOptions {
    fn default() -> Self {
        Self { open_files: 256 }
    }
}

/// As [`open`], with options.
///
/// # Errors
/// When the directory cannot be made or written to.
pub async fn open_with(directory: &Path, options: LocalOptions) -> Result<Store> {
    let root = directory.to_path_buf();
    let subject = root.display().to_string();
    let local = blocking("store.open", subject.clone(), move || {
        let direct = prepare(&root).map_err(|e| Error::io("store.open", subject, e))?;
        Ok(Arc::new(Local {
            root,
            direct,
            memory: ReadMemory::default(),
            files: OpenFiles::new(options.open_files),
        }))
    })
    .await?;
    tracing::debug!(directory = %local.root.display(), direct = local.direct, "local store opened");
    Ok(Store {
        read: Arc::clone(&local) as _,
        write: Arc::clone(&local) as _,
        delete: Some(Arc::clone(&local) as _),
        list: Some(Arc::clone(&local) as _),
        shared: None,
        sidecars: Some(Arc::clone(&local) as _),
        space: Some(Arc::clone(&local) as _),
        files: Some(local),
        presign: None,
        redirect_for: None,
        intake: Intake::InPlace,
    })
}

/// The directory and what was found out about it.
#[derive(Debug)]
struct Local {
    root: PathBuf,
    /// Whether the file system takes direct writes.
    direct: bool,
    memory: ReadMemory,
    files: OpenFiles,
}

impl Local {
    fn directory_of(&self, key: &BlobKey) -> PathBuf {
        self.root.join(shard_name(key.as_bytes()[0]))
    }

    fn path_of(&self, key: &BlobKey) -> PathBuf {
        self.directory_of(key).join(key.to_string())
    }
}

#[async_trait]
impl DeleteBlob for Local {
    async fn delete(&self, key: &BlobKey) -> Result<()> {
        let path = self.path_of(key);
        let subject = key.to_string();
        blocking("blob.delete", subject.clone(), move || {
            let removed = sidecars::remove(&path).and_then(|()| remove(&path));
            removed.map_err(|e| failure("blob.delete", &path, &subject, e))
        })
        .await?;
        self.files.forget(key);
        Ok(())
    }
}

#[async_trait]
impl ListBlobs for Local {
    async fn page(&self, after: Option<BlobKey>, limit: usize) -> Result<Vec<BlobKey>> {
        let root = self.root.clone();
        blocking("store.list", "store", move || {
            page(&root, after, limit).map_err(|e| match e.kind() {
                io::ErrorKind::NotFound => {
                    Error::new(ErrorKind::Unavailable, "store.list", "store").with_source(e)
                }
                _ => Error::io("store.list", "store", e),
            })
        })
        .await
    }
}

#[async_trait]
impl FreeSpace for Local {
    async fn free_space(&self) -> Result<Space> {
        let root = self.root.clone();
        blocking("store.space", "store", move || {
            let volume = rustix::fs::statvfs(&root)
                .map_err(|e| Error::io("store.space", "store", e.into()))?;
            Ok(Space {
                free_bytes: volume.f_bavail.saturating_mul(volume.f_frsize),
                total_bytes: volume.f_blocks.saturating_mul(volume.f_frsize),
            })
        })
        .await
    }
}

/// Runs what may block on a disk off the reactor.
async fn blocking<T: Send + 'static>(
    op: &'static str,
    subject: impl Into<String>,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panicked) => Err(Error::new(ErrorKind::Internal, op, subject).with_source(panicked)),
    }
}

fn shard_name(first: u8) -> String {
    hex::encode([first])
}

/// A failure with a file of the store. Where even its directory is missing, the volume is away, which says
/// nothing about the file: the directories were all made when the store was opened.
fn failure(op: &'static str, path: &Path, subject: &str, error: io::Error) -> Error {
    let directory = path.parent();
    if error.kind() == io::ErrorKind::NotFound && directory.is_none_or(|d| !d.is_dir()) {
        return Error::new(ErrorKind::Unavailable, op, subject).with_source(error);
    }
    Error::io(op, subject, error)
}

/// Removes a file; one that is missing already is success, unless its directory is missing, too.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e)
            if e.kind() == io::ErrorKind::NotFound && path.parent().is_some_and(Path::is_dir) =>
        {
            Ok(())
        }
        done => done,
    }
}

/// Makes root and all shards durable, and finds out whether direct writes work. The shards are all
/// made here, so that making a file never has to fsync more than the one directory that holds it.
fn prepare(root: &Path) -> io::Result<bool> {
    durable::make_directory(root, PRIVATE)?;
    let mut made = false;
    for first in 0..=u8::MAX {
        match fs::DirBuilder::new()
            .mode(PRIVATE)
            .create(root.join(shard_name(first)))
        {
            Ok(()) => made = true,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    if made {
        File::open(root)?.sync_all()?;
    }
    takes_direct_writes(root)
}

/// Blobs may be private to an organization; other accounts of the machine have no business here.
const PRIVATE: u32 = 0o700;

/// Tries one aligned direct write. That it fails says only that it does not work here; that the
/// plain file cannot be made says that the store is unusable.
fn takes_direct_writes(root: &Path) -> io::Result<bool> {
    let path = root.join(".probe");
    remove(&path)?;
    File::create_new(&path)?;
    let memory = vec![0; 2 * BUFFER_ALIGN];
    let start = memory.as_ptr().align_offset(BUFFER_ALIGN).min(BUFFER_ALIGN);
    let tried = open_direct(&path)
        .and_then(|file| file.write_all_at(&memory[start..start + BUFFER_ALIGN], 0));
    remove(&path)?;
    Ok(tried.is_ok())
}

/// A second descriptor of an existing file whose writes bypass the page cache.
fn open_direct(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .custom_flags(OFlags::DIRECT.bits().cast_signed())
        .open(path)
}

fn page(root: &Path, after: Option<BlobKey>, limit: usize) -> io::Result<Vec<BlobKey>> {
    let mut keys = Vec::new();
    let first = after.map_or(0, |key| key.as_bytes()[0]);
    for shard in first..=u8::MAX {
        if keys.len() >= limit {
            break;
        }
        let from = keys.len();
        for entry in fs::read_dir(root.join(shard_name(shard)))? {
            let name = entry?.file_name();
            let key = name.to_str().and_then(|name| name.parse::<BlobKey>().ok());
            // One that lies in another directory is nobody's, and would come out of order.
            let key = key.filter(|key| key.as_bytes()[0] == shard);
            keys.extend(key.filter(|key| after.is_none_or(|after| *key > after)));
        }
        keys[from..].sort_unstable();
    }
    keys.truncate(limit);
    Ok(keys)
}

const _: () = assert!(BUFFER_BYTES.is_multiple_of(BUFFER_ALIGN));

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_store_in_a_missing_directory_makes_it_private() {
        use std::os::unix::fs::PermissionsExt;

        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a/b/blobs");
        open(&path).await.unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert!(path.join("00").is_dir() && path.join("ff").is_dir());
        assert_eq!(fs::read_dir(&path).unwrap().count(), 256);
        open(&path).await.expect("opening it again is fine");
    }

    #[tokio::test]
    async fn a_directory_that_cannot_be_made_is_an_error_that_names_it() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("file");
        fs::write(&path, b"").unwrap();
        let error = open(&path.join("blobs")).await.unwrap_err();
        assert!(error.subject().ends_with("file/blobs"));
    }

    #[tokio::test]
    async fn a_volume_that_is_away_says_nothing_about_its_blobs() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("blobs");
        let store = open(&path).await.unwrap();
        let key = BlobKey::random();
        let range = crate::range::ByteRange::whole(1);
        let missing = store.read.stat(&key).await.unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        let missing = store.read.open(&key, range).await.err().unwrap();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        fs::rename(&path, home.path().join("elsewhere")).unwrap();
        fs::create_dir(&path).unwrap();
        let list = store.list.unwrap();
        let away = [
            store.read.stat(&key).await.err(),
            store.read.open(&key, range).await.err(),
            list.page(None, 10).await.err(),
            store.delete.unwrap().delete(&key).await.err(),
        ];
        for error in away {
            assert_eq!(error.unwrap().kind(), ErrorKind::Unavailable);
        }
    }

    #[tokio::test]
    async fn strange_files_are_no_blobs() {
        let home = tempfile::tempdir().unwrap();
        let store = open(home.path()).await.unwrap();
        fs::write(home.path().join("00/readme"), b"x").unwrap();
        fs::write(home.path().join("00").join("f".repeat(32)), b"x").unwrap();
        let pages = store.list.unwrap().page(None, 10).await.unwrap();
        assert_eq!(pages, []);
    }
}
