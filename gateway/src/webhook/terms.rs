//! What the owner of an endpoint chose, read from JSON and held to its rules. Nothing here reads the rows or a name.

use std::collections::BTreeMap;
use std::time::Duration;

use boxgate_storage::metadata::webhooks::Order;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::body::Format;
use super::catalogue;
use crate::call::said;
use crate::outbound::Destination;

/// Most names of events.
const MOST_EVENTS: usize = 64;
/// Most header fields, and most bytes of all together.
const MOST_HEADERS: usize = 16;
const MOST_HEADER_BYTES: usize = 4 << 10;
/// Longest description, in bytes.
const MOST_DESCRIPTION: usize = 1_024;
/// Requests at once, requests in a second, milliseconds of one, and steps of a schedule with their longest.
const IN_FLIGHT: std::ops::RangeInclusive<u32> = 1..=256;
const RATE: std::ops::RangeInclusive<u32> = 1..=10_000;
const TIMEOUT_MS: std::ops::RangeInclusive<u64> = 500..=30_000;
const STEPS: std::ops::RangeInclusive<usize> = 1..=20;
const LONGEST_STEP_S: u64 = 7 * 24 * 3600;

/// Members of an answer that a request may bring along, and that change nothing.
const TOLD: [&str; 13] = [
    "id",
    "disabled_reason",
    "state",
    "state_reason",
    "queued",
    "blocked",
    "previous_secret_until",
    "last_success_at",
    "last_error",
    "created_at",
    "updated_at",
    "warnings",
    "failing_since",
];
/// Fields that say how a message travels, or that are ours to write, beside the families below.
const OURS: [&str; 14] = [
    "accept-encoding",
    "connection",
    "cookie2",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];
const OUR_FAMILIES: [&str; 4] = ["content-", "webhook-", "x-boxvault-", "x-boxgate-"];

/// What must not overtake what, as owners say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ordering {
    /// Nothing matters.
    #[default]
    None,
    /// What is about the same box stays in order.
    Key,
    /// Everything stays in order.
    Endpoint,
}

impl From<Ordering> for Order {
    fn from(ordering: Ordering) -> Self {
        match ordering {
            Ordering::None => Self::None,
            Ordering::Key => Self::Subject,
            Ordering::Endpoint => Self::All,
        }
    }
}

/// Which of the events an endpoint wants, by what they are about.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Only about this organization.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub organization: Option<String>,
    /// Only about this box.
    #[serde(rename = "box", skip_serializing_if = "Option::is_none")]
    pub box_name: Option<String>,
}

impl Filter {
    /// Whether an event with that data is wanted; names have no case.
    pub fn lets_through(&self, data: &Value) -> bool {
        let is = |wanted: &Option<String>, member: &str| {
            wanted.as_ref().is_none_or(|wanted| {
                let found = data.get(member).and_then(Value::as_str);
                found.is_some_and(|found| found.eq_ignore_ascii_case(wanted))
            })
        };
        is(&self.organization, "organization") && is(&self.box_name, "box")
    }
}

/// What an owner chose beside the address and the secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Terms {
    /// Names, families and all: `box.uploaded`, `box.*`, `*`.
    pub events: Vec<String>,
    /// For people.
    pub description: String,
    /// More header fields.
    pub headers: BTreeMap<String, String>,
    /// How bodies are laid out.
    pub format: Format,
    /// What must not overtake what.
    pub ordering: Ordering,
    /// Requests at once.
    pub max_in_flight: u32,
    /// Requests in a second.
    pub rate_per_s: u32,
    /// How long one may take.
    pub timeout_ms: u64,
    /// What events must be about.
    pub filter: Filter,
    /// The plugin that says what is sent.
    pub transform: Option<String>,
    /// Seconds before each attempt; those of the settings unless they are given.
    pub delays_s: Option<Vec<u64>>,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            events: Vec::new(),
            description: String::new(),
            headers: BTreeMap::new(),
            format: Format::default(),
            ordering: Ordering::default(),
            max_in_flight: 8,
            rate_per_s: 50,
            timeout_ms: 15_000,
            filter: Filter::default(),
            transform: None,
            delays_s: None,
        }
    }
}

/// A request about an endpoint, read.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Where it is.
    pub url: String,
    /// The secret, where one is given.
    pub secret: Option<String>,
    /// Whether it is to be told anything, where that is said.
    pub enabled: Option<bool>,
    /// The rest.
    pub terms: Terms,
}

impl Wish {
    /// Reads the members of a request; what is null is as if it was left out.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn read(mut members: Map<String, Value>) -> Result<Self, String> {
        members.retain(|name, value| !value.is_null() && !TOLD.contains(&name.as_str()));
        let mut take = |name: &str| members.shift_remove(name);
        let (url, secret, enabled) = (take("url"), take("secret"), take("enabled"));
        let url = text("url", url)?.ok_or("'url' is missing: where the endpoint is, by https")?;
        let enabled = match enabled {
            None => None,
            Some(Value::Bool(enabled)) => Some(enabled),
            Some(_) => return Err("'enabled' must be true or false".to_owned()),
        };
        let secret = text("secret", secret)?;
        let terms: Terms = serde_json::from_value(Value::Object(members.clone()))
            .map_err(|e| why_not(members, &e))?;
        terms.check()?;
        Ok(Self {
            url,
            secret,
            enabled,
            terms,
        })
    }
}

