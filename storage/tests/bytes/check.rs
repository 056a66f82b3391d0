//! Rows and bytes compared: each planted inconsistency is found and named, and nothing else ever is,
//! whatever goes on meanwhile.

use std::fmt::{self, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use boxgate_storage::backend::faulty::{self, Fault, Faults};
use boxgate_storage::blob::BlobKey;
use boxgate_storage::check::{Amount, Brake, Finding, OrphanLimits};
use boxgate_storage::conformance::ledger::DOOMED_FOR;
use boxgate_storage::range::ByteRange;
use boxgate_storage::store::{ListBlobs, ReadBlob, Store};
use boxgate_storage::upload::Cut;
use boxgate_storage::{ErrorKind, Result};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use crate::bench::{MIB, content, kept};
use crate::house::{House, named};

/// One of everything that a sound installation may hold.
struct Sound {
    house: House,
    /// Held by two names.
    shared: BlobKey,
    /// Held by an upload without a target.
    held: BlobKey,
    /// No longer held by anything.
    doomed: BlobKey,
    /// An open upload with bytes.
    resting: boxgate_storage::blob::UploadId,
    /// Held by an upload without a target, and by one that is to be joined of it.
    joined: BlobKey,
}

impl Sound {
    async fn new() -> Self {
        let house = House::new().await;
        let shared = house.put("web", &content(3 * MIB + 5, 1)).await.blob.key;
        let again = house.put("copy", &content(3 * MIB + 5, 1)).await.blob.key;
        assert_eq!(shared, again);
        let held = house.put_untargeted(&content(5000, 2)).await.blob.key;
        let doomed = house.put("old", &content(MIB, 3)).await.blob.key;
        assert!(house.delete("old").await);
        let resting = house.rest("next", &content(9 * MIB + 7, 4), 20 * MIB).await;
        // One that was given up, and one that is only a row.
        let given_up = house.rest("no", &content(MIB, 5), 2 * MIB).await;
        assert!(house.engine.cancel(given_up).await.unwrap());
        let intent = named("later", kept(Some(MIB as u64), vec![]));
        let empty = house.engine.create(intent).await.unwrap();
        std::fs::remove_file(house.path_of(&empty.key)).unwrap();
        // Pieces ahead of the offset.
        let cut = boxgate_storage::upload::UploadIntent {
            cut: Some(Cut::Parts),
            ..named("pieces", kept(Some(24 << 20), vec![]))
        };
        let cut = house.engine.create(cut).await.unwrap().id;
        let mut piece = house.engine.piece(cut, 1, Some(8 << 20)).await.unwrap();
        piece.write(content(8 * MIB, 6)).await.unwrap();
        piece.finish().await.unwrap();
        // One that is joined of another: its blob is held twice.
        let nameless = boxgate_storage::upload::UploadIntent {
            target: None,
            ..kept(Some(7000), vec![])
        };
        let mut source = house.engine.begin(nameless).await.unwrap();
        let id = source.id();
        source.write(content(7000, 7)).await.unwrap();
        let joined = source.finish().await.unwrap().blob.key;
        let intent = named("joined", kept(None, vec![]));
        house.engine.create_joined(intent, vec![id]).await.unwrap();
        house.engine.settled().await;
        Self {
            house,
            shared,
            held,
            doomed,
            resting,
            joined,
        }
    }
}

/// What a finding is about, and what it says is wrong.
fn said(findings: &[Finding]) -> Vec<(BlobKey, &'static str)> {
    let mut said: Vec<_> = findings.iter().map(|f| (f.key, f.problem.word())).collect();
    said.sort_unstable();
    said
}

/// Checks, and holds what is found against what was planted.
async fn finds(house: &House, planted: &[(BlobKey, &'static str)]) -> Vec<Finding> {
    let findings = house.findings().await;
    let mut planted = planted.to_vec();
    planted.sort_unstable();
    assert_eq!(said(&findings), planted, "{findings:?}");
    let before = house.findings().await;
    assert_eq!(before, findings, "looking changes nothing");
    findings
}

fn quoted(key: &BlobKey) -> String {
    format!("x'{key}'")
}

fn set_length(house: &House, key: &BlobKey, length: usize) {
    let path = house.path_of(key);
    let file = std::fs::OpenOptions::new().write(true).open(path);
    file.unwrap().set_len(length as u64).unwrap();
}

#[tokio::test]
async fn a_sound_installation_has_no_finding() {
    let sound = Sound::new().await;
    let mut findings = Vec::new();
    let checked = House::told(&sound.house.stock(), &mut findings).await;
    let checked = checked.unwrap();
    assert_eq!(findings, []);
    assert_eq!((checked.blobs, checked.uploads), (4, 4));
    assert_eq!(checked.stored, 7, "one of the uploads has no file");
    // Nor after everything went its way.
    sound.house.clock.advance(Duration::from_hours(24 * 8));
    sound.house.engine.sweep().await.unwrap();
    sound.house.clock.advance(DOOMED_FOR);
    sound.house.engine.sweep().await.unwrap();
    finds(&sound.house, &[]).await;
    assert_eq!(sound.house.stored_keys(), [sound.shared]);
}

#[tokio::test]
async fn missing_bytes_are_found_and_tell_the_names_that_hold_them() {
    let sound = Sound::new().await;
    let house = &sound.house;
    let resting = house.key_of(sound.resting).await;
    for key in [sound.shared, sound.held, sound.doomed, resting] {
        std::fs::remove_file(house.path_of(&key)).unwrap();
    }
    let planted = [sound.shared, sound.held, sound.doomed, resting].map(|key| (key, "missing"));
    let findings = finds(house, &planted).await;
    let shared = findings.iter().find(|f| f.key == sound.shared).unwrap();
    assert_eq!(
        shared.names,
        [
            "acme/web/1.0/virtualbox/amd64",
            "acme/copy/1.0/virtualbox/amd64"
        ]
    );
    let line = shared.to_string();
    let expected = format!(
        "blob {} in store main: its {} bytes are missing (held by {})",
        sound.shared,
        3 * MIB + 5,
        shared.names.join(", ")
    );
    assert_eq!(line, expected);
    assert!(shared.advice().contains("send the file again"));
}

#[tokio::test]
async fn bytes_of_another_length_are_found() {
    let sound = Sound::new().await;
    let house = &sound.house;
    let set = |key: &BlobKey, length: usize| set_length(house, key, length);
    set(&sound.shared, 3 * MIB);
    set(&sound.held, 5001);
    let resting = house.key_of(sound.resting).await;
    set(&resting, 9 * MIB + 6);
    let planted = [sound.shared, sound.held, resting].map(|key| (key, "length"));
    let findings = finds(house, &planted).await;
    let upload = findings.iter().find(|f| f.key == resting).unwrap();
    assert!(
        upload
            .to_string()
            .starts_with(&format!("upload {}", sound.resting))
    );
    // What an upload has behind its offset was never told to anybody.
    set(&resting, 9 * MIB + 8);
    set(&sound.shared, 3 * MIB + 5);
    set(&sound.held, 5000);
    finds(house, &[]).await;
}

#[tokio::test]
async fn a_piece_that_is_cut_is_found() {
    let house = House::new().await;
    let cut = boxgate_storage::upload::UploadIntent {
        cut: Some(Cut::Parts),
        ..named("pieces", kept(Some(24 << 20), vec![]))
    };
    let row = house.engine.create(cut).await.unwrap();
    let mut piece = house.engine.piece(row.id, 2, Some(8 << 20)).await.unwrap();
    piece.write(content(8 * MIB, 1)).await.unwrap();
    piece.finish().await.unwrap();
    house.engine.settled().await;
    finds(&house, &[]).await;
    set_length(&house, &row.key, 24 * MIB - 1);
    finds(&house, &[(row.key, "length")]).await;
}

#[tokio::test]
async fn bytes_that_no_row_names_are_found() {
    let sound = Sound::new().await;
    let house = &sound.house;
    let stray = BlobKey::random();
    house.plant_file(&stray, b"stray");
    // A row that ended names nothing any more, nor does one of another store.
    let ended = house.rest("ended", &content(MIB, 7), 2 * MIB).await;
    let key = house.key_of(ended).await;
    assert!(house.engine.cancel(ended).await.unwrap());
    house.plant_file(&key, b"again");
    let findings = finds(house, &[(stray, "orphan"), (key, "orphan")]).await;
    assert!(findings[0].advice().contains("boxgate gc"));
}

#[tokio::test]
async fn references_that_do_not_add_up_are_found() {
    for (change, word) in [
        ("refs = refs + 1", "references"),
        ("refs = refs - 1", "references"),
        ("state = 'doomed'", "state"),
        ("state = 'deleting'", "state"),
        ("due_ms = 1", "state"),
        ("state = 'quarantined'", "quarantined"),
    ] {
        let sound = Sound::new().await;
        for key in [sound.shared, sound.held] {
            let statement = format!("UPDATE blobs SET {change} WHERE key = {}", quoted(&key));
            assert_eq!(sound.house.sql(&statement).await, 1);
        }
        finds(&sound.house, &[(sound.shared, word), (sound.held, word)]).await;
    }
    for change in ["state = 'live'", "due_ms = NULL"] {
        let sound = Sound::new().await;
        let key = quoted(&sound.doomed);
        let statement = format!("UPDATE blobs SET {change} WHERE key = {key}");
        assert_eq!(sound.house.sql(&statement).await, 1);
        finds(&sound.house, &[(sound.doomed, "state")]).await;
    }
}

#[tokio::test]
async fn a_holder_that_vanished_or_came_unasked_is_found() {
    let sound = Sound::new().await;
    let (shared, held) = (quoted(&sound.shared), quoted(&sound.held));
    sound
        .house
        .sql("DELETE FROM files WHERE id = (SELECT MIN(id) FROM files)")
        .await;
    sound
        .house
        .sql(&format!(
            "UPDATE uploads SET held = {shared} WHERE held = {held}"
        ))
        .await;
    assert_eq!(sound.house.sql("DELETE FROM joins").await, 1);
    // One holder less and one more: only the blobs that lost a holder are off.
    let planted = [(sound.held, "references"), (sound.joined, "references")];
    finds(&sound.house, &planted).await;
}

#[tokio::test]
async fn subtree_values_that_do_not_cover_the_blob_are_found() {
    for change in [
        "DELETE FROM blob_trees",
        "UPDATE blob_trees SET cvs = substr(cvs, 33)",
        "UPDATE blob_trees SET cvs = cvs || x'00'",
    ] {
        let sound = Sound::new().await;
        let statement = format!("{change} WHERE blob = {}", quoted(&sound.shared));
        assert_eq!(sound.house.sql(&statement).await, 1);
        finds(&sound.house, &[(sound.shared, "tree")]).await;
    }
}

#[tokio::test]
async fn a_live_blob_in_the_trash_is_found() {
    let sound = Sound::new().await;
    let key = quoted(&sound.shared);
    let statement = format!(
        "INSERT INTO trash (key, store, due_ms) VALUES ({key}, 'main', {})",
        i64::MAX
    );
    sound.house.sql(&statement).await;
    finds(&sound.house, &[(sound.shared, "claimed_twice")]).await;
}

#[tokio::test]
async fn parts_that_are_not_what_was_committed_are_found() {
    let sound = Sound::new().await;
    let key = sound.house.key_of(sound.resting).await;
    let gone = format!(
        "DELETE FROM parts WHERE upload = x'{}' AND k = 0",
        sound.resting
    );
    assert_eq!(sound.house.sql(&gone).await, 1);
    finds(&sound.house, &[(key, "parts")]).await;
}

#[tokio::test]
async fn what_outlived_its_time_is_found() {
    let sound = Sound::new().await;
    let house = &sound.house;
    let trash = BlobKey::random();
    house.plant_file(&trash, b"trash");
    let statement = format!(
        "INSERT INTO trash (key, store, due_ms) VALUES ({}, 'main', {})",
        quoted(&trash),
        boxgate_storage::clock::Clock::now(&*house.clock).0
    );
    house.sql(&statement).await;
    house.clock.advance(Duration::from_mins(59));
    finds(house, &[]).await;
    house.clock.advance(Duration::from_mins(1));
    finds(house, &[(trash, "overdue")]).await;
    // A doomed blob an hour later, an idle upload after a day and an hour, and so on.
    house.clock.advance(DOOMED_FOR);
    finds(house, &[(trash, "overdue"), (sound.doomed, "overdue")]).await;
    let resting = house.key_of(sound.resting).await;
    let joining = said(&house.findings().await);
    assert!(!joining.iter().any(|(_, word)| *word == "over"));
    // All but the one that waits for others, which may be as old as any.
    house.clock.advance(Duration::from_hours(24));
    let words = said(&house.findings().await);
    assert_eq!(words.iter().filter(|(_, word)| *word == "over").count(), 3);
    house.clock.advance(Duration::from_hours(24 * 7));
    let words = said(&house.findings().await);
    assert!(words.contains(&(resting, "over")), "{words:?}");
    assert!(words.contains(&(sound.held, "over")), "{words:?}");
    assert_eq!(words.iter().filter(|(_, word)| *word == "over").count(), 6);
    house.engine.sweep().await.unwrap();
    house.sweep_all().await;
    finds(house, &[]).await;
}

#[tokio::test]
async fn an_upload_that_waits_for_its_publication_for_long_is_found() {
    let house = House::new().await;
    let id = house.rest("web", &content(MIB, 1), MIB).await;
    let key = house.key_of(id).await;
    let digests = format!("blake3 = x'{0}', sha256 = x'{0}'", "11".repeat(32));
    let statement = format!("UPDATE uploads SET state = 'completing', {digests}");
    house.sql(&statement).await;
    finds(&house, &[]).await;
    house.clock.advance(Duration::from_hours(1));
    finds(&house, &[(key, "over")]).await;
}

#[tokio::test]
async fn names_of_blobs_without_a_row_are_found() {
    let sound = Sound::new().await;
    for key in [sound.shared, sound.held] {
        for (table, column) in [("blob_trees", "blob"), ("blobs", "key")] {
            let statement = format!("DELETE FROM {table} WHERE {column} = {}", quoted(&key));
            assert_eq!(sound.house.sql(&statement).await, 1);
        }
    }
    let planted = [
        // Two files, one upload, and the bytes of both.
        (sound.shared, "no_blob"),
        (sound.shared, "no_blob"),
        (sound.held, "no_blob"),
        (sound.shared, "orphan"),
        (sound.held, "orphan"),
    ];
    finds(&sound.house, &planted).await;
}

#[tokio::test]
async fn a_store_that_is_not_configured_is_found() {
    let sound = Sound::new().await;
    let key = quoted(&sound.shared);
    let statement = format!("UPDATE blobs SET store = 'away' WHERE key = {key}");
    sound.house.sql(&statement).await;
    let planted = [(sound.shared, "no_store"), (sound.shared, "orphan")];
    finds(&sound.house, &planted).await;
}

#[tokio::test]
async fn bytes_that_cannot_be_looked_at_are_a_finding_and_a_store_that_is_away_is_none() {
    let sound = Sound::new().await;
    let faults = Faults::new();
    let house = sound
        .house
        .with_store(faulty::wrap(sound.house.store.clone(), &faults))
        .await;
    // Twice: what looks wrong is looked at again.
    for nth in 0..2 {
        faults.plan("store.stat", nth, Fault::Before(ErrorKind::Internal));
    }
    let findings = house.findings().await;
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].problem.word(), "unreadable");
    for op in ["store.stat", "store.page"] {
        let faults = Faults::new();
        let store = faulty::wrap(sound.house.store.clone(), &faults);
        let house = sound.house.with_store(store).await;
        faults.plan(op, 0, Fault::Before(ErrorKind::Unavailable));
        let away = House::told(&house.stock(), &mut Vec::new())
            .await
            .unwrap_err();
        assert_eq!(away.kind(), ErrorKind::Unavailable);
    }
}

/// A blob row and its bytes, made by hand.
async fn plant_blobs(house: &House, count: usize) -> Vec<BlobKey> {
    let mut keys: Vec<_> = (0..count).map(|_| BlobKey::random()).collect();
    keys.sort_unstable();
    let mut statements = String::from("BEGIN;");
    for (id, key) in keys.iter().enumerate() {
        house.plant_file(key, b"x");
        let (key, digest) = (quoted(key), format!("x'{}'", "11".repeat(32)));
        write!(
            statements,
            "INSERT INTO blobs (key, tenant, store, length, blake3, sha256, state, refs, created_ms)
                 VALUES ({key}, 1, 'main', 1, {digest}, {digest}, 'live', 1, 0);
             INSERT INTO blob_trees (blob, cvs) VALUES ({key}, {digest});
             INSERT INTO files (id, architecture, blob, downloads, created_ms, updated_ms)
                 VALUES ({}, {id}, {key}, 0, 0, 0);",
            id + 1
        )
        .unwrap();
    }
    house.sql(&(statements + "COMMIT;")).await;
    keys
}

#[tokio::test]
async fn many_pages_are_walked_to_their_end() {
    let house = House::new().await;
    let keys = plant_blobs(&house, 2500).await;
    let mut findings = Vec::new();
    let checked = House::told(&house.stock(), &mut findings).await.unwrap();
    assert_eq!(findings, []);
    assert_eq!((checked.blobs, checked.stored), (2500, 2500));
    let mut planted = Vec::new();
    // The edges of pages, and some between.
    for at in [0, 1, 998, 999, 1000, 1001, 1999, 2000, 2498, 2499] {
        std::fs::remove_file(house.path_of(&keys[at])).unwrap();
        planted.push((keys[at], "missing"));
    }
    for at in [2, 997, 1002, 2001, 2497] {
        let key = quoted(&keys[at]);
        let due = i64::MAX;
        house
            .sql(&format!(
                "INSERT INTO trash (key, store, due_ms) VALUES ({key}, 'main', {due})"
            ))
            .await;
        planted.push((keys[at], "claimed_twice"));
    }
    for _ in 0..1500 {
        let key = BlobKey::random();
        house.plant_file(&key, b"x");
        planted.push((key, "orphan"));
    }
    finds(&house, &planted).await;
}

type Meddler = Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>;

/// A store in which something happens at one of its calls, before it answers.
struct Meddled {
    inner: Store,
    at: &'static str,
    /// Calls that go by before.
    spared: Mutex<usize>,
    meddler: Mutex<Option<Meddler>>,
}

impl Meddled {
    fn store(inner: &Store, at: &'static str, spared: usize, meddler: Meddler) -> Store {
        let this = Arc::new(Self {
            inner: inner.clone(),
            at,
            spared: Mutex::new(spared),
            meddler: Mutex::new(Some(meddler)),
        });
        Store {
            read: Arc::clone(&this) as _,
            list: Some(this),
            ..inner.clone()
        }
    }

    async fn meddle(&self, at: &'static str) {
        if at == self.at {
            let spared = {
                let mut spared = self.spared.lock().unwrap();
                let before = *spared;
                *spared = before.saturating_sub(1);
                before > 0
            };
            if spared {
                return;
            }
            let meddler = self.meddler.lock().unwrap().take();
            if let Some(meddler) = meddler {
                meddler().await;
            }
        }
    }
}

impl fmt::Debug for Meddled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.at)
    }
}

