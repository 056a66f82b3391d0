//! All hashes of one upload, fed once with each byte.
//!
//! BLAKE3 always runs, and SHA-256 unless it is deferred. MD5, SHA-1, SHA-384 and SHA-512 run only when a client
//! declared one, since each costs as much as all the rest together. What all of them know can be stored and
//! restored, as a versioned map that later versions can extend.

use digest::common::hazmat::{SerializableState, SerializedState};
use sha2::Digest as _;

use super::{Algorithm, Blake3, Digest, Sha256, TreeHasher};
use crate::error::{Error, ErrorKind, Result};

/// What the hashers of an upload found.
#[derive(Debug, Clone)]
pub struct Digests {
    /// BLAKE3 of all bytes.
    pub blake3: Blake3,
    /// SHA-256 of all bytes, unless it is deferred.
    pub sha256: Option<Sha256>,
    /// Those that were asked for beyond the two.
    pub extra: Vec<Digest>,
}

impl Digests {
    /// The digest by `algorithm`, if it was computed.
    pub fn by(&self, algorithm: Algorithm) -> Option<Digest> {
        match algorithm {
            Algorithm::Blake3 => Some(self.blake3.into()),
            Algorithm::Sha256 => self.sha256.map(Digest::from),
            _ => self
                .extra
                .iter()
                .find(|d| d.algorithm() == algorithm)
                .cloned(),
        }
    }

    /// Refuses bytes that have another digest than was declared.
    ///
    /// # Errors
    /// [`ErrorKind::DigestMismatch`], naming both.
    pub(crate) fn compare(
        &self,
        op: &'static str,
        subject: &str,
        declared: &[Digest],
    ) -> Result<()> {
        for declared in declared {
            let algorithm = declared.algorithm();
            let found = self.by(algorithm);
            if found.as_ref() != Some(declared) {
                let found = found.map_or_else(String::new, |found| found.to_hex());
                let why = format!("{} is {found}, not {}", algorithm.name(), declared.to_hex());
                return Err(Error::new(ErrorKind::DigestMismatch, op, subject).with_source(why));
            }
        }
        Ok(())
    }
}

/// Hashes the bytes of one upload, in order.
#[derive(Debug, Clone)]
pub struct ContentHasher {
    tree: TreeHasher,
    order: OrderHasher,
}

/// The half of them that knows no tree: SHA-256 and what was asked for. It may be taken along by who hashes elsewhere.
#[derive(Debug, Clone, Default)]
pub(crate) struct OrderHasher {
    sha256: Option<sha2::Sha256>,
    extra: Vec<InOrder>,
}

impl OrderHasher {
    /// Takes the next bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
        for extra in &mut self.extra {
            extra.update(bytes);
        }
    }

    /// Adds its states to the [map](ContentHasher::states) of the other half.
    pub(crate) fn put(&self, map: &mut Vec<u8>) {
        match &self.sha256 {
            Some(sha256) => put_state(map, Algorithm::Sha256, &sha256.serialize()),
            None => put_state(map, Algorithm::Sha256, &[]),
        }
        for extra in &self.extra {
            extra.put(map);
        }
    }
}

impl ContentHasher {
    /// Hashers for BLAKE3, SHA-256 and every further algorithm in `wanted`.
    pub fn new(wanted: impl IntoIterator<Item = Algorithm>) -> Self {
        Self::deferring(wanted.into_iter().chain([Algorithm::Sha256]))
    }

    /// Hashers for BLAKE3 and the algorithms in `wanted`: SHA-256 is left to others unless it is among them.
    pub fn deferring(wanted: impl IntoIterator<Item = Algorithm>) -> Self {
        let mut hasher = Self {
            tree: TreeHasher::new(),
            order: OrderHasher::default(),
        };
        for algorithm in wanted {
            hasher.want(algorithm);
        }
        hasher
    }

    /// Whether `algorithm` is being computed.
    pub fn has(&self, algorithm: Algorithm) -> bool {
        match algorithm {
            Algorithm::Blake3 => true,
            Algorithm::Sha256 => self.order.sha256.is_some(),
            _ => self.order.extra.iter().any(|e| e.algorithm() == algorithm),
        }
    }

    /// Adds an algorithm; false when it is too late, because bytes went by without it, and for a
    /// checksum that is no digest of a whole blob.
    pub fn want(&mut self, algorithm: Algorithm) -> bool {
        if self.bytes() == 0 && !self.has(algorithm) {
            match algorithm {
                Algorithm::Sha256 => self.order.sha256 = Some(sha2::Sha256::new()),
                _ => self.order.extra.extend(InOrder::new(algorithm)),
            }
        }
        self.has(algorithm)
    }

