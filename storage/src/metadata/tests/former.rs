use super::*;
use crate::metadata::inbound::{Delivery, Queued};
use crate::metadata::webhooks::{Letter, NewEndpoint, Spread};

const LEASE: Duration = Duration::from_mins(2);
/// Processes of two nodes, which were killed, and the one that comes after the first.
const FORMER: [&str; 2] = ["a.1", "b.1"];
const NEXT: &str = "a.2";

/// Something to claim of every kind.
async fn wait(house: &House, of: &str) {
    let endpoint = NewEndpoint {
        id: of.to_owned(),
        url: "https://hooks.example/".to_owned(),
        options: "{}".to_owned(),
        enabled: true,
        secret: b"sealed".to_vec(),
    };
    house.metadata.add_webhook(endpoint, "ann").await.unwrap();
    let letter = Letter {
        endpoint: of.to_owned(),
        message: format!("msg_{of}"),
        event: "box.uploaded".to_owned(),
        subject: "x".to_owned(),
        body: 0,
        headers: None,
        blocked: None,
        occurred: UnixMillis(1),
    };
    let spread = Spread {
        up_to: i64::from(of.as_bytes()[0]),
        bodies: vec!["{}".to_owned()],
        letters: vec![letter],
        left_out: Vec::new(),
    };
    let spread = house.metadata.spread_events("events", spread, 100).await;
    assert_eq!(spread.unwrap(), Some(0));
    let delivery = Delivery {
        plugin: "acme".to_owned(),
        hook: "ci".to_owned(),
        id: of.to_owned(),
    };
    let request = ("{}".to_owned(), Vec::new());
    let queued = house
        .metadata
        .queue_delivery(delivery, request, (9, LEASE))
        .await;
    assert_eq!(queued.unwrap(), Queued::Kept);
}

/// How much of each kind `owner` gets: what it names, endpoints, deliveries that came in.
async fn claimed(house: &House, owner: &str, names: &[&str]) -> [usize; 3] {
    let mut named = 0;
    for name in names {
        named += usize::from(house.metadata.claim(name, owner, LEASE).await.unwrap());
    }
    let endpoints = house.metadata.claim_webhooks(owner, (LEASE, LEASE / 2));
    let endpoints = endpoints.await.unwrap().len();
    let came_in = house.metadata.claim_deliveries(owner, LEASE, 9).await;
    [named, endpoints, came_in.unwrap().len()]
}

#[tokio::test]
async fn a_start_takes_what_former_processes_of_its_node_were_at_and_alone_what_anybody_was() {
    let house = House::new().await;
    for owner in FORMER {
        wait(&house, owner).await;
        assert_eq!(claimed(&house, owner, &[owner]).await, [1, 1, 1], "{owner}");
    }
    assert_eq!(claimed(&house, NEXT, &FORMER).await, [0, 0, 0]);
    house.metadata.release_former("a").await.unwrap();
    let all = if house.metadata.is_shared() { 1 } else { 2 };
    assert_eq!(claimed(&house, NEXT, &FORMER).await, [all; 3]);
}
