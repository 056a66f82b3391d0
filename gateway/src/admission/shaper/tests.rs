//! The model by a clock of the test's own: nobody waits for anything here.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;

use super::model::{Model, QUANTUM, SECOND, Ticket};

/// A client that always has more to move, in pieces of its own sizes.
struct Flow {
    tenant: u32,
    pieces: Vec<u64>,
    turn: usize,
}

struct Of(usize, u64, Rc<Cell<bool>>);

impl Ticket for Of {
    fn is_wanted(&self) -> bool {
        self.2.get()
    }
}

fn of(flow: usize, bytes: u64) -> Of {
    Of(flow, bytes, Rc::new(Cell::new(true)))
}

/// Lets all flows move what they may until `end`; the bytes of each tenant.
fn run(
    model: &mut Model<u32, Of>,
    flows: &mut [Flow],
    rates: &[usize],
    end: u64,
) -> HashMap<u32, u64> {
    let mut moved: HashMap<u32, u64> = HashMap::new();
    let mut now = 0;
    let mut asking: Vec<usize> = (0..flows.len()).collect();
    loop {
        while let Some(index) = asking.pop() {
            let flow = &mut flows[index];
            let bytes = flow.pieces[flow.turn % flow.pieces.len()];
            flow.turn += 1;
            let rates: Vec<_> = rates.iter().map(|place| (*place, flow.tenant)).collect();
            if model.ask(now, &flow.tenant, &rates, bytes, || of(index, bytes)) {
                *moved.entry(flow.tenant).or_default() += bytes;
                asking.push(index);
            }
        }
        let Some(next) = model.next() else { break };
        now = next.max(now);
        if now > end {
            break;
        }
        let mut may = Vec::new();
        model.advance(now, &mut may);
        for Of(index, bytes, _) in may {
            *moved.entry(flows[index].tenant).or_default() += bytes;
            asking.push(index);
        }
    }
    moved
}

/// Tenants with one to five flows each, whose pieces have all sizes, small ones above all.
fn crowd(tenants: u32, seed: u64) -> Vec<Flow> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut flows = Vec::new();
    for tenant in 0..tenants {
        let most = [1 << 10, 16 << 10, QUANTUM][tenant as usize % 3];
        for _ in 0..random.u32(1..=5) {
            flows.push(Flow {
                tenant,
                pieces: (0..17).map(|_| random.u64(1..=most)).collect(),
                turn: 0,
            });
        }
    }
    flows
}

#[expect(clippy::cast_precision_loss, reason = "bytes of ten seconds")]
fn jain(moved: &HashMap<u32, u64>) -> f64 {
    let all = || moved.values().map(|&bytes| bytes as f64);
    let sum: f64 = all().sum();
    sum * sum / (moved.len() as f64 * all().map(|x| x * x).sum::<f64>())
}

/// Whether `bytes` are `share`, three in a hundred more or less.
fn is_near(bytes: u64, share: u64) -> bool {
    bytes.abs_diff(share) * 100 <= share * 3
}

#[test]
fn two_hundred_tenants_get_equal_shares_of_the_node() {
    for seed in 0..2 {
        let rate = 200 << 20;
        let mut model = Model::new(rate, Vec::new());
        let moved = run(&mut model, &mut crowd(200, seed), &[], 10 * SECOND);
        assert_eq!(moved.len(), 200);
        let index = jain(&moved);
        assert!(index >= 0.98, "seed {seed}: Jain's index is {index}");
        let share = rate * 10 / 200;
        for (tenant, &bytes) in &moved {
            assert!(
                is_near(bytes, share),
                "seed {seed}: {tenant} moved {bytes} of {share}"
            );
        }
        let all: u64 = moved.values().sum();
        assert!(is_near(all, rate * 10), "seed {seed}: {all}");
    }
}

