//! Sending what is kept for endpoints: each endpoint by one node at a time, all of them in turns, so that none takes the
//! room of the others.
//!
//! What is sent is written down behind it, for many at once: a node that is killed in between sends it once more, under
//! the same id.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use boxgate_storage::Result;
use boxgate_storage::error::chain;
use boxgate_storage::metadata::webhooks::Due;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::attempt::{self, Message, Report};
use super::lane::{Lane, Page};
use super::terms;
use crate::gateway::Gateway;

/// How long a node may send for an endpoint unless it says so again, and what must be left of that.
const LEASE: (Duration, Duration) = (Duration::from_mins(1), Duration::from_secs(40));
/// How often it is looked whether there is an endpoint to send for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After a failure of the rows.
const LATER: Duration = Duration::from_secs(5);
/// Endpoints for which it is written down at once what was sent.
const WRITES: usize = 2;
/// Bytes of bodies that are read ahead for all endpoints: a page of one may be read beyond it, then a few for each.
const AHEAD_BYTES: usize = 16 << 20;
const A_FEW: usize = 4;
/// Deliveries of all endpoints whose end is not written yet, at most.
const UNWRITTEN: usize = 8 << 10;
/// What all of that takes in memory at most, beside requests that are on their way: bodies, a page of the longest ones,
/// and what is to be written of attempts.
pub const WAITING_BYTES: u64 = 32 << 20;
/// How long a stop waits for what is on its way, and for what is to be written.
const GRACE: Duration = Duration::from_secs(3);

/// Sends until the gateway drains.
pub async fn run(gateway: Arc<Gateway>) {
    let ending = gateway.upkeep.ending();
    let news = Arc::clone(&gateway.outlet.news);
    let mut desk = Desk::new(gateway);
    while !ending.is_cancelled() {
        let wake = match desk.turn().await {
            Ok(()) => desk.wakes(),
            Err(error) => {
                tracing::warn!(error = chain(&error), "webhooks wait to be sent");
                Instant::now() + LATER
            }
        };
        let woken = tokio::select! {
            () = ending.cancelled() => Woken::Nothing,
            () = news.notified() => Woken::News,
            Some(done) = desk.attempts.join_next_with_id() => Woken::Ended(done),
            Some(done) = desk.writes.join_next() => Woken::Written(done),
            () = sleep_until(wake) => Woken::Nothing,
        };
        desk.take(woken);
    }
    desk.close().await;
}

enum Woken {
    Nothing,
    News,
    Ended(std::result::Result<(Id, Ended), JoinError>),
    Written(std::result::Result<Written, JoinError>),
}

/// An attempt that ended.
struct Ended {
    endpoint: String,
    due: Due,
    report: Report,
}

/// A page that was written, or was not.
struct Written {
    page: Page,
    good: bool,
}

struct Desk {
    gateway: Arc<Gateway>,
    lanes: BTreeMap<String, Lane>,
    attempts: JoinSet<Ended>,
    /// Which delivery each of them is.
    flights: HashMap<Id, (String, i64)>,
    writes: JoinSet<Written>,
    claim_at: Instant,
    /// Whose turn was last to send, and to be written down.
    last: String,
    wrote: String,
}

impl Desk {
    fn new(gateway: Arc<Gateway>) -> Self {
        Self {
            gateway,
            lanes: BTreeMap::new(),
            attempts: JoinSet::new(),
            flights: HashMap::new(),
            writes: JoinSet::new(),
            claim_at: Instant::now(),
            last: String::new(),
            wrote: String::new(),
        }
    }

    /// Does all that can be done now.
    async fn turn(&mut self) -> Result<()> {
        self.write();
        if self.claim_at <= Instant::now() {
            self.claim_at = Instant::now() + LOOK_EVERY;
            self.claim().await?;
        }
        self.fill().await?;
        self.begin();
        Ok(())
    }

    /// Finds out for which endpoints this node sends.
    async fn claim(&mut self) -> Result<()> {
        let gateway = &self.gateway;
        let claimed = gateway
            .metadata
            .claim_webhooks(gateway.upkeep.owner(), LEASE)
            .await?;
        let (settings, key, now) = (
            &gateway.settings.webhooks,
            &gateway.outlet.key,
            Instant::now(),
        );
        let ours: Vec<String> = claimed.iter().map(|row| row.id.clone()).collect();
        for row in claimed {
            match self.lanes.get_mut(&row.id) {
                Some(lane) => lane.renew(row, settings, key, now),
                None => {
                    self.lanes
                        .insert(row.id.clone(), Lane::new(row, settings, key, now));
                }
            }
        }
        self.lanes
            .retain(|id, lane| ours.contains(id) || !lane.is_quiet());
        Ok(())
    }

