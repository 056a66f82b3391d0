//! The one HTTP client that leaves the machine: for what plugins ask, and for whatever else is sent to outside.
//!
//! It resolves at each connection, refuses unless every address may be reached, and connects to the address that it
//! looked at. It follows no redirect, knows no proxy variable, and bounds every step in time and every answer in
//! bytes. It is not the client of `boxgate push` and `pull`, which speak to a gateway that a person named.

mod address;
mod connect;
mod destination;

use std::error::Error as _;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt as _;
use futures_util::stream::BoxStream;
use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Collected, Full, Limited, StreamBody};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout};

use address::Addresses;
pub use connect::Resolve;
use connect::{Connector, FromPublic, System};
pub use destination::{BadUrl, Destination};

use crate::config::Cidr;
use crate::config::settings;
use crate::telemetry::otlp::{self, Spans};
use crate::telemetry::trace::{TRACEPARENT, TRACESTATE, Trace};

/// How long a name may take to be looked up.
pub const DNS_TIME: Duration = Duration::from_secs(3);
/// How long TLS may take to be agreed upon.
pub const TLS_TIME: Duration = Duration::from_secs(5);
/// Longest head of an answer, in bytes.
pub const MOST_HEAD_BYTES: usize = 16 << 10;
/// Interim answers (1xx) that may come before the answer; each has a head like it.
const MOST_INTERIM: usize = 16;
/// Most bytes of the text that a refused body is answered with.
const MOST_TEXT_BYTES: usize = 64 << 10;
/// Most fields in it.
const MOST_FIELDS: usize = 100;
/// How long a connection is used again: its address was looked at when it was made.
const REUSED_FOR: Duration = Duration::from_mins(1);
/// Idle connections that are kept to one host.
const IDLE_PER_HOST: usize = 8;
/// Names looked up at once: each takes a thread, also of a caller that waits no more.
const LOOK_UPS: usize = 32;

/// Fields that say how a message travels, or to whom; they are this client's to write.
static OWN_FIELDS: [HeaderName; 12] = [
    ACCEPT_ENCODING,
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    HOST,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-authorization"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// What all callers share: whom to trust, where names are looked up, where we listen ourselves.
#[derive(Debug, Clone)]
pub struct Outbound {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    opened: Vec<Cidr>,
    more_roots: Vec<CertificateDer<'static>>,
    tls: OnceLock<Arc<rustls::ClientConfig>>,
    resolver: Arc<dyn Resolve>,
    look_ups: Semaphore,
    own: OnceLock<Vec<SocketAddr>>,
    spans: OnceLock<Spans>,
}

impl Outbound {
    /// Prepares; nothing is sent.
    pub fn new(settings: &settings::Outbound) -> Self {
        Self::with_resolver(settings, Arc::new(System))
    }

    /// With names that are looked up elsewhere.
    pub fn with_resolver(settings: &settings::Outbound, resolver: Arc<dyn Resolve>) -> Self {
        Self {
            shared: Arc::new(Shared {
                opened: settings.allow_networks.clone(),
                more_roots: settings.ca.clone(),
                tls: OnceLock::new(),
                resolver,
                look_ups: Semaphore::new(LOOK_UPS),
                own: OnceLock::new(),
                spans: OnceLock::new(),
            }),
        }
    }

    /// Tells where the gateway listens, which nobody reaches through it.
    pub fn listens_at(&self, addresses: Vec<SocketAddr>) {
        // Listeners are bound once.
        drop(self.shared.own.set(addresses));
    }

    /// Has requests recorded that are sent on behalf of a trace, from now on.
    pub fn record(&self, spans: Spans) {
        drop(self.shared.spans.set(spans));
    }

    /// The client of one caller; `key` is the setting that opens networks to it.
    pub fn caller(&self, key: &'static str, opened: &[Cidr], connect_time: Duration) -> Caller {
        let mut all = self.shared.opened.clone();
        all.extend_from_slice(opened);
        let connector = Connector::new(
            Arc::clone(&self.shared),
            Arc::new(Addresses::new(&all)),
            key,
            connect_time,
        );
        Caller {
            key,
            is_quiet: false,
            shared: Arc::clone(&self.shared),
            current: Mutex::new(None),
            connector,
        }
    }
}

impl Shared {
    fn own(&self) -> &[SocketAddr] {
        self.own.get().map_or(&[], Vec::as_slice)
    }

    /// TLS by rustls with ring, trusting whom the system and `outbound.ca_file` trust. Read once it is needed.
    fn tls(&self) -> Arc<rustls::ClientConfig> {
        let make = || {
            let mut roots = rustls::RootCertStore::empty();
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            roots.add_parsable_certificates(self.more_roots.iter().cloned());
            if roots.is_empty() {
                tracing::warn!(
                    "this machine trusts no certificate authority, so no https request can succeed; install \
                     ca-certificates, or set outbound.ca_file"
                );
            }
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .expect("ring speaks the default versions of TLS");
            let mut config = config.with_root_certificates(roots).with_no_client_auth();
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            Arc::new(config)
        };
        Arc::clone(self.tls.get_or_init(make))
    }
}

/// One request.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Method.
    pub method: Method,
    /// Where to.
    pub to: Destination,
    /// Fields; those that say how a message travels are refused.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// How long all of it may take.
    pub time: Duration,
    /// Most bytes of the answer's body that are read.
    pub most: usize,
    /// Whether a longer body is cut there, or a fault.
    pub cut: bool,
}