#[async_trait]
impl ReadBlob for Meddled {
    async fn stat(&self, key: &BlobKey) -> Result<u64> {
        self.meddle("before stat").await;
        let stat = self.inner.read.stat(key).await;
        self.meddle("after stat").await;
        stat
    }

    async fn open(
        &self,
        key: &BlobKey,
        range: ByteRange,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        self.inner.read.open(key, range).await
    }
}

#[async_trait]
impl ListBlobs for Meddled {
    async fn page(&self, after: Option<BlobKey>, limit: usize) -> Result<Vec<BlobKey>> {
        self.meddle("before page").await;
        let list = self.inner.list.as_ref().unwrap();
        let page = list.page(after, limit).await;
        self.meddle("after page").await;
        page
    }
}

/// Checks `house` while `meddler` does its work at one moment of it.
async fn checked_while(house: House, at: &'static str, meddler: Meddler) {
    let store = Meddled::store(&house.store, at, 0, meddler);
    let meddled = house.with_store(store).await;
    let findings = meddled.findings().await;
    assert_eq!(findings, [], "{at}");
    assert_eq!(house.findings().await, []);
}

const MOMENTS: [&str; 4] = ["before page", "after page", "before stat", "after stat"];

#[tokio::test]
async fn an_upload_that_is_made_meanwhile_is_no_finding() {
    for at in MOMENTS {
        let house = House::new().await;
        house.put("web", &content(MIB, 1)).await;
        let other = house.again().await;
        let meddler: Meddler = Box::new(|| {
            Box::pin(async move {
                other.rest("next", &content(9 * MIB, 2), 10 * MIB).await;
                other.put("more", &content(MIB, 3)).await;
            })
        });
        checked_while(house, at, meddler).await;
    }
}

