//! What a script is told: plain values, made by the gateway, read-only for the script.
//!
//! Texts are shared ([`Text`]), so that neither making the facts nor reading a field copies them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A shared text.
pub type Text = rhai::ImmutableString;

/// Names in order with their values.
pub type Labels = BTreeMap<String, String>;

/// Bytes that the host holds for a script.
#[derive(Clone, PartialEq, Eq)]
pub struct Bytes(pub Arc<[u8]>);

impl Default for Bytes {
    fn default() -> Self {
        Self(Arc::from([]))
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// A text is its bytes; anything else is itself as JSON.
impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        Ok(Self(text.into_bytes().into()))
    }
}

/// One request. Only a webhook that came in has a body here.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Request {
    /// `GET`, `PUT`, ...
    pub method: Text,
    /// `http` or `https`.
    pub scheme: Text,
    /// The host that was asked for, without a port.
    pub host: Text,
    /// The normalized path.
    pub path: Text,
    /// The route's name; empty where none is known.
    pub route: Text,
    /// What the route's path names.
    pub params: Labels,
    /// The client, past trusted proxies.
    pub client_ip: Option<IpAddr>,
    /// Who holds the connection.
    pub peer_ip: Option<IpAddr>,
    /// Whether it came over TLS.
    pub tls: bool,
    /// `1.1`, `2` or `3`.
    pub http: Text,
    /// The request's id.
    pub id: Text,
    /// When it came, in milliseconds since 1970.
    #[serde(rename = "time")]
    pub time_ms: i64,
    /// Length of its body in bytes, if told.
    pub length: Option<u64>,
    /// Header fields as they came; names in lower case. Credentials are masked already.
    #[serde(deserialize_with = "members", serialize_with = "as_members")]
    pub headers: Vec<(Text, Text)>,
    /// The query as it came.
    pub query: Text,
    /// The body of a webhook, as it came.
    #[serde(skip_serializing)]
    pub body: Bytes,
    /// The plugin's hook that a webhook is for.
    pub hook: Text,
    /// Whether a webhook's sender showed that it knows the hook's secret.
    pub verified: bool,
    /// What its sender calls the delivery.
    pub delivery_id: Option<Text>,
}

/// Header fields that carry credentials: a script reads `***`.
pub const CREDENTIAL_HEADERS: &[&str] = &[
    "authorization",
    "cookie",
    "proxy-authorization",
    "x-access-token",
    "x-api-key",
    "x-gitlab-token",
    "x-webhook-token",
];

/// Who is asking.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Principal {
    /// `anonymous`, `user`, `service` or `key`.
    pub kind: Text,
    /// The account's number; empty for nobody.
    pub id: Text,
    /// The account's name.
    pub name: Text,
    /// Whether it administers the platform.
    pub admin: bool,
    /// Organizations and the role held in each.
    pub roles: Labels,
    /// The token's scopes.
    pub scopes: Vec<Text>,
    /// The token's number.
    pub token_id: Text,
}

/// An upload that is about to begin.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Upload {
    /// Whose it becomes.
    pub organization: Text,
    /// Box; empty for an upload without a target.
    #[serde(rename = "box")]
    pub name: Text,
    /// Version.
    pub version: Text,
    /// Provider.
    pub provider: Text,
    /// Architecture.
    pub architecture: Text,
    /// Length in bytes, if told.
    pub size: Option<u64>,
    /// The checksum that was declared.
    pub checksum: Option<Text>,
    /// Its type.
    pub checksum_type: Option<Text>,
    /// Whether it may be gone on with after a cut.
    pub resumable: bool,
    /// Who sends it.
    #[serde(deserialize_with = "shared")]
    pub principal: Arc<Principal>,
    /// The request that began it.
    #[serde(rename = "req", deserialize_with = "shared")]
    pub request: Arc<Request>,
}

/// A blob under a name.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Blob {
    /// Whose it is.
    pub organization: Text,
    /// Box; empty for a blob without a name.
    #[serde(rename = "box")]
    pub name: Text,
    /// Version.
    pub version: Text,
    /// Provider.
    pub provider: Text,
    /// Architecture.
    pub architecture: Text,
    /// The blob's key.
    pub id: Text,
    /// Length in bytes.
    pub size: u64,
    /// Its SHA-256 in hexadecimal; its BLAKE3 while that is not known.
    pub checksum: Text,
    /// `sha256` or `blake3`.
    pub checksum_type: Text,
    /// Its SHA-256 in hexadecimal, once it is known.
    pub sha256: Option<Text>,
    /// Its BLAKE3 in hexadecimal.
    pub blake3: Text,
    /// When it was stored, in milliseconds since 1970.
    #[serde(rename = "created_at")]
    pub created_ms: i64,
    /// The store that holds it.
    pub store: Text,
    /// Its labels.
    pub labels: Labels,
    /// Whether no blob of these bytes was there before.
    pub is_new: bool,
}

/// The head of an answer.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Its header fields; names in lower case.
    #[serde(deserialize_with = "members")]
    pub headers: Vec<(Text, Text)>,
    /// `hit`, `miss` or `bypass`.
    pub cache: Text,
}

