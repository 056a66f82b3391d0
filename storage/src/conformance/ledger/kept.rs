//! Promises about uploads that several requests make, and about those that publish no name.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::upload::{BLOCK, PART, Sent, new_upload, published, target};
use super::{DOOMED_FOR, Rig, START, gone};
use crate::blob::{BlobKey, UploadId};
use crate::clock::Clock as _;
use crate::digest::{Algorithm, ContentHasher, Digest};
use crate::error::{ErrorKind, Result};
use crate::metadata::Ledger;
use crate::metadata::accounts::{AccountId, OrganizationId};
use crate::metadata::uploads::{
    Advance, Fence, Keep, MostOpen, NewUpload, Over, Sender, Target, UploadRow, UploadState,
};
use crate::store::{PartIndex, PartReceipt, Receipt, Receipts, Tail};

fn refused<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind) {
    assert_eq!(result.expect_err("it must be refused").kind(), kind);
}

async fn row(rig: &dyn Rig, id: UploadId) -> UploadRow {
    let row = rig.ledger().upload(id).await.expect("read");
    row.expect("rows of uploads stay")
}

/// An upload of unknown length that outlives its writer.
fn kept(organization: OrganizationId, target: Option<Target>) -> NewUpload {
    NewUpload {
        target,
        keep: Keep::UntilIdle,
        ..new_upload(organization, super::target("web"), None)
    }
}

async fn create(rig: &dyn Rig, new: NewUpload) -> UploadRow {
    rig.ledger().create(new).await.expect("create")
}

/// What was told when an upload was made comes back with its row, however it is read.
pub async fn a_row_keeps_all_that_it_was_made_with(rig: &dyn Rig) {
    let (ledger, org) = (rig.ledger(), rig.add_organization("acme").await);
    let digests = Algorithm::ALL.map(|a| {
        let digest = Digest::try_new(a, vec![7; a.digest_bytes()]);
        digest.expect("as long as it must be")
    });
    let new = NewUpload {
        note: Some("filename d2Vi,\u{e4}".to_owned()),
        expected: digests.to_vec(),
        ..kept(org, None)
    };
    let made = create(rig, new.clone()).await;
    let taken = ledger.take_over(made.id).await.expect("take over");
    let listed = ledger.open_uploads(None, None, 10).await.expect("list");
    for found in [made, taken.expect("it is open"), listed[0].clone()] {
        assert_eq!((&found.note, &found.target), (&new.note, &None));
        assert_eq!(found.expected, new.expected);
        assert_eq!(found.keep, Keep::UntilIdle);
        assert_eq!((found.hash_states.len(), found.published), (0, None));
    }
    let bare = create(rig, new_upload(org, target("web"), None)).await;
    let found = row(rig, bare.id).await;
    assert_eq!((found.keep, found.note), (Keep::No, None));
    assert_eq!(found.expected, []);
}

/// The beginning of a part is a step of its own; the part's values are always all that it has so far.
pub async fn a_part_may_be_committed_piece_by_piece(rig: &dyn Rig) {
    let (ledger, org) = (rig.ledger(), rig.add_organization("acme").await);
    let sent = Sent::create(&ledger, org, target("web"), 7, 2 * PART + 9)
        .await
        .expect("create");
    let id = sent.row.id;
    assert_eq!(ledger.part_values(id, 0).await.expect("read"), None);
    let mut from = 0;
    let cuts = [5, BLOCK, BLOCK + 1, PART, PART + BLOCK + 7, 2 * PART];
    for to in cuts.into_iter().chain([2 * PART + 9]) {
        let part = u32::try_from(from / PART).expect("few parts");
        let first = u64::from(part) * PART / BLOCK;
        let values: Vec<_> = (first..to.div_ceil(BLOCK)).map(|k| sent.value(k)).collect();
        let step = Advance {
            from,
            to,
            part,
            values: values.clone(),
            hash_states: to.to_be_bytes().to_vec(),
            receipt: Receipt::default(),
        };
        ledger.advance(sent.fence(), step).await.expect("a step");
        let row = row(rig, id).await;
        assert_eq!(
            (row.offset, row.hash_states),
            (to, to.to_be_bytes().to_vec())
        );
        let stored = ledger.part_values(id, part).await.expect("read");
        assert_eq!(stored, Some(values));
        from = to;
    }
    let completion = sent.completion();
    let completed = ledger.complete(sent.fence(), Vec::new(), completion).await;
    completed.expect("complete");
    let published = ledger.publish(sent.fence()).await.expect("publish");
    assert_eq!(rig.blob_tree(&published.blob).await, Some(sent.values()));
    assert_eq!(row(rig, id).await.published, Some(published));
    assert_eq!(ledger.part_values(id, 0).await.expect("read"), None);
}

