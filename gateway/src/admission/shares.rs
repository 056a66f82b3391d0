//! What of each rate is this node's, where several nodes count by the same rows.
//!
//! Once a second a node tells the others whom it counted, and how often they asked, and reads what the others told. Of
//! each it takes what it was asked, as long as there is enough for all; else the nodes that are asked little keep that, and
//! the others take equal parts of the rest. Whoever nobody told of has an equal part at each. While the rows cannot be
//! reached, all stays as it is.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use boxgate_storage::error::chain;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::rates::{Key, Rates};
use crate::gateway::Gateway;

/// How often nodes tell each other.
const EVERY: Duration = Duration::from_secs(1);
/// A node that told nothing for so long takes no part.
const FRESH: Duration = Duration::from_secs(5);
/// Who asked for less than this part of an equal share is not told of: all of those together overdraw a rate by no more.
const WORTH_TELLING: f64 = 0.05;
/// The least part of an equal share that a node keeps for whoever comes to it from another one.
const LEAST: f64 = 0.25;
/// Askers that a node tells of, those first that ask for most of their rate; one takes about 40 bytes of the row.
const MOST_TOLD: usize = 1_000;

/// Requests a second by policy and asker.
type Demands = BTreeMap<String, BTreeMap<String, f64>>;

/// One asker of this node.
struct Asked {
    policy: usize,
    key: Key,
    a_second: f64,
}

/// What was given to this node, which ends where it is not told of again.
#[derive(Debug, Default)]
struct Given(HashSet<(Arc<str>, Key)>);

/// Shares rates until the gateway drains; returns at once where the rows are this node's alone.
pub async fn run(gateway: Arc<Gateway>) {
    let metadata = &gateway.metadata;
    if !metadata.is_shared() {
        return;
    }
    let (node, ending) = (
        format!("{:032x}", fastrand::u128(..)),
        gateway.upkeep.ending(),
    );
    let (mut given, mut nodes, mut before) = (Given::default(), 1, Instant::now());
    let mut every = interval(EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = ending.cancelled() => break,
            _ = every.tick() => {}
        }
        let rates = gateway.admission.rates.load_full();
        let asked = asked(&rates, nodes, before.elapsed());
        before = Instant::now();
        let told = metadata.share_demands(&node, written(&rates, &asked), FRESH);
        match told.await {
            Ok(others) => nodes = given.take(&rates, asked, &others),
            Err(error) => {
                tracing::debug!(error = chain(&error), "the rates' shares stay as they are");
            }
        }
    }
    if let Err(error) = metadata.withdraw_demands(&node).await {
        tracing::debug!(
            error = chain(&error),
            "this node's share is free in a few seconds"
        );
    }
}

/// Who asked this node since the last look, those first that asked for most of their rate.
fn asked(rates: &Rates, nodes: u32, since: Duration) -> Vec<Asked> {
    let mut all = Vec::new();
    for (policy, by) in rates.policies().iter().enumerate() {
        let worth = WORTH_TELLING * f64::from(by.per_second) / f64::from(nodes);
        for (key, asked) in by.take_asked() {
            let a_second = f64::from(asked) / since.as_secs_f64().max(0.001);
            if a_second >= worth {
                all.push(Asked {
                    policy,
                    key,
                    a_second,
                });
            }
        }
    }
    let part =
        |asked: &Asked| asked.a_second / f64::from(rates.policies()[asked.policy].per_second);
    all.sort_by(|one, other| part(other).total_cmp(&part(one)));
    all.truncate(MOST_TOLD);
    all
}

fn written(rates: &Rates, asked: &[Asked]) -> String {
    let mut demands = Demands::new();
    for Asked {
        policy,
        key,
        a_second,
    } in asked
    {
        let policy = rates.policies()[*policy].name.to_string();
        let of_policy = demands.entry(policy).or_default();
        of_policy.insert(key.to_string(), a_second.round());
    }
    serde_json::to_string(&demands).unwrap_or_default()
}

