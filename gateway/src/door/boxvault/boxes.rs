//! Boxes: listing, reading, making, changing, deleting.

use boxgate_storage::catalog::{BoxName, OrganizationName};
use boxgate_storage::metadata::catalog::{BoxFields, BoxFilter};
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use super::organizations::taken;
use super::{message, shape};
use crate::auth;
use crate::call::Call;
use crate::gateway::Gateway;
use crate::http::response;
use crate::refusal::Refusal;
use crate::route::free_box_name;
use crate::server::OutboundBody;

type Answer = Result<Response<OutboundBody>, Refusal>;

/// Longest `shortDescription` in characters.
const MAX_SHORT_DESCRIPTION: usize = 255;

// A field that is absent stays as it is; one that is `null` is unset.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Asked {
    name: Option<String>,
    #[serde(deserialize_with = "given")]
    description: Option<Option<String>>,
    #[serde(deserialize_with = "given")]
    short_description: Option<Option<String>>,
    #[serde(deserialize_with = "given")]
    readme: Option<Option<String>>,
    #[serde(deserialize_with = "given")]
    github_repo: Option<Option<String>>,
    #[serde(deserialize_with = "given")]
    workflow_file: Option<Option<String>>,
    #[serde(deserialize_with = "given")]
    cicd_url: Option<Option<String>>,
    #[serde(deserialize_with = "given")]
    metadata: Option<Option<Value>>,
    published: Option<bool>,
    is_public: Option<bool>,
}

/// Tells a field that is `null` from one that is absent.
pub(super) fn given<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Some)
}

impl Asked {
    fn onto(self, mut fields: BoxFields) -> Result<BoxFields, Refusal> {
        if let Some(Some(text)) = &self.short_description
            && text.chars().count() > MAX_SHORT_DESCRIPTION
        {
            return Err(Refusal::invalid(
                "'shortDescription' must be at most 255 characters.",
            ));
        }
        if let Some(Some(value)) = &self.metadata
            && !value.is_object()
        {
            return Err(Refusal::invalid("'metadata' must be a JSON object."));
        }
        let set = |field: &mut Option<String>, value: Option<Option<String>>| {
            if let Some(value) = value {
                *field = value;
            }
        };
        set(&mut fields.description, self.description);
        set(&mut fields.short_description, self.short_description);
        set(&mut fields.readme, self.readme);
        set(&mut fields.github_repo, self.github_repo);
        set(&mut fields.workflow_file, self.workflow_file);
        set(&mut fields.cicd_url, self.cicd_url);
        set(
            &mut fields.metadata,
            self.metadata.map(|m| m.map(|value| value.to_string())),
        );
        fields.published = self.published.unwrap_or(fields.published);
        fields.public = self.is_public.unwrap_or(fields.public);
        Ok(fields)
    }
}

/// `GET /api/organization/{org}/box`.
pub async fn list(gateway: &Gateway, call: Call) -> Answer {
    let name: OrganizationName = call.name("org")?;
    let Some(organization) = gateway.metadata.organization(&name).await? else {
        return Err(Refusal::missing("Organization", name.as_str()));
    };
    listing(gateway, &call, BoxFilter::Organization(organization.id)).await
}

/// `GET /api/discover`.
pub async fn discover(gateway: &Gateway, call: Call) -> Answer {
    let account = call.grant.principal.as_ref().map(|p| p.account.id);
    listing(gateway, &call, BoxFilter::Discover(account)).await
}

async fn listing(gateway: &Gateway, call: &Call, filter: BoxFilter) -> Answer {
    let trees = gateway.metadata.box_trees(filter).await?;
    let principal = call.grant.principal.as_ref();
    let rows: Vec<Value> = trees
        .into_iter()
        .filter(|tree| auth::is_listed(principal, &tree.row))
        .map(|tree| shape::tree(&auth::shown(principal, tree), shape::Detail::Listed))
        .collect();
    Ok(response::json(StatusCode::OK, &Value::Array(rows)))
}

/// `GET /api/organization/{org}/box/{box}` for everyone but Vagrant.
pub async fn show(gateway: &Gateway, call: Call) -> Answer {
    let row = call.row()?;
    let tree = gateway
        .metadata
        .box_tree(row.organization, &row.name)
        .await?;
    let tree = tree.ok_or_else(|| auth::no_box(&call.names))?;
    let tree = auth::shown(call.grant.principal.as_ref(), tree);
    Ok(response::json(
        StatusCode::OK,
        &shape::tree(&tree, shape::Detail::Single),
    ))
}

/// `POST /api/organization/{org}/box`.
pub async fn create(gateway: &Gateway, mut call: Call) -> Answer {
    let asked: Asked = call.json(&gateway.settings.limits).await?;
    let Some(text) = &asked.name else {
        return Err(Refusal::invalid(
            "'name' is required: the name of the new box.",
        ));
    };
    let name: BoxName = text.parse().map_err(Refusal::name)?;
    free_box_name(text).map_err(Refusal::invalid)?;
    let fields = asked.onto(BoxFields::default())?;
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
        .map_err(|e| taken(e, "Box", name.as_str()))?;
    Ok(response::json(
        StatusCode::CREATED,
        &shape::without_unset(shape::box_row(&row)),
    ))
}

/// `PUT /api/organization/{org}/box/{box}`.
pub async fn update(gateway: &Gateway, mut call: Call) -> Answer {
    let asked: Asked = call.json(&gateway.settings.limits).await?;
    let row = call.row()?;
    let name = asked
        .name
        .as_deref()
        .map(str::parse::<BoxName>)
        .transpose()
        .map_err(Refusal::name)?;
    if let Some(name) = name
        .as_ref()
        .filter(|name| name.folded() != row.name.folded())
    {
        free_box_name(name.as_str()).map_err(Refusal::invalid)?;
    }
    let fields = asked.onto(row.fields.clone())?;
    let changed = gateway
        .metadata
        .update_box(row.id, name.as_ref(), fields, call.principal()?.name())
        .await
        .map_err(|e| taken(e, "Box", name.as_ref().map_or("", BoxName::as_str)))?;
    Ok(response::json(StatusCode::OK, &shape::box_row(&changed)))
}

/// `DELETE /api/organization/{org}/box/{box}`.
pub async fn delete(gateway: &Gateway, call: Call) -> Answer {
    if !gateway
        .metadata
        .delete_box(call.row()?.id, call.principal()?.name())
        .await?
    {
        return Err(auth::no_box(&call.names));
    }
    Ok(response::json(
        StatusCode::OK,
        &message("Box deleted successfully."),
    ))
}

/// `DELETE /api/organization/{org}/box`.
pub async fn delete_all(gateway: &Gateway, call: Call) -> Answer {
    let actor = call.principal()?.name();
    let filter = BoxFilter::Organization(call.organization()?.id);
    let mut deleted = 0;
    for tree in gateway.metadata.box_trees(filter).await? {
        deleted += u32::from(gateway.metadata.delete_box(tree.row.id, actor).await?);
    }
    Ok(response::json(
        StatusCode::OK,
        &message(format!("{deleted} boxes deleted successfully.")),
    ))
}
