//! How a push begins: with what an earlier run left beside the file or on the gateway, or with a new upload.

use boxgate_storage::digest::Algorithm;
use boxgate_storage::digest::content::Digests;
use tokio::sync::watch;

use super::hash::{Hashed, Values};
use super::plan::{Cut, Plan};
use super::protocol::{self, Standing};
use super::{Begun, Notice, Push, PushError, append};
use crate::client::ClientError;

impl Push<'_> {
    /// What an earlier run of the same push left.
    pub(super) async fn begun_before(&self) -> Result<Option<Begun>, PushError> {
        let kept = match self.source.kept() {
            Ok(Some(kept)) => kept,
            Ok(None) => return Ok(None),
            // It is only the shorter way: the gateway is asked.
            Err(e) => {
                (self.tell)(Notice::Unusable(e.to_string()));
                return Ok(None);
            }
        };
        if self.order.afresh {
            // One that is gone already is as good; one that stays is given up by its idle limit.
            if kept.url == self.client.base() {
                let _gone = protocol::cancel(self.client, &kept.upload).await;
            }
            return Ok(None);
        }
        let path = self.source.path.clone();
        if kept.url != self.client.base() || kept.target != self.order.target.to_string() {
            let (target, url) = (kept.target, kept.url);
            return Err(PushError::Elsewhere { path, target, url });
        }
        if kept.identity != self.source.identity {
            return Err(PushError::Changed(path));
        }
        let standing = self
            .patiently("asking for the upload", || {
                protocol::standing(self.client, &kept.upload)
            })
            .await;
        let standing = match standing {
            Ok(standing) => standing,
            Err(PushError::Refused(e)) if matches!(e.status(), Some(404 | 410)) => {
                (self.tell)(Notice::Gone);
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        let length = self.source.identity.size;
        if standing.length != Some(length) {
            return Err(self.client.odd("its upload has another length").into());
        }
        let begun = self.where_it_stands(kept.upload, kept.part_bytes, standing)?;
        let held = begun.held_before;
        (self.tell)(Notice::GoesOn { held, length });
        Ok(Some(begun))
    }

    /// An upload to go on with from where it stands.
    pub(super) fn where_it_stands(
        &self,
        upload: String,
        part_bytes: u64,
        standing: Standing,
    ) -> Result<Begun, PushError> {
        let mut begun = self.planned(upload, part_bytes);
        if standing.state == "done" {
            begun.held_before = self.source.identity.size;
            begun.outcome = standing.outcome.known();
        } else if let Some((plan, _)) = &mut begun.parts {
            let parts = standing.parts.ok_or(PushError::TakenOver)?;
            plan.read(standing.offset, parts.held);
            begun.held_before = plan.held_bytes();
        } else {
            begun.held_before = standing.offset;
        }
        Ok(begun)
    }

    /// An upload that an earlier push left on the gateway, or a new one; kept beside the file before the first part is
    /// sent.
    pub(super) async fn begin(&self) -> Result<Begun, PushError> {
        let left = self.left_behind().await?;
        let hashed = self.hashed_first(&left).await?;
        let mut found = None;
        if let Some(hashed) = &hashed {
            found = self.same_of(left, hashed).await?;
        }
        let digests = hashed.map(|hashed| hashed.digests);
        let mut begun = match found {
            Some(found) if !self.order.digest_first => found,
            found => {
                let made = self.made(digests.as_ref()).await?;
                match found {
                    Some(found) if made.outcome.is_none() => {
                        // Nothing of it was sent, and the other holds some.
                        let _gone = protocol::cancel(self.client, &made.upload).await;
                        found
                    }
                    _ => made,
                }
            }
        };
        if begun.outcome.is_none() {
            self.keep(&begun);
        }
        begun.digests = digests;
        Ok(begun)
    }

    /// The digests, where they are wanted before anything is sent: to be told, or to know what was left behind.
    async fn hashed_first(&self, left: &[Begun]) -> Result<Option<Hashed>, PushError> {
        let length = self.source.identity.size;
        match left.iter().map(|begun| begun.held_before).max() {
            Some(held) => (self.tell)(Notice::Found { held, length }),
            None if self.order.digest_first => (self.tell)(Notice::DigestFirst { length }),
            None => return Ok(None),
        }
        let (_allow, allowed) = watch::channel(length);
        // By SHA-256 the gateway finds what the organization has.
        let wanted = self.order.digest_first.then_some(Algorithm::Sha256);
        let hashing = self.hashing(allowed, Values::Kept, wanted);
        let hashed = self.hashed(hashing).await?;
        self.source.assert_unchanged()?;
        Ok(Some(hashed))
    }

    /// A new upload.
    async fn made(&self, digests: Option<&Digests>) -> Result<Begun, PushError> {
        let length = self.source.identity.size;
        let digests = digests.filter(|_| self.order.digest_first);
        let begun = self
            .patiently("beginning the upload", || {
                protocol::create(self.client, &self.order.target, length, digests)
            })
            .await;
        match begun {
            Ok(protocol::Begun::Known(outcome)) => {
                (self.tell)(Notice::Known);
                Ok(Begun {
                    held_before: length,
                    outcome: Some(outcome),
                    was_known: true,
                    ..self.planned(String::new(), 0)
                })
            }
            Ok(protocol::Begun::Made(created)) => {
                Ok(self.planned(created.upload, created.part_bytes))
            }
            Err(PushError::Refused(why)) if append::is_too_large(&why) => {
                let upload = self.begin_in_order(why).await?;
                Ok(self.planned(upload, 0))
            }
            Err(e) => Err(e),
        }
    }

    /// A new upload that is sent in order, since a part is too large for something on the way.
    pub(super) async fn begin_in_order(&self, why: ClientError) -> Result<String, PushError> {
        let length = self.source.identity.size;
        let upload = self
            .patiently("beginning the upload", || {
                append::create(self.client, &self.order.target, length)
            })
            .await?;
        (self.tell)(Notice::InOrder { why });
        self.keep(&self.planned(upload.clone(), 0));
        Ok(upload)
    }

    fn keep(&self, begun: &Begun) {
        let target = self.order.target.to_string();
        let part_bytes = begun.parts.as_ref().map_or(0, |(_, cut)| cut.part_bytes);
        let url = self.client.base();
        if let Err(e) = self.source.keep(url, &target, &begun.upload, part_bytes) {
            (self.tell)(Notice::NotKept(e.to_string()));
        }
    }

    /// Of parts of no bytes there are none: such an upload is sent in order.
    pub(super) fn planned(&self, upload: String, part_bytes: u64) -> Begun {
        let cut = Cut {
            length: self.source.identity.size,
            part_bytes,
        };
        let plan = || Plan::new(cut, self.order.streams, self.order.tries);
        Begun {
            upload,
            parts: (part_bytes > 0).then(|| (plan(), cut)),
            held_before: 0,
            outcome: None,
            was_known: false,
            digests: None,
        }
    }
}
