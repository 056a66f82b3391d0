//! What leaves the machine or is shown of it: requests, webhooks, answers that others keep, the log and spans.

use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::CertificateDer;

use super::judge::{Judge, MOST_PAUSES};
use crate::config::cidr::{Blocks, Cidr};
use crate::config::file;
use crate::http::freshness::Ages;
use crate::outbound::Destination;

/// Settings of metrics and status.
#[derive(Debug, Clone)]
pub struct Operations {
    /// Who reads them without a token, besides loopback.
    pub allow: Blocks,
}

/// Settings of requests to outside.
#[derive(Debug, Clone, Default)]
pub struct Outbound {
    /// Networks that they reach beside public addresses.
    pub allow_networks: Vec<Cidr>,
    /// Certificates of authorities that are trusted beside the system's.
    pub ca: Vec<CertificateDer<'static>>,
}

/// Settings of webhooks that go out.
#[derive(Debug, Clone)]
pub struct Webhooks {
    /// Networks that endpoints may be in beside public addresses.
    pub allow_networks: Vec<Cidr>,
    /// Hosts that no endpoint may be at, in small letters.
    pub deny_hosts: Vec<String>,
    /// The proxy that requests go through: host and port.
    pub egress_proxy: Option<(String, u16)>,
    /// Requests at once.
    pub at_once: usize,
    /// Deliveries that may wait for one endpoint.
    pub queue: u32,
    /// Pauses before each attempt.
    pub delays: Vec<Duration>,
    /// How long the log of what was sent is kept.
    pub log_kept: Duration,
    /// Deliveries that the log holds.
    pub log_rows: u64,
    /// How long what was sent can be sent once more.
    pub bodies_kept: Duration,
    /// Whether the log holds how answers began.
    pub log_bodies: bool,
}

/// Settings of the log.
#[derive(Debug, Clone)]
pub struct Log {
    /// The least important line that is written.
    pub level: tracing::Level,
    /// A file that gets the same lines as standard error.
    pub file: Option<PathBuf>,
}

/// Settings of spans.
#[derive(Debug, Clone)]
pub struct Otlp {
    /// The collector: `http://` or `https://` with a host, without a slash at the end.
    pub endpoint: String,
    /// Of a hundred traces that begin here, how many are recorded.
    pub percent: u8,
}

impl Judge<'_> {
    pub(super) fn outbound(&mut self, file: &file::OutboundFile) -> Outbound {
        Outbound {
            allow_networks: self.blocks("outbound.allow_networks", &file.allow_networks),
            ca: self.authorities("outbound.ca_file", &file.ca_file),
        }
    }

    pub(super) fn webhooks(&mut self, file: &file::WebhooksFile) -> Webhooks {
        let egress_proxy = file.egress_proxy.trim();
        let proxy = (!egress_proxy.is_empty()).then(|| proxy_of(egress_proxy));
        if let Some(None) = proxy {
            self.wrong(
                "webhooks.egress_proxy",
                "expected \"http://HOST:PORT\", a proxy that knows CONNECT",
            );
        }
        let delays = &file.delays;
        if delays.is_empty() || delays.len() > MOST_PAUSES {
            self.wrong("webhooks.delays", "expected 1 to 20 times");
        }
        if file.queue == 0 {
            self.wrong("webhooks.queue", "must be more than 0");
        }
        Webhooks {
            allow_networks: self.blocks("webhooks.allow_networks", &file.allow_networks),
            deny_hosts: file
                .deny_hosts
                .iter()
                .map(|h| h.to_ascii_lowercase())
                .collect(),
            egress_proxy: proxy.flatten(),
            at_once: self.count("webhooks.at_once", file.at_once),
            queue: file.queue,
            delays: delays
                .iter()
                .map(|span| self.time_or_none("webhooks.delays", *span))
                .collect(),
            log_kept: self.time("webhooks.log_kept", file.log_kept),
            log_rows: self.positive("webhooks.log_rows", file.log_rows),
            bodies_kept: self.time("webhooks.bodies_kept", file.bodies_kept),
            log_bodies: file.log_bodies,
        }
    }

    pub(super) fn downloads(&mut self, downloads: &file::DownloadsFile) -> Ages {
        Ages {
            name: self.time_or_none("downloads.name_max_age", downloads.name_max_age),
            name_cdn: self.time_or_none("downloads.name_cdn_max_age", downloads.name_cdn_max_age),
            immutable: self
                .time_or_none("downloads.immutable_max_age", downloads.immutable_max_age),
            purge_tags: downloads.purge_tags,
        }
    }

    pub(super) fn otlp(&mut self, file: &file::OtlpFile) -> Option<Otlp> {
        if file.percent > 100 {
            self.wrong("telemetry.otlp.percent", "expected 0 to 100");
        }
        if file.endpoint.is_empty() {
            return None;
        }
        let endpoint = file.endpoint.trim_end_matches('/').to_owned();
        if Destination::parse(&endpoint).is_err() {
            self.wrong(
                "telemetry.otlp.endpoint",
                "expected \"http://HOST:PORT\", a collector that speaks OTLP by HTTP",
            );
        }
        Some(Otlp {
            endpoint,
            percent: file.percent,
        })
    }

    pub(super) fn log(&mut self, log: &file::LogFile) -> Log {
        use tracing::Level;
        let levels = [
            ("error", Level::ERROR),
            ("warn", Level::WARN),
            ("info", Level::INFO),
            ("debug", Level::DEBUG),
            ("trace", Level::TRACE),
        ];
        let rule = "expected \"error\", \"warn\", \"info\", \"debug\" or \"trace\"";
        Log {
            level: self
                .choice("log.level", &log.level, &levels, rule)
                .unwrap_or(Level::INFO),
            file: (!log.file.is_empty()).then(|| PathBuf::from(&log.file)),
        }
    }
}

/// Host and port of a proxy's URL.
fn proxy_of(url: &str) -> Option<(String, u16)> {
    let uri: http::Uri = url.parse().ok()?;
    let authority = uri.authority()?;
    let plain = uri.scheme_str() == Some("http") && !authority.as_str().contains('@');
    let bare = uri.path() == "/" && uri.query().is_none();
    let host = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']');
    (plain && bare).then(|| Some((host.to_owned(), authority.port_u16()?)))?
}
