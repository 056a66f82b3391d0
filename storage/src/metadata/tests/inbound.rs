use super::*;
use crate::metadata::inbound::{Delivery, End, Queued, Taken};

const LEASE: Duration = Duration::from_mins(1);
const KEPT: Duration = Duration::from_hours(24);
const ME: &str = "me";

fn delivery(id: &str) -> Delivery {
    Delivery {
        plugin: "acme".to_owned(),
        hook: "ci".to_owned(),
        id: id.to_owned(),
    }
}

async fn take(house: &House, id: &str) -> Taken {
    let taken = house
        .metadata
        .take_delivery(delivery(id), ME, (LEASE, KEPT));
    taken.await.unwrap()
}

async fn queue(house: &House, id: &str, most: u32) -> Queued {
    let request = ("{}".to_owned(), id.as_bytes().to_vec());
    let queued = house
        .metadata
        .queue_delivery(delivery(id), request, (most, KEPT));
    queued.await.unwrap()
}

async fn claim(house: &House, owner: &str, limit: u32) -> Vec<(i64, String, u32)> {
    let claimed = house.metadata.claim_deliveries(owner, LEASE, limit).await;
    let claimed = claimed.unwrap().into_iter();
    claimed
        .map(|one| (one.seq, String::from_utf8(one.body).unwrap(), one.tries))
        .collect()
}

async fn end(house: &House, seq: i64, owner: &str, end: End) -> bool {
    house.metadata.end_delivery(seq, owner, end).await.unwrap()
}

#[tokio::test]
async fn a_delivery_is_run_once_and_known_for_a_day() {
    let house = House::new().await;
    let Taken::Ours(seq) = take(&house, "a").await else {
        panic!("nobody had it before");
    };
    assert_eq!(take(&house, "a").await, Taken::UnderWay);
    assert!(matches!(take(&house, "b").await, Taken::Ours(_)));
    assert!(end(&house, seq, ME, End::Done).await);
    assert_eq!(take(&house, "a").await, Taken::Repeat);
    house.clock.advance(KEPT);
    assert!(matches!(take(&house, "a").await, Taken::Ours(_)));
}

#[tokio::test]
async fn what_failed_or_was_left_may_come_again() {
    let house = House::new().await;
    let Taken::Ours(seq) = take(&house, "a").await else {
        panic!("nobody had it before");
    };
    assert!(end(&house, seq, ME, End::Forgotten).await);
    let Taken::Ours(seq) = take(&house, "a").await else {
        panic!("it failed");
    };
    // Its process is gone: the lease runs out.
    house.clock.advance(LEASE);
    let Taken::Ours(again) = take(&house, "a").await else {
        panic!("it was left");
    };
    assert_ne!(seq, again);
    assert!(!end(&house, seq, ME, End::Done).await);
    assert!(end(&house, again, ME, End::Done).await);
}

#[tokio::test]
async fn what_is_kept_is_run_by_one_until_it_is_done() {
    let house = House::new().await;
    assert_eq!(queue(&house, "a", 2).await, Queued::Kept);
    assert_eq!(queue(&house, "a", 2).await, Queued::Repeat);
    assert_eq!(queue(&house, "b", 2).await, Queued::Kept);
    assert_eq!(queue(&house, "c", 2).await, Queued::Full);
    let due = house.metadata.next_delivery().await.unwrap();
    assert_eq!(due, Some(house.clock.now()));
    let first = claim(&house, ME, 1).await;
    let [(a, body, 1)] = first.as_slice() else {
        panic!("{first:?}");
    };
    assert_eq!(body, "a");
    let other = claim(&house, "other", 9).await;
    let [(b, _, 1)] = other.as_slice() else {
        panic!("{other:?}");
    };
    assert!(!end(&house, *b, ME, End::Done).await, "it is another's");

    // Once more later; cut off; and after the lease of a node that is gone.
    let later = house.clock.now().plus(LEASE);
    let failed = || "no".to_owned();
    assert!(end(&house, *a, ME, End::Again(later, failed())).await);
    assert!(end(&house, *b, "other", End::Cut).await);
    assert_eq!(claim(&house, ME, 9).await, [(*b, "b".to_owned(), 1)]);
    assert!(
        house
            .metadata
            .renew_delivery(*b, ME, LEASE * 2)
            .await
            .unwrap()
    );
    house.clock.advance(LEASE);
    assert_eq!(claim(&house, ME, 9).await, [(*a, "a".to_owned(), 2)]);
    house.clock.advance(LEASE);
    let left = claim(&house, "other", 9).await;
    assert_eq!(left.len(), 2);
    assert!(!house.metadata.renew_delivery(*a, ME, LEASE).await.unwrap());

    assert!(end(&house, *a, "other", End::Done).await);
    assert!(end(&house, *b, "other", End::Failed(failed())).await);
    assert_eq!(house.metadata.next_delivery().await.unwrap(), None);
    assert_eq!(queue(&house, "a", 2).await, Queued::Repeat);
    // What failed for good is taken when it is sent once more.
    assert_eq!(queue(&house, "b", 2).await, Queued::Kept);
}

#[tokio::test]
async fn ids_are_forgotten_when_they_are_old_and_nothing_is_left_to_do() {
    let house = House::new().await;
    assert_eq!(queue(&house, "waits", 9).await, Queued::Kept);
    for id in ["a", "b"] {
        let Taken::Ours(seq) = take(&house, id).await else {
            panic!("nobody had it before");
        };
        assert!(end(&house, seq, ME, End::Done).await);
    }
    house.clock.advance(KEPT);
    let until = house.clock.now().minus(KEPT);
    let prune = async |limit| house.metadata.prune_deliveries(until, limit).await.unwrap();
    assert_eq!(prune(1).await, 1);
    assert_eq!(prune(9).await, 1);
    assert_eq!(prune(9).await, 0);
    assert_eq!(claim(&house, ME, 9).await.len(), 1);
}
