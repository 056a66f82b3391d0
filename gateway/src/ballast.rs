//! Room kept aside on the volume of the database, so that a full disk can still be tidied up: names
//! deleted, sign-ins recorded, the gateway started again.
//!
//! A file of [`MOST_BYTES`] or 1 % of the volume is written at the start. When the volume runs full the
//! file is given up; it comes back when there is room for it again.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// The most room kept aside, in bytes.
const MOST_BYTES: u64 = 64 << 20;
/// Free room below which the ballast is given up, in bytes.
const LOW_BYTES: u64 = 16 << 20;

/// The file and its size.
#[derive(Debug)]
pub struct Ballast {
    path: PathBuf,
    wanted_bytes: u64,
}

impl Ballast {
    /// For the volume of `directory`; nothing is written yet.
    ///
    /// # Errors
    /// When the volume cannot be asked for its size.
    pub fn new(directory: &Path) -> io::Result<Self> {
        let volume = rustix::fs::statvfs(directory)?;
        let total_bytes = volume.f_blocks.saturating_mul(volume.f_frsize);
        Ok(Self {
            path: directory.join("ballast"),
            wanted_bytes: MOST_BYTES.min(total_bytes / 100),
        })
    }

    /// Gives the room up while the volume is full, and takes it back while there is plenty. Blocking.
    ///
    /// # Errors
    /// When the file cannot be written or removed.
    pub fn settle(&self) -> io::Result<()> {
        let volume = rustix::fs::statvfs(self.path.parent().unwrap_or(&self.path))?;
        let free_bytes = volume.f_bavail.saturating_mul(volume.f_frsize);
        let held_bytes = std::fs::metadata(&self.path).map_or(0, |file| file.len());
        if free_bytes < LOW_BYTES && held_bytes > 0 {
            tracing::warn!(
                free_bytes,
                held_bytes,
                "the volume is full: ballast given up"
            );
            return std::fs::remove_file(&self.path);
        }
        let room = free_bytes >= self.wanted_bytes.saturating_add(2 * LOW_BYTES);
        if held_bytes < self.wanted_bytes && room {
            return self.fill();
        }
        Ok(())
    }

    fn fill(&self) -> io::Result<()> {
        let mut file: File = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .open(&self.path)?;
        let zeros = vec![0; 1 << 20];
        let mut left = self.wanted_bytes;
        while left > 0 {
            let now = usize::try_from(left).map_or(zeros.len(), |left| left.min(zeros.len()));
            file.write_all(&zeros[..now])?;
            left -= now as u64;
        }
        file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_kept_once_and_stays_within_a_hundredth_of_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        let ballast = Ballast::new(dir.path()).unwrap();
        ballast.settle().unwrap();
        let length = std::fs::metadata(dir.path().join("ballast")).unwrap().len();
        assert!(length == ballast.wanted_bytes && length <= MOST_BYTES);
        ballast.settle().unwrap();
    }
}
