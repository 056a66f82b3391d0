//! Making failed calls again, and how long to wait before.

use std::future::pending;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::ClientError;

/// Wait after the first failure, at most; twice as much after each further one.
const FIRST: Duration = Duration::from_millis(500);
/// A gateway that restarts is back within so long, and is not asked more often by any number of waiters.
const LONGEST: Duration = Duration::from_secs(30);
/// A gateway that asks for more patience than this does not get it: a person should look.
const MOST_PATIENCE: Duration = Duration::from_mins(10);

/// The wait after so many failures. `chance` is a number from 0 to 1 by which callers that failed at the
/// same moment come back at different ones: half of each wait is chance.
///
/// What the gateway asked for by `Retry-After` is waited for at least, and up to a tenth more.
pub fn delay(failures: u32, retry_after: Option<Duration>, chance: f64) -> Duration {
    let chance = chance.clamp(0.0, 1.0);
    let ours = match failures {
        0 => Duration::ZERO,
        n => FIRST.saturating_mul(1 << (n - 1).min(16)).min(LONGEST),
    };
    let ours = ours.mul_f64(0.5 + chance / 2.0);
    let theirs = retry_after.map(|asked| asked.min(MOST_PATIENCE).mul_f64(1.0 + chance / 10.0));
    theirs.map_or(ours, |theirs| theirs.max(ours))
}

/// A pause before a call is made again.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pause {
    /// How long it is, unless others get through before.
    pub longest: Duration,
    /// The gateway asked for it: it is kept, whoever gets through.
    pub is_asked: bool,
}

impl Pause {
    /// The pause after so many failures, of which this is the last.
    pub fn after(failures: u32, error: &ClientError) -> Self {
        let asked = error.retry_after();
        Self {
            longest: delay(failures, asked, chance()),
            is_asked: asked.is_some(),
        }
    }
}

/// Ends the pauses of calls beside which others get through: what kept them all is over.
#[derive(Debug, Default)]
pub struct Through(watch::Sender<()>);

impl Through {
    /// A call went well.
    pub fn tell(&self) {
        self.0.send_replace(());
    }

    /// The end of a pause that begins now: of all of it, or once another call went well. Never at once: what fails by
    /// itself would be sent again with each that does not.
    pub fn end_of(&self, pause: Pause) -> impl Future<Output = ()> + Send + use<> {
        let mut through = self.0.subscribe();
        async move {
            if pause.longest.is_zero() {
                return;
            }
            let least = pause.longest.min(FIRST);
            sleep(least).await;
            let others = async {
                if pause.is_asked || through.changed().await.is_err() {
                    pending::<()>().await;
                }
            };
            let _in_time = timeout(pause.longest.saturating_sub(least), others).await;
        }
    }
}

/// Makes a call until it goes well, or fails in a way that does not pass. `again` hears of each failure,
/// and how many there were; it says how long to wait, or that it is enough.
///
/// # Errors
/// The failure that does not pass, or what `again` says.
pub async fn patiently<T, E, F>(
    call: impl Fn() -> F,
    again: impl Fn(ClientError, u32) -> Result<Duration, E>,
) -> Result<T, E>
where
    E: From<ClientError>,
    F: Future<Output = Result<T, ClientError>>,
{
    let mut failures = 0;
    loop {
        let error = match call().await {
            Ok(answer) => return Ok(answer),
            Err(e) if !e.may_pass() => return Err(e.into()),
            Err(e) => e,
        };
        failures += 1;
        sleep(again(error, failures)?).await;
    }
}

/// A number from 0 to 1, another one each time.
pub fn chance() -> f64 {
    let mut bits = [0; 4];
    // Without randomness all come back at once, which the gateway bears.
    let _ = getrandom::fill(&mut bits);
    f64::from(u32::from_le_bytes(bits)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_are_half_chance() {
        let millis = |failures, chance| delay(failures, None, chance).as_millis();
        let table = [
            (0, 0, 0),
            (1, 250, 500),
            (2, 500, 1000),
            (6, 8000, 16000),
            (7, 15000, 30000),
        ];
        for (failures, least, most) in table {
            assert_eq!(millis(failures, 0.0), least, "{failures}");
            assert_eq!(millis(failures, 1.0), most, "{failures}");
        }
        assert_eq!(millis(u32::MAX, 1.0), 30000);
        assert!((0.0..=1.0).contains(&chance()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_goes_on_once_another_gets_through_unless_the_gateway_asked_for_it() {
        let through = Through::default();
        for (is_asked, is_told, seconds) in [(false, true, 0), (false, false, 30), (true, true, 30)]
        {
            let pause = Pause {
                longest: LONGEST,
                is_asked,
            };
            let began = tokio::time::Instant::now();
            // Told of before the pause is looked at for the first time.
            let end = through.end_of(pause);
            if is_told {
                through.tell();
            }
            end.await;
            let waited = began.elapsed();
            assert!(waited >= FIRST);
            assert_eq!(waited.as_secs(), seconds, "{waited:?}");
        }
    }

    #[test]
    fn the_gateways_wish_is_kept_within_reason() {
        let asked =
            |seconds, chance| delay(1, Some(Duration::from_secs(seconds)), chance).as_millis();
        assert_eq!(asked(30, 0.0), 30_000);
        assert_eq!(asked(30, 1.0), 33_000);
        assert_eq!(asked(0, 1.0), 500);
        assert_eq!(asked(86_400, 0.0), 600_000);
    }
}
