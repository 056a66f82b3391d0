//! What an earlier push of the same file left on the gateway, where nothing is kept beside the file: it was killed on
//! another machine, as a CI's runners are.
//!
//! An upload to the same name and of the same length may be another file's all the same. So each part that is held is
//! compared with the file, and the gateway is told the digest of the whole before anything more is sent: were another
//! client still sending to it, nothing that both of them sent a part of could be published.

use std::borrow::Cow;
use std::fs::File;

use boxgate_storage::digest::outboard::subtree_value;
use boxgate_storage::digest::{BLOCK_BYTES, block_value};

use super::body::read;
use super::hash::Hashed;
use super::plan::Cut;
use super::protocol::{self, LARGEST_PART, Unfinished};
use super::{Begun, Notice, Push, PushError};
use crate::client::ClientError;

/// Uploads that are compared, the newest first; each takes a request for some hundred parts.
const MOST_COMPARED: usize = 8;

impl Push<'_> {
    /// Uploads to the same name and of the same length of which something is held.
    pub(super) async fn left_behind(&self) -> Result<Vec<Begun>, PushError> {
        if self.order.afresh {
            return Ok(Vec::new());
        }
        let found = self
            .patiently("looking for an earlier push", || {
                protocol::unfinished(self.client, &self.order.target)
            })
            .await;
        let found = match found {
            Ok(found) => found,
            // An older gateway does not tell; for all else beginning one is refused, too.
            Err(PushError::Refused(_)) => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let fitting = found.into_iter().filter_map(|one| self.fitting(one));
        Ok(fitting.take(MOST_COMPARED).collect())
    }

    fn fitting(&self, one: Unfinished) -> Option<Begun> {
        if one.length != Some(self.source.identity.size) {
            return None;
        }
        let in_order = one.is_in_order();
        let begun = match one.parts {
            Some(parts) if is_subtree(parts.size) => {
                let mut begun = self.planned(one.url, parts.size);
                let (plan, _) = begun.parts.as_mut()?;
                plan.read(one.offset, parts.held);
                begun.held_before = plan.held_bytes();
                begun
            }
            None if in_order => Begun {
                held_before: one.offset,
                ..self.planned(one.url, 0)
            },
            _ => return None,
        };
        (begun.held_before > 0).then_some(begun)
    }

    /// The first of them that is of this file, bound to it from here on.
    pub(super) async fn same_of(
        &self,
        left: Vec<Begun>,
        hashed: &Hashed,
    ) -> Result<Option<Begun>, PushError> {
        if left.is_empty() {
            return Ok(None);
        }
        for candidate in left {
            let bound = self
                .patiently("comparing what is held", || self.bound(&candidate, hashed))
                .await;
            let standing = match bound {
                Ok(Some(standing)) => standing,
                // It ended meanwhile, or is to become something else.
                Ok(None) => continue,
                Err(PushError::Refused(e)) if matches!(e.status(), Some(404 | 409 | 410)) => {
                    continue;
                }
                Err(e) => return Err(e),
            };
            let part_bytes = candidate.parts.map_or(0, |(_, cut)| cut.part_bytes);
            match self.where_it_stands(candidate.upload, part_bytes, standing) {
                Ok(begun) => {
                    let (held, length) = (begun.held_before, self.source.identity.size);
                    (self.tell)(Notice::Same { held, length });
                    return Ok(Some(begun));
                }
                Err(PushError::TakenOver) => {}
                Err(e) => return Err(e),
            }
        }
        (self.tell)(Notice::NotSame);
        Ok(None)
    }

    /// Where an upload stands that holds nothing but bytes of this file, and will hold no others; `None` of one that
    /// holds others.
    async fn bound(
        &self,
        candidate: &Begun,
        hashed: &Hashed,
    ) -> Result<Option<protocol::Standing>, ClientError> {
        let (client, upload) = (self.client, &candidate.upload);
        let mut from = Some(0);
        while let Some(first) = from {
            let held = protocol::held_parts(client, upload, first).await?;
            let (cut, values) = match (&candidate.parts, held.offset) {
                (Some((_, cut)), _) => (*cut, Cow::from(&hashed.values)),
                (None, Some(offset)) if is_subtree(held.size) => {
                    let cut = Cut {
                        length: offset,
                        part_bytes: held.size,
                    };
                    match values_up_to(&self.source.file, &hashed.values, offset) {
                        Some(values) => (cut, values.into()),
                        None => return Ok(None),
                    }
                }
                _ => return Ok(None),
            };
            let is_same = |held: &protocol::HeldPart| {
                part_value(&values, cut, held.part)
                    .is_some_and(|value| hex::encode(value).eq_ignore_ascii_case(&held.blake3))
            };
            if !held.parts.iter().all(is_same) {
                return Ok(None);
            }
            from = held.next;
            if from.is_some_and(|next| next <= first) {
                return Err(client.odd("its list of parts has no end"));
            }
        }
        protocol::declare(client, upload, &hashed.digests).await?;
        protocol::standing(client, upload).await.map(Some)
    }
}

/// Whether parts of so many bytes are subtrees of the file's tree.
fn is_subtree(part_bytes: u64) -> bool {
    part_bytes.is_power_of_two() && (BLOCK_BYTES..LARGEST_PART).contains(&part_bytes)
}

/// The values of the blocks that the file would have if it ended there, by those that it has; `None` where it ends before.
fn values_up_to(file: &File, values: &[[u8; 32]], end: u64) -> Option<Vec<[u8; 32]>> {
    let whole = usize::try_from(end / BLOCK_BYTES).ok()?;
    let mut values = values.get(..whole)?.to_vec();
    let start = end - end % BLOCK_BYTES;
    if start < end {
        values.push(block_value(start, &read(file, start..end).ok()?));
    }
    Some(values)
}

/// The value of a part, by those of the file's blocks; `None` of a part that the file does not have.
fn part_value(values: &[[u8; 32]], cut: Cut, part: u64) -> Option<[u8; 32]> {
    let range = cut.range(part);
    if range.is_empty() {
        return None;
    }
    let first = usize::try_from(range.start / BLOCK_BYTES).ok()?;
    let end = usize::try_from(range.end.div_ceil(BLOCK_BYTES)).ok()?;
    subtree_value(values.get(first..end)?)
}

#[cfg(test)]
mod tests {
    use boxgate_storage::digest::TreeHasher;

    use super::*;

    #[test]
    fn a_part_has_its_own_value_and_one_that_is_not_there_has_none() {
        let mut hasher = TreeHasher::new();
        hasher.update(&vec![7; 9 << 20]);
        hasher.update(b"and a rest");
        hasher.finish();
        let values = hasher.take_values();
        let cut = Cut {
            length: (9 << 20) + 10,
            part_bytes: 4 << 20,
        };
        assert_eq!(part_value(&values, cut, 0), subtree_value(&values[..4]));
        assert_eq!(part_value(&values, cut, 2), subtree_value(&values[8..]));
        assert_eq!(part_value(&values, cut, 3), None);
        assert_eq!(part_value(&values, cut, u64::MAX), None);
        assert_eq!(part_value(&values[..9], cut, 2), None, "values are missing");
    }
}
