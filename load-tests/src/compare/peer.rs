//! The servers that are compared: each started in a directory of its own, killed when dropped.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, interval};

use super::plan::{Arm, Server};
use super::serve::Plain;
use super::tools::{Tools, needed};
use crate::deployed::{Deployed, Looking, Spent};
use crate::error::{Failure, Result};
use crate::gateway::{Gateway, Site};
use crate::http::{self, Ask};
use crate::process::{Cpu, status_bytes};
use crate::server;

/// How long a server may take to answer its port.
const PATIENCE: Duration = Duration::from_mins(1);
/// Of the bucket that a Garage of our own is made with.
pub(super) const BUCKET: &str = "boxes";
const REGION: &str = "garage";
const KEY: &str = "GK0123456789abcdef01234567";
const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// What every server is started with.
#[derive(Debug)]
pub(super) struct Ground {
    /// The program under test.
    pub(super) program: PathBuf,
    /// On the file system that is measured.
    pub(super) directory: PathBuf,
    pub(super) tools: Tools,
    /// What boxgate is, where it is not started here.
    pub(super) deployed: Option<Deployed>,
}

impl Ground {
    /// Whether boxgate is elsewhere and spoken to over TLS.
    pub(super) fn is_over_tls(&self) -> bool {
        let deployed = self.deployed.as_ref();
        deployed.is_some_and(|deployed| deployed.server.is_tls())
    }
}

/// A process that does not outlive this.
#[derive(Debug)]
pub(super) struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already, which is just as well. nginx ends its workers on SIGTERM alone.
        let pid = i32::try_from(self.0.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _reaped = self.0.wait();
    }
}

/// A server that runs.
#[derive(Debug)]
pub(super) enum Peer {
    /// The program under test; with the port of its TLS listener, if it has one.
    Boxgate(Box<Gateway>, Option<u16>),
    /// One that somebody else started.
    Deployed(Box<Deployed>),
    /// Something else that listens.
    Other {
        process: Process,
        address: SocketAddr,
        /// Where it answers TLS.
        tls: Option<u16>,
        /// Where its files are.
        files: PathBuf,
    },
    /// A command that is run anew each time, against this S3.
    Command(S3),
}

/// A Garage of our own.
#[derive(Debug)]
pub(super) struct Garage {
    _process: Process,
    pub(super) s3: S3,
}

/// An S3 and how it is asked.
#[derive(Debug, Clone)]
pub(super) struct S3 {
    pub(super) endpoint: String,
    aws: PathBuf,
}

impl S3 {
    /// `aws` with these arguments.
    pub(super) fn aws(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.aws);
        command
            .args(["--endpoint-url", &self.endpoint])
            .args(arguments)
            .env_remove("AWS_CA_BUNDLE")
            .env("AWS_ACCESS_KEY_ID", KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .env("AWS_DEFAULT_REGION", REGION)
            .env("AWS_CONFIG_FILE", "/dev/null")
            .env("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
            .env("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")
            .stdin(Stdio::null());
        command
    }
}

impl Garage {
    /// Starts one with an empty bucket below the directory.
    pub(super) async fn start(ground: &Ground) -> Result<Self> {
        let (program, aws) = (ground.tools.garage(), ground.tools.aws());
        needed(&program)?;
        needed(&aws)?;
        let directory = fresh(&ground.directory, "garage")?;
        let [api, rpc, admin] = free_ports()?;
        let at = directory.display();
        let config = format!(
            "metadata_dir = \"{at}/meta\"\ndata_dir = \"{at}/data\"\ndb_engine = \"sqlite\"\nreplication_factor = 1\n\
             rpc_secret = \"{SECRET}\"\nrpc_bind_addr = \"127.0.0.1:{rpc}\"\nrpc_public_addr = \"127.0.0.1:{rpc}\"\n\
             [s3_api]\ns3_region = \"{REGION}\"\napi_bind_addr = \"127.0.0.1:{api}\"\n\
             [admin]\napi_bind_addr = \"127.0.0.1:{admin}\"\n"
        );
        let file = directory.join("garage.toml");
        std::fs::write(&file, config).map_err(|e| Failure::file(&file, e))?;
        let mut command = Command::new(&program);
        command
            .arg("-c")
            .arg(&file)
            .args([
                "server",
                "--single-node",
                "--default-access-key",
                "--default-bucket",
            ])
            .env("GARAGE_DEFAULT_ACCESS_KEY", KEY)
            .env("GARAGE_DEFAULT_SECRET_KEY", SECRET)
            .env("GARAGE_DEFAULT_BUCKET", BUCKET);
        let process = spawned(command, &directory, Stdio::null())?;
        let admin = SocketAddr::from(([127, 0, 0, 1], admin));
        let late = Instant::now() + PATIENCE;
        let mut tick = interval(Duration::from_millis(50));
        loop {
            tick.tick().await;
            let ask = Ask {
                method: "GET",
                path: "/health",
                token: None,
            };
            if http::get(admin, ask)
                .await
                .is_ok_and(|answer| answer.status == 200)
            {
                break;
            }
            if Instant::now() > late {
                return Err(Failure::said(format!(
                    "garage does not start: see {at}/log"
                )));
            }
        }
        let endpoint = format!("http://127.0.0.1:{api}");
        Ok(Self {
            _process: process,
            s3: S3 { endpoint, aws },
        })
    }

