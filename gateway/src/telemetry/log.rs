//! Lines of JSON on standard error, and in a file when one is named.
//!
//! Writing must never hold up a request: lines go by a text of fixed length to one thread (`lines.rs`),
//! and what does not fit is dropped and counted. The file may be moved away at any time; the thread
//! notices and begins a new one, so no signal is needed.

mod lines;

use std::cell::RefCell;
use std::fmt::{self, Display, Write as _};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::futures::TaskLocalFuture;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, SpanRef};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use self::lines::Lines;
use crate::config::settings;
use crate::request::RequestFacts;

/// The longest value of a field, in bytes.
const FIELD_BYTES: usize = 1024;
/// What a line needs at first; that of a request needs no more.
const LINE_BYTES: usize = 512;
/// How long lines gather before they are written together: a writer that is woken for each line costs a busy
/// gateway more than the lines do.
const GATHER: Duration = Duration::from_millis(10);

/// Where lines go. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct LogSink {
    to: Arc<Sink>,
    /// Whether the level leaves out what is only told for information.
    is_quiet: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Sink {
    Null,
    Memory(Mutex<Vec<String>>),
    Thread(Arc<Lines>),
}

impl LogSink {
    /// Lines go nowhere.
    pub fn null() -> Self {
        Self::to(Sink::Null)
    }

    /// Lines are kept, for tests.
    pub fn memory() -> Self {
        Self::to(Sink::Memory(Mutex::default()))
    }

    fn to(sink: Sink) -> Self {
        Self {
            to: Arc::new(sink),
            is_quiet: Arc::default(),
        }
    }

    /// Starts the thread that writes to standard error and to `file`.
    ///
    /// # Errors
    /// The file cannot be opened, or no thread started.
    pub fn start(file: Option<&Path>) -> io::Result<(Self, LogGuard)> {
        let file = file.map(LogFile::open).transpose()?;
        let lines = Arc::new(Lines::new());
        let waiting = Arc::clone(&lines);
        let thread = std::thread::Builder::new()
            .name("log".into())
            .spawn(move || write_lines(&waiting, file))?;
        let guard = LogGuard {
            lines: Arc::clone(&lines),
            thread: Some(thread),
        };
        Ok((Self::to(Sink::Thread(lines)), guard))
    }

    /// Whether lines of requests are left out.
    pub fn is_quiet(&self) -> bool {
        self.is_quiet.load(Ordering::Relaxed)
    }

    fn set_level(&self, level: tracing::Level) {
        self.is_quiet
            .store(level < tracing::Level::INFO, Ordering::Relaxed);
    }

    /// Writes one line; `line` has no line feed. Never waits.
    pub fn write(&self, line: String) {
        match &*self.to {
            Sink::Null => {}
            Sink::Memory(lines) => lines
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(line),
            Sink::Thread(lines) => lines.add(&line),
        }
    }

    /// Lines that were lost because the writer was too slow.
    pub fn dropped(&self) -> u64 {
        match &*self.to {
            Sink::Thread(lines) => lines.dropped(),
            Sink::Null | Sink::Memory(_) => 0,
        }
    }

    /// The lines kept so far; none unless made by [`LogSink::memory`].
    pub fn lines(&self) -> Vec<String> {
        match &*self.to {
            Sink::Memory(lines) => lines.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            Sink::Null | Sink::Thread(_) => Vec::new(),
        }
    }

    /// Makes this the place of all `tracing` events of the process, from `level` on.
    pub fn install(&self, level: tracing::Level) -> LogLevel {
        self.set_level(level);
        let (filter, handle) = reload::Layer::new(LevelFilter::from_level(level));
        // A second call in one process (as tests make) keeps the first one's sink.
        let installed = tracing_subscriber::registry()
            .with(JsonLayer { sink: self.clone() }.with_filter(filter))
            .try_init();
        LogLevel {
            handle: installed.is_ok().then_some(handle),
            sink: self.clone(),
        }
    }
}

/// The least important line that the process writes, which may become another.
#[derive(Debug, Clone)]
pub struct LogLevel {
    handle: Option<reload::Handle<LevelFilter, Registry>>,
    sink: LogSink,
}

