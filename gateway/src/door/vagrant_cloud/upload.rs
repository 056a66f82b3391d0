//! How the bytes of a box come: to a URL that is a right by itself, since clients send no credential with them.
//!
//! The URL names a place by its row and the token that asked for it; what that token may do no more, its URL may not
//! either. It stays good after an upload: each is a whole swap.

use boxgate_storage::digest::{Algorithm, Digest};
use boxgate_storage::metadata::catalog::{Slot, VersionStatus};
use boxgate_storage::upload::Keep;
use boxgate_storage::{Error, ErrorKind};
use http::header::TRANSFER_ENCODING;
use http::{StatusCode, header};
use serde_json::{Value, json};

use super::Answer;
use super::providers::{Place, place_of};
use super::versions::tag;
use crate::auth::link::UploadClaim;
use crate::auth::{self, ByTokenOf, Principal};
use crate::call::Call;
use crate::config::settings::Inspect;
use crate::gateway::Gateway;
use crate::handler::upload::{self, Carrier, UploadOrder};
use crate::http::headers::content_length;
use crate::http::response;
use crate::inspect::Meant;
use crate::refusal::Refusal;
use crate::route::PathNames;

/// The name of the token in the path.
const TOKEN: &str = "upload_token";

/// `GET P/upload`.
pub async fn url(gateway: &Gateway, call: Call) -> Answer {
    let place = free_place(gateway, &call).await?;
    let path = upload_path(gateway, &call, &place).await?;
    Ok(private(&json!({ "upload_path": path })))
}

/// `GET P/upload/direct`: the same, with something to call behind it. The upload itself decides; the call is answered.
pub async fn direct(gateway: &Gateway, call: Call) -> Answer {
    let place = free_place(gateway, &call).await?;
    let path = upload_path(gateway, &call, &place).await?;
    let base = gateway.base_url(&call.facts);
    let prefix = &gateway.settings.doors.vagrant_cloud.prefix;
    let version = if call.row.path.starts_with("/api/v2/") {
        "v2"
    } else {
        "v1"
    };
    let callback = format!(
        "{base}{prefix}/api/{version}/box/{}/version/{}/provider/{}/{}/upload/complete",
        tag(&place.tree),
        place.version.row.name,
        place.provider.row.name,
        place.architecture.row.name
    );
    Ok(private(
        &json!({ "upload_path": path, "callback": callback }),
    ))
}

/// `PUT P/upload/complete`: whether the box is there.
pub async fn complete(gateway: &Gateway, call: Call) -> Answer {
    let place = place_of(gateway, &call).await?;
    if place.architecture.file.is_none() {
        return Err(Refusal::invalid(
            "No box was uploaded: PUT it to 'upload_path' first.",
        ));
    }
    Ok(response::json(StatusCode::OK, &json!({ "success": true })))
}

fn private(document: &Value) -> http::Response<crate::server::OutboundBody> {
    let mut response = response::json(StatusCode::OK, document);
    let nobody = http::HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, nobody);
    response
}

async fn free_place(gateway: &Gateway, call: &Call) -> Result<Place, Refusal> {
    let place = place_of(gateway, call).await?;
    let is_stored = place.architecture.file.is_some();
    refuse_to_replace(gateway, place.version.row.status, is_stored)?;
    Ok(place)
}

/// Refuses another box where a released version has one, if that is not to be.
///
/// # Errors
/// 422, which ends the connection.
pub fn refuse_to_replace(
    gateway: &Gateway,
    status: VersionStatus,
    is_stored: bool,
) -> Result<(), Refusal> {
    let is_taken = is_stored && status == VersionStatus::Active;
    if !is_taken || gateway.settings.vagrant_cloud.republish {
        return Ok(());
    }
    let text = "This version is released and has this box already; here that is not replaced \
                (vagrant_cloud.republish). Publish another version.";
    Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, text)
        .code("CONFLICT")
        .closing())
}

async fn upload_path(gateway: &Gateway, call: &Call, place: &Place) -> Result<String, Refusal> {
    let claim = UploadClaim {
        into: place.architecture.row.id,
        by: call.principal()?.token.id,
    };
    let now = gateway.clock.now();
    let expires = now.plus(gateway.settings.vagrant_cloud.upload_ttl);
    let keys = gateway.link_keys.current(&gateway.metadata, now).await?;
    let token = keys.sign_upload(claim, expires).ok_or_else(|| {
        let none = "another node revoked all keys of links, and no other is there yet";
        Error::new(ErrorKind::Internal, "upload.sign", tag(&place.tree)).with_source(none)
    })?;
    let base = match &gateway.settings.uploads.public_url {
        Some(url) => url.clone(),
        None => gateway.base_url(&call.facts),
    };
    let prefix = &gateway.settings.doors.vagrant_cloud.prefix;
    Ok(format!("{base}{prefix}/uploads/{token}"))
}

