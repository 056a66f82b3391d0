//! Verified blocks of blobs in memory: read and proved once, however many ask.
//!
//! A block's fill is a task of its own, which whoever asks joins; it goes on when its first asker leaves.
//! Keys hold the blob's random key, never its digest, so that a hit tells nothing across tenants. Every
//! block holds a permit of its bytes for as long as anyone holds it, in the cache or beyond: the cache
//! never takes more than it was given.
//!
//! What clients hold that take their time is bounded by itself: a reader keeps a block only on a loan, of
//! which there are three eighths of the cache, else it gets a small copy. Were it not so, as many clients as
//! there are blocks could stop reading and keep every fill waiting.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::verify::{self, BlobTree};
use crate::blob::{BlobKey, BlobMeta};
use crate::digest::BLOCK_BYTES;
use crate::error::{Error, ErrorKind, Result};
use crate::range::ByteRange;
use crate::store::ReadBlob;

/// A reader that takes longer than this over a block is served from copies.
const SLOW: Duration = Duration::from_secs(5);
/// Bytes of such a copy: all that a slow reader keeps.
const COPY_BYTES: usize = 64 << 10;
/// Bytes that one permit stands for; a block's last KiB counts whole.
const PERMIT_BYTES: u64 = 1 << 10;

/// How much is kept, and in what pieces.
#[derive(Debug, Clone, Copy)]
pub struct CacheOptions {
    /// All bytes of blocks together, held by the cache, by fills and by readers.
    pub size_bytes: u64,
    /// Bytes of a block: 1 MiB times a power of two.
    pub block_bytes: u64,
}

/// What happened so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Blocks that were there.
    pub hits: u64,
    /// Blocks that were not; several may have waited for one fill.
    pub misses: u64,
    /// Blocks that were read and proved.
    pub fills: u64,
    /// Blocks that gave way to others.
    pub evictions: u64,
    /// Bytes that are held now, in the cache or beyond.
    pub held_bytes: u64,
    /// Bytes of blocks that readers hold now, in the cache or beyond.
    pub lent_bytes: u64,
}

/// The cache. Clones share it.
#[derive(Clone)]
pub struct BlockCache {
    shared: Arc<Shared>,
}

struct Shared {
    blocks: moka::sync::Cache<BlockKey, Arc<Slot>>,
    budget: Arc<Semaphore>,
    loans: Arc<Semaphore>,
    fills: Mutex<HashMap<BlockKey, watch::Receiver<Filled>>>,
    tasks: TaskTracker,
    options: CacheOptions,
    permits: usize,
    hits: AtomicU64,
    misses: AtomicU64,
    filled: AtomicU64,
    evictions: Arc<AtomicU64>,
}

type BlockKey = (BlobKey, u64);
/// `None` until the fill has ended.
type Filled = Option<std::result::Result<Arc<Block>, Arc<Error>>>;

/// Where the first block of an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It was in the cache.
    Hit,
    /// It was read from the store.
    Miss,
}

