//! How long an answer may be kept, by whom, and by which tags a CDN can be told to drop it
//! (RFC 9111, RFC 8246, RFC 9213).

use std::time::Duration;

use boxgate_storage::catalog::{BoxRef, OrganizationName};
use boxgate_storage::digest::Blake3;
use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderName, HeaderValue};

/// What only CDNs obey (RFC 9213).
pub const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");
/// Purge tags as Fastly and Varnish read them, separated by spaces.
pub const SURROGATE_KEY: HeaderName = HeaderName::from_static("surrogate-key");
/// Purge tags as Cloudflare and `CloudFront` read them, separated by commas.
pub const CACHE_TAG: HeaderName = HeaderName::from_static("cache-tag");

/// How long what is served may be kept, and by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// A name that may lead to other bytes tomorrow.
    PublicName,
    /// The URL holds the digest: these bytes or none, for ever.
    Immutable,
    /// Only the caller may keep it, and must ask again.
    Private,
}

/// The settings of `downloads` that decide it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ages {
    /// How long anyone may keep what a public name leads to.
    pub name: Duration,
    /// How long a CDN may, which can be told to drop it.
    pub name_cdn: Duration,
    /// How long anyone may keep what a public URL with a digest leads to.
    pub immutable: Duration,
    /// Whether answers carry purge tags.
    pub purge_tags: bool,
}

impl Freshness {
    /// Writes the fields that say so. What only the caller may keep has no tags: no CDN holds it, and
    /// they would name what is private.
    pub fn write(self, ages: &Ages, tags: &Tags, headers: &mut HeaderMap) {
        // `no-transform`: a proxy that recompresses a box breaks its ranges and its digest. It is in the
        // CDN's field too, which replaces the other one whole.
        let public = |age: Duration, more: &str| {
            let text = format!("public, max-age={}{more}, no-transform", age.as_secs());
            HeaderValue::from_str(&text).expect("digits and words make a header value")
        };
        let (anyone, cdn) = match self {
            Self::Private => {
                let private = HeaderValue::from_static("private, no-cache, no-transform");
                headers.insert(CACHE_CONTROL, private);
                return;
            }
            Self::PublicName => (public(ages.name, ""), public(ages.name_cdn, "")),
            Self::Immutable => {
                let forever = public(ages.immutable, ", immutable");
                (forever.clone(), forever)
            }
        };
        headers.insert(CACHE_CONTROL, anyone);
        headers.insert(CDN_CACHE_CONTROL, cdn);
        if ages.purge_tags && !tags.0.is_empty() {
            for (name, separator) in [(SURROGATE_KEY, " "), (CACHE_TAG, ",")] {
                if let Ok(value) = HeaderValue::from_str(&tags.0.join(separator)) {
                    headers.insert(name, value);
                }
            }
        }
    }
}

/// By what a CDN can be told to drop an answer: the organization, the box, the version, the digest. Names
/// are folded, since they are unique without case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tags(Vec<String>);

/// Longest tag: Akamai takes 128 characters, `CloudFront` 256.
const LONGEST: usize = 128;
/// Most tags of an answer: `CloudFront` takes 50. All of them at their longest are 4 KiB per field.
const MOST: usize = 32;

impl Tags {
    /// Tags of a file that a name leads to.
    pub fn of_file(name: &BoxRef, digest: &Blake3) -> Self {
        let mut tags = Self::of_box(&name.organization, &name.name.folded());
        let (organization, box_name) = (name.organization.folded(), name.name.folded());
        tags.add(&format!(
            "version/{organization}/{box_name}/{}",
            name.version.folded()
        ));
        tags.add(&format!("b3/{}", digest.to_hex()));
        tags
    }

    /// Tags of a box.
    pub fn of_box(organization: &OrganizationName, folded_name: &str) -> Self {
        let mut tags = Self::default();
        tags.add(&format!("org/{}", organization.folded()));
        tags.add(&format!("box/{}/{folded_name}", organization.folded()));
        tags
    }

