//! Styles and scripts: in the binary, named by their digests, thus kept by browsers for good.

use std::io::Write as _;
use std::sync::LazyLock;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::{Answer, POLICY};
use crate::call::Call;
use crate::http::response;
use crate::refusal::Refusal;

const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");

macro_rules! assets {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_bytes!(concat!("../../../page/", $path)).as_slice())),*]
    };
}

/// Ours, and what others wrote, which `gateway/page/vendor/VERSIONS` names.
const FILES: &[(&str, &[u8])] = assets![
    "static/digest.js",
    "static/page.css",
    "static/page.js",
    "static/page.svg",
    "static/upload.js",
    "vendor/htmx.min.js",
    "vendor/sha256.min.js",
    "vendor/tus.min.js",
];

#[derive(Debug)]
struct Asset {
    /// `page.css`.
    name: &'static str,
    /// `page-<16 hex>.css`.
    named: String,
    bytes: Bytes,
    gzip: Bytes,
}

static ASSETS: LazyLock<Vec<Asset>> =
    LazyLock::new(|| FILES.iter().map(|(path, bytes)| of(path, bytes)).collect());

fn of(path: &'static str, bytes: &'static [u8]) -> Asset {
    let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
    let (stem, kind) = name.rsplit_once('.').unwrap_or((name, "bin"));
    let digest = blake3::hash(bytes).to_hex();
    Asset {
        name,
        named: format!("{stem}-{}.{kind}", &digest[..16]),
        bytes: Bytes::from_static(bytes),
        gzip: zipped(bytes).unwrap_or_default().into(),
    }
}

fn zipped(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// The name that a file has in URLs.
pub fn named(name: &str) -> &'static str {
    let found = ASSETS.iter().find(|asset| asset.name == name);
    found.map_or("", |asset| &asset.named)
}

/// `GET /-/assets/{asset}`.
pub fn show(call: &Call) -> Answer {
    let name = call.names.value("asset");
    let found = ASSETS.iter().find(|asset| asset.named == name);
    let asset = found.ok_or_else(|| Refusal::missing("File", name))?;
    let kind = HeaderValue::from_static(match asset.name.rsplit_once('.') {
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "svg")) => "image/svg+xml",
        _ => "text/javascript; charset=utf-8",
    });
    let is_zipped = takes_gzip(&call.head.headers) && !asset.gzip.is_empty();
    let bytes = if is_zipped { &asset.gzip } else { &asset.bytes };
    let mut answer = response::bytes(StatusCode::OK, kind, bytes.clone());
    answer.headers_mut().extend([
        (CACHE_CONTROL, IMMUTABLE),
        (VARY, HeaderValue::from_static("Accept-Encoding")),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        // A worker is held to that of its own script.
        (CONTENT_SECURITY_POLICY, POLICY),
    ]);
    if is_zipped {
        answer
            .headers_mut()
            .insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(answer)
}

/// Whether a client takes gzip, by name (RFC 9110 §12.5.3).
fn takes_gzip(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(ACCEPT_ENCODING).iter();
    let mut codings = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','));
    codings.any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = weight.replace(' ', "");
        name.trim().eq_ignore_ascii_case("gzip")
            && !matches!(weight.as_str(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000")
    })
}
