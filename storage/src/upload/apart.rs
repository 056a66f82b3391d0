//! A piece of an upload whose store takes nothing out of order: it becomes bytes of its own, which the follower
//! brings behind those before it, and which go once the offset covers them.
//!
//! The key of these bytes is in the trash from before the first of them is stored until the piece is held: whatever
//! ends in between, nothing stays that no row names.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::task::JoinHandle;

use super::assembly::Assembly;
use super::engine::Inner;
use super::part::PartAssembler;
use super::state::buffers_for;
use crate::blob::BlobKey;
use crate::buffer::Reservation;
use crate::error::{Error, ErrorKind, Result, chain};
use crate::store::{DeleteBlob, PartIndex, Receipt, UploadSink};

/// The bytes of one piece on their way to the store.
#[derive(Debug)]
pub(super) struct Apart {
    engine: Arc<Inner>,
    key: BlobKey,
    sink: Option<Box<dyn UploadSink>>,
    delete: Option<Arc<dyn DeleteBlob>>,
    part_bytes: u64,
    /// Of the piece, where it is known.
    length: Option<u64>,
    assembler: PartAssembler,
    /// The rest of what is reserved for the current part.
    memory: Option<Reservation>,
    /// Runs of the current part.
    runs: FuturesUnordered<BoxFuture<'static, Result<()>>>,
    /// Parts on their way.
    sealing: VecDeque<JoinHandle<Result<Receipt>>>,
    /// The end of a piece of unknown length, which the store keeps apart until it is told that nothing follows.
    tail: Option<BlobKey>,
}

impl Apart {
    /// Makes room for a piece under a key of its own.
    pub(super) async fn begin(assembly: &Assembly, length: Option<u64>) -> Result<Self> {
        let (engine, stored) = (Arc::clone(&assembly.engine), &assembly.stored);
        let key = BlobKey::random();
        let until = engine.options.clock.now().plus(HELD_WITHIN);
        let ledger = &engine.options.ledger;
        ledger.set_aside(key, &stored.store_name, until).await?;
        let part_bytes = assembly.part_bytes;
        let write = &stored.store.write;
        Ok(Self {
            sink: Some(write.begin(&key, part_bytes, length).await?),
            delete: stored.store.delete.clone(),
            engine,
            key,
            part_bytes,
            length,
            assembler: PartAssembler::new(),
            memory: None,
            runs: FuturesUnordered::new(),
            sealing: VecDeque::new(),
            tail: None,
        })
    }

    pub(super) fn assembler(&mut self) -> &mut PartAssembler {
        &mut self.assembler
    }

    /// Sees to it that there is a buffer to fill. The memory of a part is taken at once: with a share each, several
    /// pieces would wait for one another for ever.
    pub(super) async fn room(&mut self) -> Result<()> {
        if !self.assembler.wants_buffer() {
            return Ok(());
        }
        if self.memory.is_none() {
            while self.sealing.len() >= SEALING_AT_ONCE {
                self.sealed().await?;
            }
            let at = self.assembler.end();
            let part_end = at - at % self.part_bytes + self.part_bytes;
            let to = self.length.map_or(part_end, |length| length.min(part_end));
            let memory = self.engine.options.pool.reserve(buffers_for(at, to));
            self.memory = Some(self.engine.memory(memory).await);
        }
        let buffer = self.memory.as_mut().and_then(Reservation::take);
        let buffer = buffer.ok_or_else(|| self.failed("a part is longer than its memory"))?;
        self.assembler.give(buffer);
        Ok(())
    }

    /// Gives the current buffer to the store, and the part when it is whole.
    pub(super) async fn hand_over(&mut self) -> Result<()> {
        let Some(run) = self.assembler.rest() else {
            return Ok(());
        };
        let end = run.end();
        let written = self.sink()?.write(run);
        self.runs.push(written);
        if end.is_multiple_of(self.part_bytes) || Some(end) == self.length {
            self.seal(end).await?;
        }
        Ok(())
    }

    async fn seal(&mut self, end: u64) -> Result<()> {
        while let Some(written) = self.runs.next().await {
            written?;
        }
        self.memory = None;
        let part = (end - 1) / self.part_bytes;
        let part = PartIndex(u32::try_from(part).unwrap_or(u32::MAX));
        let sealed = self.sink()?.seal(part);
        self.sealing.push_back(self.engine.background.spawn(sealed));
        Ok(())
    }

    /// Waits for the oldest part that is on its way.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it on its way, to be waited for.
    async fn sealed(&mut self) -> Result<()> {
        let Some(sealing) = self.sealing.front_mut() else {
            return Ok(());
        };
        let sealed = sealing.await;
        self.sealing.pop_front();
        let receipt = sealed.map_err(|e| self.failed("a part").with_source(e))??;
        self.tail = receipt.tail.map(|tail| tail.key);
        Ok(())
    }

    /// Makes the piece durable; returns the key of its bytes.
    pub(super) async fn finish(&mut self) -> Result<BlobKey> {
        self.hand_over().await?;
        let end = self.assembler.end();
        if !end.is_multiple_of(self.part_bytes) && self.length.is_none() {
            self.seal(end).await?;
        }
        while !self.sealing.is_empty() {
            self.sealed().await?;
        }
        let sink = self.sink.take();
        let sink = sink.ok_or_else(|| self.failed("it is finished already"))?;
        sink.commit().await?;
        if let (Some(tail), Some(delete)) = (self.tail, &self.delete)
            && let Err(e) = delete.delete(&tail).await
        {
            tracing::warn!(key = %tail, error = chain(&e), "bytes stay until they are found to be nobody's");
        }
        Ok(self.key)
    }

    /// Lets go of what is not held: it goes with the next sweep. What is held by now, whoever knows of it, stays.
    pub(super) async fn leave(mut self) {
        drop((self.assembler, self.memory));
        while let Some(_given_up) = self.runs.next().await {}
        for sealing in self.sealing {
            let _given_up = sealing.await;
        }
        drop(self.sink);
        if let Err(e) = self.engine.options.ledger.hasten(self.key).await {
            let key = self.key;
            tracing::debug!(%key, error = chain(&e), "a piece that was cut stays for a while");
        }
    }

    fn sink(&mut self) -> Result<&mut Box<dyn UploadSink>> {
        let key = self.key;
        self.sink.as_mut().ok_or_else(|| {
            Error::new(ErrorKind::Internal, "upload.piece", key.to_string())
                .with_source("it is finished already")
        })
    }

    fn failed(&self, why: &'static str) -> Error {
        Error::new(ErrorKind::Internal, "upload.piece", self.key.to_string()).with_source(why)
    }
}

/// Parts of one piece that are on their way while another comes.
const SEALING_AT_ONCE: usize = 1;

/// How long one piece may take to come: what is not held by then is removed.
const HELD_WITHIN: Duration = Duration::from_hours(24);