/// What is wrong with the members of a request, and with which.
fn why_not(members: Map<String, Value>, all: &serde_json::Error) -> String {
    for (name, value) in members {
        let alone = Map::from_iter([(name.clone(), value)]);
        if let Err(error) = serde_json::from_value::<Terms>(Value::Object(alone)) {
            let text = said(&error);
            let names_it = text.contains(&format!("`{name}`"));
            return if names_it {
                text
            } else {
                format!("'{name}': {text}")
            };
        }
    }
    said(all)
}

fn text(name: &str, value: Option<Value>) -> Result<Option<String>, String> {
    match value {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("'{name}' must be text")),
    }
}

/// Whether what an operator denies names that host: exactly, or by `*.` and what follows.
pub fn is_denied(denied: &[String], to: &Destination) -> bool {
    let host = to.host();
    denied
        .iter()
        .any(|pattern| match pattern.strip_prefix("*.") {
            Some(parent) => host
                .strip_suffix(parent)
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
            None => pattern == host,
        })
}

impl Terms {
    /// As rows hold it, read.
    ///
    /// # Errors
    /// When it was written by something else.
    pub fn of_row(options: &str) -> serde_json::Result<Self> {
        serde_json::from_str(options)
    }

    fn check(&self) -> Result<(), String> {
        if self.events.is_empty() || self.events.len() > MOST_EVENTS {
            return Err(format!(
                "'events' must name 1 to {MOST_EVENTS} events, such as \"box.uploaded\", \"box.*\" or \"*\""
            ));
        }
        for event in &self.events {
            catalogue::check(event).map_err(|near| {
                let near = near.map_or_else(
                    || "GET /api/admin/webhooks/events lists them".to_owned(),
                    |near| format!("did you mean {near:?}?"),
                );
                format!("there is no event {event:?}; {near}")
            })?;
        }
        if self.description.len() > MOST_DESCRIPTION {
            return Err(format!(
                "'description' must be at most {MOST_DESCRIPTION} bytes"
            ));
        }
        headers(&self.headers)?;
        let within = |name: &str, fits: bool, rule: String| {
            if fits {
                Ok(())
            } else {
                Err(format!("'{name}' must be {rule}"))
            }
        };
        let (low, high) = IN_FLIGHT.into_inner();
        within(
            "max_in_flight",
            IN_FLIGHT.contains(&self.max_in_flight),
            format!("{low} to {high}"),
        )?;
        let (low, high) = RATE.into_inner();
        within(
            "rate_per_s",
            RATE.contains(&self.rate_per_s),
            format!("{low} to {high}"),
        )?;
        let (low, high) = TIMEOUT_MS.into_inner();
        within(
            "timeout_ms",
            TIMEOUT_MS.contains(&self.timeout_ms),
            format!("{low} to {high}"),
        )?;
        if let Some(delays) = &self.delays_s {
            let fits = STEPS.contains(&delays.len()) && delays.iter().all(|d| *d <= LONGEST_STEP_S);
            let rule = format!("1 to 20 numbers of seconds, each at most {LONGEST_STEP_S}");
            within("delays_s", fits, rule)?;
        }
        Ok(())
    }

    /// Whether an event of that name and data is wanted.
    pub fn wants(&self, event: &str, data: &Value) -> bool {
        self.events
            .iter()
            .any(|pattern| catalogue::matches(pattern, event))
            && self.filter.lets_through(data)
    }

    /// The header fields, which were checked when they came.
    pub fn header_map(&self) -> HeaderMap {
        headers(&self.headers).unwrap_or_default()
    }

    /// How long one request may take.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// Pauses before each attempt.
    pub fn delays(&self, usual: &[Duration]) -> Vec<Duration> {
        match &self.delays_s {
            Some(delays) => delays.iter().map(|s| Duration::from_secs(*s)).collect(),
            None => usual.to_vec(),
        }
    }
}

