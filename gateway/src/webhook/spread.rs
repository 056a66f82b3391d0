//! From events to what endpoints are sent. Each event is spread once, in the transaction that moves the place up to which
//! events were told.

use std::collections::BTreeMap;
use std::sync::Arc;

use boxgate_scripting::verdict::{Directed, EventVerdict, TransformVerdict};
use boxgate_scripting::{Scripts, facts};
use boxgate_storage::Result;
use boxgate_storage::clock::UnixMillis;
use boxgate_storage::metadata::Metadata;
use boxgate_storage::metadata::outbox::Event;
use boxgate_storage::metadata::webhooks::{Blocked, Endpoint, Letter, Spread, Unblocked};
use serde_json::{Value, json};

use super::body::{self, Format};
use super::catalogue;
use super::terms::{self, Terms};
use crate::gateway::Gateway;
use crate::outbound::Destination;
use crate::telemetry::trace::Trace;

/// Endpoints read at once.
const PAGE: u32 = 500;

/// An endpoint, as far as events are concerned.
#[derive(Debug, Clone)]
pub struct Subscriber {
    pub(super) id: String,
    after_event: i64,
    host: String,
    pub(super) terms: Terms,
}

impl Subscriber {
    /// Whether a plugin says what it is sent.
    pub fn is_asked_about(&self) -> bool {
        self.terms.transform.is_some()
    }

    /// As scripts are told of it.
    pub(super) fn facts(&self) -> Arc<facts::Endpoint> {
        let format = match self.terms.format {
            Format::Compat => "compat",
            Format::Standard => "standard",
        };
        Arc::new(facts::Endpoint {
            id: self.id.as_str().into(),
            description: self.terms.description.as_str().into(),
            url_host: self.host.as_str().into(),
            events: self
                .terms
                .events
                .iter()
                .map(|e| e.as_str().into())
                .collect(),
            format: format.into(),
        })
    }
}

/// All endpoints that may be told something: those that were disabled for not answering, too.
///
/// # Errors
/// When the rows do not answer.
pub async fn subscribers(metadata: &Metadata) -> Result<Vec<Subscriber>> {
    let mut found = Vec::new();
    let mut after = 0;
    loop {
        let page = metadata.webhooks(after, PAGE).await?;
        let Some(last) = page.last() else {
            return Ok(found);
        };
        after = last.seq;
        found.extend(page.iter().filter_map(subscriber));
    }
}

fn subscriber(endpoint: &Endpoint) -> Option<Subscriber> {
    match Terms::of_row(&endpoint.options) {
        Ok(terms) => Some(Subscriber {
            id: endpoint.id.clone(),
            after_event: endpoint.after_event,
            host: Destination::parse(&endpoint.url)
                .map(|to| to.host().to_owned())
                .unwrap_or_default(),
            terms,
        }),
        Err(error) => {
            tracing::error!(endpoint = endpoint.id, %error, "what an endpoint wants cannot be read");
            None
        }
    }
}

/// What events come to, one after the other.
#[derive(Debug)]
pub struct Spreading<'s> {
    scripts: &'s Scripts,
    subscribers: &'s [Subscriber],
    spread: Spread,
}

/// One event, as what comes of it is worked out.
struct Telling<'e> {
    event: &'e Event,
    data: Value,
    message: String,
    subject: String,
    /// Where the bodies are that no script changed.
    plain: [Option<usize>; 2],
}

impl<'e> Telling<'e> {
    fn of(event: &'e Event, told: &Value, data: Value) -> Self {
        Self {
            event,
            message: message_id(event),
            subject: subject(&event.name, told),
            data,
            plain: [None; 2],
        }
    }
}

impl<'s> Spreading<'s> {
    /// Nothing yet, for these.
    pub fn new(scripts: &'s Scripts, subscribers: &'s [Subscriber]) -> Self {
        Self {
            scripts,
            subscribers,
            spread: Spread::default(),
        }
    }

    /// How many deliveries there are.
    pub fn letters(&self) -> usize {
        self.spread.letters.len()
    }

    /// The number of the last event; 0 before the first.
    pub fn up_to(&self) -> i64 {
        self.spread.up_to
    }

    /// What there is.
    pub fn into_spread(self) -> Spread {
        self.spread
    }

