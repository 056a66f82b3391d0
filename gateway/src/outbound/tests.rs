use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// Names as a test wants them.
#[derive(Debug, Default)]
struct Names(BTreeMap<&'static str, Vec<&'static str>>);

impl Resolve for Names {
    fn resolve(&self, name: String, port: u16) -> BoxFuture<'_, std::io::Result<Vec<SocketAddr>>> {
        let found = self.0.get(name.as_str()).map(|ips| {
            let address = |ip: &&str| SocketAddr::new(ip.parse().unwrap(), port);
            ips.iter().map(address).collect()
        });
        let found = found.ok_or_else(|| std::io::Error::other("no such name"));
        Box::pin(std::future::ready(found))
    }
}

fn settings(opened: &[&str]) -> settings::Outbound {
    settings::Outbound {
        allow_networks: opened.iter().map(|text| text.parse().unwrap()).collect(),
        ca: Vec::new(),
    }
}

fn client(settings: &settings::Outbound, names: &[(&'static str, &[&'static str])]) -> Caller {
    let names = names.iter().map(|(name, ips)| (*name, ips.to_vec()));
    let outbound = Outbound::with_resolver(settings, Arc::new(Names(names.collect())));
    outbound.caller("tests.allow_networks", &[], Duration::from_secs(3))
}

fn get(url: &str) -> Outgoing {
    Outgoing {
        method: Method::GET,
        to: Destination::parse(url).unwrap(),
        headers: HeaderMap::new(),
        body: Bytes::new(),
        time: Duration::from_secs(20),
        most: 1_000,
        cut: false,
    }
}

/// A server that answers every request with the same bytes, and counts connections and requests.
struct Trap {
    port: u16,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

impl Trap {
    async fn start(answer: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let trap = Self {
            port: listener.local_addr().unwrap().port(),
            connections: Arc::default(),
            requests: Arc::default(),
        };
        let (connections, requests) = (trap.connections.clone(), trap.requests.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let requests = requests.clone();
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).await.is_ok() {
                        head.push(byte[0]);
                        if head.ends_with(b"\r\n\r\n") {
                            head.clear();
                            requests.fetch_add(1, Ordering::SeqCst);
                            if stream.write_all(answer).await.is_err() {
                                return;
                            }
                        }
                    }
                });
            }
        });
        trap
    }

    fn counts(&self) -> (usize, usize) {
        let read = |count: &AtomicUsize| count.load(Ordering::SeqCst);
        (read(&self.connections), read(&self.requests))
    }
}

async fn fault(caller: &Caller, request: Outgoing) -> FaultKind {
    caller.send(request).await.unwrap_err().kind
}

const FINE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

#[tokio::test]
async fn what_may_not_be_reached_gets_no_connection() {
    let trap = Trap::start(FINE).await;
    let port = trap.port;
    let names: &[(&str, &[&str])] = &[
        ("loop.example", &["127.0.0.1"]),
        ("both.example", &["1.1.1.1", "127.0.0.1"]),
        ("mapped.example", &["::ffff:127.0.0.1"]),
        ("none.example", &[]),
    ];
    let places = [
        ("127.0.0.1", FaultKind::Blocked),
        ("[::ffff:127.0.0.1]", FaultKind::Blocked),
        ("[::1]", FaultKind::Blocked),
        ("169.254.169.254", FaultKind::Blocked),
        ("loop.example", FaultKind::Blocked),
        ("both.example", FaultKind::Blocked),
        ("mapped.example", FaultKind::Blocked),
        ("none.example", FaultKind::Resolve),
        ("unknown.example", FaultKind::Resolve),
    ];
    for opened in [&[][..], &["192.168.77.0/24"]] {
        let caller = client(&settings(opened), names);
        for (host, kind) in places {
            for scheme in ["http", "https"] {
                let url = format!("{scheme}://{host}:{port}/");
                assert_eq!(fault(&caller, get(&url)).await, kind, "{url}");
            }
        }
    }
    // A public address by plain http is refused before anything is sent.
    let caller = client(&settings(&["127.0.0.0/8"]), names);
    assert_eq!(
        fault(&caller, get("http://1.1.1.1/")).await,
        FaultKind::Blocked
    );
    assert_eq!(trap.counts(), (0, 0));
    let refusal = caller.send(get("http://1.1.1.1/")).await.unwrap_err();
    assert!(
        refusal.to_string().contains("tests.allow_networks"),
        "{refusal}"
    );
}

#[tokio::test]
async fn opened_network_is_reached_over_one_connection() {
    let trap = Trap::start(FINE).await;
    let caller = client(
        &settings(&["127.0.0.0/8"]),
        &[("here.example", &["127.0.0.1"])],
    );
    for _ in 0..3 {
        let url = format!("http://here.example:{}/x?y", trap.port);
        let answer = caller.send(get(&url)).await.unwrap();
        assert_eq!(
            (answer.status, answer.body.as_ref()),
            (StatusCode::OK, &b"hello"[..])
        );
    }
    assert_eq!(trap.counts(), (1, 3));
}

