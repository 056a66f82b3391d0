//! What `push`, `pull`, `admin`, `fsck`, `gc` and `scrub` say to a gateway. Nothing here knows more of it
//! than its public API.

pub mod catalog;
pub mod error;
pub mod link_keys;
pub mod plugins;
pub mod progress;
pub mod pull;
pub mod push;
pub mod retry;
pub mod scripts;
pub mod upkeep;
pub mod uploads;
pub mod webhooks;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use hyper_util::client::proxy::matcher::Matcher;
use reqwest::redirect;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::config::Connection;
use crate::config::connection::Credential;

pub use error::ClientError;
use error::Refused;

/// A host that does not answer its port for so long is away.
const CONNECTING: Duration = Duration::from_secs(10);
/// Answers are small documents; a longer one is not from a gateway.
const LONGEST_ANSWER: usize = 4 << 20;
/// A listing of an organization goes down to each file of each version.
const LONGEST_LISTING: usize = 64 << 20;
/// How rustls begins to say that a certificate is not good: it stays so.
const UNTRUSTED: &str = "invalid peer certificate";
/// What it says then where the certificate may sign others, and so is no server's.
const OF_AUTHORITY: &str = "CaUsedAsEndEntity";
/// A gateway to its store, or to a mirror that sends on to its own.
const MOST_REDIRECTS: usize = 3;

/// One gateway, one caller. Cheap to clone; connections are kept and shared.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    /// What stands between, as the environment has it.
    proxy: Option<String>,
    authorization: Option<HeaderValue>,
}

/// An answer that is all there, and good.
#[derive(Debug)]
pub struct Answer {
    /// 2xx.
    pub status: StatusCode,
    /// Its head.
    pub headers: HeaderMap,
    body: Vec<u8>,
    base: String,
}

impl Client {
    /// Prepares for calls; none is made yet.
    ///
    /// # Errors
    /// [`ClientError::Setup`] for a credential that fits no header, or when TLS cannot be set up.
    pub fn try_new(connection: &Connection) -> Result<Self, ClientError> {
        let authorization = match &connection.credential {
            Credential::Token(token) => Some(format!("Bearer {}", token.expose())),
            Credential::ServiceAccount(id, key) => {
                let pair = STANDARD.encode(format!("{id}:{}", key.expose()));
                Some(format!("Basic {pair}"))
            }
            Credential::Nobody => None,
        };
        let authorization = authorization.map(|text| {
            let mut value = HeaderValue::from_str(&text).map_err(|_odd| {
                ClientError::Setup("the token holds characters that no token has".into())
            })?;
            value.set_sensitive(true);
            Ok(value)
        });
        let authorization = authorization.transpose()?;
        let http = reqwest::Client::builder()
            .user_agent(concat!("boxgate/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECTING)
            // A redirect would take the credential, and gigabytes, to who knows whom.
            .redirect(redirect::Policy::none())
            .tls_backend_preconfigured(tls(connection)?)
            .build()
            .map_err(|e| ClientError::Setup(error::root_cause(&e)))?;
        Ok(Self {
            http,
            base: connection.url.clone(),
            proxy: proxy(&connection.url),
            authorization,
        })
    }

    /// Where the gateway is, without a slash at the end.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// A request by the caller. `place` is a path on the gateway, or an address that it gave itself.
    pub fn request(&self, method: Method, place: &str) -> reqwest::RequestBuilder {
        let url = if place.starts_with('/') {
            format!("{}{place}", self.base)
        } else {
            place.to_owned()
        };
        let request = self.http.request(method, url);
        match &self.authorization {
            Some(value) => request.header(AUTHORIZATION, value.clone()),
            None => request,
        }
    }

    /// Sends it, and reads the answer.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when none comes or it breaks, [`ClientError::Refused`] for every
    /// status but 2xx, [`ClientError::Odd`] for what is no answer of a gateway.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> Result<Answer, ClientError> {
        self.send_within(request, LONGEST_ANSWER).await
    }

    /// As [`Client::send`], for an answer that may have `longest` bytes.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn send_within(
        &self,
        request: reqwest::RequestBuilder,
        longest: usize,
    ) -> Result<Answer, ClientError> {
        let mut response = self.open(request).await?;
        let body = self.read(&mut response, longest).await?;
        Ok(Answer {
            status: response.status(),
            headers: std::mem::take(response.headers_mut()),
            body,
            base: self.base.clone(),
        })
    }

