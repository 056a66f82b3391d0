//! Bits that rot: each flip is found and named, nothing else ever is, and sending the bytes again heals.

use std::path::Path;

use boxgate_storage::ErrorKind;
use boxgate_storage::blob::BlobKey;
use boxgate_storage::check::{Cursor, Finding, NAMED_BLOCKS, Problem, ScrubTold, Scrubbed};
use boxgate_storage::layer::verify;
use boxgate_storage::range::ByteRange;
use futures_util::StreamExt as _;

use crate::bench::{MIB, content};
use crate::house::House;

/// Scrubs at full speed; tells what was found, the end, and every place on the way.
async fn scrub(house: &House, from: Option<Cursor>) -> (Vec<Finding>, Scrubbed, Vec<Cursor>) {
    let (mut findings, mut places) = (Vec::new(), Vec::new());
    let tell = |told| {
        match told {
            ScrubTold::Finding(finding) => findings.push(finding),
            ScrubTold::Progress(_, here) => places.push(here),
        }
        std::future::ready(())
    };
    let scrubbed = house.stock().scrub(0, from, tell).await.unwrap();
    (findings, scrubbed, places)
}

/// Flips one bit of a file.
fn flip(path: &Path, bit: u64) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[usize::try_from(bit / 8).unwrap()] ^= 1 << (bit % 8);
    std::fs::write(path, bytes).unwrap();
}

/// The blob that a box has now, and whether it is served.
async fn held(house: &House, name: &str) -> (BlobKey, bool) {
    let found = house.resolve(name).await;
    (found.file.blob.key, !found.quarantined)
}

#[tokio::test]
async fn every_flipped_bit_is_found_and_named_and_sending_again_heals() {
    let seed = 7;
    let mut random = fastrand::Rng::with_seed(seed);
    let house = House::new().await;
    let sizes: [usize; 5] = [1, MIB - 1, MIB, 3 * MIB + 5, 20 * MIB];
    for (number, size) in (0..).zip(sizes) {
        house
            .put(&format!("b{number}"), &content(size, number))
            .await;
    }
    let total: usize = sizes.iter().sum();
    let (findings, scrubbed, _) = scrub(&house, None).await;
    assert_eq!(findings, []);
    assert_eq!((scrubbed.blobs, scrubbed.bytes), (5, total as u64));
    assert_eq!(scrubbed.total_bytes, total as u64);
    for round in 0..40 {
        let number = random.usize(..sizes.len());
        let name = format!("b{number}");
        let (key, _) = held(&house, &name).await;
        let bit = random.u64(..sizes[number] as u64 * 8);
        let context = format!("seed {seed} round {round}: bit {bit} of {name}");
        flip(&house.path_of(&key), bit);
        // Whoever reads it meanwhile gets no wrong byte, and no clean end.
        let meta = house.resolve(&name).await.file.blob;
        let tree = house.metadata.blob_tree(&meta).await.unwrap();
        let whole = ByteRange::whole(meta.length);
        let mut stream = verify::open(&house.store.read, &meta, &tree, whole)
            .await
            .unwrap();
        let mut got = Vec::new();
        let end = loop {
            match stream.next().await {
                Some(Ok(bytes)) => got.extend_from_slice(&bytes),
                end => break end,
            }
        };
        assert_eq!(
            end.unwrap().unwrap_err().kind(),
            ErrorKind::Damaged,
            "{context}"
        );
        let sent = content(sizes[number], u8::try_from(number).unwrap());
        assert!(sent.starts_with(&got), "{context}");
        let (findings, scrubbed, _) = scrub(&house, None).await;
        let problem = Problem::Damaged {
            blocks: vec![bit / 8 / MIB as u64],
            count: 1,
        };
        assert_eq!(findings.len(), 1, "{context}: {findings:?}");
        assert_eq!(
            (findings[0].key, &findings[0].problem),
            (key, &problem),
            "{context}"
        );
        assert_eq!(
            findings[0].names,
            [format!("acme/{name}/1.0/virtualbox/amd64")]
        );
        assert_eq!(
            (scrubbed.damaged, scrubbed.bytes),
            (1, scrubbed.total_bytes),
            "{context}"
        );
        assert_eq!(held(&house, &name).await, (key, false), "{context}");
        // The same bytes again: a blob of their own, and the name has it.
        let healed = house.put(&name, &sent).await.blob.key;
        assert_ne!(healed, key, "{context}");
        assert_eq!(held(&house, &name).await, (healed, true), "{context}");
        house.sweep_all().await;
    }
    assert_eq!(scrub(&house, None).await.0, []);
    assert_eq!(house.findings().await, []);
    assert_eq!(house.stored_keys().len(), sizes.len());
}

