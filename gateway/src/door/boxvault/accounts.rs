//! Accounts, as an administrator of the platform makes and changes them.

use boxgate_storage::catalog::OrganizationName;
use boxgate_storage::metadata::accounts::{
    Account, AccountChange, AccountId, NewAccount, OrganizationRole, PlatformRole,
};
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use super::{message, shape};
use crate::auth::{end_sessions, password};
use crate::call::Call;
use crate::gateway::Gateway;
use crate::http::response;
use crate::refusal::Refusal;
use crate::server::OutboundBody;

type Answer = Result<Response<OutboundBody>, Refusal>;

/// Accounts on one page of a listing, at most.
const MAX_PAGE: u32 = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    username: String,
    email: Option<String>,
    password: Option<String>,
    role: Option<String>,
    organization: Option<String>,
    organization_role: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Update {
    name: Option<String>,
    email: Option<String>,
    password: Option<String>,
    role: Option<String>,
    suspended: Option<bool>,
}

/// `POST /api/admin/users`.
pub async fn create(gateway: &Gateway, mut call: Call) -> Answer {
    let asked: Create = call.json(&gateway.settings.limits).await?;
    // An account's name follows the grammar of all names.
    if let Err(error) = asked.username.parse::<OrganizationName>() {
        return Err(Refusal::invalid(format!(
            "username {:?} {}",
            asked.username, error.rule
        )));
    }
    let membership = match &asked.organization {
        None => None,
        Some(text) => {
            let name: OrganizationName = text.parse().map_err(Refusal::name)?;
            let organization = gateway.metadata.organization(&name).await?;
            let organization =
                organization.ok_or_else(|| Refusal::missing("Organization", text))?;
            let role = match asked.organization_role.as_deref() {
                None => organization.default_role,
                Some(text) => OrganizationRole::from_name(text).ok_or_else(|| {
                    Refusal::invalid("'organization_role' must be 'member', 'admin' or 'owner'.")
                })?,
            };
            Some((organization.id, role))
        }
    };
    let role = asked
        .role
        .as_deref()
        .map(platform_role)
        .transpose()?
        .unwrap_or(PlatformRole::User);
    let password_hash = hash(asked.password).await?;
    let account = gateway
        .metadata
        .create_account(NewAccount {
            username: asked.username,
            email: asked.email,
            password_hash,
            role,
            membership,
            by: call.principal()?.name().to_owned(),
        })
        .await?;
    Ok(response::json(
        StatusCode::CREATED,
        &shape::account(&account),
    ))
}

/// `GET /api/admin/users?after=ID&limit=N`.
pub async fn list(gateway: &Gateway, call: Call) -> Answer {
    let number = |name: &str| call.query(name).map(|text| text.parse::<i64>());
    let after = number("after")
        .transpose()
        .map_err(|_e| Refusal::invalid("'after' must be an id."))?;
    let limit = number("limit")
        .transpose()
        .map_err(|_e| Refusal::invalid("'limit' must be a number."))?;
    let limit = limit.map_or(MAX_PAGE, |l| {
        u32::try_from(l).unwrap_or(1).clamp(1, MAX_PAGE)
    });
    let accounts = gateway
        .metadata
        .accounts(after.map(AccountId), limit)
        .await?;
    let rows: Vec<Value> = accounts.iter().map(shape::account).collect();
    Ok(response::json(StatusCode::OK, &Value::Array(rows)))
}

/// `GET /api/admin/users/{user}`, by name or id.
pub async fn show(gateway: &Gateway, call: Call) -> Answer {
    let account = find(gateway, call.names.value("user")).await?;
    Ok(response::json(StatusCode::OK, &shape::account(&account)))
}

/// `PUT /api/admin/users/{user}`.
pub async fn update(gateway: &Gateway, mut call: Call) -> Answer {
    let asked: Update = call.json(&gateway.settings.limits).await?;
    let account = find(gateway, call.names.value("user")).await?;
    let own = account.id == call.principal()?.account.id;
    if own && (asked.role.is_some() || asked.suspended == Some(true)) {
        return Err(Refusal::invalid(
            "You cannot change your own role or suspend yourself; ask another administrator.",
        ));
    }
    let ends_sessions = asked.password.is_some() || asked.suspended == Some(true);
    let change = AccountChange {
        name: asked.name,
        email: asked.email,
        password_hash: hash(asked.password).await?,
        role: asked.role.as_deref().map(platform_role).transpose()?,
        suspended: asked.suspended,
    };
    let changed = gateway.metadata.update_account(account.id, change).await?;
    if ends_sessions {
        end_sessions(&gateway.metadata, account.id, None).await?;
    }
    Ok(response::json(StatusCode::OK, &shape::account(&changed)))
}

/// `DELETE /api/admin/users/{user}`.
pub async fn delete(gateway: &Gateway, call: Call) -> Answer {
    let account = find(gateway, call.names.value("user")).await?;
    let by = call.principal()?;
    if account.id == by.account.id {
        return Err(Refusal::invalid("You cannot delete your own account."));
    }
    gateway
        .metadata
        .delete_account(account.id, by.name())
        .await?;
    Ok(response::json(
        StatusCode::OK,
        &message("User deleted successfully."),
    ))
}

/// An account by name, else by id.
///
/// # Errors
/// 404 when there is none.
pub(super) async fn find(gateway: &Gateway, text: &str) -> Result<Account, Refusal> {
    let mut found = gateway.metadata.account_by_username(text).await?;
    if let (None, Ok(id)) = (&found, text.parse()) {
        found = gateway.metadata.account(AccountId(id)).await?;
    }
    found.ok_or_else(|| Refusal::missing("User", text))
}

async fn hash(password: Option<String>) -> Result<Option<String>, Refusal> {
    match password {
        None => Ok(None),
        Some(text) if text.is_empty() || text.len() > password::MAX_PASSWORD_BYTES => {
            Err(Refusal::invalid(format!(
                "'password' must have 1 to {} bytes.",
                password::MAX_PASSWORD_BYTES
            )))
        }
        Some(text) => Ok(Some(password::hash(text).await)),
    }
}

fn platform_role(text: &str) -> Result<PlatformRole, Refusal> {
    match text {
        "user" => Ok(PlatformRole::User),
        "admin" => Ok(PlatformRole::Admin),
        _ => Err(Refusal::invalid(format!(
            "role {text:?} is unknown; it is 'user' or 'admin'."
        ))),
    }
}
