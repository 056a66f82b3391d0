//! Webhooks that come in: `POST /hooks/<plugin>/<hook>`.
//!
//! The order is the point: who is meant, then what the head shows, then the body as far as it may go, then its
//! signature, then whether it was here before; only then a script. Errors are problem documents (RFC 9457).

use std::sync::Arc;
use std::time::Duration;

use boxgate_scripting::error::Fault;
use boxgate_scripting::facts::{self, Bytes};
use boxgate_scripting::hook::Hook;
use boxgate_scripting::inbound::{Addressed, Inbound, Mode, Verify};
use boxgate_scripting::verdict::WebhookVerdict;
use boxgate_storage::error::chain;
use boxgate_storage::metadata::inbound::{Delivery, End, Queued, Taken};
use boxgate_storage::trace::carried;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::json;

use crate::call::Call;
use crate::gateway::Gateway;
use crate::hooks;
use crate::http::response;
use crate::refusal::Refusal;
use crate::server::OutboundBody;
use crate::webhook::inbox::Became;
use crate::webhook::signature::{Doubt, Sender};

type Answer = Result<Response<OutboundBody>, Refusal>;

/// How long a run whose process is gone keeps others from its delivery, beside its own deadline.
const LEASE: Duration = Duration::from_secs(10);
/// When it is worth sending again what is just being run, or what there is no room for.
const SOON: Duration = Duration::from_secs(5);
const LATER: Duration = Duration::from_mins(1);

/// `POST /hooks/{plugin}/{hook}`.
pub async fn receive(gateway: &Gateway, mut call: Call) -> Answer {
    let plugin = call.names.value("plugin").to_owned();
    let hook = call.names.value("hook").to_owned();
    let inbound = addressed(gateway, &plugin, &hook)?;
    let told = hooks::told_already(&call.head).ok_or_else(|| nobody(&plugin, &hook))?;
    readable(&call.head.headers)?;
    let _room = gateway.inbox.room().ok_or_else(|| {
        let text = "Many webhooks come in at once (hooks.at_once). Send it again later.";
        Refusal::busy(text, SOON).closing()
    })?;
    let headers = call.head.headers.clone();
    let secret = secret(&inbound, &plugin, &hook)?;
    let known = Arc::clone(&call.facts);
    let doubtful = |doubt: Doubt| {
        gateway.inbox.count(&plugin, &hook, Became::Refused);
        doubted(&doubt, &plugin, &hook, &known)
    };
    let settings = &gateway.settings.hooks;
    let clock = (gateway.clock.now(), settings.tolerance);
    let sender = Sender::of_head(&inbound.terms, &secret, &headers, clock).map_err(&doubtful)?;
    let (limit, time) = (settings.body_bytes, settings.body_timeout);
    let body = call.small_body(("body", "hooks.body"), limit, time).await?;
    let id = sender.with_body(&body).map_err(doubtful)?;
    let mut request = facts::Request::clone(&told);
    request.hook = hook.as_str().into();
    request.verified = inbound.terms.verify != Verify::None;
    request.delivery_id = id.as_deref().map(Into::into);
    let delivery = id.map(|id| Delivery {
        plugin: plugin.clone(),
        hook: hook.clone(),
        id,
    });
    call.facts.add_plugins(vec![plugin.clone()]);
    match inbound.terms.mode {
        Mode::Sync => {
            request.body = Bytes(body.into());
            at_once(gateway, (&plugin, &hook), request, delivery).await
        }
        Mode::Async => {
            let delivery = delivery.unwrap_or_else(|| Delivery {
                plugin: plugin.clone(),
                hook: hook.clone(),
                // It has none that would be the same another time.
                id: format!("request {}", request.id),
            });
            later(gateway, &request, body, delivery).await
        }
    }
}

fn nobody(plugin: &str, hook: &str) -> Refusal {
    let text = format!(
        "There is no hook '{hook}' of a plugin '{plugin}' here. The plugin must be loaded, and its plugin.toml name the \
         hook as [webhook_in.{hook}]."
    );
    Refusal::new(StatusCode::NOT_FOUND, text)
        .code("NOT_FOUND")
        .closing()
}

