//! Promises about uploads that arrive in pieces.

use std::time::Duration;

use super::upload::{BLOCK, PART, Sent, new_upload, target};
use super::{Rig, START};
use crate::blob::{BlobKey, UploadId};
use crate::error::{ErrorKind, Result};
use crate::metadata::uploads::{Fence, NewUpload, Piece, Pieces, UploadRow};

/// Three pieces of a part each, and one that is shorter.
const LENGTH: u64 = 3 * PART + BLOCK;
const COUNT: u32 = 4;

fn refused<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind) {
    assert_eq!(result.expect_err("it must be refused").kind(), kind);
}

async fn row(rig: &dyn Rig, id: UploadId) -> UploadRow {
    let row = rig.ledger().upload(id).await.expect("read");
    row.expect("rows of uploads stay")
}

async fn begun(rig: &dyn Rig, bytes: Option<u64>) -> Sent {
    let org = rig.add_organization("acme").await;
    let new = NewUpload {
        pieces: Some(Pieces {
            count: COUNT,
            bytes,
            held: 0,
            apart: false,
        }),
        ..new_upload(org, target("web"), bytes.map(|_| LENGTH))
    };
    Sent {
        row: rig.ledger().create(new).await.expect("create"),
        content: 7,
        length: LENGTH,
    }
}

fn piece_of(sent: &Sent, k: u32) -> Piece {
    let start = u64::from(k) * PART;
    let end = sent.length.min(start + PART);
    Piece {
        k,
        start,
        length: end - start,
        values: (start / BLOCK..end.div_ceil(BLOCK))
            .map(|block| sent.value(block))
            .collect(),
        apart: None,
    }
}

/// The first to name the store's own upload is the one, for as long as the upload is open in that epoch.
pub async fn a_store_upload_is_named_once(rig: &dyn Rig) {
    let (ledger, sent) = (rig.ledger(), begun(rig, Some(PART)).await);
    let (id, fence) = (sent.row.id, sent.fence());
    for name in ["one", "other"] {
        let named = ledger.name_store_upload(fence, name).await;
        assert_eq!(named.expect("it is open"), "one");
    }
    let receipts = ledger.receipts(id).await.expect("read");
    assert_eq!(receipts.upload.as_deref(), Some("one"));
    ledger.take_over(id).await.expect("take over");
    let late = ledger.name_store_upload(fence, "late").await;
    refused(late, ErrorKind::Fenced);
}

/// Pieces ahead of the offset are held whatever came before; the same one again counts once, another
/// under its number is refused, and the offset stays where it was.
pub async fn pieces_are_held_in_any_order_and_counted_once(rig: &dyn Rig) {
    let (ledger, sent) = (rig.ledger(), begun(rig, Some(PART)).await);
    let (id, fence) = (sent.row.id, sent.fence());
    let third = piece_of(&sent, 2);
    assert_eq!(
        ledger.hold_piece(fence, third.clone()).await.expect("hold"),
        1
    );
    assert_eq!(
        ledger.hold_piece(fence, third.clone()).await.expect("hold"),
        1
    );
    let other = Piece {
        values: vec![[1; 32]; 2],
        ..third.clone()
    };
    refused(ledger.hold_piece(fence, other).await, ErrorKind::Conflict);
    let last = piece_of(&sent, 3);
    assert_eq!(ledger.hold_piece(fence, last).await.expect("hold"), 2);

    let found = row(rig, id).await;
    assert_eq!((found.offset, found.epoch), (0, 1));
    let cut = found.pieces.expect("it is cut");
    assert_eq!((cut.count, cut.bytes, cut.held), (COUNT, Some(PART), 2));
    let held = ledger.held_pieces(id).await.expect("list");
    let held: Vec<_> = held.iter().map(|p| (p.k, p.start, p.length)).collect();
    assert_eq!(held, [(2, 2 * PART, PART), (3, 3 * PART, BLOCK)]);
    assert_eq!(ledger.piece(id, 2).await.expect("read"), Some(third));
    assert_eq!(ledger.piece(id, 0).await.expect("read"), None);

    // Whoever takes the upload over keeps what is held; whoever was replaced adds nothing.
    let taken = ledger.take_over(id).await.expect("take over");
    let newer = Fence {
        epoch: taken.expect("it is open").epoch,
        ..fence
    };
    refused(
        ledger.hold_piece(fence, piece_of(&sent, 0)).await,
        ErrorKind::Fenced,
    );
    let first = ledger.hold_piece(newer, piece_of(&sent, 0)).await;
    assert_eq!(first.expect("hold"), 3);
    ledger.advance(newer, sent.step(0)).await.expect("advance");
    let behind = ledger.piece(id, 0).await.expect("read");
    assert_eq!(behind, Some(piece_of(&sent, 0)), "told still when passed");
}

