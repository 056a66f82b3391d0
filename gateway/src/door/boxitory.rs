//! A tree of boxes as Boxitory serves it: `/`, `/{box}`, `/{box}/latestVersion`, `/download/{box}/{provider}/{version}`.
//!
//! Answers that are no JSON and no page are texts, and errors begin with their status: people read them in Vagrant.

mod page;

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use boxgate_storage::clock::UnixMillis;
use http::header::{
    ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, ETAG,
    LAST_MODIFIED, VARY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use serde_json::json;

use crate::boxitory::document::Document;
use crate::boxitory::index::{Index, Shelf};
use crate::boxitory::{Boxitory, Missing, Opened, name};
use crate::call::Call;
use crate::egress::PlainBody;
use crate::gateway::Gateway;
use crate::handler::download::{Selected, selected, with_body, with_headers};
use crate::http::headers::attachment;
use crate::http::negotiate::{Preference, preference};
use crate::http::precondition::{PastEnd, Representation, decide};
use crate::http::response;
use crate::refusal::Refusal;
use crate::request::RequestFacts;
use crate::route::{Door, DoorSet, Route};
use crate::server::OutboundBody;

type Answer = Result<Response<OutboundBody>, Refusal>;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain;charset=UTF-8");
const HTML: HeaderValue = HeaderValue::from_static("text/html;charset=UTF-8");
/// Without a charset: Vagrant takes a body for metadata only if the type is exactly this one.
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
/// The tree may change at any time, and validators make asking again cheap.
const FRESHNESS: HeaderValue = HeaderValue::from_static("no-cache, no-transform");

/// A refusal as text.
pub fn refuse(refusal: &Refusal) -> Response<OutboundBody> {
    response::bytes(refusal.status, TEXT, refusal.message.clone())
}

/// Whether whoever asks for that path means this door and no other.
pub fn is_of(gateway: &Gateway, path: &str, facts: &RequestFacts) -> bool {
    let door = &gateway.settings.doors.boxitory;
    let listener = gateway.settings.listeners.get(facts.listener());
    let doors = listener.map_or(DoorSet::ALL, |listener| listener.doors);
    let below = path
        .strip_prefix(door.prefix.as_str())
        .is_some_and(|rest| !door.prefix.is_empty() && (rest.is_empty() || rest.starts_with('/')));
    door.enabled
        && doors.contains(Door::Boxitory)
        && (below || doors == DoorSet::only(Door::Boxitory))
}

/// A method that no path here answers.
pub fn wrong_method(head: &Parts) -> Response<OutboundBody> {
    let text = format!("Request method '{}' not supported", head.method);
    let mut answer = told(head, StatusCode::METHOD_NOT_ALLOWED, text);
    let methods = HeaderValue::from_static("GET, HEAD");
    answer.headers_mut().insert(ALLOW, methods);
    answer
}

/// A path that leads nowhere: a page for browsers, else what Spring says.
pub fn nothing(head: &Parts, now: UnixMillis) -> Response<OutboundBody> {
    let status = StatusCode::NOT_FOUND;
    if preference(&head.headers) == Preference::Html {
        return response::bytes(status, HTML, page::nothing());
    }
    let at = Timestamp::from_millisecond(now.0).unwrap_or_default();
    let document = json!({
        "timestamp": at.to_string(),
        "status": status.as_u16(),
        "error": "Not Found",
        "path": head.uri.path(),
    });
    response::bytes(status, JSON, document.to_string())
}

/// GET and HEAD of each path.
pub async fn answer(gateway: &Gateway, call: Call) -> Answer {
    let Some(tree) = &gateway.boxitory else {
        return Ok(nothing(&call.head, gateway.clock.now()));
    };
    let Some(index) = tree.index() else {
        let text = "Repository directory is not a valid directory.";
        return Ok(told(&call.head, StatusCode::INTERNAL_SERVER_ERROR, text));
    };
    if call.row.route == Route::BoxitoryList {
        let prefix = gateway.settings.doors.boxitory.prefix.clone();
        let page = tree.page(move |shelves| page::list(shelves, &prefix)).await;
        let mut answer = written(&call.head, HTML, &page);
        // A browser may be shown another page here (`door::page`).
        let varies = HeaderValue::from_static("Accept");
        answer.headers_mut().insert(VARY, varies);
        return Ok(answer);
    }
    let box_name = call.names.value("box");
    let Some(shelf) = index.get(box_name) else {
        return Ok(no_box(&call.head, box_name));
    };
    match call.row.route {
        Route::BoxitoryBox => {
            let document = tree.document(&shelf).await;
            Ok(written(&call.head, JSON, &document))
        }
        Route::BoxitoryLatest => Ok(latest(&call.head, &shelf)),
        _ => Ok(Box::pin(download(tree, index, &shelf, &call)).await),
    }
}

fn latest(head: &Parts, shelf: &Shelf) -> Response<OutboundBody> {
    let digits = shelf.latest().map_or("", |version| &*version.digits);
    let mut answer = written(head, text_type(head), &Document::new(digits.to_owned()));
    let varies = HeaderValue::from_static("Accept");
    answer.headers_mut().insert(VARY, varies);
    answer
}

fn no_box(head: &Parts, box_name: &str) -> Response<OutboundBody> {
    let text = format!("404 box [{box_name}] does not exist");
    told(head, StatusCode::NOT_FOUND, text)
}

async fn download(
    tree: &Arc<Boxitory>,
    index: &Index,
    shelf: &Arc<Shelf>,
    call: &Call,
) -> Response<OutboundBody> {
    let head = &call.head;
    let (provider, asked) = (call.names.value("provider"), call.names.value("version"));
    let mut shelf = Arc::clone(shelf);
    // What was found in the index may be gone a moment later, and then another version be the latest.
    for is_last in [false, true] {
        let version = match Boxitory::version_of(&shelf, provider, asked) {
            Ok(version) => &version.digits,
            Err(missing) => return absent(head, &shelf, missing, (provider, asked)),
        };
        let file_name = name::file(shelf.name(), version, provider);
        match tree.open_file(&shelf, file_name.clone()).await {
            Ok(opened) => return file(head, opened, &file_name).await,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tree.look_again(&shelf).await;
                match index.get(shelf.name()) {
                    Some(now) if !is_last => shelf = now,
                    Some(_) => {
                        return absent(head, &shelf, Missing::Version, (provider, asked));
                    }
                    None => break,
                }
            }
            Err(error) => return unreadable(head, &error, &file_name),
        }
    }
    no_box(head, shelf.name())
}

