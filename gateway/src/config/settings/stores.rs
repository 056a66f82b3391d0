//! Where rows and bytes are kept, and what is done about those that rot or that nobody holds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use boxgate_storage::backend::s3::{Patience, S3Options};
use boxgate_storage::check::{Brake, OrphanLimits};
use boxgate_storage::layer::cache::CacheOptions;
use boxgate_storage::upload::Sha256When;

use super::Secret;
use super::judge::Judge;
use super::share_of_memory;
use crate::config::file::{self, ConfigFile};
use crate::config::machine::Machine;
use crate::config::units::{ByteSize, Span};

/// Where rows are kept.
#[derive(Debug, Clone)]
pub enum Database {
    /// In the data directory, for this process alone.
    Embedded,
    /// In a PostgreSQL database, which other nodes may share.
    Postgres(Secret),
}

/// A store of one kind or the other.
#[derive(Debug, Clone)]
pub enum StoreSettings {
    /// A directory.
    Local(LocalStore),
    /// A bucket.
    S3(Box<S3Options>),
}

/// A store that is a directory.
#[derive(Debug, Clone)]
pub struct LocalStore {
    /// The directory.
    pub path: PathBuf,
}

/// Settings of bytes that nobody holds.
#[derive(Debug, Clone)]
pub struct Gc {
    /// How often stores are looked through; `None` is only when asked to.
    pub every: Option<Duration>,
    /// When bytes that no row names are removed.
    pub orphans: OrphanLimits,
}

/// Settings of when stored bytes are proved.
#[derive(Debug, Clone)]
pub struct Verify {
    /// How long a proof of local bytes counts, so that the kernel may send them; `None` proves each byte each time.
    pub local_max_age: Option<Duration>,
    /// Boxes open as files at once.
    pub open_files: usize,
}

/// Settings of when digests are computed.
#[derive(Debug, Clone)]
pub struct Digests {
    /// When SHA-256 is.
    pub sha256: Sha256When,
    /// Uploads at once whose SHA-256 may be computed on a second core.
    pub lanes: usize,
    /// Bytes read in a second for what is deferred; 0 is as many as come.
    pub rate_bytes: u64,
}

/// Settings of bits that rot.
#[derive(Debug, Clone)]
pub struct Scrub {
    /// How long after its end the next scrub begins; `None` is only when asked to.
    pub every: Option<Duration>,
    /// Bytes read in a second; 0 is as many as come.
    pub rate_bytes: u64,
}

/// The store that is there unless the file names others, in the data directory unless it says where.
const MAIN: &str = "main";