    /// What a gateway is told to keep its boxes here.
    fn settings(&self, prefix: &str) -> Vec<(&'static str, String)> {
        vec![
            ("stores.main.kind", "s3".to_owned()),
            ("stores.main.endpoint", self.s3.endpoint.clone()),
            ("stores.main.region", REGION.to_owned()),
            ("stores.main.bucket", BUCKET.to_owned()),
            ("stores.main.prefix", prefix.to_owned()),
            ("stores.main.access_key_id", KEY.to_owned()),
            ("stores.main.secret_access_key", SECRET.to_owned()),
            ("uploads.part_budget", "128MiB".to_owned()),
            ("cache.size", "64MiB".to_owned()),
        ]
    }
}

impl Peer {
    /// Starts one. `name` tells its directory from that of others.
    pub(super) async fn start(
        arm: &Arm,
        name: &str,
        ground: &Ground,
        garage: Option<&Garage>,
        certificate: Option<&Certificate>,
        length: u64,
    ) -> Result<Self> {
        if let (Server::Boxgate, Some(deployed)) = (arm.server, &ground.deployed) {
            return Ok(Self::Deployed(Box::new(deployed.clone())));
        }
        let directory = fresh(&ground.directory, name)?;
        match arm.server {
            Server::Boxgate => {
                gateway(ground, &directory, garage, (certificate, &arm.settings)).await
            }
            Server::LoopBlake3 => plain(Plain::LoopBlake3, directory, length).await,
            Server::LoopBoth => plain(Plain::LoopBoth, directory, length).await,
            Server::LoopDurable => plain(Plain::LoopDurable, directory, length).await,
            Server::WriteThenHash => plain(Plain::WriteThenHash, directory, length).await,
            Server::Sink => plain(Plain::Sink, directory, 0).await,
            Server::Source => plain(Plain::Source, directory, length).await,
            Server::Nginx => nginx(ground, directory, certificate, false).await,
            Server::NginxCache => nginx(ground, directory, certificate, true).await,
            Server::Rustus => rustus(ground, directory).await,
            Server::Aws => {
                let garage = garage.ok_or_else(|| Failure::said("there is no Garage"))?;
                Ok(Self::Command(garage.s3.clone()))
            }
        }
    }

    /// The processes whose CPU and memory count: nginx works in children.
    fn pids(&self) -> Vec<u32> {
        match self {
            Self::Boxgate(gateway, _) => vec![gateway.pid()],
            Self::Other { process, .. } => {
                let pid = process.0.id();
                let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
                let children = children.unwrap_or_default();
                let children = children
                    .split_ascii_whitespace()
                    .filter_map(|pid| pid.parse().ok());
                std::iter::once(pid).chain(children).collect()
            }
            Self::Command(_) | Self::Deployed(_) => Vec::new(),
        }
    }

