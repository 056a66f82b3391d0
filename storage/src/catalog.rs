//! The catalog's words: names as parsed newtypes, and what Vagrant takes for a version.

pub mod name;
pub mod version;

pub use name::{
    ArchitectureName, BoxName, BoxRef, IsoName, NameError, OrganizationName, ProviderName,
    VersionName,
};
