//! A body that goes out as the rates of those it is for allow.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::admission::shaper::Meter;
use crate::server::{BoxError, OutboundBody, Piece};

/// A body behind a meter.
pub struct ShapedBody {
    body: OutboundBody,
    meter: Meter,
    rest: Bytes,
    /// What of it was taken and waits.
    taken: usize,
}

impl std::fmt::Debug for ShapedBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShapedBody").finish_non_exhaustive()
    }
}

impl ShapedBody {
    /// A body whose bytes are measured.
    pub fn new(body: OutboundBody, meter: Meter) -> Self {
        Self {
            body,
            meter,
            rest: Bytes::new(),
            taken: 0,
        }
    }
}

impl Body for ShapedBody {
    type Data = Piece;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, BoxError>>> {
        let this = &mut *self;
        loop {
            if !this.rest.is_empty() {
                if this.taken == 0 {
                    this.taken = this.meter.piece().min(this.rest.len());
                    this.meter.take(this.taken);
                }
                ready!(this.meter.poll_room(cx));
                let piece = this.rest.split_to(std::mem::take(&mut this.taken));
                return Poll::Ready(Some(Ok(Frame::data(Piece::Bytes(piece)))));
            }
            let frame = match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                other => return Poll::Ready(other),
            };
            match frame.into_data() {
                Ok(Piece::Bytes(bytes)) => this.rest = bytes,
                // Of a request that is measured nothing goes by the kernel.
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
    use std::time::Duration;

    use http_body_util::BodyExt as _;
    use prometheus::IntCounter;
    use tokio::time::Instant;

    use super::*;
    use crate::admission::rates::Key;
    use crate::admission::shaper::{Limit, Mover, Shaper};
    use crate::config::rates::Per;
    use crate::http::response::full;
    use crate::route::Class;

    fn mover(last: u8) -> Mover {
        Mover {
            address: Some(Key::Address([192, 0, 2, last].into())),
            ..Mover::default()
        }
    }

    fn shaper(node: u64, bytes: u64) -> Shaper {
        let limit = Limit {
            per: Per::Address,
            classes: vec![Class::Download],
            bytes,
        };
        Shaper::new(node, vec![limit])
    }

    fn text(bytes: usize) -> Vec<u8> {
        (0..=255).cycle().take(bytes).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_of_one_share_its_rate_and_lose_nothing() {
        let (shaper, waited) = (shaper(0, 100_000), IntCounter::new("w", "w").unwrap());
        let begun = Instant::now();
        let bodies: Vec<_> = (0..4)
            .map(|_| {
                shaper
                    .meter(Class::Download, &mover(1), || waited.clone())
                    .unwrap()
            })
            .map(|meter| ShapedBody::new(full(text(250_000)), meter))
            .collect();
        let collected: Vec<_> = bodies
            .into_iter()
            .map(|body| tokio::spawn(async move { body.collect().await.unwrap().to_bytes() }))
            .collect();
        // Another has a rate of its own.
        let meter = shaper
            .meter(Class::Download, &mover(2), || waited.clone())
            .unwrap();
        let other = ShapedBody::new(full(text(250_000)), meter);
        assert_eq!(other.collect().await.unwrap().to_bytes(), text(250_000));
        let took = begun.elapsed();
        assert!((2_200..2_600).contains(&took.as_millis()), "{took:?}");
        for body in collected {
            assert_eq!(body.await.unwrap(), text(250_000));
        }
        let took = begun.elapsed();
        assert!((9_700..10_300).contains(&took.as_millis()), "{took:?}");
        assert!(waited.get() > 0);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_measured_where_no_rate_holds_and_who_goes_leaves_nothing() {
        let waited = IntCounter::new("w", "w").unwrap();
        let measures =
            |shaper: &Shaper, class| shaper.meter(class, &mover(1), || waited.clone()).is_some();
        assert!(!measures(&shaper(0, 0), Class::Download));
        assert!(!measures(&shaper(0, 10), Class::Upload));
        assert!(measures(&shaper(10, 0), Class::Upload));
        let shaper = shaper(1_000_000, 0);
        let meter = |last| {
            shaper
                .meter(Class::Download, &mover(last), || waited.clone())
                .unwrap()
        };
        let mut owes = meter(1);
        owes.take(1_000_000);
        let mut body = ShapedBody::new(full(text(500_000)), meter(2));
        let waits = tokio::time::timeout(Duration::from_millis(10), body.frame());
        assert!(waits.await.is_err());
        drop(body);
        let begun = Instant::now();
        let last = ShapedBody::new(full(text(10)), meter(3));
        assert_eq!(last.collect().await.unwrap().to_bytes(), text(10));
        let took = begun.elapsed();
        assert!((800..1_100).contains(&took.as_millis()), "{took:?}");
    }
}
