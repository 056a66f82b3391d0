//! Whether whoever sent a webhook knows the hook's secret: over the bytes as they came, in constant time.
//!
//! What the head alone shows is compared before a byte of the body is read. Nothing here reads a clock or the rows.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boxgate_scripting::inbound::{InboundTerms, Verify};
use boxgate_storage::clock::UnixMillis;
use http::{HeaderMap, header};
use ring::hmac;
use sha2::{Digest as _, Sha256};

/// Why a sender is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// What would show it is not there.
    #[error("the header field {0} is missing")]
    Missing(String),
    /// It is there, and says nothing that could be compared.
    #[error("the header field {0} {1}")]
    Malformed(String, &'static str),
    /// It is of another secret, or of another body.
    #[error("what the header field {0} says is not of this hook's secret and these bytes")]
    Wrong(String),
    /// It was signed too long ago, or for later.
    #[error(
        "it was signed {off_s} s from now, and {tolerance_s} s are let through (hooks.tolerance)"
    )]
    Stale {
        /// How far from now.
        off_s: u64,
        /// How far it may be.
        tolerance_s: u64,
    },
    /// What the operator gave as the secret is none.
    #[error("the hook's secret begins with whsec_ and is no base64 behind it")]
    Secret,
}

/// A sender whose head was looked at.
#[derive(Debug)]
pub struct Sender<'h> {
    verify: Verify,
    /// Where the proof stood.
    field: String,
    proof: Proof<'h>,
    id: Option<&'h str>,
}

#[derive(Debug)]
enum Proof<'h> {
    /// Nothing more is needed.
    Given,
    /// HMAC-SHA256 of what stands before the body, and of the body: one of these.
    Signed {
        key: Box<hmac::Key>,
        before: String,
        tags: Vec<Vec<u8>>,
    },
    /// GitLab's of old has no id of a delivery.
    GivenFor(&'h str),
}

/// Most signatures of one request: two secrets are live while one replaces the other.
const MOST_SIGNATURES: usize = 16;
/// Longest id of a delivery, in bytes.
const MOST_ID_BYTES: usize = 256;

impl<'h> Sender<'h> {
    /// Looks at a head.
    ///
    /// # Errors
    /// [`Doubt`], where the head says enough for that.
    pub fn of_head(
        terms: &InboundTerms,
        secret: &str,
        headers: &'h HeaderMap,
        (now, tolerance): (UnixMillis, Duration),
    ) -> Result<Self, Doubt> {
        let verify = terms.verify;
        let key = |bytes: &[u8]| Box::new(hmac::Key::new(hmac::HMAC_SHA256, bytes));
        let (field, proof, id) = match verify {
            Verify::None => {
                let id = one(headers, terms.delivery_header())?;
                (String::new(), Proof::Given, id)
            }
            Verify::Token => {
                let field = token(headers, secret)?;
                (field, Proof::Given, one(headers, terms.delivery_header())?)
            }
            Verify::Gitlab => {
                const FIELD: &str = "x-gitlab-token";
                equal(FIELD, needed(headers, FIELD)?, secret)?;
                let id = one(headers, "idempotency-key")?;
                let event = one(headers, "x-gitlab-event-uuid")?;
                let proof = match (id, event) {
                    // Events that a webhook led to share this one: it names a delivery with the body alone.
                    (None, Some(event)) => Proof::GivenFor(event),
                    _ => Proof::Given,
                };
                (FIELD.to_owned(), proof, id)
            }
            Verify::Github => {
                const FIELD: &str = "x-hub-signature-256";
                let tags = vec![hexadecimal(FIELD, needed(headers, FIELD)?, true)?];
                let proof = Proof::Signed {
                    key: key(secret.as_bytes()),
                    before: String::new(),
                    tags,
                };
                let id = needed(headers, "x-github-delivery")?;
                (FIELD.to_owned(), proof, Some(id))
            }
            Verify::Hmac => {
                let field = terms.signature_header();
                let tags = vec![hexadecimal(field, needed(headers, field)?, false)?];
                let proof = Proof::Signed {
                    key: key(secret.as_bytes()),
                    before: String::new(),
                    tags,
                };
                (
                    field.to_owned(),
                    proof,
                    one(headers, terms.delivery_header())?,
                )
            }
            Verify::Standard => {
                const FIELD: &str = "webhook-signature";
                let id = needed(headers, "webhook-id")?;
                let time = needed(headers, "webhook-timestamp")?;
                fresh(time, now, tolerance)?;
                let proof = Proof::Signed {
                    key: key(&standard_key(secret)?),
                    before: format!("{id}.{time}."),
                    tags: standard_tags(needed(headers, FIELD)?)?,
                };
                (FIELD.to_owned(), proof, Some(id))
            }
        };
        if id.is_some_and(|id| id.len() > MOST_ID_BYTES) {
            return Err(Doubt::Malformed(
                "of the delivery's id".to_owned(),
                "is longer than 256 bytes",
            ));
        }
        Ok(Self {
            verify,
            field,
            proof,
            id,
        })
    }

