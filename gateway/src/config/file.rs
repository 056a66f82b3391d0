//! What the TOML file may say: every key, its type and its default, and nothing computed.
//!
//! `docs/boxgate.toml` is the same thing for people, and a test holds the two equal.

use std::collections::BTreeMap;
use std::time::Duration;

use boxgate_scripting::manifest::Grant;
use serde::{Deserialize, Serialize};

use super::rates::RatesFile;
use super::settings::Secret;
use super::units::{ByteSize, Span};

/// Declares one table: a struct whose `Default` stands beside its keys.
macro_rules! table {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $ty:ty = $default:expr,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $ty,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    };
}

table! {
    /// The whole file.
    ConfigFile {
        /// Where everything that boxgate keeps stands.
        data_dir: String = "./boxgate-data".into(),
        /// The addresses that clients use, best first.
        public_url: Vec<String> = Vec::new(),
        /// Whose forwarding headers are believed.
        trusted_proxies: Vec<String> = Vec::new(),
        /// Where to listen.
        listeners: Vec<ListenerFile> = vec![ListenerFile::default()],
        /// Which public APIs are served, and where.
        doors: DoorsFile = DoorsFile::default(),
        /// The database.
        metadata: MetadataFile = MetadataFile::default(),
        /// Where bytes are kept.
        stores: StoresFile = StoresFile::default(),
        /// Boxes.
        catalog: CatalogFile = CatalogFile::default(),
        /// Connections.
        server: ServerFile = ServerFile::default(),
        /// The certificate.
        tls: TlsFile = TlsFile::default(),
        /// Uploads.
        uploads: UploadsFile = UploadsFile::default(),
        /// Uploads by tus and the IETF's protocol.
        files: FilesFile = FilesFile::default(),
        /// The cache of verified blocks.
        cache: CacheFile = CacheFile::default(),
        /// When stored bytes are proved.
        verify: VerifyFile = VerifyFile::default(),
        /// When digests are computed.
        digests: DigestsFile = DigestsFile::default(),
        /// Downloads.
        downloads: DownloadsFile = DownloadsFile::default(),
        /// Bytes that nobody holds.
        gc: GcFile = GcFile::default(),
        /// Bits that rot.
        scrub: ScrubFile = ScrubFile::default(),
        /// Tokens.
        auth: AuthFile = AuthFile::default(),
        /// Limits.
        limits: LimitsFile = LimitsFile::default(),
        /// How many requests each may make in a second.
        rates: RatesFile = RatesFile::default(),
        /// Requests to outside.
        outbound: OutboundFile = OutboundFile::default(),
        /// Plugins.
        scripts: ScriptsFile = ScriptsFile::default(),
        /// Webhooks that come in for plugins.
        hooks: HooksFile = HooksFile::default(),
        /// Webhooks that go out.
        webhooks: WebhooksFile = WebhooksFile::default(),
        /// Adapters to clouds, which plugins serve.
        providers: ProvidersFile = ProvidersFile::default(),
        /// Publishing as to Vagrant Cloud.
        vagrant_cloud: VagrantCloudFile = VagrantCloudFile::default(),
        /// What stands in for Sanbox runtimes.
        runtimes: RuntimesFile = RuntimesFile::default(),
        /// A tree of boxes that is served where it is.
        boxitory: BoxitoryFile = BoxitoryFile::default(),
        /// Metrics and status.
        operations: OperationsFile = OperationsFile::default(),
        /// The log.
        log: LogFile = LogFile::default(),
        /// What is told of traces.
        telemetry: TelemetryFile = TelemetryFile::default(),
    }
}

table! {
    /// `[[listeners]]`
    ListenerFile {
        /// What systemd calls its socket, where it opens it; empty is known by its address.
        name: String = String::new(),
        /// Address and port.
        address: String = "127.0.0.1:3000".into(),
        /// Whether it speaks TLS: HTTP/1.1 and 2 by ALPN.
        tls: bool = false,
        /// Whether the UDP port of the same number speaks HTTP/3.
        h3: bool = false,
        /// The doors that are there; none named is each that is open.
        doors: Vec<String> = Vec::new(),
    }
}

