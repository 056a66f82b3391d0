//! What was sent to an endpoint of webhooks, and sending it once more.

use askama::Template;
use boxgate_storage::metadata::webhooks::{Delivery, DeliveryQuery};
use serde_json::json;

use super::form::{Form, asking};
use super::{Answer, Visit, moment, page, see_other};
use crate::call::Call;
use crate::door::webhooks as api;
use crate::gateway::Gateway;
use crate::refusal::Refusal;

/// Deliveries on a page.
const LISTED: u32 = 50;

#[derive(Template)]
#[template(path = "deliveries.html")]
struct DeliveriesPage<'a> {
    title: &'a str,
    visit: &'a Visit,
    endpoint: &'a str,
    state: &'static str,
    why: String,
    deliveries: Vec<DeliveryLine>,
    next: Option<i64>,
}

struct DeliveryLine {
    id: String,
    event: String,
    state: &'static str,
    reason: String,
    created: String,
    attempts: Vec<String>,
}

/// `GET /-/webhooks/{webhook}?cursor`.
pub async fn show(gateway: &Gateway, call: Call) -> Answer {
    let id = call.names.value("webhook");
    let endpoint = gateway.metadata.webhook(id).await?;
    let endpoint = endpoint.ok_or_else(|| Refusal::missing("Webhook", id))?;
    let query = DeliveryQuery {
        endpoint: id.to_owned(),
        before: Some(
            Form::of_query(&call)
                .text("cursor")
                .parse()
                .unwrap_or(i64::MAX),
        ),
        ..DeliveryQuery::default()
    };
    let found = gateway.metadata.deliveries(&query, LISTED).await?;
    let full = found.len() == LISTED as usize;
    let (state, why) = api::standing(
        &endpoint,
        gateway.settings.webhooks.queue,
        gateway.clock.now(),
    );
    page(&DeliveriesPage {
        title: &endpoint.url,
        visit: &Visit::by(gateway, &call),
        endpoint: id,
        state,
        why: why.map(std::borrow::Cow::into_owned).unwrap_or_default(),
        next: found.last().filter(|_| full).map(|last| last.seq),
        deliveries: found.into_iter().map(line).collect(),
    })
}

fn line(delivery: Delivery) -> DeliveryLine {
    let attempts = delivery.attempts.iter().map(|attempt| {
        let status = attempt
            .status
            .map(|status| format!(" {status}"))
            .unwrap_or_default();
        let error = attempt
            .error
            .as_deref()
            .map(|error| format!(": {error}"))
            .unwrap_or_default();
        format!(
            "{}, {} ms, {}{status}{error}",
            moment(attempt.begun),
            attempt.duration_ms,
            attempt.result
        )
    });
    DeliveryLine {
        attempts: attempts.collect(),
        id: delivery.id,
        event: delivery.event,
        state: delivery.state.as_str(),
        reason: delivery.reason.unwrap_or_default(),
        created: moment(delivery.created),
    }
}

/// `POST /-/redeliver/{delivery}`.
pub async fn redeliver(gateway: &Gateway, mut call: Call) -> Answer {
    Form::read(gateway, &mut call).await?;
    let id = call.names.value("delivery");
    let found = gateway.metadata.delivery(id).await?;
    let delivery = found.ok_or_else(|| Refusal::missing("Delivery", id))?;
    let place = Visit::by(gateway, &call).at(&format!("webhooks/{}", delivery.endpoint));
    api::redeliver(gateway, asking(call, &json!({}))).await?;
    Ok(see_other(&place))
}