    /// Reads what is due where there is room for it.
    async fn fill(&mut self) -> Result<()> {
        let (metadata, clock) = (&self.gateway.metadata, &self.gateway.clock);
        let mut ahead: usize = self.lanes.values().map(Lane::ahead_bytes).sum();
        for (id, lane) in &mut self.lanes {
            let Some((until, limit)) = lane.wants(clock.now(), Instant::now()) else {
                continue;
            };
            // Where much waits in memory, a few of each endpoint are enough.
            let limit = if ahead < AHEAD_BYTES {
                limit
            } else {
                limit.min(A_FEW)
            };
            let found = metadata
                .due_deliveries(id, lane.order(), (until, limit), &lane.held)
                .await?;
            lane.fill(found, limit, Instant::now());
            ahead += lane.ahead_bytes();
        }
        Ok(())
    }

    /// Begins what there is room for: one for each endpoint, then the next, going on where it left off.
    fn begin(&mut self) {
        let most = self.gateway.settings.webhooks.at_once;
        let held: usize = self.lanes.values().map(|lane| lane.held.len()).sum();
        let most = most.min(UNWRITTEN.saturating_sub(held) + self.attempts.len());
        let mut order = in_turns(&self.lanes, &self.last);
        while !order.is_empty() {
            let mut busy = Vec::with_capacity(order.len());
            for id in order {
                if self.attempts.len() >= most {
                    return;
                }
                let (now, at) = (self.gateway.clock.now(), Instant::now());
                let next = self.lanes.get_mut(&id).and_then(|lane| lane.next(now, at));
                if let Some(due) = next {
                    self.send(&id, due);
                    self.last.clone_from(&id);
                    busy.push(id);
                }
            }
            order = busy;
        }
    }

    fn send(&mut self, id: &str, due: Due) {
        let Some(lane) = self.lanes.get(id) else {
            return;
        };
        let gateway = Arc::clone(&self.gateway);
        let (endpoint, aim, time) = (id.to_owned(), lane.aim.clone(), lane.terms.timeout());
        let mut headers = lane.headers.clone();
        let (seq, to) = (due.seq, endpoint.clone());
        let flight = self.attempts.spawn(async move {
            let now = gateway.clock.now();
            let report = match (aim, &due.body) {
                (Err((result, why)), _) => Report::unsent(now, result, why),
                (_, None) => {
                    Report::unsent(now, "forgotten", "its body is not kept any more".to_owned())
                }
                (Ok((to, signer)), Some(body)) => {
                    headers.extend(more_headers(due.headers.as_deref()));
                    let message = Message {
                        id: &due.message,
                        event: &due.event,
                        sequence: due.sequence,
                        number: due.attempts.saturating_add(1),
                        headers,
                        body: body.clone(),
                    };
                    let log_bodies = gateway.settings.webhooks.log_bodies;
                    attempt::send(
                        &gateway.outlet.caller,
                        (&to, &signer),
                        message,
                        (now, time),
                        log_bodies,
                    )
                    .await
                }
            };
            Ended {
                endpoint,
                due,
                report,
            }
        });
        self.flights.insert(flight.id(), (to, seq));
    }

    /// Writes down what ended: for few endpoints at once, in turns, so that whoever else changes rows does not wait.
    fn write(&mut self) {
        for id in in_turns(&self.lanes, &self.wrote) {
            if self.writes.len() >= WRITES {
                return;
            }
            let lane = self.lanes.get_mut(&id);
            let Some(page) = lane.and_then(|lane| lane.page(Instant::now())) else {
                continue;
            };
            self.wrote = id;
            let gateway = Arc::clone(&self.gateway);
            self.writes.spawn(async move {
                let (owner, settled) = (gateway.upkeep.owner(), page.settled.clone());
                let and = (page.lively, page.over.clone());
                let settling =
                    gateway
                        .metadata
                        .settle_deliveries(owner, &page.endpoint, settled, and);
                let done = settling.await;
                if let Err(error) = &done {
                    let error = chain(error);
                    tracing::warn!(
                        endpoint = page.endpoint.id,
                        error,
                        "what was sent is not written down yet"
                    );
                }
                Written {
                    good: done.is_ok(),
                    page,
                }
            });
        }
    }

