//! URLs that are signed here and read at the service, by whoever has one.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::presigning::PresigningConfig;

use super::{S3, S3Options};
use crate::blob::BlobKey;
use crate::error::{Error, ErrorKind, Result};
use crate::store::PresignRead;

/// Signs for the address that clients know.
pub(super) struct Presigner {
    s3: S3,
    endpoint: String,
}

impl Presigner {
    pub(super) fn new(options: &S3Options) -> Self {
        let endpoint = options.clients_endpoint.as_ref();
        let endpoint = endpoint.unwrap_or(&options.endpoint).clone();
        Self {
            s3: S3::new(S3Options {
                endpoint: endpoint.clone(),
                ..options.clone()
            }),
            endpoint,
        }
    }
}

impl fmt::Debug for Presigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Presigner").field(&self.endpoint).finish()
    }
}

#[async_trait]
impl PresignRead for Presigner {
    async fn url(&self, key: &BlobKey, life: Duration) -> Result<String> {
        const OP: &str = "blob.presign";
        let failed = || Error::new(ErrorKind::Internal, OP, key.to_string());
        let signing = PresigningConfig::expires_in(life);
        let get = self.s3.client.get_object().bucket(&self.s3.bucket);
        let get = get
            .key(self.s3.name_of(key))
            .response_content_type("application/octet-stream")
            .response_content_disposition("attachment; filename=\"vagrant.box\"");
        let signed = get.presigned(signing.map_err(|e| failed().with_source(e))?);
        let signed = Box::pin(signed).await;
        Ok(signed
            .map_err(|e| failed().with_source(e))?
            .uri()
            .to_owned())
    }
}
