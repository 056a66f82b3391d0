//! Webhooks that go out: who may be told of what, how it is signed and sent, and what becomes of it when it is not taken.

mod kept;
mod plugins;
mod sent;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use boxgate_storage::clock::ManualClock;
use boxgate_storage::metadata::accounts::PlatformRole;
use boxgate_storage::metadata::tokens::TokenKind;
use ring::hmac;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::harness::{Reply, Request, Running};

const SECRET: &str = "webhook-secret-of-some-length";
const OPEN: (&str, &str) = ("BOXGATE_WEBHOOKS__ALLOW_NETWORKS", "127.0.0.0/8");

/// One request that a receiver got.
#[derive(Debug, Clone)]
pub(crate) struct Got {
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

impl Got {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// Whether its signatures are those of this secret.
    fn is_signed(&self, secret: &str) -> bool {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let legacy = format!(
            "sha256={}",
            hex::encode(hmac::sign(&key, self.body.as_bytes()))
        );
        let (id, time) = (self.header("webhook-id"), self.header("webhook-timestamp"));
        let tag = hmac::sign(&key, format!("{id}.{time}.{}", self.body).as_bytes());
        use base64::Engine as _;
        let tag = base64::engine::general_purpose::STANDARD.encode(tag);
        self.header("x-boxvault-signature") == legacy
            && self
                .header("webhook-signature")
                .split(' ')
                .any(|one| one == format!("v1,{tag}"))
    }
}

type Answers = Arc<dyn Fn(usize, &Got) -> String + Send + Sync>;

/// A server that notes what it gets and answers as it is told.
pub(crate) struct Receiver {
    pub(crate) url: String,
    got: Arc<Mutex<Vec<Got>>>,
    news: Arc<Notify>,
}

impl Receiver {
    /// One that answers with what `answers` says of the number of the request, and of the request.
    pub(crate) async fn with(
        answers: impl Fn(usize, &Got) -> String + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/in?x=1", listener.local_addr().unwrap());
        let (got, news) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Notify::new()));
        let answers: Answers = Arc::new(answers);
        let (noted, told) = (Arc::clone(&got), Arc::clone(&news));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = (Arc::clone(&noted), Arc::clone(&told), Arc::clone(&answers));
                tokio::spawn(serve(stream, shared));
            }
        });
        Self { url, got, news }
    }

    pub(crate) async fn ok() -> Self {
        Self::with(|_, _| status(200)).await
    }

    pub(crate) fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    /// Waits until it got so many.
    pub(crate) async fn has(&self, count: usize) -> Vec<Got> {
        loop {
            let news = self.news.notified();
            let got = self.got();
            if got.len() >= count {
                return got;
            }
            tokio::time::timeout(Duration::from_mins(1), news)
                .await
                .unwrap_or_else(|_late| panic!("{} came, {count} were to: {got:?}", got.len()));
        }
    }
}

pub(crate) fn status(status: u16) -> String {
    format!("HTTP/1.1 {status} x\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno")
}

async fn serve(mut stream: TcpStream, shared: (Arc<Mutex<Vec<Got>>>, Arc<Notify>, Answers)) {
    let (noted, told, answers) = shared;
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
    };
    let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
    let mut lines = text.lines();
    let path = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length: usize = headers["content-length"].parse().unwrap();
    while bytes.len() < head + 4 + length {
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let body = String::from_utf8(bytes[head + 4..].to_vec()).unwrap();
    let got = Got {
        path,
        headers,
        body,
    };
    let number = {
        let mut noted = noted.lock().unwrap();
        noted.push(got.clone());
        noted.len()
    };
    let answer = answers(number, &got);
    // Whoever waits for this one may have gone.
    drop(stream.write_all(answer.as_bytes()).await);
    told.notify_waiters();
    told.notify_one();
}

/// A gateway with an administrator of the platform.
struct Platform {
    running: Running,
    admin: String,
}

impl Platform {
    async fn start(variables: &[(&str, &str)]) -> Self {
        Self::of(Running::start_with(&[&[OPEN], variables].concat()).await).await
    }

    /// With a clock that moves when it is told to.
    async fn at(clock: &Arc<ManualClock>, variables: &[(&str, &str)]) -> Self {
        let variables = [&[OPEN], variables].concat();
        let clock = Arc::clone(clock) as Arc<_>;
        Self::of(Running::start_at(tempfile::tempdir().unwrap(), &variables, clock).await).await
    }

    async fn of(running: Running) -> Self {
        let admin = running.account("root", PlatformRole::Admin).await;
        let admin = running.token(admin, TokenKind::Personal, None).await;
        Self { running, admin }
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> Reply {
        let path = format!("/api/admin/webhooks{path}");
        let request = Request::new(method, &path).token(&self.admin);
        self.running.send(request.json(&body)).await
    }

    async fn get(&self, path: &str) -> Value {
        let reply = self.call("GET", path, json!({})).await;
        assert_eq!(
            reply.status,
            200,
            "{}",
            String::from_utf8_lossy(&reply.body)
        );
        reply.json()
    }

    /// Makes an endpoint; its id.
    async fn endpoint(&self, url: &str, more: Value) -> String {
        let mut body = json!({"url": url, "events": ["*"], "secret": SECRET});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        let reply = self.call("POST", "", body).await;
        assert_eq!(
            reply.status,
            201,
            "{}",
            String::from_utf8_lossy(&reply.body)
        );
        reply.json()["id"].as_str().unwrap().to_owned()
    }

    async fn upload(&self, name: &str, version: &str) {
        let reply = self.running.upload(name, version, b"box").await;
        assert!(
            reply.status < 300,
            "{}",
            String::from_utf8_lossy(&reply.body)
        );
    }

    /// What is in the log of an endpoint, the newest first.
    async fn log(&self, id: &str) -> Vec<Value> {
        self.get(&format!("/{id}/deliveries?limit=200")).await["data"]
            .as_array()
            .unwrap()
            .clone()
    }

    /// How many attempts are in the log of an endpoint.
    async fn attempts(&self, id: &str) -> usize {
        let log = self.log(id).await;
        let attempts = log
            .iter()
            .map(|one| one["attempts"].as_array().unwrap().len());
        attempts.sum()
    }

    /// Waits until an endpoint's document fits.
    async fn until(&self, id: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let mut told = Value::Null;
        for _ in 0..600 {
            told = self.get(&format!("/{id}")).await;
            if fits(&told) {
                return told;
            }
            self.running.gateway.outlet.tell();
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("it stays as it is: {told}");
    }
}

fn now(clock: &ManualClock) -> i64 {
    use boxgate_storage::clock::Clock as _;
    clock.now().0
}

fn clock_at(clock: &ManualClock, seconds: i64) -> i64 {
    now(clock) + seconds * 1000
}
