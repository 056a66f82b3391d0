//! Blobs that go from one store to another: each is in one of both at any moment, proved, and what cannot be proved stays.

use std::collections::BTreeMap;
use std::path::PathBuf;

use boxgate_storage::ErrorKind;
use boxgate_storage::backend::faulty::{self, Fault, Faults};
use boxgate_storage::backend::local;
use boxgate_storage::blob::BlobKey;
use boxgate_storage::buffer::BufferPool;
use boxgate_storage::check::{Copied, CopyTold, Finding, Stock, Ways};
use boxgate_storage::store::Store;
use boxgate_storage::upload::{EngineOptions, UploadEngine, UploadLimits};

use crate::bench::{MIB, content};
use crate::house::House;

const OUT: Ways<'_> = Ways {
    from: "main",
    to: "second",
};
const BACK: Ways<'_> = Ways {
    from: "second",
    to: "main",
};

/// A house with a second store.
struct Two {
    house: House,
    second: PathBuf,
    engine: UploadEngine,
}

impl Two {
    async fn new() -> Self {
        let house = House::new().await;
        let second = house.path_of(&BlobKey::from_bytes([0; 16]));
        let second = second.ancestors().nth(3).unwrap().join("second");
        let store = local::open(&second).await.unwrap();
        let engine = Self::engine(&house, store);
        Self {
            house,
            second,
            engine,
        }
    }

    fn engine(house: &House, second: Store) -> UploadEngine {
        let main = house.store.clone();
        UploadEngine::new(EngineOptions {
            ledger: house.metadata.ledger(),
            stores: BTreeMap::from([("main".to_owned(), main), ("second".to_owned(), second)]),
            default_store: "main".to_owned(),
            shared: false,
            pool: BufferPool::new(16 << 20),
            clock: house.clock.clone(),
            max_length_bytes: 512 << 20,
            min_free_bytes: 0,
            parts_in_flight: 4,
            limits: UploadLimits::default(),
            sha256: boxgate_storage::upload::Sha256When::Inline,
            passage: boxgate_storage::upload::Passage::Free,
        })
    }

    fn stock(&self) -> Stock {
        Stock::new(self.house.metadata.clone(), self.engine.clone())
    }

    async fn copy(&self, ways: Ways<'_>) -> (Copied, Vec<Finding>) {
        let mut findings = Vec::new();
        let tell = |told| {
            if let CopyTold::Finding(finding) = told {
                findings.push(finding);
            }
            std::future::ready(())
        };
        let copied = self.stock().copy(ways, 0, tell).await.unwrap();
        (copied, findings)
    }

    fn in_second(&self, key: &BlobKey) -> PathBuf {
        let name = key.to_string();
        self.second.join(&name[..2]).join(name)
    }

    /// What is where: in the first store, in the second.
    fn places(&self, key: &BlobKey) -> (bool, bool) {
        (
            self.house.path_of(key).exists(),
            self.in_second(key).exists(),
        )
    }

    async fn pass(&self) {
        let until = boxgate_storage::conformance::ledger::DOOMED_FOR;
        self.house
            .clock
            .advance(until + std::time::Duration::from_secs(1));
        self.engine.sweep().await.unwrap();
    }

    async fn findings(&self) -> Vec<String> {
        let mut findings = Vec::new();
        House::told(&self.stock(), &mut findings).await.unwrap();
        findings.iter().map(ToString::to_string).collect()
    }
}

