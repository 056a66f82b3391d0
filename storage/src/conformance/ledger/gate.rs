//! Promises about uploads that are asked about before they become visible.

use std::time::Duration;

use super::upload::{BLOCK, Sent, target};
use super::{Rig, START, gone};
use crate::blob::UploadId;
use crate::clock::{Clock as _, UnixMillis};
use crate::error::ErrorKind;
use crate::metadata::accounts::OrganizationId;
use crate::metadata::uploads::{
    Fence, GateAnswer, GateState, Gating, Labels, Over, UploadRow, UploadState, Withheld,
};

const CLAIM: Duration = Duration::from_secs(30);

async fn row(rig: &dyn Rig, id: UploadId) -> UploadRow {
    let row = rig.ledger().upload(id).await.expect("read");
    row.expect("rows of uploads stay")
}

async fn gating(rig: &dyn Rig, id: UploadId) -> Option<Gating> {
    row(rig, id).await.gate
}

/// A whole upload to `web` that nobody was asked about, the first of its organization.
async fn whole(rig: &dyn Rig) -> Sent {
    let org = rig.add_organization("acme").await;
    another(rig, org, ("web", 1)).await
}

async fn another(rig: &dyn Rig, org: OrganizationId, (name, content): (&str, u8)) -> Sent {
    let ledger = rig.ledger();
    let sent = Sent::create(&ledger, org, target(name), content, 2 * BLOCK).await;
    let sent = sent.expect("create");
    sent.complete(&ledger).await.expect("complete");
    sent
}

/// Takes the right to ask from now on; until when.
async fn ask(rig: &dyn Rig, fence: Fence, mine: Option<UnixMillis>) -> Option<UnixMillis> {
    let now = rig.clock().now();
    let until = now.plus(CLAIM);
    let asked = rig.ledger().ask_gate(fence, (now, until), mine).await;
    let row = asked.expect("ask")?;
    let gating = row.gate.expect("it is being asked");
    assert_eq!((gating.state, gating.due), (GateState::Asked, Some(until)));
    Some(until)
}

async fn answer(rig: &dyn Rig, fence: Fence, mine: UnixMillis, answer: GateAnswer) -> bool {
    let answered = rig.ledger().answer_gate(fence, mine, answer).await;
    answered.expect("answer")
}

async fn refused(rig: &dyn Rig, fence: Fence) -> GateState {
    let error = rig.ledger().publish(fence).await;
    let error = error.expect_err("it did not pass");
    assert_eq!(error.kind(), ErrorKind::Withheld);
    let Withheld(gating) = error.caused_by().expect("what is said is told");
    gating.state
}

fn held(rig: &dyn Rig) -> GateAnswer {
    GateAnswer::Hold {
        why: "the scanner does not answer".to_owned(),
        until: rig.clock().now().plus(Duration::from_secs(2)),
    }
}

/// What is asked about is published once it has passed, and by nobody before.
pub async fn what_is_asked_about_is_published_once_it_passed(rig: &dyn Rig) {
    let (sent, ledger) = (whole(rig).await, rig.ledger());
    let (id, fence) = (sent.row.id, sent.fence());
    assert_eq!(gating(rig, id).await, None);
    let mine = ask(rig, fence, None).await.expect("nobody else asks");
    assert_eq!(refused(rig, fence).await, GateState::Asked);
    assert!(answer(rig, fence, mine, held(rig)).await);
    assert_eq!(refused(rig, fence).await, GateState::Held);
    let said = gating(rig, id).await.expect("it is held");
    assert_eq!((said.tries, said.is_verdict), (1, false));
    assert_eq!(said.why, "the scanner does not answer");
    assert_eq!(ask(rig, fence, None).await, None, "not before its time");
    let mine = ask(rig, fence, said.due).await.expect("who held it may");
    assert_eq!(gating(rig, id).await.expect("asked").tries, 1);
    let labels = Labels::from([("scanned".to_owned(), "yes".to_owned())]);
    assert!(answer(rig, fence, mine, GateAnswer::Pass(labels.clone())).await);
    let said = gating(rig, id).await.expect("it passed");
    assert_eq!((said.state, said.labels), (GateState::Passed, labels));
    assert_eq!(ask(rig, fence, None).await, None, "it was answered");
    ledger.publish(fence).await.expect("publish");
    ledger.publish(fence).await.expect("the same again");
}

/// The right to ask is one process's until it runs out, however often it is renewed.
pub async fn one_process_asks_at_a_time(rig: &dyn Rig) {
    let (sent, ledger) = (whole(rig).await, rig.ledger());
    let fence = sent.fence();
    let first = ask(rig, fence, None).await.expect("nobody else asks");
    assert_eq!(ask(rig, fence, None).await, None);
    rig.clock().advance(CLAIM / 2);
    let renewed = ask(rig, fence, Some(first)).await.expect("it is theirs");
    rig.clock().advance(CLAIM / 2);
    assert_eq!(ask(rig, fence, None).await, None, "it was renewed");
    rig.clock().advance(CLAIM / 2);
    let second = ask(rig, fence, None).await.expect("it ran out");
    // Whoever comes late with an answer, or wants to go on, changes nothing.
    assert!(!answer(rig, fence, renewed, GateAnswer::Pass(Labels::new())).await);
    assert_eq!(ask(rig, fence, Some(renewed)).await, None);
    assert!(answer(rig, fence, second, held(rig)).await);
    // Nobody asks about what is none, nor with another epoch.
    let stale = Fence { epoch: 9, ..fence };
    let now = rig.clock().now().plus(CLAIM);
    let none = ledger.ask_gate(stale, (now, now), None).await;
    assert!(none.expect("ask").is_none());
}

