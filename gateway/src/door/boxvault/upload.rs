//! Box files on their way in, by the guide's route and by the real ones: whole in one request, as the
//! rest of an upload that was cut (`Content-Range`), or over several requests by the IETF's protocol.
//! Chunks are in `chunks.rs`.

use boxgate_storage::ErrorKind;
use boxgate_storage::catalog::BoxRef;
use boxgate_storage::digest::Digest;
use boxgate_storage::metadata::uploads::{IsoTarget, UploadState};
use boxgate_storage::range::ByteRange;
use boxgate_storage::upload::Keep;
use http::header::{CONTENT_RANGE, LOCATION, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use serde_json::{Value, json};

use super::{chunks, isos, levels, shape};
use crate::call::Call;
use crate::gateway::Gateway;
use crate::handler::repeat::LastRange;
use crate::handler::resumable::{Progress, Turn};
use crate::handler::upload::{self, Carrier, UploadOrder};
use crate::http::headers::{UPLOAD_OFFSET, content_length};
use crate::http::range::ContentRange;
use crate::http::response;
use crate::multipart::{self, Form, FormLimits};
use crate::refusal::Refusal;
use crate::resumable::chunk::Chunk;
use crate::resumable::{
    Answer, Append, Checksum, Concat, Create, Ends, Older, Owner, Protocol, RequestHead, Standing,
    UPLOAD_LENGTH, digest, ietf,
};
use crate::route::Route;
use crate::server::{InboundBody, OutboundBody};

type Answered = Result<Response<OutboundBody>, Refusal>;

/// What a request's bytes become.
#[derive(Debug)]
pub(super) struct Goal {
    /// Its name; of an ISO image only organization and name count.
    pub(super) file: BoxRef,
    /// For an ISO image, what is asked of it.
    pub(super) iso: Option<IsoTarget>,
}

impl Goal {
    /// What a published one is answered with: clients of box files take nothing but 200.
    pub(super) fn status(&self) -> StatusCode {
        match self.iso {
            Some(_) => StatusCode::CREATED,
            None => StatusCode::OK,
        }
    }

    /// # Errors
    /// 400 with the rule that a name breaks.
    pub(super) fn of(call: &Call) -> Result<Self, Refusal> {
        match call.row.route {
            Route::UploadIso | Route::UploadsToIso => isos::goal(call),
            _ => Ok(Self {
                file: call.box_ref()?,
                iso: None,
            }),
        }
    }
}

/// `POST F`, `POST F/upload`, `PUT F/upload`, `POST I`.
pub async fn upload(gateway: &Gateway, call: Call) -> Answered {
    let headers = &call.head.headers;
    upload::assert_uncoded(headers)?;
    let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let names = ("x-checksum", "x-checksum-type");
    let declared = upload::declared(header(names.0), header(names.1), names)?;
    // `multipart/form-data` decides: with it the body is parsed, with anything else it is the box.
    let form = multipart::is_form(headers);
    let expected = if form {
        // RFC 9530's fields would be of the form.
        Vec::from_iter(declared)
    } else {
        digest::and_repr_digests(declared, headers)?
    };
    if Chunk::is_in(headers) {
        return chunks::upload(gateway, call, expected).await;
    }
    if headers.contains_key(ietf::UPLOAD_COMPLETE) {
        let resumable = Box::pin(resumable(gateway, call, expected));
        return resumable.await.map_err(|refusal| {
            if refusal.headers.contains_key(ietf::UPLOAD_COMPLETE) {
                refusal
            } else {
                refusal.header(ietf::UPLOAD_COMPLETE, HeaderValue::from_static("?0"))
            }
        });
    }
    let length = content_length(headers);
    assert_whole(&call.head.method, headers, length)?;
    if length.is_none() && !headers.contains_key(TRANSFER_ENCODING) {
        return Err(Refusal::invalid(
            "The upload needs Content-Length or Transfer-Encoding: chunked.",
        ));
    }
    if length == Some(0) {
        return Err(Refusal::invalid(
            "The file is empty. Nothing was published.",
        ));
    }
    refuse_too_large(gateway, form, length)?;
    let range = ContentRange::parse(headers).map_err(|rule| Refusal::invalid(rule).closing())?;
    match range
        .map(|range| Part::of(range, form, length))
        .transpose()?
    {
        // By itself: few requests come in parts, and all would carry its room.
        Some(Some(part)) => Box::pin(continued(gateway, call, part, expected)).await,
        Some(None) | None => whole(gateway, call, form, expected).await,
    }
}

/// Refuses a body that its own head calls a piece of something: taken for the whole file it would replace a box.
fn assert_whole(method: &Method, headers: &HeaderMap, length: Option<u64>) -> Result<(), Refusal> {
    let refused = |rule: &str| Err(Refusal::invalid(rule).closing());
    match Protocol::of(method, headers) {
        Some(Protocol::Tus) => {
            return refused(
                "This is a request of tus, whose uploads begin at POST /files with target in Upload-Metadata. \
                 Nothing was published.",
            );
        }
        Some(Protocol::Ietf) if !headers.contains_key(ietf::INTEROP_VERSION) => {
            return refused("A partial upload needs Upload-Complete. Nothing was published.");
        }
        Some(Protocol::Ietf) | None => {}
    }
    let number = |name: &HeaderName| headers.get(name).map(|v| v.to_str().ok()?.parse().ok());
    let all = number(&UPLOAD_LENGTH).is_none_or(|all: Option<u64>| all.is_some() && all == length);
    let first = number(&UPLOAD_OFFSET).is_none_or(|offset| offset == Some(0));
    if all && first {
        return Ok(());
    }
    refused(
        "Upload-Length and Upload-Offset call this body a piece of an upload; send Upload-Complete, too, or leave \
         them out for a whole file. Nothing was published.",
    )
}

/// The whole file in one request. A raw one of known length that is cut stays open, and goes on by
/// `Content-Range`.
async fn whole(gateway: &Gateway, call: Call, form: bool, mut expected: Vec<Digest>) -> Answered {
    if !form {
        // The body is the file, so that its digest is the file's.
        let content = digest::content_digest(&call.head.headers)?;
        expected.extend(content.filter(|content| !expected.contains(content)));
    }
    let Goal { file, iso } = Goal::of(&call)?;
    let principal = call.principal()?;
    let length = content_length(&call.head.headers);
    let order = UploadOrder {
        iso,
        organization: call.organization()?.id,
        sender: principal.sender(),
        actor: principal.name().to_owned(),
        base_url: gateway.base_url(&call.facts),
        expected,
        keep: if form || length.is_none() {
            Keep::No
        } else {
            Keep::UntilIdle
        },
        length,
        into: None,
        meant: None,
        file: file.clone(),
    };
    let message = message_of(&call.head.method);
    let carrier = if form {
        Carrier::Form(Box::new(Form::open(
            &call.head.headers,
            call.body,
            FormLimits::of(&gateway.settings),
        )?))
    } else {
        Carrier::Raw(call.body)
    };
    let done = upload::upload(gateway, order, carrier, &call.head, &call.facts).await?;
    let mut warnings = done.warnings;
    if iso.is_some() {
        let row = isos::published(gateway, &file, Some(&done.published.blob)).await?;
        return Ok(isos::created(row, &warnings));
    }
    warnings.extend(levels::version_warning(&file.version));
    let blob = &done.published.blob;
    let mut body = json!({
        "message": message,
        "details": {
            "isComplete": true, "status": "complete", "fileSize": blob.length,
            "blake3": blob.blake3.to_hex(), "sha256": shape::sha256(blob),
        },
    });
    if !warnings.is_empty() {
        body = shape::with(body, json!({ "warnings": warnings }));
    }
    Ok(response::json(StatusCode::OK, &body))
}

/// A creation by the IETF's protocol: what is not whole goes on at `/files/{id}`.
async fn resumable(gateway: &Gateway, mut call: Call, expected: Vec<Digest>) -> Answered {
    if !gateway.settings.doors.files.enabled {
        return Err(Refusal::invalid(
            "Uploads over several requests are switched off here (doors.files); leave Upload-Complete out.",
        )
        .closing());
    }
    if call.head.headers.contains_key(CONTENT_RANGE) {
        let rule =
            "Upload-Complete and Content-Range tell in two ways what a body is; send one of them.";
        return Err(Refusal::invalid(rule).closing());
    }
    let goal = Goal::of(&call)?;
    let head = RequestHead {
        method: &call.head.method,
        headers: &call.head.headers,
        query: call.head.uri.query(),
    };
    let mut create = ietf::create(&head, Owner::Target(goal.file.clone()))?;
    create.expected = expected;
    let mut body = std::mem::replace(&mut call.body, InboundBody::empty());
    let progress = turn(gateway, &call, &goal)?
        .create(create, &mut body)
        .await?;
    let limits = gateway.upload_limits();
    if progress.published.is_some() {
        let document = document(gateway, &call, &goal, &progress).await?;
        let answer = Answer::Appended {
            standing: &progress.standing,
            outcome: Some(&document),
        };
        return Ok(crate::door::files::respond(
            Protocol::Ietf.reply(answer, &limits),
        ));
    }
    let location = gateway.upload_url(&call.facts, progress.id);
    let answer = Answer::Created {
        location: &location,
        standing: &progress.standing,
        has_body: true,
        outcome: None,
    };
    Ok(crate::door::files::respond(
        Protocol::Ietf.reply(answer, &limits),
    ))
}

/// Bytes that are not the whole file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    start: u64,
    end: u64,
    length: u64,
}

