//! The secret by which a CDN shows that a request came through it.

use std::fmt;

use http::{HeaderMap, HeaderName};

/// Fewest characters that such a secret may have.
pub const SHORTEST: usize = 16;

/// The header that must be there, and what it may say: more than one secret, so that one can follow another without a gap.
#[derive(Clone)]
pub struct Origin {
    /// The header. It is taken off before anybody else sees the request.
    pub header: HeaderName,
    secrets: Vec<blake3::Hash>,
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin")
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}

impl Origin {
    /// Keeps what is needed to compare.
    pub fn new<'s>(header: HeaderName, secrets: impl IntoIterator<Item = &'s str>) -> Self {
        let hash = |secret: &str| blake3::hash(secret.as_bytes());
        Self {
            header,
            secrets: secrets.into_iter().map(hash).collect(),
        }
    }

    /// Takes the header off a request; whether it was there once and right. Hashes compare in constant time.
    pub fn admits(&self, headers: &mut HeaderMap) -> bool {
        let mut told = headers.get_all(&self.header).iter();
        let hash = match (told.next(), told.next()) {
            (Some(one), None) => Some(blake3::hash(one.as_bytes())),
            _ => None,
        };
        headers.remove(&self.header);
        hash.is_some_and(|hash| {
            let found = self.secrets.iter().filter(|secret| **secret == hash);
            found.count() > 0
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_right_secret_admits_and_is_seen_by_nobody_else() {
        let header = HeaderName::from_static("x-origin-secret");
        let origin = Origin::new(header.clone(), ["now-0123456789abc", "then-0123456789ab"]);
        let admits = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header.clone(), value.parse().unwrap());
            }
            let admits = origin.admits(&mut headers);
            assert!(headers.is_empty());
            admits
        };
        assert!(admits(&["now-0123456789abc"]));
        assert!(admits(&["then-0123456789ab"]));
        assert!(!admits(&[]));
        assert!(!admits(&["now-0123456789ab"]));
        assert!(!admits(&["now-0123456789abc", "now-0123456789abc"]));
        assert!(!format!("{origin:?}").contains("now"));
    }
}
