//! Uploads over several requests: whose they are, who may go on with them, and when they end.
//!
//! The protocols' words stay in `resumable`; here is what they have in common. Every request of an
//! upload is authorized anew, and the one that ends it once more when its last byte is there: a right
//! may be lost while gigabytes are on their way.

use std::time::Duration;

use boxgate_storage::blob::UploadId;
use boxgate_storage::catalog::BoxRef;
use boxgate_storage::clock::UnixMillis;
use boxgate_storage::metadata::accounts::{Organization, OrganizationId};
use boxgate_storage::metadata::uploads::{
    GateState, Gating, IsoTarget, Labels, Published, Target, UploadState,
};
use boxgate_storage::upload::{Keep, UploadIntent, UploadRow, UploadWriter};
use boxgate_storage::{Error, ErrorKind};
use http::header::LOCATION;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::time::{Instant, sleep};

use super::{join, upload};
use crate::auth::{self, Becomes, Grant, Principal};
use crate::config::settings::Uploads;
use crate::gateway::Gateway;
use crate::hooks::{self, Beginning, Terms};
use crate::http::headers::UPLOAD_OFFSET;
use crate::ingest::{self, Pumped, Telling};
use crate::refusal::Refusal;
use crate::request::RequestFacts;
use crate::resumable::{
    Append, Checksum, Concat, Create, Ends, Limits, Older, Owner, Protocol, Standing, chunk, ietf,
    native, tus,
};
use crate::route::{PathNames, Policy};
use crate::server::{InboundBody, Interim};

/// How long a request waits for an upload that is just being published.
const PUBLISHING: Duration = Duration::from_secs(10);
/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// One request of an upload, on behalf of whoever sent it.
#[derive(Debug, Clone, Copy)]
pub struct Turn<'a> {
    /// Rows, engine, settings.
    pub gateway: &'a Gateway,
    /// The request's head: its credential is asked for again at the end.
    pub head: &'a Parts,
    /// Who sent it.
    pub principal: &'a Principal,
    /// In which words it is refused.
    pub protocol: Protocol,
    /// What the access log will say.
    pub facts: &'a RequestFacts,
    /// Where its bytes become an ISO image, what is asked of that; of the file's name only organization and name count
    /// then.
    pub iso: Option<IsoTarget>,
}

/// What a request came to.
#[derive(Debug)]
pub struct Progress {
    /// Which upload.
    pub id: UploadId,
    /// Where it stands now.
    pub standing: Standing,
    /// What it became, once it is finished.
    pub published: Option<Published>,
    /// The name that it was to become.
    pub target: Option<Target>,
}

