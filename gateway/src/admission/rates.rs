//! How many requests each may make in a second: for each policy of `[rates]` one keyed limiter of governor, its keys in a
//! table that has an end.
//!
//! Which requests are counted for whom is decided in `request.rs`; here is only counted. Where several nodes share the
//! rates, a request takes more of them the smaller this node's share is (`shares.rs`).

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use boxgate_storage::metadata::accounts::{AccountId, OrganizationId};
use governor::clock::Clock;
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::{Quota, RateLimiter};
use moka::sync::Cache;

use crate::config::rates::{Per, Rate};
use crate::route::Class;

/// What one key of a policy takes of memory, reckoned amply: itself, its state, and the cache's node and queues of it.
pub const KEY_BYTES: u64 = 512;

/// What governor counts for one request where all of a shared rate is this node's: shares are told apart that finely.
const CELLS: u32 = 256;
/// governor counts in whole nanoseconds, and so tells no more than these in a second apart well.
const MOST_CELLS: u32 = 10_000_000;

/// Who is counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// An address, or the /64 that it stands in.
    Address(IpAddr),
    /// A person, or a service account of theirs.
    Principal(AccountId, Option<String>),
    /// An organization.
    Organization(OrganizationId),
}

/// As nodes tell each other of it.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "address {address}"),
            Self::Principal(account, None) => write!(f, "account {}", account.0),
            Self::Principal(account, Some(service)) => {
                write!(f, "account {} {service}", account.0)
            }
            Self::Organization(organization) => write!(f, "organization {}", organization.0),
        }
    }
}

/// Where one stands by a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The policy.
    pub policy: Arc<str>,
    /// Requests at once.
    pub quota: u32,
    /// In how many seconds they come back, all of them.
    pub window_s: u64,
    /// Those that are left.
    pub left: u32,
    /// After how many seconds there is another, or all are back.
    pub reset_s: u64,
}

impl Standing {
    /// Whether less is left of it than of another.
    fn is_tighter_than(&self, other: &Self) -> bool {
        let share = |this: &Self| f64::from(this.left) / f64::from(this.quota);
        share(self) < share(other)
    }

    /// The one of which less is left.
    pub fn tighter(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(one), Some(other)) if other.is_tighter_than(&one) => Some(other),
            (one, other) => one.or(other),
        }
    }
}

/// All policies.
#[derive(Debug)]
pub struct Rates {
    policies: Vec<Arc<Policy>>,
    /// Whether other nodes count by the same ones.
    shared: bool,
}

impl Rates {
    /// With so many keys for each, at most; `shared` where other nodes count by the same ones.
    pub fn new(rates: &[Rate], keys: u64, shared: bool) -> Self {
        let none = Self {
            policies: Vec::new(),
            shared,
        };
        none.renewed(rates, keys)
    }

    /// With others; those that stay as they are remember whom they counted.
    #[must_use]
    pub fn renewed(&self, rates: &[Rate], keys: u64) -> Self {
        let policy = |rate: &Rate| {
            let same = self.policies.iter().find(|policy| policy.rate == *rate);
            let new = || Arc::new(Policy::new(rate, keys, self.shared));
            same.map_or_else(new, Arc::clone)
        };
        Self {
            policies: rates.iter().map(policy).collect(),
            shared: self.shared,
        }
    }

    /// Counts one request for `key` by all policies that are for its kind, or by the one alone that a plugin chose for it;
    /// where it stands by the tightest of them.
    ///
    /// # Errors
    /// Where it stands by a policy that has nothing left for it.
    pub fn count(
        &self,
        key: &Key,
        class: Class,
        chosen: Option<&str>,
    ) -> Result<Option<Standing>, Standing> {
        let per = match key {
            Key::Address(_) => Per::Address,
            Key::Principal(..) => Per::Principal,
            Key::Organization(_) => Per::Organization,
        };
        let chosen = chosen.and_then(|name| self.chosen(name, class));
        let chosen = chosen.filter(|policy| policy.rate.per == per);
        if let Some(policy) = chosen {
            return policy.count(key).map(Some);
        }
        let mut tightest = None;
        for policy in &self.policies {
            let rate = &policy.rate;
            if !rate.by_scripts && rate.per == per && rate.classes.contains(&class) {
                tightest = Standing::tighter(tightest, Some(policy.count(key)?));
            }
        }
        Ok(tightest)
    }

    /// The policy of that name that plugins may choose for requests of this kind.
    fn chosen(&self, name: &str, class: Class) -> Option<&Policy> {
        let mut policies = self.policies.iter().map(AsRef::as_ref);
        policies.find(|policy: &&Policy| {
            policy.rate.by_scripts && *policy.name == *name && policy.rate.classes.contains(&class)
        })
    }

