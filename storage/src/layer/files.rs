//! Blobs that may be sent as the files they are: proved at their first read and kept an eye on from then on.
//!
//! For bytes that the kernel carries from its page cache to a socket and that no code of ours sees. A block is read and
//! compared with its BLAKE3 subtree value (`verify.rs` does the same for bytes that do pass through here) when nobody
//! did so yet, when that was too long ago, when the file is another than then by inode, length or times, and when it is
//! not in the page cache: then it comes from the disk once more, and what the disk gives is looked at.
//!
//! What lies below the file system is seen only by that; whoever wants each byte proved each time turns this off.

use std::fmt;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rustix::io::{Errno, ReadWriteFlags};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::Instant;

use super::verify::BlobTree;
use crate::blob::{BlobKey, BlobMeta};
use crate::digest::{BLOCK_BYTES, Blake3, block_value};
use crate::error::{Error, ErrorKind, Result};
use crate::range::ByteRange;
use crate::store::{OpenFile, Store};

/// Blocks that are read to be proved at once; each has a MiB for it. Eight in flight are what a disk wants.
const PROVERS: usize = 8;
/// What is remembered of proved blocks, in bytes: a bit for each MiB of a blob, and about this for the blob itself.
const REMEMBERED_BYTES: u64 = 4 << 20;
const PER_BLOB_BYTES: u32 = 256;
/// How far apart it is looked whether bytes are in the page cache. The kernel reads in windows of 128 KiB and more, and
/// drops what lies together together; a look costs a third of a microsecond.
const LOOK_BYTES: u64 = 256 << 10;

/// What was proved, of all blobs. Clones share it.
#[derive(Clone)]
pub struct FileReads {
    shared: Arc<Shared>,
}

struct Shared {
    proofs: moka::sync::Cache<BlobKey, Arc<Proofs>>,
    /// A block is always read by the same one, so that it is read once however many ask.
    provers: [Arc<Mutex<Vec<u8>>>; PROVERS],
    max_age: Duration,
    proved: AtomicU64,
    sent_bytes: AtomicU64,
}

/// What happened so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileStats {
    /// Blocks that were read and proved.
    pub proved: u64,
    /// Bytes that the kernel carried.
    pub sent_bytes: u64,
}

/// What was proved of one file.
struct Proofs {
    stamp: Stamp,
    since: Instant,
    blocks: Box<[AtomicU64]>,
}

/// What tells a file that was changed from one that was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileReads {
    /// Nothing is proved yet; what will be counts for `max_age`.
    pub fn new(max_age: Duration) -> Self {
        let proofs = moka::sync::Cache::builder()
            .weigher(|_key, proofs: &Arc<Proofs>| {
                let words = u32::try_from(proofs.blocks.len()).unwrap_or(u32::MAX);
                words.saturating_mul(8).saturating_add(PER_BLOB_BYTES)
            })
            .max_capacity(REMEMBERED_BYTES)
            .build();
        Self {
            shared: Arc::new(Shared {
                proofs,
                provers: std::array::from_fn(|_| Arc::default()),
                max_age,
                proved: AtomicU64::new(0),
                sent_bytes: AtomicU64::new(0),
            }),
        }
    }

    /// The counters.
    pub fn stats(&self) -> FileStats {
        FileStats {
            proved: self.shared.proved.load(Ordering::Relaxed),
            sent_bytes: self.shared.sent_bytes.load(Ordering::Relaxed),
        }
    }

    /// The blob as a file, where its store keeps one that can be sent so.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] and [`ErrorKind::Damaged`] when that shows at once.
    pub async fn open(
        &self,
        store: &Store,
        meta: &BlobMeta,
        tree: &BlobTree,
    ) -> Result<Option<BlobFile>> {
        let Some(files) = &store.files else {
            return Ok(None);
        };
        let Some(file) = files.open_file(&meta.key).await? else {
            return Ok(None);
        };
        let failed = |errno: Errno| Error::io("blob.open", meta.key.to_string(), errno.into());
        let stamp = Stamp::of(file.as_fd()).map_err(failed)?;
        let damaged = |what: &'static str| {
            Error::new(ErrorKind::Damaged, "blob.open", meta.key.to_string()).with_source(what)
        };
        if tree.values.len() as u64 != meta.length.div_ceil(BLOCK_BYTES) {
            return Err(damaged("the blob's tree does not fit its length"));
        }
        if stamp.length < meta.length {
            return Err(damaged(TOO_SHORT));
        }
        // Where nobody can tell what is in memory, a look at a cold disk would keep all others waiting.
        match is_in_memory(file.as_fd(), 0) {
            Ok(_) => {}
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => return Ok(None),
            Err(errno) => return Err(failed(errno)),
        }
        Ok(Some(BlobFile {
            proofs: self.shared.proofs_of(meta, stamp),
            reads: self.clone(),
            file,
            meta: *meta,
            tree: tree.clone(),
        }))
    }
}