#[tokio::test]
async fn an_upload_that_ends_meanwhile_is_no_finding() {
    for at in MOMENTS {
        let house = House::new().await;
        let id = house.rest("next", &content(9 * MIB, 2), 10 * MIB).await;
        let other = house.again().await;
        let meddler: Meddler = Box::new(move || {
            Box::pin(async move {
                assert!(other.engine.cancel(id).await.unwrap());
            })
        });
        checked_while(house, at, meddler).await;
    }
}

#[tokio::test]
async fn a_blob_that_is_removed_meanwhile_is_no_finding() {
    for at in MOMENTS {
        let house = House::new().await;
        house.put("web", &content(MIB, 1)).await;
        let other = house.again().await;
        let meddler: Meddler = Box::new(move || {
            Box::pin(async move {
                assert!(other.delete("web").await);
                other.sweep_all().await;
                assert_eq!(other.stored_keys(), []);
            })
        });
        checked_while(house, at, meddler).await;
    }
}

#[tokio::test]
async fn a_blob_that_comes_and_goes_meanwhile_is_no_finding() {
    for at in ["before stat", "after stat"] {
        let house = House::new().await;
        let (comes, goes) = (house.again().await, house.again().await);
        // It is listed after the rows were read, so that it is looked at again; then it goes between the
        // look at its bytes and one of those at its rows.
        let comes: Meddler = Box::new(|| {
            Box::pin(async move {
                comes.put("web", &content(MIB, 1)).await;
            })
        });
        let goes: Meddler = Box::new(|| {
            Box::pin(async move {
                assert!(goes.delete("web").await);
                goes.sweep_all().await;
            })
        });
        let store = Meddled::store(&house.store, "before page", 0, comes);
        let store = Meddled::store(&store, at, 0, goes);
        let meddled = house.with_store(store).await;
        assert_eq!(meddled.findings().await, [], "{at}");
        assert_eq!(house.stored_keys(), []);
    }
}

