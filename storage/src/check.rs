//! Rows and bytes, compared: what is missing, what nobody names, what does not add up.
//!
//! [`Stock::check`] finds and changes nothing; [`Stock::collect`] removes what is due and what nobody
//! names. Both run beside uploads, deletes and downloads, and hold no more than some pages at once.
//!
//! Rows and stores are two places, and no moment is the same in both. What looks wrong is therefore looked
//! at three times: the rows of the key, its bytes, the rows again. An upload is recorded before its first
//! byte is stored, and a row goes only after its bytes, so that bytes which nobody claimed *before* they
//! were seen belong to nobody, and bytes that are claimed *after* they were not seen are lost.

mod adopt;
mod copy;
mod deferred;
mod finding;
mod orphans;
mod scrub;
mod walk;

use std::fmt::Debug;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::blob::{BlobKey, UploadId};
use crate::clock::UnixMillis;
use crate::digest::BLOCK_BYTES;
use crate::error::{ErrorKind, Result};
use crate::metadata::Metadata;
use crate::metadata::catalog::FileId;
use crate::metadata::check::{BlobClaim, BlobState, Claim, Claimant, Holder, UploadClaim};
use crate::store::{Intake, Store};
use crate::upload::UploadEngine;

use self::walk::{Place, Walk};

pub use adopt::{AdoptTold, Adopted};
pub use copy::{Copied, CopyTold, Ways};
pub use deferred::{Computed, Halfway};
pub use finding::{Finding, Problem, Subject};
pub use orphans::{Amount, Brake, Collected, OrphanLimits, Orphans};
pub use scrub::{Cursor, NAMED_BLOCKS, ScrubTold, Scrubbed};

/// All rows and all stores of an installation.
#[derive(Debug, Clone)]
pub struct Stock {
    metadata: Metadata,
    engine: UploadEngine,
    at_rest: bool,
    only: Option<String>,
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

/// What [`Stock::check`] tells on its way.
#[derive(Debug, Clone)]
pub enum Told {
    /// Something is wrong.
    Finding(Finding),
    /// So much was looked at so far.
    Progress(Checked),
}

/// Rows and keys that are read at once.
const PAGE: u32 = 1000;
/// What is due is removed within a minute, unless something is wrong; nothing is said about it earlier.
const GRACE: Duration = Duration::from_hours(1);
/// Names that are told of a damaged blob.
const NAMES: u32 = 3;

impl Stock {
    /// `engine` works on the rows of `metadata`.
    pub fn new(metadata: Metadata, engine: UploadEngine) -> Self {
        Self {
            metadata,
            engine,
            at_rest: false,
            only: None,
        }
    }

    /// The rows.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// What takes uploads in.
    pub fn engine(&self) -> &UploadEngine {
        &self.engine
    }

    /// What of it is in one store, or should be; `None` is all.
    #[must_use]
    pub fn only(self, store: Option<String>) -> Self {
        Self {
            only: store,
            ..self
        }
    }

    /// Whether what is in that store is looked at.
    fn covers(&self, store: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only == store)
    }

    /// Claims in those stores.
    fn covered<'p>(&self, place: &'p Place<'_>) -> impl Iterator<Item = &'p Claim> {
        let covers = move |claim: &&Claim| self.covers(&claim.store);
        place.claims.iter().filter(covers)
    }

    /// The same while no process works on it: what is due could not have been removed, and is no finding.
    #[must_use]
    pub fn at_rest(self) -> Self {
        Self {
            at_rest: true,
            ..self
        }
    }

    /// Compares all rows with all stores and tells each finding as it is made, and after every so many keys
    /// how far it is; goes on when the future that told it is over. Changes nothing.
    ///
    /// # Errors
    /// When rows or a store cannot be read: what was not read is not judged.
    /// # Cancel safety
    /// Dropping the future ends the comparison.
    pub async fn check<F>(&self, mut tell: impl FnMut(Told) -> F + Send) -> Result<Checked>
    where
        F: Future<Output = ()> + Send,
    {
        let mut checked = Checked::default();
        let mut walk = Walk::begin(self);
        let mut places = 0_u64;
        while let Some(place) = walk.next().await? {
            checked.stored += place.stores.len() as u64;
            for claim in self.covered(&place) {
                checked.blobs += u64::from(matches!(claim.by, Claimant::Blob(_)));
                checked.uploads += u64::from(matches!(claim.by, Claimant::Upload(_)));
            }
            for finding in self.judge(&place).await? {
                checked.findings += 1;
                tell(Told::Finding(finding)).await;
            }
            places += 1;
            if places.is_multiple_of(u64::from(PAGE)) {
                tell(Told::Progress(checked)).await;
            }
        }
        if self.only.is_none() {
            self.check_holders(&mut checked, &mut tell).await?;
        }
        Ok(checked)
    }

