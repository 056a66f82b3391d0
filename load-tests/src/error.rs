//! Why a scenario could not be played to its end. What a gateway did wrong is no such failure: that
//! is a result.

use std::io;
use std::path::Path;

/// What went wrong, for the person at the terminal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// A file or program on this machine.
    #[error("{what}: {source}")]
    Local {
        /// Which one.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// The connection to the gateway.
    #[error("connection: {0}")]
    Connection(#[from] io::Error),
    /// A signal came.
    #[error("told to end")]
    ToldToEnd,
    /// Anything else, said in words.
    #[error("{0}")]
    Said(String),
}

/// What most of this program returns.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn file(path: &Path, source: io::Error) -> Self {
        Self::Local {
            what: path.display().to_string(),
            source,
        }
    }

    pub(crate) fn said(text: impl Into<String>) -> Self {
        Self::Said(text.into())
    }
}