#[tokio::test]
async fn an_upload_that_is_published_meanwhile_is_no_finding() {
    for at in MOMENTS {
        let house = House::new().await;
        house.put("web", &content(10 * MIB, 2)).await;
        let bytes = content(10 * MIB, 2);
        let id = house.rest("next", &bytes.slice(..9 * MIB), 10 * MIB).await;
        let other = house.again().await;
        let meddler: Meddler = Box::new(move || {
            Box::pin(async move {
                let mut writer = other.engine.resume(id, 9 << 20).await.unwrap();
                writer.write(bytes.slice(9 * MIB..)).await.unwrap();
                writer.finish().await.unwrap();
                other.engine.settled().await;
            })
        });
        checked_while(house, at, meddler).await;
    }
}

#[tokio::test]
async fn pieces_that_are_cut_off_meanwhile_are_no_finding() {
    for at in MOMENTS {
        let house = House::new().await;
        let cut = boxgate_storage::upload::UploadIntent {
            cut: Some(Cut::Parts),
            ..named("pieces", kept(Some(24 << 20), vec![]))
        };
        let id = house.engine.create(cut).await.unwrap().id;
        let mut piece = house.engine.piece(id, 1, Some(8 << 20)).await.unwrap();
        piece.write(content(8 * MIB, 1)).await.unwrap();
        // Not whole for anybody: nobody was told of it.
        drop(piece);
        house.engine.settled().await;
        let other = house.again().await;
        let meddler: Meddler = Box::new(move || {
            Box::pin(async move {
                let mut writer = other.engine.resume(id, 0).await.unwrap();
                writer.write(content(5000, 1)).await.unwrap();
                writer.pause().await.unwrap();
            })
        });
        checked_while(house, at, meddler).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_found_and_nothing_lost_beside_uploads_and_deletes() {
    let house = Arc::new(House::new().await);
    let workers: Vec<_> = (0..3_u8)
        .map(|worker| {
            let house = Arc::clone(&house);
            tokio::spawn(async move {
                for round in 0..12_u8 {
                    let own = format!("box-{worker}");
                    let bytes = content(MIB + usize::from(round), worker);
                    house.put(&own, &bytes).await;
                    // The same bytes under a name that all fight for.
                    house.put("shared", &content(MIB, round / 4)).await;
                    let id = house.rest("rest", &bytes, 2 * MIB).await;
                    if round % 2 == 0 {
                        assert!(house.engine.cancel(id).await.unwrap());
                    }
                    if round % 3 == 0 {
                        house.delete(&own).await;
                    }
                    if worker == 0 {
                        house.clock.advance(Duration::from_mins(20));
                        house.engine.sweep().await.unwrap();
                    }
                }
                house
                    .put(&format!("box-{worker}"), &content(MIB, worker))
                    .await
            })
        })
        .collect();
    let mut looks = 0;
    let limits = OrphanLimits {
        age: Duration::ZERO,
        brake: Brake::RELEASED,
    };
    while looks < 3 || !workers.iter().all(tokio::task::JoinHandle::is_finished) {
        assert_eq!(house.findings().await, []);
        let collected = house.stock().collect(limits).await.unwrap();
        assert_eq!(collected.stores["main"].orphans, 0);
        looks += 1;
    }
    for worker in workers {
        let published = worker.await.unwrap();
        let stat = house.store.read.stat(&published.blob.key).await;
        assert_eq!(stat.unwrap(), MIB as u64);
    }
    assert_eq!(house.findings().await, []);
}

/// As many orphans as one likes.
const PATIENT: OrphanLimits = OrphanLimits {
    age: Duration::from_hours(7 * 24),
    brake: SHARELESS,
};
const SHARELESS: Brake = Brake {
    few: 0,
    most: 100,
    most_percent: 100,
};

const DAY: Duration = Duration::from_hours(24);

fn there(path: &Path) -> bool {
    path.try_exists().unwrap()
}

#[tokio::test]
async fn an_orphan_goes_when_it_was_seen_twice_a_week_apart() {
    let house = House::new().await;
    let kept = house.put("web", &content(MIB, 1)).await.blob.key;
    let stray = BlobKey::random();
    house.plant_file(&stray, b"stray");
    let path = house.path_of(&stray);
    for day in 0..7 {
        // Each day another process: what was seen outlives the one that saw it.
        let house = house.again().await;
        let collected = house.stock().collect(PATIENT).await.unwrap();
        let main = collected.stores["main"];
        assert_eq!(
            (main.stored, main.orphans, main.removed),
            (2, 1, 0),
            "{day}"
        );
        assert!(there(&path), "day {day}");
        house.clock.advance(DAY);
    }
    let collected = house.stock().collect(PATIENT).await.unwrap();
    assert_eq!(collected.stores["main"].removed, 1);
    let stray = Amount { count: 1, bytes: 5 };
    assert_eq!(collected.removed, stray);
    assert!(!there(&path));
    assert_eq!(house.stored_keys(), [kept]);
    let collected = house.stock().collect(PATIENT).await.unwrap();
    assert_eq!(collected.stores["main"].orphans, 0);
    finds(&house, &[]).await;
}

#[tokio::test]
async fn bytes_that_went_away_in_between_are_seen_for_the_first_time_again() {
    let house = House::new().await;
    let stray = BlobKey::random();
    house.plant_file(&stray, b"stray");
    house.stock().collect(PATIENT).await.unwrap();
    let path = house.path_of(&stray);
    std::fs::remove_file(&path).unwrap();
    house.clock.advance(6 * DAY);
    house.stock().collect(PATIENT).await.unwrap();
    house.plant_file(&stray, b"stray");
    house.clock.advance(6 * DAY);
    house.stock().collect(PATIENT).await.unwrap();
    assert!(there(&path));
    house.clock.advance(7 * DAY);
    house.stock().collect(PATIENT).await.unwrap();
    assert!(!there(&path));
}

#[tokio::test]
async fn a_look_that_was_dated_ahead_is_not_waited_for() {
    let house = House::new().await;
    let stray = BlobKey::random();
    house.plant_file(&stray, b"stray");
    house.stock().collect(PATIENT).await.unwrap();
    let ahead = i64::MAX / 2;
    assert_eq!(
        house
            .sql(&format!("UPDATE orphans SET first_ms = {ahead}"))
            .await,
        1
    );
    house.stock().collect(PATIENT).await.unwrap();
    house.clock.advance(7 * DAY);
    house.stock().collect(PATIENT).await.unwrap();
    assert!(!there(&house.path_of(&stray)));
}

#[tokio::test]
async fn an_orphan_that_got_a_row_stays() {
    // Adopted by hand while it is looked at, and after it was: the second page of keys is the empty one.
    for (at, spared) in [("after stat", 0), ("before page", 1)] {
        let house = House::new().await;
        let stray = BlobKey::random();
        house.plant_file(&stray, b"x");
        house.stock().collect(PATIENT).await.unwrap();
        house.clock.advance(8 * DAY);
        let other = house.again().await;
        let meddler: Meddler = Box::new(move || {
            Box::pin(async move {
                let digest = format!("x'{}'", "11".repeat(32));
                let statement = format!(
                    "INSERT INTO blobs (key, tenant, store, length, blake3, sha256, state, refs,
                         due_ms, created_ms)
                         VALUES ({}, 1, 'main', 1, {digest}, {digest}, 'doomed', 0, {}, 0);
                     INSERT INTO blob_trees (blob, cvs) VALUES ({0}, {digest});",
                    quoted(&stray),
                    i64::MAX,
                );
                other.sql(&statement).await;
            })
        });
        let store = Meddled::store(&house.store, at, spared, meddler);
        let meddled = house.with_store(store).await;
        let collected = meddled.stock().collect(PATIENT).await.unwrap();
        assert_eq!(collected.stores["main"].removed, 0, "{at}");
        assert!(there(&house.path_of(&stray)), "{at}");
        finds(&house, &[]).await;
    }
}

#[tokio::test]
async fn too_many_orphans_stop_the_sweep() {
    let house = House::new().await;
    let few = OrphanLimits {
        brake: Brake {
            most: 3,
            ..SHARELESS
        },
        ..PATIENT
    };
    let strays: Vec<_> = (0..4).map(|_| BlobKey::random()).collect();
    for stray in &strays {
        house.plant_file(stray, b"stray");
    }
    for _ in 0..3 {
        let collected = house.stock().collect(few).await.unwrap();
        assert!(collected.is_stopped());
        let main = collected.stores["main"];
        assert_eq!((main.orphans, main.removed), (4, 0));
        house.clock.advance(8 * DAY);
    }
    assert_eq!(house.stored_keys().len(), 4);
    // While it was stopped nothing was noted: three are seen for the first time now.
    std::fs::remove_file(house.path_of(&strays[0])).unwrap();
    let collected = house.stock().collect(few).await.unwrap();
    assert!(!collected.is_stopped());
    assert_eq!(house.stored_keys().len(), 3);
    house.clock.advance(7 * DAY);
    let collected = house.stock().collect(few).await.unwrap();
    assert_eq!(collected.stores["main"].removed, 3);
    assert_eq!(house.stored_keys(), []);
}

#[tokio::test]
async fn more_than_one_orphan_in_a_hundred_keys_stops_the_sweep() {
    let house = House::new().await;
    plant_blobs(&house, 199).await;
    let mut limits = OrphanLimits::default();
    limits.brake.few = 0;
    for (orphans, stopped) in [(1, false), (2, false), (3, true)] {
        house.plant_file(&BlobKey::random(), b"stray");
        let collected = house.stock().collect(limits).await.unwrap();
        let main = collected.stores["main"];
        assert_eq!((main.stored, main.orphans), (199 + orphans, orphans));
        assert_eq!(main.stopped, stopped, "{orphans}");
    }
    house.clock.advance(8 * DAY);
    house.stock().collect(limits).await.unwrap();
    assert_eq!(house.stored_keys().len(), 202);
}

#[tokio::test]
async fn a_few_orphans_go_from_a_small_store_too() {
    let house = House::new().await;
    house.put("web", &content(5000, 1)).await;
    let limits = OrphanLimits::default();
    for orphans in 1..=4 {
        house.plant_file(&BlobKey::random(), b"stray");
        let main = house.stock().collect(limits).await.unwrap().stores["main"];
        let seen = (main.orphans, main.bytes, main.stopped);
        assert_eq!(seen, (orphans, 5 * orphans, orphans > 3));
    }
    // Somebody looked, and lets them go all the same: the last is known only since then.
    let released = OrphanLimits {
        brake: Brake::RELEASED,
        ..limits
    };
    let mut gone = 0;
    for (days, expected) in [(6, 0), (1, 3), (6, 4)] {
        house.clock.advance(days * DAY);
        let would = house.stock().would_collect(released).await.unwrap();
        let did = house.stock().collect(released).await.unwrap();
        assert_eq!(would, did);
        gone += did.removed.count;
        assert_eq!(gone, expected, "{days}");
    }
    assert_eq!(house.stored_keys().len(), 1);
}

#[tokio::test]
async fn what_is_due_and_what_is_not_is_told_before_it_goes() {
    let house = House::new().await;
    let limits = OrphanLimits::default();
    house.put("web", &content(5000, 1)).await;
    assert!(house.delete("web").await);
    let amounts = async |house: &House| {
        let would = house.stock().would_collect(limits).await.unwrap();
        (would.removed, would.kept, would.waiting)
    };
    let (none, one) = (
        Amount::default(),
        Amount {
            count: 1,
            bytes: 5000,
        },
    );
    assert_eq!(amounts(&house).await, (none, none, one));
    house.clock.advance(DOOMED_FOR);
    assert_eq!(amounts(&house).await, (one, none, none));
    assert_eq!(house.stored_keys().len(), 1, "looking removes nothing");
    // A store that does not remove it: it stays, and is told.
    let store = Store {
        delete: None,
        ..house.store.clone()
    };
    let keeping = house.with_store(store).await;
    let did = keeping.stock().collect(limits).await.unwrap();
    assert_eq!((did.removed, did.kept), (none, one));
    let did = house.stock().collect(limits).await.unwrap();
    assert_eq!((did.removed, did.kept, did.waiting), (one, none, none));
    finds(&house, &[]).await;
}

#[tokio::test]
async fn at_rest_nothing_is_late() {
    let house = House::new().await;
    house.put("web", &content(5000, 1)).await;
    assert!(house.delete("web").await);
    house.rest("next", &content(5000, 2), 6000).await;
    house.put_untargeted(&content(5000, 3)).await;
    house.clock.advance(Duration::from_hours(24 * 30));
    let mut findings = Vec::new();
    House::told(&house.stock(), &mut findings).await.unwrap();
    let words: Vec<_> = said(&findings).into_iter().map(|(_, word)| word).collect();
    assert_eq!(words.len(), 3, "{words:?}");
    let resting = house.stock().at_rest();
    findings.clear();
    House::told(&resting, &mut findings).await.unwrap();
    assert_eq!(findings, []);
}

#[tokio::test]
async fn a_database_from_a_backup_becomes_no_deletion() {
    let house = House::embedded().await;
    for number in 0..20 {
        house
            .put(&format!("old-{number}"), &content(5000, number))
            .await;
    }
    house.back_up("backup.db").await;
    house.clock.advance(Duration::from_hours(1));
    let mut since = Vec::new();
    for number in 20..25 {
        let published = house
            .put(&format!("new-{number}"), &content(5000, number))
            .await;
        since.push((published.blob.key, "orphan"));
    }
    let stored = house.stored_keys();
    let restored = house.restored("backup.db").await;
    for _ in 0..3 {
        let collected = restored.stock().collect(OrphanLimits::default()).await;
        assert!(collected.unwrap().is_stopped());
        restored.clock.advance(8 * DAY);
    }
    assert_eq!(house.stored_keys(), stored);
    finds(&restored, &since).await;
    // The newer rows find everything where it was.
    finds(&house, &[]).await;
}
