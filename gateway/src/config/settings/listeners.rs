//! Where boxgate listens, what it shows there, and how its connections go.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use rustls::pki_types::CertificateDer;

use super::judge::Judge;
use crate::auth::origin::{self, Origin};
use crate::config::file::{self, ConfigFile};
use crate::config::units::ByteSize;
use crate::route::{self, DoorSet};

/// One address to listen at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// What systemd calls its socket; empty where it is known by its address.
    pub name: String,
    /// Address and port; port 0 takes a free one.
    pub address: SocketAddr,
    /// What is spoken there.
    pub speaks: Speaks,
    /// The doors that are there.
    pub doors: DoorSet,
}

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.1 as it is.
    Plain,
    /// HTTP/1.1 and 2 over TLS.
    Tls,
    /// Those, and HTTP/3 at the UDP port of the same number.
    TlsAndQuic,
}

impl Speaks {
    /// The scheme of its URLs.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Plain => "http",
            Self::Tls | Self::TlsAndQuic => "https",
        }
    }
}

/// Which public APIs are served.
#[derive(Debug, Clone)]
pub struct Doors {
    /// The `BoxVault` API.
    pub boxvault: Door,
    /// What Vagrant reads.
    pub vagrant: Door,
    /// Publishing as to Vagrant Cloud.
    pub vagrant_cloud: Door,
    /// Resumable uploads.
    pub files: Door,
    /// Blobs under the URLs of their digests.
    pub blobs: Door,
    /// Webhooks that come in for plugins.
    pub hooks: Door,
    /// Adapters to clouds.
    pub providers: Door,
    /// Images of runtimes.
    pub runtime: Door,
    /// A tree of boxes that is served where it is.
    pub boxitory: Door,
    /// Health, status, metrics.
    pub operations: Door,
    /// What browsers are shown.
    pub page: Door,
}

/// One public API.
#[derive(Debug, Clone)]
pub struct Door {
    /// Whether it is served.
    pub enabled: bool,
    /// What stands before its paths: empty, or `/a/b` without a slash at the end.
    pub prefix: String,
}

/// How a trusted proxy names its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientIp {
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// `X-Forwarded-For`, or another header with a list of addresses.
    Header(HeaderName),
    /// None: it opens each connection by the PROXY protocol.
    ProxyProtocol,
}

/// Settings of connections.
#[derive(Debug, Clone)]
pub struct Server {
    /// How a trusted proxy names its client.
    pub client_ip: ClientIp,
    /// What a request must show to have come through the CDN; `None` where nobody asks.
    pub origin: Option<Origin>,
    /// How long connections are still taken after the signal to stop.
    pub drain_accept: Duration,
    /// How long running requests get after that.
    pub drain_requests: Duration,
    /// How long they get after a second signal.
    pub drain_hurried: Duration,
    /// How long a request head may take, from its first byte.
    pub head_timeout: Duration,
    /// How long a connection may wait for its next request.
    pub idle_timeout: Duration,
    /// How long a body may stand still, in either direction.
    pub body_idle_timeout: Duration,
    /// The fewest bytes per second of a body, in either direction.
    pub slowest_rate_bytes: u64,
    /// Over how long that rate is taken.
    pub slowest_rate_window: Duration,
    /// How long a handshake of TLS or QUIC may take, and until a client has taken what HTTP/3 begins with.
    pub handshake_timeout: Duration,
    /// Bytes that a client of HTTP/2 or 3 may send unread, on a connection and on each stream.
    pub h2_window_bytes: u32,
    /// How often a connection of HTTP/2 is asked whether it still stands.
    pub h2_ping: Duration,
    /// How long it may take to answer that.
    pub h2_ping_timeout: Duration,
    /// How long a connection of HTTP/3 may be silent.
    pub h3_idle_timeout: Duration,
    /// Whether a crash may leave a core file.
    pub core_dumps: bool,
}

