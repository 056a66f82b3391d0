//! When an endpoint is tried again, and when no more: the schedule of a delivery, the breaker of an endpoint, and the clock
//! that disables it. No I/O, no clock of its own.

use std::time::Duration;

use boxgate_storage::clock::UnixMillis;
use boxgate_storage::metadata::webhooks::{Health, Outcome};

/// Failures in a row after which an endpoint rests.
const TRIPS_AT: u32 = 5;
/// How long it rests first; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
/// How long at most, within the first hour and after it: a receiver that is back must not wait a day.
const LONGEST_PAUSE: Duration = Duration::from_mins(2);
const LATE_PAUSE: Duration = Duration::from_mins(15);
const FIRST_HOUR: Duration = Duration::from_hours(1);
/// Without a success for so long, and after so many failures, an endpoint is disabled.
const GIVEN_UP_AFTER: Duration = Duration::from_hours(5 * 24);
const GIVEN_UP_FAILURES: u32 = 20;
/// What a receiver may ask for beyond twice the usual pause.
const LONGEST_WISH: Duration = Duration::from_hours(1);

/// What becomes of a delivery that failed for the `tries`th time along its schedule.
///
/// `wish` is what the receiver asked for; `jitter` is 0 to 1.
pub fn after_failure(
    delays: &[Duration],
    tries: u32,
    wish: Option<Duration>,
    (now, jitter): (UnixMillis, f64),
) -> Outcome {
    let Some(delay) = delays.get(tries as usize) else {
        return Outcome::Failed;
    };
    // Those that failed together do not come again together.
    let mut pause = delay.mul_f64(0.8 + 0.4 * jitter);
    if let Some(wish) = wish {
        pause = wish.clamp(pause, (pause * 2).max(LONGEST_WISH));
    }
    Outcome::Again(now.plus(pause), tries)
}

/// Notes a success; true where the endpoint had failed enough to rest, so that what waits may go at once.
pub fn succeeded(health: &mut Health, now: UnixMillis) -> bool {
    let rested = health.pauses > 0;
    *health = Health {
        last_success: Some(now),
        last_error: None,
        ..Health::default()
    };
    rested
}

/// Notes a failed attempt that was begun at `begun`.
pub fn failed(health: &mut Health, (begun, now): (UnixMillis, UnixMillis), error: &str) {
    health.failed = health.failed.saturating_add(1);
    let since = *health.failing_since.get_or_insert(now);
    health.last_error = Some(error.to_owned());
    // What was on its way when the rest began tells nothing new.
    if health.failed < TRIPS_AT || begun < health.paused_until && health.pauses > 0 {
        return;
    }
    health.pauses = health.pauses.saturating_add(1);
    let pause = if now >= since.plus(FIRST_HOUR) {
        LATE_PAUSE
    } else {
        let doubled = FIRST_PAUSE * 2_u32.saturating_pow((health.pauses - 1).min(8));
        doubled.min(LONGEST_PAUSE)
    };
    health.paused_until = now.plus(pause);
}

/// Whether an endpoint is to be disabled.
pub fn is_given_up(health: &Health, now: UnixMillis) -> bool {
    health.failed >= GIVEN_UP_FAILURES
        && health
            .failing_since
            .is_some_and(|since| now >= since.plus(GIVEN_UP_AFTER))
}

/// Whether an endpoint that rested is tried by one request alone.
pub fn is_probed(health: &Health) -> bool {
    health.pauses > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: UnixMillis = UnixMillis(1_000_000);

    #[test]
    fn a_delivery_goes_along_its_schedule_and_ends_with_it() {
        let delays = [0, 5, 60].map(Duration::from_secs);
        let at = |tries, jitter| after_failure(&delays, tries, None, (START, jitter));
        assert_eq!(
            at(1, 0.5),
            Outcome::Again(START.plus(Duration::from_secs(5)), 1)
        );
        assert_eq!(
            at(2, 0.0),
            Outcome::Again(START.plus(Duration::from_secs(48)), 2)
        );
        assert_eq!(
            at(2, 1.0),
            Outcome::Again(START.plus(Duration::from_secs(72)), 2)
        );
        assert_eq!(at(3, 0.5), Outcome::Failed);
    }

    #[test]
    fn what_a_receiver_asks_for_is_held_within_bounds() {
        let delays = [0, 60, 7_200].map(Duration::from_secs);
        let wait = |tries, wish| match after_failure(
            &delays,
            tries,
            Some(Duration::from_secs(wish)),
            (START, 0.5),
        ) {
            Outcome::Again(at, _) => (at.0 - START.0) / 1000,
            other => panic!("{other:?}"),
        };
        assert_eq!(wait(1, 1), 60, "never sooner than usual");
        assert_eq!(wait(1, 1_800), 1_800);
        assert_eq!(wait(1, 86_400), 3_600);
        assert_eq!(wait(2, 86_400), 14_400);
    }

    #[test]
    fn five_failures_make_it_rest_longer_each_time_until_one_succeeds() {
        let mut health = Health::default();
        let mut now = START;
        for _ in 0..4 {
            failed(&mut health, (now, now), "500");
        }
        assert_eq!(health.paused_until, UnixMillis(0));
        failed(&mut health, (now, now), "500");
        let mut rests = vec![(health.paused_until.0 - now.0) / 1000];
        // Three more were on their way.
        for _ in 0..3 {
            failed(&mut health, (now, now), "500");
        }
        while now < START.plus(Duration::from_hours(2)) {
            now = health.paused_until;
            failed(&mut health, (now, now), "500");
            rests.push((health.paused_until.0 - now.0) / 1000);
        }
        assert_eq!(rests[..4], [30, 60, 120, 120]);
        assert_eq!(rests.last(), Some(&900));
        assert!(is_probed(&health) && succeeded(&mut health, now));
        assert_eq!(
            (health.failed, health.pauses, health.failing_since),
            (0, 0, None)
        );
        assert!(!succeeded(&mut health, now), "it did not rest");
    }

    #[test]
    fn five_days_of_failures_give_it_up() {
        let mut health = Health::default();
        for _ in 0..19 {
            failed(&mut health, (START, START), "500");
        }
        let late = START.plus(GIVEN_UP_AFTER);
        assert!(!is_given_up(&health, late), "too few");
        failed(&mut health, (late, late), "500");
        assert!(
            !is_given_up(&health, late.minus(Duration::from_millis(1))),
            "too soon"
        );
        assert!(is_given_up(&health, late));
    }
}
