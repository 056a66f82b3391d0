//! Images that come over several requests: each a file beside the image, and beside that a record of how much of it is
//! durable.
//!
//! The record's offset moves after the bytes are durable, so a kill at any moment loses only what nobody was told of. When
//! all came, the file takes the image's name as one from a single request does: nothing is copied.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use boxgate_storage::clock::{Clock, UnixMillis};
use boxgate_storage::digest::{Algorithm, Blake3, Digest, DigestHasher};
use boxgate_storage::durable;
use boxgate_storage::{Error, ErrorKind};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedMutexGuard, mpsc, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::image::{READ_BYTES, SYNC_EVERY, WAITING, done, stream};
use crate::ingest::TakeBytes;

/// Uploads of one runtime that are open at once.
pub const MOST_OPEN: usize = 16;
/// One that nobody sends gives way to another after this time, if too many are open.
pub const GIVES_WAY: Duration = Duration::from_mins(1);
/// Uploads that became an image and are still known, for clients that lost the answer.
const MOST_DONE: usize = 64;
/// What came is made durable after this time at the latest, as long as bytes come.
const COMMIT_EVERY: Duration = Duration::from_secs(5);
/// Before the digest of the image's name, and between that and the id.
const HIDDEN: &str = ".boxgate-";
const ARRIVING: &str = ".arriving-";
/// So much of the digest: names of images may be as long as a file's.
const DIGEST_CHARACTERS: usize = 16;
const RECORD: &str = ".json";

/// The uploads of one runtime.
#[derive(Debug)]
pub struct Arrivals {
    directory: PathBuf,
    prefix: String,
    known: Mutex<BTreeMap<String, Arc<Arrival>>>,
}

/// One upload.
#[derive(Debug)]
pub struct Arrival {
    work: Arc<tokio::sync::Mutex<Work>>,
    /// Ends the request that has it.
    over: Mutex<CancellationToken>,
    /// Its durable bytes as they grow.
    progress: watch::Sender<u64>,
}

/// An upload in the hands of one request.
#[derive(Debug)]
pub struct Turn {
    /// Its record and bytes.
    pub work: Held,
    /// That a newer request wants it.
    pub over: CancellationToken,
}

/// An upload that nobody else touches meanwhile.
pub type Held = OwnedMutexGuard<Work>;

/// The files of an upload.
#[derive(Debug)]
pub struct Work {
    /// What is known of it.
    pub record: Record,
    bytes: PathBuf,
    /// At the record's offset; they are made anew where they are lost.
    hashers: Option<Vec<DigestHasher>>,
    progress: watch::Sender<u64>,
    is_gone: bool,
}

/// What is known of an upload, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Where it stands.
    pub state: State,
    /// Bytes that are durable.
    pub offset: u64,
    /// Bytes of the whole, once known.
    pub length: Option<u64>,
    created_ms: i64,
    updated_ms: i64,
    /// The protocol's own text.
    pub note: Option<String>,
    /// What its sender calls it.
    pub filename: Option<String>,
    /// Digests of the whole, by their algorithms.
    expected: Vec<(String, String)>,
    /// What is expected of the image in place: fields of the request that began it.
    pub conditions: Vec<(String, String)>,
    /// As what it is just named in a store, or was when that was cut.
    #[serde(default)]
    naming: Option<Naming>,
}

/// An image that is given its name in a store, as far as a later look must know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Naming {
    /// Its bytes.
    blake3: String,
    /// [`Seen::stamp`] of what had the name.
    over: String,
}

/// What has the name of an image in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Another one with every image that is given the name; empty where none has it.
    pub stamp: String,
    /// Its bytes.
    pub blake3: Option<Blake3>,
}

/// Where an upload stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// More may come.
    Open,
    /// It is just given the image's name, or was when a crash or a fault came between.
    Placing,
    /// It became the image.
    Done,
}