impl LogLevel {
    /// Sets it.
    pub fn set(&self, level: tracing::Level) {
        self.sink.set_level(level);
        let filter = LevelFilter::from_level(level);
        if let Some(handle) = &self.handle
            && let Err(error) = handle.reload(filter)
        {
            tracing::warn!(%error, "the level of the log stays as it is");
        }
    }
}

/// Starts the log of the process as `log` says: the sink, its level, and what must be kept until the end.
///
/// # Errors
/// As [`LogSink::start`].
pub fn start(log: &settings::Log) -> io::Result<(LogSink, LogLevel, LogGuard)> {
    let (sink, guard) = LogSink::start(log.file.as_deref())?;
    let level = sink.install(log.level);
    Ok((sink, level, guard))
}

/// Writes what waits when it is dropped; keep it until the process ends.
#[derive(Debug)]
pub struct LogGuard {
    lines: Arc<Lines>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.lines.end();
        if let Some(thread) = self.thread.take() {
            // A writer that panicked has nothing left to say.
            let _panicked = thread.join();
        }
    }
}

/// The writer's thread: takes what waits, and looks after the file while nothing does.
fn write_lines(lines: &Lines, mut file: Option<LogFile>) {
    let mut batch = Lines::text();
    loop {
        let goes_on = lines.take(&mut batch, Duration::from_secs(1));
        if let Some(file) = &mut file {
            file.reopen_if_moved();
            file.write(&batch);
        }
        // Where standard error is closed there is nobody to tell.
        let _closed = io::stderr().write_all(batch.as_bytes());
        if !goes_on {
            return;
        }
        if !batch.is_empty() {
            #[expect(clippy::disallowed_methods, reason = "a thread of its own")]
            std::thread::sleep(GATHER);
        }
    }
}

/// A file that is begun anew when somebody moved it away.
#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    file: File,
}

impl LogFile {
    fn open(path: &Path) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let file = File::options().append(true).create(true).open(path)?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    fn reopen_if_moved(&mut self) {
        let same = match (self.file.metadata(), std::fs::metadata(&self.path)) {
            (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
            _ => false,
        };
        // While no new file can be opened, the old one goes on.
        if !same && let Ok(new) = Self::open(&self.path) {
            *self = new;
        }
    }

    fn write(&mut self, batch: &str) {
        // A full disk must not end the program; standard error still has the lines.
        let _full = self.file.write_all(batch.as_bytes());
    }
}

/// Builds one line; values are cut at [`FIELD_BYTES`], control characters escaped.
pub(super) struct JsonLine(String);

impl JsonLine {
    /// A line of now.
    pub(super) fn new(level: &str) -> Self {
        let mut line = Self(String::with_capacity(LINE_BYTES));
        line.0.push_str("{\"time\":\"");
        push_time(&mut line.0, Timestamp::now());
        line.0.push('"');
        line.text("level", level);
        line
    }

    /// Keys are names in our source: nothing in them is escaped.
    fn key(&mut self, key: &str) {
        self.0
            .push_str(if self.0.ends_with('{') { "\"" } else { ",\"" });
        self.0.push_str(key);
        self.0.push_str("\":");
    }

    /// A text.
    pub(super) fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        push_text(&mut self.0, value);
    }

    /// A text, or `null`.
    pub(super) fn optional(&mut self, key: &str, value: Option<&str>) {
        match value {
            Some(value) => self.text(key, value),
            None => self.raw(key, "null"),
        }
    }

    /// Something that already is JSON.
    pub(super) fn raw(&mut self, key: &str, value: impl Display) {
        self.key(key);
        let _infallible = write!(self.0, "{value}");
    }

    fn open(&mut self, key: &str) {
        self.key(key);
        self.0.push('{');
    }

    fn close(&mut self) {
        self.0.push('}');
    }