impl Part {
    /// `None` for a range that spans the file, which is a whole upload.
    fn of(range: ContentRange, form: bool, body: Option<u64>) -> Result<Option<Self>, Refusal> {
        let (start, end) = (range.range.start(), range.range.end());
        if body.is_some_and(|body| body != range.range.length()) {
            return Err(Refusal::invalid("Content-Range and Content-Length disagree.").closing());
        }
        if start == 0 && Some(end) == range.length {
            return Ok(None);
        }
        match range.length {
            Some(length) if !form => Ok(Some(Self { start, end, length })),
            Some(_) => Err(Refusal::invalid(
                "A form cannot continue an upload; send the bytes alone.",
            )
            .closing()),
            None => Err(
                Refusal::invalid("Content-Range must tell the length of the whole file.").closing(),
            ),
        }
    }
}

/// Bytes for the caller's newest open upload of that name, or the first ones of a new one.
async fn continued(
    gateway: &Gateway,
    mut call: Call,
    part: Part,
    expected: Vec<Digest>,
) -> Answered {
    refuse_too_large(gateway, false, Some(part.length))?;
    let goal = Goal::of(&call)?;
    let file = &goal.file;
    let checksum = digest::content_digest(&call.head.headers)?.map(Checksum::Told);
    let mut body = std::mem::replace(&mut call.body, InboundBody::empty());
    let turn = turn(gateway, &call, &goal)?;
    let ends = if part.end == part.length {
        Ends::Here
    } else {
        Ends::Later
    };
    let organization = call.organization()?.id;
    let target = turn.target(file, &expected);
    let sender = turn.principal.sender();
    let engine = &gateway.engine;
    let by_name = Some(upload::BY_NAME);
    let newest = engine.newest_unpublished(&sender, organization, &target, by_name);
    // Of another length it is another file.
    let open = newest
        .await?
        .filter(|row| row.length.is_none_or(|length| length == part.length));
    let open = match open {
        // All bytes are there, and whoever sent the last of them was told of a failure.
        Some(row) if row.state == UploadState::Completing && part.start > 0 => {
            let row = turn.settled(row).await?;
            let ended = row.state == UploadState::Done && ends == Ends::Here;
            if ended {
                return told(gateway, &call, &goal, &turn.standing(&row)).await;
            }
            None
        }
        // Told or not, the offset must be one from which the client can go on.
        Some(row) if row.offset != part.start && part.start > 0 => {
            match engine.head(row.id).await {
                // Another request of the same sender gave it up in this moment: then none is open.
                Err(e) if matches!(e.kind(), ErrorKind::Gone | ErrorKind::NotFound) => None,
                row => Some(row?),
            }
        }
        open => open,
    };
    let progress = match open {
        Some(row) if row.offset == part.start => {
            let append = Append {
                offset: part.start,
                ends,
                length: Some(part.length),
                expected,
                checksum,
                body_length: Some(part.end - part.start),
            };
            turn.append_to(row, append, &mut body).await?
        }
        // Whoever took the last byte did not come to its end, and no byte is left that could be sent:
        // so this request ends it.
        Some(row) if row.length == Some(row.offset) && ends == Ends::Here && part.start > 0 => {
            let append = Append {
                offset: row.offset,
                ends,
                length: Some(part.length),
                expected,
                checksum: None,
                body_length: Some(0),
            };
            let mut nothing = InboundBody::empty();
            turn.append_to(row, append, &mut nothing).await?
        }
        _ if part.start == 0 => {
            let create = Create {
                length: Some(part.length),
                ends,
                owner: Owner::Target(file.clone()),
                note: Some(upload::BY_NAME.to_owned()),
                expected,
                checksum,
                has_body: true,
                concat: Concat::Alone,
                older: Older::End,
            };
            turn.create(create, &mut body).await?
        }
        // It may be all there, and the answer that told so was lost.
        None if ends == Ends::Here => {
            let bytes = ByteRange::try_new(part.start, part.end).expect("read as a range");
            let last = LastRange {
                file,
                bytes,
                expected: &expected,
            };
            match turn
                .last_range_again(organization, &last, &mut body)
                .await?
            {
                Some(progress) => progress,
                None => return Err(not_next(0, part.start)),
            }
        }
        open => return Err(not_next(open.map_or(0, |row| row.offset), part.start)),
    };
    told(gateway, &call, &goal, &progress).await
}

