//! A scenario is data: steps that are played in order, in rounds, and what must hold at the end.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Deserialize;

use crate::error::{Failure, Result};

/// What is shipped, in the order in which `all` runs it.
const SHIPPED: [(&str, &str); 4] = [
    ("memory", include_str!("../scenarios/memory.toml")),
    ("throughput", include_str!("../scenarios/throughput.toml")),
    ("cpu", include_str!("../scenarios/cpu.toml")),
    ("downloads", include_str!("../scenarios/downloads.toml")),
];

/// How much shorter everything is in a quick run.
const QUICK: u64 = 16;
/// How much looser figures of time are then (they only catch a hang).
const LOOSER: f64 = 20.0;

/// One scenario.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// Its name; the file's.
    #[serde(skip)]
    pub(crate) name: String,
    /// What it answers.
    pub(crate) question: String,
    /// How often all steps are played, one after the other.
    #[serde(default = "one")]
    pub(crate) rounds: u32,
    /// Keys of the gateway's configuration.
    #[serde(default)]
    pub(crate) gateway: BTreeMap<String, String>,
    /// A group of benches whose arms are printed beside the result.
    pub(crate) arms: Option<String>,
    /// What is done.
    #[serde(rename = "step")]
    pub(crate) steps: Vec<Step>,
    /// What must hold: a miss is a failure.
    #[serde(default)]
    pub(crate) must: Vec<Bound>,
    /// What is aimed at: a miss is said.
    #[serde(default)]
    pub(crate) target: Vec<Bound>,
}

/// One step.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Step {
    /// Names it in the table and in bounds.
    pub(crate) name: String,
    /// What is done.
    pub(crate) kind: Kind,
    /// Bytes of each.
    pub(crate) length: Length,
    /// How many.
    #[serde(default = "one")]
    pub(crate) count: u32,
    /// Time from the intended start of one to that of the next; 0 is all at once. Whoever starts late
    /// is not forgiven: latency counts from the intended start.
    #[serde(default)]
    pub(crate) every_ms: u64,
    /// How an upload is framed.
    #[serde(default)]
    pub(crate) carrier: Carrier,
    /// Played by a gateway that has done nothing before.
    #[serde(default)]
    pub(crate) fresh: bool,
    /// The step whose uploads are downloaded.
    pub(crate) of: Option<String>,
    /// Downloaded for the first time since it came in, so perhaps from the disk; otherwise a download
    /// before it, which is not timed, brings the bytes into the page cache.
    #[serde(default)]
    pub(crate) cold: bool,
}

impl Step {
    /// How many of what length, for people: `8 x 64 MiB`.
    pub(crate) fn size(&self) -> String {
        format!("{} x {}", self.count, self.length)
    }
}

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Uploads.
    Upload,
    /// Downloads.
    Download,
    /// `dd conv=fdatasync` of a file of that length: what the disk gives through the page cache.
    Dd,
    /// The same with `oflag=direct`: what it gives past the page cache.
    DdDirect,
    /// The same bytes to a socket that only reads: what the generator and loopback give.
    LoopbackUp,
    /// From a socket that only writes.
    LoopbackDown,
}

/// How an upload is framed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Carrier {
    /// The body is the box.
    #[default]
    Raw,
    /// A form with the box in its part `file`.
    Multipart,
}

/// A bound on one figure of one step, or on its share of the same figure of another.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bound {
    /// Which figure.
    pub(crate) figure: Figure,
    /// Of which step; all steps when absent.
    pub(crate) step: Option<String>,
    /// Divided by that of this step.
    pub(crate) of: Option<String>,
    /// Not more than this. Without either limit the figure is only told.
    pub(crate) at_most: Option<f64>,
    /// Not less than this.
    pub(crate) at_least: Option<f64>,
}

/// What is measured, with its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Figure {
    /// Highest resident memory of the gateway in MiB, the worst round.
    PeakRssMib,
    /// 10^9 bytes per second, the median round.
    GbPerS,
    /// CPU seconds of the gateway per 10^9 bytes, the median round.
    CpuSPerGb,
    /// The slowest of a hundred, in milliseconds, over all rounds.
    P99Ms,
}

impl Figure {
    /// Whether the machine's mood moves it.
    fn is_of_time(self) -> bool {
        self != Self::PeakRssMib
    }

    /// Whether a gateway elsewhere must tell it of itself.
    pub(crate) fn is_told(self) -> bool {
        matches!(self, Self::PeakRssMib | Self::CpuSPerGb)
    }

