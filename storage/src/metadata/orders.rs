//! Servers that were ordered by way of adapters: one order for one name, known to all nodes and over restarts.
//!
//! An order is a row before its cloud is asked. Whoever takes it has it for a while; one that is left by then, because its
//! process was killed, is the next one's to clear up. What is done to a row and the event that tells of it are one change.

use std::time::Duration;

use futures_util::FutureExt as _;
use serde_json::{Value, json};

use super::Metadata;
use super::outbox;
use super::sql::{At as _, Columns as _};
use super::writer::Tx;
use crate::clock::UnixMillis;
use crate::error::Result;

/// A server as its order wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Whose it is.
    pub account: String,
    /// The name that its caller gave it.
    pub name: String,
    /// Where.
    pub region: String,
    /// How large.
    pub size: String,
}

/// What became of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// It is the caller's to make, under this number.
    Ours(i64),
    /// It is the caller's; whoever began it is gone or got no answer, and may have made it.
    Left {
        /// Its number.
        seq: i64,
        /// When its cloud was last asked for it.
        since: UnixMillis,
        /// How long ago that is.
        age: Duration,
    },
    /// It is just being made for somebody else.
    UnderWay,
    /// It was made: this server.
    Made(String),
}

/// A server that was ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ordered {
    /// When its cloud took the order.
    pub since: UnixMillis,
    /// Whether its cloud listed it since.
    pub seen: bool,
    /// Whether it was ready since.
    pub ready: bool,
}

/// Which adapter tells of a server, and the plugin that it is.
#[derive(Debug, Clone)]
pub struct Teller {
    /// The adapter.
    pub provider: String,
    /// Its plugin.
    pub plugin: String,
}

