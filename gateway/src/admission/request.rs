//! Which requests are counted for whom, and what of that their answers tell.
//!
//! A request is counted for its address before anything is looked up for it, for its principal once that is known, and
//! for an organization where one of its members asks: what strangers ask of a public box must not use up what its owner
//! may ask. What goes on with an upload that is under way is not counted, as long as its sender is right about that one:
//! it has had its turn, and its bytes are limited elsewhere.

use http::header::{CACHE_CONTROL, CONTENT_RANGE, LOCATION};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Uri};
use std::time::Duration;

use super::network;
use super::rates::{Key, Standing};
use super::shaper::{Meter, Mover, Shaper};
use super::turns::Turn;
use crate::auth::{Credential, Grant, Principal};
use crate::config::rates::Per;
use crate::gateway::Gateway;
use crate::refusal::Refusal;
use crate::request::RequestFacts;
use crate::resumable::{chunk, tus};
use crate::route::{Class, Found, Route, Row};
use crate::server::OutboundBody;

/// The limits that an answer was counted by (draft-ietf-httpapi-ratelimit-headers-10 §2).
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// What is left of the tightest (§3).
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// After which time another turn may be free.
const TURN_AGAIN: Duration = Duration::from_secs(1);

/// How a request is counted. In its extensions; one without it is not.
#[derive(Debug, Clone)]
pub struct Counting {
    class: Class,
    /// Whether it goes on with an upload of which its sender was right lately.
    is_free: bool,
    /// Who sends, by the credential's hash, where it is about an upload.
    sender: Option<[u8; 32]>,
    /// The upload that it names, as this sender's.
    upload: Option<[u8; 32]>,
}

impl Counting {
    /// How the request of this head is counted.
    pub fn of(head: &Parts) -> Option<Self> {
        head.extensions.get::<Self>().cloned()
    }
}

/// Counts a request for the address that it comes from.
///
/// # Errors
/// 429 with `Retry-After`.
pub fn arrived(
    gateway: &Gateway,
    found: &Found,
    head: &mut Parts,
    facts: &RequestFacts,
) -> Result<(), Refusal> {
    let (row, class) = match found {
        Found::Row(row, _) => (Some(*row), row.class),
        Found::OtherMethods(..) | Found::Nothing => (None, Class::Control),
    };
    let admission = &gateway.admission;
    let address = facts.client_ip();
    let settings = &gateway.settings;
    if class == Class::Operations || settings.limits.rate_exempt.contains(address) {
        return Ok(());
    }
    let named = row.and_then(|row| upload_named(row, head.uri.path()));
    let sender = (named.is_some() || class == Class::Upload)
        .then(|| Credential::find(&head.headers, head.uri.query()))
        .flatten()
        .map(|credential| credential.hash());
    let upload = sender.zip(named).map(|(sender, path)| of(sender, path));
    let is_free = row.is_some_and(|row| goes_on(row, &head.headers))
        && upload.is_some_and(|upload| admission.begun.contains_key(&upload));
    head.extensions.insert(Counting {
        class,
        is_free,
        sender,
        upload,
    });
    match of_address(gateway, facts) {
        Some(key) if !is_free => count(gateway, &key, class, (facts, None)),
        _ => Ok(()),
    }
}

/// Whether a stranger's request that is answered at once takes nothing that it would have to wait for: a turn, or the bytes of
/// its answer.
pub fn may_pass(gateway: &Gateway, facts: &RequestFacts) -> bool {
    let admission = &gateway.admission;
    let exempt = &gateway.settings.limits.rate_exempt;
    admission.outbound.load().is_idle()
        && (exempt.contains(facts.client_ip()) || admission.turns.is_free(&asker(None, facts)))
}

/// Counts a stranger's request that is answered at once.
///
/// # Errors
/// As [`arrived`].
pub fn stranger(gateway: &Gateway, class: Class, facts: &RequestFacts) -> Result<(), Refusal> {
    if gateway
        .settings
        .limits
        .rate_exempt
        .contains(facts.client_ip())
    {
        return Ok(());
    }
    match of_address(gateway, facts) {
        Some(key) => count(gateway, &key, class, (facts, None)),
        None => Ok(()),
    }
}

/// Who asks: somebody who is known, or whoever is at an address.
pub fn asker(principal: Option<&Principal>, facts: &RequestFacts) -> Key {
    principal.map_or_else(|| Key::Address(network(facts.client_ip())), of_principal)
}