/// What whoever sent a range is told: what the file became, or from where on to send.
async fn told(gateway: &Gateway, call: &Call, goal: &Goal, progress: &Progress) -> Answered {
    if progress.published.is_some() {
        let document = document(gateway, call, goal, progress).await?;
        return Ok(response::json(goal.status(), &document));
    }
    let Standing { offset, length, .. } = progress.standing;
    let document = json!({
        "message": "Part of the file stored",
        "details": {
            "isComplete": false, "status": "uploading", "fileSize": length, "offset": offset,
        },
    });
    let mut response = response::json(StatusCode::OK, &document);
    let headers = response.headers_mut();
    headers.insert(UPLOAD_OFFSET, HeaderValue::from(offset));
    if gateway.settings.doors.files.enabled
        && let Ok(location) = HeaderValue::try_from(gateway.upload_url(&call.facts, progress.id))
    {
        headers.insert(LOCATION, location);
    }
    Ok(response)
}

pub(super) fn turn<'a>(
    gateway: &'a Gateway,
    call: &'a Call,
    goal: &Goal,
) -> Result<Turn<'a>, Refusal> {
    Ok(Turn {
        gateway,
        head: &call.head,
        principal: call.principal()?,
        protocol: Protocol::Ietf,
        facts: &call.facts,
        iso: goal.iso,
    })
}

