//! Sockets in, requests out: accepts connections, speaks HTTP/1.1, 2 and 3, stops gracefully.
//!
//! Serves step 1 of both walks. It knows no route: each request, once its head is beyond doubt, is
//! given to one [`Respond`] with its body unread. Limits of connections, heads and slow clients are
//! kept here; what a request may do is decided above.

mod body;
mod drain;
mod exchange;
mod file;
mod h2;
mod interim;
mod linger;
mod pace;
mod peers;
mod proxy;
mod quic;
mod socket;
mod tcp;
mod tls;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

pub use body::{BodyError, BoxError, InboundBody, OutboundBody};
pub use drain::Drain;
pub use file::{FilePiece, FileRun, FileSender, Piece, SharedFile};
pub use interim::Interim;
pub use tls::{Certificate, CertificateError, CertificateStatus};

use crate::config::settings::{ClientIp, Speaks};
use crate::config::{Settings, settings};
use crate::telemetry::Telemetry;
use exchange::Exchange;
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
}

/// Bound sockets, not served yet.
#[derive(Debug)]
pub struct Server {
    listeners: Vec<(TcpListener, Speech)>,
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
    trusted_proxies: Vec<crate::config::Cidr>,
}

impl Rules {
    /// Whether that address is a proxy's whose word counts.
    fn trusts(&self, address: IpAddr) -> bool {
        let mut blocks = self.trusted_proxies.iter();
        blocks.any(|block| block.contains(address))
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
        let mut addresses = Vec::with_capacity(settings.listeners.len());
        for (index, listener) in settings.listeners.iter().enumerate() {
            let address = listener.address;
            let named = |error: io::Error| {
                io::Error::new(error.kind(), format!("cannot listen at {address}: {error}"))
            };
            let quic = tls
                .as_ref()
                .filter(|_| listener.speaks == Speaks::TlsAndQuic);
            let (bound, udp) = bind(address, quic.is_some()).await.map_err(named)?;
            let address = bound.local_addr().map_err(named)?;
            if let (Some(tls), Some(udp)) = (quic, udp) {
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
        raise_open_files();
        Ok(Self {
            listeners,
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

    /// Serves until `drain` has gone through all its steps.
    pub async fn serve(self, responder: Arc<dyn Respond>, drain: Drain) {
        let running = TaskTracker::new();
        let server = &self.rules.server;
        let exchange = Exchange {
            responder,
            patience: Patience {
                idle: server.body_idle_timeout,
                slowest_bytes: server.slowest_rate_bytes,
                window: server.slowest_rate_window,
            },
            ending: drain.ending(),
            telemetry: Arc::clone(&self.telemetry),
            rules: self.rules,
        };
        let acceptor = Arc::new(Acceptor::new(
            exchange,
            self.tls,
            drain.clone(),
            running.clone(),
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
        drain.run(&accepting, &running).await;
        for (endpoint, _) in &self.endpoints {
            quic::close(endpoint).await;
        }
        drop(watching);
    }
}

/// Binds a TCP port, and with `udp` the UDP port of the same number.
async fn bind(
    address: SocketAddr,
    udp: bool,
) -> io::Result<(TcpListener, Option<std::net::UdpSocket>)> {
    // The system gives a TCP port that is free and asks nobody about UDP.
    const TRIES: usize = 16;
    let mut tries = if address.port() == 0 { TRIES } else { 1 };
    loop {
        tries -= 1;
        let tcp = TcpListener::bind(address).await?;
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
