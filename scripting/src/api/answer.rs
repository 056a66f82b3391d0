//! What scripts answer with, and how it is checked into a verdict: exactly the keys of the reference.

use std::collections::BTreeMap;
use std::time::Duration;

use rhai::{Dynamic, EvalAltResult, ImmutableString, Map, Module};

use super::add;
use super::json::to_json;
use crate::error::refusal;
use crate::event::MAX_EVENT_BYTES;
use crate::hook::nearest;
use crate::limits::MAX_RESPONSE_BYTES;
use crate::verdict::{
    AccessTerms, AuthorizeVerdict, Caching, CompleteVerdict, DeleteVerdict, Denial, Directed,
    DownloadTerms, DownloadVerdict, EventVerdict, HeaderChanges, ImageVerdict, ProviderVerdict,
    PushVerdict, Redirect, Reply, RouteVerdict, Routing, TransformVerdict, UploadTerms,
    UploadVerdict, WebhookVerdict,
};

/// An answer that is more than a map.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Respond(Reply),
    Redirect(Redirect),
    Allow,
    Deny(Denial),
    Reject(Denial),
    Quarantine(String),
    Drop,
    Deliver(Directed),
    Fail(Denial),
}

impl Answer {
    fn name(&self) -> &'static str {
        match self {
            Self::Respond(_) => "respond(..)",
            Self::Redirect(_) => "redirect(..)",
            Self::Allow => "allow()",
            Self::Deny(_) => "deny(..)",
            Self::Reject(_) => "reject(..)",
            Self::Quarantine(_) => "quarantine(..)",
            Self::Drop => "drop()",
            Self::Deliver(_) => "deliver(..)",
            Self::Fail(_) => "fail(..)",
        }
    }
}

/// A provider's failure that was thrown from within, which is as good as returned.
pub(crate) fn thrown(error: &EvalAltResult) -> Option<Dynamic> {
    let EvalAltResult::ErrorRuntime(value, _) = error.unwrap_inner() else {
        return None;
    };
    is_failure(value).then(|| value.clone())
}

/// Whether it is a provider's failure.
pub(crate) fn is_failure(value: &Dynamic) -> bool {
    let answer = value.read_lock::<Answer>();
    matches!(answer.as_deref(), Some(Answer::Fail(_)))
}

type Made = Result<Answer, Box<EvalAltResult>>;

/// Longest reason, in bytes.
const MAX_REASON_BYTES: usize = 1_024;
/// Most labels, tags or header fields of one answer.
const MAX_ENTRIES: usize = 32;
/// Longest name or value of a label, tag or header field, in bytes.
const MAX_ENTRY_BYTES: usize = 1_024;

/// A status that an answer may have.
pub(crate) fn status_of(answer: &str, status: i64) -> Result<u16, Wrong> {
    let allowed = |s: &u16| match answer {
        "deny" => matches!(s, 401 | 403 | 404 | 409 | 429 | 451),
        "reject" => (400..500).contains(s),
        "fail" => (400..600).contains(s),
        "redirect" => matches!(s, 301 | 302 | 303 | 307 | 308),
        _ => (200..600).contains(s) && *s != 304,
    };
    let status_here = u16::try_from(status).ok().filter(allowed);
    status_here.ok_or_else(|| format!("{answer}: status {status} is not allowed here"))
}

fn status(answer: &str, status: i64) -> Result<u16, Box<EvalAltResult>> {
    status_of(answer, status).map_err(refusal)
}

/// An answer of the function of that name, if it makes one.
pub(crate) fn sample(function: &str) -> Option<Answer> {
    let denial = || Denial {
        status: 403,
        reason: String::new(),
    };
    let text = String::new;
    Some(match function {
        "respond" => Answer::Respond(Reply {
            status: 200,
            body: Vec::new(),
            headers: BTreeMap::new(),
        }),
        "redirect" => Answer::Redirect(Redirect {
            status: 302,
            url: text(),
        }),
        "allow" => Answer::Allow,
        "deny" => Answer::Deny(denial()),
        "reject" => Answer::Reject(denial()),
        "quarantine" => Answer::Quarantine(text()),
        "drop" => Answer::Drop,
        "deliver" => Answer::Deliver(Directed {
            endpoint: text(),
            data: serde_json::Value::Null,
        }),
        "fail" => Answer::Fail(denial()),
        _ => return None,
    })
}

