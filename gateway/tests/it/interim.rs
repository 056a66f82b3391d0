//! 104 (Upload Resumption Supported): what comes before the answer, to whom, and that it mixes with nothing.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Request, Running, file_path};
use crate::uploads::{downloaded, noise};

const MIB: usize = 1 << 20;

/// One message as it stands on the wire: status, and its head in lower case.
#[derive(Debug, Clone)]
struct Message {
    status: u16,
    head: String,
}

impl Message {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1);
        lines.find_map(|line| line.split_once(": ").filter(|(n, _)| *n == name)?.1.into())
    }
}

/// A connection that is read message by message.
struct Wire {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Wire {
    async fn connect(running: &Running) -> Self {
        Self {
            stream: TcpStream::connect(running.address).await.unwrap(),
            read: Vec::new(),
        }
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next message; the body of a final one is read over.
    async fn next(&mut self) -> Message {
        loop {
            if let Some(end) = self.read.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = String::from_utf8(self.read.drain(..end + 4).collect()).unwrap();
                assert!(head.starts_with("HTTP/1.1 "), "{head:?}");
                let status = head[9..12].parse().unwrap();
                let head = head.to_ascii_lowercase();
                let message = Message { status, head };
                let body = message.header("content-length").unwrap_or("0");
                let body: usize = body.parse().unwrap();
                while self.read.len() < body {
                    self.fill().await;
                }
                self.read.drain(..body);
                return message;
            }
            self.fill().await;
        }
    }

