//! A stop: whoever can go on elsewhere is told where to at the end of a part, and whoever cannot has time to end.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boxgate_storage::blob::UploadId;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Reply, Request, Running, file_path, read_reply};
use crate::resumable::{located, metadata, offset, patch, tus};
use crate::uploads::noise;

const MIB: usize = 1 << 20;
/// Of an upload of this size.
const PART: usize = 8 * MIB;
const BYTES: usize = 20 * MIB + 5;

/// A request that comes in pieces.
struct Slow {
    stream: TcpStream,
    head: usize,
    wire: Vec<u8>,
    sent: usize,
}

impl Slow {
    async fn begin(running: &Running, request: &Request, body: usize) -> Self {
        let wire = request.to_bytes();
        Self {
            stream: TcpStream::connect(running.address).await.unwrap(),
            head: wire.len() - body,
            wire,
            sent: 0,
        }
    }

    /// Sends its head and the body up to there.
    async fn send_to(&mut self, body: usize) {
        let to = self.head + body;
        let sent = self.stream.write_all(&self.wire[self.sent..to]);
        sent.await.unwrap();
        self.sent = to;
    }

    async fn send_all(&mut self) {
        self.send_to(self.wire.len() - self.head).await;
    }

    async fn answer(mut self) -> Reply {
        read_reply(&mut self.stream).await
    }
}

async fn until(what: impl AsyncFn() -> bool) {
    while !what().await {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// Has the gateway stop; returns once connections that wait for nothing were closed.
async fn stop_begins(running: &Running) {
    let mut idle = TcpStream::connect(running.address).await.unwrap();
    let asked = Request::new("GET", "/livez").to_bytes();
    idle.write_all(&asked).await.unwrap();
    let mut first = [0];
    idle.read_exact(&mut first).await.unwrap();
    running.signal();
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();
}

async fn begun(running: &Running, version: &str) -> String {
    let request = tus(running, "POST", "/files")
        .header("Upload-Length", &BYTES.to_string())
        .header("Upload-Metadata", &metadata(version));
    located(&running.send(request).await)
}

async fn committed(running: &Running, upload: &str) -> usize {
    let status = running.get(upload, &running.owner).await.json();
    usize::try_from(status["offset"].as_u64().unwrap()).unwrap()
}

#[tokio::test]
async fn an_upload_that_can_go_on_elsewhere_stops_at_the_end_of_its_part() {
    let running = Running::start().await;
    let bytes = noise(BYTES, 1);
    let upload = begun(&running, "1.0.0").await;
    let all = patch(&running, &upload, 0, &bytes);
    let mut slow = Slow::begin(&running, &all, BYTES).await;
    slow.send_to(PART + MIB).await;
    until(async || committed(&running, &upload).await >= PART).await;
    stop_begins(&running).await;
    slow.send_to(2 * PART + 1000).await;
    let told = slow.answer().await;
    assert_eq!(told.status, 503, "{}", told.head);
    let text = String::from_utf8_lossy(&told.body).into_owned();
    assert!(text.to_uppercase().contains("DRAINING"), "{text}");
    let rests_at = (2 * PART).to_string();
    assert_eq!(told.header("upload-offset"), Some(rests_at.as_str()));
    assert!(told.header("retry-after").is_some(), "{}", told.head);
    assert_eq!(told.header("connection"), Some("close"), "{}", told.head);
    let running = Running::start_in(running.stopped().await, &[]).await;
    assert_eq!(offset(&running, &upload).await, 2 * PART);
    let rest = patch(&running, &upload, 2 * PART, &bytes[2 * PART..]);
    assert_eq!(running.send(rest).await.status, 204);
    let path = format!("{}/download", file_path("demo", "1.0.0"));
    let got = running.get(&path, &running.owner).await;
    assert!(got.status == 200 && got.body == bytes);
    running.stop().await;
}

#[tokio::test]
async fn what_would_be_lost_by_that_comes_to_its_end() {
    let running = Running::start().await;
    let bytes = noise(BYTES, 2);
    // Nothing of what is to be compared counts before all of it came.
    let upload = begun(&running, "1.0.0").await;
    let digest = STANDARD.encode(Sha256::digest(&bytes));
    let compared =
        patch(&running, &upload, 0, &bytes).header("Upload-Checksum", &format!("sha256 {digest}"));
    // Nobody told the sender of a file by its name how to go on.
    let path = format!("{}/upload", file_path("demo", "2.0.0"));
    let by_name = Request::new("POST", &path).token(&running.owner);
    let mut compared = Slow::begin(&running, &compared, BYTES).await;
    let mut by_name = Slow::begin(&running, &by_name.body(&bytes), BYTES).await;
    let stored = running.stored_files().len();
    for slow in [&mut compared, &mut by_name] {
        slow.send_to(PART + MIB).await;
    }
    let id: UploadId = upload.rsplit('/').next().unwrap().parse().unwrap();
    until(async || running.gateway.engine.is_busy(id) && running.stored_files().len() > stored)
        .await;
    stop_begins(&running).await;
    for (mut slow, status) in [(compared, 204), (by_name, 200)] {
        slow.send_all().await;
        let answer = slow.answer().await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, status, "{} {text}", answer.head);
    }
    running.stopped().await;
}
