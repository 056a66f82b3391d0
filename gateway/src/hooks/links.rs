//! Addresses of blobs that plugins hand to whoever has no credential: signed by the keys of download links, or by the
//! store. Asked for in hooks that must not wait, so nothing here does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use boxgate_scripting::facts::Blob;
use boxgate_scripting::links::Links;
use boxgate_storage::blob::BlobKey;
use boxgate_storage::clock::Clock;
use boxgate_storage::digest::Blake3;
use boxgate_storage::error::chain;
use boxgate_storage::metadata::Metadata;
use boxgate_storage::store::Store;
use futures_util::FutureExt as _;
use tokio::runtime::Handle;

use crate::auth::link_keys::LinkKeys;
use crate::config::Settings;

/// What links of plugins are made of.
#[derive(Debug)]
pub struct ScriptLinks {
    /// Start of the URLs of blobs, or which setting they need.
    pub base: Result<String, &'static str>,
    /// Stores by name.
    pub stores: BTreeMap<String, Store>,
    /// What signs.
    pub keys: Arc<LinkKeys>,
    /// Where the keys are read again.
    pub metadata: Metadata,
    /// Current time.
    pub clock: Arc<dyn Clock>,
    /// What reads them.
    pub handle: Handle,
}

impl ScriptLinks {
    /// Start of the URLs of blobs: no request is at hand whose own authority would do.
    ///
    /// # Errors
    /// The setting that is missing.
    pub fn base(settings: &Settings) -> Result<String, &'static str> {
        let door = &settings.doors.blobs;
        if !door.enabled {
            return Err("the gateway's own URLs of blobs need doors.blobs.enabled");
        }
        let base = settings.public_url.first();
        let base = base.ok_or("set public_url, so that the gateway knows its own address")?;
        Ok(format!("{base}{}/blobs/b3/", door.prefix))
    }
}

impl Links for ScriptLinks {
    fn signed_url(&self, blob: &Blob, life: Duration) -> Result<String, String> {
        let base = self.base.as_ref().map_err(|why| (*why).to_owned())?;
        let (key, digest) = (key_of(blob)?, Blake3::from_hex(&blob.blake3));
        let digest = digest.ok_or("the blob has no digest")?;
        let now = self.clock.now();
        let (signer, is_old) = self.keys.at_hand(now);
        if is_old {
            let (keys, metadata) = (Arc::clone(&self.keys), self.metadata.clone());
            self.handle.spawn(async move {
                if let Err(error) = keys.current(&metadata, now).await {
                    tracing::debug!(error = chain(&error), "keys of links stay as they were");
                }
            });
        }
        let token = signer.sign_blob(&digest, &key, now.plus(life));
        let token = token.ok_or("there is no key to sign with")?;
        Ok(format!("{base}{}?token={token}", digest.to_hex()))
    }

    fn presigned_url(&self, blob: &Blob, life: Duration) -> Result<Option<String>, String> {
        let store = self.stores.get(blob.store.as_str());
        let Some(presign) = store.and_then(|store| store.presign.as_ref()) else {
            return Ok(None);
        };
        let key = key_of(blob)?;
        // Threads of the work lane are none of the runtime's, whose clock the store's client wants to see.
        let _runtime = self.handle.enter();
        match presign.url(&key, life).now_or_never() {
            Some(Ok(url)) => Ok(Some(url)),
            Some(Err(error)) => Err(chain(&error)),
            None => Err("the store has no credential at hand".into()),
        }
    }
}

fn key_of(blob: &Blob) -> Result<BlobKey, String> {
    let key = blob.id.parse();
    key.map_err(|_made_up| "the blob is none of this gateway's".to_owned())
}
