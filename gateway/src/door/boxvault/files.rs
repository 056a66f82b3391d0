//! Box files: upload by the guide's route and by the real ones, info, links, download, deletion.

use boxgate_storage::clock::UnixMillis;
use boxgate_storage::metadata::catalog::{FileRow, ResolvedFile};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, TRANSFER_ENCODING};
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use serde_json::json;

use super::{levels, message, shape};
use crate::auth::{self, Principal};
use crate::call::Call;
use crate::gateway::Gateway;
use crate::handler::download::{self, Freshness};
use crate::handler::upload::{self, Carrier, UploadOrder};
use crate::http::headers::{MediaType, content_length};
use crate::http::range::ContentRange;
use crate::http::response;
use crate::refusal::Refusal;
use crate::server::OutboundBody;

type Answer = Result<Response<OutboundBody>, Refusal>;

/// `POST F`, `POST F/upload`, `PUT F/upload`.
pub async fn upload(gateway: &Gateway, call: Call) -> Answer {
    let file = call.box_ref()?;
    let organization = call.organization()?;
    let principal = call.principal()?;
    let headers = &call.head.headers;
    let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    if headers.contains_key("x-chunk-index") || headers.contains_key("x-total-chunks") {
        return Err(Refusal::invalid(
            "Uploads in x-chunk pieces are not taken; send the whole file in one request.",
        )
        .closing());
    }
    let length = content_length(headers);
    if length.is_none() && !headers.contains_key(TRANSFER_ENCODING) {
        return Err(Refusal::invalid("The upload needs Content-Length or Transfer-Encoding: chunked."));
    }
    if length == Some(0) {
        return Err(Refusal::invalid("The file is empty. Nothing was published."));
    }
    let carrier = carrier(header(CONTENT_TYPE.as_str()))?;
    refuse_too_large(gateway, &carrier, length)?;
    let range = ContentRange::parse(headers).map_err(|rule| Refusal::invalid(rule).closing())?;
    if let Some(range) = range {
        whole_range(range, length)?;
    }
    let declared = upload::declared(header("x-checksum"), header("x-checksum-type"))?;
    let order = UploadOrder {
        organization: organization.id,
        account: principal.account.id,
        actor: principal.name().to_owned(),
        base_url: gateway.base_url(&call.facts),
        declared,
        length,
        file: file.clone(),
    };
    let replaced = call.head.method == Method::PUT;
    let done = upload::upload(gateway, order, carrier, call.body, &call.facts).await?;
    let mut warnings = done.warnings;
    warnings.extend(levels::version_warning(&file.version));
    let blob = done.published.blob;
    let mut body = json!({
        "message": if replaced { "File updated successfully" } else { "File upload completed" },
        "details": {
            "isComplete": true, "status": "complete", "fileSize": blob.length,
            "blake3": blob.blake3.to_hex(), "sha256": blob.sha256.to_hex(),
        },
    });
    if !warnings.is_empty() {
        body = shape::with(body, json!({ "warnings": warnings }));
    }
    Ok(response::json(StatusCode::OK, &body))
}

// `multipart/form-data` decides: with it the body is parsed, with anything else it is the box.
fn carrier(content_type: Option<&str>) -> Result<Carrier, Refusal> {
    let Some(media) = content_type.and_then(MediaType::parse) else { return Ok(Carrier::Raw) };
    if media.essence() != "multipart/form-data" {
        return Ok(Carrier::Raw);
    }
    let boundary = media.parameter("boundary").filter(|b| !b.is_empty() && b.len() <= 70);
    // RFC 2046 §5.1.1: 1 to 70 characters.
    let boundary = boundary.ok_or_else(|| {
        Refusal::invalid("Content-Type multipart/form-data needs a boundary of 1 to 70 characters.")
    })?;
    Ok(Carrier::Form { boundary: boundary.to_owned() })
}

// Refused from the declared length, before a byte of the body is asked for.
fn refuse_too_large(
    gateway: &Gateway,
    carrier: &Carrier,
    length: Option<u64>,
) -> Result<(), Refusal> {
    let limit = gateway.settings.uploads.max_length_bytes;
    // A form is longer than its file by its envelope, and by a third in base64; the file itself is
    // counted as it comes.
    let slack = match carrier {
        Carrier::Raw => 0,
        Carrier::Form { .. } => limit / 2,
    };
    match length {
        Some(length) if length > limit.saturating_add(slack) => Err(too_large(length, limit)),
        _ => Ok(()),
    }
}

#[expect(clippy::cast_precision_loss, reason = "gigabytes for people")]
fn too_large(length: u64, limit: u64) -> Refusal {
    let gb = |bytes: u64| (bytes as f64 / f64::from(1 << 30) * 100.0).round() / 100.0;
    Refusal::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("The file has {length} bytes; this server takes {limit} (uploads.max_length)."),
    )
    .code("FILE_TOO_LARGE")
    .details(json!({
        "fileSize": length, "maxFileSize": limit, "fileSizeGB": gb(length), "maxFileSizeGB": gb(limit),
    }))
    .closing()
}

