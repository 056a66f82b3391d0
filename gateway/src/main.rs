//! The `boxgate` program: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser as _;

// Frames that are kept while they are hashed double the CPU of the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    boxgate::cli::run(boxgate::cli::Cli::parse())
}
