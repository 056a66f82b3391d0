//! The doors: one public API each, its JSON shapes, names and quirks, mapped onto handlers.

pub mod admin;
pub mod blobs;
pub mod boxitory;
pub mod boxvault;
pub mod files;
pub mod hooks;
pub mod openapi;
pub mod operations;
pub mod page;
pub mod plugins;
pub mod providers;
pub mod runtime;
pub mod scripts;
pub mod upkeep;
pub mod vagrant;
pub mod vagrant_cloud;
pub mod webhooks;