impl Given {
    /// Takes this node's part of what it and `others` were asked; returns how many nodes there are.
    fn take(&mut self, rates: &Rates, asked: Vec<Asked>, others: &[String]) -> u32 {
        let others: Vec<Demands> = others
            .iter()
            // What a newer release tells in another form counts for nothing, but its node does.
            .map(|told| serde_json::from_str(told).unwrap_or_default())
            .collect();
        let nodes = u32::try_from(others.len())
            .unwrap_or(u32::MAX)
            .saturating_add(1);
        let mut given = HashSet::new();
        for policy in rates.policies() {
            policy.shared_by(nodes);
        }
        for Asked {
            policy,
            key,
            a_second,
        } in asked
        {
            let by = &rates.policies()[policy];
            let name = key.to_string();
            let elsewhere = others
                .iter()
                .filter_map(|told| told.get(&*by.name)?.get(&name).copied())
                .collect();
            let part = share(by.per_second, a_second, elsewhere, nodes);
            by.give(&key, Some(part));
            given.insert((Arc::clone(&by.name), key));
        }
        for (name, key) in self.0.difference(&given) {
            if let Some(policy) = rates.policies().iter().find(|policy| policy.name == *name) {
                policy.give(key, None);
            }
        }
        self.0 = given;
        nodes
    }
}

