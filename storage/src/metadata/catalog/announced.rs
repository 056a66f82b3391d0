//! Boxes that are told of before their bytes come: provider and architecture are made in one step, with where the box
//! is served from and what its checksum must be. Such a place is named by the id of its architecture, so that what is
//! on its way to one never lands in another of the same name.

use futures_util::FutureExt as _;

use super::columns::{
    Level, architecture_columns, architecture_of, box_columns, box_of, version_columns, version_of,
};
use super::{
    Announced, ArchitectureId, ArchitectureRow, BoxRow, ProviderRow, VersionId, VersionRow,
    architectures, providers,
};
use crate::catalog::{ArchitectureName, BoxRef, ProviderName};
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::sql::{At as _, Columns as _};
use crate::metadata::writer::Tx;
use crate::metadata::{Metadata, audit, outbox};

/// A box that is to come.
#[derive(Debug, Clone)]
pub struct Announcement {
    /// Its version.
    pub version: VersionId,
    /// Its provider, which may be there already.
    pub provider: ProviderName,
    /// Its architecture.
    pub architecture: ArchitectureName,
    /// Whether it becomes the default of its provider; where that has none it does in any case.
    pub default_box: bool,
    /// What is told of it.
    pub announced: Announced,
}

/// What changes of one.
#[derive(Debug, Clone)]
pub struct SlotChange {
    /// Another name of its provider, which changes for all architectures of it.
    pub provider: Option<ProviderName>,
    /// Another name of its architecture.
    pub architecture: Option<ArchitectureName>,
    /// Whether it is the default; setting it clears the siblings', clearing it gives it on to one of them.
    pub default_box: Option<bool>,
    /// What is told of it from now on.
    pub announced: Announced,
}

/// A place for a box: everything above it, and whether it is taken.
#[derive(Debug, Clone)]
pub struct Slot {
    /// The box above it.
    pub row: BoxRow,
    /// The version above it.
    pub version: VersionRow,
    /// The place itself.
    pub architecture: ArchitectureRow,
    /// Its full name.
    pub name: BoxRef,
    /// Whether a file is stored there.
    pub is_stored: bool,
}

impl Metadata {
    /// Makes a place for a box. One that is there and was never filled takes what is told now.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when a file is stored there or it is served from elsewhere, [`ErrorKind::NotFound`] when
    /// the version is gone.
    pub async fn announce(
        &self,
        new: Announcement,
        actor: &str,
    ) -> Result<(ProviderRow, ArchitectureRow)> {
        const OP: &str = "architecture.announce";
        let actor = actor.to_owned();
        self.write(OP, move |tx| {
            async move {
                let provider = match providers::find(tx, OP, new.version, &new.provider).await? {
                    Some(id) => id,
                    None => providers::insert(tx, OP, new.version, &new.provider, None).await?,
                };
                let name = &new.architecture;
                let id = match architectures::find(tx, OP, provider, name).await? {
                    None => {
                        architectures::insert(tx, OP, provider, name, None, new.default_box).await?
                    }
                    Some(id) if is_taken(tx, OP, id).await? => {
                        let subject = format!("Provider '{}' for '{name}'", new.provider);
                        return Err(Error::new(ErrorKind::Conflict, OP, subject));
                    }
                    Some(id) => {
                        if new.default_box {
                            set_default(tx, OP, id, true).await?;
                        }
                        id
                    }
                };
                set_announced(tx, OP, id, &new.announced).await?;
                let place = Level::Architecture(id)
                    .existing_place(&mut tx.connection, OP)
                    .await?;
                audit::record(tx, &actor, OP, &place.path()).await?;
                let provider = providers::existing(&mut tx.connection, OP, provider).await?;
                let row = architectures::existing(&mut tx.connection, OP, id).await?;
                Ok((provider, row))
            }
            .boxed()
        })
        .await
    }