impl fmt::Debug for FileReads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileReads")
            .field("max_age", &self.shared.max_age)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// What was proved of the file that has this stamp now.
    fn proofs_of(&self, meta: &BlobMeta, stamp: Stamp) -> Arc<Proofs> {
        if let Some(proofs) = self.proofs.get(&meta.key)
            && proofs.stamp == stamp
            && proofs.since.elapsed() < self.max_age
        {
            return proofs;
        }
        let words = meta.length.div_ceil(BLOCK_BYTES * 64);
        let proofs = Arc::new(Proofs {
            stamp,
            since: Instant::now(),
            blocks: (0..words).map(|_| AtomicU64::new(0)).collect(),
        });
        self.proofs.insert(meta.key, Arc::clone(&proofs));
        proofs
    }
}

impl Proofs {
    fn has(&self, index: u64) -> bool {
        let (word, bit) = place(index);
        self.blocks[word].load(Ordering::Acquire) & bit != 0
    }

    fn add(&self, index: u64) {
        let (word, bit) = place(index);
        self.blocks[word].fetch_or(bit, Ordering::Release);
    }
}

fn place(index: u64) -> (usize, u64) {
    let word = usize::try_from(index / 64).expect("a blob's blocks are counted in memory");
    (word, 1 << (index % 64))
}

impl Stamp {
    /// The file's at this moment.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn of(file: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        let stat = rustix::fs::fstat(file)?;
        Ok(Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            length: stat.st_size.cast_unsigned(),
            modified: (stat.st_mtime, stat.st_mtime_nsec.cast_signed()),
            changed: (stat.st_ctime, stat.st_ctime_nsec.cast_signed()),
        })
    }

    /// Bytes of the file.
    pub fn length(self) -> u64 {
        self.length
    }

    /// When its bytes, or its entries, were changed last.
    pub fn modified(self) -> SystemTime {
        let (seconds, nanoseconds) = self.modified;
        let since = Duration::from_secs(seconds.unsigned_abs());
        let whole = if seconds < 0 {
            UNIX_EPOCH.checked_sub(since)
        } else {
            UNIX_EPOCH.checked_add(since)
        };
        whole.unwrap_or(UNIX_EPOCH) + Duration::from_nanos(nanoseconds.unsigned_abs())
    }

    /// All of it in one value, for whoever must not be told more.
    pub fn digest(self) -> Blake3 {
        let Self {
            device,
            inode,
            length,
            modified,
            changed,
        } = self;
        let mut hasher = blake3::Hasher::new();
        for number in [device, inode, length] {
            hasher.update(&number.to_be_bytes());
        }
        for (seconds, nanoseconds) in [modified, changed] {
            hasher.update(&seconds.to_be_bytes());
            hasher.update(&nanoseconds.to_be_bytes());
        }
        Blake3(*hasher.finalize().as_bytes())
    }

    /// Whether it is the same, perhaps with other bytes or another name.
    pub fn is_same_file(self, other: Self) -> bool {
        self.identity() == other.identity()
    }

    /// What tells it from all other files: device and inode.
    pub fn identity(self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// Whether it is the same with the same bytes, perhaps under another name or none.
    pub fn has_bytes_of(self, other: Self) -> bool {
        let bytes = |s: Self| (s.device, s.inode, s.length, s.modified);
        bytes(self) == bytes(other)
    }
}

/// A blob that is a file, as it was when it was opened. Clones share it.
#[derive(Clone)]
pub struct BlobFile {
    reads: FileReads,
    file: Arc<OpenFile>,
    proofs: Arc<Proofs>,
    meta: BlobMeta,
    tree: BlobTree,
}

impl fmt::Debug for BlobFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobFile")
            .field("key", &self.meta.key)
            .field("stamp", &self.proofs.stamp)
            .finish_non_exhaustive()
    }
}

const TOO_SHORT: &str = "the file is shorter than the blob";

impl BlobFile {
    /// The file. Nothing may leave it but what [`ready`](Self::ready) and [`prove`](Self::prove) allowed.
    pub fn file(&self) -> Arc<OpenFile> {
        Arc::clone(&self.file)
    }

