//! Identity of blobs and uploads, and what is known of a committed blob.

use std::fmt;
use std::str::FromStr;

use crate::digest::{Blake3, Digest, Sha256};

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 16]);

        impl $name {
            /// A fresh one: 128 random bits.
            ///
            /// # Panics
            /// When the operating system has no randomness to give, which leaves nothing safe to do.
            pub fn random() -> Self {
                let mut bits = [0; 16];
                getrandom::fill(&mut bits).expect("the operating system gives random bytes");
                Self(bits)
            }

            /// From its bits, as stored.
            pub fn from_bytes(bits: [u8; 16]) -> Self {
                Self(bits)
            }

            /// Its bits.
            pub fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), hex::encode(self.0))
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let mut bits = [0; 16];
                // Upper case would give one thing two names.
                if text.bytes().any(|b| b.is_ascii_uppercase()) {
                    return Err(ParseIdError);
                }
                hex::decode_to_slice(text, &mut bits).map_err(|_malformed| ParseIdError)?;
                Ok(Self(bits))
            }
        }
    };
}

/// The text is not 32 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 32 lower-case hexadecimal digits")]
pub struct ParseIdError;

random_id! {
    /// Where a blob's bytes live in its store: random, used once, never derived from a client's words.
    BlobKey
}
random_id! {
    /// Names one upload; unguessable, since knowing it is half of the right to continue it.
    UploadId
}

/// What is known of a committed blob; none of it ever changes, but that a SHA-256 becomes known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobMeta {
    /// Where the bytes are.
    pub key: BlobKey,
    /// How many bytes.
    pub length: u64,
    /// BLAKE3 of all bytes.
    pub blake3: Blake3,
    /// SHA-256 of all bytes; `None` while it is deferred.
    pub sha256: Option<Sha256>,
}

impl BlobMeta {
    /// The digest that is told of it: SHA-256, and BLAKE3 while that is deferred.
    pub fn checksum(&self) -> Digest {
        checksum(self.blake3, self.sha256)
    }
}

/// The same of the two digests.
pub fn checksum(blake3: Blake3, sha256: Option<Sha256>) -> Digest {
    sha256.map_or_else(|| blake3.into(), Digest::from)
}
