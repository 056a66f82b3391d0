//! What is in the tree, held in memory: each box with its versions, and what was written of them.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::SystemTime;

use boxgate_storage::layer::files::Stamp;

use super::document::Document;
use super::name;
use super::tree::{DESCRIPTIONS, Home, Listing, Version};

/// All boxes of a tree.
#[derive(Debug, Default)]
pub struct Index {
    home: RwLock<Option<Arc<Home>>>,
    shelves: RwLock<HashMap<Box<str>, Arc<Shelf>>>,
    turns: AtomicU64,
    page: Mutex<Option<(u64, Arc<Document>)>>,
    /// Files that are not served, which is said of each once.
    told: Mutex<HashSet<String>>,
}

/// One box, as its directory was listed last.
#[derive(Debug)]
pub struct Shelf {
    name: Box<str>,
    versions: Vec<Version>,
    stamp: Stamp,
    listed: SystemTime,
    descriptions: Option<Stamp>,
    written: Mutex<Written>,
}

#[derive(Debug, Default)]
struct Written {
    /// Counts what made documents of before wrong.
    turn: u64,
    document: Option<Arc<Document>>,
}

/// Files of which it is said that they are not served; of more nothing is.
const MOST_TOLD: usize = 1000;
/// Times of files are those of the clock's last tick: two changes within it look alike.
const TICK: std::time::Duration = std::time::Duration::from_secs(2);

impl Index {
    /// The tree, if its directory is there.
    pub fn home(&self) -> Option<Arc<Home>> {
        let home = self.home.read().unwrap_or_else(PoisonError::into_inner);
        home.clone()
    }

    /// The directory is there, or is not.
    pub(super) fn settle(&self, home: Option<Home>) {
        *self.home.write().unwrap_or_else(PoisonError::into_inner) = home.map(Arc::new);
    }

    /// A box, if the tree has it.
    pub fn get(&self, box_name: &str) -> Option<Arc<Shelf>> {
        let shelves = self.shelves.read().unwrap_or_else(PoisonError::into_inner);
        shelves.get(box_name).cloned()
    }

    /// Names of all boxes.
    pub fn names(&self) -> Vec<Box<str>> {
        let shelves = self.shelves.read().unwrap_or_else(PoisonError::into_inner);
        shelves.keys().cloned().collect()
    }

    /// How many boxes, and how many files they have.
    pub fn size(&self) -> (usize, usize) {
        let shelves = self.shelves.read().unwrap_or_else(PoisonError::into_inner);
        let files = |shelf: &Arc<Shelf>| {
            let versions = shelf.versions.iter();
            versions
                .map(|version| version.providers.len())
                .sum::<usize>()
        };
        (shelves.len(), shelves.values().map(files).sum())
    }

    /// The page of all boxes, if it is written of the tree as it is.
    pub fn page(&self) -> Option<Arc<Document>> {
        let page = self.page.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = self.turns.load(Ordering::Acquire);
        let (of, document) = page.as_ref()?;
        (*of == turn).then(|| Arc::clone(document))
    }

    /// Writes the page of all boxes in the order of their names, once for each state of the tree.
    pub fn write_page(&self, write: impl FnOnce(&[Arc<Shelf>]) -> Document) -> Arc<Document> {
        let mut page = self.page.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = self.turns.load(Ordering::Acquire);
        if let Some((of, document)) = &*page
            && *of == turn
        {
            return Arc::clone(document);
        }
        let shelves = self.shelves.read().unwrap_or_else(PoisonError::into_inner);
        let mut sorted: Vec<_> = shelves.values().cloned().collect();
        drop(shelves);
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
        let document = Arc::new(write(&sorted));
        *page = Some((turn, Arc::clone(&document)));
        document
    }

    /// Lists a box's directory again, unless it is as it was then. Blocking.
    ///
    /// # Errors
    /// When it cannot be read: then the box is not there.
    pub(super) fn look_at(&self, home: &Home, box_name: &str, look: Look) -> io::Result<()> {
        let before = self.get(box_name);
        let descriptions = home.stamp_beside(box_name, DESCRIPTIONS);
        if let (Some(before), Look::AtStamps { rewrite }) = (&before, look)
            && before.is_as_it_was(home)
            && before.descriptions == descriptions
        {
            if rewrite {
                before.forget_document();
            }
            return Ok(());
        }
        let listed = SystemTime::now();
        let left_out = |file: &OsStr, why: &str| self.tell_once(box_name, file, why);
        match home.list(box_name, left_out) {
            Ok(Some(Listing { stamp, versions })) if !versions.is_empty() => {
                let is_new = before.as_ref().is_none_or(|b| b.versions != versions);
                let shelf = Arc::new(Shelf {
                    name: box_name.into(),
                    versions,
                    stamp,
                    listed,
                    descriptions,
                    written: Mutex::default(),
                });
                let mut shelves = self.shelves.write().unwrap_or_else(PoisonError::into_inner);
                shelves.insert(box_name.into(), shelf);
                if is_new {
                    self.turns.fetch_add(1, Ordering::Release);
                }
                Ok(())
            }
            Ok(_) => {
                self.remove(box_name);
                Ok(())
            }
            Err(error) => {
                self.remove(box_name);
                Err(error)
            }
        }
    }

    /// Says once of a file that it looks like a box and is none.
    fn tell_once(&self, box_name: &str, file: &OsStr, why: &str) {
        let path = format!("{box_name}/{}", file.to_string_lossy());
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < MOST_TOLD && !told.contains(&path) {
            tracing::warn!(path, "not served: {why}");
            told.insert(path);
        }
    }

    /// That a box is gone.
    pub(super) fn remove(&self, box_name: &str) {
        let mut shelves = self.shelves.write().unwrap_or_else(PoisonError::into_inner);
        if shelves.remove(box_name).is_some() {
            self.turns.fetch_add(1, Ordering::Release);
        }
    }
}

/// How closely a directory is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// It is read.
    Within,
    /// It is read where its times differ; `rewrite` has documents of a directory that is alike written again.
    AtStamps { rewrite: bool },
}

impl Shelf {
    /// The name of the box.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All versions, ascending.
    pub fn versions(&self) -> &[Version] {
        &self.versions
    }

    /// The version of these digits.
    pub fn version(&self, digits: &str) -> Option<&Version> {
        let at = self
            .versions
            .binary_search_by(|v| name::compare(&v.digits, digits));
        at.ok().map(|at| &self.versions[at])
    }

    /// The highest version.
    pub fn latest(&self) -> Option<&Version> {
        self.versions.last()
    }

    /// What was written of it, if that still holds.
    pub fn document(&self) -> Option<Arc<Document>> {
        self.written().document.clone()
    }

    /// Counts up where a document of before is wrong.
    pub(super) fn turn(&self) -> u64 {
        self.written().turn
    }

    /// Keeps a document of what was read at that turn.
    pub(super) fn keep(&self, document: Arc<Document>, turn: u64) {
        let mut written = self.written();
        if written.turn == turn {
            written.document = Some(document);
        }
    }

    fn forget_document(&self) {
        let mut written = self.written();
        written.turn += 1;
        written.document = None;
    }

    fn is_as_it_was(&self, home: &Home) -> bool {
        let stamp = home.stamp(&self.name);
        let settled = self.stamp.modified() + TICK < self.listed;
        settled && stamp.is_ok_and(|stamp| stamp == self.stamp)
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
