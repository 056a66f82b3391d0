//! Passwords: argon2id, off the reactor, with the same work for an unknown name as for a known one. Hashes of bcrypt, which
//! came from another server, are taken until their owner signs in.

use std::sync::OnceLock;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use boxgate_storage::metadata::Metadata;
use boxgate_storage::metadata::accounts::{Account, AccountChange};

/// Longest password taken, in bytes: hashing is dear, and its input is a stranger's.
pub const MAX_PASSWORD_BYTES: usize = 1024;
/// Highest cost of a bcrypt hash that is taken: each step doubles the work.
const MOST_COST: u32 = 14;

/// Hashes a password into its PHC text; tens of milliseconds on a thread of its own.
///
/// # Panics
/// When the operating system has no randomness to give.
pub async fn hash(password: String) -> String {
    tokio::task::spawn_blocking(move || hash_now(&password))
        .await
        .expect("hashing a bounded password does not panic")
}

/// Compares a password with a PHC text. Without one (an unknown account) the same work is done for
/// nothing, so that the time taken tells no names.
///
/// # Panics
/// Never: a malformed stored hash counts as another password.
pub async fn verify(password: String, stored: Option<String>) -> bool {
    tokio::task::spawn_blocking(move || {
        static NOBODY: OnceLock<String> = OnceLock::new();
        let known = stored.is_some();
        let text = stored.unwrap_or_else(|| NOBODY.get_or_init(|| hash_now("nobody")).clone());
        if password.len() > MAX_PASSWORD_BYTES {
            return false;
        }
        if is_bcrypt(&text) {
            return bcrypt::verify(&password, &text).unwrap_or(false);
        }
        let Ok(parsed) = PasswordHash::new(&text) else {
            return false;
        };
        Argon2::default()
            .verify_password(password.as_bytes(), &parsed)
            .is_ok()
            && known
    })
    .await
    .unwrap_or(false)
}

/// The account of that name, if the password is its. A hash of another server is replaced by one of ours then.
///
/// # Errors
/// As [`Metadata::account_by_username`].
pub async fn account(
    metadata: &Metadata,
    username: &str,
    password: String,
) -> boxgate_storage::Result<Option<Account>> {
    let account = metadata.account_by_username(username).await?;
    let stored = account.as_ref().and_then(|a| a.password_hash.clone());
    let is_foreign = stored.as_deref().is_some_and(is_bcrypt);
    let right = verify(password.clone(), stored).await;
    let Some(account) = account.filter(|_| right) else {
        return Ok(None);
    };
    if !is_foreign || account.suspended {
        return Ok(Some(account));
    }
    let change = AccountChange {
        password_hash: Some(hash(password).await),
        ..AccountChange::default()
    };
    metadata.update_account(account.id, change).await.map(Some)
}

/// Whether a hash of another server is one that passwords can be compared with here, in no more than about a second.
pub fn is_usable(stored: &str) -> bool {
    let parts = stored.parse::<bcrypt::HashParts>();
    is_bcrypt(stored) && parts.is_ok_and(|parts| parts.get_cost() <= MOST_COST)
}

fn is_bcrypt(stored: &str) -> bool {
    ["$2a$", "$2b$", "$2x$", "$2y$"]
        .iter()
        .any(|kind| stored.starts_with(kind))
}

fn hash_now(password: &str) -> String {
    Argon2::default()
        .hash_password(password.as_bytes())
        .expect("argon2's defaults take any password of bounded length")
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BCRYPT: &str = "$2a$08$gOU5pFBlTIBMpNUJAOcFcuME8mACaoDoBD87pnLzjo/bkps.QeQoC";

    #[tokio::test]
    async fn only_the_right_password_verifies() {
        let stored = hash("right".into()).await;
        assert!(verify("right".into(), Some(stored.clone())).await);
        assert!(!verify("wrong".into(), Some(stored)).await);
        assert!(!verify("nobody".into(), None).await);
        assert!(!verify("x".into(), Some("not a hash".into())).await);
    }

    #[tokio::test]
    async fn hashes_of_bcrypt_verify_unless_they_are_too_dear() {
        // Of bcryptjs, as a BoxVault keeps it.
        let stored = BCRYPT;
        assert!(is_usable(stored));
        assert!(verify("correct horse".into(), Some(stored.into())).await);
        assert!(!verify("correct hors".into(), Some(stored.into())).await);
        assert!(!verify("correct horse".into(), Some(stored.replace("mACa", "mACb"))).await);
        assert!(!is_usable(&stored.replacen("$08$", "$20$", 1)));
        for other in [
            "",
            "password",
            "$2a$08$short",
            "$argon2id$v=19$m=1,t=1,p=1$AA$AA",
        ] {
            assert!(!is_usable(other), "{other}");
        }
    }
}
