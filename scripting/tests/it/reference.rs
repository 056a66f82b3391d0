//! The reference that `boxgate script docs` writes names everything that plugins are promised.

use boxgate_scripting::docs;
use serde_json::Value;

/// Members of each type that hooks are handed.
const FACTS: &[(&str, &str)] = &[
    (
        "Request",
        ".method .scheme .host .path .route .params .client_ip .peer_ip .tls .http .id .time .length \
         header headers header_names query seg path_like",
    ),
    (
        "Principal",
        ".kind .id .name .admin .orgs .roles .scopes .token_id has_role",
    ),
    (
        "Upload",
        ".organization .box .version .provider .architecture .size .checksum .checksum_type \
         .resumable .principal .req",
    ),
    (
        "Blob",
        ".organization .box .version .provider .architecture .id .size .checksum .checksum_type \
         .sha256 .blake3 .created_at .store .labels .is_new signed_url presigned_url",
    ),
    ("Response", ".status .cache header header_names"),
    ("Event", ".name .data .id .time .depth causes"),
    ("Endpoint", ".id .description .url_host .events .format"),
    ("Context", ".auth .id .params .deadline_ms"),
    ("Tick", ".time"),
    ("HttpReply", ".status .ok .body header text json pick"),
];

/// Functions by namespace, those of the work lane alone last.
const FUNCTIONS: &[(&str, &str)] = &[
    (
        "",
        "respond redirect allow deny reject quarantine drop deliver table find uuid rand",
    ),
    ("json", "parse text"),
    ("b64", "encode decode"),
    ("b64url", "encode decode"),
    ("hex", "encode decode"),
    ("url", "parse encode join"),
    ("hash", "sha256 blake3"),
    ("hmac", "sha256 verify"),
    ("re", "is_match find replace"),
    ("glob", "is_match"),
    ("net", "contains"),
    ("time", "now rfc3339 parse"),
    ("log", "debug info warn error"),
    ("env", "get"),
    ("secret", "get"),
    ("config", "get"),
    ("kv", "get set del incr cas"),
    ("metric", "count observe"),
    ("http", "get post put patch delete"),
    ("event", "emit"),
    ("cache", "purge"),
    (
        "box",
        "list versions release revoke delete set_public label",
    ),
];

fn work_only(space: &str) -> bool {
    matches!(space, "http" | "event" | "cache" | "box")
}

#[test]
fn the_reference_names_every_fact_and_function() {
    let functions = docs::functions();
    for (kind, members) in FACTS {
        for member in members.split_whitespace() {
            let place = format!("{kind}{member}");
            let found = functions.iter().any(|f| {
                f.name == member && (f.signature.starts_with(&place) || f.signature.contains(kind))
            });
            assert!(found, "{kind} {member}");
        }
    }
    for (space, names) in FUNCTIONS {
        for name in names.split_whitespace() {
            let found = functions
                .iter()
                .find(|f| f.space == *space && f.name == name);
            let found = found.unwrap_or_else(|| panic!("{space}::{name}"));
            assert_eq!(found.fast, !work_only(space), "{space}::{name}");
        }
    }
}

#[test]
fn what_is_known_of_a_function_is_written_in_all_three_forms() {
    let (page, metadata) = (docs::markdown(), docs::metadata());
    assert!(matches!(metadata, Value::Object(_)));
    let metadata = metadata.to_string();
    let definitions: String = [
        boxgate_scripting::hook::Lane::Fast,
        boxgate_scripting::hook::Lane::Work,
    ]
    .into_iter()
    .flat_map(docs::definitions)
    .map(|(_, text)| text)
    .collect();
    for function in docs::functions() {
        assert!(page.contains(&function.signature), "{}", function.signature);
        let name = function.name.trim_start_matches('.');
        let is_word = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        assert!(!is_word || definitions.contains(name), "{name}");
        assert!(metadata.contains(name), "{name}");
    }
    for row in boxgate_scripting::hook::HOOKS {
        assert!(page.contains(&row.signature()), "{}", row.name);
    }
}
