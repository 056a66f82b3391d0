//! Boxes with everything below them, in five queries however many there are, or six where a SHA-256 is not known yet.

use std::borrow::Cow;
use std::collections::HashMap;

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AssertSqlSafe, Connection as _};

use super::columns::{
    architecture_columns, architecture_of, blob_columns, box_columns, box_of, file_columns,
    file_of, provider_columns, provider_of, version_columns, version_of,
};
use super::{
    ArchitectureId, ArchitectureTree, BoxFilter, BoxId, BoxTree, FileRow, ProviderId, ProviderTree,
    VersionId, VersionTree,
};
use crate::catalog::BoxName;
use crate::error::Result;
use crate::metadata::Metadata;
use crate::metadata::accounts::OrganizationId;
use crate::metadata::sql::{At as _, Columns as _};

impl Metadata {
    /// One box with everything below it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn box_tree(
        &self,
        organization: OrganizationId,
        name: &BoxName,
    ) -> Result<Option<BoxTree>> {
        let which = Which {
            condition: "b.organization = $1 AND b.folded = $2".into(),
            number: Some(organization.0),
            text: Some(name.folded()),
        };
        Ok(self.trees(which).await?.pop())
    }

    /// Boxes with everything below them, by id. At most a fixed number of queries, however many boxes.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn box_trees(&self, filter: BoxFilter) -> Result<Vec<BoxTree>> {
        let listed = "b.is_public = 1 AND b.published = 1";
        let (condition, number) = match filter {
            BoxFilter::Organization(id) => ("b.organization = $1", Some(id.0)),
            BoxFilter::Discover(None) => (listed, None),
            BoxFilter::Discover(Some(account)) => (
                "(b.is_public = 1 AND b.published = 1 OR b.account = $1)",
                Some(account.0),
            ),
        };
        self.trees(Which {
            condition: condition.into(),
            number,
            text: None,
        })
        .await
    }

    /// The boxes of these ids with everything below them, by id; those that are gone are left out.
    pub(super) async fn trees_of(&self, ids: &[BoxId]) -> Result<Vec<BoxTree>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<String> = ids.iter().map(|id| id.0.to_string()).collect();
        self.trees(Which {
            condition: format!("b.id IN ({})", ids.join(", ")).into(),
            number: None,
            text: None,
        })
        .await
    }

    async fn trees(&self, which: Which) -> Result<Vec<BoxTree>> {
        const OP: &str = "box.tree";
        let mut reader = self.reader(OP).await?;
        // One transaction, so that all levels are seen at one moment.
        let mut snapshot = reader.begin().await.at(OP, "boxes")?;
        let trees = read(&mut snapshot, OP, &which).await?;
        snapshot.commit().await.at(OP, "boxes")?;
        Ok(trees)
    }
}

/// Which boxes: a condition on `b` that is made of fixed texts and numbers, and its arguments.
struct Which {
    condition: Cow<'static, str>,
    number: Option<i64>,
    text: Option<String>,
}

impl Which {
    async fn select(
        &self,
        connection: &mut AnyConnection,
        op: &'static str,
        columns: &'static str,
        from: &'static str,
        order: &'static str,
    ) -> Result<Vec<AnyRow>> {
        let condition = &self.condition;
        let statement = format!("SELECT {columns} FROM {from} WHERE {condition} ORDER BY {order}");
        let mut query = sqlx::query(AssertSqlSafe(statement));
        if let Some(number) = self.number {
            query = query.bind(number);
        }
        if let Some(text) = &self.text {
            query = query.bind(text);
        }
        query.fetch_all(connection).await.at(op, "boxes")
    }
}

