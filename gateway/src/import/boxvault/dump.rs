//! What a BoxVault's database says: `MariaDB` or SQLite, read in one transaction and changed in nothing.
//!
//! Columns have come and gone over its releases, and some are spelled in two ways; each is read as text where it is there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use boxgate_storage::clock::UnixMillis;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sqlx::any::AnyConnectOptions;
use sqlx::{AnyConnection, AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _};

/// What a path keeps of itself in the URL that the driver decodes again.
const OF_PATHS: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'.')
    .remove(b'_')
    .remove(b'-');
/// Tables that are not brought, and what they hold.
const OTHERS: [(&str, &str); 6] = [
    ("invitations", "invitations"),
    ("requests", "requests to join"),
    ("organization_requests", "requests to join"),
    ("federated_credentials", "logins by other services"),
    ("box_watchers", "people who follow boxes"),
    ("push_subscriptions", "subscriptions of browsers"),
];

/// Where the database is, as it was named.
#[derive(Clone, PartialEq, Eq)]
pub struct Database(String);

impl std::fmt::Debug for Database {
    // It may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// One row, without what is null or empty.
#[derive(Debug, Default)]
pub(super) struct Row(HashMap<&'static str, String>);

/// All rows of interest, each table by its ids.
#[derive(Debug, Default)]
pub(super) struct Dump {
    pub(super) users: Vec<Row>,
    /// Names of the platform's roles by users.
    pub(super) roles: HashMap<i64, HashSet<String>>,
    pub(super) organizations: Vec<Row>,
    pub(super) memberships: Vec<Row>,
    pub(super) keys: Vec<Row>,
    pub(super) boxes: Vec<Row>,
    /// By boxes.
    pub(super) versions: BTreeMap<i64, Vec<Row>>,
    /// By versions.
    pub(super) providers: BTreeMap<i64, Vec<Row>>,
    /// By providers.
    pub(super) architectures: BTreeMap<i64, Vec<Row>>,
    /// By architectures.
    pub(super) files: BTreeMap<i64, Vec<Row>>,
    pub(super) isos: Vec<Row>,
    /// What else there is: a table, how many rows, and what they are.
    pub(super) others: Vec<(&'static str, i64, &'static str)>,
}

impl Row {
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn owned(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }

    /// By either of two spellings.
    pub(super) fn either(&self, names: [&str; 2]) -> Option<String> {
        names.into_iter().find_map(|name| self.owned(name))
    }

    pub(super) fn number(&self, name: &str) -> Option<i64> {
        self.text(name)?.parse().ok()
    }

    /// Yes or no, if it is said.
    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        self.text(name)
            .map(|text| text != "0" && !text.eq_ignore_ascii_case("false"))
    }

    /// A moment, which both databases hold in UTC: `2026-11-21 19:04:45.990 +00:00`, or without the zone.
    pub(super) fn time(&self, name: &str) -> Option<UnixMillis> {
        let text = self.text(name)?;
        let text = text.trim_end_matches('Z').trim_end_matches(" +00:00");
        let civil: DateTime = text.parse().ok()?;
        let zoned = civil.to_zoned(TimeZone::UTC).ok()?;
        Some(UnixMillis(zoned.timestamp().as_millisecond()))
    }
}

impl Database {
    /// `mysql://` and `mariadb://` are addresses, all else is the path of a file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn named(text: &str) -> Result<Self, String> {
        if ["mysql://", "mariadb://"]
            .iter()
            .any(|scheme| text.starts_with(scheme))
        {
            return Ok(Self(text.to_owned()));
        }
        let path = text.strip_prefix("sqlite://").unwrap_or(text);
        if path.contains("://") {
            let text = "must be mysql://USER:PASSWORD@HOST/DATABASE or the path of a SQLite file";
            return Err(text.to_owned());
        }
        let path = std::path::absolute(Path::new(path)).map_err(|e| e.to_string())?;
        let Some(path) = path.to_str() else {
            return Err("the path is not valid UTF-8".to_owned());
        };
        // The driver would make a file that is not there.
        if !Path::new(path).is_file() {
            return Err(format!("{path} is no file"));
        }
        let path = utf8_percent_encode(path, OF_PATHS);
        Ok(Self(format!("sqlite://{path}?mode=ro")))
    }

    fn is_file(&self) -> bool {
        self.0.starts_with("sqlite:")
    }

