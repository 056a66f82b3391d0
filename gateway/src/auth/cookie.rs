//! The session of a person at a browser: a cookie, and what forms and scripts must hold beside it.
//!
//! The cookie is taken on the page's routes, and with `X-CSRF-Token` on those of uploads; nowhere else. A browser sends
//! it along whoever wrote the request, so a change needs the token as well, which only our own pages can read. The
//! token is derived from the session: it ends with it, and nothing is kept.

use boxgate_storage::metadata::Metadata;
use boxgate_storage::metadata::tokens::TokenKind;
use http::{HeaderMap, HeaderName, Method, header};

use super::{Principal, authenticate_hash, credential};
use crate::gateway::Gateway;
use crate::refusal::Refusal;
use crate::request::RequestFacts;
use crate::route::Door;

/// What scripts send beside the cookie.
pub const CSRF_HEADER: HeaderName = HeaderName::from_static("x-csrf-token");
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// What tokens of forms are derived for.
const CONTEXT: &str = "boxgate 2026 token of a form";

/// How a cookie is named and sealed at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jar {
    /// Over HTTPS: no other host, path or plain connection can set or read it (RFC 6265bis §4.1.3.2).
    Sealed,
    /// Over plain HTTP on this machine.
    Loopback,
}

impl Jar {
    /// That of a request; `None` over plain HTTP from elsewhere, where a cookie would travel in the clear.
    pub fn of(gateway: &Gateway, facts: &RequestFacts) -> Option<Self> {
        if is_encrypted(gateway, facts) {
            return Some(Self::Sealed);
        }
        facts.client_ip().is_loopback().then_some(Self::Loopback)
    }

    fn name(self, what: What) -> &'static str {
        match (self, what) {
            (Self::Sealed, What::Session) => "__Host-boxgate",
            (Self::Sealed, What::Form) => "__Host-boxgate-form",
            (Self::Loopback, What::Session) => "boxgate",
            (Self::Loopback, What::Form) => "boxgate-form",
        }
    }

    /// The value of a cookie of ours.
    pub fn find(self, headers: &HeaderMap, what: What) -> Option<String> {
        let name = self.name(what);
        let lines = headers.get_all(header::COOKIE).iter();
        // By bytes: what others of this host set may be no text.
        let mut pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
        let value = pairs.find_map(|pair| {
            let (found, value) = std::str::from_utf8(pair).ok()?.split_once('=')?;
            (found.trim() == name).then(|| value.trim().to_owned())
        });
        // What we never gave is none of ours.
        value.filter(|value| value.len() == 64 && value.bytes().all(|b| b.is_ascii_hexdigit()))
    }

    /// The line that sets a cookie, until the browser ends or for so many seconds; none ends it.
    pub fn set(self, what: What, value: &str, seconds: Option<u64>) -> String {
        let secure = if self == Self::Sealed { "; Secure" } else { "" };
        let age = seconds.map_or_else(String::new, |seconds| format!("; Max-Age={seconds}"));
        let name = self.name(what);
        format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict{secure}{age}")
    }
}

/// Whether a request came by HTTPS: to us, or to who stands in front of us. Of strangers who come by plain HTTP only the
/// host tells, where its own URL is one of HTTPS: then somebody in front of us speaks it.
fn is_encrypted(gateway: &Gateway, facts: &RequestFacts) -> bool {
    if facts.scheme() == "https" {
        return true;
    }
    let proxies = &gateway.settings.trusted_proxies;
    let url = gateway.base_url(facts);
    let authority = url.strip_prefix("https://");
    authority.is_some_and(|authority| {
        authority.eq_ignore_ascii_case(facts.authority()) || proxies.contains(facts.peer_ip())
    })
}

/// What a cookie is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Who is signed in.
    Session,
    /// The form to sign in, which belongs to no session yet.
    Form,
}

/// What forms hold beside a cookie of that value.
pub fn form_token(cookie: &str) -> String {
    hex::encode(blake3::derive_key(CONTEXT, cookie.as_bytes()))
}

/// Whether that is the token beside a cookie of that value; takes as long whatever it is.
pub fn is_form_token(cookie: &str, given: &str) -> bool {
    let wanted = blake3::Hash::from_bytes(blake3::derive_key(CONTEXT, cookie.as_bytes()));
    // Compared in constant time.
    blake3::Hash::from_hex(given).is_ok_and(|given| given == wanted)
}

