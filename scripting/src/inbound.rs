//! `[webhook_in.NAME]`: webhooks that come in for a plugin, and how their senders are known.
//!
//! What a manifest may say stands here; who compares signatures with bodies is the server.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::bundle::valid_name;

/// How a sender shows that it knows the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// `X-Hub-Signature-256: sha256=HEX`, the HMAC-SHA256 of the body; `X-GitHub-Delivery` names the delivery.
    Github,
    /// `X-Gitlab-Token` is the secret; `Idempotency-Key` or `X-Gitlab-Event-UUID` names the delivery.
    Gitlab,
    /// Standard Webhooks: `webhook-id`, `webhook-timestamp`, `webhook-signature: v1,BASE64`.
    Standard,
    /// The HMAC-SHA256 of the body in hexadecimal, `sha256=` before it or not, in a field that the manifest names.
    Hmac,
    /// The secret itself: `Authorization: Bearer SECRET`, or `X-Webhook-Token`.
    Token,
    /// Nothing: anybody may call. The operator must agree.
    None,
}

/// When the script runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// While the sender waits for the answer.
    #[default]
    Sync,
    /// Once the sender was told 202, and again until it succeeds.
    Async,
}

/// `[webhook_in.NAME]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InboundTerms {
    /// How the sender is known.
    pub verify: Verify,
    /// The name of the secret, of those that the operator grants.
    #[serde(default)]
    pub secret: Option<String>,
    /// When the script runs.
    #[serde(default)]
    pub mode: Mode,
    /// `hmac`: the field that holds the signature.
    #[serde(default)]
    pub header: Option<String>,
    /// `hmac`, `token` and `none`: the field that names the delivery.
    #[serde(default)]
    pub id_header: Option<String>,
}

/// Where `hmac` is looked for unless the manifest says otherwise.
pub const SIGNATURE_HEADER: &str = "x-signature-256";
/// What names a delivery where neither scheme nor manifest say otherwise.
pub const ID_HEADER: &str = "x-delivery-id";

impl InboundTerms {
    /// The field that holds the signature of `hmac`.
    pub fn signature_header(&self) -> &str {
        self.header.as_deref().unwrap_or(SIGNATURE_HEADER)
    }

    /// The field that names a delivery, where the scheme does not say.
    pub fn delivery_header(&self) -> &str {
        self.id_header.as_deref().unwrap_or(ID_HEADER)
    }

    /// What a manifest must not say of a hook of that name.
    fn wrong(&self, name: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut say = |what: &str| wrong.push(format!("[webhook_in.{name}] {what}"));
        if !valid_name(name) {
            say("a name has 1 to 64 of a-z, 0-9, - and _, and begins with a letter");
        }
        match (&self.secret, self.verify) {
            (None, Verify::None) => {}
            (Some(_), Verify::None) => say("verify = \"none\" compares nothing: it has no secret"),
            (None, _) => say("needs the name of a secret: secret = \"NAME\""),
            (Some(secret), _) if secret.is_empty() => say("secret is empty"),
            (Some(_), _) => {}
        }
        if self.header.is_some() && self.verify != Verify::Hmac {
            say("header is for verify = \"hmac\"; the others know where to look");
        }
        let names_ids = matches!(self.verify, Verify::Hmac | Verify::Token | Verify::None);
        if self.id_header.is_some() && !names_ids {
            say(
                "id_header is for verify = \"hmac\", \"token\" and \"none\"; the others have their own",
            );
        }
        for (key, field) in [("header", &self.header), ("id_header", &self.id_header)] {
            if field.as_ref().is_some_and(|field| !is_field(field)) {
                say(&format!("{key} is no name of a header field in lower case"));
            }
        }
        wrong
    }
}

fn is_field(name: &str) -> bool {
    let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !name.is_empty() && name.len() <= 64 && name.bytes().all(known)
}

/// What a manifest must not say, over all its hooks.
pub(crate) fn wrong(hooks: &BTreeMap<String, InboundTerms>) -> Vec<String> {
    let each = hooks.iter().map(|(name, terms)| terms.wrong(name));
    each.flatten().collect()
}

/// The secrets that hooks compare with.
pub(crate) fn secrets(hooks: &BTreeMap<String, InboundTerms>) -> impl Iterator<Item = &String> {
    hooks.values().filter_map(|terms| terms.secret.as_ref())
}

/// The hooks that anybody may call.
pub(crate) fn unverified(hooks: &BTreeMap<String, InboundTerms>) -> Vec<String> {
    let open = hooks
        .iter()
        .filter(|(_, terms)| terms.verify == Verify::None);
    open.map(|(name, _)| name.clone()).collect()
}

/// A hook that a request may be for.
#[derive(Clone)]
pub struct Inbound {
    /// What its manifest says.
    pub terms: InboundTerms,
    /// What is compared with; `None` where the operator gave no value, or none is needed.
    pub secret: Option<Arc<str>>,
}

impl std::fmt::Debug for Inbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbound")
            .field("terms", &self.terms)
            .finish_non_exhaustive()
    }
}

/// Whom a request to `/hooks/<plugin>/<hook>` is for.
#[derive(Debug, Clone)]
pub enum Addressed {
    /// Nobody.
    Nobody,
    /// A plugin that is not loaded, as it does not work.
    Broken,
    /// This one.
    Hook(Inbound),
}

#[cfg(test)]
mod tests {
    use crate::manifest::{Grant, Manifest};

    fn wrong(text: &str) -> String {
        Manifest::parse(text, "acme").unwrap_err().join("\n")
    }

    #[test]
    fn hooks_of_the_reference_are_read_and_must_be_granted() {
        let text = "[webhook_in.ci]\nverify = \"github\"\nsecret = \"CI\"\nmode = \"async\"\n\
                    [webhook_in.open]\nverify = \"none\"\n\
                    [webhook_in.own]\nverify = \"hmac\"\nsecret = \"OWN\"\nheader = \"x-own\"\nid_header = \"x-own-id\"";
        let manifest = Manifest::parse(text, "acme").unwrap();
        let missing = manifest.missing(&Grant::default());
        assert_eq!(
            missing,
            [r#"secrets = ["CI", "OWN"]"#, r#"unverified = ["open"]"#]
        );
        let grant = Grant {
            secrets: vec!["OWN".into(), "CI".into()],
            unverified: vec!["open".into()],
            ..Grant::default()
        };
        assert!(manifest.missing(&grant).is_empty());
    }

    #[test]
    fn what_a_hook_must_not_say_is_told_with_its_name() {
        let hook = |terms: &str| wrong(&format!("[webhook_in.ci]\n{terms}"));
        assert!(hook("secret = \"CI\"").contains("verify"));
        assert!(hook("verify = \"githib\"").contains("unknown variant `githib`"));
        assert!(hook("verify = \"github\"").contains("[webhook_in.ci] needs the name of a secret"));
        assert!(hook("verify = \"none\"\nsecret = \"CI\"").contains("has no secret"));
        assert!(
            hook("verify = \"token\"\nsecret = \"CI\"\nheader = \"x\"").contains("header is for")
        );
        assert!(
            hook("verify = \"github\"\nsecret = \"CI\"\nid_header = \"x\"")
                .contains("id_header is for")
        );
        assert!(
            hook("verify = \"hmac\"\nsecret = \"CI\"\nheader = \"X Y\"").contains("lower case")
        );
        assert!(hook("verify = \"none\"\nmode = \"later\"").contains("unknown variant `later`"));
        assert!(wrong("[webhook_in.Ci]\nverify = \"none\"").contains("begins with a letter"));
    }
}
