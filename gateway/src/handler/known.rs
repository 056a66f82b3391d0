//! A box whose bytes its organization holds already: named by their digest, and not sent again.
//!
//! Whether they are held is told to nobody who could not read them: whoever asks is a member of the organization, and
//! nothing counts but what its boxes and finished uploads have. What is not held begins as any upload does.

use boxgate_scripting::hook::Hook;
use boxgate_storage::blob::{BlobMeta, UploadId};
use boxgate_storage::digest::{Algorithm, Digest, Sha256};
use boxgate_storage::error::chain;
use boxgate_storage::metadata::uploads::{Known, Labels, Naming, Published, Target};
use boxgate_storage::sidecar::Sidecar;

use super::resumable::{Progress, Turn};
use crate::refusal::Refusal;
use crate::resumable::{Create, Owner, Standing};

/// Where a plugin has one of these it may want the bytes, or keep them from some who are members: then they are sent.
const ASKED_OF_BYTES: [Hook; 3] = [Hook::OnUploadComplete, Hook::Authorize, Hook::OnDownload];

impl Turn<'_> {
    /// Publishes what is wanted, if bytes with these digests are held and the caller may read them. `None` where they
    /// are to be sent: then nothing was done.
    ///
    /// # Errors
    /// The refusal to send, as for an upload of the same.
    pub async fn publish_known(&self, create: &Create) -> Result<Option<Progress>, Refusal> {
        let gateway = self.gateway;
        if ASKED_OF_BYTES
            .iter()
            .any(|hook| gateway.scripts.defines(*hook))
        {
            return Ok(None);
        }
        let (Owner::Target(file), Some(length), Some(sha256)) =
            (&create.owner, create.length, sha256_of(&create.expected))
        else {
            return Ok(None);
        };
        self.fits(Some(length), None)?;
        let (organization, target) = self.owner(create).await?;
        // An administrator of the platform may publish anywhere, and reads nowhere by that.
        if self.principal.role_in(organization).is_none() {
            return Ok(None);
        }
        let known = Known {
            organization,
            sha256,
            length,
        };
        let found = gateway.metadata.known_blob(&known).await?;
        let found = found.filter(|(blob, _)| are_of(&create.expected, blob));
        let (Some((blob, store)), Some(target)) = (found, target) else {
            return Ok(None);
        };
        // One that lost its bytes is healed by sending them.
        let there = gateway.store(&store)?.read.stat(&blob.key).await;
        if !matches!(there, Ok(there) if there == length) {
            return Ok(None);
        }
        let terms = self
            .may_begin(organization, Some(&target), Some(length), &create.expected)
            .await?;
        let target = Target {
            labels: terms.labels,
            ..target
        };
        let naming = Naming {
            known,
            key: blob.key,
            account: self.principal.account.id,
            target: target.clone(),
        };
        let Some(published) = gateway.metadata.publish_known(naming).await? else {
            return Ok(None);
        };
        tracing::info!(
            file = %file, blob = %blob.key, length, replaced = published.replaced,
            "published without being sent"
        );
        self.describe(file.organization.to_string(), &target, &published, &store)?;
        Ok(Some(Progress {
            id: UploadId::random(),
            standing: Standing {
                offset: length,
                length: Some(length),
                complete: true,
                ..Standing::default()
            },
            published: Some(published),
            target: Some(target),
        }))
    }

    /// Has the name written beside the blob, so that it can be made again without the rows; whoever asked does not wait.
    fn describe(
        &self,
        organization: String,
        target: &Target,
        published: &Published,
        store: &str,
    ) -> Result<(), Refusal> {
        let Some(sidecars) = self.gateway.store(store)?.sidecars.clone() else {
            return Ok(());
        };
        let sidecar = Sidecar {
            upload: UploadId::random(),
            blob: published.blob,
            organization,
            labels: target.labels.clone(),
            target: Some(Target {
                base_url: String::new(),
                labels: Labels::new(),
                ..target.clone()
            }),
            published: self.gateway.clock.now(),
            of_rows: false,
        };
        self.gateway.background.spawn(async move {
            let key = sidecar.blob.key;
            let text = sidecar.to_text();
            if let Err(error) = sidecars.put(&key, sidecar.upload, &text).await {
                tracing::warn!(blob = %key, error = chain(&error), "nothing beside a blob says its new name");
            }
        });
        Ok(())
    }
}

fn sha256_of(expected: &[Digest]) -> Option<Sha256> {
    let told = expected
        .iter()
        .find(|digest| digest.algorithm() == Algorithm::Sha256)?;
    told.as_bytes().try_into().ok().map(Sha256)
}

/// Whether all of them are known to be those of the blob.
fn are_of(expected: &[Digest], blob: &BlobMeta) -> bool {
    expected.iter().all(|told| match told.algorithm() {
        Algorithm::Sha256 => blob.sha256.is_some_and(|known| told.as_bytes() == known.0),
        Algorithm::Blake3 => told.as_bytes() == blob.blake3.0,
        _ => false,
    })
}
