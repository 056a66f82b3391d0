//! One request's bytes at `/files`: which, whether it is cut, and what may count of them.

use std::ops::Range;

use super::{HASHED_BYTES, Place, files};
use crate::http::{Answer, Cut};
use crate::survival::tally::Tally;
use crate::survival::upload::{State, Upload};
use crate::survival::wire::{Body, Heard};

/// What a request carries.
#[derive(Debug)]
pub(super) struct Piece {
    /// The first byte.
    pub(super) from: u64,
    /// The one behind the last.
    pub(super) to: u64,
    /// It has a digest of its own.
    pub(super) hashed: bool,
    /// Which is not that of the bytes.
    pub(super) lying: bool,
    /// It is the last one.
    pub(super) ends: bool,
    cut: Option<Cut>,
}

impl Piece {
    /// The next `n` bytes; the last ones where they are and `may_end` says so. `hashed` once in so many
    /// times.
    pub(super) fn choose(u: &mut Upload, n: u64, hashed: u64, may_end: bool, rough: bool) -> Self {
        let from = u.told;
        let hashed = u.chance.one_in(hashed);
        let to = from + if hashed { n.min(HASHED_BYTES) } else { n };
        let lying = hashed && rough && to > from && u.chance.one_in(10);
        let cut = u.cut(from, to, if rough { 5 } else { u64::MAX });
        // With a digest nothing counts before all of it came and is right.
        let counts = match cut {
            _ if lying => from,
            Some(_) if hashed => from,
            Some(cut) => cut.at,
            None => to,
        };
        u.sent = u.sent.max(counts);
        let ends = may_end && to == u.length();
        u.tried |= ends && counts == to;
        Self {
            from,
            to,
            hashed,
            lying,
            ends,
            cut,
        }
    }

    /// The bytes that its digest is of: others than its own where it lies, and no beginning of them
    /// either, which a cut may make all that comes.
    pub(super) fn digested(&self) -> Range<u64> {
        self.from + u64::from(self.lying)..self.to
    }

    /// As a body.
    pub(super) fn body<'a>(&self, of: &'a Upload) -> Body<'a> {
        Body {
            content: of.content(),
            from: self.from,
            to: self.to,
            cut: self.cut,
        }
    }
}

/// Sends a PATCH; in a rough place at times with HEAD in the middle, which takes the upload over. Then
/// the second value is true, and what became of the HEAD is noted in `u` already.
pub(super) async fn patch(
    u: &mut Upload,
    piece: &Piece,
    headers: &[(&str, String)],
    place: Place<'_>,
    tally: &mut Tally,
) -> (Heard, bool) {
    let wire = place.wire;
    let path = u.location.clone().unwrap_or_default();
    let interferes = place.rough && u.chance.one_in(8);
    let send = wire.send("PATCH", &path, headers, piece.body(u), |_, _| {});
    if !interferes {
        return (send.await, false);
    }
    let asking = files::headers(u.protocol);
    let (heard, head) = tokio::join!(send, wire.ask("HEAD", &path, &asking));
    if let Some(Some(answer)) = super::answered(head, u, "HEAD", tally) {
        files::stands(u, &answer, piece.from, tally);
    }
    (heard, true)
}

/// A PATCH of which nothing was taken: for a wrong digest, which is answered so, or since another request
/// came first.
pub(super) fn refused(
    u: &mut Upload,
    piece: &Piece,
    answer: &Answer,
    wrong_digest: u16,
    interfered: bool,
    tally: &mut Tally,
) {
    let told = answer.headers.number("upload-offset");
    if piece.lying && answer.status == wrong_digest {
        u.note(told.unwrap_or(piece.from), piece.from, tally);
        u.go_on();
    } else if answer.status == 409 && (interfered || u.ghost) {
        u.overtaken(told, piece.from, tally);
    } else {
        u.unexpected(tally, "PATCH", answer);
    }
}

/// Which of PATCH and HEAD came first is not known, so neither tells where to go on.
pub(super) fn settle(u: &mut Upload, interfered: bool) {
    if interfered && u.state == State::Open {
        u.state = State::Unsure;
    }
}