impl fmt::Debug for BlockCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockCache")
            .field("options", &self.shared.options)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl BlockCache {
    /// An empty cache whose fills run under `tasks`.
    pub fn new(options: CacheOptions, tasks: TaskTracker) -> Self {
        let permits = usize::try_from(options.size_bytes / PERMIT_BYTES)
            .unwrap_or(usize::MAX)
            .min(Semaphore::MAX_PERMITS);
        let evictions = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&evictions);
        // Half is kept, three eighths may be lent beyond, and so an eighth is always there for fills.
        let blocks = moka::sync::Cache::builder()
            .weigher(|_key, slot: &Arc<Slot>| slot.permits)
            .max_capacity(permits as u64 / 2)
            // Not by frequency, which turns new blocks away while those before them are as rarely asked
            // for: one that was read ahead, or that many edges are about to ask for, would be read again.
            .eviction_policy(EvictionPolicy::lru())
            .eviction_listener(move |_key, slot, cause| {
                // moka frees what was removed when it comes to it; its permits are wanted now.
                drop(slot.block().take());
                if cause == RemovalCause::Size {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            })
            .build();
        Self {
            shared: Arc::new(Shared {
                blocks,
                budget: Arc::new(Semaphore::new(permits)),
                loans: Arc::new(Semaphore::new(loans_of(permits))),
                fills: Mutex::default(),
                tasks,
                options,
                permits,
                hits: AtomicU64::new(0),
                misses: AtomicU64::new(0),
                filled: AtomicU64::new(0),
                evictions,
            }),
        }
    }

    /// The counters.
    pub fn stats(&self) -> CacheStats {
        let shared = &self.shared;
        let held = shared.permits - shared.budget.available_permits();
        let lent = loans_of(shared.permits) - shared.loans.available_permits();
        CacheStats {
            hits: shared.hits.load(Ordering::Relaxed),
            misses: shared.misses.load(Ordering::Relaxed),
            fills: shared.filled.load(Ordering::Relaxed),
            evictions: shared.evictions.load(Ordering::Relaxed),
            held_bytes: held as u64 * PERMIT_BYTES,
            lent_bytes: lent as u64 * PERMIT_BYTES,
        }
    }

    /// The bytes of `range`, each verified before it leaves, and where the first block came from; the
    /// stream ends with [`ErrorKind::Damaged`] at the first block that is not what was hashed.
    ///
    /// # Errors
    /// As [`verify::open`], for the first block.
    pub async fn open(
        &self,
        read: &Arc<dyn ReadBlob>,
        meta: &BlobMeta,
        tree: &BlobTree,
        range: ByteRange,
    ) -> Result<(Origin, BoxStream<'static, Result<Bytes>>)> {
        if range.end() > meta.length {
            let subject = meta.key.to_string();
            return Err(Error::new(ErrorKind::Invalid, "cache.open", subject));
        }
        let source = Arc::new(Source {
            read: Arc::clone(read),
            meta: *meta,
            tree: tree.clone(),
        });
        let mut reader = Reader {
            cache: self.clone(),
            source,
            at: range.start(),
            end: range.end(),
            taken: Instant::now(),
            taken_bytes: 0,
            is_slow: false,
        };
        let index = reader.at / self.shared.options.block_bytes;
        let is_hit = range.is_empty() || self.shared.blocks.contains_key(&(meta.key, index));
        let first = reader.next().await.transpose()?;
        let rest = stream::unfold(Some(reader), |reader| async {
            let mut reader = reader?;
            match reader.next().await? {
                Ok(bytes) => Some((Ok(bytes), Some(reader))),
                // After damage nothing more may leave.
                Err(e) => Some((Err(e), None)),
            }
        });
        let origin = if is_hit { Origin::Hit } else { Origin::Miss };
        let stream = stream::iter(first.map(Ok)).chain(rest).boxed();
        Ok((origin, stream))
    }

    /// One verified block.
    async fn block(&self, source: &Arc<Source>, index: u64) -> Result<Arc<Block>> {
        if let Some(block) = self.shared.kept(&(source.meta.key, index)) {
            self.shared.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(block);
        }
        self.shared.misses.fetch_add(1, Ordering::Relaxed);
        let mut fill = self.fill(source, index);
        let filled = match fill.wait_for(Option::is_some).await {
            Ok(filled) => filled.clone(),
            Err(_ended) => None,
        };
        match filled {
            Some(Ok(block)) => Ok(block),
            Some(Err(shared)) => Err(again(&shared, source)),
            None => Err(source.error(ErrorKind::Internal, "the fill ended without a block")),
        }
    }

    /// The fill of a block: the one under way, else a new one.
    fn fill(&self, source: &Arc<Source>, index: u64) -> watch::Receiver<Filled> {
        let key = (source.meta.key, index);
        let mut fills = self.shared.fills();
        if let Some(fill) = fills.get(&key) {
            return fill.clone();
        }
        // It may have ended since the caller looked; an ended fill leaves its block before it leaves
        // the map.
        if let Some(block) = self.shared.kept(&key) {
            return watch::channel(Some(Ok(block))).1;
        }
        let (ended, fill) = watch::channel(None);
        fills.insert(key, fill.clone());
        let (shared, source) = (Arc::clone(&self.shared), Arc::clone(source));
        self.shared.tasks.spawn(async move {
            // Also when the fill panics: a key that stayed would keep its block from ever being read.
            let _leave = Leave {
                shared: &shared,
                key,
            };
            let filled = shared.read(&source, index).await.map_err(Arc::new);
            if let Ok(block) = &filled {
                shared
                    .blocks
                    .insert(key, Arc::new(Slot::new(Arc::clone(block))));
                // At once, or what has to give way would keep its permits until someone comes by.
                shared.blocks.run_pending_tasks();
            }
            ended.send_replace(Some(filled));
        });
        fill
    }

    /// Begins to fill a block that will be asked for, as long as that takes nothing from anyone.
    fn read_ahead(&self, source: &Arc<Source>, index: u64) {
        let block = source.block(index, self.shared.options.block_bytes);
        let wanted = permits_of(block.length()) as usize;
        if !block.is_empty()
            && self.shared.budget.available_permits() >= wanted
            && !self.shared.blocks.contains_key(&(source.meta.key, index))
        {
            drop(self.fill(source, index));
        }
    }
}

