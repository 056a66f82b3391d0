//! Endpoints that are told of events, as an administrator makes and changes them (`/api/admin/webhooks`). How they are
//! tried and what was sent to them is in `log`; how a request that names itself is done once, in `repeat`.

mod log;
mod repeat;

pub use log::{delivery, list_deliveries, recover, redeliver, test};

use std::borrow::Cow;
use std::time::Duration;

use boxgate_storage::clock::UnixMillis;
use boxgate_storage::metadata::webhooks::{Change, Changed, Endpoint, NewEndpoint};
use futures_util::FutureExt as _;
use http::header::{ETAG, IF_MATCH};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Map, Value, json};

use super::boxvault::shape;
use crate::call::Call;
use crate::gateway::Gateway;
use crate::http::response;
use crate::outbound::{Destination, FaultKind};
use crate::refusal::Refusal;
use crate::server::OutboundBody;
use crate::webhook::catalogue;
use crate::webhook::secret::WebhookSecret;
use crate::webhook::spread;
use crate::webhook::terms::{self, Terms, Wish};

type Answer = Result<Response<OutboundBody>, Refusal>;
/// A status and a document, which a repeat of the request gets, too.
type Told = Result<(StatusCode, Value), Refusal>;

/// Endpoints on one page of a listing, and those that are there at first.
const MOST_LISTED: u32 = 200;
const LISTED: u32 = 50;
/// How long the secret before counts beside a new one.
const OVERLAP: Duration = Duration::from_hours(24);
const LONGEST_OVERLAP: Duration = Duration::from_hours(30 * 24);

/// `GET /api/admin/webhooks?cursor&limit`.
pub async fn list(gateway: &Gateway, call: Call) -> Answer {
    let (after, limit) = page(&call, 0)?;
    let found = gateway.metadata.webhooks(after, limit).await?;
    let full = found.len() == limit as usize;
    let next = found
        .last()
        .filter(|_| full)
        .map(|last| last.seq.to_string());
    let now = gateway.clock.now();
    let data: Vec<Value> = found.iter().map(|e| document(gateway, e, now)).collect();
    Ok(response::json(
        StatusCode::OK,
        &json!({ "data": data, "next": next }),
    ))
}

/// Where a listing goes on, and how much is wanted of it.
fn page(call: &Call, first: i64) -> Result<(i64, u32), Refusal> {
    let number = |name: &str| call.query(name).map(|text| text.parse::<i64>()).transpose();
    let cursor = number("cursor")
        .map_err(|_odd| Refusal::invalid("'cursor' must be the 'next' of the page before."))?;
    let limit = match number("limit") {
        Ok(None) => LISTED,
        Ok(Some(limit @ 1..)) => u32::try_from(limit).map_or(MOST_LISTED, |l| l.min(MOST_LISTED)),
        Ok(Some(_)) | Err(_) => {
            let rule = format!("'limit' must be a number from 1 to {MOST_LISTED}.");
            return Err(Refusal::invalid(rule));
        }
    };
    Ok((cursor.unwrap_or(first), limit))
}

/// `GET /api/admin/webhooks/{webhook}`.
pub async fn show(gateway: &Gateway, call: &Call) -> Answer {
    let endpoint = existing(gateway, call).await?;
    Ok(answer(
        StatusCode::OK,
        &endpoint,
        &document(gateway, &endpoint, gateway.clock.now()),
    ))
}

/// `GET /api/admin/webhooks/events`.
pub fn events(gateway: &Gateway) -> Response<OutboundBody> {
    let now = shape::time(gateway.clock.now());
    let rows = catalogue::EVENTS.iter().map(|row| {
        json!({
            "event": row.name, "description": row.doc, "schema": row.schema(),
            "example": { "event": row.name, "data": row.example(&now, "ep_5e1f") },
        })
    });
    let rows: Vec<Value> = rows.collect();
    response::json(StatusCode::OK, &json!({ "data": rows }))
}

/// `POST /api/admin/webhooks?ping=true`.
pub async fn create(gateway: &Gateway, call: Call) -> Answer {
    repeat::once(gateway, call, |gateway, call, asked| {
        create_new(gateway, call, asked).boxed()
    })
    .await
}

