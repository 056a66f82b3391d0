//! What was sent to endpoints, sending it once more, and trying one.

use boxgate_storage::clock::UnixMillis;
use boxgate_storage::metadata::webhooks::{
    Attempt, Delivery, DeliveryQuery, DeliveryState, Endpoint, Outcome, Recovery, Resend, Settled,
    Unblocked,
};
use futures_util::FutureExt as _;
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{Answer, Told, existing, page, repeat, wrong};
use crate::call::Call;
use crate::door::boxvault::shape;
use crate::gateway::Gateway;
use crate::http::response;
use crate::outbound::Destination;
use crate::refusal::Refusal;
use crate::webhook::attempt::{self, Message, Report};
use crate::webhook::secret::Signer;
use crate::webhook::terms::{self, Terms};
use crate::webhook::{body, catalogue, spread};

/// `GET /api/admin/webhooks/{webhook}/deliveries?status&event&since&until&cursor&limit`; of a deleted endpoint, too.
pub async fn list_deliveries(gateway: &Gateway, call: Call) -> Answer {
    let (before, limit) = page(&call, i64::MAX)?;
    let query = DeliveryQuery {
        endpoint: call.names.value("webhook").to_owned(),
        state: state(call.query("status").as_deref())?,
        event: call.query("event"),
        since: moment("since", call.query("since").as_deref())?,
        until: moment("until", call.query("until").as_deref())?,
        before: Some(before),
    };
    let found = gateway.metadata.deliveries(&query, limit).await?;
    if found.is_empty() && before == i64::MAX {
        // An endpoint that never was is told apart from one without deliveries.
        let whole = DeliveryQuery {
            endpoint: query.endpoint.clone(),
            ..DeliveryQuery::default()
        };
        if gateway.metadata.deliveries(&whole, 1).await?.is_empty() {
            existing(gateway, &call).await?;
        }
    }
    let full = found.len() == limit as usize;
    let next = found
        .last()
        .filter(|_| full)
        .map(|last| last.seq.to_string());
    let data: Vec<Value> = found.iter().map(document).collect();
    Ok(response::json(
        StatusCode::OK,
        &json!({ "data": data, "next": next }),
    ))
}

/// `GET /api/admin/webhooks/deliveries/{delivery}`.
pub async fn delivery(gateway: &Gateway, call: &Call) -> Answer {
    let id = call.names.value("delivery");
    let found = gateway.metadata.delivery(id).await?;
    let found = found.ok_or_else(|| Refusal::missing("Delivery", id))?;
    Ok(response::json(StatusCode::OK, &document(&found)))
}

/// `POST /api/admin/webhooks/deliveries/{delivery}/redeliver`: `{raw?}`; what a plugin did not say anything of goes as it
/// says by now, or as it is if that is said.
pub async fn redeliver(gateway: &Gateway, call: Call) -> Answer {
    repeat::once(gateway, call, |gateway, call, asked| {
        redeliver_now(gateway, call, asked).boxed()
    })
    .await
}

async fn redeliver_now(gateway: &Gateway, call: &Call, asked: Map<String, Value>) -> Told {
    let [raw] = only(&asked, ["raw"])?;
    let what = match raw {
        Some(Value::Bool(true)) => Resend::Raw,
        None | Some(Value::Bool(false)) => Resend::AsSent,
        Some(_) => return Err(wrong("'raw' must be true or false")),
    };
    let (id, by) = (call.names.value("delivery"), call.principal()?.name());
    let mut done = gateway.metadata.redeliver(id, what, by).await?;
    if done == Recovery::Blocked {
        let said = said_by_now(gateway, id).await?;
        done = gateway.metadata.redeliver(id, said, by).await?;
    }
    let gone = |text: String| Err(Refusal::new(StatusCode::GONE, text).code("GONE"));
    match done {
        Recovery::Queued(_) => {}
        // Somebody else sent it meanwhile, and it was blocked once more.
        Recovery::Blocked => return Err(blocked(id, "it is just being asked about")),
        Recovery::Missing => return Err(Refusal::missing("Delivery", id)),
        Recovery::EndpointGone => {
            return gone(format!("The endpoint of delivery '{id}' was deleted."));
        }
        Recovery::BodyGone => {
            return gone(format!(
                "What delivery '{id}' sent is not kept any more (webhooks.bodies_kept)."
            ));
        }
    }
    gateway.outlet.tell();
    Ok((
        StatusCode::ACCEPTED,
        json!({ "delivery_id": id, "queued": 1 }),
    ))
}

