//! One arm's turn: the work is done and timed, what arrived is compared, and only then figures count.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::files::{curl, file_of, hashed, private, remove, succeed};
use super::load::{self, Load};
use super::make;
use super::peer::{BUCKET, Peer, S3};
use super::plan::{Arm, Figure, Row, Size, Work};
use super::serve::sent;
use super::way::{Way, equal, good};
use crate::content::{Block, Content, Digests};
use crate::deployed::Looking;
use crate::error::{Failure, Result};
use crate::http::{self, Ask, Piece};
use crate::server::Server;

/// Boxes that are looked up in turn.
const LOOKED_UP: u32 = 1000;
/// Ranges that are compared in each round.
const COMPARED: u64 = 8;

/// What a round found.
pub(super) type Figures = BTreeMap<Figure, f64>;

/// One arm with its server.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    pub(super) row: &'a Row,
    pub(super) arm: &'a Arm,
    pub(super) peer: &'a Peer,
    pub(super) size: Size,
    /// For files that a command reads.
    pub(super) directory: &'a Path,
    /// Tells this round's uploads from all others.
    pub(super) salt: u64,
    pub(super) block: &'a Block,
    /// Tells a person what takes long.
    pub(super) say: fn(&str),
}

/// What is timed, and what was wrong with it.
#[derive(Debug)]
struct Timed {
    wall: Duration,
    /// `None` where nobody tells.
    cpu_s: Option<f64>,
    bytes: u64,
}

