//! The image of a runtime: a plain file, read as it was opened and replaced whole.
//!
//! It is the one file that gets its name by a rename: another program reads it under that name.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use boxgate_storage::digest::Blake3;
use boxgate_storage::durable;
use boxgate_storage::layer::files::Stamp;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use rustix::fs::OFlags;
use tempfile::{NamedTempFile, TempPath};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::io::ReaderStream;

use super::arriving::Held;

/// Frames on their way to the disk.
pub(super) const WAITING: usize = 8;
/// So much is made durable at a time, so that the end of a long image need not wait for all of it.
pub(super) const SYNC_EVERY: u64 = 64 << 20;
pub(super) const READ_BYTES: usize = 1 << 20;
const STREAM_BYTES: usize = 256 << 10;
/// An image that another program changes is looked at so often before that is a failure.
const TRIES: usize = 3;
/// Between the image's name and the end of what is beside it.
const STAGED: &str = ".staged";
const BEFORE: &str = ".before";

/// The file, and what is known of its bytes.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    known: Mutex<Option<(Stamp, Blake3)>>,
    /// Held by whoever hashes it.
    hashing: tokio::sync::Mutex<()>,
}

/// The image as it was at one moment: a swap leaves it alone.
#[derive(Debug)]
pub struct Snapshot {
    /// Its bytes, from the first.
    pub file: File,
    /// How many.
    pub length: u64,
    /// When they were written.
    pub modified: SystemTime,
    /// Their digest.
    pub blake3: Blake3,
}

impl Snapshot {
    /// Its bytes, from the first.
    pub fn read(self) -> BoxStream<'static, io::Result<Bytes>> {
        stream(self.file, self.length)
    }
}

/// So many bytes of a file, from where it stands.
pub(super) fn stream(file: File, length: u64) -> BoxStream<'static, io::Result<Bytes>> {
    let left = tokio::io::AsyncReadExt::take(tokio::fs::File::from_std(file), length);
    ReaderStream::with_capacity(left, STREAM_BYTES).boxed()
}

/// An image on its way in; dropped before it is put in place, it leaves nothing.
#[derive(Debug)]
pub struct Staging {
    frames: mpsc::Sender<Bytes>,
    writer: JoinHandle<io::Result<Staged>>,
}

/// An image that is whole and durable, and not yet in its place.
#[derive(Debug)]
pub struct Staged {
    at: At,
    /// How many bytes.
    pub length: u64,
    /// Their digest.
    pub blake3: Blake3,
}

/// Where it waits.
#[derive(Debug)]
enum At {
    /// In a file that goes with whoever drops it.
    Own(TempPath),
    /// In an upload, which stays.
    Arrived(Held),
}

impl Staged {
    /// An image that came over several requests.
    pub fn arrived(upload: Held, blake3: Blake3) -> Self {
        Self {
            length: upload.record.offset,
            blake3,
            at: At::Arrived(upload),
        }
    }
}

impl Image {
    /// The image at `path`, or at what that links to; what a crash left beside it is removed, but for the image before.
    /// Blocking.
    ///
    /// # Errors
    /// When its directory is none, or cannot be read; when something else than a file is there.
    pub fn open(path: &Path) -> io::Result<Self> {
        let path = match fs::canonicalize(path) {
            Ok(path) => path,
            Err(e) if e.kind() == io::ErrorKind::NotFound => path.to_owned(),
            Err(e) => return Err(e),
        };
        assert_file(fs::symlink_metadata(&path))?;
        let this = Self {
            path,
            known: Mutex::new(None),
            hashing: tokio::sync::Mutex::new(()),
        };
        let prefix = this.beside(STAGED);
        for entry in fs::read_dir(this.directory())? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| name.starts_with(&prefix)) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(this)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The last part of its path.
    pub fn file_name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    pub(super) fn directory(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }

    /// The name of what belongs to it, hidden from lists.
    fn beside(&self, what: &str) -> String {
        format!(".{}{what}", self.file_name())
    }

