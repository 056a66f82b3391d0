//! Sockets in, requests out: accepts connections, speaks HTTP/1.1, 2 and 3, stops gracefully.
//!
//! Serves step 1 of both walks. It knows no route: each request, once its head is beyond doubt, is
//! given to one [`Respond`] with its body unread. Limits of connections, heads and slow clients are
//! kept here; what a request may do is decided above.

mod again;
mod body;
mod drain;
mod exchange;
mod file;
mod h2;
mod interim;
mod lanes;
mod linger;
mod pace;
mod peers;
mod proxy;
mod quic;
mod socket;
mod sockets;
mod tcp;
mod tls;
mod unsent;

use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

pub use body::{BodyError, BoxError, InboundBody, OutboundBody};
pub use drain::Drain;
pub use file::{FilePiece, FileRun, FileSender, Piece, SharedFile};
pub use interim::Interim;
pub use sockets::{Ports, Sockets};
pub use tls::{Certificate, CertificateError, CertificateStatus};

use crate::config::settings::{ClientIp, Speaks};
use crate::config::{Blocks, Settings, settings};
use crate::request::RequestFacts;
use crate::telemetry::Telemetry;
use drain::Tasks;
use exchange::Exchange;
use lanes::Lanes;
use pace::Patience;
use tcp::{Acceptor, Speech};
use tls::Configurations;

/// Answers requests.
pub trait Respond: Send + Sync + 'static {
    /// Answers one request. The body is read only as the answer's maker asks for it; an answer may
    /// be given without reading it. [`crate::request::RequestFacts`] stand in its extensions.
    fn respond(
        self: Arc<Self>,
        request: http::Request<InboundBody>,
    ) -> BoxFuture<'static, http::Response<OutboundBody>>;

    /// The answer to a request without a body that can be given without waiting for anything; `None` has the request
    /// answered as any other. `sender` is there where the answer may be of files.
    fn answer_at_once(
        &self,
        _head: &http::request::Parts,
        _sender: Option<&FileSender>,
        _facts: &RequestFacts,
    ) -> Option<http::Response<OutboundBody>> {
        None
    }
}

/// Bound sockets, not served yet.
#[derive(Debug)]
pub struct Server {
    listeners: Vec<(Arc<TcpListener>, Speech)>,
    /// Sockets of HTTP/3, beside those that its endpoints have.
    datagrams: Vec<Arc<UdpSocket>>,
    ports: Ports,
    /// Each with the place of its listener.
    endpoints: Vec<(quinn::Endpoint, usize)>,
    tls: Option<Arc<Configurations>>,
    certificate: Option<Arc<Certificate>>,
    addresses: Vec<SocketAddr>,
    rules: Arc<Rules>,
    telemetry: Arc<Telemetry>,
}

/// The settings that concern connections.
#[derive(Debug)]
struct Rules {
    server: settings::Server,
    limits: settings::Limits,
    trusted_proxies: Blocks,
}

impl Rules {
    /// Whether that address is a proxy's whose word counts.
    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted_proxies.contains(address)
    }

    /// Whether a connection from there must begin by saying for whom it is.
    fn expects_proxy_header(&self, peer: IpAddr) -> bool {
        self.server.client_ip == ClientIp::ProxyProtocol && self.trusts(peer)
    }
}

impl Server {
    /// Binds every listener of the configuration; those that speak TLS with `certificate`.
    ///
    /// # Errors
    /// An address cannot be bound; the error names it.
    pub async fn bind(
        settings: &Settings,
        telemetry: Arc<Telemetry>,
        certificate: Option<Arc<Certificate>>,
    ) -> io::Result<Self> {
        Self::bind_with(Sockets::default(), settings, telemetry, certificate).await
    }

    /// Finds out whether [`Self::bind_with`] can do what it shall, as far as nobody is served: gives sockets for all listeners, of
    /// which those that none of `sockets` belongs to are bound here.
    ///
    /// # Errors
    /// As [`Self::bind`].
    pub fn rehearse(
        sockets: Sockets,
        settings: &Settings,
        certificate: Option<&Arc<Certificate>>,
    ) -> io::Result<Sockets> {
        let client_ca = settings.tls.as_ref().map_or(&[][..], |tls| &tls.client_ca);
        if let Some(certificate) = certificate {
            Configurations::try_new(certificate, client_ca)?;
        }
        sockets.completed(&settings.listeners)
    }

