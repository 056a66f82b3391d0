//! Interim answers (RFC 9110 §15.2) beside hyper, which cannot send any but its own 100.
//!
//! A handler leaves a message with [`Interim`]. On HTTP/3 the request's own task sends it (`quic.rs`). On
//! HTTP/1.1 what stands below hyper (`linger.rs`) writes it when hyper flushes, which is when nothing of hyper's own is half written: its 100 and an interim answer may follow
//! each other, never mix. Once the final answer is handed to hyper the place for messages is closed, so
//! that none comes behind it. There is room for one message of each kind, and a newer one takes the place
//! of one that was not sent: a client that does not read costs no memory.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use tokio::sync::Notify;

use super::linger::ConnState;

/// Where one request's interim answers go; on connections that can carry them.
#[derive(Clone)]
pub struct Interim {
    state: Arc<ConnState>,
    request: u64,
}

impl Interim {
    pub(super) fn of(state: &Arc<ConnState>) -> Self {
        Self {
            state: Arc::clone(state),
            request: state.interim().request,
        }
    }

    /// Sends a message that no later one replaces. Call it from the request's own task.
    pub fn send(&self, status: StatusCode, reason: &str, headers: &HeaderMap) {
        self.put(|places| &mut places.first, status, reason, headers);
    }

    /// Sends how far something is; only the newest message is worth sending.
    pub fn progress(&self, status: StatusCode, reason: &str, headers: &HeaderMap) {
        self.put(|places| &mut places.progress, status, reason, headers);
    }

    fn put(
        &self,
        place: fn(&mut Places) -> &mut Option<Message>,
        status: StatusCode,
        reason: &str,
        headers: &HeaderMap,
    ) {
        let mut places = self.state.interim();
        if places.request == self.request {
            *place(&mut places) = Some(Message {
                status,
                reason: reason.to_owned(),
                headers: headers.clone(),
            });
            drop(places);
            self.state.interims().left.notify_one();
        }
    }
}

impl fmt::Debug for Interim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interim")
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

/// What waits to be sent on one connection, or on one stream of HTTP/3.
#[derive(Debug, Default)]
pub(super) struct Interims {
    places: Mutex<Places>,
    left: Notify,
}

/// One interim answer.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) status: StatusCode,
    reason: String,
    pub(super) headers: HeaderMap,
}

/// One place of each kind, for the request in progress.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// Which request of the connection may leave messages.
    request: u64,
    first: Option<Message>,
    progress: Option<Message>,
}

impl Interims {
    pub(super) fn lock(&self) -> MutexGuard<'_, Places> {
        // Every change is one step.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next message, once there is one. Cancel safe.
    pub(super) async fn next(&self) -> Message {
        loop {
            if let Some(message) = self.lock().next() {
                return message;
            }
            self.left.notified().await;
        }
    }
}

impl Places {
    /// The next message to write.
    pub(super) fn next(&mut self) -> Option<Message> {
        self.first.take().or_else(|| self.progress.take())
    }

    /// The final answer is next: nothing of this request comes before it any more.
    pub(super) fn close(&mut self) {
        self.request += 1;
        self.first = None;
        self.progress = None;
    }
}

impl Message {
    /// A head without content (RFC 9112 §4).
    pub(super) fn written(&self) -> Bytes {
        let mut head = BytesMut::with_capacity(256);
        head.put_slice(format!("HTTP/1.1 {} {}\r\n", self.status.as_str(), self.reason).as_bytes());
        for (name, value) in &self.headers {
            head.put_slice(name.as_str().as_bytes());
            head.put_slice(b": ");
            head.put_slice(value.as_bytes());
            head.put_slice(b"\r\n");
        }
        head.put_slice(b"\r\n");
        head.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: StatusCode = StatusCode::EARLY_HINTS;

    fn headers(value: &'static str) -> HeaderMap {
        let value = http::HeaderValue::from_static(value);
        HeaderMap::from_iter([(http::header::LOCATION, value)])
    }

    #[test]
    fn progress_waits_behind_the_first_message_and_only_the_newest_is_sent() {
        let state = Arc::new(ConnState::default());
        let interim = Interim::of(&state);
        interim.progress(STATUS, "Hints", &headers("1"));
        interim.send(STATUS, "Hints", &headers("/a"));
        interim.progress(STATUS, "Hints", &headers("2"));
        let mut sent = Vec::new();
        while let Some(message) = state.interim().next() {
            sent.push(String::from_utf8(message.written().to_vec()).unwrap());
        }
        assert_eq!(
            sent,
            [
                "HTTP/1.1 103 Hints\r\nlocation: /a\r\n\r\n",
                "HTTP/1.1 103 Hints\r\nlocation: 2\r\n\r\n",
            ]
        );
    }

    #[test]
    fn nothing_of_a_request_comes_behind_its_answer() {
        let state = Arc::new(ConnState::default());
        let interim = Interim::of(&state);
        interim.send(STATUS, "Hints", &headers("/a"));
        state.interim().close();
        interim.progress(STATUS, "Hints", &headers("1"));
        assert!(state.interim().next().is_none());
        Interim::of(&state).send(STATUS, "Hints", &headers("/b"));
        assert!(state.interim().next().is_some());
    }
}
