//! Takes a tree of boxes into the catalog: what is missing there, verified by what stands beside the boxes, and nothing in
//! the place of something else. A run that is cut leaves whole boxes or none, and the next brings the rest.

mod survey;

use std::collections::HashSet;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use boxgate_storage::ErrorKind;
use boxgate_storage::catalog::{ArchitectureName, BoxRef, OrganizationName};
use boxgate_storage::check::Stock;
use boxgate_storage::digest::{Blake3, Digest};
use boxgate_storage::error::chain;
use boxgate_storage::layer::files::Stamp;
use boxgate_storage::metadata::accounts::{OrganizationId, OrganizationRole};
use boxgate_storage::metadata::uploads::Target;
use boxgate_storage::upload::{Keep, Sender, UploadIntent, UploadWriter};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_blocking};

use super::checksum::beside;
use super::describe;
use super::tree::{DESCRIPTIONS, Home};
use crate::config::boxitory::Checksum;
use crate::handler::upload::shown;
use survey::{Found, Survey};

/// Files that are read and written at once: one waits for the disk while the other is hashed.
const AT_ONCE: usize = 2;
const READ_BYTES: usize = 1 << 20;
/// Reads that are ahead of the writer.
const AHEAD: usize = 4;
/// Progress is not told more often.
const TOLD_EVERY: Duration = Duration::from_millis(200);

/// What is to be brought, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// The tree.
    pub home: PathBuf,
    /// Whose the boxes become.
    pub organization: OrganizationName,
    /// The architecture that they are for; a tree does not tell.
    pub architecture: ArchitectureName,
    /// Whether everybody may read the boxes that it makes.
    pub new_box_public: bool,
    /// Who has it done, for events and the audit.
    pub actor: String,
}

/// How far it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Imported {
    /// Files that were brought.
    pub files: u64,
    /// Bytes of them, and of those on their way.
    pub bytes: u64,
    /// Files that were there.
    pub there: u64,
    /// Files of the tree.
    pub total_files: u64,
    /// Bytes that are still to be looked at or brought, and those that were.
    pub total_bytes: u64,
    /// What was not brought.
    pub left: u64,
}

/// What is told on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// A file or directory that was not brought, and why.
    Left(String, String),
    /// How far it is.
    Progress(Imported),
}

/// What became of a file.
enum Outcome {
    Brought,
    There,
    Left(String),
    /// Nor will others be.
    Over(String),
}

/// What all files have in common.
struct Common {
    import: Import,
    stock: Stock,
    home: Home,
    organization: OrganizationId,
    sender: Sender,
    bytes: AtomicU64,
}

impl Import {
    /// Brings what is missing; the last progress that is told is what it returns.
    ///
    /// # Errors
    /// Why it ended early, in one line.
    /// # Cancel safety
    /// Dropping the future gives up the files that are on their way.
    pub async fn run<F>(
        self,
        stock: Stock,
        mut tell: impl FnMut(Told) -> F + Send,
    ) -> Result<Imported, String>
    where
        F: Future<Output = ()> + Send,
    {
        let (organization, sender) = self.owner(&stock).await?;
        let home = self.home.clone();
        let surveyed = spawn_blocking(move || survey::survey(&home)).await;
        let surveyed = surveyed.unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
        let Survey { home, files, left } =
            surveyed.map_err(|e| format!("{} cannot be read: {e}", self.home.display()))?;
        let mut imported = Imported {
            total_files: files.len() as u64,
            total_bytes: files.iter().map(|file| file.length).sum(),
            ..Imported::default()
        };
        for (path, why) in left {
            imported.left += 1;
            tell(Told::Left(path, why)).await;
        }
        let boxes: Vec<String> = named(&files);
        let common = Arc::new(Common {
            import: self,
            stock,
            home,
            organization,
            sender,
            bytes: AtomicU64::new(0),
        });
        let mut waiting = files.into_iter();
        let mut running = JoinSet::new();
        let mut names = HashSet::new();
        let mut every = tokio::time::interval(TOLD_EVERY);
        loop {
            while running.len() < AT_ONCE
                && let Some(file) = waiting.next()
            {
                match common.name(&file) {
                    Ok(name) if names.insert(name.to_string().to_ascii_lowercase()) => {
                        let common = Arc::clone(&common);
                        running.spawn(async move {
                            let outcome = common.take(&file, &name).await;
                            (file, outcome)
                        });
                    }
                    Ok(_) => {
                        let why = "another file has its name in other letters";
                        imported.leave(&file);
                        tell(Told::Left(file.path(), why.to_owned())).await;
                    }
                    Err(why) => {
                        imported.leave(&file);
                        tell(Told::Left(file.path(), why)).await;
                    }
                }
            }
            let ended = tokio::select! {
                ended = running.join_next() => ended,
                _ = every.tick() => {
                    imported.bytes = common.bytes.load(Ordering::Relaxed);
                    tell(Told::Progress(imported)).await;
                    continue;
                }
            };
            let Some(ended) = ended else { break };
            let (file, outcome) = ended.map_err(|e| format!("a defect ended it: {e}"))?;
            match outcome {
                Outcome::Brought => imported.files += 1,
                Outcome::There => {
                    imported.there += 1;
                    imported.total_bytes -= file.length;
                }
                Outcome::Left(why) => {
                    imported.leave(&file);
                    tell(Told::Left(file.path(), why)).await;
                }
                Outcome::Over(why) => return Err(format!("{}: {why}", file.path())),
            }
        }
        for box_name in boxes {
            common.describe(&box_name).await?;
        }
        imported.bytes = common.bytes.load(Ordering::Relaxed);
        tell(Told::Progress(imported)).await;
        Ok(imported)
    }

