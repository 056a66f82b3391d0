//! Credentials and keys: 32 random bytes each, found by SHA-256, never stored in the clear.

mod keys;

use futures_util::FutureExt as _;
use sqlx::any::AnyRow;

use super::Metadata;
use super::accounts::{Account, AccountId, OrganizationId, account_columns, account_of, row_id};
use super::sql::{At as _, Columns as _};
use crate::clock::UnixMillis;
use crate::error::Result;

row_id! {
    /// Row id of a token.
    TokenId
}

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Made by signing in.
    Session,
    /// Made by a person for scripts.
    Personal,
    /// The key of a service account, bound to one organization.
    Service,
}

impl TokenKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Personal => "personal",
            Self::Service => "service",
        }
    }

    fn from_name(text: &str) -> Option<Self> {
        [Self::Session, Self::Personal, Self::Service]
            .into_iter()
            .find(|k| k.as_str() == text)
    }
}

/// A credential's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Row id.
    pub id: TokenId,
    /// What it is for.
    pub kind: TokenKind,
    /// On whose behalf it acts.
    pub account: AccountId,
    /// The one organization it is bound to; always set for a service account, and for the sessions
    /// made by signing in with one.
    pub organization: Option<OrganizationId>,
    /// Generated name of a service account (`client_id`), of the service account that a session was
    /// made with, or of a personal token.
    pub name: Option<String>,
    /// What its maker wrote about it.
    pub description: Option<String>,
    /// When it ends, if ever.
    pub expires: Option<UnixMillis>,
    /// When it was made.
    pub created: UnixMillis,
}

/// A new credential.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// What it is for.
    pub kind: TokenKind,
    /// SHA-256 of the 64 hexadecimal digits (ASCII) that the client holds, as BoxVault stores it.
    pub hash: [u8; 32],
    /// On whose behalf it acts.
    pub account: AccountId,
    /// The one organization it is bound to.
    pub organization: Option<OrganizationId>,
    /// Unique name of a service account; for a session made with one, that name.
    pub name: Option<String>,
    /// What its maker wrote about it.
    pub description: Option<String>,
    /// When it ends, if ever.
    pub expires: Option<UnixMillis>,
}

/// A sealed key of the gateway's own: for links, for comparing master keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// Row id, named in what it signs.
    pub id: i64,
    /// What it is for, such as `download-link`.
    pub purpose: String,
    /// The secret, sealed by the caller.
    pub secret: Vec<u8>,
    /// When it was made.
    pub created: UnixMillis,
    /// When it stopped being used.
    pub retired: Option<UnixMillis>,
}

/// The columns of a token, as [`token_of`] reads them.
macro_rules! token_columns {
    () => {
        "t.id AS t_id, t.kind AS t_kind, t.account AS t_account, t.organization AS t_organization,
         t.name AS t_name, t.description AS t_description, t.expires_ms AS t_expires_ms,
         t.created_ms AS t_created_ms"
    };
}

fn token_of(row: &AnyRow) -> Result<Token> {
    Ok(Token {
        id: TokenId(row.int("t_id")?),
        kind: row.word("t_kind", TokenKind::from_name)?,
        account: AccountId(row.int("t_account")?),
        organization: row.opt_int("t_organization")?.map(OrganizationId),
        name: row.opt_text("t_name")?,
        description: row.opt_text("t_description")?,
        expires: row.opt_int("t_expires_ms")?.map(UnixMillis),
        created: row.time("t_created_ms")?,
    })
}

