//! Events, written in the transaction of the change they tell of; delivery comes later.
//!
//! The shapes of `data` are the webhooks' contract: identifiers first, then what happened, then the
//! members that every event has. No floats, no integers above 2^53, no secrets.

use std::borrow::Cow;

use futures_util::FutureExt as _;
use serde_json::{Map, Value, json};

use super::Metadata;
use super::orders::Teller;
use super::sql::{At as _, Columns as _};
use super::writer::Tx;
use crate::blob::BlobMeta;
use crate::catalog::IsoName;
use crate::clock::UnixMillis;
use crate::digest::{Algorithm, Blake3, Sha256};
use crate::error::{Error, ErrorKind, Result};

/// One event as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Order of commit.
    pub seq: i64,
    /// Random id, the same however often it is delivered.
    pub id: String,
    /// Name, such as `box.uploaded`.
    pub name: String,
    /// JSON object.
    pub data: String,
    /// When it happened.
    pub occurred: UnixMillis,
    /// How many events led to it, one after the other.
    pub depth: u32,
    /// The plugins that led to it, the first first.
    pub causes: Vec<String>,
    /// The trace that it belongs to.
    pub trace: Option<String>,
}

/// An event of a plugin's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emission {
    /// `x.<plugin>.<name>`
    pub name: String,
    /// The plugin.
    pub plugin: String,
    /// What is told.
    pub data: Map<String, Value>,
    /// How many events led to it.
    pub depth: u32,
    /// The plugins that led to it, this one last.
    pub causes: Vec<String>,
}

impl Metadata {
    /// Up to `limit` events after `after`, in order.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn events(&self, after: i64, limit: u32) -> Result<Vec<Event>> {
        const OP: &str = "outbox.events";
        let mut reader = self.reader(OP).await?;
        sqlx::query(
            "SELECT seq, id, name, data, occurred_ms, depth, causes, trace FROM outbox
             WHERE seq > $1 ORDER BY seq LIMIT $2",
        )
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(&mut *reader)
        .await
        .at(OP, "outbox")?
        .iter()
        .map(|row| {
            Ok(Event {
                seq: row.int("seq")?,
                id: row.text("id")?,
                name: row.text("name")?,
                data: row.text("data")?,
                occurred: row.time("occurred_ms")?,
                depth: u32::try_from(row.int("depth")?).unwrap_or(u32::MAX),
                causes: match row.opt_text("causes")? {
                    Some(json) => serde_json::from_str(&json)
                        .map_err(|e| Error::new(ErrorKind::Damaged, OP, "causes").with_source(e))?,
                    None => Vec::new(),
                },
                trace: row.opt_text("trace")?,
            })
        })
        .collect()
    }

    /// The number of the newest event; 0 before the first.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn newest_event(&self) -> Result<i64> {
        const OP: &str = "outbox.newest";
        let mut reader = self.reader(OP).await?;
        sqlx::query("SELECT COALESCE(MAX(seq), 0) AS seq FROM outbox")
            .fetch_one(&mut *reader)
            .await
            .at(OP, "outbox")?
            .int("seq")
    }

    /// Forgets up to `limit` events up to the number `told` that happened at or before `until`; returns how many.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn prune_events(&self, told: i64, until: UnixMillis, limit: u32) -> Result<u64> {
        const OP: &str = "outbox.prune";
        self.write(OP, move |tx| {
            async move {
                // In the order of their numbers, which their key has; the newest stays, for it tells the last number.
                let gone = sqlx::query(
                    "DELETE FROM outbox WHERE seq IN (
                         SELECT seq FROM outbox WHERE seq <= $1 AND occurred_ms <= $2
                             AND seq < (SELECT MAX(seq) FROM outbox)
                         ORDER BY seq LIMIT $3)",
                )
                .bind(told)
                .bind(until.0)
                .bind(i64::from(limit))
                .execute(&mut tx.connection)
                .await
                .at(OP, "outbox")?;
                Ok(gone.rows_affected())
            }
            .boxed()
        })
        .await
    }

    /// When the oldest event happened that is still kept.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn oldest_event(&self) -> Result<Option<UnixMillis>> {
        const OP: &str = "outbox.oldest";
        let mut reader = self.reader(OP).await?;
        sqlx::query("SELECT occurred_ms FROM outbox ORDER BY seq LIMIT 1")
            .fetch_optional(&mut *reader)
            .await
            .at(OP, "outbox")?
            .map(|row| row.time("occurred_ms"))
            .transpose()
    }

    /// Records how a plugin stands at this process: `script.reload_failed` or `script.recovered`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn tell(&self, name: &'static str, data: Value) -> Result<()> {
        self.write("outbox.tell", move |tx| {
            async move {
                let draft = Draft {
                    name: name.into(),
                    data: members(data),
                };
                append(tx, draft, "").await
            }
            .boxed()
        })
        .await
    }

    /// Records an event of a plugin's own.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn emit(&self, emission: Emission) -> Result<()> {
        self.write("outbox.emit", move |tx| {
            async move {
                let actor = format!("script:{}", emission.plugin);
                let draft = Draft {
                    name: emission.name.into(),
                    data: emission.data,
                };
                record(tx, draft, &actor, emission.depth, &emission.causes).await
            }
            .boxed()
        })
        .await
    }
}

