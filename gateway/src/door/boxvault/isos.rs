//! ISO images: listing, reading, changing, links, download. How they come in is in `upload.rs` and `chunks.rs`, as for
//! box files; here is what an ISO image is named there.

use boxgate_storage::blob::BlobMeta;
use boxgate_storage::catalog::{BoxRef, IsoName, OrganizationName};
use boxgate_storage::metadata::catalog::{Iso, IsoChange, IsoFilter};
use boxgate_storage::metadata::uploads::IsoTarget;
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::boxes::given;
use super::files::{bad_link, by_link, no_key_of_links, no_store};
use super::organizations::taken;
use super::upload::Goal;
use super::{message, shape};
use crate::auth::{self, Principal};
use crate::call::Call;
use crate::gateway::Gateway;
use crate::handler::download::{self, Download};
use crate::http::response;
use crate::refusal::Refusal;
use crate::route::PathNames;
use crate::server::OutboundBody;

type Answer = Result<Response<OutboundBody>, Refusal>;

/// What an upload of an ISO image becomes: its name is in `x-file-name`, or in the query where there is no body.
///
/// # Errors
/// 400 with what is missing or broken.
pub(super) fn goal(call: &Call) -> Result<Goal, Refusal> {
    let header = |name| {
        call.head
            .headers
            .get(name)
            .map(|v| v.to_str().unwrap_or("?"))
    };
    let name = header("x-file-name").map(str::to_owned);
    let Some(name) = name.or_else(|| call.query("name")) else {
        return Err(Refusal::invalid(
            "The ISO image needs a name: send it in the header x-file-name.",
        )
        .closing());
    };
    let name: IsoName = name.parse().map_err(Refusal::name)?;
    let public = match header("x-is-public") {
        None | Some("") => None,
        Some("true") => Some(true),
        Some("false") => Some(false),
        Some(_) => {
            return Err(Refusal::invalid("x-is-public must be true or false.").closing());
        }
    };
    Ok(Goal {
        file: BoxRef::of_iso(call.name("org")?, &name),
        iso: Some(IsoTarget { public }),
    })
}

/// The row of what was just published, with those bytes: another upload may have replaced them since.
///
/// # Errors
/// 404 where it is gone again.
pub(super) async fn published(
    gateway: &Gateway,
    file: &BoxRef,
    bytes: Option<&BlobMeta>,
) -> Result<Value, Refusal> {
    let name: IsoName = file.name.as_str().parse().map_err(Refusal::name)?;
    let found = gateway
        .metadata
        .iso_by_name(&file.organization, &name)
        .await?;
    let mut iso = found.ok_or_else(auth::no_iso)?;
    if let Some(bytes) = bytes {
        iso.blob = *bytes;
    }
    Ok(shape::without_unset(shape::iso(&iso)))
}

/// 201 with that row.
pub(super) fn created(row: Value, warnings: &[String]) -> Response<OutboundBody> {
    let row = if warnings.is_empty() {
        row
    } else {
        shape::with(row, json!({ "warnings": warnings }))
    };
    response::json(StatusCode::CREATED, &row)
}

/// `GET /api/organization/{org}/iso`.
pub async fn list(gateway: &Gateway, call: Call) -> Answer {
    let filter = IsoFilter::Organization(call.organization()?.id);
    let isos = gateway.metadata.isos(filter).await?;
    Ok(listed(isos.iter().map(shape::iso)))
}

/// `GET /api/organization/{org}/public-isos`.
pub async fn public(gateway: &Gateway, call: Call) -> Answer {
    let name: OrganizationName = call.name("org")?;
    let Some(organization) = gateway.metadata.organization(&name).await? else {
        return Err(Refusal::missing("Organization", name.as_str()));
    };
    let filter = IsoFilter::PublicOf(organization.id);
    let isos = gateway.metadata.isos(filter).await?;
    Ok(listed(isos.iter().map(with_organization)))
}

/// `GET /api/isos/discover`.
pub async fn discover(gateway: &Gateway, _call: Call) -> Answer {
    let isos = gateway.metadata.isos(IsoFilter::Public).await?;
    Ok(listed(isos.iter().map(with_organization)))
}

fn listed(rows: impl Iterator<Item = Value>) -> Response<OutboundBody> {
    response::json(StatusCode::OK, &Value::Array(rows.collect()))
}