    /// One call, with a document or without; the answer's document, or an empty one where none comes.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn call(
        &self,
        method: Method,
        place: &str,
        wish: Option<&Value>,
    ) -> Result<Value, ClientError> {
        let mut request = self.request(method, place);
        if let Some(wish) = wish {
            request = request
                .header(CONTENT_TYPE, "application/json")
                .body(wish.to_string());
        }
        let answer = self.send_within(request, LONGEST_LISTING).await?;
        if answer.body.is_empty() {
            return Ok(json!({}));
        }
        answer.json()
    }

    /// Sends it, and leaves the body of a good answer to the caller.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn open(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<reqwest::Response, ClientError> {
        let response = request.send().await.map_err(|e| self.broken(&e))?;
        self.good(response).await
    }

    /// The answer, if it is a good one.
    async fn good(
        &self,
        mut response: reqwest::Response,
    ) -> Result<reqwest::Response, ClientError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        if status.is_redirection() {
            let place = location(&response).unwrap_or("elsewhere");
            // What stands behind the path may be good for whoever reads it here.
            let place = place.split('?').next().unwrap_or_default();
            return Err(self.odd(&format!("it points to {place}; use that address")));
        }
        let body = self.read(&mut response, LONGEST_ANSWER).await?;
        let refused = Refused::read(&self.base, status, response.headers(), &body);
        Err(ClientError::Refused(Box::new(refused)))
    }

    /// As [`Client::open`] for bytes that the caller proves itself, wherever the gateway says they are: in its store, at
    /// a mirror. Only the gateway gets the credential. Tells whether they come from elsewhere.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn open_anywhere(
        &self,
        place: &str,
        fields: &HeaderMap,
    ) -> Result<(reqwest::Response, bool), ClientError> {
        let asked = self.request(Method::GET, place).headers(fields.clone());
        let mut response = asked.send().await.map_err(|e| self.broken(&e))?;
        let mut elsewhere = false;
        for _ in 0..MOST_REDIRECTS {
            if !response.status().is_redirection() {
                break;
            }
            let next = location(&response).and_then(|place| response.url().join(place).ok());
            let Some(next) = next.filter(|url| matches!(url.scheme(), "http" | "https")) else {
                break;
            };
            elsewhere = true;
            let asked = self.http.get(next).headers(fields.clone());
            response = asked.send().await.map_err(|e| self.broken(&e))?;
        }
        Ok((self.good(response).await?, elsewhere))
    }

    async fn read(
        &self,
        response: &mut reqwest::Response,
        longest: usize,
    ) -> Result<Vec<u8>, ClientError> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.broken(&e))? {
            if body.len() + chunk.len() > longest {
                return Err(self.odd("its answer has no end"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// A call that broke.
    pub(crate) fn broken(&self, error: &reqwest::Error) -> ClientError {
        let why = error::root_cause(error);
        if why.starts_with(UNTRUSTED) {
            let url = &self.base;
            let advice = if why.contains(OF_AUTHORITY) {
                "Its certificate is an authority's own (CA:TRUE), as openssl req -x509 makes them, and no server's. Make \
                 one with -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=DNS:HOST, and name that by --cacert"
            } else {
                "Name the certificate of whoever issued its own by --cacert, or in SSL_CERT_FILE"
            };
            return ClientError::Setup(format!("{url} is not trusted: {why}. {advice}"));
        }
        self.unreachable(match &self.proxy {
            Some(proxy) => format!("{why} (through the proxy {proxy})"),
            None => why,
        })
    }

    /// A call that came to nothing.
    pub(crate) fn unreachable(&self, why: String) -> ClientError {
        let url = self.base.clone();
        ClientError::Unreachable { url, why }
    }

    /// What is not said by any gateway.
    pub(crate) fn odd(&self, what: &str) -> ClientError {
        ClientError::odd(&self.base, what)
    }
}

/// Through which proxy that address is reached, by the same rules as the calls themselves.
fn proxy(url: &str) -> Option<String> {
    let found = Matcher::from_system().intercept(&url.parse().ok()?)?;
    Some(found.uri().to_string().trim_end_matches('/').to_owned())
}

fn location(response: &reqwest::Response) -> Option<&str> {
    let place = response.headers().get(http::header::LOCATION)?;
    place.to_str().ok()
}

impl Answer {
    /// Its document.
    ///
    /// # Errors
    /// [`ClientError::Odd`] when it is another.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        let odd = |e: serde_json::Error| ClientError::odd(&self.base, &e.to_string());
        serde_json::from_slice(&self.body).map_err(odd)
    }

    /// Its bytes.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// One field of its head.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// TLS by rustls with ring, trusting whom the system trusts, or whom a file names. No machine needs certificates for
/// plain HTTP, so its own are not looked for then; a proxy may be spoken to by TLS all the same, if a file says whom to
/// trust.
fn tls(connection: &Connection) -> Result<rustls::ClientConfig, ClientError> {
    let mut roots = rustls::RootCertStore::empty();
    if let Some(path) = &connection.cacert {
        let found = rustls_native_certs::load_certs_from_paths(Some(path), None);
        let why = found.errors.first().map(ToString::to_string);
        let (added, _odd) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            let why = why.unwrap_or_else(|| "there is none in it".to_owned());
            let text = format!("--cacert {}: no certificate: {why}", path.display());
            return Err(ClientError::Setup(text));
        }
    } else if connection.url.starts_with("https:") {
        let found = rustls_native_certs::load_native_certs();
        let (added, _odd) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            let text = "this machine trusts no certificate authority; install ca-certificates, or \
                        name a file in SSL_CERT_FILE or by --cacert";
            return Err(ClientError::Setup(text.into()));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| ClientError::Setup(e.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