fn addressed(gateway: &Gateway, plugin: &str, hook: &str) -> Result<Inbound, Refusal> {
    match gateway.scripts.inbound(plugin, hook) {
        Addressed::Hook(inbound) => Ok(inbound),
        Addressed::Nobody => Err(nobody(plugin, hook)),
        Addressed::Broken => {
            let text = format!(
                "The plugin '{plugin}' does not work as it stands; its error is in the log. Send it again later."
            );
            Err(Refusal::busy(text, LATER).closing())
        }
    }
}

/// Whether the body is of a kind that scripts read.
fn readable(headers: &HeaderMap) -> Result<(), Refusal> {
    let refused = |text: String| {
        Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text)
            .code("UNSUPPORTED_MEDIA_TYPE")
            .closing()
    };
    let text = |name| headers.get(name).map(HeaderValue::as_bytes);
    if let Some(coding) = text(CONTENT_ENCODING)
        && !coding.eq_ignore_ascii_case(b"identity")
    {
        // RFC 9110 §15.5.16: the answer says which codings are taken.
        let refusal =
            refused("A webhook's body is taken as it is, without a content coding.".into());
        return Err(refusal.header(ACCEPT_ENCODING, HeaderValue::from_static("identity")));
    }
    let Some(kind) = text(CONTENT_TYPE) else {
        return Ok(());
    };
    let kind = String::from_utf8_lossy(kind).to_ascii_lowercase();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    let known = essence.starts_with("text/")
        || essence == "application/json"
        || essence == "application/x-www-form-urlencoded"
        || essence == "application/xml"
        || (essence.starts_with("application/") && essence.ends_with("+json"))
        || (essence.starts_with("application/") && essence.ends_with("+xml"));
    if known {
        return Ok(());
    }
    Err(refused(format!(
        "A webhook's body is JSON, a form, XML or text, and not '{essence}': have its sender send application/json."
    )))
}

/// What the sender must know; empty where it need not know anything.
fn secret(inbound: &Inbound, plugin: &str, hook: &str) -> Result<Arc<str>, Refusal> {
    match (&inbound.secret, &inbound.terms.secret) {
        (Some(secret), _) => Ok(Arc::clone(secret)),
        (None, None) => Ok("".into()),
        (None, Some(name)) => {
            tracing::error!(
                plugin,
                hook,
                "webhooks are refused: scripts.secrets has no {name}"
            );
            let text = "This hook has no secret to compare with yet; it was logged which. Send it again later.";
            Err(Refusal::busy(text, LATER).closing())
        }
    }
}

fn doubted(
    doubt: &Doubt,
    plugin: &str,
    hook: &str,
    known: &crate::request::RequestFacts,
) -> Refusal {
    tracing::warn!(plugin, hook, request_id = known.id(), why = %doubt, "a webhook is refused");
    let (status, code, what) = match doubt {
        Doubt::Missing(_) => (
            StatusCode::UNAUTHORIZED,
            "NOT_SIGNED",
            "Set the hook's secret at the sender, and the kind of signature that the plugin's README names.",
        ),
        Doubt::Malformed(..) => (
            StatusCode::BAD_REQUEST,
            "BAD_SIGNATURE",
            "Set the sender to the kind of signature that the plugin's README names.",
        ),
        Doubt::Wrong(_) => (
            StatusCode::FORBIDDEN,
            "WRONG_SIGNATURE",
            "The secret at the sender must be that of the hook, and nothing on the way may change the body.",
        ),
        Doubt::Stale { .. } => (
            StatusCode::FORBIDDEN,
            "STALE_SIGNATURE",
            "Have it sent anew, and compare the clocks of both machines.",
        ),
        Doubt::Secret => (
            StatusCode::SERVICE_UNAVAILABLE,
            "NO_SECRET",
            "The hook's secret must be set right here first.",
        ),
    };
    let mut why = doubt.to_string();
    if let Some(first) = why.get(..1) {
        let upper = first.to_uppercase();
        why.replace_range(..1, &upper);
    }
    Refusal::new(status, format!("{why}. {what}"))
        .code(code)
        .closing()
}

