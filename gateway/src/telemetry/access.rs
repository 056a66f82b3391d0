//! The line that each request leaves behind, with exactly these keys.
//!
//! It holds the route, never the path: paths may carry names that are nobody's business, queries
//! may carry secrets.

use std::net::IpAddr;
use std::time::Duration;

use super::log::JsonLine;

/// What a request came to.
#[derive(Debug, Clone, Copy)]
pub struct AccessLine<'a> {
    /// Names the request, as its error answer does.
    pub request_id: &'a str,
    /// Who asked, once that was known.
    pub principal: Option<&'a str>,
    /// From where.
    pub client_ip: IpAddr,
    /// The route as the route table spells it, once it was known.
    pub route: Option<&'a str>,
    /// The answer's status; 499 when the client left before there was one.
    pub status: u16,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// From the request's head to the end of the answer.
    pub duration: Duration,
    /// The upload that the request fed, if any.
    pub upload_id: Option<&'a str>,
    /// The plugins that had a part in the answer.
    pub plugins: &'a [String],
    /// The trace that the request belongs to, or would begin: then it has the request's own id.
    pub trace_id: &'a str,
}

/// The status of a request whose client left before the answer; no HTTP status, but what other
/// servers log too.
pub const CLIENT_LEFT: u16 = 499;

impl AccessLine<'_> {
    /// The line, without a line feed.
    pub fn to_json(&self) -> String {
        let mut line = JsonLine::new("INFO");
        line.text("request_id", self.request_id);
        line.optional("principal", self.principal);
        line.raw("client_ip", format_args!("\"{}\"", self.client_ip));
        line.optional("route", self.route);
        line.raw("status", self.status);
        line.raw("bytes_in", self.bytes_in);
        line.raw("bytes_out", self.bytes_out);
        let us = self.duration.as_micros();
        line.raw(
            "duration_ms",
            format_args!("{}.{:03}", us / 1000, us % 1000),
        );
        line.optional("upload_id", self.upload_id);
        // Names of plugins have nothing that JSON escapes.
        line.raw("plugins", format_args!("{:?}", self.plugins));
        line.text("trace_id", self.trace_id);
        line.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: AccessLine<'static> = AccessLine {
        request_id: "0123",
        principal: Some("al\u{7f}ice\n"),
        client_ip: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        route: None,
        status: 200,
        bytes_in: 5,
        bytes_out: 7,
        duration: Duration::from_micros(1500),
        upload_id: None,
        plugins: &[],
        trace_id: "0123",
    };

    #[test]
    fn the_line_has_exactly_the_fixed_keys_in_their_order() {
        let parsed: serde_json::Value = serde_json::from_str(&LINE.to_json()).unwrap();
        let keys: Vec<&String> = parsed.as_object().unwrap().keys().collect();
        assert_eq!(
            keys,
            [
                "time",
                "level",
                "request_id",
                "principal",
                "client_ip",
                "route",
                "status",
                "bytes_in",
                "bytes_out",
                "duration_ms",
                "upload_id",
                "plugins",
                "trace_id",
            ]
        );
    }

    #[test]
    fn values_are_typed_and_control_characters_escaped() {
        let text = LINE.to_json();
        assert!(text.contains(r#""principal":"al\u007fice\n","client_ip":"127.0.0.1","route":null,"status":200,"bytes_in":5,"bytes_out":7,"duration_ms":1.500,"upload_id":null,"plugins":[],"trace_id":"0123"}"#), "{text}");
    }

    #[test]
    fn plugins_are_a_list_of_names() {
        let plugins = ["acme".to_owned(), "edge-cache".to_owned()];
        let line = AccessLine {
            plugins: &plugins,
            ..LINE
        };
        let parsed: serde_json::Value = serde_json::from_str(&line.to_json()).unwrap();
        assert_eq!(parsed["plugins"], serde_json::json!(["acme", "edge-cache"]));
    }
}