fn reason(text: &str) -> String {
    let mut end = text.len().min(MAX_REASON_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

fn denial(code: i64, why: &str) -> Result<Denial, Box<EvalAltResult>> {
    Ok(Denial {
        status: status("deny", code)?,
        reason: reason(why),
    })
}

fn respond(code: i64, body: &Dynamic, headers: &Map) -> Made {
    let code = status("respond", code)?;
    let mut headers = texts("headers", headers).map_err(refusal)?;
    let (body, kind) = if body.is_unit() {
        (Vec::new(), None)
    } else if let Some(text) = body.read_lock::<ImmutableString>() {
        (text.as_bytes().to_vec(), Some("text/plain; charset=utf-8"))
    } else if let Some(blob) = body.read_lock::<rhai::Blob>() {
        (blob.clone(), Some("application/octet-stream"))
    } else {
        let json = to_json(body).map_err(|e| refusal(format!("respond: the body {e}")))?;
        (json.to_string().into_bytes(), Some("application/json"))
    };
    if body.len() > MAX_RESPONSE_BYTES {
        return Err(refusal(format!(
            "respond: the body is longer than {MAX_RESPONSE_BYTES} bytes"
        )));
    }
    if let Some(kind) = kind {
        headers
            .entry("content-type".into())
            .or_insert_with(|| kind.into());
    }
    Ok(Answer::Respond(Reply {
        status: code,
        body,
        headers,
    }))
}

pub(crate) fn redirect(url: &str, code: i64) -> Made {
    let plain = url.bytes().all(|b| b.is_ascii_graphic());
    let absolute =
        url.starts_with("https://") || url.starts_with("http://") || url.starts_with('/');
    if !plain || !absolute || url.starts_with("//") || url.len() > 8 << 10 {
        return Err(refusal(
            "redirect: the URL must be absolute or begin with one /",
        ));
    }
    Ok(Answer::Redirect(Redirect {
        status: status("redirect", code)?,
        url: url.to_owned(),
    }))
}

fn refusals(module: &mut Module) {
    add(
        module,
        "deny",
        ("Refuses with 403.", ""),
        |why: &str| -> Made { Ok(Answer::Deny(denial(403, why)?)) },
    );
    add(
        module,
        "deny",
        ("Refuses: 401, 403, 404, 409, 429 or 451.", ""),
        |code: i64, why: &str| -> Made { Ok(Answer::Deny(denial(code, why)?)) },
    );
    add(
        module,
        "reject",
        ("Refuses an upload or an image, with 422.", ""),
        |why: &str| -> Made {
            Ok(Answer::Reject(Denial {
                status: status("reject", 422)?,
                reason: reason(why),
            }))
        },
    );
    add(
        module,
        "reject",
        ("Refuses an upload with a status from 400 to 499.", ""),
        |code: i64, why: &str| -> Made {
            Ok(Answer::Reject(Denial {
                status: status("reject", code)?,
                reason: reason(why),
            }))
        },
    );
}

pub(super) fn register(module: &mut Module) {
    module.set_custom_type_with_comments::<Answer>("Answer", &["/// What a hook answers."]);
    let doc = "Answers at once; the body is text, a blob, or a map as JSON.";
    add(module, "respond", (doc, ""), |code: i64| {
        respond(code, &Dynamic::UNIT, &Map::new())
    });
    add(module, "respond", (doc, ""), |code: i64, body: Dynamic| {
        respond(code, &body, &Map::new())
    });
    add(
        module,
        "respond",
        (doc, ""),
        |code: i64, body: Dynamic, headers: Map| respond(code, &body, &headers),
    );
    add(
        module,
        "redirect",
        ("Sends the client elsewhere, with 302.", ""),
        |url: &str| redirect(url, 302),
    );
    add(
        module,
        "redirect",
        ("Sends the client elsewhere.", ""),
        redirect,
    );
    add(
        module,
        "allow",
        (
            "Has nothing against it; grants what the gateway refuses only with a granted `authorize = \"override\"`.",
            "",
        ),
        || Answer::Allow,
    );
    refusals(module);
    add(
        module,
        "quarantine",
        ("Keeps an upload out of sight.", ""),
        |why: &str| Answer::Quarantine(reason(why)),
    );
    add(
        module,
        "drop",
        ("No endpoint, or not this one, is told of an event.", ""),
        || Answer::Drop,
    );
    add(
        module,
        "deliver",
        ("Tells one endpoint something; in an array.", ""),
        |endpoint: &str, data: Map| -> Made {
            let data = to_json(&Dynamic::from_map(data));
            Ok(Answer::Deliver(Directed {
                endpoint: endpoint.to_owned(),
                data: data.map_err(|e| refusal(format!("deliver: the data {e}")))?,
            }))
        },
    );
    add(
        module,
        "fail",
        (
            "A provider could not do it: a status from 400 to 599, and why, for the caller.",
            "",
        ),
        |code: i64, why: &str| -> Made {
            Ok(Answer::Fail(Denial {
                status: status("fail", code)?,
                reason: reason(why),
            }))
        },
    );
}

/// What is wrong with an answer, in words.
pub(crate) type Wrong = String;

/// The members of a map, each taken once; what is left over is named.
struct Members<'a> {
    map: &'a Map,
    known: &'static [&'static str],
}