/// What the store gave is told again as long as the upload does not end; a tail goes to the trash in the
/// step that needs it no more.
pub async fn receipts_are_kept_and_old_tails_are_trash(rig: &dyn Rig) {
    let (ledger, org) = (rig.ledger(), rig.add_organization("acme").await);
    let sent = Sent::create(&ledger, org, target("web"), 7, 2 * PART)
        .await
        .expect("create");
    let id = sent.row.id;
    let none = ledger.receipts(id).await.expect("read");
    assert_eq!(none, Receipts::default());
    let tail = |length| Tail {
        key: BlobKey::random(),
        length,
        crc64: u64::MAX - length,
    };
    let (first, second, third) = (tail(5), tail(BLOCK), tail(9));
    let part = PartReceipt {
        etag: "\"etag\"".to_owned(),
        crc64: u64::MAX,
    };
    let begun = |tail| Receipt {
        tail: Some(tail),
        ..Receipt::default()
    };
    let whole = Receipt {
        upload: Some("the store's".to_owned()),
        part: Some(part.clone()),
        tail: None,
    };
    let steps = [
        (0, 5, begun(first)),
        (5, BLOCK - 5, begun(second)),
        (BLOCK, PART, whole),
        (PART, 9, begun(third)),
    ];
    for (from, bytes, receipt) in steps {
        let step = Advance {
            receipt,
            ..sent.piece(from, bytes)
        };
        ledger.advance(sent.fence(), step).await.expect("a step");
    }
    let stale = Advance {
        receipt: begun(tail(1)),
        ..sent.piece(BLOCK, 1)
    };
    refused(ledger.advance(sent.fence(), stale).await, ErrorKind::Fenced);
    // Of parts in two uploads of the store no blob could be made.
    let others = Receipt {
        upload: Some("another node's".to_owned()),
        ..begun(tail(10))
    };
    let mixed = Advance {
        receipt: others,
        ..sent.piece(PART + 9, 1)
    };
    refused(ledger.advance(sent.fence(), mixed).await, ErrorKind::Fenced);
    let kept = Receipts {
        upload: Some("the store's".to_owned()),
        parts: [(PartIndex(0), part)].into(),
        tail: Some(third),
    };
    assert_eq!(ledger.receipts(id).await.expect("read"), kept);
    assert_eq!(due(&ledger).await, BTreeSet::from([first.key, second.key]));
    assert!(ledger.abort(id, None).await.expect("abort"));
    let all = BTreeSet::from([first.key, second.key, third.key, sent.row.key]);
    assert_eq!(due(&ledger).await, all);
    let ended = ledger.receipts(id).await.expect("read");
    assert!(ended.parts.is_empty() && ended.tail.is_none());
}

/// Publishing needs no tail any more.
pub async fn the_tail_of_a_published_upload_is_trash(rig: &dyn Rig) {
    let (ledger, org) = (rig.ledger(), rig.add_organization("acme").await);
    let sent = Sent::create(&ledger, org, target("web"), 7, 5).await;
    let sent = sent.expect("create");
    let key = BlobKey::random();
    let tail = Tail {
        key,
        length: 5,
        crc64: 1,
    };
    let receipt = Receipt {
        tail: Some(tail),
        ..Receipt::default()
    };
    let step = Advance {
        receipt,
        ..sent.step(0)
    };
    ledger.advance(sent.fence(), step).await.expect("a step");
    let completed = ledger
        .complete(sent.fence(), Vec::new(), sent.completion())
        .await;
    completed.expect("complete");
    assert_eq!(
        ledger.receipts(sent.row.id).await.expect("read").tail,
        Some(tail)
    );
    ledger.publish(sent.fence()).await.expect("publish");
    ledger.publish(sent.fence()).await.expect("the same again");
    assert_eq!(due(&ledger).await, BTreeSet::from([key]));
}

