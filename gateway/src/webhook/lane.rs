//! One endpoint, at the node that sends for it: what waits, what is on its way, what is to be written down. No I/O.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use boxgate_storage::clock::UnixMillis;
use boxgate_storage::metadata::webhooks::{Due, Endpoint, Order, Outcome, Settled};
use http::HeaderMap;
use tokio::time::Instant;

use super::attempt::Report;
use super::plan;
use super::secret::Signer;
use super::terms::{self, Terms};
use crate::auth::master_key::MasterKey;
use crate::config::settings;
use crate::outbound::Destination;

/// Deliveries that are read ahead for one endpoint.
pub(super) const AHEAD: usize = 64;
/// Attempts that are written down in one change of the rows: others write between them.
const PAGE: usize = 64;
/// Deliveries whose end is not written yet, at most.
const UNWRITTEN: usize = 1_024;
/// How often the rows are looked at where nothing tells that it is worth it.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After a failure of the rows.
const LATER: Duration = Duration::from_secs(5);
/// What an endpoint that was disabled for not answering is told to have done.
const SILENT: &str = "no success for 5 days";
const GONE: &str = "it answered 410 (gone)";

/// Where to, and by whom it is signed; or why nothing can be sent.
type Aim = Result<(Destination, Signer), (&'static str, String)>;

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) endpoint: Endpoint,
    pub(super) terms: Terms,
    pub(super) headers: HeaderMap,
    pub(super) aim: Aim,
    delays: Vec<Duration>,
    ready: VecDeque<Due>,
    ahead_bytes: usize,
    /// On their way, or with an end that is not written.
    pub(super) held: HashSet<i64>,
    /// Those of them that are on their way.
    flying: HashSet<i64>,
    results: Vec<Settled>,
    /// It took something after a rest: what waits may go at once.
    lively: bool,
    /// Why it is told nothing from now on.
    over: Option<String>,
    writing: bool,
    write_at: Instant,
    look_at: Instant,
    /// The last look may not have seen all.
    more: bool,
    limit: u32,
    pace: Pace,
}

/// What is to be written of an endpoint.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) endpoint: Endpoint,
    pub(super) settled: Vec<Settled>,
    pub(super) lively: bool,
    pub(super) over: Option<String>,
}

impl Lane {
    pub(super) fn new(
        endpoint: Endpoint,
        settings: &settings::Webhooks,
        key: &MasterKey,
        now: Instant,
    ) -> Self {
        let (terms, aim) = read(&endpoint, settings, key);
        Self {
            headers: terms.header_map(),
            delays: terms.delays(&settings.delays),
            limit: terms.max_in_flight,
            pace: Pace::new(terms.rate_per_s, now),
            endpoint,
            terms,
            aim,
            ready: VecDeque::new(),
            ahead_bytes: 0,
            held: HashSet::new(),
            flying: HashSet::new(),
            results: Vec::new(),
            lively: false,
            over: None,
            writing: false,
            write_at: now,
            look_at: now,
            more: false,
        }
    }

    /// Takes over what the row says: all of it where a person changed something, else how long it may be sent for.
    pub(super) fn renew(
        &mut self,
        row: Endpoint,
        settings: &settings::Webhooks,
        key: &MasterKey,
        now: Instant,
    ) {
        if row.revision == self.endpoint.revision {
            self.endpoint.lease = row.lease;
            return;
        }
        let (terms, aim) = read(&row, settings, key);
        self.headers = terms.header_map();
        self.delays = terms.delays(&settings.delays);
        self.limit = terms.max_in_flight;
        self.pace = Pace::new(terms.rate_per_s, now);
        (self.endpoint, self.terms, self.aim) = (row, terms, aim);
        (self.lively, self.over) = (false, None);
        self.clear();
        self.look_at = now;
    }

    pub(super) fn order(&self) -> Order {
        self.terms.ordering.into()
    }

    /// Whether nothing of it is under way.
    pub(super) fn is_quiet(&self) -> bool {
        self.flying.is_empty() && !self.writing && self.results.is_empty()
    }

    /// Whether something of it is just being written down.
    pub(super) fn is_writing(&self) -> bool {
        self.writing
    }

    fn rests(&self, now: UnixMillis) -> bool {
        self.endpoint.health.paused_until > now
    }

    fn has_room(&self) -> bool {
        let most = if plan::is_probed(&self.endpoint.health) {
            // What came of the one before is known first.
            usize::from(self.held.is_empty())
        } else {
            self.limit as usize
        };
        self.over.is_none() && self.flying.len() < most && self.held.len() < UNWRITTEN
    }