impl<'a> Members<'a> {
    fn of(map: &'a Map, known: &'static [&'static str]) -> Result<Self, Wrong> {
        if let Some(key) = map.keys().find(|key| !known.contains(&key.as_str())) {
            let near = nearest(key, known.iter().copied());
            let near = near
                .map(|n| format!("; did you mean `{n}`?"))
                .unwrap_or_default();
            return Err(format!(
                "the answer has the key `{key}`, which it must not have (it may have {}){near}",
                known.join(", ")
            ));
        }
        Ok(Self { map, known })
    }

    fn get(&self, name: &str) -> Option<&'a Dynamic> {
        debug_assert!(
            self.known.contains(&name),
            "a key that is read must be known"
        );
        self.map.get(name).filter(|value| !value.is_unit())
    }

    fn text(&self, name: &str) -> Result<Option<String>, Wrong> {
        let text = |value: &Dynamic| {
            let text = value.read_lock::<ImmutableString>().map(|t| t.to_string());
            text.ok_or_else(|| format!("`{name}` must be a text"))
        };
        self.get(name).map(text).transpose()
    }

    fn number(&self, name: &str) -> Result<Option<u64>, Wrong> {
        let number = |value: &Dynamic| {
            let number = value.as_int().ok().and_then(|n| u64::try_from(n).ok());
            number
                .filter(|n| *n > 0)
                .ok_or_else(|| format!("`{name}` must be a whole number above 0"))
        };
        self.get(name).map(number).transpose()
    }

