//! A library that makes a program believe that its bytes are durable: `fsync` and `fdatasync` succeed
//! and do nothing. Whoever cannot tell such a gateway from an honest one proves nothing.

use std::path::Path;
use std::process::Command;

use crate::error::{Failure, Result};
use crate::gateway::Preload;

const SOURCE: &str = include_str!("forget.c");

/// Whose calls do nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Forget {
    /// Everybody's.
    All,
    /// Those of blobs.
    Data,
    /// Those of the database.
    Rows,
    /// Those of directories.
    Directories,
}

impl Forget {
    /// The word that the library knows it by.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Data => "data",
            Self::Rows => "rows",
            Self::Directories => "directories",
        }
    }

    /// Builds the library in a directory, by the system's C compiler.
    ///
    /// # Errors
    /// When that fails.
    pub(crate) fn build(self, directory: &Path) -> Result<Preload> {
        let (source, library) = (directory.join("forget.c"), directory.join("forget.so"));
        std::fs::write(&source, SOURCE).map_err(|e| Failure::file(&source, e))?;
        let output = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .arg(&library)
            .arg(&source)
            .arg("-ldl")
            .output()
            .map_err(|e| Failure::Local {
                what: "cc".into(),
                source: e,
            })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Failure::said(format!("cc: {said}")));
        }
        Ok(Preload {
            library,
            variable: ("FORGET_SYNC".into(), self.word().into()),
        })
    }
}
