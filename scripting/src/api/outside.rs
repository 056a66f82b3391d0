//! `http::`: requests to where the manifest asks and the operator grants, by the gateway's one client.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rhai::{Dynamic, EvalAltResult, ImmutableString, Map, Module};
use serde_json::Value;

use super::json::{from_json, to_json};
use super::list::List;
use super::types::Secret;
use super::{add, field};
use crate::call::{baggage, caller, context, count_http, host, may_wait, scene};
use crate::error::{refusal, too_large};
use crate::facts::Bytes;
use crate::guard;
use crate::http::{
    HttpFault, HttpReply, HttpRequest, MAX_CALLS, MAX_CLOUD_TIME, MAX_REDIRECTS, MAX_REQUEST_BYTES,
    MAX_RESPONSE_BYTES, MAX_RETRIES, MAX_TIME,
};

type Answer<T> = Result<T, Box<EvalAltResult>>;
type Reply = Arc<HttpReply>;

pub(super) fn register_global(module: &mut Module) {
    module.set_custom_type_with_comments::<Reply>(
        "HttpReply",
        &["/// What a request was answered with."],
    );
    field(module, "status", "Its status.", |r: &mut Reply| {
        i64::from(r.status)
    });
    field(
        module,
        "ok",
        "Whether the status is 200 to 299.",
        |r: &mut Reply| (200..300).contains(&r.status),
    );
    field(module, "body", "Its body.", |r: &mut Reply| r.body.clone());
    add(
        module,
        "header",
        ("The first value of a header field, or ().", ""),
        |r: &mut Reply, name: &str| {
            let found = r.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
            found.map_or(Dynamic::UNIT, |(_, value)| value.as_str().into())
        },
    );
    add(
        module,
        "text",
        ("Its body as text.", ""),
        |context: rhai::NativeCallContext, r: &mut Reply| -> Answer<ImmutableString> {
            if r.body.len() > context.engine().max_string_size() {
                return Err(too_large("Length of string"));
            }
            let text = std::str::from_utf8(&r.body);
            text.map(Into::into)
                .map_err(|_binary| refusal("the body is not UTF-8"))
        },
    );
    add(
        module,
        "json",
        ("Its body as JSON.", ""),
        |context: rhai::NativeCallContext, r: &mut Reply| -> Answer<Dynamic> {
            if r.body.len() > context.engine().max_string_size() {
                return Err(too_large("Length of string"));
            }
            Ok(from_json(document(r)?))
        },
    );
    add(
        module,
        "pick",
        ("One value of its JSON body by a JSON pointer, or ().", ""),
        |r: &mut Reply, pointer: &str| -> Answer<Dynamic> {
            let document = document(r)?;
            Ok(document.pointer(pointer).map_or(Dynamic::UNIT, from_json))
        },
    );
    add(
        module,
        "list",
        (
            "The array at a JSON pointer of its body, however long, as a list.",
            "",
        ),
        |r: &mut Reply, pointer: &str| -> Answer<List> {
            let found = document(r)?.pointer(pointer).and_then(Value::as_array);
            let found = found.ok_or_else(|| refusal(format!("there is no array at {pointer}")))?;
            Ok(List::of(found.clone()))
        },
    );
}

fn document(reply: &HttpReply) -> Answer<&Value> {
    let document = reply.document();
    document.ok_or_else(|| refusal("the body is no JSON"))
}

fn fault(code: &str, message: &str) -> Box<EvalAltResult> {
    let map = Map::from([
        ("code".into(), code.into()),
        ("message".into(), message.into()),
    ]);
    EvalAltResult::ErrorRuntime(Dynamic::from_map(map), rhai::Position::NONE).into()
}

