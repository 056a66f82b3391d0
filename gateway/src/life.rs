//! How a process lives beside others: what it tells systemd, how another comes in its place, what it takes over of a changed
//! configuration, and what it leaves behind when it crashes.

pub mod hand_over;
pub mod notify;
pub mod reload;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Has a crash leave no core file, and no other process of the same user look into this one's memory: it holds keys,
/// passwords and what clients sent.
pub fn forbid_cores() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "a crash may leave a core file");
    }
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "processes of the same user may look into the memory of this one");
    }
}