table! {
    /// `[doors]`
    DoorsFile {
        /// The `BoxVault` API.
        boxvault: DoorFile = DoorFile::default(),
        /// What Vagrant reads.
        vagrant: DoorFile = DoorFile::default(),
        /// Publishing as to Vagrant Cloud.
        vagrant_cloud: DoorFile = DoorFile::default(),
        /// Resumable uploads.
        files: DoorFile = DoorFile::default(),
        /// Blobs under the URLs of their digests.
        blobs: DoorFile = DoorFile::default(),
        /// Webhooks that come in for plugins.
        hooks: DoorFile = DoorFile::default(),
        /// Adapters to clouds.
        providers: DoorFile = DoorFile::default(),
        /// Images of runtimes.
        runtime: DoorFile = DoorFile::default(),
        /// A tree of boxes that is served where it is.
        boxitory: DoorFile = DoorFile::default(),
        /// Health, status, metrics.
        operations: DoorFile = DoorFile::default(),
        /// What browsers are shown.
        page: DoorFile = DoorFile::default(),
    }
}

table! {
    /// `[doors.<name>]`
    DoorFile {
        /// Whether the door is open.
        enabled: bool = true,
        /// What stands before its paths.
        prefix: String = String::new(),
    }
}

table! {
    /// `[metadata]`
    MetadataFile {
        /// The database; empty is the embedded one.
        url: String = String::new(),
        /// How long events are kept that all were told of.
        events_kept: Span = Span::seconds(30 * 24 * 3600),
    }
}

/// `[stores]`: each by its name. A file that names none has `main`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoresFile(pub BTreeMap<String, StoreFile>);

impl Default for StoresFile {
    fn default() -> Self {
        Self([("main".to_owned(), StoreFile::default())].into())
    }
}

table! {
    /// `[stores.<name>]`
    StoreFile {
        /// What keeps the bytes.
        kind: String = "local".into(),
        /// The directory of a local store; of `main`, empty is `<data_dir>/blobs`.
        path: String = String::new(),
        /// URL of the service.
        endpoint: String = String::new(),
        /// Region that requests are signed for.
        region: String = "us-east-1".into(),
        /// The bucket.
        bucket: String = String::new(),
        /// What every object's name begins with.
        prefix: String = String::new(),
        /// Whether the bucket is named in the path.
        path_style: bool = true,
        /// Public half of the credential.
        access_key_id: String = String::new(),
        /// Secret half of the credential.
        secret_access_key: Secret = Secret::default(),
        /// A file that holds it.
        secret_access_key_file: String = String::new(),
        /// How long connecting may take.
        connect_timeout: Span = Span(Duration::from_secs(5)),
        /// How long an answer may take to begin.
        first_byte_timeout: Span = Span(Duration::from_secs(30)),
        /// The fewest bytes per second of a part on its way.
        slowest_rate: ByteSize = ByteSize(128 << 10),
        /// Calls for one and the same thing.
        tries: u32 = 6,
        /// How long one and the same thing is tried.
        retry_for: Span = Span(Duration::from_mins(1)),
        /// Further tries for each hundred calls together.
        retry_percent: u32 = 10,
        /// How long a URL is good by which clients read from the service itself; zero hands none out.
        redirect_for: Span = Span(Duration::ZERO),
        /// URL of the service as clients know it; empty is `endpoint`.
        redirect_endpoint: String = String::new(),
    }
}

table! {
    /// `[catalog]`
    CatalogFile {
        /// Who may read a box that an upload made.
        new_box_visibility: String = "private".into(),
    }
}

