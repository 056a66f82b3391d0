//! One request and its answer, on whatever it came by: checked, told to those above, watched to its end.
//!
//! The three versions of HTTP share all of this; what differs between them is asked of [`Way`].

use std::future::pending;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use boxgate_storage::trace;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Either, Ready, ready};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Body as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::body::{Counted, Ending, InboundBody, OutboundBody, Source, TrailerLimits};
use super::file::FileSender;
use super::interim::Interim;
use super::lanes::Seat;
use super::linger::ConnState;
use super::pace::Patience;
use super::{Respond, Rules};
use crate::http::framing;
use crate::http::problem::Problem;
use crate::http::response;
use crate::request::{RequestFacts, client_ip};
use crate::telemetry::Telemetry;
use crate::telemetry::access::{AccessLine, CLIENT_LEFT};
use crate::telemetry::log;
use crate::telemetry::otlp::{Side, Span, Spans};
use crate::telemetry::trace::Trace;

/// Names the request in every error answer; the log finds it by the same id.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACE_ID: HeaderName = HeaderName::from_static("x-trace-id");

/// What an answer gives at once on HTTP/2 and 3. At the slowest rate that is borne (`server.slowest_rate`)
/// it is taken well within the time that nothing may move (`server.body_idle_timeout`).
const PIECE_BYTES: usize = 32 << 10;

/// What answers and what is to be kept to; shared by all connections.
pub(super) struct Exchange {
    pub(super) responder: Arc<dyn Respond>,
    pub(super) rules: Arc<Rules>,
    pub(super) telemetry: Arc<Telemetry>,
    /// What is borne of a client's slowness.
    pub(super) patience: Patience,
    /// Cancelled when bodies had better come to another node.
    pub(super) leaving: Arc<CancellationToken>,
    /// Cancelled when bodies are no longer read.
    pub(super) ending: Arc<CancellationToken>,
    /// Cancelled when another process comes in the place of this one.
    pub(super) handing_over: Arc<CancellationToken>,
    /// Requests that have no answer yet.
    pub(super) working: TaskTracker,
    /// Tasks that a stop waits for.
    pub(super) running: TaskTracker,
}

/// How a request came.
#[derive(Clone)]
pub(super) struct Way {
    /// The other end of its connection.
    pub(super) peer: IpAddr,
    /// For whom that speaks, where it said so when the connection began.
    pub(super) client: Option<IpAddr>,
    /// Its place among the listeners of the configuration.
    pub(super) listener: usize,
    /// `http` or `https`.
    pub(super) scheme: &'static str,
    /// Where the same is served by HTTP/3 (RFC 7838), for those who came by TCP.
    pub(super) alternative: Option<HeaderValue>,
}

/// A request whose body is not looked at yet.
pub(super) struct Arrived {
    pub(super) head: Parts,
    pub(super) body: Source,
    /// Whether there is a body.
    pub(super) has_body: bool,
    /// Of its connection on HTTP/1, of itself on HTTP/2 and 3.
    pub(super) state: Arc<ConnState>,
}

/// An answer on its way out.
pub(super) type Answer = Response<Counted<RequestEnd>>;

/// An answer that is there, or that is made.
pub(super) type Answering = Either<Ready<Answer>, BoxFuture<'static, Answer>>;

impl Exchange {
    /// Answers one request.
    pub(super) fn answer(&self, way: &Way, arrived: Arrived) -> Answering {
        let Arrived { head, has_body, .. } = &arrived;
        let state = Arc::clone(&arrived.state);
        state.request_came(!has_body);
        let limits = &self.rules.limits;
        let version = head.version;
        self.telemetry.metrics.request_came(version);
        let checked = framing::check(head, limits.uri_bytes, limits.header_fields);
        let authority = checked.as_ref().map_or("", Authority::as_str);
        let end = RequestEnd {
            telemetry: Arc::clone(&self.telemetry),
            facts: Arc::new(self.facts(way, head, authority)),
            state: Arc::clone(&state),
            method: head.method.clone(),
            status: None,
            over: false,
        };
        let dress = Dress {
            version,
            head_only: head.method == Method::HEAD,
            alternative: way.alternative.clone(),
            handing_over: Arc::clone(&self.handing_over),
        };
        let sender = if version <= Version::HTTP_11 {
            FileSender::of(&state)
        } else {
            None
        };
        let known = match checked {
            Err(refusal) => {
                let problem = Problem::new(refusal.status, "INVALID_REQUEST", refusal.rule);
                let mut answer = problem.with_request_id(end.facts.id()).into_response();
                close(&mut answer, version);
                Some(answer)
            }
            Ok(_) if *has_body => None,
            Ok(_) => self.answer_at_once(head, sender.as_ref(), &end),
        };
        match known {
            Some(answer) => {
                // What still comes of a body is nobody's.
                drop(arrived);
                if let Some(seat) = state.seat() {
                    seat.answered_at_once();
                }
                Either::Left(ready(finish(answer, end, &state, dress)))
            }
            None => Either::Right(self.work(arrived, sender, end, dress)),
        }
    }

