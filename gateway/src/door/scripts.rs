//! Plugins over the administrative API: how they stand, look again, go back.

use boxgate_scripting::set::RollbackError;
use http::{Response, StatusCode};
use serde_json::json;

use super::boxvault::shape;
use crate::call::Call;
use crate::events::stragglers;
use crate::gateway::Gateway;
use crate::hooks;
use crate::http::response;
use crate::refusal::Refusal;
use crate::server::OutboundBody;

type Answer = Result<Response<OutboundBody>, Refusal>;

/// `GET /api/admin/scripts`: as they stand at this node; `behind` is the cluster's.
pub async fn list(gateway: &Gateway) -> Answer {
    let mut behind = stragglers::standing(gateway).await?;
    let plugins: Vec<_> = gateway
        .scripts
        .status()
        .into_iter()
        .map(|status| {
            let more = json!({ "behind": behind.remove(&status.plugin) });
            shape::with(json!(status), more)
        })
        .collect();
    Ok(response::json(StatusCode::OK, &plugins))
}

/// `POST /api/admin/scripts/reload?dry_run=true`.
pub async fn reload(gateway: &Gateway, call: &Call) -> Answer {
    let dry_run = match call.query("dry_run").as_deref() {
        None | Some("false") => false,
        Some("true" | "") => true,
        Some(_) => return Err(Refusal::invalid("'dry_run' is true or false.")),
    };
    let reports = hooks::reload(&gateway.scripts, &gateway.metadata, dry_run).await;
    let reports = reports.map_err(|text| {
        Refusal::new(
            StatusCode::CONFLICT,
            format!("The plugins cannot be looked at: {text}."),
        )
        .code("SCRIPTS_UNREADABLE")
    })?;
    // The line, column and caret are for people, as the log has them.
    let plugins: Vec<_> = reports
        .iter()
        .map(|report| {
            let errors: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
            json!({ "plugin": report.plugin, "result": report.result, "hash": report.hash, "findings": errors })
        })
        .collect();
    let body = json!({ "dryRun": dry_run, "plugins": plugins });
    Ok(response::json(StatusCode::OK, &body))
}

/// `POST /api/admin/scripts/{plugin}/rollback?to=HASH`.
pub async fn rollback(gateway: &Gateway, call: &Call) -> Answer {
    let plugin = call.names.value("plugin").to_owned();
    let to = call.query("to");
    let by = call.principal()?.name();
    // What all nodes run is gone back to on all of them.
    let pushed = super::plugins::roll_back(gateway, (&plugin, to.as_deref()), by).await?;
    if let Some(hash) = pushed {
        return Ok(rolled_back(&plugin, &hash, by));
    }
    let (scripts, name) = (std::sync::Arc::clone(&gateway.scripts), plugin.clone());
    let done = tokio::task::spawn_blocking(move || scripts.rollback(&name, to.as_deref())).await;
    let hash = match done {
        Ok(Ok(hash)) => hash,
        Ok(Err(error)) => {
            let status = match error {
                RollbackError::NoPlugin(_) | RollbackError::NoVersion(_) => StatusCode::NOT_FOUND,
                RollbackError::Broken(..) | RollbackError::Kept(_) => StatusCode::CONFLICT,
            };
            return Err(Refusal::new(status, format!("{error}.")).code("NO_ROLLBACK"));
        }
        Err(panicked) => {
            tracing::error!(error = %panicked, "a rollback broke");
            return Err(Refusal::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "The rollback broke; it was logged.",
            ));
        }
    };
    Ok(rolled_back(&plugin, &hash, by))
}

fn rolled_back(plugin: &str, hash: &str, by: &str) -> Response<OutboundBody> {
    tracing::info!(plugin, hash, by, "a plugin was rolled back");
    response::json(StatusCode::OK, &json!({ "plugin": plugin, "hash": hash }))
}
