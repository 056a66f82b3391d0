//! All rows of an embedded database into an empty PostgreSQL database: all of them, or none.
//!
//! One transaction takes the rows over table by table and reads them back; only when both sides hold the same is it
//! committed. Rows are compared by the sum of their hashes, since the two databases sort texts differently. Nobody may
//! use either database meanwhile: of the embedded one the data directory's lock sees to it, of the other its turn.

use std::path::Path;

use futures_util::TryStreamExt as _;
use sqlx::any::{AnyArguments, AnyRow};
use sqlx::query::Query;
use sqlx::{Any, AnyConnection, AssertSqlSafe, Connection as _, Row as _};

use super::dialect::Database;
use super::schema;
use super::sql::{At as _, Columns as _};
use crate::error::{Error, ErrorKind, Result};

const OP: &str = "metadata.transfer";

/// All tables, those first that others refer to.
const TABLES: [&str; 37] = [
    "counters",
    "users",
    "organizations",
    "memberships",
    "tokens",
    "keys",
    "boxes",
    "versions",
    "providers",
    "architectures",
    "blobs",
    "blob_trees",
    "files",
    "former_files",
    "isos",
    "uploads",
    "parts",
    "pieces",
    "joins",
    "trash",
    "outbox",
    "claims",
    "audit",
    "orphans",
    "upkeep",
    "plugins",
    "plugin_bundles",
    "inbound",
    "webhooks",
    "webhook_bodies",
    "webhook_deliveries",
    "webhook_attempts",
    "webhook_replies",
    "orders",
    "stragglers",
    "imported",
    "rate_demands",
];

/// Rows that one statement inserts: what is sent at once stays small, trees of large blobs included.
const ROWS_AT_ONCE: usize = 50;
/// Bytes of values after which a statement is sent, however few its rows.
const BYTES_AT_ONCE: usize = 4 << 20;

/// A table that was taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// Its rows.
    pub rows: u64,
}

/// Takes all rows of the embedded database at `from` over into the PostgreSQL database of the URL `to`, which must
/// hold none; tells each table. Brings the schema of both up to date first.
///
/// # Errors
/// [`ErrorKind::Conflict`] when there are rows already; [`ErrorKind::Damaged`] when what was written reads back
/// otherwise; when either database does not answer. Then nothing was taken over, unless only the answer to the last
/// step was lost: another try tells.
pub async fn transfer(from: &Path, to: &str, mut tell: impl FnMut(&Table) + Send) -> Result<()> {
    let (source, target) = (Database::sqlite(from)?, Database::postgres(to)?);
    let (mut from, mut to) = (
        source.connect_writer().await?,
        target.connect_writer().await?,
    );
    source.assert_safe(&mut from).await?;
    target.assert_safe(&mut to).await?;
    schema::migrate(&source, &mut from).await?;
    schema::migrate(&target, &mut to).await?;
    execute(&mut to, target.begin_write()).await?;
    target.take_turn(&mut to).await?;
    for table in TABLES {
        if rows_of(&mut to, table).await? > 0 {
            let error = Error::new(ErrorKind::Conflict, OP, table);
            return Err(error.with_source("the database holds rows already"));
        }
    }
    for name in TABLES {
        let columns = columns_of(&mut from, name).await?;
        let sent = copy(&mut from, &mut to, name, &columns).await?;
        let found = sum_of(&mut to, name, &columns).await?;
        if sent != found {
            let error = Error::new(ErrorKind::Damaged, OP, name);
            return Err(error.with_source("what was written reads back otherwise"));
        }
        let rows = sent.rows;
        tell(&Table { name, rows });
    }
    execute(&mut to, "COMMIT").await?;
    for connection in [from, to] {
        connection.close().await.at(OP, "database")?;
    }
    Ok(())
}

async fn execute(connection: &mut AnyConnection, statement: &'static str) -> Result<()> {
    let done = sqlx::query(statement).execute(connection).await;
    done.at(OP, statement).map(drop)
}

