//! What was read of names, kept until any row changes that it may have been read from.
//!
//! A gateway reads the same few names thousands of times a second. All changes to an embedded database go through the one
//! writer of this process, which counts them before it answers: what was read at the present count is what a read would
//! find now. One that writes beside an embedded gateway (`boxgate admin bootstrap`) is noticed within [`MOST_AGE`], and
//! so is what other nodes write to a shared database; they also tell of it ([`Changes::told`]), which only makes it
//! sooner. That nothing is there is never kept, so that a new name is found at once.
//!
//! While a shared database is away, what was found in the last minute goes on being found ([`SPARE_AGE`]), unless this
//! process changed anything since.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex as SyncMutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;

use super::Metadata;
use crate::error::{ErrorKind, Result};

/// How long anything is kept that may change.
const MOST_AGE: Duration = Duration::from_secs(1);
/// How long what never changes is kept: nobody who may not read a blob gets as far as asking for its tree.
const CONTENT_AGE: Duration = Duration::from_hours(1);
/// How long what was read serves while the database is away.
const SPARE_AGE: Duration = Duration::from_mins(1);
/// A shared database that does not answer within this time is away, for whoever has something to go on with.
const SPARE_WAIT: Duration = Duration::from_secs(2);
/// How long it is not asked again then, by those.
const AWAY: Duration = Duration::from_secs(1);
/// Of those who ask for an answer in the second half of its time one in so many makes it anew, as the last digits of the
/// clock have it: were it not so, all would at once when that time is over.
const RENEWED_BY: u32 = 61;
/// Reads at once of one kind: those of one key follow each other, and all but the first find what that one read.
const READS: usize = 16;
/// How long one waits for another's read before it reads by itself, as it would for a connection.
const READ_WAIT: Duration = Duration::from_secs(5);

/// Counts what may have changed names.
#[derive(Debug, Clone, Default)]
pub(super) struct Changes(Arc<Counted>);

#[derive(Debug, Default)]
struct Counted {
    own: AtomicU64,
    /// Of those, the ones that may have changed who is who and who may do what.
    rights: AtomicU64,
    /// Those of them that were more than a number.
    names: AtomicU64,
    others: AtomicU64,
    /// When the database was last found to be away.
    away: SyncMutex<Option<Instant>>,
    /// Wakes whoever waits for others.
    heard: Notify,
}

impl Changes {
    /// This process changed something that a name leads to.
    pub(super) fn add(&self) {
        self.0.names.fetch_add(1, Ordering::SeqCst);
        self.add_number();
    }

    /// This process changed a number that is told with a name, and nothing else.
    pub(super) fn add_number(&self) {
        self.0.own.fetch_add(1, Ordering::SeqCst);
    }

    /// This process changed something, perhaps who may do what.
    pub(super) fn add_rights(&self) {
        self.0.rights.fetch_add(1, Ordering::SeqCst);
        self.add();
    }

    /// Another process told that it did, or nobody can tell any more.
    pub(super) fn told(&self) {
        self.0.others.fetch_add(1, Ordering::SeqCst);
        self.0.heard.notify_waiters();
    }

    /// Resolves when another process tells.
    pub(super) async fn hear(&self) {
        self.0.heard.notified().await;
    }

    /// The moment before a read that follows.
    pub(super) fn moment(&self) -> Moment {
        Moment(self.now())
    }

    fn now(&self) -> At {
        At {
            own: self.0.own.load(Ordering::SeqCst),
            rights: self.0.rights.load(Ordering::SeqCst),
            names: self.0.names.load(Ordering::SeqCst),
            others: self.0.others.load(Ordering::SeqCst),
            read: Instant::now(),
        }
    }

    fn is_away(&self) -> bool {
        let away = *self.0.away.lock().unwrap_or_else(PoisonError::into_inner);
        away.is_some_and(|at| at.elapsed() < AWAY)
    }

