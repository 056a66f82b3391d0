//! The pumps of a download: verified blocks, or ranges of a file whose blocks are, into a response body that is polled
//! only when the client's window has room, and that breaks instead of ending when a block is not what was hashed.

mod paced;
mod shaped;
mod slow;

pub use shaped::ShapedBody;
pub use slow::SlowBody;

use std::future::Future as _;
use std::io::{self, SeekFrom};
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use boxgate_storage::digest::BLOCK_BYTES;
use boxgate_storage::layer::files::{BlobFile, Stamp};
use boxgate_storage::range::ByteRange;
use boxgate_storage::{Error, ErrorKind, Result};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, Take};
use tokio_util::io::ReaderStream;
use tokio_util::task::AbortOnDropHandle;

use crate::gateway::DamageReport;
use crate::server::{BoxError, FileRun, FileSender, Piece};

/// A range of a blob on its way out.
pub struct BlobBody {
    first: Option<Bytes>,
    stream: BoxStream<'static, Result<Bytes>>,
    left_bytes: u64,
    damage: DamageReport,
}

impl std::fmt::Debug for BlobBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobBody")
            .field("left_bytes", &self.left_bytes)
            .finish_non_exhaustive()
    }
}

impl BlobBody {
    /// A body of exactly `length` bytes: `first`, then the stream.
    pub fn new(
        first: Option<Bytes>,
        stream: BoxStream<'static, Result<Bytes>>,
        length: u64,
        damage: DamageReport,
    ) -> Self {
        Self {
            first,
            stream,
            left_bytes: length,
            damage,
        }
    }
}

impl Body for BlobBody {
    type Data = Piece;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Piece>, BoxError>>> {
        let next = match self.first.take() {
            Some(bytes) => Some(Ok(bytes)),
            None if self.left_bytes == 0 => None,
            None => match self.stream.as_mut().poll_next(cx) {
                Poll::Ready(next) => next,
                Poll::Pending => return Poll::Pending,
            },
        };
        Poll::Ready(match next {
            None if self.left_bytes == 0 => None,
            // Never end such a body cleanly: the client must see that bytes are missing.
            None => Some(Err("the store ended the blob early".into())),
            Some(Ok(bytes)) => {
                self.left_bytes = self.left_bytes.saturating_sub(bytes.len() as u64);
                Some(Ok(Frame::data(Piece::Bytes(bytes))))
            }
            Some(Err(error)) => {
                self.damage.report(&error);
                Some(Err(broken(error)))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left_bytes == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left_bytes)
    }
}

fn broken(error: Error) -> BoxError {
    Box::new(error)
}

/// Bytes of a file that are on their way at once: looked at before and after.
const RUN_BYTES: u64 = 2 << 20;
/// The end of an answer, at most: it goes as bytes, and only when the file was found unchanged after all before it was
/// sent. Without it a change would be noticed when the client has the whole.
const TAIL_BYTES: u64 = 1 << 10;

/// A range of a blob on its way out as the file it is.
///
/// The kernel sends it; here is seen to it that each block was proved before, that it is in memory, so that nobody
/// waits for a disk on a thread of the reactor, and that the file is still the one that was proved.
#[derive(Debug)]
pub struct FileBody {
    file: BlobFile,
    sender: FileSender,
    at: u64,
    /// From where on it goes as bytes.
    tail: u64,
    end: u64,
    run: Option<Arc<FileRun>>,
    proving: Option<(u64, AbortOnDropHandle<Result<()>>)>,
    /// Up to where bytes were found proved and in memory. A block that was proved just now goes out even if memory is
    /// so short that it left it already.
    ready: u64,
    /// Whether it was seen that the file is unchanged, and nothing was given since.
    is_seen: bool,
    /// What goes as bytes, where it was read before the rest was sent.
    last: Option<Bytes>,
    damage: Arc<DamageReport>,
}

impl FileBody {
    /// A body of `range`, if all of its first block is proved and in memory; of a file that was seen to be unchanged just now.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn at_once(
        file: BlobFile,
        sender: FileSender,
        range: ByteRange,
        damage: Arc<DamageReport>,
    ) -> Result<Option<Self>> {
        let mut body = Self::new(file, sender, range, damage);
        body.is_seen = true;
        if body.ready < body.end {
            let first = ByteRange::try_new(body.at, body.ready).expect("a position before an end");
            let is_ready = body.file.in_memory(first)? == first.length();
            return Ok(is_ready.then_some(body));
        }
        body.last = body.file.tail_in_memory(range, body.tail)?;
        Ok(body.last.is_some().then_some(body))
    }

    /// A body of `range`, the block of whose first byte was proved just now.
    pub fn new(
        file: BlobFile,
        sender: FileSender,
        range: ByteRange,
        damage: Arc<DamageReport>,
    ) -> Self {
        let (start, end) = (range.start(), range.end());
        let last_block = end.saturating_sub(1) / BLOCK_BYTES * BLOCK_BYTES;
        Self {
            at: start,
            tail: end.saturating_sub(TAIL_BYTES).max(last_block).max(start),
            end,
            run: None,
            proving: None,
            ready: block_end(start).min(end),
            is_seen: false,
            last: None,
            file,
            sender,
            damage,
        }
    }

    /// The next piece, or `None` at the end.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Piece>>> {
        Poll::Ready(match ready!(self.poll_allowed(cx)) {
            Ok(0) => None,
            Ok(bytes) => Some(self.give(bytes)),
            Err(error) => Some(Err(error)),
        })
    }

