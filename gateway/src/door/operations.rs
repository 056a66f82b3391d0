//! Probes, status and metrics.

use std::collections::BTreeMap;

use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use crate::auth::Principal;
use crate::call::Call;
use crate::config::settings::Database;
use crate::gateway::{Gateway, Phase};
use crate::http::problem::Problem;
use crate::http::response;
use crate::refusal::Refusal;
use crate::server::OutboundBody;
use crate::webhook;

type Answer = Result<Response<OutboundBody>, Refusal>;

/// A refusal as a problem document (RFC 9457).
pub fn refuse(refusal: &Refusal) -> Response<OutboundBody> {
    Problem::new(
        refusal.status,
        refusal.code.unwrap_or("REFUSED"),
        refusal.message.as_str(),
    )
    .into_response()
}

/// `GET /livez`: the process answers.
pub fn live() -> Response<OutboundBody> {
    uncached(response::json(StatusCode::OK, &json!({ "status": "ok" })))
}

/// `GET /readyz`: 200 while traffic is welcome; 503 while draining or while a dependency is away.
pub async fn ready(gateway: &Gateway) -> Response<OutboundBody> {
    let dependencies = gateway.dependencies().await;
    let ready = gateway.phase() == Phase::Serving && dependencies.values().all(|d| d.ok);
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let states: BTreeMap<_, _> = dependencies
        .iter()
        .map(|(name, d)| (name, d.word()))
        .collect();
    let body = json!({
        "status": if ready { "ok" } else { "unavailable" },
        "phase": gateway.phase().as_str(), "dependencies": states,
    });
    uncached(response::json(status, &body))
}

/// `GET /health` and `GET /api/health`, in BoxVault's shape.
pub async fn health(gateway: &Gateway) -> Response<OutboundBody> {
    let dependencies = gateway.dependencies().await;
    let ok = dependencies.values().all(|d| d.ok);
    let full = dependencies.values().any(|d| d.full);
    let word = |name: &str| dependencies.get(name).map_or("unknown", |d| d.word());
    let body = json!({
        "status": if !ok { "error" } else if full { "warning" } else { "ok" },
        "timestamp": crate::door::boxvault::shape::time(gateway.clock.now()),
        "version": env!("CARGO_PKG_VERSION"), "environment": "production",
        "supported_languages": ["en"], "default_language": "en", "frontend_logging": false,
        "services": { "database": word("database"), "storage_boxes": word("store.main") },
    });
    let status = if ok {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    uncached(response::json(status, &body))
}

/// `GET /api/status`: version and phase for everyone, details for operators.
pub async fn status(gateway: &Gateway, call: &Call) -> Answer {
    let mut body = json!({
        "version": env!("CARGO_PKG_VERSION"), "phase": gateway.phase().as_str(),
        "status": if gateway.phase() == Phase::Serving { "ok" } else { "unavailable" },
    });
    if is_operator(gateway, call) {
        let found = gateway.dependencies().await;
        let rows = found.get("database").is_some_and(|d| d.ok);
        let well = found.values().all(|d| d.ok);
        let dependencies: BTreeMap<String, Value> = found
            .into_iter()
            .map(|(name, d)| {
                let space = d
                    .space
                    .map(|s| json!({ "free_bytes": s.free_bytes, "total_bytes": s.total_bytes }));
                (name, json!({ "state": d.word(), "space": space }))
            })
            .collect();
        body = super::boxvault::shape::with(
            body,
            json!({
                "uptime_seconds": gateway.uptime().as_secs(),
                "mode": match gateway.settings.metadata {
                    Database::Embedded => "embedded",
                    Database::Postgres(_) => "postgres",
                },
                "dependencies": dependencies, "uploads_in_progress": gateway.engine.in_progress(),
            }),
        );
        if !well {
            body["status"] = "error".into();
        }
        if rows && let Ok(waiting) = gateway.metadata.waiting_for_sha256().await {
            let oldest = waiting.oldest.map(super::boxvault::shape::time);
            let told = json!({ "blobs": waiting.blobs, "bytes": waiting.bytes, "oldest": oldest });
            body = super::boxvault::shape::with(body, json!({ "sha256_deferred": told }));
        }
        if rows && let Ok(found) = webhook::signals::not_ok(gateway).await {
            let told: Vec<Value> = found
                .into_iter()
                .map(|(id, state, why)| json!({ "id": id, "state": state, "reason": why }))
                .collect();
            body = super::boxvault::shape::with(body, json!({ "webhooks_not_ok": told }));
        }
        if let Some(certificate) = &gateway.certificate {
            let told = certificate.status();
            let tls = json!({
                "certificate_sha256": told.sha256,
                "state": if told.failed.is_none() { "ok" } else { "error" }, "error": told.failed,
            });
            body = super::boxvault::shape::with(body, json!({ "tls": tls }));
        }
    }
    Ok(uncached(response::json(StatusCode::OK, &body)))
}

/// `GET /metrics`.
pub async fn metrics(gateway: &Gateway) -> Response<OutboundBody> {
    let text = gateway.metrics_text().await;
    let mut response = response::text(StatusCode::OK, text);
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static(crate::telemetry::metrics::CONTENT_TYPE),
    );
    uncached(response)
}

fn is_operator(gateway: &Gateway, call: &Call) -> bool {
    gateway.is_operator_network(call.facts.client_ip())
        || call
            .grant
            .principal
            .as_ref()
            .is_some_and(Principal::is_platform_admin)
}

fn uncached(mut response: Response<OutboundBody>) -> Response<OutboundBody> {
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
