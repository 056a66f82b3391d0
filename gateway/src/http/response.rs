//! Answers that are all there: JSON, text, bytes, nothing. Streams are made where they come from.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Full};
use serde::Serialize;

use crate::server::{OutboundBody, Piece};

/// `application/json`.
pub const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
/// Plain text.
pub const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// A page.
pub const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// A body that is all there.
pub fn full(bytes: impl Into<Bytes>) -> OutboundBody {
    Full::new(Piece::Bytes(bytes.into()))
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// No body.
pub fn empty_body() -> OutboundBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// `body` as compact JSON. A value that cannot be written is a defect of ours: 500, and said in the
/// log.
pub fn json(status: StatusCode, body: &impl Serialize) -> Response<OutboundBody> {
    match serde_json::to_vec(body) {
        Ok(text) => bytes(status, JSON, text),
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written as JSON");
            empty(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

/// Only a status.
pub fn empty(status: StatusCode) -> Response<OutboundBody> {
    let mut response = Response::new(empty_body());
    *response.status_mut() = status;
    response
}

/// Plain text.
pub fn text(status: StatusCode, body: impl Into<String>) -> Response<OutboundBody> {
    bytes(status, TEXT, body.into())
}

/// A page.
pub fn html(status: StatusCode, body: impl Into<String>) -> Response<OutboundBody> {
    bytes(status, HTML, body.into())
}

/// Bytes of a given media type.
pub fn bytes(
    status: StatusCode,
    content_type: HeaderValue,
    body: impl Into<Bytes>,
) -> Response<OutboundBody> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}
