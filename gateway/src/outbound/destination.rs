//! A URL that a request may be sent to, by the look of it: what its name leads to is seen at each connection.

use std::fmt;

use http::Uri;
use url::{Host, Url};

/// Names at which clouds tell their machines secrets, wherever they lead to.
const METADATA_NAMES: &[&str] = &[
    "instance-data",
    "instance-data.ec2.internal",
    "metadata",
    "metadata.azure.internal",
    "metadata.google.internal",
    "metadata.goog",
    "metadata.packet.net",
    "metadata.platformequinix.com",
    "metadata.tencentyun.com",
];
/// Longest URL, in bytes.
const LONGEST: usize = 2_048;

/// An http or https URL without anything that two readers read differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    url: Url,
}

/// The rule that a URL breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// Too long, unprintable, or no URL.
    #[error(
        "it is no URL of at most 2048 printable ASCII characters (its host's name may hold others)"
    )]
    Unreadable,
    /// Another scheme.
    #[error("its scheme must be https, or http where the network is opened")]
    Scheme,
    /// `user:password@`.
    #[error("it must hold no user and no password")]
    UserInfo,
    /// `#...`
    #[error("it must hold no fragment")]
    Fragment,
    /// The host is written in an odd way.
    #[error("its host must be a plain name or an address in its usual form")]
    Host,
    /// A name that leads to secrets of a cloud.
    #[error("its host is where a cloud tells its machines secrets")]
    Metadata,
    /// A port that other protocols use.
    #[error("its port must be 443 (http: 80) or 1024 and above")]
    Port,
}

impl Destination {
    /// Reads a URL.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn parse(text: &str) -> Result<Self, BadUrl> {
        // The reader of URLs is forgiving: it drops tabs, turns backslashes and takes 2130706433 for an address.
        // Here what it understood must stand in the text.
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
        let printable = |text: &str| {
            text.chars()
                .all(|c| plain(c.encode_utf8(&mut [0; 4])) || !c.is_ascii())
        };
        if text.len() > LONGEST || !printable(text) {
            return Err(BadUrl::Unreadable);
        }
        let url = Url::parse(text).map_err(|_malformed| BadUrl::Unreadable)?;
        let usual = match url.scheme() {
            "https" => 443,
            "http" => 80,
            _ => return Err(BadUrl::Scheme),
        };
        let written = text
            .get(url.scheme().len()..)
            .and_then(|rest| rest.strip_prefix("://"));
        let authority = written.and_then(|rest| rest.split(['/', '?', '#']).next());
        let authority = authority.ok_or(BadUrl::Unreadable)?;
        if authority.contains('@') {
            return Err(BadUrl::UserInfo);
        }
        if url.fragment().is_some() {
            return Err(BadUrl::Fragment);
        }
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            _ => authority,
        };
        // Only a host's name may be of any script.
        let elsewhere = text
            .split_once(host)
            .is_none_or(|(before, after)| !plain(before) || !plain(after));
        if elsewhere {
            return Err(BadUrl::Unreadable);
        }
        Self::check_host(&url, host)?;
        match url.port_or_known_default() {
            Some(port) if port == usual || port >= 1024 => Ok(Self { url }),
            _ => Err(BadUrl::Port),
        }
    }

    fn check_host(url: &Url, written: &str) -> Result<(), BadUrl> {
        let same = |canonical: &str| written.eq_ignore_ascii_case(canonical);
        match url.host() {
            Some(Host::Ipv4(v4)) if same(&v4.to_string()) => Ok(()),
            Some(Host::Ipv6(v6)) => {
                let inner = written.strip_prefix('[').and_then(|w| w.strip_suffix(']'));
                let fine = inner.and_then(|inner| inner.parse().ok()) == Some(v6);
                if fine { Ok(()) } else { Err(BadUrl::Host) }
            }
            // An escaped or shortened name reads otherwise than it is written.
            Some(Host::Domain(name)) if is_spelled(name, written) && is_name(name) => {
                if METADATA_NAMES.contains(&name) {
                    return Err(BadUrl::Metadata);
                }
                Ok(())
            }
            _ => Err(BadUrl::Host),
        }
    }

    /// Whether the request and its answer travel in the open.
    pub fn is_plain(&self) -> bool {
        self.url.scheme() == "http"
    }

    /// The host, as logs tell it.
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// Scheme, host and port.
    pub fn origin(&self) -> (&str, &str, u16) {
        let port = self.url.port_or_known_default().unwrap_or_default();
        (self.url.scheme(), self.host(), port)
    }

    /// The URL.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Where a `Location` leads from here.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn join(&self, location: &str) -> Result<Self, BadUrl> {
        let joined = self
            .url
            .join(location)
            .map_err(|_malformed| BadUrl::Unreadable)?;
        // An absolute one is held to the same rules as it is written.
        if location.contains("://") || location.starts_with("//") {
            let absolute = match location.strip_prefix("//") {
                Some(rest) => format!("{}://{rest}", self.url.scheme()),
                None => location.to_owned(),
            };
            let absolute = absolute.split('#').next().unwrap_or_default();
            return Self::parse(absolute);
        }
        let mut joined = joined;
        joined.set_fragment(None);
        Self::parse(joined.as_str())
    }

    pub(super) fn uri(&self) -> Option<Uri> {
        self.url.as_str().parse().ok()
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A query may hold a key.
        let (scheme, host, port) = self.origin();
        write!(f, "{scheme}://{host}:{port}{}", self.url.path())
    }
}

