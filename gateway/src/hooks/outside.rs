//! `http::` of plugins: the outbound client, with what was granted held to at every redirect, a bound for each plugin
//! and a rest for hosts that do not answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use boxgate_scripting::http::{HttpClient, HttpFault, HttpReply, HttpRequest};
use boxgate_storage::trace;
use http::header::{ACCEPT, ACCEPT_LANGUAGE, CONTENT_TYPE, LOCATION, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use moka::sync::Cache;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::config::Settings;
use crate::http::headers::retry_after;
use crate::outbound::{Caller, Destination, Fault, FaultKind, Incoming, Outbound, Outgoing};

/// How long connecting may take.
const CONNECT_TIME: Duration = Duration::from_secs(3);
/// Requests of one plugin at once, unless more of its calls may wait for a cloud.
const PER_PLUGIN: usize = 32;
/// Failures in a row after which a host is left alone for a while.
const FAILURES: u32 = 5;
/// How long.
const REST: Duration = Duration::from_secs(10);
/// Hosts that are remembered.
const HOSTS: u64 = 1_000;
/// Counts of pairs of plugin and host; those beyond are counted together.
const MOST_COUNTED: usize = 1_000;

/// How long the first pause is before something is asked for again; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause that the other side may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Fields that go along to another origin: any other may be a credential.
static HARMLESS: [HeaderName; 4] = [ACCEPT, ACCEPT_LANGUAGE, CONTENT_TYPE, USER_AGENT];

/// The client of plugins.
#[derive(Debug)]
pub struct Outside {
    caller: Caller,
    /// Of plugins that are adapters.
    clouds: Caller,
    handle: Handle,
    per_plugin: usize,
    plugins: Mutex<BTreeMap<String, Arc<Semaphore>>>,
    hosts: Cache<(String, u16), Failures>,
    counted: Mutex<BTreeMap<Count, u64>>,
}

/// Failures in a row, and until when the host rests.
#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    until: Option<Instant>,
}

/// Plugin, host, and how it went: `2xx`, `timeout`, ...
pub(super) type Count = (String, String, String);

impl Outside {
    /// The client of plugins, whose calls wait on threads of their own for what `handle` runs.
    pub fn new(outbound: &Outbound, settings: &Settings, handle: Handle) -> Self {
        let opened = &settings.scripts.allow_networks;
        let more = [opened.as_slice(), &settings.providers.allow_networks].concat();
        Self {
            caller: outbound.caller("scripts.allow_networks", opened, CONNECT_TIME),
            clouds: outbound.caller("providers.allow_networks", &more, CONNECT_TIME),
            handle,
            per_plugin: PER_PLUGIN.max(settings.providers.at_once / 2),
            plugins: Mutex::default(),
            hosts: Cache::new(HOSTS),
            counted: Mutex::default(),
        }
    }

    /// How many requests were sent.
    pub(super) fn counted(&self) -> BTreeMap<Count, u64> {
        self.counted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn count(&self, plugin: &str, host: &str, class: String) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = (plugin.to_owned(), host.to_owned(), class);
        if counted.len() >= MOST_COUNTED && !counted.contains_key(&key) {
            key = ("other".into(), "other".into(), key.2);
        }
        *counted.entry(key).or_default() += 1;
    }

    async fn ask(&self, request: &HttpRequest) -> Result<Incoming, Gone> {
        let share = {
            let mut plugins = self.plugins.lock().unwrap_or_else(PoisonError::into_inner);
            let fresh = || Arc::new(Semaphore::new(self.per_plugin));
            Arc::clone(plugins.entry(request.plugin.clone()).or_insert_with(fresh))
        };
        let _permit = share.acquire().await;
        let mut next = outgoing(request)?;
        let mut left = request.redirects;
        loop {
            let here = next.to.clone();
            let sent = next.clone();
            let answer = self.one(request, sent).await?;
            if left == 0 {
                return Ok(answer);
            }
            let Some(followed) = redirected(next, &answer, request)? else {
                return Ok(answer);
            };
            tracing::debug!(plugin = request.plugin, from = %here, to = %followed.to, "redirect followed");
            next = followed;
            left -= 1;
        }
    }

