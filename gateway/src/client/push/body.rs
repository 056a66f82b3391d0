//! One part of the file as a request's body: read as the connection takes it, a few hundred KiB at a time.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::task::{JoinHandle, spawn_blocking};

/// Bytes read at once. A stream holds two of them: one that is sent, one that is read meanwhile.
const READ_BYTES: u64 = 256 << 10;

/// Bytes of a file on their way out.
#[derive(Debug)]
pub struct FileBody {
    file: Arc<File>,
    left: Range<u64>,
    /// Bytes that are not handed out yet, read or not.
    untold: u64,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
    sent: Arc<Flight>,
}

/// Bytes of one part that were handed to its connection. They count as sent while it flies.
#[derive(Debug)]
pub struct Flight {
    of_part: AtomicU64,
    of_all: Arc<AtomicU64>,
}

impl Flight {
    /// Nothing is sent yet; what is, counts in `of_all` until this is dropped.
    pub fn new(of_all: Arc<AtomicU64>) -> Self {
        Self {
            of_part: AtomicU64::new(0),
            of_all,
        }
    }

    /// Bytes that were handed over so far.
    pub fn bytes(&self) -> u64 {
        self.of_part.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, bytes: u64) {
        self.of_part.fetch_add(bytes, Ordering::Relaxed);
        self.of_all.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.of_all.fetch_sub(self.bytes(), Ordering::Relaxed);
    }
}

impl FileBody {
    /// The bytes of `range`, which the file has.
    pub fn new(file: Arc<File>, range: Range<u64>, sent: Arc<Flight>) -> Self {
        Self {
            file,
            untold: range.end - range.start,
            left: range,
            reading: None,
            sent,
        }
    }

    fn read_on(&mut self) {
        let start = self.left.start;
        let end = self.left.end.min(start + READ_BYTES);
        if start < end {
            self.left.start = end;
            let file = Arc::clone(&self.file);
            self.reading = Some(spawn_blocking(move || read(&file, start..end)));
        }
    }
}

/// The bytes of a range.
///
/// # Errors
/// When the file is shorter, or cannot be read.
pub fn read(file: &File, range: Range<u64>) -> io::Result<Bytes> {
    let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes.into())
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.reading.is_none() {
            self.read_on();
        }
        let Some(reading) = &mut self.reading else {
            return Poll::Ready(None);
        };
        let read = ready!(Pin::new(reading).poll(cx));
        self.reading = None;
        let bytes = read.map_err(io::Error::other).flatten();
        if let Ok(bytes) = &bytes {
            let length = bytes.len() as u64;
            self.untold -= length;
            self.sent.add(length);
            self.read_on();
        } else {
            // Nothing comes after a failure.
            self.left.start = self.left.end;
        }
        Poll::Ready(Some(bytes.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.untold == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.untold)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use http_body_util::BodyExt as _;

    use super::*;

    fn file(bytes: &[u8]) -> Arc<File> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Arc::new(file)
    }

    #[tokio::test]
    async fn a_part_is_told_by_its_length_and_sent_byte_by_byte_as_it_stands_in_the_file() {
        let content: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
        let all = Arc::new(AtomicU64::new(0));
        let flight = Arc::new(Flight::new(Arc::clone(&all)));
        let mut body = FileBody::new(file(&content), 17..900_001, Arc::clone(&flight));
        assert_eq!(body.size_hint().exact(), Some(899_984));
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first.len() as u64, READ_BYTES);
        assert_eq!(
            (flight.bytes(), body.size_hint().exact()),
            (READ_BYTES, Some(899_984 - READ_BYTES))
        );
        let mut sent = first.to_vec();
        while let Some(frame) = body.frame().await {
            sent.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
        assert!(body.is_end_stream());
        assert!(sent == content[17..900_001]);
        assert_eq!(all.load(Ordering::Relaxed), 899_984);
        drop((body, flight));
        assert_eq!(all.load(Ordering::Relaxed), 0, "it does not fly any more");
    }

    #[tokio::test]
    async fn a_file_that_is_shorter_than_it_was_ends_the_body_with_an_error() {
        let all = Arc::new(AtomicU64::new(0));
        let flight = Arc::new(Flight::new(all));
        let mut body = FileBody::new(file(&[1; 100]), 0..101, flight);
        let error = body.frame().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(body.frame().await.is_none());
    }
}
