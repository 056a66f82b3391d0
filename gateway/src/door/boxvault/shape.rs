//! BoxVault's JSON: camelCase, integer ids, times as ISO-8601 with milliseconds.
//!
//! Reads show every field, `null` where unset; answers to creation leave unset fields out.

use boxgate_storage::blob::BlobMeta;
use boxgate_storage::clock::UnixMillis;
use boxgate_storage::metadata::accounts::{Account, Organization};
use boxgate_storage::metadata::catalog::{
    ArchitectureRow, ArchitectureTree, BoxRow, BoxTree, FileRow, Iso, ProviderRow, ProviderTree,
    VersionRow, VersionTree,
};
use boxgate_storage::metadata::uploads::Target;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

/// `2026-11-21T19:04:45.990Z`.
pub fn time(at: UnixMillis) -> String {
    jiff::Timestamp::from_millisecond(at.0).map_or_else(
        |_out_of_range| String::new(),
        |t| t.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
    )
}

/// The same object without its unset fields, as answers to creation have it.
pub fn without_unset(mut value: Value) -> Value {
    if let Value::Object(fields) = &mut value {
        fields.retain(|_, v| !v.is_null());
    }
    value
}

/// Gravatar's hash of an address, which BoxVault's page shows pictures by.
pub fn email_hash(email: Option<&str>) -> Value {
    email.map_or(Value::Null, |email| {
        hex::encode(Sha256::digest(email.trim().to_ascii_lowercase().as_bytes())).into()
    })
}

/// An organization's row.
pub fn organization(o: &Organization) -> Value {
    json!({
        "id": o.id.0, "name": o.name.as_str(), "email": o.email, "emailHash": email_hash(o.email.as_deref()),
        "description": o.description, "logo": null, "url": null, "telephone": null, "locale": null,
        "timezone": null, "address": null, "org_code": o.org_code, "suspended": o.suspended,
        "access_mode": o.access_mode, "default_role": o.default_role.as_str(), "display_name": null,
        "external_issuer": null, "external_org_id": null,
        "createdAt": time(o.created), "updatedAt": time(o.updated),
    })
}

/// An account without anything secret.
pub fn account(a: &Account) -> Value {
    json!({
        "id": a.id.0, "username": a.username, "name": a.name, "email": a.email,
        "emailHash": email_hash(a.email.as_deref()),
        "role": match a.role {
            boxgate_storage::metadata::accounts::PlatformRole::Admin => "admin",
            boxgate_storage::metadata::accounts::PlatformRole::User => "user",
        },
        "suspended": a.suspended, "createdAt": time(a.created), "updatedAt": time(a.updated),
    })
}

/// A box's row.
pub fn box_row(row: &BoxRow) -> Value {
    let f = &row.fields;
    json!({
        "id": row.id.0, "name": row.name.as_str(), "description": f.description,
        "shortDescription": f.short_description, "readme": f.readme, "githubRepo": f.github_repo,
        "workflowFile": f.workflow_file, "cicdUrl": f.cicd_url,
        "metadata": f.metadata.as_deref().and_then(|m| serde_json::from_str::<Value>(m).ok()),
        "artwork": null, "published": f.published, "isPublic": f.public,
        "organizationId": row.organization.0, "userId": row.account.0,
        "createdAt": time(row.created), "updatedAt": time(row.updated),
    })
}

/// A version's row.
pub fn version(row: &VersionRow) -> Value {
    json!({
        "id": row.id.0, "versionNumber": row.name.as_str(), "description": row.fields.description,
        "releaseNotes": row.fields.release_notes, "deprecated": row.fields.deprecated,
        "deprecationReason": row.fields.deprecation_reason, "boxId": row.box_id.0,
        "createdAt": time(row.created), "updatedAt": time(row.updated),
    })
}

/// A provider's row.
pub fn provider(row: &ProviderRow) -> Value {
    json!({
        "id": row.id.0, "name": row.name.as_str(), "description": row.description,
        "versionId": row.version_id.0, "createdAt": time(row.created), "updatedAt": time(row.updated),
    })
}

/// An architecture's row.
pub fn architecture(row: &ArchitectureRow) -> Value {
    json!({
        "id": row.id.0, "name": row.name.as_str(), "description": row.description,
        "defaultBox": row.default_box, "providerId": row.provider_id.0,
        "createdAt": time(row.created), "updatedAt": time(row.updated),
    })
}

/// Checksum and its type as BoxVault would show them: what the uploader declared, else the SHA-256 that was computed,
/// and BLAKE3 while that is deferred.
pub fn checksum(file: &FileRow) -> (String, String) {
    if let Some((kind, value)) = &file.declared {
        return (value.clone(), kind.clone());
    }
    let checksum = file.blob.checksum();
    let kind = checksum.algorithm().name().to_uppercase();
    (checksum.to_hex(), kind)
}

