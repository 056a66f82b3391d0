//! Signing in: by password, by service account name and key, and as the guide does it.

use std::time::Duration;

use boxgate_storage::metadata::accounts::{Account, Membership, PlatformRole};
use boxgate_storage::metadata::tokens::{NewToken, Token, TokenKind};
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::shape;
use crate::auth::{credential, password};
use crate::call::Call;
use crate::gateway::Gateway;
use crate::http::response;
use crate::refusal::Refusal;
use crate::server::OutboundBody;

type Answer = Result<Response<OutboundBody>, Refusal>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SignIn {
    username: Option<String>,
    password: Option<String>,
    #[serde(default)]
    stay_logged_in: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServiceAccountSignIn {
    client_id: Option<String>,
    client_secret: Option<String>,
}

/// `POST /api/auth/signin`: a person's name and password, or a service account's name and key.
pub async fn sign_in(gateway: &Gateway, mut call: Call) -> Answer {
    let asked: SignIn = call.json(&gateway.settings.limits).await?;
    let (Some(username), Some(secret)) = (asked.username, asked.password) else {
        return Err(Refusal::invalid("'username' and 'password' are required."));
    };
    let address = call.facts.client_ip();
    let mut attempt = gateway.admission.sign_in(address).await?;
    let by_key = service_session(gateway, &username, &secret).await;
    if let Some(answer) = attempt.judge(by_key)? {
        return Ok(answer);
    }
    let account = password::account(&gateway.metadata, &username, secret).await;
    let Some(account) = attempt.judge(account)? else {
        return Ok(wrong_credentials());
    };
    drop(attempt);
    if account.suspended {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "This account is suspended.",
        ));
    }
    let auth = &gateway.settings.auth;
    let lifetime = if asked.stay_logged_in {
        auth.stay_logged_in_ttl
    } else {
        auth.session_ttl
    };
    call.facts.set_principal(account.username.clone());
    person_session(gateway, account, lifetime, asked.stay_logged_in).await
}

/// `POST /api/auth/service-account`: the guide's login.
pub async fn service_account(gateway: &Gateway, mut call: Call) -> Answer {
    let asked: ServiceAccountSignIn = call.json(&gateway.settings.limits).await?;
    let (Some(id), Some(secret)) = (asked.client_id, asked.client_secret) else {
        return Err(Refusal::invalid(
            "'clientId' and 'clientSecret' are required.",
        ));
    };
    let address = call.facts.client_ip();
    let mut attempt = gateway.admission.sign_in(address).await?;
    let by_key = service_session(gateway, &id, &secret).await;
    if let Some(answer) = attempt.judge(by_key)? {
        call.facts.set_principal(id);
        return Ok(answer);
    }
    Ok(wrong_credentials())
}

/// `POST /api/auth/refresh-token`: a fresh session for the person who calls.
pub async fn refresh(gateway: &Gateway, call: Call) -> Answer {
    let account = call.principal()?.account.clone();
    person_session(gateway, account, gateway.settings.auth.session_ttl, false).await
}

/// `POST /api/auth/signup`: closed.
pub fn sign_up() -> Refusal {
    Refusal::new(
        StatusCode::FORBIDDEN,
        "Sign-up is closed. Ask an administrator for an account (POST /api/admin/users).",
    )
}

/// `GET /api/auth/methods`.
pub fn methods() -> Value {
    json!({
        "methods": [{ "id": "local", "name": "Local Account", "enabled": true }],
        "default_provider": "local", "silent_login": false,
    })
}

/// `GET /api/setup/status`: complete once any account exists.
pub async fn setup_status(gateway: &Gateway) -> Answer {
    let complete = !gateway.metadata.accounts(None, 1).await?.is_empty();
    Ok(response::json(
        StatusCode::OK,
        &json!({ "setupComplete": complete }),
    ))
}

/// `GET /api/user`: the caller, as signing in shows it but without a token.
pub fn current_user(call: &Call) -> Answer {
    let principal = call.principal()?;
    let value = if principal.is_service() {
        service_fields(
            &principal.token,
            &principal.account,
            principal.memberships.first(),
        )
    } else {
        person_fields(&principal.account, &principal.memberships)
    };
    Ok(response::json(StatusCode::OK, &value))
}

/// `GET /api/user/organizations`.
pub async fn organizations(gateway: &Gateway, call: Call) -> Answer {
    let mut list = Vec::new();
    for membership in &call.principal()?.memberships {
        let Some(organization) = gateway
            .metadata
            .organization_by_id(membership.organization)
            .await?
        else {
            continue;
        };
        list.push(json!({
            "organization": shape::organization(&organization),
            "role": membership.role.as_str(), "isPrimary": membership.primary,
            "joinedAt": shape::time(membership.joined),
        }));
    }
    Ok(response::json(StatusCode::OK, &Value::Array(list)))
}

