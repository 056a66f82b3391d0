//! What the program uses: checked, typed, computed where the file left it open.
//!
//! Field names mirror the tables of the file, with their unit where the type has none. Nothing
//! here can be wrong any more; [`Settings::check`] is the one place that judges.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use boxgate_scripting::limits::{MAX_RAISE, MAX_RAISE_TEXT};
use boxgate_scripting::manifest::Grant;
use boxgate_scripting::set::Startup;
use boxgate_storage::backend::s3::{Patience, S3Options};
use boxgate_storage::check::{Brake, OrphanLimits};
use boxgate_storage::layer::cache::CacheOptions;
use boxgate_storage::upload::Sha256When;
use http::HeaderName;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};

use super::Mistake;
use super::boxitory::Boxitory;
use super::cidr::{Blocks, Cidr};
use super::file::{self, ConfigFile};
use super::layers::{self, Environment};
use super::machine::Machine;
use super::rates::Rate;
use super::runtime::Runtime;
use super::units::{ByteSize, Span};
use crate::admission::rates;
use crate::auth::origin::{self, Origin};
use crate::http::freshness::Ages;
use crate::outbound::Destination;
use crate::route::{self, DoorSet};
use crate::webhook::sender;

/// A text that must not be shown; its `Debug` is `***`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` from being shown.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself; the name makes each use easy to find.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The checked configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where everything that boxgate keeps stands.
    pub data_dir: PathBuf,
    /// Where rows are kept.
    pub metadata: Database,
    /// How long events are kept that all were told of.
    pub events_kept: Duration,
    /// The addresses that clients use, best first, without a slash at the end.
    pub public_url: Vec<String>,
    /// Whose forwarding headers are believed.
    pub trusted_proxies: Blocks,
    /// Where to listen; at least one.
    pub listeners: Vec<Listener>,
    /// Which public APIs are served, and where.
    pub doors: Doors,
    /// Where bytes are kept.
    pub stores: BTreeMap<String, StoreSettings>,
    /// Boxes.
    pub catalog: Catalog,
    /// Connections.
    pub server: Server,
    /// The certificate, where a listener needs one.
    pub tls: Option<Tls>,
    /// Uploads.
    pub uploads: Uploads,
    /// Uploads by tus and the IETF's protocol.
    pub files: Files,
    /// The cache of verified blocks.
    pub cache: CacheOptions,
    /// Memory for answers that anybody may have.
    pub answers_bytes: u64,
    /// When stored bytes are proved.
    pub verify: Verify,
    /// When digests are computed.
    pub digests: Digests,
    /// How long what is downloaded may be kept.
    pub downloads: Ages,
    /// Outboards on their way at once.
    pub max_outboards: usize,
    /// Bytes that nobody holds.
    pub gc: Gc,
    /// Bits that rot.
    pub scrub: Scrub,
    /// Tokens.
    pub auth: Auth,
    /// Limits.
    pub limits: Limits,
    /// How many requests each may make in a second.
    pub rates: Vec<Rate>,
    /// Requests to outside.
    pub outbound: Outbound,
    /// Plugins.
    pub scripts: Scripts,
    /// Webhooks that come in for plugins.
    pub hooks: Hooks,
    /// Webhooks that go out.
    pub webhooks: Webhooks,
    /// Adapters to clouds.
    pub providers: Providers,
    /// Publishing as to Vagrant Cloud.
    pub vagrant_cloud: VagrantCloud,
    /// What stands in for Sanbox runtimes, by name; those that are switched off are not there.
    pub runtimes: BTreeMap<String, Runtime>,
    /// The tree of boxes that is served where it is, if any.
    pub boxitory: Option<Boxitory>,
    /// Metrics and status.
    pub operations: Operations,
    /// The log.
    pub log: Log,
    /// The collector that spans go to, if any.
    pub otlp: Option<Otlp>,
    /// From `BOXGATE_MASTER_KEY` or the file that `BOXGATE_MASTER_KEY_FILE` names.
    pub master_key: Option<Secret>,
    /// From the file that `BOXGATE_BOOTSTRAP_PASSWORD_FILE` names.
    pub bootstrap_password: Option<Secret>,
    file: ConfigFile,
}

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

/// Where rows are kept.
#[derive(Debug, Clone)]
pub enum Database {
    /// In the data directory, for this process alone.
    Embedded,
    /// In a PostgreSQL database, which other nodes may share.
    Postgres(Secret),
}

/// A store of one kind or the other.
#[derive(Debug, Clone)]
pub enum StoreSettings {
    /// A directory.
    Local(LocalStore),
    /// A bucket.
    S3(Box<S3Options>),
}

/// A store that is a directory.
#[derive(Debug, Clone)]
pub struct LocalStore {
    /// The directory.
    pub path: PathBuf,
}

/// Settings of boxes.
#[derive(Debug, Clone)]
pub struct Catalog {
    /// Whether everybody may read a box that an upload made.
    pub new_box_public: bool,
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
    /// How long a handshake of TLS or QUIC may take.
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

/// Whether base64 text is decoded without being declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeBase64 {
    /// When the first bytes are base64 text of an archive.
    Auto,
    /// Only when the part says so.
    Never,
}

/// Settings of uploads.
#[derive(Debug, Clone)]
pub struct Uploads {
    /// The store that they go to.
    pub store: String,
    /// Memory for upload buffers.
    pub part_budget_bytes: u64,
    /// The longest upload.
    pub max_length_bytes: u64,
    /// Whether base64 text is decoded without being declared.
    pub decode_base64: DecodeBase64,
    /// Uploads at once.
    pub max_in_progress: usize,
    /// How long an upload beyond them waits for its turn.
    pub queue_wait: Duration,
    /// Parts of one upload that are made durable at once.
    pub parts_in_flight: usize,
    /// After how long what came of a part is committed, however little.
    pub tail_commit: Duration,
    /// How long an open upload may rest.
    pub idle_timeout: Duration,
    /// Longest life of an open upload.
    pub max_age: Duration,
    /// Open uploads of one person, service accounts counted in.
    pub open_per_principal: u64,
    /// Open uploads into one organization.
    pub open_per_organization: u64,
    /// How long a finished upload without a target is kept.
    pub untargeted_ttl: Duration,
    /// How long after each try a held upload is asked about again; after the last it is quarantined.
    pub held_pauses: Vec<Duration>,
    /// How long a client waits for an answer about its upload.
    pub held_wait: Duration,
    /// How long a quarantined upload is kept.
    pub quarantine_ttl: Duration,
    /// How long an upload in chunks rests until a new chunk 0 begins another.
    pub chunk_idle: Duration,
    /// Most pieces of a final upload.
    pub final_pieces: usize,
    /// Final uploads that are joined at once.
    pub joins_in_progress: usize,
    /// Final uploads that wait in memory to be joined.
    pub joins_waiting: usize,
    /// Longest body of one request of a resumable upload.
    pub max_append_bytes: Option<u64>,
    /// Where clients send the bytes of an upload, without a slash at the end.
    pub public_url: Option<String>,
}

