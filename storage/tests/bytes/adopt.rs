//! Rows that were lost, or that an older backup brought back: what stands beside the bytes makes the names again, and
//! nothing that rows know better.

use std::time::Duration;

use boxgate_storage::blob::{BlobKey, UploadId};
use boxgate_storage::check::{AdoptTold, Adopted, Finding, Stock};
use boxgate_storage::sidecar::Sidecar;
use bytes::Bytes;

use crate::bench::{MIB, content, intent, kept};
use crate::house::{House, named};

/// Rows of uploads that ended are forgotten after so long.
const KNOWN_FOR: Duration = Duration::from_hours(7 * 24);

/// Adopts; the names that were made, and what was found.
async fn adopt(stock: &Stock) -> (Vec<String>, Vec<Finding>, Adopted) {
    let (mut names, mut findings) = (Vec::new(), Vec::new());
    let tell = |told| {
        match told {
            AdoptTold::Name { path, .. } => names.push(path),
            AdoptTold::Finding(finding) => findings.push(finding),
            AdoptTold::Progress(_) => {}
        }
        std::future::ready(())
    };
    let adopted = stock.adopt(KNOWN_FOR, tell).await.unwrap();
    names.sort_unstable();
    assert_eq!(adopted.names, names.len() as u64);
    (names, findings, adopted)
}

fn full(box_name: &str) -> String {
    format!("acme/{box_name}/1.0/virtualbox/amd64")
}

/// Nothing at all happens to rows that know everything.
async fn is_content(house: &House) {
    let (names, findings, adopted) = adopt(&house.stock()).await;
    assert_eq!((names, findings), (vec![], vec![]));
    assert_eq!(adopted, Adopted::default());
}

async fn holds(house: &House, box_name: &str, bytes: &Bytes) -> BlobKey {
    let file = house.resolve(box_name).await;
    let tree = house.metadata.blob_tree(&file.file.blob).await.unwrap();
    assert_eq!(tree.values.len(), bytes.len().div_ceil(MIB));
    assert_eq!(file.file.blob.blake3.0, *blake3::hash(bytes).as_bytes());
    file.file.blob.key
}

#[tokio::test]
async fn a_lost_database_is_made_again_of_what_stands_beside_the_bytes() {
    let house = House::new().await;
    let (web, old, new) = (content(3 * MIB + 5, 1), content(MIB, 2), content(5000, 3));
    let key = house.put("web", &web).await.blob.key;
    assert_eq!(house.put("copy", &web).await.blob.key, key);
    house.put("box", &old).await;
    house.clock.advance(Duration::from_secs(5));
    let replaced = house.put("box", &new).await.blob.key;
    let nameless = house.put_untargeted(&content(70, 4)).await.blob.key;
    is_content(&house).await;
    let empty = house.restored("empty.db").await;
    let (names, findings, _) = adopt(&empty.stock()).await;
    let mut once = names.clone();
    once.dedup();
    assert_eq!(once, [full("box"), full("copy"), full("web")]);
    assert_eq!(findings, []);
    assert_eq!(holds(&empty, "web", &web).await, key);
    assert_eq!(holds(&empty, "copy", &web).await, key);
    // Whichever of the two was met first.
    assert_eq!(holds(&empty, "box", &new).await, replaced);
    let (names, findings, _) = adopt(&empty.stock()).await;
    assert_eq!((names, findings), (vec![], vec![]), "again");
    // What no name leads to is told, and nothing else is wrong.
    let left = empty.findings().await;
    let left: Vec<_> = left.iter().map(|f| (f.key, f.problem.word())).collect();
    assert!(left.contains(&(nameless, "orphan")), "{left:?}");
    assert!(left.iter().all(|(_, word)| *word == "orphan"), "{left:?}");
}

#[tokio::test]
async fn an_older_backup_learns_of_all_that_was_published_since() {
    let house = House::embedded().await;
    let (shared, before, after) = (content(2 * MIB, 1), content(900, 2), content(901, 3));
    let shared_key = house.put("shared", &shared).await.blob.key;
    house.put("box", &before).await;
    // Open when the backup is made, whole and published later.
    let rest = content(9 * MIB + 7, 4);
    let sent = rest.slice(..MIB);
    let resting = house.rest("resting", &sent, rest.len()).await;
    let unkept = named("unkept", intent(Some(800), vec![]));
    let mut unkept = house.engine.begin(unkept).await.unwrap();
    house.back_up("backup.db").await;
    house.clock.advance(Duration::from_secs(1));
    unkept.write(content(800, 5)).await.unwrap();
    unkept.finish().await.unwrap();
    let mut writer = house.engine.resume(resting, MIB as u64).await.unwrap();
    writer.write(rest.slice(MIB..)).await.unwrap();
    writer.finish().await.unwrap();
    let replaced = house.put("box", &after).await.blob.key;
    house.put("another", &shared).await;
    house.clock.advance(Duration::from_hours(24 * 3));
    let restored = house.restored("backup.db").await;
    // What a gateway does at its start, and for as long as nobody looked.
    restored.engine.recover().await.unwrap();
    restored.engine.sweep().await.unwrap();
    let (names, findings, adopted) = adopt(&restored.stock()).await;
    let expected = ["another", "box", "resting", "unkept"].map(full);
    assert_eq!((names.as_slice(), findings), (expected.as_slice(), vec![]));
    assert_eq!(adopted.blobs, 3, "one of them had a row");
    assert_eq!(
        holds(&restored, "resting", &rest).await,
        key_of(&house, "resting").await
    );
    holds(&restored, "unkept", &content(800, 5)).await;
    assert_eq!(holds(&restored, "box", &after).await, replaced);
    assert_eq!(holds(&restored, "another", &shared).await, shared_key);
    assert_eq!(restored.findings().await, []);
    is_content(&restored).await;
    // Nothing of it is taken for leftovers afterwards.
    restored.sweep_all().await;
    holds(&restored, "resting", &rest).await;
    assert_eq!(restored.findings().await, []);
}

