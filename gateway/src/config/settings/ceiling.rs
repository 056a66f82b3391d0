//! The most memory that the settings let the process take.

use std::fmt;

use super::{Inspect, Settings, Speaks};
use crate::admission::rates;
use crate::webhook::sender;

/// The most memory the process takes under attack, and its terms; all in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ceiling {
    /// Code, tables, database, allocator.
    pub base: u64,
    /// Buffers of uploads.
    pub part_budget: u64,
    /// Verified blocks, and answers.
    pub cache: u64,
    /// Frames that upload connections hold in flight.
    pub uploads: u64,
    /// Blocks of pieces that are being joined.
    pub joins: u64,
    /// Askers whose requests are counted.
    pub rates: u64,
    /// Calls of scripts on the work lane.
    pub scripts: u64,
    /// Calls of adapters that wait for clouds.
    pub clouds: u64,
    /// Webhooks that come in: each as it came, and as its row is written.
    pub hooks: u64,
    /// Webhooks that go out: requests on their way, and what is read ahead and not written yet.
    pub webhooks: u64,
    /// Connections of HTTP/2 and 3.
    pub h2: u64,
    /// All other connections.
    pub connections: u64,
}

impl Ceiling {
    /// All terms together.
    pub fn total(self) -> u64 {
        self.base
            + self.part_budget
            + self.cache
            + self.uploads
            + self.joins
            + self.rates
            + self.scripts
            + self.clouds
            + self.hooks
            + self.webhooks
            + self.h2
            + self.connections
    }
}

impl fmt::Display for Ceiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        write!(
            f,
            "{} MiB (base {}, part budget {}, cache {}, uploads {}, joins {}, rates {}, scripts {}, clouds {}, webhooks in {}, webhooks out {}, HTTP/2 and 3 {}, other connections {})",
            mib(self.total()),
            mib(self.base),
            mib(self.part_budget),
            mib(self.cache),
            mib(self.uploads),
            mib(self.joins),
            mib(self.rates),
            mib(self.scripts),
            mib(self.clouds),
            mib(self.hooks),
            mib(self.webhooks),
            mib(self.h2),
            mib(self.connections)
        )
    }
}

impl Settings {
    /// The most memory the process takes; ordinary load stays near the first three terms.
    pub fn ceiling(&self) -> Ceiling {
        const BASE: u64 = 96 << 20;
        // What was read, a frame that waits beside it, and the rest of one that the part before had no room for.
        const PER_UPLOAD: u64 = 3 * boxgate_storage::buffer::CHARGE_BYTES as u64;
        // A block on its way, one that is read ahead, and what is behind them in the writer.
        const PER_JOIN: u64 = 4 << 20;
        // What a call may hold, which it is watched for.
        const PER_WORKER: u64 = 16 << 20;
        // The same of one that asks a cloud.
        const PER_CLOUD: u64 = 4 << 20;
        // A body of 90 KiB, what is read of its answer, and its connection.
        const PER_ATTEMPT: u64 = 128 << 10;
        const PER_CONNECTION: u64 = 64 << 10;
        // What a record that is not whole, and one that is not sent, wait in.
        const PER_TLS: u64 = 64 << 10;
        let uploads = self.uploads.max_in_progress as u64;
        let per_inspection = match self.vagrant_cloud.inspect {
            Inspect::Never => 0,
            Inspect::Warn | Inspect::Refuse => crate::inspect::MEMORY_BYTES,
        };
        let speaks =
            |speaks: &dyn Fn(Speaks) -> bool| self.listeners.iter().any(|l| speaks(l.speaks));
        let has_tls = speaks(&|speaks| speaks != Speaks::Plain);
        let per_connection = PER_CONNECTION + if has_tls { PER_TLS } else { 0 };
        let h2 = if has_tls {
            self.limits.h2_connections as u64
        } else {
            0
        };
        let others = (self.limits.connections as u64).saturating_sub(uploads + h2);
        Ceiling {
            base: BASE,
            part_budget: self.uploads.part_budget_bytes,
            cache: self.cache.size_bytes.saturating_add(self.answers_bytes),
            uploads: uploads * (PER_UPLOAD + per_inspection),
            joins: (self.uploads.joins_in_progress as u64).saturating_mul(PER_JOIN),
            // The last one is of those who send uploads.
            rates: (self.rates.len() as u64 + 1) * self.limits.rate_keys * rates::KEY_BYTES,
            scripts: (self.scripts.workers as u64).saturating_mul(PER_WORKER),
            clouds: (self.providers.at_once as u64).saturating_mul(PER_CLOUD),
            hooks: 2 * (self.hooks.at_once as u64).saturating_mul(self.hooks.body_bytes as u64),
            webhooks: (self.webhooks.at_once as u64).saturating_mul(PER_ATTEMPT)
                + sender::WAITING_BYTES,
            h2: h2.saturating_mul(u64::from(self.server.h2_window_bytes)),
            connections: others.saturating_mul(per_connection),
        }
    }
}
