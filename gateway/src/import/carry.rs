//! One file into the catalog: an upload like any other, two at a time.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use boxgate_storage::ErrorKind;
use boxgate_storage::blob::BlobMeta;
use boxgate_storage::catalog::{BoxRef, IsoName};
use boxgate_storage::check::Stock;
use boxgate_storage::clock::UnixMillis;
use boxgate_storage::digest::{Algorithm, Blake3, Digest};
use boxgate_storage::error::chain;
use boxgate_storage::layer::files::Stamp;
use boxgate_storage::metadata::accounts::OrganizationId;
use boxgate_storage::metadata::catalog::{Counted, IsoChange};
use boxgate_storage::metadata::uploads::{IsoTarget, Labels, Target};
use boxgate_storage::upload::{Keep, Sender, UploadIntent, UploadWriter};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_blocking};

use super::{Report, Told};
use crate::handler::upload::shown;

/// Files that are read and written at once: one waits for the disk while the other is hashed.
const AT_ONCE: usize = 2;
const READ_BYTES: usize = 1 << 20;
/// Reads that are ahead of the writer.
const AHEAD: usize = 4;
/// Progress is not told more often.
const TOLD_EVERY: Duration = Duration::from_millis(200);

/// Where a file is. All of it blocks.
pub(super) trait Source: Send + Sync {
    /// Opens it, once it is sure to be one that may be read.
    fn open(&self) -> io::Result<File>;
    /// Digests that it must have, as far as others know.
    fn expected(&self) -> Vec<Digest>;
}

/// A file that is to have a name in the catalog.
#[derive(Clone)]
pub(super) struct Freight {
    /// Where it is, for people.
    pub(super) path: String,
    pub(super) name: BoxRef,
    pub(super) organization: OrganizationId,
    /// On whose behalf it is sent.
    pub(super) sender: Sender,
    pub(super) length: u64,
    pub(super) modified: SystemTime,
    /// How often it was downloaded elsewhere.
    pub(super) downloads: u64,
    /// For an ISO image, what is said of it; of `name` only organization and name count then.
    pub(super) iso: Option<Image>,
    /// By what it is remembered, where that is done.
    pub(super) item: Option<String>,
    /// Whether it was brought before: where it is not there, it was taken away.
    pub(super) was_brought: bool,
    pub(super) source: Arc<dyn Source>,
}

impl Freight {
    /// What is said of it, as of an ISO image alone.
    fn description(&self) -> Option<&str> {
        self.iso.as_ref()?.description.as_deref()
    }
}

/// What is said of an ISO image.
#[derive(Debug, Clone)]
pub(super) struct Image {
    pub(super) name: IsoName,
    pub(super) public: bool,
    pub(super) description: Option<String>,
}

/// What the catalog has by a name.
struct There {
    blob: BlobMeta,
    updated: UnixMillis,
    quarantined: bool,
    id: Counted,
    /// Whether something is said of it, as of an ISO image alone.
    described: bool,
}

/// How the catalog stands to a file.
enum Standing {
    Absent,
    /// It is there, and its bytes are damaged: sending them once more heals it.
    Damaged,
    There(There),
}

/// What all files have in common.
pub(super) struct Carrier {
    pub(super) stock: Stock,
    /// Whether everybody may read boxes that are made for files.
    pub(super) new_box_public: bool,
    /// Who has it done, for events and the audit.
    pub(super) actor: String,
    /// Bytes that were brought or are on their way.
    pub(super) bytes: AtomicU64,
}

/// What became of a file.
enum Outcome {
    Brought,
    There,
    /// It was brought before, and taken away here.
    Gone,
    Left(String),
    /// Nor will others be.
    Over(String),
}

/// Brings all files.
///
/// # Errors
/// Why it ended early.
pub(super) async fn carry(
    carrier: Carrier,
    files: Vec<Freight>,
    report: &mut Report<'_>,
) -> Result<(), String> {
    report.imported.total_files += files.len() as u64;
    report.imported.total_bytes += files.iter().map(|file| file.length).sum::<u64>();
    let carrier = Arc::new(carrier);
    let mut waiting = files.into_iter();
    let mut running = JoinSet::new();
    let mut every = tokio::time::interval(TOLD_EVERY);
    loop {
        while running.len() < AT_ONCE
            && let Some(file) = waiting.next()
        {
            let carrier = Arc::clone(&carrier);
            running.spawn(async move {
                let outcome = carrier.take(&file).await;
                (file, outcome)
            });
        }
        let ended = tokio::select! {
            ended = running.join_next() => ended,
            _ = every.tick() => {
                report.imported.bytes = carrier.bytes.load(Ordering::Relaxed);
                let imported = report.imported;
                report.tell(Told::Progress(imported)).await;
                continue;
            }
        };
        let Some(ended) = ended else { break };
        let (file, outcome) = ended.map_err(|e| format!("a defect ended it: {e}"))?;
        if let (Outcome::Brought | Outcome::There, Some(item)) = (&outcome, &file.item) {
            report.note(item).await?;
        }
        match outcome {
            Outcome::Brought => report.imported.files += 1,
            Outcome::There => {
                report.imported.there += 1;
                report.imported.total_bytes -= file.length;
            }
            Outcome::Gone => {
                report.imported.gone += 1;
                report.imported.total_bytes -= file.length;
            }
            Outcome::Left(why) => {
                report.imported.total_bytes -= file.length;
                report.left(file.path, why).await;
            }
            Outcome::Over(why) => return Err(format!("{}: {why}", file.path)),
        }
    }
    report.imported.bytes = carrier.bytes.load(Ordering::Relaxed);
    Ok(())
}

