//! Question: how many instructions does each hot path take, and did that change?
//!
//! `counts NAME TIMES` does one path so many times and says nothing: `.ci/counts` runs it under callgrind with two
//! numbers of times, so that what is left of their difference is the path alone. `counts` without a name lists them. No clock is
//! read, so that a busy machine changes nothing.

use std::io::Write as _;
use std::process::ExitCode;

use boxgate_benches::hot::ALL;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(named) = arguments.next() else {
        let mut out = std::io::stdout();
        for (name, times, _) in ALL {
            // Nobody who does not listen misses it.
            let _closed = writeln!(out, "{name}\t{times}");
        }
        return ExitCode::SUCCESS;
    };
    let times: Option<u32> = arguments.next().and_then(|times| times.parse().ok());
    let known = ALL.iter().find(|(name, _, _)| *name == named);
    let (Some((_, _, make)), Some(times)) = (known, times) else {
        return ExitCode::from(2);
    };
    let mut call = make();
    for _ in 0..times {
        call();
    }
    ExitCode::SUCCESS
}
