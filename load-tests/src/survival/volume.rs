//! A file system of its own: an ext4 image on a loop device, or a piece of memory. Needs root.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Failure, Result};

/// A mounted file system, gone when dropped.
#[derive(Debug)]
pub(crate) struct Volume {
    at: PathBuf,
    image: Option<PathBuf>,
}

impl Volume {
    /// A fresh ext4 of so many bytes. Nothing is written to its device unless somebody asks for that
    /// or the kernel finds time: its journal waits for five minutes.
    ///
    /// # Errors
    /// When it cannot be made or mounted: most likely this is not root.
    pub(crate) fn ext4(image: &Path, at: &Path, bytes: u64) -> Result<Self> {
        let file = std::fs::File::create(image).map_err(|e| Failure::file(image, e))?;
        file.set_len(bytes).map_err(|e| Failure::file(image, e))?;
        drop(file);
        let text = image.to_string_lossy();
        // No tables are left to be written later, which would look like work of the gateway's.
        let now = "lazy_itable_init=0,lazy_journal_init=0";
        run("mkfs.ext4", &["-q", "-F", "-m", "0", "-E", now, &text])?;
        Self::mounted(image, at)
    }

    /// An image that is there already, as after a loss of power.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub(crate) fn mounted(image: &Path, at: &Path) -> Result<Self> {
        std::fs::create_dir_all(at).map_err(|e| Failure::file(at, e))?;
        let (from, to) = (image.to_string_lossy(), at.to_string_lossy());
        run("mount", &["-o", "loop,commit=300", &from, &to])?;
        Ok(Self {
            at: at.to_owned(),
            image: Some(image.to_owned()),
        })
    }

    /// Where it is mounted.
    pub(crate) fn at(&self) -> &Path {
        &self.at
    }

    /// What its device holds at this moment: what is only in memory is not in the copy.
    ///
    /// # Errors
    /// When it is in memory altogether, or cannot be copied.
    pub(crate) fn copy_device(&self, to: &Path) -> Result<()> {
        let image = self.image.as_deref();
        let image = image.ok_or_else(|| Failure::said("memory has no device"))?;
        let (from, to) = (image.to_string_lossy(), to.to_string_lossy());
        run("cp", &["--sparse=always", "--reflink=auto", &from, &to])
    }

    /// Unmounts it and removes its image.
    ///
    /// # Errors
    /// When somebody still uses it.
    pub(crate) fn remove(mut self) -> Result<()> {
        run("umount", &[&self.at.to_string_lossy()])?;
        let image = self.image.take();
        self.at = PathBuf::new();
        match image {
            Some(image) => std::fs::remove_file(&image).map_err(|e| Failure::file(&image, e)),
            None => Ok(()),
        }
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
