//! Tries to sign in: each counts as failed from its beginning, until it turns out right. Who tries often at the same time
//! so has no more of them than who tries one after the other.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::Notify;

use super::network;
use crate::refusal::Refusal;

/// How long a failed try to sign in is remembered.
const WINDOW: Duration = Duration::from_mins(1);
/// Networks whose tries are remembered at once; the oldest are forgotten first.
const NETWORKS: u64 = 100_000;

/// Who tried lately.
#[derive(Debug)]
pub struct Tries {
    /// Failures of one network in a window.
    most: AtomicU32,
    by: Cache<IpAddr, Arc<Network>>,
}

/// Where tries come from.
#[derive(Debug, Default)]
struct Network {
    counts: Mutex<Counts>,
    /// It is known of one more what became of it.
    judged: Notify,
}

#[derive(Debug, Default)]
struct Counts {
    failed: u32,
    under_way: u32,
}

/// One try. It has failed when it is dropped, unless [`Self::judge`] saw otherwise: who leaves before the answer has
/// tried, too.
#[derive(Debug)]
#[must_use = "it counts as failed when it is dropped"]
pub struct Try {
    network: Arc<Network>,
    is_failed: bool,
}

impl Tries {
    /// So many may fail in a minute.
    pub fn new(most: u32) -> Self {
        Self {
            most: most.into(),
            by: Cache::builder()
                .max_capacity(NETWORKS)
                .time_to_live(WINDOW)
                .build(),
        }
    }

    /// So many from now on.
    pub fn allow(&self, most: u32) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// One more, once those under way leave room for it to fail: those that are right keep nobody out.
    ///
    /// # Errors
    /// 429 with `Retry-After` after too many failed ones.
    pub async fn begin(&self, address: IpAddr) -> Result<Try, Refusal> {
        let network = self.by.get_with(network(address), Arc::default);
        loop {
            // Before the look: what is told in between is not missed.
            let judged = network.judged.notified();
            if network.begin(self.most.load(Ordering::Relaxed))? {
                break;
            }
            judged.await;
        }
        Ok(Try {
            network,
            is_failed: true,
        })
    }
}

impl Network {
    /// Whether there is room for one more, which is taken then.
    fn begin(&self, most: u32) -> Result<bool, Refusal> {
        let mut counts = self.counts();
        if counts.failed >= most {
            return Err(too_many());
        }
        let has_room = counts.failed + counts.under_way < most;
        counts.under_way += u32::from(has_room);
        Ok(has_room)
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Try {
    /// Looks at what was found by what was given: nothing is a failure. An error says nothing of who tries.
    ///
    /// # Errors
    /// The one that was given.
    pub fn judge<T, E>(&mut self, found: Result<Option<T>, E>) -> Result<Option<T>, E> {
        self.is_failed = matches!(found, Ok(None));
        found
    }
}

impl Drop for Try {
    fn drop(&mut self) {
        let mut counts = self.network.counts();
        counts.under_way -= 1;
        counts.failed += u32::from(self.is_failed);
        drop(counts);
        self.network.judged.notify_waiters();
    }
}

fn too_many() -> Refusal {
    Refusal::new(
        http::StatusCode::TOO_MANY_REQUESTS,
        "Too many failed tries to sign in from this address. Wait a minute \
         (auth.login_failures_per_minute).",
    )
    .code("RATE_LIMIT_EXCEEDED")
    .retry_after(WINDOW)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tokio::task::{JoinSet, yield_now};

    use super::*;

    /// Tries of one address at the same time, of which it is known after a moment that they are (not) right: how many
    /// were let in.
    async fn at_once(tries: &Arc<Tries>, many: usize, found: Option<()>) -> usize {
        let mut all = JoinSet::new();
        for _ in 0..many {
            let tries = Arc::clone(tries);
            all.spawn(async move {
                let Ok(mut one) = tries.begin([192, 0, 2, 1].into()).await else {
                    return false;
                };
                yield_now().await;
                one.judge(Ok::<_, Infallible>(found)).is_ok()
            });
        }
        let let_in = all.join_all().await;
        let_in.into_iter().filter(|let_in| *let_in).count()
    }

    #[tokio::test]
    async fn failed_tries_shut_out_their_own_network_only() {
        let tries = Tries::new(2);
        let bad: IpAddr = "2001:db8::1".parse().unwrap();
        for _ in 0..2 {
            drop(tries.begin(bad).await.unwrap());
        }
        let refused = tries.begin("2001:db8::2".parse().unwrap()).await;
        assert_eq!(refused.unwrap_err().status.as_u16(), 429);
        for other in ["2001:db8:0:1::1", "192.0.2.1"] {
            assert!(tries.begin(other.parse().unwrap()).await.is_ok());
        }
    }

    #[tokio::test]
    async fn tries_at_the_same_time_fail_no_oftener_than_one_after_the_other() {
        let tries = Arc::new(Tries::new(3));
        assert_eq!(at_once(&tries, 64, None).await, 3);
    }

    #[tokio::test]
    async fn right_ones_count_nothing_however_many_there_are_at_once() {
        let tries = Arc::new(Tries::new(3));
        assert_eq!(at_once(&tries, 64, Some(())).await, 64);
        let mut broken = tries.begin([192, 0, 2, 1].into()).await.unwrap();
        assert!(broken.judge(Err::<Option<()>, _>("no rows")).is_err());
        drop(broken);
        assert_eq!(at_once(&tries, 64, None).await, 3);
    }

    #[tokio::test]
    async fn who_leaves_before_the_answer_has_tried() {
        let tries = Tries::new(1);
        drop(tries.begin([192, 0, 2, 1].into()).await.unwrap());
        assert!(tries.begin([192, 0, 2, 1].into()).await.is_err());
    }
}
