//! Connections: a name is looked up, all its addresses are judged, and the connection goes to one that was.

use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::CertificateError;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::address::{Addresses, Standing};
use super::{DNS_TIME, Fault, FaultKind, Shared, TLS_TIME};

/// Looks names up.
pub trait Resolve: Debug + Send + Sync {
    /// All addresses of a name.
    ///
    /// # Errors
    /// When the name is not known, or nobody answers.
    fn resolve(&self, name: String, port: u16) -> BoxFuture<'_, std::io::Result<Vec<SocketAddr>>>;
}

/// By the system.
#[derive(Debug)]
pub(super) struct System;

impl Resolve for System {
    fn resolve(&self, name: String, port: u16) -> BoxFuture<'_, std::io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            let found = move || (name, port).to_socket_addrs().map(Iterator::collect);
            tokio::task::spawn_blocking(found)
                .await
                .unwrap_or_else(|e| Err(std::io::Error::other(e)))
        })
    }
}

/// Makes the connections of one caller.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    shared: Arc<Shared>,
    addresses: Arc<Addresses>,
    key: &'static str,
    connect_time: Duration,
    proxy: Option<(String, u16)>,
    /// Whether http goes wherever https does.
    plainly: bool,
}

/// Longest answer of a proxy that is read.
const PROXY_HEAD: usize = 8 << 10;

impl Connector {
    pub(super) fn new(
        shared: Arc<Shared>,
        addresses: Arc<Addresses>,
        key: &'static str,
        connect_time: Duration,
    ) -> Self {
        Self {
            shared,
            addresses,
            key,
            connect_time,
            proxy: None,
            plainly: false,
        }
    }

    /// Through a proxy from now on, which is reached wherever it is.
    pub(super) fn through(&mut self, proxy: Option<(String, u16)>) {
        self.proxy = proxy;
    }

    /// To private networks as well, and by plain http wherever it may go, from now on.
    pub(super) fn privately(&mut self) {
        self.plainly = true;
        self.addresses = Arc::new((*self.addresses).clone().and_private());
    }

    /// Looks a name up and judges what it leads to; nothing where a proxy does that.
    pub(super) async fn find(
        &self,
        host: &str,
        port: u16,
        plain: bool,
    ) -> Result<Vec<SocketAddr>, Fault> {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let found = match host.parse::<IpAddr>() {
            Ok(ip) => vec![SocketAddr::new(ip, port)],
            Err(_name) if self.proxy.is_some() => Vec::new(),
            Err(_name) => self.look_up(host, port).await?,
        };
        self.judge(host, plain, &found)?;
        Ok(found)
    }

    async fn connect(self, uri: Uri) -> Result<Link, Fault> {
        let plain = uri.scheme_str() == Some("http");
        let host = uri.host().unwrap_or_default();
        let port = uri.port_u16().unwrap_or(if plain { 80 } else { 443 });
        let found = self.find(host, port, plain).await?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let public = found.iter().all(|address| {
            self.addresses.standing(*address, self.shared.own()) == Standing::Public
        });
        let tcp = match &self.proxy {
            None => self.reach(host, &found).await?,
            Some(proxy) => timeout(self.connect_time, self.tunnel(proxy, host, port))
                .await
                .unwrap_or_else(|_late| {
                    Err(Fault::new(FaultKind::Connect, "the proxy does not answer"))
                })?,
        };
        // Small requests are not held back for the answer to the one before.
        tcp.set_nodelay(true)
            .map_err(|e| Fault::new(FaultKind::Connect, e.to_string()))?;
        let stream = if plain {
            Either::Left(tcp)
        } else {
            Either::Right(Box::new(self.secure(host, tcp).await?))
        };
        Ok(Link {
            io: TokioIo::new(stream),
            public,
        })
    }

