//! Versions, providers and architectures: the three levels between a box and its file.

use boxgate_storage::catalog::version::is_listable;
use boxgate_storage::catalog::{ArchitectureName, ProviderName, VersionName};
use boxgate_storage::metadata::catalog::{
    ArchitectureTree, ProviderTree, VersionFields, VersionStatus, VersionTree,
};
use http::{Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::boxes::given;
use super::{message, shape};
use crate::auth;
use crate::call::Call;
use crate::gateway::Gateway;
use crate::http::response;
use crate::refusal::Refusal;
use crate::server::OutboundBody;

type Answer = Result<Response<OutboundBody>, Refusal>;

#[derive(Deserialize, Default)]
#[serde(default)]
struct AskedVersion {
    #[serde(rename = "versionNumber")]
    version_number: Option<String>,
    version: Option<String>,
    #[serde(deserialize_with = "given")]
    description: Option<Option<String>>,
    // BoxVault takes these in snake case, and shows them in camel case.
    #[serde(alias = "releaseNotes", deserialize_with = "given")]
    release_notes: Option<Option<String>>,
    deprecated: Option<bool>,
    #[serde(alias = "deprecationReason", deserialize_with = "given")]
    deprecation_reason: Option<Option<String>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct AskedProvider {
    name: Option<String>,
    #[serde(deserialize_with = "given")]
    description: Option<Option<String>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct AskedArchitecture {
    name: Option<String>,
    #[serde(deserialize_with = "given")]
    description: Option<Option<String>>,
    default_box: Option<bool>,
}

impl AskedVersion {
    fn onto(self, mut fields: VersionFields) -> VersionFields {
        fields.description = self.description.unwrap_or(fields.description);
        fields.release_notes = self.release_notes.unwrap_or(fields.release_notes);
        fields.deprecated = self.deprecated.unwrap_or(fields.deprecated);
        fields.deprecation_reason = self.deprecation_reason.unwrap_or(fields.deprecation_reason);
        fields
    }
}

fn parse<T: std::str::FromStr<Err = boxgate_storage::catalog::NameError>>(
    text: Option<&str>,
    field: &str,
) -> Result<T, Refusal> {
    text.ok_or_else(|| Refusal::invalid(format!("'{field}' is required.")))?
        .parse()
        .map_err(Refusal::name)
}

/// What Vagrant will make of a version, if it will not list it.
pub fn version_warning(name: &VersionName) -> Option<String> {
    (!is_listable(name.as_str())).then(|| {
        format!(
            "Version '{name}' is stored, but Vagrant cannot list it: it takes numbers with dots, such as 1.2.3."
        )
    })
}

// Versions.

async fn versions_of(gateway: &Gateway, call: &Call) -> Result<Vec<VersionTree>, Refusal> {
    let row = call.row()?;
    let tree = gateway
        .metadata
        .box_tree(row.organization, &row.name)
        .await?;
    let principal = call.grant.principal.as_ref();
    let tree = tree.map(|tree| auth::shown(principal, tree));
    Ok(tree.map(|t| t.versions).unwrap_or_default())
}

async fn version_of(gateway: &Gateway, call: &Call) -> Result<VersionTree, Refusal> {
    let name: VersionName = call.name("version")?;
    let versions = versions_of(gateway, call).await?;
    versions
        .into_iter()
        .find(|v| v.row.name.folded() == name.folded())
        .ok_or_else(|| Refusal::missing("Version", name.as_str()))
}

/// `GET V`.
pub async fn list_versions(gateway: &Gateway, call: Call) -> Answer {
    let versions = versions_of(gateway, &call).await?;
    let rows: Vec<Value> = versions.iter().map(|v| shape::version(&v.row)).collect();
    Ok(response::json(StatusCode::OK, &Value::Array(rows)))
}

/// `POST V`.
pub async fn create_version(gateway: &Gateway, mut call: Call) -> Answer {
    let asked: AskedVersion = call.json(&gateway.settings.limits).await?;
    let text = asked.version_number.as_deref().or(asked.version.as_deref());
    let name: VersionName = parse(text, "versionNumber")?;
    let warning = version_warning(&name);
    let row = gateway
        .metadata
        .create_version(
            call.row()?.id,
            &name,
            VersionStatus::Active,
            asked.onto(VersionFields::default()),
            call.principal()?.name(),
        )
        .await?;
    let mut body = shape::without_unset(shape::version(&row));
    if let Some(warning) = warning {
        body = shape::with(body, json!({ "warnings": [warning] }));
    }
    Ok(response::json(StatusCode::CREATED, &body))
}

/// `GET V/{version}`.
pub async fn show_version(gateway: &Gateway, call: Call) -> Answer {
    let version = version_of(gateway, &call).await?;
    Ok(response::json(
        StatusCode::OK,
        &shape::version(&version.row),
    ))
}

/// `PUT V/{version}`.
pub async fn update_version(gateway: &Gateway, mut call: Call) -> Answer {
    let asked: AskedVersion = call.json(&gateway.settings.limits).await?;
    let version = version_of(gateway, &call).await?;
    let text = asked.version_number.as_deref().or(asked.version.as_deref());
    let name = text
        .map(str::parse::<VersionName>)
        .transpose()
        .map_err(Refusal::name)?;
    let fields = asked.onto(version.row.fields.clone());
    let row = gateway
        .metadata
        .update_version(
            version.row.id,
            name.as_ref(),
            None,
            fields,
            call.principal()?.name(),
        )
        .await?;
    Ok(response::json(StatusCode::OK, &shape::version(&row)))
}

/// `DELETE V/{version}`.
pub async fn delete_version(gateway: &Gateway, call: Call) -> Answer {
    let version = version_of(gateway, &call).await?;
    gateway
        .metadata
        .delete_version(version.row.id, call.principal()?.name())
        .await?;
    Ok(response::json(
        StatusCode::OK,
        &message("Version deleted successfully."),
    ))
}

/// `DELETE V`.
pub async fn delete_versions(gateway: &Gateway, call: Call) -> Answer {
    let actor = call.principal()?.name();
    for version in versions_of(gateway, &call).await? {
        gateway
            .metadata
            .delete_version(version.row.id, actor)
            .await?;
    }
    Ok(response::json(
        StatusCode::OK,
        &message("All versions deleted successfully."),
    ))
}

// Providers.

async fn provider_of(gateway: &Gateway, call: &Call) -> Result<ProviderTree, Refusal> {
    let name: ProviderName = call.name("provider")?;
    let version = version_of(gateway, call).await?;
    version
        .providers
        .into_iter()
        .find(|p| p.row.name.folded() == name.folded())
        .ok_or_else(|| Refusal::missing("Provider", name.as_str()))
}

/// `GET P`.
pub async fn list_providers(gateway: &Gateway, call: Call) -> Answer {
    let version = version_of(gateway, &call).await?;
    let rows: Vec<Value> = version
        .providers
        .iter()
        .map(|p| shape::provider(&p.row))
        .collect();
    Ok(response::json(StatusCode::OK, &Value::Array(rows)))
}

/// `POST P`.
pub async fn create_provider(gateway: &Gateway, mut call: Call) -> Answer {
    let asked: AskedProvider = call.json(&gateway.settings.limits).await?;
    let name: ProviderName = parse(asked.name.as_deref(), "name")?;
    let version = version_of(gateway, &call).await?;
    let description = asked.description.flatten();
    let row = gateway
        .metadata
        .create_provider(
            version.row.id,
            &name,
            description.as_deref(),
            call.principal()?.name(),
        )
        .await?;
    Ok(response::json(
        StatusCode::CREATED,
        &shape::without_unset(shape::provider(&row)),
    ))
}

/// `GET P/{provider}`.
pub async fn show_provider(gateway: &Gateway, call: Call) -> Answer {
    let provider = provider_of(gateway, &call).await?;
    Ok(response::json(
        StatusCode::OK,
        &shape::provider(&provider.row),
    ))
}

/// `PUT P/{provider}`.
pub async fn update_provider(gateway: &Gateway, mut call: Call) -> Answer {
    let asked: AskedProvider = call.json(&gateway.settings.limits).await?;
    let provider = provider_of(gateway, &call).await?;
    let name = asked
        .name
        .as_deref()
        .map(str::parse::<ProviderName>)
        .transpose()
        .map_err(Refusal::name)?;
    let description = asked.description.unwrap_or(provider.row.description);
    let actor = call.principal()?.name();
    let row = gateway
        .metadata
        .update_provider(
            provider.row.id,
            name.as_ref(),
            description.as_deref(),
            actor,
        )
        .await?;
    Ok(response::json(StatusCode::OK, &shape::provider(&row)))
}

/// `DELETE P/{provider}`.
pub async fn delete_provider(gateway: &Gateway, call: Call) -> Answer {
    let provider = provider_of(gateway, &call).await?;
    gateway
        .metadata
        .delete_provider(provider.row.id, call.principal()?.name())
        .await?;
    Ok(response::json(
        StatusCode::OK,
        &message("Provider deleted successfully."),
    ))
}

/// `DELETE P`.
pub async fn delete_providers(gateway: &Gateway, call: Call) -> Answer {
    let actor = call.principal()?.name();
    for provider in version_of(gateway, &call).await?.providers {
        gateway
            .metadata
            .delete_provider(provider.row.id, actor)
            .await?;
    }
    Ok(response::json(
        StatusCode::OK,
        &message("All providers deleted successfully."),
    ))
}

// Architectures.

/// The architecture that the path names, with its file.
///
/// # Errors
/// 404 naming the level that is missing.
pub async fn architecture_of(gateway: &Gateway, call: &Call) -> Result<ArchitectureTree, Refusal> {
    let name: ArchitectureName = call.name("arch")?;
    let provider = provider_of(gateway, call).await?;
    provider
        .architectures
        .into_iter()
        .find(|a| a.row.name.folded() == name.folded())
        .ok_or_else(|| Refusal::missing("Architecture", name.as_str()))
}

/// `GET A`.
pub async fn list_architectures(gateway: &Gateway, call: Call) -> Answer {
    let provider = provider_of(gateway, &call).await?;
    let rows: Vec<Value> = provider
        .architectures
        .iter()
        .map(|a| shape::architecture(&a.row))
        .collect();
    Ok(response::json(StatusCode::OK, &Value::Array(rows)))
}

/// `POST A`.
pub async fn create_architecture(gateway: &Gateway, mut call: Call) -> Answer {
    let asked: AskedArchitecture = call.json(&gateway.settings.limits).await?;
    let name: ArchitectureName = parse(asked.name.as_deref(), "name")?;
    let provider = provider_of(gateway, &call).await?;
    let description = asked.description.flatten();
    let row = gateway
        .metadata
        .create_architecture(
            provider.row.id,
            &name,
            description.as_deref(),
            asked.default_box.unwrap_or(false),
            call.principal()?.name(),
        )
        .await?;
    Ok(response::json(
        StatusCode::CREATED,
        &shape::without_unset(shape::architecture(&row)),
    ))
}

/// `GET A/{arch}`.
pub async fn show_architecture(gateway: &Gateway, call: Call) -> Answer {
    let architecture = architecture_of(gateway, &call).await?;
    Ok(response::json(
        StatusCode::OK,
        &shape::architecture(&architecture.row),
    ))
}

/// `PUT A/{arch}`.
pub async fn update_architecture(gateway: &Gateway, mut call: Call) -> Answer {
    let asked: AskedArchitecture = call.json(&gateway.settings.limits).await?;
    let architecture = architecture_of(gateway, &call).await?;
    let name = asked
        .name
        .as_deref()
        .map(str::parse::<ArchitectureName>)
        .transpose()
        .map_err(Refusal::name)?;
    let description = asked.description.unwrap_or(architecture.row.description);
    let row = gateway
        .metadata
        .update_architecture(
            architecture.row.id,
            name.as_ref(),
            description.as_deref(),
            asked.default_box,
            call.principal()?.name(),
        )
        .await?;
    Ok(response::json(StatusCode::OK, &shape::architecture(&row)))
}

/// `DELETE A/{arch}`.
pub async fn delete_architecture(gateway: &Gateway, call: Call) -> Answer {
    let architecture = architecture_of(gateway, &call).await?;
    gateway
        .metadata
        .delete_architecture(architecture.row.id, call.principal()?.name())
        .await?;
    Ok(response::json(
        StatusCode::OK,
        &message("Architecture deleted successfully."),
    ))
}

/// `DELETE A`.
pub async fn delete_architectures(gateway: &Gateway, call: Call) -> Answer {
    let actor = call.principal()?.name();
    for architecture in provider_of(gateway, &call).await?.architectures {
        gateway
            .metadata
            .delete_architecture(architecture.row.id, actor)
            .await?;
    }
    Ok(response::json(
        StatusCode::OK,
        &message("All architectures deleted successfully."),
    ))
}
