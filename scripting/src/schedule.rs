//! When a plugin's `on_schedule` is due: a crontab line in the manifest.

use std::sync::Arc;

use cronexpr::{Crontab, FallbackTimezoneOption, ParseOptions};
use jiff::Timestamp;

/// A crontab line, and the moments that it stands for. In UTC unless it names a time zone.
#[derive(Debug, Clone)]
pub struct Schedule {
    text: String,
    crontab: Arc<Crontab>,
}

impl Schedule {
    /// Reads `minute hour day-of-month month day-of-week [time zone]`.
    ///
    /// # Errors
    /// What is wrong with it, in words; also when it stands for no moment at all.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut options = ParseOptions::default();
        options.fallback_timezone_option = FallbackTimezoneOption::UTC;
        let crontab = cronexpr::parse_crontab_with(text, options).map_err(|e| e.to_string())?;
        let schedule = Self {
            text: text.to_owned(),
            crontab: Arc::new(crontab),
        };
        match schedule.next(0) {
            Some(_) => Ok(schedule),
            None => Err(format!("{text:?} is never due")),
        }
    }

    /// The line.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The first moment after `ms`, in milliseconds since 1970.
    pub fn next(&self, ms: i64) -> Option<i64> {
        let after = Timestamp::from_millisecond(ms).ok()?;
        let next = self.crontab.find_next(after).ok()?;
        Some(next.timestamp().as_millisecond())
    }

    /// The last moment after `from` and not after `to`: of several that were missed, the one that counts.
    pub fn last(&self, from: i64, to: i64) -> Option<i64> {
        // Back in steps that double, so that a node that slept for a year finds the last minute as fast.
        let mut back = MINUTE;
        loop {
            let start = to.saturating_sub(back).max(from);
            let mut found = None;
            let mut at = start;
            while let Some(next) = self.next(at).filter(|next| *next <= to) {
                found = Some(next);
                at = next;
            }
            if found.is_some() || start == from {
                return found;
            }
            back = back.saturating_mul(2);
        }
    }
}

const MINUTE: i64 = 60_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    #[test]
    fn moments_are_those_of_the_line_in_its_zone() {
        let nightly = Schedule::parse("30 3 * * *").unwrap();
        let next = nightly.next(ms("2026-01-01T03:30:00Z"));
        assert_eq!(next, Some(ms("2026-01-02T03:30:00Z")));
        let there = Schedule::parse("30 3 * * * Asia/Tokyo").unwrap();
        let next = there.next(ms("2026-01-01T00:00:00Z"));
        assert_eq!(next, Some(ms("2026-01-01T18:30:00Z")));
    }

    #[test]
    fn of_those_that_were_missed_the_last_one_counts() {
        let hourly = Schedule::parse("0 * * * *").unwrap();
        let last = |from: &str, to: &str| hourly.last(ms(from), ms(to));
        assert_eq!(
            last("2020-01-01T00:00:00Z", "2026-01-01T10:59:59Z"),
            Some(ms("2026-01-01T10:00:00Z"))
        );
        assert_eq!(last("2026-01-01T10:00:00Z", "2026-01-01T10:59:59Z"), None);
        assert_eq!(
            last("2026-01-01T10:00:00Z", "2026-01-01T11:00:00Z"),
            Some(ms("2026-01-01T11:00:00Z"))
        );
        // Seldom, and long ago.
        let leap = Schedule::parse("0 0 29 2 *").unwrap();
        let last = leap.last(ms("2020-01-01T00:00:00Z"), ms("2027-01-01T00:00:00Z"));
        assert_eq!(last, Some(ms("2024-02-29T00:00:00Z")));
    }

    #[test]
    fn what_is_no_line_is_said() {
        for line in [
            "",
            "* * * *",
            "60 * * * *",
            "* * * * * Nowhere/At-All",
            "0 0 31 2 *",
        ] {
            assert!(Schedule::parse(line).is_err(), "{line:?}");
        }
    }
}
