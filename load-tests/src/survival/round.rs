//! One data directory from its first start to its last, with the clients that know what it was told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::client::Style;
use super::crew::Crew;
use super::tally::Tally;
use super::wire::Wire;
use crate::error::{Failure, Result};
use crate::gateway::{Gateway, Preload, Site};
use crate::latency::Latency;

/// What a run came to, over all its rounds.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    /// How many data directories there were.
    pub(crate) rounds: u64,
    /// Files in stores at the end of their rounds.
    pub(crate) files: u64,
    /// From a start to the first good answer of `/readyz`.
    pub(crate) ready: Latency,
    /// What clients counted.
    pub(crate) tally: Tally,
}

impl Sum {
    /// Whether nothing was wrong so far.
    pub(crate) fn is_clean(&self) -> bool {
        self.tally.wrong.is_empty()
    }

    /// A gateway that does not start or stop as it should is as wrong as one that tells wrong things.
    pub(crate) fn note(&mut self, failure: Option<Failure>) {
        let text = failure.map(|failure| failure.to_string());
        self.tally.wrong.extend(text);
    }

    /// A table for people; `first` are its first rows.
    pub(crate) fn text(&self, first: &[(&str, String)]) -> String {
        let Tally {
            offsets_told,
            offsets_held,
            parts_told,
            parts_held,
            begun,
            finished,
            finished_bytes,
            finished_unheard,
            cancelled,
            left,
            cut,
            killed,
            compared,
            answers,
            wrong,
        } = &self.tally;
        let rows = [
            (
                "data directories, each checked for orphans; files left in them",
                format!("{}; {}", self.rounds, self.files),
            ),
            (
                "uploads begun / finished / finished without an answer",
                format!("{begun} / {finished} / {finished_unheard}"),
            ),
            ("given up / left to expire", format!("{cancelled} / {left}")),
            (
                "requests cut by the client / by the gateway's end",
                format!("{cut} / {killed}"),
            ),
            (
                "offsets told / held to after a restart",
                format!("{offsets_told} / {offsets_held}"),
            ),
            (
                "parts told to be held / looked for later",
                format!("{parts_told} / {parts_held}"),
            ),
            (
                "boxes compared byte for byte; bytes finished",
                format!("{compared}; {:.1} GB", gb(*finished_bytes)),
            ),
            (
                "start to ready, ms: median / 99 % / longest",
                self.ready.text_ms(),
            ),
            ("violations", wrong.len().to_string()),
        ];
        let rows = first.iter().chain(&rows);
        let rows = rows.map(|(what, count)| format!("| {what} | {count} |\n"));
        let answers = answers.iter().map(|(what, n)| format!("{what}: {n}"));
        format!(
            "| what | count |\n|---|---|\n{}\nAnswers: {}\n",
            rows.collect::<Vec<_>>().concat(),
            answers.collect::<Vec<_>>().join(", ")
        )
    }
}

/// One data directory with its clients.
#[derive(Debug)]
pub(crate) struct Round {
    /// What runs on it.
    pub(crate) site: Site,
    /// Who uploads to it.
    pub(crate) crew: Crew,
    /// Finished bytes.
    pub(crate) bytes: u64,
}

impl Round {
    /// Nothing runs yet. The log is beside the data, on a file system that nothing happens to.
    pub(crate) fn begin(program: &Path, data: PathBuf, log: PathBuf, style: &Style) -> Self {
        Self {
            site: Site {
                program: program.to_owned(),
                data,
                log,
                settings: settings(),
                preload: None,
            },
            crew: Crew::new(style),
            bytes: 0,
        }
    }

    /// The same with a library that is loaded before all others.
    pub(crate) fn with(mut self, preload: Option<Preload>) -> Self {
        self.site.preload = preload;
        self
    }

