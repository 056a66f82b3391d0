//! Who is calling, tokens, and what an organization has.

use boxgate_storage::catalog::OrganizationName;
use boxgate_storage::metadata::accounts::Account;
use boxgate_storage::metadata::catalog::BoxFilter;
use boxgate_storage::metadata::tokens::{NewToken, TokenKind};
use http::StatusCode;
use serde_json::{Value, json};

use super::Answer;
use super::body::Fields;
use super::shape::{self, Roots, Versions};
use crate::auth::{self, credential, password};
use crate::call::Call;
use crate::door::boxvault::shape::time;
use crate::gateway::Gateway;
use crate::http::response;
use crate::refusal::Refusal;

/// Longest description of a token in characters.
const MAX_DESCRIPTION: usize = 255;

/// `GET authenticate`.
pub fn show(call: &Call) -> Answer {
    let name = call.principal()?.name();
    Ok(response::json(
        StatusCode::OK,
        &json!({ "user": { "username": name } }),
    ))
}

/// `POST authenticate`: a token for a person's name and password. Name and key of a service account are answered with
/// that key.
pub async fn sign_in(gateway: &Gateway, mut call: Call) -> Answer {
    let fields = Fields::read(&mut call, &gateway.settings.limits, "").await?;
    let (user, token) = (fields.within("user"), fields.within("token"));
    let (Some(login), Some(secret)) = (user.given("login")?, user.given("password")?) else {
        return Err(Refusal::invalid("'user' needs 'login' and 'password'."));
    };
    let description = token.given("description")?;
    if description
        .as_ref()
        .is_some_and(|text| text.chars().count() > MAX_DESCRIPTION)
    {
        return Err(Refusal::invalid(
            "'description' must be at most 255 characters.",
        ));
    }
    let address = call.facts.client_ip();
    let mut attempt = gateway.admission.sign_in(address).await?;
    let by_key = of_service_account(gateway, &login, &secret).await;
    if let Some(document) = attempt.judge(by_key)? {
        call.facts.set_principal(login);
        return Ok(response::json(StatusCode::OK, &document));
    }
    let account = password::account(&gateway.metadata, &login, secret).await;
    let Some(account) = attempt.judge(account)? else {
        return Err(Refusal::new(
            StatusCode::UNAUTHORIZED,
            "Invalid username or password.",
        ));
    };
    drop(attempt);
    if account.suspended {
        return Err(suspended());
    }
    call.facts.set_principal(account.username.clone());
    let document = new_token(gateway, &account, description).await?;
    Ok(response::json(StatusCode::OK, &document))
}

fn suspended() -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, "This account is suspended.")
}

async fn of_service_account(
    gateway: &Gateway,
    name: &str,
    key: &str,
) -> Result<Option<Value>, Refusal> {
    let hash = credential::hash(key);
    let Some((token, account)) = gateway.metadata.token_by_hash(&hash).await? else {
        return Ok(None);
    };
    let is_its_name = |of: &str| of.eq_ignore_ascii_case(name);
    if token.kind != TokenKind::Service || !token.name.as_deref().is_some_and(is_its_name) {
        return Ok(None);
    }
    if account.suspended {
        return Err(suspended());
    }
    Ok(Some(json!({
        "description": token.description, "token": key, "token_hash": hex::encode(hash),
        "created_at": time(token.created),
    })))
}

async fn new_token(
    gateway: &Gateway,
    account: &Account,
    description: Option<String>,
) -> Result<Value, Refusal> {
    let settings = &gateway.settings.vagrant_cloud;
    let metadata = &gateway.metadata;
    // By id: the oldest come first.
    let held = metadata.tokens(account.id, TokenKind::Personal).await?;
    let too_many = (held.len() + 1).saturating_sub(settings.tokens);
    for oldest in held.into_iter().take(too_many) {
        metadata.delete_token(oldest.id, account.id).await?;
    }
    let text = credential::fresh();
    let hash = credential::hash(&text);
    let token = metadata
        .create_token(NewToken {
            kind: TokenKind::Personal,
            hash,
            account: account.id,
            organization: None,
            name: None,
            description,
            expires: Some(gateway.clock.now().plus(settings.token_ttl)),
        })
        .await?;
    Ok(json!({
        "description": token.description, "token": text, "token_hash": hex::encode(hash),
        "created_at": time(token.created), "expires_at": token.expires.map(time),
    }))
}

/// `DELETE authenticate`: ends the token that it comes with.
pub async fn sign_out(gateway: &Gateway, call: &Call) -> Answer {
    let principal = call.principal()?;
    if principal.is_service() {
        return Err(Refusal::invalid(
            "The key of a service account ends where it was made: DELETE /api/service-accounts/{id}.",
        ));
    }
    let (id, account) = (principal.token.id, principal.account.id);
    gateway.metadata.delete_token(id, account).await?;
    Ok(response::empty(StatusCode::NO_CONTENT))
}

/// `POST two-factor/request-code`.
pub fn second_factor() -> Refusal {
    Refusal::invalid("This server asks for no second factor: sign in by name and password.")
}

/// `GET user/:org`: an organization with the boxes that the caller may see or change.
pub async fn organization(gateway: &Gateway, call: Call) -> Answer {
    let name: OrganizationName = call.name("org")?;
    let Some(organization) = gateway.metadata.organization(&name).await? else {
        return Err(Refusal::missing("Organization", name.as_str()));
    };
    let principal = call.grant.principal.as_ref();
    let filter = BoxFilter::Organization(organization.id);
    let trees = gateway.metadata.box_trees(filter).await?;
    let roots = Roots::of(gateway, &call);
    // Clients would show versions twice that stood here: they ask each box for its own.
    let boxes: Vec<Value> = trees
        .iter()
        .filter(|tree| {
            principal.is_some_and(|p| p.may_edit(&tree.row))
                || auth::is_listed(principal, &tree.row)
        })
        .map(|tree| shape::a_box(&roots, tree, Versions::Unsaid))
        .collect();
    let profile = organization.description.as_deref();
    let document = json!({
        "username": organization.name.as_str(), "avatar_url": null,
        "profile_markdown": profile, "profile_html": profile.map(crate::markdown::html),
        "boxes": boxes,
    });
    Ok(response::json(StatusCode::OK, &document))
}
