//! Boxes that the kernel sends: what leaves is what was hashed, on connections that are used in every way.

use std::io::{Seek as _, Write as _};
use std::path::{Path, PathBuf};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Request, Running, parse_reply, read_reply};
use crate::uploads::with_box;

const PATH: &str = "/acme/boxes/demo/versions/1.0/providers/virtualbox/amd64/vagrant.box";
const MIB: usize = 1 << 20;

fn stored(running: &Running) -> PathBuf {
    running.stored_files().pop().unwrap()
}

fn request(running: &Running, method: &str, range: &str) -> Request {
    let request = Request::new(method, PATH).token(&running.owner);
    if range.is_empty() {
        request
    } else {
        request.header("Range", range)
    }
}

/// The head of a request that leaves its connection open.
fn kept(request: &Request) -> Vec<u8> {
    let text = String::from_utf8(request.to_bytes()).unwrap();
    text.replace("Connection: close\r\n", "").into_bytes()
}

/// Reads answers off a connection that stays open.
struct Reader {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Reader {
    async fn connect(running: &Running) -> Self {
        Self {
            stream: TcpStream::connect(running.address).await.unwrap(),
            read: Vec::new(),
        }
    }

    async fn send(&mut self, request: &Request) {
        self.stream.write_all(&kept(request)).await.unwrap();
    }

    async fn until(&mut self, length: usize) {
        while self.read.len() < length {
            let count = self.stream.read_buf(&mut self.read).await.unwrap();
            assert!(count > 0, "closed after {} bytes", self.read.len());
        }
    }

