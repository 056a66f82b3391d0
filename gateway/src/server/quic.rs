//! HTTP/3: one UDP port, its connections, and each request as a task of its own.
//!
//! quinn bounds what a client may send unread and what we keep until it is acknowledged; h3 speaks the
//! protocol. The clocks of slow clients are ours, as on the other versions. 0-RTT stays off (`tls.rs`).

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::{Buf as _, Bytes};
use futures_util::FutureExt as _;
use h3::error::Code;
use h3::server::{RequestResolver, RequestStream};
use http::header::{CONTENT_LENGTH, DATE, EXPECT};
use http::{HeaderMap, HeaderValue, Response};
use http_body::{Body as _, Frame};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{
    Endpoint, EndpointConfig, IdleTimeout, Incoming, TokioRuntime, TransportConfig, VarInt,
};
use tokio_util::task::TaskTracker;

use super::Rules;
use super::body::{BodyError, Source};
use super::exchange::{Answer, Arrived, Exchange, Way};
use super::file::Piece;
use super::h2::Activity;
use super::interim::Message;
use super::linger::ConnState;
use super::pace::Pace;
use super::tcp::Acceptor;
use super::tls::Configurations;

/// Connections whose first packet waits for us to look at it, and what quinn keeps of all of them.
const MOST_INCOMING: usize = 1024;
const INCOMING_BYTES: u64 = 16 << 10;
const INCOMING_BYTES_TOTAL: u64 = 4 << 20;
/// Nothing moves for so long once all is delivered; far more than a round trip.
const QUIET: Duration = Duration::from_secs(1);
/// How long ended connections are given to hear of their end.
const LAST_WORDS: Duration = Duration::from_secs(1);

type Sending = RequestStream<h3_quinn::SendStream<Bytes>, Bytes>;
type Receiving = RequestStream<h3_quinn::RecvStream, Bytes>;
type Served = h3::server::Connection<h3_quinn::Connection, Bytes>;

/// Binds the UDP port.
pub(super) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Makes the endpoint of a bound port.
pub(super) fn endpoint(
    socket: UdpSocket,
    configurations: &Configurations,
    rules: &Rules,
) -> io::Result<Endpoint> {
    let tls = QuicServerConfig::try_from(configurations.quic.clone()).map_err(io::Error::other)?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(tls));
    server
        .max_incoming(MOST_INCOMING)
        .incoming_buffer_size(INCOMING_BYTES)
        .incoming_buffer_size_total(INCOMING_BYTES_TOTAL)
        .transport_config(Arc::new(transport(rules)));
    let (config, runtime) = (EndpointConfig::default(), Arc::new(TokioRuntime));
    Endpoint::new(config, Some(server), socket, runtime)
}

fn transport(rules: &Rules) -> TransportConfig {
    // Half of what one connection may cost is for each direction: over TCP the kernel keeps what is not
    // acknowledged, here we do.
    let window = rules.server.h2_window_bytes / 2;
    let idle = u32::try_from(rules.server.h3_idle_timeout.as_millis()).unwrap_or(u32::MAX);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(rules.limits.h2_streams))
        .max_concurrent_uni_streams(VarInt::from_u32(rules.limits.h3_control_streams))
        .receive_window(VarInt::from_u32(window))
        .stream_receive_window(VarInt::from_u32(window))
        .send_window(u64::from(window))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle))))
        .datagram_receive_buffer_size(None);
    transport
}

/// Accepts until no more connections are wanted, then turns away who still comes until `running` is over.
pub(super) async fn accept(acceptor: Arc<Acceptor>, endpoint: Endpoint, listener: usize) {
    let closing = acceptor.drain.shut();
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            () = closing.cancelled() => break,
        };
        let Some(incoming) = incoming else { break };
        begin(&acceptor, incoming, listener);
    }
    endpoint.set_server_config(None);
}

/// Ends an endpoint's connections, whatever they wait for.
pub(super) fn cut(endpoint: &Endpoint) {
    endpoint.close(VarInt::from_u32(0x100), b"the gateway stops");
}

/// Ends what is left of an endpoint.
pub(super) async fn close(endpoint: &Endpoint) {
    cut(endpoint);
    let _forgotten = tokio::time::timeout(LAST_WORDS, endpoint.wait_idle()).await;
}