    /// The line, without a line feed.
    pub(super) fn finish(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

thread_local! {
    /// A second as it was written last, without its end.
    static SECOND: RefCell<(i64, String)> = const { RefCell::new((i64::MIN, String::new())) };
}

/// Appends a time with its milliseconds, as RFC 3339 has it. The date is worked out once a second.
fn push_time(line: &mut String, time: Timestamp) {
    let second = time.as_second();
    SECOND.with_borrow_mut(|(known, text)| {
        if *known != second {
            *known = second;
            text.clear();
            let _infallible = write!(text, "{time:.0}");
            text.truncate(text.trim_end_matches('Z').len());
        }
        line.push_str(text);
    });
    let _infallible = write!(line, ".{:03}Z", time.subsec_millisecond());
}

/// Appends `value` as a JSON text.
fn push_text(line: &mut String, value: &str) {
    let cut = value.floor_char_boundary(FIELD_BYTES);
    line.push('"');
    if value[..cut].bytes().all(is_plain) {
        line.push_str(&value[..cut]);
    } else {
        push_escaped(line, &value[..cut]);
    }
    if cut < value.len() {
        line.push('…');
    }
    line.push('"');
}

/// Whether JSON and terminals take a byte as it is.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')
}

fn push_escaped(line: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            // DEL and C1 mean something to terminals; U+2028 and U+2029 end a line for some readers.
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                let _infallible = write!(line, "\\u{:04x}", u32::from(c));
            }
            c => line.push(c),
        }
    }
}

tokio::task_local! {
    static REQUEST: Arc<RequestFacts>;
}

/// Does what a request asks for: the lines of events in it name the request. A span would do the same, and cost each
/// request what only those pay here that have something to say.
pub fn within<F: Future>(
    facts: Arc<RequestFacts>,
    work: F,
) -> TaskLocalFuture<Arc<RequestFacts>, F> {
    REQUEST.scope(facts, work)
}

/// Turns events into lines: `time, level, target, message, span, request_id, fields`.
struct JsonLayer {
    sink: LogSink,
}

/// The `request_id` of a span, kept where events inside it find it.
struct SpanRequestId(String);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for JsonLayer {
    fn on_new_span(
        &self,
        attributes: &tracing::span::Attributes<'_>,
        id: &tracing::span::Id,
        context: Context<'_, S>,
    ) {
        let mut found = Fields::default();
        attributes.record(&mut found);
        let request_id = found
            .fields
            .into_iter()
            .find(|(name, _)| *name == "request_id");
        if let (Some((_, value)), Some(span)) = (request_id, context.span(id)) {
            span.extensions_mut().insert(SpanRequestId(value.shown()));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut found = Fields::default();
        event.record(&mut found);
        let span = context.event_span(event);
        let request_id = span.as_ref().and_then(|span| {
            span.scope().find_map(|span| {
                let extensions = span.extensions();
                extensions.get::<SpanRequestId>().map(|id| id.0.clone())
            })
        });
        let of_request = || REQUEST.try_with(|facts| facts.id().to_owned()).ok();
        let request_id = request_id.or_else(of_request);
        let span = span.as_ref().map(SpanRef::name);
        let mut line = JsonLine::new(event.metadata().level().as_str());
        line.text("target", event.metadata().target());
        line.text("message", &found.message);
        line.optional("span", span.or(request_id.as_ref().map(|_id| "request")));
        line.optional("request_id", request_id.as_deref());
        line.open("fields");
        for (name, value) in &found.fields {
            match value {
                Value::Text(text) => line.text(name, text),
                Value::Raw(raw) => line.raw(name, raw),
            }
        }
        line.close();
        self.sink.write(line.finish());
    }
}

enum Value {
    Text(String),
    Raw(String),
}

impl Value {
    fn shown(self) -> String {
        match self {
            Self::Text(text) | Self::Raw(text) => text,
        }
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    fields: Vec<(&'static str, Value)>,
}

impl Fields {
    fn push(&mut self, field: &Field, value: Value) {
        if field.name() == "message" {
            self.message = value.shown();
        } else {
            self.fields.push((field.name(), value));
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, Value::Text(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, Value::Text(value.to_owned()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, Value::Raw(value.to_string()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, Value::Raw(value.to_string()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, Value::Raw(value.to_string()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no word for what is no finite number.
        let value = if value.is_finite() {
            Value::Raw(value.to_string())
        } else {
            Value::Text(value.to_string())
        };
        self.push(field, value);
    }
}

#[cfg(test)]
mod tests;
