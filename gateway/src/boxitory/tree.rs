//! The directories and files of a tree that somebody else writes: what is a box, and nothing else, is opened.
//!
//! A box's directory may be a link that leads anywhere; a file in it may be a link that stays in its directory or in the
//! tree. Pipes, devices and sockets are looked at and never opened. All of this blocks.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use boxgate_storage::layer::files::Stamp;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::name;

/// Beside the boxes of a directory.
pub const DESCRIPTIONS: &str = "descriptions.csv";

/// Where a tree is, with all links resolved.
#[derive(Debug, Clone)]
pub struct Home {
    /// Where it was said to be.
    pub path: PathBuf,
    real: PathBuf,
}

/// What a directory held at one moment.
#[derive(Debug)]
pub struct Listing {
    /// Of the directory, before it was read.
    pub stamp: Stamp,
    /// Versions with their providers, in the order of versions, providers by their names.
    pub versions: Vec<Version>,
}

/// One version of a box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Its digits as they are written.
    pub digits: Box<str>,
    /// The providers that it has a file for.
    pub providers: Vec<Box<str>>,
}

impl Home {
    /// The tree at `path`.
    ///
    /// # Errors
    /// When no directory is there.
    pub fn open(path: &Path) -> io::Result<Self> {
        let real = fs::canonicalize(path)?;
        if !fs::metadata(&real)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self {
            path: path.to_owned(),
            real,
        })
    }

    /// Names of what may be the directories of boxes; `left_out` is told of those that no URL could name.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn names(&self, mut left_out: impl FnMut(&OsStr)) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if !kind.is_dir() && !kind.is_symlink() {
                continue;
            }
            match entry.file_name().into_string() {
                Ok(name) if is_nameable(&name) => names.push(name),
                Ok(name) => left_out(name.as_ref()),
                Err(name) => left_out(&name),
            }
        }
        Ok(names)
    }

    /// Where a box is.
    pub fn directory(&self, box_name: &str) -> PathBuf {
        self.path.join(box_name)
    }

    /// What the directory of a box holds; `None` where no directory is. `left_out` is told of files that look like boxes
    /// and are none, and why.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn list(
        &self,
        box_name: &str,
        mut left_out: impl FnMut(&OsStr, &str),
    ) -> io::Result<Option<Listing>> {
        let directory = self.directory(box_name);
        let stamp = match stamp_of_directory(&directory) {
            Ok(stamp) => stamp,
            Err(e) if is_no_directory(&e) => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut found: Vec<(Box<str>, Box<str>)> = Vec::new();
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let file_name = entry.file_name();
            let parsed = file_name.to_str().and_then(|n| name::parse(box_name, n));
            let Some((version, provider)) = parsed else {
                if Path::new(&file_name).extension() == Some(OsStr::new("box")) {
                    left_out(&file_name, "its name is not BOX_VERSION_PROVIDER.box");
                }
                continue;
            };
            // What is no link need not be looked at.
            let looked = if entry.file_type()?.is_file() {
                Ok(())
            } else {
                self.open_path(box_name, &file_name).map(drop)
            };
            match looked {
                Ok(()) => found.push((version.into(), provider.into())),
                Err(error) => left_out(&file_name, &error.to_string()),
            }
        }
        found.sort_by(|a, b| name::compare(&a.0, &b.0).then_with(|| a.1.cmp(&b.1)));
        let mut versions: Vec<Version> = Vec::new();
        for (digits, provider) in found {
            match versions.last_mut().filter(|last| last.digits == digits) {
                Some(last) => last.providers.push(provider),
                None => versions.push(Version {
                    digits,
                    providers: vec![provider],
                }),
            }
        }
        Ok(Some(Listing { stamp, versions }))
    }

    /// What tells whether the directory of all boxes was changed.
    ///
    /// # Errors
    /// When it is not there.
    pub fn own_stamp(&self) -> io::Result<Stamp> {
        stamp_of_directory(&self.path)
    }

    /// What tells whether the directory of a box was changed.
    ///
    /// # Errors
    /// When it is not there.
    pub fn stamp(&self, box_name: &str) -> io::Result<Stamp> {
        stamp_of_directory(&self.directory(box_name))
    }

    /// What tells whether a file beside the boxes was changed; `None` where there is none.
    pub fn stamp_beside(&self, box_name: &str, file_name: &str) -> Option<Stamp> {
        let path = self.open_path(box_name, OsStr::new(file_name)).ok()?;
        Stamp::of(path.as_fd()).ok()
    }

    /// Opens a file of a box to be read.
    ///
    /// # Errors
    /// When it is not there, no regular file, or a link that leaves the tree.
    pub fn open_file(&self, box_name: &str, file_name: &str) -> io::Result<File> {
        let path = self.open_path(box_name, OsStr::new(file_name))?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        // The very file that was looked at, whatever has its name by now.
        let again = format!("/proc/self/fd/{}", path.as_raw_fd());
        let file = File::from(rustix::fs::open(again, flags, Mode::empty())?);
        if file.metadata()?.is_file() {
            Ok(file)
        } else {
            Err(no_file())
        }
    }

    /// A small text file of a box, read whole; `None` where it is longer than `most` bytes.
    ///
    /// # Errors
    /// As [`Self::open_file`], and when it is no text.
    pub fn read_text(
        &self,
        box_name: &str,
        file_name: &str,
        most: u64,
    ) -> io::Result<Option<String>> {
        let file = self.open_file(box_name, file_name)?;
        let mut text = String::new();
        file.take(most + 1).read_to_string(&mut text)?;
        Ok((text.len() as u64 <= most).then_some(text))
    }

    /// Takes hold of a file without opening it, once it is sure to be one that may be served.
    fn open_path(&self, box_name: &str, file_name: &OsStr) -> io::Result<OwnedFd> {
        let directory = self.directory(box_name);
        let path = directory.join(file_name);
        let hold = |more: OFlags| {
            rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC | more, Mode::empty())
        };
        let kind =
            |fd: &OwnedFd| rustix::fs::fstat(fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
        let held = hold(OFlags::NOFOLLOW)?;
        match kind(&held)? {
            FileType::RegularFile => return Ok(held),
            FileType::Symlink => {}
            _ => return Err(no_file()),
        }
        let held = hold(OFlags::empty())?;
        if kind(&held)? != FileType::RegularFile {
            return Err(no_file());
        }
        let real = fs::read_link(format!("/proc/self/fd/{}", held.as_raw_fd()))?;
        let inside = real.starts_with(&self.real)
            || fs::canonicalize(&directory).is_ok_and(|own| real.starts_with(own));
        if inside {
            Ok(held)
        } else {
            let text = "a link that leaves the tree";
            Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
        }
    }
}

