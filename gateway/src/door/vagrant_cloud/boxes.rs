//! Boxes: made, read, changed, deleted.

use boxgate_storage::catalog::{BoxName, OrganizationName};
use boxgate_storage::metadata::catalog::{BoxFields, BoxTree};
use http::StatusCode;

use super::Answer;
use super::body::Fields;
use super::shape::{self, Roots, Versions};
use crate::auth::{self, Principal};
use crate::call::Call;
use crate::gateway::Gateway;
use crate::http::response;
use crate::refusal::Refusal;
use crate::route::{PathNames, Policy, free_box_name};

/// Longest `short_description` in characters.
const MAX_SHORT_DESCRIPTION: usize = 255;

/// The box that the path names, with everything below it.
///
/// # Errors
/// 404 when it is gone.
pub async fn tree_of(gateway: &Gateway, call: &Call) -> Result<BoxTree, Refusal> {
    let row = call.row()?;
    let tree = gateway
        .metadata
        .box_tree(row.organization, &row.name)
        .await?;
    tree.ok_or_else(|| auth::no_box(&call.names))
}

/// What the caller sees of a box: what is not released is its organization's business.
pub fn shown_to(call: &Call, tree: &BoxTree) -> Versions {
    let principal = call.grant.principal.as_ref();
    match principal.and_then(|p| p.role_in(tree.row.organization)) {
        Some(_) => Versions::All,
        None => Versions::Released,
    }
}

async fn answered(gateway: &Gateway, call: &Call) -> Answer {
    let tree = tree_of(gateway, call).await?;
    let document = shape::a_box(&Roots::of(gateway, call), &tree, shown_to(call, &tree));
    Ok(response::json(StatusCode::OK, &document))
}

fn onto(sent: &Fields, mut fields: BoxFields) -> Result<BoxFields, Refusal> {
    if let Some(text) = sent.text("short_description")? {
        if text
            .as_ref()
            .is_some_and(|t| t.chars().count() > MAX_SHORT_DESCRIPTION)
        {
            return Err(Refusal::invalid(
                "'short_description' must be at most 255 characters.",
            ));
        }
        fields.short_description = text;
    }
    if let Some(text) = sent.text("description")? {
        fields.description = text;
    }
    if let Some(private) = sent.flag("is_private")? {
        fields.public = !private;
    }
    Ok(fields)
}

/// `POST boxes`.
pub async fn create(gateway: &Gateway, mut call: Call) -> Answer {
    let sent = Fields::read(&mut call, &gateway.settings.limits, "box").await?;
    let name: BoxName = sent.required("name")?.parse().map_err(Refusal::name)?;
    free_box_name(name.as_str()).map_err(Refusal::invalid)?;
    let organization = match sent.given("username")? {
        Some(text) => text.parse().map_err(Refusal::name)?,
        None => only_organization(call.principal()?)?,
    };
    let fields = onto(
        &sent,
        BoxFields {
            published: true,
            public: gateway.settings.catalog.new_box_public,
            ..BoxFields::default()
        },
    )?;
    let names = PathNames::of([("org", organization.to_string()), ("box", name.to_string())]);
    let principal = call.grant.principal.take();
    let granted = auth::authorize(&gateway.metadata, Policy::Member, principal, &names, false);
    call.grant = granted.await?;
    let principal = call.principal()?;
    let row = gateway
        .metadata
        .create_box(
            call.organization()?.id,
            &name,
            principal.account.id,
            fields,
            principal.name(),
        )
        .await
        .map_err(|e| taken(e, &format!("Box '{organization}/{name}'")))?;
    call.names = names;
    call.grant.row = Some(row);
    answered(gateway, &call).await
}

/// The same refusal with the name that is taken, in the words that Vagrant Cloud has for it.
pub fn taken(error: boxgate_storage::Error, what: &str) -> Refusal {
    if error.kind() == boxgate_storage::ErrorKind::Conflict {
        let text = format!("{what} has already been taken.");
        return Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, text).code("CONFLICT");
    }
    error.into()
}

fn only_organization(principal: &Principal) -> Result<OrganizationName, Refusal> {
    match principal.memberships.as_slice() {
        [only] => Ok(only.organization_name.clone()),
        _ => Err(Refusal::invalid(
            "'username' is required: the organization of the new box.",
        )),
    }
}

/// `GET box/:org/:name`.
pub async fn show(gateway: &Gateway, call: Call) -> Answer {
    answered(gateway, &call).await
}

/// `PUT box/:org/:name`.
pub async fn update(gateway: &Gateway, mut call: Call) -> Answer {
    let sent = Fields::read(&mut call, &gateway.settings.limits, "box").await?;
    let row = call.row()?;
    let name = sent
        .given("name")?
        .map(|text| text.parse::<BoxName>())
        .transpose()
        .map_err(Refusal::name)?;
    if let Some(name) = name
        .as_ref()
        .filter(|name| name.folded() != row.name.folded())
    {
        free_box_name(name.as_str()).map_err(Refusal::invalid)?;
    }
    let fields = onto(&sent, row.fields.clone())?;
    let row = gateway
        .metadata
        .update_box(row.id, name.as_ref(), fields, call.principal()?.name())
        .await
        .map_err(|e| taken(e, "That name"))?;
    call.grant.row = Some(row);
    answered(gateway, &call).await
}

/// `DELETE box/:org/:name`: answered with what it was.
pub async fn delete(gateway: &Gateway, call: Call) -> Answer {
    let answer = answered(gateway, &call).await?;
    let actor = call.principal()?.name();
    if !gateway.metadata.delete_box(call.row()?.id, actor).await? {
        return Err(auth::no_box(&call.names));
    }
    Ok(answer)
}