    /// Takes the next bytes into all hashes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.update_tree(bytes);
        self.update_in_order(bytes);
    }

    /// The BLAKE3 half of [`Self::update`], apart so that it can be timed alone.
    pub fn update_tree(&mut self, bytes: &[u8]) {
        self.tree.update(bytes);
    }

    /// The same half for a whole block that was hashed elsewhere; false where
    /// [`TreeHasher::push_block`] takes none.
    pub fn push_block(&mut self, value: [u8; 32]) -> bool {
        self.tree.push_block(value)
    }

    /// The same half for a short block at the content's end; false where [`TreeHasher::push_end`] takes none.
    pub fn push_end(&mut self, value: [u8; 32], bytes: u64) -> bool {
        self.tree.push_end(value, bytes)
    }

    /// Whether [`Self::update_in_order`] has anything to do.
    pub fn needs_order(&self) -> bool {
        self.order.sha256.is_some() || !self.order.extra.is_empty()
    }

    /// The other half of [`Self::update`]: SHA-256 and what was asked for.
    pub fn update_in_order(&mut self, bytes: &[u8]) {
        self.order.update(bytes);
    }

    /// What [`Self::update_in_order`] updates, as it is.
    pub(crate) fn order(&self) -> &OrderHasher {
        &self.order
    }

    /// Takes it back from who hashed on with it.
    pub(crate) fn set_order(&mut self, order: OrderHasher) {
        self.order = order;
    }

    /// Bytes seen so far.
    pub fn bytes(&self) -> u64 {
        self.tree.bytes()
    }

    /// BLAKE3 values of the blocks that were finished since the last call.
    pub fn take_values(&mut self) -> Vec<[u8; 32]> {
        self.tree.take_values()
    }

    /// Ends the content. The value of a short last block is in the next [`Self::take_values`].
    pub fn finish(&mut self) -> Digests {
        Digests {
            blake3: self.tree.finish(),
            sha256: self
                .order
                .sha256
                .clone()
                .map(|sha256| Sha256(sha256.finalize().into())),
            extra: self.order.extra.iter().map(InOrder::digest).collect(),
        }
    }

    /// BLAKE3 value of the block being filled, over the bytes it has so far.
    pub fn open_value(&self) -> Option<[u8; 32]> {
        self.tree.open_value()
    }

    /// The states of all hashes as a versioned map:
    /// `version, then (name length, name, state length as u16 little endian, state)` for each. BLAKE3
    /// has no state within a block; its state is that of the tree up to the open block. A deferred SHA-256 has an
    /// empty one.
    pub fn states(&self) -> Vec<u8> {
        let mut map = self.tree_states();
        self.order.put(&mut map);
        map
    }

    /// The beginning of that map, without those of [`Self::order`].
    pub(crate) fn tree_states(&self) -> Vec<u8> {
        let mut map = vec![STATES_VERSION];
        put_state(&mut map, Algorithm::Blake3, &self.tree.edge());
        map
    }

    /// The hashers as they were when [`Self::states`] was called, but for the bytes of the block that
    /// was open: [`Self::bytes`] tells where that starts, and [`Self::update_tree`] wants them again.
    ///
    /// # Errors
    /// When the map is of another version, cut, or lacks BLAKE3 or SHA-256: then all bytes must be
    /// read again.
    pub fn restore(map: &[u8]) -> Result<Self, HashStateError> {
        let (version, mut rest) = map.split_first().ok_or(HashStateError::Truncated)?;
        if *version != STATES_VERSION {
            return Err(HashStateError::Version { found: *version });
        }
        let (mut tree, mut sha256) = (None, None);
        let mut extra = Vec::new();
        while !rest.is_empty() {
            let (name, state) = take_state(&mut rest).ok_or(HashStateError::Truncated)?;
            match std::str::from_utf8(name)
                .ok()
                .and_then(Algorithm::from_name)
            {
                Some(Algorithm::Blake3) => tree = TreeHasher::at_edge(state),
                Some(Algorithm::Sha256) if state.is_empty() => sha256 = Some(None),
                Some(Algorithm::Sha256) => sha256 = Some(Some(restore::<sha2::Sha256>(state)?)),
                Some(algorithm) => extra.push(InOrder::restore(algorithm, state)?),
                None => return Err(HashStateError::Unreadable),
            }
        }
        let sha256 = sha256.ok_or(HashStateError::Unreadable)?;
        Ok(Self {
            tree: tree.ok_or(HashStateError::Unreadable)?,
            order: OrderHasher { sha256, extra },
        })
    }
}

/// One hash over some bytes, such as those of one request.
#[derive(Debug, Clone)]
pub struct DigestHasher(One);

#[derive(Debug, Clone)]
enum One {
    Blake3(Box<blake3::Hasher>),
    Sha256(sha2::Sha256),
    Crc32(crc32fast::Hasher),
    InOrder(InOrder),
}

