//! The shortest way to answers that anybody may have.
//!
//! A target that is public is asked for thousands of times, and each time in the same way it would be routed, judged, looked
//! up, opened and described. Where it led is therefore kept by the target as it was written, once the usual way has found
//! that a caller without any credential may have it ([`Place`]); and only until any name or right changes, or for a second
//! ([`boxgate_storage::metadata::recent`]): it is as the usual way would find it. What concerns one request is done for each:
//! rates and turns, conditions and ranges, the look at the file, the count of downloads. Whoever brings a credential, and
//! whatever is not plain here (plugins, rates of bytes, bytes that are not in memory), goes the usual way, which needs to know
//! nothing of this one.

use std::cell::RefCell;
use std::sync::Arc;

use boxgate_storage::metadata::recent::{Moment, Recent};
use http::request::Parts;
use http::{Method, Response};

use crate::admission::request as counted;
use crate::auth::Credential;
use crate::call::Call;
use crate::door::vagrant::Described;
use crate::gateway::{Gateway, Phase};
use crate::handler::download::KnownFile;
use crate::hooks;
use crate::http::negotiate::{Preference, preference};
use crate::refusal::Refusal;
use crate::request::RequestFacts;
use crate::route::{Door, Row};
use crate::server::{FileSender, OutboundBody};

/// The longest key.
const KEY_BYTES: usize = 1 << 10;
/// What a key takes of memory, reckoned amply, with the place that it is in.
const PLACE_BYTES: u32 = 2 << 10;
/// What a head takes of memory, reckoned amply.
pub const HEAD_BYTES: u32 = 3 << 10;

/// Where targets lead, by listener, authority and target.
pub type Shortcuts = Recent<String, Arc<Shortcut>>;

/// Where a target leads.
#[derive(Debug)]
pub struct Shortcut {
    /// The row that was found for it.
    pub row: &'static Row,
    known: Known,
}

/// What is there.
#[derive(Debug)]
pub enum Known {
    /// Metadata of a box.
    Document(Described),
    /// The file of a box.
    File(Box<KnownFile>),
}

thread_local! {
    static KEY: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Where the target of a request without a body leads, if that is known.
pub fn find(gateway: &Gateway, head: &Parts, facts: &RequestFacts) -> Option<Arc<Shortcut>> {
    let is_plain = head.method == Method::GET
        && gateway.phase() == Phase::Serving
        && !Credential::is_in(&head.headers)
        && gateway.scripts.set().is_idle();
    if !is_plain {
        return None;
    }
    let found = KEY.with_borrow_mut(|key| {
        write_key(key, head, facts)?;
        gateway.shortcuts.known(key.as_str())
    })?;
    // A browser is shown a page there.
    let is_page = matches!(found.known, Known::Document(_))
        && gateway.settings.doors.page.enabled
        && preference(&head.headers) == Preference::Html;
    (!is_page).then_some(found)
}

impl Shortcut {
    /// The answer to a request that leads here; `None` where it has to be given in the usual way.
    pub fn answer(
        &self,
        gateway: &Gateway,
        head: &Parts,
        sender: Option<&FileSender>,
        facts: &RequestFacts,
    ) -> Option<Result<Response<OutboundBody>, Refusal>> {
        if !counted::may_pass(gateway, facts) {
            return None;
        }
        let (answer, download) = match &self.known {
            Known::Document(described) => (described.answer(head), None),
            Known::File(file) => file.answer(head, sender?)?,
        };
        facts.set_route(self.row.route.name());
        // Not before: in the usual way it would be counted again.
        if let Err(refusal) = counted::stranger(gateway, self.row.class, facts) {
            return Some(Err(refusal));
        }
        if let Some(download) = download {
            gateway.count_download(download);
        }
        gateway.telemetry.metrics.answers_at_once.inc();
        Some(Ok(answer))
    }

    /// Memory that one takes, about.
    pub fn weight(this: &Arc<Self>) -> u32 {
        let known = match &this.known {
            Known::Document(described) => described.weight(),
            Known::File(file) => file.weight().saturating_add(HEAD_BYTES),
        };
        known.saturating_add(PLACE_BYTES)
    }
}

/// Where it is kept what the target of a request leads to.
#[derive(Debug)]
pub struct Place {
    key: String,
    since: Moment,
    row: &'static Row,
}

impl Place {
    /// That of a call, if it brings no credential, goes no other way than it would have gone here, and is about a box that
    /// anybody may read.
    pub fn of(gateway: &Gateway, call: &Call) -> Option<Self> {
        let Call {
            head, grant, row, ..
        } = call;
        let is_plain = row.door == Door::Vagrant
            && head.method == Method::GET
            && !Credential::is_in(&head.headers)
            && Credential::find(&head.headers, head.uri.query()).is_none()
            && grant.principal.is_none()
            && !hooks::are_asked(head)
            && gateway.settings.server.origin.is_none();
        let is_public = grant.row.as_ref().is_some_and(|row| row.fields.public);
        if !is_plain || !is_public {
            return None;
        }
        let mut key = String::new();
        write_key(&mut key, head, &call.facts)?;
        Some(Self {
            key,
            since: grant.since?,
            row,
        })
    }

    /// Keeps it there.
    pub fn keep(&self, gateway: &Gateway, known: Known) {
        let shortcut = Shortcut {
            row: self.row,
            known,
        };
        let (key, made) = (self.key.clone(), Arc::new(shortcut));
        gateway.shortcuts.keep(key, self.since, made);
    }
}

/// Writes what a target is known by. An authority has no slash, and a target begins with one.
fn write_key(key: &mut String, head: &Parts, facts: &RequestFacts) -> Option<()> {
    let target = head.uri.path_and_query()?.as_str();
    let authority = facts.authority();
    if target.len() + authority.len() > KEY_BYTES {
        return None;
    }
    key.clear();
    key.push(
        u32::try_from(facts.listener())
            .ok()
            .and_then(char::from_u32)?,
    );
    key.push_str(authority);
    key.push_str(target);
    Some(())
}