    /// A map, as JSON.
    fn data(&self, name: &str) -> Result<Option<serde_json::Value>, Wrong> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        if value.read_lock::<Map>().is_none() {
            return Err(format!("`{name}` must be a map"));
        }
        let json = to_json(value).map_err(|e| format!("`{name}` {e}"))?;
        let bytes = json.to_string().len();
        if bytes > MAX_EVENT_BYTES {
            return Err(format!("`{name}` is longer than {MAX_EVENT_BYTES} bytes"));
        }
        Ok(Some(json))
    }

    fn texts(&self, name: &str) -> Result<BTreeMap<String, String>, Wrong> {
        match self.get(name) {
            None => Ok(BTreeMap::new()),
            Some(value) => match value.read_lock::<Map>() {
                Some(map) => texts(name, &map),
                None => Err(format!("`{name}` must be a map")),
            },
        }
    }

    fn headers(&self) -> Result<HeaderChanges, Wrong> {
        let mut changes = HeaderChanges {
            set: self.texts("set")?,
            remove: Vec::new(),
        };
        if let Some(value) = self.get("remove") {
            let list = value.read_lock::<rhai::Array>();
            let list = list.ok_or("`remove` must be an array of names")?;
            for name in list.iter() {
                let name = name.read_lock::<ImmutableString>();
                let name = name.ok_or("`remove` must be an array of names")?;
                changes.remove.push(name.to_lowercase());
            }
        }
        let names = changes.set.keys().chain(&changes.remove);
        if let Some(name) = names
            .clone()
            .find(|name| FIXED_HEADERS.contains(&name.as_str()))
        {
            return Err(format!("the header field `{name}` is the gateway's own"));
        }
        if names.count() > MAX_ENTRIES {
            return Err(format!(
                "at most {MAX_ENTRIES} header fields may be changed"
            ));
        }
        Ok(changes)
    }

    fn cache(&self) -> Result<Option<Caching>, Wrong> {
        let Some(value) = self.get("cache") else {
            return Ok(None);
        };
        if let Some(text) = value.read_lock::<ImmutableString>() {
            return match text.as_str() {
                "default" => Ok(None),
                "bypass" => Ok(Some(Caching::Bypass)),
                _ => Err(CACHE.into()),
            };
        }
        let seconds = value.as_int().ok().and_then(|n| u64::try_from(n).ok());
        let seconds = seconds.filter(|s| *s <= 365 * 24 * 3600).ok_or(CACHE)?;
        Ok(Some(Caching::For(Duration::from_secs(seconds))))
    }
}

const CACHE: &str = "`cache` must be \"default\", \"bypass\" or seconds up to a year";

/// What says how the body is framed, or who may read it, is not a script's to change.
const FIXED_HEADERS: &[&str] = &[
    "connection",
    "content-length",
    "content-range",
    "date",
    "etag",
    "keep-alive",
    "location",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "upload-offset",
];

fn texts(name: &str, map: &Map) -> Result<BTreeMap<String, String>, Wrong> {
    if map.len() > MAX_ENTRIES {
        return Err(format!("`{name}` has more than {MAX_ENTRIES} entries"));
    }
    let mut texts = BTreeMap::new();
    for (key, value) in map {
        let text = match value.read_lock::<ImmutableString>() {
            Some(text) => text.to_string(),
            None if value.is_int() || value.is_bool() => value.to_string(),
            None => return Err(format!("`{name}.{key}` must be a text, a number or a bool")),
        };
        if key.len() > MAX_ENTRY_BYTES || text.len() > MAX_ENTRY_BYTES {
            return Err(format!(
                "`{name}.{key}` is longer than {MAX_ENTRY_BYTES} bytes"
            ));
        }
        if text.contains(['\r', '\n', '\0']) {
            return Err(format!("`{name}.{key}` has a line break"));
        }
        let key = if matches!(name, "set" | "headers") {
            let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
            if key.is_empty()
                || !key.bytes().all(token)
                || !text
                    .bytes()
                    .all(|b| b == b'\t' || (b' '..=b'~').contains(&b))
            {
                return Err(format!("`{name}.{key}` is no header field"));
            }
            key.to_lowercase()
        } else {
            key.to_string()
        };
        texts.insert(key, text);
    }
    Ok(texts)
}

fn odd(value: &Dynamic) -> Wrong {
    match value.read_lock::<Answer>() {
        Some(answer) => format!("{} is no answer of this hook", answer.name()),
        None => format!(
            "a value of type {} is no answer of this hook; a function answers with its last value, so one that has \
             nothing to say ends with `return;`",
            crate::error::kind_of(value)
        ),
    }
}

