//! Boxes and all that is below them, up to where their files are. What the catalog has stays as it is.

use std::collections::HashSet;
use std::str::FromStr;
use std::sync::Arc;

use boxgate_storage::catalog::{ArchitectureName, BoxName, BoxRef, ProviderName, VersionName};
use boxgate_storage::digest::{Algorithm, Digest};
use boxgate_storage::metadata::Metadata;
use boxgate_storage::metadata::catalog::{
    BoxFields, BoxId, ProviderId, ProviderTree, VersionFields, VersionId, VersionStatus,
    VersionTree,
};
use boxgate_storage::upload::Sender;
use serde_json::{Map, Value};

use super::super::Report;
use super::super::carry::Freight;
use super::dump::{Dump, Row};
use super::files::{self, InVault, Survey};
use super::people::{People, Place};
use super::{OTHER_LETTERS, Vault, unanswered};
use crate::route::free_box_name;

/// What is brought of the catalog, and what follows from it.
pub(super) struct Catalog<'v> {
    pub(super) vault: &'v Vault,
    pub(super) metadata: &'v Metadata,
    pub(super) people: &'v People,
    /// Files that no row has claimed yet.
    pub(super) survey: Survey,
    /// Files that are to be brought.
    pub(super) freight: Vec<Freight>,
}

/// Where a row of the other database is here.
struct Above<'a> {
    place: &'a Place,
    box_name: BoxName,
    /// As the other database spells the way down.
    path: String,
}

/// By what it is remembered that something was brought: its kind, and its folded name in full.
pub(super) fn item(kind: &str, folded: &str) -> String {
    format!("{kind}/{folded}")
}

/// The form under which a whole name is unique.
pub(super) fn folded(name: &BoxRef) -> String {
    format!(
        "{}/{}/{}/{}/{}",
        name.organization.folded(),
        name.name.folded(),
        name.version.folded(),
        name.provider.folded(),
        name.architecture.folded()
    )
}

