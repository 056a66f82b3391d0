//! Credentials and keys: 32 random bytes each, found by SHA-256, never stored in the clear.

use super::Metadata;
use super::accounts::{Account, AccountId, OrganizationId, row_id};
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
    /// Generated name of a service account (`client_id`), or of a personal token.
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
    /// Unique name of a service account.
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
    /// When it stopped being used for new things.
    pub retired: Option<UnixMillis>,
}

impl Metadata {
    /// Stores a credential. `Conflict` when a service account of that name exists.
    pub async fn create_token(&self, new: NewToken) -> Result<Token> {
        let _ = new;
        todo!()
    }

    /// The unexpired token with that hash, and its account. One indexed read.
    pub async fn token_by_hash(&self, hash: &[u8; 32]) -> Result<Option<(Token, Account)>> {
        let _ = hash;
        todo!()
    }

    /// The unexpired service account of that name, with the hash of its key and its owner.
    pub async fn service_account(&self, name: &str) -> Result<Option<(Token, [u8; 32], Account)>> {
        let _ = name;
        todo!()
    }

    /// All tokens of that kind that act for the account, by id.
    pub async fn tokens(&self, account: AccountId, kind: TokenKind) -> Result<Vec<Token>> {
        let _ = (account, kind);
        todo!()
    }

    /// Replaces the hash of a service account's key (rotation, or a key kept outside); false when gone.
    pub async fn set_token_hash(&self, id: TokenId, hash: [u8; 32]) -> Result<bool> {
        let _ = (id, hash);
        todo!()
    }

    /// Revokes; false when there was no such token of that account. Also ends the sessions made with
    /// a service account's key.
    pub async fn delete_token(&self, id: TokenId, account: AccountId) -> Result<bool> {
        let _ = (id, account);
        todo!()
    }

    /// Removes tokens that ended before now; returns how many.
    pub async fn purge_expired_tokens(&self) -> Result<u64> {
        todo!()
    }

    /// All keys for a purpose, newest first.
    pub async fn keys(&self, purpose: &str) -> Result<Vec<KeyRow>> {
        let _ = purpose;
        todo!()
    }

    /// Stores `secret` as the first key for the purpose unless one is there; returns the one that is
    /// (two nodes that start at once agree).
    pub async fn first_key(&self, purpose: &str, secret: &[u8]) -> Result<KeyRow> {
        let _ = (purpose, secret);
        todo!()
    }
}
