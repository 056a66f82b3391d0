//! TLS, HTTP/2 and HTTP/3: what comes in and goes out, who is turned away, who is ended, how a stop looks.

use std::path::Path;

use boxgate::config::settings::{self, Speaks};
use boxgate::server::Certificate;
use bytes::Buf as _;
use http::HeaderMap;
use quinn::TransportConfig;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;

/// A server that speaks all versions.
pub(super) struct Secured {
    pub(super) running: Running,
    directory: tempfile::TempDir,
}

fn write_certificate(directory: &Path) -> settings::Tls {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let tls = settings::Tls {
        certificate: directory.join("certificate.pem"),
        key: directory.join("key.pem"),
        check_every: Some(Duration::from_millis(20)),
        client_ca: Vec::new(),
    };
    std::fs::write(&tls.key, made.signing_key.serialize_pem()).unwrap();
    std::fs::write(&tls.certificate, made.cert.pem()).unwrap();
    tls
}

impl Secured {
    pub(super) async fn start(change: impl FnOnce(&mut Settings)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let tls = write_certificate(directory.path());
        let certificate = Certificate::load(&tls).unwrap();
        let running = serve_with(Some(certificate), |settings| {
            settings.listeners[0].speaks = Speaks::TlsAndQuic;
            settings.tls = Some(tls);
            change(settings);
        })
        .await;
        Self { running, directory }
    }

    pub(super) fn client(&self, alpn: &[&str]) -> rustls::ClientConfig {
        let file = self.directory.path().join("certificate.pem");
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(file).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        // Who resumes a session is not shown the certificate.
        config.resumption = rustls::client::Resumption::disabled();
        config
    }

    pub(super) async fn tls(&self, alpn: &[&str]) -> TlsStream<TcpStream> {
        let connector = TlsConnector::from(Arc::new(self.client(alpn)));
        let name = ServerName::try_from("localhost").unwrap();
        let socket = self.running.connect().await;
        connector.connect(name, socket).await.unwrap()
    }

    pub(super) async fn h2(&self) -> h2::client::SendRequest<Bytes> {
        let stream = self.tls(&["h2"]).await;
        let (asks, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        asks
    }

    /// A connection of QUIC, and what it lives on.
    pub(super) async fn quic(
        &self,
        transport: TransportConfig,
    ) -> (quinn::Connection, quinn::Endpoint) {
        let config = QuicClientConfig::try_from(self.client(&["h3"])).unwrap();
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut config = quinn::ClientConfig::new(Arc::new(config));
        config.transport_config(Arc::new(transport));
        let connecting = endpoint.connect_with(config, self.running.address, "localhost");
        let quic = soon(connecting.unwrap()).await.unwrap();
        (quic, endpoint)
    }

    pub(super) async fn h3(&self) -> Third {
        let (quic, endpoint) = self.quic(TransportConfig::default()).await;
        let (mut driver, asks) = h3::client::new(h3_quinn::Connection::new(quic))
            .await
            .unwrap();
        let driving = tokio::spawn(async move {
            std::future::poll_fn(|cx| driver.poll_close(cx)).await;
        });
        Third {
            asks,
            driving,
            _endpoint: endpoint,
        }
    }
}

/// A connection of HTTP/3.
pub(super) struct Third {
    pub(super) asks: h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>,
    pub(super) driving: tokio::task::JoinHandle<()>,
    _endpoint: quinn::Endpoint,
}

pub(super) type ThirdStream = h3::client::RequestStream<h3_quinn::BidiStream<Bytes>, Bytes>;

impl Third {
    pub(super) async fn ask(&mut self, request: Request<()>) -> ThirdStream {
        self.asks.send_request(request).await.unwrap()
    }
}

async fn rest(stream: &mut ThirdStream) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(mut data) = stream.recv_data().await.unwrap() {
        all.extend_from_slice(&data.copy_to_bytes(data.remaining()));
    }
    all
}

pub(super) fn request(method: &str, path: &str) -> Request<()> {
    let uri = format!("https://localhost{path}");
    let builder = Request::builder().method(method).uri(uri);
    builder.body(()).unwrap()
}