/// The certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The file with the certificate and those that lead to its issuer.
    pub certificate: PathBuf,
    /// The file with its private key.
    pub key: PathBuf,
    /// How often they are looked at; `None` is only when asked to.
    pub check_every: Option<Duration>,
    /// The authorities whose certificates clients must show; none is asked for where there are none.
    pub client_ca: Vec<CertificateDer<'static>>,
}

impl Judge<'_> {
    pub(super) fn listeners(&mut self, files: &[file::ListenerFile]) -> Vec<Listener> {
        if files.is_empty() {
            self.wrong("listeners", "at least one is needed");
        }
        let mut listeners = Vec::with_capacity(files.len());
        for (index, listener) in files.iter().enumerate() {
            let speaks = match (listener.tls, listener.h3) {
                (false, false) => Speaks::Plain,
                (true, false) => Speaks::Tls,
                (true, true) => Speaks::TlsAndQuic,
                (false, true) => {
                    let key = format!("listeners[{index}].h3");
                    self.wrong(key, "HTTP/3 is always encrypted; set tls = true as well");
                    Speaks::TlsAndQuic
                }
            };
            match listener.address.parse() {
                Ok(address) => {
                    if let Some(taken) = taken_port(&listeners, address) {
                        self.wrong(
                            format!("listeners[{index}].address"),
                            format!(
                                "{address} is listened at already, by {taken} (import_web_server of a runtime adds its ports)"
                            ),
                        );
                    }
                    listeners.push(Listener {
                        name: listener.name.clone(),
                        address,
                        speaks,
                        doors: self.doors_of(index, &listener.doors),
                    });
                }
                Err(_) => self.wrong(
                    format!("listeners[{index}].address"),
                    format!(
                        "{:?}: expected an address and a port such as \"127.0.0.1:3000\"",
                        listener.address
                    ),
                ),
            }
        }
        listeners
    }

    fn doors_of(&mut self, index: usize, names: &[String]) -> DoorSet {
        match DoorSet::named(names) {
            Ok(doors) => doors,
            Err(name) => {
                let names = route::Door::EACH.map(route::Door::name).join(", ");
                self.wrong(
                    format!("listeners[{index}].doors"),
                    format!("no door is named {name:?}; there is {names}"),
                );
                DoorSet::ALL
            }
        }
    }

    /// Whether the files are good is found out when they are read.
    pub(super) fn tls(&mut self, tls: &file::TlsFile, listeners: &[Listener]) -> Option<Tls> {
        let check_every = self.time_or_never("tls.check_every", tls.check_every);
        let needed = listeners.iter().any(|l| l.speaks != Speaks::Plain);
        for (key, path) in [("tls.certificate", &tls.certificate), ("tls.key", &tls.key)] {
            if needed && path.is_empty() {
                self.wrong(
                    key,
                    "a listener with tls = true needs it: the path of a PEM file",
                );
            }
        }
        let client_ca = self.authorities("tls.client_ca", &tls.client_ca);
        needed.then(|| Tls {
            certificate: PathBuf::from(&tls.certificate),
            key: PathBuf::from(&tls.key),
            check_every,
            client_ca,
        })
    }

    pub(in crate::config) fn door(&mut self, key: &str, door: &file::DoorFile) -> Door {
        let prefix = door.prefix.trim_end_matches('/');
        let segment_is_good = |segment: &str| {
            !segment.is_empty()
                && segment != ".."
                && segment
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        let good = prefix.is_empty()
            || prefix
                .strip_prefix('/')
                .is_some_and(|rest| rest.split('/').all(segment_is_good));
        if !good {
            self.wrong(key, "expected \"\" or a path such as \"/boxvault\" of letters, digits, '.', '_' and '-'");
        }
        Door {
            enabled: door.enabled,
            prefix: prefix.to_owned(),
        }
    }

    pub(super) fn server(&mut self, server: &file::ServerFile) -> Server {
        // The least is what HTTP/2 begins with (RFC 9113 §6.9.2).
        let h2_window = self.size(
            "server.h2_window",
            server.h2_window,
            ByteSize::kib(128),
            ByteSize::mib(64),
        );
        Server {
            handshake_timeout: self.time("server.handshake_timeout", server.handshake_timeout),
            h2_window_bytes: u32::try_from(h2_window).unwrap_or(u32::MAX),
            h2_ping: self.time("server.h2_ping", server.h2_ping),
            h2_ping_timeout: self.time("server.h2_ping_timeout", server.h2_ping_timeout),
            h3_idle_timeout: self.time("server.h3_idle_timeout", server.h3_idle_timeout),
            core_dumps: server.core_dumps,
            client_ip: self.client_ip(&server.client_ip),
            origin: self.origin(server),
            drain_accept: self.time_or_none("server.drain_accept", server.drain_accept),
            drain_requests: self.time_or_none("server.drain_requests", server.drain_requests),
            drain_hurried: self.time_or_none("server.drain_hurried", server.drain_hurried),
            head_timeout: self.time("server.head_timeout", server.head_timeout),
            idle_timeout: self.time("server.idle_timeout", server.idle_timeout),
            body_idle_timeout: self.time("server.body_idle_timeout", server.body_idle_timeout),
            slowest_rate_bytes: server.slowest_rate.0,
            slowest_rate_window: self
                .time("server.slowest_rate_window", server.slowest_rate_window),
        }
    }

    fn client_ip(&mut self, text: &str) -> ClientIp {
        let x_forwarded_for = ClientIp::Header(HeaderName::from_static("x-forwarded-for"));
        match text.to_ascii_lowercase().as_str() {
            "forwarded" => ClientIp::Forwarded,
            "proxy-protocol" => ClientIp::ProxyProtocol,
            name => {
                // A header could be called so, and none is.
                let is_mistyped = ["proxy_protocol", "x_forwarded_for"].contains(&name);
                if let Ok(name) = name.parse()
                    && !is_mistyped
                {
                    return ClientIp::Header(name);
                }
                self.wrong(
                    "server.client_ip",
                    "expected \"forwarded\", \"x-forwarded-for\", the name of a header or \"proxy-protocol\"",
                );
                x_forwarded_for
            }
        }
    }

    /// Who speaks the PROXY protocol must be named: it is asked of nobody else.
    pub(super) fn spoken_for(&mut self, file: &ConfigFile) {
        let by = file.server.client_ip.to_ascii_lowercase();
        if by == "proxy-protocol" && file.trusted_proxies.is_empty() {
            self.wrong(
                "trusted_proxies",
                "must name who speaks the PROXY protocol (server.client_ip)",
            );
        }
    }

    fn origin(&mut self, server: &file::ServerFile) -> Option<Origin> {
        let key = "server.origin_secret";
        let text = self.secret(key, &server.origin_secret, &server.origin_secret_file);
        let secrets: Vec<&str> = text.lines().map(str::trim).collect();
        if text.is_empty() && server.origin_secret_file.is_empty() {
            return None;
        }
        if secrets.iter().any(|s| s.len() < origin::SHORTEST) || secrets.is_empty() {
            let least = origin::SHORTEST;
            self.wrong(
                key,
                format!("must have {least} characters or more, each line of them"),
            );
        }
        let Ok(header) = server.origin_secret_header.parse() else {
            self.wrong(
                "server.origin_secret_header",
                "expected the name of a header",
            );
            return None;
        };
        Some(Origin::new(header, secrets))
    }
}

/// Which listener has that port already, where both cannot have it.
fn taken_port(listeners: &[Listener], address: SocketAddr) -> Option<SocketAddr> {
    let clashes = |other: SocketAddr| {
        let (one, two) = (address.ip(), other.ip());
        let covers = one.is_unspecified() || two.is_unspecified();
        let same = one == two || (covers && one.is_ipv4() == two.is_ipv4());
        address.port() != 0 && address.port() == other.port() && same
    };
    listeners.iter().map(|l| l.address).find(|l| clashes(*l))
}