/// Settings of uploads by tus and the IETF's protocol.
#[derive(Debug, Clone)]
pub struct Files {
    /// Whose pages may upload from a browser.
    pub cors_origins: CorsOrigins,
}

/// Whose pages may upload from a browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CorsOrigins {
    /// Everybody's.
    Any,
    /// Those of these origins.
    These(Vec<String>),
}

/// Settings of bytes that nobody holds.
#[derive(Debug, Clone)]
pub struct Gc {
    /// How often stores are looked through; `None` is only when asked to.
    pub every: Option<Duration>,
    /// When bytes that no row names are removed.
    pub orphans: OrphanLimits,
}

/// Settings of when stored bytes are proved.
#[derive(Debug, Clone)]
pub struct Verify {
    /// How long a proof of local bytes counts, so that the kernel may send them; `None` proves each byte each time.
    pub local_max_age: Option<Duration>,
    /// Boxes open as files at once.
    pub open_files: usize,
}

/// Settings of when digests are computed.
#[derive(Debug, Clone)]
pub struct Digests {
    /// When SHA-256 is.
    pub sha256: Sha256When,
    /// Bytes read in a second for what is deferred; 0 is as many as come.
    pub rate_bytes: u64,
}

/// Settings of bits that rot.
#[derive(Debug, Clone)]
pub struct Scrub {
    /// How long after its end the next scrub begins; `None` is only when asked to.
    pub every: Option<Duration>,
    /// Bytes read in a second; 0 is as many as come.
    pub rate_bytes: u64,
}

/// Settings of tokens.
#[derive(Debug, Clone)]
pub struct Auth {
    /// Life of a session.
    pub session_ttl: Duration,
    /// Life of a session that was asked to stay.
    pub stay_logged_in_ttl: Duration,
    /// Life of a download link.
    pub download_link_ttl: Duration,
    /// Longest life of a service account's key.
    pub service_account_max_expiry: Duration,
    /// Failed tries that one address has per minute.
    pub login_failures_per_minute: u32,
}

/// Limits.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Free space below which no upload begins.
    pub min_free_bytes: u64,
    /// Largest JSON body.
    pub json_body_bytes: usize,
    /// Deepest JSON body.
    pub json_depth: usize,
    /// Time that a JSON body may take to arrive.
    pub json_timeout: Duration,
    /// Largest request head.
    pub head_bytes: usize,
    /// Most header fields.
    pub header_fields: usize,
    /// Longest request target.
    pub uri_bytes: usize,
    /// Largest trailer section of a request.
    pub trailer_bytes: usize,
    /// Most fields in it.
    pub trailer_fields: usize,
    /// Connections at once.
    pub connections: usize,
    /// Connections at once from one address (IPv6: from one /64).
    pub connections_per_address: usize,
    /// Bytes of answers that all connections together leave unsent in the kernel, each at least 64 KiB.
    pub unsent_bytes: u64,
    /// Requests of one asker that are worked on at once.
    pub requests_at_once: usize,
    /// How long a request beyond them waits for its turn.
    pub requests_wait: Duration,
    /// Askers that each policy of `[rates]` remembers.
    pub rate_keys: u64,
    /// Bytes of all bodies together that come in, in a second; 0 is as many as come.
    pub bytes_in: u64,
    /// The same of those that go out.
    pub bytes_out: u64,
    /// Addresses whose requests are not counted.
    pub rate_exempt: Blocks,
    /// Connections of HTTP/2 and 3 at once.
    pub h2_connections: usize,
    /// Requests at once on one of them.
    pub h2_streams: u32,
    /// Largest request head on one of them, unpacked.
    pub h2_header_list_bytes: u32,
    /// Requests that a client of HTTP/2 may give up before they are looked at.
    pub h2_pending_resets: usize,
    /// Requests of one connection of HTTP/2 that may be broken.
    pub h2_broken_streams: usize,
    /// Streams of HTTP/3's own that a client may open.
    pub h3_control_streams: u32,
    /// Most parts of a form.
    pub multipart_parts: usize,
    /// Largest head of a part.
    pub multipart_part_head_bytes: usize,
}

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

/// Settings of plugins.
#[derive(Debug, Clone)]
pub struct Scripts {
    /// Where plugins stand.
    pub dirs: Vec<PathBuf>,
    /// What a broken plugin means at the start.
    pub startup: Startup,
    /// Whether a plugin's own tests must pass before it is taken.
    pub test: bool,
    /// How often plugins are looked at; `None` is only when asked to.
    pub check_every: Option<Duration>,
    /// Calls of the work lane at once.
    pub workers: usize,
    /// How long a call that a client waits for queues for one of them.
    pub queue_wait: Duration,
    /// Whether plugins get all that they ask for.
    pub trust_local: bool,
    /// Networks that plugins reach beside public addresses.
    pub allow_networks: Vec<Cidr>,
    /// What each plugin is granted.
    pub grants: BTreeMap<String, Grant>,
    /// Settings of each plugin.
    pub settings: BTreeMap<String, BTreeMap<String, serde_json::Value>>,
    /// The secrets of plugins.
    pub secrets: BTreeMap<String, Secret>,
    /// Those that cannot be read, and why: what wants one does not work, and all else does.
    pub unreadable_secrets: BTreeMap<String, String>,
    /// The environment variables that plugins are granted.
    pub env: BTreeMap<String, String>,
}

