//! One request on its way through a door: its head, its body, and what was found out about it.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use boxgate_storage::catalog::{BoxRef, NameError};
use boxgate_storage::metadata::accounts::Organization;
use boxgate_storage::metadata::catalog::BoxRow;
use boxgate_storage::metadata::uploads::NamedUpload;
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::auth::{Grant, Principal, no_box, no_organization, no_token};
use crate::config::settings::Limits;
use crate::refusal::Refusal;
use crate::request::RequestFacts;
use crate::route::{PathNames, Row};
use crate::server::InboundBody;

/// A request that was routed, authenticated and let through.
#[derive(Debug)]
pub struct Call {
    /// Method, URI, headers.
    pub head: Parts,
    /// The body, unread.
    pub body: InboundBody,
    /// The row that it matched.
    pub row: &'static Row,
    /// Values of the names in the row's path.
    pub names: PathNames,
    /// What the policy found out.
    pub grant: Grant,
    /// What the access log will say.
    pub facts: Arc<RequestFacts>,
}

impl Call {
    /// A name from the path, parsed.
    ///
    /// # Errors
    /// 400 with the rule that it breaks.
    pub fn name<T: FromStr<Err = NameError>>(&self, name: &str) -> Result<T, Refusal> {
        self.names.value(name).parse().map_err(Refusal::name)
    }

    /// The full name of a box file, from the path's five names.
    ///
    /// # Errors
    /// 400 with the rule that one of them breaks.
    pub fn box_ref(&self) -> Result<BoxRef, Refusal> {
        Ok(BoxRef {
            organization: self.name("org")?,
            name: self.name("box")?,
            version: self.name("version")?,
            provider: self.name("provider")?,
            architecture: self.name("arch")?,
        })
    }

    /// The caller.
    ///
    /// # Errors
    /// 403 without one.
    pub fn principal(&self) -> Result<&Principal, Refusal> {
        self.grant.principal.as_ref().ok_or_else(no_token)
    }

    /// The organization that the policy looked up.
    ///
    /// # Errors
    /// 404 when it does not exist.
    pub fn organization(&self) -> Result<&Organization, Refusal> {
        self.grant
            .organization
            .as_ref()
            .ok_or_else(|| no_organization(&self.names))
    }

    /// The box that the policy looked up.
    ///
    /// # Errors
    /// 404 when it does not exist.
    pub fn row(&self) -> Result<&BoxRow, Refusal> {
        self.grant.row.as_ref().ok_or_else(|| no_box(&self.names))
    }

    /// The upload that the policy looked up.
    ///
    /// # Errors
    /// 404 when the row's policy looks none up.
    pub fn upload(&self) -> Result<&NamedUpload, Refusal> {
        let missing = || Refusal::missing("Upload", self.names.value("upload"));
        self.grant.upload.as_deref().ok_or_else(missing)
    }

    /// A field of the query, decoded.
    pub fn query(&self, name: &str) -> Option<String> {
        crate::auth::credential::query_value(self.head.uri.query()?, name)
    }

    /// The body as JSON, read within its limits of size, depth and time. An empty body reads as `{}`.
    ///
    /// # Errors
    /// 413, 408, and 400 with the place where the JSON goes wrong.
    pub async fn json<T: DeserializeOwned>(&mut self, limits: &Limits) -> Result<T, Refusal> {
        let what = ("JSON body", "limits.json_body");
        let read = self.small_body(what, limits.json_body_bytes, limits.json_timeout);
        let text = read.await?;
        if depth(&text) > limits.json_depth {
            return Err(Refusal::invalid(format!(
                "The JSON body is nested deeper than {} levels (limits.json_depth).",
                limits.json_depth
            )));
        }
        // Serde would fill an object's fields from an array, by position.
        if text
            .iter()
            .find(|b| !b.is_ascii_whitespace())
            .is_some_and(|first| *first != b'{')
        {
            return Err(Refusal::invalid("The JSON body must be an object."));
        }
        let text = if text.is_empty() {
            b"{}".as_slice()
        } else {
            &text
        };
        serde_json::from_slice(text)
            .map_err(|e| Refusal::invalid(format!("The JSON body is not right: {}.", said(&e))))
    }

    /// A body that is held whole, within a limit (of that key) and a time.
    ///
    /// # Errors
    /// 413, 408, and 400 where it ends early.
    pub async fn small_body(
        &mut self,
        what: (&str, &str),
        limit: usize,
        time: Duration,
    ) -> Result<Vec<u8>, Refusal> {
        small(&self.head.headers, &mut self.body, what, (limit, time)).await
    }
}

/// The same of a request that is no call yet.
///
/// # Errors
/// As [`Call::small_body`].
pub async fn small(
    headers: &HeaderMap,
    body: &mut InboundBody,
    (what, key): (&str, &str),
    (limit, time): (usize, Duration),
) -> Result<Vec<u8>, Refusal> {
    let too_large = || {
        Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("The {what} is larger than {limit} bytes ({key})."),
        )
        .closing()
    };
    let declared = headers
        .get(CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok()?.parse().ok());
    if declared.is_some_and(|declared: usize| declared > limit) {
        return Err(too_large());
    }
    let read = async {
        let mut text = Vec::new();
        while let Some(chunk) = body
            .chunk()
            .await
            .map_err(|_cut| Refusal::invalid("The body ended early.").closing())?
        {
            if text.len() + chunk.len() > limit {
                return Err(too_large());
            }
            text.extend_from_slice(&chunk);
        }
        Ok(text)
    };
    timeout(time, read).await.map_err(|_elapsed| {
        Refusal::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("The {what} did not arrive in time."),
        )
        .closing()
    })?
}

/// How deep brackets nest, counted before anything is allocated for them.
fn depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0usize, 0usize);
    let (mut in_string, mut escaped) = (false, false);
    for &byte in text {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'[' | b'{') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// What is wrong with JSON, in words of JSON: its reader speaks of the types of its own language.
pub fn said(error: &serde_json::Error) -> String {
    const WORDS: [(&str, &str); 16] = [
        ("expected struct ", "expected an object: "),
        ("expected internally tagged enum ", "expected an object: "),
        ("expected unit", "expected null"),
        ("expected a sequence", "expected a list"),
        ("expected a map", "expected an object"),
        ("expected a boolean", "expected true or false"),
        ("expected a string", "expected text"),
        ("type: sequence", "type: a list"),
        ("type: map", "type: an object"),
        ("type: string", "type: text"),
        ("type: boolean", "type:"),
        ("type: integer", "type: the number"),
        ("type: floating point", "type: the number"),
        ("value: integer", "value: the number"),
        ("EOF while parsing", "it ends within"),
        ("enum ", "one of the words of "),
    ];
    const NUMBERS: [&str; 10] = [
        "u8", "u16", "u32", "u64", "usize", "i8", "i16", "i32", "i64", "isize",
    ];
    let mut text = error.to_string();
    for (theirs, ours) in WORDS {
        text = text.replace(theirs, ours);
    }
    for number in NUMBERS {
        text = text.replace(&format!("expected {number}"), "expected a whole number");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_in_strings_do_not_count_as_depth() {
        for (text, expected) in [
            (r"{}", 1),
            (r#"{"a":[1,[2]]}"#, 3),
            (r#"{"a":"[[[[\"[["}"#, 1),
            (r#""\\"[["#, 2),
            ("", 0),
        ] {
            assert_eq!(depth(text.as_bytes()), expected, "{text}");
        }
    }
}