async fn rows_of(connection: &mut AnyConnection, table: &str) -> Result<u64> {
    let count = format!("SELECT COUNT(*) AS n FROM {table}");
    let row = sqlx::query(AssertSqlSafe(count))
        .fetch_one(connection)
        .await;
    row.at(OP, table)?.unsigned("n")
}

/// A column by its name and what it holds.
struct Column {
    name: String,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Number,
    Text,
    Bytes,
}

async fn columns_of(source: &mut AnyConnection, table: &str) -> Result<Vec<Column>> {
    let rows = sqlx::query("SELECT name, type AS kind FROM pragma_table_info($1) ORDER BY cid")
        .bind(table)
        .fetch_all(source)
        .await
        .at(OP, table)?;
    let column = |row: &AnyRow| {
        let kind = |word: &str| match word {
            "BIGINT" => Some(Kind::Number),
            "TEXT" => Some(Kind::Text),
            "BLOB" => Some(Kind::Bytes),
            _ => None,
        };
        Ok(Column {
            name: row.text("name")?,
            kind: row.word("kind", kind)?,
        })
    };
    rows.iter().map(column).collect()
}

fn select(table: &str, columns: &[Column]) -> AssertSqlSafe<String> {
    let names: Vec<_> = columns.iter().map(|column| column.name.as_str()).collect();
    AssertSqlSafe(format!("SELECT {} FROM {table}", names.join(", ")))
}

fn insert(table: &str, columns: &[Column], rows: usize) -> AssertSqlSafe<String> {
    let names: Vec<_> = columns.iter().map(|column| column.name.as_str()).collect();
    let values = (0..rows).map(|row| {
        let places = (1..=columns.len()).map(|n| format!("${}", row * columns.len() + n));
        format!("({})", places.collect::<Vec<_>>().join(", "))
    });
    let (names, values) = (names.join(", "), values.collect::<Vec<_>>().join(", "));
    AssertSqlSafe(format!("INSERT INTO {table} ({names}) VALUES {values}"))
}

/// One value of a row.
#[derive(Debug)]
enum Value {
    Number(Option<i64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
}

impl Value {
    fn of(row: &AnyRow, n: usize, column: &Column) -> Result<Self> {
        let name = &column.name;
        Ok(match column.kind {
            Kind::Number => Self::Number(row.try_get(n).at(OP, name)?),
            Kind::Text => Self::Text(row.try_get(n).at(OP, name)?),
            Kind::Bytes => Self::Bytes(row.try_get(n).at(OP, name)?),
        })
    }

    fn bytes(&self) -> Option<std::borrow::Cow<'_, [u8]>> {
        match self {
            Self::Number(number) => number.map(|number| number.to_le_bytes().to_vec().into()),
            Self::Text(text) => text.as_ref().map(|text| text.as_bytes().into()),
            Self::Bytes(bytes) => bytes.as_ref().map(|bytes| bytes.as_slice().into()),
        }
    }
}

/// How many rows there are, and the sum of their hashes, whatever their order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sum {
    rows: u64,
    hashes: [u64; 4],
}

impl Sum {
    fn add(&mut self, values: &[Value]) {
        let mut hasher = blake3::Hasher::new();
        for value in values {
            // The length keeps apart what stands side by side; nothing is not the same as empty.
            let bytes = value.bytes();
            let length = bytes.as_ref().map_or(u64::MAX, |bytes| bytes.len() as u64);
            hasher.update(&length.to_le_bytes());
            hasher.update(bytes.as_deref().unwrap_or_default());
        }
        let hash = hasher.finalize();
        let words = hash.as_bytes().chunks_exact(8);
        for (sum, word) in self.hashes.iter_mut().zip(words) {
            let word = u64::from_le_bytes(word.try_into().expect("eight bytes are a word"));
            *sum = sum.wrapping_add(word);
        }
        self.rows += 1;
    }
}

