//! Checksums of boxes: those that stand beside them are believed, others are computed once.

use std::collections::HashMap;
use std::fmt::{self, Debug};
use std::fs::{File, Permissions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use boxgate_storage::digest::DigestHasher;
use boxgate_storage::layer::files::Stamp;
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::tree::Home;
use crate::config::boxitory::Checksum;

/// Boxes that are read at once.
const AT_ONCE: usize = 2;
/// Longest file with a checksum.
const LONGEST: u64 = 4 << 10;
/// Checksums that are remembered of boxes beside which none can be written. Each takes about 300 bytes.
const REMEMBERED: u64 = 100_000;
/// A box that changes while it is read is read so often.
const TRIES: usize = 3;
/// A box that was written to since is perhaps on its way still: its checksum is told, and kept beside it only later.
const SETTLED: Duration = Duration::from_secs(10);
const SEPARATOR: &str = "  ";

/// Computes checksums, each once however many ask.
pub struct Checksums {
    kind: Checksum,
    persist: bool,
    buffer_bytes: usize,
    known: moka::sync::Cache<Key, (Stamp, Arc<str>)>,
    running: Mutex<HashMap<Key, watch::Receiver<()>>>,
    permits: Arc<Semaphore>,
    over: CancellationToken,
}

/// A box and one of its files.
type Key = (Box<str>, Box<str>);

impl Debug for Checksums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checksums")
            .field("kind", &self.kind)
            .field("persist", &self.persist)
            .finish_non_exhaustive()
    }
}

impl Checksums {
    /// None is known yet.
    pub fn new(kind: Checksum, persist: bool, buffer_bytes: usize) -> Self {
        Self {
            kind,
            persist,
            buffer_bytes,
            known: moka::sync::Cache::new(REMEMBERED),
            running: Mutex::default(),
            permits: Arc::new(Semaphore::new(AT_ONCE)),
            over: CancellationToken::new(),
        }
    }

    /// What they are.
    pub fn kind(&self) -> Checksum {
        self.kind
    }

    /// Ends what is being computed.
    pub fn end(&self) {
        self.over.cancel();
    }

    /// The checksum of a file, if it is known. Blocking.
    pub fn of(&self, home: &Home, box_name: &str, file_name: &str) -> Option<Arc<str>> {
        if let Some(kept) = beside(home, box_name, file_name, self.kind) {
            return Some(kept.into());
        }
        let (stamp, known) = self.known.get(&(box_name.into(), file_name.into()))?;
        (home.stamp_beside(box_name, file_name) == Some(stamp)).then_some(known)
    }