/// One POST whose body is read as it is sent.
pub struct OutgoingStream {
    /// Where to.
    pub to: Destination,
    /// Fields; those that say how a message travels are refused.
    pub headers: HeaderMap,
    /// Bytes of the body.
    pub length: u64,
    /// The body.
    pub body: BoxStream<'static, std::io::Result<Bytes>>,
    /// How long nothing may move, either way.
    pub idle: Duration,
}

impl fmt::Debug for OutgoingStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutgoingStream")
            .field("to", &self.to)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

/// One answer.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// Status.
    pub status: StatusCode,
    /// Fields.
    pub headers: HeaderMap,
    /// Body, or how it begins.
    pub body: Bytes,
    /// Whether it came from a public address.
    pub public: bool,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Fault {
    /// What kind of failure.
    pub kind: FaultKind,
    text: String,
}

/// What kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The request itself is not to be sent.
    Request,
    /// Its destination may not be reached.
    Blocked,
    /// The name leads nowhere.
    Resolve,
    /// Nobody listens there.
    Connect,
    /// No trust.
    Tls,
    /// It took too long.
    Timeout,
    /// The answer is too long.
    TooLarge,
    /// The connection broke, or what came is no HTTP.
    Broken,
}

impl FaultKind {
    /// As logs and scripts write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Blocked => "blocked_destination",
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::TooLarge => "too_large",
            Self::Broken => "broken",
        }
    }
}

impl Fault {
    fn new(kind: FaultKind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
        }
    }
}

/// The client of one caller, with the networks that are open to it.
pub struct Caller {
    key: &'static str,
    /// Its calls are not told of one by one.
    is_quiet: bool,
    shared: Arc<Shared>,
    connector: Connector,
    /// What keeps connections, and since when: made anew when their addresses were looked at too long ago.
    current: Mutex<Option<(Instant, Pool)>>,
}