    /// The organization, and the account that sends on its behalf: its owner.
    async fn owner(&self, stock: &Stock) -> Result<(OrganizationId, Sender), String> {
        let metadata = stock.metadata();
        let unanswered = |e: boxgate_storage::Error| chain(&e);
        let organization = metadata.organization(&self.organization).await;
        let organization = organization
            .map_err(unanswered)?
            .ok_or_else(|| format!("no organization is named {}", self.organization))?;
        let members = metadata
            .members(organization.id)
            .await
            .map_err(unanswered)?;
        let owner = members
            .iter()
            .filter(|member| member.role != OrganizationRole::Member)
            .max_by_key(|member| member.role == OrganizationRole::Owner)
            .ok_or_else(|| format!("nobody administers {}", self.organization))?;
        Ok((organization.id, Sender::person(owner.account)))
    }
}

/// Names of boxes, each once.
fn named(files: &[Found]) -> Vec<String> {
    let mut names: Vec<String> = files.iter().map(|file| file.box_name.to_string()).collect();
    names.dedup();
    names
}

impl Imported {
    fn leave(&mut self, file: &Found) {
        self.left += 1;
        self.total_bytes -= file.length;
    }
}

impl Common {
    /// The name that a file gets in the catalog.
    fn name(&self, file: &Found) -> Result<BoxRef, String> {
        fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
            text.parse()
                .map_err(|e: T::Err| format!("the catalog takes no such name: {e}"))
        }
        Ok(BoxRef {
            organization: self.import.organization.clone(),
            name: parsed(&file.box_name)?,
            version: parsed(&file.version)?,
            provider: parsed(&file.provider)?,
            architecture: self.import.architecture.clone(),
        })
    }

    async fn take(&self, file: &Found, name: &BoxRef) -> Outcome {
        if file.length == 0 {
            return Outcome::Left("it is empty".to_owned());
        }
        match self.is_there(file, name).await {
            Ok(false) => {}
            Ok(true) => return Outcome::There,
            Err(outcome) => return outcome,
        }
        let mut counted = 0;
        match Box::pin(self.bring(file, name, &mut counted)).await {
            Ok(()) => Outcome::Brought,
            Err(outcome) => {
                self.bytes.fetch_sub(counted, Ordering::Relaxed);
                outcome
            }
        }
    }

    /// Whether the catalog has the file already; one that is older than the tree's is compared by its bytes.
    async fn is_there(&self, file: &Found, name: &BoxRef) -> Result<bool, Outcome> {
        let resolved = self.stock.metadata().resolve_file(name).await;
        let resolved = resolved.map_err(|e| Outcome::Over(chain(&e)))?;
        // Sending what is damaged once more heals it.
        let Some(there) = resolved.filter(|there| !there.quarantined) else {
            return Ok(false);
        };
        let differs = || Outcome::Left("the catalog has another file of that name".to_owned());
        if there.file.blob.length != file.length {
            return Err(differs());
        }
        let modified = file.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        let published = u128::from(there.file.updated.0.unsigned_abs());
        if modified.as_millis() < published {
            return Ok(true);
        }
        let (home, of) = (self.home.clone(), file.clone());
        let hashed = spawn_blocking(move || hash(&home, &of)).await;
        let hashed = hashed.unwrap_or_else(|panicked| Err(io::Error::other(panicked)));
        match hashed {
            Ok(digest) if digest == there.file.blob.blake3 => Ok(true),
            Ok(_) => Err(differs()),
            Err(error) => Err(Outcome::Left(format!("it cannot be read: {error}"))),
        }
    }

    /// Sends a file through, as an upload.
    async fn bring(&self, file: &Found, name: &BoxRef, counted: &mut u64) -> Result<(), Outcome> {
        let unreadable = |error: io::Error| Outcome::Left(format!("it cannot be read: {error}"));
        let (home, of) = (self.home.clone(), file.clone());
        let opening = spawn_blocking(move || {
            let opened = home.open_file(&of.box_name, &of.file_name)?;
            let stamp = Stamp::of(opened.as_fd())?;
            Ok((opened, stamp, expected(&home, &of)))
        });
        let opened = opening.await.unwrap_or_else(|e| Err(io::Error::other(e)));
        let (opened, stamp, expected) = opened.map_err(unreadable)?;
        let watched = opened.try_clone().map_err(unreadable)?;
        let intent = UploadIntent {
            store: None,
            sender: self.sender.clone(),
            organization: self.organization,
            target: Some(self.target(name, expected.first())),
            length: Some(stamp.length()),
            expected,
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
        writer.finish().await.map_err(refused)?;
        Ok(())
    }

    fn target(&self, name: &BoxRef, declared: Option<&Digest>) -> Target {
        Target {
            box_name: name.name.to_string(),
            version: name.version.to_string(),
            provider: name.provider.to_string(),
            architecture: name.architecture.to_string(),
            new_box_public: self.import.new_box_public,
            declared: declared.map(shown),
            actor: self.import.actor.clone(),
            base_url: String::new(),
            into: None,
        }
    }

    /// Gives versions that have none the descriptions that stand beside their files.
    async fn describe(&self, box_name: &str) -> Result<(), String> {
        let (home, of) = (self.home.clone(), box_name.to_owned());
        let reading = spawn_blocking(move || home.read_text(&of, DESCRIPTIONS, describe::LONGEST));
        let (Ok(Ok(Some(text))), Ok(name)) = (reading.await, box_name.parse()) else {
            return Ok(());
        };
        let unanswered = |e: boxgate_storage::Error| chain(&e);
        let metadata = self.stock.metadata();
        let tree = metadata.box_tree(self.organization, &name).await;
        let Some(tree) = tree.map_err(unanswered)? else {
            return Ok(());
        };
        let has = |version: &str| tree.versions.iter().any(|v| v.row.name.as_str() == version);
        let said = describe::parse(&text, has);
        for version in tree.versions {
            let row = version.row;
            let Some(said) = said.get(row.name.as_str()) else {
                continue;
            };
            let mut fields = row.fields;
            if fields.description.as_deref().is_some_and(|d| !d.is_empty()) {
                continue;
            }
            fields.description = Some((*said).to_owned());
            let actor = &self.import.actor;
            let updated = metadata.update_version(row.id, None, None, fields, actor);
            updated.await.map_err(unanswered)?;
        }
        Ok(())
    }
}

/// Digests that stand beside a file; what is none of its kind is not believed here.
fn expected(home: &Home, file: &Found) -> Vec<Digest> {
    let kinds = Checksum::ALL.into_iter();
    let said = kinds.filter_map(|kind| {
        let text = beside(home, &file.box_name, &file.file_name, kind)?;
        Digest::from_hex(kind.algorithm(), &text)
    });
    said.collect()
}

/// Reads a file from its first byte on, up to the length that it had.
fn send(mut file: std::fs::File, length: u64, pieces: &mpsc::Sender<Bytes>) -> io::Result<()> {
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

fn hash(home: &Home, file: &Found) -> io::Result<Blake3> {
    let mut opened = home.open_file(&file.box_name, &file.file_name)?;
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
