//! SHA-256 that is computed of what is stored: of the right bytes, once, however often it is cut; and of nothing damaged.

use std::sync::{Arc, Mutex};

use boxgate_storage::ErrorKind;
use boxgate_storage::backend::local;
use boxgate_storage::buffer::BufferPool;
use boxgate_storage::check::{Computed, Halfway};
use boxgate_storage::digest::{Algorithm, Digest, DigestHasher, Sha256};
use boxgate_storage::metadata::deferred::Waiting;
use boxgate_storage::upload::{Cut, UploadIntent};
use bytes::Bytes;
use futures_util::future::join_all;

use crate::bench::{Bench, MIB, content, intent, kept};
use crate::house::{House, named};
use crate::rigs::Sql;
use crate::s3::Rig;

fn digest_of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let mut hasher = DigestHasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish()
}

fn sha256_of(bytes: &[u8]) -> Option<Sha256> {
    let digest = digest_of(Algorithm::Sha256, bytes);
    digest.as_bytes().try_into().ok().map(Sha256)
}

/// Computes what is missing, from there on; tells what came of it and how many bytes were read.
async fn computed(house: &House, from: Option<Halfway>) -> (Computed, u64) {
    let mut read = 0;
    let tell = |more: u64, _here| {
        read += more;
        std::future::ready(())
    };
    let computed = house.stock().complete_sha256(0, from, tell).await;
    (computed.unwrap(), read)
}

/// How many blobs wait, and their bytes.
async fn waiting(house: &House) -> (u64, u64) {
    let Waiting { blobs, bytes, .. } = house.metadata.waiting_for_sha256().await.unwrap();
    (blobs, bytes)
}

/// The events of boxes so far, and what changed where that is told.
async fn told(house: &House) -> Vec<String> {
    let events = house.metadata.events(0, 100).await.unwrap();
    let line = |event: &boxgate_storage::metadata::outbox::Event| {
        let data: serde_json::Value = serde_json::from_str(&event.data).unwrap();
        let of = |name: &str| data[name].as_str().unwrap_or_default().to_owned();
        let changed = &data["changed"];
        match &*event.name {
            "box.updated" => format!(
                "{} {} {changed} {} {}",
                event.name,
                of("box"),
                of("checksumType"),
                of("checksum")
            ),
            _ => format!("{} {} {}", event.name, of("box"), of("checksumType")),
        }
    };
    let boxes = events.iter().filter(|event| event.name.starts_with("box."));
    boxes.map(line).collect()
}

#[tokio::test]
async fn what_is_missing_is_computed_of_what_is_stored_and_told() {
    let house = House::new().await.deferring().await;
    let (one, other) = (content(3 * MIB + 5, 1), content(1, 2));
    let published = house.put("one", &one).await;
    assert_eq!(published.blob.sha256, None);
    assert_eq!(published.blob.blake3.0, *blake3::hash(&one).as_bytes());
    house.put("same", &one).await;
    house.put_untargeted(&other).await;
    assert_eq!(house.resolve("one").await.file.blob.sha256, None);
    assert_eq!(waiting(&house).await, (2, 3 * MIB as u64 + 6));
    // Who began before the answer is told by the next process as well: nothing but rows says what is missing.
    let house = house.again().await;
    let (done, read) = computed(&house, None).await;
    assert_eq!((done.blobs, done.failed, read), (2, 0, 3 * MIB as u64 + 6));
    assert_eq!(waiting(&house).await, (0, 0));
    for name in ["one", "same"] {
        assert_eq!(house.resolve(name).await.file.blob.sha256, sha256_of(&one));
    }
    let hex = digest_of(Algorithm::Sha256, &one).to_hex();
    assert_eq!(
        told(&house).await,
        [
            "box.uploaded one BLAKE3".to_owned(),
            "box.uploaded same BLAKE3".to_owned(),
            format!("box.updated one [\"sha256\"] SHA256 {hex}"),
            format!("box.updated same [\"sha256\"] SHA256 {hex}"),
        ]
    );
    // Nothing is left to do, and nothing is told twice.
    assert_eq!(computed(&house, None).await, (Computed::default(), 0));
    assert_eq!(told(&house).await.len(), 4);
}

