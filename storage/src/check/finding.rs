//! What was found wrong, in words: what it is, where, and what to do.

use std::fmt;

use crate::blob::{BlobKey, UploadId};
use crate::clock::UnixMillis;
use crate::metadata::catalog::FileId;

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub subject: Subject,
    /// Key of the bytes.
    pub key: BlobKey,
    /// Name of the store; empty where no store is concerned.
    pub store: String,
    /// What is wrong.
    pub problem: Problem,
    /// Some of the full names that hold the blob.
    pub names: Vec<String>,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A committed blob.
    Blob,
    /// An upload.
    Upload(UploadId),
    /// Bytes that are to be removed.
    Trash,
    /// The file of a box.
    File(FileId),
    /// Bytes in a store that belong to nobody.
    Bytes,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The store holds nothing under the key.
    Missing {
        /// Bytes that should be there.
        expected: u64,
    },
    /// The store holds more or fewer bytes.
    Length {
        /// Bytes that should be there.
        expected: u64,
        /// Bytes that are.
        found: u64,
    },
    /// The store fails to tell.
    Unreadable {
        /// What it says.
        why: String,
    },
    /// No row names the bytes.
    Orphan {
        /// How many.
        length: u64,
    },
    /// The bytes are not what their sidecar says.
    Unlike,
    /// The references of a blob are counted wrong.
    References {
        /// What its row says.
        counted: i64,
        /// Rows that do hold it.
        holders: i64,
    },
    /// The state of a blob does not fit its references.
    State {
        /// The state.
        state: &'static str,
        /// The references.
        refs: i64,
    },
    /// The subtree values do not cover the blob.
    Tree {
        /// Values that should be there.
        expected: u64,
        /// Values that are.
        found: u64,
    },
    /// Some of the bytes are not what was hashed when they came in.
    Damaged {
        /// The first damaged MiB, counted from 0: [`NAMED_BLOCKS`](super::NAMED_BLOCKS) at most.
        blocks: Vec<u64>,
        /// How many there are.
        count: u64,
    },
    /// The blob is known to be damaged, and something holds it.
    Quarantined,
    /// More than one row claims the bytes.
    ClaimedTwice,
    /// The recorded parts of an upload are not what it committed.
    Parts {
        /// Committed bytes.
        offset: u64,
        /// Bytes of the parts.
        recorded: u64,
    },
    /// It was due for removal and is still there.
    Overdue {
        /// When it was due.
        since: UnixMillis,
    },
    /// An upload whose time is over.
    Over {
        /// Since when.
        since: UnixMillis,
    },
    /// The blob that it names has no row.
    NoBlob,
    /// The store that it names is not configured.
    NoStore,
}

impl Finding {
    pub(super) fn new(subject: Subject, key: BlobKey, store: &str, problem: Problem) -> Self {
        Self {
            subject,
            key,
            store: store.to_owned(),
            problem,
            names: Vec::new(),
        }
    }

    /// What to do about it.
    pub fn advice(&self) -> &'static str {
        match (&self.problem, self.subject) {
            (Problem::Missing { .. } | Problem::Length { .. }, Subject::Upload(_)) => {
                "its sender is told at the next try and begins again"
            }
            (Problem::Missing { .. } | Problem::Length { .. }, _) => {
                "restore it from a backup, or send the file again, which heals every name"
            }
            (Problem::Tree { .. }, _) => {
                "let `boxgate scrub` take it out of service, then send the file again, which heals \
                 every name"
            }
            (Problem::Quarantined | Problem::Damaged { .. }, _) => {
                "send the file again, which heals every name"
            }
            (Problem::Unreadable { .. }, _) => "look after the volume, then check again",
            (Problem::Orphan { .. }, _) => {
                "if a backup of the database was restored, `boxgate fsck --adopt`; else `boxgate gc` \
                 removes it once it was seen for gc.orphan_age"
            }
            (Problem::Unlike, _) => "restore them from a backup, or send the file again",
            (Problem::References { .. } | Problem::State { .. } | Problem::ClaimedTwice, _) => {
                "a defect: keep a copy of the database and of these bytes, then report it"
            }
            (Problem::Parts { .. }, _) => "a defect: report it; the upload should be given up",
            (Problem::Overdue { .. } | Problem::Over { .. }, _) => {
                "`boxgate gc` removes it; the log tells why when it cannot"
            }
            (Problem::NoBlob, Subject::Upload(_)) => "a defect: report it; delete the upload",
            (Problem::NoBlob, _) => "a defect: report it; delete the file and send the file again",
            (Problem::NoStore, _) => "add the store to the configuration",
        }
    }
}