table! {
    /// `[server]`
    ServerFile {
        /// How a trusted proxy names its client.
        client_ip: String = "x-forwarded-for".into(),
        /// What a request must show to have come through the CDN.
        origin_secret: Secret = Secret::default(),
        /// A file that holds it; each of its lines is good.
        origin_secret_file: String = String::new(),
        /// The header that it stands in.
        origin_secret_header: String = "x-origin-secret".into(),
        /// How long connections are still taken after the signal to stop.
        drain_accept: Span = Span::seconds(5),
        /// How long running requests get after that.
        drain_requests: Span = Span::seconds(300),
        /// How long they get after a second signal.
        drain_hurried: Span = Span::seconds(5),
        /// How long a request head may take.
        head_timeout: Span = Span::seconds(10),
        /// How long a connection may wait for its next request.
        idle_timeout: Span = Span::seconds(60),
        /// How long a body may stand still, in either direction.
        body_idle_timeout: Span = Span::seconds(30),
        /// The fewest bytes per second of a body, in either direction.
        slowest_rate: ByteSize = ByteSize::kib(4),
        /// Over how long that rate is taken.
        slowest_rate_window: Span = Span::seconds(60),
        /// How long a handshake of TLS or QUIC may take, and until a client has taken what HTTP/3 begins with.
        handshake_timeout: Span = Span::seconds(5),
        /// Bytes that a client of HTTP/2 or 3 may send unread.
        h2_window: ByteSize = ByteSize::mib(4),
        /// How often a connection of HTTP/2 is asked whether it still stands.
        h2_ping: Span = Span::seconds(20),
        /// How long it may take to answer that.
        h2_ping_timeout: Span = Span::seconds(10),
        /// How long a connection of HTTP/3 may be silent.
        h3_idle_timeout: Span = Span::seconds(30),
        /// Whether a crash may leave a core file.
        core_dumps: bool = false,
    }
}

table! {
    /// `[tls]`
    TlsFile {
        /// A file with the certificate and those that lead to its issuer, PEM.
        certificate: String = String::new(),
        /// A file with its private key, PEM.
        key: String = String::new(),
        /// How often the two are looked at for a new certificate; 0 is only at SIGHUP.
        check_every: Span = Span::seconds(10),
        /// A file with certificates of authorities, one of which must have issued the client's, PEM.
        client_ca: String = String::new(),
    }
}

table! {
    /// `[uploads]`
    UploadsFile {
        /// The store that uploads go to.
        store: String = "main".into(),
        /// Memory for upload buffers; 0 is computed.
        part_budget: ByteSize = ByteSize(0),
        /// The longest upload.
        max_length: ByteSize = ByteSize::gib(128),
        /// Whether base64 text is decoded without being declared.
        decode_base64: String = "auto".into(),
        /// Uploads at once.
        max_in_progress: usize = 512,
        /// How long an upload beyond them waits for its turn.
        queue_wait: Span = Span::seconds(10),
        /// Parts of one upload that are made durable at once.
        parts_in_flight: usize = 4,
        /// After how long what came of a part is committed, however little.
        tail_commit: Span = Span::seconds(5),
        /// So many bytes of whole parts are committed together; 0 commits each part by itself.
        commit_bytes: ByteSize = ByteSize::mib(64),
        /// After how long whole parts wait no more for others.
        commit_within: Span = Span(Duration::from_millis(250)),
        /// How long an open upload may rest.
        idle_timeout: Span = Span::seconds(24 * 3600),
        /// Longest life of an open upload.
        max_age: Span = Span::seconds(7 * 24 * 3600),
        /// Open uploads of one person, service accounts counted in.
        open_per_principal: u64 = 64,
        /// Open uploads into one organization.
        open_per_organization: u64 = 10_000,
        /// How long a finished upload without a target is kept.
        untargeted_ttl: Span = Span::seconds(7 * 24 * 3600),
        /// How long after each try a held upload is asked about again.
        held_pauses: Vec<Span> = [2, 10, 60, 300, 1800].map(Span::seconds).to_vec(),
        /// How long a client waits for an answer about its upload.
        held_wait: Span = Span::seconds(60),
        /// How long a quarantined upload is kept.
        quarantine_ttl: Span = Span::seconds(30 * 24 * 3600),
        /// How long an upload in chunks rests until a new chunk 0 begins another.
        chunk_idle: Span = Span::seconds(600),
        /// Most pieces of a final upload.
        final_pieces: usize = 256,
        /// Final uploads that are joined at once.
        joins_in_progress: usize = 2,
        /// Final uploads that wait in memory to be joined.
        joins_waiting: usize = 1000,
        /// Longest body of one request of a resumable upload; 0 is no limit.
        max_append_size: ByteSize = ByteSize(0),
        /// Where clients send the bytes of an upload; empty is where they made it.
        public_url: String = String::new(),
    }
}

