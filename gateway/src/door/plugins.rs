//! Plugins pushed to all nodes over the administrative API.

use boxgate_scripting::bundle::Bundle;
use boxgate_scripting::error::Finding;
use http::{Response, StatusCode};
use serde_json::json;

use super::boxvault::shape;
use crate::call::Call;
use crate::config::settings::Limits;
use crate::events::stragglers;
use crate::gateway::Gateway;
use crate::hooks;
use crate::http::response;
use crate::refusal::Refusal;
use crate::server::OutboundBody;

type Answer = Result<Response<OutboundBody>, Refusal>;

/// Largest bundle as JSON: a MiB of sources, its tests, and what JSON makes of quotes.
const MOST_BYTES: usize = 4 << 20;

/// `GET /api/admin/plugins`.
pub async fn list(gateway: &Gateway) -> Answer {
    let mut behind = stragglers::standing(gateway).await?;
    let mut plugins = Vec::new();
    for row in gateway.metadata.plugins().await? {
        let versions = gateway.metadata.plugin_versions(&row.name).await?;
        plugins.push(json!({
            "plugin": row.name, "hash": row.hash, "pushedBy": row.by,
            "pushedAt": shape::time(row.pushed), "versions": versions,
            "behind": behind.remove(&row.name),
        }));
    }
    Ok(response::json(StatusCode::OK, &plugins))
}

/// `PUT /api/admin/plugins/{plugin}`: the bundle, checked and tested before any node sees it.
pub async fn push(gateway: &Gateway, mut call: Call) -> Answer {
    let limits = Limits {
        json_body_bytes: MOST_BYTES,
        ..gateway.settings.limits.clone()
    };
    let bundle: Bundle = call.json(&limits).await?;
    let name = call.names.value("plugin").to_owned();
    if bundle.name != name {
        let text = format!("The bundle is of plugin '{}', not '{name}'.", bundle.name);
        return Err(Refusal::invalid(text));
    }
    let checked = bundle.clone();
    let scripts = std::sync::Arc::clone(&gateway.scripts);
    let outcome = tokio::task::spawn_blocking(move || scripts.check(&checked)).await;
    let findings = match outcome {
        Ok(Ok(warnings)) => warnings,
        Ok(Err(findings)) => return Err(broken(&name, &findings)),
        Err(panicked) => {
            tracing::error!(error = %panicked, "checking a plugin broke");
            return Err(Refusal::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "Checking the plugin broke; it was logged.",
            ));
        }
    };
    let (hash, by) = (bundle.hash(), call.principal()?.name());
    let text = serde_json::to_string(&bundle).map_err(|e| Refusal::invalid(e.to_string()))?;
    gateway.metadata.push_plugin(&name, &hash, text, by).await?;
    tracing::info!(plugin = name, hash, by, "a plugin was pushed");
    here(gateway).await;
    let warnings: Vec<String> = findings.iter().map(ToString::to_string).collect();
    let body = json!({ "plugin": name, "hash": hash, "warnings": warnings });
    Ok(response::json(StatusCode::OK, &body))
}

/// `DELETE /api/admin/plugins/{plugin}`.
pub async fn remove(gateway: &Gateway, call: &Call) -> Answer {
    let (name, by) = (call.names.value("plugin"), call.principal()?.name());
    if !gateway.metadata.remove_plugin(name, by).await? {
        return Err(Refusal::missing("Pushed plugin", name));
    }
    tracing::info!(plugin = name, by, "a pushed plugin was removed");
    here(gateway).await;
    Ok(response::empty(StatusCode::NO_CONTENT))
}

/// Goes back to another version of a plugin that was pushed, on all nodes; `None` for any other plugin.
///
/// # Errors
/// 404 when there is no such version, 409 when it does not work any more.
pub async fn roll_back(
    gateway: &Gateway,
    (name, to): (&str, Option<&str>),
    by: &str,
) -> Result<Option<String>, Refusal> {
    let rows = gateway.metadata.plugins().await?;
    let Some(row) = rows.into_iter().find(|row| row.name == name) else {
        return Ok(None);
    };
    let versions = gateway.metadata.plugin_versions(name).await?;
    let wanted = if let Some(to) = to {
        versions
            .into_iter()
            .find(|hash| to.len() >= 4 && hash.starts_with(to))
    } else {
        // The newest first.
        let mut older = versions.into_iter().skip_while(|hash| *hash != row.hash);
        older.nth(1)
    };
    let none = || {
        let text = format!(
            "There is no version {} to go back to.",
            to.unwrap_or("before")
        );
        Refusal::new(StatusCode::NOT_FOUND, text).code("NO_ROLLBACK")
    };
    let hash = wanted.ok_or_else(none)?;
    let text = gateway.metadata.plugin_bundle(name, &hash).await?;
    let text = text.ok_or_else(none)?;
    let bundle: Bundle = serde_json::from_str(&text).map_err(|_damaged| none())?;
    let scripts = std::sync::Arc::clone(&gateway.scripts);
    let checked = tokio::task::spawn_blocking(move || scripts.check(&bundle)).await;
    if !matches!(checked, Ok(Ok(_))) {
        let text = format!("The version {hash} does not work any more.");
        return Err(Refusal::new(StatusCode::CONFLICT, text).code("NO_ROLLBACK"));
    }
    if !gateway.metadata.roll_back_plugin(name, &hash, by).await? {
        return Err(none());
    }
    here(gateway).await;
    Ok(Some(hash))
}

/// Swaps on this node at once; the others follow.
async fn here(gateway: &Gateway) {
    if let Err(error) = hooks::follow_once(&gateway.scripts, &gateway.metadata).await {
        tracing::warn!(error, "pushed plugins stay as they were for a moment");
    }
}

fn broken(name: &str, findings: &[Finding]) -> Refusal {
    let told: Vec<String> = findings.iter().map(ToString::to_string).collect();
    let text = format!(
        "Plugin '{name}' does not work, and stays as it was:\n{}",
        told.join("\n")
    );
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, text).code("PLUGIN_BROKEN")
}
