//! The protocols: how each begins an upload, goes on with it, and asks where it stands.

mod boxvault;
mod files;
mod ietf;
pub(crate) mod joined;
pub(crate) mod parts;
mod piece;
mod tus;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::name::Name;
use super::tally::Tally;
use super::upload::{State, Upload};
use super::wire::{Heard, Wire};
use crate::http::Answer;

/// How an upload is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// tus 1.0.
    Tus,
    /// Resumable Uploads for HTTP.
    Ietf,
    /// Raw bytes at BoxVault's path, continued by `Content-Range`.
    BoxVault,
    /// Numbered parts, several at once.
    Parts,
    /// Pieces by tus, joined by the gateway.
    Joined,
}

/// Where a step happens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// The way to the gateway.
    pub(crate) wire: &'a Wire,
    /// The name that the upload is for.
    pub(crate) name: Option<&'a Name>,
    /// Whether the client is to hang up, give up and interfere with itself at times.
    pub(crate) rough: bool,
}

/// The longest piece that chance makes, other than all that is left.
const PIECE_BYTES: u64 = 16 << 20;
/// The longest piece with a digest of its own, which the client computes first.
const HASHED_BYTES: u64 = 4 << 20;

impl Protocol {
    /// All of them.
    pub(crate) const ALL: [Self; 5] = [
        Self::Tus,
        Self::Ietf,
        Self::BoxVault,
        Self::Parts,
        Self::Joined,
    ];

    /// In a word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Tus => "tus",
            Self::Ietf => "ietf",
            Self::BoxVault => "boxvault",
            Self::Parts => "parts",
            Self::Joined => "joined",
        }
    }

    /// Whether it uploads no blob without a name here.
    pub(crate) fn needs_name(self) -> bool {
        matches!(self, Self::BoxVault | Self::Joined)
    }
}

/// Does what is next with an upload. `None` when the gateway is being ended.
pub(crate) async fn step(u: &mut Upload, place: Place<'_>, tally: &mut Tally) -> Option<()> {
    match u.protocol {
        Protocol::BoxVault => boxvault::step(u, place, tally).await,
        Protocol::Joined => joined::step(u, place, tally).await,
        Protocol::Tus | Protocol::Ietf | Protocol::Parts => match (u.state, u.protocol) {
            (State::Fresh, Protocol::Tus) => tus::create(u, place, tally).await,
            (State::Fresh, Protocol::Parts) => parts::create(u, place, tally).await,
            (State::Fresh, _) => ietf::create(u, place, tally).await,
            (State::Unsure, _) => ask(u, place, tally).await,
            _ if place.rough && !u.tried && u.chance.one_in(50) => {
                files::cancel(u, place, tally).await
            }
            _ if u.chance.one_in(20) => files::look(u, place, tally).await,
            (_, Protocol::Tus) => tus::append(u, place, tally).await,
            (_, Protocol::Parts) => parts::send(u, place, tally).await,
            _ => ietf::append(u, place, tally).await,
        },
    }
}

/// Asks where an upload stands. `None` when the gateway is being ended.
pub(crate) async fn ask(u: &mut Upload, place: Place<'_>, tally: &mut Tally) -> Option<()> {
    match u.protocol {
        Protocol::BoxVault => boxvault::ask(u, place, tally).await,
        Protocol::Joined => joined::ask(u, place, tally).await,
        Protocol::Parts => parts::ask(u, place, tally).await,
        Protocol::Tus | Protocol::Ietf => files::ask(u, place, tally).await,
    }
}

/// Whether an upload is gone from `/files`, as it must be once it expired or was given up. `None` when
/// the gateway is being ended.
pub(crate) async fn is_gone(u: &Upload, wire: &Wire, tally: &mut Tally) -> Option<()> {
    files::is_gone(u, wire, tally).await
}

/// The answer, or what its absence means: then the next step asks where the upload stands.
fn answered(heard: Heard, u: &mut Upload, what: &str, tally: &mut Tally) -> Option<Option<Answer>> {
    match heard {
        Heard::Answer(answer) => {
            tally.answer(&format!("{} {what}", u.protocol.word()), answer.status);
            u.heard = format!("{what}: {}", answer.in_short());
            return Some(Some(answer));
        }
        Heard::Cut => {
            tally.cut += 1;
            u.ghost = true;
        }
        Heard::Doomed => tally.killed += 1,
        Heard::Broken(ref why) => u.wrong(tally, why),
    }
    if u.state != State::Finished {
        u.state = if u.location.is_some() || u.protocol == Protocol::BoxVault {
            State::Unsure
        } else {
            State::Unknown
        };
    }
    match heard {
        Heard::Doomed => None,
        _ => Some(None),
    }
}

/// What the document of a finished upload says must be what was sent.
fn is_outcome(u: &Upload, answer: &Answer, tally: &mut Tally) {
    let document: serde_json::Value = match serde_json::from_slice(&answer.body) {
        Ok(document) => document,
        Err(e) => return u.wrong(tally, &format!("an outcome that is not understood: {e}")),
    };
    let details = &document["details"];
    let told = |name: &str| details[name].as_str().unwrap_or_default();
    let digests = &u.stored.digests;
    if details["fileSize"].as_u64() != Some(u.length())
        || told("blake3") != digests.blake3
        || told("sha256") != digests.sha256
    {
        u.wrong(tally, &format!("an outcome of other bytes: {details}"));
    }
}

fn base64(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}