/// Header fields that may be sent along.
///
/// # Errors
/// The rule that one breaks.
pub fn headers(given: &BTreeMap<String, String>) -> Result<HeaderMap, String> {
    if given.len() > MOST_HEADERS {
        return Err(format!("'headers' may hold at most {MOST_HEADERS} fields"));
    }
    let bytes: usize = given
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if bytes > MOST_HEADER_BYTES {
        return Err(format!(
            "'headers' may be at most {MOST_HEADER_BYTES} bytes together"
        ));
    }
    let mut fields = HeaderMap::new();
    for (name, value) in given {
        let lower = name.to_ascii_lowercase();
        let ours = OURS.contains(&lower.as_str())
            || OUR_FAMILIES.iter().any(|family| lower.starts_with(family));
        if ours {
            return Err(format!("the header field {name:?} is not yours to set"));
        }
        let field =
            HeaderName::try_from(lower).map_err(|_odd| format!("{name:?} is no header field"))?;
        let mut value = HeaderValue::try_from(value)
            .map_err(|_odd| format!("the value of {name:?} fits no header field"))?;
        value.set_sensitive(true);
        fields.insert(field, value);
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(members: &Value) -> Result<Wish, String> {
        Wish::read(members.as_object().unwrap().clone())
    }

    #[test]
    fn the_page_of_hooks_names_every_field_that_is_ours() {
        let page = include_str!("../../../docs/HOOKS.md");
        let (_, list) = page.split_once("none that is ours:").unwrap();
        let (list, _) = list.split_once(".\n").unwrap();
        let families = OUR_FAMILIES.map(|family| format!("`{family}...`"));
        let fields = OURS.map(|name| format!("`{name}`"));
        for name in families.iter().chain(&fields) {
            assert!(list.contains(name), "{name}");
        }
    }

    #[test]
    fn what_the_guide_sends_is_read_with_defaults() {
        let wish = read(&json!({
            "url": "https://your-app.com/webhooks/boxvault",
            "events": ["box.uploaded", "box.deleted", "user.created"],
            "secret": "webhook-secret",
        }));
        let wish = wish.unwrap();
        assert_eq!(wish.secret.as_deref(), Some("webhook-secret"));
        let terms = wish.terms;
        assert_eq!(
            (terms.max_in_flight, terms.rate_per_s, terms.timeout_ms),
            (8, 50, 15_000)
        );
        assert_eq!(
            (terms.format, terms.ordering),
            (Format::Compat, Ordering::None)
        );
        assert_eq!(
            Terms::of_row(&serde_json::to_string(&terms).unwrap()).unwrap(),
            terms
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        let with = |name: &str, value: Value| {
            let mut members = json!({"url": "https://a.example/", "events": ["*"]});
            members[name] = value;
            read(&members).map_or_else(|why| why, |_| "taken".to_owned())
        };
        for (name, value, why) in [
            ("events", json!(["box.upload"]), "\"box.uploaded\"?"),
            ("events", json!([]), "1 to 64"),
            (
                "events",
                json!("box.*"),
                "'events': invalid type: text \"box.*\", expected a list",
            ),
            ("evnts", json!([]), "unknown field `evnts`"),
            ("enabled", json!("yes"), "true or false"),
            ("secret", json!(7), "'secret' must be text"),
            ("format", json!("xml"), "compat"),
            ("ordering", json!("box"), "endpoint"),
            ("max_in_flight", json!(0), "1 to 256"),
            ("rate_per_s", json!(100_000), "1 to 10000"),
            ("timeout_ms", json!(1), "500 to 30000"),
            ("delays_s", json!([]), "1 to 20 numbers"),
            ("filter", json!({"org": "a"}), "unknown field `org`"),
            ("headers", json!({"Host": "x"}), "not yours"),
            ("headers", json!({"content-type": "x"}), "not yours"),
            ("headers", json!({"Webhook-Id": "x"}), "not yours"),
            ("headers", json!({"x y": "x"}), "no header field"),
            ("headers", json!({"x-a": "a\nb"}), "fits no header field"),
            ("headers", json!({"x-a": "a".repeat(5_000)}), "4096 bytes"),
            ("description", json!(null), "taken"),
            ("created_at", json!("2026"), "taken"),
            ("headers", json!({"Authorization": "Bearer x"}), "taken"),
        ] {
            let said = with(name, value.clone());
            assert!(said.contains(why), "{name} {value}: {said}");
        }
        assert!(
            read(&json!({"events": ["*"]}))
                .unwrap_err()
                .contains("'url' is missing")
        );
    }

    #[test]
    fn events_are_wanted_by_name_and_by_what_they_are_about() {
        let terms = Terms {
            events: vec!["box.*".to_owned()],
            filter: Filter {
                organization: Some("Acme".to_owned()),
                box_name: None,
            },
            ..Terms::default()
        };
        assert!(terms.wants(
            "box.deleted",
            &json!({"organization": "acme", "box": "web"})
        ));
        assert!(!terms.wants("box.deleted", &json!({"organization": "other"})));
        assert!(!terms.wants("user.created", &json!({"organization": "acme"})));
    }

    #[test]
    fn hosts_are_denied_by_name_or_by_family() {
        let denied = ["hooks.example".to_owned(), "*.internal".to_owned()];
        let is = |url: &str| is_denied(&denied, &Destination::parse(url).unwrap());
        assert!(
            is("https://hooks.example/x")
                && is("https://a.b.internal/")
                && is("https://HOOKS.example/")
        );
        assert!(!is("https://x.hooks.example/") && !is("https://notinternal.example/"));
    }
}