impl Problem {
    /// A fixed word for programs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "missing",
            Self::Length { .. } => "length",
            Self::Unreadable { .. } => "unreadable",
            Self::Orphan { .. } => "orphan",
            Self::Unlike => "unlike",
            Self::References { .. } => "references",
            Self::State { .. } => "state",
            Self::Tree { .. } => "tree",
            Self::Damaged { .. } => "damaged",
            Self::Quarantined => "quarantined",
            Self::ClaimedTwice => "claimed_twice",
            Self::Parts { .. } => "parts",
            Self::Overdue { .. } => "overdue",
            Self::Over { .. } => "over",
            Self::NoBlob => "no_blob",
            Self::NoStore => "no_store",
        }
    }
}

/// One line: what, where, what is wrong, and which names it concerns.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key;
        match self.subject {
            Subject::Blob => write!(f, "blob {key}")?,
            Subject::Upload(id) => write!(f, "upload {id} ({key})")?,
            Subject::Trash => write!(f, "trash {key}")?,
            Subject::File(id) => write!(f, "file {} ({key})", id.0)?,
            Subject::Bytes => write!(f, "bytes {key}")?,
        }
        if !self.store.is_empty() {
            write!(f, " in store {}", self.store)?;
        }
        write!(f, ": {}", self.problem)?;
        match self.names.as_slice() {
            [] => Ok(()),
            names => write!(f, " (held by {})", names.join(", ")),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { expected } => write!(f, "its {expected} bytes are missing"),
            Self::Length { expected, found } => {
                write!(f, "{found} bytes are there, not {expected}")
            }
            Self::Unreadable { why } => write!(f, "it cannot be read: {why}"),
            Self::Orphan { length } => write!(f, "no row names these {length} bytes"),
            Self::Unlike => f.write_str("the bytes are not what their sidecar says"),
            Self::References { counted, holders } => {
                write!(
                    f,
                    "{counted} references are counted, {holders} rows hold it"
                )
            }
            Self::State { state, refs } => {
                write!(f, "its state is {state} with {refs} references")
            }
            Self::Tree { expected, found } => {
                write!(f, "{found} subtree values are there, not {expected}")
            }
            Self::Damaged { blocks, count } => {
                let named: Vec<String> = blocks.iter().map(u64::to_string).collect();
                write!(f, "MiB {}", named.join(", "))?;
                match count - blocks.len() as u64 {
                    0 => {}
                    more => write!(f, " and {more} more")?,
                }
                f.write_str(" (from 0) are not what was hashed")
            }
            Self::Quarantined => f.write_str("it is damaged and not served"),
            Self::ClaimedTwice => f.write_str("several rows claim the same bytes"),
            Self::Parts { offset, recorded } => {
                write!(f, "{offset} bytes are committed, its parts have {recorded}")
            }
            Self::Overdue { since } => {
                write!(
                    f,
                    "it was to be removed at {} and is still there",
                    Time(*since)
                )
            }
            Self::Over { since } => write!(f, "its time was over at {}", Time(*since)),
            Self::NoBlob => f.write_str("the blob that it holds has no row"),
            Self::NoStore => f.write_str("no store of that name is configured"),
        }
    }
}

/// A moment as RFC 3339 in whole seconds; a number where no calendar has it.
struct Time(UnixMillis);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.0.div_euclid(1000);
        match jiff::Timestamp::from_second(seconds) {
            Ok(time) => write!(f, "{time}"),
            Err(_) => write!(f, "{seconds}"),
        }
    }
}
