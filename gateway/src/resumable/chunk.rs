//! BoxVault's chunks: `x-chunk-index` of `x-total-chunks`, with the checksum of the whole file on each.
//!
//! There is no upload id: whoever sends, the name, the number of chunks and the checksum tell which
//! upload a chunk belongs to. Where a chunk lies follows from its length, so all but the last have one.

use std::time::Duration;

use boxgate_storage::digest::Digest;
use boxgate_storage::upload::MOST_PIECES;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::digest;
use super::ietf::UPLOAD_COMPLETE;
use crate::http::headers::{UPLOAD_OFFSET, content_length, single};
use crate::multipart;
use crate::refusal::Refusal;

/// Which of the chunks it is.
pub const INDEX: http::HeaderName = http::HeaderName::from_static("x-chunk-index");
const TOTAL: http::HeaderName = http::HeaderName::from_static("x-total-chunks");

/// One chunk of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Which one, from 0.
    pub index: u32,
    /// How many there are.
    pub total: u32,
    /// Its length in bytes, where the head tells.
    pub length: Option<u64>,
    /// Digests of the whole file; the first is one of those that its upload is known by.
    pub whole: Vec<Digest>,
    /// Digest of this chunk alone.
    pub checksum: Option<Digest>,
}

impl Chunk {
    /// Whether a request speaks of chunks at all.
    pub fn is_in(headers: &HeaderMap) -> bool {
        headers.contains_key(INDEX) || headers.contains_key(TOTAL)
    }

    /// The chunk that a request carries.
    ///
    /// # Errors
    /// 400 with the rule that is broken.
    pub fn parse(headers: &HeaderMap, whole: Vec<Digest>) -> Result<Self, Refusal> {
        let index = number(headers, &INDEX)?;
        let total = number(headers, &TOTAL)?;
        let (Some(index), Some(total)) = (index, total) else {
            return Err(invalid(
                "x-chunk-index and x-total-chunks come together: which chunk of how many.",
            ));
        };
        if !(1..=MOST_PIECES).contains(&total) {
            return Err(invalid(format!(
                "x-total-chunks must be 1 to {MOST_PIECES}; cut the file into larger chunks."
            )));
        }
        if index >= total {
            return Err(invalid(format!(
                "x-chunk-index must be 0 to {}, for {total} chunks.",
                total - 1
            )));
        }
        if multipart::is_form(headers) {
            return Err(invalid("A chunk is bare bytes, not a form."));
        }
        if headers.contains_key(http::header::CONTENT_RANGE) {
            return Err(invalid(
                "A chunk has its place by its index; leave Content-Range out.",
            ));
        }
        if headers.contains_key(UPLOAD_COMPLETE) || headers.contains_key(UPLOAD_OFFSET) {
            return Err(invalid(
                "A chunk has its place by its index; leave Upload-Complete and Upload-Offset out.",
            ));
        }
        let length = content_length(headers);
        if length.is_none() && !headers.contains_key(http::header::TRANSFER_ENCODING) {
            return Err(invalid(
                "A chunk needs Content-Length or Transfer-Encoding: chunked.",
            ));
        }
        if length == Some(0) {
            return Err(invalid("The chunk is empty."));
        }
        Ok(Self {
            index,
            total,
            length,
            whole,
            checksum: digest::content_digest(headers)?,
        })
    }

    /// What the upload's row is found by, beside sender and name.
    pub fn note(&self) -> String {
        let Self { total, whole, .. } = self;
        match whole.first() {
            Some(digest) => {
                let (name, hex) = (digest.algorithm().name(), digest.to_hex());
                format!("{PREFIX}{total} {name}:{hex}")
            }
            None => format!("{PREFIX}{total}"),
        }
    }

    /// Bytes of each chunk but the last, if this is one of those.
    pub fn size(&self) -> Option<u64> {
        self.length.filter(|_| self.index + 1 < self.total)
    }

    /// What BoxVault answers while chunks are missing.
    pub fn stored(&self, held: u32) -> Value {
        json!({
            "message": "Chunk upload completed",
            "details": {
                "isComplete": false, "status": "uploading", "chunksReceived": held,
                "totalChunks": self.total, "currentChunk": self.index,
            },
        })
    }
}

/// Whether a note is one of [`Chunk::note`]; then what it tells of the checksum, as `algorithm:hex`.
pub fn told_by(note: &str) -> Option<Option<&str>> {
    let rest = note.strip_prefix(PREFIX)?;
    Some(rest.split_once(' ').map(|(_, digest)| digest))
}

/// Answers bytes that come by an offset to what comes in chunks: their numbers would fit no more.
pub fn goes_on_by_number(committed: u64) -> Refusal {
    Refusal::new(
        StatusCode::CONFLICT,
        "This upload comes in chunks; send those that are missing to the box's own URL, by their numbers \
         (x-chunk-index). Nothing of the body was taken.",
    )
    .code("COMES_IN_CHUNKS")
    .header(UPLOAD_OFFSET, HeaderValue::from(committed))
    .closing()
}

