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

/// A key and the one before it, as what they are compared by.
#[derive(Clone)]
pub struct Key {
    current: blake3::Hash,
    previous: Option<blake3::Hash>,
}

/// Which key it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// The one of now.
    Current,
    /// The one before, which is good until nobody uses it any more.
    Previous,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Key {
    /// Keeps what is needed to compare; an empty `previous` is none.
    pub fn new(text: &str, previous: &str) -> Self {
        let hash = |text: &str| blake3::hash(text.as_bytes());
        Self {
            current: hash(text),
            previous: (!previous.is_empty()).then(|| hash(previous)),
        }
    }

    /// Which key the one credential of a request is, if any. The work is the same for a wrong one: all are hashed, and
    /// hashes compare in constant time.
    pub fn opens(&self, headers: &HeaderMap) -> Option<Opened> {
        let told = told(headers);
        let hash = blake3::hash(told.as_deref().unwrap_or_default().as_bytes());
        let current = hash == self.current;
        let previous = self.previous.is_some_and(|previous| hash == previous);
        match (told.is_some(), current, previous) {
            (true, true, _) => Some(Opened::Current),
            (true, false, true) => Some(Opened::Previous),
            _ => None,
        }
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
        Key::new(KEY, "").opens(&headers).is_some()
    }

    #[test]
    fn the_key_before_opens_and_is_told_from_the_one_of_now() {
        let bearer = |key: &str| {
            let value = format!("Bearer {key}").parse().unwrap();
            HeaderMap::from_iter([(AUTHORIZATION, value)])
        };
        let key = Key::new("now", "before");
        assert_eq!(key.opens(&bearer("now")), Some(Opened::Current));
        assert_eq!(key.opens(&bearer("before")), Some(Opened::Previous));
        assert_eq!(key.opens(&bearer("other")), None);
        assert_eq!(Key::new("now", "").opens(&bearer("before")), None);
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