fn begin(acceptor: &Arc<Acceptor>, incoming: Incoming, listener: usize) {
    // An address that nobody answered from yet may be anybody's: where places get few, it is asked first.
    if acceptor.is_crowded() && incoming.may_retry() && !incoming.remote_address_validated() {
        if incoming.retry().is_err() {
            tracing::debug!("a QUIC client could not be asked for its address");
        }
        return;
    }
    let (Some(h2), Some(permit)) = (acceptor.h2_permit(), acceptor.try_permit()) else {
        acceptor.refused("h2");
        return incoming.refuse();
    };
    let Some(held) = acceptor.hold(incoming.remote_address(), permit) else {
        return incoming.refuse();
    };
    let life = serve(Arc::clone(acceptor), incoming, listener);
    acceptor.run(held, async move {
        life.await;
        drop(h2);
    });
}

async fn serve(acceptor: Arc<Acceptor>, incoming: Incoming, listener: usize) {
    let rules = &acceptor.exchange.rules;
    let (closing, cut) = (acceptor.drain.closing(), acceptor.drain.cut());
    let shaken = tokio::select! {
        shaken = shake_hands(&acceptor.exchange, incoming) => shaken,
        () = cut.cancelled() => return,
    };
    let Some((quic, mut connection)) = shaken else {
        return;
    };
    let activity = Activity::default();
    let requests = TaskTracker::new();
    let mut silent = pin!(activity.silent(rules.server.head_timeout));
    let mut idle = pin!(activity.idle(rules.server.idle_timeout));
    let mut asked = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = cut.cancelled() => break,
            () = &mut silent, if !asked => break,
            () = &mut idle, if !asked => {
                asked = true;
                None
            }
            () = closing.cancelled(), if !asked => {
                asked = true;
                None
            }
            accepted = connection.accept() => Some(accepted),
            () = requests.wait(), if asked => break,
        };
        match accepted {
            // RFC 9114 §5.2: the id is that of the first request that is not looked at; h3 counts from
            // the last one that was.
            None => {
                requests.close();
                // A client that has no room for so little is not waited for.
                let told = tokio::select! {
                    biased;
                    told = connection.shutdown(1) => told.is_ok(),
                    () = requests.wait() => false,
                    () = cut.cancelled() => false,
                };
                if !told {
                    break;
                }
            }
            Some(Ok(Some(resolver))) => {
                let way = Way {
                    client: None,
                    peer: quic.remote_address().ip().to_canonical(),
                    listener,
                    scheme: "https",
                    alternative: None,
                };
                let active = activity.begin();
                let answering = request(Arc::clone(&acceptor), resolver, way);
                let task = AssertUnwindSafe(acceptor.running.track_future(answering));
                let panics = acceptor.exchange.telemetry.metrics.http_panics.clone();
                let _detached = requests.spawn(async move {
                    if task.catch_unwind().await.is_err() {
                        panics.inc();
                        tracing::error!("a response body panicked");
                    }
                    drop(active);
                });
            }
            Some(Ok(None)) => break,
            Some(Err(error)) => {
                tracing::debug!(%error, "a connection ended");
                break;
            }
        }
    }
    requests.close();
    let ended = async {
        requests.wait().await;
        delivered(&quic).await;
    };
    tokio::select! {
        () = ended => {}
        () = cut.cancelled() => {}
    }
}

/// Does the handshake and sends what HTTP/3 begins with, each within its time: a client may have no room for the
/// latter, and never be silent.
async fn shake_hands(
    exchange: &Exchange,
    incoming: Incoming,
) -> Option<(quinn::Connection, Served)> {
    let rules = &exchange.rules;
    let failed = &exchange.telemetry.metrics.tls_handshakes_failed;
    let limit = rules.server.handshake_timeout;
    let shaking = async { incoming.accept()?.await };
    let quic = match tokio::time::timeout(limit, shaking).await {
        Ok(Ok(quic)) => quic,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a QUIC handshake failed");
            failed.inc();
            return None;
        }
        Err(_elapsed) => {
            failed.inc();
            return None;
        }
    };
    let mut builder = h3::server::builder();
    builder
        .max_field_section_size(u64::from(rules.limits.h2_header_list_bytes))
        .send_grease(false);
    let built = builder.build(h3_quinn::Connection::new(quic.clone()));
    match tokio::time::timeout(limit, built).await {
        Ok(Ok(connection)) => Some((quic, connection)),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a connection broke");
            None
        }
        Err(_elapsed) => {
            tracing::debug!("a client has no room for what HTTP/3 begins with");
            None
        }
    }
}

