//! How each server takes uploads, what it tells of them, and what it then has.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::files::{hashed, only_file, remove};
use super::peer::Peer;
use super::serve::keeper::kept;
use crate::content::{Content, Digests};
use crate::deployed::Deployed;
use crate::error::{Failure, Result};
use crate::gateway::{Gateway, file_path};
use crate::http::{self, Answer, Ask, Envelope, Piece};
use crate::server::Server;

/// Bytes of a PATCH.
const PATCH_BYTES: u64 = 64 << 20;

/// How a server takes uploads.
#[derive(Debug, Clone)]
pub(super) enum Way {
    Boxgate(Door),
    /// A server that puts what comes under `/put/` there.
    Files(Server, PathBuf),
    /// One that answers with digests, and keeps what came there, if at all.
    Telling(Server, PathBuf),
    /// One that speaks tus alone.
    Tus(Server, PathBuf),
}

/// How boxgate is spoken to.
#[derive(Debug, Clone)]
pub(super) struct Door {
    server: Server,
    key: String,
    organization: String,
    /// Whether it may compute SHA-256 when all is answered.
    defers: bool,
    /// Where somebody else started it.
    there: Option<Box<Deployed>>,
}

impl Door {
    fn of_own(gateway: &Gateway) -> Self {
        let when = gateway.site().settings.get("digests.sha256");
        Self {
            server: gateway.address().into(),
            key: gateway.key().to_owned(),
            organization: gateway.organization().to_owned(),
            defers: when.is_some_and(|when| when == "deferred"),
            there: None,
        }
    }

    fn of_deployed(deployed: &Deployed) -> Self {
        Self {
            server: deployed.server.clone(),
            key: deployed.token.clone(),
            organization: deployed.organization.clone(),
            defers: true,
            there: Some(Box::new(deployed.clone())),
        }
    }

    /// The name that a box gets.
    fn give(&self, short: &str) -> String {
        let there = self.there.as_ref();
        there.map_or_else(|| short.to_owned(), |there| there.give(short))
    }

    /// Where a file is put by that name.
    pub(super) fn path(&self, short: &str) -> String {
        file_path(&self.organization, &self.give(short), "1.0.0")
    }

    /// The credential.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// Holds what it told of an upload against what was sent.
    pub(super) fn equal(&self, told: &[u8], digests: &Digests) -> Result<()> {
        let mut found = stored(told)?;
        if self.defers && found.sha256.is_empty() {
            if let Some(there) = &self.there {
                there.saw_deferred();
            }
            found.sha256.clone_from(&digests.sha256);
        }
        equal("boxgate", &found, digests)
    }

    async fn put(&self, name: &str, content: &Content, envelope: &Envelope) -> Result<Answer> {
        let path = self.path(name);
        let ask = Ask {
            method: "POST",
            path: &path,
            token: Some(&self.key),
        };
        http::upload(self.server.clone(), ask, content, envelope).await
    }

    /// What it has by that name, which it has no more afterwards.
    async fn compare(&self, short: &str, digests: &Digests) -> Result<()> {
        let name = self.give(short);
        let path = format!("{}/info", file_path(&self.organization, &name, "1.0.0"));
        let ask = |method, path| Ask {
            method,
            path,
            token: Some(self.key.as_str()),
        };
        let answer = http::get(self.server.clone(), ask("GET", &path)).await?;
        let told: serde_json::Value = serde_json::from_slice(&good(&answer)?.body)
            .map_err(|e| Failure::said(format!("file/info: {e}")))?;
        let wanted = if self.defers {
            &digests.blake3
        } else {
            &digests.sha256
        };
        if !told.to_string().contains(wanted) {
            let told = format!("other digests than were sent: {told}");
            return Err(Failure::said(told));
        }
        if let Some(there) = &self.there {
            return there.take_away(&name).await;
        }
        let path = format!("/api/organization/{}/box/{name}", self.organization);
        good(&http::get(self.server.clone(), ask("DELETE", &path)).await?)?;
        Ok(())
    }
}

