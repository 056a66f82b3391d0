//! What a store of bytes must be able to do, split by capability: an absent capability is an absent
//! value. HTTP stays outside: a store returns data and facts.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio::sync::OwnedSemaphorePermit;

use crate::blob::{BlobKey, UploadId};
use crate::buffer::{Buffer, Frame, Reservation};
use crate::error::Result;
use crate::range::ByteRange;

/// The whole truth about what one backend can do.
#[derive(Debug, Clone)]
pub struct Store {
    /// Reading committed bytes.
    pub read: Arc<dyn ReadBlob>,
    /// Taking bytes in.
    pub write: Arc<dyn WriteBlob>,
    /// Removing bytes.
    pub delete: Option<Arc<dyn DeleteBlob>>,
    /// Finding out what is there.
    pub list: Option<Arc<dyn ListBlobs>>,
    /// Taking parts of one upload from several processes.
    pub shared: Option<Arc<dyn ShareParts>>,
    /// Keeping small texts beside blobs.
    pub sidecars: Option<Arc<dyn Sidecars>>,
    /// Knowing how much room is left.
    pub space: Option<Arc<dyn FreeSpace>>,
    /// Handing out blobs as files of this machine.
    pub files: Option<Arc<dyn BlobFiles>>,
    /// Handing out URLs at which clients read blobs past us.
    pub presign: Option<Arc<dyn PresignRead>>,
    /// How long such a URL is good to which downloads are sent; where it is none, we send the bytes.
    pub redirect_for: Option<Duration>,
    /// How bytes are taken in.
    pub intake: Intake,
}

/// How a store takes bytes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intake {
    /// Each run is written to its place at once. The beginning of a blob can be read, and runs may come
    /// in any order.
    InPlace,
    /// Runs are held in memory until their part is sealed: whoever begins a part reserves the memory
    /// for all of it. A blob can be read once it is committed, and not before.
    ByPart,
}

/// Reads bytes.
#[async_trait]
pub trait ReadBlob: Debug + Send + Sync {
    /// How many bytes are stored under `key`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] when nothing is.
    async fn stat(&self, key: &BlobKey) -> Result<u64>;

    /// The bytes of `range`, in order, in chunks of at most 1 MiB. Dropping the stream ends the read.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`]; [`crate::ErrorKind::Damaged`] (also in the stream) when the
    /// store holds fewer bytes than `range` needs.
    async fn open(
        &self,
        key: &BlobKey,
        range: ByteRange,
    ) -> Result<BoxStream<'static, Result<Bytes>>>;
}

/// Takes bytes in.
#[async_trait]
pub trait WriteBlob: Debug + Send + Sync {
    /// Makes room for a new blob under a key that was never used before.
    ///
    /// `part_bytes` is the unit of durability; `length` the declared length, if any.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Conflict`] when the key is taken; [`crate::ErrorKind::Full`].
    async fn begin(
        &self,
        key: &BlobKey,
        part_bytes: u64,
        length: Option<u64>,
    ) -> Result<Box<dyn UploadSink>>;

    /// Goes on with a blob that was begun and neither committed nor aborted, at `offset`, up to which
    /// its bytes are durable; what was written behind is gone afterwards. Waits for up to
    /// [`LOCK_WAIT`] until the sink before it and all it had under way are gone: of one blob there
    /// is never more than one sink.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] when there is no such blob, [`crate::ErrorKind::Damaged`] when it
    /// is shorter than `offset`: both mean that bytes were lost. [`crate::ErrorKind::Unavailable`] when
    /// the sink before it does not go.
    async fn resume(
        &self,
        key: &BlobKey,
        part_bytes: u64,
        offset: u64,
        kept: Kept,
    ) -> Result<Box<dyn UploadSink>>;
}

/// Lets several processes send parts of one upload, each with a sink of its own: all of them must name the same upload
/// of the store, and which that is stands in the rows before the first part is sent.
#[async_trait]
pub trait ShareParts: Debug + Send + Sync {
    /// Begins the store's own upload, beside others that may be there under the key. Returns its id.
    async fn begin_shared(&self, key: &BlobKey) -> Result<String>;

