//! Between the gateway and its plugins: domain values to facts, verdicts to what is done, and what a failure means.
//!
//! A request that no plugin is asked about costs one atomic load here. The facts are made once, travel in the
//! request's extensions, and are handed to each hook as they are.

mod authority;
mod catalog;
mod complete;
mod delete;
mod distribution;
mod images;
mod links;
mod loading;
mod memory;
mod outside;
mod signals;

pub use authority::{authorize, authorize_again, choose_rates, may_override, overridden};
pub use catalog::ScriptCatalog;
pub use complete::{UploadGate, ask_again};
pub use delete::on_delete;
pub use distribution::{follow, follow_once, pushed};
pub use images::{holder_of_key, on_image_deploy, on_image_deployed, on_image_push};
pub use links::ScriptLinks;
pub use loading::{options, reload, watch};
pub use memory::{remember, write_down};
pub use outside::Outside;
pub use signals::{Families, escaped, metrics};

use std::sync::Arc;

use boxgate_scripting::facts::{self, CREDENTIAL_HEADERS, Text};
use boxgate_scripting::hook::Hook;
use boxgate_scripting::verdict::{
    Caching, Denial, DownloadTerms, DownloadVerdict, HeaderChanges, Redirect, Reply, RouteVerdict,
    Routing, UploadVerdict,
};
use boxgate_scripting::{Decision, Unavailable};
use boxgate_storage::catalog::BoxRef;
use boxgate_storage::digest::{Algorithm, Blake3, Digest, Sha256};
use boxgate_storage::metadata::uploads::{Labels, Target};
use boxgate_storage::upload::UploadIntent;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, LOCATION, SET_COOKIE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version};

use crate::auth::Principal;
use crate::gateway::Gateway;
use crate::handler::download::Download;
use crate::http::freshness::{CACHE_TAG, CDN_CACHE_CONTROL, SURROGATE_KEY};
use crate::http::response;
use crate::refusal::Refusal;
use crate::request::RequestFacts;
use crate::route::{Door, Found, Route, Row, free_box_name};
use crate::server::OutboundBody;

/// The code of a refusal that a plugin spoke.
pub const DENIED: &str = "DENIED_BY_SCRIPT";

/// What plugins are told of a request.
pub type Told = Arc<facts::Request>;

/// Whether plugins are asked about a request. Never about probes, nor about the routes by which a plugin that
/// refuses everything is got rid of.
pub fn concern(gateway: &Gateway, found: &Found) -> bool {
    if gateway.scripts.set().is_idle() {
        return false;
    }
    match found {
        Found::Row(row, _) => !is_exempt(row),
        Found::OtherMethods(door, _) => *door != Door::Operations,
        Found::Nothing => true,
    }
}

/// Whether plugins are asked about the request of this head. The futures that do so are large, and made only then.
pub fn are_asked(head: &Parts) -> bool {
    head.extensions.get::<Told>().is_some()
}

/// What plugins are told of the request of this head, where they are asked about it.
pub fn told_already(head: &Parts) -> Option<Told> {
    head.extensions.get::<Told>().cloned()
}

fn is_exempt(row: &Row) -> bool {
    row.door == Door::Operations
        || matches!(
            row.route,
            Route::ListScripts
                | Route::ReloadScripts
                | Route::RollbackScript
                | Route::ListPlugins
                | Route::PushPlugin
                | Route::RemovePlugin
        )
}

