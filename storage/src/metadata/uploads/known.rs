//! A name for bytes that an organization holds already, as an upload of them would give it, without their coming again.
//!
//! What one organization holds is nothing to another, and only what a box or a finished upload of it has counts: an
//! ISO image is not everybody's who publishes boxes.

use futures_util::FutureExt as _;
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::publish::OP;
use super::{Published, Target};
use crate::blob::{BlobKey, BlobMeta};
use crate::digest::Sha256;
use crate::error::Result;
use crate::metadata::accounts::{AccountId, OrganizationId};
use crate::metadata::catalog::blobs;
use crate::metadata::catalog::publish::{Names, ensure_parents, point};
use crate::metadata::sql::{At as _, Columns as _, signed};
use crate::metadata::{Metadata, audit, outbox};

/// Bytes by their digest, as an organization may hold them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Whose.
    pub organization: OrganizationId,
    /// SHA-256 of all bytes.
    pub sha256: Sha256,
    /// How many.
    pub length: u64,
}

/// What is to be published without being sent.
#[derive(Debug, Clone)]
pub struct Naming {
    /// The bytes.
    pub known: Known,
    /// The blob that was found to have them; no other is taken.
    pub key: BlobKey,
    /// Whose a box is that has to be made.
    pub account: AccountId,
    /// The name; one of an ISO image, or one that must be there already, is none.
    pub target: Target,
}

impl Metadata {
    /// A blob in service with those bytes, and the name of its store.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn known_blob(&self, known: &Known) -> Result<Option<(BlobMeta, String)>> {
        const OP: &str = "upload.known";
        let mut reader = self.reader(OP).await?;
        let row = row_of(&mut reader, OP, known).await?;
        row.map(|row| Ok((row.blob_meta()?, row.text("x_store")?)))
            .transpose()
    }

    /// The target's name holds that blob from here on, in one transaction with all that an upload of it would have
    /// done. `None` where it is not held any more: then nothing changed.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] for a name that no box can have; what the database answers.
    pub async fn publish_known(&self, naming: Naming) -> Result<Option<Published>> {
        self.write(OP, move |tx| {
            async move {
                let Naming {
                    known,
                    key,
                    account,
                    target,
                } = naming;
                let names = Names::parse(OP, &target)?;
                let row = row_of(&mut tx.connection, OP, &known).await?;
                let blob = row.map(|row| row.blob_meta()).transpose()?;
                let Some(blob) = blob.filter(|blob| blob.key == key) else {
                    return Ok(None);
                };
                blobs::label(tx, OP, &blob.key, &target.labels).await?;
                let (organization, public) = (known.organization, target.new_box_public);
                let leaf = ensure_parents(tx, OP, organization, account, &names, public).await?;
                let declared = target.declared.clone();
                let pointed = point(tx, OP, leaf, (&blob.key, false), declared).await?;
                let event =
                    outbox::box_uploaded(&pointed.place, &target.base_url, &blob, pointed.old);
                outbox::append(tx, event, &target.actor).await?;
                audit::record(tx, &target.actor, OP, &pointed.place.path()).await?;
                Ok(Some(Published {
                    blob,
                    file: Some(pointed.file),
                    replaced: pointed.old.is_some(),
                    version: pointed.place.version.clone().unwrap_or_default(),
                }))
            }
            .boxed()
        })
        .await
    }
}

async fn row_of(
    connection: &mut AnyConnection,
    op: &'static str,
    known: &Known,
) -> Result<Option<AnyRow>> {
    sqlx::query(
        "SELECT x.key AS x_key, x.length AS x_length, x.blake3 AS x_blake3, x.sha256 AS x_sha256,
             x.store AS x_store
         FROM blobs x WHERE x.sha256 = $2 AND x.tenant = $1 AND x.length = $3 AND x.state = 'live'
             AND (EXISTS (SELECT 1 FROM files f JOIN architectures a ON a.id = f.architecture
                      JOIN providers p ON p.id = a.provider JOIN versions v ON v.id = p.version
                      JOIN boxes b ON b.id = v.box WHERE f.blob = x.key AND b.organization = $1)
                  OR EXISTS (SELECT 1 FROM uploads u WHERE u.held = x.key AND u.organization = $1))
         ORDER BY x.created_ms, x.key LIMIT 1",
    )
    .bind(known.organization.0)
    .bind(known.sha256.0.to_vec())
    .bind(signed(op, known.length)?)
    .fetch_optional(connection)
    .await
    .at(op, known.organization.0)
}
