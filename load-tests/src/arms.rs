//! Arms of a bench, read from what criterion left behind, to stand beside the whole: what the parts
//! of the byte path cost when they are run alone, on the same machine.

use std::path::Path;

use serde::Deserialize;

/// One arm.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Arm {
    /// Its name.
    pub(crate) name: String,
    /// Median seconds per 10^9 bytes; what kind of seconds, the bench says.
    pub(crate) s_per_gb: f64,
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
    function_id: Option<String>,
    throughput: Option<Throughput>,
}

#[derive(Debug, Deserialize)]
struct Throughput {
    #[serde(rename = "Bytes")]
    bytes: Option<u64>,
}

/// The arms of `group` beside the build that `program` comes from, sorted by name; none when the bench
/// was not run there.
pub(crate) fn read(program: &Path, group: &str) -> Vec<Arm> {
    let Some(target) = program.parent().and_then(Path::parent) else {
        return Vec::new();
    };
    let Ok(entries) = std::fs::read_dir(target.join("criterion").join(group)) else {
        return Vec::new();
    };
    let mut arms: Vec<Arm> = entries
        .filter_map(|entry| arm(&entry.ok()?.path().join("new")))
        .collect();
    arms.sort_by(|a, b| a.name.cmp(&b.name));
    arms
}

fn arm(directory: &Path) -> Option<Arm> {
    let read = |name| std::fs::read(directory.join(name)).ok();
    let benchmark: Benchmark = serde_json::from_slice(&read("benchmark.json")?).ok()?;
    let estimates: Estimates = serde_json::from_slice(&read("estimates.json")?).ok()?;
    #[expect(
        clippy::cast_precision_loss,
        reason = "a length of a bench fits 52 bits"
    )]
    let bytes = benchmark.throughput?.bytes? as f64;
    // Nanoseconds per iteration over bytes per iteration are seconds per 10^9 bytes.
    Some(Arm {
        name: benchmark.function_id?,
        s_per_gb: estimates.median.point_estimate / bytes,
    })
}