    /// The figure with its unit.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::PeakRssMib => "peak RSS (MiB)",
            Self::GbPerS => "GB/s",
            Self::CpuSPerGb => "CPU s/GB",
            Self::P99Ms => "p99 (ms)",
        }
    }
}

/// Bytes, written with a unit: `"64MiB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Length(pub(crate) u64);

impl TryFrom<String> for Length {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match &text[digits.len()..] {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            other => return Err(format!("{other:?} is not B, KiB, MiB or GiB")),
        };
        let count: u64 = digits
            .trim()
            .parse()
            .map_err(|_e| format!("{text:?} is no length"))?;
        Ok(Self(count * unit))
    }
}

/// In the largest unit of which there is one: rounded to tenths, as the sixteenth of some lengths is no whole number.
impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        let unit = units.into_iter().find(|(shift, _)| self.0 >> shift > 0);
        match unit {
            None => write!(f, "{} B", self.0),
            Some((shift, unit)) if self.0.trailing_zeros() >= shift => {
                write!(f, "{} {unit}", self.0 >> shift)
            }
            Some((shift, unit)) => {
                let tenths = (u128::from(self.0) * 10) >> shift;
                write!(f, "{}.{} {unit}", tenths / 10, tenths % 10)
            }
        }
    }
}

fn one() -> u32 {
    1
}

impl Scenario {
    /// One that has no steps and no settings, and in which nothing must hold but what always must.
    #[cfg(test)]
    pub(crate) fn bare() -> Self {
        Self {
            name: "t".to_owned(),
            question: "q".to_owned(),
            rounds: 1,
            gateway: BTreeMap::new(),
            arms: None,
            steps: Vec::new(),
            must: Vec::new(),
            target: Vec::new(),
        }
    }

    fn parse(name: &str, text: &str) -> Result<Self> {
        let mut scenario: Self =
            toml::from_str(text).map_err(|e| Failure::said(format!("{name}: {e}")))?;
        name.clone_into(&mut scenario.name);
        scenario
            .check()
            .map_err(|wrong| Failure::said(format!("{name}: {wrong}")))?;
        Ok(scenario)
    }

    /// Names that bounds and downloads mention must be there.
    fn check(&self) -> std::result::Result<(), String> {
        if self.rounds == 0 || self.steps.is_empty() {
            return Err("there is nothing to play: `rounds` is 0, or there is no step".to_owned());
        }
        let names: Vec<&str> = self.steps.iter().map(|step| step.name.as_str()).collect();
        for (i, step) in self.steps.iter().enumerate() {
            if names[..i].contains(&step.name.as_str()) {
                return Err(format!("two steps are named {:?}", step.name));
            }
            if step.count == 0 || step.length.0 == 0 {
                return Err(format!(
                    "{:?} moves nothing: a `count` or `length` of 0",
                    step.name
                ));
            }
            match (&step.of, step.kind) {
                (Some(of), Kind::Download)
                    if self.steps[..i]
                        .iter()
                        .any(|s| s.name == *of && s.kind == Kind::Upload) => {}
                (None, kind) if kind != Kind::Download => {}
                _ => return Err(format!("{:?} has the wrong `of`", step.name)),
            }
        }
        for bound in self.must.iter().chain(&self.target) {
            let mentioned = bound.step.iter().chain(&bound.of);
            if let Some(unknown) = mentioned.into_iter().find(|n| !names.contains(&n.as_str())) {
                return Err(format!("a bound speaks of {unknown:?}, which is no step"));
            }
        }
        Ok(())
    }

    /// A step has another name from now on.
    fn rename(&mut self, old: &str, new: &str) {
        let steps = self
            .steps
            .iter_mut()
            .flat_map(|step| std::iter::once(&mut step.name).chain(&mut step.of));
        let bounds = self.must.iter_mut().chain(&mut self.target);
        let bounds = bounds.flat_map(|bound| bound.step.iter_mut().chain(&mut bound.of));
        for name in steps.chain(bounds).filter(|name| name.as_str() == old) {
            new.clone_into(name);
        }
    }

    /// The same, over quickly: order and result are asserted, time only against a hang.
    pub(crate) fn quick(mut self) -> Self {
        self.rounds = 1;
        for index in 0..self.steps.len() {
            let whole = self.steps[index].length;
            let short = Length((whole.0 / QUICK).max(1));
            self.steps[index].length = short;
            // A name that tells a size tells the one that is played.
            let old = self.steps[index].name.clone();
            let new = old.replacen(&whole.to_string(), &short.to_string(), 1);
            if self.steps.iter().all(|step| step.name != new) {
                self.rename(&old, &new);
            }
        }
        for bound in self.must.iter_mut().chain(&mut self.target) {
            if bound.figure.is_of_time() {
                bound.at_most = bound.at_most.map(|n| n * LOOSER);
                bound.at_least = bound.at_least.map(|n| n / LOOSER);
            }
        }
        self
    }
}

