//! Upkeep over the administrative API: the lines of `upkeep`, sent as they come.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use boxgate_storage::check::Brake;
use futures_util::stream;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::call::Call;
use crate::config::ByteSize;
use crate::gateway::Gateway;
use crate::import::Import;
use crate::import::boxitory::Tree;
use crate::refusal::Refusal;
use crate::server::{OutboundBody, Piece};
use crate::upkeep::line::Line;
use crate::upkeep::{self, Chore, Job};

type Answer = Result<Response<OutboundBody>, Refusal>;

/// JSON, one document a line.
const LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");
/// An empty line comes after so long a silence, lest a proxy in between takes it for death.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// `GET /api/admin/fsck?store=NAME`, as the others take it.
pub fn check(gateway: &Gateway, call: &Call) -> Answer {
    run(gateway, call, Chore::Check)
}

/// `POST /api/admin/adopt`.
pub fn adopt(gateway: &Gateway, call: &Call) -> Answer {
    let by = call.principal()?.name();
    tracing::info!(by, "names are made of what stands beside boxes, on request");
    run(gateway, call, Chore::Adopt)
}

/// `POST /api/admin/gc?dry_run=true&remove_many_orphans=true`.
pub fn collect(gateway: &Gateway, call: &Call) -> Answer {
    let mut limits = gateway.settings.gc.orphans;
    if flag(call, "remove_many_orphans")? {
        limits.brake = Brake::RELEASED;
    }
    let dry_run = flag(call, "dry_run")?;
    if !dry_run {
        let by = call.principal()?.name();
        tracing::info!(by, ?limits, "garbage is collected on request");
    }
    run(gateway, call, Chore::Collect { limits, dry_run })
}

/// `POST /api/admin/scrub?rate=SIZE`.
pub fn scrub(gateway: &Gateway, call: &Call) -> Answer {
    let rate_bytes = rate(call)?.unwrap_or(gateway.settings.scrub.rate_bytes);
    run(gateway, call, Chore::Scrub { rate_bytes })
}

/// `POST /api/admin/copy-store?from=NAME&to=NAME&rate=SIZE`.
pub fn copy(gateway: &Gateway, call: &Call) -> Answer {
    let named = |key: &str| {
        let name = call.query(key).unwrap_or_default();
        if gateway.stores.contains_key(&name) {
            return Ok(name);
        }
        Err(no_store(gateway, key))
    };
    let chore = Chore::Copy {
        from: named("from")?,
        to: named("to")?,
        rate_bytes: rate(call)?.unwrap_or(0),
    };
    let by = call.principal()?.name();
    tracing::info!(by, ?chore, "boxes are copied to another store on request");
    run(gateway, call, chore)
}

/// `POST /api/admin/import/boxitory?dir=DIR&organization=ORG&architecture=ARCH`: a tree on the gateway's machine.
pub fn import_boxitory(gateway: &Gateway, call: &Call) -> Answer {
    let value = |key: &str| {
        let missing = || Refusal::invalid(format!("'{key}' must be given."));
        call.query(key)
            .filter(|v| !v.is_empty())
            .ok_or_else(missing)
    };
    let home = PathBuf::from(value("dir")?);
    if !home.is_absolute() {
        return Err(Refusal::invalid("'dir' must be an absolute path."));
    }
    let tree = Tree {
        home,
        organization: value("organization")?.parse().map_err(Refusal::name)?,
        architecture: value("architecture")?.parse().map_err(Refusal::name)?,
        new_box_public: gateway.settings.catalog.new_box_public,
        actor: call.principal()?.name().to_owned(),
    };
    tracing::info!(
        ?tree,
        "a tree of boxes is taken into the catalog on request"
    );
    run(gateway, call, Chore::Import(Import::Boxitory(tree)))
}

fn rate(call: &Call) -> Result<Option<u64>, Refusal> {
    let rate = call.query("rate").map(|text| text.parse::<ByteSize>());
    let rate = rate
        .transpose()
        .map_err(|e| Refusal::invalid(format!("'rate' {e}.")))?;
    Ok(rate.map(|rate| rate.0))
}

fn no_store(gateway: &Gateway, key: &str) -> Refusal {
    let named: Vec<_> = gateway.stores.keys().map(String::as_str).collect();
    let named = named.join(", ");
    Refusal::invalid(format!("'{key}' must be the name of a store: {named}."))
}

fn flag(call: &Call, name: &str) -> Result<bool, Refusal> {
    match call.query(name).as_deref() {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(Refusal::invalid(format!("'{name}' must be true or false."))),
    }
}

fn run(gateway: &Gateway, call: &Call, chore: Chore) -> Answer {
    let store = call.query("store");
    if let Some(store) = &store
        && !gateway.stores.contains_key(store)
    {
        return Err(no_store(gateway, "store"));
    }
    let Some(turn) = gateway.upkeep.turn(&chore) else {
        let text = "The same runs already. Wait for its end, or end it where it was begun.";
        return Err(Refusal::new(StatusCode::CONFLICT, text).code("ALREADY_RUNS"));
    };
    let job = Job {
        stock: gateway.stock().only(store),
        chore,
        turn: Some(turn),
        ending: gateway.upkeep.ending(),
        telemetry: Some(Arc::clone(&gateway.telemetry)),
    };
    let told = upkeep::tell(job, &gateway.background);
    let mut response = Response::new(body(told));
    response.headers_mut().insert(CONTENT_TYPE, LINES);
    Ok(response)
}

fn body(told: mpsc::Receiver<Line>) -> OutboundBody {
    let frames = stream::unfold(told, async |mut told| {
        let text = match timeout(SIGN_OF_LIFE, told.recv()).await {
            Err(_silence) => "\n".to_owned(),
            Ok(None) => return None,
            Ok(Some(line)) => text(&line),
        };
        let frame = Frame::data(Piece::Bytes(text.into()));
        Some((Ok::<_, Infallible>(frame), told))
    });
    StreamBody::new(frames)
        .map_err(|never| match never {})
        .boxed_unsync()
}

fn text(line: &Line) -> String {
    let mut text = serde_json::to_string(line).expect("texts, numbers and maps of texts are JSON");
    text.push('\n');
    text
}
