//! One listener's loop and one connection's life.

use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::body::{Counted, Ending, InboundBody, OutboundBody, TrailerLimits};
use super::drain::Drain;
use super::interim::Interim;
use super::linger::{ConnState, HeadTimer, Wire};
use super::pace::Patience;
use super::peers::{Peers, Place};
use super::{Respond, Rules};
use crate::http::framing;
use crate::http::problem::Problem;
use crate::request::{RequestFacts, client_ip};
use crate::telemetry::Telemetry;
use crate::telemetry::access::{AccessLine, CLIENT_LEFT};

/// Names the request in every error answer; the log finds it by the same id.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What all connections share.
pub(super) struct Acceptor {
    responder: Arc<dyn Respond>,
    rules: Arc<Rules>,
    telemetry: Arc<Telemetry>,
    drain: Drain,
    running: TaskTracker,
    connections: Arc<Semaphore>,
    peers: Arc<Peers>,
}

impl Acceptor {
    pub(super) fn new(
        responder: Arc<dyn Respond>,
        rules: Arc<Rules>,
        telemetry: Arc<Telemetry>,
        drain: Drain,
        running: TaskTracker,
    ) -> Self {
        let most = rules.limits.connections.min(Semaphore::MAX_PERMITS);
        Self {
            connections: Arc::new(Semaphore::new(most)),
            peers: Peers::new(rules.limits.connections_per_address),
            responder,
            rules,
            telemetry,
            drain,
            running,
        }
    }

    /// Accepts until no more connections are wanted. At the limit nothing is accepted: who waits
    /// in the kernel's queue is served when a place is free.
    pub(super) async fn accept(self: Arc<Self>, listener: TcpListener) {
        let closing = self.drain.closing();
        loop {
            let permit = tokio::select! {
                permit = Arc::clone(&self.connections).acquire_owned() => permit,
                () = closing.cancelled() => return,
            };
            let Ok(permit) = permit else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = closing.cancelled() => return,
            };
            match accepted {
                Ok((stream, peer)) => self.begin(stream, peer, permit),
                Err(error) => {
                    // Out of files, or a connection that was gone before we took it: the first needs
                    // a pause, the second is harmed by none.
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    fn begin(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr, permit: OwnedSemaphorePermit) {
        let address = peer.ip().to_canonical();
        let is_trusted = self
            .rules
            .trusted_proxies
            .iter()
            .any(|block| block.contains(address));
        let place = if is_trusted {
            None
        } else {
            let place = self.peers.take(address);
            if place.is_none() {
                let refused = &self.telemetry.metrics.connections_refused;
                refused.with_label_values(&["address"]).inc();
                return;
            }
            place
        };
        let held = Held {
            _permit: permit,
            _place: place,
            telemetry: Arc::clone(&self.telemetry),
        };
        held.telemetry.metrics.connections.inc();
        let this = Arc::clone(self);
        self.running.spawn(async move {
            let telemetry = Arc::clone(&held.telemetry);
            let served = AssertUnwindSafe(this.serve(stream, address)).catch_unwind();
            if served.await.is_err() {
                // A body of ours panicked: its connection is lost, nobody else's.
                telemetry.metrics.http_panics.inc();
                tracing::error!("a response body panicked");
            }
            drop(held);
        });
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, peer: IpAddr) {
        // Answers are written whole; waiting for more would only delay the last packet.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection was gone before it began");
            return;
        }
        let server = &self.rules.server;
        let patience = Patience {
            idle: server.body_idle_timeout,
            slowest_bytes: server.slowest_rate_bytes,
            window: server.slowest_rate_window,
        };
        let state = Arc::new(ConnState::default());
        let wire = Wire::new(stream, Arc::clone(&state), patience);
        let timer = HeadTimer::new(Arc::clone(&state), server.head_timeout, server.idle_timeout);
        let service = Connection {
            acceptor: Arc::clone(&self),
            peer,
            patience,
            state: Arc::clone(&state),
        };
        let mut connection = http1::Builder::new()
            .timer(timer)
            // Only switches the timer on; the times are the timer's own.
            .header_read_timeout(server.head_timeout)
            .max_headers(self.rules.limits.header_fields)
            .max_header_size(self.rules.limits.head_bytes)
            .serve_connection(TokioIo::new(wire), service);

        let closing = self.drain.closing();
        let cut = self.drain.cut();
        let mut asked = false;
        let result = loop {
            tokio::select! {
                biased;
                () = cut.cancelled() => return,
                () = closing.cancelled(), if !asked => {
                    asked = true;
                    std::pin::Pin::new(&mut connection).graceful_shutdown();
                }
                result = &mut connection => break result,
            }
        };
        let Err(error) = result else { return };
        tracing::debug!(error = %boxgate_storage::error::chain(&error), "a connection broke");
        if error.is_timeout() && state.head_is_partial() {
            let mut wire = connection.into_parts().io.into_inner();
            // RFC 9110 §15.5.9. Whoever is gone by now does not miss it.
            let answer =
                b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
            let _gone = wire.write_all(answer).await;
            let _gone = wire.shutdown().await;
        }
    }
}

/// What a connection holds as long as it lives.
struct Held {
    _permit: OwnedSemaphorePermit,
    _place: Option<Place>,
    telemetry: Arc<Telemetry>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.telemetry.metrics.connections.dec();
    }
}

/// hyper's view of us: one request in, one answer out.
struct Connection {
    acceptor: Arc<Acceptor>,
    peer: IpAddr,
    patience: Patience,
    state: Arc<ConnState>,
}

impl hyper::service::Service<Request<Incoming>> for Connection {
    type Response = Response<Counted<RequestEnd>>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (mut head, body) = request.into_parts();
        let has_body = !hyper::body::Body::is_end_stream(&body);
        self.state.request_came(!has_body);
        let rules = &self.acceptor.rules;
        let checked = framing::check(&head, rules.limits.uri_bytes);
        let client = client_ip(
            self.peer,
            &head.headers,
            &rules.trusted_proxies,
            &rules.server.client_ip,
        );
        let authority = checked.as_ref().map_or("", http::uri::Authority::as_str);
        let facts = Arc::new(RequestFacts::new(client, authority));
        let end = RequestEnd {
            telemetry: Arc::clone(&self.acceptor.telemetry),
            facts: Arc::clone(&facts),
            state: Arc::clone(&self.state),
            status: None,
            over: false,
        };
        let head_only = head.method == Method::HEAD;
        let state = Arc::clone(&self.state);
        if let Err(refusal) = checked {
            let problem = Problem::new(refusal.status, "invalid_request", refusal.rule);
            let mut answer = problem.with_request_id(facts.id()).into_response();
            close(&mut answer);
            return Box::pin(async move { Ok(finish(answer, end, &state, head_only)) });
        }
        head.extensions.insert(Arc::clone(&facts));
        let trailers = TrailerLimits {
            bytes: rules.limits.trailer_bytes,
            fields: rules.limits.trailer_fields,
        };
        let inbound = InboundBody::from_wire(
            body,
            Arc::clone(&state),
            self.patience,
            trailers,
            Arc::clone(&facts),
        );
        // RFC 9110 §15.2: nothing of the kind to a client of HTTP/1.0. And who sends no body waits for
        // the answer alone.
        if has_body && head.version == Version::HTTP_11 {
            head.extensions.insert(Interim::of(&self.state));
        }
        let responder = Arc::clone(&self.acceptor.responder);
        let span = tracing::info_span!("request", request_id = facts.id());
        Box::pin(
            async move {
                // The call itself is inside, so that a panic in it is caught too.
                let work =
                    async move { responder.respond(Request::from_parts(head, inbound)).await };
                let answer = match AssertUnwindSafe(work).catch_unwind().await {
                    Ok(answer) => answer,
                    Err(_) => panicked(&end),
                };
                Ok(finish(answer, end, &state, head_only))
            }
            .instrument(span),
        )
    }
}