    /// The image as it is now; `None` where there is none. Bytes that are not known yet are read first.
    ///
    /// # Errors
    /// When it cannot be read, or never stays the same for as long as that takes.
    pub async fn snapshot(&self) -> io::Result<Option<Snapshot>> {
        for _ in 0..TRIES {
            let path = self.path.clone();
            let opened = spawn_blocking(move || match open_file(&path) {
                Ok(file) => {
                    let stamp = Stamp::of(file.as_fd())?;
                    let modified = file.metadata()?.modified()?;
                    Ok(Some((file, stamp, modified)))
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(e) => Err(e),
            });
            let Some((file, stamp, modified)) = done(opened.await)? else {
                return Ok(None);
            };
            let Some(blake3) = self.digest(&file, stamp).await? else {
                continue;
            };
            return Ok(Some(Snapshot {
                file,
                length: stamp.length(),
                modified,
                blake3,
            }));
        }
        Err(io::Error::other("another program is changing the image"))
    }

    /// The digest of an opened image; `None` where it changed meanwhile.
    async fn digest(&self, file: &File, stamp: Stamp) -> io::Result<Option<Blake3>> {
        if let Some(known) = self.known(stamp) {
            return Ok(Some(known));
        }
        let _alone = self.hashing.lock().await;
        if let Some(known) = self.known(stamp) {
            return Ok(Some(known));
        }
        let mut file = file.try_clone()?;
        let hashed = spawn_blocking(move || -> io::Result<_> {
            let digest = hash(&mut file)?;
            io::Seek::rewind(&mut file)?;
            let after = Stamp::of(file.as_fd())?;
            Ok((after, digest))
        });
        let (after, digest) = done(hashed.await)?;
        if !after.has_bytes_of(stamp) {
            return Ok(None);
        }
        self.note(after, digest);
        Ok(Some(digest))
    }

    fn known(&self, stamp: Stamp) -> Option<Blake3> {
        let known = *self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .filter(|(of, _)| *of == stamp)
            .map(|(_, digest)| digest)
    }

    fn note(&self, stamp: Stamp, digest: Blake3) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some((stamp, digest));
    }

    /// Begins to take an image in.
    ///
    /// # Errors
    /// When nothing can be written beside the image.
    pub async fn stage(&self) -> io::Result<Staging> {
        let (directory, prefix) = (self.directory().to_owned(), self.beside(STAGED));
        let path = self.path.clone();
        let made = spawn_blocking(move || {
            let before = fs::symlink_metadata(path);
            assert_file(before.as_ref().map_err(|e| e.kind().into()).cloned())?;
            // Whoever reads the image must be able to read the next one.
            let mode = before.as_ref().map_or(0o644, |meta| meta.mode() & 0o777);
            let file = tempfile::Builder::new()
                .prefix(&prefix)
                .permissions(Permissions::from_mode(mode))
                .tempfile_in(directory)?;
            if let Ok(before) = before
                && let Err(e) = fchown(file.as_file(), Some(before.uid()), Some(before.gid()))
            {
                // Only root gives files away.
                tracing::debug!(error = %e, "an image changes its owner");
            }
            Ok(file)
        });
        let file = done(made.await)?;
        let (frames, coming) = mpsc::channel(WAITING);
        let writer = spawn_blocking(move || write(file, coming));
        Ok(Staging { frames, writer })
    }

    /// Gives an image its place; where it may have to give way, the one before stays beside it until it is
    /// [proved](Self::proved), or the one that was proved last. Blocking.
    ///
    /// # Errors
    /// When a step fails; the image before then stays in its place.
    pub fn put_in_place(&self, staged: Staged, keep: bool) -> io::Result<()> {
        if keep {
            self.keep_before()?;
        } else {
            self.proved()?;
        }
        match staged.at {
            At::Own(path) => {
                durable::put_in_place(&path, &self.path)?;
                // It is gone from there.
                drop(path.keep());
            }
            At::Arrived(upload) => self.place_upload(upload)?,
        }
        if let Ok(file) = File::open(&self.path)
            && let Ok(stamp) = Stamp::of(file.as_fd())
            && stamp.length() == staged.length
        {
            self.note(stamp, staged.blake3);
        }
        Ok(())
    }

