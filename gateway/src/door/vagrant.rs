//! What Vagrant reads: box metadata at all its paths, and box files with ranges.
//!
//! Error bodies: `{"errors": [text], "success": false}`, and `code` for programs of ours; Vagrant shows the status,
//! people the text.

pub mod metadata;

use std::sync::Arc;

use boxgate_storage::catalog::{ArchitectureName, BoxRef};
use boxgate_storage::digest::Blake3;
use boxgate_storage::metadata::catalog::{BoxTree, ResolvedFile, VersionStatus};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, USER_AGENT, VARY};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use serde_json::json;

use self::metadata::ComparedBy;
use crate::auth;
use crate::call::Call;
use crate::gateway::Gateway;
use crate::handler::download::{self, Download, with_body, with_headers};
use crate::http::freshness::{Freshness, Tags};
use crate::http::precondition::{Decision, PastEnd, Representation, decide};
use crate::http::response;
use crate::refusal::Refusal;
use crate::route::Route;
use crate::server::OutboundBody;
use crate::shortcut::{HEAD_BYTES, Known, Place};

type Answer = Result<Response<OutboundBody>, Refusal>;

/// A refusal in the shape of Vagrant Cloud.
pub fn refuse(refusal: &Refusal) -> Response<OutboundBody> {
    let mut document = json!({ "errors": [refusal.message], "success": false });
    if let Some(code) = refusal.code {
        document["code"] = code.into();
    }
    response::json(refusal.status, &document)
}

/// Whether a request comes from Vagrant itself.
pub fn is_vagrant(headers: &HeaderMap) -> bool {
    headers
        .get(USER_AGENT)
        .is_some_and(|agent| agent.as_bytes().starts_with(b"Vagrant/"))
}

/// Metadata of the box that the policy found, as JSON; HEAD says the same without the body.
pub async fn box_metadata(gateway: &Gateway, call: Call) -> Answer {
    let row = call.row()?;
    let origin = gateway.base_url(&call.facts) + gateway.settings.doors.vagrant.prefix.as_str();
    let by = ComparedBy::of_query(call.query("by").as_deref());
    let key = (row.organization, row.name.folded(), origin.clone(), by);
    let written = async {
        let tree = gateway.metadata.box_tree(row.organization, &row.name);
        let tree = tree.await?;
        Ok(tree.map(|tree| Arc::new(Document::of(&tree, &origin, by))))
    };
    let document = gateway.documents.or_read(key, written).await?;
    let document = document.ok_or_else(|| crate::auth::no_box(&call.names))?;
    let described = Described::of(gateway, document, call.row.route);
    let answer = described.answer(&call.head);
    // Another node's new version must be in it at once.
    if !gateway.metadata.is_shared()
        && described.document.public
        && let Some(place) = Place::of(gateway, &call)
    {
        place.keep(gateway, Known::Document(described));
    }
    Ok(answer)
}

/// Metadata of a box with the head of its answers.
#[derive(Debug)]
pub struct Described {
    document: Arc<Document>,
    headers: HeaderMap,
}

impl Described {
    fn of(gateway: &Gateway, document: Arc<Document>, route: Route) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(
            ETAG,
            HeaderValue::from_str(&document.etag).expect("hexadecimal digits are ASCII"),
        );
        headers.insert(VARY, HeaderValue::from_static("Accept"));
        // URLs inside come from the request unless `public_url` is set; then no shared cache may keep them.
        // Nor where BoxVault's path answers Vagrant alone in this way: its cache does not know who asks.
        let shared = document.public
            && !gateway.settings.public_url.is_empty()
            && route == Route::VagrantMetadata;
        let freshness = if shared {
            Freshness::PublicName
        } else {
            Freshness::Private
        };
        let ages = &gateway.settings.downloads;
        freshness.write(ages, &document.tags, &mut headers);
        // Vagrant takes a body for metadata only if the type is exactly this one.
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_LENGTH, document.text.len().into());
        Self { document, headers }
    }

    /// The answer to GET or HEAD.
    pub fn answer(&self, head: &Parts) -> Response<OutboundBody> {
        let document = &self.document;
        let representation = Representation {
            etag: &document.etag,
            last_modified: None,
            length: document.text.len() as u64,
        };
        let decision = decide(
            &representation,
            &head.method,
            &head.headers,
            PastEnd::WholeBody,
        );
        match decision {
            Decision::NotModified => {
                let mut headers = self.headers.clone();
                headers.remove(CONTENT_TYPE);
                headers.remove(CONTENT_LENGTH);
                with_headers(StatusCode::NOT_MODIFIED, headers)
            }
            // It answers the request's own fields: under the URL alone no cache may keep it.
            Decision::PreconditionFailed => {
                with_headers(StatusCode::PRECONDITION_FAILED, HeaderMap::new())
            }
            // Vagrant resumes metadata like boxes: a range of JSON is never served.
            Decision::Full | Decision::Partial(_) | Decision::NotSatisfiable => {
                let headers = self.headers.clone();
                if head.method == Method::HEAD {
                    return with_headers(StatusCode::OK, headers);
                }
                let body = response::full(document.text.clone());
                with_body(StatusCode::OK, headers, body)
            }
        }
    }

    /// Memory that it takes, about.
    pub fn weight(&self) -> u32 {
        self.document.weight().saturating_add(HEAD_BYTES)
    }
}

