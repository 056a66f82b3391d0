//! `Upload-Concat`: uploads that are pieces of others, and uploads that are joined of pieces (tus 1.0,
//! "Concatenation").

use super::super::command::Concat;

/// Reads the header's value.
///
/// # Errors
/// The rule that it breaks.
pub(super) fn parse(text: &str) -> Result<Concat, &'static str> {
    if text == PARTIAL {
        return Ok(Concat::Partial);
    }
    let urls = text
        .strip_prefix(FINAL)
        .ok_or("Upload-Concat must be partial, or final; and the URLs of its pieces.")?;
    let urls: Vec<_> = urls.split_ascii_whitespace().map(str::to_owned).collect();
    if urls.is_empty() {
        return Err("Upload-Concat: final; needs the URLs of its pieces.");
    }
    Ok(Concat::Final(urls))
}

/// The name of the upload that a URL leads to, as this server tells it; `None` for any other URL.
///
/// `own` are the authorities that this server is known by, `prefix` is what stands before `/files`.
pub fn upload_named_by<'u>(url: &'u str, own: &[&str], prefix: &str) -> Option<&'u str> {
    let path = match url.split_once("://") {
        None => url,
        Some((scheme, rest)) => {
            let port = default_port(scheme)?;
            let (authority, path) = rest.split_at(rest.find('/')?);
            let authority = without(authority, port);
            let is_own = |own: &&str| without(own, port).eq_ignore_ascii_case(authority);
            own.iter().any(is_own).then_some(path)?
        }
    };
    let id = match path.strip_prefix('/') {
        Some(_) => path.strip_prefix(prefix)?.strip_prefix("/files/")?,
        // RFC 3986 §5.2.3: it stands beside the URL that the upload is made at.
        None => path
            .strip_prefix("./")
            .unwrap_or(path)
            .strip_prefix("files/")?,
    };
    (!id.is_empty() && !id.contains('/')).then_some(id)
}

fn default_port(scheme: &str) -> Option<&'static str> {
    [("http", ":80"), ("https", ":443")]
        .into_iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(scheme))
        .map(|(_, port)| port)
}

fn without<'a>(authority: &'a str, port: &str) -> &'a str {
    authority.strip_suffix(port).unwrap_or(authority)
}

/// What HEAD tells again as it came, and who asked for a join. An upload's row keeps it as one text: the
/// metadata, what the upload is to others, and the credential, each on a line of its own, which no
/// header's value can hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Note<'a> {
    pub(super) metadata: Option<&'a str>,
    pub(super) concat: Option<&'a str>,
    by: Option<[u8; 32]>,
}

impl<'a> Note<'a> {
    /// From the text of a row.
    pub(super) fn read(text: Option<&'a str>) -> Self {
        let mut lines = text.unwrap_or_default().split('\n');
        let metadata = lines.next();
        let concat = lines.next();
        let mut by = [0; 32];
        let told = lines.next().map(|hex| hex::decode_to_slice(hex, &mut by));
        Self {
            metadata: metadata.filter(|text| !text.is_empty()),
            concat,
            by: matches!(told, Some(Ok(()))).then_some(by),
        }
    }

    /// From what a request tells.
    pub(super) fn of(metadata: Option<&'a str>, concat: Option<&'a str>) -> Self {
        Self {
            metadata,
            concat,
            by: None,
        }
    }

    /// As the row keeps it.
    pub(super) fn text(self) -> Option<String> {
        let metadata = self.metadata.unwrap_or_default();
        match (self.concat, self.by) {
            (Some(concat), Some(by)) => Some(format!("{metadata}\n{concat}\n{}", hex::encode(by))),
            (Some(concat), None) => Some(format!("{metadata}\n{concat}")),
            (None, _) => (!metadata.is_empty()).then(|| metadata.to_owned()),
        }
    }

    /// Whether the upload is joined of others.
    pub(super) fn is_final(self) -> bool {
        self.concat.is_some_and(|text| text.starts_with(FINAL))
    }
}

