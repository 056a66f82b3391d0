//! What a plugin may do to the boxes of an organization: by a catalog that the gateway hands in, within what the
//! manifest asks for and the operator grants (`[catalog] allow = ["release:acme/*"]`).

use std::fmt::Debug;

use serde_json::Value;

use crate::hook::nearest;

/// Deeds of one call.
pub const MAX_DEEDS: usize = 200;

/// What may be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "`box::` documents each")]
pub enum Verb {
    List,
    Lookup,
    Versions,
    Release,
    Revoke,
    Delete,
    SetPublic,
    Label,
}

const VERBS: [Verb; 8] = [
    Verb::List,
    Verb::Lookup,
    Verb::Versions,
    Verb::Release,
    Verb::Revoke,
    Verb::Delete,
    Verb::SetPublic,
    Verb::Label,
];

impl Verb {
    /// As grants and scripts write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Lookup => "lookup",
            Self::Versions => "versions",
            Self::Release => "release",
            Self::Revoke => "revoke",
            Self::Delete => "delete",
            Self::SetPublic => "set_public",
            Self::Label => "label",
        }
    }

    /// The verb of that name.
    pub fn by_name(name: &str) -> Option<Self> {
        VERBS.into_iter().find(|verb| verb.name() == name)
    }

    /// Whether it only reads.
    pub fn reads(self) -> bool {
        matches!(self, Self::List | Self::Lookup | Self::Versions)
    }
}

/// What a script does to a box, granted.
#[derive(Debug, Clone, PartialEq)]
pub struct Deed {
    /// The plugin.
    pub plugin: String,
    /// What.
    pub verb: Verb,
    /// Whose box.
    pub organization: String,
    /// The box; empty for [`Verb::List`].
    pub name: String,
    /// Version, provider and architecture, as far down as it goes.
    pub below: Vec<String>,
    /// What it is set to; null where nothing is.
    pub value: Value,
    /// How many events led to it.
    pub depth: u32,
    /// The plugins that led to it, this one last.
    pub causes: Vec<String>,
}

/// The boxes. Called on a thread that may block.
pub trait Catalog: Debug + Send + Sync {
    /// Does it; what it came to. A list of boxes is one of all boxes, granted or not.
    ///
    /// # Errors
    /// Why it is not done, in words.
    fn perform(&self, deed: &Deed) -> Result<Value, String>;
}

/// What is wrong with a pattern, in words.
pub fn wrong(pattern: &str) -> Option<String> {
    let Some((verb, boxes)) = pattern.split_once(':') else {
        return Some(format!(
            "{pattern:?}: expected VERB:ORGANIZATION/BOX, such as \"release:acme/*\""
        ));
    };
    if Verb::by_name(verb).is_none() {
        let near = nearest(verb, VERBS.iter().map(|verb| verb.name()));
        let near = near
            .map(|n| format!("; did you mean {n}?"))
            .unwrap_or_default();
        return Some(format!("{pattern:?}: {verb:?} is no verb{near}"));
    }
    let whole = boxes.split('/').filter(|part| !part.is_empty()).count() == 2;
    (!whole).then(|| format!("{pattern:?}: expected ORGANIZATION/BOX behind the verb"))
}

/// Whether one of the patterns lets a verb be done to a box.
pub fn allows(patterns: &[String], verb: Verb, organization: &str, name: &str) -> bool {
    let wanted = format!("{organization}/{name}").to_lowercase();
    patterns.iter().any(|pattern| {
        let parts = pattern.split_once(':');
        parts.is_some_and(|(known, boxes)| {
            known == verb.name() && fast_glob::glob_match(boxes.to_lowercase(), &wanted)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_allow_their_verb_on_their_boxes() {
        let patterns = ["release:acme/*".to_owned(), "delete:Acme/old-*".to_owned()];
        let allowed = |verb, organization, name| allows(&patterns, verb, organization, name);
        assert!(allowed(Verb::Release, "acme", "web"));
        assert!(allowed(Verb::Release, "Acme", "Web"));
        assert!(allowed(Verb::Delete, "acme", "old-web"));
        assert!(!allowed(Verb::Delete, "acme", "web"));
        assert!(!allowed(Verb::Release, "other", "web"));
        assert!(!allowed(Verb::List, "acme", "web"));
    }

    #[test]
    fn what_is_no_pattern_is_said() {
        assert_eq!(wrong("set_public:acme/*"), None);
        assert!(wrong("release").unwrap().contains("VERB:"));
        assert!(
            wrong("relase:acme/*")
                .unwrap()
                .contains("did you mean release?")
        );
        assert!(wrong("release:acme").unwrap().contains("ORGANIZATION/BOX"));
    }
}
