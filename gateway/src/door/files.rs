//! `/files`: uploads over several requests, by tus 1.0.0, by the IETF's protocol and in parts, on the same
//! URLs.
//!
//! Errors are problem documents (RFC 9457) with the members of their type; a tus client reads no more
//! than their status.

pub mod dress;
pub mod found;

use boxgate_storage::metadata::uploads::{Pieces, UploadState};
use boxgate_storage::upload::UploadRow;
use http::{Method, Response, StatusCode, header};
use hyper::ext::ReasonPhrase;
use serde_json::{Value, json};

use crate::auth::Principal;
use crate::call::Call;
use crate::door::boxvault::shape;
use crate::gateway::Gateway;
use crate::handler::resumable::{Progress, Turn, state_of};
use crate::handler::upload::assert_uncoded;
use crate::http::problem::Problem;
use crate::http::response;
use crate::refusal::Refusal;
use crate::resumable::{
    self, Answer, Protocol, Reply, RequestHead, UploadCommand, ietf, native, tus,
};
use crate::server::{InboundBody, OutboundBody};

type Answered = Result<Response<OutboundBody>, Refusal>;

/// A refusal as a problem document.
pub fn refuse(refusal: &Refusal) -> Response<OutboundBody> {
    let code = refusal.code.unwrap_or("REFUSED");
    let mut problem = Problem::new(refusal.status, code, refusal.message.as_str());
    if let Some(kind) = refusal.problem {
        problem = problem.of_type(kind);
    }
    if let Some(details) = &refusal.details {
        problem = problem.with_members(details);
    }
    let mut response = problem.into_response();
    if refusal.status.as_u16() == tus::CHECKSUM_MISMATCH {
        // No list of statuses has this one.
        let phrase = ReasonPhrase::from_static(b"Checksum Mismatch");
        response.extensions_mut().insert(phrase);
    }
    response
}

/// `POST /files`.
pub async fn create(gateway: &Gateway, call: Call) -> Answered {
    if resumable::method(&call.head.method, &call.head.headers) == Method::OPTIONS {
        return Ok(options(gateway));
    }
    if native::is_creation(&head_of(&call)) {
        return create_in_parts(gateway, &call).await;
    }
    let protocol = protocol_of(&call)?;
    assert_uncoded(&call.head.headers)?;
    if native::is_checksum_deploy(&call.head.headers) {
        return Err(native::not_beside_a_protocol());
    }
    let (call, mut body) = split(call);
    let UploadCommand::Create(create) = protocol.parse(&head_of(&call))? else {
        return Err(not_here(&call.head.method, "POST, OPTIONS"));
    };
    let has_body = create.has_body;
    let turn = turn(gateway, &call, protocol)?;
    let progress = turn.create(*create, &mut body).await?;
    let location = gateway.upload_url(&call.facts, progress.id);
    let outcome = progress.published.is_some().then(|| outcome(&progress));
    let answer = Answer::Created {
        location: &location,
        standing: &progress.standing,
        has_body,
        outcome: outcome.as_ref(),
    };
    Ok(respond(protocol.reply(answer, &gateway.upload_limits())))
}

/// `POST /files` that begins an upload in parts.
async fn create_in_parts(gateway: &Gateway, call: &Call) -> Answered {
    let create = native::create(&head_of(call))?;
    let turn = turn(gateway, call, Protocol::Ietf)?;
    if native::is_checksum_deploy(&call.head.headers)
        && let Some(progress) = turn.publish_known(&create).await?
    {
        return Ok(respond(native::known(&outcome(&progress))));
    }
    let (progress, part_bytes) = turn.create_in_parts(create).await?;
    let location = gateway.upload_url(&call.facts, progress.id);
    let limits = gateway.upload_limits();
    Ok(respond(native::created(
        &location,
        part_bytes,
        &progress.standing,
        &limits,
    )))
}

/// `PUT /files/{id}/parts/{k}`.
pub async fn part(gateway: &Gateway, call: Call) -> Answered {
    assert_uncoded(&call.head.headers)?;
    let (call, mut body) = split(call);
    let put = native::put(&head_of(&call), call.names.value("part"))?;
    let turn = turn(gateway, &call, Protocol::Ietf)?;
    let held = turn
        .put_part(call.names.value("id"), put, &mut body)
        .await?;
    let outcome = held.progress.as_ref().map(outcome);
    Ok(respond(native::held(held.committed, outcome.as_ref())))
}

/// HEAD, PATCH and DELETE of `/files/{id}`, and POST that stands for one of them.
pub async fn one(gateway: &Gateway, call: Call) -> Answered {
    let protocol = protocol_of(&call)?;
    let (call, mut body) = split(call);
    let id = call.names.value("id");
    let command = protocol.parse(&head_of(&call))?;
    let turn = turn(gateway, &call, protocol)?;
    let limits = gateway.upload_limits();
    let reply = match command {
        UploadCommand::Head => {
            let progress = turn.head(id).await?;
            protocol.reply(Answer::Standing(&progress.standing), &limits)
        }
        UploadCommand::Append(append) => {
            assert_uncoded(&call.head.headers)?;
            let progress = turn.append(id, append, &mut body).await?;
            let outcome = progress.published.is_some().then(|| outcome(&progress));
            let answer = Answer::Appended {
                standing: &progress.standing,
                outcome: outcome.as_ref(),
            };
            protocol.reply(answer, &limits)
        }
        UploadCommand::Cancel => {
            turn.cancel(id).await?;
            protocol.reply(Answer::Cancelled, &limits)
        }
        UploadCommand::Discover => return Ok(options(gateway)),
        UploadCommand::Create(_) => {
            return Err(not_here(
                &call.head.method,
                "HEAD, GET, PATCH, DELETE, OPTIONS",
            ));
        }
    };
    Ok(respond(reply))
}

