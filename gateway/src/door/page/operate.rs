//! How the gateway stands, on one page that is looked at again every few seconds.

use std::collections::BTreeMap;

use askama::Template;
use boxgate_scripting::set::{State, Status};
use boxgate_storage::metadata::uploads::NamedUpload;

use super::chart::{Chart, counts};
use super::{Answer, Visit, instant, moment, page, size};
use crate::call::Call;
use crate::door::webhooks::standing;
use crate::gateway::Gateway;
use crate::handler::resumable::state_of;
use crate::refusal::Refusal;

/// Uploads, and endpoints, that are shown.
const SHOWN: u32 = 50;

#[derive(Template)]
#[template(path = "operate.html")]
struct OperatePage<'a> {
    title: &'a str,
    visit: &'a Visit,
    now: Now<'a>,
}

#[derive(Template)]
#[template(path = "operate_now.html")]
struct Now<'a> {
    visit: &'a Visit,
    version: &'static str,
    phase: &'static str,
    uptime: String,
    at: String,
    charts: Vec<Chart>,
    tiles: Vec<(&'static str, String)>,
    dependencies: Vec<DependencyLine>,
    uploads: Vec<UploadLine>,
    webhooks: Vec<WebhookLine>,
    plugins: Vec<PluginLine>,
    adapters: Vec<AdapterLine>,
    limits: Vec<(&'static str, String, u64)>,
}

struct DependencyLine {
    name: String,
    word: &'static str,
    room: String,
}

struct UploadLine {
    target: String,
    who: String,
    state: &'static str,
    sent: String,
    changed: String,
}

struct WebhookLine {
    id: String,
    url: String,
    state: &'static str,
    why: String,
    queued: i64,
}

struct PluginLine {
    name: String,
    version: String,
    state: &'static str,
    is_well: bool,
    error: String,
    calls: Vec<String>,
}

struct AdapterLine {
    name: String,
    outcomes: String,
}

/// `GET /-/operate`.
pub async fn show(gateway: &Gateway, call: Call) -> Answer {
    let visit = Visit::by(gateway, &call);
    page(&OperatePage {
        title: "Operate",
        visit: &visit,
        now: standing_now(gateway, &visit).await?,
    })
}

/// `GET /-/operate/now`.
pub async fn now(gateway: &Gateway, call: Call) -> Answer {
    let visit = Visit::by(gateway, &call);
    page(&standing_now(gateway, &visit).await?)
}

async fn standing_now<'a>(gateway: &Gateway, visit: &'a Visit) -> Result<Now<'a>, Refusal> {
    let metrics = &gateway.telemetry.metrics;
    let dependencies = gateway.dependencies().await;
    let has_rows = dependencies.get("database").is_some_and(|d| d.ok);
    let lines = dependencies
        .into_iter()
        .map(|(name, dependency)| DependencyLine {
            name,
            word: dependency.word(),
            room: dependency.space.map_or_else(String::new, |space| {
                format!(
                    "{} free of {}",
                    size(space.free_bytes),
                    size(space.total_bytes)
                )
            }),
        });
    let (uploads, webhooks) = if has_rows {
        (uploads(gateway).await?, webhooks(gateway).await?)
    } else {
        (Vec::new(), Vec::new())
    };
    Ok(Now {
        visit,
        version: env!("CARGO_PKG_VERSION"),
        phase: gateway.phase().as_str(),
        uptime: indicatif::HumanDuration(gateway.uptime()).to_string(),
        at: instant(gateway.clock.now()),
        charts: gateway.watch.charts(metrics, gateway.uptime()),
        tiles: tiles(gateway),
        dependencies: lines.collect(),
        uploads,
        webhooks,
        plugins: gateway.scripts.status().into_iter().map(plugin).collect(),
        adapters: adapters(gateway),
        limits: limits(gateway),
    })
}

fn tiles(gateway: &Gateway) -> Vec<(&'static str, String)> {
    let metrics = &gateway.telemetry.metrics;
    let cache = gateway.cache.stats();
    let share = (cache.hits * 100).checked_div(cache.hits + cache.misses);
    let share = share.map_or_else(
        || "nothing asked yet".to_owned(),
        |share| format!("{share} %"),
    );
    let broken: u64 = counts(&metrics.downloads_broken, "reason")
        .iter()
        .map(|(_, count)| count)
        .sum();
    let mut tiles = vec![
        (
            "Bodies coming in now",
            gateway.engine.in_progress().to_string(),
        ),
        ("Connections", metrics.connections.get().to_string()),
        ("Cache hits", share),
        ("Cache holds", size(cache.held_bytes)),
        ("Downloads broken", broken.to_string()),
        ("Panics", metrics.http_panics.get().to_string()),
    ];
    if let Some(certificate) = &gateway.certificate {
        let failed = certificate.status().failed;
        tiles.push(("TLS certificate", failed.unwrap_or_else(|| "ok".to_owned())));
    }
    tiles
}

