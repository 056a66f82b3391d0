//! The server alone, over real sockets: what it refuses, how it waits, how it stops.
//!
//! Clients here are raw sockets, because the point is what other programs may send.

#![expect(clippy::unwrap_used, reason = "what tests share is test code too")]

mod lanes;
mod proxy;
mod slow;
mod succession;
mod tls;

use std::io::ErrorKind;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use boxgate::config::{self, Settings};
use boxgate::http::response;
use boxgate::request::RequestFacts;
use boxgate::server::{
    BodyError, BoxError, Certificate, Drain, FileSender, InboundBody, Interim, OutboundBody, Piece,
    Respond, Server,
};
use boxgate::telemetry::{LogSink, Telemetry};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// Catches a hang; nothing here is expected to take a tenth of it.
const LONG: Duration = Duration::from_secs(30);

/// Answers by path, as each test needs.
#[derive(Default)]
struct Paths {
    /// `/wait` answers once this is told.
    go: Notify,
    /// Told when `/wait` has been asked.
    waiting: Notify,
    /// What reading a body came to at `/fail`.
    failed: std::sync::Mutex<Vec<BodyError>>,
    body_failed: Notify,
}

impl Respond for Paths {
    fn respond(
        self: Arc<Self>,
        request: Request<InboundBody>,
    ) -> BoxFuture<'static, Response<OutboundBody>> {
        Box::pin(async move {
            let facts = RequestFacts::of(&request).unwrap();
            let path = request.uri().path().to_owned();
            let interim = request.extensions().get::<Interim>().cloned();
            let mut body = request.into_body();
            match path.as_str() {
                "/echo" => {
                    facts.set_route("/echo");
                    facts.set_principal("alice");
                    facts.set_upload("u-1");
                    let mut all = Vec::new();
                    loop {
                        match body.chunk().await {
                            Ok(Some(chunk)) => all.extend_from_slice(&chunk),
                            Ok(None) => break response::bytes(StatusCode::OK, response::TEXT, all),
                            Err(error) => {
                                break response::text(StatusCode::BAD_REQUEST, error.to_string());
                            }
                        }
                    }
                }
                "/fail" => {
                    let error = loop {
                        if let Err(error) = body.chunk().await {
                            break error;
                        }
                    };
                    self.failed.lock().unwrap().push(error);
                    self.body_failed.notify_one();
                    response::empty(StatusCode::REQUEST_TIMEOUT)
                }
                "/refuse" => response::text(StatusCode::FORBIDDEN, "not you\n".repeat(100)),
                "/panic" => panic!("a defect"),
                "/wait" => {
                    self.waiting.notify_one();
                    self.go.notified().await;
                    response::text(StatusCode::OK, "done")
                }
                "/thread" => response::text(StatusCode::OK, thread()),
                "/who" => {
                    let text = format!("{} {}", facts.client_ip(), facts.authority());
                    response::text(StatusCode::OK, text)
                }
                "/hint" => {
                    let headers = [(http::header::LOCATION, "/a".parse().unwrap())];
                    let headers = http::HeaderMap::from_iter(headers);
                    interim
                        .unwrap()
                        .send(StatusCode::EARLY_HINTS, "Hints", &headers);
                    while let Ok(Some(_)) = body.chunk().await {}
                    response::empty(StatusCode::NO_CONTENT)
                }
                // A body without end: frames of 64 KiB as long as somebody takes them.
                "/endless" => Response::new(endless()),
                "/broken" => Response::new(broken()),
                // The longest that goes out anywhere, and a byte more.
                "/short" => Response::new(Asked(64 << 10).boxed_unsync()),
                "/long" => Response::new(Asked((64 << 10) + 1).boxed_unsync()),
                _ => response::empty(StatusCode::NO_CONTENT),
            }
        })
    }

    fn answer_at_once(
        &self,
        head: &http::request::Parts,
        _sender: Option<&FileSender>,
        _facts: &RequestFacts,
    ) -> Option<Response<OutboundBody>> {
        (head.uri.path() == "/at-once").then(|| response::text(StatusCode::OK, thread()))
    }
}

