//! A body that goes out as the rates of those it is for allow.

use std::task::{Context, Poll, ready};

use super::paced::{Pace, PacedBody};
use crate::admission::shaper::Meter;
use crate::server::OutboundBody;

/// A body behind a meter.
pub type ShapedBody = PacedBody<Metered>;

/// A meter, and what was taken of it and waits.
#[derive(Debug)]
pub struct Metered {
    meter: Meter,
    taken: usize,
}

impl ShapedBody {
    /// A body whose bytes are measured.
    pub fn new(body: OutboundBody, meter: Meter) -> Self {
        Self::at(body, Metered { meter, taken: 0 })
    }
}

impl Pace for Metered {
    fn poll_piece(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<usize> {
        if self.taken == 0 {
            self.taken = self.meter.piece().min(most);
            self.meter.take(self.taken);
        }
        ready!(self.meter.poll_room(cx));
        Poll::Ready(std::mem::take(&mut self.taken))
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
            by_scripts: None,
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
