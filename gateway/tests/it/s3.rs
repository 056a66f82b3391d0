//! A bucket as the store: the program itself, killed and started again, on a strict S3 in this process.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use self::reference::{Fault, Reference};
use crate::harness::{Reply, Request, file_path, read_reply};
use crate::resumable::{TUS_BYTES, located, metadata, tus_by};
use crate::uploads::noise;

#[expect(dead_code, reason = "the tests of the storage crate ask it for more")]
#[path = "../../../storage/tests/bytes/s3/reference.rs"]
pub(crate) mod reference;

const PART: usize = 8 << 20;
const SMALLEST_PART: usize = 5 << 20;

/// The program with a bucket as its store.
fn program(bucket: &Reference, verb: &str, data_dir: &Path) -> Command {
    let options = bucket.options();
    let mut command = Command::new(env!("CARGO_BIN_EXE_boxgate"));
    command.arg(verb).arg("--data-dir").arg(data_dir);
    let of_store = [
        ("KIND", "s3"),
        ("ENDPOINT", &options.endpoint),
        ("REGION", &options.region),
        ("BUCKET", &options.bucket),
        ("PREFIX", &options.prefix),
        ("ACCESS_KEY_ID", &options.access_key_id),
        ("SECRET_ACCESS_KEY", &options.secret_access_key),
        ("TRIES", "2"),
    ];
    for (key, value) in of_store {
        command.env(format!("BOXGATE_STORES__MAIN__{key}"), value);
    }
    command.stdin(Stdio::null());
    command
}

/// Runs it to its end; the bucket answers meanwhile.
async fn ended(mut command: Command) -> Output {
    let ended = tokio::task::spawn_blocking(move || command.output().unwrap());
    ended.await.unwrap()
}

/// A gateway in a process of its own.
struct Process {
    child: Child,
    address: SocketAddr,
    key: String,
    admin: String,
}

impl Process {
    async fn start(bucket: &Reference, data_dir: &Path) -> Self {
        Self::run(program(bucket, "quickstart", data_dir)).await
    }

    async fn run(mut command: Command) -> Self {
        command
            .args(["--json", "--organization", "acme"])
            .args(["--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let ready = tokio::task::spawn_blocking(move || {
            let mut child = command.spawn().unwrap();
            let mut line = String::new();
            let stdout = child.stdout.as_mut().unwrap();
            BufReader::new(stdout).read_line(&mut line).unwrap();
            (child, line)
        });
        let (child, line) = ready.await.unwrap();
        let told: serde_json::Value = serde_json::from_str(&line).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        Self {
            child,
            address: text(&told["url"])["http://".len()..].parse().unwrap(),
            key: text(&told["service_account"]["client_secret"]),
            admin: text(&told["admin"]["token"]),
        }
    }

