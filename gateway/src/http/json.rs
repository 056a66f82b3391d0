//! JSON bodies of requests: bounded in length, depth and time before anything is built from them.

use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::config::settings;
use crate::server::{BodyError, InboundBody};

/// How long a JSON body may take in all; it is at most a mebibyte or so.
const TIME: Duration = Duration::from_secs(10);

/// Why a JSON body is not taken; each text names the rule, for the client.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// The body itself failed.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// It is too long: 413.
    #[error("a JSON body must be at most {limit} bytes")]
    TooLarge {
        /// The most, in bytes.
        limit: usize,
    },
    /// It is nested too deeply.
    #[error("a JSON body must be at most {limit} levels deep")]
    TooDeep {
        /// The most.
        limit: usize,
    },
    /// It took too long: 408.
    #[error("a JSON body must arrive within 10 seconds")]
    TooSlow,
    /// It is no JSON, or not of the shape that is wanted.
    #[error("malformed JSON: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// Reads all of `body` as a `T`; an empty body is an empty object, which is what clients mean by it.
///
/// # Errors
/// [`JsonError`]. A declared length beyond the limit is told before a byte is read.
pub async fn read<T: DeserializeOwned>(
    body: &mut InboundBody,
    limits: &settings::Limits,
) -> Result<T, JsonError> {
    let bytes = tokio::time::timeout(TIME, read_bytes(body, limits.json_body_bytes))
        .await
        .map_err(|_elapsed| JsonError::TooSlow)??;
    parse(&bytes, limits.json_depth)
}

async fn read_bytes(body: &mut InboundBody, limit: usize) -> Result<Vec<u8>, JsonError> {
    if body
        .declared_length()
        .is_some_and(|length| length > limit as u64)
    {
        return Err(JsonError::TooLarge { limit });
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = body.chunk().await? {
        if bytes.len() + chunk.len() > limit {
            return Err(JsonError::TooLarge { limit });
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Parses what is all there.
///
/// # Errors
/// [`JsonError::TooDeep`] and [`JsonError::Malformed`].
pub fn parse<T: DeserializeOwned>(bytes: &[u8], depth: usize) -> Result<T, JsonError> {
    if is_deeper_than(bytes, depth) {
        return Err(JsonError::TooDeep { limit: depth });
    }
    let bytes = if bytes.trim_ascii().is_empty() {
        b"{}"
    } else {
        bytes
    };
    Ok(serde_json::from_slice(bytes)?)
}

/// Counts brackets outside of texts; malformed JSON may be counted wrongly, and is refused later.
fn is_deeper_than(bytes: &[u8], limit: usize) -> bool {
    let mut depth = 0_usize;
    let mut in_text = false;
    let mut escaped = false;
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => {
                depth += 1;
                if depth > limit {
                    return true;
                }
            }
            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::Value;

    use super::*;

    async fn read_text(text: &str) -> Result<Value, JsonError> {
        let mut limits = crate::config::defaults().limits;
        limits.json_body_bytes = 1000;
        let mut body = InboundBody::from(Bytes::copy_from_slice(text.as_bytes()));
        read(&mut body, &limits).await
    }

    #[tokio::test]
    async fn a_body_is_read_and_an_empty_one_is_an_empty_object() {
        assert_eq!(
            read_text("{\"a\":[1]}").await.unwrap(),
            serde_json::json!({"a": [1]})
        );
        assert_eq!(read_text("").await.unwrap(), serde_json::json!({}));
        assert_eq!(read_text(" \r\n").await.unwrap(), serde_json::json!({}));
    }

    #[tokio::test]
    async fn too_large_too_deep_and_malformed_bodies_name_the_rule() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(read_text(&nested(32)).await.is_ok());
        assert!(matches!(
            read_text(&nested(33)).await,
            Err(JsonError::TooDeep { limit: 32 })
        ));
        let in_text = format!("\"\\\"{}\"", "[".repeat(40));
        assert!(read_text(&in_text).await.is_ok());
        let long = format!("\"{}\"", "a".repeat(999));
        assert!(matches!(
            read_text(&long).await,
            Err(JsonError::TooLarge { limit: 1000 })
        ));
        assert!(matches!(
            read_text("{\"a\":}").await,
            Err(JsonError::Malformed(_))
        ));
    }
}
