//! Where a pull goes: blocks gather in `FILE.boxgate-pull`, which becomes FILE once all of it is proved.
//!
//! Nothing else is kept for going on after a cut: what a block holds is proved by the box's tree, so blocks
//! that are there count, wherever they came from, and blocks that are damaged do not.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use boxgate_storage::digest::outboard::ProvedTree;
use boxgate_storage::digest::{BLOCK_BYTES, Sha256};
use boxgate_storage::durable;
use boxgate_storage::range::ByteRange;
use sha2::Digest as _;

use super::PullError;

/// A file on its way; locked against a second pull to the same place for as long as it is open.
#[derive(Debug, Clone)]
pub struct Destination {
    path: PathBuf,
    gathering: PathBuf,
    file: Arc<File>,
}

/// What of a file is there.
#[derive(Debug)]
pub struct Survey {
    /// Blocks that are missing or wrong.
    pub missing: Vec<u64>,
    /// Bytes of the others.
    pub held: u64,
    /// SHA-256 of the whole, if nothing is missing.
    pub sha256: Option<Sha256>,
}

impl Destination {
    /// Opens the place where the blocks of `path` gather.
    ///
    /// # Errors
    /// [`PullError::Disk`], [`PullError::Running`].
    pub fn open(path: &Path) -> Result<Self, PullError> {
        let gathering = gathering(path);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&gathering)
            .map_err(|e| disk(&gathering, &e))?;
        // Some network volumes have no locks; there two pulls at once fetch the same bytes twice.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(PullError::Running(path.to_owned()));
        }
        Ok(Self {
            path: path.to_owned(),
            gathering,
            file: Arc::new(file),
        })
    }

    /// Where the file goes.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is there already of the blob under `tree`. Blocks that only `path` itself holds, the file that
    /// is to be replaced, are copied. `hashed` counts the bytes that were looked at.
    ///
    /// # Errors
    /// [`PullError::Disk`].
    pub fn survey(&self, tree: &ProvedTree, hashed: &AtomicU64) -> Result<Survey, PullError> {
        let failed = |e: io::Error| disk(&self.gathering, &e);
        if self.file.metadata().map_err(failed)?.len() > tree.length() {
            self.file.set_len(tree.length()).map_err(failed)?;
        }
        let former = File::open(&self.path).ok();
        look(tree, hashed, |block, range, buffer| {
            if read(&self.file, range, buffer)? && tree.holds(block, buffer) {
                return Ok(true);
            }
            let Some(former) = &former else {
                return Ok(false);
            };
            let is_there = read(former, range, buffer)? && tree.holds(block, buffer);
            if is_there {
                self.file.write_all_at(buffer, range.start())?;
            }
            Ok(is_there)
        })
        .map_err(failed)
    }

    /// Writes a block that was proved.
    ///
    /// # Errors
    /// [`PullError::Disk`].
    pub fn write(&self, range: ByteRange, block: &[u8]) -> Result<(), PullError> {
        let written = self.file.write_all_at(block, range.start());
        written.map_err(|e| disk(&self.gathering, &e))
    }

    /// Makes the file that gathered here the one at the path, durably.
    ///
    /// # Errors
    /// [`PullError::Disk`].
    pub fn publish(&self) -> Result<(), PullError> {
        let publish = || {
            self.file.sync_all()?;
            durable::put_in_place(&self.gathering, &self.path)
        };
        publish().map_err(|e| disk(&self.path, &e))
    }
}

/// Bytes that are to be looked at before anything is fetched to `path`.
pub fn here(path: &Path) -> u64 {
    let length = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
    length(path).saturating_add(length(&gathering(path)))
}

fn gathering(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".boxgate-pull");
    name.into()
}