/// What a new upload begins with.
#[derive(Debug, Default)]
pub struct Beginning {
    /// Bytes of the whole, if known.
    pub length: Option<u64>,
    /// The protocol's own text.
    pub note: Option<String>,
    /// What its sender calls it.
    pub filename: Option<String>,
    /// Digests of the whole.
    pub expected: Vec<Digest>,
    /// What is expected of the image in place.
    pub conditions: Vec<(String, String)>,
}

impl Record {
    fn new(beginning: Beginning, now: UnixMillis) -> Self {
        let expected = beginning.expected.iter();
        Self {
            state: State::Open,
            offset: 0,
            length: beginning.length,
            created_ms: now.0,
            updated_ms: now.0,
            note: beginning.note,
            filename: beginning.filename,
            expected: expected
                .map(|digest| (digest.algorithm().name().to_owned(), digest.to_hex()))
                .collect(),
            conditions: beginning.conditions,
            naming: None,
        }
    }

    /// Digests that the whole must have.
    pub fn expected(&self) -> impl Iterator<Item = Digest> {
        self.expected
            .iter()
            .filter_map(|(name, hex)| Digest::from_hex(Algorithm::from_name(name)?, hex))
    }

    /// When it is given up, or forgotten, if nobody goes on with it.
    pub fn expires(&self, idle: Duration, age: Duration) -> UnixMillis {
        let rests = UnixMillis(self.updated_ms).plus(idle);
        rests.min(UnixMillis(self.created_ms).plus(age))
    }
}

impl Arrivals {
    /// Those that were there before, of the image of that name; what belongs to none is removed. Blocking.
    ///
    /// # Errors
    /// When the directory cannot be read, or what must go cannot be removed.
    pub fn open(directory: &Path, image: &str) -> io::Result<Self> {
        let this = Self {
            directory: directory.to_owned(),
            prefix: prefix_of(image),
            known: Mutex::default(),
        };
        let mut names = Vec::new();
        for entry in fs::read_dir(directory)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        let ids: Vec<&str> = names
            .iter()
            .filter_map(|name| name.strip_prefix(&this.prefix))
            .collect();
        for id in ids.iter().filter_map(|name| name.strip_suffix(RECORD)) {
            if let Some(record) = this.read(id)? {
                let arrival = this.arrival(id, record);
                this.known().insert(id.to_owned(), arrival);
            }
        }
        for name in ids {
            let id = name.strip_suffix(RECORD).unwrap_or(name);
            if !this.known().contains_key(id) {
                remove(&this.path(name))?;
            }
        }
        Ok(this)
    }