    fn facts(&self, way: &Way, head: &Parts, authority: &str) -> RequestFacts {
        let rules = &self.rules;
        let client = way.client.unwrap_or_else(|| {
            let trusted = rules.trusted_proxies.now();
            client_ip(way.peer, &head.headers, &trusted, &rules.server.client_ip)
        });
        let begins = self.telemetry.spans().is_some_and(Spans::begins);
        RequestFacts::new(client, authority)
            .at(way.listener)
            .by(way.scheme)
            .through(way.peer)
            .traced(&head.headers, begins)
    }

    fn answer_at_once(
        &self,
        head: &Parts,
        sender: Option<&FileSender>,
        end: &RequestEnd,
    ) -> Option<Response<OutboundBody>> {
        let answer = || self.responder.answer_at_once(head, sender, &end.facts);
        catch_unwind(AssertUnwindSafe(answer)).unwrap_or_else(|_| Some(panicked(end)))
    }

    /// Has a request answered, and is the answer's future.
    fn work(
        &self,
        arrived: Arrived,
        sender: Option<FileSender>,
        end: RequestEnd,
        dress: Dress,
    ) -> BoxFuture<'static, Answer> {
        let Arrived {
            mut head,
            body,
            has_body,
            state,
        } = arrived;
        let (version, facts) = (head.version, Arc::clone(&end.facts));
        if version > Version::HTTP_11
            && has_body
            && !head.headers.contains_key(header::CONTENT_LENGTH)
        {
            // RFC 9113 §8.1, RFC 9114 §4.1: the stream's end is the body's. What looks at heads finds what HTTP/1.1 has
            // for that, as behind any gateway between the two; a client cannot send this field there.
            let chunked = HeaderValue::from_static("chunked");
            head.headers.insert(header::TRANSFER_ENCODING, chunked);
        }
        head.extensions.insert(Arc::clone(&facts));
        let trailers = TrailerLimits {
            bytes: self.rules.limits.trailer_bytes,
            fields: self.rules.limits.trailer_fields,
        };
        let inbound = InboundBody::new(
            body,
            Arc::clone(&state),
            self.patience,
            trailers,
            (Arc::clone(&self.leaving), Arc::clone(&self.ending)),
            Arc::clone(&facts),
        );
        // RFC 9110 §15.2: nothing of the kind to a client of HTTP/1.0; hyper cannot on HTTP/2. And who
        // sends no body waits for the answer alone.
        if has_body && matches!(version, Version::HTTP_11 | Version::HTTP_3) {
            head.extensions.insert(Interim::of(&state));
        }
        if let Some(sender) = sender {
            head.extensions.insert(sender);
        }
        let responder = Arc::clone(&self.responder);
        let trace = facts.trace().map(Trace::to_text);
        let seat = state.seat().cloned();
        let apart = seat.as_ref().and_then(|seat| seat.begins_work(has_body));
        let waits = seat.clone().filter(|_| apart.is_none());
        let answering = async move {
            if let Some(seat) = waits {
                seat.home().await;
            }
            // The call itself is inside, so that a panic in it is caught too.
            let work = async move { responder.respond(Request::from_parts(head, inbound)).await };
            let work = match trace {
                Some(trace) => Either::Left(trace::within(trace, work)),
                None => Either::Right(work),
            };
            let answer = match AssertUnwindSafe(work).catch_unwind().await {
                Ok(answer) => answer,
                Err(_) => panicked(&end),
            };
            finish(answer, end, &state, dress)
        };
        let answering = Box::pin(self.working.track_future(log::within(facts, answering)));
        match apart.zip(seat) {
            Some((home, seat)) => {
                // Its end comes after that of a connection that is cut, which no longer waits for it.
                let made = AbortOnDropHandle::new(self.running.spawn_on(answering, &home));
                Box::pin(brought(made, seat))
            }
            None => answering,
        }
    }
}

/// An answer that is made by another task.
async fn brought(made: AbortOnDropHandle<Answer>, seat: Arc<Seat>) -> Answer {
    match made.await {
        Ok(answer) => {
            // Its body is asked as soon as the answer is there, and what that begins stays where it began.
            if seat.is_given(answer.body().size_hint().exact()) {
                seat.home().await;
            }
            answer
        }
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime ends, and all connections with it.
            Err(_cut) => pending().await,
        },
    }
}

/// What an answer gets on its way out.
struct Dress {
    version: Version,
    head_only: bool,
    alternative: Option<HeaderValue>,
    handing_over: Arc<CancellationToken>,
}

/// The answer to a request that met a defect of ours.
fn panicked(end: &RequestEnd) -> Response<OutboundBody> {
    end.telemetry.metrics.http_panics.inc();
    tracing::error!("a request panicked");
    Problem::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "INTERNAL",
        "something went wrong on our side",
    )
    .with_request_id(end.facts.id())
    .into_response()
}

