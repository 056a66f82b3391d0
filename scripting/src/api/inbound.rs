//! What a webhook that came in has beside any other request: its body, and how far its sender is known.

use std::borrow::Cow;
use std::sync::Arc;

use rhai::{Dynamic, EvalAltResult, ImmutableString, Module, NativeCallContext};
use serde_json::Value;

use super::json::from_json;
use super::{add, field};
use crate::error::{refusal, too_large};
use crate::facts::{Bytes, Request};

type Answer<T> = Result<T, Box<EvalAltResult>>;
type R = Arc<Request>;

pub(super) fn register(module: &mut Module) {
    bytes(module);
    field(
        module,
        "body",
        "The body of a webhook that came in.",
        |r: &mut R| r.body.clone(),
    );
    field(
        module,
        "hook",
        "The name of the hook that a webhook came in by.",
        |r: &mut R| r.hook.clone(),
    );
    field(
        module,
        "verified",
        "Whether its sender showed that it knows the hook's secret.",
        |r: &mut R| r.verified,
    );
    field(
        module,
        "delivery_id",
        "What its sender calls the delivery; the same when it is sent once more.",
        |r: &mut R| r.delivery_id.clone().map_or(Dynamic::UNIT, Into::into),
    );
    add(
        module,
        "text",
        ("The body of a webhook as text.", ""),
        |context: NativeCallContext, r: &mut R| text(&context, &r.body.0),
    );
    add(
        module,
        "json",
        (
            "The body of a webhook as JSON; of a form, its field `payload`.",
            "",
        ),
        |context: NativeCallContext, r: &mut R| -> Answer<Dynamic> {
            Ok(from_json(&small(&context, &payload(r)?)?))
        },
    );
    add(
        module,
        "pick",
        (
            "One value of a webhook's JSON by a JSON pointer, or ().",
            "",
        ),
        |r: &mut R, pointer: &str| -> Answer<Dynamic> {
            Ok(picked(&document(&payload(r)?)?, pointer))
        },
    );
}

/// Bytes that the host holds, which scripts look into.
fn bytes(module: &mut Module) {
    module.set_custom_type_with_comments::<Bytes>(
        "Bytes",
        &["/// Bytes that boxgate holds for the script; hashes and signatures take them as they are."],
    );
    field(module, "len", "How many.", |b: &mut Bytes| {
        i64::try_from(b.0.len()).unwrap_or(i64::MAX)
    });
    add(
        module,
        "slice",
        ("Those from one place to before another.", ""),
        |b: &mut Bytes, from: i64, to: i64| -> Answer<Bytes> {
            let place = |at: i64| usize::try_from(at).ok().filter(|at| *at <= b.0.len());
            let (Some(from), Some(to)) = (place(from), place(to)) else {
                return Err(refusal(format!("slice: there are {} bytes", b.0.len())));
            };
            Ok(Bytes(b.0[from.min(to)..to].into()))
        },
    );
    add(
        module,
        "text",
        ("As text.", ""),
        |context: NativeCallContext, b: &mut Bytes| text(&context, &b.0),
    );
    add(
        module,
        "json",
        ("As JSON.", ""),
        |context: NativeCallContext, b: &mut Bytes| -> Answer<Dynamic> {
            Ok(from_json(&small(&context, &b.0)?))
        },
    );
    add(
        module,
        "pick",
        ("One value of them as JSON by a JSON pointer, or ().", ""),
        |b: &mut Bytes, pointer: &str| -> Answer<Dynamic> { Ok(picked(&document(&b.0)?, pointer)) },
    );
}

fn text(context: &NativeCallContext, bytes: &[u8]) -> Answer<ImmutableString> {
    if bytes.len() > context.engine().max_string_size() {
        return Err(too_large("Length of string"));
    }
    let text = std::str::from_utf8(bytes);
    text.map(Into::into)
        .map_err(|_binary| refusal("the body is not UTF-8"))
}

/// The whole of a document that is no longer than a text may be.
fn small(context: &NativeCallContext, bytes: &[u8]) -> Answer<Value> {
    if bytes.len() > context.engine().max_string_size() {
        return Err(too_large("Length of string"));
    }
    document(bytes)
}

fn document(bytes: &[u8]) -> Answer<Value> {
    serde_json::from_slice(bytes).map_err(|e| refusal(format!("the body is no JSON: {e}")))
}

fn picked(document: &Value, pointer: &str) -> Dynamic {
    document.pointer(pointer).map_or(Dynamic::UNIT, from_json)
}

/// The JSON of a webhook: its body, or what GitHub puts into a form where it was not told to send JSON.
fn payload(request: &Request) -> Answer<Cow<'_, [u8]>> {
    let kind = request
        .headers
        .iter()
        .find(|(name, _)| name == "content-type");
    let form = kind.is_some_and(|(_, kind)| kind.starts_with("application/x-www-form-urlencoded"));
    if !form {
        return Ok(Cow::Borrowed(&request.body.0));
    }
    let mut fields = url::form_urlencoded::parse(&request.body.0);
    match fields.find(|(name, _)| name == "payload") {
        Some((_, payload)) => Ok(Cow::Owned(payload.into_owned().into_bytes())),
        None => Err(refusal("the body is a form without a field `payload`")),
    }
}
