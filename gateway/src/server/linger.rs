//! What HTTP/1.1 and 2 stand on: answers stay readable; on HTTP/1.1 silent heads are timed and interim answers
//! sent, too.
//!
//! It stands on the socket itself, or on the TLS above it; slow readers are cut below both (`socket.rs`).
//!
//! hyper closes a connection as soon as its answer is written. If bytes of the request are still
//! on their way then, the kernel resets the connection and a client that writes before it reads
//! never sees the answer. So shutting down here means: stop writing, take and throw away what still
//! comes for a while, then let the client run against a full window until it reads or its time is over,
//! then close. On HTTP/2 what may be on its way are windows and pings.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::file::Outgoing;
use super::interim::{Interims, Places};
use super::lanes::Seat;
use super::pace::LazyTimer;
use super::socket::Carrier;

/// What is thrown away after an early answer, at most.
pub(super) const LINGER_BYTES: usize = 1 << 20;
/// How long, at most; also how long a client may go on with more than that, which nobody takes.
pub(super) const LINGER_TIME: Duration = Duration::from_secs(5);
/// How often it is looked whether the client went, while what it sends is not taken: the kernel calls once
/// for what is unread already, and not again.
const LINGER_LOOK: Duration = Duration::from_millis(50);
/// The longest wait for a head: longer than any, and far from the end of the clock.
const FOR_EVER: Duration = Duration::from_hours(24 * 365);

/// What the parts of one connection tell each other.
#[derive(Debug, Default)]
pub(super) struct ConnState {
    awaiting_head: AtomicBool,
    head_began: AtomicBool,
    unread: AtomicBool,
    reset: AtomicBool,
    slow_reader: AtomicBool,
    interims: Interims,
    /// What of a file is on its way, where nothing stands between hyper and the socket.
    outgoing: Option<Outgoing>,
    /// The connection that this stream of HTTP/2 is one of.
    carrier: Option<Arc<ConnState>>,
    /// Until its first request came.
    fresh: Mutex<Option<TaskTrackerToken>>,
    /// Where it runs, if it may move.
    seat: Option<Arc<Seat>>,
}

impl ConnState {
    /// A connection without TLS.
    pub(super) fn plain() -> Self {
        Self {
            outgoing: Some(Outgoing::default()),
            ..Self::default()
        }
    }

    /// Keeps `fresh` until the first request came.
    pub(super) fn with_fresh(self, fresh: TaskTrackerToken) -> Self {
        Self {
            fresh: Mutex::new(Some(fresh)),
            ..self
        }
    }

    /// One that runs where its seat says.
    pub(super) fn with_seat(self, seat: Arc<Seat>) -> Self {
        Self {
            seat: Some(seat),
            ..self
        }
    }

    /// Where it runs, if it may move.
    pub(super) fn seat(&self) -> Option<&Arc<Seat>> {
        self.seat.as_ref()
    }

    /// One stream of a connection that carries many.
    pub(super) fn stream_of(carrier: &Arc<Self>) -> Self {
        Self {
            carrier: Some(Arc::clone(carrier)),
            ..Self::default()
        }
    }

    /// hyper waits for a request head: whatever came before has been read.
    fn await_head(&self) {
        self.head_began.store(false, Ordering::Relaxed);
        self.unread.store(false, Ordering::Relaxed);
        self.awaiting_head.store(true, Ordering::Relaxed);
    }

    fn head_done(&self) {
        self.awaiting_head.store(false, Ordering::Relaxed);
    }

    fn bytes_came(&self) {
        if self.awaiting_head.load(Ordering::Relaxed) {
            self.head_began.store(true, Ordering::Relaxed);
            self.unread.store(true, Ordering::Relaxed);
        }
    }

    /// A head that began never ended.
    pub(super) fn head_is_partial(&self) -> bool {
        self.head_began.load(Ordering::Relaxed)
    }

    /// A request came; `all` when it has no body.
    pub(super) fn request_came(&self, all: bool) {
        self.unread.store(!all, Ordering::Relaxed);
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        drop(fresh.take());
    }

    /// The request's body was read to its end.
    pub(super) fn body_read(&self) {
        self.unread.store(false, Ordering::Relaxed);
    }

    /// Whether bytes of the request may still be on their way.
    pub(super) fn has_unread(&self) -> bool {
        self.unread.load(Ordering::Relaxed)
    }

