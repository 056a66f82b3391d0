//! What was counted of scripts, as Prometheus text. The names of plugins are known only here, so these families
//! are written by themselves.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use boxgate_scripting::Scripts;
use boxgate_scripting::metric::Kind;
use boxgate_scripting::set::State;
use boxgate_scripting::signals::Distribution;

use super::Outside;
use crate::webhook::inbox::Inbox;

/// All families of scripts; empty while there are no plugins.
pub fn metrics(scripts: &Scripts, outside: &Outside, inbox: &Inbox) -> String {
    let mut out = Families::default();
    requests(&mut out, outside);
    webhooks(&mut out, inbox);
    calls(&mut out, scripts);
    for ((plugin, result), count) in scripts.reloads() {
        let labels = format!("plugin=\"{}\",result=\"{result}\"", escaped(&plugin));
        let doc = "Plugins that were loaded, failed to be, or else changed";
        out.add(
            "boxgate_script_reload_total",
            "counter",
            doc,
            &labels,
            count,
        );
    }
    for status in scripts.status() {
        // A file that is no plugin may be called anything.
        let labels = format!("plugin=\"{}\"", escaped(&status.plugin));
        let stale = u8::from(matches!(status.state, State::Stale | State::Failed));
        out.add(
            "boxgate_script_stale",
            "gauge",
            "Whether what stands in a plugin's directory is not in force",
            &labels,
            stale,
        );
        out.add(
            "boxgate_script_generation",
            "gauge",
            "The set in which a plugin was last changed",
            &labels,
            status.generation,
        );
    }
    for (plugin, sample) in scripts.samples() {
        let name = format!(
            "boxgate_plugin_{}_{}",
            plugin.replace('-', "_"),
            sample.name
        );
        let labels: Vec<String> = sample
            .labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
            .collect();
        let labels = labels.join(",");
        let doc = "Declared by the plugin";
        match sample.kind {
            Kind::Counter => out.add(&name, "counter", doc, &labels, sample.sum),
            Kind::Summary => {
                out.add(&format!("{name}_sum"), "counter", doc, &labels, sample.sum);
                out.add(
                    &format!("{name}_count"),
                    "counter",
                    doc,
                    &labels,
                    sample.count,
                );
            }
        }
    }
    out.text()
}

/// Calls of hooks.
fn calls(out: &mut Families, scripts: &Scripts) {
    for counted in scripts.counted() {
        let hook = counted.hook.name();
        let labels = format!("plugin=\"{}\",hook=\"{hook}\"", counted.plugin);
        for (outcome, calls) in &counted.outcomes {
            let labels = format!("{labels},outcome=\"{outcome}\"");
            out.add(
                "boxgate_script_calls_total",
                "counter",
                "Calls of scripts by outcome",
                &labels,
                calls,
            );
        }
        let billionth = |units: u64| std::time::Duration::from_nanos(units).as_secs_f64();
        out.histogram(
            ("boxgate_script_seconds", "Time spent in scripts"),
            &labels,
            &counted.seconds,
            billionth,
        );
        if counted.queued.count > 0 {
            out.histogram(
                (
                    "boxgate_script_queue_seconds",
                    "Time that calls waited for a worker",
                ),
                &labels,
                &counted.queued,
                billionth,
            );
        }
        out.histogram(
            ("boxgate_script_ops", "Operations of scripts"),
            &labels,
            &counted.operations,
            |units| units,
        );
        out.add(
            "boxgate_script_peak_bytes",
            "gauge",
            "The most memory that a call held",
            &labels,
            counted.peak_bytes,
        );
        out.add(
            "boxgate_script_inflight",
            "gauge",
            "Calls under way",
            &labels,
            counted.in_flight,
        );
        let tripped = u8::from(counted.tripped);
        out.add(
            "boxgate_script_tripped",
            "gauge",
            "Whether a hook rests after too many failures",
            &labels,
            tripped,
        );
    }
}

/// Requests of plugins to outside.
fn requests(out: &mut Families, outside: &Outside) {
    for ((plugin, host, class), count) in outside.counted() {
        let host = escaped(&host);
        let labels = format!("plugin=\"{plugin}\",host=\"{host}\",class=\"{class}\"");
        out.add(
            "boxgate_script_http_total",
            "counter",
            "Requests of plugins to outside, by how they went",
            &labels,
            count,
        );
    }
}

/// Webhooks that came in for plugins.
fn webhooks(out: &mut Families, inbox: &Inbox) {
    for ((plugin, hook, became), count) in inbox.counted() {
        let result = became.name();
        let labels = format!("plugin=\"{plugin}\",hook=\"{hook}\",result=\"{result}\"");
        out.add(
            "boxgate_webhook_in_total",
            "counter",
            "Webhooks that came in for plugins, by what became of them",
            &labels,
            count,
        );
    }
}

/// As the value of a label.
pub fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// The lines of each family stand together.
#[derive(Debug, Default)]
pub struct Families(BTreeMap<String, String>);

impl Families {
    /// One value of a family.
    pub fn add(
        &mut self,
        name: &str,
        kind: &str,
        doc: &str,
        labels: &str,
        value: impl std::fmt::Display,
    ) {
        let head = || format!("# HELP {name} {doc}.\n# TYPE {name} {kind}\n");
        let lines = self.0.entry(name.to_owned()).or_insert_with(head);
        // A String takes every write.
        let _ = if labels.is_empty() {
            writeln!(lines, "{name} {value}")
        } else {
            writeln!(lines, "{name}{{{labels}}} {value}")
        };
    }

    /// How often something was up to how much; `unit` makes its sum of the units that were added up.
    fn histogram<T: std::fmt::Display>(
        &mut self,
        (name, doc): (&str, &str),
        labels: &str,
        told: &Distribution,
        unit: impl Fn(u64) -> T,
    ) {
        let head = || format!("# HELP {name} {doc}.\n# TYPE {name} histogram\n");
        let lines = self.0.entry(name.to_owned()).or_insert_with(head);
        for (end, count) in &told.buckets {
            // A String takes every write.
            let _ = writeln!(lines, "{name}_bucket{{{labels},le=\"{end}\"}} {count}");
        }
        let (count, sum) = (told.count, unit(told.units));
        let _ = write!(
            lines,
            "{name}_bucket{{{labels},le=\"+Inf\"}} {count}\n{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {count}\n"
        );
    }

    /// All of them.
    pub fn text(self) -> String {
        self.0.into_values().collect()
    }
}
