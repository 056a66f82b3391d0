//! Who gets to use what there is only so much of: requests in a second and at once, upload bodies at once, tries to
//! sign in.

pub mod rates;
pub mod request;
pub mod shaper;
pub mod shares;
pub mod tries;
pub mod turns;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use boxgate_storage::blob::UploadId;
use moka::sync::Cache;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use self::rates::Rates;
use self::shaper::{Limit, Shaper};
use self::tries::{Tries, Try};
use self::turns::Turns;
use crate::config::rates::Rate;
use crate::config::settings::{Database, Settings};
use crate::handler::outboard;
use crate::refusal::Refusal;

/// A policy that a plugin chose and that is none is told of this often, and so many of them.
const NO_RATE_TOLD: Duration = Duration::from_mins(1);
const NO_RATES: u64 = 100;
/// How long it is remembered that a sender was right about an upload: as long as one may be silent in between.
const UPLOAD_FOR: Duration = Duration::from_mins(10);

/// Permits of this node.
#[derive(Debug)]
pub struct Admission {
    uploads: Arc<Semaphore>,
    outboards: Arc<Semaphore>,
    /// Uploads that come in pieces.
    pieces: Mutex<HashMap<UploadId, Weak<Place>>>,
    queue_wait: Duration,
    /// Who may try to sign in.
    tries: Tries,
    /// Who may ask how often.
    rates: ArcSwap<Rates>,
    rate_keys: u64,
    /// Policies that plugins chose and that are none: told of lately.
    no_rates: Cache<String, ()>,
    /// Who may send how many bytes.
    inbound: ArcSwap<Shaper>,
    /// Who may be sent how many.
    outbound: ArcSwap<Shaper>,
    /// Who may have how much worked on.
    turns: Arc<Turns>,
    /// Uploads under way, each by who sends it and its path, of which they were right lately.
    begun: Cache<[u8; 32], ()>,
}

/// The right of one upload to be sent, for all of its pieces that wait for it or come.
#[derive(Debug, Default)]
pub struct Place {
    permit: OnceLock<OwnedSemaphorePermit>,
    given: Notify,
}

impl Place {
    /// Waits until there is a permit: this one, or that of another piece. Each waits for one of its own, so that the
    /// first of them in the line has it for all, and none loses its turn where another gives up.
    async fn fill(
        &self,
        permit: impl Future<Output = Result<OwnedSemaphorePermit, Refusal>> + Send,
    ) -> Result<(), Refusal> {
        // Before the look: what is told in between is not missed.
        let given = self.given.notified();
        if self.permit.get().is_some() {
            return Ok(());
        }
        tokio::select! {
            biased;
            () = given => {}
            permit = permit => {
                // Goes back where another was faster.
                drop(self.permit.set(permit?));
                self.given.notify_waiters();
            }
        }
        Ok(())
    }
}

impl Admission {
    /// As many of each as the settings allow.
    pub fn new(settings: &Settings) -> Self {
        Self {
            uploads: Arc::new(Semaphore::new(settings.uploads.max_in_progress)),
            outboards: Arc::new(Semaphore::new(settings.max_outboards)),
            pieces: Mutex::default(),
            queue_wait: settings.uploads.queue_wait,
            tries: Tries::new(settings.auth.login_failures_per_minute),
            rates: ArcSwap::from_pointee(Rates::new(
                &settings.rates,
                settings.limits.rate_keys,
                matches!(settings.metadata, Database::Postgres(_)),
            )),
            rate_keys: settings.limits.rate_keys,
            no_rates: Cache::builder()
                .max_capacity(NO_RATES)
                .time_to_live(NO_RATE_TOLD)
                .build(),
            inbound: ArcSwap::from_pointee(inbound(settings)),
            outbound: ArcSwap::from_pointee(outbound(settings)),
            turns: Turns::new(
                settings.limits.requests_at_once,
                settings.limits.requests_wait,
            ),
            begun: Cache::builder()
                .max_capacity(settings.limits.rate_keys)
                .time_to_idle(UPLOAD_FOR)
                .build(),
        }
    }

    /// Takes over what of other settings may change at run time; `has_changed` tells of a key, or of any in a table.
    /// Policies that stay as they were go on counting; bodies under way keep the rates that they began with.
    pub fn replace(&self, settings: &Settings, has_changed: impl Fn(&str) -> bool) {
        self.tries.allow(settings.auth.login_failures_per_minute);
        let rates = has_changed("rates");
        if rates {
            let renewed = self.rates.load().renewed(&settings.rates, self.rate_keys);
            self.rates.store(Arc::new(renewed));
        }
        if rates || has_changed("limits.bytes_in") {
            self.inbound.store(Arc::new(inbound(settings)));
        }
        if rates || has_changed("limits.bytes_out") {
            self.outbound.store(Arc::new(outbound(settings)));
        }
    }

    /// Whether there is a policy by which plugins may have a request counted.
    pub fn has_rates_of_scripts(&self) -> bool {
        self.rates.load().has_chosen(None)
    }

