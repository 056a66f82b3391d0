//! Encodings, hashes, patterns and times.

use std::str::FromStr as _;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{KeyInit as _, Mac as _};
use moka::sync::Cache;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use regex::{Regex, RegexBuilder};
use rhai::{Array, Blob, Dynamic, EvalAltResult, ImmutableString, Map, Module};
use sha2::Digest as _;

use super::add;
use super::types::Secret;
use crate::call::{charge, may_wait, now_ms, scene};
use crate::error::{refusal, stopped, too_large};
use crate::facts::Bytes;
use crate::guard;

type Text = ImmutableString;
type Answer<T> = Result<T, Box<EvalAltResult>>;

/// The bytes of a text or a blob.
fn bytes(value: &Dynamic) -> Answer<Vec<u8>> {
    let bytes = if let Some(text) = value.read_lock::<Text>() {
        text.as_bytes().to_vec()
    } else if let Some(blob) = value.read_lock::<Blob>() {
        blob.clone()
    } else if let Some(held) = value.read_lock::<Bytes>() {
        held.0.to_vec()
    } else {
        return Err(refusal(format!(
            "a text or a blob is needed, this is a {}",
            crate::error::kind_of(value)
        )));
    };
    charge(bytes.len())?;
    Ok(bytes)
}

fn text(bytes: Vec<u8>, what: &str) -> Answer<Text> {
    String::from_utf8(bytes)
        .map(Into::into)
        .map_err(|_binary| refusal(format!("{what}: the decoded bytes are not UTF-8")))
}

pub(super) fn base64(url_safe: bool) -> Module {
    let mut module = Module::new();
    let engine = if url_safe {
        &URL_SAFE_NO_PAD
    } else {
        &STANDARD
    };
    let (encode, decode, blob) = if url_safe {
        (
            "b64url::encode(\"a?>\") == \"YT8-\"",
            "b64url::decode(\"YT8-\") == \"a?>\"",
            "b64url::decode_blob(\"YT8-\").len == 3",
        )
    } else {
        (
            "b64::encode(\"a?>\") == \"YT8+\"",
            "b64::decode(\"YT8+\") == \"a?>\"",
            "b64::decode_blob(\"YT8+\").len == 3",
        )
    };
    add(
        &mut module,
        "encode",
        ("Base64 of a text or a blob.", encode),
        move |value: Dynamic| -> Answer<String> { Ok(engine.encode(bytes(&value)?)) },
    );
    let decoded = move |given: &str| -> Answer<Vec<u8>> {
        charge(given.len())?;
        engine
            .decode(given)
            .map_err(|e| refusal(format!("base64: {e}")))
    };
    add(
        &mut module,
        "decode",
        ("The text behind base64.", decode),
        move |given: &str| -> Answer<Text> { text(decoded(given)?, "base64") },
    );
    add(
        &mut module,
        "decode_blob",
        ("The bytes behind base64.", blob),
        move |given: &str| -> Answer<Blob> { decoded(given) },
    );
    module
}

pub(super) fn hex() -> Module {
    let mut module = Module::new();
    add(
        &mut module,
        "encode",
        (
            "Hexadecimal digits of a text or a blob.",
            "hex::encode(\"AB\") == \"4142\"",
        ),
        |value: Dynamic| -> Answer<String> { Ok(hex::encode(bytes(&value)?)) },
    );
    let decoded = |given: &str| -> Answer<Vec<u8>> {
        charge(given.len())?;
        hex::decode(given).map_err(|e| refusal(format!("hex: {e}")))
    };
    add(
        &mut module,
        "decode",
        (
            "The text behind hexadecimal digits.",
            "hex::decode(\"4142\") == \"AB\"",
        ),
        move |given: &str| -> Answer<Text> { text(decoded(given)?, "hex") },
    );
    add(
        &mut module,
        "decode_blob",
        (
            "The bytes behind hexadecimal digits.",
            "hex::decode_blob(\"ff00\").len == 2",
        ),
        move |given: &str| -> Answer<Blob> { decoded(given) },
    );
    module
}

