//! Uploads in progress, for those who administer the platform or an organization (reading takes nothing
//! over: whoever sends goes on undisturbed), and the keys of download links.

use boxgate_storage::blob::UploadId;
use boxgate_storage::catalog::OrganizationName;
use boxgate_storage::clock::UnixMillis;
use boxgate_storage::metadata::accounts::OrganizationId;
use boxgate_storage::metadata::tokens::KeyRow;
use boxgate_storage::metadata::uploads::{NamedUpload, UploadState};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::boxvault::shape;
use crate::auth::link_keys::{self, MOST_KEYS};
use crate::auth::{Principal, no_organization};
use crate::call::Call;
use crate::gateway::Gateway;
use crate::handler::resumable::{expires, state_of};
use crate::http::response;
use crate::refusal::Refusal;
use crate::route::PathNames;
use crate::server::OutboundBody;

type Answer = Result<Response<OutboundBody>, Refusal>;

/// Uploads on one page of a listing, at most.
const MAX_PAGE: u32 = 1000;

/// `GET /api/admin/uploads?organization=NAME&state=withheld&after=ID&limit=N`.
pub async fn list_uploads(gateway: &Gateway, call: Call) -> Answer {
    let organization = scope(gateway, &call).await?;
    let after = call.query("after").map(|text| text.parse::<UploadId>());
    let after = after
        .transpose()
        .map_err(|_e| Refusal::invalid("'after' must be the id of an upload."))?;
    let limit = call.query("limit").map(|text| text.parse::<u32>());
    let limit = limit
        .transpose()
        .map_err(|_e| Refusal::invalid("'limit' must be a number."))?
        .map_or(MAX_PAGE, |limit| limit.clamp(1, MAX_PAGE));
    let withheld = match call.query("state").as_deref() {
        None => false,
        Some("withheld") => true,
        Some(_) => return Err(Refusal::invalid("'state' can be withheld, or is left out.")),
    };
    let uploads = gateway
        .metadata
        .uploads_in_progress(organization, after, (limit, withheld))
        .await?;
    let documents: Vec<Value> = uploads.iter().map(|u| document(gateway, u)).collect();
    Ok(response::json(StatusCode::OK, &Value::Array(documents)))
}

/// Whose uploads are listed: one organization's that the caller administers, or everybody's.
async fn scope(gateway: &Gateway, call: &Call) -> Result<Option<OrganizationId>, Refusal> {
    let principal: &Principal = call.principal()?;
    if let Some(text) = call.query("organization") {
        let name: OrganizationName = text.parse().map_err(Refusal::name)?;
        let found = gateway.metadata.organization(&name).await?;
        let found = found.filter(|organization| principal.administers(organization.id));
        let absent = || no_organization(&PathNames::of([("org", text.clone())]));
        return found.map(|found| Some(found.id)).ok_or_else(absent);
    }
    if principal.is_platform_admin() {
        return Ok(None);
    }
    let memberships = principal.memberships.iter();
    let administered: Vec<_> = memberships
        .filter(|membership| principal.administers(membership.organization))
        .collect();
    match administered.as_slice() {
        [only] => Ok(Some(only.organization)),
        several => {
            let names: Vec<_> = several
                .iter()
                .map(|membership| membership.organization_name.as_str())
                .collect();
            Err(Refusal::invalid(format!(
                "You administer several organizations; say which: ?organization= one of {}.",
                names.join(", ")
            )))
        }
    }
}

/// `GET /api/admin/uploads/{upload}`, in whatever state it is.
pub fn show_upload(gateway: &Gateway, call: &Call) -> Answer {
    let upload = document(gateway, call.upload()?);
    Ok(response::json(StatusCode::OK, &upload))
}

/// `DELETE /api/admin/uploads/{upload}`: an upload in progress is given up with its bytes.
pub async fn abort_upload(gateway: &Gateway, call: &Call) -> Answer {
    let (upload, principal) = (call.upload()?, call.principal()?);
    let id = upload.row.id;
    call.facts.set_upload(id.to_string());
    if !gateway.engine.abort_by(id, principal.name()).await? {
        return Err(Refusal::new(
            StatusCode::CONFLICT,
            "This upload is not in progress any more. Nothing was changed.",
        )
        .code("NOT_IN_PROGRESS"));
    }
    tracing::info!(upload = %id, by = principal.name(), "upload given up by an administrator");
    Ok(response::empty(StatusCode::NO_CONTENT))
}