/// The one answer for a URL of an upload that is none, or is none any more.
fn no_such_url() -> Refusal {
    Refusal::new(
        StatusCode::NOT_FOUND,
        "This URL of an upload does not exist or has ended. Ask for a new one.",
    )
    .code("NOT_FOUND")
    .closing()
}

async fn claim(gateway: &Gateway, names: &PathNames) -> Result<UploadClaim, Refusal> {
    let now = gateway.clock.now();
    let keys = gateway.link_keys.current(&gateway.metadata, now).await?;
    keys.verify_upload(names.value(TOKEN), now)
        .ok_or_else(no_such_url)
}

/// On whose behalf a URL of an upload is used: of the token that asked for it, as it is now.
///
/// # Errors
/// 404 for a URL that is none, has expired, or whose token ended.
pub async fn sender(gateway: &Gateway, names: &PathNames) -> Result<Principal, Refusal> {
    let claim = claim(gateway, names).await?;
    let principal = auth::authenticate_id(&gateway.metadata, claim.by).await?;
    principal.ok_or_else(no_such_url)
}

/// `PUT /uploads/{token}`.
pub async fn receive(gateway: &Gateway, mut call: Call) -> Answer {
    let claim = claim(gateway, &call.names).await?;
    let slot = gateway.metadata.slot(claim.into).await?;
    let slot = slot.ok_or_else(no_such_url)?;
    let principal = call.principal()?;
    let publisher = principal.clone();
    let what = auth::Becomes::Box(slot.row.name.as_str());
    auth::may_publish(&gateway.metadata, publisher, slot.row.organization, what)
        .await
        .map_err(Refusal::closing)?;
    refuse_to_replace(gateway, slot.version.status, slot.is_stored)?;
    let headers = &call.head.headers;
    upload::assert_uncoded(headers)?;
    let length = content_length(headers);
    if length.is_none() && !headers.contains_key(TRANSFER_ENCODING) {
        return Err(Refusal::invalid(
            "The upload needs Content-Length or Transfer-Encoding: chunked.",
        ));
    }
    if length == Some(0) {
        return Err(Refusal::empty_box());
    }
    if headers.contains_key(header::CONTENT_RANGE) {
        return Err(Refusal::invalid(
            "An upload to this URL is whole: it takes no Content-Range. Nothing was published.",
        )
        .closing());
    }
    let order = UploadOrder {
        iso: None,
        organization: slot.row.organization,
        sender: principal.sender(),
        actor: principal.name().to_owned(),
        base_url: gateway.base_url(&call.facts),
        expected: Vec::from_iter(expected(&slot)?),
        length,
        keep: Keep::No,
        into: Some(claim.into),
        meant: meant(gateway, &slot),
        file: slot.name,
    };
    call.head.extensions.insert(ByTokenOf(claim.by));
    let body = Carrier::Raw(call.body);
    let done = upload::upload(gateway, order, body, &call.head, &call.facts).await?;
    let blob = &done.published.blob;
    let checksum = blob.checksum();
    let mut document = json!({
        "success": true, "size": blob.length, "checksum": checksum.to_hex(),
        "checksum_type": checksum.algorithm().name(), "blake3": blob.blake3.to_hex(),
    });
    if !done.warnings.is_empty() {
        document["warnings"] = done.warnings.into();
    }
    Ok(response::json(StatusCode::OK, &document))
}

/// The checksum that was told of the box before.
fn expected(slot: &Slot) -> Result<Option<Digest>, Refusal> {
    let Some((kind, value)) = &slot.architecture.announced.checksum else {
        return Ok(None);
    };
    let digest = Algorithm::from_name(kind).and_then(|kind| Digest::from_hex(kind, value));
    let odd = || Error::new(ErrorKind::Internal, "upload.expect", slot.name.to_string());
    Ok(Some(digest.ok_or_else(odd)?))
}

fn meant(gateway: &Gateway, slot: &Slot) -> Option<Meant> {
    let settings = &gateway.settings.vagrant_cloud;
    let architecture = slot.name.architecture.to_string();
    (settings.inspect != Inspect::Never).then(|| Meant {
        provider: slot.name.provider.to_string(),
        // Clients that name none leave it open.
        architecture: (architecture != "unknown").then_some(architecture),
        refuse: settings.inspect == Inspect::Refuse,
        most_inflated: settings.inspect_bytes,
    })
}