impl Way {
    pub(super) fn of(peer: &Peer) -> Result<Self> {
        match peer {
            Peer::Boxgate(gateway, _) => Ok(Self::Boxgate(Door::of_own(gateway))),
            Peer::Deployed(deployed) => Ok(Self::Boxgate(Door::of_deployed(deployed))),
            Peer::Other { address, files, .. } if files.join("put").exists() => {
                Ok(Self::Files((*address).into(), files.clone()))
            }
            Peer::Other { address, files, .. }
                if files.file_name().is_some_and(|n| n == "data") =>
            {
                Ok(Self::Tus((*address).into(), files.clone()))
            }
            Peer::Other { address, files, .. } => {
                Ok(Self::Telling((*address).into(), files.clone()))
            }
            Peer::Command(_) => Err(Failure::said("a command takes no requests")),
        }
    }

    /// One request with all bytes; its answer is compared.
    pub(super) async fn put(&self, name: &str, content: &Content, digests: &Digests) -> Result<()> {
        let envelope = Envelope {
            content_type: "application/octet-stream".to_owned(),
            ..Envelope::default()
        };
        match self {
            Self::Boxgate(door) => {
                let answer = door.put(name, content, &envelope).await?;
                door.equal(&good(&answer)?.body, digests)
            }
            Self::Files(server, _) => {
                let path = format!("/put/{name}");
                let ask = Ask {
                    method: "PUT",
                    path: &path,
                    token: None,
                };
                good(&http::upload(server.clone(), ask, content, &envelope).await?)?;
                Ok(())
            }
            Self::Telling(server, _) => {
                let path = format!("/{name}");
                let ask = Ask {
                    method: "PUT",
                    path: &path,
                    token: None,
                };
                let answer = http::upload(server.clone(), ask, content, &envelope).await?;
                told(&good(&answer)?.body, content.length(), digests)
            }
            Self::Tus(..) => Err(Failure::said("this server speaks tus alone")),
        }
    }

    /// Creation, then patches.
    pub(super) async fn tus(&self, name: &str, content: &Content) -> Result<()> {
        let (server, token, organization, name) = match self {
            Self::Boxgate(door) => (
                &door.server,
                Some(door.key.as_str()),
                door.organization.as_str(),
                door.give(name),
            ),
            Self::Tus(server, _) => (server, None, "", name.to_owned()),
            _ => return Err(Failure::said("this server does not speak tus")),
        };
        let target = format!("{organization}/{name}/1.0.0/virtualbox/amd64");
        let metadata = format!(
            "target {},filename {}",
            STANDARD.encode(&target),
            STANDARD.encode(&name)
        );
        let version = ("tus-resumable", "1.0.0".to_owned());
        let headers = [
            version.clone(),
            ("upload-length", content.length().to_string()),
            ("upload-metadata", metadata),
        ];
        let ask = |method, path| Ask {
            method,
            path,
            token,
        };
        let empty = Content::empty();
        let piece = Piece {
            headers: &headers,
            content: &empty,
            from: 0,
            to: 0,
            cut: None,
        };
        // rustus' own path has the slash.
        let at = if token.is_some() { "/files" } else { "/files/" };
        let answer = http::send(server.clone(), ask("POST", at), &piece, |_, _| {}).await?;
        let answer = answer.ok_or_else(|| Failure::said("a creation is not answered"))?;
        let location = good(&answer)?.headers.get("location").unwrap_or_default();
        let path = match location.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
            None => location,
        };
        let there = match self {
            Self::Boxgate(door) => door.there.as_deref(),
            _ => None,
        };
        if let Some(there) = there {
            there.opened(path);
        }
        let mut offset = 0;
        while offset < content.length() {
            let headers = [
                version.clone(),
                ("upload-offset", offset.to_string()),
                ("content-type", "application/offset+octet-stream".to_owned()),
            ];
            let to = (offset + PATCH_BYTES).min(content.length());
            let piece = Piece {
                headers: &headers,
                content,
                from: offset,
                to,
                cut: None,
            };
            let sent = http::send(server.clone(), ask("PATCH", path), &piece, |_, _| {});
            let answer = sent.await?;
            let answer = answer.ok_or_else(|| Failure::said("a PATCH is not answered"))?;
            if good(&answer)?.headers.number("upload-offset") != Some(to) {
                return Err(Failure::said(format!("another offset than {to}")));
            }
            offset = to;
        }
        if let Some(there) = there {
            there.closed(path);
        }
        Ok(())
    }

    /// What the server has by that name; it is removed where it would fill the disk.
    pub(super) async fn compare(&self, name: &str, digests: &Digests, tus: bool) -> Result<()> {
        match self {
            Self::Boxgate(door) => door.compare(name, digests).await,
            Self::Files(_, files) => {
                let path = files.join("put").join(name);
                equal("nginx", &hashed(&path)?, digests)?;
                remove(&path)
            }
            Self::Tus(_, files) if tus => {
                let (path, others) = only_file(files)?;
                equal("rustus", &hashed(&path)?, digests)?;
                others
                    .iter()
                    .chain([&path])
                    .try_for_each(|path| remove(path))
            }
            Self::Telling(_, files) => {
                let path = kept(files, name);
                if path.exists() {
                    equal("loop", &hashed(&path)?, digests)?;
                    remove(&path)?;
                }
                Ok(())
            }
            Self::Tus(..) => Ok(()),
        }
    }
}

