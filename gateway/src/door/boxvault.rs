//! BoxVault's API: its public guide verbatim, and the routes that its code really has.
//!
//! Error bodies: `{"message"}` on most routes, `{"error", "message"}` on file routes; a code is added
//! wherever there is one.

pub mod accounts;
pub mod boxes;
pub mod chunks;
pub mod files;
pub mod isos;
pub mod levels;
pub mod organizations;
pub mod service_accounts;
pub mod shape;
pub mod sign_in;
pub mod upload;

use http::Response;
use serde_json::{Map, Value};

use crate::http::response;
use crate::refusal::Refusal;
use crate::server::OutboundBody;

/// A refusal in BoxVault's shape.
pub fn refuse(refusal: &Refusal) -> Response<OutboundBody> {
    let mut body = Map::new();
    if let Some(code) = refusal.code {
        body.insert("error".into(), code.into());
    }
    body.insert("message".into(), refusal.message.as_str().into());
    if let Some(details) = &refusal.details {
        body.insert("details".into(), details.clone());
    }
    response::json(refusal.status, &Value::Object(body))
}

/// `{"message": text}`, BoxVault's answer where there is nothing else to say.
pub fn message(text: impl Into<String>) -> Value {
    serde_json::json!({ "message": text.into() })
}
