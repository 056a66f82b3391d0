//! Sockets in, requests out: accepts connections, speaks HTTP/1.1, stops gracefully.
//!
//! Serves step 1 of both walks. It knows no route: each request, once its head is beyond doubt, is
//! given to one [`Respond`] with its body unread. Limits of connections, heads and slow clients are
//! kept here; what a request may do is decided above.

mod body;
mod drain;
mod interim;
mod linger;
mod pace;
mod peers;
mod tcp;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

pub use body::{BodyError, BoxError, InboundBody, OutboundBody};
pub use drain::Drain;
pub use interim::Interim;

use crate::config::{Settings, settings};
use crate::telemetry::Telemetry;

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
    listeners: Vec<TcpListener>,
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

impl Server {
    /// Binds every listener of the configuration.
    ///
    /// # Errors
    /// An address cannot be bound; the error names it.
    pub async fn bind(settings: &Settings, telemetry: Arc<Telemetry>) -> io::Result<Self> {
        let mut listeners = Vec::with_capacity(settings.listeners.len());
        let mut addresses = Vec::with_capacity(settings.listeners.len());
        for listener in &settings.listeners {
            let address = listener.address;
            let named = |error: io::Error| {
                io::Error::new(error.kind(), format!("cannot listen at {address}: {error}"))
            };
            let bound = TcpListener::bind(address).await.map_err(named)?;
            addresses.push(bound.local_addr().map_err(named)?);
            listeners.push(bound);
        }
        raise_open_files();
        Ok(Self {
            listeners,
            addresses,
            rules: Arc::new(Rules {
                server: settings.server.clone(),
                limits: settings.limits.clone(),
                trusted_proxies: settings.trusted_proxies.clone(),
            }),
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
        let acceptor = Arc::new(tcp::Acceptor::new(
            responder,
            self.rules,
            self.telemetry,
            drain.clone(),
            running.clone(),
        ));
        let accepting = TaskTracker::new();
        for listener in self.listeners {
            accepting.spawn(Arc::clone(&acceptor).accept(listener));
        }
        drain.run(&accepting, &running).await;
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
