//! Between C2 and C3: whether what is whole may become visible.
//!
//! Who answers is not known here. Each question is claimed in the upload's row and the claim renewed while the
//! answer is awaited, so that no two processes ask at once; the answer is written down before it counts. A kill at
//! any moment leaves a row that is asked about again, or one that has passed and is published.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use super::engine::{Inner, Stored};
use crate::clock::UnixMillis;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::uploads::{
    Fence, GateAnswer, GateState, Gating, Labels, UploadRow, UploadState, Withheld,
};

/// How long the right to ask lasts unless it is renewed.
pub(super) const CLAIM: Duration = Duration::from_secs(30);
/// How often it is renewed.
const RENEWED_EVERY: Duration = Duration::from_secs(10);
/// Questions at once about what waits without a client.
pub(super) const ASKED_AT_ONCE: usize = 4;

/// Whoever says whether an upload that is whole may become visible.
#[async_trait]
pub trait Gate: Debug + Send + Sync {
    /// Whether anybody would be asked at this moment. While not, no row is written for it.
    fn is_kept(&self) -> bool;

    /// What becomes of the upload. Asked at least once for each; again after a kill.
    ///
    /// # Errors
    /// Why there is no answer: it is asked again later.
    async fn ask(&self, whole: &Whole) -> Result<Answer, Silence>;
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silence {
    /// For people.
    pub why: String,
    /// Who should have answered, where that is one in particular.
    pub by: Option<String>,
}

impl From<String> for Silence {
    fn from(why: String) -> Self {
        Self { why, by: None }
    }
}

/// An upload that is whole and that nobody sees yet.
#[derive(Debug, Clone)]
pub struct Whole {
    /// Its row; the digests are known.
    pub row: UploadRow,
    /// Whether its organization holds no equal blob yet.
    pub is_new: bool,
}

/// What a gate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It becomes visible, with these labels on its blob.
    Publish(Labels),
    /// It stays out of sight until somebody lets it through or gives it up.
    Quarantine {
        /// Why.
        why: String,
        /// Who says so, where that is one in particular.
        by: Option<String>,
    },
    /// It is dropped with its bytes.
    Reject {
        /// Why.
        why: String,
        /// Opaque here.
        code: Option<u16>,
    },
}

/// What stands between uploads that are whole and their names.
#[derive(Debug, Clone, Default)]
pub enum Passage {
    /// Nothing.
    #[default]
    Free,
    /// Whoever must be asked is not in this process: nothing is published by it.
    Shut,
    /// A gate.
    Gate(Gatekeeping),
}

/// How a gate is asked.
#[derive(Debug, Clone)]
pub struct Gatekeeping {
    /// Who.
    pub gate: Arc<dyn Gate>,
    /// How long after each try that failed the next is made; after as many and one more it is quarantined.
    pub pauses: Vec<Duration>,
    /// How long whoever sends an upload waits for all tries.
    pub patience: Duration,
}

/// How one upload is brought through.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    /// Rights to ask that run out by then are over.
    pub(super) over: UnixMillis,
    /// How long further tries are waited for.
    pub(super) patience: Duration,
}

/// What one question came to.
enum Outcome {
    Passed,
    /// No answer; the next try is then.
    Held(UnixMillis, Duration),
    /// Somebody else decided meanwhile.
    Lost,
    Refused,
}

impl Inner {
    /// Whether somebody is asked at this moment, which takes time.
    pub(super) fn asks(&self) -> bool {
        match &self.options.passage {
            Passage::Gate(keeping) => keeping.gate.is_kept(),
            Passage::Free | Passage::Shut => false,
        }
    }

    /// How whoever ends an upload brings it through.
    pub(super) fn first_turn(&self) -> Turn {
        Turn {
            over: self.options.clock.now(),
            patience: match &self.options.passage {
                Passage::Gate(keeping) => keeping.patience,
                Passage::Free | Passage::Shut => Duration::ZERO,
            },
        }
    }

    /// Returns once the upload may be published; true when somebody was asked, which may have taken long.
    /// `gating` is what its row says.
    ///
    /// # Errors
    /// [`ErrorKind::Withheld`] with what is said of it; [`ErrorKind::Gone`] when it was given up meanwhile.
    pub(super) async fn pass_gate(
        &self,
        stored: &Stored,
        gating: Option<Gating>,
        is_new: bool,
        turn: Turn,
    ) -> Result<bool> {
        match (&self.options.passage, gating) {
            (Passage::Shut, gating) => {
                let gating = gating.unwrap_or_else(|| Gating::new(GateState::Held));
                Err(withheld(stored, gating))
            }
            (_, Some(gating)) if gating.state == GateState::Passed => Ok(false),
            (_, Some(gating)) if gating.state == GateState::Quarantined => {
                Err(withheld(stored, gating))
            }
            (Passage::Free, None) => Ok(false),
            // It was asked about, and nobody is left who would say anything.
            (Passage::Free, Some(_)) => self.ask_until(stored, None, is_new, turn).await,
            (Passage::Gate(keeping), None) if !keeping.gate.is_kept() => Ok(false),
            (Passage::Gate(keeping), _) => {
                self.ask_until(stored, Some(keeping), is_new, turn).await
            }
        }
    }

