//! `on_delete`: asked once for each file that a deletion takes with it, whatever level is named.

use std::sync::Arc;

use boxgate_scripting::facts;
use boxgate_scripting::hook::Hook;
use boxgate_scripting::verdict::DeleteVerdict;
use boxgate_storage::catalog::BoxRef;
use boxgate_storage::metadata::catalog::{BoxFilter, BoxTree, FileRow};
use http::StatusCode;

use super::{Told, denied, named, noted, of_digests};
use crate::call::Call;
use crate::gateway::Gateway;
use crate::refusal::Refusal;
use crate::route::Route;

/// Most files that plugins are asked about in one request: each may take 5 ms.
const MOST: usize = 1_000;

/// Whether what a request deletes may go.
///
/// # Errors
/// The refusal to send.
pub async fn on_delete(gateway: &Gateway, call: &Call) -> Result<(), Refusal> {
    let Some(told) = call.head.extensions.get::<Told>() else {
        return Ok(());
    };
    if !deletes_files(call.row.route) || !gateway.scripts.defines(Hook::OnDelete) {
        return Ok(());
    }
    let files = files(gateway, call).await?;
    if files.len() > MOST {
        let text = format!(
            "This deletes {} files, and scripts are asked about {MOST} at once: delete in smaller steps.",
            files.len()
        );
        return Err(Refusal::new(StatusCode::CONFLICT, text).code("TOO_MANY_FILES"));
    }
    for (name, file) in files {
        let blob = Arc::new(named(
            Some(&name),
            facts::Blob {
                id: file.blob.key.to_string().into(),
                size: file.blob.length,
                created_ms: file.updated.0,
                labels: file.labels.clone(),
                ..of_digests(file.blob.blake3, file.blob.sha256)
            },
        ));
        let asked = gateway.scripts.on_delete(told, &blob).await;
        match noted(&call.facts, asked)? {
            DeleteVerdict::Proceed => {}
            DeleteVerdict::Deny(denial) => return Err(denied(denial)),
        }
    }
    Ok(())
}

fn deletes_files(route: Route) -> bool {
    matches!(
        route,
        Route::DeleteOrganization
            | Route::DeleteBoxes
            | Route::DeleteBox
            | Route::DeleteVersions
            | Route::DeleteVersion
            | Route::DeleteProviders
            | Route::DeleteProvider
            | Route::DeleteArchitectures
            | Route::DeleteArchitecture
            | Route::DeleteFile
            | Route::CloudDeleteBox
            | Route::CloudDeleteVersion
            | Route::CloudDeleteProvider
            | Route::PageDeleteBox
            | Route::PageDeleteVersion
    )
}

/// The files below what the path names.
async fn files(gateway: &Gateway, call: &Call) -> Result<Vec<(BoxRef, FileRow)>, Refusal> {
    let trees = match (&call.grant.row, &call.grant.organization) {
        (Some(row), _) => {
            let tree = gateway
                .metadata
                .box_tree(row.organization, &row.name)
                .await?;
            tree.into_iter().collect()
        }
        (None, Some(organization)) => {
            let filter = BoxFilter::Organization(organization.id);
            gateway.metadata.box_trees(filter).await?
        }
        (None, None) => Vec::new(),
    };
    let meant = |parameter: &str, folded: &str| {
        let given = call.names.value(parameter);
        given.is_empty()
            || given
                .trim_start_matches('v')
                .eq_ignore_ascii_case(folded.trim_start_matches('v'))
    };
    let mut files = Vec::new();
    for tree in &trees {
        for_each(tree, &meant, &mut files);
    }
    Ok(files)
}

fn for_each(
    tree: &BoxTree,
    meant: &impl Fn(&str, &str) -> bool,
    files: &mut Vec<(BoxRef, FileRow)>,
) {
    for version in &tree.versions {
        if !meant("version", version.row.name.as_str()) {
            continue;
        }
        for provider in &version.providers {
            if !meant("provider", provider.row.name.as_str()) {
                continue;
            }
            for architecture in &provider.architectures {
                let Some(file) = &architecture.file else {
                    continue;
                };
                if meant("arch", architecture.row.name.as_str()) {
                    let name = BoxRef {
                        organization: tree.organization_name.clone(),
                        name: tree.row.name.clone(),
                        version: version.row.name.clone(),
                        provider: provider.row.name.clone(),
                        architecture: architecture.row.name.clone(),
                    };
                    files.push((name, file.clone()));
                }
            }
        }
    }
}
