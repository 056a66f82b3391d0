//! The numbers: one registry, every metric with its unit and what it tells.

use std::array::from_fn;
use std::collections::HashMap;
use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use boxgate_storage::check::Collected;
use http::Version;
use prometheus::{
    Counter, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::route::ROUTES;

/// The media type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Seconds; from an answer out of memory to an upload of half an hour.
const REQUEST_BUCKETS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0, 1800.0,
];
/// Seconds; around what an fsync takes.
const COMMIT_BUCKETS: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
];

/// All metrics; each field says in its help text what it counts.
#[expect(
    missing_docs,
    reason = "the help text beside each name is its documentation"
)]
pub struct Metrics {
    registry: Registry,
    pub http_request_seconds: HistogramVec,
    ended: Ended,
    pub http_bytes_in: IntCounter,
    pub http_bytes_out: IntCounter,
    pub http_panics: IntCounter,
    pub connections: IntGauge,
    pub connections_refused: IntCounterVec,
    requests: Requests,
    pub answers_at_once: IntCounter,
    pub admission: Admission,
    pub tls_handshakes_failed: IntCounter,
    pub tls_certificate_ok: IntGauge,
    pub downloads_broken: IntCounterVec,
    pub cache_blocks: IntCounterVec,
    pub cache_held_bytes: IntGauge,
    pub file_blocks_proved: IntCounter,
    pub file_sent_bytes: IntCounter,
    pub uploads_in_progress: IntGauge,
    pub metadata_commit_seconds: Histogram,
    pub store_free_bytes: IntGaugeVec,
    pub dependency_state: IntGaugeVec,
    pub adapters: Adapters,
    pub images: Images,
    pub ingest_copied_bytes: IntCounterVec,
    pub upkeep: Upkeep,
    log_lines_dropped: IntGauge,
    pub spans_exported: IntCounter,
    pub spans_lost: IntCounter,
    process: Process,
}

/// Requests by version of HTTP, each counter found once.
struct Requests {
    http1: IntCounter,
    http2: IntCounter,
    http3: IntCounter,
}

impl Requests {
    fn new(make: &Maker) -> Self {
        let all = make.counters(
            "boxgate_http_requests_total",
            "Requests by version of HTTP.",
            &["version"],
        );
        let [http1, http2, http3] =
            ["1", "2", "3"].map(|version| all.with_label_values(&[version]));
        Self {
            http1,
            http2,
            http3,
        }
    }
}

/// Requests by route and by how they ended; each histogram is found once, when it first counts.
struct Ended(HashMap<&'static str, [OnceLock<Histogram>; CLASSES.len()]>);

/// Of status codes by their first digit; the first is that of a client that left before its answer.
const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

impl Ended {
    fn new() -> Self {
        let names = ROUTES.iter().map(|row| row.route.name());
        Self(
            names
                .map(|name| (name, from_fn(|_| OnceLock::new())))
                .collect(),
        )
    }

    fn observe(&self, all: &HistogramVec, route: &str, status: Option<u16>, took: Duration) {
        let digit = usize::from(status.unwrap_or_default() / 100);
        let class = if digit < CLASSES.len() { digit } else { 0 };
        let find = || all.with_label_values(&[route, CLASSES[class]]);
        let seconds = took.as_secs_f64();
        match self.0.get(route) {
            Some(found) => found[class].get_or_init(find).observe(seconds),
            None => find().observe(seconds),
        }
    }
}

/// Metrics of what is done to what is stored, unasked or asked.
#[expect(
    missing_docs,
    reason = "the help text beside each name is its documentation"
)]
#[derive(Debug)]
pub struct Upkeep {
    pub gc_removed: IntCounter,
    pub gc_removed_bytes: IntCounter,
    gc_orphans: IntGaugeVec,
    gc_stops: IntCounterVec,
    gc_last_run: IntGauge,
    pub scrub_bytes: IntCounter,
    pub scrub_damaged: IntCounter,
    pub scrub_last_end: IntGauge,
    pub sha256_bytes: IntCounter,
    pub sha256_waiting: IntGauge,
    pub sha256_oldest: IntGauge,
}

