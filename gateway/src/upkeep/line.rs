//! What is told of upkeep, one JSON document a line.

use std::collections::BTreeMap;

use boxgate_storage::check::{self, OrphanLimits, Subject};
use serde::{Deserialize, Serialize};

use crate::import::Imported;

/// One line: `{"finding":{...}}`, and so on. The last one is an outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// Something is wrong.
    Finding(Finding),
    /// A name leads to a blob again.
    Adopted(Adopted),
    /// How far it is with what stands beside the bytes; the last of these is the outcome of that.
    Adopting(Adopting),
    /// How far a comparison is.
    Checking(Checked),
    /// Rows and bytes were compared.
    Checked(Checked),
    /// What nobody holds was removed.
    Collected(Collected),
    /// How far a scrub is.
    Scrubbing(Scrubbed),
    /// All stored bytes were read.
    Scrubbed(Scrubbed),
    /// How far a copy is.
    Copying(Copied),
    /// What one store held is in another.
    Copied(Copied),
    /// Something of a tree of boxes was not brought.
    Left(Left),
    /// How far bringing it is.
    Importing(Imported),
    /// All of a tree was brought that could be.
    Imported(Imported),
    /// It ended early, and why.
    Failed(String),
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// `blob`, `upload`, `trash`, `file` or `bytes`.
    pub subject: String,
    /// Id of the upload or file.
    pub id: Option<String>,
    /// Key of the bytes.
    pub key: String,
    /// Name of the store; absent where none is concerned.
    pub store: Option<String>,
    /// A fixed word for what is wrong.
    pub problem: String,
    /// All of it in one line for people.
    pub text: String,
    /// Some of the full names that hold the blob.
    pub names: Vec<String>,
    /// What to do next.
    pub next: String,
}

/// A name that was made again of what stood beside its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// All of it.
    pub name: String,
    /// Key of the bytes.
    pub key: String,
    /// Name of the store.
    pub store: String,
}

/// What was made again, and what was not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopting {
    /// Blobs that have a row again.
    pub blobs: u64,
    /// Names that lead to a blob again.
    pub names: u64,
    /// Bytes that were read for it.
    pub bytes: u64,
    /// Blobs whose bytes are not what stands beside them says.
    pub damaged: u64,
}

/// How much was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// Rows of blobs.
    pub blobs: u64,
    /// Rows of uploads that did not end.
    pub uploads: u64,
    /// Keys that stores hold bytes under.
    pub stored: u64,
    /// What was found wrong.
    pub findings: u64,
}

/// How much was read, and what was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scrubbed {
    /// Blobs, up to their ends.
    pub blobs: u64,
    /// Bytes, damaged and missing ones included.
    pub bytes: u64,
    /// Bytes that were to be read when it began.
    pub total_bytes: u64,
    /// Blobs that are not what was hashed, or not there.
    pub damaged: u64,
    /// Blobs that were out of service and are whole again.
    pub healed: u64,
}

/// How much was copied to another store, and what was not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    /// Blobs that are in the other store now.
    pub blobs: u64,
    /// Their bytes, and those on their way.
    pub bytes: u64,
    /// Bytes that were to be copied when it began.
    pub total_bytes: u64,
    /// Blobs that are not what was hashed, and stay.
    pub damaged: u64,
    /// Blobs that are in the first store still.
    pub left: u64,
    /// Of those, the ones that were moved a short while ago: they may go on once what they left behind is gone.
    pub waiting: u64,
    /// Uploads in progress there.
    pub uploads: u64,
}

/// Something of another server that was not brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Where it is, or what it is.
    pub path: String,
    /// Why.
    pub why: String,
}

/// What a sweep did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// Nothing was removed; this is what would be.
    pub dry_run: bool,
    /// What went.
    pub removed: Amount,
    /// What is due and did not go.
    pub kept: Amount,
    /// What nobody holds and is not due yet.
    pub waiting: Amount,
    /// How long bytes without a row must be known.
    pub orphan_age_seconds: u64,
    /// Bytes without a row, by store.
    pub stores: BTreeMap<String, Orphans>,
}