impl Shared {
    /// Reads and proves one block.
    async fn read(&self, source: &Source, index: u64) -> Result<Arc<Block>> {
        let range = source.block(index, self.options.block_bytes);
        let permits = permits_of(range.length());
        let permit = Arc::clone(&self.budget).acquire_many_owned(permits).await;
        let permit = permit.map_err(|closed| source.error(ErrorKind::Internal, closed))?;
        let mut stream = verify::open(&source.read, &source.meta, &source.tree, range).await?;
        let mut held = Bytes::new();
        let mut copied = BytesMut::new();
        while let Some(bytes) = stream.next().await {
            let bytes = bytes?;
            // A whole MiB is a store's buffer as it is; less would pin the rest of one.
            if bytes.len() as u64 == BLOCK_BYTES && range.length() == BLOCK_BYTES {
                held = bytes;
            } else {
                let missing = range.length() - copied.len() as u64;
                copied.reserve(usize::try_from(missing).expect("a block fits in memory"));
                copied.extend_from_slice(&bytes);
            }
        }
        let bytes = if copied.is_empty() {
            held
        } else {
            copied.freeze()
        };
        self.filled.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(Block {
            bytes,
            loan: Mutex::default(),
            _permit: permit,
        }))
    }

    fn kept(&self, key: &BlockKey) -> Option<Arc<Block>> {
        self.blocks.get(key)?.block().clone()
    }

    fn fills(&self) -> MutexGuard<'_, HashMap<BlockKey, watch::Receiver<Filled>>> {
        self.fills.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A block in the cache; empty once it gave way.
struct Slot {
    permits: u32,
    block: Mutex<Option<Arc<Block>>>,
}

impl Slot {
    fn new(block: Arc<Block>) -> Self {
        Self {
            permits: permits_of(block.bytes.len() as u64),
            block: Mutex::new(Some(block)),
        }
    }

    fn block(&self) -> MutexGuard<'_, Option<Arc<Block>>> {
        self.block.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a fill from the map when it ends, however it ends.
struct Leave<'a> {
    shared: &'a Shared,
    key: BlockKey,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.shared.fills().remove(&self.key);
    }
}

/// A proved block; its permits go back when the last who holds it lets go.
struct Block {
    bytes: Bytes,
    /// The loan on which readers hold it now: one for all of them.
    loan: Mutex<Weak<Loan>>,
    _permit: OwnedSemaphorePermit,
}

