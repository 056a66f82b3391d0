//! The tree above a blob's blocks, as bao lays it out: what a stranger needs to prove any MiB of the blob
//! against its BLAKE3 alone.

use blake3::hazmat::{Mode, merge_subtrees_non_root};

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
}