impl Upkeep {
    fn new(make: &Maker) -> Self {
        Self {
            gc_removed: make.counter(
                "boxgate_gc_removed_total",
                "Blobs and leftovers that nobody held and that were removed.",
            ),
            gc_removed_bytes: make.counter(
                "boxgate_gc_removed_bytes_total",
                "Bytes of blobs and leftovers that were removed.",
            ),
            gc_orphans: make.gauges(
                "boxgate_gc_orphans",
                "Keys of a store that no row named at the last look.",
                &["store"],
            ),
            gc_stops: make.counters(
                "boxgate_gc_brake_stops_total",
                "Looks that found too many keys without a row to remove any.",
                &["store"],
            ),
            gc_last_run: make.gauge(
                "boxgate_gc_last_run_timestamp_seconds",
                "When the stores were last looked through, since the Unix epoch in seconds; 0 is not since the start.",
            ),
            scrub_bytes: make.counter(
                "boxgate_scrub_bytes_total",
                "Stored bytes that were read and compared with what was hashed.",
            ),
            scrub_damaged: make.counter(
                "boxgate_scrub_damaged_total",
                "Blobs that a scrub found damaged or missing.",
            ),
            scrub_last_end: make.gauge(
                "boxgate_scrub_last_end_timestamp_seconds",
                "When a scrub in the background last read all, since the Unix epoch in seconds; 0 is not since the start.",
            ),
            sha256_bytes: make.counter(
                "boxgate_deferred_sha256_bytes_total",
                "Stored bytes that were read for a SHA-256 that was deferred.",
            ),
            sha256_waiting: make.gauge(
                "boxgate_deferred_sha256_blobs",
                "Blobs whose SHA-256 is not known yet.",
            ),
            sha256_oldest: make.gauge(
                "boxgate_deferred_sha256_oldest_timestamp_seconds",
                "When the oldest of them came in, since the Unix epoch in seconds; 0 is none.",
            ),
        }
    }

    /// Notes what a collection found in the stores.
    pub fn collected(&self, collected: &Collected) {
        for (name, store) in &collected.stores {
            let orphans = i64::try_from(store.orphans).unwrap_or(i64::MAX);
            self.gc_orphans.with_label_values(&[name]).set(orphans);
            let stops = self.gc_stops.with_label_values(&[name]);
            stops.inc_by(u64::from(store.stopped));
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "whole seconds of this era fit"
        )]
        self.gc_last_run.set(unix_seconds() as i64);
    }
}

/// Metrics of who asks for too much.
#[expect(
    missing_docs,
    reason = "the help text beside each name is its documentation"
)]
#[derive(Debug)]
pub struct Admission {
    pub requests_refused: IntCounterVec,
    pub rate_keys: IntGaugeVec,
    pub shaper_waits: IntCounterVec,
}

impl Admission {
    fn new(make: &Maker) -> Self {
        Self {
            requests_refused: make.counters(
                "boxgate_requests_refused_total",
                "Requests refused as too many (429), by the policy of [rates] or requests_at_once.",
                &["limit"],
            ),
            rate_keys: make.gauges(
                "boxgate_rate_keys",
                "Askers that a policy of [rates] remembers.",
                &["policy"],
            ),
            shaper_waits: make.counters(
                "boxgate_shaper_waits_total",
                "Pieces of bodies that waited for the rates of [rates] or limits.bytes_in and bytes_out.",
                &["direction"],
            ),
        }
    }
}

/// Metrics of adapters to clouds.
#[expect(
    missing_docs,
    reason = "the help text beside each name is its documentation"
)]
#[derive(Debug)]
pub struct Adapters {
    pub requests: IntCounterVec,
    pub request_seconds: HistogramVec,
}

impl Adapters {
    fn new(make: &Maker) -> Self {
        Self {
            requests: make.counters(
                "boxgate_provider_requests_total",
                "Requests to adapters by operation and outcome: ok, refused (4xx), busy (503), failed (5xx).",
                &["provider", "operation", "outcome"],
            ),
            request_seconds: make.add(HistogramVec::new(
                HistogramOpts::new(
                    "boxgate_provider_request_seconds",
                    "Time that requests to adapters took in seconds, their cloud's included, by operation.",
                )
                .buckets(REQUEST_BUCKETS.to_vec()),
                &["provider", "operation"],
            )),
        }
    }
}