    /// Adds an event, of which plugins said `verdict`.
    pub async fn add(&mut self, event: &Event, verdict: EventVerdict) {
        self.spread.up_to = event.seq;
        let subscribers = self.subscribers;
        if subscribers.is_empty() {
            return;
        }
        let told: Value = serde_json::from_str(&event.data).unwrap_or_default();
        let data = verdict
            .data
            .map_or_else(|| told.clone(), |own| with_common(own, &told));
        let mut telling = Telling::of(event, &told, data);
        let wanted = subscribers
            .iter()
            .filter(|one| one.after_event < event.seq && is_for(one, &event.name, &told));
        for subscriber in wanted.filter(|_| !verdict.drop) {
            self.tell(&mut telling, subscriber).await;
        }
        self.direct(&mut telling, &told, verdict.deliver);
    }

    /// Adds what a plugin sends to single endpoints of an event, and nothing else of it.
    pub fn add_directed(&mut self, event: &Event, deliver: Vec<Directed>) {
        self.spread.up_to = event.seq;
        let told: Value = serde_json::from_str(&event.data).unwrap_or_default();
        let mut telling = Telling::of(event, &told, told.clone());
        self.direct(&mut telling, &told, deliver);
    }

    fn direct(&mut self, telling: &mut Telling<'_>, told: &Value, deliver: Vec<Directed>) {
        let (subscribers, event) = (self.subscribers, telling.event);
        for directed in deliver {
            let Some(subscriber) = subscribers.iter().find(|one| one.id == directed.endpoint)
            else {
                tracing::warn!(
                    endpoint = directed.endpoint,
                    event = event.name,
                    "a plugin delivers to an endpoint that there is not"
                );
                continue;
            };
            let data = with_common(directed.data, told);
            // It is another message than that of the event, and than any other of it to the same endpoint.
            telling.message = message_id_of(event, &format!("{} {data}", subscriber.id));
            let body = body::render(subscriber.terms.format, &event.name, event.occurred, data);
            let body = self.keep(body);
            self.post(telling, subscriber, body, (None, None));
        }
    }

    async fn tell(&mut self, telling: &mut Telling<'_>, subscriber: &Subscriber) {
        let changed = transformed(self.scripts, telling, subscriber).await;
        match changed {
            Ok(TransformVerdict::Drop) => {}
            Ok(TransformVerdict::Send { data, headers }) => {
                let body = match data {
                    Some(data) => {
                        let event = telling.event;
                        let data = with_common(data, &telling.data);
                        let text = body::render(
                            subscriber.terms.format,
                            &event.name,
                            event.occurred,
                            data,
                        );
                        self.keep(text)
                    }
                    None => self.plain(telling, subscriber.terms.format),
                };
                let headers = (!headers.is_empty()).then(|| json!(headers).to_string());
                self.post(telling, subscriber, body, (headers, None));
            }
            Err(why) => {
                tracing::error!(
                    endpoint = subscriber.id,
                    event = telling.event.name,
                    why,
                    "a delivery is blocked"
                );
                let body = self.plain(telling, subscriber.terms.format);
                self.post(telling, subscriber, body, (None, Some(why)));
            }
        }
    }

    /// The body that no script changed, once for all.
    fn plain(&mut self, telling: &mut Telling<'_>, format: Format) -> usize {
        let place = usize::from(format == Format::Standard);
        if let Some(body) = telling.plain[place] {
            return body;
        }
        let event = telling.event;
        let body = body::render(format, &event.name, event.occurred, telling.data.clone());
        *telling.plain[place].insert(self.keep(body))
    }

    fn keep(&mut self, body: String) -> usize {
        self.spread.bodies.push(body);
        self.spread.bodies.len() - 1
    }

    fn post(
        &mut self,
        telling: &Telling<'_>,
        subscriber: &Subscriber,
        body: usize,
        (headers, blocked): (Option<String>, Option<String>),
    ) {
        let headers = told_of_trace(headers, telling.event.trace.as_deref());
        self.spread.letters.push(Letter {
            endpoint: subscriber.id.clone(),
            message: telling.message.clone(),
            event: telling.event.name.clone(),
            subject: telling.subject.clone(),
            body,
            headers,
            blocked,
            occurred: telling.event.occurred,
        });
    }
}

/// Fields of a delivery with the trace that its event belongs to, where they do not say one and there is room for it.
fn told_of_trace(headers: Option<String>, trace: Option<&str>) -> Option<String> {
    let Some(trace) = trace.and_then(Trace::parse) else {
        return headers;
    };
    let given = headers.as_deref().unwrap_or("{}");
    let Ok(mut fields) = serde_json::from_str::<BTreeMap<String, String>>(given) else {
        return headers;
    };
    if fields
        .keys()
        .any(|name| name.eq_ignore_ascii_case("traceparent"))
    {
        return headers;
    }
    let told = trace.fields().filter_map(|(name, value)| {
        Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
    });
    fields.extend(told);
    if terms::headers(&fields).is_err() {
        return headers;
    }
    Some(json!(fields).to_string())
}