/// The session that a request's cookie stands for at a door, if that takes it.
pub fn taken(
    gateway: &Gateway,
    door: Door,
    method: &Method,
    headers: &HeaderMap,
    facts: &RequestFacts,
) -> Option<String> {
    if !matches!(door, Door::Page | Door::Files) || is_from_elsewhere(method, headers) {
        return None;
    }
    let session = Jar::of(gateway, facts)?.find(headers, What::Session)?;
    if door == Door::Page {
        return Some(session);
    }
    let given = headers.get(&CSRF_HEADER)?.to_str().ok()?;
    is_form_token(&session, given).then_some(session)
}

/// Whether a browser says that another site wrote this change.
fn is_from_elsewhere(method: &Method, headers: &HeaderMap) -> bool {
    let said = headers.get(&FETCH_SITE).map(http::HeaderValue::as_bytes);
    !method.is_safe() && said.is_some_and(|site| site != b"same-origin")
}

/// The person whose session that is; `None` once it ended. A service account has none.
///
/// # Errors
/// As [`super::authenticate`].
pub async fn person(metadata: &Metadata, session: &str) -> Result<Option<Principal>, Refusal> {
    let found = authenticate_hash(metadata, &credential::hash(session)).await?;
    Ok(found.filter(|found| found.token.kind == TokenKind::Session && !found.is_service()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(cookie: &str) -> HeaderMap {
        let value = http::HeaderValue::from_bytes(cookie.as_bytes()).unwrap();
        HeaderMap::from_iter([(header::COOKIE, value)])
    }

    #[test]
    fn a_cookie_is_found_by_its_whole_name_and_form_alone() {
        let value = "ab".repeat(32);
        let other = "cd".repeat(32);
        for (line, wanted) in [
            (format!("boxgate={value}"), Some(&value)),
            (format!("a=b; boxgate={value} ; c"), Some(&value)),
            (format!("xboxgate={value}; boxgate-form={value}"), None),
            (format!("__Host-boxgate={value}"), None),
            ("boxgate=short".to_owned(), None),
            (format!("boxgate={value}; boxgate={other}"), Some(&value)),
            (format!("theme=sch\u{f6}n; boxgate={value}"), Some(&value)),
        ] {
            let found = Jar::Loopback.find(&headers(&line), What::Session);
            assert_eq!(found.as_ref(), wanted, "{line}");
        }
        let sealed = format!("boxgate={other}; __Host-boxgate={value}");
        let found = Jar::Sealed.find(&headers(&sealed), What::Session);
        assert_eq!(found, Some(value));
    }

    #[test]
    fn a_cookie_is_for_this_host_alone_and_out_of_reach_of_scripts() {
        let line = Jar::Sealed.set(What::Session, "x", Some(60));
        assert_eq!(
            line,
            "__Host-boxgate=x; Path=/; HttpOnly; SameSite=Strict; Secure; Max-Age=60"
        );
        let line = Jar::Loopback.set(What::Form, "x", None);
        assert_eq!(line, "boxgate-form=x; Path=/; HttpOnly; SameSite=Strict");
    }

    #[test]
    fn the_token_of_a_form_is_that_of_its_session_alone() {
        let (session, another) = ("ab".repeat(32), "cd".repeat(32));
        let token = form_token(&session);
        assert!(is_form_token(&session, &token));
        for wrong in [
            form_token(&another),
            session.clone(),
            String::new(),
            token[..32].to_owned(),
        ] {
            assert!(!is_form_token(&session, &wrong), "{wrong}");
        }
    }

    #[test]
    fn what_a_browser_says_another_site_wrote_changes_nothing() {
        let of = |site: &str| HeaderMap::from_iter([(FETCH_SITE, site.parse().unwrap())]);
        for (site, elsewhere) in [
            ("same-origin", false),
            ("none", true),
            ("same-site", true),
            ("cross-site", true),
        ] {
            assert_eq!(
                is_from_elsewhere(&Method::POST, &of(site)),
                elsewhere,
                "{site}"
            );
            assert!(!is_from_elsewhere(&Method::GET, &of(site)), "{site}");
        }
        assert!(!is_from_elsewhere(&Method::POST, &HeaderMap::new()));
    }
}
