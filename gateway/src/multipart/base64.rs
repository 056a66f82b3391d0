//! Base64 text back to bytes as it arrives, and telling such text from bytes (RFC 2045 §6.8).
//!
//! Some clients declare it, others send it as if it were the file. The second is believed only when
//! the decoded beginning is an archive, which no box that is not text can look like.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use bytes::Bytes;

/// The text is no base64, or ended in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed base64 text")]
pub struct Base64Error;

/// Decodes text that comes in chunks of any size.
#[derive(Debug, Default)]
pub struct Base64Decoder {
    /// Up to four characters that wait for the rest of their group.
    group: Vec<u8>,
    over: bool,
}

impl Base64Decoder {
    /// Decodes the next chunk; line ends and blanks are read over.
    ///
    /// # Errors
    /// The text is no base64.
    pub fn decode(&mut self, text: &[u8]) -> Result<Bytes, Base64Error> {
        let mut decoded = Vec::with_capacity(text.len() / 4 * 3 + 6);
        // Lines are mostly 76 characters, so each run is decoded at once.
        for run in text.split(|b| matches!(b, b'\r' | b'\n' | b' ' | b'\t')) {
            self.decode_run(run, &mut decoded)?;
        }
        Ok(decoded.into())
    }

    /// Says that the text is over.
    ///
    /// # Errors
    /// It ended within a group.
    pub fn finish(&mut self) -> Result<(), Base64Error> {
        if self.group.is_empty() {
            Ok(())
        } else {
            Err(Base64Error)
        }
    }

    fn decode_run(&mut self, mut run: &[u8], decoded: &mut Vec<u8>) -> Result<(), Base64Error> {
        if run.is_empty() {
            return Ok(());
        }
        if self.over {
            // RFC 2045 §6.8: padding stands at the end only.
            return Err(Base64Error);
        }
        if !self.group.is_empty() {
            let missing = (4 - self.group.len()).min(run.len());
            self.group.extend_from_slice(&run[..missing]);
            run = &run[missing..];
            self.close_group(decoded)?;
            if run.is_empty() {
                return Ok(());
            }
            if self.over {
                return Err(Base64Error);
            }
        }
        // Padding may be in the last group only, which is looked at on its own.
        let whole = run.len().saturating_sub(1) / 4 * 4;
        STANDARD_NO_PAD
            .decode_vec(&run[..whole], decoded)
            .map_err(|_bad| Base64Error)?;
        self.group.extend_from_slice(&run[whole..]);
        self.close_group(decoded)
    }

    /// Decodes the group if it is whole.
    fn close_group(&mut self, decoded: &mut Vec<u8>) -> Result<(), Base64Error> {
        if self.group.len() == 4 {
            STANDARD
                .decode_vec(&self.group, decoded)
                .map_err(|_bad| Base64Error)?;
            self.over = self.group.ends_with(b"=");
            self.group.clear();
        }
        Ok(())
    }
}

/// Where the first bytes of an archive stand, and what they are.
const MAGIC: [(usize, &[u8]); 6] = [
    (0, &[0x1f, 0x8b, 0x08]),                   // gzip, deflate
    (0, b"PK\x03\x04"),                         // zip
    (0, &[0xfd, b'7', b'z', b'X', b'Z', 0x00]), // xz
    (0, &[0x28, 0xb5, 0x2f, 0xfd]),             // zstd
    (257, b"ustar\0"),                          // tar, POSIX
    (257, b"ustar  \0"),                        // tar, GNU
];

/// How much text is looked at: 265 bytes decoded are 356 characters, with line ends of any length
/// of line that is in use 380; the rest makes chance unlikely.
const SNIFF_BYTES: usize = 512;

/// Looks at the first bytes of a file.
#[derive(Debug, Default)]
pub struct Sniff {
    seen: Vec<u8>,
}

impl Sniff {
    /// Looks at the next bytes; what is more than enough is not kept.
    pub fn look(&mut self, bytes: &[u8]) {
        let missing = SNIFF_BYTES.saturating_sub(self.seen.len());
        self.seen
            .extend_from_slice(&bytes[..bytes.len().min(missing)]);
    }