table! {
    /// `[files]`
    FilesFile {
        /// Whose pages may upload from a browser.
        cors_origins: Vec<String> = Vec::new(),
    }
}

table! {
    /// `[cache]`
    CacheFile {
        /// Memory for verified blocks; 0 is computed.
        size: ByteSize = ByteSize(0),
        /// Bytes of a block.
        block: ByteSize = ByteSize::mib(1),
        /// Memory for answers that anybody may have.
        answers: ByteSize = ByteSize::mib(8),
    }
}

table! {
    /// `[verify]`
    VerifyFile {
        /// When bytes of a local file are proved that the kernel could send.
        local: String = "once".into(),
        /// How long that counts.
        max_age: Span = Span::seconds(7 * 24 * 3600),
        /// Boxes open as files at once.
        open_files: usize = 256,
    }
}

table! {
    /// `[digests]`
    DigestsFile {
        /// Whether SHA-256 is computed while an upload comes in, or afterwards.
        sha256: String = "inline".into(),
        /// Whether SHA-256 of an upload is computed on a second core where one is idle.
        second_core: String = "auto".into(),
        /// Bytes read in a second for those that are computed afterwards.
        rate: ByteSize = ByteSize(256 << 20),
        /// Boxes that may wait for theirs.
        most_deferred: u64 = 10_000,
    }
}

table! {
    /// `[downloads]`
    DownloadsFile {
        /// How long anyone may keep what a public name leads to.
        name_max_age: Span = Span::seconds(60),
        /// How long a CDN may.
        name_cdn_max_age: Span = Span::seconds(60),
        /// How long anyone may keep what a public URL with a digest leads to.
        immutable_max_age: Span = Span::seconds(365 * 24 * 3600),
        /// Whether answers carry purge tags.
        purge_tags: bool = true,
        /// Outboards on their way at once.
        max_outboards: usize = 16,
    }
}

table! {
    /// `[gc]`
    GcFile {
        /// How often stores are looked through for bytes that no row names.
        every: Span = Span::seconds(24 * 3600),
        /// How long bytes that no row names must be known before they are removed.
        orphan_age: Span = Span::seconds(7 * 24 * 3600),
        /// So few of them in a store never stop a sweep.
        few_orphans: u64 = 3,
        /// More of them in a store stop it.
        most_orphans: u64 = 100,
        /// More of them per hundred keys of a store stop it.
        most_orphans_percent: u64 = 1,
    }
}

table! {
    /// `[scrub]`
    ScrubFile {
        /// How long after its end the next scrub begins.
        every: Span = Span::seconds(14 * 24 * 3600),
        /// Bytes read in a second.
        rate: ByteSize = ByteSize(16 << 20),
    }
}

table! {
    /// `[auth]`
    AuthFile {
        /// Life of a session.
        session_ttl: Span = Span::seconds(24 * 3600),
        /// Life of a session that was asked to stay.
        stay_logged_in_ttl: Span = Span::seconds(30 * 24 * 3600),
        /// Life of a download link.
        download_link_ttl: Span = Span::seconds(3600),
        /// Longest life of a service account's key.
        service_account_max_expiry: Span = Span::seconds(365 * 24 * 3600),
        /// Failed tries from one address.
        login_failures_per_minute: u32 = 10,
    }
}

