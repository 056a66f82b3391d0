//! What a tree holds, before any of it is brought, and what of it cannot be. Blocking.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use crate::boxitory::name;
use crate::boxitory::tree::Home;

/// All of a tree.
pub(super) struct Survey {
    pub(super) home: Home,
    /// By box, version and provider.
    pub(super) files: Vec<Found>,
    /// Paths in the tree of what is no box, and why.
    pub(super) left: Vec<(String, String)>,
}

/// A box file.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) box_name: Box<str>,
    pub(super) version: Box<str>,
    pub(super) provider: Box<str>,
    pub(super) file_name: Box<str>,
    pub(super) length: u64,
    pub(super) modified: SystemTime,
}

impl Found {
    /// Where it is in the tree.
    pub(super) fn path(&self) -> String {
        format!("{}/{}", self.box_name, self.file_name)
    }
}

pub(super) fn survey(path: &Path) -> io::Result<Survey> {
    let home = Home::open(path)?;
    let mut left = Vec::new();
    let mut names = home.names(|name| {
        let why = "its name is no text that the catalog could have";
        left.push((name.to_string_lossy().into_owned(), why.to_owned()));
    })?;
    names.sort();
    let mut files = Vec::new();
    for box_name in names {
        let listed = home.list(&box_name, |file_name, why| {
            let path = format!("{box_name}/{}", file_name.to_string_lossy());
            left.push((path, why.to_owned()));
        });
        let listing = match listed {
            Ok(Some(listing)) => listing,
            Ok(None) => continue,
            Err(error) => {
                left.push((box_name, format!("it cannot be read: {error}")));
                continue;
            }
        };
        for version in listing.versions {
            for provider in version.providers {
                let file_name = name::file(&box_name, &version.digits, &provider);
                let opened = home.open_file(&box_name, &file_name);
                match opened.and_then(|file| file.metadata()) {
                    Ok(meta) => files.push(Found {
                        box_name: box_name.as_str().into(),
                        version: version.digits.clone(),
                        provider,
                        file_name: file_name.into(),
                        length: meta.len(),
                        modified: meta.modified()?,
                    }),
                    Err(error) => left.push((
                        format!("{box_name}/{file_name}"),
                        format!("it cannot be read: {error}"),
                    )),
                }
            }
        }
    }
    Ok(Survey { home, files, left })
}
