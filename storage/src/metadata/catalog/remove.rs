//! Deletes: each takes what is below along, row by row kind, and gives the blobs' references back.

use futures_util::FutureExt as _;
use sqlx::AssertSqlSafe;

use super::columns::Level;
use super::{ArchitectureId, BoxId, ProviderId, VersionId, architectures};
use crate::digest::Blake3;
use crate::error::Result;
use crate::metadata::accounts::OrganizationId;
use crate::metadata::sql::{At as _, Columns as _};
use crate::metadata::writer::Tx;
use crate::metadata::{Metadata, audit, outbox};

impl Metadata {
    /// Removes a box and everything below it; false when it is gone already.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn delete_box(&self, id: BoxId, actor: &str) -> Result<bool> {
        self.remove("box.delete", Level::Box(id), Scope::Box(id.0), actor)
            .await
    }

    /// Removes a version and everything below it; false when it is gone already.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn delete_version(&self, id: VersionId, actor: &str) -> Result<bool> {
        self.remove(
            "version.delete",
            Level::Version(id),
            Scope::Version(id.0),
            actor,
        )
        .await
    }

    /// Removes a provider and everything below it; false when it is gone already.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn delete_provider(&self, id: ProviderId, actor: &str) -> Result<bool> {
        self.remove(
            "provider.delete",
            Level::Provider(id),
            Scope::Provider(id.0),
            actor,
        )
        .await
    }

    /// Removes an architecture and its file; another of its provider is the default if it was. False when it is gone
    /// already.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn delete_architecture(&self, id: ArchitectureId, actor: &str) -> Result<bool> {
        let scope = Scope::Architecture(id.0);
        self.remove("architecture.delete", Level::Architecture(id), scope, actor)
            .await
    }

    /// Takes the file from its name; false when there was none. The architecture stays.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn delete_file(&self, id: ArchitectureId, actor: &str) -> Result<bool> {
        const OP: &str = "file.delete";
        let actor = actor.to_owned();
        self.write(OP, move |tx| {
            async move {
                let scope = Scope::Architecture(id.0);
                let (count, old) = digests(tx, scope).await?;
                if count == 0 {
                    return Ok(false);
                }
                let place = Level::Architecture(id)
                    .existing_place(&mut tx.connection, OP)
                    .await?;
                files_under(tx, scope).await?;
                outbox::append(tx, outbox::box_deleted(&place, old), &actor).await?;
                audit::record(tx, &actor, OP, &place.path()).await?;
                Ok(true)
            }
            .boxed()
        })
        .await
    }

    async fn remove(
        &self,
        op: &'static str,
        level: Level,
        scope: Scope,
        actor: &str,
    ) -> Result<bool> {
        let actor = actor.to_owned();
        self.write(op, move |tx| {
            async move {
                let Some(place) = level.place(&mut tx.connection, op).await? else {
                    return Ok(false);
                };
                let (_, old) = digests(tx, scope).await?;
                let above = match level {
                    Level::Architecture(id) => {
                        let row = architectures::existing(&mut tx.connection, op, id).await?;
                        Some((row.provider_id, id))
                    }
                    _ => None,
                };
                under(tx, scope).await?;
                if let Some((provider, gone)) = above {
                    architectures::give_default_on(tx, op, provider, gone).await?;
                }
                outbox::append(tx, outbox::box_deleted(&place, old), &actor).await?;
                audit::record(tx, &actor, op, &place.path()).await?;
                Ok(true)
            }
            .boxed()
        })
        .await
    }
}

/// What a removal takes along.
#[derive(Debug, Clone, Copy)]
pub(in crate::metadata) enum Scope {
    Organization(i64),
    Box(i64),
    Version(i64),
    Provider(i64),
    Architecture(i64),
}

impl Scope {
    /// The condition on the aliases below, and what it compares with.
    fn condition(self) -> (&'static str, i64) {
        match self {
            Self::Organization(id) => ("b.organization = $1", id),
            Self::Box(id) => ("b.id = $1", id),
            Self::Version(id) => ("v.id = $1", id),
            Self::Provider(id) => ("p.id = $1", id),
            Self::Architecture(id) => ("a.id = $1", id),
        }
    }
}

/// The architectures in a scope.
fn below(condition: &str) -> String {
    format!(
        "SELECT a.id FROM architectures a JOIN providers p ON p.id = a.provider
             JOIN versions v ON v.id = p.version JOIN boxes b ON b.id = v.box WHERE {condition}"
    )
}

/// Runs statements made of fixed texts; the scope's id is their first argument.
async fn run(tx: &mut Tx, id: i64, statement: String) -> Result<()> {
    sqlx::query(AssertSqlSafe(statement))
        .bind(id)
        .execute(&mut tx.connection)
        .await
        .at("catalog.remove", id)
        .map(drop)
}

