//! `plugin.toml`, and what an operator grants.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::catalog;
use crate::hook::{HOOKS, Hook, Lane, OnFailure, Row, nearest};
use crate::inbound::{self, InboundTerms};
use crate::limits::{Limits, MAX_RAISE, MAX_RAISE_TEXT};
use crate::metric;
use crate::schedule::Schedule;

/// The version of the script API that this boxgate speaks.
pub const API: u32 = 1;

/// What a plugin says about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The plugin's name, that of its directory.
    #[serde(default)]
    pub name: String,
    /// Its version.
    #[serde(default = "first_version")]
    pub version: String,
    /// The script API that it was written for.
    #[serde(default = "api")]
    pub api: u32,
    /// Lower runs earlier.
    #[serde(default = "priority")]
    pub priority: i32,
    /// Versions of boxgate that it works with.
    #[serde(default)]
    pub requires_boxgate: Option<semver::VersionReq>,
    /// What is said about single hooks.
    #[serde(default)]
    pub hooks: BTreeMap<String, HookTerms>,
    /// Where it sends requests to.
    #[serde(default)]
    pub http: HttpTerms,
    /// Secrets that it reads.
    #[serde(default)]
    pub secrets: Names,
    /// Environment variables that it reads.
    #[serde(default)]
    pub env: Names,
    /// Events that it emits.
    #[serde(default)]
    pub events: Names,
    /// When its `on_schedule` is called.
    #[serde(default)]
    pub schedule: Option<ScheduleTerms>,
    /// That it serves a provider's API.
    #[serde(default)]
    pub provider: Option<ProviderTerms>,
    /// Webhooks that come in for it, by hook.
    #[serde(default)]
    pub webhook_in: BTreeMap<String, InboundTerms>,
    /// What it does to boxes.
    #[serde(default)]
    pub catalog: CatalogTerms,
    /// What it decides beyond what every plugin may.
    #[serde(default)]
    pub grants: GrantTerms,
    /// What its calls may use, where that is less than usual.
    #[serde(default)]
    pub limits: LimitTerms,
    /// Its metrics.
    #[serde(default)]
    pub metrics: BTreeMap<String, metric::Declared>,
    /// Its settings with their defaults.
    #[serde(default)]
    pub settings: BTreeMap<String, serde_json::Value>,
}

/// `[hooks.<name>]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookTerms {
    /// `work` moves a fast hook there.
    pub lane: Option<Lane>,
    /// A shorter deadline; a longer one for a fast hook that was moved.
    pub deadline_ms: Option<u64>,
    /// `closed`, or `open` where the hook allows it.
    pub on_failure: Option<OnFailure>,
}

/// `[http]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpTerms {
    /// Origins with a path prefix.
    #[serde(default)]
    pub allow: Vec<String>,
}

/// `[catalog]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogTerms {
    /// Verbs, each with the boxes that it is for: `release:acme/*`.
    #[serde(default)]
    pub allow: Vec<String>,
}

/// `[grants]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantTerms {
    /// `override`: its `allow()` lets in whom the gateway refuses.
    pub authorize: Option<Authority>,
}

/// What the answers of `authorize` may do beside refusing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Authority {
    /// `allow()` grants what the gateway refuses.
    Override,
}

/// `[provider]`: there is nothing to say of it there; `meta()` does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderTerms {}

/// `[limits]`: each lowers what a call may use in either lane; more than usual changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitTerms {
    /// Steps of the interpreter.
    pub operations: Option<u64>,
    /// Milliseconds of processor time.
    pub cpu_ms: Option<u64>,
    /// Bytes held.
    pub memory_bytes: Option<usize>,
    /// Longest text, in bytes.
    pub text_bytes: Option<usize>,
    /// Most elements of an array.
    pub array: Option<usize>,
    /// Most entries of a map.
    pub map: Option<usize>,
    /// Deepest call.
    pub depth: Option<usize>,
    /// Most variables at once.
    pub variables: Option<usize>,
}

impl LimitTerms {
    fn lower(&self, limits: &mut Limits) {
        fn at_most<T: Ord + Copy>(limit: &mut T, lower: Option<T>) {
            *limit = lower.map_or(*limit, |lower| lower.min(*limit));
        }
        at_most(&mut limits.operations, self.operations);
        at_most(&mut limits.cpu, self.cpu_ms.map(Duration::from_millis));
        at_most(&mut limits.memory_bytes, self.memory_bytes);
        at_most(&mut limits.text_bytes, self.text_bytes);
        at_most(&mut limits.array, self.array);
        at_most(&mut limits.map, self.map);
        at_most(&mut limits.depth, self.depth);
        at_most(&mut limits.variables, self.variables);
    }