/// What is rejected ends with its bytes; why is told for as long as its row stays.
pub async fn a_rejected_upload_ends_with_its_bytes(rig: &dyn Rig) {
    let (sent, ledger) = (whole(rig).await, rig.ledger());
    let (id, fence) = (sent.row.id, sent.fence());
    let mine = ask(rig, fence, None).await.expect("nobody else asks");
    let no = GateAnswer::Reject {
        why: "no signature".to_owned(),
        code: Some(422),
    };
    assert!(answer(rig, fence, mine, no).await);
    let row = row(rig, id).await;
    assert_eq!(row.state, UploadState::Aborted);
    let said = row.gate.expect("why is kept");
    assert_eq!((said.state, said.code), (GateState::Rejected, Some(422)));
    assert_eq!((&*said.why, said.is_verdict), ("no signature", true));
    let due = ledger.due_trash(10).await.expect("trash");
    assert_eq!(due, [gone(sent.row.key)]);
    let error = ledger.publish(fence).await.expect_err("it ended");
    assert_eq!(error.kind(), ErrorKind::Fenced);
    assert!(!ledger.let_through(id, "root").await.expect("let through"));
}

/// A quarantined upload is asked about no more: somebody lets it through, or its time ends.
pub async fn a_quarantined_upload_waits_for_somebody(rig: &dyn Rig) {
    let (sent, ledger) = (whole(rig).await, rig.ledger());
    let (id, fence) = (sent.row.id, sent.fence());
    let bad = || GateAnswer::Quarantine {
        why: "a known worm".to_owned(),
        by: None,
        is_verdict: true,
    };
    let mine = ask(rig, fence, None).await.expect("nobody else asks");
    assert!(answer(rig, fence, mine, bad()).await);
    rig.clock().advance(Duration::from_hours(1));
    assert_eq!(ask(rig, fence, None).await, None);
    assert_eq!(refused(rig, fence).await, GateState::Quarantined);
    let always = UnixMillis(i64::MAX);
    let waiting = ledger.waiting(always, always, 10).await.expect("waiting");
    assert!(waiting.is_empty());
    // The same bytes to the same name again are known; others are not.
    let again = another(rig, sent.row.organization, ("web", 2)).await;
    let like = ledger.quarantined_like(&row(rig, again.row.id).await).await;
    assert_eq!(like.expect("look"), None);
    assert!(ledger.abort(again.row.id, None).await.expect("abort"));
    let same = another(rig, sent.row.organization, ("Web", 1)).await;
    let like = ledger.quarantined_like(&row(rig, same.row.id).await).await;
    assert_eq!(
        like.expect("look").expect("it is there").why,
        "a known worm"
    );
    let own = ledger.quarantined_like(&row(rig, id).await).await;
    assert_eq!(own.expect("look"), None, "none is like itself");
    assert!(ledger.abort(same.row.id, None).await.expect("abort"));

    let over = |quarantined| Over {
        unkept: UnixMillis(0),
        idle: UnixMillis(0),
        made: UnixMillis(0),
        untargeted: UnixMillis(0),
        quarantined,
    };
    let told = async |quarantined| {
        let rows = ledger.over(over(quarantined), 10).await.expect("over");
        rows.iter().map(|row| row.id).collect::<Vec<_>>()
    };
    assert!(told(START.minus(Duration::from_secs(1))).await.is_empty());
    assert_eq!(told(START).await, [id]);

    assert!(ledger.let_through(id, "root").await.expect("let through"));
    assert!(!ledger.let_through(id, "root").await.expect("once"));
    assert!(told(always).await.is_empty());
    ledger.publish(fence).await.expect("publish");
}

/// What waits is told when it is due: what nobody asked about after its rest, what is held after its pause.
pub async fn what_waits_to_be_published_is_told_when_it_is_due(rig: &dyn Rig) {
    let (sent, ledger) = (whole(rig).await, rig.ledger());
    let (id, fence) = (sent.row.id, sent.fence());
    let second = Duration::from_secs(1);
    let told = async |until, over| {
        let rows = ledger.waiting(until, over, 10).await.expect("waiting");
        rows.iter().map(|row| row.id).collect::<Vec<_>>()
    };
    let never = UnixMillis(0);
    assert!(told(START.minus(second), never).await.is_empty());
    assert_eq!(told(START, never).await, [id]);
    let mine = ask(rig, fence, None).await.expect("nobody else asks");
    assert!(told(START, mine.minus(second)).await.is_empty());
    assert_eq!(told(never, mine).await, [id], "whoever asked is gone");
    assert!(answer(rig, fence, mine, held(rig)).await);
    let due = START.plus(second * 2);
    assert!(told(START, due.minus(second)).await.is_empty());
    assert_eq!(told(never, due).await, [id]);
    // A person does not wait for that.
    assert!(ledger.let_through(id, "root").await.expect("let through"));
    assert!(told(never, due).await.is_empty());
    assert_eq!(told(START, never).await, [id]);
    ledger.publish(fence).await.expect("publish");
    assert!(told(START, due).await.is_empty());
}
