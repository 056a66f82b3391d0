//! Giving way: an upload whose client is slow commits the beginning of its part as a tail and lets go of the
//! memory that others wait for. It goes on as one that was resumed does, with its hashers where they are.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Active, ended};
use crate::buffer::BufferPool;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::uploads::UploadState as RowState;
use crate::upload::pressure::Holding;
use crate::upload::stats::count;

impl Active {
    /// Gives way if that was asked for and others still wait. What waits for a digest cannot be committed, and
    /// keeps its memory.
    pub(super) async fn give_way_if_asked(&mut self) -> Result<()> {
        let asked = self.holding.as_ref().is_some_and(Holding::is_asked);
        if !asked || self.held.is_some() || self.engine.options.pool.waiting() == 0 {
            return Ok(());
        }
        self.hash(0);
        self.hand_over().await?;
        let step = self.state.lock().step_so_far();
        self.gather(step);
        self.seal();
        self.settle().await?;
        self.committed_so_far().await?;
        // The store's end of it holds the bytes until now.
        self.sink = None;
        self.memory = None;
        self.holding = None;
        self.gave_way = Some(Instant::now());
        count(&self.engine.counters.uploads_gave_way, 1);
        Ok(())
    }

    /// Waits until all that was handed over is committed.
    async fn committed_so_far(&mut self) -> Result<()> {
        let handed = self.state.lock().handed();
        if self.committed.wait_for(|at| *at >= handed).await.is_err() {
            return Err(self.failure().await);
        }
        Ok(())
    }

    /// Takes up again what gave way: memory for all of the part first, then what is stored of it.
    pub(super) async fn come_back(&mut self) -> Result<()> {
        if self.sink.is_some() {
            return Ok(());
        }
        if let Some(gave_way) = self.gave_way {
            others_passed(&self.engine.options.pool, gave_way + ONCE_IN).await;
        }
        let id = self.stored.fence.id;
        let row = self.engine.options.ledger.upload(id).await?;
        let row = row.filter(|row| {
            row.epoch == self.stored.fence.epoch
                && row.state == RowState::Open
                && row.offset == self.state.lock().committed()
        });
        let row = row.ok_or_else(|| {
            Error::new(ErrorKind::Fenced, "upload.write", self.stored.subject())
                .with_source(ended("upload.write", id))
        })?;
        let engine = self.engine.clone();
        let mut memory = engine.memory_for(&row, &self.stored, &self.state).await;
        let sink = engine
            .reopened(&row, &self.stored, row.offset, memory.as_mut())
            .await?;
        self.memory = memory;
        self.sink = Some(sink);
        self.hold_memory();
        Ok(())
    }

    /// Enters this upload among those that may be asked to give way, if it holds memory for its part.
    pub(super) fn hold_memory(&mut self) {
        let at = self.assembler.end();
        let lacking = self.state.lock().part_end(at).saturating_sub(at);
        let spared = self.gave_way.map_or(self.held_since, |at| at + ONCE_IN);
        let holders = &self.engine.holders;
        self.holding = self
            .memory
            .is_some()
            .then(|| holders.enter(lacking, spared));
    }
}

/// Resolves once nobody waits for memory any more, or it is `until`.
async fn others_passed(pool: &BufferPool, until: Instant) {
    while pool.waiting() > 0 && Instant::now() < until {
        sleep(LOOK_EVERY).await;
    }
}

/// An upload gives way at most once in this time, and lets others pass for no longer.
const ONCE_IN: Duration = Duration::from_secs(30);
/// How often it looks whether others still wait.
const LOOK_EVERY: Duration = Duration::from_millis(200);
