//! What a BoxVault holds: people, organizations, keys and boxes from its database, and the files of its tree. Without the
//! database only files are brought, to organizations that are there.

mod boxes;
mod dump;
mod files;
mod isos;
mod people;

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use boxgate_storage::check::Stock;
use boxgate_storage::error::chain;
use boxgate_storage::upload::Sender;
use tokio::task::spawn_blocking;

use super::carry::{Carrier, Freight, carry};
use super::memory::Memory;
use super::{Report, administered};
pub use dump::Database;
use files::{InVault, Survey};

/// Why the second of two stays where it is, which the catalog cannot tell apart.
const OTHER_LETTERS: &str = "another one has its name in other letters";

/// Under what it is remembered that something was brought.
const SOURCE: &str = "boxvault";

/// What is to be brought, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vault {
    /// The directory of its boxes (`box_storage_directory`).
    pub files: PathBuf,
    /// The directory of its ISO images (`iso_storage_directory`), if they are to be brought.
    pub isos: Option<PathBuf>,
    /// Its database.
    pub database: Option<Database>,
    /// Whether what was brought before and taken away here is brought again.
    pub again: bool,
    /// Names that no organization may have, folded.
    pub reserved: BTreeSet<String>,
    /// Whether everybody may read boxes of which only a file is known.
    pub new_box_public: bool,
    /// Who has it done, for events and the audit.
    pub actor: String,
}

impl Vault {
    pub(super) async fn run(self, stock: Stock, report: &mut Report<'_>) -> Result<(), String> {
        let path = self.files.clone();
        let surveyed = spawn_blocking(move || files::survey(&path)).await;
        let surveyed = surveyed.unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
        let survey =
            surveyed.map_err(|e| format!("{} cannot be read: {e}", self.files.display()))?;
        for (path, why) in survey.left.clone() {
            report.left(path, why).await;
        }
        let memory = Memory::open(stock.metadata(), SOURCE, self.again).await?;
        report.memory = Some(memory);
        let freight = match &self.database {
            None => bare(&stock, survey, report).await?,
            Some(database) => {
                let dump = database.read().await?;
                let metadata = stock.metadata();
                let people = people::bring(&self, metadata, &dump, report).await?;
                for (table, total, what) in &dump.others {
                    let why = format!("{total} rows are not brought: {what}");
                    report.left(format!("table {table}"), why).await;
                }
                let mut catalog = boxes::Catalog {
                    vault: &self,
                    metadata,
                    people: &people,
                    survey,
                    freight: Vec::new(),
                };
                catalog.bring(&dump, report).await?;
                for directory in catalog.survey.files.keys() {
                    let why = "the database does not know it";
                    report.left(files::path(directory), why).await;
                }
                let mut freight = catalog.freight;
                freight.extend(isos::bring(&self, &dump, &people, report).await?);
                freight
            }
        };
        let carrier = Carrier {
            stock,
            new_box_public: self.new_box_public,
            actor: self.actor,
            bytes: AtomicU64::new(0),
        };
        carry(carrier, freight, report).await
    }
}

/// Files of which no database tells: each is named by where it is.
async fn bare(
    stock: &Stock,
    survey: Survey,
    report: &mut Report<'_>,
) -> Result<Vec<Freight>, String> {
    let mut names = HashSet::new();
    let mut freight = Vec::new();
    for (directory, found) in survey.files {
        let path = files::path(&directory);
        let name = match files::named(&directory) {
            Ok(name) => name,
            Err(error) => {
                report
                    .left(path, format!("the catalog takes no such name: {error}"))
                    .await;
                continue;
            }
        };
        if !names.insert(boxes::folded(&name)) {
            report
                .left(path, "another file has its name in other letters")
                .await;
            continue;
        }
        let (organization, owner) = match administered(stock.metadata(), &name.organization).await {
            Ok(found) => found,
            Err(why) => {
                report.left(path, why).await;
                continue;
            }
        };
        let item = boxes::item("file", &boxes::folded(&name));
        freight.push(Freight {
            iso: None,
            was_brought: report.was_brought(&item),
            item: Some(item),
            path,
            name,
            organization,
            sender: Sender::person(owner),
            length: found.length,
            modified: found.modified,
            downloads: 0,
            source: Arc::new(InVault {
                home: survey.home.clone(),
                directory,
                expected: None,
            }),
        });
    }
    Ok(freight)
}

#[expect(clippy::needless_pass_by_value, reason = "fits map_err")]
fn unanswered(error: boxgate_storage::Error) -> String {
    chain(&error)
}