/// So many, with so many bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// How many.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Bytes of a store that no row names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orphans {
    /// Keys that the store holds bytes under.
    pub stored: u64,
    /// How many of them no row names.
    pub orphans: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many of these are removed.
    pub removed: u64,
    /// The brake: there are too many, so none is.
    pub stopped: bool,
}

impl Line {
    /// Whether no line follows it.
    pub fn is_last(&self) -> bool {
        match self {
            Self::Finding(_)
            | Self::Adopted(_)
            | Self::Adopting(_)
            | Self::Checking(_)
            | Self::Scrubbing(_)
            | Self::Copying(_)
            | Self::Left(_)
            | Self::Importing(_) => false,
            Self::Checked(_)
            | Self::Collected(_)
            | Self::Scrubbed(_)
            | Self::Copied(_)
            | Self::Imported(_)
            | Self::Failed(_) => true,
        }
    }
}

impl From<check::Finding> for Finding {
    fn from(finding: check::Finding) -> Self {
        let (subject, id) = match finding.subject {
            Subject::Blob => ("blob", None),
            Subject::Upload(id) => ("upload", Some(id.to_string())),
            Subject::Trash => ("trash", None),
            Subject::File(id) => ("file", Some(id.0.to_string())),
            Subject::Bytes => ("bytes", None),
        };
        Self {
            subject: subject.to_owned(),
            id,
            key: finding.key.to_string(),
            store: Some(finding.store.clone()).filter(|name| !name.is_empty()),
            problem: finding.problem.word().to_owned(),
            text: finding.to_string(),
            next: finding.advice().to_owned(),
            names: finding.names,
        }
    }
}

impl From<check::Adopted> for Adopting {
    fn from(adopted: check::Adopted) -> Self {
        let check::Adopted {
            blobs,
            names,
            bytes,
            damaged,
        } = adopted;
        Self {
            blobs,
            names,
            bytes,
            damaged,
        }
    }
}

impl From<check::Checked> for Checked {
    fn from(checked: check::Checked) -> Self {
        let check::Checked {
            blobs,
            uploads,
            stored,
            findings,
        } = checked;
        Self {
            blobs,
            uploads,
            stored,
            findings,
        }
    }
}

impl From<check::Scrubbed> for Scrubbed {
    fn from(scrubbed: check::Scrubbed) -> Self {
        let check::Scrubbed {
            blobs,
            bytes,
            total_bytes,
            damaged,
            healed,
        } = scrubbed;
        Self {
            blobs,
            bytes,
            total_bytes,
            damaged,
            healed,
        }
    }
}

impl From<check::Copied> for Copied {
    fn from(copied: check::Copied) -> Self {
        let check::Copied {
            blobs,
            bytes,
            total_bytes,
            damaged,
            left,
            waiting,
            uploads,
        } = copied;
        Self {
            blobs,
            bytes,
            total_bytes,
            damaged,
            left,
            waiting,
            uploads,
        }
    }
}

impl From<check::Amount> for Amount {
    fn from(amount: check::Amount) -> Self {
        let check::Amount { count, bytes } = amount;
        Self { count, bytes }
    }
}

impl From<check::Orphans> for Orphans {
    fn from(orphans: check::Orphans) -> Self {
        let check::Orphans {
            stored,
            orphans,
            bytes,
            removed,
            stopped,
        } = orphans;
        Self {
            stored,
            orphans,
            bytes,
            removed,
            stopped,
        }
    }
}

impl Collected {
    /// What a sweep within `limits` did, or would do.
    pub fn new(collected: &check::Collected, limits: OrphanLimits, dry_run: bool) -> Self {
        let stores = collected.stores.iter();
        Self {
            dry_run,
            removed: collected.removed.into(),
            kept: collected.kept.into(),
            waiting: collected.waiting.into(),
            orphan_age_seconds: limits.age.as_secs(),
            stores: stores
                .map(|(name, o)| (name.clone(), (*o).into()))
                .collect(),
        }
    }
}
