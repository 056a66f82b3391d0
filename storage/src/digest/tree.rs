//! BLAKE3 as a tree: one subtree value per MiB, and the root they merge to.
//!
//! The values prove each MiB on its own, long after the upload, and their parents are the tree of
//! bao at 1 MiB groups. Memory is one value per level of the tree, whatever the length.

use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use super::Blake3;

/// Bytes that one subtree value stands for; the last one of a blob may stand for less.
pub const BLOCK_BYTES: u64 = 1 << 20;

/// The subtree value of one block that starts at `offset`, a multiple of [`BLOCK_BYTES`].
///
/// # Panics
/// When `block` is empty or longer than a block, or `offset` is not where a block starts: no blob
/// has such a block.
pub fn block_value(offset: u64, block: &[u8]) -> [u8; 32] {
    assert!(offset.is_multiple_of(BLOCK_BYTES) && block.len() as u64 <= BLOCK_BYTES);
    let mut open = OpenBlock::at(offset);
    open.fill(block);
    open.value()
}

/// The block that is being filled.
#[derive(Debug, Clone)]
struct OpenBlock {
    hasher: blake3::Hasher,
    bytes: u64,
}

impl OpenBlock {
    /// An empty block whose first byte stands at `offset`, a multiple of [`BLOCK_BYTES`].
    fn at(offset: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(offset);
        Self { hasher, bytes: 0 }
    }

    /// Takes what fits, and gives the rest back.
    fn fill<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let room = BLOCK_BYTES - self.bytes;
        let take = usize::try_from(room).map_or(bytes.len(), |room| room.min(bytes.len()));
        let (now, later) = bytes.split_at(take);
        self.hasher.update(now);
        self.bytes += take as u64;
        later
    }

    fn value(&self) -> [u8; 32] {
        self.hasher.finalize_non_root()
    }
}

/// Hashes bytes in order; gives a value per MiB on the way and the root at the end.
#[derive(Debug, Clone)]
pub struct TreeHasher {
    block: OpenBlock,
    /// Bytes of all finished blocks.
    finished_bytes: u64,
    /// Value of the last finished block; held back, since the right edge merges differently.
    last: Option<[u8; 32]>,
    /// Roots of perfect subtrees left of `last`, the largest first.
    left: Vec<[u8; 32]>,
    left_blocks: u64,
    /// Root over the first block alone, which only ordinary finalisation gives.
    short_root: Option<Blake3>,
    /// Values of finished blocks that were not taken yet.
    values: Vec<[u8; 32]>,
}

impl Default for TreeHasher {
    fn default() -> Self {
        Self::new()
    }
}

impl TreeHasher {
    /// A hasher that has seen nothing.
    pub fn new() -> Self {
        Self {
            block: OpenBlock::at(0),
            finished_bytes: 0,
            last: None,
            left: Vec::new(),
            left_blocks: 0,
            short_root: None,
            values: Vec::new(),
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = self.block.fill(bytes);
            if self.block.bytes == BLOCK_BYTES {
                self.finish_block();
            }
        }
    }

    /// Bytes seen so far.
    pub fn bytes(&self) -> u64 {
        self.finished_bytes + self.block.bytes
    }

    /// The values of the blocks that were finished since the last call.
    pub fn take_values(&mut self) -> Vec<[u8; 32]> {
        std::mem::take(&mut self.values)
    }

    /// The value of the block being filled, over the bytes it has so far; `None` at a block's start.
    pub fn open_value(&self) -> Option<[u8; 32]> {
        (self.block.bytes > 0).then(|| self.block.value())
    }

    /// The tree over all finished blocks: their count (8 bytes, little endian), the last one's value,
    /// the roots left of it, and over one block its own root. A few hundred bytes, whatever the
    /// length. What the open block holds is not in it and must be given again.
    pub fn edge(&self) -> Vec<u8> {
        let mut edge = (self.finished_bytes / BLOCK_BYTES).to_le_bytes().to_vec();
        edge.extend(self.last.iter().flatten());
        edge.extend(self.left.iter().flatten());
        if self.left.is_empty() {
            edge.extend(self.short_root.iter().flat_map(|root| root.0));
        }
        edge
    }

