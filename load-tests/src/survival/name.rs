//! A box's name, what must be served under it, and what may be.

use std::sync::Arc;

use super::tally::Tally;
use super::wire::{Heard, Wire};
use crate::content::{Content, Digests};

/// Bytes with their digests.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    /// The bytes.
    pub(crate) content: Content,
    /// Their digests.
    pub(crate) digests: Arc<Digests>,
}

/// One box file's name.
#[derive(Debug)]
pub(crate) struct Name {
    /// The box.
    pub(crate) of_box: String,
    /// Its version.
    pub(crate) version: String,
    /// What must be served: the last upload that is known to be finished.
    pub(crate) standing: Option<Stored>,
    /// What may be served instead, since a request that could have finished it got no answer.
    pub(crate) possible: Option<Stored>,
    /// Whether all that was ever sent there is accounted for, so that another upload may come.
    pub(crate) settled: bool,
}

/// What a name was found to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing.
    Nothing,
    /// What stands.
    Standing,
    /// What was possible.
    Possible,
    /// Something else, which is wrong.
    Other,
}

impl Name {
    /// A fresh one.
    pub(crate) fn new(client: u64, number: u64) -> Self {
        Self {
            // Four versions of a box, so that some uploads make their parents and some find them.
            of_box: format!("c{client}-{}", number / 4),
            version: format!("1.{}.0", number % 4),
            standing: None,
            possible: None,
            settled: true,
        }
    }

    /// As uploads at `/files` name it.
    pub(crate) fn target(&self, organization: &str) -> String {
        let Self {
            of_box, version, ..
        } = self;
        format!("{organization}/{of_box}/{version}/virtualbox/amd64")
    }

    /// BoxVault's path of the file.
    pub(crate) fn path(&self, organization: &str) -> String {
        let Self {
            of_box, version, ..
        } = self;
        format!(
            "/api/organization/{organization}/box/{of_box}/version/{version}/provider/virtualbox/architecture/amd64/file"
        )
    }

    /// Vagrant's path of the file.
    fn vagrant_path(&self, organization: &str) -> String {
        let Self {
            of_box, version, ..
        } = self;
        format!(
            "/{organization}/boxes/{of_box}/versions/{version}/providers/virtualbox/amd64/vagrant.box"
        )
    }

    /// What an entity tag tells of.
    fn known(&self, etag: &str) -> Found {
        let is = |stored: &Option<Stored>| {
            stored
                .as_ref()
                .is_some_and(|stored| etag.trim_matches('"') == stored.digests.blake3)
        };
        match () {
            () if is(&self.standing) => Found::Standing,
            () if is(&self.possible) => Found::Possible,
            () => Found::Other,
        }
    }

    /// Whether that may be found.
    fn allows(&self, found: Found) -> Result<(), &'static str> {
        match found {
            Found::Standing | Found::Possible => Ok(()),
            Found::Nothing if self.standing.is_none() => Ok(()),
            Found::Nothing => Err("a finished upload is not served"),
            Found::Other if self.standing.is_some() => {
                Err("what is served is neither the last finished upload nor one that may be")
            }
            Found::Other => Err("something is served that was never whole"),
        }
    }

    /// Looks at what is served, compares all of it, and lets that stand from here on. To be asked when
    /// nobody writes. `None` when the gateway is being ended.
    pub(crate) async fn observe(&mut self, wire: &Wire, tally: &mut Tally) -> Option<Found> {
        let of = wire.organization();
        let path = self.path(of);
        let found = match wire.ask("HEAD", &format!("{path}/download"), &[]).await {
            Heard::Answer(answer) if answer.status == 404 => Found::Nothing,
            Heard::Answer(answer) if answer.status == 200 => answer
                .headers
                .get("etag")
                .map_or(Found::Other, |etag| self.known(etag)),
            Heard::Answer(answer) => {
                tally.wrong(format!("HEAD {path}/download: {}", answer.status));
                return Some(Found::Other);
            }
            Heard::Doomed => return None,
            Heard::Cut => return Some(Found::Other),
            Heard::Broken(why) => {
                tally.wrong(why);
                return Some(Found::Other);
            }
        };
        if let Err(why) = self.allows(found) {
            tally.wrong(format!("{path}: {why}"));
            return Some(Found::Other);
        }
        if found == Found::Possible {
            self.standing = self.possible.take();
        }
        if !wire.is_crowded() {
            // Nobody writes, and nothing waits: what did not happen will not.
            self.possible = None;
        }
        if let Some(stored) = &self.standing {
            let paths = [format!("{path}/download"), self.vagrant_path(of)];
            for path in paths {
                compare(stored, &path, wire, tally).await?;
            }
        }
        Some(found)
    }
}

/// Fetches and compares.
async fn compare(stored: &Stored, path: &str, wire: &Wire, tally: &mut Tally) -> Option<()> {
    let mut checker = stored.content.checker();
    let fetched = wire.fetch(path, &mut checker).await?;
    let whole = checker.is_whole();
    let wrong = match fetched {
        Err(why) => Some(why),
        Ok((200, headers)) => {
            let etag = format!("\"{}\"", stored.digests.blake3);
            match headers.get("etag") {
                _ if !whole => Some(format!("GET {path}: other bytes than were sent")),
                Some(told) if told == etag => None,
                other => Some(format!(
                    "GET {path}: the entity tag is {other:?}, not {etag}"
                )),
            }
        }
        Ok((status, _)) => Some(format!("GET {path}: {status}")),
    };
    tally.compared += 1;
    if let Some(wrong) = wrong {
        tally.wrong(wrong);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Block;

    fn stored(salt: u64) -> Stored {
        let content = Content::new(&Block::seeded(1), salt, 100);
        Stored {
            digests: Arc::new(content.digests()),
            content,
        }
    }

    fn tag(stored: &Stored) -> String {
        format!("\"{}\"", stored.digests.blake3)
    }

    #[test]
    fn only_what_stands_or_is_possible_may_be_found() {
        let (one, two, three) = (stored(1), stored(2), stored(3));
        let mut name = Name::new(0, 0);
        assert!(name.allows(Found::Nothing).is_ok());
        assert!(name.allows(name.known(&tag(&one))).is_err());
        name.possible = Some(one.clone());
        assert!(name.allows(Found::Nothing).is_ok());
        assert!(name.allows(name.known(&tag(&one))).is_ok());
        assert!(name.allows(name.known(&tag(&two))).is_err());
        name.standing = Some(two.clone());
        assert!(name.allows(Found::Nothing).is_err());
        assert_eq!(name.known(&tag(&two)), Found::Standing);
        assert_eq!(name.known(&tag(&one)), Found::Possible);
        assert!(name.allows(name.known(&tag(&three))).is_err());
    }
}