    /// Keeps the image in place beside it, or that there is none, until the next is proved.
    fn keep_before(&self) -> io::Result<()> {
        let kept = match fs::hard_link(&self.path, self.before()) {
            // One without a byte stands for none: no image is empty.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                File::create_new(self.before()).map(drop)
            }
            kept => kept,
        };
        match kept {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
            _ => Ok(()),
        }
    }

    fn place_upload(&self, mut upload: Held) -> io::Result<()> {
        let file = File::options().write(true).open(upload.path())?;
        self.dress(&file)?;
        file.sync_all()?;
        upload.placing()?;
        let placed = durable::put_in_place(upload.path(), &self.path);
        if placed.is_err() && upload.path().exists() {
            upload.stays();
        } else {
            upload.placed();
        }
        placed
    }

    /// Whoever reads the image must be able to read the next one.
    fn dress(&self, next: &File) -> io::Result<()> {
        let Ok(before) = fs::symlink_metadata(&self.path) else {
            return Ok(());
        };
        next.set_permissions(Permissions::from_mode(before.mode() & 0o777))?;
        if let Err(e) = fchown(next, Some(before.uid()), Some(before.gid())) {
            // Only root gives files away.
            tracing::debug!(error = %e, "an image changes its owner");
        }
        Ok(())
    }

    fn before(&self) -> PathBuf {
        self.directory().join(self.beside(BEFORE))
    }

    /// Whether the image in place was not proved, since a crash came between.
    pub fn is_unproved(&self) -> bool {
        self.before().exists()
    }

    /// That the image in place stays: none before it is wanted any more. Blocking.
    ///
    /// # Errors
    /// When that cannot be removed.
    pub fn proved(&self) -> io::Result<()> {
        match fs::remove_file(self.before()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Puts the image before back in place; whether there was one. Blocking.
    ///
    /// # Errors
    /// When that fails; the image then stays as it is.
    pub fn put_back(&self) -> io::Result<bool> {
        let before = match fs::metadata(self.before()) {
            Ok(before) => before.len(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        if before == 0 {
            return Ok(false);
        }
        match durable::put_in_place(&self.before(), &self.path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// Opens a regular file: what else may be there never waits for somebody.
pub(super) fn open_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)?;
    assert_file(file.metadata())?;
    Ok(file)
}

/// Whether that is a file; nothing at all may become one.
fn assert_file(found: io::Result<Metadata>) -> io::Result<()> {
    match found {
        Ok(meta) if meta.is_file() => Ok(()),
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "something else than a regular file is there",
        )),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

impl Staging {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// When the disk failed, or is full.
    pub async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        if self.frames.send(bytes).await.is_ok() {
            return Ok(());
        }
        let ended = done((&mut self.writer).await);
        Err(ended
            .err()
            .unwrap_or_else(|| io::Error::other("the writer ended early")))
    }

    /// Makes all of it durable.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn finish(self) -> io::Result<Staged> {
        drop(self.frames);
        done(self.writer.await)
    }
}

/// Writes and hashes what comes, until whoever sends it says that this is all.
fn write(mut file: NamedTempFile, mut coming: mpsc::Receiver<Bytes>) -> io::Result<Staged> {
    let (mut hasher, mut length, mut synced) = (blake3::Hasher::new(), 0, 0);
    while let Some(bytes) = coming.blocking_recv() {
        file.write_all(&bytes)?;
        hasher.update(&bytes);
        length += bytes.len() as u64;
        if length - synced >= SYNC_EVERY {
            file.as_file().sync_data()?;
            synced = length;
        }
    }
    file.as_file().sync_all()?;
    Ok(Staged {
        at: At::Own(file.into_temp_path()),
        length,
        blake3: Blake3(*hasher.finalize().as_bytes()),
    })
}

fn hash(file: &mut File) -> io::Result<Blake3> {
    let (mut hasher, mut buffer) = (blake3::Hasher::new(), vec![0; READ_BYTES]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Blake3(*hasher.finalize().as_bytes())),
            n => hasher.update(&buffer[..n]),
        };
    }
}

