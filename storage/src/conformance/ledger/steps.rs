//! Promises about one upload: its steps, their order, their fences.

use std::time::Duration;

use super::upload::{BLOCK, PART, Sent, new_upload, published, target};
use super::{Rig, START, gone};
use crate::blob::UploadId;
use crate::digest::Blake3;
use crate::error::{ErrorKind, Result};
use crate::metadata::uploads::{Advance, Completion, Fence, NewUpload, UploadRow, UploadState};

async fn row(rig: &dyn Rig, id: UploadId) -> UploadRow {
    rig.ledger()
        .upload(id)
        .await
        .expect("read")
        .expect("the row is there")
}

fn refused<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind) {
    assert_eq!(result.expect_err("it must be refused").kind(), kind);
}

/// A new upload is open at 0 with epoch 1, found by its id, and neither id nor key is given twice.
pub async fn a_new_upload_is_open_at_zero(rig: &dyn Rig) {
    let (ledger, org) = (rig.ledger(), rig.add_organization("acme").await);
    let sent = Sent::create(&ledger, org, target("web"), 7, 5 * BLOCK)
        .await
        .expect("create");
    let row = row(rig, sent.row.id).await;
    assert_eq!(
        (row.epoch, row.offset, row.state),
        (1, 0, UploadState::Open)
    );
    assert_eq!((row.length, row.part_bytes), (Some(5 * BLOCK), PART));
    assert_eq!((row.created, row.updated), (START, START));
    assert_eq!(
        (row.organization, row.target, row.digests),
        (org, Some(target("web")), None)
    );
    assert_eq!((row.key, row.store.as_str()), (sent.row.key, "main"));
    assert!(
        ledger
            .upload(UploadId::random())
            .await
            .expect("read")
            .is_none()
    );

    let other = new_upload(org, target("web"), None);
    let same_id = NewUpload {
        id: row.id,
        ..other.clone()
    };
    refused(ledger.create(same_id).await, ErrorKind::Conflict);
    let same_key = NewUpload {
        key: row.key,
        ..other
    };
    refused(ledger.create(same_key).await, ErrorKind::Conflict);
}

/// The offset moves by whole parts, from where it is, never past the declared length.
pub async fn the_offset_moves_only_forward_and_in_order(rig: &dyn Rig) {
    let (ledger, org) = (rig.ledger(), rig.add_organization("acme").await);
    let sent = Sent::create(&ledger, org, target("web"), 7, 4 * BLOCK)
        .await
        .expect("create");
    ledger
        .advance(sent.fence(), sent.step(0))
        .await
        .expect("the first part");
    refused(
        ledger.advance(sent.fence(), sent.step(0)).await,
        ErrorKind::Fenced,
    );
    let longer = Sent {
        length: 6 * BLOCK,
        ..sent.clone()
    };
    refused(
        ledger.advance(sent.fence(), longer.step(2 * PART)).await,
        ErrorKind::Fenced,
    );
    rig.clock().advance(Duration::from_secs(1));
    ledger
        .advance(sent.fence(), sent.step(PART))
        .await
        .expect("the second part");
    // From where it is, but past the declared length.
    refused(
        ledger.advance(sent.fence(), longer.step(2 * PART)).await,
        ErrorKind::Fenced,
    );
    let row = row(rig, sent.row.id).await;
    assert_eq!(
        (row.offset, row.updated),
        (2 * PART, START.plus(Duration::from_secs(1)))
    );
}

/// A step that is no part of any upload is refused and changes nothing.
pub async fn a_step_that_fits_no_part_is_refused(rig: &dyn Rig) {
    let (ledger, org) = (rig.ledger(), rig.add_organization("acme").await);
    let sent = Sent::create(&ledger, org, target("web"), 7, 5 * BLOCK)
        .await
        .expect("create");
    let good = sent.step(0);
    for bad in [
        Advance {
            part: 1,
            ..good.clone()
        },
        Advance {
            to: 0,
            values: Vec::new(),
            ..good.clone()
        },
        Advance {
            to: 3 * BLOCK,
            values: sent.values()[..3].to_vec(),
            ..good.clone()
        },
        Advance {
            values: good.values[..1].to_vec(),
            ..good.clone()
        },
    ] {
        refused(ledger.advance(sent.fence(), bad).await, ErrorKind::Invalid);
    }
    assert_eq!(row(rig, sent.row.id).await.offset, 0);
    ledger
        .advance(sent.fence(), good)
        .await
        .expect("the upload takes a good step still");
}