fn send(method: &str, url: &str, body: &Dynamic, options: &Map) -> Answer<Reply> {
    count_http(MAX_CALLS)?;
    let host = host()?;
    let parsed = url::Url::parse(url).map_err(|e| refusal(format!("http: {url:?}: {e}")))?;
    let mut headers = BTreeMap::new();
    let longest = if host.manifest.provider.is_some() {
        MAX_CLOUD_TIME
    } else {
        MAX_TIME
    };
    let mut timeout = longest;
    let mut max_bytes = MAX_RESPONSE_BYTES;
    let (mut redirects, mut retries) = (0, 0);
    for (name, value) in options {
        let number = || {
            let number = value.as_int().ok().and_then(|n| u64::try_from(n).ok());
            number.ok_or_else(|| refusal(format!("http: `{name}` must be a whole number")))
        };
        match name.as_str() {
            "headers" => {
                let map = value.read_lock::<Map>();
                let map = map.ok_or_else(|| refusal("http: `headers` must be a map"))?;
                for (name, value) in map.iter() {
                    headers.insert(name.to_lowercase(), header_value(value)?);
                }
            }
            "timeout_ms" => timeout = Duration::from_millis(number()?).min(longest),
            "max_bytes" => {
                max_bytes = usize::try_from(number()?)
                    .unwrap_or(max_bytes)
                    .min(max_bytes);
            }
            // Whoever sends it twice may get it done twice; looking twice does no harm.
            "retries" if method == "GET" => {
                retries = u32::try_from(number()?)
                    .unwrap_or(MAX_RETRIES)
                    .min(MAX_RETRIES);
            }
            "retries" => return Err(refusal("http: only a GET is sent again")),
            "redirects" => redirects = usize::try_from(number()?).unwrap_or(0).min(MAX_REDIRECTS),
            other => return Err(refusal(format!("http: unknown option `{other}`"))),
        }
    }
    let (body, kind) = request_body(body)?;
    if let Some(kind) = kind {
        headers
            .entry("content-type".into())
            .or_insert_with(|| kind.into());
    }
    if let Some(scene) = scene() {
        return scene
            .answer(method, url, &headers, &body)
            .map(Arc::new)
            .map_err(refusal);
    }
    if !may_wait() {
        return Err(refusal(
            "http: only hooks of the work lane may send requests",
        ));
    }
    if !host.http_reach.allows(&parsed) {
        return Err(fault(
            "http.not_granted",
            &format!(
                "{url} is not within [http] allow of plugin.toml and scripts.grants.{}",
                host.manifest.name
            ),
        ));
    }
    let Some(client) = &host.http else {
        return Err(fault("http.unavailable", "there is no client here"));
    };
    let request = HttpRequest {
        plugin: host.manifest.name.clone(),
        cloud: host.manifest.provider.is_some(),
        method: method.to_owned(),
        url: parsed.into(),
        headers,
        body,
        timeout: timeout.min(guard::time_left()),
        max_bytes,
        redirects,
        retries,
        reach: host.http_reach.clone(),
        caller: caller(),
        baggage: baggage(),
    };
    let deeds = context().map(|context| Arc::clone(&context.deeds));
    let changes = deeds.as_ref().filter(|_| method != "GET");
    if let Some(changes) = changes {
        changes.begin_change();
    }
    let answer = client.send(request);
    if let Some(changes) = changes.filter(|_| is_refused(&answer)) {
        changes.changed_nothing();
    }
    if let (Some(deeds), Ok(reply)) = (&deeds, &answer)
        && let Some(seconds) = reply.retry_after()
    {
        deeds.told_to_rest(seconds);
    }
    answer.map(Arc::new).map_err(|e| fault(e.code, &e.message))
}

/// Whether it is certain that a request changed nothing: it was not sent, or the other side would not have it.
fn is_refused(answer: &Result<HttpReply, HttpFault>) -> bool {
    const NOT_SENT: [&str; 6] = [
        "http.request",
        "http.blocked_destination",
        "http.resolve",
        "http.connect",
        "http.tls",
        "http.resting",
    ];
    match answer {
        // 408 may come while it is still worked on (RFC 9110 §15.5.9).
        Ok(reply) => (400..500).contains(&reply.status) && reply.status != 408,
        Err(fault) => NOT_SENT.contains(&fault.code),
    }
}

fn header_value(value: &Dynamic) -> Answer<String> {
    let text = if let Some(secret) = value.read_lock::<Secret>() {
        secret.expose().to_owned()
    } else if value.is_string() || value.is_int() {
        value.to_string()
    } else {
        return Err(refusal(
            "http: a header's value is a text, a number or a Secret",
        ));
    };
    if text.contains(['\r', '\n', '\0']) {
        return Err(refusal("http: a header's value has a line break"));
    }
    Ok(text)
}

fn request_body(body: &Dynamic) -> Answer<(Vec<u8>, Option<&'static str>)> {
    let (body, kind) = if body.is_unit() {
        (Vec::new(), None)
    } else if let Some(text) = body.read_lock::<ImmutableString>() {
        (text.as_bytes().to_vec(), Some("text/plain; charset=utf-8"))
    } else if let Some(blob) = body.read_lock::<rhai::Blob>() {
        (blob.clone(), Some("application/octet-stream"))
    } else if let Some(held) = body.read_lock::<Bytes>() {
        (held.0.to_vec(), Some("application/octet-stream"))
    } else if let Some(secret) = body.read_lock::<Secret>() {
        (
            secret.expose().as_bytes().to_vec(),
            Some("text/plain; charset=utf-8"),
        )
    } else {
        let json = to_json(body).map_err(|e| refusal(format!("http: the body {e}")))?;
        (json.to_string().into_bytes(), Some("application/json"))
    };
    if body.len() > MAX_REQUEST_BYTES {
        return Err(too_large("Request body"));
    }
    Ok((body, kind))
}

pub(super) fn http() -> Module {
    let mut module = Module::new();
    let doc = "Sends a request and waits for the answer; a status is data, no answer is thrown.";
    for (name, method) in [("get", "GET"), ("delete", "DELETE")] {
        add(&mut module, name, (doc, ""), move |url: &str| {
            send(method, url, &Dynamic::UNIT, &Map::new())
        });
        add(
            &mut module,
            name,
            (doc, ""),
            move |url: &str, options: Map| send(method, url, &Dynamic::UNIT, &options),
        );
    }
    for (name, method) in [("post", "POST"), ("put", "PUT"), ("patch", "PATCH")] {
        add(
            &mut module,
            name,
            (doc, ""),
            move |url: &str, body: Dynamic| send(method, url, &body, &Map::new()),
        );
        add(
            &mut module,
            name,
            (doc, ""),
            move |url: &str, body: Dynamic, options: Map| send(method, url, &body, &options),
        );
    }
    module
}