    /// The record of an upload, where its bytes are as it says.
    fn read(&self, id: &str) -> io::Result<Option<Record>> {
        let text = fs::read(self.path(&format!("{id}{RECORD}")))?;
        let Ok(mut record) = serde_json::from_slice::<Record>(&text) else {
            return Ok(None);
        };
        let bytes = match fs::symlink_metadata(self.path(id)) {
            Ok(meta) => Some(meta.len()).filter(|_| meta.is_file()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        record.state = match (record.state, bytes) {
            (State::Done, _) | (State::Placing, None) => State::Done,
            // What has the name in the store says which it is.
            (State::Placing, Some(_)) if record.naming.is_some() => State::Placing,
            (State::Open | State::Placing, _) => State::Open,
        };
        let is_whole = record.state == State::Done || bytes.unwrap_or(0) >= record.offset;
        Ok(Some(record).filter(|_| is_whole))
    }

    fn arrival(&self, id: &str, record: Record) -> Arc<Arrival> {
        let progress = watch::Sender::new(record.offset);
        let work = Work {
            record,
            bytes: self.path(id),
            hashers: None,
            progress: progress.clone(),
            is_gone: false,
        };
        Arc::new(Arrival {
            work: Arc::new(tokio::sync::Mutex::new(work)),
            over: Mutex::default(),
            progress,
        })
    }

    fn path(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{}{id}", self.prefix))
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Arrival>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an upload; its id, or `None` where too many are open. The one that rests the longest gives way, where nobody
    /// sends it and that is longer than [`GIVES_WAY`]: whoever is cut again and again must not shut all others out.
    ///
    /// # Errors
    /// When it cannot be written down, or the other not removed.
    pub async fn begin(
        &self,
        beginning: Beginning,
        now: UnixMillis,
    ) -> io::Result<Option<(String, Arc<Arrival>)>> {
        let id = hex::encode(fastrand::u128(..).to_be_bytes());
        let arrival = self.arrival(&id, Record::new(beginning, now));
        while !self.admits(&id, &arrival) {
            let Some((other, mut work)) = self.longest_at_rest(now) else {
                return Ok(None);
            };
            tracing::info!(
                upload = other,
                "an upload of an image that rests gives way to another"
            );
            done(spawn_blocking(move || work.remove()).await)?;
            self.known().remove(&other);
        }
        let work = Arc::clone(&arrival.work).lock_owned().await;
        let written = done(spawn_blocking(move || work.keep()).await);
        if let Err(e) = written {
            self.known().remove(&id);
            return Err(e);
        }
        Ok(Some((id, arrival)))
    }

    /// Whether there is room for one more, which then has it.
    fn admits(&self, id: &str, arrival: &Arc<Arrival>) -> bool {
        let mut known = self.known();
        let open = known.values().filter(|arrival| arrival.is_open()).count();
        if open < MOST_OPEN {
            known.insert(id.to_owned(), Arc::clone(arrival));
        }
        open < MOST_OPEN
    }

    /// The open upload that nobody went on with for the longest, and nobody has.
    fn longest_at_rest(&self, now: UnixMillis) -> Option<(String, Held)> {
        let known = self.known();
        let at_rest = known.iter().filter_map(|(id, arrival)| {
            let work = Arc::clone(&arrival.work).try_lock_owned().ok()?;
            let until = UnixMillis(work.record.updated_ms).plus(GIVES_WAY);
            let rests = work.record.state != State::Done && until < now;
            rests.then(|| (id.clone(), work))
        });
        at_rest.min_by_key(|(_, work)| work.record.updated_ms)
    }

    /// The upload of that id.
    pub fn find(&self, id: &str) -> Option<Arc<Arrival>> {
        self.known().get(id).cloned()
    }

    /// Gives an upload up, or forgets it; the image stays what it is. Whoever still sends it is ended.
    ///
    /// # Errors
    /// When a file of it cannot be removed.
    pub async fn end(&self, id: &str) -> io::Result<()> {
        let Some(arrival) = self.find(id) else {
            return Ok(());
        };
        if let Some(mut turn) = arrival.take().await {
            done(spawn_blocking(move || turn.work.remove()).await)?;
        }
        self.known().remove(id);
        Ok(())
    }

    /// Gives up and forgets what nobody went on with for too long, and more than are remembered. One that a request has
    /// is left alone.
    pub async fn sweep(&self, now: UnixMillis, idle: Duration, age: Duration) {
        let all: Vec<_> = {
            let known = self.known();
            known
                .iter()
                .map(|(i, a)| (i.clone(), Arc::clone(a)))
                .collect()
        };
        let (mut over, mut became) = (Vec::new(), Vec::new());
        for (id, arrival) in all {
            let Ok(work) = Arc::clone(&arrival.work).try_lock_owned() else {
                continue;
            };
            if work.record.expires(idle, age) <= now {
                over.push(id);
            } else if work.record.state == State::Done {
                became.push((work.record.updated_ms, id));
            }
        }
        became.sort_unstable();
        let too_many = became.len().saturating_sub(MOST_DONE);
        over.extend(became.into_iter().take(too_many).map(|(_, id)| id));
        for id in over {
            if let Err(e) = self.end(&id).await {
                tracing::warn!(upload = id, error = %e, "an upload of an image is not removed");
            }
        }
    }
}

impl Arrival {
    /// Has the request before end, and waits until it did; `None` where the upload went with it.
    pub async fn take(&self) -> Option<Turn> {
        let over = CancellationToken::new();
        let before = {
            let mut current = self.over.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, over.clone())
        };
        before.cancel();
        let work = Arc::clone(&self.work).lock_owned().await;
        (!work.is_gone).then_some(Turn { work, over })
    }

    /// Its durable bytes as they grow.
    pub fn progress(&self) -> watch::Receiver<u64> {
        self.progress.subscribe()
    }

    /// Whether it takes room: one that a request has does.
    fn is_open(&self) -> bool {
        !matches!(self.work.try_lock(), Ok(work) if work.record.state == State::Done)
    }
}

impl Work {
    /// Writes the record. Blocking.
    ///
    /// # Errors
    /// When it cannot be made durable; what was written before then stays.
    pub fn keep(&self) -> io::Result<()> {
        let text = serde_json::to_vec(&self.record).map_err(io::Error::other)?;
        durable::write_file(&self.record_path(), &text, 0o600)
    }

    fn record_path(&self) -> PathBuf {
        let mut path = self.bytes.clone().into_os_string();
        path.push(RECORD);
        path.into()
    }

    /// Where its bytes are.
    pub(super) fn path(&self) -> &Path {
        &self.bytes
    }

    /// Its file, to be written at the record's offset; what stands behind that was never told of.
    fn open(&self) -> io::Result<File> {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o644)
            .open(&self.bytes)?;
        if file.metadata()?.len() < self.record.offset {
            return Err(io::Error::other("stored bytes of the upload are lost"));
        }
        file.set_len(self.record.offset)?;
        file.seek(SeekFrom::Start(self.record.offset))?;
        Ok(file)
    }

    /// What has seen all durable bytes: BLAKE3, and what is compared.
    fn take_hashers(&mut self) -> io::Result<Vec<DigestHasher>> {
        if let Some(hashers) = self.hashers.take() {
            return Ok(hashers);
        }
        let mut algorithms = vec![Algorithm::Blake3];
        for digest in self.record.expected() {
            if !algorithms.contains(&digest.algorithm()) {
                algorithms.push(digest.algorithm());
            }
        }
        let mut hashers: Vec<_> = algorithms.into_iter().map(DigestHasher::new).collect();
        if self.record.offset == 0 {
            return Ok(hashers);
        }
        let mut bytes = File::open(&self.bytes)?.take(self.record.offset);
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match bytes.read(&mut buffer)? {
                0 => return Ok(hashers),
                n => hashers.iter_mut().for_each(|h| h.update(&buffer[..n])),
            }
        }
    }

