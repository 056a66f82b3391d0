//! An image that is kept in a store: an ISO image of an organization, so that its bytes come, are served, checked and
//! thrown away as all others are, and another node has it as well.

use std::io;

use boxgate_storage::catalog::{IsoName, OrganizationName};
use boxgate_storage::digest::Blake3;
use boxgate_storage::error::chain;
use boxgate_storage::metadata::Metadata;
use boxgate_storage::metadata::accounts::AccountId;
use boxgate_storage::metadata::catalog::Iso;
use boxgate_storage::metadata::uploads::{IsoTarget, Labels, Target};
use boxgate_storage::range::ByteRange;
use boxgate_storage::upload::{Keep, Sender, UploadIntent, UploadWriter};
use boxgate_storage::{Error, ErrorKind};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::NotDeployed;
use super::arriving::{Held, Seen};
use super::image::done;
use crate::gateway::Gateway;
use crate::refusal::Refusal;

/// No person sends it: whoever has the key does.
const NOBODY: AccountId = AccountId(0);
/// Reads that are ahead of the disk.
const AHEAD: usize = 4;

/// Where the image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The store that new ones go to.
    pub store: String,
    /// Whose it is.
    pub organization: OrganizationName,
    /// Its name there.
    pub name: IsoName,
}

/// An image on its way into the store; dropped, it leaves nothing.
#[derive(Debug)]
pub struct Sending {
    writer: UploadWriter,
    hasher: Box<blake3::Hasher>,
    length: u64,
}

/// An image of which all bytes are in the store, and which has no name yet.
#[derive(Debug)]
pub struct Sent {
    writer: UploadWriter,
    /// How many.
    pub length: u64,
    /// Their digest.
    pub blake3: Blake3,
    /// The upload that they came by, if by several requests.
    upload: Option<Held>,
}

impl Stored {
    /// The image as it is now.
    ///
    /// # Errors
    /// When the rows do not answer.
    pub async fn find(&self, metadata: &Metadata) -> io::Result<Option<Iso>> {
        let found = metadata.iso_by_name(&self.organization, &self.name).await;
        found.map_err(|e| io::Error::other(chain(&e)))
    }

    /// That there is no such organization.
    pub fn homeless(&self, runtime: &str) -> String {
        format!(
            "There is no organization {} to keep the image in (runtimes.{runtime}.organization).",
            self.organization
        )
    }

    /// What has the name now.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub async fn seen(&self, metadata: &Metadata) -> io::Result<Seen> {
        let iso = self.find(metadata).await?;
        let stamp = iso.as_ref().map(|iso| {
            let (id, updated) = (iso.id.0, iso.updated.0);
            format!("{id}-{updated}-{}", iso.blob.blake3.to_hex())
        });
        Ok(Seen {
            stamp: stamp.unwrap_or_default(),
            blake3: iso.map(|iso| iso.blob.blake3),
        })
    }

    /// Begins to take an image in.
    ///
    /// # Errors
    /// The refusal to send.
    pub async fn begin(
        &self,
        gateway: &Gateway,
        runtime: &str,
        length: Option<u64>,
    ) -> Result<Sending, Refusal> {
        let organization = gateway.metadata.organization(&self.organization).await?;
        let organization = organization.ok_or_else(|| {
            let text = self.homeless(runtime);
            Refusal::new(http::StatusCode::INTERNAL_SERVER_ERROR, text)
        })?;
        let target = Target {
            box_name: self.name.to_string(),
            version: String::new(),
            provider: String::new(),
            architecture: String::new(),
            new_box_public: false,
            declared: None,
            actor: format!("runtime:{runtime}"),
            base_url: String::new(),
            into: None,
            labels: Labels::new(),
            iso: None,
        };
        let intent = UploadIntent {
            store: Some(self.store.clone()),
            sender: Sender::person(NOBODY),
            organization: organization.id,
            target: Some(target.or_iso(Some(IsoTarget { public: None }))),
            length,
            expected: Vec::new(),
            part_bytes: None,
            cut: None,
            keep: Keep::No,
            note: None,
        };
        Ok(Sending {
            writer: gateway.engine.begin(intent).await?,
            hasher: Box::default(),
            length: 0,
        })
    }
}

