//! What is told of a box: JSON whose fields have a fixed order.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Serialize;

use super::describe::with_moment;
use super::index::Shelf;
use super::name;
use super::tree::Version;
use crate::config::boxitory::{Boxitory, Checksum, PathType};

/// What a segment of a path must not hold as it is.
const SEGMENT: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'/')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// An answer that is written already.
#[derive(Debug)]
pub struct Document {
    /// All of it.
    pub text: Bytes,
    /// Its strong validator.
    pub etag: String,
}

impl Document {
    /// An answer of that text.
    pub fn new(text: impl Into<Bytes>) -> Self {
        let text = text.into();
        let etag = format!("\"{}\"", blake3::hash(&text).to_hex());
        Self { text, etag }
    }
}

/// What files tell of a box.
#[derive(Debug, Default)]
pub struct Known {
    /// Of which turn of the box.
    pub at: u64,
    /// Whether nothing is still to come.
    pub is_all: bool,
    /// By version.
    pub descriptions: HashMap<String, String>,
    /// By file name.
    pub checksums: HashMap<String, Arc<str>>,
    /// Files whose checksums are to be computed.
    pub missing: Vec<String>,
}

#[derive(Serialize)]
struct BoxJson<'a> {
    name: &'a str,
    description: &'a str,
    versions: Vec<VersionJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    providers: Option<Vec<&'a str>>,
}

#[derive(Serialize)]
struct VersionJson<'a> {
    version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    providers: Vec<ProviderJson<'a>>,
}

#[derive(Serialize)]
struct ProviderJson<'a> {
    url: String,
    #[serde(rename = "localUrl", skip_serializing_if = "Option::is_none")]
    local_url: Option<String>,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    checksum: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checksum_type: Option<&'static str>,
}

/// The path of a box, below the door's prefix.
pub fn box_path(box_name: &str) -> String {
    format!("/{}", utf8_percent_encode(box_name, SEGMENT))
}

/// The path of a box file, below the door's prefix.
pub fn file_path(box_name: &str, provider: &str, version: &str) -> String {
    format!("/download{}/{provider}/{version}", box_path(box_name))
}

/// What is told of a box.
pub fn of_box(settings: &Boxitory, shelf: &Shelf, known: &Known) -> Document {
    let mut versions: Vec<&Version> = shelf.versions().iter().collect();
    if settings.sort_desc {
        versions.reverse();
    }
    let providers = settings.list_providers.then(|| {
        let mut names: Vec<&str> = Vec::new();
        for provider in versions.iter().flat_map(|version| &version.providers) {
            if !names.contains(&&**provider) {
                names.push(provider);
            }
        }
        names
    });
    let versions = versions
        .into_iter()
        .map(|version| of_version(settings, shelf, version, known));
    let document = BoxJson {
        name: shelf.name(),
        description: shelf.name(),
        versions: versions.collect(),
        providers,
    };
    let text = serde_json::to_vec(&document).expect("texts in lists are JSON");
    Document::new(text)
}

fn of_version<'a>(
    settings: &Boxitory,
    shelf: &'a Shelf,
    version: &'a Version,
    known: &Known,
) -> VersionJson<'a> {
    let said = known.descriptions.get(&*version.digits).map(String::as_str);
    let description = if settings.version_as_timestamp {
        with_moment(&version.digits, said)
    } else {
        said.map(str::to_owned)
    };
    let of_provider = |provider: &'a str| {
        let file = name::file(shelf.name(), &version.digits, provider);
        let path = settings.home.join(shelf.name()).join(&file);
        let path = path.display().to_string();
        let place = match settings.path_type {
            PathType::Raw => path.clone(),
            PathType::Boxitory => file_path(shelf.name(), provider, &version.digits),
        };
        ProviderJson {
            url: format!("{}{place}", settings.host_prefix),
            local_url: settings.local_url.then_some(path),
            name: provider,
            checksum: known.checksums.get(&file).cloned(),
            checksum_type: settings.checksum.map(Checksum::name),
        }
    };
    VersionJson {
        version: &version.digits,
        description,
        providers: version.providers.iter().map(|p| of_provider(p)).collect(),
    }
}