    /// Asks, and as often as the script said once more where the other side is busy, failed or away.
    async fn ask_again(&self, request: &HttpRequest) -> Result<Incoming, Gone> {
        let mut pause = FIRST_PAUSE;
        for _ in 0..request.retries {
            let answer = self.ask(request).await;
            let told = match &answer {
                Ok(answer) if may_pass(answer.status) => {
                    retry_after(&answer.headers, SystemTime::now())
                }
                Err(gone) if gone.may_pass() => None,
                _ => return answer,
            };
            // Longer than that nobody waits: then the answer is what it is.
            if told.is_some_and(|told| told > LONGEST_PAUSE) {
                return answer;
            }
            tokio::time::sleep(told.unwrap_or(pause)).await;
            pause *= 2;
        }
        self.ask(request).await
    }

    async fn one(&self, of: &HttpRequest, request: Outgoing) -> Result<Incoming, Gone> {
        let plugin = of.plugin.as_str();
        let caller = if of.cloud { &self.clouds } else { &self.caller };
        let (_, host, port) = request.to.origin();
        let host = host.to_owned();
        let key = (host.clone(), port);
        let before = self.hosts.get(&key);
        if let Some(until) = before.and_then(|f| f.until)
            && Instant::now() < until
        {
            self.count(plugin, &host, "resting".into());
            let text =
                format!("{host} did not answer {FAILURES} times and is left alone for a while");
            return Err(Gone::new("http.resting", text));
        }
        let answer = caller.send_for(plugin, request).await;
        let class = match &answer {
            Ok(answer) => format!("{}xx", answer.status.as_u16() / 100),
            Err(fault) => fault.kind.name().to_owned(),
        };
        self.count(plugin, &host, class);
        match &answer {
            // What we refuse ourselves, and what is too long, says nothing about the host.
            Ok(_) => self.hosts.invalidate(&key),
            Err(fault)
                if matches!(
                    fault.kind,
                    FaultKind::Request | FaultKind::Blocked | FaultKind::TooLarge
                ) => {}
            Err(_) => {
                let count = before.map_or(0, |f| f.count).saturating_add(1);
                let until = (count >= FAILURES).then(|| Instant::now() + REST);
                self.hosts.insert(key, Failures { count, until });
            }
        }
        answer.map_err(Gone::from)
    }
}

impl HttpClient for Outside {
    fn send(&self, mut request: HttpRequest) -> Result<HttpReply, HttpFault> {
        let time = request.timeout;
        let mut caller = request.caller.take();
        let baggage = request.baggage.take();
        let asked = async {
            tokio::select! {
                answer = timeout(time, self.ask_again(&request)) => answer.unwrap_or_else(|_late| {
                    Err(Gone::new("http.timeout", format!("there was no whole answer within {time:?}")))
                }),
                () = gone(&mut caller) => Err(Gone::new("http.cancelled", "whoever asked is gone".into())),
            }
        };
        let answer = match baggage {
            Some(trace) => self.handle.block_on(trace::within(trace, asked)),
            None => self.handle.block_on(asked),
        };
        match answer {
            Ok(answer) => Ok(reply(&answer)),
            Err(Gone(fault)) => Err(fault),
        }
    }

    fn baggage(&self) -> Option<Arc<str>> {
        trace::current()
    }
}

/// Resolves when nobody waits for the call any more; never where nobody tells.
async fn gone(caller: &mut Option<tokio::sync::watch::Receiver<()>>) {
    match caller {
        Some(caller) => while caller.changed().await.is_ok() {},
        None => std::future::pending().await,
    }
}