    /// The same, with `sockets` that listen already.
    ///
    /// # Errors
    /// As [`Self::bind`].
    pub async fn bind_with(
        mut sockets: Sockets,
        settings: &Settings,
        telemetry: Arc<Telemetry>,
        certificate: Option<Arc<Certificate>>,
    ) -> io::Result<Self> {
        let rules = Arc::new(Rules {
            server: settings.server.clone(),
            limits: settings.limits.clone(),
            trusted_proxies: settings.trusted_proxies.clone(),
        });
        let client_ca = settings.tls.as_ref().map_or(&[][..], |tls| &tls.client_ca);
        let tls = match &certificate {
            Some(certificate) => Some(Arc::new(Configurations::try_new(certificate, client_ca)?)),
            None => None,
        };
        let mut listeners = Vec::with_capacity(settings.listeners.len());
        let mut endpoints = Vec::new();
        let mut datagrams = Vec::new();
        let mut ports = Ports::default();
        let mut addresses = Vec::with_capacity(settings.listeners.len());
        for (index, listener) in settings.listeners.iter().enumerate() {
            let address = listener.address;
            let named = |error: io::Error| {
                io::Error::new(error.kind(), format!("cannot listen at {address}: {error}"))
            };
            let quic = tls
                .as_ref()
                .filter(|_| listener.speaks == Speaks::TlsAndQuic);
            let (bound, udp) = bind(&mut sockets, listener, quic.is_some())
                .await
                .map_err(named)?;
            let bound = Arc::new(bound);
            let address = bound.local_addr().map_err(named)?;
            ports.add_tcp(listener, &bound);
            if let (Some(tls), Some(udp)) = (quic, udp) {
                let kept = Arc::new(udp.try_clone().map_err(named)?);
                ports.add_udp(listener, &kept);
                datagrams.push(kept);
                let endpoint = quic::endpoint(udp, tls, &rules).map_err(named)?;
                endpoints.push((endpoint, index));
            }
            let alternative = quic.map(|_| format!("h3=\":{}\"; ma=86400", address.port()));
            let speech = Speech {
                listener: index,
                tls: listener.speaks != Speaks::Plain,
                alternative: alternative.and_then(|text| text.parse().ok()),
            };
            addresses.push(address);
            listeners.push((bound, speech));
        }
        for name in sockets.names() {
            tracing::warn!(
                socket = name,
                "a socket that was handed to this process is no listener's: what comes there is not answered \
                 (listeners.name, listeners.address)"
            );
        }
        raise_open_files();
        Ok(Self {
            listeners,
            datagrams,
            ports,
            endpoints,
            tls,
            certificate,
            addresses,
            rules,
            telemetry,
        })
    }

    /// Where it really listens, in the order of the configuration; port 0 is replaced.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Its sockets, for as long as it listens; given out once.
    pub fn take_ports(&mut self) -> Ports {
        std::mem::take(&mut self.ports)
    }

    /// Serves until `drain` has gone through all its steps.
    pub async fn serve(self, responder: Arc<dyn Respond>, drain: Drain) {
        self.run(responder, drain).await.finish().await;
    }

