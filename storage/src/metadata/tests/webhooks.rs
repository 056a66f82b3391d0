use std::collections::HashSet;

use super::*;
use crate::metadata::webhooks::{
    Change, Changed, DeliveryQuery, DeliveryState, Due, Endpoint, Health, Letter, NewEndpoint,
    Order, Outcome, Recovery, Resend, Settled, Spread, Unblocked,
};

const LEASE: Duration = Duration::from_mins(1);
const PLACE: &str = "events";
const MOST: u32 = 100;

async fn endpoint(house: &House, id: &str) -> Endpoint {
    let new = NewEndpoint {
        id: id.to_owned(),
        url: "https://hooks.example/x?key=1".to_owned(),
        options: "{}".to_owned(),
        enabled: true,
        secret: b"sealed".to_vec(),
    };
    house.metadata.add_webhook(new, "ann").await.unwrap()
}

fn letter(endpoint: &str, subject: &str, body: usize) -> Letter {
    Letter {
        endpoint: endpoint.to_owned(),
        message: format!("msg_{body}"),
        event: "box.uploaded".to_owned(),
        subject: subject.to_owned(),
        body,
        headers: None,
        blocked: None,
        occurred: UnixMillis(1),
    }
}

/// Tells of one event for each subject.
async fn spread(house: &House, up_to: i64, endpoint: &str, subjects: &[&str]) -> Option<u64> {
    let letters = subjects.iter().enumerate();
    let spread = Spread {
        up_to,
        bodies: subjects
            .iter()
            .map(|s| format!("{{\"{s}\":{up_to}}}"))
            .collect(),
        letters: letters.map(|(i, s)| letter(endpoint, s, i)).collect(),
        left_out: Vec::new(),
    };
    let spread = house.metadata.spread_events(PLACE, spread, MOST);
    spread.await.unwrap()
}

async fn claim(house: &House, owner: &str) -> Vec<Endpoint> {
    let claimed = house.metadata.claim_webhooks(owner, (LEASE, LEASE / 2));
    claimed.await.unwrap()
}

async fn due(house: &House, order: Order) -> Vec<Due> {
    let (now, held) = (house.metadata.now(), HashSet::new());
    let due = house
        .metadata
        .due_deliveries("ep_a", order, (now, 10), &held);
    due.await.unwrap()
}

async fn bodies(house: &House, order: Order) -> Vec<String> {
    let due = due(house, order).await.into_iter();
    due.map(|due| due.body.unwrap()).collect()
}

fn settled(due: &Due, outcome: Outcome) -> Settled {
    let good = outcome == Outcome::Delivered;
    Settled {
        seq: due.seq,
        number: due.attempts + 1,
        begun: UnixMillis(5),
        duration_ms: 7,
        status: Some(if good { 200 } else { 500 }),
        result: if good { "ok" } else { "status" },
        error: (!good).then(|| "500".to_owned()),
        response: None,
        outcome,
    }
}

async fn settle(house: &House, owner: &str, endpoint: &Endpoint, settled: Vec<Settled>) {
    let done = house
        .metadata
        .settle_deliveries(owner, endpoint, settled, (false, None));
    done.await.unwrap();
}

#[tokio::test]
async fn an_event_is_spread_once_and_numbered_for_each_endpoint() {
    let house = House::new().await;
    endpoint(&house, "ep_a").await;
    assert_eq!(spread(&house, 3, "ep_a", &["x", "y"]).await, Some(0));
    assert_eq!(spread(&house, 3, "ep_a", &["x", "y"]).await, None);
    assert_eq!(spread(&house, 4, "ep_gone", &["x"]).await, Some(0));
    assert_eq!(spread(&house, 5, "ep_a", &["z"]).await, Some(0));
    let due = due(&house, Order::None).await;
    let told: Vec<_> = due
        .iter()
        .map(|d| (d.sequence, d.tries, d.attempts))
        .collect();
    assert_eq!(told, [(1, 0, 0), (2, 0, 0), (3, 0, 0)]);
    // What is held is passed by, however few are asked for.
    let (now, held) = (
        house.metadata.now(),
        HashSet::from([due[0].seq, due[2].seq]),
    );
    for order in [Order::None, Order::Subject] {
        let others = house
            .metadata
            .due_deliveries("ep_a", order, (now, 1), &held);
        assert_eq!(others.await.unwrap(), [due[1].clone()]);
    }
    assert_eq!(claim(&house, "me").await[0].queued, 3);
}

