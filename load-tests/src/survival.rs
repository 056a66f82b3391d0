//! Whether acknowledged bytes survive: clients of several protocols, each with a ledger of what it was
//! told, and a gateway that is killed, cut off from power or out of disk under them.
//!
//! Every choice comes from one seed ([`chance`]). A client never waits for time to pass: it goes on
//! when an answer comes or when its connection breaks.

pub(crate) mod chance;
pub(crate) mod client;
pub(crate) mod crew;
pub(crate) mod forget;
pub(crate) mod full;
pub(crate) mod kill;
pub(crate) mod name;
pub(crate) mod power;
pub(crate) mod protocol;
pub(crate) mod round;
pub(crate) mod series;
pub(crate) mod tally;
pub(crate) mod upload;
pub(crate) mod volume;
pub(crate) mod wire;
