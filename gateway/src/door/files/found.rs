//! What a client needs that lost track of an upload: the caller's unfinished ones to a name, what is held of
//! each, and the digest that binds what comes next to one file.

use boxgate_storage::digest::outboard::subtree_value;
use boxgate_storage::metadata::uploads::Pieces;
use boxgate_storage::upload::UploadRow;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::{Answered, head_of, pieces, respond, turn};
use crate::auth::credential;
use crate::call::Call;
use crate::door::boxvault::shape;
use crate::gateway::Gateway;
use crate::handler::resumable::state_of;
use crate::http::response;
use crate::refusal::Refusal;
use crate::resumable::{Answer, Protocol, digest, ietf, native};
use crate::server::OutboundBody;

/// Parts told of at once; each is a row, and up to 32 bytes of it for each MiB.
const PAGE: usize = 256;

/// `GET /files?target=`.
pub async fn list(gateway: &Gateway, call: Call) -> Answered {
    let file = native::wanted(&head_of(&call))?;
    let turn = turn(gateway, &call, Protocol::Ietf)?;
    let mut uploads = Vec::new();
    for row in turn.unfinished_to(&file).await? {
        uploads.push(told(gateway, &call, &row).await?);
    }
    Ok(answer(&json!({ "uploads": uploads })))
}

async fn told(gateway: &Gateway, call: &Call, row: &UploadRow) -> Result<Value, Refusal> {
    let document = json!({
        "id": row.id.to_string(), "url": gateway.upload_url(&call.facts, row.id),
        "state": state_of(row), "offset": row.offset, "length": row.length,
        "createdAt": shape::time(row.created), "updatedAt": shape::time(row.updated),
    });
    Ok(match row.pieces {
        Some(cut) => shape::with(document, pieces(gateway, row, cut).await?),
        None => document,
    })
}

/// `GET /files/{id}/parts`.
pub async fn parts(gateway: &Gateway, call: Call) -> Answered {
    let query = call.head.uri.query().unwrap_or_default();
    let from = credential::query_value(query, "from").unwrap_or_else(|| "0".to_owned());
    let from: u32 = from
        .parse()
        .map_err(|_odd| Refusal::invalid("from is the number of a part: 0, 1, 2 and so on."))?;
    let turn = turn(gateway, &call, Protocol::Ietf)?;
    let (row, cut) = turn.by_part(call.names.value("id")).await?;
    let told = match cut {
        Some(cut) => held(gateway, &row, cut, from).await?,
        None => in_order(gateway, &row, from).await?,
    };
    Ok(answer(&told))
}

/// The held parts from that one on, each with the value of its bytes.
async fn held(
    gateway: &Gateway,
    row: &UploadRow,
    cut: Pieces,
    from: u32,
) -> Result<Value, Refusal> {
    let engine = &gateway.engine;
    let held = engine.held_pieces(row.id).await?;
    let mut from = held.iter().map(|piece| piece.k).filter(|k| *k >= from);
    let mut parts = Vec::new();
    for k in from.by_ref().take(PAGE) {
        let piece = engine.held_piece(row.id, k).await?;
        if let Some(value) = piece.and_then(|piece| subtree_value(&piece.values)) {
            parts.push(json!({ "part": k, "blake3": hex::encode(value) }));
        }
    }
    Ok(json!({ "size": cut.bytes, "total": cut.count, "parts": parts, "next": from.next() }))
}

/// The same of an upload that is sent in order, as if it lay in parts: of the last one what is committed.
async fn in_order(gateway: &Gateway, row: &UploadRow, from: u32) -> Result<Value, Refusal> {
    let count = row.offset.div_ceil(row.part_bytes);
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let mut from = from..count;
    let mut parts = Vec::new();
    for k in from.by_ref().take(PAGE) {
        let values = gateway.engine.committed_values(row.id, k).await?;
        if let Some(value) = values.and_then(|values| subtree_value(&values)) {
            parts.push(json!({ "part": k, "blake3": hex::encode(value) }));
        }
    }
    Ok(json!({ "size": row.part_bytes, "offset": row.offset, "parts": parts, "next": from.next() }))
}

/// `PUT /files/{id}/digest`.
pub async fn declare(gateway: &Gateway, call: Call) -> Answered {
    let digests = digest::repr_digests(&call.head.headers)?;
    if digests.is_empty() {
        return Err(Refusal::invalid(
            "Say what the whole is: Repr-Digest: sha-256=:...:, or blake3=:...:.",
        ));
    }
    let turn = turn(gateway, &call, Protocol::Ietf)?;
    let standing = turn.declare(call.names.value("id"), digests).await?;
    Ok(respond(ietf::reply(
        Answer::Standing(&standing),
        &gateway.upload_limits(),
    )))
}

fn answer(document: &Value) -> Response<OutboundBody> {
    response::json(StatusCode::OK, document)
}
