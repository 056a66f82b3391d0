//! Ranges of files that go from the page cache to a socket without passing through memory of ours.
//!
//! hyper writes bytes and knows no files, so a range of a file travels through it as a marker: a buffer that says how
//! long it is and shows one byte in a known place. What stands right on the TCP socket (`socket.rs`) knows that place:
//! where it is asked to write the marker it calls `sendfile` for the run that the connection has under way, and answers
//! how many bytes the kernel took. hyper then passes over as many bytes of the marker, and here it is held against what
//! was really sent: were the marker ever copied or written instead, that ends the connection before a wrong byte could
//! leave. So there is one run at a time, and the next begins when it is sent.
//!
//! This stands on three habits of hyper's (the version is pinned): buffers are queued and not joined where the socket
//! takes several at once, a body of known length is written as it comes, and every buffer is passed over to its end.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use rustix::io::Errno;

use super::linger::ConnState;

/// What is seen of a range of a file; known by where it lies, never sent.
static MARKER: [u8; 1] = [0];

/// Bytes that one call of `sendfile` may take: a fast reader must not keep a thread from all others.
const CALL_BYTES: usize = 2 << 20;

/// Whether this is the marker and not bytes to be written.
pub(super) fn is_marker(bytes: &[u8]) -> bool {
    ptr::eq(bytes.as_ptr(), MARKER.as_ptr())
}

/// A file that the kernel can send from.
pub type SharedFile = Arc<dyn AsFd + Send + Sync>;

/// Where a request's answer puts what is to be sent of files; on connections that can do it.
#[derive(Clone)]
pub struct FileSender {
    state: Arc<ConnState>,
}

impl FileSender {
    pub(super) fn of(state: &Arc<ConnState>) -> Option<Self> {
        state.outgoing().map(|_possible| Self {
            state: Arc::clone(state),
        })
    }

    /// The bytes of `file` from `from` to `to`, to be given to the connection next.
    ///
    /// # Errors
    /// Another run is under way: what is left of an answer that was given up.
    pub fn run(&self, file: SharedFile, from: u64, to: u64) -> io::Result<FilePiece> {
        let run = Arc::new(FileRun {
            file,
            progress: Mutex::new(Progress {
                at: from,
                end: to,
                untold: 0,
                failed: false,
                waiting: None,
            }),
        });
        let left = usize::try_from(to - from).map_err(io::Error::other)?;
        let outgoing = self.state.outgoing();
        let mut place = outgoing.ok_or(io::ErrorKind::Unsupported)?.lock();
        if place.is_some() {
            return Err(io::Error::other("another run of a file is under way"));
        }
        *place = Some(Arc::clone(&run));
        Ok(FilePiece { run, left })
    }
}

impl fmt::Debug for FileSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSender").finish_non_exhaustive()
    }
}

/// The run that one connection has under way.
#[derive(Default)]
pub(super) struct Outgoing {
    run: Mutex<Option<Arc<FileRun>>>,
}

impl Outgoing {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<FileRun>>> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what the socket takes of the run at once.
    pub(super) fn send_to(&self, socket: impl AsFd) -> io::Result<usize> {
        let mut place = self.lock();
        let run = place.as_ref().ok_or_else(|| {
            io::Error::other("a range of a file is written that is not under way")
        })?;
        let sent = run.send_to(socket);
        if run.is_over() {
            *place = None;
        }
        sent
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Outgoing")
            .field(&self.lock().is_some())
            .finish()
    }
}

/// A range of a file on its way.
pub struct FileRun {
    file: SharedFile,
    progress: Mutex<Progress>,
}

struct Progress {
    at: u64,
    end: u64,
    /// Bytes that the kernel took and hyper was not seen to pass over yet.
    untold: usize,
    failed: bool,
    waiting: Option<Waker>,
}

impl FileRun {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send_to(&self, socket: impl AsFd) -> io::Result<usize> {
        let mut progress = self.progress();
        let left = progress.end - progress.at;
        let most = usize::try_from(left).map_or(CALL_BYTES, |left| left.min(CALL_BYTES));
        let sent = loop {
            let mut at = progress.at;
            match rustix::fs::sendfile(&socket, self.file.as_fd(), Some(&mut at), most) {
                Ok(0) => break Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(sent) => break Ok(sent),
                Err(Errno::INTR) => {}
                Err(errno) => break Err(io::Error::from(errno)),
            }
        };
        match &sent {
            Ok(sent) => {
                progress.at += *sent as u64;
                progress.untold += sent;
            }
            Err(error) => progress.failed = is_of_the_file(error),
        }
        if (progress.failed || progress.at == progress.end)
            && let Some(waiting) = progress.waiting.take()
        {
            waiting.wake();
        }
        sent
    }

    fn is_over(&self) -> bool {
        let progress = self.progress();
        progress.failed || progress.at == progress.end
    }

    /// Bytes that the kernel has not taken.
    pub fn unsent(&self) -> u64 {
        let progress = self.progress();
        progress.end - progress.at
    }

    /// Whether the file gave out, and not the client.
    pub fn has_failed(&self) -> bool {
        self.progress().failed
    }

    /// Ready when the kernel has taken all of it, or the file gave out.
    pub fn poll_over(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut progress = self.progress();
        if progress.failed || progress.at == progress.end {
            return Poll::Ready(());
        }
        progress.waiting = Some(cx.waker().clone());
        Poll::Pending
    }