async fn key_of(house: &House, box_name: &str) -> BlobKey {
    house.resolve(box_name).await.file.blob.key
}

#[tokio::test]
async fn what_the_rows_know_better_stays() {
    let house = House::embedded().await;
    let bytes = content(5000, 1);
    house.put("web", &bytes).await;
    house.put("gone", &bytes).await;
    house.put("doomed", &content(60, 2)).await;
    // Deleted names whose bytes are there still, with what stands beside them.
    assert!(house.delete("gone").await && house.delete("doomed").await);
    is_content(&house).await;
    // Nor once the rows of the uploads are forgotten.
    house.clock.advance(KNOWN_FOR + Duration::from_secs(1));
    let until = boxgate_storage::clock::Clock::now(&*house.clock).minus(KNOWN_FOR);
    assert!(house.metadata.purge_uploads(until).await.unwrap() > 0);
    is_content(&house).await;
    house.sweep_all().await;
    // Uploads in progress have nothing beside them.
    house.rest("next", &content(MIB, 3), 2 * MIB).await;
    let whole = named("whole", kept(Some(70), vec![]));
    house.engine.create(whole).await.unwrap();
    is_content(&house).await;
    assert_eq!(house.findings().await, []);
}

#[tokio::test]
async fn a_scrub_writes_what_is_missing_beside_a_blob() {
    let house = House::new().await;
    let bytes = content(MIB + 5, 1);
    let key = house.put("web", &bytes).await.blob.key;
    house.put("copy", &bytes).await;
    let beside = house.store.sidecars.clone().unwrap();
    // From before there were sidecars.
    for (id, _) in beside.beside(&key).await.unwrap() {
        beside.remove(&key, id).await.unwrap();
    }
    for _ in 0..2 {
        let tell = |_told| std::future::ready(());
        house.stock().scrub(0, None, tell).await.unwrap();
        assert_eq!(beside.beside(&key).await.unwrap().len(), 2, "once each");
    }
    // They are no news to rows that are there.
    assert!(house.delete("copy").await);
    is_content(&house).await;
    let empty = house.restored("empty.db").await;
    let (names, ..) = adopt(&empty.stock()).await;
    assert_eq!(names, ["copy", "web"].map(full));
    assert_eq!(holds(&empty, "web", &bytes).await, key);
}

#[tokio::test]
async fn bytes_that_are_not_what_their_sidecar_says_are_told_and_stay() {
    let house = House::embedded().await;
    let (web, short) = (content(2 * MIB, 1), content(5000, 2));
    let web = house.put("web", &web).await.blob.key;
    let short = house.put("short", &short).await.blob.key;
    let mut bytes = std::fs::read(house.path_of(&web)).unwrap();
    bytes[MIB + 1] ^= 1;
    house.plant_file(&web, &bytes);
    house.plant_file(&short, b"other");
    // Half a sidecar, and one of other bytes.
    let beside = house.store.sidecars.clone().unwrap();
    let lone = BlobKey::random();
    house.plant_file(&lone, b"lone");
    beside.put(&lone, UploadId::random(), "{").await.unwrap();
    let text = beside.beside(&web).await.unwrap().remove(0).1;
    let strange = Sidecar::parse(&text).unwrap();
    let text = strange.to_text();
    beside.put(&lone, strange.upload, &text).await.unwrap();
    let empty = house.restored("empty.db").await;
    let (names, mut findings, adopted) = adopt(&empty.stock()).await;
    assert_eq!((names, adopted.damaged), (vec![], 2));
    findings.sort_by_key(|finding| finding.names.clone());
    let told: Vec<_> = findings.iter().map(|f| (f.key, f.problem.word())).collect();
    assert_eq!(told, [(short, "length"), (web, "unlike")]);
    assert_eq!(findings[1].names, [full("web")]);
    assert_eq!(empty.findings().await.len(), 3, "they are orphans still");
}

#[tokio::test]
async fn sidecars_go_with_their_blob_and_with_uploads_that_are_given_up() {
    let house = House::new().await;
    let beside = house.store.sidecars.clone().unwrap();
    let bytes = content(5000, 1);
    let first = house.put("web", &bytes).await.blob.key;
    house.put("copy", &bytes).await;
    assert_eq!(beside.beside(&first).await.unwrap().len(), 2);
    assert!(house.delete("web").await && house.delete("copy").await);
    house.sweep_all().await;
    assert_eq!(beside.beside(&first).await.unwrap(), []);
    assert_eq!(house.all_files(), Vec::<String>::new());
}
