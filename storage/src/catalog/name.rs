//! Names, parsed once at the border: `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`, no `..`, unique without case. ISO images
//! are called as files are: `[A-Za-z0-9._-]{1,255}`.
//!
//! No name ever becomes a path or a key of a store.

use std::fmt;
use std::str::FromStr;

/// Longest name in bytes.
pub const MAX_NAME_BYTES: usize = 128;
/// Longest name of an ISO image in bytes.
pub const MAX_ISO_NAME_BYTES: usize = 255;

/// The rule that a name breaks; the text is fit for the client who sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {given:?} {rule}")]
pub struct NameError {
    /// Which field: `organization`, `box`, `version`, `provider`, `architecture` or `ISO`.
    pub field: &'static str,
    /// What was given, cut to the longest name.
    pub given: String,
    /// What a name must be.
    pub rule: &'static str,
}

const LETTERS: &str = "must consist of letters, digits, '.', '_' and '-'";

fn is_of_letters(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// The rule that a name in the catalog breaks.
fn broken_rule(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        Some("must not be empty")
    } else if text.len() > MAX_NAME_BYTES {
        Some("must be at most 128 characters")
    } else if !text.as_bytes()[0].is_ascii_alphanumeric() {
        Some("must start with a letter or a digit")
    } else if !is_of_letters(text) {
        Some(LETTERS)
    } else {
        text.contains("..").then_some("must not contain '..'")
    }
}

/// The rule that a name of an ISO image breaks: what a URL drops from its path is no name.
fn broken_file_rule(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        Some("must not be empty")
    } else if text.len() > MAX_ISO_NAME_BYTES {
        Some("must be at most 255 characters")
    } else if !is_of_letters(text) {
        Some(LETTERS)
    } else {
        matches!(text, "." | "..").then_some("must not be '.' or '..'")
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $field:literal, $broken:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// The name as it was spelled.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let Some(rule) = $broken(text) else {
                    return Ok(Self(text.to_owned()));
                };
                let given = text.chars().take(MAX_ISO_NAME_BYTES).collect();
                Err(NameError { field: $field, given, rule })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// Name of an organization: the owner and tenant of boxes.
    OrganizationName, "organization", broken_rule
}
name! {
    /// Name of a box within its organization.
    BoxName, "box", broken_rule
}
name! {
    /// Spelling of a version; `v1.2.3` and `1.2.3` are one version.
    VersionName, "version", broken_rule
}
name! {
    /// Name of a provider, such as `virtualbox`.
    ProviderName, "provider", broken_rule
}
name! {
    /// Name of an architecture, such as `amd64`.
    ArchitectureName, "architecture", broken_rule
}
name! {
    /// Name of an ISO image within its organization.
    IsoName, "ISO", broken_file_rule
}

macro_rules! folded {
    ($($name:ident),*) => {$(
        impl $name {
            /// The form under which the name is unique and looked up: without case.
            pub fn folded(&self) -> String {
                self.0.to_ascii_lowercase()
            }
        }
    )*};
}
folded!(
    OrganizationName,
    BoxName,
    ProviderName,
    ArchitectureName,
    IsoName
);

impl VersionName {
    /// The form under which the version is unique and looked up: without case and without a leading
    /// `v` before a digit, so that a raw tag `v1.2.3` and `1.2.3` are one version.
    pub fn folded(&self) -> String {
        super::version::without_v(&self.0).to_ascii_lowercase()
    }
}

/// The full name of a box file: the catalog's four levels under their organization.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BoxRef {
    /// The owner.
    pub organization: OrganizationName,
    /// The box.
    pub name: BoxName,
    /// The version.
    pub version: VersionName,
    /// The provider.
    pub provider: ProviderName,
    /// The architecture.
    pub architecture: ArchitectureName,
}

impl BoxRef {
    /// What stands for an ISO image where bytes are taken in: its name in the place of a box's; the levels below count
    /// for nothing.
    pub fn of_iso(organization: OrganizationName, name: &IsoName) -> Self {
        Self {
            organization,
            name: BoxName(name.0.clone()),
            version: VersionName("0".to_owned()),
            provider: ProviderName("iso".to_owned()),
            architecture: ArchitectureName("iso".to_owned()),
        }
    }
}

impl BoxRef {
    /// As people say it: `acme/web 1.0.0 for virtualbox on amd64`.
    pub fn spoken(&self) -> String {
        format!(
            "{}/{} {} for {} on {}",
            self.organization, self.name, self.version, self.provider, self.architecture
        )
    }
}

impl fmt::Display for BoxRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}/{}/{}/{}",
            self.organization, self.name, self.version, self.provider, self.architecture
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outside_the_grammar_are_refused_with_the_rule() {
        let long = "a".repeat(129);
        for (text, rule) in [
            ("", "must not be empty"),
            (".hidden", "must start with a letter or a digit"),
            ("-rf", "must start with a letter or a digit"),
            ("a/b", "must consist of letters, digits, '.', '_' and '-'"),
            ("a\0b", "must consist of letters, digits, '.', '_' and '-'"),
            (
                "bücher",
                "must consist of letters, digits, '.', '_' and '-'",
            ),
            ("a..b", "must not contain '..'"),
            (long.as_str(), "must be at most 128 characters"),
        ] {
            assert_eq!(BoxName::from_str(text).unwrap_err().rule, rule, "{text:?}");
        }
        for text in ["a", "42", "2024_01", "ubuntu-20.04", &"a".repeat(128)] {
            assert_eq!(BoxName::from_str(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn iso_images_are_called_as_files_are() {
        let (long, longer) = ("a".repeat(255), "a".repeat(256));
        for text in ["a", ".hidden", "_x", "-rf", "a..b.iso", "...", &long] {
            assert_eq!(IsoName::from_str(text).unwrap().as_str(), text);
        }
        for (text, rule) in [
            ("", "must not be empty"),
            (".", "must not be '.' or '..'"),
            ("..", "must not be '.' or '..'"),
            ("a/b", LETTERS),
            ("a b", LETTERS),
            (longer.as_str(), "must be at most 255 characters"),
        ] {
            assert_eq!(IsoName::from_str(text).unwrap_err().rule, rule, "{text:?}");
        }
    }

    #[test]
    fn a_tag_and_its_number_are_one_version() {
        let folded = |text: &str| VersionName::from_str(text).unwrap().folded();
        assert_eq!(folded("v1.2.3"), folded("1.2.3"));
        assert_eq!(folded("V1.2.3-RC1"), folded("1.2.3-rc1"));
        assert_eq!(folded("vanilla"), "vanilla");
    }
}