    /// Until when, and how many, deliveries are to be read; `None` while there is no use for any.
    pub(super) fn wants(&self, now: UnixMillis, at: Instant) -> Option<(UnixMillis, usize)> {
        let due = self.more || self.look_at <= at;
        if !due || !self.ready.is_empty() || !self.has_room() || self.rests(now) {
            return None;
        }
        if plan::is_probed(&self.endpoint.health) {
            // Whatever waits will do, due or not.
            return Some((UnixMillis(i64::MAX), 1));
        }
        Some((now, AHEAD))
    }

    /// Bytes of bodies that are read ahead.
    pub(super) fn ahead_bytes(&self) -> usize {
        self.ahead_bytes
    }

    fn clear(&mut self) {
        self.ready.clear();
        self.ahead_bytes = 0;
    }

    pub(super) fn fill(&mut self, found: Vec<Due>, asked: usize, at: Instant) {
        self.more = found.len() >= asked && asked > 1;
        self.look_at = at + LOOK_EVERY;
        self.ahead_bytes += found.iter().map(bytes_of).sum::<usize>();
        self.ready.extend(found);
    }

    /// What is to be sent now.
    pub(super) fn next(&mut self, now: UnixMillis, at: Instant) -> Option<Due> {
        let may = self.may_begin(now) && self.has_room() && !self.rests(now);
        if !may || self.ready.is_empty() || !self.pace.take(at) {
            return None;
        }
        let due = self.ready.pop_front()?;
        self.ahead_bytes -= bytes_of(&due);
        self.held.insert(due.seq);
        self.flying.insert(due.seq);
        Some(due)
    }

    /// An attempt was cut off.
    pub(super) fn cut(&mut self, seq: i64) {
        if self.flying.remove(&seq) {
            self.held.remove(&seq);
        }
    }

    /// An attempt ended. Where it is none of this lane, which began anew meanwhile, nothing is known of it.
    pub(super) fn finish(&mut self, due: &Due, report: Report, now: UnixMillis) {
        if !self.flying.remove(&due.seq) {
            return;
        }
        let outcome = self.judge(due, &report, now);
        self.results.push(Settled {
            seq: due.seq,
            number: due.attempts.saturating_add(1),
            begun: report.begun,
            duration_ms: report.took_ms(),
            status: report.status,
            result: report.result,
            error: report.error,
            response: report.response,
            outcome,
        });
        if self.rests(now) {
            self.clear();
        }
    }

    fn judge(&mut self, due: &Due, report: &Report, now: UnixMillis) -> Outcome {
        let health = &mut self.endpoint.health;
        if report.is_taken() {
            if plan::succeeded(health, now) {
                self.lively = true;
                self.pace.ramp_up();
            }
            self.limit = self.terms.max_in_flight;
            return Outcome::Delivered;
        }
        let error = report.error.as_deref().unwrap_or_default();
        plan::failed(health, (report.begun, now), error);
        if report.is_overloaded() {
            self.limit = (self.limit / 2).max(1);
        }
        if report.is_gone() {
            self.over = Some(GONE.to_owned());
            return Outcome::Failed;
        }
        if plan::is_given_up(health, now) {
            self.over = Some(SILENT.to_owned());
        }
        if due.body.is_none() {
            return Outcome::Failed;
        }
        // It was tried before its time, to see whether anybody is there: that uses nothing up.
        if due.due > report.begun {
            return Outcome::Again(due.due, due.tries);
        }
        plan::after_failure(
            &self.delays,
            due.tries.saturating_add(1),
            report.wish,
            (now, fastrand::f64()),
        )
    }

    /// What is to be written down now.
    pub(super) fn page(&mut self, at: Instant) -> Option<Page> {
        if self.writing || self.results.is_empty() || self.write_at > at {
            return None;
        }
        self.writing = true;
        Some(Page {
            endpoint: self.endpoint.clone(),
            settled: self.results.drain(..self.results.len().min(PAGE)).collect(),
            lively: std::mem::take(&mut self.lively),
            over: self.over.clone(),
        })
    }

    /// A page was written, or was not.
    pub(super) fn written(&mut self, page: Page, good: bool, at: Instant) {
        self.writing = false;
        if !good {
            self.write_at = at + LATER;
            let newer = std::mem::replace(&mut self.results, page.settled);
            self.results.extend(newer);
            self.lively |= page.lively;
            return;
        }
        for one in &page.settled {
            self.held.remove(&one.seq);
        }
        let probed = plan::is_probed(&self.endpoint.health);
        if self.order() != Order::None || page.lively || probed {
            self.look_at = at;
        }
    }

    /// Something may have come.
    pub(super) fn hear(&mut self, at: Instant) {
        self.look_at = at;
    }

    /// When it is worth looking at it again, unless an attempt ends or something is told before.
    pub(super) fn wakes(&self, now: UnixMillis, at: Instant) -> Instant {
        if !self.has_room() || self.rests(now) || !self.may_begin(now) {
            return at + LOOK_EVERY;
        }
        match (self.ready.is_empty(), self.more) {
            (true, true) => at,
            (true, false) => self.look_at,
            (false, _) => self.pace.next,
        }
    }

