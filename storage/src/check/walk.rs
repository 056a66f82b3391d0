//! All keys in order, each with the rows that claim it and the stores that hold bytes under it: ordered
//! streams, merged page by page.

use std::collections::VecDeque;

use super::{PAGE, Stock};
use crate::blob::BlobKey;
use crate::error::Result;
use crate::metadata::Metadata;
use crate::metadata::check::Claim;
use crate::store::Store;

/// One key, as it looked while the walk passed.
#[derive(Debug)]
pub(super) struct Place<'s> {
    pub(super) key: BlobKey,
    pub(super) claims: Vec<Claim>,
    /// Stores that hold bytes under it.
    pub(super) stores: Vec<(&'s str, &'s Store)>,
}

/// A walk over all keys.
#[derive(Debug)]
pub(super) struct Walk<'s> {
    rows: Rows<'s>,
    listings: Vec<Listing<'s>>,
}

#[derive(Debug)]
struct Rows<'s> {
    metadata: &'s Metadata,
    ahead: VecDeque<Claim>,
    after: Option<BlobKey>,
    ended: bool,
}

/// What one store lists.
#[derive(Debug)]
struct Listing<'s> {
    name: &'s str,
    store: &'s Store,
    ahead: VecDeque<BlobKey>,
    after: Option<BlobKey>,
    ended: bool,
}

impl<'s> Walk<'s> {
    pub(super) fn begin(stock: &'s Stock) -> Self {
        let stores = &stock.engine.options().stores;
        Self {
            rows: Rows {
                metadata: &stock.metadata,
                ahead: VecDeque::new(),
                after: None,
                ended: false,
            },
            listings: stores
                .iter()
                .filter(|(name, _)| stock.covers(name))
                .map(|(name, store)| Listing {
                    name,
                    store,
                    ahead: VecDeque::new(),
                    after: None,
                    ended: store.list.is_none(),
                })
                .collect(),
        }
    }

    /// The next key; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Place<'s>>> {
        let mut next = self.rows.peek().await?;
        for listing in &mut self.listings {
            let key = listing.peek().await?;
            next = match (next, key) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        let Some(key) = next else { return Ok(None) };
        let claims = self.rows.take(key);
        let listings = self.listings.iter_mut();
        let stores = listings.filter_map(|listing| listing.take(key));
        Ok(Some(Place {
            key,
            claims,
            stores: stores.collect(),
        }))
    }
}

impl Rows<'_> {
    async fn peek(&mut self) -> Result<Option<BlobKey>> {
        if self.ahead.is_empty() && !self.ended {
            let page = self.metadata.claims_after(self.after, PAGE).await?;
            self.ended = page.is_empty();
            self.after = page.last().map(|claim| claim.key).or(self.after);
            self.ahead.extend(page);
        }
        Ok(self.ahead.front().map(|claim| claim.key))
    }

    fn take(&mut self, key: BlobKey) -> Vec<Claim> {
        let of_key = self.ahead.iter().take_while(|claim| claim.key == key);
        let count = of_key.count();
        self.ahead.drain(..count).collect()
    }
}

impl<'s> Listing<'s> {
    async fn peek(&mut self) -> Result<Option<BlobKey>> {
        if self.ahead.is_empty()
            && !self.ended
            && let Some(list) = &self.store.list
        {
            let page = list.page(self.after, PAGE as usize).await?;
            self.ended = page.is_empty();
            self.after = page.last().copied().or(self.after);
            self.ahead.extend(page);
        }
        Ok(self.ahead.front().copied())
    }

    /// The store, if it holds bytes under the key.
    fn take(&mut self, key: BlobKey) -> Option<(&'s str, &'s Store)> {
        self.ahead.pop_front_if(|ahead| *ahead == key)?;
        Some((self.name, self.store))
    }
}
