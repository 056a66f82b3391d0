//! Passwords: argon2id, off the reactor, with the same work for an unknown name as for a known one.

use std::sync::OnceLock;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};

/// Longest password taken, in bytes: hashing is dear, and its input is a stranger's.
pub const MAX_PASSWORD_BYTES: usize = 1024;

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
        let Ok(parsed) = PasswordHash::new(&text) else {
            return false;
        };
        password.len() <= MAX_PASSWORD_BYTES
            && Argon2::default()
                .verify_password(password.as_bytes(), &parsed)
                .is_ok()
            && known
    })
    .await
    .unwrap_or(false)
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

    #[tokio::test]
    async fn only_the_right_password_verifies() {
        let stored = hash("right".into()).await;
        assert!(verify("right".into(), Some(stored.clone())).await);
        assert!(!verify("wrong".into(), Some(stored)).await);
        assert!(!verify("nobody".into(), None).await);
        assert!(!verify("x".into(), Some("not a hash".into())).await);
    }
}