    async fn fill(&mut self) {
        let mut buffer = [0; 4096];
        let read = self.stream.read(&mut buffer).await.unwrap();
        assert!(
            read > 0,
            "closed after {:?}",
            String::from_utf8_lossy(&self.read)
        );
        self.read.extend_from_slice(&buffer[..read]);
    }
}

/// The head of an upload that begins with `length` bytes.
fn creation(running: &Running, version: &str, length: usize, more: &str) -> String {
    format!(
        "POST /files?target=acme/demo/{version}/virtualbox/amd64 HTTP/1.1\r\nHost: gateway\r\n\
         Authorization: Bearer {}\r\nUpload-Complete: ?1\r\nContent-Length: {length}\r\n{more}\r\n",
        running.owner
    )
}

const VERSION: &str = "Upload-Draft-Interop-Version: 9\r\n";

#[tokio::test]
async fn the_place_of_an_upload_is_told_before_a_byte_of_it_is_sent() {
    let running = Running::start().await;
    let bytes = noise(20 * MIB + 7, 1);
    for (version, expect) in [("1.0", ""), ("1.1", "Expect: 100-continue\r\n")] {
        let mut wire = Wire::connect(&running).await;
        let head = creation(
            &running,
            version,
            bytes.len(),
            &format!("{VERSION}{expect}"),
        );
        wire.write(head.as_bytes()).await;
        let mut statuses = Vec::new();
        let place = loop {
            let message = wire.next().await;
            statuses.push(message.status);
            if message.status == 104 {
                break message;
            }
        };
        assert!(
            place
                .head
                .starts_with("http/1.1 104 upload resumption supported\r\n")
        );
        assert_eq!(place.header("upload-draft-interop-version"), Some("9"));
        assert!(place.header("upload-limit").unwrap().contains("max-size="));
        assert_eq!(place.header("upload-offset"), None);
        let location = place.header("location").unwrap().to_owned();
        if !expect.is_empty() && !statuses.contains(&100) {
            assert_eq!(wire.next().await.status, 100, "hyper's own is still owed");
        }
        // Two parts and more are on their way, and the rest is held back until one is told.
        wire.write(&bytes[..20 * MIB]).await;
        let mut offsets = Vec::new();
        let told = wire.next().await;
        assert_eq!((told.status, told.header("location")), (104, None));
        offsets.push(
            told.header("upload-offset")
                .unwrap()
                .parse::<u64>()
                .unwrap(),
        );
        wire.write(&bytes[20 * MIB..]).await;
        let answer = loop {
            let message = wire.next().await;
            if message.status != 104 {
                break message;
            }
            offsets.push(message.header("upload-offset").unwrap().parse().unwrap());
        };
        assert_eq!(answer.status, 201, "{}", answer.head);
        assert_eq!(answer.header("location"), Some(&*location));
        assert!(offsets.is_sorted() && offsets.iter().all(|o| *o <= bytes.len() as u64));
        assert!(downloaded(&running, "demo", version).await == bytes);
    }
    running.stop().await;
}

#[tokio::test]
async fn an_offset_that_was_told_survives_the_cut_that_follows() {
    let running = Running::start().await;
    let bytes = noise(30 * MIB, 2);
    let mut wire = Wire::connect(&running).await;
    wire.write(creation(&running, "1.0", bytes.len(), VERSION).as_bytes())
        .await;
    let location = wire.next().await.header("location").unwrap().to_owned();
    wire.write(&bytes[..20 * MIB]).await;
    let told = wire.next().await;
    assert_eq!(told.status, 104);
    let told: usize = told.header("upload-offset").unwrap().parse().unwrap();
    assert!(told >= 8 * MIB);
    drop(wire);
    let head = Request::new("HEAD", &location).token(&running.owner);
    let offset = running.send(head).await;
    let offset: usize = offset.header("upload-offset").unwrap().parse().unwrap();
    assert!((told..=20 * MIB).contains(&offset), "{offset} after {told}");

    // The rest, with what is committed of it told on the way.
    let mut wire = Wire::connect(&running).await;
    let head = format!(
        "PATCH {location} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/partial-upload\r\nUpload-Offset: {offset}\r\n\
         Upload-Complete: ?1\r\nContent-Length: {}\r\n{VERSION}\r\n",
        running.owner,
        bytes.len() - offset
    );
    wire.write(head.as_bytes()).await;
    wire.write(&bytes[offset..]).await;
    loop {
        let message = wire.next().await;
        if message.status != 104 {
            assert_eq!(message.status, 200, "{}", message.head);
            break;
        }
        assert_eq!(message.header("location"), None);
    }
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.stop().await;
}

#[tokio::test]
async fn nobody_else_sees_an_interim_answer_and_none_comes_behind_an_answer() {
    let running = Running::start().await;
    let bytes = noise(9 * MIB, 3);
    for (what, more) in [
        ("no version", ""),
        ("another version", "Upload-Draft-Interop-Version: 8\r\n"),
        (
            "a version that is no number",
            "Upload-Draft-Interop-Version: nine\r\n",
        ),
    ] {
        let mut wire = Wire::connect(&running).await;
        let version = format!("1.{}", what.len());
        wire.write(creation(&running, &version, bytes.len(), more).as_bytes())
            .await;
        wire.write(&bytes).await;
        assert_eq!(wire.next().await.status, 201, "{what}");
    }
    // tus, and the rest of a file by Content-Range.
    let both = format!("{VERSION}Tus-Resumable: 1.0.0\r\nUpload-Length: 5\r\n");
    let tus = creation(
        &running,
        "1.1",
        5,
        &format!("{both}Content-Type: application/offset+octet-stream\r\n"),
    );
    let range = format!("{VERSION}Content-Range: bytes 0-4/10\r\n");
    let range = creation(&running, "1.2", 5, &range)
        .replace("Upload-Complete: ?1\r\n", "")
        .replace(
            "/files?target=acme/demo/1.2/virtualbox/amd64",
            &file_path("demo", "1.2"),
        );
    for (head, status) in [(tus, 201), (range, 200)] {
        let mut wire = Wire::connect(&running).await;
        wire.write(head.as_bytes()).await;
        wire.write(b"12345").await;
        assert_eq!(wire.next().await.status, status, "{head}");
    }
    // HTTP/1.0 knows no interim answers (RFC 9110 §15.2).
    let mut wire = Wire::connect(&running).await;
    let head = creation(&running, "2.0", 5, VERSION).replace("HTTP/1.1", "HTTP/1.0");
    wire.write(head.as_bytes()).await;
    wire.write(b"12345").await;
    let mut answer = Vec::new();
    wire.stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.0 201 "), "{answer:?}");
    // A refused creation has no place to tell.
    let mut wire = Wire::connect(&running).await;
    let head = creation(&running, "3.0", 0, VERSION);
    wire.write(head.as_bytes()).await;
    assert_eq!(wire.next().await.status, 400);

    // Requests one after the other on one connection: each has its own.
    let mut wire = Wire::connect(&running).await;
    for version in ["4.0", "4.1"] {
        wire.write(creation(&running, version, 5, VERSION).as_bytes())
            .await;
        wire.write(b"12345").await;
        let statuses = [wire.next().await.status, wire.next().await.status];
        assert_eq!(statuses, [104, 201]);
        wire.write(b"GET /livez HTTP/1.1\r\nHost: gateway\r\n\r\n")
            .await;
        assert_eq!(wire.next().await.status, 200);
    }
    running.stop().await;
}

#[tokio::test]
async fn a_client_that_never_reads_its_interim_answers_still_uploads() {
    let running = Running::start().await;
    let bytes = noise(40 * MIB, 4);
    let mut wire = Wire::connect(&running).await;
    let path = format!("{}/upload", file_path("demo", "1.0"));
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {}\r\n\
         Upload-Complete: ?1\r\nContent-Length: {}\r\n{VERSION}\r\n",
        running.owner,
        bytes.len()
    );
    wire.write(head.as_bytes()).await;
    wire.write(&bytes).await;
    let mut message = wire.next().await;
    assert!(message.header("location").unwrap().starts_with("/files/"));
    while message.status == 104 {
        message = wire.next().await;
    }
    assert_eq!(message.status, 200, "{}", message.head);
    assert!(downloaded(&running, "demo", "1.0").await == bytes);
    running.stop().await;
}