/// Whether an upload with that note is a piece of others.
pub fn is_partial(note: Option<&str>) -> bool {
    Note::read(note).concat == Some(PARTIAL)
}

/// The note of an upload that is joined of others, with the hash of the credential that asked for it.
pub fn asked_by(note: Option<&str>, credential: [u8; 32]) -> Option<String> {
    let by = Some(credential);
    let note = Note::read(note);
    Note { by, ..note }.text()
}

/// The hash of the credential that asked for a join.
pub fn asking_credential(note: Option<&str>) -> Option<[u8; 32]> {
    Note::read(note).by
}

const PARTIAL: &str = "partial";
const FINAL: &str = "final;";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_upload_is_a_piece_or_joined_of_a_list_in_its_order() {
        assert_eq!(parse("partial"), Ok(Concat::Partial));
        let list = |text: &str| match parse(text) {
            Ok(Concat::Final(urls)) => urls,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(
            list("final;/files/a /files/b /files/a"),
            ["/files/a", "/files/b", "/files/a"]
        );
        assert_eq!(
            list("final; http://h/files/a  b"),
            ["http://h/files/a", "b"]
        );
        for wrong in [
            "", "Partial", "partial;", "final", "final;", "final; ", "whole", "final /a",
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_url_of_this_server_names_an_upload_and_no_other_does() {
        let named =
            |url, prefix| upload_named_by(url, &["Gate.example:3000", "cdn.example"], prefix);
        for (url, prefix, expected) in [
            ("/files/ab", "", Some("ab")),
            ("files/ab", "", Some("ab")),
            ("./files/ab", "/up", Some("ab")),
            ("/up/files/ab", "/up", Some("ab")),
            ("http://gate.example:3000/files/ab", "", Some("ab")),
            ("https://CDN.example:443/files/ab", "", Some("ab")),
            ("http://cdn.example/files/ab", "", Some("ab")),
            ("/files/ab", "/up", None),
            ("/files/ab/parts/1", "", None),
            ("/files/", "", None),
            ("/files/ab?x=1", "", Some("ab?x=1")),
            ("ab", "", None),
            ("//gate.example:3000/files/ab", "", None),
            ("http://gate.example/files/ab", "", None),
            ("http://other.example/files/ab", "", None),
            ("http://cdn.example:443/files/ab", "", None),
            ("http://user@cdn.example/files/ab", "", None),
            ("ftp://cdn.example/files/ab", "", None),
            ("http://cdn.example", "", None),
            ("", "", None),
        ] {
            assert_eq!(named(url, prefix), expected, "{url} below {prefix:?}");
        }
    }

    #[test]
    fn what_was_kept_by_one_that_knew_no_pieces_reads_as_metadata() {
        let note = Note::read(Some("filename eA=="));
        assert_eq!((note.metadata, note.concat), (Some("filename eA=="), None));
        assert_eq!(Note::read(None), Note::default());
        assert!(is_partial(Some("\npartial")) && !is_partial(Some("partial")));
        assert!(Note::read(Some("a\nfinal;/files/x")).is_final());
    }

    proptest! {
        #[test]
        fn a_note_reads_as_it_was_written(
            metadata in prop::option::of("[ -~]{1,20}"),
            concat in prop::option::of("[ -~]{0,20}"),
        ) {
            let note = Note::of(metadata.as_deref(), concat.as_deref());
            let text = note.text();
            prop_assert_eq!(Note::read(text.as_deref()), note);
            prop_assert_eq!(asking_credential(text.as_deref()), None);
            let asked = asked_by(text.as_deref(), [7; 32]);
            let by = concat.is_some().then_some([7; 32]);
            prop_assert_eq!(Note::read(asked.as_deref()), Note { by, ..note });
        }

        #[test]
        fn no_text_breaks_the_reader(text in "[ -~]{0,60}") {
            let _any = (parse(&text), upload_named_by(&text, &["h"], "/p"));
        }
    }
}