    /// Whether an attempt ends before anybody else may begin one: whoever takes over must find nothing of ours on its way.
    fn may_begin(&self, now: UnixMillis) -> bool {
        self.endpoint.lease > now.plus(self.terms.timeout())
    }
}

fn bytes_of(due: &Due) -> usize {
    due.body.as_ref().map_or(0, String::len)
}

fn read(endpoint: &Endpoint, settings: &settings::Webhooks, key: &MasterKey) -> (Terms, Aim) {
    let terms = match Terms::of_row(&endpoint.options) {
        Ok(terms) => terms,
        Err(error) => return (Terms::default(), Err(("request", error.to_string()))),
    };
    let blocked = |why: String| Err(("blocked_destination", why));
    let aim = match Destination::parse(&endpoint.url) {
        Err(rule) => blocked(format!("the URL: {rule}")),
        Ok(to) if terms::is_denied(&settings.deny_hosts, &to) => {
            blocked(format!("{} is denied (webhooks.deny_hosts)", to.host()))
        }
        Ok(to) => match Signer::open(key, &endpoint.secrets) {
            Some(signer) => Ok((to, signer)),
            None => Err((
                "request",
                "its secret does not open with this master key".to_owned(),
            )),
        },
    };
    (terms, aim)
}

/// Requests in a second: as many as may be, a quarter of them at first after a rest.
#[derive(Debug)]
struct Pace {
    rate: u32,
    next: Instant,
    ramp: Option<Instant>,
    ramping: bool,
}

/// What may be made up for after a moment without requests.
const BURST: Duration = Duration::from_millis(250);

impl Pace {
    fn new(rate: u32, now: Instant) -> Self {
        Self {
            rate: rate.max(1),
            next: now.checked_sub(BURST).unwrap_or(now),
            ramp: None,
            ramping: false,
        }
    }

    fn ramp_up(&mut self) {
        (self.ramping, self.ramp) = (true, None);
    }

