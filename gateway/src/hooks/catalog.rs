//! What plugins do to boxes (`box::`): a deed, granted already, to changes of rows. It acts as `script:<plugin>`.

use boxgate_scripting::catalog::{Catalog, Deed, Verb};
use boxgate_storage::catalog::{
    ArchitectureName, BoxName, OrganizationName, ProviderName, VersionName,
};
use boxgate_storage::error::chain;
use boxgate_storage::metadata::catalog::{BoxFilter, BoxTree, VersionStatus, VersionTree};
use boxgate_storage::metadata::uploads::Labels;
use boxgate_storage::metadata::{Cause, Metadata};
use serde_json::{Value, json};
use tokio::runtime::Handle;

/// Boxes or versions that are told at once: as many as a script's array may hold.
const MOST: usize = 4_000;

/// The boxes, for plugins.
#[derive(Debug)]
pub struct ScriptCatalog {
    metadata: Metadata,
    handle: Handle,
}

impl ScriptCatalog {
    /// Those of these rows; calls wait on threads of their own for what `handle` runs.
    pub fn new(metadata: Metadata, handle: Handle) -> Self {
        Self { metadata, handle }
    }

    async fn perform(&self, deed: &Deed) -> Result<Value, String> {
        let metadata = self.metadata.caused_by(Cause {
            depth: deed.depth,
            plugins: deed.causes.clone(),
        });
        let organization: OrganizationName = parsed(&deed.organization)?;
        let found = metadata.organization(&organization).await;
        let found = found.map_err(|e| chain(&e))?;
        if deed.verb == Verb::Lookup && found.is_none() {
            return Ok(Value::Null);
        }
        let found = found.ok_or_else(|| format!("there is no organization {organization}"))?;
        if deed.verb == Verb::List {
            let trees = metadata.box_trees(BoxFilter::Organization(found.id)).await;
            return listed(&trees.map_err(|e| chain(&e))?);
        }
        let name: BoxName = parsed(&deed.name)?;
        let tree = metadata.box_tree(found.id, &name).await;
        let tree = tree.map_err(|e| chain(&e))?;
        if deed.verb == Verb::Lookup {
            return tree.map_or(Ok(Value::Null), |tree| looked_up(&tree, deed));
        }
        let tree = tree.ok_or_else(|| format!("there is no box {organization}/{name}"))?;
        let actor = format!("script:{}", deed.plugin);
        let done = match deed.verb {
            Verb::List | Verb::Lookup | Verb::Versions => return versions(&tree),
            Verb::Release => {
                let version = version_of(&tree, deed)?;
                let status = VersionStatus::Active;
                metadata
                    .set_version_status(version.row.id, status, &actor)
                    .await
            }
            Verb::Revoke => {
                let version = version_of(&tree, deed)?;
                let status = VersionStatus::Revoked;
                metadata
                    .set_version_status(version.row.id, status, &actor)
                    .await
            }
            Verb::Delete => match version_of(&tree, deed) {
                Ok(version) => metadata.delete_version(version.row.id, &actor).await,
                // Somebody was faster.
                Err(_absent) => Ok(false),
            },
            Verb::SetPublic => {
                let public = deed.value.as_bool().unwrap_or_default();
                metadata.set_public(tree.row.id, public, &actor).await
            }
            Verb::Label => return label(&metadata, &tree, deed, &actor).await,
        };
        done.map(Value::from).map_err(|e| chain(&e))
    }
}

impl Catalog for ScriptCatalog {
    fn perform(&self, deed: &Deed) -> Result<Value, String> {
        self.handle.block_on(self.perform(deed))
    }
}

fn parsed<T>(text: &str) -> Result<T, String>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|e: T::Err| format!("{text:?}: {e}"))
}

fn listed(trees: &[BoxTree]) -> Result<Value, String> {
    if trees.len() > MOST {
        return Err(format!(
            "there are {} boxes, and {MOST} can be told",
            trees.len()
        ));
    }
    let boxes = trees.iter().map(|tree| {
        json!({
            "box": tree.row.name.as_str(), "is_public": tree.row.fields.public,
            "created_at": tree.row.created.0, "updated_at": tree.row.updated.0,
        })
    });
    Ok(boxes.collect())
}

