//! Finds out what a bucket does, by asking for it: what a store documents and what it does differ.
//!
//! A checksum counts only if a wrong one is refused: a store that ignores the header takes any (Ceph RGW
//! 16 does for all but `Content-MD5`).

use aws_sdk_s3::types::{ExpirationStatus, LifecycleRule, LifecycleRuleFilter};
use bytes::Bytes;
use futures_util::StreamExt;

use super::body::Segments;
use super::checksum::{Checksum, Sum};
use super::retry::{Op, setting_of};
use super::{Found, Rules, S3};
use crate::blob::BlobKey;
use crate::error::{Error, ErrorKind, Result, chain};
use crate::range::ByteRange;
use crate::store::{DeleteBlob, PartIndex, ReadBlob, Receipts};

const OP: &str = "store.open";
const BODY: &[u8] = b"boxgate looks what this bucket does";

impl S3 {
    pub(super) async fn probe(&self) -> Result<Found> {
        let key = BlobKey::random();
        let found = self.look(&key).await;
        // Also after a failure: a bucket that takes writes and gives no reads keeps nothing of ours.
        let deleted = self.delete(&key).await;
        let found = found?;
        deleted.map_err(|e| self.hint(e))?;
        Ok(found)
    }

    async fn look(&self, key: &BlobKey) -> Result<Found> {
        let body = Segments::new(vec![Bytes::from_static(BODY)]);
        // Before anything was found out, it is sent without a checksum.
        self.put(OP, key, &body).await.map_err(|e| self.hint(e))?;
        let range = ByteRange::whole(BODY.len() as u64);
        let mut read = self.open(key, range).await.map_err(|e| self.hint(e))?;
        let mut bytes = Vec::new();
        while let Some(chunk) = read.next().await {
            bytes.extend_from_slice(&chunk.map_err(|e| self.hint(e))?);
        }
        if bytes != BODY {
            return Err(self.hint(
                Error::new(ErrorKind::Damaged, OP, "what was written")
                    .with_source("the bucket gives back other bytes"),
            ));
        }
        let mut checksum = Checksum::None;
        for tried in Checksum::ALL {
            let wrong = Sum::wrong(tried).await;
            let refused = self.try_put(key, &body, wrong, false).await;
            if refused.is_err() && self.takes_parts(&body, tried).await {
                checksum = tried;
                break;
            }
        }
        let none = Sum::of(Checksum::None, &body).await;
        let again = self.try_put(key, &body, none, true).await;
        Ok(Found {
            rules: self.rules().await,
            checksum,
            conditional_writes: matches!(again, Err(e) if e.kind() == ErrorKind::Conflict),
        })
    }

    /// A store that knows no such rules, or a credential that may not see them, tells of none.
    async fn rules(&self) -> Rules {
        let told = self
            .call(Op::new(OP, "rules"), 0, || {
                let get = self.client.get_bucket_lifecycle_configuration();
                get.bucket(&self.bucket).send()
            })
            .await;
        let Ok(told) = told else {
            return Rules::default();
        };
        let ours = |rule: &&LifecycleRule| {
            let filter = rule.filter();
            let both = filter.and_then(|filter| filter.and()?.prefix());
            let alone = filter.and_then(LifecycleRuleFilter::prefix);
            #[expect(deprecated, reason = "rules from before there were filters")]
            let prefix = both.or(alone).or(rule.prefix()).unwrap_or_default();
            let enabled = *rule.status() == ExpirationStatus::Enabled;
            enabled && (self.prefix.starts_with(prefix) || prefix.starts_with(&self.prefix))
        };
        let rules = || told.rules().iter().filter(ours);
        let days = rules().filter_map(|rule| {
            let days = rule.abort_incomplete_multipart_upload()?;
            u32::try_from(days.days_after_initiation()?).ok()
        });
        Rules {
            unfinished_after_days: days.min(),
            objects: rules().any(|rule| rule.expiration().is_some()),
        }
    }

    /// Asked once: a wrong checksum is refused in a way that is otherwise worth another try.
    async fn try_put(&self, key: &BlobKey, body: &Segments, sum: Sum, new: bool) -> Result<()> {
        let mut once = self.clone();
        once.patience.tries = 1;
        let name = self.name_of(key);
        once.call(Op::new(OP, key), body.len(), || {
            let put = once.client.put_object().bucket(&once.bucket).key(&name);
            let put = sum.clone().put(put.body(body.stream()));
            let put = put.set_if_none_match(new.then(|| "*".to_owned()));
            put.customize().disable_payload_signing().send()
        })
        .await
        .map(drop)
    }

    /// Whether parts with that checksum become an object.
    async fn takes_parts(&self, body: &Segments, checksum: Checksum) -> bool {
        let mut with = self.clone();
        with.checksum = checksum;
        let key = BlobKey::random();
        let taken = with.put_in_parts(&key, body).await;
        if let Err(e) = &taken {
            tracing::debug!(
                checksum = checksum.name(),
                error = chain(e),
                "parts are not taken"
            );
        }
        let removed = with.delete(&key).await;
        taken.and(removed).is_ok()
    }

    async fn put_in_parts(&self, key: &BlobKey, body: &Segments) -> Result<()> {
        let id = self.begin_parts(key).await?;
        let part = PartIndex(0);
        let mut receipts = Receipts::default();
        let put = self.put_part(key, &id, part, body).await?;
        receipts.parts.insert(part, put);
        self.complete(key, &id, body.len(), &receipts)
            .await
            .map(drop)
    }

    /// The same failure in one line that names the setting to look at.
    fn hint(&self, error: Error) -> Error {
        let why = chain(&error);
        let bucket = &self.bucket;
        let setting = setting_of(&why);
        let what = match setting {
            "bucket" => format!("there is no {bucket:?}"),
            "access_key_id" if why.contains("AccessDenied") || why.contains("Forbidden") => {
                format!("may not write to and read from {bucket:?}")
            }
            "access_key_id" => "unknown to the store".to_owned(),
            "secret_access_key" => "does not belong to access_key_id".to_owned(),
            "region" => "not the bucket's".to_owned(),
            _ => "does not answer as an S3 store does".to_owned(),
        };
        let hint = format!("{setting}: {what}");
        Error::new(error.kind(), OP, hint).with_source(error)
    }
}