/// Counts it for whoever asks, who was counted as an address already, by the `rate` that a plugin chose.
///
/// # Errors
/// 429 with `Retry-After`.
pub fn identified(
    gateway: &Gateway,
    counting: Option<&Counting>,
    asker: &Key,
    (facts, rate): (&RequestFacts, Option<&str>),
) -> Result<(), Refusal> {
    let Some(counting) = counting.filter(|counting| !counting.is_free) else {
        return Ok(());
    };
    let class = counting.class;
    if matches!(asker, Key::Principal(..)) {
        count(gateway, asker, class, (facts, rate))?;
    }
    let Some(rate) = rate else { return Ok(()) };
    gateway.admission.check_choice(rate);
    let per = gateway.admission.rates.load().chosen_per(rate, class);
    match of_address(gateway, facts) {
        Some(key) if per == Some(Per::Address) => count(gateway, &key, class, (facts, Some(rate))),
        _ => Ok(()),
    }
}

/// A turn for it to be worked on, once there is one.
///
/// # Errors
/// 429 with `Retry-After`.
pub async fn turn(
    gateway: &Gateway,
    counting: Option<&Counting>,
    asker: Key,
) -> Result<Option<Turn>, Refusal> {
    // Bodies that come in have turns of their own.
    let is_counted =
        counting.is_some_and(|counting| !counting.is_free && counting.class != Class::Upload);
    if !is_counted {
        return Ok(None);
    }
    let turn = gateway.admission.turns.take(asker).await;
    if turn.is_none() {
        refused(gateway, "requests_at_once");
        let text =
            "Too many requests at once (limits.requests_at_once). Wait for some of their answers.";
        return Err(too_many(text.to_owned(), TURN_AGAIN));
    }
    Ok(turn)
}

/// Counts it for the organization that a member asks something of.
///
/// # Errors
/// 429 with `Retry-After`.
pub fn granted(
    gateway: &Gateway,
    counting: Option<&Counting>,
    grant: &Grant,
    (facts, rate): (&RequestFacts, Option<&str>),
) -> Result<(), Refusal> {
    let counting = counting.filter(|counting| !counting.is_free);
    let (Some(counting), Some(principal)) = (counting, &grant.principal) else {
        return Ok(());
    };
    match organization(principal, grant) {
        Some(key) => count(gateway, &key, counting.class, (facts, rate)),
        None => Ok(()),
    }
}

/// What measures the bytes of a request, in and out.
pub fn meters(
    gateway: &Gateway,
    counting: Option<&Counting>,
    grant: &Grant,
    (facts, rate): (&RequestFacts, Option<&str>),
) -> (Option<Meter>, Option<Meter>) {
    let Some(counting) = counting else {
        return (None, None);
    };
    let principal = grant.principal.as_ref();
    let mover = Mover {
        address: of_address(gateway, facts),
        principal: principal.map(of_principal),
        organization: principal.and_then(|principal| organization(principal, grant)),
        rate: rate.map(str::to_owned),
    };
    let (admission, waits) = (
        &gateway.admission,
        &gateway.telemetry.metrics.admission.shaper_waits,
    );
    let meter = |shaper: &Shaper, direction| {
        shaper.meter(counting.class, &mover, || {
            waits.with_label_values(&[direction])
        })
    };
    (
        meter(&admission.inbound.load(), "in"),
        meter(&admission.outbound.load(), "out"),
    )
}

/// The address that it comes from. A proxy that names nobody speaks for itself.
fn of_address(gateway: &Gateway, facts: &RequestFacts) -> Option<Key> {
    let address = facts.client_ip();
    let is_proxy = gateway.settings.trusted_proxies.contains(address);
    (!is_proxy).then(|| Key::Address(network(address)))
}

fn of_principal(principal: &Principal) -> Key {
    let sender = principal.sender();
    Key::Principal(sender.account, sender.service)
}

/// The organization of the path where one of its members asks, else that of the key by which a service account does.
fn organization(principal: &Principal, grant: &Grant) -> Option<Key> {
    let named = grant
        .organization
        .as_ref()
        .map(|organization| organization.id);
    let named = named.or(grant.row.as_ref().map(|row| row.organization));
    let asked = match named {
        Some(named) => principal.role_in(named).map(|_member| named),
        None => principal.token.organization,
    };
    asked.map(Key::Organization)
}