#[tokio::test]
async fn redirect_is_told_and_not_followed() {
    let there = Trap::start(FINE).await;
    let text = format!(
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:{}/\r\ncontent-length: 0\r\n\r\n",
        there.port
    );
    let here = Trap::start(text.leak().as_bytes()).await;
    let caller = client(&settings(&["127.0.0.0/8"]), &[]);
    let answer = caller
        .send(get(&format!("http://127.0.0.1:{}/", here.port)))
        .await;
    assert_eq!(answer.unwrap().status, StatusCode::FOUND);
    assert_eq!(there.counts(), (0, 0));
}

#[tokio::test]
async fn answers_end_at_their_bounds() {
    let caller = client(&settings(&["127.0.0.0/8"]), &[]);
    let long = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n{}",
        "x".repeat(5_000)
    );
    let trap = Trap::start(long.leak().as_bytes()).await;
    let url = format!("http://127.0.0.1:{}/", trap.port);
    assert_eq!(fault(&caller, get(&url)).await, FaultKind::TooLarge);
    let cut = Outgoing {
        cut: true,
        ..get(&url)
    };
    assert_eq!(caller.send(cut).await.unwrap().body.len(), 1_000);

    let head = format!(
        "HTTP/1.1 200 OK\r\nx: {}\r\n\r\n",
        "x".repeat(2 * MOST_HEAD_BYTES)
    );
    let trap = Trap::start(head.leak().as_bytes()).await;
    let url = format!("http://127.0.0.1:{}/", trap.port);
    assert_eq!(fault(&caller, get(&url)).await, FaultKind::Broken);

    let silent = Trap::start(b"").await;
    let request = Outgoing {
        time: Duration::from_millis(50),
        ..get(&format!("http://127.0.0.1:{}/", silent.port))
    };
    assert_eq!(fault(&caller, request).await, FaultKind::Timeout);

    let garbage = Trap::start(b"SSH-2.0-what\r\n\r\n").await;
    let url = format!("http://127.0.0.1:{}/", garbage.port);
    assert_eq!(fault(&caller, get(&url)).await, FaultKind::Broken);
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", nobody.local_addr().unwrap());
    drop(nobody);
    assert_eq!(fault(&caller, get(&url)).await, FaultKind::Connect);
}

#[tokio::test]
async fn interim_answers_are_passed_over_and_end_the_request_where_they_do_not_end() {
    let caller = client(&settings(&["127.0.0.0/8"]), &[]);
    let some = [
        &b"HTTP/1.1 103 Early Hints\r\n\r\n".repeat(MOST_INTERIM),
        FINE,
    ]
    .concat();
    let trap = Trap::start(some.leak()).await;
    let url = format!("http://127.0.0.1:{}/", trap.port);
    assert_eq!(caller.send(get(&url)).await.unwrap().body, "hello");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let asked = stream.read(&mut [0; 1_000]).await.unwrap();
        assert!(asked > 0);
        while stream
            .write_all(b"HTTP/1.1 100 Go on\r\n\r\n")
            .await
            .is_ok()
        {}
    });
    assert_eq!(fault(&caller, get(&url)).await, FaultKind::TooLarge);
    server.await.unwrap();
}

#[tokio::test]
async fn fields_that_say_how_a_message_travels_are_refused() {
    let trap = Trap::start(FINE).await;
    let caller = client(&settings(&["127.0.0.0/8"]), &[]);
    for name in [
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "proxy-authorization",
    ] {
        let mut request = get(&format!("http://127.0.0.1:{}/", trap.port));
        let name = HeaderName::from_static(name);
        request
            .headers
            .insert(name.clone(), HeaderValue::from_static("1"));
        assert_eq!(fault(&caller, request).await, FaultKind::Request, "{name}");
    }
    assert_eq!(trap.counts(), (0, 0));
}

#[tokio::test]
async fn https_trusts_named_authorities_and_nobody_by_mistake() {
    let made = rcgen::generate_simple_self_signed(["here.example".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let mut head = [0; 1_000];
                let _ = stream.read(&mut head).await;
                let _ = stream.write_all(FINE).await;
                let _ = stream.shutdown().await;
            }
        }
    });
    let names: &[(&str, &[&str])] = &[
        ("here.example", &["127.0.0.1"]),
        ("other.example", &["127.0.0.1"]),
    ];
    let mut opened = settings(&["127.0.0.0/8"]);
    let url = format!("https://here.example:{port}/");
    assert_eq!(
        fault(&client(&opened, names), get(&url)).await,
        FaultKind::Tls
    );
    opened.ca = vec![made.cert.der().clone()];
    let trusting = client(&opened, names);
    assert_eq!(
        trusting.send(get(&url)).await.unwrap().status,
        StatusCode::OK
    );
    let other = format!("https://other.example:{port}/");
    let refusal = trusting.send(get(&other)).await.unwrap_err();
    assert_eq!(refusal.kind, FaultKind::Tls);
    assert_eq!(
        refusal.to_string(),
        "other.example: its certificate is not for that name",
        "what else it is for is nobody's business"
    );
}

#[test]
fn the_page_of_hooks_names_every_field_that_no_caller_sets() {
    let page = include_str!("../../../docs/HOOKS.md");
    let (_, list) = page
        .split_once("A request by `http::` has any but")
        .unwrap();
    let (list, _) = list.split_once(".\n").unwrap();
    for name in &OWN_FIELDS {
        assert!(list.contains(&format!("`{name}`")), "{name}");
    }
}
