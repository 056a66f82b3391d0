//! What an adapter costs: 64 callers ask for servers by a gateway, whose plugin asks a cloud within this process. The cloud
//! tells of each answer how long it had it, so that what is left is the gateway's. And what its documents cost beside the
//! metadata of a box.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::content::{Block, Content};
use crate::error::{Failure, Result};
use crate::gateway::{Gateway, Site};
use crate::http::{self, Ask, Envelope};
use crate::latency::Latency;

/// Who ask at once, each over and over.
const CALLERS: usize = 64;
/// How long the cloud takes.
const CLOUD_TIME: Duration = Duration::from_millis(50);
/// The most that the gateway may take beside it, of 99 in a hundred.
const MOST_MS: f64 = 2.0;
/// The least of the metadata route's requests a second.
const LEAST_SHARE: f64 = 0.5;
/// Rounds of each document, in turn.
const ROUNDS: u32 = 3;

const MANIFEST: &str = "[provider]\n[http]\nallow = [\"http://127.0.0.1/\"]\n[settings]\napi_base = \"http://127.0.0.1\"\n";
/// An adapter as plain as can be; how long the cloud had a question is the server's name.
const ADAPTER: &str = r#"
fn meta() {
    #{ id: "mock", name: "Mock", server_nick_name: "Server", default_region: "r", default_size: "s", default_plan: "p",
       can_reboot: false, can_rename: false, internal_iface: "eth0", external_iface: (), ssh_user: "root",
       ssh_auth_method: "key", ssh_key_method: "object", bootstrap_script: "https://a/", instructions: "None.",
       credential_fields: [#{ key: "access-token", label: "Token" }] }
}
fn catalog(ctx) {
    let sizes = list();
    for region in 0..10 {
        for size in 0..20 {
            sizes.push(#{ region: #{ id: `r${region}`, name: "R" }, plan: #{ id: "p", name: "P" }, id: `s${size}`, ram: 1024,
                cpu: 1, disk: 25, transfer: 1, dollars_per_hr: 0.01, dollars_per_mo: 5 });
        }
    }
    sizes
}
fn verify(ctx) {}
fn create_server(ctx, order) { "1" }
fn get_server(ctx, id) {
    let headers = #{ authorization: "Bearer " + ctx.auth["access-token"] };
    let answer = http::get(`${config::get("api_base")}/servers/${id}`, #{ headers: headers });
    #{ id: id, status: "creating", name: answer.pick("/had_us") }
}
fn cancel_server(ctx, id) {}
"#;

/// What was measured.
pub(crate) struct Costs {
    /// What the cloud cost its callers beside its own time, asked directly.
    direct: Latency,
    /// The same by way of the adapter.
    adapter: Latency,
    /// Requests a second: the metadata of a box, `/meta`, the catalogue.
    rates: [f64; 3],
}

impl Costs {
    /// Measures for so long each.
    ///
    /// # Errors
    /// When something does not answer as it must.
    pub(crate) async fn measure(program: &Path, directory: &Path, each: Duration) -> Result<Self> {
        let cloud = cloud().await?;
        let gateway = start(program, directory, cloud).await?;
        let ours = gateway.address();
        publish(&gateway).await?;
        let metadata = format!("/{}/demo", gateway.organization());
        let paths = [&metadata, "/providers/mock/meta", "/providers/mock/catalog"];
        let server = "/providers/mock/servers/7";
        // Once, so that all that is made once is made.
        for path in paths.into_iter().chain([server]) {
            Caller::connect(ours, gateway.key())
                .await?
                .ask(path)
                .await?;
        }
        let direct = beside(cloud, "/servers/7", each, gateway.key()).await?;
        let adapter = beside(ours, server, each, gateway.key()).await?;
        let mut answered = [0; 3];
        for _ in 0..ROUNDS {
            for (path, answered) in paths.into_iter().zip(&mut answered) {
                let path = [path.to_owned()];
                *answered += count(ours, &path, each / 2, gateway.key()).await?;
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "requests of a run fit 52 bits")]
        let rates = answered.map(|n| n as f64 / (each / 2 * ROUNDS).as_secs_f64());
        gateway.kill().await?;
        Ok(Self {
            direct,
            adapter,
            rates,
        })
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let row = |what: &str, latency: &Latency| {
            let [half, most] = [50.0, 99.0].map(|percent| latency.percentile_ms(percent));
            format!("| {what} | {half:.2} | {most:.2} |\n")
        };
        let [metadata, meta, catalog] = self.rates;
        let rate =
            |what: &str, rate: f64| format!("| {what} | {rate:.0} | {:.2} |\n", rate / metadata);
        [
            "| beside the cloud's own 50 ms, 64 callers | median ms | 99 % ms |\n|---|---|---|\n"
                .to_owned(),
            row("asked directly", &self.direct),
            row("by way of the adapter", &self.adapter),
            "\n| 64 connections | requests a second | of the metadata's |\n|---|---|---|\n"
                .to_owned(),
            rate("`GET /{org}/{box}`", metadata),
            rate("`/meta`", meta),
            rate("`/catalog`, 200 sizes, kept", catalog),
        ]
        .concat()
    }

    /// What is worse than it may be.
    pub(crate) fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let most = self.adapter.percentile_ms(99.0);
        if most > MOST_MS {
            wrong.push(format!(
                "the adapter takes {most:.2} ms of its own, not {MOST_MS}"
            ));
        }
        for (what, rate) in ["/meta", "/catalog"].into_iter().zip(&self.rates[1..]) {
            let share = rate / self.rates[0];
            if share < LEAST_SHARE {
                wrong.push(format!(
                    "{what} has {share:.2} of the metadata's requests a second"
                ));
            }
        }
        wrong
    }
}