/// What plugins are told of a request.
pub fn told(
    gateway: &Gateway,
    head: &Parts,
    path: &str,
    found: &Found,
    known: &RequestFacts,
) -> Told {
    let (route, params) = match found {
        Found::Row(row, names) => (row.route.name(), names.all()),
        _ => ("", facts::Labels::new()),
    };
    let (path, params) = without_upload_token(path, params);
    let authority = known.authority();
    // An IPv6 address has colons of its own.
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    };
    let masked = |(name, value): (&HeaderName, &HeaderValue)| {
        let name_of = name.as_str();
        let value = if CREDENTIAL_HEADERS.contains(&name_of) || name_of.starts_with("auth-") {
            "***".into()
        } else {
            Text::from(String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        (Text::from(name.as_str()), value)
    };
    Arc::new(facts::Request {
        method: head.method.as_str().into(),
        scheme: known.scheme().into(),
        host: host.to_ascii_lowercase().into(),
        path: path.into(),
        route: route.into(),
        params,
        client_ip: Some(known.client_ip()),
        peer_ip: Some(known.peer_ip()),
        tls: known.scheme() == "https",
        http: match head.version {
            Version::HTTP_2 => "2".into(),
            Version::HTTP_3 => "3".into(),
            _ => "1.1".into(),
        },
        id: known.id().into(),
        time_ms: gateway.clock.now().0,
        length: crate::http::headers::content_length(&head.headers),
        headers: head.headers.iter().map(masked).collect(),
        query: without_tokens(head.uri.query().unwrap_or_default()).into(),
        ..facts::Request::default()
    })
}

/// The path of an upload by its URL without what makes that a right, which is nobody's to know.
fn without_upload_token(path: &str, mut params: facts::Labels) -> (String, facts::Labels) {
    match path.split_once("/uploads/") {
        Some((before, _)) if !path.contains("/api/") => {
            params.remove("upload_token");
            (format!("{before}/uploads/***"), params)
        }
        _ => (path.to_owned(), params),
    }
}

/// A query without the credentials that it may carry.
fn without_tokens(query: &str) -> String {
    let secret = |pair: &&str| {
        let name = pair.split('=').next().unwrap_or_default();
        !matches!(name, "token" | "access_token" | "auth_token")
    };
    query
        .split('&')
        .filter(secret)
        .collect::<Vec<_>>()
        .join("&")
}

/// Whoever asks, as plugins are told.
fn told_principal(principal: Option<&Principal>) -> Arc<facts::Principal> {
    let Some(principal) = principal else {
        return Arc::new(facts::Principal {
            kind: "anonymous".into(),
            ..facts::Principal::default()
        });
    };
    let roles = principal.memberships.iter().map(|membership| {
        let role = membership.role.as_str().to_owned();
        (membership.organization_name.to_string(), role)
    });
    Arc::new(facts::Principal {
        kind: if principal.is_service() {
            "service"
        } else {
            "user"
        }
        .into(),
        id: principal.account.id.0.to_string().into(),
        name: principal.name().into(),
        admin: principal.is_platform_admin(),
        roles: roles.collect(),
        scopes: Vec::new(),
        token_id: principal.token.id.0.to_string().into(),
    })
}

/// A hook that must not be passed over failed: nobody knows what it would have said.
fn unavailable(error: &Unavailable) -> Refusal {
    tracing::debug!(%error, "a request is refused as a script failed");
    Refusal::busy(
        "A script that must be asked about this request did not answer. The log tells why, of one such failure a \
         second; try again.",
        std::time::Duration::from_secs(5),
    )
    .code("SCRIPT_UNAVAILABLE")
    .closing()
}

fn denied(denial: Denial) -> Refusal {
    let status = StatusCode::from_u16(denial.status).unwrap_or(StatusCode::FORBIDDEN);
    let reason = if denial.reason.is_empty() {
        "A script refused this, and says no more.".to_owned()
    } else {
        denial.reason
    };
    Refusal::new(status, reason).code(DENIED).closing()
}

/// The verdict, with the plugins that had a part in it noted for the log.
fn noted<T>(known: &RequestFacts, asked: Result<Decision<T>, Unavailable>) -> Result<T, Refusal> {
    match asked {
        Ok(decision) => {
            known.add_plugins(decision.by);
            Ok(decision.verdict)
        }
        Err(error) => {
            known.add_plugins(vec![error.plugin.clone()]);
            Err(unavailable(&error))
        }
    }
}

/// What `route` says.
///
/// # Errors
/// An answer in place of the usual one: the script's own, or a refusal.
pub async fn route(
    gateway: &Gateway,
    told: &Told,
    known: &RequestFacts,
) -> Result<Routing, Instead> {
    if !gateway.scripts.defines(Hook::Route) {
        return Ok(Routing::default());
    }
    let asked = gateway.scripts.route(told).await;
    match noted(known, asked).map_err(Instead::Refusal)? {
        RouteVerdict::Continue(routing) => Ok(routing),
        RouteVerdict::Respond(reply) => Err(Instead::Answer(answered(reply))),
        RouteVerdict::Redirect(redirect) => Err(Instead::Answer(redirected(&redirect))),
    }
}

/// What a request is answered with in place of the usual.
#[derive(Debug)]
pub enum Instead {
    /// A script's answer.
    Answer(Response<OutboundBody>),
    /// A refusal, in the shape of its door.
    Refusal(Refusal),
}

/// The answer that a script makes.
pub fn answered(reply: Reply) -> Response<OutboundBody> {
    let mut response = Response::new(response::full(reply.body));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::OK);
    for (name, value) in &reply.headers {
        insert(response.headers_mut(), name, value);
    }
    response
}

