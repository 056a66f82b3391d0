//! Versions: made unreleased, read, changed, released, revoked, deleted.

use boxgate_storage::catalog::VersionName;
use boxgate_storage::metadata::catalog::{BoxTree, VersionFields, VersionStatus, VersionTree};
use http::StatusCode;
use serde_json::{Value, json};

use super::Answer;
use super::body::Fields;
use super::boxes::{shown_to, taken, tree_of};
use super::shape::{self, Roots, Versions};
use crate::call::Call;
use crate::door::boxvault::levels::version_warning;
use crate::door::boxvault::shape::with;
use crate::gateway::Gateway;
use crate::http::response;
use crate::refusal::Refusal;

/// The box that the path names, and the version of it that the path names.
///
/// # Errors
/// 404 when one is not there, or is not for the caller to see.
pub async fn version_of(gateway: &Gateway, call: &Call) -> Result<(BoxTree, VersionTree), Refusal> {
    let name: VersionName = call.name("version")?;
    let mut tree = tree_of(gateway, call).await?;
    let all = shown_to(call, &tree) == Versions::All;
    let at = tree.versions.iter().position(|v| {
        v.row.name.folded() == name.folded() && (all || v.row.status == VersionStatus::Active)
    });
    let missing = || Refusal::missing("Version", name.as_str());
    let version = tree.versions.swap_remove(at.ok_or_else(missing)?);
    Ok((tree, version))
}

/// `acme/demo`.
pub fn tag(tree: &BoxTree) -> String {
    format!("{}/{}", tree.organization_name, tree.row.name)
}

async fn answered(gateway: &Gateway, call: &Call) -> Result<Value, Refusal> {
    let (tree, version) = version_of(gateway, call).await?;
    let roots = Roots::of(gateway, call);
    Ok(shape::version(&roots, &tag(&tree), &version))
}

/// `POST box/:org/:name/versions`.
pub async fn create(gateway: &Gateway, mut call: Call) -> Answer {
    let sent = Fields::read(&mut call, &gateway.settings.limits, "version").await?;
    let name: VersionName = sent.required("version")?.parse().map_err(Refusal::name)?;
    let fields = VersionFields {
        description: sent.text("description")?.flatten(),
        ..VersionFields::default()
    };
    let status = VersionStatus::Unreleased;
    let actor = call.principal()?.name();
    let row = gateway
        .metadata
        .create_version(call.row()?.id, &name, status, fields, actor)
        .await;
    let tree = tree_of(gateway, &call).await?;
    let row = row.map_err(|e| taken(e, &spelled(&tree, &name)))?;
    let roots = Roots::of(gateway, &call);
    let mut document = shape::version_row(&roots, &tag(&tree), &row, &[]);
    if let Some(warning) = version_warning(&name) {
        document = with(document, json!({ "warnings": [warning] }));
    }
    Ok(response::json(StatusCode::OK, &document))
}

/// A version that is there, with the spelling that it has there.
fn spelled(tree: &BoxTree, name: &VersionName) -> String {
    let mut rows = tree.versions.iter().map(|v| &v.row);
    let there = rows.find(|row| row.name.folded() == name.folded());
    match there {
        Some(row) if row.name != *name => format!("Version '{name}' (here '{}')", row.name),
        _ => format!("Version '{name}'"),
    }
}

/// `GET V`.
pub async fn show(gateway: &Gateway, call: Call) -> Answer {
    let document = answered(gateway, &call).await?;
    Ok(response::json(StatusCode::OK, &document))
}

/// `PUT V`.
pub async fn update(gateway: &Gateway, mut call: Call) -> Answer {
    let sent = Fields::read(&mut call, &gateway.settings.limits, "version").await?;
    let (tree, mut version) = version_of(gateway, &call).await?;
    let name = sent
        .given("version")?
        .map(|text| text.parse::<VersionName>())
        .transpose()
        .map_err(Refusal::name)?;
    // A client that repeats the name does not mean to spell it anew.
    let name = name.filter(|name| name.folded() != version.row.name.folded());
    let mut fields = version.row.fields.clone();
    if let Some(text) = sent.text("description")? {
        fields.description = text;
    }
    let actor = call.principal()?.name();
    version.row = gateway
        .metadata
        .update_version(version.row.id, name.as_ref(), None, fields, actor)
        .await
        .map_err(|e| taken(e, "That version"))?;
    let document = shape::version(&Roots::of(gateway, &call), &tag(&tree), &version);
    Ok(response::json(StatusCode::OK, &document))
}

/// `PUT V/release`, `PUT V/revoke`: the same again changes nothing.
pub async fn set_status(gateway: &Gateway, call: Call, status: VersionStatus) -> Answer {
    let (_, version) = version_of(gateway, &call).await?;
    if status == VersionStatus::Revoked && version.row.status == VersionStatus::Unreleased {
        return Err(Refusal::invalid(format!(
            "Version '{}' was never released, so there is nothing to revoke.",
            version.row.name
        )));
    }
    let actor = call.principal()?.name();
    let metadata = &gateway.metadata;
    metadata
        .set_version_status(version.row.id, status, actor)
        .await?;
    let document = answered(gateway, &call).await?;
    Ok(response::json(StatusCode::OK, &document))
}

/// `DELETE V`: answered with what it was.
pub async fn delete(gateway: &Gateway, call: Call) -> Answer {
    let (tree, version) = version_of(gateway, &call).await?;
    let document = shape::version(&Roots::of(gateway, &call), &tag(&tree), &version);
    let actor = call.principal()?.name();
    gateway
        .metadata
        .delete_version(version.row.id, actor)
        .await?;
    Ok(response::json(StatusCode::OK, &document))
}