    /// The interim answers that wait to be sent.
    pub(super) fn interim(&self) -> MutexGuard<'_, Places> {
        self.interims.lock()
    }

    pub(super) fn interims(&self) -> &Interims {
        &self.interims
    }

    /// What of a file is on its way; on connections that can send files.
    pub(super) fn outgoing(&self) -> Option<&Outgoing> {
        self.outgoing.as_ref()
    }

    /// Close with a reset, so that a short answer cannot pass for a whole one.
    pub(super) fn reset_on_close(&self) {
        self.reset.store(true, Ordering::Relaxed);
    }

    pub(super) fn resets_on_close(&self) -> bool {
        self.reset.load(Ordering::Relaxed)
    }

    /// The client does not read.
    pub(super) fn reads_slowly(&self) {
        self.slow_reader.store(true, Ordering::Relaxed);
    }

    /// Whether it ended because its client did not read.
    pub(super) fn is_slow_reader(&self) -> bool {
        self.slow_reader.load(Ordering::Relaxed)
            || self.carrier.as_ref().is_some_and(|c| c.is_slow_reader())
    }
}

/// One connection.
pub(super) struct Wire<S> {
    stream: S,
    state: Arc<ConnState>,
    /// What is left of an interim answer that was begun.
    interim: Bytes,
    linger: Option<Linger>,
}

struct Linger {
    left: usize,
    until: Pin<Box<Sleep>>,
    /// Runs once nothing more is taken.
    look: LazyTimer,
    look_at: Instant,
}

impl<S: Carrier> Wire<S> {
    pub(super) fn new(stream: S, state: Arc<ConnState>) -> Self {
        Self {
            stream,
            state,
            interim: Bytes::new(),
            linger: None,
        }
    }

    /// Writes interim answers as far as the socket takes them. A client that does not read them is not
    /// held to the clock of answers: it may be busy sending.
    fn poll_interims(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        loop {
            if self.interim.is_empty() {
                match self.state.interim().next() {
                    Some(message) => self.interim = message.written(),
                    None => return Ok(()),
                }
            }
            match Pin::new(&mut self.stream).poll_write(cx, &self.interim) {
                Poll::Ready(written) => self.interim.advance(some(written?)?),
                Poll::Pending => return Ok(()),
            }
        }
    }

    /// Writes the rest of an interim answer that was begun, before anything else.
    fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.interim.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.interim))?;
            self.interim.advance(some(written)?);
        }
        Poll::Ready(Ok(()))
    }

    /// Takes and throws away until nothing more comes. Once enough did, closing would reset the connection
    /// below a client that still writes and has not read, so it is kept, and its window fills.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let patient = self.state.has_unread();
        let linger = self.linger.get_or_insert_with(|| Linger {
            left: LINGER_BYTES,
            until: Box::pin(tokio::time::sleep(LINGER_TIME)),
            look: LazyTimer::default(),
            look_at: Instant::now(),
        });
        let mut scratch = [0; 8192];
        while linger.left > 0 {
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => return Poll::Ready(()),
                Poll::Ready(Ok(())) => {
                    linger.left = linger.left.saturating_sub(buffer.filled().len());
                }
                Poll::Pending if patient => return linger.until.as_mut().poll(cx),
                Poll::Ready(Err(_)) | Poll::Pending => return Poll::Ready(()),
            }
        }
        while !self.stream.is_peer_gone(cx) && linger.until.as_mut().poll(cx).is_pending() {
            ready!(linger.look.poll_until(cx, linger.look_at));
            linger.look_at = Instant::now() + LINGER_LOOK;
        }
        Poll::Ready(())
    }
}

impl<S: Carrier> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.state.bytes_came();
        }
        polled
    }
}

impl<S: Carrier> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_begun(cx))?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_begun(cx))?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // All that was wanted has been written: this is the moment between two messages of hyper's.
        self.poll_interims(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        self.poll_linger(cx).map(Ok)
    }
}

/// A socket that takes nothing without saying why will not take the rest either.
fn some(written: usize) -> io::Result<usize> {
    if written > 0 {
        Ok(written)
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// hyper's timer, which it uses for one thing only: how long it waits for a request head.
///
/// hyper counts from the end of the request before; we bear a long wait for the first byte, and a
/// short one from there to the last. The given deadlines are therefore not looked at.
#[derive(Debug, Clone)]
pub(super) struct HeadTimer(Arc<HeadClock>);

#[derive(Debug)]
struct HeadClock {
    state: Arc<ConnState>,
    first: AtomicBool,
    head: Duration,
    idle: Duration,
    /// What hyper reckons from.
    made: std::time::Instant,
    /// One for all heads of a connection: to make and drop one for each is dearer than that it fires early at times.
    timer: Mutex<LazyTimer>,
}

impl HeadTimer {
    pub(super) fn new(state: Arc<ConnState>, head: Duration, idle: Duration) -> Self {
        Self(Arc::new(HeadClock {
            state,
            first: AtomicBool::new(true),
            head,
            idle,
            made: Instant::now().into_std(),
            timer: Mutex::default(),
        }))
    }

    fn begin(&self) -> HeadSleep {
        let clock = Arc::clone(&self.0);
        clock.state.await_head();
        let silence = if clock.first.swap(false, Ordering::Relaxed) {
            clock.head
        } else {
            clock.idle
        };
        HeadSleep {
            until: Instant::now() + silence.min(FOR_EVER),
            began: false,
            clock,
        }
    }
}

impl hyper::rt::Timer for HeadTimer {
    fn sleep(&self, _duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(self.begin())
    }

    fn sleep_until(&self, _deadline: std::time::Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(self.begin())
    }

    fn now(&self) -> std::time::Instant {
        self.0.made
    }
}

struct HeadSleep {
    until: Instant,
    began: bool,
    clock: Arc<HeadClock>,
}

impl Future for HeadSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let clock = &this.clock;
        // hyper polls this whenever it has read and the head is still not whole.
        if !this.began && clock.state.head_is_partial() {
            this.began = true;
            this.until = Instant::now() + clock.head.min(FOR_EVER);
        }
        let mut timer = clock.timer.lock().unwrap_or_else(PoisonError::into_inner);
        timer.poll_until(cx, this.until)
    }
}