fn redirected(redirect: &Redirect) -> Response<OutboundBody> {
    let status = StatusCode::from_u16(redirect.status).unwrap_or(StatusCode::FOUND);
    let mut response = response::empty(status);
    if let Ok(url) = HeaderValue::from_str(&redirect.url) {
        response.headers_mut().insert(LOCATION, url);
    }
    response
}

fn insert(headers: &mut HeaderMap, name: &str, value: &str) {
    // What scripts may write was checked with their answer; what is no field is left out.
    if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value))
        && name != CONTENT_LENGTH
    {
        headers.insert(name, value);
    }
}

fn change(headers: &mut HeaderMap, changes: &HeaderChanges) {
    for name in &changes.remove {
        headers.remove(name.as_str());
    }
    for (name, value) in &changes.set {
        insert(headers, name, value);
    }
}

/// How long an answer may be kept. What is private stays so.
fn keep(headers: &mut HeaderMap, caching: Option<Caching>) {
    let public = headers
        .get(CACHE_CONTROL)
        .is_some_and(|value| value.as_bytes().starts_with(b"public"));
    match caching {
        None => {}
        Some(Caching::Bypass) => {
            let nobody = HeaderValue::from_static("private, no-store, no-transform");
            headers.insert(CACHE_CONTROL, nobody);
            for name in [CDN_CACHE_CONTROL, SURROGATE_KEY, CACHE_TAG] {
                headers.remove(name);
            }
        }
        Some(Caching::For(age)) => {
            let whose = if public { "public" } else { "private" };
            let text = format!("{whose}, max-age={}, no-transform", age.as_secs());
            let value = HeaderValue::from_str(&text).expect("digits and words make a header value");
            if public {
                headers.insert(CDN_CACHE_CONTROL, value.clone());
            }
            headers.insert(CACHE_CONTROL, value);
        }
    }
}

/// An upload that is about to begin.
#[derive(Debug)]
pub struct Beginning<'a> {
    /// Whose it becomes.
    pub organization: String,
    /// The name that it is for: box, version, provider, architecture; of an ISO image its name and nothing below.
    pub target: Option<[&'a str; 4]>,
    /// Its length in bytes, or that of the form around it, where that is known.
    pub length: Option<u64>,
    /// Whether it comes in a form: then it is counted as it comes.
    pub in_a_form: bool,
    /// What it is compared with.
    pub checksums: &'a [Digest],
    /// Whether it may be gone on with after a cut.
    pub resumable: bool,
}

/// Where a request's `route` sends uploads: in the request's extensions.
#[derive(Debug, Clone)]
pub struct RoutedTo(pub String);

/// What scripts say of an upload that may begin.
#[derive(Debug, Default)]
pub struct Terms {
    /// The store that they choose for it.
    pub store: Option<String>,
    /// Most bytes, where they come in a form.
    pub most: Option<u64>,
    /// Bytes of a part.
    pub part_bytes: Option<u64>,
    /// Labels of what it becomes.
    pub labels: Labels,
}

