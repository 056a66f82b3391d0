//! The tree above a blob's blocks, as bao lays it out: what a stranger needs to prove any MiB of the blob
//! against its BLAKE3 alone.

use blake3::hazmat::{Mode, merge_subtrees_non_root, merge_subtrees_root};

use super::Blake3;
use super::tree::{BLOCK_BYTES, block_value};
use crate::range::ByteRange;

/// Bytes of one parent: the values of its two children.
const PARENT_BYTES: usize = 64;

/// How many bytes the outboard over so many blocks has.
pub fn outboard_bytes(blocks: usize) -> usize {
    blocks.saturating_sub(1) * PARENT_BYTES
}

/// BLAKE3's parents above 1 MiB groups, made from the groups' values: pre-order, 64 bytes each, without a
/// prefix for the length. A blob of one block has none.
pub fn outboard(values: &[[u8; 32]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(outboard_bytes(values.len()));
    if values.len() > 1 {
        // What the root itself comes to is the blob's digest, and stands nowhere in its tree.
        write_parents(values, &mut out);
    }
    out
}

/// Appends the parents above `values`, of which there are two or more, and gives what they merge to where
/// they are not the root. As deep as the tree is high: 17 levels over 128 GiB.
fn write_parents(values: &[[u8; 32]], out: &mut Vec<u8>) -> [u8; 32] {
    let at = out.len();
    out.extend_from_slice(&[0; PARENT_BYTES]);
    // BLAKE3, section 2.1: the left child holds the largest power of two that leaves the right one some.
    let (left, right) = values.split_at(values.len().next_power_of_two() / 2);
    let mut value_of = |side: &[[u8; 32]]| match side {
        [only] => *only,
        more => write_parents(more, out),
    };
    let (left, right) = (value_of(left), value_of(right));
    out[at..at + 32].copy_from_slice(&left);
    out[at + 32..at + PARENT_BYTES].copy_from_slice(&right);
    merge_subtrees_non_root(&left, &right, Mode::Hash)
}

/// What the values of the blocks of one part come to, where the part is one subtree of its blob: one that begins at a
/// multiple of its length, a power of two blocks, and is full or the blob's last. `None` of no blocks.
pub fn subtree_value(values: &[[u8; 32]]) -> Option<[u8; 32]> {
    match values {
        [] => None,
        [only] => Some(*only),
        more => {
            let (left, right) = more.split_at(more.len().next_power_of_two() / 2);
            let (left, right) = (subtree_value(left)?, subtree_value(right)?);
            Some(merge_subtrees_non_root(&left, &right, Mode::Hash))
        }
    }
}

/// The values of a blob's blocks, proved against its digest: by them each block that comes from a stranger
/// is told from a wrong one by itself.
#[derive(Debug, Clone)]
pub struct ProvedTree {
    root: Blake3,
    length: u64,
    values: Vec<[u8; 32]>,
}

impl ProvedTree {
    /// Takes the outboard of a blob of `length` bytes apart; `None` if it is not the one under `root`.
    ///
    /// A wrong length that needs as many blocks is seen at the last one, whose value depends on it.
    pub fn try_new(root: Blake3, length: u64, outboard: &[u8]) -> Option<Self> {
        let blocks = usize::try_from(length.div_ceil(BLOCK_BYTES)).ok()?;
        if blocks == 0 || outboard.len() != outboard_bytes(blocks) {
            return None;
        }
        let mut values = Vec::with_capacity(blocks);
        if blocks > 1 {
            let mut left = outboard;
            take_parents(&mut left, blocks, Above::Root(root), &mut values)?;
        }
        Some(Self {
            root,
            length,
            values,
        })
    }

    /// Bytes of the blob.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// How many blocks it has.
    pub fn blocks(&self) -> u64 {
        self.length.div_ceil(BLOCK_BYTES)
    }

    /// The bytes of one block.
    ///
    /// # Panics
    /// When there is no such block.
    pub fn range(&self, block: u64) -> ByteRange {
        let start = block.saturating_mul(BLOCK_BYTES);
        let end = start.saturating_add(BLOCK_BYTES).min(self.length);
        ByteRange::try_new(start, end).expect("the block begins within the blob")
    }

    /// Whether these are the bytes of that block.
    pub fn holds(&self, block: u64, bytes: &[u8]) -> bool {
        if block >= self.blocks() || bytes.len() as u64 != self.range(block).length() {
            return false;
        }
        let value = usize::try_from(block)
            .ok()
            .and_then(|at| self.values.get(at));
        match value {
            Some(value) => block_value(block * BLOCK_BYTES, bytes) == *value,
            // A blob of one block has no tree above it: the block's own digest is the blob's.
            None => *blake3::hash(bytes).as_bytes() == self.root.0,
        }
    }
}

/// What a pair of values must merge to.
#[derive(Clone, Copy)]
enum Above {
    Root(Blake3),
    Parent([u8; 32]),
}

/// Takes the parents above `blocks` blocks, two or more, from the front of an outboard, each proved by the
/// one above it; appends the blocks' values.
fn take_parents(
    outboard: &mut &[u8],
    blocks: usize,
    above: Above,
    values: &mut Vec<[u8; 32]>,
) -> Option<()> {
    let (left, rest) = outboard.split_first_chunk::<32>()?;
    let (right, rest) = rest.split_first_chunk::<32>()?;
    *outboard = rest;
    let is_proved = match above {
        Above::Root(root) => *merge_subtrees_root(left, right, Mode::Hash).as_bytes() == root.0,
        Above::Parent(value) => merge_subtrees_non_root(left, right, Mode::Hash) == value,
    };
    if !is_proved {
        return None;
    }
    let of_left = blocks.next_power_of_two() / 2;
    for (value, blocks) in [(*left, of_left), (*right, blocks - of_left)] {
        if blocks == 1 {
            values.push(value);
        } else {
            take_parents(outboard, blocks, Above::Parent(value), values)?;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use bao_tree::BlockSize;
    use bao_tree::io::outboard::PreOrderMemOutboard;

    use super::*;
    use crate::digest::TreeHasher;

    const MIB: usize = 1 << 20;

    #[test]
    fn it_is_what_bao_tree_makes_of_the_bytes() {
        // 2^10 chunks of 1 KiB are our block.
        let groups = BlockSize::from_chunk_log(10);
        for length in [
            0,
            1,
            MIB,
            MIB + 1,
            2 * MIB,
            3 * MIB - 1,
            5 * MIB + 7,
            7 * MIB,
            8 * MIB,
            9 * MIB + 1024,
        ] {
            let bytes: Vec<u8> = (0..length).map(|i| (i % 251).to_le_bytes()[0]).collect();
            let mut hasher = TreeHasher::new();
            hasher.update(&bytes);
            let root = hasher.finish();
            let theirs = PreOrderMemOutboard::create(&bytes, groups);
            assert_eq!(&root.0, theirs.root.as_bytes(), "{length} bytes");
            let values = hasher.take_values();
            assert!(outboard(&values) == theirs.data, "{length} bytes");
            assert_eq!(theirs.data.len(), outboard_bytes(values.len()));
        }
    }

    #[test]
    fn the_values_of_a_part_come_to_its_node_of_the_tree() {
        // Two parts of four blocks, the last one short by some: their nodes are the children of the root.
        for last in [1, MIB, 2 * MIB + 7, 3 * MIB, 4 * MIB] {
            let bytes: Vec<u8> = (0..4 * MIB + last)
                .map(|i| (i % 241).to_le_bytes()[0])
                .collect();
            let mut hasher = TreeHasher::new();
            hasher.update(&bytes);
            let root = hasher.finish();
            let values = hasher.take_values();
            let (first, second) = values.split_at(4);
            let (first, second) = (
                subtree_value(first).unwrap(),
                subtree_value(second).unwrap(),
            );
            let merged = merge_subtrees_root(&first, &second, Mode::Hash);
            assert_eq!(&root.0, merged.as_bytes(), "{last} bytes");
        }
        assert_eq!(subtree_value(&[]), None);
    }

    #[test]
    fn an_outboard_proves_each_block_and_no_other_bytes() {
        for length in [1, MIB, MIB + 1, 3 * MIB - 1, 5 * MIB + 7, 8 * MIB] {
            let bytes: Vec<u8> = (0..length).map(|i| (i % 251).to_le_bytes()[0]).collect();
            let mut hasher = TreeHasher::new();
            hasher.update(&bytes);
            let root = hasher.finish();
            let made = outboard(&hasher.take_values());
            let tree = ProvedTree::try_new(root, length as u64, &made).unwrap();
            for (block, whole) in bytes.chunks(MIB).enumerate() {
                let block = block as u64;
                assert!(tree.holds(block, whole), "{length} bytes, block {block}");
                let mut wrong = whole.to_vec();
                wrong[0] ^= 1;
                assert!(!tree.holds(block, &wrong));
                assert!(!tree.holds(block, &whole[1..]));
                assert!(!tree.holds(block + 1, whole));
            }
            assert!(!tree.holds(tree.blocks(), b""));
        }
    }

    #[test]
    fn an_outboard_with_any_bit_changed_or_of_another_size_is_refused() {
        let values: Vec<[u8; 32]> = (1..=5).map(|i| [i; 32]).collect();
        let good = outboard(&values);
        let mut over_four = values[..4].to_vec();
        let above = |of: &[u8]| {
            let (left, right) = of[..PARENT_BYTES].split_at(32);
            let merged = merge_subtrees_root(
                left.try_into().unwrap(),
                right.try_into().unwrap(),
                Mode::Hash,
            );
            Blake3(*merged.as_bytes())
        };
        let root = above(&good);
        let length = 5 << 20;
        let proved = |bytes: &[u8]| ProvedTree::try_new(root, length, bytes).is_some();
        assert!(proved(&good));
        for at in 0..good.len() {
            let mut wrong = good.clone();
            wrong[at] ^= 0x80;
            assert!(!proved(&wrong), "byte {at}");
        }
        assert!(!proved(&good[..good.len() - 1]) && !proved(&[&good[..], &[0]].concat()));
        assert!(!proved(&outboard(&over_four)) && !proved(&[]));
        over_four.push([9; 32]);
        assert!(!proved(&outboard(&over_four)));
        assert!(ProvedTree::try_new(root, 6 << 20, &good).is_none());
        assert!(ProvedTree::try_new(root, 0, &[]).is_none());
    }
}
