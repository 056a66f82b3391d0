//! Sockets that systemd opened for this process (`sd_listen_fds(3)`).
#![expect(
    unsafe_code,
    reason = "what is inherited at an exec is known by its number alone"
)]

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The sockets, each with the name that its unit gives it (`FileDescriptorName=`). They are taken once: a second call finds
/// none.
///
/// # Errors
/// The variables that tell of them make no sense, or a descriptor that they name is not open.
pub fn sockets() -> io::Result<Vec<(String, OwnedFd)>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::AcqRel) {
        return Ok(Vec::new());
    }
    let named = sd_notify::listen_fds_with_names()?;
    let owned = named.map(|(number, name)| {
        // SAFETY: LISTEN_PID names this process, so these descriptors were opened for it before it began, and
        // `listen_fds_with_names` has found each of them open. Nothing else here knows their numbers, and they are given
        // out once.
        (name, unsafe { OwnedFd::from_raw_fd(number) })
    });
    Ok(owned.collect())
}