impl Turn<'_> {
    /// Brings there what is fetched later, and fetches it once.
    pub(super) async fn prepare(&self) -> Result<()> {
        match self.row.work {
            Work::Upload | Work::Tus | Work::TlsUpload => Ok(()),
            Work::Lookups => self.make_boxes().await,
            Work::Download | Work::Ranges | Work::Metadata | Work::TlsDownload => {
                self.bring().await?;
                if self.row.work == Work::Metadata {
                    return Ok(());
                }
                // The first one is proved, and fills caches.
                self.fetch_compared().await
            }
        }
    }

    /// Does the work once.
    pub(super) async fn play(&self) -> Result<Figures> {
        let looking = self.peer.forget_peak();
        let mut figures = match self.row.work {
            Work::Upload | Work::Tus => self.uploads().await?.figures(),
            Work::Download => self.timed(self.fetch_compared()).await?.figures(),
            Work::TlsUpload => self.tls_upload().await?.figures(),
            Work::TlsDownload => self.tls_download().await?.figures(),
            Work::Ranges | Work::Metadata | Work::Lookups => self.requests().await?,
        };
        if looking.as_ref().and_then(Looking::why).is_some() {
            figures.remove(&Figure::CpuSPerGb);
            figures.remove(&Figure::RequestsPerCpuS);
        }
        if let Some(peak) = self.peer.peak_bytes(looking) {
            #[expect(clippy::cast_precision_loss, reason = "bytes of memory fit 52 bits")]
            let peak = peak as f64;
            figures.insert(Figure::PeakMib, peak / f64::from(1 << 20));
            if let Some(ceiling) = self.peer.ceiling_bytes() {
                #[expect(clippy::cast_precision_loss, reason = "bytes of memory fit 52 bits")]
                let share = peak / ceiling as f64;
                figures.insert(Figure::PeakOfCeiling, share);
            }
        }
        Ok(figures)
    }

    /// Bytes of one file.
    fn length(&self) -> u64 {
        self.arm.length(self.row)
    }

    fn content(&self, number: u64) -> Content {
        Content::new(self.block, (self.salt << 16) + number, self.length())
    }

    async fn timed(&self, work: impl Future<Output = Result<()>>) -> Result<Timed> {
        let before = self.peer.spent().await?;
        let begun = Instant::now();
        work.await?;
        let wall = begun.elapsed();
        if let Peer::Boxgate(gateway, _) = self.peer {
            let left = gateway.quiet().await?;
            if left > 0.0 {
                return Err(Failure::said(format!("{left} uploads stay in progress")));
            }
        }
        let cpu_s = self.peer.cpu_since(before).await?;
        let files = u64::from(self.arm.count) * u64::from(self.arm.turns);
        let bytes = self.length() * files;
        Ok(Timed { wall, cpu_s, bytes })
    }

    // --- uploads ---

    async fn uploads(&self) -> Result<Timed> {
        let files = u64::from(self.arm.count) * u64::from(self.arm.turns);
        let contents: Vec<Content> = (0..files).map(|number| self.content(number)).collect();
        let hashed = contents.clone();
        let digests = tokio::task::spawn_blocking(move || {
            hashed.iter().map(Content::digests).collect::<Vec<_>>()
        });
        let digests = digests.await.expect("hashing does not panic");
        if let Peer::Command(s3) = self.peer {
            return self.aws(s3, &contents[0], &digests[0]).await;
        }
        let (way, tus) = (Way::of(self.peer)?, self.row.work == Work::Tus);
        let jobs: VecDeque<_> = (0..files)
            .zip(contents)
            .zip(digests.iter().cloned())
            .collect();
        let jobs = Arc::new(Mutex::new(jobs));
        let salt = self.salt;
        let mut workers: JoinSet<Result<()>> = JoinSet::new();
        let at_once = self.arm.count;
        let timed = self.timed(async {
            for _ in 0..at_once {
                let (jobs, way) = (Arc::clone(&jobs), way.clone());
                workers.spawn(async move {
                    loop {
                        let next = jobs.lock().ok().and_then(|mut jobs| jobs.pop_front());
                        let Some(((number, content), digests)) = next else {
                            return Ok(());
                        };
                        let name = format!("f{salt}-{number}");
                        if tus {
                            way.tus(&name, &content).await?;
                        } else {
                            way.put(&name, &content, &digests).await?;
                        }
                    }
                });
            }
            while let Some(ended) = workers.join_next().await {
                ended.expect("a worker does not panic")?;
            }
            Ok::<_, Failure>(())
        });
        let timed = timed.await?;
        for (number, digests) in (0..files).zip(&digests) {
            way.compare(&format!("f{salt}-{number}"), digests, tus)
                .await?;
        }
        Ok(timed)
    }

    /// `aws s3 cp` of a file, and what the bucket then has.
    async fn aws(&self, s3: &S3, content: &Content, digests: &Digests) -> Result<Timed> {
        let to = format!("s3://{BUCKET}/direct/{}", self.salt);
        let start = if self.arm.without_start {
            let byte = Content::new(self.block, self.salt << 16, 1);
            Some(self.aws_copies(s3, &byte, &to).await?)
        } else {
            None
        };
        let mut timed = self.aws_copies(s3, content, &to).await?;
        if let Some(start) = start {
            timed.take_off(&start);
        }
        let back = self.directory.join("back");
        let back_at = back.display().to_string();
        succeed(s3.aws(&["s3", "cp", "--no-progress", "--quiet", &to, &back_at])).await?;
        equal("aws s3 cp", &hashed(&back)?, digests)?;
        remove(&back)?;
        succeed(s3.aws(&["s3", "rm", "--quiet", &to])).await?;
        Ok(timed)
    }

    async fn aws_copies(&self, s3: &S3, content: &Content, to: &str) -> Result<Timed> {
        let file = file_of(self.directory, content)?;
        let from = file.display().to_string();
        let timed = self.timed(async {
            succeed(s3.aws(&["s3", "cp", "--no-progress", "--quiet", &from, to])).await?;
            Ok(())
        });
        let timed = timed.await?;
        remove(&file)?;
        Ok(timed)
    }

    async fn tls_upload(&self) -> Result<Timed> {
        let content = self.content(0);
        let digests = content.digests();
        let file = file_of(self.directory, &content)?;
        let way = Way::of(self.peer)?;
        let name = format!("t{}", self.salt);
        let url = self.peer.tls_url()?;
        let mut curl = self.curl();
        let mut bearer = None;
        if let Way::Boxgate(door) = &way {
            bearer = Some(self.bearer(door.key())?);
            curl.args(["-H", "content-type: application/octet-stream", "-X", "POST"]);
            curl.arg(format!("{url}{}", door.path(&name)));
        } else {
            curl.arg(format!("{url}/put/{name}"));
        }
        with_bearer(&mut curl, bearer.as_deref());
        curl.arg("-T").arg(&file);
        let timed = self.timed(async {
            let said = succeed(curl).await?;
            if let Way::Boxgate(door) = &way {
                door.equal(&said, &digests)?;
            }
            Ok(())
        });
        let timed = timed.await;
        remove(&file)?;
        if let Some(bearer) = bearer {
            remove(&bearer)?;
        }
        let timed = timed?;
        way.compare(&name, &digests, false).await?;
        Ok(timed)
    }

    /// curl for this arm. A certificate of our own has no authority behind it; a deployed gateway's is looked at.
    fn curl(&self) -> Command {
        let mut curl = curl();
        if !matches!(self.peer, Peer::Deployed(_)) {
            curl.arg("-k");
        }
        curl
    }

    /// A file with the header that a credential is sent in: on a command line everybody here would read it.
    fn bearer(&self, token: &str) -> Result<PathBuf> {
        let file = self.directory.join("bearer");
        private(&file, &format!("authorization: Bearer {token}\n"))?;
        Ok(file)
    }

    // --- downloads ---

    /// The file that all servers of this row send.
    async fn bring(&self) -> Result<()> {
        let content = sent(self.length());
        match self.peer {
            Peer::Boxgate(..) | Peer::Deployed(_) => {
                let digests = content.digests();
                Way::of(self.peer)?.put("sent", &content, &digests).await
            }
            Peer::Other { files, .. } if files.join("put").exists() => {
                let path = files.join("sent");
                let mut file = std::fs::File::create(&path).map_err(|e| Failure::file(&path, e))?;
                let written = content.write_to(&mut file);
                written.map_err(|e| Failure::file(&path, e))?;
                let path = files.join("json");
                // As long as what boxgate tells of a box with one file.
                std::fs::write(&path, "j".repeat(800)).map_err(|e| Failure::file(&path, e))
            }
            Peer::Other { .. } => Ok(()),
            Peer::Command(_) => Err(Failure::said("a command sends nothing")),
        }
    }

    /// Where the file is.
    async fn path(&self) -> Result<String> {
        // By its digest, as metadata and a CDN name it.
        let Some(organization) = self.peer.organization() else {
            return Ok("/sent".to_owned());
        };
        // What has no SHA-256 yet is listed, too: it was put there a moment ago.
        let name = self.peer.box_name("sent");
        let ask = Ask {
            method: "GET",
            path: &format!("/{organization}/{name}?by=blake3"),
            token: self.peer.token(),
        };
        let answer = http::get(self.peer.server()?, ask).await?;
        let told: serde_json::Value = serde_json::from_slice(&answer.body)
            .map_err(|e| Failure::said(format!("metadata: {e}: {}", answer.in_short())))?;
        let url = told.pointer("/versions/0/providers/0/url");
        let url = url.and_then(|url| url.as_str());
        let path = url.and_then(|url| url.splitn(4, '/').nth(3));
        let path = path.ok_or_else(|| Failure::said("metadata names no file"))?;
        Ok(format!("/{path}"))
    }

    async fn fetch_compared(&self) -> Result<()> {
        let content = sent(self.length());
        let path = self.path().await?;
        let ask = Ask {
            method: "GET",
            path: &path,
            token: self.peer.token(),
        };
        let mut checker = content.checker();
        let (status, _) = http::download(self.peer.server()?, ask, &mut checker, None).await?;
        if status == 200 && checker.is_whole() {
            Ok(())
        } else {
            Err(Failure::said(format!(
                "{status}, or other bytes than are stored"
            )))
        }
    }

    async fn tls_download(&self) -> Result<Timed> {
        let url = format!("{}{}", self.peer.tls_url()?, self.path().await?);
        let bearer = self.peer.token().map(|token| self.bearer(token));
        let bearer = bearer.transpose()?;
        let file = self.directory.join("back");
        let fetched = |to: &Path| {
            let mut curl = self.curl();
            with_bearer(&mut curl, bearer.as_deref());
            curl.arg("-o").arg(to).arg(&url);
            curl
        };
        let dropped = fetched(Path::new("/dev/null"));
        let timed = self.timed(async {
            succeed(dropped).await?;
            Ok(())
        });
        let timed = timed.await;
        let came = succeed(fetched(&file)).await;
        if let Some(bearer) = &bearer {
            remove(bearer)?;
        }
        let (timed, _said) = (timed?, came?);
        equal("over TLS", &hashed(&file)?, &sent(self.length()).digests())?;
        remove(&file)?;
        Ok(timed)
    }

    // --- many requests ---

    async fn requests(&self) -> Result<Figures> {
        let server = self.peer.server()?;
        let mut load = Load {
            url: server.url(),
            clients: self.row.clients,
            seconds: self.size.seconds(),
            directory: self.directory.to_owned(),
            path: String::new(),
            script: None,
        };
        match (self.row.work, self.row.range, self.peer.organization()) {
            (Work::Ranges, Some(range), _) => {
                load.path = self.path().await?;
                let script = load::ranges(self.length(), range.0, self.peer.token());
                load.script = Some(script);
                self.compare_ranges(&server, &load.path, range.0).await?;
            }
            (Work::Lookups, _, Some(organization)) => {
                let step = (self.arm.boxes / LOOKED_UP).max(1);
                load.path = format!("/{organization}/b0");
                load.script = Some(load::lookups(organization, step, self.arm.boxes / step));
                self.compare_metadata(&server, &load.path, "b0").await?;
            }
            (_, _, Some(organization)) => {
                let name = self.peer.box_name("sent");
                load.path = format!("/{organization}/{name}");
                load.script = Some(load::as_json(self.peer.token()));
                self.compare_metadata(&server, &load.path, &name).await?;
            }
            _ => "/json".clone_into(&mut load.path),
        }
        let before = self.peer.spent().await?;
        let found = load.run().await?;
        let cpu_s = self.peer.cpu_since(before).await?;
        let mut figures = Figures::new();
        figures.insert(Figure::RequestsPerS, found.per_s);
        figures.insert(Figure::P99Ms, found.p99_ms);
        if let Some(cpu_s) = cpu_s {
            figures.insert(Figure::RequestsPerCpuS, found.requests / cpu_s.max(0.01));
        }
        if let Some(range) = self.row.range {
            #[expect(clippy::cast_precision_loss, reason = "bytes of a range fit 52 bits")]
            let gb = range.0 as f64 / 1e9;
            figures.insert(Figure::GbPerS, found.per_s * gb);
            if let Some(cpu_s) = cpu_s {
                figures.insert(Figure::CpuSPerGb, cpu_s / (found.requests * gb));
            }
        }
        Ok(figures)
    }

    /// Ranges at places that nobody chose, byte by byte.
    async fn compare_ranges(&self, server: &Server, path: &str, length: u64) -> Result<()> {
        let (content, empty) = (sent(self.length()), Content::empty());
        for _ in 0..COMPARED {
            let from = fastrand::u64(0..=self.length() - length);
            let range = from..from + length;
            let headers = [("range", format!("bytes={from}-{}", range.end - 1))];
            let ask = Ask {
                method: "GET",
                path,
                token: self.peer.token(),
            };
            let piece = Piece {
                headers: &headers,
                content: &empty,
                from: 0,
                to: 0,
                cut: None,
            };
            let answer = http::send(server.clone(), ask, &piece, |_, _| {}).await?;
            let answer = answer.ok_or_else(|| Failure::said("a range is not answered"))?;
            let came = blake3::hash(&answer.body);
            if answer.status != 206 || *came.as_bytes() != content.blake3(range) {
                let status = answer.status;
                return Err(Failure::said(format!(
                    "{status}, or another range than was asked for"
                )));
            }
        }
        Ok(())
    }

    async fn make_boxes(&self) -> Result<()> {
        let Peer::Boxgate(gateway, _) = self.peer else {
            return Err(Failure::said(
                "boxes are made at a gateway of our own alone",
            ));
        };
        make::boxes(gateway, self.arm.boxes, self.say).await
    }

    async fn compare_metadata(&self, server: &Server, path: &str, name: &str) -> Result<()> {
        let ask = Ask {
            method: "GET",
            path,
            token: self.peer.token(),
        };
        let answer = http::get(server.clone(), ask).await?;
        let told: serde_json::Value = serde_json::from_slice(&good(&answer)?.body)
            .map_err(|e| Failure::said(format!("metadata: {e}")))?;
        let told = told.get("name").and_then(|name| name.as_str());
        let told = told.unwrap_or_default();
        if told.ends_with(&format!("/{name}")) {
            Ok(())
        } else {
            Err(Failure::said(format!("metadata of {told:?}")))
        }
    }
}

