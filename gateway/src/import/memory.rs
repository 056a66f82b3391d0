//! What was brought before, by a name in full.

use std::collections::HashSet;

use boxgate_storage::error::chain;
use boxgate_storage::metadata::Metadata;

/// What was brought from servers of one kind.
pub(super) struct Memory {
    source: &'static str,
    metadata: Metadata,
    known: HashSet<String>,
    /// Whether it is brought again whatever became of it here.
    again: bool,
}

impl Memory {
    pub(super) async fn open(
        metadata: &Metadata,
        source: &'static str,
        again: bool,
    ) -> Result<Self, String> {
        let known = metadata.imported(source).await.map_err(|e| chain(&e))?;
        Ok(Self {
            source,
            metadata: metadata.clone(),
            known,
            again,
        })
    }

    /// Whether that was brought before, and is not to be brought again.
    pub(super) fn knows(&self, item: &str) -> bool {
        !self.again && self.known.contains(item)
    }

    pub(super) async fn note(&mut self, item: &str) -> Result<(), String> {
        if self.known.contains(item) {
            return Ok(());
        }
        let noted = self.metadata.note_imported(self.source, item).await;
        noted.map_err(|e| chain(&e))?;
        self.known.insert(item.to_owned());
        Ok(())
    }
}
