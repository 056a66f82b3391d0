//! Download links: a right to read one box file for a while, signed instead of stored.
//!
//! A link says which file, for whom and until when; it is checked against the box's present
//! visibility and the account's present memberships at each use, so it never outlives a right.
//! A plugin's link is to the bytes of one blob, on nobody's behalf, and ends with the blob.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use boxgate_storage::blob::BlobKey;
use boxgate_storage::catalog::BoxRef;
use boxgate_storage::clock::UnixMillis;
use boxgate_storage::digest::Blake3;
use boxgate_storage::metadata::accounts::AccountId;
use boxgate_storage::metadata::catalog::{ArchitectureId, IsoId};
use boxgate_storage::metadata::tokens::TokenId;
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

/// What the URL of an upload stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadClaim {
    /// Where the bytes go.
    pub into: ArchitectureId,
    /// The token by which it was asked for.
    pub by: TokenId,
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
        let account = self.claimed(token, now, |claim| message(claim, file))?;
        let account: i64 = account.parse().ok()?;
        Some(LinkClaim {
            account: (account != 0).then_some(AccountId(account)),
        })
    }

    /// The `token` of a link to an ISO image: as that of a file; `None` while there is no key.
    pub fn sign_iso(&self, iso: IsoId, account: AccountId, expires: UnixMillis) -> Option<String> {
        let (id, key) = self.keys.first()?;
        let claim = format!("{id}.{}.{}", account.0, expires.0);
        let signature = hmac::sign(key, &iso_message(&claim, iso));
        let signature = URL_SAFE_NO_PAD.encode(signature.as_ref());
        Some(format!("{claim}.{signature}"))
    }

    /// On whose behalf a link to that ISO image is, if it was signed here and has not expired.
    pub fn verify_iso(&self, token: &str, iso: IsoId, now: UnixMillis) -> Option<AccountId> {
        let account = self.claimed(token, now, |claim| iso_message(claim, iso))?;
        account.parse().ok().map(AccountId)
    }

    /// The `token` in the URL of an upload: `key.architecture-token.expiry.signature`; `None` while there is no key.
    pub fn sign_upload(&self, upload: UploadClaim, expires: UnixMillis) -> Option<String> {
        let (id, key) = self.keys.first()?;
        let UploadClaim { into, by } = upload;
        let claim = format!("{id}.{}-{}.{}", into.0, by.0, expires.0);
        let signature = hmac::sign(key, &upload_message(&claim));
        let signature = URL_SAFE_NO_PAD.encode(signature.as_ref());
        Some(format!("{claim}.{signature}"))
    }

    /// What the token in the URL of an upload says, if it was signed here and has not expired.
    pub fn verify_upload(&self, token: &str, now: UnixMillis) -> Option<UploadClaim> {
        let (into, by) = self.claimed(token, now, upload_message)?.split_once('-')?;
        Some(UploadClaim {
            into: ArchitectureId(into.parse().ok()?),
            by: TokenId(by.parse().ok()?),
        })
    }

    /// The `token` of a link to the bytes of a blob: `key.blob.expiry.signature`; `None` while there is no key.
    pub fn sign_blob(
        &self,
        digest: &Blake3,
        blob: &BlobKey,
        expires: UnixMillis,
    ) -> Option<String> {
        let (id, key) = self.keys.first()?;
        let claim = format!("{id}.{blob}.{}", expires.0);
        let signature = hmac::sign(key, &blob_message(&claim, digest));
        let signature = URL_SAFE_NO_PAD.encode(signature.as_ref());
        Some(format!("{claim}.{signature}"))
    }

    /// The blob that a token leads to, if it was signed here for bytes of this digest and has not expired.
    pub fn verify_blob(&self, token: &str, digest: &Blake3, now: UnixMillis) -> Option<BlobKey> {
        let blob = self.claimed(token, now, |claim| blob_message(claim, digest))?;
        blob.parse().ok()
    }

    /// What a token names between its key and its expiry, if it is good.
    fn claimed<'t>(
        &self,
        token: &'t str,
        now: UnixMillis,
        message: impl FnOnce(&str) -> Vec<u8>,
    ) -> Option<&'t str> {
        let (claim, signature) = token.rsplit_once('.')?;
        let mut fields = claim.split('.');
        let (key_id, named, expires) = (fields.next()?, fields.next()?, fields.next()?);
        let (key_id, expires): (i64, i64) = (key_id.parse().ok()?, expires.parse().ok()?);
        if fields.next().is_some() || expires < now.0 {
            return None;
        }
        let (_, key) = self.keys.iter().find(|(id, _)| *id == key_id)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        hmac::verify(key, &message(claim), &signature).ok()?;
        Some(named)
    }
}

fn upload_message(claim: &str) -> Vec<u8> {
    format!("PUT\n{claim}\n/uploads").into_bytes()
}

// As with blobs, no name of a file is so.
fn iso_message(claim: &str, iso: IsoId) -> Vec<u8> {
    format!("GET\n{claim}\niso/{}", iso.0).into_bytes()
}

// No name of a file begins so: it has four slashes.
fn blob_message(claim: &str, digest: &Blake3) -> Vec<u8> {
    format!("GET\n{claim}\nb3/{}", digest.to_hex()).into_bytes()
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
    fn a_link_to_bytes_is_good_for_them_and_for_no_file() {
        let signer = LinkSigner::new([(3, b"secret".to_vec())]);
        let (digest, blob) = (Blake3([7; 32]), BlobKey::from_bytes([5; 16]));
        let token = signer.sign_blob(&digest, &blob, UnixMillis(1000)).unwrap();
        let verify = |token: &str, digest, now| signer.verify_blob(token, digest, UnixMillis(now));
        assert_eq!(verify(&token, &digest, 1000), Some(blob));
        assert_eq!(verify(&token, &digest, 1001), None);
        assert_eq!(verify(&token, &Blake3([8; 32]), 0), None);
        let other = BlobKey::from_bytes([6; 16]).to_string();
        let forged = token.replacen(&blob.to_string(), &other, 1);
        assert_eq!(verify(&forged, &digest, 0), None);
        assert_eq!(signer.verify(&token, &file("1.0"), UnixMillis(0)), None);
        let of_file = signer.sign(&file("1.0"), None, UnixMillis(1000)).unwrap();
        assert_eq!(verify(&of_file, &digest, 0), None);
    }

    #[test]
    fn the_url_of_an_upload_is_good_for_its_place_and_is_no_link() {
        let signer = LinkSigner::new([(3, b"secret".to_vec())]);
        let upload = UploadClaim {
            into: ArchitectureId(7),
            by: TokenId(11),
        };
        let token = signer.sign_upload(upload, UnixMillis(1000)).unwrap();
        let verify = |token: &str, now| signer.verify_upload(token, UnixMillis(now));
        assert_eq!(verify(&token, 1000), Some(upload));
        assert_eq!(verify(&token, 1001), None);
        for forged in [
            token.replacen(".7-11.", ".8-11.", 1),
            token.replacen(".7-11.", ".7-12.", 1),
            token.replacen(".1000.", ".9000.", 1),
            String::new(),
        ] {
            assert_eq!(verify(&forged, 0), None, "{forged}");
        }
        assert_eq!(signer.verify(&token, &file("1.0"), UnixMillis(0)), None);
        assert_eq!(
            signer.verify_blob(&token, &Blake3([7; 32]), UnixMillis(0)),
            None
        );
        let link = signer.sign(&file("1.0"), Some(AccountId(5)), UnixMillis(1000));
        assert_eq!(verify(&link.unwrap(), 0), None);
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