    /// The limits that are 0: to the interpreter that means none at all.
    fn zeros(&self) -> Vec<&'static str> {
        let small = |limit: Option<usize>| limit == Some(0);
        [
            ("operations", self.operations == Some(0)),
            ("cpu_ms", self.cpu_ms == Some(0)),
            ("memory_bytes", small(self.memory_bytes)),
            ("text_bytes", small(self.text_bytes)),
            ("array", small(self.array)),
            ("map", small(self.map)),
            ("depth", small(self.depth)),
            ("variables", small(self.variables)),
        ]
        .into_iter()
        .filter_map(|(name, is_zero)| is_zero.then_some(name))
        .collect()
    }
}

/// `[schedule]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleTerms {
    /// Minute, hour, day of month, month, day of week, and perhaps a time zone; else UTC.
    pub cron: String,
}

/// `[secrets]`, `[env]`, `[events]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Names {
    /// Their names.
    #[serde(default)]
    pub names: Vec<String>,
}

/// What an operator grants to one plugin: `scripts.grants.<plugin>`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Origins with a path prefix, as in the manifest.
    #[serde(default)]
    pub http: Vec<String>,
    /// Secrets.
    #[serde(default)]
    pub secrets: Vec<String>,
    /// Environment variables.
    #[serde(default)]
    pub env: Vec<String>,
    /// Events.
    #[serde(default)]
    pub events: Vec<String>,
    /// Verbs with boxes, as in the manifest.
    #[serde(default)]
    pub catalog: Vec<String>,
    /// What its `authorize` may do beside refusing.
    #[serde(default)]
    pub authorize: Option<Authority>,
    /// Hooks for webhooks from anybody: those with `verify = "none"`.
    #[serde(default)]
    pub unverified: Vec<String>,
    /// Times that operations, time and memory are raised by, at most 10.
    #[serde(default)]
    pub raise: Option<u32>,
    /// Times that the length of texts is raised by, at most 4.
    #[serde(default)]
    pub raise_text: Option<u32>,
}

fn first_version() -> String {
    "0.0.0".into()
}

fn api() -> u32 {
    API
}

fn priority() -> i32 {
    100
}

impl Default for Manifest {
    fn default() -> Self {
        toml::from_str("").expect("every key has a default")
    }
}