/// What a hook answered with: nothing, a map, or an answer.
enum Given<'a> {
    Nothing,
    Map(rhai::DynamicReadLock<'a, Map>),
    Answer(Answer),
    Other,
}

fn given(value: &Dynamic) -> Given<'_> {
    if value.is_unit() {
        Given::Nothing
    } else if let Some(answer) = value.read_lock::<Answer>() {
        Given::Answer(answer.clone())
    } else if let Some(map) = value.read_lock::<Map>() {
        Given::Map(map)
    } else {
        Given::Other
    }
}

/// Checksums that an upload may come with.
const CHECKSUMS: [&str; 6] = ["md5", "sha1", "sha256", "sha384", "sha512", "blake3"];

/// A verdict that is read of what a script returned.
pub(crate) trait Read: Sized {
    /// Reads it.
    fn read(value: &Dynamic) -> Result<Self, Wrong>;
    /// As if the plugin were absent.
    fn absent() -> Self;
    /// The store that it names.
    fn store(&mut self) -> Option<&mut Option<String>> {
        None
    }
}

impl Read for RouteVerdict {
    fn absent() -> Self {
        Self::Continue(Routing::default())
    }

    fn store(&mut self) -> Option<&mut Option<String>> {
        match self {
            Self::Continue(routing) => Some(&mut routing.backend),
            Self::Respond(_) | Self::Redirect(_) => None,
        }
    }

    fn read(value: &Dynamic) -> Result<Self, Wrong> {
        if let Some(name) = value.read_lock::<ImmutableString>() {
            return Ok(Self::Continue(Routing {
                backend: Some(name.to_string()),
                ..Routing::default()
            }));
        }
        match given(value) {
            Given::Nothing => Ok(Self::absent()),
            Given::Answer(Answer::Respond(reply)) => Ok(Self::Respond(reply)),
            Given::Answer(Answer::Redirect(redirect)) => Ok(Self::Redirect(redirect)),
            Given::Map(map) => {
                let members = Members::of(
                    &map,
                    &["backend", "rewrite", "set", "remove", "cache", "tags"],
                )?;
                let rewrite = members.text("rewrite")?;
                if rewrite.as_ref().is_some_and(|path| !path.starts_with('/')) {
                    return Err("`rewrite` must be a path that begins with /".into());
                }
                Ok(Self::Continue(Routing {
                    backend: members.text("backend")?,
                    rewrite,
                    headers: members.headers()?,
                    cache: members.cache()?,
                    tags: members.texts("tags")?,
                }))
            }
            _ => Err(odd(value)),
        }
    }
}

impl Read for ProviderVerdict {
    fn absent() -> Self {
        Self::Value(serde_json::Value::Null)
    }

    fn read(value: &Dynamic) -> Result<Self, Wrong> {
        match given(value) {
            Given::Answer(Answer::Fail(denial)) => Ok(Self::Fail(denial)),
            Given::Answer(_) => Err(odd(value)),
            _ => to_json(value)
                .map(Self::Value)
                .map_err(|why| format!("the answer {why}")),
        }
    }
}

impl Read for AuthorizeVerdict {
    fn absent() -> Self {
        Self::Proceed(AccessTerms::default())
    }

    fn read(value: &Dynamic) -> Result<Self, Wrong> {
        match given(value) {
            Given::Nothing => Ok(Self::absent()),
            Given::Answer(Answer::Allow) => Ok(Self::Proceed(AccessTerms {
                allow: true,
                rate: None,
            })),
            Given::Answer(Answer::Deny(denial)) => Ok(Self::Deny(denial)),
            Given::Map(map) => {
                let members = Members::of(&map, &["rate"])?;
                Ok(Self::Proceed(AccessTerms {
                    allow: false,
                    rate: members.text("rate")?,
                }))
            }
            _ => Err(odd(value)),
        }
    }
}

