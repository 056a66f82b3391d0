//! What a person, a log or a program hears of a push on its way.

use std::fmt;

use indicatif::HumanBytes;
use serde_json::{Value, json};

use crate::client::ClientError;
use crate::client::progress::{Again, Told};

/// Something that a person who waits should know.
#[derive(Debug, Clone)]
pub enum Notice {
    /// A push that was begun before goes on.
    GoesOn {
        /// Bytes that the gateway holds.
        held: u64,
        /// Bytes in all.
        length: u64,
    },
    /// Nothing is kept beside the file, and the gateway has an upload of that name and length.
    Found {
        /// Bytes that it holds.
        held: u64,
        /// Bytes in all, which are read to compare them.
        length: u64,
    },
    /// It is of this file, and is gone on with.
    Same {
        /// Bytes that the gateway holds.
        held: u64,
        /// Bytes in all.
        length: u64,
    },
    /// It is of another file, and is left alone.
    NotSame,
    /// What is kept beside the file is of no use: it is as if it were not there.
    Unusable(String),
    /// What was begun before is gone.
    Gone,
    /// A call failed and is made again.
    Again(Again),
    /// The push cannot go on after a cut: nothing could be kept beside the file.
    NotKept(String),
    /// All is sent; the file's digests are not ready yet.
    Hashing {
        /// Bytes left to read.
        left: u64,
    },
    /// The file's digests are computed before anything is sent.
    DigestFirst {
        /// Bytes to read.
        length: u64,
    },
    /// The organization held these bytes already.
    Known,
    /// Something on the way takes no whole part: the file is sent in order, in smaller requests.
    InOrder {
        /// Its no.
        why: ClientError,
    },
    /// Requests were still too large.
    Halved {
        /// What the next one carries, at most.
        bytes: u64,
    },
    /// More of the file is held.
    Part {
        /// Which part; none where it is sent in order.
        part: Option<u64>,
        /// Bytes that are held now.
        held: u64,
        /// Bytes in all.
        length: u64,
    },
}

impl Told for Notice {
    fn again(&self) -> Option<&Again> {
        match self {
            Self::Again(again) => Some(again),
            _ => None,
        }
    }

    fn event(&self) -> (&'static str, Value) {
        match self {
            Self::GoesOn { held, length } | Self::Same { held, length } => {
                ("resumed", json!({ "held": held, "length": length }))
            }
            Self::Found { held, length } => ("found", json!({ "held": held, "length": length })),
            Self::NotSame => ("not_same", json!({})),
            Self::Gone => ("restarted", json!({})),
            Self::Again(again) => again.event(),
            Self::NotKept(why) => ("warning", json!({ "message": why })),
            Self::Unusable(_) => ("warning", json!({ "message": self.to_string() })),
            Self::Hashing { left } | Self::DigestFirst { length: left } => {
                ("hashing", json!({ "left": left }))
            }
            Self::Known => ("known", json!({})),
            Self::InOrder { why } => ("in_order", json!({ "why": why.to_string() })),
            Self::Halved { bytes } => ("halved", json!({ "bytes": bytes })),
            Self::Part { part, held, length } => (
                "part",
                json!({ "part": part, "held": held, "length": length }),
            ),
        }
    }

    fn is_for_people(&self) -> bool {
        !matches!(self, Self::Part { .. })
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GoesOn { held, length } => write!(
                f,
                "goes on: the gateway holds {} of {}; they are read once more for the digest",
                HumanBytes(*held),
                HumanBytes(*length)
            ),
            Self::Found { held, length } => write!(
                f,
                "the gateway holds {} of {} for this name, of a push that left nothing here; the file is read to compare them",
                HumanBytes(*held),
                HumanBytes(*length)
            ),
            Self::Same { held, length } => write!(
                f,
                "goes on: the gateway holds {} of {}, and they are this file's",
                HumanBytes(*held),
                HumanBytes(*length)
            ),
            Self::NotSame => {
                f.write_str("they are another file's, so this push begins with nothing")
            }
            Self::Unusable(why) => {
                write!(
                    f,
                    "what is kept beside the file is of no use ({why}), and is written anew"
                )
            }
            Self::Gone => f.write_str(
                "the push that was begun before is gone from the gateway; this one begins afresh",
            ),
            Self::Again(again) => again.fmt(f),
            Self::NotKept(why) => write!(f, "a cut push could not go on: {why}"),
            Self::Hashing { left } => {
                let left = HumanBytes(*left);
                write!(f, "all is sent; {left} are left to be hashed")
            }
            Self::DigestFirst { length } => {
                let length = HumanBytes(*length);
                write!(
                    f,
                    "reading {length} for the digest, before anything is sent"
                )
            }
            Self::Known => {
                f.write_str("the organization holds these bytes already: nothing is sent")
            }
            Self::InOrder { why } => write!(
                f,
                "a whole part does not get through, so the file is sent in order and in smaller requests: {why}"
            ),
            Self::Halved { bytes } => {
                write!(f, "still too large; requests of {} now", HumanBytes(*bytes))
            }
            Self::Part { held, length, .. } => {
                write!(
                    f,
                    "{} of {} are held",
                    HumanBytes(*held),
                    HumanBytes(*length)
                )
            }
        }
    }
}