async fn start(program: &Path, directory: &Path, cloud: SocketAddr) -> Result<Gateway> {
    let directory = directory.join(format!("clouds-{}", std::process::id()));
    let plugin = directory.join("data/plugins/mock");
    let written = std::fs::create_dir_all(&plugin);
    let manifest = MANIFEST.replace("http://127.0.0.1", &format!("http://{cloud}"));
    let written = written.and_then(|()| std::fs::write(plugin.join("plugin.toml"), manifest));
    let written = written.and_then(|()| std::fs::write(plugin.join("main.rhai"), ADAPTER));
    written.map_err(|e| Failure::file(&plugin, e))?;
    let settings = [
        ("scripts.trust_local", "true"),
        ("scripts.allow_networks", "127.0.0.0/8"),
        ("catalog.new_box_visibility", "public"),
        ("log.level", "warn"),
    ];
    let settings = settings.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let site = Site {
        program: program.to_owned(),
        data: directory.join("data"),
        log: directory.join("log"),
        settings: BTreeMap::from(settings),
        preload: None,
    };
    site.start()?.ready().await
}

/// A small public box, whose metadata is what all is compared with.
pub(crate) async fn publish(gateway: &Gateway) -> Result<()> {
    let path = format!("{}/upload", gateway.file_path("demo", "1.0.0"));
    let ask = Ask {
        method: "POST",
        path: &path,
        token: Some(gateway.key()),
    };
    let envelope = Envelope {
        content_type: "application/octet-stream".to_owned(),
        ..Envelope::default()
    };
    let content = Content::new(&Block::seeded(1), 1, 1 << 16);
    let answer = http::upload(gateway.address(), ask, &content, &envelope).await?;
    if answer.status / 100 == 2 {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&answer.body);
    Err(Failure::said(format!(
        "the box is answered {}: {said}",
        answer.status
    )))
}

/// A cloud that takes its time, and tells how much it took.
async fn cloud() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    Ok(address)
}

async fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut seen = Vec::new();
    loop {
        if stream.read_buf(&mut seen).await? == 0 {
            return Ok(());
        }
        if !seen.ends_with(b"\r\n\r\n") {
            continue;
        }
        let begun = Instant::now();
        seen.clear();
        tokio::time::sleep(CLOUD_TIME).await;
        let body = format!("{{\"had_us\":\"{}\"}}", begun.elapsed().as_micros());
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).await?;
    }
}

/// One who asks over one kept connection.
struct Caller {
    stream: TcpStream,
    key: String,
    seen: Vec<u8>,
}

impl Caller {
    async fn connect(to: SocketAddr, key: &str) -> Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            key: key.to_owned(),
            seen: Vec::new(),
        })
    }

    /// The body of the answer.
    async fn ask(&mut self, path: &str) -> Result<&[u8]> {
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: a\r\nauth-access-token: {}\r\n\r\n",
            self.key
        );
        self.stream.write_all(request.as_bytes()).await?;
        self.seen.clear();
        loop {
            if self.stream.read_buf(&mut self.seen).await? == 0 {
                return Err(Failure::said(format!("{path} is not answered")));
            }
            let Some(end) = self.seen.windows(4).position(|w| w == b"\r\n\r\n") else {
                continue;
            };
            let head = String::from_utf8_lossy(&self.seen[..end]).to_lowercase();
            if !head.starts_with("http/1.1 20") {
                return Err(Failure::said(format!("{path}: {head}")));
            }
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let length = length.and_then(|text| text.parse::<usize>().ok());
            let length = length.ok_or_else(|| Failure::said(format!("{path} has no length")))?;
            while self.seen.len() < end + 4 + length {
                if self.stream.read_buf(&mut self.seen).await? == 0 {
                    return Err(Failure::said(format!("{path} is cut")));
                }
            }
            return Ok(&self.seen[end + 4..]);
        }
    }
}

/// What all callers waited beside the time that the cloud had.
async fn beside(to: SocketAddr, path: &'static str, each: Duration, key: &str) -> Result<Latency> {
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let mut caller = Caller::connect(to, key).await?;
        callers.spawn(async move {
            let mut times = Vec::new();
            let ends = Instant::now() + each;
            while Instant::now() < ends {
                let begun = Instant::now();
                let body = caller.ask(path).await?;
                let took = begun.elapsed();
                let body: serde_json::Value = serde_json::from_slice(body)
                    .map_err(|e| Failure::said(format!("{path}: {e}")))?;
                let had = body.get("had_us").or_else(|| body.get("name"));
                let had = had
                    .and_then(|us| us.as_str())
                    .and_then(|us| us.parse().ok());
                let had = had.ok_or_else(|| Failure::said(format!("{path} tells no time")))?;
                times.push(took.saturating_sub(Duration::from_micros(had)));
            }
            Ok::<_, Failure>(times)
        });
    }
    let mut all = Latency::default();
    while let Some(times) = callers.join_next().await {
        // The first ones open connections.
        let times = times.expect("a caller does not panic")?;
        times.into_iter().skip(3).for_each(|time| all.record(time));
    }
    Ok(all)
}

/// How many requests are answered; callers ask for the paths in turn, each from another one on.
pub(crate) async fn count(
    to: SocketAddr,
    paths: &[String],
    each: Duration,
    key: &str,
) -> Result<u64> {
    let paths: Arc<[String]> = paths.into();
    let mut callers = JoinSet::new();
    for nth in 0..CALLERS {
        let mut caller = Caller::connect(to, key).await?;
        let paths = Arc::clone(&paths);
        callers.spawn(async move {
            let (mut answered, ends) = (0, Instant::now() + each);
            let turns = paths.iter().cycle().skip(nth * paths.len() / CALLERS);
            for path in turns {
                if Instant::now() >= ends {
                    break;
                }
                caller.ask(path).await?;
                answered += 1;
            }
            Ok::<u64, Failure>(answered)
        });
    }
    let mut all = 0;
    while let Some(answered) = callers.join_next().await {
        all += answered.expect("a caller does not panic")?;
    }
    Ok(all)
}
