//! What a caller, a connection and a request may take, and how long tokens live.

use std::time::Duration;

use super::judge::Judge;
use crate::config::cidr::Blocks;
use crate::config::file;
use crate::config::machine::Machine;
use crate::config::units::{ByteSize, Span};

/// Settings of tokens.
#[derive(Debug, Clone)]
pub struct Auth {
    /// Life of a session.
    pub session_ttl: Duration,
    /// Life of a session that was asked to stay.
    pub stay_logged_in_ttl: Duration,
    /// Life of a download link.
    pub download_link_ttl: Duration,
    /// Longest life of a service account's key.
    pub service_account_max_expiry: Duration,
    /// Failed tries that one address has per minute.
    pub login_failures_per_minute: u32,
}

/// Limits.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Free space below which no upload begins.
    pub min_free_bytes: u64,
    /// Largest JSON body.
    pub json_body_bytes: usize,
    /// Deepest JSON body.
    pub json_depth: usize,
    /// Time that a JSON body may take to arrive.
    pub json_timeout: Duration,
    /// Largest request head.
    pub head_bytes: usize,
    /// Most header fields.
    pub header_fields: usize,
    /// Longest request target.
    pub uri_bytes: usize,
    /// Largest trailer section of a request.
    pub trailer_bytes: usize,
    /// Most fields in it.
    pub trailer_fields: usize,
    /// Connections at once.
    pub connections: usize,
    /// Connections at once from one address (IPv6: from one /64).
    pub connections_per_address: usize,
    /// Bytes of answers that all connections together leave unsent in the kernel, each at least 64 KiB.
    pub unsent_bytes: u64,
    /// Requests of one asker that are worked on at once.
    pub requests_at_once: usize,
    /// How long a request beyond them waits for its turn.
    pub requests_wait: Duration,
    /// Askers that each policy of `[rates]` remembers.
    pub rate_keys: u64,
    /// Bytes of all bodies together that come in, in a second; 0 is as many as come.
    pub bytes_in: u64,
    /// The same of those that go out.
    pub bytes_out: u64,
    /// Addresses whose requests are not counted.
    pub rate_exempt: Blocks,
    /// Connections of HTTP/2 and 3 at once.
    pub h2_connections: usize,
    /// Requests at once on one of them.
    pub h2_streams: u32,
    /// Largest request head on one of them, unpacked.
    pub h2_header_list_bytes: u32,
    /// Requests that a client of HTTP/2 may give up before they are looked at.
    pub h2_pending_resets: usize,
    /// Requests of one connection of HTTP/2 that may be broken.
    pub h2_broken_streams: usize,
    /// Streams of HTTP/3's own that a client may open.
    pub h3_control_streams: u32,
    /// Most parts of a form.
    pub multipart_parts: usize,
    /// Largest head of a part.
    pub multipart_part_head_bytes: usize,
}

impl Judge<'_> {
    pub(super) fn auth(&mut self, auth: &file::AuthFile) -> Auth {
        if auth.login_failures_per_minute == 0 {
            self.wrong("auth.login_failures_per_minute", "must be more than 0");
        }
        // Who has a link has a right without a credential; it must end by itself.
        if auth.download_link_ttl > Span::seconds(7 * 24 * 3600) {
            self.wrong("auth.download_link_ttl", "must be 7d or less");
        }
        Auth {
            session_ttl: self.time("auth.session_ttl", auth.session_ttl),
            stay_logged_in_ttl: self.time("auth.stay_logged_in_ttl", auth.stay_logged_in_ttl),
            download_link_ttl: self.time("auth.download_link_ttl", auth.download_link_ttl),
            service_account_max_expiry: self.time(
                "auth.service_account_max_expiry",
                auth.service_account_max_expiry,
            ),
            login_failures_per_minute: auth.login_failures_per_minute,
        }
    }

    pub(super) fn limits(&mut self, limits: &file::LimitsFile, machine: Machine) -> Limits {
        // hyper reads a head into a buffer of at least 8 KiB and takes no target above 64 KiB.
        let head_bytes = self.size(
            "limits.head_bytes",
            limits.head_bytes,
            ByteSize::kib(8),
            ByteSize::kib(256),
        );
        let connections = match limits.connections {
            // A thousand files are for the database, the store and ourselves.
            0 => usize::try_from(machine.open_files.saturating_sub(1000) / 4 * 3)
                .unwrap_or(usize::MAX)
                .clamp(64, 20_000),
            given => given,
        };
        Limits {
            min_free_bytes: limits.min_free.0,
            json_body_bytes: self.size(
                "limits.json_body",
                limits.json_body,
                ByteSize::kib(1),
                ByteSize::mib(64),
            ),
            json_depth: self.count("limits.json_depth", limits.json_depth),
            json_timeout: self.time("limits.json_timeout", limits.json_timeout),
            head_bytes,
            header_fields: self.count("limits.header_fields", limits.header_fields),
            uri_bytes: self.size(
                "limits.uri_bytes",
                limits.uri_bytes,
                ByteSize(256),
                ByteSize::kib(63),
            ),
            // hyper reads no more of it than of a head.
            trailer_bytes: self.size(
                "limits.trailer_bytes",
                limits.trailer_bytes,
                ByteSize(256),
                ByteSize(head_bytes as u64),
            ),
            trailer_fields: self.count("limits.trailer_fields", limits.trailer_fields),
            connections,
            connections_per_address: self.count(
                "limits.connections_per_address",
                limits.connections_per_address,
            ),
            unsent_bytes: match limits.unsent.0 {
                // The kernel is short of it at about a twelfth of the memory, and others use it as well.
                0 => machine.memory_bytes / 128,
                given => given,
            },
            requests_at_once: self.count("limits.requests_at_once", limits.requests_at_once),
            requests_wait: self.time("limits.requests_wait", limits.requests_wait),
            rate_keys: self.rate_keys(limits.rate_keys),
            bytes_in: limits.bytes_in.0,
            bytes_out: limits.bytes_out.0,
            rate_exempt: self
                .blocks("limits.rate_exempt", &limits.rate_exempt)
                .into(),
            h2_connections: self.count("limits.h2_connections", limits.h2_connections),
            h2_streams: self.few("limits.h2_streams", limits.h2_streams, 1),
            h2_header_list_bytes: u32::try_from(self.size(
                "limits.h2_header_list",
                limits.h2_header_list,
                ByteSize::kib(4),
                ByteSize::kib(256),
            ))
            .unwrap_or(u32::MAX),
            h2_pending_resets: self.count("limits.h2_pending_resets", limits.h2_pending_resets),
            h2_broken_streams: self.count("limits.h2_broken_streams", limits.h2_broken_streams),
            // RFC 9114 §6.2: the control stream and both of QPACK's.
            h3_control_streams: self.few("limits.h3_control_streams", limits.h3_control_streams, 3),
            multipart_parts: self.count("limits.multipart_parts", limits.multipart_parts),
            multipart_part_head_bytes: self.size(
                "limits.multipart_part_head",
                limits.multipart_part_head,
                ByteSize::kib(1),
                ByteSize::kib(256),
            ),
        }
    }
}