impl Read for UploadVerdict {
    fn absent() -> Self {
        Self::Accept(UploadTerms::default())
    }

    fn store(&mut self) -> Option<&mut Option<String>> {
        match self {
            Self::Accept(terms) => Some(&mut terms.store),
            Self::Reject(_) => None,
        }
    }

    fn read(value: &Dynamic) -> Result<Self, Wrong> {
        match given(value) {
            Given::Nothing => Ok(Self::absent()),
            Given::Answer(Answer::Reject(denial)) => Ok(Self::Reject(denial)),
            Given::Map(map) => {
                let members = Members::of(
                    &map,
                    &[
                        "store",
                        "max_size",
                        "require_checksum",
                        "part_size",
                        "labels",
                    ],
                )?;
                let checksum = members.text("require_checksum")?;
                if let Some(kind) = &checksum {
                    let plain = kind.replacen('-', "", 1).to_ascii_lowercase();
                    if !CHECKSUMS.contains(&plain.as_str()) {
                        let known = CHECKSUMS.join(", ");
                        return Err(format!(
                            "`require_checksum` is one of {known}, not {kind:?}"
                        ));
                    }
                }
                Ok(Self::Accept(UploadTerms {
                    store: members.text("store")?,
                    max_size: members.number("max_size")?,
                    require_checksum: checksum,
                    part_size: members.number("part_size")?,
                    labels: members.texts("labels")?,
                }))
            }
            _ => Err(odd(value)),
        }
    }
}

impl Read for CompleteVerdict {
    fn absent() -> Self {
        Self::Publish(BTreeMap::new())
    }

    fn read(value: &Dynamic) -> Result<Self, Wrong> {
        match given(value) {
            Given::Nothing => Ok(Self::absent()),
            Given::Answer(Answer::Quarantine(why)) => Ok(Self::Quarantine(why)),
            Given::Answer(Answer::Reject(denial)) => Ok(Self::Reject(denial)),
            Given::Map(map) => {
                let members = Members::of(&map, &["labels"])?;
                Ok(Self::Publish(members.texts("labels")?))
            }
            _ => Err(odd(value)),
        }
    }
}

impl Read for DownloadVerdict {
    fn absent() -> Self {
        Self::Serve(DownloadTerms::default())
    }

    fn read(value: &Dynamic) -> Result<Self, Wrong> {
        match given(value) {
            Given::Nothing => Ok(Self::absent()),
            Given::Answer(Answer::Deny(denial)) => Ok(Self::Deny(denial)),
            Given::Answer(Answer::Redirect(redirect)) => Ok(Self::Redirect(redirect)),
            Given::Map(map) => {
                let members = Members::of(&map, &["set", "remove", "cache", "rate_bps"])?;
                Ok(Self::Serve(DownloadTerms {
                    headers: members.headers()?,
                    cache: members.cache()?,
                    rate_bps: members.number("rate_bps")?,
                }))
            }
            _ => Err(odd(value)),
        }
    }
}

impl Read for DeleteVerdict {
    fn absent() -> Self {
        Self::Proceed
    }

    fn read(value: &Dynamic) -> Result<Self, Wrong> {
        match given(value) {
            Given::Nothing => Ok(Self::Proceed),
            Given::Answer(Answer::Deny(denial)) => Ok(Self::Deny(denial)),
            _ => Err(odd(value)),
        }
    }
}

impl Read for ImageVerdict {
    fn absent() -> Self {
        Self::Proceed
    }

    fn read(value: &Dynamic) -> Result<Self, Wrong> {
        match given(value) {
            Given::Nothing => Ok(Self::Proceed),
            Given::Answer(Answer::Reject(denial)) => Ok(Self::Reject(denial)),
            _ => Err(odd(value)),
        }
    }
}

impl Read for PushVerdict {
    fn absent() -> Self {
        Self::Send(None)
    }