/// Once another writer took over, the older one changes nothing any more.
pub async fn a_stale_epoch_changes_nothing(rig: &dyn Rig) {
    let (ledger, org) = (rig.ledger(), rig.add_organization("acme").await);
    let sent = Sent::create(&ledger, org, target("web"), 7, 2 * BLOCK)
        .await
        .expect("create");
    let taken = ledger
        .take_over(sent.row.id)
        .await
        .expect("take over")
        .expect("the row is there");
    assert_eq!((taken.epoch, taken.state), (2, UploadState::Open));
    let old = sent.fence();
    let new = Sent {
        row: taken,
        ..sent.clone()
    };
    refused(ledger.advance(old, sent.step(0)).await, ErrorKind::Fenced);
    new.send(&ledger).await.expect("the newer writer goes on");
    refused(
        ledger.complete(old, Vec::new(), sent.completion()).await,
        ErrorKind::Fenced,
    );
    ledger
        .complete(new.fence(), Vec::new(), new.completion())
        .await
        .expect("complete");
    refused(ledger.publish(old).await, ErrorKind::Fenced);
    let row = row(rig, sent.row.id).await;
    assert_eq!((row.epoch, row.state), (2, UploadState::Completing));
    let told = ledger.take_over(sent.row.id).await.expect("take over");
    let told = told.expect("the row is there");
    assert_eq!(
        (told.epoch, told.state),
        (2, UploadState::Completing),
        "only an open one is taken over"
    );
    ledger.publish(new.fence()).await.expect("publish");
    refused(ledger.publish(old).await, ErrorKind::Fenced);
    assert!(
        ledger
            .take_over(UploadId::random())
            .await
            .expect("take over")
            .is_none()
    );
}

/// Completion wants all declared bytes, and the same completion again changes nothing.
pub async fn completion_is_fenced_by_the_length(rig: &dyn Rig) {
    let (ledger, org) = (rig.ledger(), rig.add_organization("acme").await);
    let sent = Sent::create(&ledger, org, target("web"), 7, 3 * BLOCK)
        .await
        .expect("create");
    ledger
        .advance(sent.fence(), sent.step(0))
        .await
        .expect("the first part");
    let whole = sent.completion();
    refused(
        ledger.complete(sent.fence(), Vec::new(), whole).await,
        ErrorKind::Fenced,
    );
    let short = Completion {
        length: PART,
        ..whole
    };
    refused(
        ledger.complete(sent.fence(), Vec::new(), short).await,
        ErrorKind::Fenced,
    );
    // Nothing is published before it is complete.
    refused(ledger.publish(sent.fence()).await, ErrorKind::Fenced);
    ledger
        .advance(sent.fence(), sent.step(PART))
        .await
        .expect("the rest");
    ledger
        .complete(sent.fence(), Vec::new(), whole)
        .await
        .expect("complete");
    ledger
        .complete(sent.fence(), Vec::new(), whole)
        .await
        .expect("the same again");
    let other = Completion {
        blake3: Blake3([0; 32]),
        ..whole
    };
    refused(
        ledger.complete(sent.fence(), Vec::new(), other).await,
        ErrorKind::Fenced,
    );
    let row = row(rig, sent.row.id).await;
    assert_eq!(row.state, UploadState::Completing);
    assert_eq!(row.digests, Some((whole.blake3, whole.sha256)));
    // A complete upload takes no bytes.
    let more = Sent {
        length: 5 * BLOCK,
        ..sent.clone()
    }
    .step(2 * PART);
    refused(ledger.advance(sent.fence(), more).await, ErrorKind::Fenced);
}

