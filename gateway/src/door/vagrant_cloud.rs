//! Vagrant Cloud's API, by which `vagrant cloud` and Packer publish: every call under `/api/v1` and `/api/v2`, which
//! differ by nothing but whether architectures are named.
//!
//! Where clients name a provider alone, its default architecture is meant. Error bodies: `{"errors": [text], "success":
//! false}` with the statuses that clients know, so that what is 400 or 409 elsewhere is 422 here.

pub mod account;
pub mod body;
pub mod boxes;
pub mod providers;
pub mod search;
pub mod shape;
pub mod upload;
pub mod versions;

use http::{Response, StatusCode};
use serde_json::json;

use crate::http::response;
use crate::refusal::Refusal;
use crate::server::OutboundBody;

/// What a call is answered with.
pub type Answer = Result<Response<OutboundBody>, Refusal>;

/// A refusal in the shape of Vagrant Cloud.
pub fn refuse(refusal: &Refusal) -> Response<OutboundBody> {
    let status = match refusal.status {
        StatusCode::BAD_REQUEST | StatusCode::CONFLICT => StatusCode::UNPROCESSABLE_ENTITY,
        status => status,
    };
    let mut document = json!({ "errors": [refusal.message], "success": false });
    if let Some(code) = refusal.code {
        document["code"] = code.into();
    }
    response::json(status, &document)
}

/// Whether a path is one of this door's, or would be if there were anything.
pub fn is_below(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|path| {
        ["/api/v1/", "/api/v2/", "/uploads/"]
            .iter()
            .any(|root| path.starts_with(root))
    })
}
