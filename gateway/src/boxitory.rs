//! A tree of boxes that is served where it is, as Boxitory serves it.
//!
//! The tree belongs to somebody else, who changes it while it is served; nothing is written to it but checksums beside
//! boxes, where that is wanted. Requests are answered from an [`index`], which [`watch`] keeps with the directories;
//! what an answer needs of files is read once for each box, off the reactor, and kept until the box changes.

pub mod checksum;
pub mod describe;
pub mod document;
pub mod index;
pub mod name;
pub mod tree;
pub mod watch;

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use boxgate_storage::layer::files::Stamp;
use futures_util::future::join_all;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use crate::config::boxitory as settings;
use checksum::Checksums;
use document::{Document, Known};
use index::{Index, Look, Shelf};
use tree::DESCRIPTIONS;
use watch::Watch;

/// What the answers come from.
#[derive(Debug)]
pub struct Boxitory {
    /// Its settings.
    pub settings: settings::Boxitory,
    index: Index,
    checksums: Option<Arc<Checksums>>,
    watch: Watch,
}

/// A box file that was opened.
#[derive(Debug)]
pub struct Opened {
    /// Its bytes, from the first.
    pub file: File,
    /// What it was then.
    pub stamp: Stamp,
    /// When it was written.
    pub modified: SystemTime,
}

impl Opened {
    /// A strong validator: another file, or the same with other bytes, has another.
    pub fn etag(&self) -> String {
        format!("\"{}\"", self.stamp.digest().to_hex())
    }
}

/// What a name of a box file does not lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// A box.
    Box,
    /// A version of it.
    Version,
    /// A file of that version for the provider.
    Provider,
}

