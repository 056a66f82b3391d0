//! Memberships.

use futures_util::FutureExt as _;
use sqlx::any::AnyRow;

use super::{AccountId, Membership, OrganizationId, OrganizationRole};
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::Metadata;
use crate::metadata::sql::{At as _, Columns as _};
use crate::metadata::writer::Tx;

/// Memberships with both names; the caller adds its condition. The account's lowest organization is
/// its first.
macro_rules! select_memberships {
    () => {
        "SELECT m.account, u.username, m.organization, o.name AS organization_name, m.role,
             m.joined_ms, CASE WHEN m.organization = (SELECT MIN(f.organization)
                 FROM memberships f WHERE f.account = m.account) THEN 1 ELSE 0 END AS is_first
         FROM memberships m JOIN users u ON u.id = m.account
             JOIN organizations o ON o.id = m.organization "
    };
}

fn membership_of(row: &AnyRow) -> Result<Membership> {
    Ok(Membership {
        account: AccountId(row.int("account")?),
        username: row.text("username")?,
        organization: OrganizationId(row.int("organization")?),
        organization_name: row.name("organization_name")?,
        role: row.word("role", OrganizationRole::from_name)?,
        primary: row.truth("is_first")?,
        joined: row.time("joined_ms")?,
    })
}

impl Metadata {
    /// Where an account belongs, by organization id; the first is primary.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn memberships(&self, account: AccountId) -> Result<Vec<Membership>> {
        let read = async { self.read_memberships(account).await.map(Some) };
        let found = self.inner.known.memberships.or_read(account, read).await?;
        Ok(found.unwrap_or_default())
    }

    async fn read_memberships(&self, account: AccountId) -> Result<Vec<Membership>> {
        const OP: &str = "membership.list";
        let mut reader = self.reader(OP).await?;
        sqlx::query(concat!(
            select_memberships!(),
            "WHERE m.account = $1 ORDER BY m.organization"
        ))
        .bind(account.0)
        .fetch_all(&mut *reader)
        .await
        .at(OP, account.0)?
        .iter()
        .map(membership_of)
        .collect()
    }

    /// Who belongs to an organization, by account id.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn members(&self, organization: OrganizationId) -> Result<Vec<Membership>> {
        const OP: &str = "membership.list";
        let mut reader = self.reader(OP).await?;
        sqlx::query(concat!(
            select_memberships!(),
            "WHERE m.organization = $1 ORDER BY m.account"
        ))
        .bind(organization.0)
        .fetch_all(&mut *reader)
        .await
        .at(OP, organization.0)?
        .iter()
        .map(membership_of)
        .collect()
    }

    /// Adds a member or changes its role.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] when the account or the organization is gone.
    pub async fn set_membership(
        &self,
        account: AccountId,
        organization: OrganizationId,
        role: OrganizationRole,
    ) -> Result<()> {
        const OP: &str = "membership.set";
        self.write(OP, move |tx| {
            async move {
                let owned = owners(tx, OP, organization).await? > 0;
                put(tx, OP, account, organization, role).await?;
                keep_owned(tx, OP, organization, owned).await
            }
            .boxed()
        })
        .await
    }

    /// Ends a membership; false when there was none.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Conflict`] when the last owner would go;
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn remove_membership(
        &self,
        account: AccountId,
        organization: OrganizationId,
    ) -> Result<bool> {
        const OP: &str = "membership.remove";
        self.write(OP, move |tx| {
            async move {
                let owned = owners(tx, OP, organization).await? > 0;
                let done =
                    sqlx::query("DELETE FROM memberships WHERE account = $1 AND organization = $2")
                        .bind(account.0)
                        .bind(organization.0)
                        .execute(&mut tx.connection)
                        .await
                        .at(OP, account.0)?;
                keep_owned(tx, OP, organization, owned).await?;
                Ok(done.rows_affected() > 0)
            }
            .boxed()
        })
        .await
    }
}

async fn owners(tx: &mut Tx, op: &'static str, organization: OrganizationId) -> Result<i64> {
    sqlx::query(
        "SELECT COUNT(*) AS owners FROM memberships WHERE organization = $1 AND role = 'owner'",
    )
    .bind(organization.0)
    .fetch_one(&mut tx.connection)
    .await
    .at(op, organization.0)?
    .int("owners")
}

/// An organization that had an owner keeps one; decided in the transaction of the change, so that two
/// owners cannot remove each other.
async fn keep_owned(
    tx: &mut Tx,
    op: &'static str,
    organization: OrganizationId,
    owned: bool,
) -> Result<()> {
    if owned && owners(tx, op, organization).await? == 0 {
        return Err(Error::new(ErrorKind::Conflict, op, "the last owner"));
    }
    Ok(())
}

/// Adds a member or changes its role.
pub(super) async fn put(
    tx: &mut Tx,
    op: &'static str,
    account: AccountId,
    organization: OrganizationId,
    role: OrganizationRole,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO memberships (account, organization, role, joined_ms) VALUES ($1, $2, $3, $4)
         ON CONFLICT (account, organization) DO UPDATE SET role = EXCLUDED.role",
    )
    .bind(account.0)
    .bind(organization.0)
    .bind(role.as_str())
    .bind(tx.now.0)
    .execute(&mut tx.connection)
    .await
    .at(op, account.0)
    .map(drop)
}

/// Adds the first membership of a new account; the name of the organization.
pub(super) async fn join(
    tx: &mut Tx,
    op: &'static str,
    account: AccountId,
    organization: OrganizationId,
    role: OrganizationRole,
) -> Result<String> {
    let found = sqlx::query("SELECT name FROM organizations WHERE id = $1")
        .bind(organization.0)
        .fetch_optional(&mut tx.connection)
        .await
        .at(op, organization.0)?;
    let Some(found) = found else {
        let what = format!("organization {}", organization.0);
        return Err(Error::new(ErrorKind::NotFound, op, what));
    };
    put(tx, op, account, organization, role).await?;
    found.text("name")
}
