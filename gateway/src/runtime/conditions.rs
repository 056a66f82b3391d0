//! What whoever deploys an image expects of the one in place: `If-Match` and the like (RFC 9110 §13.1).

use http::header::{IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::Current;
use crate::http::precondition::{Decision, PastEnd, Representation, decide, is_list_of_tags};

/// The fields that say so; none is no expectation.
#[derive(Debug, Clone)]
pub struct Conditions(HeaderMap);

impl Conditions {
    /// Those of a request.
    ///
    /// # Errors
    /// Which field is no list of tags: nobody knows what its sender expects.
    pub fn of(headers: &HeaderMap) -> Result<Self, String> {
        let mut kept = HeaderMap::new();
        for name in [IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE] {
            for value in headers.get_all(&name) {
                kept.append(name.clone(), value.clone());
            }
        }
        let odd = [("If-Match", IF_MATCH), ("If-None-Match", IF_NONE_MATCH)]
            .into_iter()
            .find(|(_, name)| kept.contains_key(name) && !is_list_of_tags(&kept, name));
        match odd {
            Some((name, _)) => Err(format!("{name} must be * or a list of tags in quotes")),
            None => Ok(Self(kept)),
        }
    }

    /// As text that can be kept. A field that is none counts for nothing.
    pub fn to_pairs(&self) -> Vec<(String, String)> {
        let fields = self.0.iter();
        fields
            .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())))
            .collect()
    }

    /// From what was kept.
    pub fn of_pairs(pairs: &[(String, String)]) -> Self {
        let mut kept = HeaderMap::new();
        for (name, value) in pairs {
            if let (Ok(name), Ok(value)) =
                (HeaderName::try_from(name), HeaderValue::try_from(value))
            {
                kept.append(name, value);
            }
        }
        Self(kept)
    }

    /// Whether nothing is expected.
    pub fn are_none(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the image in place is one that is expected.
    pub fn hold(&self, image: Option<&Current>) -> bool {
        let Some(image) = image else {
            return !self.0.contains_key(IF_MATCH);
        };
        let representation = Representation {
            etag: &format!("\"{}\"", image.blake3().to_hex()),
            last_modified: Some(image.modified()),
            length: image.length(),
        };
        let decision = decide(
            &representation,
            &Method::POST,
            &self.0,
            PastEnd::NotSatisfiable,
        );
        decision != Decision::PreconditionFailed
    }
}

#[cfg(test)]
mod tests {
    use super::super::image::Image;
    use super::*;

    async fn hold(image: &Image, name: &'static str, value: &str) -> bool {
        let headers = HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]);
        let conditions = Conditions::of(&headers).unwrap();
        let kept = Conditions::of_pairs(&conditions.to_pairs());
        assert_eq!(kept.0, conditions.0);
        let current = image.snapshot().await.unwrap().map(Current::File);
        conditions.hold(current.as_ref())
    }

    #[test]
    fn what_is_no_list_of_tags_is_no_expectation() {
        for name in ["if-match", "if-none-match"] {
            for lines in [
                &[""][..],
                &["abc"],
                &["\"a\", b"],
                &["\"a"],
                &["*, \"a\""],
                &["*", "*"],
                &["\"a\"", "b"],
                &["\"a\" \"b\""],
                &["W/ \"a\""],
                &["w/\"a\""],
                &["\"a b\""],
                &["\u{e4}"],
            ] {
                let mut headers = HeaderMap::new();
                for line in lines {
                    let value = HeaderValue::from_bytes(line.as_bytes()).unwrap();
                    headers.append(HeaderName::from_static(name), value);
                }
                let why = Conditions::of(&headers).unwrap_err();
                assert!(
                    why.to_ascii_lowercase().starts_with(name),
                    "{lines:?}: {why}"
                );
            }
            for lines in [
                &["*"][..],
                &[" \"a\" "],
                &["\"a\", W/\"b,c\" ,, \"\""],
                &["\"a\"", "\"b\""],
            ] {
                let mut headers = HeaderMap::new();
                for line in lines {
                    headers.append(HeaderName::from_static(name), line.parse().unwrap());
                }
                Conditions::of(&headers).unwrap();
            }
        }
    }

    #[tokio::test]
    async fn the_image_in_place_is_what_counts() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("image");
        let image = Image::open(&path).unwrap();
        let tag = format!("\"{}\"", blake3::hash(b"one").to_hex());
        let none = Conditions::of(&HeaderMap::new()).unwrap();
        assert!(none.are_none() && none.hold(None));
        assert!(!hold(&image, "if-match", "*").await);
        assert!(hold(&image, "if-none-match", "*").await);
        std::fs::write(&path, "one").unwrap();
        assert!(hold(&image, "if-match", "*").await);
        assert!(hold(&image, "if-match", &format!("\"x\", {tag}")).await);
        assert!(!hold(&image, "if-match", "\"x\"").await);
        assert!(!hold(&image, "if-none-match", "*").await);
        assert!(!hold(&image, "if-none-match", &tag).await);
        let long_ago = "Wed, 01 May 1974 12:00:00 GMT";
        assert!(!hold(&image, "if-unmodified-since", long_ago).await);
        std::fs::write(&path, "two and more").unwrap();
        assert!(!hold(&image, "if-match", &tag).await);
    }
}