    /// Gives up all but the one that the rows name: those of others who came later, or died before they named theirs.
    async fn end_others(&self, key: &BlobKey, named: &str) -> Result<()>;
}

/// What the rows kept of an upload for its store.
#[derive(Debug, Default)]
pub struct Kept {
    /// Whether other processes may send to the same upload at this moment: what else is there under its key is theirs.
    pub shared: bool,
    /// The declared length, if any.
    pub length: Option<u64>,
    /// What its store gave for the bytes before the offset.
    pub receipts: Receipts,
    /// Memory for the bytes between the start of the part and the offset; only where [`Intake::ByPart`].
    pub memory: Option<Reservation>,
}

/// What a store gives for bytes that it sealed and wants to be told when the upload goes on; empty from
/// a store that finds all by the key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Receipt {
    /// The store's own id of the upload.
    pub upload: Option<String>,
    /// What names the part; absent while only its beginning is sealed.
    pub part: Option<PartReceipt>,
    /// Where the beginning of a part is kept apart until the rest comes.
    pub tail: Option<Tail>,
}

/// What names a part in its store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartReceipt {
    /// The store's validator of the part.
    pub etag: String,
    /// CRC-64/NVME of the part.
    pub crc64: u64,
}

/// The beginning of a part, kept as an object of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail {
    /// Its key, never used before.
    pub key: BlobKey,
    /// How many bytes.
    pub length: u64,
    /// CRC-64/NVME of the bytes.
    pub crc64: u64,
}

/// All receipts of an upload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Receipts {
    /// The store's own id of the upload.
    pub upload: Option<String>,
    /// Parts that are whole.
    pub parts: BTreeMap<PartIndex, PartReceipt>,
    /// The beginning of the part that is not.
    pub tail: Option<Tail>,
}

impl Receipts {
    /// Adds what was given for `part`.
    pub fn add(&mut self, part: PartIndex, receipt: Receipt) {
        let Receipt {
            upload,
            part: whole,
            tail,
        } = receipt;
        self.upload = upload.or(self.upload.take());
        self.tail = tail;
        if let Some(whole) = whole {
            self.parts.insert(part, whole);
        }
    }
}

/// How long a sink waits for the one before it to go.
pub const LOCK_WAIT: Duration = Duration::from_secs(5);

/// One piece of a part on its way to the store.
#[derive(Debug)]
pub struct Run {
    /// Where it belongs, in bytes from the start of the blob.
    pub offset: u64,
    /// What it is.
    pub bytes: RunBytes,
}

/// The bytes of a run; shared with whoever hashes them still.
#[derive(Debug, Clone)]
pub enum RunBytes {
    /// A full buffer, or a short one at the end of the upload, where it paused, before a frame, and where a
    /// slow upload gave its memory back. It does not cross a multiple of 1 MiB.
    Buffer(Arc<Buffer>),
    /// A frame as it arrived, within one part; only for stores that hold whole parts ([`Intake::ByPart`]).
    Frame(Arc<Frame>),
}

impl AsRef<[u8]> for RunBytes {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Buffer(buffer) => buffer.as_slice(),
            Self::Frame(frame) => frame.as_slice(),
        }
    }
}

impl Run {
    /// The first byte behind it.
    pub fn end(&self) -> u64 {
        self.offset + self.bytes.as_ref().len() as u64
    }
}

/// Position of a part in its upload, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartIndex(pub u32);

/// The receiving end of one upload. Several futures of one sink may be in flight at once.
///
/// Dropping it neither removes nor changes what is stored: another sink may [resume](WriteBlob::resume)
/// the blob once all futures of this one ended.
#[async_trait]
pub trait UploadSink: Debug + Send {
    /// Hands a run over; the future ends when the store has taken it and its buffer is free again.
    /// The work starts at once and goes on whether or not the future is polled: whoever waits for a
    /// buffer must not have to drive those who hold one. Called within a tokio runtime.
    fn write(&mut self, run: Run) -> BoxFuture<'static, Result<()>>;