/// Metrics of runtimes' images.
#[expect(
    missing_docs,
    reason = "the help text beside each name is its documentation"
)]
#[derive(Debug, Clone)]
pub struct Images {
    pub requests: IntCounterVec,
    pub reloads: IntCounterVec,
    pub backups: IntCounterVec,
}

impl Images {
    fn new(make: &Maker) -> Self {
        Self {
            requests: make.counters(
                "boxgate_runtime_requests_total",
                "Requests to runtimes by operation and outcome: ok, unauthorized (401), refused (other 4xx, 503), failed (5xx).",
                &["runtime", "operation", "outcome"],
            ),
            reloads: make.counters(
                "boxgate_runtime_reloads_total",
                "Images that a runtime was told of, by outcome: ok, failed, rolled_back, skipped.",
                &["runtime", "outcome"],
            ),
            backups: make.counters(
                "boxgate_runtime_backups_total",
                "Copies of images, by outcome: ok, failed.",
                &["runtime", "outcome"],
            ),
        }
    }

    /// Has a runtime's counts begin at nought, so that its first failure is seen as one.
    pub fn begin(&self, runtime: &str) {
        for operation in ["retrieve", "deploy", "push"] {
            for outcome in ["ok", "unauthorized", "refused", "failed"] {
                self.requests
                    .with_label_values(&[runtime, operation, outcome]);
            }
        }
        for outcome in ["ok", "failed", "rolled_back", "skipped"] {
            self.reloads.with_label_values(&[runtime, outcome]);
        }
        for outcome in ["ok", "failed"] {
            self.backups.with_label_values(&[runtime, outcome]);
        }
    }
}

struct Process {
    resident_memory_bytes: IntGauge,
    cpu_seconds: Counter,
    open_fds: IntGauge,
    start_time_seconds: Gauge,
}

/// Makes metrics and puts each into the registry.
struct Maker(Registry);

impl Maker {
    fn add<M: prometheus::core::Collector + Clone + 'static>(
        &self,
        metric: prometheus::Result<M>,
    ) -> M {
        let metric = metric.expect("names and labels are constants of this file, and valid");
        self.0
            .register(Box::new(metric.clone()))
            .expect("each name stands once in this file");
        metric
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }
}