/// Why there is no answer, as scripts are told.
struct Gone(HttpFault);

impl Gone {
    fn new(code: &'static str, message: String) -> Self {
        Self(HttpFault { code, message })
    }

    /// Whether asking once more may help.
    fn may_pass(&self) -> bool {
        matches!(self.0.code, "http.connect" | "http.broken" | "http.resolve")
    }
}

impl From<Fault> for Gone {
    fn from(fault: Fault) -> Self {
        let code = match fault.kind {
            FaultKind::Request => "http.request",
            FaultKind::Blocked => "http.blocked_destination",
            FaultKind::Resolve => "http.resolve",
            FaultKind::Connect => "http.connect",
            FaultKind::Tls => "http.tls",
            FaultKind::Timeout => "http.timeout",
            FaultKind::TooLarge => "http.too_large",
            FaultKind::Broken => "http.broken",
        };
        Self::new(code, fault.to_string())
    }
}

/// Whether asking once more may help.
fn may_pass(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
}

fn outgoing(request: &HttpRequest) -> Result<Outgoing, Gone> {
    let bad = |text: String| Gone::new("http.request", text);
    let to = Destination::parse(&request.url).map_err(|rule| bad(format!("the URL: {rule}")))?;
    let mut headers = HeaderMap::new();
    for (name, value) in &request.headers {
        let name = HeaderName::try_from(name)
            .map_err(|_odd| bad(format!("{name:?} is no header field")))?;
        let mut value = HeaderValue::try_from(value)
            .map_err(|_odd| bad(format!("the value of {name} fits no header field")))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(Outgoing {
        method: Method::from_bytes(request.method.as_bytes())
            .map_err(|_odd| bad("the method is none".into()))?,
        to,
        headers,
        body: request.body.clone().into(),
        time: request.timeout,
        most: request.max_bytes,
        cut: false,
    })
}

/// The request that an answer asks for; `None` when it is to be told as it is.
fn redirected(
    mut next: Outgoing,
    answer: &Incoming,
    request: &HttpRequest,
) -> Result<Option<Outgoing>, Gone> {
    let Some(location) = answer.headers.get(LOCATION) else {
        return Ok(None);
    };
    // RFC 9110 §15.4: 303 is fetched, 301 and 302 are by everybody when it was a POST, 307 and 308 repeat.
    match answer.status {
        StatusCode::SEE_OTHER => become_get(&mut next),
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => {
            if next.method == Method::POST {
                become_get(&mut next);
            }
        }
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => {}
        _ => return Ok(None),
    }
    let bad = |why: String| Gone::new("http.redirect", why);
    let location = location
        .to_str()
        .map_err(|_odd| bad("Location is no text".into()))?;
    let to = next
        .to
        .join(location)
        .map_err(|rule| bad(format!("Location: {rule}")))?;
    if !request.reach.allows(to.url()) {
        return Err(Gone::new(
            "http.not_granted",
            format!("the answer points to {to}, which is not granted"),
        ));
    }
    if to.origin() != next.to.origin() {
        // A body may hold a credential as well: it goes to nobody whom the script did not name.
        if !next.body.is_empty() {
            return Ok(None);
        }
        let old = std::mem::take(&mut next.headers);
        for name in &HARMLESS {
            if let Some(value) = old.get(name) {
                next.headers.insert(name, value.clone());
            }
        }
    }
    next.to = to;
    Ok(Some(next))
}

fn become_get(next: &mut Outgoing) {
    next.method = Method::GET;
    next.body = bytes::Bytes::new();
    next.headers.remove(CONTENT_TYPE);
}

fn reply(answer: &Incoming) -> HttpReply {
    let text = |(name, value): (&HeaderName, &HeaderValue)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.as_str().to_owned(), value)
    };
    let headers = answer.headers.iter().map(text).collect();
    HttpReply::new(answer.status.as_u16(), headers, answer.body.to_vec())
}