table! {
    /// `[limits]`
    LimitsFile {
        /// Free space below which no upload begins.
        min_free: ByteSize = ByteSize::mib(256),
        /// Largest JSON body.
        json_body: ByteSize = ByteSize::mib(1),
        /// Deepest JSON body.
        json_depth: usize = 32,
        /// Time that a JSON body may take to arrive.
        json_timeout: Span = Span::seconds(10),
        /// Largest request head.
        head_bytes: ByteSize = ByteSize::kib(32),
        /// Most header fields.
        header_fields: usize = 64,
        /// Longest request target.
        uri_bytes: ByteSize = ByteSize::kib(8),
        /// Largest trailer section of a request.
        trailer_bytes: ByteSize = ByteSize::kib(8),
        /// Most fields in it.
        trailer_fields: usize = 16,
        /// Connections at once; 0 is computed.
        connections: usize = 0,
        /// Connections from one address.
        connections_per_address: usize = 256,
        /// Bytes of answers that all connections leave unsent in the kernel; 0 is computed.
        unsent: ByteSize = ByteSize(0),
        /// Requests of one asker that are worked on at once.
        requests_at_once: usize = 64,
        /// How long a request beyond them waits for its turn.
        requests_wait: Span = Span::seconds(10),
        /// Askers that each policy of `[rates]` remembers.
        rate_keys: u32 = 20_000,
        /// Bytes of all bodies together that come in, in a second; 0 is as many as come.
        bytes_in: ByteSize = ByteSize(0),
        /// The same of those that go out.
        bytes_out: ByteSize = ByteSize(0),
        /// Addresses whose requests are not counted.
        rate_exempt: Vec<String> = vec!["127.0.0.0/8".into(), "::1".into()],
        /// Connections of HTTP/2 and 3 at once.
        h2_connections: usize = 500,
        /// Requests at once on one of them.
        h2_streams: u32 = 128,
        /// Largest request head on one of them, unpacked.
        h2_header_list: ByteSize = ByteSize::kib(16),
        /// Requests that a client of HTTP/2 may give up before they are looked at.
        h2_pending_resets: usize = 20,
        /// Requests of one connection of HTTP/2 that may be broken.
        h2_broken_streams: usize = 128,
        /// Streams of HTTP/3's own that a client may open.
        h3_control_streams: u32 = 8,
        /// Most parts of a form.
        multipart_parts: usize = 16,
        /// Largest head of a part.
        multipart_part_head: ByteSize = ByteSize::kib(16),
    }
}

table! {
    /// `[outbound]`
    OutboundFile {
        /// Networks that requests to outside reach beside public addresses.
        allow_networks: Vec<String> = Vec::new(),
        /// A file with certificates of authorities that are trusted beside the system's, PEM.
        ca_file: String = String::new(),
    }
}

table! {
    /// `[scripts]`
    ScriptsFile {
        /// Where plugins stand; empty is `<data_dir>/plugins`.
        dirs: Vec<String> = Vec::new(),
        /// What a broken plugin means at the start.
        startup: String = "last_good".into(),
        /// Whether a plugin's own tests must pass before it is taken.
        test: bool = true,
        /// How often plugins are looked at for changes; 0 is only when asked to.
        check_every: Span = Span::seconds(10),
        /// Calls of the work lane at once; 0 is computed.
        workers: usize = 0,
        /// How long a call that a client waits for queues for one of them.
        queue_wait: Span = Span(Duration::from_millis(250)),
        /// Whether plugins get all that they ask for.
        trust_local: bool = false,
        /// Networks that plugins reach beside public addresses.
        allow_networks: Vec<String> = Vec::new(),
        /// What each plugin is granted.
        grants: BTreeMap<String, Grant> = BTreeMap::new(),
        /// Settings of each plugin.
        settings: BTreeMap<String, BTreeMap<String, serde_json::Value>> = BTreeMap::new(),
        /// Files that hold the secrets of plugins, by the secret's name.
        secrets: BTreeMap<String, String> = BTreeMap::new(),
    }
}

table! {
    /// `[hooks]`
    HooksFile {
        /// Longest body.
        body: ByteSize = ByteSize(1 << 20),
        /// How long one may take to arrive.
        body_timeout: Span = Span::seconds(10),
        /// Bodies that are held at once.
        at_once: usize = 32,
        /// How far the time that a sender signed may be from now.
        tolerance: Span = Span::seconds(300),
        /// How long the id of a delivery is known.
        ids_kept: Span = Span::seconds(24 * 3600),
        /// Deliveries that may wait to be run.
        queue: u32 = 10_000,
        /// Pauses between runs of one that fails.
        pauses: Vec<Span> = [5, 60, 300, 900, 3600, 7200, 18_000, 36_000, 50_400, 72_000].map(Span::seconds).to_vec(),
    }
}

