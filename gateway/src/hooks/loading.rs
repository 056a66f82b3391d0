//! Settings to options, and when plugins are looked at again.

use std::collections::BTreeSet;
use std::sync::Arc;

use boxgate_scripting::hook::Hook;
use boxgate_scripting::set::{Reloaded, State};
use boxgate_scripting::{Options, Scripts};
use boxgate_storage::metadata::Metadata;
use serde_json::json;

use crate::config::{Secret, Settings};
use crate::gateway::Gateway;
use crate::lookout::Lookout;
use crate::sys::alloc::live_bytes;

/// The hooks that are called.
const CALLED: &[Hook] = &[
    Hook::Route,
    Hook::Authorize,
    Hook::OnUploadStart,
    Hook::OnUploadComplete,
    Hook::OnDownload,
    Hook::OnDelete,
    Hook::OnResponse,
    Hook::OnEvent,
    Hook::Transform,
    Hook::OnSchedule,
    Hook::WebhookIn,
    Hook::OnImageDeploy,
    Hook::OnImageDeployed,
    Hook::OnImagePush,
    Hook::Meta,
    Hook::Catalog,
    Hook::Verify,
    Hook::ListKeys,
    Hook::CreateKey,
    Hook::GetKey,
    Hook::DeleteKey,
    Hook::ListServers,
    Hook::CreateServer,
    Hook::GetServer,
    Hook::CancelServer,
    Hook::InstallKey,
    Hook::RebootServer,
    Hook::RenameServer,
];

/// How plugins are loaded and run.
pub fn options(settings: &Settings) -> Options {
    let scripts = &settings.scripts;
    let secret = |(name, value): (&String, &Secret)| (name.clone(), value.expose().to_owned());
    Options {
        dirs: scripts.dirs.clone(),
        last_good: settings.data_dir.join("last-good"),
        memory: None,
        startup: scripts.startup,
        test: scripts.test,
        grants: scripts.grants.clone(),
        trust_local: scripts.trust_local,
        settings: scripts.settings.clone(),
        secrets: scripts.secrets.iter().map(secret).collect(),
        unreadable_secrets: scripts.unreadable_secrets.clone(),
        env: scripts.env.clone(),
        workers: scripts.workers,
        clouds: settings.providers.at_once,
        queue: scripts.queue_wait,
        http: None,
        outbox: None,
        catalog: None,
        links: None,
        live: live_bytes,
        calls: CALLED.to_vec(),
        stores: Some(settings.stores.keys().cloned().collect()),
        pushed: std::collections::BTreeMap::new(),
    }
}

/// Looks at the plugins now and then and at each SIGHUP, for as long as it is polled.
pub async fn watch(gateway: Arc<Gateway>) {
    let mut lookout = Lookout::new(gateway.settings.scripts.check_every);
    loop {
        lookout.next().await;
        if let Err(error) = reload(&gateway.scripts, &gateway.metadata, false).await {
            tracing::error!(%error, "plugins cannot be looked at");
        }
    }
}

/// Looks at the plugins again, off the reactor, and tells what changed.
///
/// # Errors
/// When a directory cannot be read, in words.
pub async fn reload(
    scripts: &Arc<Scripts>,
    metadata: &Metadata,
    dry_run: bool,
) -> Result<Vec<Reloaded>, String> {
    let own = Arc::clone(scripts);
    let broken = broken(scripts);
    // Compiling and testing take long; running requests and hooks are not waited for.
    let reloaded = tokio::task::spawn_blocking(move || own.reload(dry_run)).await;
    let reports = reloaded
        .map_err(|e| e.to_string())?
        .map_err(|e| boxgate_storage::error::chain(&e))?;
    if !dry_run {
        tell(&reports);
        emit(scripts, metadata, &broken, &reports).await;
    }
    Ok(reports)
}

/// The plugins that do not work as they stand.
fn broken(scripts: &Scripts) -> BTreeSet<String> {
    let status = scripts.status().into_iter();
    status
        .filter(|status| matches!(status.state, State::Stale | State::Failed))
        .map(|status| status.plugin)
        .collect()
}

/// Emits `script.reload_failed` and `script.recovered`.
async fn emit(
    scripts: &Scripts,
    metadata: &Metadata,
    broken: &BTreeSet<String>,
    reports: &[Reloaded],
) {
    for report in reports {
        let plugin = report.plugin.as_str();
        let (name, data) = match report.result {
            "failed" => {
                let first = report.findings.iter().find(|f| f.fatal);
                let data = json!({
                    "plugin": plugin, "error": first.map_or("", |f| f.message.as_str()),
                    "file": first.map(|f| f.file.as_str()), "line": first.map(|f| f.line),
                });
                ("script.reload_failed", data)
            }
            "loaded" if broken.contains(plugin) => {
                let status = scripts.status();
                let own = status.iter().find(|status| status.plugin == plugin);
                let generation = own.map_or(0, |status| status.generation);
                let data = json!({ "plugin": plugin, "generation": generation });
                ("script.recovered", data)
            }
            _ => continue,
        };
        if let Err(error) = metadata.tell(name, data).await {
            let error = boxgate_storage::error::chain(&error);
            tracing::warn!(plugin, error, "nobody is told how a plugin stands");
        }
    }
}

/// Writes what became of each plugin that changed.
fn tell(reports: &[Reloaded]) {
    for report in reports {
        let (plugin, hash) = (&report.plugin, report.hash.as_deref().unwrap_or_default());
        match report.result {
            "unchanged" => {}
            "failed" => {
                let errors = report.findings.iter().filter(|f| f.fatal);
                let errors: Vec<String> = errors.map(ToString::to_string).collect();
                let error = errors.join("\n");
                tracing::error!(
                    plugin,
                    in_force = hash,
                    error,
                    "a plugin does not work as it stands"
                );
            }
            result => tracing::info!(plugin, hash, result, "a plugin changed"),
        }
    }
}
