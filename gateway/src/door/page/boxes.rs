//! Making, changing and deleting a box: the handlers of the API, with a form before them.

use askama::Template;
use boxgate_storage::metadata::catalog::BoxFields;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::form::{Fault, Field, Form, Kind, asking};
use super::{Answer, Visit, rendered, see_other, shown};
use crate::call::Call;
use crate::door::boxvault::boxes as api;
use crate::gateway::Gateway;
use crate::server::OutboundBody;

#[derive(Template)]
#[template(path = "box_form.html")]
struct BoxForm<'a> {
    title: &'a str,
    visit: &'a Visit,
    organization: &'a str,
    /// The box that is changed; `None` makes one.
    known: Option<&'a str>,
    fault: Option<String>,
    fields: Vec<Field>,
}

/// What stands in the form.
#[derive(Default)]
struct Written {
    name: String,
    about: String,
    description: String,
    readme: String,
    is_public: bool,
    is_published: bool,
}

impl Written {
    fn of(form: &Form) -> Self {
        Self {
            name: form.text("name").to_owned(),
            about: form.text("about").to_owned(),
            description: form.text("description").to_owned(),
            readme: form.text("readme").to_owned(),
            is_public: form.is_ticked("public"),
            is_published: form.is_ticked("published"),
        }
    }

    fn stored(name: &str, fields: &BoxFields) -> Self {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        Self {
            name: name.to_owned(),
            about: text(&fields.short_description),
            description: text(&fields.description),
            readme: text(&fields.readme),
            is_public: fields.public,
            is_published: fields.published,
        }
    }

    fn fields(self, fault: &Fault) -> Vec<Field> {
        vec![
            Field::new(Kind::Line, "name", "Name")
                .hint(
                    "Letters, digits, dots, dashes and underscores; begins with a letter or digit.",
                )
                .value(self.name)
                .required()
                .fault(fault.at("name")),
            Field::new(Kind::Line, "about", "In one line")
                .hint("At most 255 characters.")
                .value(self.about)
                .fault(fault.at("about")),
            Field::new(Kind::Text, "description", "Description")
                .hint("Markdown.")
                .value(self.description)
                .fault(fault.at("description")),
            Field::new(Kind::Text, "readme", "Readme")
                .hint("Markdown.")
                .value(self.readme)
                .fault(fault.at("readme")),
            Field::new(Kind::Tick, "public", "Public")
                .hint("Anyone may read and download it.")
                .ticked(self.is_public),
            Field::new(Kind::Tick, "published", "Published")
                .hint("Listed for others than you.")
                .ticked(self.is_published),
        ]
    }
}

/// Which words of refusals are about which field.
const MARKS: &[(&str, &str)] = &[
    ("shortDescription", "about"),
    ("box \"", "name"),
    ("'name'", "name"),
    ("Box '", "name"),
    ("already exists", "name"),
];

fn asked(form: &Form) -> Value {
    json!({
        "name": form.text("name"), "shortDescription": form.given("about"),
        "description": form.given("description"), "readme": form.given("readme"),
        "isPublic": form.is_ticked("public"), "published": form.is_ticked("published"),
    })
}

fn form(
    visit: &Visit,
    (organization, known): (&str, Option<&str>),
    written: Written,
    fault: &Fault,
) -> Response<OutboundBody> {
    let form = BoxForm {
        title: if known.is_some() {
            "Change a box"
        } else {
            "New box"
        },
        visit,
        organization,
        known,
        fault: fault.at(""),
        fields: written.fields(fault),
    };
    shown(fault.status(), rendered(&form))
}

/// `GET /-/new-box/{org}`.
pub fn new(gateway: &Gateway, call: &Call) -> Answer {
    let written = Written {
        is_published: true,
        ..Written::default()
    };
    let organization = call.organization()?.name.as_str();
    Ok(form(
        &Visit::by(gateway, call),
        (organization, None),
        written,
        &Fault::default(),
    ))
}

/// `POST /-/new-box/{org}`.
pub async fn create(gateway: &Gateway, mut call: Call) -> Answer {
    let sent = Form::read(gateway, &mut call).await?;
    let visit = Visit::by(gateway, &call);
    let organization = call.organization()?.name.to_string();
    match api::create(gateway, asking(call, &asked(&sent))).await {
        Ok(_made) => Ok(see_other(&visit.a_box(&organization, sent.text("name")))),
        Err(refusal) => {
            let fault = Fault::of(refusal, MARKS)?;
            Ok(form(
                &visit,
                (&organization, None),
                Written::of(&sent),
                &fault,
            ))
        }
    }
}

/// `GET /-/edit/{org}/{box}`.
pub fn edit(gateway: &Gateway, call: &Call) -> Answer {
    let row = call.row()?;
    let written = Written::stored(row.name.as_str(), &row.fields);
    let place = (call.organization()?.name.as_str(), Some(row.name.as_str()));
    Ok(form(
        &Visit::by(gateway, call),
        place,
        written,
        &Fault::default(),
    ))
}

/// `POST /-/edit/{org}/{box}`.
pub async fn update(gateway: &Gateway, mut call: Call) -> Answer {
    let sent = Form::read(gateway, &mut call).await?;
    let visit = Visit::by(gateway, &call);
    let organization = call.organization()?.name.to_string();
    let known = call.row()?.name.to_string();
    match api::update(gateway, asking(call, &asked(&sent))).await {
        Ok(_changed) => Ok(see_other(&visit.a_box(&organization, sent.text("name")))),
        Err(refusal) => {
            let fault = Fault::of(refusal, MARKS)?;
            Ok(form(
                &visit,
                (&organization, Some(&known)),
                Written::of(&sent),
                &fault,
            ))
        }
    }
}

/// `POST /-/delete/{org}/{box}`: its name is written once more.
pub async fn delete(gateway: &Gateway, mut call: Call) -> Answer {
    let sent = Form::read(gateway, &mut call).await?;
    let visit = Visit::by(gateway, &call);
    let (organization, row) = (call.organization()?.name.to_string(), call.row()?);
    if !sent.text("confirm").eq_ignore_ascii_case(row.name.as_str()) {
        let written = Written::stored(row.name.as_str(), &row.fields);
        let fault = Fault::new(
            "",
            "Nothing was deleted: write the name of the box to delete it.",
        );
        return Ok(form(
            &visit,
            (&organization, Some(row.name.as_str())),
            written,
            &fault,
        ));
    }
    let answer = api::delete(gateway, call).await?;
    debug_assert_eq!(answer.status(), StatusCode::OK);
    Ok(see_other(&visit.organization(&organization)))
}
