//! Where requests go: an address of this machine in plain, or a name on the network over TLS.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::error::{Failure, Result};

/// How long a connection may take until it stands.
const CONNECTS_WITHIN: Duration = Duration::from_secs(30);
/// How long nothing may move while somebody waits for it: a gateway that hangs is no slow one, however long its uploads are.
const SILENCE: Duration = Duration::from_mins(2);

/// A connection to a server.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {
    /// Has it end by a reset when it is dropped.
    fn end_by_reset(&self) -> io::Result<()>;
}

impl Wire for TcpStream {
    fn end_by_reset(&self) -> io::Result<()> {
        self.set_zero_linger()
    }
}

impl Wire for TlsStream<TcpStream> {
    fn end_by_reset(&self) -> io::Result<()> {
        let (stream, _) = self.get_ref();
        stream.set_zero_linger()
    }
}

/// A connection that fails when nothing moves on it for too long.
#[derive(Debug)]
struct Patient<S> {
    stream: S,
    silence: Duration,
    late: Pin<Box<Sleep>>,
    is_waiting: bool,
}

impl<S> Patient<S> {
    fn new(stream: S, silence: Duration) -> Self {
        Self {
            stream,
            silence,
            late: Box::pin(sleep(silence)),
            is_waiting: false,
        }
    }

    /// What came of trying to move something.
    fn waited<T>(
        &mut self,
        cx: &mut Context<'_>,
        moved: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if moved.is_ready() {
            self.is_waiting = false;
            return moved;
        }
        if !self.is_waiting {
            self.is_waiting = true;
            self.late.as_mut().reset(Instant::now() + self.silence);
        }
        self.late.as_mut().poll(cx).map(|()| {
            let seconds = self.silence.as_secs();
            let said =
                format!("nothing moved for {seconds} s: the gateway hangs, or the line to it");
            Err(io::Error::new(io::ErrorKind::TimedOut, said))
        })
    }
}

impl<S: Wire> Wire for Patient<S> {
    fn end_by_reset(&self) -> io::Result<()> {
        self.stream.end_by_reset()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let moved = Pin::new(&mut this.stream).poll_read(cx, buf);
        this.waited(cx, moved)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let moved = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.waited(cx, moved)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let moved = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.waited(cx, moved)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let moved = Pin::new(&mut this.stream).poll_flush(cx);
        this.waited(cx, moved)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let moved = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.waited(cx, moved)
    }
}

/// A server that was looked up.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    address: SocketAddr,
    host: Arc<str>,
    tls: Option<Tls>,
}

#[derive(Debug, Clone)]
struct Tls {
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
}

impl From<SocketAddr> for Server {
    fn from(address: SocketAddr) -> Self {
        Self {
            address,
            host: address.to_string().into(),
            tls: None,
        }
    }
}

impl Server {
    /// Looks its name up. Over TLS the system's authorities are trusted, or those in the file that `SSL_CERT_FILE` names.
    ///
    /// # Errors
    /// When the URL is not `http://HOST[:PORT]` or `https://HOST[:PORT]`, holds a credential, or has no address.
    pub(crate) async fn find(url: &str) -> Result<Self> {
        let unfit = || {
            Failure::said(format!(
                "{url:?} is not http://HOST[:PORT] or https://HOST[:PORT]"
            ))
        };
        let (is_tls, authority) = match url.split_once("://") {
            Some(("https", authority)) => (true, authority.trim_end_matches('/')),
            Some(("http", authority)) => (false, authority.trim_end_matches('/')),
            _ => return Err(unfit()),
        };
        if authority.contains('@') {
            // It is not repeated, for what stands there may be a password.
            return Err(Failure::said(
                "a URL with a user or a password in it is not taken: the credential comes from BOXGATE_TOKEN or --token",
            ));
        }
        let authority: ::http::uri::Authority = authority.parse().map_err(|_other| unfit())?;
        let port = authority
            .port_u16()
            .unwrap_or(if is_tls { 443 } else { 80 });
        let name = authority.host().trim_matches(['[', ']']);
        let unknown = |why: String| Failure::said(format!("the host {name:?} is not found: {why}"));
        let mut found = timeout(CONNECTS_WITHIN, tokio::net::lookup_host((name, port)))
            .await
            .map_err(|late| unknown(late.to_string()))?
            .map_err(|e| unknown(e.to_string()))?;
        let mut tls = None;
        if is_tls {
            let name = ServerName::try_from(name.to_owned()).map_err(|_other| unfit())?;
            tls = Some(Tls {
                name,
                config: trusting()?,
            });
        }
        Ok(Self {
            address: found.next().ok_or_else(unfit)?,
            host: authority.as_str().into(),
            tls,
        })
    }

