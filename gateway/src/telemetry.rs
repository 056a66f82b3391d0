//! Every metric and every log line, named once.
//!
//! `metrics` holds the numbers, `access` the one line per request, `log` the lines of everything
//! else and the thread that writes both. Nothing here decides anything.

pub mod access;
pub mod log;
pub mod metrics;

use std::sync::Arc;

pub use access::AccessLine;
pub use log::{LogGuard, LogSink};
pub use metrics::Metrics;

/// The numbers and the lines of one process.
#[derive(Debug)]
pub struct Telemetry {
    /// The numbers.
    pub metrics: Metrics,
    sink: LogSink,
}

impl Telemetry {
    /// Fresh numbers, and lines to `sink`.
    pub fn new(sink: LogSink) -> Arc<Self> {
        Arc::new(Self {
            metrics: Metrics::new(),
            sink,
        })
    }

    /// Numbers and lines that nobody looks at, for tests.
    pub fn silent() -> Arc<Self> {
        Self::new(LogSink::null())
    }

    /// Writes the line of a request that is over.
    pub fn access(&self, line: &AccessLine<'_>) {
        self.sink.write(line.to_json());
    }

    /// All metrics in the Prometheus text format, [`metrics::CONTENT_TYPE`].
    pub fn render(&self) -> String {
        self.metrics.render(self.sink.dropped())
    }
}
