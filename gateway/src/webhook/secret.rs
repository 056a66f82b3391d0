//! Secrets of endpoints, and what they sign: as Standard Webhooks has it with every secret that counts, and as BoxVault
//! has it with one.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boxgate_storage::clock::UnixMillis;
use boxgate_storage::metadata::webhooks::Secrets;
use http::{HeaderMap, HeaderName, HeaderValue};
use ring::hmac;

use crate::auth::master_key::MasterKey;

/// What secrets are sealed for.
const PURPOSE: &str = "webhook";
/// Shortest and longest secret, in bytes.
const LENGTH: std::ops::RangeInclusive<usize> = 8..=256;
/// Below so many bytes a secret may be guessed.
const WEAK: usize = 24;
/// What stands before a secret that is base64.
const PREFIX: &str = "whsec_";

/// A secret as its owner gave it.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookSecret(String);

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret(***)")
    }
}

/// The text is no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSecret {
    /// Too short or too long, or not printable. Other letters than those of ASCII make other keys in each library.
    #[error(
        "'secret' must be 8 to 256 printable characters of ASCII, or be left out: one is then made and shown once"
    )]
    Text,
    /// It says that it is base64 and is not.
    #[error("'secret' begins with whsec_, and what follows is no base64")]
    Base64,
}

impl WebhookSecret {
    /// Takes what an owner gave.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn parse(text: &str) -> Result<Self, BadSecret> {
        let printable = text.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
        if !LENGTH.contains(&text.len()) || !printable {
            return Err(BadSecret::Text);
        }
        let encoded = text.strip_prefix(PREFIX);
        if encoded.is_some_and(|encoded| !STANDARD.decode(encoded).is_ok_and(|key| !key.is_empty()))
        {
            return Err(BadSecret::Base64);
        }
        Ok(Self(text.to_owned()))
    }

    /// A new one.
    pub fn random() -> Self {
        let mut bits = [0; 32];
        getrandom::fill(&mut bits).expect("the operating system gives random bytes");
        Self(format!("{PREFIX}{}", STANDARD.encode(bits)))
    }

    /// The text, to be shown to its owner once.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether it may be guessed.
    pub fn is_weak(&self) -> bool {
        self.0.len() < WEAK
    }

    /// As rows hold it.
    pub fn seal(&self, key: &MasterKey) -> Vec<u8> {
        key.seal(PURPOSE, self.0.as_bytes())
    }

    fn open(key: &MasterKey, sealed: &[u8]) -> Option<Self> {
        String::from_utf8(key.open(PURPOSE, sealed)?).ok().map(Self)
    }

    /// The key of Standard Webhooks: the bytes behind `whsec_`, else the text's own.
    fn standard_key(&self) -> hmac::Key {
        let decoded = self
            .0
            .strip_prefix(PREFIX)
            .and_then(|text| STANDARD.decode(text).ok());
        hmac::Key::new(
            hmac::HMAC_SHA256,
            decoded.as_deref().unwrap_or(self.0.as_bytes()),
        )
    }
}

/// What signs for an endpoint.
#[derive(Debug, Clone)]
pub struct Signer {
    current: WebhookSecret,
    previous: Option<(WebhookSecret, UnixMillis)>,
    legacy_previous: bool,
}

static ID: HeaderName = HeaderName::from_static("webhook-id");
static TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
static SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
static LEGACY: HeaderName = HeaderName::from_static("x-boxvault-signature");

impl Signer {
    /// Opens the secrets of an endpoint; `None` when the master key is not theirs.
    pub fn open(key: &MasterKey, secrets: &Secrets) -> Option<Self> {
        let previous = match &secrets.previous {
            Some((sealed, until)) => Some((WebhookSecret::open(key, sealed)?, *until)),
            None => None,
        };
        Some(Self {
            current: WebhookSecret::open(key, &secrets.current)?,
            previous,
            legacy_previous: secrets.legacy_previous,
        })
    }

