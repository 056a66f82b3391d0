//! Where a box is dropped to be published. The bytes go to the door of resumable uploads, by a script of ours.

use askama::Template;

use super::form::{Field, Form, Kind};
use super::{Answer, Visit, page};
use crate::call::Call;
use crate::gateway::Gateway;

#[derive(Template)]
#[template(path = "upload.html")]
struct UploadPage<'a> {
    title: &'a str,
    visit: &'a Visit,
    organization: &'a str,
    /// Where uploads are sent; `None` while that door is shut here.
    files: Option<String>,
    fields: Vec<Field>,
    chunk_bytes: u64,
}

/// Most bytes of one request: behind some proxies a longer one never arrives.
const CHUNK: u64 = 64 << 20;

/// `GET /-/upload/{org}?box&version&provider&architecture`.
pub fn show(gateway: &Gateway, call: &Call) -> Answer {
    let asked = Form::of_query(call);
    let or = |name: &str, default: &str| match asked.text(name) {
        "" => default.to_owned(),
        text => text.to_owned(),
    };
    let door = &gateway.settings.doors.files;
    let most = gateway.settings.uploads.max_append_bytes;
    let visit = Visit::by(gateway, call);
    page(&UploadPage {
        title: "Upload a box",
        visit: &visit,
        organization: call.organization()?.name.as_str(),
        files: visit.has_files.then(|| format!("{}/files", door.prefix)),
        fields: vec![
            Field::new(Kind::Line, "box", "Box")
                .value(or("box", ""))
                .required(),
            Field::new(Kind::Line, "version", "Version")
                .hint("Numbers with dots, such as 1.2.3.")
                .value(or("version", ""))
                .required(),
            Field::new(Kind::Line, "provider", "Provider")
                .value(or("provider", "virtualbox"))
                .required(),
            Field::new(Kind::Line, "architecture", "Architecture")
                .value(or("architecture", "amd64"))
                .required(),
        ],
        chunk_bytes: most.map_or(CHUNK, |most| most.min(CHUNK)),
    })
}