    /// Serves until all is answered and given, or, when another process comes in the place of this one, until all is
    /// answered.
    pub async fn run(self, responder: Arc<dyn Respond>, drain: Drain) -> Remains {
        let running = TaskTracker::new();
        let (working, fresh) = (TaskTracker::new(), TaskTracker::new());
        let server = &self.rules.server;
        let exchange = Exchange {
            responder,
            patience: Patience {
                idle: server.body_idle_timeout,
                slowest_bytes: server.slowest_rate_bytes,
                window: server.slowest_rate_window,
            },
            leaving: Arc::new(drain.leaving()),
            ending: Arc::new(drain.ending()),
            handing_over: Arc::new(drain.handing_over()),
            working: working.clone(),
            running: running.clone(),
            telemetry: Arc::clone(&self.telemetry),
            rules: self.rules,
        };
        let (lanes, lanes_end) = Lanes::new();
        let acceptor = Arc::new(Acceptor::new(
            exchange,
            self.tls,
            drain.clone(),
            (running.clone(), fresh.clone()),
            lanes,
        ));
        self.telemetry.metrics.tls_certificate_ok.set(1);
        let watching = self.certificate.map(|certificate| {
            AbortOnDropHandle::new(tokio::spawn(certificate.watch(self.telemetry)))
        });
        let accepting = TaskTracker::new();
        for (listener, speech) in self.listeners {
            accepting.spawn(Arc::clone(&acceptor).accept(listener, speech));
        }
        for (endpoint, listener) in &self.endpoints {
            let accept = quic::accept(Arc::clone(&acceptor), endpoint.clone(), *listener);
            accepting.spawn(accept);
        }
        let tasks = Tasks {
            accepting,
            fresh,
            working,
            running: running.clone(),
        };
        let (endpoints, cut) = (&self.endpoints, drain.cut());
        let cutting = async {
            cut.cancelled().await;
            for (endpoint, _) in endpoints {
                quic::cut(endpoint);
            }
            pending::<()>().await;
        };
        tokio::select! {
            () = drain.run(&tasks) => {}
            () = cutting => {}
        }
        for (endpoint, _) in endpoints {
            quic::close(endpoint).await;
        }
        drop(self.datagrams);
        drop(watching);
        Remains {
            running,
            drain,
            telling: None,
            _lanes: lanes_end,
        }
    }
}

/// What still goes out when a server has ended otherwise.
#[derive(Debug)]
#[must_use = "what still goes out is cut where nobody waits for it"]
pub struct Remains {
    running: TaskTracker,
    drain: Drain,
    /// What tells of answers, and its end.
    telling: Option<(CancellationToken, JoinHandle<()>)>,
    /// Until then connections run there.
    _lanes: DropGuard,
}

impl Remains {
    /// Has `telling` go on until the last answers are given; then `ended` is cancelled, and it is waited for.
    pub fn told_by(mut self, telling: JoinHandle<()>, ended: CancellationToken) -> Self {
        self.telling = Some((ended, telling));
        self
    }

    /// Waits for the last answers, as long as stopping lets them have.
    pub async fn finish(self) {
        self.drain.see_out(&self.running).await;
        if let Some((ended, telling)) = self.telling {
            ended.cancel();
            if let Err(panicked) = telling.await {
                tracing::error!(error = %panicked, "telling of traces broke");
            }
        }
    }
}

/// Takes the sockets that wait for a listener, or binds its TCP port, and with `udp` the UDP port of the same number.
async fn bind(
    sockets: &mut Sockets,
    listener: &settings::Listener,
    udp: bool,
) -> io::Result<(TcpListener, Option<UdpSocket>)> {
    let address = listener.address;
    if let Some(waiting) = sockets.tcp(listener)? {
        sockets::deepen(&waiting);
        let tcp = TcpListener::from_std(waiting)?;
        if !udp {
            return Ok((tcp, None));
        }
        let bound = tcp.local_addr()?;
        let udp = match sockets.udp(listener, bound)? {
            Some(waiting) => waiting,
            None => quic::bind(bound)?,
        };
        return Ok((tcp, Some(udp)));
    }
    // The system gives a TCP port that is free and asks nobody about UDP.
    const TRIES: usize = 16;
    let mut tries = if address.port() == 0 { TRIES } else { 1 };
    loop {
        tries -= 1;
        let tcp = TcpListener::bind(address).await?;
        sockets::deepen(&tcp);
        if !udp {
            return Ok((tcp, None));
        }
        match quic::bind(tcp.local_addr()?) {
            Ok(udp) => return Ok((tcp, Some(udp))),
            Err(error) if tries > 0 && error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
}

/// Takes as many open files as the system allows: connections and blobs are files.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
}