impl Metadata {
    /// Takes an order for so long, unless one of that name was made by the same account within `kept`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn take_order(
        &self,
        wanted: Wanted,
        (lease, kept): (Duration, Duration),
    ) -> Result<Taken> {
        const OP: &str = "order.take";
        self.write(OP, move |tx| {
            async move {
                let row = sqlx::query(
                    "SELECT seq, server, due_ms, ordered_ms FROM orders
                     WHERE account = $1 AND name = $2 AND ended_ms IS NULL ORDER BY seq DESC LIMIT 1",
                )
                .bind(&wanted.account)
                .bind(&wanted.name)
                .fetch_optional(&mut tx.connection)
                .await
                .at(OP, &wanted.name)?;
                let mut left = None;
                if let Some(row) = row {
                    let since = row.time("ordered_ms")?;
                    match row.opt_text("server")? {
                        Some(server) if since > tx.now.minus(kept) => {
                            return Ok(Taken::Made(server));
                        }
                        // An older server of that name; its row tells of it.
                        Some(_) => {}
                        None if row.time("due_ms")? > tx.now => return Ok(Taken::UnderWay),
                        None => {
                            left = Some(since);
                            forget(tx, row.int("seq")?).await?;
                        }
                    }
                }
                let seq = tx.next_id("orders").await?;
                sqlx::query(
                    "INSERT INTO orders (seq, account, name, region, size, due_ms, ordered_ms)
                     VALUES ($1, $2, $3, $4, $5, $6, $7)",
                )
                .bind(seq)
                .bind(&wanted.account)
                .bind(&wanted.name)
                .bind(&wanted.region)
                .bind(&wanted.size)
                .bind(tx.now.plus(lease).0)
                .bind(left.unwrap_or(tx.now).0)
                .execute(&mut tx.connection)
                .await
                .at(OP, &wanted.name)?;
                Ok(left.map_or(Taken::Ours(seq), |since| {
                    let age = tx.now.0.saturating_sub(since.0);
                    let age = Duration::from_millis(u64::try_from(age).unwrap_or(0));
                    Taken::Left { seq, since, age }
                }))
            }
            .boxed()
        })
        .await
    }

    /// Notes that the cloud is asked anew for an order that was left.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn order_anew(&self, seq: i64) -> Result<()> {
        let now = "UPDATE orders SET ordered_ms = $2 WHERE seq = $1 AND server IS NULL";
        self.touch_order("order.anew", now, seq).await
    }

    /// Leaves an order of which nobody knows whether it was made: the next one of that name clears it up.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn leave_order(&self, seq: i64) -> Result<()> {
        let now = "UPDATE orders SET due_ms = $2 WHERE seq = $1 AND server IS NULL";
        self.touch_order("order.leave", now, seq).await
    }

    async fn touch_order(&self, op: &'static str, sql: &'static str, seq: i64) -> Result<()> {
        self.write(op, move |tx| {
            async move {
                sqlx::query(sql)
                    .bind(seq)
                    .bind(tx.now.0)
                    .execute(&mut tx.connection)
                    .await
                    .at(op, seq)
                    .map(drop)
            }
            .boxed()
        })
        .await
    }

    /// Notes which server an order became, and tells it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn place_order(&self, seq: i64, server: &str, teller: Teller) -> Result<()> {
        const OP: &str = "order.place";
        let server = server.to_owned();
        self.write(OP, move |tx| {
            async move {
                sqlx::query(
                    "UPDATE orders SET server = $2, ordered_ms = $3 WHERE seq = $1 AND server IS NULL",
                )
                .bind(seq)
                .bind(&server)
                .bind(tx.now.0)
                .execute(&mut tx.connection)
                .await
                .at(OP, seq)?;
                let row = sqlx::query("SELECT name, region, size FROM orders WHERE seq = $1")
                    .bind(seq)
                    .fetch_optional(&mut tx.connection)
                    .await
                    .at(OP, seq)?;
                let told = told(row.as_ref(), &server)?;
                outbox::provider_server(tx, "ordered", teller, told).await
            }
            .boxed()
        })
        .await
    }

    /// Forgets an order that came to nothing: the next one of that name is made anew.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn drop_order(&self, seq: i64) -> Result<()> {
        self.write("order.drop", move |tx| forget(tx, seq).boxed())
            .await
    }

    /// How a server stands that an account ordered and did not give up; `None` where there is none.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn ordered(&self, account: &str, server: &str) -> Result<Option<Ordered>> {
        const OP: &str = "order.find";
        let mut reader = self.reader(OP).await?;
        sqlx::query(
            "SELECT ordered_ms, seen_ms, ready_ms, ended_ms FROM orders WHERE account = $1 AND server = $2
             ORDER BY seq DESC LIMIT 1",
        )
        .bind(account)
        .bind(server)
        .fetch_optional(&mut *reader)
        .await
        .at(OP, server)?
        .map(|row| {
            let is_open = row.opt_int("ended_ms")?.is_none();
            let ordered = Ordered {
                since: row.time("ordered_ms")?,
                seen: row.opt_int("seen_ms")?.is_some(),
                ready: row.opt_int("ready_ms")?.is_some(),
            };
            Ok(is_open.then_some(ordered))
        })
        .transpose()
        .map(Option::flatten)
    }

    /// Whether an account's log has a server, also one that ended.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn is_logged(&self, account: &str, server: &str) -> Result<bool> {
        const OP: &str = "order.logged";
        let mut reader = self.reader(OP).await?;
        let found = sqlx::query("SELECT 1 FROM orders WHERE account = $1 AND server = $2 LIMIT 1")
            .bind(account)
            .bind(server)
            .fetch_optional(&mut *reader)
            .await
            .at(OP, server)?;
        Ok(found.is_some())
    }

    /// Notes that a server's cloud lists it, and tells that it is ready, if it is, the first time.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn server_is_seen(
        &self,
        (account, server): (&str, &str),
        is_ready: bool,
        teller: Teller,
    ) -> Result<()> {
        const OP: &str = "order.seen";
        let (account, server) = (account.to_owned(), server.to_owned());
        self.write(OP, move |tx| {
            async move {
                let Some(row) = newest(tx, OP, &account, &server).await? else {
                    return Ok(());
                };
                let is_told = row.opt_int("ready_ms")?.is_some();
                let is_new = is_ready && !is_told;
                if row.opt_int("ended_ms")?.is_some() {
                    return Ok(());
                }
                sqlx::query(
                    "UPDATE orders SET seen_ms = COALESCE(seen_ms, $2),
                     ready_ms = CASE WHEN $3 = 1 THEN $2 ELSE ready_ms END WHERE seq = $1",
                )
                .bind(row.int("seq")?)
                .bind(tx.now.0)
                .bind(i64::from(is_new))
                .execute(&mut tx.connection)
                .await
                .at(OP, &server)?;
                if !is_new {
                    return Ok(());
                }
                outbox::provider_server(tx, "ready", teller, told(Some(&row), &server)?).await
            }
            .boxed()
        })
        .await
    }

    /// Notes the name that a server was given: the one under which it was ordered is free.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn server_is_renamed(&self, account: &str, server: &str, name: &str) -> Result<()> {
        const OP: &str = "order.rename";
        let (account, server) = (account.to_owned(), server.to_owned());
        let name = name.to_owned();
        self.write(OP, move |tx| {
            async move {
                sqlx::query("UPDATE orders SET name = $3 WHERE account = $1 AND server = $2 AND ended_ms IS NULL")
                    .bind(&account)
                    .bind(&server)
                    .bind(&name)
                    .execute(&mut tx.connection)
                    .await
                    .at(OP, &server)
                    .map(drop)
            }
            .boxed()
        })
        .await
    }

    /// Notes that a server is gone without having been given up here: its name is free.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn server_is_gone(&self, account: &str, server: &str) -> Result<()> {
        const OP: &str = "order.gone";
        let (account, server) = (account.to_owned(), server.to_owned());
        self.write(OP, move |tx| {
            async move { end(tx, OP, &account, &server).await }.boxed()
        })
        .await
    }

    /// Tells that a server was given up, once, by the name that it has, if that is known; its name is free.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn server_is_cancelled(
        &self,
        (account, server): (&str, &str),
        name: Option<Value>,
        teller: Teller,
    ) -> Result<()> {
        const OP: &str = "order.cancel";
        let (account, server) = (account.to_owned(), server.to_owned());
        self.write(OP, move |tx| {
            async move {
                let row = newest(tx, OP, &account, &server).await?;
                if let Some(row) = &row
                    && row.opt_int("ended_ms")?.is_some()
                {
                    return Ok(());
                }
                let mut told = told(row.as_ref(), &server)?;
                if let Some(name) = name {
                    told["name"] = name;
                }
                if row.is_none() {
                    log_foreign(tx, OP, &account, &server).await?;
                }
                end(tx, OP, &account, &server).await?;
                outbox::provider_server(tx, "cancelled", teller, told).await
            }
            .boxed()
        })
        .await
    }

    /// Forgets up to `limit` orders that were made at or before `until`; returns how many.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn prune_orders(&self, until: UnixMillis, limit: u32) -> Result<u64> {
        let fits = "ordered_ms <= $1";
        let prune = self.prune("order.prune", "orders", (fits, "ordered_ms"), until, limit);
        prune.await
    }
}