table! {
    /// `[webhooks]`
    WebhooksFile {
        /// Networks that endpoints may be in beside public addresses.
        allow_networks: Vec<String> = Vec::new(),
        /// Hosts that no endpoint may be at.
        deny_hosts: Vec<String> = Vec::new(),
        /// The proxy that requests go through; empty is none.
        egress_proxy: String = String::new(),
        /// Requests at once.
        at_once: usize = 256,
        /// Deliveries that may wait for one endpoint.
        queue: u32 = 100_000,
        /// Pauses before each attempt.
        delays: Vec<Span> = [0, 5, 60, 300, 900, 3600, 7200, 18_000, 36_000, 50_400, 72_000].map(Span::seconds).to_vec(),
        /// How long the log of what was sent is kept.
        log_kept: Span = Span::seconds(30 * 24 * 3600),
        /// Deliveries that the log holds.
        log_rows: u64 = 1_000_000,
        /// How long what was sent can be sent once more.
        bodies_kept: Span = Span::seconds(7 * 24 * 3600),
        /// Whether the log holds how answers began.
        log_bodies: bool = false,
    }
}

table! {
    /// `[providers]`
    ProvidersFile {
        /// How long a catalogue is served before its cloud is asked again.
        catalog_ttl: Span = Span::seconds(3600),
        /// Catalogues that are remembered.
        catalogs: u32 = 1_000,
        /// How long an order is remembered, so that the same one is not made twice.
        orders_kept: Span = Span::seconds(600),
        /// How long a server that was ordered is told of, though its cloud does not list it.
        ordering_for: Span = Span::seconds(360),
        /// How long an order whose outcome nobody knows is not made again, where its adapter cannot list servers.
        unknown_for: Span = Span::seconds(3600),
        /// How long it is known what was ordered, for what is told of its end.
        order_log_kept: Span = Span::seconds(90 * 86_400),
        /// Calls that wait for clouds at once, half of them for one adapter.
        at_once: usize = 128,
        /// How long credentials that a cloud refused are refused without asking it.
        refused_for: Span = Span::seconds(30),
        /// Networks that adapters reach beside `outbound.allow_networks` and `scripts.allow_networks`.
        allow_networks: Vec<String> = Vec::new(),
    }
}

table! {
    /// `[vagrant_cloud]`
    VagrantCloudFile {
        /// What becomes of an upload to a released version that has a box already.
        republish: String = "replace".into(),
        /// Life of the URL of an upload.
        upload_ttl: Span = Span::seconds(24 * 3600),
        /// Life of a token that signing in makes.
        token_ttl: Span = Span::seconds(365 * 24 * 3600),
        /// Such tokens of one person.
        tokens: usize = 100,
        /// Most boxes on one page of a search.
        search_limit: u32 = 100,
        /// What becomes of a box that is not for its provider.
        inspect: String = "warn".into(),
        /// Most inflated bytes of a box in gzip that are looked through.
        inspect_size: ByteSize = ByteSize::mib(64),
    }
}

/// `[runtimes]`: each by its name. `default` is the one at `/runtime/image`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RuntimesFile(pub BTreeMap<String, RuntimeFile>);

impl Default for RuntimesFile {
    fn default() -> Self {
        Self([("default".to_owned(), RuntimeFile::default())].into())
    }
}

