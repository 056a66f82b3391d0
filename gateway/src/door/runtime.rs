//! `/runtime/image` and `/runtimes/{name}/image`: the Sanbox Runtime API.
//!
//! Errors are plain text, and those of PUT that tell of this runtime have no body at all: its clients read statuses.

mod resumable;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use boxgate_scripting::facts;
use boxgate_storage::ErrorKind;
use boxgate_storage::digest::{Digest, DigestHasher};
use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    LAST_MODIFIED, WWW_AUTHENTICATE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::time::sleep;

use crate::call::Call;
use crate::config::runtime::DEFAULT;
use crate::egress::PlainBody;
use crate::gateway::Gateway;
use crate::handler::download::{self, Download, Selected, selected};
use crate::handler::upload::assert_uncoded;
use crate::hooks;
use crate::http::headers::content_length;
use crate::http::precondition::{PastEnd, Representation, decide};
use crate::http::response;
use crate::ingest;
use crate::multipart::head::Encoding;
use crate::multipart::{self, Form, FormLimits};
use crate::refusal::Refusal;
use crate::request::RequestFacts;
use crate::resumable::{Protocol, digest};
use crate::route::Route;
use crate::runtime::conditions::Conditions;
use crate::runtime::key::Opened;
use crate::runtime::push::{self, Target};
use crate::runtime::{Current, Incoming, Kept, NotDeployed, Runtime, Untold, Whole, date};
use crate::server::{BoxError, InboundBody, OutboundBody, Piece};

type Answer = Result<Response<OutboundBody>, Refusal>;

const CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"runtime\", Bearer");
/// How long whoever tried too many keys waits to hear that this one is wrong, too.
const FAILED_WAIT: Duration = Duration::from_secs(2);
/// The part of a form that holds the image.
const FIELD: &str = "image";

/// A refusal as text; one without is a status and nothing else.
pub fn refuse(refusal: &Refusal) -> Response<OutboundBody> {
    let status = match refusal.status {
        // None of the statuses that its clients know.
        StatusCode::TOO_MANY_REQUESTS => StatusCode::SERVICE_UNAVAILABLE,
        status => status,
    };
    if refusal.message.is_empty() {
        return response::empty(status);
    }
    response::text(status, refusal.message.clone())
}

/// What is not there: nothing tells it from a path that never was.
pub fn absent() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "")
}

/// Whether the path is that of a runtime's image, and of one that is there.
pub fn finds(gateway: &Gateway, path: &str) -> Found {
    let prefix = gateway.settings.doors.runtime.prefix.as_str();
    let Some(path) = path.strip_prefix(prefix) else {
        return Found::Elsewhere;
    };
    let path = path.strip_suffix('/').unwrap_or(path);
    let path = match path.rsplit_once("/uploads/") {
        Some((image, id)) if !id.contains('/') => image,
        _ => path,
    };
    let name = match path {
        "/runtime/image" => Some(DEFAULT),
        _ => path
            .strip_prefix("/runtimes/")
            .and_then(|rest| rest.strip_suffix("/image")),
    };
    match name {
        None => Found::Elsewhere,
        Some(name) if gateway.runtimes.get(name).is_some() => Found::There,
        Some(_) => Found::Absent,
    }
}

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// To no runtime.
    Elsewhere,
    /// To one that is not there.
    Absent,
    /// To one that is.
    There,
}

/// All requests of a runtime's image, in the order of what they are refused for.
pub async fn image(gateway: &Gateway, call: Call) -> Answer {
    let name = match call.names.value("runtime") {
        "" => DEFAULT,
        name => name,
    };
    let Some(runtime) = gateway.runtimes.get(name) else {
        return Err(absent());
    };
    let runtime = Arc::clone(runtime);
    // The vendor's page has PUT answer these without a body.
    let silent = call.row.route == Route::RuntimePush;
    let quietly = |refusal: Refusal| {
        if silent {
            Refusal {
                message: String::new(),
                ..refusal
            }
        } else {
            refusal
        }
    };
    let operation = match call.row.route {
        Route::RuntimePush => "push",
        Route::RuntimeDeploy | Route::RuntimeUpload => "deploy",
        _ => "retrieve",
    };
    let protocol = resumable::spoken(&call);
    let answered = match admit(gateway, &runtime, &call).await {
        Err(refusal) => Err(quietly(refusal)),
        Ok(()) => served(gateway, &runtime, call, protocol).await,
    };
    let answered = match answered {
        Err(refusal) => Err(homeless(gateway, &runtime, refusal).await),
        answered => answered,
    };
    let answered = match protocol {
        Some(protocol) => resumable::worn(protocol, answered),
        None => answered,
    };
    let outcome = match &answered {
        Ok(_) => "ok",
        Err(refusal) => match refusal.status {
            StatusCode::UNAUTHORIZED => "unauthorized",
            status if status.is_client_error() => "refused",
            StatusCode::SERVICE_UNAVAILABLE => "refused",
            _ => "failed",
        },
    };
    let counted = &gateway.telemetry.metrics.images.requests;
    counted
        .with_label_values(&[runtime.name.as_str(), operation, outcome])
        .inc();
    answered
}

