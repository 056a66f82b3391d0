//! Follows the directories of a tree: the system tells what changed, and all of them are looked at now and then, because it
//! does not tell everything: not of file systems that others write to, nor where it has no room for more watches.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use boxgate_storage::layer::files::Stamp;
use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::index::{Index, Look};
use super::tree::Home;
use super::{Boxitory, SETTLES};

/// Boxes that wait to be looked at; of more, all are.
const MOST_WAITING: usize = 10_000;

/// Who is told of changes.
#[derive(Debug)]
pub struct Watch {
    watcher: Mutex<Option<RecommendedWatcher>>,
    watched: Mutex<Watched>,
    waiting: Arc<Waiting>,
    rescan: Duration,
}

/// Directories that the system tells of.
#[derive(Debug, Default)]
struct Watched {
    home: Option<Stamp>,
    boxes: HashMap<Box<str>, Stamp>,
    /// Those that could not be listed, which is told once.
    unreadable: HashSet<Box<str>>,
    /// Whether it was said that there is no room for more.
    told: bool,
}

/// What is to be looked at.
#[derive(Debug, Default)]
struct Waiting {
    names: Mutex<Names>,
    came: Notify,
}

#[derive(Debug, Default)]
struct Names {
    boxes: HashSet<Box<str>>,
    all: bool,
}

impl Watch {
    /// Nothing is watched yet.
    pub fn new(home: &Path, rescan: Duration) -> Self {
        let waiting = Arc::new(Waiting::default());
        let (told, path) = (Arc::clone(&waiting), home.to_owned());
        let watcher = notify::recommended_watcher(move |event| told.hear(&path, event));
        let watcher = watcher
            .inspect_err(|error| {
                tracing::warn!(%error, "changes of the tree of boxes are found by looking (boxitory.rescan)");
            })
            .ok();
        Self {
            watcher: Mutex::new(watcher),
            watched: Mutex::default(),
            waiting,
            rescan,
        }
    }

    /// That a box may not be what it was.
    pub fn changed(&self, box_name: &str) {
        self.waiting.add(box_name);
    }

    /// Looks at what changes, when it does, and at all of it now and then.
    pub(super) async fn follow(&self, of: &Arc<Boxitory>) {
        let mut next = Instant::now() + self.rescan;
        loop {
            let _came = tokio::time::timeout_at(next, self.waiting.came.notified()).await;
            // Who copies a box in does several things one after the other.
            sleep(SETTLES).await;
            let mut names = self.waiting.take();
            names.all |= Instant::now() >= next;
            if names.all {
                next = Instant::now() + self.rescan;
            }
            let begun = Instant::now();
            let looking = Arc::clone(of);
            let looked = spawn_blocking(move || looking.watch.look(&looking, names)).await;
            if let Err(error) = looked {
                tracing::error!(%error, "looking at the tree of boxes broke");
            }
            // At most half of the time goes into it, however fast the tree changes.
            sleep(begun.elapsed()).await;
        }
    }

    fn look(&self, of: &Boxitory, names: Names) {
        let home = of.index.home().filter(|_| !names.all);
        let Some(home) = home else {
            return self.look_at_all(&of.index, &of.settings.home);
        };
        for name in self.with_twins(names.boxes) {
            self.look_at(&of.index, &home, &name, Look::Within);
        }
    }

    /// Those boxes, and all others whose directories are the same ones: the system tells of a directory by one name.
    fn with_twins(&self, mut names: HashSet<Box<str>>) -> HashSet<Box<str>> {
        let watched = self.watched();
        let stamps = names.iter().filter_map(|name| watched.boxes.get(name));
        let changed: HashSet<_> = stamps.map(|stamp| stamp.identity()).collect();
        let all = watched.boxes.iter();
        let twins = all.filter(|(_, stamp)| changed.contains(&stamp.identity()));
        names.extend(twins.map(|(name, _)| name.clone()));
        names
    }