impl Manifest {
    /// Reads a manifest, and what it must not say.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str, directory: &str) -> Result<Self, Vec<String>> {
        let mut manifest: Self = toml::from_str(text).map_err(|e| vec![e.to_string()])?;
        if manifest.name.is_empty() {
            directory.clone_into(&mut manifest.name);
        }
        let mut wrong = Vec::new();
        for name in manifest.limits.zeros() {
            wrong.push(format!("limits.{name} must be at least 1"));
        }
        if manifest.name != directory {
            wrong.push(format!(
                "name = {:?}, but the plugin stands in {directory:?}; they must be equal",
                manifest.name
            ));
        }
        if manifest.api != API {
            wrong.push(format!("api = {}, this boxgate speaks {API}", manifest.api));
        }
        for (name, terms) in &manifest.hooks {
            match HOOKS.iter().find(|row| row.name == name) {
                None => {
                    let near = nearest(name, HOOKS.iter().map(|row| row.name));
                    let near = near
                        .map(|n| format!("; did you mean {n}?"))
                        .unwrap_or_default();
                    wrong.push(format!("[hooks.{name}] is no hook{near}"));
                }
                Some(row) => wrong.extend(terms.wrong(row)),
            }
        }
        for (name, declared) in &manifest.metrics {
            if !metric_name(name) {
                wrong.push(format!("[metrics] {name}: a name has only a-z, 0-9 and _"));
            }
            for label in declared.labels.iter().filter(|label| !label_name(label)) {
                wrong.push(format!(
                    "[metrics] {name}: the label {label:?} has other than letters, digits and _, or begins with a digit"
                ));
            }
        }
        let own = format!("x.{}.", manifest.name);
        for name in &manifest.events.names {
            let rest = name.strip_prefix(&own).unwrap_or_default();
            if !event_name(rest) {
                wrong.push(format!(
                    "[events] {name:?}: a plugin's own events are {own}NAME, of a-z, 0-9, _ and dots"
                ));
            }
        }
        for pattern in &manifest.catalog.allow {
            if let Some(e) = catalog::wrong(pattern) {
                wrong.push(format!("[catalog] allow: {e}"));
            }
        }
        if let Some(schedule) = &manifest.schedule
            && let Err(e) = Schedule::parse(&schedule.cron)
        {
            wrong.push(format!("[schedule] cron: {e}"));
        }
        wrong.extend(inbound::wrong(&manifest.webhook_in));
        if let Err(e) = crate::http::Reach::parse(&manifest.http.allow) {
            wrong.push(format!("[http] allow: {e}"));
        }
        if wrong.is_empty() {
            Ok(manifest)
        } else {
            Err(wrong)
        }
    }

    /// The lane of a hook.
    pub fn lane(&self, hook: Hook) -> Lane {
        let terms = self.hooks.get(hook.name());
        terms.and_then(|t| t.lane).unwrap_or(hook.row().lane)
    }

    /// The deadline of a hook.
    pub fn deadline(&self, hook: Hook) -> Duration {
        let terms = self.hooks.get(hook.name());
        let wanted = terms.and_then(|t| t.deadline_ms).map(Duration::from_millis);
        wanted.unwrap_or(hook.row().deadline)
    }

    /// What is answered when the hook fails.
    pub fn on_failure(&self, hook: Hook) -> OnFailure {
        let terms = self.hooks.get(hook.name());
        terms
            .and_then(|t| t.on_failure)
            .unwrap_or(hook.row().on_failure)
    }

    /// What the manifest asks for and the grant lacks, each with the line to add.
    pub fn missing(&self, grant: &Grant) -> Vec<String> {
        let mut missing = Vec::new();
        let mut lists = |kind: &str, wanted: &[String], granted: &[String]| {
            if !crate::http::Reach::beyond(wanted, granted).is_empty() {
                missing.push(format!("{kind} = {wanted:?}"));
            }
        };
        lists("http", &self.http.allow, &grant.http);
        lists("secrets", &self.all_secrets(), &grant.secrets);
        lists("env", &self.env.names, &grant.env);
        lists("events", &self.events.names, &grant.events);
        // Each as it is written: whether one pattern lies within another is nobody's guess.
        let asked = &self.catalog.allow;
        if asked.iter().any(|pattern| !grant.catalog.contains(pattern)) {
            missing.push(format!("catalog = {asked:?}"));
        }
        if self.grants.authorize.is_some() && self.grants.authorize != grant.authorize {
            missing.push("authorize = \"override\"".to_owned());
        }
        let open = inbound::unverified(&self.webhook_in);
        if open.iter().any(|hook| !grant.unverified.contains(hook)) {
            missing.push(format!("unverified = {open:?}"));
        }
        missing
    }

    /// Whether its `allow()` grants what the gateway refuses.
    pub fn overrides(&self) -> bool {
        self.grants.authorize == Some(Authority::Override)
    }

    /// The secrets that it reads, and those that its webhooks are compared with.
    pub fn all_secrets(&self) -> Vec<String> {
        let mut all = self.secrets.names.clone();
        for name in inbound::secrets(&self.webhook_in) {
            if !all.contains(name) {
                all.push(name.clone());
            }
        }
        all
    }

    /// The most that a call of a hook may use.
    pub fn limits(&self, lane: Lane, grant: &Grant) -> Limits {
        let mut limits = Limits::of(lane);
        let times = grant.raise.unwrap_or(1).clamp(1, MAX_RAISE);
        limits.operations *= u64::from(times);
        limits.cpu *= times;
        limits.memory_bytes *= times as usize;
        limits.text_bytes *= grant.raise_text.unwrap_or(1).clamp(1, MAX_RAISE_TEXT) as usize;
        self.limits.lower(&mut limits);
        limits
    }
}

fn event_name(rest: &str) -> bool {
    rest.len() <= 64 && rest.split('.').all(metric_name)
}

fn metric_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

fn label_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(plain) && name.starts_with(|c: char| !c.is_ascii_digit())
}

/// Longest deadline of a fast hook that was moved to the work lane: a client waits for it.
const MOVED_DEADLINE: Duration = Duration::from_secs(5);