    /// Digests of all durable bytes, that by BLAKE3 first. Blocking.
    ///
    /// # Errors
    /// When they must be read again and cannot be.
    pub fn digests(&mut self) -> io::Result<Vec<Digest>> {
        let hashers = self.take_hashers()?;
        self.hashers = Some(hashers.clone());
        Ok(hashers.into_iter().map(DigestHasher::finish).collect())
    }

    /// Moves the offset behind bytes that are durable.
    fn commit(&mut self, offset: u64, now: UnixMillis) -> io::Result<()> {
        let before = (self.record.offset, self.record.updated_ms);
        (self.record.offset, self.record.updated_ms) = (offset, now.0);
        if let Err(e) = self.keep() {
            (self.record.offset, self.record.updated_ms) = before;
            return Err(e);
        }
        self.progress.send_replace(offset);
        Ok(())
    }

    /// Tells the record that the bytes are about to have the image's name. Blocking.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub(super) fn placing(&mut self) -> io::Result<()> {
        self.record.state = State::Placing;
        let kept = self.keep();
        if kept.is_err() {
            self.record.state = State::Open;
        }
        kept
    }

    /// Tells the record that they have it. Blocking.
    pub(super) fn placed(&mut self) {
        (self.record.state, self.hashers) = (State::Done, None);
        if let Err(e) = self.keep() {
            // A start finds the bytes gone, and knows why.
            tracing::warn!(error = %e, "that an upload became an image is not written down");
        }
    }

    /// All durable bytes, from the first. Opening blocks for a moment.
    ///
    /// # Errors
    /// When they are not there.
    pub fn read(&self) -> io::Result<BoxStream<'static, io::Result<Bytes>>> {
        let file = File::open(&self.bytes)?;
        Ok(stream(file, self.record.offset))
    }

    /// Tells the record that the bytes became the image elsewhere, and removes them. Blocking.
    ///
    /// # Errors
    /// When they cannot be removed.
    pub fn sent(&mut self) -> io::Result<()> {
        self.record.state = State::Done;
        self.keep()?;
        self.hashers = None;
        remove(&self.bytes)
    }

    /// Tells the record that they did not come to have it.
    pub(super) fn stays(&mut self) {
        self.record.state = State::Open;
    }

    /// Tells the record that its bytes are about to be named in a store, and over what. Blocking.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub(super) fn naming(&mut self, blake3: Blake3, over: &Seen) -> io::Result<()> {
        self.record.naming = Some(Naming {
            blake3: blake3.to_hex(),
            over: over.stamp.clone(),
        });
        self.placing()
    }

    /// Finds out what became of a naming that was cut: it is over if another image has the name since, or these bytes
    /// have it. Blocking.
    ///
    /// # Errors
    /// When that cannot be made durable.
    pub(super) fn settle(&mut self, now: &Seen) -> io::Result<()> {
        let has_name = self.record.naming.as_ref().is_some_and(|naming| {
            naming.over != now.stamp || now.blake3.is_some_and(|b| b.to_hex() == naming.blake3)
        });
        if has_name {
            return self.sent();
        }
        self.unnamed()
    }

    /// Tells the record that its bytes did not come to be named in a store. Blocking.
    ///
    /// # Errors
    /// When that cannot be made durable.
    pub(super) fn unnamed(&mut self) -> io::Result<()> {
        self.record.naming = None;
        self.stays();
        self.keep()
    }

    /// Removes its files. Blocking.
    fn remove(&mut self) -> io::Result<()> {
        remove(&self.record_path())?;
        self.is_gone = true;
        remove(&self.bytes)
    }
}

