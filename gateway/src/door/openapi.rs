//! What there is, for machines and for people: the route table as an OpenAPI 3.1 document and as a page.
//!
//! Both are made from the rows of the listener that is asked, so that neither can be behind them. They tell methods,
//! paths, who may call and how failures look; what answers hold is told by each API's own documentation.

mod page;

use http::header::{CACHE_CONTROL, HeaderName};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::call::Call;
use crate::gateway::Gateway;
use crate::http::response;
use crate::refusal::Refusal;
use crate::route::{BodyKind, Class, Door, Policy, Row};
use crate::server::OutboundBody;

type Answer = Result<Response<OutboundBody>, Refusal>;

const CONTENT_SECURITY_POLICY: HeaderName = HeaderName::from_static("content-security-policy");
const NOSNIFF: (HeaderName, HeaderValue) = (
    HeaderName::from_static("x-content-type-options"),
    HeaderValue::from_static("nosniff"),
);
const NO_REFERRER: (HeaderName, HeaderValue) = (
    HeaderName::from_static("referrer-policy"),
    HeaderValue::from_static("no-referrer"),
);
/// It changes with the release and the configuration.
const REVALIDATED: HeaderValue = HeaderValue::from_static("no-cache");

/// `GET /openapi.json`.
///
/// # Errors
/// None; the type is that of all doors.
pub fn document(gateway: &Gateway, call: &Call) -> Answer {
    let rows = gateway.router_at(&call.facts).rows();
    let document = describe(rows, &gateway.base_url(&call.facts));
    let mut response = response::json(StatusCode::OK, &document);
    response.headers_mut().insert(CACHE_CONTROL, REVALIDATED);
    Ok(response)
}

/// `GET /openapi`: the same as a page, which runs nothing and asks nobody for anything.
///
/// # Errors
/// None; the type is that of all doors.
pub fn page(gateway: &Gateway, call: &Call) -> Answer {
    let rows = gateway.router_at(&call.facts).rows();
    let mut response = response::html(StatusCode::OK, page::page(rows));
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, REVALIDATED);
    if let Ok(policy) = HeaderValue::try_from(page::policy()) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    headers.extend([NOSNIFF, NO_REFERRER]);
    Ok(response)
}

fn describe(rows: &[(String, &'static Row)], base: &str) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    let mut tags: Vec<Value> = Vec::new();
    let mut doors: Vec<Door> = Vec::new();
    for (path, row) in rows {
        let entry = paths.entry(path).or_insert_with(|| shared(path));
        entry[row.method.as_str().to_ascii_lowercase()] = operation(path, row);
        if !doors.contains(&row.door) {
            doors.push(row.door);
            tags.push(json!({ "name": row.door.name(), "description": row.door.about() }));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "boxgate",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "A streaming gateway for multi-gigabyte Vagrant boxes and images",
            "description": "All doors that this listener has. Each keeps the words and the errors of the API that it \
                stands for. The adapters of clouds describe themselves at /providers/{provider}/openapi.json.",
        },
        "servers": [{ "url": base }],
        "tags": tags,
        "paths": paths,
        "components": { "schemas": schemas(), "securitySchemes": schemes() },
    })
}

/// What all operations of a path have in common: the values of its names.
fn shared(path: &str) -> Value {
    let parameters: Vec<Value> = names_of(path)
        .map(|name| {
            json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 } })
        })
        .collect();
    if parameters.is_empty() {
        return json!({});
    }
    json!({ "parameters": parameters })
}

fn names_of(path: &str) -> impl Iterator<Item = &str> {
    path.split('/')
        .filter_map(|word| word.strip_prefix('{')?.strip_suffix('}'))
}

