//! Credentials as clients send them: one kind of token, many places to put it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boxgate_storage::metadata::accounts::Account;
use boxgate_storage::metadata::tokens::Token;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};
use percent_encoding::percent_decode_str;
use sha2::{Digest as _, Sha256};

const ACCESS_TOKEN: HeaderName = HeaderName::from_static("x-access-token");
const ATLAS_TOKEN: HeaderName = HeaderName::from_static("x-atlas-token");

/// A token as presented; its text never leaves this type.
#[derive(Clone)]
pub struct Credential {
    token: String,
    place: Place,
}

/// Where a credential was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// `x-access-token`, the header of BoxVault's clients.
    AccessTokenHeader,
    /// `Authorization: Bearer`, or `X-Atlas-Token`.
    Bearer,
    /// `Authorization: Basic`; the account's name came with it.
    Basic(String),
    /// `?access_token=`, where Vagrant puts it when told to.
    Query,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential")
            .field("token", &"***")
            .field("place", &self.place)
            .finish()
    }
}

impl Credential {
    /// The credential of a request, if it carries one. An empty one counts as none: the guide's
    /// scripts send `x-access-token:` without a value when their login failed.
    pub fn find(headers: &HeaderMap, query: Option<&str>) -> Option<Self> {
        let text = |name: HeaderName| {
            headers
                .get(name)
                .and_then(|v| v.to_str().ok())
                .map(str::trim)
        };
        if let Some(token) = text(ACCESS_TOKEN).filter(|t| !t.is_empty()) {
            return Some(Self {
                token: token.to_owned(),
                place: Place::AccessTokenHeader,
            });
        }
        if let Some(value) = text(AUTHORIZATION) {
            // RFC 9110 §11.1: the scheme is case-insensitive.
            if let Some((scheme, rest)) = value.split_once(' ') {
                let rest = rest.trim();
                if scheme.eq_ignore_ascii_case("bearer") && !rest.is_empty() {
                    return Some(Self {
                        token: rest.to_owned(),
                        place: Place::Bearer,
                    });
                }
                if scheme.eq_ignore_ascii_case("basic") {
                    return Some(Self::basic(rest));
                }
            }
        }
        if let Some(token) = text(ATLAS_TOKEN).filter(|t| !t.is_empty()) {
            return Some(Self {
                token: token.to_owned(),
                place: Place::Bearer,
            });
        }
        let token = query_value(query?, QUERY_FIELD)?;
        (!token.is_empty()).then_some(Self {
            token,
            place: Place::Query,
        })
    }

    /// Whether there is a header of those that may carry one.
    pub fn is_in(headers: &HeaderMap) -> bool {
        let places = [AUTHORIZATION, ACCESS_TOKEN, ATLAS_TOKEN];
        places.iter().any(|name| headers.contains_key(name))
    }

    // What cannot be read is a credential that fails, not none: its sender must not be served as nobody.
    fn basic(encoded: &str) -> Self {
        let decoded = STANDARD
            .decode(encoded)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok());
        // RFC 7617 §2: the user-id holds no colon.
        let (name, token) = decoded
            .as_deref()
            .and_then(|text| text.split_once(':'))
            .unwrap_or_default();
        Self {
            token: token.to_owned(),
            place: Place::Basic(name.to_owned()),
        }
    }

    /// Where it was found.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What the database knows it by.
    pub fn hash(&self) -> [u8; 32] {
        hash(&self.token)
    }

    /// Whether the name that came with it, if any, is that of its owner.
    pub fn names(&self, token: &Token, account: &Account) -> bool {
        match &self.place {
            Place::Basic(name) => {
                token
                    .name
                    .as_deref()
                    .is_some_and(|n| n.eq_ignore_ascii_case(name))
                    || account.username.eq_ignore_ascii_case(name)
            }
            _ => true,
        }
    }
}

/// The field of a query that may hold one.
pub const QUERY_FIELD: &str = "access_token";

/// SHA-256 of the text of a token, as BoxVault stores its keys too.
pub fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// A fresh token: 32 random bytes as 64 hexadecimal digits.
///
/// # Panics
/// When the operating system has no randomness to give.
pub fn fresh() -> String {
    let mut bits = [0; 32];
    getrandom::fill(&mut bits).expect("the operating system gives random bytes");
    hex::encode(bits)
}

/// The first value of a query field, percent-decoded; `+` stays, as tokens hold no spaces.
pub fn query_value(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then(|| percent_decode_str(value).decode_utf8_lossy().into_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &'static str, value: &str, query: Option<&str>) -> Option<(String, Place)> {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        Credential::find(&headers, query).map(|c| (c.token, c.place))
    }

    #[test]
    fn every_place_is_read_and_empty_ones_count_as_none() {
        let t = || "ab".repeat(32);
        assert_eq!(
            found("x-access-token", &t(), None),
            Some((t(), Place::AccessTokenHeader))
        );
        assert_eq!(
            found("authorization", &format!("bearer {}", t()), None),
            Some((t(), Place::Bearer))
        );
        assert_eq!(
            found("x-atlas-token", &t(), None),
            Some((t(), Place::Bearer))
        );
        let basic = format!("Basic {}", STANDARD.encode(format!("ci:{}", t())));
        assert_eq!(
            found("authorization", &basic, None),
            Some((t(), Place::Basic("ci".into())))
        );
        let query = format!("b3=1&access_token={}", t());
        assert_eq!(
            found("accept", "*/*", Some(&query)),
            Some((t(), Place::Query))
        );
        for (name, value) in [("x-access-token", ""), ("authorization", "Bearer ")] {
            assert_eq!(found(name, value, None), None, "{name}: {value}");
        }
        let unread = Some((String::new(), Place::Basic(String::new())));
        assert_eq!(found("authorization", "Basic !", None), unread);
    }

    #[test]
    fn a_credential_does_not_print_itself() {
        let mut headers = HeaderMap::new();
        headers.insert("x-access-token", "secret".parse().unwrap());
        let text = format!("{:?}", Credential::find(&headers, None));
        assert!(!text.contains("secret"), "{text}");
    }
}
