//! As much of an HTTP/1.1 client as a scenario needs, on a plain socket: a library between the
//! generator and the wire would be measured along with the gateway.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

use crate::content::{Checker, Content};
use crate::error::{Failure, Result};
use crate::server::{Server, Wire};

/// The longest head, JSON answer or range that is read.
const ANSWER_BYTES: u64 = 8 << 20;
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

/// A request's further headers and its body, for clients that go on where they were cut.
#[derive(Debug, Clone)]
pub(crate) struct Piece<'a> {
    /// Names and values.
    pub(crate) headers: &'a [(&'a str, String)],
    /// Whose bytes.
    pub(crate) content: &'a Content,
    /// The first one.
    pub(crate) from: u64,
    /// The one behind the last.
    pub(crate) to: u64,
    /// Where this client hangs up before the end.
    pub(crate) cut: Option<Cut>,
}

/// How a client hangs up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Before which byte of the content.
    pub(crate) at: u64,
    /// By a reset; otherwise by an orderly close.
    pub(crate) reset: bool,
}

/// An answer with its body.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: u16,
    /// Its headers.
    pub(crate) headers: Headers,
    /// All of the body.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// Status and the begin of the body, for messages.
    pub(crate) fn in_short(&self) -> String {
        let text: String = String::from_utf8_lossy(&self.body)
            .chars()
            .take(300)
            .collect();
        format!("{} {text}", self.status)
    }
}

/// Headers as they came.
#[derive(Debug, Default)]
pub(crate) struct Headers(Vec<(String, String)>);

impl Headers {
    /// The first value of a name, given in lower case.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// A value that is a decimal number.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }
}

/// An answer's head, and what was read behind it.
struct Head {
    status: u16,
    headers: Headers,
    begun: Vec<u8>,
}

impl Head {
    /// Whether it is all of an answer to that method, whatever it tells (RFC 9112 §6.3).
    fn is_bare(&self, method: &str) -> bool {
        method == "HEAD" || self.status == 204 || self.status == 304
    }
}

/// Asks without a body.
pub(crate) async fn get(to: impl Into<Server> + Send, ask: Ask<'_>) -> Result<Answer> {
    let to = to.into();
    let mut stream = to.connect().await?;
    let head = head_text(to.host(), ask, &[], None);
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await?;
    answer(ask.method, &mut stream, |_, _| {}).await
}

/// Asks with JSON.
pub(crate) async fn tell(
    to: impl Into<Server> + Send,
    ask: Ask<'_>,
    body: &serde_json::Value,
) -> Result<Answer> {
    let to = to.into();
    let mut stream = to.connect().await?;
    let body = body.to_string();
    let kind = [("content-type", "application/json".to_owned())];
    let head = head_text(to.host(), ask, &kind, Some(body.len() as u64));
    stream.write_all((head + &body).as_bytes()).await?;
    stream.flush().await?;
    answer(ask.method, &mut stream, |_, _| {}).await
}

/// Sends an upload. A gateway that answers before it has all is heard.
pub(crate) async fn upload(
    to: impl Into<Server> + Send,
    ask: Ask<'_>,
    content: &Content,
    envelope: &Envelope,
) -> Result<Answer> {
    let to = to.into();
    let mut stream = to.connect().await?;
    let length = envelope.before.len() as u64 + content.length() + envelope.behind.len() as u64;
    let kind = [("content-type", envelope.content_type.clone())];
    let head = head_text(to.host(), ask, &kind, Some(length));
    let sent = async {
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&envelope.before).await?;
        content.send(0..content.length(), &mut stream).await?;
        stream.write_all(&envelope.behind).await?;
        stream.flush().await
    };
    let sent = sent.await;
    // After a refusal the write fails; the answer tells more than the failure does.
    match (answer(ask.method, &mut stream, |_, _| {}).await, sent) {
        (Ok(answer), _) => Ok(answer),
        (Err(_), Err(e)) => Err(e.into()),
        (Err(e), Ok(())) => Err(e),
    }
}

