//! Scripts that nobody wrote: the hostile corpus cut up, spliced and changed at random, compiled and called in both
//! lanes. Whatever they are, loading and calling end, nothing panics, and a script beside them goes on.
//!
//! `.ci/long fuzz:scripts` makes it many more; `BOXGATE_FUZZ_SEED` repeats one.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use boxgate_scripting::error::Fault;
use boxgate_scripting::facts::Request;
use boxgate_scripting::verdict::RouteVerdict;
use boxgate_scripting::{Options, Scripts};

use crate::hostile::CORPUS;

/// Scripts of one run.
const RUNS: u64 = 150;
/// Only catches a hang.
const HANG: Duration = Duration::from_mins(1);

/// What a mutation puts where it likes.
const WORDS: &[&str] = &[
    "loop { }",
    "()",
    "[]",
    "#{}",
    "\"\"",
    "'x'",
    "0",
    "-1",
    "9223372036854775807",
    "1e308",
    "0x7f",
    "req",
    "req.path",
    "req.header(\"x\")",
    "|x| x",
    "|x, y| x",
    "f(1)",
    "this",
    "return;",
    "break;",
    "throw 1;",
    "try { } catch (e) { }",
    "let v = ",
    "const V = ",
    "for i in 0..9 { }",
    "if true { }",
    "switch 1 { _ => 2 }",
    "`${req}`",
    "..",
    "..=",
    "??",
    "?.",
    "=>",
    "(",
    ")",
    "{",
    "}",
    "[",
    "]",
    ";",
    ",",
    ".",
    "::",
    "!",
    "&&",
    "<<",
    "**",
    "%",
    "json::parse(",
    "re::find(",
    "hash::sha256(",
    "kv::set(\"k\", ",
    "respond(200, ",
    "redirect(",
    "table([[",
    "url::join(",
    "hmac::sha256(",
    "blob(",
    "net::contains(",
    "\\u{10ffff}",
    "\u{1f980}",
    "/*",
    "*/",
    "//",
    "\n",
];

/// `SplitMix64`: the same numbers in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let below = u64::try_from(below.max(1)).unwrap();
        usize::try_from((z ^ (z >> 31)) % below).unwrap()
    }

    /// A piece of a text, between characters.
    fn piece<'t>(&mut self, text: &'t str) -> &'t str {
        let places: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        let (a, b) = (self.roll(places.len()), self.roll(places.len()));
        let at = |place: usize| places.get(place).copied().unwrap_or(text.len());
        &text[at(a.min(b))..at(a.max(b))]
    }
}

/// A script made of others.
fn script(dice: &mut Dice) -> String {
    let (_, body, more) = CORPUS[dice.roll(CORPUS.len())];
    let mut text = body.to_owned();
    for _ in 0..dice.roll(6) {
        let (_, other, _) = CORPUS[dice.roll(CORPUS.len())];
        let insert = match dice.roll(3) {
            0 => dice.piece(other).to_owned(),
            1 => dice.piece(&text).to_owned(),
            _ => format!(" {} ", WORDS[dice.roll(WORDS.len())]),
        };
        let before = dice.piece(&text).to_owned();
        text = match dice.roll(3) {
            0 => text.replacen(&before, &insert, 1),
            1 => format!("{text} {insert}"),
            _ => format!("{before}{insert}{text}"),
        };
    }
    format!("fn route(req) {{ {text} }}\n{more}")
}

async fn runs(dir: &Path, seed: u64) {
    let source = script(&mut Dice(seed));
    let plugins = dir.join("plugins");
    for (manifest, name) in [
        ("", "fast"),
        ("[hooks.route]\nlane = \"work\"\ndeadline_ms = 20", "work"),
    ] {
        let place = plugins.join(name);
        std::fs::create_dir_all(&place).unwrap();
        std::fs::write(place.join("plugin.toml"), manifest).unwrap();
        std::fs::write(place.join("main.rhai"), &source).unwrap();
    }
    // The last by its priority: it answers where the others do not.
    let beside = plugins.join("beside");
    std::fs::create_dir_all(&beside).unwrap();
    std::fs::write(beside.join("plugin.toml"), "priority = 900").unwrap();
    std::fs::write(beside.join("main.rhai"), "fn route(req) { #{ cache: 7 } }").unwrap();
    let mut options = Options::in_directory(&plugins, dir.join("last-good"));
    options.workers = 2;
    let scripts = Scripts::open(options).unwrap();
    for status in scripts.status() {
        let error = status.error.unwrap_or_default();
        let broke = error.contains("panicked") || error.contains("took longer");
        assert!(!broke, "seed {seed}: {error}\n{source}");
        assert!(status.plugin != "beside" || error.is_empty(), "{error}");
    }
    let request = Arc::new(Request {
        method: "GET".into(),
        path: "/acme/web".into(),
        ..Request::default()
    });
    let called = tokio::time::timeout(HANG, scripts.route(&request)).await;
    let Ok(called) = called else {
        panic!("seed {seed} hangs:\n{source}");
    };
    match called {
        Ok(decision) => {
            let by = decision.by.join(" ");
            let answered = !by.is_empty() || matches!(decision.verdict, RouteVerdict::Continue(_));
            assert!(answered, "seed {seed}: nobody answers\n{source}");
        }
        Err(error) => panic!("seed {seed}: a read goes on, whatever fails: {error}\n{source}"),
    }
    for counted in scripts.counted() {
        let panics = counted.outcomes.get(Fault::Panic.name()).copied();
        assert_eq!(panics.unwrap_or(0), 0, "seed {seed} panics:\n{source}");
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test asks its own environment, which no configuration describes"
)]
fn told(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test]
async fn what_nobody_wrote_neither_hangs_nor_panics() {
    let seeds = match told("BOXGATE_FUZZ_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..told("BOXGATE_FUZZ_RUNS").unwrap_or(RUNS),
    };
    for seed in seeds {
        let dir = tempfile::tempdir().unwrap();
        runs(dir.path(), seed).await;
    }
}
