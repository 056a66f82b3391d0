//! What answers leave unsent in the kernel for clients that do not read: memory that no ceiling of ours counts, and of which
//! all connections of the machine have one pool. Where that is short, honest ones come to a halt.
//!
//! The kernel lets each connection have as much as it once took at its fastest, up to `net.ipv4.tcp_wmem`. Here each new one
//! gets its share of what all may have. What is on its way, and not acknowledged yet, is not bound: a long line stays full.

use socket2::SockRef;
use tokio::net::TcpStream;

/// Below this, answers are woken for too often to be fast.
const LEAST: u64 = 64 << 10;
/// As much as the kernel lets one have by itself.
const MOST: u64 = 4 << 20;

/// Binds what a connection may leave unsent, as one of so many that share `all_bytes`.
pub(super) fn bind(stream: &TcpStream, all_bytes: u64, connections: usize) {
    let Some(share) = share(all_bytes, connections) else {
        return;
    };
    if let Err(error) = SockRef::from(stream).set_tcp_notsent_lowat(share) {
        tracing::debug!(%error, "what a connection leaves unsent is not bound");
    }
}

/// `None` where the kernel need not be told.
fn share(all_bytes: u64, connections: usize) -> Option<u32> {
    let share = (all_bytes / (connections as u64).max(1)).max(LEAST);
    let share = Some(share).filter(|share| *share < MOST)?;
    u32::try_from(share).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_not_bound_and_many_share() {
        let all = 64 << 20;
        assert_eq!(share(all, 0), None);
        assert_eq!(share(all, 16), None);
        assert_eq!(share(all, 32), Some(2 << 20));
        assert_eq!(share(all, 512), Some(128 << 10));
        assert_eq!(share(all, 20_000), Some(64 << 10));
    }
}