    /// Looks at the body that came with it. The id of the delivery, where it has one that is the same when it is sent
    /// once more.
    ///
    /// # Errors
    /// [`Doubt::Wrong`].
    pub fn with_body(self, body: &[u8]) -> Result<Option<String>, Doubt> {
        let digest = || hex::encode(Sha256::digest(body));
        match self.proof {
            Proof::Given => {}
            Proof::GivenFor(event) => return Ok(Some(format!("{event} {}", digest()))),
            Proof::Signed { key, before, tags } => {
                let signed;
                let bytes = if before.is_empty() {
                    body
                } else {
                    signed = [before.as_bytes(), body].concat();
                    &signed
                };
                if !tags
                    .iter()
                    .any(|tag| hmac::verify(&key, bytes, tag).is_ok())
                {
                    return Err(Doubt::Wrong(self.field));
                }
            }
        }
        match (self.id, self.verify) {
            (Some(id), _) => Ok(Some(id.to_owned())),
            // Nothing but its bytes tells it from others.
            (None, Verify::Hmac) => Ok(Some(format!("sha256 {}", digest()))),
            (None, _) => Ok(None),
        }
    }
}

/// A field that stands there once.
fn one<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, Doubt> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Doubt::Malformed(name.to_owned(), "stands there twice"));
    }
    match value.to_str() {
        Ok("") => Ok(None),
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(Doubt::Malformed(name.to_owned(), "is no plain text")),
    }
}

fn needed<'h>(headers: &'h HeaderMap, name: &str) -> Result<&'h str, Doubt> {
    one(headers, name)?.ok_or_else(|| Doubt::Missing(name.to_owned()))
}

/// Two hashes are compared in constant time, and tell nothing of the lengths.
fn equal(field: &str, given: &str, secret: &str) -> Result<(), Doubt> {
    if blake3::hash(given.as_bytes()) == blake3::hash(secret.as_bytes()) {
        Ok(())
    } else {
        Err(Doubt::Wrong(field.to_owned()))
    }
}

fn token(headers: &HeaderMap, secret: &str) -> Result<String, Doubt> {
    const FIELD: &str = "x-webhook-token";
    if let Some(given) = one(headers, FIELD)? {
        equal(FIELD, given, secret)?;
        return Ok(FIELD.to_owned());
    }
    let field = header::AUTHORIZATION.as_str();
    let given = needed(headers, field)?;
    // RFC 9110 §11.1: the scheme's name has no case. Some senders put the bare secret there.
    let bare = match given.split_once(' ') {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer") => rest.trim(),
        _ => given,
    };
    equal(field, bare, secret)?;
    Ok(field.to_owned())
}

fn hexadecimal(field: &str, text: &str, prefixed: bool) -> Result<Vec<u8>, Doubt> {
    let digits = match text.strip_prefix("sha256=") {
        Some(digits) => digits,
        None if prefixed => {
            return Err(Doubt::Malformed(
                field.to_owned(),
                "does not begin with sha256=",
            ));
        }
        None => text,
    };
    hex::decode(digits)
        .map_err(|_odd| Doubt::Malformed(field.to_owned(), "is no HMAC-SHA256 in hexadecimal"))
}

fn fresh(time: &str, now: UnixMillis, tolerance: Duration) -> Result<(), Doubt> {
    let signed: i64 = time.parse().map_err(|_odd| {
        Doubt::Malformed("webhook-timestamp".to_owned(), "is no number of seconds")
    })?;
    let off_s = signed.abs_diff(now.0.div_euclid(1000));
    let tolerance_s = tolerance.as_secs();
    if off_s > tolerance_s {
        return Err(Doubt::Stale { off_s, tolerance_s });
    }
    Ok(())
}

/// What Standard Webhooks signs with: the bytes behind `whsec_`, or the secret's own.
fn standard_key(secret: &str) -> Result<Vec<u8>, Doubt> {
    match secret.strip_prefix("whsec_") {
        Some(encoded) => STANDARD.decode(encoded).map_err(|_odd| Doubt::Secret),
        None => Ok(secret.as_bytes().to_vec()),
    }
}

/// The signatures of version 1; those of others are not for us.
fn standard_tags(text: &str) -> Result<Vec<Vec<u8>>, Doubt> {
    let ours = text.split(' ').filter_map(|one| one.strip_prefix("v1,"));
    let tags: Vec<Vec<u8>> = ours
        .take(MOST_SIGNATURES)
        .filter_map(|tag| STANDARD.decode(tag).ok())
        .collect();
    if tags.is_empty() {
        let what = "has no signature v1,BASE64";
        return Err(Doubt::Malformed("webhook-signature".to_owned(), what));
    }
    Ok(tags)
}

#[cfg(test)]
mod tests;
