//! Who changed what, written in the transaction of the change.

use super::sql::At as _;
use super::writer::Tx;
use crate::error::Result;

/// Records that `actor` did `action` (such as `box.delete`) to `subject` (such as `org/box/1.0`).
pub(super) async fn record(
    tx: &mut Tx,
    actor: &str,
    action: &'static str,
    subject: &str,
) -> Result<()> {
    let seq = tx.next_id("audit").await?;
    sqlx::query(
        "INSERT INTO audit (seq, actor, action, subject, occurred_ms) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(seq)
    .bind(actor)
    .bind(action)
    .bind(subject)
    .bind(tx.now.0)
    .execute(&mut tx.connection)
    .await
    .at("audit.record", subject)
    .map(drop)
}
