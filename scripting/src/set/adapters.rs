//! Of plugins that are one adapter, one is in force.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::look::Found;
use super::{Entry, Reloaded, ScriptSet, Scripts, State};
use crate::error::Finding;
use crate::plugin::Plugin;

impl Scripts {
    /// Of plugins that are one adapter, one is in force: the one that was, or else the first by name. The others are as if they
    /// did not work, and are looked at again once the id is free.
    pub(super) fn settle(
        &self,
        before: &ScriptSet,
        found: &Found,
        entries: &mut [Arc<Entry>],
        reports: &mut [Reloaded],
        start: bool,
    ) {
        let old_of = |name: &str| before.entries.iter().find(|old| old.name == name);
        let bundle_of = |name: &str| found.get(name).and_then(|(bundle, _)| bundle.as_ref().ok());
        let mut turns: Vec<usize> = (0..entries.len()).collect();
        turns.sort_by_key(|at| {
            let entry = &entries[*at];
            let was = old_of(&entry.name).and_then(|old| old.adapter());
            (was.is_none() || was != entry.adapter(), was.is_none())
        });
        let turns: Vec<_> = turns
            .into_iter()
            .map(|at| (at, Arc::clone(&entries[at])))
            .collect();
        let mut owners: BTreeMap<String, String> = BTreeMap::new();
        let mut put = |at: usize, entry: Entry, result: &'static str| {
            reports[at].result = result;
            reports[at].hash = entry.plugin.as_ref().map(|p| p.hash().to_owned());
            reports[at].findings.clone_from(&entry.findings);
            entries[at] = Arc::new(entry);
            Arc::clone(&entries[at])
        };
        let mut waiting = Vec::new();
        for (at, entry) in turns {
            let name = entry.name.clone();
            if entry.clash.is_some() {
                waiting.push((at, Arc::clone(&entry)));
            }
            let Some(id) = entry.adapter().map(str::to_owned) else {
                continue;
            };
            let Some(owner) = owners.get(&id) else {
                owners.insert(id, name);
                continue;
            };
            let mut off = self.entry(&name, entry.generation, entry.on_disk.clone());
            off.findings = vec![clash(&name, owner, &id)];
            off.clash = Some(id);
            let is_free = |plugin: &Plugin| {
                let meta = plugin.provider.as_ref();
                meta.is_none_or(|meta| !owners.contains_key(&meta.id))
            };
            self.fall_back(
                &mut off,
                found.get(&name).map(|(bundle, _)| bundle),
                old_of(&name),
                start,
                is_free,
            );
            let off = put(at, off, "failed");
            owners.extend(off.adapter().map(|id| (id.to_owned(), name)));
        }
        for (at, entry) in waiting {
            let is_free = entry
                .clash
                .as_ref()
                .is_some_and(|id| !owners.contains_key(id));
            let bundle = bundle_of(&entry.name).filter(|_| is_free);
            let Some(Ok(plugin)) = bundle.map(|bundle| self.load(bundle, true)) else {
                continue;
            };
            let mut on = self.entry(&entry.name, before.generation + 1, entry.on_disk.clone());
            on.findings = plugin.warnings().to_vec();
            on.plugin = Some(plugin);
            on.state = State::Ok;
            let on = put(at, on, "loaded");
            owners.extend(on.adapter().map(|id| (id.to_owned(), entry.name.clone())));
        }
    }

    /// Why a plugin cannot be in force beside the others.
    pub(super) fn clash_of(set: &ScriptSet, plugin: &Plugin) -> Option<Finding> {
        let (id, name) = (&plugin.provider.as_ref()?.id, &plugin.bundle.name);
        let mut others = set.entries.iter().filter(|entry| entry.name != *name);
        let owner = others.find(|entry| entry.adapter() == Some(id))?;
        Some(clash(name, &owner.name, id))
    }
}

fn clash(name: &str, owner: &str, id: &str) -> Finding {
    let text = format!(
        "plugin {name} stays off: the id {id:?} of its meta() is that of plugin {owner} already, and /providers/{id} is one adapter"
    );
    Finding::of_file("main.rhai", text).hint(format!(
        "change the id, or switch {owner} off: boxgate script disable {owner}"
    ))
}
