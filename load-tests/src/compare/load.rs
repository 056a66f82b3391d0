//! Many small requests, by wrk: the lightest client there is, so that two cores are left to the server.

use std::path::PathBuf;
use std::process::Command;

use super::files::{private, remove, succeed};
use crate::error::{Failure, Result};

/// What wrk is to do.
#[derive(Debug)]
pub(super) struct Load {
    /// Scheme and authority. wrk looks at no certificate: who calls it asked there before, and looked.
    pub(super) url: String,
    pub(super) clients: u32,
    pub(super) seconds: u32,
    /// For its script.
    pub(super) directory: PathBuf,
    pub(super) path: String,
    pub(super) script: Option<String>,
}

/// What came of it.
#[derive(Debug, PartialEq)]
pub(super) struct Found {
    pub(super) requests: f64,
    pub(super) per_s: f64,
    pub(super) p99_ms: f64,
}

/// As a script says with what it asks.
fn bearer(headers: &str, token: Option<&str>) -> String {
    token.map_or_else(String::new, |token| {
        let value = format!("Bearer {token}");
        format!("{headers}[\"Authorization\"] = {value:?}\n")
    })
}

/// Asks for aligned ranges at random places.
pub(super) fn ranges(length: u64, range: u64, token: Option<&str>) -> String {
    let last = (length / range).saturating_sub(1);
    let bearer = bearer("h", token);
    format!(
        "local h = {{}}\n{bearer}request = function()\n  local at = math.random(0, {last}) * {range}\n  \
         h[\"Range\"] = \"bytes=\" .. string.format(\"%d\", at) .. \"-\" .. string.format(\"%d\", at + {range} - 1)\n  \
         return wrk.format(\"GET\", nil, h)\nend\n"
    )
}

/// Asks for the JSON of a path that is a page, too.
pub(super) fn as_json(token: Option<&str>) -> String {
    let bearer = bearer("wrk.headers", token);
    format!("wrk.headers[\"Accept\"] = \"application/json\"\n{bearer}")
}

/// Asks for so many boxes in turn, each `step`th of all.
pub(super) fn lookups(organization: &str, step: u32, boxes: u32) -> String {
    format!(
        "local n = 0\nwrk.headers[\"Accept\"] = \"application/json\"\nrequest = function()\n  n = (n + 1) % {boxes}\n  \
         return wrk.format(\"GET\", \"/{organization}/b\" .. string.format(\"%d\", n * {step}))\nend\n"
    )
}

impl Load {
    /// Runs it; an answer that is no success is a failure of all.
    pub(super) async fn run(&self) -> Result<Found> {
        let mut wrk = Command::new("wrk");
        // Each thread has some of the connections; never more threads than clients.
        let threads = self.clients.min(2);
        wrk.args([
            "--latency",
            &format!("-t{threads}"),
            &format!("-c{}", self.clients),
        ]);
        wrk.arg(format!("-d{}s", self.seconds));
        // Who waits long is slow, and that is measured; it is no error.
        wrk.args(["--timeout", "60s"]);
        let file = self.directory.join("wrk.lua");
        if let Some(script) = &self.script {
            private(&file, script)?;
            wrk.arg("-s").arg(&file);
        }
        wrk.arg(format!("{}{}", self.url, self.path));
        let said = succeed(wrk).await;
        if self.script.is_some() {
            remove(&file)?;
        }
        let said = said?;
        let said = String::from_utf8_lossy(&said);
        // It becomes a line of a page.
        let line = || said.split_whitespace().collect::<Vec<_>>().join(" ");
        read(&said).ok_or_else(|| Failure::said(format!("wrk: {}", line())))
    }
}

/// What wrk prints; `None` where an answer was no success or a connection broke.
fn read(text: &str) -> Option<Found> {
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        return None;
    }
    let behind = |word: &str| {
        let line = text
            .lines()
            .find_map(|line| line.trim().strip_prefix(word))?;
        line.split_ascii_whitespace().next()
    };
    let requests = text.lines().find(|line| line.contains(" requests in "))?;
    let p99 = behind("99%")?;
    let digits = p99.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &p99[digits.len()..] {
        "us" => 0.001,
        "ms" => 1.0,
        "s" => 1000.0,
        _ => return None,
    };
    Some(Found {
        requests: requests.split_ascii_whitespace().next()?.parse().ok()?,
        per_s: behind("Requests/sec:")?.parse().ok()?,
        p99_ms: digits.parse::<f64>().ok()? * unit,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "Running 1s test @ http://127.0.0.1:1/\n  2 threads and 32 connections\n  \
        Thread Stats   Avg      Stdev     Max   +/- Stdev\n  Latency Distribution\n     50%    1.00ms\n     \
        99%  500.00us\n  1000 requests in 1.02s, 1.00MB read\nRequests/sec:    980.39\nTransfer/sec:      1.00MB\n";

    #[test]
    fn a_script_asks_with_a_credential_only_where_there_is_one() {
        let line = "[\"Authorization\"] = \"Bearer a-b_c\"\n";
        let with = [ranges(10, 2, Some("a-b_c")), as_json(Some("a-b_c"))];
        assert!(with.iter().all(|script| script.contains(line)), "{with:?}");
        // Before the function that uses them.
        assert!(with[0].starts_with("local h = {}\nh["), "{}", with[0]);
        let without = [ranges(10, 2, None), as_json(None)];
        assert!(
            without
                .iter()
                .all(|script| !script.contains("Authorization")),
            "{without:?}"
        );
    }

    #[test]
    fn what_wrk_says_is_read_and_errors_are_none_of_it() {
        let found = read(SAID).unwrap();
        assert_eq!(
            found,
            Found {
                requests: 1000.0,
                per_s: 980.39,
                p99_ms: 0.5
            }
        );
        assert_eq!(
            read(&format!("{SAID}  Non-2xx or 3xx responses: 3\n")),
            None
        );
        assert_eq!(
            read(&format!("{SAID}  Socket errors: connect 0, read 1\n")),
            None
        );
        assert_eq!(read("wrk: unable to connect"), None);
    }
}
