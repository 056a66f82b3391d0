//! Blobs that may be sent as files: nothing before it is proved, and nothing on a proof of another file.

use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::Duration;

use boxgate_storage::ErrorKind;
use boxgate_storage::backend::local;
use boxgate_storage::blob::{BlobKey, BlobMeta};
use boxgate_storage::digest::{Blake3, Sha256, TreeHasher};
use boxgate_storage::layer::files::FileReads;
use boxgate_storage::layer::verify::BlobTree;
use boxgate_storage::range::ByteRange;
use boxgate_storage::store::Store;
use rustix::fs::Advice;
use tempfile::TempDir;
use tokio::task::JoinSet;

const MIB: u64 = 1 << 20;
const LENGTH: u64 = 3 * MIB + 7;
const WEEK: Duration = Duration::from_hours(7 * 24);

struct Scene {
    _home: TempDir,
    store: Store,
    meta: BlobMeta,
    tree: BlobTree,
    path: PathBuf,
    reads: FileReads,
}

impl Scene {
    /// A blob in a local store.
    async fn set() -> Self {
        let home = tempfile::tempdir().unwrap();
        let store = local::open(home.path()).await.unwrap();
        let mut bytes = vec![0; usize::try_from(LENGTH).unwrap()];
        fastrand::Rng::with_seed(3).fill(&mut bytes);
        let meta = BlobMeta {
            key: BlobKey::random(),
            length: LENGTH,
            blake3: Blake3(*blake3::hash(&bytes).as_bytes()),
            sha256: Some(Sha256([0; 32])),
        };
        let name = meta.key.to_string();
        let path = home.path().join(&name[..2]).join(&name);
        std::fs::write(&path, &bytes).unwrap();
        let mut hasher = TreeHasher::new();
        hasher.update(&bytes);
        hasher.finish();
        let values = hasher.take_values().into();
        Self {
            _home: home,
            store,
            meta,
            tree: BlobTree { values },
            path,
            reads: FileReads::new(WEEK),
        }
    }

    async fn open(&self) -> boxgate_storage::layer::files::BlobFile {
        let opened = self.reads.open(&self.store, &self.meta, &self.tree).await;
        opened.unwrap().expect("it is a file, and there is a place")
    }

    fn flip(&self, at: u64) {
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .open(&self.path)
            .unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    }

    fn whole() -> ByteRange {
        ByteRange::whole(LENGTH)
    }
}

#[tokio::test]
async fn nothing_is_ready_before_it_is_proved() {
    let scene = Scene::set().await;
    let file = scene.open().await;
    assert_eq!(file.ready(Scene::whole()).unwrap(), 0);
    for (block, ready) in [(0, MIB), (2, MIB), (1, 3 * MIB), (3, LENGTH)] {
        file.prove(block).await.unwrap();
        assert_eq!(file.ready(Scene::whole()).unwrap(), ready, "block {block}");
    }
    let again = scene.open().await;
    assert_eq!(
        again.ready(Scene::whole()).unwrap(),
        LENGTH,
        "it is remembered"
    );
    assert!(file.prove(4).await.is_err(), "there is no such block");
}

#[tokio::test]
async fn a_block_is_proved_once_however_many_ask() {
    let scene = Scene::set().await;
    let mut asking = JoinSet::new();
    for turn in 0..100 {
        let file = scene.open().await;
        asking.spawn(async move { file.prove(turn % 4).await });
    }
    while let Some(asked) = asking.join_next().await {
        asked.unwrap().unwrap();
    }
    assert_eq!(scene.reads.stats().proved, 4);
}

#[tokio::test]
async fn damage_is_named_and_never_ready() {
    let scene = Scene::set().await;
    scene.flip(2 * MIB + 99);
    let file = scene.open().await;
    file.prove(1).await.unwrap();
    let error = file.prove(2).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert_eq!(error.subject(), format!("{} block 2", scene.meta.key));
    let second = ByteRange::try_new(MIB, LENGTH).unwrap();
    assert_eq!(file.ready(second).unwrap(), MIB);
}

#[tokio::test]
async fn a_file_that_changed_is_another_one() {
    let scene = Scene::set().await;
    let file = scene.open().await;
    file.prove(0).await.unwrap();
    scene.flip(5);
    assert_eq!(file.unchanged().unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(
        file.ready(Scene::whole()).unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    let tail = ByteRange::try_new(0, 10).unwrap();
    assert_eq!(file.copy(tail).unwrap_err().kind(), ErrorKind::Unavailable);
    let again = scene.open().await;
    assert_eq!(again.ready(Scene::whole()).unwrap(), 0);
    assert_eq!(again.prove(0).await.unwrap_err().kind(), ErrorKind::Damaged);
}

#[tokio::test]
async fn a_file_that_lost_its_end_is_damaged() {
    let scene = Scene::set().await;
    let file = scene.open().await;
    std::fs::File::options()
        .write(true)
        .open(&scene.path)
        .unwrap()
        .set_len(MIB)
        .unwrap();
    assert!(file.prove(2).await.is_err());
    let opened = scene
        .reads
        .open(&scene.store, &scene.meta, &scene.tree)
        .await;
    assert_eq!(opened.unwrap_err().kind(), ErrorKind::Damaged);
}

#[tokio::test(start_paused = true)]
async fn a_proof_counts_for_its_time() {
    let scene = Scene::set().await;
    let file = scene.open().await;
    file.prove(0).await.unwrap();
    tokio::time::advance(Duration::from_secs(7 * 24 * 3600 - 1)).await;
    assert_eq!(scene.open().await.ready(Scene::whole()).unwrap(), MIB);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(scene.open().await.ready(Scene::whole()).unwrap(), 0);
}

/// What the page cache lost is read from the disk, and so looked at once more.
#[tokio::test]
async fn what_left_memory_is_proved_again() {
    let scene = Scene::set().await;
    let file = scene.open().await;
    file.prove(0).await.unwrap();
    let plain = std::fs::File::open(&scene.path).unwrap();
    plain.sync_all().unwrap();
    rustix::fs::fadvise(&plain, 0, None, Advice::DontNeed).unwrap();
    let first = ByteRange::try_new(0, MIB).unwrap();
    // A file system that lives in memory keeps it all the same.
    let proved = if file.ready(first).unwrap() == MIB {
        1
    } else {
        2
    };
    file.prove(0).await.unwrap();
    assert_eq!(file.ready(first).unwrap(), MIB);
    assert_eq!(scene.reads.stats().proved, proved);
}
