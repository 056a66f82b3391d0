//! What serving a tree of boxes where it is costs: how soon 200,000 files are indexed, how many requests a second a box of
//! 10,000 has beside the metadata of a box in the catalog, and how fast a tree is taken into the catalog beside `cp` and
//! `sha256sum`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::Instant;

use crate::clouds::{count, publish};
use crate::content::Block;
use crate::error::{Failure, Result};
use crate::gateway::{Gateway, Site, remove};

const BOXES: usize = 10_000;
/// Files of each box: versions from 1 on.
const FILES: usize = 20;
/// Longest time that the index may take.
const MOST_INDEX: Duration = Duration::from_secs(5);
/// The least of the metadata route's requests a second.
const LEAST_SHARE: f64 = 0.5;
/// The least of the rate of `cp` and hashing.
const LEAST_IMPORT: f64 = 0.8;
/// Rounds of each, in turn.
const ROUNDS: u32 = 3;
/// What is imported: so many files of so many bytes.
const IMPORTED: (u64, u64) = (8, 128 << 20);

/// What was measured.
pub(crate) struct Measured {
    boxes: usize,
    index: Duration,
    /// Requests a second: the metadata of a box, boxes of the tree in turn.
    rates: [f64; 2],
    bytes: u64,
    copied: Duration,
    imported: Duration,
}

impl Measured {
    /// Measures; `quick` with a sixteenth of all.
    ///
    /// # Errors
    /// When something does not answer as it must.
    pub(crate) async fn measure(
        program: &Path,
        directory: &Path,
        each: Duration,
        quick: bool,
    ) -> Result<Self> {
        let directory = directory.join(format!("boxitory-{}", std::process::id()));
        remove(&directory)?;
        let boxes = if quick { BOXES / 16 } else { BOXES };
        let (files, length) = IMPORTED;
        let length = if quick { length / 16 } else { length };
        let tree = directory.join("tree");
        let made = tree.clone();
        in_background(move || make_names(&made, boxes)).await?;
        let site = |level: &str, home: &Path| Site {
            program: program.to_owned(),
            data: directory.join("data"),
            log: directory.join(format!("log-{level}")),
            settings: BTreeMap::from([
                ("boxitory.home".to_owned(), home.display().to_string()),
                ("catalog.new_box_visibility".to_owned(), "public".to_owned()),
                ("log.level".to_owned(), level.to_owned()),
            ]),
            preload: None,
        };
        // What was just made is in memory. The log tells how long the index took.
        let telling = site("info", &tree);
        telling.start()?.ready().await?.kill().await?;
        let index = index_time(&telling.log, boxes * FILES)?;
        let gateway = site("warn", &tree).start()?.ready().await?;
        publish(&gateway).await?;
        let rates = rates(&gateway, boxes, each).await?;
        let organization = gateway.organization().to_owned();
        gateway.kill().await?;
        let source = directory.join("source");
        let (made, copy) = (source.clone(), directory.join("copy"));
        in_background(move || make_bytes(&made, files, length)).await?;
        let from = source.clone();
        let copied = in_background(move || copy_and_hash(&from, &copy)).await?;
        let mut import = Command::new(program);
        import
            .args(["admin", "import", "boxitory"])
            .arg(&source)
            .args(["--organization", &organization, "--data-dir"])
            .arg(directory.join("data"));
        let imported = in_background(move || timed(&mut import)).await?;
        remove(&directory)?;
        Ok(Self {
            boxes,
            index,
            rates,
            bytes: files * length,
            copied,
            imported,
        })
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let [metadata, tree] = self.rates;
        let files = self.boxes * FILES;
        let mib = self.bytes >> 20;
        let rate = |took: Duration| rate(self.bytes, took);
        format!(
            "| what | measured | of |\n|---|---|---|\n\
             | index of {files} files in {} directories, warm | {:.2} s | |\n\
             | `GET /{{org}}/{{box}}`, requests a second | {metadata:.0} | |\n\
             | `GET /{{box}}` of the tree, each box in turn | {tree:.0} | {:.2} |\n\
             | `cp`, `sync`, `sha256sum` of {mib} MiB, MiB a second | {:.0} | |\n\
             | `boxgate admin import boxitory`, gateway stopped | {:.0} | {:.2} |\n",
            self.boxes,
            self.index.as_secs_f64(),
            tree / metadata,
            rate(self.copied),
            rate(self.imported),
            self.share(),
        )
    }

    fn share(&self) -> f64 {
        self.copied.as_secs_f64() / self.imported.as_secs_f64()
    }