/// Settings of webhooks that come in for plugins.
#[derive(Debug, Clone)]
pub struct Hooks {
    /// Longest body.
    pub body_bytes: usize,
    /// How long one may take to arrive.
    pub body_timeout: Duration,
    /// Bodies that are held at once.
    pub at_once: usize,
    /// How far the time that a sender signed may be from now.
    pub tolerance: Duration,
    /// How long the id of a delivery is known.
    pub ids_kept: Duration,
    /// Deliveries that may wait to be run.
    pub queue: u32,
    /// Pauses between runs of one that fails.
    pub pauses: Vec<Duration>,
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

/// Settings of adapters to clouds.
#[derive(Debug, Clone)]
pub struct Providers {
    /// How long a catalogue is served before its cloud is asked again.
    pub catalog_ttl: Duration,
    /// Catalogues that are remembered.
    pub catalogs: u64,
    /// How long an order is remembered.
    pub orders_kept: Duration,
    /// How long a server that was ordered is told of, though its cloud does not list it.
    pub ordering_for: Duration,
    /// How long an order whose outcome nobody knows is not made again, where its adapter cannot list servers.
    pub unknown_for: Duration,
    /// How long it is known what was ordered, for what is told of its end.
    pub order_log_kept: Duration,
    /// Calls that wait for clouds at once, half of them for one adapter.
    pub at_once: usize,
    /// How long credentials that a cloud refused are refused without asking it.
    pub refused_for: Duration,
    /// Networks that adapters reach beside those of all and of plugins.
    pub allow_networks: Vec<Cidr>,
}

/// Publishing as to Vagrant Cloud.
#[derive(Debug, Clone)]
pub struct VagrantCloud {
    /// Whether an upload may replace the box of a released version.
    pub republish: bool,
    /// Life of the URL of an upload.
    pub upload_ttl: Duration,
    /// Life of a token that signing in makes.
    pub token_ttl: Duration,
    /// Such tokens of one person.
    pub tokens: usize,
    /// Most boxes on one page of a search.
    pub search_limit: u32,
    /// What becomes of a box that is not for its provider.
    pub inspect: Inspect,
    /// Most inflated bytes of a box that are looked through.
    pub inspect_bytes: u64,
}

/// What becomes of a box that is not for its provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inspect {
    /// It is published, and its sender told.
    Warn,
    /// It is not published.
    Refuse,
    /// Nobody looks.
    Never,
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

/// The most memory the process takes under attack, and its terms; all in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ceiling {
    /// Code, tables, database, allocator.
    pub base: u64,
    /// Buffers of uploads.
    pub part_budget: u64,
    /// Verified blocks, and answers.
    pub cache: u64,
    /// Frames that upload connections hold in flight.
    pub uploads: u64,
    /// Blocks of pieces that are being joined.
    pub joins: u64,
    /// Askers whose requests are counted.
    pub rates: u64,
    /// Calls of scripts on the work lane.
    pub scripts: u64,
    /// Calls of adapters that wait for clouds.
    pub clouds: u64,
    /// Webhooks that come in: each as it came, and as its row is written.
    pub hooks: u64,
    /// Webhooks that go out: requests on their way, and what is read ahead and not written yet.
    pub webhooks: u64,
    /// Connections of HTTP/2 and 3.
    pub h2: u64,
    /// All other connections.
    pub connections: u64,
}

impl Ceiling {
    /// All terms together.
    pub fn total(self) -> u64 {
        self.base
            + self.part_budget
            + self.cache
            + self.uploads
            + self.joins
            + self.rates
            + self.scripts
            + self.clouds
            + self.hooks
            + self.webhooks
            + self.h2
            + self.connections
    }
}

impl fmt::Display for Ceiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        write!(
            f,
            "{} MiB (base {}, part budget {}, cache {}, uploads {}, joins {}, rates {}, scripts {}, clouds {}, webhooks in {}, webhooks out {}, HTTP/2 and 3 {}, other connections {})",
            mib(self.total()),
            mib(self.base),
            mib(self.part_budget),
            mib(self.cache),
            mib(self.uploads),
            mib(self.joins),
            mib(self.rates),
            mib(self.scripts),
            mib(self.clouds),
            mib(self.hooks),
            mib(self.webhooks),
            mib(self.h2),
            mib(self.connections)
        )
    }
}

impl Settings {
    /// The most memory the process takes; ordinary load stays near the first three terms.
    pub fn ceiling(&self) -> Ceiling {
        const BASE: u64 = 96 << 20;
        // What was read, a frame that waits beside it, and the rest of one that the part before had no room for.
        const PER_UPLOAD: u64 = 3 * boxgate_storage::buffer::CHARGE_BYTES as u64;
        // A block on its way, one that is read ahead, and what is behind them in the writer.
        const PER_JOIN: u64 = 4 << 20;
        // What a call may hold, which it is watched for.
        const PER_WORKER: u64 = 16 << 20;
        // The same of one that asks a cloud.
        const PER_CLOUD: u64 = 4 << 20;
        // A body of 90 KiB, what is read of its answer, and its connection.
        const PER_ATTEMPT: u64 = 128 << 10;
        const PER_CONNECTION: u64 = 64 << 10;
        // What a record that is not whole, and one that is not sent, wait in.
        const PER_TLS: u64 = 64 << 10;
        let uploads = self.uploads.max_in_progress as u64;
        let per_inspection = match self.vagrant_cloud.inspect {
            Inspect::Never => 0,
            Inspect::Warn | Inspect::Refuse => crate::inspect::MEMORY_BYTES,
        };
        let speaks =
            |speaks: &dyn Fn(Speaks) -> bool| self.listeners.iter().any(|l| speaks(l.speaks));
        let has_tls = speaks(&|speaks| speaks != Speaks::Plain);
        let per_connection = PER_CONNECTION + if has_tls { PER_TLS } else { 0 };
        let h2 = if has_tls {
            self.limits.h2_connections as u64
        } else {
            0
        };
        let others = (self.limits.connections as u64).saturating_sub(uploads + h2);
        Ceiling {
            base: BASE,
            part_budget: self.uploads.part_budget_bytes,
            cache: self.cache.size_bytes.saturating_add(self.answers_bytes),
            uploads: uploads * (PER_UPLOAD + per_inspection),
            joins: (self.uploads.joins_in_progress as u64).saturating_mul(PER_JOIN),
            // The last one is of those who send uploads.
            rates: (self.rates.len() as u64 + 1) * self.limits.rate_keys * rates::KEY_BYTES,
            scripts: (self.scripts.workers as u64).saturating_mul(PER_WORKER),
            clouds: (self.providers.at_once as u64).saturating_mul(PER_CLOUD),
            hooks: 2 * (self.hooks.at_once as u64).saturating_mul(self.hooks.body_bytes as u64),
            webhooks: (self.webhooks.at_once as u64).saturating_mul(PER_ATTEMPT)
                + sender::WAITING_BYTES,
            h2: h2.saturating_mul(u64::from(self.server.h2_window_bytes)),
            connections: others.saturating_mul(per_connection),
        }
    }

    /// The file that says what these settings are, computed values filled in.
    pub(super) fn to_file(&self) -> ConfigFile {
        let mut file = self.file.clone();
        file.metadata.url = without_password(&file.metadata.url);
        for (name, store) in &mut file.stores.0 {
            if let Some(StoreSettings::Local(local)) = self.stores.get(name) {
                store.path = local.path.display().to_string();
            }
            store.secret_access_key = Secret::default();
        }
        file.server.origin_secret = Secret::default();
        for runtime in file.runtimes.0.values_mut() {
            runtime.api_key = Secret::default();
            runtime.reload_target_api_key = Secret::default();
        }
        file.uploads.part_budget = ByteSize(self.uploads.part_budget_bytes);
        file.cache.size = ByteSize(self.cache.size_bytes);
        file.limits.connections = self.limits.connections;
        file.scripts.workers = self.scripts.workers;
        file
    }

