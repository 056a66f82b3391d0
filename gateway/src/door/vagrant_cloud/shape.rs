//! Vagrant Cloud's JSON. Times are ISO-8601 with milliseconds: to its clients a thing without `created_at` does not exist.

use boxgate_storage::catalog::version::{compare, is_listable};
use boxgate_storage::metadata::catalog::{
    ArchitectureRow, ArchitectureTree, BoxTree, FileRow, ProviderRow, ProviderTree, VersionRow,
    VersionStatus, VersionTree,
};
use serde_json::{Value, json};

use crate::call::Call;
use crate::door::boxvault::shape::time;
use crate::gateway::Gateway;
use crate::markdown::html;

/// Where the URLs in an answer begin.
#[derive(Debug, Clone)]
pub struct Roots {
    /// This API, at the version that was asked.
    pub api: String,
    /// What Vagrant reads.
    pub boxes: String,
}

impl Roots {
    /// Those of an answer to `call`.
    pub fn of(gateway: &Gateway, call: &Call) -> Self {
        let base = gateway.base_url(&call.facts);
        let doors = &gateway.settings.doors;
        let version = if call.row.path.starts_with("/api/v2/") {
            "v2"
        } else {
            "v1"
        };
        Self {
            api: format!("{base}{}/api/{version}", doors.vagrant_cloud.prefix),
            boxes: format!("{base}{}", doors.vagrant.prefix),
        }
    }
}

/// Which versions of a box are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Versions {
    /// All of them.
    All,
    /// Those that anyone may have.
    Released,
    /// None, and not that there are any.
    Unsaid,
}

/// A box.
pub fn a_box(roots: &Roots, tree: &BoxTree, shown: Versions) -> Value {
    let fields = &tree.row.fields;
    let tag = format!("{}/{}", tree.organization_name, tree.row.name);
    let files = tree
        .versions
        .iter()
        .flat_map(|v| &v.providers)
        .flat_map(|p| &p.architectures)
        .filter_map(|a| a.file.as_ref());
    let mut versions: Vec<&VersionTree> = tree.versions.iter().collect();
    versions.sort_by(|a, b| compare(b.row.name.as_str(), a.row.name.as_str()));
    let current = versions.iter().find(|v| is_current(v));
    let mut document = json!({
        "tag": tag, "username": tree.organization_name.as_str(), "name": tree.row.name.as_str(),
        "private": !fields.public, "downloads": files.map(|file| file.downloads).sum::<u64>(),
        "short_description": fields.short_description, "description": fields.description,
        "description_markdown": fields.description,
        "description_html": fields.description.as_deref().map(html),
        "created_at": time(tree.row.created), "updated_at": time(tree.row.updated),
        "current_version": current.map(|v| version(roots, &tag, v)),
    });
    if shown != Versions::Unsaid {
        let list = versions
            .into_iter()
            .filter(|v| shown == Versions::All || is_released(v))
            .map(|v| version(roots, &tag, v));
        document["versions"] = list.collect();
    }
    document
}

fn is_released(version: &VersionTree) -> bool {
    let mut places = version.providers.iter().flat_map(|p| &p.architectures);
    version.row.status == VersionStatus::Active && places.any(ArchitectureTree::is_listed)
}

fn is_current(version: &VersionTree) -> bool {
    is_released(version) && is_listable(version.row.name.as_str())
}

/// A version of the box `tag`.
pub fn version(roots: &Roots, tag: &str, tree: &VersionTree) -> Value {
    let providers: Vec<Value> = places(tree)
        .map(|(provider, architecture)| {
            let file = architecture.file.as_ref();
            let place = (&provider.row, &architecture.row, file);
            a_provider(roots, (tag, &tree.row), place)
        })
        .collect();
    version_row(roots, tag, &tree.row, &providers)
}

/// A version with these providers.
pub fn version_row(roots: &Roots, tag: &str, row: &VersionRow, providers: &[Value]) -> Value {
    // As it was made: clients look for it by that spelling, and would make it again.
    let name = row.name.as_str();
    let markdown = row.fields.description.as_deref();
    let url = format!("{}/box/{tag}/version/{name}", roots.api);
    json!({
        "version": name, "number": name, "status": row.status.as_str(),
        "description": markdown, "description_markdown": markdown,
        "description_html": markdown.map(html),
        "created_at": time(row.created), "updated_at": time(row.updated),
        "release_url": format!("{url}/release"), "revoke_url": format!("{url}/revoke"),
        "providers": providers,
    })
}

/// All places for boxes of a version. Clients that know no architectures take the first of a name, which is its default.
fn places(version: &VersionTree) -> impl Iterator<Item = (&ProviderTree, &ArchitectureTree)> {
    version.providers.iter().flat_map(|provider| {
        let mut list: Vec<&ArchitectureTree> = provider.architectures.iter().collect();
        list.sort_by_key(|a| !a.row.default_box);
        list.into_iter().map(move |a| (provider, a))
    })
}

/// A provider for one architecture, of a version of the box `tag`.
pub fn a_provider(
    roots: &Roots,
    (tag, version): (&str, &VersionRow),
    (provider, architecture, file): (&ProviderRow, &ArchitectureRow, Option<&FileRow>),
) -> Value {
    let checksum = shown_checksum(architecture, file);
    let (kind, value) = checksum.unzip();
    let announced = &architecture.announced;
    let own = || {
        let (org, name) = tag.split_once('/').unwrap_or((tag, ""));
        format!(
            "{}/{org}/boxes/{name}/versions/{}/providers/{}/{}/vagrant.box",
            roots.boxes, version.name, provider.name, architecture.name
        )
    };
    let elsewhere = announced.url.clone().filter(|_| file.is_none());
    json!({
        "name": provider.name.as_str(), "architecture": architecture.name.as_str(),
        "default_architecture": architecture.default_box,
        "hosted": elsewhere.is_none(), "hosted_token": null, "original_url": announced.url,
        "url": announced.url, "download_url": elsewhere.unwrap_or_else(own),
        "checksum": value, "checksum_type": kind, "size": file.map(|f| f.blob.length),
        "created_at": time(architecture.created), "updated_at": time(architecture.updated),
    })
}

/// Type and value of the checksum that is shown: of the stored box, else what one to come must have; none while that of
/// the stored box is deferred.
pub fn shown_checksum(
    architecture: &ArchitectureRow,
    file: Option<&FileRow>,
) -> Option<(String, String)> {
    let Some(file) = file else {
        return architecture.announced.checksum.clone();
    };
    // Vagrant gives up on a type that it does not know.
    let declared = file.declared.as_ref().filter(|(kind, _)| kind != "BLAKE3");
    let declared = declared.map(|(kind, value)| (kind.to_ascii_lowercase(), value.clone()));
    let of_bytes = || Some(("sha256".to_owned(), file.blob.sha256?.to_hex()));
    declared.or_else(of_bytes)
}
