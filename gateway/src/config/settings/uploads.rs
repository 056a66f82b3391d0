//! Uploads, and whose pages may send them.

use std::time::Duration;

use super::judge::Judge;
use super::share_of_memory;
use crate::config::file;
use crate::config::machine::Machine;

/// Whether base64 text is decoded without being declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeBase64 {
    /// When the first bytes are base64 text of an archive.
    Auto,
    /// Only when the part says so.
    Never,
}

/// Settings of uploads.
#[derive(Debug, Clone)]
pub struct Uploads {
    /// The store that they go to.
    pub store: String,
    /// Memory for upload buffers.
    pub part_budget_bytes: u64,
    /// The longest upload.
    pub max_length_bytes: u64,
    /// Whether base64 text is decoded without being declared.
    pub decode_base64: DecodeBase64,
    /// Uploads at once.
    pub max_in_progress: usize,
    /// How long an upload beyond them waits for its turn.
    pub queue_wait: Duration,
    /// Parts of one upload that are made durable at once.
    pub parts_in_flight: usize,
    /// After how long what came of a part is committed, however little.
    pub tail_commit: Duration,
    /// So many bytes of whole parts are committed together; 0 commits each part by itself.
    pub commit_bytes: u64,
    /// After how long whole parts wait no more for others.
    pub commit_within: Duration,
    /// How long an open upload may rest.
    pub idle_timeout: Duration,
    /// Longest life of an open upload.
    pub max_age: Duration,
    /// Open uploads of one person, service accounts counted in.
    pub open_per_principal: u64,
    /// Open uploads into one organization.
    pub open_per_organization: u64,
    /// How long a finished upload without a target is kept.
    pub untargeted_ttl: Duration,
    /// How long after each try a held upload is asked about again; after the last it is quarantined.
    pub held_pauses: Vec<Duration>,
    /// How long a client waits for an answer about its upload.
    pub held_wait: Duration,
    /// How long a quarantined upload is kept.
    pub quarantine_ttl: Duration,
    /// How long an upload in chunks rests until a new chunk 0 begins another.
    pub chunk_idle: Duration,
    /// Most pieces of a final upload.
    pub final_pieces: usize,
    /// Final uploads that are joined at once.
    pub joins_in_progress: usize,
    /// Final uploads that wait in memory to be joined.
    pub joins_waiting: usize,
    /// Longest body of one request of a resumable upload.
    pub max_append_bytes: Option<u64>,
    /// Where clients send the bytes of an upload, without a slash at the end.
    pub public_url: Option<String>,
}

/// Settings of uploads by tus and the IETF's protocol.
#[derive(Debug, Clone)]
pub struct Files {
    /// Whose pages may upload from a browser.
    pub cors_origins: CorsOrigins,
}

/// Whose pages may upload from a browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CorsOrigins {
    /// Everybody's.
    Any,
    /// Those of these origins.
    These(Vec<String>),
}

impl Judge<'_> {
    /// Origins as browsers send them (RFC 6454 §6.2): a URL without a path, or `*`.
    pub(super) fn origins(&mut self, texts: &[String]) -> CorsOrigins {
        if texts.iter().any(|text| text == "*") {
            return CorsOrigins::Any;
        }
        let origins = self.public_urls("files.cors_origins", texts);
        CorsOrigins::These(origins.iter().map(|o| o.to_ascii_lowercase()).collect())
    }

    pub(super) fn uploads(&mut self, uploads: &file::UploadsFile, machine: Machine) -> Uploads {
        let part_budget_bytes = match uploads.part_budget.0 {
            0 => share_of_memory(machine),
            // One buffer and what stands around it; below this no upload would move.
            given if given < 8 << 20 => {
                self.wrong(
                    "uploads.part_budget",
                    "must be 8MiB or more, or 0 to have it computed",
                );
                given
            }
            given => given,
        };
        Uploads {
            store: uploads.store.clone(),
            part_budget_bytes,
            max_length_bytes: self.positive("uploads.max_length", uploads.max_length.0),
            decode_base64: self
                .choice(
                    "uploads.decode_base64",
                    &uploads.decode_base64,
                    &[("auto", DecodeBase64::Auto), ("never", DecodeBase64::Never)],
                    "expected \"auto\" or \"never\"",
                )
                .unwrap_or(DecodeBase64::Never),
            max_in_progress: self.count("uploads.max_in_progress", uploads.max_in_progress),
            queue_wait: self.time("uploads.queue_wait", uploads.queue_wait),
            parts_in_flight: self.count("uploads.parts_in_flight", uploads.parts_in_flight),
            tail_commit: self.time("uploads.tail_commit", uploads.tail_commit),
            commit_bytes: uploads.commit_bytes.0,
            commit_within: self.time("uploads.commit_within", uploads.commit_within),
            idle_timeout: self.time("uploads.idle_timeout", uploads.idle_timeout),
            max_age: self.time("uploads.max_age", uploads.max_age),
            open_per_principal: self
                .positive("uploads.open_per_principal", uploads.open_per_principal),
            open_per_organization: self.positive(
                "uploads.open_per_organization",
                uploads.open_per_organization,
            ),
            untargeted_ttl: self.time("uploads.untargeted_ttl", uploads.untargeted_ttl),
            held_pauses: self.pauses("uploads.held_pauses", &uploads.held_pauses),
            held_wait: self.time("uploads.held_wait", uploads.held_wait),
            quarantine_ttl: self.time("uploads.quarantine_ttl", uploads.quarantine_ttl),
            chunk_idle: self.time("uploads.chunk_idle", uploads.chunk_idle),
            final_pieces: self.count("uploads.final_pieces", uploads.final_pieces),
            joins_in_progress: self.count("uploads.joins_in_progress", uploads.joins_in_progress),
            joins_waiting: self.count("uploads.joins_waiting", uploads.joins_waiting),
            max_append_bytes: (uploads.max_append_size.0 > 0).then_some(uploads.max_append_size.0),
            public_url: match uploads.public_url.as_str() {
                "" => None,
                url => self
                    .public_urls("uploads.public_url", &[url.to_owned()])
                    .pop(),
            },
        }
    }
}
