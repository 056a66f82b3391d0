//! tus concatenation: pieces that are uploads of their own, and one that is joined of them, which the gateway
//! does by itself, over its own ends too.

use std::time::Duration;

use tokio::time::sleep;

use super::{PIECE_BYTES, Place, Protocol, answered, base64, files};
use crate::survival::tally::Tally;
use crate::survival::upload::{State, Upload};
use crate::survival::wire::Body;

const MEDIA_TYPE: &str = "application/offset+octet-stream";
/// Pieces of one upload, at most; never one alone, whose bytes would be those of the whole.
const MOST_PIECES: u64 = 5;
/// Between two looks at an upload that is being joined.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a client knows of its pieces.
#[derive(Debug, Default)]
pub(crate) struct Joined {
    pieces: Vec<Part>,
    /// How often the last request was sent: each may have made an upload that is joined.
    pub(crate) finals: u32,
}

/// One piece.
#[derive(Debug)]
struct Part {
    from: u64,
    to: u64,
    location: Option<String>,
    /// Its own offset.
    told: u64,
    /// No byte behind this one was ever sent.
    sent: u64,
    /// Whether its gateway is to be asked before it goes on.
    unsure: bool,
}

impl Part {
    fn is_whole(&self) -> bool {
        self.told == self.to - self.from
    }
}

impl Joined {
    /// Bytes of its pieces that were told to be there.
    pub(crate) fn told(&self) -> u64 {
        self.pieces.iter().map(|part| part.told).sum()
    }

    /// Blobs that whole pieces are.
    pub(crate) fn blobs(&self) -> u64 {
        self.pieces.iter().filter(|part| part.is_whole()).count() as u64
    }
}

/// Does what is next.
pub(super) async fn step(u: &mut Upload, place: Place<'_>, tally: &mut Tally) -> Option<()> {
    if u.joined.pieces.is_empty() {
        cut_up(u);
    }
    let missing = u.joined.pieces.iter().position(|part| !part.is_whole());
    let all_made = u.joined.pieces.iter().all(|part| part.location.is_some());
    let early = all_made && u.location.is_none() && u.chance.one_in(4);
    let done = match missing {
        Some(at) if !early => go_on(u, at, place, tally).await,
        _ if u.location.is_none() => join(u, place, tally).await,
        _ => look(u, place, tally).await,
    };
    // Its pieces have addresses, whatever became of the last request.
    if u.state != State::Finished {
        u.state = State::Open;
    }
    done
}

/// Asks for all that was told, and for what is joined of it.
pub(super) async fn ask(u: &mut Upload, place: Place<'_>, tally: &mut Tally) -> Option<()> {
    let asked = ask_all(u, place, tally).await;
    if u.state != State::Finished {
        u.state = State::Open;
    }
    asked
}

async fn ask_all(u: &mut Upload, place: Place<'_>, tally: &mut Tally) -> Option<()> {
    for at in 0..u.joined.pieces.len() {
        if u.joined.pieces[at].location.is_some() {
            stands(u, at, place, tally).await?;
        }
    }
    if u.location.is_some() {
        look(u, place, tally).await?;
    }
    Some(())
}

fn cut_up(u: &mut Upload) {
    let count = 2 + u.chance.below(MOST_PIECES - 1);
    let mut ends: Vec<u64> = (1..count)
        .map(|_| 1 + u.chance.below(u.length() - 1))
        .collect();
    ends.push(u.length());
    ends.sort_unstable();
    ends.dedup();
    let mut from = 0;
    for to in ends {
        u.joined.pieces.push(Part {
            from,
            to,
            location: None,
            told: 0,
            sent: 0,
            unsure: false,
        });
        from = to;
    }
}

/// Makes a piece, or sends more of it.
async fn go_on(u: &mut Upload, at: usize, place: Place<'_>, tally: &mut Tally) -> Option<()> {
    let part = &u.joined.pieces[at];
    let Some(path) = part.location.clone() else {
        return make(u, at, place, tally).await;
    };
    if part.unsure {
        return stands(u, at, place, tally).await;
    }
    let (start, told, end) = (part.from, part.told, part.to);
    let from = start + told;
    let n = match u.chance.below(2) {
        0 => end - from,
        _ => u.chance.octaves(1, (end - from).min(PIECE_BYTES)),
    };
    let to = from + n;
    let cut = u.cut(from, to, if place.rough { 4 } else { u64::MAX });
    let part = &mut u.joined.pieces[at];
    part.sent = part.sent.max(cut.map_or(to, |cut| cut.at) - start);
    part.unsure = true;
    let mut headers = files::headers(Protocol::Tus);
    headers.push(("content-type", MEDIA_TYPE.into()));
    headers.push(("upload-offset", told.to_string()));
    let content = u.content().clone();
    let body = Body {
        content: &content,
        from,
        to,
        cut,
    };
    let sent = place.wire.send("PATCH", &path, &headers, body, |_, _| {});
    let heard = sent.await;
    let Some(answer) = answered(heard, u, "PATCH", tally)? else {
        return Some(());
    };
    match (answer.status, answer.headers.number("upload-offset")) {
        (204, Some(offset)) => {
            if offset != to - start {
                u.wrong(tally, &format!("piece {at}: {to} told {offset}"));
            }
            note(u, at, offset, tally);
        }
        // A request of this client that was cut came late.
        (409, _) => {}
        _ => u.unexpected(tally, "PATCH", &answer),
    }
    Some(())
}