/// `POST /api/admin/uploads/{upload}/release`: a held or quarantined upload is published, whatever was said of it.
pub async fn release_upload(gateway: &Gateway, call: &Call) -> Answer {
    let (text, principal) = (call.names.value("upload"), call.principal()?);
    let found = match text.parse::<UploadId>() {
        Ok(id) => gateway.metadata.named_upload(id).await?,
        Err(_malformed) => None,
    };
    let found = found.ok_or_else(|| Refusal::missing("Upload", text))?;
    let id = found.row.id;
    call.facts.set_upload(id.to_string());
    if !gateway.engine.let_through(id, principal.name()).await? {
        return Err(Refusal::new(
            StatusCode::CONFLICT,
            "This upload is neither held nor quarantined. Nothing was changed.",
        )
        .code("NOT_HELD"));
    }
    tracing::info!(upload = %id, by = principal.name(), "upload let through by an administrator");
    let row = gateway.metadata.named_upload(id).await?.unwrap_or(found);
    Ok(response::json(StatusCode::OK, &document(gateway, &row)))
}

/// `GET /api/admin/link-keys`, the revoked ones too; never a secret.
pub async fn list_link_keys(gateway: &Gateway) -> Answer {
    let keys = gateway.metadata.keys(link_keys::PURPOSE).await?;
    let documents: Vec<Value> = keys.iter().map(link_key).collect();
    Ok(response::json(StatusCode::OK, &Value::Array(documents)))
}

/// `POST /api/admin/link-keys`.
pub async fn rotate_link_key(gateway: &Gateway, call: &Call) -> Answer {
    let (now, by) = (gateway.clock.now(), call.principal()?.name());
    let made = gateway.link_keys.rotate(&gateway.metadata, by, now).await?;
    let made = made.ok_or_else(|| {
        let text = format!("{MOST_KEYS} keys are in use; revoke those that sign no living link.");
        Refusal::new(StatusCode::CONFLICT, text).code("TOO_MANY_KEYS")
    })?;
    tracing::info!(key = made.id, by, "a new key signs download links");
    Ok(response::json(StatusCode::CREATED, &link_key(&made)))
}

/// `DELETE /api/admin/link-keys/{key}`.
pub async fn revoke_link_key(gateway: &Gateway, call: &Call) -> Answer {
    let (now, by) = (gateway.clock.now(), call.principal()?.name());
    let key = call.names.value("key").parse().ok();
    let revoked = match key {
        Some(key) => {
            let keys = &gateway.link_keys;
            keys.revoke(&gateway.metadata, key, by, now).await?
        }
        None => false,
    };
    if !revoked {
        return Err(Refusal::missing("Key", call.names.value("key")));
    }
    tracing::info!(key, by, "the links of a key are ended");
    Ok(response::empty(StatusCode::NO_CONTENT))
}

fn link_key(key: &KeyRow) -> Value {
    json!({
        "id": key.id, "createdAt": shape::time(key.created), "revokedAt": key.retired.map(shape::time),
    })
}

fn document(gateway: &Gateway, upload: &NamedUpload) -> Value {
    let (row, now) = (&upload.row, gateway.clock.now());
    let target = row.target.as_ref().map(shape::target);
    // A service account acts under a name of its own.
    let actor = row.sender.service.as_deref().or(upload.username.as_deref());
    let millis = millis_between(row.created, row.updated);
    let rate = u128::from(row.offset) * 1000 / u128::from(millis.max(1));
    let rate = (row.offset > 0).then(|| u64::try_from(rate).unwrap_or(u64::MAX));
    let document = json!({
        "id": row.id.to_string(), "state": state_of(row),
        "owner": { "id": row.sender.account.0, "username": upload.username, "actor": actor },
        "organization": {
            "id": row.organization.0, "name": upload.organization.as_ref().map(OrganizationName::as_str),
        },
        "target": target, "offset": row.offset, "length": row.length,
        "busy": gateway.engine.is_busy(row.id),
        "ageSeconds": millis_between(row.created, now) / 1000,
        "idleSeconds": millis_between(row.updated, now) / 1000,
        // Over its whole life, rests included: no shorter one is known.
        "meanBytesPerSecond": rate,
        "createdAt": shape::time(row.created), "updatedAt": shape::time(row.updated),
        "expiresAt": expires(row, &gateway.settings.uploads).map(shape::time),
    });
    let Some(gating) = row.gate.as_ref().filter(|_| row.state != UploadState::Done) else {
        return document;
    };
    // Administrators read the text of a failure, too.
    let said = json!({
        "reason": gating.why, "failedTries": gating.tries,
        "askedAgainAt": gating.due.map(shape::time),
    });
    shape::with(document, said)
}

fn millis_between(from: UnixMillis, to: UnixMillis) -> u64 {
    u64::try_from(to.0.saturating_sub(from.0)).unwrap_or(0)
}
