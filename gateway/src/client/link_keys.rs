//! Keys of download links, as `/api/admin/link-keys` tells of them.

use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use super::{Client, ClientError};

const PLACE: &str = "/api/admin/link-keys";

/// One key; its secret never leaves the gateway.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkKey {
    /// Its id, which stands at the front of each token that it signed.
    pub id: i64,
    /// When it was made.
    pub created_at: String,
    /// When its links were ended.
    pub revoked_at: Option<String>,
}

impl Client {
    /// All of them, the newest first.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn link_keys(&self) -> Result<Vec<LinkKey>, ClientError> {
        self.send(self.request(Method::GET, PLACE)).await?.json()
    }

    /// Makes one that signs from now on.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn rotate_link_key(&self) -> Result<LinkKey, ClientError> {
        self.send(self.request(Method::POST, PLACE)).await?.json()
    }

    /// Ends all links that one signed.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn revoke_link_key(&self, id: &str) -> Result<(), ClientError> {
        let id = utf8_percent_encode(id, NON_ALPHANUMERIC);
        let place = format!("{PLACE}/{id}");
        self.send(self.request(Method::DELETE, &place)).await?;
        Ok(())
    }
}