fn operation(path: &str, row: &Row) -> Value {
    let words: Vec<&str> = path
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    let method = row.method.as_str().to_ascii_lowercase();
    let mut operation = json!({
        "operationId": format!("{method}_{}", words.join("_")),
        "summary": row.doc,
        "description": format!("For {}.", row.policy.who(row.door)),
        "tags": [row.door.name()],
        "security": security(row),
    });
    let queried: Vec<Value> = queried(row.doc)
        .map(|name| json!({ "name": name, "in": "query", "schema": { "type": "string" } }))
        .collect();
    if !queried.is_empty() {
        operation["parameters"] = queried.into();
    }
    if let Some(content) = body(row) {
        operation["requestBody"] = json!({ "content": content });
    }
    operation["responses"] = answers(path, row);
    operation
}

/// The names that a row's line tells of the query: `?after=ID&limit=N`.
fn queried(doc: &str) -> impl Iterator<Item = &str> {
    let query = doc.split_once('?').map_or("", |(_, rest)| rest);
    let query = query.split_whitespace().next().unwrap_or_default();
    let names = query.split('&').map(|pair| {
        let name = pair.split('=').next().unwrap_or_default();
        name.trim_end_matches([';', ',', '.', ':'])
    });
    names.filter(|name| !name.is_empty())
}

fn security(row: &Row) -> Value {
    let all = json!([{ "bearer": [] }, { "accessToken": [] }, { "serviceAccount": [] }]);
    match (row.door, row.policy) {
        (Door::Runtime, Policy::Public) => json!([{ "bearer": [] }]),
        (_, Policy::Public) => json!([]),
        (
            _,
            Policy::Optional
            | Policy::OptionalStrict
            | Policy::ReadBox
            | Policy::ReadBlob
            | Policy::ReadIso
            | Policy::Operations,
        ) => json!([{}, all[0], all[1], all[2]]),
        _ => all,
    }
}

fn body(row: &Row) -> Option<Value> {
    let bytes = json!({});
    match (row.body, row.door) {
        (BodyKind::Empty, _) => None,
        (BodyKind::Json, _) => {
            Some(json!({ "application/json": { "schema": { "type": "object" } } }))
        }
        (BodyKind::Upload, Door::BoxVault | Door::Runtime) => Some(json!({
            "application/octet-stream": bytes, "multipart/form-data": { "schema": { "type": "object" } },
        })),
        (BodyKind::Upload, Door::Files) => Some(json!({
            "application/octet-stream": bytes, "application/offset+octet-stream": bytes,
            "application/partial-upload": bytes,
        })),
        (BodyKind::Small | BodyKind::Upload, _) => Some(json!({ "*/*": bytes })),
    }
}

fn answers(path: &str, row: &Row) -> Value {
    let mut answers = Map::new();
    let done = match row.class {
        Class::Download => "The bytes, or the range of them that was asked for",
        _ => "Done",
    };
    answers.insert("2XX".into(), json!({ "description": done }));
    if row.class == Class::Download {
        let elsewhere = "Unchanged since the condition, or to be had at another address";
        answers.insert("3XX".into(), json!({ "description": elsewhere }));
    } else if row.door == Door::Page {
        answers.insert("3XX".into(), json!({ "description": "To another page" }));
    }
    let failure = |why: &str| match failures_of(row.door) {
        Some(content) => json!({ "description": why, "content": content }),
        None => json!({ "description": why }),
    };
    let mut fail = |status: &str, why: &str| {
        answers.insert(status.to_owned(), failure(why));
    };
    fail("4XX", "Something is wrong with the request");
    if row.policy != Policy::Public || path.contains('{') {
        fail("404", "It is not there, or not for the caller to see");
    }
    if row.policy != Policy::Public {
        fail(
            "401",
            "The credential is unknown, expired or revoked, or one is missing",
        );
        fail("403", "The caller may not do this, or no credential came");
    }
    if row.body != BodyKind::Empty {
        fail("413", "The body is larger than is taken");
    }
    fail(
        "429",
        "More than the caller's share; Retry-After tells when to come again",
    );
    if row.body == BodyKind::Upload {
        fail("507", "There is no room");
    }
    if row.door == Door::Providers {
        fail("5XX", "The cloud, or the adapter to it, did not do it");
    }
    fail("503", "Not now; Retry-After tells when to come again");
    Value::Object(answers)
}