/// What events tell of a server; of one that nobody ordered here only its id is known.
fn told(row: Option<&sqlx::any::AnyRow>, server: &str) -> Result<Value> {
    let text = |column: &str| row.map(|row| row.text(column)).transpose();
    let (name, region, size) = (text("name")?, text("region")?, text("size")?);
    Ok(json!({ "server_id": server, "name": name, "region": region, "size": size }))
}

/// The last order that became a server.
async fn newest(
    tx: &mut Tx,
    op: &'static str,
    account: &str,
    server: &str,
) -> Result<Option<sqlx::any::AnyRow>> {
    sqlx::query(
        "SELECT seq, name, region, size, ready_ms, ended_ms FROM orders WHERE account = $1 AND server = $2
         ORDER BY seq DESC LIMIT 1",
    )
    .bind(account)
    .bind(server)
    .fetch_optional(&mut tx.connection)
    .await
    .at(op, server)
}

async fn end(tx: &mut Tx, op: &'static str, account: &str, server: &str) -> Result<()> {
    sqlx::query(
        "UPDATE orders SET ended_ms = $3 WHERE account = $1 AND server = $2 AND ended_ms IS NULL",
    )
    .bind(account)
    .bind(server)
    .bind(tx.now.0)
    .execute(&mut tx.connection)
    .await
    .at(op, server)
    .map(drop)
}

/// A row for a server that nobody ordered here, so that its end is known.
async fn log_foreign(tx: &mut Tx, op: &'static str, account: &str, server: &str) -> Result<()> {
    let seq = tx.next_id("orders").await?;
    sqlx::query(
        "INSERT INTO orders (seq, account, name, region, size, server, due_ms, ordered_ms)
         VALUES ($1, $2, '', '', '', $3, $4, $4)",
    )
    .bind(seq)
    .bind(account)
    .bind(server)
    .bind(tx.now.0)
    .execute(&mut tx.connection)
    .await
    .at(op, server)
    .map(drop)
}

async fn forget(tx: &mut Tx, seq: i64) -> Result<()> {
    sqlx::query("DELETE FROM orders WHERE seq = $1 AND server IS NULL")
        .bind(seq)
        .execute(&mut tx.connection)
        .await
        .at("order.forget", seq)
        .map(drop)
}