    /// Who has a rate of their own by a policy that plugins may choose for requests of this kind.
    pub fn chosen_per(&self, name: &str, class: Class) -> Option<Per> {
        self.chosen(name, class).map(|policy| policy.rate.per)
    }

    /// Whether plugins may choose that policy, or any at all.
    pub fn has_chosen(&self, name: Option<&str>) -> bool {
        let is_meant = |policy: &Arc<Policy>| name.is_none_or(|name| *policy.name == *name);
        let mut policies = self.policies.iter();
        policies.any(|policy| policy.rate.by_scripts && is_meant(policy))
    }

    /// Each of them.
    pub(super) fn policies(&self) -> &[Arc<Policy>] {
        &self.policies
    }

    /// How many keys each policy remembers.
    pub fn keys(&self) -> impl Iterator<Item = (Arc<str>, u64)> {
        self.policies.iter().map(|policy| {
            policy.table.run_pending_tasks();
            (Arc::clone(&policy.name), policy.table.entry_count())
        })
    }
}

type Plain = RateLimiter<Key, Table, Ticks>;
type Limiter = RateLimiter<Key, Table, Ticks, StateInformationMiddleware>;

#[derive(Debug)]
pub(super) struct Policy {
    rate: Rate,
    pub(super) name: Arc<str>,
    quota: u32,
    pub(super) per_second: u32,
    /// What governor counts for a request where all of the rate is this node's.
    cells: u32,
    /// Nodes that share it; 0 where no others can.
    nodes: AtomicU32,
    limiter: Limiter,
    table: Cache<Key, Arc<Known>>,
}

/// What is remembered of a key.
#[derive(Debug, Default)]
struct Known {
    /// governor's state of it.
    state: AtomicU64,
    /// Requests since the other nodes were told.
    asked: AtomicU32,
    /// What governor counts for a request; 0 for an equal share.
    cost: AtomicU32,
}

impl Policy {
    fn new(rate: &Rate, keys: u64, shared: bool) -> Self {
        let (quota, per_second) = (rate.burst.get(), rate.requests.get());
        let cells = if shared {
            let finest = (MOST_CELLS / per_second).clamp(1, CELLS);
            finest.min(u32::MAX / quota.max(per_second))
        } else {
            1
        };
        let in_cells = |requests: NonZeroU32| requests.saturating_mul(least(cells));
        // Who rested that long has all back, and is as good as one who is not known.
        let known_for = Duration::from_secs(seconds(quota, per_second) + 1);
        let table = Cache::builder()
            .max_capacity(keys)
            .time_to_idle(known_for)
            .build();
        let by = Quota::per_second(in_cells(rate.requests)).allow_burst(in_cells(rate.burst));
        Self {
            rate: rate.clone(),
            name: rate.name.as_str().into(),
            quota,
            per_second,
            cells,
            nodes: u32::from(shared).into(),
            limiter: Plain::new(by, Table(table.clone()), Ticks).with_middleware(),
            table,
        }
    }

    fn count(&self, key: &Key) -> Result<Standing, Standing> {
        let standing = |left, reset_s| Standing {
            policy: Arc::clone(&self.name),
            quota: self.quota,
            window_s: seconds(self.quota, self.per_second),
            left,
            reset_s,
        };
        let cost = self.cost(key);
        match self.limiter.check_key_n(key, cost) {
            Ok(Ok(state)) => {
                let left = state.remaining_burst_capacity();
                let missing = (self.quota * self.cells).saturating_sub(left);
                let reset_s = seconds(missing, self.per_second * self.cells);
                Ok(standing(left / cost, reset_s))
            }
            Ok(Err(until)) => {
                let wait = until.wait_time_from(Ticks.now());
                let wait_s = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                Err(standing(0, wait_s.max(1)))
            }
            // No cost is above the burst.
            Err(_more_than_a_burst) => Err(standing(0, seconds(self.quota, self.per_second))),
        }
    }

    /// What governor counts for a request of `key`, which is remembered for the other nodes.
    fn cost(&self, key: &Key) -> NonZeroU32 {
        let nodes = self.nodes.load(Ordering::Relaxed);
        if nodes == 0 {
            return least(self.cells);
        }
        let known = self.table.get_with_by_ref(key, Arc::default);
        known.asked.fetch_add(1, Ordering::Relaxed);
        match known.cost.load(Ordering::Relaxed) {
            0 => self.cost_of(1.0 / f64::from(nodes)),
            told => least(told),
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it saturates, and is held to what a burst can pay"
    )]
    fn cost_of(&self, share: f64) -> NonZeroU32 {
        let cost = (f64::from(self.cells) / share).round() as u32;
        least(cost.clamp(self.cells, self.quota.saturating_mul(self.cells)))
    }

