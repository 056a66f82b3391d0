//! Rows to values and back, and the database's errors as ours. No query stands here.

use std::str::FromStr;

use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::dialect;
use crate::blob::{BlobKey, BlobMeta, UploadId};
use crate::clock::UnixMillis;
use crate::digest::{Blake3, Sha256};
use crate::error::{Error, ErrorKind, Result};

/// Turns the database's failures into ours, at the edge where they happen.
pub(super) trait At<T> {
    /// `op` and `subject` as in [`Error::new`].
    fn at(self, op: &'static str, subject: impl ToString) -> Result<T>;
}

impl<T> At<T> for std::result::Result<T, sqlx::Error> {
    fn at(self, op: &'static str, subject: impl ToString) -> Result<T> {
        self.map_err(|e| Error::new(kind_of(&e), op, subject.to_string()).with_source(e))
    }
}

fn kind_of(error: &sqlx::Error) -> ErrorKind {
    match error {
        sqlx::Error::RowNotFound => ErrorKind::NotFound,
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Io(_) => {
            ErrorKind::Unavailable
        }
        sqlx::Error::Database(e) if e.is_unique_violation() => ErrorKind::Conflict,
        // Only parents are referenced, so what is missing is the parent.
        sqlx::Error::Database(e) if e.is_foreign_key_violation() => ErrorKind::NotFound,
        sqlx::Error::Database(e) => e
            .code()
            .and_then(|code| dialect::kind_of(&code))
            .unwrap_or(ErrorKind::Internal),
        _ => ErrorKind::Internal,
    }
}

const DECODE: &str = "metadata.decode";

/// A stored value that no writer of ours writes.
pub(super) fn odd(column: &str) -> Error {
    Error::new(ErrorKind::Internal, DECODE, column)
}

/// Reads columns by name; a value that cannot be is an internal error that names the column.
pub(super) trait Columns {
    fn int(&self, column: &str) -> Result<i64>;
    fn opt_int(&self, column: &str) -> Result<Option<i64>>;
    fn text(&self, column: &str) -> Result<String>;
    fn opt_text(&self, column: &str) -> Result<Option<String>>;
    fn bytes(&self, column: &str) -> Result<Vec<u8>>;
    fn opt_bytes(&self, column: &str) -> Result<Option<Vec<u8>>>;

    fn truth(&self, column: &str) -> Result<bool> {
        Ok(self.int(column)? != 0)
    }

    fn unsigned(&self, column: &str) -> Result<u64> {
        u64::try_from(self.int(column)?).map_err(|e| odd(column).with_source(e))
    }

    fn time(&self, column: &str) -> Result<UnixMillis> {
        self.int(column).map(UnixMillis)
    }

    /// A word from a fixed list, or a name that was parsed when it came in.
    fn word<T>(&self, column: &str, read: impl Fn(&str) -> Option<T>) -> Result<T> {
        let text = self.text(column)?;
        read(&text).ok_or_else(|| odd(column).with_source(format!("unknown word {text:?}")))
    }

    fn name<T: FromStr>(&self, column: &str) -> Result<T> {
        self.word(column, |text| text.parse().ok())
    }

    fn fixed<const N: usize>(&self, column: &str) -> Result<[u8; N]> {
        <[u8; N]>::try_from(self.bytes(column)?)
            .map_err(|bytes| odd(column).with_source(format!("{} bytes", bytes.len())))
    }

    /// Empty while it is deferred.
    fn sha256(&self, column: &str) -> Result<Option<Sha256>> {
        match &*self.bytes(column)? {
            [] => Ok(None),
            bytes => <[u8; 32]>::try_from(bytes)
                .map(|bytes| Some(Sha256(bytes)))
                .map_err(|e| odd(column).with_source(e)),
        }
    }

    fn key(&self, column: &str) -> Result<BlobKey> {
        self.fixed(column).map(BlobKey::from_bytes)
    }

    fn upload_id(&self, column: &str) -> Result<UploadId> {
        self.fixed(column).map(UploadId::from_bytes)
    }

    /// The columns `x_key`, `x_length`, `x_blake3`, `x_sha256`.
    fn blob_meta(&self) -> Result<BlobMeta> {
        Ok(BlobMeta {
            key: self.key("x_key")?,
            length: self.unsigned("x_length")?,
            blake3: Blake3(self.fixed("x_blake3")?),
            sha256: self.sha256("x_sha256")?,
        })
    }

    /// The columns `declared_type` and `declared_value` under a prefix.
    fn declared(&self, of_type: &str, value: &str) -> Result<Option<(String, String)>> {
        Ok(self.opt_text(of_type)?.zip(self.opt_text(value)?))
    }
}

impl Columns for AnyRow {
    fn int(&self, column: &str) -> Result<i64> {
        self.try_get(column).at(DECODE, column)
    }

    fn opt_int(&self, column: &str) -> Result<Option<i64>> {
        self.try_get(column).at(DECODE, column)
    }

    fn text(&self, column: &str) -> Result<String> {
        self.try_get(column).at(DECODE, column)
    }

    fn opt_text(&self, column: &str) -> Result<Option<String>> {
        self.try_get(column).at(DECODE, column)
    }

    fn bytes(&self, column: &str) -> Result<Vec<u8>> {
        self.try_get(column).at(DECODE, column)
    }

    fn opt_bytes(&self, column: &str) -> Result<Option<Vec<u8>>> {
        self.try_get(column).at(DECODE, column)
    }
}

/// A SHA-256 as a row holds it: empty while it is deferred.
pub(super) fn sha256_column(sha256: Option<Sha256>) -> Vec<u8> {
    sha256.map_or_else(Vec::new, |sha256| sha256.0.to_vec())
}

/// A length or offset as a row holds it.
pub(super) fn signed(op: &'static str, value: u64) -> Result<i64> {
    i64::try_from(value)
        .map_err(|e| Error::new(ErrorKind::Invalid, op, value.to_string()).with_source(e))
}

/// Places for the values of so many rows of so many columns, as `INSERT` wants them.
pub(super) fn places(columns: usize, rows: usize) -> String {
    let row = |row: usize| parenthesized(row * columns + 1..=(row + 1) * columns);
    (0..rows).map(row).collect::<Vec<_>>().join(", ")
}

/// Places for so many values, the first ones of a statement, as `IN` wants them.
pub(super) fn list(values: usize) -> String {
    parenthesized(1..=values)
}

fn parenthesized(numbers: std::ops::RangeInclusive<usize>) -> String {
    let places = numbers.map(|n| format!("${n}"));
    format!("({})", places.collect::<Vec<_>>().join(", "))
}

/// `part` as a pattern that finds it anywhere, its own wildcards taken literally; for `ESCAPE '\'`.
pub(super) fn containing(part: &str) -> String {
    let mut pattern = String::from("%");
    for c in part.chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_numbered_through_all_rows() {
        assert_eq!(places(2, 2), "($1, $2), ($3, $4)");
        assert_eq!(list(2), "($1, $2)");
    }

    #[test]
    fn wildcards_of_the_searcher_are_literal() {
        assert_eq!(containing("a_b%"), "%a\\_b\\%%");
        assert_eq!(containing(""), "%%");
    }
}