#[test]
fn each_keeps_to_the_tightest_of_its_rates_while_the_node_has_room() {
    let (narrow, wide) = (1 << 20, 3 << 20);
    let mut model = Model::new(0, vec![wide, narrow, 0]);
    let moved = run(&mut model, &mut crowd(200, 7), &[0, 1, 2], 10 * SECOND);
    for (tenant, &bytes) in &moved {
        assert!(is_near(bytes, 10 * narrow), "{tenant} moved {bytes}");
    }
    assert!(jain(&moved) >= 0.98);
}

#[test]
fn what_some_may_not_use_the_others_do() {
    // Half of them may move a fifth of an equal share.
    let (node, share) = (100 << 20, (100 << 20) / 20);
    let mut model = Model::new(node, vec![share / 5]);
    let mut flows = crowd(20, 3);
    let mut moved: HashMap<u32, u64> = HashMap::new();
    let (mut now, mut asking) = (0, (0..flows.len()).collect::<Vec<_>>());
    while now <= 10 * SECOND {
        while let Some(index) = asking.pop() {
            let flow = &mut flows[index];
            let bytes = flow.pieces[flow.turn % flow.pieces.len()];
            flow.turn += 1;
            let limited = [(0, flow.tenant)];
            let rates = if flow.tenant < 10 { &limited[..] } else { &[] };
            if model.ask(now, &flow.tenant, rates, bytes, || of(index, bytes)) {
                *moved.entry(flow.tenant).or_default() += bytes;
                asking.push(index);
            }
        }
        now = model.next().unwrap().max(now);
        let mut may = Vec::new();
        model.advance(now, &mut may);
        for Of(index, bytes, _) in may {
            *moved.entry(flows[index].tenant).or_default() += bytes;
            asking.push(index);
        }
    }
    let rest = (node - 10 * (share / 5)) / 10;
    for (tenant, &bytes) in &moved {
        let want = if *tenant < 10 { share / 5 } else { rest };
        assert!(
            is_near(bytes, want * 10),
            "{tenant} moved {bytes} of {}",
            want * 10
        );
    }
}

#[test]
fn nobody_waits_while_there_is_room_and_a_pause_is_made_up_for_a_little() {
    let mut model: Model<u32, Of> = Model::new(10 << 20, vec![1 << 20]);
    let mut at_once = |now, bytes| model.ask(now, &1, &[(0, 1)], bytes, || of(0, bytes));
    // A tenth of a second's worth, and the piece that passes it.
    assert!(at_once(SECOND, 64 << 10));
    assert!(at_once(SECOND, 64 << 10));
    assert!(!at_once(SECOND, 64 << 10));
    let next = model.next().unwrap();
    assert!(next > SECOND && next < SECOND + SECOND / 10, "{next}");
    let mut may = Vec::new();
    model.advance(next - 1, &mut may);
    assert!(may.is_empty());
    model.advance(next, &mut may);
    assert_eq!(may.len(), 1);
    assert_eq!(model.next(), None);
}

#[test]
fn who_left_costs_the_others_nothing_and_nobody_is_remembered_for_long() {
    let mut model = Model::new(1 << 20, vec![1 << 20]);
    assert!(model.ask(SECOND, &1, &[], QUANTUM << 4, || of(0, 0)));
    let gone: Vec<_> = (0..1000)
        .map(|index| {
            let ticket = of(index, QUANTUM);
            let wanted = Rc::clone(&ticket.2);
            assert!(!model.ask(SECOND, &1, &[], QUANTUM, || ticket));
            wanted
        })
        .collect();
    assert!(!model.ask(SECOND, &1, &[], QUANTUM, || of(7, QUANTUM)));
    for wanted in gone {
        wanted.set(false);
    }
    let (mut may, next) = (Vec::new(), model.next().unwrap());
    model.advance(next, &mut may);
    assert_eq!(may.iter().map(|of| of.0).collect::<Vec<_>>(), [7]);
    for tenant in 0..100_000_u32 {
        let now = next + SECOND + u64::from(tenant) * SECOND / 100;
        model.ask(now, &tenant, &[(0, tenant)], 100, || of(0, 100));
    }
    assert!(model.known() < 5_000, "{}", model.known());
}