    /// A connection to `host` by way of the proxy (RFC 9110 §9.3.6).
    async fn tunnel(
        &self,
        proxy: &(String, u16),
        host: &str,
        port: u16,
    ) -> Result<TcpStream, Fault> {
        let failed = |why: String| Fault::new(FaultKind::Connect, format!("the proxy: {why}"));
        let found = self.look_up(&proxy.0, proxy.1).await?;
        let mut tcp = self.reach(&proxy.0, &found).await?;
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_owned()
        };
        let asked = format!("CONNECT {host}:{port} HTTP/1.1\r\nhost: {host}:{port}\r\n\r\n");
        tcp.write_all(asked.as_bytes())
            .await
            .map_err(|e| failed(e.to_string()))?;
        let mut head = Vec::new();
        // Byte by byte: what follows the head is the other side's.
        while !head.ends_with(b"\r\n\r\n") {
            let byte = tcp.read_u8().await.map_err(|e| failed(e.to_string()))?;
            head.push(byte);
            if head.len() > PROXY_HEAD {
                return Err(failed("its answer is too long".to_owned()));
            }
        }
        let line = String::from_utf8_lossy(&head);
        let status = line.split(' ').nth(1).unwrap_or_default();
        if status.len() == 3 && status.starts_with('2') {
            Ok(tcp)
        } else {
            Err(failed(format!("it answered {status:.3}")))
        }
    }

    async fn look_up(&self, name: &str, port: u16) -> Result<Vec<SocketAddr>, Fault> {
        let nowhere = |why: String| Fault::new(FaultKind::Resolve, format!("{name}: {why}"));
        let asked = async {
            let _permit = self.shared.look_ups.acquire().await;
            self.shared.resolver.resolve(name.to_owned(), port).await
        };
        match timeout(DNS_TIME, asked).await {
            Ok(Ok(found)) if found.is_empty() => Err(nowhere("it has no address".into())),
            Ok(Ok(found)) => Ok(found),
            Ok(Err(e)) => Err(nowhere(e.to_string())),
            Err(_late) => Err(nowhere(format!("no answer within {DNS_TIME:?}"))),
        }
    }

    /// Whether all of it may be reached: of a name with one bad address none is used.
    fn judge(&self, host: &str, plain: bool, found: &[SocketAddr]) -> Result<(), Fault> {
        let standing = |address: &SocketAddr| {
            let address = SocketAddr::new(address.ip(), address.port());
            self.addresses.standing(address, self.shared.own())
        };
        let blocked = |why: &str| {
            let text = format!("{host} {why}; {} may open its network", self.key);
            Err(Fault::new(FaultKind::Blocked, text))
        };
        if found.iter().any(|a| standing(a) == Standing::Refused) {
            return blocked("leads to where no request may go");
        }
        // Of what a proxy looks up nobody knows here whether it is opened.
        if plain
            && !self.plainly
            && (found.is_empty() || found.iter().any(|a| standing(a) != Standing::Opened))
        {
            return blocked("is asked by plain http, which goes to opened networks only");
        }
        Ok(())
    }

    async fn reach(&self, host: &str, found: &[SocketAddr]) -> Result<TcpStream, Fault> {
        let mut last = None;
        // Each address gets its share of the time, so that one that swallows everything leaves some to the next.
        let share = self.connect_time / u32::try_from(found.len()).unwrap_or(u32::MAX).max(1);
        for address in found {
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(e)) => last = Some(e.kind().to_string()),
                Err(_late) => last = Some(format!("no answer within {share:?}")),
            }
        }
        let why = last.unwrap_or_default();
        Err(Fault::new(FaultKind::Connect, format!("{host}: {why}")))
    }

    async fn secure(&self, host: &str, tcp: TcpStream) -> Result<TlsStream<TcpStream>, Fault> {
        let failed = |why: String| Fault::new(FaultKind::Tls, format!("{host}: {why}"));
        let name = ServerName::try_from(host.to_owned()).map_err(|e| failed(e.to_string()))?;
        let connector = TlsConnector::from(self.shared.tls());
        match timeout(TLS_TIME, connector.connect(name, tcp)).await {
            Ok(done) => done.map_err(|e| {
                tracing::debug!(host, error = %e, "no TLS");
                failed(why_no_tls(&e).to_owned())
            }),
            Err(_late) => Err(failed(format!("no agreement within {TLS_TIME:?}"))),
        }
    }
}

/// Why TLS was not agreed upon, in words of ours: a certificate names machines that whoever reads logs may not know of.
fn why_no_tls(error: &std::io::Error) -> &'static str {
    let inner = error.get_ref().and_then(|e| e.downcast_ref());
    let Some(error) = inner else {
        return "the connection broke while TLS was agreed upon";
    };
    let rustls::Error::InvalidCertificate(why) = error else {
        return "it does not speak TLS as we do";
    };
    match why {
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is not for that name"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate does not count yet"
        }
        CertificateError::UnknownIssuer => "nobody who is trusted signed its certificate",
        _ => "its certificate is not good",
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = Link;
    type Error = Fault;
    type Future = BoxFuture<'static, Result<Link, Fault>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Link {
    io: TokioIo<Either<TcpStream, Box<TlsStream<TcpStream>>>>,
    public: bool,
}

/// Whether an answer came from a public address.
#[derive(Debug, Clone, Copy)]
pub(super) struct FromPublic(pub(super) bool);

impl Connection for Link {
    fn connected(&self) -> Connected {
        Connected::new().extra(FromPublic(self.public))
    }
}

impl Read for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl Write for Link {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, buffers)
    }
}