fn message_of(method: &Method) -> &'static str {
    if *method == Method::PUT {
        "File updated successfully"
    } else {
        "File upload completed"
    }
}

/// What a finished upload is told to its sender as.
///
/// # Errors
/// When the rows do not answer.
pub(super) async fn document(
    gateway: &Gateway,
    call: &Call,
    goal: &Goal,
    progress: &Progress,
) -> Result<Value, Refusal> {
    if goal.iso.is_some() {
        let bytes = progress.published.as_ref().map(|p| &p.blob);
        return isos::published(gateway, &goal.file, bytes).await;
    }
    Ok(done(progress, message_of(&call.head.method), &goal.file))
}

fn done(progress: &Progress, message: &str, file: &BoxRef) -> Value {
    let Some(published) = &progress.published else {
        return super::message(message);
    };
    let blob = &published.blob;
    let body = json!({
        "message": message,
        "details": {
            "isComplete": true, "status": "complete", "fileSize": blob.length,
            "blake3": blob.blake3.to_hex(), "sha256": shape::sha256(blob),
        },
    });
    match levels::version_warning(&file.version) {
        Some(warning) => shape::with(body, json!({ "warnings": [warning] })),
        None => body,
    }
}

// Refused from the declared length, before a byte of the body is asked for.
fn refuse_too_large(gateway: &Gateway, form: bool, length: Option<u64>) -> Result<(), Refusal> {
    let limit = gateway.settings.uploads.max_length_bytes;
    // A form is longer than its file by its envelope, and by a third in base64; the file itself is
    // counted as it comes.
    let slack = if form { limit / 2 } else { 0 };
    match length {
        Some(length) if length > limit.saturating_add(slack) => Err(too_large(length, limit)),
        _ => Ok(()),
    }
}