    /// Puts the signatures of a body on a request that is sent now.
    pub fn sign(&self, headers: &mut HeaderMap, message: &str, now: UnixMillis, body: &str) {
        let previous = self.previous.as_ref().filter(|(_, until)| *until > now);
        let previous = previous.map(|(secret, _)| secret);
        let seconds = now.0.div_euclid(1000);
        let signed = format!("{message}.{seconds}.{body}");
        let live = std::iter::once(&self.current).chain(previous);
        let tags: Vec<String> = live
            .map(|secret| {
                let tag = hmac::sign(&secret.standard_key(), signed.as_bytes());
                format!("v1,{}", STANDARD.encode(tag))
            })
            .collect();
        // Its receivers compare the whole field: it holds one signature, by whom they know.
        let legacy = previous
            .filter(|_| self.legacy_previous)
            .unwrap_or(&self.current);
        let key = hmac::Key::new(hmac::HMAC_SHA256, legacy.0.as_bytes());
        let legacy = format!("sha256={}", hex::encode(hmac::sign(&key, body.as_bytes())));
        for (name, value) in [
            (&ID, message.to_owned()),
            (&TIMESTAMP, seconds.to_string()),
            (&SIGNATURE, tags.join(" ")),
            (&LEGACY, legacy),
        ] {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> WebhookSecret {
        WebhookSecret::parse(text).unwrap()
    }

    #[test]
    fn secrets_are_taken_as_given_or_refused_with_the_rule() {
        for good in [
            "webhook-secret",
            "12345678",
            "pass words",
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        ] {
            assert_eq!(secret(good).expose(), good);
        }
        assert_eq!(WebhookSecret::parse("1234567"), Err(BadSecret::Text));
        assert_eq!(WebhookSecret::parse(&"x".repeat(257)), Err(BadSecret::Text));
        assert_eq!(WebhookSecret::parse("with\nnewline"), Err(BadSecret::Text));
        assert_eq!(WebhookSecret::parse("pässwörter"), Err(BadSecret::Text));
        assert_eq!(WebhookSecret::parse("whsec_***"), Err(BadSecret::Base64));
        assert!(secret("webhook-secret").is_weak());
        assert!(!WebhookSecret::random().is_weak());
        assert!(WebhookSecret::parse(WebhookSecret::random().expose()).is_ok());
    }

    #[test]
    fn the_published_example_of_standard_webhooks_is_signed_as_it_is_published() {
        let signer = Signer {
            current: secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
            previous: None,
            legacy_previous: true,
        };
        let mut headers = HeaderMap::new();
        let (message, at) = (
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            UnixMillis(1_614_265_330_000),
        );
        signer.sign(&mut headers, message, at, r#"{"test": 2432232314}"#);
        assert_eq!(
            headers[&SIGNATURE],
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
        assert_eq!(headers[&TIMESTAMP], "1614265330");
        assert_eq!(headers[&ID], message);
    }

    #[test]
    fn while_a_secret_is_replaced_both_sign_and_the_legacy_field_stays_with_one() {
        let signer = |legacy_previous| Signer {
            current: secret("new-secret"),
            previous: Some((secret("old-secret"), UnixMillis(2_000))),
            legacy_previous,
        };
        let legacy = |text: &str| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes());
            format!("sha256={}", hex::encode(hmac::sign(&key, b"{}")))
        };
        let sign = |signer: &Signer, at| {
            let mut headers = HeaderMap::new();
            signer.sign(&mut headers, "msg_1", UnixMillis(at), "{}");
            let text = |name: &HeaderName| headers[name].to_str().unwrap().to_owned();
            (text(&SIGNATURE).split(' ').count(), text(&LEGACY))
        };
        assert_eq!(sign(&signer(true), 1_999), (2, legacy("old-secret")));
        assert_eq!(sign(&signer(false), 1_999), (2, legacy("new-secret")));
        assert_eq!(sign(&signer(true), 2_000), (1, legacy("new-secret")));
    }
}