/// What the plugin of an endpoint says of an event; `Err` is why the delivery waits.
async fn transformed(
    scripts: &Scripts,
    telling: &Telling<'_>,
    subscriber: &Subscriber,
) -> std::result::Result<TransformVerdict, String> {
    let Some(plugin) = &subscriber.terms.transform else {
        return Ok(TransformVerdict::Send {
            data: None,
            headers: BTreeMap::new(),
        });
    };
    let told = Arc::new(facts_of(telling.event, telling.data.clone()));
    transform(scripts, plugin, &told, &subscriber.facts()).await
}

/// Has a plugin say what an endpoint is sent; `Err` is why that is not known.
async fn transform(
    scripts: &Scripts,
    plugin: &str,
    told: &Arc<facts::Event>,
    endpoint: &Arc<facts::Endpoint>,
) -> std::result::Result<TransformVerdict, String> {
    if !scripts.transforms(plugin) {
        return Err(format!("no plugin {plugin} with transform is loaded"));
    }
    let decision = scripts.transform(plugin, told, endpoint).await;
    let verdict = decision.map_err(|e| e.to_string())?.verdict;
    if let TransformVerdict::Send { headers, .. } = &verdict {
        terms::headers(headers).map_err(|why| format!("transform of plugin {plugin}: {why}"))?;
    }
    Ok(verdict)
}

/// An event as plugins are told.
pub fn facts_of(event: &Event, data: Value) -> facts::Event {
    facts::Event {
        name: event.name.as_str().into(),
        data,
        id: event.id.as_str().into(),
        time_ms: event.occurred.0,
        depth: event.depth,
        causes: event
            .causes
            .iter()
            .map(|cause| cause.as_str().into())
            .collect(),
    }
}

/// Data that a script made, with what every event has.
fn with_common(mut data: Value, told: &Value) -> Value {
    if let Value::Object(members) = &mut data {
        for name in ["occurred_at", "actor"] {
            if let Some(value) = told.get(name)
                && !members.contains_key(name)
            {
                members.insert(name.to_owned(), value.clone());
            }
        }
    }
    data
}

fn is_for(subscriber: &Subscriber, event: &str, data: &Value) -> bool {
    // Nobody is told of its own end.
    let own = event == "webhook.disabled" && data["endpoint_id"] == subscriber.id.as_str();
    !own && event != catalogue::TEST && subscriber.terms.wants(event, data)
}

/// What an event is about: what is about the same stays in order where an endpoint wants that.
fn subject(event: &str, data: &Value) -> String {
    let text = |member: &str| data.get(member).and_then(Value::as_str);
    match (text("organization"), text("box"), text("username")) {
        (Some(organization), Some(name), _) => format!("{organization}/{name}").to_lowercase(),
        (_, _, Some(user)) => format!("user {user}").to_lowercase(),
        _ => event.to_owned(),
    }
}

/// The id of an event as receivers see it: `msg_` and a ULID of when it happened.
fn message_id(event: &Event) -> String {
    let bits = hex::decode(&event.id).unwrap_or_default();
    ulid(event.occurred, first(&bits))
}

/// The id of what a plugin tells one endpoint beside an event.
fn message_id_of(event: &Event, what: &str) -> String {
    let bits = blake3::hash(format!("{} {what}", event.id).as_bytes());
    ulid(event.occurred, first(bits.as_bytes()))
}

fn first(bits: &[u8]) -> [u8; 10] {
    let mut first = [0; 10];
    for (to, from) in first.iter_mut().zip(bits) {
        *to = *from;
    }
    first
}

/// An id for a message that is no event's.
pub fn fresh_message_id(now: UnixMillis) -> String {
    let mut random = [0; 10];
    getrandom::fill(&mut random).expect("the operating system gives random bytes");
    ulid(now, random)
}