impl DigestHasher {
    /// A hasher that has seen nothing.
    #[expect(
        clippy::missing_panics_doc,
        reason = "what is neither of the three runs in order"
    )]
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Blake3 => One::Blake3(Box::default()),
            Algorithm::Sha256 => One::Sha256(sha2::Sha256::new()),
            Algorithm::Crc32 => One::Crc32(crc32fast::Hasher::new()),
            _ => One::InOrder(InOrder::new(algorithm).expect("all others run in order")),
        })
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            One::Blake3(hasher) => {
                hasher.update(bytes);
            }
            One::Sha256(hasher) => hasher.update(bytes),
            One::Crc32(hasher) => hasher.update(bytes),
            One::InOrder(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of what was seen.
    #[expect(clippy::missing_panics_doc, reason = "a checksum has its own length")]
    pub fn finish(self) -> Digest {
        match self.0 {
            One::Blake3(hasher) => Blake3(*hasher.finalize().as_bytes()).into(),
            One::Sha256(hasher) => Sha256(hasher.finalize().into()).into(),
            One::Crc32(hasher) => {
                Digest::try_new(Algorithm::Crc32, hasher.finalize().to_be_bytes().to_vec())
                    .expect("a CRC-32 has four bytes")
            }
            One::InOrder(hasher) => hasher.digest(),
        }
    }
}

/// Why stored hash states cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HashStateError {
    /// The map ends within an entry.
    #[error("stored hash states are cut short")]
    Truncated,
    /// The map was written by another version.
    #[error("stored hash states have version {found}, not {STATES_VERSION}")]
    Version {
        /// The version in the map.
        found: u8,
    },
    /// An entry is not a state of its algorithm.
    #[error("a stored hash state is not one of its algorithm")]
    Unreadable,
}

/// Version of the map in [`ContentHasher::states`]; the layout of a state is that of its crate.
const STATES_VERSION: u8 = 1;

macro_rules! in_order {
    ($($name:ident => $hasher:ty),+ $(,)?) => {
        /// A hash that runs on demand and needs its bytes in order.
        #[derive(Debug, Clone)]
        enum InOrder {
            $($name($hasher)),+
        }

        impl InOrder {
            fn new(algorithm: Algorithm) -> Option<Self> {
                match algorithm {
                    $(Algorithm::$name => Some(Self::$name(<$hasher>::new())),)+
                    Algorithm::Sha256 | Algorithm::Blake3 | Algorithm::Crc32 => None,
                }
            }

            fn algorithm(&self) -> Algorithm {
                match self {
                    $(Self::$name(_) => Algorithm::$name),+
                }
            }

            fn update(&mut self, bytes: &[u8]) {
                match self {
                    $(Self::$name(hasher) => hasher.update(bytes)),+
                }
            }

            fn digest(&self) -> Digest {
                let bytes = match self {
                    $(Self::$name(hasher) => hasher.clone().finalize().to_vec()),+
                };
                Digest::try_new(self.algorithm(), bytes)
                    .expect("a hasher gives a digest of its own length")
            }

            fn put(&self, map: &mut Vec<u8>) {
                match self {
                    $(Self::$name(hasher) => {
                        put_state(map, Algorithm::$name, &hasher.serialize());
                    }),+
                }
            }

            fn restore(algorithm: Algorithm, state: &[u8]) -> Result<Self, HashStateError> {
                match algorithm {
                    $(Algorithm::$name => Ok(Self::$name(restore(state)?)),)+
                    Algorithm::Sha256 | Algorithm::Blake3 | Algorithm::Crc32 => {
                        Err(HashStateError::Unreadable)
                    }
                }
            }
        }
    };
}

in_order! {
    Md5 => md5::Md5,
    Sha1 => sha1::Sha1,
    Sha384 => sha2::Sha384,
    Sha512 => sha2::Sha512,
}

fn restore<H: SerializableState>(state: &[u8]) -> Result<H, HashStateError> {
    let state =
        SerializedState::<H>::try_from(state).map_err(|_strange| HashStateError::Unreadable)?;
    H::deserialize(&state).map_err(|_strange| HashStateError::Unreadable)
}

fn put_state(map: &mut Vec<u8>, algorithm: Algorithm, state: &[u8]) {
    let name = algorithm.name().as_bytes();
    map.push(u8::try_from(name.len()).expect("names of algorithms are short"));
    map.extend_from_slice(name);
    let length = u16::try_from(state.len()).expect("hash states are a few hundred bytes");
    map.extend_from_slice(&length.to_le_bytes());
    map.extend_from_slice(state);
}

