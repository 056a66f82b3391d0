//! Why a gateway does not start: the part and the setting.

use std::path::PathBuf;

use crate::auth::master_key::MasterKeyError;
use crate::server::CertificateError;

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be made or is in use.
    #[error("cannot use the data directory {path}: {reason} (data_dir)")]
    DataDir {
        /// Which.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// Another process holds the data directory.
    #[error(
        "cannot use the data directory {path}: another boxgate runs on it; stop that one or choose \
         another directory (data_dir)"
    )]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// A part of the storage does not work.
    #[error(transparent)]
    Storage(#[from] boxgate_storage::Error),
    /// The database of `metadata.url`.
    #[error(
        "cannot use the database of metadata.url: check that PostgreSQL runs, and the host, port, name, user and \
         password there"
    )]
    Database(#[source] boxgate_storage::Error),
    /// The rows of an embedded database, on their way to PostgreSQL.
    #[error("the rows were not taken over")]
    Transfer(#[source] boxgate_storage::Error),
    /// The store is not the one that the rows tell of.
    #[error(
        "{path} is not the directory that boxes were stored in: {reason}. Mount or restore it, or set \
         stores.{name}.path"
    )]
    Store {
        /// Name of the store.
        name: String,
        /// Where the store was expected.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// The bucket is not the one that the rows tell of.
    #[error(
        "{bucket} is not where boxes were stored in: that is {known}. Set stores.{name} as it was, name \
         the new store otherwise, or use another data_dir"
    )]
    Bucket {
        /// Name of the store.
        name: String,
        /// What the settings name.
        bucket: String,
        /// What the rows name.
        known: String,
    },
    /// The bucket is not there, or not as the settings say.
    #[error("cannot use the bucket: stores.{name}.{}", .source.subject())]
    OpenBucket {
        /// Name of the store.
        name: String,
        /// What is wrong.
        source: boxgate_storage::Error,
    },
    /// Another process stores there.
    #[error(
        "another gateway keeps boxes in {path}; one directory serves one of them (stores.{name}.path)"
    )]
    StoreInUse {
        /// Name of the store.
        name: String,
        /// Which directory.
        path: PathBuf,
    },
    /// The master key.
    #[error(transparent)]
    MasterKey(#[from] MasterKeyError),
    /// Two routes are in each other's way.
    #[error("the doors' prefixes are in each other's way: {0}")]
    Routes(String),
    /// The certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The plugins.
    #[error(transparent)]
    Scripts(#[from] boxgate_scripting::set::OpenError),
    /// The image of a runtime.
    #[error("a runtime's image cannot be kept there ({key})")]
    Runtime {
        /// The setting.
        key: String,
        /// What is wrong.
        source: std::io::Error,
    },
    /// A listener cannot be bound.
    #[error("a listener does not work (listeners.address or --listen)")]
    Listen(#[source] std::io::Error),
}
