//! ISO images: one directory, in which each file is named by its SHA-256 (`{sha256}.iso`).

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use boxgate_storage::catalog::{BoxRef, IsoName};
use boxgate_storage::digest::{Algorithm, Digest};
use boxgate_storage::upload::Sender;
use tokio::task::spawn_blocking;

use super::super::Report;
use super::super::carry::{Freight, Image, Source};
use super::dump::{Dump, Row};
use super::people::{People, Place};
use super::{OTHER_LETTERS, Vault, boxes};
use crate::boxitory::tree::Home;

/// An ISO image in the directory of them.
struct InDirectory {
    home: Home,
    file: String,
    expected: Digest,
}

impl Source for InDirectory {
    fn open(&self) -> io::Result<File> {
        self.home.open_file("", &self.file)
    }

    fn expected(&self) -> Vec<Digest> {
        vec![self.expected.clone()]
    }
}

/// Those that are to be brought.
///
/// # Errors
/// Why it ended early.
pub(super) async fn bring(
    vault: &Vault,
    dump: &Dump,
    people: &People,
    report: &mut Report<'_>,
) -> Result<Vec<Freight>, String> {
    if dump.isos.is_empty() {
        return Ok(Vec::new());
    }
    let Some(directory) = &vault.isos else {
        let total = dump.isos.len();
        let why = format!(
            "{total} rows are not brought: ISO images, whose directory is not named (--isos)"
        );
        report.left("table isos", why).await;
        return Ok(Vec::new());
    };
    let unreadable = |e: io::Error| format!("{} cannot be read: {e}", directory.display());
    let home = Home::open(directory).map_err(unreadable)?;
    let mut seen = HashSet::new();
    let mut freight = Vec::new();
    for row in &dump.isos {
        let organization = row.number("organizationId");
        // Those of an organization that was taken away here went with it.
        if organization.is_some_and(|id| people.gone.contains_key(&id)) {
            continue;
        }
        let text = row.text("name").unwrap_or_default();
        let place = organization.and_then(|id| people.organizations.get(&id));
        let Some(place) = place else {
            let why = "its organization was not brought";
            report.left(format!("ISO {text:?}"), why).await;
            continue;
        };
        let path = format!("{}/iso/{text}", place.name);
        match image(&home, row, place, &mut seen).await {
            Ok(mut found) => {
                let item = boxes::item("iso", &path.to_lowercase());
                found.was_brought = report.was_brought(&item);
                found.item = Some(item);
                freight.push(Freight { path, ..found });
            }
            Err(why) => report.left(path, why).await,
        }
    }
    Ok(freight)
}

/// # Errors
/// Why it is not brought.
async fn image(
    home: &Home,
    row: &Row,
    place: &Place,
    seen: &mut HashSet<String>,
) -> Result<Freight, String> {
    let no_name =
        |e: boxgate_storage::catalog::NameError| format!("the catalog takes no such name: {e}");
    let text = row.text("name").unwrap_or_default();
    let name: IsoName = text.parse().map_err(no_name)?;
    if !seen.insert(format!("{}/{}", place.name.folded(), name.folded())) {
        return Err(OTHER_LETTERS.to_owned());
    }
    let file = row.text("storagePath").unwrap_or_default();
    if file.is_empty() || file.starts_with('.') || file.contains(['/', '\\']) {
        return Err(format!("its file {file:?} is none of the directory"));
    }
    let checksum = row.text("checksum").unwrap_or_default();
    let expected = Digest::from_hex(Algorithm::Sha256, checksum);
    let expected = expected.ok_or("its checksum is no SHA-256")?;
    let source = Arc::new(InDirectory {
        home: home.clone(),
        file: file.to_owned(),
        expected,
    });
    let opening = Arc::clone(&source);
    let looked = spawn_blocking(move || opening.open()?.metadata()).await;
    let meta = looked.unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
    let meta = meta.map_err(|e| format!("{file} cannot be read: {e}"))?;
    if let Some(size) = row.number("size").filter(|size| *size > 0)
        && u64::try_from(size) != Ok(meta.len())
    {
        let found = meta.len();
        return Err(format!(
            "{file} has {found} bytes, and the database says {size}"
        ));
    }
    Ok(Freight {
        path: String::new(),
        name: BoxRef::of_iso(place.name.clone(), &name),
        organization: place.id,
        sender: Sender::person(place.owner),
        length: meta.len(),
        modified: meta.modified().unwrap_or(SystemTime::UNIX_EPOCH),
        downloads: 0,
        iso: Some(Image {
            name,
            public: row.flag("isPublic") == Some(true),
            description: row.owned("description"),
        }),
        item: None,
        was_brought: false,
        source,
    })
}