    /// What it is called in requests.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// As other programs are told of it: scheme and authority.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.is_tls() { "https" } else { "http" };
        format!("{scheme}://{}", self.host)
    }

    /// Whether it is spoken to over TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// A connection of its own.
    ///
    /// # Errors
    /// When there is none to be had.
    pub(crate) async fn connect(&self) -> Result<Box<dyn Wire>> {
        let connecting = timeout(CONNECTS_WITHIN, TcpStream::connect(self.address));
        let stream = connecting.await.map_err(|_late| hanging())??;
        let Some(Tls { name, config }) = &self.tls else {
            return Ok(Box::new(Patient::new(stream, SILENCE)));
        };
        let connector = TlsConnector::from(Arc::clone(config));
        let connecting = timeout(CONNECTS_WITHIN, connector.connect(name.clone(), stream));
        let stream = connecting.await.map_err(|_late| hanging())?;
        let stream = stream.map_err(not_trusted)?;
        Ok(Box::new(Patient::new(stream, SILENCE)))
    }
}

fn hanging() -> io::Error {
    let seconds = CONNECTS_WITHIN.as_secs();
    let said = format!("it does not stand within {seconds} s");
    io::Error::new(io::ErrorKind::TimedOut, said)
}

/// Why TLS failed; of an authority that is not known here, how it becomes known.
fn not_trusted(e: io::Error) -> Failure {
    let tls = e
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => Failure::said(
            "the gateway's certificate is by an authority that is not known here: SSL_CERT_FILE names a file with that authority's \
             certificate, and CURL_CA_BUNDLE does for curl, which rows of compare run",
        ),
        _ => e.into(),
    }
}

fn trusting() -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    let loaded = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(loaded.certs);
    if roots.is_empty() {
        return Err(Failure::said(
            "no certificate authority is known here: SSL_CERT_FILE names a file of them",
        ));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|e| Failure::said(e.to_string()))?;
    Ok(Arc::new(
        config.with_root_certificates(roots).with_no_client_auth(),
    ))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_url_is_an_authority_and_how_it_is_spoken_to() {
        let server = Server::find("http://127.0.0.1:8080/").await.unwrap();
        assert_eq!(
            (server.host(), server.tls.is_some()),
            ("127.0.0.1:8080", false)
        );
        assert_eq!(server.address.port(), 8080);
        assert_eq!(server.url(), "http://127.0.0.1:8080");
        for wrong in [
            "127.0.0.1:8080",
            "ftp://127.0.0.1",
            "http://",
            "https://127.0.0.1/boxes",
            "http://a b",
        ] {
            assert!(Server::find(wrong).await.is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_url_that_cannot_be_asked_is_refused_with_its_reason() {
        let failed = async |url: &str| Server::find(url).await.unwrap_err().to_string();
        let why = failed("http://joe:secret@127.0.0.1").await;
        assert!(
            why.contains("BOXGATE_TOKEN") && !why.contains("secret"),
            "{why}"
        );
        // No name is that long, and so nobody is asked for it.
        let why = failed(&format!("http://{}", "a".repeat(70))).await;
        assert!(why.contains("is not found"), "{why}");
    }

    #[test]
    fn an_authority_that_is_not_known_is_told_with_the_next_step() {
        let of = |why| {
            let e = rustls::Error::InvalidCertificate(why);
            not_trusted(io::Error::new(io::ErrorKind::InvalidData, e)).to_string()
        };
        let why = of(CertificateError::UnknownIssuer);
        assert!(
            why.contains("SSL_CERT_FILE") && why.contains("CURL_CA_BUNDLE"),
            "{why}"
        );
        let why = of(CertificateError::Expired);
        assert!(!why.contains("SSL_CERT_FILE"), "{why}");
    }

    #[tokio::test]
    async fn a_peer_that_says_nothing_ends_the_wait() {
        let (near, far) = tokio::io::duplex(8);
        let mut near = Patient::new(near, Duration::from_millis(20));
        let mut far = Patient::new(far, SILENCE);
        far.write_all(b"word").await.unwrap();
        let mut word = [0; 4];
        near.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"word");
        let silent = near.read(&mut word).await.unwrap_err();
        assert_eq!(silent.kind(), io::ErrorKind::TimedOut);
        assert!(silent.to_string().contains("nothing moved"), "{silent}");
        // Nor is one waited for that takes nothing.
        let full = near.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::TimedOut);
    }
}
