//! Uploads for the tests: content is a number, digests and subtree values follow from it.

use std::sync::Arc;

use super::Rig;
use crate::blob::{BlobKey, UploadId};
use crate::digest::{Blake3, Sha256};
use crate::error::Result;
use crate::metadata::Ledger;
use crate::metadata::accounts::{AccountId, OrganizationId};
use crate::metadata::uploads::{
    Advance, Completion, Fence, Keep, Labels, MostOpen, NewUpload, Published, Sender, Target,
    UploadRow,
};
use crate::store::Receipt;

/// Bytes that one subtree value stands for.
pub const BLOCK: u64 = 1 << 20;
/// Bytes of a part in these tests.
pub const PART: u64 = 2 * BLOCK;

/// The name `box/1.0/virtualbox/amd64`.
pub fn target(box_name: &str) -> Target {
    Target {
        box_name: box_name.to_owned(),
        version: "1.0".to_owned(),
        provider: "virtualbox".to_owned(),
        architecture: "amd64".to_owned(),
        new_box_public: false,
        declared: None,
        actor: "ann".to_owned(),
        base_url: "http://127.0.0.1:3000".to_owned(),
        into: None,
        labels: Labels::new(),
        iso: None,
    }
}

/// A fresh upload of the account 1 to `target`.
pub fn new_upload(organization: OrganizationId, target: Target, length: Option<u64>) -> NewUpload {
    NewUpload {
        id: UploadId::random(),
        sender: Sender::person(AccountId(1)),
        organization,
        key: BlobKey::random(),
        store: "main".to_owned(),
        length,
        part_bytes: PART,
        pieces: None,
        joins: Vec::new(),
        target: Some(target),
        keep: Keep::No,
        note: None,
        expected: Vec::new(),
        most_open: MostOpen {
            per_account: 2,
            per_organization: 3,
        },
    }
}

/// An upload of `length` bytes that are all `content`.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Its row as it was made.
    pub row: UploadRow,
    /// What it holds.
    pub content: u8,
    /// How many bytes.
    pub length: u64,
}

impl Sent {
    /// Makes the row of an upload to `target`.
    ///
    /// # Errors
    /// What the ledger answers.
    pub async fn create(
        ledger: &Arc<dyn Ledger>,
        organization: OrganizationId,
        target: impl Into<Option<Target>>,
        content: u8,
        length: u64,
    ) -> Result<Self> {
        let new = NewUpload {
            target: target.into(),
            ..new_upload(organization, self::target("web"), Some(length))
        };
        let row = ledger.create(new).await?;
        Ok(Self {
            row,
            content,
            length,
        })
    }

    /// The right to change it that its maker has.
    pub fn fence(&self) -> Fence {
        Fence {
            id: self.row.id,
            epoch: self.row.epoch,
        }
    }

    /// The step from `from` on: to the end of its part, or of the upload.
    pub fn step(&self, from: u64) -> Advance {
        self.piece(from, PART)
    }

    /// At most `bytes` from `from` on, to the end of its part at most.
    ///
    /// # Panics
    /// When `from` is beyond all parts that a number can name.
    pub fn piece(&self, from: u64, bytes: u64) -> Advance {
        let start = from - from % PART;
        let to = self.length.min(start + PART).min(from + bytes);
        Advance {
            from,
            to,
            part: u32::try_from(from / PART).expect("tests send few parts"),
            values: (start / BLOCK..to.div_ceil(BLOCK))
                .map(|k| self.value(k))
                .collect(),
            hash_states: vec![1, self.content],
            receipt: Receipt::default(),
        }
    }

    /// The subtree value of the MiB number `k`.
    pub fn value(&self, k: u64) -> [u8; 32] {
        let mut value = [self.content; 32];
        value[..8].copy_from_slice(&k.to_be_bytes());
        value
    }

    /// All its subtree values.
    pub fn values(&self) -> Vec<[u8; 32]> {
        (0..self.length.div_ceil(BLOCK))
            .map(|k| self.value(k))
            .collect()
    }

    /// What completes it.
    pub fn completion(&self) -> Completion {
        let mut blake3 = [self.content; 32];
        blake3[..8].copy_from_slice(&self.length.to_be_bytes());
        let mut sha256 = blake3;
        sha256.reverse();
        Completion {
            length: self.length,
            blake3: Blake3(blake3),
            sha256: Some(Sha256(sha256)),
        }
    }

    /// Sends all its bytes.
    ///
    /// # Errors
    /// What the ledger answers.
    pub async fn send(&self, ledger: &Arc<dyn Ledger>) -> Result<()> {
        let mut from = 0;
        while from < self.length {
            let step = self.step(from);
            from = step.to;
            ledger.advance(self.fence(), step).await?;
        }
        Ok(())
    }

    /// Sends all its bytes and completes it.
    ///
    /// # Errors
    /// What the ledger answers.
    pub async fn complete(&self, ledger: &Arc<dyn Ledger>) -> Result<()> {
        self.send(ledger).await?;
        let completed = ledger.complete(self.fence(), Vec::new(), self.completion());
        completed.await.map(drop)
    }
}

/// Takes `content` through all steps to `target`.
pub(super) async fn published(
    rig: &dyn Rig,
    organization: OrganizationId,
    target: Target,
    content: u8,
) -> (Sent, Published) {
    let ledger = rig.ledger();
    let sent = Sent::create(&ledger, organization, target, content, 3 * BLOCK)
        .await
        .expect("create");
    sent.complete(&ledger).await.expect("complete");
    let published = ledger.publish(sent.fence()).await.expect("publish");
    (sent, published)
}
