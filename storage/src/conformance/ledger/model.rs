//! Random schedules against a model that knows only sets: which bytes are in the store, which name
//! holds which, and until when.
//!
//! What must hold after every step: a name's bytes are in the store; nothing that an open upload or a
//! name needs is ever told as trash; an offset never goes down; a stale epoch changes nothing. And at
//! the end, once all is given up and due: the store holds what the names hold, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::upload::{BLOCK, Sent, target};
use super::{DOOMED_FOR, Rig};
use crate::blob::BlobKey;
use crate::clock::{Clock as _, UnixMillis};
use crate::error::{ErrorKind, Result};
use crate::metadata::accounts::OrganizationId;
use crate::metadata::uploads::{Fence, Published, Target, UploadState};

/// How many organizations there are.
pub const TENANTS: usize = 2;
/// How many names each of them has.
pub const NAMES: usize = 3;

/// One step of a schedule. Numbers are taken modulo what there is, so that every list of steps is one.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// Begins an upload.
    Create {
        /// Whose it is.
        tenant: usize,
        /// To which name; none for an upload that holds its blob itself.
        name: Option<usize>,
        /// What it holds.
        content: u8,
        /// How many MiB.
        blocks: u8,
    },
    /// Takes an upload through all steps without a pause.
    Put {
        /// Whose it is.
        tenant: usize,
        /// To which name.
        name: usize,
        /// What it holds.
        content: u8,
    },
    /// Sends what is left of a part, or less, perhaps as a writer that was replaced.
    Advance {
        /// Which upload.
        upload: usize,
        /// With the epoch before the present one.
        stale: bool,
        /// At most so many quarters of a MiB.
        quarters: u8,
    },
    /// Another writer takes over.
    TakeOver {
        /// Which upload.
        upload: usize,
    },
    /// Completes, perhaps as a writer that was replaced.
    Complete {
        /// Which upload.
        upload: usize,
        /// With the epoch before the present one.
        stale: bool,
    },
    /// Sends what is left of a part and completes in one change, perhaps as a writer that was replaced.
    End {
        /// Which upload.
        upload: usize,
        /// With the epoch before the present one.
        stale: bool,
    },
    /// Publishes, perhaps again, perhaps as a writer that was replaced.
    Publish {
        /// Which upload.
        upload: usize,
        /// With the epoch before the present one.
        stale: bool,
    },
    /// Gives up, perhaps as a writer that was replaced.
    Abort {
        /// Which upload.
        upload: usize,
        /// With the epoch before the present one.
        stale: bool,
    },
    /// Finds the stored bytes gone, perhaps as a writer that was replaced.
    Lose {
        /// Which upload.
        upload: usize,
        /// With the epoch before the present one.
        stale: bool,
    },
    /// Drops the blob that a finished upload holds.
    Release {
        /// Which upload.
        upload: usize,
    },
    /// Takes the file from a name.
    Delete {
        /// Whose it is.
        tenant: usize,
        /// Which name.
        name: usize,
    },
    /// Finds the blob of a name damaged.
    Damage {
        /// Whose it is.
        tenant: usize,
        /// Which name.
        name: usize,
    },
    /// Time goes by.
    Pass {
        /// In tenths of the time that a blob without a name is kept.
        tenths: u8,
    },
    /// Removes from the store what is due, and forgets it unless the process dies before.
    Sweep {
        /// At most so many.
        limit: u8,
        /// Whether it lives to forget them.
        forget: bool,
    },
}

/// How often a schedule came to the turns that matter, so that a test can see it did not pass by.
#[derive(Debug, Clone, Copy, Default)]
pub struct Turns {
    /// Publications, without repeated ones.
    pub published: usize,
    /// Publications whose bytes the tenant held already.
    pub deduplicated: usize,
    /// Blobs without a name that equal bytes brought back.
    pub revived: usize,
    /// Names that held damaged bytes and now hold whole ones without being published to.
    pub healed: usize,
    /// Publications beside an equal blob that was being deleted.
    pub too_late: usize,
    /// Steps of writers that were replaced.
    pub fenced: usize,
    /// Blobs that uploads held and dropped.
    pub released: usize,
    /// Last steps that were one change with the end.
    pub ended: usize,
}

