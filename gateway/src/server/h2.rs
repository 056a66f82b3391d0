//! One connection of HTTP/2: many requests at once, each with its own clocks, within fixed windows.
//!
//! hyper runs each stream as a task that we start (its executor), so that who does not read an answer
//! can be found out there: hyper asks no body for bytes while the client's window is shut, and nothing
//! inside a body would ever be called.

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::Request;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body::Source;
use super::exchange::{Answer, Arrived, Exchange, Way};
use super::linger::{ConnState, LINGER_BYTES, LINGER_TIME, Wire};
use super::pace::{Pace, Patience};
use super::socket::Carrier;
use super::tcp::Acceptor;

/// RFC 9113 §4.2: the least that every peer takes; more only makes others wait longer.
const FRAME_BYTES: u32 = 16 << 10;
/// What one answer may have waiting beside what its body holds.
const SENDING_BYTES: usize = 64 << 10;

/// Serves one connection until it ends, is idle for too long, or is stopped.
pub(super) async fn serve<S>(acceptor: &Acceptor, stream: S, way: Way, state: Arc<ConnState>)
where
    S: Carrier + Send + 'static,
{
    let server = &acceptor.exchange.rules.server;
    let limits = &acceptor.exchange.rules.limits;
    let activity = Activity::default();
    // Windows and pings come as long as answers are read.
    state.request_came(false);
    let wire = Wire::new(stream, Arc::clone(&state));
    let cut = acceptor.drain.cut();
    let streams = Streams {
        running: acceptor.running.clone(),
        patience: acceptor.exchange.patience,
        activity: activity.clone(),
    };
    let service = Connection {
        exchange: Arc::clone(&acceptor.exchange),
        way,
        state,
        running: acceptor.running.clone(),
        cut: cut.clone(),
    };
    let mut connection = pin!(
        http2::Builder::new(streams)
            .timer(TokioTimer::new())
            .adaptive_window(false)
            .initial_connection_window_size(server.h2_window_bytes)
            .initial_stream_window_size(server.h2_window_bytes)
            .max_concurrent_streams(limits.h2_streams)
            .max_header_list_size(limits.h2_header_list_bytes)
            .max_frame_size(FRAME_BYTES)
            .max_send_buf_size(SENDING_BYTES)
            .max_pending_accept_reset_streams(limits.h2_pending_resets)
            .max_local_error_reset_streams(limits.h2_broken_streams)
            .keep_alive_interval(server.h2_ping)
            .keep_alive_timeout(server.h2_ping_timeout)
            .serve_connection(TokioIo::new(wire), service)
    );
    let closing = acceptor.drain.closing();
    let mut silent = pin!(activity.silent(server.head_timeout));
    let mut idle = pin!(activity.idle(server.idle_timeout));
    let mut asked = false;
    loop {
        tokio::select! {
            biased;
            () = cut.cancelled() => return,
            // Not even the first request came, perhaps not even what HTTP/2 begins with.
            () = &mut silent, if !asked => return,
            () = closing.cancelled(), if !asked => {
                asked = true;
                connection.as_mut().graceful_shutdown();
            }
            // Told to go already: what is left of the last answers is not read.
            () = &mut idle => {
                if asked {
                    return;
                }
                asked = true;
                connection.as_mut().graceful_shutdown();
                idle.set(activity.idle(server.body_idle_timeout));
            }
            result = &mut connection => {
                if let Err(error) = result {
                    let error = boxgate_storage::error::chain(&error);
                    tracing::debug!(%error, "a connection broke");
                }
                return;
            }
        }
    }
}

/// How many requests of a connection are in progress; each change is seen.
#[derive(Clone)]
pub(super) struct Activity(watch::Sender<Requests>);

#[derive(Debug, Clone, Copy, Default)]
struct Requests {
    active: usize,
    any: bool,
}

impl Default for Activity {
    fn default() -> Self {
        Self(watch::Sender::new(Requests::default()))
    }
}

impl Activity {
    /// One request more, until the guard is dropped.
    pub(super) fn begin(&self) -> Active {
        self.0.send_modify(|requests| {
            requests.active += 1;
            requests.any = true;
        });
        Active(self.clone())
    }

    /// Returns when no request came within `time`; never, once one did.
    pub(super) async fn silent(&self, time: Duration) {
        tokio::time::sleep(time).await;
        if self.0.borrow().any {
            std::future::pending::<()>().await;
        }
    }

    /// Returns when for `time` there was no request.
    pub(super) async fn idle(&self, time: Duration) {
        let mut requests = self.0.subscribe();
        loop {
            let active = requests.borrow_and_update().active;
            let pause = async {
                if active > 0 {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(time).await;
            };
            tokio::select! {
                () = pause => return,
                // The sender is ours, so this is a change.
                _ = requests.changed() => {}
            }
        }
    }
}

/// A request in progress.
pub(super) struct Active(Activity);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.0.send_modify(|requests| requests.active -= 1);
    }
}

/// Starts hyper's tasks, each watched.
#[derive(Clone)]
struct Streams {
    running: TaskTracker,
    patience: Patience,
    activity: Activity,
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let watched = Watched {
            stream: Some(Box::pin(stream)),
            reader: Arc::default(),
            pace: Pace::new(self.patience),
            _active: self.activity.begin(),
        };
        drop(self.running.spawn(watched));
    }
}

tokio::task_local! {
    /// Who reads the answer of the stream whose task runs.
    static READER: Arc<Reader>;
}

