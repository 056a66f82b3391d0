//! `[rates.<policy>]`: how many requests each may make in a second, and how many bytes move for each.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::settings::Judge;
use super::units::ByteSize;
use crate::route::Class;

/// Policies at most: each request asks those that concern it.
const MOST: usize = 32;

/// `[rates]`: each policy by its name. A file that names one of the three that are always there changes of it what it
/// says, and leaves the others as they are.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct RatesFile(pub BTreeMap<String, RateFile>);

/// `[rates.<policy>]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateFile {
    /// Whether it counts.
    pub enabled: bool,
    /// Whether it counts only what a plugin's `authorize` has counted by it.
    pub by_scripts: bool,
    /// Who has a rate of their own.
    pub per: String,
    /// The requests that it counts; none named is each.
    pub classes: Vec<String>,
    /// Requests in a second.
    pub requests: u32,
    /// Requests at once, after a pause.
    pub burst: u32,
    /// Bytes of bodies that come in, in a second; 0 is no limit.
    pub bytes_in: ByteSize,
    /// The same of those that go out.
    pub bytes_out: ByteSize,
}

impl Default for RateFile {
    fn default() -> Self {
        Self::of("address", 100, 1000)
    }
}

impl RateFile {
    fn of(per: &str, requests: u32, burst: u32) -> Self {
        Self {
            enabled: true,
            by_scripts: false,
            per: per.into(),
            classes: Vec::new(),
            requests,
            burst,
            bytes_in: ByteSize(0),
            bytes_out: ByteSize(0),
        }
    }
}

impl Default for RatesFile {
    fn default() -> Self {
        // Far above what many jobs at once of one honest CI ask, and far below what keeps a core busy. A CDN that asks for
        // slices of 1 MiB asks 1000 times for a client of 8 Gbit/s.
        let policies = [
            ("address", RateFile::of("address", 1_000, 10_000)),
            ("principal", RateFile::of("principal", 1_000, 20_000)),
            ("organization", RateFile::of("organization", 5_000, 50_000)),
        ];
        Self(policies.map(|(name, of)| (name.to_owned(), of)).into())
    }
}

impl<'de> Deserialize<'de> for RatesFile {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let said = BTreeMap::<String, toml::Table>::deserialize(from)?;
        let mut policies = Self::default().0;
        for (name, keys) in said {
            let known = policies.remove(&name).unwrap_or_default();
            let mut table = toml::Table::try_from(known).map_err(D::Error::custom)?;
            table.extend(keys);
            let policy =
                RateFile::deserialize(toml::Value::Table(table)).map_err(D::Error::custom)?;
            policies.insert(name, policy);
        }
        Ok(Self(policies))
    }
}

/// One policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rate {
    /// Its name, which answers tell.
    pub name: String,
    /// Whether it counts only what a plugin has counted by it, and that by no other of the same `per`.
    pub by_scripts: bool,
    /// Who has a rate of their own.
    pub per: Per,
    /// The requests that it counts.
    pub classes: Vec<Class>,
    /// Requests in a second.
    pub requests: NonZeroU32,
    /// Requests at once, after a pause.
    pub burst: NonZeroU32,
    /// Bytes of bodies that come in, in a second; 0 is no limit.
    pub bytes_in: u64,
    /// The same of those that go out.
    pub bytes_out: u64,
}

/// Who has a rate of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Per {
    /// Each address; of IPv6, each /64.
    Address,
    /// Each person and each service account.
    Principal,
    /// Each organization, by what its members ask of it.
    Organization,
}

impl Judge<'_> {
    pub(super) fn rates(&mut self, file: &RatesFile) -> Vec<Rate> {
        if file.0.len() > MOST {
            self.wrong("rates", format!("must be {MOST} policies at most"));
        }
        let used = file.0.iter().filter(|(_, policy)| policy.enabled);
        used.map(|(name, policy)| self.rate(name, policy)).collect()
    }

    /// As many as cost what is printed at the start.
    pub(super) fn rate_keys(&mut self, keys: u32) -> u64 {
        if !(64..=10_000_000).contains(&keys) {
            self.wrong("limits.rate_keys", "must be 64 to 10000000");
        }
        u64::from(keys.clamp(64, 10_000_000))
    }

    fn rate(&mut self, name: &str, file: &RateFile) -> Rate {
        let key = |key: &str| format!("rates.{name}.{key}");
        let plain =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        if name.is_empty() || name.len() > 32 || !name.bytes().all(plain) {
            let rule = "expected a name of 1 to 32 of a-z, 0-9, '-' and '_'";
            self.wrong(format!("rates.{name}"), rule);
        }
        let per = self.choice(
            &key("per"),
            &file.per,
            &[
                ("address", Per::Address),
                ("principal", Per::Principal),
                ("organization", Per::Organization),
            ],
            "expected \"address\", \"principal\" or \"organization\"",
        );
        let mut classes = Vec::new();
        for class in &file.classes {
            let known = [
                ("control", Class::Control),
                ("upload", Class::Upload),
                ("download", Class::Download),
            ];
            let rule = "expected \"control\", \"upload\" or \"download\"";
            classes.extend(self.choice(&key("classes"), class, &known, rule));
        }
        if classes.is_empty() {
            classes = vec![Class::Control, Class::Upload, Class::Download];
        }
        let mut positive = |key: String, number| {
            NonZeroU32::new(number).unwrap_or_else(|| {
                self.wrong(key, "must be more than 0");
                NonZeroU32::MIN
            })
        };
        Rate {
            name: name.to_owned(),
            by_scripts: file.by_scripts,
            per: per.unwrap_or(Per::Address),
            classes,
            requests: positive(key("requests"), file.requests),
            burst: positive(key("burst"), file.burst),
            bytes_in: file.bytes_in.0,
            bytes_out: file.bytes_out.0,
        }
    }
}
