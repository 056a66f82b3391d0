//! Service accounts: keys that act for a person within one organization. A key is shown once.

use std::time::Duration;

use boxgate_storage::metadata::accounts::OrganizationId;
use boxgate_storage::metadata::tokens::{NewToken, Token, TokenId, TokenKind};
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{message, shape};
use crate::auth::{credential, end_sessions};
use crate::call::Call;
use crate::gateway::Gateway;
use crate::http::response;
use crate::refusal::Refusal;
use crate::server::OutboundBody;

type Answer = Result<Response<OutboundBody>, Refusal>;

const DAY: Duration = Duration::from_hours(24);
/// Longest time for which a replaced key works on.
const MAX_OVERLAP: Duration = Duration::from_hours(7 * 24);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Create {
    description: Option<String>,
    organization_id: Option<i64>,
    expiration_days: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Rotate {
    overlap_s: Option<u64>,
}

/// `POST /api/service-accounts`.
pub async fn create(gateway: &Gateway, mut call: Call) -> Answer {
    let asked: Create = call.json(&gateway.settings.limits).await?;
    let principal = call.principal()?;
    let Some(organization) = asked.organization_id.map(OrganizationId) else {
        return Err(Refusal::invalid("'organizationId' is required."));
    };
    if principal.role_in(organization).is_none() {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "You are not a member of that organization.",
        ));
    }
    let lifetime = asked.expiration_days.map(|days| DAY * days);
    let longest = gateway.settings.auth.service_account_max_expiry;
    if lifetime.is_some_and(|l| l.is_zero() || l > longest) {
        return Err(Refusal::invalid(format!(
            "'expirationDays' must be 1 to {}, or absent for a key that does not expire.",
            longest.as_secs() / DAY.as_secs()
        )));
    }
    let (token, key) = make(
        gateway,
        principal.account.id,
        &principal.account.username,
        organization,
        asked.description,
        lifetime,
    )
    .await?;
    let row = json!({
        "id": token.id.0, "username": token.name, "description": token.description,
        "expiresAt": token.expires.map(shape::time), "organization_id": organization.0,
        "createdAt": shape::time(token.created), "token": key,
    });
    Ok(response::json(
        StatusCode::CREATED,
        &shape::without_unset(row),
    ))
}

/// Makes a service account named `<owner>-<8 hex>`; returns its row and its key.
///
/// # Errors
/// When the database does not answer.
pub async fn make(
    gateway: &Gateway,
    account: boxgate_storage::metadata::accounts::AccountId,
    owner: &str,
    organization: OrganizationId,
    description: Option<String>,
    lifetime: Option<Duration>,
) -> Result<(Token, String), Refusal> {
    let key = credential::fresh();
    // The name is public, the key is not: they come from different random bytes.
    let name = format!("{owner}-{}", &credential::fresh()[..8]);
    let token = gateway
        .metadata
        .create_token(NewToken {
            kind: TokenKind::Service,
            hash: credential::hash(&key),
            account,
            organization: Some(organization),
            name: Some(name),
            description,
            expires: lifetime.map(|l| gateway.clock.now().plus(l)),
        })
        .await?;
    Ok((token, key))
}

/// `GET /api/service-accounts`.
pub async fn list(gateway: &Gateway, call: Call) -> Answer {
    let principal = call.principal()?;
    let mut rows = Vec::new();
    for token in gateway
        .metadata
        .tokens(principal.account.id, TokenKind::Service)
        .await?
    {
        let organization = principal
            .memberships
            .iter()
            .find(|m| Some(m.organization) == token.organization)
            .map(|m| json!({ "id": m.organization.0, "name": m.organization_name.as_str() }));
        rows.push(json!({
            "id": token.id.0, "username": token.name, "description": token.description,
            "expiresAt": token.expires.map(shape::time), "organization_id": token.organization.map(|o| o.0),
            "createdAt": shape::time(token.created), "organization": organization,
        }));
    }
    Ok(response::json(StatusCode::OK, &Value::Array(rows)))
}

/// `GET /api/service-accounts/organizations`.
pub async fn organizations(gateway: &Gateway, call: Call) -> Answer {
    let mut rows = Vec::new();
    for membership in &call.principal()?.memberships {
        let organization = gateway
            .metadata
            .organization_by_id(membership.organization)
            .await?;
        rows.push(json!({
            "id": membership.organization.0, "name": membership.organization_name.as_str(),
            "description": organization.and_then(|o| o.description), "role": membership.role.as_str(),
        }));
    }
    Ok(response::json(StatusCode::OK, &Value::Array(rows)))
}

/// `DELETE /api/service-accounts/{id}`.
pub async fn delete(gateway: &Gateway, call: Call) -> Answer {
    let principal = call.principal()?;
    let id = token_id(&call)?;
    let owned = gateway
        .metadata
        .tokens(principal.account.id, TokenKind::Service)
        .await?;
    if !owned.iter().any(|t| t.id == id)
        || !gateway
            .metadata
            .delete_token(id, principal.account.id)
            .await?
    {
        return Err(not_found(&call));
    }
    Ok(response::json(
        StatusCode::OK,
        &message("Service account deleted successfully."),
    ))
}

/// `POST /api/service-accounts/{id}/rotate` `{"overlap_s"?}`: a new key. The old one and the sessions
/// made with it end at once, or work for `overlap_s` seconds more.
pub async fn rotate(gateway: &Gateway, mut call: Call) -> Answer {
    let asked: Rotate = call.json(&gateway.settings.limits).await?;
    let overlap = Duration::from_secs(asked.overlap_s.unwrap_or(0));
    if overlap > MAX_OVERLAP {
        return Err(Refusal::invalid(format!(
            "'overlap_s' must be 0 to {}: seconds for which the old key works on.",
            MAX_OVERLAP.as_secs()
        )));
    }
    let account = call.principal()?.account.id;
    let id = token_id(&call)?;
    let owned = gateway.metadata.tokens(account, TokenKind::Service).await?;
    let token = owned
        .into_iter()
        .find(|t| t.id == id)
        .ok_or_else(|| not_found(&call))?;
    let name = token.name.clone().unwrap_or_default();
    let old = gateway.metadata.service_account(&name).await?;
    let key = credential::fresh();
    if !gateway
        .metadata
        .set_token_hash(id, credential::hash(&key))
        .await?
    {
        return Err(not_found(&call));
    }
    if overlap.is_zero() {
        end_sessions(&gateway.metadata, account, Some(&token)).await?;
    } else if let Some((_, old_hash, _)) = old {
        let until = gateway.clock.now().plus(overlap);
        let kept = NewToken {
            kind: TokenKind::Session,
            hash: old_hash,
            account,
            organization: token.organization,
            name: token.name.clone(),
            description: None,
            expires: Some(token.expires.map_or(until, |ends| ends.min(until))),
        };
        gateway.metadata.create_token(kept).await?;
    }
    Ok(response::json(
        StatusCode::OK,
        &json!({ "id": id.0, "username": token.name, "token": key }),
    ))
}

fn token_id(call: &Call) -> Result<TokenId, Refusal> {
    call.names
        .value("id")
        .parse()
        .map(TokenId)
        .map_err(|_not_a_number| not_found(call))
}

fn not_found(call: &Call) -> Refusal {
    Refusal::missing("Service account", call.names.value("id"))
}