    /// Names and finished uploads whose blob has no row, and so is in no store.
    async fn check_holders<F>(
        &self,
        checked: &mut Checked,
        tell: &mut (impl FnMut(Told) -> F + Send),
    ) -> Result<()>
    where
        F: Future<Output = ()> + Send,
    {
        let mut after = FileId(i64::MIN);
        loop {
            let page = self.metadata.files_of_nothing(after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.id;
            for file in page {
                let subject = Subject::File(file.id);
                let finding = Finding::new(subject, file.blob, "", Problem::NoBlob);
                checked.findings += 1;
                tell(Told::Finding(finding)).await;
            }
        }
        let mut after = None;
        loop {
            let page = self.metadata.holding_uploads(after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            for upload in &page {
                if let Some(problem) = self.holder_problem(upload) {
                    let subject = Subject::Upload(upload.id);
                    let finding = Finding::new(subject, upload.blob, "", problem);
                    checked.findings += 1;
                    tell(Told::Finding(finding)).await;
                }
            }
        }
        Ok(())
    }

    /// What is wrong with a finished upload that holds its blob itself.
    fn holder_problem(&self, upload: &Holder<UploadId>) -> Option<Problem> {
        let ttl = self.engine.options().limits.untargeted_ttl;
        let end = upload.updated.plus(ttl);
        if upload.exists {
            self.is_late(end).then_some(Problem::Over { since: end })
        } else {
            Some(Problem::NoBlob)
        }
    }

    /// Whether what was to end then should have by now.
    fn is_late(&self, end: UnixMillis) -> bool {
        !self.at_rest && end.plus(GRACE) <= self.now()
    }

    fn now(&self) -> UnixMillis {
        self.engine.options().clock.now()
    }

    /// What is wrong with one key.
    async fn judge(&self, place: &Place<'_>) -> Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for claim in self.covered(place) {
            if let Some(problem) = self.row_problem(claim, &place.claims) {
                findings.push(self.finding(claim, problem).await?);
            }
            let Some(store) = self.engine.options().stores.get(&claim.store) else {
                findings.push(self.finding(claim, Problem::NoStore).await?);
                continue;
            };
            if extent(claim) > 0
                && verdict(
                    &place.claims,
                    &claim.store,
                    &stored(store, &place.key).await?,
                )
                .is_some()
                && let Some(problem) = self.confirmed(&place.key, &claim.store, store).await?
            {
                findings.push(self.finding(claim, problem).await?);
            }
        }
        for (name, store) in &place.stores {
            if !claims_in(&place.claims, name)
                && let Some(problem) = self.confirmed(&place.key, name, store).await?
            {
                let subject = Subject::Bytes;
                findings.push(Finding::new(subject, place.key, name, problem));
            }
        }
        Ok(findings)
    }

    /// A finding on the row of a claim, with the names that a blob has.
    async fn finding(&self, claim: &Claim, problem: Problem) -> Result<Finding> {
        let subject = match &claim.by {
            Claimant::Blob(_) => Subject::Blob,
            Claimant::Upload(upload) => Subject::Upload(upload.id),
            Claimant::Apart { upload, .. } => Subject::Upload(*upload),
            Claimant::Trash { .. } => Subject::Trash,
        };
        let names = match claim.by {
            Claimant::Blob(_) => self.metadata.names_of(&claim.key, NAMES).await?,
            _ => Vec::new(),
        };
        let finding = Finding::new(subject, claim.key, &claim.store, problem);
        Ok(Finding { names, ..finding })
    }

    /// What the rows alone tell.
    fn row_problem(&self, claim: &Claim, all: &[Claim]) -> Option<Problem> {
        // What a blob left behind in another store is in the trash there.
        let here = all.iter().filter(|other| other.store == claim.store);
        if here.count() > 1 && !matches!(claim.by, Claimant::Trash { .. }) {
            return Some(Problem::ClaimedTwice);
        }
        let overdue =
            |due: UnixMillis| self.is_late(due).then_some(Problem::Overdue { since: due });
        match &claim.by {
            Claimant::Blob(blob) => blob_problem(blob).or_else(|| overdue(blob.due?)),
            Claimant::Upload(upload) => self.upload_problem(upload),
            Claimant::Apart { .. } => None,
            Claimant::Trash { due } => overdue(*due),
        }
    }

    fn upload_problem(&self, upload: &UploadClaim) -> Option<Problem> {
        if upload.parts_bytes != upload.offset {
            return Some(Problem::Parts {
                offset: upload.offset,
                recorded: upload.parts_bytes,
            });
        }
        let limits = self.engine.options().limits;
        let (idle, old) = (
            upload.updated.plus(limits.idle),
            upload.created.plus(limits.age),
        );
        let end = match upload {
            // It waits for an answer, for somebody to let it through, or for the end of its quarantine.
            UploadClaim { gated: true, .. } => return None,
            UploadClaim {
                completing: true, ..
            } => upload.updated,
            UploadClaim { joined: true, .. } => old,
            UploadClaim { .. } => idle.min(old),
        };
        let over = self.is_late(end) && !self.engine.is_busy(upload.id);
        over.then_some(Problem::Over { since: end })
    }

    /// What is wrong with the bytes under a key in a store, if rows before and after the look at them
    /// agree on it.
    async fn confirmed(&self, key: &BlobKey, name: &str, store: &Store) -> Result<Option<Problem>> {
        let before = self.metadata.claims_on(key).await?;
        let stored = stored(store, key).await?;
        let Some(problem) = verdict(&before, name, &stored) else {
            return Ok(None);
        };
        let after = self.metadata.claims_on(key).await?;
        let again = verdict(&after, name, &stored);
        Ok(again
            .is_some_and(|again| again.word() == problem.word())
            .then_some(problem))
    }
}

/// What a store holds under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stored {
    Nothing,
    /// No object: of an upload there may be parts, which a store like this one shows only to its writer.
    NoObject,
    Bytes(u64),
    Unreadable(String),
}

