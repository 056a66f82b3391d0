//! `descriptions.csv`: lines of a version, `;;;` and what is said of it.

use std::collections::HashMap;

use jiff::Timestamp;

/// Longest file that is read; of a longer one nothing is.
pub const LONGEST: u64 = 8 << 20;
const SEPARATOR: &str = ";;;";

/// What is said of versions that `wanted` names; of two lines for one version the last counts.
pub fn parse(text: &str, wanted: impl Fn(&str) -> bool) -> HashMap<&str, &str> {
    let lines = text.split(['\n', '\r']).filter_map(line);
    lines.filter(|(version, _)| wanted(version)).collect()
}

/// Two parts and no more; empty ones at the end do not count.
fn line(line: &str) -> Option<(&str, &str)> {
    let mut parts = line.split(SEPARATOR);
    let (version, description) = (parts.next()?, parts.next()?);
    (!description.is_empty() && parts.all(str::is_empty)).then_some((version, description))
}

/// What is told of a version that is a moment, and what is said of it; a version that is none tells nothing.
pub fn with_moment(version: &str, said: Option<&str>) -> Option<String> {
    let moment = version
        .parse()
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok());
    match (moment, said) {
        (None, said) => said.map(str::to_owned),
        (Some(moment), None) => Some(moment.to_string()),
        (Some(moment), Some(said)) => Some(format!("{moment} - {said}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_two_parts_and_the_last_one_counts() {
        let text = "version;;;description\n1;;;first\r2;;;a;;;b\r\n3;;;new ; with ;; semis\n4;;;\n5;;last\n\
                    ;;;\n;;;x\n   \n\n6;;;six;;;\n7;;;seven;;;;;;;;;;;;\n8;;;;x\n1;;;again\n9;;;  \n10;;;ten;;;;;;;;;;;;x\n 11;;;eleven";
        let found = parse(text, |version| version != "6");
        let mut found: Vec<_> = found.into_iter().collect();
        found.sort_unstable();
        assert_eq!(
            found,
            [
                ("", "x"),
                (" 11", "eleven"),
                ("1", "again"),
                ("3", "new ; with ;; semis"),
                ("7", "seven"),
                ("8", ";x"),
                ("9", "  "),
                ("version", "description"),
            ]
        );
    }

    #[test]
    fn a_version_may_be_a_moment() {
        let told = |version, said| with_moment(version, said);
        assert_eq!(
            told("1507636800", None).as_deref(),
            Some("2017-10-10T12:00:00Z")
        );
        assert_eq!(
            told("1507629600", Some("Some useful description")).as_deref(),
            Some("2017-10-10T10:00:00Z - Some useful description")
        );
        for far in ["99999999999999", "99999999999999999999999"] {
            assert_eq!(told(far, None), None, "{far}");
            assert_eq!(told(far, Some("said")).as_deref(), Some("said"), "{far}");
        }
    }
}
