//! The tree above a blob's blocks, for clients that prove each block as it comes in. Made from the stored
//! subtree values; the blob's bytes are not read.

use std::time::Duration;

use boxgate_storage::ErrorKind;
use boxgate_storage::blob::BlobMeta;
use boxgate_storage::digest::outboard::outboard;
use bytes::Bytes;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_TYPE, ETAG};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response};
use tokio::sync::OwnedSemaphorePermit;

use super::download::{Selected, selected, with_body, with_headers};
use crate::gateway::Gateway;
use crate::http::freshness::{Freshness, Tags};
use crate::http::precondition::{PastEnd, Representation, decide};
use crate::http::response;
use crate::refusal::Refusal;
use crate::server::OutboundBody;

/// Answers GET or HEAD for the outboard of a blob.
///
/// # Errors
/// 503 while `downloads.max_outboards` of them are on their way: each may take 12 MiB for the longest blob.
pub async fn serve(
    gateway: &Gateway,
    head: &Parts,
    blob: &BlobMeta,
    freshness: Freshness,
    tags: &Tags,
) -> Result<Response<OutboundBody>, Refusal> {
    let permit = gateway.admission.outboard()?;
    let tree = gateway.metadata.blob_tree(blob).await?;
    // 3 ms for 12 GB, 30 ms for the longest blob.
    let made = tokio::task::spawn_blocking(move || {
        let bytes = outboard(&tree.values);
        let etag = format!("\"{}\"", blake3::hash(&bytes).to_hex());
        (bytes, etag)
    });
    let (bytes, etag) = made.await.map_err(|panicked| {
        let subject = blob.key.to_string();
        boxgate_storage::Error::new(ErrorKind::Internal, "blob.outboard", subject)
            .with_source(panicked)
    })?;
    let length = bytes.len() as u64;
    let representation = Representation {
        etag: &etag,
        last_modified: None,
        length,
    };
    let past_end = PastEnd::NotSatisfiable;
    let decision = decide(&representation, &head.method, &head.headers, past_end);
    let mut headers = HeaderMap::new();
    headers.insert(
        ETAG,
        HeaderValue::from_str(&etag).expect("hexadecimal digits are ASCII"),
    );
    freshness.write(&gateway.settings.downloads, tags, &mut headers);
    let (status, range) = match selected(decision, length, &mut headers) {
        Selected::Content(status, range) => (status, range),
        Selected::Nothing(answer) => return Ok(answer),
    };
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_LENGTH, range.length().into());
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    if head.method == Method::HEAD {
        return Ok(with_headers(status, headers));
    }
    let within = |at: u64| usize::try_from(at).expect("it is in memory");
    let held = Bytes::from_owner(Held {
        bytes,
        _permit: permit,
    });
    let body = held.slice(within(range.start())..within(range.end()));
    Ok(with_body(status, headers, response::full(body)))
}

/// Why an outboard does not come now.
pub fn too_many() -> Refusal {
    Refusal::busy(
        "Too many outboards are on their way on this node (downloads.max_outboards).",
        Duration::from_secs(1),
    )
}

/// An outboard whose permit goes back when the last byte of it is sent or given up.
struct Held {
    bytes: Vec<u8>,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
