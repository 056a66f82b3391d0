//! As much of an HTTP/1.1 client as a scenario needs, on a plain socket: a library between the
//! generator and the wire would be measured along with the gateway.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::content::{Checker, Content};
use crate::error::{Failure, Result};

/// The longest head or JSON answer that is read.
const ANSWER_BYTES: u64 = 1 << 20;
/// What one read of a download takes at most.
const READ_BYTES: usize = 256 << 10;

/// What to ask for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask<'a> {
    /// `POST`, `GET`.
    pub(crate) method: &'a str,
    /// Path and query.
    pub(crate) path: &'a str,
    /// A bearer token.
    pub(crate) token: Option<&'a str>,
}

/// What frames an upload's bytes within its request body.
#[derive(Debug, Clone, Default)]
pub(crate) struct Envelope {
    /// The media type.
    pub(crate) content_type: String,
    /// Before the bytes.
    pub(crate) before: Vec<u8>,
    /// Behind them.
    pub(crate) behind: Vec<u8>,
}

/// An answer with its body.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: u16,
    /// All of the body.
    pub(crate) body: Vec<u8>,
}

/// An answer's head, and what was read behind it.
struct Head {
    status: u16,
    length: Option<u64>,
    chunked: bool,
    begun: Vec<u8>,
}

/// Asks without a body.
pub(crate) async fn get(to: SocketAddr, ask: Ask<'_>) -> Result<Answer> {
    let mut stream = TcpStream::connect(to).await?;
    stream
        .write_all(head_text(to, ask, None).as_bytes())
        .await?;
    answer(&mut stream).await
}

/// Sends an upload. A gateway that answers before it has all is heard.
pub(crate) async fn upload(
    to: SocketAddr,
    ask: Ask<'_>,
    content: &Content,
    envelope: &Envelope,
) -> Result<Answer> {
    let mut stream = TcpStream::connect(to).await?;
    let length = envelope.before.len() as u64 + content.length() + envelope.behind.len() as u64;
    let head = head_text(to, ask, Some((&envelope.content_type, length)));
    let sent = async {
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&envelope.before).await?;
        content.send(&mut stream).await?;
        stream.write_all(&envelope.behind).await
    };
    let sent = sent.await;
    // After a refusal the write fails; the answer tells more than the failure does.
    match (answer(&mut stream).await, sent) {
        (Ok(answer), _) => Ok(answer),
        (Err(_), Err(e)) => Err(e.into()),
        (Err(e), Ok(())) => Err(e),
    }
}

/// Downloads, and compares what comes. Returns the status.
pub(crate) async fn download(
    to: SocketAddr,
    ask: Ask<'_>,
    checker: &mut Checker<'_>,
    mut digest: Option<&mut blake3::Hasher>,
) -> Result<u16> {
    let mut stream = TcpStream::connect(to).await?;
    stream
        .write_all(head_text(to, ask, None).as_bytes())
        .await?;
    let head = head(&mut stream).await?;
    let mut left = head
        .length
        .ok_or_else(|| Failure::said("a download came without Content-Length"))?;
    let mut buffer = head.begun;
    loop {
        left = left.saturating_sub(buffer.len() as u64);
        if head.status == 200 {
            checker.take(&buffer);
            if let Some(digest) = &mut digest {
                digest.update(&buffer);
            }
        }
        if left == 0 {
            return Ok(head.status);
        }
        buffer.clear();
        buffer.reserve(READ_BYTES);
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}

fn head_text(to: SocketAddr, ask: Ask<'_>, body: Option<(&str, u64)>) -> String {
    let Ask {
        method,
        path,
        token,
    } = ask;
    let token = token.map(|token| format!("authorization: Bearer {token}\r\n"));
    let body =
        body.map(|(kind, length)| format!("content-type: {kind}\r\ncontent-length: {length}\r\n"));
    format!(
        "{method} {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\naccept: */*\r\n{}{}\r\n",
        token.unwrap_or_default(),
        body.unwrap_or_default(),
    )
}

async fn head(stream: &mut TcpStream) -> Result<Head> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
        if bytes.len() as u64 > ANSWER_BYTES {
            return Err(Failure::said("the head of an answer has no end"));
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    };
    let begun = bytes.split_off(end + 4);
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| Failure::said("an answer has no status"))?;
    let mut head = Head {
        status,
        length: None,
        chunked: false,
        begun,
    };
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            head.length = value.trim().parse().ok();
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            head.chunked = value.trim().eq_ignore_ascii_case("chunked");
        }
    }
    Ok(head)
}

async fn answer(stream: &mut TcpStream) -> Result<Answer> {
    let head = head(stream).await?;
    if head.status == 100 {
        return Err(Failure::said("an interim answer that nobody asked for"));
    }
    let mut body = head.begun;
    let wanted = head.length.unwrap_or(ANSWER_BYTES).min(ANSWER_BYTES);
    stream
        .take(wanted.saturating_sub(body.len() as u64))
        .read_to_end(&mut body)
        .await?;
    if head.chunked {
        body = unchunk(&body).ok_or_else(|| Failure::said("an answer is framed wrongly"))?;
    }
    Ok(Answer {
        status: head.status,
        body,
    })
}

/// The content of a chunked body (RFC 9112 §7.1).
fn unchunk(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    loop {
        let end = body.windows(2).position(|w| w == b"\r\n")?;
        let line = std::str::from_utf8(&body[..end]).ok()?;
        let size = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
        body = &body[end + 2..];
        if size == 0 {
            return Some(content);
        }
        content.extend_from_slice(body.get(..size)?);
        body = body.get(size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined_and_broken_framing_is_noticed() {
        assert_eq!(
            unchunk(b"3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n").unwrap(),
            b"abc0123456789"
        );
        for wrong in [&b""[..], b"3\r\nab", b"x\r\n", b"3\r\nabc\r\n"] {
            assert_eq!(unchunk(wrong), None);
        }
    }
}
