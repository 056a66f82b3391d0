//! Where the programs of others are, and how they come there.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::plan::Server;
use crate::error::{Failure, Result};

/// Of the registry; the newest that its documentation speaks of.
const RUSTUS: &str = "0.5.10";
const GARAGE: &str = "2.5.0";
/// Installs Debian's packages and `aws` as the client suites have them.
const INSTALLER: &str = "gateway/tests/clients/tools/install";

/// The folder in which they are kept.
#[derive(Debug, Clone)]
pub(super) struct Tools(PathBuf);

impl Tools {
    /// Below `folder`, else where the client suites have them.
    pub(super) fn at(folder: Option<&Path>) -> Self {
        let home = || {
            std::env::home_dir()
                .unwrap_or_default()
                .join(".cache/boxgate")
        };
        Self(folder.map_or_else(home, Path::to_owned))
    }

    pub(super) fn nginx(&self) -> PathBuf {
        self.0.join("clients/bin/nginx")
    }

    pub(super) fn aws(&self) -> PathBuf {
        self.0.join("clients/aws/bin/aws")
    }

    pub(super) fn garage(&self) -> PathBuf {
        self.0.join("bin/garage")
    }

    pub(super) fn rustus(&self) -> PathBuf {
        self.0.join("bin/rustus")
    }

    /// The program that a server needs and that is not there.
    pub(super) fn lacks(&self, server: Server) -> Option<&'static str> {
        let needed = match server {
            Server::Nginx | Server::NginxCache => vec![("nginx", self.nginx())],
            Server::Rustus => vec![("rustus", self.rustus())],
            Server::Aws => vec![("aws", self.aws()), ("garage", self.garage())],
            Server::Boxgate
            | Server::LoopBlake3
            | Server::LoopBoth
            | Server::LoopDurable
            | Server::WriteThenHash
            | Server::Sink
            | Server::Source => Vec::new(),
        };
        let missing = needed.into_iter().find(|(_, path)| !path.exists());
        missing.map(|(name, _)| name)
    }

    /// Installs what is missing for these. What cannot be had is said, and its arms are left out.
    pub(super) fn install(&self, servers: &[Server]) -> Vec<String> {
        let mut missing = Vec::new();
        if !(self.nginx().exists() && self.aws().exists()) {
            let mut install = Command::new("bash");
            install.arg(INSTALLER).env("BOXGATE_TOOLS", &self.0);
            missing.extend(done(install, "what Debian and PyPI have"));
        }
        // Each is minutes of building.
        for (name, version, path, server) in [
            ("garage", GARAGE, self.garage(), Server::Aws),
            ("rustus", RUSTUS, self.rustus(), Server::Rustus),
        ] {
            if servers.contains(&server) && !path.exists() {
                let mut cargo = Command::new("cargo");
                cargo.args([
                    "install",
                    "-q",
                    name,
                    "--version",
                    version,
                    "--locked",
                    "--root",
                ]);
                cargo.arg(&self.0);
                missing.extend(done(cargo, name));
            }
        }
        missing
    }

    /// What is there, by name and version.
    pub(super) fn versions(&self) -> String {
        let wrk = PathBuf::from("wrk");
        let known = [
            (self.nginx(), "-v"),
            (self.rustus(), "--version"),
            (self.garage(), "--version"),
            (self.aws(), "--version"),
            (wrk, "-v"),
            (PathBuf::from("curl"), "--version"),
        ];
        let told = known
            .iter()
            .filter_map(|(program, flag)| said(program, flag));
        told.collect::<Vec<_>>().join(", ")
    }
}

/// The first line of what a program says of itself, cut to its name and version.
fn said(program: &Path, flag: &str) -> Option<String> {
    let output = Command::new(program)
        .arg(flag)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().next()?.trim_start_matches("nginx version: ");
    let words = line.split_ascii_whitespace().take(2);
    Some(words.collect::<Vec<_>>().join(" "))
}

/// Why it did not succeed, if it did not.
fn done(mut command: Command, what: &str) -> Option<String> {
    match command.stdin(Stdio::null()).status() {
        Ok(status) if status.success() => None,
        Ok(status) => Some(format!("{what} could not be installed: {status}")),
        Err(e) => Some(format!("{what} could not be installed: {e}")),
    }
}

/// Fails unless the program is there.
pub(super) fn needed(program: &Path) -> Result<()> {
    if program.exists() {
        Ok(())
    } else {
        Err(Failure::said(format!("{} is not there", program.display())))
    }
}