/// Waits until nothing moves on a connection whose requests are answered: closing it drops what the client
/// has not acknowledged, and quinn tells of that only by the frames it sends and gets.
async fn delivered(quic: &quinn::Connection) {
    let moved = || {
        let stats = quic.stats();
        (stats.frame_tx.stream, stats.frame_rx.acks)
    };
    let mut before = moved();
    loop {
        tokio::select! {
            _reason = quic.closed() => return,
            () = tokio::time::sleep(QUIET) => {}
        }
        let now = moved();
        if now == before {
            return;
        }
        before = now;
    }
}

/// One request, from its head to the end of its answer.
async fn request(
    acceptor: Arc<Acceptor>,
    resolver: RequestResolver<h3_quinn::Connection, Bytes>,
    way: Way,
) {
    let exchange = &acceptor.exchange;
    let head_timeout = exchange.rules.server.head_timeout;
    let resolved = tokio::time::timeout(head_timeout, resolver.resolve_request()).await;
    let (request, stream) = match resolved {
        Ok(Ok(resolved)) => resolved,
        Ok(Err(error)) => return tracing::debug!(%error, "a request is not one"),
        Err(_elapsed) => return tracing::debug!("a request's head took too long"),
    };
    let (sending, receiving) = stream.split();
    let mut outbound = Outbound {
        stream: sending,
        otherwise: Some(Code::H3_MESSAGE_ERROR),
    };
    let (head, ()) = request.into_parts();
    let Some(body) = Inbound::begin(&head.headers, receiving, head_timeout).await else {
        return;
    };
    outbound.otherwise = Some(Code::H3_REQUEST_CANCELLED);
    let state = Arc::new(ConnState::default());
    let has_body = !body.is_over();
    let arrived = Arrived {
        head,
        body: Source::Quic(Box::new(body)),
        has_body,
        state: Arc::clone(&state),
    };
    let mut answering = exchange.answer(&way, arrived);
    let mut pace = Pace::new(exchange.patience);
    let answered = async {
        let answer = loop {
            let message = tokio::select! {
                biased;
                message = state.interims().next(), if has_body => message,
                answer = &mut answering => break answer,
            };
            let message = outbound.stream.send_response(interim(message));
            paced(&mut pace, &state, 0, message).await?;
        };
        answered(&mut outbound, answer, &mut pace, &state).await
    };
    let cut = acceptor.drain.cut();
    let broken = tokio::select! {
        biased;
        () = cut.cancelled() => return,
        answered = answered => answered.err(),
    };
    match broken {
        None => outbound.otherwise = None,
        Some(Broken::Client | Broken::Slow) => {}
        Some(Broken::Source) => outbound.otherwise = Some(Code::H3_INTERNAL_ERROR),
    }
}

/// An answer's stream. quinn ends a stream cleanly when it is dropped, and a body that is not whole must never
/// look so (RFC 9114 §4.1): it is reset instead, also when a body panics.
struct Outbound {
    stream: Sending,
    /// What the client is told unless the answer came to its end.
    otherwise: Option<Code>,
}

impl Drop for Outbound {
    fn drop(&mut self) {
        if let Some(code) = self.otherwise {
            self.stream.stop_stream(code);
        }
    }
}

fn interim(message: Message) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = message.status;
    *response.headers_mut() = message.headers;
    response
}

/// Sends an answer at the client's pace.
async fn answered(
    outbound: &mut Outbound,
    answer: Answer,
    pace: &mut Pace,
    state: &ConnState,
) -> Result<(), Broken> {
    let (mut head, body) = answer.into_parts();
    let date = httpdate::fmt_http_date(SystemTime::now());
    if let Ok(date) = HeaderValue::from_str(&date) {
        head.headers.entry(DATE).or_insert(date);
    }
    let stream = &mut outbound.stream;
    let head = Response::from_parts(head, ());
    paced(pace, state, 0, stream.send_response(head)).await?;
    let mut body = pin!(body);
    while !body.is_end_stream() {
        let frame = poll_fn(|cx| body.as_mut().poll_frame(cx)).await;
        let Some(frame) = frame else { break };
        // Why is told by the body itself.
        let frame = frame.map_err(|_told| Broken::Source)?;
        match frame.into_data() {
            Ok(Piece::Bytes(data)) => {
                let bytes = data.len();
                paced(pace, state, bytes, stream.send_data(data)).await?;
            }
            // Nobody was offered to send files here.
            Ok(Piece::File(_)) => return Err(Broken::Source),
            Err(_trailers) => {}
        }
    }
    paced(pace, state, 0, stream.finish()).await
}