impl Terms {
    /// The upload under these terms.
    pub fn bind(self, intent: UploadIntent) -> UploadIntent {
        UploadIntent {
            store: self.store,
            part_bytes: self.part_bytes,
            target: intent.target.map(|target| Target {
                labels: self.labels,
                ..target
            }),
            ..intent
        }
    }
}

/// What a form is longer than the file in it, at most, if its sender wants to know beforehand whether that is too long.
const FORM_BYTES: u64 = 64 << 10;

/// A file that is longer than a script lets it be.
pub fn longer_than(most: u64) -> Refusal {
    let text = format!("The file is larger than {most} bytes, the limit of a script here.");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, text)
        .code("FILE_TOO_LARGE")
        .closing()
}

/// Whether an upload may begin, and under which terms of scripts.
///
/// # Errors
/// The refusal to send.
pub async fn on_upload_start(
    gateway: &Gateway,
    head: &Parts,
    known: &RequestFacts,
    beginning: Beginning<'_>,
) -> Result<Terms, Refusal> {
    // Each upload comes by here, and may make its box.
    if let Some([box_name, version, ..]) = beginning.target
        && !version.is_empty()
    {
        free_box_name(box_name).map_err(|text| Refusal::invalid(text).closing())?;
    }
    let routed = head.extensions.get::<RoutedTo>();
    let routed = Terms {
        store: routed.map(|RoutedTo(store)| store.clone()),
        ..Terms::default()
    };
    let Some(told) = head.extensions.get::<Told>() else {
        return Ok(routed);
    };
    if !gateway.scripts.defines(Hook::OnUploadStart) {
        return Ok(routed);
    }
    let [name, version, provider, architecture] = beginning.target.unwrap_or_default();
    let checksum = beginning.checksums.first();
    let upload = Arc::new(facts::Upload {
        organization: beginning.organization.into(),
        name: name.into(),
        version: version.into(),
        provider: provider.into(),
        architecture: architecture.into(),
        size: beginning.length,
        checksum: checksum.map(|digest| digest.to_hex().into()),
        checksum_type: checksum.map(|digest| digest.algorithm().name().into()),
        resumable: beginning.resumable,
        principal: head.extensions.get().cloned().unwrap_or_default(),
        request: Arc::clone(told),
    });
    let asked = gateway.scripts.on_upload_start(&upload).await;
    let terms = match noted(known, asked)? {
        UploadVerdict::Accept(terms) => terms,
        UploadVerdict::Reject(denial) => return Err(denied(denial)),
    };
    let around = if beginning.in_a_form { FORM_BYTES } else { 0 };
    match (terms.max_size, beginning.length) {
        (Some(most), Some(length)) if length > most.saturating_add(around) => {
            return Err(longer_than(most));
        }
        (Some(most), None) => {
            let text =
                format!("A script here limits files to {most} bytes: send the length beforehand.");
            return Err(Refusal::new(StatusCode::LENGTH_REQUIRED, text)
                .code("LENGTH_REQUIRED")
                .closing());
        }
        _ => {}
    }
    if let Some(kind) = &terms.require_checksum {
        let wanted = Algorithm::from_name(kind);
        let told = beginning.checksums.iter().map(Digest::algorithm);
        if !told.map(Some).any(|algorithm| algorithm == wanted) {
            let text = format!(
                "A script here wants a checksum of type {kind} with each upload, before its bytes: x-checksum and \
                 x-checksum-type, the fields checksum and checksumType of a form before its file, or Repr-Digest."
            );
            return Err(Refusal::invalid(text).closing());
        }
    }
    Ok(Terms {
        store: terms.store.or(routed.store),
        most: terms.max_size.filter(|_| beginning.in_a_form),
        part_bytes: terms.part_size,
        labels: terms.labels,
    })
}