async fn uploads(gateway: &Gateway) -> Result<Vec<UploadLine>, Refusal> {
    let found = gateway
        .metadata
        .uploads_in_progress(None, None, (SHOWN, false))
        .await?;
    Ok(found.iter().map(upload).collect())
}

fn upload(upload: &NamedUpload) -> UploadLine {
    let row = &upload.row;
    let organization = upload
        .organization
        .as_ref()
        .map_or("", |name| name.as_str());
    let target = match &row.target {
        Some(target) if target.iso.is_some() => format!("{organization}, {}", target.box_name),
        Some(target) => format!("{organization}/{}", target.names().join("/")),
        None => format!("{organization}, no box"),
    };
    let length = row.length.map_or_else(|| "?".to_owned(), size);
    UploadLine {
        target,
        who: row
            .sender
            .service
            .clone()
            .or(upload.username.clone())
            .unwrap_or_default(),
        state: state_of(row),
        sent: format!("{} of {length}", size(row.offset)),
        changed: moment(row.updated),
    }
}

async fn webhooks(gateway: &Gateway) -> Result<Vec<WebhookLine>, Refusal> {
    let (most, now) = (gateway.settings.webhooks.queue, gateway.clock.now());
    let found = gateway.metadata.webhooks(0, SHOWN).await?;
    let lines = found.iter().map(|endpoint| {
        let (state, why) = standing(endpoint, most, now);
        WebhookLine {
            id: endpoint.id.clone(),
            url: endpoint.url.clone(),
            state,
            why: why.map(std::borrow::Cow::into_owned).unwrap_or_default(),
            queued: endpoint.queued,
        }
    });
    Ok(lines.collect())
}

fn plugin(status: Status) -> PluginLine {
    let (state, is_well) = match status.state {
        State::Ok => ("ok", true),
        State::Stale => ("an older version runs", false),
        State::Failed => ("failed", false),
        State::Tripped => ("rests after failures", false),
        State::Disabled => ("off", true),
    };
    let calls = status.hooks.iter().map(|hook| {
        let counted: Vec<_> = hook
            .calls
            .iter()
            .map(|(outcome, count)| format!("{outcome} {count}"))
            .collect();
        let counted = if counted.is_empty() {
            "not called".to_owned()
        } else {
            counted.join(", ")
        };
        format!(
            "{}: {counted}{}",
            hook.hook,
            if hook.tripped { ", rests" } else { "" }
        )
    });
    PluginLine {
        calls: calls.collect(),
        name: status.plugin,
        version: status.version,
        state,
        is_well,
        error: status.error.unwrap_or_default(),
    }
}

fn adapters(gateway: &Gateway) -> Vec<AdapterLine> {
    let requests = &gateway.telemetry.metrics.adapters.requests;
    let names = counts(requests, "provider")
        .into_iter()
        .zip(counts(requests, "outcome"));
    let mut by_name: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for ((name, count), (outcome, _)) in names {
        *by_name.entry(name).or_default().entry(outcome).or_default() += count;
    }
    let lines = by_name.into_iter().map(|(name, outcomes)| {
        let told: Vec<_> = outcomes
            .iter()
            .map(|(outcome, count)| format!("{outcome} {count}"))
            .collect();
        AdapterLine {
            name,
            outcomes: told.join(", "),
        }
    });
    lines.collect()
}

/// Limits that were reached since the start.
fn limits(gateway: &Gateway) -> Vec<(&'static str, String, u64)> {
    let metrics = &gateway.telemetry.metrics;
    let refused = counts(&metrics.admission.requests_refused, "limit").into_iter();
    let refused = refused.map(|(limit, count)| ("Requests refused", limit, count));
    let connections = counts(&metrics.connections_refused, "limit").into_iter();
    let connections = connections.map(|(limit, count)| ("Connections refused", limit, count));
    let waits = counts(&metrics.admission.shaper_waits, "direction").into_iter();
    let waits = waits.map(|(direction, count)| ("Bodies slowed down", direction, count));
    refused
        .chain(connections)
        .chain(waits)
        .filter(|(.., count)| *count > 0)
        .collect()
}
