//! Blobs under the URLs of their digests: the same bytes or none, for ever.
//!
//! Errors are problem documents (RFC 9457). What the caller may not read is as absent as what nobody ever
//! stored: one answer, whatever is asked for.

use boxgate_storage::digest::Blake3;
use boxgate_storage::metadata::catalog::HeldBlob;
use http::header::REFERRER_POLICY;
use http::{HeaderValue, Response, StatusCode};

use crate::auth;
use crate::call::Call;
use crate::gateway::Gateway;
use crate::handler::download::{self, Download};
use crate::handler::outboard;
use crate::http::freshness::{Freshness, Tags};
use crate::http::precondition::PastEnd;
use crate::refusal::Refusal;
use crate::server::OutboundBody;

type Answer = Result<Response<OutboundBody>, Refusal>;

/// The blob that a plugin's link leads to: whoever has one needs nothing else.
///
/// # Errors
/// 403 for a token that is none of ours, expired, or for other bytes; 404 once nothing holds the blob.
pub async fn linked(gateway: &Gateway, token: &str, digest: &Blake3) -> Result<HeldBlob, Refusal> {
    let now = gateway.clock.now();
    let keys = gateway.link_keys.current(&gateway.metadata, now).await?;
    let key = keys.verify_blob(token, digest, now).ok_or_else(|| {
        Refusal::new(
            StatusCode::FORBIDDEN,
            "This link is not valid, has expired or was revoked. Ask for a new one.",
        )
        .code("TOKEN_INVALID")
    })?;
    let held = gateway.metadata.linked_blob(&key).await?;
    held.filter(|held| held.blob.blake3 == *digest)
        .ok_or_else(auth::no_blob)
}

/// `/blobs/b3/{hex}` and `/blobs/sha256/{hex}`.
pub async fn blob(gateway: &Gateway, call: Call) -> Answer {
    let by_link = call.query("token").is_some();
    let held = call.grant.blob.ok_or_else(auth::no_blob)?;
    let (freshness, tags) = keeping(&held);
    let download = Download {
        blob: held.blob,
        store: held.store,
        labels: held.labels,
        quarantined: held.quarantined,
        name: None,
        counted: None,
        file_name: download::BOX_FILE.into(),
        modified: None,
        past_end: PastEnd::NotSatisfiable,
        freshness,
        tags,
        location: None,
        place: None,
    };
    let mut response = download::serve(gateway, &call.head, download).await?;
    if by_link {
        let nobody = HeaderValue::from_static("no-referrer");
        response.headers_mut().insert(REFERRER_POLICY, nobody);
    }
    Ok(response)
}

/// `/blobs/b3/{hex}/outboard`.
pub async fn outboard(gateway: &Gateway, call: Call) -> Answer {
    let held = call.grant.blob.ok_or_else(auth::no_blob)?;
    let (freshness, tags) = keeping(&held);
    outboard::serve(gateway, &call.head, &held.blob, freshness, &tags).await
}

/// Anyone may keep what a public box holds.
fn keeping(held: &HeldBlob) -> (Freshness, Tags) {
    let holders = &held.public_holders;
    let freshness = if holders.is_empty() {
        Freshness::Private
    } else {
        Freshness::Immutable
    };
    let names = holders.iter().map(|(o, b)| (o.as_str(), b.as_str()));
    (freshness, Tags::of_blob(&held.blob.blake3, names))
}