/// `GET /files/{id}`: the same for people and scripts. It ends nobody's request, as the IETF's protocol
/// would have it: who only looks changes nothing.
pub async fn status(gateway: &Gateway, call: Call) -> Answered {
    let protocol = Protocol::of(&call.head.method, &call.head.headers).unwrap_or(Protocol::Ietf);
    let turn = turn(gateway, &call, protocol)?;
    let (row, progress) = turn.status(call.names.value("id")).await?;
    let standing = &progress.standing;
    let mut document = json!({
        "id": row.id.to_string(), "state": state_of(&row), "offset": row.offset,
        "length": row.length,
        "createdAt": shape::time(row.created), "updatedAt": shape::time(row.updated),
        "expiresAt": standing.expires.map(shape::time),
    });
    if let Some(gating) = row.gate.as_ref().filter(|_| row.state != UploadState::Done) {
        let said = json!({
            "reason": gating.is_verdict.then_some(&gating.why),
            "askedAgainAt": gating.due.map(shape::time),
        });
        document = shape::with(document, said);
    }
    if let Some(cut) = row.pieces {
        let parts = pieces(gateway, &row, cut).await?;
        document = shape::with(document, parts);
    }
    if row.joins > 0 && row.state == UploadState::Open {
        let sources = gateway.engine.sources(row.id).await?;
        let whole = sources
            .iter()
            .filter(|source| source.blob.is_some())
            .count();
        let of = json!({ "total": row.joins, "whole": whole });
        document = shape::with(document, json!({ "joins": of }));
    }
    if let Some(target) = &row.target {
        document = shape::with(document, json!({ "target": shape::target(target) }));
    }
    if progress.published.is_some() {
        document = shape::with(document, outcome(&progress));
    }
    let reply = ietf::reply(Answer::Standing(standing), &gateway.upload_limits());
    Ok(respond(Reply {
        status: StatusCode::OK,
        body: Some(document),
        ..reply
    }))
}

/// How an upload is cut, and what is held beyond its offset.
async fn pieces(gateway: &Gateway, row: &UploadRow, cut: Pieces) -> Result<Value, Refusal> {
    let held = gateway.engine.held_pieces(row.id).await?;
    let ahead = held.iter().filter(|piece| piece.start >= row.offset);
    let held: Vec<_> = ahead.map(|piece| piece.k).collect();
    let of = json!({ "size": cut.bytes, "total": cut.count, "held": held });
    let name = if cut.bytes == Some(row.part_bytes) {
        "parts"
    } else {
        "chunks"
    };
    Ok(json!({ name: of }))
}

/// OPTIONS: what both protocols can do here. It asks for no credential: browsers send none with it.
pub fn options(gateway: &Gateway) -> Response<OutboundBody> {
    let limits = gateway.upload_limits();
    let reply = Reply::new(StatusCode::NO_CONTENT);
    respond(ietf::discovery(tus::discovery(reply, &limits), &limits))
}

/// What a finished upload became; the details are those of an upload at the BoxVault door.
fn outcome(progress: &Progress) -> Value {
    let Some(published) = &progress.published else {
        return json!({});
    };
    let blob = &published.blob;
    let mut document = json!({
        "message": "File upload completed",
        "details": {
            "isComplete": true, "status": "complete", "fileSize": blob.length,
            "blake3": blob.blake3.to_hex(), "sha256": shape::sha256(blob),
        },
    });
    let warning = progress
        .target
        .as_ref()
        .and_then(|target| target.version.parse().ok())
        .and_then(|version| crate::door::boxvault::levels::version_warning(&version));
    if let Some(warning) = warning {
        document = shape::with(document, json!({ "warnings": [warning] }));
    }
    document
}

fn turn<'a>(gateway: &'a Gateway, call: &'a Call, protocol: Protocol) -> Result<Turn<'a>, Refusal> {
    let principal: &Principal = call.principal()?;
    Ok(Turn {
        gateway,
        head: &call.head,
        principal,
        protocol,
        facts: &call.facts,
        iso: None,
    })
}

/// The call with the method that is meant, and its body apart.
fn split(mut call: Call) -> (Call, InboundBody) {
    call.head.method = resumable::method(&call.head.method, &call.head.headers);
    let body = std::mem::replace(&mut call.body, InboundBody::empty());
    (call, body)
}

fn head_of(call: &Call) -> RequestHead<'_> {
    RequestHead {
        method: &call.head.method,
        headers: &call.head.headers,
        query: call.head.uri.query(),
    }
}

fn protocol_of(call: &Call) -> Result<Protocol, Refusal> {
    let method = resumable::method(&call.head.method, &call.head.headers);
    Protocol::of(&method, &call.head.headers).ok_or_else(|| {
        Refusal::invalid(
            "Say how the upload goes on: Tus-Resumable: 1.0.0, Upload-Complete: ?1 or ?0, or \
             Upload-Length without a body for an upload in parts.",
        )
        .closing()
    })
}

fn not_here(method: &Method, allowed: &'static str) -> Refusal {
    Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{method} means nothing here; this path answers {allowed}."),
    )
    .code("METHOD_NOT_ALLOWED")
    .header(header::ALLOW, http::HeaderValue::from_static(allowed))
    .closing()
}

/// A translator's reply as an answer.
pub fn respond(reply: Reply) -> Response<OutboundBody> {
    let mut response = match &reply.body {
        Some(document) => response::json(reply.status, document),
        None => response::empty(reply.status),
    };
    response.headers_mut().extend(reply.headers);
    response
}
