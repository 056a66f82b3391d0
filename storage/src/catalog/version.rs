//! Which versions Vagrant can list, and in which order.
//!
//! One version outside the RubyGems grammar makes a whole box unusable for Vagrant, so such versions
//! are stored but never listed to it.

use std::cmp::Ordering;

/// The spelling without a leading `v` (or `V`) when a digit follows it.
pub fn without_v(text: &str) -> &str {
    match text.strip_prefix(['v', 'V']) {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_digit()) => rest,
        _ => text,
    }
}

/// Whether Vagrant can list this version: `Gem::Version`'s grammar
/// `[0-9]+(\.[0-9a-zA-Z]+)*(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?`, after [`without_v`].
pub fn is_listable(text: &str) -> bool {
    let text = without_v(text);
    let (release, pre) = match text.split_once('-') {
        Some((release, pre)) => (release, Some(pre)),
        None => (text, None),
    };
    let mut segments = release.split('.');
    let first = segments.next().unwrap_or_default();
    let numeric = !first.is_empty() && first.bytes().all(|b| b.is_ascii_digit());
    let alphanumeric = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric());
    let with_hyphen =
        |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    numeric && segments.all(alphanumeric) && pre.is_none_or(|p| p.split('.').all(with_hyphen))
}

/// The order of `Gem::Version`: numbers by value, text before numbers (a pre-release is older),
/// missing segments count as zero. Spellings that Vagrant cannot list come first, by text.
pub fn compare(a: &str, b: &str) -> Ordering {
    match (is_listable(a), is_listable(b)) {
        (true, true) => compare_listable(&segments(a), &segments(b)),
        (false, false) => a.cmp(b),
        (a_listable, b_listable) => a_listable.cmp(&b_listable),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Segment {
    Text(String),
    // Digits without leading zeros: longer is larger, so no number is too big.
    Number(String),
}

fn segments(text: &str) -> Vec<Segment> {
    // RubyGems reads "-" as ".pre." and cuts at each change between digits and letters.
    let text = without_v(text).replace('-', ".pre.");
    let mut out = Vec::new();
    for word in text.split('.') {
        let mut rest = word;
        while let Some(first) = rest.chars().next() {
            let digits = first.is_ascii_digit();
            let cut = rest
                .find(|c: char| c.is_ascii_digit() != digits)
                .unwrap_or(rest.len());
            let (head, tail) = rest.split_at(cut);
            out.push(if digits {
                Segment::Number(head.trim_start_matches('0').to_owned())
            } else {
                Segment::Text(head.to_owned())
            });
            rest = tail;
        }
    }
    out
}

fn compare_listable(a: &[Segment], b: &[Segment]) -> Ordering {
    let zero = Segment::Number(String::new());
    for i in 0..a.len().max(b.len()) {
        let order = match (a.get(i).unwrap_or(&zero), b.get(i).unwrap_or(&zero)) {
            (Segment::Text(x), Segment::Text(y)) => x.cmp(y),
            (Segment::Text(_), Segment::Number(_)) => Ordering::Less,
            (Segment::Number(_), Segment::Text(_)) => Ordering::Greater,
            (Segment::Number(x), Segment::Number(y)) => {
                x.len().cmp(&y.len()).then_with(|| x.cmp(y))
            }
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    Ordering::Equal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rubygems_versions_are_listable() {
        for text in [
            "1",
            "42",
            "1.0.0",
            "v1.2.3",
            "1.0.0-rc1",
            "2024-01-01",
            "1.0.a.2",
            "1.0.0-rc.1",
        ] {
            assert!(is_listable(text), "{text}");
        }
        for text in [
            "latest", "1_2", "1.0+b", "1..2", "1.", "", "v", "vanilla", "1.0.0-", "2024_01",
        ] {
            assert!(!is_listable(text), "{text}");
        }
    }

    #[test]
    fn order_is_that_of_rubygems() {
        let ascending = [
            "0.9",
            "1.0.0-rc1",
            "1.0.0",
            "1.0.1",
            "1.2",
            "1.10",
            "2.0.0-beta1",
            "2.0.0",
            "2024.01",
        ];
        for pair in ascending.windows(2) {
            assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
        }
        assert_eq!(compare("1.0", "1.0.0"), Ordering::Equal);
        assert_eq!(compare("v1.0", "1.0.0"), Ordering::Equal);
        assert_eq!(compare("latest", "0.1"), Ordering::Less);
    }
}