async fn stored(store: &Store, key: &BlobKey) -> Result<Stored> {
    match store.read.stat(key).await {
        Ok(length) => Ok(Stored::Bytes(length)),
        Err(e) => match e.kind() {
            ErrorKind::NotFound if store.intake == Intake::ByPart => Ok(Stored::NoObject),
            ErrorKind::NotFound => Ok(Stored::Nothing),
            // The whole store is away, which says nothing about its bytes.
            ErrorKind::Unavailable => Err(e),
            _ => Ok(Stored::Unreadable(crate::error::chain(&e))),
        },
    }
}

fn claims_in(claims: &[Claim], store: &str) -> bool {
    claims.iter().any(|claim| claim.store == store)
}

/// Bytes that a store must hold for the claim, at least. Damage that nobody holds any more only waits for
/// its day.
fn extent(claim: &Claim) -> u64 {
    match &claim.by {
        Claimant::Blob(blob) if blob.state == BlobState::Quarantined && blob.refs == 0 => 0,
        Claimant::Blob(blob) if blob.state != BlobState::Deleting => blob.length,
        Claimant::Upload(upload) => upload.offset.max(upload.pieces_end),
        Claimant::Apart { length, .. } => *length,
        Claimant::Blob(_) | Claimant::Trash { .. } => 0,
    }
}

/// What is wrong with what a store holds under a key with these claims.
fn verdict(claims: &[Claim], store: &str, stored: &Stored) -> Option<Problem> {
    if !claims_in(claims, store) {
        return match stored {
            Stored::Nothing | Stored::NoObject => None,
            Stored::Bytes(length) => Some(Problem::Orphan { length: *length }),
            Stored::Unreadable(why) => Some(Problem::Unreadable { why: why.clone() }),
        };
    }
    let of_store = claims.iter().filter(|claim| claim.store == store);
    let claim = of_store.max_by_key(|claim| extent(claim))?;
    let expected = extent(claim);
    // A blob is as long as it is; an upload may have more on its way.
    let whole = match &claim.by {
        Claimant::Blob(_) | Claimant::Apart { .. } => true,
        Claimant::Upload(upload) => upload.completing,
        Claimant::Trash { .. } => false,
    };
    match stored {
        _ if expected == 0 => None,
        Stored::NoObject if matches!(claim.by, Claimant::Upload(_)) => None,
        Stored::Nothing | Stored::NoObject => Some(Problem::Missing { expected }),
        Stored::Unreadable(why) => Some(Problem::Unreadable { why: why.clone() }),
        Stored::Bytes(found) if *found < expected || whole && *found > expected => {
            Some(Problem::Length {
                expected,
                found: *found,
            })
        }
        Stored::Bytes(_) => None,
    }
}

/// What the row of a blob tells by itself.
fn blob_problem(blob: &BlobClaim) -> Option<Problem> {
    let BlobClaim {
        state,
        length,
        refs,
        holders,
        tree_bytes,
        due,
    } = *blob;
    if refs != holders {
        return Some(Problem::References {
            counted: refs,
            holders,
        });
    }
    let held = refs > 0;
    let fits = match state {
        BlobState::Live => held,
        BlobState::Doomed | BlobState::Deleting => !held,
        BlobState::Quarantined => true,
    };
    if !fits || held == due.is_some() {
        return Some(Problem::State {
            state: state.as_str(),
            refs,
        });
    }
    let expected = length.div_ceil(BLOCK_BYTES) * 32;
    if tree_bytes != expected {
        return Some(Problem::Tree {
            expected: expected / 32,
            found: tree_bytes / 32,
        });
    }
    (held && state == BlobState::Quarantined).then_some(Problem::Quarantined)
}