fn repeat(gateway: &Gateway, delivery: &Delivery) -> Response<OutboundBody> {
    gateway
        .inbox
        .count(&delivery.plugin, &delivery.hook, Became::Repeat);
    let body = json!({ "status": "repeat", "delivery": delivery.id });
    response::json(StatusCode::OK, &body)
}

/// Runs it while the sender waits.
async fn at_once(
    gateway: &Gateway,
    (plugin, hook): (&str, &str),
    request: facts::Request,
    delivery: Option<Delivery>,
) -> Answer {
    let owner = gateway.upkeep.owner().to_owned();
    let lease = Hook::WebhookIn.row().deadline * 2 + LEASE;
    let taken = match delivery {
        None => None,
        Some(delivery) => {
            let terms = (lease, gateway.settings.hooks.ids_kept);
            let taken = gateway
                .metadata
                .take_delivery(delivery.clone(), &owner, terms);
            match taken.await? {
                Taken::Ours(seq) => Some(seq),
                Taken::Repeat => return Ok(repeat(gateway, &delivery)),
                Taken::UnderWay => {
                    let text = "This delivery is just being run. Send it again later to learn what became of it.";
                    return Err(Refusal::busy(text, SOON));
                }
            }
        }
    };
    let (scripts, metadata) = (Arc::clone(&gateway.scripts), gateway.metadata.clone());
    let own = plugin.to_owned();
    // A task of its own: a sender that goes away leaves no delivery half noted.
    let run = gateway.background.spawn(carried(async move {
        let called = scripts.webhook_in(&own, &Arc::new(request), false).await;
        let good = match &called {
            Ok(decision) => match &decision.verdict {
                WebhookVerdict::Done => true,
                // Whoever is told of an error may send it again, and then it is run.
                WebhookVerdict::Reply(reply) => reply.status < 400,
            },
            Err(_) => false,
        };
        if let Some(seq) = taken {
            let end = if good { End::Done } else { End::Forgotten };
            if let Err(error) = metadata.end_delivery(seq, &owner, end).await {
                let error = chain(&error);
                tracing::warn!(plugin = own, error, "a webhook may be run once more");
            }
        }
        (called, good)
    }));
    let failed = || {
        let text = "The plugin failed on this webhook; why is in the log. Send it again once that is mended.";
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text).code("SCRIPT_FAILED")
    };
    let Ok((called, good)) = run.await else {
        return Err(failed());
    };
    let became = if good { Became::Done } else { Became::Failed };
    gateway.inbox.count(plugin, hook, became);
    match called {
        Ok(decision) => Ok(match decision.verdict {
            WebhookVerdict::Done => response::empty(StatusCode::NO_CONTENT),
            WebhookVerdict::Reply(reply) => hooks::answered(reply),
        }),
        // It did not run at all.
        Err(error) if matches!(error.failure.fault, Fault::Queue | Fault::Tripped) => {
            let text = "The plugin cannot take this webhook now. Send it again later.";
            Err(Refusal::busy(text, LATER).code("SCRIPT_UNAVAILABLE"))
        }
        Err(_) => Err(failed()),
    }
}

/// Keeps it for good, and answers.
async fn later(
    gateway: &Gateway,
    request: &facts::Request,
    body: Vec<u8>,
    delivery: Delivery,
) -> Answer {
    let settings = &gateway.settings.hooks;
    let head = serde_json::to_string(request).map_err(|error| {
        tracing::error!(%error, "a webhook's head cannot be written");
        Refusal::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "It could not be kept; it was logged.",
        )
    })?;
    let terms = (settings.queue, settings.ids_kept);
    let queued = gateway
        .metadata
        .queue_delivery(delivery.clone(), (head, body), terms);
    match queued.await? {
        Queued::Repeat => Ok(repeat(gateway, &delivery)),
        Queued::Full => {
            let text = "Too many webhooks wait to be run (hooks.queue). Send it again later.";
            Err(Refusal::busy(text, LATER))
        }
        Queued::Kept => {
            gateway
                .inbox
                .count(&delivery.plugin, &delivery.hook, Became::Queued);
            gateway.inbox.tell();
            let body = json!({ "status": "queued", "delivery": delivery.id });
            Ok(response::json(StatusCode::ACCEPTED, &body))
        }
    }
}