    /// Whether more bytes would change nothing.
    pub fn has_seen_enough(&self) -> bool {
        // A byte that is not in the alphabet settles it at once, which spares most boxes the wait.
        self.seen.len() >= SNIFF_BYTES || !self.seen.iter().all(|b| is_base64(*b))
    }

    /// Whether the bytes are base64 text whose content begins as an archive does; `whole` when there
    /// are no more of them.
    pub fn is_base64_of_archive(&self, whole: bool) -> bool {
        if !self.seen.iter().all(|b| is_base64(*b)) {
            return false;
        }
        let mut decoder = Base64Decoder::default();
        let Ok(decoded) = decoder.decode(&self.seen) else {
            return false;
        };
        if whole && self.seen.len() < SNIFF_BYTES && decoder.finish().is_err() {
            return false;
        }
        MAGIC.iter().any(|(at, magic)| {
            decoded
                .get(*at..)
                .is_some_and(|rest| rest.starts_with(magic))
        })
    }
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'\r' | b'\n')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Text in lines of `width` characters.
    fn wrapped(bytes: &[u8], width: usize) -> Vec<u8> {
        let text = STANDARD.encode(bytes);
        let lines: Vec<&[u8]> = text.as_bytes().chunks(width).collect();
        lines.join(b"\r\n".as_slice())
    }

    fn decode_in(text: &[u8], size: usize) -> Result<Vec<u8>, Base64Error> {
        let mut decoder = Base64Decoder::default();
        let mut all = Vec::new();
        for chunk in text.chunks(size) {
            all.extend_from_slice(&decoder.decode(chunk)?);
        }
        decoder.finish()?;
        Ok(all)
    }

    fn is_archive(text: &[u8]) -> bool {
        let mut sniff = Sniff::default();
        sniff.look(text);
        sniff.is_base64_of_archive(true)
    }

    proptest! {
        #[test]
        fn what_is_encoded_comes_back_in_chunks_of_any_size(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            width in 1_usize..90,
            size in 1_usize..100,
        ) {
            let mut text = wrapped(&bytes, width);
            text.extend_from_slice(b"\r\n");
            prop_assert_eq!(decode_in(&text, size), Ok(bytes));
        }
    }

    #[test]
    fn malformed_text_is_refused_in_chunks_of_any_size() {
        for text in [
            "QUJD*",
            "QUJDR",
            "QUJDRA",
            "QUJDRA=",
            "QUI=QUJD",
            "QUI=\r\nQUJD",
            "=QUI",
            "QU=I",
            "QUJ\0",
            "QUJDRA===",
            "====",
            "Q===",
        ] {
            for size in 1..=text.len() {
                assert_eq!(
                    decode_in(text.as_bytes(), size),
                    Err(Base64Error),
                    "{text} by {size}"
                );
            }
        }
    }

    #[test]
    fn text_of_each_archive_is_known() {
        let mut tar = vec![b'x'; 600];
        tar[257..265].copy_from_slice(b"ustar  \0");
        let mut posix = vec![0; 600];
        posix[257..265].copy_from_slice(b"ustar\x0000");
        let archives: [&[u8]; 6] = [
            b"\x1f\x8b\x08\0rest of it",
            b"PK\x03\x04rest",
            b"\xfd7zXZ\0rest",
            b"\x28\xb5\x2f\xfdrest",
            &tar,
            &posix,
        ];
        for archive in archives {
            for width in [64, 76, usize::MAX] {
                assert!(is_archive(&wrapped(archive, width)), "{archive:?}");
            }
            assert!(!is_archive(archive));
        }
    }

    #[test]
    fn other_text_stays_as_it_is() {
        for text in [
            b"".as_slice(),
            b"hello",
            b"H4s",
            b"H4sIAAAA not base64",
            b"VGhpcyBpcyBqdXN0IHRleHQ=",
        ] {
            assert!(!is_archive(text), "{text:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_need_no_second_look() {
        let mut sniff = Sniff::default();
        sniff.look(b"H4sI");
        assert!(!sniff.has_seen_enough());
        sniff.look(b"\x1f");
        assert!(sniff.has_seen_enough());
    }
}
