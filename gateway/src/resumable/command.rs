//! What the protocols have in common: the commands that a request can be, and the answers.

use std::time::Duration;

use boxgate_storage::clock::UnixMillis;
use boxgate_storage::digest::Digest;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde_json::Value;

use super::Owner;
use crate::http::headers::content_length;

/// A request's head, as the translators see it.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    /// The method that is meant ([`super::method`]).
    pub method: &'a Method,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Its query.
    pub query: Option<&'a str>,
}

impl RequestHead<'_> {
    /// Bytes of the body where the head tells: a request without `Content-Length` and without a coding
    /// has none (RFC 9112 §6.3).
    pub fn body_length(&self) -> Option<u64> {
        match content_length(self.headers) {
            None if !self.headers.contains_key(header::TRANSFER_ENCODING) => Some(0),
            length => length,
        }
    }

    /// Whether a body may come.
    pub fn has_body(&self) -> bool {
        self.body_length() != Some(0)
    }
}

/// What a client wants of uploads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadCommand {
    /// Begin one, perhaps with its first bytes.
    Create(Box<Create>),
    /// Tell where one stands; whoever still writes to it is ended.
    Head,
    /// Go on.
    Append(Append),
    /// Give one up, or forget a finished one.
    Cancel,
    /// Tell what this server can do.
    Discover,
}

/// When the body of a request is the end of its upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// When the upload is as long as it was declared to be (tus).
    WhenFull,
    /// With this body (`Upload-Complete: ?1`).
    Here,
    /// With a later one, however long it is now (`Upload-Complete: ?0`).
    Later,
}

/// Where the digest of one body is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checksum {
    /// In the head.
    Told(Digest),
    /// In a field behind the body, which names its algorithm only there.
    Trailer,
}

/// What a new upload is to others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Concat {
    /// Nothing.
    #[default]
    Alone,
    /// A piece: it publishes nothing by itself, and holds its bytes for those that are joined of it.
    Partial,
    /// Joined of the pieces at these URLs, in this order, as the client wrote them.
    Final(Vec<String>),
}

/// What becomes of uploads that the same sender left open under the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Older {
    /// They stay: each has an address of its own.
    Stay,
    /// They end with the first bytes of this one that are committed: the name is their only address.
    End,
}

/// A new upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Create {
    /// Bytes of the whole, if known yet.
    pub length: Option<u64>,
    /// When it ends.
    pub ends: Ends,
    /// What it becomes.
    pub owner: Owner,
    /// The protocol's own text, to be told again as it came.
    pub note: Option<String>,
    /// Digests of the whole.
    pub expected: Vec<Digest>,
    /// Digest of this body alone.
    pub checksum: Option<Checksum>,
    /// Whether first bytes come with it.
    pub has_body: bool,
    /// What it is to others.
    pub concat: Concat,
    /// What becomes of others under its name.
    pub older: Older,
}

/// More bytes of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    /// Where they go.
    pub offset: u64,
    /// When the upload ends.
    pub ends: Ends,
    /// Bytes of the whole, where this request tells.
    pub length: Option<u64>,
    /// Digests of the whole that this request tells.
    pub expected: Vec<Digest>,
    /// Digest of this body alone.
    pub checksum: Option<Checksum>,
    /// Bytes of this body, where its head tells.
    pub body_length: Option<u64>,
}

/// Where an upload stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Durable bytes.
    pub offset: u64,
    /// Bytes of the whole, once known.
    pub length: Option<u64>,
    /// Whether it is published.
    pub complete: bool,
    /// The protocol's own text, as it came.
    pub note: Option<String>,
    /// When it will be given up if nothing more comes.
    pub expires: Option<UnixMillis>,
    /// From now until then.
    pub left: Option<Duration>,
}

/// What a client is told, before a protocol puts it into words.
#[derive(Debug, Clone, Copy)]
pub enum Answer<'a> {
    /// A new upload, finished perhaps.
    Created {
        /// Its URL.
        location: &'a str,
        /// Where it stands.
        standing: &'a Standing,
        /// Whether first bytes came with the request.
        has_body: bool,
        /// What it became.
        outcome: Option<&'a Value>,
    },
    /// Where an upload stands.
    Standing(&'a Standing),
    /// More bytes are there.
    Appended {
        /// Where it stands.
        standing: &'a Standing,
        /// What it became.
        outcome: Option<&'a Value>,
    },
    /// It is given up.
    Cancelled,
}

/// What this server takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest upload in bytes.
    pub max_size: u64,
    /// Longest body of one request in bytes, if there is such a limit.
    pub max_append_size: Option<u64>,
}

/// Status, headers and, at times, a JSON document.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The protocol's headers.
    pub headers: HeaderMap,
    /// What it became, where the answer has room for it.
    pub body: Option<Value>,
}

impl Reply {
    /// Only a status.
    pub fn new(status: StatusCode) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body: None,
        }
    }

    /// The same with a header; text that no header can hold is left out.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: impl AsRef<str>) -> Self {
        if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
            self.headers.insert(name, value);
        }
        self
    }

    /// The same with a document.
    #[must_use]
    pub fn body(mut self, body: Option<&Value>) -> Self {
        self.body = body.cloned();
        self
    }
}