    /// Starts the gateway, and holds it to what it told.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) async fn resume(self, sum: &mut Sum) -> Result<(Self, Gateway, Wire)> {
        self.resume_by(Wire::to, sum).await
    }

    /// The same where there may be no room.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) async fn resume_crowded(self, sum: &mut Sum) -> Result<(Self, Gateway, Wire)> {
        self.resume_by(Wire::to_crowded, sum).await
    }

    async fn resume_by(
        mut self,
        wire: fn(&Gateway) -> Wire,
        sum: &mut Sum,
    ) -> Result<(Self, Gateway, Wire)> {
        let gateway = self.started(sum).await?;
        let wire = wire(&gateway);
        self.crew = self.crew.check(&wire).await;
        Ok((self, gateway, wire))
    }

    async fn started(&self, sum: &mut Sum) -> Result<Gateway> {
        let gateway = self.site.start()?.ready().await?;
        sum.ready.record(gateway.ready_after());
        Ok(gateway)
    }

    /// Adds what clients counted.
    pub(crate) fn count(&mut self, sum: &mut Sum) {
        let tally = self.crew.tally();
        self.bytes += tally.finished_bytes;
        sum.tally.add(tally);
    }

    /// Everything comes to its end or expires, and nothing else is left.
    ///
    /// # Errors
    /// When the gateway does not start or stop.
    pub(crate) async fn end(mut self, sum: &mut Sum) -> Result<()> {
        let gateway = self.started(sum).await?;
        let wire = Wire::to(&gateway);
        self.crew = self.crew.check_all(&wire).await.complete(&wire).await;
        wire.doom();
        gateway.kill().await?;
        // Everything that is not finished is now idle for too long.
        let idle = ("uploads.idle_timeout".to_owned(), "1ms".to_owned());
        self.site.settings.extend([idle]);
        let gateway = self.started(sum).await?;
        let wire = Wire::to(&gateway);
        self.crew = self.crew.check_expired(&wire).await;
        if !gateway.stop().await? {
            sum.tally.wrong("the gateway did not end well on SIGTERM");
        }
        if let Some(found) = self.site.check().await? {
            sum.tally.wrong(format!("fsck: {found}"));
        }
        let (files, untold) = files_in(&self.site.data.join("blobs"))?;
        if untold > 0 {
            let text =
                format!("{untold} files are blobs without a sidecar, or sidecars of nothing");
            sum.tally.wrong(text);
        }
        let published = self.crew.published();
        if files != published {
            let text = format!("{files} files are in the store, for {published} blobs");
            sum.tally.wrong(text);
        }
        sum.files += files;
        sum.rounds += 1;
        if panics(&self.site.log)? {
            let log = self.site.log.display();
            sum.tally.wrong(format!("a panic in {log}"));
        }
        self.count(sum);
        Ok(())
    }
}

fn gb(bytes: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let bytes = bytes as f64;
    bytes / 1e9
}

/// What every gateway under test is told.
fn settings() -> BTreeMap<String, String> {
    let settings = [
        // Creations whose answer never came stay open until they expire.
        ("uploads.open_per_principal", "100000"),
        ("uploads.open_per_organization", "100000"),
        ("limits.connections_per_address", "10000"),
        // Some run on small volumes.
        ("limits.min_free", "1MiB"),
    ];
    settings
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// Files of blobs in a local store, and of those how many have none beside them that tells their names; a file beside
/// nothing counts as one of both.
fn files_in(store: &Path) -> Result<(u64, u64)> {
    let failed = |e| Failure::file(store, e);
    let (mut blobs, mut told) = (BTreeSet::new(), BTreeSet::new());
    for shard in std::fs::read_dir(store).map_err(failed)? {
        let shard = shard.map_err(failed)?.path();
        if !shard.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(&shard).map_err(failed)? {
            let name = file.map_err(failed)?.file_name();
            let name = name.to_string_lossy();
            match name.split_once('.') {
                Some((key, _)) => told.insert(key.to_owned()),
                None => blobs.insert(name.into_owned()),
            };
        }
    }
    let all = blobs.union(&told).count() as u64;
    Ok((all, blobs.symmetric_difference(&told).count() as u64))
}

fn panics(log: &Path) -> Result<bool> {
    let text = std::fs::read_to_string(log).map_err(|e| Failure::file(log, e))?;
    Ok(text.contains("panicked at"))
}
