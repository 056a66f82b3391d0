//! A call to the store: its time, its tries, and what its failure means.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use tokio::time::Instant;

use super::S3;
use crate::error::{Error, ErrorKind, Result, chain};

/// What is called, and for which thing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Op<S> {
    pub(super) name: &'static str,
    pub(super) subject: S,
}

impl<S> Op<S> {
    pub(super) fn new(name: &'static str, subject: S) -> Self {
        Self { name, subject }
    }
}

impl S3 {
    /// Calls until it is answered, the tries or the time are used up, or another try would not help.
    /// `bytes` go either way. The same bytes are sent again: whoever gives them keeps them till then.
    pub(super) async fn call<T, E, F, S>(
        &self,
        op: Op<S>,
        bytes: u64,
        call: impl Fn() -> F + Send,
    ) -> Result<T>
    where
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>> + Send,
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
        S: ToString + Send,
    {
        let patience = &self.patience;
        let slow = bytes / patience.slowest_bytes_per_second.max(1);
        let limit = patience.first_byte + Duration::from_secs(slow);
        let started = Instant::now();
        self.retries.count_call();
        let mut tried = 0;
        loop {
            let answer = tokio::time::timeout(limit, call()).await;
            tried += 1;
            let failure = match answer {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(e)) => Failure::of(&e),
                Err(_elapsed) => Failure {
                    kind: ErrorKind::Unavailable,
                    again: true,
                    why: format!("no answer within {limit:?}"),
                },
            };
            let pause = self.pause(tried);
            let over = started.elapsed() + pause > patience.in_all;
            if !failure.again || tried >= patience.tries || over || !self.retries.take() {
                let kind = failure.kind;
                let why = failure.why_of(&self.bucket);
                return Err(Error::new(kind, op.name, op.subject.to_string()).with_source(why));
            }
            tracing::debug!(
                op = op.name,
                tried,
                why = failure.why,
                "store is asked again"
            );
            tokio::time::sleep(pause).await;
        }
    }

    /// Full jitter: many that failed at once do not come back at once.
    fn pause(&self, tried: u32) -> Duration {
        let patience = &self.patience;
        let doubled = 1u32
            .checked_shl(tried.saturating_sub(1))
            .unwrap_or(u32::MAX);
        let most = patience.pause.saturating_mul(doubled);
        let most = most.min(patience.longest_pause);
        let mut bits = [0; 4];
        // Without randomness the longest pause is as good.
        let share = match getrandom::fill(&mut bits) {
            Ok(()) => f64::from(u32::from_le_bytes(bits)) / f64::from(u32::MAX),
            Err(_) => 1.0,
        };
        most.mul_f64(share)
    }
}

/// The right to try again, for all calls of a store together: each call earns a share of it, and so does time, lest a
/// store that is rarely asked is never asked twice.
#[derive(Debug)]
pub(super) struct RetryBudget {
    per_call: f64,
    held: Mutex<(f64, Instant)>,
}

/// Further tries that may be saved up: as many as a busy node's parts in flight.
const RESERVE: f64 = 100.0;
/// Earned in a second.
const PER_SECOND: f64 = 1.0;

impl RetryBudget {
    pub(super) fn new(percent: u32) -> Self {
        Self {
            per_call: f64::from(percent) / 100.0,
            held: Mutex::new((RESERVE, Instant::now())),
        }
    }

    fn count_call(&self) {
        drop(self.earn(self.per_call));
    }

    /// False when there is nothing left.
    fn take(&self) -> bool {
        let mut held = self.earn(0.0);
        let may = held.0 >= 1.0;
        if may {
            held.0 -= 1.0;
        }
        may
    }

    fn earn(&self, more: f64) -> MutexGuard<'_, (f64, Instant)> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let passed = now.duration_since(held.1).as_secs_f64() * PER_SECOND;
        *held = ((held.0 + more + passed).min(RESERVE), now);
        held
    }
}

