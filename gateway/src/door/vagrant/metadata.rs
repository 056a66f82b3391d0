//! Box metadata as Vagrant 2.3 and 2.4 read it.
//!
//! What one client chokes on is never listed: versions outside the RubyGems grammar, versions without
//! a stored file, checksum types beyond what it can verify. Nor is a file whose SHA-256 is not known yet: what it replaced
//! is shown until then, by the URL that leads to those bytes.

use boxgate_storage::catalog::version::{compare, is_listable, without_v};
use boxgate_storage::catalog::{BoxRef, OrganizationName};
use boxgate_storage::digest::{Blake3, Sha256};
use boxgate_storage::metadata::catalog::{
    ArchitectureTree, BoxTree, FileRow, ProviderTree, VersionStatus, VersionTree,
};
use serde_json::{Value, json};

use crate::markdown;

/// The metadata of a box; `origin` starts every URL in it.
pub fn render(tree: &BoxTree, origin: &str) -> Value {
    let mut versions: Vec<&VersionTree> = tree.versions.iter().filter(|v| is_listed(v)).collect();
    versions.sort_by(|a, b| compare(b.row.name.as_str(), a.row.name.as_str()));
    let list: Vec<Value> = versions
        .into_iter()
        .map(|v| version(tree, v, origin))
        .collect();
    json!({
        "name": format!("{}/{}", tree.organization_name, tree.row.name),
        "description": tree.row.fields.description,
        "short_description": tree.row.fields.short_description,
        "versions": list,
    })
}

fn is_listed(version: &VersionTree) -> bool {
    version.row.status == VersionStatus::Active
        && is_listable(version.row.name.as_str())
        && version
            .providers
            .iter()
            .flat_map(|p| &p.architectures)
            .any(ArchitectureTree::is_listed)
}

fn version(tree: &BoxTree, version: &VersionTree, origin: &str) -> Value {
    let mut providers = Vec::new();
    for provider in &version.providers {
        let mut all: Vec<&ArchitectureTree> = provider.architectures.iter().collect();
        // Vagrant 2.3 knows no architectures and takes the last entry of a name; 2.4 picks its own.
        all.sort_by_key(|a| a.row.default_box);
        for architecture in all {
            let shown = architecture.shown_file();
            if let Some((file, sha256)) = shown.and_then(|file| Some((file, file.blob.sha256?))) {
                let bytes = (file, sha256);
                providers.push(entry(tree, version, provider, architecture, bytes, origin));
            } else if let (None, Some(url)) = (&architecture.file, &architecture.row.announced.url)
            {
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
    (file, sha256): (&FileRow, Sha256),
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
        "checksum": sha256.to_hex(),
        "checksum_type": "sha256",
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
