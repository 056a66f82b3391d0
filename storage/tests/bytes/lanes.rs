//! SHA-256 and what else needs bytes in order, hashed on another core than the rest.

use boxgate_storage::ErrorKind;
use boxgate_storage::digest::{Algorithm, Digest, DigestHasher};
use futures_util::future::join_all;

use crate::bench::{Bench, MIB, content, intent, kept};

fn digests_of(bytes: &[u8]) -> Vec<Digest> {
    let digest_of = |algorithm| {
        let mut hasher = DigestHasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    };
    Algorithm::ALL.map(digest_of).to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_that_share_lanes_have_the_digests_of_their_bytes() {
    let bench = Bench::new().await;
    for lanes in [1, 3] {
        let engine = bench.laned(lanes);
        let uploads = (0..3u8).map(|salt| {
            let engine = engine.clone();
            async move {
                let bytes = content(19 * MIB + usize::from(salt), salt);
                let length = Some(bytes.len() as u64);
                let begun = engine.begin(intent(length, digests_of(&bytes))).await;
                let mut writer = begun.unwrap();
                for at in (0..bytes.len()).step_by(700_001) {
                    let to = bytes.len().min(at + 700_001);
                    writer.write(bytes.slice(at..to)).await.unwrap();
                    if at % 5 == 0 {
                        writer.give_memory_back().await.unwrap();
                    }
                }
                writer.finish().await.unwrap()
            }
        });
        join_all(uploads).await;
        engine.settled().await;
    }
    bench.is_clean().await;
}

#[tokio::test]
async fn other_bytes_than_were_declared_are_refused_from_a_lane_too() {
    let bench = Bench::new().await;
    let engine = bench.laned(1);
    let bytes = content(9 * MIB + 5, 1);
    let mut declared = digests_of(&bytes);
    declared.retain(|digest| digest.algorithm() == Algorithm::Sha256);
    let length = Some(bytes.len() as u64);
    let mut writer = engine.begin(intent(length, declared)).await.unwrap();
    let last = bytes.len() - 1;
    writer.write(bytes.slice(..last)).await.unwrap();
    // In a buffer that no run is made of before the digests are compared.
    writer.write(vec![!bytes[last]].into()).await.unwrap();
    let refused = writer.finish().await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::DigestMismatch);
    engine.settled().await;
    bench.is_clean().await;
}

#[tokio::test]
async fn an_upload_goes_on_with_what_a_lane_left_in_its_row() {
    let bench = Bench::new().await;
    let bytes = content(30 * MIB + 3, 2);
    let length = Some(bytes.len() as u64);
    // Two processes in turns, of which one has a lane.
    let engines = [bench.laned(1), bench.other()];
    let row = engines[0].create(kept(length, digests_of(&bytes))).await;
    let id = row.unwrap().id;
    let mut at = 0;
    for (turn, to) in [5, MIB, 9 * MIB + 5, 16 * MIB, 27 * MIB]
        .into_iter()
        .enumerate()
    {
        let engine = &engines[turn % 2];
        let mut writer = engine.resume(id, at as u64).await.unwrap();
        writer.write(bytes.slice(at..to)).await.unwrap();
        at = to;
        assert_eq!(writer.pause().await.unwrap(), at as u64);
        engine.settled().await;
    }
    let mut writer = engines[1].resume(id, at as u64).await.unwrap();
    writer.write(bytes.slice(at..)).await.unwrap();
    let published = writer.finish().await.unwrap();
    assert!(bench.read_back(&published.blob).await == bytes);
    bench.is_clean().await;
}
