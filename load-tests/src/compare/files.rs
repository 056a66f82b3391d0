//! Files that commands read and servers keep, and commands that are run to their end.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest as _, Sha256};

use crate::content::{Content, Digests};
use crate::error::{Failure, Result};

/// A file for a command to read; on the disk, so that nothing waits for it later.
pub(super) fn file_of(directory: &Path, content: &Content) -> Result<PathBuf> {
    let path = directory.join("source");
    let written = std::fs::File::create(&path).and_then(|mut file| {
        content.write_to(&mut file)?;
        file.sync_all()
    });
    written.map_err(|e| Failure::file(&path, e))?;
    Ok(path)
}

/// A file that only this user reads, for it may hold a credential.
pub(super) fn private(path: &Path, text: &str) -> Result<()> {
    let mut options = std::fs::File::options();
    options.create(true).truncate(true).write(true).mode(0o600);
    let written = options
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|e| Failure::file(path, e))
}

/// Digests of a file.
pub(super) fn hashed(path: &Path) -> Result<Digests> {
    let (mut blake3, mut sha256) = (blake3::Hasher::new(), Sha256::new());
    let mut buffer = vec![0; 1 << 20];
    let mut file = std::fs::File::open(path).map_err(|e| Failure::file(path, e))?;
    loop {
        let n = std::io::Read::read(&mut file, &mut buffer).map_err(|e| Failure::file(path, e))?;
        if n == 0 {
            break;
        }
        blake3.update(&buffer[..n]);
        sha256.update(&buffer[..n]);
    }
    Ok(Digests {
        blake3: blake3.finalize().to_hex().to_string(),
        sha256: hex::encode(sha256.finalize()),
    })
}

/// The largest file below a directory, and the others.
pub(super) fn only_file(directory: &Path) -> Result<(PathBuf, Vec<PathBuf>)> {
    let (mut files, mut directories) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(directory) = directories.pop() {
        let entries = std::fs::read_dir(&directory).map_err(|e| Failure::file(&directory, e))?;
        for entry in entries {
            let path = entry.map_err(|e| Failure::file(&directory, e))?.path();
            if path.is_dir() {
                directories.push(path);
            } else {
                let length = path.metadata().map_err(|e| Failure::file(&path, e))?.len();
                files.push((length, path));
            }
        }
    }
    files.sort();
    let (_, largest) = files
        .pop()
        .ok_or_else(|| Failure::said("there is no file"))?;
    Ok((largest, files.into_iter().map(|(_, path)| path).collect()))
}

pub(super) fn remove(path: &Path) -> Result<()> {
    std::fs::remove_file(path).map_err(|e| Failure::file(path, e))
}

/// curl as all arms run it: one version of TLS and one cipher.
pub(super) fn curl() -> Command {
    let mut curl = Command::new("curl");
    curl.args([
        "-sS",
        "--fail-with-body",
        "--http1.1",
        "--tlsv1.3",
        "--tls13-ciphers",
        "TLS_AES_128_GCM_SHA256",
    ]);
    curl
}

/// Runs a command to its end; what it said.
pub(super) async fn succeed(mut command: Command) -> Result<Vec<u8>> {
    let program = PathBuf::from(command.get_program());
    let ran = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output());
    let output = ran.await.expect("running a program does not panic");
    let output = output.map_err(|e| Failure::file(&program, e))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = [output.stderr, output.stdout].concat();
    let said = String::from_utf8_lossy(&said);
    let said: String = said.trim().chars().take(300).collect();
    Err(Failure::said(format!(
        "{}: {}: {said}",
        program.display(),
        output.status
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::way::equal;
    use crate::content::Block;

    #[test]
    fn a_file_of_other_bytes_is_noticed() {
        let directory = std::env::temp_dir().join(format!("compare-work-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let content = Content::new(&Block::seeded(1), 1, (1 << 20) + 5);
        let path = file_of(&directory, &content).unwrap();
        assert!(equal("file", &hashed(&path).unwrap(), &content.digests()).is_ok());
        let other = Content::new(&Block::seeded(1), 2, (1 << 20) + 5);
        assert!(equal("file", &hashed(&path).unwrap(), &other.digests()).is_err());
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn what_may_hold_a_credential_is_for_this_user_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let path = std::env::temp_dir().join(format!("compare-private-{}", std::process::id()));
        private(&path, "key").unwrap();
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::remove_file(&path).unwrap();
    }
}
