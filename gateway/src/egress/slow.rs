//! A body that goes out no faster than it may.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::paced::{Pace, PacedBody};
use crate::server::OutboundBody;

/// Pieces in a second: what goes out is that even.
const PIECES: u64 = 20;
/// The largest piece.
const PIECE_BYTES: u64 = 64 << 10;

/// A body, slowed down.
pub type SlowBody = PacedBody<Slowly>;

/// So many bytes in a second.
#[derive(Debug)]
pub struct Slowly {
    bytes_per_s: u64,
    next: Pin<Box<Sleep>>,
}

impl SlowBody {
    /// A body of which so many bits go out in a second, at most.
    pub fn new(body: OutboundBody, bits_per_s: u64) -> Self {
        let pace = Slowly {
            bytes_per_s: (bits_per_s / 8).max(1),
            next: Box::pin(sleep_until(Instant::now())),
        };
        Self::at(body, pace)
    }
}

impl Pace for Slowly {
    fn poll_piece(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<usize> {
        ready!(self.next.as_mut().poll(cx));
        let piece = (self.bytes_per_s / PIECES).clamp(1, PIECE_BYTES);
        let piece = usize::try_from(piece).unwrap_or(usize::MAX).min(most);
        // A pause that the client made is not made up for.
        let from = self.next.deadline().max(Instant::now());
        let nanoseconds = piece as u64 * 1_000_000_000 / self.bytes_per_s;
        let next = from + Duration::from_nanos(nanoseconds);
        self.next.as_mut().reset(next);
        Poll::Ready(piece)
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::http::response::full;
    use crate::server::Piece;

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