#[tokio::test]
async fn what_is_held_is_in_the_other_store_and_the_rest_is_told() {
    let two = Two::new().await;
    let house = &two.house;
    let small = house.put("small", &content(3 * MIB + 5, 1)).await.blob.key;
    let large = house.put("large", &content(20 * MIB + 1, 2)).await.blob.key;
    let empty = house.put_untargeted(&content(0, 3)).await.blob.key;
    let damaged = house.put("damaged", &content(2 * MIB, 4)).await.blob.key;
    let gone = house.put("gone", &content(MIB, 5)).await.blob.key;
    let doomed = house.put("doomed", &content(MIB, 6)).await.blob.key;
    assert!(house.delete("doomed").await);
    let resting = house.rest("resting", &content(MIB, 7), 2 * MIB).await;
    let mut bytes = std::fs::read(house.path_of(&damaged)).unwrap();
    bytes[MIB + 7] ^= 1;
    std::fs::write(house.path_of(&damaged), &bytes).unwrap();
    std::fs::remove_file(house.path_of(&gone)).unwrap();
    // A copy that was cut left something else there.
    let left = two.in_second(&large);
    std::fs::create_dir_all(left.parent().unwrap()).unwrap();
    std::fs::write(&left, b"half").unwrap();

    let (copied, findings) = two.copy(OUT).await;
    let bytes = 3 * MIB + 5 + 20 * MIB + 1 + 2 * MIB + MIB;
    let expected = Copied {
        blobs: 3,
        bytes: bytes as u64,
        total_bytes: bytes as u64,
        damaged: 2,
        left: 3,
        waiting: 0,
        uploads: 1,
    };
    assert_eq!(copied, expected);
    let mut words: Vec<_> = findings
        .iter()
        .map(|finding| (finding.key, finding.problem.word()))
        .collect();
    words.sort_unstable();
    let mut named = [(damaged, "damaged"), (gone, "missing")];
    named.sort_unstable();
    assert_eq!(words, named);
    for (name, key) in [("small", small), ("large", large)] {
        let file = house.resolve(name).await;
        assert_eq!((file.store.as_str(), file.file.blob.key), ("second", key));
        assert_eq!(
            std::fs::read(two.in_second(&key)).unwrap(),
            std::fs::read(house.path_of(&key)).unwrap()
        );
    }
    assert_eq!(two.places(&empty), (true, true));
    assert_eq!(two.places(&damaged), (true, false));
    assert_eq!(two.places(&house.key_of(resting).await), (true, false));
    // What the rows say and what the stores hold agree all the way.
    let damage = two.findings().await;
    assert_eq!(damage.len(), 3, "{damage:?}");
    // Again: all is done.
    let (again, _) = two.copy(OUT).await;
    assert_eq!((again.blobs, again.damaged, again.left), (0, 0, 3));
    // What was left behind goes when nobody can be reading it any more.
    two.pass().await;
    for key in [small, large, empty] {
        assert_eq!(two.places(&key), (false, true));
    }
    assert_eq!(two.places(&doomed), (false, false));
    assert_eq!(house.resolve("large").await.store, "second");
}

#[tokio::test]
async fn a_blob_goes_back_once_nothing_of_it_is_in_the_trash_there() {
    let two = Two::new().await;
    let key = two.house.put("web", &content(MIB, 1)).await.blob.key;
    assert_eq!(two.copy(OUT).await.0.blobs, 1);
    let (waits, _) = two.copy(BACK).await;
    assert_eq!((waits.blobs, waits.left, waits.waiting), (0, 1, 1));
    two.pass().await;
    assert_eq!(two.copy(BACK).await.0.blobs, 1);
    two.pass().await;
    assert_eq!(two.places(&key), (true, false));
    assert_eq!(two.house.resolve("web").await.store, "main");
    assert_eq!(two.findings().await, [""; 0]);
}

#[tokio::test]
async fn a_blob_that_is_deleted_after_its_copy_leaves_nothing_in_either_store() {
    let two = Two::new().await;
    let key = two.house.put("web", &content(MIB, 1)).await.blob.key;
    assert_eq!(two.copy(OUT).await.0.blobs, 1);
    // Both are due at the same moment.
    assert!(two.house.delete("web").await);
    two.pass().await;
    assert_eq!(two.places(&key), (false, false));
    assert_eq!(two.findings().await, [""; 0]);
    let claims = two.house.metadata.stores_in_use().await.unwrap();
    assert_eq!(claims, [""; 0]);
}

#[tokio::test]
async fn a_store_that_fails_meanwhile_costs_nothing() {
    let two = Two::new().await;
    let key = two.house.put("web", &content(9 * MIB, 1)).await.blob.key;
    let second = local::open(&two.second).await.unwrap();
    for op in [
        "store.begin",
        "sink.write",
        "sink.seal",
        "sink.commit",
        "store.open",
    ] {
        let faults = Faults::new();
        faults.plan(op, 0, Fault::Before(ErrorKind::Unavailable));
        let engine = Two::engine(&two.house, faulty::wrap(second.clone(), &faults));
        let stock = Stock::new(two.house.metadata.clone(), engine);
        let failed = stock.copy(OUT, 0, |_told| std::future::ready(())).await;
        assert!(failed.is_err(), "{op}");
        assert_eq!(two.house.resolve("web").await.store, "main", "{op}");
    }
    assert_eq!(two.copy(OUT).await.0.blobs, 1);
    assert_eq!(two.places(&key), (true, true));
    let none = Ways { to: "third", ..OUT };
    let refused = two
        .stock()
        .copy(none, 0, |_told| std::future::ready(()))
        .await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid);
}
