//! The master key: seals the secrets that rows hold, so that a copy of the database gives none away.
//!
//! It comes from the configuration, else from `<data_dir>/master.key`, made at the first start. Its
//! fingerprint is a row, so that a wrong key is a clear message and not a pile of unreadable rows.

use std::path::Path;

use boxgate_storage::durable;
use boxgate_storage::metadata::Metadata;
use boxgate_storage::metadata::tokens::KeyRow;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;

/// 32 bytes that everything secret in the database hangs on.
#[derive(Clone)]
pub struct MasterKey([u8; 32]);

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey(***)")
    }
}

/// Why there is no usable master key.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyError {
    /// The text is not 64 hexadecimal digits.
    #[error("the master key from {from} must be 64 hexadecimal digits")]
    Malformed {
        /// Where the text came from.
        from: String,
    },
    /// The file cannot be read or made.
    #[error("cannot read or make the master key file {path}")]
    File {
        /// Which file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The database belongs to another key.
    #[error(
        "this master key is not the one that the database was made with; set BOXGATE_MASTER_KEY or \
         restore master.key from the same backup as the database"
    )]
    Other,
    /// The database does not answer.
    #[error("cannot compare the master key with the database")]
    Database(#[from] boxgate_storage::Error),
}

impl MasterKey {
    /// The configured key, else the one in the data directory, made there if missing.
    ///
    /// # Errors
    /// [`MasterKeyError::Malformed`] and [`MasterKeyError::File`].
    /// `database_exists`: a key that is missing beside it was lost, and a new one would not open it.
    pub fn load(
        configured: Option<&str>,
        data_dir: &Path,
        database_exists: bool,
    ) -> Result<Self, MasterKeyError> {
        if let Some(text) = configured {
            return Self::parse(text, "BOXGATE_MASTER_KEY");
        }
        let path = data_dir.join("master.key");
        let failed = |source| MasterKeyError::File {
            path: path.display().to_string(),
            source,
        };
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text, &path.display().to_string()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && database_exists => {
                Err(MasterKeyError::Other)
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let text = super::credential::fresh();
                // Before the first row that it seals.
                durable::write_file(&path, text.as_bytes(), 0o600).map_err(failed)?;
                Self::parse(&text, &path.display().to_string())
            }
            Err(e) => Err(failed(e)),
        }
    }

    fn parse(text: &str, from: &str) -> Result<Self, MasterKeyError> {
        let mut key = [0; 32];
        hex::decode_to_slice(text.trim(), &mut key).map_err(|_malformed| {
            MasterKeyError::Malformed {
                from: from.to_owned(),
            }
        })?;
        Ok(Self(key))
    }

    /// Compares this key with the fingerprint row; the first key that comes leaves its fingerprint.
    ///
    /// # Errors
    /// [`MasterKeyError::Other`] for another key than the first.
    pub async fn prove(&self, metadata: &Metadata) -> Result<(), MasterKeyError> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let fingerprint = hmac::sign(&key, b"boxgate master key fingerprint");
        let row = metadata
            .first_key("master-key-fingerprint", fingerprint.as_ref())
            .await?;
        if row.secret == fingerprint.as_ref() {
            Ok(())
        } else {
            Err(MasterKeyError::Other)
        }
    }

    /// The sealed key for a purpose, made at the first call; opened.
    ///
    /// # Errors
    /// When the database does not answer or the row does not open with this key.
    pub async fn key_for(
        &self,
        metadata: &Metadata,
        purpose: &str,
    ) -> Result<(KeyRow, Vec<u8>), MasterKeyError> {
        let mut secret = vec![0; 32];
        getrandom::fill(&mut secret).map_err(|e| MasterKeyError::File {
            path: "the system's random source".into(),
            source: std::io::Error::other(e),
        })?;
        let row = metadata
            .first_key(purpose, &self.seal(purpose, &secret))
            .await?;
        let opened = self
            .open(purpose, &row.secret)
            .ok_or(MasterKeyError::Other)?;
        Ok((row, opened))
    }

    /// Seals a secret for a purpose (ChaCha20-Poly1305, RFC 8439; nonce first).
    pub fn seal(&self, purpose: &str, secret: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).expect("the operating system gives random bytes");
        let mut sealed = secret.to_vec();
        self.cipher()
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(purpose.as_bytes()),
                &mut sealed,
            )
            .expect("a short secret is within the cipher's limit");
        [nonce.as_slice(), &sealed].concat()
    }

    /// A new random secret, sealed.
    pub fn new_secret(&self, purpose: &str) -> Vec<u8> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).expect("the operating system gives random bytes");
        self.seal(purpose, &secret)
    }

    /// Opens what [`Self::seal`] made for the same purpose.
    pub fn open(&self, purpose: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, body) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut body = body.to_vec();
        let opened = self
            .cipher()
            .open_in_place(nonce, Aad::from(purpose.as_bytes()), &mut body)
            .ok()?;
        Some(opened.to_vec())
    }

    fn cipher(&self) -> LessSafeKey {
        LessSafeKey::new(
            UnboundKey::new(&CHACHA20_POLY1305, &self.0).expect("the key has the cipher's length"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_for_its_purpose_only() {
        let key = MasterKey([7; 32]);
        let sealed = key.seal("links", b"secret");
        assert_eq!(
            key.open("links", &sealed).as_deref(),
            Some(b"secret".as_slice())
        );
        assert_eq!(key.open("other", &sealed), None);
        assert_eq!(MasterKey([8; 32]).open("links", &sealed), None);
        assert_eq!(key.open("links", &sealed[..5]), None);
    }

    #[test]
    fn the_key_file_is_made_once_and_is_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let first = MasterKey::load(None, dir.path(), false).unwrap();
        assert_eq!(first.0, MasterKey::load(None, dir.path(), false).unwrap().0);
        let mode = std::fs::metadata(dir.path().join("master.key"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let other = tempfile::tempdir().unwrap();
        assert!(matches!(
            MasterKey::load(None, other.path(), true),
            Err(MasterKeyError::Other)
        ));
        assert!(!other.path().join("master.key").exists());
        assert!(matches!(
            MasterKey::load(Some("short"), dir.path(), false),
            Err(MasterKeyError::Malformed { .. })
        ));
    }
}