async fn create_new(gateway: &Gateway, call: &Call, members: Map<String, Value>) -> Told {
    let wish = Wish::read(members).map_err(wrong)?;
    let secret = match &wish.secret {
        Some(text) => WebhookSecret::parse(text).map_err(|rule| wrong(rule.to_string()))?,
        None => WebhookSecret::random(),
    };
    let (url, mut warnings) = check_url(gateway, wish.url).await?;
    check_transform(gateway, &wish.terms)?;
    if secret.is_weak() {
        warnings.push("weak_secret");
    }
    let new = NewEndpoint {
        id: spread::fresh_endpoint_id(),
        url,
        options: row_of(&wish.terms)?,
        enabled: wish.enabled.unwrap_or(true),
        secret: secret.seal(&gateway.outlet.key),
    };
    let by = call.principal()?.name();
    let made = gateway.metadata.add_webhook(new, by).await?;
    tracing::info!(endpoint = made.id, by, "an endpoint was made");
    gateway.outlet.tell();
    let mut told = document(gateway, &made, gateway.clock.now());
    told["secret"] = json!(secret.expose());
    if !warnings.is_empty() {
        told["warnings"] = json!(warnings);
    }
    if call.query("ping").as_deref() == Some("true") {
        told["ping"] = log::try_once(gateway, &made, catalogue::TEST).await?;
    }
    Ok((StatusCode::CREATED, told))
}

/// `PUT` (all of it) and `PATCH` (what is given) of `/api/admin/webhooks/{webhook}`.
pub async fn update(gateway: &Gateway, mut call: Call) -> Answer {
    let given: Map<String, Value> = call.json(&gateway.settings.limits).await?;
    if given.contains_key("secret") {
        return Err(wrong(
            "'secret' is changed by POST .../rotate-secret, so that both count for a while",
        ));
    }
    let before = existing(gateway, &call).await?;
    let members = if call.head.method == http::Method::PATCH {
        let mut members = chosen(&before);
        for (name, value) in given {
            members.insert(name, value);
        }
        members
    } else {
        given
    };
    let wish = Wish::read(members).map_err(wrong)?;
    let (url, warnings) = check_url(gateway, wish.url).await?;
    check_transform(gateway, &wish.terms)?;
    let change = Change::Edit {
        url,
        options: row_of(&wish.terms)?,
        enabled: wish.enabled,
    };
    // What was merged must still be so when it is written.
    let revisions = if_match(&call)?.or_else(|| Some(vec![before.revision]));
    let endpoint = changed(gateway, &call, revisions, change).await?;
    let mut told = document(gateway, &endpoint, gateway.clock.now());
    if !warnings.is_empty() {
        told["warnings"] = json!(warnings);
    }
    Ok(answer(StatusCode::OK, &endpoint, &told))
}

/// `DELETE /api/admin/webhooks/{webhook}`.
pub async fn remove(gateway: &Gateway, call: &Call) -> Answer {
    let (id, by) = (call.names.value("webhook"), call.principal()?.name());
    let removed = gateway
        .metadata
        .remove_webhook(id, if_match(call)?, by)
        .await?;
    outcome(id, removed)?;
    tracing::info!(endpoint = id, by, "an endpoint was deleted");
    gateway.outlet.tell();
    Ok(response::empty(StatusCode::NO_CONTENT))
}

/// `POST /api/admin/webhooks/{webhook}/enable` and `/disable`.
pub async fn switch(gateway: &Gateway, call: &Call, on: bool) -> Answer {
    let change = if on { Change::Enable } else { Change::Disable };
    let endpoint = changed(gateway, call, if_match(call)?, change).await?;
    let told = document(gateway, &endpoint, gateway.clock.now());
    Ok(answer(StatusCode::OK, &endpoint, &told))
}

/// `POST /api/admin/webhooks/{webhook}/rotate-secret`.
pub async fn rotate(gateway: &Gateway, call: Call) -> Answer {
    repeat::once(gateway, call, |gateway, call, asked| {
        rotate_now(gateway, call, asked).boxed()
    })
    .await
}