    /// What was spent so far. `None` where a gateway elsewhere does not tell.
    pub(super) async fn spent(&self) -> Result<Option<Spent>> {
        if let Self::Deployed(deployed) = self {
            return Ok(deployed.spent().await.ok());
        }
        Ok(Some(Spent {
            cpu_s: self.own_cpu_s()?,
            started_s: None,
        }))
    }

    /// CPU seconds since then. `None` where a gateway elsewhere does not tell.
    pub(super) async fn cpu_since(&self, before: Option<Spent>) -> Result<Option<f64>> {
        match (self, before) {
            (_, None) => Ok(None),
            (Self::Deployed(deployed), Some(before)) => Ok(deployed.cpu_since(before).await.ok()),
            (_, Some(before)) => Ok(Some(self.own_cpu_s()? - before.cpu_s)),
        }
    }

    /// CPU seconds so far; of a command, those of all commands that ended.
    fn own_cpu_s(&self) -> Result<f64> {
        if let Self::Command(_) = self {
            return Ok(Cpu::of_ended_children()?.total_s());
        }
        let each = self.pids().into_iter();
        each.map(|pid| Ok(Cpu::of(pid)?.total_s())).sum()
    }

    /// From here on the most memory is looked for; at a gateway elsewhere, by who is returned.
    pub(super) fn forget_peak(&self) -> Option<Looking> {
        for pid in self.pids() {
            // A process that went meanwhile has none.
            let _gone = std::fs::write(format!("/proc/{pid}/clear_refs"), "5");
        }
        match self {
            Self::Deployed(deployed) => Some(deployed.look()),
            _ => None,
        }
    }

    /// The most resident bytes since then.
    pub(super) fn peak_bytes(&self, looking: Option<Looking>) -> Option<u64> {
        if let Self::Deployed(_) = self {
            return looking?.stop();
        }
        let each = self
            .pids()
            .into_iter()
            .map(|pid| status_bytes(pid, "VmHWM").ok());
        each.sum::<Option<u64>>().filter(|bytes| *bytes > 0)
    }

    /// The most memory that it said it would take.
    pub(super) fn ceiling_bytes(&self) -> Option<u64> {
        let Self::Boxgate(gateway, _) = self else {
            return None;
        };
        let log = std::fs::read_to_string(&gateway.site().log).ok()?;
        let (_, behind) = log.split_once("\"memory_ceiling_bytes\":")?;
        let digits: String = behind
            .trim_start_matches('"')
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        digits.parse().ok()
    }

    /// Where it listens.
    pub(super) fn server(&self) -> Result<server::Server> {
        match self {
            Self::Boxgate(gateway, _) => Ok(gateway.address().into()),
            Self::Deployed(deployed) => Ok(deployed.server.clone()),
            Self::Other { address, .. } => Ok((*address).into()),
            Self::Command(_) => Err(Failure::said("a command listens nowhere")),
        }
    }

    /// Where it answers TLS, for programs.
    pub(super) fn tls_url(&self) -> Result<String> {
        match self {
            Self::Boxgate(_, Some(port))
            | Self::Other {
                tls: Some(port), ..
            } => Ok(format!("https://127.0.0.1:{port}")),
            Self::Deployed(deployed) if deployed.server.is_tls() => Ok(deployed.server.url()),
            _ => Err(Failure::said("this arm has no TLS")),
        }
    }

    /// Where boxes are put, at boxgate.
    pub(super) fn organization(&self) -> Option<&str> {
        match self {
            Self::Boxgate(gateway, _) => Some(gateway.organization()),
            Self::Deployed(deployed) => Some(&deployed.organization),
            _ => None,
        }
    }

    /// With what it is read. Boxes of a gateway of our own are for everybody.
    pub(super) fn token(&self) -> Option<&str> {
        match self {
            Self::Deployed(deployed) => Some(&deployed.token),
            _ => None,
        }
    }

