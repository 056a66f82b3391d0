//! A request's body made of several pieces of memory: sent one by one, never joined, and made anew for
//! each try.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// Memory that is sent as one body; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Segments {
    segments: Arc<[Bytes]>,
    length: u64,
}

impl Segments {
    pub(super) fn new(segments: Vec<Bytes>) -> Self {
        Self {
            length: segments.iter().map(|bytes| bytes.len() as u64).sum(),
            segments: segments.into(),
        }
    }

    /// How many bytes.
    pub(super) fn len(&self) -> u64 {
        self.length
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.segments.iter()
    }

    /// A body of all the bytes, of known length.
    pub(super) fn stream(&self) -> ByteStream {
        let this = self.clone();
        ByteStream::new(SdkBody::retryable(move || {
            SdkBody::from_body_1_x(Sending {
                segments: this.clone(),
                next: 0,
                left: this.length,
            })
        }))
    }
}

struct Sending {
    segments: Segments,
    next: usize,
    left: u64,
}

impl Body for Sending {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(bytes) = self.segments.segments.get(self.next).cloned() else {
            return Poll::Ready(None);
        };
        self.next += 1;
        self.left -= bytes.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.next >= self.segments.segments.len()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
