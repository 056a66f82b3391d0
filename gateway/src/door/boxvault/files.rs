//! Box files: info, links, download, deletion. How they come in is in `upload.rs`.

use boxgate_storage::ErrorKind;
use boxgate_storage::clock::UnixMillis;
use boxgate_storage::metadata::catalog::{FileRow, ResolvedFile, VersionStatus};
use http::header::{CACHE_CONTROL, REFERRER_POLICY};
use http::{HeaderValue, Response, StatusCode};
use serde_json::json;

use super::{levels, message, shape};
use crate::auth::{self, Principal};
use crate::call::Call;
use crate::gateway::Gateway;
use crate::handler::download::{self, Download};
use crate::http::freshness::Freshness;
use crate::http::response;
use crate::refusal::Refusal;
use crate::server::OutboundBody;

type Answer = Result<Response<OutboundBody>, Refusal>;

/// `GET F/info`.
pub async fn info(gateway: &Gateway, call: Call) -> Answer {
    let file = stored(gateway, &call).await?;
    let (checksum, kind) = shape::checksum(&file);
    let url = link(gateway, &call, call.grant.principal.as_ref()).await?;
    let body = json!({
        "fileName": "vagrant.box", "downloadUrl": url, "downloadCount": file.downloads,
        "checksum": checksum, "checksumType": kind, "fileSize": file.blob.length,
        "blake3": file.blob.blake3.to_hex(), "sha256": shape::sha256(&file.blob),
    });
    let body = shape::labelled(body, &file);
    Ok(no_store(response::json(StatusCode::OK, &body)))
}

/// `POST F/get-download-link`; it does not check that a file exists.
pub async fn get_link(gateway: &Gateway, call: &Call) -> Answer {
    let url = link(gateway, call, call.grant.principal.as_ref()).await?;
    Ok(no_store(response::json(
        StatusCode::OK,
        &json!({ "downloadUrl": url }),
    )))
}

/// A download link to the file that the path names, which stands for the caller.
pub(in crate::door) async fn link(
    gateway: &Gateway,
    call: &Call,
    principal: Option<&Principal>,
) -> Result<String, Refusal> {
    let file = call.box_ref()?;
    let now = gateway.clock.now();
    let expires = now.plus(gateway.settings.auth.download_link_ttl);
    let keys = gateway.link_keys.current(&gateway.metadata, now).await?;
    let token = keys.sign(&file, principal.map(|p| p.account.id), expires);
    let token = token.ok_or_else(|| no_key_of_links(file.to_string()))?;
    Ok(format!(
        "{}{}/api/organization/{}/box/{}/version/{}/provider/{}/architecture/{}/file/download?token={token}",
        gateway.base_url(&call.facts),
        gateway.settings.doors.boxvault.prefix,
        file.organization,
        file.name,
        file.version,
        file.provider,
        file.architecture
    ))
}

/// What a link cannot be signed with.
pub(super) fn no_key_of_links(subject: String) -> Refusal {
    let none = "another node revoked all keys of links, and no other is there yet";
    boxgate_storage::Error::new(ErrorKind::Internal, "link.sign", subject)
        .with_source(none)
        .into()
}

/// A link that is none of ours, expired, or to something else.
pub(super) fn bad_link() -> Refusal {
    Refusal::new(
        StatusCode::FORBIDDEN,
        "This download link is not valid, has expired or was revoked. Ask for a new one.",
    )
    .code("TOKEN_INVALID")
}

/// The answer to who came by a link: it names the link to nobody.
pub(super) fn by_link(mut response: Response<OutboundBody>) -> Response<OutboundBody> {
    response
        .headers_mut()
        .insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

// A link is a bearer's right: no cache keeps it.
pub(super) fn no_store(mut response: Response<OutboundBody>) -> Response<OutboundBody> {
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// `GET F/download`.
pub async fn download(gateway: &Gateway, call: Call) -> Answer {
    let file = call.box_ref()?;
    let resolved = gateway.metadata.resolve_file(&file).await?;
    let resolved = resolved.filter(|found| shown(&call, found));
    let resolved = resolved.ok_or_else(|| Refusal::missing("File", &file.to_string()))?;
    let is_released = resolved.version.status == VersionStatus::Active;
    let is_linked = call.query("token").is_some();
    let freshness = if resolved.row.fields.public && is_released && !is_linked {
        Freshness::PublicName
    } else {
        Freshness::Private
    };
    // Who came by a link has no credential for another URL.
    let location = if is_linked {
        None
    } else {
        gateway.blob_path(&resolved.file.blob.blake3)
    };
    let download = Download {
        location,
        ..Download::of_file(&file, resolved, freshness)
    };
    let response = download::serve(gateway, &call.head, download).await?;
    Ok(if is_linked {
        by_link(response)
    } else {
        response
    })
}

/// Whether `?token=` is a link to this file whose maker may still read it. It stands for a credential
/// on the download route only.
///
/// # Errors
/// 403 for a token that is none of ours, expired, or for another file.
pub async fn link_reader(
    gateway: &Gateway,
    token: &str,
    file: &boxgate_storage::catalog::BoxRef,
    now: UnixMillis,
) -> Result<Option<Principal>, Refusal> {
    let keys = gateway.link_keys.current(&gateway.metadata, now).await?;
    let claim = keys.verify(token, file, now).ok_or_else(bad_link)?;
    match claim.account {
        None => Ok(None),
        Some(account) => auth::on_behalf_of(&gateway.metadata, account).await,
    }
}

/// `DELETE F/delete`: 200 even if there was nothing.
pub async fn delete(gateway: &Gateway, call: Call) -> Answer {
    let architecture = levels::architecture_of(gateway, &call).await?;
    gateway
        .metadata
        .delete_file(architecture.row.id, call.principal()?.name())
        .await?;
    Ok(response::json(
        StatusCode::OK,
        &message("File deleted successfully."),
    ))
}

/// Whether the caller may know of it.
fn shown(call: &Call, found: &ResolvedFile) -> bool {
    let principal = call.grant.principal.as_ref();
    auth::sees(principal, found.row.organization, &found.version)
}

async fn stored(gateway: &Gateway, call: &Call) -> Result<FileRow, Refusal> {
    let name = call.box_ref()?;
    let found: Option<ResolvedFile> = gateway.metadata.read_file(&name).await?;
    found
        .filter(|found| shown(call, found))
        .map(|f| f.file)
        .ok_or_else(|| Refusal::missing("File", &name.to_string()))
}