/// Records what became of a server of an adapter.
pub(super) async fn provider_server(
    tx: &mut Tx,
    what: &str,
    teller: Teller,
    told: Value,
) -> Result<()> {
    let mut data = members(told);
    data.insert("provider".to_owned(), json!(teller.provider));
    let draft = Draft {
        name: format!("provider.server.{what}").into(),
        data,
    };
    let actor = format!("script:{}", teller.plugin);
    record(tx, draft, &actor, 0, &[teller.plugin]).await
}

/// An event that is not recorded yet.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) name: Cow<'static, str>,
    data: Map<String, Value>,
}

impl Draft {
    /// What is recorded when it happens at `now`: an id, and the data as JSON.
    pub(super) fn seal(mut self, actor: &str, now: UnixMillis) -> Result<(String, String)> {
        self.data
            .insert("occurred_at".to_owned(), Value::String(stamp(now)));
        self.data.insert("actor".to_owned(), actor_of(actor));
        let mut bits = [0; 16];
        getrandom::fill(&mut bits).map_err(|e| {
            Error::new(ErrorKind::Internal, "outbox.append", &*self.name).with_source(e)
        })?;
        Ok((hex::encode(bits), Value::Object(self.data).to_string()))
    }
}

/// RFC 3339, to the millisecond.
fn stamp(at: UnixMillis) -> String {
    // What lies outside of its calendar is no time of ours.
    let at = jiff::Timestamp::from_millisecond(at.0).unwrap_or_default();
    at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

fn actor_of(actor: &str) -> Value {
    match actor.split_once(':') {
        _ if actor.is_empty() => Value::Null,
        Some(("script", plugin)) => json!({"type": "script", "name": plugin}),
        _ => json!({"type": "account", "name": actor}),
    }
}

/// Records an event; `actor` is empty when nobody in particular did it.
pub(super) async fn append(tx: &mut Tx, draft: Draft, actor: &str) -> Result<()> {
    match tx.cause.clone() {
        None => record(tx, draft, actor, 0, &[]).await,
        Some(cause) => record(tx, draft, actor, cause.depth, &cause.plugins).await,
    }
}

async fn record(
    tx: &mut Tx,
    draft: Draft,
    actor: &str,
    depth: u32,
    causes: &[String],
) -> Result<()> {
    let name = draft.name.clone();
    let causes = (!causes.is_empty()).then(|| json!(causes).to_string());
    let (id, data) = draft.seal(actor, tx.now)?;
    let seq = tx.next_id("outbox").await?;
    sqlx::query(
        "INSERT INTO outbox (seq, id, name, data, depth, occurred_ms, causes, trace)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(seq)
    .bind(id)
    .bind(&*name)
    .bind(data)
    .bind(i64::from(depth))
    .bind(tx.now.0)
    .bind(causes)
    .bind(tx.trace.as_deref())
    .execute(&mut tx.connection)
    .await
    .at("outbox.append", &*name)
    .map(drop)
}

/// Where in the catalog something happened, in stored spelling; levels below are absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) organization: String,
    pub(super) box_name: String,
    pub(super) version: Option<String>,
    pub(super) provider: Option<String>,
    pub(super) architecture: Option<String>,
}

impl Place {
    /// `organization/box/version/...` down to where it is.
    pub(super) fn path(&self) -> String {
        let mut path = format!("{}/{}", self.organization, self.box_name);
        for level in [&self.version, &self.provider, &self.architecture]
            .into_iter()
            .flatten()
        {
            path.push('/');
            path.push_str(level);
        }
        path
    }

    /// The tag under which caches keep what changed, as answers carry it. That of the organization stands there too,
    /// but not here: whoever purges what an event names would drop all other boxes with this one.
    fn tags(&self) -> Vec<String> {
        let (organization, box_name) = (&self.organization, &self.box_name);
        vec![format!("box/{organization}/{box_name}").to_lowercase()]
    }

    fn data(&self) -> Map<String, Value> {
        let mut data = Map::new();
        let mut put = |name: &str, value: &str| data.insert(name.to_owned(), json!(value));
        put("organization", &self.organization);
        put("box", &self.box_name);
        for (name, value) in [
            ("version", &self.version),
            ("provider", &self.provider),
            ("architecture", &self.architecture),
        ] {
            if let Some(value) = value {
                put(name, value);
            }
        }
        data
    }
}

fn draft(
    name: &'static str,
    place: &Place,
    what: Value,
    old: Option<Blake3>,
    new: Option<Blake3>,
) -> Draft {
    let mut data = place.data();
    data.extend(members(what));
    data.insert("old_digest".to_owned(), json!(old.map(|d| d.to_hex())));
    data.insert("new_digest".to_owned(), json!(new.map(|d| d.to_hex())));
    data.insert("tags".to_owned(), json!(place.tags()));
    Draft {
        name: name.into(),
        data,
    }
}

/// A file was published; `place` goes down to its architecture.
pub(super) fn box_uploaded(
    place: &Place,
    base_url: &str,
    blob: &BlobMeta,
    old: Option<Blake3>,
) -> Draft {
    let level = |name: &Option<String>| name.clone().unwrap_or_default();
    let url = format!(
        "{base_url}/{}/boxes/{}/versions/{}/providers/{}/{}/vagrant.box",
        place.organization,
        place.box_name,
        level(&place.version),
        level(&place.provider),
        level(&place.architecture),
    );
    let checksum = blob.checksum();
    let what = json!({
        "size": blob.length,
        "checksum": checksum.to_hex(),
        "checksumType": checksum.algorithm().name().to_uppercase(),
        "url": url,
    });
    draft("box.uploaded", place, what, old, Some(blob.blake3))
}

/// A box, or what is under `place`, was removed; `old` is the digest where it held one file only.
pub(super) fn box_deleted(place: &Place, old: Option<Blake3>) -> Draft {
    draft("box.deleted", place, json!({}), old, None)
}

/// What is told of a box changed, but no bytes did. `renamed` is its place before, if that differs.
pub(super) fn box_updated(place: &Place, renamed: Option<&Place>, changed: &[&str]) -> Draft {
    let mut draft = draft(
        "box.updated",
        place,
        json!({"changed": changed}),
        None,
        None,
    );
    // What caches hold under the former name has to go too.
    if let (Some(before), Some(Value::Array(tags))) = (renamed, draft.data.get_mut("tags")) {
        let more = before.tags().into_iter().map(Value::String);
        let more: Vec<_> = more.filter(|tag| !tags.contains(tag)).collect();
        tags.extend(more);
    }
    draft
}

/// The SHA-256 of a file's bytes, which was put off, is known; `place` goes down to its architecture.
pub(super) fn box_learned(place: &Place, sha256: Sha256) -> Draft {
    let what = json!({
        "changed": ["sha256"],
        "checksum": sha256.to_hex(),
        "checksumType": Algorithm::Sha256.name().to_uppercase(),
    });
    draft("box.updated", place, what, None, None)
}

/// A version is listed to Vagrant from now on, or no more.
pub(super) fn box_listed(place: &Place, listed: bool) -> Draft {
    let name = if listed {
        "box.released"
    } else {
        "box.revoked"
    };
    draft(name, place, json!({}), None, None)
}

/// An ISO image was published, or its bytes replaced.
pub(super) fn iso_uploaded(organization: &str, name: &IsoName, blob: &BlobMeta) -> Draft {
    iso(
        "iso.uploaded",
        json!({
            "organization": organization, "name": name.as_str(), "size": blob.length,
            "checksum": blob.sha256.map(|sha256| sha256.to_hex()),
        }),
    )
}

/// An ISO image is gone.
pub(super) fn iso_deleted(organization: &str, name: &IsoName) -> Draft {
    iso(
        "iso.deleted",
        json!({ "organization": organization, "name": name.as_str() }),
    )
}

fn iso(name: &'static str, told: Value) -> Draft {
    Draft {
        name: name.into(),
        data: members(told),
    }
}

/// An upload that is whole is kept out of sight; `by` is the plugin that said so, or did not answer.
pub(super) fn box_quarantined(place: &Place, reason: &str, by: Option<&str>) -> Draft {
    let what = json!({"reason": reason, "plugin": by});
    draft("box.quarantined", place, what, None, None)
}

/// An endpoint is told nothing any more, as it did not answer; `since` it fails.
pub(super) fn webhook_disabled(id: &str, url: &str, reason: &str, since: UnixMillis) -> Draft {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = host.split(['/', '?']).next().unwrap_or_default();
    Draft {
        name: "webhook.disabled".into(),
        data: members(json!({
            "endpoint_id": id, "url_host": host, "reason": reason, "failing_since": stamp(since),
        })),
    }
}

/// An account was made; `organization` is whose member it is from the start.
pub(super) fn user_created(username: &str, organization: Option<&str>) -> Draft {
    // Addresses are not verified by mail.
    let organizations = Vec::from_iter(organization);
    user(
        "user.created",
        json!({"username": username, "email_verified": false, "organizations": organizations}),
    )
}

/// An account was removed.
pub(super) fn user_deleted(username: &str) -> Draft {
    user("user.deleted", json!({"username": username}))
}

fn user(name: &'static str, data: Value) -> Draft {
    Draft {
        name: name.into(),
        data: members(data),
    }
}

fn members(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::BlobKey;

    fn place() -> Place {
        Place {
            organization: "acme".to_owned(),
            box_name: "web".to_owned(),
            version: Some("1.0".to_owned()),
            provider: Some("virtualbox".to_owned()),
            architecture: Some("amd64".to_owned()),
        }
    }

    #[test]
    fn an_upload_tells_where_what_and_who_in_the_order_of_the_contract() {
        let blob = BlobMeta {
            key: BlobKey::random(),
            length: 7,
            blake3: Blake3([0xb3; 32]),
            sha256: Some(Sha256([0x25; 32])),
        };
        let draft = box_uploaded(&place(), "https://boxes.example", &blob, None);
        let (id, data) = draft.seal("ann", UnixMillis(1_700_000_000_045)).unwrap();
        assert_eq!(id.len(), 32);
        let expected = format!(
            concat!(
                r#"{{"organization":"acme","box":"web","version":"1.0","provider":"virtualbox","#,
                r#""architecture":"amd64","size":7,"checksum":"{}","checksumType":"SHA256","#,
                r#""url":"https://boxes.example/acme/boxes/web/versions/1.0/providers/virtualbox/amd64/vagrant.box","#,
                r#""old_digest":null,"new_digest":"{}","tags":["box/acme/web"],"#,
                r#""occurred_at":"2023-11-14T22:13:20.045Z","actor":{{"type":"account","name":"ann"}}}}"#,
            ),
            "25".repeat(32),
            "b3".repeat(32),
        );
        assert_eq!(data, expected);
    }

    #[test]
    fn a_rename_purges_both_names() {
        let before = Place {
            box_name: "old".to_owned(),
            ..place()
        };
        let (_, data) = box_updated(&place(), Some(&before), &["name"])
            .seal("", UnixMillis(0))
            .unwrap();
        let data: Value = serde_json::from_str(&data).unwrap();
        assert_eq!(data["tags"], json!(["box/acme/web", "box/acme/old"]));
        assert_eq!(data["actor"], Value::Null);
    }
}
