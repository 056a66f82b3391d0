//! One request for a run of blocks: each is proved as it comes in, and written only then.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use boxgate_storage::digest::outboard::ProvedTree;
use bytes::{Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_RANGE, ETAG, RANGE};
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::time::timeout;

use super::PullError;
use super::file::Destination;
use crate::client::progress::Progress;
use crate::client::{Client, ClientError};

/// A connection that brings nothing for so long is dead.
const SILENCE: Duration = Duration::from_mins(1);

/// What all requests of a pull share.
#[derive(Debug, Clone)]
pub struct Fetcher {
    /// Whom to ask.
    pub client: Client,
    /// Where the bytes are.
    pub url: String,
    /// The validator of the right ones.
    pub etag: String,
    /// What proves them.
    pub tree: Arc<ProvedTree>,
    /// Where they go.
    pub destination: Destination,
    /// How far it is.
    pub progress: Arc<Progress>,
}

/// What became of a request.
#[derive(Debug)]
pub struct Landed {
    /// The blocks that were asked for.
    pub run: Range<u64>,
    /// Those that are proved and written.
    pub stored: Vec<u64>,
    /// Those for which other bytes came.
    pub wrong: Vec<u64>,
    /// How the answer ended.
    pub end: Result<(), End>,
}

/// Why an answer ended early.
#[derive(Debug)]
pub enum End {
    /// The call failed.
    Call(ClientError),
    /// Nothing can be written here.
    Disk(PullError),
}

impl Fetcher {
    /// Fetches the blocks of `run`, past every cache if `fresh`.
    ///
    /// # Cancel safety
    /// Dropping the future loses what of one block has come so far.
    pub async fn fetch(&self, run: Range<u64>, fresh: bool) -> Landed {
        let mut landed = Landed {
            run,
            stored: Vec::new(),
            wrong: Vec::new(),
            end: Ok(()),
        };
        landed.end = self.fill(&mut landed, fresh).await;
        landed
    }

    async fn fill(&self, landed: &mut Landed, fresh: bool) -> Result<(), End> {
        let (start, end) = (
            self.tree.range(landed.run.start).start(),
            self.tree.range(landed.run.end - 1).end(),
        );
        let range = HeaderValue::try_from(format!("bytes={start}-{}", end - 1));
        let range = range.map_err(|_odd| End::Call(self.client.odd("a range is lost")))?;
        let mut fields = HeaderMap::from_iter([(RANGE, range)]);
        if fresh {
            fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        }
        let opening = self.client.open_anywhere(&self.url, &fields);
        let opened = timeout(SILENCE, opening).await;
        let (mut response, elsewhere) =
            opened.map_err(|_late| self.silent())?.map_err(End::Call)?;
        self.check(&response, elsewhere, start, end)?;
        let mut blocks = landed.run.clone();
        let mut incoming = Incoming::new(&self.progress.flying);
        while let Some(chunk) = timeout(SILENCE, response.chunk())
            .await
            .map_err(|_late| self.silent())?
            .map_err(|e| End::Call(self.client.broken(&e)))?
        {
            let mut chunk = chunk;
            while !chunk.is_empty() {
                if blocks.is_empty() {
                    return Err(End::Call(
                        self.client.odd("it sends more than was asked for"),
                    ));
                }
                let block = blocks.start;
                let length = self.tree.range(block).length();
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                if let Some(bytes) = incoming.take(&mut chunk, length) {
                    blocks.start += 1;
                    self.keep(landed, block, bytes).await?;
                }
            }
        }
        if blocks.is_empty() {
            Ok(())
        } else {
            let early = self.client.unreachable("its answer ended early".into());
            Err(End::Call(early))
        }
    }

    /// Proves a block, and writes it if it is right.
    async fn keep(&self, landed: &mut Landed, block: u64, bytes: Bytes) -> Result<(), End> {
        // 0.3 ms, less than a hop to another thread disturbs.
        if !self.tree.holds(block, &bytes) {
            landed.wrong.push(block);
            return Ok(());
        }
        let (destination, range) = (self.destination.clone(), self.tree.range(block));
        let written = tokio::task::spawn_blocking(move || destination.write(range, &bytes)).await;
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(End::Disk(error)),
            Err(_panicked) => return Err(End::Call(self.client.odd("a block is lost"))),
        }
        self.progress
            .held
            .fetch_add(range.length(), Ordering::Relaxed);
        landed.stored.push(block);
        Ok(())
    }

    /// Whether the head promises the bytes that were asked for, of the representation that was asked for.
    /// A store or a mirror has validators of its own; there the blocks alone tell.
    fn check(
        &self,
        response: &reqwest::Response,
        elsewhere: bool,
        start: u64,
        end: u64,
    ) -> Result<(), End> {
        let header = |name| response.headers().get(name).and_then(|v| v.to_str().ok());
        let odd = |what: &str| Err(End::Call(self.client.odd(what)));
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return odd(&format!("it answers a range with {}", response.status()));
        }
        let want = format!("bytes {start}-{}/{}", end - 1, self.tree.length());
        if header(CONTENT_RANGE) != Some(want.as_str()) {
            return odd("it sends another range than was asked for");
        }
        if !elsewhere && header(ETAG) != Some(self.etag.as_str()) {
            return odd("it sends another file than was asked for");
        }
        Ok(())
    }

    fn silent(&self) -> End {
        let seconds = SILENCE.as_secs();
        let why = format!("nothing came for {seconds} s");
        End::Call(self.client.unreachable(why))
    }
}

/// The block that comes in, counted as flying until it is here or given up.
struct Incoming<'a> {
    block: BytesMut,
    flying: &'a AtomicU64,
}

impl<'a> Incoming<'a> {
    fn new(flying: &'a AtomicU64) -> Self {
        Self {
            block: BytesMut::new(),
            flying,
        }
    }

    /// Takes from `chunk` what the block of `length` bytes still needs; gives it when it is all there.
    fn take(&mut self, chunk: &mut Bytes, length: usize) -> Option<Bytes> {
        self.block.reserve(length - self.block.len());
        let part = chunk.split_to(chunk.len().min(length - self.block.len()));
        self.block.extend_from_slice(&part);
        self.flying.fetch_add(part.len() as u64, Ordering::Relaxed);
        if self.block.len() < length {
            return None;
        }
        self.flying.fetch_sub(length as u64, Ordering::Relaxed);
        Some(self.block.split().freeze())
    }
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        let left = self.block.len() as u64;
        self.flying.fetch_sub(left, Ordering::Relaxed);
    }
}