    /// The name that a box has there.
    pub(super) fn box_name(&self, short: &str) -> String {
        match self {
            Self::Deployed(deployed) => deployed.name(short),
            _ => short.to_owned(),
        }
    }
}

async fn gateway(
    ground: &Ground,
    directory: &Path,
    garage: Option<&Garage>,
    (certificate, more): (Option<&Certificate>, &BTreeMap<String, String>),
) -> Result<Peer> {
    let mut settings = vec![
        ("catalog.new_box_visibility", "public".to_owned()),
        ("limits.connections_per_address", "4096".to_owned()),
    ];
    let mut tls = None;
    if let Some(Certificate { certificate, key }) = certificate {
        let [port] = free_ports()?;
        tls = Some(port);
        let (certificate, key) = (certificate.display(), key.display());
        let config = format!(
            "[[listeners]]\naddress = \"127.0.0.1:0\"\n[[listeners]]\naddress = \"127.0.0.1:{port}\"\ntls = true\n\
             [tls]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n"
        );
        let file = directory.join("boxgate.toml");
        std::fs::write(&file, config).map_err(|e| Failure::file(&file, e))?;
        settings.push(("config", file.display().to_string()));
    }
    if let Some(garage) = garage {
        let name = directory.file_name().unwrap_or_default().to_string_lossy();
        settings.extend(garage.settings(&format!("{name}/")));
    }
    let settings: BTreeMap<_, _> = settings
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .chain(more.clone())
        .collect();
    let site = Site {
        program: ground.program.clone(),
        data: directory.join("data"),
        log: directory.join("log"),
        settings,
        preload: None,
    };
    let gateway = Box::pin(site.start()?.ready()).await?;
    Ok(Peer::Boxgate(Box::new(gateway), tls))
}

async fn plain(plain: Plain, directory: PathBuf, length: u64) -> Result<Peer> {
    let program = std::env::current_exe()?;
    let mut command = Command::new(program);
    command
        .arg("serve")
        .arg(plain.name())
        .args(["--length", &length.to_string(), "--dir"])
        .arg(&directory);
    let mut process = spawned(command, &directory, Stdio::piped())?;
    let stdout = process.0.stdout.take();
    let stdout = stdout.ok_or_else(|| Failure::said("a server without an output"))?;
    let line = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).map(|_| line)
    });
    let line = line.await.expect("reading a line does not panic")?;
    let address = line.trim().parse();
    let address = address.map_err(|_e| Failure::said(format!("{} says {line:?}", plain.name())))?;
    Ok(Peer::Other {
        process,
        address,
        tls: None,
        files: directory,
    })
}

