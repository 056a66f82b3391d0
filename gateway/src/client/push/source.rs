//! The file that is pushed, and what is kept beside it so that a cut push goes on.

use std::ffi::OsString;
use std::fs::{File, Metadata, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use boxgate_storage::durable;
use serde::{Deserialize, Serialize};

use super::PushError;

/// A file that is being pushed; locked against a second push of it for as long as it is open.
#[derive(Debug)]
pub struct Source {
    /// Its path.
    pub path: PathBuf,
    /// Open for reading.
    pub file: Arc<File>,
    /// What it was when the push began.
    pub identity: Identity,
}

/// What tells one content of a file from another without reading it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Length in bytes.
    pub size: u64,
    /// Time of the last change of its bytes, in nanoseconds.
    pub modified_ns: i64,
    /// The same of bytes or metadata, which nobody can set back.
    pub changed_ns: i64,
    /// Number of the file on its volume.
    pub inode: u64,
}

/// A push that was begun, as `FILE.boxgate-push` keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    version: u32,
    /// The gateway, as it was named.
    pub url: String,
    /// `organization/box/version/provider/architecture`.
    pub target: String,
    /// The file at that time.
    #[serde(flatten)]
    pub identity: Identity,
    /// Address of the upload.
    pub upload: String,
    /// Bytes of each part but the last.
    pub part_bytes: u64,
}

const VERSION: u32 = 2;

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        let ns =
            |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        Self {
            size: metadata.len(),
            modified_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
        }
    }
}

impl Source {
    /// Opens and locks it.
    ///
    /// # Errors
    /// [`PushError::Unreadable`], [`PushError::Empty`], [`PushError::Running`].
    pub fn open(path: &Path) -> Result<Self, PushError> {
        let unreadable = |why: io::Error| PushError::Unreadable {
            path: path.to_owned(),
            why: why.to_string(),
        };
        // Told apart before it is opened: opening a pipe would wait for its other end.
        let kind = std::fs::metadata(path).map_err(unreadable)?;
        if !kind.is_file() {
            return Err(unreadable(io::Error::other("it is no regular file")));
        }
        let file = File::open(path).map_err(unreadable)?;
        // Some network volumes have no locks; there two pushes at once send the same bytes twice.
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(PushError::Running(path.to_owned()));
        }
        let metadata = file.metadata().map_err(unreadable)?;
        if metadata.len() == 0 {
            return Err(PushError::Empty(path.to_owned()));
        }
        Ok(Self {
            path: path.to_owned(),
            identity: Identity::of(&metadata),
            file: Arc::new(file),
        })
    }

    /// Whether the file at the path is still the one that was opened.
    ///
    /// # Errors
    /// [`PushError::Changed`] if not.
    pub fn assert_unchanged(&self) -> Result<(), PushError> {
        let now = std::fs::metadata(&self.path).map(|metadata| Identity::of(&metadata));
        if now.is_ok_and(|now| now == self.identity) {
            Ok(())
        } else {
            Err(PushError::Changed(self.path.clone()))
        }
    }

    /// Where a begun push is kept.
    pub fn state_path(&self) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(".boxgate-push");
        name.into()
    }

    /// The push that was begun with this file, if any.
    ///
    /// # Errors
    /// When it cannot be read, or is none.
    pub fn kept(&self) -> io::Result<Option<Kept>> {
        let text = match std::fs::read(self.state_path()) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let kept: Kept = serde_json::from_slice(&text)?;
        if kept.version == VERSION {
            Ok(Some(kept))
        } else {
            let why = format!("its version is {}", kept.version);
            Err(io::Error::other(why))
        }
    }

    /// Keeps a push that is just begun, durably: readable by its owner alone.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn keep(&self, url: &str, target: &str, upload: &str, part_bytes: u64) -> io::Result<()> {
        let kept = Kept {
            version: VERSION,
            url: url.to_owned(),
            target: target.to_owned(),
            identity: self.identity.clone(),
            upload: upload.to_owned(),
            part_bytes,
        };
        let kept = serde_json::to_vec_pretty(&kept)?;
        durable::write_file(&self.state_path(), &kept, 0o600)
    }

    /// Forgets the push.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn forget(&self) -> io::Result<()> {
        match std::fs::remove_file(self.state_path()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_no_file_with_bytes_is_refused_and_so_is_a_second_push() {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str| Source::open(&dir.path().join(name)).map(drop);
        assert!(matches!(open("absent"), Err(PushError::Unreadable { .. })));
        assert!(matches!(open(""), Err(PushError::Unreadable { .. })));
        std::fs::write(dir.path().join("empty"), "").unwrap();
        assert!(matches!(open("empty"), Err(PushError::Empty(_))));
        std::fs::write(dir.path().join("a"), "bytes").unwrap();
        let first = Source::open(&dir.path().join("a")).unwrap();
        assert!(matches!(open("a"), Err(PushError::Running(_))));
        drop(first);
        open("a").unwrap();
    }

    #[test]
    fn a_change_of_length_time_or_file_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let changed = |change: &dyn Fn()| {
            std::fs::write(&path, "bytes").unwrap();
            let source = Source::open(&path).unwrap();
            source.assert_unchanged().unwrap();
            change();
            matches!(source.assert_unchanged(), Err(PushError::Changed(_)))
        };
        assert!(!changed(&|| {}));
        assert!(changed(&|| std::fs::write(&path, "bytes and more").unwrap()));
        assert!(changed(&|| std::fs::remove_file(&path).unwrap()));
        assert!(changed(&|| {
            let file = File::options().write(true).open(&path).unwrap();
            file.set_modified(std::time::UNIX_EPOCH).unwrap();
        }));
        assert!(changed(&|| {
            // In place, and as if nothing had happened.
            let file = File::options().write(true).open(&path).unwrap();
            let before = file.metadata().unwrap().modified().unwrap();
            std::fs::write(&path, "other").unwrap();
            file.set_modified(before).unwrap();
        }));
        assert!(changed(&|| {
            std::fs::copy(&path, dir.path().join("b")).unwrap();
            std::fs::rename(dir.path().join("b"), &path).unwrap();
        }));
    }

    #[test]
    fn a_begun_push_is_kept_for_its_owner_alone_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.box");
        std::fs::write(&path, "bytes").unwrap();
        let source = Source::open(&path).unwrap();
        assert_eq!(source.kept().unwrap(), None);
        source
            .keep("http://h", "o/b/1/p/a", "http://h/files/0", 8)
            .unwrap();
        let kept = source.kept().unwrap().unwrap();
        assert_eq!((kept.part_bytes, &*kept.upload), (8, "http://h/files/0"));
        assert_eq!(kept.identity, source.identity);
        let state = dir.path().join("a.box.boxgate-push");
        let mode = std::fs::metadata(&state).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        source.forget().unwrap();
        source.forget().unwrap();
        assert_eq!(source.kept().unwrap(), None);
        for text in ["", "{}", "[1]"] {
            std::fs::write(&state, text).unwrap();
            assert!(source.kept().is_err(), "{text}");
        }
    }
}
