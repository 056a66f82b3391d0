//! The route table as a page: no script, no picture, nothing from another host.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use crate::http::html::escaped;
use crate::route::{Door, Row};

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}\
h2{margin:2rem 0 .25rem}table{border-collapse:collapse;width:100%}\
td{border-top:1px solid #8884;padding:.3rem .6rem .3rem 0;vertical-align:top}\
td:first-child{font-weight:600;white-space:nowrap}code{overflow-wrap:anywhere}.who{opacity:.7}\
@media(prefers-color-scheme:dark){body{background:#111;color:#eee}a{color:#8cf}}";

/// What a browser may do with it: show it, in its own style.
pub(super) fn policy() -> String {
    let style = STANDARD.encode(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

pub(super) fn page(rows: &[(String, &'static Row)]) -> String {
    let mut doors: Vec<Door> = Vec::new();
    for (_, row) in rows {
        if !doors.contains(&row.door) {
            doors.push(row.door);
        }
    }
    let version = env!("CARGO_PKG_VERSION");
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>boxgate: what there is</title>\
         <style>{STYLE}</style></head>\n<body>\n<h1>boxgate {version}</h1>\n\
         <p>All that this listener answers, by door. For machines: <a href=\"openapi.json\">openapi.json</a>.</p>\n<p>"
    );
    for door in &doors {
        let name = door.name();
        let _infallible = write!(page, "<a href=\"#{name}\">{name}</a> ");
    }
    page.push_str("</p>\n");
    for door in doors {
        let (name, about) = (door.name(), escaped(door.about()));
        let _infallible = writeln!(
            page,
            "<h2 id=\"{name}\">{name}</h2>\n<p>{about}</p>\n<table>"
        );
        for (path, row) in rows.iter().filter(|(_, row)| row.door == door) {
            let _infallible = writeln!(
                page,
                "<tr><td>{}</td><td><code>{}</code></td><td>{}<br><span class=\"who\">For {}.</span></td></tr>",
                row.method,
                escaped(path),
                escaped(row.doc),
                escaped(row.policy.who(door)),
            );
        }
        page.push_str("</table>\n");
    }
    page.push_str("</body>\n</html>\n");
    page
}