impl Sending {
    /// What bytes wait for, and what memory is taken from where none come.
    pub fn writer(&mut self) -> &mut UploadWriter {
        &mut self.writer
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), Error> {
        self.length += bytes.len() as u64;
        self.hasher.update(&bytes);
        self.writer.write(bytes).await
    }

    /// That these are all.
    pub fn finish(self) -> Sent {
        Sent {
            writer: self.writer,
            length: self.length,
            blake3: Blake3(*self.hasher.finalize().as_bytes()),
            upload: None,
        }
    }
}

impl Sent {
    /// An image that came over several requests.
    #[must_use]
    pub fn arrived(self, upload: Held) -> Self {
        Self {
            upload: Some(upload),
            ..self
        }
    }

    /// Gives it the name: one commit, after which the one before goes to the trash. The upload that it came by knows of
    /// it before and behind.
    ///
    /// # Errors
    /// When that fails; the image before then stays.
    pub async fn put_in_place(
        self,
        stored: &Stored,
        metadata: &Metadata,
    ) -> Result<(), NotDeployed> {
        let Self {
            writer,
            blake3,
            upload,
            ..
        } = self;
        let Some(mut upload) = upload else {
            return named(writer).await;
        };
        let over = stored.seen(metadata).await?;
        let told = spawn_blocking(move || upload.naming(blake3, &over).map(|()| upload));
        let mut upload = done(told.await)?;
        let outcome = named(writer).await;
        // Some faults leave open whether it is named: the next look tells.
        let is_open = matches!(
            &outcome,
            Err(NotDeployed::Refused(e))
                if matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::Internal)
        );
        if is_open {
            return outcome;
        }
        let is_named = outcome.is_ok();
        let told = spawn_blocking(move || {
            if is_named {
                upload.sent()
            } else {
                upload.unnamed()
            }
        });
        if let Err(e) = done(told.await) {
            // The next look tells here, too.
            tracing::warn!(error = %e, "what became of an upload of an image is not written down");
        }
        outcome
    }
}

async fn named(writer: UploadWriter) -> Result<(), NotDeployed> {
    let named = writer.finish().await;
    named.map(drop).map_err(NotDeployed::Refused)
}

/// The bytes of an image, each proved before it is given.
///
/// # Errors
/// When the store does not have them.
pub async fn read(
    gateway: &Gateway,
    iso: &Iso,
) -> io::Result<BoxStream<'static, io::Result<Bytes>>> {
    let opened = async {
        let store = gateway.store(&iso.store)?;
        let tree = gateway.metadata.blob_tree(&iso.blob).await?;
        let whole = ByteRange::whole(iso.blob.length);
        let opened = gateway.cache.open(&store.read, &iso.blob, &tree, whole);
        opened.await
    };
    let (_origin, bytes) = opened
        .await
        .map_err(|e: Error| io::Error::other(chain(&e)))?;
    let bytes = bytes.map(|read| read.map_err(|e| io::Error::other(chain(&e))));
    Ok(bytes.boxed())
}

/// The same for whoever blocks.
pub struct Blocking {
    coming: mpsc::Receiver<io::Result<Bytes>>,
    left: Bytes,
}

impl Blocking {
    /// Reads ahead until this is dropped.
    pub fn of(mut bytes: BoxStream<'static, io::Result<Bytes>>) -> Self {
        let (pieces, coming) = mpsc::channel(AHEAD);
        tokio::spawn(async move {
            while let Some(piece) = bytes.next().await {
                if pieces.send(piece).await.is_err() {
                    break;
                }
            }
        });
        Self {
            coming,
            left: Bytes::new(),
        }
    }
}

impl io::Read for Blocking {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left.is_empty() {
            match self.coming.blocking_recv() {
                Some(piece) => self.left = piece?,
                None => return Ok(0),
            }
        }
        let taken = self.left.split_to(self.left.len().min(buffer.len()));
        buffer[..taken.len()].copy_from_slice(&taken);
        Ok(taken.len())
    }
}

impl std::fmt::Debug for Blocking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blocking").finish_non_exhaustive()
    }
}
