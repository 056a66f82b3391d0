//! `multipart/form-data` with one file, read as it arrives (RFC 7578, RFC 2046 §5.1).
//!
//! [`reader`] finds the parts without I/O and without copying what they hold; [`head`] reads what
//! stands before a part; [`base64`] decodes text that some clients send instead of bytes. What is
//! here puts the three on a request's body: fields are collected, the one file is handed on chunk by
//! chunk, and memory stays the same however long it is.

pub mod base64;
pub mod head;
pub mod reader;

use std::collections::VecDeque;

use bytes::Bytes;
use http::HeaderMap;

use crate::config::settings::{self, DecodeBase64};
use crate::http::headers::MediaType;
use crate::server::{BodyError, InboundBody};
use base64::{Base64Decoder, Sniff};
use head::{Encoding, PartHead};
use reader::{Event, MultipartReader, ReadError};

/// The part that holds the file.
pub const FILE_FIELD: &str = "file";
/// The longest other part, in bytes: these are words, and they are kept until the end.
const FIELD_BYTES: usize = 64 << 10;
/// What may follow the last boundary and is read over, so that the connection can be used again.
const EPILOGUE_BYTES: usize = 64 << 10;

/// What a form may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormLimits {
    /// Most parts.
    pub parts: usize,
    /// Largest head of a part, in bytes.
    pub part_head_bytes: usize,
    /// Whether base64 text is decoded without being declared.
    pub decode_base64: DecodeBase64,
}

impl FormLimits {
    /// The limits of the configuration.
    pub fn of(settings: &settings::Settings) -> Self {
        Self {
            parts: settings.limits.multipart_parts,
            part_head_bytes: settings.limits.multipart_part_head_bytes,
            decode_base64: settings.uploads.decode_base64,
        }
    }
}

/// Why a form cannot be taken; each text names the rule, for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// The body itself failed.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The form is not one.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// `Content-Type` names no boundary that could be looked for.
    #[error("multipart/form-data needs a boundary of 1 to 200 characters")]
    Boundary,
    /// There was no file.
    #[error("the form has no part named \"file\"")]
    NoFile,
    /// There were two.
    #[error("the form has a second part named \"file\"")]
    SecondFile,
    /// A field that is no word.
    #[error("the part {name:?} is longer than {FIELD_BYTES} bytes")]
    FieldTooLong {
        /// Its name, cut short.
        name: String,
    },
    /// The text is no base64.
    #[error("the file's base64 text is malformed")]
    Base64,
}

/// How the file was found to be base64 text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodedBase64 {
    /// The part said so.
    Declared,
    /// It did not, but its first bytes are base64 text of an archive.
    Detected,
}

/// Whether a request's body is a form; any other type, or none, means raw bytes.
pub fn is_form(headers: &HeaderMap) -> bool {
    MediaType::of(headers).is_some_and(|media| media.essence() == "multipart/form-data")
}

/// A form on its way in.
///
/// Call [`Form::file`], then [`Form::chunk`] until it is `None`, then [`Form::finish`]; fields may
/// stand on both sides of the file.
#[derive(Debug)]
pub struct Form {
    body: InboundBody,
    reader: MultipartReader,
    limits: FormLimits,
    fields: Vec<(String, String)>,
    file: FileState,
    /// The part that was begun last has ended.
    part_over: bool,
    decoded: Option<DecodedBase64>,
}

#[derive(Debug)]
enum FileState {
    Awaited,
    /// Its first bytes, until they tell whether they are base64 text.
    Sniffing {
        sniff: Sniff,
        held: VecDeque<Bytes>,
    },
    /// First what was held, then what comes.
    Plain {
        held: VecDeque<Bytes>,
    },
    Decoding {
        decoder: Base64Decoder,
        held: VecDeque<Bytes>,
    },
    Over,
}

impl Form {
    /// Begins to read `body` as the form that `headers` declare.
    ///
    /// # Errors
    /// [`FormError::Boundary`].
    pub fn open(
        headers: &HeaderMap,
        body: InboundBody,
        limits: FormLimits,
    ) -> Result<Self, FormError> {
        let media = MediaType::of(headers);
        let boundary = media
            .as_ref()
            .and_then(|media| media.parameter("boundary"))
            .ok_or(FormError::Boundary)?;
        let reader = MultipartReader::new(boundary, limits.parts, limits.part_head_bytes)
            .ok_or(FormError::Boundary)?;
        Ok(Self {
            body,
            reader,
            limits,
            fields: Vec::new(),
            file: FileState::Awaited,
            part_over: true,
            decoded: None,
        })
    }

    /// Reads up to the file and returns its head; fields before it are kept.
    ///
    /// # Errors
    /// [`FormError`]; [`FormError::NoFile`] when the form ends before.
    pub async fn file(&mut self) -> Result<PartHead, FormError> {
        loop {
            match self.event().await? {
                Event::PartHead(head) if head.name == FILE_FIELD => {
                    self.file = match (head.encoding, self.limits.decode_base64) {
                        (Encoding::Base64, _) => {
                            self.decoded = Some(DecodedBase64::Declared);
                            FileState::Decoding {
                                decoder: Base64Decoder::default(),
                                held: VecDeque::new(),
                            }
                        }
                        (Encoding::Identity, DecodeBase64::Auto) => FileState::Sniffing {
                            sniff: Sniff::default(),
                            held: VecDeque::new(),
                        },
                        (Encoding::Identity, DecodeBase64::Never) => FileState::Plain {
                            held: VecDeque::new(),
                        },
                    };
                    return Ok(head);
                }
                Event::PartHead(head) => self.collect(head).await?,
                Event::End => return Err(FormError::NoFile),
                Event::Data(_) | Event::PartEnd | Event::NeedMore => {}
            }
        }
    }