type Pool = Client<Connector, Full<Bytes>>;

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl Caller {
    /// Whose requests they are, in the log and in spans: the part of the configuration that its setting is in.
    fn name(&self) -> &'static str {
        self.key.split_once('.').map_or(self.key, |(part, _)| part)
    }

    /// The same through a proxy that knows CONNECT, where one is given; that itself is reached wherever it is.
    #[must_use]
    pub fn through(mut self, proxy: Option<(String, u16)>) -> Self {
        self.connector.through(proxy);
        self
    }

    /// The same, that reaches private networks as well, and asks by plain http wherever it may go.
    #[must_use]
    pub fn privately(mut self) -> Self {
        self.connector.privately();
        self
    }

    /// The same, whose calls leave no lines in the log: its user tells of those that fail, and would else be told of by
    /// itself.
    #[must_use]
    pub fn quietly(mut self) -> Self {
        self.is_quiet = true;
        self
    }

    /// Whether a request may go there, as far as that is known now; nothing is sent.
    ///
    /// # Errors
    /// [`FaultKind::Blocked`], and [`FaultKind::Resolve`] when its name leads nowhere.
    pub async fn check(&self, to: &Destination) -> Result<(), Fault> {
        let (_, host, port) = to.origin();
        self.connector
            .find(host, port, to.is_plain())
            .await
            .map(drop)
    }

    /// Sends a request and reads the answer.
    ///
    /// # Errors
    /// [`Fault`] when there is none; every status is an answer.
    /// # Cancel safety
    /// Dropping it closes the connection; whether the request arrived is not known.
    pub async fn send(&self, request: Outgoing) -> Result<Incoming, Fault> {
        self.send_for("", request).await
    }

    /// Sends a request of a plugin, which the log names.
    ///
    /// # Errors
    /// As [`Caller::send`].
    /// # Cancel safety
    /// As [`Caller::send`].
    pub async fn send_for(&self, plugin: &str, request: Outgoing) -> Result<Incoming, Fault> {
        let began = Instant::now();
        let (method, host) = (request.method.clone(), request.to.host().to_owned());
        let trace = Trace::current().map(|trace| trace.child());
        let answer = self.within_time(request, trace.as_ref()).await;
        let milliseconds = began.elapsed().as_millis();
        let duration_ms = u64::try_from(milliseconds).unwrap_or(u64::MAX);
        let (status, fault) = match &answer {
            Ok(answer) => (answer.status.as_u16(), ""),
            Err(fault) => (0, fault.kind.name()),
        };
        self.record(trace, (method.as_str(), &host), (status, fault), began);
        if !self.is_quiet {
            tracing::info!(
                caller = self.name(),
                plugin,
                method = method.as_str(),
                host,
                status,
                fault,
                duration_ms,
                "outbound call"
            );
        }
        answer
    }

    /// Has a request recorded that is over, where it belongs to a trace.
    fn record(
        &self,
        trace: Option<Trace>,
        (method, host): (&str, &str),
        outcome: (u16, &str),
        began: Instant,
    ) {
        if let (Some(trace), Some(spans)) = (trace, self.shared.spans.get()) {
            let what = (self.name(), method, host);
            spans.record(otlp::sent(trace, what, outcome, began.elapsed()));
        }
    }

    async fn within_time(
        &self,
        request: Outgoing,
        trace: Option<&Trace>,
    ) -> Result<Incoming, Fault> {
        let time = request.time;
        let sent = timeout(time, self.exchange(request, trace)).await;
        sent.unwrap_or_else(|_late| {
            let text = format!("there was no whole answer within {time:?}");
            Err(Fault::new(FaultKind::Timeout, text))
        })
    }

    async fn exchange(&self, request: Outgoing, trace: Option<&Trace>) -> Result<Incoming, Fault> {
        if let Some(name) = OWN_FIELDS
            .iter()
            .find(|name| request.headers.contains_key(*name))
        {
            let text = format!("the header field {name} is not to be set");
            return Err(Fault::new(FaultKind::Request, text));
        }
        let uri = request.to.uri();
        let uri = uri.ok_or_else(|| Fault::new(FaultKind::Request, "the URL cannot be sent"))?;
        let mut sent = Request::new(Full::new(request.body));
        *sent.method_mut() = request.method;
        *sent.uri_mut() = uri;
        *sent.headers_mut() = request.headers;
        sent.headers_mut()
            .entry(USER_AGENT)
            .or_insert(HeaderValue::from_static(OURSELVES));
        tell_of_trace(sent.headers_mut(), trace);
        let too_many = endless_interim(&mut sent);
        let answer = tokio::select! {
            answer = self.pool().request(sent) => answer.map_err(|e| broken(&e))?,
            () = too_many.notified() => {
                let text = format!("more than {MOST_INTERIM} interim answers came instead of an answer");
                return Err(Fault::new(FaultKind::TooLarge, text));
            }
        };
        let (head, mut body) = answer.into_parts();
        let mut read = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| {
                let text = format!("the answer broke off: {}", root_cause(&e));
                Fault::new(FaultKind::Broken, text)
            })?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            let room = request.most - read.len();
            if data.len() > room && !request.cut {
                let text = format!("the answer is longer than {} bytes", request.most);
                return Err(Fault::new(FaultKind::TooLarge, text));
            }
            read.extend_from_slice(&data[..data.len().min(room)]);
            if request.cut && read.len() == request.most {
                break;
            }
        }
        Ok(Incoming {
            status: head.status,
            headers: head.headers,
            body: read.freeze(),
            public: head
                .extensions
                .get::<FromPublic>()
                .is_some_and(|from| from.0),
        })
    }

    /// Sends a long body, on a connection of its own, and reads the answer and how its text begins.
    ///
    /// # Errors
    /// [`Fault`] when there is none; every status is an answer.
    /// # Cancel safety
    /// As [`Self::send`].
    pub async fn post_stream(&self, request: OutgoingStream) -> Result<(StatusCode, Bytes), Fault> {
        let (to, moved) = (request.to, Arc::new(Notify::new()));
        let told = Arc::clone(&moved);
        let body = request.body.map_ok(move |bytes| {
            told.notify_one();
            Frame::data(bytes)
        });
        let uri = to.uri();
        let uri = uri.ok_or_else(|| Fault::new(FaultKind::Request, "the URL cannot be sent"))?;
        let trace = Trace::current().map(|trace| trace.child());
        let mut sent = Request::post(uri);
        sent.headers_mut()
            .map(|headers| {
                headers.extend(request.headers);
                headers.insert(CONTENT_LENGTH, HeaderValue::from(request.length));
                headers.insert(USER_AGENT, HeaderValue::from_static(OURSELVES));
                tell_of_trace(headers, trace.as_ref());
            })
            .ok_or_else(|| Fault::new(FaultKind::Request, "the URL cannot be sent"))?;
        let sent = sent
            .body(StreamBody::new(body))
            .map_err(|e| Fault::new(FaultKind::Request, e.to_string()))?;
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .http1_max_buf_size(MOST_HEAD_BYTES)
            .http1_max_headers(MOST_FIELDS)
            .build(self.connector.clone());
        let exchange = async {
            let answer = client.request(sent).await.map_err(|e| broken(&e))?;
            let (head, body) = answer.into_parts();
            // What a refusal says helps, and is not needed.
            let text = Limited::new(body, MOST_TEXT_BYTES).collect().await;
            let text = text.map_or_else(|_broken| Bytes::new(), Collected::to_bytes);
            Ok((head.status, text))
        };
        let began = Instant::now();
        let idle = async { while timeout(request.idle, moved.notified()).await.is_ok() {} };
        let answer = tokio::select! {
            answer = exchange => answer,
            () = idle => {
                let text = format!("nothing moved for {:?}", request.idle);
                Err(Fault::new(FaultKind::Timeout, text))
            }
        };
        let status = answer.as_ref().map_or(0, |(status, _)| status.as_u16());
        let fault = answer.as_ref().err().map_or("", |fault| fault.kind.name());
        let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (caller, host, bytes) = (self.name(), to.host(), request.length);
        self.record(trace, ("POST", host), (status, fault), began);
        tracing::info!(
            caller,
            method = "POST",
            host,
            status,
            fault,
            duration_ms,
            bytes,
            "outbound call"
        );
        answer
    }

    fn pool(&self) -> Pool {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match &*current {
            Some((since, pool)) if since.elapsed() < REUSED_FOR => pool.clone(),
            _ => {
                let pool = Client::builder(TokioExecutor::new())
                    .pool_timer(TokioTimer::new())
                    .pool_idle_timeout(REUSED_FOR / 2)
                    .pool_max_idle_per_host(IDLE_PER_HOST)
                    .http1_max_buf_size(MOST_HEAD_BYTES)
                    .http1_max_headers(MOST_FIELDS)
                    .build(self.connector.clone());
                *current = Some((Instant::now(), pool.clone()));
                pool
            }
        }
    }
}

