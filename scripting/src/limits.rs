//! What one call may use. The defaults are also the most that a manifest may ask for.

use std::time::Duration;

use crate::hook::Lane;

/// Longest source of one file, in bytes.
pub const MAX_FILE_BYTES: usize = 256 << 10;
/// Longest sources of one plugin together, in bytes.
pub const MAX_PLUGIN_BYTES: usize = 1 << 20;
/// Most modules of one plugin.
pub const MAX_MODULES: usize = 32;
/// Most functions of one file.
pub const MAX_FUNCTIONS: usize = 256;
/// Deepest expression outside of functions, and inside of them.
pub const MAX_EXPRESSION_DEPTH: (usize, usize) = (64, 32);
/// How long compiling one plugin may take.
pub const COMPILE_TIME: Duration = Duration::from_secs(1);
/// Stack of a thread that compiles or runs the work lane: values may nest as deep as the size limits allow, and
/// dropping, comparing and formatting them recurses.
pub const STACK_BYTES: usize = 8 << 20;
/// Bytes that a call which asks a cloud about one thing may hold.
pub const CLOUD_BYTES: usize = 4 << 20;
/// Most that an operator may raise operations, time and memory by.
pub const MAX_RAISE: u32 = 10;
/// Most that an operator may raise the length of texts by.
pub const MAX_RAISE_TEXT: u32 = 4;
/// Log lines of one call, the rest is dropped and counted.
pub const MAX_LOG_LINES: usize = 20;
/// Bytes of log of one call.
pub const MAX_LOG_BYTES: usize = 8 << 10;
/// Bytes that hashes, encodings and patterns take in one call.
pub const MAX_INPUT_BYTES: usize = 1 << 20;
/// Longest body of `respond`, in bytes.
pub const MAX_RESPONSE_BYTES: usize = 64 << 10;

/// What one call may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Steps of the interpreter.
    pub operations: u64,
    /// Processor time.
    pub cpu: Duration,
    /// Bytes that its thread may hold more than before.
    pub memory_bytes: usize,
    /// Longest text, in bytes.
    pub text_bytes: usize,
    /// Most elements of an array, nested ones counted.
    pub array: usize,
    /// Most entries of a map, nested ones counted.
    pub map: usize,
    /// Deepest call.
    pub depth: usize,
    /// Most variables at once.
    pub variables: usize,
}

impl Limits {
    /// What a lane allows unless an operator or a manifest says otherwise.
    pub const fn of(lane: Lane) -> Self {
        match lane {
            Lane::Fast => Self {
                operations: 50_000,
                cpu: Duration::from_millis(5),
                memory_bytes: 1 << 20,
                text_bytes: 64 << 10,
                array: 1_000,
                map: 500,
                depth: 16,
                variables: 128,
            },
            Lane::Work => Self {
                operations: 5_000_000,
                cpu: Duration::from_millis(500),
                memory_bytes: 16 << 20,
                text_bytes: 256 << 10,
                array: 4_096,
                map: 1_024,
                depth: 32,
                variables: 256,
            },
        }
    }
}