impl Catalog<'_> {
    /// Brings all boxes.
    ///
    /// # Errors
    /// Why it ended early.
    pub(super) async fn bring(
        &mut self,
        dump: &Dump,
        report: &mut Report<'_>,
    ) -> Result<(), String> {
        let mut seen = HashSet::new();
        for row in &dump.boxes {
            let text = row.text("name").unwrap_or_default();
            let people = self.people;
            let organization = row.number("organizationId");
            if let Some(gone) = organization.and_then(|id| people.gone.get(&id)) {
                self.survey.pass_over(&format!("{gone}/{text}"));
                continue;
            }
            let Some(place) = organization.and_then(|id| people.organizations.get(&id)) else {
                let why = "its organization was not brought";
                report.left(format!("box {text:?}"), why).await;
                continue;
            };
            let path = format!("{}/{text}", place.name);
            let Some(box_name) = parsed::<BoxName>(&path, text, report).await else {
                continue;
            };
            if let Err(why) = free_box_name(text) {
                report.left(path, why).await;
                continue;
            }
            if !seen.insert((place.id, box_name.folded())) {
                report.left(path, OTHER_LETTERS).await;
                continue;
            }
            let above = Above {
                place,
                box_name,
                path,
            };
            Box::pin(self.bring_box(dump, row, above, report)).await?;
        }
        Ok(())
    }

    async fn bring_box(
        &mut self,
        dump: &Dump,
        row: &Row,
        above: Above<'_>,
        report: &mut Report<'_>,
    ) -> Result<(), String> {
        let (metadata, actor) = (self.metadata, self.vault.actor.as_str());
        let tree = metadata.box_tree(above.place.id, &above.box_name).await;
        let folded = format!("{}/{}", above.place.name.folded(), above.box_name.folded());
        let noted = item("box", &folded);
        let (id, there) = if let Some(tree) = tree.map_err(unanswered)? {
            (tree.row.id, tree.versions)
        } else if report.is_gone(&noted) {
            self.survey.pass_over(&above.path);
            return Ok(());
        } else {
            let maker = self.people.account(row.number("userId"));
            let maker = maker.unwrap_or(above.place.owner);
            let (organization, name) = (above.place.id, &above.box_name);
            let made = metadata.create_box(organization, name, maker, box_fields(row), actor);
            report.imported.rows += 1;
            (made.await.map_err(unanswered)?.id, Vec::new())
        };
        report.note(&noted).await?;
        let mut seen = HashSet::new();
        for row in below(&dump.versions, row) {
            let text = row.text("versionNumber").unwrap_or_default();
            let path = format!("{}/{text}", above.path);
            let Some(version) = parsed::<VersionName>(&path, text, report).await else {
                continue;
            };
            if !seen.insert(version.folded()) {
                let why = "another version differs from it by letters or a 'v' alone";
                report.left(path, why).await;
                continue;
            }
            let there = there
                .iter()
                .find(|v| v.row.name.folded() == version.folded());
            let noted = item("version", &format!("{folded}/{}", version.folded()));
            if there.is_none() && report.is_gone(&noted) {
                self.survey.pass_over(&path);
                continue;
            }
            let place = (&above, &version, path);
            Box::pin(self.bring_version(dump, row, (id, there), place, report)).await?;
        }
        Ok(())
    }

    async fn bring_version(
        &mut self,
        dump: &Dump,
        row: &Row,
        (box_id, there): (BoxId, Option<&VersionTree>),
        (above, version, path): (&Above<'_>, &VersionName, String),
        report: &mut Report<'_>,
    ) -> Result<(), String> {
        let id = match there {
            Some(there) => there.row.id,
            None => {
                self.make_version(box_id, row, (version, &path), report)
                    .await?
            }
        };
        let folded = format!(
            "{}/{}/{}",
            above.place.name.folded(),
            above.box_name.folded(),
            version.folded()
        );
        report.note(&item("version", &folded)).await?;
        let mut seen = HashSet::new();
        for row in below(&dump.providers, row) {
            let text = row.text("name").unwrap_or_default();
            let path = format!("{path}/{text}");
            let Some(provider) = parsed::<ProviderName>(&path, text, report).await else {
                continue;
            };
            if !seen.insert(provider.folded()) {
                report.left(path, OTHER_LETTERS).await;
                continue;
            }
            let mut all = there.iter().flat_map(|there| &there.providers);
            let there = all.find(|p| p.row.name.folded() == provider.folded());
            let noted = item("provider", &format!("{folded}/{}", provider.folded()));
            let id = match there {
                Some(there) => there.row.id,
                None if report.is_gone(&noted) => {
                    self.survey.pass_over(&path);
                    continue;
                }
                None => self.make_provider(id, row, &provider, report).await?,
            };
            report.note(&noted).await?;
            let place = (above, version, &provider, path);
            Box::pin(self.bring_architectures(dump, row, (id, there), place, report)).await?;
        }
        Ok(())
    }

    async fn make_version(
        &self,
        box_id: BoxId,
        row: &Row,
        (version, path): (&VersionName, &str),
        report: &mut Report<'_>,
    ) -> Result<VersionId, String> {
        let hidden = [row.flag("published"), row.flag("is_public")].contains(&Some(false));
        let status = if hidden {
            let why = "it is not for everybody there, and is brought as one that is not released";
            report.left(path, why).await;
            VersionStatus::Unreleased
        } else {
            VersionStatus::Active
        };
        let fields = VersionFields {
            description: row.owned("description"),
            release_notes: row.either(["release_notes", "releaseNotes"]),
            deprecated: row.flag("deprecated") == Some(true),
            deprecation_reason: row.either(["deprecation_reason", "deprecationReason"]),
        };
        report.imported.rows += 1;
        let actor = &self.vault.actor;
        let made = self
            .metadata
            .create_version(box_id, version, status, fields, actor)
            .await;
        made.map(|made| made.id).map_err(unanswered)
    }

    async fn make_provider(
        &self,
        version: VersionId,
        row: &Row,
        name: &ProviderName,
        report: &mut Report<'_>,
    ) -> Result<ProviderId, String> {
        report.imported.rows += 1;
        let (about, actor) = (row.text("description"), &self.vault.actor);
        let made = self
            .metadata
            .create_provider(version, name, about, actor)
            .await;
        made.map(|made| made.id).map_err(unanswered)
    }

    async fn bring_architectures(
        &mut self,
        dump: &Dump,
        row: &Row,
        (provider_id, there): (ProviderId, Option<&ProviderTree>),
        (above, version, provider, path): (&Above<'_>, &VersionName, &ProviderName, String),
        report: &mut Report<'_>,
    ) -> Result<(), String> {
        let mut seen = HashSet::new();
        for row in below(&dump.architectures, row) {
            let text = row.text("name").unwrap_or_default();
            let path = format!("{path}/{text}");
            let Some(architecture) = parsed::<ArchitectureName>(&path, text, report).await else {
                continue;
            };
            if !seen.insert(architecture.folded()) {
                report.left(path, OTHER_LETTERS).await;
                continue;
            }
            let name = BoxRef {
                organization: above.place.name.clone(),
                name: above.box_name.clone(),
                version: version.clone(),
                provider: provider.clone(),
                architecture: architecture.clone(),
            };
            let noted = item("architecture", &folded(&name));
            let mut all = there.iter().flat_map(|there| &there.architectures);
            if !all.any(|a| a.row.name.folded() == architecture.folded()) {
                if report.is_gone(&noted) {
                    self.survey.pass_over(&path);
                    continue;
                }
                let (about, actor) = (row.text("description"), &self.vault.actor);
                let is_default = row.flag("defaultBox") == Some(true);
                let made = self.metadata.create_architecture(
                    provider_id,
                    &architecture,
                    about,
                    is_default,
                    actor,
                );
                made.await.map_err(unanswered)?;
                report.imported.rows += 1;
            }
            report.note(&noted).await?;
            self.file(dump, row, (name, above.place), &path, report)
                .await;
        }
        Ok(())
    }

    /// Takes the file of an architecture out of those of the tree.
    async fn file(
        &mut self,
        dump: &Dump,
        row: &Row,
        (name, place): (BoxRef, &Place),
        directory: &str,
        report: &mut Report<'_>,
    ) {
        let found = self.survey.files.remove(directory);
        // BoxVault knows several files of one, and keeps one.
        let told = below(&dump.files, row).last();
        let path = files::path(directory);
        let (found, told) = match (found, told) {
            (None, None) => return,
            (None, Some(_)) if self.survey.is_told(directory) => return,
            (None, Some(_)) => return report.left(path, "the file is not there").await,
            (Some(found), told) => (found, told),
        };
        let length = told.and_then(|told| told.number("fileSize"));
        if let Some(length) = length.filter(|length| *length > 0)
            && u64::try_from(length) != Ok(found.length)
        {
            let why = format!(
                "it has {} bytes, and the database says {length}",
                found.length
            );
            return report.left(path, why).await;
        }
        let downloads = told.and_then(|told| told.number("downloadCount"));
        let expected = match told.map(digest).transpose() {
            Ok(expected) => expected.flatten(),
            Err(why) => {
                report.left(path, why).await;
                return;
            }
        };
        let item = item("file", &folded(&name));
        self.freight.push(Freight {
            iso: None,
            was_brought: report.was_brought(&item),
            item: Some(item),
            path,
            name,
            organization: place.id,
            sender: Sender::person(place.owner),
            length: found.length,
            modified: found.modified,
            downloads: downloads.and_then(|n| u64::try_from(n).ok()).unwrap_or(0),
            source: Arc::new(InVault {
                home: self.survey.home.clone(),
                directory: directory.to_owned(),
                expected,
            }),
        });
    }
}

/// A name, unless it is told that there can be none of that kind.
async fn parsed<T: FromStr<Err: std::fmt::Display>>(
    path: &str,
    text: &str,
    report: &mut Report<'_>,
) -> Option<T> {
    match text.parse::<T>() {
        Ok(name) => Some(name),
        Err(error) => {
            let why = format!("the catalog takes no such name: {error}");
            report.left(path, why).await;
            None
        }
    }
}

/// The rows below one.
fn below<'d>(
    table: &'d std::collections::BTreeMap<i64, Vec<Row>>,
    row: &Row,
) -> impl Iterator<Item = &'d Row> {
    let id = row.number("id");
    id.and_then(|id| table.get(&id)).into_iter().flatten()
}

