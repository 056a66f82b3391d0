//! Spans to an OpenTelemetry collector: OTLP/HTTP in JSON, off unless an endpoint is named.
//!
//! Written by hand, for it is one document and one POST: the crates that do it bring a second HTTP client, which would go
//! past [`crate::outbound`], and a protobuf and gRPC stack. Recording never waits: what does not fit into the queue is
//! lost, and counted; so is what a collector does not take in a few tries.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use boxgate_storage::Error;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use prometheus::IntCounter;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::trace::Trace;
use crate::config::Cidr;
use crate::config::settings::Otlp;
use crate::outbound::{Caller, Destination, Outbound, Outgoing};

/// Spans that wait to be sent; some hundred bytes each.
const QUEUE_SPANS: usize = 8192;
/// Spans of one request: some 300 KiB.
const BATCH_SPANS: usize = 512;
/// How long spans gather before they are sent together.
const GATHER: Duration = Duration::from_secs(1);
/// How long connecting to the collector may take.
const CONNECT_TIME: Duration = Duration::from_secs(3);
/// How long one request to it may take.
const SEND_TIME: Duration = Duration::from_secs(10);
/// Tries of one batch.
const TRIES: u32 = 3;
/// The pause after the first failed one; twice as long after the next.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// All that is left when the gateway stops has so long, together.
const LAST_TIME: Duration = Duration::from_secs(3);
/// Addresses that are opened beside private ones.
const THIS_MACHINE: [&str; 2] = ["127.0.0.0/8", "::1"];
/// Bytes of an answer that are read: it says nothing that we need.
const READ_BYTES: usize = 4 << 10;

/// Which side of a request a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It was answered here.
    Server,
    /// It was sent from here.
    Client,
}

/// One piece of work that is over.
#[derive(Debug)]
pub struct Span {
    /// Where it belongs.
    pub trace: Trace,
    /// What was done: the route, or a method.
    pub name: String,
    /// Which side.
    pub side: Side,
    /// How long it took, until now.
    pub took: Duration,
    /// The status of the answer, if there was one.
    pub status: Option<u16>,
    /// What else is known, by its name in OpenTelemetry's conventions, or in ours.
    pub facts: Vec<(&'static str, Value)>,
}

/// Takes spans. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Spans {
    queue: mpsc::Sender<(Span, SystemTime)>,
    lost: IntCounter,
    percent: u8,
}

impl Spans {
    /// Whether a trace that begins here is to be recorded.
    pub fn begins(&self) -> bool {
        fastrand::u8(..100) < self.percent
    }

    /// Takes a span, if whoever began its trace wants it recorded. Never waits.
    pub fn record(&self, span: Span) {
        if span.trace.is_sampled() && self.queue.try_send((span, SystemTime::now())).is_err() {
            self.lost.inc();
        }
    }
}

/// Sends what [`Spans`] takes.
#[derive(Debug)]
pub struct Exporter {
    queue: mpsc::Receiver<(Span, SystemTime)>,
    caller: Caller,
    to: Destination,
    sent: IntCounter,
    lost: IntCounter,
    instance: String,
}

/// Both ends of it.
///
/// # Errors
/// The rule that the endpoint breaks; a checked setting breaks none.
pub fn open(
    settings: &Otlp,
    outbound: &Outbound,
    (sent, lost): (&IntCounter, &IntCounter),
) -> Result<(Spans, Exporter), Error> {
    let to = format!("{}/v1/traces", settings.endpoint);
    let to = Destination::parse(&to).map_err(|rule| {
        let kind = boxgate_storage::ErrorKind::Invalid;
        Error::new(kind, "telemetry.otlp", settings.endpoint.as_str()).with_source(rule)
    })?;
    let (queue, taken) = mpsc::channel(QUEUE_SPANS);
    // A collector mostly stands on this machine or beside it, and its operator named it.
    let here: Vec<Cidr> = THIS_MACHINE
        .iter()
        .filter_map(|block| block.parse().ok())
        .collect();
    let caller = outbound
        .caller("telemetry.otlp", &here, CONNECT_TIME)
        .privately()
        .quietly();
    let spans = Spans {
        queue,
        lost: lost.clone(),
        percent: settings.percent,
    };
    let exporter = Exporter {
        queue: taken,
        caller,
        to,
        sent: sent.clone(),
        lost: lost.clone(),
        instance: hex::encode(fastrand::u128(..).to_be_bytes()),
    };
    Ok((spans, exporter))
}

