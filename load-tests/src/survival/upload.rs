//! One upload as its client knows it: what it was told, and what it sent.

use std::sync::Arc;

use super::chance::Chance;
use super::name::Stored;
use super::protocol::Protocol;
use super::protocol::joined::Joined;
use super::protocol::parts::Parts;
use super::tally::Tally;
use crate::content::Content;
use crate::http::{Answer, Cut};

/// What is to be done with an upload next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It is to be begun.
    Fresh,
    /// It goes on at the offset that was told, which must be taken.
    Open,
    /// Its gateway is to be asked where it stands.
    Unsure,
    /// What became of it is to be seen when nobody writes: all of it was sent, and no answer came.
    Parked,
    /// It is finished.
    Finished,
    /// It was given up by its client.
    Cancelled,
    /// It exists, if at all, under an id that never came back.
    Unknown,
}

/// One upload.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, in any combination"
)]
pub(crate) struct Upload {
    /// For messages: whose, and which.
    pub(crate) label: String,
    /// Which of the client's names it is for; none for a blob without a name.
    pub(crate) name: Option<usize>,
    /// What is sent.
    pub(crate) stored: Stored,
    /// How.
    pub(crate) protocol: Protocol,
    /// Its own choices.
    pub(crate) chance: Chance,
    /// Whether the length is told late.
    pub(crate) deferred: bool,
    /// Whether a request told the length.
    pub(crate) declared: bool,
    /// Its path.
    pub(crate) location: Option<String>,
    /// The highest offset that was told.
    pub(crate) told: u64,
    /// No byte from here on was ever sent, or all of those were to be thrown away.
    pub(crate) sent: u64,
    /// Whether a request was sent that may have finished it.
    pub(crate) tried: bool,
    /// Whether a request was sent that may have given it up.
    pub(crate) cancelling: bool,
    /// Whether a request that this side cut may still be on its way to a writer: a newer one that was
    /// answered first is then none the wiser, and the offset moves on behind its answer.
    pub(crate) ghost: bool,
    /// Requests that began from byte 0, each of which gives up what the ones before it left open.
    pub(crate) begun_anew: u32,
    /// Its numbered parts, where it is sent in those.
    pub(crate) parts: Parts,
    /// Its pieces, where it is joined of those.
    pub(crate) joined: Joined,
    /// The last answer, for messages.
    pub(crate) heard: String,
    /// What is next.
    pub(crate) state: State,
}

impl Upload {
    /// One of which nobody has heard yet, without a name.
    pub(crate) fn fresh(protocol: Protocol, content: Content, chance: Chance) -> Self {
        Self {
            label: format!("{} upload, {} bytes", protocol.word(), content.length()),
            name: None,
            stored: Stored {
                digests: Arc::new(content.digests()),
                content,
            },
            protocol,
            chance,
            deferred: false,
            declared: false,
            location: None,
            told: 0,
            sent: 0,
            tried: false,
            cancelling: false,
            ghost: false,
            begun_anew: 0,
            parts: Parts::default(),
            joined: Joined::default(),
            heard: String::from("nothing"),
            state: State::Fresh,
        }
    }

    /// Whether it may be finished at any moment, by nobody's request.
    pub(crate) fn ends_by_itself(&self) -> bool {
        self.joined.finals > 0
    }

    /// The bytes.
    pub(crate) fn content(&self) -> &Content {
        &self.stored.content
    }

    /// How many.
    pub(crate) fn length(&self) -> u64 {
        self.stored.content.length()
    }

    /// How far it got, in numbers that differ once it got further.
    pub(crate) fn progress(&self) -> (State, u64, u64) {
        (
            self.state,
            self.told,
            self.joined.told().max(self.parts.told()),
        )
    }

    /// What is left to send.
    pub(crate) fn rest(&self) -> u64 {
        self.length().saturating_sub(self.told)
    }

    /// Notes an offset from an answer to a request that was sent when `floor` was the highest told.
    pub(crate) fn note(&mut self, offset: u64, floor: u64, tally: &mut Tally) {
        tally.offsets_told += 1;
        if offset < floor {
            self.wrong(tally, &format!("told {floor}, then {offset}"));
        }
        if offset > self.sent {
            let sent = self.sent;
            self.wrong(
                tally,
                &format!("told {offset}, of {sent} bytes that were sent"),
            );
        }
        self.told = self.told.max(offset);
    }

