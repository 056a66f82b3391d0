//! What browsers are shown: pages that are whole without scripts, rendered here, of our own files alone.
//!
//! The policy of what a page may load is as tight as it gets ([`POLICY`]): nothing of another host, nothing inline. Each
//! view is a module here and a template of its name in `gateway/page/templates`, which escapes whatever it shows.

pub mod a_box;
pub mod asset;
pub mod boxes;
mod chart;
pub mod deliveries;
pub mod form;
pub mod home;
pub mod keys;
pub mod operate;
pub mod organization;
pub mod others;
pub mod sign_in;
pub mod upload;
pub mod versions;

pub use chart::Watch;

use askama::Template;
use boxgate_storage::catalog::OrganizationName;
use boxgate_storage::clock::UnixMillis;
use boxgate_storage::metadata::accounts::{AccountId, OrganizationId};
use http::header::{
    CONTENT_SECURITY_POLICY, LOCATION, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::BodyExt as _;
use indicatif::BinaryBytes;
use serde_json::Value;

use crate::auth::Principal;
use crate::auth::cookie::{self, Jar, What};
use crate::call::Call;
use crate::gateway::Gateway;
use crate::http::negotiate::{Preference, preference};
use crate::http::response;
use crate::refusal::Refusal;
use crate::request::RequestFacts;
use crate::route::{Door, DoorSet, Found, Route, Router};
use crate::server::{OutboundBody, Piece};

type Answer = Result<Response<OutboundBody>, Refusal>;
/// Who reads, and the one organization that they are bound to, if any.
type Reader = Option<(AccountId, Option<OrganizationId>)>;

/// What a page may load, where its forms go, and who may frame it.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; \
     frame-ancestors 'none'; base-uri 'none'",
);
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

/// Whether a request is a browser's that wants something to look at.
fn looks(gateway: &Gateway, head: &Parts) -> bool {
    let reads = matches!(head.method, Method::GET | Method::HEAD);
    gateway.settings.doors.page.enabled && reads && preference(&head.headers) == Preference::Html
}

/// The page in the place of what a path leads to otherwise, where a browser asks for `/` or `/{org}/{box}`; and for `/{org}`,
/// where nothing is else.
pub fn instead(gateway: &Gateway, router: &Router, head: &Parts, path: &str) -> Option<Found> {
    if !looks(gateway, head) {
        return None;
    }
    let page = &gateway.settings.doors.page;
    let place = if path == "/" {
        String::new()
    } else {
        match router.find(&Method::GET, path) {
            Found::Row(row, names)
                if row.route == Route::VagrantMetadata && row.path == "/{org}/{box}" =>
            {
                format!("/{}/{}", names.value("org"), names.value("box"))
            }
            Found::Nothing => {
                let name = path.strip_prefix('/')?;
                let is_one = name.parse::<OrganizationName>().is_ok() && !router.is_reserved(name);
                is_one.then(|| path.to_owned())?
            }
            _ => return None,
        }
    };
    let found = router.find(&head.method, &format!("{}/-/boxes{place}", page.prefix));
    matches!(found, Found::Row(..)).then_some(found)
}

/// The page that says that nothing is there, where it is a browser's to read at this listener.
pub fn nothing(
    gateway: &Gateway,
    head: &Parts,
    facts: &RequestFacts,
    refusal: &Refusal,
) -> Option<Response<OutboundBody>> {
    let is_here = doors_at(gateway, facts).contains(Door::Page);
    let visit = || Visit::of(gateway, head, facts);
    (is_here && looks(gateway, head)).then(|| shown(refusal.status, visit().refused(refusal)))
}

/// The doors of the listener that a request came to.
fn doors_at(gateway: &Gateway, facts: &RequestFacts) -> DoorSet {
    let listener = gateway.settings.listeners.get(facts.listener());
    listener.map_or(DoorSet::ALL, |listener| listener.doors)
}

/// A page that refuses, where nothing is known of who asks.
pub fn refuse(refusal: &Refusal) -> Response<OutboundBody> {
    shown(refusal.status, Visit::default().refused(refusal))
}

/// What every page knows of who looks at it and of where it stands.
#[derive(Debug, Clone, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Visit {
    /// What stands before the page's paths.
    prefix: String,
    /// What stands before `/{org}/{box}`, where that is the page, too.
    short: Option<String>,
    /// Where one comes back to after signing in.
    here: String,
    /// Who is signed in.
    user: Option<String>,
    /// What forms hold.
    csrf: String,
    /// Whether the platform is theirs to operate.
    operates: bool,
    /// Start of URLs that people copy, to the whole server and to Vagrant's door.
    root: String,
    origin: String,
    /// What else is at this listener: a tree of boxes, uploads, downloads.
    has_tree: bool,
    has_files: bool,
    has_downloads: bool,
}

