//! Reading a blob's file in blocks of up to 1 MiB, the next one read while the last is being sent.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::task::JoinHandle;

use super::{Local, blocking, failure};
use crate::blob::BlobKey;
use crate::error::{Error, ErrorKind, Result};
use crate::range::ByteRange;
use crate::store::ReadBlob;

/// Bytes read at once; reads end at multiples of it, which is where verification wants them cut.
const BLOCK_BYTES: usize = 1 << 20;

#[async_trait]
impl ReadBlob for Local {
    async fn stat(&self, key: &BlobKey) -> Result<u64> {
        let path = self.path_of(key);
        let subject = key.to_string();
        blocking("blob.stat", subject.clone(), move || {
            let found = std::fs::metadata(&path);
            let found = found.map_err(|e| failure("blob.stat", &path, &subject, e))?;
            Ok(found.len())
        })
        .await
    }

    async fn open(
        &self,
        key: &BlobKey,
        range: ByteRange,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        let path = self.path_of(key);
        let subject = key.to_string();
        let memory = self.memory.clone();
        // The first block is read in the same hop, so that a short range costs one.
        let first = blocking("blob.open", subject.clone(), move || {
            let file = open_at_least(&path, range.end(), &subject)?;
            let mut reader = Reader {
                file,
                memory,
                subject,
                at: range.start(),
                end: range.end(),
            };
            Ok(if range.is_empty() {
                Ahead::Ended
            } else {
                Ahead::Ready(reader.read()?, reader)
            })
        })
        .await?;
        Ok(stream::unfold(first, Ahead::next).boxed())
    }
}

/// Opens a file that must hold at least `length` bytes.
fn open_at_least(path: &Path, length: u64, subject: &str) -> Result<File> {
    let file = File::open(path).map_err(|e| failure("blob.open", path, subject, e))?;
    let found = file
        .metadata()
        .map_err(|e| Error::io("blob.open", subject, e))?;
    if found.len() < length {
        return Err(too_short(subject));
    }
    Ok(file)
}

fn too_short(subject: &str) -> Error {
    Error::new(ErrorKind::Damaged, "blob.read", subject)
        .with_source("the file is shorter than the blob")
}

/// Where a stream of blocks stands.
enum Ahead {
    /// The first block, read when the file was opened.
    Ready(Bytes, Reader),
    /// The next block is being read.
    Reading(JoinHandle<(Result<Bytes>, Reader)>, String),
    /// The next block is read only when it is asked for: many blocks are out.
    Waiting(Reader),
    /// Nothing more to give.
    Ended,
}

impl Ahead {
    /// The next block, with the one behind it already being read.
    async fn next(self) -> Option<(Result<Bytes>, Self)> {
        let asked = match self {
            Self::Waiting(reader) => reader.start(),
            other => other,
        };
        let (block, reader) = match asked {
            Self::Ended | Self::Waiting(_) => return None,
            Self::Ready(block, reader) => (Ok(block), reader),
            Self::Reading(reading, subject) => match reading.await {
                Ok(read) => read,
                Err(panicked) => {
                    let error = Error::new(ErrorKind::Internal, "blob.read", subject);
                    return Some((Err(error.with_source(panicked)), Self::Ended));
                }
            },
        };
        let rest = if block.is_err() || reader.at == reader.end {
            Self::Ended
        } else if reader.memory.may_read_ahead() {
            reader.start()
        } else {
            Self::Waiting(reader)
        };
        Some((block, rest))
    }
}

/// One open file and the range that is left of it.
struct Reader {
    file: File,
    memory: ReadMemory,
    subject: String,
    at: u64,
    end: u64,
}

impl Reader {
    fn start(mut self) -> Ahead {
        let subject = self.subject.clone();
        let reading = tokio::task::spawn_blocking(move || (self.read(), self));
        Ahead::Reading(reading, subject)
    }

    /// Reads up to the next multiple of a block, or to the end.
    fn read(&mut self) -> Result<Bytes> {
        let block = BLOCK_BYTES as u64;
        let length = (block - self.at % block).min(self.end - self.at);
        let length = usize::try_from(length).expect("a block fits in memory");
        let mut memory = self.memory.take();
        let read = self.file.read_exact_at(&mut memory[..length], self.at);
        let block = self.memory.lend(memory, length);
        match read {
            Ok(()) => {
                self.at += length as u64;
                Ok(block)
            }
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(too_short(&self.subject)),
            Err(e) => Err(Error::io("blob.read", self.subject.clone(), e)),
        }
    }
}

/// Blocks that were read into before: a fresh one costs as much in page faults as hashing it.
/// A stream holds two blocks, and one while [`AHEAD_BLOCKS`] are out.
#[derive(Clone, Default)]
pub(super) struct ReadMemory {
    shared: Arc<Blocks>,
}

#[derive(Default)]
struct Blocks {
    idle: Mutex<Vec<Box<[u8]>>>,
    out: AtomicUsize,
}

/// Blocks kept for the next reader.
const IDLE_BLOCKS: usize = 32;
/// Blocks out from which on nobody reads ahead: then the disk is busy anyhow, and slow readers would
/// hold twice the memory.
const AHEAD_BLOCKS: usize = 64;

impl ReadMemory {
    fn may_read_ahead(&self) -> bool {
        self.shared.out.load(Ordering::Relaxed) < AHEAD_BLOCKS
    }

    fn take(&self) -> Box<[u8]> {
        let idle = self.idle().pop();
        idle.unwrap_or_else(|| vec![0; BLOCK_BYTES].into_boxed_slice())
    }

    /// The first `length` bytes of `memory`, which comes back here when nobody holds them any more.
    fn lend(&self, memory: Box<[u8]>, length: usize) -> Bytes {
        self.shared.out.fetch_add(1, Ordering::Relaxed);
        Bytes::from_owner(Lent {
            memory: Some(memory),
            length,
            home: self.clone(),
        })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Box<[u8]>>> {
        self.shared
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ReadMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadMemory")
            .field("idle_blocks", &self.idle().len())
            .field("out", &self.shared.out.load(Ordering::Relaxed))
            .finish()
    }
}

struct Lent {
    /// Absent only while it is being dropped.
    memory: Option<Box<[u8]>>,
    length: usize,
    home: ReadMemory,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.memory
            .as_ref()
            .map_or(&[], |memory| &memory[..self.length])
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.home.shared.out.fetch_sub(1, Ordering::Relaxed);
        let mut idle = self.home.idle();
        if idle.len() < IDLE_BLOCKS {
            idle.extend(self.memory.take());
        }
    }
}
