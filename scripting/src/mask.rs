//! Credentials out of what is told: a cloud may repeat what it was asked with, in a success as in a failure.

use std::borrow::Cow;

use serde_json::Value;

use crate::error::Failure;
use crate::facts::Context;

/// What stands in a credential's place.
const MASK: &str = "***";
/// Shorter credentials may be words, such as the name of a region: they are masked where they stand by themselves, and not in
/// ids, by which callers go on.
const LONG: usize = 6;

impl Context {
    /// A text without any of the credentials.
    pub fn masked<'t>(&self, text: &'t str) -> Cow<'t, str> {
        self.masked_in(text, false)
    }

    /// Takes the credentials out of all texts of a value.
    pub fn mask(&self, value: &mut Value) {
        if !self.auth.is_empty() {
            self.mask_in(value, false);
        }
    }

    fn mask_in(&self, value: &mut Value, is_id: bool) {
        match value {
            Value::String(text) => {
                if let Cow::Owned(masked) = self.masked_in(text, is_id) {
                    *text = masked;
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.mask_in(item, is_id)),
            Value::Object(members) => members
                .iter_mut()
                .for_each(|(name, member)| self.mask_in(member, name == "id")),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    pub(crate) fn mask_failure(&self, failure: &mut Failure) {
        let finding = &mut failure.finding;
        for text in std::iter::once(&mut finding.message).chain(&mut finding.hint) {
            if let Cow::Owned(masked) = self.masked(text) {
                *text = masked;
            }
        }
        if let Some(thrown) = &mut failure.thrown {
            self.mask(thrown);
        }
    }

    fn masked_in<'t>(&self, text: &'t str, is_id: bool) -> Cow<'t, str> {
        let mut masked = Cow::Borrowed(text);
        for credential in self.auth.values().filter(|value| !value.is_empty()) {
            let is_long = credential.len() >= LONG;
            if (!is_long && is_id) || !masked.contains(credential.as_str()) {
                continue;
            }
            if is_long {
                masked = masked.replace(credential.as_str(), MASK).into();
            } else if let Some(alone) = alone(&masked, credential) {
                masked = alone.into();
            }
        }
        masked
    }
}

/// The text with the word masked where it is no part of a longer one.
fn alone(text: &str, word: &str) -> Option<String> {
    let joins = |c: char| c.is_alphanumeric() || "-_.:/".contains(c);
    let mut masked = String::with_capacity(text.len());
    let mut done = 0;
    for (at, _) in text.match_indices(word) {
        let before = text[..at].chars().next_back();
        let behind = text[at + word.len()..].chars().next();
        // A full stop or a colon ends a word that has nothing behind it.
        let after = text[at + word.len()..].chars().nth(1);
        let goes_on = behind.is_some_and(joins)
            && !(matches!(behind, Some('.' | ':')) && after.is_none_or(char::is_whitespace));
        if before.is_some_and(joins) || goes_on {
            continue;
        }
        masked.push_str(&text[done..at]);
        masked.push_str(MASK);
        done = at + word.len();
    }
    (done > 0).then(|| masked + &text[done..])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn context(credentials: &[&str]) -> Context {
        let auth = credentials.iter().enumerate();
        let auth = auth.map(|(n, value)| (n.to_string(), (*value).to_owned()));
        Context::of(auth.collect())
    }

    #[test]
    fn credentials_of_any_length_are_out_of_what_is_told() {
        let context = context(&["hush-hush", "abc", "us"]);
        for (text, wanted) in [
            ("xhush-hushx", "x***x"),
            ("Key abc is bad.", "Key *** is bad."),
            ("bad key: abc.", "bad key: ***."),
            ("\"abc\"", "\"***\""),
            ("abc", "***"),
            ("abcd and us-east-1 of house", "abcd and us-east-1 of house"),
            ("abc/us", "abc/us"),
        ] {
            assert_eq!(context.masked(text), wanted);
        }
        let mut told = json!({
            "id": "us", "name": "us", "tags": ["hush-hush"], "plans": [{ "id": "hush-hush/abc", "ram": 7 }],
        });
        context.mask(&mut told);
        let wanted = json!({ "id": "us", "name": "***", "tags": ["***"], "plans": [{ "id": "***/abc", "ram": 7 }] });
        assert_eq!(told, wanted);
    }
}
