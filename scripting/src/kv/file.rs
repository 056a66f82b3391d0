//! Where a plugin's memory outlives its process: a file of lines, one an entry, of which the later counts.
//!
//! A snapshot takes the whole file's place at once. What must be durable right away is a line behind it until the next
//! one. A line that was cut by a kill or the loss of power is the last one, and is left out.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// One entry, as its line has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Line {
    /// The key.
    pub(super) k: String,
    /// The value as JSON.
    pub(super) v: String,
    /// Until when it is kept, in milliseconds since 1970.
    pub(super) t: i64,
}

/// The file of one plugin.
#[derive(Debug)]
pub(super) struct Kept {
    path: PathBuf,
    /// Bytes behind the last snapshot.
    behind: u64,
    /// Whether its last line was cut: nothing may stand behind that.
    torn: bool,
}

/// After so many bytes behind a snapshot the next one is due.
const MOST_BEHIND: u64 = super::MAX_BYTES;

impl Kept {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            behind: 0,
            torn: false,
        }
    }

    /// All lines that can be read; none where there is no file yet.
    pub(super) fn read(&mut self) -> std::io::Result<Vec<Line>> {
        let text = match std::fs::read(&self.path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut lines = Vec::new();
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            match serde_json::from_slice(line) {
                Ok(read) if line.ends_with(b"\n") => lines.push(read),
                _ => {
                    self.torn = true;
                    break;
                }
            }
        }
        Ok(lines)
    }

    /// These lines in place of all that were there.
    pub(super) fn replace(&mut self, lines: impl Iterator<Item = Line>) -> std::io::Result<()> {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(directory)?;
        let fresh = self.path.with_extension("new");
        let mut file = BufWriter::new(private(
            OpenOptions::new().create(true).truncate(true),
            &fresh,
        )?);
        for line in lines {
            write(&mut file, &line)?;
        }
        file.into_inner()?.sync_data()?;
        std::fs::rename(&fresh, &self.path)?;
        File::open(directory)?.sync_all()?;
        (self.behind, self.torn) = (0, false);
        Ok(())
    }

    /// One more line, on the disk when this returns; false where only a snapshot can put it there.
    pub(super) fn add(&mut self, line: &Line) -> std::io::Result<bool> {
        if self.torn || self.behind >= MOST_BEHIND || !self.path.exists() {
            return Ok(false);
        }
        let mut text = Vec::new();
        write(&mut text, line)?;
        // Whatever fails from here on may leave a part of the line.
        self.torn = true;
        let mut file = private(OpenOptions::new().append(true), &self.path)?;
        file.write_all(&text)?;
        file.sync_data()?;
        self.torn = false;
        self.behind = self.behind.saturating_add(text.len() as u64);
        Ok(true)
    }
}

fn write(out: &mut impl std::io::Write, line: &Line) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

/// Plugins may remember what is nobody's business.
fn private(options: &mut OpenOptions, path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    options.write(true).mode(0o600).open(path)
}
