//! Download links: a right to read one box file for a while, signed instead of stored.
//!
//! A link says which file, for whom and until when; it is checked against the box's present
//! visibility and the account's present memberships at each use, so it never outlives a right.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use boxgate_storage::catalog::BoxRef;
use boxgate_storage::clock::UnixMillis;
use boxgate_storage::metadata::accounts::AccountId;
use ring::hmac;

/// Signs and checks download links.
#[derive(Clone)]
pub struct LinkSigner {
    /// By their ids; the first signs.
    keys: Vec<(i64, hmac::Key)>,
}

impl std::fmt::Debug for LinkSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkSigner")
            .field("keys", &self.keys.len())
            .finish_non_exhaustive()
    }
}

/// What a valid link says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkClaim {
    /// For whom it was made; `None` for an anonymous reader of a public box.
    pub account: Option<AccountId>,
}

impl LinkSigner {
    /// A signer with these keys, by the ids of their rows: the first signs, all of them check.
    pub fn new(keys: impl IntoIterator<Item = (i64, Vec<u8>)>) -> Self {
        let key = |secret: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, secret);
        Self {
            keys: keys.into_iter().map(|(id, s)| (id, key(&s))).collect(),
        }
    }

    /// The `token` of a link: `key.account.expiry.signature`; `None` while there is no key.
    pub fn sign(
        &self,
        file: &BoxRef,
        account: Option<AccountId>,
        expires: UnixMillis,
    ) -> Option<String> {
        let (id, key) = self.keys.first()?;
        let claim = format!(
            "{id}.{}.{}",
            account.map_or(0, |account| account.0),
            expires.0
        );
        let signature = hmac::sign(key, &message(&claim, file));
        let signature = URL_SAFE_NO_PAD.encode(signature.as_ref());
        Some(format!("{claim}.{signature}"))
    }

    /// What a link's token says, if it was signed here for this file and has not expired.
    pub fn verify(&self, token: &str, file: &BoxRef, now: UnixMillis) -> Option<LinkClaim> {
        let (claim, signature) = token.rsplit_once('.')?;
        let mut fields = claim.split('.').map(str::parse::<i64>);
        let (key_id, account, expires) = (
            fields.next()?.ok()?,
            fields.next()?.ok()?,
            fields.next()?.ok()?,
        );
        if fields.next().is_some() || expires < now.0 {
            return None;
        }
        let (_, key) = self.keys.iter().find(|(id, _)| *id == key_id)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        hmac::verify(key, &message(claim, file), &signature).ok()?;
        Some(LinkClaim {
            account: (account != 0).then_some(AccountId(account)),
        })
    }
}

// The file's folded name, so that a link works under each spelling that leads to the same file.
fn message(claim: &str, file: &BoxRef) -> Vec<u8> {
    format!(
        "GET\n{claim}\n{}/{}/{}/{}/{}",
        file.organization.folded(),
        file.name.folded(),
        file.version.folded(),
        file.provider.folded(),
        file.architecture.folded()
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(version: &str) -> BoxRef {
        BoxRef {
            organization: "acme".parse().unwrap(),
            name: "demo".parse().unwrap(),
            version: version.parse().unwrap(),
            provider: "virtualbox".parse().unwrap(),
            architecture: "amd64".parse().unwrap(),
        }
    }

    #[test]
    fn a_link_is_good_for_its_file_until_it_expires() {
        let signer = LinkSigner::new([(3, b"secret".to_vec())]);
        let token = signer.sign(&file("1.0"), Some(AccountId(5)), UnixMillis(1000));
        let token = token.unwrap();
        let claim = signer
            .verify(&token, &file("v1.0"), UnixMillis(1000))
            .unwrap();
        assert_eq!(claim.account, Some(AccountId(5)));
        assert_eq!(signer.verify(&token, &file("1.0"), UnixMillis(1001)), None);
        assert_eq!(signer.verify(&token, &file("2.0"), UnixMillis(0)), None);
        assert_eq!(
            LinkSigner::new([(3, b"other".to_vec())]).verify(&token, &file("1.0"), UnixMillis(0)),
            None
        );
        for forged in [
            token.replacen("3.5.", "3.6.", 1),
            token.replacen(".1000.", ".9000.", 1),
            token[..token.len() - 1].to_owned(),
            String::new(),
            "....".into(),
            format!("3.5.1000.1.{}", token.rsplit_once('.').unwrap().1),
        ] {
            assert_eq!(
                signer.verify(&forged, &file("1.0"), UnixMillis(0)),
                None,
                "{forged}"
            );
        }
    }

    #[test]
    fn the_first_key_signs_and_each_that_is_held_checks() {
        let (old, new) = ((3, b"old".to_vec()), (4, b"new".to_vec()));
        let by_old = LinkSigner::new([old.clone()]);
        let both = LinkSigner::new([new.clone(), old]);
        let sign = |signer: &LinkSigner| signer.sign(&file("1.0"), None, UnixMillis(9)).unwrap();
        let (first, second) = (sign(&by_old), sign(&both));
        assert!(first.starts_with("3.") && second.starts_with("4."));
        let checks = |signer: &LinkSigner, token: &str| {
            signer.verify(token, &file("1.0"), UnixMillis(0)).is_some()
        };
        assert!(checks(&both, &first) && checks(&both, &second));
        assert!(!checks(&by_old, &second));
        assert!(!checks(&LinkSigner::new([new]), &first), "its key is gone");
        let none = LinkSigner::new([]);
        assert!(none.sign(&file("1.0"), None, UnixMillis(9)).is_none() && !checks(&none, &first));
    }
}