fn with_organization(iso: &Iso) -> Value {
    let name = iso.organization_name.as_str();
    let organization = json!({ "id": iso.organization.0, "name": name });
    shape::with(shape::iso(iso), json!({ "organization": organization }))
}

/// `GET /api/organization/{org}/iso/{iso}`.
pub async fn show(gateway: &Gateway, call: Call) -> Answer {
    let iso = existing(gateway, &call).await?;
    Ok(response::json(StatusCode::OK, &shape::iso(&iso)))
}

// A field that is absent stays as it is; one that is `null` is unset.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Asked {
    name: Option<String>,
    #[serde(deserialize_with = "given")]
    description: Option<Option<String>>,
    #[serde(alias = "is_public")]
    is_public: Option<bool>,
}

/// `PUT /api/organization/{org}/iso/{iso}`.
pub async fn update(gateway: &Gateway, mut call: Call) -> Answer {
    let asked: Asked = call.json(&gateway.settings.limits).await?;
    let iso = existing(gateway, &call).await?;
    let name = asked.name.as_deref().map(str::parse::<IsoName>);
    let name = name.transpose().map_err(Refusal::name)?;
    let told = name.as_ref().unwrap_or(&iso.name).to_string();
    let change = IsoChange {
        name,
        description: asked.description,
        public: asked.is_public,
    };
    let actor = call.principal()?.name();
    let changed = gateway.metadata.update_iso(iso.id, change, actor).await;
    let changed = changed.map_err(|e| taken(e, "ISO", &told))?;
    Ok(response::json(StatusCode::OK, &shape::iso(&changed)))
}

/// `DELETE /api/organization/{org}/iso/{iso}`.
pub async fn delete(gateway: &Gateway, call: Call) -> Answer {
    let iso = existing(gateway, &call).await?;
    let actor = call.principal()?.name();
    if !gateway.metadata.delete_iso(iso.id, actor).await? {
        return Err(auth::no_iso());
    }
    let text = message("ISO deleted successfully.");
    Ok(response::json(StatusCode::OK, &text))
}

/// `POST /api/organization/{org}/iso/{iso}/download-link`: a path below the gateway's own address.
pub async fn link(gateway: &Gateway, call: Call) -> Answer {
    let iso = existing(gateway, &call).await?;
    let now = gateway.clock.now();
    let expires = now.plus(gateway.settings.auth.download_link_ttl);
    let keys = gateway.link_keys.current(&gateway.metadata, now).await?;
    let token = keys.sign_iso(iso.id, call.principal()?.account.id, expires);
    let token = token.ok_or_else(|| no_key_of_links(format!("ISO {}", iso.id.0)))?;
    let (prefix, organization) = (
        &gateway.settings.doors.boxvault.prefix,
        &iso.organization_name,
    );
    let id = iso.id.0;
    let url = format!("{prefix}/api/organization/{organization}/iso/{id}/download?token={token}");
    Ok(no_store(response::json(
        StatusCode::OK,
        &json!({ "downloadUrl": url }),
    )))
}

/// On whose behalf a link to the ISO image in the path is.
///
/// # Errors
/// 403 for a token that is none of ours, expired, or for another one.
pub async fn link_reader(
    gateway: &Gateway,
    token: &str,
    names: &PathNames,
) -> Result<Option<Principal>, Refusal> {
    let now = gateway.clock.now();
    let keys = gateway.link_keys.current(&gateway.metadata, now).await?;
    let iso = auth::iso_of(&gateway.metadata, names).await?;
    let account = iso.and_then(|iso| keys.verify_iso(token, iso.id, now));
    let account = account.ok_or_else(bad_link)?;
    auth::on_behalf_of(&gateway.metadata, account).await
}

/// `GET /api/organization/{org}/iso/{iso}/download`, and by name.
pub async fn download(gateway: &Gateway, call: Call) -> Answer {
    let is_linked = call.query("token").is_some();
    let iso = call.grant.iso.ok_or_else(auth::no_iso)?;
    let response = download::serve(gateway, &call.head, Download::of_iso(*iso)).await?;
    Ok(if is_linked {
        by_link(response)
    } else {
        response
    })
}

/// The ISO image whose id is in the path.
async fn existing(gateway: &Gateway, call: &Call) -> Result<Iso, Refusal> {
    let organization = &call.organization()?.name;
    let id = call.names.value("iso");
    let found = auth::iso_of_id(&gateway.metadata, organization, id).await?;
    found.ok_or_else(auth::no_iso)
}