/// What the names of an image's uploads begin with.
fn prefix_of(image: &str) -> String {
    let digest = blake3::hash(image.as_bytes()).to_hex();
    format!("{HIDDEN}{}{ARRIVING}", &digest[..DIGEST_CHARACTERS])
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Bytes of a request on their way into an upload.
#[derive(Debug)]
pub struct Taking {
    /// `None` has what came before made durable.
    frames: mpsc::Sender<Option<Bytes>>,
    /// Until it was heard of.
    writer: Option<JoinHandle<io::Result<Taken>>>,
    over: CancellationToken,
    /// Whether nothing counts before digests were compared.
    counts_later: bool,
}

/// All bytes of a request. Where digests of them are compared they count once [`Taken::commit`] was called; else they do.
#[derive(Debug)]
pub struct Taken {
    /// The upload.
    pub work: Held,
    hashers: Vec<DigestHasher>,
    of_body: Vec<DigestHasher>,
    file: File,
    end: u64,
}

impl Taking {
    /// Begins to take bytes in at the record's offset, and to hash them by these algorithms apart. Whoever stops sending
    /// leaves what came.
    pub fn begin(turn: Turn, of_body: &[Algorithm], clock: Arc<dyn Clock>) -> Self {
        let (frames, coming) = mpsc::channel(WAITING);
        let counts_later = !of_body.is_empty();
        let of_body = of_body.iter().map(|a| DigestHasher::new(*a)).collect();
        let Turn { work, over } = turn;
        let writer = spawn_blocking(move || take_in(work, of_body, coming, clock.as_ref()));
        Self {
            frames,
            writer: Some(writer),
            over,
            counts_later,
        }
    }

    /// Waits until all of them are where they belong.
    ///
    /// # Errors
    /// When the disk failed, or is full.
    pub async fn finish(self) -> io::Result<Taken> {
        drop(self.frames);
        match self.writer {
            Some(writer) => done(writer.await),
            None => Err(io::Error::other("the writer ended early")),
        }
    }

    async fn send(&mut self, frame: Option<Bytes>) -> Result<(), Error> {
        if self.frames.send(frame).await.is_ok() {
            return Ok(());
        }
        let ended = match self.writer.take() {
            Some(writer) => done(writer.await).err(),
            None => None,
        };
        let why = ended.unwrap_or_else(|| io::Error::other("the writer ended early"));
        let kind = match why.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Full,
            _ => ErrorKind::Internal,
        };
        Err(Error::new(kind, "image.write", "image").with_source(why))
    }
}

