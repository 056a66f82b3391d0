//! What to fetch next. No I/O and no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// The blocks that are still to be fetched, and those on their way.
#[derive(Debug)]
pub struct Plan {
    /// Neither here nor on their way.
    missing: BTreeSet<u64>,
    /// On their way.
    flying: BTreeSet<u64>,
    /// How often what came for a block was wrong.
    wrong: BTreeMap<u64, u32>,
    run_blocks: u64,
}

impl Plan {
    /// Fetches `missing`, at most `run_blocks` at a time.
    pub fn new(missing: impl IntoIterator<Item = u64>, run_blocks: u64) -> Self {
        Self {
            missing: missing.into_iter().collect(),
            flying: BTreeSet::new(),
            wrong: BTreeMap::new(),
            run_blocks: run_blocks.max(1),
        }
    }

    /// The next blocks to fetch by one request, none of them on its way already. A block for which
    /// something wrong came is fetched by itself.
    pub fn take(&mut self) -> Option<Range<u64>> {
        let first = *self.missing.first()?;
        let mut end = first + 1;
        if !self.wrong.contains_key(&first) {
            while end - first < self.run_blocks
                && self.missing.contains(&end)
                && !self.wrong.contains_key(&end)
            {
                end += 1;
            }
        }
        for block in first..end {
            self.missing.remove(&block);
            self.flying.insert(block);
        }
        Some(first..end)
    }

    /// A block is here.
    pub fn stored(&mut self, block: u64) {
        self.flying.remove(&block);
    }

    /// What came for a block was wrong; gives how often that was so.
    pub fn wrong(&mut self, block: u64) -> u32 {
        self.give_back(block..block + 1);
        let count = self.wrong.entry(block).or_default();
        *count += 1;
        *count
    }

    /// Those of a run that are on their way did not come.
    pub fn give_back(&mut self, run: Range<u64>) {
        for block in run {
            if self.flying.remove(&block) {
                self.missing.insert(block);
            }
        }
    }

    /// Whether a block is to be asked for past every cache.
    pub fn is_distrusted(&self, block: u64) -> bool {
        self.wrong.contains_key(&block)
    }

    /// Whether all of them are here.
    pub fn is_done(&self) -> bool {
        self.missing.is_empty() && self.flying.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn runs_are_contiguous_and_bounded_and_a_wrong_block_goes_alone() {
        let mut plan = Plan::new([0, 1, 2, 3, 4, 7, 8], 3);
        assert_eq!(plan.take(), Some(0..3));
        assert_eq!(plan.take(), Some(3..5));
        assert_eq!(plan.take(), Some(7..9));
        assert_eq!(plan.take(), None);
        plan.stored(0);
        assert_eq!(plan.wrong(1), 1);
        plan.stored(2);
        plan.give_back(3..5);
        assert_eq!(plan.take(), Some(1..2));
        assert!(plan.is_distrusted(1) && !plan.is_distrusted(2));
        assert_eq!(plan.wrong(1), 2);
        assert_eq!(plan.take(), Some(1..2));
        plan.stored(1);
        assert_eq!(plan.take(), Some(3..5));
        for block in [3, 4, 7, 8] {
            assert!(!plan.is_done());
            plan.stored(block);
        }
        assert!(plan.is_done());
    }

    proptest! {
        /// Whatever fails, each block is fetched until it is here, by one at a time, and no other is.
        #[test]
        fn every_missing_block_comes_and_none_twice_at_once(
            missing in proptest::collection::btree_set(0_u64..60, 0..40),
            run in 1_u64..9,
            ends in proptest::collection::vec((any::<prop::sample::Index>(), 0_u8..3), 0..200),
        ) {
            let mut plan = Plan::new(missing.iter().copied(), run);
            let mut flights: Vec<Range<u64>> = Vec::new();
            let mut here = BTreeSet::new();
            let mut ends = ends.into_iter();
            loop {
                while flights.len() < 4 && let Some(next) = plan.take() {
                    prop_assert!(next.end - next.start <= run);
                    for block in next.clone() {
                        prop_assert!(missing.contains(&block) && !here.contains(&block));
                        prop_assert!(!flights.iter().any(|flight| flight.contains(&block)));
                    }
                    flights.push(next);
                }
                if flights.is_empty() {
                    break;
                }
                let (which, how) = ends.next().map_or((0, 2), |(i, how)| (i.index(flights.len()), how));
                let flight = flights.swap_remove(which);
                // It breaks at once, brings something wrong first, or comes whole.
                for block in flight.clone() {
                    match how {
                        0 => break,
                        1 if block == flight.start => drop(plan.wrong(block)),
                        _ => {
                            plan.stored(block);
                            here.insert(block);
                        }
                    }
                }
                plan.give_back(flight);
            }
            prop_assert!(plan.is_done());
            prop_assert_eq!(here, missing);
        }
    }
}
