//! Deployments over several requests: tus 1.0.0 and the IETF's protocol, begun at a runtime's image and gone on with at
//! `.../image/uploads/{id}`. The key of the runtime opens both.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use boxgate_storage::digest::{Algorithm, Blake3, Digest};
use futures_util::StreamExt as _;
use http::header::LOCATION;
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::BodyExt as _;
use tokio::task::spawn_blocking;

use super::{
    Answer, Told, empty, expected_of, not_deployed, other_digest, place, receive, too_large,
    unstored,
};
use crate::call::Call;
use crate::config::runtime::DEFAULT;
use crate::gateway::Gateway;
use crate::handler::resumable::{ResumptionSupported, is_whole, offset_mismatch};
use crate::handler::upload::assert_uncoded;
use crate::hooks;
use crate::http::headers::UPLOAD_OFFSET;
use crate::http::response;
use crate::ingest::{self, Pumped, Telling};
use crate::refusal::Refusal;
use crate::request::RequestFacts;
use crate::resumable::metadata::UploadMetadata;
use crate::resumable::{
    self, Append, Checksum, Concat, Create, Ends, Limits, Protocol, Reply, RequestHead, Standing,
    UploadCommand, ietf, tus,
};
use crate::route::Route;
use crate::runtime::arriving::{
    Arrival, Beginning, GIVES_WAY, Held, MOST_OPEN, Record, State, Taking, Turn,
};
use crate::runtime::conditions::Conditions;
use crate::runtime::image::{Staged, done};
use crate::runtime::{Kept, Runtime, Untold, Whole};
use crate::server::{InboundBody, OutboundBody};

/// When a client may ask again what became of its upload.
const UNKNOWN_AGAIN: Duration = Duration::from_secs(5);

/// Which protocol a request speaks. A deployment that has none of their fields is one in a single request, whatever it calls
/// its body.
pub(super) fn spoken(call: &Call) -> Option<Protocol> {
    let headers = &call.head.headers;
    match call.row.route {
        Route::RuntimeUpload => {
            Protocol::of(&resumable::method(&call.head.method, headers), headers)
        }
        Route::RuntimeDeploy if headers.contains_key(tus::TUS_RESUMABLE) => Some(Protocol::Tus),
        Route::RuntimeDeploy if headers.contains_key(ietf::UPLOAD_COMPLETE) => Some(Protocol::Ietf),
        _ => None,
    }
}

/// An answer with what each of its protocol has.
pub(super) fn worn(protocol: Protocol, answer: Answer) -> Answer {
    match (protocol, answer) {
        (Protocol::Tus, Ok(mut response)) => {
            let headers = response.headers_mut();
            headers.insert(tus::TUS_RESUMABLE, tus::VERSION);
            Ok(response)
        }
        (Protocol::Tus, Err(refusal)) => Err(refusal.header(tus::TUS_RESUMABLE, tus::VERSION)),
        (Protocol::Ietf, Err(refusal)) if !refusal.headers.contains_key(ietf::UPLOAD_COMPLETE) => {
            Err(refusal.header(ietf::UPLOAD_COMPLETE, HeaderValue::from_static("?0")))
        }
        (Protocol::Ietf, answer) => answer,
    }
}

