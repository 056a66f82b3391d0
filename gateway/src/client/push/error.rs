//! Why a push ended without its file being published, each in one line that says what to do.

use std::path::PathBuf;

use crate::client::ClientError;

/// Why a push ended without its file being published.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The file cannot be read.
    #[error("cannot read {path}: {why}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// No box is empty.
    #[error("{path} is empty; an empty file is no box", path = .0.display())]
    Empty(PathBuf),
    /// Another push of the file is running.
    #[error("another push of {path} is running; wait for it", path = .0.display())]
    Running(PathBuf),
    /// The file is not what it was when the push began.
    #[error(
        "{path} has changed since its push began, so its parts do not fit together; nothing was \
         published. Push it anew with --afresh",
        path = .0.display()
    )]
    Changed(PathBuf),
    /// The file's kept push is another than the one that is wanted.
    #[error(
        "{path} is being pushed to {target} at {url}; go on with that, or give it up with --afresh",
        path = path.display()
    )]
    Elsewhere {
        /// The file.
        path: PathBuf,
        /// Where to.
        target: String,
        /// Which gateway.
        url: String,
    },
    /// The upload was ended from elsewhere.
    #[error(
        "the upload was given up on the gateway, by an administrator or since it rested for too \
         long; nothing was published. The same command begins afresh"
    )]
    Gone,
    /// Another client goes on with the upload in its own way.
    #[error(
        "another client sends this upload from its offset on; nothing was published. Push it anew \
         with --afresh"
    )]
    TakenOver,
    /// The gateway holds other bytes than the file has.
    #[error(
        "part {part} is held with other bytes than {path} has: it has changed since its push began; \
         nothing was published. Push it anew with --afresh",
        path = path.display()
    )]
    Differs {
        /// Which part.
        part: u64,
        /// The file.
        path: PathBuf,
    },
    /// What was published is not what the file holds.
    #[error(
        "what was published is not what {path} holds (blake3 {there} there, {here} here): it changed \
         while it was pushed. Push it again",
        path = path.display()
    )]
    WrongDigest {
        /// The file.
        path: PathBuf,
        /// BLAKE3 at the gateway.
        there: String,
        /// BLAKE3 of the file.
        here: String,
    },
    /// Nothing moved for as many tries as are allowed.
    #[error("{}. Nothing is lost: the same command goes on where this one stopped", .why.clause())]
    GivenUp {
        /// What the last try came to.
        why: ClientError,
    },
    /// The gateway said no.
    #[error("{0}")]
    Refused(#[from] ClientError),
}
