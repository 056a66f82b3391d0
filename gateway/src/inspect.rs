//! Looks into a box while it comes in: for its `metadata.json`, by the names in its archive.
//!
//! A plain tar is read by its headers, whose members are skipped; one in gzip as far as a number of inflated bytes.
//! Other archives (zip, xz) are known by their first bytes and not looked into; what is none is told. Nothing is kept but
//! one header and the document, and nothing is read twice: the bytes are those on their way to the store.

use std::io::Write as _;

use boxgate_storage::Result as Stored;
use boxgate_storage::upload::UploadWriter;
use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use serde::Deserialize;
use tokio::task::yield_now;

use crate::ingest::TakeBytes;

/// A record of tar, which all its lengths are multiples of.
const RECORD: usize = 512;
/// First bytes that tell archives apart.
const MAGIC: usize = 6;
/// Longest `metadata.json`.
const MOST_METADATA: u64 = 64 << 10;
/// What one inspection holds: a record, the document, and what inflates.
pub const MEMORY_BYTES: u64 = 192 << 10;

/// What a box is for, by the name it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meant {
    /// Name of its provider.
    pub provider: String,
    /// Name of its architecture, where it has one.
    pub architecture: Option<String>,
    /// Whether a box that is not meant for it is refused.
    pub refuse: bool,
    /// Most inflated bytes that are looked through.
    pub most_inflated: u64,
}

/// What a box says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Its `metadata.json`.
    Says(Metadata),
    /// It has none.
    Silent,
    /// Its archive or its `metadata.json` cannot be read.
    Broken(&'static str),
    /// It is no archive that Vagrant could unpack: an error page, perhaps.
    NoArchive,
    /// It is an archive that is not looked into here.
    Closed(&'static str),
    /// Nobody looked, or not far enough.
    Unknown,
}

/// A box's `metadata.json`, as far as it is of use here.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Metadata {
    /// Name of the provider that it runs on.
    pub provider: String,
    /// Name of its architecture.
    #[serde(default)]
    pub architecture: Option<String>,
}

/// Looks at bytes as they come.
#[derive(Debug)]
pub struct Inspector(State);

#[derive(Debug)]
enum State {
    /// What it is shows in the first bytes.
    Begin(Vec<u8>, u64),
    Tar(Scan),
    Gzip(Box<MultiGzDecoder<Scan>>),
    Done(Finding),
}

impl Inspector {
    /// Looks for what a box is meant for; at nothing, where that does not matter.
    pub fn of(meant: Option<&Meant>) -> Self {
        meant.map_or(Self(State::Done(Finding::Unknown)), |meant| {
            Self::new(meant.most_inflated)
        })
    }

    /// Looks through at most so many inflated bytes.
    pub fn new(most_inflated: u64) -> Self {
        Self(State::Begin(Vec::new(), most_inflated))
    }

    /// Whether it has seen enough.
    pub fn is_done(&self) -> bool {
        matches!(self.0, State::Done(_))
    }

    /// Looks at some of `bytes`, and returns at how many: at all, unless they inflate to much.
    pub fn step(&mut self, bytes: &[u8]) -> usize {
        let (looked_at, finding) = match &mut self.0 {
            State::Done(_) => return bytes.len(),
            State::Begin(head, most) => {
                let most = *most;
                let taken = bytes.len().min(MAGIC - head.len());
                head.extend_from_slice(&bytes[..taken]);
                if head.len() < MAGIC {
                    return taken;
                }
                let head = std::mem::take(head);
                if let Some(kind) = closed(&head) {
                    self.0 = State::Done(Finding::Closed(kind));
                    return taken;
                }
                if head.starts_with(&[0x1f, 0x8b]) {
                    self.0 = State::Gzip(Box::new(MultiGzDecoder::new(Scan::new(most))));
                } else {
                    self.0 = State::Tar(Scan::new(u64::MAX));
                }
                // Both take so few bytes whole.
                self.step(&head);
                return taken;
            }
            State::Tar(scan) => {
                scan.look(bytes);
                (bytes.len(), scan.finding.take())
            }
            State::Gzip(inflating) => match inflating.write(bytes) {
                Ok(taken) => {
                    let enough = taken == 0 && !bytes.is_empty();
                    let found = inflating.get_mut().finding.take();
                    (taken, found.or(enough.then_some(Finding::Unknown)))
                }
                Err(_bad) => (bytes.len(), Some(Finding::Broken("its gzip is damaged"))),
            },
        };
        if let Some(finding) = finding {
            self.0 = State::Done(finding);
        }
        looked_at
    }