/// Whether `path` holds the blob under `tree` already, all of it; gives its SHA-256.
///
/// # Errors
/// [`PullError::Disk`], also when it is no regular file: it would be replaced by one.
pub fn is_whole(
    path: &Path,
    tree: &ProvedTree,
    hashed: &AtomicU64,
) -> Result<Option<Sha256>, PullError> {
    let failed = |e: io::Error| disk(path, &e);
    // Told apart before it is opened: opening a pipe would wait for its other end.
    let kind = match std::fs::metadata(path) {
        Ok(kind) => kind,
        Err(e) if e.kind() == io::ErrorKind::NotFound && path.is_symlink() => {
            return Err(failed(io::Error::other("it is a link that leads nowhere")));
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    if !kind.is_file() {
        return Err(failed(io::Error::other("it is no regular file")));
    }
    if kind.len() != tree.length() {
        return Ok(None);
    }
    let file = File::open(path).map_err(failed)?;
    let found = look(tree, hashed, |block, range, buffer| {
        Ok(read(&file, range, buffer)? && tree.holds(block, buffer))
    });
    Ok(found.map_err(failed)?.sha256)
}

/// Looks at all blocks in order; `is_there` leaves a block that is right in the buffer.
fn look(
    tree: &ProvedTree,
    hashed: &AtomicU64,
    mut is_there: impl FnMut(u64, ByteRange, &mut Vec<u8>) -> io::Result<bool>,
) -> io::Result<Survey> {
    let mut missing = Vec::new();
    let mut sha256 = sha2::Sha256::new();
    let mut buffer = Vec::with_capacity(usize::try_from(BLOCK_BYTES).unwrap_or_default());
    let mut held = 0;
    hashed.store(0, Ordering::Relaxed);
    for block in 0..tree.blocks() {
        let range = tree.range(block);
        if is_there(block, range, &mut buffer)? {
            held += range.length();
            if missing.is_empty() {
                sha256.update(&buffer);
            }
        } else {
            missing.push(block);
        }
        hashed.fetch_add(range.length(), Ordering::Relaxed);
    }
    let whole = missing.is_empty();
    Ok(Survey {
        sha256: whole.then(|| Sha256(sha256.finalize().into())),
        missing,
        held,
    })
}

/// Reads a range; `false` if the file ends before it does.
fn read(file: &File, range: ByteRange, buffer: &mut Vec<u8>) -> io::Result<bool> {
    buffer.resize(usize::try_from(range.length()).unwrap_or_default(), 0);
    match file.read_exact_at(buffer, range.start()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

fn disk(path: &Path, error: &io::Error) -> PullError {
    PullError::Disk {
        path: path.to_owned(),
        why: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use boxgate_storage::digest::TreeHasher;
    use boxgate_storage::digest::outboard::outboard;

    use super::*;

    const MIB: usize = 1 << 20;

    fn blob(length: usize) -> (Vec<u8>, ProvedTree) {
        let bytes: Vec<u8> = (0..length).map(|i| (i % 251).to_le_bytes()[0]).collect();
        let mut hasher = TreeHasher::new();
        hasher.update(&bytes);
        let root = hasher.finish();
        let above = outboard(&hasher.take_values());
        let tree = ProvedTree::try_new(root, length as u64, &above).unwrap();
        (bytes, tree)
    }

    fn missing(at: &Destination, tree: &ProvedTree) -> Vec<u64> {
        let hashed = AtomicU64::new(0);
        let survey = at.survey(tree, &hashed).unwrap();
        assert_eq!(hashed.into_inner(), tree.length());
        let lost: u64 = survey.missing.iter().map(|b| tree.range(*b).length()).sum();
        assert_eq!(survey.held + lost, tree.length());
        assert_eq!(survey.sha256.is_some(), survey.missing.is_empty());
        survey.missing
    }

    #[test]
    fn what_is_proved_counts_and_what_is_damaged_is_missing() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a.box");
        let (bytes, tree) = blob(4 * MIB + 5);
        let at = Destination::open(&path).unwrap();
        assert!(matches!(
            Destination::open(&path),
            Err(PullError::Running(_))
        ));
        assert_eq!(missing(&at, &tree), [0, 1, 2, 3, 4]);
        for block in [1, 3, 4] {
            let range = tree.range(block);
            let start = usize::try_from(range.start()).unwrap();
            let end = usize::try_from(range.end()).unwrap();
            at.write(range, &bytes[start..end]).unwrap();
        }
        assert_eq!(missing(&at, &tree), [0, 2]);
        at.file.write_all_at(b"damage", 3 * MIB as u64 + 9).unwrap();
        assert_eq!(missing(&at, &tree), [0, 2, 3]);
        // A longer file that is replaced gives what it has of it.
        let mut former = [&bytes[..], &[7; 100]].concat();
        former[0] ^= 1;
        std::fs::write(&path, &former).unwrap();
        assert_eq!(missing(&at, &tree), [0]);
        at.write(tree.range(0), &bytes[..MIB]).unwrap();
        let survey = at.survey(&tree, &AtomicU64::new(0)).unwrap();
        let want: [u8; 32] = sha2::Sha256::digest(&bytes).into();
        assert_eq!(survey.sha256.unwrap().0, want);
        at.publish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1);
        let hashed = AtomicU64::new(0);
        assert_eq!(is_whole(&path, &tree, &hashed).unwrap().unwrap().0, want);
        std::fs::write(&path, &former[..bytes.len()]).unwrap();
        assert!(is_whole(&path, &tree, &hashed).unwrap().is_none());
        assert!(
            is_whole(&home.path().join("b"), &tree, &hashed)
                .unwrap()
                .is_none()
        );
        assert!(is_whole(home.path(), &tree, &hashed).is_err());
        let link = home.path().join("link");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        assert!(is_whole(&link, &tree, &hashed).is_err());
    }
}