async fn due(ledger: &Arc<dyn Ledger>) -> BTreeSet<BlobKey> {
    let due = ledger.due_trash(100).await.expect("what is due");
    due.into_iter().map(|trash| trash.key).collect()
}

/// A step that leaves its part or brings other values than the part has is refused.
pub async fn a_piece_that_leaves_its_part_is_refused(rig: &dyn Rig) {
    let (ledger, org) = (rig.ledger(), rig.add_organization("acme").await);
    let sent = Sent::create(&ledger, org, target("web"), 7, 3 * PART)
        .await
        .expect("create");
    let step = |from, to, part, values| Advance {
        from,
        to,
        part,
        values: (0..values).map(|k| sent.value(k)).collect(),
        hash_states: Vec::new(),
        receipt: Receipt::default(),
    };
    let first = ledger.advance(sent.fence(), step(0, 5, 0, 1)).await;
    first.expect("the beginning");
    for bad in [
        step(5, PART + 1, 0, 3),
        step(5, PART, 0, 1),
        step(5, PART, 0, 3),
        step(5, PART, 1, 2),
        step(5, 5, 0, 1),
    ] {
        refused(ledger.advance(sent.fence(), bad).await, ErrorKind::Invalid);
    }
    let row = row(rig, sent.row.id).await;
    assert_eq!(row.offset, 5);
    let rest = ledger.advance(sent.fence(), step(5, PART, 0, 2)).await;
    rest.expect("the rest");
}

/// Steps over several parts are one change: all of them count, or none does.
pub async fn parts_are_committed_together_or_not_at_all(rig: &dyn Rig) {
    let (ledger, org) = (rig.ledger(), rig.add_organization("acme").await);
    let sent = Sent::create(&ledger, org, target("web"), 7, 3 * PART + 9)
        .await
        .expect("create");
    let (id, fence) = (sent.row.id, sent.fence());
    let all = [0, PART, 2 * PART, 3 * PART].map(|from| sent.step(from));
    let gap = vec![all[0].clone(), all[2].clone()];
    let mut short = all.to_vec();
    short[2].values.pop();
    for bad in [gap, short] {
        refused(ledger.advance_all(fence, bad).await, ErrorKind::Invalid);
    }
    let late = ledger.advance_all(fence, all[1..].to_vec()).await;
    refused(late, ErrorKind::Fenced);
    assert_eq!(row(rig, id).await.offset, 0);
    assert_eq!(ledger.part_values(id, 0).await.expect("read"), None);
    let nothing = ledger.advance_all(fence, Vec::new()).await;
    nothing.expect("no step is fine");
    let together = ledger.advance_all(fence, all.to_vec()).await;
    together.expect("all of them");
    assert_eq!(row(rig, id).await.offset, 3 * PART + 9);
    for step in all {
        let stored = ledger.part_values(id, step.part).await.expect("read");
        assert_eq!(stored, Some(step.values));
    }
}

/// A length is fixed once, while the upload is open, and not below what is there.
pub async fn a_deferred_length_is_fixed_once(rig: &dyn Rig) {
    let (ledger, org) = (rig.ledger(), rig.add_organization("acme").await);
    let made = create(rig, kept(org, Some(target("web")))).await;
    let sent = Sent {
        row: made,
        content: 7,
        length: PART + 5,
    };
    let id = sent.row.id;
    ledger
        .advance(sent.fence(), sent.step(0))
        .await
        .expect("a part");
    let (expected, given) = (PART - 1, PART);
    let kind = ErrorKind::LengthMismatch { expected, given };
    refused(ledger.set_length(id, PART - 1).await, kind);
    for _ in 0..2 {
        let row = ledger.set_length(id, PART + 5).await.expect("fix");
        assert_eq!((row.length, row.epoch), (Some(PART + 5), 1));
    }
    let other = ledger.set_length(id, PART + 6).await;
    refused(other, ErrorKind::Conflict);
    let absent = ledger.set_length(UploadId::random(), 1).await;
    refused(absent, ErrorKind::NotFound);
    ledger
        .advance(sent.fence(), sent.step(PART))
        .await
        .expect("the rest");
    let completed = ledger
        .complete(sent.fence(), Vec::new(), sent.completion())
        .await;
    completed.expect("complete");
    let late = ledger.set_length(id, PART + 5).await;
    refused(late, ErrorKind::Conflict);
    assert!(ledger.abort(id, None).await.expect("abort"));
    refused(ledger.set_length(id, PART + 5).await, ErrorKind::Gone);
}

