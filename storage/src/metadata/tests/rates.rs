//! Each node reads what the others told lately, and nothing of its own.

use std::time::Duration;

use super::*;

const FRESH: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_node_reads_what_others_told_lately() {
    let house = House::new().await;
    let share = async |node: &str, demands: &str| {
        let shared = house.metadata.share_demands(node, demands.into(), FRESH);
        let mut others = shared.await.unwrap();
        others.sort();
        others
    };
    assert!(share("a", "of a").await.is_empty());
    assert_eq!(share("b", "of b").await, ["of a"]);
    assert_eq!(share("c", "of c").await, ["of a", "of b"]);
    assert_eq!(share("a", "newer of a").await, ["of b", "of c"]);
    assert_eq!(share("b", "of b").await, ["newer of a", "of c"]);
    house.metadata.withdraw_demands("c").await.unwrap();
    assert_eq!(share("b", "of b").await, ["newer of a"]);
    house.clock.advance(FRESH);
    assert!(share("b", "of b").await.is_empty(), "a went away");
    assert_eq!(share("a", "back").await, ["of b"]);
}