/// Metadata of a box, written.
#[derive(Debug)]
pub struct Document {
    text: Bytes,
    etag: String,
    public: bool,
    tags: Tags,
}

impl Document {
    fn of(tree: &BoxTree, origin: &str, by: ComparedBy) -> Self {
        let text = serde_json::to_vec(&metadata::render(tree, origin, by))
            .expect("a value of strings and booleans is JSON");
        Self {
            etag: format!("\"{}\"", blake3::hash(&text).to_hex()),
            public: tree.row.fields.public,
            tags: Tags::of_box(&tree.organization_name, &tree.row.name.folded()),
            text: text.into(),
        }
    }

    /// Memory that it takes, about.
    pub fn weight(&self) -> u32 {
        u32::try_from(self.text.len() + 512).unwrap_or(u32::MAX)
    }
}

/// `.../providers/{provider}/{arch}/vagrant.box`.
pub async fn file(gateway: &Gateway, call: Call) -> Answer {
    let name = call.box_ref()?;
    serve(gateway, call, name).await
}

/// `.../providers/{provider}.box`: the default architecture, else the only one that has a file.
pub async fn default_file(gateway: &Gateway, call: Call) -> Answer {
    let text = call.names.value("provider");
    let Some(provider) = text.strip_suffix(".box") else {
        return Err(Refusal::missing("Path", call.head.uri.path()));
    };
    let provider: boxgate_storage::catalog::ProviderName =
        provider.parse().map_err(Refusal::name)?;
    let version: boxgate_storage::catalog::VersionName = call.name("version")?;
    let row = call.row()?;
    let tree = gateway
        .metadata
        .box_tree(row.organization, &row.name)
        .await?;
    let architecture = tree.and_then(|tree| default_architecture(&tree, &version, &provider));
    let architecture = architecture.ok_or_else(|| Refusal::missing("File", text))?;
    let name = BoxRef {
        organization: call.name("org")?,
        name: call.name("box")?,
        version,
        provider,
        architecture,
    };
    serve(gateway, call, name).await
}

fn default_architecture(
    tree: &BoxTree,
    version: &boxgate_storage::catalog::VersionName,
    provider: &boxgate_storage::catalog::ProviderName,
) -> Option<ArchitectureName> {
    let version = tree
        .versions
        .iter()
        .find(|v| v.row.name.folded() == version.folded())?;
    let provider = version
        .providers
        .iter()
        .find(|p| p.row.name.folded() == provider.folded())?;
    let stored: Vec<_> = provider
        .architectures
        .iter()
        .filter(|a| a.file.is_some())
        .collect();
    let chosen = stored
        .iter()
        .find(|a| a.row.default_box)
        .or(match stored.as_slice() {
            [only] => Some(only),
            _ => None,
        })?;
    Some(chosen.row.name.clone())
}

async fn serve(gateway: &Gateway, call: Call, name: BoxRef) -> Answer {
    let missing = || Refusal::missing("File", &name.to_string());
    let pinned = match call.query("b3") {
        None => None,
        Some(hex) => Some(Blake3::from_hex(&hex).ok_or_else(missing)?),
    };
    let mut resolved: Option<ResolvedFile> = gateway.metadata.resolve_file(&name).await?;
    if let Some(digest) = &pinned
        && resolved
            .as_ref()
            .is_none_or(|r| r.file.blob.blake3 != *digest)
    {
        resolved = gateway.metadata.resolve_former_file(&name, digest).await?;
    }
    let resolved = resolved.ok_or_else(missing)?;
    let is_released = resolved.version.status == VersionStatus::Active;
    let principal = call.grant.principal.as_ref();
    if !auth::sees(principal, resolved.row.organization, &resolved.version) {
        return Err(missing());
    }
    let freshness = match (resolved.row.fields.public && is_released, &pinned) {
        (false, _) => Freshness::Private,
        (true, Some(_)) => Freshness::Immutable,
        (true, None) => Freshness::PublicName,
    };
    let location = pinned.is_none().then(|| {
        format!(
            "{}{}",
            gateway.settings.doors.vagrant.prefix,
            metadata::file_path(&name, &resolved.file.blob.blake3)
        )
    });
    let place = (freshness != Freshness::Private)
        .then(|| Place::of(gateway, &call))
        .flatten();
    let download = Download {
        location,
        place,
        ..Download::of_file(&name, resolved, freshness)
    };
    download::serve(gateway, &call.head, download).await
}