    /// Begins to compute the checksum of a file, if nobody does; what is returned changes, or ends, when that is over.
    pub fn compute(
        self: &Arc<Self>,
        home: &Arc<Home>,
        box_name: &str,
        file_name: &str,
    ) -> watch::Receiver<()> {
        let key: Key = (box_name.into(), file_name.into());
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(over) = running.get(&key) {
            return over.clone();
        }
        let (ended, over) = watch::channel(());
        running.insert(key.clone(), over.clone());
        drop(running);
        let (this, home) = (Arc::clone(self), Arc::clone(home));
        tokio::spawn(async move {
            let permit = Arc::clone(&this.permits).acquire_owned().await;
            let (computing, of) = (Arc::clone(&this), key.clone());
            let computed = spawn_blocking(move || computing.compute_now(&home, &of)).await;
            drop(permit);
            match computed {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, r#box = %key.0, file = %key.1, "no checksum was computed");
                }
                Err(error) => tracing::error!(%error, "computing a checksum broke"),
            }
            let mut running = this.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.remove(&key);
            drop(ended);
        });
        over
    }

    fn compute_now(self: &Arc<Self>, home: &Arc<Home>, key: &Key) -> io::Result<()> {
        let (box_name, file_name) = (&*key.0, &*key.1);
        for _ in 0..TRIES {
            let mut file = home.open_file(box_name, file_name)?;
            let before = Stamp::of(file.as_fd())?;
            let Some(hex) = self.hash(&mut file)? else {
                return Ok(());
            };
            let after = Stamp::of(file.as_fd())?;
            if !after.has_bytes_of(before) {
                continue;
            }
            let age = file.metadata()?.modified()?.elapsed().unwrap_or_default();
            let hex: Arc<str> = hex.into();
            self.known.insert(key.clone(), (after, Arc::clone(&hex)));
            match SETTLED.checked_sub(age) {
                _ if !self.persist => {}
                None => self.keep(home, key, &hex),
                Some(later) => {
                    let keeping = Arc::clone(self).keep_later(Arc::clone(home), key.clone(), later);
                    tokio::spawn(keeping);
                }
            }
            return Ok(());
        }
        Err(io::Error::other("it changes while it is read"))
    }

    /// Keeps the checksum of a box beside it, if the box is then what it was.
    async fn keep_later(self: Arc<Self>, home: Arc<Home>, key: Key, after: Duration) {
        if timeout(after, self.over.cancelled()).await.is_ok() {
            return;
        }
        let keeping = spawn_blocking(move || {
            let Some((stamp, hex)) = self.known.get(&key) else {
                return;
            };
            if home.stamp_beside(&key.0, &key.1) == Some(stamp) {
                self.keep(&home, &key, &hex);
            }
        });
        if let Err(error) = keeping.await {
            tracing::error!(%error, "keeping a checksum broke");
        }
    }

    /// Keeps a checksum beside its box. Blocking.
    fn keep(&self, home: &Home, (box_name, file_name): &Key, hex: &str) {
        match keep(home, box_name, file_name, self.kind, hex) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => {
                tracing::warn!(%error, r#box = %box_name, file = %file_name, "a checksum is not kept");
            }
            Ok(()) => {}
        }
    }

    /// The digest in hexadecimal; `None` where the process ends.
    fn hash(&self, file: &mut File) -> io::Result<Option<String>> {
        let mut hasher = DigestHasher::new(self.kind.algorithm());
        let mut buffer = vec![0; self.buffer_bytes.max(1)];
        loop {
            if self.over.is_cancelled() {
                return Ok(None);
            }
            match file.read(&mut buffer) {
                Ok(0) => return Ok(Some(hasher.finish().to_hex())),
                Ok(n) => hasher.update(&buffer[..n]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// The name of the file that holds a checksum.
fn name_of(file_name: &str, kind: Checksum) -> String {
    format!("{file_name}.{}", kind.name())
}

/// What stands beside a box, and is believed whatever it is: one line, the name of the box behind two spaces.
pub fn beside(home: &Home, box_name: &str, file_name: &str, kind: Checksum) -> Option<String> {
    let name = name_of(file_name, kind);
    let text = home.read_text(box_name, &name, LONGEST).ok()??;
    parse(&text, file_name).map(str::to_owned)
}

fn parse<'t>(text: &'t str, file_name: &str) -> Option<&'t str> {
    let mut lines = text.lines();
    let (line, None) = (lines.next()?, lines.next()) else {
        return None;
    };
    let mut parts = line.split(SEPARATOR);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(value), Some(name), None) if name == file_name => Some(value),
        _ => None,
    }
}

/// Writes a checksum beside its box: whole, and never over another.
fn keep(home: &Home, box_name: &str, file_name: &str, kind: Checksum, hex: &str) -> io::Result<()> {
    let directory = home.directory(box_name);
    let path = directory.join(name_of(file_name, kind));
    if path.symlink_metadata().is_ok() {
        return Err(ErrorKind::AlreadyExists.into());
    }
    let mut beside = tempfile::Builder::new()
        .prefix(".boxgate-")
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(&directory)?;
    write!(beside, "{hex}{SEPARATOR}{file_name}")?;
    beside.as_file().sync_all()?;
    beside.persist_noclobber(path).map_err(|e| e.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_beside_a_box_is_one_line_with_its_name() {
        let name = "vm_1_vb.box";
        for (text, want) in [
            ("fake_checksum  vm_1_vb.box", Some("fake_checksum")),
            ("ab  vm_1_vb.box\n", Some("ab")),
            ("ab  vm_1_vb.box\r\n", Some("ab")),
            ("ab *vm_1_vb.box\n", None),
            ("ab vm_1_vb.box", None),
            ("ab  vm_2_vb.box", None),
            ("ab", None),
            ("ab  ", None),
            ("", None),
            ("ab  vm_1_vb.box\ncd  vm_1_vb.box", None),
            ("ab  vm_1_vb.box  x", None),
            ("\nab  vm_1_vb.box", None),
        ] {
            assert_eq!(parse(text, name), want, "{text:?}");
        }
    }
}