/// What the plugin of a delivery says of it now.
async fn said_by_now(gateway: &Gateway, id: &str) -> Result<Resend, Refusal> {
    // What is no such delivery any more was sent, or forgotten: then it goes as it was sent.
    let Some((endpoint, one)) = gateway.metadata.raw_delivery(id).await? else {
        return Ok(Resend::AsSent);
    };
    let Some(endpoint) = gateway.metadata.webhook(&endpoint).await? else {
        return Ok(Resend::AsSent);
    };
    match spread::ask_about(gateway, &endpoint, &one).await {
        Ok(Unblocked::Send { body, headers }) => Ok(Resend::Said { body, headers }),
        Ok(Unblocked::Drop) => Err(blocked(id, "its plugin does not send it")),
        Err(why) => Err(blocked(id, &why)),
    }
}

fn blocked(id: &str, why: &str) -> Refusal {
    let text = format!(
        "What delivery '{id}' would send is not known: {why}. {{\"raw\": true}} sends it as if there was no plugin."
    );
    Refusal::new(StatusCode::CONFLICT, text).code("BLOCKED")
}

/// The members of a request that are given; it must hold no others.
fn only<'r, const N: usize>(
    asked: &'r Map<String, Value>,
    names: [&str; N],
) -> Result<[Option<&'r Value>; N], Refusal> {
    if let Some(name) = asked.keys().find(|name| !names.contains(&name.as_str())) {
        let known = names.map(|name| format!("'{name}'")).join(", ");
        return Err(wrong(format!("unknown field {name:?}; expected {known}")));
    }
    Ok(names.map(|name| asked.get(name).filter(|value| !value.is_null())))
}

/// `POST /api/admin/webhooks/{webhook}/recover`: `{since, until?, status?}`.
pub async fn recover(gateway: &Gateway, call: Call) -> Answer {
    repeat::once(gateway, call, |gateway, call, asked| {
        recover_now(gateway, call, asked).boxed()
    })
    .await
}

async fn recover_now(gateway: &Gateway, call: &Call, asked: Map<String, Value>) -> Told {
    let [since, until, status] = only(&asked, ["since", "until", "status"])?;
    let since = moment("since", text("since", since)?)?
        .ok_or_else(|| wrong("'since' is missing: from when on"))?;
    let until = moment("until", text("until", until)?)?.unwrap_or(UnixMillis(i64::MAX));
    let state = state(text("status", status)?)?.unwrap_or(DeliveryState::Failed);
    if !matches!(
        state,
        DeliveryState::Failed | DeliveryState::Skipped | DeliveryState::Delivered
    ) {
        return Err(wrong("'status' must be failed, skipped or delivered"));
    }
    let (id, by) = (call.names.value("webhook"), call.principal()?.name());
    let recovered = gateway
        .metadata
        .recover_deliveries(id, state, (since, until), by)
        .await?;
    let Recovery::Queued(queued) = recovered else {
        return Err(Refusal::missing("Webhook", id));
    };
    gateway.outlet.ask();
    Ok((StatusCode::ACCEPTED, json!({ "queued": queued })))
}

/// `POST /api/admin/webhooks/{webhook}/test`: `{event?}`; sent now, once, and counted against nobody.
pub async fn test(gateway: &Gateway, call: Call) -> Answer {
    repeat::once(gateway, call, |gateway, call, asked| {
        test_now(gateway, call, asked).boxed()
    })
    .await
}

async fn test_now(gateway: &Gateway, call: &Call, asked: Map<String, Value>) -> Told {
    let [event] = only(&asked, ["event"])?;
    let event = text("event", event)?.unwrap_or(catalogue::TEST);
    let endpoint = existing(gateway, call).await?;
    Ok((StatusCode::OK, try_once(gateway, &endpoint, event).await?))
}

