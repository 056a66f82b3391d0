//! Resumable Uploads for HTTP: creation with all, some or none of the bytes, appends with and without a
//! digest of their own.

use super::piece::{self, Piece};
use super::{PIECE_BYTES, Place, answered, base64, files, is_outcome};
use crate::http::Answer;
use crate::survival::tally::Tally;
use crate::survival::upload::{State, Upload};

/// One request in so many has a digest of its own.
const HASHED: u64 = 4;
/// The answer to bytes with another digest than was told.
const WRONG_DIGEST: u16 = 400;

/// POST.
pub(super) async fn create(u: &mut Upload, place: Place<'_>, tally: &mut Tally) -> Option<()> {
    let first = match u.chance.below(3) {
        0 => 0,
        // Without a name nobody could tell whether an upload is finished whose id never came.
        _ if place.name.is_none() => u.some_of(PIECE_BYTES).min(u.length() - 1),
        1 => u.some_of(PIECE_BYTES),
        _ => u.length(),
    };
    let may_end = u.chance.below(4) > 0;
    let piece = Piece::choose(u, first, HASHED, may_end, place.rough);
    let mut headers = headers(u, &piece);
    if u.chance.one_in(3) {
        let value = base64(u.content().sha256(0..u.length()));
        headers.push(("repr-digest", format!("sha-256=:{value}:")));
    }
    let organization = place.wire.organization();
    let path = match place.name {
        Some(name) => format!("/files?target={}", name.target(organization)),
        None => format!("/files?organization={organization}"),
    };
    let wire = place.wire;
    let sent = wire.send("POST", &path, &headers, piece.body(u), |_, _| {});
    let heard = sent.await;
    let Some(answer) = answered(heard, u, "POST", tally)? else {
        return Some(());
    };
    let told = answer.headers.number("upload-offset");
    match (files::created(&answer), told) {
        (Some(path), Some(offset)) if !piece.lying => {
            u.location = Some(path);
            took(u, &piece, &answer, offset, tally);
        }
        (_, _) => {
            // Nothing came of bytes with a wrong digest; without an id nobody can go on.
            if !(piece.lying && answer.status == 400) {
                u.unexpected(tally, "POST", &answer);
            }
            u.state = State::Unknown;
        }
    }
    Some(())
}

/// PATCH.
pub(super) async fn append(u: &mut Upload, place: Place<'_>, tally: &mut Tally) -> Option<()> {
    let n = u.some_of(PIECE_BYTES);
    // All bytes may come before the word that they are all.
    let may_end = n == 0 || u.chance.below(8) > 0;
    let piece = Piece::choose(u, n, HASHED, may_end, place.rough);
    let mut headers = headers(u, &piece);
    headers.extend([
        ("content-type", "application/partial-upload".to_owned()),
        ("upload-offset", piece.from.to_string()),
    ]);
    let (heard, interfered) = piece::patch(u, &piece, &headers, place, tally).await;
    let Some(answer) = answered(heard, u, "PATCH", tally)? else {
        return Some(());
    };
    let told = answer.headers.number("upload-offset");
    match (answer.status, told) {
        (200 | 201 | 204, Some(offset)) if !piece.lying => {
            took(u, &piece, &answer, offset, tally);
        }
        _ => piece::refused(u, &piece, &answer, WRONG_DIGEST, interfered, tally),
    }
    piece::settle(u, interfered);
    Some(())
}

/// What creations and appends have in common.
fn headers(u: &mut Upload, piece: &Piece) -> Vec<(&'static str, String)> {
    let ends = if piece.ends { "?1" } else { "?0" };
    let mut headers = vec![("upload-complete", ends.to_owned())];
    if !u.deferred && u.chance.one_in(2) {
        headers.push(("upload-length", u.length().to_string()));
    }
    if piece.hashed {
        let value = base64(u.content().sha256(piece.digested()));
        headers.push(("content-digest", format!("sha-256=:{value}:")));
    }
    headers
}

/// A good answer: it must tell that all was taken, and the end if it was the end.
fn took(u: &mut Upload, piece: &Piece, answer: &Answer, offset: u64, tally: &mut Tally) {
    u.go_on();
    if offset != piece.to {
        u.wrong(tally, &format!("{} bytes in, told {offset}", piece.to));
    }
    u.note(offset, piece.from, tally);
    let told = answer.headers.get("upload-complete");
    if (told == Some("?1")) != piece.ends {
        let ends = piece.ends;
        u.wrong(tally, &format!("Upload-Complete is {told:?}, ends: {ends}"));
    }
    if piece.ends {
        is_outcome(u, answer, tally);
        u.finish(tally);
    }
}