/// A piece begins at its number times the size, has that size unless it is the last, and ends within
/// the upload; an upload that is not cut holds none.
pub async fn a_piece_that_is_cut_otherwise_is_refused(rig: &dyn Rig) {
    let (ledger, sent) = (rig.ledger(), begun(rig, Some(PART)).await);
    let fence = sent.fence();
    let good = piece_of(&sent, 1);
    for bad in [
        Piece {
            k: 2,
            ..good.clone()
        },
        Piece {
            start: 0,
            ..good.clone()
        },
        Piece {
            length: BLOCK,
            values: vec![[7; 32]],
            ..good.clone()
        },
        Piece {
            values: vec![[7; 32]; 3],
            ..good.clone()
        },
        Piece {
            length: 2 * BLOCK,
            values: vec![[7; 32]; 2],
            ..piece_of(&sent, 3)
        },
        Piece {
            k: COUNT,
            start: u64::from(COUNT) * PART,
            ..good.clone()
        },
        Piece {
            k: u32::MAX,
            start: u64::MAX,
            ..good
        },
    ] {
        refused(ledger.hold_piece(fence, bad).await, ErrorKind::Invalid);
    }
    assert_eq!(ledger.held_pieces(sent.row.id).await.expect("list"), []);

    let org = sent.row.organization;
    let whole = ledger.create(new_upload(org, target("db"), Some(LENGTH)));
    let whole = whole.await.expect("create");
    let fence = Fence {
        id: whole.id,
        epoch: whole.epoch,
    };
    refused(
        ledger.hold_piece(fence, piece_of(&sent, 0)).await,
        ErrorKind::Invalid,
    );
    refused(
        ledger.set_piece_bytes(whole.id, PART).await,
        ErrorKind::Conflict,
    );
}

/// The size of the pieces may become known later, once; until then only the first has its place.
pub async fn the_size_of_pieces_is_fixed_once(rig: &dyn Rig) {
    let (ledger, sent) = (rig.ledger(), begun(rig, None).await);
    let (id, fence) = (sent.row.id, sent.fence());
    refused(
        ledger.hold_piece(fence, piece_of(&sent, 1)).await,
        ErrorKind::Invalid,
    );
    for _twice in 0..2 {
        let row = ledger.set_piece_bytes(id, PART).await.expect("set");
        assert_eq!(row.pieces.and_then(|cut| cut.bytes), Some(PART));
    }
    refused(
        ledger.set_piece_bytes(id, 2 * PART).await,
        ErrorKind::Conflict,
    );
    refused(
        ledger.set_piece_bytes(UploadId::random(), PART).await,
        ErrorKind::NotFound,
    );
    let held = ledger.hold_piece(fence, piece_of(&sent, 1)).await;
    assert_eq!(held.expect("hold"), 1);
    assert!(ledger.abort(id, None).await.expect("abort"));
    refused(ledger.set_piece_bytes(id, PART).await, ErrorKind::Gone);
}

/// Nothing of the pieces is left of an upload that goes on in order, or that was given up.
pub async fn pieces_are_forgotten_with_their_upload(rig: &dyn Rig) {
    let (ledger, sent) = (rig.ledger(), begun(rig, Some(PART)).await);
    let (id, fence) = (sent.row.id, sent.fence());
    ledger
        .hold_piece(fence, piece_of(&sent, 0))
        .await
        .expect("hold");
    let before = row(rig, id).await;
    // Whoever sent it was told that it is held.
    refused(ledger.drop_pieces(fence).await, ErrorKind::Conflict);
    let after = row(rig, id).await;
    assert_eq!((after.pieces, after.epoch), (before.pieces, before.epoch));
    assert_eq!(ledger.held_pieces(id).await.expect("list").len(), 1);
    let first = sent.step(0);
    ledger.advance(fence, first.clone()).await.expect("advance");
    let stale = Fence { epoch: 0, ..fence };
    refused(ledger.drop_pieces(stale).await, ErrorKind::Fenced);
    ledger.drop_pieces(fence).await.expect("drop");
    let found = row(rig, id).await;
    assert_eq!((found.pieces, found.updated), (None, START));
    assert_eq!(ledger.held_pieces(id).await.expect("list"), []);
    let mut from = first.to;
    while from < sent.length {
        let step = sent.step(from);
        from = step.to;
        ledger.advance(fence, step).await.expect("in order");
    }
    let whole = ledger.complete(fence, Vec::new(), sent.completion()).await;
    whole.expect("in order it goes on");
    refused(ledger.drop_pieces(fence).await, ErrorKind::Fenced);

    let second = begun_in(rig, &sent).await;
    ledger
        .hold_piece(second.fence(), piece_of(&second, 1))
        .await
        .expect("hold");
    assert!(ledger.abort(second.row.id, None).await.expect("abort"));
    assert_eq!(ledger.held_pieces(second.row.id).await.expect("list"), []);

    let third = begun_in(rig, &sent).await;
    for k in 0..COUNT {
        let held = ledger.hold_piece(third.fence(), piece_of(&third, k)).await;
        assert_eq!(held.expect("hold"), k + 1);
    }
    third.complete(&ledger).await.expect("complete");
    ledger.publish(third.fence()).await.expect("publish");
    // Finished, it still tells a piece that is sent again.
    let told = ledger.piece(third.row.id, 3).await.expect("read");
    assert_eq!(told, Some(piece_of(&third, 3)));
}