impl Process {
    fn new(make: &Maker) -> Self {
        let process = Self {
            resident_memory_bytes: make.gauge(
                "process_resident_memory_bytes",
                "Resident memory size in bytes.",
            ),
            cpu_seconds: make.add(Counter::new(
                "process_cpu_seconds_total",
                "Total user and system CPU time spent in seconds.",
            )),
            open_fds: make.gauge("process_open_fds", "Number of open file descriptors."),
            start_time_seconds: make.add(Gauge::new(
                "process_start_time_seconds",
                "Start time of the process since the Unix epoch in seconds.",
            )),
        };
        process.start_time_seconds.set(unix_seconds());
        process
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All of them, at nought.
    ///
    /// # Panics
    /// When a name of this file stands twice; any test finds that.
    #[expect(clippy::too_many_lines, reason = "a few lines for each metric")]
    pub fn new() -> Self {
        let make = Maker(Registry::new());
        Self {
            http_request_seconds: make.add(HistogramVec::new(
                HistogramOpts::new(
                    "boxgate_http_request_seconds",
                    "Time from a request's head to the end of its answer in seconds, by route and status class.",
                )
                .buckets(REQUEST_BUCKETS.to_vec()),
                &["route", "status"],
            )),
            ended: Ended::new(),
            http_bytes_in: make.counter(
                "boxgate_http_bytes_in_total",
                "Bytes of request bodies received.",
            ),
            http_bytes_out: make.counter(
                "boxgate_http_bytes_out_total",
                "Bytes of response bodies handed to connections.",
            ),
            http_panics: make.counter(
                "boxgate_http_panics_total",
                "Requests that ended in a defect of ours.",
            ),
            connections: make.gauge("boxgate_connections", "Connections open now."),
            connections_refused: make.counters(
                "boxgate_connections_refused_total",
                "Connections closed at once, by the limit that was reached.",
                &["limit"],
            ),
            requests: Requests::new(&make),
            answers_at_once: make.counter(
                "boxgate_http_answers_at_once_total",
                "Requests without a credential that were answered from what was kept of public boxes.",
            ),
            admission: Admission::new(&make),
            tls_handshakes_failed: make.counter(
                "boxgate_tls_handshakes_failed_total",
                "Handshakes of TLS and QUIC that did not end, ended badly or took too long.",
            ),
            tls_certificate_ok: make.gauge(
                "boxgate_tls_certificate_ok",
                "Whether the certificate in use is the one in its files: 1 yes or no TLS, 0 what is there now is not good.",
            ),
            cache_blocks: make.counters(
                "boxgate_cache_blocks_total",
                "Blocks of the cache: asked for and there (hit) or not (miss), read and proved (fill), given way (eviction).",
                &["event"],
            ),
            cache_held_bytes: make.gauge(
                "boxgate_cache_held_bytes",
                "Bytes that the cache, its fills and its readers hold.",
            ),
            file_blocks_proved: make.counter(
                "boxgate_file_blocks_proved_total",
                "Blocks of stored files that were read and proved, so that the kernel may send them.",
            ),
            file_sent_bytes: make.counter(
                "boxgate_file_sent_bytes_total",
                "Bytes given to the kernel to be sent from stored files.",
            ),
            downloads_broken: make.counters(
                "boxgate_downloads_broken_total",
                "Answers that ended before their last byte, by reason.",
                &["reason"],
            ),
            uploads_in_progress: make.gauge(
                "boxgate_uploads_in_progress",
                "Uploads whose body is being received.",
            ),
            metadata_commit_seconds: make.add(Histogram::with_opts(
                HistogramOpts::new(
                    "boxgate_metadata_commit_seconds",
                    "Time that a metadata transaction took until it was durable, in seconds.",
                )
                .buckets(COMMIT_BUCKETS.to_vec()),
            )),
            store_free_bytes: make.gauges(
                "boxgate_store_free_bytes",
                "Free space of a store in bytes.",
                &["store"],
            ),
            dependency_state: make.gauges(
                "boxgate_dependency_state",
                "Whether a dependency answers: 1 yes, 0 no.",
                &["dependency"],
            ),
            adapters: Adapters::new(&make),
            images: Images::new(&make),
            ingest_copied_bytes: make.counters(
                "boxgate_ingest_copied_bytes_total",
                "Bytes of uploads copied in user space on their way to a store.",
                &["store"],
            ),
            upkeep: Upkeep::new(&make),
            log_lines_dropped: make.gauge(
                "boxgate_log_lines_dropped",
                "Log lines lost since the start because standard error or the log file was too slow.",
            ),
            spans_exported: make.counter(
                "boxgate_telemetry_spans_exported_total",
                "Spans that the collector took.",
            ),
            spans_lost: make.counter(
                "boxgate_telemetry_spans_lost_total",
                "Spans that found no room, or that the collector did not take.",
            ),
            process: Process::new(&make),
            registry: make.0,
        }
    }

    /// Notes a request whose head is there.
    pub fn request_came(&self, version: Version) {
        let requests = &self.requests;
        match version {
            Version::HTTP_2 => requests.http2.inc(),
            Version::HTTP_3 => requests.http3.inc(),
            _ => requests.http1.inc(),
        }
    }

    /// Notes a request that is over; `status` is `None` when its client left before the answer.
    pub fn request_ended(&self, route: &str, status: Option<u16>, took: Duration) {
        let all = &self.http_request_seconds;
        self.ended.observe(all, route, status, took);
    }

    /// All metrics in the Prometheus text format, with `dropped_lines` of the log.
    pub(super) fn render(&self, dropped_lines: u64) -> String {
        self.log_lines_dropped
            .set(i64::try_from(dropped_lines).unwrap_or(i64::MAX));
        self.process.refresh();
        let mut text = String::new();
        // Only a metric without a name or a family of mixed types fails, and neither can be made here.
        let encoded = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text);
        if let Err(error) = encoded {
            tracing::error!(%error, "metrics cannot be written");
        }
        text
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Process {
    /// Asks the system; what it does not tell keeps its last value.
    fn refresh(&self) {
        // proc(5), statm: the second number is the resident pages.
        let pages = std::fs::read_to_string("/proc/self/statm")
            .ok()
            .and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
        if let Some(pages) = pages {
            let bytes = pages.saturating_mul(rustix::param::page_size() as u64);
            self.resident_memory_bytes
                .set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        if let Some(seconds) = cpu_seconds() {
            self.cpu_seconds
                .inc_by((seconds - self.cpu_seconds.get()).max(0.0));
        }
        if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
            self.open_fds
                .set(i64::try_from(entries.count()).unwrap_or(i64::MAX));
        }
    }
}

/// User and system time of this process; proc(5), stat: fields 14 and 15, in clock ticks.
fn cpu_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in parentheses and may hold anything.
    let after_name = &text[text.rfind(')')? + 1..];
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    let per_second = u32::try_from(rustix::param::clock_ticks_per_second()).ok()?;
    Some((f64::from(user) + f64::from(system)) / f64::from(per_second.max(1)))
}

fn unix_seconds() -> f64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use boxgate_storage::check::Orphans;

