//! What was counted of webhooks that go out, as Prometheus text; what waits is asked of the rows.

use std::borrow::Cow;
use std::fmt::Write as _;

use boxgate_storage::Result;
use boxgate_storage::metadata::webhooks::Endpoint;

use super::outlet::Counted;
use crate::door::webhooks::standing;
use crate::gateway::Gateway;
use crate::hooks::{Families, escaped};

/// Every word for how an endpoint stands.
const STATES: [&str; 6] = ["ok", "retrying", "failing", "blocked", "paused", "disabled"];
/// Endpoints that are told of by name.
const MOST: u32 = 1_000;

/// All families of webhooks that go out; what the rows do not tell is left out.
pub async fn metrics(gateway: &Gateway) -> String {
    let mut out = Families::default();
    let counted = gateway.outlet.counted();
    attempts(&mut out, &counted);
    if let Err(error) = endpoints(&mut out, gateway).await {
        let error = boxgate_storage::error::chain(&error);
        tracing::debug!(error, "what waits for endpoints is not known now");
    }
    let mut text = out.text();
    text.push_str(&seconds(&counted));
    text
}

/// Endpoints that do not take what they are told, with how they stand and why.
///
/// # Errors
/// When the rows do not answer.
pub async fn not_ok(gateway: &Gateway) -> Result<Vec<(String, &'static str, Option<String>)>> {
    let (most, now) = (gateway.settings.webhooks.queue, gateway.clock.now());
    let found = gateway.metadata.webhooks(0, MOST).await?;
    let told = found.iter().filter_map(|endpoint| {
        let (state, why) = standing(endpoint, most, now);
        (state != "ok").then(|| (endpoint.id.clone(), state, why.map(Cow::into_owned)))
    });
    Ok(told.collect())
}

fn attempts(out: &mut Families, counted: &Counted) {
    let mut blocked = 0;
    for ((endpoint, event, result), count) in &counted.attempts {
        let endpoint = escaped(endpoint);
        let labels = format!("endpoint=\"{endpoint}\",event=\"{event}\",result=\"{result}\"");
        let doc = "Attempts to deliver webhooks, by how they went";
        out.add(
            "boxgate_webhook_attempts_total",
            "counter",
            doc,
            &labels,
            count,
        );
        if *result == "blocked_destination" {
            blocked += count;
        }
    }
    let doc = "Attempts that were refused for where they led to";
    out.add(
        "boxgate_webhook_blocked_destination_total",
        "counter",
        doc,
        "",
        blocked,
    );
    let doc = "Deliveries that were skipped, as too much waited or the endpoint was disabled";
    out.add(
        "boxgate_webhook_skipped_total",
        "counter",
        doc,
        "",
        counted.skipped,
    );
}

async fn endpoints(out: &mut Families, gateway: &Gateway) -> Result<()> {
    let (most, now) = (gateway.settings.webhooks.queue, gateway.clock.now());
    for endpoint in gateway.metadata.webhooks(0, MOST).await? {
        let Endpoint { id, queued, .. } = &endpoint;
        let labels = format!("endpoint=\"{}\"", escaped(id));
        let doc = "Deliveries that wait for an endpoint";
        out.add("boxgate_webhook_queue_depth", "gauge", doc, &labels, queued);
        let oldest = if *queued > 0 {
            gateway.metadata.oldest_waiting(id).await?
        } else {
            None
        };
        let seconds = oldest.map_or(0, |since| (now.0 - since.0).max(0) / 1000);
        let doc = "Since when the oldest of them waits, in seconds";
        out.add(
            "boxgate_webhook_oldest_seconds",
            "gauge",
            doc,
            &labels,
            seconds,
        );
        let (state, _) = standing(&endpoint, most, now);
        for word in STATES {
            let labels = format!("{labels},state=\"{word}\"");
            let doc = "How an endpoint stands";
            out.add(
                "boxgate_webhook_endpoint_state",
                "gauge",
                doc,
                &labels,
                u8::from(word == state),
            );
        }
    }
    Ok(())
}

fn seconds(counted: &Counted) -> String {
    const NAME: &str = "boxgate_webhook_attempt_seconds";
    let mut text = format!(
        "# HELP {NAME} How long attempts to deliver webhooks took.\n# TYPE {NAME} histogram\n"
    );
    let bounds = Counted::bounds().map(|bound| bound.to_string());
    let bounds = bounds.into_iter().chain(["+Inf".to_owned()]);
    let mut sum = 0;
    for (bound, count) in bounds.zip(counted.took) {
        sum += count;
        // A String takes every write.
        let _ = writeln!(text, "{NAME}_bucket{{le=\"{bound}\"}} {sum}");
    }
    let _ = writeln!(text, "{NAME}_sum {}\n{NAME}_count {sum}", counted.seconds);
    text
}
