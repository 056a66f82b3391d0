//! What every answer of an upload wears, good or bad: the protocol's version, and what a browser wants
//! to see before it lets a page read it (CORS, as the Fetch standard has it).
//!
//! Credentials come in a header that the page sets itself, so no answer allows cookies, and `*` as an
//! origin gives nobody what they could not have by other means.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use crate::config::settings::CorsOrigins;
use crate::resumable::{self, Protocol, ietf, tus};
use crate::server::OutboundBody;

const METHODS: HeaderValue =
    HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
/// `*` would not cover Authorization.
const ALLOWED: HeaderValue = HeaderValue::from_static(
    "Authorization, X-Access-Token, Content-Type, Content-Disposition, X-HTTP-Method-Override, \
     X-Request-ID, Tus-Resumable, Upload-Length, Upload-Offset, Upload-Metadata, \
     Upload-Defer-Length, Upload-Checksum, Upload-Concat, Upload-Complete, \
     Upload-Draft-Interop-Version, Repr-Digest, Content-Digest",
);
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "Location, Upload-Offset, Upload-Length, Tus-Resumable, Tus-Version, Tus-Extension, \
     Tus-Max-Size, Tus-Checksum-Algorithm, Upload-Metadata, Upload-Defer-Length, Upload-Expires, \
     Upload-Concat, Upload-Complete, Upload-Limit, Upload-Part-Size, Retry-After, X-Request-ID, X-Trace-ID",
);
/// A day; browsers cut it to what they bear.
const MAX_AGE: HeaderValue = HeaderValue::from_static("86400");

/// What was found in a request's head that its answer depends on.
#[derive(Debug)]
pub struct Dress {
    protocol: Option<Protocol>,
    preflight: bool,
    origin: Option<HeaderValue>,
    named: bool,
}

impl Dress {
    /// Looks at a request's head.
    pub fn of(method: &Method, headers: &HeaderMap, origins: &CorsOrigins) -> Self {
        let origin = headers.get(ORIGIN).and_then(|origin| match origins {
            CorsOrigins::Any => Some(HeaderValue::from_static("*")),
            CorsOrigins::These(these) => {
                let text = origin.to_str().ok()?;
                let known = these.iter().any(|known| known.eq_ignore_ascii_case(text));
                known.then(|| origin.clone())
            }
        });
        Self {
            protocol: Protocol::of(&resumable::method(method, headers), headers),
            preflight: method == Method::OPTIONS,
            origin,
            named: matches!(origins, CorsOrigins::These(these) if !these.is_empty()),
        }
    }

    /// Puts it on.
    pub fn put_on(self, response: &mut Response<OutboundBody>) {
        let refused = response.status().is_client_error() || response.status().is_server_error();
        let status = response.status();
        let headers = response.headers_mut();
        match self.protocol {
            // tus 1.0, "Tus-Resumable": in every answer.
            Some(Protocol::Tus) => {
                headers.insert(tus::TUS_RESUMABLE, tus::VERSION);
                if status == StatusCode::PRECONDITION_FAILED {
                    headers.insert(tus::TUS_VERSION, tus::VERSION);
                }
            }
            // Draft §4.4.2: so a client knows that it is the upload that was refused, not what became
            // of it.
            Some(Protocol::Ietf) if refused && !headers.contains_key(ietf::UPLOAD_COMPLETE) => {
                headers.insert(ietf::UPLOAD_COMPLETE, HeaderValue::from_static("?0"));
            }
            Some(Protocol::Ietf) | None => {}
        }
        if self.named {
            headers.append(VARY, HeaderValue::from_static("Origin"));
        }
        let Some(origin) = self.origin else { return };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        if self.preflight {
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED);
            headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::response;

    fn dressed(
        origins: &CorsOrigins,
        method: &Method,
        lines: &[(&'static str, &str)],
    ) -> HeaderMap {
        let headers: HeaderMap = lines
            .iter()
            .map(|(n, v)| (http::HeaderName::from_static(n), v.parse().unwrap()))
            .collect();
        let mut response = response::empty(StatusCode::NOT_FOUND);
        Dress::of(method, &headers, origins).put_on(&mut response);
        response.headers().clone()
    }

    #[test]
    fn only_pages_of_configured_origins_read_answers() {
        let these = CorsOrigins::These(vec!["https://app.example.com".into()]);
        let page = ("origin", "https://App.example.com");
        let other = ("origin", "https://app.example.com.evil.org");
        let preflight = dressed(&these, &Method::OPTIONS, &[page]);
        assert_eq!(
            preflight["access-control-allow-origin"],
            "https://App.example.com"
        );
        assert_eq!(preflight["vary"], "Origin");
        let allowed = preflight["access-control-allow-headers"].to_str().unwrap();
        for name in [
            "Authorization",
            "Tus-Resumable",
            "Upload-Offset",
            "Upload-Checksum",
        ] {
            assert!(allowed.contains(name), "{name}");
        }
        assert!(!preflight.contains_key("access-control-allow-credentials"));
        let answer = dressed(&these, &Method::PATCH, &[page]);
        let exposed = answer["access-control-expose-headers"].to_str().unwrap();
        assert!(exposed.contains("Upload-Offset") && exposed.contains("Location"));
        assert!(!answer.contains_key("access-control-allow-methods"));
        for (origins, line) in [(&these, other), (&CorsOrigins::These(Vec::new()), page)] {
            let refused = dressed(origins, &Method::OPTIONS, &[line]);
            assert!(
                !refused.contains_key("access-control-allow-origin"),
                "{line:?}"
            );
        }
        let any = dressed(&CorsOrigins::Any, &Method::OPTIONS, &[other]);
        assert_eq!(any["access-control-allow-origin"], "*");
        assert!(!any.contains_key("vary"));
        let none = dressed(&CorsOrigins::Any, &Method::OPTIONS, &[]);
        assert!(!none.contains_key("access-control-allow-origin"));
    }

    #[test]
    fn refusals_wear_the_version_of_tus_or_say_that_the_upload_is_not_complete() {
        let none = CorsOrigins::These(Vec::new());
        let tus = dressed(&none, &Method::HEAD, &[("tus-resumable", "1.0.0")]);
        assert_eq!(tus["tus-resumable"], "1.0.0");
        let ietf = dressed(&none, &Method::HEAD, &[]);
        assert_eq!(ietf["upload-complete"], "?0");
        assert!(!ietf.contains_key("tus-resumable"));
    }
}
