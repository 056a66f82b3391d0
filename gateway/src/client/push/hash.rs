//! The file's own digests, computed in order while its parts are on their way in any order.
//!
//! The parts are read for sending by themselves: what comes in any order would have to be kept until its turn, and
//! memory would grow with the size of a part. The hasher stays within the
//! window of parts that may be sent, so that what one of both reads from the disk the other finds in the
//! page cache.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use boxgate_storage::digest::content::Digests;
use boxgate_storage::digest::{Algorithm, ContentHasher};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::body::read;

/// Bytes read and hashed at once.
const STEP_BYTES: u64 = 1 << 20;
/// Bytes after which the work can be abandoned: a program that ends waits for no more.
const STRETCH_BYTES: u64 = 32 << 20;

/// What became of the blocks' BLAKE3 values: 32 bytes for each MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// They are kept, to compare parts of the file with what a gateway holds.
    Kept,
    /// Nobody wants them, and they would gather.
    Dropped,
}

/// The digests of a file, and the values of its blocks where they are kept.
#[derive(Debug, Clone)]
pub struct Hashed {
    /// Of all of it.
    pub digests: Digests,
    /// Of each MiB.
    pub values: Vec<[u8; 32]>,
}

/// Hashes the first `length` bytes of the file, never further than `allowed` says at that moment, and
/// tells by `hashed` how far it is: by BLAKE3, and by `wanted`. Ends early, with an error, when nobody allows more.
///
/// SHA-256 takes longer than all else that a push does with a byte. BLAKE3 knows the bytes as well, so it is left to the
/// gateway, unless it is what the gateway is to know them by.
///
/// # Errors
/// When the file cannot be read so far.
pub async fn hash(
    file: Arc<File>,
    length: u64,
    mut allowed: watch::Receiver<u64>,
    hashed: Arc<AtomicU64>,
    values: Values,
    wanted: Option<Algorithm>,
) -> io::Result<Hashed> {
    let mut hasher = ContentHasher::deferring(wanted);
    let mut kept = Vec::new();
    let mut keep = |hasher: &mut ContentHasher| {
        let finished = hasher.take_values();
        if values == Values::Kept {
            kept.extend(finished);
        }
    };
    while hasher.bytes() < length {
        let at = hasher.bytes();
        let more = allowed.wait_for(|allowed| *allowed > at).await;
        let to = *more.map_err(io::Error::other)?;
        let (file, hashed) = (Arc::clone(&file), Arc::clone(&hashed));
        let end = length.min(to).min(at + STRETCH_BYTES);
        hasher = spawn_blocking(move || stretch(&file, hasher, end, &hashed))
            .await
            .map_err(io::Error::other)??;
        keep(&mut hasher);
    }
    let digests = hasher.finish();
    // A short last block.
    keep(&mut hasher);
    Ok(Hashed {
        digests,
        values: kept,
    })
}

fn stretch(
    file: &File,
    mut hasher: ContentHasher,
    end: u64,
    hashed: &AtomicU64,
) -> io::Result<ContentHasher> {
    while hasher.bytes() < end {
        let at = hasher.bytes();
        hasher.update(&read(file, at..end.min(at + STEP_BYTES))?);
        hashed.store(hasher.bytes(), Ordering::Relaxed);
    }
    Ok(hasher)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use boxgate_storage::digest::block_value;

    use super::*;

    #[tokio::test]
    async fn it_goes_as_far_as_it_may_and_its_digests_are_those_of_the_file() {
        let content: Vec<u8> = (0..5_000_000u32).map(|n| (n % 253) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        let length = content.len() as u64;
        let (allow, allowed) = watch::channel(0);
        let hashed = Arc::new(AtomicU64::new(0));
        let file = Arc::new(file);
        let hashing = tokio::spawn(hash(
            Arc::clone(&file),
            length,
            allowed,
            Arc::clone(&hashed),
            Values::Kept,
            Some(Algorithm::Sha256),
        ));
        for to in [1, 3_000_000, length + 7] {
            allow.send(to).unwrap();
            while hashed.load(Ordering::Relaxed) < to.min(length) {
                tokio::task::yield_now().await;
            }
            assert_eq!(hashed.load(Ordering::Relaxed), to.min(length));
        }
        let Hashed { digests, values } = hashing.await.unwrap().unwrap();
        let blocks = content.chunks(1 << 20).zip(0..);
        let wanted = blocks.map(|(block, k)| block_value(k << 20, block));
        assert!(values.iter().copied().eq(wanted));
        assert_eq!(digests.blake3.0, *blake3::hash(&content).as_bytes());
        let sha256: [u8; 32] = <sha2::Sha256 as sha2::Digest>::digest(&content).into();
        assert_eq!(digests.sha256.map(|found| found.0), Some(sha256));

        let (allow, allowed) = watch::channel(10);
        let hashing = hash(
            Arc::clone(&file),
            length + 1,
            allowed.clone(),
            Arc::clone(&hashed),
            Values::Dropped,
            None,
        );
        drop(allow);
        assert!(hashing.await.is_err(), "nobody allows more");
        let (_allow, allowed) = watch::channel(u64::MAX);
        assert!(
            hash(file, length + 1, allowed, hashed, Values::Dropped, None)
                .await
                .is_err(),
            "it is shorter"
        );
    }
}
