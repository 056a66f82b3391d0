//! Holds an outcome against what must hold: always the same four things, and the scenario's bounds.

use crate::play::{Outcome, Played, Round};
use crate::scenario::{Bound, Figure, Kind, Scenario};

/// One thing that held or did not.
#[derive(Debug, Clone)]
pub(crate) struct Verdict {
    /// What was demanded, with the figure found.
    pub(crate) text: String,
    /// How it came out.
    pub(crate) ruling: Ruling,
}

/// How a demand came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ruling {
    /// It held.
    Held,
    /// It must hold, and did not.
    Broken,
    /// It was aimed at, and not reached.
    Missed,
    /// Nothing was demanded.
    Told,
    /// What was demanded can be judged neither way.
    NotJudged,
}

/// Judges everything.
pub(crate) fn judge(scenario: &Scenario, outcome: &Outcome) -> Vec<Verdict> {
    let unseen = "no 5xx, no panic, nothing left in progress, ended on SIGTERM";
    let always = Verdict {
        text: match outcome.wrong.first() {
            None if outcome.is_elsewhere => "every answer right".into(),
            None => format!("every answer right, {unseen}"),
            Some(first) => format!(
                "{} things were wrong; the first: {first}",
                outcome.wrong.len()
            ),
        },
        ruling: if outcome.wrong.is_empty() {
            Ruling::Held
        } else {
            Ruling::Broken
        },
    };
    let unchecked = outcome.is_elsewhere.then(|| Verdict {
        text: format!("{unseen}: not checked (a gateway elsewhere)"),
        ruling: Ruling::NotJudged,
    });
    let hidden = outcome.hidden.iter().map(|why| Verdict {
        text: format!("CPU and memory are missing, for the gateway does not tell them: {why}"),
        ruling: Ruling::Told,
    });
    let must = scenario
        .must
        .iter()
        .flat_map(|bound| judge_bound(scenario, bound, outcome, Ruling::Broken));
    let target = scenario
        .target
        .iter()
        .flat_map(|bound| judge_bound(scenario, bound, outcome, Ruling::Missed));
    std::iter::once(always)
        .chain(unchecked)
        .chain(hidden)
        .chain(must)
        .chain(target)
        .collect()
}

fn judge_bound(
    scenario: &Scenario,
    bound: &Bound,
    outcome: &Outcome,
    miss: Ruling,
) -> Vec<Verdict> {
    let steps = outcome.steps.iter().filter(|step| match &bound.step {
        Some(name) => step.name == *name,
        None => step.figure(bound.figure).is_some() || step.failed() > 0,
    });
    let judged = steps.map(|step| {
        let verdict = one(bound, step, outcome, miss);
        match elsewhere(scenario, bound, outcome) {
            Some(why) if verdict.ruling != Ruling::Told => Verdict {
                text: format!("{} ({why})", verdict.text),
                ruling: Ruling::NotJudged,
            },
            _ => verdict,
        }
    });
    judged.collect()
}

/// Why a bound says nothing of a gateway that somebody else started.
fn elsewhere(scenario: &Scenario, bound: &Bound, outcome: &Outcome) -> Option<&'static str> {
    if !outcome.is_elsewhere {
        return None;
    }
    let is_local = |name: &String| {
        let step = scenario.steps.iter().find(|step| step.name == *name);
        step.is_some_and(|step| !matches!(step.kind, Kind::Upload | Kind::Download))
    };
    if !scenario.gateway.is_empty() {
        Some("a gateway elsewhere has settings of its own")
    } else if bound.figure == Figure::PeakRssMib {
        Some("a gateway elsewhere has done other things before")
    } else if bound.of.as_ref().is_some_and(is_local) {
        Some("that was measured on this machine, not on the gateway's")
    } else {
        None
    }
}

fn one(bound: &Bound, step: &Played, outcome: &Outcome, miss: Ruling) -> Verdict {
    let share = bound.of.as_ref().map(|of| format!(" as a share of {of}"));
    let what = format!(
        "{} of {}{}",
        bound.figure.label(),
        step.name,
        share.unwrap_or_default()
    );
    let mut found = step.figure(bound.figure);
    let mut failed = step.failed();
    if let Some(of) = &bound.of {
        let base = outcome.steps.iter().find(|step| step.name == *of);
        failed += base.map_or(0, Played::failed);
        found = found
            .zip(base.and_then(|base| base.figure(bound.figure)))
            .map(|(a, b)| a / b);
    }
    if failed > 0 {
        return Verdict {
            text: format!("{what}: {failed} transfers failed"),
            ruling: Ruling::NotJudged,
        };
    }
    let Some(found) = found else {
        // What a gateway elsewhere does not tell is no fault of it.
        let is_hidden = bound.figure.is_told() && outcome.hidden.is_some();
        return Verdict {
            text: format!("{what} was not measured"),
            ruling: if is_hidden { Ruling::Told } else { miss },
        };
    };
    let limits = [("at most", bound.at_most), ("at least", bound.at_least)];
    let limits = limits.map(|(word, limit)| limit.map(|limit| format!(", {word} {limit}")));
    let text = format!(
        "{what}: {found:.2}{}",
        limits.map(Option::unwrap_or_default).concat()
    );
    let held = bound.at_most.is_none_or(|limit| found <= limit)
        && bound.at_least.is_none_or(|limit| found >= limit);
    let ruling = match (bound.at_most, bound.at_least) {
        (None, None) => Ruling::Told,
        _ if held => Ruling::Held,
        _ => miss,
    };
    Verdict { text, ruling }
}

