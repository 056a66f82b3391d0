use serde_json::Map;

use super::*;
use crate::metadata::outbox::Emission;

async fn emit(house: &House, name: &str) {
    let emission = Emission {
        name: name.to_owned(),
        plugin: "acme".to_owned(),
        data: Map::new(),
        depth: 0,
        causes: vec!["acme".to_owned()],
    };
    house.metadata.emit(emission).await.unwrap();
}

#[tokio::test]
async fn events_are_forgotten_once_they_are_told_and_old() {
    let house = House::new().await;
    let hour = Duration::from_hours(1);
    let began = house.metadata.newest_event().await.unwrap();
    let start = house.clock.now();
    for name in ["x.acme.a", "x.acme.b", "x.acme.c", "x.acme.d"] {
        house.clock.advance(hour);
        emit(&house, name).await;
    }
    let kept = async || {
        let events = house.metadata.events(began, 100).await.unwrap();
        events.iter().map(|e| e.name.clone()).collect::<Vec<_>>()
    };
    let prune = async |told, until, limit| {
        let pruned = house.metadata.prune_events(told, until, limit).await;
        pruned.unwrap()
    };
    let far = UnixMillis(i64::MAX);
    let told = |events: i64| began + events;
    // What nobody was told of stays, however old.
    while prune(began, far, 1).await > 0 {}
    assert_eq!(kept().await.len(), 4);
    // So does what is younger.
    assert_eq!(prune(told(4), start.plus(hour), 10).await, 1);
    assert_eq!(kept().await, ["x.acme.b", "x.acme.c", "x.acme.d"]);
    assert_eq!(prune(told(2), far, 10).await, 1);
    assert_eq!(kept().await, ["x.acme.c", "x.acme.d"]);
    let oldest = house.metadata.oldest_event().await.unwrap();
    assert_eq!(oldest, Some(start.plus(hour * 3)));
    // In small steps, and the newest stays: the next one has a number behind it.
    assert_eq!(prune(told(4), far, 1).await, 1);
    assert_eq!(prune(told(4), far, 1).await, 0);
    assert_eq!(kept().await, ["x.acme.d"]);
    assert_eq!(house.metadata.newest_event().await.unwrap(), told(4));
}