fn absent(
    head: &Parts,
    shelf: &Shelf,
    missing: Missing,
    (provider, version): (&str, &str),
) -> Response<OutboundBody> {
    let name = shelf.name();
    let text = match missing {
        Missing::Box => return no_box(head, name),
        Missing::Version => format!("404 version [{version}] of box [{name}] does not exist"),
        Missing::Provider => format!(
            "404 provider [{provider}] of version [{version}] of box [{name}] does not exist"
        ),
    };
    told(head, StatusCode::NOT_FOUND, text)
}

fn unreadable(head: &Parts, error: &io::Error, file_name: &str) -> Response<OutboundBody> {
    tracing::error!(%error, file = file_name, "a box file cannot be read");
    let text = format!("500 file [{file_name}] cannot be read");
    told(head, StatusCode::INTERNAL_SERVER_ERROR, text)
}

/// A file as it was opened; one that changes from then on breaks the answer.
async fn file(head: &Parts, opened: Opened, file_name: &str) -> Response<OutboundBody> {
    let length = opened.stamp.length();
    let etag = opened.etag();
    let representation = Representation {
        etag: &etag,
        last_modified: Some(opened.modified),
        length,
    };
    // Vagrant resumes with a bare range, and gives up for a day on 416.
    let decision = decide(
        &representation,
        &head.method,
        &head.headers,
        PastEnd::WholeBody,
    );
    let mut headers = validators(&etag);
    let (status, range) = match selected(decision, length, &mut headers) {
        Selected::Content(status, range) => (status, range),
        Selected::Nothing(answer) => return answer,
    };
    headers.extend([
        (CONTENT_TYPE, OCTETS),
        (CONTENT_DISPOSITION, attachment(file_name)),
        (ACCEPT_RANGES, HeaderValue::from_static("bytes")),
        (LAST_MODIFIED, date(opened.modified)),
        (CONTENT_LENGTH, range.length().into()),
    ]);
    if head.method == Method::HEAD {
        return with_headers(status, headers);
    }
    match PlainBody::open(opened.file, range).await {
        Ok(body) => with_body(status, headers, body.boxed_unsync()),
        Err(error) => unreadable(head, &error, file_name),
    }
}

/// An answer that is there already.
fn written(head: &Parts, content_type: HeaderValue, document: &Document) -> Response<OutboundBody> {
    let length = document.text.len() as u64;
    let representation = Representation {
        etag: &document.etag,
        last_modified: None,
        length,
    };
    let decision = decide(
        &representation,
        &head.method,
        &head.headers,
        PastEnd::WholeBody,
    );
    let mut headers = validators(&document.etag);
    // Vagrant resumes metadata like boxes: a range of them is never served.
    match selected(decision, length, &mut headers) {
        Selected::Nothing(answer) => return answer,
        Selected::Content(..) => headers = validators(&document.etag),
    }
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CONTENT_LENGTH, length.into());
    if head.method == Method::HEAD {
        return with_headers(StatusCode::OK, headers);
    }
    with_body(
        StatusCode::OK,
        headers,
        response::full(document.text.clone()),
    )
}

fn validators(etag: &str) -> HeaderMap {
    let etag = HeaderValue::from_str(etag).expect("hexadecimal digits are ASCII");
    HeaderMap::from_iter([(ETAG, etag), (CACHE_CONTROL, FRESHNESS)])
}

/// HTTP has no dates before 1970.
fn date(moment: SystemTime) -> HeaderValue {
    let text = httpdate::fmt_http_date(moment.max(SystemTime::UNIX_EPOCH));
    HeaderValue::from_str(&text).expect("dates are ASCII")
}

/// A text; who asks for JSON alone gets the same bytes by that name.
fn told(head: &Parts, status: StatusCode, text: impl Into<String>) -> Response<OutboundBody> {
    let mut answer = response::bytes(status, text_type(head), text.into());
    let varies = HeaderValue::from_static("Accept");
    answer.headers_mut().insert(VARY, varies);
    answer
}

fn text_type(head: &Parts) -> HeaderValue {
    match preference(&head.headers) {
        Preference::Json => JSON,
        Preference::Html | Preference::Anything => TEXT,
    }
}