    fn set_away(&self) {
        let now = Some(Instant::now());
        *self.0.away.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }
}

/// The moment before a read: what changes meanwhile makes it old at once.
#[derive(Debug, Clone, Copy)]
struct At {
    own: u64,
    rights: u64,
    names: u64,
    others: u64,
    read: Instant,
}

/// A moment that reads followed; what changed since then makes old whatever was made of them.
#[derive(Debug, Clone, Copy)]
pub struct Moment(At);

/// What kind of thing is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// What one name leads to.
    Name,
    /// Who somebody is and may do: what a credential or an account leads to, which no upload changes.
    Right,
    /// What lists others. Another node's new name must be in it at once, so that it is kept only as a spare where
    /// others write.
    List,
    /// What never changes under its key.
    Content,
    /// What was made of several that were read, and tells no number that others change.
    Answer,
}

/// Values that were read, or made of what was read, by key.
pub struct Recent<K, V> {
    changes: Changes,
    kept: moka::sync::Cache<K, (At, V)>,
    /// How long what was read is as good as what would be.
    fresh: Duration,
    /// How long it serves while the database is away.
    spare: Duration,
    kind: Kind,
    turns: [Mutex<()>; READS],
}

impl<K, V> Recent<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Keeps lists of `most_bytes` together, each as heavy as `weigh` says, made of the rows of `metadata`.
    pub fn lists(metadata: &Metadata, most_bytes: u64, weigh: fn(&V) -> u32) -> Self {
        let inner = &metadata.inner;
        Self::with(&inner.changes, Kind::List, inner.alone, most_bytes, weigh)
    }

    /// The same for answers that were made of what was read: kept by [`Self::keep`], found by [`Self::known`].
    pub fn answers(metadata: &Metadata, most_bytes: u64, weigh: fn(&V) -> u32) -> Self {
        let inner = &metadata.inner;
        Self::with(&inner.changes, Kind::Answer, inner.alone, most_bytes, weigh)
    }

    /// `alone`: whether all changes are counted.
    pub(super) fn with(
        changes: &Changes,
        kind: Kind,
        alone: bool,
        most_bytes: u64,
        weigh: fn(&V) -> u32,
    ) -> Self {
        let fresh = match (kind, alone) {
            (Kind::Content, false) => CONTENT_AGE,
            (Kind::List, false) => Duration::ZERO,
            // What it is made of may have been kept for a while itself.
            (Kind::Answer, false) => MOST_AGE / 2,
            _ => MOST_AGE,
        };
        // An embedded database is not away; and an answer is made again of what serves meanwhile.
        let spare = if alone || kind == Kind::Answer {
            Duration::ZERO
        } else {
            SPARE_AGE
        };
        let kept = moka::sync::Cache::builder()
            .weigher(move |_key, (_, value): &(At, V)| weigh(value))
            .max_capacity(most_bytes)
            .time_to_live(fresh.max(spare))
            .build();
        Self {
            changes: changes.clone(),
            kept,
            fresh,
            spare,
            kind,
            turns: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// What is kept for `key`, else what `read` finds.
    ///
    /// # Errors
    /// Those of `read`.
    pub async fn or_read(
        &self,
        key: K,
        read: impl Future<Output = Result<Option<V>>>,
    ) -> Result<Option<V>> {
        self.or_read_fit(key, |_any| true, read).await
    }

    /// What is kept for `key` if that `fits`, else what `read` finds, which knows nothing else: what does not fit takes as
    /// long as what is not there.
    ///
    /// # Errors
    /// Those of `read`.
    pub(super) async fn or_read_fit(
        &self,
        key: K,
        fits: fn(&V) -> bool,
        read: impl Future<Output = Result<Option<V>>>,
    ) -> Result<Option<V>> {
        if let Some(found) = self.fresh(&key).filter(fits) {
            return Ok(Some(found));
        }
        let spare = self.spare(&key).filter(fits);
        if spare.is_some() && self.changes.is_away() {
            return Ok(spare);
        }
        // A thousand that miss at once would keep each other from the few connections there are.
        let turn = if self.fresh.is_zero() {
            None
        } else {
            let turn = self.turns[turn_of(&key)].lock();
            let wait = if spare.is_some() {
                SPARE_WAIT
            } else {
                READ_WAIT
            };
            let turn = tokio::time::timeout(wait, turn).await;
            if let Some(found) = self.fresh(&key).filter(fits) {
                return Ok(Some(found));
            }
            if spare.is_some() && self.changes.is_away() {
                return Ok(spare);
            }
            turn.ok()
        };
        let now = self.changes.now();
        let found = match spare {
            None => read.await?,
            Some(spare) => match tokio::time::timeout(SPARE_WAIT, read).await {
                Ok(Err(e)) if e.kind() != ErrorKind::Unavailable => return Err(e),
                Ok(Ok(found)) => found,
                Ok(Err(_)) | Err(_) => {
                    self.changes.set_away();
                    return Ok(Some(spare));
                }
            },
        };
        match &found {
            Some(found) => self.kept.insert(key, (now, found.clone())),
            // What another process removed serves nobody any more.
            None if self.kept.get(&key).is_some_and(|(_, kept)| fits(&kept)) => {
                self.kept.invalidate(&key);
            }
            None => {}
        }
        drop(turn);
        Ok(found)
    }

    /// What is kept for `key`, if it is what would be made now; now and then `None` before its time, for it to be made anew.
    pub fn known<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.fresh(key)
    }

    /// Keeps what was made of things that were all read after `moment`.
    pub fn keep(&self, key: K, moment: Moment, made: V) {
        self.kept.insert(key, (moment.0, made));
    }

    fn fresh<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        if self.fresh.is_zero() {
            return None;
        }
        let (at, found) = self.kept.get(key)?;
        let now = self.changes.now();
        let never_changes = self.fresh == CONTENT_AGE;
        let unchanged = never_changes || self.is_unchanged(at, now) && at.others == now.others;
        let age = now.read - at.read;
        let is_due = self.kind == Kind::Answer
            && age >= self.fresh / 2
            && age.subsec_nanos().is_multiple_of(RENEWED_BY);
        (unchanged && age < self.fresh && !is_due).then_some(found)
    }

    /// Whether this process changed nothing of that kind.
    fn is_unchanged(&self, at: At, now: At) -> bool {
        match self.kind {
            Kind::Right => at.rights == now.rights,
            Kind::Answer => at.names == now.names,
            Kind::Name | Kind::List | Kind::Content => at.own == now.own,
        }
    }

    fn spare(&self, key: &K) -> Option<V> {
        if self.spare.is_zero() {
            return None;
        }
        let (at, found) = self.kept.get(key)?;
        let now = self.changes.now();
        (self.is_unchanged(at, now) && now.read - at.read < self.spare).then_some(found)
    }
}