table! {
    /// `[runtimes.<name>]`
    RuntimeFile {
        /// Whether it is there at all.
        enabled: bool = false,
        /// Its key, at least 36 characters.
        api_key: Secret = Secret::default(),
        /// A file that holds it.
        api_key_file: String = String::new(),
        /// The key before, which is good beside it while clients change over.
        previous_api_key: Secret = Secret::default(),
        /// A file that holds it.
        previous_api_key_file: String = String::new(),
        /// Whether its image may be read, replaced and pushed.
        allow_deployments: bool = false,
        /// The image, a plain file.
        image_file_path: String = "runtimeImage.sbimg".into(),
        /// The store that keeps it instead; empty is none.
        store: String = String::new(),
        /// Whose ISO image it is there.
        organization: String = String::new(),
        /// Whether copies of the image are made by the clock.
        do_backups: bool = false,
        /// When.
        backup_frequency: String = "@midnight".into(),
        /// The time zone of that.
        backup_time_zone: String = "UTC".into(),
        /// Copies that are kept; 0 keeps all.
        backup_retention_count: i64 = 10,
        /// Where they are kept.
        backup_directory: String = "RuntimeBackups".into(),
        /// Whether the image before is copied there at each deployment.
        backup_before_deploy: bool = false,
        /// Whether every failure of a deployment or push is 500.
        strict_statuses: bool = false,
        /// What makes the runtime take a new image.
        reload: String = "none".into(),
        /// The program of `reload = "command"` and its arguments.
        reload_command: Vec<String> = Vec::new(),
        /// How long it may take.
        reload_timeout: Span = Span::seconds(60),
        /// The runtime of `reload = "push"`.
        reload_target_url: String = String::new(),
        /// Its key.
        reload_target_api_key: Secret = Secret::default(),
        /// A file that holds it.
        reload_target_api_key_file: String = String::new(),
        /// Whether the image before is put back where that fails.
        rollback_on_reload_failure: bool = false,
        /// Hosts that the image may be pushed to; empty is any that pushes reach.
        allow_targets: Vec<String> = Vec::new(),
        /// Networks that pushes reach beside public and private ones.
        allow_networks: Vec<String> = Vec::new(),
        /// Whether the ports and the certificate of its web server are taken over, too.
        import_web_server: bool = false,
        /// A `runtime.json` whose `Image` and `RuntimeAPI` count instead of the keys here.
        import: String = String::new(),
    }
}

table! {
    /// `[boxitory]`
    BoxitoryFile {
        /// The directory of boxes; empty is none.
        home: String = String::new(),
        /// A properties file of Boxitory that counts instead of the keys here.
        properties: String = String::new(),
        /// What stands before every `url`.
        host_prefix: String = String::new(),
        /// What a `url` leads to.
        path_type: String = "raw".into(),
        /// Whether versions descend.
        sort_desc: bool = false,
        /// The checksums that are told.
        checksum: String = "disabled".into(),
        /// Whether computed ones are kept beside their boxes.
        checksum_persist: bool = true,
        /// Bytes that are read at once to compute one.
        checksum_buffer_size: ByteSize = ByteSize::kib(64),
        /// Versions of a box, from the highest on, whose checksums are computed.
        checksum_ensure: usize = 1,
        /// How long an answer waits for those that are computed.
        checksum_wait: Span = Span::seconds(2),
        /// Whether versions are seconds since 1970.
        version_as_timestamp: bool = false,
        /// Whether a box lists its providers once more, beside its versions.
        list_providers: bool = false,
        /// Whether the paths of files are told.
        local_url: bool = false,
        /// How often the directories are looked at, whether or not the system told of a change.
        rescan: Span = Span::seconds(30),
    }
}

table! {
    /// `[operations]`
    OperationsFile {
        /// Who reads metrics and status without a token.
        allow: Vec<String> = Vec::new(),
    }
}

table! {
    /// `[log]`
    LogFile {
        /// The least important line that is written.
        level: String = "info".into(),
        /// A file that gets the same lines as standard error; empty is none.
        file: String = String::new(),
    }
}

table! {
    /// `[telemetry]`
    TelemetryFile {
        /// Spans for a collector.
        otlp: OtlpFile = OtlpFile::default(),
    }
}

table! {
    /// `[telemetry.otlp]`
    OtlpFile {
        /// The collector; empty is none.
        endpoint: String = String::new(),
        /// Of a hundred traces that begin here, how many are recorded.
        percent: u8 = 100,
    }
}