#[tokio::test]
async fn a_computation_that_is_cut_goes_on_where_it_was() {
    let house = House::new().await.deferring().await;
    let bytes = content(40 * MIB + 77, 3);
    house.put("demo", &bytes).await;
    // Cut at the first word of where it is, as a kill would.
    let place: Arc<Mutex<Option<Halfway>>> = Arc::default();
    let kept = Arc::clone(&place);
    let tell = move |_more, here: Option<Halfway>| {
        let is_halfway = here.is_some();
        *kept.lock().unwrap() = here;
        async move {
            if is_halfway {
                std::future::pending::<()>().await;
            }
        }
    };
    let stock = house.stock();
    let cut = stock.complete_sha256(0, None, tell);
    let reached = async {
        while place.lock().unwrap().is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        done = cut => panic!("{done:?}"),
        () = reached => {}
    }
    let here = place.lock().unwrap().take().unwrap();
    let offset = here.offset;
    assert!(offset >= MIB as u64 && here.key == house.resolve("demo").await.file.blob.key);
    assert_eq!(house.resolve("demo").await.file.blob.sha256, None);
    // What is no state of a hash begins anew, and so does one of another blob.
    for state in [vec![], vec![1, 2, 3]] {
        let odd = Halfway {
            state,
            ..here.clone()
        };
        let house = house.again().await;
        let (done, read) = computed(&house, Some(odd)).await;
        assert_eq!((done.blobs, read), (1, bytes.len() as u64));
        house.sql("UPDATE blobs SET sha256 = x''").await;
    }
    let house = house.again().await;
    let (done, read) = computed(&house, Some(here)).await;
    assert_eq!((done.blobs, read), (1, bytes.len() as u64 - offset));
    let found = house.resolve("demo").await.file.blob.sha256;
    assert_eq!(found, sha256_of(&bytes));
}

#[tokio::test]
async fn a_digest_that_a_client_names_is_compared_inline() {
    let house = House::new().await.deferring().await;
    let bytes = content(2 * MIB, 4);
    let declared = |of: &[u8]| vec![digest_of(Algorithm::Sha256, of)];
    let length = Some(bytes.len() as u64);
    let begin = |expected| house.engine.begin(named("demo", intent(length, expected)));
    let mut wrong = begin(declared(b"else")).await.unwrap();
    wrong.write(bytes.clone()).await.unwrap();
    let refused = wrong.finish().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::DigestMismatch);
    // Behind the bytes it is too late, unless somebody said that it may come.
    let mut late = begin(vec![]).await.unwrap();
    late.write(bytes.clone()).await.unwrap();
    let refused = late.expect(declared(&bytes).remove(0)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    late.abort().await;
    let mut wanted = begin(vec![]).await.unwrap();
    wanted.want(Algorithm::Sha256).unwrap();
    wanted.write(bytes.clone()).await.unwrap();
    wanted.expect(declared(&bytes).remove(0)).unwrap();
    let published = wanted.finish().await.unwrap();
    assert_eq!(published.blob.sha256, sha256_of(&bytes));
    assert_eq!(waiting(&house).await, (0, 0));
}

#[tokio::test]
async fn a_digest_that_is_named_while_the_first_part_comes_leaves_an_upload_that_goes_on() {
    let rig = Rig::new().await;
    let engine = rig.bench.deferring(rig.store.clone(), &rig.pool);
    let at = 2 * MIB;
    for (cut, salt) in [(true, 11), (false, 12)] {
        let bytes = content(3 * MIB + 5, salt);
        let whole = vec![digest_of(Algorithm::Sha256, &bytes)];
        let intent = kept(Some(bytes.len() as u64), vec![]);
        let id = engine.create(intent).await.unwrap().id;
        let mut writer = engine.resume(id, 0).await.unwrap();
        writer.write(bytes.slice(..at)).await.unwrap();
        if cut {
            // What it sent is on its way to the bucket, and no row tells of it yet. A bucket cannot be read before
            // the object is whole, so a digest that is accepted now could never be computed.
            drop(writer);
            let late = engine.declare(id, whole).await.unwrap_err();
            assert_eq!(late.kind(), ErrorKind::Invalid, "{late:?}");
        } else {
            // Nothing of it will be committed: its bytes come again, and are hashed then.
            engine.declare(id, whole).await.unwrap();
            let fenced = writer.write(bytes.slice(at..)).await.unwrap_err();
            assert_eq!(fenced.kind(), ErrorKind::Fenced);
        }
        let from = engine.head(id).await.unwrap().offset;
        assert_eq!(from, if cut { at as u64 } else { 0 });
        let mut writer = engine.resume(id, from).await.unwrap();
        let from = usize::try_from(from).unwrap();
        writer.write(bytes.slice(from..)).await.unwrap();
        let blob = writer.finish().await.unwrap().blob;
        assert!(rig.bench.read_back_from(&rig.store, &blob).await == bytes);
        assert_eq!(blob.sha256.is_none(), cut);
    }
}

#[tokio::test]
async fn equal_bytes_are_kept_once_and_teach_each_other() {
    let house = House::new().await.deferring().await;
    let bytes = content(MIB + 1, 5);
    let first = house.put("first", &bytes).await.blob;
    assert_eq!(first.sha256, None);
    let expected = vec![digest_of(Algorithm::Sha256, &bytes)];
    let length = Some(bytes.len() as u64);
    let named = named("second", intent(length, expected));
    let mut second = house.engine.begin(named).await.unwrap();
    second.write(bytes.clone()).await.unwrap();
    let second = second.finish().await.unwrap().blob;
    assert_eq!((second.key, second.sha256), (first.key, sha256_of(&bytes)));
    assert_eq!(
        house.resolve("first").await.file.blob.sha256,
        sha256_of(&bytes)
    );
    let third = house.put("third", &bytes).await.blob;
    assert_eq!(third.sha256, sha256_of(&bytes));
    house.engine.settled().await;
    assert_eq!(house.stored_keys(), [first.key]);
    assert_eq!(waiting(&house).await, (0, 0));
}

