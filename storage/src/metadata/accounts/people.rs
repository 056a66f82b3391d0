//! Accounts.

use futures_util::FutureExt as _;
use sqlx::AnyConnection;
use sqlx::any::AnyRow;

use super::{Account, AccountChange, AccountId, NewAccount, PlatformRole, members};
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::sql::{At as _, Columns as _};
use crate::metadata::{Metadata, outbox};

/// The columns of an account, as [`account_of`] reads them.
macro_rules! account_columns {
    () => {
        "u.id AS u_id, u.username AS u_username, u.name AS u_name, u.email AS u_email,
         u.password_hash AS u_password_hash, u.role AS u_role, u.suspended AS u_suspended,
         u.created_ms AS u_created_ms, u.updated_ms AS u_updated_ms"
    };
}
pub(in crate::metadata) use account_columns;

/// Reads the columns of `account_columns`.
pub(in crate::metadata) fn account_of(row: &AnyRow) -> Result<Account> {
    Ok(Account {
        id: AccountId(row.int("u_id")?),
        username: row.text("u_username")?,
        name: row.opt_text("u_name")?,
        email: row.opt_text("u_email")?,
        password_hash: row.opt_text("u_password_hash")?,
        role: row.word("u_role", PlatformRole::from_name)?,
        suspended: row.truth("u_suspended")?,
        created: row.time("u_created_ms")?,
        updated: row.time("u_updated_ms")?,
    })
}

impl Metadata {
    /// Makes an account, a member of an organization where that is given, and tells `user.created`.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when the name is taken (without case);
    /// [`ErrorKind::NotFound`] when the organization is gone.
    pub async fn create_account(&self, new: NewAccount) -> Result<Account> {
        const OP: &str = "account.create";
        self.write(OP, move |tx| {
            async move {
                let id = tx.next_id("users").await?;
                sqlx::query(
                    "INSERT INTO users (id, username, folded, email, password_hash, role,
                         suspended, created_ms, updated_ms)
                     VALUES ($1, $2, $3, $4, $5, $6, 0, $7, $7)",
                )
                .bind(id)
                .bind(&new.username)
                .bind(new.username.to_ascii_lowercase())
                .bind(new.email)
                .bind(new.password_hash)
                .bind(new.role.as_str())
                .bind(tx.now.0)
                .execute(&mut tx.connection)
                .await
                .at(OP, &new.username)?;
                let organization = match new.membership {
                    None => None,
                    Some((organization, role)) => {
                        Some(members::join(tx, OP, AccountId(id), organization, role).await?)
                    }
                };
                let draft = outbox::user_created(&new.username, organization.as_deref());
                outbox::append(tx, draft, &new.by).await?;
                existing(&mut tx.connection, OP, AccountId(id)).await
            }
            .boxed()
        })
        .await
    }

    /// The account of that id.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the database does not answer.
    pub async fn account(&self, id: AccountId) -> Result<Option<Account>> {
        const OP: &str = "account.read";
        find(&mut *self.reader(OP).await?, OP, id).await
    }

    /// The account of that name, without case.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the database does not answer.
    pub async fn account_by_username(&self, username: &str) -> Result<Option<Account>> {
        const OP: &str = "account.read";
        let mut reader = self.reader(OP).await?;
        sqlx::query(concat!(
            "SELECT ",
            account_columns!(),
            " FROM users u WHERE u.folded = $1"
        ))
        .bind(username.to_ascii_lowercase())
        .fetch_optional(&mut *reader)
        .await
        .at(OP, username)?
        .as_ref()
        .map(account_of)
        .transpose()
    }

    /// Up to `limit` accounts after `after`, by id.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the database does not answer.
    pub async fn accounts(&self, after: Option<AccountId>, limit: u32) -> Result<Vec<Account>> {
        const OP: &str = "account.list";
        let mut reader = self.reader(OP).await?;
        sqlx::query(concat!(
            "SELECT ",
            account_columns!(),
            " FROM users u WHERE u.id > $1 ORDER BY u.id LIMIT $2"
        ))
        .bind(after.map_or(0, |id| id.0))
        .bind(i64::from(limit))
        .fetch_all(&mut *reader)
        .await
        .at(OP, "users")?
        .iter()
        .map(account_of)
        .collect()
    }

    /// Changes an account.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when it is gone.
    pub async fn update_account(&self, id: AccountId, change: AccountChange) -> Result<Account> {
        const OP: &str = "account.update";
        self.write(OP, move |tx| {
            async move {
                sqlx::query(
                    "UPDATE users SET name = COALESCE($2, name), email = COALESCE($3, email),
                         password_hash = COALESCE($4, password_hash), role = COALESCE($5, role),
                         suspended = COALESCE($6, suspended), updated_ms = $7
                     WHERE id = $1",
                )
                .bind(id.0)
                .bind(change.name)
                .bind(change.email)
                .bind(change.password_hash)
                .bind(change.role.map(PlatformRole::as_str))
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

    /// Removes an account with its memberships and tokens, and tells `user.deleted` by `by`; boxes
    /// stay with their organization.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when it is gone.
    pub async fn delete_account(&self, id: AccountId, by: &str) -> Result<()> {
        const OP: &str = "account.delete";
        let by = by.to_owned();
        self.write(OP, move |tx| {
            async move {
                let account = existing(&mut tx.connection, OP, id).await?;
                for statement in [
                    "DELETE FROM tokens WHERE account = $1",
                    "DELETE FROM memberships WHERE account = $1",
                    "DELETE FROM users WHERE id = $1",
                ] {
                    sqlx::query(statement)
                        .bind(id.0)
                        .execute(&mut tx.connection)
                        .await
                        .at(OP, &account.username)?;
                }
                outbox::append(tx, outbox::user_deleted(&account.username), &by).await
            }
            .boxed()
        })
        .await
    }
}

async fn find(
    connection: &mut AnyConnection,
    op: &'static str,
    id: AccountId,
) -> Result<Option<Account>> {
    sqlx::query(concat!(
        "SELECT ",
        account_columns!(),
        " FROM users u WHERE u.id = $1"
    ))
    .bind(id.0)
    .fetch_optional(connection)
    .await
    .at(op, id.0)?
    .as_ref()
    .map(account_of)
    .transpose()
}

async fn existing(
    connection: &mut AnyConnection,
    op: &'static str,
    id: AccountId,
) -> Result<Account> {
    find(connection, op, id)
        .await?
        .ok_or_else(|| Error::new(ErrorKind::NotFound, op, format!("account {}", id.0)))
}
