//! A receiver of webhooks as fast as a socket: it answers at once, or never, and counts what it was told.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::error::Result;
use crate::latency::Latency;

/// Whoever is asked for a path below this one says nothing for as long as the other side waits.
pub(super) const SILENT: &str = "/silent/";

/// What was told at one path.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    /// Ids of messages.
    pub(super) ids: HashSet<String>,
    /// Requests.
    pub(super) requests: u64,
    /// Requests without a signature.
    pub(super) unsigned: u64,
    /// From when an event happened to its first request.
    pub(super) after: Latency,
    /// When the first request came, and the last one.
    pub(super) span: Option<(Instant, Instant)>,
}

/// A listener on loopback; it ends when dropped.
#[derive(Debug)]
pub(super) struct Receiver {
    address: SocketAddr,
    told: Arc<Mutex<BTreeMap<String, Told>>>,
    _listening: JoinSet<()>,
}

impl Receiver {
    /// Listens.
    ///
    /// # Errors
    /// When there is no port.
    pub(super) async fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let told = Arc::new(Mutex::new(BTreeMap::new()));
        let mut listening = JoinSet::new();
        listening.spawn({
            let told = Arc::clone(&told);
            async move {
                let mut connections = JoinSet::new();
                loop {
                    tokio::select! {
                        accepted = listener.accept() => {
                            // One that is gone before it is taken is the other side's to tell of.
                            if let Ok((stream, _)) = accepted {
                                connections.spawn(serve(stream, Arc::clone(&told)));
                            }
                        }
                        Some(_ended) = connections.join_next() => {}
                    }
                }
            }
        });
        Ok(Self {
            address,
            told,
            _listening: listening,
        })
    }

    /// The URL of a path.
    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What was told at a path so far.
    pub(super) fn told(&self, path: &str) -> Told {
        lock(&self.told).get(path).cloned().unwrap_or_default()
    }

    /// How many different messages were told at a path.
    pub(super) fn count(&self, path: &str) -> usize {
        lock(&self.told).get(path).map_or(0, |told| told.ids.len())
    }

    /// Forgets all.
    pub(super) fn forget(&self) {
        lock(&self.told).clear();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers one request after the other, until the other side is gone.
async fn serve(mut stream: TcpStream, told: Arc<Mutex<BTreeMap<String, Told>>>) {
    let mut read = Vec::with_capacity(4096);
    while let Ok(Some((request, rest))) = next(&mut stream, read).await {
        read = rest;
        let silent = request.path.starts_with(SILENT);
        note(&mut lock(&told), request);
        if silent {
            let mut nothing = [0; 1];
            // The other side says no more, and hangs up in the end.
            let _hung_up = stream.read(&mut nothing).await;
            return;
        }
        let answered = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        if answered.is_err() {
            return;
        }
    }
}

struct Request {
    path: String,
    id: String,
    signed: bool,
    occurred: Option<Timestamp>,
}

fn note(told: &mut BTreeMap<String, Told>, request: Request) {
    let now = Instant::now();
    let at = told.entry(request.path).or_default();
    at.requests += 1;
    at.unsigned += u64::from(!request.signed);
    at.span = Some((at.span.map_or(now, |(first, _)| first), now));
    if at.ids.insert(request.id)
        && let Some(occurred) = request.occurred
    {
        let after = Timestamp::now().duration_since(occurred);
        at.after
            .record(Duration::try_from(after).unwrap_or_default());
    }
}

/// The next request, with what was read behind it; `None` when the other side is gone.
async fn next(
    stream: &mut TcpStream,
    mut read: Vec<u8>,
) -> std::io::Result<Option<(Request, Vec<u8>)>> {
    let end = loop {
        if let Some(end) = read.windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut read).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&read[..end]).into_owned();
    let field = |name: &str| {
        let mut lines = head.split("\r\n").filter_map(|line| line.split_once(':'));
        lines.find_map(|(known, value)| known.eq_ignore_ascii_case(name).then_some(value.trim()))
    };
    let length: usize = field("content-length")
        .and_then(|n| n.parse().ok())
        .unwrap_or(0);
    while read.len() < end + length {
        if stream.read_buf(&mut read).await? == 0 {
            return Ok(None);
        }
    }
    let body = String::from_utf8_lossy(&read[end..end + length]);
    let occurred = body
        .split_once("\"occurred_at\":\"")
        .and_then(|(_, rest)| rest.split('"').next()?.parse().ok());
    let request = Request {
        path: head.split(' ').nth(1).unwrap_or_default().to_owned(),
        id: field("webhook-id").unwrap_or_default().to_owned(),
        signed: field("webhook-signature").is_some() && field("x-boxvault-signature").is_some(),
        occurred,
    };
    Ok(Some((request, read.split_off(end + length))))
}
