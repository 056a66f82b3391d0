//! tus 1.0: creation with and without first bytes or length, PATCH with and without checksum.

use super::piece::{self, Piece};
use super::{PIECE_BYTES, Place, Protocol, answered, base64, files};
use crate::survival::tally::Tally;
use crate::survival::upload::{State, Upload};

const MEDIA_TYPE: &str = "application/offset+octet-stream";
/// One PATCH in so many has a checksum.
const HASHED: u64 = 3;
/// The answer to bytes with another checksum than was told.
const WRONG_DIGEST: u16 = 460;

/// POST, at times with first bytes.
pub(super) async fn create(u: &mut Upload, place: Place<'_>, tally: &mut Tally) -> Option<()> {
    let mut headers = files::headers(Protocol::Tus);
    u.declared = !u.deferred;
    headers.push(if u.deferred {
        ("upload-defer-length", "1".into())
    } else {
        ("upload-length", u.length().to_string())
    });
    let organization = place.wire.organization();
    let metadata = match place.name {
        Some(name) => format!("target {}", base64(name.target(organization))),
        None => format!("organization {}", base64(organization)),
    };
    headers.push(("upload-metadata", metadata));
    let first = match u.chance.one_in(3) {
        // Without a name nobody could tell whether an upload is finished whose id never came.
        true if place.name.is_none() => u.some_of(PIECE_BYTES).min(u.length() - 1),
        true => u.some_of(PIECE_BYTES),
        false => 0,
    };
    let may_end = u.declared;
    let piece = Piece::choose(u, first, u64::MAX, may_end, place.rough);
    if first > 0 {
        headers.push(("content-type", MEDIA_TYPE.into()));
    }
    let wire = place.wire;
    let sent = wire.send("POST", "/files", &headers, piece.body(u), |_, _| {});
    let heard = sent.await;
    let Some(answer) = answered(heard, u, "POST", tally)? else {
        return Some(());
    };
    let told = answer.headers.number("upload-offset");
    let Some(path) = files::created(&answer) else {
        u.unexpected(tally, "POST", &answer);
        u.state = State::Unknown;
        return Some(());
    };
    u.location = Some(path);
    u.state = State::Open;
    if first > 0 && told != Some(first) {
        u.wrong(tally, &format!("POST of {first} bytes told {told:?}"));
    }
    u.note(told.unwrap_or(0), 0, tally);
    if piece.ends {
        u.finish(tally);
    }
    Some(())
}

/// PATCH.
pub(super) async fn append(u: &mut Upload, place: Place<'_>, tally: &mut Tally) -> Option<()> {
    let mut headers = files::headers(Protocol::Tus);
    headers.push(("content-type", MEDIA_TYPE.into()));
    headers.push(("upload-offset", u.told.to_string()));
    if u.deferred && (u.declared || u.rest() == 0 || u.chance.one_in(3)) {
        headers.push(("upload-length", u.length().to_string()));
        u.declared = true;
    }
    let (n, may_end) = (u.some_of(PIECE_BYTES), u.declared);
    let piece = Piece::choose(u, n, HASHED, may_end, place.rough);
    if piece.hashed {
        let of = piece.digested();
        let value = if u.chance.one_in(2) {
            format!("sha256 {}", base64(u.content().sha256(of)))
        } else {
            format!("blake3 {}", base64(u.content().blake3(of)))
        };
        headers.push(("upload-checksum", value));
    }
    let (heard, interfered) = piece::patch(u, &piece, &headers, place, tally).await;
    let Some(answer) = answered(heard, u, "PATCH", tally)? else {
        return Some(());
    };
    let told = answer.headers.number("upload-offset");
    match (answer.status, told) {
        (204, Some(offset)) => {
            if piece.lying {
                u.wrong(tally, "PATCH: a wrong checksum was taken");
            }
            if offset != piece.to {
                u.wrong(tally, &format!("PATCH to {} told {offset}", piece.to));
            }
            u.note(offset, piece.from, tally);
            u.go_on();
            if piece.ends {
                u.finish(tally);
            }
        }
        _ => piece::refused(u, &piece, &answer, WRONG_DIGEST, interfered, tally),
    }
    piece::settle(u, interfered);
    Some(())
}
