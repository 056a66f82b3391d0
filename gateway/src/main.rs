//! The `boxgate` program: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser as _;

#[global_allocator]
static ALLOCATOR: boxgate::sys::alloc::Counting = boxgate::sys::alloc::Counting;

fn main() -> ExitCode {
    boxgate::cli::run(boxgate::cli::Cli::parse())
}
