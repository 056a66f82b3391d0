//! Uploads in progress, as `/api/admin/uploads` tells of them.

use http::Method;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::Value;

use super::{Client, ClientError};

/// Uploads asked for at once.
const PAGE: usize = 500;

/// One upload. What a newer gateway says besides is in [`Self::document`].
#[derive(Debug, Clone)]
pub struct Upload {
    /// What is known of it.
    pub told: Told,
    /// All that the gateway said.
    pub document: Value,
}

/// What is known of an upload.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    /// Its id.
    pub id: String,
    /// `open`, `completing`, `held`, `quarantined`, `done`, `rejected`, `aborted` or `lost`.
    pub state: String,
    /// Who sends it.
    pub owner: Owner,
    /// Whose it becomes.
    pub organization: Named,
    /// Under which name, if any.
    pub target: Option<Target>,
    /// Committed bytes.
    pub offset: u64,
    /// Bytes in all, if that is known.
    pub length: Option<u64>,
    /// Whether a request feeds it at this moment.
    pub busy: bool,
    /// Seconds since it was made.
    pub age_seconds: u64,
    /// Seconds since its offset last moved.
    pub idle_seconds: u64,
    /// Over its life so far, rests included.
    pub mean_bytes_per_second: Option<u64>,
    /// When it was made.
    pub created_at: String,
    /// When it is given up if nobody goes on with it.
    pub expires_at: Option<String>,
    /// Why it is held or quarantined.
    #[serde(default)]
    pub reason: Option<String>,
    /// When a held one is asked about again.
    #[serde(default)]
    pub asked_again_at: Option<String>,
}

/// Who sends an upload.
#[derive(Debug, Clone, Deserialize)]
pub struct Owner {
    /// The account; absent once it was deleted.
    pub username: Option<String>,
    /// The name under which it acts: a service account's own.
    pub actor: Option<String>,
}

/// Something with a name; absent once it was deleted.
#[derive(Debug, Clone, Deserialize)]
pub struct Named {
    /// The name.
    pub name: Option<String>,
}

/// What an upload becomes: an ISO image, or the file of a box.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Target {
    /// Name of the ISO image.
    pub iso: Option<String>,
    /// Box.
    pub r#box: String,
    /// Version.
    pub version: String,
    /// Provider.
    pub provider: String,
    /// Architecture.
    pub architecture: String,
}

impl Upload {
    fn read(document: Value) -> serde_json::Result<Self> {
        let told = Told::deserialize(&document)?;
        Ok(Self { told, document })
    }
}

impl Client {
    /// One page of uploads in progress, behind the id `after`; of one organization, if given; or only those that
    /// are held or quarantined. An empty page is the end.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn uploads(
        &self,
        organization: Option<&str>,
        after: Option<&str>,
        withheld: bool,
    ) -> Result<Vec<Upload>, ClientError> {
        let mut path = format!("/api/admin/uploads?limit={PAGE}");
        let state = withheld.then_some("withheld");
        for (name, value) in [
            ("organization", organization),
            ("after", after),
            ("state", state),
        ] {
            if let Some(value) = value {
                let value = utf8_percent_encode(value, NON_ALPHANUMERIC);
                path.extend(["&", name, "=", &value.to_string()]);
            }
        }
        let answer = self.send(self.request(Method::GET, &path)).await?;
        let page: Vec<Value> = answer.json()?;
        let page: serde_json::Result<_> = page.into_iter().map(Upload::read).collect();
        page.map_err(|e| self.odd(&e.to_string()))
    }

    /// One upload, in whatever state.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn upload(&self, id: &str) -> Result<Upload, ClientError> {
        let answer = self.send(self.request(Method::GET, &place(id))).await?;
        Upload::read(answer.json()?).map_err(|e| self.odd(&e.to_string()))
    }

    /// Publishes one that is held or quarantined; what it became.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn release_upload(&self, id: &str) -> Result<Upload, ClientError> {
        let path = format!("{}/release", place(id));
        let answer = self.send(self.request(Method::POST, &path)).await?;
        Upload::read(answer.json()?).map_err(|e| self.odd(&e.to_string()))
    }

    /// Gives one up.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn abort_upload(&self, id: &str) -> Result<(), ClientError> {
        self.send(self.request(Method::DELETE, &place(id)))
            .await
            .map(drop)
    }
}

fn place(id: &str) -> String {
    format!(
        "/api/admin/uploads/{}",
        utf8_percent_encode(id, NON_ALPHANUMERIC)
    )
}