    use super::*;

    fn filled() -> Metrics {
        let metrics = Metrics::new();
        metrics.request_ended("/health", Some(200), Duration::from_millis(3));
        metrics.request_ended("other", None, Duration::from_secs(3));
        metrics
            .downloads_broken
            .with_label_values(&["client"])
            .inc();
        metrics
            .connections_refused
            .with_label_values(&["address"])
            .inc();
        metrics
            .store_free_bytes
            .with_label_values(&["main"])
            .set(1 << 40);
        metrics
            .dependency_state
            .with_label_values(&["database"])
            .set(1);
        metrics
            .ingest_copied_bytes
            .with_label_values(&["main"])
            .inc_by(5);
        metrics.metadata_commit_seconds.observe(0.002);
        let orphans = Orphans {
            orphans: 7,
            stopped: true,
            ..Orphans::default()
        };
        metrics.upkeep.collected(&Collected {
            stores: [("main".to_owned(), orphans)].into(),
            ..Collected::default()
        });
        metrics
    }

    #[test]
    fn requests_are_counted_by_their_route_and_class() {
        let metrics = Metrics::new();
        let known = ROUTES[0].route.name();
        let took = Duration::from_millis(3);
        for status in [Some(200), Some(204), Some(404), Some(999), None] {
            metrics.request_ended(known, status, took);
            metrics.request_ended("no route", status, took);
        }
        let text = metrics.render(0);
        for route in [known, "no route"] {
            for (class, count) in [("2xx", 2), ("4xx", 1), ("none", 2)] {
                let labels = format!("route=\"{route}\",status=\"{class}\"");
                let line = format!("boxgate_http_request_seconds_count{{{labels}}} {count}");
                assert!(text.contains(&line), "{line} is missing in\n{text}");
            }
        }
        assert!(
            !text.contains("status=\"5xx\""),
            "what never was is not told"
        );
    }

    #[test]
    fn every_metric_is_written_under_its_name() {
        let text = filled().render(7);
        for line in [
            "# TYPE boxgate_http_request_seconds histogram",
            "boxgate_http_request_seconds_count{route=\"/health\",status=\"2xx\"} 1",
            "boxgate_http_request_seconds_count{route=\"other\",status=\"none\"} 1",
            "# TYPE boxgate_http_bytes_in_total counter",
            "boxgate_http_bytes_out_total 0",
            "boxgate_http_panics_total 0",
            "boxgate_connections 0",
            "boxgate_uploads_in_progress 0",
            "boxgate_store_free_bytes{store=\"main\"} 1099511627776",
            "boxgate_dependency_state{dependency=\"database\"} 1",
            "boxgate_ingest_copied_bytes_total{store=\"main\"} 5",
            "boxgate_downloads_broken_total{reason=\"client\"} 1",
            "boxgate_log_lines_dropped 7",
            "boxgate_gc_orphans{store=\"main\"} 7",
            "boxgate_gc_brake_stops_total{store=\"main\"} 1",
            "boxgate_gc_removed_bytes_total 0",
            "boxgate_scrub_damaged_total 0",
            "boxgate_deferred_sha256_blobs 0",
            "# TYPE process_cpu_seconds_total counter",
            "# TYPE process_resident_memory_bytes gauge",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is missing in\n{text}"
            );
        }
        assert!(!text.contains("process_resident_memory_bytes 0\n"));
        assert!(!text.contains("process_open_fds 0\n"));
    }
}