    /// The same, to be had again as long as somebody keeps it open.
    pub fn remembered(&self) -> RememberedFile {
        RememberedFile {
            reads: self.reads.clone(),
            file: Arc::downgrade(&self.file),
            proofs: Arc::clone(&self.proofs),
            meta: self.meta,
            tree: self.tree.clone(),
        }
    }

    /// How many bytes from the start of `range` on are proved and in memory.
    ///
    /// # Errors
    /// As [`unchanged`](Self::unchanged).
    pub fn ready(&self, range: ByteRange) -> Result<u64> {
        self.unchanged()?;
        self.in_memory(range)
    }

    /// The same of a file that was seen to be [`unchanged`](Self::unchanged) just now.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn in_memory(&self, range: ByteRange) -> Result<u64> {
        let mut at = range.start();
        while at < range.end() {
            let end = block_end(at).min(range.end());
            if !self.proofs.has(at / BLOCK_BYTES) || !self.is_in_memory(at, end)? {
                break;
            }
            at = end;
        }
        Ok(at - range.start())
    }

    /// The bytes from `tail` to the end of `range`, which lies in one block, if all of `range` is proved and in memory; of a
    /// file that was seen to be [`unchanged`](Self::unchanged) just now, as it must be again before they are sent.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn tail_in_memory(&self, range: ByteRange, tail: u64) -> Result<Option<Bytes>> {
        if !self.proofs.has(range.start() / BLOCK_BYTES) {
            return Ok(None);
        }
        let mut at = range.start();
        while at < tail {
            if !self.has_in_memory(at)? {
                return Ok(None);
            }
            at += LOOK_BYTES;
        }
        let length = usize::try_from(range.end() - tail).expect("a few bytes fit in memory");
        let mut bytes = vec![0; length];
        let read = read_at_once(self.file.as_fd(), &mut bytes, tail);
        let read = read.map_err(|errno| self.unreadable(errno))?;
        Ok((read == Some(length)).then(|| bytes.into()))
    }

    /// That the file is the one that was proved.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when it is not; whoever opens it again proves it again.
    pub fn unchanged(&self) -> Result<()> {
        match Stamp::of(self.file.as_fd()) {
            Ok(stamp) if stamp == self.proofs.stamp => Ok(()),
            Ok(_) => Err(self.error(
                ErrorKind::Unavailable,
                "the file was changed while it was read",
            )),
            Err(errno) => Err(self.error(ErrorKind::Unavailable, std::io::Error::from(errno))),
        }
    }

    /// Reads a block, wherever it is, and compares it with what was hashed; it is in memory afterwards. Who asks while
    /// another reads it waits for that.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] when its bytes are others; as [`unchanged`](Self::unchanged).
    /// # Cancel safety
    /// A read that was begun goes on.
    pub async fn prove(&self, index: u64) -> Result<()> {
        let start = index * BLOCK_BYTES;
        let end = block_end(start).min(self.meta.length);
        let block = ByteRange::try_new(start, end)
            .ok_or_else(|| self.error(ErrorKind::Invalid, "the blob has no such block"))?;
        if self.ready(block)? == block.length() {
            return Ok(());
        }
        let number = u128::from_be_bytes(*self.meta.key.as_bytes()).wrapping_add(index.into());
        let prover = usize::try_from(number % PROVERS as u128).expect("it is a small number");
        let memory = Arc::clone(&self.reads.shared.provers[prover])
            .lock_owned()
            .await;
        // Whoever held it may have proved this very block.
        if self.ready(block)? == block.length() {
            return Ok(());
        }
        let this = self.clone();
        let read = tokio::task::spawn_blocking(move || this.read(block, memory));
        read.await
            .map_err(|panicked| self.error(ErrorKind::Internal, panicked))?
    }

    fn read(&self, block: ByteRange, mut memory: OwnedMutexGuard<Vec<u8>>) -> Result<()> {
        let length = usize::try_from(block.length()).expect("a block fits in memory");
        if memory.len() < length {
            memory.resize(length, 0);
        }
        self.fill(&mut memory[..length], block.start())?;
        let index = block.start() / BLOCK_BYTES;
        let place = usize::try_from(index).expect("the tree is in memory");
        if block_value(block.start(), &memory[..length]) != self.tree.values[place] {
            let subject = format!("{} block {index}", self.meta.key);
            return Err(Error::new(ErrorKind::Damaged, "blob.verify", subject)
                .with_source("its bytes are not what was hashed"));
        }
        // What was read belongs to the file that had this stamp only if it has it still.
        self.unchanged()?;
        self.proofs.add(index);
        self.reads.shared.proved.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// A few bytes of a block that is ready.
    ///
    /// # Errors
    /// As [`unchanged`](Self::unchanged); [`ErrorKind::Damaged`] when the file ends before them.
    pub fn copy(&self, range: ByteRange) -> Result<Bytes> {
        let length = usize::try_from(range.length()).expect("a few bytes fit in memory");
        let mut bytes = vec![0; length];
        self.fill(&mut bytes, range.start())?;
        self.unchanged()?;
        Ok(bytes.into())
    }

    /// Counts bytes that the kernel carried.
    pub fn sent(&self, bytes: u64) {
        self.reads
            .shared
            .sent_bytes
            .fetch_add(bytes, Ordering::Relaxed);
    }

    fn fill(&self, bytes: &mut [u8], at: u64) -> Result<()> {
        let mut filled = 0;
        while filled < bytes.len() {
            match rustix::io::pread(&*self.file, &mut bytes[filled..], at + filled as u64) {
                Ok(0) => return Err(self.error(ErrorKind::Damaged, TOO_SHORT)),
                Ok(read) => filled += read,
                Err(Errno::INTR) => {}
                Err(errno) => {
                    let error = std::io::Error::from(errno);
                    return Err(Error::io("blob.read", self.meta.key.to_string(), error));
                }
            }
        }
        Ok(())
    }

    fn is_in_memory(&self, from: u64, to: u64) -> Result<bool> {
        let mut at = from;
        while self.has_in_memory(at)? {
            if at == to - 1 {
                return Ok(true);
            }
            at = (at + LOOK_BYTES).min(to - 1);
        }
        Ok(false)
    }

    fn has_in_memory(&self, at: u64) -> Result<bool> {
        is_in_memory(self.file.as_fd(), at).map_err(|errno| self.unreadable(errno))
    }

    fn unreadable(&self, errno: Errno) -> Error {
        Error::io("blob.read", self.meta.key.to_string(), errno.into())
    }

    fn error(
        &self,
        kind: ErrorKind,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        Error::new(kind, "blob.read", self.meta.key.to_string()).with_source(cause)
    }
}