impl Played {
    /// A figure over all rounds: the worst for memory, the median for all else. `None` where it was
    /// not measured, and where a transfer failed: what is left then is no figure of this step.
    pub(crate) fn figure(&self, figure: Figure) -> Option<f64> {
        if self.failed() > 0 {
            return None;
        }
        match figure {
            Figure::PeakRssMib => self
                .rounds
                .iter()
                .filter_map(|round| self.of_round(round, figure))
                .max_by(f64::total_cmp),
            Figure::GbPerS | Figure::CpuSPerGb => self.median(|round| self.of_round(round, figure)),
            Figure::P99Ms => self.is_served().then(|| self.latency.percentile_ms(99.0)),
        }
    }

    /// The least and the most that rounds gave. `None` where there is no figure, or none of single rounds.
    pub(crate) fn spread(&self, figure: Figure) -> Option<(f64, f64)> {
        self.figure(figure)?;
        let mut values = self
            .rounds
            .iter()
            .filter_map(|round| self.of_round(round, figure));
        let first = values.next()?;
        Some(values.fold((first, first), |(least, most), value| {
            (least.min(value), most.max(value))
        }))
    }

    fn of_round(&self, round: &Round, figure: Figure) -> Option<f64> {
        match figure {
            Figure::PeakRssMib => Some(mib(round.memory?.peak_bytes)),
            Figure::GbPerS => Some(self.gb() / round.wall.as_secs_f64()),
            Figure::CpuSPerGb => Some(round.cpu?.total_s() / self.gb()),
            Figure::P99Ms => None,
        }
    }

    /// Transfers that failed, in all rounds.
    pub(crate) fn failed(&self) -> usize {
        self.rounds.iter().map(|round| round.failed).sum()
    }

    /// Whether a gateway took part in it.
    pub(crate) fn is_served(&self) -> bool {
        !self.latency.is_empty()
    }

    /// Median over the rounds that have a value.
    pub(crate) fn median(&self, of: impl Fn(&Round) -> Option<f64>) -> Option<f64> {
        let mut values: Vec<f64> = self.rounds.iter().filter_map(of).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        match values.len() {
            0 => None,
            n if n % 2 == 1 => Some(values[middle]),
            _ => Some(f64::midpoint(values[middle - 1], values[middle])),
        }
    }

    /// 10^9 bytes of one round.
    pub(crate) fn gb(&self) -> f64 {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a ratio needs no more than 52 bits"
        )]
        let bytes = self.bytes as f64;
        bytes / 1e9
    }
}