async fn rotate_now(gateway: &Gateway, call: &Call, members: Map<String, Value>) -> Told {
    let mut overlap = OVERLAP;
    let mut legacy_previous = true;
    let mut secret = WebhookSecret::random();
    for (name, value) in members {
        match (name.as_str(), &value) {
            (_, Value::Null) => {}
            ("secret", Value::String(text)) => {
                secret = WebhookSecret::parse(text).map_err(|rule| wrong(rule.to_string()))?;
            }
            ("overlap_s", Value::Number(_)) => {
                let seconds = value.as_u64().map(Duration::from_secs);
                let longest = LONGEST_OVERLAP.as_secs();
                overlap = seconds
                    .filter(|overlap| *overlap <= LONGEST_OVERLAP)
                    .ok_or_else(|| wrong(format!("'overlap_s' must be 0 to {longest}")))?;
            }
            ("legacy", Value::String(which)) if which == "previous" => legacy_previous = true,
            ("legacy", Value::String(which)) if which == "current" => legacy_previous = false,
            _ => {
                return Err(wrong(format!(
                    "{name:?}: expected 'secret', 'overlap_s' (a number) and 'legacy' (\"previous\" or \"current\")"
                )));
            }
        }
    }
    let change = Change::Rotate {
        secret: secret.seal(&gateway.outlet.key),
        until: gateway.clock.now().plus(overlap),
        legacy_previous,
    };
    let endpoint = changed(gateway, call, if_match(call)?, change).await?;
    let mut told = document(gateway, &endpoint, gateway.clock.now());
    told["secret"] = json!(secret.expose());
    if secret.is_weak() {
        told["warnings"] = json!(["weak_secret"]);
    }
    Ok((StatusCode::OK, told))
}

/// `POST /api/admin/webhooks/{webhook}/rotate-secret/finish`.
pub async fn finish_rotation(gateway: &Gateway, call: &Call) -> Answer {
    let endpoint = changed(gateway, call, if_match(call)?, Change::FinishRotation).await?;
    let told = document(gateway, &endpoint, gateway.clock.now());
    Ok(answer(StatusCode::OK, &endpoint, &told))
}

async fn changed(
    gateway: &Gateway,
    call: &Call,
    revisions: Option<Vec<i64>>,
    change: Change,
) -> Result<Endpoint, Refusal> {
    let (id, by) = (call.names.value("webhook"), call.principal()?.name());
    let done = gateway
        .metadata
        .change_webhook(id, revisions, change, by)
        .await?;
    let endpoint = outcome(id, done)?;
    gateway.outlet.tell();
    Ok(endpoint)
}

fn outcome(id: &str, done: Changed) -> Result<Endpoint, Refusal> {
    match done {
        Changed::Done(endpoint) => Ok(*endpoint),
        Changed::Missing => Err(Refusal::missing("Webhook", id)),
        Changed::Stale(revision) => Err(Refusal::new(
            StatusCode::PRECONDITION_FAILED,
            format!("The webhook was changed meanwhile; its ETag is \"{revision}\" now. Nothing was changed."),
        )
        .code("PRECONDITION_FAILED")),
        Changed::Overlapping => Err(Refusal::new(
            StatusCode::CONFLICT,
            "The secret is just being replaced: two count until the overlap ends, or until POST .../rotate-secret/finish.",
        )
        .code("CONFLICT")),
    }
}

/// The revisions that `If-Match` lets be changed; `None` is any.
fn if_match(call: &Call) -> Result<Option<Vec<i64>>, Refusal> {
    let Some(value) = call.head.headers.get(IF_MATCH) else {
        return Ok(None);
    };
    let text = value
        .to_str()
        .map_err(|_odd| Refusal::invalid("If-Match is no plain text."))?;
    if text.trim() == "*" {
        return Ok(None);
    }
    let tags = text
        .split(',')
        .map(|tag| tag.trim().trim_matches('"').parse().unwrap_or(-1));
    Ok(Some(tags.collect()))
}

async fn existing(gateway: &Gateway, call: &Call) -> Result<Endpoint, Refusal> {
    let id = call.names.value("webhook");
    let found = gateway.metadata.webhook(id).await?;
    found.ok_or_else(|| Refusal::missing("Webhook", id))
}

/// 422 with the rule that something breaks.
#[expect(clippy::needless_pass_by_value, reason = "fits map_err")]
fn wrong(why: impl ToString) -> Refusal {
    let text = format!("{}.", why.to_string().trim_end_matches('.'));
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, text).code("INVALID_WEBHOOK")
}