    /// As [`poll_over`](Self::poll_over).
    pub async fn over(&self) {
        poll_fn(|cx| self.poll_over(cx)).await;
    }
}

/// A file that ends early or cannot be read, and not a client that is gone.
fn is_of_the_file(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    error.kind() == io::ErrorKind::UnexpectedEof
        || matches!(
            errno,
            Some(Errno::IO | Errno::INVAL | Errno::NOMEM | Errno::OVERFLOW)
        )
}

impl fmt::Debug for FileRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileRun")
            .field("unsent", &self.unsent())
            .finish_non_exhaustive()
    }
}

/// A range of a file as hyper sees it.
#[derive(Debug)]
pub struct FilePiece {
    run: Arc<FileRun>,
    left: usize,
}

impl FilePiece {
    /// What is on its way.
    pub fn on_its_way(&self) -> Arc<FileRun> {
        Arc::clone(&self.run)
    }
}

impl Buf for FilePiece {
    fn remaining(&self) -> usize {
        self.left
    }

    fn chunk(&self) -> &[u8] {
        if self.left > 0 { &MARKER } else { &[] }
    }

    /// # Panics
    /// When the bytes were not sent: someone took the marker for what it stands for.
    fn advance(&mut self, bytes: usize) {
        let untold = &mut self.run.progress().untold;
        let rest = untold.checked_sub(bytes);
        *untold = rest.expect("a range of a file is passed over only as far as it was sent");
        self.left -= bytes;
    }
}

/// What an answer's body is made of.
#[derive(Debug)]
pub enum Piece {
    /// Bytes in memory.
    Bytes(Bytes),
    /// A range of a file; only where the request brought a [`FileSender`].
    File(FilePiece),
}

impl From<Bytes> for Piece {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.remaining(),
            Self::File(file) => file.remaining(),
        }
    }

    fn chunk(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes.chunk(),
            Self::File(file) => file.chunk(),
        }
    }

    fn advance(&mut self, bytes: usize) {
        match self {
            Self::Bytes(data) => data.advance(bytes),
            Self::File(file) => file.advance(bytes),
        }
    }

    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        match self {
            Self::Bytes(bytes) => bytes.copy_to_bytes(length),
            // Whoever asks for this would copy the marker.
            Self::File(_) => panic!("a range of a file is never copied"),
        }
    }
}

/// Writes `slices`, telling the kernel that more follows at once: a head and the file behind it share a packet.
pub(super) fn write_more(socket: impl AsFd, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
    let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
    sendmsg(socket, slices, &mut SendAncillaryBuffer::default(), flags).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn sender() -> FileSender {
        FileSender::of(&Arc::new(ConnState::plain())).unwrap()
    }

    fn file(bytes: &[u8]) -> std::fs::File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        file
    }

    #[test]
    fn what_the_kernel_took_may_be_passed_over() {
        let sender = sender();
        let mut piece = sender.run(Arc::new(file(b"0123456789")), 2, 7).unwrap();
        assert!(is_marker(piece.chunk()));
        let (near, mut far) = UnixStream::pair().unwrap();
        let place = sender.state.outgoing().unwrap();
        assert_eq!(place.send_to(&near).unwrap(), 5);
        assert_eq!(piece.run.unsent(), 0);
        piece.advance(5);
        assert_eq!((piece.remaining(), piece.chunk()), (0, &[][..]));
        drop(near);
        let mut got = Vec::new();
        far.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"23456");
        sender
            .run(Arc::new(file(b"x")), 0, 1)
            .expect("there is room for the next");
    }

    #[test]
    #[should_panic(expected = "only as far as it was sent")]
    fn what_was_not_sent_cannot_be_passed_over() {
        let mut piece = sender().run(Arc::new(file(b"bytes")), 0, 5).unwrap();
        piece.advance(1);
    }

    #[test]
    #[should_panic(expected = "never copied")]
    fn a_range_of_a_file_cannot_be_taken_for_bytes() {
        let piece = sender().run(Arc::new(file(b"bytes")), 0, 5).unwrap();
        Piece::File(piece).copy_to_bytes(1);
    }

    #[test]
    fn one_run_is_under_way_at_a_time() {
        let sender = sender();
        let _piece = sender.run(Arc::new(file(b"bytes")), 0, 5).unwrap();
        assert!(sender.run(Arc::new(file(b"bytes")), 0, 5).is_err());
    }

    #[test]
    fn a_file_that_ends_early_fails_its_run() {
        let sender = sender();
        let piece = sender.run(Arc::new(file(b"0123")), 2, 7).unwrap();
        let (near, _far) = UnixStream::pair().unwrap();
        let place = sender.state.outgoing().unwrap();
        assert_eq!(place.send_to(&near).unwrap(), 2);
        let error = place.send_to(&near).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(piece.run.has_failed());
        let waker = Waker::noop();
        let over = piece.run.poll_over(&mut Context::from_waker(waker));
        assert!(over.is_ready(), "whoever waits for it hears of it");
    }

    #[test]
    fn a_marker_without_a_run_is_an_error_and_no_byte() {
        let sender = sender();
        let (near, mut far) = UnixStream::pair().unwrap();
        assert!(sender.state.outgoing().unwrap().send_to(&near).is_err());
        drop(near);
        let mut got = Vec::new();
        far.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"");
    }

    #[test]
    fn connections_with_something_between_get_no_files() {
        assert!(FileSender::of(&Arc::new(ConnState::default())).is_none());
    }
}
