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
    key_id: i64,
    key: hmac::Key,
}

impl std::fmt::Debug for LinkSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkSigner")
            .field("key_id", &self.key_id)
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
    /// A signer with the key of that row.
    pub fn new(key_id: i64, secret: &[u8]) -> Self {
        Self {
            key_id,
            key: hmac::Key::new(hmac::HMAC_SHA256, secret),
        }
    }

    /// The `token` of a link: `key.account.expiry.signature`.
    pub fn sign(&self, file: &BoxRef, account: Option<AccountId>, expires: UnixMillis) -> String {
        let claim = format!(
            "{}.{}.{}",
            self.key_id,
            account.map_or(0, |account| account.0),
            expires.0
        );
        let signature = hmac::sign(&self.key, &message(&claim, file));
        format!("{claim}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
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
        if fields.next().is_some() || key_id != self.key_id || expires < now.0 {
            return None;
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        hmac::verify(&self.key, &message(claim, file), &signature).ok()?;
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
        let signer = LinkSigner::new(3, b"secret");
        let token = signer.sign(&file("1.0"), Some(AccountId(5)), UnixMillis(1000));
        let claim = signer
            .verify(&token, &file("v1.0"), UnixMillis(1000))
            .unwrap();
        assert_eq!(claim.account, Some(AccountId(5)));
        assert_eq!(signer.verify(&token, &file("1.0"), UnixMillis(1001)), None);
        assert_eq!(signer.verify(&token, &file("2.0"), UnixMillis(0)), None);
        assert_eq!(
            LinkSigner::new(3, b"other").verify(&token, &file("1.0"), UnixMillis(0)),
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
}
