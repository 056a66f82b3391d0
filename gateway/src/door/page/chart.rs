//! Small charts, drawn here: a line over the last minutes, and what it says in words.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use askama::Template;
use prometheus::core::Collector;

use super::size;
use crate::telemetry::Metrics;

/// Samples that are kept.
const KEPT: usize = 150;
/// Time between two.
const APART: Duration = Duration::from_secs(2);
/// Height of a chart in its own units; its width is 100.
const HEIGHT: f64 = 30.0;

/// What was counted so far, at a moment.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    at: Duration,
    bytes_in: u64,
    bytes_out: u64,
    requests: u64,
    errors: u64,
}

/// What was counted lately. Looked at by nobody it is not filled.
#[derive(Debug, Default)]
pub struct Watch(Mutex<VecDeque<Sample>>);

/// A line over the last minutes.
#[derive(Debug, Template)]
#[template(path = "chart.html")]
pub(super) struct Chart {
    label: &'static str,
    now: String,
    most: String,
    points: String,
}

impl Watch {
    /// Counts once more, unless that was done just before, and draws what is known.
    pub(super) fn charts(&self, metrics: &Metrics, at: Duration) -> Vec<Chart> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept
            .back()
            .is_none_or(|last| at.saturating_sub(last.at) >= APART)
        {
            if kept.len() == KEPT {
                kept.pop_front();
            }
            kept.push_back(sample(metrics, at));
        }
        let samples: Vec<Sample> = kept.iter().copied().collect();
        drop(kept);
        let bytes = |rate: f64| format!("{}/s", size(whole(rate)));
        let count = |rate: f64| format!("{rate:.1}/s");
        vec![
            Chart::of("Bytes in", &samples, |sample| sample.bytes_in, &bytes),
            Chart::of("Bytes out", &samples, |sample| sample.bytes_out, &bytes),
            Chart::of("Requests", &samples, |sample| sample.requests, &count),
            Chart::of("Errors of ours", &samples, |sample| sample.errors, &count),
        ]
    }
}

fn sample(metrics: &Metrics, at: Duration) -> Sample {
    let by_status = counts(&metrics.http_request_seconds, "status");
    Sample {
        at,
        bytes_in: metrics.http_bytes_in.get(),
        bytes_out: metrics.http_bytes_out.get(),
        requests: by_status.iter().map(|(_, count)| count).sum(),
        errors: by_status
            .iter()
            .filter(|(status, _)| status == "5xx")
            .map(|(_, count)| count)
            .sum(),
    }
}

/// How often something was counted, by a label of it; values may come several times.
pub(super) fn counts(of: &impl Collector, label: &str) -> Vec<(String, u64)> {
    let families = of.collect();
    let metrics = families
        .iter()
        .flat_map(prometheus::proto::MetricFamily::get_metric);
    let counted = metrics.map(|metric| {
        let named = metric.get_label().iter().find(|pair| pair.name() == label);
        let value = named
            .map(|pair| pair.value().to_owned())
            .unwrap_or_default();
        // One of both is nought.
        let count =
            metric.get_histogram().get_sample_count() + whole(metric.get_counter().get_value());
        (value, count)
    });
    counted.collect()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts and rates are no less than nought, and are shown, not reckoned with"
)]
fn whole(value: f64) -> u64 {
    value.max(0.0) as u64
}

#[expect(clippy::cast_precision_loss, reason = "a chart is not that precise")]
fn float(value: u64) -> f64 {
    value as f64
}

impl Chart {
    fn of(
        label: &'static str,
        samples: &[Sample],
        value: impl Fn(&Sample) -> u64,
        said: &dyn Fn(f64) -> String,
    ) -> Self {
        let rates: Vec<(f64, f64)> = samples
            .windows(2)
            .map(|pair| {
                let seconds = pair[1]
                    .at
                    .saturating_sub(pair[0].at)
                    .as_secs_f64()
                    .max(0.001);
                let more = value(&pair[1]).saturating_sub(value(&pair[0]));
                (pair[1].at.as_secs_f64(), float(more) / seconds)
            })
            .collect();
        let most = rates.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
        let (first, last) = match (rates.first(), rates.last()) {
            (Some((first, _)), Some((last, _))) => (*first, *last),
            _ => (0.0, 0.0),
        };
        let mut points = String::new();
        for (at, rate) in &rates {
            let x = 100.0 * (at - first) / (last - first).max(0.001);
            let y = HEIGHT - HEIGHT * rate / most.max(f64::MIN_POSITIVE);
            let _infallible = write!(points, "{x:.1},{y:.1} ");
        }
        Self {
            label,
            now: rates
                .last()
                .map_or_else(|| "is being counted".to_owned(), |(_, rate)| said(*rate)),
            most: said(most),
            points,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_tells_rates_between_samples() {
        let at = |seconds, bytes_in| Sample {
            at: Duration::from_secs(seconds),
            bytes_in,
            ..Sample::default()
        };
        let samples = [at(0, 0), at(2, 2048), at(4, 2048), at(6, 10_240)];
        let said = |rate: f64| format!("{rate:.0}");
        let chart = Chart::of("in", &samples, |sample| sample.bytes_in, &said);
        assert_eq!((chart.now.as_str(), chart.most.as_str()), ("4096", "4096"));
        assert_eq!(chart.points, "0.0,22.5 50.0,30.0 100.0,0.0 ");
        let none = Chart::of("in", &samples[..1], |sample| sample.bytes_in, &said);
        assert_eq!(
            (none.now.as_str(), none.points.as_str()),
            ("is being counted", "")
        );
    }

    #[test]
    fn who_looks_often_counts_once() {
        let (watch, metrics) = (Watch::default(), Metrics::new());
        for millis in [0, 100, 2000, 2100, 4000] {
            drop(watch.charts(&metrics, Duration::from_millis(millis)));
        }
        assert_eq!(watch.0.lock().unwrap().len(), 3);
    }
}
