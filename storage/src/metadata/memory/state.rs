//! What the twin knows, and the steps that touch more than one row.

use std::collections::{BTreeMap, HashMap};

use crate::blob::{BlobKey, BlobMeta, UploadId};
use crate::catalog::OrganizationName;
use crate::clock::UnixMillis;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::accounts::OrganizationId;
use crate::metadata::catalog::FileId;
use crate::metadata::catalog::blobs::blocks;
use crate::metadata::catalog::publish::Names;
use crate::metadata::outbox::{self, Draft, Event, Place};
use crate::metadata::sql::odd;
use crate::metadata::uploads::{Fence, Published, Target, Trash, UploadRow, UploadState, fenced};

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) uploads: HashMap<UploadId, Upload>,
    pub(super) trash: Vec<(UnixMillis, Trash)>,
    pub(super) events: Vec<Event>,
    organizations: HashMap<OrganizationId, String>,
    blobs: BTreeMap<BlobKey, Blob>,
    files: HashMap<Path, File>,
    // The spelling that came first, by the folded path down to that level.
    spellings: HashMap<Vec<String>, String>,
    next_id: i64,
}

#[derive(Debug)]
pub(super) struct Upload {
    pub(super) row: UploadRow,
    pub(super) parts: BTreeMap<u32, Vec<[u8; 32]>>,
    answer: Option<Published>,
}

impl Upload {
    pub(super) fn new(row: UploadRow) -> Self {
        Self {
            row,
            parts: BTreeMap::new(),
            answer: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BlobState {
    Live,
    Doomed,
    Deleting,
    Quarantined,
}

#[derive(Debug)]
struct Blob {
    meta: BlobMeta,
    tenant: OrganizationId,
    store: String,
    state: BlobState,
    refs: u32,
    due: Option<UnixMillis>,
    created: UnixMillis,
    values: Vec<[u8; 32]>,
}

#[derive(Debug)]
struct File {
    id: FileId,
    blob: BlobKey,
}

/// Organization, then the folded names of box, version, provider and architecture.
type Path = (OrganizationId, [String; 4]);

fn path_of(organization: OrganizationId, names: &Names) -> Path {
    let Names {
        box_name,
        version,
        provider,
        architecture,
    } = names;
    let folded = [
        box_name.folded(),
        version.folded(),
        provider.folded(),
        architecture.folded(),
    ];
    (organization, folded)
}

impl State {
    pub(super) fn add_organization(&mut self, name: &str) -> OrganizationId {
        let id = OrganizationId(self.next_id());
        let name: OrganizationName = name.parse().expect("tests give their organizations names");
        self.organizations.insert(id, name.as_str().to_owned());
        id
    }

    pub(super) fn remove_organization(&mut self, id: OrganizationId, due: UnixMillis) {
        self.organizations.remove(&id);
        let gone: Vec<_> = self.files.extract_if(|path, _| path.0 == id).collect();
        for (_, file) in gone {
            self.give_reference(&file.blob, due);
        }
    }

    pub(super) fn delete_file(
        &mut self,
        organization: OrganizationId,
        target: &Target,
        due: UnixMillis,
    ) -> bool {
        let file = path_to(organization, target).and_then(|path| self.files.remove(&path));
        if let Some(file) = &file {
            self.give_reference(&file.blob, due);
        }
        file.is_some()
    }

    pub(super) fn file(&self, organization: OrganizationId, target: &Target) -> Option<BlobMeta> {
        let file = self.files.get(&path_to(organization, target)?)?;
        self.blobs.get(&file.blob).map(|blob| blob.meta)
    }

    pub(super) fn quarantine(&mut self, key: &BlobKey) {
        if let Some(blob) = self.blobs.get_mut(key)
            && matches!(blob.state, BlobState::Live | BlobState::Doomed)
        {
            blob.state = BlobState::Quarantined;
        }
    }

    pub(super) fn blob_tree(&self, key: &BlobKey) -> Option<Vec<[u8; 32]>> {
        self.blobs.get(key).map(|blob| blob.values.clone())
    }

    /// The upload that the fence still owns.
    pub(super) fn fenced(&mut self, op: &'static str, fence: Fence) -> Result<&mut Upload> {
        self.uploads
            .get_mut(&fence.id)
            .filter(|upload| upload.row.epoch == fence.epoch)
            .ok_or_else(|| fenced(op, fence.id))
    }

    /// C3. All checks come before the first change.
    pub(super) fn publish(
        &mut self,
        fence: Fence,
        now: UnixMillis,
        due: UnixMillis,
    ) -> Result<Published> {
        const OP: &str = "upload.publish";
        let upload = self.fenced(OP, fence)?;
        match (upload.row.state, &upload.answer) {
            (UploadState::Done, Some(answer)) => return Ok(answer.clone()),
            (UploadState::Completing, _) => {}
            _ => return Err(fenced(OP, fence.id)),
        }
        let row = upload.row.clone();
        let values = upload.parts.values().flatten().copied().collect::<Vec<_>>();
        let names = Names::parse(OP, &row.target)?;
        let organization = self
            .organizations
            .get(&row.organization)
            .cloned()
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::NotFound,
                    OP,
                    format!("organization {}", row.organization.0),
                )
            })?;
        let (blake3, sha256) = row.digests.ok_or_else(|| odd("blake3"))?;
        let meta = BlobMeta {
            key: row.key,
            length: row.offset,
            blake3,
            sha256,
        };
        let held = self.equal_blob(row.organization, &meta);
        let is_new = held.is_none();
        let blob = if let Some(held) = held {
            self.trash.push((
                now,
                Trash {
                    key: row.key,
                    store: row.store.clone(),
                },
            ));
            held
        } else {
            if values.len() as u64 != blocks(meta.length) {
                return Err(odd("cvs"));
            }
            self.insert_blob(&row, meta, values, now);
            meta
        };
        let (file, old) = self.point(path_of(row.organization, &names), &blob.key, due);
        if is_new {
            self.heal(row.organization, &meta, due);
        }
        let place = self.place(row.organization, organization, &names);
        let published = Published {
            blob,
            file,
            replaced: old.is_some(),
            version: place.version.clone().unwrap_or_default(),
        };
        let upload = self.fenced(OP, fence)?;
        upload.row.state = UploadState::Done;
        upload.row.updated = now;
        upload.answer = Some(published.clone());
        upload.parts.clear();
        let old = old
            .and_then(|key| self.blobs.get(&key))
            .map(|blob| blob.meta.blake3);
        let event = outbox::box_uploaded(&place, &row.target.base_url, &blob, old);
        self.append(event, &row.target.actor, now)?;
        Ok(published)
    }

