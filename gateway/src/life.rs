//! How a process lives beside others: what it tells systemd, how another comes in its place, what it takes over of a changed
//! configuration, and what it leaves behind when it crashes.

pub mod hand_over;
pub mod notify;
pub mod reload;

use rustix::process::{Resource, Rlimit, setrlimit};

/// Has a crash leave no core file: it would hold keys, passwords and what clients sent.
pub fn forbid_cores() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        tracing::warn!(%error, "a crash may leave a core file");
    }
}
