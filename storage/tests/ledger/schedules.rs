//! Random schedules for both ledgers. A failure prints the shortest one that still fails.

use std::cell::RefCell;

use boxgate_storage::conformance::ledger::model::{self, NAMES, Step, TENANTS, Turns};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::rigs::{Memory, Sql};

fn step() -> impl Strategy<Value = Step> {
    // Few uploads at a time, or schedules would rarely bring one to its end.
    let upload = || 0..4_usize;
    let stale = || proptest::bool::weighted(0.1);
    let name = || (0..TENANTS, 0..NAMES);
    prop_oneof![
        3 => (name(), proptest::bool::weighted(0.7), 0..2_u8, 1..5_u8).prop_map(
            |((tenant, name), named, content, blocks)| Step::Create {
                tenant,
                name: named.then_some(name),
                content,
                blocks: if blocks < 4 { 1 } else { 3 },
            }
        ),
        4 => (name(), 0..2_u8).prop_map(|((tenant, name), content)| {
            Step::Put { tenant, name, content }
        }),
        6 => (upload(), stale(), 1..12_u8).prop_map(|(upload, stale, quarters)| {
            Step::Advance { upload, stale, quarters }
        }),
        1 => upload().prop_map(|upload| Step::TakeOver { upload }),
        5 => (upload(), stale()).prop_map(|(upload, stale)| Step::Complete { upload, stale }),
        3 => (upload(), stale()).prop_map(|(upload, stale)| Step::End { upload, stale }),
        6 => (upload(), stale()).prop_map(|(upload, stale)| Step::Publish { upload, stale }),
        1 => (upload(), stale()).prop_map(|(upload, stale)| Step::Abort { upload, stale }),
        1 => (upload(), stale()).prop_map(|(upload, stale)| Step::Lose { upload, stale }),
        2 => upload().prop_map(|upload| Step::Release { upload }),
        3 => name().prop_map(|(tenant, name)| Step::Delete { tenant, name }),
        1 => name().prop_map(|(tenant, name)| Step::Damage { tenant, name }),
        3 => (0..12_u8).prop_map(|tenths| Step::Pass { tenths }),
        4 => (0..12_u8, any::<bool>()).prop_map(|(limit, forget)| Step::Sweep { limit, forget }),
    ]
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        ..Default::default()
    })
}

fn add(all: &RefCell<Turns>, one: Turns) {
    let mut all = all.borrow_mut();
    all.published += one.published;
    all.deduplicated += one.deduplicated;
    all.revived += one.revived;
    all.healed += one.healed;
    all.too_late += one.too_late;
    all.fenced += one.fenced;
    all.released += one.released;
    all.ended += one.ended;
}

fn assert_no_turn_was_missed(all: Turns) {
    let Turns {
        published,
        deduplicated,
        revived,
        healed,
        too_late,
        fenced,
        released,
        ended,
    } = all;
    let turns = [
        published,
        deduplicated,
        revived,
        healed,
        too_late,
        fenced,
        released,
        ended,
    ];
    assert!(turns.iter().all(|count| *count > 0), "{all:?}");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime of one thread")
}

#[test]
fn any_schedule_on_the_twin_keeps_what_is_named_and_leaks_nothing() {
    let runtime = runtime();
    let schedules = vec(step(), 1..120);
    let all = RefCell::new(Turns::default());
    let result = runner(2000).run(&schedules, |steps| {
        add(&all, runtime.block_on(model::run(&Memory::new(), &steps)));
        Ok(())
    });
    result.unwrap();
    assert_no_turn_was_missed(all.into_inner());
}

#[test]
fn any_schedule_on_sqlite_keeps_what_is_named_and_leaks_nothing() {
    let runtime = runtime();
    let schedules = vec(step(), 1..100);
    let result = runner(32).run(&schedules, |steps| {
        runtime.block_on(async { model::run(&Sql::open().await, &steps).await });
        Ok(())
    });
    result.unwrap();
}