    /// Asks, and again after each pause that is not longer than whoever waits has patience for.
    async fn ask_until(
        &self,
        stored: &Stored,
        keeping: Option<&Gatekeeping>,
        is_new: bool,
        turn: Turn,
    ) -> Result<bool> {
        let ledger = &self.options.ledger;
        let until = Instant::now() + turn.patience;
        let mut mine = None;
        loop {
            let now = self.options.clock.now();
            let claim = now.plus(CLAIM);
            let over = turn.over.max(now);
            let asked = ledger.ask_gate(stored.fence, (over, claim), mine).await?;
            let Some(row) = asked else {
                return self.decided(stored).await.map(|()| true);
            };
            let outcome = self
                .ask_once(stored, keeping, Whole { row, is_new }, claim)
                .await?;
            match outcome {
                Outcome::Passed => return Ok(true),
                Outcome::Held(at, pause) if Instant::now() + pause <= until => {
                    mine = Some(at);
                    sleep(pause).await;
                }
                Outcome::Held(..) | Outcome::Lost | Outcome::Refused => {
                    return self.decided(stored).await.map(|()| true);
                }
            }
        }
    }

    /// One question, with the right to ask renewed until it is answered.
    async fn ask_once(
        &self,
        stored: &Stored,
        keeping: Option<&Gatekeeping>,
        whole: Whole,
        mut claim: UnixMillis,
    ) -> Result<Outcome> {
        let ledger = &self.options.ledger;
        let tries = whole.row.gate.as_ref().map_or(0, |gating| gating.tries);
        let same = ledger.quarantined_like(&whole.row).await?;
        let said = match (keeping, same.filter(|before| before.is_verdict)) {
            // The same bytes again, and what is said of them stands.
            (_, Some(before)) => Ok(Answer::Reject {
                why: before.why,
                code: before.code,
            }),
            (Some(keeping), None) if keeping.gate.is_kept() => {
                let asking = keeping.gate.ask(&whole);
                match self.renewing(stored.fence, &mut claim, asking).await? {
                    Some(said) => said,
                    None => return Ok(Outcome::Lost),
                }
            }
            // Nobody is left who would say anything.
            (_, None) => Ok(Answer::Publish(Labels::new())),
        };
        let id = stored.fence.id;
        let (answer, outcome) = match said {
            Ok(Answer::Publish(labels)) => (GateAnswer::Pass(labels), Outcome::Passed),
            Ok(Answer::Quarantine { why, by }) => {
                tracing::warn!(upload = %id, why, by, "an upload is quarantined");
                let is_verdict = true;
                let answer = GateAnswer::Quarantine {
                    why,
                    by,
                    is_verdict,
                };
                (answer, Outcome::Refused)
            }
            Ok(Answer::Reject { why, code }) => {
                tracing::info!(upload = %id, why, "an upload is rejected");
                (GateAnswer::Reject { why, code }, Outcome::Refused)
            }
            Err(Silence { why, by }) => {
                let pauses = keeping.map_or(&[][..], |keeping| &keeping.pauses);
                if let Some(pause) = pauses.get(tries as usize) {
                    tracing::warn!(upload = %id, why, tries, ?pause, "an upload is held, and asked about again");
                    let until = self.options.clock.now().plus(*pause);
                    (
                        GateAnswer::Hold { why, until },
                        Outcome::Held(until, *pause),
                    )
                } else {
                    tracing::error!(upload = %id, why, tries, "an upload is quarantined: there was no answer");
                    let is_verdict = false;
                    let answer = GateAnswer::Quarantine {
                        why,
                        by,
                        is_verdict,
                    };
                    (answer, Outcome::Refused)
                }
            }
        };
        let rejected = matches!(answer, GateAnswer::Reject { .. });
        if !ledger.answer_gate(stored.fence, claim, answer).await? {
            return Ok(Outcome::Lost);
        }
        if rejected {
            self.remove_and_forget(stored).await;
        }
        Ok(outcome)
    }

    /// The answer, while the right to ask is kept; `None` once it is another's.
    async fn renewing<T>(
        &self,
        fence: Fence,
        claim: &mut UnixMillis,
        asking: impl Future<Output = T>,
    ) -> Result<Option<T>> {
        let mut asking = std::pin::pin!(asking);
        let mut renewal = interval_at(Instant::now() + RENEWED_EVERY, RENEWED_EVERY);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                said = &mut asking => return Ok(Some(said)),
                _ = renewal.tick() => {
                    let now = self.options.clock.now();
                    let next = now.plus(CLAIM);
                    let ledger = &self.options.ledger;
                    let kept = ledger.ask_gate(fence, (now, next), Some(*claim)).await?;
                    if kept.is_none() {
                        return Ok(None);
                    }
                    *claim = next;
                }
            }
        }
    }

    /// What the row says, where another process or a person decided, or what was just written there.
    async fn decided(&self, stored: &Stored) -> Result<()> {
        let row = self.options.ledger.upload(stored.fence.id).await?;
        let gone = || Error::new(ErrorKind::Gone, OP, stored.subject());
        let row = row.ok_or_else(gone)?;
        match (row.state, row.gate) {
            (UploadState::Done, _) => Ok(()),
            (UploadState::Completing, Some(gating)) if gating.state == GateState::Passed => Ok(()),
            (_, Some(gating)) if gating.state == GateState::Rejected => {
                Err(withheld(stored, gating))
            }
            (UploadState::Completing, Some(gating)) => Err(withheld(stored, gating)),
            (UploadState::Aborted | UploadState::Lost, _) => Err(gone()),
            (UploadState::Open | UploadState::Completing, _) => {
                Err(Error::new(ErrorKind::Fenced, OP, stored.subject()))
            }
        }
    }
}

fn withheld(stored: &Stored, gating: Gating) -> Error {
    Error::new(ErrorKind::Withheld, OP, stored.subject()).with_source(Withheld(gating))
}

const OP: &str = "upload.pass";