impl Boxitory {
    /// Indexes the tree, if there is to be one. A directory that is not there may come later.
    pub async fn open(settings: Option<&settings::Boxitory>) -> Option<Arc<Self>> {
        let settings = settings?.clone();
        let opened = spawn_blocking(move || {
            let begun = Instant::now();
            let index = Index::default();
            let watch = Watch::new(&settings.home, settings.rescan);
            watch.look_at_all(&index, &settings.home);
            let (boxes, files) = index.size();
            let milliseconds = begun.elapsed().as_millis();
            let home = settings.home.display();
            if index.home().is_some() {
                tracing::info!(%home, boxes, files, milliseconds, "a tree of boxes is served");
            } else {
                tracing::error!(%home, "there is no such tree of boxes; it is looked for now and then (boxitory.rescan)");
            }
            let checksums = settings.checksum.map(|kind| {
                let (persist, buffer) = (settings.checksum_persist, settings.checksum_buffer_bytes);
                Arc::new(Checksums::new(kind, persist, buffer))
            });
            Self {
                settings,
                index,
                checksums,
                watch,
            }
        });
        match opened.await {
            Ok(opened) => Some(Arc::new(opened)),
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }

    /// Follows the changes of the tree until the process ends.
    pub async fn follow(self: Arc<Self>) {
        self.watch.follow(&self).await;
    }

    /// Ends what it does by itself.
    pub fn end(&self) {
        if let Some(checksums) = &self.checksums {
            checksums.end();
        }
    }

    /// What is indexed; `None` while no directory is there.
    pub fn index(&self) -> Option<&Index> {
        self.index.home().map(|_home| &self.index)
    }

    /// The page of all boxes; `write` makes it of them.
    pub async fn page(
        self: &Arc<Self>,
        write: impl FnOnce(&[Arc<Shelf>]) -> String + Send + 'static,
    ) -> Arc<Document> {
        if let Some(page) = self.index.page() {
            return page;
        }
        let this = Arc::clone(self);
        let written = spawn_blocking(move || {
            let page = |shelves: &[Arc<Shelf>]| Document::new(write(shelves));
            this.index.write_page(page)
        });
        match written.await {
            Ok(page) => page,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }

    /// What is told of a box.
    pub async fn document(self: &Arc<Self>, shelf: &Arc<Shelf>) -> Arc<Document> {
        if let Some(document) = shelf.document() {
            return document;
        }
        let until = Instant::now() + self.settings.checksum_wait;
        let (known, computing) = self.known(shelf).await;
        let known = if computing.is_empty() {
            known
        } else {
            let ends = computing.into_iter().map(|mut over| async move {
                let _ended = over.changed().await;
            });
            let _in_time = timeout_at(until, join_all(ends)).await;
            self.known(shelf).await.0
        };
        let document = Arc::new(document::of_box(&self.settings, shelf, &known));
        if known.is_all {
            shelf.keep(Arc::clone(&document), known.at);
        }
        document
    }

    /// What files tell of a box at this moment, and what is being computed of it.
    async fn known(
        self: &Arc<Self>,
        shelf: &Arc<Shelf>,
    ) -> (Known, Vec<tokio::sync::watch::Receiver<()>>) {
        let (this, of) = (Arc::clone(self), Arc::clone(shelf));
        let read = spawn_blocking(move || this.read(&of)).await;
        let known = read.unwrap_or_else(|error| {
            tracing::error!(%error, r#box = shelf.name(), "reading a box's files broke");
            Known::default()
        });
        let computing = match (&self.checksums, self.index.home()) {
            (Some(checksums), Some(home)) => known
                .missing
                .iter()
                .map(|file| checksums.compute(&home, shelf.name(), file))
                .collect(),
            _ => Vec::new(),
        };
        (known, computing)
    }

    /// Reads descriptions and checksums. Blocking.
    fn read(&self, shelf: &Shelf) -> Known {
        let mut known = Known {
            at: shelf.turn(),
            is_all: true,
            ..Known::default()
        };
        let (Some(home), name) = (self.index.home(), shelf.name()) else {
            return known;
        };
        match home.read_text(name, DESCRIPTIONS, describe::LONGEST) {
            Ok(Some(text)) => {
                let said = describe::parse(&text, |version| shelf.version(version).is_some());
                let said = said.into_iter();
                known.descriptions = said.map(|(v, d)| (v.to_owned(), d.to_owned())).collect();
            }
            Ok(None) => tracing::warn!(
                r#box = name,
                "{DESCRIPTIONS} is longer than {} bytes and is not read",
                describe::LONGEST
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, r#box = name, "{DESCRIPTIONS} cannot be read"),
        }
        let Some(checksums) = &self.checksums else {
            return known;
        };
        for (rank, version) in shelf.versions().iter().rev().enumerate() {
            for provider in &version.providers {
                let file = name::file(name, &version.digits, provider);
                match checksums.of(&home, name, &file) {
                    Some(checksum) => drop(known.checksums.insert(file, checksum)),
                    None if rank < self.settings.checksum_ensure => {
                        known.is_all = false;
                        known.missing.push(file);
                    }
                    None => {}
                }
            }
        }
        known
    }

    /// Opens the file of a version and provider.
    ///
    /// # Errors
    /// When the file cannot be read, or is none any more.
    pub async fn open_file(
        self: &Arc<Self>,
        shelf: &Shelf,
        file_name: String,
    ) -> io::Result<Opened> {
        let home = self.index.home().ok_or(io::ErrorKind::NotFound)?;
        let name = shelf.name().to_owned();
        let opening = spawn_blocking(move || {
            let file = home.open_file(&name, &file_name)?;
            let (stamp, meta) = (Stamp::of(file.as_fd())?, file.metadata()?);
            let modified = meta.modified()?;
            Ok(Opened {
                file,
                stamp,
                modified,
            })
        });
        opening
            .await
            .unwrap_or_else(|panicked| Err(io::Error::other(panicked)))
    }

    /// Has the directory of a box listed at once.
    pub async fn look_again(self: &Arc<Self>, shelf: &Arc<Shelf>) {
        let (this, of) = (Arc::clone(self), Arc::clone(shelf));
        let looked = spawn_blocking(move || {
            if let Some(home) = this.index.home()
                && let Err(error) = this.index.look_at(&home, of.name(), Look::Within)
            {
                tracing::debug!(%error, r#box = of.name(), "a directory cannot be read");
            }
        });
        if let Err(error) = looked.await {
            tracing::error!(%error, r#box = shelf.name(), "listing a directory broke");
        }
    }

    /// The version of a box that a URL names, `latest` the highest that has the provider.
    ///
    /// # Errors
    /// What is missing.
    pub fn version_of<'s>(
        shelf: &'s Shelf,
        provider: &str,
        version: &str,
    ) -> Result<&'s tree::Version, Missing> {
        let has = |v: &&tree::Version| v.providers.iter().any(|p| &**p == provider);
        if version == "latest" {
            return shelf.versions().iter().rev().find(has).ok_or(Missing::Box);
        }
        let found = shelf.version(version).ok_or(Missing::Version)?;
        Some(found).filter(has).ok_or(Missing::Provider)
    }
}

/// The longest that directories are left alone after the system told of a change.
pub(crate) const SETTLES: Duration = Duration::from_millis(10);