/// The answer to a request that met a defect of ours.
fn panicked(end: &RequestEnd) -> Response<OutboundBody> {
    end.telemetry.metrics.http_panics.inc();
    tracing::error!("a request panicked");
    Problem::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        "something went wrong on our side",
    )
    .with_request_id(end.facts.id())
    .into_response()
}

fn close(answer: &mut Response<OutboundBody>) {
    answer
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
}

/// Hands the answer over, with what watches its end.
fn finish(
    mut answer: Response<OutboundBody>,
    mut end: RequestEnd,
    state: &ConnState,
    head_only: bool,
) -> Response<Counted<RequestEnd>> {
    let status = answer.status();
    end.status = Some(status.as_u16());
    state.interim().close();
    if state.has_unread() {
        // RFC 9112 §9.6: who sees this stops sending the rest of a body that nobody reads.
        close(&mut answer);
    }
    if status.is_client_error() || status.is_server_error() {
        // Only there: a good answer may be kept by caches, and then the id would be another's.
        if let Ok(id) = HeaderValue::from_str(end.facts.id()) {
            answer.headers_mut().insert(REQUEST_ID, id);
        }
    }
    let no_body = head_only || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    answer.map(|body| Counted::new(body, no_body, end))
}

/// Tells metrics and log, once, how a request ended; also when it is dropped in the middle.
struct RequestEnd {
    telemetry: Arc<Telemetry>,
    facts: Arc<RequestFacts>,
    state: Arc<ConnState>,
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
        });
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
