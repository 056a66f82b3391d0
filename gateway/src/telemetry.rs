//! Every metric and every log line, named once.
//!
//! `metrics` holds the numbers, `access` the one line per request, `log` the lines of everything
//! else and the thread that writes both, `trace` what a request belongs to, `otlp` what is told of that to others. Nothing here decides anything.

pub mod access;
pub mod log;
pub mod metrics;
pub mod otlp;
pub mod trace;

use std::sync::{Arc, OnceLock};

pub use access::AccessLine;
pub use log::{LogGuard, LogSink};
pub use metrics::Metrics;
use otlp::Spans;

/// The numbers and the lines of one process.
#[derive(Debug)]
pub struct Telemetry {
    /// The numbers.
    pub metrics: Metrics,
    sink: LogSink,
    /// Where spans go, once somebody wants them.
    spans: OnceLock<Spans>,
}

impl Telemetry {
    /// Fresh numbers, and lines to `sink`.
    pub fn new(sink: LogSink) -> Arc<Self> {
        Arc::new(Self {
            metrics: Metrics::new(),
            sink,
            spans: OnceLock::new(),
        })
    }

    /// Numbers and lines that nobody looks at, for tests.
    pub fn silent() -> Arc<Self> {
        Self::new(LogSink::null())
    }

    /// Has spans taken from now on; the first taker stays.
    pub fn record(&self, spans: Spans) {
        let _already = self.spans.set(spans);
    }

    /// Where spans go, if anywhere.
    pub fn spans(&self) -> Option<&Spans> {
        self.spans.get()
    }

    /// Writes the line of a request that is over, where the level of the log lets it.
    pub fn access(&self, line: &AccessLine<'_>) {
        if !self.sink.is_quiet() {
            self.sink.write(line.to_json());
        }
    }

    /// All metrics in the Prometheus text format, [`metrics::CONTENT_TYPE`].
    pub fn render(&self) -> String {
        self.metrics.render(self.sink.dropped())
    }
}