fn values_of(row: &AnyRow, columns: &[Column]) -> Result<Vec<Value>> {
    let columns = columns.iter().enumerate();
    columns
        .map(|(n, column)| Value::of(row, n, column))
        .collect()
}

async fn copy(
    from: &mut AnyConnection,
    to: &mut AnyConnection,
    table: &str,
    columns: &[Column],
) -> Result<Sum> {
    let mut sum = Sum::default();
    let mut waiting: Vec<Value> = Vec::new();
    let (mut rows, mut bytes) = (0, 0);
    let mut found = sqlx::query(select(table, columns)).fetch(from);
    while let Some(row) = found.try_next().await.at(OP, table)? {
        let values = values_of(&row, columns)?;
        sum.add(&values);
        bytes += values
            .iter()
            .filter_map(Value::bytes)
            .map(|b| b.len())
            .sum::<usize>();
        waiting.extend(values);
        rows += 1;
        if rows == ROWS_AT_ONCE || bytes >= BYTES_AT_ONCE {
            write(to, table, columns, rows, std::mem::take(&mut waiting)).await?;
            (rows, bytes) = (0, 0);
        }
    }
    if rows > 0 {
        write(to, table, columns, rows, waiting).await?;
    }
    Ok(sum)
}

async fn write(
    to: &mut AnyConnection,
    table: &str,
    columns: &[Column],
    rows: usize,
    values: Vec<Value>,
) -> Result<()> {
    let mut query: Query<'_, Any, AnyArguments> = sqlx::query(insert(table, columns, rows));
    for value in values {
        query = match value {
            Value::Number(number) => query.bind(number),
            Value::Text(text) => query.bind(text),
            Value::Bytes(bytes) => query.bind(bytes),
        };
    }
    query.execute(to).await.at(OP, table).map(drop)
}

async fn sum_of(to: &mut AnyConnection, table: &str, columns: &[Column]) -> Result<Sum> {
    let mut sum = Sum::default();
    let mut rows = sqlx::query(select(table, columns)).fetch(to);
    while let Some(row) = rows.try_next().await.at(OP, table)? {
        sum.add(&values_of(&row, columns)?);
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_table_of_the_schema_is_taken_over() {
        let home = tempfile::tempdir().unwrap();
        let database = Database::sqlite(&home.path().join("a.db")).unwrap();
        let mut connection = database.connect_writer().await.unwrap();
        schema::migrate(&database, &mut connection).await.unwrap();
        let rows = sqlx::query(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'
             AND name NOT LIKE '_sqlx_%' ORDER BY name",
        )
        .fetch_all(&mut connection)
        .await
        .unwrap();
        let found: Vec<_> = rows.iter().map(|row| row.text("name").unwrap()).collect();
        let mut listed = TABLES;
        listed.sort_unstable();
        assert_eq!(found, listed);
        for table in TABLES {
            let columns = columns_of(&mut connection, table).await.unwrap();
            assert!(!columns.is_empty(), "{table}");
        }
    }

    #[test]
    fn sums_tell_rows_apart_and_not_their_order() {
        let text = |text: &str| Value::Text(Some(text.to_owned()));
        let sum = |rows: &[Vec<Value>]| {
            let mut sum = Sum::default();
            for row in rows {
                sum.add(row);
            }
            sum
        };
        let (ab, c) = (
            || vec![text("a"), text("b")],
            || vec![text("c"), Value::Number(None)],
        );
        assert_eq!(sum(&[ab(), c()]), sum(&[c(), ab()]));
        assert_ne!(sum(&[ab()]), sum(&[vec![text("ab"), text("")]]));
        assert_ne!(sum(&[vec![text("")]]), sum(&[vec![Value::Text(None)]]));
        assert_ne!(sum(&[ab()]), sum(&[ab(), ab()]));
    }
}