    /// One answer: its status and its body.
    async fn answer(&mut self, has_body: bool) -> (u16, Vec<u8>) {
        let end = loop {
            let found = self.read.windows(4).position(|w| w == b"\r\n\r\n");
            match found {
                Some(at) => break at + 4,
                None => self.until(self.read.len() + 1).await,
            }
        };
        let head: Vec<u8> = self.read.drain(..end).collect();
        let reply = parse_reply(&head);
        let length: usize = reply.header("content-length").unwrap().parse().unwrap();
        let length = if has_body { length } else { 0 };
        self.until(length).await;
        (reply.status, self.read.drain(..length).collect())
    }
}

/// The value of a metric without labels.
async fn metric(running: &Running, name: &str) -> u64 {
    let text = running.gateway.metrics_text().await;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no {name} in {text}"))
        .trim()
        .parse()
        .unwrap()
}

/// Waits until no connection is open, and so every answer's end is told.
async fn quiet(running: &Running) {
    while running.gateway.telemetry.metrics.connections.get() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn odd_ranges_and_heads_on_one_connection_are_exact() {
    let (running, bytes) = with_box(5 * MIB + 4321, &[]).await;
    let mut random = fastrand::Rng::with_seed(20_261_128);
    let mut reader = Reader::connect(&running).await;
    let before = running.gateway.telemetry.metrics.http_bytes_out.get();
    let mut sent = 0;
    for turn in 0..400 {
        let from = random.usize(..bytes.len());
        let longest = [1, 20_000, 70_000, 3 * MIB][turn % 4];
        let to = (from + 1 + random.usize(..longest)).min(bytes.len());
        let range = format!("bytes={from}-{}", to - 1);
        let is_head = turn % 7 == 0;
        let method = if is_head { "HEAD" } else { "GET" };
        reader.send(&request(&running, method, &range)).await;
        let (status, body) = reader.answer(!is_head).await;
        let want = if is_head { &[][..] } else { &bytes[from..to] };
        assert_eq!(status, if is_head { 200 } else { 206 }, "{range}");
        assert!(body == want, "{method} {range}");
        sent += want.len() as u64;
    }
    drop(reader);
    quiet(&running).await;
    let counted = running.gateway.telemetry.metrics.http_bytes_out.get();
    assert_eq!(counted - before, sent);
    assert!(metric(&running, "boxgate_file_sent_bytes_total").await > sent / 2);
    assert_eq!(
        metric(&running, "boxgate_file_blocks_proved_total").await,
        6
    );
    running.stop().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (running, bytes) = with_box(3 * MIB, &[]).await;
    let mut reader = Reader::connect(&running).await;
    let starts: Vec<usize> = (0..120).map(|i| i * 20_011 % (2 * MIB)).collect();
    for from in &starts {
        let range = format!("bytes={from}-{}", from + 50_000);
        reader.send(&request(&running, "GET", &range)).await;
    }
    for from in starts {
        let (status, body) = reader.answer(true).await;
        assert_eq!(status, 206);
        assert!(body == bytes[from..=from + 50_000], "from {from}");
    }
    running.stop().await;
}

#[tokio::test]
async fn http_1_0_gets_the_same_bytes() {
    let (running, bytes) = with_box(3 * MIB + 1, &[]).await;
    let text = String::from_utf8(request(&running, "GET", "").to_bytes()).unwrap();
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let old = text.replace("HTTP/1.1", "HTTP/1.0");
    stream.write_all(old.as_bytes()).await.unwrap();
    let reply = read_reply(&mut stream).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("cache-status"), Some("boxgate; fwd=bypass"));
    assert!(reply.body == bytes);
    running.stop().await;
}

#[tokio::test]
async fn clients_that_leave_keep_no_file_open() {
    let (running, bytes) = with_box(40 * MIB, &[]).await;
    for client in 0..200 {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        let head = request(&running, "GET", &format!("bytes={client}-")).to_bytes();
        stream.write_all(&head).await.unwrap();
        let mut first = vec![0; 1 + client * 1000];
        stream.read_exact(&mut first).await.unwrap();
    }
    quiet(&running).await;
    assert_eq!(open_files(&stored(&running)), 1, "the one that is kept");
    // The kernel's buffers took some of what nobody read; never more than is counted.
    let counted = running.gateway.telemetry.metrics.http_bytes_out.get();
    assert!(counted < 200 * bytes.len() as u64 / 2, "{counted}");
    let delete = Request::new("DELETE", "/api/organization/acme/box/demo").token(&running.owner);
    assert_eq!(running.send(delete).await.status, 200);
    running.stop().await;
}

/// Descriptors of this process that lead to a file.
fn open_files(path: &Path) -> usize {
    let links = std::fs::read_dir("/proc/self/fd").unwrap();
    let links = links.filter_map(|link| std::fs::read_link(link.ok()?.path()).ok());
    links.filter(|link| link == path).count()
}

#[tokio::test]
async fn slow_readers_get_every_byte_and_keep_nobody_waiting() {
    let (running, bytes) = with_box(12 * MIB, &[]).await;
    let mut slow = Vec::new();
    for client in 0..64 {
        let mut stream = TcpStream::connect(running.address).await.unwrap();
        let range = format!("bytes={}-", client * 100_001);
        let head = request(&running, "GET", &range).to_bytes();
        stream.write_all(&head).await.unwrap();
        stream.readable().await.unwrap();
        slow.push((stream, client * 100_001));
    }
    let whole = running.send(request(&running, "GET", "")).await;
    assert!(
        whole.body == bytes,
        "an honest client gets the box meanwhile"
    );
    for (mut stream, from) in slow {
        let reply = read_reply(&mut stream).await;
        assert!(reply.body == bytes[from..], "from {from}");
    }
    running.stop().await;
}

/// An answer that has begun and that nobody reads.
async fn begun(running: &Running) -> TcpStream {
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let head = request(running, "GET", "").to_bytes();
    stream.write_all(&head).await.unwrap();
    stream.readable().await.unwrap();
    stream
}

#[tokio::test]
async fn a_file_that_is_cut_under_way_breaks_the_answer() {
    let (running, bytes) = with_box(64 * MIB, &[]).await;
    let mut stream = begun(&running).await;
    let file = std::fs::File::options()
        .write(true)
        .open(stored(&running))
        .unwrap();
    file.set_len(40 * MIB as u64).unwrap();
    let reply = read_reply(&mut stream).await;
    assert!(!reply.is_whole(), "{} bytes", reply.body.len());
    assert!(bytes.starts_with(&reply.body), "no byte is wrong");
    let again = running.send(request(&running, "GET", "")).await;
    assert_eq!(again.status, 503, "{}", again.head);
    running.stop().await;
}

#[tokio::test]
async fn a_file_that_is_changed_under_way_breaks_the_answer() {
    let (running, bytes) = with_box(64 * MIB, &[]).await;
    let mut stream = begun(&running).await;
    flip(&stored(&running), 60 * MIB as u64, &bytes);
    let reply = read_reply(&mut stream).await;
    assert!(!reply.is_whole(), "{} bytes", reply.body.len());
    assert!(bytes.starts_with(&reply.body), "no byte is wrong");
    let metrics = running.gateway.metrics_text().await;
    let told = "boxgate_downloads_broken_total{reason=\"store\"} 1";
    assert!(metrics.contains(told), "{metrics}");
    // What was changed is found when it is read again, and the rest of the box is out of service with it.
    let again = running
        .send(request(&running, "GET", "bytes=62914560-"))
        .await;
    assert_eq!(again.status, 503, "{}", again.head);
    running.stop().await;
}

fn flip(path: &Path, at: u64, bytes: &[u8]) {
    let mut file = std::fs::File::options().write(true).open(path).unwrap();
    file.seek(std::io::SeekFrom::Start(at)).unwrap();
    let byte = bytes[usize::try_from(at).unwrap()];
    file.write_all(&[byte ^ 0x10]).unwrap();
}

#[tokio::test]
async fn a_file_that_was_proved_and_changed_is_proved_again() {
    let (running, bytes) = with_box(4 * MIB, &[]).await;
    let whole = running.send(request(&running, "GET", "")).await;
    assert!(whole.body == bytes);
    let again = running.send(request(&running, "GET", "")).await;
    assert!(again.body == bytes);
    assert_eq!(
        metric(&running, "boxgate_file_blocks_proved_total").await,
        4
    );
    let file = std::fs::File::options()
        .write(true)
        .open(stored(&running))
        .unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    let touched = running.send(request(&running, "GET", "")).await;
    assert!(touched.body == bytes);
    assert_eq!(
        metric(&running, "boxgate_file_blocks_proved_total").await,
        8
    );
    flip(&stored(&running), 3 * MIB as u64 + 5, &bytes);
    let good = running
        .send(request(&running, "GET", "bytes=0-99999"))
        .await;
    assert!(good.body == bytes[..100_000], "the damage is elsewhere");
    let broken = running.send(request(&running, "GET", "")).await;
    assert!(broken.body.len() < bytes.len() && bytes.starts_with(&broken.body));
    running.stop().await;
}

#[tokio::test]
async fn verification_of_each_byte_turns_it_off() {
    let always = [("BOXGATE_VERIFY__LOCAL", "always")];
    let (running, bytes) = with_box(3 * MIB, &always).await;
    let whole = running.send(request(&running, "GET", "")).await;
    assert!(whole.body == bytes);
    assert_eq!(whole.header("cache-status"), Some("boxgate; fwd=miss"));
    assert_eq!(metric(&running, "boxgate_file_sent_bytes_total").await, 0);
    running.stop().await;
}

#[tokio::test]
async fn who_finds_no_place_for_an_open_file_is_served_all_the_same() {
    let one = [("BOXGATE_VERIFY__OPEN_FILES", "1")];
    let (running, bytes) = with_box(40 * MIB, &one).await;
    assert_eq!(
        running.upload("other", "1.0", &bytes[..MIB]).await.status,
        200
    );
    let _holds_the_place = begun(&running).await;
    let other = PATH.replace("demo", "other");
    let reply = running.get(&other, &running.owner).await;
    assert!(reply.body == bytes[..MIB]);
    assert_eq!(reply.header("cache-status"), Some("boxgate; fwd=miss"));
    running.stop().await;
}
