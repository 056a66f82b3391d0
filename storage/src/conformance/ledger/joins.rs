//! Promises about uploads that are joined of others.

use super::upload::{BLOCK, Sent, new_upload, published, target};
use super::{DOOMED_FOR, Rig, START, gone};
use crate::blob::{BlobKey, UploadId};
use crate::error::{ErrorKind, Result};
use crate::metadata::accounts::{AccountId, OrganizationId};
use crate::metadata::uploads::{Keep, MostOpen, NewUpload, Over, Sender, UploadRow, UploadState};

const LENGTH: u64 = 3 * BLOCK;

fn refused<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind, of: UploadId) {
    let error = result.expect_err("it must be refused");
    assert_eq!(error.kind(), kind);
    assert_eq!(error.subject(), of.to_string(), "it tells which one");
}

fn kept(organization: OrganizationId, joins: &[UploadId]) -> NewUpload {
    NewUpload {
        keep: Keep::UntilIdle,
        target: None,
        joins: joins.to_vec(),
        most_open: MostOpen {
            per_account: 100,
            per_organization: 100,
        },
        ..new_upload(organization, target("web"), None)
    }
}

async fn create(rig: &dyn Rig, new: NewUpload) -> UploadRow {
    rig.ledger().create(new).await.expect("create")
}

/// What is asked for once more, in the same words and of the same uploads, is what was asked for first, until
/// it is joined or given up.
pub async fn a_join_that_is_asked_for_again_is_the_same(rig: &dyn Rig) {
    let ours = rig.add_organization("acme").await;
    let (a, b) = (source(rig, ours, 1).await, source(rig, ours, 2).await);
    let list = [a.row.id, b.row.id];
    let noted = |joins: &[UploadId], note: &str| NewUpload {
        note: Some(note.to_owned()),
        ..kept(ours, joins)
    };
    let first = create(rig, noted(&list, "x")).await.id;
    assert_eq!(create(rig, noted(&list, "x")).await.id, first);
    let others = [
        noted(&list, "y"),
        noted(&[b.row.id, a.row.id], "x"),
        noted(&[a.row.id], "x"),
        kept(ours, &list),
        kept(ours, &list),
        NewUpload {
            target: Some(target("web")),
            ..noted(&list, "x")
        },
    ];
    let mut made = vec![first];
    for other in others {
        made.push(create(rig, other).await.id);
    }
    made.sort();
    made.dedup();
    assert_eq!(made.len(), 7, "each of these is another");
    assert!(rig.ledger().abort(first, None).await.expect("abort"));
    assert_ne!(create(rig, noted(&list, "x")).await.id, first);
}

async fn source(rig: &dyn Rig, organization: OrganizationId, content: u8) -> Sent {
    Sent {
        row: create(rig, kept(organization, &[])).await,
        content,
        length: LENGTH,
    }
}

async fn finish(rig: &dyn Rig, sent: &Sent) -> BlobKey {
    let ledger = rig.ledger();
    sent.complete(&ledger).await.expect("complete");
    let published = ledger.publish(sent.fence()).await.expect("publish");
    published.blob.key
}

async fn state(rig: &dyn Rig, id: UploadId) -> UploadState {
    let row = rig.ledger().upload(id).await.expect("read");
    row.expect("rows of uploads stay").state
}

async fn joinable(rig: &dyn Rig) -> Vec<UploadId> {
    rig.ledger().joinable(None, 10).await.expect("joinable")
}

/// Bytes that are due once a blob without a reference may go.
async fn due(rig: &dyn Rig) -> Vec<BlobKey> {
    rig.clock().advance(2 * DOOMED_FOR);
    let due = rig.ledger().due_trash(100).await.expect("trash");
    due.into_iter().map(|trash| trash.key).collect()
}

