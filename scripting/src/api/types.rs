//! The facts as scripts see them: read-only, shared, an absent value is `()`.

use std::net::IpAddr;
use std::sync::Arc;

use rhai::{Array, Dynamic, Map, Module};

use super::{add, field};
use crate::facts::{
    Blob, Context, Endpoint, Event, Image, Labels, Principal, Push, Request, Response, Text, Tick,
    Upload,
};
use crate::guard::time_left;

/// A secret: usable as a header, a body or a key, and never readable.
#[derive(Clone)]
pub(crate) struct Secret(Arc<str>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Secret {
    pub(crate) fn new(value: Arc<str>) -> Self {
        Self(value)
    }

    /// The value, for whoever sends it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// The same with a text before or behind it: a secret still.
    fn joined(&self, behind: &str, before: &str) -> Self {
        Self(format!("{before}{}{behind}", self.0).into())
    }

    /// In constant time: two hashes are compared that way, and tell nothing of the length.
    fn equals(&self, other: &str) -> bool {
        blake3::hash(self.0.as_bytes()) == blake3::hash(other.as_bytes())
    }
}

fn labels(labels: &Labels) -> Map {
    labels
        .iter()
        .map(|(name, value)| (name.as_str().into(), value.as_str().into()))
        .collect()
}

fn option<T: Into<Dynamic>>(value: Option<T>) -> Dynamic {
    value.map_or(Dynamic::UNIT, Into::into)
}

fn whole(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn address(address: Option<IpAddr>) -> Dynamic {
    option(address.map(|a| a.to_canonical().to_string()))
}

fn header(headers: &[(Text, Text)], name: &str) -> Dynamic {
    let found = headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
    option(found.map(|(_, value)| value.clone()))
}

fn header_names(headers: &[(Text, Text)]) -> Array {
    let mut names: Vec<Text> = headers.iter().map(|(name, _)| name.clone()).collect();
    names.sort();
    names.dedup();
    names.into_iter().map(Into::into).collect()
}

/// The segment of a path, from 0.
fn segment(path: &str, index: i64) -> Dynamic {
    let index = usize::try_from(index).unwrap_or(usize::MAX);
    option(path.split('/').filter(|s| !s.is_empty()).nth(index))
}

fn query_value(query: &str, name: &str) -> Dynamic {
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    option(
        pairs
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.into_owned()),
    )
}

fn request(module: &mut Module) {
    type R = Arc<Request>;
    module.set_custom_type_with_comments::<R>("Request", &["/// One request."]);
    field(module, "method", "`GET`, `PUT`, ...", |r: &mut R| {
        r.method.clone()
    });
    field(module, "scheme", "`http` or `https`.", |r: &mut R| {
        r.scheme.clone()
    });
    field(
        module,
        "host",
        "The host asked for, without a port.",
        |r: &mut R| r.host.clone(),
    );
    field(module, "path", "The normalized path.", |r: &mut R| {
        r.path.clone()
    });
    field(module, "route", "The route's name.", |r: &mut R| {
        r.route.clone()
    });
    field(
        module,
        "params",
        "What the route's path names.",
        |r: &mut R| labels(&r.params),
    );
    field(module, "client_ip", "The client's address.", |r: &mut R| {
        address(r.client_ip)
    });
    field(
        module,
        "peer_ip",
        "The connection's address.",
        |r: &mut R| address(r.peer_ip),
    );
    field(module, "tls", "Whether it came over TLS.", |r: &mut R| {
        r.tls
    });
    field(module, "http", "`1.1`, `2` or `3`.", |r: &mut R| {
        r.http.clone()
    });
    field(module, "id", "The request's id.", |r: &mut R| r.id.clone());
    field(
        module,
        "time",
        "When it came, in milliseconds since 1970.",
        |r: &mut R| r.time_ms,
    );
    field(
        module,
        "length",
        "Length of its body, or ().",
        |r: &mut R| option(r.length.map(whole)),
    );
    add(
        module,
        "header",
        ("The first value of a header field, or ().", ""),
        |r: &mut R, name: &str| header(&r.headers, name),
    );
    add(
        module,
        "headers",
        ("All values of a header field.", ""),
        |r: &mut R, name: &str| -> Array {
            let found = r
                .headers
                .iter()
                .filter(|(n, _)| n.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.clone().into()).collect()
        },
    );
    add(
        module,
        "header_names",
        ("The names of its header fields.", ""),
        |r: &mut R| header_names(&r.headers),
    );
    add(
        module,
        "query",
        ("The first value of a query parameter, or ().", ""),
        |r: &mut R, name: &str| query_value(&r.query, name),
    );
    add(
        module,
        "seg",
        ("A segment of the path from 0, or ().", ""),
        |r: &mut R, index: i64| segment(&r.path, index),
    );
    add(
        module,
        "path_like",
        ("Whether the path fits a glob.", ""),
        |r: &mut R, glob: &str| fast_glob::glob_match(glob, r.path.as_str()),
    );
}

fn principal(module: &mut Module) {
    type P = Arc<Principal>;
    module.set_custom_type_with_comments::<P>("Principal", &["/// Who is asking."]);
    field(
        module,
        "kind",
        "`anonymous`, `user`, `service` or `key`.",
        |p: &mut P| p.kind.clone(),
    );
    field(module, "id", "The account's id.", |p: &mut P| p.id.clone());
    field(module, "name", "The account's name.", |p: &mut P| {
        p.name.clone()
    });
    field(
        module,
        "admin",
        "Whether it administers the platform.",
        |p: &mut P| p.admin,
    );
    field(
        module,
        "orgs",
        "Names of its organizations.",
        |p: &mut P| -> Array { p.roles.keys().map(|name| name.as_str().into()).collect() },
    );
    field(
        module,
        "roles",
        "Organizations and the role in each.",
        |p: &mut P| labels(&p.roles),
    );
    field(
        module,
        "scopes",
        "The token's scopes.",
        |p: &mut P| -> Array { p.scopes.iter().map(|scope| scope.clone().into()).collect() },
    );
    field(module, "token_id", "The token's id.", |p: &mut P| {
        p.token_id.clone()
    });
    add(
        module,
        "has_role",
        ("Whether it holds a role in an organization.", ""),
        |p: &mut P, organization: &str, role: &str| {
            p.roles.get(organization).is_some_and(|r| r == role)
        },
    );
}

fn upload(module: &mut Module) {
    type U = Arc<Upload>;
    module.set_custom_type_with_comments::<U>("Upload", &["/// An upload that is about to begin."]);
    field(module, "organization", "Whose it becomes.", |u: &mut U| {
        u.organization.clone()
    });
    field(module, "box", "Its box.", |u: &mut U| u.name.clone());
    field(module, "version", "Its version.", |u: &mut U| {
        u.version.clone()
    });
    field(module, "provider", "Its provider.", |u: &mut U| {
        u.provider.clone()
    });
    field(module, "architecture", "Its architecture.", |u: &mut U| {
        u.architecture.clone()
    });
    field(
        module,
        "size",
        "Its length in bytes, or ().",
        |u: &mut U| option(u.size.map(whole)),
    );
    field(
        module,
        "checksum",
        "The declared checksum, or ().",
        |u: &mut U| option(u.checksum.clone()),
    );
    field(module, "checksum_type", "Its type, or ().", |u: &mut U| {
        option(u.checksum_type.clone())
    });
    field(
        module,
        "resumable",
        "Whether it goes on after a cut.",
        |u: &mut U| u.resumable,
    );
    field(module, "principal", "Who sends it.", |u: &mut U| {
        Arc::clone(&u.principal)
    });
    field(module, "req", "The request that began it.", |u: &mut U| {
        Arc::clone(&u.request)
    });
}

fn image(module: &mut Module) {
    type I = Arc<Image>;
    module.set_custom_type_with_comments::<I>("Image", &["/// The image of a runtime."]);
    field(module, "size", "Its length in bytes.", |i: &mut I| {
        whole(i.size)
    });
    field(module, "checksum", "Its BLAKE3.", |i: &mut I| {
        i.checksum.clone()
    });
    field(module, "runtime", "The runtime's name.", |i: &mut I| {
        i.runtime.clone()
    });
    field(module, "filename", "What it is called.", |i: &mut I| {
        i.filename.clone()
    });
    field(module, "principal", "Who asks.", |i: &mut I| {
        Arc::clone(&i.principal)
    });
    type P = Arc<Push>;
    module.set_custom_type_with_comments::<P>(
        "Push",
        &["/// An image that is about to be pushed to another runtime."],
    );
    field(
        module,
        "target_host",
        "The host that it goes to.",
        |p: &mut P| p.target_host.clone(),
    );
    field(module, "target", "The URL.", |p: &mut P| p.target.clone());
    field(module, "image", "What is pushed.", |p: &mut P| {
        Arc::clone(&p.image)
    });
}

fn blob(module: &mut Module) {
    type B = Arc<Blob>;
    module.set_custom_type_with_comments::<B>("Blob", &["/// A blob under a name."]);
    field(module, "organization", "Whose it is.", |b: &mut B| {
        b.organization.clone()
    });
    field(module, "box", "Its box.", |b: &mut B| b.name.clone());
    field(module, "version", "Its version.", |b: &mut B| {
        b.version.clone()
    });
    field(module, "provider", "Its provider.", |b: &mut B| {
        b.provider.clone()
    });
    field(module, "architecture", "Its architecture.", |b: &mut B| {
        b.architecture.clone()
    });
    field(module, "id", "The blob's key.", |b: &mut B| b.id.clone());
    field(module, "size", "Its length in bytes.", |b: &mut B| {
        whole(b.size)
    });
    field(
        module,
        "checksum",
        "Its SHA-256 in hexadecimal; its BLAKE3 while that is not known.",
        |b: &mut B| b.checksum.clone(),
    );
    field(
        module,
        "checksum_type",
        "`sha256` or `blake3`.",
        |b: &mut B| b.checksum_type.clone(),
    );
    field(
        module,
        "sha256",
        "Its SHA-256 in hexadecimal, or () while it is not known.",
        |b: &mut B| option(b.sha256.clone()),
    );
    field(
        module,
        "blake3",
        "Its BLAKE3 in hexadecimal.",
        |b: &mut B| b.blake3.clone(),
    );
    field(
        module,
        "created_at",
        "When it was stored, in milliseconds.",
        |b: &mut B| b.created_ms,
    );
    field(module, "store", "The store that holds it.", |b: &mut B| {
        b.store.clone()
    });
    field(module, "labels", "Its labels.", |b: &mut B| {
        labels(&b.labels)
    });
    field(
        module,
        "is_new",
        "Whether these bytes were not there before.",
        |b: &mut B| b.is_new,
    );
}

fn response(module: &mut Module) {
    type R = Arc<Response>;
    module.set_custom_type_with_comments::<R>("Response", &["/// The head of an answer."]);
    field(module, "status", "Its status.", |r: &mut R| {
        i64::from(r.status)
    });
    field(
        module,
        "cache",
        "`hit`, `miss` or `bypass`.",
        |r: &mut R| r.cache.clone(),
    );
    add(
        module,
        "header",
        ("The first value of a header field, or ().", ""),
        |r: &mut R, name: &str| header(&r.headers, name),
    );
    add(
        module,
        "header_names",
        ("The names of its header fields.", ""),
        |r: &mut R| header_names(&r.headers),
    );
}

fn event(module: &mut Module) {
    type E = Arc<Event>;
    module.set_custom_type_with_comments::<E>("Event", &["/// Something that happened."]);
    field(module, "name", "`box.uploaded`, ...", |e: &mut E| {
        e.name.clone()
    });
    field(module, "data", "What is told of it.", |e: &mut E| {
        super::json::from_json(&e.data)
    });
    field(module, "id", "Its id.", |e: &mut E| e.id.clone());
    field(
        module,
        "time",
        "When, in milliseconds since 1970.",
        |e: &mut E| e.time_ms,
    );
    field(
        module,
        "depth",
        "How many events led to it.",
        |e: &mut E| i64::from(e.depth),
    );
    add(
        module,
        "causes",
        ("Whether a plugin led to it.", ""),
        |e: &mut E, plugin: &str| e.causes.iter().any(|cause| cause == plugin),
    );
    type P = Arc<Endpoint>;
    module.set_custom_type_with_comments::<P>("Endpoint", &["/// Where an event is sent to."]);
    field(module, "id", "Its id.", |e: &mut P| e.id.clone());
    field(
        module,
        "description",
        "What its owner says of it.",
        |e: &mut P| e.description.clone(),
    );
    for name in ["url_host", "host"] {
        field(module, name, "The host that it is at.", |e: &mut P| {
            e.url_host.clone()
        });
    }
    field(
        module,
        "events",
        "The names of events that it wants.",
        |e: &mut P| -> Array { e.events.iter().map(|name| name.clone().into()).collect() },
    );
    field(
        module,
        "format",
        "How bodies are laid out: `compat` or `standard`.",
        |e: &mut P| e.format.clone(),
    );
    module.set_custom_type_with_comments::<Arc<Tick>>("Tick", &["/// A tick of a schedule."]);
    field(
        module,
        "time",
        "When it was due, in milliseconds since 1970.",
        |t: &mut Arc<Tick>| t.time_ms,
    );
    module.set_custom_type_with_comments::<Arc<Context>>(
        "Context",
        &["/// Whom a provider acts for."],
    );
    field(
        module,
        "auth",
        "The caller's credentials, each a Secret, by the keys of `credential_fields`.",
        |c: &mut Arc<Context>| {
            let secret = |(key, value): (&String, &String)| {
                let secret = Secret::new(value.as_str().into());
                (key.as_str().into(), Dynamic::from(secret))
            };
            c.auth.iter().map(secret).collect::<Map>()
        },
    );
    type C = Arc<Context>;
    field(module, "id", "The request's id.", |c: &mut C| c.id.clone());
    field(
        module,
        "params",
        "What the request's path names.",
        |c: &mut C| labels(&c.params),
    );
    field(
        module,
        "deadline_ms",
        "Milliseconds that the call may still take.",
        |_: &mut C| i64::try_from(time_left().as_millis()).unwrap_or(i64::MAX),
    );
}

fn secret(module: &mut Module) {
    module.set_custom_type_with_comments::<Secret>(
        "Secret",
        &["/// Usable as a header, a body or a key; has no readable form."],
    );
    for name in ["to_string", "to_debug"] {
        add(
            module,
            name,
            ("A secret shows as `***`.", ""),
            |_: &mut Secret| "***",
        );
    }
    add(
        module,
        "==",
        ("Compares in constant time.", ""),
        |a: Secret, b: &str| a.equals(b),
    );
    add(
        module,
        "==",
        ("Compares in constant time.", ""),
        |a: &str, b: Secret| b.equals(a),
    );
    add(
        module,
        "==",
        ("Compares in constant time.", ""),
        |a: Secret, b: Secret| a.equals(b.expose()),
    );
    add(
        module,
        "!=",
        ("Compares in constant time.", ""),
        |a: Secret, b: &str| !a.equals(b),
    );
    add(
        module,
        "!=",
        ("Compares in constant time.", ""),
        |a: &str, b: Secret| !b.equals(a),
    );
    let joined = "Joins to a longer secret: `\"Bearer \" + secret`.";
    add(module, "+", (joined, ""), |a: Secret, b: &str| {
        a.joined(b, "")
    });
    add(module, "+", (joined, ""), |a: &str, b: Secret| {
        b.joined("", a)
    });
}

pub(super) fn register(module: &mut Module) {
    request(module);
    principal(module);
    upload(module);
    blob(module);
    image(module);
    response(module);
    event(module);
    secret(module);
}
