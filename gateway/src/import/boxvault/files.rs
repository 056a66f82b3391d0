//! The tree of files of a BoxVault: `{organization}/{box}/{version}/{provider}/{architecture}/vagrant.box`. Blocking.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::SystemTime;

use boxgate_storage::catalog::{BoxRef, NameError};
use boxgate_storage::digest::Digest;

use super::super::carry::Source;
use crate::boxitory::tree::Home;

/// What each file is named.
const FILE: &str = "vagrant.box";
/// Directories above it.
const LEVELS: usize = 5;

/// All of a tree.
pub(super) struct Survey {
    pub(super) home: Home,
    /// By the directory that each is in.
    pub(super) files: BTreeMap<String, Found>,
    /// Paths in the tree of what cannot be brought, and why.
    pub(super) left: Vec<(String, String)>,
}

/// A file that is there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) length: u64,
    pub(super) modified: SystemTime,
}

/// A file, with what the database says of its bytes.
pub(super) struct InVault {
    pub(super) home: Home,
    pub(super) directory: String,
    pub(super) expected: Option<Digest>,
}

impl Source for InVault {
    fn open(&self) -> io::Result<File> {
        self.home.open_file(&self.directory, FILE)
    }

    fn expected(&self) -> Vec<Digest> {
        self.expected.iter().cloned().collect()
    }
}

/// The path of the file in a directory, for people.
pub(super) fn path(directory: &str) -> String {
    format!("{directory}/{FILE}")
}

/// The name of which a directory is, where no database tells.
///
/// # Errors
/// The part of it that is no name.
pub(super) fn named(directory: &str) -> Result<BoxRef, NameError> {
    let mut parts = directory.split('/');
    let mut next = || parts.next().unwrap_or_default();
    Ok(BoxRef {
        organization: next().parse()?,
        name: next().parse()?,
        version: next().parse()?,
        provider: next().parse()?,
        architecture: next().parse()?,
    })
}

pub(super) fn survey(path: &Path) -> io::Result<Survey> {
    let home = Home::open(path)?;
    let mut survey = Survey {
        home,
        files: BTreeMap::new(),
        left: Vec::new(),
    };
    survey.directories("", LEVELS)?;
    Ok(survey)
}

impl Survey {
    /// Whether it is told already why a directory, or its file, is not brought.
    pub(super) fn is_told(&self, directory: &str) -> bool {
        self.left.iter().any(|(left, _)| {
            let left = left.strip_suffix(FILE).unwrap_or(left);
            let left = left.trim_end_matches('/');
            let below = directory.strip_prefix(left);
            below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
        })
    }

    /// Has nothing to do with what is below a path.
    pub(super) fn pass_over(&mut self, path: &str) {
        self.files.retain(|directory, _| {
            let below = directory.strip_prefix(path);
            !below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
        });
    }

    /// Goes down so many levels, and takes what is at their end.
    fn directories(&mut self, above: &str, levels: usize) -> io::Result<()> {
        if levels == 0 {
            self.file(above);
            return Ok(());
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(self.home.directory(above))? {
            let entry = entry?;
            // What is left of chunks and of uploads that were cut.
            let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            let kind = entry.file_type()?;
            if !is_hidden && kind.is_symlink() {
                let name = entry.file_name();
                let why = "links are not followed: bring what it leads to by its own path";
                let path = format!("{above}/{}", name.to_string_lossy());
                self.left
                    .push((path.trim_start_matches('/').to_owned(), why.to_owned()));
            }
            if is_hidden || !kind.is_dir() {
                continue;
            }
            match entry.file_name().into_string() {
                Ok(name) => names.push(name),
                Err(name) => self.left.push((
                    format!("{above}/{}", name.to_string_lossy()),
                    "its name is no text that the catalog could have".to_owned(),
                )),
            }
        }
        names.sort();
        for name in names {
            let below = if above.is_empty() {
                name
            } else {
                format!("{above}/{name}")
            };
            if let Err(error) = self.directories(&below, levels - 1) {
                let why = format!("it cannot be read: {error}");
                self.left.push((below, why));
            }
        }
        Ok(())
    }

    fn file(&mut self, directory: &str) {
        let opened = self.home.open_file(directory, FILE);
        match opened.and_then(|file| file.metadata()) {
            Ok(meta) => {
                let modified = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                let length = meta.len();
                let found = Found { length, modified };
                self.files.insert(directory.to_owned(), found);
            }
            // An architecture without a file is one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let why = format!("it cannot be read: {error}");
                self.left.push((path(directory), why));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_five_levels_down_and_links_out_of_the_tree_are_not() {
        let outside = tempfile::tempdir().unwrap();
        let home = outside.path().join("boxes");
        let write = |path: &str| {
            let path = home.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "bytes").unwrap();
        };
        write("acme/demo/1.0/virtualbox/amd64/vagrant.box");
        write("acme/demo/1.0/virtualbox/amd64/.temp/chunk-0");
        write("acme/demo/1.0/virtualbox/arm64/other");
        write("acme/demo/1.0/vagrant.box");
        write(".cache/demo/1.0/virtualbox/amd64/vagrant.box");
        fs::write(outside.path().join("secret"), "secret").unwrap();
        let odd = home.join("acme/demo/2.0/virtualbox/amd64");
        fs::create_dir_all(&odd).unwrap();
        std::os::unix::fs::symlink("../../../../../../secret", odd.join(FILE)).unwrap();
        let survey = survey(&home).unwrap();
        let found: Vec<_> = survey.files.keys().map(String::as_str).collect();
        assert_eq!(found, ["acme/demo/1.0/virtualbox/amd64"]);
        assert_eq!(
            survey.left.len(),
            1,
            "{:?}: the link out of the tree",
            survey.left
        );
        let name = named(found[0]).unwrap();
        assert_eq!(name.to_string(), found[0]);
        assert!(named("acme/demo/1.0/virtual box/amd64").is_err());
    }
}
