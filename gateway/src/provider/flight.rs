//! Work that many ask for at once and that is done once: all who ask for the same while it is under way get what it came to,
//! and it goes on when they leave.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use boxgate_storage::trace::carried;
use futures_util::future::{BoxFuture, Shared};
use futures_util::{FutureExt as _, TryFutureExt as _};
use tokio_util::task::TaskTracker;

use super::shape;
use crate::refusal::Refusal;

type Flight<T> = Shared<BoxFuture<'static, Result<T, Arc<Refusal>>>>;
type UnderWay<K, T> = Arc<Mutex<HashMap<K, Flight<T>>>>;

/// What is under way, by what it is for.
pub struct Flights<K, T> {
    under_way: UnderWay<K, T>,
    tasks: TaskTracker,
}

impl<K, T> std::fmt::Debug for Flights<K, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let under_way = self.under_way.lock().map_or(0, |all| all.len());
        f.debug_struct("Flights")
            .field("under_way", &under_way)
            .finish_non_exhaustive()
    }
}

/// Ends a flight for those who come later, also where it panics.
struct Landing<K: Eq + Hash, T> {
    under_way: UnderWay<K, T>,
    key: K,
}

impl<K: Eq + Hash, T> Drop for Landing<K, T> {
    fn drop(&mut self) {
        let mut all = self
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.remove(&self.key);
    }
}

impl<K, T> Flights<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// None yet; they go on in `tasks`.
    pub fn new(tasks: TaskTracker) -> Self {
        Self {
            under_way: Arc::default(),
            tasks,
        }
    }

    /// What comes of the work for `key`: of that under way, or else of this.
    ///
    /// # Errors
    /// What the work ends with, for all who wait for it.
    pub async fn join<F>(&self, key: K, work: impl FnOnce() -> F) -> Result<T, Refusal>
    where
        F: Future<Output = Result<T, Refusal>> + Send + 'static,
    {
        let flight = {
            let mut all = self
                .under_way
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            match all.get(&key) {
                Some(flight) => flight.clone(),
                None => all
                    .entry(key.clone())
                    .insert_entry(self.begin(key, work()))
                    .get()
                    .clone(),
            }
        };
        flight.await.map_err(|refusal| refusal.again())
    }

    fn begin<F>(&self, key: K, work: F) -> Flight<T>
    where
        F: Future<Output = Result<T, Refusal>> + Send + 'static,
    {
        let under_way = Arc::clone(&self.under_way);
        // On behalf of whoever asked first.
        let task = self.tasks.spawn(carried(async move {
            let _landing = Landing { under_way, key };
            work.await
        }));
        let done = task.map_err(|_panicked| shape::senseless());
        let done = done.and_then(std::future::ready).map_err(Arc::new);
        done.boxed().shared()
    }
}
