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
        assert!(ordered.is_some_and(|ordered| !ordered.ready), "{server}");
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
    let begun = house.metadata.inner.options.clock.now().minus(LEASE);
    let Taken::Left { seq, since, age } = take(&house, "a", "web").await else {
        panic!("whoever had it is gone");
    };
    assert_eq!((since, age), (begun, LEASE));
    // At the start of a process that is alone nobody else is at it.
    house.metadata.release_former("node").await.unwrap();
    match take(&house, "a", "web").await {
        Taken::Left {
            seq: again, since, ..
        } => {
            assert!(house.metadata.inner.alone && again != seq);
            // It is as old as when its cloud was last asked.
            assert_eq!(since, begun);
        }
        // Another process may be.
        other => assert!(!house.metadata.inner.alone && other == Taken::UnderWay),
    }
    // Nobody knows what became of it; then it is made anew, and as old as that.
    let seq = ours(&house, "a", "doubt").await;
    house.metadata.leave_order(seq).await.unwrap();
    house.clock.advance(KEPT);
    let Taken::Left { seq, age, .. } = take(&house, "a", "doubt").await else {
        panic!("it may have been made");
    };
    assert_eq!(age, KEPT);
    house.metadata.order_anew(seq).await.unwrap();
    house.metadata.leave_order(seq).await.unwrap();
    let Taken::Left { age, .. } = take(&house, "a", "doubt").await else {
        panic!("it may have been made once more");
    };
    assert_eq!(age, Duration::ZERO);
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
    let seen = async |server: &str, is_ready| {
        let of = ("a", server);
        let seen = house.metadata.server_is_seen(of, is_ready, teller());
        seen.await.unwrap();
    };
    let stands = async || house.metadata.ordered("a", "7").await.unwrap();
    assert!(stands().await.is_some_and(|server| !server.seen));
    seen("7", false).await;
    assert!(stands().await.is_some_and(|s| s.seen && !s.ready));
    seen("7", true).await;
    seen("7", true).await;
    seen("7", false).await;
    assert!(stands().await.is_some_and(|s| s.seen && s.ready));
    // Nobody ordered this one here.
    seen("8", true).await;
    for server in ["7", "8", "7", "8"] {
        let renamed = Some(serde_json::json!("renamed"));
        let of = ("a", server);
        let told = house.metadata.server_is_cancelled(of, renamed, teller());
        told.await.unwrap();
        seen(server, true).await;
    }
    assert_eq!(stands().await, None);
    assert!(house.metadata.is_logged("a", "7").await.unwrap());
    assert!(!house.metadata.is_logged("b", "7").await.unwrap());
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
async fn the_name_of_what_is_renamed_or_gone_is_free() {
    let house = House::new().await;
    for (name, server) in [("one", "1"), ("two", "2")] {
        let seq = ours(&house, "a", name).await;
        place(&house, seq, server).await;
    }
    let renamed = house.metadata.server_is_renamed("a", "1", "other");
    renamed.await.unwrap();
    house.metadata.server_is_gone("a", "2").await.unwrap();
    let made = Taken::Made("1".to_owned());
    assert_eq!(take(&house, "a", "other").await, made);
    for name in ["one", "two"] {
        ours(&house, "a", name).await;
    }
    // Of what is gone nothing more is told.
    let cancelled = house
        .metadata
        .server_is_cancelled(("a", "2"), None, teller());
    cancelled.await.unwrap();
    let told = told(&house).await;
    assert_eq!(told.len(), 2, "{told:?}");
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