/// An upload that went with its organization was taken over by nobody.
async fn homeless(gateway: &Gateway, runtime: &Runtime, refusal: Refusal) -> Refusal {
    let went = refusal
        .cause
        .as_ref()
        .is_some_and(|cause| matches!(cause.kind(), ErrorKind::Fenced | ErrorKind::NotFound));
    if !went {
        return refusal;
    }
    match runtime.homeless(&gateway.metadata).await {
        Some(message) => Refusal {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            code: None,
            message,
            ..refusal
        },
        None => refusal,
    }
}

/// The answer to whoever may ask.
async fn served(
    gateway: &Gateway,
    runtime: &Arc<Runtime>,
    call: Call,
    protocol: Option<Protocol>,
) -> Answer {
    let strict = runtime.settings.strict_statuses;
    // Clients of these protocols know what the statuses mean, and go by them.
    if let (Route::RuntimeDeploy, Some(protocol)) = (call.row.route, protocol) {
        return Box::pin(resumable::begin(gateway, runtime, call, protocol)).await;
    }
    let answered = match call.row.route {
        Route::RuntimeUpload => {
            return Box::pin(resumable::one(gateway, runtime, call, protocol)).await;
        }
        Route::RuntimePush => push(gateway, runtime, call).await,
        Route::RuntimeDeploy => deploy(gateway, runtime, call).await,
        _ => return Box::pin(retrieve(gateway, runtime, &call)).await,
    };
    answered.map_err(|refusal| {
        if strict {
            Refusal {
                status: StatusCode::INTERNAL_SERVER_ERROR,
                ..refusal
            }
        } else {
            refusal
        }
    })
}

/// Who asks, when, and whether that may be asked for.
async fn admit(gateway: &Gateway, runtime: &Runtime, call: &Call) -> Result<(), Refusal> {
    let refused = |text: &str| {
        Refusal::new(StatusCode::UNAUTHORIZED, text).header(WWW_AUTHENTICATE, CHALLENGE)
    };
    let (headers, address) = (&call.head.headers, call.facts.client_ip());
    let now = UNIX_EPOCH + Duration::from_millis(gateway.clock.now().0.unsigned_abs());
    if let Err(why) = date::check(headers, now) {
        return Err(refused(why));
    }
    let Some(opened) = runtime.key.opens(headers) else {
        // It failed: it is dropped as it is.
        let too_many = gateway.admission.sign_in(address).await.is_err();
        // 429 is none of the statuses that its clients know.
        if too_many {
            sleep(FAILED_WAIT).await;
        }
        return Err(refused(
            "The request is not authorized: send the API key as a Bearer token, or by Basic with the user name key.",
        ));
    };
    // Whoever looks for who still uses the key before finds them in the access log.
    let which = match opened {
        Opened::Current => "",
        Opened::Previous => ":previous-key",
    };
    call.facts
        .set_principal(format!("runtime:{}{which}", runtime.name));
    if !runtime.settings.allow_deployments {
        let text = "Deployments are not allowed on this runtime (Image.AllowDeployments).";
        return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text));
    }
    Ok(())
}

async fn retrieve(gateway: &Gateway, runtime: &Runtime, call: &Call) -> Answer {
    let image = match runtime.snapshot(&gateway.metadata).await.map_err(failed)? {
        Current::File(image) => image,
        Current::Stored(iso) => {
            return download::serve(gateway, &call.head, Download::of_iso(*iso)).await;
        }
    };
    let etag = format!("\"{}\"", image.blake3.to_hex());
    let representation = Representation {
        etag: &etag,
        last_modified: Some(image.modified),
        length: image.length,
    };
    let method = &call.head.method;
    let decision = decide(
        &representation,
        method,
        &call.head.headers,
        PastEnd::NotSatisfiable,
    );
    let mut headers = HeaderMap::from_iter([(ETAG, text(&etag))]);
    let (status, range) = match selected(decision, image.length, &mut headers) {
        Selected::Content(status, range) => (status, range),
        Selected::Nothing(answer) => return Ok(answer),
    };
    describe(runtime, image.modified, &mut headers);
    headers.insert(CONTENT_LENGTH, range.length().into());
    let mut answer = if method == Method::HEAD {
        response::empty(status)
    } else {
        let body = PlainBody::open(image.file, range)
            .await
            .map_err(|e| failed(e.to_string()))?;
        let mut answer = Response::new(body.boxed_unsync());
        *answer.status_mut() = status;
        answer
    };
    answer.headers_mut().extend(headers);
    Ok(answer)
}