    fn take(&mut self, now: Instant) -> bool {
        if now < self.next {
            return false;
        }
        let mut rate = f64::from(self.rate);
        if self.ramping {
            let since = now.duration_since(*self.ramp.get_or_insert(now));
            let share = 0.25 * since.as_secs_f64().exp2();
            self.ramping = share < 1.0;
            rate *= share.min(1.0);
        }
        let burst = now.checked_sub(BURST).unwrap_or(now);
        self.next = self.next.max(burst) + Duration::from_secs_f64(1.0 / rate);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use boxgate_storage::metadata::webhooks::{Health, Secrets};

    use super::*;
    use crate::config::{self, Flags, Machine};
    use crate::webhook::secret::WebhookSecret;

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

    /// The lane of an endpoint whose owner chose this beside the usual, and what reads it.
    fn lane(more: &str, at: Instant) -> Lane {
        let (settings, _) = config::load_from(&Flags::default(), [], Machine::probe()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let key = MasterKey::load(None, directory.path(), false).unwrap();
        let secret = WebhookSecret::parse("webhook-secret").unwrap();
        let mut options: BTreeMap<String, serde_json::Value> = serde_json::from_str(more).unwrap();
        options.insert("events".to_owned(), serde_json::json!(["*"]));
        let endpoint = Endpoint {
            seq: 1,
            id: "ep_1".to_owned(),
            after_event: 0,
            url: "https://hooks.example/".to_owned(),
            options: serde_json::to_string(&options).unwrap(),
            enabled: true,
            disabled_reason: None,
            secrets: Secrets {
                current: secret.seal(&key),
                previous: None,
                legacy_previous: true,
            },
            revision: 1,
            queued: 9,
            blocked: 0,
            health: Health::default(),
            lease: NOW.plus(Duration::from_mins(1)),
            created: NOW,
            updated: NOW,
        };
        Lane::new(endpoint, &settings.webhooks, &key, at)
    }

    fn due(seq: i64) -> Due {
        Due {
            seq,
            message: format!("msg_{seq}"),
            event: "box.uploaded".to_owned(),
            sequence: seq,
            body: Some("{}".to_owned()),
            headers: None,
            due: NOW,
            tries: 0,
            attempts: 0,
            created: NOW,
        }
    }

    fn report(status: u16) -> Report {
        let error = (status != 200).then(|| format!("it answered {status}"));
        Report {
            status: Some(status),
            error,
            ..Report::unsent(NOW, "status", String::new())
        }
    }

    /// Begins all that may begin.
    fn begin(lane: &mut Lane, at: Instant) -> Vec<Due> {
        std::iter::from_fn(|| lane.next(NOW, at)).collect()
    }

    #[test]
    fn a_lane_has_so_many_on_their_way_and_fewer_while_its_endpoint_is_overloaded() {
        let at = Instant::now();
        let mut lane = lane(r#"{"max_in_flight": 4, "rate_per_s": 10000}"#, at);
        assert!(lane.aim.is_ok());
        let (_, asked) = lane.wants(NOW, at).unwrap();
        lane.fill((1..=9).map(due).collect(), asked, at);
        let first = begin(&mut lane, at);
        assert_eq!(first.len(), 4);
        lane.finish(&first[0], report(429), NOW);
        lane.finish(&first[1], report(200), NOW);
        assert_eq!(begin(&mut lane, at).len(), 2, "a success lifts the bound");
        lane.finish(&first[2], report(504), NOW);
        assert_eq!(
            begin(&mut lane, at).len(),
            0,
            "more are under way than half of what may be"
        );
        let page = lane.page(at).unwrap();
        assert_eq!(page.settled.len(), 3);
        assert!(lane.page(at).is_none(), "one page at a time");
        lane.written(page, false, at);
        assert!(lane.page(at).is_none(), "later");
        assert_eq!(lane.page(at + LATER).unwrap().settled.len(), 3);
    }

    #[test]
    fn a_lane_that_cannot_begin_is_not_looked_at_all_the_time() {
        let at = Instant::now();
        let mut lane = lane(r#"{"rate_per_s": 10000}"#, at);
        lane.fill((1..=9).map(due).collect(), 64, at);
        let late = NOW.plus(Duration::from_secs(50));
        assert!(lane.next(late, at).is_none(), "its claim ends too soon");
        assert!(lane.wakes(late, at) > at);
        let first = begin(&mut lane, at);
        for one in &first[..5] {
            lane.finish(one, report(500), NOW);
        }
        assert!(lane.wants(NOW, at + LOOK_EVERY * 9).is_none(), "it rests");
        assert!(lane.wakes(NOW, at + LOOK_EVERY * 9) > at + LOOK_EVERY * 9);
        // What is on its way and not written is known first, then whatever waits is tried alone.
        let rested = NOW.plus(Duration::from_secs(30));
        assert!(lane.wants(rested, at + LOOK_EVERY * 9).is_none());
        for one in &first[5..] {
            lane.finish(one, report(500), NOW);
        }
        let page = lane.page(at).unwrap();
        lane.written(page, true, at);
        assert_eq!(
            lane.wants(rested, at + LOOK_EVERY * 9),
            Some((UnixMillis(i64::MAX), 1))
        );
        let early = Due {
            due: NOW.plus(Duration::from_hours(1)),
            tries: 3,
            ..due(20)
        };
        lane.fill(vec![early], 1, at);
        let probe = lane.next(rested, at).unwrap();
        assert!(lane.next(rested, at).is_none());
        lane.finish(&probe, report(500), rested);
        let settled = lane.page(at).unwrap().settled.remove(0);
        assert_eq!(
            settled.outcome,
            Outcome::Again(probe.due, 3),
            "that uses nothing up"
        );
    }

    #[test]
    fn what_ends_of_a_lane_before_this_one_leaves_it_as_it_is() {
        let at = Instant::now();
        let mut lane = lane(r#"{"max_in_flight": 1, "rate_per_s": 10000}"#, at);
        lane.finish(&due(7), report(200), NOW);
        lane.cut(8);
        assert!(lane.page(at).is_none());
        lane.fill(vec![due(7), due(8)], 64, at);
        let one = lane.next(NOW, at).unwrap();
        // That of before and its own, whichever is first.
        lane.finish(&one, report(200), NOW);
        lane.finish(&one, report(200), NOW);
        lane.cut(one.seq);
        assert!(lane.held.contains(&one.seq), "its end is not written");
        assert_eq!(begin(&mut lane, at).len(), 1);
        assert_eq!(lane.page(at).unwrap().settled.len(), 1);
    }

    #[test]
    fn requests_keep_their_pace_and_begin_slowly_after_a_rest() {
        let start = Instant::now();
        let mut pace = Pace::new(100, start);
        let in_second = |pace: &mut Pace, second: u64| {
            let ticks = (0..1000).map(|ms| start + Duration::from_millis(second * 1000 + ms));
            ticks.filter(|at| pace.take(*at)).count()
        };
        // What was not used in the moment before may be made up for.
        assert!((124..=127).contains(&in_second(&mut pace, 0)));
        pace.ramp_up();
        let first = in_second(&mut pace, 1);
        assert!((30..=45).contains(&first), "{first}");
        let second = in_second(&mut pace, 2);
        assert!((60..=85).contains(&second), "{second}");
        let third = in_second(&mut pace, 3);
        assert!((100..=102).contains(&third), "{third}");
    }
}