impl Carrier {
    async fn take(&self, file: &Freight) -> Outcome {
        if file.length == 0 {
            return Outcome::Left("it is empty".to_owned());
        }
        let heals = match self.standing(file).await {
            Ok(Standing::Absent) => false,
            Ok(Standing::Damaged) => true,
            Ok(Standing::There(there)) => {
                // A run that was killed may have brought the bytes alone.
                let told = if file.was_brought {
                    Ok(())
                } else {
                    self.tell(file, there.id, there.described).await
                };
                return told.err().unwrap_or(Outcome::There);
            }
            Err(outcome) => return outcome,
        };
        let mut counted = 0;
        match Box::pin(self.bring(file, heals, &mut counted)).await {
            Ok(()) => Outcome::Brought,
            Err(outcome) => {
                self.bytes.fetch_sub(counted, Ordering::Relaxed);
                outcome
            }
        }
    }

    async fn stored(&self, file: &Freight) -> Result<Option<There>, Outcome> {
        let over = |e: boxgate_storage::Error| Outcome::Over(chain(&e));
        let metadata = self.stock.metadata();
        if let Some(image) = &file.iso {
            let found = metadata.iso_by_name(&file.name.organization, &image.name);
            return Ok(found.await.map_err(over)?.map(|iso| There {
                blob: iso.blob,
                updated: iso.updated,
                quarantined: iso.quarantined,
                id: Counted::Iso(iso.id),
                described: iso.description.is_some(),
            }));
        }
        let found = metadata.resolve_file(&file.name).await.map_err(over)?;
        Ok(found.map(|found| There {
            blob: found.file.blob,
            updated: found.file.updated,
            quarantined: found.quarantined,
            id: Counted::File(found.file.id),
            described: false,
        }))
    }

    /// Whether the catalog has the file already; one that is older than the one to bring is compared by its bytes.
    async fn standing(&self, file: &Freight) -> Result<Standing, Outcome> {
        let there = match self.stored(file).await? {
            Some(there) => there,
            None if file.was_brought => return Err(Outcome::Gone),
            None => return Ok(Standing::Absent),
        };
        if there.quarantined {
            return Ok(Standing::Damaged);
        }
        let differs = || Outcome::Left("the catalog has another file of that name".to_owned());
        if there.blob.length != file.length {
            return Err(differs());
        }
        let source = Arc::clone(&file.source);
        let told = spawn_blocking(move || source.expected()).await;
        if told
            .unwrap_or_default()
            .iter()
            .any(|told| is_other(told, &there.blob))
        {
            return Err(differs());
        }
        let modified = file.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        let published = u128::from(there.updated.0.unsigned_abs());
        if modified.as_millis() < published {
            return Ok(Standing::There(there));
        }
        let source = Arc::clone(&file.source);
        let hashed = spawn_blocking(move || hash(&*source)).await;
        let hashed = hashed.unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
        match hashed {
            Ok(digest) if digest == there.blob.blake3 => Ok(Standing::There(there)),
            Ok(_) => Err(differs()),
            Err(error) => Err(Outcome::Left(format!("it cannot be read: {error}"))),
        }
    }

    /// Sends a file through, as an upload; one that heals brings bytes and nothing else.
    async fn bring(&self, file: &Freight, heals: bool, counted: &mut u64) -> Result<(), Outcome> {
        let unreadable = |error: io::Error| Outcome::Left(format!("it cannot be read: {error}"));
        let source = Arc::clone(&file.source);
        let opening = spawn_blocking(move || {
            let opened = source.open()?;
            let stamp = Stamp::of(opened.as_fd())?;
            Ok((opened, stamp, source.expected()))
        });
        let opened = opening.await.unwrap_or_else(|e| Err(io::Error::other(e)));
        let (opened, stamp, expected) = opened.map_err(unreadable)?;
        let watched = opened.try_clone().map_err(unreadable)?;
        let intent = UploadIntent {
            store: None,
            sender: file.sender.clone(),
            organization: file.organization,
            target: Some(self.target(file, heals, expected.first())),
            length: Some(stamp.length()),
            expected,
            part_bytes: None,
            cut: None,
            keep: Keep::No,
            note: None,
        };
        let mut writer = self.stock.engine().begin(intent).await.map_err(refused)?;
        let (pieces, mut read) = mpsc::channel(AHEAD);
        let reader = spawn_blocking(move || send(opened, stamp.length(), &pieces));
        while let Some(piece) = read.recv().await {
            let length = Bytes::len(&piece) as u64;
            writer.write(piece).await.map_err(refused)?;
            *counted += length;
            self.bytes.fetch_add(length, Ordering::Relaxed);
        }
        let sent = reader.await.unwrap_or_else(|e| Err(io::Error::other(e)));
        sent.map_err(unreadable)?;
        let after = Stamp::of(watched.as_fd()).map_err(|e| unreadable(e.into()))?;
        if !after.has_bytes_of(stamp) {
            UploadWriter::abort(writer).await;
            return Err(Outcome::Left("it changed while it was read".to_owned()));
        }
        let published = writer.finish().await.map_err(refused)?;
        if heals {
            return Ok(());
        }
        if let Some(id) = published.file {
            return self.tell(file, Counted::File(id), false).await;
        }
        // An ISO image is no file of a box, and its row is looked for where there is something to say of it.
        if file.downloads == 0 && file.description().is_none() {
            return Ok(());
        }
        match self.stored(file).await? {
            Some(there) => self.tell(file, there.id, there.described).await,
            None => Ok(()),
        }
    }

