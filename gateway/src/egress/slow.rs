//! A body that goes out no faster than it may.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::server::{BoxError, OutboundBody, Piece};

/// Pieces in a second: what goes out is that even.
const PIECES: u64 = 20;
/// The largest piece.
const PIECE_BYTES: u64 = 64 << 10;

/// A body, slowed down.
pub struct SlowBody {
    body: OutboundBody,
    bytes_per_s: u64,
    rest: Bytes,
    next: Pin<Box<Sleep>>,
}

impl std::fmt::Debug for SlowBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SlowBody")
            .field("bytes_per_s", &self.bytes_per_s)
            .finish_non_exhaustive()
    }
}

impl SlowBody {
    /// A body of which so many bits go out in a second, at most.
    pub fn new(body: OutboundBody, bits_per_s: u64) -> Self {
        Self {
            body,
            bytes_per_s: (bits_per_s / 8).max(1),
            rest: Bytes::new(),
            next: Box::pin(sleep_until(Instant::now())),
        }
    }

    fn piece(&mut self) -> Bytes {
        let most = (self.bytes_per_s / PIECES).clamp(1, PIECE_BYTES);
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let piece = self.rest.split_to(most.min(self.rest.len()));
        // A pause that the client made is not made up for.
        let from = self.next.deadline().max(Instant::now());
        let nanoseconds = piece.len() as u64 * 1_000_000_000 / self.bytes_per_s;
        let next = from + Duration::from_nanos(nanoseconds);
        self.next.as_mut().reset(next);
        piece
    }
}

impl Body for SlowBody {
    type Data = Piece;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, BoxError>>> {
        loop {
            if !self.rest.is_empty() {
                ready!(self.next.as_mut().poll(cx));
                let piece = Piece::Bytes(self.piece());
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                other => return Poll::Ready(other),
            };
            match frame.into_data() {
                Ok(Piece::Bytes(bytes)) => self.rest = bytes,
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

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::http::response::full;

    #[tokio::test(start_paused = true)]
    async fn it_takes_its_time_and_loses_nothing() {
        let text: Vec<u8> = (0..=255).cycle().take(10_000).collect();
        let mut body = SlowBody::new(full(text.clone()), 8 * 1_000);
        assert_eq!(body.size_hint().exact(), Some(10_000));
        let begun = Instant::now();
        let mut seen = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(Piece::Bytes(bytes)) = frame.unwrap().into_data() else {
                panic!("it is all bytes");
            };
            assert!(bytes.len() <= 50, "{}", bytes.len());
            seen.extend_from_slice(&bytes);
            assert_eq!(body.size_hint().exact(), Some(10_000 - seen.len() as u64));
        }
        assert!(body.is_end_stream());
        assert_eq!(seen, text);
        // By the paused clock: ten seconds but for the last piece's.
        let took = begun.elapsed();
        assert!((9_900..=10_000).contains(&took.as_millis()), "{took:?}");
    }
}