impl Metadata {
    /// Stores a credential.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Conflict`] when a service account of that name exists (without case),
    /// [`crate::ErrorKind::NotFound`] when the account or the organization is gone.
    pub async fn create_token(&self, new: NewToken) -> Result<Token> {
        const OP: &str = "token.create";
        self.write(OP, move |tx| {
            async move {
                let id = tx.next_id("tokens").await?;
                sqlx::query(
                    "INSERT INTO tokens (id, kind, hash, account, organization, name, folded,
                         description, expires_ms, created_ms)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
                )
                .bind(id)
                .bind(new.kind.as_str())
                .bind(new.hash.to_vec())
                .bind(new.account.0)
                .bind(new.organization.map(|id| id.0))
                .bind(&new.name)
                .bind(new.name.as_deref().map(str::to_ascii_lowercase))
                .bind(&new.description)
                .bind(new.expires.map(|at| at.0))
                .bind(tx.now.0)
                .execute(&mut tx.connection)
                .await
                .at(OP, new.name.as_deref().unwrap_or("token"))?;
                Ok(Token {
                    id: TokenId(id),
                    kind: new.kind,
                    account: new.account,
                    organization: new.organization,
                    name: new.name,
                    description: new.description,
                    expires: new.expires,
                    created: tx.now,
                })
            }
            .boxed()
        })
        .await
    }

    /// The unexpired token with that hash, and its account. One indexed read, or none a moment after another.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn token_by_hash(&self, hash: &[u8; 32]) -> Result<Option<(Token, Account)>> {
        let known = &self.inner.known.tokens;
        let found = known.or_read(*hash, self.read_token(hash)).await?;
        let now = self.now();
        Ok(found.filter(|(token, _)| token.expires.is_none_or(|end| end > now)))
    }

    async fn read_token(&self, hash: &[u8; 32]) -> Result<Option<(Token, Account)>> {
        const OP: &str = "token.read";
        let mut reader = self.reader(OP).await?;
        let row = sqlx::query(concat!(
            "SELECT ",
            token_columns!(),
            ", ",
            account_columns!(),
            " FROM tokens t JOIN users u ON u.id = t.account
              WHERE t.hash = $1 AND (t.expires_ms IS NULL OR t.expires_ms > $2)"
        ))
        .bind(hash.to_vec())
        .bind(self.now().0)
        .fetch_optional(&mut *reader)
        .await
        .at(OP, "token")?;
        row.map(|row| Ok((token_of(&row)?, account_of(&row)?)))
            .transpose()
    }

    /// The unexpired token of that id, and its account; read anew each time.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn token_by_id(&self, id: TokenId) -> Result<Option<(Token, Account)>> {
        const OP: &str = "token.read";
        let mut reader = self.reader(OP).await?;
        let row = sqlx::query(concat!(
            "SELECT ",
            token_columns!(),
            ", ",
            account_columns!(),
            " FROM tokens t JOIN users u ON u.id = t.account
              WHERE t.id = $1 AND (t.expires_ms IS NULL OR t.expires_ms > $2)"
        ))
        .bind(id.0)
        .bind(self.now().0)
        .fetch_optional(&mut *reader)
        .await
        .at(OP, id.0)?;
        row.map(|row| Ok((token_of(&row)?, account_of(&row)?)))
            .transpose()
    }

    /// The unexpired service account of that name (without case), with the hash of its key and its
    /// owner.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn service_account(&self, name: &str) -> Result<Option<(Token, [u8; 32], Account)>> {
        const OP: &str = "token.read";
        let mut reader = self.reader(OP).await?;
        let row = sqlx::query(concat!(
            "SELECT t.hash AS t_hash, ",
            token_columns!(),
            ", ",
            account_columns!(),
            " FROM tokens t JOIN users u ON u.id = t.account
              WHERE t.kind = 'service' AND t.folded = $1
                  AND (t.expires_ms IS NULL OR t.expires_ms > $2)"
        ))
        .bind(name.to_ascii_lowercase())
        .bind(self.now().0)
        .fetch_optional(&mut *reader)
        .await
        .at(OP, name)?;
        row.map(|row| Ok((token_of(&row)?, row.fixed("t_hash")?, account_of(&row)?)))
            .transpose()
    }

    /// All tokens of that kind that act for the account, by id.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn tokens(&self, account: AccountId, kind: TokenKind) -> Result<Vec<Token>> {
        const OP: &str = "token.list";
        let mut reader = self.reader(OP).await?;
        sqlx::query(concat!(
            "SELECT ",
            token_columns!(),
            " FROM tokens t WHERE t.account = $1 AND t.kind = $2 ORDER BY t.id"
        ))
        .bind(account.0)
        .bind(kind.as_str())
        .fetch_all(&mut *reader)
        .await
        .at(OP, account.0)?
        .iter()
        .map(token_of)
        .collect()
    }

    /// Replaces the hash of a service account's key (rotation, or a key kept outside); false when gone.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Conflict`] when another token has that hash.
    pub async fn set_token_hash(&self, id: TokenId, hash: [u8; 32]) -> Result<bool> {
        const OP: &str = "token.rotate";
        self.write(OP, move |tx| {
            async move {
                sqlx::query("UPDATE tokens SET hash = $2 WHERE id = $1 AND kind = 'service'")
                    .bind(id.0)
                    .bind(hash.to_vec())
                    .execute(&mut tx.connection)
                    .await
                    .at(OP, id.0)
                    .map(|done| done.rows_affected() > 0)
            }
            .boxed()
        })
        .await
    }

    /// Revokes; false when there was no such token of that account. Also ends the sessions made with
    /// a service account's key.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn delete_token(&self, id: TokenId, account: AccountId) -> Result<bool> {
        const OP: &str = "token.delete";
        self.write(OP, move |tx| {
            async move {
                // A session bound to the same organization that does not say which key made it goes
                // too: ending one session too many asks for a sign-in, one too few leaves a door open.
                sqlx::query(
                    "DELETE FROM tokens WHERE kind = 'session' AND account = $2 AND EXISTS (
                         SELECT 1 FROM tokens s
                         WHERE s.id = $1 AND s.account = $2 AND s.kind = 'service'
                             AND tokens.organization = s.organization
                             AND (tokens.folded IS NULL OR tokens.folded = s.folded))",
                )
                .bind(id.0)
                .bind(account.0)
                .execute(&mut tx.connection)
                .await
                .at(OP, id.0)?;
                sqlx::query("DELETE FROM tokens WHERE id = $1 AND account = $2")
                    .bind(id.0)
                    .bind(account.0)
                    .execute(&mut tx.connection)
                    .await
                    .at(OP, id.0)
                    .map(|done| done.rows_affected() > 0)
            }
            .boxed()
        })
        .await
    }

    /// Removes tokens that ended before now; returns how many.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn purge_expired_tokens(&self) -> Result<u64> {
        const OP: &str = "token.purge";
        self.write(OP, move |tx| {
            async move {
                sqlx::query("DELETE FROM tokens WHERE expires_ms <= $1")
                    .bind(tx.now.0)
                    .execute(&mut tx.connection)
                    .await
                    .at(OP, "tokens")
                    .map(|done| done.rows_affected())
            }
            .boxed()
        })
        .await
    }
}
