//! Forms: read within their limits, believed with their token alone, shown again with what was written in them.

use askama::Template;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::Value;

use super::{Visit, rendered};
use crate::auth::cookie::{self, Jar, What};
use crate::auth::credential::Credential;
use crate::call::{Call, small};
use crate::gateway::Gateway;
use crate::refusal::Refusal;
use crate::route::{Route, Row};
use crate::server::InboundBody;

/// The field that holds the token of a form.
pub const TOKEN: &str = "form_token";

/// Whether that is what somebody wrote into a form of ours by hand, to be shown to them again where they are not signed in
/// any more. What another site sent is shown to nobody as their own words.
pub fn is_written(row: &Row, head: &Parts) -> bool {
    let is_by_hand = matches!(
        row.route,
        Route::PageCreateBox
            | Route::PageUpdateBox
            | Route::PageCreateVersion
            | Route::PageUpdateVersion
            | Route::PageCreateKey
    );
    let from = head.headers.get(FETCH_SITE).map(HeaderValue::as_bytes);
    is_by_hand && from == Some(b"same-origin")
}

/// What was written, taken before it is used: it is not lost where it is refused.
///
/// # Errors
/// As [`Form::unproved`].
pub async fn taken(
    gateway: &Gateway,
    head: &Parts,
    body: &mut InboundBody,
) -> Result<Bytes, Refusal> {
    let limits = &gateway.settings.limits;
    let limits = (limits.json_body_bytes, limits.json_timeout);
    let text = Bytes::from(small(&head.headers, body, FORM, limits).await?);
    *body = text.clone().into();
    Ok(text)
}

/// The page that keeps what was written into a form, where its sender is not signed in any more, or anew; `None` where it
/// was refused for another reason.
pub fn kept(visit: &Visit, path: &str, refusal: &Refusal, text: &[u8]) -> Option<String> {
    let is_signed_in = match refusal.code {
        Some("FORM_TOKEN") => true,
        _ if refusal.status == StatusCode::UNAUTHORIZED => false,
        _ => return None,
    };
    let Form(fields) = Form::parse(text);
    let fields = fields.into_iter().filter(|(name, _)| name != TOKEN);
    Some(rendered(&KeptPage {
        title: "Not saved yet",
        visit,
        path,
        is_signed_in,
        fields: fields.collect(),
    }))
}

#[derive(Template)]
#[template(path = "kept.html")]
struct KeptPage<'a> {
    title: &'a str,
    visit: &'a Visit,
    path: &'a str,
    is_signed_in: bool,
    fields: Vec<(String, String)>,
}

/// By which browsers tell whose page a request is of (Fetch Metadata).
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// How a form is told of that is too long, and the setting.
const FORM: (&str, &str) = ("form", "limits.json_body");

/// What was written in a form, or stands in a query.
#[derive(Debug, Default, Clone)]
pub struct Form(Vec<(String, String)>);

impl Form {
    /// A form whose sender is signed in.
    ///
    /// # Errors
    /// 403 when it is no form that the session was shown; 413 and 408 as for every small body.
    pub async fn read(gateway: &Gateway, call: &mut Call) -> Result<Self, Refusal> {
        let form = Self::unproved(gateway, call).await?;
        // Whoever sends a token in a header was not made to by another site; a link with one in its query may be anybody's.
        let by_header = Credential::find(&call.head.headers, None).is_some();
        let session = Jar::of(gateway, &call.facts)
            .and_then(|jar| jar.find(&call.head.headers, What::Session));
        let is_ours =
            session.is_some_and(|session| cookie::is_form_token(&session, form.text(TOKEN)));
        if by_header || is_ours {
            return Ok(form);
        }
        let text = "This form belongs to another session. Go back, load its page again, and send it once more.";
        Err(Refusal::new(StatusCode::FORBIDDEN, text).code("FORM_TOKEN"))
    }

    /// A form of which nothing is known yet.
    ///
    /// # Errors
    /// 413 and 408 as for every small body.
    pub async fn unproved(gateway: &Gateway, call: &mut Call) -> Result<Self, Refusal> {
        let limits = &gateway.settings.limits;
        let body = call
            .small_body(FORM, limits.json_body_bytes, limits.json_timeout)
            .await?;
        Ok(Self::parse(&body))
    }

    fn parse(text: &[u8]) -> Self {
        Self(url::form_urlencoded::parse(text).into_owned().collect())
    }

    /// What stands in the query of a request, as forms write it.
    pub fn of_query(call: &Call) -> Self {
        let query = call.head.uri.query().unwrap_or_default();
        Self::parse(query.as_bytes())
    }