/// The last part and the end are one change: both or neither, at the present epoch alone, and it tells what is to stand
/// beside the blob.
pub async fn the_last_step_and_the_end_are_one_change(rig: &dyn Rig) {
    let (ledger, org) = (rig.ledger(), rig.add_organization("acme").await);
    let old = Sent::create(&ledger, org, target("web"), 7, 3 * BLOCK)
        .await
        .expect("create");
    let taken = ledger.take_over(old.row.id).await.expect("take over");
    let sent = Sent {
        row: taken.expect("the row is there"),
        ..old.clone()
    };
    let (fence, whole) = (sent.fence(), sent.completion());
    // The first part is not the last one.
    let early = ledger.complete(fence, vec![sent.step(0)], whole).await;
    refused(early, ErrorKind::Fenced);
    let first = Completion {
        length: PART,
        ..whole
    };
    let short = ledger.complete(fence, vec![sent.step(0)], first).await;
    refused(short, ErrorKind::Fenced);
    ledger.advance(fence, sent.step(0)).await.expect("a part");
    let last = sent.step(PART);
    let stale = ledger
        .complete(old.fence(), vec![last.clone()], whole)
        .await;
    refused(stale, ErrorKind::Fenced);
    let odd = Advance {
        values: Vec::new(),
        ..last.clone()
    };
    refused(
        ledger.complete(fence, vec![odd], whole).await,
        ErrorKind::Invalid,
    );
    let open = row(rig, sent.row.id).await;
    assert_eq!((open.offset, open.state), (PART, UploadState::Open));
    assert_eq!((open.length, open.digests), (Some(3 * BLOCK), None));

    rig.clock().advance(Duration::from_secs(1));
    let told = ledger.complete(fence, vec![last.clone()], whole).await;
    let told = told.expect("the last part and the end");
    let (beside, store) = told.expect("it can be published");
    assert_eq!((beside.upload, store.as_str()), (sent.row.id, "main"));
    assert_eq!(
        (beside.blob.key, beside.blob.length),
        (sent.row.key, 3 * BLOCK)
    );
    assert_eq!(beside.organization, "acme");
    let ended = row(rig, sent.row.id).await;
    assert_eq!(
        (ended.offset, ended.state),
        (3 * BLOCK, UploadState::Completing)
    );
    assert_eq!(ended.updated, START.plus(Duration::from_secs(1)));
    assert_eq!(ended.digests, Some((whole.blake3, whole.sha256)));
    let again = ledger.complete(fence, vec![last], whole).await;
    refused(again, ErrorKind::Fenced);
    let published = ledger.publish(fence).await.expect("publish");
    assert_eq!(rig.blob_tree(&published.blob).await, Some(sent.values()));

    // All parts may be the last ones.
    let sent = Sent::create(&ledger, org, target("db"), 8, 3 * BLOCK)
        .await
        .expect("create");
    let all = [0, PART].map(|from| sent.step(from)).to_vec();
    let ended = ledger.complete(sent.fence(), all, sent.completion()).await;
    ended.expect("all parts and the end");
    let published = ledger.publish(sent.fence()).await.expect("publish");
    assert_eq!(rig.blob_tree(&published.blob).await, Some(sent.values()));
}

/// An upload of unknown length ends where its bytes end.
pub async fn a_length_that_was_not_declared_is_known_at_the_end(rig: &dyn Rig) {
    let (ledger, org) = (rig.ledger(), rig.add_organization("acme").await);
    let made = ledger
        .create(new_upload(org, target("web"), None))
        .await
        .expect("create");
    let sent = Sent {
        row: made,
        content: 8,
        length: PART + 5,
    };
    sent.complete(&ledger).await.expect("complete");
    let row = row(rig, sent.row.id).await;
    assert_eq!((row.offset, row.length), (PART + 5, Some(PART + 5)));
    let published = ledger.publish(sent.fence()).await.expect("publish");
    assert_eq!(published.blob.length, PART + 5);
    assert_eq!(rig.blob_tree(&published.blob).await, Some(sent.values()));
}