impl Exporter {
    /// Sends until `ending`, and then what is left, for a short while.
    pub async fn run(mut self, ending: CancellationToken) {
        let mut rest = Vec::new();
        loop {
            let first = tokio::select! {
                first = self.queue.recv() => first,
                () = ending.cancelled() => None,
            };
            let Some(first) = first else { break };
            let batch = self.gather(first, &ending).await;
            let is_over = tokio::select! {
                () = self.deliver(&batch) => false,
                () = ending.cancelled() => true,
            };
            if is_over {
                rest = batch;
                break;
            }
        }
        while let Ok(span) = self.queue.try_recv() {
            rest.push(span);
        }
        let until = Instant::now() + LAST_TIME;
        for batch in rest.chunks(BATCH_SPANS) {
            if timeout_at(until, self.deliver(batch)).await.is_err() {
                self.lost.inc_by(batch.len() as u64);
            }
        }
    }

    async fn gather(
        &mut self,
        first: (Span, SystemTime),
        ending: &CancellationToken,
    ) -> Vec<(Span, SystemTime)> {
        let until = Instant::now() + GATHER;
        let mut batch = vec![first];
        while batch.len() < BATCH_SPANS {
            let next = tokio::select! {
                next = timeout_at(until, self.queue.recv()) => next,
                () = ending.cancelled() => break,
            };
            let Ok(Some(span)) = next else { break };
            batch.push(span);
        }
        batch
    }

    async fn deliver(&self, batch: &[(Span, SystemTime)]) {
        let document = document(batch, &self.instance).to_string();
        let count = batch.len() as u64;
        let mut pause = FIRST_PAUSE;
        for tried in 1..=TRIES {
            let request = Outgoing {
                method: Method::POST,
                to: self.to.clone(),
                headers: HeaderMap::from_iter([(
                    CONTENT_TYPE,
                    HeaderValue::from_static("application/json"),
                )]),
                body: document.clone().into(),
                time: SEND_TIME,
                most: READ_BYTES,
                cut: true,
            };
            let why = match self.caller.send(request).await {
                Ok(answer) if answer.status.is_success() => {
                    self.sent.inc_by(count);
                    return;
                }
                Ok(answer) => {
                    let status = answer.status.as_u16();
                    // What OTLP says may be sent again.
                    if !matches!(status, 429 | 502 | 503 | 504) {
                        tracing::warn!(status, "the collector does not take spans");
                        break;
                    }
                    format!("it answers {status}")
                }
                Err(fault) => fault.to_string(),
            };
            tracing::warn!(why, tried, "spans did not reach the collector");
            if tried < TRIES {
                sleep(pause).await;
                pause *= 2;
            }
        }
        self.lost.inc_by(count);
    }
}

/// `ExportTraceServiceRequest`, as OTLP has it in JSON: ids in hexadecimal digits, 64-bit numbers as text.
fn document(batch: &[(Span, SystemTime)], instance: &str) -> Value {
    let spans: Vec<Value> = batch
        .iter()
        .map(|(span, ended)| one(span, *ended))
        .collect();
    let version = env!("CARGO_PKG_VERSION");
    json!({
        "resourceSpans": [{
            "resource": { "attributes": [
                attribute("service.name", &"boxgate".into()),
                attribute("service.version", &version.into()),
                attribute("service.instance.id", &instance.into()),
            ] },
            "scopeSpans": [{ "scope": { "name": "boxgate", "version": version }, "spans": spans }],
        }],
    })
}

fn one(span: &Span, ended: SystemTime) -> Value {
    let begun = ended.checked_sub(span.took).unwrap_or(UNIX_EPOCH);
    let mut attributes: Vec<Value> = span
        .facts
        .iter()
        .map(|(name, value)| attribute(name, value))
        .collect();
    if let Some(status) = span.status {
        attributes.push(attribute("http.response.status_code", &status.into()));
    }
    // By the conventions a client's mistake is none of the server's.
    let failed = match span.side {
        Side::Server => span.status.is_none_or(|status| status >= 500),
        Side::Client => span.status.is_none_or(|status| status >= 400),
    };
    let mut told = json!({
        "traceId": span.trace.id(),
        "spanId": span.trace.span(),
        "name": span.name,
        "kind": match span.side { Side::Server => 2, Side::Client => 3 },
        "startTimeUnixNano": nanos(begun),
        "endTimeUnixNano": nanos(ended),
        "attributes": attributes,
        "status": if failed { json!({ "code": 2 }) } else { json!({}) },
    });
    if let Some(parent) = span.trace.parent() {
        told["parentSpanId"] = parent.into();
    }
    if let Some(state) = span.trace.state() {
        told["traceState"] = state.into();
    }
    told
}