#[tokio::test]
async fn many_damaged_blocks_are_counted_and_the_first_of_them_named() {
    let house = House::new().await;
    let length = (NAMED_BLOCKS + 4) * MIB;
    let key = house.put("web", &content(length, 1)).await.blob.key;
    let path = house.path_of(&key);
    std::fs::write(&path, vec![0; length]).unwrap();
    let (findings, ..) = scrub(&house, None).await;
    let blocks: Vec<u64> = (0..NAMED_BLOCKS as u64).collect();
    let count = blocks.len() as u64 + 4;
    assert_eq!(findings[0].problem, Problem::Damaged { blocks, count });
    assert!(
        findings[0].to_string().contains("15 and 4 more"),
        "{}",
        findings[0]
    );
}

#[tokio::test]
async fn a_missing_blob_is_taken_out_of_service_and_comes_back_with_its_bytes() {
    let house = House::new().await;
    let key = house.put("web", &content(3000, 1)).await.blob.key;
    let (path, aside) = (house.path_of(&key), house.path_of(&BlobKey::random()));
    let aside = aside.with_extension("aside");
    std::fs::rename(&path, &aside).unwrap();
    let (findings, scrubbed, _) = scrub(&house, None).await;
    assert_eq!(findings[0].problem, Problem::Missing { expected: 3000 });
    assert_eq!((scrubbed.damaged, scrubbed.bytes), (1, 3000));
    assert_eq!(held(&house, "web").await, (key, false));
    // Its volume was restored.
    std::fs::rename(&aside, &path).unwrap();
    let (findings, scrubbed, _) = scrub(&house, None).await;
    assert_eq!((findings, scrubbed.healed), (Vec::new(), 1));
    assert_eq!(held(&house, "web").await, (key, true));
}

#[tokio::test]
async fn bytes_are_never_given_up_for_equal_ones_that_are_gone() {
    for cut in [None, Some(2999)] {
        let house = House::new().await;
        let key = house.put("web", &content(3000, 1)).await.blob.key;
        let path = house.path_of(&key);
        match cut {
            None => std::fs::remove_file(&path).unwrap(),
            Some(length) => {
                let bytes = std::fs::read(&path).unwrap();
                std::fs::write(&path, &bytes[..length]).unwrap();
            }
        }
        // No scrub, no download noticed it yet.
        let again = house.put("copy", &content(3000, 1)).await.blob.key;
        assert_ne!(again, key);
        assert_eq!(held(&house, "web").await, (again, true));
        assert_eq!(held(&house, "copy").await, (again, true));
        house.sweep_all().await;
        assert_eq!(house.findings().await, []);
    }
}

#[tokio::test]
async fn a_scrub_goes_on_where_it_was() {
    let house = House::new().await;
    for number in 0..4 {
        house
            .put(&format!("b{number}"), &content(20 * MIB, number))
            .await;
    }
    let (_, scrubbed, places) = scrub(&house, None).await;
    assert!(places.is_sorted_by_key(|here| (here.key, here.offset)));
    assert!(places.iter().any(|here| here.offset == 16 * MIB as u64));
    for (number, here) in places.iter().enumerate() {
        let (findings, rest, next) = scrub(&house, Some(*here)).await;
        assert_eq!(findings, []);
        assert!(rest.total_bytes <= scrubbed.total_bytes);
        assert_eq!(rest.bytes, rest.total_bytes, "{number}");
        // What was read is not read again; at a blob's end only its end is looked at.
        assert_eq!(next.last(), places.last(), "{number}");
        assert!(
            next.iter()
                .all(|next| (next.key, next.offset) >= (here.key, here.offset))
        );
    }
}