/// What is given up goes to the trash at once and takes nothing more.
pub async fn an_aborted_upload_is_trash(rig: &dyn Rig) {
    let (ledger, org) = (rig.ledger(), rig.add_organization("acme").await);
    let open = Sent::create(&ledger, org, target("web"), 7, 3 * BLOCK)
        .await
        .expect("create");
    ledger
        .advance(open.fence(), open.step(0))
        .await
        .expect("a part");
    let whole = Sent::create(&ledger, org, target("web"), 8, 3 * BLOCK)
        .await
        .expect("create");
    whole.complete(&ledger).await.expect("complete");
    assert!(ledger.due_trash(10).await.expect("trash").is_empty());
    for sent in [&open, &whole] {
        assert!(ledger.abort(sent.row.id, None).await.expect("abort"));
        assert!(
            !ledger.abort(sent.row.id, None).await.expect("abort"),
            "only once"
        );
        let row = row(rig, sent.row.id).await;
        assert_eq!(row.state, UploadState::Aborted);
        for epoch in [sent.row.epoch, row.epoch] {
            let fence = Fence {
                id: sent.row.id,
                epoch,
            };
            refused(
                ledger.advance(fence, sent.step(PART)).await,
                ErrorKind::Fenced,
            );
            refused(
                ledger.complete(fence, Vec::new(), sent.completion()).await,
                ErrorKind::Fenced,
            );
            refused(ledger.publish(fence).await, ErrorKind::Fenced);
        }
    }
    let trash = ledger.due_trash(10).await.expect("trash");
    let mut keys: Vec<_> = trash.into_iter().map(|t| t.key).collect();
    keys.sort();
    let mut expected = [open.row.key, whole.row.key];
    expected.sort();
    assert_eq!(keys, expected);
    assert_eq!(
        ledger.due_trash(1).await.expect("trash").len(),
        1,
        "no more than asked for"
    );
    for key in keys {
        ledger.forget(&gone(key)).await.expect("forget");
        ledger
            .forget(&gone(key))
            .await
            .expect("forgetting again is no harm");
    }
    assert!(ledger.due_trash(10).await.expect("trash").is_empty());
    assert!(!ledger.abort(UploadId::random(), None).await.expect("abort"));

    let (done, _) = published(rig, org, target("web"), 9).await;
    assert!(
        !ledger.abort(done.row.id, None).await.expect("abort"),
        "what is published stays"
    );
    assert!(ledger.due_trash(10).await.expect("trash").is_empty());
}

/// Listing by state gives the oldest first, up to the moment and number asked for.
pub async fn uploads_are_listed_by_state_and_age(rig: &dyn Rig) {
    let (ledger, org) = (rig.ledger(), rig.add_organization("acme").await);
    let mut made = Vec::new();
    for content in 0..4 {
        rig.clock().advance(Duration::from_secs(1));
        made.push(
            Sent::create(&ledger, org, target("web"), content, BLOCK)
                .await
                .expect("create"),
        );
    }
    rig.clock().advance(Duration::from_secs(1));
    made[0].complete(&ledger).await.expect("complete");
    let listed = async |state, seconds, limit| {
        let until = START.plus(Duration::from_secs(seconds));
        let rows = ledger.uploads_in(state, until, limit).await.expect("list");
        rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    let id = |k: usize| made[k].row.id;
    assert_eq!(
        listed(UploadState::Open, 9, 10).await,
        [id(1), id(2), id(3)]
    );
    assert_eq!(listed(UploadState::Open, 9, 2).await, [id(1), id(2)]);
    assert_eq!(listed(UploadState::Open, 3, 10).await, [id(1), id(2)]);
    assert!(listed(UploadState::Completing, 4, 10).await.is_empty());
    assert_eq!(listed(UploadState::Completing, 5, 10).await, [id(0)]);
}