    fn read(value: &Dynamic) -> Result<Self, Wrong> {
        match given(value) {
            Given::Nothing => Ok(Self::absent()),
            Given::Answer(Answer::Deny(denial)) => Ok(Self::Deny(denial)),
            Given::Map(map) => {
                let members = Members::of(&map, &["target"])?;
                Ok(Self::Send(members.text("target")?))
            }
            _ => Err(odd(value)),
        }
    }
}

impl Read for WebhookVerdict {
    fn absent() -> Self {
        Self::Done
    }

    fn read(value: &Dynamic) -> Result<Self, Wrong> {
        match given(value) {
            Given::Nothing => Ok(Self::Done),
            Given::Answer(Answer::Respond(reply)) => Ok(Self::Reply(reply)),
            Given::Map(_) => match respond(200, value, &Map::new()) {
                Ok(Answer::Respond(reply)) => Ok(Self::Reply(reply)),
                Ok(_) => Err(odd(value)),
                Err(wrong) => Err(wrong.to_string()),
            },
            _ => Err(odd(value)),
        }
    }
}

impl Read for EventVerdict {
    fn absent() -> Self {
        Self::default()
    }

    fn read(value: &Dynamic) -> Result<Self, Wrong> {
        match given(value) {
            Given::Nothing => Ok(Self::absent()),
            Given::Answer(Answer::Drop) => Ok(Self {
                drop: true,
                ..Self::default()
            }),
            Given::Map(map) => Ok(Self {
                data: Members::of(&map, &["data"])?.data("data")?,
                ..Self::default()
            }),
            _ => {
                let list = value.read_lock::<rhai::Array>();
                let list = list.ok_or_else(|| odd(value))?;
                if list.len() > MAX_ENTRIES {
                    return Err(format!("at most {MAX_ENTRIES} endpoints may be told"));
                }
                let directed = list.iter().map(|one| match given(one) {
                    Given::Answer(Answer::Deliver(directed)) => Ok(directed),
                    _ => Err("the array may hold deliver(..) only".to_owned()),
                });
                Ok(Self {
                    deliver: directed.collect::<Result<_, _>>()?,
                    ..Self::default()
                })
            }
        }
    }
}

impl Read for TransformVerdict {
    fn absent() -> Self {
        Self::Send {
            data: None,
            headers: BTreeMap::new(),
        }
    }

    fn read(value: &Dynamic) -> Result<Self, Wrong> {
        match given(value) {
            Given::Nothing => Ok(Self::absent()),
            Given::Answer(Answer::Drop) => Ok(Self::Drop),
            Given::Map(map) => {
                let members = Members::of(&map, &["data", "headers"])?;
                Ok(Self::Send {
                    data: members.data("data")?,
                    headers: members.texts("headers")?,
                })
            }
            _ => Err(odd(value)),
        }
    }
}

/// Of a hook that decides nothing.
impl Read for () {
    fn absent() -> Self {}

    fn read(value: &Dynamic) -> Result<Self, Wrong> {
        match given(value) {
            Given::Nothing => Ok(()),
            _ => Err(odd(value)),
        }
    }
}

impl Read for HeaderChanges {
    fn absent() -> Self {
        Self::default()
    }

    fn read(value: &Dynamic) -> Result<Self, Wrong> {
        match given(value) {
            Given::Nothing => Ok(Self::default()),
            Given::Map(map) => Members::of(&map, &["set", "remove"])?.headers(),
            _ => Err(odd(value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_hooks_names_every_fixed_header() {
        let page = include_str!("../../../docs/HOOKS.md");
        let (_, list) = page.split_once("`set` and `remove` change").unwrap();
        let (list, _) = list.split_once("A request by `http::`").unwrap();
        for name in FIXED_HEADERS {
            assert!(list.contains(&format!("`{name}`")), "{name}");
        }
        assert_eq!(list.matches('`').count(), 2 * FIXED_HEADERS.len(), "{list}");
    }
}
