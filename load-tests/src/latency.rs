//! How long things took, as a histogram: an average hides the one that stood still.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Times from the intended start to the end of the answer.
#[derive(Debug, Clone)]
pub(crate) struct Latency(Histogram<u64>);

impl Default for Latency {
    fn default() -> Self {
        Self(Histogram::new(3).expect("three digits are within what the histogram can keep"))
    }
}

impl Latency {
    /// Adds one.
    pub(crate) fn record(&mut self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        // It resizes itself, so nothing is out of range.
        let _fits = self.0.record(us);
    }

    /// Whether nothing was recorded.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds all of another.
    pub(crate) fn add(&mut self, other: &Self) {
        // Both resize themselves, so nothing is out of range.
        let _fits = self.0.add(&other.0);
    }

    /// Milliseconds that `percent` of a hundred did not exceed.
    pub(crate) fn percentile_ms(&self, percent: f64) -> f64 {
        #[expect(
            clippy::cast_precision_loss,
            reason = "microseconds of a run fit 52 bits"
        )]
        let us = self.0.value_at_percentile(percent) as f64;
        us / 1000.0
    }

    /// Median, 99 % and the longest, in milliseconds, for people.
    pub(crate) fn text_ms(&self) -> String {
        let [half, most, longest] = [50.0, 99.0, 100.0].map(|percent| self.percentile_ms(percent));
        format!("{half:.0} / {most:.0} / {longest:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slow_one_is_seen() {
        let mut latency = Latency::default();
        for _ in 0..98 {
            latency.record(Duration::from_millis(10));
        }
        latency.record(Duration::from_secs(5));
        latency.record(Duration::from_secs(5));
        assert!((latency.percentile_ms(50.0) - 10.0).abs() < 0.1);
        assert!((latency.percentile_ms(99.0) - 5000.0).abs() < 10.0);
    }
}