/// The part of a rate that is one node's, which is asked `mine` a second where others are asked `elsewhere`.
fn share(per_second: u32, mine: f64, elsewhere: Vec<f64>, nodes: u32) -> f64 {
    let (limit, nodes) = (f64::from(per_second), f64::from(nodes));
    let sane = |demand: f64| {
        if demand.is_finite() {
            demand.max(0.0)
        } else {
            0.0
        }
    };
    let mut all: Vec<f64> = elsewhere.into_iter().map(sane).collect();
    all.push(mine);
    let total: f64 = all.iter().sum();
    let part = if total <= limit {
        mine + (limit - total) / nodes
    } else {
        all.sort_by(f64::total_cmp);
        let mut left = limit;
        let mut level = 0.0;
        for (served, demand) in all.iter().enumerate() {
            #[expect(clippy::cast_precision_loss, reason = "a few nodes")]
            let waiting = (all.len() - served) as f64;
            level = left / waiting;
            if *demand > level {
                break;
            }
            left -= demand;
        }
        mine.min(level)
    };
    (part / limit).clamp(LEAST / nodes, 1.0)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;
    use tokio::time::advance;

    use super::*;
    use crate::config::rates::{Per, Rate};
    use crate::route::Class;

    const LIMIT: u32 = 400;

    fn node() -> Rates {
        let rate = Rate {
            name: "address".into(),
            by_scripts: false,
            per: Per::Address,
            classes: vec![Class::Control],
            requests: NonZeroU32::new(LIMIT).unwrap(),
            burst: NonZeroU32::new(LIMIT).unwrap(),
            bytes_in: 0,
            bytes_out: 0,
        };
        Rates::new(&[rate], 100, true)
    }

    /// Nodes that tell each other each second, of which one asker asks so many requests each: how many pass in `seconds`.
    async fn pass(nodes: &[(Rates, u32)], given: &mut [Given], seconds: u32) -> u32 {
        let key = Key::Address([192, 0, 2, 1].into());
        let mut passed = 0;
        for _ in 0..seconds {
            for step in 0..100 {
                for (rates, asked) in nodes {
                    let until_now = |step: u32| asked * step / 100;
                    for _ in until_now(step)..until_now(step + 1) {
                        passed += u32::from(rates.count(&key, Class::Control, None).is_ok());
                    }
                }
                advance(Duration::from_millis(10)).await;
            }
            let count = u32::try_from(nodes.len()).unwrap();
            let told: Vec<_> = nodes
                .iter()
                .map(|(rates, _)| {
                    let asked = asked(rates, count, Duration::from_secs(1));
                    (written(rates, &asked), asked)
                })
                .collect();
            let texts: Vec<String> = told.iter().map(|(text, _)| text.clone()).collect();
            for (at, (_, asked)) in told.into_iter().enumerate() {
                let mut others = texts.clone();
                others.remove(at);
                given[at].take(&nodes[at].0, asked, &others);
            }
        }
        passed
    }

    #[tokio::test(start_paused = true)]
    async fn however_it_is_spread_a_rate_is_kept_to_a_twentieth() {
        for demands in [
            [1_000, 1_000, 1_000],
            [3_000, 0, 0],
            [1_000, 40, 40],
            [390, 300, 5],
        ] {
            let nodes = demands.map(|asked| (node(), asked));
            let mut given = [(); 3].map(|()| Given::default());
            // What bursts gave is used up.
            pass(&nodes, &mut given, 5).await;
            let passed = pass(&nodes, &mut given, 10).await;
            let wanted = LIMIT * 10;
            let off = f64::from(passed.abs_diff(wanted)) / f64::from(wanted);
            assert!(off <= 0.05, "{demands:?}: {passed} of {wanted}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_for_less_than_the_rate_is_refused_nothing_and_a_move_costs_a_burst_at_most() {
        let mut nodes = [(node(), 300), (node(), 0)];
        let mut given = [Given::default(), Given::default()];
        pass(&nodes, &mut given, 3).await;
        assert_eq!(pass(&nodes, &mut given, 10).await, 3_000);
        // All of it goes to the other node from now on.
        (nodes[0].1, nodes[1].1) = (0, 300);
        let moved = pass(&nodes, &mut given, 10).await;
        assert!(moved >= 3_000 - LIMIT, "{moved}");
        assert_eq!(pass(&nodes, &mut given, 10).await, 3_000);
    }

    #[tokio::test(start_paused = true)]
    async fn while_nobody_tells_the_shares_stay_and_strangers_have_an_equal_one() {
        let nodes = [(node(), 1_000), (node(), 1_000)];
        let mut given = [Given::default(), Given::default()];
        pass(&nodes, &mut given, 3).await;
        let stranger = Key::Address([192, 0, 2, 2].into());
        let at_once =
            (0..LIMIT).filter(|_| nodes[0].0.count(&stranger, Class::Control, None).is_ok());
        assert_eq!(at_once.count(), LIMIT as usize / 2);
        let key = Key::Address([192, 0, 2, 1].into());
        let mut passed = 0;
        for _ in 0..1_000 {
            for _ in 0..10 {
                passed += u32::from(nodes[0].0.count(&key, Class::Control, None).is_ok());
            }
            advance(Duration::from_millis(10)).await;
        }
        let wanted = LIMIT * 10 / 2;
        assert!(
            passed.abs_diff(wanted) <= wanted / 20,
            "{passed} of {wanted}"
        );
    }

    proptest! {
        #[test]
        fn what_nodes_use_is_the_rate_and_no_more(
            demands in prop::collection::vec(0.0..5_000.0_f64, 1..6),
        ) {
            let nodes = u32::try_from(demands.len()).unwrap();
            let mut used = 0.0;
            let mut asked = 0.0;
            for (at, mine) in demands.iter().enumerate() {
                let mut elsewhere = demands.clone();
                elsewhere.remove(at);
                let part = share(LIMIT, *mine, elsewhere, nodes);
                prop_assert!((LEAST / f64::from(nodes)..=1.0).contains(&part));
                used += mine.min(part * f64::from(LIMIT));
                asked += mine;
            }
            let limit = f64::from(LIMIT);
            prop_assert!(used <= limit * 1.000_001, "{used}");
            prop_assert!(used >= asked.min(limit) * 0.999_999, "{used} of {asked}");
        }

        #[test]
        fn what_others_tell_is_never_believed_to_be_more_than_a_number(told in any::<f64>(), text in ".*") {
            let part = share(LIMIT, 10.0, vec![told], 2);
            prop_assert!((0.0..=1.0).contains(&part));
            let rates = node();
            prop_assert_eq!(Given::default().take(&rates, Vec::new(), &[text]), 2);
        }
    }
}