async fn make(u: &mut Upload, at: usize, place: Place<'_>, tally: &mut Tally) -> Option<()> {
    let part = &u.joined.pieces[at];
    let mut headers = files::headers(Protocol::Tus);
    headers.push(("upload-concat", "partial".into()));
    headers.push(("upload-length", (part.to - part.from).to_string()));
    let organization = base64(place.wire.organization());
    headers.push(("upload-metadata", format!("organization {organization}")));
    let heard = place.wire.ask("POST", "/files", &headers).await;
    let Some(answer) = answered(heard, u, "POST", tally)? else {
        return Some(());
    };
    match files::created(&answer) {
        Some(path) => u.joined.pieces[at].location = Some(path),
        None => u.unexpected(tally, "POST", &answer),
    }
    Some(())
}

/// HEAD of a piece.
async fn stands(u: &mut Upload, at: usize, place: Place<'_>, tally: &mut Tally) -> Option<()> {
    let path = u.joined.pieces[at].location.clone().unwrap_or_default();
    let headers = files::headers(Protocol::Tus);
    let heard = place.wire.ask("HEAD", &path, &headers).await;
    let Some(answer) = answered(heard, u, "HEAD", tally)? else {
        return Some(());
    };
    match (answer.status, answer.headers.number("upload-offset")) {
        (200 | 204, Some(offset)) => note(u, at, offset, tally),
        _ => u.unexpected(tally, "HEAD", &answer),
    }
    Some(())
}

fn note(u: &mut Upload, at: usize, offset: u64, tally: &mut Tally) {
    let Part { told, sent, .. } = u.joined.pieces[at];
    tally.offsets_told += 1;
    if offset < told || offset > sent {
        u.wrong(
            tally,
            &format!("piece {at}: told {told}, sent {sent}, and now {offset}"),
        );
    }
    let part = &mut u.joined.pieces[at];
    (part.told, part.unsure) = (told.max(offset), false);
}

/// The last request, which may come before its pieces are whole. An answer that is lost is asked for again:
/// what is then joined twice is the same bytes under the same name.
async fn join(u: &mut Upload, place: Place<'_>, tally: &mut Tally) -> Option<()> {
    let Some(name) = place.name else {
        u.wrong(tally, "it has no name");
        return Some(());
    };
    let pieces = u
        .joined
        .pieces
        .iter()
        .filter_map(|part| part.location.as_deref());
    let list = pieces.collect::<Vec<_>>().join(" ");
    let target = base64(name.target(place.wire.organization()));
    let mut headers = files::headers(Protocol::Tus);
    headers.push(("upload-concat", format!("final;{list}")));
    headers.push(("upload-metadata", format!("target {target}")));
    u.tried = true;
    u.joined.finals += 1;
    let heard = place.wire.ask("POST", "/files", &headers).await;
    let Some(answer) = answered(heard, u, "POST final", tally)? else {
        return Some(());
    };
    match files::created(&answer) {
        Some(path) => u.location = Some(path),
        None => u.unexpected(tally, "POST final", &answer),
    }
    Some(())
}

/// HEAD of what is joined: it tells an offset only once it is whole.
async fn look(u: &mut Upload, place: Place<'_>, tally: &mut Tally) -> Option<()> {
    let path = u.location.clone().unwrap_or_default();
    let headers = files::headers(Protocol::Tus);
    let heard = place.wire.ask("HEAD", &path, &headers).await;
    let Some(answer) = answered(heard, u, "HEAD final", tally)? else {
        return Some(());
    };
    let whole = u
        .joined
        .pieces
        .iter()
        .all(|part| part.sent == part.to - part.from);
    match (answer.status, answer.headers.number("upload-offset")) {
        (200 | 204, None) => sleep(LOOK_EVERY).await,
        (200 | 204, Some(offset)) if offset == u.length() && whole => u.finish(tally),
        (200 | 204, Some(offset)) => {
            u.wrong(tally, &format!("is joined with {offset} bytes"));
        }
        _ => u.unexpected(tally, "HEAD final", &answer),
    }
    Some(())
}