    /// Looks at all directories, and reads those that are not as they were. Blocking.
    pub(super) fn look_at_all(&self, index: &Index, path: &Path) {
        let home = match Home::open(path) {
            Ok(home) => home,
            Err(error) => {
                if index.home().is_some() {
                    tracing::error!(%error, home = %path.display(), "the tree of boxes is gone");
                }
                index.settle(None);
                self.watched().home = None;
                return;
            }
        };
        self.watch_home(&home);
        let unnameable = |name: &OsStr| tracing::debug!(?name, "no URL can name this directory");
        let names = match home.names(unnameable) {
            Ok(names) => names,
            Err(error) => {
                tracing::error!(%error, home = %path.display(), "the tree of boxes cannot be read");
                return index.settle(None);
            }
        };
        for name in &names {
            let rewrite = !self.watched().boxes.contains_key(&**name);
            self.look_at(index, &home, name, Look::AtStamps { rewrite });
        }
        let there: HashSet<&str> = names.iter().map(String::as_str).collect();
        for name in index.names() {
            if !there.contains(&*name) {
                self.look_at(index, &home, &name, Look::Within);
            }
        }
        index.settle(Some(home));
    }

    fn look_at(&self, index: &Index, home: &Home, name: &str, look: Look) {
        // Before it is read: what changes from here on is told.
        self.watch_box(home, name);
        match index.look_at(home, name, look) {
            Ok(()) => drop(self.watched().unreadable.remove(name)),
            Err(error) => {
                if self.watched().unreadable.insert(name.into()) {
                    tracing::warn!(%error, r#box = name, "a directory cannot be read, and is no box");
                }
            }
        }
    }

    fn watch_home(&self, home: &Home) {
        let now = home.own_stamp().ok();
        let is_watched =
            matches!((self.watched().home, now), (Some(a), Some(b)) if a.is_same_file(b));
        if !is_watched {
            let watching = self.watch(&home.path);
            self.watched().home = now.filter(|_| watching);
        }
    }

    /// A directory that was made anew is watched anew.
    fn watch_box(&self, home: &Home, name: &str) {
        let Ok(now) = home.stamp(name) else {
            let gone = self.watched().boxes.remove(name);
            // What the system told by this name it is to tell by another one of the same directory.
            for twin in self.twins_of(gone) {
                let _is_told = self.watch(&home.directory(&twin));
            }
            return;
        };
        let before = self.watched().boxes.get(name).copied();
        if before.is_some_and(|before| before.is_same_file(now)) {
            return;
        }
        if self.watch(&home.directory(name)) {
            self.watched().boxes.insert(name.into(), now);
        } else {
            self.watched().boxes.remove(name);
        }
    }

    fn twins_of(&self, gone: Option<Stamp>) -> Vec<Box<str>> {
        let watched = self.watched();
        let all = watched.boxes.iter();
        let twins = all.filter(|(_, stamp)| gone.is_some_and(|gone| gone.is_same_file(**stamp)));
        twins.map(|(name, _)| name.clone()).collect()
    }

    /// Whether the system tells of that directory from now on.
    fn watch(&self, path: &Path) -> bool {
        let mut watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(watcher) = watcher.as_mut() else {
            return false;
        };
        let Err(error) = watcher.watch(path, RecursiveMode::NonRecursive) else {
            return true;
        };
        let is_full = matches!(error.kind, notify::ErrorKind::MaxFilesWatch);
        if is_full && !std::mem::replace(&mut self.watched().told, true) {
            tracing::warn!(
                "the system watches no more directories (fs.inotify.max_user_watches): changes of some boxes are found \
                 by looking (boxitory.rescan)"
            );
        }
        false
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn hear(&self, home: &Path, event: notify::Result<Event>) {
        match event {
            Ok(event) if event.need_rescan() => self.add_all(),
            Ok(event) if tells(event.kind) => {
                for path in &event.paths {
                    self.hear_of(home, path);
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "a change of the tree of boxes may be missed");
                self.add_all();
            }
        }
    }

    fn hear_of(&self, home: &Path, path: &Path) {
        let below = path.strip_prefix(home);
        let first = below.ok().and_then(|path| path.components().next());
        match first {
            Some(Component::Normal(name)) => {
                if let Some(name) = OsStr::to_str(name) {
                    self.add(name);
                }
            }
            _ => self.add_all(),
        }
    }

    fn add(&self, box_name: &str) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.all {
            return;
        }
        names.boxes.insert(box_name.into());
        if names.boxes.len() > MOST_WAITING {
            names.boxes = HashSet::new();
            names.all = true;
        }
        drop(names);
        self.came.notify_one();
    }

    fn add_all(&self) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.all = true;
        drop(names);
        self.came.notify_one();
    }

    fn take(&self) -> Names {
        std::mem::take(&mut *self.names.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether a change of that kind can change an answer. Bytes on their way into a file cannot, before it is closed.
fn tells(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        EventKind::Modify(ModifyKind::Data(_)) => false,
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    }
}