    /// Who asked since the last call, and how often.
    pub(super) fn take_asked(&self) -> Vec<(Key, u32)> {
        let asked = self.table.iter().filter_map(|(key, known)| {
            let asked = known.asked.swap(0, Ordering::Relaxed);
            (asked > 0).then(|| ((*key).clone(), asked))
        });
        asked.collect()
    }

    /// So many nodes share the rate.
    pub(super) fn shared_by(&self, nodes: u32) {
        self.nodes.store(nodes.max(1), Ordering::Relaxed);
    }

    /// This part of what `key` may ask is this node's; an equal one for `None`.
    pub(super) fn give(&self, key: &Key, share: Option<f64>) {
        if let Some(known) = self.table.get(key) {
            let cost = share.map_or(0, |share| self.cost_of(share).get());
            known.cost.store(cost, Ordering::Relaxed);
        }
    }
}

/// At least one.
fn least(count: u32) -> NonZeroU32 {
    NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN)
}

/// In how many whole seconds so many come back, at least one.
fn seconds(requests: u32, per_second: u32) -> u64 {
    u64::from(requests.div_ceil(per_second)).max(1)
}

/// What governor remembers of each key. governor's own table has no end but by being swept; this one gives way where it
/// is full, and of those that ask to be remembered it prefers those that ask often, so that nobody drives a key that is
/// used out of it by asking in many names.
#[derive(Debug)]
struct Table(Cache<Key, Arc<Known>>);

impl StateStore for Table {
    type Key = Key;

    fn measure_and_replace<T, F, E>(&self, key: &Key, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let entry = self.0.get_with_by_ref(key, Arc::default);
        let state = &entry.state;
        let mut known = state.load(Ordering::Acquire);
        loop {
            let (outcome, next) = decide((known > 0).then(|| known.into()))?;
            let swapped = state.compare_exchange_weak(
                known,
                next.into(),
                Ordering::AcqRel,
                Ordering::Acquire,
            );
            match swapped {
                Ok(_) => return Ok(outcome),
                Err(other) => known = other,
            }
        }
    }
}

/// The clock that tests can stop.
#[derive(Debug, Clone, Copy)]
struct Ticks;

impl Clock for Ticks {
    type Instant = std::time::Instant;