impl Turn<'_> {
    /// Begins an upload, and takes its first bytes where some came.
    ///
    /// # Errors
    /// The refusal to send; an upload that was begun stays open unless what it became is wrong.
    pub async fn create(
        &self,
        mut create: Create,
        body: &mut InboundBody,
    ) -> Result<Progress, Refusal> {
        let concat = std::mem::take(&mut create.concat);
        if let Concat::Final(urls) = &concat {
            return self.create_final(create, urls).await;
        }
        let body_length = body.declared_length().filter(|_| create.has_body);
        self.fits(create.length.or(body_length), body_length)?;
        let (organization, target) = self.owner(&create).await?;
        // A client that names the box on its endpoint names it for the pieces, too: they are no box.
        let target = target.filter(|_| concat != Concat::Partial);
        if create.length == Some(0) && target.is_some() {
            return Err(Refusal::empty_box().closing());
        }
        let _permit = if create.has_body {
            Some(self.gateway.admission.upload().await?)
        } else {
            None
        };
        let most = create
            .length
            .or(body_length.filter(|_| create.ends == Ends::Here));
        let terms = self
            .may_begin(organization, target.as_ref(), most, &create.expected)
            .await?;
        let intent = terms.bind(UploadIntent {
            length: create.length,
            expected: create.expected,
            note: create.note,
            ..self.intent(organization, target)
        });
        let engine = &self.gateway.engine;
        if !create.has_body && !is_whole(create.ends, create.length, 0) {
            let row = engine.create(intent).await?;
            self.facts.set_upload(row.id.to_string());
            return Ok(self.standing(&row));
        }
        let (row, writer) = engine.create_to_write(intent).await?;
        self.facts.set_upload(row.id.to_string());
        if let Some(interim) = self.interim() {
            let location = self.gateway.upload_url(self.facts, row.id);
            let left = self.standing(&row).standing.left;
            let head = ietf::resumption_supported(&location, &self.gateway.upload_limits(), left);
            interim.send(&head);
        }
        let append = Append {
            offset: 0,
            ends: create.ends,
            length: create.length,
            // They are in its row.
            expected: Vec::new(),
            checksum: create.checksum,
            body_length,
        };
        let id = row.id;
        let write = (create.older, Some(writer));
        match self.write(row, append, write, body).await {
            Ok(progress) => Ok(progress),
            Err(refusal) => Err(self.left_open(id, refusal).await),
        }
    }

    /// Names an upload in the refusal of the request that made it: its client was told of it by nothing else.
    async fn left_open(&self, id: UploadId, refusal: Refusal) -> Refusal {
        let row = self.gateway.engine.peek(id).await.ok().flatten();
        let has_url = self.gateway.settings.doors.files.enabled;
        // One that is held is asked for there, too.
        let stays =
            |row: &UploadRow| matches!(row.state, UploadState::Open | UploadState::Completing);
        let open = row.filter(|row| stays(row) && has_url);
        let location = HeaderValue::try_from(self.gateway.upload_url(self.facts, id));
        match (open, location) {
            (Some(row), Ok(location)) => refusal
                .header(LOCATION, location)
                .header(UPLOAD_OFFSET, HeaderValue::from(row.offset)),
            _ => refusal,
        }
    }

    /// Goes on with an upload of the caller's.
    ///
    /// # Errors
    /// The refusal to send; nothing that was committed is lost by any.
    pub async fn append(
        &self,
        id: &str,
        append: Append,
        body: &mut InboundBody,
    ) -> Result<Progress, Refusal> {
        let row = self.mine(id).await?;
        self.append_to(row, append, body).await
    }

    /// The same with a row that was looked up already.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub async fn append_to(
        &self,
        row: UploadRow,
        append: Append,
        body: &mut InboundBody,
    ) -> Result<Progress, Refusal> {
        self.facts.set_upload(row.id.to_string());
        if row.joins > 0 {
            return Err(join::takes_no_bytes());
        }
        if row
            .note
            .as_deref()
            .is_some_and(|note| chunk::told_by(note).is_some())
        {
            return Err(chunk::goes_on_by_number(row.offset));
        }
        self.asks_as_begun(&row)?;
        let row = self.settled(row).await?;
        let end = append.body_length.map(|b| append.offset.saturating_add(b));
        if row.state == UploadState::Done {
            return self.again(&row, &append);
        }
        // From a wrong offset the end of the body is a wrong length, too: the offset is told then.
        if let (Some(known), Some(told)) = (row.length, append.length)
            && known != told
            && append.offset == row.offset
        {
            return Err(self.protocol.inconsistent_length(known));
        }
        let length = row.length.or(append.length);
        // Bytes that belong elsewhere are told so first.
        if let (Some(length), Some(end)) = (length, end)
            && end > length
            && append.offset == row.offset
        {
            return Err(self.protocol.past_the_end(length));
        }
        self.fits(length.or(end), append.body_length)?;
        let _permit = self.gateway.admission.upload().await?;
        let row = match (row.length, append.length) {
            // Not by a request that does not fit: the length can be fixed but once.
            (None, Some(_)) if row.offset != append.offset => {
                return Err(offset_mismatch(row.offset, append.offset));
            }
            (None, Some(0)) if row.target.is_some() => {
                return Err(Refusal::empty_box().closing());
            }
            (None, Some(length)) => self.gateway.engine.set_length(row.id, length).await?,
            _ => row,
        };
        self.write(row, append, (Older::Stay, None), body).await
    }

    /// Whoever is refused because the upload is no more theirs to write to is told if nobody took it over, but it
    /// ended (by an administrator, by its time, or because stored bytes of it are lost).
    pub(super) async fn why_ended(&self, id: UploadId, refusal: Refusal) -> Refusal {
        let ended = |cause: &Error| matches!(cause.kind(), ErrorKind::Fenced | ErrorKind::Gone);
        if !refusal.cause.as_ref().is_some_and(ended) {
            return refusal;
        }
        match self.mine(&id.to_string()).await {
            Err(ended) if ended.status == StatusCode::GONE => ended,
            _ => refusal,
        }
    }

    /// Where an upload of the caller's stands, for whoever is about to go on: an older request that
    /// still writes to it is ended.
    ///
    /// # Errors
    /// The refusal to send.
    pub async fn head(&self, id: &str) -> Result<Progress, Refusal> {
        let row = self.mine(id).await?;
        self.facts.set_upload(row.id.to_string());
        if row.joins > 0 {
            return self.head_of_final(row).await;
        }
        let row = self.gateway.engine.head(row.id).await?;
        let row = match self.settled(row.clone()).await {
            // Where it stands can be told without room to publish it. By tus that would tell that it is.
            Err(refusal)
                if refusal.status == StatusCode::INSUFFICIENT_STORAGE
                    && self.protocol != Protocol::Tus =>
            {
                row
            }
            settled => settled?,
        };
        let full = row.state == UploadState::Open && row.length == Some(row.offset);
        if !full || self.protocol != Protocol::Tus {
            return Ok(self.standing(&row));
        }
        // Whoever took the last byte did not come to its end, and a tus client that reads offset =
        // length sends nothing more: so this request ends it.
        let append = Append {
            offset: row.offset,
            ends: Ends::WhenFull,
            length: row.length,
            expected: Vec::new(),
            checksum: None,
            body_length: Some(0),
        };
        match self
            .write(row, append, (Older::Stay, None), &mut InboundBody::empty())
            .await
        {
            // A newer request has it now and ends it in our stead. tus knows no conflict here: its
            // clients take one for an upload that is no more.
            Err(refusal) if refusal.status == StatusCode::CONFLICT => {
                let row = self.settled(self.mine(id).await?).await?;
                if row.state == UploadState::Done {
                    return Ok(self.standing(&row));
                }
                Err(publishing())
            }
            ended => ended,
        }
    }

    /// Where an upload of the caller's stands; nobody is disturbed.
    ///
    /// # Errors
    /// The refusal to send.
    pub async fn status(&self, id: &str) -> Result<(UploadRow, Progress), Refusal> {
        let row = self.mine(id).await?;
        self.catch_up(&row).await?;
        let progress = self.standing(&row);
        Ok((row, progress))
    }

    /// Gives an upload of the caller's up; a finished one without a target drops its bytes. A box stays,
    /// and only the upload that it came by is gone: deleting it is another right, asked for elsewhere.
    ///
    /// # Errors
    /// The refusal to send.
    pub async fn cancel(&self, id: &str) -> Result<(), Refusal> {
        let row = self.mine(id).await?;
        self.facts.set_upload(row.id.to_string());
        let engine = &self.gateway.engine;
        if !engine.cancel(row.id).await? {
            engine.close(row.id).await?;
        }
        Ok(())
    }

    /// The caller's upload of that id. Another's looks like none at all; one that ended without an
    /// outcome is gone.
    pub(super) async fn mine(&self, id: &str) -> Result<UploadRow, Refusal> {
        let id: UploadId = id.parse().map_err(|_malformed| no_upload())?;
        let row = self.gateway.engine.peek(id).await?.filter(|row| {
            // One that nobody keeps is told of where something is said of it.
            (row.keep == Keep::UntilIdle || row.gate.is_some())
                && row.sender == self.principal.sender()
                && self.principal.role_in(row.organization).is_some()
        });
        let row = row.ok_or_else(no_upload)?;
        let uploads = &self.gateway.settings.uploads;
        let over = expires(&row, uploads).is_some_and(|at| at <= self.gateway.clock.now());
        match row.state {
            // Its time is over, though the sweep has not come by yet; unless a request is busy with it, as
            // bytes that just come move the end.
            UploadState::Open if over && !self.gateway.engine.is_busy(row.id) => Err(expired()),
            // One without a target holds its blob for so long.
            UploadState::Done if over => Err(expired()),
            UploadState::Open | UploadState::Completing | UploadState::Done => Ok(row),
            UploadState::Aborted => match &row.gate {
                Some(gating) if gating.state == GateState::Rejected => {
                    Err(Refusal::withheld(gating).closing())
                }
                _ => Err(expired()),
            },
            UploadState::Lost => Err(gone(
                "Stored bytes of the upload are lost. Begin a new one.",
                "STATE_LOST",
            )),
        }
    }

    /// Whose it becomes and under which name, and whether the caller may do that.
    pub(super) async fn owner(
        &self,
        create: &Create,
    ) -> Result<(OrganizationId, Option<Target>), Refusal> {
        let principal = self.principal;
        match &create.owner {
            Owner::Target(file) => {
                let organization = self.may_publish(file).await?;
                Ok((organization, Some(self.target(file, &create.expected))))
            }
            Owner::Organization(Some(name)) => {
                let names = PathNames::of([("org", name.to_string())]);
                let grant = self
                    .authorize(Policy::Member, principal.clone(), &names)
                    .await?;
                Ok((organization_of(grant)?.id, None))
            }
            Owner::Organization(None) => match principal.memberships.as_slice() {
                [only] => Ok((only.organization, None)),
                _ => Err(Refusal::invalid(
                    "Say what the upload becomes: target=organization/box/version/provider/architecture, \
                     or organization=NAME for a blob without a name.",
                )
                .closing()),
            },
        }
    }

    /// The organization of a name that the caller may publish under.
    pub(super) async fn may_publish(&self, file: &BoxRef) -> Result<OrganizationId, Refusal> {
        let grant = self.publisher(self.principal.clone(), file).await?;
        Ok(organization_of(grant)?.id)
    }

    /// Whether scripts let an upload begin, and under which terms.
    pub(super) async fn may_begin(
        &self,
        organization: OrganizationId,
        target: Option<&Target>,
        length: Option<u64>,
        checksums: &[boxgate_storage::digest::Digest],
    ) -> Result<Terms, Refusal> {
        let memberships = self.principal.memberships.iter();
        let mut named = memberships.filter(|m| m.organization == organization);
        let beginning = Beginning {
            organization: named
                .next()
                .map(|m| m.organization_name.to_string())
                .unwrap_or_default(),
            target: target.map(Target::names),
            length,
            checksums,
            resumable: true,
            in_a_form: false,
        };
        let asked = hooks::on_upload_start(self.gateway, self.head, self.facts, beginning);
        Box::pin(asked).await
    }

    /// An upload of the caller's that outlives its requests, of which nothing else is known.
    pub(super) fn intent(
        &self,
        organization: OrganizationId,
        target: Option<Target>,
    ) -> UploadIntent {
        UploadIntent {
            store: None,
            sender: self.principal.sender(),
            organization,
            target,
            length: None,
            expected: Vec::new(),
            part_bytes: None,
            cut: None,
            keep: Keep::UntilIdle,
            note: None,
        }
    }

    /// What finishing publishes.
    pub fn target(&self, file: &BoxRef, expected: &[boxgate_storage::digest::Digest]) -> Target {
        Target {
            box_name: file.name.to_string(),
            version: file.version.to_string(),
            provider: file.provider.to_string(),
            architecture: file.architecture.to_string(),
            new_box_public: self.gateway.settings.catalog.new_box_public,
            declared: expected.first().map(upload::shown),
            actor: self.principal.name().to_owned(),
            base_url: self.gateway.base_url(self.facts),
            into: None,
            labels: Labels::new(),
            iso: None,
        }
        .or_iso(self.iso)
    }

    async fn publisher(&self, principal: Principal, file: &BoxRef) -> Result<Grant, Refusal> {
        if self.iso.is_some() {
            let names = PathNames::of([("org", file.organization.to_string())]);
            return self.authorize(Policy::ManageIsos, principal, &names).await;
        }
        let names = PathNames::of([
            ("org", file.organization.to_string()),
            ("box", file.name.to_string()),
        ]);
        self.authorize(Policy::PublishBox, principal, &names).await
    }

    async fn authorize(
        &self,
        policy: Policy,
        principal: Principal,
        names: &PathNames,
    ) -> Result<Grant, Refusal> {
        auth::authorize(
            &self.gateway.metadata,
            policy,
            Some(principal),
            names,
            false,
        )
        .await
        .map_err(Refusal::closing)
    }

    /// Whether whoever sent this request may still publish what it ends.
    pub(super) async fn authorize_again(&self, row: &UploadRow) -> Result<(), Refusal> {
        let what = Becomes::of(row.target.as_ref());
        hooks::authorize_again(
            self.gateway,
            self.head,
            self.facts,
            &row.sender,
            (row.organization, what),
        )
        .await
    }

    /// Refuses from lengths what no reading would make smaller.
    pub(super) fn fits(&self, length: Option<u64>, body: Option<u64>) -> Result<(), Refusal> {
        let limits = self.gateway.upload_limits();
        if length.is_some_and(|length| length > limits.max_size) {
            let most = limits.max_size;
            let text =
                format!("This server takes uploads of {most} bytes at most (uploads.max_length).");
            return Err(self.too_large(&limits, text));
        }
        match limits.max_append_size {
            Some(most) if body.is_some_and(|body| body > most) => {
                Err(self.append_too_large(&limits, most))
            }
            _ => Ok(()),
        }
    }

    /// Refuses a request that wants another visibility for an ISO image than the one that its upload began with.
    pub(super) fn asks_as_begun(&self, row: &UploadRow) -> Result<(), Refusal> {
        let asked = self.iso.and_then(|iso| iso.public);
        let begun = row.target.as_ref().and_then(|target| target.iso);
        if asked.is_none() || asked == begun.and_then(|iso| iso.public) {
            return Ok(());
        }
        let text = "This upload began with another x-is-public, or with none. Send what it began with, or leave it out, and \
             change the image once it is there.";
        Err(Refusal::new(StatusCode::CONFLICT, text).closing())
    }

    fn append_too_large(&self, limits: &Limits, most: u64) -> Refusal {
        let text = format!(
            "One request takes {most} bytes at most (uploads.max_append_size); send the upload in several."
        );
        self.too_large(limits, text)
    }

    pub(super) fn too_large(&self, limits: &Limits, text: String) -> Refusal {
        let refusal = Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, text)
            .code("FILE_TOO_LARGE")
            .closing();
        self.protocol.with_limits(refusal, limits)
    }

    /// Takes the body in and leaves the upload finished, or open at all that came. Whoever made it just now has its
    /// writer already.
    async fn write(
        &self,
        row: UploadRow,
        append: Append,
        writer: (Older, Option<UploadWriter>),
        body: &mut InboundBody,
    ) -> Result<Progress, Refusal> {
        let id = row.id;
        match self.take_in(row, append, writer, body).await {
            Err(refusal) => Err(self.why_ended(id, refusal).await),
            taken => taken,
        }
    }

    async fn take_in(
        &self,
        row: UploadRow,
        append: Append,
        (older, begun): (Older, Option<UploadWriter>),
        body: &mut InboundBody,
    ) -> Result<Progress, Refusal> {
        let limits = self.gateway.upload_limits();
        let mut writer = if let Some(begun) = begun {
            begun
        } else {
            let resumed = self.gateway.engine.resume(row.id, append.offset).await;
            resumed.map_err(|error| match error.kind() {
                ErrorKind::Conflict if row.pieces.is_some() => native::holds_pieces(row.offset),
                _ => error.into(),
            })?
        };
        let expected = append.expected.iter();
        for digest in expected.filter(|d| !row.expected.contains(d)) {
            let name = digest.algorithm().name();
            writer.expect(digest.clone()).map_err(|_too_late| {
                Refusal::invalid(format!(
                    "A checksum of type {name} must come with the first bytes of an upload."
                ))
                .closing()
            })?;
        }
        if older == Older::End {
            writer.supersede()?;
        }
        match &append.checksum {
            None => {}
            Some(Checksum::Told(digest)) => writer.hold(digest.clone())?,
            // Which of them will be told is known only when the bytes are gone by.
            Some(Checksum::Trailer) => writer.hold_untold(&tus::CHECKSUMS)?,
        }
        let room = row
            .length
            .map_or(u64::MAX, |l| l.saturating_sub(append.offset));
        let most = limits.max_append_size.unwrap_or(u64::MAX).min(room);
        let interim = self.interim();
        let mut tell = |offset| {
            if let Some(interim) = &interim {
                interim.progress(&ietf::progress(offset));
            }
        };
        let telling = interim.is_some().then(|| Telling {
            progress: writer.progress(),
            tell: &mut tell,
        });
        match ingest::pump_telling(body, &mut writer, most, telling).await {
            Ok(Pumped::All) => {}
            Ok(Pumped::Past) => {
                let refusal = match row.length {
                    Some(length) if most == room => self.protocol.past_the_end(length),
                    _ => self.append_too_large(&limits, most),
                };
                return Err(paused(writer, refusal).await);
            }
            // Without a checksum every byte that came counts (tus 1.0, "PATCH").
            Err(refusal) => return Err(paused(writer, refusal).await),
        }
        let checksum = append.checksum.as_ref();
        let writer = self.compare(writer, checksum, append.offset, body).await?;
        let received = writer.received_bytes();
        if append.ends == Ends::Here
            && let Some(length) = row.length.filter(|length| *length != received)
        {
            return Err(paused(writer, self.protocol.inconsistent_length(length)).await);
        }
        if !is_whole(append.ends, row.length, received) {
            let offset = writer.pause().await?;
            return Ok(self.moved(&row, offset));
        }
        if received == 0 && row.target.is_some() {
            writer.abort().await;
            return Err(self.protocol.from_the_target(Refusal::empty_box()));
        }
        if let Err(refusal) = self.authorize_again(&row).await {
            return Err(paused(writer, refusal).await);
        }
        let published = writer.finish().await.map_err(|e| self.unfinished(e))?;
        if row.target.is_none() {
            // Others may have waited for just this piece.
            self.gateway.joiner.look();
        }
        Ok(Progress {
            id: row.id,
            standing: Standing {
                offset: received,
                length: Some(received),
                complete: true,
                note: row.note,
                ..Standing::default()
            },
            published: Some(published),
            target: row.target,
        })
    }

    /// Lets the bytes of a body count if their digest is right, or none is told. When it is not, or was
    /// announced and did not come, or came unannounced, nothing counts that is not committed yet.
    async fn compare(
        &self,
        mut writer: UploadWriter,
        checksum: Option<&Checksum>,
        offset: u64,
        body: &InboundBody,
    ) -> Result<UploadWriter, Refusal> {
        let digest = match checksum {
            None => {
                let Some(refusal) = self.protocol.unannounced_checksum(body.trailers()) else {
                    return Ok(writer);
                };
                let offset = writer.discard().await?;
                return Err(refusal.header(UPLOAD_OFFSET, HeaderValue::from(offset)));
            }
            Some(Checksum::Told(digest)) => digest.clone(),
            Some(Checksum::Trailer) => {
                let digest = self.protocol.trailing_checksum(body.trailers())?;
                writer.tell(digest.clone())?;
                digest
            }
        };
        match writer.release().await {
            Ok(()) => Ok(writer),
            Err(error) if error.kind() == ErrorKind::DigestMismatch => {
                Err(self.protocol.checksum_mismatch(&digest, offset))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn interim(&self) -> Option<ResumptionSupported> {
        ResumptionSupported::of(self.head, self.protocol)
    }

    /// Answers an upload whose bytes are all there and yet did not become anything.
    pub(super) fn unfinished(&self, error: Error) -> Refusal {
        let for_good = matches!(
            error.kind(),
            ErrorKind::DigestMismatch | ErrorKind::Invalid | ErrorKind::NotFound
        );
        let withheld = error.kind() == ErrorKind::Withheld;
        let refusal = Refusal::from(error);
        // What is held is asked about again; what is refused stays so.
        let refused = withheld && refusal.status != StatusCode::SERVICE_UNAVAILABLE;
        if for_good || refused {
            self.protocol.from_the_target(refusal)
        } else {
            refusal
        }
    }

    /// Answers an append to a finished upload: the same once more to a client that lost the answer.
    fn again(&self, row: &UploadRow, append: &Append) -> Result<Progress, Refusal> {
        if append.offset != row.offset {
            return Err(self
                .protocol
                .from_the_target(offset_mismatch(row.offset, append.offset)));
        }
        if append.body_length != Some(0) {
            return Err(self.protocol.completed(row.offset));
        }
        Ok(self.standing(row))
    }

    /// The row once it is not on its way from open to done.
    pub(crate) async fn settled(&self, mut row: UploadRow) -> Result<UploadRow, Refusal> {
        let until = Instant::now() + PUBLISHING;
        while row.state == UploadState::Completing {
            if let Some(gating) = row.gate.as_ref().filter(|gating| stands(gating)) {
                return Err(Refusal::withheld(gating).closing());
            }
            // One whose publishing failed is in nobody's hands: then whoever asks has it published.
            self.gateway.engine.publish_left(row.id).await?;
            row = self.mine(&row.id.to_string()).await?;
            if row.state == UploadState::Completing {
                if Instant::now() >= until {
                    return Err(publishing());
                }
                sleep(LOOK_EVERY).await;
            }
        }
        Ok(row)
    }

    fn moved(&self, row: &UploadRow, offset: u64) -> Progress {
        let mut row = row.clone();
        row.offset = offset;
        row.updated = self.gateway.clock.now();
        self.standing(&row)
    }

    pub(crate) fn standing(&self, row: &UploadRow) -> Progress {
        let now = self.gateway.clock.now();
        let expires = expires(row, &self.gateway.settings.uploads);
        let left = expires.map(|at| u64::try_from(at.0.saturating_sub(now.0)).unwrap_or(0));
        Progress {
            id: row.id,
            standing: Standing {
                offset: row.offset,
                length: row.length,
                complete: row.state == UploadState::Done,
                note: row.note.clone(),
                expires,
                left: left.map(Duration::from_millis),
            },
            published: row.published.clone(),
            target: row.target.clone(),
        }
    }
}

/// Where an upload stands, in one word: a whole one by what is said of it.
pub fn state_of(row: &UploadRow) -> &'static str {
    let said = row.gate.as_ref().map(|gating| gating.state);
    match (row.state, said) {
        (UploadState::Completing, Some(said @ (GateState::Held | GateState::Quarantined)))
        | (UploadState::Aborted, Some(said @ GateState::Rejected)) => said.as_str(),
        (state, _) => state.as_str(),
    }
}

/// When an upload that nobody goes on with is over.
pub fn expires(row: &UploadRow, uploads: &Uploads) -> Option<UnixMillis> {
    match row.state {
        UploadState::Completing if row.gate.is_some() => row
            .gate
            .as_ref()
            .filter(|gating| gating.state == GateState::Quarantined)
            .map(|_| row.updated.plus(uploads.quarantine_ttl)),
        // It waits for others, which may take longer than one that is sent may rest.
        UploadState::Open | UploadState::Completing if row.joins > 0 => {
            Some(row.created.plus(uploads.max_age))
        }
        UploadState::Open | UploadState::Completing => Some(
            row.updated
                .plus(uploads.idle_timeout)
                .min(row.created.plus(uploads.max_age)),
        ),
        UploadState::Done if row.target.is_none() => Some(row.updated.plus(uploads.untargeted_ttl)),
        UploadState::Done | UploadState::Aborted | UploadState::Lost => None,
    }
}

/// Sends 104 answers.
pub struct ResumptionSupported(Interim);

impl std::fmt::Debug for ResumptionSupported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ResumptionSupported")
    }
}

