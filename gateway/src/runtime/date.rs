//! `Date` of a request: how far its clock is from ours, where it says so.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::DATE;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// How far a clock may be off, in either direction.
pub const SKEW: Duration = Duration::from_mins(5);

/// Whether a request's date may be that of now; a request without one is not asked.
///
/// # Errors
/// What is wrong with it, for whoever sent it.
pub fn check(headers: &HeaderMap, now: SystemTime) -> Result<(), &'static str> {
    let mut fields = headers.get_all(DATE).iter();
    let Some(field) = fields.next() else {
        return Ok(());
    };
    if fields.next().is_some() {
        return Err("There is more than one Date header.");
    }
    let text = field.to_str().unwrap_or_default().trim();
    let date = parse(text).ok_or(
        "The Date header is no date with a time: send ISO 8601 (2024-05-01T12:00:00Z) or an HTTP date, in UTC.",
    )?;
    let off = match now.duration_since(date) {
        Ok(late) => late,
        Err(early) => early.duration(),
    };
    if off > SKEW {
        return Err(
            "The Date header is more than 5 minutes from now: set the clock, or leave it out.",
        );
    }
    Ok(())
}

/// One of ISO 8601's forms with a time, or one of the three of RFC 9110 §5.6.7. Without a zone it is UTC.
fn parse(text: &str) -> Option<SystemTime> {
    if let Ok(date) = httpdate::parse_http_date(text) {
        return Some(date);
    }
    // A date alone would be midnight.
    if !text.contains(':') {
        return None;
    }
    let iso = text.parse::<Timestamp>().ok().or_else(|| {
        let date: DateTime = text.parse().ok()?;
        date.to_zoned(TimeZone::UTC)
            .ok()
            .map(|zoned| zoned.timestamp())
    })?;
    Some(iso.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SystemTime {
        text.parse::<Timestamp>().unwrap().into()
    }

    fn checked(fields: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(DATE, field.parse().unwrap());
        }
        check(&headers, at("2024-05-01T12:00:00Z")).is_ok()
    }

    #[test]
    fn dates_within_five_minutes_pass_however_they_are_written() {
        assert!(checked(&[]));
        for date in [
            "2024-05-01T12:00:00Z",
            "2024-05-01T12:05:00Z",
            "2024-05-01T11:55:00Z",
            "2024-05-01T14:00:00+02:00",
            "2024-05-01T12:00:00.1234567Z",
            "2024-05-01T12:00:00.123456789",
            "2024-05-01 12:00:00",
            "2024-05-01 12:00:00Z",
            "Wed, 01 May 2024 12:00:00 GMT",
            "Wednesday, 01-May-24 12:00:00 GMT",
            "Wed May  1 12:00:00 2024",
        ] {
            assert!(checked(&[date]), "{date}");
        }
    }

    #[test]
    fn others_do_not() {
        for date in [
            "2024-05-01T12:05:01Z",
            "2024-05-01T11:54:59Z",
            "2024-05-01T12:00:00+02:00",
            "2024-05-01",
            "yesterday",
            "12:00:00",
            "",
            "1714564800",
        ] {
            assert!(!checked(&[date]), "{date}");
        }
        let now = "2024-05-01T12:00:00Z";
        assert!(!checked(&[now, now]));
    }
}
