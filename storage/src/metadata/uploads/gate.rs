//! What is said of an upload that is whole, before it becomes visible: in its row, so that no process takes it
//! along, and fenced like every step. Nothing that was asked about once is published until it passed.

use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;

use super::rows::{end, fenced, upload_columns, upload_of};
use super::{Fence, GateAnswer, GateState, Gating, Labels, Target, UploadRow, UploadState};
use crate::blob::UploadId;
use crate::clock::UnixMillis;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::outbox::Place;
use crate::metadata::sql::{At as _, Columns as _, odd};
use crate::metadata::writer::Tx;
use crate::metadata::{Metadata, audit, outbox};

pub(super) const ASK: &str = "upload.ask_gate";
pub(super) const ANSWER: &str = "upload.answer_gate";
pub(super) const LET_THROUGH: &str = "upload.let_through";

impl GateState {
    /// Its word in rows and in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Held => "held",
            Self::Passed => "passed",
            Self::Quarantined => "quarantined",
            Self::Rejected => "rejected",
        }
    }

    fn from_name(text: &str) -> Option<Self> {
        [
            Self::Asked,
            Self::Held,
            Self::Passed,
            Self::Quarantined,
            Self::Rejected,
        ]
        .into_iter()
        .find(|s| s.as_str() == text)
    }
}

/// What `hook_state` holds.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Said {
    why: String,
    is_verdict: bool,
    tries: u32,
    code: Option<u16>,
    labels: Labels,
}

pub(super) fn gating_of(row: &AnyRow) -> Result<Option<Gating>> {
    if row.opt_text("gate")?.is_none() {
        return Ok(None);
    }
    let said = row.opt_text("hook_state")?;
    let said = said.map(|text| serde_json::from_str(&text)).transpose();
    let Said {
        why,
        is_verdict,
        tries,
        code,
        labels,
    } = said
        .map_err(|e| odd("hook_state").with_source(e))?
        .unwrap_or_default();
    Ok(Some(Gating {
        state: row.word("gate", GateState::from_name)?,
        why,
        is_verdict,
        tries,
        code,
        labels,
        due: row.opt_int("gate_due_ms")?.map(UnixMillis),
    }))
}

/// Takes the right to ask; `None` when it is another's, or nothing is to be asked.
pub(super) async fn ask(
    tx: &mut Tx,
    fence: Fence,
    (over, until): (UnixMillis, UnixMillis),
    mine: Option<UnixMillis>,
) -> Result<Option<UploadRow>> {
    sqlx::query(concat!(
        "UPDATE uploads SET gate = 'asked', gate_due_ms = $3
         WHERE id = $1 AND epoch = $2 AND state = 'completing'
             AND (gate IS NULL OR gate IN ('asked', 'held'))
             AND (gate_due_ms IS NULL OR gate_due_ms <= $4 OR gate_due_ms = $5) RETURNING ",
        upload_columns!()
    ))
    .bind(fence.id.as_bytes().to_vec())
    .bind(fence.epoch)
    .bind(until.0)
    .bind(over.0)
    .bind(mine.map(|mine| mine.0))
    .fetch_optional(&mut tx.connection)
    .await
    .at(ASK, fence.id)?
    .as_ref()
    .map(upload_of)
    .transpose()
}

/// Writes down what was said to whoever had the right to ask until `mine`; false when it is theirs no more.
pub(super) async fn answer(
    tx: &mut Tx,
    fence: Fence,
    mine: UnixMillis,
    answer: GateAnswer,
) -> Result<bool> {
    let row = super::rows::row_in(tx, ANSWER, fence.id).await?;
    let by = match &answer {
        GateAnswer::Quarantine { by, .. } => by.clone(),
        _ => None,
    };
    let tries = row.gate.as_ref().map_or(0, |gating| gating.tries);
    let Gating {
        state,
        why,
        is_verdict,
        tries,
        code,
        labels,
        due,
    } = Gating::answered(tries, answer);
    let quarantined = (state == GateState::Quarantined).then(|| why.clone());
    let said = Said {
        why,
        is_verdict,
        tries,
        code,
        labels,
    };
    let said = serde_json::to_string(&said).map_err(|e| odd("hook_state").with_source(e))?;
    let written = sqlx::query(
        "UPDATE uploads SET gate = $4, hook_state = $5, gate_due_ms = $6, updated_ms = $7
         WHERE id = $1 AND epoch = $2 AND state = 'completing' AND gate = 'asked'
             AND gate_due_ms = $3",
    )
    .bind(fence.id.as_bytes().to_vec())
    .bind(fence.epoch)
    .bind(mine.0)
    .bind(state.as_str())
    .bind(said)
    .bind(due.map(|due| due.0))
    .bind(tx.now.0)
    .execute(&mut tx.connection)
    .await
    .at(ANSWER, fence.id)?;
    if written.rows_affected() != 1 {
        return Ok(false);
    }
    if state == GateState::Rejected {
        let ended = end(
            tx,
            ANSWER,
            fence.id,
            Some(fence.epoch),
            UploadState::Aborted,
        )
        .await?;
        return if ended {
            Ok(true)
        } else {
            Err(fenced(ANSWER, fence.id))
        };
    }
    if let (Some(why), Some(target)) = (quarantined, &row.target) {
        tell_quarantined(tx, &row, target, (&why, by.as_deref())).await?;
    }
    Ok(true)
}