/// Why an answer was not sent to its end.
enum Broken {
    Client,
    Slow,
    Source,
}

/// Sends within the client's patience, which is ours with it.
async fn paced<E>(
    pace: &mut Pace,
    state: &ConnState,
    bytes: usize,
    sending: impl Future<Output = Result<(), E>>,
) -> Result<(), Broken> {
    let mut sending = pin!(sending);
    let sent = poll_fn(|cx| {
        if let Poll::Ready(sent) = sending.as_mut().poll(cx) {
            return Poll::Ready(sent.map_err(|_gone| Broken::Client));
        }
        pace.poll_stalled(cx).map(|_idle_or_too_slow| {
            // Before the body is dropped, which tells why.
            state.reads_slowly();
            Err(Broken::Slow)
        })
    });
    sent.await?;
    pace.moved(bytes);
    Ok(())
}

/// A request's body. Dropping it asks the client to stop sending, by a code that is none of HTTP/3's and so
/// means that nothing is wrong (RFC 9114 §8); h3-quinn takes another one only while it reads nothing.
pub(super) struct Inbound {
    stream: Receiving,
    /// What came before anybody asked.
    first: Option<Bytes>,
    /// What is still to come, where that was declared.
    left: Option<u64>,
    part: Part,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Data,
    Trailers,
    Over,
}

impl Inbound {
    /// Looks whether there is a body; `None` where the head contradicts itself.
    async fn begin(headers: &HeaderMap, stream: Receiving, limit: Duration) -> Option<Self> {
        let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
        let left = match (lengths.next(), lengths.next()) {
            (None, _) => None,
            (Some(length), None) => {
                let text = length.to_str().ok()?;
                // RFC 9110 §8.6: digits alone; Rust would take a sign.
                let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
                Some(text.parse::<u64>().ok().filter(|_| digits)?)
            }
            (Some(_), Some(_)) => return None,
        };
        let mut body = Self {
            stream,
            first: None,
            left,
            part: Part::Data,
        };
        // Only the end of a stream says that there is no body, and it mostly comes with the head. Who
        // waits for a 100 sends nothing yet.
        if left.is_none() && !headers.contains_key(EXPECT) {
            let first = async {
                let first = poll_fn(|cx| body.poll_data(cx)).await.ok()?;
                // An empty frame of data looks like the end, behind which no data may come.
                if first.is_none() {
                    poll_fn(|cx| body.stream.poll_recv_trailers(cx))
                        .await
                        .ok()?;
                }
                Some(first)
            };
            body.first = tokio::time::timeout(limit, first).await.ok()??;
            if body.first.is_none() {
                body.part = Part::Over;
                body.left = Some(0);
            }
        }
        if left == Some(0) {
            body.part = Part::Trailers;
        }
        Some(body)
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BodyError>> {
        let polled = ready!(self.stream.poll_recv_data(cx));
        Poll::Ready(match polled {
            Ok(data) => Ok(data.map(|mut data| data.copy_to_bytes(data.remaining()))),
            Err(_cut) => Err(BodyError::Cut),
        })
    }

    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.part == Part::Data {
            let data = match self.first.take() {
                Some(first) => Ok(Some(first)),
                None => ready!(self.poll_data(cx)),
            };
            match data {
                Err(error) => return Poll::Ready(Some(Err(error))),
                Ok(Some(data)) => {
                    // RFC 9114 §4.1.2: a length that is not that of the data is malformed.
                    if let Some(left) = &mut self.left {
                        match left.checked_sub(data.len() as u64) {
                            Some(rest) => *left = rest,
                            None => return Poll::Ready(Some(Err(BodyError::Protocol))),
                        }
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(None) if self.left.is_some_and(|left| left > 0) => {
                    return Poll::Ready(Some(Err(BodyError::Cut)));
                }
                Ok(None) => self.part = Part::Trailers,
            }
        }
        if self.part == Part::Trailers {
            let trailers = ready!(self.stream.poll_recv_trailers(cx));
            self.part = Part::Over;
            return match trailers {
                Ok(Some(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Ok(None) => Poll::Ready(None),
                Err(_cut) => Poll::Ready(Some(Err(BodyError::Cut))),
            };
        }
        Poll::Ready(None)
    }

    /// All of it came, or there was none.
    pub(super) fn is_over(&self) -> bool {
        self.part == Part::Over || self.left == Some(0)
    }

    /// What is still to come, where that was declared.
    pub(super) fn left(&self) -> Option<u64> {
        self.left
    }
}