    /// Changes what is told of a box, and the names that lead to it. Emits `box.updated`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], or [`ErrorKind::Conflict`] when a new name is taken.
    pub async fn change_slot(
        &self,
        id: ArchitectureId,
        change: SlotChange,
        actor: &str,
    ) -> Result<(ProviderRow, ArchitectureRow)> {
        const OP: &str = "architecture.update";
        let actor = actor.to_owned();
        self.write(OP, move |tx| {
            async move {
                let before = architectures::existing(&mut tx.connection, OP, id).await?;
                if let Some(name) = &change.provider {
                    let sql = "UPDATE providers SET name = $2, folded = $3, updated_ms = $4 WHERE id = $1";
                    let (name, folded) = (name.as_str(), name.folded());
                    rename(tx, OP, sql, (before.provider_id.0, name, folded)).await?;
                }
                if let Some(name) = &change.architecture {
                    let sql =
                        "UPDATE architectures SET name = $2, folded = $3, updated_ms = $4 WHERE id = $1";
                    rename(tx, OP, sql, (id.0, name.as_str(), name.folded())).await?;
                }
                if let Some(default_box) = change.default_box {
                    set_default(tx, OP, id, default_box).await?;
                }
                set_announced(tx, OP, id, &change.announced).await?;
                let place = Level::Architecture(id)
                    .existing_place(&mut tx.connection, OP)
                    .await?;
                let event = outbox::box_updated(&place, None, &["providers"]);
                outbox::append(tx, event, &actor).await?;
                audit::record(tx, &actor, OP, &place.path()).await?;
                let provider =
                    providers::existing(&mut tx.connection, OP, before.provider_id).await?;
                let row = architectures::existing(&mut tx.connection, OP, id).await?;
                Ok((provider, row))
            }
            .boxed()
        })
        .await
    }

    /// The place of that id; one read.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the database does not answer.
    pub async fn slot(&self, id: ArchitectureId) -> Result<Option<Slot>> {
        const OP: &str = "architecture.read";
        let mut reader = self.reader(OP).await?;
        let row = sqlx::query(concat!(
            "SELECT ",
            box_columns!(),
            ", ",
            version_columns!(),
            ", ",
            architecture_columns!(),
            ", p.name AS p_name, o.name AS o_name, f.id AS f_id
             FROM architectures a JOIN providers p ON p.id = a.provider
                 JOIN versions v ON v.id = p.version JOIN boxes b ON b.id = v.box
                 JOIN organizations o ON o.id = b.organization
                 LEFT JOIN files f ON f.architecture = a.id
             WHERE a.id = $1"
        ))
        .bind(id.0)
        .fetch_optional(&mut *reader)
        .await
        .at(OP, id.0)?;
        let Some(columns) = row else { return Ok(None) };
        let row = box_of(&columns)?;
        let version = version_of(&columns)?;
        let architecture = architecture_of(&columns)?;
        let name = BoxRef {
            organization: columns.name("o_name")?,
            name: row.name.clone(),
            version: version.name.clone(),
            provider: columns.name("p_name")?,
            architecture: architecture.name.clone(),
        };
        Ok(Some(Slot {
            row,
            version,
            architecture,
            name,
            is_stored: columns.opt_int("f_id")?.is_some(),
        }))
    }
}

async fn is_taken(tx: &mut Tx, op: &'static str, id: ArchitectureId) -> Result<bool> {
    sqlx::query(
        "SELECT a.id FROM architectures a LEFT JOIN files f ON f.architecture = a.id
         WHERE a.id = $1 AND (f.id IS NOT NULL OR a.original_url IS NOT NULL)",
    )
    .bind(id.0)
    .fetch_optional(&mut tx.connection)
    .await
    .at(op, id.0)
    .map(|row| row.is_some())
}

async fn rename(
    tx: &mut Tx,
    op: &'static str,
    sql: &'static str,
    (id, name, folded): (i64, &str, String),
) -> Result<()> {
    sqlx::query(sql)
        .bind(id)
        .bind(name)
        .bind(folded)
        .bind(tx.now.0)
        .execute(&mut tx.connection)
        .await
        .at(op, name)
        .map(drop)
}

async fn set_default(
    tx: &mut Tx,
    op: &'static str,
    id: ArchitectureId,
    default_box: bool,
) -> Result<()> {
    let row = architectures::existing(&mut tx.connection, op, id).await?;
    if default_box {
        architectures::clear_defaults(tx, op, row.provider_id).await?;
    }
    sqlx::query("UPDATE architectures SET default_box = $2, updated_ms = $3 WHERE id = $1")
        .bind(id.0)
        .bind(i64::from(default_box))
        .bind(tx.now.0)
        .execute(&mut tx.connection)
        .await
        .at(op, id.0)?;
    if default_box {
        return Ok(());
    }
    architectures::give_default_on(tx, op, row.provider_id, id).await
}

async fn set_announced(
    tx: &mut Tx,
    op: &'static str,
    id: ArchitectureId,
    announced: &Announced,
) -> Result<()> {
    let (kind, value) = announced.checksum.clone().unzip();
    sqlx::query(
        "UPDATE architectures SET original_url = $2, expected_type = $3, expected_value = $4,
             updated_ms = $5 WHERE id = $1",
    )
    .bind(id.0)
    .bind(announced.url.clone())
    .bind(kind)
    .bind(value)
    .bind(tx.now.0)
    .execute(&mut tx.connection)
    .await
    .at(op, id.0)
    .map(drop)
}
