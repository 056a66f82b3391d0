//! One client: a few uploads under way, the names it published, and what must hold of both.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::chance::Chance;
use super::name::{Found, Name};
use super::protocol::{self, Place, Protocol};
use super::tally::Tally;
use super::upload::{State, Upload};
use super::wire::Wire;
use crate::content::{Block, Content};

/// Uploads of one client that go on.
const UNDER_WAY: usize = 3;
/// Uploads of one client that wait for a quiet moment to be looked at.
const PARKED: usize = 12;
/// The shortest upload in bytes.
const SHORTEST: u64 = 64 << 10;
/// How long the first upload of a client makes no progress before that is told.
const STANDS_STILL: Duration = Duration::from_mins(1);
/// Between two requests that brought no progress.
const AGAIN: Duration = Duration::from_millis(20);
/// How much longer the longest upload in parts is than that of others.
const PARTS_LONGER: u64 = 5;

/// Which streams of chance a client draws from, and how long its uploads are.
#[derive(Debug, Clone)]
pub(crate) struct Style {
    /// Behind all of it.
    pub(crate) seed: u64,
    /// Which data directory of a run.
    pub(crate) round: u64,
    /// The longest upload in bytes.
    pub(crate) longest: u64,
    /// What all content is made of.
    pub(crate) block: Block,
}

/// One client. Nobody else uses its names.
#[derive(Debug)]
pub(crate) struct Client {
    style: Style,
    index: u64,
    chance: Chance,
    serial: u64,
    uploads: Vec<Upload>,
    /// Left alone, to expire.
    left: Vec<Upload>,
    names: Vec<Name>,
    /// Names to be looked at in the next quiet moment.
    touched: BTreeSet<usize>,
    /// Finished uploads, each with bytes of its own.
    published: u64,
    /// What it counted.
    pub(crate) tally: Tally,
}

impl Client {
    /// One that has done nothing yet.
    pub(crate) fn new(style: &Style, index: u64) -> Self {
        Self {
            chance: Chance::new(style.seed, &[style.round, index]),
            style: style.clone(),
            index,
            serial: 0,
            uploads: Vec::new(),
            left: Vec::new(),
            names: Vec::new(),
            touched: BTreeSet::new(),
            published: 0,
            tally: Tally::default(),
        }
    }

    /// How many blobs the store must hold for it.
    pub(crate) fn published(&self) -> u64 {
        self.published
    }

    /// Box and version of all that must be listed.
    pub(crate) fn standing(&self) -> impl Iterator<Item = (String, String)> {
        let standing = self.names.iter().filter(|name| name.standing.is_some());
        standing.map(|name| (name.of_box.clone(), name.version.clone()))
    }

    /// Box and version of all that may be listed since nobody knows yet.
    pub(crate) fn possible(&self) -> impl Iterator<Item = (String, String)> {
        let names = self.names.iter().enumerate();
        let possible = names.filter(|(at, name)| name.possible.is_some() || self.is_awaited(*at));
        possible.map(|(_, name)| (name.of_box.clone(), name.version.clone()))
    }

    /// Whether a name may get its box at any moment, by nobody's request.
    fn is_awaited(&self, at: usize) -> bool {
        let mut uploads = self.uploads.iter();
        uploads.any(|upload| upload.name == Some(at) && upload.ends_by_itself())
    }

    /// Uploads until the gateway ends.
    pub(crate) async fn run(mut self, wire: Wire) -> Self {
        while !wire.is_doomed() {
            let Some(at) = self.choose() else { break };
            if self.step(at, &wire, true).await.is_none() {
                break;
            }
        }
        self
    }

    /// Brings what is under way to its end, without cutting anything.
    pub(crate) async fn complete(mut self, wire: Wire) -> Self {
        let (mut moved, mut progress) = (Instant::now(), None);
        while !self.uploads.is_empty() && self.tally.wrong.is_empty() {
            if self.uploads[0].state == State::Parked {
                self.check_one(0, &wire).await;
            } else if self.step(0, &wire, false).await.is_none() {
                break;
            }
            let first = self.uploads.first();
            let now = first.map(|first| (self.uploads.len(), first.progress()));
            if now != progress {
                (moved, progress) = (Instant::now(), now);
            } else if moved.elapsed() < STANDS_STILL {
                // A client as it should be asks again a little later.
                sleep(AGAIN).await;
            } else {
                // What leads nowhere is a defect of either side.
                let labels = self
                    .uploads
                    .iter()
                    .map(|u| format!("{} ({})", u.label, u.heard));
                let text = labels.collect::<Vec<_>>().join("; ");
                self.tally
                    .wrong(format!("these do not come to an end: {text}"));
            }
        }
        self
    }