    /// Says so where a plugin chose a policy that is none: what it says changes nothing then.
    pub fn check_choice(&self, rate: &str) {
        if self.rates.load().has_chosen(Some(rate)) || self.no_rates.contains_key(rate) {
            return;
        }
        self.no_rates.insert(rate.to_owned(), ());
        tracing::warn!(
            rate,
            "a plugin's authorize chose a rate that is none: set rates.<policy>.by_scripts = true for one of that name"
        );
    }

    /// How many askers each policy remembers.
    pub fn rate_keys(&self) -> Vec<(Arc<str>, u64)> {
        self.rates.load().keys().collect()
    }

    /// The right to send one upload body, in the order of asking; given back when dropped. Who waits
    /// has not been asked for its body, nor told to continue.
    ///
    /// # Errors
    /// 503 with `Retry-After` when none came free in time.
    pub async fn upload(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let turn = timeout(self.queue_wait, Arc::clone(&self.uploads).acquire_owned()).await;
        // The semaphore is never closed: an error is the time that ran out.
        turn.ok().and_then(Result::ok).ok_or_else(|| {
            Refusal::busy(
                "Too many uploads are in progress on this node (uploads.max_in_progress).",
                Duration::from_secs(5),
            )
            .closing()
        })
    }

    /// The same for one piece of an upload: all that come at once count as one.
    ///
    /// # Errors
    /// As [`Self::upload`].
    pub async fn piece(&self, id: UploadId) -> Result<Arc<Place>, Refusal> {
        let place = self.place(id);
        place.fill(self.upload()).await?;
        Ok(place)
    }

    fn place(&self, id: UploadId) -> Arc<Place> {
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = pieces.get(&id).and_then(Weak::upgrade) {
            return shared;
        }
        pieces.retain(|_, shared| shared.strong_count() > 0);
        let place = Arc::<Place>::default();
        pieces.insert(id, Arc::downgrade(&place));
        place
    }

    /// The right to send one outboard; given back when dropped.
    ///
    /// # Errors
    /// 503 with `Retry-After` when all are on their way.
    pub fn outboard(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        Arc::clone(&self.outboards)
            .try_acquire_owned()
            .map_err(|_none_free| outboard::too_many())
    }

    /// A try of an address to sign in, which counts as failed until it is judged.
    ///
    /// # Errors
    /// 429 with `Retry-After` after too many failed ones.
    pub async fn sign_in(&self, address: IpAddr) -> Result<Try, Refusal> {
        self.tries.begin(address).await
    }
}

fn inbound(settings: &Settings) -> Shaper {
    shaper(settings, settings.limits.bytes_in, |rate| rate.bytes_in)
}

fn outbound(settings: &Settings) -> Shaper {
    shaper(settings, settings.limits.bytes_out, |rate| rate.bytes_out)
}

fn shaper(settings: &Settings, node: u64, bytes: fn(&Rate) -> u64) -> Shaper {
    let limits = settings.rates.iter().map(|rate| Limit {
        by_scripts: rate.by_scripts.then(|| rate.name.clone()),
        per: rate.per,
        classes: rate.classes.clone(),
        bytes: bytes(rate),
    });
    Shaper::new(node, limits.collect())
}

/// What counts as one address: an IPv6 host owns a whole /64.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission() -> Admission {
        let environment = [("BOXGATE_UPLOADS__MAX_IN_PROGRESS".into(), "1".into())];
        let flags = crate::config::Flags::default();
        let machine = crate::config::Machine::probe();
        let (settings, _) = crate::config::load_from(&flags, environment, machine).unwrap();
        Admission::new(&settings)
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_waits_for_its_turn_and_is_told_when_none_comes() {
        let admission = admission();
        let held = admission.upload().await.unwrap();
        assert_eq!(admission.upload().await.unwrap_err().status.as_u16(), 503);
        let (turn, ()) = tokio::join!(admission.upload(), async { drop(held) });
        assert!(turn.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn the_pieces_of_one_upload_count_once() {
        let admission = admission();
        let (one, other) = (UploadId::random(), UploadId::random());
        let first = admission.piece(one).await.unwrap();
        let second = admission.piece(one).await.unwrap();
        assert_eq!(admission.piece(other).await.unwrap_err().status, 503);
        drop(first);
        assert_eq!(admission.piece(other).await.unwrap_err().status, 503);
        drop(second);
        assert!(admission.piece(other).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn pieces_that_waited_for_one_permit_come_together() {
        let admission = admission();
        let (one, held) = (UploadId::random(), admission.upload().await.unwrap());
        let (first, second, ()) = tokio::join!(admission.piece(one), admission.piece(one), async {
            drop(held);
        });
        let (first, second) = (first.unwrap(), second.unwrap());
        drop(first);
        assert_eq!(admission.upload().await.unwrap_err().status, 503);
        drop(second);
        assert!(admission.upload().await.is_ok());
    }
}