/// A box, or one version of it; null where there is none.
fn looked_up(tree: &BoxTree, deed: &Deed) -> Result<Value, String> {
    let (organization, name) = (tree.organization_name.as_str(), tree.row.name.as_str());
    if deed.below.is_empty() {
        return Ok(json!({
            "organization": organization, "box": name, "is_public": tree.row.fields.public,
            "description": tree.row.fields.description, "created_at": tree.row.created.0,
            "updated_at": tree.row.updated.0, "versions": versions(tree)?,
        }));
    }
    let Ok(version) = version_of(tree, deed) else {
        return Ok(Value::Null);
    };
    let mut files = Vec::new();
    for provider in &version.providers {
        for architecture in &provider.architectures {
            let Some(file) = &architecture.file else {
                continue;
            };
            let checksum = file.blob.checksum();
            files.push(json!({
                "organization": organization, "box": name, "version": version.row.name.as_str(),
                "provider": provider.row.name.as_str(), "architecture": architecture.row.name.as_str(),
                "id": file.blob.key.to_string(), "size": file.blob.length,
                "checksum": checksum.to_hex(), "checksum_type": checksum.algorithm().name(),
                "blake3": file.blob.blake3.to_hex(), "created_at": file.updated.0, "labels": file.labels,
            }));
        }
    }
    Ok(json!({
        "organization": organization, "box": name, "version": version.row.name.as_str(),
        "status": status(version.row.status), "created_at": version.row.created.0, "files": files,
    }))
}

fn versions(tree: &BoxTree) -> Result<Value, String> {
    let count = tree.versions.len();
    if count > MOST {
        return Err(format!(
            "there are {count} versions, and {MOST} can be told"
        ));
    }
    let mut versions: Vec<&VersionTree> = tree.versions.iter().collect();
    versions.sort_by_key(|version| std::cmp::Reverse((version.row.created, version.row.id.0)));
    let told = versions.into_iter().map(|version| {
        let architectures = version.providers.iter().flat_map(|p| &p.architectures);
        let files: Vec<_> = architectures.filter_map(|a| a.file.as_ref()).collect();
        let size: u64 = files.iter().map(|file| file.blob.length).sum();
        json!({
            "version": version.row.name.as_str(), "status": status(version.row.status),
            "created_at": version.row.created.0, "size": size, "files": files.len(),
        })
    });
    Ok(told.collect())
}

fn status(status: VersionStatus) -> &'static str {
    match status {
        VersionStatus::Unreleased => "unreleased",
        VersionStatus::Active => "active",
        VersionStatus::Revoked => "revoked",
    }
}

fn version_of<'t>(tree: &'t BoxTree, deed: &Deed) -> Result<&'t VersionTree, String> {
    let text = deed.below.first().map(String::as_str).unwrap_or_default();
    let name: VersionName = parsed(text)?;
    let mut versions = tree.versions.iter();
    let found = versions.find(|version| version.row.name.folded() == name.folded());
    found.ok_or_else(|| format!("there is no version {name} of {}", tree.row.name))
}

async fn label(
    metadata: &Metadata,
    tree: &BoxTree,
    deed: &Deed,
    actor: &str,
) -> Result<Value, String> {
    let version = version_of(tree, deed)?;
    let [_, provider, architecture] = deed.below.as_slice() else {
        return Err("the blob has no whole name".into());
    };
    let (provider, architecture) = (
        parsed::<ProviderName>(provider)?,
        parsed::<ArchitectureName>(architecture)?,
    );
    let mut providers = version.providers.iter();
    let provider = providers.find(|p| p.row.name.folded() == provider.folded());
    let mut architectures = provider.into_iter().flat_map(|p| &p.architectures);
    let found = architectures.find(|a| a.row.name.folded() == architecture.folded());
    let found = found.ok_or("there is no file of that name")?;
    let labels: Labels = serde_json::from_value(deed.value.clone()).map_err(|e| e.to_string())?;
    let done = metadata.label_file(found.row.id, labels, actor).await;
    done.map(|()| Value::Bool(true)).map_err(|e| chain(&e))
}
