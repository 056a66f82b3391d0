//! Question: what does it save that the kernel sends a file, and which block size should the cache have?
//!
//! The whole gateway, with its defaults but for what is asked, sends a box of 256 MiB to one client on loopback.
//!
//! - `send_cpu` is GiB per CPU second of the gateway, `send_wall` GiB per second of a whole download. `kernel` is the way
//!   of local files on plain HTTP/1.1 (`sendfile`); the others are found in the cache (`verify.local = "always"`), in
//!   blocks of so many MiB. If `kernel` is not far above the others in CPU, it is not worth its code.
//! - `miss` is the time of a range of 64 KiB in a block that is not in the cache: all of the block is read and proved for
//!   it. Larger blocks must win more in `send_cpu` than they lose here; beyond that they only cost memory.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use boxgate::app::App;
use boxgate::auth::credential;
use boxgate::config::{self, Flags, Machine};
use boxgate::telemetry::Telemetry;
use boxgate_benches::{Cost, block, paid_by_others, runtime};
use boxgate_storage::metadata::accounts::{NewAccount, PlatformRole};
use boxgate_storage::metadata::tokens::{NewToken, TokenKind};
use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const LENGTH: u64 = 256 << 20;
const RANGE: u64 = 64 << 10;
const FILE: &str =
    "/api/organization/acme/box/demo/version/1.0/provider/virtualbox/architecture/amd64/file";
/// MiB of a block.
const BLOCKS: [u64; 4] = [1, 2, 4, 8];

fn send(criterion: &mut Criterion) {
    arms(criterion.benchmark_group("send_cpu"), |cost| cost.cpu);
    arms(criterion.benchmark_group("send_wall"), |cost| cost.wall);
    misses(criterion.benchmark_group("miss"));
}

fn arms(mut group: BenchmarkGroup<'_, WallTime>, of: fn(&Cost) -> Duration) {
    group
        .throughput(Throughput::Bytes(LENGTH))
        .sample_size(10)
        .sampling_mode(SamplingMode::Flat);
    let cached = BLOCKS.map(|mib| (format!("cache, blocks of {mib} MiB"), Some(mib)));
    for (name, block_mib) in [("kernel".to_owned(), None)].into_iter().chain(cached) {
        let gateway = Gateway::start(block_mib, "1GiB");
        // What is proved or filled once is not measured.
        gateway.download();
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| {
                let mut sum = Cost::default();
                for _ in 0..times {
                    sum += gateway.download();
                }
                of(&sum)
            });
        });
    }
}

fn misses(mut group: BenchmarkGroup<'_, WallTime>) {
    group.sample_size(20);
    for mib in BLOCKS {
        // The least that a cache may have: a block is gone long before its turn comes again.
        let gateway = Gateway::start(Some(mib), &format!("{}MiB", 8 * mib));
        let mut stream = gateway.connect();
        let blocks = LENGTH / (mib << 20);
        let mut turn = 0;
        group.bench_function(format!("blocks of {mib} MiB"), |bencher| {
            bencher.iter(|| {
                turn = (turn + 1) % blocks;
                let from = turn * (mib << 20);
                let to = from + RANGE - 1;
                ask(
                    &mut stream,
                    &format!("range: bytes={from}-{to}\r\n"),
                    &gateway.token,
                    RANGE,
                );
            });
        });
    }
}

/// A running gateway that has the box.
struct Gateway {
    /// Runs it until it is dropped.
    _runtime: Runtime,
    address: SocketAddr,
    token: String,
    _directory: TempDir,
}

impl Gateway {
    fn start(block_mib: Option<u64>, cache: &str) -> Self {
        let runtime = runtime();
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        let directory = directory.expect("the file system of target/ has room");
        let flags = Flags {
            config: None,
            data_dir: Some(directory.path().to_owned()),
            listen: Some("127.0.0.1:0".into()),
            ..Flags::default()
        };
        let cached = block_mib.map(|mib| {
            [
                ("BOXGATE_VERIFY__LOCAL", "always".to_owned()),
                ("BOXGATE_CACHE__BLOCK", format!("{mib}MiB")),
                ("BOXGATE_CACHE__SIZE", cache.to_owned()),
            ]
        });
        let environment = cached.into_iter().flatten();
        let environment = environment.map(|(key, value)| (key.into(), value.into()));
        let loaded = config::load_from(&flags, environment, Machine::probe());
        let (settings, _) = loaded.expect("the settings are good");
        let (address, token) = runtime.block_on(async {
            let app = App::start(settings, Telemetry::silent()).await;
            let app = app.expect("the directory is ours");
            app.recover().await.expect("nothing is there yet");
            let token = owner_of_acme(&app.gateway().metadata).await;
            let address = app.addresses()[0];
            drop(tokio::spawn(app.serve()));
            (address, token)
        });
        let gateway = Self {
            _runtime: runtime,
            address,
            token,
            _directory: directory,
        };
        gateway.upload();
        gateway
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).expect("it listens")
    }

    fn upload(&self) {
        let mut stream = self.connect();
        let head = format!(
            "POST {FILE} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\nconnection: close\r\ncontent-length: {LENGTH}\r\n\r\n",
            self.token
        );
        stream.write_all(head.as_bytes()).expect("it reads");
        let block = block();
        for _ in 0..LENGTH / block.len() as u64 {
            stream.write_all(&block).expect("it reads");
        }
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    fn download(&self) -> Cost {
        let (mut stream, token) = (self.connect(), self.token.clone());
        paid_by_others(move || ask(&mut stream, "", &token, LENGTH))
    }
}

/// Asks for the box and throws away the `length` bytes of the answer.
fn ask(stream: &mut TcpStream, fields: &str, token: &str, length: u64) {
    let head = format!(
        "GET {FILE}/download HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n{fields}\r\n"
    );
    stream.write_all(head.as_bytes()).expect("it reads");
    let mut buffer = vec![0; 1 << 20];
    let (mut got, mut body) = (0, None);
    while body.is_none_or(|at: usize| ((got - at) as u64) < length) {
        // The head is found in what came first; of the rest only the length counts.
        let into = if body.is_none() { got } else { 0 };
        let n = stream.read(&mut buffer[into..]).expect("it answers");
        assert!(n > 0, "it ended early");
        got += n;
        if body.is_none() {
            let head = buffer[..got].windows(4).position(|w| w == b"\r\n\r\n");
            body = head.map(|at| at + 4);
        }
    }
}

async fn owner_of_acme(metadata: &boxgate_storage::metadata::Metadata) -> String {
    let new = NewAccount {
        username: "owner".into(),
        email: None,
        password_hash: None,
        role: PlatformRole::User,
        membership: None,
        by: String::new(),
    };
    let account = metadata.create_account(new).await.expect("it is the first");
    let name = "acme".parse().expect("a name");
    let made = metadata.create_organization(&name, None, account.id).await;
    made.expect("it is the first");
    let text = credential::fresh();
    let new = NewToken {
        kind: TokenKind::Personal,
        hash: credential::hash(&text),
        account: account.id,
        organization: None,
        name: None,
        description: None,
        expires: None,
    };
    metadata.create_token(new).await.expect("it is the first");
    text
}

criterion_group!(benches, send);
criterion_main!(benches);