    /// A hasher as it was when [`Self::edge`] was called, at the end of the last finished block;
    /// `None` when no hasher gives such an edge.
    pub fn at_edge(edge: &[u8]) -> Option<Self> {
        let (blocks, values) = edge.split_first_chunk::<8>()?;
        let blocks = u64::from_le_bytes(*blocks);
        let (values, rest) = values.as_chunks::<32>();
        if !rest.is_empty() {
            return None;
        }
        let mut hasher = Self::new();
        let (last, others) = match (blocks, values) {
            (0, []) => return Some(hasher),
            (0, _) | (_, []) => return None,
            (_, [last, others @ ..]) => (*last, others),
        };
        hasher.finished_bytes = blocks.checked_mul(BLOCK_BYTES)?;
        hasher.last = Some(last);
        hasher.left_blocks = blocks - 1;
        if let ([root], 1) = (others, blocks) {
            hasher.short_root = Some(Blake3(*root));
        } else if blocks > 1 && others.len() as u64 == u64::from(hasher.left_blocks.count_ones()) {
            hasher.left = others.to_vec();
        } else {
            return None;
        }
        hasher.block = OpenBlock::at(hasher.finished_bytes);
        Some(hasher)
    }

    /// Ends the content: a short last block gets its value, which the next [`Self::take_values`]
    /// gives with the others. Returns the root, equal to `blake3::hash` of all bytes.
    #[expect(
        clippy::missing_panics_doc,
        reason = "the first block always leaves its root"
    )]
    pub fn finish(&mut self) -> Blake3 {
        if self.block.bytes > 0 {
            self.finish_block();
        }
        let Some(mut right) = self.last else {
            return Blake3(*blake3::hash(b"").as_bytes());
        };
        // The largest perfect subtree stands leftmost, so the right edge folds from the right.
        let mut left = self.left.iter().rev().peekable();
        while let Some(node) = left.next() {
            right = if left.peek().is_some() {
                merge_subtrees_non_root(node, &right, Mode::Hash)
            } else {
                return Blake3(*merge_subtrees_root(node, &right, Mode::Hash).as_bytes());
            };
        }
        self.short_root
            .expect("a tree of one block keeps the root of its first block")
    }

    /// Takes a whole block that was hashed elsewhere, by its value. Not the first block: of a blob that
    /// has no other, only the bytes tell the root. Nor a short one: it would be in the [`Self::edge`],
    /// which a hasher that is put back there is to be given the bytes behind.
    /// False, and nothing is taken, where the last block has not ended.
    pub fn push_block(&mut self, value: [u8; 32]) -> bool {
        let fits = self.block.bytes == 0 && self.finished_bytes > 0;
        if fits {
            self.push_value(value, BLOCK_BYTES);
        }
        fits
    }

    /// Ends the content with a short block that was hashed elsewhere, by its value. Not the only block: see
    /// [`Self::push_block`]. What is left to do is to [finish](Self::finish): an [`Self::edge`] would hold it. False, and nothing is taken, where the last block has not ended.
    pub fn push_end(&mut self, value: [u8; 32], bytes: u64) -> bool {
        let fits = self.block.bytes == 0 && self.finished_bytes > 0 && bytes < BLOCK_BYTES;
        if fits {
            self.push_value(value, bytes);
        }
        fits
    }

    fn finish_block(&mut self) {
        if self.finished_bytes == 0 {
            self.short_root = Some(Blake3(*self.block.hasher.finalize().as_bytes()));
        }
        self.push_value(self.block.value(), self.block.bytes);
    }

    fn push_value(&mut self, value: [u8; 32], bytes: u64) {
        if let Some(previous) = self.last.replace(value) {
            self.push_left(previous);
        }
        self.values.push(value);
        self.finished_bytes += bytes;
        // A short block is the end of the content: nothing follows it, wherever it would be counted.
        let next = self.finished_bytes.next_multiple_of(BLOCK_BYTES);
        self.block = OpenBlock::at(next);
    }

    /// Adds a block that has a right neighbour, and merges what became a perfect subtree by it.
    fn push_left(&mut self, value: [u8; 32]) {
        let mut node = value;
        self.left_blocks += 1;
        for _ in 0..self.left_blocks.trailing_zeros() {
            let sibling = self
                .left
                .pop()
                .expect("each trailing zero of the count is a finished sibling");
            node = merge_subtrees_non_root(&sibling, &node, Mode::Hash);
        }
        self.left.push(node);
    }
}

/// The values of a piece's blocks: MiB by MiB from the piece's start, which is where they have their
/// place in the blob's tree when that start is a multiple of a MiB.
#[derive(Debug, Clone)]
pub struct PieceHasher {
    /// Where the block after the open one begins, as BLAKE3 counts.
    next: u64,
    block: OpenBlock,
    values: Vec<[u8; 32]>,
}

