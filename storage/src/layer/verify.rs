//! Proves bytes before they are served: each MiB is read whole and compared with its BLAKE3 subtree
//! value from when it came in.
//!
//! Hashing runs inline (0.2 ms per MiB, less than a hop to another thread disturbs). Reading ahead is
//! the store's business: it reads the next block while this one is hashed and sent.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};

use crate::blob::BlobMeta;
use crate::digest::{BLOCK_BYTES, block_value};
use crate::error::{Error, ErrorKind, Result};
use crate::range::ByteRange;
use crate::store::ReadBlob;

/// The subtree values of a committed blob, one per MiB, in order.
#[derive(Debug, Clone)]
pub struct BlobTree {
    /// 32 bytes per MiB of the blob; the last may stand for less than a MiB.
    pub values: Arc<[[u8; 32]]>,
}

/// The bytes of `range`, each verified before it leaves; ends with
/// [`crate::ErrorKind::Damaged`] at the first block that is not what was hashed.
///
/// # Errors
/// [`crate::ErrorKind::NotFound`] and [`crate::ErrorKind::Damaged`] when that shows at once;
/// [`crate::ErrorKind::Invalid`] when the range leaves the blob.
pub async fn open(
    read: &Arc<dyn ReadBlob>,
    meta: &BlobMeta,
    tree: &BlobTree,
    range: ByteRange,
) -> Result<BoxStream<'static, Result<Bytes>>> {
    let subject = || meta.key.to_string();
    if range.end() > meta.length {
        return Err(Error::new(ErrorKind::Invalid, "blob.open", subject()));
    }
    if tree.values.len() as u64 != meta.length.div_ceil(BLOCK_BYTES) {
        return Err(Error::new(ErrorKind::Damaged, "blob.open", subject())
            .with_source("the blob's tree does not fit its length"));
    }
    if range.is_empty() {
        return Ok(stream::empty().boxed());
    }
    let start = range.start() - range.start() % BLOCK_BYTES;
    let end = range.end().next_multiple_of(BLOCK_BYTES).min(meta.length);
    let blocks = ByteRange::try_new(start, end).expect("rounding outwards keeps the order");
    let verified = Verified {
        source: read.open(&meta.key, blocks).await?,
        held: Bytes::new(),
        values: Arc::clone(&tree.values),
        meta: *meta,
        range,
        at: start,
        end,
    };
    Ok(stream::unfold(Some(verified), |state| async {
        let mut verified = state?;
        if verified.at == verified.end {
            return None;
        }
        // After damage nothing more may leave, so the reader is dropped.
        match verified.next().await {
            Ok(bytes) => Some((Ok(bytes), Some(verified))),
            Err(e) => Some((Err(e), None)),
        }
    })
    .boxed())
}

/// The blocks still to be verified.
struct Verified {
    source: BoxStream<'static, Result<Bytes>>,
    /// What a chunk held beyond the last block.
    held: Bytes,
    values: Arc<[[u8; 32]]>,
    meta: BlobMeta,
    range: ByteRange,
    at: u64,
    end: u64,
}

impl Verified {
    /// One block, verified, and cut to what the range has of it.
    async fn next(&mut self) -> Result<Bytes> {
        let (at, length) = (self.at, BLOCK_BYTES.min(self.end - self.at));
        let block = self.gather(length).await?;
        let index = usize::try_from(at / BLOCK_BYTES).expect("the tree is in memory");
        if block_value(at, &block) != self.values[index] {
            return Err(self.damaged("its bytes are not what was hashed"));
        }
        self.at += length;
        let from = self.range.start().saturating_sub(at);
        let to = length.min(self.range.end() - at);
        let within = |offset: u64| usize::try_from(offset).expect("a block fits in memory");
        Ok(block.slice(within(from)..within(to)))
    }

    /// The next `length` bytes: uncopied when the store cut them where blocks end.
    async fn gather(&mut self, length: u64) -> Result<Bytes> {
        let length = usize::try_from(length).expect("a block fits in memory");
        let mut first = self.chunk().await?;
        if first.len() >= length {
            self.held = first.split_off(length);
            return Ok(first);
        }
        let mut block = BytesMut::with_capacity(length);
        block.extend_from_slice(&first);
        while block.len() < length {
            let mut chunk = self.chunk().await?;
            self.held = chunk.split_off(chunk.len().min(length - block.len()));
            block.extend_from_slice(&chunk);
        }
        Ok(block.freeze())
    }

    async fn chunk(&mut self) -> Result<Bytes> {
        if !self.held.is_empty() {
            return Ok(std::mem::take(&mut self.held));
        }
        match self.source.next().await {
            Some(chunk) => chunk,
            None => Err(self.damaged("the store ended early")),
        }
    }

    fn damaged(&self, what: &'static str) -> Error {
        let block = self.at / BLOCK_BYTES;
        let subject = format!("{} block {block}", self.meta.key);
        Error::new(ErrorKind::Damaged, "blob.verify", subject).with_source(what)
    }
}
