//! An adapter as documents for machines: OpenAPI 3.0 and Swagger 2.0, filled in from what its `meta()` says and from the
//! functions that it has.

use boxgate_scripting::hook::Hook;
use boxgate_scripting::provider::{KeyMethod, Provider};
use serde_json::{Map, Value, json};

use super::header_of;

/// What stands in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    /// Nothing.
    Empty,
    /// What a schema says.
    Of(&'static str),
    /// A list of that.
    ListOf(&'static str),
}

/// One operation.
struct Operation {
    method: &'static str,
    path: &'static str,
    function: Hook,
    summary: &'static str,
    asks: Body,
    status: u16,
    answers: Body,
}

const fn operation(
    (method, path): (&'static str, &'static str),
    function: Hook,
    summary: &'static str,
    asks: Body,
    (status, answers): (u16, Body),
) -> Operation {
    Operation {
        method,
        path,
        function,
        summary,
        asks,
        status,
        answers,
    }
}

const OPERATIONS: [Operation; 14] = [
    operation(
        ("get", "/meta"),
        Hook::Meta,
        "What the adapter is",
        Body::Empty,
        (200, Body::Of("Meta")),
    ),
    operation(
        ("get", "/catalog"),
        Hook::Catalog,
        "Regions, plans and sizes",
        Body::Empty,
        (200, Body::ListOf("Region")),
    ),
    operation(
        ("post", "/verify"),
        Hook::Verify,
        "Whether the credentials are good",
        Body::Empty,
        (200, Body::Empty),
    ),
    operation(
        ("get", "/keys"),
        Hook::ListKeys,
        "SSH keys of the account",
        Body::Empty,
        (200, Body::ListOf("Key")),
    ),
    operation(
        ("post", "/keys"),
        Hook::CreateKey,
        "Keep an SSH key",
        Body::Of("NewKey"),
        (201, Body::Of("Reference")),
    ),
    operation(
        ("get", "/keys/{id}"),
        Hook::GetKey,
        "An SSH key",
        Body::Empty,
        (201, Body::Of("Key")),
    ),
    operation(
        ("delete", "/keys/{id}"),
        Hook::DeleteKey,
        "Forget an SSH key",
        Body::Empty,
        (200, Body::Empty),
    ),
    operation(
        ("get", "/servers"),
        Hook::ListServers,
        "Servers of the account",
        Body::Empty,
        (200, Body::ListOf("Server")),
    ),
    operation(
        ("post", "/servers"),
        Hook::CreateServer,
        "Order a server",
        Body::Of("Order"),
        (201, Body::Of("Reference")),
    ),
    operation(
        ("get", "/servers/{id}"),
        Hook::GetServer,
        "How a server stands",
        Body::Empty,
        (201, Body::Of("Server")),
    ),
    operation(
        ("delete", "/servers/{id}"),
        Hook::CancelServer,
        "Give a server up",
        Body::Empty,
        (200, Body::Empty),
    ),
    operation(
        ("patch", "/servers/{id}/keys"),
        Hook::InstallKey,
        "Put an SSH key on a server",
        Body::Of("NewKey"),
        (200, Body::Empty),
    ),
    operation(
        ("patch", "/servers/{id}/reboot"),
        Hook::RebootServer,
        "Start a server anew",
        Body::Empty,
        (200, Body::Empty),
    ),
    operation(
        ("patch", "/servers/{id}/rename"),
        Hook::RenameServer,
        "Give a server another name",
        Body::Of("Name"),
        (200, Body::Empty),
    ),
];

/// How the two formats differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    OpenApi,
    Swagger,
}

/// The adapter in OpenAPI 3.0; `base` is the gateway's own URL.
pub fn open_api(provider: &Provider, base: &str) -> Value {
    let id = &provider.meta.id;
    json!({
        "openapi": "3.0.3",
        "info": info(provider),
        "servers": [{ "url": format!("{base}/providers/{id}") }],
        "paths": paths(provider, Format::OpenApi),
        "components": {
            "schemas": schemas(provider, Format::OpenApi),
            "securitySchemes": schemes(provider),
        },
    })
}

/// The adapter in Swagger 2.0, of which the published document is.
pub fn swagger(provider: &Provider, base: &str) -> Value {
    let id = &provider.meta.id;
    let (scheme, rest) = base.split_once("://").unwrap_or(("http", base));
    let (host, prefix) = rest
        .split_once('/')
        .map_or((rest, String::new()), |(host, prefix)| {
            (host, format!("/{prefix}"))
        });
    json!({
        "swagger": "2.0",
        "info": info(provider),
        "host": host,
        "schemes": [scheme],
        "basePath": format!("{prefix}/providers/{id}"),
        "consumes": ["application/json"],
        "produces": ["application/json"],
        "paths": paths(provider, Format::Swagger),
        "definitions": schemas(provider, Format::Swagger),
        "securityDefinitions": schemes(provider),
    })
}

fn info(provider: &Provider) -> Value {
    let name = provider.meta.document["name"].as_str().unwrap_or_default();
    let digest = provider.hash.get(..12).unwrap_or(&provider.hash);
    json!({
        "title": format!("{name} adapter"),
        "description": provider.meta.document["instructions"],
        "version": digest,
    })
}

