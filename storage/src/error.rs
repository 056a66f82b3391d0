//! The one error that leaves this crate: what went wrong, with what, and whose fault it is.
//!
//! [`ErrorKind`] stays exhaustive on purpose: whoever turns kinds into answers gets a compile error
//! for a new one.

use std::fmt;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What happened, from the point of view of whoever must react to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The caller asked for something that no rule allows (a name outside the grammar, a range past the end).
    Invalid,
    /// The named thing does not exist.
    NotFound,
    /// The name is taken.
    Conflict,
    /// The caller may not do this.
    Forbidden,
    /// The bytes offered do not start where the upload ends, in bytes.
    OffsetMismatch {
        /// The next byte the upload takes.
        expected: u64,
        /// The byte the caller offered.
        given: u64,
    },
    /// The bytes that arrived are more or fewer than were declared.
    LengthMismatch {
        /// The declared length in bytes.
        expected: u64,
        /// The bytes that arrived.
        given: u64,
    },
    /// The bytes that arrived have another digest than was declared.
    DigestMismatch,
    /// More bytes than the limit, in bytes, allows.
    TooLarge {
        /// The largest length taken, in bytes.
        limit: u64,
    },
    /// The caller has as many of them as the limit allows; one must end first.
    TooMany {
        /// The most at once.
        limit: u64,
    },
    /// A newer writer owns the upload, or it moved on; nothing was changed.
    Fenced,
    /// The upload or blob is known to be gone for good.
    Gone,
    /// Stored bytes are not what was hashed when they came in.
    Damaged,
    /// The store or its quota is full; try again when there is room.
    Full,
    /// All of it is there, and what must be asked before it becomes visible says no, or not yet: see
    /// [`crate::metadata::uploads::Withheld`] in the source.
    Withheld,
    /// A backend does not answer or is too busy; try again later.
    Unavailable,
    /// A defect of ours or a broken machine; the cause is in the source.
    Internal,
}

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The same request fails again.
    Never,
    /// The same request may succeed later.
    Later,
    /// Ask for the offset, then go on from there.
    AtOffset,
}

impl ErrorKind {
    /// Whether trying again can help.
    pub fn retry(self) -> Retry {
        match self {
            Self::Invalid
            | Self::NotFound
            | Self::Conflict
            | Self::Forbidden
            | Self::LengthMismatch { .. }
            | Self::DigestMismatch
            | Self::TooLarge { .. }
            | Self::Gone
            | Self::Damaged => Retry::Never,
            Self::OffsetMismatch { .. } | Self::Fenced => Retry::AtOffset,
            Self::TooMany { .. }
            | Self::Full
            | Self::Withheld
            | Self::Unavailable
            | Self::Internal => Retry::Later,
        }
    }
}

/// A failure: its kind, the operation, and what it was done to.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    op: &'static str,
    subject: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A failure of `op` on `subject`, without a deeper cause.
    pub fn new(kind: ErrorKind, op: &'static str, subject: impl Into<String>) -> Self {
        Self {
            kind,
            op,
            subject: subject.into(),
            source: None,
        }
    }

    /// The same failure with its cause.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What happened.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The operation that failed, such as `blob.open`.
    pub fn op(&self) -> &'static str {
        self.op
    }

    /// What it was done to; safe to show to the caller who named it.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The failure of a file or socket operation; a full volume becomes [`ErrorKind::Full`].
    pub fn io(op: &'static str, subject: impl Into<String>, source: std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::Full,
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Internal,
        };
        Self::new(kind, op, subject).with_source(source)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            ErrorKind::Invalid => "invalid",
            ErrorKind::NotFound => "not found",
            ErrorKind::Conflict => "already exists",
            ErrorKind::Forbidden => "not allowed",
            ErrorKind::OffsetMismatch { expected, given } => {
                return write!(
                    f,
                    "{}: {}: offset is {expected}, not {given}",
                    self.op, self.subject
                );
            }
            ErrorKind::LengthMismatch { expected, given } => {
                return write!(
                    f,
                    "{}: {}: {expected} bytes were declared, {given} arrived",
                    self.op, self.subject
                );
            }
            ErrorKind::DigestMismatch => "digest differs from the declared one",
            ErrorKind::TooLarge { limit } => {
                return write!(f, "{}: {}: more than {limit} bytes", self.op, self.subject);
            }
            ErrorKind::TooMany { limit } => {
                return write!(f, "{}: {}: {limit} at most", self.op, self.subject);
            }
            ErrorKind::Fenced => "another writer owns the upload",
            ErrorKind::Gone => "gone",
            ErrorKind::Damaged => "stored bytes are damaged",
            ErrorKind::Full => "no space left",
            ErrorKind::Withheld => "not published",
            ErrorKind::Unavailable => "not available now",
            ErrorKind::Internal => "failed",
        };
        write!(f, "{}: {}: {what}", self.op, self.subject)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|e| e.as_ref() as _)
    }
}

impl Error {
    /// The cause of that type, however deep.
    pub fn caused_by<T: std::error::Error + 'static>(&self) -> Option<&T> {
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            if let Some(found) = cause.downcast_ref() {
                return Some(found);
            }
            next = cause.source();
        }
        None
    }
}

/// One line with the whole chain of causes, for the log.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