/// Whether the reader of URLs took a name as it is written, but for labels of other scripts, which it writes in ASCII
/// (RFC 5891 §4.4). What it takes for letters of ASCII is none.
fn is_spelled(name: &str, written: &str) -> bool {
    name.split('.').count() == written.split('.').count()
        && name
            .split('.')
            .zip(written.split('.'))
            .all(|(label, text)| {
                if text.is_ascii() {
                    label.eq_ignore_ascii_case(text)
                } else {
                    label.starts_with("xn--")
                }
            })
}

/// RFC 1123 §2.1, with `_`, and not all digits at its end: no reader takes it for an address.
fn is_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= 253 && name.split('.').all(label) && last.bytes().any(|b| b.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_urls_are_read() {
        for text in [
            "https://hooks.example.net/a?b=c",
            "https://hooks.example.net:8443/",
            "http://10.0.0.1/purge",
            "http://[::1]:8080/x",
            "HTTPS://Hooks.Example.NET",
            "https://xn--bcher-kva.example/",
            "https://[2001:DB8::1]/",
        ] {
            assert!(Destination::parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn urls_that_two_readers_read_differently_are_refused_by_rule() {
        let table = [
            ("ftp://a.example/", BadUrl::Scheme),
            ("file:///etc/passwd", BadUrl::Scheme),
            ("gopher://a.example/", BadUrl::Scheme),
            ("https:a.example", BadUrl::Unreadable),
            ("https:/a.example", BadUrl::Unreadable),
            ("https:\\\\a.example", BadUrl::Unreadable),
            ("https://a.example\\@b.example/", BadUrl::Unreadable),
            ("https://a.exa\tmple/", BadUrl::Unreadable),
            (" https://a.example/", BadUrl::Unreadable),
            ("https://a.example/\u{e9}", BadUrl::Unreadable),
            ("https://b\u{fc}cher.example/?\u{e9}", BadUrl::Unreadable),
            ("https://\u{ff11}\u{ff12}\u{ff17}.0.0.1/", BadUrl::Host),
            ("https://\u{2170}.example/", BadUrl::Host),
            ("https://a\u{3002}example/", BadUrl::Host),
            ("https://b\u{fc}cher\u{ff0f}example/", BadUrl::Unreadable),
            ("https://b\u{fc}cher.example./", BadUrl::Host),
            (
                "https://met\u{430}data.google.internal\u{ff20}b/",
                BadUrl::Unreadable,
            ),
            ("https://", BadUrl::Unreadable),
            ("//a.example/", BadUrl::Unreadable),
            ("https://u@a.example/", BadUrl::UserInfo),
            ("https://u:p@a.example/", BadUrl::UserInfo),
            ("https://@a.example/", BadUrl::UserInfo),
            ("https://a.example#@b.example/", BadUrl::Fragment),
            ("https://a.example/#x", BadUrl::Fragment),
            ("https://2130706433/", BadUrl::Host),
            ("https://0x7f.1/", BadUrl::Host),
            ("https://0x7f000001/", BadUrl::Host),
            ("https://017700000001/", BadUrl::Host),
            ("https://127.1/", BadUrl::Host),
            ("https://127.0.0.1./", BadUrl::Host),
            ("https://0177.0.0.1/", BadUrl::Host),
            ("https://127.000.000.001/", BadUrl::Host),
            ("https://a.example./", BadUrl::Host),
            ("https://a..example/", BadUrl::Host),
            ("https://%61.example/", BadUrl::Host),
            ("https://-a.example/", BadUrl::Host),
            ("https://metadata.google.internal/", BadUrl::Metadata),
            ("http://METADATA/computeMetadata/v1/", BadUrl::Metadata),
            ("https://a.example:22/", BadUrl::Port),
            ("https://a.example:80/", BadUrl::Port),
            ("http://a.example:443/", BadUrl::Port),
            ("http://a.example:25/", BadUrl::Port),
            ("https://a.example:0/", BadUrl::Port),
            ("https://a.example:99999/", BadUrl::Unreadable),
            ("https://[::1%25eth0]/", BadUrl::Unreadable),
            ("https://[::1/", BadUrl::Unreadable),
        ];
        for (text, rule) in table {
            assert_eq!(Destination::parse(text), Err(rule), "{text}");
        }
        let long = format!("https://a.example/{}", "x".repeat(LONGEST));
        assert_eq!(Destination::parse(&long), Err(BadUrl::Unreadable));
    }

    #[test]
    fn a_name_of_another_script_is_asked_for_in_ascii() {
        for (written, host) in [
            ("https://b\u{fc}cher.example/x", "xn--bcher-kva.example"),
            ("https://B\u{dc}CHER.example:8443/", "xn--bcher-kva.example"),
            (
                "https://\u{4f8b}\u{3048}.\u{30c6}\u{30b9}\u{30c8}/",
                "xn--r8jz45g.xn--zckzah",
            ),
        ] {
            let read = Destination::parse(written).unwrap();
            assert_eq!(read.host(), host, "{written}");
            assert!(read.url().as_str().is_ascii(), "{written}");
        }
    }

    #[test]
    fn location_is_held_to_the_same_rules() {
        let here = Destination::parse("https://a.example/x/y?z").unwrap();
        assert_eq!(
            here.join("../w#f").unwrap().url().as_str(),
            "https://a.example/w"
        );
        let there = here.join("//b.example/v").unwrap();
        assert_eq!(there.origin(), ("https", "b.example", 443));
        assert_eq!(here.join("http://0x7f.1/"), Err(BadUrl::Host));
        assert_eq!(here.join("//u@b.example/"), Err(BadUrl::UserInfo));
        assert_eq!(here.join("javascript:x"), Err(BadUrl::Scheme));
    }

    #[test]
    fn what_is_logged_leaves_the_query_out() {
        let here = Destination::parse("https://a.example/x?key=secret").unwrap();
        assert_eq!(here.to_string(), "https://a.example:443/x");
    }
}
