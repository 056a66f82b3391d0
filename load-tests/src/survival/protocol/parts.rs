//! Uploads in numbered parts: several at once, in any order within the window, cut, lied about and sent
//! again. A part that was answered is held from then on, whatever happens to the gateway.

use std::collections::BTreeSet;

use tokio::task::JoinSet;

use super::{HASHED_BYTES, Place, answered, base64, files, is_outcome};
use crate::http::Cut;
use crate::survival::tally::Tally;
use crate::survival::upload::{State, Upload};
use crate::survival::wire::{Body, Heard};

/// Parts that are sent at once, at most.
const AT_ONCE: usize = 8;
/// Parts beyond the committed ones that the gateway takes.
const WINDOW: u64 = 16;

/// What a client knows of its parts.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    /// Bytes of each but the last.
    bytes: u64,
    /// Those that were sent whole, with a digest that is right or none: only these may be held.
    sent: BTreeSet<u64>,
    /// Those that the gateway said it holds.
    held: BTreeSet<u64>,
}

impl Parts {
    fn of(bytes: u64) -> Self {
        Self {
            bytes,
            ..Self::default()
        }
    }

    /// How many are told to be held.
    pub(crate) fn told(&self) -> u64 {
        self.held.len() as u64
    }

    fn count(&self, length: u64) -> u64 {
        length.div_ceil(self.bytes.max(1))
    }

    fn range(&self, k: u64, length: u64) -> (u64, u64) {
        (k * self.bytes, ((k + 1) * self.bytes).min(length))
    }

    /// The end of the bytes that may be committed: of those that were sent without a gap.
    fn reach(&self, length: u64) -> u64 {
        let gap = (0..self.count(length)).find(|k| !self.sent.contains(k));
        gap.map_or(length, |k| k * self.bytes)
    }

    /// Whether nothing but an answer is missing.
    fn all_sent(&self, length: u64) -> bool {
        self.reach(length) == length
    }
}

/// One part on its way.
#[derive(Debug, Clone)]
struct Sending {
    k: u64,
    from: u64,
    to: u64,
    cut: Option<Cut>,
    digest: Option<[u8; 32]>,
    lying: bool,
}

/// POST without a body.
pub(super) async fn create(u: &mut Upload, place: Place<'_>, tally: &mut Tally) -> Option<()> {
    let organization = place.wire.organization();
    let path = match place.name {
        Some(name) => format!("/files?target={}", name.target(organization)),
        None => format!("/files?organization={organization}"),
    };
    let mut headers = vec![("upload-length", u.length().to_string())];
    if u.chance.one_in(3) {
        let value = base64(u.content().sha256(0..u.length()));
        headers.push(("repr-digest", format!("sha-256=:{value}:")));
    }
    let heard = place.wire.ask("POST", &path, &headers).await;
    let Some(answer) = answered(heard, u, "POST", tally)? else {
        return Some(());
    };
    let bytes = answer.headers.number("upload-part-size");
    match (files::created(&answer), bytes) {
        (Some(path), Some(bytes)) if bytes > 0 => {
            u.location = Some(path);
            u.parts = Parts::of(bytes);
            u.go_on();
        }
        _ => {
            u.unexpected(tally, "POST", &answer);
            u.state = State::Unknown;
        }
    }
    Some(())
}