fn describe(runtime: &Runtime, modified: SystemTime, headers: &mut HeaderMap) {
    let name = runtime.image.file_name().replace(['"', '\\'], "_");
    let disposition = HeaderValue::try_from(format!("attachment; filename=\"{name}\""));
    headers.insert(
        CONTENT_DISPOSITION,
        disposition.unwrap_or(HeaderValue::from_static("attachment")),
    );
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // HTTP has no dates before 1970.
    let modified = modified.max(SystemTime::UNIX_EPOCH);
    headers.insert(LAST_MODIFIED, text(&httpdate::fmt_http_date(modified)));
}

fn text(text: &str) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

async fn deploy(gateway: &Gateway, runtime: &Arc<Runtime>, call: Call) -> Answer {
    assert_uncoded(&call.head.headers)?;
    if call.head.headers.contains_key(CONTENT_RANGE) {
        let text = "A deployment holds the whole image: send it without Content-Range. Nothing was deployed.";
        return Err(Refusal::invalid(text).closing());
    }
    let most = gateway.settings.uploads.max_length_bytes;
    if content_length(&call.head.headers).is_some_and(|length| length > most) {
        return Err(too_large(most).closing());
    }
    let expected = expected_of(gateway, runtime, &call.head.headers).await?;
    let _permit = gateway.admission.upload().await?;
    let to = (gateway, runtime.as_ref());
    // RFC 9530's fields would be of the form.
    let (whole, filename) = if multipart::is_form(&call.head.headers) {
        let limits = FormLimits::of(&gateway.settings);
        let form = Form::open(&call.head.headers, call.body, limits)?;
        of_form(to, form, most).await?
    } else {
        // The body is the image, so that its digest is the image's.
        let content = digest::content_digest(&call.head.headers)?;
        let declared = digest::and_repr_digests(content, &call.head.headers)?;
        (of_body(to, call.body, most, declared).await?, None)
    };
    if whole.length() == 0 {
        return Err(empty());
    }
    let asked = (&call.head, call.facts.as_ref());
    let untold = place(gateway, runtime, asked, whole, filename, expected).await?;
    let mut answer = Response::new(Told(untold).boxed_unsync());
    *answer.status_mut() = StatusCode::ACCEPTED;
    Ok(answer)
}

/// What a request expects of the image in place, which must be so already.
async fn expected_of(
    gateway: &Gateway,
    runtime: &Runtime,
    headers: &HeaderMap,
) -> Result<Conditions, Refusal> {
    let expected = Conditions::of(headers)
        .map_err(|why| Refusal::invalid(format!("{why}. Nothing was deployed.")).closing())?;
    let holds = runtime.is_expected(&gateway.metadata, &expected).await;
    if holds.map_err(unstored)? {
        Ok(expected)
    } else {
        Err(unexpected().closing())
    }
}

/// Puts an image that is all there in place, where plugins have nothing against it.
async fn place(
    gateway: &Gateway,
    runtime: &Arc<Runtime>,
    (head, known): (&Parts, &RequestFacts),
    whole: Whole,
    filename: Option<String>,
    expected: Conditions,
) -> Result<Untold, Refusal> {
    let image = facts::Image {
        size: whole.length(),
        checksum: whole.blake3().to_hex().into(),
        runtime: runtime.name.as_str().into(),
        filename: filename.unwrap_or_else(|| runtime.image.file_name()).into(),
        principal: hooks::holder_of_key(&runtime.name),
    };
    hooks::on_image_deploy(gateway, head, known, image).await?;
    let hops = push::hops(&head.headers);
    let deployed = runtime.deploy(gateway, whole, expected, hops).await;
    deployed.map_err(not_deployed)
}

fn not_deployed(why: NotDeployed) -> Refusal {
    match why {
        NotDeployed::Unexpected => unexpected(),
        NotDeployed::Failed(error) => unstored(error),
        NotDeployed::Refused(error) => error.into(),
    }
}