#[tokio::test]
async fn what_is_ordered_does_not_overtake() {
    let house = House::new().await;
    endpoint(&house, "ep_a").await;
    spread(&house, 1, "ep_a", &["x", "y", "x"]).await;
    assert_eq!(bodies(&house, Order::None).await.len(), 3);
    assert_eq!(
        bodies(&house, Order::Subject).await,
        ["{\"x\":1}", "{\"y\":1}"]
    );
    assert_eq!(bodies(&house, Order::All).await, ["{\"x\":1}"]);
    let mine = claim(&house, "me").await.remove(0);
    let first = due(&house, Order::All).await.remove(0);
    let later = house.metadata.now().plus(LEASE);
    settle(
        &house,
        "me",
        &mine,
        vec![settled(&first, Outcome::Again(later, 1))],
    )
    .await;
    // It waits, and holds back what is behind it.
    assert_eq!(bodies(&house, Order::All).await, [""; 0]);
    assert_eq!(bodies(&house, Order::Subject).await, ["{\"y\":1}"]);
    assert_eq!(bodies(&house, Order::None).await.len(), 2);
    settle(&house, "me", &mine, vec![settled(&first, Outcome::Failed)]).await;
    assert_eq!(bodies(&house, Order::All).await, ["{\"y\":1}"]);
}

#[tokio::test]
async fn one_node_sends_for_an_endpoint_until_its_claim_runs_out() {
    let house = House::new().await;
    endpoint(&house, "ep_a").await;
    assert!(claim(&house, "me").await.is_empty(), "nothing waits");
    spread(&house, 1, "ep_a", &["x"]).await;
    assert_eq!(claim(&house, "me").await.len(), 1);
    assert!(claim(&house, "you").await.is_empty());
    house.clock.advance(LEASE / 2);
    assert_eq!(claim(&house, "me").await.len(), 1);
    house.clock.advance(LEASE / 2);
    assert!(claim(&house, "you").await.is_empty(), "it was renewed");
    house.clock.advance(LEASE / 2);
    let yours = claim(&house, "you").await.remove(0);
    assert!(claim(&house, "me").await.is_empty());
    // What a node says of an endpoint that is no more its own counts for the delivery only.
    let mut mine = yours.clone();
    mine.health.failed = 9;
    let first = due(&house, Order::None).await.remove(0);
    settle(
        &house,
        "me",
        &mine,
        vec![settled(&first, Outcome::Delivered)],
    )
    .await;
    let now = house.metadata.webhook("ep_a").await.unwrap().unwrap();
    assert_eq!((now.health, now.queued), (Health::default(), 0));
    house.metadata.release_webhooks("you").await.unwrap();
    spread(&house, 2, "ep_a", &["x"]).await;
    assert_eq!(claim(&house, "me").await.len(), 1);
}

#[tokio::test]
async fn too_much_that_waits_is_skipped_and_can_be_recovered() {
    let house = House::new().await;
    endpoint(&house, "ep_a").await;
    let many = vec!["x"; MOST as usize + 2];
    assert_eq!(spread(&house, 1, "ep_a", &many).await, Some(2));
    let query = DeliveryQuery {
        endpoint: "ep_a".to_owned(),
        state: Some(DeliveryState::Skipped),
        ..DeliveryQuery::default()
    };
    let skipped = house.metadata.deliveries(&query, 10).await.unwrap();
    let told: Vec<_> = skipped
        .iter()
        .map(|d| (d.sequence, d.reason.as_deref()))
        .collect();
    assert_eq!(told, [(102, Some("backlog")), (101, Some("backlog"))]);
    let always = (UnixMillis(0), UnixMillis(i64::MAX));
    let recovered =
        house
            .metadata
            .recover_deliveries("ep_a", DeliveryState::Skipped, always, "ann");
    assert_eq!(recovered.await.unwrap(), Recovery::Queued(2));
    assert_eq!(claim(&house, "me").await[0].queued, i64::from(MOST) + 2);
}

#[tokio::test]
async fn a_test_is_not_recovered() {
    let house = House::new().await;
    endpoint(&house, "ep_a").await;
    let test = house
        .metadata
        .begin_test("ep_a", ("msg_t", "box.uploaded"), "{}".to_owned());
    assert!(test.await.unwrap().is_some());
    let always = (UnixMillis(0), UnixMillis(i64::MAX));
    let recovered = house
        .metadata
        .recover_deliveries("ep_a", DeliveryState::Failed, always, "ann");
    assert_eq!(recovered.await.unwrap(), Recovery::Queued(0));
}

