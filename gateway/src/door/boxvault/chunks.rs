//! Box files in chunks, as BoxVault's page sends them (`x-chunk-index`), and what is held of them.

use boxgate_storage::clock::UnixMillis;
use boxgate_storage::digest::Digest;
use boxgate_storage::metadata::uploads::UploadState;
use boxgate_storage::upload::UploadRow;
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};

use super::shape;
use super::upload::{Goal, document, turn};
use crate::call::Call;
use crate::gateway::Gateway;
use crate::handler::upload;
use crate::http::response;
use crate::refusal::Refusal;
use crate::resumable::chunk::{self, Chunk};
use crate::server::{InboundBody, OutboundBody};

type Answered = Result<Response<OutboundBody>, Refusal>;

/// `POST F/upload` and `PUT F/upload` with `x-chunk-index`.
pub async fn upload(gateway: &Gateway, mut call: Call, whole: Vec<Digest>) -> Answered {
    let headers: &HeaderMap = &call.head.headers;
    let chunk = Chunk::parse(headers, whole)?;
    let goal = Goal::of(&call)?;
    let organization = call.organization()?.id;
    let mut body = std::mem::replace(&mut call.body, InboundBody::empty());
    let turn = turn(gateway, &call, &goal)?;
    let held = turn
        .put_chunk(&goal.file, organization, &chunk, &mut body)
        .await?;
    let (status, document) = match &held.progress {
        Some(progress) => {
            let document = document(gateway, &call, &goal, progress).await?;
            (goal.status(), document)
        }
        None => (StatusCode::OK, chunk.stored(held.held)),
    };
    Ok(response::json(status, &document))
}

/// `GET F/upload`: the caller's uploads to that name that are not finished, so that a client need not
/// remember what it sent.
pub async fn status(gateway: &Gateway, call: Call) -> Answered {
    let goal = Goal::of(&call)?;
    let organization = call.organization()?.id;
    let turn = turn(gateway, &call, &goal)?;
    let sender = turn.principal.sender();
    let target = turn.target(&goal.file, &[]);
    let none = UnixMillis(i64::MAX);
    let engine = &gateway.engine;
    let rows = engine
        .uploads_to(&sender, organization, &target, none)
        .await?;
    let mut uploads = Vec::new();
    // One that is joined of others takes nothing that could be sent.
    let goes_on = |row: &&UploadRow| row.state == UploadState::Open && row.joins == 0;
    for row in rows.iter().filter(goes_on) {
        let held = engine.held_pieces(row.id).await?;
        let held: Vec<_> = held.iter().map(|piece| piece.k).collect();
        uploads.push(listed(row, &held));
    }
    Ok(response::json(
        StatusCode::OK,
        &json!({ "uploads": uploads }),
    ))
}

fn listed(row: &UploadRow, held: &[u32]) -> Value {
    let document = json!({
        "id": row.id.to_string(), "isComplete": false, "status": "uploading",
        "kind": kind_of(row), "fileSize": row.length, "offset": row.offset,
        "createdAt": shape::time(row.created), "updatedAt": shape::time(row.updated),
    });
    let Some(cut) = row.pieces else {
        return document;
    };
    let told = row.note.as_deref().and_then(chunk::told_by).flatten();
    let (kind, checksum) = told.and_then(|told| told.split_once(':')).unzip();
    let chunks = json!({
        "totalChunks": cut.count, "chunksReceived": held.len(), "chunkSize": cut.bytes,
        "chunks": held, "checksum": checksum,
        "checksumType": kind.map_or("NULL".to_owned(), str::to_uppercase),
    });
    shape::with(document, chunks)
}

/// By what it goes on: the bytes behind its offset to this name, chunks, or its own URL.
fn kind_of(row: &UploadRow) -> &'static str {
    match row.note.as_deref() {
        Some(upload::BY_NAME) => "raw",
        Some(note) if chunk::told_by(note).is_some() => "chunks",
        _ => "files",
    }
}
