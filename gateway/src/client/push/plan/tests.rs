use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const CUT: Cut = Cut {
    length: 100,
    part_bytes: 8,
};

fn plan() -> Plan {
    Plan::new(CUT, 3, 2)
}

/// All parts that may be sent now.
fn sent(plan: &mut Plan) -> Vec<u64> {
    let steps = std::iter::from_fn(|| match plan.step() {
        Step::Send { part, .. } => Some(part),
        _ => None,
    });
    steps.collect()
}

#[test]
fn a_file_is_cut_into_parts_of_which_the_last_is_the_rest() {
    assert_eq!(CUT.count(), 13);
    assert_eq!(
        (CUT.range(0), CUT.range(12), CUT.range(13)),
        (0..8, 96..100, 100..100)
    );
    let whole = Cut {
        length: 16,
        part_bytes: 8,
    };
    assert_eq!((whole.count(), whole.range(1)), (2, 8..16));
    let huge = Cut {
        length: u64::MAX,
        part_bytes: 1 << 51,
    };
    assert_eq!(huge.range(huge.count() - 1).end, u64::MAX);
}

#[test]
fn no_more_parts_fly_than_there_are_streams_and_none_beyond_the_window() {
    let mut plan = plan();
    assert_eq!(sent(&mut plan), [0, 1, 2]);
    assert_eq!(plan.step(), Step::Wait);
    plan.stored(1, 0);
    assert_eq!((plan.held_bytes(), plan.committed_bytes()), (8, 0));
    assert_eq!(sent(&mut plan), [3]);
    let mut long = Plan::new(
        Cut {
            length: 1000,
            part_bytes: 1,
        },
        1,
        0,
    );
    for part in 0..WINDOW_PARTS {
        assert_eq!(sent(&mut long), [part]);
        long.stored(part, 0);
    }
    assert_eq!(
        long.step(),
        Step::Read { failures: 0 },
        "the window is full"
    );
    long.read(2, 2..WINDOW_PARTS);
    assert_eq!(sent(&mut long), [WINDOW_PARTS]);
}

#[test]
fn what_fails_is_sent_again_until_the_tries_are_over_and_progress_gives_them_back() {
    let mut plan = plan();
    assert_eq!(sent(&mut plan), [0, 1, 2]);
    plan.failed(0);
    assert_eq!(
        plan.step(),
        Step::Send {
            part: 0,
            failures: 1
        }
    );
    plan.failed(0);
    plan.stored(2, 0);
    assert_eq!(
        plan.step(),
        Step::Send {
            part: 0,
            failures: 0
        }
    );
    for failures in 1..=2 {
        plan.failed(0);
        assert_eq!(plan.step(), Step::Send { part: 0, failures });
    }
    plan.failed(0);
    assert_eq!(plan.step(), Step::GiveUp);
}

#[test]
fn a_conflict_is_cleared_up_by_reading_once_nothing_flies() {
    let mut plan = plan();
    assert_eq!(sent(&mut plan), [0, 1, 2]);
    plan.conflicted(1);
    assert_eq!(plan.step(), Step::Wait);
    plan.stored(0, 8);
    plan.failed(2);
    assert_eq!(plan.step(), Step::Read { failures: 0 });
    plan.unread();
    assert_eq!(plan.step(), Step::Read { failures: 1 });
    plan.read(16, [4, 5, 99]);
    assert_eq!(sent(&mut plan), [2, 3, 6]);
    assert_eq!(plan.held_bytes(), 16 + 16);
}

#[test]
fn the_part_in_front_is_sent_again_while_others_wait_for_it() {
    let mut plan = plan();
    assert_eq!(sent(&mut plan), [0, 1, 2]);
    // Its memory was wanted.
    plan.conflicted(2);
    plan.failed(0);
    // The gateway answers 1 once 0 came, and for seconds not at all.
    let again = Step::Send {
        part: 0,
        failures: 1,
    };
    assert_eq!(plan.step(), again);
    assert_eq!(plan.step(), Step::Wait);
    plan.stored(0, 8);
    plan.stored(1, 16);
    assert_eq!(plan.step(), Step::Read { failures: 0 });
    plan.read(16, []);
    assert_eq!(sent(&mut plan), [2, 3, 4]);
    // One that was refused itself is not sent again without a look.
    plan.conflicted(2);
    assert_eq!(plan.step(), Step::Wait);
}

#[test]
fn a_lost_outcome_is_asked_for_and_then_brought_back_by_the_last_part() {
    let mut plan = plan();
    plan.read(96, []);
    assert_eq!(sent(&mut plan), [12]);
    // It was taken, but its answer did not come.
    plan.failed(12);
    assert_eq!(
        plan.step(),
        Step::Send {
            part: 12,
            failures: 1
        }
    );
    plan.stored(12, 100);
    assert_eq!(plan.step(), Step::Read { failures: 0 });
    plan.read(100, []);
    assert_eq!(
        plan.step(),
        Step::Send {
            part: 12,
            failures: 0
        }
    );
    plan.finished();
    assert_eq!(plan.step(), Step::Finished);
    // So it is when a push goes on that only lacked this.
    let mut plan = self::plan();
    plan.read(88, [11, 12]);
    assert_eq!(
        plan.step(),
        Step::Send {
            part: 12,
            failures: 0
        }
    );
    // A gateway that never ends is left.
    for _ in 0..10 {
        plan.stored(12, 88);
        if plan.step() == Step::GiveUp {
            return;
        }
        plan.read(88, [11, 12]);
        if plan.step() == Step::GiveUp {
            return;
        }
    }
    panic!("it goes on for ever");
}