/// Digests may be declared late, while the upload is open, and never against what was declared before; who wrote
/// until then is replaced.
pub async fn digests_are_declared_while_it_is_open(rig: &dyn Rig) {
    let (ledger, org) = (rig.ledger(), rig.add_organization("acme").await);
    let sent = Sent::create(&ledger, org, target("web"), 7, PART)
        .await
        .expect("create");
    let id = sent.row.id;
    let digest = |algorithm: Algorithm, byte| {
        let digest = Digest::try_new(algorithm, vec![byte; algorithm.digest_bytes()]);
        digest.expect("as long as it must be")
    };
    let (sha256, blake3) = (digest(Algorithm::Sha256, 1), digest(Algorithm::Blake3, 2));
    for epoch in [2, 3] {
        let declared = ledger.declare(id, vec![sha256.clone()]).await;
        let declared = declared.expect("declare");
        assert_eq!(
            (declared.epoch, &*declared.expected),
            (epoch, &[sha256.clone()][..])
        );
    }
    refused(
        ledger.advance(sent.fence(), sent.step(0)).await,
        ErrorKind::Fenced,
    );
    let other = ledger.declare(id, vec![digest(Algorithm::Sha256, 3)]).await;
    refused(other, ErrorKind::Conflict);
    let declared = ledger.declare(id, vec![blake3.clone()]).await;
    assert_eq!(
        declared.expect("one more").expected,
        [sha256, blake3.clone()]
    );
    assert_eq!(row(rig, id).await.epoch, 4);
    let absent = ledger
        .declare(UploadId::random(), vec![blake3.clone()])
        .await;
    refused(absent, ErrorKind::NotFound);
    assert!(ledger.abort(id, None).await.expect("abort"));
    refused(ledger.declare(id, vec![blake3]).await, ErrorKind::Gone);
}

/// What is committed decides which digests may still be declared: an algorithm that did not run over it cannot begin.
pub async fn a_digest_is_declared_before_the_bytes_that_it_is_of(rig: &dyn Rig) {
    let (ledger, org) = (rig.ledger(), rig.add_organization("acme").await);
    let digest = |algorithm: Algorithm| {
        let digest = Digest::try_new(algorithm, vec![1; algorithm.digest_bytes()]);
        digest.expect("as long as it must be")
    };
    let declare = async |id, algorithm| ledger.declare(id, vec![digest(algorithm)]).await;
    for (deferred, content) in [(true, 7), (false, 8)] {
        let sent = Sent::create(&ledger, org, target("web"), content, 2 * PART)
            .await
            .expect("create");
        let id = sent.row.id;
        let hashers = if deferred {
            ContentHasher::deferring([])
        } else {
            ContentHasher::new([])
        };
        let step = Advance {
            hash_states: hashers.states(),
            ..sent.step(0)
        };
        ledger.advance(sent.fence(), step).await.expect("a part");
        refused(declare(id, Algorithm::Md5).await, ErrorKind::Invalid);
        let late = declare(id, Algorithm::Sha256).await;
        if deferred {
            refused(late, ErrorKind::Invalid);
            // Nobody is replaced for it.
            assert_eq!(row(rig, id).await.epoch, sent.row.epoch);
        } else {
            late.expect("it runs");
        }
        declare(id, Algorithm::Blake3)
            .await
            .expect("it always runs");
    }
}