impl ResumptionSupported {
    /// Where interim answers go, if this client reads them.
    pub fn of(head: &Parts, protocol: Protocol) -> Option<Self> {
        // Only where the fields of that protocol are: a creation by Content-Range or by tus has none.
        let headers = &head.headers;
        let speaks = protocol == Protocol::Ietf && headers.contains_key(ietf::UPLOAD_COMPLETE);
        if !speaks || !ietf::reads_interim(headers) {
            return None;
        }
        head.extensions.get::<Interim>().cloned().map(Self)
    }

    /// Tells where an upload goes on.
    pub fn send(&self, head: &HeaderMap) {
        let (status, reason) = Self::status();
        self.0.send(status, reason, head);
    }

    /// Tells how much of it is durable.
    pub fn progress(&self, head: &HeaderMap) {
        let (status, reason) = Self::status();
        self.0.progress(status, reason, head);
    }

    fn status() -> (StatusCode, &'static str) {
        let (status, reason) = ietf::RESUMPTION_SUPPORTED;
        let status = StatusCode::from_u16(status).expect("104 is a status code");
        (status, reason)
    }
}

/// Whether nothing is said of the upload before that is due.
fn stands(gating: &Gating) -> bool {
    matches!(gating.state, GateState::Held | GateState::Quarantined)
}

