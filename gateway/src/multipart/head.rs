//! What stands before a part: its name, its file name, how it is encoded (RFC 7578 §4.2, §4.7).

use crate::http::headers::{Parameters, parameter};

/// The head of one part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartHead {
    /// The field's name.
    pub name: String,
    /// The name that the file has at the client's; never a path for us.
    pub filename: Option<String>,
    /// Its media type, as it was written.
    pub content_type: Option<String>,
    /// How its bytes are written.
    pub encoding: Encoding,
}

/// How a part's bytes are written (RFC 2045 §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As they are.
    Identity,
    /// As base64 text.
    Base64,
}

/// The rule that a head breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// A line without a colon, or with an empty name.
    #[error("the head of a part has a line that is no header")]
    Line,
    /// No usable `Content-Disposition`.
    #[error("each part needs Content-Disposition: form-data with a name")]
    NoName,
    /// An encoding that is not read.
    #[error("Content-Transfer-Encoding must be binary, 7bit, 8bit or base64")]
    Encoding,
}

impl PartHead {
    /// Reads the lines of a head, each with its line end, without the empty line.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn parse(head: &[u8]) -> Result<Self, HeadError> {
        // RFC 7578 §5.1: names are UTF-8 in practice; what is none must not fail an upload.
        let text = String::from_utf8_lossy(head);
        let mut parsed = Self {
            name: String::new(),
            filename: None,
            content_type: None,
            encoding: Encoding::Identity,
        };
        let mut named = false;
        for line in unfold(&text) {
            let (name, value) = line.split_once(':').ok_or(HeadError::Line)?;
            let value = value.trim();
            match name.trim().to_ascii_lowercase().as_str() {
                "" => return Err(HeadError::Line),
                "content-disposition" => {
                    let mut parts = Parameters(value);
                    let kind = parts.first().unwrap_or_default();
                    let parameters: Vec<_> = parts.collect();
                    let name = parameter(&parameters, "name")
                        .filter(|_| kind.eq_ignore_ascii_case("form-data"))
                        .ok_or(HeadError::NoName)?;
                    name.clone_into(&mut parsed.name);
                    parsed.filename = parameter(&parameters, "filename*")
                        .and_then(extended)
                        .or_else(|| parameter(&parameters, "filename").map(str::to_owned));
                    named = true;
                }
                "content-type" => parsed.content_type = Some(value.to_owned()),
                "content-transfer-encoding" => {
                    parsed.encoding = match value.to_ascii_lowercase().as_str() {
                        "binary" | "7bit" | "8bit" => Encoding::Identity,
                        "base64" => Encoding::Base64,
                        _ => return Err(HeadError::Encoding),
                    };
                }
                _ => {}
            }
        }
        if named {
            Ok(parsed)
        } else {
            Err(HeadError::NoName)
        }
    }
}

/// Joins lines that begin with white space to the one before (RFC 5322 §2.2.3): mail libraries,
/// which some clients make forms with, fold long ones.
fn unfold(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in text.split("\r\n").filter(|line| !line.is_empty()) {
        match lines.last_mut() {
            Some(last) if line.starts_with([' ', '\t']) => last.push_str(line),
            _ => lines.push(line.to_owned()),
        }
    }
    lines
}

/// `UTF-8''na%C3%AFve` (RFC 8187 §3.2).
fn extended(value: &str) -> Option<String> {
    let mut parts = value.splitn(3, '\'');
    let charset = parts.next()?;
    let (_language, encoded) = (parts.next()?, parts.next()?);
    if !charset.eq_ignore_ascii_case("utf-8") {
        return None;
    }
    percent_encoding::percent_decode_str(encoded)
        .decode_utf8()
        .ok()
        .map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: &str) -> Result<PartHead, HeadError> {
        PartHead::parse(head.as_bytes())
    }

    #[test]
    fn the_heads_of_known_clients_are_read() {
        let curl = parse("Content-Disposition: form-data; name=\"file\"; filename=\"x.box\"\r\nContent-Type: application/octet-stream\r\n").unwrap();
        assert_eq!(curl.name, "file");
        assert_eq!(curl.filename.as_deref(), Some("x.box"));
        assert_eq!(
            curl.content_type.as_deref(),
            Some("application/octet-stream")
        );
        assert_eq!(curl.encoding, Encoding::Identity);

        let ansible = parse("Content-Type: application/octet-stream\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: base64\r\nContent-Disposition: form-data; name=\"file\";\r\n filename=\"x.box\"\r\n").unwrap();
        assert_eq!(ansible.filename.as_deref(), Some("x.box"));
        assert_eq!(ansible.encoding, Encoding::Base64);

        let bare = parse("content-disposition: Form-Data; name=checksum\r\n").unwrap();
        assert_eq!((bare.name.as_str(), bare.filename), ("checksum", None));
    }

    #[test]
    fn file_names_are_read_in_each_form() {
        let name = |text: &str| {
            parse(&format!(
                "Content-Disposition: form-data; name=\"file\"; {text}\r\n"
            ))
            .unwrap()
            .filename
        };
        assert_eq!(name("filename=a.box").as_deref(), Some("a.box"));
        assert_eq!(
            name("filename=\"a;b \\\"c\\\".box\"").as_deref(),
            Some("a;b \"c\".box")
        );
        assert_eq!(
            name("filename=\"C:\\dir\\a.box\"").as_deref(),
            Some("C:\\dir\\a.box")
        );
        assert_eq!(
            name("filename=\"_.box\"; filename*=utf-8'en'%c3%a4.box").as_deref(),
            Some("ä.box")
        );
        assert_eq!(
            name("filename=\"_.box\"; filename*=latin1''%e4.box").as_deref(),
            Some("_.box")
        );
        assert_eq!(name("filename=\"\"").as_deref(), Some(""));
    }

    #[test]
    fn heads_that_break_a_rule_name_it() {
        let disposition = "Content-Disposition: form-data; name=\"file\"\r\n";
        let table = [
            (String::new(), HeadError::NoName),
            ("Content-Type: a/b\r\n".into(), HeadError::NoName),
            (
                "Content-Disposition: form-data\r\n".into(),
                HeadError::NoName,
            ),
            (
                "Content-Disposition: attachment; name=\"file\"\r\n".into(),
                HeadError::NoName,
            ),
            (format!("{disposition}nonsense\r\n"), HeadError::Line),
            (format!("{disposition}: x\r\n"), HeadError::Line),
            (
                format!("{disposition}Content-Transfer-Encoding: quoted-printable\r\n"),
                HeadError::Encoding,
            ),
        ];
        for (head, error) in table {
            assert_eq!(parse(&head), Err(error), "{head:?}");
        }
    }
}