/// What stays as it is in one segment of a path or one value of a query (RFC 3986 §2.3).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

pub(super) fn url() -> Module {
    let mut module = Module::new();
    add(
        &mut module,
        "encode",
        (
            "A text for one segment of a path or one value of a query.",
            "url::encode(\"a b/c\") == \"a%20b%2Fc\"",
        ),
        |given: &str| -> Answer<String> {
            charge(given.len())?;
            Ok(utf8_percent_encode(given, UNRESERVED).to_string())
        },
    );
    add(
        &mut module,
        "decode",
        (
            "The text behind percent escapes.",
            "url::decode(\"a%20b\") == \"a b\"",
        ),
        |given: &str| -> Answer<Text> {
            charge(given.len())?;
            text(percent_decode_str(given).collect(), "url::decode")
        },
    );
    add(
        &mut module,
        "parse",
        (
            "The parts of a URL: scheme, host, port, path, query, fragment.",
            "url::parse(\"https://a.org/x?y=1\").path == \"/x\"",
        ),
        |given: &str| -> Answer<Map> {
            charge(given.len())?;
            let url = url::Url::parse(given).map_err(|e| refusal(format!("url::parse: {e}")))?;
            let text = |value: Option<&str>| value.map_or(Dynamic::UNIT, Into::into);
            let port = url.port_or_known_default();
            Ok(Map::from([
                ("scheme".into(), url.scheme().into()),
                ("host".into(), text(url.host_str())),
                (
                    "port".into(),
                    port.map_or(Dynamic::UNIT, |p| i64::from(p).into()),
                ),
                ("path".into(), url.path().into()),
                ("query".into(), text(url.query())),
                ("fragment".into(), text(url.fragment())),
            ]))
        },
    );
    add(
        &mut module,
        "join",
        (
            "A reference seen from a URL.",
            "url::join(\"https://a.org/x/y\", \"../z\") == \"https://a.org/z\"",
        ),
        |base: &str, reference: &str| -> Answer<String> {
            charge(base.len() + reference.len())?;
            let url = url::Url::parse(base).and_then(|url| url.join(reference));
            url.map(Into::into)
                .map_err(|e| refusal(format!("url::join: {e}")))
        },
    );
    module
}

pub(super) fn hash() -> Module {
    let mut module = Module::new();
    add(
        &mut module,
        "sha256",
        (
            "SHA-256 of a text or a blob, in hexadecimal.",
            "hash::sha256(\"\").starts_with(\"e3b0c442\")",
        ),
        |value: Dynamic| -> Answer<String> {
            Ok(hex::encode(sha2::Sha256::digest(bytes(&value)?)))
        },
    );
    add(
        &mut module,
        "blake3",
        (
            "BLAKE3 of a text or a blob, in hexadecimal.",
            "hash::blake3(\"\").starts_with(\"af1349b9\")",
        ),
        |value: Dynamic| -> Answer<String> {
            Ok(blake3::hash(&bytes(&value)?).to_hex().to_string())
        },
    );
    module
}

type HmacSha256 = hmac::Hmac<sha2::Sha256>;

fn mac(key: &Dynamic, value: &Dynamic) -> Answer<HmacSha256> {
    let key = match key.read_lock::<Secret>() {
        Some(secret) => secret.expose().as_bytes().to_vec(),
        None => bytes(key)?,
    };
    let mut mac = HmacSha256::new_from_slice(&key).map_err(|e| refusal(format!("hmac: {e}")))?;
    mac.update(&bytes(value)?);
    Ok(mac)
}

pub(super) fn hmac() -> Module {
    let mut module = Module::new();
    add(
        &mut module,
        "sha256",
        (
            "HMAC-SHA-256 with a secret, text or blob as key, in hexadecimal.",
            "hmac::sha256(\"key\", \"text\").len == 64",
        ),
        |key: Dynamic, value: Dynamic| -> Answer<String> {
            Ok(hex::encode(mac(&key, &value)?.finalize().into_bytes()))
        },
    );
    add(
        &mut module,
        "verify",
        (
            "Whether a hexadecimal HMAC-SHA-256 is right, in constant time.",
            "hmac::verify(\"key\", \"text\", hmac::sha256(\"key\", \"text\"))",
        ),
        |key: Dynamic, value: Dynamic, given: &str| -> Answer<bool> {
            let Ok(given) = hex::decode(given) else {
                return Ok(false);
            };
            Ok(mac(&key, &value)?.verify_slice(&given).is_ok())
        },
    );
    module
}