// BoxVault answers an unknown name and a wrong password alike, and always with `accessToken`, so that
// `jq -r .accessToken` prints `null` instead of a parse error.
fn wrong_credentials() -> Response<OutboundBody> {
    response::json(
        StatusCode::UNAUTHORIZED,
        &json!({ "accessToken": null, "message": "Invalid username or password." }),
    )
}

async fn person_session(
    gateway: &Gateway,
    account: Account,
    lifetime: Duration,
    stay: bool,
) -> Answer {
    let memberships = gateway.metadata.memberships(account.id).await?;
    let token = session(gateway, &account, None, lifetime).await?;
    let fields = shape::with(
        person_fields(&account, &memberships),
        json!({ "accessToken": token, "stayLoggedIn": stay }),
    );
    Ok(response::json(StatusCode::OK, &fields))
}

/// A session for the service account of that name (or id) and key; `None` when there is no such pair.
async fn service_session(
    gateway: &Gateway,
    name: &str,
    key: &str,
) -> Result<Option<Response<OutboundBody>>, Refusal> {
    let by_key = gateway
        .metadata
        .token_by_hash(&credential::hash(key))
        .await?;
    let Some((token, account)) = by_key.filter(|(token, _)| {
        // A key that is being replaced is a session of its service account, until it ends.
        (token.kind == TokenKind::Service
            || (token.kind == TokenKind::Session && token.organization.is_some()))
            && (token
                .name
                .as_deref()
                .is_some_and(|n| n.eq_ignore_ascii_case(name))
                || token.id.0.to_string() == name)
    }) else {
        return Ok(None);
    };
    if account.suspended {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "This account is suspended.",
        ));
    }
    let mut memberships = gateway.metadata.memberships(account.id).await?;
    memberships.retain(|m| Some(m.organization) == token.organization);
    let text = session(
        gateway,
        &account,
        Some(&token),
        gateway.settings.auth.session_ttl,
    )
    .await?;
    let fields = shape::with(
        service_fields(&token, &account, memberships.first()),
        json!({ "accessToken": text, "stayLoggedIn": false }),
    );
    Ok(Some(response::json(StatusCode::OK, &fields)))
}

/// Makes a session; its text is told once.
pub(in crate::door) async fn session(
    gateway: &Gateway,
    account: &Account,
    service: Option<&Token>,
    lifetime: Duration,
) -> Result<String, Refusal> {
    let text = credential::fresh();
    let ends = gateway.clock.now().plus(lifetime);
    gateway
        .metadata
        .create_token(NewToken {
            kind: TokenKind::Session,
            hash: credential::hash(&text),
            account: account.id,
            organization: service.and_then(|s| s.organization),
            name: service.and_then(|s| s.name.clone()),
            description: None,
            // A session made with a key never outlives the key.
            expires: Some(
                service
                    .and_then(|s| s.expires)
                    .map_or(ends, |key_ends| key_ends.min(ends)),
            ),
        })
        .await?;
    Ok(text)
}

fn person_fields(account: &Account, memberships: &[Membership]) -> Value {
    let role = match account.role {
        PlatformRole::Admin => "ROLE_ADMIN",
        PlatformRole::User => "ROLE_USER",
    };
    let organizations: Vec<Value> = memberships
        .iter()
        .map(|m| json!({ "name": m.organization_name.as_str(), "role": m.role.as_str(), "isPrimary": m.primary }))
        .collect();
    let primary = memberships
        .iter()
        .find(|m| m.primary)
        .or(memberships.first());
    fields(
        account,
        &account.username,
        role,
        primary,
        &organizations,
        "local",
    )
}

fn service_fields(token: &Token, account: &Account, membership: Option<&Membership>) -> Value {
    let name = token.name.as_deref().unwrap_or(&account.username);
    let anonymous = Account {
        name: None,
        email: None,
        ..account.clone()
    };
    fields(
        &anonymous,
        name,
        "ROLE_SERVICE_ACCOUNT",
        membership,
        &[],
        "service_account",
    )
}

fn fields(
    account: &Account,
    name: &str,
    role: &str,
    membership: Option<&Membership>,
    organizations: &[Value],
    provider: &str,
) -> Value {
    let service = provider == "service_account";
    json!({
        "id": account.id.0, "username": name, "name": account.name, "preferredLanguage": null,
        "preferredTheme": null, "email": account.email, "verified": if service { Value::Null } else { true.into() },
        "emailHash": shape::email_hash(account.email.as_deref()), "roles": [role],
        "organization": membership.map(|m| m.organization_name.as_str()),
        "organizations": organizations, "isServiceAccount": service, "provider": provider,
        "avatarUrl": null, "entitlements": [],
    })
}
