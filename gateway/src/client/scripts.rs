//! Plugins, as `/api/admin/scripts` tells of them.

use std::collections::BTreeMap;

use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Client, ClientError};

/// What a rollback came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RolledBack {
    /// The plugin.
    pub plugin: String,
    /// The version that is in force now.
    pub hash: String,
}

/// A plugin, as it stands at one node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Script {
    /// Its name.
    pub plugin: String,
    /// The version in force.
    pub hash: Option<String>,
    /// Everything else.
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

impl Client {
    /// All plugins of the gateway that answers.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn scripts(&self) -> Result<Vec<Script>, ClientError> {
        let request = self.request(Method::GET, "/api/admin/scripts");
        self.send(request).await?.json()
    }

    /// Goes back to a version of a plugin that worked: `to`, or the one before.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn roll_back_script(
        &self,
        plugin: &str,
        to: Option<&str>,
    ) -> Result<RolledBack, ClientError> {
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let to = to.map_or(String::new(), |to| format!("?to={}", encoded(to)));
        let place = format!("/api/admin/scripts/{}/rollback{to}", encoded(plugin));
        self.send(self.request(Method::POST, &place)).await?.json()
    }
}