/// 48 bits of milliseconds and 80 random ones, in Crockford's base 32.
fn ulid(at: UnixMillis, random: [u8; 10]) -> String {
    const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let millis = u128::try_from(at.0).unwrap_or(0) & ((1 << 48) - 1);
    let mut bits = random
        .iter()
        .fold(millis, |bits, byte| bits << 8 | u128::from(*byte));
    let mut text = [0; 26];
    for digit in text.iter_mut().rev() {
        *digit = DIGITS[(bits & 31) as usize];
        bits >>= 5;
    }
    format!("msg_{}", String::from_utf8_lossy(&text))
}

/// A fresh id of an endpoint.
pub fn fresh_endpoint_id() -> String {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).expect("the operating system gives random bytes");
    format!("ep_{}", hex::encode(bits))
}

/// Keeps what some events come to, and tells those who send it.
///
/// # Errors
/// When the rows do not answer.
pub async fn keep(gateway: &Gateway, place: &str, spread: Spread) -> Result<()> {
    let any = !spread.letters.is_empty();
    let most = gateway.settings.webhooks.queue;
    let skipped = gateway.metadata.spread_events(place, spread, most).await?;
    if let Some(skipped) = skipped.filter(|skipped| *skipped > 0) {
        gateway.outlet.count_skipped(skipped);
        tracing::warn!(
            skipped,
            "deliveries are skipped: an endpoint is disabled, or too much waits for it"
        );
    }
    if any {
        gateway.outlet.tell();
    }
    Ok(())
}

/// What the plugin of an endpoint says by now of a delivery that it did not say anything of; as the event told it where
/// no plugin is asked any more.
///
/// # Errors
/// Why that is not known.
pub async fn ask_about(
    gateway: &Gateway,
    endpoint: &Endpoint,
    one: &Blocked,
) -> std::result::Result<Unblocked, String> {
    let subscriber = subscriber(endpoint).ok_or("what its endpoint wants cannot be read")?;
    let Some(plugin) = &subscriber.terms.transform else {
        return Ok(Unblocked::Send {
            body: None,
            headers: None,
        });
    };
    let facts = subscriber.facts();
    told_again(&gateway.scripts, plugin, &facts, &subscriber, one).await
}