    fn take(&mut self, woken: Woken) {
        match woken {
            Woken::Nothing => {}
            Woken::News => self.hear(),
            Woken::Ended(done) => self.ended(done),
            Woken::Written(done) => self.written(done),
        }
        while let Some(done) = self.attempts.try_join_next_with_id() {
            self.ended(done);
        }
        while let Some(done) = self.writes.try_join_next() {
            self.written(done);
        }
    }

    fn hear(&mut self) {
        let now = Instant::now();
        self.claim_at = now;
        for lane in self.lanes.values_mut() {
            lane.hear(now);
        }
    }

    fn ended(&mut self, done: std::result::Result<(Id, Ended), JoinError>) {
        let Ended {
            endpoint,
            due,
            report,
        } = match done {
            Ok((id, ended)) => {
                self.flights.remove(&id);
                ended
            }
            Err(error) => {
                tracing::error!(%error, "sending a webhook broke");
                if let Some((endpoint, seq)) = self.flights.remove(&error.id())
                    && let Some(lane) = self.lanes.get_mut(&endpoint)
                {
                    lane.cut(seq);
                }
                return;
            }
        };
        self.gateway.outlet.count(&endpoint, &due.event, &report);
        let now = self.gateway.clock.now();
        let Some(lane) = self.lanes.get_mut(&endpoint) else {
            return;
        };
        tell(&endpoint, &due, &report);
        lane.finish(&due, report, now);
    }

    fn written(&mut self, done: std::result::Result<Written, JoinError>) {
        let Written { page, good } = match done {
            Ok(written) => written,
            Err(error) => {
                tracing::error!(%error, "writing down what was sent broke");
                // They begin anew from the rows, which may send once more.
                return self.lanes.retain(|_, lane| !lane.is_writing());
            }
        };
        if let Some(reason) = page.over.as_ref().filter(|_| good) {
            tracing::error!(
                endpoint = page.endpoint.id,
                reason,
                "an endpoint is disabled, and told nothing until it is enabled"
            );
        }
        let over = page.over.is_some();
        if let Some(lane) = self.lanes.get_mut(&page.endpoint.id) {
            lane.written(page, good, Instant::now());
        }
        if over {
            self.claim_at = Instant::now();
        }
    }

    fn wakes(&self) -> Instant {
        let (now, at) = (self.gateway.clock.now(), Instant::now());
        if self.attempts.len() >= self.gateway.settings.webhooks.at_once {
            return self.claim_at.max(at);
        }
        let lanes = self.lanes.values().map(|lane| lane.wakes(now, at));
        lanes.chain([self.claim_at]).min().unwrap_or(at).max(at)
    }

    /// Lets end what is on its way, for a moment; what is cut is sent once more by whoever is next.
    async fn close(mut self) {
        let grace = sleep(GRACE);
        tokio::pin!(grace);
        loop {
            tokio::select! {
                () = &mut grace => break,
                done = self.attempts.join_next_with_id() => match done {
                    Some(done) => self.ended(done),
                    None => break,
                },
            }
        }
        self.attempts.shutdown().await;
        let written = async {
            loop {
                self.write();
                match self.writes.join_next().await {
                    Some(done) => self.written(done),
                    None => break,
                }
            }
        };
        if timeout(GRACE, written).await.is_err() {
            tracing::warn!("what was sent is not written down, and may be sent once more");
        }
        let owner = self.gateway.upkeep.owner();
        if let Err(error) = self.gateway.metadata.release_webhooks(owner).await {
            tracing::warn!(error = chain(&error), "endpoints stay claimed for a while");
        }
    }
}

/// All endpoints, those behind `last` first.
fn in_turns(lanes: &BTreeMap<String, Lane>, last: &str) -> Vec<String> {
    let (before, after): (Vec<String>, Vec<String>) =
        lanes.keys().cloned().partition(|id| id.as_str() <= last);
    [after, before].concat()
}

/// Header fields of a script, which were checked when they were kept.
fn more_headers(json: Option<&str>) -> http::HeaderMap {
    let given = json.and_then(|text| serde_json::from_str(text).ok());
    given
        .and_then(|given| terms::headers(&given).ok())
        .unwrap_or_default()
}

fn tell(endpoint: &str, due: &Due, report: &Report) {
    let (event, message, attempt) = (&due.event, &due.message, due.attempts.saturating_add(1));
    match &report.error {
        None => tracing::debug!(endpoint, event, message, attempt, "a webhook was taken"),
        Some(error) => tracing::info!(
            endpoint,
            event,
            message,
            attempt,
            error,
            "a webhook was not taken"
        ),
    }
}
