//! Organizations and who belongs to them.

use boxgate_storage::catalog::OrganizationName;
use boxgate_storage::metadata::accounts::{
    AccountId, Organization, OrganizationChange, OrganizationRole,
};
use boxgate_storage::metadata::catalog::BoxFilter;
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{message, shape};
use crate::call::Call;
use crate::gateway::Gateway;
use crate::http::response;
use crate::refusal::Refusal;
use crate::server::OutboundBody;

type Answer = Result<Response<OutboundBody>, Refusal>;

#[derive(Deserialize)]
struct Create {
    organization: Option<String>,
    name: Option<String>,
    description: Option<String>,
}

#[derive(Deserialize)]
struct Update {
    organization: Option<String>,
    name: Option<String>,
    description: Option<String>,
    email: Option<String>,
    org_code: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AccessMode {
    access_mode: String,
    default_role: Option<String>,
}

#[derive(Deserialize)]
struct SetMember {
    role: Option<String>,
}

/// A name for an organization that no route would shadow.
///
/// # Errors
/// 400 with the rule that it breaks.
pub fn free_name(gateway: &Gateway, text: &str) -> Result<OrganizationName, Refusal> {
    let name: OrganizationName = text.parse().map_err(Refusal::name)?;
    if gateway.router.is_reserved(name.as_str()) {
        return Err(Refusal::invalid(format!(
            "organization {text:?} is reserved: it is the first word of a route. Choose another name."
        )));
    }
    Ok(name)
}

/// `POST /api/organization`; the field is `organization` in the code and `name` in the docs.
pub async fn create(gateway: &Gateway, mut call: Call) -> Answer {
    let asked: Create = call.json(&gateway.settings.limits).await?;
    let Some(text) = asked.organization.or(asked.name) else {
        return Err(Refusal::invalid(
            "'organization' is required: the name of the new organization.",
        ));
    };
    let name = free_name(gateway, &text)?;
    let owner = call.principal()?.account.id;
    let made = gateway
        .metadata
        .create_organization(&name, asked.description.as_deref(), owner)
        .await;
    let organization = made.map_err(|e| taken(e, "Organization", name.as_str()))?;
    let row = shape::without_unset(shape::organization(&organization));
    Ok(response::json(StatusCode::CREATED, &row))
}

/// BoxVault answers 400 for a taken organization or box name, not 409.
pub(super) fn taken(error: boxgate_storage::Error, what: &str, name: &str) -> Refusal {
    if error.kind() == boxgate_storage::ErrorKind::Conflict {
        Refusal::invalid(format!("{what} '{name}' already exists."))
    } else {
        error.into()
    }
}

/// `GET /api/organization[?organization=part]`.
pub async fn list(gateway: &Gateway, call: Call) -> Answer {
    let part = call.query("organization").unwrap_or_default();
    let mut rows = Vec::new();
    for organization in gateway.metadata.organizations(&part).await? {
        rows.push(with_members(gateway, &call, &organization).await?);
    }
    Ok(response::json(StatusCode::OK, &Value::Array(rows)))
}

/// `GET /api/organization/{org}`.
pub async fn show(gateway: &Gateway, call: Call) -> Answer {
    let name: OrganizationName = call.name("org")?;
    let Some(organization) = gateway.metadata.organization(&name).await? else {
        return Err(Refusal::missing("Organization", name.as_str()));
    };
    Ok(response::json(
        StatusCode::OK,
        &with_members(gateway, &call, &organization).await?,
    ))
}

// Members and their boxes, as far as the caller may see them.
async fn with_members(
    gateway: &Gateway,
    call: &Call,
    organization: &Organization,
) -> Result<Value, Refusal> {
    let principal = call.principal()?;
    let trees = gateway
        .metadata
        .box_trees(BoxFilter::Organization(organization.id))
        .await?;
    let visible: Vec<_> = trees
        .iter()
        .filter(|t| crate::auth::is_listed(Some(principal), &t.row))
        .collect();
    let inside = principal.role_in(organization.id).is_some() || principal.is_platform_admin();
    let mut members = Vec::new();
    if inside {
        for member in gateway.metadata.members(organization.id).await? {
            let boxes: Vec<Value> = visible
                .iter()
                .filter(|t| t.row.account == member.account)
                .map(|t| shape::box_row(&t.row))
                .collect();
            members.push(json!({
                "id": member.account.0, "username": member.username, "emailHash": null,
                "avatar_url": null, "role": member.role.as_str(), "box": boxes,
            }));
        }
    }
    Ok(shape::with(
        shape::organization(organization),
        json!({ "members": members, "totalBoxes": visible.len() }),
    ))
}

/// `PUT /api/organization/{org}`.
pub async fn update(gateway: &Gateway, mut call: Call) -> Answer {
    let asked: Update = call.json(&gateway.settings.limits).await?;
    let id = call.organization()?.id;
    let name = match asked.organization.or(asked.name) {
        Some(text) if text != call.organization()?.name.as_str() => {
            Some(free_name(gateway, &text)?)
        }
        _ => None,
    };
    let new_name = name.as_ref().map(ToString::to_string).unwrap_or_default();
    let changed = gateway
        .metadata
        .update_organization(
            id,
            OrganizationChange {
                name,
                description: asked.description,
                email: asked.email,
                org_code: asked.org_code,
                ..OrganizationChange::default()
            },
        )
        .await
        .map_err(|e| taken(e, "Organization", &new_name))?;
    Ok(response::json(
        StatusCode::OK,
        &json!({ "message": "Organization updated successfully.", "organization": shape::organization(&changed) }),
    ))
}

/// `DELETE /api/organization/{org}`.
pub async fn delete(gateway: &Gateway, call: Call) -> Answer {
    let id = call.organization()?.id;
    gateway
        .metadata
        .delete_organization(id, call.principal()?.name())
        .await?;
    Ok(response::json(
        StatusCode::OK,
        &message("Organization deleted successfully."),
    ))
}

/// `PUT /api/organization/{org}/access-mode`.
pub async fn access_mode(gateway: &Gateway, mut call: Call) -> Answer {
    let asked: AccessMode = call.json(&gateway.settings.limits).await?;
    if !["private", "invite_only", "request_to_join"].contains(&asked.access_mode.as_str()) {
        return Err(Refusal::invalid(
            "'accessMode' must be 'private', 'invite_only' or 'request_to_join'.",
        ));
    }
    let default_role = asked.default_role.as_deref().map(role).transpose()?;
    if default_role == Some(OrganizationRole::Owner) {
        return Err(Refusal::invalid(
            "'defaultRole' must be 'member' or 'admin'.",
        ));
    }
    let changed = gateway
        .metadata
        .update_organization(
            call.organization()?.id,
            OrganizationChange {
                access_mode: Some(asked.access_mode),
                default_role,
                ..OrganizationChange::default()
            },
        )
        .await?;
    Ok(response::json(
        StatusCode::OK,
        &json!({
            "message": "Organization access mode updated successfully.",
            "accessMode": changed.access_mode, "defaultRole": changed.default_role.as_str(),
        }),
    ))
}

/// `GET /api/organizations/discover`: those that are not private, and the caller's own.
pub async fn discover(gateway: &Gateway, call: Call) -> Answer {
    let mut rows = Vec::new();
    for organization in gateway.metadata.organizations("").await? {
        let inside = call
            .grant
            .principal
            .as_ref()
            .is_some_and(|p| p.role_in(organization.id).is_some());
        if organization.access_mode == "private" && !inside {
            continue;
        }
        let trees = gateway
            .metadata
            .box_trees(BoxFilter::Organization(organization.id))
            .await?;
        let public = trees
            .iter()
            .filter(|t| t.row.fields.public && t.row.fields.published)
            .count();
        let members = gateway.metadata.members(organization.id).await?.len();
        rows.push(json!({
            "id": organization.id.0, "name": organization.name.as_str(),
            "description": organization.description, "accessMode": organization.access_mode,
            "emailHash": shape::email_hash(organization.email.as_deref()), "memberCount": members,
            // How many private boxes there are is the members' business.
            "publicBoxCount": public, "totalBoxCount": if inside { trees.len() } else { public },
        }));
    }
    Ok(response::json(StatusCode::OK, &Value::Array(rows)))
}

/// `GET /api/organization/{org}/users`.
pub async fn members(gateway: &Gateway, call: Call) -> Answer {
    let members = gateway.metadata.members(call.organization()?.id).await?;
    let rows: Vec<Value> = members
        .iter()
        .map(|m| {
            json!({
                "id": m.account.0, "username": m.username, "role": m.role.as_str(),
                "isPrimary": m.primary, "joinedAt": shape::time(m.joined),
            })
        })
        .collect();
    Ok(response::json(StatusCode::OK, &Value::Array(rows)))
}

/// `PUT /api/organization/{org}/members/{user}` `{"role"}`; an account by name or id.
pub async fn set_member(gateway: &Gateway, mut call: Call) -> Answer {
    let asked: SetMember = call.json(&gateway.settings.limits).await?;
    let organization = call.organization()?;
    let wanted = asked
        .role
        .as_deref()
        .map(role)
        .transpose()?
        .unwrap_or(organization.default_role);
    let account = super::accounts::find(gateway, call.names.value("user")).await?;
    may_touch(gateway, &call, account.id, Some(wanted)).await?;
    gateway
        .metadata
        .set_membership(account.id, organization.id, wanted)
        .await
        .map_err(last_owner)?;
    Ok(response::json(
        StatusCode::OK,
        &json!({ "message": "Member updated successfully.", "username": account.username, "role": wanted.as_str() }),
    ))
}

/// `DELETE /api/organization/{org}/members/{user}`.
pub async fn remove_member(gateway: &Gateway, call: Call) -> Answer {
    let organization = call.organization()?;
    let account = super::accounts::find(gateway, call.names.value("user")).await?;
    may_touch(gateway, &call, account.id, None).await?;
    if !gateway
        .metadata
        .remove_membership(account.id, organization.id)
        .await
        .map_err(last_owner)?
    {
        return Err(Refusal::missing("Member", call.names.value("user")));
    }
    Ok(response::json(
        StatusCode::OK,
        &message("Member removed successfully."),
    ))
}

// The rows keep the rule, in the transaction of the change.
fn last_owner(error: boxgate_storage::Error) -> Refusal {
    if error.kind() == boxgate_storage::ErrorKind::Conflict {
        Refusal::invalid("An organization keeps at least one owner; make another one first.")
    } else {
        error.into()
    }
}

/// Owners are made, changed and removed by owners.
async fn may_touch(
    gateway: &Gateway,
    call: &Call,
    account: AccountId,
    wanted: Option<OrganizationRole>,
) -> Result<(), Refusal> {
    let organization = call.organization()?.id;
    let principal = call.principal()?;
    let present = gateway.metadata.members(organization).await?;
    let current = present
        .iter()
        .find(|m| m.account == account)
        .map(|m| m.role);
    let owner = Some(OrganizationRole::Owner);
    let touches = wanted == owner || current == owner;
    if touches && principal.role_in(organization) != owner && !principal.is_platform_admin() {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "Only an owner may make, change or remove owners.",
        ));
    }
    Ok(())
}

fn role(text: &str) -> Result<OrganizationRole, Refusal> {
    OrganizationRole::from_name(text).ok_or_else(|| {
        Refusal::invalid(format!(
            "role {text:?} is unknown; it is 'member', 'admin' or 'owner'."
        ))
    })
}
