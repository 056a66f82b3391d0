//! Finds the parts of a multipart body (RFC 2046 §5.1) in chunks of any size, without I/O.
//!
//! What a part holds is handed on as slices of the chunks it came in. The boundary is looked for
//! with its `CRLF--` in front; since a carriage return can stand only at its beginning, a match that
//! is broken by the next chunk cannot hide the start of another, and so nothing is ever copied to
//! look at it twice.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use memchr::memmem;

use super::head::{HeadError, PartHead};

/// The longest boundary taken; RFC 2046 says 70, some clients do not count.
const BOUNDARY_BYTES: usize = 200;
/// White space that may follow a boundary on its line.
const PADDING_BYTES: usize = 64;
/// What may stand before the first boundary: without a bound, a wrong boundary would cost the whole
/// body.
const PREAMBLE_BYTES: usize = 64 << 10;

/// What comes next in the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Nothing, before [`MultipartReader::push`] or [`MultipartReader::finish`] is called.
    NeedMore,
    /// A part begins.
    PartHead(PartHead),
    /// Bytes of the part that began last; never empty.
    Data(Bytes),
    /// The part is over.
    PartEnd,
    /// The last boundary was seen; what follows means nothing.
    End,
}

/// The rule that a body breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It ended before its last boundary.
    #[error("the form was cut: its last boundary is missing")]
    Truncated,
    /// Its first boundary is not where it should be.
    #[error("the form does not begin with its boundary")]
    NoBoundary,
    /// A part's head is too large.
    #[error("the head of a part is longer than {limit} bytes")]
    HeadTooLarge {
        /// The most, in bytes.
        limit: usize,
    },
    /// There are too many parts.
    #[error("the form has more than {limit} parts")]
    TooManyParts {
        /// The most.
        limit: usize,
    },
    /// A part's head makes no sense.
    #[error(transparent)]
    Head(#[from] HeadError),
}

/// The state of one body.
#[derive(Debug)]
pub struct MultipartReader {
    /// `CRLF--boundary`.
    delimiter: Bytes,
    finder: memmem::Finder<'static>,
    input: VecDeque<Bytes>,
    ended: bool,
    state: State,
    /// How much of the delimiter stood at the end of the chunk before.
    held: usize,
    in_part: bool,
    parts: usize,
    preamble: usize,
    max_parts: usize,
    max_head: usize,
}

#[derive(Debug)]
enum State {
    /// Between delimiters; before the first one if not in a part.
    Content,
    /// What follows a delimiter, until it tells what it means.
    Line(Vec<u8>),
    /// A part's head, with the line feed before it.
    Head(Vec<u8>),
    /// The last delimiter was seen, [`Event::End`] not told yet.
    Closing,
    Closed,
}

enum Scan {
    Data(Bytes),
    Delimiter,
    Nothing,
}

/// What the bytes after a delimiter mean.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Undecided,
    PartBegins,
    LastBoundary,
    /// It was no delimiter, only looked like one.
    NoDelimiter,
}

impl MultipartReader {
    /// A reader for `boundary`; `None` when that cannot be one.
    pub fn new(boundary: &str, max_parts: usize, max_head: usize) -> Option<Self> {
        // Only what would break the search or a line is refused; RFC 2046 allows less.
        let good = (1..=BOUNDARY_BYTES).contains(&boundary.len())
            && boundary.bytes().all(|b| (b' '..0x7f).contains(&b))
            && !boundary.ends_with(' ');
        if !good {
            return None;
        }
        let delimiter = Bytes::from(format!("\r\n--{boundary}"));
        Some(Self {
            finder: memmem::Finder::new(&delimiter).into_owned(),
            delimiter,
            input: VecDeque::with_capacity(3),
            ended: false,
            state: State::Content,
            // The first boundary may stand at the very beginning, as if a line had ended before it.
            held: 2,
            in_part: false,
            parts: 0,
            preamble: 0,
            max_parts,
            max_head,
        })
    }

