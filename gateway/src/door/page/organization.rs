//! The boxes of an organization, page by page.

use askama::Template;
use boxgate_storage::catalog::OrganizationName;
use boxgate_storage::metadata::accounts::OrganizationRole;
use boxgate_storage::metadata::catalog::Page;

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
    boxes: Vec<BoxLine>,
    is_first: bool,
    next: Option<String>,
}

struct BoxLine {
    name: String,
    about: String,
    updated: String,
    is_private: bool,
    is_hidden: bool,
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
    let mut rows = gateway.metadata.listed_boxes(&wanted).await?;
    let is_hidden = role.is_none() && organization.access_mode == "private";
    if is_hidden && rows.is_empty() {
        return Err(missing());
    }
    let has_more = rows.len() > LISTED as usize;
    rows.truncate(LISTED as usize);
    let next = rows
        .last()
        .filter(|_| has_more)
        .map(|row| row.name.to_string());
    let boxes = rows.into_iter().map(|row| BoxLine {
        name: row.name.to_string(),
        about: row.fields.short_description.unwrap_or_default(),
        updated: moment(row.updated),
        is_private: !row.fields.public,
        is_hidden: !row.fields.published,
    });
    page(&OrganizationPage {
        title: organization.name.as_str(),
        visit: &Visit::by(gateway, &call),
        description: organization.description.as_deref().unwrap_or_default(),
        role: role.map(OrganizationRole::as_str),
        boxes: boxes.collect(),
        is_first: wanted.after.is_empty(),
        next,
    })
}