    /// What was written in a field; empty where there is none.
    pub fn text(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(field, _)| field == name);
        found.map_or("", |(_, value)| value.trim())
    }

    /// What was written in a field, or that it is unset; lines end as they do everywhere but in forms.
    pub fn given(&self, name: &str) -> Value {
        match self.text(name) {
            "" => Value::Null,
            text => text.replace("\r\n", "\n").into(),
        }
    }

    /// What was written in a field, spaces and all.
    pub fn exact(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(field, _)| field == name);
        found.map_or("", |(_, value)| value)
    }

    /// Whether a box is ticked.
    pub fn is_ticked(&self, name: &str) -> bool {
        self.0.iter().any(|(field, _)| field == name)
    }
}

/// The same call with that for its body, as the handlers of the API read it.
pub fn asking(call: Call, body: &Value) -> Call {
    Call {
        body: Bytes::from(body.to_string()).into(),
        ..call
    }
}

/// What is wrong with a form that the API refused: a text, and the field that it is about.
#[derive(Debug, Default)]
pub struct Fault {
    status: Option<StatusCode>,
    field: &'static str,
    text: String,
}

impl Fault {
    /// What a refusal says of the first field of which it has the mark; empty is the form as a whole.
    ///
    /// # Errors
    /// The refusal, where nothing that was written is at fault.
    pub fn of(refusal: Refusal, marks: &[(&str, &'static str)]) -> Result<Self, Refusal> {
        let is_about_the_form = matches!(
            refusal.status,
            StatusCode::BAD_REQUEST
                | StatusCode::CONFLICT
                | StatusCode::UNPROCESSABLE_ENTITY
                | StatusCode::FORBIDDEN
        );
        if !is_about_the_form {
            return Err(refusal);
        }
        let mark = marks
            .iter()
            .find(|(mark, _)| refusal.message.contains(mark));
        Ok(Self {
            status: Some(refusal.status),
            field: mark.map_or("", |(_, field)| field),
            text: refusal.message,
        })
    }

    /// A text beside a field.
    pub fn new(field: &'static str, text: impl Into<String>) -> Self {
        let status = Some(StatusCode::UNPROCESSABLE_ENTITY);
        Self {
            status,
            field,
            text: text.into(),
        }
    }

    /// The status of the page that shows it.
    pub fn status(&self) -> StatusCode {
        self.status.unwrap_or(StatusCode::OK)
    }

    /// What it says of a field.
    pub fn at(&self, field: &str) -> Option<String> {
        (self.status.is_some() && self.field == field).then(|| self.text.clone())
    }
}

/// How a field is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One line.
    Line,
    /// Several.
    Text,
    /// One line that is not shown.
    Secret,
    /// A whole number.
    Number,
    /// A box to tick.
    Tick,
}

/// One field of a form, with what is wrong with it beside it.
#[derive(Debug, Template)]
#[template(path = "field.html")]
pub struct Field {
    kind: Kind,
    name: &'static str,
    label: &'static str,
    hint: &'static str,
    value: String,
    is_ticked: bool,
    is_required: bool,
    fault: Option<String>,
    autocomplete: &'static str,
}

impl Field {
    /// A field of that name.
    pub fn new(kind: Kind, name: &'static str, label: &'static str) -> Self {
        Self {
            kind,
            name,
            label,
            hint: "",
            value: String::new(),
            is_ticked: false,
            is_required: false,
            fault: None,
            autocomplete: "off",
        }
    }

    /// With a word on what it is for.
    #[must_use]
    pub fn hint(mut self, hint: &'static str) -> Self {
        self.hint = hint;
        self
    }

    /// With what stands in it.
    #[must_use]
    pub fn value(mut self, value: impl Into<String>) -> Self {
        self.value = value.into();
        self
    }

    /// Ticked or not.
    #[must_use]
    pub fn ticked(mut self, is_ticked: bool) -> Self {
        self.is_ticked = is_ticked;
        self
    }

    /// One that must not be empty.
    #[must_use]
    pub fn required(mut self) -> Self {
        self.is_required = true;
        self
    }

    /// What browsers may fill it with.
    #[must_use]
    pub fn autocomplete(mut self, what: &'static str) -> Self {
        self.autocomplete = what;
        self
    }

    /// With what is wrong with it.
    #[must_use]
    pub fn fault(mut self, fault: Option<String>) -> Self {
        self.fault = fault;
        self
    }
}
