//! `boxgate serve`.

use std::sync::Arc;

use tokio_util::task::AbortOnDropHandle;

use super::{Failure, ServeArgs, read_config, runtime, say};
use crate::app::{App, StartError};
use crate::config::{Flags, Settings};
use crate::life::hand_over::{self, Predecessor, Program, Wanted};
use crate::life::{self, notify, reload};
use crate::server::Sockets;
use crate::sys::inherited;
use crate::telemetry::log::LogLevel;
use crate::telemetry::{self, LogGuard, Telemetry};

pub(super) fn serve(args: &ServeArgs) -> Result<(), Failure> {
    let (settings, process) = open(args)?;
    let place = Beginning::of(args, &settings)?;
    runtime()?.block_on(async {
        let (app, place) = Box::pin(start(settings, &process, place)).await?;
        let urls = app.urls();
        app.recover().await.map_err(|e| start_failed(&e))?;
        for url in urls {
            say(&format!(
                "boxgate {} listens on {url}",
                env!("CARGO_PKG_VERSION")
            ));
        }
        Box::pin(serve_until_signalled(app, &process, place)).await
    })
}

/// This process: how it was called and what it logs; what waits in the log is written when this is dropped.
pub(super) struct Process {
    telemetry: Arc<Telemetry>,
    level: LogLevel,
    flags: Flags,
    program: Program,
    _guard: LogGuard,
}

/// Where a process begins: at sockets that listen already, or in the place of another one.
pub(super) struct Beginning {
    sockets: Sockets,
    predecessor: Option<Predecessor>,
}

/// Whom a process follows, and when another shall follow it.
pub(super) struct Place {
    predecessor: Option<Predecessor>,
    wanted: Wanted,
}

/// Reads the configuration and starts the log, which then tells what is odd in it.
pub(super) fn open(args: &ServeArgs) -> Result<(Settings, Process), Failure> {
    let flags = args.flags();
    let (settings, warnings) = read_config(&flags)?;
    let (sink, level, guard) = telemetry::log::start(&settings.log)
        .map_err(|e| Failure::Usage(format!("cannot write the log (log.file): {e}")))?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    if !settings.server.core_dumps {
        life::forbid_cores();
    }
    let process = Process {
        telemetry: Telemetry::new(sink),
        level,
        flags,
        program: Program::of_this_process().map_err(|e| Failure::failed(&e))?,
        _guard: guard,
    };
    Ok((settings, process))
}

impl Beginning {
    /// Waits until the process has gone in whose place this one comes, if there is one. Nothing of the data directory may
    /// be touched before.
    pub(super) fn of(args: &ServeArgs, settings: &Settings) -> Result<Self, Failure> {
        let inherited = inherited::sockets()
            .map_err(|e| Failure::Usage(format!("the sockets of systemd (LISTEN_FDS): {e}")))?;
        if !args.take_over {
            return Ok(Self {
                sockets: Sockets::new(inherited),
                predecessor: None,
            });
        }
        let nobody = |e: std::io::Error| {
            let flag = hand_over::FLAG;
            Failure::Usage(format!(
                "{flag} is given by a gateway that gets SIGUSR2, and by nobody else: {e}"
            ))
        };
        let (mut predecessor, sockets) = Predecessor::meet().map_err(nobody)?;
        App::rehearse(settings).map_err(|e| start_failed(&e))?;
        tracing::info!("prepared to take over");
        predecessor.relieve().map_err(nobody)?;
        Ok(Self {
            sockets,
            predecessor: Some(predecessor),
        })
    }
}

/// Serves until SIGTERM or SIGINT, then drains; or until another process serves in the place of this one.
pub(super) async fn serve_until_signalled(
    mut app: App,
    process: &Process,
    place: Place,
) -> Result<(), Failure> {
    let drain = app.drain();
    let Place {
        predecessor,
        wanted,
    } = place;
    let (program, ports) = (process.program.clone(), app.take_ports());
    let succession = hand_over::succession(wanted, program, ports, drain.clone());
    let succession = tokio::spawn(succession);
    let signals = tokio::spawn(drain.clone().on_signals());
    let gateway = Arc::clone(app.gateway());
    let watching = AbortOnDropHandle::new(tokio::spawn(notify::watch(gateway.metadata.clone())));
    let (flags, level) = (process.flags.clone(), process.level.clone());
    let _reloading = AbortOnDropHandle::new(tokio::spawn(reload::follow(gateway, flags, level)));
    let (begun, handing_over) = (drain.begun(), drain.handing_over());
    let _stopping = AbortOnDropHandle::new(tokio::spawn(async move {
        begun.cancelled().await;
        if !handing_over.is_cancelled() {
            notify::stopping();
        }
    }));
    if let Some(predecessor) = predecessor {
        predecessor.serving();
    }
    notify::ready();
    let remains = Box::pin(app.run()).await;
    let succeeded = if drain.handing_over().is_cancelled() {
        let succeed = async {
            let successor = succession.await.map_err(std::io::Error::other)?;
            let succeeded = successor.succeed(drain.clone()).await;
            // Whoever is in charge from here on has a watchdog of its own.
            drop(watching);
            succeeded
        };
        tokio::join!(succeed, remains.finish()).0
    } else {
        succession.abort();
        remains.finish().await;
        Ok(())
    };
    match signals.await {
        Ok(Err(e)) => Err(Failure::failed(&e)),
        Ok(Ok(())) | Err(_) => succeeded.map_err(|e| Failure::failed(&e)),
    }
}

/// Puts the gateway together.
pub(super) async fn start(
    settings: Settings,
    process: &Process,
    beginning: Beginning,
) -> Result<(App, Place), Failure> {
    // Before anybody can know that this process is there.
    let wanted = Wanted::hear().map_err(|e| Failure::failed(&e))?;
    let ceiling = settings.ceiling();
    tracing::info!(
        memory_ceiling_bytes = ceiling.total(),
        memory_ceiling = %ceiling,
        data_dir = %settings.data_dir.display(),
        "starting"
    );
    let telemetry = Arc::clone(&process.telemetry);
    let started = App::start_with(beginning.sockets, settings, telemetry).await;
    let app = started.map_err(|e| start_failed(&e))?;
    let place = Place {
        predecessor: beginning.predecessor,
        wanted,
    };
    Ok((app, place))
}

pub(super) fn start_failed(error: &StartError) -> Failure {
    Failure::failed(error)
}