/// Whoever was replaced ends nothing; lost bytes are trash, and their upload takes nothing more.
pub async fn an_upload_ends_only_at_its_own_epoch(rig: &dyn Rig) {
    let (ledger, org) = (rig.ledger(), rig.add_organization("acme").await);
    let sent = Sent::create(&ledger, org, target("web"), 7, 2 * PART)
        .await
        .expect("create");
    let id = sent.row.id;
    ledger
        .advance(sent.fence(), sent.step(0))
        .await
        .expect("a part");
    ledger.take_over(id).await.expect("take over");
    assert!(!ledger.abort(id, Some(1)).await.expect("abort"));
    refused(ledger.lose(sent.fence()).await, ErrorKind::Fenced);
    assert_eq!(row(rig, id).await.state, UploadState::Open);
    assert!(ledger.due_trash(10).await.expect("trash").is_empty());
    let fence = Fence { id, epoch: 2 };
    ledger.lose(fence).await.expect("lose");
    refused(ledger.lose(fence).await, ErrorKind::Fenced);
    assert!(!ledger.abort(id, None).await.expect("abort"));
    let ended = row(rig, id).await;
    assert_eq!((ended.state, ended.epoch), (UploadState::Lost, 3));
    let next = Sent {
        row: ended,
        ..sent.clone()
    };
    let late = ledger.advance(next.fence(), sent.step(PART)).await;
    refused(late, ErrorKind::Fenced);
    let trash = ledger.due_trash(10).await.expect("trash");
    assert_eq!(trash[0].key, sent.row.key);

    let other = Sent::create(&ledger, org, target("web"), 8, PART)
        .await
        .expect("create");
    assert!(ledger.abort(other.row.id, Some(1)).await.expect("abort"));
}

/// Kept uploads are counted while they are open, for one account and for one organization.
pub async fn only_so_many_kept_uploads_are_open_at_once(rig: &dyn Rig) {
    let ledger = rig.ledger();
    let (ours, theirs) = (
        rig.add_organization("acme").await,
        rig.add_organization("globex").await,
    );
    let of = |account, organization| NewUpload {
        sender: Sender::person(AccountId(account)),
        ..kept(organization, None)
    };
    let first = create(rig, of(1, ours)).await;
    // A person's service accounts count with the person.
    let key = NewUpload {
        sender: key_of(AccountId(1), "ann-1"),
        ..of(1, theirs)
    };
    create(rig, key).await;
    let limit = 2;
    let third = ledger.create(of(1, ours)).await;
    refused(third, ErrorKind::TooMany { limit });
    create(rig, new_upload(ours, target("web"), None)).await;
    create(rig, of(2, ours)).await;
    create(rig, of(2, ours)).await;
    let limit = 3;
    let fourth = ledger.create(of(3, ours)).await;
    refused(fourth, ErrorKind::TooMany { limit });
    assert!(ledger.abort(first.id, None).await.expect("abort"));
    create(rig, of(1, ours)).await;
}

/// The service account of that name.
fn key_of(account: AccountId, name: &str) -> Sender {
    Sender {
        account,
        service: Some(name.to_owned()),
    }
}

/// A sender's uploads to a name are found as the name is, newest first: the open ones, and those that it
/// finished lately.
pub async fn the_uploads_of_a_sender_to_a_name_are_found(rig: &dyn Rig) {
    let ledger = rig.ledger();
    let (ours, theirs) = (
        rig.add_organization("acme").await,
        rig.add_organization("globex").await,
    );
    let find = async |account, organization, target: &Target| {
        let sender = Sender::person(AccountId(account));
        let found = ledger.uploads_to(&sender, organization, target, START);
        let found = found.await.expect("find");
        found.iter().map(|row| row.id).collect::<Vec<_>>()
    };
    let older = create(rig, kept(ours, Some(target("web")))).await;
    rig.clock().advance(Duration::from_secs(1));
    let newer = create(rig, kept(ours, Some(target("web")))).await;
    rig.clock().advance(Duration::from_secs(1));
    create(rig, new_upload(ours, target("web"), None)).await;
    let tag = Target {
        version: "v1.0".to_owned(),
        ..target("WEB")
    };
    assert_eq!(find(1, ours, &tag).await, [newer.id, older.id]);
    assert_eq!(find(2, ours, &tag).await, []);
    assert_eq!(find(1, theirs, &tag).await, []);
    assert_eq!(find(1, ours, &target("other")).await, []);
    assert!(ledger.abort(newer.id, None).await.expect("abort"));
    assert_eq!(find(1, ours, &tag).await, [older.id]);
    let bad = target("a/b");
    let ann = Sender::person(AccountId(1));
    let found = ledger.uploads_to(&ann, ours, &bad, START);
    refused(found.await, ErrorKind::Invalid);

    let sent = Sent {
        row: older,
        content: 3,
        length: BLOCK,
    };
    sent.complete(&ledger).await.expect("complete");
    ledger.publish(sent.fence()).await.expect("publish");
    assert_eq!(find(1, ours, &tag).await, [sent.row.id]);
    let later = rig.clock().now().plus(Duration::from_millis(1));
    let since = ledger.uploads_to(&ann, ours, &tag, later);
    assert!(since.await.expect("find").is_empty());

    let bad = ledger.create(kept(ours, Some(target("a/b")))).await;
    refused(bad, ErrorKind::Invalid);
}