fn empty() -> Refusal {
    Refusal::invalid("The image is empty. Nothing was deployed.")
}

fn unexpected() -> Refusal {
    let text = "The image in place is none that If-Match and the like let be replaced. Nothing was deployed.";
    Refusal::new(StatusCode::PRECONDITION_FAILED, text)
}

/// An answer without a body; the runtime is told once it is out of hand.
struct Told(#[expect(dead_code, reason = "its end is what matters")] Untold);

impl Body for Told {
    type Data = Piece;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, BoxError>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(0)
    }
}

/// To which runtime an image goes.
type To<'a> = (&'a Gateway, &'a Runtime);

/// All of a body, which must have these digests.
async fn of_body(
    to: To<'_>,
    mut body: InboundBody,
    most: u64,
    declared: Vec<Digest>,
) -> Result<Whole, Refusal> {
    let mut counted = Counted::begin(to, body.declared_length(), most).await?;
    let mut compared = Compared::begin(declared);
    while let Some(bytes) = counted.patiently(body.chunk()).await? {
        compared.update(&bytes);
        counted.write(bytes).await?;
    }
    // What is another image than was meant leaves nothing.
    compared.finish()?;
    counted.finish().await
}

/// Digests that were told of an image, each beside what came of it.
struct Compared(Vec<(Digest, DigestHasher)>);

impl Compared {
    fn begin(declared: Vec<Digest>) -> Self {
        let compared = declared.into_iter().map(|digest| {
            let hasher = DigestHasher::new(digest.algorithm());
            (digest, hasher)
        });
        Self(compared.collect())
    }

    fn update(&mut self, bytes: &[u8]) {
        for (_, hasher) in &mut self.0 {
            hasher.update(bytes);
        }
    }

    fn finish(self) -> Result<(), Refusal> {
        for (declared, hasher) in self.0 {
            if hasher.finish() != declared {
                return Err(other_digest(&declared));
            }
        }
        Ok(())
    }
}

fn other_digest(declared: &Digest) -> Refusal {
    let text = format!(
        "The {} of the image is not {}. Nothing was deployed.",
        declared.algorithm().name(),
        declared.to_hex()
    );
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, text)
}

/// The part `Image`, and what its sender calls it; where there is none of that name, the one file that the form holds.
async fn of_form(
    to: To<'_>,
    mut form: Form,
    most: u64,
) -> Result<(Whole, Option<String>), Refusal> {
    let mut found: Option<(bool, Whole, Option<String>)> = None;
    while let Some(part) = form.part().await? {
        let named = part.name.eq_ignore_ascii_case(FIELD);
        let meant = found.as_ref().is_some_and(|(named, ..)| *named);
        if !named && (meant || part.filename.is_none()) {
            continue;
        }
        if found.is_some() && named == meant {
            let text = if named {
                "The form has a second part named Image. Nothing was deployed."
            } else {
                "The form has more than one file and none is named Image. Nothing was deployed."
            };
            return Err(Refusal::invalid(text).closing());
        }
        if part.encoding == Encoding::Base64 {
            let text =
                "The image comes as base64 text: send its bytes as they are. Nothing was deployed.";
            return Err(Refusal::invalid(text).closing());
        }
        // What was taken for it before goes.
        drop(found.take());
        let mut counted = Counted::begin(to, None, most).await?;
        while let Some(bytes) = counted.patiently(form.chunk()).await? {
            counted.write(bytes).await?;
        }
        found = Some((named, counted.finish().await?, part.filename));
    }
    found.map(|(_, whole, name)| (whole, name)).ok_or_else(|| {
        Refusal::invalid("The form has no file in a part named Image. Nothing was deployed.")
    })
}

/// An image on its way in, and how many bytes it may still have.
struct Counted {
    incoming: Incoming,
    left: u64,
    most: u64,
}

impl Counted {
    async fn begin(
        (gateway, runtime): To<'_>,
        length: Option<u64>,
        most: u64,
    ) -> Result<Self, Refusal> {
        Ok(Self {
            incoming: receive(gateway, runtime, length).await?,
            left: most,
            most,
        })
    }