/// Runs a schedule and checks what must hold.
///
/// # Panics
/// At the first difference, with the step that made it.
pub async fn run(rig: &dyn Rig, steps: &[Step]) -> Turns {
    let mut model = Model::new(rig).await;
    for (number, step) in steps.iter().enumerate() {
        model.context = format!("step {number}: {step:?}");
        model.take(rig, *step).await;
        model.check(rig).await;
    }
    "the end".clone_into(&mut model.context);
    model.finish(rig).await;
    model.turns
}

#[derive(Debug)]
struct Upload {
    sent: Sent,
    tenant: usize,
    name: Option<usize>,
    epoch: i64,
    offset: u64,
    state: UploadState,
    answer: Option<Published>,
}

impl Upload {
    /// Whether its bytes are still its own.
    fn is_live(&self) -> bool {
        matches!(self.state, UploadState::Open | UploadState::Completing)
    }
}

/// What makes two blobs of one tenant equal.
type Content = (usize, u8, u64);

#[derive(Debug)]
struct Blob {
    content: Content,
    damaged: bool,
    deleting: bool,
    /// Set while no name holds it.
    due: Option<UnixMillis>,
}

#[derive(Debug)]
struct Model {
    context: String,
    tenants: Vec<OrganizationId>,
    uploads: Vec<Upload>,
    names: BTreeMap<(usize, usize), BlobKey>,
    /// Blobs that uploads hold themselves, by the upload's number.
    held: BTreeMap<usize, BlobKey>,
    blobs: BTreeMap<BlobKey, Blob>,
    /// Bytes of uploads that nobody needs.
    trash: BTreeSet<BlobKey>,
    /// Bytes that exist.
    store: BTreeSet<BlobKey>,
    turns: Turns,
}

impl Model {
    async fn new(rig: &dyn Rig) -> Self {
        let mut tenants = Vec::new();
        for number in 0..TENANTS {
            tenants.push(rig.add_organization(&format!("tenant-{number}")).await);
        }
        Self {
            context: String::new(),
            tenants,
            uploads: Vec::new(),
            names: BTreeMap::new(),
            held: BTreeMap::new(),
            blobs: BTreeMap::new(),
            trash: BTreeSet::new(),
            store: BTreeSet::new(),
            turns: Turns::default(),
        }
    }

    async fn take(&mut self, rig: &dyn Rig, step: Step) {
        match step {
            Step::Create {
                tenant,
                name,
                content,
                blocks,
            } => {
                let name = name.map(|name| name % NAMES);
                self.create(rig, tenant % TENANTS, name, content, u64::from(blocks))
                    .await;
            }
            Step::Put {
                tenant,
                name,
                content,
            } => {
                let name = Some(name % NAMES);
                self.create(rig, tenant % TENANTS, name, content, 1).await;
                self.advance(rig, 0, false, u8::MAX).await;
                self.complete(rig, 0, false).await;
                self.publish(rig, 0, false).await;
            }
            Step::Delete { tenant, name } => {
                let (tenant, name) = (tenant % TENANTS, name % NAMES);
                let deleted = rig.delete_file(self.tenants[tenant], &named(name)).await;
                let held = self.names.remove(&(tenant, name));
                assert_eq!(deleted, held.is_some(), "{}", self.context);
                self.doom(rig);
            }
            Step::Damage { tenant, name } => {
                if let Some(key) = self.names.get(&(tenant % TENANTS, name % NAMES)) {
                    rig.quarantine(key).await;
                    self.blobs
                        .get_mut(key)
                        .expect("a name holds a blob")
                        .damaged = true;
                }
            }
            Step::Pass { tenths } => rig.clock().advance(DOOMED_FOR / 10 * u32::from(tenths)),
            Step::Sweep { limit, forget } => {
                self.sweep(rig, u32::from(limit), forget).await;
            }
            _ if self.uploads.is_empty() => {}
            Step::Advance {
                upload,
                stale,
                quarters,
            } => self.advance(rig, upload, stale, quarters).await,
            Step::TakeOver { upload } => self.take_over(rig, upload).await,
            Step::Complete { upload, stale } => self.complete(rig, upload, stale).await,
            Step::End { upload, stale } => self.end(rig, upload, stale).await,
            Step::Publish { upload, stale } => self.publish(rig, upload, stale).await,
            Step::Abort { upload, stale } => self.abort(rig, upload, stale).await,
            Step::Lose { upload, stale } => self.lose(rig, upload, stale).await,
            Step::Release { upload } => self.release(rig, upload).await,
        }
    }

