//! Service accounts of whoever is signed in; a key is shown once, in the answer that makes it.

use askama::Template;
use boxgate_storage::metadata::tokens::TokenKind;
use serde_json::{Value, json};

use super::form::{Fault, Field, Form, Kind, asking};
use super::{Answer, Visit, moment, rendered, see_other, shown, told};
use crate::auth::Principal;
use crate::call::Call;
use crate::door::boxvault::service_accounts as api;
use crate::gateway::Gateway;

#[derive(Template)]
#[template(path = "keys.html")]
struct KeysPage<'a> {
    title: &'a str,
    visit: &'a Visit,
    keys: Vec<KeyLine>,
    organizations: Vec<Choice>,
    organization_fault: Option<String>,
    fault: Option<String>,
    fields: Vec<Field>,
    fresh: Option<Fresh>,
}

struct KeyLine {
    id: i64,
    name: String,
    organization: String,
    description: String,
    created: String,
    expires: String,
}

struct Choice {
    id: i64,
    name: String,
    is_chosen: bool,
}

/// A key as it is shown once.
struct Fresh {
    name: String,
    key: String,
}

impl Fresh {
    fn of(told: &Value) -> Self {
        let text = |field: &str| told[field].as_str().unwrap_or_default().to_owned();
        Self {
            name: text("username"),
            key: text("token"),
        }
    }
}

async fn shown_keys(
    gateway: &Gateway,
    (visit, principal): (&Visit, &Principal),
    sent: &Form,
    fault: &Fault,
    fresh: Option<Fresh>,
) -> Answer {
    let tokens = gateway
        .metadata
        .tokens(principal.account.id, TokenKind::Service)
        .await?;
    let named = |id| {
        principal
            .memberships
            .iter()
            .find(|m| Some(m.organization) == id)
    };
    let keys = tokens.into_iter().map(|token| KeyLine {
        id: token.id.0,
        organization: named(token.organization)
            .map(|m| m.organization_name.to_string())
            .unwrap_or_default(),
        name: token.name.unwrap_or_default(),
        description: token.description.unwrap_or_default(),
        created: moment(token.created),
        expires: token.expires.map_or_else(|| "never".to_owned(), moment),
    });
    let chosen = sent.text("organization");
    let organizations = principal.memberships.iter().map(|m| Choice {
        id: m.organization.0,
        name: m.organization_name.to_string(),
        is_chosen: m.organization.0.to_string() == chosen,
    });
    let page = KeysPage {
        title: "Service accounts",
        visit,
        keys: keys.collect(),
        organizations: organizations.collect(),
        organization_fault: fault.at("organization"),
        fault: fault.at(""),
        fields: vec![
            Field::new(Kind::Line, "description", "What it is for").value(sent.text("description")),
            Field::new(Kind::Number, "days", "Days that it is good for")
                .hint("Empty: it does not expire.")
                .value(sent.text("days"))
                .fault(fault.at("days")),
        ],
        fresh,
    };
    Ok(shown(fault.status(), rendered(&page)))
}

/// `GET /-/keys`.
pub async fn show(gateway: &Gateway, call: Call) -> Answer {
    let who = (&Visit::by(gateway, &call), call.principal()?);
    shown_keys(gateway, who, &Form::default(), &Fault::default(), None).await
}

/// `POST /-/keys`.
pub async fn create(gateway: &Gateway, mut call: Call) -> Answer {
    let sent = Form::read(gateway, &mut call).await?;
    let (visit, principal) = (Visit::by(gateway, &call), call.principal()?.clone());
    let who = (&visit, &principal);
    let days = match sent.text("days") {
        "" => Value::Null,
        text => match text.parse::<u32>() {
            Ok(days) => days.into(),
            Err(_odd) => {
                let fault = Fault::new("days", "This must be a whole number of days.");
                return shown_keys(gateway, who, &sent, &fault, None).await;
            }
        },
    };
    let organization = sent.text("organization").parse::<i64>().ok();
    let body = json!({
        "description": sent.given("description"), "organizationId": organization, "expirationDays": days,
    });
    match api::create(gateway, asking(call, &body)).await {
        Ok(answer) => {
            let fresh = Some(Fresh::of(&told(answer).await));
            shown_keys(gateway, who, &Form::default(), &Fault::default(), fresh).await
        }
        Err(refusal) => {
            let marks = [("expirationDays", "days"), ("rganization", "organization")];
            let fault = Fault::of(refusal, &marks)?;
            shown_keys(gateway, who, &sent, &fault, None).await
        }
    }
}

/// `POST /-/keys/{id}/rotate`: the key before ends at once.
pub async fn rotate(gateway: &Gateway, mut call: Call) -> Answer {
    Form::read(gateway, &mut call).await?;
    let (visit, principal) = (Visit::by(gateway, &call), call.principal()?.clone());
    let answer = api::rotate(gateway, asking(call, &json!({}))).await?;
    let fresh = Some(Fresh::of(&told(answer).await));
    shown_keys(
        gateway,
        (&visit, &principal),
        &Form::default(),
        &Fault::default(),
        fresh,
    )
    .await
}

/// `POST /-/keys/{id}/delete`.
pub async fn delete(gateway: &Gateway, mut call: Call) -> Answer {
    Form::read(gateway, &mut call).await?;
    let place = Visit::by(gateway, &call).at("keys");
    api::delete(gateway, call).await?;
    Ok(see_other(&place))
}
