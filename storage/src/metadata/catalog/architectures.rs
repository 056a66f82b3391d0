//! Architectures: made and changed. One of a provider is its default, another when that one goes or is none any more;
//! only a provider's last may be made none.

use futures_util::FutureExt as _;
use sqlx::AnyConnection;

use super::columns::{Level, architecture_columns, architecture_of};
use super::{ArchitectureId, ArchitectureRow, ProviderId};
use crate::catalog::ArchitectureName;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::sql::{At as _, Columns as _};
use crate::metadata::writer::Tx;
use crate::metadata::{Metadata, audit, outbox};

impl Metadata {
    /// Makes an architecture. With `default_box` the siblings lose theirs; where none is the default it is in any case.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when it exists, [`ErrorKind::NotFound`] when the provider is gone.
    pub async fn create_architecture(
        &self,
        provider_id: ProviderId,
        name: &ArchitectureName,
        description: Option<&str>,
        default_box: bool,
        actor: &str,
    ) -> Result<ArchitectureRow> {
        const OP: &str = "architecture.create";
        let (name, actor) = (name.clone(), actor.to_owned());
        let description = description.map(str::to_owned);
        self.write(OP, move |tx| {
            async move {
                let id = insert(tx, OP, provider_id, &name, description, default_box).await?;
                let place = Level::Architecture(id)
                    .existing_place(&mut tx.connection, OP)
                    .await?;
                audit::record(tx, &actor, OP, &place.path()).await?;
                existing(&mut tx.connection, OP, id).await
            }
            .boxed()
        })
        .await
    }

    /// Replaces the description, and name and default flag if given (setting it clears the siblings', clearing it gives
    /// it on to one of them).
    /// Emits `box.updated`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], or [`ErrorKind::Conflict`] when the new name is taken.
    pub async fn update_architecture(
        &self,
        id: ArchitectureId,
        name: Option<&ArchitectureName>,
        description: Option<&str>,
        default_box: Option<bool>,
        actor: &str,
    ) -> Result<ArchitectureRow> {
        const OP: &str = "architecture.update";
        let (name, actor) = (name.cloned(), actor.to_owned());
        let description = description.map(str::to_owned);
        self.write(OP, move |tx| {
            async move {
                let before = existing(&mut tx.connection, OP, id).await?;
                if default_box == Some(true) {
                    clear_defaults(tx, OP, before.provider_id).await?;
                }
                sqlx::query(
                    "UPDATE architectures SET name = COALESCE($2, name),
                         folded = COALESCE($3, folded), description = $4, default_box = $5,
                         updated_ms = $6
                     WHERE id = $1",
                )
                .bind(id.0)
                .bind(name.as_ref().map(ArchitectureName::as_str))
                .bind(name.as_ref().map(ArchitectureName::folded))
                .bind(description)
                .bind(i64::from(default_box.unwrap_or(before.default_box)))
                .bind(tx.now.0)
                .execute(&mut tx.connection)
                .await
                .at(OP, id.0)?;
                if default_box == Some(false) {
                    give_default_on(tx, OP, before.provider_id, id).await?;
                }
                let place = Level::Architecture(id)
                    .existing_place(&mut tx.connection, OP)
                    .await?;
                let event = outbox::box_updated(&place, None, &["architectures"]);
                outbox::append(tx, event, &actor).await?;
                audit::record(tx, &actor, OP, &place.path()).await?;
                existing(&mut tx.connection, OP, id).await
            }
            .boxed()
        })
        .await
    }
}

/// Adds the row alone, and sees to the default.
pub(super) async fn insert(
    tx: &mut Tx,
    op: &'static str,
    provider_id: ProviderId,
    name: &ArchitectureName,
    description: Option<String>,
    default_box: bool,
) -> Result<ArchitectureId> {
    let only = sqlx::query(
        "SELECT id FROM architectures WHERE provider = $1 AND default_box <> 0 LIMIT 1",
    )
    .bind(provider_id.0)
    .fetch_optional(&mut tx.connection)
    .await
    .at(op, name)?
    .is_none();
    if default_box && !only {
        clear_defaults(tx, op, provider_id).await?;
    }
    let id = tx.next_id("architectures").await?;
    sqlx::query(
        "INSERT INTO architectures (id, provider, name, folded, description, default_box,
             created_ms, updated_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $7)",
    )
    .bind(id)
    .bind(provider_id.0)
    .bind(name.as_str())
    .bind(name.folded())
    .bind(description)
    .bind(i64::from(default_box || only))
    .bind(tx.now.0)
    .execute(&mut tx.connection)
    .await
    .at(op, name)?;
    Ok(ArchitectureId(id))
}

/// The id of the architecture of that name.
pub(super) async fn find(
    tx: &mut Tx,
    op: &'static str,
    provider_id: ProviderId,
    name: &ArchitectureName,
) -> Result<Option<ArchitectureId>> {
    sqlx::query("SELECT id FROM architectures WHERE provider = $1 AND folded = $2")
        .bind(provider_id.0)
        .bind(name.folded())
        .fetch_optional(&mut tx.connection)
        .await
        .at(op, name)?
        .map(|row| row.int("id").map(ArchitectureId))
        .transpose()
}

pub(super) async fn clear_defaults(
    tx: &mut Tx,
    op: &'static str,
    provider_id: ProviderId,
) -> Result<()> {
    sqlx::query(
        "UPDATE architectures SET default_box = 0, updated_ms = $2
         WHERE provider = $1 AND default_box <> 0",
    )
    .bind(provider_id.0)
    .bind(tx.now.0)
    .execute(&mut tx.connection)
    .await
    .at(op, provider_id.0)
    .map(drop)
}

/// Where a provider has no default, makes one of its architectures that, but for one: the oldest of those that have a box.
pub(super) async fn give_default_on(
    tx: &mut Tx,
    op: &'static str,
    provider_id: ProviderId,
    but: ArchitectureId,
) -> Result<()> {
    sqlx::query(
        "UPDATE architectures SET default_box = 1, updated_ms = $3
         WHERE id = (
                 SELECT a.id FROM architectures a LEFT JOIN files f ON f.architecture = a.id
                 WHERE a.provider = $1 AND a.id <> $2
                 ORDER BY CASE WHEN f.id IS NULL AND a.original_url IS NULL THEN 1 ELSE 0 END, a.id
                 LIMIT 1)
             AND NOT EXISTS (
                 SELECT 1 FROM architectures d WHERE d.provider = $1 AND d.default_box <> 0)",
    )
    .bind(provider_id.0)
    .bind(but.0)
    .bind(tx.now.0)
    .execute(&mut tx.connection)
    .await
    .at(op, provider_id.0)
    .map(drop)
}

pub(super) async fn existing(
    connection: &mut AnyConnection,
    op: &'static str,
    id: ArchitectureId,
) -> Result<ArchitectureRow> {
    let query = concat!(
        "SELECT ",
        architecture_columns!(),
        " FROM architectures a WHERE a.id = $1"
    );
    let row = sqlx::query(query)
        .bind(id.0)
        .fetch_optional(connection)
        .await
        .at(op, id.0)?
        .ok_or_else(|| Error::new(ErrorKind::NotFound, op, format!("architecture {}", id.0)))?;
    architecture_of(&row)
}