/// Some of the parts that are missing, at once; at times one that is held already.
pub(super) async fn send(u: &mut Upload, place: Place<'_>, tally: &mut Tally) -> Option<()> {
    let batch = choose(u, place.rough);
    let floor = u.told;
    let path = u.location.clone().unwrap_or_default();
    let mut sent = JoinSet::new();
    for part in batch {
        let (wire, content) = (place.wire.clone(), u.content().clone());
        let path = format!("{path}/parts/{}", part.k);
        sent.spawn(async move {
            let digest = part.digest.map(base64);
            let digest = digest.map(|value| ("content-digest", format!("sha-256=:{value}:")));
            let body = Body {
                content: &content,
                from: part.from,
                to: part.to,
                cut: part.cut,
            };
            let headers: Vec<_> = digest.into_iter().collect();
            let heard = wire.send("PUT", &path, &headers, body, |_, _| {}).await;
            (part, heard)
        });
    }
    let interferes = place.rough && u.chance.one_in(12);
    if interferes {
        // Ends all that are on their way; what is held stays held.
        let heard = place.wire.ask("HEAD", &path, &[]).await;
        if let Some(Some(answer)) = answered(heard, u, "HEAD", tally) {
            files::stands(u, &answer, floor, tally);
        }
    }
    let mut doomed = false;
    let mut all_held = true;
    while let Some(heard) = sent.join_next().await {
        let (part, heard) = heard.expect("a sender does not panic and is not aborted");
        all_held &= heard_of(u, &part, heard, floor, interferes, tally).unwrap_or_else(|| {
            doomed = true;
            false
        });
    }
    if all_held && u.state == State::Unsure && !interferes {
        u.state = State::Open;
    }
    (!doomed).then_some(())
}

/// What became of one part: whether it is held now. `None` when the gateway is being ended.
fn heard_of(
    u: &mut Upload,
    part: &Sending,
    heard: Heard,
    floor: u64,
    interfered: bool,
    tally: &mut Tally,
) -> Option<bool> {
    let Some(answer) = answered(heard, u, "PUT", tally)? else {
        return Some(false);
    };
    let told = answer.headers.number("upload-offset");
    match (answer.status, told) {
        (201 | 204, Some(offset)) if !part.lying => {
            if u.parts.held.insert(part.k) {
                tally.parts_told += 1;
            }
            u.note(offset, floor, tally);
            if answer.status == 201 {
                is_outcome(u, &answer, tally);
                if !u.tried {
                    u.wrong(tally, "is finished, and parts were never sent");
                }
                u.finish(tally);
            }
            return Some(true);
        }
        (400, _) if part.lying => {}
        // The HEAD took it, or a sender that was cut and comes late has it still.
        (409, _) if interfered || u.ghost => u.overtaken(None, floor, tally),
        _ => u.unexpected(tally, "PUT", &answer),
    }
    if u.state == State::Open {
        u.state = State::Unsure;
    }
    Some(false)
}

fn choose(u: &mut Upload, rough: bool) -> Vec<Sending> {
    let length = u.length();
    let count = u.parts.count(length);
    let first = u.told / u.parts.bytes.max(1);
    let held = |k: &u64| u.parts.held.contains(k);
    let mut missing: Vec<u64> = (first..(first + WINDOW).min(count))
        .filter(|k| !held(k))
        .collect();
    if missing.is_empty() {
        // All that it may send are held. Where those are all there are, any of them asks what became of it; else
        // the gateway is behind with committing, and must come to the next one while that waits.
        missing.push((first + WINDOW).min(count - 1));
    } else if u.chance.one_in(10) {
        missing.extend(u.parts.held.iter().next_back());
    }
    let at_once = 1 + u.chance.pick(AT_ONCE);
    let mut batch = Vec::new();
    while batch.len() < at_once && !missing.is_empty() {
        let k = missing.swap_remove(u.chance.pick(missing.len()));
        let (from, to) = u.parts.range(k, length);
        let short = to - from <= HASHED_BYTES;
        let lying = rough && u.chance.one_in(20) && !u.parts.held.contains(&k);
        let hashed = lying || u.chance.one_in(if short { 3 } else { 8 });
        // A wrong one is that of other bytes, and of no beginning of these.
        let digest = hashed.then(|| u.content().sha256(from + u64::from(lying)..to));
        let cut = u.cut(from, to, if rough { 6 } else { u64::MAX });
        if cut.is_none() && !lying {
            u.parts.sent.insert(k);
        }
        batch.push(Sending {
            k,
            from,
            to,
            cut,
            digest,
            lying,
        });
    }
    u.sent = u.sent.max(u.parts.reach(length));
    u.tried |= u.parts.all_sent(length);
    batch
}