    /// Reads all of it.
    ///
    /// # Errors
    /// Why it cannot be read, in one line.
    pub(super) async fn read(&self) -> Result<Dump, String> {
        let failed = |e: sqlx::Error| format!("the database of the BoxVault cannot be read: {e}");
        sqlx::any::install_default_drivers();
        let options: AnyConnectOptions = self.0.parse().map_err(failed)?;
        let options = options.disable_statement_logging();
        let connecting = AnyConnection::connect_with(&options);
        let mut connection = connecting.await.map_err(failed)?;
        let mut transaction = connection.begin().await.map_err(failed)?;
        let mut reader = Reader {
            connection: &mut transaction,
            is_file: self.is_file(),
        };
        let dump = reader.all().await.map_err(failed)?;
        transaction.rollback().await.map_err(failed)?;
        connection.close().await.map_err(failed)?;
        dump.ok_or_else(|| {
            "that is no BoxVault's database: it has no tables users, organizations and boxes"
                .to_owned()
        })
    }
}

struct Reader<'c> {
    connection: &'c mut AnyConnection,
    is_file: bool,
}

impl Reader<'_> {
    /// `None` where it is the database of something else.
    async fn all(&mut self) -> sqlx::Result<Option<Dump>> {
        let tables = self.tables().await?;
        if ["users", "organizations", "boxes"]
            .iter()
            .any(|table| !tables.contains(*table))
            || !self.columns("boxes").await?.contains("organizationId")
        {
            return Ok(None);
        }
        let mut dump = Dump {
            users: self.rows("users", &USERS).await?,
            organizations: self.rows("organizations", &ORGANIZATIONS).await?,
            memberships: self.rows("user_organizations", &MEMBERSHIPS).await?,
            keys: self.rows("service_accounts", &KEYS).await?,
            boxes: self.rows("boxes", &BOXES).await?,
            versions: by("boxId", self.rows("versions", &VERSIONS).await?),
            providers: by("versionId", self.rows("providers", &PROVIDERS).await?),
            architectures: by(
                "providerId",
                self.rows("architectures", &ARCHITECTURES).await?,
            ),
            files: by("architectureId", self.rows("files", &FILES).await?),
            isos: self.rows("isos", &ISOS).await?,
            ..Dump::default()
        };
        let names: HashMap<i64, String> = self
            .rows("roles", &["id", "name"])
            .await?
            .iter()
            .filter_map(|role| Some((role.number("id")?, role.owned("name")?)))
            .collect();
        for row in self.rows("user_roles", &["userId", "roleId"]).await? {
            let role = row.number("roleId").and_then(|id| names.get(&id));
            if let (Some(user), Some(role)) = (row.number("userId"), role) {
                dump.roles.entry(user).or_default().insert(role.clone());
            }
        }
        for (table, what) in OTHERS {
            if !tables.contains(table) {
                continue;
            }
            let count = format!("SELECT CAST(COUNT(*) AS CHAR) AS total FROM `{table}`");
            let row = sqlx::query(AssertSqlSafe(count));
            let row = row.fetch_one(&mut *self.connection).await?;
            let text: String = row.try_get("total")?;
            match text.parse() {
                Ok(0) | Err(_) => {}
                Ok(total) => dump.others.push((table, total, what)),
            }
        }
        Ok(Some(dump))
    }

    async fn tables(&mut self) -> sqlx::Result<HashSet<String>> {
        let sql = if self.is_file {
            "SELECT name FROM sqlite_master WHERE type = 'table'"
        } else {
            "SELECT CAST(table_name AS CHAR) AS name FROM information_schema.tables
             WHERE table_schema = DATABASE()"
        };
        self.names(sql.to_owned()).await
    }

    async fn columns(&mut self, table: &str) -> sqlx::Result<HashSet<String>> {
        let sql = if self.is_file {
            format!("SELECT name FROM pragma_table_info('{table}')")
        } else {
            format!(
                "SELECT CAST(column_name AS CHAR) AS name FROM information_schema.columns
                 WHERE table_schema = DATABASE() AND table_name = '{table}'"
            )
        };
        self.names(sql).await
    }

    async fn names(&mut self, sql: String) -> sqlx::Result<HashSet<String>> {
        let rows = sqlx::query(AssertSqlSafe(sql));
        let rows = rows.fetch_all(&mut *self.connection).await?;
        rows.iter().map(|row| row.try_get("name")).collect()
    }

    /// Those of `wanted` that a table has; no row where it is not there.
    async fn rows(&mut self, table: &str, wanted: &[&'static str]) -> sqlx::Result<Vec<Row>> {
        let there = self.columns(table).await?;
        let wanted = wanted.iter().copied();
        let columns: Vec<&'static str> = wanted.filter(|name| there.contains(*name)).collect();
        if columns.is_empty() {
            return Ok(Vec::new());
        }
        // The driver for any database knows few types; all of them are told as text.
        let texts: Vec<String> = columns
            .iter()
            .map(|name| format!("CAST(`{name}` AS CHAR) AS `{name}`"))
            .collect();
        let order = if columns.contains(&"id") {
            " ORDER BY `id`"
        } else {
            ""
        };
        let sql = format!("SELECT {} FROM `{table}`{order}", texts.join(", "));
        let rows = sqlx::query(AssertSqlSafe(sql));
        let rows = rows.fetch_all(&mut *self.connection).await?;
        let mut read = Vec::with_capacity(rows.len());
        for row in rows {
            let mut fields = HashMap::new();
            for name in &columns {
                let text: Option<String> = row.try_get(*name)?;
                fields.extend(text.filter(|t| !t.is_empty()).map(|text| (*name, text)));
            }
            read.push(Row(fields));
        }
        Ok(read)
    }
}

