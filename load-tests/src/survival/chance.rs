//! Every random choice, from one seed: the same seed makes the same choices again, in each stream by
//! itself, however the streams interleave.

/// A stream of choices.
#[derive(Debug, Clone)]
pub(crate) struct Chance(fastrand::Rng);

impl Chance {
    /// The stream that `path` names below the seed: a client, a cycle, an upload.
    pub(crate) fn new(seed: u64, path: &[u64]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes());
        for step in path {
            hasher.update(&step.to_le_bytes());
        }
        let mut own = [0; 8];
        hasher.finalize_xof().fill(&mut own);
        Self(fastrand::Rng::with_seed(u64::from_le_bytes(own)))
    }

    /// Less than `n`, all alike.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0.u64(..n)
    }

    /// True once in `n` times.
    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// From `least` to `most`, each octave alike: small sizes and short times are where the edges are.
    pub(crate) fn octaves(&mut self, least: u64, most: u64) -> u64 {
        let (low, high) = (least.max(1).ilog2(), most.max(1).ilog2());
        let octave = 1 << self.0.u32(low..=high);
        let upper = (2 * octave - 1).min(most);
        self.0.u64(octave.max(least).min(upper)..=upper)
    }

    /// One of them.
    pub(crate) fn pick(&mut self, among: usize) -> usize {
        self.0.usize(..among)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_and_a_path_always_give_the_same_choices() {
        let choices = |seed, path: &[u64]| -> Vec<u64> {
            let mut chance = Chance::new(seed, path);
            (0..50).map(|_| chance.below(1000)).collect()
        };
        assert_eq!(choices(1, &[2, 3]), choices(1, &[2, 3]));
        assert_ne!(choices(1, &[2, 3]), choices(1, &[3, 2]));
        assert_ne!(choices(1, &[2, 3]), choices(2, &[2, 3]));
    }

    #[test]
    fn octaves_stay_within_their_bounds_and_reach_both_ends() {
        let mut chance = Chance::new(7, &[]);
        let drawn: Vec<u64> = (0..5000).map(|_| chance.octaves(10, 1500)).collect();
        assert!(drawn.iter().all(|n| (10..=1500).contains(n)));
        assert!(drawn.iter().any(|n| *n < 20) && drawn.iter().any(|n| *n > 1024));
        assert_eq!(chance.octaves(1, 1), 1);
        assert_eq!(chance.octaves(5, 5), 5);
    }
}