impl Visit {
    /// Of a request, before it is known who sent it.
    pub fn of(gateway: &Gateway, head: &Parts, facts: &RequestFacts) -> Self {
        let settings = &gateway.settings;
        let here_are = doors_at(gateway, facts);
        let has = |door, is_open| is_open && here_are.contains(door);
        let doors = &settings.doors;
        let vagrant = &settings.doors.vagrant;
        let session =
            Jar::of(gateway, facts).and_then(|jar| jar.find(&head.headers, What::Session));
        let here = if head.method == Method::GET {
            head.uri
                .path_and_query()
                .map_or("/", |target| target.as_str())
        } else {
            "/"
        };
        Self {
            prefix: settings.doors.page.prefix.clone(),
            short: has(Door::Vagrant, vagrant.enabled).then(|| vagrant.prefix.clone()),
            here: url::form_urlencoded::byte_serialize(here.as_bytes()).collect(),
            user: None,
            csrf: session
                .map(|session| cookie::form_token(&session))
                .unwrap_or_default(),
            operates: false,
            root: gateway.base_url(facts),
            origin: gateway.base_url(facts) + vagrant.prefix.as_str(),
            has_tree: gateway.boxitory.is_some() && has(Door::Boxitory, doors.boxitory.enabled),
            has_files: has(Door::Files, doors.files.enabled),
            has_downloads: has(Door::BoxVault, doors.boxvault.enabled),
        }
    }

    /// Of a request that was let through.
    pub fn by(gateway: &Gateway, call: &Call) -> Self {
        let visit = Self::of(gateway, &call.head, &call.facts);
        let principal = call.grant.principal.as_ref();
        Self {
            user: principal.map(|principal| principal.name().to_owned()),
            operates: principal.is_some_and(Principal::is_platform_admin),
            ..visit
        }
    }

    /// The page of a refusal.
    pub fn refused(&self, refusal: &Refusal) -> String {
        let may_sign_in = matches!(
            refusal.status,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
        ) || refusal.status == StatusCode::NOT_FOUND && self.csrf.is_empty();
        let title = refusal.status.canonical_reason().unwrap_or("Refused");
        rendered(&RefusalPage {
            title,
            visit: self,
            message: match refusal.code {
                Some("NO_CREDENTIAL" | "TOKEN_INVALID") => {
                    "This page is for people who are signed in."
                }
                _ => &refusal.message,
            },
            may_sign_in,
        })
    }

    fn asset(&self, name: &str) -> String {
        format!("{}/-/assets/{}", self.prefix, asset::named(name))
    }

    fn at(&self, rest: &str) -> String {
        format!("{}/-/{rest}", self.prefix)
    }

    fn home(&self) -> String {
        if self.prefix.is_empty() {
            "/".to_owned()
        } else {
            self.at("boxes")
        }
    }

    fn organization(&self, organization: &str) -> String {
        self.at(&format!("boxes/{organization}"))
    }

    fn a_box(&self, organization: &str, name: &str) -> String {
        match &self.short {
            Some(short) => format!("{short}/{organization}/{name}"),
            None => self.at(&format!("boxes/{organization}/{name}")),
        }
    }
}

#[derive(Template)]
#[template(path = "refusal.html")]
struct RefusalPage<'a> {
    title: &'a str,
    visit: &'a Visit,
    message: &'a str,
    may_sign_in: bool,
}

/// The text of a page. Templates write into memory, which does not fail.
fn rendered(page: &impl Template) -> String {
    page.render().unwrap_or_else(|error| {
        tracing::error!(%error, "a page cannot be written");
        String::new()
    })
}

/// A page as an answer, with what browsers must know of it.
fn shown(status: StatusCode, text: String) -> Response<OutboundBody> {
    let mut answer = response::html(status, text);
    answer.headers_mut().extend([
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (REFERRER_POLICY, HeaderValue::from_static("same-origin")),
        (OPENER_POLICY, HeaderValue::from_static("same-origin")),
        (VARY, HeaderValue::from_static("Accept, Cookie")),
    ]);
    answer
}

/// A page as the answer of a handler.
#[expect(
    clippy::unnecessary_wraps,
    reason = "the last word of every handler here"
)]
fn page(page: &impl Template) -> Answer {
    Ok(shown(StatusCode::OK, rendered(page)))
}

/// What an answer of the API tells.
async fn told(answer: Response<OutboundBody>) -> Value {
    let mut body = answer.into_body();
    let mut text = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(Piece::Bytes(bytes)) = frame.into_data() {
            text.extend_from_slice(&bytes);
        }
    }
    serde_json::from_slice(&text).unwrap_or_default()
}

/// To another page, by GET (RFC 9110 §15.4.4).
fn see_other(place: &str) -> Response<OutboundBody> {
    let mut answer = response::empty(StatusCode::SEE_OTHER);
    let place = HeaderValue::from_str(place).unwrap_or(HeaderValue::from_static("/"));
    answer.headers_mut().insert(LOCATION, place);
    answer
}

/// A size as people read it.
fn size(bytes: u64) -> String {
    BinaryBytes(bytes).to_string()
}

/// A moment as people read it.
fn moment(at: UnixMillis) -> String {
    written(at, "%Y-%m-%d %H:%M UTC")
}

/// The same to the second.
fn instant(at: UnixMillis) -> String {
    written(at, "%Y-%m-%d %H:%M:%SZ")
}

fn written(at: UnixMillis, form: &str) -> String {
    let at = jiff::Timestamp::from_millisecond(at.0);
    at.map_or_else(|_far| String::new(), |at| at.strftime(form).to_string())
}