impl hyper::rt::Sleep for HeadSleep {}

impl Drop for HeadSleep {
    fn drop(&mut self) {
        // hyper drops it when the head is whole.
        self.clock.state.head_done();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use http::{HeaderMap, StatusCode};
    use tokio::io::AsyncWriteExt;

    use super::super::interim::Interim;
    use super::*;

    /// Takes as many bytes as each step says; between two steps it is full.
    #[derive(Default)]
    struct Narrow {
        steps: VecDeque<usize>,
        taken: Vec<u8>,
    }

    impl AsyncRead for Narrow {
        fn poll_read(
            self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            _buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Narrow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            match self.steps.pop_front() {
                Some(FULL) => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                step => {
                    let taken = step.unwrap_or(usize::MAX).min(bytes.len());
                    self.taken.extend(&bytes[..taken]);
                    Poll::Ready(Ok(taken))
                }
            }
        }

        fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl Carrier for Narrow {
        fn is_peer_gone(&self, _cx: &mut Context<'_>) -> bool {
            false
        }
    }

    const FULL: usize = usize::MAX;
    const HINT: &[u8] = b"HTTP/1.1 103 Hint\r\n\r\n";
    const ANSWER: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

    fn wire(steps: &[usize]) -> (Wire<Narrow>, Interim) {
        let state = Arc::new(ConnState::default());
        let interim = Interim::of(&state);
        let socket = Narrow {
            steps: steps.iter().copied().collect(),
            taken: Vec::new(),
        };
        (Wire::new(socket, state), interim)
    }

    #[tokio::test]
    async fn an_interim_answer_that_was_begun_is_ended_before_the_answer() {
        for cut in 1..HINT.len() {
            let (mut wire, interim) = wire(&[cut, FULL, FULL, 1, FULL]);
            interim.send(StatusCode::EARLY_HINTS, "Hint", &HeaderMap::new());
            wire.flush().await.unwrap();
            assert_eq!(wire.stream.taken, HINT[..cut], "the rest waits");
            wire.write_all(ANSWER).await.unwrap();
            wire.flush().await.unwrap();
            assert_eq!(wire.stream.taken, [HINT, ANSWER].concat(), "cut at {cut}");
        }
    }

    /// A client that sends without end.
    #[derive(Default)]
    struct Endless {
        taken: usize,
        gone: bool,
    }

    impl AsyncRead for Endless {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.taken += buffer.remaining();
            buffer.initialize_unfilled();
            buffer.advance(buffer.remaining());
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Endless {
        fn poll_write(
            self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl Carrier for Endless {
        fn is_peer_gone(&self, _cx: &mut Context<'_>) -> bool {
            self.gone
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_on_is_kept_until_it_goes_or_its_time_is_over() {
        let endless = || {
            let state = Arc::new(ConnState::default());
            state.request_came(false);
            Wire::new(Endless::default(), state)
        };
        let mut wire = endless();
        let closed = tokio::time::timeout(LINGER_TIME / 2, wire.shutdown()).await;
        assert!(closed.is_err(), "it would be reset below its answer");
        assert_eq!(wire.stream.taken, LINGER_BYTES);
        wire.stream.gone = true;
        let gone = Instant::now();
        wire.shutdown().await.unwrap();
        assert!(gone.elapsed() <= LINGER_LOOK);
        let (mut wire, begun) = (endless(), Instant::now());
        wire.shutdown().await.unwrap();
        assert_eq!(wire.stream.taken, LINGER_BYTES);
        assert!((LINGER_TIME..LINGER_TIME * 2).contains(&begun.elapsed()));
    }

    #[tokio::test]
    async fn a_socket_that_takes_nothing_more_ends_the_connection() {
        let (mut wire, interim) = wire(&[3, FULL, 0]);
        interim.send(StatusCode::EARLY_HINTS, "Hint", &HeaderMap::new());
        wire.flush().await.unwrap();
        let error = wire.write_all(ANSWER).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
    }
}
