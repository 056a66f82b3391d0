//! Raw uploads at BoxVault's path: whole, cut, and continued by `Content-Range`. They have no id; where
//! one stands is told by the refusal of a piece that does not fit.

use super::{PIECE_BYTES, Place, answered, is_outcome};
use crate::http::{Answer, Cut};
use crate::survival::name::Name;
use crate::survival::tally::Tally;
use crate::survival::upload::{State, Upload};
use crate::survival::wire::Body;

/// Does what is next.
pub(super) async fn step(u: &mut Upload, place: Place<'_>, tally: &mut Tally) -> Option<()> {
    let Some(name) = place.name else {
        u.state = State::Unknown;
        return Some(());
    };
    if u.state == State::Unsure {
        return ask(u, place, tally).await;
    }
    if u.rest() == 0 {
        // There is nothing left to send, and nobody said that it is finished.
        u.wrong(tally, "all bytes are there, and it is not finished");
    }
    let (from, n) = match (u.state, u.chance.below(3)) {
        (State::Fresh, 0 | 1) => (0, u.length()),
        _ => (u.told, u.some_of(PIECE_BYTES)),
    };
    let to = from + n;
    let cut = u.cut(from, to, if place.rough { 3 } else { u64::MAX });
    piece(u, place, name, (from, to, cut), tally).await
}

/// Asks where it stands by offering its last byte.
pub(super) async fn ask(u: &mut Upload, place: Place<'_>, tally: &mut Tally) -> Option<()> {
    let Some(name) = place.name else {
        u.state = State::Unknown;
        return Some(());
    };
    let last = u.length() - 1;
    piece(u, place, name, (last, u.length(), None), tally).await
}

async fn piece(
    u: &mut Upload,
    place: Place<'_>,
    name: &Name,
    (from, to, cut): (u64, u64, Option<Cut>),
    tally: &mut Tally,
) -> Option<()> {
    let floor = u.told;
    let asks = u.ghost || matches!(u.state, State::Unsure | State::Parked);
    let path = format!("{}/upload", name.path(place.wire.organization()));
    let mut headers = vec![("content-type", "application/octet-stream".to_owned())];
    let whole = (from, to) == (0, u.length());
    if !whole || u.chance.one_in(4) {
        let range = format!("bytes {from}-{}/{}", to - 1, u.length());
        headers.push(("content-range", range));
    }
    u.begun_anew += u32::from(from == 0);
    let had = (u.sent, u.tried);
    u.sent = u.sent.max(cut.map_or(to, |cut| cut.at));
    u.tried |= to == u.length() && cut.is_none();
    let content = u.content().clone();
    let body = Body {
        content: &content,
        from,
        to,
        cut,
    };
    let method = if u.chance.one_in(2) { "PUT" } else { "POST" };
    let heard = place
        .wire
        .send(method, &path, &headers, body, |_, _| {})
        .await;
    let Some(answer) = answered(heard, u, method, tally)? else {
        return Some(());
    };
    let told = answer.headers.number("upload-offset");
    match (answer.status, told) {
        (200, _) => took(u, to, &answer, floor, tally),
        (409, Some(offset)) if asks => {
            // Nothing of this piece was taken.
            (u.sent, u.tried) = had;
            stands(u, offset, floor, tally);
        }
        // A request of this client that was cut came late, and took it over.
        (409, None) if u.ghost => u.state = State::Unsure,
        _ => u.unexpected(tally, method, &answer),
    }
    Some(())
}

/// A good answer.
fn took(u: &mut Upload, to: u64, answer: &Answer, floor: u64, tally: &mut Tally) {
    u.state = State::Open;
    if to == u.length() {
        is_outcome(u, answer, tally);
        return u.finish(tally);
    }
    match answer.headers.number("upload-offset") {
        Some(offset) if offset == to => u.note(offset, floor, tally),
        told => u.wrong(tally, &format!("{to} bytes in, told {told:?}")),
    }
}

/// A refusal that tells the offset: 0 when no upload of that name and length is open.
fn stands(u: &mut Upload, offset: u64, floor: u64, tally: &mut Tally) {
    // A first request that was cut may still be on its way, and give up what was told here.
    let given_up = u.ghost && (u.begun_anew > 1 || offset == 0) && floor == 0;
    match offset {
        _ if given_up => u.state = State::Parked,
        // It may just be finished: a request that brought all bytes got no answer.
        0 if u.tried => u.state = State::Parked,
        0 if floor == 0 => u.state = State::Fresh,
        _ => {
            u.note(offset, floor, tally);
            u.state = State::Open;
        }
    }
}
