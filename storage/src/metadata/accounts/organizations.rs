//! Organizations.

use futures_util::FutureExt as _;
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::{
    AccountId, Organization, OrganizationChange, OrganizationId, OrganizationRole, members,
};
use crate::catalog::OrganizationName;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::catalog::isos;
use crate::metadata::catalog::remove::{self, Scope};
use crate::metadata::sql::{At as _, Columns as _, containing};
use crate::metadata::uploads;
use crate::metadata::writer::Tx;
use crate::metadata::{Metadata, audit};

/// The columns of an organization, as [`organization_of`] reads them.
macro_rules! organization_columns {
    () => {
        "o.id AS o_id, o.name AS o_name, o.email AS o_email, o.description AS o_description,
         o.org_code AS o_org_code, o.access_mode AS o_access_mode,
         o.default_role AS o_default_role, o.suspended AS o_suspended,
         o.created_ms AS o_created_ms, o.updated_ms AS o_updated_ms"
    };
}

fn organization_of(row: &AnyRow) -> Result<Organization> {
    Ok(Organization {
        id: OrganizationId(row.int("o_id")?),
        name: row.name("o_name")?,
        email: row.opt_text("o_email")?,
        description: row.opt_text("o_description")?,
        org_code: row.opt_text("o_org_code")?,
        access_mode: row.text("o_access_mode")?,
        default_role: row.word("o_default_role", OrganizationRole::from_name)?,
        suspended: row.truth("o_suspended")?,
        created: row.time("o_created_ms")?,
        updated: row.time("o_updated_ms")?,
    })
}

impl Metadata {
    /// Makes an organization with `owner` as its owner: private, its `org_code` from its id.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when the name is taken, [`ErrorKind::NotFound`] when the owner is gone.
    pub async fn create_organization(
        &self,
        name: &OrganizationName,
        description: Option<&str>,
        owner: AccountId,
    ) -> Result<Organization> {
        const OP: &str = "organization.create";
        let name = name.clone();
        let description = description.map(str::to_owned);
        self.write(OP, move |tx| {
            async move {
                let id = insert(tx, OP, &name, description).await?;
                members::put(tx, OP, owner, id, OrganizationRole::Owner).await?;
                existing(&mut tx.connection, OP, id).await
            }
            .boxed()
        })
        .await
    }

    /// The organization of that name, without case.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the database does not answer.
    pub async fn organization(&self, name: &OrganizationName) -> Result<Option<Organization>> {
        let known = &self.inner.known.organizations;
        known
            .or_read(name.folded(), self.read_organization(name))
            .await
    }

    async fn read_organization(&self, name: &OrganizationName) -> Result<Option<Organization>> {
        const OP: &str = "organization.read";
        let mut reader = self.reader(OP).await?;
        sqlx::query(concat!(
            "SELECT ",
            organization_columns!(),
            " FROM organizations o WHERE o.folded = $1"
        ))
        .bind(name.folded())
        .fetch_optional(&mut *reader)
        .await
        .at(OP, name)?
        .as_ref()
        .map(organization_of)
        .transpose()
    }

    /// The organization of that id.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the database does not answer.
    pub async fn organization_by_id(&self, id: OrganizationId) -> Result<Option<Organization>> {
        const OP: &str = "organization.read";
        let read = async { find(&mut *self.reader(OP).await?, OP, id).await };
        let known = &self.inner.known.organizations_by_id;
        known.or_read(id, read).await
    }

    /// All organizations whose name contains `part` (without case), by id.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the database does not answer.
    pub async fn organizations(&self, part: &str) -> Result<Vec<Organization>> {
        const OP: &str = "organization.list";
        let mut reader = self.reader(OP).await?;
        sqlx::query(concat!(
            "SELECT ",
            organization_columns!(),
            r" FROM organizations o WHERE o.folded LIKE $1 ESCAPE '\' ORDER BY o.id"
        ))
        .bind(containing(&part.to_ascii_lowercase()))
        .fetch_all(&mut *reader)
        .await
        .at(OP, part)?
        .iter()
        .map(organization_of)
        .collect()
    }