    /// Holds the gateway to what it told, in a moment when nobody writes.
    pub(crate) async fn check(mut self, wire: Wire) -> Self {
        for at in (0..self.uploads.len()).rev() {
            if self.check_one(at, &wire).await.is_none() {
                return self;
            }
        }
        for _ in 0..2 {
            if !self.left.is_empty() {
                let at = self.chance.pick(self.left.len());
                self.hold(at, &wire).await;
            }
            if !self.names.is_empty() {
                self.touched.insert(self.chance.pick(self.names.len()));
            }
        }
        for name in std::mem::take(&mut self.touched) {
            self.observe(name, &wire).await;
        }
        self
    }

    /// The same for everything that there ever was.
    pub(crate) async fn check_all(mut self, wire: Wire) -> Self {
        self.touched.extend(0..self.names.len());
        for at in 0..self.left.len() {
            self.hold(at, &wire).await;
        }
        self.check(wire).await
    }

    /// All that was left alone must be gone, and all that was finished must be there.
    pub(crate) async fn check_expired(mut self, wire: Wire) -> Self {
        for upload in &self.left {
            if protocol::is_gone(upload, &wire, &mut self.tally)
                .await
                .is_none()
            {
                return self;
            }
        }
        self.left.clear();
        self.check_all(wire).await
    }

    /// The next upload to do something with.
    fn choose(&mut self) -> Option<usize> {
        let under_way: Vec<usize> = (0..self.uploads.len())
            .filter(|at| self.uploads[*at].state != State::Parked)
            .collect();
        let room = under_way.len() < UNDER_WAY && self.uploads.len() < PARKED;
        if room && (under_way.is_empty() || self.chance.one_in(4)) {
            let fresh = self.fresh();
            self.tally.begun += 1;
            self.uploads.push(fresh);
            return Some(self.uploads.len() - 1);
        }
        (!under_way.is_empty()).then(|| under_way[self.chance.pick(under_way.len())])
    }

    fn fresh(&mut self) -> Upload {
        let Style {
            seed,
            round,
            longest,
            ..
        } = self.style;
        let number = self.serial;
        self.serial += 1;
        let mut chance = Chance::new(seed, &[round, self.index, number]);
        let protocol = Protocol::ALL[chance.pick(Protocol::ALL.len())];
        // A part is 8 MiB: few uploads would have several.
        let longest = longest
            * if protocol == Protocol::Parts {
                PARTS_LONGER
            } else {
                1
            };
        let length = match chance.below(3) {
            // Where blocks and parts end, or one byte to either side.
            0 => {
                let blocks = chance.octaves(1, (longest >> 20).max(1));
                ((blocks << 20) + chance.below(3) - 1).min(longest)
            }
            _ => chance.octaves(SHORTEST, longest),
        };
        let salt = (round << 40) | (self.index << 32) | number;
        let content = Content::new(&self.style.block, salt, length);
        let unnamed = !protocol.needs_name() && chance.one_in(10);
        let name = (!unnamed).then(|| self.name_for(&mut chance));
        let label = format!(
            "{} upload {number} of client {}, {length} bytes",
            protocol.word(),
            self.index
        );
        let deferred = chance.one_in(4);
        Upload {
            label,
            name,
            deferred,
            ..Upload::fresh(protocol, content, chance)
        }
    }

    /// A name of its own, or one whose box is to be replaced.
    fn name_for(&mut self, chance: &mut Chance) -> usize {
        let again: Vec<usize> = (0..self.names.len())
            .filter(|at| self.names[*at].settled && self.names[*at].standing.is_some())
            .collect();
        let at = if !again.is_empty() && chance.one_in(4) {
            again[chance.pick(again.len())]
        } else {
            let number = self.names.len() as u64;
            self.names.push(Name::new(self.index, number));
            self.names.len() - 1
        };
        self.names[at].settled = false;
        self.touched.insert(at);
        at
    }

