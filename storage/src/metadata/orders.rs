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
    /// It is the caller's; whoever began it is gone, and may have made it.
    Left(i64),
    /// It is just being made for somebody else.
    UnderWay,
    /// It was made: this server.
    Made(String),
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
                     WHERE account = $1 AND name = $2 ORDER BY seq DESC LIMIT 1",
                )
                .bind(&wanted.account)
                .bind(&wanted.name)
                .fetch_optional(&mut tx.connection)
                .await
                .at(OP, &wanted.name)?;
                let mut left = false;
                if let Some(row) = row {
                    match row.opt_text("server")? {
                        Some(server) if row.time("ordered_ms")? > tx.now.minus(kept) => {
                            return Ok(Taken::Made(server));
                        }
                        // An older server of that name; its row tells of it.
                        Some(_) => {}
                        None if row.time("due_ms")? > tx.now => return Ok(Taken::UnderWay),
                        None => {
                            left = true;
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
                .bind(tx.now.0)
                .execute(&mut tx.connection)
                .await
                .at(OP, &wanted.name)?;
                Ok(if left {
                    Taken::Left(seq)
                } else {
                    Taken::Ours(seq)
                })
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

    /// When an account ordered a server, and whether it was ready since; `None` when it did not.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn ordered(&self, account: &str, server: &str) -> Result<Option<(UnixMillis, bool)>> {
        const OP: &str = "order.find";
        let mut reader = self.reader(OP).await?;
        sqlx::query(
            "SELECT ordered_ms, ready_ms FROM orders WHERE account = $1 AND server = $2
             ORDER BY seq DESC LIMIT 1",
        )
        .bind(account)
        .bind(server)
        .fetch_optional(&mut *reader)
        .await
        .at(OP, server)?
        .map(|row| Ok((row.time("ordered_ms")?, row.opt_int("ready_ms")?.is_some())))
        .transpose()
    }

    /// Tells that a server that was ordered is ready, the first time.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn server_is_ready(&self, account: &str, server: &str, teller: Teller) -> Result<()> {
        const OP: &str = "order.ready";
        let (account, server) = (account.to_owned(), server.to_owned());
        self.write(OP, move |tx| {
            async move {
                let row = sqlx::query(
                    "SELECT seq, name, region, size FROM orders
                     WHERE account = $1 AND server = $2 AND ready_ms IS NULL ORDER BY seq DESC LIMIT 1",
                )
                .bind(&account)
                .bind(&server)
                .fetch_optional(&mut tx.connection)
                .await
                .at(OP, &server)?;
                let Some(row) = row else { return Ok(()) };
                let told = told(Some(&row), &server)?;
                sqlx::query("UPDATE orders SET ready_ms = $2 WHERE seq = $1")
                    .bind(row.int("seq")?)
                    .bind(tx.now.0)
                    .execute(&mut tx.connection)
                    .await
                    .at(OP, &server)?;
                outbox::provider_server(tx, "ready", teller, told).await
            }
            .boxed()
        })
        .await
    }

    /// Tells that a server was given up, by the name that it has; its order is forgotten, and the name free.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn server_is_cancelled(
        &self,
        (account, server): (&str, &str),
        name: Value,
        teller: Teller,
    ) -> Result<()> {
        const OP: &str = "order.cancel";
        let (account, server) = (account.to_owned(), server.to_owned());
        self.write(OP, move |tx| {
            async move {
                let row = sqlx::query(
                    "SELECT name, region, size FROM orders WHERE account = $1 AND server = $2
                     ORDER BY seq DESC LIMIT 1",
                )
                .bind(&account)
                .bind(&server)
                .fetch_optional(&mut tx.connection)
                .await
                .at(OP, &server)?;
                let mut told = told(row.as_ref(), &server)?;
                told["name"] = name;
                sqlx::query("DELETE FROM orders WHERE account = $1 AND server = $2")
                    .bind(&account)
                    .bind(&server)
                    .execute(&mut tx.connection)
                    .await
                    .at(OP, &server)?;
                outbox::provider_server(tx, "cancelled", teller, told).await
            }
            .boxed()
        })
        .await
    }

    /// Where this process is the only one on its rows: leaves what a former one was at when it was killed.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] when the database does not answer.
    pub async fn release_orders(&self) -> Result<()> {
        const OP: &str = "order.release";
        if !self.inner.alone {
            return Ok(());
        }
        self.write(OP, move |tx| {
            async move {
                sqlx::query("UPDATE orders SET due_ms = $1 WHERE server IS NULL AND due_ms > $1")
                    .bind(tx.now.0)
                    .execute(&mut tx.connection)
                    .await
                    .at(OP, "orders")
                    .map(drop)
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

async fn forget(tx: &mut Tx, seq: i64) -> Result<()> {
    sqlx::query("DELETE FROM orders WHERE seq = $1 AND server IS NULL")
        .bind(seq)
        .execute(&mut tx.connection)
        .await
        .at("order.forget", seq)
        .map(drop)
}