/// POST of an image that may come in pieces.
pub(super) async fn begin(
    gateway: &Gateway,
    runtime: &Arc<Runtime>,
    mut call: Call,
    protocol: Protocol,
) -> Answer {
    assert_uncoded(&call.head.headers)?;
    let mut body = std::mem::replace(&mut call.body, InboundBody::empty());
    let UploadCommand::Create(create) = protocol.parse(&head_of(&call, &Method::POST))? else {
        return Err(not_here());
    };
    if create.concat != Concat::Alone {
        let text = "An image is not joined of pieces here: leave Upload-Concat out.";
        return Err(Refusal::invalid(text).closing());
    }
    let create = *create;
    let body_length = body.declared_length().filter(|_| create.has_body);
    fits(
        gateway,
        protocol,
        create.length.or(body_length),
        body_length,
    )?;
    if create.length == Some(0) {
        return Err(empty().closing());
    }
    let conditions = expected_of(gateway, runtime, &call.head.headers).await?;
    let _permit = if create.has_body {
        Some(gateway.admission.upload().await?)
    } else {
        None
    };
    let beginning = Beginning {
        length: create.length,
        filename: filename(&create),
        note: create.note,
        expected: create.expected,
        conditions: conditions.to_pairs(),
    };
    let begun = runtime.arrivals.begin(beginning, gateway.clock.now()).await;
    let (id, arrival) = begun.map_err(unstored)?.ok_or_else(too_many)?;
    call.facts.set_upload(id.clone());
    let request = Request::of(&call, (gateway, runtime), protocol, (&id, &arrival));
    let location = request.location();
    let has_body = create.has_body;
    let answered = |standing: &Standing, untold: Option<Untold>| {
        let answer = resumable::Answer::Created {
            location: &location,
            standing,
            has_body,
            outcome: None,
        };
        request.respond(protocol.reply(answer, &gateway.upload_limits()), untold)
    };
    let turn = request.take().await?;
    if !has_body && create.ends != Ends::Here {
        let standing = request.standing(&turn.work.record);
        return Ok(answered(&standing, None));
    }
    if let Some(interim) = ResumptionSupported::of(&call.head, protocol) {
        let left = request.standing(&turn.work.record).left;
        interim.send(&ietf::resumption_supported(
            &location,
            &gateway.upload_limits(),
            left,
        ));
    }
    let append = Append {
        offset: 0,
        ends: create.ends,
        length: create.length,
        expected: Vec::new(),
        checksum: create.checksum,
        body_length,
    };
    match request.write(turn, append, &mut body).await {
        Ok((standing, untold)) => Ok(answered(&standing, untold)),
        Err(refusal) => Err(request.left_open(refusal)),
    }
}

/// HEAD, PATCH and DELETE of an upload, and POST that stands for one of them.
pub(super) async fn one(
    gateway: &Gateway,
    runtime: &Arc<Runtime>,
    mut call: Call,
    protocol: Option<Protocol>,
) -> Answer {
    let protocol = protocol.ok_or_else(|| {
        let text =
            "Say how the upload goes on: Tus-Resumable: 1.0.0, or Upload-Complete: ?1 or ?0.";
        Refusal::invalid(text).closing()
    })?;
    let mut body = std::mem::replace(&mut call.body, InboundBody::empty());
    let method = resumable::method(&call.head.method, &call.head.headers);
    let command = protocol.parse(&head_of(&call, &method))?;
    let id = call.names.value("upload");
    let arrival = runtime.arrivals.find(id).ok_or_else(no_upload)?;
    call.facts.set_upload(id.to_owned());
    let request = Request::of(&call, (gateway, runtime), protocol, (id, &arrival));
    let limits = gateway.upload_limits();
    match command {
        UploadCommand::Head => {
            let (standing, untold) = request.look().await?;
            let reply = protocol.reply(resumable::Answer::Standing(&standing), &limits);
            Ok(respond(reply, untold))
        }
        UploadCommand::Append(append) => {
            assert_uncoded(&call.head.headers)?;
            let (standing, untold) = request.append(append, &mut body).await?;
            let answer = resumable::Answer::Appended {
                standing: &standing,
                outcome: None,
            };
            let mut reply = protocol.reply(answer, &limits);
            if standing.complete && protocol == Protocol::Ietf {
                // As if it had come in one request.
                reply.status = StatusCode::ACCEPTED;
            }
            Ok(respond(reply, untold))
        }
        UploadCommand::Cancel => {
            runtime.arrivals.end(id).await.map_err(unstored)?;
            Ok(respond(
                protocol.reply(resumable::Answer::Cancelled, &limits),
                None,
            ))
        }
        UploadCommand::Create(_) | UploadCommand::Discover => Err(not_here()),
    }
}

/// One request of an upload.
struct Request<'a> {
    gateway: &'a Gateway,
    runtime: &'a Arc<Runtime>,
    head: &'a Parts,
    facts: &'a RequestFacts,
    protocol: Protocol,
    id: &'a str,
    arrival: &'a Arrival,
}

/// Where an upload stands behind a request, and what it became by it.
type Came = (Standing, Option<Untold>);

impl<'a> Request<'a> {
    fn of(
        call: &'a Call,
        (gateway, runtime): (&'a Gateway, &'a Arc<Runtime>),
        protocol: Protocol,
        (id, arrival): (&'a str, &'a Arrival),
    ) -> Self {
        Self {
            gateway,
            runtime,
            head: &call.head,
            facts: &call.facts,
            protocol,
            id,
            arrival,
        }
    }
}