    /// How many bytes may go now; 0 at the end.
    fn poll_allowed(&mut self, cx: &mut Context<'_>) -> Poll<Result<u64>> {
        if let Some(run) = &self.run {
            ready!(run.poll_over(cx));
            let gave_out = run.has_failed();
            self.run = None;
            if gave_out {
                self.file.unchanged()?;
                return Poll::Ready(Err(gone(&self.file)));
            }
        }
        // After what was sent, and before what is.
        if !std::mem::take(&mut self.is_seen) {
            self.file.unchanged()?;
        }
        while self.at < self.end {
            if self.ready > self.at {
                let to = if self.at < self.tail {
                    self.tail.min(self.at + RUN_BYTES)
                } else {
                    self.end
                };
                return Poll::Ready(Ok(self.ready.min(to) - self.at));
            }
            let block = self.at / BLOCK_BYTES;
            if let Some((_, proving)) = self.proving.as_mut().filter(|(of, _)| *of == block) {
                let proved = ready!(Pin::new(proving).poll(cx));
                self.proving = None;
                proved.map_err(|panicked| gone(&self.file).with_source(panicked))??;
                self.ready = block_end(self.at).min(self.end);
            } else {
                self.look_ahead()?;
            }
        }
        Poll::Ready(Ok(0))
    }

    /// Looks what may go next, and has it read and proved if it is not ready.
    fn look_ahead(&mut self) -> Result<()> {
        if self.ready <= self.at && self.at < self.end {
            let to = self.end.min(self.at + RUN_BYTES);
            let next = ByteRange::try_new(self.at, to).expect("a position before an end");
            self.ready = self.at + self.file.in_memory(next)?;
            if self.ready == self.at {
                self.prove(self.at / BLOCK_BYTES);
            }
        }
        Ok(())
    }

    fn prove(&mut self, block: u64) {
        let file = self.file.clone();
        let proving = tokio::spawn(async move { file.prove(block).await });
        self.proving = Some((block, AbortOnDropHandle::new(proving)));
    }

    fn give(&mut self, bytes: u64) -> Result<Piece> {
        let (from, to) = (self.at, self.at + bytes);
        self.at = to;
        if from >= self.tail {
            // What was read before was so of a file that is the same still.
            if let Some(last) = self.last.take() {
                return Ok(Piece::Bytes(last));
            }
            let range = ByteRange::try_new(from, to).expect("a range with a length");
            return self.file.copy(range).map(Piece::Bytes);
        }
        self.look_ahead()?;
        let run = self.sender.run(self.file.file(), from, to);
        let piece = run.map_err(|error| gone(&self.file).with_source(error))?;
        self.run = Some(piece.on_its_way());
        self.file.sent(bytes);
        Ok(Piece::File(piece))
    }
}

fn block_end(at: u64) -> u64 {
    (at / BLOCK_BYTES + 1) * BLOCK_BYTES
}

/// What is said where the file gives out without being seen to have changed.
fn gone(file: &BlobFile) -> Error {
    Error::new(ErrorKind::Unavailable, "blob.send", format!("{file:?}"))
}

impl Body for FileBody {
    type Data = Piece;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Piece>, BoxError>>> {
        let piece = ready!(self.poll_piece(cx));
        Poll::Ready(piece.map(|piece| match piece {
            Ok(piece) => Ok(Frame::data(piece)),
            Err(error) => {
                self.damage.report(&error);
                Err(broken(error))
            }
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.at == self.end
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.end - self.at)
    }
}

impl Drop for FileBody {
    fn drop(&mut self) {
        // The connection was given up because the file gave out: nobody asks any more.
        if self.run.as_ref().is_some_and(|run| run.has_failed()) {
            self.damage.report(&gone(&self.file));
        }
    }
}

/// Bytes of a plain file that are read at once.
const READ_BYTES: usize = 256 << 10;

/// A range of a plain file that others write to: as it was when it was opened, or it breaks.
#[derive(Debug)]
pub struct PlainBody {
    bytes: ReaderStream<Take<tokio::fs::File>>,
    left_bytes: u64,
    /// The same file, to be looked at, and what it was.
    watched: std::fs::File,
    opened: Stamp,
}

impl PlainBody {
    /// A body of `range` of a file that was opened just now.
    ///
    /// # Errors
    /// When it cannot be read there.
    pub async fn open(file: std::fs::File, range: ByteRange) -> io::Result<Self> {
        let (opened, watched) = (Stamp::of(file.as_fd())?, file.try_clone()?);
        let mut file = tokio::fs::File::from_std(file);
        file.seek(SeekFrom::Start(range.start())).await?;
        Ok(Self {
            bytes: ReaderStream::with_capacity(file.take(range.length()), READ_BYTES),
            left_bytes: range.length(),
            watched,
            opened,
        })
    }

    fn changed(&self) -> Option<BoxError> {
        match Stamp::of(self.watched.as_fd()) {
            Ok(stamp) if stamp.has_bytes_of(self.opened) => None,
            Ok(_) => Some("another program changed the file while it was sent".into()),
            Err(e) => Some(e.into()),
        }
    }
}

impl Body for PlainBody {
    type Data = Piece;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Piece>, BoxError>>> {
        if self.left_bytes == 0 {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(match ready!(self.bytes.poll_next_unpin(cx)) {
            // After it was read, and before it is sent: no answer is whole whose file changed.
            Some(Ok(bytes)) => {
                if let Some(changed) = self.changed() {
                    Err(changed)
                } else {
                    self.left_bytes = self.left_bytes.saturating_sub(bytes.len() as u64);
                    Ok(Frame::data(Piece::from(bytes)))
                }
            }
            Some(Err(e)) => Err(e.into()),
            None => Err("another program cut the file short".into()),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.left_bytes == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left_bytes)
    }
}