/// Takes the files in a scope from their names.
async fn files_under(tx: &mut Tx, scope: Scope) -> Result<()> {
    let (condition, id) = scope.condition();
    let architectures = below(condition);
    for statement in [
        format!(
            "UPDATE blobs SET refs = refs - (
                 SELECT COUNT(*) FROM files f
                 WHERE f.blob = blobs.key AND f.architecture IN ({architectures}))
             WHERE key IN (SELECT f.blob FROM files f WHERE f.architecture IN ({architectures}))"
        ),
        format!(
            "DELETE FROM former_files WHERE file IN (
                 SELECT f.id FROM files f WHERE f.architecture IN ({architectures}))"
        ),
        format!("DELETE FROM files WHERE architecture IN ({architectures})"),
    ] {
        run(tx, id, statement).await?;
    }
    super::blobs::doom_unnamed(tx).await
}

/// Removes everything in a scope, from the files up to the row the scope names (an organization's own
/// row stays).
pub(in crate::metadata) async fn under(tx: &mut Tx, scope: Scope) -> Result<()> {
    files_under(tx, scope).await?;
    let (condition, id) = scope.condition();
    let architectures = below(condition);
    run(
        tx,
        id,
        format!("DELETE FROM architectures WHERE id IN ({architectures})"),
    )
    .await?;
    if matches!(scope, Scope::Architecture(_)) {
        return Ok(());
    }
    let providers = format!(
        "DELETE FROM providers WHERE id IN (
             SELECT p.id FROM providers p JOIN versions v ON v.id = p.version
                 JOIN boxes b ON b.id = v.box WHERE {condition})"
    );
    run(tx, id, providers).await?;
    if matches!(scope, Scope::Provider(_)) {
        return Ok(());
    }
    let versions = format!(
        "DELETE FROM versions WHERE id IN (
             SELECT v.id FROM versions v JOIN boxes b ON b.id = v.box WHERE {condition})"
    );
    run(tx, id, versions).await?;
    if matches!(scope, Scope::Version(_)) {
        return Ok(());
    }
    let boxes =
        format!("DELETE FROM boxes WHERE id IN (SELECT b.id FROM boxes b WHERE {condition})");
    run(tx, id, boxes).await
}

/// Takes from an organization's finished uploads the blobs that they hold themselves.
pub(in crate::metadata) async fn held_by(tx: &mut Tx, organization: OrganizationId) -> Result<()> {
    for statement in [
        "UPDATE blobs SET refs = refs - (
             SELECT COUNT(*) FROM uploads u WHERE u.held = blobs.key AND u.organization = $1)
         WHERE key IN (SELECT u.held FROM uploads u WHERE u.organization = $1)",
        "UPDATE uploads SET state = 'aborted', epoch = epoch + 1, held = NULL
         WHERE organization = $1 AND held IS NOT NULL",
    ] {
        run(tx, organization.0, statement.to_owned()).await?;
    }
    super::blobs::doom_unnamed(tx).await
}

/// Writes what is told of each box before an organization goes.
pub(in crate::metadata) async fn boxes_of(
    tx: &mut Tx,
    organization: OrganizationId,
    actor: &str,
) -> Result<()> {
    const OP: &str = "box.delete";
    let rows = sqlx::query("SELECT id FROM boxes WHERE organization = $1 ORDER BY id")
        .bind(organization.0)
        .fetch_all(&mut tx.connection)
        .await
        .at(OP, organization.0)?;
    for row in rows {
        let id = BoxId(row.int("id")?);
        let place = Level::Box(id)
            .existing_place(&mut tx.connection, OP)
            .await?;
        let (_, old) = digests(tx, Scope::Box(id.0)).await?;
        outbox::append(tx, outbox::box_deleted(&place, old), actor).await?;
        audit::record(tx, actor, OP, &place.path()).await?;
    }
    Ok(())
}

/// How many files are in a scope (2 stands for more), and the digest of the only one.
async fn digests(tx: &mut Tx, scope: Scope) -> Result<(usize, Option<Blake3>)> {
    let (condition, id) = scope.condition();
    let statement = format!(
        "SELECT x.blake3 FROM files f JOIN blobs x ON x.key = f.blob
         WHERE f.architecture IN ({}) LIMIT 2",
        below(condition)
    );
    let rows = sqlx::query(AssertSqlSafe(statement))
        .bind(id)
        .fetch_all(&mut tx.connection)
        .await
        .at("catalog.remove", id)?;
    let only = match rows.as_slice() {
        [row] => Some(Blake3(row.fixed("blake3")?)),
        _ => None,
    };
    Ok((rows.len(), only))
}
