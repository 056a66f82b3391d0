//! The key of a runtime: Basic with the user `key`, or Bearer.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::GeneralPurpose;
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};
use http::HeaderMap;
use http::header::AUTHORIZATION;

/// Fewest characters that a key may have.
pub const SHORTEST: usize = 36;
/// What the vendor's sample has in its place.
pub const SAMPLE: &str = "RANDOM STRING HERE";

const USER: &str = "key";
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A key, as what it is compared by.
#[derive(Clone)]
pub struct Key(blake3::Hash);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Key {
    /// Keeps what is needed to compare.
    pub fn new(text: &str) -> Self {
        Self(blake3::hash(text.as_bytes()))
    }

    /// Whether the one credential of a request is this key. The work is the same for a wrong one: both are hashed, and
    /// hashes compare in constant time.
    pub fn opens(&self, headers: &HeaderMap) -> bool {
        let told = told(headers);
        let hash = blake3::hash(told.as_deref().unwrap_or_default().as_bytes());
        (hash == self.0) & told.is_some()
    }
}

/// The key that a request tells; `None` for anything that is not exactly one.
fn told(headers: &HeaderMap) -> Option<String> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let (field, None) = (fields.next()?, fields.next()) else {
        return None;
    };
    let (scheme, rest) = std::str::from_utf8(field.as_bytes())
        .ok()?
        .split_once(' ')?;
    let rest = rest.trim();
    let key = if scheme.eq_ignore_ascii_case("bearer") {
        rest.to_owned()
    } else if scheme.eq_ignore_ascii_case("basic") {
        let text = String::from_utf8(BASE64.decode(rest).ok()?).ok()?;
        let (user, password) = text.split_once(':')?;
        (user == USER).then(|| password.to_owned())?
    } else {
        return None;
    };
    (!key.is_empty()).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef0123456789abcdef:ü34";

    fn opens(fields: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for field in fields {
            let value = http::HeaderValue::from_bytes(field.as_bytes()).unwrap();
            headers.append(AUTHORIZATION, value);
        }
        Key::new(KEY).opens(&headers)
    }

    fn basic(pair: &str) -> String {
        base64::prelude::BASE64_STANDARD.encode(pair)
    }

    #[test]
    fn the_key_opens_in_each_of_its_forms() {
        for scheme in ["bearer", "Bearer", "BEARER"] {
            assert!(opens(&[&format!("{scheme} {KEY}")]), "{scheme}");
        }
        let pair = basic(&format!("key:{KEY}"));
        for scheme in ["basic", "Basic", "BASIC"] {
            assert!(opens(&[&format!("{scheme} {pair}")]), "{scheme}");
            assert!(opens(&[&format!(
                "{scheme} {}",
                pair.trim_end_matches('=')
            )]));
        }
    }

    #[test]
    fn nothing_else_opens() {
        let good = format!("Bearer {KEY}");
        for field in [
            "",
            "Bearer",
            "Bearer ",
            KEY,
            &format!("Bearer {KEY}x"),
            &format!("Bearer {}", &KEY[..KEY.len() - 1]),
            &format!("Digest {KEY}"),
            &format!("Basic {}", basic(&format!("Key:{KEY}"))),
            &format!("Basic {}", basic(&format!("admin:{KEY}"))),
            &format!("Basic {}", basic("key:")),
            &format!("Basic {}", basic(KEY)),
            "Basic ???",
        ] {
            assert!(!opens(&[field]), "{field}");
        }
        assert!(!opens(&[]));
        assert!(!opens(&[&good, &good]));
    }
}
