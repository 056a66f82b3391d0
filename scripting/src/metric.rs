//! A plugin's own metrics: declared in its manifest, bounded in their label sets.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

/// Most sets of labels of one metric.
pub const MAX_LABEL_SETS: usize = 100;
/// Longest value of a label, in bytes.
pub const MAX_LABEL_BYTES: usize = 128;

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Only grows: `metric::count`.
    Counter,
    /// Count and sum of what is observed: `metric::observe`.
    Summary,
}

/// A metric as the manifest declares it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declared {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Names of its labels.
    #[serde(default)]
    pub labels: Vec<String>,
}

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The metric's name, without the plugin's.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Label names and values.
    pub labels: Vec<(String, String)>,
    /// How often.
    pub count: u64,
    /// The sum; of a counter its value.
    pub sum: f64,
}

type Series = BTreeMap<Vec<String>, (u64, f64)>;

/// The metrics of one plugin; they outlive a reload.
#[derive(Debug, Default)]
pub struct Metrics {
    values: Mutex<BTreeMap<String, (Declared, Series)>>,
}

impl Metrics {
    /// Adds one observation.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn add(
        &self,
        declared: &BTreeMap<String, Declared>,
        (name, kind): (&str, Kind),
        value: f64,
        labels: &BTreeMap<String, String>,
    ) -> Result<(), String> {
        let Some(row) = declared.get(name) else {
            return Err(format!(
                "metric `{name}` is not declared; add to plugin.toml: [metrics] {name} = {{ type = \"counter\" }}"
            ));
        };
        if row.kind != kind {
            return Err(format!("metric `{name}` is declared as another type"));
        }
        if !value.is_finite() || (kind == Kind::Counter && value < 0.0) {
            return Err(format!("metric `{name}` cannot take {value}"));
        }
        let mut set = Vec::with_capacity(row.labels.len());
        for label in &row.labels {
            let value = labels.get(label);
            let value =
                value.ok_or_else(|| format!("metric `{name}` needs the label `{label}`"))?;
            if value.len() > MAX_LABEL_BYTES {
                return Err(format!(
                    "label `{label}` is longer than {MAX_LABEL_BYTES} bytes"
                ));
            }
            set.push(value.clone());
        }
        if let Some(unknown) = labels.keys().find(|label| !row.labels.contains(label)) {
            return Err(format!("metric `{name}` has no label `{unknown}`"));
        }
        let mut values = self
            .values
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let entry = values
            .entry(name.to_owned())
            .or_insert_with(|| (row.clone(), Series::new()));
        if entry.0 != *row {
            *entry = (row.clone(), Series::new());
        }
        if entry.1.len() >= MAX_LABEL_SETS && !entry.1.contains_key(&set) {
            return Err(format!(
                "metric `{name}` has {MAX_LABEL_SETS} label sets already"
            ));
        }
        let (count, sum) = entry.1.entry(set).or_default();
        *count += 1;
        *sum += value;
        Ok(())
    }

    /// All values.
    pub fn samples(&self) -> Vec<Sample> {
        let values = self
            .values
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut samples = Vec::new();
        for (name, (row, series)) in values.iter() {
            for (set, (count, sum)) in series {
                samples.push(Sample {
                    name: name.clone(),
                    kind: row.kind,
                    labels: row
                        .labels
                        .iter()
                        .cloned()
                        .zip(set.iter().cloned())
                        .collect(),
                    count: *count,
                    sum: *sum,
                });
            }
        }
        samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_sets_are_bounded_and_undeclared_metrics_refused() {
        let declared = BTreeMap::from([(
            "builds".to_owned(),
            Declared {
                kind: Kind::Counter,
                labels: vec!["result".into()],
            },
        )]);
        let metrics = Metrics::default();
        let add = |name: &str, label: String| {
            let labels = BTreeMap::from([("result".to_owned(), label)]);
            metrics.add(&declared, (name, Kind::Counter), 1.0, &labels)
        };
        for n in 0..MAX_LABEL_SETS {
            add("builds", n.to_string()).unwrap();
        }
        assert!(add("builds", "one more".into()).is_err());
        add("builds", "0".into()).unwrap();
        assert!(
            add("other", "0".into())
                .unwrap_err()
                .contains("[metrics] other")
        );
        let samples = metrics.samples();
        assert_eq!(samples.len(), MAX_LABEL_SETS);
        assert!((samples[0].sum - 2.0).abs() < f64::EPSILON);
    }
}
