//! Structured fields (RFC 9651), as far as uploads need them.
//!
//! Every reader answers `None` for what is absent, malformed or of another type: the protocol says that
//! such a field is as good as not sent.

use http::{HeaderMap, HeaderName};
use sfv::{BareItem, Dictionary, Item, ListEntry, Parser};

/// The largest integer that a structured field holds (RFC 9651 §3.3.1).
pub const MAX_INTEGER: u64 = 999_999_999_999_999;

/// An Item that is a Boolean; its parameters do not matter.
pub fn boolean(headers: &HeaderMap, name: &HeaderName) -> Option<bool> {
    item(headers, name)?.as_boolean()
}

/// An Item that is an Integer and not negative.
pub fn integer(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let integer = item(headers, name)?.as_integer()?;
    u64::try_from(i64::from(integer)).ok()
}

/// A Dictionary of Byte Sequences: `sha-256=:BASE64:`. One member of another type voids the field.
pub fn byte_sequences(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<(String, Vec<u8>)>> {
    let dictionary: Dictionary = Parser::new(&text(headers, name)?).parse().ok()?;
    dictionary
        .into_iter()
        .map(|(key, entry)| match entry {
            ListEntry::Item(item) => {
                let bytes = item.bare_item.as_byte_sequence()?.to_vec();
                Some((key.to_string(), bytes))
            }
            ListEntry::InnerList(_) => None,
        })
        .collect()
}

/// `?1` or `?0`.
pub fn from_bool(value: bool) -> &'static str {
    if value { "?1" } else { "?0" }
}

/// An Integer, or the largest there is.
pub fn from_integer(value: u64) -> String {
    value.min(MAX_INTEGER).to_string()
}

/// Bytes as `:BASE64:`.
pub fn from_bytes(bytes: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(bytes);
    format!(":{text}:")
}

fn item(headers: &HeaderMap, name: &HeaderName) -> Option<BareItem> {
    let item: Item = Parser::new(&text(headers, name)?).parse().ok()?;
    Some(item.bare_item)
}

/// All lines of a field as one (RFC 9651 §4.2): two lines of an Item are no Item.
fn text(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    let lines: Vec<&[u8]> = headers
        .get_all(name)
        .iter()
        .map(http::HeaderValue::as_bytes)
        .collect();
    (!lines.is_empty()).then(|| lines.join(&b", "[..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAME: HeaderName = HeaderName::from_static("x-field");

    fn field(lines: &[&str]) -> HeaderMap {
        lines.iter().map(|l| (NAME, l.parse().unwrap())).collect()
    }

    #[test]
    fn a_boolean_of_any_other_type_is_as_good_as_not_sent() {
        let table = [
            ("?1", Some(true)),
            ("?0", Some(false)),
            (" ?1 ", Some(true)),
            ("?1;a=1", Some(true)),
            ("1", None),
            ("true", None),
            ("?2", None),
            ("?1, ?1", None),
            ("\"?1\"", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(boolean(&field(&[text]), &NAME), expected, "{text}");
        }
        assert_eq!(boolean(&field(&["?1", "?1"]), &NAME), None);
        assert_eq!(boolean(&field(&[]), &NAME), None);
    }

    #[test]
    fn an_integer_is_a_number_without_sign_fraction_or_sixteenth_digit() {
        let table = [
            ("0", Some(0)),
            ("999999999999999", Some(MAX_INTEGER)),
            ("007", Some(7)),
            ("12;p", Some(12)),
            ("-0", Some(0)),
            ("-1", None),
            ("1.0", None),
            ("1000000000000000", None),
            ("1e3", None),
            ("@1", None),
            ("?1", None),
            ("1 2", None),
        ];
        for (text, expected) in table {
            assert_eq!(integer(&field(&[text]), &NAME), expected, "{text}");
        }
    }

    #[test]
    fn a_dictionary_of_byte_sequences_is_read_over_several_lines() {
        let read = byte_sequences(&field(&["a=:YQ==:", "b=::, a=:Yg==:"]), &NAME).unwrap();
        assert_eq!(read, [("a".into(), b"b".to_vec()), ("b".into(), vec![])]);
        for wrong in [
            "a=1",
            "a",
            "a=:YQ==:, b=\"x\"",
            "a=(:YQ==:)",
            "A=:YQ==:",
            "a=:!:",
        ] {
            assert_eq!(byte_sequences(&field(&[wrong]), &NAME), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_the_same(number in 0..=MAX_INTEGER, flag: bool, bytes: Vec<u8>) {
            prop_assert_eq!(integer(&field(&[&from_integer(number)]), &NAME), Some(number));
            prop_assert_eq!(boolean(&field(&[from_bool(flag)]), &NAME), Some(flag));
            let text = format!("k={}", from_bytes(&bytes));
            prop_assert_eq!(
                byte_sequences(&field(&[&text]), &NAME),
                Some(vec![("k".to_owned(), bytes)])
            );
        }

        #[test]
        fn no_text_is_too_odd_to_be_ignored(text in "[ -~]{0,40}") {
            let headers = field(&[&text]);
            let _any = (boolean(&headers, &NAME), integer(&headers, &NAME));
            let _any = byte_sequences(&headers, &NAME);
        }
    }
}