async fn collect(mut body: h2::RecvStream) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        all.extend_from_slice(&data);
    }
    all
}

pub(super) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, what).await.expect("in time")
}

#[tokio::test]
async fn bodies_come_in_and_go_out_over_tls() {
    let server = Secured::start(|_| {}).await;
    let mut stream = server.tls(&["http/1.1"]).await;
    let text =
        "POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello";
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.ends_with("\r\n\r\nhello"), "{answer}");
    let alternative = format!(
        "alt-svc: h3=\":{}\"; ma=86400",
        server.running.address.port()
    );
    assert!(answer.contains(&alternative), "{answer}");
    server.running.stop().await;
}

#[tokio::test]
async fn a_refusal_over_tls_is_read_before_the_connection_ends() {
    let server = Secured::start(|_| {}).await;
    let mut stream = server.tls(&["http/1.1"]).await;
    let text = "POST /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n";
    stream.write_all(text.as_bytes()).await.unwrap();
    // As clients do that write before they read.
    let _refused = stream.write_all(&vec![7; 200_000]).await;
    let mut answer = Vec::new();
    let _end = soon(stream.read_to_end(&mut answer)).await;
    let answer = String::from_utf8_lossy(&answer);
    assert_eq!(status(&answer), "403", "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    server.running.stop().await;
}

#[tokio::test]
async fn bodies_come_in_and_go_out_over_http_2() {
    let server = Secured::start(|_| {}).await;
    let mut asks = server.h2().await;
    for _ in 0..3 {
        let (answer, mut body) = asks.send_request(request("POST", "/echo"), false).unwrap();
        body.send_data(Bytes::from_static(b"hel"), false).unwrap();
        body.send_data(Bytes::from_static(b"lo"), true).unwrap();
        let answer = soon(answer).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-length"], "5");
        assert!(!answer.headers().contains_key("connection"));
        assert_eq!(soon(collect(answer.into_body())).await, b"hello");
    }
    let (answer, _) = asks.send_request(request("GET", "/who"), true).unwrap();
    let who = soon(collect(soon(answer).await.unwrap().into_body())).await;
    assert_eq!(who, b"127.0.0.1 localhost");
    let (answer, _) = asks.send_request(request("HEAD", "/refuse"), true).unwrap();
    let answer = soon(answer).await.unwrap();
    assert_eq!(answer.headers()["content-length"], "800");
    assert_eq!(soon(collect(answer.into_body())).await, b"");
    drop(asks);
    server.running.stop().await;
}

#[tokio::test]
async fn a_head_of_http_2_that_others_may_read_differently_is_refused() {
    let server = Secured::start(|_| {}).await;
    let mut asks = server.h2().await;
    let with = |name: &'static str, value: &str| {
        let mut request = request("GET", "/who");
        request.headers_mut().insert(name, value.parse().unwrap());
        request
    };
    let mut many = request("GET", "/who");
    let fields = many.headers_mut();
    for index in 0..100 {
        let name = http::HeaderName::try_from(format!("x-{index}")).unwrap();
        fields.insert(name, http::HeaderValue::from_static("y"));
    }
    let table = [
        (with("host", "localhost"), 200),
        (with("host", "elsewhere"), 400),
        (many, 431),
        (request("GET", &format!("/{}", "a".repeat(9000))), 414),
    ];
    for (request, want) in table {
        let told = format!("{:?}", request.headers());
        let (answer, _) = asks.send_request(request, true).unwrap();
        assert_eq!(soon(answer).await.unwrap().status(), want, "{told}");
    }
    drop(asks);
    server.running.stop().await;
}

