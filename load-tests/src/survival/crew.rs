//! All clients together.

use std::collections::BTreeSet;

use serde_json::Value;
use tokio::task::JoinSet;

use super::client::{Client, Style};
use super::tally::Tally;
use super::wire::{Heard, Wire};

/// How many clients there are.
const CLIENTS: u64 = 8;

/// All clients.
#[derive(Debug)]
pub(crate) struct Crew(Vec<Client>);

/// Clients that are busy.
#[derive(Debug)]
pub(crate) struct Busy(JoinSet<Client>);

impl Busy {
    /// Waits until all have ended.
    pub(crate) async fn ended(mut self) -> Crew {
        let mut clients = Vec::new();
        while let Some(client) = self.0.join_next().await {
            clients.push(client.expect("a client does not panic and is not aborted"));
        }
        Crew(clients)
    }
}

impl Crew {
    /// Clients that have done nothing yet.
    pub(crate) fn new(style: &Style) -> Self {
        Self(
            (0..CLIENTS)
                .map(|index| Client::new(style, index))
                .collect(),
        )
    }

    fn each<F>(self, work: impl Fn(Client) -> F) -> Busy
    where
        F: Future<Output = Client> + Send + 'static,
    {
        Busy(self.0.into_iter().map(work).collect())
    }

    /// All upload until the gateway ends.
    pub(crate) fn run(self, wire: &Wire) -> Busy {
        self.each(|client| client.run(wire.clone()))
    }

    /// All bring what is under way to its end.
    pub(crate) async fn complete(self, wire: &Wire) -> Self {
        let complete = self.each(|client| client.complete(wire.clone()));
        complete.ended().await
    }

    /// All hold the gateway to what it told since the last time, and some of what it told before.
    pub(crate) async fn check(self, wire: &Wire) -> Self {
        let checked = self.each(|client| client.check(wire.clone()));
        checked.ended().await.listed(wire).await
    }

    /// All hold the gateway to everything that it ever told.
    pub(crate) async fn check_all(self, wire: &Wire) -> Self {
        let checked = self.each(|client| client.check_all(wire.clone()));
        checked.ended().await.listed(wire).await
    }

    /// The same, once everything that is not finished must be gone.
    pub(crate) async fn check_expired(self, wire: &Wire) -> Self {
        let checked = self.each(|client| client.check_expired(wire.clone()));
        checked.ended().await.listed(wire).await
    }

    /// Exactly what stands is listed: nothing that is under way, and nothing is missing.
    async fn listed(mut self, wire: &Wire) -> Self {
        let path = format!("/api/organization/{}/box", wire.organization());
        let listed = match wire.ask("GET", &path, &[]).await {
            Heard::Answer(answer) if answer.status == 200 => files(&answer.body),
            Heard::Answer(answer) => Err(format!("GET {path}: {}", answer.status)),
            Heard::Broken(why) => Err(why),
            Heard::Cut | Heard::Doomed => return self,
        };
        let standing: BTreeSet<_> = self.0.iter().flat_map(Client::standing).collect();
        let possible: BTreeSet<_> = self.0.iter().flat_map(Client::possible).collect();
        let wrong = match listed {
            Err(why) => vec![why],
            Ok(listed) => {
                let more = listed.difference(&standing);
                let less = standing.difference(&listed);
                let more = more.filter(|name| !possible.contains(*name));
                let more = more.map(|(of, v)| format!("{of} {v} is listed and was never finished"));
                let less = less.map(|(of, v)| format!("{of} {v} is finished and not listed"));
                more.chain(less).collect()
            }
        };
        if let Some(client) = self.0.first_mut() {
            client.tally.wrong.extend(wrong);
        }
        self
    }

    /// How many blobs the store must hold.
    pub(crate) fn published(&self) -> u64 {
        self.0.iter().map(Client::published).sum()
    }

    /// What all counted, which begins anew.
    pub(crate) fn tally(&mut self) -> Tally {
        let mut all = Tally::default();
        for client in &mut self.0 {
            all.add(std::mem::take(&mut client.tally));
        }
        all
    }
}

/// Box and version of each file in a listing.
fn files(body: &[u8]) -> Result<BTreeSet<(String, String)>, String> {
    let boxes: Value = serde_json::from_slice(body).map_err(|e| format!("the listing: {e}"))?;
    let under = |row: &Value, below: &str| row[below].as_array().cloned().unwrap_or_default();
    let text = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
    let mut files = BTreeSet::new();
    for of_box in boxes.as_array().ok_or("the listing is no list")? {
        let versions = under(of_box, "versions");
        if versions.is_empty() {
            files.insert((text(of_box, "name"), "(no version)".into()));
        }
        for version in versions {
            let providers = under(&version, "providers");
            let architectures = providers.iter().flat_map(|row| under(row, "architectures"));
            let held = architectures.flat_map(|row| under(&row, "files")).count();
            let number = text(&version, "versionNumber");
            let number = if held == 1 {
                number
            } else {
                format!("{number} ({held} files)")
            };
            files.insert((text(of_box, "name"), number));
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_read_down_to_its_files_and_half_made_boxes_are_noticed() {
        let text = r#"[
            {"name": "a", "versions": [{"versionNumber": "1.0.0", "providers":
                [{"architectures": [{"files": [{}]}]}]}]},
            {"name": "b", "versions": []},
            {"name": "c", "versions": [{"versionNumber": "2.0.0", "providers": []}]}
        ]"#;
        let files = files(text.as_bytes()).unwrap();
        let expected = [
            ("a", "1.0.0"),
            ("b", "(no version)"),
            ("c", "2.0.0 (0 files)"),
        ];
        let expected = expected.map(|(of, v)| (of.to_owned(), v.to_owned()));
        assert_eq!(files, expected.into());
    }
}
