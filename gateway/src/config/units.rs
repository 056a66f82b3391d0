//! Numbers with their units, as a person writes them: `"8MiB"`, `"30s"`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A count of bytes, written `"8MiB"`; powers of ten (`"300MB"`) are taken too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// `count` KiB.
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    /// `count` MiB.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// `count` GiB.
    pub const fn gib(count: u64) -> Self {
        Self(count << 30)
    }
}

/// A span of time, written `"30s"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

impl Span {
    /// `count` seconds.
    pub const fn seconds(count: u64) -> Self {
        Self(Duration::from_secs(count))
    }
}

/// A text that is not a number with one of the units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a size.
    #[error("expected a size such as \"8MiB\" (units B, KiB, MiB, GiB, TiB, kB, MB, GB, TB)")]
    Size,
    /// Not a time.
    #[error("expected a time such as \"30s\" (units ms, s, m, h, d)")]
    Time,
    /// More than 64 bits hold.
    #[error("the number is too large")]
    TooLarge,
}

/// Largest first, so that printing finds the roundest form.
const SIZES: [(&str, u64); 5] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];
const DECIMAL_SIZES: [(&str, u64); 4] = [
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
];
const TIMES: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Splits `"8MiB"` into 8 and its unit's factor; a bare `0` needs no unit.
fn parse(text: &str, units: &[&[(&str, u64)]], wrong: UnitError) -> Result<u64, UnitError> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(wrong);
    }
    let number: u64 = number.parse().map_err(|_overflow| UnitError::TooLarge)?;
    let unit = unit.trim_start();
    if unit.is_empty() && number == 0 {
        return Ok(0);
    }
    let (_, factor) = units
        .iter()
        .flat_map(|table| table.iter())
        .find(|(name, _)| *name == unit)
        .ok_or(wrong)?;
    number.checked_mul(*factor).ok_or(UnitError::TooLarge)
}

fn print(f: &mut fmt::Formatter<'_>, number: u64, units: &[(&str, u64)]) -> fmt::Result {
    if number == 0 {
        return f.write_str("0");
    }
    for (name, factor) in units {
        if number.is_multiple_of(*factor) {
            return write!(f, "{}{name}", number / factor);
        }
    }
    write!(f, "{number}")
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse(text, &[&SIZES, &DECIMAL_SIZES], UnitError::Size).map(Self)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print(f, self.0, &SIZES)
    }
}

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse(text, &[&TIMES], UnitError::Time).map(|ms| Self(Duration::from_millis(ms)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        print(f, ms, &TIMES)
    }
}

macro_rules! as_text {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = UnitError;

            fn try_from(text: String) -> Result<Self, UnitError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    };
}

as_text!(ByteSize);
as_text!(Span);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_printed_in_their_roundest_unit() {
        let table = [
            ("0", 0, "0"),
            ("0B", 0, "0"),
            ("8MiB", 8 << 20, "8MiB"),
            ("8 MiB", 8 << 20, "8MiB"),
            ("1024KiB", 1 << 20, "1MiB"),
            ("300MB", 300_000_000, "292968750B"),
            ("128GiB", 128 << 30, "128GiB"),
            ("17B", 17, "17B"),
        ];
        for (text, bytes, printed) in table {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!(size.0, bytes, "{text}");
            if text != "300MB" {
                assert_eq!(size.to_string(), printed);
            }
            assert_eq!(size.to_string().parse::<ByteSize>().unwrap(), size);
        }
    }

    #[test]
    fn sizes_without_a_unit_or_too_large_are_refused() {
        for text in ["", "8", "MiB", "8mib", "-1B", "8 Mi B", "1.5GiB"] {
            assert_eq!(text.parse::<ByteSize>(), Err(UnitError::Size), "{text}");
        }
        for text in ["99999999999999999999B", "99999999TiB"] {
            assert_eq!(text.parse::<ByteSize>(), Err(UnitError::TooLarge), "{text}");
        }
    }

    #[test]
    fn times_are_read_and_printed_in_their_roundest_unit() {
        let table = [
            ("30s", 30_000, "30s"),
            ("90s", 90_000, "90s"),
            ("60s", 60_000, "1m"),
            ("24h", 86_400_000, "1d"),
            ("365d", 31_536_000_000, "365d"),
            ("250ms", 250, "250ms"),
            ("0", 0, "0"),
        ];
        for (text, ms, printed) in table {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.0, Duration::from_millis(ms), "{text}");
            assert_eq!(span.to_string(), printed);
        }
        assert_eq!("30".parse::<Span>(), Err(UnitError::Time));
        assert_eq!("30 sec".parse::<Span>(), Err(UnitError::Time));
    }
}
