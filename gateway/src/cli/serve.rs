//! `boxgate serve`.

use std::sync::Arc;

use tokio_util::task::AbortOnDropHandle;

use super::{Failure, ServeArgs, runtime, say};
use crate::app::{App, StartError};
use crate::config::{self, Flags, Settings};
use crate::life::hand_over::{self, Predecessor, Program, Wanted};
use crate::life::reload::{self, Changed, InForce};
use crate::life::{self, notify};
use crate::server::Sockets;
use crate::sys::inherited;
use crate::telemetry::log::LogLevel;
use crate::telemetry::{self, LogGuard, Telemetry};

pub(super) fn serve(args: &ServeArgs) -> Result<(), Failure> {
    let (settings, process, place) = open(args)?;
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
    in_force: InForce,
    _guard: LogGuard,
}

/// Where a process begins: at sockets that listen already, or in the place of another one.
pub(super) struct Beginning {
    sockets: Sockets,
    predecessor: Option<Predecessor>,
    /// In place of what the file says.
    configuration: Option<String>,
}

/// Whom a process follows, and when another shall follow it.
pub(super) struct Place {
    predecessor: Option<Predecessor>,
    wanted: Wanted,
    changed: Changed,
}

impl Place {
    /// Whether it comes in the place of another process.
    pub(super) fn follows(&self) -> bool {
        self.predecessor.is_some()
    }
}

/// Reads the configuration and starts the log, which then tells what is odd in it; waits until the process has gone in whose
/// place this one comes, if there is one. Nothing of the data directory may be written before.
pub(super) fn open(args: &ServeArgs) -> Result<(Settings, Process, Beginning), Failure> {
    let mut beginning = Beginning::of(args)?;
    let text = beginning.configuration.take();
    let opened = read(args, text.as_deref()).and_then(|(settings, process)| {
        beginning.rehearse(&settings)?;
        Ok((settings, process))
    });
    match opened {
        Ok((settings, process)) => Ok((settings, process, beginning)),
        Err(failure) => {
            if let Some(predecessor) = beginning.predecessor {
                predecessor.refuse(failure.text());
            }
            Err(failure)
        }
    }
}

fn read(args: &ServeArgs, text: Option<&str>) -> Result<(Settings, Process), Failure> {
    let flags = args.flags();
    let (settings, warnings, text) = config::load_text(&flags, text)
        .map_err(|errors| Failure::Usage(format!("configuration:\n{errors}")))?;
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
        in_force: InForce::new(text),
        _guard: guard,
    };
    Ok((settings, process))
}

impl Beginning {
    fn of(args: &ServeArgs) -> Result<Self, Failure> {
        let inherited = inherited::sockets()
            .map_err(|e| Failure::Usage(format!("the sockets of systemd (LISTEN_FDS): {e}")))?;
        if !args.take_over {
            return Ok(Self {
                sockets: Sockets::new(inherited),
                predecessor: None,
                configuration: None,
            });
        }
        let (predecessor, sockets, configuration) = Predecessor::meet().map_err(|e| nobody(&e))?;
        Ok(Self {
            sockets,
            predecessor: Some(predecessor),
            configuration,
        })
    }

    /// Finds out whether this process can come in another one's place, and says so; returns once it may. Nothing where it comes in
    /// nobody's place.
    fn rehearse(&mut self, settings: &Settings) -> Result<(), Failure> {
        let Some(predecessor) = &mut self.predecessor else {
            return Ok(());
        };
        let sockets = std::mem::take(&mut self.sockets);
        self.sockets = App::rehearse(sockets, settings).map_err(|e| start_failed(&e))?;
        tracing::info!("prepared to take over");
        predecessor.relieve().map_err(|e| nobody(&e))
    }
}

fn nobody(error: &std::io::Error) -> Failure {
    let flag = hand_over::FLAG;
    Failure::Usage(format!(
        "{flag} is given by a gateway that gets SIGUSR2, and by nobody else: {error}"
    ))
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
        changed,
    } = place;
    let (program, ports) = (process.program.clone(), app.take_ports());
    let succession = hand_over::succession(wanted, program, ports, drain.clone());
    let succession = tokio::spawn(succession);
    let signals = tokio::spawn(drain.clone().on_signals());
    let gateway = Arc::clone(app.gateway());
    let watching = notify::watch(gateway.metadata.clone(), drain.handing_over());
    let watching = AbortOnDropHandle::new(tokio::spawn(watching));
    let (flags, level) = (process.flags.clone(), process.level.clone());
    let in_force = process.in_force.clone();
    let following = reload::follow(changed, gateway, flags, (level, in_force.clone()));
    let _reloading = AbortOnDropHandle::new(tokio::spawn(following));
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
            let succeeded = successor.succeed(drain.clone(), in_force).await;
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
    // It ends by itself only where signals cannot be caught.
    if signals.is_finished() {
        if let Ok(Err(e)) = signals.await {
            return Err(Failure::failed(&e));
        }
    } else {
        signals.abort();
    }
    succeeded.map_err(|e| Failure::failed(&e))
}

/// Puts the gateway together.
pub(super) async fn start(
    settings: Settings,
    process: &Process,
    beginning: Beginning,
) -> Result<(App, Place), Failure> {
    // Before anybody can know that this process is there.
    let wanted = Wanted::hear().map_err(|e| Failure::failed(&e))?;
    let changed = Changed::hear().map_err(|e| Failure::failed(&e))?;
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
        changed,
    };
    Ok((app, place))
}

pub(super) fn start_failed(error: &StartError) -> Failure {
    Failure::failed(error)
}