    /// What there was to see, once no byte follows.
    pub fn finish(self) -> Finding {
        match self.0 {
            State::Done(finding) => finding,
            State::Begin(..) => Finding::NoArchive,
            State::Tar(scan) => scan.finish(),
            State::Gzip(mut inflating) => match inflating.try_finish() {
                Ok(()) => std::mem::replace(inflating.get_mut(), Scan::new(0)).finish(),
                Err(_bad) => Finding::Broken("its gzip ends too early"),
            },
        }
    }
}

/// Goes through a tar by its headers.
#[derive(Debug)]
struct Scan {
    at: At,
    /// Bytes that may still be looked at.
    left: u64,
    seen_a_header: bool,
    finding: Option<Finding>,
}

#[derive(Debug)]
enum At {
    Header(Vec<u8>),
    Skip(u64),
    Metadata(Vec<u8>, u64),
}

impl Scan {
    fn new(left: u64) -> Self {
        Self {
            at: At::Header(Vec::with_capacity(RECORD)),
            left,
            seen_a_header: false,
            finding: None,
        }
    }

    fn look(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.finding.is_none() {
            if self.left == 0 {
                self.finding = Some(Finding::Unknown);
                return;
            }
            let taken = match &mut self.at {
                At::Skip(left) => {
                    let taken = shorter(bytes.len(), *left);
                    *left -= taken as u64;
                    if *left == 0 {
                        self.at = At::Header(Vec::with_capacity(RECORD));
                    }
                    taken
                }
                At::Header(held) => {
                    let taken = bytes.len().min(RECORD - held.len());
                    held.extend_from_slice(&bytes[..taken]);
                    if held.len() == RECORD {
                        let header = std::mem::take(held);
                        self.enter(&header);
                    }
                    taken
                }
                At::Metadata(held, length) => {
                    let taken = shorter(bytes.len(), *length - held.len() as u64);
                    held.extend_from_slice(&bytes[..taken]);
                    if held.len() as u64 == *length {
                        let read = serde_json::from_slice(held);
                        self.finding = Some(read.map_or(
                            Finding::Broken("its metadata.json names no provider"),
                            Finding::Says,
                        ));
                    }
                    taken
                }
            };
            self.left = self.left.saturating_sub(taken as u64);
            bytes = &bytes[taken..];
        }
    }

    fn enter(&mut self, header: &[u8]) {
        if header.iter().all(|byte| *byte == 0) {
            // What begins with nothing is no archive.
            let ends = if self.seen_a_header {
                Finding::Silent
            } else {
                Finding::NoArchive
            };
            self.finding = Some(ends);
            return;
        }
        let Some((name, length)) = member(header) else {
            self.finding = Some(if self.seen_a_header {
                Finding::Broken("its archive is damaged")
            } else {
                Finding::NoArchive
            });
            return;
        };
        self.seen_a_header = true;
        let is_file = matches!(header[156], b'0' | 0);
        self.at = if is_file && name.strip_prefix(b"./").unwrap_or(name) == b"metadata.json" {
            if length == 0 || length > MOST_METADATA {
                self.finding = Some(Finding::Broken("its metadata.json is no such document"));
                return;
            }
            At::Metadata(Vec::new(), length)
        } else {
            match length.checked_next_multiple_of(RECORD as u64) {
                Some(0) => At::Header(Vec::with_capacity(RECORD)),
                Some(padded) => At::Skip(padded),
                None => At::Skip(u64::MAX),
            }
        };
    }

    fn finish(self) -> Finding {
        match (self.finding, self.at) {
            (Some(finding), _) => finding,
            (None, _) if !self.seen_a_header => Finding::NoArchive,
            (None, At::Header(held)) if held.is_empty() => Finding::Silent,
            (None, _) => Finding::Broken("its archive ends within a file"),
        }
    }
}