/// The right of readers to hold a block for as long as their clients take.
struct Loan {
    _permit: OwnedSemaphorePermit,
}

impl Block {
    /// The bytes from `from` to `to`, uncopied if they can be lent, else the first of them in a copy.
    fn hand_out(self: Arc<Self>, from: usize, to: usize, loans: Option<&Arc<Semaphore>>) -> Bytes {
        match loans.and_then(|loans| self.lend(loans)) {
            Some(loan) => Bytes::from_owner(Lent {
                bytes: self.bytes.slice(from..to),
                _block: self,
                _loan: loan,
            }),
            None => Bytes::copy_from_slice(&self.bytes[from..to.min(from + COPY_BYTES)]),
        }
    }

    fn lend(&self, loans: &Arc<Semaphore>) -> Option<Arc<Loan>> {
        let mut last = self.loan.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loan) = last.upgrade() {
            return Some(loan);
        }
        let permits = permits_of(self.bytes.len() as u64);
        let permit = Arc::clone(loans).try_acquire_many_owned(permits).ok()?;
        let loan = Arc::new(Loan { _permit: permit });
        *last = Arc::downgrade(&loan);
        Some(loan)
    }
}

/// What a reader was handed. The loan goes last: it stands for bytes that are held.
struct Lent {
    bytes: Bytes,
    _block: Arc<Block>,
    _loan: Arc<Loan>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Where a blob's blocks come from.
struct Source {
    read: Arc<dyn ReadBlob>,
    meta: BlobMeta,
    tree: BlobTree,
}

impl Source {
    /// The bytes of one block; none beyond the end.
    fn block(&self, index: u64, block_bytes: u64) -> ByteRange {
        let start = index.saturating_mul(block_bytes).min(self.meta.length);
        let end = start.saturating_add(block_bytes).min(self.meta.length);
        ByteRange::try_new(start, end).expect("a block ends behind its start")
    }

    fn error(
        &self,
        kind: ErrorKind,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        Error::new(kind, "cache.fill", self.meta.key.to_string()).with_source(cause)
    }
}

/// One failure for each of those that waited for the same fill.
fn again(shared: &Arc<Error>, source: &Source) -> Error {
    source.error(shared.kind(), crate::error::chain(shared))
}

fn loans_of(permits: usize) -> usize {
    permits / 8 * 3
}

fn permits_of(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX)
}

/// One range on its way out.
struct Reader {
    cache: BlockCache,
    source: Arc<Source>,
    at: u64,
    end: u64,
    /// When the last bytes were taken, and how many they were.
    taken: Instant,
    taken_bytes: u64,
    is_slow: bool,
}

impl Reader {
    async fn next(&mut self) -> Option<Result<Bytes>> {
        if self.at == self.end {
            return None;
        }
        let block_bytes = self.cache.shared.options.block_bytes;
        // Bytes are asked for when those before them are on their way: the time between is the client's.
        let took = self.taken.elapsed();
        self.is_slow |= self.taken_bytes == block_bytes && took > SLOW;
        let index = self.at / block_bytes;
        let block = match self.cache.block(&self.source, index).await {
            Ok(block) => block,
            Err(error) => return Some(Err(error)),
        };
        let start = index * block_bytes;
        let last = (start + block.bytes.len() as u64).min(self.end);
        let within = |at: u64| usize::try_from(at - start).expect("a block fits in memory");
        let loans = (!self.is_slow).then_some(&self.cache.shared.loans);
        let bytes = block.hand_out(within(self.at), within(last), loans);
        let is_sequential = self.taken_bytes > 0;
        self.taken_bytes = bytes.len() as u64;
        self.at += self.taken_bytes;
        if self.at == last && last < self.end && is_sequential {
            self.cache.read_ahead(&self.source, index + 1);
        }
        self.taken = Instant::now();
        Some(Ok(bytes))
    }
}