fn nanos(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_nanos().to_string()
}

fn attribute(name: &str, value: &Value) -> Value {
    let value = match value {
        Value::Number(number) => json!({ "intValue": number.to_string() }),
        Value::Bool(truth) => json!({ "boolValue": truth }),
        Value::String(text) => json!({ "stringValue": text }),
        other => json!({ "stringValue": other.to_string() }),
    };
    json!({ "key": name, "value": value })
}

/// A request that was sent from here; `caller` is the part of the configuration of whoever wanted it.
pub(crate) fn sent(
    trace: Trace,
    (caller, method, host): (&str, &str, &str),
    (status, fault): (u16, &str),
    took: Duration,
) -> Span {
    let mut facts = vec![
        ("http.request.method", method.into()),
        ("server.address", host.into()),
        ("boxgate.caller", caller.into()),
    ];
    if !fault.is_empty() {
        facts.push(("error.type", fault.into()));
    }
    Span {
        trace,
        name: method.to_owned(),
        side: Side::Client,
        took,
        status: (status > 0).then_some(status),
        facts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_written_as_a_collector_reads_it() {
        let begun = Trace::begun("4bf92f3577b34da6a3ce929d0e0e4736").unwrap();
        let trace = begun.child();
        let span = Span {
            trace: trace.clone(),
            name: "status".to_owned(),
            side: Side::Server,
            took: Duration::from_millis(1500),
            status: Some(503),
            facts: vec![("boxgate.bytes_in", 7.into())],
        };
        let ended = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let document = document(&[(span, ended)], "x");
        let told = &document["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
        assert_eq!(told["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(told["spanId"], trace.span());
        assert_eq!(told["parentSpanId"], begun.span());
        assert_eq!(told["startTimeUnixNano"], "1699999998500000000");
        assert_eq!(told["endTimeUnixNano"], "1700000000000000000");
        assert_eq!(
            (&told["kind"], &told["status"]["code"]),
            (&json!(2), &json!(2))
        );
        let first = json!({ "key": "boxgate.bytes_in", "value": { "intValue": "7" } });
        assert_eq!(told["attributes"][0], first);
        let resource = &document["resourceSpans"][0]["resource"]["attributes"][0];
        assert_eq!(resource["value"]["stringValue"], "boxgate");
    }

    #[tokio::test]
    async fn what_does_not_fit_is_lost_and_counted_and_nobody_waits() {
        let (queue, _taken) = mpsc::channel(1);
        let lost = IntCounter::new("lost", "lost").unwrap();
        let spans = Spans {
            queue,
            lost: lost.clone(),
            percent: 100,
        };
        assert!(spans.begins());
        for _ in 0..3 {
            let trace = Trace::begun("4bf92f3577b34da6a3ce929d0e0e4736").unwrap();
            spans.record(Span {
                trace,
                name: String::new(),
                side: Side::Client,
                took: Duration::ZERO,
                status: None,
                facts: Vec::new(),
            });
        }
        assert_eq!(lost.get(), 2);
    }

    #[tokio::test]
    async fn a_collector_that_hangs_holds_the_end_up_once_and_not_for_each_batch() {
        // It takes connections, and says nothing.
        let hanging = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let settings = Otlp {
            endpoint: format!("http://{}", hanging.local_addr().unwrap()),
            percent: 100,
        };
        let outbound = Outbound::new(&crate::config::defaults().outbound);
        let sent = IntCounter::new("sent", "sent").unwrap();
        let lost = IntCounter::new("lost", "lost").unwrap();
        let (spans, exporter) = open(&settings, &outbound, (&sent, &lost)).unwrap();
        let count = 4 * BATCH_SPANS;
        for _ in 0..count {
            spans.record(Span {
                trace: Trace::begun("4bf92f3577b34da6a3ce929d0e0e4736").unwrap(),
                name: String::new(),
                side: Side::Client,
                took: Duration::ZERO,
                status: None,
                facts: Vec::new(),
            });
        }
        let ended = CancellationToken::new();
        ended.cancel();
        let begun = Instant::now();
        exporter.run(ended).await;
        assert!(begun.elapsed() < LAST_TIME * 3, "{:?}", begun.elapsed());
        assert_eq!((sent.get(), lost.get()), (0, count as u64));
        drop(hanging);
    }
}
