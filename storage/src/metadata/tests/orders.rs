use super::*;
use crate::metadata::orders::{Taken, Teller, Wanted};

const LEASE: Duration = Duration::from_mins(1);
const KEPT: Duration = Duration::from_mins(10);

async fn take(house: &House, account: &str, name: &str) -> Taken {
    let wanted = Wanted {
        account: account.to_owned(),
        name: name.to_owned(),
        region: "r".to_owned(),
        size: "s".to_owned(),
    };
    let taken = house.metadata.take_order(wanted, (LEASE, KEPT)).await;
    taken.unwrap()
}

async fn ours(house: &House, account: &str, name: &str) -> i64 {
    match take(house, account, name).await {
        Taken::Ours(seq) => seq,
        other => panic!("{other:?}"),
    }
}

fn teller() -> Teller {
    Teller {
        provider: "do".to_owned(),
        plugin: "digitalocean".to_owned(),
    }
}

async fn place(house: &House, seq: i64, server: &str) {
    let placed = house.metadata.place_order(seq, server, teller()).await;
    placed.unwrap();
}

/// What was told of servers: what, name, region.
async fn told(house: &House) -> Vec<(String, serde_json::Value, serde_json::Value)> {
    let events = house.metadata.events(0, 100).await.unwrap().into_iter();
    let of_servers = events.filter_map(|event| {
        let what = event.name.strip_prefix("provider.server.")?.to_owned();
        let mut data: serde_json::Value = serde_json::from_str(&event.data).unwrap();
        assert_eq!(data["provider"], "do");
        assert_eq!(
            data["actor"],
            serde_json::json!({ "type": "script", "name": "digitalocean" })
        );
        Some((what, data["name"].take(), data["region"].take()))
    });
    of_servers.collect()
}

#[tokio::test]
async fn an_order_is_made_once_within_its_time() {
    let house = House::new().await;
    let seq = ours(&house, "a", "web").await;
    assert_eq!(take(&house, "a", "web").await, Taken::UnderWay);
    ours(&house, "b", "web").await;
    place(&house, seq, "7").await;
    assert_eq!(take(&house, "a", "web").await, Taken::Made("7".to_owned()));
    // Later it is another one; the first is still known.
    house.clock.advance(KEPT);
    let seq = ours(&house, "a", "web").await;
    place(&house, seq, "8").await;
    assert_eq!(take(&house, "a", "web").await, Taken::Made("8".to_owned()));
    for server in ["7", "8"] {
        let ordered = house.metadata.ordered("a", server).await.unwrap();
        assert!(ordered.is_some_and(|(_, ready)| !ready), "{server}");
    }
    assert_eq!(house.metadata.ordered("b", "7").await.unwrap(), None);
}

#[tokio::test]
async fn one_that_came_to_nothing_is_made_anew_and_one_that_was_left_is_said_to_be() {
    let house = House::new().await;
    let seq = ours(&house, "a", "web").await;
    house.metadata.drop_order(seq).await.unwrap();
    ours(&house, "a", "web").await;
    house.clock.advance(LEASE);
    let Taken::Left(seq) = take(&house, "a", "web").await else {
        panic!("whoever had it is gone");
    };
    // At the start of a process that is alone nobody else is at it.
    house.metadata.release_orders().await.unwrap();
    match take(&house, "a", "web").await {
        Taken::Left(again) => assert!(house.metadata.inner.alone && again != seq),
        // Another process may be.
        other => assert!(!house.metadata.inner.alone && other == Taken::UnderWay),
    }
    // What was made is not forgotten by who comes late.
    let seq = ours(&house, "a", "late").await;
    place(&house, seq, "9").await;
    house.metadata.drop_order(seq).await.unwrap();
    assert_eq!(take(&house, "a", "late").await, Taken::Made("9".to_owned()));
}

#[tokio::test]
async fn a_server_is_told_of_once_at_each_step() {
    let house = House::new().await;
    let seq = ours(&house, "a", "web").await;
    place(&house, seq, "7").await;
    for _ in 0..2 {
        house
            .metadata
            .server_is_ready("a", "7", teller())
            .await
            .unwrap();
    }
    assert!(house.metadata.ordered("a", "7").await.unwrap().unwrap().1);
    // Nobody ordered these here.
    house
        .metadata
        .server_is_ready("a", "8", teller())
        .await
        .unwrap();
    for server in ["7", "8"] {
        let renamed = serde_json::json!("renamed");
        let of = ("a", server);
        let told = house.metadata.server_is_cancelled(of, renamed, teller());
        told.await.unwrap();
    }
    let null = serde_json::Value::Null;
    let step = |what: &str, name: &str, region| (what.to_owned(), name.into(), region);
    let wanted = [
        step("ordered", "web", "r".into()),
        step("ready", "web", "r".into()),
        step("cancelled", "renamed", "r".into()),
        step("cancelled", "renamed", null),
    ];
    assert_eq!(told(&house).await, wanted);
    // Its name is free.
    ours(&house, "a", "web").await;
}

#[tokio::test]
async fn old_orders_are_forgotten_a_few_at_a_time() {
    let house = House::new().await;
    for name in ["1", "2", "3"] {
        let seq = ours(&house, "a", name).await;
        place(&house, seq, name).await;
    }
    let until = house.metadata.inner.options.clock.now();
    house.clock.advance(KEPT);
    let seq = ours(&house, "a", "4").await;
    place(&house, seq, "4").await;
    for gone in [2, 1, 0] {
        assert_eq!(house.metadata.prune_orders(until, 2).await.unwrap(), gone);
    }
    assert_eq!(house.metadata.ordered("a", "1").await.unwrap(), None);
    assert!(house.metadata.ordered("a", "4").await.unwrap().is_some());
}
