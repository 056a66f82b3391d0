//! `authorize`: what plugins say to the gateway's own decision. They narrow it; one that the operator lets override it may
//! also let in whom it refuses, to boxes alone: never to people, to the platform, or past a credential that is none.
//!
//! A refusal that no plugin lifts goes out as it was, whatever plugins said: who may not read a box learns nothing from
//! them, either.

use std::sync::Arc;

use boxgate_scripting::hook::Hook;
use boxgate_scripting::verdict::{AccessTerms, AuthorizeVerdict};
use boxgate_storage::metadata::accounts::OrganizationId;
use boxgate_storage::metadata::uploads::Sender;
use http::StatusCode;
use http::request::Parts;

use super::{Told, denied, noted, told_already, told_principal};
use crate::auth::{self, Grant, Principal};
use crate::gateway::Gateway;
use crate::refusal::Refusal;
use crate::request::RequestFacts;
use crate::route::{PathNames, Policy};

/// A request that goes on by a plugin's word, and the rate that it is counted by: in its extensions.
#[derive(Debug, Clone)]
struct Overridden(Option<String>);

/// Whether a plugin may say by which rate a request is counted.
pub fn choose_rates(gateway: &Gateway, head: &Parts) -> bool {
    super::are_asked(head)
        && gateway.admission.has_rates_of_scripts()
        && gateway.scripts.defines(Hook::Authorize)
}

/// Whether whoever asks may go on, and notes for later hooks who it is. Gives the rate that plugins have it counted by.
///
/// # Errors
/// The refusal to send.
pub async fn authorize(
    gateway: &Gateway,
    head: &mut Parts,
    principal: Option<&Principal>,
    known: &RequestFacts,
) -> Result<Option<String>, Refusal> {
    // Who was let in by a plugin's word was asked about already.
    if let Some(Overridden(rate)) = head.extensions.get() {
        return Ok(rate.clone());
    }
    let Some(told) = told_already(head) else {
        return Ok(None);
    };
    let principal = told_principal(principal);
    head.extensions.insert(Arc::clone(&principal));
    if !gateway.scripts.defines(Hook::Authorize) {
        return Ok(None);
    }
    let asked = gateway.scripts.authorize(&told, &principal).await;
    match noted(known, asked)? {
        AuthorizeVerdict::Proceed(terms) => Ok(terms.rate),
        AuthorizeVerdict::Deny(denial) => Err(denied(denial)),
    }
}

/// Whether a plugin may lift a refusal of this request.
pub fn may_override(gateway: &Gateway, head: &Parts, policy: Policy) -> bool {
    let of_boxes = matches!(
        policy,
        Policy::ReadBox | Policy::EditBox | Policy::PublishBox
    );
    of_boxes && super::are_asked(head) && gateway.scripts.set().overrides()
}

/// What goes on by a plugin's word, where one lifts `refusal`; it is asked whether or not there is such a box.
///
/// # Errors
/// `refusal`, in every other case.
pub async fn overridden(
    gateway: &Gateway,
    head: &mut Parts,
    (policy, names): (Policy, &PathNames),
    principal: Option<Principal>,
    known: &RequestFacts,
    refusal: Refusal,
) -> Result<Grant, Refusal> {
    // Only who reads may be nobody; and what is no decision about rights is nobody's to lift.
    let is_decision = matches!(
        refusal.status,
        StatusCode::FORBIDDEN | StatusCode::NOT_FOUND
    );
    if !is_decision || (principal.is_none() && policy != Policy::ReadBox) {
        return Err(refusal);
    }
    let told_principal = told_principal(principal.as_ref());
    let Some(terms) = allowed(gateway, head, &told_principal, known).await else {
        return Err(refusal);
    };
    let Some(grant) = auth::named(&gateway.metadata, policy, principal, names).await? else {
        return Err(refusal);
    };
    tracing::info!(
        principal = %told_principal.name, policy = ?policy, request_id = known.id(),
        "a plugin lets in whom the gateway refuses"
    );
    head.extensions.insert(told_principal);
    head.extensions.insert(Overridden(terms.rate));
    Ok(grant)
}

/// What is said where a plugin that may says `allow()`, and none is against it.
async fn allowed(
    gateway: &Gateway,
    head: &Parts,
    principal: &Arc<boxgate_scripting::facts::Principal>,
    known: &RequestFacts,
) -> Option<AccessTerms> {
    let told = head.extensions.get::<Told>()?;
    match gateway.scripts.authorize(told, principal).await {
        Ok(decision) => match decision.verdict {
            AuthorizeVerdict::Proceed(terms) if terms.allow => {
                known.add_plugins(decision.by);
                Some(terms)
            }
            _ => None,
        },
        Err(error) => {
            tracing::debug!(%error, "a refusal stands, as a script failed");
            None
        }
    }
}

/// Whether whoever sent a request may still publish what it brought; who came in by a plugin's word needs it again.
///
/// # Errors
/// The refusal to send.
pub async fn authorize_again(
    gateway: &Gateway,
    head: &Parts,
    known: &RequestFacts,
    sender: &Sender,
    (organization, what): (OrganizationId, auth::Becomes<'_>),
) -> Result<(), Refusal> {
    let metadata = &gateway.metadata;
    let principal = auth::sender_again(metadata, head, sender).await?;
    let told = told_principal(Some(&principal));
    let decided = auth::may_publish(metadata, principal, organization, what).await;
    match decided {
        Err(refusal)
            if head.extensions.get::<Overridden>().is_some()
                && metadata.organization_by_id(organization).await?.is_some() =>
        {
            let lifted = Box::pin(allowed(gateway, head, &told, known)).await;
            lifted.map(drop).ok_or(refusal)
        }
        decided => decided,
    }
}