/// The name of the thread that this is called by.
fn thread() -> String {
    std::thread::current().name().unwrap_or_default().to_owned()
}

fn endless() -> OutboundBody {
    let frame = Bytes::from(vec![7; 64 << 10]);
    let frames = futures_util::stream::repeat_with(move || {
        Ok::<_, BoxError>(Frame::data(Piece::Bytes(frame.clone())))
    });
    StreamBody::new(frames).boxed_unsync()
}

fn broken() -> OutboundBody {
    let frames = [
        Ok(Frame::data(Piece::Bytes(Bytes::from_static(b"half")))),
        Err(BoxError::from("the store failed")),
    ];
    StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
}

/// A body of so many bytes: the name of the thread that asks for them, and spaces.
struct Asked(usize);

impl Body for Asked {
    type Data = Piece;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, BoxError>>> {
        let length = std::mem::take(&mut self.0);
        if length == 0 {
            return Poll::Ready(None);
        }
        let mut frame = thread().into_bytes();
        frame.resize(length, b' ');
        Poll::Ready(Some(Ok(Frame::data(Piece::Bytes(frame.into())))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0 as u64)
    }
}

/// A running server.
struct Running {
    address: std::net::SocketAddr,
    paths: Arc<Paths>,
    telemetry: Arc<Telemetry>,
    log: LogSink,
    drain: Drain,
    task: tokio::task::JoinHandle<()>,
}

/// Serves with `change`d settings; times that stop a server are short unless set.
async fn serve(change: impl FnOnce(&mut Settings)) -> Running {
    serve_with(None, change).await
}

async fn serve_with(
    certificate: Option<Arc<Certificate>>,
    change: impl FnOnce(&mut Settings),
) -> Running {
    let mut settings = config::defaults();
    settings.listeners[0].address = "127.0.0.1:0".parse().unwrap();
    settings.server.drain_accept = Duration::ZERO;
    change(&mut settings);
    let log = LogSink::memory();
    let telemetry = Telemetry::new(log.clone());
    let server = Server::bind(&settings, Arc::clone(&telemetry), certificate)
        .await
        .unwrap();
    let address = server.addresses()[0];
    let drain = Drain::new(&settings.server);
    let paths = Arc::new(Paths::default());
    let task = tokio::spawn(server.serve(paths.clone(), drain.clone()));
    Running {
        address,
        paths,
        telemetry,
        log,
        drain,
        task,
    }
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends `text` and reads until the server closes.
    async fn exchange(&self, text: &str) -> String {
        let mut socket = self.connect().await;
        socket.write_all(text.as_bytes()).await.unwrap();
        read_to_end(&mut socket).await
    }

    async fn stop(self) {
        self.drain.signal();
        tokio::time::timeout(LONG, self.task)
            .await
            .unwrap()
            .unwrap();
    }

    /// The access lines, once there are `count`.
    async fn access_lines(&self, count: usize) -> Vec<serde_json::Value> {
        let wait = async {
            loop {
                let lines = self.log.lines();
                if lines.len() >= count {
                    return lines;
                }
                tokio::task::yield_now().await;
            }
        };
        let lines = tokio::time::timeout(LONG, wait).await.unwrap();
        lines
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Waits until `line` stands in the metrics.
    async fn metric(&self, line: &str) {
        let wait = async {
            while !self.telemetry.render().lines().any(|found| found == line) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LONG, wait)
            .await
            .unwrap_or_else(|_| panic!("{line} is missing in {}", self.telemetry.render()));
    }
}

async fn read_to_end(socket: &mut TcpStream) -> String {
    let mut all = Vec::new();
    // A reset after the answer is as good an end as any.
    let _end = tokio::time::timeout(LONG, socket.read_to_end(&mut all))
        .await
        .expect("the server closes in time");
    String::from_utf8_lossy(&all).into_owned()
}

/// Reads one answer with a length, and leaves the connection open.
async fn read_answer(socket: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let read = async {
        loop {
            let mut byte = [0; 4096];
            let count = socket.read(&mut byte).await.unwrap();
            assert!(count > 0, "closed after {}", String::from_utf8_lossy(&all));
            all.extend_from_slice(&byte[..count]);
            let text = String::from_utf8_lossy(&all);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "))
                    .map_or(0, |length| length.parse().unwrap());
                if body.len() >= length {
                    return;
                }
            }
        }
    };
    tokio::time::timeout(LONG, read).await.unwrap();
    String::from_utf8(all).unwrap()
}

fn status(answer: &str) -> &str {
    answer
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3))
        .unwrap_or("none")
}