    /// Goes on to the next part, whatever it is, past what was not read of the one before; [`Form::chunk`] reads it as it
    /// is. `None` at the end of the form, and of its epilogue.
    ///
    /// # Errors
    /// [`FormError`].
    pub async fn part(&mut self) -> Result<Option<PartHead>, FormError> {
        loop {
            match self.event().await? {
                Event::PartHead(head) => {
                    self.file = FileState::Plain {
                        held: VecDeque::new(),
                    };
                    return Ok(Some(head));
                }
                Event::End => return self.epilogue().await.map(|()| None),
                Event::Data(_) | Event::PartEnd | Event::NeedMore => {}
            }
        }
    }

    /// The next bytes of the file, decoded if they were encoded; `None` at its end.
    ///
    /// # Errors
    /// [`FormError`]; the file is then not whole.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, FormError> {
        loop {
            let next = match &mut self.file {
                FileState::Awaited | FileState::Over => return Ok(None),
                FileState::Sniffing { .. } => None,
                FileState::Plain { held } | FileState::Decoding { held, .. } => held.pop_front(),
            };
            let next = match next {
                Some(held) => Some(held),
                None => self.part_data().await?,
            };
            match (&mut self.file, next) {
                (FileState::Sniffing { sniff, held }, Some(data)) => {
                    sniff.look(&data);
                    held.push_back(data);
                    if sniff.has_seen_enough() {
                        self.sniffed();
                    }
                }
                // A file shorter than what is looked at.
                (FileState::Sniffing { .. }, None) => self.sniffed(),
                (FileState::Decoding { decoder, .. }, Some(data)) => {
                    let decoded = decoder.decode(&data).map_err(|_bad| FormError::Base64)?;
                    if !decoded.is_empty() {
                        return Ok(Some(decoded));
                    }
                }
                (FileState::Decoding { decoder, .. }, None) => {
                    let whole = decoder.finish();
                    self.file = FileState::Over;
                    return whole.map(|()| None).map_err(|_bad| FormError::Base64);
                }
                (_, Some(data)) => return Ok(Some(data)),
                (_, None) => {
                    self.file = FileState::Over;
                    return Ok(None);
                }
            }
        }
    }

    /// Reads what follows the file, to the end of the form.
    ///
    /// # Errors
    /// [`FormError`]; the file must then not be taken for good.
    pub async fn finish(&mut self) -> Result<(), FormError> {
        loop {
            match self.event().await? {
                Event::PartHead(head) if head.name == FILE_FIELD => {
                    return Err(FormError::SecondFile);
                }
                Event::PartHead(head) => self.collect(head).await?,
                Event::End => break,
                Event::Data(_) | Event::PartEnd | Event::NeedMore => {}
            }
        }
        self.epilogue().await
    }

    /// Reads what follows the last boundary: it means nothing (RFC 2046 §5.1.1).
    async fn epilogue(&mut self) -> Result<(), FormError> {
        let mut left = EPILOGUE_BYTES;
        while left > 0
            && let Some(chunk) = self.body.chunk().await?
        {
            left = left.saturating_sub(chunk.len());
        }
        Ok(())
    }

    /// A field, as far as the form was read; the first of its name counts.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }

    /// Whether the file was base64 text, and how that was known; settled once [`Form::chunk`] has
    /// returned for the first time.
    pub fn decoded_base64(&self) -> Option<DecodedBase64> {
        self.decoded
    }

    /// The reader's next event, feeding it as it asks.
    async fn event(&mut self) -> Result<Event, FormError> {
        loop {
            match self.reader.next()? {
                Event::NeedMore => match self.body.chunk().await? {
                    Some(chunk) => self.reader.push(chunk),
                    None => self.reader.finish(),
                },
                event => {
                    self.part_over = matches!(event, Event::PartEnd | Event::End);
                    return Ok(event);
                }
            }
        }
    }

    /// The next raw bytes of the present part; `None` at its end, however often it is asked.
    async fn part_data(&mut self) -> Result<Option<Bytes>, FormError> {
        if self.part_over {
            return Ok(None);
        }
        match self.event().await? {
            Event::Data(data) => Ok(Some(data)),
            Event::PartHead(_) | Event::PartEnd | Event::End | Event::NeedMore => Ok(None),
        }
    }

    /// Decides, from what was looked at, whether the file is base64 text.
    fn sniffed(&mut self) {
        let FileState::Sniffing { sniff, held } =
            std::mem::replace(&mut self.file, FileState::Over)
        else {
            return;
        };
        self.file = if sniff.is_base64_of_archive(self.part_over) {
            self.decoded = Some(DecodedBase64::Detected);
            FileState::Decoding {
                decoder: Base64Decoder::default(),
                held,
            }
        } else {
            FileState::Plain { held }
        };
    }

    /// Keeps one field.
    async fn collect(&mut self, head: PartHead) -> Result<(), FormError> {
        let mut value = Vec::new();
        while let Some(data) = self.part_data().await? {
            if value.len() + data.len() > FIELD_BYTES {
                let mut name = head.name;
                name.truncate(name.floor_char_boundary(64));
                return Err(FormError::FieldTooLong { name });
            }
            value.extend_from_slice(&data);
        }
        if head.encoding == Encoding::Base64 {
            let mut decoder = Base64Decoder::default();
            let decoded = decoder.decode(&value).and_then(|text| {
                decoder.finish()?;
                Ok(text)
            });
            value = decoded.map_err(|_bad| FormError::Base64)?.to_vec();
        }
        let value = String::from_utf8_lossy(&value).into_owned();
        self.fields.push((head.name, value));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
