//! A file system of its own: an ext4 image on a loop device. Needs root.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Failure, Result};

/// A mounted file system, gone when dropped.
#[derive(Debug)]
pub(crate) struct Volume {
    /// Empty once it is unmounted.
    at: PathBuf,
    image: PathBuf,
}

impl Volume {
    /// A fresh ext4 of so many bytes, with its image and its place in `directory`. Nothing is written to its
    /// device unless somebody asks for that or the kernel finds time: its journal waits for five minutes.
    ///
    /// # Errors
    /// When it cannot be made or mounted: most likely this is not root.
    pub(crate) fn ext4(directory: &Path, bytes: u64) -> Result<Self> {
        let (image, at) = (directory.join("image"), directory.join("volume"));
        let file = std::fs::File::create(&image).map_err(|e| Failure::file(&image, e))?;
        file.set_len(bytes).map_err(|e| Failure::file(&image, e))?;
        drop(file);
        let text = image.to_string_lossy();
        // No tables are left to be written later, which would look like work of the gateway's.
        let now = "lazy_itable_init=0,lazy_journal_init=0";
        run("mkfs.ext4", &["-q", "-F", "-m", "0", "-E", now, &text])?;
        std::fs::create_dir_all(&at).map_err(|e| Failure::file(&at, e))?;
        Self::mounted(image, at)
    }

    fn mounted(image: PathBuf, at: PathBuf) -> Result<Self> {
        let (from, to) = (image.to_string_lossy(), at.to_string_lossy());
        run("mount", &["-o", "loop,commit=300", &from, &to])?;
        Ok(Self { at, image })
    }

    /// Where it is mounted.
    pub(crate) fn at(&self) -> &Path {
        &self.at
    }

    /// A copy, beside its image, of what its device holds at this moment: what is only in memory is not in
    /// it.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub(crate) fn copy_device(&self) -> Result<PathBuf> {
        let copy = self.image.with_extension("copy");
        let (from, to) = (self.image.to_string_lossy(), copy.to_string_lossy());
        run("cp", &["--sparse=always", "--reflink=auto", &from, &to])?;
        Ok(copy)
    }

    /// Mounts a copy of its image in its place, as after a loss of power.
    ///
    /// # Errors
    /// When somebody still uses it, or the copy cannot be mounted.
    pub(crate) fn replaced_by(mut self, copy: &Path) -> Result<Self> {
        let at = self.unmount()?;
        std::fs::rename(copy, &self.image).map_err(|e| Failure::file(copy, e))?;
        Self::mounted(self.image.clone(), at)
    }

    /// Unmounts it and removes its image.
    ///
    /// # Errors
    /// When somebody still uses it.
    pub(crate) fn remove(mut self) -> Result<()> {
        self.unmount()?;
        std::fs::remove_file(&self.image).map_err(|e| Failure::file(&self.image, e))
    }

    /// Returns where it was.
    fn unmount(&mut self) -> Result<PathBuf> {
        run("umount", &[&self.at.to_string_lossy()])?;
        Ok(std::mem::take(&mut self.at))
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if !self.at.as_os_str().is_empty() {
            // Lazily, so that whoever still uses it is no reason to leave it there.
            let _gone = run("umount", &["-l", &self.at.to_string_lossy()]);
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let failed = |e| Failure::Local {
        what: program.to_owned(),
        source: e,
    };
    let output = Command::new(program)
        // Tools of the administrator are not on everybody's.
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .args(arguments)
        .output()
        .map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::said(format!(
        "{program} {}: {}",
        arguments.join(" "),
        said.trim()
    )))
}