/// What a door says when it refuses. A path that a value makes another one, or none, is refused as BoxVault does it.
fn failures_of(door: Door) -> Option<Value> {
    let of = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
    let either = |name: &str| json!({ "anyOf": [of(name), of("BoxVaultError")] });
    match door {
        Door::BoxVault => Some(json!({ "application/json": { "schema": of("BoxVaultError") } })),
        Door::Vagrant | Door::VagrantCloud => {
            Some(json!({ "application/json": { "schema": either("VagrantCloudError") } }))
        }
        Door::Providers => {
            Some(json!({ "application/json": { "schema": either("AdapterError") } }))
        }
        Door::Files | Door::Blobs | Door::Hooks | Door::Operations | Door::Admin => Some(json!({
            "application/problem+json": { "schema": of("Problem") },
            "application/json": { "schema": of("BoxVaultError") },
        })),
        Door::Page => Some(json!({
            "text/html": { "schema": { "type": "string" } },
            "application/json": { "schema": of("BoxVaultError") },
        })),
        Door::Runtime | Door::Boxitory => None,
    }
}

fn schemas() -> Value {
    let text = json!({ "type": "string" });
    let texts = json!({ "type": "array", "items": { "type": "string" } });
    json!({
        "BoxVaultError": {
            "type": "object", "required": ["message"],
            "properties": { "error": text, "message": text, "details": {} },
        },
        "VagrantCloudError": {
            "type": "object", "required": ["errors", "success"],
            "properties": { "errors": texts, "success": { "const": false }, "code": text },
        },
        "AdapterError": {
            "type": "object", "required": ["errors"], "properties": { "errors": texts },
        },
        "Problem": {
            "description": "RFC 9457",
            "type": "object", "required": ["status", "title"],
            "properties": {
                "type": text, "title": text, "status": { "type": "integer" }, "detail": text, "code": text,
            },
        },
    })
}

fn schemes() -> Value {
    json!({
        "bearer": {
            "type": "http", "scheme": "bearer",
            "description": "A session's token, a personal token, or the key of a service account",
        },
        "accessToken": {
            "type": "apiKey", "in": "header", "name": "x-access-token",
            "description": "The same, as BoxVault's clients send it",
        },
        "serviceAccount": {
            "type": "http", "scheme": "basic",
            "description": "Name and key of a service account",
        },
    })
}

impl Door {
    fn about(self) -> &'static str {
        match self {
            Self::BoxVault => "BoxVault's API",
            Self::Vagrant => "What Vagrant reads: metadata and box files",
            Self::VagrantCloud => "Vagrant Cloud's API, by which boxes are published",
            Self::Files => "Resumable uploads: tus, the IETF's protocol, and parts",
            Self::Blobs => "Bytes by their digest",
            Self::Hooks => "Webhooks that come in, for plugins",
            Self::Providers => "Adapters to clouds",
            Self::Runtime => "Images of runtimes",
            Self::Boxitory => "A tree of boxes that is served where it is",
            Self::Page => "What browsers are shown",
            Self::Operations => "Health, status, metrics, and this document",
            Self::Admin => "Administration",
        }
    }
}