/// Bytes as MiB.
pub(crate) fn mib(bytes: u64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a memory size needs no more than 52 bits"
    )]
    let bytes = bytes as f64;
    bytes / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::latency::Latency;
    use crate::process::{Cpu, Memory};

    fn step(name: &str, walls_s: &[u64], peak_mib: u64) -> Played {
        let rounds = walls_s.iter().map(|s| Round {
            wall: Duration::from_secs(*s),
            cpu: Some(Cpu {
                user_s: 1.0,
                system_s: 1.0,
            }),
            memory: Some(Memory {
                peak_bytes: peak_mib << 20,
                ..Memory::default()
            }),
            failed: 0,
        });
        Played {
            name: name.into(),
            size: "4 x 1 GB".into(),
            bytes: 4_000_000_000,
            rounds: rounds.collect(),
            latency: Latency::default(),
        }
    }

    fn bound(figure: Figure, step: Option<&str>, of: Option<&str>, at_most: f64) -> Bound {
        Bound {
            figure,
            step: step.map(Into::into),
            of: of.map(Into::into),
            at_most: Some(at_most),
            at_least: None,
        }
    }

    #[test]
    fn figures_are_medians_and_memory_is_the_worst() {
        let outcome = Outcome {
            steps: vec![step("a", &[1, 4, 2], 100)],
            wrong: Vec::new(),
            hidden: None,
            is_elsewhere: false,
        };
        let a = &outcome.steps[0];
        assert_eq!(a.figure(Figure::GbPerS), Some(2.0));
        assert_eq!(a.figure(Figure::CpuSPerGb), Some(0.5));
        assert_eq!(a.figure(Figure::PeakRssMib), Some(100.0));
    }

    #[test]
    fn a_bound_without_a_step_is_for_all_and_a_share_divides() {
        let steps = vec![step("a", &[2], 100), step("b", &[4], 300)];
        let outcome = Outcome {
            steps,
            wrong: Vec::new(),
            hidden: None,
            is_elsewhere: false,
        };
        let held = |bound| -> Vec<bool> {
            judge_bound(&Scenario::bare(), &bound, &outcome, Ruling::Broken)
                .iter()
                .map(|v| v.ruling == Ruling::Held)
                .collect()
        };
        assert_eq!(
            held(bound(Figure::PeakRssMib, None, None, 224.0)),
            [true, false]
        );
        assert_eq!(
            held(bound(Figure::GbPerS, Some("b"), Some("a"), 0.5)),
            [true]
        );
        assert_eq!(
            held(bound(Figure::PeakRssMib, Some("b"), Some("a"), 1.1)),
            [false]
        );
    }
    #[test]
    fn what_a_gateway_does_not_tell_is_said_and_breaks_nothing() {
        let mut hidden = step("a", &[2], 100);
        for round in &mut hidden.rounds {
            (round.cpu, round.memory) = (None, None);
        }
        hidden.latency.record(Duration::from_millis(5));
        let mut outcome = Outcome {
            steps: vec![hidden],
            wrong: Vec::new(),
            hidden: Some("/metrics: 403".into()),
            is_elsewhere: false,
        };
        let bound = bound(Figure::PeakRssMib, Some("a"), None, 224.0);
        let ruling = |outcome: &Outcome| {
            judge_bound(&Scenario::bare(), &bound, outcome, Ruling::Broken)[0].ruling
        };
        assert_eq!(ruling(&outcome), Ruling::Told);
        assert!(outcome.steps[0].figure(Figure::P99Ms).is_some());
        assert!(outcome.mean(Figure::GbPerS).is_some());
        outcome.hidden = None;
        assert_eq!(ruling(&outcome), Ruling::Broken);
    }

    #[test]
    fn failed_transfers_give_no_figure_and_hold_nothing() {
        let mut outcome = Outcome {
            steps: vec![step("a", &[1, 1], 10), step("b", &[1, 1], 10)],
            wrong: Vec::new(),
            hidden: None,
            is_elsewhere: false,
        };
        for step in &mut outcome.steps {
            step.latency.record(Duration::from_millis(5));
        }
        outcome.steps[0].rounds[1].failed = 1;
        outcome.wrong.push("a: 413".into());
        let mut scenario = Scenario::bare();
        scenario.must = vec![
            bound(Figure::PeakRssMib, None, None, 224.0),
            bound(Figure::GbPerS, Some("b"), Some("a"), 100.0),
        ];
        let failed = &outcome.steps[0];
        for figure in [
            Figure::GbPerS,
            Figure::CpuSPerGb,
            Figure::PeakRssMib,
            Figure::P99Ms,
        ] {
            assert_eq!(failed.figure(figure), None, "{figure:?}");
            assert_eq!(failed.spread(figure), None, "{figure:?}");
        }
        let rulings: Vec<Ruling> = judge(&scenario, &outcome)
            .iter()
            .map(|verdict| verdict.ruling)
            .collect();
        assert_eq!(
            rulings,
            [
                Ruling::Broken,
                Ruling::NotJudged,
                Ruling::Held,
                Ruling::NotJudged
            ]
        );
    }

    #[test]
    fn what_needs_a_gateway_of_ours_is_not_judged_elsewhere() {
        let mut outcome = Outcome {
            steps: vec![step("a", &[1, 2], 10)],
            wrong: Vec::new(),
            hidden: None,
            is_elsewhere: true,
        };
        let mut scenario = Scenario::bare();
        scenario.must = vec![
            bound(Figure::PeakRssMib, Some("a"), None, 224.0),
            bound(Figure::CpuSPerGb, Some("a"), None, 1.0),
        ];
        let told = |scenario: &Scenario, outcome: &Outcome| -> Vec<(Ruling, String)> {
            let judged = judge(scenario, outcome).into_iter();
            judged.map(|told| (told.ruling, told.text)).collect()
        };
        let found = told(&scenario, &outcome);
        assert_eq!(found[0], (Ruling::Held, "every answer right".to_owned()));
        assert_eq!(found[1].0, Ruling::NotJudged);
        assert!(found[1].1.contains("ended on SIGTERM: not checked"));
        assert_eq!((found[2].0, found[3].0), (Ruling::NotJudged, Ruling::Held));
        let settings = BTreeMap::from([("cache.size".to_owned(), "1GiB".to_owned())]);
        scenario.gateway = settings;
        assert_eq!(told(&scenario, &outcome)[3].0, Ruling::NotJudged);
        outcome.is_elsewhere = false;
        let here = told(&scenario, &outcome);
        assert!(here.iter().all(|(ruling, _)| *ruling == Ruling::Held));
        assert!(here[0].1.contains("ended on SIGTERM"));
        assert_eq!(outcome.steps[0].spread(Figure::GbPerS), Some((2.0, 4.0)));
    }
}
