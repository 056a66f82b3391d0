//! Single changes of boxes, as scripts make them: each leaves everything else as it is, whoever changes that.

use futures_util::FutureExt as _;

use super::blobs::label;
use super::columns::Level;
use super::{ArchitectureId, BoxId, VersionId, VersionStatus};
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::outbox::Place;
use crate::metadata::sql::{At as _, Columns as _};
use crate::metadata::uploads::Labels;
use crate::metadata::writer::Tx;
use crate::metadata::{Metadata, audit, outbox};

impl Metadata {
    /// Lists a version to Vagrant, or no more; false when it was so already. Emits `box.released` or `box.revoked`, and
    /// `box.updated`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub async fn set_version_status(
        &self,
        id: VersionId,
        status: VersionStatus,
        actor: &str,
    ) -> Result<bool> {
        const OP: &str = "version.status";
        let actor = actor.to_owned();
        self.write(OP, move |tx| {
            async move {
                let place = Level::Version(id)
                    .existing_place(&mut tx.connection, OP)
                    .await?;
                let changed = sqlx::query(
                    "UPDATE versions SET status = $2, updated_ms = $3 WHERE id = $1 AND status <> $2",
                )
                .bind(id.0)
                .bind(status.as_str())
                .bind(tx.now.0)
                .execute(&mut tx.connection)
                .await
                .at(OP, id.0)?;
                if changed.rows_affected() == 0 {
                    return Ok(false);
                }
                tell_status(tx, &place, status, &actor).await?;
                let event = outbox::box_updated(&place, None, &["versions"]);
                outbox::append(tx, event, &actor).await?;
                audit::record(tx, &actor, OP, &place.path()).await?;
                Ok(true)
            }
            .boxed()
        })
        .await
    }

    /// Lets anyone read a box, or members only; false when it was so already. Emits `box.updated`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub async fn set_public(&self, id: BoxId, public: bool, actor: &str) -> Result<bool> {
        const OP: &str = "box.set_public";
        let actor = actor.to_owned();
        self.write(OP, move |tx| {
            async move {
                let place = Level::Box(id)
                    .existing_place(&mut tx.connection, OP)
                    .await?;
                let changed = sqlx::query(
                    "UPDATE boxes SET is_public = $2, updated_ms = $3 WHERE id = $1 AND is_public <> $2",
                )
                .bind(id.0)
                .bind(i64::from(public))
                .bind(tx.now.0)
                .execute(&mut tx.connection)
                .await
                .at(OP, id.0)?;
                if changed.rows_affected() == 0 {
                    return Ok(false);
                }
                let event = outbox::box_updated(&place, None, &["public"]);
                outbox::append(tx, event, &actor).await?;
                audit::record(tx, &actor, OP, &place.path()).await?;
                Ok(true)
            }
            .boxed()
        })
        .await
    }

    /// Writes labels on the blob of an architecture's file. Emits `box.updated`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when it has no file, [`ErrorKind::TooMany`] for more labels than a blob may have.
    pub async fn label_file(&self, id: ArchitectureId, labels: Labels, actor: &str) -> Result<()> {
        const OP: &str = "file.label";
        let actor = actor.to_owned();
        self.write(OP, move |tx| {
            async move {
                let file = sqlx::query("SELECT blob FROM files WHERE architecture = $1")
                    .bind(id.0)
                    .fetch_optional(&mut tx.connection)
                    .await
                    .at(OP, id.0)?;
                let file = file.ok_or_else(|| Error::new(ErrorKind::NotFound, OP, "file"))?;
                label(tx, OP, &file.key("blob")?, &labels).await?;
                let place = Level::Architecture(id)
                    .existing_place(&mut tx.connection, OP)
                    .await?;
                let event = outbox::box_updated(&place, None, &["labels"]);
                outbox::append(tx, event, &actor).await?;
                audit::record(tx, &actor, OP, &place.path()).await
            }
            .boxed()
        })
        .await
    }
}

/// Emits `box.released` or `box.revoked`.
pub(super) async fn tell_status(
    tx: &mut Tx,
    place: &Place,
    status: VersionStatus,
    actor: &str,
) -> Result<()> {
    let listed = match status {
        VersionStatus::Active => true,
        VersionStatus::Revoked => false,
        VersionStatus::Unreleased => return Ok(()),
    };
    outbox::append(tx, outbox::box_listed(place, listed), actor).await
}
