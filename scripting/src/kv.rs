//! A plugin's small memory between calls: bounded, on this node, gone with it.

use std::sync::Mutex;
use std::time::Duration;

use moka::Expiry;
use moka::sync::Cache;

/// Longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 256;
/// Longest value as JSON, in bytes.
pub const MAX_VALUE_BYTES: usize = 64 << 10;
/// Most bytes of one plugin; the least recently used go first.
pub const MAX_BYTES: u64 = 16 << 20;
/// Most keys of one plugin.
pub const MAX_KEYS: u64 = 10_000;
/// Longest life.
pub const MAX_TTL: Duration = Duration::from_hours(30 * 24);

/// Each entry weighs at least its share, so that one bound holds for bytes and for keys.
const LEAST_WEIGHT: u64 = MAX_BYTES.div_ceil(MAX_KEYS);

#[derive(Debug, Clone)]
struct Entry {
    json: String,
    ttl: Duration,
}

struct ByEntry;

impl Expiry<String, Entry> for ByEntry {
    fn expire_after_create(
        &self,
        _key: &String,
        entry: &Entry,
        _at: std::time::Instant,
    ) -> Option<Duration> {
        Some(entry.ttl)
    }

    fn expire_after_update(
        &self,
        _key: &String,
        entry: &Entry,
        _at: std::time::Instant,
        _left: Option<Duration>,
    ) -> Option<Duration> {
        Some(entry.ttl)
    }
}

/// The values of one plugin.
#[derive(Debug)]
pub struct Store {
    entries: Cache<String, Entry>,
    // `incr` and `cas` read and write; plain reads take no lock.
    writing: Mutex<()>,
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

impl Store {
    /// An empty one.
    pub fn new() -> Self {
        let weight = |key: &String, entry: &Entry| {
            let bytes = (key.len() + entry.json.len()) as u64;
            u32::try_from(bytes.max(LEAST_WEIGHT)).unwrap_or(u32::MAX)
        };
        Self {
            entries: Cache::builder()
                .max_capacity(MAX_BYTES)
                .weigher(weight)
                .expire_after(ByEntry)
                .build(),
            writing: Mutex::new(()),
        }
    }

    /// The value of a key, as JSON.
    pub fn get(&self, key: &str) -> Option<String> {
        self.entries.get(key).map(|entry| entry.json)
    }

    /// Sets what `decide` makes of the present value; `None` leaves it as it is. Returns what stands there then.
    ///
    /// # Errors
    /// What `decide` refuses with, or the limit that is exceeded.
    pub fn update(
        &self,
        key: &str,
        ttl: Duration,
        decide: impl FnOnce(Option<&str>) -> Result<Option<String>, String>,
    ) -> Result<Option<String>, String> {
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return Err(format!("a key has 1 to {MAX_KEY_BYTES} bytes"));
        }
        if ttl.is_zero() || ttl > MAX_TTL {
            return Err("ttl_s is from 1 to 2592000 (30 days)".into());
        }
        let _writing = self
            .writing
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let present = self.get(key);
        let Some(json) = decide(present.as_deref())? else {
            return Ok(present);
        };
        if json.len() > MAX_VALUE_BYTES {
            return Err(format!(
                "a value has at most {MAX_VALUE_BYTES} bytes as JSON"
            ));
        }
        let entry = Entry {
            json: json.clone(),
            ttl,
        };
        self.entries.insert(key.to_owned(), entry);
        Ok(Some(json))
    }

    /// Removes a key.
    pub fn remove(&self, key: &str) {
        self.entries.invalidate(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn keys_and_bytes_are_bounded_by_leaving_out_the_oldest() {
        let store = Store::new();
        for n in 0..MAX_KEYS + 2_000 {
            store
                .update(&n.to_string(), HOUR, |_| Ok(Some("1".into())))
                .unwrap();
        }
        store.entries.run_pending_tasks();
        assert!(store.entries.entry_count() <= MAX_KEYS);
        let large = "x".repeat(MAX_VALUE_BYTES);
        for n in 0..300 {
            store
                .update(&format!("large {n}"), HOUR, |_| Ok(Some(large.clone())))
                .unwrap();
        }
        store.entries.run_pending_tasks();
        assert!(store.entries.weighted_size() <= MAX_BYTES);
    }

    #[test]
    fn what_is_too_long_or_lives_too_long_is_refused() {
        let store = Store::new();
        let set = |key: &str, value: String, ttl| store.update(key, ttl, |_| Ok(Some(value)));
        assert!(set(&"k".repeat(257), "1".into(), HOUR).is_err());
        assert!(set("", "1".into(), HOUR).is_err());
        assert!(set("k", "x".repeat(MAX_VALUE_BYTES + 1), HOUR).is_err());
        assert!(set("k", "1".into(), MAX_TTL + HOUR).is_err());
        assert!(set("k", "1".into(), Duration::ZERO).is_err());
        assert_eq!(store.get("k"), None);
    }
}
