//! How a script reaches outside: not at all by itself. The gateway hands in the one client that may.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

/// Requests of one call.
pub const MAX_CALLS: usize = 16;
/// Longest request body, in bytes.
pub const MAX_REQUEST_BYTES: usize = 1 << 20;
/// Longest response body after decoding, in bytes.
pub const MAX_RESPONSE_BYTES: usize = 4 << 20;
/// Longest time of one request.
pub const MAX_TIME: Duration = Duration::from_secs(10);
/// Longest time of one request of a provider: clouds take theirs, and callers of adapters wait for it.
pub const MAX_CLOUD_TIME: Duration = Duration::from_secs(30);
/// Most times that a request is sent again.
pub const MAX_RETRIES: u32 = 3;
/// Most redirects that are followed.
pub const MAX_REDIRECTS: usize = 3;

/// A request as a script wants it.
#[derive(Debug, Clone)]
pub struct HttpRequest {
    /// The plugin that asks.
    pub plugin: String,
    /// Whether it is a provider.
    pub cloud: bool,
    /// Method.
    pub method: String,
    /// URL, granted already.
    pub url: String,
    /// Header fields.
    pub headers: BTreeMap<String, String>,
    /// Body.
    pub body: Vec<u8>,
    /// How long it may take.
    pub timeout: Duration,
    /// Longest answer, in bytes.
    pub max_bytes: usize,
    /// Redirects to follow; each must be granted too.
    pub redirects: usize,
    /// How often it is sent again where the other side is busy, failed or away.
    pub retries: u32,
    /// What the operator granted.
    pub reach: Reach,
    /// Closes when nobody waits for the call any more.
    pub caller: Option<watch::Receiver<()>>,
    /// What the client wanted carried along from where the call began.
    pub baggage: Option<Arc<str>>,
}

/// An answer.
#[derive(Debug, Clone, Default)]
pub struct HttpReply {
    /// Status.
    pub status: u16,
    /// Header fields; names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Vec<u8>,
    /// The body as JSON, once somebody asked.
    document: OnceLock<Option<Value>>,
}

impl HttpReply {
    /// An answer.
    pub fn new(status: u16, headers: Vec<(String, String)>, body: Vec<u8>) -> Self {
        Self {
            status,
            headers,
            body,
            document: OnceLock::new(),
        }
    }

    /// In how many seconds an answer that says so wants to be asked again.
    pub(crate) fn retry_after(&self) -> Option<u64> {
        if !matches!(self.status, 429 | 503) {
            return None;
        }
        let told = self.headers.iter().find(|(name, _)| name == "retry-after");
        told?.1.trim().parse().ok()
    }

    /// The body as JSON, read once however often it is asked for.
    pub(crate) fn document(&self) -> Option<&Value> {
        let read = || serde_json::from_slice(&self.body).ok();
        self.document.get_or_init(read).as_ref()
    }
}

/// Why there is no answer.
#[derive(Debug, Clone)]
pub struct HttpFault {
    /// `http.timeout`, `http.refused`, ...
    pub code: &'static str,
    /// In words.
    pub message: String,
}

/// The one client that leaves the machine. Called on a thread that may block.
pub trait HttpClient: Debug + Send + Sync {
    /// Sends a request and waits for the whole answer.
    ///
    /// # Errors
    /// When there is none.
    fn send(&self, request: HttpRequest) -> Result<HttpReply, HttpFault>;

    /// What is to be in all requests of a call that begins here, asked in the task that waits for it.
    fn baggage(&self) -> Option<Arc<str>>;
}

/// Where a plugin may send requests: origins with a path prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach(Vec<Target>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    scheme: String,
    host: String,
    any_subdomain: bool,
    port: u16,
    path: String,
}