/// An upload replaces what its sender left open under its name and with its note before it; what is whole there only
/// once it is published itself.
pub async fn an_upload_replaces_what_its_sender_left_before_it(rig: &dyn Rig) {
    let (ledger, org) = (rig.ledger(), rig.add_organization("acme").await);
    let noted = |note: &str| NewUpload {
        note: Some(note.to_owned()),
        most_open: MostOpen {
            per_account: 9,
            per_organization: 9,
        },
        ..kept(org, Some(target("web")))
    };
    let replaced = async |id| {
        let rows = ledger.replaced_by(id).await.expect("find");
        rows.iter().map(|row| row.id).collect::<Vec<_>>()
    };
    let whole = Sent {
        row: create(rig, noted("a")).await,
        content: 3,
        length: BLOCK,
    };
    whole.complete(&ledger).await.expect("complete");
    rig.clock().advance(Duration::from_secs(1));
    // One that has a block of its two.
    let begun = async |content| {
        let sent = Sent {
            row: create(rig, noted("a")).await,
            content,
            length: 2 * BLOCK,
        };
        let step = sent.piece(0, BLOCK);
        ledger.advance(sent.fence(), step).await.expect("advance");
        sent.row.id
    };
    let open = begun(5).await;
    let others = [
        noted("b"),
        NewUpload {
            note: None,
            ..noted("a")
        },
        NewUpload {
            target: Some(target("other")),
            ..noted("a")
        },
        NewUpload {
            sender: key_of(AccountId(1), "ann-1"),
            ..noted("a")
        },
        NewUpload {
            keep: Keep::No,
            ..noted("a")
        },
    ];
    for other in others {
        create(rig, other).await;
    }
    assert_eq!(replaced(open).await, []);
    rig.clock().advance(Duration::from_secs(1));
    let newer = Sent {
        row: create(rig, noted("a")).await,
        content: 4,
        length: BLOCK,
    };
    rig.clock().advance(Duration::from_secs(1));
    let last = begun(6).await;
    let id = newer.row.id;
    assert_eq!(replaced(id).await, [], "it has no byte of its own");
    newer.send(&ledger).await.expect("send");
    assert_eq!(replaced(id).await, [open]);
    assert_eq!(replaced(last).await, [id, open]);
    assert!(ledger.abort(last, None).await.expect("abort"));
    assert_eq!(replaced(last).await, []);
    let completed = ledger.complete(newer.fence(), Vec::new(), newer.completion());
    completed.await.expect("complete");
    assert_eq!(replaced(id).await, [open]);
    ledger.publish(newer.fence()).await.expect("publish");
    assert_eq!(replaced(id).await, [open, whole.row.id]);
    let nameless = NewUpload {
        target: None,
        ..noted("a")
    };
    let nameless = create(rig, nameless).await.id;
    assert_eq!(replaced(nameless).await, []);
    assert_eq!(replaced(UploadId::random()).await, []);
}

/// A person and each service account of theirs are senders of their own.
pub async fn service_accounts_do_not_share_uploads(rig: &dyn Rig) {
    let ledger = rig.ledger();
    let org = rig.add_organization("acme").await;
    let ann = AccountId(1);
    let senders = [
        Sender::person(ann),
        key_of(ann, "ann-1"),
        key_of(ann, "ann-2"),
    ];
    let web = target("web");
    let mut made = Vec::new();
    for sender in &senders {
        let new = NewUpload {
            sender: sender.clone(),
            most_open: MostOpen {
                per_account: 3,
                per_organization: 3,
            },
            ..kept(org, Some(web.clone()))
        };
        let row = create(rig, new).await;
        assert_eq!(&row.sender, sender);
        made.push(row.id);
    }
    for (sender, id) in senders.iter().zip(made) {
        let found = ledger.uploads_to(sender, org, &web, START).await;
        let found: Vec<_> = found.expect("find").iter().map(|row| row.id).collect();
        assert_eq!(found, [id], "{sender:?}");
    }
}

