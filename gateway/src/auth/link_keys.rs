//! The keys of download links: the newest signs, every one that is not revoked checks.
//!
//! Rows are the truth, so that all nodes agree; what is held here is at most [`STALE`] old.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use boxgate_storage::clock::UnixMillis;
use boxgate_storage::metadata::Metadata;
use boxgate_storage::metadata::tokens::KeyRow;
use boxgate_storage::{Error, ErrorKind, Result};

use super::link::LinkSigner;
use super::master_key::MasterKey;

/// What the keys are for, in their rows.
pub const PURPOSE: &str = "download-link";
/// A key that was revoked on another node is good for so long here.
const STALE: Duration = Duration::from_secs(2);
/// Keys that check at once; a link lives for seven days at most, so older ones serve nobody.
pub const MOST_KEYS: usize = 16;

/// The keys, sealed in their rows by the master key.
pub struct LinkKeys {
    master: MasterKey,
    held: RwLock<Held>,
}

struct Held {
    signer: Arc<LinkSigner>,
    read: UnixMillis,
}

impl fmt::Debug for LinkKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkKeys").finish_non_exhaustive()
    }
}

impl LinkKeys {
    /// Reads the keys, of which there must be one.
    ///
    /// # Errors
    /// When the database does not answer, or a row does not open with the master key.
    pub async fn open(master: MasterKey, metadata: &Metadata, now: UnixMillis) -> Result<Self> {
        let signer = Arc::new(read(&master, metadata).await?);
        let held = RwLock::new(Held { signer, read: now });
        Ok(Self { master, held })
    }

    /// The keys as they are now, or were a moment ago.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn current(&self, metadata: &Metadata, now: UnixMillis) -> Result<Arc<LinkSigner>> {
        {
            let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
            if now < held.read.plus(STALE) {
                return Ok(Arc::clone(&held.signer));
            }
        }
        self.reload(metadata, now).await
    }

    /// The keys as they were read last, and whether they are to be read again: for whoever must not wait.
    pub fn at_hand(&self, now: UnixMillis) -> (Arc<LinkSigner>, bool) {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        (Arc::clone(&held.signer), now >= held.read.plus(STALE))
    }

    /// Makes a key that signs from now on; those before it go on checking. `None` when there are
    /// [`MOST_KEYS`] already.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn rotate(
        &self,
        metadata: &Metadata,
        actor: &str,
        now: UnixMillis,
    ) -> Result<Option<KeyRow>> {
        let secret = self.master.new_secret(PURPOSE);
        let made = metadata.add_key(PURPOSE, &secret, MOST_KEYS, actor).await?;
        self.reload(metadata, now).await?;
        Ok(made)
    }

    /// Ends all links that a key signed; if it was the last one, another takes its place. `false` when
    /// there is no such key, or it is revoked already.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn revoke(
        &self,
        metadata: &Metadata,
        id: i64,
        actor: &str,
        now: UnixMillis,
    ) -> Result<bool> {
        let next = self.master.new_secret(PURPOSE);
        let was_there = metadata.retire_key(PURPOSE, id, &next, actor).await?;
        self.reload(metadata, now).await?;
        Ok(was_there)
    }

    async fn reload(&self, metadata: &Metadata, now: UnixMillis) -> Result<Arc<LinkSigner>> {
        let signer = Arc::new(read(&self.master, metadata).await?);
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        *held = Held {
            signer: Arc::clone(&signer),
            read: now,
        };
        Ok(signer)
    }
}

async fn read(master: &MasterKey, metadata: &Metadata) -> Result<LinkSigner> {
    let mut keys = Vec::new();
    for row in metadata.keys(PURPOSE).await? {
        if row.retired.is_some() {
            continue;
        }
        let secret = master.open(PURPOSE, &row.secret).ok_or_else(|| {
            Error::new(ErrorKind::Internal, "link.keys", row.id.to_string())
                .with_source("the key does not open with this master key")
        })?;
        keys.push((row.id, secret));
    }
    Ok(LinkSigner::new(keys))
}