    /// Writes down how often it was downloaded elsewhere, and what was said of an ISO image there.
    async fn tell(&self, file: &Freight, id: Counted, described: bool) -> Result<(), Outcome> {
        if file.downloads > 0 {
            let raised = self.stock.metadata().raise_downloads(id, file.downloads);
            raised.await.map_err(|e| Outcome::Over(chain(&e)))?;
        }
        let (Counted::Iso(id), Some(said), false) = (id, file.description(), described) else {
            return Ok(());
        };
        let change = IsoChange {
            description: Some(Some(said.to_owned())),
            ..IsoChange::default()
        };
        let changed = self.stock.metadata().update_iso(id, change, &self.actor);
        changed
            .await
            .map(drop)
            .map_err(|e| Outcome::Over(chain(&e)))
    }

    fn target(&self, file: &Freight, heals: bool, declared: Option<&Digest>) -> Target {
        let name = &file.name;
        let iso = file.iso.as_ref().map(|image| IsoTarget {
            public: (!heals).then_some(image.public),
        });
        Target {
            box_name: name.name.to_string(),
            version: name.version.to_string(),
            provider: name.provider.to_string(),
            architecture: name.architecture.to_string(),
            new_box_public: self.new_box_public,
            declared: declared.map(shown),
            actor: self.actor.clone(),
            base_url: String::new(),
            into: None,
            labels: Labels::new(),
            iso: None,
        }
        .or_iso(iso)
    }
}

/// Whether what is told of a file is known not to be so of these bytes.
fn is_other(told: &Digest, bytes: &BlobMeta) -> bool {
    let known = match told.algorithm() {
        Algorithm::Blake3 => Some(bytes.blake3.into()),
        Algorithm::Sha256 => bytes.sha256.map(Digest::from),
        _ => None,
    };
    known.is_some_and(|known| *told != known)
}

/// Reads a file from its first byte on, up to the length that it had.
fn send(mut file: File, length: u64, pieces: &mpsc::Sender<Bytes>) -> io::Result<()> {
    let mut left = length;
    while left > 0 {
        let most = left.min(READ_BYTES as u64);
        let mut piece = Vec::with_capacity(READ_BYTES);
        let read = file.by_ref().take(most).read_to_end(&mut piece)? as u64;
        if read < most {
            return Err(io::Error::other("another program cut it short"));
        }
        left -= read;
        if pieces.blocking_send(piece.into()).is_err() {
            break;
        }
    }
    Ok(())
}

fn hash(source: &dyn Source) -> io::Result<Blake3> {
    let mut opened = source.open()?;
    let (mut hasher, mut buffer) = (blake3::Hasher::new(), vec![0; READ_BYTES]);
    loop {
        match opened.read(&mut buffer)? {
            0 => return Ok(Blake3(*hasher.finalize().as_bytes())),
            n => hasher.update(&buffer[..n]),
        };
    }
}

/// What the engine's refusal means for this file, and for those behind it.
#[expect(clippy::needless_pass_by_value, reason = "fits map_err")]
fn refused(error: boxgate_storage::Error) -> Outcome {
    match error.kind() {
        ErrorKind::DigestMismatch => {
            Outcome::Left("its bytes are not those of the checksum beside it".to_owned())
        }
        ErrorKind::Withheld => Outcome::Left(format!(
            "a plugin does not let it through yet ({}); boxgate admin upload list shows it",
            chain(&error)
        )),
        ErrorKind::TooLarge { limit } => Outcome::Left(format!(
            "it is longer than {limit} bytes (uploads.max_length)"
        )),
        ErrorKind::Invalid
        | ErrorKind::NotFound
        | ErrorKind::Conflict
        | ErrorKind::Forbidden
        | ErrorKind::LengthMismatch { .. }
        | ErrorKind::OffsetMismatch { .. }
        | ErrorKind::Fenced
        | ErrorKind::Gone => Outcome::Left(chain(&error)),
        ErrorKind::TooMany { .. }
        | ErrorKind::Damaged
        | ErrorKind::Full
        | ErrorKind::Unavailable
        | ErrorKind::Internal => Outcome::Over(chain(&error)),
    }
}
