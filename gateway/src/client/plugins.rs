//! Plugins pushed to all nodes, as `/api/admin/plugins` tells of them.

use boxgate_scripting::bundle::Bundle;
use http::Method;
use http::header::CONTENT_TYPE;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use super::{Client, ClientError};

const PLACE: &str = "/api/admin/plugins";

/// One plugin.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PushedPlugin {
    /// Its name.
    pub plugin: String,
    /// The version that all nodes run.
    pub hash: String,
    /// Who said so.
    pub pushed_by: String,
    /// When.
    pub pushed_at: String,
    /// Versions to go back to, the newest first.
    pub versions: Vec<String>,
    /// What it was not told yet, where it must miss nothing and failed.
    #[serde(default)]
    pub behind: Option<Behind>,
}

/// How far a plugin is behind.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Behind {
    /// Events that it was not told.
    pub events: i64,
    /// Since when.
    pub since: String,
    /// Failures at the next event.
    pub tries: u32,
    /// When it is told again.
    pub next_try_at: String,
    /// How it failed.
    pub error: Option<String>,
}

/// What a push came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pushed {
    /// The plugin.
    pub plugin: String,
    /// The version that all nodes run from now on.
    pub hash: String,
    /// What is odd about it, though it works.
    pub warnings: Vec<String>,
}

impl Client {
    /// All of them, by name.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn pushed_plugins(&self) -> Result<Vec<PushedPlugin>, ClientError> {
        self.send(self.request(Method::GET, PLACE)).await?.json()
    }

    /// Has all nodes run it.
    ///
    /// # Errors
    /// As [`Client::send`]: 422 tells what is wrong with it.
    pub async fn push_plugin(&self, bundle: &Bundle) -> Result<Pushed, ClientError> {
        let body = serde_json::to_vec(bundle);
        let body = body.map_err(|e| ClientError::Setup(e.to_string()))?;
        let request = self.request(Method::PUT, &place(&bundle.name));
        let request = request.header(CONTENT_TYPE, "application/json").body(body);
        self.send(request).await?.json()
    }

    /// Takes it off all nodes.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn remove_plugin(&self, name: &str) -> Result<(), ClientError> {
        self.send(self.request(Method::DELETE, &place(name)))
            .await
            .map(drop)
    }
}

fn place(name: &str) -> String {
    format!("{PLACE}/{}", utf8_percent_encode(name, NON_ALPHANUMERIC))
}