/// Pages of open uploads give each once, of all organizations or of one.
pub async fn open_uploads_are_paged(rig: &dyn Rig) {
    let ledger = rig.ledger();
    let (ours, theirs) = (
        rig.add_organization("acme").await,
        rig.add_organization("globex").await,
    );
    let mut all = Vec::new();
    for number in 0..7 {
        let organization = if number < 4 { ours } else { theirs };
        let made = create(rig, new_upload(organization, target("web"), None)).await;
        all.push((organization, made.id));
    }
    let ended = create(rig, new_upload(ours, target("web"), None)).await;
    assert!(ledger.abort(ended.id, None).await.expect("abort"));
    for wanted in [None, Some(ours), Some(theirs)] {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = ledger.open_uploads(wanted, after, 2).await.expect("a page");
            assert!(page.len() <= 2);
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            found.extend(page.iter().map(|row| row.id));
        }
        let expected = all.iter().filter(|(o, _)| wanted.is_none_or(|w| w == *o));
        let mut expected: Vec<_> = expected.map(|(_, id)| *id).collect();
        expected.sort();
        assert_eq!(found, expected);
    }
}

/// What is over is told by its own reason, the oldest first.
pub async fn what_is_over_is_told_by_its_reason(rig: &dyn Rig) {
    let (ledger, org) = (rig.ledger(), rig.add_organization("acme").await);
    let at = |seconds| START.plus(Duration::from_secs(seconds));
    let unkept = create(rig, new_upload(org, target("web"), None)).await.id;
    rig.clock().advance(Duration::from_secs(10));
    let kept_id = create(rig, kept(org, None)).await.id;
    rig.clock().advance(Duration::from_secs(10));
    let held = Sent {
        row: create(rig, kept(org, None)).await,
        content: 7,
        length: BLOCK,
    };
    held.complete(&ledger).await.expect("complete");
    ledger.publish(held.fence()).await.expect("publish");
    let done = published(rig, org, target("web"), 8).await.0.row.id;
    let never = Over {
        unkept: at(0).minus(Duration::from_secs(1)),
        idle: at(0),
        made: at(0).minus(Duration::from_secs(1)),
        untargeted: at(0),
        quarantined: at(0),
    };
    let told = async |over, limit| {
        let rows = ledger.over(over, limit).await.expect("over");
        rows.iter().map(|row| row.id).collect::<Vec<_>>()
    };
    assert_eq!(told(never, 10).await, []);
    let over = Over {
        unkept: at(0),
        ..never
    };
    assert_eq!(told(over, 10).await, [unkept]);
    let over = Over {
        idle: at(10),
        ..never
    };
    assert_eq!(told(over, 10).await, [kept_id]);
    let over = Over {
        made: at(10),
        ..never
    };
    assert_eq!(told(over, 10).await, [unkept, kept_id]);
    let over = Over {
        made: at(10),
        untargeted: at(20),
        ..never
    };
    assert_eq!(told(over, 10).await, [unkept, kept_id, held.row.id]);
    assert_eq!(told(over, 1).await, [unkept]);
    assert_eq!(row(rig, done).await.state, UploadState::Done);
    // Bytes that arrive keep an upload from being idle, and a request that only asks does not.
    let busy = Sent {
        row: row(rig, kept_id).await,
        content: 9,
        length: BLOCK,
    };
    ledger
        .advance(busy.fence(), busy.step(0))
        .await
        .expect("a part");
    ledger.take_over(unkept).await.expect("take over");
    let over = Over {
        unkept: at(19),
        idle: at(19),
        ..never
    };
    assert_eq!(told(over, 10).await, [unkept]);
}

