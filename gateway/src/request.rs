//! What is known of a request while it runs: its id, who asks from where, and what it came to.
//!
//! The server makes one [`RequestFacts`] per request and puts it, as an `Arc`, into the request's
//! extensions; handlers add what they find out, and the access log reads it at the end.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use http::HeaderMap;
use tokio::time::Instant;

use crate::admission::rates::Standing;
use crate::config::Cidr;
use crate::config::settings::ClientIp;
use crate::telemetry::trace::Trace;

/// Facts of one request, shared by all who work on it.
#[derive(Debug)]
pub struct RequestFacts {
    /// Hexadecimal digits.
    id: [u8; 32],
    client_ip: IpAddr,
    peer_ip: IpAddr,
    authority: String,
    listener: usize,
    scheme: &'static str,
    started: Instant,
    route: OnceLock<&'static str>,
    principal: OnceLock<String>,
    upload: OnceLock<String>,
    plugins: Mutex<Vec<String>>,
    standing: Mutex<Option<Standing>>,
    trace: Option<Trace>,
    bytes_in: AtomicU64,
}

impl RequestFacts {
    /// Facts of a request that has just come from `client_ip` and names `authority` as its host.
    pub fn new(client_ip: IpAddr, authority: impl Into<String>) -> Self {
        let mut id = [b'0'; 32];
        // A name and no secret: a generator of this thread does, and asks the system but once.
        hex::encode_to_slice(fastrand::u128(..).to_be_bytes(), &mut id)
            .expect("two digits for each of 16 bytes");
        Self {
            id,
            client_ip,
            peer_ip: client_ip,
            authority: authority.into(),
            listener: 0,
            scheme: "http",
            started: Instant::now(),
            route: OnceLock::new(),
            principal: OnceLock::new(),
            upload: OnceLock::new(),
            plugins: Mutex::default(),
            standing: Mutex::default(),
            trace: None,
            bytes_in: AtomicU64::new(0),
        }
    }

    /// That the request came to the listener at that place of the configuration.
    #[must_use]
    pub fn at(mut self, listener: usize) -> Self {
        self.listener = listener;
        self
    }

    /// That the request belongs to the trace that its head tells of; where it tells of none and `begins`, it begins one,
    /// whose id is its own.
    #[must_use]
    pub fn traced(mut self, headers: &HeaderMap, begins: bool) -> Self {
        let begun = || begins.then(|| Trace::begun(self.id())).flatten();
        self.trace = Trace::told(headers).or_else(begun);
        self
    }

    /// The trace that it belongs to, if any.
    pub fn trace(&self) -> Option<&Trace> {
        self.trace.as_ref()
    }

    /// Names the trace in the log and in answers: where there is none, as the request itself, which would begin one.
    pub fn trace_id(&self) -> Cow<'_, str> {
        match &self.trace {
            Some(trace) => trace.id().into(),
            None => self.id().into(),
        }
    }

    /// The place of the listener that the request came to.
    pub fn listener(&self) -> usize {
        self.listener
    }

    /// That the request came by `scheme`, as its listener speaks it.
    #[must_use]
    pub fn by(mut self, scheme: &'static str) -> Self {
        self.scheme = scheme;
        self
    }

    /// That its connection is `peer`'s.
    #[must_use]
    pub fn through(mut self, peer: IpAddr) -> Self {
        self.peer_ip = peer;
        self
    }

    /// Who holds the connection: the client, or a proxy.
    pub fn peer_ip(&self) -> IpAddr {
        self.peer_ip
    }

    /// Notes plugins that had a part in the answer, each once.
    pub fn add_plugins(&self, names: Vec<String>) {
        if names.is_empty() {
            return;
        }
        let mut plugins = self.plugins.lock().unwrap_or_else(PoisonError::into_inner);
        for name in names {
            if !plugins.contains(&name) {
                plugins.push(name);
            }
        }
    }

    /// The plugins that had a part in the answer.
    pub fn plugins(&self) -> Vec<String> {
        let plugins = self.plugins.lock().unwrap_or_else(PoisonError::into_inner);
        plugins.clone()
    }

    /// Notes where it stands by a limit; the tightest counts.
    pub fn stands(&self, standing: Standing) {
        let mut known = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Standing::tighter(known.take(), Some(standing));
    }

    /// Where it stands by the tightest limit that it was counted by.
    pub fn standing(&self) -> Option<Standing> {
        let known = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        known.clone()
    }

    /// `http` or `https`, as it came to this process.
    pub fn scheme(&self) -> &'static str {
        self.scheme
    }

    /// The facts in a request's extensions.
    pub fn of<B>(request: &http::Request<B>) -> Option<Arc<Self>> {
        request.extensions().get::<Arc<Self>>().cloned()
    }

    /// 32 hexadecimal digits that name the request in answer and log.
    pub fn id(&self) -> &str {
        std::str::from_utf8(&self.id).expect("hexadecimal digits are ASCII")
    }

    /// Where the request comes from: the right-most hop that is no trusted proxy.
    pub fn client_ip(&self) -> IpAddr {
        self.client_ip
    }

    /// The one host (and port) that the request names, checked.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// When the request's head was whole.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Notes the route, as the route table spells it; the first one counts.
    pub fn set_route(&self, route: &'static str) {
        let _already = self.route.set(route);
    }

    /// The route, once it is known.
    pub fn route(&self) -> Option<&'static str> {
        self.route.get().copied()
    }

    /// Notes who asks; the first one counts.
    pub fn set_principal(&self, principal: impl Into<String>) {
        let _already = self.principal.set(principal.into());
    }

    /// Who asks, once that is known.
    pub fn principal(&self) -> Option<&str> {
        self.principal.get().map(String::as_str)
    }

    /// Notes the upload that the request feeds; the first one counts.
    pub fn set_upload(&self, upload: impl Into<String>) {
        let _already = self.upload.set(upload.into());
    }

    /// The upload that the request feeds, if any.
    pub fn upload(&self) -> Option<&str> {
        self.upload.get().map(String::as_str)
    }

    /// Counts bytes of the request's body.
    pub fn add_bytes_in(&self, bytes: u64) {
        self.bytes_in.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes of the request's body so far.
    pub fn bytes_in(&self) -> u64 {
        self.bytes_in.load(Ordering::Relaxed)
    }
}

