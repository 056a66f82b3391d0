//! Small files and directories that are there, whole, after a loss of power: keys, marks, credentials.
//!
//! No bytes of blobs go this way (`backend::local` never renames): a file here is read at the start and
//! must be the old one or the new one, and nothing in between.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Writes all of a file, or leaves what was there: under another name first, made durable, then
/// renamed. Blocking.
///
/// # Errors
/// When a step fails; a leftover beside the file is overwritten by the next try.
pub fn write_file(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(mode)
        .open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    put_in_place(&beside, path)
}

/// Gives a durable file its name, in the place of what had it before; the name is durable then, too.
/// Blocking.
///
/// # Errors
/// When a step fails.
pub fn put_in_place(file: &Path, path: &Path) -> io::Result<()> {
    fs::rename(file, path)?;
    File::open(parent_of(path))?.sync_all()
}

/// Makes a directory and those above it that are missing, each with `mode` and with a durable name.
/// Blocking.
///
/// # Errors
/// When one cannot be made.
pub fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = parent_of(path);
    make_directory(parent, mode)?;
    match DirBuilder::new().mode(mode).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    File::open(parent)?.sync_all()
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => Path::new("/"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_whatever_a_former_try_left() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("a/b");
        make_directory(&directory, 0o700).unwrap();
        make_directory(&directory, 0o700).expect("making it again is fine");
        let path = directory.join("key");
        fs::write(directory.join("key.new"), b"half of a much longer text").unwrap();
        write_file(&path, b"one", 0o600).unwrap();
        write_file(&path, b"other", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"other");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&directory)), (0o600, 0o700));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_written_leaves_the_old_file() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("key");
        write_file(&path, b"one", 0o600).unwrap();
        // Something that cannot be opened stands where the new file goes first.
        fs::create_dir(home.path().join("key.new")).unwrap();
        write_file(&path, b"two", 0o600).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"one");
    }
}
