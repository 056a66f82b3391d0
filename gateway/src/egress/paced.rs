//! A body of which the next piece goes out only when something says so.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::server::{BoxError, OutboundBody, Piece};

/// What says when.
pub trait Pace: Send + Unpin {
    /// Ready with how many of `most` bytes go out now: at least one.
    fn poll_piece(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<usize>;
}

/// A body at some pace.
pub struct PacedBody<P> {
    body: OutboundBody,
    pace: P,
    rest: Bytes,
}

impl<P> fmt::Debug for PacedBody<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PacedBody").finish_non_exhaustive()
    }
}

impl<P> PacedBody<P> {
    /// The body, at that pace.
    pub(super) fn at(body: OutboundBody, pace: P) -> Self {
        Self {
            body,
            pace,
            rest: Bytes::new(),
        }
    }
}

impl<P: Pace> Body for PacedBody<P> {
    type Data = Piece;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, BoxError>>> {
        let this = &mut *self;
        loop {
            if !this.rest.is_empty() {
                let bytes = ready!(this.pace.poll_piece(cx, this.rest.len()));
                let piece = Piece::Bytes(this.rest.split_to(bytes));
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            let frame = match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                other => return Poll::Ready(other),
            };
            match frame.into_data() {
                Ok(Piece::Bytes(bytes)) => this.rest = bytes,
                // Of a request that has a pace nothing goes by the kernel.
                Ok(piece) => return Poll::Ready(Some(Ok(Frame::data(piece)))),
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, hint) = (self.rest.len() as u64, self.body.size_hint());
        let mut both = SizeHint::new();
        both.set_lower(hint.lower() + rest);
        if let Some(upper) = hint.upper() {
            both.set_upper(upper + rest);
        }
        both
    }
}