#[tokio::test]
async fn who_takes_an_upload_back_ends_its_body_and_nothing_else() {
    let server = Secured::start(|_| {}).await;
    let mut asks = server.h2().await;
    let (_answer, mut body) = asks.send_request(request("POST", "/fail"), false).unwrap();
    body.send_data(Bytes::from_static(b"some"), false).unwrap();
    body.send_reset(h2::Reason::CANCEL);
    soon(server.running.paths.body_failed.notified()).await;
    assert_eq!(
        *server.running.paths.failed.lock().unwrap(),
        [BodyError::Cut]
    );
    let mut third = server.h3().await;
    let mut stream = third.ask(request("POST", "/fail")).await;
    stream.send_data(Bytes::from_static(b"some")).await.unwrap();
    // A reset takes back what the server has not read, the head as well.
    let begun = "boxgate_http_requests_total{version=\"3\"} 1";
    server.running.metric(begun).await;
    stream.stop_stream(h3::error::Code::H3_REQUEST_CANCELLED);
    soon(server.running.paths.body_failed.notified()).await;
    assert_eq!(server.running.paths.failed.lock().unwrap().len(), 2);
    let (answer, _) = asks.send_request(request("GET", "/who"), true).unwrap();
    assert_eq!(soon(answer).await.unwrap().status(), 200);
    drop((asks, third.asks));
    server.running.stop().await;
}

#[tokio::test]
async fn who_does_not_read_an_answer_over_http_2_is_ended_alone() {
    let server = Secured::start(|settings| {
        settings.server.body_idle_timeout = Duration::from_millis(300);
    })
    .await;
    let mut asks = server.h2().await;
    let (answer, _) = asks.send_request(request("GET", "/endless"), true).unwrap();
    let mut unread = soon(answer).await.unwrap().into_body();
    let ended = async {
        while let Some(data) = unread.data().await {
            // Nothing is released, so the window stays shut.
            if let Err(error) = data {
                return error.reason();
            }
        }
        None
    };
    assert_eq!(soon(ended).await, Some(h2::Reason::CANCEL));
    let (answer, _) = asks.send_request(request("GET", "/who"), true).unwrap();
    assert_eq!(soon(answer).await.unwrap().status(), 200);
    let broken = "boxgate_downloads_broken_total{reason=\"slow_reader\"} 1";
    server.running.metric(broken).await;
    drop(asks);
    server.running.stop().await;
}

#[tokio::test]
async fn who_does_not_read_an_answer_over_http_3_is_ended() {
    let server = Secured::start(|settings| {
        settings.server.body_idle_timeout = Duration::from_millis(300);
    })
    .await;
    let mut third = server.h3().await;
    let mut stream = third.ask(request("GET", "/endless")).await;
    stream.finish().await.unwrap();
    soon(stream.recv_response()).await.unwrap();
    let broken = "boxgate_downloads_broken_total{reason=\"slow_reader\"} 1";
    server.running.metric(broken).await;
    drop((stream, third.asks));
    server.running.stop().await;
}