impl std::io::Write for Scan {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.look(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn shorter(bytes: usize, left: u64) -> usize {
    usize::try_from(left).map_or(bytes, |left| left.min(bytes))
}

/// The name of an archive that is not looked into, by its first bytes.
fn closed(head: &[u8]) -> Option<&'static str> {
    const KINDS: [(&[u8], &str); 6] = [
        (b"PK\x03\x04", "zip"),
        (b"\xfd7zXZ\0", "xz"),
        (b"BZh", "bzip2"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"7z\xbc\xaf\x27\x1c", "7z"),
        (b"LZIP", "lzip"),
    ];
    let mut kinds = KINDS.iter();
    kinds
        .find(|(magic, _)| head.starts_with(magic))
        .map(|(_, kind)| *kind)
}

/// Name and length of the member that a header tells of, if it is one.
fn member(header: &[u8]) -> Option<(&[u8], u64)> {
    const SUM: std::ops::Range<usize> = 148..156;
    let told = octal(&header[SUM])?;
    let counted: u64 = header
        .iter()
        .enumerate()
        .map(|(at, byte)| u64::from(if SUM.contains(&at) { b' ' } else { *byte }))
        .sum();
    let length = match header[124] {
        // GNU's way to write more than eight gigabytes.
        0x80 => header[125..136].iter().try_fold(0u64, |sum, byte| {
            sum.checked_mul(256)?.checked_add(u64::from(*byte))
        })?,
        _ => octal(&header[124..136])?,
    };
    let name = header[..100].split(|byte| *byte == 0).next()?;
    (told == counted).then_some((name, length))
}

fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?;
    let text = text.trim_matches(|c: char| c == '\0' || c == ' ');
    if text.is_empty() {
        return Some(0);
    }
    u64::from_str_radix(text, 8).ok()
}

impl Meant {
    /// What is wrong with a box that says that of itself, for whoever sends it.
    pub fn objection(&self, finding: &Finding) -> Option<String> {
        match finding {
            Finding::Unknown => None,
            // Only whoever refuses must know; Vagrant may well take it.
            Finding::Closed(kind) => self.refuse.then(|| {
                format!("The box is packed by {kind}, which is not looked into here: pack it as tar or tar.gz.")
            }),
            Finding::NoArchive => Some(
                "What was sent is no archive (tar, tar.gz, zip) that Vagrant could unpack.".into(),
            ),
            Finding::Silent => {
                Some("The box has no metadata.json, without which Vagrant does not take it.".into())
            }
            Finding::Broken(why) => Some(format!("Vagrant may not take the box: {why}.")),
            Finding::Says(says) => {
                if says.provider != self.provider {
                    return Some(format!(
                        "The box says in its metadata.json that it is for provider '{}', not '{}': Vagrant refuses it.",
                        shown(&says.provider),
                        self.provider
                    ));
                }
                let (says, meant) = (says.architecture.as_ref()?, self.architecture.as_ref()?);
                (!says.eq_ignore_ascii_case(meant)).then(|| {
                    format!(
                        "The box says in its metadata.json that it is for architecture '{}', not '{meant}'.",
                        shown(says)
                    )
                })
            }
        }
    }
}

/// A stranger's word, short enough to be repeated.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

/// A writer whose bytes are looked at on their way.
#[derive(Debug)]
pub struct Watched<'w> {
    /// Where they go.
    pub writer: &'w mut UploadWriter,
    /// Who looks at them.
    pub inspector: &'w mut Inspector,
}

