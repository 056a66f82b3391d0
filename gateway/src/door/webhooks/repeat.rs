//! `Idempotency-Key`: a request that names itself is done once a day, and its repeats get the same answer.

use std::time::Duration;

use boxgate_storage::metadata::webhooks::Replied;
use futures_util::future::BoxFuture;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::{Answer, Told};
use crate::call::Call;
use crate::gateway::Gateway;
use crate::http::response;
use crate::refusal::Refusal;

/// How long a name is known, and after which time a request that was cut may be done again.
const TIMES: (Duration, Duration) = (Duration::from_hours(24), Duration::from_mins(1));
/// What answers are sealed for: one may show a secret.
const PURPOSE: &str = "webhook-reply";
/// Longest name, in bytes.
const LONGEST: usize = 256;
static FIELD: HeaderName = HeaderName::from_static("idempotency-key");
static REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// What a request asks for with the members of its body.
pub(super) type Doing =
    for<'c> fn(&'c Gateway, &'c Call, Map<String, Value>) -> BoxFuture<'c, Told>;

/// Reads what is asked and does it, unless a request of that name was done before.
pub(super) async fn once(gateway: &Gateway, mut call: Call, doing: Doing) -> Answer {
    let asked: Map<String, Value> = call.json(&gateway.settings.limits).await?;
    let Some(name) = call.head.headers.get(&FIELD) else {
        let (status, told) = doing(gateway, &call, asked).await?;
        return Ok(response::json(status, &told));
    };
    if name.is_empty() || name.len() > LONGEST {
        return Err(Refusal::invalid("Idempotency-Key must be 1 to 256 bytes."));
    }
    let name = digest(&[call.principal()?.name().as_bytes(), name.as_bytes()]);
    let name = hex::encode(name);
    let body = Value::Object(asked.clone()).to_string();
    let target = call
        .head
        .uri
        .path_and_query()
        .map_or("", |target| target.as_str());
    let request = digest(&[target.as_bytes(), body.as_bytes()]);
    match gateway.metadata.begin_reply(&name, request, TIMES).await? {
        Replied::New => {}
        Replied::Done(sealed) => return again(gateway, &sealed),
        Replied::UnderWay => {
            let text = "A request with this Idempotency-Key is just being done.";
            return Err(Refusal::new(StatusCode::CONFLICT, text)
                .code("CONFLICT")
                .retry_after(Duration::from_secs(1)));
        }
        Replied::Another => {
            let text = "This Idempotency-Key was used for another request; use a new one.";
            return Err(
                Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, text).code("IDEMPOTENCY_KEY_REUSED")
            );
        }
    }
    match doing(gateway, &call, asked).await {
        Ok((status, told)) => {
            let reply = format!("{} {told}", status.as_u16());
            let sealed = gateway.outlet.key.seal(PURPOSE, reply.as_bytes());
            gateway.metadata.end_reply(&name, Some(sealed)).await?;
            Ok(response::json(status, &told))
        }
        Err(refusal) => {
            gateway.metadata.end_reply(&name, None).await?;
            Err(refusal)
        }
    }
}

fn again(
    gateway: &Gateway,
    sealed: &[u8],
) -> Result<Response<crate::server::OutboundBody>, Refusal> {
    let opened = gateway.outlet.key.open(PURPOSE, sealed);
    let text = opened.and_then(|bytes| String::from_utf8(bytes).ok());
    let parts = text.as_deref().and_then(|text| text.split_once(' '));
    let kept = parts.and_then(|(status, told)| {
        let status = StatusCode::from_bytes(status.as_bytes()).ok()?;
        Some((status, serde_json::from_str::<Value>(told).ok()?))
    });
    let Some((status, told)) = kept else {
        let text = "The answer to this Idempotency-Key cannot be read any more.";
        return Err(Refusal::new(StatusCode::CONFLICT, text).code("CONFLICT"));
    };
    let mut response = response::json(status, &told);
    response
        .headers_mut()
        .insert(&REPLAYED, HeaderValue::from_static("true"));
    Ok(response)
}

/// Of parts that are told apart by their lengths.
fn digest(parts: &[&[u8]]) -> Vec<u8> {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().to_vec()
}
