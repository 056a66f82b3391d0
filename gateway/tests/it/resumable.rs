//! Uploads over several requests, byte for byte: tus, the IETF's protocol, and the rest of a cut upload.

mod checksums;
mod ietf;
mod life;
mod raw;
mod tus_uploads;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::harness::{Reply, Request, Running};

pub(crate) const TUS_BYTES: &str = "application/offset+octet-stream";
const PARTIAL: &str = "application/partial-upload";

/// A request that speaks tus, by the organization's owner.
pub(crate) fn tus(running: &Running, method: &str, path: &str) -> Request {
    tus_by(&running.owner, method, path)
}

pub(crate) fn tus_by(token: &str, method: &str, path: &str) -> Request {
    Request::new(method, path)
        .token(token)
        .header("Tus-Resumable", "1.0.0")
}

pub(crate) fn patch(running: &Running, path: &str, offset: usize, body: &[u8]) -> Request {
    tus(running, "PATCH", path)
        .header("Content-Type", TUS_BYTES)
        .header("Upload-Offset", &offset.to_string())
        .body(body)
}

/// An append by the IETF's protocol.
pub(crate) fn append(
    running: &Running,
    path: &str,
    offset: usize,
    complete: bool,
    body: &[u8],
) -> Request {
    Request::new("PATCH", path)
        .token(&running.owner)
        .header("Content-Type", PARTIAL)
        .header("Upload-Offset", &offset.to_string())
        .header("Upload-Complete", if complete { "?1" } else { "?0" })
        .body(body)
}

pub(crate) fn metadata(version: &str) -> String {
    let target = format!("acme/demo/{version}/virtualbox/amd64");
    format!(
        "filename {},target {}",
        STANDARD.encode("x.box"),
        STANDARD.encode(target)
    )
}

pub(crate) fn query(version: &str) -> String {
    format!("/files?target=acme/demo/{version}/virtualbox/amd64")
}

/// Begins a tus upload of the box demo; returns its path.
async fn begin(running: &Running, version: &str, length: usize) -> String {
    let request = tus(running, "POST", "/files")
        .header("Upload-Length", &length.to_string())
        .header("Upload-Metadata", &metadata(version));
    located(&running.send(request).await)
}

pub(crate) fn located(reply: &Reply) -> String {
    assert_eq!(reply.status, 201, "{} {}", reply.head, text(reply));
    let location = reply.header("location").unwrap().to_owned();
    assert!(location.starts_with("/files/"), "{location}");
    location
}

pub(crate) async fn head(running: &Running, path: &str) -> Reply {
    running.send(tus(running, "HEAD", path)).await
}

pub(crate) async fn offset(running: &Running, path: &str) -> usize {
    let reply = head(running, path).await;
    assert_eq!(reply.status, 200, "{}", reply.head);
    reply.header("upload-offset").unwrap().parse().unwrap()
}

pub(crate) fn text(reply: &Reply) -> String {
    String::from_utf8_lossy(&reply.body).into_owned()
}

/// Sends the head of a request and the first bytes of its body, and leaves the connection open.
pub(crate) async fn half(
    running: &Running,
    request: Request,
    length: usize,
    bytes: &[u8],
) -> TcpStream {
    let request = request.header("Content-Length", &length.to_string());
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.write_all(&request.to_bytes()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// Waits until an upload has committed bytes up to `offset`, disturbing nobody.
pub(crate) async fn committed(running: &Running, path: &str, offset: u64) {
    loop {
        let status = running.get(path, &running.owner).await.json();
        if status["offset"].as_u64() >= Some(offset) {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Waits until no request writes any more.
pub(crate) async fn at_rest(running: &Running) {
    while running.gateway.engine.in_progress() > 0 {
        tokio::task::yield_now().await;
    }
}