    /// Changes an organization.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], or [`ErrorKind::Conflict`] when the new name is taken.
    pub async fn update_organization(
        &self,
        id: OrganizationId,
        change: OrganizationChange,
    ) -> Result<Organization> {
        const OP: &str = "organization.update";
        self.write(OP, move |tx| {
            async move {
                sqlx::query(
                    "UPDATE organizations SET name = COALESCE($2, name),
                         folded = COALESCE($3, folded), description = COALESCE($4, description),
                         email = COALESCE($5, email), org_code = COALESCE($6, org_code),
                         access_mode = COALESCE($7, access_mode),
                         default_role = COALESCE($8, default_role),
                         suspended = COALESCE($9, suspended), updated_ms = $10
                     WHERE id = $1",
                )
                .bind(id.0)
                .bind(change.name.as_ref().map(OrganizationName::as_str))
                .bind(change.name.as_ref().map(OrganizationName::folded))
                .bind(change.description)
                .bind(change.email)
                .bind(change.org_code)
                .bind(change.access_mode)
                .bind(change.default_role.map(OrganizationRole::as_str))
                .bind(change.suspended.map(i64::from))
                .bind(tx.now.0)
                .execute(&mut tx.connection)
                .await
                .at(OP, id.0)?;
                existing(&mut tx.connection, OP, id).await
            }
            .boxed()
        })
        .await
    }

    /// Removes an organization with its boxes, memberships and tokens; its blobs lose their references, and what is on its way
    /// to it ends.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when it is gone.
    pub async fn delete_organization(&self, id: OrganizationId, actor: &str) -> Result<()> {
        const OP: &str = "organization.delete";
        let actor = actor.to_owned();
        self.write(OP, move |tx| {
            async move {
                let organization = existing(&mut tx.connection, OP, id).await?;
                remove::boxes_of(tx, id, &actor).await?;
                remove::under(tx, Scope::Organization(id.0)).await?;
                isos::remove_all(tx, id, &actor).await?;
                uploads::end_open_of(tx, OP, id).await?;
                remove::held_by(tx, id).await?;
                for statement in [
                    "DELETE FROM tokens WHERE organization = $1",
                    "DELETE FROM memberships WHERE organization = $1",
                    "DELETE FROM organizations WHERE id = $1",
                ] {
                    sqlx::query(statement)
                        .bind(id.0)
                        .execute(&mut tx.connection)
                        .await
                        .at(OP, &organization.name)?;
                }
                audit::record(tx, &actor, OP, organization.name.as_str()).await
            }
            .boxed()
        })
        .await
    }
}

/// The id of the organization of that name.
pub(in crate::metadata) async fn find_by_name(
    tx: &mut Tx,
    op: &'static str,
    name: &OrganizationName,
) -> Result<Option<OrganizationId>> {
    sqlx::query("SELECT id FROM organizations WHERE folded = $1")
        .bind(name.folded())
        .fetch_optional(&mut tx.connection)
        .await
        .at(op, name)?
        .map(|row| row.int("id").map(OrganizationId))
        .transpose()
}

/// Makes one that nobody belongs to yet.
pub(in crate::metadata) async fn insert(
    tx: &mut Tx,
    op: &'static str,
    name: &OrganizationName,
    description: Option<String>,
) -> Result<OrganizationId> {
    let id = tx.next_id("organizations").await?;
    sqlx::query(
        "INSERT INTO organizations (id, name, folded, description, org_code,
             access_mode, default_role, suspended, created_ms, updated_ms)
         VALUES ($1, $2, $3, $4, $5, 'private', $6, 0, $7, $7)",
    )
    .bind(id)
    .bind(name.as_str())
    .bind(name.folded())
    .bind(description)
    .bind(format!("B{id:05}"))
    .bind(OrganizationRole::Member.as_str())
    .bind(tx.now.0)
    .execute(&mut tx.connection)
    .await
    .at(op, name)?;
    Ok(OrganizationId(id))
}

async fn find(
    connection: &mut AnyConnection,
    op: &'static str,
    id: OrganizationId,
) -> Result<Option<Organization>> {
    sqlx::query(concat!(
        "SELECT ",
        organization_columns!(),
        " FROM organizations o WHERE o.id = $1"
    ))
    .bind(id.0)
    .fetch_optional(connection)
    .await
    .at(op, id.0)?
    .as_ref()
    .map(organization_of)
    .transpose()
}

async fn existing(
    connection: &mut AnyConnection,
    op: &'static str,
    id: OrganizationId,
) -> Result<Organization> {
    find(connection, op, id)
        .await?
        .ok_or_else(|| Error::new(ErrorKind::NotFound, op, format!("organization {}", id.0)))
}
