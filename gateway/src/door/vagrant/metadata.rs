//! Box metadata as Vagrant 2.3 and 2.4 read it.
//!
//! What one client chokes on is never listed: versions outside the RubyGems grammar, versions without
//! a stored file, checksum types beyond what it can verify. Nor is a file whose SHA-256 is not known yet: what it replaced
//! is shown until then, by the URL that leads to those bytes.

use boxgate_storage::catalog::version::{compare, is_listable, without_v};
use boxgate_storage::catalog::{BoxRef, OrganizationName};
use boxgate_storage::digest::Blake3;
use boxgate_storage::metadata::catalog::{
    ArchitectureTree, BoxTree, FileRow, ProviderTree, VersionStatus, VersionTree,
};
use serde_json::{Value, json};

use crate::markdown;

/// The digest by which whoever reads the metadata compares what it downloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ComparedBy {
    /// As Vagrant does.
    Sha256,
    /// As `boxgate pull` does, which is shown also what has no other digest yet (`?by=blake3`).
    Blake3,
}

impl ComparedBy {
    /// What the query says; nothing stands for SHA-256.
    pub fn of_query(by: Option<&str>) -> Self {
        match by {
            Some("blake3") => Self::Blake3,
            _ => Self::Sha256,
        }
    }

    fn shown(self, architecture: &ArchitectureTree) -> Option<&FileRow> {
        match self {
            Self::Sha256 => architecture.shown_file(),
            Self::Blake3 => architecture.file.as_ref(),
        }
    }
}

/// The metadata of a box; `origin` starts every URL in it.
pub fn render(tree: &BoxTree, origin: &str, by: ComparedBy) -> Value {
    let versions = tree.versions.iter().filter(|v| is_listed(v, by));
    let mut versions: Vec<&VersionTree> = versions.collect();
    versions.sort_by(|a, b| compare(b.row.name.as_str(), a.row.name.as_str()));
    let list: Vec<Value> = versions
        .into_iter()
        .map(|v| version(tree, v, origin, by))
        .collect();
    json!({
        "name": format!("{}/{}", tree.organization_name, tree.row.name),
        "description": tree.row.fields.description,
        "short_description": tree.row.fields.short_description,
        "versions": list,
    })
}

fn is_listed(version: &VersionTree, by: ComparedBy) -> bool {
    version.row.status == VersionStatus::Active
        && is_listable(version.row.name.as_str())
        && version
            .providers
            .iter()
            .flat_map(|p| &p.architectures)
            .any(|a| by.shown(a).is_some() || url_elsewhere(a).is_some())
}

fn url_elsewhere(architecture: &ArchitectureTree) -> Option<&str> {
    let url = architecture.row.announced.url.as_deref();
    url.filter(|_| architecture.file.is_none())
}

fn version(tree: &BoxTree, version: &VersionTree, origin: &str, by: ComparedBy) -> Value {
    let mut providers = Vec::new();
    for provider in &version.providers {
        let mut all: Vec<&ArchitectureTree> = provider.architectures.iter().collect();
        // Vagrant 2.3 knows no architectures and takes the last entry of a name; 2.4 picks its own.
        all.sort_by_key(|a| a.row.default_box);
        for architecture in all {
            if let Some(file) = by.shown(architecture) {
                providers.push(entry(tree, version, provider, architecture, file, origin));
            } else if let Some(url) = url_elsewhere(architecture) {
                providers.push(elsewhere(provider, architecture, url));
            }
        }
    }
    let markdown = version.row.fields.description.as_deref();
    json!({
        "version": without_v(version.row.name.as_str()),
        "status": "active",
        "description_html": markdown.map(markdown::html),
        "description_markdown": markdown,
        "providers": providers,
    })
}

fn entry(
    tree: &BoxTree,
    version: &VersionTree,
    provider: &ProviderTree,
    architecture: &ArchitectureTree,
    file: &FileRow,
    origin: &str,
) -> Value {
    let name = full_name(
        &tree.organization_name,
        tree,
        version,
        provider,
        architecture,
    );
    json!({
        "name": provider.row.name.as_str(),
        "url": format!("{origin}{}", file_path(&name, &file.blob.blake3)),
        // Vagrant 2.3 knows types in lower case only, and fails the add on one that it does not know.
        "checksum": file.blob.sha256.map(|sha256| sha256.to_hex()),
        "checksum_type": file.blob.sha256.map(|_known| "sha256"),
        "blake3": file.blob.blake3.to_hex(),
        "size": file.blob.length,
        "architecture": architecture.row.name.as_str(),
        "default_architecture": architecture.row.default_box,
    })
}

/// A box that another server has.
fn elsewhere(provider: &ProviderTree, architecture: &ArchitectureTree, url: &str) -> Value {
    // Vagrant gives up on a type that it does not know, and checks nothing without one.
    let checksum = architecture.row.announced.checksum.clone();
    let (kind, value) = checksum.filter(|(kind, _)| kind != "blake3").unzip();
    json!({
        "name": provider.row.name.as_str(), "url": url, "checksum": value, "checksum_type": kind,
        "architecture": architecture.row.name.as_str(),
        "default_architecture": architecture.row.default_box,
    })
}

fn full_name(
    organization: &OrganizationName,
    tree: &BoxTree,
    version: &VersionTree,
    provider: &ProviderTree,
    architecture: &ArchitectureTree,
) -> BoxRef {
    BoxRef {
        organization: organization.clone(),
        name: tree.row.name.clone(),
        version: version.row.name.clone(),
        provider: provider.row.name.clone(),
        architecture: architecture.row.name.clone(),
    }
}

/// The path of a box file whose bytes never change.
pub fn file_path(name: &BoxRef, digest: &Blake3) -> String {
    format!(
        "/{}/boxes/{}/versions/{}/providers/{}/{}/vagrant.box?b3={}",
        name.organization,
        name.name,
        name.version,
        name.provider,
        name.architecture,
        digest.to_hex()
    )
}

#[cfg(test)]
mod tests;
