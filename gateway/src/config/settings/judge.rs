//! What every table is judged by: texts, times, numbers, sizes, networks, files.

use std::fmt;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::Secret;
use crate::config::Mistake;
use crate::config::cidr::Cidr;
use crate::config::units::{ByteSize, Span};

/// Most tries of a held upload; more would only keep its sender in the dark.
pub(super) const MOST_PAUSES: usize = 20;

/// Turns texts into values; a wrong one is noted and replaced, so that all are seen.
pub(in crate::config) struct Judge<'a> {
    pub(super) mistakes: &'a mut Vec<Mistake>,
}

impl Judge<'_> {
    pub(in crate::config) fn wrong(&mut self, key: impl Into<String>, text: impl fmt::Display) {
        self.mistakes.push(Mistake {
            key: key.into(),
            text: text.to_string(),
        });
    }

    pub(in crate::config) fn not_empty<'t>(&mut self, key: &str, text: &'t str) -> &'t str {
        if text.is_empty() {
            self.wrong(key, "must not be empty");
        }
        text
    }

    pub(in crate::config) fn choice<T: Copy>(
        &mut self,
        key: &str,
        text: &str,
        of: &[(&str, T)],
        rule: &str,
    ) -> Option<T> {
        let found = of.iter().find(|(name, _)| *name == text);
        if found.is_none() {
            self.wrong(key, format!("{rule}, not {text:?}"));
        }
        found.map(|(_, value)| *value)
    }

    pub(in crate::config) fn positive(&mut self, key: &str, number: u64) -> u64 {
        if number == 0 {
            self.wrong(key, "must be more than 0");
        }
        number
    }

    /// The certificates of a PEM file; none where no file is named.
    pub(super) fn authorities(&mut self, key: &str, path: &str) -> Vec<CertificateDer<'static>> {
        if path.is_empty() {
            return Vec::new();
        }
        let read =
            CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        match read {
            Ok(found) if !found.is_empty() => return found,
            Ok(_none) => self.wrong(key, "holds no certificate in PEM"),
            Err(e) => self.wrong(key, format!("cannot read {path}: {e}")),
        }
        Vec::new()
    }

    pub(in crate::config) fn time(&mut self, key: &str, span: Span) -> Duration {
        if span.0.is_zero() {
            self.wrong(key, "must be more than 0");
        }
        self.time_or_none(key, span)
    }

    /// Pauses between tries, each at least as long as the one before.
    pub(super) fn pauses(&mut self, key: &str, spans: &[Span]) -> Vec<Duration> {
        if spans.is_empty() || spans.len() > MOST_PAUSES || !spans.is_sorted() {
            self.wrong(
                key,
                "expected 1 to 20 times, each at least as long as the one before",
            );
        }
        spans.iter().map(|span| self.time(key, *span)).collect()
    }

    pub(super) fn time_or_never(&mut self, key: &str, span: Span) -> Option<Duration> {
        Some(self.time_or_none(key, span)).filter(|time| !time.is_zero())
    }

    pub(super) fn time_or_none(&mut self, key: &str, span: Span) -> Duration {
        // Longer than anything runs, and far from the end of any clock that it is added to.
        const MOST: Duration = Duration::from_hours(24 * 3650);
        if span.0 > MOST {
            self.wrong(key, "must be at most 3650d");
        }
        span.0.min(MOST)
    }

    pub(super) fn count(&mut self, key: &str, number: usize) -> usize {
        if number == 0 {
            self.wrong(key, "must be more than 0");
        }
        number
    }

    pub(super) fn few(&mut self, key: &str, number: u32, least: u32) -> u32 {
        const MOST: u32 = 65_536;
        if number < least || number > MOST {
            self.wrong(key, format!("must be {least} to {MOST}"));
        }
        number.clamp(least, MOST)
    }

    pub(in crate::config) fn size(
        &mut self,
        key: &str,
        size: ByteSize,
        least: ByteSize,
        most: ByteSize,
    ) -> usize {
        if size < least || size > most {
            self.wrong(key, format!("must be {least} to {most}"));
        }
        usize::try_from(size.0).unwrap_or(usize::MAX)
    }

    pub(in crate::config) fn blocks(&mut self, key: &str, texts: &[String]) -> Vec<Cidr> {
        let mut blocks = Vec::with_capacity(texts.len());
        for text in texts {
            match text.parse() {
                Ok(block) => blocks.push(block),
                Err(error) => self.wrong(key, format!("{text:?}: {error}")),
            }
        }
        blocks
    }

    pub(super) fn public_urls(&mut self, key: &str, texts: &[String]) -> Vec<String> {
        let mut urls = Vec::with_capacity(texts.len());
        for text in texts {
            let url = text.trim_end_matches('/');
            let parsed: Option<http::Uri> = url.parse().ok();
            let good = parsed.is_some_and(|uri| {
                matches!(uri.scheme_str(), Some("http" | "https"))
                    && uri.authority().is_some_and(|a| !a.as_str().contains('@'))
                    && matches!(uri.path(), "" | "/")
                    && uri.query().is_none()
            });
            if good {
                urls.push(url.to_owned());
            } else {
                self.wrong(
                    key,
                    format!("{text:?}: expected a URL such as \"https://boxes.example.com\" without a path"),
                );
            }
        }
        urls
    }

    /// A secret that stands at `key`, or in the file of `<key>_file`; empty for none.
    pub(in crate::config) fn secret(&mut self, key: &str, text: &Secret, path: &str) -> String {
        if path.is_empty() {
            return text.expose().to_owned();
        }
        if !text.expose().is_empty() {
            self.wrong(key, format!("{key}_file is set too; set one of them"));
        }
        match std::fs::read_to_string(path) {
            Ok(text) => text.trim().to_owned(),
            Err(error) => {
                let why = format!("cannot read {path}: {error}");
                self.wrong(format!("{key}_file"), why);
                String::new()
            }
        }
    }
}