    /// One step of one upload. `None` when the gateway is being ended.
    async fn step(&mut self, at: usize, wire: &Wire, rough: bool) -> Option<()> {
        let upload = &mut self.uploads[at];
        let place = Place {
            wire,
            name: upload.name.map(|name| &self.names[name]),
            rough,
        };
        let went_on = protocol::step(upload, place, &mut self.tally).await;
        self.settle(at);
        // Not one byte before its end: asking where a raw upload stands offers its last byte.
        let resting = self.uploads.get(at).is_some_and(|upload| {
            upload.protocol != Protocol::Joined
                && !upload.tried
                && upload.state == State::Open
                && upload.told + 1 < upload.length()
        });
        if rough && resting && self.chance.one_in(60) {
            self.left.push(self.uploads.swap_remove(at));
            self.tally.left += 1;
        }
        went_on
    }

    /// Draws the conclusion from an upload's state: ended ones leave, and their names know.
    fn settle(&mut self, at: usize) {
        let upload = &self.uploads[at];
        let name = upload.name.map(|name| &mut self.names[name]);
        match upload.state {
            State::Finished => {
                self.published += 1 + upload.joined.blobs();
                if let Some(name) = name {
                    name.standing = Some(upload.stored.clone());
                    name.possible = None;
                    // One that was asked for twice may be joined once more, later.
                    name.settled = upload.joined.finals <= 1;
                }
            }
            State::Cancelled => {
                self.tally.cancelled += 1;
                if let Some(name) = name {
                    name.settled = true;
                }
            }
            State::Unknown => {
                if let Some(name) = name
                    && upload.tried
                {
                    name.possible = Some(upload.stored.clone());
                }
            }
            State::Fresh | State::Open | State::Unsure | State::Parked => return,
        }
        if let Some(name) = upload.name {
            self.touched.insert(name);
        }
        self.uploads.swap_remove(at);
    }

    /// Holds an upload under way to the offset that was told, and settles what became of it. `None`
    /// when the gateway is being ended.
    async fn check_one(&mut self, at: usize, wire: &Wire) -> Option<()> {
        if self.uploads[at].state == State::Fresh {
            return Some(());
        }
        let upload = &mut self.uploads[at];
        let number = upload.name;
        upload.state = State::Unsure;
        upload.ghost = false;
        let place = Place {
            wire,
            name: number.map(|name| &self.names[name]),
            rough: false,
        };
        protocol::ask(upload, place, &mut self.tally).await?;
        self.tally.offsets_held += 1;
        let stored = upload.stored.clone();
        let (tried, told) = (upload.tried, upload.told);
        match upload.state {
            State::Parked => {
                let Some(number) = number else {
                    return Some(());
                };
                self.names[number].possible = Some(stored);
                let found = self.names[number].observe(wire, &mut self.tally).await?;
                let upload = &mut self.uploads[at];
                match found {
                    Found::Possible => {
                        self.tally.finished_unheard += 1;
                        upload.finish(&mut self.tally);
                    }
                    _ if told > 0 => upload.wrong(
                        &mut self.tally,
                        &format!("told {told}, and now there is neither upload nor box"),
                    ),
                    _ => (upload.tried, upload.state) = (false, State::Fresh),
                }
            }
            // Nobody writes and nothing waits: what was tried before has not happened, and cannot any more.
            State::Open if tried && !wire.is_crowded() => upload.tried = false,
            _ => {}
        }
        self.settle(at);
        Some(())
    }

    /// Holds an upload that is left alone to the offset that was told.
    async fn hold(&mut self, at: usize, wire: &Wire) {
        let upload = &mut self.left[at];
        upload.state = State::Unsure;
        let place = Place {
            wire,
            name: upload.name.map(|name| &self.names[name]),
            rough: false,
        };
        if protocol::ask(upload, place, &mut self.tally)
            .await
            .is_some()
        {
            self.tally.offsets_held += 1;
        }
    }

    /// Looks at what is served under a name.
    async fn observe(&mut self, at: usize, wire: &Wire) {
        if self.is_awaited(at) {
            self.touched.insert(at);
            return;
        }
        let name = &mut self.names[at];
        let possible = name.possible.as_ref().map(|stored| stored.content.length());
        let Some(found) = name.observe(wire, &mut self.tally).await else {
            self.touched.insert(at);
            return;
        };
        if let (Found::Possible, Some(bytes)) = (found, possible) {
            self.published += 1;
            self.tally.finished += 1;
            self.tally.finished_unheard += 1;
            self.tally.finished_bytes += bytes;
        }
        if name.possible.is_some() {
            self.touched.insert(at);
        }
    }
}