    async fn create(
        &mut self,
        rig: &dyn Rig,
        tenant: usize,
        name: Option<usize>,
        content: u8,
        blocks: u64,
    ) {
        let (org, target) = (self.tenants[tenant], name.map(named));
        let length = blocks.max(1) * BLOCK;
        let sent = Sent::create(&rig.ledger(), org, target, content, length)
            .await
            .expect("create");
        self.store.insert(sent.row.key);
        let (epoch, state) = (sent.row.epoch, UploadState::Open);
        self.uploads.push(Upload {
            sent,
            tenant,
            name,
            epoch,
            offset: 0,
            state,
            answer: None,
        });
    }

    /// The upload of that number, the newest being 0, and the fence to try it with.
    fn pick(&mut self, upload: usize, stale: bool) -> (&mut Upload, Fence) {
        self.turns.fenced += usize::from(stale);
        // The newest are the likeliest to be in progress.
        let number = self.uploads.len() - 1 - upload % self.uploads.len();
        let upload = &mut self.uploads[number];
        let fence = Fence {
            id: upload.sent.row.id,
            epoch: upload.epoch - i64::from(stale),
        };
        (upload, fence)
    }

    async fn advance(&mut self, rig: &dyn Rig, upload: usize, stale: bool, quarters: u8) {
        let context = self.context.clone();
        let (upload, fence) = self.pick(upload, stale);
        if upload.offset == upload.sent.length {
            return;
        }
        let bytes = u64::from(quarters.max(1)) * (BLOCK / 4);
        let step = upload.sent.piece(upload.offset, bytes);
        let to = step.to;
        let result = rig.ledger().advance(fence, step).await;
        let fits = !stale && upload.state == UploadState::Open;
        expect(&context, &result, fits);
        if fits {
            upload.offset = to;
        }
    }

    async fn take_over(&mut self, rig: &dyn Rig, upload: usize) {
        let context = self.context.clone();
        let (upload, fence) = self.pick(upload, false);
        let row = rig.ledger().take_over(fence.id).await.expect("take over");
        upload.epoch += i64::from(upload.state == UploadState::Open);
        let row = row.expect("rows of uploads stay");
        assert_eq!(
            (row.epoch, row.state),
            (upload.epoch, upload.state),
            "{context}"
        );
    }

    async fn complete(&mut self, rig: &dyn Rig, upload: usize, stale: bool) {
        let context = self.context.clone();
        let (upload, fence) = self.pick(upload, stale);
        let completion = upload.sent.completion();
        let result = rig.ledger().complete(fence, Vec::new(), completion).await;
        let fits = !stale
            && upload.offset == upload.sent.length
            && matches!(upload.state, UploadState::Open | UploadState::Completing);
        expect(&context, &result, fits);
        if fits {
            upload.state = UploadState::Completing;
        }
    }

    /// Where the part that is left is not the last one, neither is done.
    async fn end(&mut self, rig: &dyn Rig, upload: usize, stale: bool) {
        let context = self.context.clone();
        let (upload, fence) = self.pick(upload, stale);
        if upload.offset == upload.sent.length {
            return;
        }
        let last = upload.sent.step(upload.offset);
        let is_last = last.to == upload.sent.length;
        let completion = upload.sent.completion();
        let result = rig.ledger().complete(fence, vec![last], completion).await;
        let fits = !stale && is_last && upload.state == UploadState::Open;
        expect(&context, &result, fits);
        if fits {
            upload.offset = upload.sent.length;
            upload.state = UploadState::Completing;
            self.turns.ended += 1;
        }
    }