impl Request<'_> {
    /// The upload, once whoever had it left it.
    async fn take(&self) -> Result<Turn, Refusal> {
        let turn = self.arrival.take().await.ok_or_else(no_upload)?;
        let uploads = &self.gateway.settings.uploads;
        let over = turn
            .work
            .record
            .expires(uploads.idle_timeout, uploads.max_age);
        if over <= self.gateway.clock.now() {
            let text = "Nobody went on with this upload for too long. Begin a new one.";
            return Err(Refusal::new(StatusCode::GONE, text).code("GONE").closing());
        }
        if turn.work.record.state != State::Placing {
            return Ok(turn);
        }
        let Turn { work, over } = turn;
        let settled = self.runtime.settle(&self.gateway.metadata, work).await;
        let work = settled.map_err(|error| {
            tracing::error!(%error, "what became of an upload of an image is not known");
            let text = "Whether this upload became the image cannot be seen now. Ask again.";
            Refusal::busy(text, UNKNOWN_AGAIN).closing()
        })?;
        Ok(Turn { work, over })
    }

    async fn look(&self) -> Result<Came, Refusal> {
        let turn = self.take().await?;
        let record = &turn.work.record;
        let is_full = record.state == State::Open && record.length == Some(record.offset);
        if is_full && self.protocol == Protocol::Tus {
            // A tus client that reads offset = length sends nothing more: so this request ends it.
            return self.deploy(turn.work).await;
        }
        Ok((self.standing(record), None))
    }

    async fn append(&self, append: Append, body: &mut InboundBody) -> Result<Came, Refusal> {
        let mut turn = self.take().await?;
        let record = &turn.work.record;
        if record.offset != append.offset {
            let refusal = offset_mismatch(record.offset, append.offset);
            return Err(match record.state {
                State::Done => self.protocol.from_the_target(refusal),
                State::Open | State::Placing => refusal,
            });
        }
        if record.state == State::Done {
            // The same once more to a client that lost the answer.
            return match append.body_length {
                Some(0) => Ok((self.standing(record), None)),
                _ => Err(self.protocol.completed(record.offset)),
            };
        }
        if let (Some(known), Some(told)) = (record.length, append.length)
            && known != told
        {
            return Err(self.protocol.inconsistent_length(known));
        }
        let end = append.body_length.map(|b| append.offset.saturating_add(b));
        let length = record.length.or(append.length);
        if let (Some(length), Some(end)) = (length, end)
            && end > length
        {
            return Err(self.protocol.past_the_end(length));
        }
        fits(
            self.gateway,
            self.protocol,
            length.or(end),
            append.body_length,
        )?;
        if length == Some(0) {
            return Err(empty().closing());
        }
        let _permit = self.gateway.admission.upload().await?;
        turn.work.record.length = length;
        self.write(turn, append, body).await
    }

    /// Takes the body in, and deploys the image where that was the rest of it.
    async fn write(
        &self,
        turn: Turn,
        append: Append,
        body: &mut InboundBody,
    ) -> Result<Came, Refusal> {
        let length = turn.work.record.length;
        let mut work = self.take_in(turn, &append, body).await?;
        let received = work.record.offset;
        if append.ends == Ends::Here
            && let Some(length) = length.filter(|length| *length != received)
        {
            let refusal = self.protocol.inconsistent_length(length);
            return Err(refusal.header(UPLOAD_OFFSET, received.into()));
        }
        if !is_whole(append.ends, length, received) {
            return Ok((self.standing(&work.record), None));
        }
        work.record.length = Some(received);
        self.deploy(work).await
    }

    /// Takes the body in: what came of it counts, if its digest is right or none was told.
    async fn take_in(
        &self,
        turn: Turn,
        append: &Append,
        body: &mut InboundBody,
    ) -> Result<Held, Refusal> {
        let limits = self.gateway.upload_limits();
        let all = turn.work.record.length.unwrap_or(limits.max_size);
        let room = all.saturating_sub(append.offset);
        let most = limits.max_append_size.unwrap_or(u64::MAX).min(room);
        let told: &[Algorithm] = match &append.checksum {
            None => &[],
            Some(Checksum::Told(digest)) => &[digest.algorithm()],
            Some(Checksum::Trailer) => &tus::CHECKSUMS,
        };
        let interim = ResumptionSupported::of(self.head, self.protocol);
        let mut tell = |offset| {
            if let Some(interim) = &interim {
                interim.progress(&ietf::progress(offset));
            }
        };
        let telling = interim.is_some().then(|| Telling {
            progress: self.arrival.progress(),
            tell: &mut tell,
        });
        let has_length = turn.work.record.length.is_some();
        let mut taking = Taking::begin(turn, told, Arc::clone(&self.gateway.clock));
        match ingest::pump_telling(body, &mut taking, most, telling).await {
            Ok(Pumped::All) => {}
            Ok(Pumped::Past) if most < room => {
                return Err(paused(taking, self.append_too_large(&limits, most)).await);
            }
            Ok(Pumped::Past) if has_length => {
                return Err(paused(taking, self.protocol.past_the_end(all)).await);
            }
            Ok(Pumped::Past) => {
                return Err(paused(taking, self.too_large(&limits)).await);
            }
            Err(refusal) => return Err(paused(taking, refusal).await),
        }
        let taken = taking.finish().await.map_err(unstored)?;
        let declared = match &append.checksum {
            None => match self.protocol.unannounced_checksum(body.trailers()) {
                Some(refusal) => {
                    let offset = taken.work.record.offset;
                    return Err(refusal.header(UPLOAD_OFFSET, offset.into()));
                }
                None => return Ok(taken.work),
            },
            Some(Checksum::Told(digest)) => digest.clone(),
            Some(Checksum::Trailer) => self.protocol.trailing_checksum(body.trailers())?,
        };
        if !taken.of_body().any(|digest| digest == declared) {
            return Err(self.protocol.checksum_mismatch(&declared, append.offset));
        }
        let now = self.gateway.clock.now();
        let taken = done(spawn_blocking(move || taken.commit(now)).await);
        Ok(taken.map_err(unstored)?.work)
    }

    /// Deploys an upload that is whole, as a deployment in one request is.
    async fn deploy(&self, mut work: Held) -> Result<Came, Refusal> {
        if work.record.offset == 0 {
            drop(work);
            return Err(self.give_up(empty()).await);
        }
        let hashed = spawn_blocking(move || work.digests().map(|digests| (work, digests)));
        let (work, digests) = done(hashed.await).map_err(unstored)?;
        let other = work.record.expected().find(|d| !digests.contains(d));
        if let Some(declared) = other {
            drop(work);
            return Err(self.give_up(other_digest(&declared)).await);
        }
        let first = digests.first().map(Digest::as_bytes);
        let blake3 = first.and_then(|bytes| bytes.try_into().ok()).map(Blake3);
        let blake3 = blake3.ok_or_else(|| unstored(io::Error::other("no digest")))?;
        let (received, note) = (work.record.offset, work.record.note.clone());
        let filename = work.record.filename.clone();
        let expected = Conditions::of_pairs(&work.record.conditions);
        let asked = (self.head, self.facts);
        let (gateway, runtime) = (self.gateway, self.runtime);
        let whole = match &runtime.image {
            Kept::File(_) => Whole::File(Staged::arrived(work, blake3)),
            Kept::Stored(_) => self.send_on(work).await?,
        };
        match place(gateway, runtime, asked, whole, filename, expected).await {
            Ok(untold) => {
                let standing = Standing {
                    offset: received,
                    length: Some(received),
                    complete: true,
                    note,
                    ..Standing::default()
                };
                Ok((standing, Some(untold)))
            }
            // Said of this image, and no other try changes it. What merely failed may be asked for again.
            Err(refusal)
                if refusal.status == StatusCode::PRECONDITION_FAILED
                    || refusal.code == Some(hooks::DENIED) =>
            {
                Err(self.give_up(refusal).await)
            }
            Err(refusal) => Err(refusal),
        }
    }

    /// Sends an upload that is whole to the store of its runtime, as if it came at once.
    async fn send_on(&self, work: Held) -> Result<Whole, Refusal> {
        let length = work.record.offset;
        let mut incoming = receive(self.gateway, self.runtime, Some(length)).await?;
        let mut bytes = work.read().map_err(unstored)?;
        while let Some(read) = bytes.next().await {
            let read = read.map_err(unstored)?;
            incoming.write(read).await.map_err(not_deployed)?;
        }
        Ok(match incoming.finish().await.map_err(not_deployed)? {
            Whole::Stored(sent) => Whole::Stored(sent.arrived(work)),
            whole @ Whole::File(_) => whole,
        })
    }

    /// Removes an upload that can become nothing.
    async fn give_up(&self, refusal: Refusal) -> Refusal {
        if let Err(error) = self.runtime.arrivals.end(self.id).await {
            tracing::warn!(%error, "an upload of an image is not removed");
        }
        self.protocol.from_the_target(refusal)
    }

    /// Names an upload in the refusal of the request that made it: its client was told of it by nothing else.
    fn left_open(&self, refusal: Refusal) -> Refusal {
        let is_there = self.runtime.arrivals.find(self.id).is_some();
        match HeaderValue::try_from(self.location()) {
            Ok(location) if is_there => refusal.header(LOCATION, location),
            _ => refusal,
        }
    }

    /// Where it goes on. A path alone: a client knows better than we how it came to the image.
    fn location(&self) -> String {
        let prefix = &self.gateway.settings.doors.runtime.prefix;
        let image = match self.runtime.name.as_str() {
            DEFAULT => "/runtime/image".to_owned(),
            name => format!("/runtimes/{name}/image"),
        };
        format!("{prefix}{image}/uploads/{}", self.id)
    }

    fn standing(&self, record: &Record) -> Standing {
        let uploads = &self.gateway.settings.uploads;
        let is_open = record.state != State::Done;
        let expires = is_open.then(|| record.expires(uploads.idle_timeout, uploads.max_age));
        let now = self.gateway.clock.now();
        let left = expires.map(|at| u64::try_from(at.0.saturating_sub(now.0)).unwrap_or(0));
        Standing {
            offset: record.offset,
            length: record.length,
            complete: !is_open,
            note: record.note.clone(),
            expires,
            left: left.map(Duration::from_millis),
        }
    }

    fn respond(&self, mut reply: Reply, untold: Option<Untold>) -> Response<OutboundBody> {
        if untold.is_some() && self.protocol == Protocol::Ietf {
            reply.status = StatusCode::ACCEPTED;
        }
        respond(reply, untold)
    }

    fn append_too_large(&self, limits: &Limits, most: u64) -> Refusal {
        append_too_large(self.protocol, limits, most)
    }

    fn too_large(&self, limits: &Limits) -> Refusal {
        let refusal = too_large(limits.max_size).closing();
        self.protocol.with_limits(refusal, limits)
    }
}