async fn nginx(
    ground: &Ground,
    directory: PathBuf,
    certificate: Option<&Certificate>,
    cached: bool,
) -> Result<Peer> {
    let program = ground.tools.nginx();
    needed(&program)?;
    let root = directory.join("root");
    std::fs::create_dir_all(root.join("put")).map_err(|e| Failure::file(&root, e))?;
    let [port, behind, tls] = free_ports()?;
    let (at, root_at) = (directory.display(), root.display());
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {at}/temp-{name};\n"))
        .concat();
    let files = format!(
        "root {root_at}; location /put/ {{ dav_methods PUT DELETE; client_max_body_size 0; }}"
    );
    let secure = certificate.map(|Certificate { certificate, key }| {
        let (certificate, key) = (certificate.display(), key.display());
        format!(
            "server {{ listen 127.0.0.1:{tls} ssl; ssl_protocols TLSv1.3; ssl_certificate {certificate}; \
             ssl_certificate_key {key}; {files} }}\n"
        )
    });
    let front = if cached {
        format!(
            "server {{ listen 127.0.0.1:{port}; location / {{ slice 1m; proxy_cache slices; \
             proxy_cache_key $uri$slice_range; proxy_set_header Range $slice_range; proxy_http_version 1.1; \
             proxy_cache_valid 200 206 1h; proxy_pass http://127.0.0.1:{behind}; }} }}\n\
             server {{ listen 127.0.0.1:{behind}; {files} }}\n"
        )
    } else {
        format!("server {{ listen 127.0.0.1:{port}; {files} }}\n")
    };
    let user = if rustix::process::geteuid().is_root() {
        "user root;"
    } else {
        ""
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let config = format!(
        "{user} daemon off; worker_processes {workers}; pid {at}/pid; error_log {at}/error;\n\
         events {{ worker_connections 4096; }}\nhttp {{\n{temporary}\
         proxy_cache_path {at}/cache keys_zone=slices:16m max_size=8g;\n\
         access_log {at}/access; sendfile on; tcp_nopush on; keepalive_requests 100000000;\n\
         open_file_cache max=1000 inactive=60s;\n\
         default_type application/octet-stream;\n{front}{}}}\n",
        secure.unwrap_or_default()
    );
    let file = directory.join("nginx.conf");
    std::fs::write(&file, config).map_err(|e| Failure::file(&file, e))?;
    let mut command = Command::new(&program);
    command.arg("-p").arg(&directory).arg("-c").arg(&file);
    let process = spawned(command, &directory, Stdio::null())?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    answers(address, &directory).await?;
    let tls = certificate.map(|_| tls);
    Ok(Peer::Other {
        process,
        address,
        tls,
        files: root,
    })
}

async fn rustus(ground: &Ground, directory: PathBuf) -> Result<Peer> {
    let program = ground.tools.rustus();
    needed(&program)?;
    let [port] = free_ports()?;
    let mut command = Command::new(&program);
    command
        .args([
            "--host",
            "127.0.0.1",
            "--max-body-size",
            "1073741824",
            "--port",
            &port.to_string(),
        ])
        .arg("--data-dir")
        .arg(directory.join("data"))
        .arg("--info-dir")
        .arg(directory.join("info"))
        .current_dir(&directory);
    let process = spawned(command, &directory, Stdio::null())?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    answers(address, &directory).await?;
    let files = directory.join("data");
    Ok(Peer::Other {
        process,
        address,
        tls: None,
        files,
    })
}

/// A certificate and its key.
#[derive(Debug)]
pub(super) struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
}

impl Certificate {
    /// One that nobody trusts, made by openssl.
    pub(super) fn make(ground: &Ground) -> Result<Self> {
        let directory = fresh(&ground.directory, "certificate")?;
        let (certificate, key) = (directory.join("cert.pem"), directory.join("key.pem"));
        let mut command = Command::new("openssl");
        command
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
            ])
            .args(["-days", "2", "-subj", "/CN=localhost", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .stderr(Stdio::null());
        let made = command
            .status()
            .map_err(|e| Failure::file(Path::new("openssl"), e))?;
        if made.success() {
            Ok(Self { certificate, key })
        } else {
            Err(Failure::said("openssl makes no certificate"))
        }
    }
}

/// Starts a program; its complaints go to `log`, and what it says to `stdout`.
fn spawned(mut command: Command, directory: &Path, stdout: Stdio) -> Result<Process> {
    let path = directory.join("log");
    let log = std::fs::File::create(&path).map_err(|e| Failure::file(&path, e))?;
    command.stdin(Stdio::null()).stdout(stdout).stderr(log);
    let child = command.spawn();
    let child = child.map_err(|e| Failure::file(Path::new(command.get_program()), e))?;
    Ok(Process(child))
}

/// Waits until the port is open.
async fn answers(address: SocketAddr, directory: &Path) -> Result<()> {
    let late = Instant::now() + PATIENCE;
    let mut tick = interval(Duration::from_millis(20));
    loop {
        tick.tick().await;
        if TcpStream::connect(address).await.is_ok() {
            return Ok(());
        }
        if Instant::now() > late {
            let at = directory.display();
            return Err(Failure::said(format!(
                "nothing answers {address}: see {at}/log"
            )));
        }
    }
}

/// Ports that were free a moment ago.
fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut held = Vec::new();
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}

/// An empty directory.
pub(super) fn fresh(parent: &Path, name: &str) -> Result<PathBuf> {
    let directory = parent.join(name);
    crate::gateway::remove(&directory)?;
    std::fs::create_dir_all(&directory).map_err(|e| Failure::file(&directory, e))?;
    // Servers are started in directories of their own, so paths must not depend on where this runs.
    directory
        .canonicalize()
        .map_err(|e| Failure::file(&directory, e))
}
