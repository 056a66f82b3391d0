//! Digests of a body or of a whole representation (RFC 9530), as far as they are verified.

use boxgate_storage::digest::{Algorithm, Digest};
use http::{HeaderMap, HeaderName};
use serde_json::json;

use crate::http::problem::ProblemType;
use crate::refusal::Refusal;

use super::fields;

const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");

/// Keys of the IANA registry that name an algorithm of ours, strongest first. `blake3` is private:
/// whoever does not know it ignores it.
const KEYS: [(&str, Algorithm); 5] = [
    ("sha-512", Algorithm::Sha512),
    ("sha-256", Algorithm::Sha256),
    ("blake3", Algorithm::Blake3),
    ("sha", Algorithm::Sha1),
    ("md5", Algorithm::Md5),
];

/// The key of an algorithm; one that the registry does not have goes by its own name.
pub fn key_of(algorithm: Algorithm) -> &'static str {
    KEYS.into_iter()
        .find(|(_, a)| *a == algorithm)
        .map_or(algorithm.name(), |(key, _)| key)
}

/// All digests of `Repr-Digest` whose algorithm is known; each must hold for the whole.
///
/// # Errors
/// 400 for a value that cannot be one of its algorithm. A field that is no dictionary of byte sequences
/// is as good as not sent (RFC 9651 §4.2).
pub fn repr_digests(headers: &HeaderMap) -> Result<Vec<Digest>, Refusal> {
    digests(headers, &REPR_DIGEST)
}

/// A digest of the whole that was told elsewhere, and those of `Repr-Digest`; one that is told twice is once in it.
///
/// # Errors
/// As [`repr_digests`].
pub fn and_repr_digests(told: Option<Digest>, headers: &HeaderMap) -> Result<Vec<Digest>, Refusal> {
    let mut all = Vec::from_iter(told);
    for digest in repr_digests(headers)? {
        if !all.contains(&digest) {
            all.push(digest);
        }
    }
    Ok(all)
}

/// The strongest digest of `Content-Digest` whose algorithm is known: one is enough to know the bytes.
///
/// # Errors
/// As [`repr_digests`].
pub fn content_digest(headers: &HeaderMap) -> Result<Option<Digest>, Refusal> {
    Ok(digests(headers, &CONTENT_DIGEST)?.into_iter().next())
}

fn digests(headers: &HeaderMap, name: &HeaderName) -> Result<Vec<Digest>, Refusal> {
    let Some(given) = fields::byte_sequences(headers, name) else {
        return Ok(Vec::new());
    };
    KEYS.into_iter()
        .filter_map(|(key, algorithm)| {
            let (_, bytes) = given.iter().find(|(k, _)| k == key)?;
            let digest = Digest::try_new(algorithm, bytes.clone());
            Some(digest.ok_or_else(|| invalid(name, key, algorithm)))
        })
        .collect()
}

fn invalid(name: &HeaderName, key: &str, algorithm: Algorithm) -> Refusal {
    let reason = format!("a {key} digest has {} bytes", algorithm.digest_bytes());
    Refusal::invalid(format!("{name} is not right: {reason}."))
        .problem(ProblemType::InvalidDigest)
        .details(json!({ "invalid-digests": [{
            "algorithm": key, "header": name.as_str(), "reason": reason,
        }] }))
        .closing()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), value.parse().unwrap())])
    }

    #[test]
    fn known_algorithms_are_read_and_others_ignored() {
        let sha256 = fields::from_bytes(&[7; 32]);
        let md5 = fields::from_bytes(&[8; 16]);
        let text = format!("unixsum=:AA==:, md5={md5}, sha-256={sha256}");
        let read = repr_digests(&headers("repr-digest", &text)).unwrap();
        let names: Vec<_> = read.iter().map(|d| d.algorithm().name()).collect();
        assert_eq!(names, ["sha256", "md5"]);
        let strongest = content_digest(&headers("content-digest", &text)).unwrap();
        assert_eq!(strongest.unwrap().as_bytes(), [7; 32]);
        let other = headers("content-digest", "unixsum=:AA==:");
        assert_eq!(content_digest(&other).unwrap(), None);
        assert_eq!(
            repr_digests(&headers("repr-digest", "sha-256=abc")).unwrap(),
            []
        );
        assert_eq!(repr_digests(&HeaderMap::new()).unwrap(), []);
    }

    #[test]
    fn a_digest_that_its_algorithm_cannot_give_is_refused() {
        let refused = repr_digests(&headers("repr-digest", "sha-256=:AAAA:")).unwrap_err();
        assert_eq!(refused.status, 400);
        assert_eq!(refused.problem, Some(ProblemType::InvalidDigest));
    }
}