/// What work off the reactor came to.
pub fn done<T>(joined: Result<io::Result<T>, tokio::task::JoinError>) -> io::Result<T> {
    joined.unwrap_or_else(|panicked| Err(io::Error::other(panicked)))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn staged(image: &Image, bytes: &'static [u8]) -> Staged {
        let mut staging = image.stage().await.unwrap();
        for chunk in bytes.chunks(3) {
            staging.write(Bytes::from_static(chunk)).await.unwrap();
        }
        staging.finish().await.unwrap()
    }

    fn read(mut snapshot: Snapshot) -> Vec<u8> {
        let mut bytes = Vec::new();
        snapshot.file.read_to_end(&mut bytes).unwrap();
        assert_eq!(snapshot.length, bytes.len() as u64);
        assert_eq!(snapshot.blake3.0, *blake3::hash(&bytes).as_bytes());
        bytes
    }

    fn names(of: &Path) -> Vec<String> {
        let names = fs::read_dir(of).unwrap();
        let mut names: Vec<_> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn a_snapshot_keeps_its_bytes_and_the_next_has_the_new_ones() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("image");
        let image = Image::open(&path).unwrap();
        assert!(image.snapshot().await.unwrap().is_none());
        let first = staged(&image, b"the first image").await;
        assert!(image.snapshot().await.unwrap().is_none());
        image.put_in_place(first, false).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let before = image.snapshot().await.unwrap().unwrap();
        let second = staged(&image, b"the second").await;
        image.put_in_place(second, false).unwrap();
        let after = image.snapshot().await.unwrap().unwrap();
        assert_eq!(read(before), b"the first image");
        assert_eq!(read(after), b"the second");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        assert!(!image.put_back().unwrap());
        assert_eq!(names(home.path()), ["image"]);
    }

    #[tokio::test]
    async fn what_another_program_writes_in_place_is_seen() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("image");
        let image = Image::open(&path).unwrap();
        let whole = staged(&image, b"one").await;
        image.put_in_place(whole, false).unwrap();
        read(image.snapshot().await.unwrap().unwrap());
        fs::write(&path, b"two and more").unwrap();
        assert_eq!(
            read(image.snapshot().await.unwrap().unwrap()),
            b"two and more"
        );
    }

    #[tokio::test]
    async fn the_image_that_was_proved_last_comes_back() {
        let home = tempfile::tempdir().unwrap();
        let image = Image::open(&home.path().join("image")).unwrap();
        let first = staged(&image, b"one").await;
        image.put_in_place(first, true).unwrap();
        image.proved().unwrap();
        assert!(!image.is_unproved());
        for bytes in [&b"two"[..], b"three"] {
            let next = staged(&image, bytes).await;
            image.put_in_place(next, true).unwrap();
        }
        assert!(image.is_unproved());
        assert!(image.put_back().unwrap());
        assert_eq!(read(image.snapshot().await.unwrap().unwrap()), b"one");
        assert!(!image.put_back().unwrap());
        let next = staged(&image, b"four").await;
        image.put_in_place(next, true).unwrap();
        image.proved().unwrap();
        assert!(!image.put_back().unwrap());
        assert_eq!(names(home.path()), ["image"]);
    }

    #[tokio::test]
    async fn what_was_never_proved_does_not_come_back() {
        let home = tempfile::tempdir().unwrap();
        let image = Image::open(&home.path().join("image")).unwrap();
        for bytes in [&b"one"[..], b"two"] {
            let next = staged(&image, bytes).await;
            image.put_in_place(next, true).unwrap();
            assert!(image.is_unproved());
            assert!(!image.put_back().unwrap());
            assert_eq!(read(image.snapshot().await.unwrap().unwrap()), bytes);
        }
        image.proved().unwrap();
        let next = staged(&image, b"three").await;
        image.put_in_place(next, true).unwrap();
        assert!(image.put_back().unwrap());
        assert_eq!(read(image.snapshot().await.unwrap().unwrap()), b"two");
        assert_eq!(names(home.path()), ["image"]);
    }

    #[tokio::test]
    async fn what_is_no_file_is_no_image_and_a_link_leads_to_one() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).unwrap();
        Image::open(&path).unwrap_err();
        Image::open(home.path()).unwrap_err();
        let late = home.path().join("late");
        let image = Image::open(&late).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &late, rustix::fs::Mode::RUSR).unwrap();
        image.snapshot().await.unwrap_err();
        image.stage().await.unwrap_err();
        let (link, target) = (home.path().join("link"), home.path().join("target"));
        fs::write(&target, "one").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let image = Image::open(&link).unwrap();
        let next = staged(&image, b"two").await;
        image.put_in_place(next, false).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"two");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[tokio::test]
    async fn what_is_not_put_in_place_leaves_nothing_and_a_crash_until_the_next_start() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("image");
        let image = Image::open(&path).unwrap();
        drop(staged(&image, b"dropped").await);
        assert_eq!(names(home.path()), [""; 0]);
        let crashed = staged(&image, b"crashed").await;
        let At::Own(left) = crashed.at else {
            panic!("it came in one request");
        };
        drop(left.keep());
        fs::write(home.path().join(".image.before"), b"the one before").unwrap();
        fs::write(home.path().join(".image.stage"), b"another's").unwrap();
        assert_eq!(names(home.path()).len(), 3);
        assert!(Image::open(&path).unwrap().is_unproved());
        assert_eq!(names(home.path()), [".image.before", ".image.stage"]);
    }
}