    /// What comes next; whoever is silent keeps no memory of a store.
    async fn patiently<E>(
        &mut self,
        next: impl Future<Output = Result<Option<Bytes>, E>>,
    ) -> Result<Option<Bytes>, Refusal>
    where
        Refusal: From<E>,
    {
        match &mut self.incoming {
            Incoming::File(_) => Ok(next.await?),
            Incoming::Stored(sending) => ingest::patiently(next, sending.writer()).await,
        }
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), Refusal> {
        let left = self.left.checked_sub(bytes.len() as u64);
        self.left = left.ok_or_else(|| too_large(self.most).closing())?;
        self.incoming.write(bytes).await.map_err(not_deployed)
    }

    async fn finish(self) -> Result<Whole, Refusal> {
        self.incoming.finish().await.map_err(not_deployed)
    }
}

/// Begins to take an image in.
async fn receive(
    gateway: &Gateway,
    runtime: &Runtime,
    length: Option<u64>,
) -> Result<Incoming, Refusal> {
    match &runtime.image {
        Kept::File(image) => Ok(Incoming::File(image.stage().await.map_err(unstored)?)),
        Kept::Stored(stored) => {
            let sending = stored.begin(gateway, &runtime.name, length).await?;
            Ok(Incoming::Stored(sending))
        }
    }
}

fn too_large(most: u64) -> Refusal {
    let text = format!(
        "An image has at most {most} bytes here (uploads.max_length). Nothing was deployed."
    );
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, text)
}

#[expect(clippy::needless_pass_by_value, reason = "fits map_err")]
fn unstored(error: io::Error) -> Refusal {
    let (status, text) = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => (
            StatusCode::INSUFFICIENT_STORAGE,
            "There is no room for the image where it is kept.".to_owned(),
        ),
        _ => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("The image was not stored: {error}."),
        ),
    };
    tracing::error!(%error, "an image was not deployed");
    Refusal::new(
        status,
        format!("{text} The image before is still in place."),
    )
    .closing()
}

async fn push(gateway: &Gateway, runtime: &Runtime, mut call: Call) -> Answer {
    let limits = &gateway.settings.limits;
    let what = ("JSON body", "limits.json_body");
    let text = call
        .small_body(what, limits.json_body_bytes, limits.json_timeout)
        .await?;
    let target = Target::of_document(&text).map_err(|why| {
        let like = "{\"targetUrl\": \"https://runtime.example.com\", \"targetAPIKey\": \"...\"}";
        Refusal::invalid(format!("Nothing was pushed: {why}. Send {like}."))
    })?;
    let image = runtime.snapshot(&gateway.metadata).await.map_err(failed)?;
    let told = facts::Push {
        target_host: target.to.host().to_ascii_lowercase().into(),
        target: target.to.url().as_str().into(),
        image: Arc::new(facts::Image {
            size: image.length(),
            checksum: image.blake3().to_hex().into(),
            runtime: runtime.name.as_str().into(),
            filename: runtime.image.file_name().into(),
            principal: hooks::holder_of_key(&runtime.name),
        }),
    };
    let other = hooks::on_image_push(gateway, &call.head, &call.facts, told).await?;
    let target = match other {
        Some(url) => Target::parse(&url, target.key)
            .map_err(|why| failed(format!("A script names another target: {why}.")))?,
        None => target,
    };
    let pushed = runtime.push(gateway, &target, image).await;
    pushed.map_err(failed)?;
    Ok(response::empty(StatusCode::ACCEPTED))
}

fn failed(why: String) -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, why)
}

/// `GET /api/admin/runtimes`.
pub fn list(gateway: &Gateway) -> Response<OutboundBody> {
    let runtimes: Vec<_> = gateway
        .runtimes
        .all()
        .map(|runtime| runtime.status())
        .collect();
    response::json(StatusCode::OK, &json!({ "runtimes": runtimes }))
}

#[cfg(test)]
mod tests {
    use boxgate_storage::digest::Algorithm;

    use super::*;

    #[test]
    fn every_digest_that_was_told_must_be_the_images() {
        let of = |algorithm, bytes: &[u8]| {
            let mut hasher = DigestHasher::new(algorithm);
            hasher.update(bytes);
            hasher.finish()
        };
        let compared = |declared: &[Digest]| {
            let mut compared = Compared::begin(declared.to_vec());
            compared.update(b"an ");
            compared.update(b"image");
            compared.finish().map_err(|refusal| refusal.status)
        };
        let ours = [Algorithm::Sha256, Algorithm::Sha512].map(|a| of(a, b"an image"));
        let other = of(Algorithm::Blake3, b"another");
        assert_eq!(compared(&[]), Ok(()));
        assert_eq!(compared(&ours), Ok(()));
        let [sha256, _] = ours;
        let refused = Err(StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(compared(&[sha256, other]), refused);
    }
}