    /// Notes what must not be.
    pub(crate) fn wrong(&self, tally: &mut Tally, what: &str) {
        let at = self.location.as_deref().unwrap_or("no id yet");
        tally.wrong(format!("{} ({at}): {what}", self.label));
    }

    /// Notes an answer that no step of this client should get, unless it asks to come again.
    pub(crate) fn unexpected(&mut self, tally: &mut Tally, what: &str, answer: &Answer) {
        if self.state != State::Finished {
            self.state = State::Unsure;
        }
        let again = matches!(answer.status, 429 | 503 | 507);
        if again && answer.headers.get("retry-after").is_some() {
            return;
        }
        self.wrong(tally, &format!("{what}: {}", answer.in_short()));
    }

    /// Where it stands was told, and goes on from there.
    pub(crate) fn go_on(&mut self) {
        if self.state != State::Finished {
            self.state = State::Open;
        }
    }

    /// A newer request, or an older one that came late, has it.
    pub(crate) fn overtaken(&mut self, told: Option<u64>, floor: u64, tally: &mut Tally) {
        if let Some(offset) = told {
            self.note(offset, floor, tally);
        }
        if self.state != State::Finished {
            self.state = State::Unsure;
        }
    }

    /// Notes the end.
    pub(crate) fn finish(&mut self, tally: &mut Tally) {
        if self.state != State::Finished {
            tally.finished += 1;
            tally.finished_bytes += self.length();
            self.state = State::Finished;
        }
    }

    /// How much the next request is to carry of what is left.
    pub(crate) fn some_of(&mut self, most: u64) -> u64 {
        let rest = self.rest();
        match self.chance.below(3) {
            _ if rest == 0 => 0,
            0 => rest,
            1 => self.chance.octaves(1, rest.min(most)),
            // Where parts and blocks end, or one byte to either side.
            _ => {
                let block = 1 << (20 + self.chance.below(4));
                let end = (self.told / block + 1) * block + self.chance.below(3);
                end.saturating_sub(1 + self.told).clamp(1, rest)
            }
        }
    }

    /// Where a request with the bytes up to `to` is cut, once in `n` times.
    pub(crate) fn cut(&mut self, from: u64, to: u64, n: u64) -> Option<Cut> {
        let cut = to > from && self.chance.one_in(n);
        cut.then(|| Cut {
            at: from + self.chance.below(to - from),
            reset: self.chance.one_in(2),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {

    use super::*;
    use crate::content::Block;

    pub(crate) fn upload(length: u64) -> Upload {
        let content = Content::new(&Block::seeded(1), 1, length);
        Upload::fresh(Protocol::Tus, content, Chance::new(1, &[]))
    }

    #[test]
    fn an_offset_that_goes_down_or_was_never_sent_is_noticed() {
        let mut upload = upload(100);
        let mut tally = Tally::default();
        upload.sent = 50;
        upload.note(20, 0, &mut tally);
        upload.note(50, 20, &mut tally);
        // An answer that was on its way while a later one overtook it.
        upload.note(30, 20, &mut tally);
        assert_eq!((upload.told, tally.wrong.len()), (50, 0));
        upload.note(49, 50, &mut tally);
        upload.note(51, 50, &mut tally);
        assert_eq!(tally.wrong.len(), 2, "{:?}", tally.wrong);
        assert_eq!(tally.offsets_told, 5);
    }

    #[test]
    fn pieces_lie_within_what_is_left_and_reach_its_end() {
        let mut upload = upload(9 << 20);
        let mut ends = std::collections::BTreeSet::new();
        for _ in 0..500 {
            upload.told = upload.chance.below(upload.length());
            let n = upload.some_of(4 << 20);
            assert!(n >= 1 && n <= upload.rest());
            ends.insert(upload.told + n);
            if let Some(cut) = upload.cut(upload.told, upload.told + n, 2) {
                assert!((upload.told..upload.told + n).contains(&cut.at));
            }
        }
        for end in [9 << 20, 8 << 20, (8 << 20) - 1, (8 << 20) + 1] {
            assert!(ends.contains(&end), "{end}");
        }
    }
}
