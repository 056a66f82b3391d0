//! The first page: organizations that the caller may see, boxes by words, and what was changed last.

use askama::Template;
use boxgate_storage::metadata::accounts::OrganizationRole;
use boxgate_storage::metadata::catalog::{BoxTree, Search, SortBy, VersionStatus};

use super::form::Form;
use super::{Answer, Visit, moment, page};
use crate::auth::Principal;
use crate::call::Call;
use crate::gateway::Gateway;
use crate::refusal::Refusal;

/// Boxes on a page.
const LISTED: u32 = 25;
/// Boxes below the organizations.
const LATEST: u32 = 10;
/// Longest word that is searched for, in bytes.
const MOST_TEXT: usize = 256;
/// The last page that is shown: whoever looks on has no word to look for.
const MOST_PAGES: u32 = 400;

#[derive(Template)]
#[template(path = "home.html")]
struct HomePage<'a> {
    title: &'a str,
    visit: &'a Visit,
    organizations: Vec<OrganizationLine>,
    latest: Vec<BoxLine>,
}

#[derive(Template)]
#[template(path = "search.html")]
struct SearchPage<'a> {
    title: &'a str,
    visit: &'a Visit,
    text: &'a str,
    found: Vec<BoxLine>,
    number: u32,
    has_more: bool,
    encoded: String,
}

/// An organization in a list.
struct OrganizationLine {
    name: String,
    description: String,
    role: Option<&'static str>,
}

/// A box in a list.
pub(super) struct BoxLine {
    pub(super) organization: String,
    pub(super) name: String,
    pub(super) about: String,
    pub(super) version: String,
    pub(super) downloads: u64,
    pub(super) updated: String,
    pub(super) is_private: bool,
}

impl BoxLine {
    fn of(tree: &BoxTree) -> Self {
        let files = tree
            .versions
            .iter()
            .flat_map(|v| &v.providers)
            .flat_map(|p| &p.architectures);
        let released = tree
            .versions
            .iter()
            .rev()
            .find(|v| v.row.status == VersionStatus::Active);
        Self {
            organization: tree.organization_name.to_string(),
            name: tree.row.name.to_string(),
            about: tree
                .row
                .fields
                .short_description
                .clone()
                .unwrap_or_default(),
            version: released.map(|v| v.row.name.to_string()).unwrap_or_default(),
            downloads: files
                .filter_map(|a| a.file.as_ref())
                .map(|file| file.downloads)
                .sum(),
            updated: moment(tree.row.updated),
            is_private: !tree.row.fields.public,
        }
    }
}

/// `GET /-/boxes?q=TEXT&page=N`, and `/`.
pub async fn show(gateway: &Gateway, call: Call) -> Answer {
    let asked = Form::of_query(&call);
    let visit = Visit::by(gateway, &call);
    if asked.is_ticked("q") {
        return search(gateway, &call, &visit, &asked).await;
    }
    let principal = call.grant.principal.as_ref();
    let latest = Search {
        reader: reader(principal),
        sort: SortBy::Updated,
        limit: LATEST,
        ..Search::default()
    };
    let latest = gateway.metadata.search_boxes(&latest).await?;
    page(&HomePage {
        title: "Boxes",
        visit: &visit,
        organizations: organizations(gateway, principal).await?,
        latest: latest.iter().map(BoxLine::of).collect(),
    })
}

fn reader(principal: Option<&Principal>) -> super::Reader {
    principal.map(|p| (p.account.id, p.token.organization))
}

/// Those that may be found by anybody, and the caller's own.
async fn organizations(
    gateway: &Gateway,
    principal: Option<&Principal>,
) -> Result<Vec<OrganizationLine>, Refusal> {
    let all = gateway.metadata.organizations("").await?;
    let lines = all.into_iter().filter_map(|organization| {
        let role = principal.and_then(|p| p.role_in(organization.id));
        let is_seen = role.is_some() || organization.access_mode != "private";
        is_seen.then(|| OrganizationLine {
            name: organization.name.to_string(),
            description: organization.description.unwrap_or_default(),
            role: role.map(OrganizationRole::as_str),
        })
    });
    Ok(lines.collect())
}

async fn search(gateway: &Gateway, call: &Call, visit: &Visit, asked: &Form) -> Answer {
    let text = asked.text("q");
    if text.len() > MOST_TEXT || text.contains('\0') {
        return Err(Refusal::invalid(format!(
            "Search for at most {MOST_TEXT} bytes of text."
        )));
    }
    let number: u32 = asked.text("page").parse().unwrap_or(1).clamp(1, MOST_PAGES);
    let search = Search {
        reader: reader(call.grant.principal.as_ref()),
        text: text.to_owned(),
        sort: SortBy::Downloads,
        limit: LISTED + 1,
        offset: u64::from(number - 1) * u64::from(LISTED),
        ..Search::default()
    };
    let mut found = gateway.metadata.search_boxes(&search).await?;
    let has_more = found.len() > LISTED as usize && number < MOST_PAGES;
    found.truncate(LISTED as usize);
    page(&SearchPage {
        title: "Search",
        visit,
        text,
        found: found.iter().map(BoxLine::of).collect(),
        number,
        has_more,
        encoded: url::form_urlencoded::byte_serialize(text.as_bytes()).collect(),
    })
}
