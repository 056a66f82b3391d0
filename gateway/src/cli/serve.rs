//! `boxgate serve`.

use std::sync::Arc;

use super::{Failure, ServeArgs, read_config, runtime, say};
use crate::app::{App, StartError};
use crate::config::Settings;
use crate::telemetry::{self, LogGuard, Telemetry};

pub(super) fn serve(args: &ServeArgs) -> Result<(), Failure> {
    let (settings, log) = open(args)?;
    runtime()?.block_on(async {
        let app = Box::pin(start(settings, &log)).await?;
        let urls = app.urls();
        app.recover().await.map_err(|e| start_failed(&e))?;
        for url in urls {
            say(&format!(
                "boxgate {} listens on {url}",
                env!("CARGO_PKG_VERSION")
            ));
        }
        serve_until_signalled(app).await
    })
}

/// The process's log; what waits in it is written when it is dropped.
pub(super) struct Log {
    telemetry: Arc<Telemetry>,
    _guard: LogGuard,
}

/// Reads the configuration and starts the log, which then tells what is odd in it.
pub(super) fn open(args: &ServeArgs) -> Result<(Settings, Log), Failure> {
    let (settings, warnings) = read_config(&args.flags())?;
    let (sink, guard) = telemetry::log::start(&settings.log)
        .map_err(|e| Failure::Usage(format!("cannot write the log (log.file): {e}")))?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let log = Log {
        telemetry: Telemetry::new(sink),
        _guard: guard,
    };
    Ok((settings, log))
}

/// Serves until SIGTERM or SIGINT, then drains.
pub(super) async fn serve_until_signalled(app: App) -> Result<(), Failure> {
    let signals = tokio::spawn(app.drain().on_signals());
    app.serve().await;
    match signals.await {
        Ok(Err(e)) => Err(Failure::failed(&e)),
        Ok(Ok(())) | Err(_) => Ok(()),
    }
}

/// Puts the gateway together.
pub(super) async fn start(settings: Settings, log: &Log) -> Result<App, Failure> {
    let ceiling = settings.ceiling();
    tracing::info!(
        memory_ceiling_bytes = ceiling.total(),
        memory_ceiling = %ceiling,
        data_dir = %settings.data_dir.display(),
        "starting"
    );
    App::start(settings, Arc::clone(&log.telemetry))
        .await
        .map_err(|e| start_failed(&e))
}

pub(super) fn start_failed(error: &StartError) -> Failure {
    Failure::failed(error)
}