/// All that are shipped.
pub(crate) fn shipped() -> Result<Vec<Scenario>> {
    SHIPPED
        .iter()
        .map(|(name, text)| Scenario::parse(name, text))
        .collect()
}

/// One by name, or from a file.
pub(crate) fn find(name: &str) -> Result<Scenario> {
    if let Some((name, text)) = SHIPPED.iter().find(|(known, _)| *known == name) {
        return Scenario::parse(name, text);
    }
    let path = Path::new(name);
    if path.extension().is_none_or(|extension| extension != "toml") {
        return Err(Failure::said(format!(
            "no scenario is named {name:?}; try `list`"
        )));
    }
    let text = std::fs::read_to_string(path).map_err(|e| Failure::file(path, e))?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    Scenario::parse(&stem, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_shipped_scenarios_are_well_formed() {
        assert_eq!(shipped().unwrap().len(), SHIPPED.len());
    }

    #[test]
    fn a_name_that_is_no_step_is_refused() {
        let text = "question = 'q'\n[[step]]\nname = 'a'\nkind = 'upload'\nlength = '1MiB'\n";
        assert!(Scenario::parse("t", text).is_ok());
        for wrong in [
            "[[must]]\nfigure = 'gb_per_s'\nstep = 'b'\nat_least = 1",
            "[[must]]\nfigure = 'gb_per_s'\nstep = 'a'\nof = 'b'\nat_least = 1",
            "[[step]]\nname = 'a'\nkind = 'upload'\nlength = '1MiB'",
            "[[step]]\nname = 'b'\nkind = 'download'\nlength = '1MiB'",
            "[[step]]\nname = 'b'\nkind = 'upload'\nlength = '1MB'",
            "[[step]]\nname = 'b'\nkind = 'upload'\nlength = '0MiB'",
            "[[step]]\nname = 'b'\nkind = 'upload'\nlength = '1MiB'\ncount = 0",
            "[[step]]\nname = 'b'\nkind = 'upload'\nlength = '1MiB'\ncolour = 'red'",
        ] {
            assert!(
                Scenario::parse("t", &format!("{text}{wrong}\n")).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_quick_run_is_shorter_and_forgives_time_only() {
        let text = "question = 'q'\nrounds = 5\n[[step]]\nname = 'a'\nkind = 'upload'\nlength = '1GiB'\n\
                    [[must]]\nfigure = 'peak_rss_mib'\nat_most = 224\n\
                    [[must]]\nfigure = 'gb_per_s'\nat_least = 1\n";
        let quick = Scenario::parse("t", text).unwrap().quick();
        assert_eq!((quick.rounds, quick.steps[0].length), (1, Length(64 << 20)));
        assert_eq!(quick.must[0].at_most, Some(224.0));
        assert_eq!(quick.must[1].at_least, Some(0.05));
    }

    #[test]
    fn a_scenario_that_plays_nothing_is_refused() {
        let step = "[[step]]\nname = 'a'\nkind = 'upload'\nlength = '1MiB'\n";
        let text = format!("question = 'q'\nrounds = 0\n{step}");
        let refused = Scenario::parse("t", &text).unwrap_err().to_string();
        assert!(refused.contains("nothing to play"), "{refused}");
        assert!(Scenario::parse("t", "question = 'q'\nstep = []\n").is_err());
    }

    #[test]
    fn names_of_a_quick_run_tell_the_lengths_that_it_plays() {
        for scenario in shipped().unwrap() {
            let quick = scenario.quick();
            quick.check().unwrap();
            for step in &quick.steps {
                let told = step.name.contains("iB");
                let true_one = step.name.contains(&step.length.to_string());
                assert!(!told || true_one, "{}: {}", step.name, step.size());
            }
        }
    }

    #[test]
    fn a_length_is_told_in_its_unit() {
        for (bytes, wanted) in [
            (1 << 30, "1 GiB"),
            (64 << 20, "64 MiB"),
            (3 << 19, "1.5 MiB"),
            (1023, "1023 B"),
        ] {
            assert_eq!(Length(bytes).to_string(), wanted);
        }
    }
}