fn by(parent: &'static str, rows: Vec<Row>) -> BTreeMap<i64, Vec<Row>> {
    let mut grouped: BTreeMap<i64, Vec<Row>> = BTreeMap::new();
    for row in rows {
        if let Some(id) = row.number(parent) {
            grouped.entry(id).or_default().push(row);
        }
    }
    grouped
}

const USERS: [&str; 7] = [
    "id",
    "username",
    "name",
    "email",
    "password",
    "verified",
    "suspended",
];
const ORGANIZATIONS: [&str; 8] = [
    "id",
    "name",
    "email",
    "description",
    "org_code",
    "suspended",
    "access_mode",
    "default_role",
];
const MEMBERSHIPS: [&str; 4] = ["id", "user_id", "organization_id", "role"];
const KEYS: [&str; 7] = [
    "id",
    "username",
    "token",
    "description",
    "expiresAt",
    "userId",
    "organization_id",
];
const BOXES: [&str; 14] = [
    "id",
    "name",
    "description",
    "shortDescription",
    "short_description",
    "readme",
    "metadata",
    "githubRepo",
    "workflowFile",
    "cicdUrl",
    "published",
    "isPublic",
    "userId",
    "organizationId",
];
const VERSIONS: [&str; 11] = [
    "id",
    "boxId",
    "versionNumber",
    "description",
    "release_notes",
    "releaseNotes",
    "deprecated",
    "deprecation_reason",
    "deprecationReason",
    "published",
    "is_public",
];
const PROVIDERS: [&str; 4] = ["id", "versionId", "name", "description"];
const ARCHITECTURES: [&str; 5] = ["id", "providerId", "name", "description", "defaultBox"];
const ISOS: [&str; 8] = [
    "id",
    "name",
    "description",
    "size",
    "checksum",
    "isPublic",
    "storagePath",
    "organizationId",
];
const FILES: [&str; 6] = [
    "id",
    "architectureId",
    "checksum",
    "checksumType",
    "downloadCount",
    "fileSize",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_both_databases_write_them() {
        let time = |text: &str| Row(HashMap::from([("at", text.to_owned())])).time("at");
        let expected = Some(UnixMillis(1_795_287_885_990));
        assert_eq!(time("2026-11-21 19:04:45.990 +00:00"), expected);
        assert_eq!(time("2026-11-21T19:04:45.990Z"), expected);
        let whole = Some(UnixMillis(1_795_287_885_000));
        assert_eq!(time("2026-11-21 19:04:45"), whole);
        assert_eq!(time("never"), None);
    }

    #[test]
    fn a_database_is_an_address_or_a_file_that_is_there() {
        for address in ["mysql://u:p@h/d", "mariadb://h/d"] {
            assert!(!Database::named(address).unwrap().is_file());
        }
        let file = tempfile::NamedTempFile::with_suffix(" 50%?.sqlite").unwrap();
        let named = Database::named(file.path().to_str().unwrap()).unwrap();
        assert!(named.is_file() && named.0.ends_with("%2050%25%3F.sqlite?mode=ro"));
        assert_eq!(format!("{named:?}"), "***");
        for wrong in ["postgres://h/d", "/nowhere/at/all", "/"] {
            assert!(Database::named(wrong).is_err(), "{wrong}");
        }
    }
}