/// Sends a piece of an upload, listening meanwhile: `interim` is told of each 1xx answer as it comes,
/// and a final one ends the sending. `None` when this side hung up as it was to.
pub(crate) async fn send(
    to: impl Into<Server> + Send,
    ask: Ask<'_>,
    piece: &Piece<'_>,
    interim: impl FnMut(u16, &Headers),
) -> Result<Option<Answer>> {
    let to = to.into();
    let mut stream = to.connect().await?;
    let length = piece.to - piece.from;
    // Where a body has a meaning, an empty one is told too (RFC 9110 §8.6).
    let bare = length == 0 && matches!(ask.method, "HEAD" | "GET" | "DELETE");
    let head = head_text(to.host(), ask, piece.headers, (!bare).then_some(length));
    let end = piece.cut.map_or(piece.to, |cut| cut.at);
    let heard = {
        let (mut from_there, mut to_there) = tokio::io::split(&mut stream);
        let mut hearing = std::pin::pin!(answer(ask.method, &mut from_there, interim));
        let sent = async {
            to_there.write_all(head.as_bytes()).await?;
            piece.content.send(piece.from..end, &mut to_there).await?;
            to_there.flush().await
        };
        tokio::select! {
            biased;
            heard = &mut hearing => Some(heard),
            sent = sent => match (sent, piece.cut) {
                (Ok(()), Some(_)) => None,
                // It was answered before it was sent, or the other side is gone: the answer tells.
                (Ok(()) | Err(_), _) => Some(hearing.await),
            },
        }
    };
    if let Some(answer) = heard {
        return answer.map(Some);
    }
    if piece.cut.is_some_and(|cut| cut.reset) {
        stream.end_by_reset()?;
    }
    Ok(None)
}

/// A connection that carries one request after the other.
pub(crate) struct Kept {
    to: Server,
    stream: Option<Box<dyn Wire>>,
}

impl Kept {
    /// To that server; connects with the first request.
    pub(crate) fn new(to: impl Into<Server>) -> Self {
        Self {
            to: to.into(),
            stream: None,
        }
    }

    /// Asks with JSON, on the connection of the request before unless the server closed it with its answer.
    ///
    /// # Errors
    /// When there is no answer, or one whose end cannot be told without the end of the connection.
    pub(crate) async fn tell(&mut self, ask: Ask<'_>, body: &serde_json::Value) -> Result<Answer> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.to.connect().await?,
        };
        let body = body.to_string();
        let kind = [("content-type", "application/json".to_owned())];
        let length = Some(body.len() as u64);
        let head = request(self.to.host(), ask, "keep-alive", &kind, length);
        stream.write_all((head + &body).as_bytes()).await?;
        stream.flush().await?;
        let head = final_head(&mut stream, |_, _| {}).await?;
        let is_bare = head.is_bare(ask.method);
        if !is_bare && head.headers.number("content-length").is_none() {
            return Err(Failure::said(format!(
                "{} {}: an answer to one of many requests has no Content-Length",
                ask.method, ask.path
            )));
        }
        let answer = whole(ask.method, head, &mut stream).await?;
        let word = answer.headers.get("connection");
        let closes = word.is_some_and(|word| word.eq_ignore_ascii_case("close"));
        if !closes {
            self.stream = Some(stream);
        }
        Ok(answer)
    }
}

/// Downloads, and compares what comes. Returns status and headers.
pub(crate) async fn download(
    to: impl Into<Server> + Send,
    ask: Ask<'_>,
    checker: &mut Checker<'_>,
    mut digest: Option<&mut blake3::Hasher>,
) -> Result<(u16, Headers)> {
    let to = to.into();
    let mut stream = to.connect().await?;
    let asked = head_text(to.host(), ask, &[], None);
    stream.write_all(asked.as_bytes()).await?;
    stream.flush().await?;
    let head = head(&mut stream).await?;
    let mut left = head
        .headers
        .number("content-length")
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
            return Ok((head.status, head.headers));
        }
        buffer.clear();
        buffer.reserve(READ_BYTES);
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}

/// The head of a connection's only request.
fn head_text(host: &str, ask: Ask<'_>, headers: &[(&str, String)], length: Option<u64>) -> String {
    request(host, ask, "close", headers, length)
}

