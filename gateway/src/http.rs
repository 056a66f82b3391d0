//! Headers and values, answers and errors: pure conversions, each citing its rule.
//!
//! Nothing here reads a socket, looks at a route or knows a box.

pub mod digest;
pub mod framing;
pub mod freshness;
pub mod headers;
pub mod html;
pub mod negotiate;
pub mod path;
pub mod precondition;
pub mod problem;
pub mod range;
pub mod response;