    /// As `kill -9`.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    async fn send(&self, request: Request) -> Reply {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // A refusal may arrive, and the connection close, before all of the body is sent.
        let _refused_early = stream.write_all(&request.to_bytes()).await;
        read_reply(&mut stream).await
    }

    async fn upload(&self, version: &str, bytes: &[u8]) -> Reply {
        let request = Request::new("POST", &file_path("demo", version)).token(&self.key);
        self.send(request.body(bytes)).await
    }

    /// Begins a tus upload; returns its path.
    async fn begin(&self, version: &str, length: usize) -> String {
        let request = tus_by(&self.key, "POST", "/files")
            .header("Upload-Length", &length.to_string())
            .header("Upload-Metadata", &metadata(version))
            .body(b"");
        located(&self.send(request).await)
    }

    fn patch(&self, path: &str, offset: usize, bytes: &[u8]) -> Request {
        tus_by(&self.key, "PATCH", path)
            .header("Content-Type", TUS_BYTES)
            .header("Upload-Offset", &offset.to_string())
            .body(bytes)
    }

    async fn offset(&self, path: &str) -> usize {
        let reply = self.send(tus_by(&self.key, "HEAD", path)).await;
        assert_eq!(reply.status, 200, "{}", reply.head);
        reply.header("upload-offset").unwrap().parse().unwrap()
    }

    /// What is published under that version are these bytes, whole and in ranges.
    async fn holds(&self, version: &str, bytes: &[u8]) {
        let path = format!("{}/download", file_path("demo", version));
        let reply = self.send(Request::new("GET", &path).token(&self.key)).await;
        assert_eq!(reply.status, 200, "{}", reply.head);
        assert!(reply.body == bytes);
        for (from, to) in [
            (0, 0),
            (PART - 3, PART + 3),
            (bytes.len() - 9, bytes.len() - 1),
        ] {
            let request = Request::new("GET", &path).token(&self.key);
            let range = request.header("Range", &format!("bytes={from}-{to}"));
            let reply = self.send(range).await;
            assert_eq!(reply.status, 206, "{}", reply.head);
            assert!(reply.body == bytes[from..=to], "{from}-{to}");
        }
    }

    /// One of three chunks of a part each, or less.
    async fn chunk(&self, version: &str, bytes: &[u8], k: usize) -> Reply {
        let path = format!("{}/upload", file_path("demo", version));
        let chunk = &bytes[k * PART..bytes.len().min((k + 1) * PART)];
        let request = Request::new("POST", &path)
            .token(&self.key)
            .header("x-chunk-index", &k.to_string())
            .header("x-total-chunks", "3");
        self.send(request.body(chunk)).await
    }

    /// A verb of an operator, told to this gateway.
    async fn asked(&self, verb: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_boxgate"));
        command
            .args(verb)
            .args(["--url", &format!("http://{}", self.address)])
            .args(["--token", &self.admin]);
        ended(command).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Of a test that failed.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn is_well(output: &Output) {
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{:?}: {said}", output.status);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_of_every_kind_go_through_the_bucket_and_over_a_kill() {
    let bucket = Reference::start(SMALLEST_PART).await;
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(&bucket, data.path()).await;

    let raw = noise(2 * PART + 12_345, 1);
    assert_eq!(process.upload("1.0", &raw).await.status, 200);
    let form = noise(PART + 12, 2);
    let mut body =
        b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\n".to_vec();
    body.extend_from_slice(&form);
    body.extend_from_slice(b"\r\n--b--\r\n");
    let request = Request::new("POST", &file_path("demo", "2.0"))
        .token(&process.key)
        .header("Content-Type", "multipart/form-data; boundary=b")
        .body(&body);
    assert_eq!(process.send(request).await.status, 200);

    // Acknowledged within a part, then killed with the next part in the bucket and more on its way.
    let tus = noise(3 * PART + 5, 3);
    let path = process.begin("3.0", tus.len()).await;
    let (paused, cut) = (PART + 5, 2 * PART + 100);
    let request = process.patch(&path, 0, &tus[..paused]);
    assert_eq!(process.send(request).await.status, 204);
    let parts = bucket.count("part");
    let request = process.patch(&path, paused, &tus[paused..]).to_bytes();
    let mut stream = TcpStream::connect(process.address).await.unwrap();
    let unsent = tus.len() - cut;
    stream
        .write_all(&request[..request.len() - unsent])
        .await
        .unwrap();
    bucket.came("part", parts + 1).await;
    process.kill();
    drop(stream);

    let process = Process::start(&bucket, data.path()).await;
    let at = process.offset(&path).await;
    assert!([paused, 2 * PART].contains(&at), "{at}");
    let reply = process.send(process.patch(&path, at, &tus[at..])).await;
    assert_eq!(reply.status, 204, "{}", reply.head);

    process.holds("1.0", &raw).await;
    process.holds("2.0", &form).await;
    process.holds("3.0", &tus).await;

    // BoxVault's chunks, the last of them first held as objects of their own.
    let chunks = noise(2 * PART + 777, 5);
    for (k, counted) in [(1, "\"chunksReceived\":1"), (2, "\"chunksReceived\":2")] {
        let reply = process.chunk("5.0", &chunks, k).await;
        assert_eq!(reply.status, 200, "{}", reply.head);
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        assert!(text.contains(counted), "{text}");
    }
    is_well(&process.asked(&["fsck"]).await);
    is_well(&process.asked(&["gc"]).await);
    let reply = process.chunk("5.0", &chunks, 0).await;
    assert_eq!(reply.status, 200, "{}", reply.head);
    process.holds("5.0", &chunks).await;
    let request = Request::new("DELETE", "/api/organization/acme/box/demo/version/5.0");
    let reply = process.send(request.token(&process.key)).await;
    assert_eq!(reply.status, 200, "{}", reply.head);
    is_well(&process.asked(&["fsck"]).await);
    is_well(&process.asked(&["scrub", "--rate", "0"]).await);

    // What is given up leaves nothing, and what is deleted is not found.
    let path = process.begin("4.0", tus.len()).await;
    let request = process.patch(&path, 0, &tus[..paused]);
    assert_eq!(process.send(request).await.status, 204);
    let given_up = process.send(tus_by(&process.key, "DELETE", &path)).await;
    assert_eq!(given_up.status, 204, "{}", given_up.head);
    let version = "/api/organization/acme/box/demo/version/2.0";
    let request = Request::new("DELETE", version).token(&process.key);
    assert_eq!(process.send(request).await.status, 200);
    let gone = format!("{}/download", file_path("demo", "2.0"));
    let request = Request::new("GET", &gone).token(&process.key);
    assert_eq!(process.send(request).await.status, 404);
    is_well(&process.asked(&["gc"]).await);
    process.kill();
    for verb in ["fsck", "gc"] {
        is_well(&ended(program(&bucket, verb, data.path())).await);
    }
    let state = bucket.state();
    assert!(state.uploads.is_empty(), "{:?}", state.uploads.keys());
    // The one that was deleted is due in a day, and what stands beside it.
    assert_eq!(state.objects.len(), 2 * 4, "{:?}", state.objects.keys());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sha256_that_was_deferred_is_computed_of_the_bucket_over_a_kill() {
    let bucket = Reference::start(SMALLEST_PART).await;
    let data = tempfile::tempdir().unwrap();
    let start = |rate: &str| {
        let mut command = program(&bucket, "quickstart", data.path());
        command.env("BOXGATE_DIGESTS__SHA256", "deferred");
        command.env("BOXGATE_DIGESTS__RATE", rate);
        Process::run(command)
    };
    // So slowly that the kill comes first.
    let process = start("1KiB").await;
    let bytes = noise(2 * PART + 99, 6);
    let reply = process.upload("1.0", &bytes).await;
    assert_eq!(reply.status, 200, "{}", reply.head);
    assert_eq!(reply.json()["details"]["sha256"], serde_json::Value::Null);
    process.kill();
    let process = start("0").await;
    let metadata = || Request::new("GET", "/acme/demo").token(&process.key);
    let listed = async {
        loop {
            let document = process.send(metadata()).await.json();
            if let Some(provider) = document["versions"][0]["providers"].get(0) {
                return provider["checksum"].clone();
            }
            tokio::task::yield_now().await;
        }
    };
    let listed = tokio::time::timeout(std::time::Duration::from_mins(1), listed);
    let sha256 = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&bytes));
    assert_eq!(listed.await.unwrap(), sha256);
    process.holds("1.0", &bytes).await;
    is_well(&process.asked(&["fsck"]).await);
    process.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_stays_away_is_a_503_and_loses_nothing() {
    let bucket = Reference::start(SMALLEST_PART).await;
    let data = tempfile::tempdir().unwrap();
    let process = Process::start(&bucket, data.path()).await;
    let bytes = noise(2 * PART, 4);
    let path = process.begin("1.0", bytes.len()).await;
    let request = process.patch(&path, 0, &bytes[..PART]);
    assert_eq!(process.send(request).await.status, 204);
    for nth in 0..2 {
        bucket.fail("part", nth, Fault::Before(503, "SlowDown"));
    }
    let reply = process
        .send(process.patch(&path, PART, &bytes[PART..]))
        .await;
    assert_eq!(reply.status, 503, "{}", reply.head);
    assert!(reply.header("retry-after").is_some(), "{}", reply.head);
    assert_eq!(process.offset(&path).await, PART);
    let reply = process
        .send(process.patch(&path, PART, &bytes[PART..]))
        .await;
    assert_eq!(reply.status, 204, "{}", reply.head);
    for nth in 0..2 {
        bucket.fail("get", nth, Fault::Before(500, "InternalError"));
    }
    let download = format!("{}/download", file_path("demo", "1.0"));
    let request = Request::new("GET", &download).token(&process.key);
    let reply = process.send(request).await;
    assert_eq!(reply.status, 503, "{}", reply.head);
    assert!(reply.header("retry-after").is_some(), "{}", reply.head);
    process.holds("1.0", &bytes).await;
    process.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_is_sent_to_the_bucket_where_that_is_wanted_and_answers_alike() {
    let bucket = Reference::start(SMALLEST_PART).await;
    let data = tempfile::tempdir().unwrap();
    let mut command = program(&bucket, "quickstart", data.path());
    command.env("BOXGATE_STORES__MAIN__REDIRECT_FOR", "1h");
    let process = Process::run(command).await;
    let bytes = noise(100_000, 5);
    assert_eq!(process.upload("1.0", &bytes).await.status, 200);
    let download = format!("{}/download", file_path("demo", "1.0"));
    let get = || Request::new("GET", &download).token(&process.key);
    for request in [get(), get().header("Range", "bytes=10-19")] {
        let reply = process.send(request).await;
        assert_eq!((reply.status, reply.body.len()), (302, 0), "{}", reply.head);
        assert_eq!(reply.header("cache-control"), Some("private, no-store"));
        let url = reply.header("location").unwrap();
        let (place, query) = url.split_once('?').unwrap();
        let object = place.strip_prefix(&bucket.options().endpoint).unwrap();
        assert!(object.starts_with("/bucket/some/where/blobs/"), "{url}");
        assert!(query.contains("X-Amz-Expires=3600"), "{url}");
        assert!(query.contains("X-Amz-Signature="), "{url}");
        assert!(!query.contains("secret"), "{url}");
        let held = bucket
            .state()
            .objects
            .get(&object["/bucket/".len()..])
            .cloned();
        assert_eq!(held.unwrap(), bytes);
    }
    // What the bucket would answer otherwise is answered here.
    let etag = process
        .send(Request::new("HEAD", &download).token(&process.key))
        .await;
    assert_eq!((etag.status, etag.header("location")), (200, None));
    let etag = etag.header("etag").unwrap().to_owned();
    for (name, text, status) in [
        ("If-Match", etag.as_str(), 200),
        ("If-None-Match", etag.as_str(), 304),
        ("Range", "bytes=100000-", 200),
    ] {
        let reply = process.send(get().header(name, text)).await;
        assert_eq!(reply.status, status, "{name}");
        assert!(status != 200 || reply.body == bytes, "{name}");
    }
    // Who may not read it gets no URL.
    let reply = process.send(Request::new("GET", &download)).await;
    assert!([401, 403, 404].contains(&reply.status), "{}", reply.head);
    assert_eq!(reply.header("location"), None);
    process.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plugins_of_both_lanes_get_urls_of_the_bucket_and_no_download_is_sent_there_for_it() {
    let bucket = Reference::start(SMALLEST_PART).await;
    let data = tempfile::tempdir().unwrap();
    let place = data.path().join("plugins");
    std::fs::create_dir_all(&place).unwrap();
    let plugin = r#"
        fn on_upload_complete(blob) { kv::set("url", blob.presigned_url(600), 3600); }
        fn on_download(req, blob) { #{ set: #{ "x-now": blob.presigned_url(60), "x-then": kv::get("url") } } }
    "#;
    std::fs::write(place.join("linker.rhai"), plugin).unwrap();
    let process = Process::start(&bucket, data.path()).await;
    let bytes = noise(100_000, 6);
    assert_eq!(process.upload("1.0", &bytes).await.status, 200);
    let download = format!("{}/download", file_path("demo", "1.0"));
    let request = Request::new("GET", &download).token(&process.key);
    let reply = process.send(request).await;
    assert_eq!((reply.status, &reply.body), (200, &bytes.clone()));
    for (name, life) in [("x-now", 60), ("x-then", 600)] {
        let url = reply.header(name).unwrap();
        let (place, query) = url.split_once('?').unwrap();
        let object = place.strip_prefix(&bucket.options().endpoint).unwrap();
        let held = bucket
            .state()
            .objects
            .get(&object["/bucket/".len()..])
            .cloned();
        assert_eq!(held.unwrap(), bytes, "{name}");
        assert!(query.contains(&format!("X-Amz-Expires={life}&")), "{url}");
        assert!(query.contains("X-Amz-Signature="), "{url}");
    }
    process.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_cannot_be_used_ends_the_start_and_its_setting_is_named() {
    let bucket = Reference::start(SMALLEST_PART).await;
    let data = tempfile::tempdir().unwrap();
    for (status, code, setting) in [
        (404, "NoSuchBucket", "stores.main.bucket"),
        (403, "InvalidAccessKeyId", "stores.main.access_key_id"),
        (
            403,
            "SignatureDoesNotMatch",
            "stores.main.secret_access_key",
        ),
        (400, "AuthorizationHeaderMalformed", "stores.main.region"),
    ] {
        bucket.fail("put", 0, Fault::Before(status, code));
        let output = ended(program(&bucket, "serve", data.path())).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(setting), "{setting}: {said}");
    }
    // Rows that tell of one bucket are not opened with another.
    Process::start(&bucket, data.path()).await.kill();
    let mut other = program(&bucket, "serve", data.path());
    other.env("BOXGATE_STORES__MAIN__PREFIX", "else/where/");
    let output = ended(other).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("bucket/some/where/"), "{said}");
}
