//! Digests of content: their algorithms, their values, and the hashers that run while bytes are hot.
//!
//! [`ContentHasher`] is what an upload feeds: BLAKE3 as a tree with one value per MiB
//! ([`TreeHasher`]), SHA-256 in order unless that is deferred, and whatever else a client declared.

pub mod content;
pub mod outboard;
pub mod tree;

use std::fmt;

pub(crate) use content::OrderHasher;
pub use content::{ContentHasher, DigestHasher, Digests, HashStateError};
pub use tree::{BLOCK_BYTES, PieceHasher, TreeHasher, block_value};

macro_rules! digest_value {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// 64 lower-case hexadecimal digits.
            pub fn to_hex(&self) -> String {
                hex::encode(self.0)
            }

            /// From 64 hexadecimal digits of either case.
            pub fn from_hex(text: &str) -> Option<Self> {
                let mut bytes = [0; 32];
                hex::decode_to_slice(text, &mut bytes).ok()?;
                Some(Self(bytes))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.to_hex())
            }
        }
    };
}

digest_value! {
    /// A BLAKE3 root hash.
    Blake3
}
digest_value! {
    /// A SHA-256 hash.
    Sha256
}

/// A digest algorithm that a client may ask to verify with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// MD5, for old clients only.
    Md5,
    /// SHA-1, for old clients only.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
    /// BLAKE3.
    Blake3,
    /// CRC-32 as in zip, most significant byte first: for the bytes of one request, never for a blob.
    Crc32,
}

impl Algorithm {
    /// All that a blob can be verified with, in the order in which they are offered in messages.
    pub const ALL: [Self; 6] = [
        Self::Md5,
        Self::Sha1,
        Self::Sha256,
        Self::Sha384,
        Self::Sha512,
        Self::Blake3,
    ];

    /// Lower-case name without punctuation: `sha256`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
            Self::Blake3 => "blake3",
            Self::Crc32 => "crc32",
        }
    }

    /// From a name in any case; one `-` is ignored (`SHA-256`). Only those of [`Self::ALL`].
    pub fn from_name(text: &str) -> Option<Self> {
        let plain = text.replacen('-', "", 1).to_ascii_lowercase();
        Self::ALL.into_iter().find(|a| a.name() == plain)
    }

    /// Length of the digest in bytes.
    pub fn digest_bytes(self) -> usize {
        match self {
            Self::Crc32 => 4,
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 | Self::Blake3 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }
}

/// A digest value with its algorithm; its length fits the algorithm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    algorithm: Algorithm,
    bytes: Vec<u8>,
}

impl Digest {
    /// From raw bytes; `None` when the length does not fit the algorithm.
    pub fn try_new(algorithm: Algorithm, bytes: Vec<u8>) -> Option<Self> {
        (bytes.len() == algorithm.digest_bytes()).then_some(Self { algorithm, bytes })
    }

    /// From hexadecimal digits of either case.
    pub fn from_hex(algorithm: Algorithm, text: &str) -> Option<Self> {
        Self::try_new(algorithm, hex::decode(text).ok()?)
    }

    /// Which algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The raw value.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Lower-case hexadecimal digits.
    pub fn to_hex(&self) -> String {
        hex::encode(&self.bytes)
    }
}

impl From<Blake3> for Digest {
    fn from(value: Blake3) -> Self {
        Self {
            algorithm: Algorithm::Blake3,
            bytes: value.0.to_vec(),
        }
    }
}

impl From<Sha256> for Digest {
    fn from(value: Sha256) -> Self {
        Self {
            algorithm: Algorithm::Sha256,
            bytes: value.0.to_vec(),
        }
    }
}