/// A blob that was a file when it was opened before. It holds nothing open.
#[derive(Clone)]
pub struct RememberedFile {
    reads: FileReads,
    file: Weak<OpenFile>,
    proofs: Arc<Proofs>,
    meta: BlobMeta,
    tree: BlobTree,
}

impl RememberedFile {
    /// It, if it is open still, and seen at this moment to be the one that was proved; else it has to be opened.
    pub fn again(&self) -> Option<BlobFile> {
        let file = self.file.upgrade()?;
        let stamp = Stamp::of(file.as_fd()).ok()?;
        let proofs = &self.proofs;
        let holds = stamp == proofs.stamp && proofs.since.elapsed() < self.reads.shared.max_age;
        holds.then(|| BlobFile {
            reads: self.reads.clone(),
            file,
            proofs: Arc::clone(proofs),
            meta: self.meta,
            tree: self.tree.clone(),
        })
    }

    /// Memory that it takes, about.
    pub fn weight(&self) -> u32 {
        let values = u32::try_from(self.tree.values.len()).unwrap_or(u32::MAX);
        values.saturating_mul(33).saturating_add(PER_BLOB_BYTES)
    }
}

impl fmt::Debug for RememberedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RememberedFile")
            .field("key", &self.meta.key)
            .finish_non_exhaustive()
    }
}

/// Whether a byte can be had without asking the disk.
fn is_in_memory(file: BorrowedFd<'_>, at: u64) -> rustix::io::Result<bool> {
    Ok(read_at_once(file, &mut [0], at)? == Some(1))
}

/// Reads what can be had without asking the disk; `None` where that is nothing.
fn read_at_once(
    file: BorrowedFd<'_>,
    bytes: &mut [u8],
    at: u64,
) -> rustix::io::Result<Option<usize>> {
    loop {
        let mut into = [IoSliceMut::new(bytes)];
        match rustix::io::preadv2(file, &mut into, at, ReadWriteFlags::NOWAIT) {
            Ok(read) => return Ok(Some(read)),
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

fn block_end(at: u64) -> u64 {
    (at / BLOCK_BYTES + 1) * BLOCK_BYTES
}