    fn equal_blob(&self, tenant: OrganizationId, wanted: &BlobMeta) -> Option<BlobMeta> {
        self.blobs
            .values()
            .filter(|blob| {
                blob.tenant == tenant
                    && matches!(blob.state, BlobState::Live | BlobState::Doomed)
                    && BlobMeta {
                        key: wanted.key,
                        ..blob.meta
                    } == *wanted
            })
            .min_by_key(|blob| (blob.created, blob.meta.key))
            .map(|blob| blob.meta)
    }

    fn insert_blob(
        &mut self,
        row: &UploadRow,
        meta: BlobMeta,
        values: Vec<[u8; 32]>,
        now: UnixMillis,
    ) {
        let blob = Blob {
            meta,
            tenant: row.organization,
            store: row.store.clone(),
            state: BlobState::Live,
            refs: 0,
            due: None,
            created: now,
            values,
        };
        self.blobs.insert(meta.key, blob);
    }

    /// Points the name at the blob; returns the file and the blob it held before, if another.
    fn point(&mut self, path: Path, key: &BlobKey, due: UnixMillis) -> (FileId, Option<BlobKey>) {
        let before = self.files.get(&path).map(|file| (file.id, file.blob));
        if let Some((id, held)) = before
            && held == *key
        {
            return (id, None);
        }
        let id = before.map_or_else(|| FileId(self.next_id()), |(id, _)| id);
        self.files.insert(path, File { id, blob: *key });
        if let Some(blob) = self.blobs.get_mut(key) {
            blob.refs += 1;
            blob.state = BlobState::Live;
            blob.due = None;
        }
        let old = before.map(|(_, held)| held);
        if let Some(held) = &old {
            self.give_reference(held, due);
        }
        (id, old)
    }