/// Keeps what came, and tells how much that is.
async fn paused(taking: Taking, refusal: Refusal) -> Refusal {
    match taking.finish().await {
        Ok(taken) => refusal.header(UPLOAD_OFFSET, taken.work.record.offset.into()),
        Err(error) => {
            tracing::warn!(%error, "what came of an image is not kept");
            refusal
        }
    }
}

/// Refuses from lengths what no reading would make smaller.
fn fits(
    gateway: &Gateway,
    protocol: Protocol,
    length: Option<u64>,
    body: Option<u64>,
) -> Result<(), Refusal> {
    let limits = gateway.upload_limits();
    if length.is_some_and(|length| length > limits.max_size) {
        let refusal = too_large(limits.max_size).closing();
        return Err(protocol.with_limits(refusal, &limits));
    }
    match limits.max_append_size {
        Some(most) if body.is_some_and(|body| body > most) => {
            Err(append_too_large(protocol, &limits, most))
        }
        _ => Ok(()),
    }
}

fn append_too_large(protocol: Protocol, limits: &Limits, most: u64) -> Refusal {
    let text = format!(
        "One request takes {most} bytes at most (uploads.max_append_size); send the image in several."
    );
    let refusal = Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, text).closing();
    protocol.with_limits(refusal, limits)
}