/// GET, which ends nobody's request: all parts that were told to be held must be.
pub(super) async fn ask(u: &mut Upload, place: Place<'_>, tally: &mut Tally) -> Option<()> {
    let Some(path) = u.location.clone() else {
        u.state = State::Unknown;
        return Some(());
    };
    let floor = u.told;
    let heard = place.wire.ask("GET", &path, &[]).await;
    let Some(answer) = answered(heard, u, "GET", tally)? else {
        return Some(());
    };
    let document: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let offset = document["offset"].as_u64();
    match (answer.status, document["state"].as_str(), offset) {
        (200, Some("open"), Some(offset)) => {
            u.note(offset, floor, tally);
            let held = document["parts"]["held"].as_array();
            let held = held
                .into_iter()
                .flatten()
                .filter_map(serde_json::Value::as_u64);
            compare(u, &held.collect(), offset, tally);
            u.go_on();
        }
        (200, Some("completing"), Some(offset)) => {
            u.note(offset, floor, tally);
            u.state = State::Unsure;
            // GET ends nothing; whoever asks by HEAD has it ended.
            return files::ask(u, place, tally).await;
        }
        (200, Some("done"), Some(offset)) => {
            u.note(offset, floor, tally);
            is_outcome(u, &answer, tally);
            if !u.tried {
                u.wrong(tally, "is finished, and parts were never sent");
            }
            if u.state != State::Finished {
                tally.finished_unheard += 1;
            }
            u.finish(tally);
        }
        (404 | 410, ..) if u.cancelling => u.state = State::Cancelled,
        _ => u.unexpected(tally, "GET", &answer),
    }
    Some(())
}

/// Parts that are held beyond the offset, beside what was told before.
fn compare(u: &mut Upload, held: &BTreeSet<u64>, offset: u64, tally: &mut Tally) {
    let length = u.length();
    let is_there = |k: &u64| u.parts.range(*k, length).1 <= offset || held.contains(k);
    let lost: Vec<_> = u.parts.held.iter().filter(|k| !is_there(k)).collect();
    let never: Vec<_> = held.iter().filter(|k| !u.parts.sent.contains(k)).collect();
    if !lost.is_empty() {
        let what = format!("parts {lost:?} were held, and now {held:?} beyond {offset}");
        u.wrong(tally, &what);
    }
    if !never.is_empty() {
        let what = format!("parts {never:?} are held, and were never sent whole");
        u.wrong(tally, &what);
    }
    tally.parts_held += u.parts.held.len() as u64;
    u.parts.held.extend(held);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::survival::upload::tests::upload;

    const P: u64 = 8 << 20;

    #[test]
    fn a_part_that_was_told_and_is_gone_or_was_never_sent_is_noticed() {
        let mut u = upload(5 * P + 7);
        let mut tally = Tally::default();
        u.parts = Parts::of(P);
        u.parts.sent = [0, 2, 3].into();
        u.parts.held = [0, 2].into();
        compare(&mut u, &[2, 3].into(), P, &mut tally);
        assert_eq!(tally.wrong, Vec::<String>::new());
        assert!(u.parts.held.contains(&3));
        // Below the offset is as good as held.
        compare(&mut u, &[].into(), 4 * P, &mut tally);
        assert_eq!(tally.wrong.len(), 0);
        compare(&mut u, &[2].into(), P, &mut tally);
        compare(&mut u, &[2, 3, 5].into(), P, &mut tally);
        assert_eq!(tally.wrong.len(), 2, "{:?}", tally.wrong);
    }

    #[test]
    fn parts_are_chosen_within_the_window_until_none_is_missing() {
        let mut u = upload(40 * P + 7);
        u.parts = Parts::of(P);
        let mut most = 0;
        while !u.tried {
            let batch = choose(&mut u, false);
            most = most.max(batch.len());
            let first = u.told / P;
            assert!(!batch.is_empty() && batch.iter().all(|part| part.k < first + WINDOW));
            u.parts.held.extend(batch.iter().map(|part| part.k));
            u.told = u.parts.reach(u.length());
            assert_eq!(u.sent, u.told);
        }
        assert_eq!((most, u.parts.held.len()), (AT_ONCE, 41));
        assert_eq!(choose(&mut u, false)[0].k, 40);
    }
}
