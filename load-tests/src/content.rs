//! What is uploaded: bytes that cost next to nothing to make, and that cannot be mistaken.
//!
//! One random MiB is shared by everything. Each MiB of an upload is that block behind a stamp of 16
//! bytes that tells the upload and the position, so that no two uploads are equal and a block in the
//! wrong place is noticed.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

/// Bytes of a block.
pub(crate) const BLOCK_BYTES: usize = 1 << 20;
const STAMP_BYTES: usize = 16;

/// The shared random block.
#[derive(Debug, Clone)]
pub(crate) struct Block(Arc<[u8]>);

impl Block {
    /// The bytes that this seed always gives.
    pub(crate) fn seeded(seed: u64) -> Self {
        let mut bytes = vec![0; BLOCK_BYTES];
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        hasher.finalize_xof().fill(&mut bytes);
        Self(bytes.into())
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Fresh random bytes.
    pub(crate) fn random() -> Self {
        let mut bytes = vec![0; BLOCK_BYTES];
        getrandom::fill(&mut bytes).expect("Linux always has random bytes to give");
        Self(bytes.into())
    }
}

/// The bytes of one upload.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    block: Block,
    salt: u64,
    length: u64,
}

/// What a right answer says about an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Digests {
    /// Lower-case hexadecimal.
    pub(crate) blake3: String,
    /// Lower-case hexadecimal.
    pub(crate) sha256: String,
}

impl Content {
    /// `length` bytes that no other `salt` has.
    pub(crate) fn new(block: &Block, salt: u64, length: u64) -> Self {
        Self {
            block: block.clone(),
            salt,
            length,
        }
    }

    /// No bytes.
    pub(crate) fn empty() -> Self {
        Self {
            block: Block(Arc::default()),
            salt: 0,
            length: 0,
        }
    }

    /// How many bytes.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// What tells the block at `index` from all others.
    fn stamp(&self, index: u64) -> [u8; STAMP_BYTES] {
        let mut stamp = [0; STAMP_BYTES];
        // The salt is mixed so that no stamp looks like the magic number of an archive.
        stamp[..8].copy_from_slice(&(self.salt.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes());
        stamp[8..].copy_from_slice(&index.to_le_bytes());
        stamp
    }

    /// The bytes of `range`, block by block, the second slice behind the first.
    fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = ([u8; STAMP_BYTES], Spans)> {
        let end = range.end.min(self.length);
        let mut at = range.start;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let index = at / BLOCK_BYTES as u64;
            let begin = index * BLOCK_BYTES as u64;
            let within = |offset: u64| {
                usize::try_from((offset - begin).min(BLOCK_BYTES as u64))
                    .expect("a position within a MiB fits in usize")
            };
            let spans = Spans {
                from: within(at),
                to: within(end),
            };
            at = begin + spans.to as u64;
            Some((self.stamp(index), spans))
        })
    }

    /// All bytes of `range` in order.
    fn for_each(&self, range: Range<u64>, mut with: impl FnMut(&[u8])) {
        for (stamp, spans) in self.pieces(range) {
            with(spans.of_stamp(&stamp));
            with(spans.of_block(&self.block));
        }
    }

    /// Digests of all bytes; takes about a second per GB.
    pub(crate) fn digests(&self) -> Digests {
        let mut blake3 = blake3::Hasher::new();
        let mut sha256 = Sha256::new();
        self.for_each(0..self.length, |piece| {
            blake3.update(piece);
            sha256.update(piece);
        });
        Digests {
            blake3: blake3.finalize().to_hex().to_string(),
            sha256: hex::encode(sha256.finalize()),
        }
    }

    /// SHA-256 of a range.
    pub(crate) fn sha256(&self, range: Range<u64>) -> [u8; 32] {
        let mut sha256 = Sha256::new();
        self.for_each(range, |piece| sha256.update(piece));
        sha256.finalize().into()
    }

    /// BLAKE3 of a range.
    pub(crate) fn blake3(&self, range: Range<u64>) -> [u8; 32] {
        let mut blake3 = blake3::Hasher::new();
        self.for_each(range, |piece| {
            blake3.update(piece);
        });
        *blake3.finalize().as_bytes()
    }

    /// Sends a range, without copying it here.
    pub(crate) async fn send(
        &self,
        range: Range<u64>,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        for (stamp, spans) in self.pieces(range) {
            let mut slices = [
                IoSlice::new(spans.of_stamp(&stamp)),
                IoSlice::new(spans.of_block(&self.block)),
            ];
            let mut left = &mut slices[..];
            let mut wanted = spans.to - spans.from;
            while wanted > 0 {
                let n = to.write_vectored(left).await?;
                if n == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                wanted -= n;
                IoSlice::advance_slices(&mut left, n);
            }
        }
        Ok(())
    }

    /// Writes all bytes to a file.
    pub(crate) fn write_to(&self, file: &mut impl io::Write) -> io::Result<()> {
        let mut result = Ok(());
        self.for_each(0..self.length, |piece| {
            if result.is_ok() {
                result = file.write_all(piece);
            }
        });
        result
    }

    /// Compares what comes with what was sent.
    pub(crate) fn checker(&self) -> Checker<'_> {
        Checker {
            content: self,
            offset: 0,
            equal: true,
        }
    }
}