fn box_fields(row: &Row) -> BoxFields {
    let short = row.either(["shortDescription", "short_description"]);
    let metadata = row.owned("metadata");
    BoxFields {
        description: row.owned("description"),
        short_description: short,
        readme: row.owned("readme"),
        github_repo: row.owned("githubRepo"),
        workflow_file: row.owned("workflowFile"),
        cicd_url: row.owned("cicdUrl"),
        metadata: metadata.filter(|text| serde_json::from_str::<Map<String, Value>>(text).is_ok()),
        published: row.flag("published") == Some(true),
        public: row.flag("isPublic") == Some(true),
    }
}

/// What the bytes must be, where that was ever told: BoxVault computes nothing by itself.
///
/// # Errors
/// Why it cannot be compared: people typed it.
fn digest(file: &Row) -> Result<Option<Digest>, &'static str> {
    let told = |name| {
        file.text(name)
            .map(str::trim)
            .filter(|text| !text.is_empty())
    };
    let (kind, hex) = (told("checksumType"), told("checksum"));
    let (Some(kind), Some(hex)) = (kind.filter(|kind| !kind.eq_ignore_ascii_case("null")), hex)
    else {
        return Ok(None);
    };
    let kind = Algorithm::from_name(kind).ok_or("nothing here computes its type of checksum")?;
    let digest = Digest::from_hex(kind, hex);
    digest.map(Some).ok_or("its checksum is none of its type")
}
