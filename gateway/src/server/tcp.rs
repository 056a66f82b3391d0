//! One listener's loop and one TCP connection's life: plain, or TLS with the version that ALPN names.

use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use boxgate_storage::buffer::CHARGE_BYTES;
use futures_util::future::Map;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt as _};
use http::{HeaderValue, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::again::Again;
use super::body::Source;
use super::drain::Drain;
use super::exchange::{Answer, Answering, Arrived, Exchange, Way};
use super::h2;
use super::lanes::{Lanes, Seat, Seated};
use super::linger::{ConnState, HeadTimer, Wire};
use super::peers::{Peers, Place};
use super::proxy;
use super::socket::{Carrier, Socket};
use super::tls::{self, Configurations};
use super::unsent;

/// What all connections share.
pub(super) struct Acceptor {
    pub(super) exchange: Arc<Exchange>,
    pub(super) drain: Drain,
    /// Connections, and requests that outlive theirs.
    pub(super) running: TaskTracker,
    /// Connections that had no request yet.
    fresh: TaskTracker,
    lanes: Arc<Lanes>,
    tls: Option<Arc<Configurations>>,
    connections: Arc<Semaphore>,
    /// Those of them that carry many requests.
    h2_connections: Arc<Semaphore>,
    peers: Arc<Peers>,
}

/// What one listener speaks.
#[derive(Debug, Clone)]
pub(super) struct Speech {
    /// Its place among the listeners of the configuration.
    pub(super) listener: usize,
    pub(super) tls: bool,
    /// Where the same is served by HTTP/3.
    pub(super) alternative: Option<HeaderValue>,
}

impl Acceptor {
    pub(super) fn new(
        exchange: Exchange,
        tls: Option<Arc<Configurations>>,
        drain: Drain,
        (running, fresh): (TaskTracker, TaskTracker),
        lanes: Arc<Lanes>,
    ) -> Self {
        let limits = &exchange.rules.limits;
        let semaphore = |most: usize| Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        Self {
            connections: semaphore(limits.connections),
            h2_connections: semaphore(limits.h2_connections),
            peers: Peers::new(limits.connections_per_address),
            exchange: Arc::new(exchange),
            tls,
            drain,
            running,
            fresh,
            lanes,
        }
    }

    /// Accepts until no more connections are wanted. At the limit nothing is accepted: who waits
    /// in the kernel's queue is served when a place is free.
    pub(super) async fn accept(self: Arc<Self>, listener: Arc<TcpListener>, speech: Speech) {
        let closing = self.drain.shut();
        loop {
            let permit = tokio::select! {
                permit = self.permit() => permit,
                () = closing.cancelled() => return,
            };
            let Some(permit) = permit else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = closing.cancelled() => return,
            };
            match accepted {
                Ok((stream, peer)) => self.begin(stream, peer, permit, &speech),
                Err(error) => {
                    // Out of files, or a connection that was gone before we took it: the first needs
                    // a pause, the second is harmed by none.
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// The right to one more connection, once there is one.
    pub(super) async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.connections).acquire_owned().await.ok()
    }

    /// That right, if there is one now.
    pub(super) fn try_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.connections).try_acquire_owned().ok()
    }

    /// The right to one more that carries many requests, if there is one.
    pub(super) fn h2_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.h2_connections).try_acquire_owned().ok()
    }

    /// Whether half of those rights are given away.
    pub(super) fn is_crowded(&self) -> bool {
        let most = self.exchange.rules.limits.h2_connections;
        self.h2_connections.available_permits() < most / 2
    }

    /// A place for a connection from `peer`, unless its address has its share.
    pub(super) fn hold(&self, peer: SocketAddr, permit: OwnedSemaphorePermit) -> Option<Held> {
        let exchange = &self.exchange;
        let place = self.place(peer.ip().to_canonical())?;
        exchange.telemetry.metrics.connections.inc();
        Some(Held {
            _permit: permit,
            _place: place,
            exchange: Arc::clone(exchange),
        })
    }

    /// A place among the connections from one address, unless that has its share; trusted proxies need none.
    fn place(&self, address: IpAddr) -> Option<Option<Place>> {
        if self.exchange.rules.trusts(address) {
            return Some(None);
        }
        let place = self.peers.take(address);
        if place.is_none() {
            self.refused("address");
        }
        place.map(Some)
    }

    /// Counts a connection that was closed at once.
    pub(super) fn refused(&self, limit: &str) {
        let refused = &self.exchange.telemetry.metrics.connections_refused;
        refused.with_label_values(&[limit]).inc();
    }

    fn begin(
        self: &Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
        speech: &Speech,
    ) {
        let Some(held) = self.hold(peer, permit) else {
            return;
        };
        let way = Way {
            peer: peer.ip().to_canonical(),
            client: None,
            listener: speech.listener,
            scheme: if speech.tls { "https" } else { "http" },
            alternative: speech.alternative.clone(),
        };
        let fresh = self.fresh.token();
        let seat = Arc::new(Seat::new(&self.lanes));
        let life = Arc::clone(self).serve(stream, way, (fresh, Arc::clone(&seat)));
        let (lanes, running) = (Arc::clone(&self.lanes), self.running.clone());
        self.running
            .spawn(Seated::new(held.through(life), seat, lanes, running));
    }

    /// Runs a connection's life as a task of its own, which stays where it is.
    pub(super) fn run(&self, held: Held, life: impl Future<Output = ()> + Send + 'static) {
        self.running.spawn(Again::new(held.through(life)));
    }

    /// Hears from a balancer that passes bytes on for whom it does, and takes a place for that client; `None` where the
    /// connection must end.
    async fn introduced(&self, stream: &mut TcpStream, way: &mut Way) -> Option<Option<Place>> {
        let rules = &self.exchange.rules;
        if !rules.expects_proxy_header(way.peer) {
            return Some(None);
        }
        let hearing = timeout(rules.server.handshake_timeout, proxy::client(stream));
        let cut = self.drain.cut();
        let heard = tokio::select! {
            heard = hearing => heard,
            () = cut.cancelled() => return None,
        };
        match heard {
            Ok(Ok(Some(client))) => {
                let client = client.to_canonical();
                way.client = Some(client);
                self.place(client)
            }
            Ok(Ok(None)) => Some(None),
            Ok(Err(error)) => {
                tracing::debug!(%error, peer = %way.peer, "a proxy did not say for whom it speaks");
                self.refused("proxy_protocol");
                None
            }
            Err(_elapsed) => {
                self.refused("proxy_protocol");
                None
            }
        }
    }

    async fn serve(
        self: Arc<Self>,
        mut stream: TcpStream,
        mut way: Way,
        (fresh, seat): (TaskTrackerToken, Arc<Seat>),
    ) {
        // Answers are written whole; waiting for more would only delay the last packet.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection was gone before it began");
            return;
        }
        let limits = &self.exchange.rules.limits;
        let taken =
            limits.connections - self.connections.available_permits().min(limits.connections);
        unsent::bind(&stream, limits.unsent_bytes, taken);
        let Some(_place) = self.introduced(&mut stream, &mut way).await else {
            return;
        };
        let patience = self.exchange.patience;
        let Some(configurations) = self.tls.as_ref().filter(|_| way.scheme == "https") else {
            let state = Arc::new(ConnState::plain().with_fresh(fresh).with_seat(seat));
            let socket = Socket::new(stream, Arc::clone(&state), patience);
            return self.serve_h1(socket, way, state).await;
        };
        let state = Arc::new(ConnState::default().with_fresh(fresh).with_seat(seat));
        let socket = Socket::new(stream, Arc::clone(&state), patience);
        let limit = self.exchange.rules.server.handshake_timeout;
        let shaking = self.shake_hands(socket, configurations);
        let cut = self.drain.cut();
        let shaken = tokio::select! {
            shaken = tokio::time::timeout(limit, shaking) => shaken,
            () = cut.cancelled() => return,
        };
        match shaken {
            Ok(Ok((stream, Some(permit)))) => {
                h2::serve(&self, stream, way, state).await;
                drop(permit);
            }
            Ok(Ok((stream, None))) => self.serve_h1(stream, way, state).await,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a TLS handshake failed");
                self.exchange.telemetry.metrics.tls_handshakes_failed.inc();
            }
            Err(_elapsed) => self.exchange.telemetry.metrics.tls_handshakes_failed.inc(),
        }
    }

    /// Does the handshake; with the permit where the client chose HTTP/2. That is offered only while
    /// there are permits, so that who comes later speaks HTTP/1.1 instead of being turned away.
    async fn shake_hands(
        &self,
        socket: Socket,
        configurations: &Configurations,
    ) -> std::io::Result<(TlsStream<Socket>, Option<OwnedSemaphorePermit>)> {
        let begun = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), socket).await?;
        let hello = begun.client_hello();
        let wants_h2 = hello
            .alpn()
            .is_some_and(|mut names| names.any(|n| n == b"h2"));
        let permit = if wants_h2 { self.h2_permit() } else { None };
        if wants_h2 && permit.is_none() {
            self.refused("h2");
        }
        let configuration = match permit {
            Some(_) => &configurations.both,
            None => &configurations.http1,
        };
        let stream = begun
            .into_stream_with(Arc::clone(configuration), tls::bounded)
            .await?;
        let speaks_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok((stream, permit.filter(|_| speaks_h2)))
    }

    async fn serve_h1<S>(self: Arc<Self>, stream: S, way: Way, state: Arc<ConnState>)
    where
        S: Carrier + Send + 'static,
    {
        let rules = &self.exchange.rules;
        let server = &rules.server;
        let timer = HeadTimer::new(Arc::clone(&state), server.head_timeout, server.idle_timeout);
        let service = Connection {
            exchange: Arc::clone(&self.exchange),
            way,
            state: Arc::clone(&state),
        };
        let mut connection = http1::Builder::new()
            .max_buf_size(CHARGE_BYTES.max(rules.limits.head_bytes))
            .timer(timer)
            // Only switches the timer on; the times are the timer's own.
            .header_read_timeout(server.head_timeout)
            .max_headers(rules.limits.header_fields)
            .max_header_size(rules.limits.head_bytes)
            .serve_connection(TokioIo::new(Wire::new(stream, Arc::clone(&state))), service);

        let orders = [
            order(self.drain.closing(), Order::Finish),
            order(self.drain.cut(), Order::Cut),
        ];
        // Asked only when one of them calls: a token that many wait for is a lock that all of them share.
        let mut orders: FuturesUnordered<_> = orders.into_iter().collect();
        let result = loop {
            tokio::select! {
                biased;
                // A request that is here already shall be answered.
                result = &mut connection => break result,
                Some(order) = orders.next() => match order {
                    Order::Finish => std::pin::Pin::new(&mut connection).graceful_shutdown(),
                    Order::Cut => return,
                },
            }
        };
        let Err(error) = result else { return };
        tracing::debug!(error = %boxgate_storage::error::chain(&error), "a connection broke");
        if error.is_timeout() && state.head_is_partial() {
            let mut wire = connection.into_parts().io.into_inner();
            // RFC 9110 §15.5.9. Whoever is gone by now does not miss it.
            let answer =
                b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
            let told = async {
                let _gone = wire.write_all(answer).await;
                let _gone = wire.shutdown().await;
            };
            let cut = self.drain.cut();
            tokio::select! {
                () = told => {}
                () = cut.cancelled() => {}
            }
        }
    }
}