/// Which bytes of a block.
#[derive(Debug, Clone, Copy)]
struct Spans {
    from: usize,
    to: usize,
}

impl Spans {
    fn of_stamp(self, stamp: &[u8; STAMP_BYTES]) -> &[u8] {
        &stamp[self.from.min(STAMP_BYTES)..self.to.min(STAMP_BYTES)]
    }

    fn of_block(self, block: &Block) -> &[u8] {
        &block.0[self.from.max(STAMP_BYTES)..self.to.max(STAMP_BYTES)]
    }
}

/// Compares bytes as they come, byte by byte: cheaper than a digest, and no weaker.
#[derive(Debug)]
pub(crate) struct Checker<'a> {
    content: &'a Content,
    offset: u64,
    equal: bool,
}

impl Checker<'_> {
    /// The next bytes.
    pub(crate) fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.equal {
            if self.offset >= self.content.length {
                self.equal = false;
                break;
            }
            let rest = self.offset..self.content.length;
            let Some((stamp, spans)) = self.content.pieces(rest).next() else {
                break;
            };
            let expected = match spans.of_stamp(&stamp) {
                [] => spans.of_block(&self.content.block),
                stamp => stamp,
            };
            let n = expected.len().min(bytes.len());
            self.equal = expected[..n] == bytes[..n];
            bytes = &bytes[n..];
            self.offset += n as u64;
        }
    }

    /// Whether all came, and nothing else.
    pub(crate) fn is_whole(&self) -> bool {
        self.equal && self.offset == self.content.length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(content: &Content) -> Vec<u8> {
        let mut all = Vec::new();
        content.write_to(&mut all).unwrap();
        all
    }

    #[tokio::test]
    async fn what_is_sent_written_hashed_and_checked_is_the_same() {
        let block = Block::random();
        for length in [
            0,
            1,
            15,
            16,
            17,
            BLOCK_BYTES,
            BLOCK_BYTES + 3,
            3 * BLOCK_BYTES - 1,
        ] {
            let content = Content::new(&block, 7, length as u64);
            let written = bytes(&content);
            assert_eq!(written.len(), length);
            let mut sent = Vec::new();
            content.send(0..content.length(), &mut sent).await.unwrap();
            assert!(sent == written);
            for cut in [0, 3, 16, 40, BLOCK_BYTES, BLOCK_BYTES + 1] {
                let cut = cut.min(length);
                let mut parts = Vec::new();
                let (middle, end) = (cut as u64, length as u64);
                content.send(0..middle, &mut parts).await.unwrap();
                content.send(middle..end, &mut parts).await.unwrap();
                assert!(parts == written, "cut at {cut} of {length}");
                let digest = content.sha256(middle..end);
                assert_eq!(digest[..], Sha256::digest(&written[cut..])[..]);
                let digest = content.blake3(middle..end);
                assert_eq!(digest, *blake3::hash(&written[cut..]).as_bytes());
            }
            assert_eq!(
                content.digests().blake3,
                blake3::hash(&sent).to_hex().to_string()
            );
            assert_eq!(content.digests().sha256, hex::encode(Sha256::digest(&sent)));
            let mut checker = content.checker();
            for chunk in sent.chunks(100_001) {
                checker.take(chunk);
            }
            assert!(checker.is_whole());
        }
    }

    #[test]
    fn swapped_short_long_and_foreign_bytes_are_noticed() {
        let block = Block::random();
        let content = Content::new(&block, 1, 2 * BLOCK_BYTES as u64);
        let right = bytes(&content);
        let mut swapped = right.clone();
        swapped.rotate_left(BLOCK_BYTES);
        let mut long = right.clone();
        long.push(0);
        let foreign = bytes(&Content::new(&block, 2, 2 * BLOCK_BYTES as u64));
        for wrong in [&swapped[..], &right[..right.len() - 1], &long, &foreign] {
            let mut checker = content.checker();
            checker.take(wrong);
            assert!(!checker.is_whole());
        }
    }
}