/// A gateway: what it holds, and how far it has committed.
#[derive(Debug, Default)]
struct Gateway {
    committed: u64,
    held: BTreeSet<u64>,
    done: bool,
}

impl Gateway {
    fn offset(&self, cut: Cut) -> u64 {
        cut.range(self.committed).start
    }

    /// Commits up to `most` parts of the prefix.
    fn follow(&mut self, most: u64) {
        for _ in 0..most {
            if !self.held.remove(&self.committed) {
                break;
            }
            self.committed += 1;
        }
    }

    fn take(&mut self, cut: Cut, part: u64) -> bool {
        if part >= self.committed + WINDOW_PARTS {
            return false;
        }
        if part >= self.committed {
            self.held.insert(part);
        }
        let all = self.committed + self.held.len() as u64 == cut.count();
        if all {
            self.follow(u64::MAX);
            self.done = true;
        }
        true
    }
}

/// What becomes of one part on its way.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Arrives,
    Lost,
    AnswerLost,
    Restarted,
}

fn fate() -> impl Strategy<Value = (Fate, usize, u64)> {
    let fate = prop_oneof![
        4 => Just(Fate::Arrives),
        1 => Just(Fate::Lost),
        1 => Just(Fate::AnswerLost),
        1 => Just(Fate::Restarted),
    ];
    (fate, any::<usize>(), 0u64..3)
}

proptest! {
    /// Whatever is lost and in whatever order it arrives: no part is sent without need, the window is
    /// kept, and once nothing is lost any more the push ends with all parts there.
    #[test]
    fn every_schedule_ends_with_all_parts_there(
        count in 1u64..60,
        rest in 1u64..=4,
        streams in 1usize..6,
        fates in prop::collection::vec(fate(), 0..120),
    ) {
        let cut = Cut { length: (count - 1) * 4 + rest, part_bytes: 4 };
        prop_assert_eq!(cut.count(), count);
        let mut plan = Plan::new(cut, streams, 1000);
        let mut gateway = Gateway::default();
        let mut flying = Vec::new();
        let mut fates = fates.into_iter();
        let mut sends = 0;
        let ended = loop {
            match plan.step() {
                Step::Send { part, .. } => {
                    sends += 1;
                    prop_assert!(sends < 2000, "it does not end");
                    let all = gateway.committed + gateway.held.len() as u64 == count;
                    prop_assert!(!plan.held.contains(&part) || all);
                    prop_assert!(part < plan.committed + WINDOW_PARTS || all);
                    prop_assert!(!flying.contains(&part));
                    flying.push(part);
                    prop_assert!(flying.len() <= streams);
                }
                Step::Read { .. } => {
                    prop_assert!(flying.is_empty());
                    gateway.follow(1);
                    if gateway.done {
                        plan.finished();
                    } else {
                        plan.read(gateway.offset(cut), gateway.held.clone());
                    }
                }
                Step::Wait => {
                    prop_assert!(!flying.is_empty(), "nothing to wait for");
                    let (fate, which, follow) = fates.next().unwrap_or((Fate::Arrives, 0, 1));
                    let part = flying.swap_remove(which % flying.len());
                    match fate {
                        Fate::Lost => plan.failed(part),
                        Fate::AnswerLost => {
                            gateway.take(cut, part);
                            plan.failed(part);
                        }
                        // It knows less than this plan thinks, as after a restart from an older state.
                        Fate::Restarted => {
                            if !gateway.done {
                                gateway.held.clear();
                            }
                            plan.conflicted(part);
                        }
                        Fate::Arrives if !gateway.take(cut, part) => plan.conflicted(part),
                        Fate::Arrives if gateway.done => plan.finished(),
                        Fate::Arrives => {
                            gateway.follow(follow);
                            plan.stored(part, gateway.offset(cut));
                        }
                    }
                }
                ended @ (Step::Finished | Step::GiveUp) => break ended,
            }
        };
        prop_assert_eq!(ended, Step::Finished);
        prop_assert!(gateway.done);
        prop_assert_eq!(gateway.committed, count);
    }

    /// A gateway that takes nothing is left after so many tries of each stream, and never sooner.
    #[test]
    fn a_deaf_gateway_is_left_after_the_tries_that_are_allowed(
        tries in 0u32..6,
        streams in 1usize..5,
        order in prop::collection::vec(any::<usize>(), 64),
    ) {
        let mut plan = Plan::new(CUT, streams, tries);
        let mut flying: Vec<u64> = Vec::new();
        let mut failed = std::collections::BTreeMap::<u64, u32>::new();
        let mut order = order.into_iter();
        loop {
            match plan.step() {
                Step::Send { part, failures } => {
                    prop_assert_eq!(failures, failed.get(&part).copied().unwrap_or(0));
                    flying.push(part);
                }
                Step::Wait => {
                    let which = order.next().unwrap_or(0) % flying.len();
                    let part = flying.swap_remove(which);
                    *failed.entry(part).or_default() += 1;
                    plan.failed(part);
                }
                Step::GiveUp => break,
                other => return Err(TestCaseError::fail(format!("{other:?}"))),
            }
        }
        prop_assert_eq!(failed.values().max(), Some(&(tries + 1)));
    }
}
