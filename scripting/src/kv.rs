//! A plugin's small memory between calls: bounded, on this node, and written to its disk now and then.

mod file;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use moka::Expiry;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use self::file::{Kept, Line};

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
    /// When that is over, in milliseconds since 1970: what a later process goes by.
    until_ms: i64,
}

impl Entry {
    fn new(json: String, ttl: Duration) -> Self {
        let ttl_ms = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
        Self {
            json,
            ttl,
            until_ms: now_ms().saturating_add(ttl_ms),
        }
    }

    fn line(&self, key: &str) -> Line {
        Line {
            k: key.to_owned(),
            v: self.json.clone(),
            t: self.until_ms,
        }
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let ms = since.unwrap_or(Duration::ZERO).as_millis();
    i64::try_from(ms).unwrap_or(i64::MAX)
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
    /// Whether anything changed since it was last written down.
    changed: AtomicBool,
    file: Option<Mutex<Kept>>,
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

impl Store {
    /// An empty one, which nothing outlives.
    pub fn new() -> Self {
        Self::with(None)
    }

    /// One that is written down in a file, with what stands there already.
    pub fn open(path: &Path) -> Self {
        let mut file = Kept::new(path.to_owned());
        let lines = file.read().unwrap_or_else(|error| {
            tracing::error!(path = %path.display(), %error, "what a plugin remembered cannot be read");
            Vec::new()
        });
        let store = Self::with(Some(Mutex::new(file)));
        let now = now_ms();
        for line in lines {
            let left = u64::try_from(line.t.saturating_sub(now)).unwrap_or(0);
            let ttl = Duration::from_millis(left).min(MAX_TTL);
            if ttl.is_zero() || line.k.len() > MAX_KEY_BYTES || line.v.len() > MAX_VALUE_BYTES {
                store.entries.invalidate(&line.k);
                continue;
            }
            store.entries.insert(line.k, Entry::new(line.v, ttl));
        }
        store
    }

    fn with(file: Option<Mutex<Kept>>) -> Self {
        let weight = |key: &String, entry: &Entry| {
            let bytes = (key.len() + entry.json.len()) as u64;
            u32::try_from(bytes.max(LEAST_WEIGHT)).unwrap_or(u32::MAX)
        };
        Self {
            entries: Cache::builder()
                .max_capacity(MAX_BYTES)
                .weigher(weight)
                .expire_after(ByEntry)
                // Its own choice would be by how often, and refuse what is new.
                .eviction_policy(EvictionPolicy::lru())
                .build(),
            writing: Mutex::new(()),
            changed: AtomicBool::new(false),
            file,
        }
    }

    /// Writes all of it down, if anything changed. Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// When it cannot be written; what was written before is still there.
    pub fn write_down(&self) -> std::io::Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.changed.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let written = file.replace(self.entries.iter().map(|(key, entry)| entry.line(&key)));
        if written.is_err() {
            self.changed.store(true, Ordering::Release);
        }
        written
    }

    /// Writes one entry down at once. Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_down_one(&self, key: &str) -> std::io::Result<()> {
        let (Some(file), Some(entry)) = (&self.file, self.entries.get(key)) else {
            return Ok(());
        };
        let added = {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            file.add(&entry.line(key))?
        };
        if added { Ok(()) } else { self.write_down() }
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
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let present = self.get(key);
        let Some(json) = decide(present.as_deref())? else {
            return Ok(present);
        };
        if json.len() > MAX_VALUE_BYTES {
            return Err(format!(
                "a value has at most {MAX_VALUE_BYTES} bytes as JSON"
            ));
        }
        let entry = Entry::new(json.clone(), ttl);
        self.entries.insert(key.to_owned(), entry);
        self.changed.store(true, Ordering::Release);
        Ok(Some(json))
    }

    /// Removes a key.
    pub fn remove(&self, key: &str) {
        self.entries.invalidate(key);
        self.changed.store(true, Ordering::Release);
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

    fn set(store: &Store, key: &str, value: &str) {
        let value = value.to_owned();
        store.update(key, HOUR, |_| Ok(Some(value))).unwrap();
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let store = Store::new();
        // A little less than there is room for.
        for n in 0..MAX_KEYS - 20 {
            set(&store, &n.to_string(), "1");
        }
        store.entries.run_pending_tasks();
        assert!(store.get("0").is_some());
        store.entries.run_pending_tasks();
        for n in 0..30 {
            set(&store, &format!("new {n}"), "1");
        }
        store.entries.run_pending_tasks();
        assert!(store.get("0").is_some(), "it was just used");
        assert!(store.get("new 29").is_some(), "what is new is taken");
        assert_eq!(store.get("1"), None);
    }

    #[test]
    fn what_was_written_down_is_there_in_another_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kv/acme.jsonl");
        let store = Store::open(&path);
        set(&store, "a", "1");
        set(&store, "gone", "2");
        // Nothing that is not written down.
        assert_eq!(Store::open(&path).get("a"), None);
        store.write_down().unwrap();
        store.remove("gone");
        set(&store, "a", "3");
        set(&store, "durable", "\"x\\ny\"");
        store.write_down_one("durable").unwrap();
        let other = Store::open(&path);
        let all = |store: &Store| ["a", "gone", "durable"].map(|key| store.get(key));
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(all(&other), [text("1"), text("2"), text("\"x\\ny\"")]);
        store.write_down().unwrap();
        let other = Store::open(&path);
        assert_eq!(all(&other), [text("3"), None, text("\"x\\ny\"")]);

        // The power went while a line was written.
        let mut torn = std::fs::read(&path).unwrap();
        torn.extend_from_slice(b"{\"k\":\"a\",\"v\":\"4");
        std::fs::write(&path, torn).unwrap();
        let other = Store::open(&path);
        assert_eq!(other.get("a"), text("3"));
        // What is durable from then on does not stand behind the part of a line.
        set(&other, "a", "5");
        other.write_down_one("a").unwrap();
        assert_eq!(Store::open(&path).get("a"), text("5"));
    }

    #[test]
    fn what_is_over_is_not_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("acme.jsonl");
        let line =
            |key: &str, until: i64| format!("{{\"k\":\"{key}\",\"v\":\"1\",\"t\":{until}}}\n");
        let lines = [line("old", now_ms() - 1), line("new", now_ms() + 60_000)];
        std::fs::write(&path, lines.concat()).unwrap();
        let store = Store::open(&path);
        assert_eq!(store.get("old"), None);
        assert_eq!(store.get("new"), Some("1".into()));
    }
}
