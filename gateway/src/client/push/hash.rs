//! The file's own digests, computed in order while its parts are on their way in any order.
//!
//! The parts are read for sending by themselves: SHA-256 cannot run over parts that are ahead of it, and
//! keeping those in memory would make memory grow with the size of a part. The hasher stays within the
//! window of parts that may be sent, so that what one of both reads from the disk the other finds in the
//! page cache.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use boxgate_storage::digest::ContentHasher;
use boxgate_storage::digest::content::Digests;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use super::body::read;

/// Bytes read and hashed at once.
const STEP_BYTES: u64 = 1 << 20;
/// Bytes after which the work can be abandoned: a program that ends waits for no more.
const STRETCH_BYTES: u64 = 32 << 20;

/// Hashes the first `length` bytes of the file, never further than `allowed` says at that moment, and
/// tells by `hashed` how far it is. Ends early, with an error, when nobody allows more.
///
/// # Errors
/// When the file cannot be read so far.
pub async fn hash(
    file: Arc<File>,
    length: u64,
    mut allowed: watch::Receiver<u64>,
    hashed: Arc<AtomicU64>,
) -> io::Result<Digests> {
    let mut hasher = ContentHasher::new([]);
    while hasher.bytes() < length {
        let at = hasher.bytes();
        let more = allowed.wait_for(|allowed| *allowed > at).await;
        let to = *more.map_err(io::Error::other)?;
        let (file, hashed) = (Arc::clone(&file), Arc::clone(&hashed));
        let end = length.min(to).min(at + STRETCH_BYTES);
        hasher = spawn_blocking(move || stretch(&file, hasher, end, &hashed))
            .await
            .map_err(io::Error::other)??;
    }
    Ok(hasher.finish())
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
        // Nobody here wants the values of the blocks, and they would gather.
        hasher.take_values();
        hashed.store(hasher.bytes(), Ordering::Relaxed);
    }
    Ok(hasher)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

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
        ));
        for to in [1, 3_000_000, length + 7] {
            allow.send(to).unwrap();
            while hashed.load(Ordering::Relaxed) < to.min(length) {
                tokio::task::yield_now().await;
            }
            assert_eq!(hashed.load(Ordering::Relaxed), to.min(length));
        }
        let digests = hashing.await.unwrap().unwrap();
        assert_eq!(digests.blake3.0, *blake3::hash(&content).as_bytes());
        let sha256: [u8; 32] = <sha2::Sha256 as sha2::Digest>::digest(&content).into();
        assert_eq!(digests.sha256.0, sha256);

        let (allow, allowed) = watch::channel(10);
        let hashing = hash(
            Arc::clone(&file),
            length + 1,
            allowed.clone(),
            Arc::clone(&hashed),
        );
        drop(allow);
        assert!(hashing.await.is_err(), "nobody allows more");
        let (_allow, allowed) = watch::channel(u64::MAX);
        assert!(
            hash(file, length + 1, allowed, hashed).await.is_err(),
            "it is shorter"
        );
    }
}