    /// Gives the next chunk; call it after [`Event::NeedMore`].
    pub fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.input.push_back(chunk);
        }
    }

    /// Says that there are no more chunks.
    pub fn finish(&mut self) {
        self.ended = true;
    }

    /// The next event.
    ///
    /// # Errors
    /// The rule that the body breaks; there is no going on after one.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator's end is final, this asks for more"
    )]
    pub fn next(&mut self) -> Result<Event, ReadError> {
        loop {
            match &mut self.state {
                State::Content => match self.scan() {
                    Scan::Data(data) if self.in_part => return Ok(Event::Data(data)),
                    Scan::Data(data) => {
                        self.preamble += data.len();
                        if self.preamble > PREAMBLE_BYTES {
                            return Err(ReadError::NoBoundary);
                        }
                    }
                    Scan::Delimiter => self.state = State::Line(Vec::new()),
                    Scan::Nothing => return self.starved(),
                },
                State::Line(line) => match Self::read_line(line, &mut self.input, self.ended) {
                    Line::Undecided => return self.starved(),
                    Line::PartBegins => {
                        // The line's end counts as the head's first, so that an empty head is found.
                        self.state = State::Head(b"\r\n".to_vec());
                        if std::mem::take(&mut self.in_part) {
                            return Ok(Event::PartEnd);
                        }
                    }
                    Line::LastBoundary => {
                        self.state = State::Closing;
                        if std::mem::take(&mut self.in_part) {
                            return Ok(Event::PartEnd);
                        }
                    }
                    Line::NoDelimiter => {
                        let after = Bytes::from(std::mem::take(line));
                        self.input.push_front(after);
                        self.state = State::Content;
                        if self.in_part {
                            return Ok(Event::Data(self.delimiter.clone()));
                        }
                    }
                },
                State::Head(head) => {
                    let Some(chunk) = self.input.pop_front() else {
                        return self.starved();
                    };
                    let Some(rest) = read_head(head, chunk, self.max_head)? else {
                        continue;
                    };
                    self.input.push_front(rest);
                    self.parts += 1;
                    if self.parts > self.max_parts {
                        return Err(ReadError::TooManyParts {
                            limit: self.max_parts,
                        });
                    }
                    let parsed = PartHead::parse(&head[2..])?;
                    self.state = State::Content;
                    self.in_part = true;
                    return Ok(Event::PartHead(parsed));
                }
                State::Closing => {
                    self.state = State::Closed;
                    self.input.clear();
                    return Ok(Event::End);
                }
                State::Closed => {
                    self.input.clear();
                    return Ok(Event::End);
                }
            }
        }
    }

    fn starved(&self) -> Result<Event, ReadError> {
        match (self.ended, self.parts) {
            (false, _) => Ok(Event::NeedMore),
            (true, 0) if matches!(self.state, State::Content) => Err(ReadError::NoBoundary),
            (true, _) => Err(ReadError::Truncated),
        }
    }

    /// The bytes up to the next delimiter, or the delimiter.
    fn scan(&mut self) -> Scan {
        while let Some(mut chunk) = self.input.pop_front() {
            if chunk.is_empty() {
                continue;
            }
            if self.held > 0 {
                let wanted = &self.delimiter[self.held..];
                let equal = wanted
                    .iter()
                    .zip(chunk.iter())
                    .take_while(|(a, b)| a == b)
                    .count();
                if equal == wanted.len() {
                    chunk.advance(equal);
                    self.input.push_front(chunk);
                    self.held = 0;
                    return Scan::Delimiter;
                }
                if equal == chunk.len() {
                    self.held += equal;
                    continue;
                }
                // What was held turns out to be content. It equals the delimiter so far, so a slice of
                // that stands for it.
                self.input.push_front(chunk);
                return Scan::Data(self.delimiter.slice(..std::mem::take(&mut self.held)));
            }
            if let Some(at) = self.finder.find(&chunk) {
                let data = chunk.split_to(at);
                // Found again at the next call, as held up to its last byte.
                self.held = self.delimiter.len() - 1;
                chunk.advance(self.held);
                self.input.push_front(chunk);
                if data.is_empty() {
                    continue;
                }
                return Scan::Data(data);
            }
            self.held = self.half_delimiter(&chunk);
            chunk.truncate(chunk.len() - self.held);
            if !chunk.is_empty() {
                return Scan::Data(chunk);
            }
        }
        Scan::Nothing
    }

    /// How many bytes at the end of `chunk` begin a delimiter.
    fn half_delimiter(&self, chunk: &[u8]) -> usize {
        let tail = &chunk[chunk.len().saturating_sub(self.delimiter.len() - 1)..];
        // A delimiter has one carriage return, its first byte.
        memchr::memrchr(b'\r', tail)
            .map(|at| &tail[at..])
            .filter(|half| self.delimiter.starts_with(half))
            .map_or(0, <[u8]>::len)
    }

    /// Reads on behind a delimiter, one byte at a time: there are seldom more than two.
    fn read_line(line: &mut Vec<u8>, input: &mut VecDeque<Bytes>, ended: bool) -> Line {
        while let Some(mut chunk) = input.pop_front() {
            while !chunk.is_empty() {
                line.push(chunk.get_u8());
                let meaning = meaning_of(line);
                if meaning != Line::Undecided {
                    input.push_front(chunk);
                    return meaning;
                }
            }
        }
        // RFC 2046 §5.1.1: nothing need follow the last boundary.
        if ended && line == b"--" {
            return Line::LastBoundary;
        }
        Line::Undecided
    }
}

/// RFC 2046 §5.1.1: `*LWSP CRLF` after a delimiter, `--` after the last one. Anything else means
/// that a line of the content begins like the delimiter.
fn meaning_of(line: &[u8]) -> Line {
    match line {
        [b'-'] | [b'-', b'-'] => return Line::Undecided,
        [b'-', b'-', b' ' | b'\t' | b'\r' | b'\n', ..] => return Line::LastBoundary,
        _ => {}
    }
    let padding = line
        .iter()
        .take_while(|b| matches!(b, b' ' | b'\t'))
        .count();
    match &line[padding..] {
        [] | [b'\r'] if padding <= PADDING_BYTES => Line::Undecided,
        [b'\r', b'\n'] => Line::PartBegins,
        _ => Line::NoDelimiter,
    }
}

/// Adds `chunk` to `head` up to the empty line that ends it; returns what follows, once it has.
fn read_head(
    head: &mut Vec<u8>,
    mut chunk: Bytes,
    max_head: usize,
) -> Result<Option<Bytes>, ReadError> {
    const END: &[u8] = b"\r\n\r\n";
    // Never more than the limit is kept, however large the chunk. The line end before the head stands
    // in for that of the delimiter and does not count.
    let most = max_head + 2;
    let room = most.saturating_sub(head.len());
    let taken = chunk.len().min(room);
    let before = head.len();
    head.extend_from_slice(&chunk[..taken]);
    let from = before.saturating_sub(END.len() - 1);
    if let Some(at) = memmem::find(&head[from..], END) {
        let end = from + at + END.len();
        chunk.advance(end - before);
        // The last line keeps its end.
        head.truncate(end - 2);
        return Ok(Some(chunk));
    }
    if head.len() >= most {
        return Err(ReadError::HeadTooLarge { limit: max_head });
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
