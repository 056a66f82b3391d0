//! What is told of upkeep, one JSON document a line.

use std::collections::BTreeMap;

use boxgate_storage::check::{self, OrphanLimits, Subject};
pub use boxgate_storage::check::{Adopted as Adopting, Amount, Checked, Copied, Orphans, Scrubbed};
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

impl Collected {
    /// What a sweep within `limits` did, or would do.
    pub fn new(collected: &check::Collected, limits: OrphanLimits, dry_run: bool) -> Self {
        Self {
            dry_run,
            removed: collected.removed,
            kept: collected.kept,
            waiting: collected.waiting,
            orphan_age_seconds: limits.age.as_secs(),
            stores: collected.stores.clone(),
        }
    }
}