    fn now(&self) -> Self::Instant {
        tokio::time::Instant::now().into_std()
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use tokio::time::advance;

    use super::*;

    fn rate(name: &str, per: Per, requests: u32, burst: u32) -> Rate {
        Rate {
            name: name.into(),
            by_scripts: false,
            per,
            classes: vec![Class::Control, Class::Download],
            requests: NonZeroU32::new(requests).unwrap(),
            burst: NonZeroU32::new(burst).unwrap(),
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    fn address(last: u8) -> Key {
        Key::Address([192, 0, 2, last].into())
    }

    #[tokio::test(start_paused = true)]
    async fn each_has_a_burst_then_a_rate_and_is_told_where_it_stands() {
        let rates = Rates::new(&[rate("address", Per::Address, 2, 6)], 100, false);
        let left: Vec<_> = (0..6)
            .map(|_| {
                rates
                    .count(&address(1), Class::Control, None)
                    .unwrap()
                    .unwrap()
            })
            .map(|standing| (standing.left, standing.reset_s))
            .collect();
        assert_eq!(left, [(5, 1), (4, 1), (3, 2), (2, 2), (1, 3), (0, 3)]);
        let refused = rates.count(&address(1), Class::Control, None).unwrap_err();
        assert_eq!(
            (&*refused.policy, refused.quota, refused.window_s),
            ("address", 6, 3)
        );
        assert_eq!((refused.left, refused.reset_s), (0, 1));
        // Others are none the poorer.
        assert!(rates.count(&address(2), Class::Control, None).is_ok());
        advance(Duration::from_millis(500)).await;
        assert!(rates.count(&address(1), Class::Control, None).is_ok());
        assert!(rates.count(&address(1), Class::Control, None).is_err());
        advance(Duration::from_mins(1)).await;
        let whole = rates
            .count(&address(1), Class::Control, None)
            .unwrap()
            .unwrap();
        assert_eq!(whole.left, 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_policy_that_stays_the_same_goes_on_counting_when_others_change() {
        let (kept, old) = (
            rate("kept", Per::Address, 1, 2),
            rate("changed", Per::Principal, 1, 1),
        );
        let rates = Rates::new(&[kept.clone(), old], 100, false);
        let ann = Key::Principal(AccountId(1), None);
        for _ in 0..2 {
            rates.count(&address(1), Class::Control, None).unwrap();
        }
        rates.count(&ann, Class::Control, None).unwrap();
        let rates = rates.renewed(&[kept, rate("changed", Per::Principal, 1, 3)], 100);
        assert!(rates.count(&address(1), Class::Control, None).is_err());
        for _ in 0..3 {
            rates.count(&ann, Class::Control, None).unwrap();
        }
        assert!(rates.count(&ann, Class::Control, None).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_plugin_chose_a_policy_for_is_counted_by_it_and_by_no_other_of_its_kind() {
        let by_scripts = |rate| Rate {
            by_scripts: true,
            ..rate
        };
        let all = [
            rate("address", Per::Address, 1, 1),
            by_scripts(rate("more", Per::Address, 1, 3)),
            by_scripts(rate("people", Per::Principal, 1, 1)),
        ];
        let rates = Rates::new(&all, 100, false);
        let count = |chosen| rates.count(&address(1), Class::Control, chosen);
        assert_eq!(&*count(None).unwrap().unwrap().policy, "address");
        assert!(count(None).is_err());
        for _ in 0..3 {
            assert_eq!(&*count(Some("more")).unwrap().unwrap().policy, "more");
        }
        assert!(count(Some("more")).is_err());
        // Those of others stay, and so it is with what is none, or not for this kind.
        for chosen in ["people", "address", "none"] {
            assert_eq!(&*count(Some(chosen)).unwrap_err().policy, "address");
        }
        let upload = rates.count(&address(1), Class::Upload, Some("more"));
        assert_eq!(upload, Ok(None));
        let ann = Key::Principal(AccountId(1), None);
        assert_eq!(rates.count(&ann, Class::Control, None), Ok(None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_policy_counts_its_own_kinds_and_the_tightest_is_told() {
        let all = [
            rate("wide", Per::Address, 10, 100),
            rate("narrow", Per::Address, 1, 4),
            rate("people", Per::Principal, 1, 1),
        ];
        let rates = Rates::new(&all, 100, false);
        let standing = rates
            .count(&address(1), Class::Download, None)
            .unwrap()
            .unwrap();
        assert_eq!(&*standing.policy, "narrow");
        assert_eq!(rates.count(&address(1), Class::Upload, None), Ok(None));
        let ann = |service: Option<&str>| Key::Principal(AccountId(1), service.map(str::to_owned));
        assert!(rates.count(&ann(None), Class::Control, None).is_ok());
        assert!(rates.count(&ann(Some("ci")), Class::Control, None).is_ok());
        let refused = rates.count(&ann(None), Class::Control, None).unwrap_err();
        assert_eq!(&*refused.policy, "people");
        let acme = Key::Organization(OrganizationId(1));
        assert_eq!(rates.count(&acme, Class::Control, None), Ok(None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_table_has_an_end_and_who_asks_in_many_names_drives_nobody_out_of_it() {
        let rates = Rates::new(&[rate("address", Per::Address, 1, 100)], 64, false);
        for _ in 0..100 {
            rates.count(&address(1), Class::Control, None).unwrap();
        }
        let spent = || rates.count(&address(1), Class::Control, None).is_err();
        assert!(spent());
        for n in 0..10_000_u32 {
            let key = Key::Address(std::net::Ipv4Addr::from_bits((10 << 24) | n).into());
            rates.count(&key, Class::Control, None).unwrap();
            if n % 64 == 0 {
                assert!(spent(), "forgotten after {n}");
            }
        }
        let (_, keys) = rates.keys().next().unwrap();
        assert!(keys <= 64, "{keys}");
        assert!(spent());
    }

    #[tokio::test]
    async fn many_at_once_take_no_more_than_there_is() {
        // A burst that the rate adds next to nothing to while the test runs, however slowly.
        let rates = Arc::new(Rates::new(
            &[rate("address", Per::Address, 1, 2_000)],
            100,
            false,
        ));
        let begun = tokio::time::Instant::now();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let rates = Arc::clone(&rates);
                std::thread::spawn(move || {
                    let taken = (0..1_000)
                        .filter(|_| rates.count(&address(1), Class::Control, None).is_ok());
                    taken.count()
                })
            })
            .collect();
        let taken: usize = threads.into_iter().map(|t| t.join().unwrap()).sum();
        let grown = usize::try_from(begun.elapsed().as_secs()).unwrap() + 1;
        assert!((2_000..=2_000 + grown).contains(&taken), "{taken}");
    }
}