#[tokio::test]
async fn damage_gets_no_digest_and_is_healed_by_the_same_bytes() {
    let house = House::new().await.deferring().await;
    let (bad, good) = (content(5 * MIB, 6), content(MIB, 7));
    let key = house.put("bad", &bad).await.blob.key;
    house.put("good", &good).await;
    let mut stored = bad.to_vec();
    stored[2 * MIB + 1] ^= 1;
    std::fs::write(house.path_of(&key), &stored).unwrap();
    let (done, _) = computed(&house, None).await;
    assert_eq!((done.blobs, done.failed), (1, 1));
    let found = house.resolve("bad").await;
    assert!(found.quarantined && found.file.blob.sha256.is_none());
    assert_eq!(waiting(&house).await, (0, 0), "it cannot be computed");
    house.put("again", &bad).await;
    let (done, _) = computed(&house, None).await;
    assert_eq!((done.blobs, done.failed), (1, 0));
    let found = house.resolve("bad").await;
    assert_eq!(found.file.blob.sha256, sha256_of(&bad));
    assert!(!found.quarantined);
}

#[tokio::test]
async fn an_upload_that_rests_stays_as_it_began() {
    let house = House::new().await;
    let bytes = content(9 * MIB + 3, 8);
    let first = bytes.slice(..=4 * MIB);
    for (deferred, name) in [(true, "late"), (false, "now")] {
        let began = if deferred {
            house.deferring().await
        } else {
            house.again().await
        };
        let id = began.rest(name, &first, bytes.len()).await;
        drop(began);
        // The next process does it the other way.
        let next = if deferred {
            house.again().await
        } else {
            house.deferring().await
        };
        let mut writer = next.engine.resume(id, first.len() as u64).await.unwrap();
        writer.write(bytes.slice(first.len()..)).await.unwrap();
        let blob = writer.finish().await.unwrap().blob;
        next.engine.settled().await;
        assert_eq!(blob.sha256.is_none(), deferred);
        assert_eq!(blob.blake3.0, *blake3::hash(&bytes).as_bytes());
        assert!(next.delete(name).await);
        next.sweep_all().await;
    }
}

#[tokio::test]
async fn so_many_may_wait_and_the_next_is_hashed_inline() {
    let house = House::new().await.deferring().await;
    house.engine.set_waiting(99);
    assert_eq!(house.put("one", &content(9, 1)).await.blob.sha256, None);
    let inline = house.put("two", &content(9, 2)).await.blob.sha256;
    assert_eq!(inline, sha256_of(&content(9, 2)));
    house.engine.set_waiting(1);
    assert_eq!(house.put("three", &content(9, 3)).await.blob.sha256, None);
    // Whoever computes it was told.
    house.engine.deferred().await;
}

#[tokio::test]
async fn names_that_are_made_again_know_both_digests() {
    let house = House::embedded().await.deferring().await;
    house.back_up("before.db").await;
    let bytes = content(2 * MIB, 9);
    let key = house.put("demo", &bytes).await.blob.key;
    let restored = house.restored("before.db").await;
    let tell = |_told| std::future::ready(());
    let kept = std::time::Duration::ZERO;
    let adopted = restored.stock().adopt(kept, tell).await.unwrap();
    assert_eq!(adopted.blobs, 1);
    let found = restored.resolve("demo").await.file.blob;
    assert_eq!((found.key, found.sha256), (key, sha256_of(&bytes)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_in_any_order_are_not_read_for_it() {
    const PART: usize = 8 * MIB;
    for buffers in [64, 3] {
        let home = tempfile::tempdir_in("/dev/shm").unwrap();
        let store = local::open(home.path()).await.unwrap();
        let bench = Bench::on(Sql::open().await).await;
        let pool = BufferPool::new(buffers << 20);
        let engine = bench.deferring(store.clone(), &pool);
        let bytes = content(5 * PART + MIB + 4097, 10);
        let intent = UploadIntent {
            cut: Some(Cut::Parts),
            ..kept(Some(bytes.len() as u64), vec![])
        };
        let id = engine.create(intent).await.unwrap().id;
        let piece = |k: usize| bytes.slice(k * PART..bytes.len().min((k + 1) * PART));
        let put = async |k: usize, piece: Bytes| {
            let number = u32::try_from(k).unwrap();
            let length = Some(piece.len() as u64);
            let mut writer = engine.piece(id, number, length).await.unwrap();
            writer.write(piece).await.unwrap();
            writer.finish().await.unwrap()
        };
        // The first comes last.
        let before = join_all([5, 4, 3, 2, 1].map(|k| put(k, piece(k)))).await;
        assert!(before.iter().all(|placed| placed.published.is_none()));
        let blob = put(0, piece(0)).await.published.unwrap().blob;
        assert_eq!(blob.sha256, None);
        assert_eq!(blob.blake3.0, *blake3::hash(&bytes).as_bytes());
        assert!(bench.read_back_from(&store, &blob).await == bytes);
    }
}
