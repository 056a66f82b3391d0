//! What a script answers, once it is checked: the only form in which the gateway sees it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

/// Header fields to set and to remove on the way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct HeaderChanges {
    /// Name and value; each replaces what is there.
    pub set: BTreeMap<String, String>,
    /// Names.
    pub remove: Vec<String>,
}

/// How long an answer may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Caching {
    /// By nobody.
    Bypass,
    /// That long.
    For(Duration),
}

/// An answer made by a script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reply {
    /// Status.
    pub status: u16,
    /// Body.
    pub body: Vec<u8>,
    /// Header fields.
    pub headers: BTreeMap<String, String>,
}

/// Where a client is sent instead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Redirect {
    /// Status.
    pub status: u16,
    /// `Location`.
    pub url: String,
}

/// A refusal by a script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Denial {
    /// Status.
    pub status: u16,
    /// Why, for the client.
    pub reason: String,
}

/// What `route` may change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Routing {
    /// The store that an upload goes to.
    pub backend: Option<String>,
    /// Another path for the request.
    pub rewrite: Option<String>,
    /// Header fields of the answer.
    pub headers: HeaderChanges,
    /// How long it may be kept.
    pub cache: Option<Caching>,
    /// What log and events carry.
    pub tags: BTreeMap<String, String>,
}

/// What `route` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteVerdict {
    /// Goes on, perhaps changed.
    Continue(Routing),
    /// Answers at once.
    Respond(Reply),
    /// Sends the client elsewhere.
    Redirect(Redirect),
}

/// What `authorize` says of a request that it has nothing against.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AccessTerms {
    /// Whether it grants what the gateway refuses, of a plugin that overrides.
    pub allow: bool,
    /// The policy that it is counted by.
    pub rate: Option<String>,
}

/// What `authorize` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthorizeVerdict {
    /// Goes on under these terms.
    Proceed(AccessTerms),
    /// Refuses.
    Deny(Denial),
}

/// What `on_upload_start` may ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct UploadTerms {
    /// The store that it goes to.
    pub store: Option<String>,
    /// Most bytes.
    pub max_size: Option<u64>,
    /// The type of checksum that must come with it.
    pub require_checksum: Option<String>,
    /// Bytes of a part of it.
    pub part_size: Option<u64>,
    /// Labels of what it becomes.
    pub labels: BTreeMap<String, String>,
}

/// What `on_upload_start` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UploadVerdict {
    /// Goes on under these terms.
    Accept(UploadTerms),
    /// Refuses.
    Reject(Denial),
}

/// What `on_upload_complete` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CompleteVerdict {
    /// Becomes visible, with these labels.
    Publish(BTreeMap<String, String>),
    /// Is kept out of sight.
    Quarantine(String),
    /// Is dropped.
    Reject(Denial),
}

/// What `on_download` may change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DownloadTerms {
    /// Header fields of the answer.
    pub headers: HeaderChanges,
    /// How long it may be kept.
    pub cache: Option<Caching>,
    /// Bits of it that go out in a second, at most.
    pub rate_bps: Option<u64>,
}

/// What `on_download` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DownloadVerdict {
    /// Goes on under these terms.
    Serve(DownloadTerms),
    /// Sends the client elsewhere.
    Redirect(Redirect),
    /// Refuses.
    Deny(Denial),
}

/// What `on_image_deploy` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageVerdict {
    /// It is put in place.
    Proceed,
    /// Refuses.
    Reject(Denial),
}

/// What `on_image_push` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PushVerdict {
    /// Goes on, to another runtime where one is named.
    Send(Option<String>),
    /// Refuses.
    Deny(Denial),
}

/// What `on_delete` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeleteVerdict {
    /// Goes on.
    Proceed,
    /// Refuses.
    Deny(Denial),
}

/// An event for one endpoint, by a script's will.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Directed {
    /// The endpoint's id.
    pub endpoint: String,
    /// What it is told.
    pub data: serde_json::Value,
}

/// What `on_event` answers, for the endpoints that are told of the event.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct EventVerdict {
    /// Whether none of them is.
    pub drop: bool,
    /// What they are told in its place.
    pub data: Option<serde_json::Value>,
    /// Who else is told something.
    pub deliver: Vec<Directed>,
}

/// What `transform` answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TransformVerdict {
    /// It is sent, with this data where some is given, and these header fields.
    Send {
        /// What the endpoint is told.
        data: Option<serde_json::Value>,
        /// More header fields.
        headers: BTreeMap<String, String>,
    },
    /// It is not sent.
    Drop,
}

/// What a function of a provider answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderVerdict {
    /// This; `null` where there is nothing to say.
    Value(serde_json::Value),
    /// It could not be done, and the caller is told why.
    Fail(Denial),
}

/// What `webhook_in` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookVerdict {
    /// It is done, and there is nothing to say.
    Done,
    /// It is done, and the sender is told this.
    Reply(Reply),
}
