//! What is uploaded: bytes that cost next to nothing to make, and that cannot be mistaken.
//!
//! One random MiB is shared by everything. Each MiB of an upload is that block behind a stamp of 16
//! bytes that tells the upload and the position, so that no two uploads are equal and a block in the
//! wrong place is noticed.

use std::io::{self, IoSlice};
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

    /// How many bytes.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// The two pieces of the block at `index`, the second behind the first.
    fn pieces(&self, index: u64) -> ([u8; STAMP_BYTES], &[u8]) {
        let mut stamp = [0; STAMP_BYTES];
        // The salt is mixed so that no stamp looks like the magic number of an archive.
        stamp[..8].copy_from_slice(&(self.salt.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes());
        stamp[8..].copy_from_slice(&index.to_le_bytes());
        (stamp, &self.block.0[STAMP_BYTES..])
    }

    /// All pieces in order, cut at the length.
    fn for_each(&self, mut with: impl FnMut(&[u8])) {
        for index in 0..self.length.div_ceil(BLOCK_BYTES as u64) {
            let (stamp, rest) = self.pieces(index);
            let room = self.room(index);
            with(&stamp[..room.min(STAMP_BYTES)]);
            with(&rest[..room.saturating_sub(STAMP_BYTES)]);
        }
    }

    /// Bytes of the block at `index`, less than a whole one at the end only.
    fn room(&self, index: u64) -> usize {
        let left = self.length - index * BLOCK_BYTES as u64;
        usize::try_from(left).map_or(BLOCK_BYTES, |left| left.min(BLOCK_BYTES))
    }

    /// Digests of all bytes; takes about a second per GB.
    pub(crate) fn digests(&self) -> Digests {
        let mut blake3 = blake3::Hasher::new();
        let mut sha256 = Sha256::new();
        self.for_each(|piece| {
            blake3.update(piece);
            sha256.update(piece);
        });
        Digests {
            blake3: blake3.finalize().to_hex().to_string(),
            sha256: hex::encode(sha256.finalize()),
        }
    }

    /// Sends all bytes, without copying them here.
    pub(crate) async fn send(&self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        for index in 0..self.length.div_ceil(BLOCK_BYTES as u64) {
            let (stamp, rest) = self.pieces(index);
            let room = self.room(index);
            let mut slices = [
                IoSlice::new(&stamp[..room.min(STAMP_BYTES)]),
                IoSlice::new(&rest[..room.saturating_sub(STAMP_BYTES)]),
            ];
            let mut left = &mut slices[..];
            let mut sent = 0;
            while sent < room {
                let n = to.write_vectored(left).await?;
                if n == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                sent += n;
                IoSlice::advance_slices(&mut left, n);
            }
        }
        Ok(())
    }

    /// Writes all bytes to a file.
    pub(crate) fn write_to(&self, file: &mut impl io::Write) -> io::Result<()> {
        let mut result = Ok(());
        self.for_each(|piece| {
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
            let index = self.offset / BLOCK_BYTES as u64;
            let within = usize::try_from(self.offset % BLOCK_BYTES as u64)
                .expect("a position within a MiB fits in usize");
            let (stamp, rest) = self.content.pieces(index);
            let expected = if within < STAMP_BYTES {
                &stamp[within..]
            } else {
                &rest[within - STAMP_BYTES..]
            };
            let n = expected
                .len()
                .min(bytes.len())
                .min(self.content.room(index) - within);
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
            content.send(&mut sent).await.unwrap();
            assert!(sent == written);
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