    /// What is worse than it may be.
    pub(crate) fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.index > MOST_INDEX {
            wrong.push(format!("the index took {:.2} s", self.index.as_secs_f64()));
        }
        let share = self.rates[1] / self.rates[0];
        if share < LEAST_SHARE {
            wrong.push(format!(
                "a box of the tree has {share:.2} of the metadata's requests a second"
            ));
        }
        if self.share() < LEAST_IMPORT {
            wrong.push(format!("the import has {:.2} of the rate", self.share()));
        }
        wrong
    }
}

fn rate(bytes: u64, took: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "bytes of a run fit 52 bits")]
    let mib = bytes as f64 / f64::from(1 << 20);
    mib / took.as_secs_f64()
}

async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = spawn_blocking(work).await;
    done.expect("making files does not panic")
}

fn name(of: usize) -> String {
    format!("box{of:05}")
}

/// Boxes whose files are empty.
fn make_names(tree: &Path, boxes: usize) -> Result<()> {
    for of in 0..boxes {
        let name = name(of);
        let directory = tree.join(&name);
        fs::create_dir_all(&directory).map_err(|e| Failure::file(&directory, e))?;
        for version in 1..=FILES {
            let file = directory.join(format!("{name}_{version}_virtualbox.box"));
            File::create(&file).map_err(|e| Failure::file(&file, e))?;
        }
    }
    Ok(())
}

/// A box with files of bytes that are all different.
fn make_bytes(tree: &Path, files: u64, length: u64) -> Result<()> {
    let directory = tree.join("demo2");
    fs::create_dir_all(&directory).map_err(|e| Failure::file(&directory, e))?;
    for version in 1..=files {
        let path = directory.join(format!("demo2_{version}_virtualbox.box"));
        let failed = |e| Failure::file(&path, e);
        let mut file = File::create(&path).map_err(failed)?;
        let block = Block::seeded(version);
        let mut left = length;
        while left > 0 {
            let bytes = block.bytes();
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
            file.write_all(&bytes[..most]).map_err(failed)?;
            left -= most as u64;
        }
        file.sync_all().map_err(failed)?;
    }
    Ok(())
}

/// What the log says of the index.
fn index_time(log: &Path, files: usize) -> Result<Duration> {
    let text = fs::read_to_string(log).map_err(|e| Failure::file(log, e))?;
    let line = text
        .lines()
        .find(|line| line.contains("a tree of boxes is served"));
    let line = line.and_then(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let number = |key: &str| {
        let line = line.as_ref()?;
        let value = line.get(key).or_else(|| line.get("fields")?.get(key))?;
        value.as_u64().or_else(|| value.as_str()?.parse().ok())
    };
    if number("files") != Some(files as u64) {
        return Err(Failure::said(format!(
            "the log tells of no index of {files} files"
        )));
    }
    let took =
        number("milliseconds").ok_or_else(|| Failure::said("it tells no time".to_owned()))?;
    Ok(Duration::from_millis(took))
}

async fn rates(gateway: &Gateway, boxes: usize, each: Duration) -> Result<[f64; 2]> {
    let metadata = vec![format!("/{}/demo", gateway.organization())];
    let tree: Vec<String> = (0..boxes).map(|of| format!("/{}", name(of))).collect();
    // Once, so that all that is made once is made.
    let (to, key) = (gateway.address(), gateway.key());
    count(to, &tree, each, key).await?;
    let mut answered = [0; 2];
    for _ in 0..ROUNDS {
        for (paths, answered) in [&metadata, &tree].into_iter().zip(&mut answered) {
            *answered += count(to, paths, each / 2, key).await?;
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "requests of a run fit 52 bits")]
    let rates = answered.map(|n: u64| n as f64 / (each / 2 * ROUNDS).as_secs_f64());
    Ok(rates)
}

/// What people do without a gateway: a copy that is on the disk, and its digests.
fn copy_and_hash(source: &Path, copy: &Path) -> Result<Duration> {
    let mut took = timed(Command::new("cp").arg("-r").arg(source).arg(copy))?;
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(copy.join("demo2")).map_err(|e| Failure::file(copy, e))? {
        files.push(entry?.path());
    }
    took += timed(Command::new("sync").args(&files))?;
    took += timed(Command::new("sha256sum").args(&files))?;
    remove(copy)?;
    Ok(took)
}

fn timed(command: &mut Command) -> Result<Duration> {
    let begun = Instant::now();
    let named = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(begun.elapsed());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Failure::said(format!("{named}: {} {said}", output.status)))
}
