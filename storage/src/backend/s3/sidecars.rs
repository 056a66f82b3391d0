//! Sidecars as objects of their own: `<prefix>sidecars/<key>/<upload>.json`. Apart from the blobs, so that listing
//! those stays what it costs.

use async_trait::async_trait;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;

use super::S3;
use super::body::Segments;
use super::checksum::Sum;
use super::retry::Op;
use crate::blob::{BlobKey, UploadId};
use crate::error::{Error, ErrorKind, Result};
use crate::sidecar::MOST_BYTES;
use crate::store::Sidecars;

#[async_trait]
impl Sidecars for S3 {
    async fn put(&self, key: &BlobKey, id: UploadId, text: &str) -> Result<()> {
        let name = self.sidecar_of(key, id);
        let body = Segments::new(vec![Bytes::copy_from_slice(text.as_bytes())]);
        let sum = Sum::of(self.checksum, &body).await;
        self.call(Op::new("sidecar.put", key), body.len(), || {
            let put = self.client.put_object().bucket(&self.bucket).key(&name);
            let put = sum.clone().put(put.body(body.stream()));
            put.customize().disable_payload_signing().send()
        })
        .await
        .map(drop)
    }

    async fn remove(&self, key: &BlobKey, id: UploadId) -> Result<()> {
        self.remove_sidecar(key, &self.sidecar_of(key, id)).await
    }

    async fn beside(&self, key: &BlobKey) -> Result<Vec<(UploadId, Vec<u8>)>> {
        let under = self.sidecars_of(key);
        let mut texts = Vec::new();
        for name in self.sidecar_names(key).await? {
            let id = name.strip_prefix(&under);
            let id = id.and_then(|rest| rest.strip_suffix(ENDING)?.parse().ok());
            if let Some(id) = id
                && let Some(text) = self.sidecar(key, &name).await?
            {
                texts.push((id, text));
            }
        }
        Ok(texts)
    }
}

const ENDING: &str = ".json";

impl S3 {
    fn sidecars_of(&self, key: &BlobKey) -> String {
        format!("{}sidecars/{key}/", self.prefix)
    }

    fn sidecar_of(&self, key: &BlobKey, id: UploadId) -> String {
        format!("{}{id}{ENDING}", self.sidecars_of(key))
    }

    /// Removes all of a blob.
    pub(super) async fn remove_sidecars(&self, key: &BlobKey) -> Result<()> {
        for name in self.sidecar_names(key).await? {
            self.remove_sidecar(key, &name).await?;
        }
        Ok(())
    }

    async fn remove_sidecar(&self, key: &BlobKey, name: &str) -> Result<()> {
        let deleted = self
            .call(Op::new("sidecar.delete", key), 0, || {
                let delete = self.client.delete_object().bucket(&self.bucket);
                delete.key(name).send()
            })
            .await;
        match deleted {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// The names of all objects there.
    async fn sidecar_names(&self, key: &BlobKey) -> Result<Vec<String>> {
        let under = self.sidecars_of(key);
        let (mut names, mut after) = (Vec::new(), None::<String>);
        loop {
            let page = self
                .call(Op::new("sidecar.list", key), 0, || {
                    self.client
                        .list_objects_v2()
                        .bucket(&self.bucket)
                        .prefix(&under)
                        .set_start_after(after.clone())
                        .send()
                })
                .await?;
            let found = page.contents().iter().filter_map(|object| object.key());
            names.extend(found.map(str::to_owned));
            let last = names.last().cloned();
            if page.is_truncated() != Some(true) || last == after {
                return Ok(names);
            }
            after = last;
        }
    }

    /// One text; `None` where it went meanwhile, and of an object that can be no sidecar.
    async fn sidecar(&self, key: &BlobKey, name: &str) -> Result<Option<Vec<u8>>> {
        const OP: &str = "sidecar.read";
        let got = self
            .call(Op::new(OP, key), 0, || {
                let get = self.client.get_object().bucket(&self.bucket);
                get.key(name).send()
            })
            .await;
        let body: ByteStream = match got {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            got => {
                let got = got?;
                let length = got.content_length().and_then(|n| usize::try_from(n).ok());
                if length.is_none_or(|length| length > MOST_BYTES) {
                    return Ok(None);
                }
                got.body
            }
        };
        let cut = |e| Error::new(ErrorKind::Unavailable, OP, key.to_string()).with_source(e);
        let text = tokio::time::timeout(self.patience.first_byte, body.collect()).await;
        let text = text.map_err(|elapsed| {
            Error::new(ErrorKind::Unavailable, OP, key.to_string()).with_source(elapsed)
        })?;
        Ok(Some(text.map_err(cut)?.to_vec()))
    }
}
