//! Boxes: made, found, changed.

use futures_util::FutureExt as _;
use sqlx::AnyConnection;

use super::columns::{Level, box_columns, box_of};
use super::{BoxFields, BoxId, BoxRow};
use crate::catalog::BoxName;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::accounts::{AccountId, OrganizationId};
use crate::metadata::sql::At as _;
use crate::metadata::writer::Tx;
use crate::metadata::{Metadata, audit, outbox};

/// The box of a folded name in an organization.
macro_rules! by_name {
    () => {
        " FROM boxes b WHERE b.organization = $1 AND b.folded = $2"
    };
}

impl Metadata {
    /// Makes a box.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when the name is taken, [`ErrorKind::NotFound`] when the organization is
    /// gone.
    pub async fn create_box(
        &self,
        organization: OrganizationId,
        name: &BoxName,
        account: AccountId,
        fields: BoxFields,
        actor: &str,
    ) -> Result<BoxRow> {
        const OP: &str = "box.create";
        let (name, actor) = (name.clone(), actor.to_owned());
        self.write(OP, move |tx| {
            async move {
                let id = insert(tx, OP, organization, &name, account, fields).await?;
                let place = Level::Box(id)
                    .existing_place(&mut tx.connection, OP)
                    .await?;
                audit::record(tx, &actor, OP, &place.path()).await?;
                existing(&mut tx.connection, OP, id).await
            }
            .boxed()
        })
        .await
    }

    /// One box without what is below it.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the database does not answer.
    pub async fn box_row(
        &self,
        organization: OrganizationId,
        name: &BoxName,
    ) -> Result<Option<BoxRow>> {
        let hidden_too = concat!("SELECT ", box_columns!(), by_name!());
        self.found_box(organization, name, |_any| true, hidden_too)
            .await
    }

    /// The same for whoever may read what is public alone, and so shall not learn by the time of an answer either that there
    /// is another of that name.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the database does not answer.
    pub async fn public_box(
        &self,
        organization: OrganizationId,
        name: &BoxName,
    ) -> Result<Option<BoxRow>> {
        let public = concat!(
            "SELECT ",
            box_columns!(),
            by_name!(),
            " AND b.is_public = 1"
        );
        self.found_box(organization, name, |row| row.fields.public, public)
            .await
    }

    /// What is known of that name where that `fits`, else what the query finds.
    async fn found_box(
        &self,
        organization: OrganizationId,
        name: &BoxName,
        fits: fn(&BoxRow) -> bool,
        query: &'static str,
    ) -> Result<Option<BoxRow>> {
        const OP: &str = "box.read";
        let read = async {
            let mut reader = self.reader(OP).await?;
            sqlx::query(query)
                .bind(organization.0)
                .bind(name.folded())
                .fetch_optional(&mut *reader)
                .await
                .at(OP, name)?
                .as_ref()
                .map(box_of)
                .transpose()
        };
        let key = (organization, name.folded());
        let known = &self.inner.known.boxes;
        known.or_read_fit(key, fits, read).await
    }

    /// Replaces the editable fields, and the name if given. Emits `box.updated` with what changed.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], or [`ErrorKind::Conflict`] when the new name is taken.
    pub async fn update_box(
        &self,
        id: BoxId,
        name: Option<&BoxName>,
        fields: BoxFields,
        actor: &str,
    ) -> Result<BoxRow> {
        const OP: &str = "box.update";
        let (name, actor) = (name.cloned(), actor.to_owned());
        self.write(OP, move |tx| {
            async move {
                let before = existing(&mut tx.connection, OP, id).await?;
                let place_before = Level::Box(id)
                    .existing_place(&mut tx.connection, OP)
                    .await?;
                let name = name.unwrap_or_else(|| before.name.clone());
                let changed = changed(&before, &name, &fields);
                update(tx, OP, id, &name, fields).await?;
                let place = Level::Box(id)
                    .existing_place(&mut tx.connection, OP)
                    .await?;
                if !changed.is_empty() {
                    let event = outbox::box_updated(&place, Some(&place_before), &changed);
                    outbox::append(tx, event, &actor).await?;
                }
                audit::record(tx, &actor, OP, &place.path()).await?;
                existing(&mut tx.connection, OP, id).await
            }
            .boxed()
        })
        .await
    }
}

/// Adds the row alone.
pub(super) async fn insert(
    tx: &mut Tx,
    op: &'static str,
    organization: OrganizationId,
    name: &BoxName,
    account: AccountId,
    fields: BoxFields,
) -> Result<BoxId> {
    let id = tx.next_id("boxes").await?;
    sqlx::query(
        "INSERT INTO boxes (id, organization, name, folded, account, description,
             short_description, readme, github_repo, workflow_file, cicd_url, metadata, published,
             is_public, created_ms, updated_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $15)",
    )
    .bind(id)
    .bind(organization.0)
    .bind(name.as_str())
    .bind(name.folded())
    .bind(account.0)
    .bind(fields.description)
    .bind(fields.short_description)
    .bind(fields.readme)
    .bind(fields.github_repo)
    .bind(fields.workflow_file)
    .bind(fields.cicd_url)
    .bind(fields.metadata)
    .bind(i64::from(fields.published))
    .bind(i64::from(fields.public))
    .bind(tx.now.0)
    .execute(&mut tx.connection)
    .await
    .at(op, name)?;
    Ok(BoxId(id))
}

async fn update(
    tx: &mut Tx,
    op: &'static str,
    id: BoxId,
    name: &BoxName,
    fields: BoxFields,
) -> Result<()> {
    sqlx::query(
        "UPDATE boxes SET name = $2, folded = $3, description = $4, short_description = $5,
             readme = $6, github_repo = $7, workflow_file = $8, cicd_url = $9, metadata = $10,
             published = $11, is_public = $12, updated_ms = $13
         WHERE id = $1",
    )
    .bind(id.0)
    .bind(name.as_str())
    .bind(name.folded())
    .bind(fields.description)
    .bind(fields.short_description)
    .bind(fields.readme)
    .bind(fields.github_repo)
    .bind(fields.workflow_file)
    .bind(fields.cicd_url)
    .bind(fields.metadata)
    .bind(i64::from(fields.published))
    .bind(i64::from(fields.public))
    .bind(tx.now.0)
    .execute(&mut tx.connection)
    .await
    .at(op, name)
    .map(drop)
}

async fn existing(connection: &mut AnyConnection, op: &'static str, id: BoxId) -> Result<BoxRow> {
    let row = sqlx::query(concat!(
        "SELECT ",
        box_columns!(),
        " FROM boxes b WHERE b.id = $1"
    ))
    .bind(id.0)
    .fetch_optional(connection)
    .await
    .at(op, id.0)?
    .ok_or_else(|| Error::new(ErrorKind::NotFound, op, format!("box {}", id.0)))?;
    box_of(&row)
}

/// The fields that differ, in the words of the events.
fn changed(before: &BoxRow, name: &BoxName, after: &BoxFields) -> Vec<&'static str> {
    let old = &before.fields;
    [
        ("name", before.name != *name),
        ("description", old.description != after.description),
        (
            "short_description",
            old.short_description != after.short_description,
        ),
        ("readme", old.readme != after.readme),
        ("github_repo", old.github_repo != after.github_repo),
        ("workflow_file", old.workflow_file != after.workflow_file),
        ("cicd_url", old.cicd_url != after.cicd_url),
        ("metadata", old.metadata != after.metadata),
        ("published", old.published != after.published),
        ("public", old.public != after.public),
    ]
    .into_iter()
    .filter_map(|(field, differs)| differs.then_some(field))
    .collect()
}
