//! What whoever deploys an image expects of the one in place: `If-Match` and the like (RFC 9110 §13.1).

use std::io;

use http::header::{IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};
use http::{HeaderMap, Method};

use super::image::Image;
use crate::http::precondition::{Decision, PastEnd, Representation, decide};

/// The fields that say so; none is no expectation.
#[derive(Debug, Clone)]
pub struct Conditions(HeaderMap);

impl Conditions {
    /// Those of a request.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut kept = HeaderMap::new();
        for name in [IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE] {
            for value in headers.get_all(&name) {
                kept.append(name.clone(), value.clone());
            }
        }
        Self(kept)
    }

    /// Whether the image in place is one that is expected.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn hold(&self, image: &Image) -> io::Result<bool> {
        if self.0.is_empty() {
            return Ok(true);
        }
        let Some(image) = image.snapshot().await? else {
            return Ok(!self.0.contains_key(IF_MATCH));
        };
        let representation = Representation {
            etag: &format!("\"{}\"", image.blake3.to_hex()),
            last_modified: Some(image.modified),
            length: image.length,
        };
        let decision = decide(
            &representation,
            &Method::POST,
            &self.0,
            PastEnd::NotSatisfiable,
        );
        Ok(decision != Decision::PreconditionFailed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn hold(image: &Image, name: &'static str, value: &str) -> bool {
        let headers = HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]);
        Conditions::of(&headers).hold(image).await.unwrap()
    }

    #[tokio::test]
    async fn the_image_in_place_is_what_counts() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("image");
        let image = Image::open(&path).unwrap();
        let tag = format!("\"{}\"", blake3::hash(b"one").to_hex());
        assert!(
            Conditions::of(&HeaderMap::new())
                .hold(&image)
                .await
                .unwrap()
        );
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