/// The answer of success.
pub(super) fn good(answer: &Answer) -> Result<&Answer> {
    if answer.status / 100 == 2 {
        Ok(answer)
    } else {
        Err(Failure::said(answer.in_short()))
    }
}

/// What boxgate tells of a file that it took.
fn stored(body: &[u8]) -> Result<Digests> {
    let told: serde_json::Value =
        serde_json::from_slice(body).map_err(|e| Failure::said(format!("an answer: {e}")))?;
    let digest = |name: &str| {
        let digest = told.pointer(&format!("/details/{name}"));
        digest
            .and_then(|digest| digest.as_str())
            .unwrap_or_default()
            .to_owned()
    };
    Ok(Digests {
        blake3: digest("blake3"),
        sha256: digest("sha256"),
    })
}

/// What a plain server tells: its digests, or how many bytes it dropped.
fn told(body: &[u8], length: u64, digests: &Digests) -> Result<()> {
    let told: serde_json::Value =
        serde_json::from_slice(body).map_err(|e| Failure::said(format!("an answer: {e}")))?;
    let is = |name: &str, wanted: &str| told.get(name).is_none_or(|found| found == wanted);
    let received = told
        .get("received")
        .is_none_or(|n| n.as_u64() == Some(length));
    let tells = ["received", "blake3"]
        .iter()
        .any(|name| told.get(name).is_some());
    if tells && received && is("blake3", &digests.blake3) && is("sha256", &digests.sha256) {
        Ok(())
    } else {
        Err(Failure::said(format!("other bytes than were sent: {told}")))
    }
}

pub(super) fn equal(whose: &str, found: &Digests, wanted: &Digests) -> Result<()> {
    if found == wanted {
        Ok(())
    } else {
        Err(Failure::said(format!(
            "{whose} has other bytes than were sent"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_plain_server_tells_is_held_against_what_was_sent() {
        let digests = Digests {
            blake3: "aa".into(),
            sha256: "bb".into(),
        };
        for (body, right) in [
            (r#"{"received":7}"#, true),
            (r#"{"received":6}"#, false),
            (r#"{"blake3":"aa"}"#, true),
            (r#"{"blake3":"aa","sha256":"bb"}"#, true),
            (r#"{"blake3":"ab"}"#, false),
            (r#"{"blake3":"aa","sha256":"aa"}"#, false),
            ("7", false),
            ("{}", false),
        ] {
            assert_eq!(told(body.as_bytes(), 7, &digests).is_ok(), right, "{body}");
        }
    }
}
