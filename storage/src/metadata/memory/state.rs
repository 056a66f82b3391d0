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
use crate::metadata::uploads::{
    Fence, Health, Keep, NewUpload, Piece, Published, Sender, Source, Target, Trash, UploadRow,
    UploadState, check_passed, check_source, fenced, too_many,
};
use crate::sidecar::Sidecar;
use crate::store::Receipts;

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
    pub(super) pieces: BTreeMap<u32, Piece>,
    pub(super) receipts: Receipts,
    /// The form under which its name is found.
    pub(super) folded: Option<String>,
    /// The blob that it holds itself.
    pub(super) held: Option<BlobKey>,
    /// Of what it is joined, and what is held of that.
    pub(super) joins: Vec<(UploadId, Option<BlobKey>)>,
}

impl Upload {
    pub(super) fn new(row: UploadRow, folded: Option<String>) -> Self {
        Self {
            row,
            parts: BTreeMap::new(),
            pieces: BTreeMap::new(),
            receipts: Receipts::default(),
            folded,
            held: None,
            joins: Vec::new(),
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

    pub(super) fn remove_organization(
        &mut self,
        id: OrganizationId,
        (now, due): (UnixMillis, UnixMillis),
    ) {
        self.organizations.remove(&id);
        let open = |row: &UploadRow| row.organization == id && row.state == UploadState::Open;
        let rows = self.uploads.values().map(|upload| &upload.row);
        let open: Vec<_> = rows.filter(|row| open(row)).map(|row| row.id).collect();
        for upload in open {
            self.end(upload, None, UploadState::Aborted, (now, due));
        }
        let gone: Vec<_> = self.files.extract_if(|path, _| path.0 == id).collect();
        for (_, file) in gone {
            self.give_reference(&file.blob, due);
        }
        let holders: Vec<_> = self.uploads.values().map(|u| &u.row).cloned().collect();
        for row in holders.iter().filter(|row| row.organization == id) {
            self.release(row.id, row.updated, due);
        }
    }

    /// The rows that `wanted` picks, in the order of `key`.
    pub(super) fn rows<K: Ord>(
        &self,
        limit: u32,
        key: impl Fn(&UploadRow) -> K,
        wanted: impl Fn(&Upload) -> bool,
    ) -> Vec<UploadRow> {
        let wanted = self.uploads.values().filter(|upload| wanted(upload));
        let mut rows: Vec<_> = wanted.map(|upload| upload.row.clone()).collect();
        rows.sort_by_key(key);
        rows.truncate(limit as usize);
        rows
    }

    /// Refuses one more kept upload than the limits allow.
    pub(super) fn assert_room(&self, op: &'static str, new: &NewUpload) -> Result<()> {
        let open = |of: &dyn Fn(&UploadRow) -> bool| {
            let rows = self.uploads.values().map(|upload| &upload.row);
            let kept =
                rows.filter(|row| row.state == UploadState::Open && row.keep == Keep::UntilIdle);
            kept.filter(|row| of(row)).count() as u64
        };
        for (open, limit) in [
            (
                open(&|row| row.sender.account == new.sender.account),
                new.most_open.per_account,
            ),
            (
                open(&|row| row.organization == new.organization),
                new.most_open.per_organization,
            ),
        ] {
            if open >= limit {
                return Err(too_many(op, limit));
            }
        }
        Ok(())
    }

    /// Ends an upload that did not finish; false when there is nothing to end.
    pub(super) fn end(
        &mut self,
        id: UploadId,
        epoch: Option<i64>,
        state: UploadState,
        (now, due): (UnixMillis, UnixMillis),
    ) -> bool {
        let Some(upload) = self.uploads.get_mut(&id) else {
            return false;
        };
        let row = &mut upload.row;
        let live = matches!(row.state, UploadState::Open | UploadState::Completing);
        if !live || epoch.is_some_and(|epoch| epoch != row.epoch) {
            return false;
        }
        row.state = state;
        row.epoch += 1;
        row.hash_states.clear();
        row.updated = now;
        upload.parts.clear();
        let apart: Vec<_> = upload
            .pieces
            .values()
            .filter_map(|piece| piece.apart)
            .collect();
        upload.pieces.clear();
        let receipts = std::mem::take(&mut upload.receipts);
        let tail = receipts.tail.map(|tail| tail.key);
        for key in std::iter::once(row.key).chain(tail).chain(apart) {
            let store = row.store.clone();
            self.trash.push((now, Trash { key, store }));
        }
        self.let_go(id, due);
        let waiting = self.uploads.values().filter(|upload| {
            let joins = &mut upload.joins.iter();
            joins.any(|(source, blob)| *source == id && blob.is_none())
        });
        let waiting: Vec<_> = waiting.map(|upload| upload.row.id).collect();
        for waiting in waiting {
            self.end(waiting, None, UploadState::Aborted, (now, due));
        }
        true
    }

    /// What is in the trash goes now.
    pub(super) fn hasten(&mut self, key: &BlobKey, now: UnixMillis) {
        for (due, trash) in &mut self.trash {
            if trash.key == *key {
                *due = now;
            }
        }
    }

    /// Takes bytes out of the trash; false where they are due, or gone.
    pub(super) fn take_back(&mut self, key: &BlobKey, now: UnixMillis) -> bool {
        let before = self.trash.len();
        self.trash
            .retain(|(due, trash)| trash.key != *key || *due <= now);
        self.trash.len() < before
    }

    /// Puts what pieces of an upload hold apart into the trash, where `fits` is true of the piece and the offset.
    pub(super) fn let_pieces_go(
        &mut self,
        id: UploadId,
        now: UnixMillis,
        fits: impl Fn(&Piece, u64) -> bool,
    ) {
        let Some(upload) = self.uploads.get_mut(&id) else {
            return;
        };
        let (offset, store) = (upload.row.offset, &upload.row.store);
        for piece in upload.pieces.values_mut() {
            if fits(piece, offset)
                && let Some(key) = piece.apart.take()
            {
                let store = store.clone();
                self.trash.push((now, Trash { key, store }));
            }
        }
    }

    /// What a new upload is joined of, and what of it is whole; refused when it cannot be joined.
    pub(super) fn joined(
        &self,
        op: &'static str,
        sources: &[UploadId],
        sender: &Sender,
    ) -> Result<Vec<(UploadId, Option<BlobKey>)>> {
        let source = |id: &UploadId| {
            let upload = self.uploads.get(id);
            let upload = upload.filter(|upload| upload.row.sender == *sender);
            let missing = || Error::new(ErrorKind::NotFound, op, id.to_string());
            let Upload {
                row, held, joins, ..
            } = upload.ok_or_else(missing)?;
            let blob = held.and_then(|key| self.blobs.get(&key));
            let health = blob.map(|blob| match blob.state {
                BlobState::Live | BlobState::Doomed => Health::Whole,
                BlobState::Deleting | BlobState::Quarantined => Health::Damaged,
            });
            let is_plain = joins.is_empty() && row.joins == 0 && row.target.is_none();
            check_source(op, *id, row.state, is_plain, health)?;
            Ok((*id, *held))
        };
        sources.iter().map(source).collect()
    }

    /// The upload was joined or given up: nothing is held for it any more.
    fn let_go(&mut self, id: UploadId, due: UnixMillis) {
        let joins = self.uploads.get_mut(&id).map(|upload| &mut upload.joins);
        let held = joins.map(std::mem::take).unwrap_or_default();
        for blob in held.into_iter().filter_map(|(_, blob)| blob) {
            self.give_reference(&blob, due);
        }
    }

    pub(super) fn sources(&self, id: UploadId) -> Vec<Source> {
        let joins = self.uploads.get(&id).map(|upload| &upload.joins[..]);
        let source = |(id, blob): &(UploadId, Option<BlobKey>)| {
            let blob = blob.and_then(|key| self.blobs.get(&key));
            let declared = self.uploads.get(id).and_then(|upload| upload.row.length);
            Source {
                id: *id,
                length: blob.map(|blob| blob.meta.length).or(declared),
                blob: blob.map(|blob| (blob.meta, blob.store.clone())),
            }
        };
        joins.unwrap_or_default().iter().map(source).collect()
    }

    /// Gives back the reference that a finished upload holds; false when it holds none.
    pub(super) fn release(&mut self, id: UploadId, now: UnixMillis, due: UnixMillis) -> bool {
        let upload = self.uploads.get_mut(&id);
        let Some((row, held)) = upload.and_then(|u| Some((&mut u.row, u.held.take()?))) else {
            return false;
        };
        row.state = UploadState::Aborted;
        row.epoch += 1;
        row.updated = now;
        self.give_reference(&held, due);
        true
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
        match (upload.row.state, &upload.row.published) {
            (UploadState::Done, Some(answer)) => return Ok(answer.clone()),
            (UploadState::Completing, _) => {}
            _ => return Err(fenced(OP, fence.id)),
        }
        check_passed(OP, &upload.row)?;
        let row = upload.row.clone();
        let values = upload.parts.values().flatten().copied().collect::<Vec<_>>();
        let names = row.target.as_ref().map(|target| Names::parse(OP, target));
        let names = names.transpose()?;
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
        let (blob, is_new) = self.stored_once(&row, values, now)?;
        let published = if let (Some(target), Some(names)) = (&row.target, names) {
            self.publish_name(&row, target, &names, organization, blob, (now, due))?
        } else {
            self.take_reference(&blob.key);
            self.fenced(OP, fence)?.held = Some(blob.key);
            self.hold_for_those_who_wait(fence.id, &blob.key);
            Published {
                blob,
                file: None,
                replaced: false,
                version: String::new(),
            }
        };
        if is_new {
            self.heal(row.organization, &blob, due);
        }
        let upload = self.fenced(OP, fence)?;
        upload.row.state = UploadState::Done;
        upload.row.updated = now;
        upload.row.hash_states.clear();
        upload.row.published = Some(published.clone());
        upload.parts.clear();
        let receipts = std::mem::take(&mut upload.receipts);
        self.let_pieces_go(fence.id, now, |_, _| true);
        if let Some(tail) = receipts.tail {
            let store = row.store.clone();
            let key = tail.key;
            self.trash.push((now, Trash { key, store }));
        }
        self.let_go(fence.id, due);
        Ok(published)
    }

    fn hold_for_those_who_wait(&mut self, source: UploadId, blob: &BlobKey) {
        let joins = self.uploads.values_mut().flat_map(|u| &mut u.joins);
        let waiting = joins.filter(|(id, held)| *id == source && held.is_none());
        let waiting = waiting.map(|(_, held)| *held = Some(*blob)).count();
        for _ in 0..waiting {
            self.take_reference(blob);
        }
    }

    /// The blob that holds the upload's bytes: an equal one, or a new one; then the second is true.
    fn stored_once(
        &mut self,
        row: &UploadRow,
        values: Vec<[u8; 32]>,
        now: UnixMillis,
    ) -> Result<(BlobMeta, bool)> {
        let (blake3, sha256) = row.digests.ok_or_else(|| odd("blake3"))?;
        let meta = BlobMeta {
            key: row.key,
            length: row.offset,
            blake3,
            sha256,
        };
        if let Some(held) = self.equal_blob(row.organization, &meta) {
            let trash = Trash {
                key: row.key,
                store: row.store.clone(),
            };
            self.trash.push((now, trash));
            return Ok((held, false));
        }
        if values.len() as u64 != blocks(meta.length) {
            return Err(odd("cvs"));
        }
        self.insert_blob(row, meta, values, now);
        Ok((meta, true))
    }

    /// The target's name holds the blob from here on.
    fn publish_name(
        &mut self,
        row: &UploadRow,
        target: &Target,
        names: &Names,
        organization: String,
        blob: BlobMeta,
        (now, due): (UnixMillis, UnixMillis),
    ) -> Result<Published> {
        let (file, old) = self.point(path_of(row.organization, names), &blob.key, due);
        let place = self.place(row.organization, organization, names);
        let published = Published {
            blob,
            file: Some(file),
            replaced: old.is_some(),
            version: place.version.clone().unwrap_or_default(),
        };
        let old = old
            .and_then(|key| self.blobs.get(&key))
            .map(|blob| blob.meta.blake3);
        let event = outbox::box_uploaded(&place, &target.base_url, &blob, old);
        self.append(event, &target.actor, now)?;
        Ok(published)
    }

    /// What is to stand beside the blob, and its store.
    pub(super) fn sidecar(&self, fence: Fence, now: UnixMillis) -> Option<(Sidecar, String)> {
        let row = &self.uploads.get(&fence.id)?.row;
        let ended_well = matches!(row.state, UploadState::Completing | UploadState::Done);
        if row.epoch != fence.epoch || !ended_well {
            return None;
        }
        let organization = self.organizations.get(&row.organization)?.clone();
        let (blake3, sha256) = row.digests?;
        let own = BlobMeta {
            key: row.key,
            length: row.offset,
            blake3,
            sha256,
        };
        let blob = match &row.published {
            Some(published) => published.blob,
            None => self.equal_blob(row.organization, &own).unwrap_or(own),
        };
        let held = self.blobs.get(&blob.key);
        let store = held.map_or(&row.store, |held| &held.store).clone();
        Some((row.sidecar(blob, organization, now), store))
    }

    fn equal_blob(&self, tenant: OrganizationId, wanted: &BlobMeta) -> Option<BlobMeta> {
        self.blobs
            .values()
            .filter(|blob| {
                blob.tenant == tenant
                    && matches!(blob.state, BlobState::Live | BlobState::Doomed)
                    && (blob.meta.length, blob.meta.blake3) == (wanted.length, wanted.blake3)
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
        self.take_reference(key);
        let old = before.map(|(_, held)| held);
        if let Some(held) = &old {
            self.give_reference(held, due);
        }
        (id, old)
    }

    /// Every file and upload of the tenant that holds a damaged blob with the same digests holds
    /// `whole` now.
    fn heal(&mut self, tenant: OrganizationId, whole: &BlobMeta, due: UnixMillis) {
        let damaged = self.blobs.values().filter(|blob| {
            blob.tenant == tenant
                && blob.state == BlobState::Quarantined
                && (blob.meta.length, blob.meta.blake3) == (whole.length, whole.blake3)
        });
        let damaged: Vec<_> = damaged.map(|blob| blob.meta.key).collect();
        for bad in damaged {
            let mut moved = 0;
            for file in self.files.values_mut().filter(|file| file.blob == bad) {
                file.blob = whole.key;
                moved += 1;
            }
            let holders = self.uploads.values_mut();
            for upload in holders.filter(|upload| upload.held == Some(bad)) {
                upload.held = Some(whole.key);
                if let Some(published) = &mut upload.row.published {
                    published.blob.key = whole.key;
                }
                moved += 1;
            }
            let joins = self.uploads.values_mut().flat_map(|u| &mut u.joins);
            for (_, held) in joins.filter(|(_, held)| *held == Some(bad)) {
                *held = Some(whole.key);
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

    pub(super) fn take_reference(&mut self, key: &BlobKey) {
        if let Some(blob) = self.blobs.get_mut(key) {
            blob.refs += 1;
            blob.state = BlobState::Live;
            blob.due = None;
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
        let name = draft.name.to_string();
        let (id, data) = draft.seal(actor, now)?;
        let seq = self.next_id();
        self.events.push(Event {
            seq,
            id,
            name,
            data,
            occurred: now,
            depth: 0,
            causes: Vec::new(),
            trace: None,
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

    pub(super) fn forget(&mut self, gone: &Trash) {
        self.trash.retain(|(_, trash)| trash != gone);
        let is_gone = |blob: &Blob| blob.state == BlobState::Deleting && blob.store == gone.store;
        if self.blobs.get(&gone.key).is_some_and(is_gone) {
            self.blobs.remove(&gone.key);
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