/// Whether a path of a URL can hold it as one segment, as those are read here.
fn is_nameable(name: &str) -> bool {
    !name.contains('\\')
}

fn stamp_of_directory(path: &Path) -> io::Result<Stamp> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let held = rustix::fs::open(path, flags, Mode::empty())?;
    Ok(Stamp::of(held.as_fd())?)
}

fn is_no_directory(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
    )
}

fn no_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn tree() -> (tempfile::TempDir, Home) {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().join("home");
        fs::create_dir_all(home.join("f25")).unwrap();
        let home = Home::open(&home).unwrap();
        (directory, home)
    }

    fn versions(home: &Home, box_name: &str) -> Vec<(String, Vec<String>)> {
        let listing = home.list(box_name, |_name, _why| {}).unwrap().unwrap();
        let texts = |v: Version| {
            let providers = v.providers.iter().map(ToString::to_string);
            (v.digits.to_string(), providers.collect())
        };
        listing.versions.into_iter().map(texts).collect()
    }

    #[test]
    fn only_regular_files_and_links_that_stay_inside_are_boxes() {
        let (outside, home) = tree();
        let box_home = home.directory("f25");
        fs::write(box_home.join("f25_1_virtualbox.box"), "one").unwrap();
        fs::create_dir(box_home.join("f25_2_virtualbox.box")).unwrap();
        let pipe = box_home.join("f25_3_virtualbox.box");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, Mode::RUSR).unwrap();
        symlink("/dev/zero", box_home.join("f25_4_virtualbox.box")).unwrap();
        let secret = outside.path().join("secret");
        fs::write(&secret, "secret").unwrap();
        symlink(&secret, box_home.join("f25_5_virtualbox.box")).unwrap();
        symlink("../../secret", box_home.join("f25_6_virtualbox.box")).unwrap();
        symlink("f25_1_virtualbox.box", box_home.join("f25_7_libvirt.box")).unwrap();
        symlink("nowhere", box_home.join("f25_8_virtualbox.box")).unwrap();
        symlink(
            "f25_9_virtualbox.box",
            box_home.join("f25_9_virtualbox.box"),
        )
        .unwrap();
        let _socket =
            std::os::unix::net::UnixListener::bind(box_home.join("f25_10_virtualbox.box")).unwrap();
        let want = [("1", "virtualbox"), ("7", "libvirt")];
        let want = want.map(|(v, p)| (v.to_owned(), vec![p.to_owned()]));
        assert_eq!(versions(&home, "f25"), want);
        for version in 2..=10 {
            let name = format!("f25_{version}_virtualbox.box");
            home.open_file("f25", &name).unwrap_err();
        }
        let text = home.read_text("f25", "f25_7_libvirt.box", 3).unwrap();
        assert_eq!(text.as_deref(), Some("one"));
        let text = home.read_text("f25", "f25_7_libvirt.box", 2).unwrap();
        assert_eq!(text, None);
    }

    #[test]
    fn a_link_to_a_directory_is_a_box_wherever_it_leads() {
        let (outside, home) = tree();
        let far = outside.path().join("far");
        fs::create_dir(&far).unwrap();
        fs::write(far.join("linked_1_virtualbox.box"), "far").unwrap();
        symlink(
            "linked_1_virtualbox.box",
            far.join("linked_2_virtualbox.box"),
        )
        .unwrap();
        symlink("../home/f25/f", far.join("linked_3_virtualbox.box")).unwrap();
        symlink(&far, home.directory("linked")).unwrap();
        symlink("loop", home.directory("loop")).unwrap();
        fs::write(home.directory("f25").join("f"), "f").unwrap();
        fs::write(home.directory("file"), "f").unwrap();
        let mut names = home.names(|_| ()).unwrap();
        names.sort();
        assert_eq!(names, ["f25", "linked", "loop"]);
        assert_eq!(versions(&home, "linked").len(), 3);
        assert!(home.list("loop", |_name, _why| {}).unwrap().is_none());
        assert!(home.list("file", |_name, _why| {}).unwrap().is_none());
        assert!(home.list("nowhere", |_name, _why| {}).unwrap().is_none());
    }

    #[test]
    fn names_that_no_url_can_hold_are_left_out_and_odd_ones_are_not() {
        use std::os::unix::ffi::OsStrExt as _;
        let (_outside, home) = tree();
        let odd = ["a b", "100%", "a..b", "...", "a%2fb", "ä", "<b>"];
        for name in odd {
            fs::create_dir(home.directory(name)).unwrap();
        }
        fs::create_dir(home.path.join("back\\slash")).unwrap();
        fs::create_dir(home.path.join(OsStr::from_bytes(b"\xff\xfe"))).unwrap();
        let mut left_out = 0;
        let mut names = home.names(|_| left_out += 1).unwrap();
        assert_eq!(left_out, 2);
        names.sort();
        let mut want: Vec<&str> = odd.into_iter().chain(["f25"]).collect();
        want.sort_unstable();
        assert_eq!(names, want);
    }
}
