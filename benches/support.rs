//! What several benches share: content, CPU clocks, and a client that feeds a server over loopback.
//!
//! Nothing here is measured. The feeding client runs on a thread of its own, whose CPU time is taken
//! off, so that what remains is the receiving side's.

#![expect(
    clippy::missing_panics_doc,
    reason = "a bench that cannot go on panics"
)]

pub mod hot;
pub mod rows;

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustix::time::{ClockId, clock_gettime};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

// As the program itself: kept frames are dear with the system's allocator.
#[global_allocator]
static ALLOCATOR: boxgate::sys::alloc::Counting = boxgate::sys::alloc::Counting;

/// Bytes of [`block`].
pub const BLOCK_BYTES: usize = 1 << 20;

/// What one transfer cost.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// From the client's first byte to the answer's end.
    pub wall: Duration,
    /// CPU time of the whole process without the client's thread.
    pub cpu: Duration,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.wall += other.wall;
        self.cpu += other.cpu;
    }
}

/// A random MiB.
pub fn block() -> Vec<u8> {
    let mut bytes = vec![0; BLOCK_BYTES];
    getrandom::fill(&mut bytes).expect("Linux always has random bytes to give");
    bytes
}

/// A runtime like the program's own.
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime needs a few threads only")
}

/// Sends `length` bytes as one request to a hyper server whose handler is `serve`, and tells what that
/// cost. No two calls send the same bytes.
pub fn over_http<F>(
    runtime: &Runtime,
    length: u64,
    serve: impl FnOnce(Incoming) -> F + Send + 'static,
) -> Cost
where
    F: Future<Output = ()> + Send + 'static,
{
    over_tcp(runtime, length, move |listener| async move {
        let (stream, _) = listener.accept().await.expect("the client connects");
        let serve = Mutex::new(Some(serve));
        let service = service_fn(|request: http::Request<Incoming>| {
            let serve = serve.lock().map(|mut serve| serve.take());
            let serve = serve
                .ok()
                .flatten()
                .expect("a connection carries one request");
            let answered = serve(request.into_body());
            async move {
                answered.await;
                Ok::<_, Infallible>(http::Response::new(Empty::<Bytes>::new()))
            }
        });
        // As the gateway sets its connections up: default buffers.
        let served = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await;
        served.expect("a connection on loopback holds");
    })
}

/// Sends `length` bytes with an HTTP head before them to whatever accepts on the listener.
///
/// The serving future runs on a worker, as connections do in the program.
pub fn over_tcp<F>(runtime: &Runtime, length: u64, serve: impl FnOnce(TcpListener) -> F) -> Cost
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = runtime
        .block_on(TcpListener::bind("127.0.0.1:0"))
        .expect("loopback has ports");
    let address = listener
        .local_addr()
        .expect("a bound socket has an address");
    let block = block();
    let serving = runtime.spawn(serve(listener));
    let cost = paid_by_others(move || send(address, &block, length));
    runtime
        .block_on(serving)
        .expect("the server does not panic");
    cost
}

/// What a client's work costs the rest of the process.
pub fn paid_by_others(work: impl FnOnce() + Send + 'static) -> Cost {
    let before = cpu(ClockId::ProcessCPUTime);
    let started = tokio::time::Instant::now();
    let client = std::thread::spawn(move || {
        work();
        cpu(ClockId::ThreadCPUTime)
    });
    let client = client.join().expect("the client does not panic");
    let wall = started.elapsed();
    let all = cpu(ClockId::ProcessCPUTime).saturating_sub(before);
    Cost {
        wall,
        cpu: all.saturating_sub(client),
    }
}

fn send(to: SocketAddr, block: &[u8], length: u64) {
    static SALT: AtomicU64 = AtomicU64::new(0);
    let salt = SALT.fetch_add(1, Ordering::Relaxed).to_le_bytes();
    let mut stream = TcpStream::connect(to).expect("the server listens");
    let head = format!(
        "POST / HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    stream
        .write_all(head.as_bytes())
        .expect("the server reads the head");
    let mut left = length;
    while left > 0 {
        let now = usize::try_from(left).map_or(block.len(), |left| left.min(block.len()));
        // The very first bytes make the whole unique; the rest may repeat.
        let stamp = if left == length {
            &salt[..now.min(8)]
        } else {
            &[]
        };
        stream.write_all(stamp).expect("the server reads");
        stream
            .write_all(&block[stamp.len()..now])
            .expect("the server reads");
        left -= now as u64;
    }
    let mut answer = Vec::new();
    // A raw receiver answers nothing and closes.
    stream
        .read_to_end(&mut answer)
        .expect("the server ends the connection in order");
}

/// CPU time of this thread for `times` calls: what a busy machine does not change.
pub fn on_this_thread<T>(times: u64, mut work: impl FnMut() -> T) -> Duration {
    let before = cpu(ClockId::ThreadCPUTime);
    for _ in 0..times {
        std::hint::black_box(work());
    }
    cpu(ClockId::ThreadCPUTime).saturating_sub(before)
}

fn cpu(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}