/// What a stream's task and the body of its answer tell each other.
#[derive(Default)]
struct Reader {
    /// The request's, once it came.
    state: std::sync::OnceLock<Arc<ConnState>>,
    /// There is an answer.
    answered: AtomicBool,
    /// Its body was asked in this turn, and has nothing to give.
    source_waits: AtomicBool,
    /// Bytes that the body gave since it was looked at last.
    given: std::sync::atomic::AtomicUsize,
}

/// Tells of a body's turn, on HTTP/2.
pub(super) fn body_polled(given: Option<usize>) {
    let _elsewhere = READER.try_with(|reader| match given {
        Some(bytes) => {
            reader.given.fetch_add(bytes, Ordering::Relaxed);
        }
        None => reader.source_waits.store(true, Ordering::Relaxed),
    });
}

/// One stream's task. Dropping hyper's half resets the stream.
struct Watched<F> {
    stream: Option<Pin<Box<F>>>,
    reader: Arc<Reader>,
    pace: Pace,
    _active: Active,
}

impl<F: Future<Output = ()>> Future for Watched<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(stream) = &mut this.stream else {
            return Poll::Ready(());
        };
        let reader = &this.reader;
        reader.source_waits.store(false, Ordering::Relaxed);
        if READER
            .sync_scope(Arc::clone(reader), || stream.as_mut().poll(cx))
            .is_ready()
        {
            return Poll::Ready(());
        }
        let given = reader.given.swap(0, Ordering::Relaxed);
        if given > 0 {
            this.pace.moved(given);
        }
        let waits_for_client =
            reader.answered.load(Ordering::Relaxed) && !reader.source_waits.load(Ordering::Relaxed);
        if !waits_for_client {
            this.pace.rest();
            return Poll::Pending;
        }
        if this.pace.poll_stalled(cx).is_pending() {
            return Poll::Pending;
        }
        if let Some(state) = reader.state.get() {
            state.reads_slowly();
        }
        // The body hears of its end in here, and tells why.
        this.stream = None;
        Poll::Ready(())
    }
}

/// hyper's view of us: one request in, one answer out.
struct Connection {
    exchange: Arc<Exchange>,
    way: Way,
    state: Arc<ConnState>,
    running: TaskTracker,
    cut: CancellationToken,
}

impl hyper::service::Service<Request<Incoming>> for Connection {
    type Response = Answer;
    type Error = Gone;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (head, body) = request.into_parts();
        let has_body = !body.is_end_stream();
        let state = Arc::new(ConnState::stream_of(&self.state));
        let arrived = Arrived {
            head,
            body: Source::Stream(Stream {
                body: Some(body),
                running: self.running.clone(),
                cut: self.cut.clone(),
            }),
            has_body,
            state: Arc::clone(&state),
        };
        let answering = self.exchange.answer(&self.way, arrived);
        let answering = if has_body {
            apart(answering.boxed(), &self.running, self.cut.clone())
        } else {
            answering.map(Ok).boxed()
        };
        Box::pin(async move {
            let told = |reader: &Arc<Reader>| {
                let _twice = reader.state.set(state);
                Arc::clone(reader)
            };
            let reader = READER.try_with(told).ok();
            let answer = answering.await?;
            if let Some(reader) = reader {
                reader.answered.store(true, Ordering::Relaxed);
            }
            Ok(answer)
        })
    }
}

/// The body of a request. Dropped before its end, it is taken in for a while and thrown away: letting go of it resets
/// the stream (RFC 9113 §8.1), and there are clients that take the reset for a failure while they still send, and do
/// not look at the answer that came before it.
pub(super) struct Stream {
    body: Option<Incoming>,
    running: TaskTracker,
    cut: CancellationToken,
}

impl Deref for Stream {
    type Target = Incoming;

    fn deref(&self) -> &Incoming {
        self.body.as_ref().expect(PRESENT)
    }
}

impl DerefMut for Stream {
    fn deref_mut(&mut self) -> &mut Incoming {
        self.body.as_mut().expect(PRESENT)
    }
}

const PRESENT: &str = "there until it is dropped";

impl Drop for Stream {
    fn drop(&mut self) {
        let unread = self.body.take().filter(|body| !body.is_end_stream());
        let (Some(body), Ok(runtime)) = (unread, Handle::try_current()) else {
            return;
        };
        let cut = self.cut.clone();
        // As many as the connection may have streams, for each is open until its task ends.
        self.running.spawn_on(
            async move {
                tokio::select! {
                    () = discard(body) => {}
                    () = cut.cancelled() => {}
                }
            },
            &runtime,
        );
    }
}

/// Takes and throws away, then lets the client run against a full window.
async fn discard(mut body: Incoming) {
    let until = Instant::now() + LINGER_TIME;
    let mut left = LINGER_BYTES;
    while let Ok(Some(Ok(frame))) = timeout_at(until, body.frame()).await {
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        if left == 0 {
            sleep_until(until).await;
        }
    }
}

/// There is no answer any more.
#[derive(Debug, thiserror::Error)]
#[error("the gateway stops")]
pub(super) struct Gone;

/// Answers in a task of its own. hyper drops what works on a request as soon as the client takes it back;
/// an upload that is cut must come to the end of what it has, as on HTTP/1.1, where it is told by its body.
fn apart(
    answering: BoxFuture<'static, Answer>,
    running: &TaskTracker,
    cut: CancellationToken,
) -> BoxFuture<'static, Result<Answer, Gone>> {
    let task = running.spawn(async move {
        tokio::select! {
            answer = answering => Some(answer),
            () = cut.cancelled() => None,
        }
    });
    async move { task.await.ok().flatten().ok_or(Gone) }.boxed()
}