/// Compiled patterns that are kept. A pattern may come from a request, so this is a bound, not a convenience.
const PATTERNS: u64 = 256;
/// Program of a pattern, in bytes: the first that it fits into is taken for its size, the last is the largest. A `\w` of
/// all scripts of the world takes about 45 KiB, `(?-u:\w)` less than one.
const PATTERN_BYTES: [usize; 4] = [1 << 10, 4 << 10, 16 << 10, 64 << 10];
/// Bytes of program times bytes of text that the fast lane searches at once, within its deadline on the slowest of ways.
const FAST_SEARCH: usize = 1 << 27;
/// Most matches that one call replaces.
const MATCHES: usize = 16 << 10;

/// A pattern with the size of its program.
#[derive(Clone)]
pub(crate) struct Pattern {
    regex: Regex,
    bytes: usize,
}

pub(crate) fn pattern(text: &str) -> Answer<Pattern> {
    static COMPILED: OnceLock<Cache<String, Pattern>> = OnceLock::new();
    let compiled = COMPILED.get_or_init(|| Cache::new(PATTERNS));
    if let Some(found) = compiled.get(text) {
        return Ok(found);
    }
    charge(text.len())?;
    let most = PATTERN_BYTES[PATTERN_BYTES.len() - 1];
    let build = |bytes: usize| {
        let mut builder = RegexBuilder::new(text);
        builder
            .size_limit(bytes)
            .dfa_size_limit(most.max(256 << 10))
            .nest_limit(32);
        builder.build().map(|regex| Pattern { regex, bytes })
    };
    let mut built = build(PATTERN_BYTES[0]);
    for bytes in &PATTERN_BYTES[1..] {
        if matches!(built, Err(regex::Error::CompiledTooBig(_))) {
            built = build(*bytes);
        }
    }
    let built = built.map_err(|error| {
        refusal(match error {
            regex::Error::CompiledTooBig(_) => format!(
                "re: the pattern is larger than {most} bytes as a program; (?-u:\\w) is much smaller than \\w"
            ),
            other => format!("re: {other}"),
        })
    })?;
    compiled.insert(text.to_owned(), built.clone());
    Ok(built)
}

/// The pattern, once it may search that text: how long that takes is bounded by the product of both.
fn search(wanted: &str, given: &str) -> Answer<Regex> {
    charge(given.len())?;
    let pattern = pattern(wanted)?;
    if !may_wait() && pattern.bytes.saturating_mul(given.len()) > FAST_SEARCH {
        return Err(too_large("Pattern times text"));
    }
    Ok(pattern.regex)
}

pub(super) fn re() -> Module {
    let mut module = Module::new();
    add(
        &mut module,
        "is_match",
        (
            "Whether a pattern is found; in linear time.",
            "re::is_match(\"^v[0-9]+$\", \"v12\")",
        ),
        |wanted: &str, given: &str| -> Answer<bool> { Ok(search(wanted, given)?.is_match(given)) },
    );
    add(
        &mut module,
        "find",
        (
            "The first match and its groups, or ().",
            "re::find(\"([a-z]+)@([a-z]+)\", \"x a@b\")[2] == \"b\"",
        ),
        |wanted: &str, given: &str| -> Answer<Dynamic> {
            let found = search(wanted, given)?.captures(given).map(|captures| {
                let groups = captures.iter();
                let groups = groups.map(|g| g.map_or(Dynamic::UNIT, |g| g.as_str().into()));
                Dynamic::from_array(groups.collect::<Array>())
            });
            Ok(found.unwrap_or(Dynamic::UNIT))
        },
    );
    add(
        &mut module,
        "replace",
        (
            "Replaces every match; `$1` is the first group.",
            "re::replace(\"a(.)\", \"ab ac\", \"$1\") == \"b c\"",
        ),
        |context: rhai::NativeCallContext, wanted: &str, given: &str, with: &str| {
            replace(context.engine().max_string_size(), wanted, given, with)
        },
    );
    module
}