impl Judge<'_> {
    /// Nodes that share a database must agree on the key that seals its secrets, and on the addresses
    /// that clients are told.
    pub(super) fn metadata(&mut self, file: &ConfigFile, has_master_key: bool) -> Database {
        let url = &file.metadata.url;
        if url.is_empty() {
            return Database::Embedded;
        }
        if !["postgres://", "postgresql://"]
            .iter()
            .any(|scheme| url.starts_with(scheme))
        {
            self.wrong(
                "metadata.url",
                "expected \"\" for the embedded database, or \"postgres://USER@HOST/DATABASE\"",
            );
        }
        if !has_master_key {
            self.wrong(
                "BOXGATE_MASTER_KEY",
                "must be set, the same on each node of metadata.url: 64 hexadecimal digits, such as \
                 `openssl rand -hex 32` prints (or BOXGATE_MASTER_KEY_FILE)",
            );
        }
        if file.public_url.is_empty() {
            self.wrong(
                "public_url",
                "must be set with metadata.url, the same on each node: it is in the links that all of \
                 them make",
            );
        }
        Database::Postgres(Secret::new(url))
    }

    pub(super) fn stores(
        &mut self,
        file: &ConfigFile,
        data_dir: &Path,
    ) -> BTreeMap<String, StoreSettings> {
        let mut stores = BTreeMap::new();
        for (name, store) in &file.stores.0 {
            if !is_store_name(name) {
                self.wrong(
                    format!("stores.{name}"),
                    "the name of a store is 1 to 32 of a-z, 0-9, '-' and '_'",
                );
            }
            stores.insert(name.clone(), self.store(name, store, data_dir));
        }
        let used = &file.uploads.store;
        if !stores.contains_key(used) {
            let named: Vec<_> = stores.keys().map(String::as_str).collect();
            let text = format!("no store is named {used:?}; there is {}", named.join(", "));
            self.wrong("uploads.store", text);
        }
        self.apart(&stores);
        stores
    }

    /// Two stores in one place would take each other's bytes for bytes that nobody names.
    fn apart(&mut self, stores: &BTreeMap<String, StoreSettings>) {
        let mut places = BTreeMap::new();
        for (name, store) in stores {
            let (key, place) = match store {
                StoreSettings::Local(store) => ("path", store.path.display().to_string()),
                StoreSettings::S3(store) => (
                    "bucket",
                    format!("{}/{}/{}", store.endpoint, store.bucket, store.prefix),
                ),
            };
            if let Some(other) = places.insert(place, name) {
                let text = format!("stores.{other} is in the same place");
                self.wrong(format!("stores.{name}.{key}"), text);
            }
        }
    }

    fn store(&mut self, name: &str, store: &file::StoreFile, data_dir: &Path) -> StoreSettings {
        let kinds = [("local", false), ("s3", true)];
        let rule = "expected \"local\" or \"s3\"";
        let kind = self.choice(&format!("stores.{name}.kind"), &store.kind, &kinds, rule);
        if kind == Some(true) {
            return StoreSettings::S3(Box::new(self.bucket(name, store)));
        }
        StoreSettings::Local(LocalStore {
            path: if store.path.is_empty() && name == MAIN {
                data_dir.join("blobs")
            } else {
                PathBuf::from(self.not_empty(&format!("stores.{name}.path"), &store.path))
            },
        })
    }

    fn bucket(&mut self, name: &str, store: &file::StoreFile) -> S3Options {
        let key = |key: &str| format!("stores.{name}.{key}");
        let endpoint = self.not_empty(&key("endpoint"), &store.endpoint);
        if !endpoint.is_empty()
            && !["http://", "https://"]
                .iter()
                .any(|s| endpoint.starts_with(s))
        {
            self.wrong(
                key("endpoint"),
                "expected a URL such as \"https://s3.example.com\"",
            );
        }
        let prefix = store.prefix.as_str();
        if !prefix.is_empty() && !prefix.ends_with('/') {
            self.wrong(key("prefix"), "must end with '/'");
        }
        S3Options {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            region: self.not_empty(&key("region"), &store.region).to_owned(),
            bucket: self.not_empty(&key("bucket"), &store.bucket).to_owned(),
            prefix: prefix.to_owned(),
            path_style: store.path_style,
            access_key_id: self
                .not_empty(&key("access_key_id"), &store.access_key_id)
                .to_owned(),
            secret_access_key: self.secret_access_key(name, store),
            patience: Patience {
                connect: self.time(&key("connect_timeout"), store.connect_timeout),
                first_byte: self.time(&key("first_byte_timeout"), store.first_byte_timeout),
                slowest_bytes_per_second: self.positive(&key("slowest_rate"), store.slowest_rate.0),
                tries: store.tries.max(1),
                in_all: self.time(&key("retry_for"), store.retry_for),
                retry_percent: store.retry_percent,
                ..Patience::default()
            },
            redirect_for: self.redirect_for(name, store),
            clients_endpoint: self.clients_endpoint(name, store),
        }
    }

    fn redirect_for(&mut self, name: &str, store: &file::StoreFile) -> Option<Duration> {
        let life = store.redirect_for;
        if life > Span::seconds(7 * 24 * 3600) {
            // AWS Signature Version 4 ends there.
            self.wrong(format!("stores.{name}.redirect_for"), "must be 7d or less");
        }
        let life = self.time_or_none(&format!("stores.{name}.redirect_for"), life);
        (!life.is_zero()).then_some(life)
    }

    fn clients_endpoint(&mut self, name: &str, store: &file::StoreFile) -> Option<String> {
        let endpoint = store.redirect_endpoint.trim_end_matches('/');
        if !endpoint.is_empty()
            && !["http://", "https://"]
                .iter()
                .any(|s| endpoint.starts_with(s))
        {
            self.wrong(
                format!("stores.{name}.redirect_endpoint"),
                "expected a URL such as \"https://s3.example.com\"",
            );
        }
        (!endpoint.is_empty()).then(|| endpoint.to_owned())
    }

    fn secret_access_key(&mut self, name: &str, store: &file::StoreFile) -> String {
        let key = format!("stores.{name}.secret_access_key");
        let text = self.secret(
            &key,
            &store.secret_access_key,
            &store.secret_access_key_file,
        );
        self.not_empty(&key, &text).to_owned()
    }

    pub(super) fn cache(&mut self, cache: &file::CacheFile, machine: Machine) -> CacheOptions {
        let block = cache.block;
        let good =
            block >= ByteSize::mib(1) && block <= ByteSize::mib(16) && block.0.is_power_of_two();
        if !good {
            self.wrong("cache.block", "must be 1MiB, 2MiB, 4MiB, 8MiB or 16MiB");
        }
        let block_bytes = if good { block.0 } else { 1 << 20 };
        let size_bytes = match cache.size.0 {
            0 => share_of_memory(machine),
            // A few blocks on their way in and out beside those that stay.
            given if given < 8 * block_bytes => {
                self.wrong(
                    "cache.size",
                    "must be eight blocks (cache.block) or more, or 0 to have it computed",
                );
                8 * block_bytes
            }
            given => given,
        };
        CacheOptions {
            size_bytes,
            block_bytes,
        }
    }

    pub(super) fn verify(&mut self, verify: &file::VerifyFile) -> Verify {
        let choices = [("once", true), ("always", false)];
        let rule = "expected \"once\" or \"always\"";
        let once = self.choice("verify.local", &verify.local, &choices, rule);
        let max_age = self.time("verify.max_age", verify.max_age);
        Verify {
            local_max_age: once.filter(|once| *once).map(|_| max_age),
            open_files: self.count("verify.open_files", verify.open_files),
        }
    }

    pub(super) fn digests(&mut self, digests: &file::DigestsFile) -> Digests {
        let most = self.positive("digests.most_deferred", digests.most_deferred);
        let choices = [
            ("inline", Sha256When::Inline),
            ("deferred", Sha256When::Deferred { most }),
        ];
        let rule = "expected \"inline\" or \"deferred\"";
        let sha256 = self.choice("digests.sha256", &digests.sha256, &choices, rule);
        // Each of them has two cores then, and nobody is left without one.
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let choices = [("auto", cores / 2), ("never", 0)];
        let rule = "expected \"auto\" or \"never\"";
        let lanes = self.choice("digests.second_core", &digests.second_core, &choices, rule);
        Digests {
            sha256: sha256.unwrap_or_default(),
            lanes: lanes.unwrap_or_default(),
            rate_bytes: digests.rate.0,
        }
    }

    pub(super) fn gc(&mut self, gc: &file::GcFile) -> Gc {
        let most = Brake::RELEASED.few;
        for (key, number, most) in [
            ("gc.few_orphans", gc.few_orphans, most),
            ("gc.most_orphans", gc.most_orphans, most),
            ("gc.most_orphans_percent", gc.most_orphans_percent, 100),
        ] {
            if number > most {
                self.wrong(key, format!("must be at most {most}"));
            }
        }
        Gc {
            every: self.time_or_never("gc.every", gc.every),
            orphans: OrphanLimits {
                age: self.time("gc.orphan_age", gc.orphan_age),
                brake: Brake {
                    few: gc.few_orphans,
                    most: gc.most_orphans,
                    most_percent: gc.most_orphans_percent,
                },
            },
        }
    }
}

/// What rows, variables and metrics may call a store.
fn is_store_name(name: &str) -> bool {
    let good = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'_';
    (1..=32).contains(&name.len()) && name.bytes().all(good)
}
