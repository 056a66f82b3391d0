//! Results of benches, read from what criterion left behind: to stand beside the whole, and to be
//! recorded with it.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// One arm of a bench.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Arm {
    /// The bench's group.
    pub(crate) group: String,
    /// Its name, with what it was run on.
    pub(crate) name: String,
    /// Median nanoseconds of one iteration; of CPU time or of the wall, the bench says.
    pub(crate) ns: f64,
    /// Bytes of one iteration.
    pub(crate) bytes: Option<f64>,
    /// Things done in one iteration.
    pub(crate) elements: Option<f64>,
}

impl Arm {
    /// Seconds per 10^9 bytes, or nanoseconds per thing.
    pub(crate) fn figure(&self) -> String {
        match (self.bytes, self.elements) {
            (Some(bytes), _) => format!("{:.3} s/GB", self.ns / bytes),
            (None, elements) => format!("{:.0} ns", self.ns / elements.unwrap_or(1.0)),
        }
    }
}

#[derive(Debug, Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Debug, Deserialize)]
struct Estimate {
    point_estimate: f64,
}

#[derive(Debug, Deserialize)]
struct Benchmark {
    group_id: String,
    function_id: Option<String>,
    value_str: Option<String>,
    throughput: Option<Throughput>,
}

#[derive(Debug, Deserialize)]
struct Throughput {
    #[serde(rename = "Bytes")]
    bytes: Option<f64>,
    #[serde(rename = "Elements")]
    elements: Option<f64>,
}

/// All arms beside the build that `program` comes from, sorted; none when no bench was run there.
pub(crate) fn all(program: &Path) -> Vec<Arm> {
    let Some(target) = program.parent().and_then(Path::parent) else {
        return Vec::new();
    };
    let mut arms = Vec::new();
    let mut directories = vec![target.join("criterion")];
    while let Some(directory) = directories.pop() {
        arms.extend(arm(&directory.join("new")));
        directories.extend(below(&directory));
    }
    arms.sort_by(|a, b| (&a.group, &a.name).cmp(&(&b.group, &b.name)));
    arms
}

/// The arms of one group.
pub(crate) fn of_group(program: &Path, group: &str) -> Vec<Arm> {
    let mut arms = all(program);
    arms.retain(|arm| arm.group == group);
    arms
}

fn below(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

fn arm(directory: &Path) -> Option<Arm> {
    let read = |name| std::fs::read(directory.join(name)).ok();
    let benchmark: Benchmark = serde_json::from_slice(&read("benchmark.json")?).ok()?;
    let estimates: Estimates = serde_json::from_slice(&read("estimates.json")?).ok()?;
    let name = [benchmark.function_id, benchmark.value_str];
    Some(Arm {
        group: benchmark.group_id,
        name: name.into_iter().flatten().collect::<Vec<_>>().join(", "),
        ns: estimates.median.point_estimate,
        bytes: benchmark.throughput.as_ref().and_then(|t| t.bytes),
        elements: benchmark.throughput.as_ref().and_then(|t| t.elements),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_per_gb_per_thing_or_per_call() {
        let arm = |bytes, elements| Arm {
            group: "g".into(),
            name: "n".into(),
            ns: 2000.0,
            bytes,
            elements,
        };
        assert_eq!(arm(Some(4000.0), None).figure(), "0.500 s/GB");
        assert_eq!(arm(None, Some(100.0)).figure(), "20 ns");
        assert_eq!(arm(None, None).figure(), "2000 ns");
    }
}