    /// The keys in which another configuration differs from this one.
    pub fn differs_in(&self, other: &Self) -> Vec<String> {
        layers::differences(&self.file, &other.file)
    }

    /// Judges every value; what is wrong is added to `mistakes`.
    pub(super) fn check(
        file: ConfigFile,
        machine: Machine,
        environment: &Environment,
        mistakes: &mut Vec<Mistake>,
    ) -> Self {
        let mut judge = Judge { mistakes };
        let data_dir = PathBuf::from(judge.not_empty("data_dir", &file.data_dir));
        let metadata = judge.metadata(&file, environment.master_key.is_some());
        let doors = Doors {
            boxvault: judge.door("doors.boxvault.prefix", &file.doors.boxvault),
            vagrant: judge.door("doors.vagrant.prefix", &file.doors.vagrant),
            vagrant_cloud: judge.door("doors.vagrant_cloud.prefix", &file.doors.vagrant_cloud),
            files: judge.door("doors.files.prefix", &file.doors.files),
            blobs: judge.door("doors.blobs.prefix", &file.doors.blobs),
            hooks: judge.door("doors.hooks.prefix", &file.doors.hooks),
            providers: judge.door("doors.providers.prefix", &file.doors.providers),
            runtime: judge.door("doors.runtime.prefix", &file.doors.runtime),
            boxitory: judge.boxitory_door(&file),
            operations: judge.door("doors.operations.prefix", &file.doors.operations),
            page: judge.door("doors.page.prefix", &file.doors.page),
        };
        judge.spoken_for(&file);
        let limits = judge.limits(&file.limits, machine);
        let listeners = judge.listeners(&file.listeners);
        let tls = judge.tls(&file.tls, &listeners);
        Self {
            metadata,
            events_kept: judge.time("metadata.events_kept", file.metadata.events_kept),
            public_url: judge.public_urls("public_url", &file.public_url),
            trusted_proxies: judge
                .blocks("trusted_proxies", &file.trusted_proxies)
                .into(),
            listeners,
            tls,
            doors,
            stores: judge.stores(&file, &data_dir),
            catalog: Catalog {
                new_box_public: judge
                    .choice(
                        "catalog.new_box_visibility",
                        &file.catalog.new_box_visibility,
                        &[("private", false), ("public", true)],
                        "expected \"private\" or \"public\"",
                    )
                    .unwrap_or(false),
            },
            server: judge.server(&file.server),
            uploads: judge.uploads(&file.uploads, machine),
            files: Files {
                cors_origins: judge.origins(&file.files.cors_origins),
            },
            cache: judge.cache(&file.cache, machine),
            answers_bytes: file.cache.answers.0,
            verify: judge.verify(&file.verify),
            digests: judge.digests(&file.digests),
            downloads: judge.downloads(&file.downloads),
            max_outboards: judge.count("downloads.max_outboards", file.downloads.max_outboards),
            gc: judge.gc(&file.gc),
            scrub: Scrub {
                every: judge.time_or_never("scrub.every", file.scrub.every),
                rate_bytes: file.scrub.rate.0,
            },
            auth: judge.auth(&file.auth),
            limits,
            rates: judge.rates(&file.rates),
            outbound: judge.outbound(&file.outbound),
            scripts: judge.scripts(&file.scripts, &data_dir),
            hooks: judge.hooks(&file.hooks),
            webhooks: judge.webhooks(&file.webhooks),
            providers: judge.providers(&file.providers),
            vagrant_cloud: judge.vagrant_cloud(&file.vagrant_cloud),
            runtimes: judge.runtimes(&file.runtimes, &file.stores, &data_dir),
            boxitory: judge.boxitory(&file.boxitory, &data_dir),
            operations: Operations {
                allow: judge
                    .blocks("operations.allow", &file.operations.allow)
                    .into(),
            },
            log: judge.log(&file.log),
            otlp: judge.otlp(&file.telemetry.otlp),
            master_key: environment.master_key.clone(),
            bootstrap_password: environment.bootstrap_password.clone(),
            data_dir,
            file,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the configuration")]
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A URL as it may be shown.
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

fn without_password(url: &str) -> String {
    let hidden = || {
        let (scheme, rest) = url.split_once("://")?;
        let (user_info, place) = rest.rsplit_once('@')?;
        let (user, _password) = user_info.split_once(':')?;
        Some(format!("{scheme}://{user}:***@{place}"))
    };
    hidden().unwrap_or_else(|| url.to_owned())
}

/// What the part budget and the cache are by default: an eighth of the memory, within bounds.
fn share_of_memory(machine: Machine) -> u64 {
    const LEAST: u64 = 128 << 20;
    const MOST: u64 = 1 << 30;
    (machine.memory_bytes / 8).clamp(LEAST, MOST)
}

/// The store that is there unless the file names others, in the data directory unless it says where.
const MAIN: &str = "main";
/// Most tries of a held upload; more would only keep its sender in the dark.
const MOST_PAUSES: usize = 20;

/// What rows, variables and metrics may call a store.
fn is_store_name(name: &str) -> bool {
    let good = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'_';
    (1..=32).contains(&name.len()) && name.bytes().all(good)
}

/// Turns texts into values; a wrong one is noted and replaced, so that all are seen.
pub(super) struct Judge<'a> {
    mistakes: &'a mut Vec<Mistake>,
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

impl Judge<'_> {
    pub(super) fn wrong(&mut self, key: impl Into<String>, text: impl fmt::Display) {
        self.mistakes.push(Mistake {
            key: key.into(),
            text: text.to_string(),
        });
    }

    pub(super) fn not_empty<'t>(&mut self, key: &str, text: &'t str) -> &'t str {
        if text.is_empty() {
            self.wrong(key, "must not be empty");
        }
        text
    }

    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &str,
        text: &str,
        of: &[(&str, T)],
        rule: &str,
    ) -> Option<T> {
        let found = of.iter().find(|(name, _)| *name == text);
        if found.is_none() {
            self.wrong(key, format!("{rule}, not {text:?}"));
        }
        found.map(|(_, value)| *value)
    }

    pub(super) fn positive(&mut self, key: &str, number: u64) -> u64 {
        if number == 0 {
            self.wrong(key, "must be more than 0");
        }
        number
    }

    fn outbound(&mut self, file: &file::OutboundFile) -> Outbound {
        Outbound {
            allow_networks: self.blocks("outbound.allow_networks", &file.allow_networks),
            ca: self.authorities("outbound.ca_file", &file.ca_file),
        }
    }

    /// The certificates of a PEM file; none where no file is named.
    fn authorities(&mut self, key: &str, path: &str) -> Vec<CertificateDer<'static>> {
        if path.is_empty() {
            return Vec::new();
        }
        let read =
            CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        match read {
            Ok(found) if !found.is_empty() => return found,
            Ok(_none) => self.wrong(key, "holds no certificate in PEM"),
            Err(e) => self.wrong(key, format!("cannot read {path}: {e}")),
        }
        Vec::new()
    }

    fn providers(&mut self, file: &file::ProvidersFile) -> Providers {
        Providers {
            catalog_ttl: self.time("providers.catalog_ttl", file.catalog_ttl),
            catalogs: self.few("providers.catalogs", file.catalogs, 1).into(),
            orders_kept: self.time("providers.orders_kept", file.orders_kept),
            ordering_for: self.time("providers.ordering_for", file.ordering_for),
            unknown_for: self.time("providers.unknown_for", file.unknown_for),
            order_log_kept: self.order_log_kept(file),
            at_once: self.count("providers.at_once", file.at_once),
            refused_for: self.time("providers.refused_for", file.refused_for),
            allow_networks: self.blocks("providers.allow_networks", &file.allow_networks),
        }
    }

    fn vagrant_cloud(&mut self, file: &file::VagrantCloudFile) -> VagrantCloud {
        const GIB: ByteSize = ByteSize(1 << 30);
        let republish = self.choice(
            "vagrant_cloud.republish",
            &file.republish,
            &[("replace", true), ("refuse", false)],
            "expected \"replace\" or \"refuse\"",
        );
        let inspect = self.choice(
            "vagrant_cloud.inspect",
            &file.inspect,
            &[
                ("warn", Inspect::Warn),
                ("refuse", Inspect::Refuse),
                ("never", Inspect::Never),
            ],
            "expected \"warn\", \"refuse\" or \"never\"",
        );
        let size = self.size(
            "vagrant_cloud.inspect_size",
            file.inspect_size,
            ByteSize::kib(64),
            GIB,
        );
        VagrantCloud {
            republish: republish.unwrap_or(true),
            upload_ttl: self.time("vagrant_cloud.upload_ttl", file.upload_ttl),
            token_ttl: self.time("vagrant_cloud.token_ttl", file.token_ttl),
            tokens: self.count("vagrant_cloud.tokens", file.tokens),
            search_limit: self.few("vagrant_cloud.search_limit", file.search_limit, 1),
            inspect: inspect.unwrap_or(Inspect::Warn),
            inspect_bytes: size as u64,
        }
    }

    fn order_log_kept(&mut self, file: &file::ProvidersFile) -> Duration {
        let kept = self.time("providers.order_log_kept", file.order_log_kept);
        let least = file.orders_kept.max(file.ordering_for);
        if file.order_log_kept < least.max(file.unknown_for) {
            self.wrong(
                "providers.order_log_kept",
                "must be at least providers.orders_kept, ordering_for and unknown_for",
            );
        }
        kept
    }

    fn hooks(&mut self, file: &file::HooksFile) -> Hooks {
        const MIB: ByteSize = ByteSize(1 << 20);
        Hooks {
            body_bytes: self.size("hooks.body", file.body, ByteSize(1 << 10), MIB),
            body_timeout: self.time("hooks.body_timeout", file.body_timeout),
            at_once: self.count("hooks.at_once", file.at_once),
            tolerance: self.time("hooks.tolerance", file.tolerance),
            ids_kept: self.time("hooks.ids_kept", file.ids_kept),
            queue: self.few("hooks.queue", file.queue, 1),
            pauses: self.pauses("hooks.pauses", &file.pauses),
        }
    }

    fn webhooks(&mut self, file: &file::WebhooksFile) -> Webhooks {
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

    fn scripts(&mut self, file: &file::ScriptsFile, data_dir: &std::path::Path) -> Scripts {
        const MOST_WORKERS: usize = 1_024;
        let startup = self.choice(
            "scripts.startup",
            &file.startup,
            &[
                ("last_good", Startup::LastGood),
                ("strict", Startup::Strict),
                ("without", Startup::Without),
            ],
            "expected \"last_good\", \"strict\" or \"without\"",
        );
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        if file.workers > MOST_WORKERS {
            self.wrong("scripts.workers", format!("must be at most {MOST_WORKERS}"));
        }
        let (mut secrets, mut unreadable_secrets) = (BTreeMap::new(), BTreeMap::new());
        for (name, path) in &file.secrets {
            match std::fs::read_to_string(path) {
                Ok(text) => {
                    secrets.insert(name.clone(), Secret::new(text.trim()));
                }
                Err(e) => {
                    unreadable_secrets.insert(name.clone(), format!("cannot read {path}: {e}"));
                }
            }
        }
        for (plugin, grant) in &file.grants {
            for (key, set, most) in [
                ("raise", grant.raise, MAX_RAISE),
                ("raise_text", grant.raise_text, MAX_RAISE_TEXT),
            ] {
                if set.is_some_and(|times| !(1..=most).contains(&times)) {
                    let key = format!("scripts.grants.{plugin}.{key}");
                    self.wrong(key, format!("must be from 1 to {most}"));
                }
            }
        }
        let granted = file.grants.values().flat_map(|grant| &grant.env);
        let env = granted
            .filter_map(|name| Some((name.clone(), variable(name)?)))
            .collect();
        Scripts {
            env,
            dirs: if file.dirs.is_empty() {
                vec![data_dir.join("plugins")]
            } else {
                file.dirs.iter().map(PathBuf::from).collect()
            },
            startup: startup.unwrap_or(Startup::LastGood),
            test: file.test,
            check_every: self.time_or_never("scripts.check_every", file.check_every),
            workers: match file.workers {
                0 => (cores * 4).clamp(16, 64),
                set => set.min(MOST_WORKERS),
            },
            queue_wait: self.time_or_none("scripts.queue_wait", file.queue_wait),
            trust_local: file.trust_local,
            allow_networks: self.blocks("scripts.allow_networks", &file.allow_networks),
            grants: file.grants.clone(),
            settings: file.settings.clone(),
            secrets,
            unreadable_secrets,
        }
    }

    pub(super) fn time(&mut self, key: &str, span: Span) -> Duration {
        if span.0.is_zero() {
            self.wrong(key, "must be more than 0");
        }
        self.time_or_none(key, span)
    }

    /// Pauses between tries, each at least as long as the one before.
    fn pauses(&mut self, key: &str, spans: &[Span]) -> Vec<Duration> {
        if spans.is_empty() || spans.len() > MOST_PAUSES || !spans.is_sorted() {
            self.wrong(
                key,
                "expected 1 to 20 times, each at least as long as the one before",
            );
        }
        spans.iter().map(|span| self.time(key, *span)).collect()
    }

    fn time_or_never(&mut self, key: &str, span: Span) -> Option<Duration> {
        Some(self.time_or_none(key, span)).filter(|time| !time.is_zero())
    }

    fn time_or_none(&mut self, key: &str, span: Span) -> Duration {
        // Longer than anything runs, and far from the end of any clock that it is added to.
        const MOST: Duration = Duration::from_hours(24 * 3650);
        if span.0 > MOST {
            self.wrong(key, "must be at most 3650d");
        }
        span.0.min(MOST)
    }

    fn count(&mut self, key: &str, number: usize) -> usize {
        if number == 0 {
            self.wrong(key, "must be more than 0");
        }
        number
    }

    fn few(&mut self, key: &str, number: u32, least: u32) -> u32 {
        const MOST: u32 = 65_536;
        if number < least || number > MOST {
            self.wrong(key, format!("must be {least} to {MOST}"));
        }
        number.clamp(least, MOST)
    }

    pub(super) fn size(
        &mut self,
        key: &str,
        size: ByteSize,
        least: ByteSize,
        most: ByteSize,
    ) -> usize {
        if size < least || size > most {
            self.wrong(key, format!("must be {least} to {most}"));
        }
        usize::try_from(size.0).unwrap_or(usize::MAX)
    }

    pub(super) fn blocks(&mut self, key: &str, texts: &[String]) -> Vec<Cidr> {
        let mut blocks = Vec::with_capacity(texts.len());
        for text in texts {
            match text.parse() {
                Ok(block) => blocks.push(block),
                Err(error) => self.wrong(key, format!("{text:?}: {error}")),
            }
        }
        blocks
    }

    fn public_urls(&mut self, key: &str, texts: &[String]) -> Vec<String> {
        let mut urls = Vec::with_capacity(texts.len());
        for text in texts {
            let url = text.trim_end_matches('/');
            let parsed: Option<http::Uri> = url.parse().ok();
            let good = parsed.is_some_and(|uri| {
                matches!(uri.scheme_str(), Some("http" | "https"))
                    && uri.authority().is_some_and(|a| !a.as_str().contains('@'))
                    && matches!(uri.path(), "" | "/")
                    && uri.query().is_none()
            });
            if good {
                urls.push(url.to_owned());
            } else {
                self.wrong(
                    key,
                    format!("{text:?}: expected a URL such as \"https://boxes.example.com\" without a path"),
                );
            }
        }
        urls
    }

    /// Origins as browsers send them (RFC 6454 §6.2): a URL without a path, or `*`.
    fn origins(&mut self, texts: &[String]) -> CorsOrigins {
        if texts.iter().any(|text| text == "*") {
            return CorsOrigins::Any;
        }
        let origins = self.public_urls("files.cors_origins", texts);
        CorsOrigins::These(origins.iter().map(|o| o.to_ascii_lowercase()).collect())
    }

    fn listeners(&mut self, files: &[file::ListenerFile]) -> Vec<Listener> {
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
    fn tls(&mut self, tls: &file::TlsFile, listeners: &[Listener]) -> Option<Tls> {
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

    pub(super) fn door(&mut self, key: &str, door: &file::DoorFile) -> Door {
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

    /// Nodes that share a database must agree on the key that seals its secrets, and on the addresses
    /// that clients are told.
    fn metadata(&mut self, file: &ConfigFile, has_master_key: bool) -> Database {
        let url = &file.metadata.url;
        if url.is_empty() {
            return Database::Embedded;
        }
        if !["postgres://", "postgresql://"]
            .iter()
            .any(|scheme| url.starts_with(scheme))
        {
            self.wrong(
                "metadata.url",
                "expected \"\" for the embedded database, or \"postgres://USER@HOST/DATABASE\"",
            );
        }
        if !has_master_key {
            self.wrong(
                "BOXGATE_MASTER_KEY",
                "must be set, the same on each node of metadata.url: 64 hexadecimal digits, such as \
                 `openssl rand -hex 32` prints (or BOXGATE_MASTER_KEY_FILE)",
            );
        }
        if file.public_url.is_empty() {
            self.wrong(
                "public_url",
                "must be set with metadata.url, the same on each node: it is in the links that all of \
                 them make",
            );
        }
        Database::Postgres(Secret::new(url))
    }

    fn stores(
        &mut self,
        file: &ConfigFile,
        data_dir: &std::path::Path,
    ) -> BTreeMap<String, StoreSettings> {
        let mut stores = BTreeMap::new();
        for (name, store) in &file.stores.0 {
            if !is_store_name(name) {
                self.wrong(
                    format!("stores.{name}"),
                    "the name of a store is 1 to 32 of a-z, 0-9, '-' and '_'",
                );
            }
            stores.insert(name.clone(), self.store(name, store, data_dir));
        }
        let used = &file.uploads.store;
        if !stores.contains_key(used) {
            let named: Vec<_> = stores.keys().map(String::as_str).collect();
            let text = format!("no store is named {used:?}; there is {}", named.join(", "));
            self.wrong("uploads.store", text);
        }
        self.apart(&stores);
        stores
    }

    /// Two stores in one place would take each other's bytes for bytes that nobody names.
    fn apart(&mut self, stores: &BTreeMap<String, StoreSettings>) {
        let mut places = BTreeMap::new();
        for (name, store) in stores {
            let (key, place) = match store {
                StoreSettings::Local(store) => ("path", store.path.display().to_string()),
                StoreSettings::S3(store) => (
                    "bucket",
                    format!("{}/{}/{}", store.endpoint, store.bucket, store.prefix),
                ),
            };
            if let Some(other) = places.insert(place, name) {
                let text = format!("stores.{other} is in the same place");
                self.wrong(format!("stores.{name}.{key}"), text);
            }
        }
    }

    fn store(
        &mut self,
        name: &str,
        store: &file::StoreFile,
        data_dir: &std::path::Path,
    ) -> StoreSettings {
        let kinds = [("local", false), ("s3", true)];
        let rule = "expected \"local\" or \"s3\"";
        let kind = self.choice(&format!("stores.{name}.kind"), &store.kind, &kinds, rule);
        if kind == Some(true) {
            return StoreSettings::S3(Box::new(self.bucket(name, store)));
        }
        StoreSettings::Local(LocalStore {
            path: if store.path.is_empty() && name == MAIN {
                data_dir.join("blobs")
            } else {
                PathBuf::from(self.not_empty(&format!("stores.{name}.path"), &store.path))
            },
        })
    }

    fn bucket(&mut self, name: &str, store: &file::StoreFile) -> S3Options {
        let key = |key: &str| format!("stores.{name}.{key}");
        let endpoint = self.not_empty(&key("endpoint"), &store.endpoint);
        if !endpoint.is_empty()
            && !["http://", "https://"]
                .iter()
                .any(|s| endpoint.starts_with(s))
        {
            self.wrong(
                key("endpoint"),
                "expected a URL such as \"https://s3.example.com\"",
            );
        }
        let prefix = store.prefix.as_str();
        if !prefix.is_empty() && !prefix.ends_with('/') {
            self.wrong(key("prefix"), "must end with '/'");
        }
        S3Options {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            region: self.not_empty(&key("region"), &store.region).to_owned(),
            bucket: self.not_empty(&key("bucket"), &store.bucket).to_owned(),
            prefix: prefix.to_owned(),
            path_style: store.path_style,
            access_key_id: self
                .not_empty(&key("access_key_id"), &store.access_key_id)
                .to_owned(),
            secret_access_key: self.secret_access_key(name, store),
            patience: Patience {
                connect: self.time(&key("connect_timeout"), store.connect_timeout),
                first_byte: self.time(&key("first_byte_timeout"), store.first_byte_timeout),
                slowest_bytes_per_second: self.positive(&key("slowest_rate"), store.slowest_rate.0),
                tries: store.tries.max(1),
                in_all: self.time(&key("retry_for"), store.retry_for),
                retry_percent: store.retry_percent,
                ..Patience::default()
            },
            redirect_for: self.redirect_for(name, store),
            clients_endpoint: self.clients_endpoint(name, store),
        }
    }

    fn redirect_for(&mut self, name: &str, store: &file::StoreFile) -> Option<Duration> {
        let life = store.redirect_for;
        if life > Span::seconds(7 * 24 * 3600) {
            // AWS Signature Version 4 ends there.
            self.wrong(format!("stores.{name}.redirect_for"), "must be 7d or less");
        }
        let life = self.time_or_none(&format!("stores.{name}.redirect_for"), life);
        (!life.is_zero()).then_some(life)
    }

    fn clients_endpoint(&mut self, name: &str, store: &file::StoreFile) -> Option<String> {
        let endpoint = store.redirect_endpoint.trim_end_matches('/');
        if !endpoint.is_empty()
            && !["http://", "https://"]
                .iter()
                .any(|s| endpoint.starts_with(s))
        {
            self.wrong(
                format!("stores.{name}.redirect_endpoint"),
                "expected a URL such as \"https://s3.example.com\"",
            );
        }
        (!endpoint.is_empty()).then(|| endpoint.to_owned())
    }

    fn secret_access_key(&mut self, name: &str, store: &file::StoreFile) -> String {
        let key = format!("stores.{name}.secret_access_key");
        let text = self.secret(
            &key,
            &store.secret_access_key,
            &store.secret_access_key_file,
        );
        self.not_empty(&key, &text).to_owned()
    }

    /// A secret that stands at `key`, or in the file of `<key>_file`; empty for none.
    pub(super) fn secret(&mut self, key: &str, text: &Secret, path: &str) -> String {
        if path.is_empty() {
            return text.expose().to_owned();
        }
        if !text.expose().is_empty() {
            self.wrong(key, format!("{key}_file is set too; set one of them"));
        }
        match std::fs::read_to_string(path) {
            Ok(text) => text.trim().to_owned(),
            Err(error) => {
                let why = format!("cannot read {path}: {error}");
                self.wrong(format!("{key}_file"), why);
                String::new()
            }
        }
    }

    fn server(&mut self, server: &file::ServerFile) -> Server {
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
    fn spoken_for(&mut self, file: &ConfigFile) {
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

    fn uploads(&mut self, uploads: &file::UploadsFile, machine: Machine) -> Uploads {
        let part_budget_bytes = match uploads.part_budget.0 {
            0 => share_of_memory(machine),
            // One buffer and what stands around it; below this no upload would move.
            given if given < 8 << 20 => {
                self.wrong(
                    "uploads.part_budget",
                    "must be 8MiB or more, or 0 to have it computed",
                );
                given
            }
            given => given,
        };
        Uploads {
            store: uploads.store.clone(),
            part_budget_bytes,
            max_length_bytes: self.positive("uploads.max_length", uploads.max_length.0),
            decode_base64: self
                .choice(
                    "uploads.decode_base64",
                    &uploads.decode_base64,
                    &[("auto", DecodeBase64::Auto), ("never", DecodeBase64::Never)],
                    "expected \"auto\" or \"never\"",
                )
                .unwrap_or(DecodeBase64::Never),
            max_in_progress: self.count("uploads.max_in_progress", uploads.max_in_progress),
            queue_wait: self.time("uploads.queue_wait", uploads.queue_wait),
            parts_in_flight: self.count("uploads.parts_in_flight", uploads.parts_in_flight),
            tail_commit: self.time("uploads.tail_commit", uploads.tail_commit),
            idle_timeout: self.time("uploads.idle_timeout", uploads.idle_timeout),
            max_age: self.time("uploads.max_age", uploads.max_age),
            open_per_principal: self
                .positive("uploads.open_per_principal", uploads.open_per_principal),
            open_per_organization: self.positive(
                "uploads.open_per_organization",
                uploads.open_per_organization,
            ),
            untargeted_ttl: self.time("uploads.untargeted_ttl", uploads.untargeted_ttl),
            held_pauses: self.pauses("uploads.held_pauses", &uploads.held_pauses),
            held_wait: self.time("uploads.held_wait", uploads.held_wait),
            quarantine_ttl: self.time("uploads.quarantine_ttl", uploads.quarantine_ttl),
            chunk_idle: self.time("uploads.chunk_idle", uploads.chunk_idle),
            final_pieces: self.count("uploads.final_pieces", uploads.final_pieces),
            joins_in_progress: self.count("uploads.joins_in_progress", uploads.joins_in_progress),
            joins_waiting: self.count("uploads.joins_waiting", uploads.joins_waiting),
            max_append_bytes: (uploads.max_append_size.0 > 0).then_some(uploads.max_append_size.0),
            public_url: match uploads.public_url.as_str() {
                "" => None,
                url => self
                    .public_urls("uploads.public_url", &[url.to_owned()])
                    .pop(),
            },
        }
    }

    fn cache(&mut self, cache: &file::CacheFile, machine: Machine) -> CacheOptions {
        let block = cache.block;
        let good =
            block >= ByteSize::mib(1) && block <= ByteSize::mib(16) && block.0.is_power_of_two();
        if !good {
            self.wrong("cache.block", "must be 1MiB, 2MiB, 4MiB, 8MiB or 16MiB");
        }
        let block_bytes = if good { block.0 } else { 1 << 20 };
        let size_bytes = match cache.size.0 {
            0 => share_of_memory(machine),
            // A few blocks on their way in and out beside those that stay.
            given if given < 8 * block_bytes => {
                self.wrong(
                    "cache.size",
                    "must be eight blocks (cache.block) or more, or 0 to have it computed",
                );
                8 * block_bytes
            }
            given => given,
        };
        CacheOptions {
            size_bytes,
            block_bytes,
        }
    }

    fn verify(&mut self, verify: &file::VerifyFile) -> Verify {
        let choices = [("once", true), ("always", false)];
        let rule = "expected \"once\" or \"always\"";
        let once = self.choice("verify.local", &verify.local, &choices, rule);
        let max_age = self.time("verify.max_age", verify.max_age);
        Verify {
            local_max_age: once.filter(|once| *once).map(|_| max_age),
            open_files: self.count("verify.open_files", verify.open_files),
        }
    }

    fn digests(&mut self, digests: &file::DigestsFile) -> Digests {
        let most = self.positive("digests.most_deferred", digests.most_deferred);
        let choices = [
            ("inline", Sha256When::Inline),
            ("deferred", Sha256When::Deferred { most }),
        ];
        let rule = "expected \"inline\" or \"deferred\"";
        let sha256 = self.choice("digests.sha256", &digests.sha256, &choices, rule);
        Digests {
            sha256: sha256.unwrap_or_default(),
            rate_bytes: digests.rate.0,
        }
    }

    fn downloads(&mut self, downloads: &file::DownloadsFile) -> Ages {
        Ages {
            name: self.time_or_none("downloads.name_max_age", downloads.name_max_age),
            name_cdn: self.time_or_none("downloads.name_cdn_max_age", downloads.name_cdn_max_age),
            immutable: self
                .time_or_none("downloads.immutable_max_age", downloads.immutable_max_age),
            purge_tags: downloads.purge_tags,
        }
    }

    fn gc(&mut self, gc: &file::GcFile) -> Gc {
        let most = Brake::RELEASED.few;
        for (key, number, most) in [
            ("gc.few_orphans", gc.few_orphans, most),
            ("gc.most_orphans", gc.most_orphans, most),
            ("gc.most_orphans_percent", gc.most_orphans_percent, 100),
        ] {
            if number > most {
                self.wrong(key, format!("must be at most {most}"));
            }
        }
        Gc {
            every: self.time_or_never("gc.every", gc.every),
            orphans: OrphanLimits {
                age: self.time("gc.orphan_age", gc.orphan_age),
                brake: Brake {
                    few: gc.few_orphans,
                    most: gc.most_orphans,
                    most_percent: gc.most_orphans_percent,
                },
            },
        }
    }

    fn auth(&mut self, auth: &file::AuthFile) -> Auth {
        if auth.login_failures_per_minute == 0 {
            self.wrong("auth.login_failures_per_minute", "must be more than 0");
        }
        // Who has a link has a right without a credential; it must end by itself.
        if auth.download_link_ttl > Span::seconds(7 * 24 * 3600) {
            self.wrong("auth.download_link_ttl", "must be 7d or less");
        }
        Auth {
            session_ttl: self.time("auth.session_ttl", auth.session_ttl),
            stay_logged_in_ttl: self.time("auth.stay_logged_in_ttl", auth.stay_logged_in_ttl),
            download_link_ttl: self.time("auth.download_link_ttl", auth.download_link_ttl),
            service_account_max_expiry: self.time(
                "auth.service_account_max_expiry",
                auth.service_account_max_expiry,
            ),
            login_failures_per_minute: auth.login_failures_per_minute,
        }
    }

    fn limits(&mut self, limits: &file::LimitsFile, machine: Machine) -> Limits {
        // hyper reads a head into a buffer of at least 8 KiB and takes no target above 64 KiB.
        let head_bytes = self.size(
            "limits.head_bytes",
            limits.head_bytes,
            ByteSize::kib(8),
            ByteSize::kib(256),
        );
        let connections = match limits.connections {
            // A thousand files are for the database, the store and ourselves.
            0 => usize::try_from(machine.open_files.saturating_sub(1000) / 4 * 3)
                .unwrap_or(usize::MAX)
                .clamp(64, 20_000),
            given => given,
        };
        Limits {
            min_free_bytes: limits.min_free.0,
            json_body_bytes: self.size(
                "limits.json_body",
                limits.json_body,
                ByteSize::kib(1),
                ByteSize::mib(64),
            ),
            json_depth: self.count("limits.json_depth", limits.json_depth),
            json_timeout: self.time("limits.json_timeout", limits.json_timeout),
            head_bytes,
            header_fields: self.count("limits.header_fields", limits.header_fields),
            uri_bytes: self.size(
                "limits.uri_bytes",
                limits.uri_bytes,
                ByteSize(256),
                ByteSize::kib(63),
            ),
            // hyper reads no more of it than of a head.
            trailer_bytes: self.size(
                "limits.trailer_bytes",
                limits.trailer_bytes,
                ByteSize(256),
                ByteSize(head_bytes as u64),
            ),
            trailer_fields: self.count("limits.trailer_fields", limits.trailer_fields),
            connections,
            connections_per_address: self.count(
                "limits.connections_per_address",
                limits.connections_per_address,
            ),
            unsent_bytes: match limits.unsent.0 {
                // The kernel is short of it at about a twelfth of the memory, and others use it as well.
                0 => machine.memory_bytes / 128,
                given => given,
            },
            requests_at_once: self.count("limits.requests_at_once", limits.requests_at_once),
            requests_wait: self.time("limits.requests_wait", limits.requests_wait),
            rate_keys: self.rate_keys(limits.rate_keys),
            bytes_in: limits.bytes_in.0,
            bytes_out: limits.bytes_out.0,
            rate_exempt: self
                .blocks("limits.rate_exempt", &limits.rate_exempt)
                .into(),
            h2_connections: self.count("limits.h2_connections", limits.h2_connections),
            h2_streams: self.few("limits.h2_streams", limits.h2_streams, 1),
            h2_header_list_bytes: u32::try_from(self.size(
                "limits.h2_header_list",
                limits.h2_header_list,
                ByteSize::kib(4),
                ByteSize::kib(256),
            ))
            .unwrap_or(u32::MAX),
            h2_pending_resets: self.count("limits.h2_pending_resets", limits.h2_pending_resets),
            h2_broken_streams: self.count("limits.h2_broken_streams", limits.h2_broken_streams),
            // RFC 9114 §6.2: the control stream and both of QPACK's.
            h3_control_streams: self.few("limits.h3_control_streams", limits.h3_control_streams, 3),
            multipart_parts: self.count("limits.multipart_parts", limits.multipart_parts),
            multipart_part_head_bytes: self.size(
                "limits.multipart_part_head",
                limits.multipart_part_head,
                ByteSize::kib(1),
                ByteSize::kib(256),
            ),
        }
    }

    fn otlp(&mut self, file: &file::OtlpFile) -> Option<Otlp> {
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

    fn log(&mut self, log: &file::LogFile) -> Log {
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
