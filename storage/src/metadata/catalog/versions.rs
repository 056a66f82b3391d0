//! Versions: made and changed.

use futures_util::FutureExt as _;
use sqlx::AnyConnection;

use super::columns::{Level, version_columns, version_of};
use super::deeds::tell_status;
use super::{BoxId, VersionFields, VersionId, VersionRow, VersionStatus};
use crate::catalog::VersionName;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::sql::At as _;
use crate::metadata::writer::Tx;
use crate::metadata::{Metadata, audit, outbox};

impl Metadata {
    /// Makes a version.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when it exists under either spelling, [`ErrorKind::NotFound`] when the
    /// box is gone.
    pub async fn create_version(
        &self,
        box_id: BoxId,
        name: &VersionName,
        status: VersionStatus,
        fields: VersionFields,
        actor: &str,
    ) -> Result<VersionRow> {
        const OP: &str = "version.create";
        let (name, actor) = (name.clone(), actor.to_owned());
        self.write(OP, move |tx| {
            async move {
                let id = insert(tx, OP, box_id, &name, status, fields).await?;
                let place = Level::Version(id)
                    .existing_place(&mut tx.connection, OP)
                    .await?;
                audit::record(tx, &actor, OP, &place.path()).await?;
                existing(&mut tx.connection, OP, id).await
            }
            .boxed()
        })
        .await
    }

    /// Replaces the editable fields, and name and status if given. Emits `box.updated`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], or [`ErrorKind::Conflict`] when the new name is taken.
    pub async fn update_version(
        &self,
        id: VersionId,
        name: Option<&VersionName>,
        status: Option<VersionStatus>,
        fields: VersionFields,
        actor: &str,
    ) -> Result<VersionRow> {
        const OP: &str = "version.update";
        let (name, actor) = (name.cloned(), actor.to_owned());
        self.write(OP, move |tx| {
            async move {
                let before = existing(&mut tx.connection, OP, id).await?;
                let name = name.unwrap_or(before.name);
                sqlx::query(
                    "UPDATE versions SET name = $2, folded = $3, status = $4, description = $5,
                         release_notes = $6, deprecated = $7, deprecation_reason = $8,
                         updated_ms = $9
                     WHERE id = $1",
                )
                .bind(id.0)
                .bind(name.as_str())
                .bind(name.folded())
                .bind(status.unwrap_or(before.status).as_str())
                .bind(fields.description)
                .bind(fields.release_notes)
                .bind(i64::from(fields.deprecated))
                .bind(fields.deprecation_reason)
                .bind(tx.now.0)
                .execute(&mut tx.connection)
                .await
                .at(OP, &name)?;
                let place = Level::Version(id)
                    .existing_place(&mut tx.connection, OP)
                    .await?;
                if let Some(status) = status.filter(|status| *status != before.status) {
                    tell_status(tx, &place, status, &actor).await?;
                }
                let event = outbox::box_updated(&place, None, &["versions"]);
                outbox::append(tx, event, &actor).await?;
                audit::record(tx, &actor, OP, &place.path()).await?;
                existing(&mut tx.connection, OP, id).await
            }
            .boxed()
        })
        .await
    }
}

/// Adds the row alone.
pub(super) async fn insert(
    tx: &mut Tx,
    op: &'static str,
    box_id: BoxId,
    name: &VersionName,
    status: VersionStatus,
    fields: VersionFields,
) -> Result<VersionId> {
    let id = tx.next_id("versions").await?;
    sqlx::query(
        "INSERT INTO versions (id, box, name, folded, status, description, release_notes,
             deprecated, deprecation_reason, created_ms, updated_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10)",
    )
    .bind(id)
    .bind(box_id.0)
    .bind(name.as_str())
    .bind(name.folded())
    .bind(status.as_str())
    .bind(fields.description)
    .bind(fields.release_notes)
    .bind(i64::from(fields.deprecated))
    .bind(fields.deprecation_reason)
    .bind(tx.now.0)
    .execute(&mut tx.connection)
    .await
    .at(op, name)?;
    Ok(VersionId(id))
}

async fn existing(
    connection: &mut AnyConnection,
    op: &'static str,
    id: VersionId,
) -> Result<VersionRow> {
    let query = concat!(
        "SELECT ",
        version_columns!(),
        " FROM versions v WHERE v.id = $1"
    );
    let row = sqlx::query(query)
        .bind(id.0)
        .fetch_optional(connection)
        .await
        .at(op, id.0)?
        .ok_or_else(|| Error::new(ErrorKind::NotFound, op, format!("version {}", id.0)))?;
    version_of(&row)
}
