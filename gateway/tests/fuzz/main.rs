//! What reads strangers' bytes, tried on any compiler: the kept corpus as it is, then what becomes of it by a few changes. The
//! targets are those of libFuzzer (`gateway/fuzz`); what that finds is kept in the corpus and tried here from then on.
//!
//! `BOXGATE_FUZZ_RUNS` says how many changed inputs each target gets, `BOXGATE_FUZZ_SEED` where they begin.

#![expect(clippy::unwrap_used, reason = "what tests share is test code too")]

#[path = "../../fuzz/targets.rs"]
mod targets;

mod connection;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use targets::{ALL, Target};

/// The longest input.
const MOST_BYTES: usize = 4 << 10;
/// What parsers look for.
const WORDS: [&[u8]; 24] = [
    b"\r\n",
    b"--",
    b"--b",
    b"--b--\r\n",
    b":",
    b";",
    b",",
    b"=",
    b"\"",
    b"%2e",
    b"%00",
    b"..",
    b"/",
    b"\0",
    b"\xff",
    b"bytes=",
    b"-",
    b"18446744073709551616",
    b"9223372036854775807",
    b"?1",
    b":AA==:",
    b"\x1f\x8b",
    b"ustar",
    b"chunked",
];

#[test]
fn the_kept_corpus_breaks_nothing() {
    for (name, target) in ALL {
        let corpus = corpus(name);
        assert!(!corpus.is_empty(), "{name} has no corpus");
        for input in &corpus {
            try_one(name, target, input);
        }
        try_one(name, target, b"");
    }
}

#[test]
fn nor_does_what_becomes_of_it() {
    let runs = number("BOXGATE_FUZZ_RUNS", 5_000);
    let seed = number("BOXGATE_FUZZ_SEED", 1);
    std::thread::scope(|scope| {
        for (name, target) in ALL {
            scope.spawn(move || {
                let corpus = corpus(name);
                for run in 0..runs {
                    let mut random = fastrand::Rng::with_seed(seed.wrapping_add(run));
                    try_one(name, target, &changed(&corpus, &mut random));
                }
            });
        }
    });
}

/// A number that a variable says.
fn number(name: &str, default: u64) -> u64 {
    std::env::vars_os()
        .find(|(found, _)| found == name)
        .and_then(|(_, value)| value.to_str()?.parse().ok())
        .unwrap_or(default)
}

/// What is kept for a target, in the order of names.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name);
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// One of them after a few changes.
fn changed(corpus: &[Vec<u8>], random: &mut fastrand::Rng) -> Vec<u8> {
    let pick = |random: &mut fastrand::Rng| corpus[random.usize(..corpus.len())].clone();
    let mut input = pick(random);
    for _ in 0..random.usize(1..8) {
        let at = random.usize(..=input.len());
        let end = random.usize(at..=input.len());
        match random.u8(..8) {
            0 if !input.is_empty() => {
                let at = at.min(input.len() - 1);
                input[at] ^= 1 << random.u8(..8);
            }
            1 if !input.is_empty() => {
                let at = at.min(input.len() - 1);
                input[at] = random.u8(..);
            }
            2 => drop(input.drain(at..end)),
            3 => {
                let again = input[at..end].to_vec();
                input.splice(at..at, again);
            }
            4 => input.insert(at, random.u8(..)),
            5 => input.truncate(at),
            6 => {
                let other = pick(random);
                let from = random.usize(..=other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => {
                let word = WORDS[random.usize(..WORDS.len())];
                input.splice(at..at, word.iter().copied());
            }
        }
    }
    input.truncate(MOST_BYTES);
    input
}

fn try_one(name: &str, target: Target, input: &[u8]) {
    let tried = catch_unwind(AssertUnwindSafe(|| target(input)));
    assert!(
        tried.is_ok(),
        "{name} breaks at an input of {} bytes, to be kept in its corpus:\n{}",
        input.len(),
        input.escape_ascii()
    );
}