impl TakeBytes for Taking {
    async fn room(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn write(&mut self, chunk: Bytes) -> impl Future<Output = Result<(), Error>> + Send {
        self.send(Some(chunk))
    }

    /// Nothing waits in memory; what a silent client sent is made durable.
    fn give_memory_back(&mut self) -> impl Future<Output = Result<(), Error>> + Send {
        self.send(None)
    }

    fn taken_over(&self) -> impl Future<Output = ()> + Send + 'static {
        self.over.clone().cancelled_owned()
    }

    fn to_rest(&self) -> Option<u64> {
        (!self.counts_later).then_some(0)
    }
}

fn take_in(
    mut work: Held,
    of_body: Vec<DigestHasher>,
    mut coming: mpsc::Receiver<Option<Bytes>>,
    clock: &dyn Clock,
) -> io::Result<Taken> {
    let counts_later = !of_body.is_empty();
    let mut taken = Taken {
        file: work.open()?,
        hashers: work.take_hashers()?,
        end: work.record.offset,
        of_body,
        work,
    };
    let (mut synced, mut since) = (taken.end, Instant::now());
    let mut failed = None;
    while let Some(frame) = coming.blocking_recv() {
        let rests = frame.is_none();
        let bytes = frame.unwrap_or_default();
        if let Err(e) = taken.file.write_all(&bytes) {
            failed = Some(e);
            break;
        }
        let hashers = taken.hashers.iter_mut().chain(&mut taken.of_body);
        hashers.for_each(|hasher| hasher.update(&bytes));
        taken.end += bytes.len() as u64;
        let is_due = rests || taken.end - synced >= SYNC_EVERY || since.elapsed() >= COMMIT_EVERY;
        if !is_due || taken.end == synced {
            continue;
        }
        taken.file.sync_data()?;
        (synced, since) = (taken.end, Instant::now());
        if !counts_later {
            taken.work.commit(synced, clock.now())?;
        }
    }
    let taken = if counts_later {
        taken
    } else {
        taken.commit(clock.now())?
    };
    failed.map_or(Ok(taken), Err)
}

impl Taken {
    /// Has them count. Blocking.
    ///
    /// # Errors
    /// When they cannot be made durable.
    pub fn commit(mut self, now: UnixMillis) -> io::Result<Self> {
        self.file.sync_data()?;
        self.work.commit(self.end, now)?;
        self.work.hashers = Some(self.hashers.clone());
        Ok(self)
    }

    /// Digests of these bytes alone.
    pub fn of_body(&self) -> impl Iterator<Item = Digest> {
        self.of_body.iter().cloned().map(DigestHasher::finish)
    }
}

#[cfg(test)]
mod tests;