/// Emits `box.quarantined`.
async fn tell_quarantined(
    tx: &mut Tx,
    row: &UploadRow,
    target: &Target,
    (why, by): (&str, Option<&str>),
) -> Result<()> {
    let organization = sqlx::query("SELECT name FROM organizations WHERE id = $1")
        .bind(row.organization.0)
        .fetch_one(&mut tx.connection)
        .await
        .at(ANSWER, row.organization.0)?
        .text("name")?;
    if target.iso.is_some() {
        // Its event is a box's, whose levels an ISO image has not.
        return Ok(());
    }
    let place = Place {
        organization,
        box_name: target.box_name.clone(),
        version: Some(target.version.clone()),
        provider: Some(target.provider.clone()),
        architecture: Some(target.architecture.clone()),
    };
    let event = outbox::box_quarantined(&place, why, by);
    outbox::append(tx, event, &target.actor).await
}

/// Lets a held or quarantined upload through, whatever was said; false for any other.
pub(super) async fn let_through(tx: &mut Tx, id: UploadId, actor: &str) -> Result<bool> {
    let passed = sqlx::query(
        "UPDATE uploads SET gate = 'passed', gate_due_ms = NULL, updated_ms = $2
         WHERE id = $1 AND state = 'completing' AND gate IN ('held', 'quarantined', 'asked')",
    )
    .bind(id.as_bytes().to_vec())
    .bind(tx.now.0)
    .execute(&mut tx.connection)
    .await
    .at(LET_THROUGH, id)?;
    if passed.rows_affected() != 1 {
        return Ok(false);
    }
    audit::record(tx, actor, LET_THROUGH, &id.to_string()).await?;
    Ok(true)
}

/// Refuses what was asked about and did not pass.
pub(in crate::metadata) fn check_passed(op: &'static str, row: &UploadRow) -> Result<()> {
    match &row.gate {
        None => Ok(()),
        Some(gating) if gating.state == GateState::Passed => Ok(()),
        Some(gating) => Err(Error::new(ErrorKind::Withheld, op, row.id.to_string())
            .with_source(super::Withheld(gating.clone()))),
    }
}

pub(super) async fn waiting(
    metadata: &Metadata,
    until: UnixMillis,
    over: UnixMillis,
    limit: u32,
) -> Result<Vec<UploadRow>> {
    const OP: &str = "upload.waiting";
    let mut reader = metadata.reader(OP).await?;
    sqlx::query(concat!(
        "SELECT ",
        upload_columns!(),
        " FROM uploads WHERE state = 'completing'
             AND ((gate IS NULL OR gate = 'passed') AND updated_ms <= $1
                 OR gate IN ('asked', 'held') AND gate_due_ms <= $2)
         ORDER BY updated_ms, id LIMIT $3"
    ))
    .bind(until.0)
    .bind(over.0)
    .bind(i64::from(limit))
    .fetch_all(&mut *reader)
    .await
    .at(OP, "uploads")?
    .iter()
    .map(upload_of)
    .collect()
}

pub(super) async fn quarantined_like(
    metadata: &Metadata,
    row: &UploadRow,
) -> Result<Option<Gating>> {
    const OP: &str = "upload.quarantined_like";
    let (Some((blake3, _)), Some(target)) = (row.digests, &row.target) else {
        return Ok(None);
    };
    let folded = super::rows::folded_target(OP, target)?;
    let mut reader = metadata.reader(OP).await?;
    let like = sqlx::query(concat!(
        "SELECT ",
        upload_columns!(),
        " FROM uploads WHERE state = 'completing' AND gate = 'quarantined' AND organization = $1
             AND target_folded = $2 AND blake3 = $3 AND id <> $4
         ORDER BY updated_ms DESC LIMIT 1"
    ))
    .bind(row.organization.0)
    .bind(folded)
    .bind(blake3.0.to_vec())
    .bind(row.id.as_bytes().to_vec())
    .fetch_optional(&mut *reader)
    .await
    .at(OP, row.id)?;
    let like = like.as_ref().map(upload_of).transpose()?;
    Ok(like.and_then(|like| like.gate))
}
