//! One accepted socket: who does not read what is sent is cut.
//!
//! Here and not above TLS or in hyper, because only here is known whether the kernel takes anything.

use std::io::{self, IoSlice};
use std::os::fd::AsFd as _;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;

use super::file;
use super::linger::ConnState;
use super::pace::{LazyTimer, Pace, Patience, Stalled};

/// How often a blocked write is tried although the kernel does not call, within the idle time. It
/// calls only when a third of the send buffer is free, which at 60 KB/s took longer than the idle
/// time of an honest reader.
const WRITE_PROBES: u32 = 6;
/// What of a file is sent in one turn, where the client takes it as fast as it comes.
const TURN_BYTES: usize = 8 << 20;

/// A socket with the clock of those who read from it.
pub(super) struct Socket {
    stream: TcpStream,
    state: Arc<ConnState>,
    writing: Pace,
    /// When a blocked write is tried again; `None` while none is blocked.
    probe_at: Option<Instant>,
    probe: LazyTimer,
    probe_every: Duration,
    /// What was sent of files since something else had a turn.
    sent_bytes: usize,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, state: Arc<ConnState>, patience: Patience) -> Self {
        Self {
            stream,
            state,
            writing: Pace::new(patience),
            probe_at: None,
            probe: LazyTimer::default(),
            probe_every: patience.idle / WRITE_PROBES,
            sent_bytes: 0,
        }
    }

    /// Has the runtime that polls here called when something comes, where the connection moved to it.
    fn settle(&mut self) {
        if !self.state.seat().is_some_and(|seat| seat.has_moved()) {
            return;
        }
        match made_known(&self.stream) {
            Ok(stream) => self.stream = stream,
            // The runtime that it comes from goes on calling.
            Err(error) => tracing::debug!(%error, "a connection is called from where it was"),
        }
        self.probe = LazyTimer::default();
        self.writing.forget_timer();
    }

    /// Writes what `write` does, as soon as the socket has room.
    fn poll_with(
        &mut self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let polled = loop {
            match self.stream.poll_write_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
            match self
                .stream
                .try_io(Interest::WRITABLE, || write(&self.stream))
            {
                // There was no room after all: asked again, it says when there is.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => break Poll::Ready(done),
            }
        };
        self.written(cx, polled, write)
    }

    /// Sends of the file that is on its way.
    fn poll_send_file(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.sent_bytes >= TURN_BYTES {
            self.sent_bytes = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let state = Arc::clone(&self.state);
        let polled = match state.outgoing() {
            Some(outgoing) => self.poll_with(cx, |stream| outgoing.send_to(stream)),
            None => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
        };
        match &polled {
            Poll::Ready(Ok(bytes)) => self.sent_bytes += bytes,
            _ => self.sent_bytes = 0,
        }
        polled
    }

    /// Judges what a write came to: progress, or a client that takes nothing.
    fn written(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<usize>>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let polled = match polled {
            Poll::Pending => self.probe_write(cx, write),
            progress @ Poll::Ready(_) => {
                self.probe_at = None;
                progress
            }
        };
        match polled {
            Poll::Ready(Ok(bytes)) => {
                self.writing.moved(bytes);
                Poll::Ready(Ok(bytes))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                let stalled = ready!(self.writing.poll_stalled(cx));
                self.state.reads_slowly();
                // What is queued in the kernel would stay there as long as the client likes.
                self.state.reset_on_close();
                Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    match stalled {
                        Stalled::Idle => "the client stopped reading",
                        Stalled::TooSlow => "the client reads too slowly",
                    },
                )))
            }
        }
    }

    /// Writes past the readiness that tokio knows of, now and then while it is blocked.
    fn probe_write(
        &mut self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let at = *self
            .probe_at
            .get_or_insert_with(|| Instant::now() + self.probe_every);
        ready!(self.probe.poll_until(cx, at));
        match write(&self.stream) {
            // The time stays due, so that the next write goes the same way until there is no room.
            Ok(bytes) if bytes > 0 => Poll::Ready(Ok(bytes)),
            Err(error) if !is_later(&error) => Poll::Ready(Err(error)),
            Ok(_) | Err(_) => {
                let next = Instant::now() + self.probe_every;
                self.probe_at = Some(next);
                // Asks to be woken for the next probe.
                let _later = self.probe.poll_until(cx, next);
                Poll::Pending
            }
        }
    }
}

/// The same socket, of the runtime that this is called in.
fn made_known(stream: &TcpStream) -> io::Result<TcpStream> {
    TcpStream::from_std(stream.as_fd().try_clone_to_owned()?.into())
}

fn is_later(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// All of `slices` that the socket takes.
fn write(stream: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    rustix::io::writev(stream, slices).map_err(io::Error::from)
}

/// What HTTP/1.1 asks of what it stands on, beside reading and writing.
pub(super) trait Carrier: AsyncRead + AsyncWrite + Unpin {
    /// Whether the other side has closed, or reset; asked while what it sent is not all read.
    fn is_peer_gone(&self, cx: &mut Context<'_>) -> bool;
}

impl Carrier for Socket {
    fn is_peer_gone(&self, cx: &mut Context<'_>) -> bool {
        let ready = pin!(self.stream.ready(Interest::READABLE));
        match ready.poll(cx) {
            Poll::Ready(Ok(ready)) => ready.is_read_closed(),
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        }
    }
}

impl Carrier for TlsStream<Socket> {
    fn is_peer_gone(&self, cx: &mut Context<'_>) -> bool {
        self.get_ref().0.is_peer_gone(cx)
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.settle();
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.settle();
        match slices.iter().position(|slice| file::is_marker(slice)) {
            Some(0) => self.poll_send_file(cx),
            // What stands before a file; it comes at once.
            Some(marker) => {
                let before = &slices[..marker];
                self.poll_with(cx, |stream| file::write_more(stream, before))
            }
            None => {
                let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
                self.written(cx, polled, |stream| write(stream, slices))
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The socket has no buffer of ours; all that was wanted has been written.
        self.writing.rest();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.state.resets_on_close() {
            // Without it the socket is closed in the usual way, which is all that could be done.
            let _unsupported = self.stream.set_zero_linger();
        }
    }
}