/// An upload can be joined once all its sources are whole, whether they were before it or became so
/// later; a source may stand in it twice, and in several.
pub async fn an_upload_can_be_joined_once_its_sources_are_whole(rig: &dyn Rig) {
    let (ledger, org) = (rig.ledger(), rig.add_organization("acme").await);
    let (first, second) = (source(rig, org, 1).await, source(rig, org, 2).await);
    let first_blob = finish(rig, &first).await;
    let [a, b] = [first.row.id, second.row.id];
    let waiting = create(rig, kept(org, &[a, b, a])).await;
    assert_eq!((waiting.joins, waiting.offset), (3, 0));
    let ready = create(rig, kept(org, &[a])).await;
    let also = create(rig, kept(org, &[b])).await;
    assert_eq!(joinable(rig).await, [ready.id]);

    let sources = ledger.sources(waiting.id).await.expect("sources");
    assert_eq!(sources.iter().map(|s| s.id).collect::<Vec<_>>(), [a, b, a]);
    let held = |n: usize| sources[n].blob.as_ref().map(|(blob, _)| blob.key);
    assert_eq!(
        (held(0), held(1), held(2)),
        (Some(first_blob), None, Some(first_blob))
    );
    assert_eq!((sources[0].length, sources[1].length), (Some(LENGTH), None));
    ledger.set_length(b, LENGTH).await.expect("a length");
    let sources = ledger.sources(waiting.id).await.expect("sources");
    assert_eq!(sources[1].length, Some(LENGTH));

    let second_blob = finish(rig, &second).await;
    let mut expected = [waiting.id, ready.id, also.id];
    expected.sort();
    assert_eq!(joinable(rig).await, expected);
    assert_eq!(
        ledger.joinable(Some(expected[0]), 1).await.expect("a page"),
        [expected[1]]
    );
    let sources = ledger.sources(waiting.id).await.expect("sources");
    let (blob, store) = sources[1].blob.clone().expect("it is whole");
    assert_eq!(
        (blob.key, blob.length, store.as_str()),
        (second_blob, LENGTH, "main")
    );
    assert_eq!(ledger.sources(a).await.expect("sources"), []);
    // Whoever asks for it once more finds it by its name.
    let web = target("web");
    let named = NewUpload {
        target: Some(web.clone()),
        ..kept(org, &[a])
    };
    let named = create(rig, named).await;
    let found = ledger
        .uploads_to(&Sender::person(AccountId(1)), org, &web, START)
        .await;
    let found: Vec<_> = found.expect("found").iter().map(|row| row.id).collect();
    assert_eq!(found, [named.id]);
}

/// What an upload is joined of stays until it is joined, whatever becomes of the sources, and goes then.
pub async fn what_an_upload_is_joined_of_stays_until_then(rig: &dyn Rig) {
    let (ledger, org) = (rig.ledger(), rig.add_organization("acme").await);
    let (first, second) = (source(rig, org, 1).await, source(rig, org, 2).await);
    let first_blob = finish(rig, &first).await;
    let [a, b] = [first.row.id, second.row.id];
    let joined = Sent {
        row: create(rig, kept(org, &[a, b, a])).await,
        content: 3,
        length: LENGTH,
    };
    let second_blob = finish(rig, &second).await;
    assert!(ledger.release(a).await.expect("release"));
    assert!(ledger.release(b).await.expect("release"));
    assert_eq!(due(rig).await, []);
    assert_eq!(joinable(rig).await, [joined.row.id]);

    // A damaged one is replaced by equal bytes that come in again.
    rig.quarantine(&second_blob).await;
    let healed = finish(rig, &source(rig, org, 2).await).await;
    assert_ne!(healed, second_blob);
    let sources = ledger.sources(joined.row.id).await.expect("sources");
    assert_eq!(sources[1].blob.as_ref().map(|(b, _)| b.key), Some(healed));
    assert_eq!(due(rig).await, [second_blob]);
    ledger.forget(&gone(second_blob)).await.expect("forget");

    finish(rig, &joined).await;
    assert_eq!(ledger.sources(joined.row.id).await.expect("sources"), []);
    assert_eq!(joinable(rig).await, []);
    assert_eq!(
        due(rig).await,
        [first_blob],
        "the other is held by its upload"
    );
}