impl Reach {
    /// Reads origins such as `https://api.example.net/v2/` and `https://*.example.net/`.
    ///
    /// # Errors
    /// The entry that cannot be read, and why.
    pub fn parse<'a>(entries: impl IntoIterator<Item = &'a String>) -> Result<Self, String> {
        let mut targets = Vec::new();
        for entry in entries {
            let (any_subdomain, plain) = match entry.split_once("://*.") {
                Some((scheme, rest)) => (true, format!("{scheme}://{rest}")),
                None => (false, entry.clone()),
            };
            let url = url::Url::parse(&plain).map_err(|e| format!("{entry:?} is no URL: {e}"))?;
            let host = url.host_str().unwrap_or_default();
            let bare = url.username().is_empty()
                && url.password().is_none()
                && url.query().is_none()
                && url.fragment().is_none();
            if !matches!(url.scheme(), "http" | "https")
                || host.is_empty()
                || host.contains('*')
                || !bare
            {
                return Err(format!(
                    "{entry:?} must be an http or https origin with a path; only a leading *. may stand for hosts"
                ));
            }
            targets.push(Target {
                scheme: url.scheme().to_owned(),
                host: host.to_owned(),
                any_subdomain,
                port: url.port_or_known_default().unwrap_or(0),
                path: url.path().to_owned(),
            });
        }
        Ok(Self(targets))
    }

    /// Whether a URL lies within.
    pub fn allows(&self, url: &url::Url) -> bool {
        self.0.iter().any(|target| {
            let host = url.host_str().unwrap_or_default();
            let host_fits = if target.any_subdomain {
                host.strip_suffix(target.host.as_str())
                    .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            } else {
                host == target.host
            };
            let path = url.path();
            let path_fits = match path.strip_prefix(target.path.as_str()) {
                // `/v2` covers `/v2` and `/v2/x`, not `/v2x`.
                Some(rest) => {
                    rest.is_empty() || target.path.ends_with('/') || rest.starts_with('/')
                }
                None => false,
            };
            url.scheme() == target.scheme
                && host_fits
                && url.port_or_known_default() == Some(target.port)
                && path_fits
        })
    }

    /// Whether a URL that goes on behind this one may lie within.
    pub fn may_begin(&self, url: &url::Url) -> bool {
        let origin = |target: &Target| {
            let only = Target {
                path: "/".into(),
                ..target.clone()
            };
            let path = url.path();
            let on_the_way = target.path.starts_with(path) || path.starts_with(&target.path);
            on_the_way && Self(vec![only]).allows(url)
        };
        self.0.iter().any(origin)
    }

    /// What is asked for in `self` and not granted in `granted`.
    pub fn beyond(wanted: &[String], granted: &[String]) -> Vec<String> {
        wanted
            .iter()
            .filter(|entry| !granted.contains(entry))
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reach_is_an_origin_with_a_path_prefix() {
        let entries = [
            "https://api.example.net/v2/".to_owned(),
            "https://*.cdn.example.org/".to_owned(),
            "http://10.0.0.1:8080/purge".to_owned(),
        ];
        let reach = Reach::parse(&entries).unwrap();
        let allows = |url: &str| reach.allows(&url::Url::parse(url).unwrap());
        assert!(allows("https://api.example.net/v2/account"));
        assert!(allows("https://API.example.net:443/v2/"));
        assert!(!allows("https://api.example.net/v2"));
        assert!(!allows("https://api.example.net/v2/../v1/account"));
        assert!(!allows("http://api.example.net/v2/account"));
        assert!(!allows("https://api.example.net:8443/v2/account"));
        assert!(!allows("https://api.example.net.evil.org/v2/"));
        assert!(!allows("https://api.example.net@evil.org/v2/"));
        assert!(allows("https://a.cdn.example.org/x"));
        assert!(!allows("https://cdn.example.org/x"));
        assert!(!allows("https://evilcdn.example.org/x"));
        assert!(allows("http://10.0.0.1:8080/purge/all"));
        assert!(!allows("http://10.0.0.1:8080/purgeall"));
        for bad in [
            "ftp://a/",
            "https://*/",
            "https://a.*.b/",
            "https://u:p@a/",
            "https://a/?q",
        ] {
            assert!(Reach::parse(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
