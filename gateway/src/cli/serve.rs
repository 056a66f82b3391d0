//! `boxgate serve`.

use std::sync::Arc;

use super::{Failure, ServeArgs, load, runtime, say};
use crate::app::{App, StartError};
use crate::config::Settings;
use crate::telemetry::Telemetry;

pub(super) fn serve(args: ServeArgs) -> Result<(), Failure> {
    let settings = load(&args.config, args.listen.as_deref())?;
    runtime()?.block_on(async {
        let app = start(settings).await?;
        let addresses = app.addresses().to_vec();
        app.recover().await.map_err(|e| start_failed(&e))?;
        for address in addresses {
            say(&format!("boxgate {} listens on http://{address}", env!("CARGO_PKG_VERSION")));
        }
        app.serve().await;
        Ok(())
    })
}

/// Starts logging and puts the gateway together.
pub(super) async fn start(settings: Settings) -> Result<App, Failure> {
    let telemetry = Telemetry::start(&settings.log)
        .map_err(|e| Failure::Usage(format!("cannot write the log (log.file): {e}")))?;
    tracing::info!(
        memory_ceiling_bytes = settings.ceiling().total(),
        data_dir = %settings.data_dir.display(),
        "starting"
    );
    App::start(settings, Arc::new(telemetry)).await.map_err(|e| start_failed(&e))
}

pub(super) fn start_failed(error: &StartError) -> Failure {
    Failure::failed(error)
}