    async fn publish(&mut self, rig: &dyn Rig, upload: usize, stale: bool) {
        let context = self.context.clone();
        let (upload, fence) = self.pick(upload, stale);
        let result = rig.ledger().publish(fence).await;
        let fits = !stale && matches!(upload.state, UploadState::Completing | UploadState::Done);
        expect(&context, &result, fits);
        let Ok(published) = result else { return };
        if let Some(answer) = &upload.answer {
            assert_eq!(published, *answer, "{context}: the same answer again");
            return;
        }
        upload.state = UploadState::Done;
        upload.answer = Some(published.clone());
        let (tenant, name, sent) = (upload.tenant, upload.name, upload.sent.clone());
        let id = sent.row.id;
        let content = (tenant, sent.content, sent.length);
        self.turns.published += 1;
        let key = self.keep(&context, sent.row.key, content);
        assert_eq!(published.blob.key, key, "{context}");
        assert_eq!(published.file.is_some(), name.is_some(), "{context}");
        let before = if let Some(name) = name {
            self.names.insert((tenant, name), key)
        } else {
            let number = self.uploads.iter().position(|u| u.sent.row.id == id);
            self.held.insert(number.expect("it is there"), key);
            None
        };
        assert_eq!(
            published.replaced,
            before.is_some_and(|held| held != key),
            "{context}"
        );
        if key == sent.row.key {
            self.heal(key, content);
        }
        self.doom(rig);
    }

    /// The key under which equal bytes are kept once these came in.
    fn keep(&mut self, context: &str, new: BlobKey, content: Content) -> BlobKey {
        let usable = |blob: &Blob| blob.content == content && !blob.damaged && !blob.deleting;
        let equal: Vec<_> = self
            .blobs
            .iter()
            .filter(|(_, b)| usable(b))
            .map(|(key, _)| *key)
            .collect();
        assert!(equal.len() <= 1, "{context}: equal bytes are kept once");
        if let [held] = equal[..] {
            self.trash.insert(new);
            self.turns.deduplicated += 1;
            self.turns.revived += usize::from(self.blobs[&held].due.is_some());
            return held;
        }
        let late = self
            .blobs
            .values()
            .any(|b| b.content == content && b.deleting && !b.damaged);
        self.turns.too_late += usize::from(late);
        self.blobs.insert(
            new,
            Blob {
                content,
                damaged: false,
                deleting: false,
                due: None,
            },
        );
        new
    }

    /// Names that hold damaged bytes with this content hold the new ones.
    fn heal(&mut self, whole: BlobKey, content: Content) {
        for held in self.names.values_mut().chain(self.held.values_mut()) {
            let blob = &self.blobs[held];
            if blob.damaged && blob.content == content {
                *held = whole;
                self.turns.healed += 1;
            }
        }
        for (number, key) in &self.held {
            if let Some(answer) = &mut self.uploads[*number].answer {
                answer.blob.key = *key;
            }
        }
    }

    /// Gives what lost its last name its day, and takes it from what has one again.
    fn doom(&mut self, rig: &dyn Rig) {
        let due = rig.clock().now().plus(DOOMED_FOR);
        for (key, blob) in &mut self.blobs {
            let mut holders = self.names.values().chain(self.held.values());
            if holders.any(|held| held == key) {
                blob.due = None;
            } else {
                blob.due = blob.due.or(Some(due));
            }
        }
    }

    async fn abort(&mut self, rig: &dyn Rig, upload: usize, stale: bool) {
        let context = self.context.clone();
        let (upload, fence) = self.pick(upload, stale);
        // Whoever ends an upload by its id alone asks for no epoch.
        let epoch = stale.then_some(fence.epoch);
        let aborted = rig.ledger().abort(fence.id, epoch).await.expect("abort");
        assert_eq!(aborted, !stale && upload.is_live(), "{context}");
        if aborted {
            upload.state = UploadState::Aborted;
            upload.epoch += 1;
            let key = upload.sent.row.key;
            self.trash.insert(key);
        }
    }