/// What a connection is told while it lives.
#[derive(Clone, Copy)]
enum Order {
    /// To end with the request that it is at.
    Finish,
    /// To end.
    Cut,
}

async fn order(given: CancellationToken, order: Order) -> Order {
    given.cancelled().await;
    order
}

/// What a connection holds as long as it lives.
pub(super) struct Held {
    _permit: OwnedSemaphorePermit,
    _place: Option<Place>,
    exchange: Arc<Exchange>,
}

impl Held {
    /// A connection's life, which ends nobody else's, with what it holds.
    async fn through(self, life: impl Future<Output = ()> + Send + 'static) {
        if AssertUnwindSafe(life).catch_unwind().await.is_err() {
            // A body of ours panicked: its connection is lost, nobody else's.
            self.exchange.telemetry.metrics.http_panics.inc();
            tracing::error!("a response body panicked");
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.exchange.telemetry.metrics.connections.dec();
    }
}

/// hyper's view of us: one request in, one answer out.
struct Connection {
    exchange: Arc<Exchange>,
    way: Way,
    state: Arc<ConnState>,
}

impl hyper::service::Service<Request<Incoming>> for Connection {
    type Response = Answer;
    type Error = std::convert::Infallible;
    type Future = Map<Answering, fn(Answer) -> Result<Self::Response, Self::Error>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (head, body) = request.into_parts();
        let arrived = Arrived {
            has_body: !hyper::body::Body::is_end_stream(&body),
            head,
            body: Source::Wire(body),
            state: Arc::clone(&self.state),
        };
        let answering = self.exchange.answer(&self.way, arrived);
        answering.map::<_, fn(Answer) -> Result<Self::Response, Self::Error>>(Ok)
    }
}