/// A call that was not answered well.
#[derive(Debug)]
struct Failure {
    kind: ErrorKind,
    /// Whether the same call may be answered otherwise soon.
    again: bool,
    why: String,
}

impl Failure {
    fn of<E>(error: &SdkError<E, HttpResponse>) -> Self
    where
        E: std::error::Error + ProvideErrorMetadata + 'static,
    {
        let status = error
            .raw_response()
            .map_or(0, |answer| answer.status().as_u16());
        let service = error.as_service_error();
        let code = service.and_then(|e| e.code()).unwrap_or_default();
        let why = match service.and_then(|e| e.message()) {
            Some(message) => format!("{status} {code}: {message}"),
            None if service.is_some() => format!("{status} {code}"),
            None => chain(error),
        };
        let (kind, again) = match (status, code) {
            // Said by whoever keeps the bucket. A 404 without such a word may be anybody's in front of it.
            (_, "NoSuchKey" | "NoSuchUpload" | "NoSuchLifecycleConfiguration") => {
                (ErrorKind::NotFound, false)
            }
            (_, "NoSuchBucket") => (ErrorKind::Unavailable, false),
            // What comes and goes, or was damaged on the way: the same bytes again are the cure.
            (
                _,
                "InternalError" | "SlowDown" | "ServiceUnavailable" | "RequestTimeout"
                | "BadDigest" | "IncompleteBody",
            ) => (ErrorKind::Unavailable, true),
            (_, "EntityTooSmall" | "InvalidPart" | "InvalidPartOrder") => {
                (ErrorKind::Damaged, false)
            }
            (412, _) => (ErrorKind::Conflict, false),
            (416, _) => (ErrorKind::Damaged, false),
            (507, _) | (_, "QuotaExceeded") => (ErrorKind::Full, false),
            // Busy; or no answer at all, or none that can be understood.
            (0 | 200..=299 | 404 | 408 | 429 | 500.., _) => (ErrorKind::Unavailable, true),
            // Refused for what we are: the operator must act, and clients may come again.
            _ => (ErrorKind::Unavailable, false),
        };
        Self { kind, again, why }
    }

    /// With the bucket and the setting to look at, where no word of the store's says all.
    fn why_of(self, bucket: &str) -> String {
        let Self { kind, again, why } = self;
        match kind {
            ErrorKind::Unavailable if again => {
                format!("bucket {bucket:?} does not answer well: {why}")
            }
            ErrorKind::Unavailable => {
                let setting = setting_of(&why);
                format!("bucket {bucket:?} refuses (look at its {setting}): {why}")
            }
            _ => why,
        }
    }
}

/// Which setting a failure of a call makes one look at.
pub(super) fn setting_of(why: &str) -> &'static str {
    let has = |words: &[&str]| words.iter().any(|word| why.contains(word));
    if has(&["NoSuchBucket", "InvalidBucketName"]) {
        "bucket"
    } else if has(&["SignatureDoesNotMatch", "Invalid signature"]) {
        "secret_access_key"
    } else if has(&[
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraint",
        "PermanentRedirect",
    ]) {
        "region"
    } else if has(&[
        "InvalidAccessKeyId",
        "No such key",
        "AccessDenied",
        "Forbidden",
    ]) {
        "access_key_id"
    } else {
        "endpoint"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(budget: &RetryBudget) -> usize {
        (0..1000).take_while(|_| budget.take()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_fails_is_not_asked_many_times_as_much() {
        let budget = RetryBudget::new(10);
        assert_eq!(taken(&budget), 100, "what was saved up");
        for _ in 0..505 {
            budget.count_call();
        }
        assert_eq!(taken(&budget), 50, "a tenth of the calls");
        tokio::time::advance(Duration::from_millis(2600)).await;
        assert_eq!(taken(&budget), 3, "a half was left, and a second is one");
        tokio::time::advance(Duration::from_hours(1)).await;
        assert_eq!(taken(&budget), 100, "and no more is saved up than that");
    }
}