async fn begun_in(rig: &dyn Rig, like: &Sent) -> Sent {
    let new = NewUpload {
        pieces: Some(Pieces {
            count: COUNT,
            bytes: Some(PART),
            held: 0,
            apart: false,
        }),
        ..new_upload(like.row.organization, target("web"), Some(LENGTH))
    };
    Sent {
        row: rig.ledger().create(new).await.expect("create"),
        ..like.clone()
    }
}

/// What is stored for a piece is in the trash until the piece is held, is the upload's own then, and goes again when
/// the offset covers it or the upload ends.
pub async fn what_is_held_apart_goes_with_its_use(rig: &dyn Rig) {
    let ledger = rig.ledger();
    let org = rig.add_organization("acme").await;
    let new = NewUpload {
        pieces: Some(Pieces {
            count: COUNT,
            bytes: Some(PART),
            held: 0,
            apart: true,
        }),
        ..new_upload(org, target("web"), Some(LENGTH))
    };
    let store = new.store.clone();
    let sent = Sent {
        row: ledger.create(new).await.expect("create"),
        content: 7,
        length: LENGTH,
    };
    let (id, fence) = (sent.row.id, sent.fence());
    let until = START.plus(Duration::from_mins(1));
    let mut aside = Vec::new();
    for k in 0..3 {
        let key = BlobKey::random();
        ledger.set_aside(key, &store, until).await.expect("set");
        let piece = Piece {
            apart: Some(key),
            ..piece_of(&sent, k)
        };
        ledger.hold_piece(fence, piece.clone()).await.expect("hold");
        assert_eq!(ledger.piece(id, k).await.expect("read"), Some(piece));
        aside.push(key);
    }
    // Once more, by somebody who lost the answer, and by one who sent it again: that one's bytes are nobody's.
    let again = BlobKey::random();
    ledger.set_aside(again, &store, until).await.expect("set");
    for key in [aside[2], again] {
        let piece = Piece {
            apart: Some(key),
            ..piece_of(&sent, 2)
        };
        let held = ledger.hold_piece(fence, piece).await;
        assert_eq!(held.expect("it is the same"), 3);
    }
    assert_eq!(keys_due(rig).await, [again]);

    // Neither without bytes, nor with those that were removed meanwhile.
    let late = BlobKey::random();
    ledger.set_aside(late, &store, until).await.expect("set");
    rig.clock().advance(Duration::from_secs(61));
    for key in [None, Some(BlobKey::random()), Some(late)] {
        let piece = Piece {
            apart: key,
            ..piece_of(&sent, 3)
        };
        refused(
            ledger.hold_piece(fence, piece).await,
            ErrorKind::Unavailable,
        );
    }
    let mut due = [again, late];
    due.sort_unstable();
    assert_eq!(keys_due(rig).await, due);

    ledger.advance(fence, sent.step(0)).await.expect("advance");
    ledger.pass_pieces(id).await.expect("pass");
    let passed = ledger.piece(id, 0).await.expect("read");
    assert_eq!(passed, Some(piece_of(&sent, 0)));
    let mut due = [again, late, aside[0]];
    due.sort_unstable();
    assert_eq!(keys_due(rig).await, due);
    assert!(ledger.abort(id, None).await.expect("abort"));
    let mut due = vec![again, late, aside[0], aside[1], aside[2], sent.row.key];
    due.sort_unstable();
    assert_eq!(keys_due(rig).await, due);
}

async fn keys_due(rig: &dyn Rig) -> Vec<BlobKey> {
    let due = rig.ledger().due_trash(100).await.expect("list");
    let mut keys: Vec<_> = due.iter().map(|trash| trash.key).collect();
    keys.sort_unstable();
    keys
}
