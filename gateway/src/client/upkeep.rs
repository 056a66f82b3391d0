//! Upkeep of what a gateway stores, told by it line by line (`/api/admin/fsck`, `/api/admin/gc`).

use http::Method;

use super::{Client, ClientError};
use crate::upkeep::line::Line;

/// A line is a finding with three names; a longer one is not from a gateway.
const LONGEST_LINE: usize = 64 << 10;

/// What a gateway tells; dropping it ends the work there.
#[derive(Debug)]
pub struct Lines {
    client: Client,
    response: reqwest::Response,
    ahead: Vec<u8>,
}

impl Client {
    /// Begins work that is told line by line. `place` is a path with its query.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn lines(&self, method: Method, place: &str) -> Result<Lines, ClientError> {
        Ok(Lines {
            client: self.clone(),
            response: self.open(self.request(method, place)).await?,
            ahead: Vec::new(),
        })
    }
}

impl Lines {
    /// The next line.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] when the answer breaks or ends before its last line,
    /// [`ClientError::Odd`] for what is no line.
    pub async fn next(&mut self) -> Result<Line, ClientError> {
        loop {
            if let Some(end) = self.ahead.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.ahead.drain(..=end).collect();
                // Signs of life are empty.
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return serde_json::from_slice(&line).map_err(|e| self.client.odd(&e.to_string()));
            }
            if self.ahead.len() > LONGEST_LINE {
                return Err(self.client.odd("a line of its answer has no end"));
            }
            let chunk = self.response.chunk().await;
            let Some(chunk) = chunk.map_err(|e| self.client.broken(&e))? else {
                let why = "its answer ended before the outcome".to_owned();
                return Err(self.client.unreachable(why));
            };
            self.ahead.extend_from_slice(&chunk);
        }
    }
}
