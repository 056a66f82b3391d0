//! A tree of boxes, as Boxitory serves it: verified by what stands beside them.

mod survey;

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use boxgate_storage::catalog::{ArchitectureName, BoxRef, OrganizationName};
use boxgate_storage::check::Stock;
use boxgate_storage::digest::Digest;
use boxgate_storage::error::chain;
use boxgate_storage::metadata::accounts::OrganizationId;
use boxgate_storage::upload::Sender;
use tokio::task::spawn_blocking;

use super::carry::{Carrier, Freight, Source, carry};
use super::{Report, administered};
use crate::boxitory::checksum::beside;
use crate::boxitory::describe;
use crate::boxitory::tree::{DESCRIPTIONS, Home};
use crate::config::boxitory::Checksum;
use crate::route::free_box_name;
use survey::{Found, Survey};

/// What is to be brought, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// The tree.
    pub home: PathBuf,
    /// Whose the boxes become.
    pub organization: OrganizationName,
    /// The architecture that they are for; a tree does not tell.
    pub architecture: ArchitectureName,
    /// Whether everybody may read the boxes that it makes.
    pub new_box_public: bool,
    /// Who has it done, for events and the audit.
    pub actor: String,
}

/// A file of the tree.
struct InTree {
    home: Home,
    found: Found,
}

impl Source for InTree {
    fn open(&self) -> io::Result<File> {
        self.home
            .open_file(&self.found.box_name, &self.found.file_name)
    }

    /// Digests that stand beside a file; what is none of its kind is not believed here.
    fn expected(&self) -> Vec<Digest> {
        let kinds = Checksum::ALL.into_iter();
        let said = kinds.filter_map(|kind| {
            let text = beside(
                &self.home,
                &self.found.box_name,
                &self.found.file_name,
                kind,
            )?;
            Digest::from_hex(kind.algorithm(), &text)
        });
        said.collect()
    }
}

impl Tree {
    pub(super) async fn run(self, stock: Stock, report: &mut Report<'_>) -> Result<(), String> {
        let (organization, owner) = administered(stock.metadata(), &self.organization).await?;
        let sender = Sender::person(owner);
        let home = self.home.clone();
        let surveyed = spawn_blocking(move || survey::survey(&home)).await;
        let surveyed = surveyed.unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
        let Survey { home, files, left } =
            surveyed.map_err(|e| format!("{} cannot be read: {e}", self.home.display()))?;
        for (path, why) in left {
            report.left(path, why).await;
        }
        let boxes: Vec<String> = named(&files);
        let mut names = HashSet::new();
        let mut freight = Vec::new();
        for found in files {
            match self.name(&found) {
                Ok(name) if names.insert(name.to_string().to_ascii_lowercase()) => {
                    freight.push(Freight {
                        iso: None,
                        item: None,
                        was_brought: false,
                        path: found.path(),
                        name,
                        organization,
                        sender: sender.clone(),
                        length: found.length,
                        modified: found.modified,
                        downloads: 0,
                        source: Arc::new(InTree {
                            home: home.clone(),
                            found,
                        }),
                    });
                }
                Ok(_) => {
                    let why = "another file has its name in other letters";
                    report.left(found.path(), why).await;
                }
                Err(why) => report.left(found.path(), why).await,
            }
        }
        let carrier = Carrier {
            stock: stock.clone(),
            new_box_public: self.new_box_public,
            actor: self.actor.clone(),
            bytes: AtomicU64::new(0),
        };
        carry(carrier, freight, report).await?;
        for box_name in boxes {
            self.describe(&stock, (&home, organization), &box_name, report)
                .await?;
        }
        Ok(())
    }

    /// The name that a file gets in the catalog.
    fn name(&self, file: &Found) -> Result<BoxRef, String> {
        fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
            text.parse()
                .map_err(|e: T::Err| format!("the catalog takes no such name: {e}"))
        }
        free_box_name(&file.box_name)?;
        Ok(BoxRef {
            organization: self.organization.clone(),
            name: parsed(&file.box_name)?,
            version: parsed(&file.version)?,
            provider: parsed(&file.provider)?,
            architecture: self.architecture.clone(),
        })
    }

    /// Gives versions that have none the descriptions that stand beside their files.
    async fn describe(
        &self,
        stock: &Stock,
        (home, organization): (&Home, OrganizationId),
        box_name: &str,
        report: &mut Report<'_>,
    ) -> Result<(), String> {
        let (home, of) = (home.clone(), box_name.to_owned());
        let reading = spawn_blocking(move || home.read_text(&of, DESCRIPTIONS, describe::LONGEST));
        let (Ok(Ok(text)), Ok(name)) = (reading.await, box_name.parse()) else {
            return Ok(());
        };
        let Some(text) = text else {
            let why = format!("it is longer than {} bytes", describe::LONGEST);
            report.left(format!("{box_name}/{DESCRIPTIONS}"), why).await;
            return Ok(());
        };
        let unanswered = |e: boxgate_storage::Error| chain(&e);
        let metadata = stock.metadata();
        let tree = metadata.box_tree(organization, &name).await;
        let Some(tree) = tree.map_err(unanswered)? else {
            return Ok(());
        };
        let has = |version: &str| tree.versions.iter().any(|v| v.row.name.as_str() == version);
        let said = describe::parse(&text, has);
        for version in tree.versions {
            let row = version.row;
            let Some(said) = said.get(row.name.as_str()) else {
                continue;
            };
            let mut fields = row.fields;
            if fields.description.as_deref().is_some_and(|d| !d.is_empty()) {
                continue;
            }
            fields.description = Some((*said).to_owned());
            let updated = metadata.update_version(row.id, None, None, fields, &self.actor);
            updated.await.map_err(unanswered)?;
        }
        Ok(())
    }
}

/// Names of boxes, each once.
fn named(files: &[Found]) -> Vec<String> {
    let mut names: Vec<String> = files.iter().map(|file| file.box_name.to_string()).collect();
    names.dedup();
    names
}