    async fn lose(&mut self, rig: &dyn Rig, upload: usize, stale: bool) {
        let context = self.context.clone();
        let (upload, fence) = self.pick(upload, stale);
        let lost = rig.ledger().lose(fence).await;
        let fits = !stale && upload.is_live();
        expect(&context, &lost, fits);
        if fits {
            upload.state = UploadState::Lost;
            upload.epoch += 1;
            let key = upload.sent.row.key;
            self.trash.insert(key);
        }
    }

    async fn release(&mut self, rig: &dyn Rig, upload: usize) {
        let number = self.uploads.len() - 1 - upload % self.uploads.len();
        let id = self.uploads[number].sent.row.id;
        let released = rig.ledger().release(id).await.expect("release");
        let held = self.held.remove(&number);
        assert_eq!(released, held.is_some(), "{}", self.context);
        if released {
            let upload = &mut self.uploads[number];
            upload.state = UploadState::Aborted;
            upload.epoch += 1;
            self.turns.released += 1;
            self.doom(rig);
        }
    }

    /// Returns how many there were.
    async fn sweep(&mut self, rig: &dyn Rig, limit: u32, forget: bool) -> usize {
        let now = rig.clock().now();
        let told = rig.ledger().due_trash(limit).await.expect("trash");
        assert!(told.len() <= limit as usize, "{}", self.context);
        for trash in &told {
            let key = trash.key;
            if !self.trash.contains(&key) {
                let blob = self.blobs.get_mut(&key);
                let blob = blob.unwrap_or_else(|| panic!("{}: {key:?} unknown", self.context));
                assert!(
                    blob.due.is_some_and(|due| due <= now),
                    "{}: not due",
                    self.context
                );
                blob.deleting = true;
            }
            self.store.remove(&key);
            if forget {
                rig.ledger().forget(trash).await.expect("forget");
                self.trash.remove(&key);
                self.blobs.remove(&key);
            }
        }
        told.len()
    }

    async fn check(&self, rig: &dyn Rig) {
        for tenant in 0..TENANTS {
            for name in 0..NAMES {
                let held = rig
                    .file(self.tenants[tenant], &named(name))
                    .await
                    .map(|blob| blob.key);
                let expected = self.names.get(&(tenant, name)).copied();
                assert_eq!(
                    held, expected,
                    "{}: tenant {tenant}, name {name}",
                    self.context
                );
                let stored = held.is_none_or(|key| self.store.contains(&key));
                assert!(stored, "{}: a live blob was trashed", self.context);
            }
        }
        for upload in &self.uploads {
            let row = rig.ledger().upload(upload.sent.row.id).await.expect("read");
            let row = row.expect("rows of uploads stay");
            let is = (row.epoch, row.offset, row.state);
            assert_eq!(
                is,
                (upload.epoch, upload.offset, upload.state),
                "{}",
                self.context
            );
            let needed = upload.is_live();
            let stored = self.store.contains(&row.key);
            assert!(
                stored || !needed,
                "{}: an open upload was trashed",
                self.context
            );
        }
        let lost = self.held.values().find(|key| !self.store.contains(key));
        assert_eq!(lost, None, "{}: a held blob was trashed", self.context);
    }

    async fn finish(&mut self, rig: &dyn Rig) {
        for number in 0..self.uploads.len() {
            self.abort(rig, number, false).await;
            self.release(rig, number).await;
        }
        rig.clock().advance(DOOMED_FOR + Duration::from_millis(1));
        while self.sweep(rig, 7, true).await > 0 {}
        self.check(rig).await;
        let held: BTreeSet<_> = self.names.values().copied().collect();
        assert_eq!(self.store, held, "the store holds what the names hold");
        let named = self.uploads.iter().filter(|u| u.name.is_some());
        assert_eq!(
            rig.events().await.len(),
            named.filter(|upload| upload.answer.is_some()).count(),
            "one event per name that was published"
        );
    }
}

fn named(name: usize) -> Target {
    target(&format!("box-{name}"))
}

fn expect<T: std::fmt::Debug>(context: &str, result: &Result<T>, fits: bool) {
    match result {
        Ok(_) => assert!(fits, "{context}: it must be fenced"),
        Err(e) => {
            assert!(!fits, "{context}: {e}");
            assert_eq!(e.kind(), ErrorKind::Fenced, "{context}");
        }
    }
}