/// The SHA-256 of a blob, which is null while it is deferred.
pub fn sha256(blob: &BlobMeta) -> Option<String> {
    blob.sha256.map(|sha256| sha256.to_hex())
}

/// A file's row.
pub fn file(row: &FileRow) -> Value {
    let (checksum, kind) = checksum(row);
    let document = json!({
        "id": row.id.0, "fileName": "vagrant.box", "checksum": checksum, "checksumType": kind,
        "blake3": row.blob.blake3.to_hex(), "sha256": sha256(&row.blob),
        "downloadCount": row.downloads, "fileSize": row.blob.length,
        "createdAt": time(row.created), "updatedAt": time(row.updated),
        "architectureId": row.architecture_id.0,
    });
    labelled(document, row)
}

/// The same with what was written on the file's blob, if anything was.
pub fn labelled(document: Value, file: &FileRow) -> Value {
    if file.labels.is_empty() {
        return document;
    }
    with(document, json!({ "labels": file.labels }))
}

/// An ISO image's row. Its checksum is the one that was computed, which is null while it is deferred.
pub fn iso(row: &Iso) -> Value {
    let sha256 = sha256(&row.blob);
    let path = sha256.as_ref().map(|sha256| format!("{sha256}.iso"));
    json!({
        "id": row.id.0, "name": row.name.as_str(), "description": row.description,
        "filename": row.name.as_str(), "size": row.blob.length, "checksum": sha256,
        "checksumType": "sha256", "storagePath": path,
        "blake3": row.blob.blake3.to_hex(), "isPublic": row.public,
        "organizationId": row.organization.0, "downloadCount": row.downloads,
        "createdAt": time(row.created), "updatedAt": time(row.updated),
    })
}

/// What an upload becomes.
pub fn target(target: &Target) -> Value {
    if target.iso.is_some() {
        return json!({ "iso": target.box_name });
    }
    let [name, version, provider, architecture] = target.names();
    json!({
        "box": name, "version": version, "provider": provider, "architecture": architecture,
    })
}

/// Adds the members of `more` to an object.
pub fn with(mut value: Value, more: Value) -> Value {
    if let (Value::Object(fields), Value::Object(more)) = (&mut value, more) {
        fields.extend(more);
    }
    value
}

fn only(mut value: Value, drop: &[&str]) -> Value {
    if let Value::Object(fields) = &mut value {
        for name in drop {
            fields.shift_remove(*name);
        }
    }
    value
}

/// How much a tree of a box tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// An element of a list.
    Listed,
    /// A box read by its name.
    Single,
}

/// A box with everything below it.
pub fn tree(tree: &BoxTree, detail: Detail) -> Value {
    let mut row = box_row(&tree.row);
    if detail == Detail::Listed {
        row = only(row, &["readme", "githubRepo", "workflowFile", "cicdUrl"]);
    }
    let mut row = only(row, &["organizationId"]);
    let versions: Vec<Value> = tree
        .versions
        .iter()
        .map(|v| version_tree(v, detail))
        .collect();
    let user = tree.username.as_ref().map(|name| {
        json!({ "id": tree.row.account.0, "username": name, "emailHash": null, "suspended": false })
    });
    if let Value::Object(fields) = &mut row {
        let mut more = Map::new();
        more.insert("versions".into(), versions.into());
        more.insert(
            "organization".into(),
            json!({
                "id": tree.row.organization.0, "name": tree.organization_name.as_str(),
                "emailHash": "", "logo": null,
            }),
        );
        more.insert("user".into(), user.into());
        fields.extend(more);
    }
    row
}

fn version_tree(tree: &VersionTree, detail: Detail) -> Value {
    let providers: Vec<Value> = tree
        .providers
        .iter()
        .map(|p| provider_tree(p, detail))
        .collect();
    with(version(&tree.row), json!({ "providers": providers }))
}

fn provider_tree(tree: &ProviderTree, detail: Detail) -> Value {
    let architectures: Vec<Value> = tree
        .architectures
        .iter()
        .map(|a| architecture_tree(a, detail))
        .collect();
    with(
        provider(&tree.row),
        json!({ "architectures": architectures }),
    )
}

fn architecture_tree(tree: &ArchitectureTree, detail: Detail) -> Value {
    let row = architecture(&tree.row);
    let row = if detail == Detail::Listed {
        only(row, &["description"])
    } else {
        row
    };
    let files: Vec<Value> = tree.file.iter().map(file).collect();
    with(row, json!({ "files": files }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_milliseconds_and_a_zone() {
        assert_eq!(
            time(UnixMillis(1_795_288_985_990)),
            "2026-11-21T19:23:05.990Z"
        );
        assert_eq!(time(UnixMillis(0)), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn answers_to_creation_leave_unset_fields_out() {
        assert_eq!(
            without_unset(json!({"a": 1, "b": null, "c": false})),
            json!({"a": 1, "c": false})
        );
    }
}