// A range that spans the whole file is a whole upload. Anything else would continue an upload, and
// none is open: uploads that were cut are given up.
fn whole_range(range: ContentRange, length: Option<u64>) -> Result<(), Refusal> {
    if length.is_some_and(|l| l != range.range.length()) {
        return Err(Refusal::invalid("Content-Range and Content-Length disagree.").closing());
    }
    if range.range.start() == 0 && Some(range.range.end()) == range.length {
        return Ok(());
    }
    Err(Refusal::new(
        StatusCode::CONFLICT,
        "No upload of this file is open, so its next byte is 0. Send the whole file from byte 0.",
    )
    .code("OFFSET_MISMATCH")
    .header(HeaderName::from_static("upload-offset"), HeaderValue::from_static("0"))
    .closing())
}

/// `GET F/info`.
pub async fn info(gateway: &Gateway, call: Call) -> Answer {
    let file = stored(gateway, &call).await?;
    let (checksum, kind) = shape::checksum(&file);
    let url = link(gateway, &call, call.grant.principal.as_ref())?;
    let body = json!({
        "fileName": "vagrant.box", "downloadUrl": url, "downloadCount": file.downloads,
        "checksum": checksum, "checksumType": kind, "fileSize": file.blob.length,
        "blake3": file.blob.blake3.to_hex(), "sha256": file.blob.sha256.to_hex(),
    });
    Ok(no_store(response::json(StatusCode::OK, &body)))
}

/// `POST F/get-download-link`; it does not check that a file exists.
pub fn get_link(gateway: &Gateway, call: &Call) -> Answer {
    let url = link(gateway, call, call.grant.principal.as_ref())?;
    Ok(no_store(response::json(StatusCode::OK, &json!({ "downloadUrl": url }))))
}

fn link(gateway: &Gateway, call: &Call, principal: Option<&Principal>) -> Result<String, Refusal> {
    let file = call.box_ref()?;
    let expires = gateway.clock.now().plus(gateway.settings.auth.download_link_ttl);
    let token = gateway.links.sign(&file, principal.map(|p| p.account.id), expires);
    Ok(format!(
        "{}{}/api/organization/{}/box/{}/version/{}/provider/{}/architecture/{}/file/download?token={token}",
        gateway.base_url(&call.facts),
        gateway.settings.doors.boxvault.prefix,
        file.organization, file.name, file.version, file.provider, file.architecture
    ))
}

// A link is a bearer's right: no cache keeps it.
fn no_store(mut response: Response<OutboundBody>) -> Response<OutboundBody> {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// `GET F/download`.
pub async fn download(gateway: &Gateway, call: Call) -> Answer {
    let file = call.box_ref()?;
    let resolved = gateway.metadata.resolve_file(&file).await?;
    let resolved = resolved.ok_or_else(|| Refusal::missing("File", &file.to_string()))?;
    let freshness = if resolved.row.fields.public && call.query("token").is_none() {
        Freshness::PublicName
    } else {
        Freshness::Private
    };
    download::serve(gateway, &call.head, resolved, freshness).await
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
    let claim = gateway.links.verify(token, file, now).ok_or_else(|| {
        Refusal::new(StatusCode::FORBIDDEN, "This download link is not valid or has expired. Ask for a new one.")
            .code("TOKEN_INVALID")
    })?;
    match claim.account {
        None => Ok(None),
        Some(account) => auth::on_behalf_of(&gateway.metadata, account).await,
    }
}

/// `DELETE F/delete`: 200 even if there was nothing.
pub async fn delete(gateway: &Gateway, call: Call) -> Answer {
    let architecture = levels::architecture_of(gateway, &call).await?;
    gateway.metadata.delete_file(architecture.row.id, call.principal()?.name()).await?;
    Ok(response::json(StatusCode::OK, &message("File deleted successfully.")))
}

async fn stored(gateway: &Gateway, call: &Call) -> Result<FileRow, Refusal> {
    let name = call.box_ref()?;
    let found: Option<ResolvedFile> = gateway.metadata.resolve_file(&name).await?;
    found.map(|f| f.file).ok_or_else(|| Refusal::missing("File", &name.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_range_that_spans_the_file_is_an_upload() {
        let checked = |text: &str, length| {
            let mut headers = http::HeaderMap::new();
            headers.insert(http::header::CONTENT_RANGE, text.parse().unwrap());
            whole_range(ContentRange::parse(&headers).unwrap().unwrap(), length)
        };
        assert!(checked("bytes 0-9/10", Some(10)).is_ok());
        let status = |text: &str, length| checked(text, length).unwrap_err().status.as_u16();
        assert_eq!(status("bytes 5-9/10", Some(5)), 409);
        assert_eq!(status("bytes 0-4/10", Some(5)), 409);
        assert_eq!(status("bytes 0-9/10", Some(11)), 400);
    }

    #[test]
    fn a_quoted_boundary_is_unquoted_and_other_types_are_raw() {
        assert_eq!(
            carrier(Some("multipart/form-data; boundary=\"===1==\"")).unwrap(),
            Carrier::Form { boundary: "===1==".into() }
        );
        for raw in [None, Some("application/octet-stream"), Some("nonsense")] {
            assert_eq!(carrier(raw).unwrap(), Carrier::Raw);
        }
        for bad in ["multipart/form-data", "multipart/form-data; boundary=\"\""] {
            assert_eq!(carrier(Some(bad)).unwrap_err().status.as_u16(), 400, "{bad}");
        }
    }
}