/// Whether an endpoint may be there: how its URL is kept, a name of another script in ASCII, and what is odd about it.
async fn check_url(gateway: &Gateway, url: String) -> Result<(String, Vec<&'static str>), Refusal> {
    let to = Destination::parse(&url).map_err(|rule| wrong(format!("'url': {rule}")))?;
    if terms::is_denied(&gateway.settings.webhooks.deny_hosts, &to) {
        return Err(wrong(format!(
            "'url': {} is denied (webhooks.deny_hosts)",
            to.host()
        )));
    }
    let odd = match gateway.outlet.caller.check(&to).await {
        Ok(()) => Vec::new(),
        // It may be known later; each attempt looks again.
        Err(fault) if fault.kind == FaultKind::Resolve => vec!["unresolved_host"],
        Err(fault) => return Err(wrong(format!("'url': {fault}")).code("BLOCKED_DESTINATION")),
    };
    let url = if url.is_ascii() {
        url
    } else {
        to.url().to_string()
    };
    Ok((url, odd))
}

/// Whether the plugin that an endpoint names says what is sent.
fn check_transform(gateway: &Gateway, terms: &Terms) -> Result<(), Refusal> {
    match &terms.transform {
        Some(plugin) if !gateway.scripts.transforms(plugin) => Err(wrong(format!(
            "'transform': no plugin {plugin:?} that defines transform(event, endpoint) is loaded"
        ))),
        _ => Ok(()),
    }
}

fn row_of(terms: &Terms) -> Result<String, Refusal> {
    serde_json::to_string(terms).map_err(|e| wrong(e.to_string()))
}

/// What its owner chose, as a request would say it.
fn chosen(endpoint: &Endpoint) -> Map<String, Value> {
    let mut members = Map::new();
    members.insert("url".to_owned(), json!(endpoint.url));
    if let Ok(Value::Object(terms)) = serde_json::from_str(&endpoint.options) {
        members.extend(terms);
    }
    members
}

/// An endpoint, as answers have it.
fn document(gateway: &Gateway, endpoint: &Endpoint, now: UnixMillis) -> Value {
    let (state, why) = standing(endpoint, gateway.settings.webhooks.queue, now);
    let health = &endpoint.health;
    let previous = endpoint
        .secrets
        .previous
        .as_ref()
        .filter(|(_, until)| *until > now);
    let mut told = Map::new();
    told.insert("id".to_owned(), json!(endpoint.id));
    told.extend(chosen(endpoint));
    let more = json!({
        "enabled": endpoint.enabled, "disabled_reason": endpoint.disabled_reason,
        "state": state, "state_reason": why, "queued": endpoint.queued, "blocked": endpoint.blocked,
        "previous_secret_until": previous.map(|(_, until)| shape::time(*until)),
        "last_success_at": health.last_success.map(shape::time), "last_error": health.last_error,
        "failing_since": health.failing_since.map(shape::time),
        "created_at": shape::time(endpoint.created), "updated_at": shape::time(endpoint.updated),
    });
    shape::with(Value::Object(told), more)
}

/// One word for how an endpoint stands, and why.
pub fn standing(
    endpoint: &Endpoint,
    most: u32,
    now: UnixMillis,
) -> (&'static str, Option<Cow<'_, str>>) {
    let (health, blocked) = (&endpoint.health, endpoint.blocked);
    let last_error = || health.last_error.as_deref().map(Cow::from);
    if !endpoint.enabled {
        let why = endpoint.disabled_reason.as_deref().map(Cow::from);
        ("disabled", why)
    } else if endpoint.queued >= i64::from(most) {
        ("paused", Some("backlog".into()))
    } else if health.paused_until > now {
        ("paused", last_error())
    } else if blocked > 0 {
        let why = format!("{blocked} wait until their plugin says what is sent");
        ("blocked", Some(why.into()))
    } else if health.failed > 0 && endpoint.queued > 0 {
        ("retrying", last_error())
    } else if health.failed > 0 {
        // It did not take the last that it was told, which is not tried any more.
        ("failing", last_error())
    } else {
        ("ok", None)
    }
}

fn answer(status: StatusCode, endpoint: &Endpoint, told: &Value) -> Response<OutboundBody> {
    let mut response = response::json(status, told);
    if let Ok(tag) = HeaderValue::try_from(format!("\"{}\"", endpoint.revision)) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}