/// RFC 9113 §8.2.2, RFC 9114 §4.2: later versions have other means than this field.
fn close(answer: &mut Response<OutboundBody>, version: Version) {
    if version > Version::HTTP_11 {
        return;
    }
    answer
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
}

/// Hands the answer over, with what watches its end.
fn finish(
    mut answer: Response<OutboundBody>,
    mut end: RequestEnd,
    state: &ConnState,
    dress: Dress,
) -> Answer {
    let status = answer.status();
    end.status = Some(status.as_u16());
    state.interim().close();
    // RFC 9112 §9.6: who sees this stops sending the rest of a body that nobody reads, and asks the next process by a
    // connection of its own.
    if state.has_unread() || dress.handing_over.is_cancelled() {
        close(&mut answer, dress.version);
    }
    if let Some(alternative) = dress.alternative {
        answer.headers_mut().insert(header::ALT_SVC, alternative);
    }
    if status.is_client_error() || status.is_server_error() {
        // Only there: a good answer may be kept by caches, and then the id would be another's.
        for (name, id) in [
            (REQUEST_ID, end.facts.id()),
            (TRACE_ID, &*end.facts.trace_id()),
        ] {
            if let Ok(id) = HeaderValue::from_str(id) {
                answer.headers_mut().insert(name, id);
            }
        }
    }
    let no_body =
        dress.head_only || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if dress.version <= Version::HTTP_11 {
        return answer.map(|body| Counted::new(body, no_body, usize::MAX, end));
    }
    // RFC 9114 §4.2: with it the answer would be malformed, and its connection end by it.
    answer.headers_mut().remove(header::CONNECTION);
    // hyper does these by itself for HTTP/1.1 alone.
    let length = answer
        .body()
        .size_hint()
        .exact()
        .filter(|_| !no_body || dress.head_only);
    if let Some(length) = length.filter(|length| *length > 0 || !dress.head_only) {
        let headers = answer.headers_mut();
        headers
            .entry(header::CONTENT_LENGTH)
            .or_insert(length.into());
    }
    answer.map(|body| {
        let body = if no_body {
            response::empty_body()
        } else {
            body
        };
        Counted::new(body, no_body, PIECE_BYTES, end)
    })
}

/// Tells metrics and log, once, how a request ended; also when it is dropped in the middle.
pub(super) struct RequestEnd {
    telemetry: Arc<Telemetry>,
    facts: Arc<RequestFacts>,
    state: Arc<ConnState>,
    method: Method,
    status: Option<u16>,
    over: bool,
}

impl RequestEnd {
    fn tell(&mut self, bytes_out: u64) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        let facts = &self.facts;
        let metrics = &self.telemetry.metrics;
        let duration = facts.started().elapsed();
        metrics.request_ended(facts.route().unwrap_or("none"), self.status, duration);
        metrics.http_bytes_in.inc_by(facts.bytes_in());
        metrics.http_bytes_out.inc_by(bytes_out);
        let plugins = facts.plugins();
        self.telemetry.access(&AccessLine {
            request_id: facts.id(),
            principal: facts.principal(),
            client_ip: facts.client_ip(),
            route: facts.route(),
            status: self.status.unwrap_or(CLIENT_LEFT),
            bytes_in: facts.bytes_in(),
            bytes_out,
            duration,
            upload_id: facts.upload(),
            plugins: &plugins,
            trace_id: &facts.trace_id(),
        });
        if let (Some(trace), Some(spans)) = (facts.trace(), self.telemetry.spans()) {
            spans.record(self.span(trace, duration, bytes_out));
        }
    }

    fn span(&self, trace: &Trace, took: Duration, bytes_out: u64) -> Span {
        let facts = &self.facts;
        let route = facts.route().unwrap_or("none");
        let mut told = vec![
            ("http.request.method", self.method.as_str().into()),
            ("url.scheme", facts.scheme().into()),
            ("boxgate.route", route.into()),
            ("boxgate.request_id", facts.id().into()),
            ("boxgate.bytes_in", facts.bytes_in().into()),
            ("boxgate.bytes_out", bytes_out.into()),
        ];
        if let Some(upload) = facts.upload() {
            told.push(("boxgate.upload_id", upload.into()));
        }
        Span {
            trace: trace.clone(),
            name: format!("{} {route}", self.method),
            side: Side::Server,
            took,
            status: self.status,
            facts: told,
        }
    }
}

impl Ending for RequestEnd {
    fn ended(&mut self, bytes: u64, end: super::body::End) {
        use super::body::End;
        let reason = match end {
            End::Complete => None,
            End::Failed => Some("source"),
            End::Dropped if self.state.is_slow_reader() => Some("slow_reader"),
            End::Dropped => Some("client"),
        };
        if let Some(reason) = reason {
            let broken = &self.telemetry.metrics.downloads_broken;
            broken.with_label_values(&[reason]).inc();
        }
        self.tell(bytes);
    }

    fn unframed_end(&mut self) {
        self.state.reset_on_close();
    }
}

impl Drop for RequestEnd {
    fn drop(&mut self) {
        // The client left before there was an answer.
        self.tell(0);
    }
}