impl PieceHasher {
    /// A hasher of a piece that begins at `start` of its blob.
    pub fn new(start: u64) -> Self {
        Self::at_block(start, 0)
    }

    /// The same from the piece's block of that index on.
    pub fn at_block(start: u64, block: u64) -> Self {
        let aligned = start.is_multiple_of(BLOCK_BYTES);
        let at = if aligned { start } else { 0 } + block * BLOCK_BYTES;
        Self {
            next: at + BLOCK_BYTES,
            block: OpenBlock::at(at),
            values: Vec::new(),
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = self.block.fill(bytes);
            if self.block.bytes == BLOCK_BYTES {
                self.finish_block();
            }
        }
    }

    /// The value of what came last: of the open block, or of the one that just ended.
    pub fn last_value(&self) -> Option<[u8; 32]> {
        if self.block.bytes > 0 {
            return Some(self.block.value());
        }
        self.values.last().copied()
    }

    /// The values of the blocks that ended.
    pub fn values(&self) -> &[[u8; 32]] {
        &self.values
    }

    /// All values; the last may stand for less than a MiB.
    pub fn finish(mut self) -> Vec<[u8; 32]> {
        if self.block.bytes > 0 {
            self.finish_block();
        }
        self.values
    }

    fn finish_block(&mut self) {
        self.values.push(self.block.value());
        self.block = OpenBlock::at(self.next);
        self.next += BLOCK_BYTES;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: usize = 1 << 20;

    fn content(length: usize) -> Vec<u8> {
        (0..length)
            .map(|i| (i * 31 + i / 251).to_le_bytes()[0])
            .collect()
    }

    fn root_of(bytes: &[u8], cuts: &[usize]) -> (Blake3, Vec<[u8; 32]>) {
        let mut hasher = TreeHasher::new();
        let mut from = 0;
        for &cut in cuts.iter().chain([&bytes.len()]) {
            hasher.update(&bytes[from..cut]);
            from = cut;
        }
        let root = hasher.finish();
        assert_eq!(hasher.bytes(), bytes.len() as u64);
        (root, hasher.take_values())
    }

    #[test]
    fn the_root_is_that_of_blake3_at_every_edge() {
        let edges = [0, 1, 1023, 1024, 1025, MIB - 1, MIB, MIB + 1, 2 * MIB];
        let more = [3 * MIB, 3 * MIB + 1, 4 * MIB, 5 * MIB + 7, 7 * MIB, 8 * MIB];
        for length in edges.into_iter().chain(more) {
            let bytes = content(length);
            let (root, values) = root_of(&bytes, &[]);
            assert_eq!(root.0, *blake3::hash(&bytes).as_bytes(), "{length} bytes");
            assert_eq!(values.len(), length.div_ceil(MIB), "{length} bytes");
            for (i, block) in bytes.chunks(MIB).enumerate() {
                assert_eq!(values[i], block_value((i * MIB) as u64, block));
            }
        }
    }

    #[test]
    fn one_block_is_stored_by_its_subtree_value_not_by_its_root() {
        let (root, values) = root_of(b"short", &[]);
        assert_ne!(values, [root.0]);
        assert_eq!(values, [block_value(0, b"short")]);
    }

    #[test]
    fn values_are_given_once_and_in_order() {
        let bytes = content(5 * MIB + 9);
        let mut hasher = TreeHasher::new();
        hasher.update(&bytes[..2 * MIB + 5]);
        let mut values = hasher.take_values();
        assert_eq!(values.len(), 2);
        assert!(hasher.take_values().is_empty());
        hasher.update(&bytes[2 * MIB + 5..]);
        hasher.finish();
        values.extend(hasher.take_values());
        assert_eq!(values, root_of(&bytes, &[]).1);
    }

    #[test]
    fn blocks_that_were_hashed_elsewhere_give_the_same_root() {
        for length in [MIB + 1, 2 * MIB, 5 * MIB + 9, 8 * MIB] {
            let bytes = content(length);
            let mut blocks = bytes.chunks(MIB).enumerate();
            let mut hasher = TreeHasher::new();
            assert!(!hasher.push_block([0; 32]), "never the first");
            hasher.update(blocks.next().unwrap().1);
            for (i, block) in blocks {
                if block.len() == MIB {
                    assert!(hasher.push_block(block_value((i * MIB) as u64, block)));
                } else {
                    hasher.update(block);
                }
            }
            assert_eq!(hasher.finish().0, *blake3::hash(&bytes).as_bytes());
            assert_eq!(hasher.take_values(), root_of(&bytes, &[]).1);
        }
        let mut within = TreeHasher::new();
        within.update(&content(MIB + 1));
        assert!(!within.push_block([0; 32]), "never within a block");
    }

    #[test]
    fn a_short_end_that_was_hashed_elsewhere_makes_the_same_root() {
        for blocks in 1..6 {
            for end in [1, 1024, MIB - 1] {
                let bytes: Vec<u8> = (0..blocks * MIB + end)
                    .map(|i| (i / 7).to_le_bytes()[0])
                    .collect();
                let (before, last) = bytes.split_at(blocks * MIB);
                let mut hasher = TreeHasher::new();
                assert!(!hasher.push_end([0; 32], 5), "never the only block");
                hasher.update(before);
                assert!(!hasher.push_end([0; 32], BLOCK_BYTES), "never a whole one");
                let mut restored = TreeHasher::at_edge(&hasher.edge()).unwrap();
                assert!(restored.push_end(block_value(before.len() as u64, last), end as u64));
                assert_eq!(restored.bytes(), bytes.len() as u64);
                assert_eq!(restored.finish().0, *blake3::hash(&bytes).as_bytes());
            }
        }
    }

    #[test]
    fn a_piece_at_a_mib_has_the_values_of_its_place() {
        let bytes = content(5 * MIB + 9);
        let all = root_of(&bytes, &[]).1;
        let mut piece = PieceHasher::new(2 * MIB as u64);
        assert_eq!(piece.last_value(), None);
        piece.update(&bytes[2 * MIB..3 * MIB]);
        assert_eq!(piece.last_value(), Some(all[2]));
        piece.update(&bytes[3 * MIB..]);
        assert_eq!(piece.last_value(), Some(all[5]));
        assert_eq!(piece.finish(), all[2..]);

        // Elsewhere they only tell equal pieces from others.
        let mut odd = PieceHasher::new(7);
        odd.update(&bytes[..MIB + 3]);
        assert_eq!(odd.finish(), root_of(&bytes[..MIB + 3], &[]).1);
    }

    #[test]
    fn an_edge_that_no_hasher_gives_is_refused() {
        assert!(TreeHasher::at_edge(&TreeHasher::new().edge()).is_some());
        let mut hasher = TreeHasher::new();
        hasher.update(&content(3 * MIB + 1));
        let edge = hasher.edge();
        assert!(TreeHasher::at_edge(&edge).is_some());
        for end in 0..edge.len() {
            assert!(TreeHasher::at_edge(&edge[..end]).is_none(), "{end}");
        }
        let mut longer = edge.clone();
        longer.extend([0; 32]);
        assert!(TreeHasher::at_edge(&longer).is_none());
        let mut huge = edge;
        huge[..8].fill(0xff);
        assert!(TreeHasher::at_edge(&huge).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn a_hasher_put_back_at_an_edge_goes_on_as_if_nothing_happened(
            length in 0usize..6 * MIB,
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let bytes = content(length);
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(length + 1)).collect();
            cuts.sort_unstable();
            let (mut hasher, mut values, mut from) = (TreeHasher::new(), Vec::new(), 0);
            for cut in cuts {
                hasher.update(&bytes[from..cut]);
                values.extend(hasher.take_values());
                let (start, open) = (cut - cut % MIB, hasher.open_value());
                let expected = (cut > start).then(|| block_value(start as u64, &bytes[start..cut]));
                prop_assert_eq!(open, expected);
                hasher = TreeHasher::at_edge(&hasher.edge()).unwrap();
                prop_assert_eq!(hasher.bytes(), start as u64);
                hasher.update(&bytes[start..cut]);
                from = cut;
            }
            hasher.update(&bytes[from..]);
            let root = hasher.finish();
            values.extend(hasher.take_values());
            prop_assert_eq!(root.0, *blake3::hash(&bytes).as_bytes());
            prop_assert_eq!(values, root_of(&bytes, &[]).1);
        }

        #[test]
        fn the_root_does_not_depend_on_how_bytes_arrive(
            length in 0usize..6 * MIB,
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let bytes = content(length);
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(length + 1)).collect();
            cuts.sort_unstable();
            prop_assert_eq!(root_of(&bytes, &cuts).0.0, *blake3::hash(&bytes).as_bytes());
        }
    }
}