/// Each search may go through the whole text, so that all together take its square: the clock is looked at in between.
fn replace(most: usize, wanted: &str, given: &str, with: &str) -> Answer<String> {
    let pattern = search(wanted, given)?;
    let mut out = String::new();
    let mut last = 0;
    for (count, captures) in pattern.captures_iter(given).enumerate() {
        if count >= MATCHES {
            return Err(too_large("Matches of a pattern"));
        }
        let whole = captures.get(0).map_or(0..0, |m| m.range());
        out.push_str(&given[last..whole.start]);
        captures.expand(with, &mut out);
        last = whole.end;
        if out.len() > most {
            return Err(too_large("Length of string"));
        }
        if let Some(stop) = guard::labour(1) {
            return Err(stopped(stop));
        }
        if let Some(stop) = guard::look_at_the_clock() {
            return Err(stopped(stop));
        }
    }
    out.push_str(&given[last..]);
    Ok(out)
}

pub(super) fn glob() -> Module {
    let mut module = Module::new();
    add(
        &mut module,
        "is_match",
        (
            "Whether a text fits: `*` within a segment, `**` over many.",
            "glob::is_match(\"/org/*/box/**\", \"/org/acme/box/a/b\")",
        ),
        |wanted: &str, given: &str| -> Answer<bool> {
            charge(given.len() + wanted.len())?;
            Ok(fast_glob::glob_match(wanted, given))
        },
    );
    module
}

pub(super) fn time() -> Module {
    let mut module = Module::new();
    add(
        &mut module,
        "now",
        ("Milliseconds since 1970.", "time::now() > 1700000000000"),
        now_ms,
    );
    add(
        &mut module,
        "rfc3339",
        (
            "A time in milliseconds as text.",
            "time::rfc3339(0) == \"1970-01-01T00:00:00Z\"",
        ),
        |ms: i64| -> Answer<String> {
            jiff::Timestamp::from_millisecond(ms)
                .map(|at| at.to_string())
                .map_err(|e| refusal(format!("time::rfc3339: {e}")))
        },
    );
    add(
        &mut module,
        "parse",
        (
            "A time as text in milliseconds.",
            "time::parse(\"1970-01-01T00:00:01Z\") == 1000",
        ),
        |given: &str| -> Answer<i64> {
            jiff::Timestamp::from_str(given)
                .map(jiff::Timestamp::as_millisecond)
                .map_err(|e| refusal(format!("time::parse: {e}")))
        },
    );
    module
}

fn random() -> Answer<u64> {
    if let Some(scene) = scene() {
        return Ok(scene.random());
    }
    getrandom::u64().map_err(|e| refusal(format!("no randomness: {e}")))
}

pub(super) fn register_global(module: &mut Module) {
    add(
        module,
        "uuid",
        ("A random UUID, version 4.", "uuid().len == 36"),
        || -> Answer<String> {
            let (high, low) = (random()?, random()?);
            // RFC 9562 §5.4: version and variant stand in fixed bits.
            let high = (high & !0xf000) | 0x4000;
            let low = (low & (u64::MAX >> 2)) | (1 << 63);
            Ok(format!(
                "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
                high >> 32,
                (high >> 16) & 0xffff,
                high & 0xffff,
                low >> 48,
                low & 0xffff_ffff_ffff
            ))
        },
    );
    add(
        module,
        "rand",
        (
            "A random number from 0 up to, not including, n.",
            "rand(1) == 0",
        ),
        |n: i64| -> Answer<i64> {
            let n = u64::try_from(n).ok().filter(|n| *n > 0);
            let n = n.ok_or_else(|| refusal("rand: n must be at least 1"))?;
            Ok(i64::try_from(random()? % n).unwrap_or(0))
        },
    );
}