/// Remembers of an answer whether its sender was right about an upload, or began one.
pub fn answered(
    gateway: &Gateway,
    counting: Option<&Counting>,
    answer: &Result<Response<OutboundBody>, Refusal>,
) {
    let Some((sender, upload)) = counting.and_then(|by| Some((by.sender?, by.upload))) else {
        return;
    };
    let known = &gateway.admission.begun;
    match answer {
        Ok(answer) if answer.status().is_success() => {
            let begun = answer.headers().get(LOCATION);
            let begun = begun.and_then(|url| url.to_str().ok()?.parse::<Uri>().ok());
            let begun = begun.map(|url| of(sender, url.path()));
            for upload in upload.into_iter().chain(begun) {
                known.insert(upload, ());
            }
        }
        Err(refusal) if refusal.status.is_client_error() && !goes_on_after(refusal.status) => {
            if let Some(upload) = upload {
                known.invalidate(&upload);
            }
        }
        _ => {}
    }
}

/// Whether an upload may go on that was answered so: its sender is to ask where it stands, or to come again.
fn goes_on_after(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::CONFLICT | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
    ) || status.as_u16() == tus::CHECKSUM_MISMATCH
}

/// The path that names an upload, of a request that is about one.
fn upload_named<'p>(row: &Row, path: &'p str) -> Option<&'p str> {
    match row.route {
        Route::UploadOffset
        | Route::UploadStatus
        | Route::AppendUpload
        | Route::UploadFile
        | Route::UploadIso => Some(path),
        Route::PutPart => path.rsplit_once("/parts/").map(|(upload, _)| upload),
        Route::UploadParts | Route::DeclareDigest => {
            path.rsplit_once('/').map(|(upload, _)| upload)
        }
        _ => None,
    }
}

/// What an upload of a sender is remembered by.
fn of(sender: [u8; 32], path: &str) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&sender).update(path.as_bytes());
    hasher.finalize().into()
}

/// Tells in an answer what is left of the tightest limit. What others may keep tells nothing of one client.
pub fn tell(facts: &RequestFacts, answer: &mut Response<OutboundBody>) {
    let Some(standing) = facts.standing() else {
        return;
    };
    let headers = answer.headers_mut();
    let caching = headers.get(CACHE_CONTROL).and_then(|v| v.to_str().ok());
    if caching.is_some_and(|caching| caching.contains("public")) {
        return;
    }
    let Standing {
        policy,
        quota,
        window_s,
        left,
        reset_s,
    } = standing;
    for (name, text) in [
        (
            RATE_LIMIT_POLICY,
            format!("\"{policy}\";q={quota};w={window_s}"),
        ),
        (RATE_LIMIT, format!("\"{policy}\";r={left};t={reset_s}")),
    ] {
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(name, value);
        }
    }
}

/// Whether a request goes on with what was begun before: its offset, its state, more of its bytes.
fn goes_on(row: &Row, headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    match row.route {
        Route::UploadOffset
        | Route::UploadStatus
        | Route::AppendUpload
        | Route::PutPart
        | Route::UploadParts
        | Route::DeclareDigest => true,
        // By its name, and not from its beginning.
        Route::UploadFile | Route::UploadIso => {
            let range = text(&CONTENT_RANGE).and_then(|range| range.strip_prefix("bytes "));
            let from = range.and_then(|range| range.split_once('-')?.0.parse::<u64>().ok());
            let index = text(&chunk::INDEX).and_then(|index| index.parse::<u64>().ok());
            from.or(index).is_some_and(|from| from > 0)
        }
        _ => false,
    }
}

fn count(
    gateway: &Gateway,
    key: &Key,
    class: Class,
    (facts, rate): (&RequestFacts, Option<&str>),
) -> Result<(), Refusal> {
    let standing = match gateway.admission.rates.load().count(key, class, rate) {
        Ok(None) => return Ok(()),
        Ok(Some(standing)) => {
            facts.stands(standing);
            return Ok(());
        }
        Err(standing) => standing,
    };
    let (policy, wait_s) = (standing.policy.to_string(), standing.reset_s);
    facts.stands(standing);
    refused(gateway, &policy);
    let text = format!("Too many requests in this time (rates.{policy}). Try again in {wait_s} s.");
    Err(too_many(text, Duration::from_secs(wait_s)))
}

fn refused(gateway: &Gateway, limit: &str) {
    let refused = &gateway.telemetry.metrics.admission.requests_refused;
    refused.with_label_values(&[limit]).inc();
}

fn too_many(text: String, after: Duration) -> Refusal {
    Refusal::new(StatusCode::TOO_MANY_REQUESTS, text)
        .code("RATE_LIMIT_EXCEEDED")
        .retry_after(after)
}
