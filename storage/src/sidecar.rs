//! What stands beside a blob in its store: which upload made a name lead to it, and its digests.
//!
//! A sidecar is written once the bytes are whole and before the rows publish them, one for each upload that was
//! published, and never changed: no two nodes ever write the same one. It goes with the blob. Nothing reads it while
//! the rows are there; where they were lost, or an older backup of them came back, [`crate::check`] makes the names
//! again out of it. What it says was true when it was written; where rows know better, they do.

use serde::{Deserialize, Serialize};

use crate::blob::{BlobMeta, UploadId};
use crate::clock::UnixMillis;
use crate::digest::{Blake3, Sha256};
use crate::metadata::uploads::{Labels, Target};

/// One upload that was published, or is about to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sidecar {
    /// Which upload: the sidecar's own name.
    pub upload: UploadId,
    /// The blob that it led to.
    pub blob: BlobMeta,
    /// Name of the organization.
    pub organization: String,
    /// The name that leads to the blob; an upload without one held it itself.
    pub target: Option<Target>,
    /// Labels that it was published with.
    pub labels: Labels,
    /// When.
    pub published: UnixMillis,
    /// Whether it was written of the rows long after, and not with the upload: then it is no news to them.
    pub of_rows: bool,
}

/// It as JSON.
#[derive(Serialize, Deserialize)]
struct Text {
    format: u32,
    upload: String,
    key: String,
    length: u64,
    blake3: String,
    /// Absent where it was not known yet.
    #[serde(default)]
    sha256: Option<String>,
    organization: String,
    target: Option<Target>,
    #[serde(default)]
    labels: Labels,
    published_ms: i64,
    #[serde(default)]
    of_rows: bool,
}

/// What a version that changes the meaning raises.
const FORMAT: u32 = 1;
/// No sidecar is longer: a target, a checksum and labels are bounded where they came in.
pub const MOST_BYTES: usize = 256 << 10;

impl Sidecar {
    /// It as a line of JSON.
    ///
    /// # Panics
    /// Never: texts, numbers and maps of texts are JSON.
    pub fn to_text(&self) -> String {
        let text = Text {
            format: FORMAT,
            upload: self.upload.to_string(),
            key: self.blob.key.to_string(),
            length: self.blob.length,
            blake3: self.blob.blake3.to_hex(),
            sha256: self.blob.sha256.map(|sha256| sha256.to_hex()),
            organization: self.organization.clone(),
            target: self.target.clone(),
            labels: self.labels.clone(),
            published_ms: self.published.0,
            of_rows: self.of_rows,
        };
        let mut line = serde_json::to_string(&text).expect("texts, numbers and maps are JSON");
        line.push('\n');
        line
    }

    /// From its text; `None` for one that is damaged or of another format.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text: Text = serde_json::from_slice(text).ok()?;
        let blob = BlobMeta {
            key: text.key.parse().ok()?,
            length: text.length,
            blake3: Blake3::from_hex(&text.blake3)?,
            sha256: match text.sha256 {
                Some(hex) => Some(Sha256::from_hex(&hex)?),
                None => None,
            },
        };
        (text.format == FORMAT).then_some(Self {
            upload: text.upload.parse().ok()?,
            blob,
            organization: text.organization,
            target: text.target,
            labels: text.labels,
            published: UnixMillis(text.published_ms),
            of_rows: text.of_rows,
        })
    }

    /// The full name that it leads to.
    pub fn path(&self) -> Option<String> {
        let target = self.target.as_ref()?;
        if target.iso.is_some() {
            return Some(format!("{}/iso/{}", self.organization, target.box_name));
        }
        let below = target.names().join("/");
        Some(format!("{}/{below}", self.organization))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::BlobKey;

    fn sidecar() -> Sidecar {
        Sidecar {
            upload: UploadId::random(),
            blob: BlobMeta {
                key: BlobKey::random(),
                length: 5,
                blake3: Blake3([1; 32]),
                sha256: Some(Sha256([2; 32])),
            },
            organization: "acme".to_owned(),
            target: Some(Target {
                box_name: "web".to_owned(),
                version: "1.0".to_owned(),
                provider: "virtualbox".to_owned(),
                architecture: "amd64".to_owned(),
                new_box_public: true,
                declared: Some(("SHA256".to_owned(), "ab".to_owned())),
                actor: "ann".to_owned(),
                base_url: String::new(),
                into: None,
                labels: Labels::new(),
                iso: None,
            }),
            labels: Labels::from([("os".to_owned(), "debian".to_owned())]),
            published: UnixMillis(7),
            of_rows: false,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let written = sidecar();
        let text = written.to_text();
        assert_eq!(Sidecar::parse(text.as_bytes()).as_ref(), Some(&written));
        assert_eq!(written.path().unwrap(), "acme/web/1.0/virtualbox/amd64");
        let nameless = Sidecar {
            target: None,
            ..written
        };
        assert_eq!(nameless.path(), None);
        assert_eq!(
            Sidecar::parse(nameless.to_text().as_bytes()),
            Some(nameless)
        );
        let mut deferred = sidecar();
        deferred.blob.sha256 = None;
        assert_eq!(
            Sidecar::parse(deferred.to_text().as_bytes()),
            Some(deferred)
        );
    }

    #[test]
    fn half_a_sidecar_and_one_of_another_format_are_none() {
        let text = sidecar().to_text();
        assert_eq!(Sidecar::parse(&text.as_bytes()[..text.len() / 2]), None);
        let newer = text.replacen("\"format\":1", "\"format\":2", 1);
        assert_ne!(newer, text);
        assert_eq!(Sidecar::parse(newer.as_bytes()), None);
        let odd = text.replacen(r#""blake3":"01"#, r#""blake3":"0"#, 1);
        assert_eq!(Sidecar::parse(odd.as_bytes()), None);
    }
}
