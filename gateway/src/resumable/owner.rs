//! What an upload becomes: a box file by name, or a blob of an organization.

use boxgate_storage::catalog::{BoxRef, NameError, OrganizationName};

/// The five names of a box file, in the order of `target`.
const NAMES: [&str; 5] = ["organization", "box", "version", "provider", "architecture"];

/// All that names it.
pub const FIELDS: [&str; 6] = [
    "target",
    "organization",
    "box",
    "version",
    "provider",
    "architecture",
];

/// What a client says that its upload becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// This box file.
    Target(BoxRef),
    /// A blob of this organization; of the caller's only one where none is named.
    Organization(Option<OrganizationName>),
}

impl Owner {
    /// From `target` (`org/box/version/provider/architecture`), or the five names each, or
    /// `organization` alone.
    ///
    /// # Errors
    /// The rule that is broken; a half-named box is one, as it would end nowhere.
    pub fn parse(value: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let target = value("target")
            .map(|target| parse_target(&target))
            .transpose()?;
        let names = NAMES.map(|name| value(name).filter(|v| !v.is_empty()));
        let by_names = match names.iter().flatten().count() {
            5 => {
                let names = names
                    .each_ref()
                    .map(|name| name.as_deref().unwrap_or_default());
                Some(box_ref(names).map_err(|e| e.to_string())?)
            }
            0 => None,
            1 if names[0].is_some() => None,
            _ => {
                return Err(format!(
                    "A box file needs all of {}, or target=organization/box/version/provider/architecture.",
                    NAMES.join(", ")
                ));
            }
        };
        let [organization, ..] = names;
        match (target, by_names) {
            (Some(target), Some(names)) if target != names => {
                Err("target and the five names lead to two different box files.".into())
            }
            (Some(target), _) => match organization {
                Some(o) if !o.eq_ignore_ascii_case(&target.organization.to_string()) => {
                    Err("target and organization lead to two different organizations.".into())
                }
                _ => Ok(Self::Target(target)),
            },
            (None, Some(names)) => Ok(Self::Target(names)),
            (None, None) => {
                let parsed = organization.map(|o| o.parse()).transpose();
                Ok(Self::Organization(
                    parsed.map_err(|e: NameError| e.to_string())?,
                ))
            }
        }
    }
}

fn parse_target(text: &str) -> Result<BoxRef, String> {
    let names: Vec<&str> = text.split('/').collect();
    let Ok(names) = <[&str; 5]>::try_from(names) else {
        return Err(
            "target must be organization/box/version/provider/architecture, five names.".into(),
        );
    };
    box_ref(names).map_err(|e| e.to_string())
}

fn box_ref(
    [organization, name, version, provider, architecture]: [&str; 5],
) -> Result<BoxRef, NameError> {
    Ok(BoxRef {
        organization: organization.parse()?,
        name: name.parse()?,
        version: version.parse()?,
        provider: provider.parse()?,
        architecture: architecture.parse()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(pairs: &[(&str, &str)]) -> Result<Owner, String> {
        Owner::parse(|name| {
            pairs
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, v)| (*v).to_owned())
        })
    }

    #[test]
    fn a_box_file_is_named_by_one_path_or_by_five_names() {
        let one = parsed(&[("target", "acme/demo/1.0/virtualbox/amd64")]).unwrap();
        let five = parsed(&[
            ("organization", "acme"),
            ("box", "demo"),
            ("version", "1.0"),
            ("provider", "virtualbox"),
            ("architecture", "amd64"),
        ])
        .unwrap();
        assert!(matches!(&one, Owner::Target(t) if t.to_string().contains("demo")));
        assert_eq!(one, five);
        assert_eq!(parsed(&[]), Ok(Owner::Organization(None)));
        assert_eq!(
            parsed(&[("organization", "acme"), ("filename", "x")]),
            Ok(Owner::Organization(Some("acme".parse().unwrap())))
        );
    }

    #[test]
    fn half_a_name_and_two_names_are_refused() {
        for wrong in [
            &[("target", "acme/demo/1.0/virtualbox")][..],
            &[("target", "acme/demo/1.0/virtualbox/amd64/x")],
            &[("target", "")],
            &[("target", "acme/../1.0/virtualbox/amd64")],
            &[("target", "a/b/1/c/d"), ("organization", "other")],
            &[("organization", "acme"), ("box", "demo")],
            &[("box", "demo")],
            &[("organization", "..")],
        ] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
    }
}