/// Answers other bytes than are held under that index.
pub fn differs(index: u32) -> Refusal {
    Refusal::new(
        StatusCode::CONFLICT,
        format!(
            "Chunk {index} is held already, with other bytes. If the file changed, begin anew with \
             chunk 0 once this upload has rested for some minutes (uploads.chunk_idle)."
        ),
    )
    .code("CHUNK_DIFFERS")
}

/// Answers other bytes than the file has that just became of these chunks.
pub fn differs_from_published(index: u32) -> Refusal {
    Refusal::new(
        StatusCode::CONFLICT,
        format!(
            "Chunk {index} is not that of the file that was just published here. To publish another one, send its \
             chunk 0 first, or x-checksum with each, which tells them apart."
        ),
    )
    .code("CHUNK_DIFFERS")
}

/// Answers a chunk that may be of another file than those which rest under its name.
pub fn rests(idle: Duration) -> Refusal {
    let minutes = idle.as_secs_f64() / 60.0;
    Refusal::new(
        StatusCode::CONFLICT,
        format!(
            "Chunks of this name and number rest for more than {minutes:.0} minutes (uploads.chunk_idle), and \
             without x-checksum nothing tells that this one is of the same file. To go on, send one that is held \
             once more (GET lists them); to begin anew, send chunk 0 first."
        ),
    )
    .code("CHUNKS_REST")
    .closing()
}

fn number(headers: &HeaderMap, name: &http::HeaderName) -> Result<Option<u32>, Refusal> {
    let Some(text) = single(headers, name).map_err(invalid)? else {
        return Ok(None);
    };
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let value = digits.then(|| text.parse().ok()).flatten();
    value
        .map(Some)
        .ok_or_else(|| invalid(format!("{name} must be a plain number, not {text:?}.")))
}

fn invalid(rule: impl Into<String>) -> Refusal {
    Refusal::invalid(rule).closing()
}

const PREFIX: &str = "x-chunk ";

#[cfg(test)]
mod tests {
    use boxgate_storage::digest::Algorithm;

    use super::*;

    fn read(lines: &[(&'static str, &str)]) -> Result<Chunk, u16> {
        let headers = lines
            .iter()
            .map(|(n, v)| (http::HeaderName::from_static(n), v.parse().unwrap()))
            .collect();
        Chunk::parse(&headers, Vec::new()).map_err(|refusal| refusal.status.as_u16())
    }

    #[test]
    fn both_numbers_are_needed_and_must_fit_each_other() {
        let of = |index: &str, total: &str| {
            let lines = [
                ("x-chunk-index", index),
                ("x-total-chunks", total),
                ("content-length", "5"),
            ];
            read(&lines).map(|chunk| (chunk.index, chunk.total, chunk.size()))
        };
        assert_eq!(of("0", "3"), Ok((0, 3, Some(5))));
        assert_eq!(of("2", "3"), Ok((2, 3, None)));
        for (index, total) in [
            ("3", "3"),
            ("0", "0"),
            ("-1", "3"),
            ("", "3"),
            ("1e1", "30"),
            ("0", "65537"),
            ("0", "99999999999"),
        ] {
            assert_eq!(of(index, total), Err(400), "{index} of {total}");
        }
        for lines in [
            &[("x-chunk-index", "0"), ("content-length", "5")][..],
            &[("x-total-chunks", "1"), ("content-length", "5")],
            &[("x-chunk-index", "0"), ("x-total-chunks", "1")],
            &[
                ("x-chunk-index", "0"),
                ("x-total-chunks", "1"),
                ("content-length", "0"),
            ],
            &[
                ("x-chunk-index", "0"),
                ("x-total-chunks", "1"),
                ("content-length", "5"),
                ("content-range", "bytes 0-4/9"),
            ],
            &[
                ("x-chunk-index", "0"),
                ("x-total-chunks", "1"),
                ("content-length", "5"),
                ("content-type", "multipart/form-data; boundary=x"),
            ],
        ] {
            assert_eq!(read(lines), Err(400), "{lines:?}");
        }
    }

    #[test]
    fn what_a_session_is_found_by_tells_its_checksum() {
        let mut chunk = Chunk {
            index: 1,
            total: 3,
            length: Some(5),
            whole: Vec::new(),
            checksum: None,
        };
        assert_eq!(told_by(&chunk.note()), Some(None));
        let value = "ab".repeat(32);
        chunk.whole = vec![Digest::from_hex(Algorithm::Sha256, &value).unwrap()];
        let note = chunk.note();
        assert_eq!(told_by(&note), Some(Some(&*format!("sha256:{value}"))));
        chunk.total = 4;
        assert_ne!(chunk.note(), note);
        assert_eq!(told_by("filename d2Vi"), None);
    }
}
