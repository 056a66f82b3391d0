//! Takes what another kind of server holds into the catalog: what is missing there, verified by what is known of it, and
//! nothing in the place of something else. A run that is cut leaves whole boxes or none, and the next brings the rest.

pub mod boxitory;
pub mod boxvault;
mod carry;
mod memory;

use std::path::Path;

use boxgate_storage::catalog::OrganizationName;
use boxgate_storage::check::Stock;
use boxgate_storage::error::chain;
use boxgate_storage::metadata::Metadata;
use boxgate_storage::metadata::accounts::{AccountId, OrganizationId, OrganizationRole};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use memory::Memory;
use serde::{Deserialize, Serialize};

/// What is to be brought, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Import {
    /// A tree of boxes, as Boxitory serves it.
    Boxitory(boxitory::Tree),
    /// What a BoxVault holds.
    BoxVault(boxvault::Vault),
}

/// How far it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// People, organizations, keys, boxes and what is below them that were made; none of a tree, which has files alone.
    pub rows: u64,
    /// Files that were brought.
    pub files: u64,
    /// Bytes of them, and of those on their way.
    pub bytes: u64,
    /// Files that were there.
    pub there: u64,
    /// What was brought before, and is not brought again since it was taken away here.
    #[serde(default)]
    pub gone: u64,
    /// Files that are to be there.
    pub total_files: u64,
    /// Bytes that are still to be looked at or brought, and those that were.
    pub total_bytes: u64,
    /// What was not brought.
    pub left: u64,
}

/// What is told on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// Something that was not brought, and why.
    Left(String, String),
    /// How far it is.
    Progress(Imported),
}

impl Import {
    /// Brings what is missing; the last progress that is told is what it returns.
    ///
    /// # Errors
    /// Why it ended early, in one line.
    /// # Cancel safety
    /// Dropping the future gives up the files that are on their way.
    pub async fn run<F>(
        self,
        stock: Stock,
        mut tell: impl FnMut(Told) -> F + Send,
    ) -> Result<Imported, String>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut report = Report {
            tell: Box::new(move |told| tell(told).boxed()),
            imported: Imported::default(),
            memory: None,
        };
        match self {
            Self::Boxitory(tree) => Box::pin(tree.run(stock, &mut report)).await?,
            Self::BoxVault(vault) => Box::pin(vault.run(stock, &mut report)).await?,
        }
        let imported = report.imported;
        report.tell(Told::Progress(imported)).await;
        Ok(imported)
    }

    /// Where it comes from.
    pub fn home(&self) -> &Path {
        match self {
            Self::Boxitory(tree) => &tree.home,
            Self::BoxVault(vault) => &vault.files,
        }
    }

    /// Who has it done.
    pub fn actor(&self) -> &str {
        match self {
            Self::Boxitory(tree) => &tree.actor,
            Self::BoxVault(vault) => &vault.actor,
        }
    }

    /// The same, with boxes that it makes by itself for everybody to read, or not.
    pub fn set_new_box_public(&mut self, public: bool) {
        match self {
            Self::Boxitory(tree) => tree.new_box_public = public,
            Self::BoxVault(vault) => vault.new_box_public = public,
        }
    }
}

/// What becomes of it, and who is told.
struct Report<'t> {
    tell: Box<dyn FnMut(Told) -> BoxFuture<'static, ()> + Send + 't>,
    imported: Imported,
    /// What was brought before; nothing is remembered of a tree.
    memory: Option<Memory>,
}

impl Report<'_> {
    /// Whether that was brought before.
    fn was_brought(&self, item: &str) -> bool {
        self.memory.as_ref().is_some_and(|m| m.knows(item))
    }

    /// Whether what is not there was brought before: then it was taken away here, and is counted as gone.
    fn is_gone(&mut self, item: &str) -> bool {
        let is_gone = self.was_brought(item);
        self.imported.gone += u64::from(is_gone);
        is_gone
    }

    /// Remembers that it is here.
    async fn note(&mut self, item: &str) -> Result<(), String> {
        match &mut self.memory {
            Some(memory) => memory.note(item).await,
            None => Ok(()),
        }
    }

    async fn tell(&mut self, told: Told) {
        (self.tell)(told).await;
    }

    /// Something was not brought.
    async fn left(&mut self, what: impl Into<String> + Send, why: impl Into<String> + Send) {
        self.imported.left += 1;
        self.tell(Told::Left(what.into(), why.into())).await;
    }
}

/// An organization that is there, and the account that sends on its behalf: its owner.
///
/// # Errors
/// Why there is none.
async fn administered(
    metadata: &Metadata,
    name: &OrganizationName,
) -> Result<(OrganizationId, AccountId), String> {
    let unanswered = |e: boxgate_storage::Error| chain(&e);
    let organization = metadata.organization(name).await.map_err(unanswered)?;
    let organization = organization.ok_or_else(|| format!("no organization is named {name}"))?;
    let members = metadata
        .members(organization.id)
        .await
        .map_err(unanswered)?;
    let owner = members
        .iter()
        .filter(|member| member.role != OrganizationRole::Member)
        .max_by_key(|member| member.role == OrganizationRole::Owner)
        .ok_or_else(|| format!("nobody administers {name}"))?;
    Ok((organization.id, owner.account))
}