/// The client's address: `peer`, unless that is a trusted proxy; then the right-most hop in its
/// header that is not one. Nobody else's header is believed.
pub fn client_ip(peer: IpAddr, headers: &HeaderMap, trusted: &[Cidr], by: &ClientIp) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|block| block.contains(address));
    let mut known = peer.to_canonical();
    if !is_trusted(known) {
        return known;
    }
    let (name, parse): (_, fn(&str) -> Option<IpAddr>) = match by {
        // It was told before the first request.
        ClientIp::ProxyProtocol => return known,
        ClientIp::Forwarded => (http::header::FORWARDED, forwarded_for),
        ClientIp::Header(name) => (name.clone(), address),
    };
    // Several lines are one list (RFC 9110 §5.3); a trusted proxy appends at its right end.
    let lines: Vec<&str> = headers
        .get_all(name)
        .iter()
        .map(|line| line.to_str().unwrap_or_default())
        .collect();
    for hop in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
        // An unreadable hop ends the chain of those who can be believed.
        let Some(hop) = parse(hop.trim()) else { break };
        known = hop;
        if !is_trusted(known) {
            break;
        }
    }
    known
}

/// `192.0.2.1`, `192.0.2.1:99`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:99`.
fn address(text: &str) -> Option<IpAddr> {
    let bare = || text.parse::<IpAddr>().ok();
    let with_port = || {
        text.parse::<std::net::SocketAddr>()
            .ok()
            .map(|address| address.ip())
    };
    let bracketed = || {
        text.strip_prefix('[')?
            .strip_suffix(']')?
            .parse::<std::net::Ipv6Addr>()
            .ok()
            .map(IpAddr::from)
    };
    bare()
        .or_else(with_port)
        .or_else(bracketed)
        .map(|address| address.to_canonical())
}

/// The `for` of one element of `Forwarded`. RFC 7239 §4: names without case, value a token or a
/// quoted string. A quoted comma splits the element wrongly and so ends the chain, which is safe.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let value = element.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then_some(value)
    })?;
    let value = value.trim();
    let unquoted = value
        .strip_prefix('"')
        .and_then(|inner| inner.strip_suffix('"'))
        .unwrap_or(value);
    address(unquoted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(peer: &str, by: &str, lines: &[&str]) -> String {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(
                http::HeaderName::from_bytes(by.as_bytes()).unwrap(),
                line.parse().unwrap(),
            );
        }
        let by = match by {
            "forwarded" => ClientIp::Forwarded,
            name => ClientIp::Header(name.parse().unwrap()),
        };
        client_ip(peer.parse().unwrap(), &headers, &trusted, &by).to_string()
    }

    #[test]
    fn the_right_most_untrusted_hop_is_the_client() {
        let xff = "x-forwarded-for";
        let table: [(&str, &[&str], &str); 11] = [
            ("203.0.113.9", &["198.51.100.1"], "203.0.113.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("::ffff:10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["6.6.6.6, 198.51.100.1"], "198.51.100.1"),
            (
                "10.0.0.1",
                &["6.6.6.6, 198.51.100.1, 10.9.9.9"],
                "198.51.100.1",
            ),
            (
                "10.0.0.1",
                &["6.6.6.6", "198.51.100.1, 10.9.9.9"],
                "198.51.100.1",
            ),
            ("10.0.0.1", &["10.1.1.1, 10.2.2.2"], "10.1.1.1"),
            ("10.0.0.1", &["6.6.6.6, unknown, 10.9.9.9"], "10.9.9.9"),
            ("fd00::1", &["[2001:db8::7]:1234"], "2001:db8::7"),
            ("10.0.0.1", &["198.51.100.1:5555"], "198.51.100.1"),
        ];
        for (peer, lines, client) in table {
            assert_eq!(found(peer, xff, lines), client, "{peer} {lines:?}");
        }
    }

    #[test]
    fn forwarded_is_read_by_its_for() {
        let table = [
            ("for=198.51.100.1;proto=https", "198.51.100.1"),
            ("For=\"[2001:db8::7]:4711\"", "2001:db8::7"),
            ("for=6.6.6.6, proto=http;for=198.51.100.2", "198.51.100.2"),
            ("for=6.6.6.6, for=_hidden", "10.0.0.1"),
            ("for=6.6.6.6, by=10.0.0.3", "10.0.0.1"),
        ];
        for (line, client) in table {
            assert_eq!(found("10.0.0.1", "forwarded", &[line]), client, "{line}");
        }
    }

    #[test]
    fn the_first_fact_counts_and_ids_differ() {
        let facts = RequestFacts::new("127.0.0.1".parse().unwrap(), "localhost");
        facts.set_route("/a");
        facts.set_route("/b");
        facts.add_bytes_in(3);
        facts.add_bytes_in(4);
        assert_eq!(facts.route(), Some("/a"));
        assert_eq!(facts.bytes_in(), 7);
        assert_eq!(facts.id().len(), 32);
        let other = RequestFacts::new("127.0.0.1".parse().unwrap(), "localhost");
        assert_ne!(facts.id(), other.id());
    }
}