fn respond(reply: Reply, untold: Option<Untold>) -> Response<OutboundBody> {
    let mut response = match untold {
        Some(untold) => Response::new(Told(untold).boxed_unsync()),
        None => response::empty(reply.status),
    };
    *response.status_mut() = reply.status;
    response.headers_mut().extend(reply.headers);
    response
}

/// What its sender calls it, where it says so in words of tus.
fn filename(create: &Create) -> Option<String> {
    let metadata = UploadMetadata::parse(create.note.as_deref()?).ok()?;
    let name = metadata.text("filename").ok().flatten()?;
    Some(name.to_owned()).filter(|name| !name.is_empty())
}

/// The query is nothing to a runtime.
fn head_of<'a>(call: &'a Call, method: &'a Method) -> RequestHead<'a> {
    RequestHead {
        method,
        headers: &call.head.headers,
        query: None,
    }
}

fn not_here() -> Refusal {
    let text = "An upload answers HEAD, PATCH and DELETE.";
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, text)
        .header(
            http::header::ALLOW,
            HeaderValue::from_static("HEAD, PATCH, DELETE, POST"),
        )
        .closing()
}

fn no_upload() -> Refusal {
    let text = "This upload does not exist, or it is over.";
    Refusal::new(StatusCode::NOT_FOUND, text).closing()
}

fn too_many() -> Refusal {
    let text = format!(
        "{MOST_OPEN} uploads of images are open here. End one with DELETE, or wait until nobody sends one for a minute."
    );
    Refusal::busy(text, GIVES_WAY).closing()
}
