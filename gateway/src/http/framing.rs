//! What a request head must be before anything else looks at it.
//!
//! hyper refuses most ambiguous messages by itself. What it lets through and a proxy in front of us
//! might read otherwise is refused here, before routing; each refusal closes the connection.

use http::request::Parts;
use http::uri::Authority;
use http::{Method, StatusCode, Version, header};

/// Why a request head is not looked at further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The answer's status.
    pub status: StatusCode,
    /// The rule that was broken, for the client.
    pub rule: &'static str,
}

const fn refuse(status: StatusCode, rule: &'static str) -> Refusal {
    Refusal { status, rule }
}

/// Checks one head and returns the one authority that it names.
///
/// # Errors
/// The first rule that is broken.
pub fn check(head: &Parts, uri_bytes: usize, header_fields: usize) -> Result<Authority, Refusal> {
    const BAD: StatusCode = StatusCode::BAD_REQUEST;
    // RFC 9110 §15.5.15.
    if target_bytes(head) > uri_bytes {
        return Err(refuse(
            StatusCode::URI_TOO_LONG,
            "the request target is too long",
        ));
    }
    // RFC 9110 §9.3.6: tunnels are for proxies.
    if head.method == Method::CONNECT {
        return Err(refuse(
            StatusCode::NOT_IMPLEMENTED,
            "CONNECT is not implemented",
        ));
    }
    if head.version > Version::HTTP_11 {
        return check_binary(head, header_fields);
    }
    // RFC 9112 §3.2: a path, a URL with one, or the asterisk of OPTIONS.
    let path = head.uri.path();
    let whole_server = path == "*" && head.method == Method::OPTIONS;
    if !whole_server && !path.starts_with('/') {
        return Err(refuse(BAD, "the request target is no path"));
    }
    // RFC 9112 §6.1: a list of codings, or the same one twice, is where readers disagree.
    let mut codings = head.headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next()
        && (codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        return Err(refuse(
            BAD,
            "Transfer-Encoding must be absent or exactly \"chunked\"",
        ));
    }
    // RFC 9112 §3.2: exactly one Host.
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(refuse(BAD, "exactly one Host header is needed"));
    };
    let host = Authority::try_from(host.as_bytes())
        .ok()
        .filter(names_host)
        .ok_or(refuse(BAD, "the Host header names no host"))?;
    // RFC 9112 §3.2.2 lets the target win over Host; two readers might choose otherwise.
    if let Some(authority) = head.uri.authority()
        && !authority.as_str().eq_ignore_ascii_case(host.as_str())
    {
        return Err(refuse(
            BAD,
            "the request target and the Host header name different hosts",
        ));
    }
    Ok(host)
}

/// What is left to check of a head of HTTP/2 or 3, whose frames are unambiguous.
fn check_binary(head: &Parts, header_fields: usize) -> Result<Authority, Refusal> {
    const BAD: StatusCode = StatusCode::BAD_REQUEST;
    // hyper counts those of HTTP/1.1 while it reads them.
    if head.headers.len() > header_fields {
        return Err(refuse(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "the request has too many header fields",
        ));
    }
    // RFC 9113 §8.2.2, RFC 9114 §4.2: who forwards them to HTTP/1.1 would frame by them.
    let of_connections = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
    ];
    if of_connections
        .iter()
        .any(|name| head.headers.contains_key(*name))
    {
        return Err(refuse(
            BAD,
            "the request has fields of HTTP/1.1 connections",
        ));
    }
    // RFC 9113 §8.3.1, RFC 9114 §4.3.1: `:authority` or Host, and the same where there are both.
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (None, _) => None,
        (Some(host), None) => Some(host),
        (Some(_), Some(_)) => return Err(refuse(BAD, "at most one Host header is allowed")),
    };
    let host = host.map(|host| Authority::try_from(host.as_bytes()).ok());
    let authority = match (head.uri.authority().cloned(), host) {
        (_, Some(None)) => None,
        (authority, None) => authority,
        (None, Some(host)) => host,
        (Some(authority), Some(Some(host))) => {
            if !authority.as_str().eq_ignore_ascii_case(host.as_str()) {
                return Err(refuse(
                    BAD,
                    "the authority and the Host header name different hosts",
                ));
            }
            Some(authority)
        }
    };
    authority
        .filter(names_host)
        .ok_or(refuse(BAD, "the request names no host"))
}

/// Whether that is a host, perhaps with a port, and nothing else.
fn names_host(authority: &Authority) -> bool {
    let (all, host) = (authority.as_str(), authority.host());
    let is_alone = all.len() == host.len() || authority.port_u16().is_some();
    !host.is_empty() && !all.contains('@') && is_alone
}

/// The length of the target as it came, near enough: the parsed form keeps all its parts.
fn target_bytes(head: &Parts) -> usize {
    let origin = head
        .uri
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    let scheme = head.uri.scheme_str().map_or(0, |s| s.len() + 3);
    origin + scheme + head.uri.authority().map_or(0, |a| a.as_str().len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(method: &str, target: &str, headers: &[(&str, &str)]) -> Result<String, u16> {
        let mut request = http::Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        check(&head, 64, 4)
            .map(|authority| authority.to_string())
            .map_err(|refusal| refusal.status.as_u16())
    }

    #[test]
    fn heads_that_two_readers_may_read_differently_are_refused() {
        const H: (&str, &str) = ("host", "a.example");
        const TE: &str = "transfer-encoding";
        let long = format!("/{}", "a".repeat(64));
        type Row<'a> = (
            &'a str,
            &'a str,
            &'a [(&'a str, &'a str)],
            Result<&'a str, u16>,
        );
        let table: [Row<'_>; 24] = [
            ("GET", "/", &[H], Ok("a.example")),
            ("GET", "/", &[("host", "[::1]:3000")], Ok("[::1]:3000")),
            ("GET", "http://a.example/x", &[H], Ok("a.example")),
            ("GET", "http://A.Example/x", &[H], Ok("a.example")),
            ("GET", "http://b.example/x", &[H], Err(400)),
            ("GET", "http://a.example:80/x", &[H], Err(400)),
            ("GET", "/", &[], Err(400)),
            ("GET", "/", &[H, H], Err(400)),
            ("GET", "/", &[("host", "")], Err(400)),
            ("GET", "/", &[("host", "user@a.example")], Err(400)),
            ("GET", "/", &[("host", "a.example/x")], Err(400)),
            ("GET", "/", &[("host", "a.example:80")], Ok("a.example:80")),
            ("GET", "/", &[("host", "a.example:")], Err(400)),
            ("GET", "/", &[("host", "a.example:x")], Err(400)),
            ("GET", "/", &[("host", "a.example:99999")], Err(400)),
            ("GET", "a.example:80", &[("host", "a.example:80")], Err(400)),
            ("GET", "*", &[H], Err(400)),
            ("OPTIONS", "*", &[H], Ok("a.example")),
            ("POST", "/", &[H, (TE, "Chunked")], Ok("a.example")),
            ("POST", "/", &[H, (TE, "gzip, chunked")], Err(400)),
            (
                "POST",
                "/",
                &[H, (TE, "chunked"), (TE, "chunked")],
                Err(400),
            ),
            ("POST", "/", &[H, (TE, "chunked, chunked")], Err(400)),
            ("CONNECT", "a.example:443", &[H], Err(501)),
            ("GET", &long, &[H], Err(414)),
        ];
        for (method, target, headers, want) in table {
            let got = checked(method, target, headers);
            assert_eq!(
                got.as_deref().map_err(|s| *s),
                want,
                "{method} {target} {headers:?}"
            );
        }
    }
}
