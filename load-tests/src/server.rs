//! Where requests go: an address of this machine in plain, or a name on the network over TLS.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::error::{Failure, Result};

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
    /// When the URL is not `http://HOST[:PORT]` or `https://HOST[:PORT]`, or has no address.
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
        let authority: ::http::uri::Authority = authority.parse().map_err(|_other| unfit())?;
        let port = authority
            .port_u16()
            .unwrap_or(if is_tls { 443 } else { 80 });
        let name = authority.host().trim_matches(['[', ']']);
        let mut found = tokio::net::lookup_host((name, port))
            .await
            .map_err(|_unknown| unfit())?;
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
        let stream = TcpStream::connect(self.address).await?;
        let Some(Tls { name, config }) = &self.tls else {
            return Ok(Box::new(stream));
        };
        let connector = TlsConnector::from(Arc::clone(config));
        Ok(Box::new(connector.connect(name.clone(), stream).await?))
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
}