/// Sends what that file holds as a header.
fn with_bearer(curl: &mut Command, file: Option<&Path>) {
    if let Some(file) = file {
        curl.arg("-H").arg(format!("@{}", file.display()));
    }
}

impl Timed {
    /// Leaves what is beyond another; its bytes are all there.
    fn take_off(&mut self, other: &Self) {
        // Never nothing, by which no rate could be told.
        let beyond = self.wall.saturating_sub(other.wall);
        self.wall = beyond.max(Duration::from_millis(1));
        let cpu_s = self.cpu_s.zip(other.cpu_s);
        self.cpu_s = cpu_s.map(|(all, start)| (all - start).max(0.0));
    }

    fn figures(&self) -> Figures {
        #[expect(clippy::cast_precision_loss, reason = "bytes of a run fit 52 bits")]
        let gb = self.bytes as f64 / 1e9;
        let mut figures = Figures::from([(Figure::GbPerS, gb / self.wall.as_secs_f64())]);
        if let Some(cpu_s) = self.cpu_s {
            figures.insert(Figure::CpuSPerGb, cpu_s / gb);
        }
        figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_start_takes_is_taken_off_time_and_cpu_and_not_off_bytes() {
        let timed = |wall_ms, cpu_s, bytes| Timed {
            wall: Duration::from_millis(wall_ms),
            cpu_s,
            bytes,
        };
        let start = timed(500, Some(0.5), 1);
        let mut all = timed(2500, Some(2.0), 1_000_000_000);
        all.take_off(&start);
        let figures = all.figures();
        assert!((figures[&Figure::GbPerS] - 0.5).abs() < 1e-9, "{figures:?}");
        assert!(
            (figures[&Figure::CpuSPerGb] - 1.5).abs() < 1e-9,
            "{figures:?}"
        );
        let mut short = timed(400, Some(0.4), 1);
        short.take_off(&start);
        assert_eq!(
            (short.wall, short.cpu_s),
            (Duration::from_millis(1), Some(0.0))
        );
    }
}
