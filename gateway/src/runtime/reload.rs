//! Telling a runtime that it has a new image: after the answer to whoever deployed it, one time for all that came
//! meanwhile.

use std::io::{self, Read as _, Seek as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use boxgate_scripting::facts::Event;
use boxgate_storage::digest::Blake3;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::image::done;
use super::push::MOST_HOPS;
use super::{Deployed, ReloadState, Runtime, push};
use crate::config::runtime::Reload;
use crate::gateway::Gateway;
use crate::hooks;
use crate::telemetry::trace;

/// So much of what a command wrote is kept for people.
const TOLD_BYTES: u64 = 300;
/// A command that runs is looked at so often.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Tells a runtime of its images until no more can come.
pub(super) async fn run(gateway: Arc<Gateway>, runtime: Arc<Runtime>) {
    // What the runtime took last.
    let mut taken = None;
    loop {
        tokio::select! {
            biased;
            () = runtime.waiting.notified() => {}
            () = gateway.runtimes.over.cancelled() => return,
        }
        // The newest: those before it are nobody's any more.
        let deployed = runtime.standing().deployed.clone();
        let Some(deployed) = deployed else { continue };
        let state = if let Some(why) = skipped(&runtime.settings.reload, &deployed, taken) {
            tracing::info!(
                runtime = runtime.name,
                deploy = deployed.id,
                hops = deployed.hops,
                why,
                "an image is pushed no further"
            );
            proved(&runtime, &deployed).await;
            ReloadState::Skipped(why)
        } else {
            let telling = told(&gateway, &runtime, &deployed);
            match trace::within(deployed.trace.as_deref(), telling).await {
                Ok(()) => {
                    proved(&runtime, &deployed).await;
                    taken = Some(deployed.blake3);
                    ReloadState::Ok
                }
                Err(why) => {
                    taken = None;
                    failed(&gateway, &runtime, &deployed, why).await
                }
            }
        };
        let outcome = [runtime.name.as_str(), state.word()];
        runtime.metrics.reloads.with_label_values(&outcome).inc();
        let mut standing = runtime.standing();
        // One that came meanwhile has its own turn.
        if standing
            .deployed
            .as_ref()
            .is_some_and(|last| last.id == deployed.id)
        {
            standing.reload = state;
        }
    }
}

/// Why an image that a gateway pushed here is not pushed on: gateways that push to each other would not end.
fn skipped(reload: &Reload, deployed: &Deployed, taken: Option<Blake3>) -> Option<String> {
    if deployed.hops == 0 || !matches!(reload, Reload::Push(_)) {
        return None;
    }
    if deployed.is_known || taken == Some(deployed.blake3) {
        return Some("the runtime has this image already".to_owned());
    }
    (deployed.hops >= MOST_HOPS).then(|| {
        format!(
            "the image came through {} gateways: do they push to each other in a circle?",
            deployed.hops
        )
    })
}

/// The image stays, where no other came meanwhile.
async fn proved(runtime: &Arc<Runtime>, deployed: &Deployed) {
    let _alone = runtime.swap.lock().await;
    let last = runtime.standing().deployed.clone();
    if last.is_some_and(|last| last.id != deployed.id) {
        return;
    }
    let proving = Arc::clone(runtime);
    if let Err(e) = done(spawn_blocking(move || proving.image.proved()).await) {
        tracing::warn!(runtime = runtime.name, error = %e, "the image before stays");
    }
}

/// What is done where a runtime did not take its image.
async fn failed(
    gateway: &Gateway,
    runtime: &Arc<Runtime>,
    deployed: &Deployed,
    why: String,
) -> ReloadState {
    tracing::error!(
        runtime = runtime.name,
        deploy = deployed.id,
        error = why,
        "a runtime did not take its image"
    );
    let told_of = runtime.told(deployed, "failed", Some(&why));
    runtime
        .tell(&gateway.metadata, "image.reload_failed", told_of)
        .await;
    if !runtime.settings.rollback {
        return ReloadState::Failed(why);
    }
    match put_back(runtime, deployed).await {
        Ok(true) => {
            tracing::warn!(
                runtime = runtime.name,
                deploy = deployed.id,
                "the image before is back in place"
            );
            // Once; whatever comes of it, there is nothing else to go back to.
            if let Err(again) = told(gateway, runtime, deployed).await {
                tracing::error!(
                    runtime = runtime.name,
                    error = again,
                    "a runtime did not take the image before"
                );
                return ReloadState::RolledBack(format!("{why}; with the image before: {again}"));
            }
            ReloadState::RolledBack(why)
        }
        Ok(false) => ReloadState::Failed(why),
        Err(e) => {
            tracing::error!(runtime = runtime.name, error = %e, "the image before is not back in place");
            ReloadState::Failed(why)
        }
    }
}

/// Puts the image before back; not where another came meanwhile.
async fn put_back(runtime: &Arc<Runtime>, deployed: &Deployed) -> std::io::Result<bool> {
    let _alone = runtime.swap.lock().await;
    let last = runtime.standing().deployed.clone();
    if last.is_some_and(|last| last.id != deployed.id) {
        return Ok(false);
    }
    let runtime = Arc::clone(runtime);
    done(spawn_blocking(move || runtime.image.put_back()).await)
}

async fn told(gateway: &Gateway, runtime: &Runtime, deployed: &Deployed) -> Result<(), String> {
    match &runtime.settings.reload {
        Reload::None => Ok(()),
        Reload::Command(line, time) => command(gateway, runtime, deployed, line, *time).await,
        Reload::Script => script(gateway, runtime, deployed).await,
        Reload::Push(target) => {
            let image = runtime.snapshot(&gateway.metadata).await?;
            push::push(&runtime.caller, target, image, deployed.hops, gateway).await
        }
    }
}

/// As for a command: what plugins are told is the image in place.
async fn script(gateway: &Gateway, runtime: &Runtime, deployed: &Deployed) -> Result<(), String> {
    let image = runtime.snapshot(&gateway.metadata).await?;
    let in_place = Deployed {
        length: image.length(),
        blake3: image.blake3(),
        ..deployed.clone()
    };
    let mut data = runtime.told(&in_place, "staged", None);
    data["path"] = runtime.image.place().into();
    let event = Event {
        name: "image.deployed".into(),
        data,
        id: deployed.id.as_str().into(),
        time_ms: deployed.at.0,
        ..Event::default()
    };
    hooks::on_image_deployed(gateway, event).await
}

async fn command(
    gateway: &Gateway,
    runtime: &Runtime,
    deployed: &Deployed,
    line: &[String],
    time: Duration,
) -> Result<(), String> {
    let Some((program, arguments)) = line.split_first() else {
        return Err("there is no command".to_owned());
    };
    // What it is told is the image in place: after a step back that is another than was deployed.
    let image = runtime.snapshot(&gateway.metadata).await?;
    let mut running = Command::new(program);
    running
        .args(arguments)
        .env_remove("BOXGATE_IMAGE_PATH")
        .env("BOXGATE_IMAGE_BLAKE3", image.blake3().to_hex())
        .env("BOXGATE_IMAGE_SIZE", image.length().to_string())
        .env("BOXGATE_DEPLOY_ID", &deployed.id)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        // All that it starts ends with it.
        .process_group(0);
    if let Some(file) = runtime.image.file() {
        running.env("BOXGATE_IMAGE_PATH", file.path());
    }
    // Our own settings hold keys.
    for name in variables().filter(|name| {
        name.starts_with("BOXGATE_")
            && !name.starts_with("BOXGATE_IMAGE_")
            && name != "BOXGATE_DEPLOY_ID"
            || name.starts_with("SANBOX_")
    }) {
        running.env_remove(name);
    }
    let ended = run_within(running, time).await;
    let (status, said) = ended.map_err(|e| format!("{program} cannot be run: {e}"))?;
    match status {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(format!("{program}: {status} {said}")),
        None => Err(format!("{program} did not end within {time:?} {said}")),
    }
}

fn variables() -> impl Iterator<Item = String> {
    std::env::vars_os().filter_map(|(name, _)| name.into_string().ok())
}

/// Runs a command for so long at most; how it ended, `None` where it had to be killed, and how what it complained of
/// begins.
async fn run_within(
    mut command: Command,
    time: Duration,
) -> io::Result<(Option<ExitStatus>, String)> {
    let begun = spawn_blocking(move || {
        let complaints = tempfile::tempfile()?;
        let child = command.stderr(complaints.try_clone()?).spawn()?;
        Ok((Running(child), complaints))
    });
    let (mut running, mut complaints) = done(begun.await)?;
    let until = Instant::now() + time;
    let mut killed = false;
    let status = loop {
        if let Some(status) = running.0.try_wait()? {
            break status;
        }
        if Instant::now() >= until && !killed {
            running.kill();
            killed = true;
        }
        sleep(LOOK_EVERY).await;
    };
    let mut said = Vec::new();
    complaints.rewind()?;
    complaints.take(TOLD_BYTES).read_to_end(&mut said)?;
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    Ok(((!killed).then_some(status), said))
}

/// A command with all that it starts: none of it outlives whoever waits.
struct Running(Child);

impl Running {
    fn kill(&self) {
        let group = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        if let Some(group) = group {
            // Whoever is left of it.
            let _gone = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use boxgate_storage::clock::UnixMillis;

    use super::*;
    use crate::config::Secret;

    #[test]
    fn what_a_gateway_pushed_is_pushed_on_while_it_is_new_and_not_in_a_circle() {
        let target = push::Target::parse("https://a.example", Secret::new("k")).unwrap();
        let by_push = Reload::Push(target);
        let (ours, other) = (Blake3([1; 32]), Blake3([2; 32]));
        let deployed = |hops, is_known| Deployed {
            id: String::new(),
            length: 1,
            blake3: ours,
            at: UnixMillis(0),
            hops,
            is_known,
            trace: None,
        };
        let skips = |hops, is_known, taken| skipped(&by_push, &deployed(hops, is_known), taken);
        assert_eq!(skips(0, true, Some(ours)), None, "somebody deploys it");
        assert_eq!(skips(1, false, None), None);
        assert_eq!(skips(MOST_HOPS - 1, false, Some(other)), None);
        for (hops, is_known, taken) in [(1, true, None), (1, false, Some(ours))] {
            let why = skips(hops, is_known, taken).unwrap();
            assert!(why.contains("already"), "{why}");
        }
        for hops in [MOST_HOPS, u32::MAX] {
            let why = skips(hops, false, Some(other)).unwrap();
            assert!(why.contains("circle"), "{why}");
        }
        let by_others = skipped(&Reload::Script, &deployed(9, true), Some(ours));
        assert_eq!(by_others, None);
    }
}