/// Whether a download may begin, and under which terms.
///
/// # Errors
/// An answer in place of the usual one.
pub async fn on_download(
    gateway: &Gateway,
    head: &Parts,
    download: &Download,
) -> Result<DownloadTerms, Instead> {
    let (Some(told), Some(known)) = (
        head.extensions.get::<Told>(),
        head.extensions.get::<Arc<RequestFacts>>(),
    ) else {
        return Ok(DownloadTerms::default());
    };
    if !gateway.scripts.defines(Hook::OnDownload) {
        return Ok(DownloadTerms::default());
    }
    let blob = Arc::new(blob(download));
    let asked = gateway.scripts.on_download(told, &blob).await;
    match noted(known, asked).map_err(Instead::Refusal)? {
        DownloadVerdict::Serve(terms) => Ok(terms),
        DownloadVerdict::Redirect(redirect) => Err(Instead::Answer(redirected(&redirect))),
        DownloadVerdict::Deny(denial) => Err(Instead::Refusal(denied(denial))),
    }
}

/// What the terms of a download change of its answer.
pub fn on_terms(response: &mut Response<OutboundBody>, terms: &DownloadTerms) {
    keep(response.headers_mut(), terms.cache);
    change(response.headers_mut(), &terms.headers);
}

fn blob(download: &Download) -> facts::Blob {
    let stored = &download.blob;
    let since = download
        .modified
        .and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    named(
        download.name.as_ref(),
        facts::Blob {
            id: stored.key.to_string().into(),
            size: stored.length,
            created_ms: since.map_or(0, |s| i64::try_from(s.as_millis()).unwrap_or(i64::MAX)),
            store: download.store.as_str().into(),
            labels: download.labels.clone(),
            ..of_digests(stored.blake3, stored.sha256)
        },
    )
}

/// What is known of a blob by its digests alone.
fn of_digests(blake3: Blake3, sha256: Option<Sha256>) -> facts::Blob {
    let checksum = boxgate_storage::blob::checksum(blake3, sha256);
    facts::Blob {
        checksum: checksum.to_hex().into(),
        checksum_type: checksum.algorithm().name().into(),
        sha256: sha256.map(|sha256| sha256.to_hex().into()),
        blake3: blake3.to_hex().into(),
        ..facts::Blob::default()
    }
}

fn named(name: Option<&BoxRef>, mut blob: facts::Blob) -> facts::Blob {
    if let Some(name) = name {
        blob.organization = name.organization.to_string().into();
        blob.name = name.name.to_string().into();
        blob.version = name.version.to_string().into();
        blob.provider = name.provider.to_string().into();
        blob.architecture = name.architecture.to_string().into();
    }
    blob
}

/// The answer once `route` and `on_response` have changed its head.
///
/// # Errors
/// A refusal in its place, where a hook that must not be passed over failed.
pub async fn on_response(
    gateway: &Gateway,
    told: &Told,
    known: &RequestFacts,
    routing: &Routing,
    mut answer: Response<OutboundBody>,
) -> Result<Response<OutboundBody>, Refusal> {
    if answer.status().is_success() || answer.status() == StatusCode::NOT_MODIFIED {
        keep(answer.headers_mut(), routing.cache);
    }
    change(answer.headers_mut(), &routing.headers);
    if !gateway.scripts.defines(Hook::OnResponse) {
        return Ok(answer);
    }
    let text =
        |(name, value): (&HeaderName, &HeaderValue)| (Text::from(name.as_str()), seen(name, value));
    let cache = answer.headers().get("cache-status");
    let response = Arc::new(facts::Response {
        status: answer.status().as_u16(),
        cache: match cache.map(HeaderValue::as_bytes) {
            Some(b"boxgate; hit") => "hit".into(),
            Some(b"boxgate; fwd=miss") => "miss".into(),
            // What the kernel sends, and what is no blob, goes past the cache.
            _ => "bypass".into(),
        },
        headers: answer.headers().iter().map(text).collect(),
    });
    let changes = noted(known, gateway.scripts.on_response(told, &response).await)?;
    change(answer.headers_mut(), &changes);
    Ok(answer)
}

/// A field of an answer as scripts see it: a session, and what is read by a link, are theirs alone who asked.
fn seen(name: &HeaderName, value: &HeaderValue) -> Text {
    let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
    if *name == SET_COOKIE {
        return Text::from("***");
    }
    match value.split_once("?token=") {
        Some((place, _)) if *name == LOCATION => Text::from(format!("{place}?token=***")),
        _ => Text::from(value),
    }
}