/// Credentials, a header field each.
fn schemes(provider: &Provider) -> Value {
    let scheme = |key: &String| {
        let name = header_of(key);
        let scheme = json!({ "type": "apiKey", "in": "header", "name": name });
        (name, scheme)
    };
    Value::Object(provider.meta.credentials.iter().map(scheme).collect())
}

fn paths(provider: &Provider, format: Format) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for operation in OPERATIONS.iter().filter(|o| provider.can(o.function)) {
        let path = paths.entry(operation.path).or_insert_with(|| {
            let mut path = Map::new();
            if operation.path.contains("{id}") {
                let parameter = match format {
                    Format::OpenApi => {
                        json!({ "name": "id", "in": "path", "required": true, "schema": { "type": "string" } })
                    }
                    Format::Swagger => {
                        json!({ "name": "id", "in": "path", "required": true, "type": "string" })
                    }
                };
                path.insert("parameters".into(), json!([parameter]));
            }
            Value::Object(path)
        });
        path[operation.method] = described(operation, provider, format);
    }
    Value::Object(paths)
}

fn described(operation: &Operation, provider: &Provider, format: Format) -> Value {
    let all: Map<String, Value> = provider
        .meta
        .credentials
        .iter()
        .map(|key| (header_of(key), json!([])))
        .collect();
    let security = match operation.function {
        Hook::Meta => json!([]),
        // With credentials it is what their owner may order, without them what everybody may.
        Hook::Catalog => json!([{}, all]),
        _ => json!([all]),
    };
    let mut described = json!({
        "operationId": operation.function.name(),
        "summary": operation.summary,
        "security": security,
        "responses": {
            operation.status.to_string(): answer("Done", operation.answers, format),
            "default": answer("Why it was not done", Body::Of("Failure"), format),
        },
    });
    match (operation.asks, format) {
        (Body::Empty, _) => {}
        (asks, Format::OpenApi) => {
            described["requestBody"] = json!({
                "required": true,
                "content": { "application/json": { "schema": schema_of(asks, format) } },
            });
        }
        (asks, Format::Swagger) => {
            described["parameters"] = json!([{ "name": "body", "in": "body", "required": true, "schema": schema_of(asks, format) }]);
        }
    }
    described
}

fn answer(what: &str, body: Body, format: Format) -> Value {
    match (body, format) {
        (Body::Empty, _) => json!({ "description": what }),
        (body, Format::OpenApi) => json!({
            "description": what,
            "content": { "application/json": { "schema": schema_of(body, format) } },
        }),
        (body, Format::Swagger) => {
            json!({ "description": what, "schema": schema_of(body, format) })
        }
    }
}

fn schema_of(body: Body, format: Format) -> Value {
    let place = match format {
        Format::OpenApi => "#/components/schemas",
        Format::Swagger => "#/definitions",
    };
    let named = |name: &str| json!({ "$ref": format!("{place}/{name}") });
    match body {
        Body::Empty => json!({}),
        Body::Of(name) => named(name),
        Body::ListOf(name) => json!({ "type": "array", "items": named(name) }),
    }
}

fn schemas(provider: &Provider, format: Format) -> Value {
    let text = || json!({ "type": "string" });
    let filled = || json!({ "type": "string", "minLength": 1, "pattern": "\\S" });
    let number = || json!({ "type": "number" });
    let absent = |mut schema: Value| {
        let word = match format {
            Format::OpenApi => "nullable",
            Format::Swagger => "x-nullable",
        };
        schema[word] = json!(true);
        schema
    };
    let object = |required: &[&str], members: Value| json!({ "type": "object", "required": required, "properties": members });
    let list = |name: &'static str| schema_of(Body::ListOf(name), format);
    let mut order = vec![("name", filled()), ("region", filled()), ("size", filled())];
    if provider.meta.keys != KeyMethod::Password {
        order.push(("ssh_key", filled()));
    }
    let required: Vec<&str> = order.iter().map(|(name, _)| *name).collect();
    let order = object(&required, order.iter().cloned().collect());
    json!({
        "Meta": json!({ "type": "object" }),
        "Region": object(&["id", "name", "plans"], json!({ "id": text(), "name": text(), "plans": list("Plan") })),
        "Plan": object(&["id", "name", "specs"], json!({ "id": text(), "name": text(), "specs": list("Size") })),
        "Size": object(
            &["id", "ram", "cpu", "disk", "dollars_per_hr", "dollars_per_mo"],
            json!({
                "id": text(), "name": text(), "ram": number(), "cpu": number(), "disk": number(),
                "transfer": absent(number()), "dollars_per_hr": number(), "dollars_per_mo": number(),
            }),
        ),
        "NewKey": object(&["id", "key"], json!({ "id": filled(), "key": filled() })),
        "Key": object(&["id", "name"], json!({ "id": text(), "name": text(), "public_key": absent(text()) })),
        "Reference": object(&["id"], json!({ "id": text() })),
        "Order": order,
        "Server": object(
            &["id", "status", "name"],
            json!({
                "id": text(), "status": text(), "name": text(),
                "external_ip": absent(text()), "internal_ip": absent(text()),
            }),
        ),
        "Name": object(&["name"], json!({ "name": filled() })),
        "Failure": object(&["errors"], json!({ "errors": { "type": "array", "items": text() } })),
    })
}