/// Whether a body that ends there is the end of its upload.
pub fn is_whole(ends: Ends, length: Option<u64>, received: u64) -> bool {
    match ends {
        Ends::Here => true,
        Ends::WhenFull => length == Some(received),
        Ends::Later => false,
    }
}

/// Keeps what came, and tells how much that is.
async fn paused(writer: UploadWriter, refusal: Refusal) -> Refusal {
    match writer.pause().await {
        Ok(offset) => refusal.header(UPLOAD_OFFSET, HeaderValue::from(offset)),
        // Taken over, or the store is in trouble: what is committed is told to whoever asks next.
        Err(_untold) => refusal,
    }
}

fn organization_of(grant: Grant) -> Result<Organization, Refusal> {
    grant.organization.ok_or_else(no_upload)
}

/// Answers bytes that belong elsewhere.
pub fn offset_mismatch(expected: u64, given: u64) -> Refusal {
    let kind = ErrorKind::OffsetMismatch { expected, given };
    Error::new(kind, "upload.append", "upload").into()
}

/// The one answer for an upload that does not exist or is another's.
fn no_upload() -> Refusal {
    Refusal::new(
        StatusCode::NOT_FOUND,
        "This upload does not exist, or it is not yours.",
    )
    .code("NOT_FOUND")
    .closing()
}

fn publishing() -> Refusal {
    let text = "The upload is being published; ask again.";
    Refusal::busy(text, Duration::from_secs(1)).closing()
}

fn expired() -> Refusal {
    gone(
        "The upload was given up, has expired, or was not what its checksum said.",
        "GONE",
    )
}

fn gone(text: &str, code: &'static str) -> Refusal {
    Refusal::new(StatusCode::GONE, text).code(code).closing()
}
