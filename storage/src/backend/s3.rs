//! One object per blob in a bucket: `<prefix>blobs/<key>`, and its sidecars under `<prefix>sidecars/<key>/`.
//!
//! The SDK signs and speaks; what it would do unasked is off: its checksums (a trailer that other stores
//! refuse), its hash over each body for the signature, its retries. A part travels as the buffers that
//! it came in, is sent again from them, and its checksum is the one that this very bucket was seen to
//! check ([`probe`]). What an upload has stored is known from the rows only: what the bucket lists is
//! never taken for what was committed.

mod body;
mod checksum;
mod presign;
mod probe;
mod read;
mod retry;
mod sidecars;
mod write;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;

pub use self::checksum::Checksum;
use self::presign::Presigner;
use self::retry::{Op, RetryBudget};
use crate::blob::BlobKey;
use crate::error::{Error, ErrorKind, Result};
use crate::store::{DeleteBlob, Intake, ListBlobs, PresignRead, Store};

/// Where the bucket is, and who asks.
#[derive(Clone)]
pub struct S3Options {
    /// URL of the service.
    pub endpoint: String,
    /// Region that requests are signed for.
    pub region: String,
    /// Name of the bucket, which must exist.
    pub bucket: String,
    /// What every object's name begins with.
    pub prefix: String,
    /// Whether the bucket is the first segment of the path, and not part of the host.
    pub path_style: bool,
    /// Public half of the credential.
    pub access_key_id: String,
    /// Secret half of the credential.
    pub secret_access_key: String,
    /// When a call has failed.
    pub patience: Patience,
    /// Whether clients may be sent to read from the service itself.
    pub redirect_for: Option<Duration>,
    /// URL of the service as clients know it, where that is another one.
    pub clients_endpoint: Option<String>,
}

impl fmt::Debug for S3Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Options")
            .field("endpoint", &self.endpoint)
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// When a call to the store has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// To connect.
    pub connect: Duration,
    /// To the first byte of an answer once a request is sent, and between two pieces of a body.
    pub first_byte: Duration,
    /// Slower than so many bytes in a second, a part counts as stalled.
    pub slowest_bytes_per_second: u64,
    /// Calls for one and the same thing.
    pub tries: u32,
    /// The longest pause before the second try, doubled for each that follows; the pause is a random share of it.
    pub pause: Duration,
    /// The longest pause before any try.
    pub longest_pause: Duration,
    /// From the first try to the start of the last.
    pub in_all: Duration,
    /// Further tries for each hundred calls of all uploads and downloads together, beside a reserve: a service that
    /// fails is not asked many times as much.
    pub retry_percent: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(30),
            slowest_bytes_per_second: 128 << 10,
            tries: 6,
            pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(10),
            in_all: Duration::from_mins(1),
            retry_percent: 10,
        }
    }
}

/// What the bucket was seen to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The checksum of a body that it compares.
    pub checksum: Checksum,
    /// Whether it refuses to replace an object when asked to.
    pub conditional_writes: bool,
    /// What it removes by rules of its own.
    pub rules: Rules,
}

/// What a bucket removes below the prefix by its own lifecycle rules, as far as it tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rules {
    /// Unfinished uploads, so many days after they were begun.
    pub unfinished_after_days: Option<u32>,
    /// Whether it removes whole objects.
    pub objects: bool,
}

/// Opens the bucket as a store, after finding out what it can do.
///
/// # Errors
/// One line that names the setting to look at, when the bucket cannot be written to or read from.
pub async fn open(options: S3Options) -> Result<(Store, Found)> {
    let presign: Arc<dyn PresignRead> = Arc::new(Presigner::new(&options));
    let redirect_for = options.redirect_for;
    let mut s3 = S3::new(options);
    let found = s3.probe().await?;
    s3.checksum = found.checksum;
    let s3 = Arc::new(s3);
    let store = Store {
        read: Arc::clone(&s3) as _,
        write: Arc::clone(&s3) as _,
        delete: Some(Arc::clone(&s3) as _),
        list: Some(Arc::clone(&s3) as _),
        shared: Some(Arc::clone(&s3) as _),
        sidecars: Some(s3),
        space: None,
        files: None,
        presign: Some(presign),
        redirect_for,
        intake: Intake::ByPart,
    };
    Ok((store, found))
}

/// The bucket and what was found out about it; cheap to clone.
#[derive(Clone)]
struct S3 {
    client: Client,
    bucket: String,
    prefix: String,
    patience: Patience,
    retries: Arc<RetryBudget>,
    checksum: Checksum,
    /// Who writes to which blob in this process: a writer that was replaced may have a part on its way
    /// still, which must not land behind its successor's.
    writers: Arc<Mutex<HashMap<BlobKey, Weak<tokio::sync::Mutex<()>>>>>,
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3")
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .field("checksum", &self.checksum)
            .finish_non_exhaustive()
    }
}

