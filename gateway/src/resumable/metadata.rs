//! `Upload-Metadata` of tus: `key base64,key base64`, bounded and checked before anything is kept.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// The longest value of the header, in bytes: it is kept in the upload's row.
pub const MAX_BYTES: usize = 4 << 10;
/// The most keys.
pub const MAX_KEYS: usize = 32;

/// tus wants padding; some clients' libraries leave it out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a client tells about its upload; values are any bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UploadMetadata(BTreeMap<String, Vec<u8>>);

impl UploadMetadata {
    /// Reads the header's value; an empty one tells nothing.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_BYTES {
            return Err(format!("Upload-Metadata is longer than {MAX_BYTES} bytes."));
        }
        let mut values = BTreeMap::new();
        if text.trim().is_empty() {
            return Ok(Self(values));
        }
        for pair in text.split(',') {
            let pair = pair.trim_matches([' ', '\t']);
            // tus 1.0, "Upload-Metadata": the value may be empty, and the space before it with it.
            let (key, value) = pair.split_once(' ').unwrap_or((pair, ""));
            if key.is_empty() || !key.bytes().all(|b| b.is_ascii_graphic()) {
                return Err("Upload-Metadata needs a key of visible ASCII in each pair.".into());
            }
            let value = BASE64
                .decode(value.trim())
                .map_err(|_malformed| format!("Upload-Metadata {key} is not base64."))?;
            if values.insert(key.to_owned(), value).is_some() {
                return Err(format!("Upload-Metadata has the key {key} twice."));
            }
            if values.len() > MAX_KEYS {
                return Err(format!("Upload-Metadata has more than {MAX_KEYS} keys."));
            }
        }
        Ok(Self(values))
    }

    /// A value as text. Keys that only differ in case are one to us: a target that is not seen would leave a
    /// box unpublished.
    ///
    /// # Errors
    /// When it is not UTF-8.
    pub fn text(&self, key: &str) -> Result<Option<&str>, String> {
        let mut keys = self.0.iter();
        let found = keys.find(|(name, _)| name.eq_ignore_ascii_case(key));
        found
            .map(|(_, bytes)| {
                str::from_utf8(bytes)
                    .map_err(|e| format!("Upload-Metadata {key} is not UTF-8: {e}."))
            })
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pairs_are_read_with_their_values_decoded() {
        let read =
            UploadMetadata::parse("filename d29ybGQ=,is_confidential, empty ,x  YQ").unwrap();
        assert_eq!(read.text("filename"), Ok(Some("world")));
        assert_eq!(read.text("is_confidential"), Ok(Some("")));
        assert_eq!(read.text("empty"), Ok(Some("")));
        assert_eq!(read.text("x"), Ok(Some("a")));
        assert_eq!(read.text("absent"), Ok(None));
        assert_eq!(read.text("FileName"), Ok(Some("world")));
        assert_eq!(
            UploadMetadata::parse("").unwrap(),
            UploadMetadata::default()
        );
        assert!(UploadMetadata::parse("a /w==").unwrap().text("a").is_err());
    }

    #[test]
    fn what_breaks_the_grammar_or_a_limit_is_refused() {
        let many: Vec<String> = (0..=MAX_KEYS).map(|k| format!("k{k} YQ==")).collect();
        for wrong in [
            ",",
            "a YQ==,",
            ",a YQ==",
            "a YQ==,a Yg==",
            "a !",
            "a YQ== YQ==",
            "a\u{e4} YQ==",
            &many.join(","),
            &format!("a {}", "A".repeat(MAX_BYTES)),
        ] {
            assert!(UploadMetadata::parse(wrong).is_err(), "{wrong}");
        }
        assert!(UploadMetadata::parse(&many[1..].join(",")).is_ok());
    }

    proptest! {
        #[test]
        fn every_map_of_bytes_survives_the_wire(
            map in prop::collection::btree_map("[a-z_]{1,8}", prop::collection::vec(any::<u8>(), 0..40), 0..20)
        ) {
            let pairs: Vec<String> =
                map.iter().map(|(k, v)| format!("{k} {}", BASE64.encode(v))).collect();
            prop_assert_eq!(UploadMetadata::parse(&pairs.join(",")), Ok(UploadMetadata(map)));
        }

        #[test]
        fn no_text_breaks_the_reader(text in "[ -~]{0,80}") {
            let _any = UploadMetadata::parse(&text);
        }
    }
}