#[tokio::test]
async fn what_its_script_said_nothing_of_is_not_sent_as_the_event_told_it() {
    let house = House::new().await;
    endpoint(&house, "ep_a").await;
    let blocked = |subject| Letter {
        blocked: Some("it failed".to_owned()),
        ..letter("ep_a", subject, 0)
    };
    let told = Spread {
        up_to: 1,
        bodies: vec!["raw".to_owned()],
        letters: vec![blocked("a"), blocked("b"), blocked("c")],
        left_out: Vec::new(),
    };
    // For the last there is no room.
    let kept = house.metadata.spread_events(PLACE, told, 2).await.unwrap();
    assert_eq!(kept, Some(1));
    let count = async || {
        let endpoint = house.metadata.webhook("ep_a").await.unwrap().unwrap();
        (endpoint.queued, endpoint.blocked)
    };
    assert_eq!(count().await, (2, 2));
    let query = DeliveryQuery {
        endpoint: "ep_a".to_owned(),
        ..DeliveryQuery::default()
    };
    let listed = house.metadata.deliveries(&query, 10).await.unwrap();
    let redeliver = async |which: usize, what| {
        let id = &listed[which].id;
        house.metadata.redeliver(id, what, "ann").await.unwrap()
    };
    for which in 0..3 {
        assert_eq!(redeliver(which, Resend::AsSent).await, Recovery::Blocked);
    }
    let always = (UnixMillis(0), UnixMillis(i64::MAX));
    let recovered =
        house
            .metadata
            .recover_deliveries("ep_a", DeliveryState::Skipped, always, "ann");
    assert_eq!(recovered.await.unwrap(), Recovery::Queued(1));
    assert_eq!(count().await, (3, 3));
    let (endpoint, one) = house
        .metadata
        .raw_delivery(&listed[0].id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((endpoint.as_str(), one.body.as_str()), ("ep_a", "raw"));
    let dropped = house.metadata.unblock_delivery(one.seq, Unblocked::Drop);
    dropped.await.unwrap();
    assert_eq!(redeliver(0, Resend::AsSent).await, Recovery::Blocked);
    let said = Resend::Said {
        body: Some("said".to_owned()),
        headers: None,
    };
    assert_eq!(redeliver(0, said).await, Recovery::Queued(1));
    assert_eq!(redeliver(1, Resend::Raw).await, Recovery::Queued(1));
    assert_eq!(count().await, (3, 1));
    let due = due(&house, Order::None).await;
    let bodies: Vec<_> = due.iter().map(|one| one.body.as_deref()).collect();
    assert_eq!(bodies, [Some("raw"), Some("said")]);
    assert_eq!(redeliver(0, Resend::AsSent).await, Recovery::Queued(1));
}

#[tokio::test]
async fn an_endpoint_that_is_given_up_is_told_to_others_once() {
    let house = House::new().await;
    endpoint(&house, "ep_a").await;
    spread(&house, 1, "ep_a", &["x"]).await;
    let mut mine = claim(&house, "me").await.remove(0);
    mine.health.failing_since = Some(UnixMillis(1_700_000_000_000));
    for _ in 0..2 {
        let first = due(&house, Order::None).await.pop();
        let attempts = first
            .iter()
            .map(|due| settled(due, Outcome::Failed))
            .collect();
        let given_up = (false, Some("gone".to_owned()));
        let done = house
            .metadata
            .settle_deliveries("me", &mine, attempts, given_up);
        done.await.unwrap();
    }
    let events = house.events(0).await;
    let told: Vec<_> = events
        .iter()
        .filter(|(n, _)| n == "webhook.disabled")
        .collect();
    let [(_, data)] = told.as_slice() else {
        panic!("{events:?}")
    };
    assert_eq!(
        (
            &data["endpoint_id"],
            &data["url_host"],
            &data["reason"],
            &data["failing_since"]
        ),
        (
            &Value::from("ep_a"),
            &Value::from("hooks.example"),
            &Value::from("gone"),
            &Value::from("2023-11-14T22:13:20.000Z")
        )
    );
    // What happens meanwhile can be recovered.
    assert_eq!(spread(&house, 2, "ep_a", &["x"]).await, Some(1));
    let enabled = house
        .metadata
        .change_webhook("ep_a", None, Change::Enable, "ann");
    let Changed::Done(now) = enabled.await.unwrap() else {
        panic!("it is there")
    };
    assert!(now.enabled && now.health == Health::default() && now.disabled_reason.is_none());
    // Whom a person disables is told nothing.
    let disabled = house
        .metadata
        .change_webhook("ep_a", None, Change::Disable, "ann");
    disabled.await.unwrap();
    assert_eq!(spread(&house, 3, "ep_a", &["x"]).await, Some(0));
}

#[tokio::test]
async fn a_change_by_hand_wins_over_what_a_node_knows() {
    let house = House::new().await;
    endpoint(&house, "ep_a").await;
    spread(&house, 1, "ep_a", &["x"]).await;
    let mut mine = claim(&house, "me").await.remove(0);
    let stale = Some(vec![mine.revision + 7]);
    let changed = house
        .metadata
        .change_webhook("ep_a", stale, Change::Enable, "ann");
    assert_eq!(changed.await.unwrap(), Changed::Stale(mine.revision));
    let changed =
        house
            .metadata
            .change_webhook("ep_a", Some(vec![mine.revision]), Change::Enable, "ann");
    changed.await.unwrap();
    mine.health.failed = 9;
    settle(&house, "me", &mine, Vec::new()).await;
    let now = house.metadata.webhook("ep_a").await.unwrap().unwrap();
    assert_eq!(now.health.failed, 0);
}

#[tokio::test]
async fn a_secret_is_replaced_by_one_at_a_time() {
    let house = House::new().await;
    endpoint(&house, "ep_a").await;
    let rotate = |secret: &[u8]| Change::Rotate {
        secret: secret.to_vec(),
        until: house.metadata.now().plus(LEASE),
        legacy_previous: true,
    };
    let change = async |change| {
        house
            .metadata
            .change_webhook("ep_a", None, change, "ann")
            .await
            .unwrap()
    };
    let Changed::Done(now) = change(rotate(b"two")).await else {
        panic!("it is there")
    };
    assert_eq!(now.secrets.current, b"two");
    assert_eq!(now.secrets.previous.unwrap().0, b"sealed");
    assert_eq!(change(rotate(b"three")).await, Changed::Overlapping);
    house.clock.advance(LEASE);
    assert!(matches!(change(rotate(b"three")).await, Changed::Done(_)));
    let Changed::Done(now) = change(Change::FinishRotation).await else {
        panic!("it is there")
    };
    assert_eq!(
        (now.secrets.current, now.secrets.previous),
        (b"three".to_vec(), None)
    );
}

#[tokio::test]
async fn the_log_outlives_its_endpoint_and_is_forgotten_in_time() {
    let house = House::new().await;
    endpoint(&house, "ep_a").await;
    spread(&house, 1, "ep_a", &["x", "y", "z"]).await;
    let mine = claim(&house, "me").await.remove(0);
    let due = due(&house, Order::None).await;
    let ends = vec![
        settled(&due[0], Outcome::Delivered),
        settled(&due[1], Outcome::Failed),
    ];
    settle(&house, "me", &mine, ends).await;
    let query = DeliveryQuery {
        endpoint: "ep_a".to_owned(),
        ..DeliveryQuery::default()
    };
    let listed = house.metadata.deliveries(&query, 10).await.unwrap();
    let states: Vec<_> = listed
        .iter()
        .map(|d| (d.state.as_str(), d.attempts.len()))
        .collect();
    assert_eq!(states, [("queued", 0), ("failed", 1), ("delivered", 1)]);
    let again = house
        .metadata
        .redeliver(&listed[2].id, Resend::AsSent, "ann")
        .await
        .unwrap();
    assert_eq!(again, Recovery::Queued(1));
    assert_eq!(claim(&house, "me").await[0].queued, 2);
    house
        .metadata
        .remove_webhook("ep_a", None, "ann")
        .await
        .unwrap();
    let listed = house.metadata.deliveries(&query, 10).await.unwrap();
    let states: Vec<_> = listed.iter().map(|d| d.state.as_str()).collect();
    assert_eq!(states, ["dropped", "failed", "dropped"]);
    assert_eq!(
        house
            .metadata
            .redeliver(&listed[1].id, Resend::AsSent, "ann")
            .await
            .unwrap(),
        Recovery::EndpointGone
    );
    let day = Duration::from_hours(24);
    let prune = async |ended: Duration, sent: Duration| {
        let now = house.metadata.now();
        let until = (now.minus(ended), now.minus(sent));
        while house
            .metadata
            .prune_webhooks(until, 1_000, 2)
            .await
            .unwrap()
            > 0
        {}
        house.metadata.deliveries(&query, 10).await.unwrap().len()
    };
    assert_eq!(prune(day, day).await, 3);
    house.clock.advance(day);
    assert_eq!(prune(day * 2, day).await, 3);
    assert_eq!(prune(day, day).await, 0);
}

#[tokio::test]
async fn a_request_that_names_itself_is_done_once() {
    let house = House::new().await;
    let times = (Duration::from_hours(24), LEASE);
    let begin = async |request: &[u8]| {
        let begun = house.metadata.begin_reply("key", request.to_vec(), times);
        format!("{:?}", begun.await.unwrap())
    };
    assert_eq!(begin(b"a").await, "New");
    assert_eq!(begin(b"a").await, "UnderWay");
    assert_eq!(begin(b"b").await, "Another");
    house
        .metadata
        .end_reply("key", Some(vec![1]))
        .await
        .unwrap();
    assert_eq!(begin(b"a").await, "Done([1])");
    house.clock.advance(Duration::from_hours(24));
    assert_eq!(begin(b"a").await, "New");
    house.metadata.end_reply("key", None).await.unwrap();
    assert_eq!(begin(b"b").await, "New");
    // Whoever did it was killed.
    house.clock.advance(LEASE);
    assert_eq!(begin(b"b").await, "New");
}
