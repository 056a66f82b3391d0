//! A bad line between a store and its client: connections that are reset at any byte, or crawl.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A connection breaks somewhere in its first so many bytes: once in about eight parts of 8 MiB.
const LONGEST: u64 = 128 << 20;
/// The first one does within its first request, whatever that is.
const FIRST: u64 = 256;
/// What a crawling connection passes on in a second.
const CRAWL_BYTES: usize = 1 << 10;
/// Seconds of that, before nothing comes any more.
const CRAWLS: usize = 8;

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Break {
    /// In the middle of a request, which arrives in part.
    Request,
    /// In the middle of the next answer; its request was carried out.
    Answer,
    /// The request goes on, a KiB in a second.
    Crawl,
}

/// The line; it ends with the runtime of its test.
#[derive(Debug)]
pub(crate) struct Cable {
    pub(crate) endpoint: String,
    broken: Arc<AtomicUsize>,
}

impl Cable {
    pub(crate) async fn to(endpoint: &str, seed: u64) -> Self {
        let service: SocketAddr = endpoint.strip_prefix("http://").unwrap().parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let broken = Arc::new(AtomicUsize::new(0));
        let this = Self {
            endpoint: format!("http://{}", listener.local_addr().unwrap()),
            broken: Arc::clone(&broken),
        };
        tokio::spawn(async move {
            let mut dice = fastrand::Rng::with_seed(seed);
            let mut longest = FIRST;
            while let Ok((client, _)) = listener.accept().await {
                let after = dice.u64(..std::mem::replace(&mut longest, LONGEST));
                let ways = [Break::Request, Break::Answer, Break::Crawl];
                let way = ways[dice.usize(..ways.len())];
                let broken = Arc::clone(&broken);
                tokio::spawn(async move {
                    let service = TcpStream::connect(service).await.unwrap();
                    // Either side may go at any time.
                    let _gone = carry(client, service, way, after, &broken).await;
                });
            }
        });
        this
    }

    /// Connections that were broken, or crawled.
    pub(crate) fn broken(&self) -> usize {
        self.broken.load(Ordering::Relaxed)
    }
}

/// Passes bytes on until the request that has the byte `after`.
async fn carry(
    mut client: TcpStream,
    mut service: TcpStream,
    way: Break,
    mut after: u64,
    broken: &AtomicUsize,
) -> std::io::Result<()> {
    let (mut request, mut answer) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut due = false;
    loop {
        tokio::select! {
            n = client.read(&mut request) => {
                let n = n?;
                if n == 0 {
                    return Ok(());
                }
                let here = usize::try_from(after).map_or(n, |after| after.min(n));
                after -= here as u64;
                if here < n && !due {
                    due = true;
                    broken.fetch_add(1, Ordering::Relaxed);
                }
                match way {
                    Break::Request if due => {
                        service.write_all(&request[..here]).await?;
                        service.set_zero_linger()?;
                        client.set_zero_linger()?;
                        return Ok(());
                    }
                    Break::Crawl if due => {
                        for bytes in request[..n].chunks(CRAWL_BYTES).take(CRAWLS) {
                            tokio::time::sleep(Duration::from_secs(1)).await;
                            service.write_all(bytes).await?;
                        }
                        // Whoever waited long enough is gone by now.
                        while client.read(&mut request).await? > 0 {}
                        return Ok(());
                    }
                    _ => service.write_all(&request[..n]).await?,
                }
            }
            n = service.read(&mut answer) => {
                let n = n?;
                if n == 0 {
                    return Ok(());
                }
                if due && way == Break::Answer {
                    client.write_all(&answer[..n / 2]).await?;
                    client.set_zero_linger()?;
                    return Ok(());
                }
                client.write_all(&answer[..n]).await?;
            }
        }
    }
}