    /// Every file of the tenant that names a damaged blob with the same digests names `whole` now.
    fn heal(&mut self, tenant: OrganizationId, whole: &BlobMeta, due: UnixMillis) {
        let damaged = self.blobs.values().filter(|blob| {
            blob.tenant == tenant
                && blob.state == BlobState::Quarantined
                && (blob.meta.blake3, blob.meta.sha256) == (whole.blake3, whole.sha256)
        });
        let damaged: Vec<_> = damaged.map(|blob| blob.meta.key).collect();
        for bad in damaged {
            let mut moved = 0;
            for file in self.files.values_mut().filter(|file| file.blob == bad) {
                file.blob = whole.key;
                moved += 1;
            }
            for _ in 0..moved {
                self.give_reference(&bad, due);
            }
            if let Some(blob) = self.blobs.get_mut(&whole.key) {
                blob.refs += moved;
            }
        }
    }

    fn give_reference(&mut self, key: &BlobKey, due: UnixMillis) {
        let Some(blob) = self.blobs.get_mut(key) else {
            return;
        };
        blob.refs -= 1;
        if blob.refs == 0 {
            blob.due = Some(due);
            if blob.state == BlobState::Live {
                blob.state = BlobState::Doomed;
            }
        }
    }

    fn place(&mut self, id: OrganizationId, organization: String, names: &Names) -> Place {
        let (_, folded) = path_of(id, names);
        let Names {
            box_name,
            version,
            provider,
            architecture,
        } = names;
        let given = [
            box_name.as_str(),
            version.as_str(),
            provider.as_str(),
            architecture.as_str(),
        ];
        let mut path = vec![id.0.to_string()];
        let [box_name, version, provider, architecture] = std::array::from_fn(|level| {
            path.push(folded[level].clone());
            let first = self.spellings.entry(path.clone());
            first.or_insert_with(|| given[level].to_owned()).clone()
        });
        Place {
            organization,
            box_name,
            version: Some(version),
            provider: Some(provider),
            architecture: Some(architecture),
        }
    }

    fn append(&mut self, draft: Draft, actor: &str, now: UnixMillis) -> Result<()> {
        let name = draft.name.to_owned();
        let (id, data) = draft.seal(actor, now)?;
        let seq = self.next_id();
        self.events.push(Event {
            seq,
            id,
            name,
            data,
            occurred: now,
        });
        Ok(())
    }

    pub(super) fn due_trash(&mut self, now: UnixMillis, limit: usize) -> Vec<Trash> {
        self.trash.sort_by_key(|(due, trash)| (*due, trash.key));
        let trash = self.trash.iter().filter(|(due, _)| *due <= now);
        let mut out: Vec<_> = trash.take(limit).map(|(_, trash)| trash.clone()).collect();
        let mut doomed: Vec<_> = self
            .blobs
            .values_mut()
            .filter(|blob| blob.refs == 0 && blob.due.is_some_and(|due| due <= now))
            .collect();
        doomed.sort_by_key(|blob| (blob.due, blob.meta.key));
        for blob in doomed.into_iter().take(limit - out.len()) {
            blob.state = BlobState::Deleting;
            out.push(Trash {
                key: blob.meta.key,
                store: blob.store.clone(),
            });
        }
        out
    }

    pub(super) fn forget(&mut self, key: &BlobKey) {
        self.trash.retain(|(_, trash)| trash.key != *key);
        if self
            .blobs
            .get(key)
            .is_some_and(|blob| blob.state == BlobState::Deleting)
        {
            self.blobs.remove(key);
        }
    }

    fn next_id(&mut self) -> i64 {
        self.next_id += 1;
        self.next_id
    }
}

fn path_to(organization: OrganizationId, target: &Target) -> Option<Path> {
    Names::parse("file.find", target)
        .ok()
        .map(|names| path_of(organization, &names))
}
