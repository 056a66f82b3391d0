//! The pump of a download: verified blocks into a response body that is polled only when the client's
//! window has room, and that breaks instead of ending when a block is not what was hashed.

use std::pin::Pin;
use std::task::{Context, Poll};

use boxgate_storage::{Error, Result};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use http_body::{Body, Frame, SizeHint};

use crate::gateway::DamageReport;
use crate::server::BoxError;

/// A range of a blob on its way out.
pub struct BlobBody {
    first: Option<Bytes>,
    stream: BoxStream<'static, Result<Bytes>>,
    left_bytes: u64,
    damage: DamageReport,
}

impl std::fmt::Debug for BlobBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobBody").field("left_bytes", &self.left_bytes).finish_non_exhaustive()
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
        Self { first, stream, left_bytes: length, damage }
    }
}

impl Body for BlobBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, BoxError>>> {
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
                Some(Ok(Frame::data(bytes)))
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