#[expect(clippy::cast_precision_loss, reason = "gigabytes for people")]
fn too_large(length: u64, limit: u64) -> Refusal {
    let gb = |bytes: u64| (bytes as f64 / f64::from(1 << 30) * 100.0).round() / 100.0;
    Refusal::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("The file has {length} bytes; this server takes {limit} (uploads.max_length)."),
    )
    .code("FILE_TOO_LARGE")
    .details(json!({
        "fileSize": length, "maxFileSize": limit, "fileSizeGB": gb(length), "maxFileSizeGB": gb(limit),
    }))
    .closing()
}

fn not_next(next: u64, given: u64) -> Refusal {
    Refusal::new(
        StatusCode::CONFLICT,
        format!("The next byte of this file is {next}, not {given}; send it from there."),
    )
    .code("OFFSET_MISMATCH")
    .details(json!({ "expected-offset": next, "provided-offset": given }))
    .header(UPLOAD_OFFSET, HeaderValue::from(next))
    .closing()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_spans_the_file_is_a_whole_upload_and_any_other_a_part() {
        let read = |text: &str, form, body| {
            let mut headers = http::HeaderMap::new();
            headers.insert(http::header::CONTENT_RANGE, text.parse().unwrap());
            Part::of(ContentRange::parse(&headers).unwrap().unwrap(), form, body)
                .map(|part| part.map(|p| (p.start, p.end, p.length)))
                .map_err(|refusal| refusal.status.as_u16())
        };
        let table = [
            ("bytes 0-9/10", false, Some(10), Ok(None)),
            ("bytes 0-9/10", true, None, Ok(None)),
            ("bytes 5-9/10", false, Some(5), Ok(Some((5, 10, 10)))),
            ("bytes 0-4/10", false, Some(5), Ok(Some((0, 5, 10)))),
            ("bytes 5-9/10", false, None, Ok(Some((5, 10, 10)))),
            ("bytes 0-9/10", false, Some(11), Err(400)),
            ("bytes 5-9/10", true, Some(5), Err(400)),
            ("bytes 0-9/*", false, Some(10), Err(400)),
        ];
        for (text, form, body, expected) in table {
            assert_eq!(read(text, form, body), expected, "{text}");
        }
    }
}