/// Something that happened.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Event {
    /// `box.uploaded`, ...
    pub name: Text,
    /// What is told of it.
    pub data: serde_json::Value,
    /// Its id.
    pub id: Text,
    /// When, in milliseconds since 1970.
    #[serde(rename = "time")]
    pub time_ms: i64,
    /// How many events led to it.
    pub depth: u32,
    /// The plugins that led to it.
    pub causes: Vec<Text>,
}

/// An endpoint that is told of events. Nothing of its secrets is here.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Endpoint {
    /// Its id.
    pub id: Text,
    /// What its owner says of it.
    pub description: Text,
    /// The host that it is at.
    #[serde(alias = "host")]
    pub url_host: Text,
    /// The names of events that it wants: `box.uploaded`, `box.*`, `*`.
    pub events: Vec<Text>,
    /// How bodies are laid out: `compat` or `standard`.
    pub format: Text,
}

/// The image of a runtime.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Image {
    /// Length in bytes.
    pub size: u64,
    /// Its BLAKE3 in hexadecimal.
    pub checksum: Text,
    /// The runtime's name.
    pub runtime: Text,
    /// What its sender calls the file, where that is told; else the name that it has here.
    pub filename: Text,
    /// Who asks.
    #[serde(deserialize_with = "shared")]
    pub principal: Arc<Principal>,
}

/// An image that is about to be pushed to another runtime. Nothing of that one's key is here.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Push {
    /// The host that it goes to.
    pub target_host: Text,
    /// The URL.
    pub target: Text,
    /// What is pushed.
    #[serde(deserialize_with = "shared")]
    pub image: Arc<Image>,
}

/// A tick of a schedule.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tick {
    /// When it was due, in milliseconds since 1970.
    #[serde(rename = "time")]
    pub time_ms: i64,
}

/// What every function of a provider is told first: on whose behalf it acts.
#[derive(Clone, Default, Deserialize)]
#[serde(from = "BTreeMap<String, String>")]
pub struct Context {
    /// The caller's credentials, by the keys of `credential_fields`. No script reads them.
    pub auth: BTreeMap<String, String>,
    /// The request's id.
    pub id: Text,
    /// What its path names.
    pub params: Labels,
    /// What was done on the caller's behalf.
    pub(crate) deeds: Arc<Deeds>,
}

/// What calls on somebody's behalf did outside, as far as others must know.
#[derive(Debug, Default)]
pub(crate) struct Deeds {
    /// Requests that may have changed something.
    changes: AtomicU32,
    /// For how many seconds a cloud wants to be left alone.
    rest: AtomicU64,
}

impl Deeds {
    /// A request goes out that may change something.
    pub(crate) fn begin_change(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// It changed nothing: it was not sent, or refused.
    pub(crate) fn changed_nothing(&self) {
        self.changes.fetch_sub(1, Ordering::Relaxed);
    }

    /// A cloud says when it may be asked again.
    pub(crate) fn told_to_rest(&self, seconds: u64) {
        self.rest.store(seconds, Ordering::Relaxed);
    }
}

impl From<BTreeMap<String, String>> for Context {
    fn from(auth: BTreeMap<String, String>) -> Self {
        Self::of(auth)
    }
}

impl Context {
    /// For whoever has these credentials.
    pub fn of(auth: BTreeMap<String, String>) -> Self {
        Self {
            auth,
            ..Self::default()
        }
    }

    /// The same, in a request.
    #[must_use]
    pub fn within(mut self, id: &str, params: Labels) -> Self {
        self.id = id.into();
        self.params = params;
        self
    }

    /// Whether a request went out that changed something, or of which nobody knows whether it did.
    pub fn may_have_changed(&self) -> bool {
        self.deeds.changes.load(Ordering::Relaxed) > 0
    }

    /// For how long the cloud wants to be left alone, if it said so.
    pub fn rest(&self) -> Option<Duration> {
        let seconds = self.deeds.rest.load(Ordering::Relaxed);
        (seconds > 0).then(|| Duration::from_secs(seconds))
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("auth", &self.auth.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// Header fields as a map; a list of values is one field each.
fn members<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(Text, Text)>, D::Error> {
    let map = BTreeMap::<String, serde_json::Value>::deserialize(deserializer)?;
    let mut fields = Vec::new();
    for (name, value) in map {
        let values = match value {
            serde_json::Value::Array(values) => values,
            value => vec![value],
        };
        for value in values {
            let text = match value {
                serde_json::Value::String(text) => text,
                other => other.to_string(),
            };
            fields.push((name.to_lowercase().into(), text.into()));
        }
    }
    Ok(fields)
}

/// The same the other way, in the order in which they came where that counts: within one name.
fn as_members<S: Serializer>(fields: &[(Text, Text)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut all: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, value) in fields {
        all.entry(name).or_default().push(value);
    }
    let mut map = serializer.serialize_map(Some(all.len()))?;
    for (name, values) in all {
        map.serialize_entry(name, &values)?;
    }
    map.end()
}

fn shared<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Arc<T>, D::Error> {
    T::deserialize(deserializer).map(Arc::new)
}