/// What a plugin says by now of a delivery of an endpoint; `Err` is why that is not known.
pub(super) async fn told_again(
    scripts: &Scripts,
    plugin: &str,
    endpoint: &Arc<facts::Endpoint>,
    subscriber: &Subscriber,
    one: &Blocked,
) -> std::result::Result<Unblocked, String> {
    let body: Value = serde_json::from_str(&one.body).map_err(|e| e.to_string())?;
    let data = body["data"].clone();
    let told = facts::Event {
        name: one.event.as_str().into(),
        data: data.clone(),
        id: one.message.as_str().into(),
        time_ms: one.occurred.0,
        ..facts::Event::default()
    };
    match transform(scripts, plugin, &Arc::new(told), endpoint).await? {
        TransformVerdict::Drop => Ok(Unblocked::Drop),
        TransformVerdict::Send { data: own, headers } => {
            let own = own.map(|own| with_common(own, &data));
            Ok(Unblocked::Send {
                body: own.map(|own| {
                    body::render(subscriber.terms.format, &one.event, one.occurred, own)
                }),
                headers: (!headers.is_empty()).then(|| json!(headers).to_string()),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use boxgate_scripting::verdict::Directed;

    use super::*;
    use crate::config::{self, Flags, Machine};
    use crate::hooks;

    fn event(seq: i64, name: &str, data: &Value) -> Event {
        Event {
            seq,
            id: "000102030405060708090a0b0c0d0e0f".to_owned(),
            name: name.to_owned(),
            data: data.to_string(),
            occurred: UnixMillis(1_469_918_176_385),
            depth: 0,
            causes: Vec::new(),
            trace: None,
        }
    }

    fn wants(id: &str, events: &[&str], format: Format) -> Subscriber {
        Subscriber {
            id: id.to_owned(),
            after_event: 3,
            host: "hooks.example".to_owned(),
            terms: Terms {
                events: events.iter().map(|&e| e.to_owned()).collect(),
                format,
                ..Terms::default()
            },
        }
    }

    /// No plugins at all.
    fn scripts(directory: &std::path::Path) -> Scripts {
        let (settings, _) = config::load_from(&Flags::default(), [], Machine::probe()).unwrap();
        let mut options = hooks::options(&settings);
        (options.dirs, options.last_good) = (Vec::new(), directory.join("last-good"));
        Scripts::open(options).unwrap()
    }

    async fn spread(subscribers: &[Subscriber], events: &[(Event, EventVerdict)]) -> Spread {
        let directory = tempfile::tempdir().unwrap();
        let scripts = scripts(directory.path());
        let mut spreading = Spreading::new(&scripts, subscribers);
        for (event, verdict) in events {
            spreading.add(event, verdict.clone()).await;
        }
        spreading.into_spread()
    }

    fn told(spread: &Spread) -> Vec<(&str, &str, usize)> {
        let letters = spread.letters.iter();
        letters
            .map(|l| (l.endpoint.as_str(), l.subject.as_str(), l.body))
            .collect()
    }

    #[tokio::test]
    async fn each_gets_what_it_wants_and_one_body_serves_many() {
        let all = [
            wants("ep_1", &["box.*"], Format::Compat),
            wants("ep_2", &["*"], Format::Compat),
            wants("ep_3", &["*"], Format::Standard),
        ];
        let events = [
            event(
                3,
                "box.deleted",
                &json!({"organization": "too", "box": "early"}),
            ),
            event(
                4,
                "box.deleted",
                &json!({"organization": "Acme", "box": "Web"}),
            ),
            event(7, "user.created", &json!({"username": "ann"})),
            event(8, "webhook.disabled", &json!({"endpoint_id": "ep_2"})),
        ];
        let events = events.map(|event| (event, EventVerdict::default()));
        let spread = spread(&all, &events).await;
        assert_eq!(
            told(&spread),
            [
                ("ep_1", "acme/web", 0),
                ("ep_2", "acme/web", 0),
                ("ep_3", "acme/web", 1),
                ("ep_2", "user ann", 2),
                ("ep_3", "user ann", 3),
                ("ep_3", "webhook.disabled", 4),
            ]
        );
        assert_eq!((spread.up_to, spread.bodies.len()), (8, 5));
    }

    #[tokio::test]
    async fn plugins_drop_change_and_direct_what_is_told() {
        let all = [
            wants("ep_1", &["box.*"], Format::Compat),
            wants("ep_2", &["user.*"], Format::Compat),
        ];
        let dropped = EventVerdict {
            drop: true,
            ..EventVerdict::default()
        };
        let changed = EventVerdict {
            data: Some(json!({"short": 1})),
            ..EventVerdict::default()
        };
        let directed = |endpoint: &str| Directed {
            endpoint: endpoint.to_owned(),
            data: json!({"for": endpoint}),
        };
        let more = EventVerdict {
            deliver: vec![
                directed("ep_2"),
                directed("ep_nobody"),
                Directed {
                    data: json!({"second": true}),
                    ..directed("ep_2")
                },
            ],
            ..EventVerdict::default()
        };
        let about =
            || json!({"organization": "a", "box": "b", "occurred_at": "then", "actor": null});
        let events =
            [dropped, changed, more].map(|verdict| (event(4, "box.deleted", &about()), verdict));
        let spread = spread(&all, &events).await;
        assert_eq!(
            told(&spread),
            [
                ("ep_1", "a/b", 0),
                ("ep_1", "a/b", 1),
                ("ep_2", "a/b", 2),
                ("ep_2", "a/b", 3)
            ]
        );
        let data = json!({"short": 1, "occurred_at": "then", "actor": null});
        assert_eq!(
            spread.bodies[0],
            json!({"event": "box.deleted", "data": data}).to_string()
        );
        assert!(
            spread.bodies[2].contains(r#""for":"ep_2""#),
            "{}",
            spread.bodies[2]
        );
        let messages: BTreeSet<_> = spread.letters[1..].iter().map(|l| &l.message).collect();
        assert_eq!(messages.len(), 3, "{messages:?}");
    }

    #[tokio::test]
    async fn what_a_plugin_that_is_not_there_would_send_is_blocked() {
        let mut one = wants("ep_1", &["*"], Format::Compat);
        one.terms.transform = Some("gone".to_owned());
        let events = [(
            event(4, "user.created", &json!({"username": "ann"})),
            EventVerdict::default(),
        )];
        let spread = spread(&[one], &events).await;
        let blocked = spread.letters[0].blocked.as_deref();
        assert_eq!(blocked, Some("no plugin gone with transform is loaded"));
    }

    #[test]
    fn the_id_of_a_message_is_a_ulid_of_its_event() {
        let id = message_id(&event(1, "box.deleted", &json!({})));
        assert_eq!(id.len(), 30);
        assert!(id.starts_with("msg_01ARYZ6S41"), "{id}");
        assert_eq!(id, message_id(&event(2, "box.deleted", &json!({}))));
    }
}
