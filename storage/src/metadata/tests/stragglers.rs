use super::*;
use crate::metadata::stragglers::{Progress, Straggler};
use crate::metadata::webhooks::Spread;

const PLACE: &str = "events";
const MOST: u32 = 100;

async fn all(house: &House) -> Vec<Straggler> {
    house.metadata.stragglers().await.unwrap()
}

async fn only(house: &House) -> Straggler {
    let mut all = all(house).await;
    assert_eq!(all.len(), 1);
    all.remove(0)
}

/// Moves the common place, without those.
async fn others(house: &House, up_to: i64, left_out: &[&str]) {
    let spread = Spread {
        up_to,
        left_out: left_out.iter().map(|name| (*name).to_owned()).collect(),
        ..Spread::default()
    };
    let spread = house.metadata.spread_events(PLACE, spread, MOST).await;
    assert_eq!(spread.unwrap(), Some(0));
}

async fn catch_up(house: &House, from: &Straggler, up_to: i64) -> Option<Progress> {
    let spread = Spread {
        up_to,
        ..Spread::default()
    };
    let caught = house.metadata.catch_up(from, PLACE, spread, MOST);
    caught.await.unwrap()
}

const STILL_BEHIND: Option<Progress> = Some(Progress {
    caught_up: false,
    skipped: 0,
});
const CAUGHT_UP: Option<Progress> = Some(Progress {
    caught_up: true,
    skipped: 0,
});

#[tokio::test]
async fn a_straggler_keeps_its_place_until_it_has_caught_up() {
    let house = House::new().await;
    let (metadata, now) = (&house.metadata, house.metadata.now());
    let later = now.plus(Duration::from_secs(5));
    let fails = |why: &str| metadata.fall_behind("crier", 6, later, why.to_owned());
    fails("no").await.unwrap();
    let first = only(&house).await;
    assert_eq!((first.place, first.tries, first.due), (6, 1, later));
    assert_eq!((first.since, first.failing_since), (now, Some(now)));
    // It stays where it is, whatever happens to the others.
    metadata
        .fall_behind("crier", 8, later, "again".to_owned())
        .await
        .unwrap();
    others(&house, 8, &["crier"]).await;
    assert_eq!(only(&house).await, first);

    house.clock.advance(Duration::from_secs(9));
    let even_later = metadata.now().plus(Duration::from_mins(1));
    let stays = metadata.stay_behind(&first, even_later, "still no".to_owned());
    stays.await.unwrap();
    let second = only(&house).await;
    assert_eq!((second.tries, second.due), (2, even_later));
    assert_eq!((second.since, second.failing_since), (now, Some(now)));
    assert_eq!(second.error.as_deref(), Some("still no"));

    assert_eq!(catch_up(&house, &second, 7).await, STILL_BEHIND);
    let third = only(&house).await;
    assert_eq!((third.place, third.tries), (7, 0));
    assert_eq!((third.failing_since, third.error.as_deref()), (None, None));
    assert_eq!(catch_up(&house, &second, 7).await, None, "it is elsewhere");
    assert_eq!(catch_up(&house, &third, 8).await, CAUGHT_UP);
    assert_eq!(all(&house).await, []);
}

#[tokio::test]
async fn one_that_was_left_out_while_it_caught_up_is_behind_again() {
    let house = House::new().await;
    let now = house.metadata.now();
    others(&house, 6, &[]).await;
    let fails = house.metadata.fall_behind("crier", 5, now, "no".to_owned());
    fails.await.unwrap();
    // Others were told the seventh without it; it catches up with the sixth just before that is written down.
    let before = only(&house).await;
    assert_eq!(catch_up(&house, &before, 6).await, CAUGHT_UP);
    others(&house, 7, &["crier"]).await;
    let again = only(&house).await;
    assert_eq!((again.place, again.tries, again.due), (6, 0, now));
    house.metadata.forget_straggler("crier").await.unwrap();
    assert_eq!(all(&house).await, []);
}