fn request(
    host: &str,
    ask: Ask<'_>,
    connection: &str,
    headers: &[(&str, String)],
    length: Option<u64>,
) -> String {
    let Ask {
        method,
        path,
        token,
    } = ask;
    let token = token.map(|token| format!("authorization: Bearer {token}\r\n"));
    let length = length.map(|length| format!("content-length: {length}\r\n"));
    let headers = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"));
    let headers = headers.collect::<Vec<_>>().concat();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: {connection}\r\naccept: */*\r\n{}{headers}{}\r\n",
        token.unwrap_or_default(),
        length.unwrap_or_default(),
    )
}

async fn head(stream: &mut (impl AsyncRead + Unpin)) -> Result<Head> {
    next_head(stream, Vec::new()).await
}

/// The next head, of which `bytes` were read already.
async fn next_head(stream: &mut (impl AsyncRead + Unpin), mut bytes: Vec<u8>) -> Result<Head> {
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
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
    Ok(Head {
        status,
        headers: Headers(headers.collect()),
        begun,
    })
}

/// The final answer to a request of that method (an answer to HEAD has no body).
async fn answer(
    method: &str,
    stream: &mut (impl AsyncRead + Unpin),
    interim: impl FnMut(u16, &Headers),
) -> Result<Answer> {
    let head = final_head(stream, interim).await?;
    whole(method, head, stream).await
}

/// The head of the final answer; `interim` is told of those before it.
async fn final_head(
    stream: &mut (impl AsyncRead + Unpin),
    mut interim: impl FnMut(u16, &Headers),
) -> Result<Head> {
    let mut head = head(stream).await?;
    while head.status < 200 {
        interim(head.status, &head.headers);
        head = next_head(stream, head.begun).await?;
    }
    Ok(head)
}

/// An answer with all of its body.
async fn whole(method: &str, head: Head, stream: &mut (impl AsyncRead + Unpin)) -> Result<Answer> {
    let is_bare = head.is_bare(method);
    let Head {
        status,
        headers,
        begun: mut body,
    } = head;
    if !is_bare {
        let told = headers.number("content-length");
        let wanted = told.unwrap_or(ANSWER_BYTES).min(ANSWER_BYTES);
        let left = wanted.saturating_sub(body.len() as u64);
        stream.take(left).read_to_end(&mut body).await?;
        if told.is_some() && (body.len() as u64) < wanted {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
    let coding = headers.get("transfer-encoding");
    if coding.is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        body = unchunk(&body).ok_or_else(|| Failure::said("an answer is framed wrongly"))?;
    }
    Ok(Answer {
        status,
        headers,
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
    use std::io::{Read as _, Write as _};

    use super::*;

    /// Answers what comes on the connections that it is given, as it stands, one answer for each request.
    fn serving(connections: &'static [&'static [&'static str]]) -> (Server, Answering) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let answering = std::thread::spawn(move || {
            let mut heads = Vec::new();
            for answers in connections {
                let (mut stream, _) = listener.accept().unwrap();
                for answer in *answers {
                    let mut seen = Vec::new();
                    let mut byte = [0];
                    while !seen.ends_with(b"{}") {
                        stream.read_exact(&mut byte).unwrap();
                        seen.push(byte[0]);
                    }
                    heads.push(String::from_utf8(seen).unwrap());
                    stream.write_all(answer.as_bytes()).unwrap();
                }
            }
            heads
        });
        (address.into(), answering)
    }

    type Answering = std::thread::JoinHandle<Vec<String>>;

    #[tokio::test]
    async fn a_kept_connection_carries_requests_until_the_server_closes_it() {
        let (server, answering) = serving(&[
            &[
                "HTTP/1.1 201 Created\r\ncontent-length: 1\r\n\r\na",
                "HTTP/1.1 204 No Content\r\n\r\n",
                "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nbc",
            ],
            &["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"],
        ]);
        let mut kept = Kept::new(server);
        let ask = Ask {
            method: "POST",
            path: "/",
            token: None,
        };
        let body = serde_json::json!({});
        for wanted in ["a", "", "bc"] {
            let answer = kept.tell(ask, &body).await.unwrap();
            assert_eq!(answer.body, wanted.as_bytes());
        }
        // Only the end of the connection would tell the end of that one.
        assert!(kept.tell(ask, &body).await.is_err());
        let heads = answering.join().unwrap();
        assert!(
            heads
                .iter()
                .all(|head| head.contains("connection: keep-alive\r\n"))
        );
    }

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