fn turn_of(key: &impl Hash) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    usize::try_from(hasher.finish() % READS as u64).expect("it is a small number")
}

impl<K, V> fmt::Debug for Recent<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recent")
            .field("changes", &self.changes)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    /// Of an embedded database.
    fn recent() -> (Changes, Recent<u8, u8>) {
        of(Kind::Name, true)
    }

    fn of(kind: Kind, alone: bool) -> (Changes, Recent<u8, u8>) {
        let changes = Changes::default();
        let recent = Recent::with(&changes, kind, alone, 100, |_| 1);
        (changes, recent)
    }

    async fn ask(recent: &Recent<u8, u8>, there: Option<u8>) -> Option<u8> {
        recent.or_read(1, async { Ok(there) }).await.unwrap()
    }

    #[tokio::test]
    async fn what_does_not_fit_is_read_as_if_it_were_not_there_and_stays_for_others() {
        let (_changes, recent) = recent();
        assert_eq!(ask(&recent, Some(5)).await, Some(5));
        let mut reads = 0;
        for _ in 0..2 {
            let read = async {
                reads += 1;
                Ok(None)
            };
            let found = recent.or_read_fit(1, |value| *value > 5, read).await;
            assert_eq!(found.unwrap(), None);
        }
        assert_eq!(reads, 2);
        assert_eq!(ask(&recent, None).await, Some(5));
        let fits = recent.or_read_fit(1, |value| *value == 5, std::future::pending());
        assert_eq!(fits.await.unwrap(), Some(5));
    }

    /// Asks while the database is away.
    async fn ask_away(recent: &Recent<u8, u8>) -> Option<u8> {
        let away = async { Err(Error::new(ErrorKind::Unavailable, "test", "database")) };
        recent.or_read(1, away).await.ok().flatten()
    }

    /// Asks a database that never answers.
    async fn ask_silent(recent: &Recent<u8, u8>) -> Option<u8> {
        recent.or_read(1, std::future::pending()).await.unwrap()
    }

    #[tokio::test]
    async fn what_was_read_is_kept_until_anything_changes() {
        let (changes, recent) = recent();
        assert_eq!(ask(&recent, Some(1)).await, Some(1));
        assert_eq!(ask(&recent, Some(2)).await, Some(1));
        changes.add();
        assert_eq!(ask(&recent, Some(2)).await, Some(2));
    }

    #[tokio::test]
    async fn rights_are_kept_while_only_names_change() {
        let (changes, recent) = of(Kind::Right, true);
        assert_eq!(ask(&recent, Some(1)).await, Some(1));
        changes.add();
        assert_eq!(ask(&recent, Some(2)).await, Some(1));
        changes.add_rights();
        assert_eq!(ask(&recent, Some(2)).await, Some(2));
        changes.told();
        assert_eq!(ask(&recent, Some(3)).await, Some(3));
    }

    #[tokio::test]
    async fn that_nothing_is_there_is_never_kept() {
        for alone in [true, false] {
            let (_changes, recent) = of(Kind::Name, alone);
            assert_eq!(ask(&recent, None).await, None);
            assert_eq!(ask(&recent, Some(1)).await, Some(1));
        }
    }

    #[tokio::test]
    async fn what_changed_while_it_was_read_is_read_again() {
        let (changes, recent) = recent();
        let read = async {
            changes.add();
            Ok(Some(1))
        };
        assert_eq!(recent.or_read(1, read).await.unwrap(), Some(1));
        assert_eq!(ask(&recent, Some(2)).await, Some(2));
    }

    #[tokio::test]
    async fn those_who_miss_at_once_read_once() {
        let (_changes, recent) = recent();
        let reads = AtomicU64::new(0);
        let ask = || {
            recent.or_read(1, async {
                reads.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                Ok(Some(1))
            })
        };
        let found = futures_util::future::join_all((0..100).map(|_| ask())).await;
        assert!(found.into_iter().all(|found| found.unwrap() == Some(1)));
        assert_eq!(reads.into_inner(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn where_others_write_a_name_is_kept_until_they_tell_and_for_a_second_at_most() {
        let (changes, recent) = of(Kind::Name, false);
        assert_eq!(ask(&recent, Some(1)).await, Some(1));
        assert_eq!(ask(&recent, Some(2)).await, Some(1));
        changes.told();
        assert_eq!(ask(&recent, Some(2)).await, Some(2));
        tokio::time::advance(MOST_AGE).await;
        assert_eq!(ask(&recent, Some(3)).await, Some(3));
    }

    #[tokio::test]
    async fn where_others_write_a_list_is_read_each_time() {
        let (_changes, recent) = of(Kind::List, false);
        assert_eq!(ask(&recent, Some(1)).await, Some(1));
        assert_eq!(ask(&recent, Some(2)).await, Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn what_never_changes_is_read_once() {
        let (changes, recent) = of(Kind::Content, false);
        assert_eq!(ask(&recent, Some(1)).await, Some(1));
        changes.add();
        changes.told();
        tokio::time::advance(CONTENT_AGE / 2).await;
        assert_eq!(ask(&recent, Some(2)).await, Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn while_the_database_is_away_what_was_read_serves_for_a_minute() {
        for kind in [Kind::Name, Kind::List] {
            let (changes, recent) = of(kind, false);
            assert_eq!(ask(&recent, Some(1)).await, Some(1));
            tokio::time::advance(Duration::from_secs(30)).await;
            // It may have changed; who can tell is away.
            changes.told();
            assert_eq!(ask_away(&recent).await, Some(1));
            // For a moment it is not even asked.
            let began = Instant::now();
            assert_eq!(ask_silent(&recent).await, Some(1));
            assert_eq!(began.elapsed(), Duration::ZERO);
            tokio::time::advance(AWAY).await;
            assert_eq!(ask_silent(&recent).await, Some(1));
            assert_eq!(began.elapsed(), AWAY + SPARE_WAIT);
            tokio::time::advance(AWAY).await;
            assert_eq!(ask(&recent, Some(2)).await, Some(2), "it is back");
            tokio::time::advance(SPARE_AGE).await;
            assert_eq!(ask_away(&recent).await, None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_to_have_changed_serves_nobody() {
        let (changes, recent) = of(Kind::Name, false);
        assert_eq!(ask(&recent, Some(1)).await, Some(1));
        changes.add();
        assert_eq!(ask_away(&recent).await, None, "by this process");
        assert_eq!(ask(&recent, Some(1)).await, Some(1));
        tokio::time::advance(MOST_AGE).await;
        assert_eq!(ask(&recent, None).await, None, "found to be gone");
        assert_eq!(ask_away(&recent).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_kept_until_a_name_changes_whatever_is_counted() {
        for (alone, age) in [(true, MOST_AGE), (false, MOST_AGE / 2)] {
            let (changes, answers) = of(Kind::Answer, alone);
            let keep = |made| answers.keep(1, changes.moment(), made);
            keep(1);
            changes.add_number();
            assert_eq!(answers.known(&1), Some(1));
            changes.add();
            assert_eq!(answers.known(&1), None);
            keep(2);
            changes.told();
            assert_eq!(answers.known(&1), None);
            keep(3);
            tokio::time::advance(age.saturating_sub(Duration::from_millis(1))).await;
            assert_eq!(answers.known(&1), Some(3));
            tokio::time::advance(Duration::from_millis(1)).await;
            assert_eq!(answers.known(&1), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_made_anew_by_one_of_many_before_its_time_is_over() {
        let (changes, answers) = of(Kind::Answer, true);
        answers.keep(1, changes.moment(), 1);
        let mut renewing = Vec::new();
        for age in (1..1000).map(Duration::from_millis) {
            tokio::time::advance(Duration::from_millis(1)).await;
            if answers.known(&1).is_none() {
                renewing.push(age);
            }
        }
        assert!(renewing.iter().all(|age| *age >= MOST_AGE / 2));
        assert!((1..50).contains(&renewing.len()), "{renewing:?}");
    }

    #[tokio::test]
    async fn an_answer_is_as_old_as_the_moment_before_what_it_was_made_of() {
        let (changes, answers) = of(Kind::Answer, true);
        let before = changes.moment();
        changes.add();
        answers.keep(1, before, 1);
        assert_eq!(answers.known(&1), None);
    }

    #[tokio::test]
    async fn an_embedded_database_that_fails_is_no_matter_of_memory() {
        let (changes, recent) = recent();
        assert_eq!(ask(&recent, Some(1)).await, Some(1));
        changes.add();
        assert_eq!(ask_away(&recent).await, None);
    }
}