fn take_state<'m>(rest: &mut &'m [u8]) -> Option<(&'m [u8], &'m [u8])> {
    let (name_bytes, after) = rest.split_first()?;
    let (name, after) = after.split_at_checked(usize::from(*name_bytes))?;
    let (length, after) = after.split_first_chunk::<2>()?;
    let (state, after) = after.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    *rest = after;
    Some((name, state))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_answers_of_all_algorithms() {
        let mut hasher = ContentHasher::new(Algorithm::ALL);
        hasher.update(b"ab");
        hasher.update(b"c");
        let found = hasher.finish();
        let expected = [
            (Algorithm::Md5, "900150983cd24fb0d6963f7d28e17f72"),
            (Algorithm::Sha1, "a9993e364706816aba3e25717850c26c9cd0d89d"),
            (
                Algorithm::Sha256,
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
            (
                Algorithm::Sha384,
                "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded163\
                 1a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
            ),
            (
                Algorithm::Sha512,
                "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                 2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
            ),
            (
                Algorithm::Blake3,
                "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85",
            ),
        ];
        for (algorithm, hex) in expected {
            assert_eq!(found.by(algorithm).unwrap().to_hex(), hex, "{algorithm:?}");
        }
    }

    #[test]
    fn only_the_two_that_always_run_can_be_wanted_late() {
        let mut hasher = ContentHasher::new([Algorithm::Md5]);
        hasher.update(b"x");
        assert!(hasher.want(Algorithm::Blake3));
        assert!(hasher.want(Algorithm::Sha256));
        assert!(hasher.want(Algorithm::Md5));
        assert!(!hasher.want(Algorithm::Sha1));
        assert!(hasher.finish().by(Algorithm::Sha1).is_none());
    }

    #[test]
    fn states_of_another_version_or_cut_short_are_refused() {
        let map = ContentHasher::new([]).states();
        let refusal = |map: &[u8]| ContentHasher::restore(map).unwrap_err();
        assert_eq!(refusal(&[]), HashStateError::Truncated);
        assert_eq!(refusal(&[1]), HashStateError::Unreadable);
        assert_eq!(refusal(&[9]), HashStateError::Version { found: 9 });
        // Cut between two entries, the map is a good one without SHA-256.
        let entry = 1 + 1 + "blake3".len() + 2 + TreeHasher::new().edge().len();
        for end in 2..map.len() {
            let expected = if end == entry {
                HashStateError::Unreadable
            } else {
                HashStateError::Truncated
            };
            assert_eq!(refusal(&map[..end]), expected, "{end}");
        }
        let mut strange = map.clone();
        strange[2] = b'x';
        assert_eq!(refusal(&strange), HashStateError::Unreadable);
    }

    proptest! {
        #[test]
        fn restored_states_go_on_as_if_nothing_happened(
            head in proptest::collection::vec(any::<u8>(), 0..700),
            tail in proptest::collection::vec(any::<u8>(), 0..700),
        ) {
            let mut hasher = ContentHasher::new(Algorithm::ALL);
            hasher.update(&head);
            let mut restored = ContentHasher::restore(&hasher.states()).unwrap();
            prop_assert_eq!(restored.bytes(), 0, "the first block is open still");
            restored.update_tree(&head);
            hasher.update(&tail);
            restored.update(&tail);
            let (one, other) = (hasher.finish(), restored.finish());
            prop_assert_eq!(one.blake3, other.blake3);
            prop_assert_eq!(one.sha256, other.sha256);
            prop_assert_eq!(one.extra, other.extra);
        }

        #[test]
        fn a_deferred_sha256_stays_deferred_and_changes_nothing_else(
            head in proptest::collection::vec(any::<u8>(), 0..700),
            tail in proptest::collection::vec(any::<u8>(), 0..700),
        ) {
            let mut hasher = ContentHasher::deferring([Algorithm::Md5]);
            hasher.update(&head);
            prop_assert!(!hasher.has(Algorithm::Sha256));
            let mut restored = ContentHasher::restore(&hasher.states()).unwrap();
            restored.update_tree(&head);
            restored.update(&tail);
            let mut inline = ContentHasher::new([Algorithm::Md5]);
            inline.update(&head);
            inline.update(&tail);
            let (found, inline) = (restored.finish(), inline.finish());
            prop_assert_eq!(found.by(Algorithm::Sha256), None);
            prop_assert_eq!(found.blake3, inline.blake3);
            prop_assert_eq!(found.extra, inline.extra);
        }
    }

    #[test]
    fn a_deferred_sha256_runs_for_whoever_names_one_before_the_first_byte() {
        let mut hasher = ContentHasher::deferring([]);
        assert!(!hasher.needs_order());
        assert!(hasher.clone().want(Algorithm::Sha256));
        hasher.update(b"x");
        assert!(!hasher.want(Algorithm::Sha256));
        let mut wanted = ContentHasher::deferring([Algorithm::Sha256]);
        wanted.update(b"x");
        assert!(wanted.finish().sha256.is_some());
    }
}