/// A finished upload without a target holds its blob until it is released, and nothing tells of it.
pub async fn an_upload_without_a_target_holds_its_blob(rig: &dyn Rig) {
    let (ledger, org) = (rig.ledger(), rig.add_organization("acme").await);
    let mut held = Vec::new();
    for _ in 0..2 {
        let sent = Sent {
            row: create(rig, kept(org, None)).await,
            content: 7,
            length: 3 * BLOCK,
        };
        sent.complete(&ledger).await.expect("complete");
        let published = ledger.publish(sent.fence()).await.expect("publish");
        let again = ledger.publish(sent.fence()).await.expect("once more");
        assert_eq!((published.file, published.replaced), (None, false));
        assert_eq!(published, again);
        let row = row(rig, sent.row.id).await;
        assert_eq!((row.state, row.published), (UploadState::Done, Some(again)));
        held.push((sent, published.blob));
    }
    assert_eq!(held[0].1, held[1].1, "equal bytes are kept once");
    let tree = rig.blob_tree(&held[0].1).await;
    assert_eq!(tree, Some(held[0].0.values()));
    assert!(rig.events().await.is_empty());
    // A name that held the same bytes may go.
    let (_, named) = published(rig, org, target("web"), 7).await;
    assert_eq!(named.blob, held[0].1);
    assert!(rig.delete_file(org, &target("web")).await);
    let trash = ledger.due_trash(10).await.expect("trash");
    let copies = [held[1].0.row.key];
    assert!(trash.iter().any(|t| copies.contains(&t.key)));
    for trash in trash {
        assert_ne!(trash.key, held[0].1.key);
        ledger.forget(&trash).await.expect("forget");
    }
    for (sent, _) in &held {
        rig.clock().advance(2 * DOOMED_FOR);
        assert!(ledger.due_trash(10).await.expect("trash").is_empty());
        let id = sent.row.id;
        assert!(!ledger.abort(id, None).await.expect("abort"), "it is done");
        assert!(!ledger.close(id).await.expect("close"), "it holds its blob");
        assert!(ledger.release(id).await.expect("release"));
        assert!(!ledger.release(id).await.expect("release"), "only once");
        assert!(!ledger.close(id).await.expect("close"), "it ended");
        assert_eq!(row(rig, id).await.state, UploadState::Aborted);
    }
    rig.clock().advance(DOOMED_FOR);
    let trash = ledger.due_trash(10).await.expect("trash");
    assert_eq!(trash.len(), 1);
    assert_eq!(trash[0].key, held[0].1.key);
    let done = published(rig, org, target("web"), 8).await.0.row.id;
    assert!(
        !ledger.release(done).await.expect("release"),
        "a name has it"
    );
    assert!(ledger.close(done).await.expect("close"));
    assert!(!ledger.close(done).await.expect("close"), "only once");
    assert_eq!(row(rig, done).await.state, UploadState::Aborted);
    assert!(rig.file(org, &target("web")).await.is_some(), "it stays");
}

/// A blob that an upload holds is healed by equal bytes, and goes with its organization.
pub async fn a_blob_that_an_upload_holds_is_healed_and_goes_with_its_tenant(rig: &dyn Rig) {
    let (ledger, org) = (rig.ledger(), rig.add_organization("acme").await);
    let sent = Sent {
        row: create(rig, kept(org, None)).await,
        content: 7,
        length: 3 * BLOCK,
    };
    sent.complete(&ledger).await.expect("complete");
    let bad = ledger.publish(sent.fence()).await.expect("publish").blob;
    rig.quarantine(&bad.key).await;
    let (_, good) = published(rig, org, target("web"), 7).await;
    assert_ne!(good.blob.key, bad.key);
    let told = row(rig, sent.row.id).await.published.expect("it is done");
    assert_eq!(told.blob, good.blob);
    let due = async || {
        let trash = ledger.due_trash(10).await.expect("trash");
        trash.iter().map(|t| t.key).collect::<Vec<_>>()
    };
    rig.clock().advance(DOOMED_FOR);
    assert_eq!(due().await, [bad.key]);
    ledger.forget(&gone(bad.key)).await.expect("forget");
    assert!(rig.delete_file(org, &target("web")).await);
    rig.clock().advance(DOOMED_FOR);
    assert!(due().await.is_empty(), "the upload holds it");
    rig.remove_organization(org).await;
    assert_eq!(row(rig, sent.row.id).await.state, UploadState::Aborted);
    rig.clock().advance(DOOMED_FOR);
    assert_eq!(due().await, [good.blob.key]);
}
