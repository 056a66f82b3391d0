//! The boxes of an organization, page by page.

use std::sync::Arc;

use askama::Template;
use boxgate_storage::catalog::OrganizationName;
use boxgate_storage::metadata::accounts::OrganizationRole;
use boxgate_storage::metadata::catalog::{BoxRow, Page};

use super::form::Form;
use super::{Answer, Visit, moment, page};
use crate::call::Call;
use crate::gateway::Gateway;
use crate::refusal::Refusal;

/// Boxes on a page.
const LISTED: u32 = 50;

#[derive(Template)]
#[template(path = "organization.html")]
struct OrganizationPage<'a> {
    title: &'a str,
    visit: &'a Visit,
    description: &'a str,
    role: Option<&'static str>,
    boxes: &'a [BoxLine],
    is_first: bool,
    next: Option<String>,
}

/// A box in the list.
#[derive(Debug)]
pub struct BoxLine {
    name: String,
    about: String,
    updated: String,
    is_private: bool,
    is_hidden: bool,
}

/// The boxes of one page, and the first of the next.
#[derive(Debug)]
pub struct Lines(Vec<BoxLine>);

impl Lines {
    fn of(rows: Vec<BoxRow>) -> Self {
        let lines = rows.into_iter().map(|row| BoxLine {
            name: row.name.to_string(),
            about: row.fields.short_description.unwrap_or_default(),
            updated: moment(row.updated),
            is_private: !row.fields.public,
            is_hidden: !row.fields.published,
        });
        Self(lines.collect())
    }

    /// What they take of memory, nearly.
    pub fn weight(&self) -> u32 {
        let texts = |line: &BoxLine| line.name.len() + line.about.len() + line.updated.len();
        let bytes: usize = self
            .0
            .iter()
            .map(|line| size_of::<BoxLine>() + texts(line))
            .sum();
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }
}

/// `GET /-/boxes/{org}?after=NAME`. One that nobody may find shows what is public of it to whoever knows its name.
pub async fn show(gateway: &Gateway, call: Call) -> Answer {
    let name: OrganizationName = call.name("org")?;
    let organization = gateway.metadata.organization(&name).await?;
    let principal = call.grant.principal.as_ref();
    let missing = || Refusal::missing("Organization", name.as_str());
    let organization = organization.ok_or_else(missing)?;
    let role = principal.and_then(|p| p.role_in(organization.id));
    let asked = Form::of_query(&call);
    let wanted = Page {
        organization: organization.id,
        account: principal.map(|p| p.account.id),
        is_member: role.is_some(),
        after: asked.text("after").to_owned(),
        limit: LISTED + 1,
    };
    let read = async {
        let rows = gateway.metadata.listed_boxes(&wanted).await?;
        Ok(Some(Arc::new(Lines::of(rows))))
    };
    let lines = gateway.listings.or_read(wanted.clone(), read).await?;
    let lines = lines.as_deref().map_or(&[][..], |lines| &lines.0);
    let is_hidden = role.is_none() && organization.access_mode == "private";
    if is_hidden && lines.is_empty() {
        return Err(missing());
    }
    let boxes = &lines[..lines.len().min(LISTED as usize)];
    let last = boxes.last().filter(|_| lines.len() > boxes.len());
    let next = last.map(|line| line.name.clone());
    page(&OrganizationPage {
        title: organization.name.as_str(),
        visit: &Visit::by(gateway, &call),
        description: organization.description.as_deref().unwrap_or_default(),
        role: role.map(OrganizationRole::as_str),
        boxes,
        is_first: wanted.after.is_empty(),
        next,
    })
}