async fn read(
    connection: &mut AnyConnection,
    op: &'static str,
    which: &Which,
) -> Result<Vec<BoxTree>> {
    let columns = concat!(
        box_columns!(),
        ", o.name AS o_name, u.username AS u_username"
    );
    let from = "boxes b JOIN organizations o ON o.id = b.organization
                    LEFT JOIN users u ON u.id = b.account";
    let boxes = which.select(connection, op, columns, from, "b.id").await?;

    let from = "versions v JOIN boxes b ON b.id = v.box";
    let versions = which
        .select(connection, op, version_columns!(), from, "v.id")
        .await?;

    let from = "providers p JOIN versions v ON v.id = p.version JOIN boxes b ON b.id = v.box";
    let providers = which
        .select(connection, op, provider_columns!(), from, "p.id")
        .await?;

    let from = "architectures a JOIN providers p ON p.id = a.provider
                    JOIN versions v ON v.id = p.version JOIN boxes b ON b.id = v.box";
    let architectures = which
        .select(connection, op, architecture_columns!(), from, "a.id")
        .await?;

    let columns = concat!(file_columns!(), ", ", blob_columns!());
    let from =
        "files f JOIN blobs x ON x.key = f.blob JOIN architectures a ON a.id = f.architecture
                    JOIN providers p ON p.id = a.provider JOIN versions v ON v.id = p.version
                    JOIN boxes b ON b.id = v.box";
    let mut files =
        files_by_architecture(&which.select(connection, op, columns, from, "f.id").await?)?;
    let is_deferred = |file: &FileRow| file.blob.sha256.is_none();
    let mut before = HashMap::new();
    if files.values().any(is_deferred) {
        let rows = which.select(connection, op, FORMER.0, FORMER.1, "ff.updated_ms");
        before = files_by_architecture(&rows.await?)?;
        before.retain(|id, _| files.get(id).is_some_and(is_deferred));
    }
    let mut files_of = |id| (files.remove(&id), before.remove(&id));
    assemble(&boxes, &versions, &providers, &architectures, &mut files_of)
}

/// Columns and tables of what files were before, where their SHA-256 is known.
const FORMER: (&str, &str) = (
    concat!(
        "f.id AS f_id, f.architecture AS f_architecture, f.downloads AS f_downloads,
         ff.declared_type AS f_declared_type, ff.declared_value AS f_declared_value,
         f.created_ms AS f_created_ms, ff.updated_ms AS f_updated_ms, ",
        blob_columns!()
    ),
    "former_files ff JOIN files f ON f.id = ff.file
         JOIN blobs x ON x.key = ff.blob AND length(x.sha256) > 0 AND x.state IN ('live', 'doomed')
         JOIN architectures a ON a.id = f.architecture JOIN providers p ON p.id = a.provider
         JOIN versions v ON v.id = p.version JOIN boxes b ON b.id = v.box",
);

/// Files by their architecture; of several the last.
fn files_by_architecture(rows: &[AnyRow]) -> Result<HashMap<ArchitectureId, FileRow>> {
    rows.iter()
        .map(|row| file_of(row).map(|file| (file.architecture_id, file)))
        .collect()
}

/// Builds the trees from the leaves up; the order of the rows is kept.
fn assemble(
    boxes: &[AnyRow],
    versions: &[AnyRow],
    providers: &[AnyRow],
    architectures: &[AnyRow],
    files_of: &mut dyn FnMut(ArchitectureId) -> (Option<FileRow>, Option<FileRow>),
) -> Result<Vec<BoxTree>> {
    let mut architectures_of: HashMap<ProviderId, Vec<ArchitectureTree>> = HashMap::new();
    for row in architectures {
        let row = architecture_of(row)?;
        let (file, before) = files_of(row.id);
        let siblings = architectures_of.entry(row.provider_id).or_default();
        siblings.push(ArchitectureTree { row, file, before });
    }
    let mut providers_of: HashMap<VersionId, Vec<ProviderTree>> = HashMap::new();
    for row in providers {
        let row = provider_of(row)?;
        let architectures = architectures_of.remove(&row.id).unwrap_or_default();
        let siblings = providers_of.entry(row.version_id).or_default();
        siblings.push(ProviderTree { row, architectures });
    }
    let mut versions_of: HashMap<BoxId, Vec<VersionTree>> = HashMap::new();
    for row in versions {
        let row = version_of(row)?;
        let providers = providers_of.remove(&row.id).unwrap_or_default();
        let siblings = versions_of.entry(row.box_id).or_default();
        siblings.push(VersionTree { row, providers });
    }
    boxes
        .iter()
        .map(|columns| {
            let row = box_of(columns)?;
            let versions = versions_of.remove(&row.id).unwrap_or_default();
            Ok(BoxTree {
                row,
                organization_name: columns.name("o_name")?,
                username: columns.opt_text("u_username")?,
                versions,
            })
        })
        .collect()
}
