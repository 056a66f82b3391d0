//! Providers: made and changed.

use futures_util::FutureExt as _;
use sqlx::AnyConnection;

use super::columns::{Level, provider_columns, provider_of};
use super::{ProviderId, ProviderRow, VersionId};
use crate::catalog::ProviderName;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::sql::{At as _, Columns as _};
use crate::metadata::writer::Tx;
use crate::metadata::{Metadata, audit, outbox};

impl Metadata {
    /// Makes a provider.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when it exists, [`ErrorKind::NotFound`] when the version is gone.
    pub async fn create_provider(
        &self,
        version_id: VersionId,
        name: &ProviderName,
        description: Option<&str>,
        actor: &str,
    ) -> Result<ProviderRow> {
        const OP: &str = "provider.create";
        let (name, actor) = (name.clone(), actor.to_owned());
        let description = description.map(str::to_owned);
        self.write(OP, move |tx| {
            async move {
                let id = insert(tx, OP, version_id, &name, description).await?;
                let place = Level::Provider(id)
                    .existing_place(&mut tx.connection, OP)
                    .await?;
                audit::record(tx, &actor, OP, &place.path()).await?;
                existing(&mut tx.connection, OP, id).await
            }
            .boxed()
        })
        .await
    }

    /// Replaces the description, and the name if given. Emits `box.updated`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], or [`ErrorKind::Conflict`] when the new name is taken.
    pub async fn update_provider(
        &self,
        id: ProviderId,
        name: Option<&ProviderName>,
        description: Option<&str>,
        actor: &str,
    ) -> Result<ProviderRow> {
        const OP: &str = "provider.update";
        let (name, actor) = (name.cloned(), actor.to_owned());
        let description = description.map(str::to_owned);
        self.write(OP, move |tx| {
            async move {
                sqlx::query(
                    "UPDATE providers SET name = COALESCE($2, name),
                         folded = COALESCE($3, folded), description = $4, updated_ms = $5
                     WHERE id = $1",
                )
                .bind(id.0)
                .bind(name.as_ref().map(ProviderName::as_str))
                .bind(name.as_ref().map(ProviderName::folded))
                .bind(description)
                .bind(tx.now.0)
                .execute(&mut tx.connection)
                .await
                .at(OP, id.0)?;
                let place = Level::Provider(id)
                    .existing_place(&mut tx.connection, OP)
                    .await?;
                let event = outbox::box_updated(&place, None, &["providers"]);
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
    version_id: VersionId,
    name: &ProviderName,
    description: Option<String>,
) -> Result<ProviderId> {
    let id = tx.next_id("providers").await?;
    sqlx::query(
        "INSERT INTO providers (id, version, name, folded, description, created_ms, updated_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $6)",
    )
    .bind(id)
    .bind(version_id.0)
    .bind(name.as_str())
    .bind(name.folded())
    .bind(description)
    .bind(tx.now.0)
    .execute(&mut tx.connection)
    .await
    .at(op, name)?;
    Ok(ProviderId(id))
}

/// The id of the provider of that name.
pub(super) async fn find(
    tx: &mut Tx,
    op: &'static str,
    version_id: VersionId,
    name: &ProviderName,
) -> Result<Option<ProviderId>> {
    sqlx::query("SELECT id FROM providers WHERE version = $1 AND folded = $2")
        .bind(version_id.0)
        .bind(name.folded())
        .fetch_optional(&mut tx.connection)
        .await
        .at(op, name)?
        .map(|row| row.int("id").map(ProviderId))
        .transpose()
}

pub(super) async fn existing(
    connection: &mut AnyConnection,
    op: &'static str,
    id: ProviderId,
) -> Result<ProviderRow> {
    let query = concat!(
        "SELECT ",
        provider_columns!(),
        " FROM providers p WHERE p.id = $1"
    );
    let row = sqlx::query(query)
        .bind(id.0)
        .fetch_optional(connection)
        .await
        .at(op, id.0)?
        .ok_or_else(|| Error::new(ErrorKind::NotFound, op, format!("provider {}", id.0)))?;
    provider_of(&row)
}
