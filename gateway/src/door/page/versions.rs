//! Making, changing, releasing, revoking and deleting a version: the handlers of the API, with a form before them.

use askama::Template;
use boxgate_storage::metadata::catalog::{VersionRow, VersionStatus};
use http::Response;
use serde_json::{Value, json};

use super::form::{Fault, Field, Form, Kind, asking};
use super::{Answer, Visit, rendered, see_other, shown};
use crate::call::Call;
use crate::door::boxvault::levels;
use crate::door::vagrant_cloud::versions as cloud;
use crate::gateway::Gateway;
use crate::refusal::Refusal;
use crate::server::OutboundBody;

#[derive(Template)]
#[template(path = "version_form.html")]
struct VersionForm<'a> {
    title: &'a str,
    visit: &'a Visit,
    organization: &'a str,
    box_name: &'a str,
    /// The version that is changed and how it stands; `None` makes one.
    known: Option<(&'a str, &'static str)>,
    fault: Option<String>,
    fields: Vec<Field>,
}

/// Where the form stands.
struct Place {
    visit: Visit,
    organization: String,
    box_name: String,
}

impl Place {
    fn of(gateway: &Gateway, call: &Call) -> Result<Self, Refusal> {
        Ok(Self {
            visit: Visit::by(gateway, call),
            organization: call.organization()?.name.to_string(),
            box_name: call.row()?.name.to_string(),
        })
    }

    fn a_box(&self) -> String {
        self.visit.a_box(&self.organization, &self.box_name)
    }

    fn form(
        &self,
        known: Option<(&str, &'static str)>,
        fields: Vec<Field>,
        fault: &Fault,
    ) -> Response<OutboundBody> {
        let form = VersionForm {
            title: if known.is_some() {
                "Change a version"
            } else {
                "New version"
            },
            visit: &self.visit,
            organization: &self.organization,
            box_name: &self.box_name,
            known,
            fault: fault.at(""),
            fields,
        };
        shown(fault.status(), rendered(&form))
    }
}

/// Which words of refusals are about which field.
const MARKS: &[(&str, &str)] = &[
    ("version \"", "name"),
    ("versionNumber", "name"),
    ("already exists", "name"),
    ("ersion '", "name"),
];

fn new_fields(form: &Form, releases: bool, fault: &Fault) -> Vec<Field> {
    vec![
        Field::new(Kind::Line, "name", "Version")
            .hint("Numbers with dots, such as 1.2.3; Vagrant lists no other.")
            .value(form.text("name"))
            .required()
            .fault(fault.at("name")),
        Field::new(Kind::Text, "description", "Description")
            .hint("Markdown.")
            .value(form.text("description")),
        Field::new(Kind::Tick, "release", "Release it at once")
            .hint("Otherwise Vagrant does not see it until you do.")
            .ticked(releases),
    ]
}

/// `GET /-/new-version/{org}/{box}`.
pub fn new(gateway: &Gateway, call: &Call) -> Answer {
    let fields = new_fields(&Form::default(), true, &Fault::default());
    Ok(Place::of(gateway, call)?.form(None, fields, &Fault::default()))
}

/// `POST /-/new-version/{org}/{box}`.
pub async fn create(gateway: &Gateway, mut call: Call) -> Answer {
    let sent = Form::read(gateway, &mut call).await?;
    let place = Place::of(gateway, &call)?;
    let (name, description) = (sent.text("name"), sent.given("description"));
    let releases = sent.is_ticked("release");
    let made = if releases {
        let body = json!({ "versionNumber": name, "description": description });
        levels::create_version(gateway, asking(call, &body)).await
    } else {
        let body = json!({ "version": { "version": name, "description": description } });
        cloud::create(gateway, asking(call, &body)).await
    };
    match made {
        Ok(_made) => Ok(see_other(&place.a_box())),
        Err(refusal) => {
            let fault = Fault::of(refusal, MARKS)?;
            Ok(place.form(None, new_fields(&sent, releases, &fault), &fault))
        }
    }
}

fn known_fields(written: [String; 3], deprecated: bool) -> Vec<Field> {
    let [description, notes, reason] = written;
    vec![
        Field::new(Kind::Text, "description", "Description")
            .hint("Markdown.")
            .value(description),
        Field::new(Kind::Text, "notes", "Release notes")
            .hint("Markdown.")
            .value(notes),
        Field::new(Kind::Tick, "deprecated", "Deprecated")
            .hint("Users should move on.")
            .ticked(deprecated),
        Field::new(Kind::Line, "reason", "Why").value(reason),
    ]
}

/// The version that the path names.
async fn stored(gateway: &Gateway, call: &Call) -> Result<VersionRow, Refusal> {
    cloud::version_of(gateway, call)
        .await
        .map(|(_, version)| version.row)
}

/// `GET /-/edit/{org}/{box}/{version}`.
pub async fn edit(gateway: &Gateway, call: Call) -> Answer {
    let row = stored(gateway, &call).await?;
    let text = |field: Option<String>| field.unwrap_or_default();
    let fields = row.fields;
    let written = [
        fields.description,
        fields.release_notes,
        fields.deprecation_reason,
    ]
    .map(text);
    let known = Some((row.name.as_str(), row.status.as_str()));
    let place = Place::of(gateway, &call)?;
    Ok(place.form(
        known,
        known_fields(written, fields.deprecated),
        &Fault::default(),
    ))
}

/// `POST /-/edit/{org}/{box}/{version}`.
pub async fn update(gateway: &Gateway, mut call: Call) -> Answer {
    let sent = Form::read(gateway, &mut call).await?;
    let row = stored(gateway, &call).await?;
    let place = Place::of(gateway, &call)?;
    let deprecated = sent.is_ticked("deprecated");
    let body = json!({
        "description": sent.given("description"), "releaseNotes": sent.given("notes"),
        "deprecated": deprecated, "deprecationReason": if deprecated { sent.given("reason") } else { Value::Null },
    });
    match levels::update_version(gateway, asking(call, &body)).await {
        Ok(_changed) => Ok(see_other(&place.a_box())),
        Err(refusal) => {
            let fault = Fault::of(refusal, &[])?;
            let written = ["description", "notes", "reason"].map(|name| sent.text(name).to_owned());
            let known = Some((row.name.as_str(), row.status.as_str()));
            Ok(place.form(known, known_fields(written, deprecated), &fault))
        }
    }
}

/// `POST /-/delete/{org}/{box}/{version}`.
pub async fn delete(gateway: &Gateway, mut call: Call) -> Answer {
    Form::read(gateway, &mut call).await?;
    let place = Place::of(gateway, &call)?;
    levels::delete_version(gateway, call).await?;
    Ok(see_other(&place.a_box()))
}

/// `POST /-/release/...` and `POST /-/revoke/...`.
pub async fn set_status(gateway: &Gateway, mut call: Call, status: VersionStatus) -> Answer {
    Form::read(gateway, &mut call).await?;
    let place = Place::of(gateway, &call)?;
    cloud::set_status(gateway, call, status).await?;
    Ok(see_other(&place.a_box()))
}