#[tokio::test]
async fn bodies_come_in_and_go_out_on_one_connection() {
    let server = serve(|_| {}).await;
    let mut socket = server.connect().await;
    for _ in 0..3 {
        let request = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
        socket.write_all(request.as_bytes()).await.unwrap();
        let answer = read_answer(&mut socket).await;
        assert!(answer.ends_with("\r\n\r\nhello"), "{answer}");
        assert!(!answer.contains("connection: close"), "{answer}");
        let chunked = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX: y\r\n\r\n";
        socket.write_all(chunked.as_bytes()).await.unwrap();
        assert!(read_answer(&mut socket).await.ends_with("\r\n\r\nabcde"));
    }
    drop(socket);
    server.stop().await;
}

#[tokio::test]
async fn each_request_leaves_one_line_with_what_it_came_to() {
    let server = serve(|_| {}).await;
    let body = "GET /other?token=secret HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert_eq!(status(&server.exchange(body).await), "204");
    let echo =
        "POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello";
    server.exchange(echo).await;
    let lines = server.access_lines(2).await;
    assert_eq!(lines.len(), 2);
    let line = lines.iter().find(|line| line["route"] == "/echo").unwrap();
    assert_eq!(line["status"], 200);
    assert_eq!(line["principal"], "alice");
    assert_eq!(line["upload_id"], "u-1");
    assert_eq!(
        (&line["bytes_in"], &line["bytes_out"]),
        (&5.into(), &5.into())
    );
    assert_eq!(line["client_ip"], "127.0.0.1");
    let other = lines.iter().find(|line| line["route"] != "/echo").unwrap();
    assert_eq!(other["status"], 204);
    assert!(!server.log.lines().concat().contains("secret"));
    server.metric("boxgate_http_bytes_in_total 5").await;
    server
        .metric("boxgate_http_request_seconds_count{route=\"/echo\",status=\"2xx\"} 1")
        .await;
    server.metric("boxgate_connections 0").await;
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_leaves_a_line_too() {
    let server = serve(|_| {}).await;
    let mut socket = server.connect().await;
    socket
        .write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    server.paths.waiting.notified().await;
    drop(socket);
    let lines = server.access_lines(1).await;
    assert_eq!(lines[0]["status"], 499);
    server.stop().await;
}

#[tokio::test]
async fn ambiguous_heads_are_refused_with_a_readable_answer() {
    let server = serve(|_| {}).await;
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(9000));
    let fat = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "a".repeat(40_000)
    );
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(64));
    let table = [
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "400"),
        ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "400",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "400",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            "400",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na",
            "400",
        ),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", "400"),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", "501"),
        (long.as_str(), "414"),
        (fat.as_str(), "431"),
        (many.as_str(), "431"),
        // Well-formed, to know that the others are refused for their fault.
        (
            "GET http://a/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
            "204",
        ),
        (
            "GET //x HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: close, upgrade\r\n\r\n",
            "204",
        ),
    ];
    for (request, want) in table {
        let answer = server.exchange(request).await;
        let shown = &request[..request.len().min(80)];
        assert_eq!(status(&answer), want, "{shown:?}: {answer}");
        assert_eq!(
            answer.matches("HTTP/1.1 ").count(),
            1,
            "{shown:?}: {answer}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn a_refusal_names_its_rule_and_its_request() {
    let server = serve(|_| {}).await;
    let answer = server.exchange("GET / HTTP/1.1\r\n\r\n").await;
    assert!(answer.contains("connection: close"), "{answer}");
    assert!(
        answer.contains("content-type: application/problem+json"),
        "{answer}"
    );
    assert!(
        answer.contains("exactly one Host header is needed"),
        "{answer}"
    );
    assert!(answer.contains("\"INVALID_REQUEST\""), "{answer}");
    let lines = server.access_lines(1).await;
    let id = lines[0]["request_id"].as_str().unwrap();
    assert!(answer.contains(&format!("x-request-id: {id}")), "{answer}");
    server.stop().await;
}

/// Writes `bytes` zeros as far as the server takes them.
async fn push(mut socket: impl AsyncWriteExt + Unpin, bytes: usize) -> usize {
    let zeros = vec![0; 64 << 10];
    let mut sent = 0;
    while sent < bytes {
        match socket.write(&zeros[..zeros.len().min(bytes - sent)]).await {
            Ok(count) => sent += count,
            Err(_) => break,
        }
    }
    sent
}

#[tokio::test]
async fn an_answer_given_before_the_body_is_read_can_be_read() {
    const BODY: usize = 8 << 20;
    let server = serve(|_| {}).await;
    let head = format!("POST /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: {BODY}\r\n\r\n");
    // Once by a client that reads while it writes, once by one that reads when it can write no more.
    for reads_first in [true, false] {
        let mut socket = server.connect().await;
        socket.write_all(head.as_bytes()).await.unwrap();
        let (mut read, write) = socket.into_split();
        let pushing = tokio::spawn(push(write, BODY));
        if !reads_first {
            let _sent = tokio::time::timeout(LONG, pushing).await.unwrap();
        }
        let mut answer = Vec::new();
        let mut buffer = [0; 1024];
        // The reset that ends a client's endless writing may come after the answer, never before.
        while let Ok(Ok(count)) = tokio::time::timeout(LONG, read.read(&mut buffer)).await
            && count > 0
        {
            answer.extend_from_slice(&buffer[..count]);
        }
        let answer = String::from_utf8(answer).unwrap();
        assert_eq!(status(&answer), "403", "reads first: {reads_first}");
        assert!(answer.contains("connection: close"), "{answer}");
        assert!(answer.ends_with(&"not you\n".repeat(100)), "{answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_client_may_go_on_writing_for_a_while_after_an_early_answer() {
    let server = serve(|_| {}).await;
    let mut socket = server.connect().await;
    let head = "POST /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // The server's end comes as an end, not as a reset, though much of the body is still to come.
    socket.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 403"));
    for _ in 0..8 {
        assert_eq!(push(&mut socket, 64 << 10).await, 64 << 10);
        // An error that a write met is told by the next one.
        assert_eq!(socket.take_error().unwrap().map(|error| error.kind()), None);
    }
    // Not for ever: past a mebibyte the connection is gone.
    assert!(push(&mut socket, 64 << 20).await < 64 << 20);
    drop(socket);
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_writes_for_as_long_as_it_can_reads_its_answer_then() {
    let server = serve(|_| {}).await;
    let mut socket = server.connect().await;
    let head = "POST /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    let (zeros, mut sent) = (vec![0; 64 << 10], 0);
    let (mut answer, mut ended) = (Vec::new(), false);
    while !ended {
        let both = Interest::READABLE | Interest::WRITABLE;
        let ready = tokio::time::timeout(LONG, socket.ready(both)).await;
        let ready = ready.expect("one of both comes").unwrap();
        if ready.is_writable() {
            match socket.try_write(&zeros) {
                Ok(count) => {
                    sent += count;
                    continue;
                }
                Err(full) if full.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}, {sent} bytes in"),
            }
        }
        if ready.is_readable() {
            match socket.try_read_buf(&mut answer) {
                Ok(count) => ended = count == 0,
                Err(empty) if empty.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}, {sent} bytes in"),
            }
        }
    }
    assert!(sent > 1 << 20, "more than is thrown away: {sent}");
    assert_eq!(status(&String::from_utf8(answer).unwrap()), "403");
    // The server has unread bytes of this client for ever, and notices that it went all the same.
    socket.set_zero_linger().unwrap();
    drop(socket);
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_is_awaited_is_asked_for_and_a_refused_one_is_not() {
    let server = serve(|_| {}).await;
    let head = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        )
    };
    let refused = server.exchange(&head("/refuse")).await;
    assert_eq!(status(&refused), "403");
    assert!(!refused.contains("100 Continue"));

    let mut socket = server.connect().await;
    socket.write_all(head("/echo").as_bytes()).await.unwrap();
    let go_on = read_answer(&mut socket).await;
    assert_eq!(go_on, "HTTP/1.1 100 Continue\r\n\r\n");
    socket.write_all(b"hello").await.unwrap();
    assert!(read_answer(&mut socket).await.ends_with("hello"));
    drop(socket);
    server.stop().await;
}

#[tokio::test]
async fn a_panic_is_one_requests_500_and_nobody_elses() {
    let server = serve(|_| {}).await;
    let mut other = server.connect().await;
    other
        .write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    server.paths.waiting.notified().await;
    let answer = server
        .exchange("GET /panic HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!(status(&answer), "500");
    assert!(!answer.contains("a defect"), "{answer}");
    server.metric("boxgate_http_panics_total 1").await;
    server.paths.go.notify_one();
    assert!(read_answer(&mut other).await.ends_with("done"));
    drop(other);
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_stands_still_or_trickles_is_ended() {
    let server = serve(|settings| {
        settings.server.body_idle_timeout = Duration::from_millis(200);
        settings.server.slowest_rate_bytes = 1 << 20;
        settings.server.slowest_rate_window = Duration::from_secs(1);
    })
    .await;
    let head = b"POST /fail HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n";
    let mut silent = server.connect().await;
    silent.write_all(head).await.unwrap();
    assert_eq!(status(&read_to_end(&mut silent).await), "408");
    drop(silent);

    let mut trickle = server.connect().await;
    trickle.write_all(head).await.unwrap();
    let (mut read, mut write) = trickle.into_split();
    let trickling = tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        while write.write_all(b"x").await.is_ok() {
            tick.tick().await;
        }
    });
    let mut answer = [0; 12];
    tokio::time::timeout(LONG, read.read_exact(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
    trickling.abort();
    drop(read);

    let mut cut = server.connect().await;
    cut.write_all(head).await.unwrap();
    cut.write_all(b"some").await.unwrap();
    drop(cut);
    let wait = async {
        while server.paths.failed.lock().unwrap().len() < 3 {
            server.paths.body_failed.notified().await;
        }
    };
    tokio::time::timeout(LONG, wait).await.unwrap();
    let failed = server.paths.failed.lock().unwrap().clone();
    assert_eq!(
        failed,
        [BodyError::Idle, BodyError::TooSlow, BodyError::Cut]
    );
    server.stop().await;
}

#[tokio::test]
async fn chunks_that_break_the_coding_are_told_from_a_cut() {
    let server = serve(|_| {}).await;
    let head = "POST /fail HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for chunk in ["zz\r\n", "5\r\nhelloXX", "ffffffffffffffffff\r\n"] {
        server.exchange(&format!("{head}{chunk}")).await;
        server.paths.body_failed.notified().await;
    }
    let failed = server.paths.failed.lock().unwrap().clone();
    assert_eq!(failed, [BodyError::Protocol; 3]);
    server.stop().await;
}

#[tokio::test]
async fn more_behind_a_body_than_is_read_breaks_it() {
    let server = serve(|_| {}).await;
    let head = "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\nx\r\n0\r\n";
    let fields =
        |count: usize, bytes: usize| format!("X-Some: {}\r\n", "y".repeat(bytes)).repeat(count);
    for (trailers, want) in [
        (fields(16, 1), "200"),
        (fields(17, 1), "400"),
        (fields(1, 8000), "200"),
        (fields(1, 8200), "400"),
    ] {
        let answer = server.exchange(&format!("{head}{trailers}\r\n")).await;
        assert_eq!(status(&answer), want, "{} bytes: {answer}", trailers.len());
    }
    server.stop().await;
}

#[tokio::test]
async fn a_reader_that_stops_is_cut_and_counted() {
    let server = serve(|settings| {
        settings.server.body_idle_timeout = Duration::from_millis(200);
    })
    .await;
    let mut socket = server.connect().await;
    socket
        .write_all(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    server
        .metric("boxgate_downloads_broken_total{reason=\"slow_reader\"} 1")
        .await;
    server.metric("boxgate_connections 0").await;

    let mut leaver = server.connect().await;
    leaver
        .write_all(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let mut some = [0; 1000];
    leaver.read_exact(&mut some).await.unwrap();
    drop(leaver);
    server
        .metric("boxgate_downloads_broken_total{reason=\"client\"} 1")
        .await;
    server.stop().await;
}

#[tokio::test]
async fn a_reader_that_is_slow_but_reads_is_borne() {
    let server = serve(|settings| settings.server.body_idle_timeout = Duration::from_secs(2)).await;
    let mut socket = server.connect().await;
    socket
        .write_all(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    // The kernel alone would call the writer for every 800 KB or so, each three seconds.
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    let mut some = vec![0; 2500];
    for _ in 0..500 {
        tick.tick().await;
        socket.read_exact(&mut some).await.unwrap();
    }
    assert!(!server.telemetry.render().contains("slow_reader"));
    drop(socket);
    server.stop().await;
}

#[tokio::test]
async fn an_answer_that_fails_midway_never_ends_cleanly() {
    let server = serve(|_| {}).await;
    let answer = server
        .exchange("GET /broken HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    assert!(!answer.contains("0\r\n\r\n"), "{answer}");
    server
        .metric("boxgate_downloads_broken_total{reason=\"source\"} 1")
        .await;

    // HTTP/1.0 knows an end by the end of the connection only, so that must not look like one.
    let mut old = server.connect().await;
    old.write_all(b"GET /broken HTTP/1.0\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let mut all = Vec::new();
    let end = tokio::time::timeout(LONG, old.read_to_end(&mut all))
        .await
        .unwrap();
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    server.stop().await;
}

#[tokio::test]
async fn slow_heads_and_silent_connections_are_closed() {
    let server = serve(|settings| {
        settings.server.head_timeout = Duration::from_millis(200);
        settings.server.idle_timeout = Duration::from_millis(600);
    })
    .await;
    let mut silent = server.connect().await;
    assert_eq!(read_to_end(&mut silent).await, "");

    let mut slow = server.connect().await;
    slow.write_all(b"GET / HTTP/1.1\r\nHost:").await.unwrap();
    assert_eq!(status(&read_to_end(&mut slow).await), "408");
    drop(slow);

    // Between requests the longer time counts, from the first byte on the shorter one.
    let mut idle = server.connect().await;
    idle.write_all(b"GET /who HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    read_answer(&mut idle).await;
    let begin = tokio::time::Instant::now();
    assert_eq!(read_to_end(&mut idle).await, "");
    assert!(
        begin.elapsed() > Duration::from_millis(500),
        "{:?}",
        begin.elapsed()
    );
    server.stop().await;
}

#[tokio::test]
async fn only_a_trusted_proxy_is_believed() {
    let request = "GET /who HTTP/1.1\r\nHost: boxes.example:80\r\nX-Forwarded-For: 198.51.100.7\r\nConnection: close\r\n\r\n";
    let server = serve(|_| {}).await;
    assert!(
        server
            .exchange(request)
            .await
            .ends_with("127.0.0.1 boxes.example:80")
    );
    server.stop().await;
    let server = serve(|settings| {
        settings.trusted_proxies =
            vec!["127.0.0.0/8".parse::<boxgate::config::Cidr>().unwrap()].into();
    })
    .await;
    assert!(
        server
            .exchange(request)
            .await
            .ends_with("198.51.100.7 boxes.example:80")
    );
    server.stop().await;
}

#[tokio::test]
async fn connections_beyond_an_addresss_share_are_closed_at_once() {
    let server = serve(|settings| settings.limits.connections_per_address = 2).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut socket = server.connect().await;
        socket
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        read_answer(&mut socket).await;
        held.push(socket);
    }
    let mut third = server.connect().await;
    assert_eq!(read_to_end(&mut third).await, "");
    server
        .metric("boxgate_connections_refused_total{limit=\"address\"} 1")
        .await;
    drop(held);
    server.metric("boxgate_connections 0").await;
    let answer = server
        .exchange("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!(status(&answer), "204");
    server.stop().await;
}

#[tokio::test]
async fn at_the_limit_of_connections_the_next_one_waits_its_turn() {
    let server = serve(|settings| settings.limits.connections = 1).await;
    let mut first = server.connect().await;
    first
        .write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    server.paths.waiting.notified().await;
    let mut second = server.connect().await;
    second
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    server.paths.go.notify_one();
    read_answer(&mut first).await;
    drop(first);
    assert_eq!(status(&read_to_end(&mut second).await), "204");
    server.stop().await;
}

#[tokio::test]
async fn stopping_lets_running_requests_end_and_takes_no_more() {
    let server = serve(|_| {}).await;
    let mut running = server.connect().await;
    running
        .write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    server.paths.waiting.notified().await;
    let mut idle = server.connect().await;
    idle.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    read_answer(&mut idle).await;

    assert!(!server.drain.is_draining());
    server.drain.signal();
    assert!(server.drain.is_draining());
    // Idle connections are closed; when that is seen the listener is closed as well or soon.
    assert_eq!(read_to_end(&mut idle).await, "");
    server.paths.go.notify_one();
    let answer = read_to_end(&mut running).await;
    assert!(
        answer.contains("connection: close") && answer.ends_with("done"),
        "{answer}"
    );
    tokio::time::timeout(LONG, server.task)
        .await
        .unwrap()
        .unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn a_second_signal_cuts_what_still_runs() {
    let server = serve(|settings| settings.server.drain_hurried = Duration::from_millis(50)).await;
    let mut running = server.connect().await;
    running
        .write_all(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    server.paths.waiting.notified().await;
    server.drain.signal();
    server.drain.signal();
    assert_eq!(read_to_end(&mut running).await, "");
    tokio::time::timeout(LONG, server.task)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn while_draining_begins_connections_are_still_taken() {
    let server = serve(|settings| settings.server.drain_accept = LONG).await;
    server.drain.signal();
    let answer = server
        .exchange("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!(status(&answer), "204");
    server.drain.signal();
    tokio::time::timeout(LONG, server.task)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let server = serve(|_| {}).await;
    let mut settings = config::defaults();
    settings.listeners[0].address = server.address;
    let error = Server::bind(&settings, Telemetry::silent(), None)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains(&server.address.to_string()),
        "{error}"
    );
    server.stop().await;
}
