//! What a push says of a box beside its bytes: texts, and that a version is released. By Vagrant Cloud's API, which has
//! both.

use http::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use boxgate_storage::catalog::BoxRef;

use super::{Client, ClientError};

/// What is said of a box and of a version; what is left open stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Texts {
    /// Of the box, in one line.
    pub short_description: Option<String>,
    /// Of the box.
    pub description: Option<String>,
    /// Of the version.
    pub version_description: Option<String>,
}

impl Client {
    /// Says it of the box and the version that a file belongs to.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn describe(&self, file: &BoxRef, texts: &Texts) -> Result<(), ClientError> {
        let of_box = [
            ("short_description", &texts.short_description),
            ("description", &texts.description),
        ];
        let of_version = [("description", &texts.version_description)];
        for (place, level, texts) in [
            (box_place(file), "box", &of_box[..]),
            (version_place(file), "version", &of_version[..]),
        ] {
            let said: Map<String, Value> = texts
                .iter()
                .filter_map(|(name, text)| Some(((*name).to_owned(), text.as_deref()?.into())))
                .collect();
            if said.is_empty() {
                continue;
            }
            let document = json!({ level: said }).to_string();
            let request = self
                .request(Method::PUT, &place)
                .header(http::header::CONTENT_TYPE, "application/json")
                .body(document);
            self.send(request).await?;
        }
        Ok(())
    }

    /// Releases the version that a file belongs to; one that is released stays so.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn release(&self, file: &BoxRef) -> Result<(), ClientError> {
        let place = format!("{}/release", version_place(file));
        self.send(self.request(Method::PUT, &place)).await.map(drop)
    }
}

/// Whether an answer says that the gateway has no such API at all.
pub fn is_closed(error: &ClientError) -> bool {
    error.status() == Some(StatusCode::NOT_FOUND.as_u16())
}

fn box_place(file: &BoxRef) -> String {
    let name = |name: &str| utf8_percent_encode(name, NON_ALPHANUMERIC).to_string();
    let (organization, box_name) = (name(file.organization.as_str()), name(file.name.as_str()));
    format!("/api/v2/box/{organization}/{box_name}")
}

fn version_place(file: &BoxRef) -> String {
    let version = utf8_percent_encode(file.version.as_str(), NON_ALPHANUMERIC);
    format!("{}/version/{version}", box_place(file))
}