    /// Resolves when all bytes of `part` handed over so far, and of all parts before it, survive a loss
    /// of power. Called after the part's last run was handed over, and where an upload pauses within
    /// a part; the future is polled only after the futures of those runs ended well.
    /// Where [`Intake::ByPart`], sealing within a part ends the sink's writing.
    fn seal(&mut self, part: PartIndex) -> BoxFuture<'static, Result<Receipt>>;

    /// Tells how many bytes the blob has, which nobody may have known when the sink was made: a seal to that place is the
    /// last. Of no use to a store that knows no parts.
    fn ends_at(&mut self, _length: u64) {}

    /// Bytes before the offset at which this sink went on that it holds itself; `None` where the store
    /// reads them under the key.
    fn reread(&self, range: ByteRange) -> Option<Vec<u8>>;

    /// Makes the bytes final; consumes, so that nothing can be written afterwards.
    /// Returns how many bytes the store holds.
    async fn commit(self: Box<Self>) -> Result<u64>;

    /// Lets go of the blob, which goes on at `offset` another time: what is stored behind is given
    /// back. For a writer that knows where its last commit left the offset; any other drops its sink.
    async fn pause(self: Box<Self>, offset: u64) -> Result<()>;

    /// Gives the bytes up. The store holds nothing under the key afterwards.
    async fn abort(self: Box<Self>) -> Result<()>;
}

/// Keeps small texts beside blobs, each under the id of an upload ([`crate::sidecar`]). They go with the blob.
#[async_trait]
pub trait Sidecars: Debug + Send + Sync {
    /// Keeps `text` beside `key`, durably; what had that id before is replaced.
    async fn put(&self, key: &BlobKey, id: UploadId, text: &str) -> Result<()>;

    /// Removes one of them; none there is success.
    async fn remove(&self, key: &BlobKey, id: UploadId) -> Result<()>;

    /// All texts beside `key`, whole or cut, in no order.
    async fn beside(&self, key: &BlobKey) -> Result<Vec<(UploadId, Vec<u8>)>>;
}

/// Removes bytes.
#[async_trait]
pub trait DeleteBlob: Debug + Send + Sync {
    /// Removes what is stored under `key`, and what stands beside it; nothing there is success.
    async fn delete(&self, key: &BlobKey) -> Result<()>;
}

/// Finds out what is stored.
#[async_trait]
pub trait ListBlobs: Debug + Send + Sync {
    /// Up to `limit` keys after `after`, in order; an empty page is the end.
    async fn page(&self, after: Option<BlobKey>, limit: usize) -> Result<Vec<BlobKey>>;
}

/// Tells how much room is left.
#[async_trait]
pub trait FreeSpace: Debug + Send + Sync {
    /// Free and total bytes of the volume that holds the store.
    async fn free_space(&self) -> Result<Space>;
}

/// Hands out blobs as files of this machine, for what the kernel can do with a file and not with bytes.
#[async_trait]
pub trait BlobFiles: Debug + Send + Sync {
    /// The file that holds the blob and nothing else, open for reading; `None` while too many are open.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] when there is none.
    async fn open_file(&self, key: &BlobKey) -> Result<Option<Arc<OpenFile>>>;
}

/// Hands out URLs at which whoever has one reads a blob from the store itself, for a time.
#[async_trait]
pub trait PresignRead: Debug + Send + Sync {
    /// A URL for that blob which is good for `life`, 7 days at most; makes no call, and does not know whether the blob
    /// is there. Resolves when it is first polled.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Internal`] when nothing can be signed.
    async fn url(&self, key: &BlobKey, life: Duration) -> Result<String>;
}

/// A file that is open for reading, and its place among those.
#[derive(Debug)]
pub struct OpenFile {
    file: File,
    _place: OwnedSemaphorePermit,
}

impl OpenFile {
    /// `file`, which holds `place` as long as it is open.
    pub fn new(file: File, place: OwnedSemaphorePermit) -> Self {
        Self {
            file,
            _place: place,
        }
    }
}

impl AsFd for OpenFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Room on a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that can still be written.
    pub free_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}