    /// Tags of a blob and of public boxes that hold it, by their folded names.
    pub fn of_blob<'a>(
        digest: &Blake3,
        holders: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let mut tags = Self::default();
        tags.add(&format!("b3/{}", digest.to_hex()));
        for (organization, box_name) in holders {
            tags.add(&format!("org/{organization}"));
            tags.add(&format!("box/{organization}/{box_name}"));
        }
        tags
    }

    /// A tag that is too long is told apart by its digest, which whoever purges can compute.
    fn add(&mut self, tag: &str) {
        let tag = if tag.len() > LONGEST {
            let kind = tag.split('/').next().unwrap_or_default();
            format!("{kind}/{}", &blake3::hash(tag.as_bytes()).to_hex()[..32])
        } else {
            tag.to_owned()
        };
        if self.0.len() < MOST && !self.0.contains(&tag) {
            self.0.push(tag);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGES: Ages = Ages {
        name: Duration::from_mins(1),
        name_cdn: Duration::from_hours(1),
        immutable: Duration::from_hours(365 * 24),
        purge_tags: true,
    };

    fn written(freshness: Freshness, ages: &Ages, tags: &Tags) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        freshness.write(ages, tags, &mut headers);
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        headers
            .iter()
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect()
    }

    fn name(box_name: &str) -> BoxRef {
        BoxRef {
            organization: "Acme".parse().unwrap(),
            name: box_name.parse().unwrap(),
            version: "v1.0".parse().unwrap(),
            provider: "virtualbox".parse().unwrap(),
            architecture: "amd64".parse().unwrap(),
        }
    }

    #[test]
    fn each_kind_of_url_says_how_long_it_may_be_kept() {
        let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let forever = "public, max-age=31536000, immutable, no-transform";
        let none = Tags::default();
        assert_eq!(
            written(
                Freshness::Private,
                &AGES,
                &Tags::of_file(&name("Demo"), &Blake3([1; 32]))
            ),
            [field("cache-control", "private, no-cache, no-transform")]
        );
        assert_eq!(
            written(Freshness::PublicName, &AGES, &none),
            [
                field("cache-control", "public, max-age=60, no-transform"),
                field("cdn-cache-control", "public, max-age=3600, no-transform"),
            ]
        );
        assert_eq!(
            written(Freshness::Immutable, &AGES, &none),
            [
                field("cache-control", forever),
                field("cdn-cache-control", forever)
            ]
        );
    }

    #[test]
    fn tags_name_all_that_an_answer_hangs_on_in_both_spellings() {
        let tags = Tags::of_file(&name("Demo"), &Blake3([1; 32]));
        let digest = "01".repeat(32);
        let want = ["org/acme", "box/acme/demo", "version/acme/demo/1.0"];
        let fields = written(Freshness::Immutable, &AGES, &tags);
        let of = |name: &str| {
            fields
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, v)| v.clone())
        };
        assert_eq!(
            of("surrogate-key"),
            Some(format!("{} b3/{digest}", want.join(" ")))
        );
        assert_eq!(
            of("cache-tag"),
            Some(format!("{},b3/{digest}", want.join(",")))
        );
        let silent = Ages {
            purge_tags: false,
            ..AGES
        };
        assert_eq!(written(Freshness::Immutable, &silent, &tags).len(), 2);
    }

    #[test]
    fn tags_are_bounded_in_number_and_length() {
        let long = "x".repeat(128);
        let tags = Tags::of_file(&name(&long), &Blake3([1; 32]));
        assert!(tags.0.iter().all(|tag| tag.len() <= LONGEST), "{tags:?}");
        assert_ne!(
            tags,
            Tags::of_file(&name(&"y".repeat(128)), &Blake3([1; 32]))
        );
        let names: Vec<String> = (0..1000).map(|i| format!("box{i}")).collect();
        let holders = names.iter().map(|name| ("acme", name.as_str()));
        assert_eq!(Tags::of_blob(&Blake3([1; 32]), holders).0.len(), MOST);
    }
}