/// An upload ends with a source that is given up before it is whole, and lets go of the others.
pub async fn an_upload_ends_with_what_it_waits_for(rig: &dyn Rig) {
    let (ledger, org) = (rig.ledger(), rig.add_organization("acme").await);
    let whole = source(rig, org, 1).await;
    let blob = finish(rig, &whole).await;
    for way in 0..3 {
        let open = source(rig, org, 2).await;
        let waiting = create(rig, kept(org, &[whole.row.id, open.row.id, open.row.id])).await;
        let other = create(rig, kept(org, &[open.row.id])).await;
        match way {
            0 => assert!(ledger.abort(open.row.id, None).await.expect("abort")),
            1 => ledger.lose(open.fence()).await.expect("lose"),
            _ => assert!(ledger.abort_by(open.row.id, "ann").await.expect("abort")),
        }
        for id in [waiting.id, other.id] {
            assert_eq!(state(rig, id).await, UploadState::Aborted, "{way}");
            assert_eq!(ledger.sources(id).await.expect("sources"), []);
        }
        let trash = due(rig).await;
        for key in [open.row.key, waiting.key, other.key] {
            assert!(trash.contains(&key), "{way}");
            ledger.forget(&gone(key)).await.expect("forget");
        }
        assert!(!trash.contains(&blob));
    }
    // One that is whole goes, and those that hold its blob stay.
    let ready = create(rig, kept(org, &[whole.row.id])).await;
    assert!(ledger.release(whole.row.id).await.expect("release"));
    assert_eq!(joinable(rig).await, [ready.id]);
    assert_eq!(due(rig).await, []);
    assert!(ledger.abort(ready.id, None).await.expect("abort"));
    assert!(due(rig).await.contains(&blob));
}

/// What cannot be joined is refused by its id, and nothing is made or held.
pub async fn what_cannot_be_joined_is_refused(rig: &dyn Rig) {
    let (ledger, org) = (rig.ledger(), rig.add_organization("acme").await);
    let good = source(rig, org, 1).await;
    let good_blob = finish(rig, &good).await;
    let refuses = async |bad: UploadId, kind: ErrorKind| {
        let new = kept(org, &[good.row.id, bad]);
        let id = new.id;
        refused(ledger.create(new).await, kind, bad);
        assert!(ledger.upload(id).await.expect("read").is_none());
    };
    refuses(UploadId::random(), ErrorKind::NotFound).await;
    let service = |name: &str| Sender {
        service: Some(name.to_owned()),
        ..Sender::person(AccountId(1))
    };
    for sender in [Sender::person(AccountId(2)), service("ann-1")] {
        let foreign = NewUpload {
            sender,
            ..kept(org, &[])
        };
        let foreign = create(rig, foreign).await.id;
        refuses(foreign, ErrorKind::NotFound).await;
    }
    let (named, _) = published(rig, org, target("web"), 7).await;
    refuses(named.row.id, ErrorKind::Invalid).await;
    let joined = create(rig, kept(org, &[good.row.id])).await;
    refuses(joined.id, ErrorKind::Invalid).await;
    ledger.abort(joined.id, None).await.expect("abort");
    let aborted = source(rig, org, 2).await.row.id;
    ledger.abort(aborted, None).await.expect("abort");
    refuses(aborted, ErrorKind::Gone).await;
    let released = source(rig, org, 3).await;
    finish(rig, &released).await;
    ledger.release(released.row.id).await.expect("release");
    refuses(released.row.id, ErrorKind::Gone).await;
    let damaged = source(rig, org, 4).await;
    rig.quarantine(&finish(rig, &damaged).await).await;
    refuses(damaged.row.id, ErrorKind::Damaged).await;
    assert!(ledger.release(good.row.id).await.expect("release"));
    assert!(due(rig).await.contains(&good_blob), "nothing was held");
}

/// An upload that waits for its sources is not idle, but does not wait for ever.
pub async fn an_upload_that_waits_for_others_is_not_idle(rig: &dyn Rig) {
    let (ledger, org) = (rig.ledger(), rig.add_organization("acme").await);
    let open = source(rig, org, 1).await;
    let waiting = create(rig, kept(org, &[open.row.id])).await;
    let before = START.minus(DOOMED_FOR);
    let over = Over {
        unkept: START,
        idle: START,
        made: before,
        untargeted: before,
        quarantined: before,
    };
    let told = async |over| {
        let rows = ledger.over(over, 10).await.expect("over");
        rows.iter().map(|row| row.id).collect::<Vec<_>>()
    };
    assert_eq!(told(over).await, [open.row.id]);
    let mut both = [open.row.id, waiting.id];
    both.sort();
    assert_eq!(
        told(Over {
            made: START,
            ..over
        })
        .await,
        both
    );
}