impl TakeBytes for Watched<'_> {
    fn room(&mut self) -> impl Future<Output = Stored<()>> + Send {
        self.writer.room()
    }

    async fn write(&mut self, chunk: Bytes) -> Stored<()> {
        let mut rest = &chunk[..];
        while !rest.is_empty() && !self.inspector.is_done() {
            let looked_at = self.inspector.step(rest);
            rest = &rest[looked_at..];
            // A few bytes may inflate to many: others get their turn.
            yield_now().await;
        }
        self.writer.write(chunk).await
    }

    fn give_memory_back(&mut self) -> impl Future<Output = Stored<()>> + Send {
        self.writer.give_memory_back()
    }

    fn taken_over(&self) -> impl Future<Output = ()> + Send + 'static {
        self.writer.taken_over()
    }

    /// Its sender may not know how to go on.
    fn to_rest(&self) -> Option<u64> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, name, *bytes).unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(bytes).unwrap();
        gzip.finish().unwrap()
    }

    /// However the bytes are cut, the same is found.
    fn found(bytes: &[u8]) -> Finding {
        let by = |size: usize| {
            let mut inspector = Inspector::new(1 << 20);
            for mut chunk in bytes.chunks(size) {
                while !chunk.is_empty() {
                    let taken = inspector.step(chunk);
                    assert!(taken > 0);
                    chunk = &chunk[taken..];
                }
            }
            inspector.finish()
        };
        let whole = by(usize::MAX);
        for size in [1, 7, 511, 512, 4096] {
            assert_eq!(by(size), whole, "in chunks of {size}");
        }
        whole
    }

    fn says(provider: &str, architecture: Option<&str>) -> Finding {
        Finding::Says(Metadata {
            provider: provider.into(),
            architecture: architecture.map(str::to_owned),
        })
    }

    #[test]
    fn a_box_is_asked_wherever_its_metadata_stands() {
        let json: &[u8] = br#"{"provider":"virtualbox","architecture":"amd64","x":1}"#;
        let expected = says("virtualbox", Some("amd64"));
        let disk = vec![7; 70_000];
        for files in [
            vec![("metadata.json", json), ("disk", &disk[..])],
            vec![
                ("disk", &disk[..]),
                ("empty", b""),
                ("./metadata.json", json),
            ],
            vec![("a/metadata.json", &b"{}"[..]), ("metadata.json", json)],
        ] {
            let tar = tar(&files);
            assert_eq!(found(&tar), expected, "{files:?}");
            assert_eq!(found(&gzip(&tar)), expected, "{files:?} in gzip");
        }
        assert_eq!(
            found(&tar(&[("metadata.json", br#"{"provider":"x"}"#)])),
            says("x", None)
        );
    }

    #[test]
    fn what_is_no_box_is_silent_broken_or_not_looked_into() {
        let disk: &[u8] = &[7; 2000];
        assert_eq!(found(&tar(&[("disk", disk)])), Finding::Silent);
        assert_eq!(found(&gzip(&tar(&[("disk", disk)]))), Finding::Silent);
        for bad in [&b"no JSON"[..], b"[]", b"{}", br#"{"provider":5}"#] {
            let found = found(&tar(&[("metadata.json", bad)]));
            assert!(matches!(found, Finding::Broken(_)), "{bad:?}: {found:?}");
        }
        let whole = tar(&[("disk", disk)]);
        assert!(matches!(found(&whole[..1000]), Finding::Broken(_)));
        assert!(matches!(found(&gzip(&whole)[..60]), Finding::Broken(_)));
        for other in [
            &b""[..],
            b"P",
            b"<html><body>502 Bad Gateway</body></html>",
            &[0; 4096],
            &[9; 4096],
            b"short",
        ] {
            assert_eq!(found(other), Finding::NoArchive, "{other:?}");
            assert_eq!(found(&gzip(other)), Finding::NoArchive, "{other:?} in gzip");
        }
        for (other, kind) in [
            (&b"PK\x03\x04zip"[..], "zip"),
            (b"\xfd7zXZ\0...", "xz"),
            (b"BZh91AY", "bzip2"),
        ] {
            assert_eq!(found(other), Finding::Closed(kind));
        }
    }

    #[test]
    fn gzip_is_looked_into_as_far_as_allowed_and_no_further() {
        let json: &[u8] = br#"{"provider":"virtualbox"}"#;
        let bomb = gzip(&tar(&[
            ("disk", &vec![0; 2 << 20]),
            ("metadata.json", json),
        ]));
        assert!(bomb.len() < 32 << 10, "{}", bomb.len());
        assert_eq!(found(&bomb), Finding::Unknown);
    }

    #[test]
    fn a_box_for_another_provider_is_objected_to() {
        let meant = Meant {
            provider: "virtualbox".into(),
            architecture: Some("amd64".into()),
            refuse: false,
            most_inflated: 1,
        };
        let objects = |finding| meant.objection(&finding).is_some();
        assert!(!objects(says("virtualbox", None)) && !objects(says("virtualbox", Some("AMD64"))));
        assert!(objects(says("libvirt", None)) && objects(says("virtualbox", Some("arm64"))));
        assert!(objects(Finding::Silent) && objects(Finding::Broken("x")));
        assert!(objects(Finding::NoArchive));
        assert!(!objects(Finding::Unknown) && !objects(Finding::Closed("zip")));
        let strict = Meant {
            refuse: true,
            ..meant.clone()
        };
        assert!(strict.objection(&Finding::Closed("zip")).is_some());
        assert!(strict.objection(&Finding::Unknown).is_none());
    }
}
