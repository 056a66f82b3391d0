//! A box: what it is, its versions down to their files, and the lines by which Vagrant takes it.

use askama::Template;
use boxgate_storage::catalog::version::{is_listable, without_v};
use boxgate_storage::metadata::catalog::{ArchitectureTree, BoxTree, VersionStatus, VersionTree};

use super::form::Form;
use super::{Answer, Visit, moment, page, see_other, size};
use crate::auth;
use crate::call::Call;
use crate::door::boxvault::files;
use crate::gateway::Gateway;
use crate::markdown;

/// Versions that are shown unless all are asked for.
const SHOWN: usize = 10;

#[derive(Template)]
#[template(path = "a_box.html")]
struct BoxPage<'a> {
    title: String,
    visit: &'a Visit,
    organization: &'a str,
    name: &'a str,
    about: &'a str,
    /// HTML that was made of Markdown, and holds no other.
    description: String,
    readme: String,
    facts: Facts,
    versions: Vec<VersionPart>,
    left_out: usize,
    take: Option<Take>,
    may_edit: bool,
}

struct Facts {
    is_private: bool,
    is_hidden: bool,
    maker: String,
    created: String,
    updated: String,
    downloads: u64,
}

/// What one types to take the newest version.
struct Take {
    version: String,
    provider: String,
}

struct VersionPart {
    name: String,
    status: &'static str,
    created: String,
    description: String,
    notes: String,
    deprecated: Option<String>,
    files: Vec<FilePart>,
}

struct FilePart {
    provider: String,
    architecture: String,
    is_default: bool,
    stored: Option<Stored>,
    elsewhere: Option<String>,
}

struct Stored {
    size: String,
    bytes: u64,
    sha256: Option<String>,
    blake3: String,
    downloads: u64,
    updated: String,
}

/// `GET /-/boxes/{org}/{box}?versions=all`, and `/{org}/{box}`.
pub async fn show(gateway: &Gateway, call: Call) -> Answer {
    let row = call.row()?;
    let principal = call.grant.principal.as_ref();
    let tree = gateway
        .metadata
        .box_tree(row.organization, &row.name)
        .await?;
    let tree = tree.ok_or_else(|| auth::no_box(&call.names))?;
    let mut tree = auth::shown(principal, tree);
    tree.versions.reverse();
    let all = Form::of_query(&call).text("versions") == "all";
    let count = if all { tree.versions.len() } else { SHOWN };
    let fields = &tree.row.fields;
    let marked = |text: &Option<String>| {
        text.as_deref()
            .map(markdown::html_without_pictures)
            .unwrap_or_default()
    };
    page(&BoxPage {
        title: format!("{}/{}", tree.organization_name, tree.row.name),
        visit: &Visit::by(gateway, &call),
        organization: tree.organization_name.as_str(),
        name: tree.row.name.as_str(),
        about: fields.short_description.as_deref().unwrap_or_default(),
        description: marked(&fields.description),
        readme: marked(&fields.readme),
        facts: facts(&tree),
        versions: tree.versions.iter().take(count).map(version).collect(),
        left_out: tree.versions.len().saturating_sub(count),
        take: take(&tree),
        may_edit: principal.is_some_and(|p| p.may_edit(&tree.row)),
    })
}

/// `GET /-/download/...`: to a link that stands for the session, which no other door takes.
pub async fn download(gateway: &Gateway, call: Call) -> Answer {
    let link = files::link(gateway, &call, call.grant.principal.as_ref()).await?;
    Ok(see_other(&link))
}

fn facts(tree: &BoxTree) -> Facts {
    let files = tree
        .versions
        .iter()
        .flat_map(|v| &v.providers)
        .flat_map(|p| &p.architectures);
    Facts {
        is_private: !tree.row.fields.public,
        is_hidden: !tree.row.fields.published,
        maker: tree.username.clone().unwrap_or_default(),
        created: moment(tree.row.created),
        updated: moment(tree.row.updated),
        downloads: files
            .filter_map(|a| a.file.as_ref())
            .map(|file| file.downloads)
            .sum(),
    }
}

/// The newest released version that Vagrant lists and that has a file, as Vagrant spells it.
fn take(tree: &BoxTree) -> Option<Take> {
    let released = tree
        .versions
        .iter()
        .filter(|v| v.row.status == VersionStatus::Active && is_listable(v.row.name.as_str()));
    released.into_iter().find_map(|version| {
        let provider = version
            .providers
            .iter()
            .find(|p| p.architectures.iter().any(ArchitectureTree::is_listed))?;
        Some(Take {
            version: without_v(version.row.name.as_str()).to_owned(),
            provider: provider.row.name.to_string(),
        })
    })
}

fn version(tree: &VersionTree) -> VersionPart {
    let fields = &tree.row.fields;
    let marked = |text: &Option<String>| {
        text.as_deref()
            .map(markdown::html_without_pictures)
            .unwrap_or_default()
    };
    let providers = tree.providers.iter();
    let files = providers.flat_map(|provider| {
        let name = provider.row.name.to_string();
        provider
            .architectures
            .iter()
            .map(move |architecture| file(&name, architecture))
    });
    VersionPart {
        name: tree.row.name.to_string(),
        status: tree.row.status.as_str(),
        created: moment(tree.row.created),
        description: marked(&fields.description),
        notes: marked(&fields.release_notes),
        deprecated: fields
            .deprecated
            .then(|| fields.deprecation_reason.clone().unwrap_or_default()),
        files: files.collect(),
    }
}

fn file(provider: &str, tree: &ArchitectureTree) -> FilePart {
    FilePart {
        provider: provider.to_owned(),
        architecture: tree.row.name.to_string(),
        is_default: tree.row.default_box,
        elsewhere: tree
            .row
            .announced
            .url
            .clone()
            .filter(|_| tree.file.is_none()),
        stored: tree.file.as_ref().map(|file| Stored {
            size: size(file.blob.length),
            bytes: file.blob.length,
            sha256: file.blob.sha256.map(|sha256| sha256.to_hex()),
            blake3: file.blob.blake3.to_hex(),
            downloads: file.downloads,
            updated: moment(file.updated),
        }),
    }
}
