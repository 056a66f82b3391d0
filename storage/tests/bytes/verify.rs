//! Verified reads: what was hashed, or damage.

use std::sync::Arc;

use boxgate_storage::backend::memory::MemoryStore;
use boxgate_storage::blob::{BlobKey, BlobMeta};
use boxgate_storage::buffer::BufferPool;
use boxgate_storage::digest::ContentHasher;
use boxgate_storage::layer::verify::{self, BlobTree};
use boxgate_storage::range::ByteRange;
use boxgate_storage::store::{ReadBlob, Run, RunBytes};
use boxgate_storage::{Error, ErrorKind, Result};
use futures_util::StreamExt;

const MIB: usize = 1 << 20;

pub(crate) struct Kept {
    pub(crate) memory: MemoryStore,
    pub(crate) read: Arc<dyn ReadBlob>,
    pub(crate) meta: BlobMeta,
    pub(crate) tree: BlobTree,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) async fn keep(length: usize) -> Kept {
    let bytes: Vec<u8> = (0..length)
        .map(|i| (i * 7 + i / 999).to_le_bytes()[0])
        .collect();
    let memory = MemoryStore::new(1 << 30);
    let store = memory.store();
    let key = BlobKey::random();
    let pool = BufferPool::new(0);
    let mut sink = store.write.begin(&key, 8 << 20, None).await.unwrap();
    for at in (0..length).step_by(MIB) {
        let mut buffer = pool.take().await;
        buffer.fill(&bytes[at..]);
        let offset = at as u64;
        sink.write(Run {
            offset,
            bytes: RunBytes::Buffer(buffer.into()),
        })
        .await
        .unwrap();
    }
    sink.commit().await.unwrap();
    let mut hasher = ContentHasher::new([]);
    hasher.update(&bytes);
    let digests = hasher.finish();
    Kept {
        read: store.read,
        meta: BlobMeta {
            key,
            length: length as u64,
            blake3: digests.blake3,
            sha256: digests.sha256,
        },
        tree: BlobTree {
            values: hasher.take_values().into(),
        },
        memory,
        bytes,
    }
}

impl Kept {
    /// What came before the end or the error, and the error.
    async fn read(&self, start: usize, end: usize) -> (Vec<u8>, Result<()>) {
        let range = ByteRange::try_new(start as u64, end as u64).unwrap();
        let mut stream = match verify::open(&self.read, &self.meta, &self.tree, range).await {
            Ok(stream) => stream,
            Err(e) => return (Vec::new(), Err(e)),
        };
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next().await {
            match chunk {
                Ok(chunk) => {
                    assert!(chunk.len() <= MIB && !chunk.is_empty());
                    bytes.extend_from_slice(&chunk);
                }
                Err(e) => {
                    assert!(stream.next().await.is_none(), "nothing follows an error");
                    return (bytes, Err(e));
                }
            }
        }
        (bytes, Ok(()))
    }
}

#[tokio::test]
async fn every_range_comes_back_as_it_went_in() {
    for length in [1, 5000, MIB, MIB + 1, 3 * MIB + 77] {
        let kept = keep(length).await;
        let edges = [
            0,
            1,
            4999,
            MIB - 1,
            MIB,
            MIB + 1,
            2 * MIB + 5,
            length - 1,
            length,
        ];
        for start in edges {
            for end in edges {
                if start <= end && end <= length {
                    let (bytes, outcome) = kept.read(start, end).await;
                    outcome.unwrap();
                    assert!(
                        bytes == kept.bytes[start..end],
                        "{start}..{end} of {length}"
                    );
                }
            }
        }
    }
}

#[tokio::test]
async fn damage_ends_the_read_before_its_block_and_names_it() {
    let kept = keep(3 * MIB + 77).await;
    assert!(kept.memory.damage(&kept.meta.key, 2 * MIB + 9));
    let (bytes, outcome) = kept.read(0, 3 * MIB + 77).await;
    assert!(bytes == kept.bytes[..2 * MIB]);
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(error.subject().ends_with("block 2"), "{}", error.subject());
    let (bytes, outcome) = kept.read(0, 2 * MIB).await;
    outcome.expect("blocks before it are sound");
    assert_eq!(bytes.len(), 2 * MIB);
    let damaged_elsewhere = kept.read(2 * MIB + 500, 2 * MIB + 501).await;
    let error = damaged_elsewhere.1.expect_err("a block is sound or not");
    assert_eq!(error.kind(), ErrorKind::Damaged);
}

#[tokio::test]
async fn a_small_blob_is_verified_too() {
    let kept = keep(10).await;
    assert!(kept.memory.damage(&kept.meta.key, 3));
    let (bytes, outcome) = kept.read(9, 10).await;
    assert!(bytes.is_empty());
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Damaged);
}

#[tokio::test]
async fn a_truncated_blob_is_damage() {
    let kept = keep(2 * MIB).await;
    kept.memory.cut(&kept.meta.key, 2 * MIB - 1);
    let kind = |outcome: Result<()>| outcome.map_err(|e: Error| e.kind());
    let whole = kept.read(0, 2 * MIB).await;
    assert_eq!(kind(whole.1), Err(ErrorKind::Damaged));
    let (bytes, sound) = kept.read(0, MIB).await;
    assert_eq!((bytes.len(), kind(sound)), (MIB, Ok(())));
}

#[tokio::test]
async fn a_range_outside_the_blob_is_invalid() {
    let kept = keep(10).await;
    let past = kept.read(0, 11).await.1.unwrap_err();
    assert_eq!(past.kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_tree_of_another_length_is_damage() {
    let mut kept = keep(10).await;
    kept.tree.values = Arc::new([]);
    let error = kept.read(0, 10).await.1.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
}