impl Policy {
    /// Who may call, for people.
    fn who(self, door: Door) -> &'static str {
        match (self, door) {
            (Self::Public, Door::Runtime) => "whoever has the key of the runtime",
            (Self::Public, Door::Providers) => {
                "anyone; the credentials in the fields Auth-... are the cloud's"
            }
            (Self::Public, Door::Hooks) => "whoever shows what the hook's plugin.toml asks for",
            (Self::Public, _) => "anyone",
            (Self::Optional, _) => "anyone; a credential widens what is seen",
            (Self::OptionalStrict, _) => {
                "anyone; a credential widens what is seen, and a bad one is refused"
            }
            (Self::ReadBox, _) => "anyone if the box is public, else members of its organization",
            (Self::ReadBlob, _) => {
                "anyone if a public box holds the bytes, else members of an organization that holds them"
            }
            (Self::ReadIso, _) => "anyone if the image is public, else members of its organization",
            (Self::Credential, _) => "whoever has a credential",
            (Self::Person, _) => "people, and no service account",
            (Self::Member, _) => "members of the organization",
            (Self::MemberPerson, _) => "members of the organization who are people",
            (Self::EditBox, _) => "the box's maker, and administrators of its organization",
            (Self::PublishBox, _) => {
                "the box's maker and administrators of its organization; any member where there is no such box"
            }
            (Self::OrganizationAdmin, _) => "administrators of the organization or the platform",
            (Self::OrganizationOwner, _) => {
                "the organization's owner, and administrators of the platform"
            }
            (Self::ManageIsos, _) => "administrators of the organization who are members of it",
            (Self::PlatformAdmin, _) => "administrators of the platform",
            (Self::AnyAdmin, _) => {
                "administrators of an organization, for what is theirs, and of the platform"
            }
            (Self::UploadAdmin, _) => {
                "administrators of the upload's organization, and of the platform"
            }
            (Self::Operations, _) => {
                "this machine, the networks of operations.allow, and administrators of the platform"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::route::ROUTES;

    fn rows() -> Vec<(String, &'static Row)> {
        ROUTES
            .iter()
            .map(|row| (row.path.to_owned(), row))
            .collect()
    }

    #[test]
    fn every_row_is_in_it_once_by_its_method_and_an_id_of_its_own() {
        let document = describe(&rows(), "http://h");
        let mut ids = BTreeSet::new();
        for row in ROUTES {
            let method = row.method.as_str().to_ascii_lowercase();
            let operation = &document["paths"][row.path][&method];
            assert_eq!(operation["summary"], row.doc, "{} {}", row.method, row.path);
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned()), "{id} is there twice");
            let declared = document["paths"][row.path]["parameters"].as_array();
            let declared = declared.map_or(0, Vec::len);
            assert_eq!(declared, row.path.matches('{').count(), "{}", row.path);
        }
        assert_eq!(ids.len(), ROUTES.len());
    }

    #[test]
    fn what_a_line_tells_of_the_query_is_a_parameter() {
        let told = |doc| queried(doc).collect::<Vec<_>>();
        assert_eq!(
            told("List accounts by id: ?after=ID&limit=N"),
            ["after", "limit"]
        );
        assert_eq!(told("The box; ?b3= pins its digest"), ["b3"]);
        assert_eq!(told("Boxes: ?q&provider&page"), ["q", "provider", "page"]);
        assert_eq!(told("Make a box"), [""; 0]);
    }

    #[test]
    fn who_needs_no_credential_is_not_asked_for_one() {
        let of = |path: &str, method: &str| {
            describe(&rows(), "http://h")["paths"][path][method]["security"].clone()
        };
        assert_eq!(of("/livez", "get"), json!([]));
        assert_eq!(of("/{org}/{box}", "get")[0], json!({}));
        assert_eq!(of("/api/admin/users", "get")[0], json!({ "bearer": [] }));
        assert_eq!(of("/runtime/image", "post"), json!([{ "bearer": [] }]));
    }

    #[test]
    fn the_page_names_every_row_and_allows_nothing_but_its_own_style() {
        let page = page::page(&rows());
        for row in ROUTES {
            assert!(page.contains(row.path), "{}", row.path);
        }
        assert!(
            !page.contains("<script") && !page.contains("http://") && !page.contains("https://")
        );
        let policy = page::policy();
        assert!(
            policy.starts_with("default-src 'none'; style-src 'sha256-"),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"));
    }
}