impl HookTerms {
    fn wrong(&self, row: &Row) -> Vec<String> {
        let mut wrong = Vec::new();
        if row.lane == Lane::Work && self.lane == Some(Lane::Fast) {
            wrong.push(format!(
                "[hooks.{}] lane: a work hook cannot be made fast",
                row.name
            ));
        }
        let moved = row.lane == Lane::Fast && self.lane == Some(Lane::Work);
        let most = if moved { MOVED_DEADLINE } else { row.deadline };
        if self
            .deadline_ms
            .is_some_and(|ms| ms == 0 || Duration::from_millis(ms) > most)
        {
            wrong.push(format!(
                "[hooks.{}] deadline_ms is from 1 to {}",
                row.name,
                most.as_millis()
            ));
        }
        let wanted = self.on_failure;
        let refused = match wanted {
            None | Some(OnFailure::Closed) => false,
            Some(OnFailure::Open) => row.on_failure != OnFailure::Open && !row.may_open,
            Some(other) => other != row.on_failure,
        };
        if refused
            || (row.on_failure == OnFailure::Held && wanted.is_some_and(|w| w != OnFailure::Held))
        {
            wrong.push(format!(
                "[hooks.{}] on_failure: this hook is {}",
                row.name,
                row.on_failure.name()
            ));
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        Manifest::parse(text, "acme").unwrap_err().join("\n")
    }

    #[test]
    fn manifest_of_the_reference_is_read() {
        let text = r#"
            name = "acme"
            version = "1.2.0"
            api = 1
            priority = 10
            requires_boxgate = ">=0.1"
            [hooks.on_upload_start]
            lane = "work"
            deadline_ms = 800
            [http]
            allow = ["https://api.example.net/v2/"]
            [secrets]
            names = ["ACME_TOKEN"]
            [metrics]
            builds = { type = "counter", labels = ["result"] }
            [settings]
            limit = 20
        "#;
        let manifest = Manifest::parse(text, "acme").unwrap();
        assert_eq!(manifest.lane(Hook::OnUploadStart), Lane::Work);
        assert_eq!(
            manifest.deadline(Hook::OnUploadStart),
            Duration::from_millis(800)
        );
        assert_eq!(manifest.lane(Hook::Route), Lane::Fast);
        let missing = manifest.missing(&Grant::default());
        assert_eq!(
            missing,
            [
                r#"http = ["https://api.example.net/v2/"]"#,
                r#"secrets = ["ACME_TOKEN"]"#
            ]
        );
    }

    #[test]
    fn what_a_manifest_must_not_say_is_told_with_its_key() {
        assert!(wrong("name = \"other\"").contains("acme"));
        assert!(wrong("api = 2").contains("speaks 1"));
        assert!(wrong("colour = 1").contains("colour"));
        assert!(wrong("[hooks.on_uplod_start]").contains("did you mean on_upload_start?"));
        assert!(
            wrong("[hooks.on_upload_complete]\nlane = \"fast\"").contains("cannot be made fast")
        );
        assert!(wrong("[hooks.authorize]\non_failure = \"open\"").contains("this hook is closed"));
        assert!(wrong("[hooks.route]\ndeadline_ms = 6").contains("from 1 to 5"));
        assert!(wrong("[events]\nnames = [\"box.uploaded\"]").contains("x.acme.NAME"));
        assert!(wrong("[catalog]\nallow = [\"drop:a/b\"]").contains("no verb"));
        assert!(wrong("[schedule]\ncron = \"61 * * * *\"").contains("[schedule] cron"));
        assert!(wrong("[http]\nallow = [\"ftp://a/\"]").contains("ftp://a/"));
        for label in ["", "1a", "a-b", "a\\\"} 1"] {
            let text =
                format!("[metrics]\nseen = {{ type = \"counter\", labels = [\"{label}\"] }}");
            assert!(wrong(&text).contains("the label"), "{label}");
        }
        let good = "[metrics]\nseen = { type = \"counter\", labels = [\"_a1\", \"Bc\"] }";
        Manifest::parse(good, "acme").unwrap();
        Manifest::parse("[hooks.on_delete]\non_failure = \"open\"", "acme").unwrap();
        Manifest::parse("[hooks.on_download]\non_failure = \"closed\"", "acme").unwrap();
    }

    #[test]
    fn what_the_gateway_refuses_is_overridden_by_manifest_and_grant_alone() {
        let manifest = Manifest::parse("[grants]\nauthorize = \"override\"", "acme").unwrap();
        assert!(manifest.overrides() && !Manifest::default().overrides());
        let mut grant = Grant::default();
        assert_eq!(manifest.missing(&grant), [r#"authorize = "override""#]);
        grant.authorize = Some(Authority::Override);
        assert!(manifest.missing(&grant).is_empty());
        assert!(wrong("[grants]\nauthorize = \"all\"").contains("override"));
    }

    #[test]
    fn a_manifest_lowers_limits_and_raises_none() {
        let text = "[limits]\noperations = 100\ncpu_ms = 2\narray = 999999\ndepth = 3";
        let manifest = Manifest::parse(text, "acme").unwrap();
        let usual = Limits::of(Lane::Fast);
        let lowered = Limits {
            operations: 100,
            cpu: Duration::from_millis(2),
            depth: 3,
            ..usual
        };
        assert_eq!(manifest.limits(Lane::Fast, &Grant::default()), lowered);
        assert!(wrong("[limits]\nmap = 0").contains("limits.map"));
        assert!(wrong("[limits]\nmemory = 5").contains("memory_bytes"));
    }

    #[test]
    fn operators_raise_limits_within_bounds() {
        let grant = Grant {
            raise: Some(1000),
            raise_text: Some(1000),
            ..Grant::default()
        };
        let limits = Manifest::default().limits(Lane::Fast, &grant);
        assert_eq!(limits.operations, 500_000);
        assert_eq!(limits.text_bytes, 256 << 10);
        assert_eq!(limits.array, Limits::of(Lane::Fast).array);
    }
}
