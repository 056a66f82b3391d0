//! Plugins that are called by the clock (`on_schedule`), each moment once for all nodes of a database.
//!
//! A row keeps up to when a plugin's schedule is done, and a claim that runs out by itself says which node does it. A
//! moment that comes while the one before is still under way is left out; of those that were missed, while no node
//! ran, the last is made up for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use boxgate_scripting::facts::Tick;
use boxgate_scripting::schedule::Schedule;
use boxgate_storage::Result;
use boxgate_storage::clock::UnixMillis;
use boxgate_storage::error::chain;
use boxgate_storage::metadata::upkeep::UpkeepRow;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use crate::gateway::Gateway;
use crate::upkeep::background::claimed;

/// Schedules are looked at so often: they may change with a reload.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After a failure of the rows.
const LATER: Duration = Duration::from_secs(30);

/// Calls what is due until the gateway drains.
pub async fn run(gateway: Arc<Gateway>) {
    let ending = gateway.upkeep.ending();
    let under_way = TaskTracker::new();
    let mut plugins: HashMap<String, Known> = HashMap::new();
    while !ending.is_cancelled() {
        let schedules = gateway.scripts.schedules();
        plugins.retain(|plugin, _| schedules.iter().any(|(known, _)| known == plugin));
        for (plugin, schedule) in schedules {
            let known = plugins
                .entry(plugin.clone())
                .or_insert_with(|| Known::new(&schedule));
            known.keep_up(&schedule);
            if known.busy() || known.next.is_some_and(|next| next > gateway.clock.now()) {
                continue;
            }
            let (gateway, ending) = (Arc::clone(&gateway), ending.clone());
            known.task = Some(under_way.spawn(async move {
                tokio::select! {
                    () = ending.cancelled() => None,
                    looked = look(&gateway, &plugin, &schedule) => Some(looked),
                }
            }));
        }
        for known in plugins.values_mut() {
            known.look_back(&gateway).await;
        }
        tokio::select! {
            () = ending.cancelled() => {}
            () = sleep(LOOK_EVERY) => {}
        }
    }
    under_way.close();
    under_way.wait().await;
    for plugin in plugins.keys() {
        // What was cut off is anybody's.
        let owner = gateway.upkeep.owner();
        if let Err(error) = gateway.metadata.unclaim(&row_of(plugin), owner).await {
            tracing::warn!(
                plugin,
                error = chain(&error),
                "a schedule stays claimed for a while"
            );
        }
    }
}

/// What this process knows of a plugin's schedule.
#[derive(Debug)]
struct Known {
    text: String,
    /// Nothing is due before; unknown at first.
    next: Option<UnixMillis>,
    task: Option<tokio::task::JoinHandle<Option<UnixMillis>>>,
}

impl Known {
    fn new(schedule: &Schedule) -> Self {
        Self {
            text: schedule.text().to_owned(),
            next: None,
            task: None,
        }
    }

    /// A reload may have brought another schedule.
    fn keep_up(&mut self, schedule: &Schedule) {
        if self.text != schedule.text() {
            self.next = None;
            schedule.text().clone_into(&mut self.text);
        }
    }

    fn busy(&self) -> bool {
        self.task.as_ref().is_some_and(|task| !task.is_finished())
    }

    /// Takes over what a look that ended found out.
    async fn look_back(&mut self, gateway: &Gateway) {
        if self.busy() {
            return;
        }
        let Some(task) = self.task.take() else { return };
        self.next = match task.await {
            Ok(next) => next,
            Err(panicked) => {
                tracing::error!(error = %panicked, "a schedule broke");
                Some(gateway.clock.now().plus(LATER))
            }
        };
    }
}

fn row_of(plugin: &str) -> String {
    format!("schedule {plugin}")
}

/// Calls the plugin if that is due; from when on it is worth looking again.
async fn look(gateway: &Gateway, plugin: &str, schedule: &Schedule) -> UnixMillis {
    match call(gateway, plugin, schedule).await {
        Ok(next) => next,
        Err(error) => {
            tracing::warn!(plugin, error = chain(&error), "a schedule waits");
            gateway.clock.now().plus(LATER)
        }
    }
}

async fn call(gateway: &Gateway, plugin: &str, schedule: &Schedule) -> Result<UnixMillis> {
    let (metadata, row) = (&gateway.metadata, row_of(plugin));
    let Some(done) = metadata.upkeep(&row).await? else {
        // Its first sight: what lies before is no tick of it.
        let now = gateway.clock.now();
        keep(gateway, &row, now).await?;
        return Ok(next(schedule, now));
    };
    let due = next(schedule, done.ended);
    if due > gateway.clock.now() {
        return Ok(due);
    }
    let work = async {
        // Another node may have been here before the claim was ours.
        let done = metadata.upkeep(&row).await?;
        let done = done.map_or(UnixMillis(0), |row| row.ended);
        if let Some(due) = schedule.last(done.0, gateway.clock.now().0) {
            let tick = Arc::new(Tick { time_ms: due });
            tracing::debug!(plugin, due, "a schedule is due");
            if let Err(error) = gateway.scripts.on_schedule(plugin, &tick).await {
                tracing::warn!(plugin, %error, "a tick of a schedule failed");
            }
            // What came due meanwhile is left out.
            keep(gateway, &row, gateway.clock.now()).await?;
        }
        Ok(())
    };
    claimed(gateway, &row, work).await?;
    // Where another node is at it, its end is looked for again soon.
    let done = metadata.upkeep(&row).await?;
    let done = done.map_or(UnixMillis(0), |row| row.ended);
    Ok(next(schedule, done))
}

fn next(schedule: &Schedule, after: UnixMillis) -> UnixMillis {
    schedule
        .next(after.0)
        .map_or(UnixMillis(i64::MAX), UnixMillis)
}

async fn keep(gateway: &Gateway, row: &str, ended: UnixMillis) -> Result<()> {
    let state = None;
    gateway
        .metadata
        .keep_upkeep(row, UpkeepRow { ended, state })
        .await
}
