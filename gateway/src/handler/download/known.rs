//! A file that anybody may have, as it was opened and described before: what is left to do for a request for it.

use std::sync::Arc;
use std::time::SystemTime;

use boxgate_storage::layer::files::RememberedFile;
use boxgate_storage::metadata::catalog::Counted;
use boxgate_storage::range::ByteRange;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::BodyExt as _;

use super::{Download, FILE_FROM, with_body};
use crate::egress::FileBody;
use crate::gateway::DamageReport;
use crate::http::digest::{WANT_CONTENT_DIGEST, WANT_REPR_DIGEST};
use crate::http::precondition::{Decision, PastEnd, Representation, decide};
use crate::http::range::content_range;
use crate::server::{FileSender, OutboundBody};

/// The file behind a public name, and what all its answers say alike.
#[derive(Debug)]
pub struct KnownFile {
    etag: String,
    modified: Option<SystemTime>,
    length: u64,
    past_end: PastEnd,
    counted: Option<Counted>,
    headers: HeaderMap,
    file: RememberedFile,
    damage: Arc<DamageReport>,
}

impl KnownFile {
    /// Of a download whose answer has these `headers`.
    pub(super) fn new(
        download: &Download,
        etag: &str,
        mut headers: HeaderMap,
        (file, damage): (RememberedFile, Arc<DamageReport>),
    ) -> Self {
        // Their places; what they say is each answer's own.
        for name in [CONTENT_LENGTH, CONTENT_RANGE] {
            headers.insert(name, HeaderValue::from_static("0"));
        }
        Self {
            etag: etag.to_owned(),
            modified: download.modified,
            length: download.blob.length,
            past_end: download.past_end,
            counted: download.counted,
            headers,
            file,
            damage,
        }
    }

    /// Whether a request asks for a head that is not the usual one.
    pub(super) fn is_told_otherwise(asked: &HeaderMap) -> bool {
        let names = [WANT_REPR_DIGEST, WANT_CONTENT_DIGEST];
        names.iter().any(|name| asked.contains_key(name))
    }

    /// The answer to GET, and what it counts for, where the kernel can send it at once; all else is answered as if
    /// nothing were known.
    pub fn answer(
        &self,
        head: &Parts,
        sender: &FileSender,
    ) -> Option<(Response<OutboundBody>, Option<Counted>)> {
        let asked = &head.headers;
        if Self::is_told_otherwise(asked) {
            return None;
        }
        let representation = Representation {
            etag: &self.etag,
            last_modified: self.modified,
            length: self.length,
        };
        let (status, range) = match decide(&representation, &head.method, asked, self.past_end) {
            Decision::Full => (StatusCode::OK, ByteRange::whole(self.length)),
            Decision::Partial(range) => (StatusCode::PARTIAL_CONTENT, range),
            Decision::NotModified | Decision::PreconditionFailed | Decision::NotSatisfiable => {
                return None;
            }
        };
        if range.length() < FILE_FROM {
            return None;
        }
        let (file, damage) = (self.file.again()?, Arc::clone(&self.damage));
        // What fails here fails again in the usual way, where it is told.
        let body = FileBody::at_once(file, sender.clone(), range, damage).ok()??;
        let mut headers = self.headers.clone();
        if status == StatusCode::PARTIAL_CONTENT {
            headers.insert(CONTENT_RANGE, content_range(range, self.length));
        } else {
            headers.remove(CONTENT_RANGE);
        }
        headers.insert(CONTENT_LENGTH, range.length().into());
        let counted = self.counted.filter(|_| range.start() == 0);
        Some((with_body(status, headers, body.boxed_unsync()), counted))
    }

    /// Memory that it takes, about, without its head.
    pub fn weight(&self) -> u32 {
        self.file.weight()
    }
}