/// A request that is sent on behalf of one of a trace tells of it, unless its caller has something else to tell.
fn tell_of_trace(headers: &mut HeaderMap, trace: Option<&Trace>) {
    if let Some(trace) = trace
        && !headers.contains_key(TRACEPARENT)
    {
        headers.remove(TRACESTATE);
        headers.extend(trace.fields());
    }
}

/// Tells when more interim answers came than any server has a use for: the client reads them for ever.
fn endless_interim(request: &mut Request<Full<Bytes>>) -> Arc<Notify> {
    let too_many = Arc::new(Notify::new());
    let (told, seen) = (Arc::clone(&too_many), AtomicUsize::new(0));
    hyper::ext::on_informational(request, move |_interim| {
        if seen.fetch_add(1, Ordering::Relaxed) >= MOST_INTERIM {
            told.notify_one();
        }
    });
    too_many
}

/// `User-Agent`, unless the caller has its own.
const OURSELVES: &str = concat!("boxgate/", env!("CARGO_PKG_VERSION"));

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// What the client says went wrong; our own connector's word counts.
fn broken(error: &hyper_util::client::legacy::Error) -> Fault {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(fault) = inner.downcast_ref::<Fault>() {
            return fault.clone();
        }
        source = inner.source();
    }
    let text = format!("no good answer came: {}", root_cause(error));
    Fault::new(FaultKind::Broken, text)
}

#[cfg(test)]
mod tests;