impl S3 {
    fn new(options: S3Options) -> Self {
        let S3Options {
            endpoint,
            region,
            bucket,
            prefix,
            path_style,
            access_key_id,
            secret_access_key,
            patience,
            redirect_for: _,
            clients_endpoint: _,
        } = options;
        let credentials =
            Credentials::new(access_key_id, secret_access_key, None, None, "boxgate.toml");
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::Ring))
            .build_https();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(patience.connect)
            .build();
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(endpoint)
            .region(Region::new(region))
            .credentials_provider(credentials)
            .force_path_style(path_style)
            .http_client(http)
            .timeout_config(timeouts)
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .build();
        Self {
            client: Client::from_conf(config),
            bucket,
            prefix,
            patience,
            retries: Arc::new(RetryBudget::new(patience.retry_percent)),
            checksum: Checksum::None,
            writers: Arc::default(),
        }
    }

    fn name_of(&self, key: &BlobKey) -> String {
        format!("{}{BLOBS}{key}", self.prefix)
    }

    /// The lock of whoever writes to that blob.
    fn writer_of(&self, key: &BlobKey) -> Arc<tokio::sync::Mutex<()>> {
        let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(writer) = writers.get(key).and_then(Weak::upgrade) {
            return writer;
        }
        writers.retain(|_, writer| writer.strong_count() > 0);
        let writer = Arc::default();
        writers.insert(*key, Arc::downgrade(&writer));
        writer
    }

    /// Gives up what was begun in parts under that name and not completed, but for `but`, until none is
    /// left: one whose part was on its way may come back once.
    async fn abort_parts(&self, key: &BlobKey, but: Option<&str>) -> Result<()> {
        let name = self.name_of(key);
        let op = Op::new("upload.abort", key);
        for _ in 0..ABORTS {
            let page = self
                .call(op, 0, || {
                    let list = self.client.list_multipart_uploads().bucket(&self.bucket);
                    list.prefix(&name).send()
                })
                .await?;
            let mut begun = page
                .uploads()
                .iter()
                .filter(|u| u.key() == Some(&name) && (but.is_none() || u.upload_id() != but));
            let Some(first) = begun.next() else {
                return Ok(());
            };
            for upload in std::iter::once(first).chain(begun) {
                self.abort_one(key, upload.upload_id().unwrap_or_default())
                    .await?;
            }
        }
        Err(
            Error::new(ErrorKind::Unavailable, "upload.abort", key.to_string())
                .with_source("parts are there again and again"),
        )
    }
}

impl S3 {
    /// Gives up one upload of parts; none there is success.
    async fn abort_one(&self, key: &BlobKey, id: &str) -> Result<()> {
        let name = self.name_of(key);
        let aborted = self
            .call(Op::new("upload.abort", key), 0, || {
                let abort = self.client.abort_multipart_upload();
                abort.bucket(&self.bucket).key(&name).upload_id(id).send()
            })
            .await;
        match aborted {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl DeleteBlob for S3 {
    async fn delete(&self, key: &BlobKey) -> Result<()> {
        self.abort_parts(key, None).await?;
        self.remove_sidecars(key).await?;
        let name = self.name_of(key);
        let deleted = self
            .call(Op::new("blob.delete", key), 0, || {
                let delete = self.client.delete_object().bucket(&self.bucket);
                delete.key(&name).send()
            })
            .await;
        match deleted {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl ListBlobs for S3 {
    async fn page(&self, after: Option<BlobKey>, limit: usize) -> Result<Vec<BlobKey>> {
        let under = format!("{}{BLOBS}", self.prefix);
        let mut after = after.map(|key| self.name_of(&key));
        let limit = i32::try_from(limit).unwrap_or(MOST_LISTED).min(MOST_LISTED);
        loop {
            let page = self
                .call(Op::new("store.list", "store"), 0, || {
                    self.client
                        .list_objects_v2()
                        .bucket(&self.bucket)
                        .prefix(&under)
                        .max_keys(limit)
                        .set_start_after(after.clone())
                        .send()
                })
                .await?;
            let mut names = page.contents().iter().filter_map(|object| object.key());
            let keys: Vec<_> = names
                .clone()
                .filter_map(|name| name.strip_prefix(&under)?.parse().ok())
                .collect();
            // A page of nothing but strange names is not the end.
            let last = names.next_back().map(str::to_owned);
            if !keys.is_empty() || last.is_none() || page.is_truncated() != Some(true) {
                return Ok(keys);
            }
            after = last;
        }
    }
}

/// Under the prefix of the settings.
const BLOBS: &str = "blobs/";
/// An upload has one writer, so one multipart upload, and a second one after a crash; more rounds than
/// that only for parts on their way.
const ABORTS: usize = 5;
/// No service lists more at once.
const MOST_LISTED: i32 = 1000;
