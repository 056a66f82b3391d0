//! What all protocols of `/files/{id}` have in common: asking, looking, giving up.

use super::{Place, Protocol, answered};
use crate::http::Answer;
use crate::survival::tally::Tally;
use crate::survival::upload::{State, Upload};
use crate::survival::wire::{Heard, Wire};

/// The path of an upload that was just made; `Location` may be a whole URL.
pub(super) fn created(answer: &Answer) -> Option<String> {
    let headers = (answer.status == 201).then_some(&answer.headers)?;
    let location = headers.get("location")?;
    let path = match location.split_once("://") {
        Some((_, rest)) => &rest[rest.find('/')?..],
        None => location,
    };
    Some(path.to_owned())
}

/// The headers that a request of the protocol always has.
pub(super) fn headers(protocol: Protocol) -> Vec<(&'static str, String)> {
    match protocol {
        Protocol::Tus | Protocol::Joined => vec![("tus-resumable", "1.0.0".into())],
        Protocol::Ietf | Protocol::BoxVault | Protocol::Parts => Vec::new(),
    }
}

/// HEAD: takes the upload over, so that its answer is where the next request goes on.
pub(super) async fn ask(u: &mut Upload, place: Place<'_>, tally: &mut Tally) -> Option<()> {
    let Some(path) = u.location.clone() else {
        u.state = State::Unknown;
        return Some(());
    };
    let floor = u.told;
    let heard = place.wire.ask("HEAD", &path, &headers(u.protocol)).await;
    let Some(answer) = answered(heard, u, "HEAD", tally)? else {
        return Some(());
    };
    stands(u, &answer, floor, tally);
    Some(())
}

/// An answer to HEAD.
pub(super) fn stands(u: &mut Upload, answer: &Answer, floor: u64, tally: &mut Tally) {
    match (answer.status, answer.headers.number("upload-offset")) {
        (200 | 204, Some(offset)) => {
            u.note(offset, floor, tally);
            if is_complete(u, answer, offset) {
                if offset != u.length() {
                    let length = u.length();
                    u.wrong(
                        tally,
                        &format!("is complete with {offset} of {length} bytes"),
                    );
                }
                if !u.tried {
                    u.wrong(tally, "is complete, and nobody ended it");
                }
                if u.state != State::Finished {
                    tally.finished_unheard += 1;
                }
                u.finish(tally);
            } else {
                u.go_on();
            }
        }
        (404 | 410, None) if u.cancelling => u.state = State::Cancelled,
        // Only what could end by it needs room.
        (507, _) if !u.tried => u.wrong(tally, "HEAD: there is no room to tell the offset"),
        _ => u.unexpected(tally, "HEAD", answer),
    }
}

fn is_complete(u: &Upload, answer: &Answer, offset: u64) -> bool {
    match u.protocol {
        // A tus client that reads offset = length sends nothing more.
        Protocol::Tus | Protocol::Joined => answer.headers.number("upload-length") == Some(offset),
        Protocol::Ietf | Protocol::BoxVault | Protocol::Parts => {
            answer.headers.get("upload-complete") == Some("?1")
        }
    }
}

/// GET: disturbs nobody.
pub(super) async fn look(u: &mut Upload, place: Place<'_>, tally: &mut Tally) -> Option<()> {
    let Some(path) = u.location.clone() else {
        return Some(());
    };
    let floor = u.told;
    let heard = place.wire.ask("GET", &path, &[]).await;
    let before = u.state;
    let Some(answer) = answered(heard, u, "GET", tally)? else {
        return Some(());
    };
    u.state = before;
    let document: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let offset = document["offset"].as_u64();
    match (answer.status, document["state"].as_str(), offset) {
        (200, Some("open"), Some(offset)) => u.note(offset, floor, tally),
        // All of it was sent once, and a request whose answer was cut ends it still.
        (200, Some("completing" | "done"), Some(offset)) if u.tried => {
            u.note(offset, floor, tally);
            u.state = State::Unsure;
        }
        _ => u.unexpected(tally, "GET", &answer),
    }
    Some(())
}

/// DELETE.
pub(super) async fn cancel(u: &mut Upload, place: Place<'_>, tally: &mut Tally) -> Option<()> {
    let Some(path) = u.location.clone() else {
        return Some(());
    };
    u.cancelling = true;
    let heard = place.wire.ask("DELETE", &path, &headers(u.protocol)).await;
    let Some(answer) = answered(heard, u, "DELETE", tally)? else {
        return Some(());
    };
    match answer.status {
        204 => {
            u.state = State::Cancelled;
            is_gone(u, place.wire, tally).await?;
        }
        _ => u.unexpected(tally, "DELETE", &answer),
    }
    Some(())
}

/// HEAD again, of an upload that must not be there any more.
pub(super) async fn is_gone(u: &Upload, wire: &Wire, tally: &mut Tally) -> Option<()> {
    let Some(path) = &u.location else {
        return Some(());
    };
    match wire.ask("HEAD", path, &headers(u.protocol)).await {
        Heard::Answer(answer) if matches!(answer.status, 404 | 410) => {}
        Heard::Answer(answer) => u.wrong(tally, &format!("is still there: {}", answer.status)),
        Heard::Doomed => return None,
        Heard::Cut => {}
        Heard::Broken(why) => u.wrong(tally, &why),
    }
    Some(())
}