/// Sends an example to an endpoint and waits for what comes of it.
pub(super) async fn try_once(
    gateway: &Gateway,
    endpoint: &Endpoint,
    event: &str,
) -> Result<Value, Refusal> {
    let row = catalogue::row(event).ok_or_else(|| {
        let near = catalogue::check(event).err().flatten();
        let near = near.map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
        wrong(format!("there is no event {event:?} with an example{near}"))
    })?;
    let now = gateway.clock.now();
    let terms = Terms::of_row(&endpoint.options).map_err(|e| wrong(e.to_string()))?;
    let text = body::render(
        terms.format,
        event,
        now,
        row.example(&body::stamp(now), &endpoint.id),
    );
    let message = spread::fresh_message_id(now);
    let begun = gateway
        .metadata
        .begin_test(&endpoint.id, (&message, event), text.clone())
        .await?;
    let Some((seq, delivery, sequence)) = begun else {
        return Err(Refusal::missing("Webhook", &endpoint.id));
    };
    let sent = Message {
        id: &message,
        event,
        sequence,
        number: 1,
        headers: terms.header_map(),
        body: text,
    };
    let report = send(gateway, endpoint, &terms, sent, now).await;
    let tried = Settled {
        seq,
        number: 1,
        begun: report.begun,
        duration_ms: report.took_ms(),
        status: report.status,
        result: report.result,
        error: report.error.clone(),
        response: report.response.clone(),
        outcome: if report.is_taken() {
            Outcome::Delivered
        } else {
            Outcome::Failed
        },
    };
    gateway.metadata.end_test(tried).await?;
    Ok(json!({
        "delivery_id": delivery, "status": report.status, "duration_ms": report.took_ms(), "error": report.error,
    }))
}

async fn send(
    gateway: &Gateway,
    endpoint: &Endpoint,
    terms: &Terms,
    sent: Message<'_>,
    now: UnixMillis,
) -> Report {
    let (settings, outlet) = (&gateway.settings.webhooks, &gateway.outlet);
    let blocked = |why: String| Report::unsent(now, "blocked_destination", why);
    let to = match Destination::parse(&endpoint.url) {
        Ok(to) if terms::is_denied(&settings.deny_hosts, &to) => {
            return blocked(format!("{} is denied (webhooks.deny_hosts)", to.host()));
        }
        Ok(to) => to,
        Err(rule) => return blocked(format!("the URL: {rule}")),
    };
    let Some(signer) = Signer::open(&outlet.key, &endpoint.secrets) else {
        let why = "its secret does not open with this master key".to_owned();
        return Report::unsent(now, "request", why);
    };
    let when = (now, terms.timeout());
    attempt::send(
        &outlet.caller,
        (&to, &signer),
        sent,
        when,
        settings.log_bodies,
    )
    .await
}

fn text<'v>(name: &str, value: Option<&'v Value>) -> Result<Option<&'v str>, Refusal> {
    match value {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(wrong(format!("'{name}' must be text"))),
    }
}

fn state(word: Option<&str>) -> Result<Option<DeliveryState>, Refusal> {
    let Some(word) = word else { return Ok(None) };
    let known = || DeliveryState::ALL.map(DeliveryState::as_str).join(", ");
    let found = DeliveryState::from_name(word);
    found
        .map(Some)
        .ok_or_else(|| wrong(format!("'status' must be one of {}", known())))
}

/// RFC 3339, or milliseconds since 1970.
fn moment(name: &str, text: Option<&str>) -> Result<Option<UnixMillis>, Refusal> {
    let Some(text) = text else { return Ok(None) };
    if let Ok(millis) = text.parse() {
        return Ok(Some(UnixMillis(millis)));
    }
    let at: jiff::Timestamp = text.parse().map_err(|_odd| {
        wrong(format!(
            "'{name}' must be a time such as 2026-01-02T03:04:05Z"
        ))
    })?;
    Ok(Some(UnixMillis(at.as_millisecond())))
}

/// A delivery, as answers have it.
fn document(delivery: &Delivery) -> Value {
    let waits = delivery.state == DeliveryState::Queued;
    let attempts: Vec<Value> = delivery.attempts.iter().map(tried).collect();
    json!({
        "delivery_id": delivery.id, "endpoint_id": delivery.endpoint, "webhook_id": delivery.message,
        "event": delivery.event, "sequence": delivery.sequence, "status": delivery.state.as_str(),
        "reason": delivery.reason, "next_attempt_at": waits.then(|| shape::time(delivery.due)),
        "occurred_at": shape::time(delivery.occurred), "created_at": shape::time(delivery.created),
        "ended_at": delivery.ended.map(shape::time), "attempts": attempts,
    })
}

fn tried(attempt: &Attempt) -> Value {
    json!({
        "attempt": attempt.number, "at": shape::time(attempt.begun), "duration_ms": attempt.duration_ms,
        "status": attempt.status, "result": attempt.result, "error": attempt.error, "response": attempt.response,
    })
}
