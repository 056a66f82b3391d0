//! The contract of stores on a real S3: Garage, started for this test alone (`--features garage`; the
//! program comes from the tools of `.ci/test`).

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use boxgate_storage::backend::s3::{self, Found, Patience, S3Options};
use boxgate_storage::conformance::store as contract;

/// One node with one bucket; it ends with its test.
struct Garage {
    process: Child,
    options: S3Options,
    _home: tempfile::TempDir,
}

const ACCESS_KEY_ID: &str = "GK0123456789abcdef01234567";
const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn program() -> PathBuf {
    let tools = option_env!("BOXGATE_TOOLS").map(PathBuf::from);
    let home = || std::env::home_dir().map(|home| home.join(".cache/boxgate"));
    let tools = tools.or_else(home).expect("a place for tools");
    tools.join("bin/garage")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").port()
}

impl Garage {
    async fn start() -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let (api, rpc, admin) = (free_port(), free_port(), free_port());
        let at = home.path().display();
        let config = format!(
            "metadata_dir = \"{at}/meta\"\ndata_dir = \"{at}/data\"\ndb_engine = \"sqlite\"\n\
             replication_factor = 1\nrpc_secret = \"{SECRET}\"\nrpc_bind_addr = \"127.0.0.1:{rpc}\"\n\
             rpc_public_addr = \"127.0.0.1:{rpc}\"\n[s3_api]\ns3_region = \"garage\"\n\
             api_bind_addr = \"127.0.0.1:{api}\"\n[admin]\napi_bind_addr = \"127.0.0.1:{admin}\"\n"
        );
        let file = home.path().join("garage.toml");
        std::fs::write(&file, config).expect("a file");
        let log = std::fs::File::create(home.path().join("log")).expect("a file");
        let process = Command::new(program())
            .arg("-c")
            .arg(&file)
            .args([
                "server",
                "--single-node",
                "--default-access-key",
                "--default-bucket",
            ])
            .env("GARAGE_DEFAULT_ACCESS_KEY", ACCESS_KEY_ID)
            .env("GARAGE_DEFAULT_SECRET_KEY", SECRET)
            .env("GARAGE_DEFAULT_BUCKET", "boxes")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("garage is among the tools");
        Self {
            process,
            options: S3Options {
                endpoint: format!("http://127.0.0.1:{api}"),
                region: "garage".to_owned(),
                bucket: "boxes".to_owned(),
                prefix: "test/".to_owned(),
                path_style: true,
                access_key_id: ACCESS_KEY_ID.to_owned(),
                secret_access_key: SECRET.to_owned(),
                patience: Patience::default(),
                redirect_for: None,
                clients_endpoint: None,
            },
            _home: home,
        }
    }

    /// Opens it, as soon as it answers.
    async fn open(&self) -> (boxgate_storage::store::Store, Found) {
        let mut failed = None;
        for _ in 0..60 {
            match s3::open(self.options.clone()).await {
                Ok(opened) => return opened,
                Err(e) => failed = Some(e),
            }
        }
        panic!("garage does not answer: {failed:?}");
    }
}

impl Drop for Garage {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garage_keeps_the_contract() {
    let garage = Garage::start().await;
    let (store, found) = garage.open().await;
    eprintln!("{found:?}");
    contract::all(&store).await;
    // It ignores `If-None-Match` (2.5); nothing of ours may rely on it.
    assert!(!found.conditional_writes);
    let page = store.list.as_ref().expect("it lists").page(None, 10).await;
    assert_eq!(page.expect("a page"), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_setting_is_told_by_its_name() {
    let garage = Garage::start().await;
    garage.open().await;
    let patience = Patience {
        tries: 1,
        connect: Duration::from_secs(5),
        ..Patience::default()
    };
    let good = S3Options {
        patience,
        ..garage.options.clone()
    };
    let bad = [
        (
            "bucket",
            S3Options {
                bucket: "other".into(),
                ..good.clone()
            },
        ),
        (
            "access_key_id",
            S3Options {
                access_key_id: "GKffffffffffffffffffffffff".into(),
                ..good.clone()
            },
        ),
        (
            "secret_access_key",
            S3Options {
                secret_access_key: "0".repeat(64),
                ..good.clone()
            },
        ),
        (
            "region",
            S3Options {
                region: "elsewhere".into(),
                ..good.clone()
            },
        ),
        (
            "endpoint",
            S3Options {
                endpoint: "http://127.0.0.1:1".into(),
                ..good
            },
        ),
    ];
    for (setting, options) in bad {
        let error = s3::open(options).await.expect_err("it cannot be used");
        assert!(error.subject().starts_with(setting), "{setting}: {error:?}");
    }
}
