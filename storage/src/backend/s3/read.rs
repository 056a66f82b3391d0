//! Reading objects: ranges as a stream that goes on where a cut connection left it.

use async_trait::async_trait;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumMode, ChecksumType};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt as _, StreamExt};

use super::S3;
use super::retry::Op;
use crate::blob::BlobKey;
use crate::error::{Error, ErrorKind, Result};
use crate::range::ByteRange;
use crate::store::ReadBlob;

#[async_trait]
impl ReadBlob for S3 {
    async fn stat(&self, key: &BlobKey) -> Result<u64> {
        Ok(self.look_at(key).await?.length)
    }

    async fn open(
        &self,
        key: &BlobKey,
        range: ByteRange,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        if range.is_empty() {
            // No range of HTTP is empty.
            self.stat(key).await?;
            return Ok(stream::empty().boxed());
        }
        let reader = Reader {
            s3: self.clone(),
            key: *key,
        };
        let body = reader.get(range.start(), range.end()).await?;
        let reading = Reading {
            reader,
            body,
            rest: Bytes::new(),
            at: range.start(),
            end: range.end(),
            cut: 0,
        };
        Ok(stream::try_unfold(reading, Reading::next).boxed())
    }
}

const STAT: &str = "blob.stat";
/// Whatever else answers 200 in the place of a store, none of it has one.
const NO_ETAG: &str = "what answers is no store: it gives no ETag";

/// What a store tells of an object.
pub(super) struct Object {
    pub(super) length: u64,
    /// CRC-64/NVME of all its bytes in base64, from a store that keeps it.
    pub(super) crc64: Option<String>,
}

impl S3 {
    /// What the store has under a key.
    ///
    /// The answer to HEAD has no body, so that a 404 may be anybody's: of a proxy without a backend, or of a bucket that is
    /// gone for a moment. It counts once GET says the same in the store's own words.
    pub(super) async fn look_at(&self, key: &BlobKey) -> Result<Object> {
        if let Some(found) = self.seems(key).await? {
            return Ok(found);
        }
        let reader = Reader {
            s3: self.clone(),
            key: *key,
        };
        reader.get(0, 1).await?;
        Err(Error::new(ErrorKind::Unavailable, STAT, key.to_string())
            .with_source("the store says that it is not there, and sends it"))
    }

    /// The same, where nothing hangs on what is not there.
    pub(super) async fn seems(&self, key: &BlobKey) -> Result<Option<Object>> {
        let name = self.name_of(key);
        let head = self
            .call(Op::new(STAT, key), 0, || {
                let head = self.client.head_object().bucket(&self.bucket);
                let head = head.checksum_mode(ChecksumMode::Enabled);
                let asked = head.key(&name).send();
                asked.map(|answer| match answer {
                    Err(e) if e.raw_response().is_some_and(|a| a.status().as_u16() == 404) => {
                        Ok(None)
                    }
                    answer => answer.map(Some),
                })
            })
            .await?;
        let Some(head) = head else {
            return Ok(None);
        };
        let unclear = |what: &str| {
            Error::new(ErrorKind::Unavailable, STAT, key.to_string()).with_source(what)
        };
        head.e_tag().ok_or_else(|| unclear(NO_ETAG))?;
        let length = head.content_length().and_then(|n| u64::try_from(n).ok());
        let length = length.ok_or_else(|| unclear("the store told no length"))?;
        // One of parts tells nothing of the bytes as a whole.
        let whole = head.checksum_type() == Some(&ChecksumType::FullObject);
        let crc64 = head.checksum_crc64_nvme().filter(|_| whole);
        Ok(Some(Object {
            length,
            crc64: crc64.map(str::to_owned),
        }))
    }
}

struct Reader {
    s3: S3,
    key: BlobKey,
}

impl Reader {
    async fn get(&self, start: u64, end: u64) -> Result<ByteStream> {
        let name = self.s3.name_of(&self.key);
        let range = format!("bytes={start}-{}", end - 1);
        let got: GetObjectOutput = self
            .s3
            .call(Op::new("blob.open", &self.key), 0, || {
                let get = self.s3.client.get_object().bucket(&self.s3.bucket);
                get.key(&name).range(&range).send()
            })
            .await?;
        if got.e_tag().is_none() {
            return Err(
                Error::new(ErrorKind::Unavailable, "blob.open", self.key.to_string())
                    .with_source(NO_ETAG),
            );
        }
        if got.content_length() != i64::try_from(end - start).ok() {
            return Err(self.short());
        }
        Ok(got.body)
    }

    fn short(&self) -> Error {
        Error::new(ErrorKind::Damaged, "blob.open", self.key.to_string())
            .with_source("the store holds fewer bytes")
    }
}

struct Reading {
    reader: Reader,
    body: ByteStream,
    /// What came and was not given out yet.
    rest: Bytes,
    at: u64,
    end: u64,
    /// How often the body was cut since the last byte.
    cut: u32,
}

impl Reading {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>> {
        while self.rest.is_empty() {
            if self.at >= self.end {
                return Ok(None);
            }
            let patience = self.reader.s3.patience;
            let came = tokio::time::timeout(patience.first_byte, self.body.next()).await;
            if let Ok(Some(Ok(bytes))) = came {
                self.cut = 0;
                self.rest = bytes;
                continue;
            }
            self.cut += 1;
            if self.cut >= patience.tries {
                let key = self.reader.key.to_string();
                return Err(Error::new(ErrorKind::Unavailable, "blob.read", key)
                    .with_source("the store cut the body again and again"));
            }
            self.body = self.reader.get(self.at, self.end).await?;
        }
        let chunk = self.rest.split_to(self.rest.len().min(CHUNK_BYTES));
        self.at += chunk.len() as u64;
        Ok(Some((chunk, self)))
    }
}

/// No chunk of a store is larger.
const CHUNK_BYTES: usize = 1 << 20;