#[tokio::test]
async fn a_body_that_breaks_is_never_ended_cleanly() {
    let server = Secured::start(|_| {}).await;
    let mut asks = server.h2().await;
    let (answer, _) = asks.send_request(request("GET", "/broken"), true).unwrap();
    // The reset may overtake the head.
    let ended = async {
        let mut body = match answer.await {
            Ok(answer) => answer.into_body(),
            Err(error) => return error.reason(),
        };
        while let Some(data) = body.data().await {
            if let Err(error) = data {
                return error.reason();
            }
        }
        None
    };
    assert_eq!(soon(ended).await, Some(h2::Reason::INTERNAL_ERROR));
    let mut third = server.h3().await;
    let mut stream = third.ask(request("GET", "/broken")).await;
    stream.finish().await.unwrap();
    let ended = async {
        if stream.recv_response().await.is_err() {
            return true;
        }
        loop {
            match stream.recv_data().await {
                Ok(Some(_)) => {}
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    };
    assert!(
        soon(ended).await,
        "the stream was ended as if it were whole"
    );
    drop((asks, third.asks));
    server.running.stop().await;
}

#[tokio::test]
async fn bodies_come_in_and_go_out_over_http_3() {
    let server = Secured::start(|_| {}).await;
    let mut third = server.h3().await;
    let mut stream = third.ask(request("POST", "/echo")).await;
    stream.send_data(Bytes::from_static(b"hel")).await.unwrap();
    stream.send_data(Bytes::from_static(b"lo")).await.unwrap();
    stream.finish().await.unwrap();
    let answer = soon(stream.recv_response()).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-length"], "5");
    assert!(answer.headers().contains_key("date"));
    assert_eq!(soon(rest(&mut stream)).await, b"hello");

    let mut lying = request("POST", "/echo");
    lying.headers_mut().insert("content-length", 6.into());
    let mut stream = third.ask(lying).await;
    stream
        .send_data(Bytes::from_static(b"hello"))
        .await
        .unwrap();
    stream.finish().await.unwrap();
    let answer = soon(stream.recv_response()).await.unwrap();
    assert_eq!(answer.status(), 400, "a body shorter than was declared");

    let mut stream = third.ask(request("HEAD", "/refuse")).await;
    stream.finish().await.unwrap();
    let answer = soon(stream.recv_response()).await.unwrap();
    assert_eq!(
        (
            answer.status().as_u16(),
            &answer.headers()["content-length"]
        ),
        (403, &800.into())
    );
    assert_eq!(soon(rest(&mut stream)).await, b"");

    // An answer stands although the body was not wanted.
    let mut stream = third.ask(request("POST", "/refuse")).await;
    stream
        .send_data(Bytes::from_static(b"never read"))
        .await
        .unwrap();
    let answer = soon(stream.recv_response()).await.unwrap();
    assert_eq!(answer.status(), 403);
    assert_eq!(soon(rest(&mut stream)).await.len(), 800);
    let mut panics = third.ask(request("GET", "/panic")).await;
    panics.finish().await.unwrap();
    assert_eq!(soon(panics.recv_response()).await.unwrap().status(), 500);
    let version = "boxgate_http_requests_total{version=\"3\"} 5";
    server.running.metric(version).await;
    drop((stream, panics, third.asks));
    server.running.stop().await;
}

#[tokio::test]
async fn an_empty_frame_of_data_ends_no_body_of_http_3() {
    let server = Secured::start(|_| {}).await;
    let mut third = server.h3().await;
    let mut stream = third.ask(request("POST", "/echo")).await;
    for data in ["all of it", ""] {
        stream.send_data(Bytes::from(data)).await.unwrap();
    }
    stream.finish().await.unwrap();
    assert_eq!(soon(stream.recv_response()).await.unwrap().status(), 200);
    assert_eq!(rest(&mut stream).await, b"all of it");
    let mut stream = third.ask(request("POST", "/echo")).await;
    for data in ["", "not all of it"] {
        // It may be refused before it is sent.
        let _refused = stream.send_data(Bytes::from(data)).await;
    }
    let _refused = stream.finish().await;
    assert!(soon(stream.recv_response()).await.is_err());
    drop((stream, third.asks));
    server.running.stop().await;
}

#[tokio::test]
async fn a_stop_lets_requests_end_and_tells_clients_to_go() {
    let server = Secured::start(|_| {}).await;
    let mut asks = server.h2().await;
    let (second, _) = asks.send_request(request("GET", "/wait"), true).unwrap();
    server.running.paths.waiting.notified().await;
    let mut third = server.h3().await;
    let mut stream = third.ask(request("GET", "/wait")).await;
    stream.finish().await.unwrap();
    server.running.paths.waiting.notified().await;
    let paths = Arc::clone(&server.running.paths);
    server.running.drain.signal();
    // Told by GOAWAY: no request more on the old connections.
    let refused = async {
        while let Ok((answer, _)) = { soon(asks.clone().ready()).await }
            .and_then(|mut asks| asks.send_request(request("GET", "/who"), true))
        {
            drop(answer);
            tokio::task::yield_now().await;
        }
    };
    soon(refused).await;
    paths.go.notify_waiters();
    let second = soon(second).await.unwrap();
    assert_eq!(soon(collect(second.into_body())).await, b"done");
    let answer = soon(stream.recv_response()).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(soon(rest(&mut stream)).await, b"done");
    drop(asks);
    soon(server.running.task).await.unwrap();
    soon(third.driving).await.unwrap();
}

#[tokio::test]
async fn beyond_their_number_connections_of_http_2_become_http_1() {
    let server = Secured::start(|settings| settings.limits.h2_connections = 1).await;
    let first = server.tls(&["h2", "http/1.1"]).await;
    assert_eq!(first.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let second = server.tls(&["h2", "http/1.1"]).await;
    assert_eq!(second.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let refused = "boxgate_connections_refused_total{limit=\"h2\"} 1";
    server.running.metric(refused).await;
    drop((first, second));
    server.running.stop().await;
}

#[tokio::test]
async fn who_never_shakes_hands_or_never_asks_is_ended() {
    let server = Secured::start(|settings| {
        settings.server.handshake_timeout = Duration::from_millis(100);
        settings.server.head_timeout = Duration::from_millis(100);
        settings.server.idle_timeout = Duration::from_millis(100);
    })
    .await;
    let mut silent = server.running.connect().await;
    assert_eq!(read_to_end(&mut silent).await, "");
    server
        .running
        .metric("boxgate_tls_handshakes_failed_total 1")
        .await;
    let mut no_preface = server.tls(&["h2"]).await;
    let mut all = Vec::new();
    let _end = soon(no_preface.read_to_end(&mut all)).await;
    // Once asked, a connection is told to go when it is idle.
    let stream = server.tls(&["h2"]).await;
    let (mut asks, connection) = h2::client::handshake(stream).await.unwrap();
    let ended = tokio::spawn(connection);
    let (answer, _) = asks.send_request(request("GET", "/who"), true).unwrap();
    assert_eq!(soon(answer).await.unwrap().status(), 200);
    soon(ended).await.unwrap().unwrap();
    let mut third = server.h3().await;
    let mut stream = third.ask(request("GET", "/who")).await;
    stream.finish().await.unwrap();
    assert_eq!(soon(stream.recv_response()).await.unwrap().status(), 200);
    drop(stream);
    soon(third.driving).await.unwrap();
    server.running.metric("boxgate_connections 0").await;
    server.running.stop().await;
}

#[tokio::test]
async fn a_new_certificate_is_taken_while_connections_stand_and_a_broken_one_is_not() {
    let server = Secured::start(|_| {}).await;
    let before = server.client(&["h2"]);
    let mut asks = server.h2().await;
    let directory = server.directory.path();
    std::fs::write(directory.join("certificate.pem"), "nonsense").unwrap();
    server.running.metric("boxgate_tls_certificate_ok 0").await;
    let name = ServerName::try_from("localhost").unwrap();
    let connector = TlsConnector::from(Arc::new(before));
    let socket = server.running.connect().await;
    soon(connector.connect(name.clone(), socket)).await.unwrap();
    write_certificate(directory);
    server.running.metric("boxgate_tls_certificate_ok 1").await;
    // Whoever trusts the new one alone is served, whoever trusts the old one alone is not.
    server.tls(&["h2"]).await;
    let socket = server.running.connect().await;
    assert!(soon(connector.connect(name, socket)).await.is_err());
    let (answer, _) = asks.send_request(request("GET", "/who"), true).unwrap();
    assert_eq!(soon(answer).await.unwrap().status(), 200);
    drop(asks);
    server.running.stop().await;
}

#[tokio::test]
async fn interim_answers_come_before_the_answer_on_http_3() {
    let server = Secured::start(|_| {}).await;
    let mut third = server.h3().await;
    let mut stream = third.ask(request("POST", "/hint")).await;
    stream.send_data(Bytes::from_static(b"some")).await.unwrap();
    let hint = soon(stream.recv_response()).await.unwrap();
    assert_eq!(hint.status(), StatusCode::EARLY_HINTS);
    assert_eq!(
        hint.headers(),
        &HeaderMap::from_iter([(http::header::LOCATION, "/a".parse().unwrap())])
    );
    stream.finish().await.unwrap();
    assert_eq!(soon(stream.recv_response()).await.unwrap().status(), 204);
    drop((stream, third.asks));
    server.running.stop().await;
}
